use std::{
    fmt, future, mem,
    task::{Context, Poll},
};

use protostub_types::Message;

use crate::{
    Bus, Envelope, InboxLimits,
    mailbox::{Mailbox, Taken},
    request_key::RequestKey,
};

/// The queue that a listener takes its messages from. Made by [`Bus::inbox`], reached through its
/// [`Mailbox`].
///
/// Every message that is in the inbox when it is closed or dropped gets an error response as its
/// outcome.
pub struct Inbox {
    bus: Bus,
    mailbox: Mailbox,
    /// Tickets of requests in the current batch. Kept to reuse its memory.
    tickets: Vec<(usize, u64)>,
    /// `true` while the owner must take some messages one at a time.
    cautious: bool,
    /// `true` if messages were handed out in that time, and the owner has not asked for more since.
    handed_out: bool,
    /// Buffer of [`Self::recv`] and [`Self::recv_many`]. Kept to reuse its memory.
    envelopes: Vec<Envelope>,
}

impl Bus {
    /// Makes an inbox. It gets messages once its [`Inbox::mailbox`] is attached.
    #[must_use]
    pub fn inbox(&self, limits: InboxLimits) -> Inbox {
        Inbox::new(self.clone(), Mailbox::new(limits, self.config().clock, &self.inner.memory))
    }
}

impl Inbox {
    pub(crate) fn new(bus: Bus, mailbox: Mailbox) -> Self {
        Self { bus, mailbox, tickets: Vec::new(), cautious: false, handed_out: false, envelopes: Vec::new() }
    }

    /// Returns the side of this inbox that the bus puts messages into.
    #[must_use]
    pub fn mailbox(&self) -> Mailbox {
        self.mailbox.clone()
    }

    /// Returns the number of copies of publications that the owner missed so far: the inbox had no
    /// room, or the owner did not take them in time. The next copy has the number of the latest
    /// ones in its header `missed-copies`.
    #[must_use]
    pub fn missed_copies(&self) -> u64 {
        self.mailbox.missed()
    }

    /// Waits for the next message. Returns `None` once the inbox is closed. Cancel safe: a message
    /// is taken only when it is returned.
    pub async fn recv(&mut self) -> Option<Message> {
        future::poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// Polls for the next message. Ready with `None` once the inbox is closed.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        let mut single = mem::take(&mut self.envelopes);
        let polled = self.poll_batch(cx, 1, usize::MAX, &mut single);
        let message = single.pop();
        self.envelopes = single;
        polled.map(|()| message.map(Envelope::into_message))
    }

    /// Waits until there are messages, appends at most `limit` of them to `messages`, and returns
    /// their number. It takes less time than single calls of [`Self::recv`]. Returns 0 once the
    /// inbox is closed, or if `limit` is 0. Cancel safe: messages are taken only when the future
    /// returns.
    pub async fn recv_many(&mut self, messages: &mut Vec<Message>, limit: usize) -> usize {
        if limit == 0 {
            return 0;
        }
        let mut many = mem::take(&mut self.envelopes);
        future::poll_fn(|cx| self.poll_batch(cx, limit, usize::MAX, &mut many)).await;
        let count = many.len();
        messages.extend(many.drain(..).map(Envelope::into_message));
        self.envelopes = many;
        count
    }

    /// Appends the waiting messages to `batch`, in their order. Takes at most `max_messages` (at
    /// least one), and at most `max_bytes` together unless the first message alone has more. The
    /// caller then owns them: a message that is not a request counts as delivered, and a request
    /// has to be answered.
    ///
    /// Ready without messages if the inbox is closed. Pending if no message waits: `cx` is woken
    /// when one arrives.
    pub fn poll_batch(
        &mut self,
        cx: &mut Context<'_>,
        max_messages: usize,
        max_bytes: usize,
        batch: &mut Vec<Envelope>,
    ) -> Poll<()> {
        loop {
            let before = batch.len();
            self.tickets.clear();
            let survived = mem::take(&mut self.handed_out);
            match self.mailbox.take(cx, (max_messages, max_bytes), survived, batch, &mut self.tickets) {
                Taken::Some { plain, copies, cautious } => {
                    self.cautious = cautious;
                    self.bus.count_taken(plain, copies);
                }
                Taken::None => return Poll::Pending,
                Taken::Closed => return Poll::Ready(()),
            }
            // Starts at the end, so that the earlier indices stay valid.
            for &(index, ticket) in self.tickets.iter().rev() {
                if !self.bus.open_requests().take(&RequestKey::of_request(&batch[index]), ticket) {
                    // The requester just got 408, or no longer waits.
                    batch.remove(index);
                }
            }
            if batch.len() > before {
                self.handed_out = self.cautious;
                return Poll::Ready(());
            }
        }
    }

    /// Notes that the owner crashed while it had these messages, before the caller ends them. The
    /// inbox never hands them out again. From now on:
    ///
    /// * The next owner takes one message at a time until it has survived ten. A message is
    ///   survived when the owner asks for the next one.
    /// * The senders of these messages are suspects for [`InboxLimits::suspicion`]. The next owner
    ///   takes each of their messages alone.
    /// * A suspect whose message the owner has at a further crash is refused for the same time. Its
    ///   waiting and further messages get 503.
    ///
    /// The sender of a message is the last stub that it came through, or else its `from`.
    pub fn crashed(&mut self, messages: &[Envelope]) {
        (self.cautious, self.handed_out) = (true, false);
        for (queued, reason) in self.mailbox.crashed(messages) {
            self.bus.fail_queued(queued, 503, &reason);
        }
    }

    /// Returns `true` while the owner must take some messages one at a time, because of a
    /// [crash](Self::crashed).
    #[must_use]
    pub fn is_cautious(&self) -> bool {
        self.cautious
    }

    /// Closes the inbox: refuses further messages, and answers every message that waits in it with
    /// an error response, both with this code and reason. Messages that were taken before are
    /// unaffected. Closing again has no effect.
    pub fn close(&self, code: u16, reason: &str) {
        let queue = self.mailbox.close(code, reason);
        for queued in queue {
            self.bus.fail_queued(queued, code, reason);
        }
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.close(503, self.bus.end_of_inbox());
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("mailbox", &self.mailbox).finish_non_exhaustive()
    }
}
