use std::{
    fmt,
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use futures_util::future::FusedFuture;
use serde::{Deserialize, de::DeserializeOwned};

use crate::{Credential, Error, Event, Message, Result, Status, guest::State, host};

/// The stub's side of the message bus: its address, its events, its messages and its status. Clones
/// are the same stub.
#[derive(Clone)]
pub struct Stub {
    state: Rc<State>,
    credential: Option<Rc<Credential>>,
}

impl Stub {
    pub(crate) fn new(state: Rc<State>) -> Self {
        Self { state, credential: None }
    }

    pub(crate) fn with_credential(&self, credential: Option<Credential>) -> Self {
        Self { state: Rc::clone(&self.state), credential: credential.map(Rc::new) }
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// Returns the stub's own address on the bus: `hyperty-runtime://sp1.example/protostub/<id>`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.state.url
    }

    /// Returns the domain that the stub serves, as its addresses name it: `sp1.example`, or
    /// `sp1.example:8443` if the domain has a port.
    #[must_use]
    #[inline] // Compiled with the stub's own code, for size: this is not a hot path.
    pub fn domain(&self) -> &str {
        // `<scheme>://<domain>/…`
        self.url().split('/').nth(2).unwrap_or_default()
    }

    /// Returns the address of the runtime that the stub is deployed in. The host adds it to the
    /// configuration as `runtimeURL`. Empty if the host breaks the contract and adds none.
    #[must_use]
    #[inline]
    pub fn runtime_url(&self) -> &str {
        #[derive(Deserialize)]
        struct AddedByTheHost {
            #[serde(rename = "runtimeURL")]
            runtime_url: String,
        }
        let read = || serde_json::from_str(&self.state.configuration).map(|AddedByTheHost { runtime_url }| runtime_url);
        self.state.runtime_url.get_or_init(|| read().unwrap_or_default())
    }

    /// Returns the credential that came with the connect event, or `None` if the Identity Module
    /// has none for the stub's domain. [`identity::request`](crate::identity::request) gets a fresh
    /// one.
    #[must_use]
    pub fn credential(&self) -> Option<&Credential> {
        self.credential.as_deref()
    }

    /// Reads the configuration: the descriptor's, overridden key by key by the operator's, and
    /// `runtimeURL`. The configuration stays the same for the whole life of an instance. `run` gets
    /// it as its second argument.
    ///
    /// # Errors
    /// [`Error::Invalid`], with the path of the part that does not fit.
    pub fn configuration<T: DeserializeOwned>(&self) -> Result<T> {
        let text = &self.state.configuration;
        serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_str(text)).map_err(|error| {
            let path = match error.path().to_string() {
                path if path == "." => "$".to_owned(),
                path => format!("$.{path}"),
            };
            Error::Invalid(format!("the stub's configuration, at {path}: {}", error.into_inner()))
        })
    }

    /// Waits for the next message to the stub or to an address of its domain. Messages come only
    /// while the stub is [`live`](Self::live).
    ///
    /// At most a few batches of messages wait here. Beyond that the SDK pauses the bus, and the
    /// host queues the messages.
    ///
    /// The future can be raced: dropped, it loses nothing.
    ///
    /// # Errors
    /// [`Error::Disconnect`], once the host asked the stub to disconnect and all messages are
    /// taken. The stub then disconnects from its server gracefully and returns, which `?` does.
    pub fn next_message(&self) -> NextMessage {
        NextMessage { stub: Some(self.clone()) }
    }

    /// Returns the next message without waiting, if one has arrived. A stub can complete a batch
    /// with it that began with [`Self::next_message`].
    #[must_use]
    pub fn try_message(&self) -> Option<Message> {
        self.state.take_message()
    }

    /// Waits for the next event, messages first. This is for a stub that does not use
    /// [`keep_connected`](crate::keep_connected).
    pub fn next_event(&self) -> NextEvent {
        NextEvent { stub: self.clone() }
    }

    /// Posts a message to the bus. An empty `from` becomes the stub's URL. Otherwise it must be the
    /// stub's URL, a path below it, or an address of the stub's domain.
    ///
    /// # Errors
    /// The bus has refused the message, and no error response follows: [`Error::Denied`] (`from`,
    /// a policy, or a domain whose stub this stub may not deploy); [`Error::Invalid`] (an address
    /// that cannot be parsed, or a limit of messages); [`Error::Busy`] (the receiver's inbox is
    /// full: try again later); [`Error::Io`] (the address has no receiver, or the receiver is
    /// closing); [`Error::Limit`] (more than 10 000 messages a second, or a message larger than the
    /// receiver takes).
    pub fn post(&self, message: Message) -> Result<()> {
        self.state.carried.set(true);
        host::post_one(self.signed(message))
    }

    /// Posts messages in one call, which is cheaper, and returns one result for each, in their
    /// order: as [`Self::post`].
    pub fn post_all(&self, messages: impl IntoIterator<Item = Message>) -> Vec<Result<()>> {
        self.state.carried.set(true);
        host::post(messages.into_iter().map(|message| self.signed(message)))
    }

    fn signed(&self, mut message: Message) -> Message {
        if message.from.is_empty() {
            message.from.push_str(self.url());
        }
        message
    }

    /// Posts a request of the stub itself, and waits for the final response. The SDK chooses its
    /// id; `from` becomes the stub's URL.
    ///
    /// # Errors
    /// As [`Self::post`]. Any other failure is a response: 404, 408 and so on ([`Message::code`]).
    pub async fn request(&self, mut request: Message) -> Result<Message> {
        self.url().clone_into(&mut request.from);
        if !request.expects_response() {
            request = request.with_header("expects-response", "true");
        }
        let response = self.state.open_request(&mut request);
        self.state.carried.set(true);
        host::post_one(request)?;
        response.await.map_err(|_| Error::Closed)
    }

    /// Publishes that the stub is connecting. [`keep_connected`](crate::keep_connected) does so by
    /// itself.
    pub fn in_progress(&self) {
        self.tell(Status::InProgress, None);
    }

    /// Publishes that the stub is connected: messages can flow.
    pub fn live(&self) {
        self.tell(Status::Live, None);
    }

    /// Publishes that the stub is no longer connected, with a reason for people. Returning from
    /// `run` does so too.
    pub fn disconnected(&self, reason: &str) {
        self.tell(Status::Disconnected, Some(reason));
    }

    /// Publishes that the stub cannot connect, and that a retry with the same settings will not
    /// help. No other status can follow. Returning [`Error::failed`] from `run` does so too.
    pub fn failed(&self, reason: &str) {
        self.tell(Status::Failed, Some(reason));
    }

    fn tell(&self, status: Status, reason: Option<&str>) {
        if let Err(error) = self.publish(status, reason) {
            log::warn!("the status {status} was not published: {error}");
        }
    }

    /// Publishes a status, with a reason for people. The reason has at most 1 KiB; the host cuts
    /// longer ones.
    ///
    /// # Errors
    /// [`Error::Invalid`], if the status cannot follow the current one (anything after `failed`);
    /// [`Error::Limit`] (more than 100 a second).
    pub fn publish(&self, status: Status, reason: Option<&str>) -> Result<()> {
        host::publish(status, reason)?;
        *self.state.status.borrow_mut() = (status, reason.map(str::to_owned));
        Ok(())
    }

    /// Returns the last published status.
    #[must_use]
    pub fn status(&self) -> Status {
        self.state.status.borrow().0
    }
}

impl fmt::Debug for Stub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stub").field("url", &self.url()).field("status", &self.status()).finish_non_exhaustive()
    }
}

/// The future of [`Stub::next_message`].
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub struct NextMessage {
    stub: Option<Stub>,
}

impl Future for NextMessage {
    type Output = Result<Message>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(stub) = &self.stub else { return Poll::Pending };
        let result = match (stub.state.take_message(), stub.state.ending()) {
            (Some(message), _) => Ok(message),
            (None, Some(reason)) => Err(Error::Disconnect(reason)),
            (None, None) => {
                stub.state.wait(cx.waker());
                return Poll::Pending;
            }
        };
        self.stub = None;
        Poll::Ready(result)
    }
}

impl FusedFuture for NextMessage {
    fn is_terminated(&self) -> bool {
        self.stub.is_none()
    }
}

/// The future of [`Stub::next_event`].
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub struct NextEvent {
    stub: Stub,
}

impl Future for NextEvent {
    type Output = Event;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Event> {
        let state = &self.stub.state;
        match state.take_message().map(Event::Message).or_else(|| state.take_control()) {
            Some(event) => Poll::Ready(event),
            None => {
                state.wait(cx.waker());
                Poll::Pending
            }
        }
    }
}

impl FusedFuture for NextEvent {
    /// Returns `false`: polled again, the future waits for the next event.
    fn is_terminated(&self) -> bool {
        false
    }
}
