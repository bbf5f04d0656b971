//! The operator's rules.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use arc_swap::ArcSwapOption;
use protostub_types::{Address, Domain, Message, StubKey};

use crate::{Mailbox, Origin};

/// The operator's rules: what may go over the bus, beyond what always holds.
///
/// A bus without a policy ([`Bus::set_policy`](crate::Bus::set_policy)) lets everything pass. With one, it asks before every hop: before a message that a hyperty, a stub or
/// the host itself posts goes to a stub or any other listener, before it deploys a stub, before each subscriber's copy of a publication, and before
/// a response goes to its requester. Only the error responses that the bus itself makes are not asked about: they are how a refusal is told.
///
/// What is refused goes nowhere:
///
/// | what was posted | who hears of it |
/// | --- | --- |
/// | a request, or any other message | whoever posted it: [`PostError`](crate::PostError) or [`RequestError`](crate::RequestError) with code 403 and the reason; a stub as `denied` |
/// | a final response | its responder likewise; and the requester, for whom the request fails with code 403 and the reason |
/// | a provisional response | its responder |
/// | a subscriber's copy of a publication | nobody |
///
/// All of them are counted: [`BusCounts::denied`](crate::BusCounts::denied). A message is asked about when it is posted, and not again once it was
/// accepted: what waits in an inbox while the policy is replaced stays there.
pub trait Policy: Send + Sync {
    /// Whether a message may take this hop. Called on the thread of whoever posts, for every message, without any lock of the bus held: it must not
    /// block, and should take microseconds.
    fn decide(&self, hop: &Hop<'_>) -> Decision;
}

/// What a [`Policy`] says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "there is no third answer")]
pub enum Decision {
    /// The message goes on, if nothing else is in the way.
    Permit,
    /// It does not, for this reason: a text for people, which is sent to whoever posted the message.
    Refuse(String),
}

/// A message between two who have to do with it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Hop<'a> {
    /// Who posts it, whatever its `from` says.
    pub origin: &'a Origin,
    /// The message, as it would be delivered: its `from` and its `id` are set, and what a stub posts has the stub's URL in `via`.
    pub message: &'a Message,
    /// Who would get it.
    pub receiver: Receiver,
    home: &'a Domain,
}

/// Who would get a message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Receiver {
    /// The stub with this URL.
    Stub(Address),
    /// The stub of this domain, which is being deployed, or is deployed for the message.
    Domain(Domain),
    /// Whoever listens at the message's address: a hyperty, or the runtime itself.
    Listener,
    /// Whoever listens at this address, and subscribed to that of the message.
    Subscriber(Address),
    /// Nobody: it is a publication, whose copies are asked about one by one; or the sender will be told that nobody is there.
    Nobody,
}

impl<'a> Hop<'a> {
    /// A hop on a bus whose home domain is `home`: for the tests of a policy.
    #[must_use]
    pub fn new(origin: &'a Origin, message: &'a Message, receiver: Receiver, home: &'a Domain) -> Self {
        Self { origin, message, receiver, home }
    }

    /// The runtime's home domain.
    #[must_use]
    pub fn home(&self) -> &'a Domain {
        self.home
    }

    /// The domain whose stub serves an address: `sp1.example` for `domain://registry.sp1.example`, the home domain for `global://registry`. None for
    /// addresses without a domain.
    #[must_use]
    pub fn domain_of(&self, address: &Address) -> Option<Domain> {
        StubKey::of(address, self.home).map(|key| key.domain().clone())
    }
}

/// The policy in force, which may be replaced at any time.
#[derive(Default)]
pub(crate) struct PolicySlot {
    policy: ArcSwapOption<Arc<dyn Policy>>,
    /// Whether a policy was ever set. Most buses never have one, and skip the look at the slot.
    was_set: AtomicBool,
}

impl PolicySlot {
    pub(crate) fn set(&self, policy: Option<Arc<dyn Policy>>) {
        if policy.is_some() {
            self.was_set.store(true, Ordering::Release);
        }
        self.policy.store(policy.map(Arc::new));
    }

    /// Whether a policy was ever set.
    pub(crate) fn was_set(&self) -> bool {
        self.was_set.load(Ordering::Acquire)
    }

    /// Asks the policy about a hop. Permits the hop if no policy is set.
    pub(crate) fn decide<'a>(&self, hop: impl FnOnce() -> Hop<'a>) -> Decision {
        if !self.was_set() {
            return Decision::Permit;
        }
        match &*self.policy.load() {
            Some(policy) => policy.decide(&hop()),
            None => Decision::Permit,
        }
    }
}

impl fmt::Debug for PolicySlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.policy.load().is_some() { "PolicySlot(a policy)" } else { "PolicySlot(none)" })
    }
}

impl Receiver {
    /// Whose mailbox it is.
    pub(crate) fn of(mailbox: &Mailbox) -> Self {
        mailbox.owner().map_or(Self::Listener, |stub| Self::Stub(stub.clone()))
    }
}
