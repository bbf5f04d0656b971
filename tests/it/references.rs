//! Tests of credentials by reference: a stub uses them and does not see them.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use axum::{
    Router,
    extract::WebSocketUpgrade,
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse as _, Response},
    routing::any,
};
use protostub_runtime::{Credential, CredentialKind, DomainSettings, Hyperty, Runtime, StaticCredentials};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{
    leaks::MARK,
    support::{TestRuntime, builder, domain, follow, soon},
};

const ALICE: &str = "hyperty://sp1.example/alice";

/// For each request, its path and the values of its `authorization` headers.
type Came = Vec<(String, Vec<String>)>;

/// A server on loopback that records its requests.
#[derive(Clone)]
struct Server {
    port: u16,
    got: Arc<Mutex<Came>>,
}

impl Server {
    /// Starts the server. `/echo` answers with the received header, `/ws` is a WebSocket, and
    /// `/away` redirects to `elsewhere`.
    async fn start(elsewhere: Option<&Self>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let server = Self { port: listener.local_addr().expect("an address").port(), got: Arc::default() };
        let (got, away) = (Arc::clone(&server.got), elsewhere.map(|other| other.http("/stolen")));
        let note = move |uri: &Uri, headers: &HeaderMap| {
            let values = headers.get_all(header::AUTHORIZATION).iter().map(|value| value.to_str().expect("a text").to_owned());
            let values: Vec<_> = values.collect();
            got.lock().expect("nobody panicked").push((uri.path().to_owned(), values.clone()));
            values.concat()
        };
        let plain = note.clone();
        let answer = move |uri: Uri, headers: HeaderMap| {
            let said = plain(&uri, &headers);
            let response = match (uri.path(), &away) {
                ("/echo", _) => said.into_response(),
                ("/away", Some(away)) => (StatusCode::FOUND, [(header::LOCATION, away.clone())]).into_response(),
                _ => StatusCode::NO_CONTENT.into_response(),
            };
            std::future::ready(response)
        };
        let upgrade = move |uri: Uri, headers: HeaderMap, upgrade: WebSocketUpgrade| {
            note(&uri, &headers);
            std::future::ready(upgrade.on_upgrade(async |mut socket| while let Some(Ok(_)) = socket.recv().await {}) as Response)
        };
        let router = Router::new().route("/ws", any(upgrade)).fallback(answer);
        tokio::spawn(async move { axum::serve(listener, router).await });
        server
    }

    fn http(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    fn websocket(&self, path: &str) -> String {
        format!("ws://127.0.0.1:{}{path}", self.port)
    }

    fn got(&self) -> Came {
        std::mem::take(&mut self.got.lock().expect("nobody panicked"))
    }
}

/// Returns one request with this header.
fn came(path: &str, authorization: &str) -> Came {
    vec![(path.to_owned(), vec![authorization.to_owned()])]
}

/// Starts a runtime whose stub may connect to all of these servers, with a credential for the first
/// one only.
async fn runtime(credential: Option<Credential>, servers: &[&Server], configuration: Value) -> (Runtime, Hyperty) {
    let mut settings = DomainSettings::default();
    let rule = |server: &&Server| format!("127.0.0.1:{}", server.port).parse().expect("a rule");
    settings.grants = servers.iter().map(rule).collect();
    settings.allow_loopback = true;
    settings.credential_origins =
        [servers[0].http(""), servers[0].websocket("")].iter().map(|origin| origin.parse().expect("an origin")).collect();
    let mut credentials = StaticCredentials::new();
    if let Some(credential) = credential {
        credentials = credentials.with(domain("sp1.example"), credential);
    }
    let builder = builder().credentials(credentials).domain(domain("sp1.example"), settings);
    TestRuntime::of_actors(builder, &["sp1.example"], &configuration).await.into_parts()
}

fn credential(kind: CredentialKind, value: String) -> Credential {
    Credential { kind, value, expires: None }
}

fn bearer() -> (Credential, String) {
    let value = format!("token-{MARK}");
    (credential(CredentialKind::Bearer, value.clone()), format!("Bearer {value}"))
}

/// Returns the stub's answer to an order.
async fn told(app: &Hyperty, what: Value) -> Result<Value, String> {
    follow(app, ALICE, what).await.map_err(|value| value.as_str().expect("a text").to_owned())
}

/// Repeats an order until its answer differs from `not_yet`.
async fn after(app: &Hyperty, what: Value, not_yet: Value) -> Result<Value, String> {
    loop {
        match told(app, what.clone()).await {
            Ok(value) if value == not_yet => {}
            outcome => return outcome,
        }
    }
}

/// Returns the result of an HTTP request of the stub with this header.
async fn get(app: &Hyperty, url: &str, authorization: Value) -> Result<Value, String> {
    let handle = told(app, json!({ "do": "http", "url": url, "headers": { "Authorization": authorization } })).await?;
    soon(after(app, json!({ "do": "http-state", "handle": handle }), json!("sending"))).await
}

#[tokio::test]
async fn host_replaces_a_credential_reference() {
    let server = Server::start(None).await;
    let (secret, value) = bearer();
    let (_runtime, app) = runtime(Some(secret), &[&server], json!({})).await;
    assert_eq!(get(&app, &server.http("/a?b"), json!("{credential}")).await, Ok(json!({ "status": 204 })));
    assert_eq!(server.got(), came("/a", &value));
    // The reference works in the handshake of a WebSocket too.
    let open = json!({ "do": "websocket", "url": server.websocket("/ws"), "headers": { "authorization": "{credential}" } });
    let handle = told(&app, open).await.expect("a handle");
    let state = soon(after(&app, json!({ "do": "websocket-state", "handle": handle }), json!("connecting"))).await;
    assert_eq!((state, server.got()), (Ok(json!({ "open": 101 })), came("/ws", &value)));
    // The stub itself has never seen the credential, and no call gives it to the stub.
    assert_eq!(told(&app, json!({ "do": "credential" })).await, Ok(Value::Null));
    let error = told(&app, json!({ "do": "ask" })).await.expect_err("denied");
    assert!(error.contains("by reference only"), "{error}");

    let basic = credential(CredentialKind::Basic, format!("alice:{MARK}"));
    let (_runtime, app) = runtime(Some(basic), &[&server], json!({})).await;
    get(&app, &server.http("/a"), json!("{credential}")).await.expect("an answer");
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    assert_eq!(server.got(), came("/a", &format!("Basic {}", BASE64_STANDARD.encode(format!("alice:{MARK}")))));
}

#[tokio::test]
async fn credential_by_reference_is_limited_to_its_origins() {
    let other = Server::start(None).await;
    let server = Server::start(Some(&other)).await;
    let (secret, value) = bearer();
    let (_runtime, app) = runtime(Some(secret), &[&server, &other], json!({})).await;
    // The stub may connect to another port, another name of the same machine, or with another
    // scheme. The credential is not sent there.
    for url in [other.http("/"), format!("http://localhost:{}/", server.port), format!("https://127.0.0.1:{}/", server.port)] {
        let error = get(&app, &url, json!("{credential}")).await.expect_err("denied");
        assert!(error.contains("credential-origins") || error.contains("no rule"), "{url}: {error}");
    }
    let open = json!({ "do": "websocket", "url": other.websocket("/ws"), "headers": { "authorization": "{credential}" } });
    let error = told(&app, open).await.expect_err("denied");
    assert!(error.contains("credential-origins"), "{error}");
    // The credential does not follow a redirect.
    assert_eq!(get(&app, &server.http("/away"), json!("{credential}")).await, Ok(json!({ "status": 302 })));
    assert_eq!((server.got(), other.got()), (came("/away", &value), vec![]));
}

#[tokio::test]
async fn stub_header_cannot_accompany_a_credential_reference() {
    let server = Server::start(None).await;
    let (_runtime, app) = runtime(Some(bearer().0), &[&server], json!({})).await;
    for (authorization, expected) in [
        (json!(["{credential}", "Bearer mine"]), "twice"),
        (json!(["Bearer mine", "{credential}"]), "twice"),
        (json!(["{credential}", "{credential}"]), "twice"),
        (json!("{credential"), "a reference to the credential is"),
        (json!("{credentials}"), "a reference to the credential is"),
    ] {
        let error = get(&app, &server.http("/"), authorization).await.expect_err("invalid");
        assert!(error.contains(expected), "{error}");
    }
    assert_eq!(server.got(), []);
    // The stub may send a header of its own.
    get(&app, &server.http("/own"), json!("Bearer mine")).await.expect("an answer");
    assert_eq!(server.got(), came("/own", "Bearer mine"));
    // In another header a reference is plain text.
    let send = json!({ "do": "http", "url": server.http("/x"), "headers": { "x-token": "{credential}" } });
    let handle = told(&app, send).await.expect("a handle");
    soon(after(&app, json!({ "do": "http-state", "handle": handle }), json!("sending"))).await.expect("an answer");
    assert_eq!(server.got(), [("/x".to_owned(), vec![])]);
}

#[tokio::test]
async fn reference_without_a_usable_credential_sends_no_request() {
    let server = Server::start(None).await;
    let mut expired = bearer().0;
    expired.expires = Some(SystemTime::now() - Duration::from_secs(1));
    let assertion = credential(CredentialKind::Assertion, format!("jwt-{MARK}"));
    for credential in [None, Some(assertion)] {
        let (_runtime, app) = runtime(credential, &[&server], json!({})).await;
        let error = get(&app, &server.http("/"), json!("{credential}")).await.expect_err("it was not sent");
        assert!(error.contains("was not sent") && !error.contains(MARK), "{error}");
    }
    let (runtime, _app) = runtime(Some(expired), &[&server], json!({})).await;
    runtime.deploy_protostub("sp1.example").await.expect_err("what has run out is not used");
    assert_eq!(server.got(), []);
}

/// A server that colludes with the stub can reveal the credential to the stub. Texts for people are
/// redacted even then.
#[tokio::test]
async fn credential_echoed_by_a_server_is_redacted_in_statuses() {
    let server = Server::start(None).await;
    let (secret, value) = bearer();
    let (runtime, app) = runtime(Some(secret), &[&server], json!({})).await;
    let send = json!({ "do": "http", "url": server.http("/echo"), "headers": { "authorization": "{credential}" } });
    let handle = told(&app, send).await.expect("a handle");
    soon(after(&app, json!({ "do": "http-state", "handle": handle }), json!("sending"))).await.expect("an answer");
    let said = soon(after(&app, json!({ "do": "http-body", "handle": handle }), json!(""))).await;
    assert_eq!(said, Ok(json!(value)));
    told(&app, json!({ "do": "publish", "status": "disconnected", "reason": value })).await.expect("published");
    let stub = &runtime.protostubs()[0];
    let report = soon(stub.watch().until(|report| report.reason.is_some())).await;
    assert_eq!(report.reason.as_deref(), Some("Bearer [secret]"));
}
