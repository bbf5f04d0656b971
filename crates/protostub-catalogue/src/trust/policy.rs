use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use protostub_types::{Domain, SafeText, Sha256Digest};
use serde::Deserialize;

use super::{PublicKey, SignatureError};

/// What is asked of the signatures of descriptors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
#[expect(clippy::exhaustive_enums, reason = "a signature is ignored, judged where there is one, or required")]
pub enum Signatures {
    /// They are not looked at.
    Off,
    /// A descriptor need not have one. If it has some, one has to be good; but if no key can be had to judge them by, it counts as not signed.
    /// Who was signed once stays signed: see [the module](crate::trust#downgrades).
    #[default]
    VerifyIfPresent,
    /// A descriptor needs one that is good.
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
    /// What is asked of all domains that nothing else is said of.
    pub signatures: Signatures,
    /// Keys that may sign for any domain, beside those of the domain itself.
    #[serde(skip)]
    pub keys: Vec<PublicKey>,
    /// What is said of one domain.
    #[serde(skip)]
    pub domains: BTreeMap<Domain, DomainTrust>,
    /// Keys that no longer count, by their id, or their thumbprint (RFC 7638), which whoever publishes a key cannot choose.
    pub revoked_keys: BTreeSet<String>,
    /// Components that are not used, whoever signed them and whether they are signed or not.
    pub revoked_components: BTreeSet<Sha256Digest>,
}

/// What an operator says about the signatures of one domain's stubs.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct DomainTrust {
    /// What is asked of it, in place of what is asked of all.
    pub signatures: Option<Signatures>,
    /// The domain's keys. If there are any, no others count but those that may sign for any domain: what the domain publishes itself is not
    /// asked for.
    pub keys: Vec<PublicKey>,
}

impl TrustPolicy {
    /// What is asked of a domain's stubs.
    #[must_use]
    pub fn signatures_of(&self, domain: &Domain) -> Signatures {
        self.domains.get(domain).and_then(|of_domain| of_domain.signatures).unwrap_or(self.signatures)
    }

    /// The keys that the operator has given for a domain's stubs, and whether the domain's own are asked for beside them.
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

/// Why a text is none of `off`, `verify-if-present` and `require`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no such mode: write `off`, `verify-if-present` or `require`")]
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
