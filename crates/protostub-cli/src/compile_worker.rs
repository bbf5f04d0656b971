use std::{io, process::ExitCode};

use clap::Args;

/// Compile one component from standard input to standard output, for a runtime
///
/// A running runtime starts this process by itself: it has limits, and can be killed while it
/// compiles a stranger's component. Do not call it by hand.
#[derive(Debug, Args)]
pub(crate) struct CompileWorker {}

impl CompileWorker {
    /// Compiles the component. Writes a failure to standard error, from which the runtime reads it.
    pub(crate) fn run(&self) -> ExitCode {
        match protostub_runtime::compile_worker() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                // If standard error is closed, there is no other place to report to.
                let _ = io::Write::write_all(&mut io::stderr(), format!("{error}\n").as_bytes());
                ExitCode::FAILURE
            }
        }
    }
}
