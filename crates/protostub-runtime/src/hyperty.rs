use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::Stream;
use protostub_bus::{Inbox, Origin, PostError, Poster, RequestError, Route};
use protostub_types::{Address, Message};

use crate::{
    context::RuntimeContext,
    error::RegisterError,
    launch::load_stub,
    registration::{HypertyDescriptor, Registration, RegistrationHandle, RegistrationRequest},
    registry::Retry,
};

/// A part of the host program with an address on the bus.
///
/// A hyperty receives with [`Self::recv`] or as a [`Stream`], and sends. To send from other tasks,
/// take senders with [`Self::sender`]. When the hyperty is dropped, its address becomes free, its
/// domain's Registry learns that it has gone, and its senders fail.
pub struct Hyperty {
    sender: HypertySender,
    inbox: Inbox,
    registration: Option<RegistrationHandle>,
    _route: Route,
}

/// Sends the messages of a [`Hyperty`] from any task. Made by [`Hyperty::sender`]; each task has a
/// clone of its own.
pub struct HypertySender {
    hyperty: Arc<Identity>,
    /// The poster of this sender alone. Most consecutive messages of one task go to the same
    /// receiver.
    poster: Poster,
}

/// The part of a hyperty that its senders share.
struct Identity {
    context: Arc<RuntimeContext>,
    address: Address,
    /// The hyperty was dropped. Another hyperty may have its address.
    is_gone: AtomicBool,
}

impl HypertySender {
    /// Returns the hyperty's address.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.hyperty.address
    }

    /// Posts a message and returns at once. Later, the message is delivered, or the hyperty gets
    /// one error response as a message.
    ///
    /// # Errors
    /// If the message was refused: no receiver (404), policy (403), a queue is full (429), the
    /// domain's stub cannot be deployed (503), or the hyperty was dropped (503).
    pub fn post(&self, message: Message) -> Result<(), PostError> {
        self.check(&message)?;
        self.poster.post(message)
    }

    /// Posts messages in their order and returns one result for each, as [`Self::post`] does. This
    /// is faster than single posts if consecutive messages share an address.
    pub fn post_all(&self, messages: impl IntoIterator<Item = Message>) -> Vec<Result<(), PostError>> {
        if self.hyperty.is_gone.load(Ordering::Acquire) {
            return messages.into_iter().map(|message| self.check(&message)).collect();
        }
        self.poster.post_all(messages)
    }

    /// Posts a request of any type, and waits for its final response. The request's timeout is its
    /// header `timeout-ms`, or the runtime's request timeout (15 s by default).
    ///
    /// # Errors
    /// If the host answers instead of the receiver:
    ///
    /// * There is no receiver (404).
    /// * The request was refused (403, 429).
    /// * The request had no answer in time (408).
    /// * The stub crashed with the request, or could not be deployed (502, 503).
    /// * The hyperty was dropped (503).
    pub async fn request(&self, message: Message) -> Result<Message, RequestError> {
        self.check(&message)?;
        self.poster.request(message, None).await
    }

    /// Posts a request like [`Self::request`], with a timeout of its own.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub async fn request_within(&self, message: Message, timeout: Duration) -> Result<Message, RequestError> {
        self.check(&message)?;
        self.poster.request(message, Some(timeout)).await
    }

    /// Subscribes the hyperty to an address: to `<stub>/status` or `<runtime>/status`, whose
    /// current status comes at once, or to a topic of a domain.
    ///
    /// # Errors
    /// As [`Self::request`]. A refusal by the publisher is a response like any other.
    pub async fn subscribe(&self, address: Address) -> Result<Message, RequestError> {
        self.request(Message::subscribe(address)).await
    }

    fn check(&self, message: &Message) -> Result<(), PostError> {
        let Identity { address, is_gone, .. } = &*self.hyperty;
        if is_gone.load(Ordering::Acquire) {
            let reason = format!("the hyperty {address} was dropped; register it again to send");
            return Err(PostError::new(503, &message.to, reason));
        }
        Ok(())
    }
}

impl Clone for HypertySender {
    fn clone(&self) -> Self {
        Self { hyperty: Arc::clone(&self.hyperty), poster: self.poster.clone() }
    }
}

impl fmt::Debug for HypertySender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HypertySender").field("address", self.address()).finish_non_exhaustive()
    }
}

impl Hyperty {
    /// Returns the hyperty of an address that was attached just now.
    ///
    /// # Errors
    /// If the runtime is shutting down.
    pub(crate) fn new(context: Arc<RuntimeContext>, address: Address, inbox: Inbox, route: Route) -> Result<Self, RegisterError> {
        if !context.registry.add_hyperty(&address, inbox.mailbox()) {
            return Err(RegisterError::ShutDown { address });
        }
        let poster = context.bus.poster(Origin::Hyperty(address.clone()));
        let identity = Identity { context, address, is_gone: AtomicBool::new(false) };
        let sender = HypertySender { hyperty: Arc::new(identity), poster };
        Ok(Self { sender, inbox, registration: None, _route: route })
    }

    /// Deploys the domain's stub if needed, and registers the hyperty at the domain's Registry if
    /// the descriptor says so.
    pub(crate) fn describe(mut self, descriptor: &HypertyDescriptor) -> Result<Self, RegisterError> {
        let Identity { context, address, .. } = &*self.sender.hyperty;
        let entry = RegistrationRequest::of_hyperty(context, address, descriptor).map_err(RegisterError::Address)?;
        let deployed = load_stub(context, entry.key(), self.sender.poster.origin(), Retry::AfterPause);
        deployed.map_err(|source| RegisterError::Deploy { address: address.clone(), source: Box::new(source) })?;
        self.registration = descriptor.register.then(|| RegistrationHandle::keep(context, entry));
        Ok(self)
    }

    /// Returns the state of the hyperty's registration at its domain's Registry. Returns `None`
    /// unless it was registered [with a descriptor](crate::Runtime::register_hyperty_with) that
    /// says so.
    #[must_use]
    pub fn registration(&self) -> Option<Registration> {
        self.registration.as_ref().map(RegistrationHandle::status)
    }

    /// Waits until the domain's Registry has answered, and returns the state of the registration.
    /// The wait has no limit while the domain's stub is not deployed. It ends with the runtime.
    pub async fn until_registered(&self) -> Option<Registration> {
        Some(self.registration.as_ref()?.settled().await)
    }

    /// Returns the hyperty's address.
    #[must_use]
    pub fn address(&self) -> &Address {
        self.sender.address()
    }

    /// Returns a sender, for another task to send in the hyperty's name while this one receives.
    #[must_use]
    pub fn sender(&self) -> HypertySender {
        self.sender.clone()
    }

    /// Posts a message: see [`HypertySender::post`].
    ///
    /// # Errors
    /// As [`HypertySender::post`].
    pub fn post(&self, message: Message) -> Result<(), PostError> {
        self.sender.post(message)
    }

    /// Posts messages in their order: see [`HypertySender::post_all`].
    pub fn post_all(&self, messages: impl IntoIterator<Item = Message>) -> Vec<Result<(), PostError>> {
        self.sender.post_all(messages)
    }

    /// Posts a request and waits for its final response: see [`HypertySender::request`].
    ///
    /// # Errors
    /// As [`HypertySender::request`].
    pub async fn request(&self, message: Message) -> Result<Message, RequestError> {
        self.sender.request(message).await
    }

    /// Posts a request with a timeout of its own: see [`HypertySender::request_within`].
    ///
    /// # Errors
    /// As [`HypertySender::request`].
    pub async fn request_within(&self, message: Message, timeout: Duration) -> Result<Message, RequestError> {
        self.sender.request_within(message, timeout).await
    }

    /// Subscribes to an address: see [`HypertySender::subscribe`].
    ///
    /// # Errors
    /// As [`HypertySender::request`].
    pub async fn subscribe(&self, address: Address) -> Result<Message, RequestError> {
        self.sender.subscribe(address).await
    }

    /// Returns the number of copies of publications that the hyperty missed so far, because it did
    /// not read for long. The next copy has the number of the latest ones in its header
    /// `missed-copies`. Of a stub's statuses, the hyperty keeps the newest.
    #[must_use]
    pub fn missed_copies(&self) -> u64 {
        self.inbox.missed_copies()
    }

    /// Returns the next message to this hyperty. Returns `None` once the runtime has shut down and
    /// all earlier messages were taken.
    pub async fn recv(&mut self) -> Option<Message> {
        self.inbox.recv().await
    }

    /// Waits for messages to this hyperty, appends at most `limit` of them to `messages`, and
    /// returns their number. This is faster than taking single messages. Returns 0 once the runtime
    /// has shut down and all earlier messages were taken.
    pub async fn recv_many(&mut self, messages: &mut Vec<Message>, limit: usize) -> usize {
        self.inbox.recv_many(messages, limit).await
    }
}

/// The messages to this hyperty, as [`Hyperty::recv`] returns them. The stream ends once the
/// runtime has shut down and all earlier messages were taken.
impl Stream for Hyperty {
    type Item = Message;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        self.get_mut().inbox.poll_recv(cx)
    }
}

impl Drop for Hyperty {
    fn drop(&mut self) {
        let Identity { context, address, is_gone, .. } = &*self.sender.hyperty;
        is_gone.store(true, Ordering::Release);
        context.registry.remove_hyperty(address);
    }
}

impl fmt::Debug for Hyperty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hyperty").field("address", self.address()).finish_non_exhaustive()
    }
}
