use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use crate::{
    control::protocol::{Reloaded, Request},
    output::Output,
    reach::SocketFlag,
};

/// Reload the policies of a running runtime
///
/// The runtime reads the file that `policy` in its settings names. If the file has an error, the
/// previous policies stay in force, and the command reports the error. SIGHUP does the same.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  protostub reload
  protostub reload --socket /run/protostub/control.sock")]
pub(crate) struct Reload {
    #[command(flatten)]
    socket: SocketFlag,
}

impl Reload {
    pub(crate) async fn run(self, output: &Output) -> anyhow::Result<ExitCode> {
        let mut client = self.socket.connect().await?;
        let reloaded: Reloaded = client.ask(&Request::Reload {}, |_| {}).await?;
        output.print(|| format!("The policies in {} are in force.", reloaded.policy.display()), || json!(reloaded))?;
        Ok(ExitCode::SUCCESS)
    }
}
