//! The `protostub` command. What it does stands in the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    protostub_cli::main()
}
