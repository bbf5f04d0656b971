//! Which runtime a command is for: one that `protostub run` runs, or one of its own.
//!
//! 1. With `--socket`, the one that listens there.
//! 2. With `--here`, or any flag that describes a runtime, one of its own (`deploy` and `send` only).
//! 3. With the environment variable `PROTOSTUB_SOCKET`, the one that listens there.
//! 4. The one that this user runs, if it is the only one.
//! 5. Otherwise `send` has one of its own; for all others it is an error.

use std::{env, path::PathBuf};

use clap::Args;
use protostub_runtime::{Address, Runtime, StubKey};

use crate::{
    bars::Bars,
    control::client::Client,
    failure::Failure,
    settings::{GrantFlags, RuntimeFlags, Settings},
};

/// The flag of commands that ask a running runtime.
#[derive(Debug, Args)]
#[command(next_help_heading = "Which runtime")]
pub(crate) struct SocketFlag {
    /// Ask the runtime that listens at this socket [default: what PROTOSTUB_SOCKET says, or the only one that
    /// this user runs]
    #[arg(long, value_name = "FILE")]
    socket: Option<PathBuf>,
}

/// The flags of commands that can have a runtime of their own.
#[derive(Debug, Args)]
#[command(next_help_heading = "Which runtime")]
pub(crate) struct ReachFlags {
    #[command(flatten)]
    socket: SocketFlag,

    /// Start a runtime for this command alone. Any of the flags of a runtime, below, says so too
    #[arg(long)]
    here: bool,

    #[command(flatten)]
    runtime: RuntimeFlags,

    #[command(flatten)]
    grants: GrantFlags,
}

/// A runtime that is there, or what one of the command's own would be.
pub(crate) enum Reached {
    Running(Client),
    Own(Box<Settings>),
}

/// What a command does if no runtime runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WithoutRuntime {
    Fail,
    /// Starts a runtime of its own.
    StartOwn,
}

impl SocketFlag {
    /// The runtime that is asked.
    pub(crate) async fn connect(&self) -> anyhow::Result<Client> {
        self.find().await?.ok_or_else(|| {
            Failure::no_runtime("no runtime is running: start one with `protostub run`, or say where it listens with --socket")
        })
    }

    async fn find(&self) -> anyhow::Result<Option<Client>> {
        let of_environment = || env::var_os("PROTOSTUB_SOCKET").filter(|path| !path.is_empty()).map(PathBuf::from);
        match self.socket.clone().or_else(of_environment) {
            Some(path) => Client::connect(&path).await.map(Some),
            None => Client::find().await,
        }
    }
}

impl ReachFlags {
    /// Returns the runtime to ask. `without` says what to do if none runs.
    pub(crate) async fn reach(self, without: WithoutRuntime) -> anyhow::Result<Reached> {
        let own = self.here || self.runtime != RuntimeFlags::default() || self.grants != GrantFlags::default();
        if own && self.socket.socket.is_some() {
            let problem =
                "--socket asks a runtime that is running, and --here and flags of a runtime start another one: leave out either";
            return Err(Failure::usage(problem));
        }
        let settings = |runtime, grants| Ok(Reached::Own(Box::new(Settings::load(runtime)?.grant(grants)?)));
        if own {
            return settings(self.runtime, self.grants);
        }
        if without == WithoutRuntime::Fail {
            return self.socket.connect().await.map(Reached::Running);
        }
        match self.socket.find().await? {
            Some(client) => Ok(Reached::Running(client)),
            None => settings(self.runtime, self.grants),
        }
    }
}

/// A runtime for a command alone, which is about `target`.
pub(crate) async fn start(mut settings: Settings, target: &Address, bars: &Bars) -> anyhow::Result<Runtime> {
    let domain =
        target.domain().ok_or_else(|| Failure::usage(format!("{target} has no domain that could be asked for its stub")))?;
    settings.runtime.network.allow_loopback |= domain.is_loopback();
    // Without a home of its own, the runtime is one of the target's domain.
    settings.runtime.home.get_or_insert_with(|| StubKey::of(target, &domain).map_or(domain, |key| key.domain().clone()));
    Ok(settings.builder()?.progress(bars.observer()).build().await?)
}
