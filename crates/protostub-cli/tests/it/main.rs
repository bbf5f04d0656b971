//! The command, as people and scripts see it: its help, its outputs and its exit codes.

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
mod inspect;
mod refusals;
mod shapes;
mod signed;
mod talk;
