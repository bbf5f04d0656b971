//! A small memory that outlives a restart and an update of the stub, but not its undeployment. It
//! suits a session token to resume with, for example.

use serde::{Serialize, de::DeserializeOwned};

use crate::{Result, host, message::text_of};

/// Returns the bytes that the stub saved last. Returns `None` if the stub saved no bytes. Returns
/// `None` too if the host dropped them because instances that started from them kept crashing.
#[must_use]
pub fn load() -> Option<Vec<u8>> {
    host::session_load()
}

/// Replaces the saved bytes.
///
/// # Errors
/// [`Error::Limit`](crate::Error::Limit), if `bytes` are more than 64 KiB.
pub fn save(bytes: &[u8]) -> Result<()> {
    host::session_save(bytes)
}

/// Deletes the saved bytes.
pub fn forget() {
    if let Err(error) = host::session_save(&[]) {
        log::warn!("the saved session was not deleted: {error}");
    }
}

/// Returns the value that the stub saved last with [`save_json`]. Returns `None` too if the value
/// has another shape, for example from another version of the stub.
#[must_use]
pub fn load_json<T: DeserializeOwned>() -> Option<T> {
    let saved = load()?;
    let read = text_of(&saved).and_then(|text| Ok(serde_json::from_str(text)?));
    read.inspect_err(|error| log::warn!("the saved session cannot be read: {error}")).ok()
}

/// Replaces the saved bytes by a value as JSON.
///
/// # Errors
/// [`Error::Limit`](crate::Error::Limit), if the JSON is more than 64 KiB;
/// [`Error::Invalid`](crate::Error::Invalid), if the value has no JSON form.
pub fn save_json(value: &(impl Serialize + ?Sized)) -> Result<()> {
    save(&serde_json::to_vec(value)?)
}
