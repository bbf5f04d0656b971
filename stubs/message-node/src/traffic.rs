//! The messages between the bus and the message node, once there is a session.

use std::{cell::RefCell, collections::VecDeque, convert::Infallible, pin::pin};

use protostub_sdk::{
    Body, Error, Message, MessageId, MessageType, Result, Stub,
    futures::future,
    log,
    websocket::{Frame, WebSocket},
};

use crate::via;

/// Maximum number of messages in one call of the host.
const BATCH: usize = 64;
/// Maximum size of a frame, in bytes. A larger frame would end the connection (1009).
const MAX_FRAME_BYTES: usize = 1024 * 1024;
/// Number of recent requests to remember, for errors of the message node that do not name their
/// request.
const REMEMBERED: usize = 256;

/// The messages of one connection.
pub(crate) struct Traffic<'a> {
    stub: &'a Stub,
    socket: &'a WebSocket,
    requests: RefCell<VecDeque<Asked>>,
}

/// A request that was sent.
struct Asked {
    id: MessageId,
    from: String,
    to: String,
}

impl<'a> Traffic<'a> {
    pub(crate) fn new(stub: &'a Stub, socket: &'a WebSocket) -> Self {
        Self { stub, socket, requests: RefCell::default() }
    }

    /// Passes messages on in both directions, until the host asks the stub to disconnect or the
    /// connection breaks. Returns the reason.
    pub(crate) async fn flow(&self) -> Error {
        let Err(ended) = future::select(pin!(self.send_all()), pin!(self.receive_all())).await.factor_first().0;
        ended
    }

    /// Sends the messages of the bus, in order.
    async fn send_all(&self) -> Result<Infallible> {
        loop {
            let first = self.stub.next_message().await?;
            let rest = std::iter::from_fn(|| self.stub.try_message()).take(BATCH - 1);
            self.send(std::iter::once(first).chain(rest).collect()).await?;
        }
    }

    async fn send(&self, messages: Vec<Message>) -> Result<()> {
        let mut frames = Vec::with_capacity(messages.len());
        let mut requests = Vec::new();
        for message in messages {
            // Only requests are needed later.
            let request = message.expects_response().then(|| message.clone());
            let Some(text) = self.write(message) else { continue };
            frames.push(Frame::Text(text));
            if let Some(request) = request {
                self.remember(&request);
                requests.push(request);
            }
        }
        let sent = self.socket.send_all(frames).await;
        if let Err(error) = &sent {
            // Some of the requests may have been sent. The first answer counts.
            for request in requests {
                self.answer(&request, 503, &format!("the connection to the message node broke: {error}"));
            }
        }
        sent
    }

    /// Returns the message as the message node reads it, or `None` if it is not sent.
    fn write(&self, mut message: Message) -> Option<String> {
        let url = self.stub.url();
        let may_have_via = via::may_be_in(message.body.as_ref());
        if message.via.iter().any(|address| address == url) || may_have_via && via::holds(message.body.as_ref(), url) {
            log::debug!("a `{}` message to {} came from the message node and does not go back there", message.kind, message.to);
            self.answer(&message, 508, "the message came from this domain's message node; sending it back would make a loop");
            return None;
        }
        message.via.push(url.to_owned());
        message.body.get_or_insert_with(|| Body::Json("{}".to_owned()));
        via::set(&mut message.body, url, may_have_via);
        let (code, problem) = match message.to_json() {
            Ok(text) if text.len() <= MAX_FRAME_BYTES => return Some(text),
            Ok(text) => (413, format!("the frame has {} bytes, more than {MAX_FRAME_BYTES}", text.len())),
            Err(error) => (400, error.to_string()),
        };
        log::warn!("a `{}` message from {} is not sent: {problem}", message.kind, message.from);
        self.answer(&message, code, &format!("the message is not sent: {problem}"));
        None
    }

    fn answer(&self, message: &Message, code: u16, reason: &str) {
        if message.expects_response()
            && let Err(error) = self.stub.post(message.error_response(code, reason))
        {
            log::warn!("the response to a request of {} was not posted: {error}", message.from);
        }
    }

    fn remember(&self, request: &Message) {
        let requests = &mut *self.requests.borrow_mut();
        if requests.len() == REMEMBERED {
            requests.pop_front();
        }
        requests.push_back(Asked { id: request.id.clone(), from: request.from.clone(), to: request.to.clone() });
    }

    /// Posts the messages of the message node, in order, until the connection ends.
    pub(crate) async fn receive_all(&self) -> Result<Infallible> {
        loop {
            let first = self.socket.next().await?;
            let rest = std::iter::from_fn(|| self.socket.try_next()).take(BATCH - 1);
            self.post(std::iter::once(first).chain(rest).flat_map(|frame| read(&frame)).collect()).await?;
        }
    }

    /// Posts the messages of a frame that arrived during another exchange.
    pub(crate) async fn receive(&self, frame: &Frame) -> Result<()> {
        self.post(read(frame)).await
    }

    async fn post(&self, mut messages: Vec<Message>) -> Result<()> {
        for message in &mut messages {
            let may_have_via = via::may_be_in(message.body.as_ref());
            via::set(&mut message.body, self.stub.url(), may_have_via);
            self.restore_sender(message);
        }
        // Only a refused request is needed again.
        let requests: Vec<_> = messages.iter().map(|message| message.expects_response().then(|| message.clone())).collect();
        for (posted, request) in self.stub.post_all(messages).into_iter().zip(requests) {
            let Err(error) = posted else { continue };
            log::warn!("the bus refused a message from the message node: {error}");
            if let Some(request) = request {
                let code = match error {
                    Error::Denied(_) => 403,
                    // The address has no receiver.
                    Error::Io(_) => 404,
                    Error::Invalid(_) => 400,
                    Error::Busy | Error::Limit(_) => 429,
                    _ => 500,
                };
                self.socket.send_text(request.error_response(code, &error.to_string()).to_json()?).await?;
            }
        }
        Ok(())
    }

    /// Sets the request's receiver as the sender of an error of the message node itself, which
    /// comes from `mn:/policies` and the like. On the bus, a response comes from the address that
    /// its request went to.
    fn restore_sender(&self, message: &mut Message) {
        if message.kind != MessageType::Response || !message.from.starts_with("mn:/") {
            return;
        }
        let requests = self.requests.borrow();
        if let Some(asked) = requests.iter().rev().find(|asked| asked.id == message.id && asked.from == message.to) {
            asked.to.clone_into(&mut message.from);
        }
    }
}

/// Reads the messages of a frame: more than one if `to` is an array, none if the frame is not a
/// message.
fn read(frame: &Frame) -> Vec<Message> {
    frame.messages().unwrap_or_else(|error| {
        log::warn!("the message node sent an invalid message: {error}");
        Vec::new()
    })
}
