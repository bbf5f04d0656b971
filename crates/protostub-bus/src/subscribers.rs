//! The subscribers of one topic.

use std::{
    collections::{BTreeMap, HashMap},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    vec,
};

use foldhash::quality::RandomState;
use protostub_types::Address;

/// Number of subscribers that a publication takes at a time: few enough for a short lock, enough to
/// lock seldom.
const AT_A_TIME: usize = 64;

/// The subscribers of a topic, in the order of their subscriptions. Neither a change nor a
/// publication copies all of them (`subscribe_growth`).
#[derive(Debug, Default)]
pub(crate) struct Subscribers(Mutex<Members>);

#[derive(Debug, Default)]
struct Members {
    /// Numbers increase, so a publication goes on behind the last number that it took.
    by_number: BTreeMap<u64, Address>,
    numbers: HashMap<Address, u64, RandomState>,
    next: u64,
}

impl Subscribers {
    /// Adds a subscriber. A second subscription has no effect.
    pub(crate) fn add(&self, subscriber: &Address) {
        let Members { by_number, numbers, next } = &mut *self.members();
        if !numbers.contains_key(subscriber) {
            numbers.insert(subscriber.clone(), *next);
            by_number.insert(*next, subscriber.clone());
            *next += 1;
        }
    }

    /// Removes a subscriber. Returns `true` if no subscriber is left.
    pub(crate) fn remove(&self, subscriber: &Address) -> bool {
        let Members { by_number, numbers, .. } = &mut *self.members();
        if let Some(number) = numbers.remove(subscriber) {
            by_number.remove(&number);
        }
        numbers.is_empty()
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        // Safe to ignore the poison: no code under the lock panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The subscribers at the time of a publication, without those that end meanwhile. Holds no lock
/// between two of them.
#[derive(Debug)]
pub(crate) struct Receivers {
    subscribers: Arc<Subscribers>,
    /// The numbers that are left.
    left: std::ops::Range<u64>,
    taken: vec::IntoIter<Address>,
}

impl Receivers {
    pub(crate) fn of(subscribers: Arc<Subscribers>) -> Self {
        let end = subscribers.members().next;
        Self { subscribers, left: 0..end, taken: Vec::new().into_iter() }
    }
}

impl Iterator for Receivers {
    type Item = Address;

    fn next(&mut self) -> Option<Address> {
        if self.taken.as_slice().is_empty() && !self.left.is_empty() {
            let members = self.subscribers.members();
            let next: Vec<_> = members.by_number.range(self.left.clone()).take(AT_A_TIME).collect();
            self.left.start = match next.last() {
                Some((last, _)) if next.len() == AT_A_TIME => **last + 1,
                _ => self.left.end,
            };
            let next: Vec<_> = next.into_iter().map(|(_, subscriber)| subscriber.clone()).collect();
            drop(mem::replace(&mut self.taken, next.into_iter()));
        }
        self.taken.next()
    }
}
