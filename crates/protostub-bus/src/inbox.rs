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

/// Where a listener takes its messages from. Made by [`Bus::inbox`], reached through its [`Mailbox`].
///
/// Whatever is in here when it is closed or dropped gets its outcome then: an error response each.
pub struct Inbox {
    bus: Bus,
    mailbox: Mailbox,
    /// Of requests in the batch that is being taken; kept for its memory.
    tickets: Vec<(usize, u64)>,
    /// What [`Self::recv`] and [`Self::recv_many`] take into; kept for its memory.
    envelopes: Vec<Envelope>,
}

impl Bus {
    /// A new inbox. It gets messages once its [`Inbox::mailbox`] is attached.
    #[must_use]
    pub fn inbox(&self, limits: InboxLimits) -> Inbox {
        Inbox::new(self.clone(), Mailbox::new(limits))
    }
}

impl Inbox {
    pub(crate) fn new(bus: Bus, mailbox: Mailbox) -> Self {
        Self { bus, mailbox, tickets: Vec::new(), envelopes: Vec::new() }
    }

    /// The side that takes in.
    #[must_use]
    pub fn mailbox(&self) -> Mailbox {
        self.mailbox.clone()
    }

    /// The next message; none once the inbox is closed. May be dropped at any time: a message is taken only when it is returned.
    pub async fn recv(&mut self) -> Option<Message> {
        future::poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// Polls for the next message: ready with none once the inbox is closed.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        let mut single = mem::take(&mut self.envelopes);
        let polled = self.poll_batch(cx, 1, usize::MAX, &mut single);
        let message = single.pop();
        self.envelopes = single;
        polled.map(|()| message.map(Envelope::into_message))
    }

    /// Waits until there are messages, appends those that wait to `messages`, at most `limit` of them, and returns how many: in less time than one by
    /// one. 0 once the inbox is closed, or if `limit` is. May be dropped at any time: messages are taken only when it returns.
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

    /// Appends the messages that wait to `batch`, in their order: at most `max_messages` (at least one), of at most
    /// `max_bytes` together unless the first alone has more. They are the caller's then: what is no request counts as delivered, and a request has to
    /// be answered.
    ///
    /// Ready with nothing: the inbox is closed. Pending: `cx` is woken when something is there.
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
            match self.mailbox.take(cx, (max_messages, max_bytes), batch, &mut self.tickets) {
                Taken::Some { plain, copies } => self.bus.count_taken(plain, copies),
                Taken::None => return Poll::Pending,
                Taken::Closed => return Poll::Ready(()),
            }
            // From the end, so that the indices before stay right.
            for &(index, ticket) in self.tickets.iter().rev() {
                if !self.bus.open_requests().take(&RequestKey::of_request(&batch[index]), ticket) {
                    // Its requester was told 408, or does not wait any more, just now.
                    batch.remove(index);
                }
            }
            if batch.len() > before {
                return Poll::Ready(());
            }
        }
    }

    /// Closes the inbox: posts are refused from now on, and every message that waits in it gets an error response, both with this code and
    /// reason. What was taken out before is not concerned. Closing again changes nothing.
    pub fn close(&self, code: u16, reason: &str) {
        let queue = self.mailbox.close(code, reason);
        for queued in queue {
            self.bus.fail_queued(queued, code, reason);
        }
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.close(503, "nobody listens there any more");
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("mailbox", &self.mailbox).finish_non_exhaustive()
    }
}
