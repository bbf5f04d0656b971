//! The command, as people and scripts see it: its help, its output and its exit codes.

mod command;
#[cfg(unix)]
mod compile_worker;
mod conformance;
#[cfg(unix)]
mod control;
#[cfg(target_os = "linux")]
mod descriptors;
mod explain;
mod help;
#[cfg(all(unix, feature = "conformance", feature = "serve"))]
mod hostile;
mod inspect;
mod refusals;
mod shapes;
mod signed;
mod talk;
#[cfg(target_os = "linux")]
mod threads;
