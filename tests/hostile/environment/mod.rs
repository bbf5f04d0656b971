//! Hostile environments, as a table: few descriptors, a full disk, I/O errors, a silent name
//! service, a clock set back.
//!
//! [`for_each_environment`] names them all. Each runs the same [`case`] in its own [`process`]:
//!
//! 1. Domains publish a signed release, and their stubs are live.
//! 2. The environment [fails](failure).
//! 3. The domains publish older, unsigned and newer releases, while requests arrive at fixed times.
//! 4. A second runtime starts on the same cache directory.
//! 5. The environment recovers, and all domains work again.
//! 6. A new runtime still refuses the older and unsigned releases.
//!
//! A case escapes if a runtime accepts a release that is less than an earlier one, or if a message
//! has no outcome.

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

/// An environment that fails.
#[derive(Debug, Clone, Copy)]
pub struct Environment {
    /// The function's name in [`environments`].
    pub name: &'static str,
    setting: Setting,
    fail: Fail,
    /// `true` if a runtime that starts during the failure can know the accepted releases.
    records_remain: bool,
    names: Names,
}

/// The name service that the runtime asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    /// No name service: the case needs no names.
    Unused,
    /// The system's resolver, over the network.
    System,
    /// A [`Resolver`](protostub_runtime::Resolver) of the host program.
    Own,
}

/// The outcome of an environment's case.
#[derive(Debug)]
pub enum Outcome {
    /// The case ran.
    Judged(Verdict),
    /// The machine or the user cannot provide the environment, for this reason.
    Skipped(String),
}

/// The verdict on a hostile environment.
#[derive(Debug)]
pub struct Verdict {
    /// A summary, in one line.
    pub how: String,
    /// The reasons for which the environment is not contained. Empty if it is.
    pub escapes: Vec<String>,
    /// The counts, for a report.
    pub counted: Value,
}

/// The size of a case, and its folder of compiled code.
#[derive(Debug, Clone)]
pub struct Scale {
    /// The number of domains that publish stubs.
    pub domains: usize,
    /// The number of well-behaved stubs under load.
    pub neighbours: usize,
    /// The folder of compiled code. `None` for one of this case alone.
    pub code_dir: Option<PathBuf>,
}

impl Environment {
    fn new(name: &'static str, setting: Setting, fail: Fail) -> Self {
        Self { name, setting, fail, records_remain: true, names: Names::Unused }
    }

    /// Runs the case in a child process: this program, with these arguments. The program must call
    /// [`Child::act`] there.
    ///
    /// # Errors
    /// If the program does not start, or the folder is not writable.
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
