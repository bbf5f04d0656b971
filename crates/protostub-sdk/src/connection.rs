//! The life of a usual stub: connect when told, connect again when the network broke, disconnect when told.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::future::{self, Either, FutureExt};
use serde::de::DeserializeOwned;

use crate::{
    Error, Event, Result, Status, Stub, identity,
    time::{self, Backoff, Sleep},
};

/// How long `run` has to say good-bye: less than the host's grace time, which is 5 s by default.
const GRACE: Duration = Duration::from_secs(3);
/// A credential that runs out within this time is asked for anew before it is used again.
const SOON: Duration = Duration::from_secs(30);
/// A connection that was live for so long was good: the next break is a new one, and waits no longer than the first.
const GOOD: Duration = Duration::from_secs(30);

/// Runs `run` whenever a connection is wanted: what [`export!`](crate::export!) does.
///
/// * At `connect`, publishes `in-progress` and calls `run`, which connects, calls [`Stub::live`] and passes messages on.
/// * At `disconnect`, [`Stub::next_message`] ends with [`Error::Disconnect`] once all messages are taken, and `run` has 3 s to return; while it is
///   not live yet, it is dropped at once. Then `disconnected` is published, unless `run` did, and requests that nobody took are answered 503.
/// * When `run` returns otherwise, the connection broke: `disconnected` is published, with the error as its reason, and after a while (see
///   [`Backoff`]; or at the next `connect`, if that comes first) `run` is called again. A credential that has run out meanwhile, or is about to, is
///   [asked for](identity::request) anew.
/// * When `run` returns [`Error::Failed`], `failed` is published, and that is the end.
///
/// # Errors
/// [`Error::Failed`], from `run`; [`Error::Invalid`], if the configuration cannot be read.
pub async fn keep_connected<C, F, Fut>(stub: Stub, run: F) -> Result<()>
where
    C: DeserializeOwned,
    F: Fn(Stub, C) -> Fut,
    Fut: Future<Output = Result<()>>,
{
    loop {
        let Control::Connect(mut connection) = next_control(&stub).await else {
            // There is none to end.
            if !matches!(stub.status(), Status::Disconnected | Status::Failed) {
                stub.publish(Status::Disconnected, None)?;
            }
            continue;
        };
        let mut backoff = Backoff::default();
        // Of the first try, it is of no interest: no wait was made longer yet.
        let mut began = None;
        loop {
            stub.in_progress();
            let ended = one_connection(&stub, run(connection.clone(), stub.configuration()?)).await;
            if let Err(error @ Error::Failed(_)) = ended.result {
                answer_what_is_left(&stub, "the protocol stub cannot connect to its domain");
                return Err(error);
            }
            if stub.status() != Status::Disconnected {
                let reason = ended.result.as_ref().err().filter(|error| !matches!(error, Error::Disconnect(_)));
                stub.publish(Status::Disconnected, reason.map(ToString::to_string).as_deref())?;
            }
            if ended.told {
                break;
            }
            if ended.was_live && began.is_some_and(|began| time::now().saturating_sub(began) >= GOOD) {
                backoff = Backoff::default();
            }
            match future::select(pin!(next_control(&stub)), backoff.sleep()).await {
                Either::Left((Control::Connect(wanted), _)) => connection = wanted,
                Either::Left((Control::Disconnect, _)) => break,
                Either::Right(_) => {}
            }
            if runs_out(&connection) {
                match future::select(pin!(next_control(&stub)), pin!(identity::request(None))).await {
                    Either::Left((Control::Connect(wanted), _)) => connection = wanted,
                    Either::Left((Control::Disconnect, _)) => break,
                    Either::Right((Ok(fresh), _)) => connection = stub.with_credential(Some(fresh)),
                    // The server has the last word.
                    Either::Right((Err(error), _)) => log::warn!("the credential runs out, and there is no other one: {error}"),
                }
            }
            began = Some(time::now());
        }
        answer_what_is_left(&stub, "the protocol stub was told to disconnect");
    }
}

/// Whether the credential of a connection is of no use any more, or soon will not be.
fn runs_out(connection: &Stub) -> bool {
    let Some(expires) = connection.credential().and_then(|credential| credential.expires) else { return false };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Duration::from_secs(expires) <= now.saturating_add(SOON)
}

enum Control {
    Connect(Stub),
    Disconnect,
}

async fn next_control(stub: &Stub) -> Control {
    poll_fn(|cx| match stub.state().take_control() {
        Some(Event::Connect(credential)) => Poll::Ready(Control::Connect(stub.with_credential(credential))),
        Some(_) => Poll::Ready(Control::Disconnect),
        None => {
            stub.state().wait(cx.waker());
            Poll::Pending
        }
    })
    .await
}

struct Ended {
    result: Result<()>,
    /// It was told to; otherwise it broke.
    told: bool,
    was_live: bool,
}

async fn one_connection(stub: &Stub, run: impl Future<Output = Result<()>>) -> Ended {
    let mut run = pin!(run.fuse());
    let mut was_live = false;
    let mut grace: Option<Sleep> = None;
    let result = poll_fn(|cx| {
        // What comes after `disconnect` is about the next connection; `connect` before it has been done already.
        while grace.is_none()
            && let Some(event) = stub.state().take_control()
        {
            if let Event::Disconnect(reason) = event {
                grace = Some(time::sleep(GRACE));
                stub.state().set_ending(Some(reason));
                if stub.status() != Status::Live {
                    return Poll::Ready(Err(Error::Disconnect(reason)));
                }
            }
        }
        let polled = run.poll_unpin(cx);
        was_live |= stub.status() == Status::Live;
        if polled.is_ready() {
            return polled;
        }
        if let (Some(grace), Some(reason)) = (&mut grace, stub.state().ending())
            && grace.poll_unpin(cx).is_ready()
        {
            log::warn!("the connection was dropped: it was not closed within {GRACE:?}");
            return Poll::Ready(Err(Error::Disconnect(reason)));
        }
        stub.state().wait(cx.waker());
        Poll::Pending
    })
    .await;
    let told = stub.state().ending().is_some();
    stub.state().set_ending(None);
    Ended { result, told, was_live }
}

/// What was delivered before the end and not taken is not lost without a word.
fn answer_what_is_left(stub: &Stub, reason: &str) {
    while let Some(message) = stub.state().take_message() {
        if message.expects_response() {
            let response = message.error_response(503, reason);
            if let Err(error) = stub.post(response) {
                log::warn!("a request could not be answered: {error}");
            }
        } else {
            log::warn!("a `{}` message to {} came too late to be sent", message.kind, message.to);
        }
    }
}
