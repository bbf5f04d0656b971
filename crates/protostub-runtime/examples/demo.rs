//! Two runtimes without prior contact talk to each other through a domain whose protocol neither of
//! them knows.
//!
//! A domain server on loopback publishes a protocol stub in its catalogue, and runs a message node.
//! An app on each runtime has an address of that domain. The messages of the apps make their
//! runtimes find, download, verify and deploy the domain's stub. The demo shows each of the 22
//! steps when it begins.
//!
//! ```text
//! cargo xtask demo
//! ```
#![expect(clippy::print_stdout, reason = "a program for people at a terminal")]

use std::{
    collections::BTreeSet,
    env,
    fmt::{self, Debug},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use protostub_domain::DomainServer;
use protostub_runtime::{Hyperty, Message, MessageType, Runtime};
use serde_json::{Value, json};
use tracing::{
    Subscriber,
    field::{Field, Visit},
    span,
};
use tracing_subscriber::{Layer, layer::Context, layer::SubscriberExt as _, util::SubscriberInitExt as _};

const HOW_TO: &str = "usage: demo --catalogue <folder of stubs>; `cargo xtask demo` makes the folder and calls this";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = env::args().skip(1);
    let (Some("--catalogue"), Some(folder)) = (args.next().as_deref(), args.next()) else { bail!(HOW_TO) };
    let watch = Stopwatch::default();
    tracing_subscriber::registry().with(Show { watch: watch.clone() }).init();

    let server = DomainServer::builder().folder(folder).default_stub("message-node").start().await?;
    let domain = server.domain().clone();
    println!("A domain server is at http://{domain}: its catalogue, and its message node.\n");

    let bob = runtime(&domain).await?;
    println!("Bob's app asks the message node of {domain} for an address of its own.");
    watch.start();
    let mut bob_app = app_with_allocated_address(&bob, &domain).await?;
    println!("Bob's app is {}.\n", bob_app.address());

    let alice = runtime(&domain).await?;
    let alice_app = alice.register_hyperty(format!("hyperty://{domain}/alice")).await?;
    println!("Alice's app, on a runtime of her own, sends Bob's app a message. Her runtime has no stub of {domain} yet.");
    watch.start();
    let sent = Instant::now();
    let question = Message::read(bob_app.address().clone()).with_body(json!({ "resource": "greeting" }));
    let (reply, ()) = tokio::try_join!(
        async { alice_app.request(question).await.context("Alice's message got no answer") },
        answer_one(&mut bob_app),
    )?;
    let took = sent.elapsed();
    let value: Value = reply.body.as_ref().context("the reply is empty")?.parse()?;
    println!("Alice's app has the reply: {}\n", value["value"]);
    let steps = watch.steps();

    let stub = alice.deploy_protostub(domain.as_str()).await?;
    println!("The stub is {}: {}.", stub.status().status, stub.url().context("a live stub has a URL")?);
    for (name, runtime) in [("Alice", alice), ("Bob", bob)] {
        let outcome = runtime.shutdown(Duration::from_secs(5)).await;
        println!("{name}'s runtime has shut down: {} stopped, {} abandoned.", outcome.stopped.len(), outcome.abandoned.len());
    }
    server.shutdown(Duration::from_secs(5)).await;

    println!("\ndemo: {} of 22 steps, reply received in {} ms", steps.len(), took.as_millis());
    let missing: Vec<_> = (1..=22).filter(|step| !steps.contains(step)).collect();
    if !missing.is_empty() {
        bail!("these steps did not happen: {missing:?}");
    }
    Ok(())
}

/// Returns a runtime like that of a user at home, except that it may reach this machine.
async fn runtime(home: &protostub_runtime::Domain) -> anyhow::Result<Runtime> {
    Ok(Runtime::builder().home_domain(home.as_str()).allow_loopback(true).build().await?)
}

/// Returns an app with an address that the domain's message node allocated for it.
async fn app_with_allocated_address(runtime: &Runtime, domain: &protostub_runtime::Domain) -> anyhow::Result<Hyperty> {
    let node = format!("domain://msg-node.{domain}/address-allocation");
    let request = Message::create(node.parse()?).with_body(json!({ "value": { "number": 1 } }));
    let allocation = runtime.request(request).await.context("no address was allocated")?;
    let body: Value = allocation.body.as_ref().context("the allocation is empty")?.parse()?;
    let address = body["value"]["allocated"][0].as_str().with_context(|| format!("no address in {body}"))?;
    Ok(runtime.register_hyperty(address).await?)
}

/// Answers the first request.
async fn answer_one(app: &mut Hyperty) -> anyhow::Result<()> {
    while let Some(message) = app.recv().await {
        if message.kind == MessageType::Read {
            println!("Bob's app has a message from {}.", message.from);
            app.post(message.response(200, Some(json!("Hello Alice, here is Bob."))))?;
            return Ok(());
        }
    }
    bail!("Bob's runtime has ended")
}

/// The start time, and the steps since then.
#[derive(Clone, Default)]
struct Stopwatch(Arc<Mutex<(Option<Instant>, BTreeSet<u64>)>>);

impl Stopwatch {
    fn start(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (Some(Instant::now()), BTreeSet::new());
    }

    fn step(&self, number: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1.insert(number);
    }

    fn milliseconds(&self) -> f64 {
        let start = self.0.lock().unwrap_or_else(PoisonError::into_inner).0;
        start.map_or(0.0, |start| start.elapsed().as_secs_f64() * 1000.0)
    }

    fn steps(&self) -> BTreeSet<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }
}

/// Shows each step of a deployment when it begins.
struct Show {
    watch: Stopwatch,
}

impl<S: Subscriber> Layer<S> for Show {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, _id: &span::Id, _context: Context<'_, S>) {
        let metadata = attributes.metadata();
        if (metadata.target(), metadata.name()) == ("protostub", "compile") {
            println!("  {:8.1} ms           Runtime UA: the component is compiled", self.watch.milliseconds());
        }
        if (metadata.target(), metadata.name()) == ("protostub", "step") {
            let mut step = Step::default();
            attributes.record(&mut step);
            self.watch.step(step.number);
            let after = self.watch.milliseconds();
            println!("{}", format!("  {after:8.1} ms  step {:2}  {}  {}", step.number, step.call, step.detail).trim_end());
        }
    }
}

#[derive(Default)]
struct Step {
    number: u64,
    call: String,
    detail: String,
}

impl Visit for Step {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "step" {
            self.number = value;
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "call" => self.call = value.to_owned(),
            "detail" => self.detail = value.to_owned(),
            _ => {}
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record_str(field, &fmt::format(format_args!("{value:?}")));
    }
}
