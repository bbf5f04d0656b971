//! A host program with a configuration of its own. It sends in one task, receives in another,
//! branches on errors, and shuts down while another task still holds the runtime.
//!
//! The stub comes from a folder (`descriptor.json`, `component.wasm`), so the program needs no
//! network. The settings file has the program's own keys and, in `[runtime]`, those of
//! [`Settings`].
//!
//! ```text
//! cargo xtask stubs
//! cargo run --example host -- crates/protostub-runtime/examples/host.toml target/catalogue/echo
//! ```
#![expect(clippy::print_stdout, reason = "a program for people at a terminal")]

use std::{env, error::Error, fs, path::PathBuf, time::Duration};

use futures_util::StreamExt as _;
use protostub_runtime::{
    Address, CatalogueErrorKind, DeployError, DeployErrorKind, Descriptor, Domain, Hyperty, HypertySender, MemorySource, Message,
    Runtime, Settings, StartErrorKind, StubGone, StubGoneReason, Version, serde_json::json,
};
use serde::Deserialize;

/// The settings file of this program.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Configuration {
    /// Address of the peer that the program talks to.
    peer: Address,
    /// Number of messages to send.
    messages: u64,
    runtime: Settings,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut args = env::args().skip(1).map(PathBuf::from);
    let (Some(file), Some(folder)) = (args.next(), args.next()) else {
        return Err("usage: host <settings file> <folder of a stub>".into());
    };
    let Configuration { peer, messages, runtime } = toml::from_str(&fs::read_to_string(file)?)?;
    let source = MemorySource::new();
    let (descriptor, component) = (fs::read(folder.join("descriptor.json"))?, fs::read(folder.join("component.wasm"))?);
    let domain = peer.domain().ok_or("the peer's address has no domain")?;
    source.insert(&domain, "default", descriptor, component);
    let mut faulty = Descriptor::new("default", Version::parse("1.0")?);
    faulty.refer("component.wasm", b"not a component");
    source.insert(&Domain::parse("broken.example")?, "default", faulty.to_json(), "not a component");

    let runtime = Runtime::builder().settings(runtime).source(source).build().await?;
    let app = runtime.register_hyperty(format!("hyperty://{}/app", runtime.home_domain())).await?;
    let sending = tokio::spawn(send(app.sender(), peer, messages));
    let receiving = tokio::spawn(receive(app));
    sending.await??;

    if let Err(error) = runtime.deploy_protostub("broken.example").await {
        println!("broken.example: {}", advice(&error));
    }
    let stub = runtime.deploy_protostub(domain.as_str()).await?;
    let clone = runtime.clone();
    let outcome = runtime.shutdown(Duration::from_secs(10)).await;
    println!("{} stopped, {} abandoned", outcome.stopped.len(), outcome.abandoned.len());
    println!("{} echoes", receiving.await?);
    // Another task may not know of the shutdown yet.
    if let Err(error) = clone.deploy_protostub(domain.as_str()).await {
        println!("after the shutdown: {}", advice(&error));
    }
    if let Err(gone) = stub.connect().await {
        println!("the stub: {}", advice_on_end(&gone));
    }
    Ok(())
}

async fn send(app: HypertySender, peer: Address, messages: u64) -> Result<(), Box<dyn Error + Send + Sync>> {
    for n in 0..messages {
        app.post(Message::update(peer.clone()).with_body(json!({ "n": n })))?;
    }
    // The stub answers in order, so the echoes have come before this reply.
    let reply = app.request(Message::read(peer)).await?;
    println!("the peer answers with code {}", reply.code().unwrap_or_default());
    Ok(())
}

/// Counts the echoes until the runtime has shut down.
async fn receive(app: Hyperty) -> usize {
    app.filter(|message| std::future::ready(message.body.is_some())).count().await
}

/// Returns advice on a failed deployment, for the people who run this program.
fn advice(error: &DeployError) -> String {
    match error.kind() {
        DeployErrorKind::Catalogue(error) => match error.kind() {
            CatalogueErrorKind::NotFound => format!("{} publishes no stub", error.domain()),
            CatalogueErrorKind::Unavailable => "try again later".to_owned(),
            _ => error.to_string(),
        },
        DeployErrorKind::Compile(error) => format!("the domain has to publish another component: {error}"),
        DeployErrorKind::Start(kind) => match &**kind {
            StartErrorKind::Refused(reason) => format!("correct the stub's configuration: {reason}"),
            StartErrorKind::Trapped(_) | StartErrorKind::Exceeded(_) => "report the crash to the domain".to_owned(),
            kind => kind.to_string(),
        },
        DeployErrorKind::ShutDown => "start the program again".to_owned(),
        kind => kind.to_string(),
    }
}

fn advice_on_end(gone: &StubGone) -> String {
    match gone.kind() {
        StubGoneReason::Undeployed => "deploy it again".to_owned(),
        StubGoneReason::ShutDown => "it ended with the program".to_owned(),
        StubGoneReason::Failed(error) => advice(error),
        _ => gone.to_string(),
    }
}
