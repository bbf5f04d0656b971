use std::{io, process::ExitCode};

use clap::Args;

/// Compile one component from standard input to standard output, for a runtime
///
/// A running runtime calls this by itself, so that what compiles a stranger's component can be ended, and has limits. There is no use for it by hand.
#[derive(Debug, Args)]
pub(crate) struct CompileWorker {}

impl CompileWorker {
    /// Says on standard error what the runtime is to tell.
    pub(crate) fn run(&self) -> ExitCode {
        match protostub_runtime::compile_worker() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                // Nobody is left to tell if that fails.
                let _ = io::Write::write_all(&mut io::stderr(), format!("{error}\n").as_bytes());
                ExitCode::FAILURE
            }
        }
    }
}
