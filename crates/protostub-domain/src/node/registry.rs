//! The entries of the domain's registry. In memory.

use std::{collections::HashMap, time::Duration};

use protostub_types::Address;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::ids::SessionId;

/// The entries by their URL.
#[derive(Default)]
pub(crate) struct Registry {
    pub(super) entries: HashMap<Address, Entry>,
    /// Counts the changes, for the order of answers and the ids of publications.
    pub(super) changes: u64,
}

pub(super) struct Entry {
    /// Whose it is; none if that session has ended.
    pub(super) owner: Option<SessionId>,
    /// The RegistryDataObject as it was registered, with `status` and `lastModified` of the registry.
    pub(super) value: Map<String, Value>,
    /// While it stays without a keep-alive.
    pub(super) expires: Duration,
    pub(super) until: Instant,
    pub(super) changed: u64,
}

impl Entry {
    pub(super) fn status(&self) -> &str {
        self.value.get("status").and_then(Value::as_str).unwrap_or("live")
    }

    pub(super) fn is_available(&self) -> bool {
        !matches!(self.status(), "disconnected" | "dead")
    }

    /// Whether each of the names is listed in the member.
    pub(super) fn has_all(&self, member: &str, names: Option<&Value>) -> bool {
        let Some(names) = names.and_then(Value::as_array) else { return true };
        let has = self.value.get(member).and_then(Value::as_array);
        names.iter().all(|name| has.is_some_and(|has| has.contains(name)))
    }
}
