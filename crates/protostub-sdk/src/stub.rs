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

/// The stub's side of the message bus: what it is called, what it is told, what it says. Clones are the same stub.
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

    /// The stub's own address on the bus: `hyperty-runtime://sp1.example/protostub/<id>`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.state.url
    }

    /// Returns the domain that the stub serves, as its addresses name it: `sp1.example`, or
    /// `sp1.example:8443` if the domain has a port.
    #[must_use]
    #[inline] // In the stub's own, smaller, code: nothing here has to be quick.
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

    /// The credential that came with the wish to connect; none: the Identity Module has none for the stub's domain. A fresh one:
    /// [`identity::request`](crate::identity::request).
    #[must_use]
    pub fn credential(&self) -> Option<&Credential> {
        self.credential.as_deref()
    }

    /// Reads the configuration: what the descriptor has, overridden key by key by the operator, and `runtimeURL`. It stays the same for the
    /// whole life of an instance, and `run` has it as its second argument.
    ///
    /// # Errors
    /// [`Error::Invalid`], with the path of what does not fit.
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

    /// The next message to the stub or to an address of its domain. Messages come only while the stub is [`live`](Self::live).
    ///
    /// At most a few batches of messages wait to be taken: beyond that the SDK pauses the bus, and the host queues them.
    ///
    /// The future can be raced: dropped, it loses nothing.
    ///
    /// # Errors
    /// [`Error::Disconnect`], once the stub was told to disconnect and all messages are taken. Say good-bye to the server then, and return:
    /// `?` does.
    pub fn next_message(&self) -> NextMessage {
        NextMessage { stub: Some(self.clone()) }
    }

    /// A message that has come already, if there is one: to take what [`Self::next_message`] began as a batch.
    #[must_use]
    pub fn try_message(&self) -> Option<Message> {
        self.state.take_message()
    }

    /// For a stub that does without [`keep_connected`](crate::keep_connected): whatever comes next, messages first.
    pub fn next_event(&self) -> NextEvent {
        NextEvent { stub: self.clone() }
    }

    /// Posts a message to the bus. An empty `from` becomes the stub's URL; otherwise it must be the stub's URL, a path below it, or an address
    /// of the stub's domain.
    ///
    /// # Errors
    /// The message was refused, and nothing follows: [`Error::Denied`] (`from`); [`Error::Invalid`] (an address that is none, a limit of
    /// messages); [`Error::Busy`] (the receiver's inbox is full: try again later); [`Error::Limit`] (more than 10 000 messages a second).
    pub fn post(&self, message: Message) -> Result<()> {
        host::post_one(self.signed(message))
    }

    /// Posts messages in one call, which is cheaper, and returns one result for each, in their order: as [`Self::post`].
    pub fn post_all(&self, messages: impl IntoIterator<Item = Message>) -> Vec<Result<()>> {
        host::post(messages.into_iter().map(|message| self.signed(message)))
    }

    fn signed(&self, mut message: Message) -> Message {
        if message.from.is_empty() {
            message.from.push_str(self.url());
        }
        message
    }

    /// Posts a request of the stub itself, and waits for the final response. The SDK chooses its id; `from` becomes the stub's URL.
    ///
    /// # Errors
    /// As [`Self::post`]. Whatever else goes wrong is a response: 404, 408 and so on ([`Message::code`]).
    pub async fn request(&self, mut request: Message) -> Result<Message> {
        self.url().clone_into(&mut request.from);
        if !request.expects_response() {
            request = request.with_header("expects-response", "true");
        }
        let response = self.state.open_request(&mut request);
        host::post_one(request)?;
        response.await.map_err(|_| Error::Closed)
    }

    /// The stub is connecting. [`keep_connected`](crate::keep_connected) says so by itself.
    pub fn in_progress(&self) {
        self.tell(Status::InProgress, None);
    }

    /// The stub is connected: messages can flow.
    pub fn live(&self) {
        self.tell(Status::Live, None);
    }

    /// The stub is no longer connected, with a reason for people. Returning from `run` says so too.
    pub fn disconnected(&self, reason: &str) {
        self.tell(Status::Disconnected, Some(reason));
    }

    /// The stub cannot connect, and trying again as it is will not help. Nothing can follow. Returning [`Error::failed`] from `run` says so too.
    pub fn failed(&self, reason: &str) {
        self.tell(Status::Failed, Some(reason));
    }

    fn tell(&self, status: Status, reason: Option<&str>) {
        if let Err(error) = self.publish(status, reason) {
            log::warn!("the status {status} was not published: {error}");
        }
    }

    /// Publishes a status, with a reason that people read (at most 1 KiB; what is longer is cut).
    ///
    /// # Errors
    /// [`Error::Invalid`], if it cannot follow the one that holds (anything after `failed`); [`Error::Limit`] (more than 100 a second).
    pub fn publish(&self, status: Status, reason: Option<&str>) -> Result<()> {
        host::publish(status, reason)?;
        *self.state.status.borrow_mut() = (status, reason.map(str::to_owned));
        Ok(())
    }

    /// The status that was published last.
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

/// See [`Stub::next_message`].
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

/// See [`Stub::next_event`].
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
    /// Never: polled again, it waits for the event after.
    fn is_terminated(&self) -> bool {
        false
    }
}
