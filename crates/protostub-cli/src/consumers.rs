//! Entry points of the fuzzers: the functions of the command that read bytes from strangers.

use protostub_runtime::{Address, Message};

pub use crate::text::OutputFormat;

use crate::{
    control::protocol::{Request, Response, Sent},
    event::{Event, FormattedEvent},
    printer::Entry as _,
};

/// Returns the output of `run` for a message, in this format.
#[must_use]
pub fn message_of_run(hyperty: &Address, message: &Message, format: OutputFormat) -> String {
    FormattedEvent { event: Event::Message { hyperty: hyperty.clone(), message: message.clone() }, format }.into_text()
}

/// Returns the output of `send` for a reply, in this format. The reply passes through a line of the
/// control socket first.
#[must_use]
pub fn reply_of_send(reply: &Message, format: OutputFormat) -> Option<String> {
    let result = serde_json::value::to_raw_value(&Sent::of(reply, 12).ok()?).ok()?;
    let line = Response::Result { result }.to_line();
    let Response::Result { result } = Response::read(line.as_bytes())? else { return None };
    let sent: Sent = serde_json::from_str(result.get()).ok()?;
    Some(format.line(|| sent.text(), || sent.to_json()))
}

/// Reads a line of the control socket as the server does. Returns the request as a client would
/// write it.
///
/// # Errors
/// The server's error response, if the line is not a request.
pub fn request(line: &[u8]) -> Result<String, String> {
    match Request::read(line) {
        Ok(request) => Ok(serde_json::to_string(&request).unwrap_or_default()),
        Err(problem) => Err(Response::Error(problem).to_line()),
    }
}

/// Reads a line of the control socket as a client does. Returns the response as the server would
/// write it.
#[must_use]
pub fn response(line: &[u8]) -> Option<String> {
    Response::read(line).map(|response| response.to_line())
}
