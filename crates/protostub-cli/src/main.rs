//! The `protostub` command.

fn main() {}
