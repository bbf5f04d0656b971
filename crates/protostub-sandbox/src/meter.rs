//! Measures how long a guest computes and how long its calls take, and gives it its turns.
//!
//! ```text
//!   poll of a call:   running ──► waiting for the host ──► woken: only runnable ──► running …
//!   computing time    counts                                                        counts
//!   time of the call  counts       counts                                           counts
//! ```
//!
//! The time of a call counts while the guest computes, or waits for the host. It does not count
//! while the guest is ready and others have their turn, or while the host makes it wait. So no call
//! times out because the machine is busy.

use std::{
    future::{Future, poll_fn},
    num::NonZero,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Wake, Waker, ready},
    thread,
    time::{Duration, Instant},
};

use futures_util::task::AtomicWaker;
use protostub_types::{TokenBucket, deadline};
use tokio::{
    sync::{Semaphore, oneshot},
    time::{Sleep, sleep_until},
};

use crate::call::Failure;

/// Number of ticks that a call computes without a pause. Other calls have a turn after each of
/// them.
const FREE_TICKS: u64 = 10;
/// Maximum pause after each further tick, in tenths of a tick: three ticks, which leave the call a
/// quarter of the time.
const LONGEST_PAUSE: u32 = 30;

/// The guest-call half of [`Meter`]: counts epoch ticks and requests pauses.
pub(crate) struct CpuBudget {
    tick: Duration,
    ticks: u64,
    ticks_per_call: u64,
    most_ticks: u64,
    link: Arc<CallLink>,
}

/// The state that a guest call shares with its [`Meter`].
pub(crate) struct CallLink {
    requested: Mutex<Option<CallRequest>>,
    /// The call was found computing more than once.
    is_long: AtomicBool,
    origin: Instant,
    /// Time of the last poll of the call, in nanoseconds since the origin.
    polled: AtomicU64,
}

/// A request of a call to its meter, made while the call is polled.
enum CallRequest {
    /// Polls the call again after this time.
    Pause(Duration),
    /// Runs a function, and polls the call again.
    Work(Box<dyn FnOnce() + Send>),
}

impl Default for CallLink {
    fn default() -> Self {
        Self { requested: Mutex::default(), is_long: AtomicBool::default(), origin: Instant::now(), polled: AtomicU64::new(0) }
    }
}

impl CallLink {
    fn ask(&self, what: CallRequest) {
        *self.requested.lock().unwrap_or_else(PoisonError::into_inner) = Some(what);
    }

    fn take_request(&self) -> Option<CallRequest> {
        self.requested.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn begin(&self, now: Instant) {
        self.polled.store(nanoseconds(now.saturating_duration_since(self.origin)), Ordering::Relaxed);
    }
}

impl CpuBudget {
    pub(crate) fn new(tick: Duration, ticks_per_call: u64, link: Arc<CallLink>) -> Self {
        Self { tick, ticks: 0, ticks_per_call, most_ticks: 0, link }
    }

    pub(crate) fn begin_call(&mut self) {
        self.ticks = 0;
        self.link.is_long.store(false, Ordering::Relaxed);
    }

    /// Returns the time for the guest's calls, to a tick. The meter reads the clock after each
    /// tick, and after the guest has waited. Reading it for each call of the host would take longer
    /// than some of these calls.
    pub(crate) fn now(&self) -> Instant {
        self.link.origin + Duration::from_nanos(self.link.polled.load(Ordering::Relaxed))
    }

    /// Returns the ticks of the call that took most.
    pub(crate) fn most_ticks(&self) -> u64 {
        self.most_ticks
    }

    /// Does work for a call of the host at once, but not on the guest's stack. A page of that stack
    /// that was touched once stays in memory as long as the instance (`idle_stub_kib`).
    pub(crate) async fn run_off_stack<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = oneshot::channel();
        self.link.ask(CallRequest::Work(Box::new(move || drop(done.send(work())))));
        result.await.expect("the meter does it before it polls the call again")
    }

    /// Counts a tick. Returns the future to wait for before the call may go on, or `None` if its
    /// time is over.
    pub(crate) fn tick(&mut self) -> Option<Pin<Box<dyn Future<Output = ()> + Send>>> {
        self.ticks += 1;
        self.most_ticks = self.most_ticks.max(self.ticks);
        // The first tick may come right after the call began.
        if self.ticks > self.ticks_per_call {
            return None;
        }
        self.link.is_long.store(self.ticks > 1, Ordering::Relaxed);
        Some(match pause(self.tick, self.ticks) {
            // Continues after all other tasks on this thread had a turn.
            Duration::ZERO => Box::pin(tokio::task::yield_now()),
            pause => Box::pin(paused(Arc::clone(&self.link), pause)),
        })
    }
}

/// Returns the pause after this tick of a call.
fn pause(tick: Duration, nth: u64) -> Duration {
    let over = u32::try_from(nth.saturating_sub(FREE_TICKS)).unwrap_or(u32::MAX);
    tick.saturating_mul(over.min(LONGEST_PAUSE)) / 10
}

/// Makes the permits of calls that compute for longer than a tick: one less than there are
/// processors, so one is always left for the other calls.
pub(crate) fn long_call_permits() -> Semaphore {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    Semaphore::new((processors - 1).clamp(1, Semaphore::MAX_PERMITS))
}

/// Asks the meter for a pause, and is polled again when that is over.
async fn paused(link: Arc<CallLink>, pause: Duration) {
    let mut requested = false;
    poll_fn(|_| {
        if requested {
            return Poll::Ready(());
        }
        requested = true;
        link.ask(CallRequest::Pause(pause));
        Poll::Pending
    })
    .await;
}

/// Measures the calls of one instance, and gives the instance its turns. Only the meter polls the
/// guest.
pub(crate) struct Meter {
    link: Arc<CallLink>,
    long_calls: Arc<Semaphore>,
    timed_waker: Arc<TimedWaker>,
    waker: Waker,
    /// Computing time, in nanoseconds.
    per_second: TokenBucket,
    /// Computing time since other tasks of the thread had a turn.
    since_turn: Duration,
    tick: Duration,
    /// Number of times that the instance waited because its computing time of a second was used up.
    throttled: u64,
}

/// The state of a call between two polls.
enum Suspension {
    /// The call waits for an answer of the host, since this time.
    Waiting(Instant),
    /// The host makes the call wait.
    Held,
}

impl Meter {
    pub(crate) fn new(tick: Duration, cpu_per_second: Duration, link: Arc<CallLink>, long_calls: Arc<Semaphore>) -> Self {
        let timed_waker = Arc::new(TimedWaker { origin: Instant::now(), woken: AtomicU64::new(0), task: AtomicWaker::new() });
        Self {
            link,
            long_calls,
            waker: Waker::from(Arc::clone(&timed_waker)),
            per_second: TokenBucket::new(nanoseconds(cpu_per_second), timed_waker.origin),
            timed_waker,
            since_turn: Duration::ZERO,
            tick,
            throttled: 0,
        }
    }

    /// Returns the number of times that the instance waited since the last call of this function.
    pub(crate) fn take_throttled(&mut self) -> u64 {
        std::mem::take(&mut self.throttled)
    }

    /// Gives other tasks of the thread a turn, if the instance has computed for a tick since they
    /// had one.
    pub(crate) async fn yield_if_due(&mut self) {
        if std::mem::take(&mut self.since_turn) >= self.tick {
            tokio::task::yield_now().await;
        }
    }

    /// Waits for a guest call that has begun just now, and may take `limit`.
    pub(crate) async fn run<T>(
        &mut self,
        began: Instant,
        limit: Duration,
        mut call: Pin<&mut impl Future<Output = wasmtime::Result<T>>>,
    ) -> Result<T, Failure> {
        // Made when the call first waits: few calls do.
        let mut alarm: Option<Pin<Box<Sleep>>> = None;
        let mut used = Duration::ZERO;
        let mut suspension = None;
        let mut first = Some(began);
        poll_fn(|cx| {
            let mut began = first.take().unwrap_or_else(Instant::now);
            match suspension.take() {
                Some(Suspension::Waiting(since)) => {
                    let until = self.timed_waker.take().map_or(began, |woken| woken.min(began));
                    used += until.saturating_duration_since(since);
                    if used >= limit {
                        return Poll::Ready(Err(Failure::TimedOut));
                    }
                }
                Some(Suspension::Held) if poll_alarm(&mut alarm, None, cx).is_pending() => {
                    suspension = Some(Suspension::Held);
                    return Poll::Pending;
                }
                Some(Suspension::Held) | None => {}
            }
            if let Some(wait) = self.per_second.wait(began) {
                self.throttled += 1;
                self.since_turn = Duration::ZERO;
                if poll_alarm(&mut alarm, Some(began + wait), cx).is_pending() {
                    suspension = Some(Suspension::Held);
                    return Poll::Pending;
                }
                began = Instant::now();
            }
            let is_long = self.link.is_long.load(Ordering::Relaxed);
            let permit = is_long.then(|| self.long_calls.try_acquire().ok()).flatten();
            if is_long && permit.is_none() {
                self.since_turn = Duration::ZERO;
                if poll_alarm(&mut alarm, Some(began + self.tick), cx).is_pending() {
                    suspension = Some(Suspension::Held);
                    return Poll::Pending;
                }
            }
            self.link.begin(began);
            let (polled, pause) = loop {
                self.timed_waker.forget();
                let polled = call.as_mut().poll(&mut Context::from_waker(&self.waker));
                match polled.is_pending().then(|| self.link.take_request()).flatten() {
                    Some(CallRequest::Work(work)) => work(),
                    Some(CallRequest::Pause(pause)) => break (polled, Some(pause)),
                    None => break (polled, None),
                }
            };
            drop(permit);
            let now = Instant::now();
            let busy = now.saturating_duration_since(began);
            used += busy;
            self.per_second.take(nanoseconds(busy), now);
            match polled {
                Poll::Ready(result) => {
                    self.since_turn += busy;
                    Poll::Ready(result.map_err(Failure::Guest))
                }
                Poll::Pending => {
                    self.since_turn = Duration::ZERO;
                    self.timed_waker.wakes(cx.waker());
                    let (end, state) = match pause {
                        Some(pause) => (deadline(now, pause), Suspension::Held),
                        None => (deadline(now, limit.saturating_sub(used)), Suspension::Waiting(now)),
                    };
                    suspension = Some(state);
                    if poll_alarm(&mut alarm, Some(end), cx).is_ready() {
                        cx.waker().wake_by_ref();
                    }
                    Poll::Pending
                }
            }
        })
        .await
    }
}

pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Sets the alarm to another time, if there is one. Ready when the alarm rings.
fn poll_alarm(alarm: &mut Option<Pin<Box<Sleep>>>, at: Option<Instant>, cx: &mut Context<'_>) -> Poll<()> {
    if let Some(at) = at.map(tokio::time::Instant::from_std) {
        match alarm {
            Some(alarm) => alarm.as_mut().reset(at),
            None => *alarm = Some(Box::pin(sleep_until(at))),
        }
    }
    match alarm {
        Some(alarm) => {
            ready!(alarm.as_mut().poll(cx));
            Poll::Ready(())
        }
        None => Poll::Ready(()),
    }
}

/// The waker of a call. It records the time of the first wake-up and wakes the task.
struct TimedWaker {
    origin: Instant,
    /// Time of the first wake-up, in nanoseconds since the origin; 0 without a wake-up.
    woken: AtomicU64,
    task: AtomicWaker,
}

impl TimedWaker {
    /// Sets the task that is woken from now on. Wakes the task at once if the call was woken since
    /// [`Self::forget`]. Most calls return when they are first polled, and never wait.
    fn wakes(&self, task: &Waker) {
        self.task.register(task);
        if self.woken.load(Ordering::Acquire) > 0 {
            task.wake_by_ref();
        }
    }

    /// Forgets a wake-up before the poll that it asked for.
    fn forget(&self) {
        if self.woken.load(Ordering::Relaxed) > 0 {
            self.take();
        }
    }

    /// Returns the time of the first wake-up since the last call of this function.
    fn take(&self) -> Option<Instant> {
        let woken = self.woken.swap(0, Ordering::AcqRel);
        (woken > 0).then(|| self.origin + Duration::from_nanos(woken))
    }
}

impl Wake for TimedWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let now = nanoseconds(self.origin.elapsed()).max(1);
        let _ = self.woken.compare_exchange(0, now, Ordering::AcqRel, Ordering::Acquire);
        self.task.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::sync::oneshot;

    use super::*;

    const TICK: Duration = Duration::from_millis(5);

    fn meter(cpu_per_second: Duration) -> Meter {
        Meter::new(TICK, cpu_per_second, Arc::default(), Arc::new(long_call_permits()))
    }

    #[test]
    fn pauses_begin_after_the_first_ticks_and_grow() {
        let pauses: Vec<_> = [1, 10, 11, 20, 30, 40, 41, 1_000].map(|nth| pause(TICK, nth).as_micros()).into();
        assert_eq!(pauses, [0, 0, 500, 5_000, 10_000, 15_000, 15_000, 15_000]);
    }

    #[tokio::test]
    async fn long_call_waits_for_a_permit() {
        let (link, long_calls) = (Arc::<CallLink>::default(), Arc::new(Semaphore::new(1)));
        let mut meter = Meter::new(TICK, Duration::from_secs(1), Arc::clone(&link), Arc::clone(&long_calls));
        let taken = long_calls.try_acquire().unwrap();
        let run = |meter: &mut Meter| {
            let call = pin!(async { Ok(()) });
            futures_util::FutureExt::now_or_never(meter.run(Instant::now(), Duration::from_secs(1), call)).is_some()
        };
        assert!(run(&mut meter), "it has just begun");
        link.is_long.store(true, Ordering::Relaxed);
        assert!(!run(&mut meter), "others have all permits");
        drop(taken);
        assert!(run(&mut meter));
        assert_eq!(long_calls.available_permits(), 1);
    }

    #[tokio::test]
    async fn call_time_counts_waiting_but_not_the_turns_of_others() {
        let mut meter = meter(Duration::from_secs(1));
        let limit = Duration::from_millis(50);
        let waiting = meter.run(Instant::now(), limit, pin!(std::future::pending::<wasmtime::Result<()>>())).await;
        assert!(matches!(waiting, Err(Failure::TimedOut)));

        // The answer comes at once, but another task has the thread for longer than the limit.
        let (answer, answered) = oneshot::channel();
        let others = tokio::spawn(async move {
            let _ = answer.send(());
            std::thread::sleep(2 * limit);
        });
        let answer = pin!(async move {
            answered.await.map_err(|_| wasmtime::Error::msg("no answer"))?;
            Ok(())
        });
        assert!(meter.run(Instant::now(), limit, answer).await.is_ok());
        others.await.unwrap();
    }

    #[tokio::test]
    async fn call_woken_during_its_poll_is_polled_again() {
        struct Task(AtomicBool);
        impl Wake for Task {
            fn wake(self: Arc<Self>) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let mut meter = meter(Duration::from_secs(1));
        for _ in 0..2 {
            let mut has_waited = false;
            let call = pin!(poll_fn(|cx| {
                if std::mem::replace(&mut has_waited, true) {
                    return Poll::Ready(Ok(()));
                }
                cx.waker().wake_by_ref();
                Poll::Pending
            }));
            let task = Arc::new(Task(AtomicBool::new(false)));
            let waker = Waker::from(Arc::clone(&task));
            let mut run = pin!(meter.run(Instant::now(), Duration::from_secs(1), call));
            assert!(run.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            assert!(task.0.load(Ordering::Relaxed));
            assert!(run.as_mut().poll(&mut Context::from_waker(&waker)).is_ready());
        }
    }

    #[tokio::test]
    async fn off_stack_work_runs_at_once_outside_the_poll() {
        let link = Arc::<CallLink>::default();
        let mut meter = Meter::new(TICK, Duration::from_secs(1), Arc::clone(&link), Arc::new(long_call_permits()));
        let budget = CpuBudget::new(TICK, 100, link);
        let is_polled = Arc::new(AtomicBool::new(false));
        let call = async {
            for n in 0..3 {
                let is_polled = Arc::clone(&is_polled);
                assert_eq!(budget.run_off_stack(move || (n, is_polled.load(Ordering::Relaxed))).await, (n, false));
            }
            Ok(())
        };
        let mut call = pin!(call);
        let watched = pin!(poll_fn(|cx| {
            is_polled.store(true, Ordering::Relaxed);
            let polled = call.as_mut().poll(cx);
            is_polled.store(false, Ordering::Relaxed);
            polled
        }));
        let run = futures_util::FutureExt::now_or_never(meter.run(Instant::now(), Duration::from_secs(1), watched));
        assert!(run.expect("the call never waits").is_ok());
    }

    #[tokio::test]
    async fn a_pause_is_kept_and_does_not_count() {
        let link = Arc::<CallLink>::default();
        let mut meter = Meter::new(TICK, Duration::from_secs(1), Arc::clone(&link), Arc::new(long_call_permits()));
        let begun = Instant::now();
        let call = pin!(async {
            for _ in 0..10 {
                paused(Arc::clone(&link), Duration::from_millis(10)).await;
            }
            Ok(())
        });
        assert!(meter.run(Instant::now(), Duration::from_millis(30), call).await.is_ok());
        assert!(begun.elapsed() >= Duration::from_millis(100), "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn cpu_per_second_limit_throttles() {
        let mut meter = meter(Duration::from_millis(40));
        let begun = Instant::now();
        for _ in 0..6 {
            let call = pin!(async {
                std::thread::sleep(Duration::from_millis(10));
                Ok(())
            });
            assert!(meter.run(Instant::now(), Duration::from_secs(10), call).await.is_ok());
        }
        // 50 ms before the last call are 10 over the limit, which come back in a quarter of a
        // second.
        assert!(begun.elapsed() >= Duration::from_millis(250), "{:?}", begun.elapsed());
        assert!(meter.take_throttled() >= 1);
    }
}
