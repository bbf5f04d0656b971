//! The subscribers of each topic, for a stub that shares one subscription at its server among all
//! subscribers of a topic.
//!
//! ```
//! use protostub_sdk::subscribers::{Added, Removed, SubscriberTable};
//!
//! # fn main() -> protostub_sdk::Result<()> {
//! let mut table = SubscriberTable::new(48 * 1024);
//! // The stub subscribes at the server.
//! assert_eq!(table.add("news", "hyperty://a.example/alice", ())?, Added::First);
//! assert_eq!(table.add("news", "hyperty://a.example/bob", ())?, Added::Another);
//! let receivers = table.receivers(|subscription| subscription.topic() == "news");
//! assert_eq!(receivers, ["hyperty://a.example/alice", "hyperty://a.example/bob"]);
//! assert_eq!(table.remove("news", "hyperty://a.example/alice"), Removed::OthersRemain);
//! // The stub unsubscribes at the server.
//! assert_eq!(table.remove_everywhere("hyperty://a.example/bob"), ["news"]);
//! # Ok(())
//! # }
//! ```

use crate::{Error, Result};

/// The subscribers of each topic, with further data of the topic: `T`. Topics and their
/// subscribers keep the order in which they came.
#[derive(Debug, Clone)]
pub struct SubscriberTable<T = ()> {
    subscriptions: Vec<Subscription<T>>,
    /// Bytes of all topics and subscribers, and their limit.
    bytes: usize,
    max_bytes: usize,
}

/// A topic with its subscribers, of which there is at least one.
#[derive(Debug, Clone)]
pub struct Subscription<T> {
    topic: String,
    subscribers: Vec<String>,
    /// Further data of the topic, such as its name at the server.
    pub data: T,
}

/// The result of [`SubscriberTable::add`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "an author handles every result")]
pub enum Added {
    /// The topic is new: the stub subscribes at its server.
    First,
    /// The topic had other subscribers.
    Another,
    /// The subscriber was subscribed to the topic already.
    Already,
}

/// The result of [`SubscriberTable::remove`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "an author handles every result")]
pub enum Removed {
    /// The topic has no subscribers any more, and was removed: the stub unsubscribes at its server.
    Last,
    /// The topic has other subscribers.
    OthersRemain,
    /// The subscriber was not subscribed to the topic.
    NotSubscribed,
}

impl<T> SubscriberTable<T> {
    /// Makes an empty table. Its topics and subscribers have at most `max_bytes` of text.
    #[must_use]
    pub fn new(max_bytes: usize) -> Self {
        Self { subscriptions: Vec::new(), bytes: 0, max_bytes }
    }

    /// Returns the topics with their subscribers.
    #[must_use]
    pub fn subscriptions(&self) -> &[Subscription<T>] {
        &self.subscriptions
    }

    /// Returns a topic with its subscribers.
    #[must_use]
    pub fn get(&self, topic: &str) -> Option<&Subscription<T>> {
        self.subscriptions.iter().find(|known| known.topic == topic)
    }

    /// Returns a topic with its subscribers, with mutable data.
    pub fn get_mut(&mut self, topic: &str) -> Option<&mut Subscription<T>> {
        self.subscriptions.iter_mut().find(|known| known.topic == topic)
    }

    /// Adds a subscriber to a topic. A new topic gets `data`.
    ///
    /// # Errors
    /// [`Error::Limit`], if there is no room; the table is unchanged then.
    pub fn add(&mut self, topic: &str, subscriber: &str, data: T) -> Result<Added> {
        let known = self.subscriptions.iter_mut().find(|known| known.topic == topic);
        if known.as_ref().is_some_and(|known| known.place_of(subscriber).is_some()) {
            return Ok(Added::Already);
        }
        let added = subscriber.len() + if known.is_some() { 0 } else { topic.len() };
        if added > self.max_bytes - self.bytes {
            return Err(Error::Limit(format!(
                "the table of subscriptions is full: {} of {} bytes are in use; unsubscribe from a topic first",
                self.bytes, self.max_bytes
            )));
        }
        self.bytes += added;
        let subscriber = subscriber.to_owned();
        if let Some(known) = known {
            known.subscribers.push(subscriber);
            return Ok(Added::Another);
        }
        self.subscriptions.push(Subscription { topic: topic.to_owned(), subscribers: vec![subscriber], data });
        Ok(Added::First)
    }

    /// Removes a subscriber from a topic.
    pub fn remove(&mut self, topic: &str, subscriber: &str) -> Removed {
        let known = self.get_mut(topic);
        let Some((known, place)) = known.and_then(|known| known.place_of(subscriber).map(|place| (known, place))) else {
            return Removed::NotSubscribed;
        };
        known.subscribers.remove(place);
        let is_last = known.subscribers.is_empty();
        self.bytes -= subscriber.len();
        if !is_last {
            return Removed::OthersRemain;
        }
        self.remove_topic(topic);
        Removed::Last
    }

    /// Removes a subscriber from all its topics. Returns the topics that this removed, because they
    /// have no subscribers any more. The stub unsubscribes from them at its server.
    pub fn remove_everywhere(&mut self, subscriber: &str) -> Vec<String> {
        let all = self.subscriptions.iter().filter(|known| known.place_of(subscriber).is_some());
        let mut topics: Vec<_> = all.map(|known| known.topic.clone()).collect();
        topics.retain(|topic| self.remove(topic, subscriber) == Removed::Last);
        topics
    }

    /// Removes a topic with all its subscribers, for example because the server has refused it.
    /// Returns `None` if the table does not have the topic.
    pub fn remove_topic(&mut self, topic: &str) -> Option<Subscription<T>> {
        let place = self.subscriptions.iter().position(|known| known.topic == topic)?;
        let removed = self.subscriptions.remove(place);
        self.bytes -= removed.bytes();
        Some(removed)
    }

    /// Returns the subscribers of all topics that `is_meant` selects, each once.
    pub fn receivers(&self, is_meant: impl FnMut(&&Subscription<T>) -> bool) -> Vec<&str> {
        let mut receivers: Vec<&str> = Vec::new();
        for subscription in self.subscriptions.iter().filter(is_meant) {
            for subscriber in &subscription.subscribers {
                if !receivers.contains(&subscriber.as_str()) {
                    receivers.push(subscriber);
                }
            }
        }
        receivers
    }
}

impl<T> Subscription<T> {
    /// Returns the topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Returns the topic's subscribers, each once.
    #[must_use]
    pub fn subscribers(&self) -> &[String] {
        &self.subscribers
    }

    fn place_of(&self, subscriber: &str) -> Option<usize> {
        self.subscribers.iter().position(|other| other == subscriber)
    }

    fn bytes(&self) -> usize {
        self.topic.len() + self.subscribers.iter().map(String::len).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::{Added, Removed, SubscriberTable};
    use crate::Error;

    #[test]
    fn changed_table_reports_the_servers_next_step() {
        let mut table = SubscriberTable::new(1000);
        let added =
            [("a", "x"), ("a", "x"), ("a", "y"), ("b", "y")].map(|(topic, who)| table.add(topic, who, who.len()).unwrap());
        assert_eq!(added, [Added::First, Added::Already, Added::Another, Added::First]);
        assert_eq!(table.receivers(|_| true), ["x", "y"]);
        assert_eq!(table.receivers(|known| known.topic() == "b"), ["y"]);
        table.get_mut("b").unwrap().data = 7;
        assert_eq!((table.get("a").unwrap().data, table.get("b").unwrap().data), (1, 7));
        let removed = [("a", "z"), ("c", "x"), ("a", "x")].map(|(topic, who)| table.remove(topic, who));
        assert_eq!(removed, [Removed::NotSubscribed, Removed::NotSubscribed, Removed::OthersRemain]);
        table.add("b", "x", 0).unwrap();
        table.add("c", "y", 0).unwrap();
        assert_eq!(table.remove_everywhere("y"), ["a", "c"]);
        assert_eq!(table.remove("b", "x"), Removed::Last);
        table.add("d", "x", 0).unwrap();
        table.add("d", "y", 0).unwrap();
        assert_eq!(table.remove_topic("d").unwrap().subscribers(), ["x", "y"]);
        assert!(table.remove_topic("d").is_none());
        assert!(table.subscriptions().is_empty() && table.bytes == 0);
    }

    #[test]
    fn full_table_refuses_until_there_is_room() {
        let mut table = SubscriberTable::new(5);
        table.add("ab", "x", ()).unwrap();
        table.add("ab", "yz", ()).unwrap();
        assert!(matches!(table.add("ab", "w", ()), Err(Error::Limit(_))));
        assert!(matches!(table.add("c", "", ()), Err(Error::Limit(_))));
        assert_eq!(table.add("ab", "x", ()), Ok(Added::Already));
        table.remove("ab", "yz");
        assert_eq!(table.add("c", "w", ()), Ok(Added::First));
    }
}
