//! What outlives a connection, and, in the host's `session`, the instance: who the stub is to the broker, who subscribed to what, and publications that
//! the broker has not acknowledged.

use std::collections::VecDeque;

use protostub_sdk::{Message, log, session};
use serde::{Deserialize, Serialize};

use crate::{
    config::{Config, Qos, Version},
    wire::{Codec, Packet, Publish, Reader},
};

/// What the host keeps.
const MAX_SAVED_BYTES: usize = 64 * 1024;
/// What of it is for subscriptions.
const MAX_HEAD_BYTES: usize = 48 * 1024;

/// What the stub and the broker know of each other.
#[derive(Debug)]
pub(crate) struct Session {
    codec: Codec,
    head: Head,
    /// Whether this instance was connected before.
    pub(crate) was_connected: bool,
    last_id: u16,
    /// QoS 1, not acknowledged, in their order.
    pub(crate) publications: VecDeque<Publication>,
    /// Subscribing and unsubscribing, not acknowledged, in their order.
    pub(crate) pending: Vec<Pending>,
    is_dirty: bool,
}

/// The beginning of what is saved, as JSON; publications follow as MQTT packets.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Head {
    version: u8,
    client_id: String,
    subscriptions: Vec<Subscription>,
}

/// A topic filter that the stub has subscribed to.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Subscription {
    pub(crate) filter: String,
    qos: u8,
    /// What the broker calls it.
    pub(crate) number: u32,
    /// Who gets what arrives.
    pub(crate) subscribers: Vec<String>,
}

/// A publication on its way.
#[derive(Debug)]
pub(crate) struct Publication {
    pub(crate) id: u16,
    pub(crate) publish: Publish,
    /// Whether it was sent over this connection.
    pub(crate) is_sent: bool,
    /// Who is to be told, without its body.
    pub(crate) request: Option<Message>,
}

/// A packet that changes a subscription, on its way.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) id: u16,
    pub(crate) change: Change,
    pub(crate) filter: String,
    /// Who is to be told; none: the stub renews what it has.
    pub(crate) request: Option<Message>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Subscribe,
    Unsubscribe,
}

impl Subscription {
    pub(crate) fn qos(&self) -> Qos {
        Qos::from_number(self.qos.into()).unwrap_or_default()
    }
}

impl Session {
    /// Takes up what an instance before has saved, or begins anew.
    pub(crate) fn load(config: &Config) -> Self {
        let mut this = Self {
            codec: Codec(config.version),
            head: Head::default(),
            was_connected: false,
            last_id: 0,
            publications: VecDeque::new(),
            pending: Vec::new(),
            is_dirty: false,
        };
        if let Some(saved) = session::load()
            && this.read(&saved).is_none()
        {
            log::warn!("the session that was saved cannot be read, and is forgotten");
        }
        let client_id = config.client_id.clone().unwrap_or_else(|| match &*this.head.client_id {
            "" => new_client_id(),
            saved => saved.to_owned(),
        });
        this.head = Head { version: this.version(), client_id, subscriptions: this.head.subscriptions };
        this
    }

    fn read(&mut self, saved: &[u8]) -> Option<()> {
        let (length, rest) = saved.split_first_chunk::<4>()?;
        let (head, packets) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
        self.head = serde_json::from_slice(head).ok()?;
        let version = if self.head.version == 4 { Version::V4 } else { Version::V5 };
        let mut reader = Reader::new(Codec(version), u32::MAX);
        reader.feed(packets.to_vec());
        while let Some(Packet::Publish(publish)) = reader.next().ok()? {
            let id = publish.id?;
            self.publications.push_back(Publication { id, publish, is_sent: true, request: None });
        }
        Some(())
    }

    fn version(&self) -> u8 {
        match self.codec.0 {
            Version::V4 => 4,
            Version::V5 => 5,
        }
    }

    pub(crate) fn client_id(&self) -> &str {
        &self.head.client_id
    }

    /// The broker has given the stub another name.
    pub(crate) fn set_client_id(&mut self, client_id: String) {
        self.head.client_id = client_id;
        self.is_dirty = true;
    }

    pub(crate) fn subscriptions(&self) -> &[Subscription] {
        &self.head.subscriptions
    }

    /// A packet identifier that is free. There are many more than packets may be on their way.
    pub(crate) fn next_id(&mut self) -> u16 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            let id = self.last_id;
            if !self.publications.iter().any(|publication| publication.id == id)
                && !self.pending.iter().any(|change| change.id == id)
            {
                return id;
            }
        }
    }

    pub(crate) fn publish(&mut self, mut publish: Publish, request: Option<Message>) -> u16 {
        let id = self.next_id();
        publish.id = Some(id);
        self.publications.push_back(Publication { id, publish, is_sent: false, request });
        self.is_dirty = true;
        id
    }

    /// The broker has acknowledged it.
    pub(crate) fn published(&mut self, id: u16) -> Option<Publication> {
        let index = self.publications.iter().position(|publication| publication.id == id)?;
        self.is_dirty = true;
        self.publications.remove(index)
    }

    /// Adds a subscriber; false: there is no room for one more.
    pub(crate) fn add(&mut self, filter: &str, qos: Qos, subscriber: &str) -> bool {
        let added = if let Some(known) = self.head.subscriptions.iter_mut().find(|known| known.filter == filter) {
            known.qos = known.qos.max(qos as u8);
            let is_new = !known.subscribers.iter().any(|other| other == subscriber);
            if is_new {
                known.subscribers.push(subscriber.to_owned());
            }
            is_new
        } else {
            let number = self.head.subscriptions.iter().map(|subscription| subscription.number).max().unwrap_or(0) + 1;
            let subscribers = vec![subscriber.to_owned()];
            self.head.subscriptions.push(Subscription { filter: filter.to_owned(), qos: qos as u8, number, subscribers });
            true
        };
        let fits = serde_json::to_vec(&self.head).is_ok_and(|head| head.len() <= MAX_HEAD_BYTES);
        if added && !fits {
            self.remove(filter, subscriber);
        }
        self.is_dirty = true;
        fits || !added
    }

    /// Removes a subscriber: whether the broker is no longer to send what the filter matches, since it was the last one. None: it is no subscriber.
    pub(crate) fn remove(&mut self, filter: &str, subscriber: &str) -> Option<bool> {
        let subscriptions = &mut self.head.subscriptions;
        let index = subscriptions.iter().position(|known| known.filter == filter)?;
        let subscribers = &mut subscriptions.get_mut(index)?.subscribers;
        let position = subscribers.iter().position(|known| known == subscriber)?;
        subscribers.remove(position);
        let was_last = subscribers.is_empty();
        if was_last {
            subscriptions.remove(index);
        }
        self.is_dirty = true;
        Some(was_last)
    }

    pub(crate) fn change(&mut self, change: Change, filter: &str, request: Option<Message>) -> u16 {
        let id = self.next_id();
        self.pending.push(Pending { id, change, filter: filter.to_owned(), request });
        id
    }

    pub(crate) fn changed(&mut self, id: u16) -> Option<Pending> {
        let index = self.pending.iter().position(|pending| pending.id == id)?;
        Some(self.pending.remove(index))
    }

    /// Those who are to get a publication of the broker, each of them once.
    pub(crate) fn receivers(&self, publish: &Publish) -> Vec<&str> {
        let mut receivers: Vec<&str> = Vec::new();
        for subscription in self.subscriptions() {
            let is_meant = if publish.subscriptions.is_empty() {
                crate::topic::matches(&subscription.filter, &publish.topic)
            } else {
                publish.subscriptions.contains(&subscription.number)
            };
            if is_meant {
                for subscriber in &subscription.subscribers {
                    if !receivers.contains(&&**subscriber) {
                        receivers.push(subscriber);
                    }
                }
            }
        }
        receivers
    }

    /// A connection was accepted. `is_present`: the broker has kept its half of the session.
    pub(crate) fn begin(&mut self, is_present: bool) {
        for publication in &mut self.publications {
            publication.publish.dup = is_present && (publication.is_sent || publication.publish.dup);
            publication.is_sent = false;
        }
        // An instance that begins has lost what was on its way: it renews everything.
        if !is_present || !self.was_connected {
            let filters: Vec<_> = self.subscriptions().iter().map(|subscription| subscription.filter.clone()).collect();
            for filter in filters {
                if !self.pending.iter().any(|pending| pending.change == Change::Subscribe && pending.filter == filter) {
                    self.change(Change::Subscribe, &filter, None);
                }
            }
        }
        self.was_connected = true;
        self.is_dirty = true;
    }

    /// Saves what has changed.
    pub(crate) fn save(&mut self) {
        if !std::mem::take(&mut self.is_dirty) {
            return;
        }
        let saved = self.write();
        if let Err(error) = saved.and_then(|bytes| session::save(&bytes)) {
            log::warn!("the session was not saved: {error}");
        }
    }

    fn write(&self) -> protostub_sdk::Result<Vec<u8>> {
        let head = serde_json::to_vec(&self.head)?;
        let mut bytes = u32::try_from(head.len()).unwrap_or(u32::MAX).to_be_bytes().to_vec();
        bytes.extend(head);
        for publication in &self.publications {
            // What has no room is not saved, nor is what comes after it: that would be another order.
            if bytes.len() + publication.publish.payload.len() > MAX_SAVED_BYTES {
                break;
            }
            let packet = self.codec.publish(&publication.publish)?;
            if bytes.len() + packet.len() > MAX_SAVED_BYTES {
                break;
            }
            bytes.extend(packet);
        }
        Ok(bytes)
    }

    /// There will be no other connection.
    pub(crate) fn forget(&mut self) {
        session::forget();
        self.is_dirty = false;
    }

    /// Takes everybody who waits to be told.
    pub(crate) fn take_requests(&mut self) -> Vec<Message> {
        let published = self.publications.iter_mut().filter_map(|publication| publication.request.take());
        let changed = self.pending.iter_mut().filter_map(|pending| pending.request.take());
        published.chain(changed).collect()
    }
}

/// 23 letters and digits, which every broker takes.
fn new_client_id() -> String {
    "protostub".chars().chain(std::iter::repeat_with(fastrand::alphanumeric).take(14)).collect()
}
