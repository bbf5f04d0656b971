//! The state that outlives a connection and, in the host's `session`, the instance: the stub's
//! client identifier, the subscribers of each topic, and publications that the broker has not
//! acknowledged.

use std::borrow::Cow;

use protostub_sdk::{
    Message, Result, log,
    pending::{PendingRequest, PendingRequests},
    session,
    subscribers::{Added, Removed, SubscriberTable, Subscription},
};
use serde::{Deserialize, Serialize};

use crate::{
    config::{Config, Qos, Version},
    wire::{Codec, Packet, Publish, Reader},
};

/// Size limit of the host's `session`.
const MAX_SAVED_BYTES: usize = 64 * 1024;
/// The part of it that subscriptions may take.
const MAX_HEAD_BYTES: usize = 48 * 1024;
/// Maximum number of packets of each kind with an identifier: half of all identifiers.
const MAX_PENDING: usize = 1 << 15;

/// A publication in flight, by its packet identifier.
pub(crate) type Publication = PendingRequest<u16, Outbound>;
/// A packet in flight that changes a subscription, by its packet identifier. Without a request, the
/// stub renews a subscription.
pub(crate) type Pending = PendingRequest<u16, Change>;

/// The shared state of the stub and the broker.
#[derive(Debug)]
pub(crate) struct Session {
    codec: Codec,
    client_id: String,
    /// The topic filters that the stub has subscribed to, with their subscribers.
    subscriptions: SubscriberTable<Subscribed>,
    /// `true` if this instance was connected before.
    pub(crate) was_connected: bool,
    last_id: u16,
    /// Unacknowledged publications of QoS 1, in order.
    pub(crate) publications: PendingRequests<u16, Outbound>,
    /// Unacknowledged subscribes and unsubscribes, in order.
    pub(crate) pending: PendingRequests<u16, Change>,
    is_dirty: bool,
}

/// The beginning of the saved bytes, as JSON; publications follow as MQTT packets.
#[derive(Debug, Serialize, Deserialize)]
struct Head<'a> {
    version: u8,
    client_id: Cow<'a, str>,
    subscriptions: Vec<SavedSubscription<'a>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedSubscription<'a> {
    filter: Cow<'a, str>,
    qos: u8,
    number: u32,
    subscribers: Cow<'a, [String]>,
}

impl<'a> From<&'a Subscription<Subscribed>> for SavedSubscription<'a> {
    fn from(known: &'a Subscription<Subscribed>) -> Self {
        let Subscribed { qos, number } = known.data;
        Self { filter: known.topic().into(), qos: qos as u8, number, subscribers: known.subscribers().into() }
    }
}

/// The stub's data of a subscribed topic filter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subscribed {
    pub(crate) qos: Qos,
    /// The broker's identifier of the subscription.
    pub(crate) number: u32,
}

/// A publication to the broker.
#[derive(Debug)]
pub(crate) struct Outbound {
    pub(crate) publish: Publish,
    /// `true` if it was sent over this connection.
    pub(crate) is_sent: bool,
}

/// A change of the subscription of a topic filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Subscribe(String),
    Unsubscribe(String),
}

impl Session {
    /// Resumes the session that an earlier instance saved, or begins a new one.
    pub(crate) fn load(config: &Config) -> Self {
        let mut this = Self {
            codec: Codec(config.version),
            client_id: String::new(),
            subscriptions: SubscriberTable::new(MAX_HEAD_BYTES),
            was_connected: false,
            last_id: 0,
            publications: PendingRequests::new(MAX_PENDING),
            pending: PendingRequests::new(MAX_PENDING),
            is_dirty: false,
        };
        if let Some(saved) = session::load()
            && this.read(&saved).is_none()
        {
            log::warn!("the saved session cannot be read and is dropped");
        }
        if let Some(client_id) = &config.client_id {
            this.client_id.clone_from(client_id);
        } else if this.client_id.is_empty() {
            this.client_id = new_client_id();
        }
        this
    }

    fn read(&mut self, saved: &[u8]) -> Option<()> {
        let (length, rest) = saved.split_first_chunk::<4>()?;
        let (head, packets) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
        let head: Head<'_> = serde_json::from_slice(head).ok()?;
        self.client_id = head.client_id.into_owned();
        for SavedSubscription { filter, qos, number, subscribers } in head.subscriptions {
            let data = Subscribed { qos: Qos::from_number(qos.into()).unwrap_or_default(), number };
            for subscriber in &*subscribers {
                self.subscriptions.add(&filter, subscriber, data).ok()?;
            }
        }
        let version = if head.version == 4 { Version::V4 } else { Version::V5 };
        let mut reader = Reader::new(Codec(version), u32::MAX);
        reader.feed(packets.to_vec());
        while let Some(Packet::Publish(publish)) = reader.next().ok()? {
            self.publications.insert(publish.id?, Outbound { publish, is_sent: true }, None).ok()?;
        }
        Some(())
    }

    pub(crate) fn client_id(&self) -> &str {
        &self.client_id
    }

    /// Stores the identifier that the broker has assigned to the stub.
    pub(crate) fn set_client_id(&mut self, client_id: String) {
        self.client_id = client_id;
        self.is_dirty = true;
    }

    /// Returns the stub's data of a topic filter, or `None` if the stub is not subscribed to it.
    pub(crate) fn subscribed(&self, filter: &str) -> Option<Subscribed> {
        self.subscriptions.get(filter).map(|known| known.data)
    }

    /// Returns a free packet identifier. There are many more identifiers than packets in flight.
    fn next_id(&mut self) -> u16 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            if !self.publications.contains(&self.last_id) && !self.pending.contains(&self.last_id) {
                return self.last_id;
            }
        }
    }

    /// Takes the publication of `message`. Returns its packet identifier, or `None` if there is no
    /// room.
    pub(crate) fn publish(&mut self, mut publish: Publish, message: &Message) -> Option<u16> {
        let id = self.next_id();
        publish.id = Some(id);
        self.publications.insert(id, Outbound { publish, is_sent: false }, Some(message)).ok()?;
        self.is_dirty = true;
        Some(id)
    }

    /// Completes a publication that the broker has acknowledged.
    pub(crate) fn published(&mut self, id: u16) -> Option<Publication> {
        let publication = self.publications.complete(&id)?;
        self.is_dirty = true;
        Some(publication)
    }

    /// Adds a subscriber. Returns `false` if there is no room for it.
    pub(crate) fn add(&mut self, filter: &str, qos: Qos, subscriber: &str) -> bool {
        let number = self.subscriptions.subscriptions().iter().map(|known| known.data.number).max().unwrap_or(0) + 1;
        let Ok(added) = self.subscriptions.add(filter, subscriber, Subscribed { qos, number }) else { return false };
        if let Some(known) = self.subscriptions.get_mut(filter) {
            known.data.qos = known.data.qos.max(qos);
        }
        self.is_dirty = true;
        // The JSON is longer than its texts.
        let fits = added == Added::Already || self.head().is_ok_and(|head| head.len() <= MAX_HEAD_BYTES);
        if !fits {
            self.subscriptions.remove(filter, subscriber);
        }
        fits
    }

    /// Removes a subscriber.
    pub(crate) fn remove(&mut self, filter: &str, subscriber: &str) -> Removed {
        let removed = self.subscriptions.remove(filter, subscriber);
        self.is_dirty |= removed != Removed::NotSubscribed;
        removed
    }

    /// Removes a filter with all its subscribers.
    pub(crate) fn remove_filter(&mut self, filter: &str) {
        self.is_dirty |= self.subscriptions.remove_topic(filter).is_some();
    }

    /// Removes all subscriptions of a subscriber. Returns the filters that have no subscribers any
    /// more.
    pub(crate) fn remove_everywhere(&mut self, subscriber: &str) -> Vec<String> {
        self.is_dirty = true;
        self.subscriptions.remove_everywhere(subscriber)
    }

    /// Changes a subscription at the broker, for `message` if there is one. Returns the packet's
    /// identifier, or `None` if there is no room.
    pub(crate) fn change(&mut self, change: Change, message: Option<&Message>) -> Option<u16> {
        let id = self.next_id();
        let inserted = self.pending.insert(id, change, message);
        inserted.inspect_err(|error| log::warn!("a subscription is not changed: {error}")).ok().map(|()| id)
    }

    /// Returns the subscribers that get a publication of the broker, each once.
    pub(crate) fn receivers(&self, publish: &Publish) -> Vec<&str> {
        self.subscriptions.receivers(|known| {
            if publish.subscriptions.is_empty() {
                crate::topic::matches(known.topic(), &publish.topic)
            } else {
                publish.subscriptions.contains(&known.data.number)
            }
        })
    }

    /// Begins an accepted connection. `is_present`: the broker has kept its half of the session.
    pub(crate) fn begin(&mut self, is_present: bool) {
        for publication in self.publications.iter_mut() {
            let Outbound { publish, is_sent } = &mut publication.data;
            publish.dup = is_present && (*is_sent || publish.dup);
            *is_sent = false;
        }
        // A new instance has lost its subscribes in flight, so it renews all subscriptions.
        if !is_present || !self.was_connected {
            let known = self.subscriptions.subscriptions().iter();
            let renewals: Vec<_> = known.map(|known| Change::Subscribe(known.topic().to_owned())).collect();
            for renewal in renewals {
                if !self.pending.entries().iter().any(|pending| pending.data == renewal) {
                    self.change(renewal, None);
                }
            }
        }
        self.was_connected = true;
        self.is_dirty = true;
    }

    /// Saves the session if it has changed.
    pub(crate) fn save(&mut self) {
        if !std::mem::take(&mut self.is_dirty) {
            return;
        }
        let saved = self.write();
        if let Err(error) = saved.and_then(|bytes| session::save(&bytes)) {
            log::warn!("the session was not saved: {error}");
        }
    }

    /// Returns the JSON part of a saved session.
    fn head(&self) -> Result<Vec<u8>> {
        let version = match self.codec.0 {
            Version::V4 => 4,
            Version::V5 => 5,
        };
        let subscriptions = self.subscriptions.subscriptions().iter().map(SavedSubscription::from).collect();
        Ok(serde_json::to_vec(&Head { version, client_id: (&*self.client_id).into(), subscriptions })?)
    }

    fn write(&self) -> Result<Vec<u8>> {
        let head = self.head()?;
        let mut bytes = u32::try_from(head.len()).unwrap_or(u32::MAX).to_be_bytes().to_vec();
        bytes.extend(head);
        for Outbound { publish, .. } in self.publications.entries().iter().map(|publication| &publication.data) {
            // A publication without room is not saved. Later ones are not saved either, because
            // their order would change.
            if bytes.len() + publish.payload.len() > MAX_SAVED_BYTES {
                break;
            }
            let packet = self.codec.publish(publish)?;
            if bytes.len() + packet.len() > MAX_SAVED_BYTES {
                break;
            }
            bytes.extend(packet);
        }
        Ok(bytes)
    }

    /// Deletes the saved session: there will be no other connection.
    pub(crate) fn forget(&mut self) {
        session::forget();
        self.is_dirty = false;
    }

    /// Takes all requests that wait for an answer.
    pub(crate) fn take_requests(&mut self) -> Vec<Message> {
        let mut requests = self.publications.take_requests();
        requests.extend(self.pending.take_requests());
        requests
    }
}

/// Makes an identifier of 23 letters and digits, which every broker accepts.
fn new_client_id() -> String {
    "protostub".chars().chain(std::iter::repeat_with(fastrand::alphanumeric).take(14)).collect()
}
