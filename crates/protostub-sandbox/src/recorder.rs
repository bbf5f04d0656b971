//! The flight recorder of one instance: its last events and its last calls.

use std::{
    num::NonZeroU32,
    ptr,
    sync::Arc,
    time::{Duration, Instant},
};

use protostub_types::{Address, SafeText};

use crate::{
    contract::types::{Body, Error, Event, MessageType, WitDisconnectReason},
    crash::{Activity, ActivityKind, CallError},
};

/// Number of events, and of calls, that are remembered.
const ENTRIES: usize = 64;

/// The event and the call that are by far the most frequent.
const MESSAGE: &str = "message";
const POST: &str = "bus.post";

/// Maximum length of a server's name, in bytes.
const MAX_SERVER_BYTES: usize = 300;

/// Remembers the last events and calls. Each kind has a ring: a batch of events does not push calls
/// out, and a flood of calls does not push events out. Recording writes some ninety bytes. Entries
/// share addresses with the message. The recorder makes text only after a crash.
pub(crate) struct Recorder {
    origin: Instant,
    call_began: Duration,
    events: Ring,
    calls: Ring,
}

#[derive(Default)]
struct Ring {
    entries: Vec<Entry>,
    /// Index of the next entry once the ring is full: that of the oldest entry.
    next: usize,
    lost: u64,
}

/// One event or call.
#[derive(Clone)]
pub(crate) struct Entry {
    /// Since the recorder's origin.
    at: Duration,
    name: &'static str,
    detail: Option<&'static str>,
    from: Option<Arc<str>>,
    to: Option<Arc<str>>,
    handle: Option<NonZeroU32>,
    bytes: u32,
    times: u32,
    error: Option<CallError>,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        Self { origin: Instant::now(), call_began: Duration::ZERO, events: Ring::default(), calls: Ring::default() }
    }

    /// Returns the time from which all times are counted.
    pub(crate) fn origin(&self) -> Instant {
        self.origin
    }

    /// Records that a guest call begins.
    pub(crate) fn begin_call(&mut self, now: Instant) {
        self.call_began = now.saturating_duration_since(self.origin);
        self.calls.reserve();
    }

    /// Returns the time at which the last call began.
    pub(crate) fn call_began(&self) -> Duration {
        self.call_began
    }

    /// Records events that the guest has handled in the last call. Messages of one type between the
    /// same two addresses become one entry.
    pub(crate) fn handled(&mut self, events: impl IntoIterator<Item = Event>) {
        let at = self.call_began;
        for event in events {
            if let Event::Message(message) = &event
                && let Some(last) = self.events.last()
                && last.is_message(MESSAGE, &message.kind, Some(&*message.from), Some(&*message.to))
            {
                last.repeat(at, count(message.body.as_ref().map_or(0, Body::len)));
            } else {
                *self.events.place() = Entry { at, ..Entry::event(event) };
            }
        }
    }

    /// Records the events that the guest had when the last call ended it. Each has its own entry,
    /// since one of them may be the reason.
    pub(crate) fn fatal(&mut self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            *self.events.place() = Entry { at: self.call_began, ..Entry::event(event) };
        }
    }

    /// Records a call of the host. Repetitions become one entry.
    pub(crate) fn call(&mut self, now: Instant, call: &Entry) {
        let at = now.saturating_duration_since(self.origin);
        match self.calls.last() {
            Some(last) if last.is_same(call) => last.repeat(at, call.bytes),
            _ => *self.calls.place() = Entry { at, ..call.clone() },
        }
    }

    /// Records that the guest posts a message. Returns the call's entry, unless it repeats the last
    /// call apart from the results. An invalid address is left out.
    pub(crate) fn post(&mut self, kind: &MessageType, from: Option<&Address>, to: Option<&Address>) -> Option<Entry> {
        let [is_from, is_to] = [from, to].map(|address| address.map(Address::as_str));
        let is_again = self.calls.last().is_some_and(|last| last.is_message(POST, kind, is_from, is_to));
        (!is_again).then(|| Entry::call(POST).message(kind, from.map(Address::shared), to.map(Address::shared)))
    }

    /// Records the result of a post.
    pub(crate) fn posted(&mut self, now: Instant, call: Option<Entry>, bytes: usize, posted: &Result<(), Error>) {
        let at = now.saturating_duration_since(self.origin);
        let (bytes, error) = (count(bytes), posted.as_ref().err().map(CallError::from));
        let call = match (call, self.calls.last()) {
            (Some(call), _) => call,
            (None, Some(last)) if last.error == error => return last.repeat(at, bytes),
            (None, Some(last)) => last.clone(),
            (None, None) => return,
        };
        *self.calls.place() = Entry { at, bytes, error, times: 1, ..call };
    }

    /// Returns the age of the instance, and the duration of the guest call that ended it.
    pub(crate) fn ages(&self) -> (Duration, Duration) {
        let age = self.origin.elapsed();
        (age, age.saturating_sub(self.call_began))
    }

    /// Returns the remembered activities, oldest first, and the numbers of events and calls that
    /// are forgotten. `age` is the instance's at its end.
    pub(crate) fn take(&mut self, age: Duration) -> (Vec<Activity>, u64, u64) {
        let (events, lost_events) = self.events.take();
        let (calls, lost_calls) = self.calls.take();
        let events = events.into_iter().map(|event| (event.at, event.activity(ActivityKind::Event, age)));
        let calls = calls.into_iter().map(|call| (call.at, call.activity(ActivityKind::Call, age)));
        let mut all: Vec<_> = events.chain(calls).collect();
        // Stable: the events of a call come before the calls that the guest made.
        all.sort_by_key(|(at, _)| *at);
        (all.into_iter().map(|(_, activity)| activity).collect(), lost_events, lost_calls)
    }
}

impl Ring {
    /// Reserves two entries before the guest runs: a stub that connects makes as many calls. On the
    /// guest's stack, growing would touch pages that stay in memory (`idle_stub_kib`).
    fn reserve(&mut self) {
        let (taken, room) = (self.entries.len(), self.entries.capacity());
        if room - taken < 2 && room < ENTRIES {
            if self.entries.is_empty() {
                // A vector reserves four at first, and many stubs make no further call
                // (`idle_stub_kib`).
                self.entries.reserve_exact(2);
            } else {
                self.entries.reserve(2);
            }
        }
    }

    /// Returns the place for one more entry: a new one, or the oldest one's.
    fn place(&mut self) -> &mut Entry {
        if self.entries.len() < ENTRIES {
            if self.entries.is_empty() {
                // Many stubs get `connect`, and no other event for long (`idle_stub_kib`).
                self.entries.reserve_exact(1);
            }
            return self.entries.push_mut(Entry::new(""));
        }
        let oldest = &mut self.entries[self.next];
        self.next = (self.next + 1) % ENTRIES;
        self.lost += 1;
        oldest
    }

    fn last(&mut self) -> Option<&mut Entry> {
        let last = self.next.checked_sub(1).or_else(|| self.entries.len().checked_sub(1))?;
        self.entries.get_mut(last)
    }

    /// Takes the entries, oldest first, and the number of lost ones.
    fn take(&mut self) -> (Vec<Entry>, u64) {
        let Self { mut entries, next, lost } = std::mem::take(self);
        entries.rotate_left(next);
        (entries, lost)
    }
}

impl Entry {
    const fn new(name: &'static str) -> Self {
        Self { at: Duration::ZERO, name, detail: None, from: None, to: None, handle: None, bytes: 0, times: 1, error: None }
    }

    fn event(event: Event) -> Self {
        match event {
            Event::Connect(credential) => Self { detail: credential.map(|_| "with a credential"), ..Self::new("connect") },
            Event::Disconnect(reason) => Self {
                detail: Some(match reason {
                    WitDisconnectReason::Request => "request",
                    WitDisconnectReason::Update => "update",
                    WitDisconnectReason::Idle => "idle",
                    WitDisconnectReason::Shutdown => "shutdown",
                }),
                ..Self::new("disconnect")
            },
            Event::Message(message) => {
                let bytes = message.body.as_ref().map_or(0, |body| body.len());
                Self::new(MESSAGE).message(&message.kind, Some(message.from), Some(message.to)).bytes(bytes)
            }
            Event::Timer(handle) => Self::new("timer").handle(handle),
            Event::Ready(handle) => Self::new("ready").handle(handle),
        }
    }

    /// Makes the entry of a call of a function of the contract, named `interface.function`.
    pub(crate) const fn call(name: &'static str) -> Self {
        Self::new(name)
    }

    pub(crate) fn detail(self, detail: &'static str) -> Self {
        Self { detail: Some(detail), ..self }
    }

    /// Adds a message's type and addresses. An invalid address is left out.
    pub(crate) fn message(self, kind: &MessageType, from: Option<Arc<str>>, to: Option<Arc<str>>) -> Self {
        Self { detail: Some(kind.name()), from, to, ..self }
    }

    /// Adds the server that a URL leads to. The rest of the URL, and a name and password in it, may
    /// be secrets.
    pub(crate) fn server(self, url: &str) -> Self {
        let server = url.split_once("://").map_or("", |(_, rest)| rest.split(['/', '\\', '?', '#']).next().unwrap_or_default());
        let server = server.rsplit_once('@').map_or(server, |(_, server)| server);
        Self { to: Some(SafeText::cut(server, MAX_SERVER_BYTES).shared()), ..self }
    }

    pub(crate) fn host(self, host: &str, port: u16) -> Self {
        let host = SafeText::cut(host, MAX_SERVER_BYTES);
        Self { to: Some(format!("{host}:{port}").into()), ..self }
    }

    pub(crate) fn handle(self, handle: u32) -> Self {
        Self { handle: NonZeroU32::new(handle), ..self }
    }

    pub(crate) fn bytes(self, bytes: usize) -> Self {
        Self { bytes: count(bytes), ..self }
    }

    /// Adds the host's answer.
    pub(crate) fn result<T>(self, result: &Result<T, Error>) -> Self {
        Self { error: result.as_ref().err().map(CallError::from), ..self }
    }

    /// Adds the host's answer, with a new handle.
    pub(crate) fn opened(self, result: &Result<u32, Error>) -> Self {
        self.handle(*result.as_ref().unwrap_or(&0)).result(result)
    }

    /// Counts one more occurrence.
    fn repeat(&mut self, at: Duration, bytes: u32) {
        self.at = at;
        self.times = self.times.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Returns `true` if the entry has this name, and is of a message of this type between these
    /// two addresses.
    fn is_message(&self, name: &'static str, kind: &MessageType, from: Option<&str>, to: Option<&str>) -> bool {
        is_same_text(Some(self.name), Some(name))
            && is_same_text(self.detail, Some(kind.name()))
            && is_same_text(self.from.as_deref(), from)
            && is_same_text(self.to.as_deref(), to)
    }

    fn is_same(&self, other: &Self) -> bool {
        (self.name, self.detail, self.handle, self.error) == (other.name, other.detail, other.handle, other.error)
            && (&self.from, &self.to) == (&other.from, &other.to)
    }

    fn activity(self, kind: ActivityKind, age: Duration) -> Activity {
        let Self { at, name, detail, from, to, handle, bytes, times, error } = self;
        Activity {
            before: age.saturating_sub(at),
            kind,
            name,
            detail,
            from,
            to,
            handle: handle.map(NonZeroU32::get),
            bytes,
            times,
            error,
        }
    }
}

fn count(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Compares two texts. Most equal texts are the same one in memory.
fn is_same_text(one: Option<&str>, other: Option<&str>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => ptr::eq(one, other) || one == other,
        (one, other) => one == other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::types::{Message, MessageId};

    #[test]
    fn rings_keep_the_last_entries() {
        let mut recorder = Recorder::new();
        for handle in 1..=200 {
            recorder.handled([Event::Timer(handle)]);
            recorder.call(recorder.origin, &Entry::call("timers.cancel").handle(handle));
            recorder.call(recorder.origin, &Entry::call("bus.pause"));
            recorder.call(recorder.origin, &Entry::call("bus.pause"));
        }
        let (activities, lost_events, lost_calls) = recorder.take(Duration::from_secs(1));
        assert_eq!((activities.len(), lost_events, lost_calls), (2 * ENTRIES, 136, 336));
        let handles = |name| activities.iter().filter(|one| one.name == name).map(|one| one.handle).collect::<Vec<_>>();
        assert_eq!(handles("timer"), (137..=200).map(Some).collect::<Vec<_>>());
        assert_eq!(handles("timers.cancel"), (169..=200).map(Some).collect::<Vec<_>>());
        assert!(activities.iter().all(|one| one.times == if one.name == "bus.pause" { 2 } else { 1 }));
    }

    #[test]
    fn repeated_messages_share_an_entry_unless_fatal() {
        let message = |kind: MessageType, to: &str, body: &str| {
            Event::Message(Message {
                id: MessageId::Number(1),
                kind,
                from: "hyperty://home.example/alice".into(),
                to: to.into(),
                via: Vec::new(),
                headers: Vec::new(),
                body: Some(Body::Json(body.into())),
            })
        };
        let (bob, carol) = ("hyperty://sp1.example/bob", "hyperty://sp1.example/carol");
        let mut recorder = Recorder::new();
        recorder.handled([message(MessageType::Update, bob, "1"), message(MessageType::Update, bob, "20")]);
        recorder.handled([message(MessageType::Update, bob, "3"), message(MessageType::Update, carol, "4"), Event::Timer(1)]);
        recorder.handled([message(MessageType::Read, carol, "5"), message(MessageType::Update, carol, "6")]);
        recorder.fatal([message(MessageType::Update, carol, "70"), message(MessageType::Update, carol, "800")]);
        let (activities, ..) = recorder.take(Duration::from_secs(1));
        let told: Vec<_> = activities.iter().map(|one| (one.name, one.bytes, one.times)).collect();
        assert_eq!(
            told,
            [
                ("message", 4, 3),
                ("message", 1, 1),
                ("timer", 0, 1),
                ("message", 1, 1),
                ("message", 1, 1),
                ("message", 2, 1),
                ("message", 3, 1)
            ]
        );
        assert_eq!(activities[0].to.as_deref(), Some(bob));
    }

    #[test]
    fn repeated_posts_share_an_entry() {
        let mut recorder = Recorder::new();
        let [alice, bob] = ["alice", "bob"].map(|name| Address::parse(&format!("hyperty://sp1.example/{name}")).unwrap());
        // Another text with the same content.
        let bob_again = Address::parse(bob.as_str()).unwrap();
        let mut post = |kind, from, to, bytes, posted: Result<(), Error>| {
            let call = recorder.post(&kind, Some(from), to);
            recorder.posted(recorder.origin, call, bytes, &posted);
        };
        post(MessageType::Update, &alice, Some(&bob), 1, Ok(()));
        post(MessageType::Update, &alice, Some(&bob_again), 2, Ok(()));
        post(MessageType::Update, &alice, Some(&bob), 3, Err(Error::Busy));
        post(MessageType::Update, &alice, Some(&bob), 4, Err(Error::Busy));
        post(MessageType::Update, &alice, Some(&bob), 5, Ok(()));
        post(MessageType::Read, &alice, Some(&bob), 6, Ok(()));
        post(MessageType::Read, &bob, Some(&alice), 7, Ok(()));
        post(MessageType::Read, &bob, None, 8, Err(Error::Invalid(String::new())));
        let (activities, ..) = recorder.take(Duration::from_secs(1));
        let told: Vec<_> = activities.iter().map(|one| (one.detail.unwrap(), one.bytes, one.times, one.error)).collect();
        let (busy, invalid) = (Some(CallError::Busy), Some(CallError::Invalid));
        assert_eq!(
            told,
            [
                ("update", 3, 2, None),
                ("update", 7, 2, busy),
                ("update", 5, 1, None),
                ("read", 6, 1, None),
                ("read", 7, 1, None),
                ("read", 8, 1, invalid)
            ]
        );
        assert!(activities.iter().all(|one| one.name == "bus.post"));
        assert_eq!(activities[1].to.as_deref(), Some(bob.as_str()));
        assert_eq!(activities[5].to, None);
    }

    #[test]
    fn ring_with_room_keeps_every_entry() {
        let mut recorder = Recorder::new();
        recorder.call(recorder.origin, &Entry::call("session.save").bytes(3));
        recorder.call(recorder.origin, &Entry::call("session.save").bytes(4));
        recorder.call(recorder.origin, &Entry::call("session.load"));
        let (activities, ..) = recorder.take(Duration::from_secs(1));
        let told: Vec<_> = activities.iter().map(|one| (one.name, one.bytes, one.times)).collect();
        assert_eq!(told, [("session.save", 7, 2), ("session.load", 0, 1)]);
    }

    #[test]
    fn url_keeps_only_its_server() {
        let server = |url| Entry::call("http.send").server(url).to.unwrap().to_string();
        assert_eq!(server("https://name:secret@sp1.example:8443/secret?token=secret#secret"), "sp1.example:8443");
        assert_eq!(server("wss://sp1.example?token=secret"), "sp1.example");
        assert_eq!(server("wss://secret\\@sp1.example"), "secret");
        assert_eq!(server("secret@sp1.example"), "");
        assert!(server(&format!("wss://{}", "ä".repeat(1_000))).len() <= MAX_SERVER_BYTES);
    }
}
