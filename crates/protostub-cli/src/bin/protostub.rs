//! The `protostub` command. What it does stands in the library beside it.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// Messages are allocated on one thread and freed on another, and many are large: the C library's allocator gives their memory back to the system each
/// time, and gets it anew (BENCHMARKS.md).
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    protostub_cli::main()
}
