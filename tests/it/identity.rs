//! Tests of the Identity Module: providers, logins, and secrets that never appear in output.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use protostub_runtime::{
    BuildError, Credential, CredentialKind, DomainSettings, EnvironmentCredentials, FileCredentials, Hyperty, Message,
    MessageType, OAuth2Client, OAuth2Credentials, Resolver, RestartPolicy, Runtime, RuntimeBuilder, Secret, StaticCredentials,
    StatusForm,
};
use serde_json::{Value, json};

use crate::{
    leaks::{self, MARK},
    steps,
    support::{TestRuntime, body, builder, domain, follow, ok, order, serve, soon},
    token_server::TokenServer,
};

/// A name service that resolves every name to this machine.
#[derive(Debug)]
struct Here;

#[async_trait]
impl Resolver for Here {
    async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        Ok(vec![Ipv4Addr::LOCALHOST.into()])
    }
}

pub(crate) const ALICE: &str = "hyperty://sp1.example/alice";

pub(crate) fn credential(kind: CredentialKind, value: &str, expires: Option<SystemTime>) -> Credential {
    Credential { kind, value: value.to_owned(), expires }
}

pub(crate) fn bearer(value: &str) -> Credential {
    credential(CredentialKind::Bearer, value, None)
}

pub(crate) async fn runtime(builder: RuntimeBuilder, configuration: Value) -> (Runtime, Hyperty) {
    TestRuntime::of_actors(builder, &["sp1.example", "sp2.example"], &configuration).await.into_parts()
}

/// Returns the credential that the stub connected with.
pub(crate) async fn connected_with(app: &Hyperty) -> Value {
    follow(app, ALICE, json!({ "do": "credential" })).await.expect("an answer")
}

/// Returns the answer to a stub's request for a credential.
pub(crate) async fn asked(app: &Hyperty, scope: Option<&str>) -> Result<Value, Value> {
    let handle = follow(app, ALICE, json!({ "do": "ask", "scope": scope })).await.expect("a handle");
    loop {
        match follow(app, ALICE, json!({ "do": "take", "handle": handle })).await {
            Err(busy) if busy == "busy" => {}
            answer => return answer,
        }
    }
}

/// Returns an `execute` message to the Identity Module.
pub(crate) fn execute(runtime: &Runtime, body: Value) -> Message {
    let address = runtime.url().join("identity").expect("an address");
    Message::new(MessageType::Execute, address).with_body(body)
}

/// Returns a message that requests a login.
pub(crate) fn login(runtime: &Runtime, params: Value) -> Message {
    execute(runtime, json!({ "method": "login", "params": params }))
}

fn oauth2(client: OAuth2Client) -> OAuth2Credentials {
    OAuth2Credentials::new().with(domain("sp1.example"), client)
}

fn client(server: &TokenServer, secret: &str) -> OAuth2Client {
    OAuth2Client::client_credentials(server.endpoint.clone(), "runtime", Secret::text(secret))
}

/// Writes a file that other users cannot read.
fn write_private(path: &Path, text: &str) {
    fs::write(path, text).expect("written");
    set_mode(path, 0o600);
}

#[cfg(unix)]
fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("its mode is set");
}

#[cfg(not(unix))]
fn set_mode(_: &Path, _: u32) {}

/// Returns the reason for which the stub of a domain cannot be deployed.
async fn refused(builder: RuntimeBuilder) -> String {
    let (runtime, _app) = runtime(builder, json!({})).await;
    let error = runtime.deploy_protostub("sp1.example").await.expect_err("no credential");
    error.kind.to_string()
}

#[tokio::test]
async fn first_provider_with_a_credential_answers() {
    let (sp1, sp2) = (domain("sp1.example"), domain("sp2.example"));
    let table = StaticCredentials::new().with(sp2.clone(), credential(CredentialKind::Basic, "bob:open sesame", None));
    // Cargo sets this variable for the test.
    let environment = EnvironmentCredentials::new().with_variable(sp1.clone(), CredentialKind::Assertion, "CARGO_PKG_NAME");
    let last = StaticCredentials::new().with(sp1, bearer("never")).with(sp2, bearer("never"));
    let providers = builder().credentials(table).credentials(environment).credentials(last);
    let (_runtime, app) = runtime(providers, json!({})).await;
    assert_eq!(connected_with(&app).await, json!({ "kind": "assertion", "value": "tests", "expires": null }));
    let other = follow(&app, "hyperty://sp2.example/bob", json!({ "do": "credential" })).await;
    assert_eq!(other, Ok(json!({ "kind": "basic", "value": "bob:open sesame", "expires": null })));

    // No provider knows the domain.
    let (_runtime, app) = runtime(builder(), json!({})).await;
    assert_eq!(connected_with(&app).await, Value::Null);
}

#[tokio::test]
async fn missing_environment_variable_is_named() {
    let environment = EnvironmentCredentials::new().with(domain("sp1.example"), CredentialKind::Bearer);
    let reason = refused(builder().credentials(environment)).await;
    let expected = "the environment variable `PROTOSTUB_CREDENTIAL_SP1_EXAMPLE` is not set";
    assert_eq!(reason, format!("the stub has no credential to connect with: {expected}"));
}

#[tokio::test]
async fn credential_files_are_read_on_demand() {
    let folder = tempfile::tempdir().expect("a folder");
    let (secret, many) = (folder.path().join("sp1.token"), folder.path().join("credentials.json"));
    write_private(&secret, "from a file\n");
    write_private(&many, r#"{"SP2.example": {"kind": "basic", "value": "bob:open sesame", "expires": 4000000000}}"#);
    let files = FileCredentials::new().with(domain("sp1.example"), CredentialKind::Bearer, &secret).with_json(&many);
    let (runtime, app) = runtime(builder().credentials(files), json!({})).await;
    assert_eq!(connected_with(&app).await["value"], "from a file");
    let other = follow(&app, "hyperty://sp2.example/bob", json!({ "do": "credential" })).await;
    assert_eq!(other, Ok(json!({ "kind": "basic", "value": "bob:open sesame", "expires": 4_000_000_000_u64 })));

    // Replacing the file renews the credential.
    write_private(&secret, "another");
    assert_eq!(asked(&app, None).await.expect("a credential")["value"], "another");
    let stub = runtime.deploy_protostub("sp1.example").await.expect("a stub");
    stub.disconnect().await.expect("disconnected");
    stub.connect().await.expect("told");
    stub.until_live().await.expect("live");
    assert_eq!(connected_with(&app).await["value"], "another");
}

#[tokio::test]
async fn untrusted_credential_files_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("secret");
    let of = |path: &Path| FileCredentials::new().with(domain("sp1.example"), CredentialKind::Bearer, path);
    let check = async |files: FileCredentials, expected: &str| {
        let reason = refused(builder().credentials(files)).await;
        assert!(reason.contains(expected) && !reason.contains("sesame"), "{reason}");
    };
    check(of(&file), "secret`: No such file").await;
    write_private(&file, "\n");
    check(of(&file), "is empty").await;
    write_private(&file, &"open sesame".repeat(10_000));
    check(of(&file), "the file has more than 65536 bytes").await;
    check(of(folder.path()), "the path is not a regular file").await;
    write_private(&file, r#"{"sp1.example": {"kind": "bearer", "value": "open sesame", "expires": "open sesame"}}"#);
    check(FileCredentials::new().with_json(&file), "has a fault at line 1, column 83; write {").await;
    #[cfg(unix)]
    {
        set_mode(&file, 0o604);
        check(of(&file), "every user of this machine may open the file (mode 604); run `chmod o=` on it").await;
    }
}

#[tokio::test]
async fn expired_credentials_and_tokens_are_never_used() {
    let past = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let table = StaticCredentials::new().with(domain("sp1.example"), credential(CredentialKind::Bearer, "old", Some(past)));
    let reason = refused(builder().credentials(table)).await;
    let expected = "the credential for sp1.example has expired; renew it at its source";
    assert_eq!(reason, format!("the stub has no credential to connect with: {expected}"));

    let server = TokenServer::start().await;
    server.state().expires_in = Some(0);
    let reason = refused(builder().credentials(oauth2(client(&server, "open sesame")))).await;
    assert!(reason.ends_with("/token: the token in the answer had already expired"), "{reason}");

    let (runtime, _app) = runtime(builder(), json!({})).await;
    let stub = runtime.deploy_protostub("sp1.example").await.expect("a stub");
    let error = stub.connect_with(credential(CredentialKind::Bearer, "old", Some(past))).await.expect_err("it has run out");
    assert_eq!(error.to_string(), "the stub has no credential to connect with: the credential has expired");
}

#[tokio::test]
async fn oauth2_tokens_are_renewed_before_they_expire() {
    let server = TokenServer::start().await;
    server.state().expires_in = Some(3);
    let client = client(&server, "open sesame").scopes(["mail", "chat"]).parameter("audience", "https://sp1.example");
    let (_runtime, app) = runtime(builder().credentials(oauth2(client)), json!({})).await;
    let first = connected_with(&app).await;
    assert_eq!((&first["kind"], &first["value"]), (&json!("bearer"), &json!("token-1")));
    let request = server.state().requests[0].clone();
    let parameter = |name: &str| request.get(name).map(String::as_str);
    assert_eq!(parameter("grant_type"), Some("client_credentials"));
    assert_eq!((parameter("scope"), parameter("audience")), (Some("chat mail"), Some("https://sp1.example")));
    assert_eq!((parameter("client_id"), parameter("client_secret")), (None, None), "they are in the header");

    // A token is renewed in the second half of its lifetime.
    let renewed = soon(async {
        loop {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
            let token = asked(&app, None).await.expect("a token");
            assert!(token["expires"].as_u64().is_some_and(|expires| expires >= now), "{token} at {now}");
            if token != first {
                break token;
            }
        }
    });
    assert_eq!(renewed.await["value"], "token-2");
    assert_eq!(server.state().requests.len(), 2);
}

#[tokio::test]
async fn ungranted_scope_is_denied() {
    let server = TokenServer::start().await;
    let client = client(&server, "open sesame").scopes(["mail", "chat"]).secret_in_body(true);
    let (_runtime, app) = runtime(builder().credentials(oauth2(client)), json!({})).await;
    assert_eq!(asked(&app, Some("chat")).await.expect("a token")["value"], "token-2");
    let request = server.state().requests[1].clone();
    assert_eq!((request["scope"].as_str(), request["client_secret"].as_str()), ("chat", "open sesame"));
    let refused = asked(&app, Some("chat admin")).await.expect_err("it is not granted");
    assert_eq!(refused, "denied: the runtime's settings do not grant the requested scope to sp1.example");
    assert_eq!(server.state().requests.len(), 2);
}

/// Servers treat a request without `scope` as a request for all of the client's scopes.
#[tokio::test]
async fn blank_or_malformed_scope_is_denied() {
    let server = TokenServer::start().await;
    for scopes in [&["chat", "mail"] as &[&str], &[]] {
        let client = client(&server, "open sesame").scopes(scopes.iter().copied());
        let (runtime, app) = runtime(builder().credentials(oauth2(client)), json!({})).await;
        runtime.deploy_protostub("sp1.example").await.expect("a stub");
        let before = server.state().requests.len();
        for scope in ["", " ", "  ", "\t", "\n", "\u{a0}", "\u{3000}"] {
            let refused = follow(&app, ALICE, json!({ "do": "ask", "scope": scope })).await.expect_err("it is blank");
            let expected = "denied: the scope is blank: name a scope token, or no scope at all for the default";
            assert_eq!(refused, expected, "{scope:?}");
        }
        for scope in ["chat\tmail", "chat  mail", " chat", "chat ", "ch\"at", "ch\\at", "ch\u{e4}t", "chat\u{200b}"] {
            let refused = follow(&app, ALICE, json!({ "do": "ask", "scope": scope })).await.expect_err("it is malformed");
            assert!(
                refused.as_str().is_some_and(|text| text.starts_with("denied: the scope is malformed")),
                "{scope:?}: {refused}"
            );
        }
        assert_eq!(server.state().requests.len(), before, "nothing was asked for");
    }
}

#[tokio::test]
async fn token_with_an_ungranted_scope_is_refused() {
    let server = TokenServer::start().await;
    let granted = || oauth2(client(&server, "open sesame").scopes(["chat", "mail"]));
    for scope in ["chat mail admin", "admin", "chat\tadmin"] {
        server.state().scope = Some(scope.to_owned());
        let reason = refused(builder().credentials(granted())).await;
        assert!(reason.contains("which the runtime's settings do not grant") && reason.contains("admin"), "{reason}");
    }
    // An answer with fewer scopes, or without a `scope` member, is accepted.
    for scope in [Some("mail"), Some("mail chat"), Some(""), None] {
        server.state().scope = scope.map(str::to_owned);
        let (_runtime, app) = runtime(builder().credentials(granted()), json!({})).await;
        assert!(connected_with(&app).await["value"].is_string(), "{scope:?}");
    }
    // Without listed scopes, the scopes of the answer are not checked.
    server.state().scope = Some("admin".to_owned());
    let (_runtime, app) = runtime(builder().credentials(oauth2(client(&server, "open sesame"))), json!({})).await;
    assert!(connected_with(&app).await["value"].is_string());
}

#[tokio::test]
async fn refresh_token_is_used_with_the_operators_scopes() {
    let server = TokenServer::start().await;
    let client = |server: &TokenServer| {
        let start = server.state().refresh_token.clone();
        OAuth2Client::refresh_token(server.endpoint.clone(), "public", Secret::text(start))
    };
    let scope = |server: &TokenServer| server.state().requests.last().expect("a request").get("scope").cloned();
    let (_runtime, app) = runtime(builder().credentials(oauth2(client(&server).scopes(["mail", "chat"]))), json!({})).await;
    assert_eq!((connected_with(&app).await["value"].as_str(), scope(&server).as_deref()), (Some("token-1"), Some("chat mail")));
    // Two scopes have one token in either order. Another set of scopes has another token.
    assert_eq!(asked(&app, Some("mail chat")).await.expect("a token")["value"], "token-1");
    assert_eq!(asked(&app, Some("mail")).await.expect("a token")["value"], "token-2");
    assert_eq!(scope(&server).as_deref(), Some("mail"));
    let (_runtime, app) = runtime(builder().credentials(oauth2(client(&server))), json!({})).await;
    assert_eq!((connected_with(&app).await["value"].as_str(), scope(&server)), (Some("token-3"), None));
}

#[tokio::test]
async fn token_expiry_of_any_size_is_handled() {
    let server = TokenServer::start().await;
    let token = |expires: Value| json!({ "access_token": "token-x", "token_type": "Bearer", "expires_in": expires });
    for expires in [json!(u64::MAX), json!(i64::MAX), json!(253_402_300_800_u64), json!(1_u64 << 53)] {
        server.state().failures.push_back((200, token(expires.clone())));
        let (_runtime, app) = runtime(builder().credentials(oauth2(client(&server, "open sesame"))), json!({})).await;
        assert_eq!(connected_with(&app).await["value"], "token-x", "{expires}");
    }
    for expires in [json!(-1), json!(-1e300), json!(1e300), json!(3600.5), json!("NaN"), json!([])] {
        server.state().failures.push_back((200, token(expires.clone())));
        let reason = refused(builder().credentials(oauth2(client(&server, "open sesame")))).await;
        assert!(reason.contains("the answer cannot be read"), "{expires}: {reason}");
    }
}

/// Returns the error of building a runtime with these credentials.
async fn build_error(builder: RuntimeBuilder) -> String {
    match builder.build().await.expect_err("it cannot be built") {
        BuildError::Credentials(error) => error.to_string(),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn credentials_given_twice_are_refused() {
    let twice = "`sp1.example` is given twice: keep one of the two";
    let (sp1, again) = (domain("sp1.example"), domain("SP1.example."));
    let table = StaticCredentials::new().with(sp1.clone(), bearer("a")).with(again.clone(), bearer("b"));
    assert_eq!(build_error(builder().credentials(table)).await, twice);
    let files =
        FileCredentials::new().with(sp1.clone(), CredentialKind::Bearer, "a").with(again.clone(), CredentialKind::Bearer, "b");
    assert_eq!(build_error(builder().credentials(files)).await, twice);
    let environment = EnvironmentCredentials::new().with(sp1.clone(), CredentialKind::Bearer);
    let environment = environment.with_variable(again.clone(), CredentialKind::Bearer, "OTHER");
    assert_eq!(build_error(builder().credentials(environment)).await, twice);
    let server = TokenServer::start().await;
    let tokens = OAuth2Credentials::new().with(sp1, client(&server, "a")).with(again, client(&server, "b"));
    assert_eq!(build_error(builder().credentials(tokens)).await, twice);
    // Two domains with the same variable name.
    let environment = EnvironmentCredentials::new()
        .with(domain("a-b.example"), CredentialKind::Bearer)
        .with(domain("a__b.example"), CredentialKind::Bearer);
    assert_eq!(
        build_error(builder().credentials(environment)).await,
        "`a__b.example` and `a-b.example` are two spellings of `PROTOSTUB_CREDENTIAL_A__B_EXAMPLE`: keep one of the two"
    );
    let scopes = oauth2(client(&server, "a").scopes(["chat mail"]));
    assert!(
        build_error(builder().credentials(scopes)).await.contains("`chat mail`, a scope of sp1.example, is not a scope token")
    );
    let scope_twice = oauth2(client(&server, "a").scopes(["chat"]).parameter("scope", "admin"));
    assert!(build_error(builder().credentials(scope_twice)).await.contains("`scope` cannot be a further parameter"));

    // In a file, both spellings are named, and no secret is.
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("credentials.json");
    let of = |secret: &str| format!(r#"{{"kind": "bearer", "value": "{secret}"}}"#);
    write_private(&file, &format!(r#"{{"SP1.example": {}, "sp1.example": {}}}"#, of("open"), of("sesame")));
    let reason = refused(builder().credentials(FileCredentials::new().with_json(&file))).await;
    let expected = "`sp1.example` and `SP1.example` are two spellings of `sp1.example`: keep one of the two";
    assert!(reason.contains(expected) && !reason.contains("sesame"), "{reason}");
}

#[tokio::test]
async fn concurrent_token_requests_share_one_http_request() {
    let server = TokenServer::start().await;
    let (runtime, app) =
        runtime(builder().credentials(oauth2(client(&server, "open sesame").scopes(["chat", "mail"]))), json!({})).await;
    runtime.deploy_protostub("sp1.example").await.expect("a stub");
    let closed = server.close().await;
    let mut handles = Vec::new();
    for _ in 0..8 {
        handles.push(follow(&app, ALICE, json!({ "do": "ask", "scope": "chat" })).await.expect("a handle"));
    }
    soon(async {
        while server.state().requests.len() < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(closed);
    for handle in handles {
        let token = loop {
            match follow(&app, ALICE, json!({ "do": "take", "handle": handle })).await {
                Err(busy) if busy == "busy" => {}
                answer => break answer.expect("a token"),
            }
        };
        assert_eq!(token["value"], "token-2");
    }
    assert_eq!(server.state().requests.len(), 2);
}

#[tokio::test]
async fn rotated_refresh_token_is_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("refresh");
    write_private(&file, "refresh-0\n");
    let server = TokenServer::start().await;
    let client = || {
        let client = OAuth2Client::refresh_token(server.endpoint.clone(), "runtime", Secret::file(&file));
        oauth2(client.client_secret(Secret::text("open sesame")).scopes(["chat", "mail"]))
    };
    let (_runtime, app) = runtime(builder().credentials(client()), json!({})).await;
    assert_eq!(connected_with(&app).await["value"], "token-1");
    assert_eq!(fs::read_to_string(&file).expect("a file"), "refresh-0+\n");
    assert_eq!(asked(&app, Some("chat")).await.expect("a token")["value"], "token-2");
    // The next process continues with the rotated token.
    let (_runtime, app) = runtime(builder().credentials(client()), json!({})).await;
    assert_eq!(connected_with(&app).await["value"], "token-3");

    // A client without a secret. Its refresh token is in memory only.
    let start = server.state().refresh_token.clone();
    let public = OAuth2Client::refresh_token(server.endpoint.clone(), "public", Secret::text(start)).scopes(["chat", "mail"]);
    let (_runtime, app) = runtime(builder().credentials(oauth2(public)), json!({})).await;
    assert_eq!(connected_with(&app).await["value"], "token-4");
    assert_eq!(asked(&app, Some("chat")).await.expect("a token")["value"], "token-5");

    write_private(&file, "refresh-0");
    let reason = refused(builder().credentials(client())).await;
    assert!(
        reason.contains("the server refused the request: invalid_grant: Some(") && reason.ends_with("; get a new refresh token"),
        "{reason}"
    );
    assert!(!reason.contains("refresh-0"), "{reason}");
}

#[tokio::test]
async fn token_request_is_retried_after_a_temporary_failure() {
    let server = TokenServer::start().await;
    server.state().failures.extend([(503, json!({})), (429, json!({}))]);
    let (_runtime, app) = runtime(builder().credentials(oauth2(client(&server, "open sesame"))), json!({})).await;
    assert_eq!(connected_with(&app).await["value"], "token-1");
    assert_eq!(server.state().requests.len(), 3);

    // A refused request is not retried.
    let reason = refused(builder().credentials(oauth2(client(&server, "guess")))).await;
    assert!(
        reason.contains(
            "/token: the server refused the request: invalid_client: no client has the secret Some((\"runtime\", \"[secret]\"))"
        ),
        "{reason}"
    );
    assert!(reason.ends_with("; check the client's secret"), "{reason}");
    assert_eq!(server.state().requests.len(), 4);
}

#[tokio::test]
async fn token_endpoint_obeys_the_network_rules() {
    let server = TokenServer::start().await;
    let check = async |endpoint: &str, loopback: bool, expected: &str| {
        let endpoint = endpoint.parse().expect("a URL");
        let client = OAuth2Client::client_credentials(endpoint, "runtime", Secret::text("open sesame"));
        let builder = builder().allow_loopback(loopback).resolver(Here).credentials(oauth2(client));
        let reason = refused(builder).await;
        assert!(reason.contains(expected), "{reason}");
    };
    check(server.endpoint.as_str(), false, "loopback").await;
    // A name that resolves to this machine does not permit a connection to it.
    check("https://idp.example/token", true, "loopback").await;
    check("http://idp.example/token", true, "TLS").await;
    check("https://10.0.0.1/token", true, "private").await;
    check("https://169.254.169.254/token", true, "169.254.169.254").await;
    assert_eq!(server.state().requests.len(), 0);
}

#[tokio::test]
async fn token_that_the_server_refuses_is_not_used_again() {
    let server = TokenServer::start().await;
    let providers = builder().credentials(oauth2(client(&server, "open sesame")));
    let (runtime, app) = runtime(providers, json!({ "refuses": "token-1" })).await;
    let error = runtime.deploy_protostub("sp1.example").await.expect_err("the server does not know the token");
    assert_eq!(error.kind.to_string(), "the server does not know [secret]");
    // The token would be valid for an hour.
    runtime.deploy_protostub("sp1.example").await.expect("a stub");
    assert_eq!(connected_with(&app).await["value"], "token-2");
}

/// Drives a stub with marked secrets through all failures, and checks all output meanwhile.
#[tokio::test]
async fn marked_secrets_never_appear_in_output() {
    steps::record();
    let mut said: Vec<String> = Vec::new();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("refresh");
    let server = TokenServer::start().await;
    {
        let mut state = server.state();
        state.prefix = format!("{MARK}-token");
        state.secret = format!("{MARK}-secret");
        state.refresh_token = format!("{MARK}-refresh");
    }
    let other = serve(vec![("/", ok("text/plain", b"hello"))]).await;
    let mut settings = DomainSettings::default();
    settings.grants = vec![format!("{other} plain").parse().expect("a rule")];
    settings.allow_loopback = true;

    // Providers that fail.
    let wrong = client(&server, &format!("{MARK}-guess"));
    said.push(format!("{wrong:?}"));
    said.push(refused(builder().credentials(oauth2(wrong))).await);
    write_private(&file, &format!("{MARK}-another"));
    let wrong = OAuth2Client::refresh_token(server.endpoint.clone(), "public", Secret::file(&file));
    said.push(refused(builder().credentials(oauth2(wrong))).await);
    write_private(&file, &format!(r#"{{"sp1.example": {{"kind": "bearer", "value": {{"{MARK}": 1}} }} }}"#));
    said.push(refused(builder().credentials(FileCredentials::new().with_json(&file))).await);
    let past = Some(UNIX_EPOCH);
    let table = StaticCredentials::new().with(domain("sp1.example"), credential(CredentialKind::Basic, MARK, past));
    said.push(format!("{table:?}"));
    said.push(refused(builder().credentials(table)).await);
    server.state().failures.push_back((200, json!({ "access_token": MARK, "token_type": 7, "expires_in": MARK })));
    said.push(refused(builder().credentials(oauth2(client(&server, &format!("{MARK}-secret"))))).await);

    // A stub that publishes its secrets, crashes, and is refused.
    write_private(&file, &format!("{MARK}-refresh\n"));
    let refresh = OAuth2Client::refresh_token(server.endpoint.clone(), "runtime", Secret::file(&file));
    let refresh = refresh.client_secret(Secret::text(format!("{MARK}-secret")));
    said.push(format!("{refresh:?}"));
    let (crashed, mut crashes) = tokio::sync::mpsc::unbounded_channel();
    let mut policy = RestartPolicy::default();
    policy.first_pause = Duration::from_millis(1);
    let builder = builder()
        .credentials(oauth2(refresh))
        .domain(domain("sp1.example"), settings)
        .status_form(StatusForm::Phase2)
        .restart(policy)
        .on_crash(move |key, report| {
            let _ = crashed.send(format!("{key} {report:?} {}", serde_json::to_string(report).expect("JSON")));
        });
    said.push(format!("{builder:?}"));
    let (runtime, mut app) = runtime(builder, json!({ "refuses": format!("alice:{MARK}") })).await;
    let stub = runtime.deploy_protostub("sp1.example").await.expect("a stub");
    for topic in [stub.url().expect("a URL").join("status"), runtime.url().join("status")] {
        app.subscribe(topic.expect("an address")).await.expect("an answer");
    }
    follow(&app, ALICE, json!({ "do": "leak", "url": other.as_str() })).await.expect("it leaks");
    said.push(format!("{stub:?} {runtime:?} {:?}", stub.status()));
    let error = app.request(order(ALICE, json!({ "do": "leak", "url": other.as_str(), "panic": true }))).await;
    said.push(format!("{:?}", error.expect_err("it crashed")));
    said.push(soon(crashes.recv()).await.expect("a report"));
    said.push(format!("{:?}", stub.last_crash()));

    // Valid and invalid logins, by message and by the host program.
    let read = runtime.url().join("registry").expect("an address");
    let basic = json!({ "kind": "basic", "value": format!("alice:{MARK}"), "expires": 4_000_000_000_u64 });
    for message in [
        login(&runtime, json!({ "domain": "sp1.example", "credential": basic })),
        login(&runtime, json!({ "domain": "sp1.example", "credential": { "kind": "bearer", "value": [MARK] } })),
        login(&runtime, json!({ "domain": "sp1.example", MARK: MARK })),
        login(
            &runtime,
            json!({ "domain": "sp1.example", "credential": { "kind": "bearer", "value": format!("{MARK}-explicit") } }),
        ),
        Message::read(read),
    ] {
        said.push(format!("{message:?}"));
        let answer = app.request(message).await;
        said.push(match &answer {
            Ok(answer) => answer.to_json().expect("JSON"),
            Err(error) => format!("{error} {error:?}"),
        });
    }
    let alice = credential(CredentialKind::Basic, &format!("alice:{MARK}"), Some(SystemTime::now() + Duration::from_secs(3600)));
    said.push(format!("{alice:?}"));
    follow(&app, ALICE, json!({ "do": "leak" })).await.expect("it leaks");
    let outcome = runtime.shutdown(Duration::from_secs(10)).await;
    said.push(format!("{outcome:?}"));
    // All statuses until the end, from the stub and from the runtime.
    let mut dead = 0;
    while dead < 2 {
        let status = soon(app.recv()).await.expect("a status");
        dead += usize::from(body(&status)["value"] == "dead");
        said.push(status.to_json().expect("JSON"));
    }

    let in_header = BASE64_STANDARD.encode(format!("alice:{MARK}"));
    let marked = |text: &String| text.contains(MARK) || text.contains(&in_header);
    let leaked: Vec<_> = said.iter().filter(|text| marked(text)).collect();
    assert!(leaked.is_empty(), "{leaked:#?}");
    assert!(said.iter().any(|text| text.contains("connected with [secret]")), "{said:#?}");
    assert!(said.iter().any(|text| text.contains("my credential was [secret]")), "{said:#?}");
    let (leaked, looked_at): (Vec<_>, Vec<_>) = leaks::found().into_iter().partition(marked);
    assert!(leaked.is_empty(), "{leaked:#?}");
    assert!(looked_at.iter().any(|line| line.contains("my credential is [secret]")), "{looked_at:#?}");
}
