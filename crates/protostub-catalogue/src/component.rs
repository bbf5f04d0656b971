use std::{fmt, sync::Arc};

use bytes::Bytes;
use protostub_types::{Descriptor, DescriptorError, SafeText, Sha256Digest, SourcePackage};

use crate::{Fault, downloads::DownloadMemory, error::beginning};

/// The verified bytes of a component, as the descriptor promises. Only
/// [`Catalogue::fetch`](crate::Catalogue::fetch) returns them. Cloning is cheap.
#[derive(Clone)]
pub struct VerifiedComponent {
    bytes: Bytes,
    digest: Sha256Digest,
    pinned: bool,
    stored: bool,
    /// The memory of downloaded bytes.
    _memory: Option<Arc<DownloadMemory>>,
}

impl VerifiedComponent {
    /// Verifies the bytes against the descriptor. reTHINK's catalogues answer with a source
    /// package, a JSON object that holds the code. It is unpacked if the bytes are not the code
    /// itself. `digest` is the digest of `bytes`, and `memory` holds their place in memory.
    pub(crate) fn verify(
        descriptor: &Descriptor,
        bytes: Bytes,
        digest: Sha256Digest,
        memory: Option<DownloadMemory>,
    ) -> Result<Self, Fault> {
        let expected = descriptor.digest();
        let (bytes, digest) = match expected {
            Some(expected) if expected == digest => (bytes, digest),
            _ => match packaged(&bytes)? {
                Some((bytes, digest)) => (bytes, digest),
                None => (bytes, digest),
            },
        };
        let received = length(bytes.len());
        if let Some(expected) = expected.filter(|expected| *expected != digest) {
            let is_text = |start: &[u8]| !start.is_empty() && !start.contains(&0);
            let beginning = if is_text(&bytes[..bytes.len().min(64)]) { beginning(&bytes) } else { SafeText::default() };
            return Err(Fault::WrongDigest { expected, actual: digest, received, beginning });
        }
        if let Some(expected) = descriptor.size().filter(|expected| *expected != received) {
            return Err(Fault::WrongSize { expected, received });
        }
        Ok(Self { bytes, digest, pinned: expected.is_some(), stored: false, _memory: memory.map(Arc::new) })
    }

    /// Returns a component from the store, whose digest was just calculated.
    pub(crate) fn from_store(bytes: Bytes, digest: Sha256Digest, pinned: bool) -> Self {
        Self { bytes, digest, pinned, stored: true, _memory: None }
    }

    /// Returns the component's bytes, shared.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Returns the digest of [`Self::bytes`].
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        self.digest
    }

    /// Returns `true` if the descriptor stated the digest. Otherwise the operator waived it, and
    /// the bytes are the ones that the domain served.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        self.pinned
    }

    /// Returns `true` if the component came from the store, without a download.
    #[must_use]
    pub fn is_stored(&self) -> bool {
        self.stored
    }
}

/// Unpacks the code of a source package. Returns `None` if these bytes are not one.
fn packaged(bytes: &[u8]) -> Result<Option<(Bytes, Sha256Digest)>, DescriptorError> {
    if !bytes.trim_ascii_start().starts_with(b"{") {
        return Ok(None);
    }
    match SourcePackage::parse(bytes) {
        Ok(package) if package.source_code.is_some() => {
            let code = package.decode()?;
            let digest = Sha256Digest::of(&code);
            Ok(Some((code.into(), digest)))
        }
        _ => Ok(None),
    }
}

/// Returns a number of bytes as the `u64` that HTTP uses.
pub(crate) fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

impl fmt::Debug for VerifiedComponent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedComponent")
            .field("digest", &self.digest)
            .field("bytes", &self.bytes.len())
            .field("pinned", &self.pinned)
            .field("stored", &self.stored)
            .finish()
    }
}
