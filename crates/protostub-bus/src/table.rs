use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use dashmap::{DashMap, Entry};
use foldhash::quality::RandomState;
use protostub_types::{Address, Domain, StubKey};

use crate::{
    AttachError,
    mailbox::{Mailbox, WeakMailbox},
    subscribers::Subscribers,
};

/// Maximum number of topics that one address may be subscribed to.
pub(crate) const MAX_SUBSCRIPTIONS: usize = 1024;

/// Maximum number of address prefixes whose key is cached: more than the domains in use at once.
/// The whole cache is cleared when it is full, which only costs time.
const MAX_PREFIXES: usize = 8192;

/// Listeners, routes and subscribers of the bus.
#[derive(Debug)]
pub(crate) struct Table {
    addresses: DashMap<Address, AddressEntry, RandomState>,
    keys: DashMap<StubKey, Listener, RandomState>,
    /// Cache of keys and routes by the part of an address before its path. It spares the bus
    /// parsing a domain for each message.
    prefixes: DashMap<Box<str>, Prefix, RandomState>,
    prefix_count: AtomicUsize,
    /// Number of changes of `keys`.
    changes: AtomicU64,
    /// Number of changes that redirected messages to some address.
    version: AtomicU64,
    next_listener: AtomicU64,
}

/// Cached key and route of all addresses with the same prefix.
#[derive(Debug)]
struct Prefix {
    key: StubKey,
    /// The key's route after this number of changes.
    route: WeakMailbox,
    changes: u64,
}

/// Entry of one address.
#[derive(Debug, Default)]
struct AddressEntry {
    listener: Option<Listener>,
    /// Subscribers that get copies of publications at this address.
    subscribers: Option<Arc<Subscribers>>,
    /// Topics that this address is subscribed to. The end of its listener ends these subscriptions.
    topics: BTreeSet<Address>,
}

#[derive(Debug)]
struct Listener {
    number: u64,
    mailbox: Mailbox,
}

/// Receivers of messages to an address.
#[derive(Debug, Default)]
pub(crate) struct Destination {
    pub(crate) listener: Option<Mailbox>,
    pub(crate) subscribers: Option<Arc<Subscribers>>,
}

impl Table {
    pub(crate) fn new() -> Self {
        Self {
            addresses: DashMap::with_hasher(RandomState::default()),
            keys: DashMap::with_hasher(RandomState::default()),
            prefixes: DashMap::with_hasher(RandomState::default()),
            prefix_count: AtomicUsize::new(0),
            changes: AtomicU64::new(0),
            version: AtomicU64::new(0),
            next_listener: AtomicU64::new(1),
        }
    }

    /// Returns the table's version. A lookup of an older version may be outdated.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Records a change that redirects messages: a new listener or subscriber, or a detached
    /// listener or route. The code that makes such a change calls this before it goes on.
    fn has_changed(&self) {
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Makes `mailbox` the listener of exactly this address, and returns its number for
    /// [`Self::detach`].
    pub(crate) fn attach(&self, address: &Address, mailbox: &Mailbox) -> Result<u64, AttachError> {
        let mut entry = self.addresses.entry(address.clone()).or_default();
        if entry.listener.is_some() {
            return Err(AttachError::AddressTaken { address: address.clone() });
        }
        let listener = self.listener(mailbox);
        let number = listener.number;
        entry.listener = Some(listener);
        self.has_changed();
        Ok(number)
    }

    /// Makes `mailbox` the route for addresses of this key that have no listener of their own.
    pub(crate) fn attach_key(&self, key: &StubKey, mailbox: &Mailbox) -> Result<u64, AttachError> {
        let number = match self.keys.entry(key.clone()) {
            Entry::Vacant(vacant) => vacant.insert(self.listener(mailbox)).number,
            Entry::Occupied(_) => return Err(AttachError::KeyTaken { key: key.clone() }),
        };
        // The version stays the same: no poster can have remembered a receiver for this key yet.
        self.changes.fetch_add(1, Ordering::Release);
        Ok(number)
    }

    fn listener(&self, mailbox: &Mailbox) -> Listener {
        Listener { number: self.next_listener.fetch_add(1, Ordering::Relaxed), mailbox: mailbox.clone() }
    }

    /// Ends the listener with this number, and its subscriptions.
    pub(crate) fn detach(&self, address: &Address, number: u64) {
        let topics = match self.addresses.get_mut(address) {
            Some(mut entry) if entry.listener.as_ref().is_some_and(|listener| listener.number == number) => {
                entry.listener = None;
                std::mem::take(&mut entry.topics)
            }
            _ => return,
        };
        self.has_changed();
        for topic in &topics {
            self.remove_subscriber(topic, address);
        }
        self.remove_if_empty(address);
    }

    pub(crate) fn detach_key(&self, key: &StubKey, number: u64) {
        self.keys.remove_if(key, |_, listener| listener.number == number);
        self.changes.fetch_add(1, Ordering::Release);
        self.has_changed();
    }

    /// Returns the listener of an address, and its subscribers.
    pub(crate) fn lookup(&self, address: &Address) -> Destination {
        match self.addresses.get(address) {
            Some(entry) => Destination {
                listener: entry.listener.as_ref().map(|listener| listener.mailbox.clone()),
                subscribers: entry.subscribers.clone(),
            },
            None => Destination::default(),
        }
    }

    /// Returns the listener of exactly this address.
    pub(crate) fn listener_of(&self, address: &Address) -> Option<Mailbox> {
        self.addresses.get(address)?.listener.as_ref().map(|listener| listener.mailbox.clone())
    }

    /// Returns the route for the address's key.
    pub(crate) fn route_of(&self, address: &Address, home: &Domain) -> Option<Mailbox> {
        let text = address.as_str();
        let prefix = &text[..text.len() - address.path().len()];
        // Read before the keys: a concurrent change of the keys then outdates the cached entry.
        let changes = self.changes.load(Ordering::Acquire);
        let known = match self.prefixes.get(prefix) {
            Some(known) if known.changes == changes => return known.route.upgrade(),
            Some(known) => Some(known.key.clone()),
            None => None,
        };
        let is_new = known.is_none();
        let key = known.or_else(|| StubKey::of(address, home))?;
        let mailbox = self.keys.get(&key)?.mailbox.clone();
        if is_new && self.prefix_count.fetch_add(1, Ordering::Relaxed) >= MAX_PREFIXES {
            self.prefixes.clear();
            self.prefix_count.store(1, Ordering::Relaxed);
        }
        self.prefixes.insert(prefix.into(), Prefix { key, route: mailbox.downgrade(), changes });
        Some(mailbox)
    }

    /// Subscribes `subscriber` to `topic`. Returns `true` if it is subscribed now, and `false` if
    /// it has no listener or has reached [`MAX_SUBSCRIPTIONS`].
    pub(crate) fn subscribe(&self, topic: &Address, subscriber: &Address) -> bool {
        match self.addresses.get_mut(subscriber) {
            Some(mut entry) if entry.listener.is_some() => {
                if entry.topics.contains(topic) {
                    return true;
                }
                if entry.topics.len() >= MAX_SUBSCRIPTIONS {
                    return false;
                }
                entry.topics.insert(topic.clone());
            }
            _ => return false,
        }
        self.addresses.entry(topic.clone()).or_default().subscribers.get_or_insert_default().add(subscriber);
        self.has_changed();
        // The subscriber's listener may have ended between the two steps.
        if self.addresses.get(subscriber).is_some_and(|entry| entry.topics.contains(topic)) {
            return true;
        }
        self.remove_subscriber(topic, subscriber);
        false
    }

    pub(crate) fn unsubscribe(&self, topic: &Address, subscriber: &Address) {
        if let Some(mut entry) = self.addresses.get_mut(subscriber) {
            entry.topics.remove(topic);
        }
        self.remove_subscriber(topic, subscriber);
    }

    fn remove_subscriber(&self, topic: &Address, subscriber: &Address) {
        if let Some(mut entry) = self.addresses.get_mut(topic)
            && entry.subscribers.as_ref().is_some_and(|subscribers| subscribers.remove(subscriber))
        {
            entry.subscribers = None;
        }
        self.remove_if_empty(topic);
    }

    fn remove_if_empty(&self, address: &Address) {
        self.addresses
            .remove_if(address, |_, entry| entry.listener.is_none() && entry.subscribers.is_none() && entry.topics.is_empty());
    }
}
