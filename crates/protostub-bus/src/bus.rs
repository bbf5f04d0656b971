use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use foldhash::quality::RandomState;
use protostub_types::{Address, Message, MessageId, MessageType, StubKey};

use crate::{
    AttachError, BusConfig, BusCounts, MAX_QUEUE_TIMEOUT, Mailbox, Origin, Policy, PostError, counts::Counters,
    memory::QueuedMemory, open_requests::OpenRequests, policy::PolicySlot, request_key::RequestKey, table::Table,
};

/// Handles messages to domains without a route. It may deploy the domain's stub.
pub trait Unroutable: Send + Sync {
    /// Returns the mailbox that gets this message, for example that of the stub that is being
    /// deployed. The bus then puts the message there. Called on the poster's thread, without any
    /// lock of the bus held. The hook may attach mailboxes and make inboxes, and must not wait.
    ///
    /// # Errors
    /// If the hook refuses the message: 403, 404, 429 or 503, with the reason.
    fn unroutable(&self, origin: &Origin, key: &StubKey, message: &Message) -> Result<Mailbox, PostError>;
}

/// The message bus. Clones are the same bus. The [crate's documentation](crate) has its delivery
/// contract.
#[derive(Clone)]
pub struct Bus {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: BusConfig,
    pub(crate) table: Table,
    pub(crate) requests: OpenRequests,
    pub(crate) counters: Counters,
    pub(crate) policy: PolicySlot,
    /// The memory of the messages in all inboxes.
    pub(crate) memory: Arc<QueuedMemory>,
    /// Distinguishes the states that publications tell.
    pub(crate) states: RandomState,
    pub(crate) unroutable: OnceLock<Arc<dyn Unroutable>>,
    next_id: AtomicU64,
    /// Reason for the shutdown, once listeners end because of it.
    pub(crate) ending: OnceLock<String>,
    /// Reason for the shutdown, once the bus accepts no more messages.
    pub(crate) shut_down: OnceLock<String>,
}

/// Keeps a mailbox attached; dropping it detaches the mailbox. Messages that wait in the mailbox
/// stay there.
#[must_use = "dropping a route detaches it"]
pub struct Route {
    bus: Bus,
    number: u64,
    target: RouteTarget,
}

#[derive(Debug)]
enum RouteTarget {
    Address(Address),
    Key(StubKey),
}

impl Bus {
    /// Creates a bus without listeners. It spawns no task: messages and requests time out only
    /// while [`Self::run_deadlines`] runs.
    #[must_use]
    pub fn new(mut config: BusConfig) -> Self {
        config.queue_timeout = config.queue_timeout.min(MAX_QUEUE_TIMEOUT);
        let requests = OpenRequests::new(config.max_open_requests, config.clock);
        let (table, counters) = (Table::new(), Counters::default());
        let memory = Arc::new(QueuedMemory::new(config.max_queued_bytes));
        let inner = Inner {
            config,
            table,
            requests,
            counters,
            policy: PolicySlot::default(),
            memory,
            states: RandomState::default(),
            unroutable: OnceLock::new(),
            next_id: AtomicU64::new(1),
            ending: OnceLock::new(),
            shut_down: OnceLock::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Makes a mailbox the listener of exactly this address, until the route is dropped.
    ///
    /// # Errors
    /// If the address has a listener.
    pub fn attach(&self, address: &Address, mailbox: &Mailbox) -> Result<Route, AttachError> {
        let number = self.inner.table.attach(address, mailbox)?;
        Ok(Route { bus: self.clone(), number, target: RouteTarget::Address(address.clone()) })
    }

    /// Makes a mailbox the route for all addresses of this key that have no listener of their own,
    /// until the route is dropped.
    ///
    /// # Errors
    /// If the key has a route.
    pub fn attach_key(&self, key: &StubKey, mailbox: &Mailbox) -> Result<Route, AttachError> {
        let number = self.inner.table.attach_key(key, mailbox)?;
        Ok(Route { bus: self.clone(), number, target: RouteTarget::Key(key.clone()) })
    }

    /// Replaces the policy. `None` permits every message. The new policy applies to all messages
    /// posted from now on.
    pub fn set_policy(&self, policy: Option<Arc<dyn Policy>>) {
        self.inner.policy.set(policy);
    }

    /// Sends copies of publications at `topic` to the listener of exactly `subscriber`, until that
    /// listener ends. Returns `true` if the subscription is active, and `false` if `subscriber` has
    /// no listener or is subscribed to 1024 topics already.
    pub fn subscribe(&self, topic: &Address, subscriber: &Address) -> bool {
        self.inner.table.subscribe(topic, subscriber)
    }

    /// Ends a subscription of [`Self::subscribe`].
    pub fn unsubscribe(&self, topic: &Address, subscriber: &Address) {
        self.inner.table.unsubscribe(topic, subscriber);
    }

    /// Returns `true` if the response answers a request that `origin` took and has not answered.
    /// The origin may then send it, regardless of the address that was asked.
    #[must_use]
    pub fn answers(&self, origin: &Origin, response: &Message) -> bool {
        response.kind == MessageType::Response
            && self.inner.requests.answerable(&RequestKey::of_response(response), origin).is_some()
    }

    /// Sets the hook for messages to domains without a route. Only the first call has an effect.
    pub fn set_unroutable(&self, hook: Arc<dyn Unroutable>) {
        let _ = self.inner.unroutable.set(hook);
    }

    /// Returns a message id that this bus has not generated before.
    #[must_use]
    pub fn next_id(&self) -> MessageId {
        MessageId::Number(self.inner.next_id.fetch_add(1, Ordering::Relaxed))
    }

    /// Returns the counts so far.
    #[must_use]
    pub fn counts(&self) -> BusCounts {
        self.inner.counters.snapshot(self.inner.requests.len())
    }

    /// Announces a shutdown: listeners end from now on. Messages in an inbox that is dropped fail
    /// with this reason, and so do later messages for it. The bus still accepts messages. Only the
    /// first call's reason counts.
    pub fn announce_shutdown(&self, reason: &str) {
        self.inner.ending.get_or_init(|| reason.to_owned());
    }

    /// Refuses all further messages with 503, and ends all open requests with it. Other messages
    /// that wait in inboxes get their outcome from the inboxes' owners, who take them or call
    /// [`Inbox::close`](crate::Inbox::close). Only the first call's reason counts.
    pub fn shut_down(&self, reason: &str) {
        self.announce_shutdown(reason);
        let reason = self.inner.shut_down.get_or_init(|| reason.to_owned());
        self.fail_all(503, reason);
    }

    /// Returns the reason for messages in an inbox that is dropped.
    pub(crate) fn end_of_inbox(&self) -> &str {
        self.inner.ending.get().map_or("the listener of this address has ended", String::as_str)
    }

    pub(crate) fn config(&self) -> &BusConfig {
        &self.inner.config
    }
}

impl Drop for Route {
    fn drop(&mut self) {
        match &self.target {
            RouteTarget::Address(address) => self.bus.inner.table.detach(address, self.number),
            RouteTarget::Key(key) => self.bus.inner.table.detach_key(key, self.number),
        }
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus").field("runtime", &self.inner.config.runtime).finish_non_exhaustive()
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Route").field(&self.target).finish()
    }
}
