//! Entries that only holders of the key can have made, and the one place where machine code is loaded that was not compiled just now.
#![expect(
    unsafe_code,
    reason = "`Component::deserialize` executes what it is given. To compile instead takes seconds for each start of a stub of megabytes"
)]

use std::{
    fmt,
    hash::{Hash as _, Hasher},
};

use protostub_types::Sha256Digest;
use ring::hmac;
use sha2::{Digest as _, Sha256};
use wasmtime::component::Component;

/// What is authenticated first, so that no other use of the key gives the same. Another version of what follows gets another text.
const CONTEXT: &[u8] = b"protostub compiled code 1";
/// How long a tag is, in bytes: HMAC with SHA-256.
const TAG_BYTES: usize = 32;

/// Whose code it is: the component, and the engine that it was compiled for, to its version, its settings and its target.
pub(crate) struct Name {
    component: Sha256Digest,
    engine: Sha256Digest,
}

impl Name {
    pub(crate) fn new(engine: &wasmtime::Engine, component: Sha256Digest) -> Self {
        let mut hasher = Sha256Hasher(Sha256::new());
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Self { component, engine: Sha256Digest::from_bytes(hasher.0.finalize().into()) }
    }

    /// The engine, with its version, its settings and its target.
    pub(crate) fn engine(&self) -> Sha256Digest {
        self.engine
    }

    /// What precedes the code in what is authenticated. All of it is of fixed length.
    fn head(&self) -> Vec<u8> {
        [CONTEXT, self.component.as_bytes(), self.engine.as_bytes()].concat()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Of the engine's digest, as much as keeps a few engines apart: all of it is authenticated.
        write!(f, "{}-{:.16}", self.component, self.engine.to_string())
    }
}

/// What entries are authenticated with.
pub(crate) struct Key(hmac::Key);

impl Key {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// What an entry begins with whose code, compiled here, follows: the tag, and the rest of what it authenticates.
    pub(crate) fn seal(&self, name: &Name, code: &[u8]) -> Vec<u8> {
        let head = name.head();
        let mut context = hmac::Context::with_key(&self.0);
        context.update(&head);
        context.update(code);
        [context.sign().as_ref(), &head].concat()
    }

    /// Loads an entry, if it is one of this name and was not changed.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn load(&self, engine: &wasmtime::Engine, name: &Name, entry: &[u8]) -> Result<Component, String> {
        let (tag, sealed) = entry.split_at_checked(TAG_BYTES).ok_or("it is too short")?;
        hmac::verify(&self.0, sealed, tag).map_err(|_| "it was changed, damaged, or made with another key")?;
        let code = sealed.strip_prefix(name.head().as_slice()).ok_or("it is of another component, or another engine")?;
        // SAFETY: `deserialize` asks for bytes that `Component::serialize` made and nobody changed since. `seal` is only called with such bytes
        // (`CodeCache::save`, `worker::child`), in this process or in another one that has the key, and without the key nobody can make a tag that is
        // right for others. `code` lies in the memory that was authenticated two statements before, borrowed immutably all along; no file is read
        // again. That the bytes fit this engine is checked by `deserialize` itself, and `name` has the engine's compatibility hash too.
        unsafe { Component::deserialize(engine, code) }.map_err(|error| format!("{error:#}"))
    }
}

/// To have all of the compatibility hash, and not the 64 bits of a usual hasher.
struct Sha256Hasher(Sha256);

impl Hasher for Sha256Hasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let digest: [u8; 32] = self.0.clone().finalize().into();
        let [a, b, c, d, e, f, g, h, ..] = digest;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }
}
