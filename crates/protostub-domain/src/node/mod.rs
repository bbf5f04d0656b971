//! A message node: clients open sessions, allocate addresses, and send messages to each other.

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

/// The message node of a [`crate::DomainServer`], for tests and operators. Cloning is cheap.
///
/// The node behaves like the Vert.x message node of the reTHINK project, with these exceptions:
/// * A runtime's session is found by its exact URL and token, never by the beginning of the URL.
/// * A client cannot send from an address of another session, nor release, register or update one
///   (403, `Message blocked by policy`).
/// * A message to an unknown address is answered with 404. The answer is 503 if the address's owner
///   is not connected, and 429 if the owner reads too slowly. Responses and updates, which are
///   publications, are dropped without an answer.
/// * Everything has a limit ([`Limits`]), and sessions without a connection expire.
#[derive(Clone)]
pub struct MessageNode {
    state: Arc<Mutex<State>>,
    counts: Arc<watch::Sender<NodeCounts>>,
    limits: Arc<Limits>,
}

/// Counts of a message node's state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeCounts {
    /// Open WebSocket connections.
    pub connections: usize,
    /// Sessions, with and without a connection.
    pub sessions: usize,
    /// Sessions that have a connection.
    pub connected: usize,
    /// Addresses of the sessions, without their runtimes' URLs.
    pub addresses: usize,
    /// Addresses with subscribers.
    pub topics: usize,
    /// Entries of the registry.
    pub registrations: usize,
    /// Messages since the start that could not be delivered.
    pub undelivered: u64,
}

/// One session of a message node.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeSession {
    /// The URL of the runtime that opened it.
    pub runtime: Address,
    /// `true` if the session has a connection.
    pub connected: bool,
    /// The session's addresses, sorted.
    pub addresses: Vec<Address>,
    /// The session's subscriptions, sorted.
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

    /// Returns the node's counts, and allows to wait for changes of them.
    #[must_use]
    pub fn counts(&self) -> watch::Receiver<NodeCounts> {
        self.counts.subscribe()
    }

    /// Returns the sessions, in the order of their runtimes' URLs.
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

    /// Ends the connection of this runtime's session. Returns `true` if there was one. The session
    /// stays, and can be re-opened.
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

    /// Loses all sessions, addresses, subscriptions and registrations. Connections stay open,
    /// without a session.
    pub fn forget(&self) {
        self.change(|state, _| state.forget());
    }

    /// Sets the node's faults from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// Serves a client of the Vert.x flavour, or, with `nomatrix`, the runtime of this URL in the
    /// NoMatrix flavour.
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
            // Dropping the socket closes the connection.
            None => tracing::warn!(limit = self.limits.max_connections, "refused a connection: the limit is reached"),
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

    /// Changes the state. All changes go through this function.
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
        // The lock is still held, so the counts change in the order of the state.
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
