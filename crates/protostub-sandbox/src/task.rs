use std::{
    cell::Cell,
    fmt,
    future::poll_fn,
    mem,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use protostub_bus::{Bus, Envelope, Inbox, Mailbox};
use protostub_types::MessageType;
use tokio::{
    sync::oneshot,
    task::coop::{self, RestoreOnPending},
};

use crate::{
    CrashReport, GuestCall, Outcome, Secrets, Usage,
    call::{self, Crash},
    contract::{lower, restore, types::Event},
    handle::{Command, Commands},
    host::CredentialUse,
    sandbox::Instance,
};

/// Maximum time for which a call in progress goes on after
/// [`StubHandle::stop`](crate::StubHandle::stop).
const STOP_GRACE: Duration = Duration::from_secs(1);
/// Minimum size of a memory that is given back in a thread of its own, in bytes. Giving it back
/// takes the system about a millisecond for each ten MiB, in which nothing else runs.
const LARGE_MEMORY_BYTES: usize = 8 << 20;

/// A running instance. The instance runs only while the task is polled, and ends when the task is
/// dropped.
///
/// The task waits for commands, timers, answers, connections and messages. It takes messages only
/// while the stub's status is `live` and the stub did not pause them. It hands all of them to the
/// guest as one batch of events, in order, and begins again.
pub struct StubTask {
    instance: Instance,
    inbox: Inbox,
    open_requests: OpenRequests,
    commands: Commands,
    batch: Batch,
    calls: u64,
    /// The instance agreed to retire, and gets no more messages.
    retires: bool,
    /// The last batch was a message that the instance took alone, after a crash of an earlier one.
    took_alone: bool,
}

/// The remains of an instance.
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "callers take it apart to get the inbox")]
pub struct Ended {
    /// The inbox that was given to [`Sandbox::deploy_component`](crate::Sandbox::deploy_component),
    /// with the messages that are queued in it.
    pub inbox: Inbox,
    /// The way in which the instance ended.
    pub outcome: Outcome,
    /// Report of the end, unless that was orderly.
    pub crash: Option<Arc<CrashReport>>,
    /// Resources that the instance has used.
    pub usage: Usage,
}

/// The events that the next call hands to the guest.
#[derive(Default)]
struct Batch {
    events: Vec<Event>,
    messages: Vec<Envelope>,
    /// Notified when the guest has handled the commands among the events.
    done: Vec<oneshot::Sender<()>>,
    disconnects: bool,
}

/// A turn of the task on its thread.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// The guest was not called in this turn yet.
    Fresh,
    /// The guest was called in this turn.
    Used,
}

/// The requests that the instance took and has not answered. They fail when the instance ends,
/// however it ends.
struct OpenRequests {
    bus: Bus,
    mailbox: Mailbox,
}

impl OpenRequests {
    fn fail(&self, reason: &str) {
        self.bus.fail_taken(&self.mailbox, 502, reason);
    }
}

impl Drop for OpenRequests {
    fn drop(&mut self) {
        self.fail("the protocol stub ended before it answered");
    }
}

impl StubTask {
    pub(crate) fn new(instance: Instance, inbox: Inbox, commands: Commands) -> Self {
        let bus = instance.store.data().services.bus.clone();
        let open_requests = OpenRequests { bus, mailbox: inbox.mailbox() };
        Self { instance, inbox, open_requests, commands, batch: Batch::default(), calls: 0, retires: false, took_alone: false }
    }

    /// Publishes `created`, and runs the instance until it is stopped, crashes, or exceeds a limit.
    ///
    /// Every request that the instance took and did not answer then gets a response with code 502.
    /// So does the sender of every other message of a batch that crashed the instance. The inbox
    /// hands out these messages no more, and is cautious from then on ([`Inbox::crashed`]).
    /// Messages that the instance posted before remain posted.
    pub async fn run(mut self) -> Ended {
        self.instance.store.data_mut().publish_created();
        let (outcome, crash) = self.run_to_end().await;
        let state = self.instance.store.data_mut();
        state.connections.close_all();
        if outcome.is_orderly() {
            // Bounded: each closing connection has its own time limit.
            poll_fn(|cx| state.connections.poll_closed(cx)).await;
        }
        state.log.finish();
        let usage = self.usage();
        let Self { instance, inbox, open_requests, .. } = self;
        drop(open_requests);
        if usage.memory_bytes >= LARGE_MEMORY_BYTES {
            // If the runtime ends meanwhile, so does the thread.
            let _ = tokio::task::spawn_blocking(move || drop(instance)).await;
        }
        Ended { inbox, outcome, crash, usage }
    }

    fn usage(&self) -> Usage {
        let Instance { store, compiled, .. } = &self.instance;
        let state = store.data();
        let ticks = u32::try_from(state.cpu.most_ticks()).unwrap_or(u32::MAX);
        let longest_call = compiled.engine().config().tick.saturating_mul(ticks);
        Usage { memory_bytes: state.memory.grown_bytes(), calls: self.calls, longest_call }
    }

    async fn run_to_end(&mut self) -> (Outcome, Option<Arc<CrashReport>>) {
        let mut turn = Turn::Fresh;
        while self.next_batch(mem::replace(&mut turn, Turn::Used)).await {
            match self.handle().await {
                None => {}
                Some(end) => return end,
            }
            let Instance { store, meter, .. } = &mut self.instance;
            store.data_mut().count_throttled(meter.take_throttled());
            meter.yield_if_due().await;
            // Even a stub that always has events lets other tasks run.
            coop::consume_budget().await;
        }
        self.open_requests.fail("the protocol stub was stopped before it answered");
        (Outcome::Stopped, None)
    }

    /// Hands the batch to the guest. Returns the outcome if the instance ended.
    async fn handle(&mut self) -> Option<(Outcome, Option<Arc<CrashReport>>)> {
        let Self { instance: Instance { guest, store, compiled, meter, .. }, batch, commands, .. } = self;
        let began = call::begin(store);
        self.calls += 1;
        commands.idleness.end(store.data().recorder.call_began());
        let limit = store.data().config.limits.time_per_call;
        let result = {
            let call = pin!(guest.rethink_protostub_stub().call_handle(&mut *store, &batch.events));
            let call = call::bounded(compiled, meter, (began, limit), call);
            let overrun = async {
                poll_fn(|cx| commands.poll_stop(cx)).await;
                tokio::time::sleep(STOP_GRACE).await;
            };
            tokio::select! {
                biased;
                result = call => Some(result),
                () = overrun => None,
            }
        };
        let failure = match result {
            Some(Ok(())) => {
                store.data_mut().recorder.handled(batch.events.drain(..));
                batch.finish();
                return None;
            }
            Some(Err(failure)) => failure,
            None => {
                let messages = self.take_messages();
                self.fail_messages(&messages, "the protocol stub was stopped while it had the message");
                return Some((Outcome::Stopped, None));
            }
        };
        store.data_mut().recorder.fatal(batch.events.iter().cloned());
        let (crash, report) = call::diagnose(compiled, store, GuestCall::Handle, failure);
        let outcome = match crash {
            Crash::Trapped(trap) => Outcome::Trapped(trap),
            Crash::Exceeded(exceeded) => Outcome::Exceeded(exceeded),
        };
        let messages = self.take_messages();
        // This comes before the errors: a sender may post again as soon as it has one.
        self.inbox.crashed(&messages);
        // The exact limit or crash is between the stub and the host.
        let reason = match &outcome {
            Outcome::Exceeded(_) => "the protocol stub exceeded a limit while it had the message, and was ended",
            _ => "the protocol stub crashed while it had the message",
        };
        self.fail_messages(&messages, reason);
        Some((outcome, Some(report)))
    }

    /// Takes the messages of the batch that the guest had when it ended.
    fn take_messages(&mut self) -> Vec<Envelope> {
        let messages = mem::take(&mut self.batch.events).into_iter().filter_map(|event| match event {
            Event::Message(message) => restore(message).ok(),
            _ => None,
        });
        messages.collect()
    }

    /// Fails the messages that the guest had when it ended. The bus knows the senders of requests;
    /// this function finds the senders of other messages. Responses and publications have no sender
    /// to inform.
    fn fail_messages(&self, messages: &[Envelope], reason: &str) {
        for message in messages {
            if !message.expects_response() && message.kind != MessageType::Response && !message.to.is_within(&message.from) {
                self.open_requests.bus.fail(message, 502, reason);
            }
        }
        self.open_requests.fail(reason);
    }

    /// Waits until the batch has events. Returns `false` if the task must stop.
    async fn next_batch(&mut self, mut turn: Turn) -> bool {
        poll_fn(|cx| {
            let batch = self.poll_batch(cx);
            if batch.is_pending() && mem::replace(&mut turn, Turn::Fresh) == Turn::Used {
                end_turn(cx);
            }
            batch
        })
        .await
    }

    /// Fills the batch. Resolves to `false` if the task must stop.
    fn poll_batch(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let Self { instance, inbox, open_requests, commands, batch, retires, took_alone, .. } = self;
        if commands.must_stop() {
            return Poll::Ready(false);
        }
        let state = instance.store.data_mut();
        let limits = &state.config.limits;
        let room = |batch: &Batch| batch.events.len() < limits.batch_events;
        while room(batch)
            && let Some(command) = commands.next()
        {
            match command {
                Command::TakeOver { inbox: next, session, done } => {
                    session.restore(state.services.session.load());
                    state.services.session = session;
                    *open_requests = OpenRequests { bus: open_requests.bus.clone(), mailbox: next.mailbox() };
                    *inbox = next;
                    let _ = done.send(());
                }
                Command::Retire { idle, agreed } => {
                    let is_idle =
                        commands.idleness.duration() >= idle && open_requests.mailbox.is_quiet() && state.identity.is_empty();
                    *retires = is_idle && batch.events.is_empty();
                    let _ = agreed.send(*retires);
                }
                Command::Admit => state.status.admit(),
                command => batch.add_command(command, &state.secrets, state.credential_use()),
            }
        }
        let wanted = state.status.is_live() && !state.posting.is_paused() && !batch.disconnects && !*retires;
        // After a crash, a message and other events take turns, so that the culprit is known.
        let alone = inbox.is_cautious();
        if alone
            && wanted
            && batch.events.is_empty()
            && !mem::take(took_alone)
            && batch.take_messages(inbox, cx, limits.batch_events, limits.batch_bytes)
        {
            *took_alone = true;
            return Poll::Ready(true);
        }
        while room(batch)
            && let Poll::Ready(handle) = state.timers.poll_expired(cx)
        {
            batch.events.push(Event::Timer(handle));
        }
        while room(batch)
            && let Poll::Ready(handle) = state.identity.poll_answered(cx)
        {
            batch.events.push(Event::Ready(handle));
        }
        while room(batch)
            && let Poll::Ready(handle) = state.connections.poll_ready(cx)
        {
            batch.events.push(Event::Ready(handle));
        }
        if wanted && room(batch) && (!alone || batch.events.is_empty()) {
            let most = limits.batch_events - batch.events.len();
            batch.take_messages(inbox, cx, most, limits.batch_bytes);
        }
        if !batch.events.is_empty() {
            return Poll::Ready(true);
        }
        if state.connections.open_count() > 0 {
            // The host may slow down a server whose data the stub never gets, for example pings.
            state.count_throttled(0);
        }
        // Last, since mostly no command waits. A command that came meanwhile is handled at once.
        if commands.register(cx) { self.poll_batch(cx) } else { Poll::Pending }
    }
}

/// Ends the task's turn: the task that the instance woke last comes next, in a turn of its own
/// (`trip_vs_bare`).
///
/// Tokio lets tasks that wake each other have a few turns at once on their thread, and wakes a
/// second thread for the fourth. Two tasks that post to each other would move between threads, and
/// a trip would take twice as long.
fn end_turn(cx: &mut Context<'_>) {
    /// The budget that tokio gives to a turn. Asking for more would wake the task once more.
    const BUDGET: usize = 128;

    thread_local! {
        /// Keeps a turn at one piece of its budget until it is dropped. Asking for all the pieces
        /// each time would take as long as a message over the bus (`trip_vs_bare`).
        static ONE_LEFT: Cell<Option<RestoreOnPending>> = const { Cell::new(None) };
    }
    drop(ONE_LEFT.take());
    for _ in 0..BUDGET {
        match coop::poll_proceed(cx) {
            Poll::Ready(last) if !coop::has_budget_remaining() => return ONE_LEFT.set(Some(last)),
            // Dropping it would give the spent budget back.
            Poll::Ready(spent) => mem::forget(spent),
            Poll::Pending => return,
        }
    }
}

impl Batch {
    fn add_command(&mut self, command: Command, secrets: &Secrets, credential_use: CredentialUse) {
        if self.events.capacity() == 0 {
            // Many stubs get `connect`, and no other event for long (`idle_stub_kib`).
            self.events.reserve_exact(1);
        }
        match command {
            Command::Connect { credential, done } => {
                if let Some(credential) = &credential {
                    secrets.hold(credential);
                }
                let shown = credential.filter(|_| credential_use == CredentialUse::ByValue);
                self.events.push(Event::Connect(shown.map(Into::into)));
                self.done.push(done);
            }
            Command::Disconnect { reason, done } => {
                self.events.push(Event::Disconnect(reason.into()));
                self.done.push(done);
                self.disconnects = true;
            }
            // These commands have no event.
            Command::TakeOver { .. } | Command::Retire { .. } | Command::Admit => {}
        }
    }

    /// Takes waiting messages. Returns `false` if there are none.
    fn take_messages(&mut self, inbox: &mut Inbox, cx: &mut Context<'_>, most: usize, bytes: usize) -> bool {
        if inbox.poll_batch(cx, most, bytes, &mut self.messages).is_pending() {
            return false;
        }
        self.events.extend(self.messages.drain(..).map(|message| Event::Message(lower(message.into_message()))));
        !self.events.is_empty()
    }

    /// Notifies the callers that the guest has handled the batch.
    fn finish(&mut self) {
        self.disconnects = false;
        for done in self.done.drain(..) {
            // The caller may be gone.
            let _ = done.send(());
        }
    }
}

impl fmt::Debug for StubTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StubTask").field("stub", &self.instance.store.data().config.url).finish_non_exhaustive()
    }
}
