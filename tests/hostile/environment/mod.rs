//! Environments that let the runtime down, as a table: few descriptors, a full disk, I/O errors, a silent name service, a clock that was set back.
//!
//! [`for_each_environment`] names them all. Each is made in a process of its own ([`process`]), in which the same things happen ([`case`]): stubs
//! are live, signed, in a version; then the environment fails ([`failure`]); older and unsigned releases are offered while messages come; the
//! environment recovers; and a new process finds what was accepted. Nothing may be accepted that was not before, and every message has its outcome.

mod case;
pub mod environments;
mod failure;
mod names;
mod process;
mod releases;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::Value;

pub use self::process::Child;
use self::{failure::Fail, process::Setting};

/// An environment that fails, and how.
#[derive(Debug, Clone, Copy)]
pub struct Environment {
    /// The function's name in [`environments`].
    pub name: &'static str,
    setting: Setting,
    fail: Fail,
    /// Whether what was accepted can be known to a runtime that starts while the environment fails.
    records_remain: bool,
    names: Names,
}

/// Which name service the runtime asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    /// None: nothing is looked up.
    Unused,
    /// The system's resolver, over the network.
    System,
    /// A [`Resolver`](protostub_runtime::Resolver) of the host program.
    Own,
}

/// What became of an environment's case.
#[derive(Debug)]
pub enum Outcome {
    /// It ran.
    Judged(Verdict),
    /// It cannot be made here, for this reason.
    Skipped(String),
}

/// What was seen in a hostile environment.
#[derive(Debug)]
pub struct Verdict {
    /// What became of the releases and the messages, in a line.
    pub how: String,
    /// Why it is not contained; empty: it is.
    pub escapes: Vec<String>,
    /// What was counted, for a report.
    pub counted: Value,
}

/// How much happens in an environment, and where.
#[derive(Debug, Clone)]
pub struct Scale {
    /// The number of domains that publish stubs.
    pub domains: usize,
    /// The number of well-behaved stubs under load.
    pub neighbours: usize,
    /// The folder of compiled code; none: one for this case alone.
    pub code_dir: Option<PathBuf>,
}

impl Environment {
    fn new(name: &'static str, setting: Setting, fail: Fail) -> Self {
        Self { name, setting, fail, records_remain: true, names: Names::Unused }
    }

    /// Runs the case in a process of its own: this program, with these arguments, which has to call [`Child::act`] there.
    ///
    /// # Errors
    /// If this program cannot be started, or the folder not be used.
    pub async fn run(&self, args: &[&str], scale: &Scale, folder: &Path) -> Result<Outcome> {
        process::run(self, args, scale, folder).await
    }
}

impl Verdict {
    fn read(counted: Value) -> Result<Self> {
        let how = counted["how"].as_str().context("a verdict without `how`")?.to_owned();
        let escapes = counted["escapes"].as_array().context("a verdict without `escapes`")?;
        let escapes = escapes.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        Ok(Self { how, escapes, counted })
    }

    /// The verdict on a process that ended without one.
    fn ended(problem: String) -> Self {
        Self { how: String::new(), escapes: vec![problem], counted: Value::Null }
    }
}

/// Calls a macro with the names of all environments, which are functions of [`environments`].
#[macro_export]
macro_rules! for_each_environment {
    ($each:ident) => {
        $each! {
            few_descriptors,
            full_disk,
            records_are_folders,
            records_are_loops,
            folders_are_files,
            folders_are_gone,
            silent_dns,
            silent_resolver,
            clock_set_back,
        }
    };
}

macro_rules! table {
    ($($name:ident,)*) => {
        /// All environments, in the order in which they are run.
        #[must_use]
        pub fn all_environments() -> Vec<Environment> {
            vec![$(environments::$name()),*]
        }
    };
}
for_each_environment!(table);
