use std::{
    collections::VecDeque,
    fmt, future, mem,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use protostub_types::{Address, Message, deadline};
use tokio::time::Instant;

use crate::{Envelope, PostError};

/// How much may wait in an inbox.
///
/// Messages to its owner and responses that its owner waits for are counted apart, each within these limits: nobody can keep an owner from
/// getting its answers by filling its inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct InboxLimits {
    /// How many messages.
    pub messages: usize,
    /// How much memory they may take, roughly, in bytes ([`Message::size`]).
    pub bytes: usize,
}

impl InboxLimits {
    /// Limits of this many messages, and of this many bytes together.
    #[must_use]
    pub const fn new(messages: usize, bytes: usize) -> Self {
        Self { messages, bytes }
    }
}

impl Default for InboxLimits {
    /// 1024 messages, and 16 MiB: a few of the largest messages, or many small ones.
    fn default() -> Self {
        Self { messages: 1024, bytes: 16 << 20 }
    }
}

/// How many error responses for messages that were no requests may wait in an inbox, some 300 bytes each. Those beyond it are dropped and
/// counted: whoever reads nothing is not told without end that nobody reads.
const MAX_ERROR_RESPONSES: usize = 16_384;

/// Where the bus puts the messages of an [`Inbox`](crate::Inbox): its other side. Clones are the same mailbox.
#[derive(Clone)]
pub struct Mailbox(Arc<Shared>);

/// A mailbox that does not keep itself alive.
#[derive(Debug, Clone)]
pub(crate) struct WeakMailbox(Weak<Shared>);

struct Shared {
    id: u64,
    limits: InboxLimits,
    owner: OnceLock<Address>,
    /// Requests that the inbox's owner took and has not answered.
    held: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Queued>,
    /// What waits of [`Class::Plain`], [`Class::Copy`], [`Class::Request`] and [`Class::Provisional`].
    messages: usize,
    bytes: usize,
    /// Final responses that wait, and places reserved for those to come.
    replies: usize,
    reply_bytes: usize,
    error_responses: usize,
    /// Nothing is taken in any more.
    closed: Option<Refusal>,
    /// Responses are taken in, and nothing else.
    refusing: Option<Refusal>,
    /// Of the inbox's owner.
    reader: Option<Waker>,
    /// Of those who wait until something is here.
    watchers: Vec<Waker>,
    /// Whether the sweeper looks at this mailbox once its oldest message has waited long enough.
    watched: bool,
}

/// With which code and why messages are refused.
#[derive(Debug, Clone)]
struct Refusal {
    code: u16,
    reason: Arc<str>,
}

/// A message that waits.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) message: Envelope,
    pub(crate) class: Class,
}

/// What becomes of a message that waits, and what it is counted as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// No request and no response. Waits for the queue time-out from `since`.
    Plain { since: Instant },
    /// One subscriber's copy of a publication. Likewise.
    Copy { since: Instant },
    /// The open request with this ticket, which has a deadline of its own.
    Request { ticket: u64 },
    /// A response that leaves its request open.
    Provisional,
    /// A final response, for which a place was reserved.
    Reply,
    /// An error response for a message that was no request.
    ErrorResponse,
}

/// A message was put into the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Pushed {
    /// And somebody will look whether it waits too long.
    Watched,
    /// And the caller has to see to it that somebody looks then.
    Unwatched,
}

/// What a look at the queue found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// So many plain messages and copies.
    Some { plain: u64, copies: u64 },
    /// Nothing; the reader is woken when there is.
    None,
    /// Nothing, and nothing will come.
    Closed,
}

impl Mailbox {
    pub(crate) fn new(limits: InboxLimits) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Self(Arc::new(Shared { id, limits, owner: OnceLock::new(), held: AtomicUsize::new(0), state: Mutex::default() }))
    }

    /// Distinguishes it from all other mailboxes of this process.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// Sets the owner: a stub's URL. From now on the mailbox refuses messages that came through this address (`via`) with 508. Only the first
    /// call has an effect.
    pub fn set_owner(&self, owner: &Address) {
        let _ = self.0.owner.set(owner.clone());
    }

    /// The owner, once it is set.
    #[must_use]
    pub fn owner(&self) -> Option<&Address> {
        self.0.owner.get()
    }

    /// Refuses what is posted from now on with this code and reason, or, by none, no longer does. What waits stays, and so do the answers
    /// to its owner's own requests.
    pub fn refuse(&self, refusal: Option<(u16, String)>) {
        self.state().refusing = refusal.map(|(code, reason)| Refusal { code, reason: reason.into() });
    }

    /// How many messages wait here, responses included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.state().queue.len()
    }

    /// Whether nothing waits here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.state().queue.is_empty()
    }

    /// Whether nothing is under way here: no message waits, no request that was taken here is open, and none of the owner's own.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let state = self.state();
        state.queue.is_empty() && state.replies == 0 && !self.holds_requests()
    }

    /// Whether the owner has requests that it has not answered.
    pub(crate) fn holds_requests(&self) -> bool {
        self.0.held.load(Ordering::Acquire) > 0
    }

    /// The owner took a request.
    pub(crate) fn request_taken(&self) {
        self.0.held.fetch_add(1, Ordering::AcqRel);
    }

    /// A request that the owner took has its outcome.
    pub(crate) fn request_ended(&self) {
        self.0.held.fetch_sub(1, Ordering::AcqRel);
    }

    /// Waits until something waits here, without taking it: for logging in when there is a reason to. Never ends if it stays empty. May be
    /// dropped at any time.
    pub async fn waiting(&self) {
        future::poll_fn(|cx| self.poll_waiting(cx)).await;
    }

    fn poll_waiting(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if !state.queue.is_empty() {
            return Poll::Ready(());
        }
        if !state.watchers.iter().any(|watcher| watcher.will_wake(cx.waker())) {
            state.watchers.push(cx.waker().clone());
        }
        Poll::Pending
    }

    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(crate) fn downgrade(&self) -> WeakMailbox {
        WeakMailbox(Arc::downgrade(&self.0))
    }

    /// Whether the message came through the owner of this mailbox.
    pub(crate) fn has_seen(&self, message: &Message) -> bool {
        !message.via.is_empty() && self.owner().is_some_and(|owner| message.via.contains(owner))
    }

    /// Puts a message into the queue, if there is room for its class.
    pub(crate) fn push(&self, mut message: Envelope, class: Class) -> Result<Pushed, PostError> {
        let size = message.measure();
        let mut state = self.state();
        if let Err(Refusal { code, reason }) = state.admits(class, size, self.0.limits) {
            return Err(PostError::new(code, &message.to, &*reason));
        }
        let was_empty = state.queue.is_empty();
        let mut pushed = Pushed::Watched;
        match class {
            Class::Plain { .. } | Class::Copy { .. } | Class::Request { .. } | Class::Provisional => {
                state.messages += 1;
                state.bytes += size;
                let has_deadline_here = matches!(class, Class::Plain { .. } | Class::Copy { .. });
                if has_deadline_here && !mem::replace(&mut state.watched, true) {
                    pushed = Pushed::Unwatched;
                }
            }
            // Its place was counted when it was reserved.
            Class::Reply => state.reply_bytes += size,
            Class::ErrorResponse => state.error_responses += 1,
        }
        state.queue.push_back(Queued { message, class });
        let reader = state.reader.take();
        let watchers = if was_empty { mem::take(&mut state.watchers) } else { Vec::new() };
        // A waker runs code of others: never under the lock.
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
        watchers.into_iter().for_each(Waker::wake);
        Ok(pushed)
    }

    /// Reserves a place for the response to a request of this mailbox's owner.
    pub(crate) fn reserve_reply(&self, to: &Address) -> Result<(), PostError> {
        let mut state = self.state();
        if state.closed.is_some() {
            return Err(PostError::new(503, to, "the requester's own inbox is closed, and could not take the response"));
        }
        if state.replies >= self.0.limits.messages {
            let reason = format!(
                "the requester has {} responses waiting or still to come, as many as its inbox may hold: read those first",
                state.replies
            );
            return Err(PostError::new(429, to, reason));
        }
        state.replies += 1;
        Ok(())
    }

    /// Releases a reserved place.
    pub(crate) fn release_reply(&self) {
        self.state().replies -= 1;
    }

    /// Checks whether a response of this size fits into its reserved place.
    pub(crate) fn admits_reply(&self, response: &Message) -> Result<(), PostError> {
        let size = response.size();
        let limit = self.0.limits.bytes;
        let state = self.state();
        // A closed one takes it, and drops it: the responder did its part.
        if state.closed.is_some() || state.reply_bytes + size <= limit {
            return Ok(());
        }
        let (code, reason) = if size > limit {
            (
                413,
                format!("the response has {size} bytes, more than the requester's inbox may hold ({limit}): send a smaller one"),
            )
        } else {
            (
                429,
                format!(
                    "{} bytes of responses wait in the requester's inbox, of at most {limit}: try again later",
                    state.reply_bytes
                ),
            )
        };
        Err(PostError::new(code, &response.to, reason))
    }

    /// Takes messages out, as many as are there, but at most `max_messages`, and at most `max_bytes` unless the first alone has more. The
    /// tickets of requests among them are put into `tickets`, with their index in `batch`.
    pub(crate) fn take(
        &self,
        cx: &mut Context<'_>,
        (max_messages, max_bytes): (usize, usize),
        batch: &mut Vec<Envelope>,
        tickets: &mut Vec<(usize, u64)>,
    ) -> Taken {
        let mut state = self.state();
        let (mut plain, mut copies, mut count, mut bytes) = (0, 0, 0, 0);
        while let Some(next) = state.queue.front() {
            if count > 0 && (count >= max_messages || next.message.size() > max_bytes - bytes) {
                break;
            }
            let Some(next) = state.pop() else { break };
            count += 1;
            bytes = bytes.saturating_add(next.message.size()).min(max_bytes);
            match next.class {
                Class::Plain { .. } => plain += 1,
                Class::Copy { .. } => copies += 1,
                Class::Request { ticket } => tickets.push((batch.len(), ticket)),
                Class::Provisional | Class::Reply | Class::ErrorResponse => {}
            }
            batch.push(next.message);
        }
        if count > 0 {
            return Taken::Some { plain, copies };
        }
        if state.closed.is_some() {
            return Taken::Closed;
        }
        let replaced = match &state.reader {
            Some(reader) if reader.will_wake(cx.waker()) => None,
            _ => state.reader.replace(cx.waker().clone()),
        };
        // A waker may be the last to hold a task, and with it an inbox: never dropped under the lock.
        drop(state);
        drop(replaced);
        Taken::None
    }

    /// Takes no more messages in, and gives out those that wait. Only the first reason counts.
    pub(crate) fn close(&self, code: u16, reason: &str) -> VecDeque<Queued> {
        self.seal(code, reason);
        let mut state = self.state();
        let queue = mem::take(&mut state.queue);
        for queued in &queue {
            state.uncount(queued);
        }
        queue
    }

    /// Takes no more messages in: they are refused with this code and reason. Those that wait can still be taken; then the inbox is closed.
    pub fn seal(&self, code: u16, reason: &str) {
        let mut state = self.state();
        state.closed.get_or_insert_with(|| Refusal { code, reason: reason.into() });
        let reader = state.reader.take();
        drop(state);
        reader.into_iter().for_each(Waker::wake);
    }

    /// Takes out what was posted here and waits: everything but the answers to its owner's own messages.
    pub(crate) fn take_posted(&self) -> VecDeque<Queued> {
        let mut state = self.state();
        let is_posted =
            |queued: &Queued| matches!(queued.class, Class::Plain { .. } | Class::Copy { .. } | Class::Request { .. });
        let (posted, kept) = mem::take(&mut state.queue).into_iter().partition(is_posted);
        state.queue = kept;
        for queued in &posted {
            state.uncount(queued);
        }
        posted
    }

    /// Takes out the request with this ticket, if it still waits.
    pub(crate) fn forget(&self, ticket: u64) {
        let mut state = self.state();
        let is_it = |queued: &Queued| matches!(queued.class, Class::Request { ticket: other } if other == ticket);
        if let Some(index) = state.queue.iter().position(is_it)
            && let Some(queued) = state.queue.remove(index)
        {
            state.uncount(&queued);
        }
    }

    /// Takes out what has waited for `timeout`, and tells when to look again.
    pub(crate) fn expire(&self, now: Instant, timeout: Duration) -> (Vec<Queued>, Option<Instant>) {
        let mut state = self.state();
        let mut expired = Vec::new();
        let mut next = None;
        let mut kept = VecDeque::with_capacity(state.queue.len());
        for queued in mem::take(&mut state.queue) {
            match queued.class {
                Class::Plain { since } | Class::Copy { since } if deadline(since, timeout) <= now => {
                    state.uncount(&queued);
                    expired.push(queued);
                    continue;
                }
                Class::Plain { since } | Class::Copy { since } if next.is_none_or(|next| deadline(since, timeout) < next) => {
                    next = Some(deadline(since, timeout));
                }
                _ => {}
            }
            kept.push_back(queued);
        }
        state.queue = kept;
        state.watched = next.is_some();
        (expired, next)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The state is plain data, and nothing that runs under the lock panics.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn admits(&self, class: Class, size: usize, limits: InboxLimits) -> Result<(), Refusal> {
        if let Some(refusal) = &self.closed {
            return Err(refusal.clone());
        }
        let full = |code, reason: String| Err(Refusal { code, reason: reason.into() });
        match class {
            Class::Reply => Ok(()),
            Class::ErrorResponse if self.error_responses < MAX_ERROR_RESPONSES => Ok(()),
            Class::ErrorResponse => full(429, format!("{MAX_ERROR_RESPONSES} error responses wait in the inbox")),
            Class::Plain { .. } | Class::Copy { .. } | Class::Request { .. } | Class::Provisional => {
                if let Some(refusal) = self.refusing.as_ref().filter(|_| class != Class::Provisional) {
                    return Err(refusal.clone());
                }
                if self.messages >= limits.messages {
                    return full(
                        429,
                        format!("{} messages wait in its inbox, as many as it may hold: try again later", self.messages),
                    );
                }
                if size > limits.bytes {
                    return full(413, format!("the message has {size} bytes, more than its inbox may hold ({})", limits.bytes));
                }
                if self.bytes + size > limits.bytes {
                    let waiting = self.bytes;
                    return full(429, format!("{waiting} bytes wait in its inbox, of at most {}: try again later", limits.bytes));
                }
                Ok(())
            }
        }
    }

    fn pop(&mut self) -> Option<Queued> {
        let queued = self.queue.pop_front()?;
        self.uncount(&queued);
        Some(queued)
    }

    fn uncount(&mut self, queued: &Queued) {
        match queued.class {
            Class::Plain { .. } | Class::Copy { .. } | Class::Request { .. } | Class::Provisional => {
                self.messages -= 1;
                self.bytes -= queued.message.size();
            }
            Class::Reply => {
                self.replies -= 1;
                self.reply_bytes -= queued.message.size();
            }
            Class::ErrorResponse => self.error_responses -= 1,
        }
    }
}

impl WeakMailbox {
    pub(crate) fn upgrade(&self) -> Option<Mailbox> {
        self.0.upgrade().map(Mailbox)
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailbox").field("id", &self.0.id).field("owner", &self.0.owner.get()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("id", &self.id).finish_non_exhaustive()
    }
}
