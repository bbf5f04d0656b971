use std::{
    future::Future as _,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep};

use crate::TransportLimits;

/// The time that a connection may still take after the stub closed it, like `SO_LINGER` of a socket.
#[derive(Debug)]
pub(crate) struct Linger {
    /// Elapses when the peer neither takes more of the outbox nor ends the connection.
    idle: Pin<Box<Sleep>>,
    idle_limit: Duration,
    /// The latest end, however slowly the peer reads.
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

    /// The peer took something of the outbox.
    pub(crate) fn progress(&mut self, cx: &mut Context<'_>) {
        self.reset(cx, self.end);
    }

    /// Limits the rest to the time that the peer has for its answer.
    pub(crate) fn shorten(&mut self, cx: &mut Context<'_>) {
        self.end = self.end.min(Instant::now() + self.idle_limit);
        self.reset(cx, self.end);
    }

    /// Ready when the time has elapsed.
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

    /// After how many seconds it is over, if the other side takes something every `step`, and if the sandbox ends after so many of them.
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
    async fn the_other_side_has_its_time_and_no_more() {
        check(3 * SECOND, usize::MAX, 2).await;
        check(SECOND, usize::MAX, 10).await;
        check(SECOND / 100, usize::MAX, 10).await;
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_end_of_the_sandbox_it_has_less() {
        check(SECOND, 0, 2).await;
        check(SECOND, 5, 7).await;
    }
}
