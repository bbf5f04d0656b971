use std::{fmt, sync::Arc, time::Duration};

use protostub_bus::{Inbox, Origin, PostError, Poster, RequestError, Route};
use protostub_types::{Address, Message};

use crate::{
    core::Core,
    error::RegisterError,
    registration::{Entry, HypertyDescriptor, Kept, Registration},
};

/// A part of the host program with an address on the bus. Dropped, its address is free again, and its domain's Registry is told that it has gone.
pub struct Hyperty {
    core: Arc<Core>,
    address: Address,
    poster: Poster,
    inbox: Inbox,
    registration: Option<Kept>,
    _route: Route,
}

impl Hyperty {
    pub(crate) fn new(core: Arc<Core>, address: Address, inbox: Inbox, route: Route) -> Self {
        core.registry.add_hyperty(&address, inbox.mailbox());
        Self {
            poster: core.bus.poster(Origin::Hyperty(address.clone())),
            core,
            address,
            inbox,
            registration: None,
            _route: route,
        }
    }

    /// Has the domain's stub deployed if it is not there, and the domain's Registry told if the descriptor says so.
    pub(crate) fn describe(mut self, descriptor: &HypertyDescriptor) -> Result<Self, RegisterError> {
        let address = &self.address;
        let entry = Entry::of_hyperty(&self.core, address, descriptor).map_err(RegisterError::Address)?;
        let deployed = entry.deploy(&self.core);
        deployed.map_err(|source| RegisterError::Deploy { address: address.clone(), source: Box::new(source) })?;
        self.registration = descriptor.register.then(|| Kept::keep(&self.core, entry));
        Ok(self)
    }

    /// What has become of its registration at its domain's Registry. None unless it was registered
    /// [with a descriptor](crate::Runtime::register_hyperty_with) that says so.
    #[must_use]
    pub fn registration(&self) -> Option<Registration> {
        self.registration.as_ref().map(Kept::status)
    }

    /// Waits until its domain's Registry has answered, and tells what.
    pub async fn until_registered(&self) -> Option<Registration> {
        Some(self.registration.as_ref()?.settled().await)
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Posts a message, and returns at once: it is then delivered, or one error response comes back as a message to this hyperty.
    ///
    /// # Errors
    /// If it was refused: nobody is there (404), policy (403), a queue is full (429), or the domain's stub cannot be deployed (503).
    pub fn post(&self, message: Message) -> Result<(), PostError> {
        self.poster.post(message)
    }

    /// Posts messages in their order, and returns one result for each, as [`Self::post`] would: in less time, where there are several to the same
    /// address.
    pub fn post_all(&self, messages: impl IntoIterator<Item = Message>) -> Vec<Result<(), PostError>> {
        self.poster.post_all(messages)
    }

    /// Posts a request, of any type, and waits for its final response: for as long as its `timeout-ms` header says, or the runtime's request
    /// time-out (15 s by default).
    ///
    /// # Errors
    /// If the host answers in the receiver's place, since there is none (404), it was refused (403, 429), it had no answer in time (408), or
    /// the stub crashed with it, or could not be deployed (502, 503).
    pub async fn request(&self, message: Message) -> Result<Message, RequestError> {
        self.poster.request(message, None).await
    }

    /// The same, within a time of its own.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub async fn request_within(&self, message: Message, timeout: Duration) -> Result<Message, RequestError> {
        self.poster.request(message, Some(timeout)).await
    }

    /// Subscribes to an address: `<stub>/status` or `<runtime>/status`, whose current status comes at once, or whatever a domain offers.
    ///
    /// # Errors
    /// As [`Self::request`]. A refusal by the publisher is a response like any other.
    pub async fn subscribe(&self, address: Address) -> Result<Message, RequestError> {
        self.request(Message::subscribe(address)).await
    }

    /// The next message to this hyperty; none once the runtime has shut down and everything that came before was taken.
    pub async fn recv(&mut self) -> Option<Message> {
        self.inbox.recv().await
    }

    /// Waits until there are messages to this hyperty, appends those that wait to `messages`, at most `limit` of them, and returns how many: in less
    /// time than one by one. 0 once the runtime has shut down and everything that came before was taken.
    pub async fn recv_many(&mut self, messages: &mut Vec<Message>, limit: usize) -> usize {
        self.inbox.recv_many(messages, limit).await
    }
}

impl Drop for Hyperty {
    fn drop(&mut self) {
        self.core.registry.remove_hyperty(&self.address);
    }
}

impl fmt::Debug for Hyperty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hyperty").field("address", &self.address).finish_non_exhaustive()
    }
}
