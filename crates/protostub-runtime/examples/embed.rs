//! A host program that embeds the library. It takes descriptors and components from a folder that is laid out like a domain's well-known
//! catalogue (`cargo xtask stubs` makes one in `target/catalogue`), and asks an address of a domain that it has never heard of.
//!
//! ```text
//! cargo run -p protostub-runtime --example embed -- target/catalogue
//! ```

use std::{env, error::Error, time::Duration};

use protostub_runtime::{DirectorySource, Message, Runtime};
use serde_json::json;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let catalogue = env::args().nth(1).ok_or("usage: embed <catalogue folder>")?;
    let runtime = Runtime::builder().home_domain("home.example").source(DirectorySource::new(catalogue)).build().await?;
    let app = runtime.register_hyperty("hyperty://home.example/chat").await?;

    let question = Message::read("hyperty://sp1.example/alice").with_body(json!({ "question": "who is there?" }));
    let reply = app.request(question).await?; // deploys the stub of sp1.example on the way
    println!("reply: {}", reply.to_json()?);

    let stub = runtime.deploy_protostub("sp1.example").await?; // the same stub
    println!("{} is {}", stub.domain(), stub.status().status);
    println!("{:?}", runtime.shutdown(Duration::from_secs(5)).await);
    Ok(())
}
