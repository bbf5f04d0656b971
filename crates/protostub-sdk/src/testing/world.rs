//! The fake host's state. The stub's imports and the test's calls both change it; neither holds it
//! while the other one runs.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use super::{http::FakeExchange, identity::FakeIdentity, tcp::FakeTcp, websocket::FakeSocket};
use crate::{Error, Message, Status, guest::HostEvent};

thread_local!(pub(super) static WORLD: RefCell<World> = RefCell::default());

pub(super) fn with<T>(use_it: impl FnOnce(&mut World) -> T) -> T {
    WORLD.with_borrow_mut(use_it)
}

#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) now: Duration,
    pub(super) configuration: String,
    pub(super) events: VecDeque<HostEvent>,
    pub(super) inbox: VecDeque<Message>,
    pub(super) paused: bool,
    pub(super) posted: Vec<Message>,
    pub(super) refusals: VecDeque<Error>,
    pub(super) statuses: Vec<(Status, Option<String>)>,
    taken_statuses: usize,
    pub(super) session: Option<Vec<u8>>,
    pub(super) log: Vec<String>,
    last_handle: u32,
    /// Handles whose news the stub got, and did not ask for since.
    told: BTreeSet<u32>,
    /// Expiry of each timer.
    pub(super) timers: BTreeMap<u32, Duration>,
    pub(super) sockets: BTreeMap<u32, FakeSocket>,
    pub(super) exchanges: BTreeMap<u32, FakeExchange>,
    pub(super) tcp: BTreeMap<u32, FakeTcp>,
    pub(super) identities: BTreeMap<u32, FakeIdentity>,
    /// Origins that the credential may go to by reference: `https://sp1.example`. If there are any,
    /// the stub does not get its value.
    pub(super) credential_origins: Vec<String>,
    /// Handles that the stub opened and the test did not look at yet.
    pub(super) fresh: VecDeque<u32>,
}

impl World {
    /// Begins a new instance. It drops the state of the instance before, except the session, the
    /// inbox and the record of its actions.
    pub(super) fn begin(&mut self, configuration: String) {
        self.configuration = configuration;
        self.events.clear();
        self.paused = false;
        self.told.clear();
        self.timers.clear();
    }

    pub(super) fn next_handle(&mut self) -> u32 {
        self.last_handle += 1;
        self.last_handle
    }

    /// Marks the handle as having news.
    pub(super) fn news(&mut self, handle: u32) {
        if self.told.insert(handle) {
            self.events.push_back(HostEvent::Ready(handle));
        }
    }

    /// Notes that the stub asked for news of this handle.
    pub(super) fn asked(&mut self, handle: u32) {
        self.told.remove(&handle);
    }

    pub(super) fn status(&self) -> Status {
        self.statuses.last().map_or(Status::Created, |(status, _)| *status)
    }

    pub(super) fn take_statuses(&mut self) -> Vec<(Status, Option<String>)> {
        let fresh = self.statuses[self.taken_statuses..].to_vec();
        self.taken_statuses = self.statuses.len();
        fresh
    }

    pub(super) fn connections(&self) -> usize {
        self.exchanges.len()
            + self.tcp.values().filter(|connection| !connection.closed_by_stub).count()
            + self.sockets.values().filter(|socket| socket.closed_by_stub.is_none()).count()
    }

    /// Lets the first timer that expires by `until` expire, and sets the time to its expiry.
    pub(super) fn next_timer(&mut self, until: Duration) -> bool {
        let next = self.timers.iter().map(|(handle, at)| (*at, *handle)).min();
        match next.filter(|(at, _)| *at <= until) {
            Some((at, handle)) => {
                self.timers.remove(&handle);
                self.now = self.now.max(at);
                self.events.push_back(HostEvent::Timer(handle));
                true
            }
            None => false,
        }
    }

    pub(super) fn next_batch(&mut self, most: usize) -> Vec<HostEvent> {
        let mut batch: Vec<_> = self.events.drain(..self.events.len().min(most)).collect();
        if self.status() == Status::Live && !self.paused {
            let messages = self.inbox.len().min(most - batch.len());
            batch.extend(self.inbox.drain(..messages).map(|message| HostEvent::Stub(crate::Event::Message(message))));
        }
        batch
    }
}
