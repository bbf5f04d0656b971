//! The command, as people and scripts see it: its help, its outputs and its exit codes.

mod command;
mod help;
mod inspect;
mod refusals;
mod talk;
