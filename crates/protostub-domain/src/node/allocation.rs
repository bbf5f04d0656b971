//! `domain://msg-node.<domain>/address-allocation`: addresses for hyperties and objects.

use std::collections::HashSet;

use axum::extract::ws::Utf8Bytes;
use protostub_types::{Address, Domain};
use serde_json::{Value, json};

use super::{
    ids::SessionId,
    state::{Claim, ClaimError, SessionAddress, State},
    wire::Frame,
};

/// Number of addresses for a request that states none.
const DEFAULT_NUMBER: u64 = 5;

/// Maximum length of a block's key, in bytes.
const MAX_KEY_BYTES: usize = 256;

impl State {
    /// Answers `create` and `delete`.
    pub(super) fn allocate(&mut self, session: SessionId, frame: &Frame, to: &Address, domain: &Domain) -> Utf8Bytes {
        let outcome = match frame.kind.as_str() {
            "create" => self.allocate_block(session, frame, domain),
            "delete" => self.release(session, frame),
            kind => Err((500, format!("Unrecognized type '{kind}'"))),
        };
        match outcome {
            Ok(body) => frame.response(to.as_str(), body),
            Err((code, description)) => frame.error(to.as_str(), code, &description),
        }
    }

    /// Allocates all requested addresses, or none. A key that was used before returns its block
    /// again.
    fn allocate_block(&mut self, id: SessionId, frame: &Frame, domain: &Domain) -> Result<Value, (u16, String)> {
        let body = frame.body();
        let value = body.get("value").and_then(Value::as_object);
        let number = match value.and_then(|value| value.get("number")) {
            None => DEFAULT_NUMBER,
            Some(number) => number
                .as_u64()
                .filter(|number| *number > 0)
                .ok_or((500, "Field 'body.value.number' is not a positive number".into()))?,
        };
        let number = usize::try_from(number).ok().filter(|number| *number <= self.limits.max_allocation).ok_or_else(|| {
            (429, format!("Field 'body.value.number' is {number}; the limit is {} addresses", self.limits.max_allocation))
        })?;
        let scheme = body.get("scheme").and_then(Value::as_str).unwrap_or("hyperty");
        let key = value.and_then(|value| value.get("allocationKey")).and_then(Value::as_str);
        if key.is_some_and(|key| key.len() > MAX_KEY_BYTES) {
            return Err((500, format!("Field 'body.value.allocationKey' is longer than {MAX_KEY_BYTES} bytes")));
        }
        let Some(session) = self.sessions.get(&id) else { return Err((500, "No session".into())) };
        let mut allocated: Vec<_> = match key {
            Some(_) => session.addresses.iter().filter(|(_, of)| of.key() == key).map(|(address, _)| address.clone()).collect(),
            None => Vec::new(),
        };
        allocated.retain(|address| address.scheme() == scheme);
        allocated.sort_unstable();
        allocated.truncate(number);
        let mut new = Vec::new();
        while allocated.len() + new.len() < number {
            let address = Address::parse(&format!("{scheme}://{domain}/{}", uuid::Uuid::new_v4()))
                .ok()
                .filter(|address| address.scheme() == scheme && !matches!(scheme, "domain" | "global" | "mn"))
                .ok_or_else(|| (500, "Field 'body.scheme' is not a scheme for allocated addresses".into()))?;
            match self.claim(id, &address, Claim::Allocated { key: key.map(str::to_owned) }) {
                Ok(()) => new.push(address),
                // Another session has this random address, so the loop generates the next one.
                Err(ClaimError::Taken) => {}
                Err(ClaimError::TooMany) => {
                    for address in &new {
                        self.give_up(id, address);
                    }
                    return Err((429, "The session has too many addresses".into()));
                }
            }
        }
        allocated.append(&mut new);
        let allocated: Vec<_> = allocated.iter().map(Address::as_str).collect();
        Ok(json!({ "code": 200, "value": { "allocated": allocated } }))
    }

    /// Releases the block of a key, one address, or a list of addresses. Addresses of other
    /// sessions stay unchanged.
    fn release(&mut self, id: SessionId, frame: &Frame) -> Result<Value, (u16, String)> {
        let body = frame.body();
        let resource = body.get("resource").and_then(Value::as_str);
        let children: Option<HashSet<&str>> = body
            .get("childrenResources")
            .and_then(Value::as_array)
            .map(|children| children.iter().filter_map(Value::as_str).collect());
        if resource.is_none() && children.is_none() {
            return Err((500, "No mandatory field 'body.resource' or 'body.childrenResources'".into()));
        }
        let Some(session) = self.sessions.get(&id) else { return Err((500, "No session".into())) };
        let released: Vec<_> = session
            .addresses
            .iter()
            .filter(|(address, of)| match resource {
                Some(resource) => address.as_str() == resource || of.key() == Some(resource),
                None => children.as_ref().is_some_and(|children| children.contains(address.as_str())),
            })
            .map(|(address, _)| address.clone())
            .collect();
        for address in &released {
            self.give_up(id, address);
        }
        Ok(json!({ "code": 200 }))
    }

    fn give_up(&mut self, id: SessionId, address: &Address) {
        if let Some(session) = self.sessions.get_mut(&id)
            && session.addresses.remove(address).is_some()
        {
            self.owners.remove(address);
        }
    }
}

impl SessionAddress {
    /// Returns the key of the block that the address was allocated in, if it has one.
    fn key(&self) -> Option<&str> {
        match &self.claim {
            Claim::Allocated { key } => key.as_deref(),
            Claim::Learned => None,
        }
    }
}
