//! The life of a usual stub: connects on request, reconnects when the network broke, and
//! disconnects on request.

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

/// Time that `run` has to disconnect gracefully. It is shorter than the host's grace time, which is
/// 5 s by default.
const GRACE: Duration = Duration::from_secs(3);
/// Remaining lifetime at which a credential is renewed before it is used again.
const SOON: Duration = Duration::from_secs(30);
/// Time after which a live connection counts as good, even if it has carried no message.
const GOOD: Duration = Duration::from_secs(30);

/// Runs `run` whenever a connection is wanted. [`export!`](crate::export!) calls it.
///
/// * At `connect`, it publishes `in-progress` and calls `run`, which connects, calls [`Stub::live`]
///   and passes messages on.
/// * At `disconnect`, [`Stub::next_message`] ends with [`Error::Disconnect`] once all messages are
///   taken. `run` then has 3 s to return. A `run` that is not live yet is dropped at once.
///   Afterwards it publishes `disconnected`, unless `run` did, and answers requests that `run` did
///   not take with 503.
/// * When `run` returns otherwise, the connection broke. It publishes `disconnected`, with the
///   error as its reason. It calls `run` again after a delay (see [`Backoff`]), or at the next
///   `connect` if that comes first. It [renews](identity::request) a credential that has expired
///   meanwhile, or that is about to expire.
/// * After a good connection, the delays start again from the shortest. A connection is good if it
///   was live, and carried a message of the bus in either direction or lasted for 30 s.
/// * When `run` returns [`Error::Failed`], it publishes `failed` and returns.
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
            // No connection is open.
            if !matches!(stub.status(), Status::Disconnected | Status::Failed) {
                stub.publish(Status::Disconnected, None)?;
            }
            continue;
        };
        let mut backoff = Backoff::default();
        // The first attempt needs no start time: no delay has grown yet.
        let mut began = None;
        loop {
            stub.in_progress();
            let ended = run_connection(&stub, run(connection.clone(), stub.configuration()?)).await;
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
            let has_lasted = || began.is_some_and(|began| time::now().saturating_sub(began) >= GOOD);
            if ended.was_live && (ended.carried || has_lasted()) {
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
                    // The server decides whether the old credential is still good.
                    Either::Right((Err(error), _)) => log::warn!("the credential is expiring and was not renewed: {error}"),
                }
            }
            began = Some(time::now());
        }
        answer_what_is_left(&stub, "the protocol stub was told to disconnect");
    }
}

/// Returns `true` if the credential of a connection has expired, or will expire soon.
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
    /// `true` if the host asked for the end, `false` if the connection broke.
    told: bool,
    was_live: bool,
    /// `true` if the stub took or posted a message meanwhile.
    carried: bool,
}

async fn run_connection(stub: &Stub, run: impl Future<Output = Result<()>>) -> Ended {
    let mut run = pin!(run.fuse());
    let mut was_live = false;
    stub.state().carried.set(false);
    let mut grace: Option<Sleep> = None;
    let result = poll_fn(|cx| {
        // Events after `disconnect` belong to the next connection. An earlier `connect` has been
        // handled already.
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
            log::warn!("the connection was dropped: `run` did not return within {GRACE:?} after the disconnect event");
            return Poll::Ready(Err(Error::Disconnect(reason)));
        }
        stub.state().wait(cx.waker());
        Poll::Pending
    })
    .await;
    let told = stub.state().ending().is_some();
    stub.state().set_ending(None);
    Ended { result, told, was_live, carried: stub.state().carried.get() }
}

/// Answers the requests that were delivered before the end and not taken, and logs the other
/// messages. No message is lost silently.
fn answer_what_is_left(stub: &Stub, reason: &str) {
    while let Some(message) = stub.state().take_message() {
        if message.expects_response() {
            let response = message.error_response(503, reason);
            if let Err(error) = stub.post(response) {
                log::warn!("the response to a request was not posted: {error}");
            }
        } else {
            log::warn!("a `{}` message to {} was dropped: the connection ended before it was sent", message.kind, message.to);
        }
    }
}
