use std::collections::HashMap;

use foldhash::quality::RandomState;
use protostub_types::Address;

/// Waiting messages of an inbox by their senders.
#[derive(Debug, Default)]
pub(crate) struct Shares(HashMap<Address, Share, RandomState>);

/// Waiting messages of one sender.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Share {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

impl Shares {
    pub(crate) fn of(&self, sender: &Address) -> Share {
        self.0.get(sender).copied().unwrap_or_default()
    }

    /// Counts a message of this size.
    pub(crate) fn count(&mut self, sender: &Address, size: usize) {
        match self.0.get_mut(sender) {
            Some(share) => {
                share.messages += 1;
                share.bytes += size;
            }
            None => drop(self.0.insert(sender.clone(), Share { messages: 1, bytes: size })),
        }
    }

    /// Takes back a message that was counted.
    pub(crate) fn uncount(&mut self, sender: &Address, size: usize) {
        if let Some(share) = self.0.get_mut(sender) {
            share.messages -= 1;
            share.bytes -= size;
            if share.messages == 0 {
                self.0.remove(sender);
            }
        }
    }
}
