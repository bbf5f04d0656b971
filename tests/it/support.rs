//! What the tests share: components, descriptors, runtimes, and servers that say just what a test wants.

use std::{fs, path::PathBuf, time::Duration};

use protostub_runtime::{Descriptor, Domain, MemorySource, Message, Runtime, RuntimeBuilder};
use protostub_types::Version;
use serde_json::{Map, Value};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

/// A component that the build made of `stubs/` or `tests/programs/`.
pub(crate) fn component(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("PROTOSTUB_COMPONENTS")).join(format!("{}.wasm", name.replace('-', "_")));
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub(crate) fn domain(text: &str) -> Domain {
    Domain::parse(text).expect("a domain")
}

/// A descriptor of a component that stands beside it as `component.wasm`, with version 1.0.
pub(crate) fn descriptor(component: &[u8], configuration: Value) -> Descriptor {
    let mut descriptor = Descriptor::new("default", Version::parse("1.0").expect("a version"));
    descriptor.refer("component.wasm", component);
    descriptor.configuration = match configuration {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    descriptor
}

/// A source with this component as the default stub of each of these domains.
pub(crate) fn source(domains: &[&str], component: &[u8], configuration: &Value) -> MemorySource {
    let source = MemorySource::new();
    for name in domains {
        source.insert(&domain(name), "default", descriptor(component, configuration.clone()).to_json(), component.to_vec());
    }
    source
}

/// Puts this version of a component into a source, in the place of what was there.
pub(crate) fn publish(source: &MemorySource, name: &str, version: &str, component: &[u8], configuration: Value) {
    let mut descriptor = descriptor(component, configuration);
    descriptor.version = Version::parse(version).expect("a version");
    source.insert(&domain(name), "default", descriptor.to_json(), component.to_vec());
}

/// The JSON of a message's body.
pub(crate) fn body(message: &Message) -> Value {
    message.body.as_ref().expect("a body").parse().expect("JSON")
}

/// A request for a stub of `tests/programs/actor`, which follows the order.
pub(crate) fn order(to: &str, order: Value) -> Message {
    Message::read(to.parse().unwrap()).with_body(order)
}

/// A first request waits for the compiler, too, and that for all other tests': it has a minute for it.
pub(crate) fn builder() -> RuntimeBuilder {
    let builder = Runtime::builder().home_domain("home.example").allow_loopback(true).code_dir(code_dir());
    builder.request_timeout(Duration::from_secs(60))
}

/// Where compiled code is kept, for all tests of a user: most of them deploy the same few components, and would compile them each time. It is in no
/// folder that a group can write to, which would be refused.
pub(crate) fn code_dir() -> PathBuf {
    let user = std::env::var("USER").unwrap_or_default();
    std::env::temp_dir().join(format!("protostub-tests-{user}")).join("code")
}

/// An HTTP server on loopback that answers each path with exactly these bytes, and then closes the connection. Returns the domain that it is.
pub(crate) async fn serve(pages: Vec<(&'static str, Vec<u8>)>) -> Domain {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let domain = domain(&listener.local_addr().expect("an address").to_string());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let pages = pages.clone();
            tokio::spawn(async move {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) => request.push(byte),
                        Err(_) => return,
                    }
                }
                let request = String::from_utf8_lossy(&request);
                let path = request.split(' ').nth(1).unwrap_or_default();
                let answer = pages.iter().find(|(page, _)| *page == path).map_or_else(not_found, |(_, answer)| answer.clone());
                let _ = stream.write_all(&answer).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    domain
}

pub(crate) fn not_found() -> Vec<u8> {
    answer("404 Not Found", "text/plain", b"no such page")
}

pub(crate) fn ok(media_type: &str, body: &[u8]) -> Vec<u8> {
    answer("200 OK", media_type, body)
}

pub(crate) fn answer(status: &str, media_type: &str, body: &[u8]) -> Vec<u8> {
    let head =
        format!("HTTP/1.1 {status}\r\ncontent-type: {media_type}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}
