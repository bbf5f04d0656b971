//! A small memory that outlives a restart and an update of the stub, but not its undeployment: a session token to resume with, say.

use serde::{Serialize, de::DeserializeOwned};

use crate::{Result, host, message::text_of};

/// What was saved last; none: nothing was, or the host dropped it because instances that started from it kept crashing.
#[must_use]
pub fn load() -> Option<Vec<u8>> {
    host::session_load()
}

/// Replaces what is saved.
///
/// # Errors
/// [`Error::Limit`](crate::Error::Limit), if it is more than 64 KiB.
pub fn save(bytes: &[u8]) -> Result<()> {
    host::session_save(bytes)
}

/// Forgets what is saved.
pub fn forget() {
    if let Err(error) = host::session_save(&[]) {
        log::warn!("the session was not forgotten: {error}");
    }
}

/// What was saved last with [`save_json`]; none as well, if it is of another shape: by another version of the stub, say.
#[must_use]
pub fn load_json<T: DeserializeOwned>() -> Option<T> {
    let saved = load()?;
    let read = text_of(&saved).and_then(|text| Ok(serde_json::from_str(text)?));
    read.inspect_err(|error| log::warn!("what is saved cannot be read: {error}")).ok()
}

/// Replaces what is saved, by a value as JSON.
///
/// # Errors
/// [`Error::Limit`](crate::Error::Limit), if it is more than 64 KiB; [`Error::Invalid`](crate::Error::Invalid), if it has no JSON form.
pub fn save_json(value: &(impl Serialize + ?Sized)) -> Result<()> {
    save(&serde_json::to_vec(value)?)
}
