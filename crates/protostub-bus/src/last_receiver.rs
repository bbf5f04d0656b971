use protostub_types::{Address, Message};

use crate::{Bus, Mailbox};

/// The cached receiver of a poster's last message. The next message to the same address may skip
/// the lookup.
#[derive(Debug, Default)]
pub(crate) struct LastReceiver {
    /// Address of the last message that was looked up. Its mailbox is remembered from the second
    /// message on, since many addresses are used once.
    seen: Option<Address>,
    last: Option<Box<Last>>,
}

#[derive(Debug)]
struct Last {
    to: Address,
    holder: Mailbox,
    /// Version of the table before the lookup.
    version: u64,
}

impl LastReceiver {
    /// Returns the cached mailbox if the message may go there without a lookup and without asking
    /// the policy.
    pub(crate) fn holder(&self, bus: &Bus, message: &Message) -> Option<&Mailbox> {
        let Last { to, holder, version } = self.last.as_deref()?;
        let is_there = *to == message.to && *version == bus.inner.table.version();
        (is_there && !bus.has_policy() && !holder.has_seen(message)).then_some(holder)
    }

    /// Remembers the mailbox of an address, if the previous message went to this address too.
    /// `version` is the table's version from before the lookup.
    pub(crate) fn remember(&mut self, to: &Address, holder: &Mailbox, version: u64) {
        if self.seen.as_ref() == Some(to) {
            self.last = Some(Box::new(Last { to: to.clone(), holder: holder.clone(), version }));
        } else {
            self.seen = Some(to.clone());
        }
    }
}
