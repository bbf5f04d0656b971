use std::{
    future::Future as _,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep};

use crate::TransportLimits;

/// The time limit of a connection after the stub closed it, like `SO_LINGER` of a socket.
#[derive(Debug)]
pub(crate) struct Linger {
    /// Elapses when the peer neither accepts more of the outbox nor ends the connection.
    idle: Pin<Box<Sleep>>,
    idle_limit: Duration,
    /// The latest end, no matter how slowly the peer reads.
    end: Instant,
}

impl Linger {
    pub(crate) fn new(limits: &TransportLimits) -> Self {
        Self {
            idle: Box::pin(sleep(limits.close_timeout)),
            idle_limit: limits.close_timeout,
            end: Instant::now() + limits.flush_timeout,
        }
    }

    /// Records that the peer accepted a part of the outbox.
    pub(crate) fn progress(&mut self, cx: &mut Context<'_>) {
        self.reset(cx, self.end);
    }

    /// Limits the rest to the peer's time to answer.
    pub(crate) fn shorten(&mut self, cx: &mut Context<'_>) {
        self.end = self.end.min(Instant::now() + self.idle_limit);
        self.reset(cx, self.end);
    }

    /// Ready when the time limit has elapsed.
    pub(crate) fn poll_elapsed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.idle.as_mut().poll(cx)
    }

    fn reset(&mut self, cx: &mut Context<'_>, end: Instant) {
        self.idle.as_mut().reset(end.min(Instant::now() + self.idle_limit));
        if self.poll_elapsed(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, task::Waker};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Checks after how many seconds the closing ends. The peer accepts a part every `step`, and
    /// the sandbox ends after `sandbox_ends_after` steps.
    async fn check(step: Duration, sandbox_ends_after: usize, expected_seconds: u64) {
        let start = Instant::now();
        let mut linger = Linger::new(&TransportLimits::default());
        for steps in 1.. {
            if steps > sandbox_ends_after {
                linger.shorten(&mut Context::from_waker(Waker::noop()));
            }
            if tokio::time::timeout(step, poll_fn(|cx| linger.poll_elapsed(cx))).await.is_ok() {
                break;
            }
            linger.progress(&mut Context::from_waker(Waker::noop()));
        }
        assert_eq!(start.elapsed().as_secs(), expected_seconds);
    }

    #[tokio::test(start_paused = true)]
    async fn linger_is_limited() {
        check(3 * SECOND, usize::MAX, 2).await;
        check(SECOND, usize::MAX, 10).await;
        check(SECOND / 100, usize::MAX, 10).await;
    }

    #[tokio::test(start_paused = true)]
    async fn sandbox_end_shortens_linger() {
        check(SECOND, 0, 2).await;
        check(SECOND, 5, 7).await;
    }
}
