//! Numbered cases that say nothing about a runtime of this kind, each with the reason.

use super::RuntimeSuiteContext;
use crate::{Case, Verdict, case::Script};

/// A case that does not apply.
macro_rules! not_applicable {
    ($id:literal, $what:literal, $reason:literal) => {
        Script {
            case: Case::new(concat!("runtime/", $id), $what, "the original runtime's tests"),
            run: |_| Box::pin(async { Err(Verdict::not_applicable($reason)) }),
        }
    };
}

pub(super) const CASES: &[Script<RuntimeSuiteContext>] = &[
    not_applicable!("C2", "disconnected has the description 'Normal closure, …'", "it is the message node's stub that says so"),
    not_applicable!("C3", "re-connection", "a stub's business: stub/server/comes-back, stub/session/crash, node/connect/re-open"),
    not_applicable!("C4-C6", "allocation and release of addresses", "a message node's business: node/allocation, node/release"),
    not_applicable!(
        "C7-C8",
        "learned addresses and subscriptions",
        "a message node's business: node/connect/ping, node/subscription"
    ),
    not_applicable!("C9-C10", "stubs of Node.js and Matrix nodes", "there are no stubs for these here"),
    not_applicable!("C11-C15", "sessions that fail, loops, and order", "a stub's business: stub/server, stub/messages"),
    not_applicable!("R2-R4", "P2P handlers and requesters", "there are no stubs between runtimes without a server"),
    not_applicable!("R9", "isLegacy", "the scheme of an address tells its stub: runtime/url/legacy"),
    not_applicable!("R10", "registerPEP, unregisterPEP", "policies are objects of the host program"),
    not_applicable!("L2", "loadIdpProxy", "credentials come from the host program's Identity Module"),
    not_applicable!("L3", "a deployment's time", "it is measured, and no question of right or wrong"),
    not_applicable!(
        "B1-B4",
        "ids, pipelines, routes and publication counts inside the bus",
        "not to be seen by a host program; the bus has tests of its own"
    ),
    not_applicable!("B6", "the catch-all listener of MiniBus", "there is one bus, and no catch-all listener"),
    not_applicable!("B8", "a pipeline's fail and deliver", "there are no pipelines"),
    not_applicable!(
        "X2",
        "a second deployment at the same URL is rejected",
        "no host program chooses a stub's URL; two deployments are one: runtime/probe-C"
    ),
    not_applicable!(
        "K2-K7",
        "parts of descriptors, and their kinds",
        "a host program sees stubs, not parts of descriptors; the catalogue has tests of its own"
    ),
    not_applicable!(
        "policy",
        "PolicyEngine.spec",
        "policies are the host program's, in its code or in Cedar, which have tests of their own: tests/it/policy.rs"
    ),
    not_applicable!(
        "catalogue-post",
        "constraints in a POST to the catalogue",
        "descriptors are got, not posted for: there is one kind of sandbox, which all stubs fit"
    ),
    not_applicable!(
        "identity",
        "IdentityModule.spec",
        "identity proxies are not deployed; credentials come from the host program"
    ),
    not_applicable!(
        "probe-O",
        "`matches()` of a sandbox' capabilities",
        "there is one kind of sandbox, and imports are checked by name"
    ),
    not_applicable!("probe-R", "a P2P requester's status", "there are no stubs between runtimes without a server"),
];
