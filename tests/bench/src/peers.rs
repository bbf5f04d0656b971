//! Measured processes other than this one. They take turns: a process reads a line (`trip 100
//! 500`), works, and answers with a line, mostly a number of nanoseconds.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

/// A process that takes turns. `Drop` ends it.
pub(crate) struct Peer {
    name: String,
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts the process, and waits until it is ready.
    pub(crate) fn start(name: &str, command: &mut Command) -> Result<Self> {
        let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = started.with_context(|| format!("starting {name}: {command:?}"))?;
        let (orders, answers) = (child.stdin.take(), child.stdout.take());
        let (orders, answers) = orders.zip(answers).context("the process has no pipes")?;
        let mut peer = Self { name: name.to_owned(), child, orders, answers: BufReader::new(answers) };
        match peer.answer()?.as_str() {
            "ready" => Ok(peer),
            other => bail!("{name} says {other:?}"),
        }
    }

    /// Starts this program again, with other arguments.
    pub(crate) fn own(args: &[&str]) -> Result<Self> {
        let program = std::env::current_exe().context("finding this program")?;
        Self::start(&args.join(" "), Command::new(program).args(args))
    }

    /// Starts the Extism side, a program and its plugin, if it was built.
    pub(crate) fn extism(built: Option<&(PathBuf, PathBuf)>) -> Result<Self> {
        let (program, plugin) = built.context("Extism's side is not built; run `cargo xtask bench`")?;
        Self::start("Extism", Command::new(program).arg(plugin))
    }

    /// Starts the Node.js side, if `node` is installed.
    pub(crate) fn node() -> Result<Self> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/node/worker.mjs");
        Self::start("Node.js", Command::new("node").arg(script))
    }

    /// Returns the id of the process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends an order and waits for its answer.
    pub(crate) fn ask(&mut self, order: &str) -> Result<String> {
        writeln!(self.orders, "{order}").and_then(|()| self.orders.flush()).with_context(|| format!("telling {}", self.name))?;
        let answer = self.answer()?;
        match answer.strip_prefix("error: ") {
            Some(error) => bail!("{} cannot `{order}`: {error}", self.name),
            None => Ok(answer),
        }
    }

    /// Sends an order whose answer is a number.
    pub(crate) fn number(&mut self, order: &str) -> Result<f64> {
        let answer = self.ask(order)?;
        answer.parse().with_context(|| format!("{} answers `{order}` with {answer:?}", self.name))
    }

    /// Sends an order whose answer is a time in nanoseconds.
    pub(crate) fn time(&mut self, order: &str) -> Result<Duration> {
        Ok(Duration::from_secs_f64(self.number(order)? / 1e9))
    }

    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        let read = self.answers.read_line(&mut line).with_context(|| format!("reading what {} says", self.name))?;
        if read == 0 {
            bail!("{} ended: {}", self.name, self.child.wait()?);
        }
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // The process may have exited by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
