//! Tasks of the stub's own, next to the one that [`export!`](crate::export!) starts.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use futures_channel::oneshot;
use futures_util::future::{self, AbortHandle, FusedFuture, FutureExt};

use crate::{Error, Result, guest};

/// Starts a task of the stub's own. The executor runs the task next to `run`, on the same thread,
/// whenever the task can continue.
///
/// The task runs until it ends, until [`JoinHandle::abort`], or until the instance ends. The end of
/// a connection does not stop the task, so a task suits work that goes on between connections. Work
/// that belongs to one connection is better a part of `run`, by [`join!`](crate::join!) or
/// [`select!`](crate::select!), or is aborted when `run` returns: a task that holds a connection
/// keeps that connection open.
///
/// Only a stub's memory limits the number of its tasks. A stub that starts a task for each message
/// must see that the tasks end.
///
/// Call `spawn` from the stub's own code: from `run`, from `main`, or from another task. Elsewhere
/// the task does not start, and the handle answers [`Error::Closed`].
///
/// ```
/// use std::time::Duration;
///
/// use protostub_sdk::{Ignored, Result, Stub, keep_connected, log, spawn, time};
///
/// async fn main_function(stub: Stub, _: Ignored) -> Result<()> {
///     spawn(async {
///         let mut hourly = time::interval(Duration::from_secs(60 * 60));
///         loop {
///             hourly.tick().await;
///             log::info!("still here");
///         }
///     });
///     keep_connected(stub, run).await
/// }
///
/// async fn run(stub: Stub, _: Ignored) -> Result<()> {
///     stub.live();
///     loop {
///         let message = stub.next_message().await?;
///         stub.post(message.error_response(501, "nothing is implemented"))?;
///     }
/// }
///
/// protostub_sdk::export!(main: main_function);
/// # fn main() {}
/// ```
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
{
    let (sender, output) = oneshot::channel();
    let (task, abort) = future::abortable(future);
    guest::spawn(async move {
        if let Ok(output) = task.await {
            // The owner may have dropped the handle.
            let _ = sender.send(output);
        }
    });
    JoinHandle { output, abort }
}

/// The handle of a task that [`spawn`] started. Dropped, it leaves the task running.
///
/// It is a future of the task's output. To race it, poll `&mut handle`: the reference loses nothing
/// when it is dropped.
///
/// # Errors
/// [`Error::Closed`]: the task was aborted, or never started.
#[derive(Debug)]
pub struct JoinHandle<T> {
    output: oneshot::Receiver<T>,
    abort: AbortHandle,
}

impl<T> JoinHandle<T> {
    /// Stops the task the next time it would run, in the same call of the host. That drops the
    /// values of the task. A task that has ended keeps its output.
    pub fn abort(&self) {
        self.abort.abort();
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.output.poll_unpin(cx).map_err(|_| Error::Closed)
    }
}

impl<T> FusedFuture for JoinHandle<T> {
    fn is_terminated(&self) -> bool {
        self.output.is_terminated()
    }
}
