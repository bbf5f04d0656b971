use std::{
    collections::{BTreeSet, HashMap},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

use crate::{
    contract::{timers, types::Error},
    recorder::Entry,
    state::StubState,
};

/// Minimum time of a timer, so that a stub that always has one running still waits.
const MIN_AFTER: Duration = Duration::from_millis(1);
/// Maximum time of a timer.
const MAX_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// The timers of one instance. They expire in the order of their times, and of their handles at
/// equal times.
#[derive(Default)]
pub(crate) struct Timers {
    by_time: BTreeSet<(Instant, u32)>,
    by_handle: HashMap<u32, Instant>,
    /// Alarm that wakes the task. Made with the first timer, since most stubs have none.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Timers {
    fn start(&mut self, handle: u32, after: Duration) {
        let at = Instant::now() + after;
        self.by_time.insert((at, handle));
        self.by_handle.insert(handle, at);
    }

    fn cancel(&mut self, handle: u32) {
        if let Some(at) = self.by_handle.remove(&handle) {
            self.by_time.remove(&(at, handle));
        }
    }

    /// Returns the next timer that expired.
    pub(crate) fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<u32> {
        let Some(&(at, handle)) = self.by_time.first() else { return Poll::Pending };
        if at > Instant::now() {
            let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(at)));
            if alarm.deadline() != at {
                alarm.as_mut().reset(at);
            }
            if alarm.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
        self.cancel(handle);
        Poll::Ready(handle)
    }
}

impl StubState {
    fn start_timer(&mut self, milliseconds: u64) -> Result<u32, Error> {
        let limit = self.config.limits.timers;
        if self.timers.by_handle.len() >= limit {
            self.count_limit("timers");
            return Err(Error::Limit(format!("{limit} timers are running, which is the limit; cancel one first")));
        }
        let handle = self.handles.next()?;
        self.timers.start(handle, Duration::from_millis(milliseconds).clamp(MIN_AFTER, MAX_AFTER));
        Ok(handle)
    }
}

impl timers::Host for StubState {
    fn after(&mut self, milliseconds: u64) -> Result<u32, Error> {
        let started = self.start_timer(milliseconds);
        self.record(&Entry::call("timers.after").opened(&started));
        started
    }

    fn cancel(&mut self, timer: u32) {
        self.record(&Entry::call("timers.cancel").handle(timer));
        self.timers.cancel(timer);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn timers_run_out_in_order_and_not_once_cancelled() {
        let mut timers = Timers::default();
        for (handle, ms) in [(1, 30), (2, 10), (3, 20), (4, 10)] {
            timers.start(handle, Duration::from_millis(ms));
        }
        timers.cancel(3);
        let mut order = Vec::new();
        for _ in 0..3 {
            order.push(poll_fn(|cx| timers.poll_expired(cx)).await);
        }
        assert_eq!(order, [2, 4, 1]);
        assert!(timers.by_handle.is_empty() && timers.by_time.is_empty());
    }
}
