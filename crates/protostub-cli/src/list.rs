use std::process::ExitCode;

use clap::Args;

use crate::{
    control::protocol::{Request, Stubs},
    output::Output,
    reach::SocketFlag,
};

/// List the stubs that are deployed or being deployed
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  protostub list
  protostub list --json | jq -r 'select(.status != \"live\") | .domain'")]
pub(crate) struct List {
    #[command(flatten)]
    socket: SocketFlag,
}

impl List {
    pub(crate) async fn run(self, output: &Output) -> anyhow::Result<ExitCode> {
        let mut client = self.socket.connect().await?;
        let Stubs { stubs } = client.ask(&Request::List {}, |_| {}).await?;
        output.print_each(&stubs, || Stubs::table(&stubs))?;
        Ok(ExitCode::SUCCESS)
    }
}
