//! The node's state: connections, addresses and subscriptions. Does no I/O, and has no clock of its
//! own.

use std::collections::{HashMap, HashSet};

use axum::extract::ws::Utf8Bytes;
use protostub_types::{Address, Domain};
use tokio::time::Instant;

use super::{
    client::{Client, Ending},
    faults::Faults,
    ids::{ConnectionId, SessionId},
    registry::Registry,
    wire::{Frame, Input, SESSION_ADDRESS},
};
use crate::Limits;

/// The whole state of the node.
pub(crate) struct State {
    /// The names of the domain. The node creates its own addresses with the first one.
    pub(super) names: Vec<Domain>,
    pub(super) limits: Limits,
    pub(super) faults: Faults,
    pub(super) connections: HashMap<ConnectionId, Connection>,
    pub(super) sessions: HashMap<SessionId, Session>,
    /// The sessions by the URL of the runtime that opened them.
    pub(super) runtimes: HashMap<Address, SessionId>,
    pub(super) owners: HashMap<Address, SessionId>,
    pub(super) topics: HashMap<Address, HashSet<SessionId>>,
    pub(super) registry: Registry,
    pub(super) undelivered: u64,
    next: u64,
    /// Number of uses of all addresses. It gives their order.
    uses: u64,
}

pub(crate) struct Connection {
    pub(super) client: Client,
    pub(super) session: Option<SessionId>,
    since: Instant,
}

pub(crate) struct Session {
    pub(super) runtime: Address,
    /// The token for re-opening. `None` in the NoMatrix flavour, where a new connection takes the
    /// session over without a token.
    pub(super) token: Option<String>,
    pub(super) connection: Option<ConnectionId>,
    /// Time at which the session lost its connection.
    disconnected: Option<Instant>,
    pub(super) addresses: HashMap<Address, SessionAddress>,
    pub(super) topics: HashSet<Address>,
}

/// An address of a session.
pub(super) struct SessionAddress {
    pub(super) claim: Claim,
    /// The number of its last use: a message from it or to it.
    last_use: u64,
}

/// The way in which a session got an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Claim {
    /// The client asked for it, and keeps it until the client releases it.
    Allocated {
        /// The key of its block.
        key: Option<String>,
    },
    /// The client sent a message from it, or registered it. Such an address gives way to a new one
    /// while it has no registration.
    Learned,
}

/// Failure to claim an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClaimError {
    /// Another session has the address.
    Taken,
    /// The session has reached its limit of addresses.
    TooMany,
}

impl State {
    pub(crate) fn new(names: Vec<Domain>, limits: Limits) -> Self {
        Self {
            names,
            limits,
            faults: Faults::default(),
            connections: HashMap::new(),
            sessions: HashMap::new(),
            runtimes: HashMap::new(),
            owners: HashMap::new(),
            topics: HashMap::new(),
            registry: Registry::default(),
            undelivered: 0,
            next: 0,
            uses: 0,
        }
    }

    /// Adds a connection. Returns `None` if the limit is reached.
    pub(crate) fn connect(&mut self, client: Client, now: Instant) -> Option<ConnectionId> {
        if self.connections.len() >= self.limits.max_connections {
            return None;
        }
        let id = ConnectionId(self.next_number());
        self.connections.insert(id, Connection { client, session: None, since: now });
        Some(id)
    }

    /// Removes a connection. Its session waits to be re-opened.
    pub(crate) fn disconnected(&mut self, id: ConnectionId, now: Instant) {
        let Some(session) = self.connections.remove(&id).and_then(|connection| connection.session) else { return };
        if let Some(session) = self.sessions.get_mut(&session)
            && session.connection == Some(id)
        {
            session.connection = None;
            session.disconnected = Some(now);
        }
    }

    /// Handles a message of a client: passes it on, or answers it.
    pub(crate) fn receive(&mut self, from: ConnectionId, text: Utf8Bytes, now: Instant) {
        match Input::parse(text) {
            Ok(Input::Message(frame)) => self.take(from, &frame, now),
            Ok(Input::Disconnect) => {
                if let Some(session) = self.session_of(from) {
                    self.end_session(session, Ending::with(1000, ""), now);
                }
            }
            Err(invalid) => self.answer(from, invalid.answer()),
        }
    }

    fn take(&mut self, from: ConnectionId, frame: &Frame, now: Instant) {
        if let [to] = frame.to.as_slice()
            && to.as_str() == SESSION_ADDRESS
        {
            return self.session_message(from, frame, now);
        }
        let Some(session) = self.session_of(from) else {
            return self.answer(from, frame.error(SESSION_ADDRESS, 500, "No session: send 'open' to mn:/session first"));
        };
        if let Err(error) = self.learn(session, frame) {
            return self.answer(
                from,
                match error {
                    ClaimError::Taken => frame.error("mn:/policies", 403, "Message blocked by policy"),
                    ClaimError::TooMany => frame.error("mn:/policies", 429, "The session has too many addresses"),
                },
            );
        }
        for to in &frame.to {
            self.dispatch(from, session, frame, to, now);
        }
    }

    /// Delivers a message to the first match: the node's own functions, the owner of the address,
    /// the subscribers, the runtime whose URL the address is below.
    fn dispatch(&mut self, from: ConnectionId, session: SessionId, frame: &Frame, to: &Address, now: Instant) {
        if let Some((function, domain)) = self.function(to) {
            let answer = match function {
                Function::Allocation => self.allocate(session, frame, to, &domain),
                Function::Subscription => self.subscribe(session, frame, to),
                Function::Registry => self.registry_message(session, frame, to, now),
                Function::Unknown => frame.error(to.as_str(), 404, "the message node has no such function"),
            };
            return self.answer(from, answer);
        }
        if let Some(owner) = self.owners.get(to).or_else(|| self.runtimes.get(to)).copied() {
            self.used(owner, to);
            return self.deliver(from, owner, frame, to);
        }
        if let Some(subscribers) = self.topics.get(to) {
            let mut subscribers: Vec<_> = subscribers.iter().copied().collect();
            subscribers.sort_unstable();
            for subscriber in subscribers {
                self.hand_over(subscriber, frame.text_for(to));
            }
            return;
        }
        match above(to).find_map(|above| self.runtimes.get(above)).copied() {
            // A runtime's messages to itself do not belong here.
            Some(owner) if owner != session => self.deliver(from, owner, frame, to),
            _ => self.undelivered(from, frame, to, 404, "no client has this address or subscribed to it"),
        }
    }

    fn deliver(&mut self, from: ConnectionId, owner: SessionId, frame: &Frame, to: &Address) {
        let connected = self.sessions.get(&owner).is_some_and(|session| session.connection.is_some());
        if self.hand_over(owner, frame.text_for(to)) {
            return;
        }
        if connected {
            self.undelivered(from, frame, to, 429, "the receiver does not read fast enough: its queue is full");
        } else {
            self.undelivered(from, frame, to, 503, "the receiver has lost its connection");
        }
    }

    fn undelivered(&mut self, from: ConnectionId, frame: &Frame, to: &Address, code: u16, why: &str) {
        self.undelivered += 1;
        tracing::debug!(from = %frame.from, %to, kind = frame.kind, code, "not delivered: {why}");
        if frame.wants_answer() {
            self.answer(from, frame.error(to.as_str(), code, why));
        }
    }

    /// Queues a text for a session's client. Returns `true` on success.
    pub(super) fn hand_over(&self, session: SessionId, text: Utf8Bytes) -> bool {
        let connection = self.sessions.get(&session).and_then(|session| session.connection);
        connection.and_then(|id| self.connections.get(&id)).is_some_and(|connection| connection.client.push(text))
    }

    /// Answers a client. A client whose queue is full does not read its answers, and is
    /// disconnected.
    pub(super) fn answer(&self, to: ConnectionId, text: Utf8Bytes) {
        if let Some(connection) = self.connections.get(&to)
            && !connection.client.push(text)
        {
            connection.client.end(Ending::with(1013, "the client does not read its answers"));
        }
    }

    pub(super) fn session_of(&self, connection: ConnectionId) -> Option<SessionId> {
        self.connections.get(&connection)?.session
    }

    /// Checks that the session may send from this address. An address without an owner is claimed
    /// for the session. The sender of a response need not own its address: it may answer a
    /// publication.
    fn learn(&mut self, session: SessionId, frame: &Frame) -> Result<(), ClaimError> {
        let from = &frame.from;
        if matches!(from.scheme(), "domain" | "global" | "mn") {
            return Err(ClaimError::Taken);
        }
        let is_of_runtime = |state: &Self| state.sessions.get(&session).is_some_and(|session| from.is_within(&session.runtime));
        match self.owner(from) {
            Some(owner) if owner != session => Err(ClaimError::Taken),
            Some(_) => {
                self.used(session, from);
                Ok(())
            }
            None if frame.kind == "response" || is_of_runtime(self) => Ok(()),
            None => self.claim(session, from, Claim::Learned),
        }
    }

    /// Claims an address for a session. A session with too many addresses forgets the learned one
    /// that was not used for the longest time.
    pub(super) fn claim(&mut self, id: SessionId, address: &Address, claim: Claim) -> Result<(), ClaimError> {
        match self.owner(address) {
            Some(owner) if owner != id => return Err(ClaimError::Taken),
            _ => {}
        }
        let Some(session) = self.sessions.get(&id) else { return Err(ClaimError::Taken) };
        if session.addresses.contains_key(address) {
            self.used(id, address);
            return Ok(());
        }
        if session.addresses.len() >= self.limits.max_addresses_per_session && !self.forget_an_address(id) {
            return Err(ClaimError::TooMany);
        }
        let last_use = self.next_use();
        if let Some(session) = self.sessions.get_mut(&id) {
            session.addresses.insert(address.clone(), SessionAddress { claim, last_use });
            self.owners.insert(address.clone(), id);
        }
        Ok(())
    }

    /// Forgets the session's least recently used address that was learned and has no registration.
    /// Returns `false` if no address can be forgotten.
    fn forget_an_address(&mut self, id: SessionId) -> bool {
        let Some(session) = self.sessions.get_mut(&id) else { return false };
        let is_registered = |address: &Address| self.registry.entries.get(address).is_some_and(|entry| entry.owner == Some(id));
        let forgettable = session.addresses.iter().filter(|(address, of)| of.claim == Claim::Learned && !is_registered(address));
        let Some(oldest) = forgettable.min_by_key(|(_, of)| of.last_use).map(|(address, _)| address.clone()) else {
            return false;
        };
        session.addresses.remove(&oldest);
        self.owners.remove(&oldest);
        true
    }

    /// Notes the use of a session's address, or of an address below it.
    fn used(&mut self, id: SessionId, address: &Address) {
        let last_use = self.next_use();
        let Some(session) = self.sessions.get_mut(&id) else { return };
        for text in std::iter::once(address.as_str()).chain(above(address)) {
            if let Some(used) = session.addresses.get_mut(text) {
                used.last_use = last_use;
                return;
            }
        }
    }

    fn next_use(&mut self) -> u64 {
        self.uses += 1;
        self.uses
    }

    /// Returns the owner of the address, or of an address above it.
    pub(super) fn owner(&self, address: &Address) -> Option<SessionId> {
        let of = |text: &str| self.owners.get(text).or_else(|| self.runtimes.get(text)).copied();
        of(address.as_str()).or_else(|| above(address).find_map(of))
    }

    /// Returns the node's function at this address, and the domain name in the address.
    fn function(&self, to: &Address) -> Option<(Function, Domain)> {
        if to.scheme() != "domain" {
            return None;
        }
        let (function, name) = to.host().split_once('.')?;
        let domain = self.names.iter().find(|domain| domain.as_str() == name)?;
        let function = match (function, to.path().trim_end_matches('/')) {
            ("msg-node", "/address-allocation" | "/hyperty-address-allocation" | "/object-address-allocation") => {
                Function::Allocation
            }
            ("msg-node", "/sm") => Function::Subscription,
            ("registry", _) => Function::Registry,
            ("msg-node", _) => Function::Unknown,
            _ => return None,
        };
        Some((function, domain.clone()))
    }

    /// Opens a session. Replaces an earlier session of the same runtime.
    pub(super) fn open_session(
        &mut self,
        connection: ConnectionId,
        runtime: &Address,
        token: Option<String>,
        now: Instant,
    ) -> Result<(), &'static str> {
        if let Some(earlier) = self.session_of(connection) {
            // The connection stays: its client starts again.
            self.remove_session(earlier, now);
        }
        if let Some(earlier) = self.runtimes.get(runtime).copied() {
            self.end_session(earlier, Ending::with(1008, "the runtime has opened another session"), now);
        }
        if self.sessions.len() >= self.limits.max_sessions {
            return Err("the message node has too many sessions");
        }
        if self.owner(runtime).is_some() {
            return Err("the runtime URL is an address of another session");
        }
        let id = SessionId(self.next_number());
        let session = Session {
            runtime: runtime.clone(),
            token,
            connection: None,
            disconnected: Some(now),
            addresses: HashMap::new(),
            topics: HashSet::new(),
        };
        self.sessions.insert(id, session);
        self.runtimes.insert(runtime.clone(), id);
        self.bind(connection, id);
        Ok(())
    }

    /// Binds the connection to the session. The session's earlier connection ends.
    pub(super) fn bind(&mut self, connection: ConnectionId, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.disconnected = None;
        if let Some(earlier) = session.connection.replace(connection).filter(|earlier| *earlier != connection)
            && let Some(earlier) = self.connections.get_mut(&earlier)
        {
            earlier.session = None;
            earlier.client.end(Ending::with(1008, "the session goes on over another connection"));
        }
        if let Some(connection) = self.connections.get_mut(&connection) {
            connection.session = Some(id);
        }
    }

    /// Removes a session, with its addresses and subscriptions, and ends its connection.
    pub(super) fn end_session(&mut self, id: SessionId, ending: Ending, now: Instant) {
        let connection = self.sessions.get(&id).and_then(|session| session.connection);
        self.remove_session(id, now);
        if let Some(connection) = connection.and_then(|id| self.connections.get(&id)) {
            connection.client.end(ending);
        }
    }

    fn remove_session(&mut self, id: SessionId, now: Instant) {
        let Some(session) = self.sessions.remove(&id) else { return };
        if let Some(connection) = session.connection.and_then(|id| self.connections.get_mut(&id)) {
            connection.session = None;
        }
        self.runtimes.remove(&session.runtime);
        for address in session.addresses.keys() {
            self.owners.remove(address);
        }
        for topic in &session.topics {
            self.remove_subscriber(topic, id);
        }
        self.registry_session_ended(id, now);
    }

    pub(super) fn remove_subscriber(&mut self, topic: &Address, id: SessionId) {
        if let Some(subscribers) = self.topics.get_mut(topic) {
            subscribers.remove(&id);
            if subscribers.is_empty() {
                self.topics.remove(topic);
            }
        }
    }

    /// Ends everything that has expired: sessions without a connection, connections without a
    /// session, and registrations.
    pub(crate) fn expire(&mut self, now: Instant) {
        let linger = self.limits.session_linger;
        let is_over = |since: Instant| now.saturating_duration_since(since) >= linger;
        let over: Vec<_> =
            self.sessions.iter().filter(|(_, session)| session.disconnected.is_some_and(is_over)).map(|(id, _)| *id).collect();
        for id in over {
            self.remove_session(id, now);
        }
        for connection in self.connections.values().filter(|connection| connection.session.is_none() && is_over(connection.since))
        {
            connection.client.end(Ending::with(1008, "no session was opened"));
        }
        self.expire_registrations(now);
    }

    /// Loses everything but the connections, like a server that restarts.
    pub(crate) fn forget(&mut self) {
        self.sessions.clear();
        self.runtimes.clear();
        self.owners.clear();
        self.topics.clear();
        self.registry = Registry::default();
        for connection in self.connections.values_mut() {
            connection.session = None;
        }
    }

    fn next_number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

enum Function {
    Allocation,
    Subscription,
    Registry,
    /// An address of the message node without a function.
    Unknown,
}

/// Returns the addresses above this one that have a path, the nearest first.
fn above(address: &Address) -> impl Iterator<Item = &str> {
    let text = address.as_str();
    let authority_end = text.len() - address.path().len();
    text.char_indices().rev().filter(move |&(at, c)| c == '/' && at > authority_end).map(move |(at, _)| &text[..at])
}
