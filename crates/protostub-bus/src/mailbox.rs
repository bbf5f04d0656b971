use std::{
    collections::VecDeque,
    fmt, future, mem,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use protostub_types::{Address, Message, deadline};

use crate::{
    Clock, Envelope, PostError,
    caution::{Caution, sender},
    request_key::RequestKey,
};

/// Limits of the messages that wait in an inbox.
///
/// Messages to the owner and responses that the owner waits for are counted separately, each within
/// these limits. A sender that fills the inbox therefore cannot keep responses from its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct InboxLimits {
    /// Maximum number of messages.
    pub messages: usize,
    /// Maximum memory of the messages in bytes, roughly ([`Message::size`]).
    pub bytes: usize,
    /// Maximum size of the body of a message, in bytes, responses included. [`Self::new`] sets no
    /// limit.
    pub body_bytes: usize,
    /// Time for which a sender is suspect after the inbox's owner crashed with one of its messages,
    /// and for which the inbox refuses the sender after a second crash ([`Inbox::crashed`]). Zero
    /// refuses no sender. [`Self::new`] sets 60 s.
    ///
    /// [`Inbox::crashed`]: crate::Inbox::crashed
    pub suspicion: Duration,
}

impl InboxLimits {
    /// Creates limits of this many messages, and of this many bytes together.
    #[must_use]
    pub const fn new(messages: usize, bytes: usize) -> Self {
        Self { messages, bytes, body_bytes: usize::MAX, suspicion: Duration::from_secs(60) }
    }

    /// Returns the reason for refusing a message of this size whose body is too large.
    fn body_excess(&self, message: &Message, size: usize) -> Option<String> {
        // The size includes the body, so most messages need no second look.
        if size <= self.body_bytes {
            return None;
        }
        let bytes = message.body.as_ref().map_or(0, |body| body.as_bytes().len());
        let limit = self.body_bytes;
        (bytes > limit).then(|| {
            format!("the body has {bytes} bytes, more than the {limit} that the receiving stub takes (`body-bytes`); send a smaller one")
        })
    }
}

impl Default for InboxLimits {
    /// Returns limits of 1024 messages and 16 MiB: a few of the largest messages, or many small
    /// ones.
    fn default() -> Self {
        Self::new(1024, 16 << 20)
    }
}

/// Maximum number of waiting error responses to messages that were not requests, some 300 bytes
/// each. Further ones are dropped and counted: an owner that reads no messages gets only a bounded
/// number of errors.
const MAX_ERROR_RESPONSES: usize = 16_384;

/// The bus's side of an [`Inbox`](crate::Inbox): the bus puts messages here. Clones are the same
/// mailbox.
#[derive(Clone)]
pub struct Mailbox(Arc<Shared>);

/// A mailbox that does not keep itself alive.
#[derive(Debug, Clone)]
pub(crate) struct WeakMailbox(Weak<Shared>);

struct Shared {
    id: u64,
    limits: InboxLimits,
    clock: Clock,
    owner: OnceLock<Address>,
    /// Number of requests that the inbox's owner took and has not answered.
    held: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Queued>,
    /// Number of waiting messages of [`Class::Plain`], [`Class::Copy`], [`Class::Request`] and
    /// [`Class::Provisional`].
    messages: usize,
    bytes: usize,
    /// Number of waiting final responses and of places reserved for future ones.
    replies: usize,
    reply_bytes: usize,
    error_responses: usize,
    /// Reason for refusing all messages.
    closed: Option<Refusal>,
    /// Reason for refusing all messages except responses.
    refusing: Option<Refusal>,
    /// Present for a while after a crash of the inbox's owner.
    caution: Option<Box<Caution>>,
    /// Waker of the inbox's owner.
    reader: Option<Waker>,
    /// Wakers of the tasks in [`Mailbox::waiting`].
    watchers: Vec<Waker>,
    /// `true` if the sweeper checks this mailbox once its oldest message has waited long enough.
    watched: bool,
}

/// Code and reason of refused messages.
#[derive(Debug, Clone)]
struct Refusal {
    code: u16,
    reason: Arc<str>,
}

/// A waiting message.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) message: Envelope,
    pub(crate) class: Class,
}

/// Class of a waiting message: decides its outcome and its count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// A message that is neither request nor response. It waits for the queue timeout from `since`.
    Plain { since: Instant },
    /// One subscriber's copy of a publication. It waits for the queue timeout from `since`.
    Copy { since: Instant },
    /// The open request with this ticket. It has a deadline of its own.
    Request { ticket: u64 },
    /// A response that leaves its request open.
    Provisional,
    /// A final response with a reserved place.
    Reply,
    /// An error response to a message that was not a request.
    ErrorResponse,
}

/// Result of putting a message into the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Pushed {
    /// The sweeper already checks this mailbox for timeouts.
    Watched,
    /// The caller must schedule a check of this mailbox for timeouts.
    Unwatched,
}

/// Result of [`Mailbox::take`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Numbers of plain messages and copies that were taken.
    /// `cautious`: the owner must take some of the next messages one at a time.
    Some { plain: u64, copies: u64, cautious: bool },
    /// No message waits. The reader is woken when one arrives.
    None,
    /// No message waits, and no further one will arrive.
    Closed,
}

impl Mailbox {
    pub(crate) fn new(limits: InboxLimits, clock: Clock) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Self(Arc::new(Shared { id, limits, clock, owner: OnceLock::new(), held: AtomicUsize::new(0), state: Mutex::default() }))
    }

    /// Returns an id that is unique among the mailboxes of this process.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// Sets the owner: a stub's URL. From now on the mailbox refuses messages that came through
    /// this address (`via`) with 508. Only the first call has an effect.
    pub fn set_owner(&self, owner: &Address) {
        let _ = self.0.owner.set(owner.clone());
    }

    /// Returns the owner, or `None` if no owner was set.
    #[must_use]
    pub fn owner(&self) -> Option<&Address> {
        self.0.owner.get()
    }

    /// Refuses further messages with this code and reason; `None` ends the refusal. Waiting
    /// messages stay, and responses to the owner's own requests still arrive.
    pub fn refuse(&self, refusal: Option<(u16, String)>) {
        self.state().refusing = refusal.map(|(code, reason)| Refusal { code, reason: reason.into() });
    }

    /// Returns the number of messages that wait here, responses included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.state().queue.len()
    }

    /// Returns `true` if no message waits here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.state().queue.is_empty()
    }

    /// Returns `true` if this mailbox is idle: no message waits, and neither a request that was
    /// taken here nor a request of the owner is open.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let state = self.state();
        state.queue.is_empty() && state.replies == 0 && !self.holds_requests()
    }

    /// Returns `true` if the owner has requests that it has not answered.
    pub(crate) fn holds_requests(&self) -> bool {
        self.0.held.load(Ordering::Acquire) > 0
    }

    /// Counts a request that the owner took.
    pub(crate) fn request_taken(&self) {
        self.0.held.fetch_add(1, Ordering::AcqRel);
    }

    /// Counts the outcome of a request that the owner took.
    pub(crate) fn request_ended(&self) {
        self.0.held.fetch_sub(1, Ordering::AcqRel);
    }

    /// Waits until a message waits here, without taking it: for example to log in on demand. Never
    /// ends if the mailbox stays empty. Cancel safe: the future may be dropped at any time.
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

    /// Returns `true` if the message came through the owner of this mailbox.
    pub(crate) fn has_seen(&self, message: &Message) -> bool {
        !message.via.is_empty() && self.owner().is_some_and(|owner| message.via.contains(owner))
    }

    /// Puts a message into the queue, if there is room for its class.
    pub(crate) fn push(&self, mut message: Envelope, class: Class) -> Result<Pushed, PostError> {
        let size = message.measure();
        let mut state = self.state();
        if let Err(Refusal { code, reason }) = state.admits(class, &message, size, &self.0) {
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
            // The place was counted when it was reserved.
            Class::Reply => state.reply_bytes += size,
            Class::ErrorResponse => state.error_responses += 1,
        }
        state.queue.push_back(Queued { message, class });
        let reader = state.reader.take();
        let watchers = if was_empty { mem::take(&mut state.watchers) } else { Vec::new() };
        // A waker runs foreign code, so it is never called under the lock.
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
        watchers.into_iter().for_each(Waker::wake);
        Ok(pushed)
    }

    /// Reserves a place for the response to a request of this mailbox's owner. `share` is the
    /// owner's share of the bus's open requests.
    pub(crate) fn reserve_reply(&self, to: &Address, share: usize) -> Result<(), PostError> {
        let mut state = self.state();
        if state.closed.is_some() {
            return Err(PostError::new(503, to, "the requester's own inbox is closed and cannot take the response"));
        }
        if state.replies >= self.0.limits.messages {
            let reason = format!(
                "the requester has {} responses waiting or outstanding, the limit of its inbox; read those first",
                state.replies
            );
            return Err(PostError::new(429, to, reason));
        }
        if state.replies >= share {
            let reason = format!(
                "the requester has {} responses waiting or outstanding, and stubs have only {share} open requests left; try again later",
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

    /// Checks whether the owner takes messages of this responder, and whether a response of this
    /// size fits into its reserved place.
    pub(crate) fn admits_reply(&self, response: &Message) -> Result<(), PostError> {
        let size = response.size();
        let limit = self.0.limits.bytes;
        let state = self.state();
        // A closed mailbox accepts the response and drops it, since the responder did its part.
        if state.closed.is_some() {
            return Ok(());
        }
        if let Some(reason) = state.caution.as_ref().and_then(|caution| caution.refusal(response, self.0.clock.now())) {
            return Err(PostError::new(503, &response.to, reason));
        }
        if let Some(reason) = self.0.limits.body_excess(response, size) {
            return Err(PostError::new(413, &response.to, reason));
        }
        if state.reply_bytes + size <= limit {
            return Ok(());
        }
        let (code, reason) = if size > limit {
            (
                413,
                format!("the response has {size} bytes, more than the requester's inbox may hold ({limit}); send a smaller one"),
            )
        } else {
            (
                429,
                format!(
                    "{} bytes of responses wait in the requester's inbox (limit: {limit}); try again later",
                    state.reply_bytes
                ),
            )
        };
        Err(PostError::new(code, &response.to, reason))
    }

    /// Takes the waiting messages out of the queue: at most `max_messages`, and at most `max_bytes`
    /// unless the first message alone has more. Appends the tickets of requests among them to
    /// `tickets`, with their index in `batch`. `survived`: the owner has handled the message that
    /// it last took alone.
    pub(crate) fn take(
        &self,
        cx: &mut Context<'_>,
        (max_messages, max_bytes): (usize, usize),
        survived: bool,
        batch: &mut Vec<Envelope>,
        tickets: &mut Vec<(usize, u64)>,
    ) -> Taken {
        let mut state = self.state();
        if let Some(caution) = &mut state.caution
            && caution.is_over(survived, self.0.clock.now())
        {
            state.caution = None;
        }
        let cautious = state.caution.is_some();
        let (mut plain, mut copies, mut count, mut bytes, mut alone) = (0, 0, 0, 0, false);
        while let Some(next) = state.queue.front() {
            if count > 0 && (alone || count >= max_messages || next.message.size() > max_bytes - bytes) {
                break;
            }
            if cautious && state.caution.as_ref().is_some_and(|caution| caution.isolates(&next.message)) {
                if count > 0 {
                    break;
                }
                alone = true;
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
            return Taken::Some { plain, copies, cautious };
        }
        if state.closed.is_some() {
            return Taken::Closed;
        }
        let replaced = match &state.reader {
            Some(reader) if reader.will_wake(cx.waker()) => None,
            _ => state.reader.replace(cx.waker().clone()),
        };
        // A waker may be the last reference to a task, and to the task's inbox, so it is never
        // dropped under the lock.
        drop(state);
        drop(replaced);
        Taken::None
    }

    /// Refuses further messages, and returns those that wait. Only the first reason counts.
    pub(crate) fn close(&self, code: u16, reason: &str) -> VecDeque<Queued> {
        self.seal(code, reason);
        let mut state = self.state();
        let queue = mem::take(&mut state.queue);
        for queued in &queue {
            state.uncount(queued);
        }
        queue
    }

    /// Refuses further messages with this code and reason. The owner can still take the messages
    /// that wait; after the last one the inbox is closed.
    pub fn seal(&self, code: u16, reason: &str) {
        let mut state = self.state();
        state.closed.get_or_insert_with(|| Refusal { code, reason: reason.into() });
        let reader = state.reader.take();
        drop(state);
        reader.into_iter().for_each(Waker::wake);
    }

    /// Notes that the owner crashed while it had these messages. Returns the waiting messages whose
    /// senders are refused now, each with the reason.
    pub(crate) fn crashed(&self, messages: &[Envelope]) -> Vec<(Queued, String)> {
        let now = self.0.clock.now();
        let mut state = self.state();
        let mut caution = state.caution.take().unwrap_or_default();
        caution.crashed(messages.iter().map(|message| sender(message)), now, self.0.limits.suspicion);
        let mut refused = Vec::new();
        for queued in mem::take(&mut state.queue) {
            match (queued.class, caution.refusal(&queued.message, now)) {
                (_, None) | (Class::ErrorResponse, _) => state.queue.push_back(queued),
                // The request keeps its one response, without the responder's content.
                (Class::Reply, Some(reason)) => {
                    state.uncount(&queued);
                    let key = RequestKey::of_response(&queued.message);
                    state.push_reply(key.error_response(&queued.message.id, 503, &reason).into());
                }
                (_, Some(reason)) => {
                    state.uncount(&queued);
                    refused.push((queued, reason));
                }
            }
        }
        state.caution = Some(caution);
        refused
    }

    /// Takes out the posted messages that wait here: all except responses to the owner's own
    /// messages.
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

    /// Takes out the messages that have waited for `timeout`. Returns them and the time of the next
    /// check.
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
        // Safe to ignore the poison: the state is plain data, and no code under the lock panics.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn admits(&self, class: Class, message: &Message, size: usize, mailbox: &Shared) -> Result<(), Refusal> {
        if let Some(refusal) = &self.closed {
            return Err(refusal.clone());
        }
        let limits = &mailbox.limits;
        let full = |code, reason: String| Err(Refusal { code, reason: reason.into() });
        match class {
            Class::Reply => Ok(()),
            Class::ErrorResponse if self.error_responses < MAX_ERROR_RESPONSES => Ok(()),
            Class::ErrorResponse => full(429, format!("{MAX_ERROR_RESPONSES} error responses wait in the inbox, its limit")),
            Class::Plain { .. } | Class::Copy { .. } | Class::Request { .. } | Class::Provisional => {
                if let Some(refusal) = self.refusing.as_ref().filter(|_| class != Class::Provisional) {
                    return Err(refusal.clone());
                }
                if let Some(reason) = self.caution.as_ref().and_then(|caution| caution.refusal(message, mailbox.clock.now())) {
                    return full(503, reason);
                }
                if let Some(reason) = limits.body_excess(message, size) {
                    return full(413, reason);
                }
                if self.messages >= limits.messages {
                    return full(
                        429,
                        format!("{} messages wait in the receiver's inbox, its limit; try again later", self.messages),
                    );
                }
                if size > limits.bytes {
                    return full(
                        413,
                        format!(
                            "the message has {size} bytes, more than the receiver's inbox may hold ({}); send a smaller one",
                            limits.bytes
                        ),
                    );
                }
                if self.bytes + size > limits.bytes {
                    let waiting = self.bytes;
                    return full(
                        429,
                        format!("{waiting} bytes wait in the receiver's inbox (limit: {}); try again later", limits.bytes),
                    );
                }
                Ok(())
            }
        }
    }

    /// Puts a response into the queue, with a place of its own.
    fn push_reply(&mut self, mut message: Envelope) {
        self.replies += 1;
        self.reply_bytes += message.measure();
        self.queue.push_back(Queued { message, class: Class::Reply });
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
