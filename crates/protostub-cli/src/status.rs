use std::{process::ExitCode, time::Duration};

use clap::Args;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    control::{
        client::Client,
        protocol::{Change, Dropped, Request, Status, Stub, Stubs},
    },
    event::{Event, FormattedEvent},
    output::Output,
    reach::SocketFlag,
    signals::StopSignal,
    text::table,
};

/// Time limit at the end to print the rest of the output.
const FLUSH: Duration = Duration::from_secs(1);

/// Show the status of a runtime, or of one stub in it
///
/// With --follow, shows each status change of the stubs until Ctrl-C, or until the runtime ends. A
/// reader that is too slow misses old changes, and gets their number.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  protostub status
  protostub status sp1.example
  protostub status --follow
  protostub status sp1.example --follow --json | jq -r .status")]
pub(crate) struct ShowStatus {
    /// The domain of the stub to show, or an address of the domain [default: the runtime and all
    /// its stubs]
    #[arg(value_name = "DOMAIN")]
    target: Option<String>,

    /// Continue, and show each status change
    #[arg(short, long)]
    follow: bool,

    #[command(flatten)]
    socket: SocketFlag,
}

impl ShowStatus {
    pub(crate) async fn run(self, output: &Output) -> anyhow::Result<ExitCode> {
        let mut client = self.socket.connect().await?;
        if self.follow {
            follow(&mut client, self.target, output).await?;
        } else if self.target.is_some() {
            let stub: Stub = client.ask(&Request::Status { target: self.target }, |_| {}).await?;
            output.print(|| stub.text(), || json!(stub))?;
        } else {
            let status: Status = client.ask(&Request::Status { target: None }, |_| {}).await?;
            output.print(|| status.text(), || json!(status))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Prints changes until a signal, the end of the runtime, or the end of the reader. A slow reader
/// delays neither signals nor the runtime.
async fn follow(client: &mut Client, target: Option<String>, output: &Output) -> anyhow::Result<()> {
    let mut stop = StopSignal::listen()?;
    let printer = output.printer()?;
    let format = output.format();
    let Status { runtime, home, .. } = client.follow(target).await?;
    let changes = async {
        printer.print_when_there_is_room(FormattedEvent { event: Event::Following { runtime, home }, format }).await?;
        while let Some(event) = client.change().await? {
            printer.print_when_there_is_room(FormattedEvent { event, format }).await?;
        }
        printer.print_when_there_is_room(FormattedEvent { event: Event::Ended, format }).await?;
        Ok(printer.flush().await?)
    };
    tokio::select! {
        biased;
        received = stop.received() => received?,
        fault = printer.failed() => return Err(fault.into()),
        outcome = changes => return outcome,
    }
    // Without a reader, the rest is not printed.
    let _ = timeout(FLUSH, printer.flush()).await;
    Ok(())
}

impl Change {
    /// Returns the change as a line for people.
    pub(crate) fn text(&self) -> String {
        let Self { domain, status, reason, at, .. } = self;
        let reason = reason.as_ref().map_or_else(String::new, |reason| format!(" ({reason})"));
        format!("{at} The stub of {domain} is {status}{reason}.")
    }

    /// Returns the change as an event for programs.
    pub(crate) fn event(&self) -> Value {
        let mut event = json!(self);
        event["event"] = "status".into();
        event
    }
}

impl Stub {
    /// Returns the status as a sentence for people.
    pub(crate) fn sentence(&self) -> String {
        let version = self.version.as_ref().map_or_else(String::new, |version| format!(", version {version},"));
        format!("The stub of {}{version} is {}.", self.key, self.status)
    }

    fn text(&self) -> String {
        let mut rows = vec![("status", format!("{} since {}", self.status, self.since))];
        rows.extend(self.reason.clone().map(|reason| ("reason", reason)));
        rows.extend(self.version.clone().map(|version| ("version", version)));
        rows.extend(self.stub.as_ref().map(|address| ("address", address.to_string())));
        rows.extend(self.sandbox.as_ref().map(|address| ("sandbox", address.to_string())));
        rows.extend(self.descriptor.clone().map(|url| ("descriptor", url)));
        rows.extend(self.digest.clone().map(|digest| ("sha256", digest)));
        rows.extend((self.restarts > 0).then(|| ("restarts", self.restarts.to_string())));
        let limits: Vec<_> = self.limits.iter().map(|(setting, times)| format!("{setting} ({times})")).collect();
        rows.extend((!limits.is_empty()).then(|| ("limits hit", limits.join(", "))));
        format!("{}\n\n{}", self.key, table(&rows))
    }
}

impl Stubs {
    /// Returns the stubs as a table for people.
    pub(crate) fn table(stubs: &[Stub]) -> String {
        if stubs.is_empty() {
            return "No stub is deployed.".to_owned();
        }
        let heads = ["STUB", "STATUS", "VERSION", "SINCE"].map(str::to_owned);
        let row = |stub: &Stub| {
            [stub.key.clone(), stub.status.to_string(), stub.version.clone().unwrap_or_default(), stub.since.clone()]
        };
        let rows: Vec<_> = std::iter::once(heads).chain(stubs.iter().map(row)).collect();
        let widths = [0, 1, 2, 3].map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
        let line = |row: &[String; 4]| {
            let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            cells.join("  ").trim_end().to_owned()
        };
        rows.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

impl Status {
    fn text(&self) -> String {
        let counts: Vec<_> = self.messages.iter().map(|(name, count)| format!("{count} {name}")).collect();
        let rows = [
            ("home domain", self.home.to_string()),
            ("since", self.since.clone()),
            ("process", format!("{} (protostub {})", self.pid, self.version)),
            ("messages", counts.join(", ")),
        ];
        let Dropped { output, log } = self.dropped;
        let dropped = format!("{output} of the output, {log} of the log");
        let is_any = output + log > 0;
        let rows: Vec<_> = rows.into_iter().chain(is_any.then_some(("lines dropped", dropped))).collect();
        format!("{}\n\n{}\n\n{}", self.runtime, table(&rows), Stubs::table(&self.stubs))
    }
}
