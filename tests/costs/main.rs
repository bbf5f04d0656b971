//! Counts the costs of a message: memory allocations, and wake-ups of the receiver. Neither depends
//! on the machine's speed.
//!
//! The allocations of the whole process are counted. So this is a program of its own, with one
//! test.

use std::{
    alloc::System,
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use protostub_runtime::{Body, Hyperty, Limits, Message, Runtime};
use protostub_test_support::{component, source};
use serde_json::Value;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, Stats, StatsAlloc};
use tokio::sync::{Mutex, oneshot};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Number of messages in one count.
const COUNTED: u32 = 1024;
/// Number of counts. The process's other occasional work adds to some counts, so the least count is
/// the cost of the messages.
const TIMES: usize = 10;
/// Time limit of all counts.
const PATIENCE: Duration = Duration::from_secs(120);
/// Number of messages in flight together: four times as many as one call of a stub takes.
const TOGETHER: u32 = 4 * 64;

/// Ways to send the messages.
#[derive(Debug, Clone, Copy)]
enum How {
    Alone,
    Together,
}

/// A runtime with an echo, and a listener.
struct Stage {
    runtime: Runtime,
    listener: Arc<Mutex<Hyperty>>,
}

/// Costs per message.
#[derive(Debug)]
struct Costs {
    allocations: f64,
    /// Wake-ups of the listener's task. One wake-up serves all messages that have arrived.
    wakes: f64,
}

impl Stage {
    async fn new() -> Self {
        let source = source(&["sp1.example"], &component("batched-echo"), &Value::Null);
        let mut limits = Limits::default();
        // Removes the rate limits: their effect is not a cost of the message.
        (limits.posts_per_second, limits.cpu_per_second) = (u32::MAX, Duration::from_secs(3600));
        // With one thread, the order of tasks does not depend on their speed.
        let builder = Runtime::builder().home_domain("home.example").source(source).worker_threads(1).max_stubs(1);
        let runtime = builder.limits(limits).build().await.expect("a runtime");
        runtime.deploy_protostub("sp1.example").await.expect("a stub");
        let listener = runtime.register_hyperty("hyperty://home.example/app").await.expect("a hyperty");
        Self { runtime, listener: Arc::new(Mutex::new(listener)) }
    }

    /// Counts on the library's threads, as part of a host program that answers stubs would run.
    async fn costs(&self, how: How) -> Costs {
        let listener = Arc::clone(&self.listener);
        let (done, result) = oneshot::channel();
        self.runtime.spawn_inside(async move {
            let mut listener = listener.lock().await;
            let mut least = Costs { allocations: f64::MAX, wakes: f64::MAX };
            for _ in 0..TIMES {
                let region = Region::new(ALLOCATOR);
                let wakes = exchange(&mut listener, how).await;
                let Stats { allocations, reallocations, .. } = region.change();
                let each =
                    |count: usize| f64::from(u32::try_from(count).expect("the count fits into 32 bits")) / f64::from(COUNTED);
                least.allocations = least.allocations.min(each(allocations + reallocations));
                least.wakes = least.wakes.min(each(wakes));
            }
            // The caller waits for the result.
            let _ = done.send(least);
        });
        tokio::time::timeout(PATIENCE, result).await.expect("no message is lost").expect("it came to its end")
    }
}

/// Sends the messages and waits for the echoes. Returns the number of the listener's wake-ups.
async fn exchange(listener: &mut Hyperty, how: How) -> usize {
    let mut message = Message::update("hyperty://sp1.example/echo".parse().unwrap());
    message.body = Some(Body::Json(r#"{"text":"hello"}"#.into()));
    let wakes = poll_fn(|cx| Poll::Ready(Arc::new(Wakes { count: AtomicUsize::new(0), task: cx.waker().clone() }))).await;
    let waker = Waker::from(Arc::clone(&wakes));
    match how {
        How::Alone => {
            for _ in 0..COUNTED {
                listener.post(message.clone()).expect("it is accepted");
                let echo = woken_by(&waker, listener.recv()).await;
                assert_eq!(echo.expect("an echo").from, message.to);
            }
        }
        How::Together => {
            let mut echoes = Vec::new();
            for _ in 0..COUNTED / TOGETHER {
                for posted in listener.post_all((0..TOGETHER).map(|_| message.clone())) {
                    posted.expect("it is accepted");
                }
                let mut left = TOGETHER as usize;
                while left > 0 {
                    let came = woken_by(&waker, listener.recv_many(&mut echoes, left)).await;
                    assert!(came > 0, "the runtime has ended");
                    assert!(echoes.drain(..).all(|echo| echo.from == message.to), "not all are echoes");
                    left -= came;
                }
            }
        }
    }
    wakes.count.load(Ordering::Relaxed)
}

/// Polls a future with this waker until it completes.
async fn woken_by<T>(waker: &Waker, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    poll_fn(|_| future.as_mut().poll(&mut Context::from_waker(waker))).await
}

/// A waker that counts its uses and wakes the task.
struct Wakes {
    count: AtomicUsize,
    task: Waker,
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.task.wake_by_ref();
    }
}

#[tokio::test]
async fn message_costs_are_bounded() {
    let stage = Stage::new().await;
    let alone = stage.costs(How::Alone).await;
    assert!(alone.allocations <= 6.5 && alone.wakes <= 1.0, "one at a time: {alone:?}");
    let loaded = stage.costs(How::Together).await;
    assert!(loaded.allocations <= 4.5 && loaded.wakes <= 1.0 / 64.0, "together: {loaded:?}");
}
