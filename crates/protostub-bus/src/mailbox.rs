use std::{
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
    Clock, Envelope, InboxLimits, PostError,
    caution::{Caution, sender},
    memory::QueuedMemory,
    queue::{Class, Queue, Queued, Refusal},
    request_key::RequestKey,
};

/// The bus's side of an [`Inbox`](crate::Inbox): the bus puts messages here. Clones are the same
/// mailbox.
#[derive(Clone)]
pub struct Mailbox(Arc<Shared>);

/// A mailbox that does not keep itself alive.
#[derive(Debug, Clone)]
pub(crate) struct WeakMailbox(Weak<Shared>);

struct Shared {
    id: u64,
    clock: Clock,
    owner: OnceLock<Address>,
    /// Number of requests that the inbox's owner took and has not answered.
    held: AtomicUsize,
    state: Mutex<State>,
}

struct State {
    queue: Queue,
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
    pub(crate) fn new(limits: InboxLimits, clock: Clock, memory: &Arc<QueuedMemory>) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let state = State {
            queue: Queue::new(limits, Arc::clone(memory)),
            closed: None,
            refusing: None,
            caution: None,
            reader: None,
            watchers: Vec::new(),
            watched: false,
        };
        Self(Arc::new(Shared { id, clock, owner: OnceLock::new(), held: AtomicUsize::new(0), state: Mutex::new(state) }))
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
        state.queue.is_empty() && state.queue.replies == 0 && !self.holds_requests()
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
        message.measure();
        let mut state = self.state();
        state.admits(class, &message, self.0.clock)?;
        let was_empty = state.queue.is_empty();
        state.queue.push(message, class)?;
        Ok(pushed(state, was_empty, class))
    }

    /// Puts a subscriber's copy into the queue ([`Queue::push_copy`]). Returns `true` if the
    /// subscriber misses a copy: this one, or an older one.
    pub(crate) fn push_copy(&self, mut message: Envelope, since: Instant) -> (bool, Result<Pushed, PostError>) {
        message.measure();
        let (mut state, class) = (self.state(), Class::Copy { since });
        if let Err(refused) = state.admits(class, &message, self.0.clock) {
            state.queue.miss(1);
            return (true, Err(refused));
        }
        let was_empty = state.queue.is_empty();
        let (misses, outcome) = state.queue.push_copy(message, since);
        (misses, outcome.map(|()| pushed(state, was_empty, class)))
    }

    /// Returns the number of copies that the owner missed.
    pub(crate) fn missed(&self) -> u64 {
        self.state().queue.missed()
    }

    /// Reserves a place for the response to a request of this mailbox's owner. `share` is the
    /// owner's share of the bus's open requests.
    pub(crate) fn reserve_reply(&self, to: &Address, share: usize) -> Result<(), PostError> {
        let mut state = self.state();
        if state.closed.is_some() {
            return Err(PostError::new(503, to, "the requester's own inbox is closed and cannot take the response"));
        }
        if state.queue.replies >= state.queue.limits.messages {
            let reason = format!(
                "the requester has {} responses waiting or outstanding, the limit of its inbox; read those first",
                state.queue.replies
            );
            return Err(PostError::new(429, to, reason));
        }
        if state.queue.replies >= share {
            let reason = format!(
                "the requester has {} responses waiting or outstanding, and stubs have only {share} open requests left; try again later",
                state.queue.replies
            );
            return Err(PostError::new(429, to, reason));
        }
        state.queue.replies += 1;
        Ok(())
    }

    /// Releases a reserved place.
    pub(crate) fn release_reply(&self) {
        self.state().queue.replies -= 1;
    }

    /// Checks whether the owner takes messages of this responder, and whether a response of this
    /// size fits into its reserved place.
    pub(crate) fn admits_reply(&self, response: &Message) -> Result<(), PostError> {
        let size = response.size();
        let state = self.state();
        // A closed mailbox accepts the response and drops it, since the responder did its part.
        if state.closed.is_some() {
            return Ok(());
        }
        let refused = |Refusal { code, reason }| Err(PostError::new(code, &response.to, &*reason));
        if let Some(reason) = state.caution.as_ref().and_then(|caution| caution.refusal(response, self.0.clock.now())) {
            return refused(Refusal { code: 503, reason: reason.into() });
        }
        if let Some(reason) = state.queue.limits.body_excess(response, size) {
            return refused(Refusal { code: 413, reason: reason.into() });
        }
        state.queue.admits_reply(response, size).or_else(refused)
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
            let Some(next) = state.queue.pop() else { break };
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
    pub(crate) fn close(&self, code: u16, reason: &str) -> Vec<Queued> {
        self.seal(code, reason);
        self.state().queue.extract(|_| true)
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
        caution.crashed(messages.iter().map(|message| sender(message)), now, state.queue.limits.suspicion);
        let is_refused =
            |queued: &Queued| queued.class != Class::ErrorResponse && caution.refusal(&queued.message, now).is_some();
        let (mut replies, mut refused) = (Vec::new(), Vec::new());
        for queued in state.queue.extract(is_refused) {
            let reason = caution.refusal(&queued.message, now).unwrap_or_default();
            if queued.class == Class::Reply {
                // The request keeps its one response, without the responder's content.
                let key = RequestKey::of_response(&queued.message);
                replies.push(key.error_response(&queued.message.id, 503, &reason));
            } else {
                refused.push((queued, reason));
            }
        }
        replies.into_iter().for_each(|reply| state.queue.push_reply(reply.into()));
        state.caution = Some(caution);
        refused
    }

    /// Takes out the posted messages that wait here: all except responses to the owner's own
    /// messages.
    pub(crate) fn take_posted(&self) -> Vec<Queued> {
        let is_posted =
            |queued: &Queued| matches!(queued.class, Class::Plain { .. } | Class::Copy { .. } | Class::Request { .. });
        self.state().queue.extract(is_posted)
    }

    /// Takes out the request with this ticket, if it still waits.
    pub(crate) fn forget(&self, ticket: u64) {
        self.state().queue.forget(ticket);
    }

    /// Takes out the messages that have waited for `timeout`. Returns them and the time of the next
    /// check.
    pub(crate) fn expire(&self, now: Instant, timeout: Duration) -> (Vec<Queued>, Option<Instant>) {
        let mut state = self.state();
        let mut next = None;
        let expired = state.queue.extract(|queued| {
            let (Class::Plain { since } | Class::Copy { since }) = queued.class else { return false };
            let due = deadline(since, timeout);
            if due > now {
                next = Some(next.map_or(due, |next| due.min(next)));
            }
            due <= now
        });
        state.watched = next.is_some();
        (expired, next)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Safe to ignore the poison: the state is plain data, and no code under the lock panics.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Checks whether the owner takes messages of this class and sender.
    fn admits(&self, class: Class, message: &Message, clock: Clock) -> Result<(), PostError> {
        let refused = |Refusal { code, reason }: &Refusal| Err(PostError::new(*code, &message.to, &**reason));
        if let Some(refusal) = &self.closed {
            return refused(refusal);
        }
        if !class.is_message() {
            return Ok(());
        }
        if let Some(refusal) = self.refusing.as_ref().filter(|_| class != Class::Provisional) {
            return refused(refusal);
        }
        match self.caution.as_ref().and_then(|caution| caution.refusal(message, clock.now())) {
            Some(reason) => Err(PostError::new(503, &message.to, reason)),
            None => Ok(()),
        }
    }
}

/// Wakes the tasks that wait for a message of this class, which was just put into the queue.
fn pushed(mut state: MutexGuard<'_, State>, was_empty: bool, class: Class) -> Pushed {
    let has_deadline_here = matches!(class, Class::Plain { .. } | Class::Copy { .. });
    let pushed = if has_deadline_here && !mem::replace(&mut state.watched, true) { Pushed::Unwatched } else { Pushed::Watched };
    let reader = state.reader.take();
    let watchers = if was_empty { mem::take(&mut state.watchers) } else { Vec::new() };
    // A waker runs foreign code, so it is never called under the lock.
    drop(state);
    if let Some(reader) = reader {
        reader.wake();
    }
    watchers.into_iter().for_each(Waker::wake);
    pushed
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
