//! `domain://registry.<domain>`: the locations of users' hyperties and data objects, in memory.

use std::time::Duration;

use axum::extract::ws::Utf8Bytes;
use protostub_types::Address;
use serde_json::{Map, Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::Instant;

use super::{
    ids::SessionId,
    registry::Entry,
    state::{Claim, ClaimError, State},
    wire::Frame,
};

/// Lifetime of a registration that states none.
const DEFAULT_EXPIRES: Duration = Duration::from_secs(3600);
/// Maximum lifetime of a registration without a keep-alive.
const MAX_EXPIRES: Duration = Duration::from_secs(24 * 3600);
/// Maximum number of entries in an answer, the latest first.
const MAX_RESULTS: usize = 100;

/// The code and description of an error answer.
type RegistryError = (u16, String);

/// The changed part of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Status,
    /// Any part but the status.
    Other,
}

impl Change {
    fn of(before: Option<&str>, after: Option<&str>) -> Self {
        if before == after { Self::Other } else { Self::Status }
    }
}

impl State {
    /// Answers `create`, `read`, `update` and `delete`.
    pub(super) fn registry_message(&mut self, session: SessionId, frame: &Frame, to: &Address, now: Instant) -> Utf8Bytes {
        let body = frame.body();
        let outcome = match frame.kind.as_str() {
            "create" => self.register(session, body, now),
            "read" => Ok(self.look_up(&body, to)),
            "update" => self.update_registration(session, &body, to, now),
            "delete" => self.unregister(session, &body, to),
            kind => Err((500, format!("Unrecognized type '{kind}'"))),
        };
        match outcome {
            Ok(body) => frame.response(to.as_str(), body),
            Err((code, description)) => frame.error(to.as_str(), code, &description),
        }
    }

    fn register(&mut self, session: SessionId, mut body: Map<String, Value>, now: Instant) -> Result<Value, RegistryError> {
        let Some(Value::Object(mut value)) = body.remove("value") else {
            return Err((500, "No mandatory field 'body.value'".into()));
        };
        let url = value.get("url").and_then(Value::as_str).ok_or((500, "No mandatory field 'body.value.url'".to_owned()))?;
        let url = Address::parse(url).map_err(|error| (500, format!("Field 'body.value.url': {error}")))?;
        self.check_size(&value)?;
        self.own(session, &url)?;
        if !self.registry.entries.contains_key(&url) && self.registry.entries.len() >= self.limits.max_registrations {
            let oldest =
                self.registry.entries.iter().filter(|(_, entry)| !entry.is_available()).min_by_key(|(_, entry)| entry.changed);
            let oldest = oldest.map(|(url, _)| url.clone()).ok_or((429, "The registry is full".to_owned()))?;
            self.registry.entries.remove(&oldest);
        }
        let expires = value.get("expires").and_then(Value::as_u64).map_or(DEFAULT_EXPIRES, Duration::from_secs);
        let expires = expires.clamp(Duration::from_secs(1), MAX_EXPIRES);
        if !value.get("status").is_some_and(Value::is_string) {
            value.insert("status".into(), "live".into());
        }
        let earlier = self.registry.entries.remove(&url);
        let change =
            earlier.map_or(Change::Other, |entry| Change::of(Some(entry.status()), value.get("status").and_then(Value::as_str)));
        let entry = Entry { owner: Some(session), value, expires, until: now + expires, changed: 0 };
        self.registry.entries.insert(url.clone(), entry);
        self.changed(&url, change);
        Ok(json!({ "code": 200 }))
    }

    /// Looks up entries, by their URL or by user with `criteria`. The forms with a leading slash
    /// also name the kind of object.
    fn look_up(&self, body: &Map<String, Value>, to: &Address) -> Value {
        let not_found = || json!({ "code": 404, "desc": "Not Found", "description": "Not Found" });
        let unavailable = |value: Value| json!({ "code": 408, "desc": "Temporarily Unavailable", "description": "Temporarily Unavailable", "value": value });
        let Some(resource) = body.get("resource").and_then(Value::as_str) else { return not_found() };
        let query = Query::parse(resource, to);
        if let Some(entry) = query.url.as_ref().and_then(|url| self.registry.entries.get(url)) {
            let value = Value::Object(entry.value.clone());
            return if entry.is_available() { json!({ "code": 200, "value": value }) } else { unavailable(value) };
        }
        let criteria = body.get("criteria");
        let criterion = |name: &str| criteria.and_then(|criteria| criteria.get(name));
        let mut found: Vec<_> = self
            .registry
            .entries
            .iter()
            .filter(|(url, entry)| {
                query.scheme.is_none_or(|scheme| scheme == "dataobject" && url.scheme() != "hyperty" || url.scheme() == scheme)
                    && entry.value.get("user").and_then(Value::as_str) == Some(query.user)
                    && entry.has_all("resources", criterion("resources"))
                    && entry.has_all("dataSchemes", criterion("dataSchemes"))
            })
            .collect();
        if found.is_empty() {
            return not_found();
        }
        let some_available = found.iter().any(|(_, entry)| entry.is_available());
        found.retain(|(_, entry)| entry.is_available() == some_available);
        found.sort_unstable_by_key(|(_, entry)| std::cmp::Reverse(entry.changed));
        found.truncate(MAX_RESULTS);
        let value = found
            .into_iter()
            .map(|(url, entry)| (url.as_str().to_owned(), Value::Object(entry.value.clone())))
            .collect::<Map<_, _>>();
        let value = Value::Object(value);
        if some_available { json!({ "code": 200, "value": value }) } else { unavailable(value) }
    }

    /// Updates one entry, or without `resource` all entries of the session: sets a status or
    /// another attribute, or only keeps them alive.
    fn update_registration(
        &mut self,
        session: SessionId,
        body: &Map<String, Value>,
        to: &Address,
        now: Instant,
    ) -> Result<Value, RegistryError> {
        let urls = self.named_entries(session, body.get("resource"), to)?;
        let attribute = body.get("attribute").and_then(Value::as_str);
        for url in urls {
            self.own(session, &url)?;
            let Some(entry) = self.registry.entries.get_mut(&url) else { continue };
            entry.owner = Some(session);
            let mut changed = entry.value.clone();
            let status = entry.status().to_owned();
            match (attribute, body.get("value")) {
                (Some("url"), _) => return Err((500, "The attribute 'url' cannot be changed".into())),
                (Some(attribute), Some(value)) => {
                    changed.insert(attribute.to_owned(), value.clone());
                }
                // A keep-alive makes the entry live.
                _ => {
                    changed.insert("status".to_owned(), "live".into());
                }
            }
            self.check_size(&changed)?;
            let Some(entry) = self.registry.entries.get_mut(&url) else { continue };
            entry.value = changed;
            entry.until = now + entry.expires;
            let change = Change::of(Some(&status), Some(entry.status()));
            self.changed(&url, change);
        }
        Ok(json!({ "code": 200 }))
    }

    fn unregister(&mut self, session: SessionId, body: &Map<String, Value>, to: &Address) -> Result<Value, RegistryError> {
        let resource = body.get("resource").or_else(|| body.get("value").map(|value| value.get("url").unwrap_or(value)));
        for url in self.named_entries(session, resource, to)? {
            self.own(session, &url)?;
            self.set_status(&url, "dead");
            self.registry.entries.remove(&url);
        }
        Ok(json!({ "code": 200 }))
    }

    fn named_entries(&self, session: SessionId, resource: Option<&Value>, to: &Address) -> Result<Vec<Address>, RegistryError> {
        match resource.and_then(Value::as_str) {
            Some(resource) => match Query::parse(resource, to).url {
                Some(url) if self.registry.entries.contains_key(&url) => Ok(vec![url]),
                _ => Err((404, "Not Found".into())),
            },
            None => {
                let own = self.registry.entries.iter().filter(|(_, entry)| entry.owner == Some(session));
                Ok(own.map(|(url, _)| url.clone()).collect())
            }
        }
    }

    /// Claims the address for the session. Fails if another session has it.
    fn own(&mut self, session: SessionId, url: &Address) -> Result<(), RegistryError> {
        if matches!(url.scheme(), "domain" | "global" | "mn") {
            return Err((403, "Message blocked by policy".into()));
        }
        self.claim(session, url, Claim::Learned).map_err(|error| match error {
            ClaimError::Taken => (403, "Message blocked by policy".into()),
            ClaimError::TooMany => (429, "The session has too many addresses".into()),
        })
    }

    fn check_size(&self, value: &Map<String, Value>) -> Result<(), RegistryError> {
        let bytes = serde_json::to_string(value).map_or(usize::MAX, |text| text.len());
        if bytes > self.limits.max_registration_bytes {
            return Err((500, format!("The registration has more than {} bytes", self.limits.max_registration_bytes)));
        }
        Ok(())
    }

    /// Sets the registrations of a session that has ended to disconnected.
    pub(super) fn registry_session_ended(&mut self, session: SessionId, now: Instant) {
        let own: Vec<_> =
            self.registry.entries.iter().filter(|(_, entry)| entry.owner == Some(session)).map(|(url, _)| url.clone()).collect();
        for url in own {
            if let Some(entry) = self.registry.entries.get_mut(&url) {
                entry.owner = None;
                entry.until = now + entry.expires;
            }
            self.set_status(&url, "disconnected");
        }
    }

    /// Sets registrations without a keep-alive to disconnected. After the same time again, removes
    /// them.
    pub(super) fn expire_registrations(&mut self, now: Instant) {
        let over: Vec<_> =
            self.registry.entries.iter().filter(|(_, entry)| entry.until <= now).map(|(url, _)| url.clone()).collect();
        for url in over {
            match self.registry.entries.get_mut(&url) {
                Some(entry) if entry.is_available() => {
                    entry.until = now + entry.expires;
                    self.set_status(&url, "disconnected");
                }
                _ => {
                    self.registry.entries.remove(&url);
                }
            }
        }
    }

    fn set_status(&mut self, url: &Address, status: &str) {
        let Some(entry) = self.registry.entries.get_mut(url) else { return };
        let changed = entry.status() != status;
        entry.value.insert("status".into(), status.into());
        if changed {
            self.changed(url, Change::Status);
        }
    }

    /// Stamps a changed entry. Publishes a changed status to the subscribers of
    /// `<url>/registration`.
    fn changed(&mut self, url: &Address, change: Change) {
        self.registry.changes += 1;
        let changes = self.registry.changes;
        let Some(entry) = self.registry.entries.get_mut(url) else { return };
        entry.changed = changes;
        if let Ok(modified) = OffsetDateTime::now_utc().format(&Rfc3339) {
            entry.value.insert("lastModified".into(), modified.into());
        }
        let Ok(topic) = url.join("registration") else { return };
        let Some(subscribers) = self.topics.get(&topic).filter(|_| change == Change::Status) else { return };
        let text: Utf8Bytes = json!({
            "id": changes, "type": "update", "from": url.as_str(), "to": topic.as_str(),
            "body": { "resource": url.as_str(), "attribute": "status", "value": entry.status() },
        })
        .to_string()
        .into();
        for subscriber in subscribers {
            self.hand_over(*subscriber, text.clone());
        }
    }

    /// Returns the number of entries.
    pub(super) fn registrations(&self) -> usize {
        self.registry.entries.len()
    }
}

/// The parsed `resource` of a request.
struct Query<'a> {
    /// The entry with this URL.
    url: Option<Address>,
    /// The entries of this user.
    user: &'a str,
    /// Entries whose URL has this scheme or, for `dataobject`, any scheme but `hyperty`.
    scheme: Option<&'a str>,
}

impl<'a> Query<'a> {
    /// Parses `<url>`, `<user url>`, `/<kind>/user/<user>`, `/<kind>/url/<url>`, `/<kind>/<url>`
    /// and `/<scheme>/<identifier>`.
    fn parse(resource: &'a str, to: &Address) -> Self {
        let Some((kind, rest)) = resource.strip_prefix('/').and_then(|rest| rest.split_once('/')) else {
            return Self { url: Address::parse(resource).ok(), user: resource, scheme: None };
        };
        if let Some(user) = rest.strip_prefix("user/") {
            return Self { url: None, user, scheme: Some(kind) };
        }
        let rest = rest.strip_prefix("url/").unwrap_or(rest);
        let url = if rest.contains("://") {
            Address::parse(rest).ok()
        } else {
            let domain = to.host().strip_prefix("registry.").unwrap_or(to.host());
            Address::parse(&format!("{kind}://{domain}/{rest}")).ok()
        };
        Self { url, user: rest, scheme: Some(kind) }
    }
}
