//! The entries of the domain's registry, in memory.

use std::{collections::HashMap, time::Duration};

use protostub_types::Address;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::ids::SessionId;

/// The entries by their URL.
#[derive(Default)]
pub(crate) struct Registry {
    pub(super) entries: HashMap<Address, Entry>,
    /// Number of changes. It gives the order of answers and the ids of publications.
    pub(super) changes: u64,
}

pub(super) struct Entry {
    /// The session that owns the entry. `None` if that session has ended.
    pub(super) owner: Option<SessionId>,
    /// The RegistryDataObject as registered, with the registry's `status` and `lastModified`.
    pub(super) value: Map<String, Value>,
    /// Lifetime of the entry without a keep-alive.
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

    /// Returns `true` if the member lists each of the names.
    pub(super) fn has_all(&self, member: &str, names: Option<&Value>) -> bool {
        let Some(names) = names.and_then(Value::as_array) else { return true };
        let has = self.value.get(member).and_then(Value::as_array);
        names.iter().all(|name| has.is_some_and(|has| has.contains(name)))
    }
}
