//! The well-known catalogue.

use std::{fs, path::Path};

use protostub_domain::DomainServer;
use protostub_types::{Descriptor, Domain, Sha256Digest};
use reqwest::{Response, StatusCode, header};
use serde_json::{Value, json};
use tempfile::TempDir;

const CODE: &[u8] = b"\0asm and more";

fn put(folder: &Path, name: &str, descriptor: &str) {
    fs::create_dir_all(folder.join(name)).unwrap();
    fs::write(folder.join(name).join("descriptor.json"), descriptor).unwrap();
    fs::write(folder.join(name).join("component.wasm"), CODE).unwrap();
}

fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "echo", r#"{"version":"1.2.0","configuration":{"greeting":"hello"}}"#);
    put(
        folder.path(),
        "message-node",
        r#"{"version":"0.1.0","configuration":{"url":"${ws-url}","all":["${authority}","${domain}","a ${http-url} b","${nomatrix-url}","${x} ${ $"]}}"#,
    );
    fs::write(folder.path().join("README.md"), "no stub").unwrap();
    folder
}

fn client() -> reqwest::Client {
    // The client needs a crypto provider, although nothing here is encrypted. Another test may have
    // installed it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().unwrap()
}

async fn get(server: &DomainServer, path: &str) -> Response {
    client().get(format!("http://{}/.well-known{path}", server.authority())).send().await.unwrap()
}

async fn json(server: &DomainServer, path: &str) -> Value {
    let response = get(server, path).await;
    assert_eq!(response.status(), StatusCode::OK, "{path}");
    assert_eq!(response.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
    response.json().await.unwrap()
}

#[tokio::test]
async fn descriptor_is_completed() {
    let folder = folder();
    let server = DomainServer::builder().folder(folder.path()).default_stub("message-node").start().await.unwrap();
    assert_eq!(json(&server, "").await, json!(["protostub", "protocolstub", "sourcepackage"]));
    for kind in ["protostub", "protocolstub", "protostub/", "sourcepackage"] {
        assert_eq!(json(&server, &format!("/{kind}")).await, json!(["echo", "message-node"]));
    }
    let digest = Sha256Digest::of(CODE).to_string();
    let expected = json!({
        "objectName": "echo", "version": "1.2.0", "language": "WASM_COMPONENT", "configuration": { "greeting": "hello" },
        "sourcePackageURL": "/.well-known/sourcepackage/echo", "sourcePackage": { "sha256": digest },
    });
    for path in ["/protostub/echo", "/protocolstub/echo", "/protostub/echo/"] {
        assert_eq!(json(&server, path).await, expected, "{path}");
    }
    let descriptor = Descriptor::parse(expected.to_string().as_bytes()).unwrap();
    descriptor.check_deployable().unwrap();

    let authority = server.authority();
    let default = json(&server, "/protostub/default").await;
    assert_eq!(default["objectName"], "message-node");
    assert_eq!(default["configuration"]["url"], format!("ws://{authority}/ws"));
    assert_eq!(
        default["configuration"]["all"],
        json!([
            authority,
            server.domain(),
            format!("a http://{authority} b"),
            format!("ws://{authority}/stub/connect"),
            "${x} ${ $"
        ])
    );
    assert_eq!(server.problems().await, []);
}

#[tokio::test]
async fn single_fields_are_served() {
    let folder = folder();
    let server = DomainServer::builder().folder(folder.path()).start().await.unwrap();
    for (path, expected) in [
        ("/protostub/echo/version", "1.2.0"),
        ("/protocolstub/echo/objectName", "echo"),
        ("/protostub/echo/configuration", r#"{"greeting":"hello"}"#),
        ("/protostub/echo/configuration/greeting", "hello"),
        ("/protostub/echo/sourcePackage/sha256", &Sha256Digest::of(CODE).to_string()),
    ] {
        let response = get(&server, path).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        assert_eq!(response.text().await.unwrap(), expected, "{path}");
    }
}

#[tokio::test]
async fn component_is_served_whole_and_in_part() {
    let folder = folder();
    let server = DomainServer::builder().folder(folder.path()).start().await.unwrap();
    let response = get(&server, "/sourcepackage/echo").await;
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/wasm");
    assert_eq!(response.bytes().await.unwrap(), CODE);
    let url = format!("http://{}/.well-known/sourcepackage/echo", server.authority());
    for (range, status, content) in [
        ("bytes=5-", 206, &CODE[5..]),
        ("bytes=1-3", 206, &CODE[1..=3]),
        ("bytes=1-999", 206, &CODE[1..]),
        ("bytes=-4", 206, &CODE[CODE.len() - 4..]),
        ("bytes=999-", 416, b""),
        ("bytes=3-1", 416, b""),
        ("bytes=-0", 416, b""),
        ("lines=1-2", 200, CODE),
        ("bytes=x-y", 200, CODE),
    ] {
        let response = client().get(&url).header(header::RANGE, range).send().await.unwrap();
        assert_eq!(response.status(), status, "{range}");
        assert_eq!(response.bytes().await.unwrap(), content, "{range}");
    }
    assert_eq!(server.catalogue_counts().components, 10);
}

#[tokio::test]
async fn unchanged_content_is_not_sent_again() {
    let folder = folder();
    let server = DomainServer::builder().folder(folder.path()).start().await.unwrap();
    for path in ["/protostub/echo", "/protostub/echo/version", "/sourcepackage/echo"] {
        let tag = get(&server, path).await.headers()[header::ETAG].clone();
        let url = format!("http://{}/.well-known{path}", server.authority());
        let ask = async || client().get(&url).header(header::IF_NONE_MATCH, &tag).send().await.unwrap().status();
        assert_eq!(ask().await, StatusCode::NOT_MODIFIED, "{path}");
    }
    // A stub can be replaced while the server runs.
    let tag = get(&server, "/protostub/echo").await.headers()[header::ETAG].clone();
    fs::write(folder.path().join("echo/component.wasm"), b"\0asm, another length").unwrap();
    let response = get(&server, "/protostub/echo").await;
    assert_ne!(response.headers()[header::ETAG], tag);
    let descriptor: Value = response.json().await.unwrap();
    assert_eq!(descriptor["sourcePackage"]["sha256"], Sha256Digest::of(b"\0asm, another length").to_string());
}

#[tokio::test]
async fn component_can_be_inline_or_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "inline", r#"{"version":"1","sourcePackageURL":"/sourcePackage"}"#);
    put(folder.path(), "elsewhere", r#"{"version":"1","sourcePackageURL":"https://cdn.example/x.wasm","sha256":"0"}"#);
    let server = DomainServer::builder().folder(folder.path()).start().await.unwrap();
    let inline = json(&server, "/protostub/inline").await;
    let descriptor = Descriptor::parse(inline.to_string().as_bytes()).unwrap();
    assert_eq!(descriptor.digest(), Some(Sha256Digest::of(CODE)));
    descriptor.check_deployable().unwrap();
    let elsewhere = json(&server, "/protostub/elsewhere").await;
    assert_eq!((&elsewhere["sha256"], &elsewhere["sourcePackage"]), (&json!("0"), &json!({})));
}

#[tokio::test]
async fn missing_content_is_answered_with_the_reason() {
    let folder = folder();
    fs::create_dir(folder.path().join("half")).unwrap();
    fs::write(folder.path().join("half/descriptor.json"), r#"{"version":"1"}"#).unwrap();
    put(folder.path(), "broken", "<html>");
    put(folder.path(), "stale", &format!(r#"{{"version":"1","sha256":"{}"}}"#, "0".repeat(64)));
    fs::write(folder.path().join("secret.json"), "secret").unwrap();
    let server = DomainServer::builder().folder(folder.path()).start().await.unwrap();
    for (path, status, text) in [
        (
            "/protostub/none",
            404,
            "there is no protocol stub `none` here; the folder has: broken, echo, half, message-node, stale",
        ),
        ("/protostub/default", 404, "there is no default protocol stub here"),
        ("/protostub/half", 404, "the protocol stub `half` has no file component.wasm"),
        ("/protostub/broken", 500, "the descriptor of the protocol stub `broken` is not a JSON object"),
        ("/protostub/echo/nothing", 404, "no such field"),
        ("/sourcepackage/none", 404, "there is no protocol stub `none`"),
        ("/protostub/..%2f..%2fsecret.json", 404, "there is"),
        ("/protostub/%252e%252e", 404, "there is"),
        ("/hyperty/x", 404, "there is nothing here"),
    ] {
        let response = get(&server, path).await;
        let answer = (response.status().as_u16(), response.text().await.unwrap());
        assert!(answer.0 == status && answer.1.contains(text), "{path}: {answer:?}");
    }
    let problems: Vec<_> = server.problems().await.into_iter().map(|problem| problem.name).collect();
    assert_eq!(problems, ["broken", "half", "stale"]);
    let nothing = DomainServer::builder().start().await.unwrap();
    assert_eq!(get(&nothing, "/protostub/default").await.status(), StatusCode::NOT_FOUND);
}

/// Windows reads these names as a drive, a device or a stream. They name no stub on any system.
#[cfg(unix)]
#[tokio::test]
async fn stub_whose_name_windows_misreads_is_not_served() {
    let folder = folder();
    let names = ["c:stub", "echo::$DATA", "nul", "com1.stub", "echo."];
    for name in names {
        put(folder.path(), name, r#"{"version":"1"}"#);
    }
    let server = DomainServer::builder().folder(folder.path()).start().await.unwrap();
    for name in names {
        for kind in ["protostub", "sourcepackage"] {
            let response = get(&server, &format!("/{kind}/{name}")).await;
            let answer = (response.status().as_u16(), response.text().await.unwrap());
            assert!(answer.0 == 404 && answer.1.ends_with("the folder has: echo, message-node\n"), "{name}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn descriptor_has_the_authority_that_the_client_used() {
    let folder = folder();
    let check = async |server: &DomainServer, host: &str, expected: &str| {
        let url = format!("http://{}/.well-known/protostub/message-node", server.address());
        let descriptor: Value = client().get(url).header(header::HOST, host).send().await.unwrap().json().await.unwrap();
        assert_eq!(descriptor["configuration"]["url"], format!("ws://{expected}/ws"), "{host}");
    };
    let server = DomainServer::builder().folder(folder.path()).start().await.unwrap();
    let port = server.address().port();
    check(&server, &format!("localhost:{port}"), &format!("localhost:{port}")).await;
    check(&server, "evil.example", server.authority()).await;
    let server =
        DomainServer::builder().folder(folder.path()).domain(Domain::parse("sp1.example").unwrap()).start().await.unwrap();
    check(&server, "sp1.example", "sp1.example").await;
    check(&server, "SP1.example:81", "sp1.example:81").await;
    check(&server, "127.0.0.1", server.authority()).await;
}

#[tokio::test]
async fn invalid_paths_and_connects_are_refused() {
    let server = DomainServer::builder().start().await.unwrap();
    let status = async |path: &str| client().get(format!("http://{}{path}", server.authority())).send().await.unwrap().status();
    assert_eq!(status("/").await, StatusCode::OK);
    assert_eq!(status("/ws/").await, StatusCode::NOT_FOUND);
    assert!(status("/ws").await.is_client_error());
    for path in ["/stub/connect", "/stub/connect?runtimeURL=a%20b"] {
        let request = client().get(format!("http://{}{path}", server.authority()));
        let upgrade = request
            .header(header::CONNECTION, "upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(upgrade.send().await.unwrap().status(), StatusCode::FORBIDDEN, "{path}");
    }
}
