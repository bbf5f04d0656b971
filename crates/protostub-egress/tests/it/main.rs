//! Tests of the egress against real servers on loopback.

mod connect;
mod fixture;
mod grants;
mod http;
mod proxy;
mod quotas;
mod starttls;
