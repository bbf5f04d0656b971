//! A host program that embeds the library. It takes a domain's stub from a folder
//! (`descriptor.json`, `component.wasm`) instead of from the domain, so it runs without a network.
//!
//! ```text
//! cargo xtask stubs
//! cargo run --example embed -- target/catalogue/echo
//! ```
#![expect(clippy::print_stdout, reason = "a program for people at a terminal")]

use std::{env, error::Error, fs, path::PathBuf, time::Duration};

use protostub_runtime::{Domain, MemorySource, Message, Runtime};
use serde_json::json;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(env::args().nth(1).ok_or("usage: embed <folder of a stub>")?);
    let source = MemorySource::new();
    let (descriptor, component) = (fs::read(folder.join("descriptor.json"))?, fs::read(folder.join("component.wasm"))?);
    source.insert(&Domain::parse("sp1.example")?, "default", descriptor, component);

    let runtime = Runtime::builder().home_domain("home.example").source(source).build().await?;
    let app = runtime.register_hyperty("hyperty://home.example/chat").await?;

    let question = Message::read("hyperty://sp1.example/alice".parse()?).with_body(json!({ "question": "who is there?" }));
    let reply = app.request(question).await?; // deploys the stub of sp1.example on the way
    println!("reply: {}", reply.to_json_line());

    let stub = runtime.deploy_protostub("sp1.example").await?; // the same stub
    println!("{} is {}", stub.domain(), stub.status().status);
    println!("{:?}", runtime.shutdown(Duration::from_secs(5)).await);
    Ok(())
}
