//! Requests to a server that it has not answered, with the requests of the bus that wait for them.
//!
//! ```
//! use protostub_sdk::{Error, Message, Result, Stub, pending::PendingRequests};
//!
//! /// Passes a request on under a number that the server's answer has too.
//! fn pass_on(pending: &mut PendingRequests<u32>, number: u32, request: &Message) -> Result<()> {
//!     pending.insert(number, (), Some(request))
//!     // … and sends it
//! }
//!
//! type Pending = PendingRequests<u32>;
//!
//! fn answered(stub: &Stub, pending: &mut Pending, number: u32, code: u16) -> Result<()> {
//!     match pending.complete(&number).and_then(|answered| answered.request) {
//!         Some(request) => stub.post(request.response(code, None)),
//!         None => Ok(()),
//!     }
//! }
//!
//! fn broke(stub: &Stub, pending: &mut PendingRequests<u32>, error: &Error) -> Result<()> {
//!     for request in pending.take_requests() {
//!         stub.post(request.error_response(503, &error.to_string()))?;
//!     }
//!     Ok(())
//! }
//! ```

use crate::{Error, Message, Result};

/// A table of unanswered requests, in the order in which the stub sent them. `K` identifies the
/// server's answer: an id, or a sequence number. `T` is further data of the stub, such as a packet
/// that the stub sends again over the next connection.
///
/// Finding an entry takes longer the more entries there are. The table stays quick if the stub
/// takes a message of the bus only while the table has fewer than some hundred entries. The other
/// messages wait at the host.
#[derive(Debug, Clone)]
pub struct PendingRequests<K, T = ()> {
    entries: Vec<PendingRequest<K, T>>,
    max_entries: usize,
}

/// An unanswered request to the server.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PendingRequest<K, T> {
    /// The key that the server's answer names.
    pub key: K,
    /// Further data of the stub.
    pub data: T,
    /// The request of the bus that waits for the answer, without its body.
    pub request: Option<Message>,
}

impl<K: PartialEq, T> PendingRequests<K, T> {
    /// Makes an empty table for at most `max_entries`.
    #[must_use]
    pub fn new(max_entries: usize) -> Self {
        Self { entries: Vec::new(), max_entries }
    }

    /// Returns the number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns `true` if no entry waits for an answer.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns `true` if this key waits for an answer.
    #[must_use]
    pub fn contains(&self, key: &K) -> bool {
        self.entries.iter().any(|entry| entry.key == *key)
    }

    /// Adds an entry at the end. If `message` is a request, the entry keeps it without its body:
    /// senders of other messages wait for no answer.
    ///
    /// # Errors
    /// [`Error::Limit`], if the table is full; [`Error::Invalid`], if the key is in use. The table
    /// is unchanged then.
    pub fn insert(&mut self, key: K, data: T, message: Option<&Message>) -> Result<()> {
        if self.entries.len() >= self.max_entries {
            return Err(full(self.max_entries));
        }
        if self.contains(&key) {
            return Err(in_use());
        }
        let request = message.filter(|message| message.expects_response()).map(Message::without_body);
        self.entries.push(PendingRequest { key, data, request });
        Ok(())
    }

    /// Takes the entry that the server has answered. Returns `None` if no entry has this key.
    pub fn complete(&mut self, key: &K) -> Option<PendingRequest<K, T>> {
        let place = self.entries.iter().position(|entry| entry.key == *key)?;
        Some(self.entries.remove(place))
    }

    /// Returns the entries, the oldest first.
    #[must_use]
    pub fn entries(&self) -> &[PendingRequest<K, T>] {
        &self.entries
    }

    /// Returns the entries, the oldest first, with mutable data.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut PendingRequest<K, T>> {
        self.entries.iter_mut()
    }

    /// Takes all waiting requests, for the stub to answer them. The entries stay, without requests.
    pub fn take_requests(&mut self) -> Vec<Message> {
        self.entries.iter_mut().filter_map(|entry| entry.request.take()).collect()
    }
}

fn full(max_entries: usize) -> Error {
    Error::Limit(format!(
        "{max_entries} requests wait for the server, which is the stub's limit; try again once the server has answered one"
    ))
}

fn in_use() -> Error {
    Error::Invalid("a pending request has this key already; use another key".to_owned())
}

#[cfg(test)]
mod tests {
    use super::PendingRequests;
    use crate::{Error, Message, MessageType};

    fn message(kind: MessageType) -> Message {
        Message::new(kind, "hyperty://sp1.example/bob").with_id(7).with_body(serde_json::json!([1]))
    }

    #[test]
    fn entries_complete_once_in_any_order() {
        let mut pending = PendingRequests::new(3);
        for (key, kind) in [("a", MessageType::Read), ("b", MessageType::Update), ("c", MessageType::Create)] {
            pending.insert(key, key.len(), Some(&message(kind))).unwrap();
        }
        assert!(matches!(pending.insert("d", 0, None), Err(Error::Limit(_))));
        let completed = pending.complete(&"b").unwrap();
        assert_eq!((completed.key, completed.data, completed.request), ("b", 1, None));
        assert!(pending.complete(&"b").is_none() && !pending.contains(&"b"));
        assert!(matches!(pending.insert("a", 0, None), Err(Error::Invalid(_))));
        assert_eq!(pending.entries().iter().map(|entry| entry.key).collect::<Vec<_>>(), ["a", "c"]);
        let request = pending.complete(&"a").and_then(|answered| answered.request).unwrap();
        assert_eq!((request.id, request.body), (7.into(), None));
    }

    #[test]
    fn taken_requests_leave_their_entries() {
        let mut pending = PendingRequests::new(3);
        pending.insert(1, (), Some(&message(MessageType::Read))).unwrap();
        pending.insert(2, (), None).unwrap();
        assert_eq!(pending.take_requests().len(), 1);
        assert_eq!((pending.len(), pending.take_requests().len()), (2, 0));
        assert!(pending.complete(&1).unwrap().request.is_none());
    }
}
