//! The built command as a child process.

use std::{
    fs::OpenOptions,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    sync::mpsc,
    time::timeout,
};

/// Time limit for an event of the command.
const EVENT: Duration = Duration::from_secs(120);

/// A running `protostub`. `Drop` kills it.
pub(crate) struct Program {
    child: Child,
    /// The events of its output, without messages.
    events: mpsc::UnboundedReceiver<Value>,
}

impl Program {
    /// Starts the command with `--json`. Its log is appended to a file. `arrived` gets each message
    /// of its output.
    pub(crate) fn start(command: &Path, args: &[&str], log: &Path, arrived: impl Fn(&Value) + Send + 'static) -> Result<Self> {
        let log = OpenOptions::new().create(true).append(true).open(log).context("opening the log")?;
        let mut child = Command::new(command)
            .args(args)
            .arg("--json")
            .env_remove("PROTOSTUB_LOG")
            .env_remove("PROTOSTUB_SOCKET")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", command.display()))?;
        let mut lines = BufReader::new(child.stdout.take().context("the command has no output")?).lines();
        let (sender, events) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            // A kill can cut the last line.
            while let Ok(Some(line)) = lines.next_line().await {
                match serde_json::from_str::<Value>(&line) {
                    Ok(event) if event["event"] == "message" => arrived(&event["message"]),
                    Ok(event) => drop(sender.send(event)),
                    Err(_) => {}
                }
            }
        });
        Ok(Self { child, events })
    }

    /// Waits for an event with this name, and skips others.
    pub(crate) async fn event(&mut self, name: &str) -> Result<Value> {
        let event = async {
            while let Some(event) = self.events.recv().await {
                if event["event"] == name {
                    return Ok(event);
                }
            }
            bail!("the command ended before its event `{name}`")
        };
        timeout(EVENT, event).await.with_context(|| format!("no event `{name}` within {EVENT:?}"))?
    }

    /// Sends SIGKILL, and waits for the end.
    pub(crate) async fn kill(mut self) -> Result<()> {
        self.child.kill().await.context("killing the command")
    }

    /// Sends SIGTERM, and waits for the end.
    pub(crate) async fn stop(mut self) -> Result<ExitStatus> {
        let id = self.child.id().context("the command has ended")?.to_string();
        Command::new("kill").args(["-TERM", &id]).status().await?;
        timeout(EVENT, self.child.wait()).await.context("the command does not end after SIGTERM")?.map_err(Into::into)
    }
}
