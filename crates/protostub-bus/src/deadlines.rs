use std::{
    collections::BTreeMap,
    mem,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use tokio::{sync::Notify, time::sleep_until};

use crate::{Clock, mailbox::WeakMailbox, request_key::RequestKey};

/// Number of shards of the table. Requests on many threads seldom contend for a lock.
const SHARDS: usize = 16;

/// Value of `earliest` while the sweeper waits for no deadline, or while it scans.
const NEVER: u64 = u64::MAX;

/// An item to check at its deadline.
#[derive(Debug)]
pub(crate) enum Due {
    /// A request that may still be open.
    Request(RequestKey),
    /// A mailbox whose oldest message may still wait.
    Mailbox(WeakMailbox),
}

/// Deadlines of requests and mailboxes. Any thread adds and cancels; one future waits
/// ([`Self::next`]).
#[derive(Debug)]
pub(crate) struct Deadlines {
    clock: Clock,
    began: Instant,
    shards: [Mutex<BTreeMap<(Instant, u64), Due>>; SHARDS],
    /// Time that the sweeper sleeps until, in nanoseconds since `began`.
    earliest: AtomicU64,
    wake: Notify,
}

impl Deadlines {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            clock,
            began: clock.now(),
            shards: std::array::from_fn(|_| Mutex::default()),
            earliest: AtomicU64::new(NEVER),
            wake: Notify::new(),
        }
    }

    /// Adds a deadline. `number` distinguishes items with the same instant.
    pub(crate) fn add(&self, at: Instant, number: u64, due: Due) {
        self.shard(number).insert((at, number), due);
        let at = self.nanoseconds(at);
        // The sweeper stores `NEVER` before it scans. Reading an older value here therefore means
        // that the sweeper has not scanned this shard yet, and will find the new item.
        if at < self.earliest.load(SeqCst) && at < self.earliest.fetch_min(at, SeqCst) {
            self.wake.notify_one();
        }
    }

    pub(crate) fn cancel(&self, at: Instant, number: u64) {
        self.shard(number).remove(&(at, number));
    }

    /// Waits until items are due, and takes them out with their numbers. Only one future may wait
    /// at a time.
    pub(crate) async fn next(&self) -> Vec<(u64, Due)> {
        loop {
            self.earliest.store(NEVER, SeqCst);
            let now = self.clock.now();
            let mut all_due = Vec::new();
            let mut next = None;
            for shard in 0..SHARDS {
                let mut shard = self.shard(shard as u64);
                if shard.first_key_value().is_some_and(|(&(at, _), _)| at <= now) {
                    // Splits off everything up to and including this instant.
                    let later = shard.split_off(&(now, u64::MAX));
                    all_due.extend(mem::replace(&mut *shard, later).into_iter().map(|((_, number), due)| (number, due)));
                }
                let first = shard.first_key_value().map(|(&(at, _), _)| at);
                next = [next, first].into_iter().flatten().min();
            }
            if !all_due.is_empty() {
                return all_due;
            }
            let Some(next) = next else {
                self.wake.notified().await;
                continue;
            };
            self.earliest.fetch_min(self.nanoseconds(next), SeqCst);
            tokio::select! {
                () = sleep_until(next.into()) => {}
                () = self.wake.notified() => {}
            }
        }
    }

    fn shard(&self, number: u64) -> MutexGuard<'_, BTreeMap<(Instant, u64), Due>> {
        // Safe to ignore the poison: a map is consistent after every call on it.
        self.shards[number as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn nanoseconds(&self, at: Instant) -> u64 {
        at.checked_duration_since(self.began).unwrap_or(Duration::ZERO).as_nanos().try_into().unwrap_or(NEVER - 1)
    }
}
