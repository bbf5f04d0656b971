//! Time, on the host's timers, because a stub has no thread that could sleep. At most 256 timers at
//! a time.

use std::{
    future::Future,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures_util::future::{self, Either, FusedFuture};

use crate::{Error, Result, guest::Handle, host};

/// The longest duration of one timer of the host.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Returns the time since a fixed moment before. It never goes back.
#[must_use]
pub fn now() -> Duration {
    host::now()
}

/// Waits for `duration`.
pub fn sleep(duration: Duration) -> Sleep {
    Sleep { until: now().saturating_add(duration), timer: None, done: false }
}

/// Waits for the future, at most for `duration`. A timeout drops the future.
///
/// # Errors
/// [`Error::Timeout`].
pub async fn timeout<F: Future>(duration: Duration, future: F) -> Result<F::Output> {
    match future::select(pin!(future), sleep(duration)).await {
        Either::Left((output, _)) => Ok(output),
        Either::Right(_) => Err(Error::Timeout),
    }
}

/// The future of [`sleep`]. Dropped, it cancels its timer.
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub struct Sleep {
    until: Duration,
    timer: Option<Timer>,
    done: bool,
}

#[derive(Debug)]
struct Timer(Handle);

impl Drop for Timer {
    fn drop(&mut self) {
        if !self.0.has_news() {
            host::timer_cancel(self.0.id());
        }
    }
}

impl Future for Sleep {
    type Output = ();

    /// # Panics
    /// If the host has no timer left. A stub that cannot wait is better restarted.
    #[expect(clippy::panic, reason = "documented: more than 256 timers are a bug of the stub")]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.timer.as_ref().is_some_and(|timer| timer.0.has_news()) {
            self.timer = None;
            // A timer of the host has a longest duration: the rest needs another timer.
            if now() >= self.until {
                self.done = true;
                return Poll::Ready(());
            }
        }
        if self.timer.is_none() {
            let left = self.until.saturating_sub(now()).min(LONGEST);
            // The host counts in milliseconds, and a sleep is never shorter than its duration.
            let milliseconds = left.as_nanos().div_ceil(1_000_000);
            match host::timer_after(u64::try_from(milliseconds).unwrap_or(u64::MAX)) {
                Ok(handle) => self.timer = Some(Timer(Handle::new(handle))),
                Err(error) => panic!("the host set no timer: {error}"),
            }
        }
        match &self.timer {
            Some(timer) => timer.0.poll(cx.waker(), |_| Ok(None)).map(|_: Result<()>| ()),
            None => Poll::Pending,
        }
    }
}

impl FusedFuture for Sleep {
    fn is_terminated(&self) -> bool {
        self.done
    }
}

/// A sequence of ticks with a fixed period.
#[derive(Debug)]
pub struct Interval {
    period: Duration,
    next: Duration,
}

/// Makes an interval that ticks every `period`, for the first time after `period`. It skips ticks
/// that the stub did not wait for.
///
/// # Panics
/// If `period` is less than a millisecond.
#[must_use]
pub fn interval(period: Duration) -> Interval {
    assert!(period >= Duration::from_millis(1), "the interval is {period:?}; it must be at least 1 ms");
    Interval { period, next: now().saturating_add(period) }
}

impl Interval {
    /// Waits for the next tick. The future loses nothing when it is dropped before.
    pub fn tick(&mut self) -> Sleep {
        if let Some(late) = now().checked_sub(self.next) {
            let missed = late.as_nanos() / self.period.as_nanos() + 1;
            self.next = self.next.saturating_add(self.period.saturating_mul(u32::try_from(missed).unwrap_or(u32::MAX)));
        }
        Sleep { until: self.next, timer: None, done: false }
    }
}

/// Growing delays between attempts: 1 s at first, then doubled each time, at most a minute. Each
/// delay is extended by up to as much again at random, so clients that lost the same server do not
/// all come back at once.
#[derive(Debug)]
pub struct Backoff {
    shortest: Duration,
    longest: Duration,
    /// Made for the first delay, because most connections hold and the random seed is a call of the
    /// host.
    delays: Option<ExponentialBackoff>,
}

impl Backoff {
    /// Makes delays that begin with `shortest` and never exceed twice `longest`.
    #[must_use]
    pub fn new(shortest: Duration, longest: Duration) -> Self {
        Self { shortest, longest, delays: None }
    }

    /// Returns the next delay.
    pub fn next_delay(&mut self) -> Duration {
        let Self { shortest, longest, delays } = self;
        let delays = delays.get_or_insert_with(|| {
            ExponentialBuilder::new()
                .with_min_delay(*shortest)
                .with_max_delay(*longest)
                .with_jitter()
                .with_jitter_seed(fastrand::u64(..))
                .without_max_times()
                .build()
        });
        delays.next().unwrap_or(*longest)
    }

    /// Waits for the next delay.
    pub fn sleep(&mut self) -> Sleep {
        sleep(self.next_delay())
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new(Duration::from_secs(1), Duration::from_secs(60))
    }
}
