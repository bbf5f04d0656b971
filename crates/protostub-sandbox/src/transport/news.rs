//! Who has to be looked at, and what the stub was told already.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Wake, Waker},
};

use futures_util::task::AtomicWaker;

/// The connections that have to be looked at, oldest wake-up first. Each stands in it at most once, so that it is never longer than there are
/// connections, and what a quiet connection costs is nothing.
#[derive(Debug, Default)]
pub(super) struct Woken {
    marks: Mutex<VecDeque<Arc<Mark>>>,
    /// The task that polls the connections.
    task: AtomicWaker,
}

impl Woken {
    /// Who is woken when a connection has to be looked at.
    pub(super) fn register(&self, task: &Waker) {
        self.task.register(task);
    }

    pub(super) fn len(&self) -> usize {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The owner of the oldest mark. A later wake-up puts the mark into the queue again.
    pub(super) fn pop(&self) -> Option<Owner> {
        let mark = self.marks.lock().unwrap_or_else(PoisonError::into_inner).pop_front()?;
        mark.queued.store(false, Ordering::Release);
        Some(mark.owner)
    }
}

/// The owner of a [`Mark`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// A connection of the stub.
    Handle(u32),
    /// All idle HTTP connections together.
    Idle,
}

/// One connection's place in [`Woken`]; as a [`Waker`], what its socket and its timers wake.
#[derive(Debug)]
pub(super) struct Mark {
    owner: Owner,
    queued: AtomicBool,
    /// The queue holds marks: if marks held it too, those that are queued at the end would keep it
    /// and the task that polls it.
    woken: Weak<Woken>,
}

impl Mark {
    pub(super) fn new(owner: Owner, woken: &Arc<Woken>) -> Arc<Self> {
        Arc::new(Self { owner, queued: AtomicBool::new(false), woken: Arc::downgrade(woken) })
    }

    /// Has the connection looked at the next time that the task polls. Does not wake the task: this is for what the task itself does.
    pub(super) fn queue(self: &Arc<Self>) {
        self.queue_in();
    }

    /// Returns the queue, if the mark is new in it.
    fn queue_in(self: &Arc<Self>) -> Option<Arc<Woken>> {
        if self.queued.swap(true, Ordering::AcqRel) {
            return None;
        }
        let woken = self.woken.upgrade()?;
        woken.marks.lock().unwrap_or_else(PoisonError::into_inner).push_back(Arc::clone(self));
        Some(woken)
    }
}

impl Wake for Mark {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(woken) = self.queue_in() {
            woken.task.wake();
        }
    }
}

/// What a stub can be told of a handle. It asks about each by another function of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Topic {
    /// Opened, refused, closed, failed, or the head is there: `poll`.
    State = 1,
    /// Something can be received, the end included: `receive`.
    Read = 2,
    /// There is room again: `send`.
    Write = 4,
}

/// What of a handle is new to the stub. One `ready` is owed for each topic that changed since the stub last asked about it, and none twice.
#[derive(Debug, Default)]
pub(super) struct News {
    pending: u8,
    told: u8,
}

impl News {
    pub(super) fn set(&mut self, topic: Topic) {
        self.pending |= topic as u8;
    }

    /// The stub asked: the next change is news again.
    pub(super) fn asked(&mut self, topic: Topic) {
        self.pending &= !(topic as u8);
        self.told &= !(topic as u8);
    }

    /// Whether a `ready` is due; if so, it counts as told for one topic: a stub may look only for what it waits for.
    pub(super) fn announce(&mut self) -> bool {
        let due = self.pending & !self.told;
        self.told |= due & due.wrapping_neg();
        due != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_stands_in_the_queue_once() {
        let woken = Arc::new(Woken::default());
        let (one, two) = (Mark::new(Owner::Handle(1), &woken), Mark::new(Owner::Idle, &woken));
        one.wake_by_ref();
        two.wake_by_ref();
        one.wake_by_ref();
        assert_eq!((woken.pop(), woken.len()), (Some(Owner::Handle(1)), 1));
        one.wake_by_ref();
        assert_eq!([woken.pop(), woken.pop(), woken.pop()], [Some(Owner::Idle), Some(Owner::Handle(1)), None]);
    }

    #[test]
    fn queued_marks_do_not_keep_their_queue() {
        let woken = Arc::new(Woken::default());
        let mark = Mark::new(Owner::Idle, &woken);
        mark.wake_by_ref();
        let queue = Arc::downgrade(&woken);
        drop(woken);
        assert!(queue.upgrade().is_none(), "the queue is dropped with its marks");
        mark.wake_by_ref();
        assert_eq!(Arc::strong_count(&mark), 1);
    }

    #[test]
    fn each_topic_is_announced_once_until_it_is_asked() {
        let mut news = News::default();
        assert!(!news.announce());
        news.set(Topic::State);
        news.set(Topic::Read);
        assert!(news.announce(), "for the state");
        assert!(news.announce(), "and for what can be received");
        assert!(!news.announce());
        news.set(Topic::Write);
        assert!(news.announce(), "another topic changed");
        news.asked(Topic::Read);
        assert!(!news.announce());
        news.set(Topic::Read);
        assert!(news.announce(), "changed again after the stub asked");
    }
}
