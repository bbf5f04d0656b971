use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;
use protostub_runtime::{Message, MessageType};
use protostub_types::{Address, StubKey};
use serde_json::{Value, json};

use crate::{
    output::{Output, Usage},
    settings::{GrantFlags, RuntimeFlags, Settings, is_loopback},
};

/// How long the stub may take to say goodbye.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// Send one message, and print the reply
///
/// A runtime of its own finds, verifies and deploys the stub of the receiver's domain on the way. The exit
/// code is 1 if there is no reply, or its code is 400 or more.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  protostub send --to hyperty://sp1.example/alice
  protostub send --to hyperty://127.0.0.1:8080/alice --type create --body '{\"value\":\"hello\"}'
  protostub send --to domain://registry.sp1.example --body '{\"resource\":\"user://x/bob\"}' -v
  protostub send --to hyperty://sp1.example/alice --json | jq .reply.body.value")]
pub(crate) struct Send {
    /// The receiver's address
    #[arg(long, value_name = "ADDRESS")]
    to: Address,

    /// What the message asks for: read, create, update, delete, subscribe, unsubscribe, execute, or any
    /// other word
    #[arg(long = "type", value_name = "TYPE", default_value = "read")]
    kind: String,

    /// What it carries, as JSON
    #[arg(long, value_name = "JSON", value_parser = json_value)]
    body: Option<Value>,

    /// The sender's address [default: an address of the home domain]
    #[arg(long, value_name = "ADDRESS")]
    from: Option<Address>,

    /// How many seconds to wait for the reply, the deployment of the stub included
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0, value_parser = seconds)]
    timeout: f64,

    /// Settings in a file, as for `protostub run`
    #[arg(long, value_name = "FILE")]
    config: Option<std::path::PathBuf>,

    #[command(flatten)]
    runtime: RuntimeFlags,

    #[command(flatten)]
    grants: GrantFlags,
}

fn json_value(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("it is no JSON ({error}); a text needs its quotation marks: '\"hello\"'"))
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.001..=600.0).contains(seconds));
    seconds.ok_or_else(|| "0.001 to 600 seconds are possible".to_owned())
}

impl Send {
    pub(crate) async fn run(self, output: Output) -> anyhow::Result<ExitCode> {
        let kind: MessageType = self.kind.parse().map_err(Usage::of)?;
        let mut settings = match &self.config {
            Some(file) => Settings::read(file)?,
            None => Settings::default(),
        };
        settings = settings.overlay(self.runtime).grant(self.grants);
        let domain =
            self.to.domain().ok_or_else(|| Usage::of(format_args!("{} has no domain that it could be sent to", self.to)))?;
        // Without a home of its own, the runtime is one of the receiver's domain.
        let home = settings
            .home
            .get_or_insert_with(|| StubKey::of(&self.to, &domain).map_or(domain, |key| key.domain().clone()))
            .clone();
        settings.allow_loopback |= self.to.domain().as_ref().is_some_and(is_loopback);
        let runtime = settings.builder()?.build().await?;

        let from = match self.from {
            Some(from) => from,
            None => Address::parse(&format!("hyperty://{home}/{}", uuid::Uuid::new_v4()))?,
        };
        let sender = runtime.register_hyperty(from).await?;
        let mut message = Message::new(kind, self.to);
        if let Some(body) = self.body {
            message = message.with_body(body);
        }
        let sent = Instant::now();
        let reply = sender.request_within(message, Duration::from_secs_f64(self.timeout)).await;
        let took = sent.elapsed();
        let _outcome = runtime.shutdown(SHUTDOWN).await;

        let reply = reply?;
        let whole: Value = serde_json::from_str(&reply.to_json()?)?;
        let code = reply.code();
        output.print(
            || {
                let code = code.map_or_else(|| "a reply".to_owned(), |code| code.to_string());
                let body = whole.get("body").map_or_else(String::new, |body| format!("\n{body:#}"));
                format!("{code} from {} after {} ms{body}", reply.from, took.as_millis())
            },
            || json!({ "reply": whole, "milliseconds": u64::try_from(took.as_millis()).unwrap_or(u64::MAX) }),
        )?;
        Ok(if code.is_some_and(|code| code >= 400) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}
