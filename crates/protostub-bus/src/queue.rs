//! The waiting messages of one inbox, and the room for more.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use protostub_types::{Address, Message};

use crate::{
    Envelope, InboxLimits, PostError,
    caution::sender,
    memory::{NoMemory, QueuedMemory},
    shares::{Share, Shares},
};

/// Maximum number of waiting error responses to messages that were not requests, some 300 bytes
/// each. Further ones are dropped and counted: an owner that reads no messages gets only a bounded
/// number of errors.
const MAX_ERROR_RESPONSES: usize = 16_384;

/// Size of a copy that takes the place of an older one even if all memory is used up, in bytes: a
/// status with the longest reason.
const STATE_BYTES: usize = 2 << 10;

/// Header of the first copy that a subscriber takes after it missed others: their number. Only the
/// host sets it.
pub(crate) const MISSED_HEADER: &str = "missed-copies";

/// The waiting messages of one inbox, in their order.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) limits: InboxLimits,
    memory: Arc<QueuedMemory>,
    /// Memory that the inbox has for itself, in bytes.
    own_memory: usize,
    waiting: VecDeque<Queued>,
    /// Number of waiting messages of [`Class::Plain`], [`Class::Copy`], [`Class::Request`] and
    /// [`Class::Provisional`].
    messages: usize,
    bytes: usize,
    /// Number of waiting final responses and of places reserved for future ones.
    pub(crate) replies: usize,
    reply_bytes: usize,
    error_responses: usize,
    /// Bytes of waiting messages of all classes in the inbox's own memory.
    own_bytes: usize,
    /// The counts by senders, since the queue was more than half full. `None` once it is empty.
    shares: Option<Box<Shares>>,
    /// Number of copies that the inbox's owner missed.
    missed: u64,
    /// Number of those that no copy has told the owner of.
    untold: u64,
}

/// Code and reason of refused messages.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub(crate) code: u16,
    pub(crate) reason: Arc<str>,
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

impl Queue {
    pub(crate) fn new(limits: InboxLimits, memory: Arc<QueuedMemory>) -> Self {
        Self {
            limits,
            own_memory: memory.of_inbox(),
            memory,
            waiting: VecDeque::new(),
            messages: 0,
            bytes: 0,
            replies: 0,
            reply_bytes: 0,
            error_responses: 0,
            own_bytes: 0,
            shares: None,
            missed: 0,
            untold: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Returns the message that waits for longest.
    pub(crate) fn front(&self) -> Option<&Queued> {
        self.waiting.front()
    }

    /// Returns the number of copies that the inbox's owner missed.
    pub(crate) fn missed(&self) -> u64 {
        self.missed
    }

    /// Puts a measured message into the queue, if there is room for its class.
    pub(crate) fn push(&mut self, mut message: Envelope, class: Class) -> Result<(), PostError> {
        let admitted = self.admit(class, &message);
        let is_charged = admitted.map_err(|refusal| refusal.into_error(&message))?;
        message.set_charged(is_charged);
        self.append(Queued { message, class });
        Ok(())
    }

    /// Puts a measured copy into the queue. If there is no room, the copy takes the place of the
    /// oldest one about the same state. The inbox's owner then misses that one, and otherwise this
    /// one. Returns `true` if the owner misses a copy.
    pub(crate) fn push_copy(&mut self, mut message: Envelope, since: Instant) -> (bool, Result<(), PostError>) {
        let class = Class::Copy { since };
        let (misses, pushed) = match self.admit(class, &message) {
            Ok(is_charged) => {
                message.set_charged(is_charged);
                self.append(Queued { message, class });
                (false, Ok(()))
            }
            Err(refusal) if refusal.code == 429 => (true, self.replace(message, class, refusal)),
            Err(refusal) => (true, Err(refusal.into_error(&message))),
        };
        self.miss(u64::from(misses));
        (misses, pushed)
    }

    /// Notes that the inbox's owner missed this many copies.
    pub(crate) fn miss(&mut self, copies: u64) {
        self.missed += copies;
        self.untold += copies;
    }

    /// Puts a response into the queue, with a place of its own.
    pub(crate) fn push_reply(&mut self, mut message: Envelope) {
        message.measure();
        self.replies += 1;
        // Responses always have room.
        let _ = self.push(message, Class::Reply);
    }

    /// Takes out the message that waits for longest. A copy gets the number of copies that were
    /// missed.
    pub(crate) fn pop(&mut self) -> Option<Queued> {
        let mut queued = self.waiting.pop_front()?;
        self.uncount(&queued);
        if self.untold > 0 && matches!(queued.class, Class::Copy { .. }) {
            self.tell(&mut queued.message);
        }
        Some(queued)
    }

    /// Takes out the messages that `is_taken` chooses, in their order. The inbox's owner misses the
    /// copies among them.
    pub(crate) fn extract(&mut self, mut is_taken: impl FnMut(&Queued) -> bool) -> Vec<Queued> {
        let mut taken = Vec::new();
        let mut kept = VecDeque::with_capacity(self.waiting.len());
        for queued in std::mem::take(&mut self.waiting) {
            if is_taken(&queued) {
                self.uncount(&queued);
                self.miss(u64::from(matches!(queued.class, Class::Copy { .. })));
                taken.push(queued);
            } else {
                kept.push_back(queued);
            }
        }
        self.waiting = kept;
        taken
    }

    /// Takes out the request with this ticket, if it still waits.
    pub(crate) fn forget(&mut self, ticket: u64) {
        let is_it = |queued: &Queued| matches!(queued.class, Class::Request { ticket: other } if other == ticket);
        let index = self.waiting.iter().position(is_it);
        if let Some(queued) = index.and_then(|index| self.waiting.remove(index)) {
            self.uncount(&queued);
        }
    }

    /// Checks whether a response fits into its reserved place.
    pub(crate) fn admits_reply(&self, response: &Message, size: usize) -> Result<(), Refusal> {
        let limit = self.limits.bytes;
        if size > limit {
            return full(
                413,
                format!("the response has {size} bytes, more than the requester's inbox may hold ({limit}); send a smaller one"),
            );
        }
        if self.reply_bytes + size > limit {
            let waiting = self.reply_bytes;
            return full(
                429,
                format!("{waiting} bytes of responses wait in the requester's inbox (limit: {limit}); try again later"),
            );
        }
        if self.is_own(size) {
            return Ok(());
        }
        let payer = payer(Class::Reply, response);
        self.memory.admits(payer, size).or_else(|problem| no_memory(payer, size, problem))
    }

    /// Replaces the oldest copy about the same state, if there is one and this one fits into its
    /// place.
    fn replace(&mut self, mut copy: Envelope, class: Class, refusal: Refusal) -> Result<(), PostError> {
        let is_older = |queued: &Queued| {
            matches!(queued.class, Class::Copy { .. })
                && queued.message.state() == copy.state()
                && queued.message.to == copy.to
                && queued.message.from == copy.from
        };
        let older = self.waiting.iter().enumerate().find(|(_, queued)| is_older(queued));
        let Some((index, older_size)) = older.map(|(index, queued)| (index, queued.message.size())) else {
            return Err(refusal.into_error(&copy));
        };
        let (size, payer) = (copy.size(), payer(class, &copy));
        let has_memory = size <= older_size.max(STATE_BYTES) || self.is_own(size) || self.memory.admits(payer, size).is_ok();
        if !has_memory || self.bytes - older_size + size > self.limits.bytes {
            return Err(refusal.into_error(&copy));
        }
        if let Some(older) = self.waiting.remove(index) {
            self.uncount(&older);
        }
        let is_charged = !self.is_own(size);
        if is_charged {
            self.memory.charge_accepted(payer, size);
        }
        copy.set_charged(is_charged);
        self.append(Queued { message: copy, class });
        Ok(())
    }

    /// Tells of missed copies in the header of this one. If the header has no room, the next copy
    /// tells of them.
    fn tell(&mut self, copy: &mut Envelope) {
        copy.headers.push((MISSED_HEADER.to_owned(), self.untold.to_string()));
        match copy.check_limits() {
            Ok(()) => self.untold = 0,
            Err(_) => drop(copy.headers.pop()),
        }
    }

    /// Checks whether there is room for a measured message. Returns `true` if the message was
    /// charged to the memory that all inboxes share.
    fn admit(&mut self, class: Class, message: &Envelope) -> Result<bool, Refusal> {
        let size = message.size();
        match class {
            Class::Reply => {}
            Class::ErrorResponse if self.error_responses < MAX_ERROR_RESPONSES => {}
            Class::ErrorResponse => {
                return full(429, format!("{MAX_ERROR_RESPONSES} error responses wait in the inbox, its limit"));
            }
            Class::Plain { .. } | Class::Copy { .. } | Class::Request { .. } | Class::Provisional => {
                self.admit_message(message, size)?;
            }
        }
        if self.is_own(size) {
            return Ok(false);
        }
        let payer = payer(class, message);
        match class {
            // The memory was checked before the request was closed.
            Class::Reply => self.memory.charge_accepted(payer, size),
            _ => self.memory.charge(payer, size).or_else(|problem| no_memory(payer, size, problem))?,
        }
        Ok(true)
    }

    fn admit_message(&mut self, message: &Message, size: usize) -> Result<(), Refusal> {
        let limits = self.limits;
        if let Some(reason) = limits.body_excess(message, size) {
            return full(413, reason);
        }
        if self.messages >= limits.messages {
            return full(429, format!("{} messages wait in the receiver's inbox, its limit; try again later", self.messages));
        }
        if size > limits.bytes {
            let limit = limits.bytes;
            return full(
                413,
                format!("the message has {size} bytes, more than the receiver's inbox may hold ({limit}); send a smaller one"),
            );
        }
        if self.bytes + size > limits.bytes {
            let (waiting, limit) = (self.bytes, limits.bytes);
            return full(429, format!("{waiting} bytes wait in the receiver's inbox (limit: {limit}); try again later"));
        }
        // Below that, no sender can have more than is left.
        if self.messages > limits.messages / 2 || self.bytes > limits.bytes / 2 {
            self.admit_share(sender(message))?;
        }
        Ok(())
    }

    /// Checks whether a sender has less than is left for all senders.
    fn admit_share(&mut self, sender: &Address) -> Result<(), Refusal> {
        let (places, bytes) = (self.limits.messages - self.messages, self.limits.bytes - self.bytes);
        let Share { messages: of_sender, bytes: bytes_of_sender } = self.shares().of(sender);
        if of_sender >= places {
            return full(
                429,
                format!(
                    "{sender} has {of_sender} messages in the receiver's inbox (places left for all senders: {places}); try again later"
                ),
            );
        }
        if bytes_of_sender >= bytes {
            return full(
                429,
                format!(
                    "{sender} has {bytes_of_sender} bytes in the receiver's inbox (left for all senders: {bytes}); try again later"
                ),
            );
        }
        Ok(())
    }

    /// Returns the counts by senders. Counts all waiting messages at the first call since the queue
    /// was empty.
    fn shares(&mut self) -> &Shares {
        let waiting = &self.waiting;
        self.shares.get_or_insert_with(|| {
            let mut shares = Box::<Shares>::default();
            for Queued { message, .. } in waiting.iter().filter(|queued| queued.class.is_message()) {
                shares.count(sender(message), message.size());
            }
            shares
        })
    }

    /// Returns `true` if the inbox's own memory has room for a message.
    fn is_own(&self, size: usize) -> bool {
        self.own_bytes + size <= self.own_memory
    }

    fn append(&mut self, queued: Queued) {
        let size = queued.message.size();
        match queued.class {
            Class::Plain { .. } | Class::Copy { .. } | Class::Request { .. } | Class::Provisional => {
                self.messages += 1;
                self.bytes += size;
                if let Some(shares) = &mut self.shares {
                    shares.count(sender(&queued.message), size);
                }
            }
            // The place was counted when it was reserved.
            Class::Reply => self.reply_bytes += size,
            Class::ErrorResponse => self.error_responses += 1,
        }
        if !queued.message.is_charged() {
            self.own_bytes += size;
        }
        self.waiting.push_back(queued);
    }

    fn uncount(&mut self, queued: &Queued) {
        let size = queued.message.size();
        match queued.class {
            Class::Plain { .. } | Class::Copy { .. } | Class::Request { .. } | Class::Provisional => {
                self.messages -= 1;
                self.bytes -= size;
                if self.messages == 0 {
                    self.shares = None;
                } else if let Some(shares) = &mut self.shares {
                    shares.uncount(sender(&queued.message), size);
                }
            }
            Class::Reply => {
                self.replies -= 1;
                self.reply_bytes -= size;
            }
            Class::ErrorResponse => self.error_responses -= 1,
        }
        if queued.message.is_charged() {
            self.memory.release(payer(queued.class, &queued.message), size);
        } else {
            self.own_bytes -= size;
        }
    }
}

impl Refusal {
    fn into_error(self, message: &Message) -> PostError {
        PostError::new(self.code, &message.to, &*self.reason)
    }
}

impl Class {
    /// Returns `true` for a message that counts among those of its sender.
    pub(crate) fn is_message(self) -> bool {
        match self {
            Self::Plain { .. } | Self::Copy { .. } | Self::Request { .. } | Self::Provisional => true,
            Self::Reply | Self::ErrorResponse => false,
        }
    }
}

/// Returns the address that a message's memory is charged to: the sender of a message, and the
/// inbox's owner for a response, because the owner's own message caused it.
fn payer(class: Class, message: &Message) -> &Address {
    if class.is_message() { sender(message) } else { &message.to }
}

fn full<T>(code: u16, reason: String) -> Result<T, Refusal> {
    Err(Refusal { code, reason: reason.into() })
}

fn no_memory(payer: &Address, size: usize, problem: NoMemory) -> Result<(), Refusal> {
    match problem {
        NoMemory::Never { shared } => full(
            413,
            format!(
                "the message has {size} bytes, more than all inboxes share ({shared}, from `max-queued-bytes`); send a smaller one"
            ),
        ),
        NoMemory::Now { of_sender, left } => full(
            429,
            format!(
                "{of_sender} bytes of {payer} wait in all inboxes (left of `max-queued-bytes` for all senders: {left}); try again later"
            ),
        ),
    }
}
