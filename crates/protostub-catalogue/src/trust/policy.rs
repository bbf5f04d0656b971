use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use protostub_types::{Domain, SafeText, Sha256Digest};
use serde::Deserialize;

use super::{PublicKey, SignatureError};

/// The demand on the signatures of descriptors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
#[expect(clippy::exhaustive_enums, reason = "a signature is ignored, judged where there is one, or required")]
pub enum Signatures {
    /// Signatures are ignored.
    Off,
    /// A signature is optional. If a descriptor has signatures, one has to be valid. If there is no
    /// key to verify them, the descriptor counts as not signed. A stub that was signed once needs a
    /// signature from then on: see [the module](crate::trust#downgrades).
    #[default]
    VerifyIfPresent,
    /// A descriptor needs a valid signature.
    Require,
}

/// Trusted signatures: the mode, the operator's keys, and revocations.
///
/// A settings file has the keys `signatures`, `revoked-keys` and `revoked-components`. The program
/// adds the [keys](Self::keys) and the [domains](Self::domains).
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
#[non_exhaustive]
pub struct TrustPolicy {
    /// The mode for all domains without one of their own.
    pub signatures: Signatures,
    /// Keys that may sign for any domain, in addition to the keys of the domain itself.
    #[serde(skip)]
    pub keys: Vec<PublicKey>,
    /// Settings of single domains.
    #[serde(skip)]
    pub domains: BTreeMap<Domain, DomainTrust>,
    /// Keys that no longer count, by their id or their thumbprint (RFC 7638). The publisher of a
    /// key cannot choose the thumbprint.
    pub revoked_keys: BTreeSet<String>,
    /// Components that are never used, whether they are unsigned or signed by any key.
    pub revoked_components: BTreeSet<Sha256Digest>,
}

/// Operator settings for the signatures of one domain's stubs.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct DomainTrust {
    /// The mode for this domain, in place of the one for all.
    pub signatures: Option<Signatures>,
    /// The domain's keys. If there are any, only they and the keys that may sign for any domain
    /// count. The domain's published keys are not loaded then.
    pub keys: Vec<PublicKey>,
}

impl TrustPolicy {
    /// Returns the mode for a domain's stubs.
    #[must_use]
    pub fn signatures_of(&self, domain: &Domain) -> Signatures {
        self.domains.get(domain).and_then(|of_domain| of_domain.signatures).unwrap_or(self.signatures)
    }

    /// Returns the operator's keys for a domain's stubs, and `true` if the domain's published keys
    /// count too.
    pub(crate) fn keys_of(&self, domain: &Domain) -> (Vec<PublicKey>, bool) {
        let of_domain = self.domains.get(domain).map_or(&[][..], |of_domain| &of_domain.keys);
        (of_domain.iter().chain(&self.keys).cloned().collect(), of_domain.is_empty())
    }

    pub(crate) fn is_revoked(&self, key: &PublicKey) -> bool {
        self.revoked_keys.contains(key.id()) || self.revoked_keys.contains(key.thumbprint())
    }

    /// # Errors
    /// If the component is revoked.
    pub(crate) fn check_component(&self, digest: Sha256Digest) -> Result<(), SignatureError> {
        if self.revoked_components.contains(&digest) { Err(SignatureError::RevokedComponent { digest }) } else { Ok(()) }
    }
}

/// A text that is not a mode: `off`, `verify-if-present` or `require`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a mode: write `off`, `verify-if-present` or `require`")]
pub struct SignaturesError(SafeText);

impl FromStr for Signatures {
    type Err = SignaturesError;

    fn from_str(text: &str) -> Result<Self, SignaturesError> {
        match text {
            "off" => Ok(Self::Off),
            "verify-if-present" => Ok(Self::VerifyIfPresent),
            "require" => Ok(Self::Require),
            _ => Err(SignaturesError(SafeText::quote(text))),
        }
    }
}

impl TryFrom<String> for Signatures {
    type Error = SignaturesError;

    fn try_from(text: String) -> Result<Self, SignaturesError> {
        text.parse()
    }
}

impl fmt::Display for Signatures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::VerifyIfPresent => "verify-if-present",
            Self::Require => "require",
        })
    }
}
