use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use protostub_types::{Address, Domain, Message, MessageId, MessageType, StubKey};
use tokio::{sync::oneshot, time::Instant};

use crate::{
    AttachError, BusCounts, Inbox, InboxLimits, PostError, RequestError,
    counts::Counters,
    deadlines::Due,
    mailbox::{Class, Mailbox, Pushed},
    open_requests::{NotOpened, OpenRequests, RequestKey, Requester},
    table::{Destination, Table},
};

/// The longest time that a request may be open, whatever it asks for.
pub const MAX_REQUEST_TIMEOUT: Duration = Duration::from_secs(600);

/// The longest time that a message may wait in an inbox.
pub const MAX_QUEUE_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// How long an id that is a text may be, in bytes: twice what a UUID in a URN takes, with room for those who join several.
pub const MAX_ID_BYTES: usize = 256;

/// How long a message's type may be, in bytes; as when it is read from JSON.
const MAX_TYPE_BYTES: usize = 64;

/// How long a request waits for its response, in milliseconds, if not as long as all others.
const TIMEOUT_HEADER: &str = "timeout-ms";

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
    config: BusConfig,
    pub(crate) table: Table,
    pub(crate) requests: OpenRequests,
    pub(crate) counters: Counters,
    unroutable: OnceLock<Arc<dyn Unroutable>>,
    next_id: AtomicU64,
    /// Why nothing is accepted any more.
    shut_down: OnceLock<String>,
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
    /// that it answers; if nobody waits for it, it is counted and dropped.
    ///
    /// # Errors
    /// If the message was refused: it was never accepted, and no error response follows.
    pub fn post(&self, origin: &Origin, message: Message) -> Result<(), PostError> {
        let posted = self.post_message(origin, message);
        self.count_refused(&posted);
        posted
    }

    /// Posts a request, whatever its type, and waits for its final response. Its time is `timeout`, else what its header `timeout-ms` says,
    /// else the bus's [`BusConfig::request_timeout`]; at most ten minutes. Dropping the future gives the request up. Needs no particular async
    /// runtime.
    ///
    /// # Errors
    /// If the request was refused, or the host answers in the receiver's place: 408, 502 or 503. What the receiver answers, whatever its code,
    /// is no error.
    pub async fn request(&self, origin: &Origin, message: Message, timeout: Option<Duration>) -> Result<Message, RequestError> {
        let to = message.to.clone();
        let started = self.start_request(origin, message, timeout);
        self.count_refused(&started);
        let (response, mut waiting) = started?;
        let outcome = response.await;
        waiting.ended = true;
        outcome.unwrap_or_else(|_| Err(RequestError::new(503, &to, "the bus is gone")))
    }

    /// Sends a copy of a publication at `topic` to one subscriber only: what a late subscriber has missed.
    pub fn publish_to(&self, subscriber: &Address, topic: &Address, mut message: Message) {
        message.to = topic.clone();
        if message.id == MessageId::Number(0) {
            message.id = self.next_id();
        }
        self.send_copy(message, subscriber);
    }

    fn post_message(&self, origin: &Origin, mut message: Message) -> Result<(), PostError> {
        self.prepare(origin, &mut message)?;
        if message.kind == MessageType::Response {
            return self.respond(message);
        }
        if message.expects_response() {
            let holder = self.holder(origin, &message)?;
            let requester = match self.reply_mailbox(origin, &message.from) {
                Some(mailbox) => {
                    mailbox.keep_place(&message.to)?;
                    Requester::Listens(mailbox)
                }
                None => Requester::Absent,
            };
            let timeout = self.request_timeout(&message, None);
            return self.open_request(message, &holder, requester, timeout).map(drop);
        }
        let Destination { listener, subscribers } = self.inner.table.lookup(&message.to);
        match (listener, subscribers) {
            (Some(listener), None) => self.deliver(&listener, message),
            (Some(listener), Some(subscribers)) => {
                let copy = message.clone();
                self.deliver(&listener, message)?;
                self.publish(copy, &subscribers);
                Ok(())
            }
            (None, Some(subscribers)) => {
                self.count_published();
                self.publish(message, &subscribers);
                Ok(())
            }
            (None, None) if self.is_unheard(&message) => {
                self.count_published();
                Ok(())
            }
            (None, None) => {
                let holder = self.far_holder(origin, &message)?;
                self.deliver(&holder, message)
            }
        }
    }

    /// Whether a message, to an address where nobody listens and which nobody is subscribed to, is a publication that may go nowhere: somebody
    /// tells something of its own, and no route but its own leads there. It is no error, and never deploys a stub.
    fn is_unheard(&self, message: &Message) -> bool {
        let Inner { config, table, .. } = &*self.inner;
        let is_own = message.to != message.from && message.to.is_within(&message.from);
        is_own && table.route_of(&message.to, &config.home).is_none_or(|route| route.has_seen(message))
    }

    fn start_request(
        &self,
        origin: &Origin,
        mut message: Message,
        timeout: Option<Duration>,
    ) -> Result<(oneshot::Receiver<Result<Message, RequestError>>, Waiting<'_>), PostError> {
        if message.kind == MessageType::Response {
            return Err(PostError::new(400, &message.to, "a response is no request: post it"));
        }
        if !message.expects_response() {
            // It may say that it is none.
            message.headers.retain(|(name, _)| name != "expects-response");
            message.expect_response();
        }
        self.prepare(origin, &mut message)?;
        let holder = self.holder(origin, &message)?;
        let key = RequestKey::of_request(&message);
        let (answer, response) = oneshot::channel();
        let timeout = self.request_timeout(&message, timeout);
        let ticket = self.open_request(message, &holder, Requester::Awaits(answer), timeout)?;
        Ok((response, Waiting { bus: self, key, ticket, ended: false }))
    }

    /// Checks what holds for every message, and fills in what the sender left open.
    fn prepare(&self, origin: &Origin, message: &mut Message) -> Result<(), PostError> {
        self.check_open(&message.to)?;
        if let Origin::Stub(url) = origin
            && !message.via.contains(url)
        {
            message.via.push(url.clone());
        }
        if let Err(error) = message.check_limits() {
            return Err(PostError::new(400, &message.to, error.to_string()));
        }
        if let MessageId::Text(id) = &message.id
            && id.len() > MAX_ID_BYTES
        {
            let reason = format!("the message's `id` has {} bytes, more than {MAX_ID_BYTES}", id.len());
            return Err(PostError::new(400, &message.to, reason));
        }
        if let MessageType::Other(name) = &message.kind
            && name.len() > MAX_TYPE_BYTES
        {
            let reason = format!("the message's `type` has {} bytes, more than {MAX_TYPE_BYTES}", name.len());
            return Err(PostError::new(400, &message.to, reason));
        }
        if message.from.is_unset() {
            message.from = match origin {
                Origin::Host => self.inner.config.runtime.clone(),
                Origin::Hyperty(address) | Origin::Stub(address) => address.clone(),
            };
        }
        // A response has its request's id, whatever that is.
        let may_lack_id = !matches!(origin, Origin::Stub(_)) && message.kind != MessageType::Response;
        if may_lack_id && message.id == MessageId::Number(0) {
            message.id = self.next_id();
        }
        Ok(())
    }

    /// The mailbox that a message goes to: of the address's listener, else as [`Self::far_holder`].
    fn holder(&self, origin: &Origin, message: &Message) -> Result<Mailbox, PostError> {
        match self.inner.table.listener_of(&message.to) {
            Some(listener) => Ok(listener),
            None => self.far_holder(origin, message),
        }
    }

    /// Where a message goes to whose address has no listener: to its domain's route, else to whom the hook names.
    fn far_holder(&self, origin: &Origin, message: &Message) -> Result<Mailbox, PostError> {
        let Inner { config, table, unroutable, .. } = &*self.inner;
        if message.to.is_within(&config.runtime) {
            return Err(PostError::new(404, &message.to, "the runtime has nothing at this address"));
        }
        if let Some(route) = table.route_of(&message.to, &config.home) {
            return Ok(route);
        }
        let Some(key) = StubKey::of(&message.to, &config.home) else {
            return Err(PostError::new(
                404,
                &message.to,
                "nobody listens there, and it names no domain whose stub could be deployed",
            ));
        };
        match unroutable.get() {
            Some(hook) => hook.unroutable(origin, &key, message),
            None => Err(PostError::new(404, &message.to, format!("nobody listens there, and no stub serves {key}"))),
        }
    }

    /// Where the responses to what an origin posts go.
    fn reply_mailbox(&self, origin: &Origin, from: &Address) -> Option<Mailbox> {
        let own = match origin {
            Origin::Host => None,
            Origin::Hyperty(address) | Origin::Stub(address) => self.inner.table.listener_of(address),
        };
        own.or_else(|| self.mailbox_of(from))
    }

    /// The mailbox of an address that a message came from.
    pub(crate) fn mailbox_of(&self, address: &Address) -> Option<Mailbox> {
        let Inner { config, table, .. } = &*self.inner;
        table.listener_of(address).or_else(|| table.route_of(address, &config.home))
    }

    /// Puts a message that is no request into a mailbox.
    fn deliver(&self, mailbox: &Mailbox, message: Message) -> Result<(), PostError> {
        check_loop(mailbox, &message)?;
        let since = Instant::now();
        let pushed = mailbox.push(message, Class::Plain { since })?;
        self.inner.counters.accepted.add(1);
        self.watch(mailbox, pushed, since);
        Ok(())
    }

    /// Opens a request and puts it into its holder's mailbox. Returns its ticket; if that is refused, nothing of it is left.
    fn open_request(
        &self,
        message: Message,
        holder: &Mailbox,
        requester: Requester,
        timeout: Duration,
    ) -> Result<u64, PostError> {
        let Inner { requests, counters, .. } = &*self.inner;
        let kept = match &requester {
            Requester::Listens(mailbox) => Some(mailbox.clone()),
            Requester::Awaits(_) | Requester::Absent => None,
        };
        let give_back = |error| {
            kept.iter().for_each(Mailbox::give_place_back);
            Err(error)
        };
        if let Err(error) = check_loop(holder, &message) {
            return give_back(error);
        }
        let key = RequestKey::of_request(&message);
        let ticket = match requests.open(&key, &message.id, Instant::now() + timeout, holder, requester) {
            Ok(ticket) => ticket,
            Err(NotOpened::Full) => {
                let reason = format!("{} requests are open, as many as may be: try again later", requests.limit());
                return give_back(PostError::new(429, &message.to, reason));
            }
            Err(NotOpened::SameKey) => {
                let reason = format!("a request of {} with the id {} is still open: use another id", message.from, message.id);
                return give_back(PostError::new(409, &message.to, reason));
            }
        };
        // Whoever shuts the bus down fails what is open then; what was opened after that is refused here.
        let pushed = self.check_open(&message.to).and_then(|()| holder.push(message, Class::Request { ticket }));
        if let Err(error) = pushed
            && requests.remove(&key, ticket).is_some()
        {
            return give_back(error);
        }
        // Pushed, and watched by its own deadline. Or refused, but its requester was told of an outcome meanwhile: so it was accepted.
        counters.accepted.add(1);
        Ok(ticket)
    }

    fn request_timeout(&self, message: &Message, timeout: Option<Duration>) -> Duration {
        let asked = || message.header(TIMEOUT_HEADER)?.parse().ok().map(Duration::from_millis);
        timeout.or_else(asked).unwrap_or(self.inner.config.request_timeout).min(MAX_REQUEST_TIMEOUT)
    }

    /// Sends copies to subscribers. One that has no room misses its copy, and whoever publishes does not hear of it.
    fn publish(&self, message: Message, subscribers: &[Address]) {
        if let Some((last, others)) = subscribers.split_last() {
            for subscriber in others {
                self.send_copy(message.clone(), subscriber);
            }
            self.send_copy(message, last);
        }
    }

    fn send_copy(&self, message: Message, subscriber: &Address) {
        let since = Instant::now();
        let mailbox = self.inner.table.listener_of(subscriber).filter(|mailbox| !mailbox.has_seen(&message));
        // Who has just ended, or what would come back to where it came from: there is nobody to miss it.
        let Some(mailbox) = mailbox else { return };
        match mailbox.push(message, Class::Copy { since }) {
            Ok(pushed) => self.watch(&mailbox, pushed, since),
            Err(error) => {
                self.inner.counters.copies_dropped.add(1);
                tracing::debug!(%subscriber, %error, "a subscriber misses a publication");
            }
        }
    }

    /// Sees to it that messages do not wait in a mailbox for ever.
    pub(crate) fn watch(&self, mailbox: &Mailbox, pushed: Pushed, since: Instant) {
        if pushed == Pushed::Unwatched {
            let Inner { config, requests, .. } = &*self.inner;
            requests.deadlines().add(since + config.queue_timeout, requests.next_number(), Due::Mailbox(mailbox.downgrade()));
        }
    }

    pub(crate) fn config(&self) -> &BusConfig {
        &self.inner.config
    }

    fn check_open(&self, to: &Address) -> Result<(), PostError> {
        match self.inner.shut_down.get() {
            Some(reason) => Err(PostError::new(503, to, reason.as_str())),
            None => Ok(()),
        }
    }

    fn count_published(&self) {
        self.inner.counters.accepted.add(1);
        self.inner.counters.published.add(1);
    }

    fn count_refused<T>(&self, posted: &Result<T, PostError>) {
        if posted.is_err() {
            self.inner.counters.refused.add(1);
        }
    }
}

fn check_loop(mailbox: &Mailbox, message: &Message) -> Result<(), PostError> {
    if mailbox.has_seen(message) {
        let reason = "the message came through this stub already, and would go round in circles: its domain has to deliver it";
        return Err(PostError::new(508, &message.to, reason));
    }
    Ok(())
}

/// Whoever waits for the response of a request. If it stops waiting, the request is given up.
struct Waiting<'a> {
    bus: &'a Bus,
    key: RequestKey,
    ticket: u64,
    ended: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.bus.abandon(&self.key, self.ticket);
        }
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
