//! Trust in the publisher of a stub: signatures on descriptors, and through their digests on
//! components.
//!
//! TLS and the digest in the descriptor show that the domain's web server offers this component
//! now. A signature shows that a holder of the domain's key has released it. The signature holds on
//! mirrors, in folders and in copies that are used offline, and even if the server was broken into.
//!
//! # The form
//!
//! A descriptor has a member `signatures`: a list of at most 8 texts. Each is a JWS in the compact
//! form (RFC 7515 section 7.1). Readers without support for signatures skip it. The protected
//! header has
//!
//! | member | value |
//! | --- | --- |
//! | `alg` | `EdDSA` (Ed25519) or `ES256`; the key alone decides, and `alg` has to match it |
//! | `kid` | the id of the key; without `kid`, every trusted key is tried |
//! | `typ` | `protostub-descriptor+jwt` |
//!
//! `crit`, `enc` and `zip` are refused. Keys and URLs in a header (`jwk`, `jku`, `x5c`, `x5u`) are
//! never used. The payload is a JSON object:
//!
//! | member | value |
//! | --- | --- |
//! | `sub` | the domain of the stub as in addresses, with its port if it has one |
//! | `names` | the permitted names: last segments of well-known URLs, such as `default` |
//! | `contract` | optional: the component's track. A component for another track is not started |
//! | `iat`, `exp` | times of signing and expiry, in seconds since 1970; at most 3660 days apart |
//! | `descriptor` | the whole descriptor, without the two members below |
//!
//! `descriptor` leaves out `signatures`, and `sourcePackage.sourceCode`, for which
//! `sourcePackage.sha256` stands. That digest is required.
//!
//! So every member is signed, among them the version, the digest, the ports, and the configuration
//! with its hosts. The published value has to equal the signed one, member for member. The runtime
//! uses the signed descriptor, verbatim.
//!
//! # Keys
//!
//! Trusted keys are
//!
//! * the keys that the operator gives for the domain ([`DomainTrust::keys`]);
//! * if there are none, the keys that the domain publishes at
//!   `https://<domain>/.well-known/protostub-jwks.json` as a JSON Web Key Set (RFC 7517);
//! * the keys that may sign for any domain ([`TrustPolicy::keys`]).
//!
//! Keys are Ed25519 (`OKP`) or P-256 (`EC`). A set may have 64 keys. To rotate, a domain first
//! publishes the new key, then signs with it, and removes the old key when nothing is signed with
//! it any more. During that time a descriptor may have signatures of both. An unknown key id causes
//! a request for the current set. A set is kept for its `Cache-Control: max-age`, a day at most.
//! While the domain cannot be reached, it is used as long as descriptors are
//! ([`max_offline_age`](crate::CatalogueConfig::max_offline_age)).
//!
//! For runtimes that were given no key, anyone who can publish a domain's key set can sign for the
//! domain. A web server that is taken over entirely speaks for the domain. Where that is not good
//! enough, the operator gives the keys.
//!
//! # Verdicts
//!
//! | [`Signatures`] | no signature | no key available | one is valid | none is valid |
//! | --- | --- | --- | --- | --- |
//! | `off` | used | used | used | used |
//! | `verify-if-present` | used | used, with a warning | used | refused |
//! | `require` | refused | refused | used | refused |
//!
//! *No key available*: the operator gave none, and the domain publishes none, or cannot be reached
//! and was not asked before. An attacker who can withhold the key set could remove the signature as
//! well, so using the stub loses nothing.
//!
//! In any mode but `off`, the stub is refused if kept keys cannot be read. The same holds for kept
//! keys with a confirmation time ahead of this machine's clock, while the domain cannot be reached.
//!
//! A revoked component ([`TrustPolicy::revoked_components`]) is refused in any mode. All checks
//! apply to copies too, each time that one is used. An expired or revoked stub does not run because
//! its domain is offline.
//!
//! # Downgrades
//!
//! The catalogue remembers a stub that was live with a valid signature
//! ([`AcceptedRelease::signed`](crate::AcceptedRelease)). That stub is not deployed without a
//! signature afterwards, nor in an older version, unless the operator allows that for the domain.
//! So in `verify-if-present` an attacker cannot remove the signature of a stub that the runtime has
//! seen before.

mod error;
mod jws;
mod key;
mod policy;
mod published;

use std::time::SystemTime;

use protostub_types::{Descriptor, Domain, SafeText};

use self::jws::{Jws, Wanted};
pub(crate) use self::published::{KEYS, KeySet, MAX_SET_BYTES, Published, url};
pub use self::{
    error::SignatureError,
    jws::{MAX_LIFETIME, SignError, Signed, Statement, sign},
    key::{KeyError, PublicKey, SigningAlgorithm, SigningKey},
    policy::{DomainTrust, Signatures, SignaturesError, TrustPolicy},
};

/// The verdict on the signatures of a descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Authenticity {
    /// The signatures were not checked: [`Signatures::Off`].
    NotChecked,
    /// The descriptor has no signature, and needs none.
    Unsigned,
    /// The descriptor has signatures, and there is no key to verify them. The mode
    /// requires no signature.
    Unverified {
        /// The reason why there is no key.
        reason: SafeText,
    },
    /// A signature was verified.
    Verified(Box<Signed>),
}

impl Authenticity {
    /// Returns the signed statement, if a signature was verified.
    #[must_use]
    pub fn signed(&self) -> Option<&Signed> {
        match self {
            Self::Verified(signed) => Some(signed),
            _ => None,
        }
    }
}

impl TrustPolicy {
    /// Verifies a descriptor in a file: one of its signatures has to be valid for this domain and,
    /// if given, this name. `own` are the keys that the domain publishes. They count if the
    /// operator has given none for it.
    ///
    /// # Errors
    /// If the descriptor has no signature, or no valid one.
    pub fn verify(
        &self,
        json: &[u8],
        domain: &Domain,
        name: Option<&str>,
        own: &[PublicKey],
    ) -> Result<(Signed, Descriptor), SignatureError> {
        let descriptor = Descriptor::parse(json)
            .map_err(|error| SignatureError::Malformed { problem: SafeText::display(format_args!("the descriptor: {error}")) })?;
        let (mut keys, are_asked) = self.keys_of(domain);
        keys.extend(own.iter().filter(|_| are_asked).cloned());
        let wanted = Wanted { domain, name, json, now: SystemTime::now() };
        let judged = self.judge(&descriptor.signatures, &keys, wanted)?;
        judged.1.digest().map_or(Ok(()), |digest| self.check_component(digest))?;
        Ok(judged)
    }

    /// Returns the first valid signature. Otherwise returns the fault of a signature by a trusted
    /// key, or else that there is no such signature.
    fn judge(
        &self,
        signatures: &[String],
        keys: &[PublicKey],
        wanted: Wanted<'_>,
    ) -> Result<(Signed, Descriptor), SignatureError> {
        let mut unknown = SignatureError::Missing { domain: wanted.domain.clone() };
        let mut wrong = None;
        for signature in signatures {
            match self.judge_one(signature, keys, wanted) {
                Ok(good) => return Ok(good),
                Err(error @ SignatureError::UnknownKey { .. }) => unknown = error,
                Err(error) => wrong = Some(error),
            }
        }
        Err(wrong.unwrap_or(unknown))
    }

    fn judge_one(&self, signature: &str, keys: &[PublicKey], wanted: Wanted<'_>) -> Result<(Signed, Descriptor), SignatureError> {
        let jws = Jws::read(signature)?;
        if self.revoked_keys.contains(jws.key_id()) {
            return Err(SignatureError::RevokedKey { key: SafeText::quote(jws.key_id()) });
        }
        let key = SafeText::quote(jws.key_id());
        let mut outcome = SignatureError::UnknownKey { key, known: keys.len(), domain: wanted.domain.clone() };
        // Two sets can have keys with the same id.
        for key in keys.iter().filter(|key| jws.names(key)) {
            match jws.verify(key) {
                Ok(_) if self.is_revoked(key) => return Err(SignatureError::RevokedKey { key: SafeText::quote(key.id()) }),
                Ok(payload) => return payload.check(wanted),
                Err(error) => outcome = error,
            }
        }
        Err(outcome)
    }
}

/// The inputs for judging a descriptor's signatures. The keys may have to be loaded first.
pub(crate) struct Judgement<'a> {
    pub(crate) policy: &'a TrustPolicy,
    pub(crate) domain: &'a Domain,
    pub(crate) name: &'a str,
    pub(crate) json: &'a [u8],
    pub(crate) signatures: &'a [String],
}

impl Judgement<'_> {
    /// Returns the operator's keys, and `true` if the domain's published keys count too.
    pub(crate) fn operators_keys(&self) -> (Vec<PublicKey>, bool) {
        self.policy.keys_of(self.domain)
    }

    pub(crate) fn by(&self, keys: &[PublicKey]) -> Result<(Signed, Descriptor), SignatureError> {
        let wanted = Wanted { domain: self.domain, name: Some(self.name), json: self.json, now: SystemTime::now() };
        self.policy.judge(self.signatures, keys, wanted)
    }
}
