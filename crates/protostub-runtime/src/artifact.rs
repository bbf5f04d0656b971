//! The parts that a stub's instances are made of.

use protostub_catalogue::{AcceptedRelease, Discovered};
use protostub_sandbox::CompiledStub;
use protostub_types::{Sha256Digest, Version};
use url::Url;

use crate::status::Admission;

/// The parts of a stub's instances, as steps 4 to 7 found, verified and compiled them.
#[derive(Debug)]
pub(crate) struct Artifact {
    pub(crate) discovered: Discovered,
    pub(crate) digest: Sha256Digest,
    pub(crate) compiled: CompiledStub,
    /// The version that was accepted before.
    pub(crate) before: Option<AcceptedRelease>,
}

impl Artifact {
    pub(crate) fn version(&self) -> &Version {
        &self.discovered.descriptor.version
    }

    pub(crate) fn published(&self) -> Release {
        Release { digest: Some(self.digest), ..published(&self.discovered) }
    }

    /// Returns the permission of instances to be live. Instances are held back until their version
    /// is durable as the accepted one.
    pub(crate) fn admission(&self) -> Admission {
        if self.to_commit().is_none() { Admission::Admitted } else { Admission::HeldBack }
    }

    /// Returns the release that is accepted with this one, or `None` if it was accepted before.
    pub(crate) fn to_commit(&self) -> Option<AcceptedRelease> {
        let signed = self.discovered.authenticity.signed().is_some();
        let now = AcceptedRelease { version: self.version().clone(), digest: self.digest, signed };
        (self.before.as_ref() != Some(&now)).then_some(now)
    }
}

pub(crate) fn published(discovered: &Discovered) -> Release {
    let descriptor = &discovered.descriptor;
    Release {
        descriptor_url: discovered.url.clone(),
        version: descriptor.version.clone(),
        digest: descriptor.digest(),
        signed: discovered.authenticity.signed().is_some(),
    }
}

/// A version of the stub, as its domain publishes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Release {
    pub(crate) descriptor_url: Url,
    pub(crate) version: Version,
    /// Digest of the component. Known from step 7 on if the descriptor does not state it.
    pub(crate) digest: Option<Sha256Digest>,
    /// The descriptor had a valid signature.
    pub(crate) signed: bool,
}
