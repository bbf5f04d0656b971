//! Entries that only holders of the key can have made. No other module loads machine code that was
//! not compiled just now.
#![expect(
    unsafe_code,
    reason = "`Component::deserialize` executes its input. Compiling instead takes seconds for each start of a stub of megabytes"
)]

use std::{
    fmt,
    hash::{Hash as _, Hasher},
};

use protostub_types::Sha256Digest;
use ring::hmac;
use sha2::{Digest as _, Sha256};
use wasmtime::component::Component;

/// Beginning of the authenticated bytes, so that no other use of the key gives the same tag.
/// Another version of the bytes after it gets another text.
const CONTEXT: &[u8] = b"protostub compiled code 1";
/// Length of a tag, in bytes: HMAC with SHA-256.
const TAG_BYTES: usize = 32;

/// Identity of an entry: the component, and the engine that the code was compiled for, with its
/// version, its settings and its target.
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

    /// Returns the digest of the engine, with its version, its settings and its target.
    pub(crate) fn engine(&self) -> Sha256Digest {
        self.engine
    }

    /// Returns the authenticated bytes that precede the code. All of them are of fixed length.
    fn head(&self) -> Vec<u8> {
        [CONTEXT, self.component.as_bytes(), self.engine.as_bytes()].concat()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As much of the engine's digest as keeps a few engines apart. The whole digest is
        // authenticated.
        write!(f, "{}-{:.16}", self.component, self.engine.to_string())
    }
}

/// The key that authenticates entries.
pub(crate) struct Key(hmac::Key);

impl Key {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// Returns the bytes that precede the code in an entry: the tag, and the other bytes that the
    /// tag authenticates. The code must have been compiled here.
    pub(crate) fn seal(&self, name: &Name, code: &[u8]) -> Vec<u8> {
        let head = name.head();
        let mut context = hmac::Context::with_key(&self.0);
        context.update(&head);
        context.update(code);
        [context.sign().as_ref(), &head].concat()
    }

    /// Loads an entry, if it has this name and is unchanged.
    ///
    /// # Errors
    /// The problem of the entry.
    pub(crate) fn load(&self, engine: &wasmtime::Engine, name: &Name, entry: &[u8]) -> Result<Component, String> {
        let (tag, sealed) = entry.split_at_checked(TAG_BYTES).ok_or("the entry is too short")?;
        hmac::verify(&self.0, sealed, tag).map_err(|_| "the entry was changed, damaged, or made with another key")?;
        let code = sealed.strip_prefix(name.head().as_slice()).ok_or("the entry is of another component, or another engine")?;
        // SAFETY: `deserialize` requires bytes that `Component::serialize` made and that are
        // unchanged.
        //
        // `seal` is only called with such bytes (`CodeCache::save`, `worker::child`), in this
        // process or in another one that has the key. Without the key, no program can make a valid
        // tag for other bytes.
        //
        // `code` lies in the memory that was authenticated two statements before, and is borrowed
        // immutably all along. No file is read again.
        //
        // `deserialize` itself checks that the bytes fit this engine, and `name` has the engine's
        // compatibility hash too.
        unsafe { Component::deserialize(engine, code) }.map_err(|error| format!("{error:#}"))
    }
}

/// Keeps the whole compatibility hash, unlike a usual hasher with its 64 bits.
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
