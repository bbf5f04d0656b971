//! End-to-end tests: the library's front door, with real components in real sandboxes, and servers on loopback.

mod conformance;
mod deploy;
mod embed;
mod faults;
mod forgery;
mod identity;
mod imports;
mod interleavings;
mod leaks;
mod mosquitto;
mod mqtt;
mod offline;
mod outage;
mod policy;
mod probes;
mod references;
mod restart;
mod signed;
mod status;
mod steps;
mod support;
mod token_server;
mod triggers;
mod two_runtimes;
mod update;
