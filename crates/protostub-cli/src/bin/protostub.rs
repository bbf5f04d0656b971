//! The `protostub` command. The library of this package implements it.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// The mimalloc allocator, for throughput. Messages are allocated on one thread and freed on
/// another, and many are large. The C library's allocator returns their memory to the system each
/// time, and requests it again (BENCHMARKS.md).
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    protostub_cli::main()
}
