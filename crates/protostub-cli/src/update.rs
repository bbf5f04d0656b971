use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use crate::{
    control::protocol::{Outcome, Request, Update},
    output::Output,
    reach::SocketFlag,
};

/// Update the stub of a domain to the version that the domain publishes
///
/// The runtime downloads, verifies and compiles the new version while the old one runs. The new
/// version takes over the address, the session and the queue. If it is not live in time, the old
/// version takes over again, and the exit code is 1. The exit code is 4 if the stub is not
/// deployed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  protostub update sp1.example
  protostub update sp1.example --check --json | jq -r .outcome")]
pub(crate) struct UpdateStub {
    /// The domain, an address of the domain, or the URL of a stub in a catalogue
    #[arg(value_name = "DOMAIN")]
    target: String,

    /// Only show the published version
    #[arg(long)]
    check: bool,

    #[command(flatten)]
    socket: SocketFlag,
}

impl UpdateStub {
    pub(crate) async fn run(self, output: &Output) -> anyhow::Result<ExitCode> {
        let mut client = self.socket.connect().await?;
        let request = Request::Update { target: self.target, check: self.check, progress: output.bars.are_shown() };
        let update: Update = client.ask(&request, |progress| output.bars.show(&progress)).await?;
        output.print(|| update.sentence(), || json!(update))?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Update {
    /// Returns the outcome as a sentence for people.
    fn sentence(&self) -> String {
        let Self { key, from, to, .. } = self;
        // Two builds of one version differ in their digest.
        let published = if from == to { format!("another build of version {to}") } else { format!("version {to}") };
        match self.outcome {
            Outcome::UpToDate => format!("The stub of {key} is up to date: its domain publishes version {from}."),
            Outcome::Available => format!("The domain publishes {published} of the stub of {key}; version {from} is running."),
            Outcome::Updated => format!("The stub of {key} was updated from version {from} to {published}."),
        }
    }
}
