//! Outcomes of accepted messages. The code that removes a request from the open ones, or a message
//! from a queue, gives it its outcome here.

use protostub_types::{Message, MessageType};

use crate::{
    Bus, Envelope, Origin, PostError, Receiver, RequestError,
    bus::Inner,
    deadlines::Due,
    mailbox::Mailbox,
    open_requests::{OpenRequest, OpenRequests, Requester},
    queue::{Class, Queued},
    request_key::RequestKey,
    table::Destination,
};

/// Number of deadlines handled before other tasks get a turn.
const EXPIRED_AT_ONCE: usize = 128;

impl Bus {
    /// Answers requests without a final response, and messages that wait too long, with 408 at
    /// their timeout. Never returns; drop the future to stop. It must run exactly once, on a tokio
    /// runtime with its timer enabled.
    pub async fn run_deadlines(&self) {
        loop {
            let due = self.inner.requests.deadlines().next().await;
            for (count, (number, due)) in due.into_iter().enumerate() {
                match due {
                    Due::Request(key) => self.expire_request(&key, number),
                    Due::Mailbox(mailbox) => {
                        if let Some(mailbox) = mailbox.upgrade() {
                            self.expire_queued(&mailbox);
                        }
                    }
                }
                if count % EXPIRED_AT_ONCE == EXPIRED_AT_ONCE - 1 {
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    /// Ends a message that its receiver took and could not handle: its requester or sender gets one
    /// error response. A request that has its final response already is left alone, and so is a
    /// response. The caller must not fail the same message twice, unless it is a request: the bus
    /// keeps no record of other messages. The publisher gets no error for a subscriber's copy.
    pub fn fail(&self, message: &Message, code: u16, reason: &str) {
        let Inner { requests, counters, .. } = &*self.inner;
        if message.kind == MessageType::Response {
            return;
        }
        if message.expects_response() {
            let key = RequestKey::of_request(message);
            if let Some(request) = requests.remove_key(&key) {
                self.fail_request(&key, request, code, reason);
            }
        } else if self.is_copy(message) {
            counters.copies.take_back(1);
            counters.copies_dropped.add(1);
        } else {
            // The message was counted as delivered when it was taken out of its inbox.
            counters.delivered.take_back(1);
            self.fail_plain(message, code, reason);
        }
    }

    /// Returns `true` if a message that a stub took was a copy: its `to` is a topic that no stub
    /// owns.
    fn is_copy(&self, message: &Message) -> bool {
        let Destination { listener, subscribers } = self.inner.table.lookup(&message.to);
        subscribers.is_some() && listener.is_none_or(|listener| listener.owner().is_none())
    }

    /// Ends every request that the mailbox's owner took and has not answered, with this code and
    /// reason: 502 after a crash.
    pub fn fail_taken(&self, mailbox: &Mailbox, code: u16, reason: &str) {
        // Most mailboxes hold no requests, and skip the search among all open ones.
        if mailbox.holds_requests() {
            self.fail_open(|request| request.taken && request.holder.is(mailbox), code, reason);
        }
    }

    /// Ends every message that was posted to this mailbox and still waits there, with this code and
    /// reason. Responses to its owner's own messages stay.
    pub fn fail_waiting(&self, mailbox: &Mailbox, code: u16, reason: &str) {
        for queued in mailbox.take_posted() {
            self.fail_queued(queued, code, reason);
        }
    }

    pub(crate) fn fail_all(&self, code: u16, reason: &str) {
        self.fail_open(|_| true, code, reason);
    }

    fn fail_open(&self, which: impl Fn(&OpenRequest) -> bool, code: u16, reason: &str) {
        let requests = &self.inner.requests;
        for (key, ticket) in requests.select(which) {
            if let Some(request) = requests.remove(&key, ticket) {
                self.fail_request(&key, request, code, reason);
            }
        }
    }

    /// Handles a response that was posted.
    pub(crate) fn respond(&self, origin: &Origin, response: Envelope) -> Result<(), PostError> {
        let Inner { requests, counters, .. } = &*self.inner;
        let key = RequestKey::of_response(&response);
        let Some((ticket, mailbox)) = requests.answerable(&key, origin) else {
            self.unawaited(&response);
            return Ok(());
        };
        if let Err(refused) = self.ask_policy(origin, &response, || mailbox.as_ref().map_or(Receiver::Listener, Receiver::of)) {
            // Ends the request now, so that the requester does not wait for a response that cannot
            // arrive.
            if !response.is_provisional()
                && let Some(request) = requests.remove(&key, ticket)
            {
                self.fail_request(&key, request, refused.code, &format!("the response was refused: {}", refused.reason));
            }
            return Err(refused);
        }
        if response.is_provisional() {
            return match mailbox {
                Some(mailbox) => mailbox.push(response, Class::Provisional).map(drop),
                None => Ok(()),
            };
        }
        if let Some(mailbox) = mailbox
            && let Err(refused) = mailbox.admits_reply(&response)
        {
            // The requester takes no messages of this responder, so it does not wait for another
            // response.
            if refused.code == 503
                && let Some(request) = requests.remove(&key, ticket)
            {
                self.fail_request(&key, request, refused.code, &refused.reason);
            }
            return Err(refused);
        }
        match requests.remove(&key, ticket) {
            Some(request) => {
                counters.answered.add(1);
                self.complete(request.requester, response);
            }
            None => self.unawaited(&response),
        }
        Ok(())
    }

    /// Removes a request whose requester no longer waits.
    pub(crate) fn abandon(&self, key: &RequestKey, ticket: u64) {
        let Inner { requests, counters, .. } = &*self.inner;
        if let Some(request) = requests.remove(key, ticket) {
            counters.abandoned.add(1);
            if !request.taken {
                request.holder.forget(ticket);
            }
        }
    }

    /// Ends a message that was taken out of a queue by code other than its owner.
    pub(crate) fn fail_queued(&self, queued: Queued, code: u16, reason: &str) {
        let Inner { requests, counters, .. } = &*self.inner;
        match queued.class {
            Class::Plain { .. } => self.fail_plain(&queued.message, code, reason),
            Class::Copy { .. } => counters.copies_dropped.add(1),
            Class::Request { ticket } => {
                let key = RequestKey::of_request(&queued.message);
                if let Some(request) = requests.remove(&key, ticket) {
                    self.fail_request(&key, request, code, reason);
                }
            }
            Class::Provisional => {}
            Class::Reply | Class::ErrorResponse => counters.undeliverable.add(1),
        }
    }

    pub(crate) fn count_taken(&self, plain: u64, copies: u64) {
        let counters = &self.inner.counters;
        if plain > 0 {
            counters.delivered.add(plain);
        }
        if copies > 0 {
            counters.copies.add(copies);
        }
    }

    pub(crate) fn open_requests(&self) -> &OpenRequests {
        &self.inner.requests
    }

    fn expire_request(&self, key: &RequestKey, ticket: u64) {
        let Some(request) = self.inner.requests.remove(key, ticket) else { return };
        let responder = key.responder();
        let reason = if request.taken {
            format!("{responder} took the request and did not answer in time")
        } else {
            format!("{responder} did not take the request in time: the owner of its inbox is not ready for messages")
        };
        self.fail_request(key, request, 408, &reason);
    }

    fn expire_queued(&self, mailbox: &Mailbox) {
        let timeout = self.config().queue_timeout;
        let (expired, next) = mailbox.expire(self.config().clock.now(), timeout);
        for queued in expired {
            let waited = timeout.as_secs_f32();
            let reason =
                format!("{} did not take the message within {waited} s: the message waited in an inbox", queued.message.to);
            self.fail_queued(queued, 408, &reason);
        }
        if let Some(next) = next {
            let requests = &self.inner.requests;
            requests.deadlines().add(next, requests.next_number(), Due::Mailbox(mailbox.downgrade()));
        }
    }

    /// Gives its outcome to a request that was removed from the open ones.
    fn fail_request(&self, key: &RequestKey, request: OpenRequest, code: u16, reason: &str) {
        let counters = &self.inner.counters;
        counters.failed.add(1);
        if !request.taken {
            request.holder.forget(request.ticket);
        }
        match request.requester {
            Requester::Awaits(requester) => {
                if requester.send(Err(RequestError::new(code, key.responder(), reason))).is_err() {
                    counters.undeliverable.add(1);
                }
            }
            Requester::Listens(_) | Requester::Absent => {
                let response = request.error_response(key, code, reason).into();
                self.complete(request.requester, response);
            }
        }
    }

    /// Delivers a final response to the requester.
    fn complete(&self, requester: Requester, response: Envelope) {
        let delivered = match requester {
            Requester::Awaits(requester) => requester.send(Ok(response.into_message())).is_ok(),
            Requester::Listens(mailbox) => mailbox.push(response, Class::Reply).is_ok(),
            Requester::Absent => false,
        };
        if !delivered {
            self.inner.counters.undeliverable.add(1);
        }
    }

    /// Sends an error response to the sender of a message that was not a request.
    fn fail_plain(&self, message: &Message, code: u16, reason: &str) {
        let counters = &self.inner.counters;
        counters.failed.add(1);
        let told = self
            .mailbox_of(&message.from)
            .map(|mailbox| mailbox.push(message.error_response(code, reason).into(), Class::ErrorResponse));
        if !matches!(told, Some(Ok(_))) {
            counters.undeliverable.add(1);
            tracing::debug!(from = %message.from, to = %message.to, code, reason, "the sender of an undelivered message could not get its error response");
        }
    }

    fn unawaited(&self, response: &Message) {
        self.inner.counters.unawaited.add(1);
        tracing::debug!(from = %response.from, to = %response.to, id = %response.id, "dropped a response that no requester waits for");
    }
}
