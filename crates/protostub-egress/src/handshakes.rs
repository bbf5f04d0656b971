//! TLS handshakes, on dedicated threads.
//!
//! Verifying certificates costs milliseconds of computing time, and the server's chain decides how
//! many. The runtime's workers have other work, so each poll of a handshake happens here.
//!
//! Parties take turns, poll by poll, and a party has one poll at a time. A party waits for its turn
//! no longer than one poll of each other party takes.

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread,
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use crate::quota::Party;

/// Time after which a thread without work ends.
const IDLE: Duration = Duration::from_secs(10);
/// Maximum number of threads, independent of the number of processors.
const MAX_THREADS: usize = 4;

/// The threads. They start with the first handshake and end after a while without one. Clones share
/// the threads.
#[derive(Clone, Debug)]
pub(crate) struct Handshakes(Arc<Pool>);

#[derive(Debug)]
struct Pool {
    state: Mutex<State>,
    /// Notified when a party has a turn, or no task is left.
    news: Condvar,
    max_threads: usize,
}

#[derive(Debug, Default)]
struct State {
    /// The parties with tasks to poll, in the order of their turns. The queue excludes parties that
    /// are being polled.
    turns: VecDeque<Party>,
    /// The tasks to poll, for each party that has tasks.
    queues: HashMap<Party, Queue>,
    threads: usize,
    /// Number of threads that wait for news.
    idle: usize,
}

#[derive(Debug, Default)]
struct Queue {
    woken: VecDeque<Arc<Task>>,
    is_polled: bool,
    /// All tasks of the party, woken or not.
    tasks: usize,
}

struct Task {
    party: Party,
    pool: Arc<Pool>,
    /// The task is in its party's queue.
    is_queued: AtomicBool,
    /// `None` after the end.
    future: Mutex<Option<BoxFuture<'static, ()>>>,
}

impl Handshakes {
    /// Creates the pool without starting a thread. The limit is one thread for two processors.
    pub(crate) fn new() -> Self {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let max_threads = (processors / 2).clamp(1, MAX_THREADS);
        Self(Arc::new(Pool { state: Mutex::default(), news: Condvar::new(), max_threads }))
    }

    /// Polls a future on the threads, in the turns of its party. Dropping the returned future drops
    /// the given one in its next turn.
    ///
    /// # Errors
    /// If no thread can be started, or the future panics.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        party: Party,
        future: impl Future<Output = T> + Send + 'static,
    ) -> io::Result<T> {
        let (mut done, outcome) = oneshot::channel();
        let task = async move {
            tokio::select! {
                biased;
                () = done.closed() => return,
                output = future => done.send(output).ok(),
            };
        };
        self.0.start(party, Box::pin(task))?;
        outcome.await.map_err(|_| io::Error::other("the TLS handshake ended unexpectedly"))
    }
}

impl Pool {
    fn state(&self) -> MutexGuard<'_, State> {
        // The state is consistent after each of the methods below, and none of them calls code that
        // panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(self: &Arc<Self>, party: Party, future: BoxFuture<'static, ()>) -> io::Result<()> {
        let mut state = self.state();
        if state.idle == 0 && state.threads < self.max_threads {
            let pool = Arc::clone(self);
            let started = thread::Builder::new().name("protostub-tls".to_owned()).spawn(move || pool.work());
            match started {
                Ok(_) => state.threads += 1,
                // The existing threads do the work.
                Err(_) if state.threads > 0 => {}
                Err(error) => return Err(error),
            }
        }
        state.queues.entry(party).or_default().tasks += 1;
        drop(state);
        let task = Task { party, pool: Arc::clone(self), is_queued: AtomicBool::new(false), future: Mutex::new(Some(future)) };
        Arc::new(task).wake();
        Ok(())
    }

    /// Runs a thread until it has been idle for a while.
    fn work(&self) {
        let mut state = self.state();
        loop {
            let Some(task) = state.next() else {
                state.idle += 1;
                let (woken, timeout) = self.news.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
                state = woken;
                state.idle -= 1;
                if timeout.timed_out() && state.queues.is_empty() {
                    state.threads -= 1;
                    return;
                }
                continue;
            };
            drop(state);
            let polled = task.poll();
            state = self.state();
            state.finish_turn(task.party, polled);
            if state.turns.len() > 1 {
                // This thread takes one of the turns.
                self.news.notify_one();
            }
        }
    }
}

impl State {
    /// The task whose turn it is. Its party gets no other turn until
    /// [`finish_turn`](Self::finish_turn).
    fn next(&mut self) -> Option<Arc<Task>> {
        let party = self.turns.pop_front()?;
        let queue = self.queues.get_mut(&party)?;
        queue.is_polled = true;
        queue.woken.pop_front()
    }

    fn woken(&mut self, task: Arc<Task>) {
        let Some(queue) = self.queues.get_mut(&task.party) else { return };
        if queue.woken.is_empty() && !queue.is_polled {
            self.turns.push_back(task.party);
        }
        queue.woken.push_back(task);
    }

    fn finish_turn(&mut self, party: Party, polled: Poll<()>) {
        let Some(queue) = self.queues.get_mut(&party) else { return };
        queue.is_polled = false;
        queue.tasks -= usize::from(polled.is_ready());
        if !queue.woken.is_empty() {
            self.turns.push_back(party);
        } else if queue.tasks == 0 {
            self.queues.remove(&party);
        }
    }
}

impl Task {
    /// Polls the future once. A future that panics counts as ready.
    fn poll(self: &Arc<Self>) -> Poll<()> {
        self.is_queued.store(false, Ordering::SeqCst);
        let waker = Waker::from(Arc::clone(self));
        let mut future = self.future.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(running) = future.as_mut() else { return Poll::Pending };
        let polled = catch_unwind(AssertUnwindSafe(|| running.as_mut().poll(&mut Context::from_waker(&waker))));
        if matches!(polled, Ok(Poll::Pending)) {
            return Poll::Pending;
        }
        // After a panic too: the caller finds that its channel is closed.
        let _ = catch_unwind(AssertUnwindSafe(|| *future = None));
        Poll::Ready(())
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        if !self.is_queued.swap(true, Ordering::SeqCst) {
            let pool = Arc::clone(&self.pool);
            pool.state().woken(self);
            pool.news.notify_one();
        }
    }
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task").field("party", &self.party).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::quota::{Budget, Quota, QuotaLimits};

    fn single_thread() -> Handshakes {
        Handshakes(Arc::new(Pool { state: Mutex::default(), news: Condvar::new(), max_threads: 1 }))
    }

    fn quotas<const N: usize>() -> [Quota; N] {
        let budget = Budget::new(100);
        std::array::from_fn(|_| Quota::new(&budget, QuotaLimits::default()))
    }

    #[tokio::test]
    async fn handshake_runs_on_its_own_thread() {
        let [quota] = quotas();
        let name = single_thread().run(quota.party(), async { thread::current().name().map(str::to_owned) }).await;
        assert_eq!(name.unwrap().as_deref(), Some("protostub-tls"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn parties_take_turns() {
        let handshakes = single_thread();
        let [gate, many, one] = quotas();
        let (open, opened) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let mut tasks = tokio::task::JoinSet::new();
        let mut start = |quota: &Quota, name: &'static str, wait: Option<mpsc::Receiver<()>>| {
            let (handshakes, party, tell) = (handshakes.clone(), quota.party(), tell.clone());
            let work = async move {
                wait.map(|wait| wait.recv());
                tell.send(name).unwrap();
            };
            tasks.spawn(async move { handshakes.run(party, work).await });
        };
        // The gate blocks the thread until all tasks are queued.
        start(&gate, "gate", Some(opened));
        while handshakes.0.state().queues.get(&gate.party()).is_none_or(|queue| !queue.is_polled) {
            tokio::task::yield_now().await;
        }
        (0..20).for_each(|_| start(&many, "many", None));
        while handshakes.0.state().queues.get(&many.party()).is_none_or(|queue| queue.woken.len() < 20) {
            tokio::task::yield_now().await;
        }
        start(&one, "one", None);
        while !handshakes.0.state().turns.contains(&one.party()) {
            tokio::task::yield_now().await;
        }
        open.send(()).unwrap();
        while let Some(done) = tasks.join_next().await {
            done.unwrap().unwrap();
        }
        let order: Vec<_> = told.try_iter().collect();
        assert_eq!(order[..3], ["gate", "many", "one"], "{order:?}");
        // The thread removes the last queue after the result of the task has arrived.
        while !handshakes.0.state().queues.is_empty() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn dropped_handshake_is_dropped_on_its_thread() {
        let (held, dropped) = oneshot::channel::<()>();
        let handshakes = single_thread();
        let [quota] = quotas();
        let endless = async move {
            let _held = held;
            std::future::pending::<()>().await;
        };
        let mut running = Box::pin(handshakes.run(quota.party(), endless));
        assert!(futures_util::poll!(&mut running).is_pending());
        drop(running);
        assert!(dropped.await.is_err());
    }

    #[tokio::test]
    async fn panic_fails_one_handshake_only() {
        let handshakes = single_thread();
        let [quota] = quotas();
        let error = handshakes.run::<()>(quota.party(), async { panic!("a bug") }).await.unwrap_err();
        assert_eq!(error.to_string(), "the TLS handshake ended unexpectedly");
        assert_eq!(handshakes.run(quota.party(), async { 7 }).await.unwrap(), 7);
    }
}
