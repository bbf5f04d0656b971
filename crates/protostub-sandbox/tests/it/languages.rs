//! Stubs in other languages than Rust. They are not built here: `stubs/echo-python/README.md` and
//! `stubs/echo-js/README.md` say how.

use protostub_artifacts::component_in_other_language;
use protostub_types::Sha256Digest;
use serde_json::json;

use crate::support::{Fixture, engine};

async fn echoes(name: &str) {
    let bytes = component_in_other_language(name);
    let digest = Sha256Digest::of(&bytes);
    let mut fixture = Fixture::new(json!({}));
    fixture.program = Some(engine().compile(bytes, digest).await.unwrap());
    let actor = fixture.live().await;
    let response = actor.request(json!({ "text": "ä" })).await.unwrap();
    assert!(response.body.is_some());
}

#[tokio::test]
#[ignore = "needs target/stubs/echo-python.wasm"]
async fn a_stub_in_python_runs() {
    echoes("echo-python").await;
}

#[tokio::test]
#[ignore = "needs target/stubs/echo-js.wasm"]
async fn a_stub_in_javascript_runs() {
    echoes("echo-js").await;
}
