use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use crate::{
    control::protocol::{Outcome, Request, Update},
    output::Output,
    reach::SocketFlag,
};

/// Update the stub of a domain to what the domain publishes now
///
/// The new version is downloaded, verified and compiled while the old one runs, and takes over its address, its session and
/// its queue. If it is not live in time, the old one takes over again, and the exit code is 1. The exit code is 4
/// if no such stub is deployed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  protostub update sp1.example
  protostub update sp1.example --check --json | jq -r .outcome")]
pub(crate) struct UpdateStub {
    /// The domain, an address of the domain, or the URL of a stub in a catalogue
    #[arg(value_name = "DOMAIN")]
    target: String,

    /// Only tell what there is
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
    /// A sentence for people.
    fn sentence(&self) -> String {
        let Self { key, from, to, .. } = self;
        // What has the same version has another digest.
        let published = if from == to { format!("another build of version {to}") } else { format!("version {to}") };
        match self.outcome {
            Outcome::UpToDate => format!("The stub of {key} is up to date: version {from} is what its domain publishes."),
            Outcome::Available => format!("The domain publishes {published} of the stub of {key}, which runs version {from}."),
            Outcome::Updated => format!("The stub of {key} runs {published} now, after version {from}."),
        }
    }
}
