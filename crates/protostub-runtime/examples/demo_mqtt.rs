//! Things that speak MQTT and know nothing of reTHINK, and an app that does not know MQTT.
//!
//! A real broker, Mosquitto, runs on loopback. `mosquitto_pub` and `mosquitto_sub` are the things.
//! The app posts messages to `mqtt://sp1.example/…`, which makes its runtime deploy the protocol
//! stub of MQTT. The demo runs one exchange in each direction, over TCP with TLS and over
//! WebSocket.
//!
//! ```text
//! cargo xtask demo --mqtt
//! ```
#![expect(clippy::print_stdout, reason = "a program for people at a terminal")]

#[path = "../../../tests/it/mosquitto.rs"]
mod mosquitto;

use std::{env, fs, path::Path, process::Stdio, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use protostub_runtime::{Descriptor, Domain, DomainSettings, Hyperty, MemorySource, Message, MessageType, Runtime};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

use mosquitto::{HOST, Mosquitto, program};

const HOW_TO: &str = "usage: demo_mqtt --catalogue <folder of stubs>; `cargo xtask demo --mqtt` makes the folder and calls this";
const DOMAIN: &str = "sp1.example";
/// Timeout of an exchange. The first one deploys the stub.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = env::args().skip(1);
    let (Some("--catalogue"), Some(folder)) = (args.next().as_deref(), args.next()) else { bail!(HOW_TO) };
    let broker = Mosquitto::start().await?;
    println!(
        "Mosquitto is at {HOST}, with a certificate made for this run: TLS on port {}, WebSocket on port {}.\n",
        broker.tls, broker.websocket
    );
    let mut exchanges = 0;
    for url in [format!("mqtts://{HOST}:{}", broker.tls), format!("ws://{HOST}:{}/mqtt", broker.websocket)] {
        println!("The stub of {DOMAIN} connects to {url}.");
        let runtime = runtime(Path::new(&folder), &broker, &url)?.build().await?;
        let mut app = runtime.register_hyperty("hyperty://home.example/app").await?;
        exchanges += timeout(PATIENCE, from_the_app(&app, &broker)).await.context("the thing got nothing")??;
        exchanges += timeout(PATIENCE, to_the_app(&mut app, &broker)).await.context("the app got nothing")??;
        let outcome = runtime.shutdown(Duration::from_secs(5)).await;
        ensure!(outcome.abandoned.is_empty(), "the runtime did not shut down: {outcome:?}");
        println!();
    }
    println!("demo: mqtt, {exchanges} of 4 exchanges");
    ensure!(exchanges == 4, "an exchange did not happen");
    Ok(())
}

/// Returns a runtime that finds the stub where the domain's catalogue would have it, and may reach
/// the broker.
fn runtime(catalogue: &Path, broker: &Mosquitto, url: &str) -> Result<protostub_runtime::RuntimeBuilder> {
    let folder = catalogue.join("mqtt");
    let component = fs::read(folder.join("component.wasm")).with_context(|| format!("reading {}", folder.display()))?;
    let mut descriptor = Descriptor::parse(&fs::read(folder.join("descriptor.json"))?)?;
    descriptor.refer("component.wasm", &component);
    let source = MemorySource::new();
    let domain = Domain::parse(DOMAIN)?;
    source.insert(&domain, &format!("mqtt.{DOMAIN}"), descriptor.to_json(), component);
    let mut settings = DomainSettings::default();
    settings.configuration.insert("url".to_owned(), json!(url));
    settings.grants.push(format!("{HOST}:{},{}", broker.tls, broker.websocket).parse()?);
    settings.allow_loopback = true;
    let builder = Runtime::builder().home_domain("home.example").source(source).domain(domain, settings);
    Ok(builder.trust_roots(broker.certificate.clone()))
}

/// Lets a lamp listen with `mosquitto_sub`, and the app switch it on.
async fn from_the_app(app: &Hyperty, broker: &Mosquitto) -> Result<u32> {
    let mut lamp = Lamp::listen(broker).await?;
    let to = format!("mqtt://{DOMAIN}/lamp/1/set");
    let answer = app.request_within(Message::create(to.parse()?).with_body(json!({ "on": true })), PATIENCE).await?;
    ensure!(answer.code() == Some(200), "the broker refused the message: {:?}", answer.body);
    println!("  app → create {to} {{\"on\":true}} → 200");
    let line = lamp.next().await?;
    println!("  mosquitto_sub ← {line}");
    let (topic, payload) = line.split_once(' ').context("mosquitto_sub printed an unexpected line")?;
    let payload: Value = serde_json::from_str(payload)?;
    Ok(u32::from(topic == "lamp/1/set" && payload == json!({ "on": true })))
}

/// Lets a thermometer publish with `mosquitto_pub`. The app has subscribed to all thermometers, and
/// receives the value.
async fn to_the_app(app: &mut Hyperty, broker: &Mosquitto) -> Result<u32> {
    let all = format!("mqtt://{DOMAIN}/sensors/+/temperature");
    let answer = app.request_within(Message::subscribe(all.parse()?), PATIENCE).await?;
    ensure!(answer.code() == Some(200), "the broker refused the subscription: {:?}", answer.body);
    println!("  app → subscribe {all} → 200");
    let published =
        client("mosquitto_pub", broker)?.args(["-t", "sensors/7/temperature", "-m", r#"{"celsius":21.5}"#, "-q", "1"]).status();
    ensure!(published.await?.success(), "mosquitto_pub failed");
    println!(r#"  mosquitto_pub → sensors/7/temperature {{"celsius":21.5}}"#);
    let update = app.recv().await.context("the runtime has ended")?;
    let body: Value = update.body.as_ref().context("the update is empty")?.parse()?;
    println!("  app ← {} from {} {body}", update.kind.as_str(), update.from);
    let expected = format!("mqtt://{DOMAIN}/sensors/7/temperature");
    let is_right = update.kind == MessageType::Update && update.from.as_str() == expected && body == json!({ "celsius": 21.5 });
    Ok(is_right.into())
}

/// Returns the command of one of Mosquitto's own clients, over the broker's TLS port. `stdbuf`
/// makes it write each line at once, and not only when its buffer is full.
fn client(name: &str, broker: &Mosquitto) -> Result<Command> {
    let mut command = Command::new("stdbuf");
    command.arg("-oL").arg(program(name)?);
    command.args(["-h", HOST, "-p", &broker.tls.to_string(), "--cafile"]).arg(broker.folder().join("certificate.pem"));
    command.stdin(Stdio::null()).kill_on_drop(true);
    Ok(command)
}

/// A lamp that listens.
struct Lamp {
    _process: Child,
    output: Lines<BufReader<ChildStdout>>,
}

impl Lamp {
    /// Starts the lamp. Returns once it has subscribed, which it prints (`-d`).
    async fn listen(broker: &Mosquitto) -> Result<Self> {
        let mut command = client("mosquitto_sub", broker)?;
        command.args(["-t", "lamp/+/set", "-q", "1", "-v", "-d"]).stdout(Stdio::piped());
        let mut process = command.spawn().context("starting mosquitto_sub")?;
        let output = BufReader::new(process.stdout.take().context("mosquitto_sub has no output")?).lines();
        let mut this = Self { _process: process, output };
        while !this.line().await?.starts_with("Subscribed") {}
        Ok(this)
    }

    async fn line(&mut self) -> Result<String> {
        self.output.next_line().await?.context("mosquitto_sub has ended")
    }

    /// Returns the next message: its topic and its payload.
    async fn next(&mut self) -> Result<String> {
        loop {
            let line = self.line().await?;
            if line.starts_with("lamp/") {
                return Ok(line);
            }
        }
    }
}
