use std::{
    cell::Cell,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

/// Counts of the bus since its creation.
///
/// Accepted messages that are not responses have exactly one outcome. Whenever no call is in
/// progress,
///
/// ```text
/// accepted == delivered + published + answered + failed + abandoned + open + queued
/// ```
///
/// where `queued` is the number of messages, other than requests, that wait in inboxes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BusCounts {
    /// Accepted messages, without responses and copies.
    pub accepted: u64,
    /// Refused messages, responses included.
    pub refused: u64,
    /// Refused messages that the [policy](crate::Policy) refused, and copies of publications that
    /// it kept from a subscriber.
    pub denied: u64,
    /// Messages other than requests that their listener took.
    pub delivered: u64,
    /// Publications without a listener of their own: their copies went to the subscribers, if there
    /// were any.
    pub published: u64,
    /// Requests that their receiver answered.
    pub answered: u64,
    /// Requests that the host answered in the receiver's place, and other messages whose sender got
    /// an error response.
    pub failed: u64,
    /// Requests whose requester dropped the future and no longer waits.
    pub abandoned: u64,
    /// Requests without an outcome so far.
    pub open: u64,
    /// Final responses that matched no open request: late, repeated, or unrequested.
    pub unawaited: u64,
    /// Responses whose requester was gone, and error responses whose receiver (the failed message's
    /// sender) was gone or had no room.
    pub undeliverable: u64,
    /// Copies of publications that a subscriber took.
    pub copies: u64,
    /// Copies of publications that a subscriber had no room for, did not take in time, or never
    /// took. Includes copies that the policy kept from it.
    pub copies_dropped: u64,
}

/// The counters behind [`BusCounts`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) accepted: Counter,
    pub(crate) refused: Counter,
    pub(crate) denied: Counter,
    pub(crate) delivered: Counter,
    pub(crate) published: Counter,
    pub(crate) answered: Counter,
    pub(crate) failed: Counter,
    pub(crate) abandoned: Counter,
    pub(crate) unawaited: Counter,
    pub(crate) undeliverable: Counter,
    pub(crate) copies: Counter,
    pub(crate) copies_dropped: Counter,
}

impl Counters {
    pub(crate) fn snapshot(&self, open: usize) -> BusCounts {
        BusCounts {
            accepted: self.accepted.sum(),
            refused: self.refused.sum(),
            denied: self.denied.sum(),
            delivered: self.delivered.sum(),
            published: self.published.sum(),
            answered: self.answered.sum(),
            failed: self.failed.sum(),
            abandoned: self.abandoned.sum(),
            open: open as u64,
            unawaited: self.unawaited.sum(),
            undeliverable: self.undeliverable.sum(),
            copies: self.copies.sum(),
            copies_dropped: self.copies_dropped.sum(),
        }
    }
}

/// Number of cells of a counter. More threads than this share cells, which only costs time.
const CELLS: usize = 8;

/// A number that many threads add to. Each thread has a cache line of its own
/// (`trip_loaded_vs_bare`).
#[derive(Debug, Default)]
pub(crate) struct Counter([Line; CELLS]);

#[derive(Debug, Default)]
#[repr(align(64))]
struct Line(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0[cell()].0.fetch_add(count, Ordering::Relaxed);
    }

    /// Subtracts an amount that was added before. A single cell may go below zero; the sum never
    /// does.
    pub(crate) fn take_back(&self, count: u64) {
        self.0[cell()].0.fetch_sub(count, Ordering::Relaxed);
    }

    fn sum(&self) -> u64 {
        self.0.iter().fold(0, |sum, line| sum.wrapping_add(line.0.load(Ordering::Relaxed)))
    }
}

/// Returns this thread's cell. Threads get their cells in turn.
fn cell() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static CELL: Cell<usize> = Cell::new(NEXT.fetch_add(1, Ordering::Relaxed) % CELLS));
    CELL.try_with(Cell::get).unwrap_or(0)
}
