use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use crate::{
    control::protocol::{Accepted, Request},
    output::Output,
    reach::SocketFlag,
};

/// Show the accepted version of a domain's stub, or forget it
///
/// The runtime deploys no version that is older than the accepted one, because an attacker could
/// publish old versions with known faults. A domain that publishes too high a version by mistake
/// therefore locks its later versions out. With --reset, the runtime forgets the accepted version,
/// and accepts the next version that the domain publishes, also an unsigned one if no signature is
/// required. The stub must be undeployed for that.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  protostub accepted sp1.example
  protostub undeploy sp1.example && protostub accepted sp1.example --reset")]
pub(crate) struct AcceptedVersion {
    /// The domain, an address of the domain, or the URL of a stub in a catalogue
    #[arg(value_name = "DOMAIN")]
    target: String,

    /// Forget the accepted version
    #[arg(long)]
    reset: bool,

    #[command(flatten)]
    socket: SocketFlag,
}

impl AcceptedVersion {
    pub(crate) async fn run(self, output: &Output) -> anyhow::Result<ExitCode> {
        let mut client = self.socket.connect().await?;
        let request = Request::Accepted { target: self.target, reset: self.reset };
        let accepted: Accepted = client.ask(&request, |_| {}).await?;
        output.print(|| accepted.sentence(), || json!(accepted))?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Accepted {
    /// Returns the outcome as a sentence for people.
    fn sentence(&self) -> String {
        let Self { key, accepted, reset } = self;
        let Some(release) = accepted else { return format!("No version of the stub of {key} is accepted yet.") };
        let signed = if release.signed { ", which is signed" } else { "" };
        match reset {
            true => format!(
                "Version {}{signed} of the stub of {key} was forgotten. The next deployment accepts any version.",
                release.version
            ),
            false => format!("Version {}{signed} of the stub of {key} is accepted. Older versions are refused.", release.version),
        }
    }
}
