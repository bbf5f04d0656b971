use std::{process::ExitCode, time::Duration};

use clap::Args;
use protostub_types::Address;
use serde_json::json;

use crate::{
    control::{
        actions,
        protocol::{Request, Stub},
    },
    failure::Failure,
    output::Output,
    reach::{self, ReachFlags, Reached, WithoutRuntime},
};

/// Time limit for the graceful shutdown of the stub.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// Deploy the stub of a domain, and wait until it is live
///
/// If the stub is live already, the command succeeds at once. With --here, the command starts a
/// runtime of its own for a rehearsal: the runtime finds, verifies, compiles, starts and connects
/// the stub, then undeploys it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  protostub deploy sp1.example
  protostub deploy slack://user@slack.com --json
  protostub deploy sp1.example --here --home home.example   # does it work?")]
pub(crate) struct Deploy {
    /// The domain, an address of the domain, or the URL of a stub in a catalogue
    #[arg(value_name = "DOMAIN")]
    target: String,

    #[command(flatten)]
    reach: ReachFlags,
}

impl Deploy {
    pub(crate) async fn run(self, output: &Output) -> anyhow::Result<ExitCode> {
        let (stub, is_over) = match self.reach.reach(WithoutRuntime::Fail).await? {
            Reached::Running(mut client) => {
                let request = Request::Deploy { target: self.target, progress: output.bars.are_shown() };
                (client.ask::<Stub>(&request, |progress| output.bars.show(&progress)).await?, "")
            }
            Reached::Own(settings) => {
                let target = Address::parse(&self.target).map_err(Failure::usage)?;
                let runtime = reach::start(*settings, &target, &output.bars).await?;
                let deployed = actions::deploy(&runtime, &self.target).await;
                let _outcome = runtime.shutdown(SHUTDOWN).await;
                (deployed?, " It was undeployed again.")
            }
        };
        output.print(|| format!("{}{is_over}", stub.sentence()), || json!(stub))?;
        Ok(ExitCode::SUCCESS)
    }
}
