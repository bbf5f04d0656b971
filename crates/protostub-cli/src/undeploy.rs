use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use crate::{
    control::protocol::{Request, Stub},
    output::Output,
    reach::SocketFlag,
};

/// Undeploy the stub of a domain
///
/// The stub disconnects from its domain first, within its time limit. The next message for the
/// domain deploys the stub again. The exit code is 4 if the stub is not deployed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  protostub undeploy sp1.example
  protostub undeploy slack://slack.com --socket /run/protostub/control.sock")]
pub(crate) struct Undeploy {
    /// The domain, an address of the domain, or the URL of a stub in a catalogue
    #[arg(value_name = "DOMAIN")]
    target: String,

    #[command(flatten)]
    socket: SocketFlag,
}

impl Undeploy {
    pub(crate) async fn run(self, output: &Output) -> anyhow::Result<ExitCode> {
        let mut client = self.socket.connect().await?;
        let stub: Stub = client.ask(&Request::Undeploy { target: self.target }, |_| {}).await?;
        output.print(|| stub.sentence(), || json!(stub))?;
        Ok(ExitCode::SUCCESS)
    }
}
