//! The contract's track 0.1 in Rust: the code that `bindgen!` generates from `wit/0.1`. The types
//! of its `types` interface are written by hand ([`types`]), so that text and bytes cross in one
//! copy in each direction.

mod address_cache;
mod convert;
#[expect(
    unreachable_pub,
    reason = "the generated code re-exports it as one of its own modules; it is private to the crate all the same"
)]
pub mod types;

pub(crate) use address_cache::AddressCache;
pub(crate) use convert::{lift, lower, restore};
pub(crate) use generated::{
    Protostub, ProtostubPre,
    rethink::protostub::{configuration, http, identity, log, presence, session, tcp, timers, websocket},
};

/// Name of the track. Stubs export `rethink:protostub/stub@0.1.x`.
pub(crate) const TRACK: &str = "0.1";

/// The name of the interface that makes a component a stub, without its version.
pub(crate) const STUB_EXPORT: &str = "rethink:protostub/stub";

/// The interfaces that a stub of this track may import, in addition to those of WASI.
pub(crate) const IMPORTS: &[&str] = &[
    "rethink:protostub/bus@0.1.0",
    "rethink:protostub/configuration@0.1.0",
    "rethink:protostub/http@0.1.0",
    "rethink:protostub/identity@0.1.0",
    "rethink:protostub/log@0.1.0",
    "rethink:protostub/presence@0.1.0",
    "rethink:protostub/session@0.1.0",
    "rethink:protostub/tcp@0.1.0",
    "rethink:protostub/timers@0.1.0",
    "rethink:protostub/types@0.1.0",
    "rethink:protostub/websocket@0.1.0",
];

mod generated {
    wasmtime::component::bindgen!({
        world: "protostub",
        path: "../../wit/0.1",
        imports: {
            // It posts to subscribers, and not on the guest's stack (`idle_stub_kib`).
            "rethink:protostub/presence.publish": async,
        },
        exports: { default: async },
        with: {
            "rethink:protostub/types": crate::contract::types,
            // Its functions are linked by hand (`host::bus`): `post` reads the addresses of
            // messages in the guest's memory.
            "rethink:protostub/bus": crate::contract::types,
        },
    });
}
