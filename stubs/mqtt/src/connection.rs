//! A connection to the broker: three loops over one state. [`Connection::receive`] takes packets of
//! the broker, [`Connection::watch`] checks that the broker is there, and [`Connection::send`]
//! takes messages from the bus and writes packets. The loops are one task and are polled in this
//! order, so the last loop writes at once what the first two leave for it.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    convert::Infallible,
    future::{Future as _, poll_fn},
    pin::{Pin, pin},
    task::Poll,
    time::Duration,
};

use protostub_sdk::{
    Body, CredentialKind, DisconnectReason, Error, Message, MessageType, Result, Stub,
    futures::future,
    identity, log,
    subscribers::Removed,
    time::{self, timeout},
};
use serde::de::IgnoredAny;

use crate::{
    config::{Config, Qos},
    session::{Change, Pending, Session},
    topic,
    transport::Transport,
    wire::{Abilities, Codec, Connect, Packet, Publish, Reader, Refusal},
};

/// Time that the broker has to accept the connection.
const ACCEPT: Duration = Duration::from_secs(10);
/// Time that the broker has to answer a ping.
const ANSWER: Duration = Duration::from_secs(10);
/// Time that the broker has to acknowledge packets in flight when the stub disconnects.
const DRAIN: Duration = Duration::from_secs(2);
/// Seconds for which the broker keeps the session of a stub that has gone.
const EXPIRY: u32 = 60 * 60;
/// Maximum number of packets of each kind in flight. Further messages wait at the host.
const MAX_ON_THE_WAY: usize = 64;
/// Maximum number of payload bytes in flight, beyond the first payload.
const MAX_BYTES_ON_THE_WAY: usize = 2 * 1024 * 1024;
/// Maximum number of messages to take before they are saved and sent.
const BATCH: usize = 32;
/// The largest packet: the bus' limit, the topic and the properties. A WebSocket's message ends at
/// 1 MiB.
const MAX_PACKET_BYTES: u32 = (1 << 20) + (1 << 17);
const MAX_WEBSOCKET_PACKET_BYTES: u32 = 1 << 20;

/// The reason why a message cannot be passed on: a code as in RFC 9110, and a text.
type Problem = (u16, String);

struct Connection<'a> {
    stub: &'a Stub,
    config: &'a Config,
    codec: Codec,
    transport: Transport,
    reader: RefCell<Reader>,
    abilities: Abilities,
    session: &'a RefCell<Session>,
    /// Packets to send, in order.
    queue: RefCell<VecDeque<Outgoing>>,
    /// Packets to send before all others: acknowledgements and pings.
    urgent: RefCell<Vec<u8>>,
    last_sent: Cell<Duration>,
    last_received: Cell<Duration>,
    posted: Cell<u64>,
}

enum Outgoing {
    /// A packet of QoS 0, and the request to answer once it was sent.
    Fleeting(Vec<u8>, Option<Message>),
    /// The publication with this identifier.
    Publication(u16),
    /// The change with this identifier.
    Change(u16),
}

/// Connects, and passes messages on until the connection ends.
pub(crate) async fn run(stub: &Stub, config: &Config, session: &RefCell<Session>) -> Result<()> {
    let connection = match timeout(ACCEPT, connect(stub, config, session)).await.unwrap_or(Err(Error::Timeout)) {
        Err(error @ Error::Failed(_)) => {
            tell_all(stub, session, 502, &error.to_string());
            return Err(error);
        }
        Err(Error::Timeout) => return Err(Error::Io(format!("the broker at {} does not answer", config.url))),
        connected => connected?,
    };
    stub.live();
    let ended = future::try_join3(connection.receive(), connection.watch(), connection.send()).await;
    session.borrow_mut().save();
    match ended {
        Err(Error::Disconnect(reason)) => connection.leave(reason).await,
        Err(broke) => Err(broke),
        Ok((never, _, _)) => match never {},
    }
}

async fn connect<'a>(stub: &'a Stub, config: &'a Config, session: &'a RefCell<Session>) -> Result<Connection<'a>> {
    let credential = match stub.credential() {
        // A token may have expired since: the stub takes a fresh one if there is one.
        Some(token) if token.kind != CredentialKind::Basic && session.borrow().was_connected => {
            Some(identity::request(None).await.unwrap_or_else(|_| token.clone()))
        }
        other => other.cloned(),
    };
    let transport = Transport::open(&config.url).await?;
    let codec = Codec(config.version);
    let maximum_packet_size = match &transport {
        Transport::WebSocket(_) => MAX_WEBSOCKET_PACKET_BYTES,
        Transport::Tcp(_) => MAX_PACKET_BYTES,
    };
    let hello = {
        let session = session.borrow();
        let (user_name, password) = match &credential {
            None => (None, None),
            Some(basic) if basic.kind == CredentialKind::Basic => match basic.value.split_once(':') {
                Some((user_name, password)) => (Some(user_name), Some(password)),
                None => (Some(&*basic.value), None),
            },
            // MQTT 3.1.1, and some brokers of MQTT 5, accept no password without a user name.
            Some(token) => (config.user_name.as_deref().or(Some(session.client_id())), Some(&*token.value)),
        };
        codec.connect(&Connect {
            client_id: session.client_id(),
            clean_start: config.clean_start,
            keep_alive: config.keep_alive,
            user_name,
            password,
            expiry: if config.clean_start { 0 } else { EXPIRY },
            receive_maximum: u16::try_from(MAX_ON_THE_WAY).unwrap_or(u16::MAX),
            maximum_packet_size,
        })?
    };
    transport.write(&hello).await?;
    let mut reader = Reader::new(codec, maximum_packet_size);
    let first = loop {
        if let Some(packet) = reader.next()? {
            break packet;
        }
        reader.feed(transport.read().await?.ok_or_else(closed)?);
    };
    let Packet::Connack { session_present, outcome } = first else {
        return Err(Error::Io("the broker's first packet is not CONNACK".to_owned()));
    };
    let abilities = outcome.map_err(|refusal| refused(&refusal, config))?;
    {
        let session = &mut *session.borrow_mut();
        session.begin(session_present);
        if let Some(client_id) = &abilities.client_id {
            session.set_client_id(client_id.clone());
        }
    }
    let queue = {
        let session = session.borrow();
        let changes = session.pending.entries().iter().map(|change| Outgoing::Change(change.key));
        let publications = session.publications.entries().iter();
        changes.chain(publications.map(|publication| Outgoing::Publication(publication.key))).collect()
    };
    Ok(Connection {
        stub,
        config,
        codec,
        transport,
        reader: RefCell::new(reader),
        abilities,
        session,
        queue: RefCell::new(queue),
        urgent: RefCell::default(),
        last_sent: Cell::new(time::now()),
        last_received: Cell::new(time::now()),
        posted: Cell::new(0),
    })
}

fn closed() -> Error {
    Error::Io("the broker closed the connection".to_owned())
}

fn refused(refusal: &Refusal, config: &Config) -> Error {
    let reason = format!("the broker at {} refused the connection: {}", config.url, refusal.reason);
    match refusal.code {
        0x84 => Error::failed(format!("{reason}; the configuration's `version` may be 5, or 4 for MQTT 3.1.1")),
        _ if refusal.is_final() => Error::failed(reason),
        _ => Error::Io(reason),
    }
}

fn answer(stub: &Stub, request: &Message, code: u16, problem: Option<&str>) {
    if !request.expects_response() {
        if let Some(problem) = problem {
            log::warn!("a `{}` of {} to {} was not passed on: {problem}", request.kind, request.from, request.to);
        }
        return;
    }
    let response = match problem {
        None => request.response(code, None),
        Some(problem) => request.error_response(code, problem),
    };
    if let Err(error) = stub.post(response) {
        log::warn!("the response to a request of {} was not posted: {error}", request.from);
    }
}

fn tell_all(stub: &Stub, session: &RefCell<Session>, code: u16, problem: &str) {
    let requests = session.borrow_mut().take_requests();
    for request in requests {
        answer(stub, &request, code, Some(problem));
    }
}

impl Connection<'_> {
    /// Takes packets of the broker.
    async fn receive(&self) -> Result<Infallible> {
        loop {
            while let Some(packet) = { self.reader.borrow_mut().next()? } {
                self.handle(packet)?;
            }
            let bytes = self.transport.read().await?.ok_or_else(closed)?;
            self.last_received.set(time::now());
            self.reader.borrow_mut().feed(bytes);
        }
    }

    fn handle(&self, packet: Packet) -> Result<()> {
        match packet {
            Packet::Publish(publish) => {
                self.deliver(&publish);
                if let Some(id) = publish.id {
                    self.urgent.borrow_mut().extend(self.codec.puback(id)?);
                }
            }
            Packet::Puback(id, outcome) => {
                let published = self.session.borrow_mut().published(id);
                if let Some(publication) = published {
                    let topic = &publication.data.publish.topic;
                    match publication.request {
                        Some(request) => self.tell(&request, outcome, "publication"),
                        None if outcome.is_err() => log::warn!("the broker refused a publication to {topic}: {outcome:?}"),
                        None => {}
                    }
                }
            }
            Packet::Suback(id, outcome) | Packet::Unsuback(id, outcome) => {
                let changed = self.session.borrow_mut().pending.complete(&id);
                if let Some(change) = changed {
                    self.changed(change, outcome);
                }
            }
            Packet::Pingresp => {}
            Packet::Disconnect(refusal) => return Err(Error::Io(format!("the broker ended the connection: {}", refusal.reason))),
            Packet::Connack { .. } => return Err(Error::Io("the broker sent CONNACK twice".to_owned())),
        }
        Ok(())
    }

    fn tell(&self, request: &Message, outcome: Result<(), Refusal>, what: &str) {
        match outcome {
            Ok(()) => answer(self.stub, request, 200, None),
            Err(refusal) => {
                let problem = format!("the broker refused the {what}: {}", refusal.reason);
                answer(self.stub, request, refusal.response_code(), Some(&problem));
            }
        }
    }

    fn changed(&self, change: Pending, outcome: Result<(), Refusal>) {
        if let (Change::Subscribe(filter), Err(refusal)) = (&change.data, &outcome) {
            log::warn!("the broker refused the subscription of {filter}: {}", refusal.reason);
            let session = &mut *self.session.borrow_mut();
            match &change.request {
                Some(request) => drop(session.remove(filter, &request.from)),
                None => session.remove_filter(filter),
            }
        }
        if let Some(request) = &change.request {
            self.tell(request, outcome, "subscription");
        }
    }

    /// Posts a publication to its subscribers.
    fn deliver(&self, publish: &Publish) {
        let receivers: Vec<String> = self.session.borrow().receivers(publish).into_iter().map(str::to_owned).collect();
        if receivers.is_empty() {
            log::debug!("no subscriber of {} is left", publish.topic);
            return;
        }
        let from = topic::address(self.stub.domain(), &publish.topic);
        let body = body(&publish.payload);
        let messages = receivers.iter().map(|receiver| {
            self.posted.set(self.posted.get() + 1);
            let update = Message::new(MessageType::Update, receiver.as_str()).with_from(from.clone()).with_id(self.posted.get());
            let update = if publish.retain { update.with_header("retain", "true") } else { update };
            update.with_body(body.clone())
        });
        for (posted, receiver) in self.stub.post_all(messages).into_iter().zip(&receivers) {
            match posted {
                Ok(()) => {}
                // The address has no receiver.
                Err(Error::Io(_)) => self.forget(receiver),
                Err(error) => log::warn!("a publication to {} was not delivered to {receiver}: {error}", publish.topic),
            }
        }
    }

    /// Ends all subscriptions of a subscriber that is gone.
    fn forget(&self, subscriber: &str) {
        log::info!("{subscriber} is gone, so its subscriptions end");
        let session = &mut *self.session.borrow_mut();
        for filter in session.remove_everywhere(subscriber) {
            self.queue.borrow_mut().extend(session.change(Change::Unsubscribe(filter), None).map(Outgoing::Change));
        }
    }

    /// Pings the broker after a time without a packet sent, or without a packet received.
    async fn watch(&self) -> Result<Infallible> {
        let seconds = self.abilities.keep_alive.filter(|&seconds| seconds > 0).unwrap_or(self.config.keep_alive);
        let patience = Duration::from_secs(seconds.into());
        loop {
            let silent = time::now().saturating_sub(self.last_sent.get().min(self.last_received.get()));
            if silent < patience {
                time::sleep(patience - silent).await;
                continue;
            }
            let asked = time::now();
            self.urgent.borrow_mut().extend(Codec::pingreq());
            time::sleep(ANSWER).await;
            if self.last_received.get() < asked {
                return Err(Error::Io(format!("the broker was silent for {} s", (ANSWER + silent).as_secs())));
            }
        }
    }

    /// Takes messages from the bus, and writes packets.
    async fn send(&self) -> Result<Infallible> {
        loop {
            self.flush().await?;
            let mut message = self.stub.next_message();
            let message = poll_fn(|cx| {
                if self.can_send() {
                    return Poll::Ready(Ok(None));
                }
                if self.has_room() { Pin::new(&mut message).poll(cx).map_ok(Some) } else { Poll::Pending }
            });
            let Some(message) = message.await? else { continue };
            self.take(message);
            for _ in 1..BATCH {
                match self.has_room().then(|| self.stub.try_message()).flatten() {
                    Some(message) => self.take(message),
                    None => break,
                }
            }
        }
    }

    /// Writes all packets that can be sent, once the session is saved.
    async fn flush(&self) -> Result<()> {
        loop {
            self.session.borrow_mut().save();
            let Some((bytes, sent)) = self.next_outgoing() else { return Ok(()) };
            self.transport.write(&bytes).await?;
            self.last_sent.set(time::now());
            if let Some(request) = sent {
                answer(self.stub, &request, 200, None);
            }
        }
    }

    fn has_room(&self) -> bool {
        let session = self.session.borrow();
        let bytes: usize = session.publications.entries().iter().map(|publication| publication.data.publish.payload.len()).sum();
        self.queue.borrow().len().max(session.publications.len()).max(session.pending.len()) < MAX_ON_THE_WAY
            && bytes < MAX_BYTES_ON_THE_WAY
    }

    fn can_send(&self) -> bool {
        !self.urgent.borrow().is_empty()
            || match self.queue.borrow().front() {
                Some(Outgoing::Publication(_)) => {
                    let session = self.session.borrow();
                    let sent = session.publications.entries().iter().filter(|publication| publication.data.is_sent).count();
                    sent < usize::from(self.abilities.receive_maximum)
                }
                Some(_) => true,
                None => false,
            }
    }

    /// Returns the next bytes to write, and the request to answer afterwards.
    fn next_outgoing(&self) -> Option<(Vec<u8>, Option<Message>)> {
        while self.can_send() {
            let urgent = std::mem::take(&mut *self.urgent.borrow_mut());
            if !urgent.is_empty() {
                return Some((urgent, None));
            }
            let next = self.queue.borrow_mut().pop_front()?;
            match self.written(next) {
                Ok(Some(written)) => return Some(written),
                Ok(None) => {}
                Err(error) => log::warn!("{error}"),
            }
        }
        None
    }

    fn written(&self, next: Outgoing) -> Result<Option<(Vec<u8>, Option<Message>)>> {
        let session = &mut *self.session.borrow_mut();
        let bytes = match next {
            Outgoing::Fleeting(bytes, request) => return Ok(Some((bytes, request))),
            Outgoing::Publication(id) => {
                let Some(publication) = session.publications.iter_mut().find(|publication| publication.key == id) else {
                    return Ok(None);
                };
                publication.data.is_sent = true;
                let bytes = self.codec.publish(&publication.data.publish)?;
                if bytes.len() > self.abilities.maximum_packet_size as usize {
                    // The limit is another broker's: this broker's was checked when the message was
                    // taken.
                    let request = session.published(id).and_then(|publication| publication.request);
                    let problem = format!("a publication of {} bytes is more than the broker takes", bytes.len());
                    match request {
                        Some(request) => answer(self.stub, &request, 413, Some(&problem)),
                        None => log::warn!("{problem}"),
                    }
                    return Ok(None);
                }
                bytes
            }
            Outgoing::Change(id) => {
                let Some(change) = session.pending.entries().iter().find(|change| change.key == id) else { return Ok(None) };
                match &change.data {
                    Change::Unsubscribe(filter) => self.codec.unsubscribe(id, filter)?,
                    Change::Subscribe(filter) => {
                        // `None`: the filter was unsubscribed since, and that packet comes next.
                        let known = session.subscribed(filter);
                        let number = known.filter(|_| self.abilities.subscription_identifiers).map(|known| known.number);
                        let qos = known.map_or(self.config.qos, |known| known.qos);
                        self.codec.subscribe(id, filter, qos, number, change.request.is_some())?
                    }
                }
            }
        };
        Ok(Some((bytes, None)))
    }

    /// Performs a message's request, or answers why not.
    fn take(&self, mut message: Message) {
        let taken = match message.kind {
            MessageType::Create | MessageType::Update => self.publish(&mut message),
            MessageType::Subscribe => self.subscribe(&message),
            MessageType::Unsubscribe => self.unsubscribe(&message),
            MessageType::Response => {
                // The bus has no receiver at that address.
                if message.code() == Some(404) {
                    self.forget(&message.from);
                }
                Ok(())
            }
            _ => Err((405, "a topic takes `create` and `update`, `subscribe` and `unsubscribe`".to_owned())),
        };
        if let Err((code, problem)) = taken {
            answer(self.stub, &message, code, Some(&problem));
        }
    }

    fn publish(&self, message: &mut Message) -> Result<(), Problem> {
        let topic = topic::of_address(&message.to).map_err(bad)?;
        topic::check_name(&topic).map_err(bad)?;
        let qos = self.qos(message)?.min(self.abilities.maximum_qos);
        let retain = message.header("retain") == Some("true");
        if retain && !self.abilities.retain {
            return Err((501, "the broker does not support retained messages".to_owned()));
        }
        let payload = match message.body.take() {
            Some(Body::Json(text)) => text.into_bytes(),
            Some(Body::Bytes(bytes)) => bytes,
            None => Vec::new(),
        };
        // The lengths, the identifier and the flags are a dozen bytes.
        let (size, most) = (payload.len() + topic.len() + 12, self.abilities.maximum_packet_size);
        if size > most as usize {
            return Err((413, format!("a publication of {size} bytes is more than the {most} that the broker takes")));
        }
        let publish = Publish { topic, payload, retain, ..Publish::default() };
        let next = match qos {
            Qos::AtLeastOnce => Outgoing::Publication(self.session.borrow_mut().publish(publish, message).ok_or_else(no_room)?),
            Qos::AtMostOnce => {
                let bytes = self.codec.publish(&publish).map_err(|error| bad(error.to_string()))?;
                Outgoing::Fleeting(bytes, message.expects_response().then(|| message.clone()))
            }
        };
        self.queue.borrow_mut().push_back(next);
        Ok(())
    }

    fn subscribe(&self, message: &Message) -> Result<(), Problem> {
        let filter = filter(message)?;
        let qos = self.qos(message)?;
        let session = &mut *self.session.borrow_mut();
        if !session.add(&filter, qos, &message.from) {
            return Err(no_room());
        }
        let id = session.change(Change::Subscribe(filter), Some(message)).ok_or_else(no_room)?;
        self.queue.borrow_mut().push_back(Outgoing::Change(id));
        Ok(())
    }

    fn unsubscribe(&self, message: &Message) -> Result<(), Problem> {
        let filter = filter(message)?;
        let session = &mut *self.session.borrow_mut();
        match session.remove(&filter, &message.from) {
            Removed::NotSubscribed => return Err((404, format!("{} is not subscribed to {filter}", message.from))),
            Removed::OthersRemain => answer(self.stub, message, 200, None),
            Removed::Last => {
                let id = session.change(Change::Unsubscribe(filter), Some(message)).ok_or_else(no_room)?;
                self.queue.borrow_mut().push_back(Outgoing::Change(id));
            }
        }
        Ok(())
    }

    fn qos(&self, message: &Message) -> Result<Qos, Problem> {
        match message.header("qos") {
            None => Ok(self.config.qos),
            Some(text) => {
                let qos = text.parse().ok().and_then(Qos::from_number);
                qos.ok_or_else(|| bad(format!("the header `qos` is 0 or 1, not {text:?}")))
            }
        }
    }

    /// Disconnects, once the broker has acknowledged all packets in flight or its time is over.
    async fn leave(&self, reason: DisconnectReason) -> Result<()> {
        let acknowledged = async {
            loop {
                self.flush().await?;
                let is_done = || {
                    let session = self.session.borrow();
                    session.publications.is_empty() && session.pending.is_empty()
                };
                if is_done() {
                    return Ok::<(), Error>(());
                }
                poll_fn(|_| if self.can_send() || is_done() { Poll::Ready(()) } else { Poll::Pending }).await;
            }
        };
        let drained = timeout(DRAIN, async {
            future::select(pin!(self.receive()), pin!(acknowledged)).await;
        });
        let drained = drained.await;
        let forgets = reason == DisconnectReason::Shutdown;
        let goodbye = self.codec.disconnect(forgets)?;
        tell_all(self.stub, self.session, 504, "the protocol stub disconnected before the broker acknowledged the message");
        if drained.is_err() {
            log::info!("the broker has not acknowledged every packet; the next connection sends the rest again");
        }
        if forgets {
            self.session.borrow_mut().forget();
        } else {
            self.session.borrow_mut().save();
        }
        // The connection may have ended meanwhile.
        let _ = self.transport.write(&goodbye).await;
        Ok(())
    }
}

fn bad(problem: String) -> Problem {
    (400, problem)
}

fn no_room() -> Problem {
    (507, "the protocol stub has no room for a subscription; unsubscribe from a topic first".to_owned())
}

/// Returns the topic filter of `subscribe` and `unsubscribe`: the body's `topic`, or else the
/// address's.
fn filter(message: &Message) -> Result<String, Problem> {
    #[derive(serde::Deserialize)]
    struct Named {
        topic: String,
    }
    let filter = match message.parse::<Option<Named>>() {
        Ok(Some(named)) => named.topic,
        _ => topic::of_address(&message.to).map_err(bad)?,
    };
    topic::check_filter(&filter).map_err(bad)?;
    Ok(filter)
}

/// Makes a JSON body of JSON text, and a body of bytes of anything else.
fn body(payload: &[u8]) -> Body {
    match std::str::from_utf8(payload) {
        Ok(text) if serde_json::from_str::<IgnoredAny>(text).is_ok() => Body::Json(text.to_owned()),
        _ => Body::Bytes(payload.to_vec()),
    }
}
