//! End-to-end tests of the library's public API, with real components in real sandboxes, and
//! servers on loopback.

mod batched_echo;
mod conformance;
mod deploy;
mod embed;
mod environment;
mod faults;
mod forgery;
mod fuzz;
mod guests;
mod handles;
mod hooks;
mod hostile;
mod identity;
mod imports;
mod interleavings;
mod leaks;
mod limits;
mod lines;
mod login;
mod machine;
mod mosquitto;
mod mqtt;
mod offline;
mod outage;
mod poison;
mod policy;
mod post_errors;
mod probes;
mod reconnect;
mod references;
mod restart;
mod retire;
mod sayings;
mod settings;
mod signed;
mod status;
mod steps;
mod token_server;
mod triggers;
mod trust_state;
mod two_runtimes;
mod update;

use protostub_test_support as support;
