use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

/// Maximum size of a stub's session, in bytes.
pub const MAX_SESSION_BYTES: usize = 64 << 10;

/// The session that a stub saved for its next instance (the `session` import). The slot belongs to
/// the runtime and outlives instances. Clones are the same slot.
#[derive(Clone, Default)]
pub struct Session(Arc<Mutex<Option<Arc<[u8]>>>>);

/// A session over [`MAX_SESSION_BYTES`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a session of {bytes} bytes cannot be saved: the limit is {MAX_SESSION_BYTES}")]
#[non_exhaustive]
pub struct SessionTooLarge {
    /// Size of the session, in bytes.
    pub bytes: usize,
}

impl Session {
    /// Makes an empty slot.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the saved session.
    #[must_use]
    pub fn load(&self) -> Option<Arc<[u8]>> {
        self.slot().clone()
    }

    /// Replaces the saved session. An empty one clears the slot.
    ///
    /// # Errors
    /// If it has more than [`MAX_SESSION_BYTES`]. The session that was saved before stays.
    pub fn save(&self, bytes: &[u8]) -> Result<(), SessionTooLarge> {
        if bytes.len() > MAX_SESSION_BYTES {
            return Err(SessionTooLarge { bytes: bytes.len() });
        }
        *self.slot() = (!bytes.is_empty()).then(|| bytes.into());
        Ok(())
    }

    /// Takes the session out of the slot. An instance that starts now finds an empty slot.
    pub fn take(&self) -> Option<Arc<[u8]>> {
        self.slot().take()
    }

    /// Puts back a session that was saved before.
    pub fn restore(&self, saved: Option<Arc<[u8]>>) {
        *self.slot() = saved;
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Arc<[u8]>>> {
        // No code panics while it holds the lock. A slot that was poisoned all the same holds a
        // whole value.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Session {
    /// Shows only the size: a session is a secret of the stub.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({:?} bytes)", self.slot().as_ref().map(|bytes| bytes.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_outlives_its_writer() {
        let session = Session::new();
        session.clone().save(b"token").unwrap();
        assert_eq!(session.load().as_deref(), Some(&b"token"[..]));
        assert_eq!(session.save(&vec![0; MAX_SESSION_BYTES + 1]), Err(SessionTooLarge { bytes: MAX_SESSION_BYTES + 1 }));
        assert_eq!(session.take().as_deref(), Some(&b"token"[..]));
        session.save(b"").unwrap();
        assert_eq!(session.load(), None);
        assert_eq!(format!("{session:?}"), "Session(None bytes)");
    }
}
