//! The layer between the component's two exports and the author's async code: the executor, the
//! queue of events, and the tasks that wait for handles.
//!
//! An instance has one of each, on the one thread that a component has. No code here waits:
//! `handle` queues the events, runs the executor until every task is stalled, and returns.

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::VecDeque,
    future::Future,
    rc::Rc,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_channel::oneshot;
use futures_util::future::{FutureExt as _, LocalBoxFuture};
use slab::Slab;

use crate::{DisconnectReason, Error, Event, Message, MessageId, MessageType, Result, Status, Stub, host, logging};

/// Number of queued messages from which on the bus is paused.
const PAUSE_MESSAGES: usize = 64;
/// Number of bytes of queued messages from which on the bus is paused: one batch.
const PAUSE_BYTES: usize = 1024 * 1024;
/// Number of queued messages at which the bus is resumed. It is above 0, so the next batch comes
/// before the last message is taken.
const RESUME_MESSAGES: usize = 16;

thread_local! {
    static TASKS: RefCell<Option<Tasks>> = const { RefCell::new(None) };
    /// Tasks that have not begun yet.
    static SPAWNED: RefCell<Vec<LocalBoxFuture<'static, ()>>> = const { RefCell::new(Vec::new()) };
    static STATE: RefCell<Option<Rc<State>>> = const { RefCell::new(None) };
    /// In the order of their handles. The list is short: the host allows some hundreds.
    static WAITING: RefCell<Vec<Waiting>> = const { RefCell::new(Vec::new()) };
}

/// An event of one call of `handle`.
#[derive(Debug)]
pub(crate) enum HostEvent {
    Stub(Event),
    Timer(u32),
    Ready(u32),
}

/// The state that the clones of a [`Stub`] share.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) url: String,
    pub(crate) configuration: String,
    /// Read from the configuration at the author's first request.
    pub(crate) runtime_url: OnceCell<String>,
    pub(crate) status: RefCell<(Status, Option<String>)>,
    /// `true` if a message was taken or posted since [`keep_connected`](crate::keep_connected)
    /// began the current connection.
    pub(crate) carried: Cell<bool>,
    queue: RefCell<Queue>,
    requests: RefCell<Requests>,
}

/// Events that have arrived and were not taken yet. The queue is bounded: the bus is paused while
/// it is full, and a batch is bounded.
#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<Message>,
    bytes: usize,
    paused: bool,
    /// `connect` and `disconnect`. At most a few: of two events that cancel each other out, the
    /// host sends the final one.
    control: VecDeque<Event>,
    /// Set while the connection is to end. Tasks that wait for messages learn of it once all
    /// messages are taken.
    ending: Option<DisconnectReason>,
    wakers: Vec<Waker>,
}

/// The stub's own requests without a response.
#[derive(Debug, Default)]
struct Requests {
    count: u64,
    open: Vec<(MessageId, String, oneshot::Sender<Message>)>,
}

#[derive(Debug)]
struct Waiting {
    handle: u32,
    news: bool,
    wakers: Vec<Waker>,
}

/// Runs the component's export `start`: reads the configuration, and starts `main`.
pub(crate) fn start<F, Fut>(url: String, main: F) -> Result<(), String>
where
    F: FnOnce(Stub) -> Result<Fut, String>,
    Fut: Future<Output = Result<()>> + 'static,
{
    logging::install();
    let state = Rc::new(State {
        url,
        configuration: host::configuration(),
        runtime_url: OnceCell::new(),
        status: RefCell::new((Status::Created, None)),
        carried: Cell::new(false),
        queue: RefCell::default(),
        requests: RefCell::default(),
    });
    let stub = Stub::new(Rc::clone(&state));
    let future = main(stub.clone())?;
    TASKS.set(Some(Tasks::default()));
    STATE.set(Some(state));
    spawn(async move {
        match future.await {
            Ok(()) => log::debug!("the stub's main function has ended"),
            Err(error) => stub.failed(&error.to_string()),
        }
    });
    Ok(())
}

/// Ends the instance in a test, and drops everything that it holds.
#[cfg(not(target_family = "wasm"))]
pub(crate) fn end() {
    drop((TASKS.take(), SPAWNED.take()));
    STATE.set(None);
    WAITING.with_borrow_mut(Vec::clear);
}

/// Runs a task next to the author's, until the task or the instance ends.
pub(crate) fn spawn(task: impl Future<Output = ()> + 'static) {
    if STATE.with_borrow(Option::is_none) {
        log::error!(
            "a task was spawned outside of the stub's own code and does not run; call `spawn` from `run`, `main` or another task"
        );
        return;
    }
    SPAWNED.with_borrow_mut(|spawned| spawned.push(task.boxed_local()));
}

/// The author's task, and the tasks that were spawned next to it.
#[derive(Default)]
struct Tasks {
    running: Slab<LocalBoxFuture<'static, ()>>,
    due: Arc<Due>,
}

/// The tasks that can continue, in the order in which they were woken.
#[derive(Default)]
struct Due(Mutex<VecDeque<Arc<Alarm>>>);

/// The waker of one task. After the task has ended, another task may have its number. That task is
/// then polled once too often.
struct Alarm {
    task: usize,
    is_due: AtomicBool,
    due: Arc<Due>,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        if !self.is_due.swap(true, Ordering::Relaxed) {
            Arc::clone(&self.due).queue().push_back(self);
        }
    }

    fn wake_by_ref(self: &Arc<Self>) {
        Arc::clone(self).wake();
    }
}

impl Due {
    fn queue(&self) -> MutexGuard<'_, VecDeque<Arc<Alarm>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<Arc<Alarm>> {
        self.queue().pop_front()
    }
}

impl Tasks {
    /// Polls all tasks until none can continue.
    fn run_until_stalled(&mut self) {
        loop {
            for task in SPAWNED.take() {
                let alarm = Alarm { task: self.running.insert(task), is_due: AtomicBool::new(false), due: Arc::clone(&self.due) };
                Arc::new(alarm).wake();
            }
            let Some(alarm) = self.due.next() else { return };
            let number = alarm.task;
            alarm.is_due.store(false, Ordering::Relaxed);
            let waker = Waker::from(alarm);
            if let Some(task) = self.running.get_mut(number)
                && task.poll_unpin(&mut Context::from_waker(&waker)).is_ready()
            {
                drop(self.running.remove(number));
            }
        }
    }
}

/// Runs the component's export `handle`: runs every task that can continue.
pub(crate) fn handle(events: impl IntoIterator<Item = HostEvent>) {
    let Some(state) = STATE.with_borrow(Clone::clone) else { return };
    for event in events {
        match event {
            HostEvent::Stub(Event::Message(message)) => state.receive(message),
            HostEvent::Stub(control) => state.queue.borrow_mut().control.push_back(control),
            HostEvent::Timer(handle) | HostEvent::Ready(handle) => tell(handle),
        }
    }
    state.wake();
    if let Some(mut tasks) = TASKS.take() {
        tasks.run_until_stalled();
        TASKS.set(Some(tasks));
    }
}

impl State {
    /// Passes a response to the stub's own request that waits for it, and queues any other message.
    fn receive(&self, message: Message) {
        if message.kind == MessageType::Response {
            let open = &mut self.requests.borrow_mut().open;
            if let Some(index) =
                open.iter().position(|(id, to, _)| *id == message.id && *to == message.from && message.to == self.url)
            {
                if message.code().is_none_or(|code| code >= 200) {
                    // The requester may have dropped its future.
                    let _ = open.swap_remove(index).2.send(message);
                }
                return;
            }
        }
        let queue = &mut *self.queue.borrow_mut();
        queue.bytes += message.size();
        queue.messages.push_back(message);
        if !queue.paused && (queue.messages.len() >= PAUSE_MESSAGES || queue.bytes >= PAUSE_BYTES) {
            queue.paused = true;
            host::pause();
        }
    }

    pub(crate) fn take_message(&self) -> Option<Message> {
        let queue = &mut *self.queue.borrow_mut();
        let message = queue.messages.pop_front()?;
        queue.bytes -= message.size();
        self.carried.set(true);
        if queue.paused && queue.messages.len() <= RESUME_MESSAGES && queue.bytes < PAUSE_BYTES {
            queue.paused = false;
            host::resume();
        }
        Some(message)
    }

    pub(crate) fn take_control(&self) -> Option<Event> {
        self.queue.borrow_mut().control.pop_front()
    }

    pub(crate) fn ending(&self) -> Option<DisconnectReason> {
        self.queue.borrow().ending
    }

    pub(crate) fn set_ending(&self, ending: Option<DisconnectReason>) {
        self.queue.borrow_mut().ending = ending;
        self.wake();
    }

    /// Has the waker woken at the next event.
    pub(crate) fn wait(&self, waker: &Waker) {
        remember(&mut self.queue.borrow_mut().wakers, waker);
    }

    fn wake(&self) {
        let mut wakers = std::mem::take(&mut self.queue.borrow_mut().wakers);
        wakers.drain(..).for_each(Waker::wake);
        // Most woken tasks wait again: the list keeps its memory.
        let queue = &mut *self.queue.borrow_mut();
        if queue.wakers.is_empty() {
            queue.wakers = wakers;
        }
    }

    /// Gives a request its id, and registers it for its response.
    pub(crate) fn open_request(&self, request: &mut Message) -> oneshot::Receiver<Message> {
        let requests = &mut *self.requests.borrow_mut();
        requests.open.retain(|(_, _, sender)| !sender.is_canceled());
        if requests.count == 0 {
            // Requests of an earlier instance may still be open.
            requests.count = fastrand::u64(..1 << 52);
        }
        requests.count += 1;
        request.id = MessageId::Number(requests.count);
        let (sender, receiver) = oneshot::channel();
        requests.open.push((request.id.clone(), request.to.clone(), sender));
        receiver
    }
}

fn remember(wakers: &mut Vec<Waker>, waker: &Waker) {
    if !wakers.iter().any(|known| known.will_wake(waker)) {
        wakers.push(waker.clone());
    }
}

/// Wakes the tasks that wait for a handle of which the host has news.
fn tell(handle: u32) {
    let wakers = WAITING.with_borrow_mut(|waiting| match place(waiting, handle) {
        Ok(index) => {
            waiting[index].news = true;
            std::mem::take(&mut waiting[index].wakers)
        }
        Err(_) => Vec::new(),
    });
    wakers.into_iter().for_each(Waker::wake);
}

/// Returns the place of a handle, or the place to insert it at.
fn place(waiting: &[Waiting], handle: u32) -> Result<usize, usize> {
    waiting.binary_search_by_key(&handle, |waiting| waiting.handle)
}

/// A handle of the host, for as long as the stub waits for its news. The owner closes it at the
/// host.
#[derive(Debug)]
pub(crate) struct Handle(u32);

impl Handle {
    pub(crate) fn new(handle: u32) -> Self {
        WAITING.with_borrow_mut(|waiting| {
            let index = place(waiting, handle).unwrap_or_else(|index| index);
            waiting.insert(index, Waiting { handle, news: false, wakers: Vec::new() });
        });
        Self(handle)
    }

    pub(crate) fn id(&self) -> u32 {
        self.0
    }

    /// Calls `ask` at once, and again whenever there is news, until it returns an answer.
    /// [`Error::Busy`] is not an answer.
    pub(crate) fn poll<T>(&self, waker: &Waker, ask: impl FnOnce(u32) -> Result<Option<T>>) -> Poll<Result<T>> {
        match ask(self.0) {
            Ok(Some(answer)) => Poll::Ready(Ok(answer)),
            Ok(None) | Err(Error::Busy) => {
                WAITING.with_borrow_mut(|waiting| {
                    if let Ok(index) = place(waiting, self.0) {
                        remember(&mut waiting[index].wakers, waker);
                    }
                });
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Does the same as [`Self::poll`], for a task that waits for nothing else.
    pub(crate) async fn ask<T>(&self, mut ask: impl FnMut(u32) -> Result<Option<T>>) -> Result<T> {
        std::future::poll_fn(|cx| self.poll(cx.waker(), &mut ask)).await
    }

    /// Returns `true` if the host ever had news of the handle. A timer has no other state.
    pub(crate) fn has_news(&self) -> bool {
        WAITING.with_borrow(|waiting| place(waiting, self.0).is_ok_and(|index| waiting[index].news))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // The thread may have ended before.
        let _ = WAITING.try_with(|waiting| {
            let waiting = &mut *waiting.borrow_mut();
            place(waiting, self.0).map(|index| waiting.remove(index))
        });
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, future::poll_fn};

    use super::*;

    /// The first waker that a task got.
    type Kept = Rc<RefCell<Option<Waker>>>;

    /// Makes a task that ends at poll number `polls`. Returns it with its poll count and its waker.
    fn task(polls: usize) -> (LocalBoxFuture<'static, ()>, Rc<Cell<usize>>, Kept) {
        let (count, waker) = (Rc::<Cell<usize>>::default(), Kept::default());
        let (counted, kept) = (Rc::clone(&count), Rc::clone(&waker));
        let task = poll_fn(move |cx| {
            counted.set(counted.get() + 1);
            kept.borrow_mut().get_or_insert_with(|| cx.waker().clone());
            if counted.get() == polls { Poll::Ready(()) } else { Poll::Pending }
        });
        (task.boxed_local(), count, waker)
    }

    fn run(tasks: &mut Tasks, task: impl IntoIterator<Item = LocalBoxFuture<'static, ()>>) {
        SPAWNED.with_borrow_mut(|spawned| spawned.extend(task));
        tasks.run_until_stalled();
    }

    #[test]
    fn task_woken_twice_is_polled_once() {
        let mut tasks = Tasks::default();
        let (first, polled, waker) = task(3);
        let (other, others_polls, _) = task(3);
        run(&mut tasks, [first, other]);
        let waker = waker.take().unwrap();
        waker.wake_by_ref();
        waker.wake_by_ref();
        run(&mut tasks, []);
        assert_eq!((polled.get(), others_polls.get()), (2, 1));
        run(&mut tasks, []);
        assert_eq!((polled.get(), others_polls.get()), (2, 1));
        waker.wake_by_ref();
        run(&mut tasks, []);
        assert_eq!((polled.get(), others_polls.get(), tasks.running.len()), (3, 1, 1));
    }

    #[test]
    fn waker_of_an_ended_task_is_harmless() {
        let mut tasks = Tasks::default();
        let (first, _, waker) = task(1);
        run(&mut tasks, [first]);
        let outlived = waker.take().unwrap();
        outlived.wake_by_ref();
        run(&mut tasks, []);
        assert_eq!(tasks.running.len(), 0);
        // The second task has the first one's place.
        let (second, polled, waker) = task(3);
        run(&mut tasks, [second]);
        outlived.wake_by_ref();
        run(&mut tasks, []);
        assert_eq!(polled.get(), 2);
        waker.take().unwrap().wake();
        run(&mut tasks, []);
        assert_eq!((polled.get(), tasks.running.len()), (3, 0));
    }

    #[test]
    fn task_spawned_by_a_task_runs_in_the_same_call() {
        let mut tasks = Tasks::default();
        let (send, received) = oneshot::channel();
        let got = Rc::<Cell<u32>>::default();
        let gets = Rc::clone(&got);
        let waits = async move { gets.set(received.await.unwrap()) }.boxed_local();
        let spawns = async move {
            let sends = async move { send.send(7).unwrap() }.boxed_local();
            SPAWNED.with_borrow_mut(|spawned| spawned.push(sends));
        };
        run(&mut tasks, [waits, spawns.boxed_local()]);
        assert_eq!((got.get(), tasks.running.len()), (7, 0));
    }
}
