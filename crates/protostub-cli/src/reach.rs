//! Selects the runtime for a command: one that `protostub run` runs, or one of its own.
//!
//! 1. With `--socket`: the runtime that listens at this socket.
//! 2. With `--here`, or any flag that describes a runtime: one of its own (`deploy` and `send`
//!    only).
//! 3. With the environment variable `PROTOSTUB_SOCKET`: the runtime that listens at this socket.
//! 4. The only runtime of this user, if exactly one is running.
//! 5. Otherwise `send` starts one of its own, and all other commands fail.

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
    /// Ask the runtime that listens at this socket [default: the value of PROTOSTUB_SOCKET, or the
    /// only runtime of this user]
    #[arg(long, value_name = "FILE")]
    socket: Option<PathBuf>,
}

/// The flags of commands that can start a runtime of their own.
#[derive(Debug, Args)]
#[command(next_help_heading = "Which runtime")]
pub(crate) struct ReachFlags {
    #[command(flatten)]
    socket: SocketFlag,

    /// Start a runtime for this command alone. Any of the runtime flags below implies this
    #[arg(long)]
    here: bool,

    #[command(flatten)]
    runtime: RuntimeFlags,

    #[command(flatten)]
    grants: GrantFlags,
}

/// A running runtime, or the settings for one of the command's own.
pub(crate) enum Reached {
    Running(Client),
    Own(Box<Settings>),
}

/// The behaviour of a command when no runtime is running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WithoutRuntime {
    Fail,
    /// Starts a runtime of its own.
    StartOwn,
}

impl SocketFlag {
    /// Connects to the runtime to ask.
    pub(crate) async fn connect(&self) -> anyhow::Result<Client> {
        self.find().await?.ok_or_else(|| {
            Failure::no_runtime("no runtime is running; start one with `protostub run`, or name its socket with --socket")
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
    /// Returns the runtime to ask. `without` is the behaviour when no runtime is running.
    pub(crate) async fn reach(self, without: WithoutRuntime) -> anyhow::Result<Reached> {
        let own = self.here || self.runtime != RuntimeFlags::default() || self.grants != GrantFlags::default();
        if own && self.socket.socket.is_some() {
            let problem =
                "--socket asks a running runtime, but --here and runtime flags start another one; remove one of the two";
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

/// Starts a runtime for this command alone, to reach `target`.
pub(crate) async fn start(mut settings: Settings, target: &Address, bars: &Bars) -> anyhow::Result<Runtime> {
    let domain = target
        .domain()
        .ok_or_else(|| Failure::usage(format!("{target} has no domain; name a domain, or an address with a domain")))?;
    settings.runtime.network.allow_loopback |= domain.is_loopback();
    // Without a configured home domain, the target's domain is the home.
    settings.runtime.home.get_or_insert_with(|| StubKey::of(target, &domain).map_or(domain, |key| key.domain().clone()));
    let runtime = settings.builder()?.progress(bars.observer()).build().await;
    runtime.map_err(|error| settings.explain(error))
}
