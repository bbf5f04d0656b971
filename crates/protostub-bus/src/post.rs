//! Posting: the path of a message from its sender to the receiver's mailbox.

use std::{
    hash::BuildHasher as _,
    sync::Arc,
    time::{Duration, Instant},
};

use protostub_types::{Address, Message, MessageId, MessageType, StubKey};
use tokio::sync::oneshot;

use crate::{
    Bus, BusConfig, Envelope, MAX_ID_BYTES, MAX_REQUEST_TIMEOUT, Origin, PostError, Receiver, RequestError,
    bus::Inner,
    deadlines::Due,
    last_receiver::LastReceiver,
    mailbox::{Mailbox, Pushed},
    open_requests::{NotOpened, Requester},
    queue::{Class, MISSED_HEADER},
    request_key::RequestKey,
    subscribers::{Receivers, Subscribers},
    table::Destination,
};

/// Maximum length of a message's type in bytes. The same limit applies when a message is read from
/// JSON.
const MAX_TYPE_BYTES: usize = 64;

/// Header with a request's own timeout in milliseconds.
const TIMEOUT_HEADER: &str = "timeout-ms";

/// Mailbox that a message is put into.
struct Holder {
    mailbox: Mailbox,
    /// `true` if the mailbox is attached there. Otherwise the hook named it, and the bus asks the
    /// hook each time.
    is_attached: bool,
}

impl Bus {
    /// Posts a message, and returns at once. An accepted message is delivered, or its `from` gets
    /// one error response. The response to a request goes as a message to the mailbox of its
    /// origin.
    ///
    /// The bus replaces an unset `from` by the origin's address. It replaces the id `0` by a new
    /// id, except in a stub's messages. A response completes the request that it answers. If no
    /// requester waits for it, the bus counts and drops it. An [`Envelope`] is posted without a
    /// copy.
    ///
    /// # Errors
    /// If the bus refuses the message: it was never accepted, and no error response follows.
    pub fn post(&self, origin: &Origin, message: impl Into<Envelope>) -> Result<(), PostError> {
        let posted = self.post_message(origin, message.into(), || self.config().clock.now(), None);
        self.count_refused(&posted);
        posted
    }

    /// Posts messages in their order, and returns one result for each, as [`Self::post`] would. It
    /// takes less time than single posts if several messages go to the same address. To post many
    /// messages over time, make a [`Poster`](crate::Poster).
    pub fn post_all(&self, origin: &Origin, messages: impl IntoIterator<Item = Message>) -> Vec<Result<(), PostError>> {
        let (mut last, now) = (LastReceiver::default(), self.config().clock.now());
        messages.into_iter().map(|message| self.post_to_last(origin, message.into(), || now, &mut last)).collect()
    }

    /// Posts a message of any type as a request, and waits for its final response. Its timeout is
    /// `timeout`, else its header `timeout-ms`, else the bus's
    /// [`BusConfig::request_timeout`](crate::BusConfig::request_timeout); at most ten minutes.
    /// Dropping the future abandons the request. Needs no particular async runtime.
    ///
    /// # Errors
    /// If the bus refuses the request, or the host answers in the receiver's place: 403, 408, 502
    /// or 503. A response of the receiver is no error, even with an error code.
    pub async fn request(&self, origin: &Origin, message: Message, timeout: Option<Duration>) -> Result<Message, RequestError> {
        let to = message.to.clone();
        let started = self.start_request(origin, message.into(), timeout);
        self.count_refused(&started);
        let (response, mut waiting) = started?;
        let outcome = response.await;
        waiting.ended = true;
        outcome.unwrap_or_else(|_| Err(RequestError::new(503, &to, "the bus is gone")))
    }

    /// Publishes a message of the host at the address in its `to`. Only subscribers get copies. The
    /// listener at this address, which serves requests and subscriptions, is the host itself: it
    /// needs no copy. (Of "Deploy Protocol Stub": the part after step 22.)
    ///
    /// `about` names the thing whose state the message tells. In a full inbox, the copy takes the
    /// place of the oldest one about the same thing, from the same `from` at the same topic.
    ///
    /// # Errors
    /// If the message was refused: 400, it breaks a limit of messages; 403, the policy refuses it;
    /// 503, the bus is shut down.
    pub fn publish(&self, message: Message, about: &str) -> Result<(), PostError> {
        let published = self.publish_message(message.into(), about);
        self.count_refused(&published);
        published
    }

    /// Sends a copy of a publication at `topic` to one subscriber only: for a late subscriber that
    /// missed it. `about` is as in [`Self::publish`].
    pub fn publish_to(&self, subscriber: &Address, topic: &Address, mut message: Message, about: &str) {
        message.to = topic.clone();
        if message.id == MessageId::Number(0) {
            message.id = self.next_id();
        }
        let mut copy = Envelope::from(message);
        copy.set_state(self.state_of(about));
        self.send_copy(&Origin::Host, copy, subscriber);
    }

    /// Returns the number of the state of a thing.
    fn state_of(&self, about: &str) -> u64 {
        self.inner.states.hash_one(about)
    }

    /// Posts a message to the last receiver if it is still valid. Otherwise looks the receiver up
    /// and remembers it.
    pub(crate) fn post_to_last(
        &self,
        origin: &Origin,
        message: Envelope,
        now: impl FnOnce() -> Instant,
        last: &mut LastReceiver,
    ) -> Result<(), PostError> {
        let posted = self.post_message(origin, message, now, Some(last));
        self.count_refused(&posted);
        posted
    }

    /// Posts a message without counting its refusal. Calls `now` only if the time is needed.
    fn post_message(
        &self,
        origin: &Origin,
        mut message: Envelope,
        now: impl FnOnce() -> Instant,
        last: Option<&mut LastReceiver>,
    ) -> Result<(), PostError> {
        self.prepare(origin, &mut message)?;
        if message.kind == MessageType::Response {
            return self.respond(origin, message);
        }
        if message.expects_response() {
            let listener = self.inner.table.listener_of(&message.to);
            let holder = self.holder(origin, &message, listener)?;
            let requester = match self.reply_mailbox(origin, &message.from) {
                Some(mailbox) => {
                    mailbox.reserve_reply(&message.to, self.inner.requests.share(origin))?;
                    Requester::Listens(mailbox)
                }
                None => Requester::Absent,
            };
            let deadline = now() + self.request_timeout(&message, None);
            return self.open_request(origin, message, &holder.mailbox, requester, deadline).map(drop);
        }
        if let Some(holder) = last.as_ref().and_then(|last| last.holder(self, &message)) {
            return self.deliver(holder, message, now());
        }
        // Read before the lookup: a concurrent change of the table then outdates its result.
        let version = self.inner.table.version();
        let Destination { listener, subscribers } = self.inner.table.lookup(&message.to);
        if listener.is_none() && (subscribers.is_some() || self.is_unheard(&message)) {
            self.ask_policy(origin, &message, || Receiver::Nobody)?;
            self.count_published();
            self.send_copies(origin, message, subscribers, "");
            return Ok(());
        }
        let holder = self.holder(origin, &message, listener)?;
        // Only the listener may publish at its address. A stub's message goes to the listener
        // alone, so subscribers cannot mistake it for the listener's publication.
        let subscribers = subscribers.filter(|_| !matches!(origin, Origin::Stub(_)));
        if subscribers.is_none() {
            if let Some(last) = last
                && holder.is_attached
            {
                last.remember(&message.to, &holder.mailbox, version);
            }
            return self.deliver(&holder.mailbox, message, now());
        }
        let copy = message.clone();
        self.deliver(&holder.mailbox, message, now())?;
        self.send_copies(origin, copy, subscribers, "");
        Ok(())
    }

    /// Publishes a message of the host at an address of the host.
    pub(crate) fn publish_message(&self, mut message: Envelope, about: &str) -> Result<(), PostError> {
        self.prepare(&Origin::Host, &mut message)?;
        let Destination { listener, subscribers } = self.inner.table.lookup(&message.to);
        self.ask_policy(&Origin::Host, &message, || self.receiver(&message, listener.as_ref()))?;
        self.count_published();
        self.send_copies(&Origin::Host, message, subscribers, about);
        Ok(())
    }

    /// Returns `true` for a publication that may go nowhere, at an address without listener and
    /// subscribers. The sender publishes below its own address, and no route except the sender's
    /// own leads there. Such a message is no error, and never deploys a stub.
    fn is_unheard(&self, message: &Message) -> bool {
        let Inner { config, table, .. } = &*self.inner;
        let is_own = message.to != message.from && message.to.is_within(&message.from);
        is_own && table.route_of(&message.to, &config.home).is_none_or(|route| route.has_seen(message))
    }

    pub(crate) fn start_request(
        &self,
        origin: &Origin,
        mut message: Envelope,
        timeout: Option<Duration>,
    ) -> Result<(oneshot::Receiver<Result<Message, RequestError>>, Waiting<'_>), PostError> {
        if message.kind == MessageType::Response {
            return Err(PostError::new(400, &message.to, "a message of type `response` cannot be sent as a request; post it"));
        }
        if !message.expects_response() {
            // The header may say that the message expects no response.
            message.headers.retain(|(name, _)| name != "expects-response");
            message.expect_response();
        }
        self.prepare(origin, &mut message)?;
        let listener = self.inner.table.listener_of(&message.to);
        let holder = self.holder(origin, &message, listener)?;
        let key = RequestKey::of_request(&message);
        let (answer, response) = oneshot::channel();
        let deadline = self.config().clock.now() + self.request_timeout(&message, timeout);
        let ticket = self.open_request(origin, message, &holder.mailbox, Requester::Awaits(answer), deadline)?;
        Ok((response, Waiting { bus: self, key, ticket, ended: false }))
    }

    /// Checks the limits of every message, and fills in the fields that the sender left open.
    fn prepare(&self, origin: &Origin, message: &mut Message) -> Result<(), PostError> {
        self.check_open(&message.to)?;
        // The last entry must be the poster, even if a stub wrote another one.
        if let Origin::Stub(url) = origin
            && message.via.last() != Some(url)
        {
            // Reserves one place only: most messages come from the stub itself, and are delivered
            // next.
            message.via.reserve_exact(1);
            message.via.push(url.clone());
        }
        // Only the host tells of missed copies.
        if !message.headers.is_empty() {
            message.headers.retain(|(name, _)| name != MISSED_HEADER);
        }
        if let Err(error) = message.check_limits() {
            return Err(PostError::new(400, &message.to, error.to_string()));
        }
        if let MessageId::Text(id) = &message.id
            && id.len() > MAX_ID_BYTES
        {
            let reason = format!("the message's `id` has {} bytes, more than {MAX_ID_BYTES}; use a shorter one", id.len());
            return Err(PostError::new(400, &message.to, reason));
        }
        if let MessageType::Other(name) = &message.kind
            && name.len() > MAX_TYPE_BYTES
        {
            let reason = format!("the message's `type` has {} bytes, more than {MAX_TYPE_BYTES}; use a shorter one", name.len());
            return Err(PostError::new(400, &message.to, reason));
        }
        if message.from.is_unset() {
            message.from = match origin {
                Origin::Host => self.inner.config.runtime.clone(),
                Origin::Hyperty(address) | Origin::Stub(address) => address.clone(),
            };
        }
        // A response keeps the id of its request, `0` included.
        let may_lack_id = !matches!(origin, Origin::Stub(_)) && message.kind != MessageType::Response;
        if may_lack_id && message.id == MessageId::Number(0) {
            message.id = self.next_id();
        }
        Ok(())
    }

    /// Returns the mailbox for a message that the policy permits: that of the address's listener,
    /// else that of [`Self::far_holder`].
    fn holder(&self, origin: &Origin, message: &Message, listener: Option<Mailbox>) -> Result<Holder, PostError> {
        self.ask_policy(origin, message, || self.receiver(message, listener.as_ref()))?;
        match listener {
            Some(mailbox) => Ok(Holder { mailbox, is_attached: true }),
            None => self.far_holder(origin, message),
        }
    }

    /// Returns the mailbox for a message whose address has no listener: that of its domain's route,
    /// else the one that the hook names.
    fn far_holder(&self, origin: &Origin, message: &Message) -> Result<Holder, PostError> {
        let Inner { config, table, unroutable, .. } = &*self.inner;
        if message.to.is_within(&config.runtime) {
            return Err(PostError::new(404, &message.to, "the runtime has no listener at this address"));
        }
        if let Some(mailbox) = table.route_of(&message.to, &config.home) {
            return match origin {
                // The stub of the home domain posted to a hyperty that has gone.
                Origin::Stub(stub) if mailbox.owner() == Some(stub) && is_home(&message.to, config) => Err(PostError::new(
                    404,
                    &message.to,
                    "the address has no listener, and the stub that posted the message serves the address's domain",
                )),
                _ => Ok(Holder { mailbox, is_attached: true }),
            };
        }
        let Some(key) = StubKey::of(&message.to, &config.home) else {
            return Err(PostError::new(
                404,
                &message.to,
                "the address has no listener and no domain whose stub could be deployed",
            ));
        };
        match unroutable.get() {
            Some(hook) => Ok(Holder { mailbox: hook.unroutable(origin, &key, message)?, is_attached: false }),
            None => Err(PostError::new(404, &message.to, format!("the address has no listener, and no stub serves {key}"))),
        }
    }

    /// Returns the mailbox for responses to an origin's requests.
    fn reply_mailbox(&self, origin: &Origin, from: &Address) -> Option<Mailbox> {
        let own = match origin {
            Origin::Host => None,
            Origin::Hyperty(address) | Origin::Stub(address) => self.inner.table.listener_of(address),
        };
        own.or_else(|| self.mailbox_of(from))
    }

    /// Returns the mailbox of an address that a message came from.
    pub(crate) fn mailbox_of(&self, address: &Address) -> Option<Mailbox> {
        let Inner { config, table, .. } = &*self.inner;
        table.listener_of(address).or_else(|| table.route_of(address, &config.home))
    }

    /// Puts a message that is not a request into a mailbox.
    fn deliver(&self, mailbox: &Mailbox, message: Envelope, since: Instant) -> Result<(), PostError> {
        check_loop(mailbox, &message)?;
        let pushed = mailbox.push(message, Class::Plain { since })?;
        self.inner.counters.accepted.add(1);
        self.watch(mailbox, pushed, since);
        Ok(())
    }

    /// Opens a request, puts it into its holder's mailbox, and returns its ticket. Undoes all of it
    /// if the request is refused.
    fn open_request(
        &self,
        origin: &Origin,
        message: Envelope,
        holder: &Mailbox,
        requester: Requester,
        deadline: Instant,
    ) -> Result<u64, PostError> {
        let Inner { requests, counters, .. } = &*self.inner;
        let kept = match &requester {
            Requester::Listens(mailbox) => Some(mailbox.clone()),
            Requester::Awaits(_) | Requester::Absent => None,
        };
        let give_back = |error| {
            kept.iter().for_each(Mailbox::release_reply);
            Err(error)
        };
        if let Err(error) = check_loop(holder, &message) {
            return give_back(error);
        }
        let key = RequestKey::of_request(&message);
        let ticket = match requests.open(&key, &message.id, deadline, holder, origin, requester) {
            Ok(ticket) => ticket,
            Err(NotOpened::Full) => {
                let reason = format!("the bus has {} open requests, its maximum; try again later", requests.limit(origin));
                return give_back(PostError::new(429, &message.to, reason));
            }
            Err(NotOpened::SameKey) => {
                let reason = format!("a request of {} with the id {} is still open; use another id", message.from, message.id);
                return give_back(PostError::new(409, &message.to, reason));
            }
        };
        // A shutdown ends all requests that are open at that moment. This check refuses the
        // requests that were opened later.
        let pushed = self.check_open(&message.to).and_then(|()| holder.push(message, Class::Request { ticket }));
        match pushed {
            // The request has a deadline of its own. If that passed before the request was queued,
            // only this code can take it out.
            Ok(Pushed::Watched | Pushed::Unwatched) if requests.is_open(&key, ticket) => {}
            Ok(_) => holder.forget(ticket),
            Err(error) if requests.remove(&key, ticket).is_some() => return give_back(error),
            // The requester got an outcome meanwhile, so the request counts as accepted.
            Err(_) => {}
        }
        counters.accepted.add(1);
        Ok(ticket)
    }

    fn request_timeout(&self, message: &Message, timeout: Option<Duration>) -> Duration {
        let asked = || message.header(TIMEOUT_HEADER)?.parse().ok().map(Duration::from_millis);
        timeout.or_else(asked).unwrap_or(self.inner.config.request_timeout).min(MAX_REQUEST_TIMEOUT)
    }

    /// Sends copies to subscribers. A subscriber without room misses copies, and the publisher gets
    /// no error.
    fn send_copies(&self, origin: &Origin, mut message: Envelope, subscribers: Option<Arc<Subscribers>>, about: &str) {
        let Some(subscribers) = subscribers else { return };
        message.set_state(self.state_of(about));
        for subscriber in Receivers::of(subscribers) {
            self.send_copy(origin, message.clone(), &subscriber);
        }
    }

    fn send_copy(&self, origin: &Origin, message: Envelope, subscriber: &Address) {
        let since = self.config().clock.now();
        let mailbox = self.inner.table.listener_of(subscriber).filter(|mailbox| !mailbox.has_seen(&message));
        // The subscriber has just ended, or the copy would return to its source: no subscriber
        // misses it.
        let Some(mailbox) = mailbox else { return };
        let receiver =
            || mailbox.owner().map_or_else(|| Receiver::Subscriber(subscriber.clone()), |stub| Receiver::Stub(stub.clone()));
        let copies_dropped = &self.inner.counters.copies_dropped;
        if let Err(error) = self.ask_policy(origin, &message, receiver) {
            copies_dropped.add(1);
            tracing::debug!(%subscriber, %error, "the policy kept a publication from a subscriber");
            return;
        }
        let (misses, pushed) = mailbox.push_copy(message, since);
        if misses {
            copies_dropped.add(1);
            let reason = pushed.as_ref().err().map(tracing::field::display);
            tracing::debug!(%subscriber, reason, "a subscriber missed a publication");
        }
        if let Ok(pushed) = pushed {
            self.watch(&mailbox, pushed, since);
        }
    }

    /// Makes sure that a message in a mailbox times out.
    fn watch(&self, mailbox: &Mailbox, pushed: Pushed, since: Instant) {
        if pushed == Pushed::Unwatched {
            let Inner { config, requests, .. } = &*self.inner;
            requests.deadlines().add(since + config.queue_timeout, requests.next_number(), Due::Mailbox(mailbox.downgrade()));
        }
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

    pub(crate) fn count_refused<T>(&self, posted: &Result<T, PostError>) {
        if posted.is_err() {
            self.inner.counters.refused.add(1);
        }
    }
}

/// Returns `true` for an address of the home domain.
fn is_home(address: &Address, config: &BusConfig) -> bool {
    StubKey::of(address, &config.home).is_some_and(|key| *key.domain() == config.home)
}

fn check_loop(mailbox: &Mailbox, message: &Message) -> Result<(), PostError> {
    if mailbox.has_seen(message) {
        let reason = "the message came through this stub already and would go round in circles; its domain has to deliver it";
        return Err(PostError::new(508, &message.to, reason));
    }
    Ok(())
}

/// Guard of a requester that waits for a response. Dropping it abandons the request.
pub(crate) struct Waiting<'a> {
    bus: &'a Bus,
    key: RequestKey,
    ticket: u64,
    /// Set once the request has its outcome, so that dropping the guard abandons no request.
    pub(crate) ended: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.bus.abandon(&self.key, self.ticket);
        }
    }
}
