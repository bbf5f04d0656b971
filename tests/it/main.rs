//! End-to-end tests: the library's front door, with real components in real sandboxes, and servers on loopback.

mod deploy;
mod embed;
mod faults;
mod imports;
mod mosquitto;
mod mqtt;
mod offline;
mod outage;
mod policy;
mod probes;
mod restart;
mod status;
mod steps;
mod support;
mod triggers;
mod two_runtimes;
mod update;
