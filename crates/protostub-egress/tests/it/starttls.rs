use protostub_egress::{EgressError, Grants, Phase, Protection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::fixture::{Authority, Names, connect, egress, listen, start_tls};

fn grants(port: u16) -> Grants {
    Grants::none().allow_loopback(true).allow_host("*.sp1.example", port, Protection::Plain).unwrap()
}

fn names() -> std::sync::Arc<Names> {
    Names::of([("mail.sp1.example", &["127.0.0.1"])])
}

#[tokio::test]
async fn starttls_upgrades_a_plain_connection() {
    let authority = Authority::new();
    let (listener, port) = listen().await;
    let acceptor = authority.server(&["mail.sp1.example"]);
    let server = tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        tcp.write_all(b"ready").await.unwrap();
        let mut request = [0; 8];
        tcp.read_exact(&mut request).await.unwrap();
        assert_eq!(&request, b"STARTTLS");
        let mut tls = acceptor.accept(tcp).await.unwrap();
        tls.write_all(b"secret").await.unwrap();
        tls.shutdown().await.unwrap();
    });
    let egress = egress(&names(), &[&authority]);
    let mut connection = connect(&egress, &grants(port), "mail.sp1.example", port, Protection::Plain, &[]).await.unwrap();
    let mut greeting = [0; 5];
    connection.read_exact(&mut greeting).await.unwrap();
    connection.write_all(b"STARTTLS").await.unwrap();

    let mut connection = start_tls(&egress, &grants(port), connection, "mail.sp1.example").await.unwrap();
    assert!(connection.is_tls());
    let mut text = String::new();
    connection.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "secret");
    server.await.unwrap();

    let error = start_tls(&egress, &grants(port), connection, "mail.sp1.example").await.unwrap_err();
    assert!(matches!(error, EgressError::Invalid { .. }), "{error}");
}

#[tokio::test]
async fn starttls_name_must_be_granted() {
    let (_listener, port) = listen().await;
    let egress = egress(&names(), &[]);
    let connection = connect(&egress, &grants(port), "mail.sp1.example", port, Protection::Plain, &[]).await.unwrap();
    let error = start_tls(&egress, &grants(port), connection, "mail.sp2.example").await.unwrap_err();
    assert!(error.is_refused() && error.to_string().contains("mail.sp2.example"), "{error}");
}

#[tokio::test]
async fn unread_plain_bytes_fail_starttls() {
    let authority = Authority::new();
    let (listener, port) = listen().await;
    let acceptor = authority.server(&["mail.sp1.example"]);
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        tcp.write_all(b"250 injected\r\n").await.unwrap();
        drop(acceptor.accept(tcp).await);
    });
    let egress = egress(&names(), &[&authority]);
    let connection = connect(&egress, &grants(port), "mail.sp1.example", port, Protection::Plain, &[]).await.unwrap();
    let error = start_tls(&egress, &grants(port), connection, "mail.sp1.example").await.unwrap_err();
    assert!(matches!(error, EgressError::Tls { .. }), "{error}");
}

#[tokio::test]
async fn silent_server_times_out() {
    let (_listener, port) = listen().await;
    let egress = egress(&names(), &[]);
    let connection = connect(&egress, &grants(port), "mail.sp1.example", port, Protection::Plain, &[]).await.unwrap();
    // From here on, time advances while all tasks are idle.
    tokio::time::pause();
    let error = start_tls(&egress, &grants(port), connection, "mail.sp1.example").await.unwrap_err();
    assert!(matches!(error, EgressError::TimedOut { phase: Phase::Handshaking, .. }), "{error}");
}
