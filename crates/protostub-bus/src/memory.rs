//! The memory of all messages that wait on a bus.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use foldhash::quality::RandomState;
use protostub_types::Address;

/// Part of the memory that only the first messages of each inbox use: an eighth. As much is left
/// for what the allocator adds to the sizes of messages (`queued_vs_limit`).
const RESERVE: usize = 8;
/// Number of inboxes that the reserve is enough for.
const INBOXES: usize = 1024;

/// The memory of all messages that wait on a bus, within
/// [`BusConfig::max_queued_bytes`](crate::BusConfig::max_queued_bytes).
///
/// The first messages of each inbox need no permission. A receiver that keeps up therefore gets its
/// messages, even while others do not. It also costs such a message nothing (`trip_vs_bare`).
#[derive(Debug)]
pub(crate) struct QueuedMemory {
    /// Memory that each inbox has for itself, in bytes.
    of_inbox: usize,
    /// Memory that all inboxes share beyond that, in bytes.
    shared: usize,
    used: Mutex<Used>,
}

/// Memory in use of the shared part.
#[derive(Debug, Default)]
struct Used {
    bytes: usize,
    by_sender: HashMap<Address, usize, RandomState>,
}

/// Reason why a message finds no shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoMemory {
    /// The message never fits: the shared memory is smaller.
    Never { shared: usize },
    /// The sender has its share, or the memory is used up.
    Now { of_sender: usize, left: usize },
}

impl QueuedMemory {
    pub(crate) fn new(max_bytes: usize) -> Self {
        let of_inbox = max_bytes / RESERVE / INBOXES;
        Self { of_inbox, shared: max_bytes - max_bytes / RESERVE * 2, used: Mutex::default() }
    }

    /// Returns the memory that each inbox has for itself, in bytes.
    pub(crate) fn of_inbox(&self) -> usize {
        self.of_inbox
    }

    /// Charges a message to its sender. A sender gets as much as is left for all senders. One
    /// sender therefore gets at most half of the shared memory, and a message more.
    ///
    /// # Errors
    /// If the sender has its share, or the memory is used up.
    pub(crate) fn charge(&self, sender: &Address, size: usize) -> Result<(), NoMemory> {
        let mut used = self.used();
        self.check(&used, sender, size)?;
        used.add(sender, size);
        Ok(())
    }

    /// Charges a message that was accepted before.
    pub(crate) fn charge_accepted(&self, sender: &Address, size: usize) {
        self.used().add(sender, size);
    }

    /// Checks whether [`Self::charge`] would charge a message.
    pub(crate) fn admits(&self, sender: &Address, size: usize) -> Result<(), NoMemory> {
        self.check(&self.used(), sender, size)
    }

    /// Gives back the memory of a message that was charged.
    pub(crate) fn release(&self, sender: &Address, size: usize) {
        let mut used = self.used();
        used.bytes -= size;
        if let Some(of_sender) = used.by_sender.get_mut(sender) {
            *of_sender -= size;
            if *of_sender == 0 {
                used.by_sender.remove(sender);
            }
        }
    }

    fn check(&self, used: &Used, sender: &Address, size: usize) -> Result<(), NoMemory> {
        if size > self.shared {
            return Err(NoMemory::Never { shared: self.shared });
        }
        let left = self.shared.saturating_sub(used.bytes);
        let of_sender = used.by_sender.get(sender).copied().unwrap_or_default();
        if size > left || of_sender >= left { Err(NoMemory::Now { of_sender, left }) } else { Ok(()) }
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        // Safe to ignore the poison: no code under the lock panics.
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Used {
    fn add(&mut self, sender: &Address, size: usize) {
        self.bytes += size;
        match self.by_sender.get_mut(sender) {
            Some(of_sender) => *of_sender += size,
            None => drop(self.by_sender.insert(sender.clone(), size)),
        }
    }
}
