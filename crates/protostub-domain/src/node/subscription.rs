//! `domain://msg-node.<domain>/sm`: subscriptions to addresses without an owner.

use axum::extract::ws::Utf8Bytes;
use protostub_types::Address;
use serde_json::{Value, json};

use super::{ids::SessionId, state::State, wire::Frame};

impl State {
    /// Answers `subscribe` and `unsubscribe`: for all of the addresses, or none.
    pub(super) fn subscribe(&mut self, session: SessionId, frame: &Frame, to: &Address) -> Utf8Bytes {
        let outcome = match frame.kind.as_str() {
            kind @ ("subscribe" | "unsubscribe") => topics(frame).and_then(|topics| {
                if kind == "subscribe" { self.add_topics(session, topics) } else { self.remove_topics(session, &topics) }
            }),
            kind => Err((500, format!("Unrecognized type '{kind}'"))),
        };
        match outcome {
            Ok(()) => frame.response(to.as_str(), json!({ "code": 200 })),
            Err((code, description)) => frame.error(to.as_str(), code, &description),
        }
    }

    fn add_topics(&mut self, id: SessionId, topics: Vec<Address>) -> Result<(), (u16, String)> {
        let Some(session) = self.sessions.get_mut(&id) else { return Err((500, "No session".into())) };
        let new = topics.iter().filter(|topic| !session.topics.contains(*topic)).count();
        let limit = self.limits.max_subscriptions_per_session;
        if session.topics.len() + new > limit {
            return Err((429, format!("The session would be subscribed to more than {limit} addresses")));
        }
        for topic in topics {
            session.topics.insert(topic.clone());
            self.topics.entry(topic).or_default().insert(id);
        }
        Ok(())
    }

    fn remove_topics(&mut self, id: SessionId, topics: &[Address]) -> Result<(), (u16, String)> {
        let Some(session) = self.sessions.get_mut(&id) else { return Err((500, "No session".into())) };
        for topic in topics {
            session.topics.remove(topic);
        }
        for topic in topics {
            self.remove_subscriber(topic, id);
        }
        Ok(())
    }
}

/// Returns the addresses in `body.resources`, or in `body.subscribe` of older runtimes. Older
/// `unsubscribe` messages have `body.unsubscribe`.
fn topics(frame: &Frame) -> Result<Vec<Address>, (u16, String)> {
    let body = frame.body();
    let older = body.get("subscribe").or_else(|| (frame.kind == "unsubscribe").then(|| body.get("unsubscribe")).flatten());
    let listed = match (body.get("resources"), older) {
        (Some(_), Some(_)) => {
            return Err((500, "You cant use field body.resources' and 'body.subscribe' at the same time".into()));
        }
        (None, None) => return Err((500, "No mandatory field 'body.resources' or 'body.subscribe'".into())),
        (Some(listed), None) | (None, Some(listed)) => listed,
    };
    let listed = match listed {
        Value::Array(listed) => listed.as_slice(),
        single => std::slice::from_ref(single),
    };
    listed
        .iter()
        .map(|topic| {
            let topic = topic.as_str().ok_or((500, "Field 'body.resources' lists an item that is not a text".to_owned()))?;
            Address::parse(topic).map_err(|error| (500, format!("Field 'body.resources': {error}")))
        })
        .collect()
}
