use std::sync::{Arc, Mutex};

use protostub_egress::{Egress, EgressConfig, EgressError, Grants, Protection, reqwest::Url};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

use crate::fixture::{Authority, Names, closed_port, config, connect, http, listen, sp1};

/// The behaviour of a proxy.
#[derive(Clone, Copy)]
enum Behaviour {
    /// Opens every tunnel to this port on this host.
    Tunnel(u16),
    /// Answers with this text.
    Answer(&'static str),
}

/// A proxy that records the heads of its requests.
struct Proxy {
    port: u16,
    heads: Arc<Mutex<Vec<Vec<String>>>>,
}

impl Proxy {
    async fn start(behaviour: Behaviour) -> Self {
        let (listener, port) = listen().await;
        let heads = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&heads);
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let record = Arc::clone(&record);
                tokio::spawn(async move {
                    let mut client = BufReader::new(tcp);
                    let mut head = Vec::new();
                    loop {
                        let mut line = String::new();
                        client.read_line(&mut line).await.unwrap();
                        if line.trim().is_empty() {
                            break;
                        }
                        head.push(line.trim().to_owned());
                    }
                    record.lock().unwrap().push(head);
                    match behaviour {
                        Behaviour::Answer(text) => client.write_all(text.as_bytes()).await.unwrap(),
                        Behaviour::Tunnel(port) => {
                            let mut server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                            client.write_all(b"HTTP/1.1 200 Connection established\r\nServer: x\r\n\r\n").await.unwrap();
                            // Copying ends with an error if the other side has closed its
                            // connection.
                            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                        }
                    }
                });
            }
        });
        Self { port, heads }
    }

    fn url(&self) -> String {
        format!("http://proxy.internal:{}", self.port)
    }

    fn heads(&self) -> Vec<Vec<String>> {
        self.heads.lock().unwrap().clone()
    }
}

fn through(proxy: &str, roots: &[&Authority]) -> EgressConfig {
    // The resolver knows only the proxy, and gives it a loopback address.
    let names = Names::of([("proxy.internal", &["127.0.0.1"])]);
    config(&names, roots).with_proxy(proxy.parse().unwrap())
}

/// A request as bytes.
const ASK: &[u8] = b"GET / HTTP/1.1\r\n\r\n";

/// Starts an HTTP server that answers with a greeting over TLS.
async fn greeter(authority: &Authority) -> u16 {
    let (listener, port) = listen().await;
    let acceptor = authority.server(&["mqtt.sp1.example"]);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let mut tls = acceptor.accept(tcp).await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                match tls.read_u8().await {
                    Ok(byte) => request.push(byte),
                    Err(_) => break,
                }
            }
            // The write fails if the client has closed the connection without a request.
            let _ = tls.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await;
            let _ = tls.shutdown().await;
        }
    });
    port
}

#[tokio::test]
async fn tunnel_is_requested_by_name() {
    let authority = Authority::new();
    let proxy = Proxy::start(Behaviour::Tunnel(greeter(&authority).await)).await;
    let egress = Egress::new(through(&proxy.url(), &[&authority])).unwrap();

    let mut connection = connect(&egress, &sp1(443), "mqtt.sp1.example", 8883, Protection::Tls, &[b"mqtt"]).await.unwrap();
    assert_eq!(connection.alpn_protocol(), Some(&b"mqtt"[..]));
    connection.write_all(ASK).await.unwrap();
    let mut text = String::new();
    connection.read_to_string(&mut text).await.unwrap();
    assert!(text.ends_with("hello"));
    assert_eq!(proxy.heads(), [["CONNECT mqtt.sp1.example:8883 HTTP/1.1", "Host: mqtt.sp1.example:8883"]]);
}

#[tokio::test]
async fn https_goes_through_the_proxy() {
    let authority = Authority::new();
    let proxy = Proxy::start(Behaviour::Tunnel(greeter(&authority).await)).await;
    let url = format!("http://me:p%40ss@proxy.internal:{}", proxy.port);
    let client = http(&Egress::new(through(&url, &[&authority])).unwrap(), &sp1(443));
    let response = client.get(&"https://mqtt.sp1.example/x".parse().unwrap(), 0).await.unwrap();
    assert_eq!(response.text().await.unwrap(), "hello");
    let heads = proxy.heads();
    assert_eq!(heads[0][0], "CONNECT mqtt.sp1.example:443 HTTP/1.1");
    assert!(heads[0].iter().any(|line| line.eq_ignore_ascii_case("proxy-authorization: Basic bWU6cEBzcw==")), "{heads:?}");
}

#[tokio::test]
async fn plain_http_request_goes_to_the_proxy() {
    let proxy = Proxy::start(Behaviour::Answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")).await;
    let grants = Grants::none().allow_host("sp1.example", 80, Protection::Plain).unwrap();
    let client = http(&Egress::new(through(&proxy.url(), &[])).unwrap(), &grants);
    let response = client.get(&"http://sp1.example/x".parse().unwrap(), 0).await.unwrap();
    assert_eq!(response.text().await.unwrap(), "ok");
    assert_eq!(proxy.heads()[0][0], "GET http://sp1.example/x HTTP/1.1");
}

#[tokio::test]
async fn proxy_gets_no_request_without_grant() {
    let proxy = Proxy::start(Behaviour::Answer("HTTP/1.1 200 OK\r\n\r\n")).await;
    let egress = Egress::new(through(&proxy.url(), &[])).unwrap();
    let grants =
        sp1(443).allow_host("10.0.0.1", 443, Protection::Tls).unwrap().allow_host("localhost", 443, Protection::Tls).unwrap();
    let client = http(&egress, &grants);
    for host in ["sp2.example", "10.0.0.1", "localhost", "proxy.internal"] {
        assert!(connect(&egress, &grants, host, 443, Protection::Tls, &[]).await.unwrap_err().is_refused(), "{host}");
        let url: Url = format!("https://{host}/").parse().unwrap();
        assert!(client.get(&url, 0).await.unwrap_err().is_refused(), "{host}");
    }
    assert!(proxy.heads().is_empty());
}

#[tokio::test]
async fn loopback_bypasses_the_proxy() {
    let proxy = Proxy::start(Behaviour::Answer("HTTP/1.1 500 No\r\n\r\n")).await;
    let direct = Proxy::start(Behaviour::Answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")).await;
    let egress = Egress::new(through(&proxy.url(), &[])).unwrap();
    let grants = Grants::none().allow_loopback(true).allow_host("sp1.localhost", direct.port, Protection::Plain).unwrap();
    let connection = connect(&egress, &grants, "sp1.localhost", direct.port, Protection::Plain, &[]).await.unwrap();
    assert_eq!(connection.peer_address().unwrap().port(), direct.port);
    let url = format!("http://sp1.localhost:{}/x", direct.port).parse().unwrap();
    assert_eq!(http(&egress, &grants).get(&url, 0).await.unwrap().text().await.unwrap(), "ok");
    assert!(proxy.heads().is_empty());
}

#[tokio::test]
async fn error_quotes_proxy_without_tunnel() {
    let check = async |answer: &'static str, expected: &str| {
        let proxy = Proxy::start(Behaviour::Answer(answer)).await;
        let url = format!("http://me:secret@proxy.internal:{}", proxy.port);
        let egress = Egress::new(through(&url, &[])).unwrap();
        let error = connect(&egress, &sp1(443), "sp1.example", 443, Protection::Tls, &[]).await.unwrap_err();
        assert!(matches!(error, EgressError::Proxy { .. }), "{error:?}");
        let start = format!("failed to reach `sp1.example:443` through the proxy http://proxy.internal:{}: ", proxy.port);
        assert_eq!(error.to_string().strip_prefix(&start), Some(expected), "{error}");
        assert!(!format!("{egress:?}").contains("secret"));
    };
    check("HTTP/1.1 403 Forbidden\r\n\r\n", "the proxy answered `HTTP/1.1 403 Forbidden` to CONNECT").await;
    check("HTTP/1.0 407 \x1b[31mWho?\r\n\r\n", "the proxy answered `HTTP/1.0 407 \\u{1b}[31mWho?` to CONNECT").await;
    check("SSH-2.0-x\r\n\r\n", "the proxy's answer to CONNECT is not HTTP: `SSH-2.0-x`").await;
    check("HTTP/1.1 20\r\n\r\n", "the proxy's answer to CONNECT is not HTTP: `HTTP/1.1 20`").await;
    check("HTTP/1.1 200 OK\r\n", "the proxy sent no complete answer to CONNECT: unexpected end of file").await;
    let long: &'static str = Box::leak(format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(20_000)).into_boxed_str());
    check(long, "the proxy's answer to CONNECT is longer than 16384 bytes").await;
}

#[tokio::test]
async fn proxy_on_loopback_works() {
    let authority = Authority::new();
    let proxy = Proxy::start(Behaviour::Tunnel(greeter(&authority).await)).await;
    for host in ["localhost", "127.0.0.1"] {
        let egress = Egress::new(through(&format!("http://{host}:{}", proxy.port), &[&authority])).unwrap();
        connect(&egress, &sp1(443), "mqtt.sp1.example", 443, Protection::Tls, &[]).await.unwrap();
        let client = http(&egress, &sp1(443));
        let response = client.get(&"https://mqtt.sp1.example/x".parse().unwrap(), 0).await.unwrap();
        assert_eq!(response.text().await.unwrap(), "hello");
        // The proxy's address gets no grant through its use as a proxy.
        let to_proxy = sp1(443).allow_host(host, proxy.port, Protection::Plain).unwrap();
        let url: Url = format!("http://{host}:{}/", proxy.port).parse().unwrap();
        assert!(connect(&egress, &to_proxy, host, proxy.port, Protection::Plain, &[]).await.unwrap_err().is_refused());
        assert!(http(&egress, &to_proxy).get(&url, 0).await.unwrap_err().is_refused());
    }
}

#[tokio::test]
async fn unreachable_proxy_is_named_in_the_error() {
    let port = closed_port().await;
    let egress = Egress::new(through(&format!("http://proxy.internal:{port}"), &[])).unwrap();
    let error = connect(&egress, &sp1(443), "sp1.example", 443, Protection::Tls, &[]).await.unwrap_err().to_string();
    let expected = format!(
        "failed to reach `sp1.example:443` through the proxy http://proxy.internal:{port}: failed to connect to `proxy.internal:{port}`: \
         127.0.0.1:{port}: "
    );
    assert!(error.starts_with(&expected), "{error}");
    let explanation = egress.explain(&sp1(443), "sp1.example", 443, Protection::Tls).await.to_string();
    let remark = format!("\n  the proxy http://proxy.internal:{port} resolves the name, and has to judge its addresses");
    assert!(explanation.ends_with(&remark), "{explanation}");
}

#[tokio::test]
async fn proxy_over_tls_carries_tls() {
    let authority = Authority::new();
    let inner = Proxy::start(Behaviour::Tunnel(greeter(&authority).await)).await;
    // A TLS server in front of the proxy.
    let (listener, port) = listen().await;
    let acceptor = authority.server(&["proxy.internal"]);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let mut tls = acceptor.accept(tcp).await.unwrap();
            let mut proxy = TcpStream::connect(("127.0.0.1", inner.port)).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut tls, &mut proxy).await });
        }
    });
    let egress = Egress::new(through(&format!("https://proxy.internal:{port}"), &[&authority])).unwrap();
    let mut connection = connect(&egress, &sp1(443), "mqtt.sp1.example", 8883, Protection::Tls, &[]).await.unwrap();
    connection.write_all(ASK).await.unwrap();
    let mut text = String::new();
    connection.read_to_string(&mut text).await.unwrap();
    assert!(text.ends_with("hello"));
    let client = http(&egress, &sp1(443));
    let response = client.get(&"https://mqtt.sp1.example/x".parse().unwrap(), 0).await.unwrap();
    assert_eq!(response.text().await.unwrap(), "hello");
}

#[test]
fn invalid_proxy_url_is_refused() {
    let check = |url: &str, expected: &str| {
        let error = Egress::new(through(url, &[])).unwrap_err().to_string();
        assert_eq!(error, format!("the egress configuration is invalid: {expected}"));
    };
    check("socks5://me:secret@proxy.internal:1080", "the proxy `socks5://proxy.internal:1080` is neither http nor https");
    check("http://proxy.internal/path", "the proxy `http://proxy.internal` must not have a path, a query or a fragment");
}
