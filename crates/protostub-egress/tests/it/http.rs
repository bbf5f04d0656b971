use std::sync::Arc;

use axum::{Router, extract::RawQuery, http::HeaderMap, response::IntoResponse, routing::get};
use protostub_egress::{
    Egress, EgressError, Grants, HttpClient, Missing, Protection, request_headers,
    reqwest::{Method, StatusCode, Url},
};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::fixture::{Authority, Names, Tls, config, egress, http, listen, sp1, sp1_here};

/// Greets, lists the headers of requests, and redirects to the URL in the query.
fn router() -> Router {
    let redirect = |RawQuery(to): RawQuery| async move { (StatusCode::FOUND, [("location", to.unwrap_or_default())]) };
    let show = |headers: HeaderMap| async move {
        let lines = headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap_or("?")));
        lines.collect::<Vec<_>>().join("\n").into_response()
    };
    Router::new()
        .route("/hello", get(|| async { "hello" }))
        .route("/show", get(show))
        .route("/redirect", get(redirect))
        .route("/nowhere", get(|| async { StatusCode::FOUND }))
        .route("/strange", get(|| async { (StatusCode::FOUND, [("location", "https://[")]) }))
}

async fn https(authority: &Authority, names: &[&str]) -> u16 {
    let (listener, port) = listen().await;
    let acceptor = authority.server(names);
    tokio::spawn(axum::serve(Tls { listener, acceptor }, router()).into_future());
    port
}

async fn plain() -> u16 {
    let (listener, port) = listen().await;
    tokio::spawn(axum::serve(listener, router()).into_future());
    port
}

fn url(text: &str) -> Url {
    text.parse().unwrap()
}

async fn fails(client: &HttpClient, to: &str) -> EgressError {
    client.get(&url(to), 3).await.unwrap_err()
}

/// Creates a client of `sp1.example` on this host, with its port and resolver.
async fn client() -> (HttpClient, u16, Arc<Names>) {
    let authority = Authority::new();
    let port = https(&authority, &["sp1.example", "*.sp1.example"]).await;
    let names = Names::of([
        ("sp1.example", &["127.0.0.1"]),
        ("other.sp1.example", &["127.0.0.1"]),
        ("private.sp1.example", &["10.0.0.1"]),
        ("metadata.sp1.example", &["::ffff:169.254.169.254"]),
    ]);
    let client = http(&egress(&names, &[&authority]), &sp1_here(port));
    (client, port, names)
}

#[tokio::test]
async fn granted_url_is_fetched() {
    let (client, port, _) = client().await;
    let response = client.get(&url(&format!("https://sp1.example:{port}/hello")), 0).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.text().await.unwrap(), "hello");
}

#[tokio::test]
async fn request_has_only_expected_headers() {
    let (client, port, _) = client().await;
    let headers = request_headers(&[("X-One".into(), "1".into()), ("x-one".into(), "2".into())]).unwrap();
    let to = url(&format!("https://sp1.example:{port}/show"));
    let text = client.send(Method::GET, &to, headers, "").await.unwrap().text().await.unwrap();
    assert_eq!(
        text,
        format!("x-one: 1\nx-one: 2\naccept: */*\nuser-agent: protostub/{}\nhost: sp1.example:{port}", env!("CARGO_PKG_VERSION"))
    );
}

#[tokio::test]
async fn name_and_port_are_checked_before_sending() {
    let (client, port, names) = client().await;
    let check = async |to: String, expected: &str| {
        let error = client.send(Method::POST, &url(&to), HeaderMap::new(), "").await.unwrap_err();
        assert!(error.to_string().contains(expected), "{to}: {error}");
    };
    check(format!("https://sp2.example:{port}/"), "no rule names this host").await;
    check("https://sp1.example:22/".into(), "names this host on other ports").await;
    check(format!("http://sp1.example:{port}/"), "asks for TLS").await;
    check("https://169.254.169.254/".into(), "no rule names this host").await;
    check(
        "https://user:secret@sp1.example/".into(),
        "`https://sp1.example/` is invalid: a user or password in a URL is not sent",
    )
    .await;
    check("ftp://sp1.example/".into(), "neither https nor http").await;
    check("data:,x".into(), "neither https nor http").await;
    assert_eq!(names.asked(), 0);
}

#[tokio::test]
async fn url_address_is_judged_in_every_spelling() {
    let names = Names::of([]);
    let mut grants = Grants::none();
    for address in ["169.254.169.254", "127.0.0.1", "10.0.0.1", "::1", "fd00:ec2::254", "0.0.0.0"] {
        grants = grants.allow_host(address, 80, Protection::Plain).unwrap();
    }
    let client = http(&egress(&names, &[]), &grants);
    for host in
        ["169.254.169.254", "127.0.0.1", "10.0.0.1", "[::1]", "[fd00:ec2::254]", "[::ffff:10.0.0.1]", "2130706433", "0x7f.1", "0"]
    {
        let error = fails(&client, &format!("http://{host}/")).await;
        let EgressError::Refused(refused) = &error else { panic!("{host}: {error}") };
        assert!(!matches!(refused.missing(), Missing::Rule(_)), "{host}: {error}");
    }
}

#[tokio::test]
async fn resolved_addresses_are_judged() {
    let (client, port, _) = client().await;
    assert_eq!(
        fails(&client, &format!("https://private.sp1.example:{port}/")).await.to_string(),
        format!(
            "`private.sp1.example:{port}` is refused: its address 10.0.0.1 is private, RFC 1918; grant private networks (`allow-private` for the domain) to allow it"
        )
    );
    let error = fails(&client, &format!("https://metadata.sp1.example:{port}/")).await;
    assert!(error.is_refused() && error.to_string().contains("metadata service"), "{error}");
    let error = fails(&client, &format!("https://unknown.sp1.example:{port}/")).await;
    assert_eq!(error.to_string(), "there is no host `unknown.sp1.example`: no such name");
}

#[tokio::test]
async fn judged_address_is_the_dialled_address() {
    let (client, port, names) = client().await;
    names.then("sp1.example", &["169.254.169.254"]);
    let to = url(&format!("https://sp1.example:{port}/hello"));
    let response = client.get(&to, 0).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(names.asked(), 1);

    // A new client has no connection yet, so it resolves the name again.
    names.then("sp1.example", &["169.254.169.254"]);
    let error = client_again(&names, port).get(&to, 0).await.unwrap_err();
    assert!(error.is_refused() && error.to_string().contains("169.254.169.254"), "{error}");
}

fn client_again(names: &Arc<Names>, port: u16) -> HttpClient {
    http(&egress(names, &[]), &sp1(port))
}

#[tokio::test]
async fn redirects_are_followed_within_the_grants() {
    let (client, port, _) = client().await;
    let base = format!("https://sp1.example:{port}");
    let response = client.get(&url(&format!("{base}/redirect?/hello")), 3).await.unwrap();
    assert_eq!(response.url().path(), "/hello");
    let response =
        client.get(&url(&format!("{base}/redirect?https://other.sp1.example:{port}/redirect?/hello")), 3).await.unwrap();
    assert_eq!(response.url().as_str(), format!("https://other.sp1.example:{port}/hello"));
    assert_eq!(response.text().await.unwrap(), "hello");
    // A redirect without a location is returned as it is.
    let response = client.get(&url(&format!("{base}/nowhere")), 3).await.unwrap();
    assert_eq!(response.status(), StatusCode::FOUND);
}

#[tokio::test]
async fn redirects_outside_the_grants_fail() {
    let (client, port, _) = client().await;
    let check = async |to: &str, expected: &str| {
        let error = fails(&client, &format!("https://sp1.example:{port}/redirect?{to}")).await;
        assert!(error.to_string().contains(expected), "{to}: {error}");
        assert!(!error.is_retryable(), "{error}");
    };
    check("https://sp2.example/", "grant `sp2.example:443` to allow it").await;
    check("https://10.0.0.1/", "no rule names this host").await;
    check(&format!("https://private.sp1.example:{port}/"), "grant private networks").await;
    check("https://metadata.sp1.example/", "no grant allows it").await;
    check(
        &format!("http://sp1.example:{port}/?secret"),
        &format!(
            "failed to follow the redirect from `https://sp1.example:{port}/redirect`: the redirect leads from https to `http://sp1.example:{port}/`"
        ),
    )
    .await;
    check("file:///etc/passwd", "the redirect leads from https to `file:///etc/passwd`").await;
    check("https://user:secret@sp1.example/", "is invalid: a user or password").await;
    let error = fails(&client, &format!("https://sp1.example:{port}/strange")).await;
    assert!(error.to_string().ends_with("the `location` header is not a URL"), "{error}");
}

#[tokio::test]
async fn redirects_are_limited() {
    let (client, port, _) = client().await;
    let to = |n: usize| url(&format!("https://sp1.example:{port}/{}hello", "redirect?/".repeat(n)));
    assert_eq!(client.get(&to(3), 3).await.unwrap().status(), StatusCode::OK);
    let error = client.get(&to(4), 3).await.unwrap_err();
    assert!(matches!(error, EgressError::Redirect { .. }), "{error:?}");
    assert!(error.to_string().ends_with(": 3 redirects were followed already"), "{error}");
    assert!(client.get(&to(1), 0).await.is_err());
}

#[tokio::test]
async fn plain_http_needs_a_grant() {
    let port = plain().await;
    let names = Names::of([("sp1.example", &["127.0.0.1"])]);
    let here = Grants::none().allow_loopback(true);
    let client = |grants: Grants| http(&egress(&names, &[]), &grants);
    let text = async |client: HttpClient, to: String| client.get(&url(&to), 1).await.unwrap().text().await.unwrap();

    let granted = client(here.clone().allow_host("sp1.example", port, Protection::Plain).unwrap());
    assert_eq!(text(granted, format!("http://sp1.example:{port}/redirect?/hello")).await, "hello");
    let loopback = client(here.allow_host("*.localhost", port, Protection::Tls).unwrap());
    assert_eq!(text(loopback, format!("http://sp1.localhost:{port}/hello")).await, "hello");
}

#[tokio::test]
async fn certificates_are_verified() {
    let authority = Authority::new();
    let port = https(&authority, &["sp2.example"]).await;
    let names = Names::of([("sp1.example", &["127.0.0.1"])]);
    let check = async |roots: &[&Authority], expected: &str| {
        let client = http(&egress(&names, roots), &sp1_here(port));
        let error = fails(&client, &format!("https://sp1.example:{port}/hello?secret")).await;
        let text = error.to_string();
        assert!(text.starts_with(&format!("failed to establish TLS with `sp1.example:{port}`: ")), "{text}");
        assert!(text.contains(expected) && !text.contains("secret"), "{text}");
    };
    check(&[&authority], "not valid for name \"sp1.example\"").await;
    check(&[], "add its root to `trust-roots`").await;
}

#[tokio::test]
async fn silent_server_times_out() {
    let (_listener, port) = listen().await;
    let names = Names::of([("sp1.example", &["127.0.0.1"])]);
    let mut config = config(&names, &[]);
    config.read_timeout = std::time::Duration::from_millis(20);
    let grants = Grants::none().allow_loopback(true).allow_host("sp1.example", port, Protection::Plain).unwrap();
    let client = http(&Egress::new(config).unwrap(), &grants);
    let error = fails(&client, &format!("http://sp1.example:{port}/")).await;
    assert!(matches!(error, EgressError::Http { timed_out: true, .. }), "{error:?}");
    assert!(error.is_retryable());
}

#[test]
fn connection_headers_are_reserved_for_the_host() {
    let check = |name: &str, value: &str, expected: &str| {
        let error = request_headers(&[(name.into(), value.into())]).unwrap_err().to_string();
        assert_eq!(error, format!("`{name}` is invalid: {expected}"));
    };
    for name in [
        "Host",
        "content-length",
        "Transfer-Encoding",
        "connection",
        "Proxy-Authorization",
        "x-forwarded-for",
        "te",
        "Upgrade",
        "Keep-Alive",
        "forwarded",
        "Via",
        "Proxy-Features",
        "X-Forwarded-Port",
    ] {
        check(name, "x", "this header is set by the host alone");
    }
    check("a b", "x", "a header cannot have this name");
    check("", "x", "a header cannot have this name");
    check("x-one", "a\r\nhost: b", "the value of this header has invalid characters");
    let headers = request_headers(&[("Authorization".into(), "Bearer x".into())]).unwrap();
    assert_eq!(headers["authorization"], "Bearer x");
}

/// Sends the same bytes to each client after the client's first request.
async fn answers(bytes: Vec<u8>) -> u16 {
    let (listener, port) = listen().await;
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let _ = tcp.read(&mut request).await;
            let _ = tcp.write_all(&bytes).await;
        }
    });
    port
}

#[tokio::test]
async fn endless_informational_responses_are_refused() {
    let names = Names::of([("sp1.example", &["127.0.0.1"])]);
    let grants = |port| Grants::none().allow_loopback(true).allow_host("sp1.example", port, Protection::Plain).unwrap();
    let check = async |bytes: Vec<u8>, expected: Result<&str, &str>| {
        let port = answers(bytes).await;
        let answer = http(&egress(&names, &[]), &grants(port)).get(&url(&format!("http://sp1.example:{port}/a")), 0).await;
        let text = match answer {
            Ok(response) => Ok(response.text().await.unwrap()),
            Err(error) => Err(error.to_string()),
        };
        let fail = |problem| format!("failed to exchange HTTP with `http://sp1.example:{port}/a`: {problem}");
        assert_eq!(text, expected.map(str::to_owned).map_err(fail));
    };
    let ok = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let early = |count| [b"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(count), ok.to_vec()].concat();
    check(early(8), Ok("ok")).await;
    let too_many = "the server sent more informational responses (1xx) than the limit of 8";
    check(early(9), Err(too_many)).await;
    check(early(100_000), Err(too_many)).await;
    let head = [b"HTTP/1.1 200 OK\r\nx: ".to_vec(), vec![b'x'; 1 << 20]].concat();
    check(head, Err("the head of the response is over the limit of 73728 bytes or 256 fields")).await;
}

#[tokio::test]
async fn idle_connection_is_reused() {
    let names = Names::of([("sp1.example", &["127.0.0.1"])]);
    let (listener, port) = listen().await;
    let accepted = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = Arc::clone(&accepted);
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            tokio::spawn(async move {
                let mut request = [0; 1024];
                while tcp.read(&mut request).await.is_ok_and(|read| read > 0) {
                    tcp.write_all(b"HTTP/1.1 302 Found\r\nlocation: /a\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                }
            });
        }
    });
    let grants = Grants::none().allow_loopback(true).allow_host("sp1.example", port, Protection::Plain).unwrap();
    let client = http(&egress(&names, &[]), &grants);
    client.get(&url(&format!("http://sp1.example:{port}/")), 5).await.unwrap_err();
    assert_eq!(accepted.load(std::sync::atomic::Ordering::Relaxed), 1, "six requests over one connection");
}
