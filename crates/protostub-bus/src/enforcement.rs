//! Asking the policy before each hop.

use protostub_types::{Message, StubKey};

use crate::{Bus, Decision, Hop, Mailbox, Origin, PostError, Receiver};

impl Bus {
    /// Returns `true` if a policy may be in force.
    pub(crate) fn has_policy(&self) -> bool {
        self.inner.policy.was_set()
    }

    /// Asks the policy, if there is one. Calls `receiver` only in that case.
    pub(crate) fn ask_policy(
        &self,
        origin: &Origin,
        message: &Message,
        receiver: impl FnOnce() -> Receiver,
    ) -> Result<(), PostError> {
        let hop = || Hop::new(origin, message, receiver(), &self.inner.config.home);
        match self.inner.policy.decide(hop) {
            Decision::Permit => Ok(()),
            Decision::Refuse(reason) => {
                self.inner.counters.denied.add(1);
                tracing::debug!(?origin, from = %message.from, to = %message.to, kind = %message.kind, reason, "the policy refused a message");
                Err(PostError::new(403, &message.to, reason))
            }
        }
    }

    /// Returns the receiver of a message: the listener of its address, or else the stub of its
    /// domain.
    pub(crate) fn receiver(&self, message: &Message, listener: Option<&Mailbox>) -> Receiver {
        let home = &self.inner.config.home;
        let route = || self.inner.table.route_of(&message.to, home);
        if let Some(listener) = listener {
            return Receiver::of(listener);
        }
        if message.to.is_within(&self.inner.config.runtime) {
            return Receiver::Nobody;
        }
        if let Some(stub) = route().and_then(|route| route.owner().cloned()) {
            return Receiver::Stub(stub);
        }
        StubKey::of(&message.to, home).map_or(Receiver::Nobody, |key| Receiver::Domain(key.domain().clone()))
    }
}
