//! Idle HTTP connections of a stub, between two exchanges.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use protostub_egress::Http1;
use tokio::time::{Sleep, sleep};
use url::Origin;

use crate::{
    readiness::{Owner, QueueEntry, ReadyQueue},
    traffic::MeteredStream,
};

/// Maximum number of idle connections to all servers together. Most stubs connect to one server,
/// with a few requests at the same time.
pub(crate) const MAX_IDLE: usize = 4;
/// Time for which an idle connection waits for the next request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// The idle connections of one stub, oldest first. Each occupies one of the stub's places for
/// connections, until the stub needs that place.
pub(crate) struct IdleConnections {
    connections: VecDeque<Idle>,
    entry: Arc<QueueEntry>,
    waker: Waker,
}

struct Idle {
    origin: Origin,
    http: Http1<MeteredStream>,
    expires: Pin<Box<Sleep>>,
}

impl IdleConnections {
    pub(crate) fn new(queue: &Arc<ReadyQueue>) -> Self {
        let entry = QueueEntry::new(Owner::Idle, queue);
        let waker = Waker::from(Arc::clone(&entry));
        Self { connections: VecDeque::new(), entry, waker }
    }

    pub(crate) fn len(&self) -> usize {
        self.connections.len()
    }

    /// Keeps a connection for the next request to its origin. Closes the oldest connection if there
    /// are too many.
    pub(crate) fn insert(&mut self, origin: Origin, http: Http1<MeteredStream>) {
        if self.connections.len() == MAX_IDLE {
            self.connections.pop_front();
        }
        self.connections.push_back(Idle { origin, http, expires: Box::pin(sleep(IDLE_TIMEOUT)) });
        // The next drive registers the waker with the socket and the timer.
        self.entry.enqueue();
    }

    /// Takes the most recently used connection to an origin, if the connection is still open.
    pub(crate) fn take(&mut self, origin: &Origin) -> Option<Http1<MeteredStream>> {
        self.drive();
        let index = self.connections.iter().rposition(|idle| idle.origin == *origin && idle.http.is_ready())?;
        self.connections.remove(index).map(|idle| idle.http)
    }

    /// Closes the connection that has been idle longest.
    pub(crate) fn close_oldest(&mut self) {
        self.connections.pop_front();
    }

    pub(crate) fn close_all(&mut self) {
        self.connections.clear();
    }

    /// Drops connections that a server closed or that have expired.
    pub(crate) fn drive(&mut self) {
        let cx = &mut Context::from_waker(&self.waker);
        self.connections
            .retain_mut(|idle| idle.http.poll_closed(cx).is_pending() && Future::poll(idle.expires.as_mut(), cx).is_pending());
    }
}
