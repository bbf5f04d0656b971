//! Turns of deployments on the library's threads.
//!
//! A deployment computes only during its turn, and most turns take some ten microseconds. A
//! deployment that waits for the network, the disk or the compiler has no turn. However many stubs
//! are deployed at once, messages therefore find a free thread, and slow servers keep no other
//! deployment waiting.

use std::{
    future::{Future, poll_fn},
    mem,
    pin::pin,
    sync::atomic::{AtomicUsize, Ordering},
    task::Poll,
};

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    task::yield_now,
};

/// The turns of all deployments of a runtime.
#[derive(Debug)]
pub(crate) struct Turns {
    free: Semaphore,
    /// Number of turns at a time.
    most: usize,
    /// Number of deployments, with a turn or without.
    deployments: AtomicUsize,
}

impl Turns {
    /// Returns the turns for a runtime with this number of threads: half of them compute
    /// deployments at a time.
    pub(crate) fn new(threads: usize) -> Self {
        let most = (threads / 2).max(1);
        Self { free: Semaphore::new(most), most, deployments: AtomicUsize::new(0) }
    }

    /// Runs a deployment, each poll in a turn of its own. Deployments get turns in the order in
    /// which they ask.
    pub(crate) async fn run<T>(&self, deployment: impl Future<Output = T>) -> T {
        let _counted = Counted::new(&self.deployments);
        let mut deployment = pin!(deployment);
        loop {
            let turn = self.next().await;
            let polled = poll_fn(|cx| Poll::Ready(deployment.as_mut().poll(cx))).await;
            drop(turn);
            match polled {
                Poll::Ready(done) => return done,
                Poll::Pending => woken().await,
            }
        }
    }

    /// Waits for a turn. If there are more deployments than turns, the tasks that are ready to run
    /// go first, such as those of messages (`herd_p90_ms`). A single deployment waits for nothing
    /// (`deploy_warm_ms`).
    async fn next(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed.
        let turn = self.free.acquire().await.ok();
        if self.deployments.load(Ordering::Relaxed) > self.most {
            // With the turn: a deployment behind this one in the thread's queue has to wait too.
            yield_now().await;
        }
        turn
    }
}

/// Counts a deployment until it is dropped.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(deployments: &'a AtomicUsize) -> Self {
        deployments.fetch_add(1, Ordering::Relaxed);
        Self(deployments)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Waits until the task is woken.
async fn woken() {
    let mut was_polled = false;
    poll_fn(|_| if mem::replace(&mut was_polled, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, atomic::Ordering::SeqCst},
        task::Context,
    };

    use tokio::{
        sync::{Notify, mpsc},
        task::JoinSet,
    };

    use super::*;

    const DEPLOYMENTS: usize = 200;
    const POLLS: usize = 20;

    /// Deploys many stubs at once. Each poll calls `compute`, and all but the last are pending.
    fn herd(turns: &Arc<Turns>, compute: impl Fn() + Clone + Send + 'static) -> JoinSet<()> {
        let mut herd = JoinSet::new();
        for _ in 0..DEPLOYMENTS {
            let (turns, compute, mut polls) = (Arc::clone(turns), compute.clone(), 0);
            let deployment = move |cx: &mut Context<'_>| {
                compute();
                polls += 1;
                cx.waker().wake_by_ref();
                if polls < POLLS { Poll::Pending } else { Poll::Ready(()) }
            };
            herd.spawn(async move { turns.run(poll_fn(deployment)).await });
        }
        herd
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn half_of_the_threads_compute_deployments() {
        let (computing, most, polls) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        let counts = Arc::new((computing, most, polls));
        let compute = {
            let counts = Arc::clone(&counts);
            move || {
                let (computing, most, polls) = &*counts;
                most.fetch_max(computing.fetch_add(1, SeqCst) + 1, SeqCst);
                // Another thread gets the processor, also if there is only one.
                std::thread::yield_now();
                computing.fetch_sub(1, SeqCst);
                polls.fetch_add(1, SeqCst);
            }
        };
        herd(&Arc::new(Turns::new(4)), compute).join_all().await;
        assert_eq!((counts.1.load(SeqCst), counts.2.load(SeqCst)), (2, DEPLOYMENTS * POLLS));
    }

    #[tokio::test]
    async fn message_waits_for_one_turn_of_a_herd() {
        let polls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&polls);
        let mut herd = herd(&Arc::new(Turns::new(1)), move || {
            counted.fetch_add(1, SeqCst);
        });
        // An echo and its caller, as tasks of messages: each wakes the other.
        let (post, mut inbox) = mpsc::channel::<Arc<Notify>>(1);
        let echo = tokio::spawn(async move {
            while let Some(answer) = inbox.recv().await {
                answer.notify_one();
            }
        });
        let mut longest = 0;
        for _ in 0..100 {
            let (answer, before) = (Arc::new(Notify::new()), polls.load(SeqCst));
            post.send(Arc::clone(&answer)).await.expect("the echo runs");
            answer.notified().await;
            longest = longest.max(polls.load(SeqCst) - before);
        }
        assert!(!herd.is_empty() && herd.try_join_next().is_none(), "the herd ended before the messages");
        // The caller and the echo wait for a turn each.
        assert!(longest <= 2, "a trip waited for {longest} turns");
        drop((post, echo));
        herd.join_all().await;
        assert_eq!(polls.load(SeqCst), DEPLOYMENTS * POLLS);
    }

    #[test]
    fn single_deployment_takes_its_turns_at_once() {
        let turns = Turns::new(1);
        let mut deployment = pin!(turns.run(async { 7 }));
        let mut context = Context::from_waker(std::task::Waker::noop());
        assert_eq!(deployment.as_mut().poll(&mut context), Poll::Ready(7));
    }
}
