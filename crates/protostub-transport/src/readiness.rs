//! The connections that have work to do, and the `ready` events that the stub is owed.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Wake, Waker},
};

use futures_util::task::AtomicWaker;

/// The connections to drive, oldest wake-up first.
///
/// Each connection is queued at most once, so the queue is never longer than the number of
/// connections. A quiet connection causes no work.
#[derive(Debug, Default)]
pub(crate) struct ReadyQueue {
    entries: Mutex<VecDeque<Arc<QueueEntry>>>,
    /// The task that polls the connections.
    task: AtomicWaker,
}

impl ReadyQueue {
    /// Sets the task to wake when a waker queues an entry.
    pub(crate) fn register(&self, task: &Waker) {
        self.task.register(task);
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Takes the oldest entry and returns its owner. A later wake-up queues the entry again.
    pub(crate) fn pop(&self) -> Option<Owner> {
        let entry = self.entries.lock().unwrap_or_else(PoisonError::into_inner).pop_front()?;
        entry.is_queued.store(false, Ordering::Release);
        Some(entry.owner)
    }
}

/// The owner of a [`QueueEntry`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A connection of the stub.
    Handle(u32),
    /// All idle HTTP connections together.
    Idle,
}

/// The entry of one connection in the [`ReadyQueue`]. The connection's sockets and timers use it as
/// their [`Waker`], which queues it.
#[derive(Debug)]
pub(crate) struct QueueEntry {
    owner: Owner,
    is_queued: AtomicBool,
    /// Weak, since the queue holds its entries. With a strong reference, entries that are still
    /// queued at the end would keep the queue and the task that polls it alive.
    queue: Weak<ReadyQueue>,
}

impl QueueEntry {
    pub(crate) fn new(owner: Owner, queue: &Arc<ReadyQueue>) -> Arc<Self> {
        Arc::new(Self { owner, is_queued: AtomicBool::new(false), queue: Arc::downgrade(queue) })
    }

    /// Queues the entry for the next poll. Does not wake the task: the task itself calls this.
    pub(crate) fn enqueue(self: &Arc<Self>) {
        self.enqueue_once();
    }

    /// Queues the entry. Returns the queue, or `None` if the entry was queued already.
    fn enqueue_once(self: &Arc<Self>) -> Option<Arc<ReadyQueue>> {
        if self.is_queued.swap(true, Ordering::AcqRel) {
            return None;
        }
        let queue = self.queue.upgrade()?;
        queue.entries.lock().unwrap_or_else(PoisonError::into_inner).push_back(Arc::clone(self));
        Some(queue)
    }
}

impl Wake for QueueEntry {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(queue) = self.enqueue_once() {
            queue.task.wake();
        }
    }
}

/// A change in which a stub can be interested. The stub asks about each kind with a different
/// function of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Interest {
    /// The connection opened, was refused, closed or failed, or the head arrived: `poll`.
    State = 1,
    /// The stub can receive data or the end: `receive`.
    Read = 2,
    /// The stub can send again: `send`.
    Write = 4,
}

/// The changes of one handle. For each [`Interest`] that changed since the stub last asked about
/// it, the stub is owed exactly one `ready` event.
#[derive(Debug, Default)]
pub(crate) struct Readiness {
    changed: u8,
    announced: u8,
}

impl Readiness {
    pub(crate) fn set(&mut self, interest: Interest) {
        self.changed |= interest as u8;
    }

    /// Records that the stub asked: the next change is owed an event again.
    pub(crate) fn clear(&mut self, interest: Interest) {
        self.changed &= !(interest as u8);
        self.announced &= !(interest as u8);
    }

    /// Returns `true` if a `ready` event is due, and counts the event for one interest. A stub may
    /// check only the change that it waits for.
    pub(crate) fn take_event(&mut self) -> bool {
        let due = self.changed & !self.announced;
        self.announced |= due & due.wrapping_neg();
        due != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_woken_twice_is_queued_once() {
        let queue = Arc::new(ReadyQueue::default());
        let (one, two) = (QueueEntry::new(Owner::Handle(1), &queue), QueueEntry::new(Owner::Idle, &queue));
        one.wake_by_ref();
        two.wake_by_ref();
        one.wake_by_ref();
        assert_eq!((queue.pop(), queue.len()), (Some(Owner::Handle(1)), 1));
        one.wake_by_ref();
        assert_eq!([queue.pop(), queue.pop(), queue.pop()], [Some(Owner::Idle), Some(Owner::Handle(1)), None]);
    }

    #[test]
    fn queued_entries_do_not_keep_their_queue() {
        let queue = Arc::new(ReadyQueue::default());
        let entry = QueueEntry::new(Owner::Idle, &queue);
        entry.wake_by_ref();
        let weak = Arc::downgrade(&queue);
        drop(queue);
        assert!(weak.upgrade().is_none(), "the queue is dropped with its entries");
        entry.wake_by_ref();
        assert_eq!(Arc::strong_count(&entry), 1);
    }

    #[test]
    fn each_interest_is_announced_once_until_it_is_cleared() {
        let mut readiness = Readiness::default();
        assert!(!readiness.take_event());
        readiness.set(Interest::State);
        readiness.set(Interest::Read);
        assert!(readiness.take_event(), "for the state");
        assert!(readiness.take_event(), "and for what can be received");
        assert!(!readiness.take_event());
        readiness.set(Interest::Write);
        assert!(readiness.take_event(), "another interest changed");
        readiness.clear(Interest::Read);
        assert!(!readiness.take_event());
        readiness.set(Interest::Read);
        assert!(readiness.take_event(), "changed again after the stub asked");
    }
}
