use std::{process::ExitCode, time::Duration};

use clap::Args;
use protostub_runtime::MessageType;
use protostub_types::{Address, json_indented};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use crate::{
    control::{
        actions::{self, TIMEOUTS},
        protocol::{Request, SendRequest, Sent},
    },
    failure::Failure,
    output::Output,
    reach::{self, ReachFlags, Reached, WithoutRuntime},
    text::{escaped, json_text},
};

/// Time limit for the graceful shutdown of the stub.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// Send one message, and print the reply
///
/// The running runtime sends the message; if none is running, the command starts one for this
/// purpose. The runtime finds, verifies and deploys the stub of the receiver's domain first. The
/// exit code is 1 if no reply arrives, or its code is 400 or more.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  protostub send --to hyperty://sp1.example/alice
  protostub send --to hyperty://127.0.0.1:8080/alice --type create --body '{\"value\":\"hello\"}'
  protostub send --to domain://registry.sp1.example --body '{\"resource\":\"user://x/bob\"}' --here -v
  protostub send --to hyperty://sp1.example/alice --json | jq .reply.body.value")]
pub(crate) struct Send {
    /// The receiver's address
    #[arg(long, value_name = "ADDRESS")]
    to: Address,

    /// Type of the message: read, create, update, delete, subscribe, unsubscribe, execute, or any
    /// other word
    #[arg(long = "type", value_name = "TYPE", default_value = "read")]
    kind: String,

    /// Body of the message, as JSON
    #[arg(long, value_name = "JSON", value_parser = json_value)]
    body: Option<Box<RawValue>>,

    /// The sender's address [default: an address of the home domain]
    #[arg(long, value_name = "ADDRESS")]
    from: Option<Address>,

    /// Timeout in seconds for the reply, including the deployment of the stub
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0, value_parser = seconds)]
    timeout: f64,

    #[command(flatten)]
    reach: ReachFlags,
}

fn json_value(text: &str) -> Result<Box<RawValue>, String> {
    serde_json::from_str(text).map_err(|error| format!("not JSON: {error}; write a string with its quotation marks: '\"hello\"'"))
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| TIMEOUTS.contains(seconds));
    seconds.ok_or_else(|| "the timeout is out of range; write 0.001 to 600 seconds".to_owned())
}

impl Send {
    pub(crate) async fn run(self, output: &Output) -> anyhow::Result<ExitCode> {
        let to = self.to.clone();
        let request = SendRequest {
            to: self.to,
            r#type: self.kind.parse::<MessageType>().map_err(Failure::usage)?.to_string(),
            from: self.from,
            body: self.body,
            timeout: self.timeout,
            progress: output.bars.are_shown(),
        };
        let sent = match self.reach.reach(WithoutRuntime::StartOwn).await? {
            Reached::Running(mut client) => {
                client.ask::<Sent>(&Request::Send(request), |progress| output.bars.show(&progress)).await?
            }
            Reached::Own(settings) => {
                let runtime = reach::start(*settings, &to, &output.bars).await?;
                let sent = actions::send(&runtime, request).await;
                let _outcome = runtime.shutdown(SHUTDOWN).await;
                sent?
            }
        };
        output.print_json(|| sent.text(), || sent.to_json())?;
        Ok(if sent.code().is_some_and(|code| code >= 400) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

/// The members of a reply that the command reads.
#[derive(Deserialize)]
struct Reply {
    from: String,
    #[serde(default)]
    body: Option<Box<RawValue>>,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    bytes: Option<String>,
}

#[derive(Deserialize)]
struct Coded {
    code: Option<u64>,
}

impl Sent {
    fn code(&self) -> Option<u64> {
        let reply: Reply = serde_json::from_str(self.reply.get()).ok()?;
        serde_json::from_str::<Coded>(reply.body?.get()).ok()?.code
    }

    /// Returns the line for programs.
    pub(crate) fn to_json(&self) -> String {
        json_text(&serde_json::to_string(self).unwrap_or_default())
    }

    /// Returns the lines for people.
    pub(crate) fn text(&self) -> String {
        let Ok(reply) = serde_json::from_str::<Reply>(self.reply.get()) else {
            return format!("a reply that this command cannot read, after {} ms", self.milliseconds);
        };
        let code = self.code().map_or_else(|| "a reply".to_owned(), |code| code.to_string());
        let body = match reply {
            Reply { body: Some(body), .. } => json_indented(body.get()).map(|body| format!("\n{body}")),
            Reply { text: Some(text), .. } => Some(format!("\nnot JSON: {}", json_text(&Value::from(text).to_string()))),
            Reply { bytes: Some(bytes), .. } => Some(format!("\nbytes, in base64: {}", escaped(&bytes))),
            _ => None,
        };
        let from = escaped(&reply.from);
        format!("{code} from {from} after {} ms{}", self.milliseconds, body.unwrap_or_default())
    }
}
