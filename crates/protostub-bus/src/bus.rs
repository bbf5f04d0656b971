use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use protostub_types::{Address, Domain, Message, MessageId, MessageType, StubKey};
use tokio::time::Instant;

use crate::{
    AttachError, BusCounts, Envelope, Inbox, InboxLimits, Mailbox, PostError, RequestError, Way,
    counts::Counters,
    open_requests::{OpenRequests, RequestKey},
    policy::InForce,
    table::Table,
};

/// The longest time that a request may be open, whatever it asks for.
pub const MAX_REQUEST_TIMEOUT: Duration = Duration::from_secs(600);

/// The longest time that a message may wait in an inbox.
pub const MAX_QUEUE_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// How long an id that is a text may be, in bytes: twice what a UUID in a URN takes, with room for those who join several.
pub const MAX_ID_BYTES: usize = 256;

/// What a bus has to know.
#[derive(Debug, Clone)]
pub struct BusConfig {
    /// The domain that `global://` addresses belong to.
    pub home: Domain,
    /// The runtime's own address. What is below it and has no listener is answered 404, and deploys nothing.
    pub runtime: Address,
    /// How long a request is open, unless it says otherwise in its header `timeout-ms`. At most [`MAX_REQUEST_TIMEOUT`].
    pub request_timeout: Duration,
    /// How long any other message may wait in an inbox. At most [`MAX_QUEUE_TIMEOUT`].
    pub queue_timeout: Duration,
    /// How many requests may be open at a time.
    pub max_open_requests: usize,
}

impl BusConfig {
    /// 15 seconds for requests, 60 seconds in queues, and 65 536 open requests.
    #[must_use]
    pub fn new(home: Domain, runtime: Address) -> Self {
        Self {
            home,
            runtime,
            request_timeout: Duration::from_secs(15),
            queue_timeout: Duration::from_secs(60),
            max_open_requests: 65_536,
        }
    }
}

/// Who posts a message: what the host knows, whatever the message's `from` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The runtime itself.
    Host,
    /// A part of the host program, by its address.
    Hyperty(Address),
    /// A stub, by its URL. What it posts carries this URL in `via` from then on.
    Stub(Address),
}

/// What is asked where to put a message to a domain that nobody serves: it may deploy the domain's stub.
pub trait Unroutable: Send + Sync {
    /// The mailbox that is to get this message: that of the stub that is being deployed, say. The bus then puts it there. Called on the
    /// thread of whoever posts, without any lock of the bus held: it may attach and make inboxes, and must not wait.
    ///
    /// # Errors
    /// If the message is to be refused: 403, 404, 429 or 503, with the reason.
    fn unroutable(&self, origin: &Origin, key: &StubKey, message: &Message) -> Result<Mailbox, PostError>;
}

/// The message bus. Clones are the same bus. What it promises stands in the [crate's documentation](crate).
#[derive(Clone)]
pub struct Bus {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: BusConfig,
    pub(crate) table: Table,
    pub(crate) requests: OpenRequests,
    pub(crate) counters: Counters,
    pub(crate) policy: InForce,
    pub(crate) unroutable: OnceLock<Arc<dyn Unroutable>>,
    next_id: AtomicU64,
    /// Why nothing is accepted any more.
    pub(crate) shut_down: OnceLock<String>,
}

/// Keeps a mailbox attached; dropping it detaches. What waits in the mailbox by then stays there.
#[must_use = "dropping a route detaches it"]
pub struct Route {
    bus: Bus,
    number: u64,
    place: RoutePlace,
}

#[derive(Debug)]
enum RoutePlace {
    Address(Address),
    Key(StubKey),
}

impl Bus {
    /// A bus without listeners. It spawns nothing: nothing runs out unless [`Self::run_deadlines`] runs.
    #[must_use]
    pub fn new(mut config: BusConfig) -> Self {
        config.queue_timeout = config.queue_timeout.min(MAX_QUEUE_TIMEOUT);
        let requests = OpenRequests::new(config.max_open_requests);
        let (table, counters) = (Table::new(), Counters::default());
        let inner = Inner {
            config,
            table,
            requests,
            counters,
            policy: InForce::default(),
            unroutable: OnceLock::new(),
            next_id: AtomicU64::new(1),
            shut_down: OnceLock::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// A new inbox. It gets messages once its [`Inbox::mailbox`] is attached.
    #[must_use]
    pub fn inbox(&self, limits: InboxLimits) -> Inbox {
        Inbox::new(self.clone(), Mailbox::new(limits))
    }

    /// Makes a mailbox the listener of exactly this address, until the route is dropped.
    ///
    /// # Errors
    /// If the address has a listener.
    pub fn attach(&self, address: &Address, mailbox: &Mailbox) -> Result<Route, AttachError> {
        let number = self.inner.table.attach(address, mailbox)?;
        Ok(Route { bus: self.clone(), number, place: RoutePlace::Address(address.clone()) })
    }

    /// Makes a mailbox the route for all addresses of this key that have no listener of their own, until the route is dropped.
    ///
    /// # Errors
    /// If the key has a route.
    pub fn attach_key(&self, key: &StubKey, mailbox: &Mailbox) -> Result<Route, AttachError> {
        let number = self.inner.table.attach_key(key, mailbox)?;
        Ok(Route { bus: self.clone(), number, place: RoutePlace::Key(key.clone()) })
    }

    /// From now on, copies of what is published at `topic` go to the listener of exactly `subscriber`, until that listener ends. Returns
    /// whether it is so: not if nobody listens at `subscriber`, or it is subscribed to 1024 topics already.
    pub fn subscribe(&self, topic: &Address, subscriber: &Address) -> bool {
        self.inner.table.subscribe(topic, subscriber)
    }

    /// Ends [`Self::subscribe`].
    pub fn unsubscribe(&self, topic: &Address, subscriber: &Address) {
        self.inner.table.unsubscribe(topic, subscriber);
    }

    /// Whether a response answers a request that `origin` was given and has not answered: it may then, whatever address was asked.
    #[must_use]
    pub fn answers(&self, origin: &Origin, response: &Message) -> bool {
        response.kind == MessageType::Response
            && self.inner.requests.answerable(&RequestKey::of_response(response), origin).is_some()
    }

    /// Whom to ask about messages to domains that nobody serves. Only the first call has an effect.
    pub fn set_unroutable(&self, hook: Arc<dyn Unroutable>) {
        let _ = self.inner.unroutable.set(hook);
    }

    /// A number that no message of this bus had from here before.
    #[must_use]
    pub fn next_id(&self) -> MessageId {
        MessageId::Number(self.inner.next_id.fetch_add(1, Ordering::Relaxed))
    }

    /// What was counted so far.
    #[must_use]
    pub fn counts(&self) -> BusCounts {
        self.inner.counters.snapshot(self.inner.requests.len())
    }

    /// Refuses whatever is posted from now on with 503, and ends all open requests with it. What else waits in inboxes gets its outcome from
    /// their owners, by being taken or by [`Inbox::close`]. Only the first call's reason counts.
    pub fn shut_down(&self, reason: &str) {
        let reason = self.inner.shut_down.get_or_init(|| reason.to_owned());
        self.fail_all(503, reason);
    }

    /// Posts a message, and returns at once: it is then delivered, or its `from` gets one error response. A request gets its response as a
    /// message to the mailbox of its origin.
    ///
    /// A `from` that is unset becomes the origin's address, and the id `0` of what is not a stub's a new one. A response completes the request
    /// that it answers; if nobody waits for it, it is counted and dropped. A message that is an [`Envelope`] already is not copied.
    ///
    /// # Errors
    /// If the message was refused: it was never accepted, and no error response follows.
    pub fn post(&self, origin: &Origin, message: impl Into<Envelope>) -> Result<(), PostError> {
        let posted = self.post_message(origin, message.into(), Instant::now, None);
        self.count_refused(&posted);
        posted
    }

    /// Posts messages in their order, and returns one result for each, as [`Self::post`] would: in less time, where there are several to the same
    /// address ([`Way`]).
    pub fn post_all(&self, origin: &Origin, messages: impl IntoIterator<Item = Message>) -> Vec<Result<(), PostError>> {
        let (mut way, now) = (Way::default(), Instant::now());
        messages.into_iter().map(|message| way.post_at(self, origin, message, || now)).collect()
    }

    /// Posts a request, whatever its type, and waits for its final response. Its time is `timeout`, else what its header `timeout-ms` says,
    /// else the bus's [`BusConfig::request_timeout`]; at most ten minutes. Dropping the future gives the request up. Needs no particular async
    /// runtime.
    ///
    /// # Errors
    /// If the request was refused, or the host answers in the receiver's place: 403, 408, 502 or 503. What the receiver answers, whatever its code,
    /// is no error.
    pub async fn request(&self, origin: &Origin, message: Message, timeout: Option<Duration>) -> Result<Message, RequestError> {
        let to = message.to.clone();
        let started = self.start_request(origin, message.into(), timeout);
        self.count_refused(&started);
        let (response, mut waiting) = started?;
        let outcome = response.await;
        waiting.ended = true;
        outcome.unwrap_or_else(|_| Err(RequestError::new(503, &to, "the bus is gone")))
    }

    /// Publishes what the host itself has to say at the address that the message is to: subscribers get copies, and nobody else. Who listens there, to be
    /// asked or subscribed to, is the host, which knows it already. (Of "Deploy Protocol Stub": what follows step 22.)
    ///
    /// # Errors
    /// If the message was refused: 400, it breaks a limit of messages; 403, the policy does not allow it; 503, the bus is shut down.
    pub fn publish(&self, message: Message) -> Result<(), PostError> {
        let published = self.publish_message(message.into());
        self.count_refused(&published);
        published
    }

    /// Sends a copy of a publication at `topic` to one subscriber only: what a late subscriber has missed.
    pub fn publish_to(&self, subscriber: &Address, topic: &Address, mut message: Message) {
        message.to = topic.clone();
        if message.id == MessageId::Number(0) {
            message.id = self.next_id();
        }
        self.send_copy(&Origin::Host, message.into(), subscriber);
    }

    pub(crate) fn config(&self) -> &BusConfig {
        &self.inner.config
    }
}

impl Drop for Route {
    fn drop(&mut self) {
        match &self.place {
            RoutePlace::Address(address) => self.bus.inner.table.detach(address, self.number),
            RoutePlace::Key(key) => self.bus.inner.table.detach_key(key, self.number),
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
        f.debug_tuple("Route").field(&self.place).finish()
    }
}
