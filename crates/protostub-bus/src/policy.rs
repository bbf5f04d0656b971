//! The operator's rules.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use arc_swap::ArcSwapOption;
use protostub_types::{Address, Domain, Message, StubKey, call_hook};

use crate::{Mailbox, Origin};

/// The operator's rules, in addition to the built-in ones: permits or refuses each hop of a
/// message.
///
/// A bus without a policy ([`Bus::set_policy`](crate::Bus::set_policy)) permits every message. A
/// bus with a policy asks it before every hop:
///
/// * before a message of a hyperty, a stub or the host goes to a stub or any other listener
/// * before the bus deploys a stub
/// * before each subscriber's copy of a publication
/// * before a response goes to its requester
///
/// The bus does not ask about the error responses that it makes itself: they report refusals.
///
/// A refused message goes nowhere. These are informed of the refusal:
///
/// * For a request, or any other message: its poster, by [`PostError`](crate::PostError) or
///   [`RequestError`](crate::RequestError) with code 403 and the reason; a stub gets `denied`.
/// * For a final response: its responder likewise, and the requester, whose request fails with code
///   403 and the reason.
/// * For a provisional response: its responder.
/// * For a subscriber's copy of a publication: neither publisher nor subscriber.
///
/// [`BusCounts::denied`](crate::BusCounts::denied) counts all of them. The bus asks about a message
/// when it is posted, and not again after it was accepted. Messages that wait in an inbox while the
/// policy is replaced stay there.
pub trait Policy: Send + Sync {
    /// Decides about this hop of a message. Called on the poster's thread, for every message,
    /// without any lock of the bus held. It must not block, and should take microseconds. A panic
    /// refuses the message.
    fn decide(&self, hop: &Hop<'_>) -> Decision;
}

/// The decision of a [`Policy`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "there is no third answer")]
pub enum Decision {
    /// The message goes on, unless the bus refuses it for another reason.
    Permit,
    /// The message is refused for this reason: a text for people, which the poster gets.
    Refuse(String),
}

/// One hop of a message, from its poster to a receiver.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Hop<'a> {
    /// The poster of the message, independent of its `from`.
    pub origin: &'a Origin,
    /// The message, as it would be delivered: its `from` and its `id` are set, and a stub's message
    /// has the stub's URL in `via`.
    pub message: &'a Message,
    /// The receiver of the message.
    pub receiver: Receiver,
    home: &'a Domain,
}

/// The receiver of a message on a [`Hop`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Receiver {
    /// The stub with this URL.
    Stub(Address),
    /// The stub of this domain, which is being deployed, or is deployed for the message.
    Domain(Domain),
    /// The listener at the message's address: a hyperty, or the runtime itself.
    Listener,
    /// The listener at this address, which subscribed to the message's address.
    Subscriber(Address),
    /// No receiver: the message is a publication, whose copies are separate hops, or the bus will
    /// refuse it because its address has no listener.
    Nobody,
}

impl<'a> Hop<'a> {
    /// Creates a hop on a bus whose home domain is `home`: for the tests of a policy.
    #[must_use]
    pub fn new(origin: &'a Origin, message: &'a Message, receiver: Receiver, home: &'a Domain) -> Self {
        Self { origin, message, receiver, home }
    }

    /// Returns the runtime's home domain.
    #[must_use]
    pub fn home(&self) -> &'a Domain {
        self.home
    }

    /// Returns the domain whose stub serves an address: `sp1.example` for
    /// `domain://registry.sp1.example`, the home domain for `global://registry`. Returns `None` for
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
    /// `true` if a policy was ever set. Most buses never have one, and skip reading the slot.
    was_set: AtomicBool,
}

impl PolicySlot {
    pub(crate) fn set(&self, policy: Option<Arc<dyn Policy>>) {
        if policy.is_some() {
            self.was_set.store(true, Ordering::Release);
        }
        self.policy.store(policy.map(Arc::new));
    }

    /// Returns `true` if a policy was ever set.
    pub(crate) fn was_set(&self) -> bool {
        self.was_set.load(Ordering::Acquire)
    }

    /// Asks the policy about a hop. Permits the hop if no policy is set.
    pub(crate) fn decide<'a>(&self, hop: impl FnOnce() -> Hop<'a>) -> Decision {
        if !self.was_set() {
            return Decision::Permit;
        }
        match &*self.policy.load() {
            Some(policy) => {
                let hop = hop();
                call_hook("Policy::decide", || policy.decide(&hop)).unwrap_or_else(|panicked| {
                    // The poster may be a stranger's stub, so it does not get the message.
                    tracing::error!(target: "protostub", error = %panicked, "the policy failed to decide on a message");
                    Decision::Refuse("the policy failed to decide on the message; see the runtime's log".to_owned())
                })
            }
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
    /// Returns the receiver behind a mailbox.
    pub(crate) fn of(mailbox: &Mailbox) -> Self {
        mailbox.owner().map_or(Self::Listener, |stub| Self::Stub(stub.clone()))
    }
}
