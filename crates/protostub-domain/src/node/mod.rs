//! A message node: clients open sessions, get addresses, and reach each other.

mod allocation;
mod client;
mod connection;
mod faults;
mod ids;
mod registration;
mod registry;
mod session;
mod state;
mod subscription;
mod wire;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::extract::ws::{Utf8Bytes, WebSocket};
use protostub_types::{Address, Domain};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use self::{client::Client, ids::ConnectionId, state::State};
pub use self::{client::Ending, faults::Faults};
use crate::Limits;

/// The message node of a [`crate::DomainServer`], as a test or an operator sees it. Cloning is cheap.
///
/// What it does is what the Vert.x message node of the reTHINK project does, except that
/// * a runtime's session is found by its URL and token exactly, never by the beginning of the URL;
/// * nobody can send from an address of another session, nor release, register or update one (403, `Message blocked by policy`);
/// * whoever sends to an address that nobody has gets 404, one whose owner is not connected 503, and one whose owner reads too slowly 429;
///   responses and updates, which are publications, are dropped without an answer;
/// * everything has a limit ([`Limits`]), and sessions without a connection expire.
#[derive(Clone)]
pub struct MessageNode {
    state: Arc<Mutex<State>>,
    counts: Arc<watch::Sender<NodeCounts>>,
    limits: Arc<Limits>,
}

/// What a message node has to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeCounts {
    /// Open WebSocket connections.
    pub connections: usize,
    /// Sessions, with and without a connection.
    pub sessions: usize,
    /// Sessions that have a connection.
    pub connected: usize,
    /// Addresses that sessions have, besides their runtimes' URLs.
    pub addresses: usize,
    /// Addresses that somebody is subscribed to.
    pub topics: usize,
    /// Entries of the registry.
    pub registrations: usize,
    /// Messages that could not be delivered, since the start.
    pub undelivered: u64,
}

/// One session of a message node.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeSession {
    /// The URL of the runtime that opened it.
    pub runtime: Address,
    /// Whether it has a connection.
    pub connected: bool,
    /// What it has, sorted.
    pub addresses: Vec<Address>,
    /// What it is subscribed to, sorted.
    pub subscriptions: Vec<Address>,
}

impl MessageNode {
    pub(crate) fn new(names: Vec<Domain>, limits: Limits) -> Self {
        Self {
            state: Arc::new(Mutex::new(State::new(names, limits.clone()))),
            counts: Arc::new(watch::Sender::new(NodeCounts::default())),
            limits: Arc::new(limits),
        }
    }

    /// What it has to do, and a way to wait until that changes.
    #[must_use]
    pub fn counts(&self) -> watch::Receiver<NodeCounts> {
        self.counts.subscribe()
    }

    /// Its sessions, in the order of their runtimes' URLs.
    #[must_use]
    pub fn sessions(&self) -> Vec<NodeSession> {
        let state = self.lock();
        let sorted = |addresses: &mut dyn Iterator<Item = &Address>| {
            let mut addresses: Vec<_> = addresses.cloned().collect();
            addresses.sort_unstable();
            addresses
        };
        let mut sessions: Vec<_> = state
            .sessions
            .values()
            .map(|session| NodeSession {
                runtime: session.runtime.clone(),
                connected: session.connection.is_some(),
                addresses: sorted(&mut session.addresses.keys()),
                subscriptions: sorted(&mut session.topics.iter()),
            })
            .collect();
        sessions.sort_unstable_by(|a, b| a.runtime.cmp(&b.runtime));
        sessions
    }

    /// Ends the connection of the session that this runtime has, and tells whether there was one. The session stays, and can be opened
    /// again.
    pub fn disconnect(&self, runtime: &Address, ending: Ending) -> bool {
        let state = self.lock();
        let connection = state.runtimes.get(runtime).and_then(|id| state.sessions.get(id)).and_then(|session| session.connection);
        match connection.and_then(|id| state.connections.get(&id)) {
            Some(connection) => {
                connection.client.end(ending);
                true
            }
            None => false,
        }
    }

    /// Loses all sessions, addresses, subscriptions and registrations. Connections stay open, but have no session any more.
    pub fn forget(&self) {
        self.change(|state, _| state.forget());
    }

    /// What it does wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// Serves a client of the Vert.x flavour, or, if it is of the NoMatrix flavour, the runtime with this URL.
    pub(crate) async fn serve(&self, socket: WebSocket, nomatrix: Option<Address>, stop: &CancellationToken) {
        let (client, queue) = Client::new(self.limits.max_queued_messages, self.limits.max_queued_bytes);
        let id = self.change(|state, now| {
            let id = state.connect(client.clone(), now)?;
            if let Some(runtime) = nomatrix
                && let Err(reason) = state.open_nomatrix_session(id, &runtime, now)
            {
                client.end(Ending::with(1008, reason));
            }
            Some(id)
        });
        match id {
            Some(id) => connection::serve(self, id, client, queue, socket, &self.limits, stop).await,
            // Dropped, and with it the connection.
            None => tracing::warn!(limit = self.limits.max_connections, "a connection too many"),
        }
    }

    pub(crate) fn has_room(&self) -> bool {
        self.lock().connections.len() < self.limits.max_connections
    }

    pub(crate) fn expire(&self) {
        self.change(|state, now| state.expire(now));
    }

    fn receive(&self, from: ConnectionId, text: Utf8Bytes) {
        self.change(|state, now| state.receive(from, text, now));
    }

    fn disconnected(&self, id: ConnectionId) {
        self.change(|state, now| state.disconnected(id, now));
    }

    /// The one way to the state for what changes it.
    fn change<T>(&self, change: impl FnOnce(&mut State, Instant) -> T) -> T {
        let mut state = self.lock();
        let outcome = change(&mut state, Instant::now());
        let counts = NodeCounts {
            connections: state.connections.len(),
            sessions: state.sessions.len(),
            connected: state.sessions.values().filter(|session| session.connection.is_some()).count(),
            addresses: state.owners.len(),
            topics: state.topics.len(),
            registrations: state.registrations(),
            undelivered: state.undelivered,
        };
        // Within the lock, so that the counts change in the order of the state.
        self.counts.send_if_modified(|current| std::mem::replace(current, counts) != counts);
        outcome
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for MessageNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageNode").field("counts", &*self.counts.borrow()).finish_non_exhaustive()
    }
}
