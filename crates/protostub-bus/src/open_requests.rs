use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Instant,
};

use dashmap::{DashMap, Entry};
use foldhash::quality::RandomState;
use protostub_types::{Message, MessageId};
use tokio::sync::oneshot;

use crate::{
    Clock, Origin, RequestError,
    deadlines::{Deadlines, Due},
    mailbox::Mailbox,
    request_key::RequestKey,
};

/// Part of all open requests that only hyperties and the host can use: a quarter.
const RESERVE: usize = 4;

/// Receiver of the final response.
#[derive(Debug)]
pub(crate) enum Requester {
    /// [`Bus::request`](crate::Bus::request), which waits.
    Awaits(oneshot::Sender<Result<Message, RequestError>>),
    /// The requester's listener. One place for a response is reserved in its mailbox.
    Listens(Mailbox),
    /// The requester has no listener.
    Absent,
}

/// A request that has no final response yet.
#[derive(Debug)]
pub(crate) struct OpenRequest {
    /// Distinguishes the request from later ones with the same key.
    pub(crate) ticket: u64,
    /// The request's id, as the requester wrote it.
    id: MessageId,
    deadline: Instant,
    /// Mailbox of the responder.
    pub(crate) holder: Mailbox,
    /// `true` once the holder's owner took the request; until then it waits in the holder's inbox.
    pub(crate) taken: bool,
    pub(crate) requester: Requester,
    /// `true` if a stub posted the request.
    of_stub: bool,
}

impl OpenRequest {
    /// Returns the final response that the host gives in the responder's place.
    pub(crate) fn error_response(&self, key: &RequestKey, code: u16, reason: &str) -> Message {
        key.error_response(&self.id, code, reason)
    }
}

/// Reason why a request could not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotOpened {
    Full,
    SameKey,
}

/// All requests without a final response. Only the code that removes a request gives it its
/// outcome.
#[derive(Debug)]
pub(crate) struct OpenRequests {
    requests: DashMap<RequestKey, OpenRequest, RandomState>,
    count: AtomicUsize,
    limit: usize,
    /// Number of open requests that stubs posted, and its maximum. The rest is a reserve for
    /// hyperties and the host.
    of_stubs: AtomicUsize,
    limit_of_stubs: usize,
    next_number: AtomicU64,
    deadlines: Deadlines,
}

impl OpenRequests {
    pub(crate) fn new(limit: usize, clock: Clock) -> Self {
        Self {
            requests: DashMap::with_hasher(RandomState::default()),
            count: AtomicUsize::new(0),
            limit,
            of_stubs: AtomicUsize::new(0),
            limit_of_stubs: limit - limit / RESERVE,
            next_number: AtomicU64::new(1),
            deadlines: Deadlines::new(clock),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Returns the maximum number of open requests that an origin of this kind finds.
    pub(crate) fn limit(&self, origin: &Origin) -> usize {
        if is_stub(origin) { self.limit_of_stubs } else { self.limit }
    }

    /// Returns the maximum number of open requests of this origin now. A stub gets as many as are
    /// left for all stubs. One stub therefore gets at most half of them, two stubs get a third
    /// each, and a stub without open requests always finds some.
    pub(crate) fn share(&self, origin: &Origin) -> usize {
        if is_stub(origin) { self.limit_of_stubs.saturating_sub(self.of_stubs.load(Ordering::Relaxed)) } else { usize::MAX }
    }

    pub(crate) fn deadlines(&self) -> &Deadlines {
        &self.deadlines
    }

    /// Returns a number for one more entry of the deadlines.
    pub(crate) fn next_number(&self) -> u64 {
        self.next_number.fetch_add(1, Ordering::Relaxed)
    }

    /// Opens a request, and returns its ticket. A response counts only after the holder took the
    /// request.
    pub(crate) fn open(
        &self,
        key: &RequestKey,
        id: &MessageId,
        deadline: Instant,
        holder: &Mailbox,
        origin: &Origin,
        requester: Requester,
    ) -> Result<u64, NotOpened> {
        let of_stub = is_stub(origin);
        self.count(of_stub)?;
        let ticket = self.next_number();
        let holder = holder.clone();
        match self.requests.entry(key.clone()) {
            Entry::Vacant(vacant) => {
                vacant.insert(OpenRequest { ticket, id: id.clone(), deadline, holder, taken: false, requester, of_stub });
            }
            Entry::Occupied(_) => {
                self.uncount(of_stub);
                return Err(NotOpened::SameKey);
            }
        }
        self.deadlines.add(deadline, ticket, Due::Request(key.clone()));
        Ok(ticket)
    }

    /// Counts one more open request, unless there are too many.
    fn count(&self, of_stub: bool) -> Result<(), NotOpened> {
        if of_stub && self.of_stubs.fetch_add(1, Ordering::Relaxed) >= self.limit_of_stubs {
            self.of_stubs.fetch_sub(1, Ordering::Relaxed);
            return Err(NotOpened::Full);
        }
        if self.count.fetch_add(1, Ordering::Relaxed) >= self.limit {
            self.uncount(of_stub);
            return Err(NotOpened::Full);
        }
        Ok(())
    }

    fn uncount(&self, of_stub: bool) {
        self.count.fetch_sub(1, Ordering::Relaxed);
        if of_stub {
            self.of_stubs.fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn is_open(&self, key: &RequestKey, ticket: u64) -> bool {
        self.requests.get(key).is_some_and(|request| request.ticket == ticket)
    }

    /// Marks a request as taken by the holder's owner. Returns `false` if the request has its
    /// outcome already and must not be handed out.
    pub(crate) fn take(&self, key: &RequestKey, ticket: u64) -> bool {
        match self.requests.get_mut(key) {
            Some(mut request) if request.ticket == ticket => {
                request.taken = true;
                request.holder.request_taken();
                true
            }
            _ => false,
        }
    }

    /// Finds the request that a response answers. Returns its ticket, and the requester's mailbox
    /// if the requester listens. Returns `None` if the responder took no such request, or if a stub
    /// responds that was not asked.
    pub(crate) fn answerable(&self, key: &RequestKey, origin: &Origin) -> Option<(u64, Option<Mailbox>)> {
        let was_asked = |request: &OpenRequest| match origin {
            Origin::Stub(stub) => request.holder.owner() == Some(stub),
            Origin::Host | Origin::Hyperty(_) => true,
        };
        let request = self.requests.get(key).filter(|request| request.taken && was_asked(request))?;
        let mailbox = match &request.requester {
            Requester::Listens(mailbox) => Some(mailbox.clone()),
            Requester::Awaits(_) | Requester::Absent => None,
        };
        Some((request.ticket, mailbox))
    }

    /// Removes a request to give it its outcome.
    pub(crate) fn remove(&self, key: &RequestKey, ticket: u64) -> Option<OpenRequest> {
        self.closed(self.requests.remove_if(key, |_, request| request.ticket == ticket))
    }

    /// Like [`Self::remove`], by the key alone.
    pub(crate) fn remove_key(&self, key: &RequestKey) -> Option<OpenRequest> {
        self.closed(self.requests.remove(key))
    }

    fn closed(&self, removed: Option<(RequestKey, OpenRequest)>) -> Option<OpenRequest> {
        let (_, request) = removed?;
        self.uncount(request.of_stub);
        if request.taken {
            request.holder.request_ended();
        }
        self.deadlines.cancel(request.deadline, request.ticket);
        Some(request)
    }

    /// Returns the requests that `which` chooses. Scans all of them: only for crashes and the
    /// shutdown.
    pub(crate) fn select(&self, which: impl Fn(&OpenRequest) -> bool) -> Vec<(RequestKey, u64)> {
        let chosen = self.requests.iter().filter(|request| which(request));
        chosen.map(|request| (request.key().clone(), request.ticket)).collect()
    }
}

fn is_stub(origin: &Origin) -> bool {
    matches!(origin, Origin::Stub(_))
}
