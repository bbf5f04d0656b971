//! Cases that do not apply to a runtime of this kind, each with the reason.

use super::RuntimeSuiteContext;
use crate::{Case, Verdict, case::Script};

/// A case that does not apply. `cites` lists its rows of the catalogue, if its id is not one of
/// them.
macro_rules! not_applicable {
    ($id:literal, $what:literal, $reason:literal) => {
        not_applicable!($id, cites $id, $what, $reason)
    };
    ($id:literal, cites $rows:literal, $what:literal, $reason:literal) => {
        Script {
            case: Case::new(concat!("runtime/", $id), $what, concat!("tests/CASES.md: ", $rows)),
            run: |_| Box::pin(async { Err(Verdict::not_applicable($reason)) }),
        }
    };
}

pub(super) const CASES: &[Script<RuntimeSuiteContext>] = &[
    not_applicable!("C2", "disconnected has the description 'Normal closure, …'", "the message node's stub sets the description"),
    not_applicable!("C3", "re-connection", "a stub reconnects: stub/server/comes-back, stub/session/crash, node/connect/re-open"),
    not_applicable!(
        "C4-C6",
        cites "C4, C5, C6",
        "allocation and release of addresses",
        "a message node allocates addresses: node/allocation, node/release"
    ),
    not_applicable!(
        "C7-C8",
        cites "C7, C8",
        "learned addresses and subscriptions",
        "a message node learns addresses: node/connect/ping, node/subscription"
    ),
    not_applicable!(
        "C9-C10",
        cites "C9, C10",
        "stubs of Node.js and Matrix nodes",
        "this project has no stubs for these nodes"
    ),
    not_applicable!(
        "C11-C15",
        cites "C11, C12, C13, C14, C15",
        "sessions that fail, loops, and order",
        "a stub handles its sessions: stub/server, stub/messages"
    ),
    not_applicable!(
        "R2-R4",
        cites "R2, R3, R4",
        "P2P handlers and requesters",
        "this project has no stubs that connect two runtimes without a server"
    ),
    not_applicable!("R9", "isLegacy", "the scheme of an address names its stub: runtime/url/legacy"),
    not_applicable!("R10", "registerPEP, unregisterPEP", "policies are objects of the host program"),
    not_applicable!("L2", "loadIdpProxy", "credentials come from the host program's Identity Module"),
    not_applicable!("L3", "a deployment's time", "the benchmarks measure the time, which is neither right nor wrong"),
    not_applicable!(
        "B1-B4",
        cites "B1, B2, B3, B4",
        "ids, pipelines, routes and publication counts inside the bus",
        "a host program cannot see these; the bus has tests of its own"
    ),
    not_applicable!("B6", "the catch-all listener of MiniBus", "the runtime has one bus, without a catch-all listener"),
    not_applicable!("B8", "a pipeline's fail and deliver", "the bus has no pipelines"),
    not_applicable!(
        "X2",
        "a second deployment at the same URL is rejected",
        "host programs do not choose a stub's URL; two deployments of one stub are one: runtime/probe-C"
    ),
    not_applicable!(
        "K2-K7",
        cites "K2, K3, K4, K5-K7",
        "parts of descriptors, and their kinds",
        "a host program sees stubs, not parts of descriptors; the catalogue has tests of its own"
    ),
    not_applicable!(
        "policy",
        "PolicyEngine.spec",
        "policies belong to the host program, in code or in Cedar, and have tests of their own: tests/it/policy.rs"
    ),
    not_applicable!(
        "catalogue-post",
        "constraints in a POST to the catalogue",
        "the runtime gets descriptors without posting; all stubs fit its one kind of sandbox"
    ),
    not_applicable!(
        "identity",
        "IdentityModule.spec",
        "the runtime deploys no identity proxies; credentials come from the host program"
    ),
    not_applicable!(
        "probe-O",
        "`matches()` of a sandbox' capabilities",
        "the runtime has one kind of sandbox, and checks imports by name"
    ),
    not_applicable!(
        "probe-R",
        "a P2P requester's status",
        "this project has no stubs that connect two runtimes without a server"
    ),
];
