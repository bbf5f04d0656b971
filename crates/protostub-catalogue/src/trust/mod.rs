//! Whose stub it is: signatures on descriptors, and by their digests on components.
//!
//! TLS and the digest in the descriptor say that a component is what the domain's web server offers now. A signature says that whoever holds the
//! domain's key has released it: it holds on mirrors, in folders and in copies that are used offline, and for a server that was broken into.
//!
//! # The form
//!
//! A descriptor has a member `signatures`: a list of at most 8 texts, each a JWS in the compact form (RFC 7515 section 7.1). Readers that know nothing of
//! them skip it. The protected header has
//!
//! | member | is |
//! | --- | --- |
//! | `alg` | `EdDSA` (Ed25519) or `ES256`; it has to be the one of the key, which decides alone |
//! | `kid` | the id of the key; without it, every trusted key is tried |
//! | `typ` | `protostub-descriptor+jwt` |
//!
//! `crit`, `enc` and `zip` are refused; keys and URLs in a header (`jwk`, `jku`, `x5c`, `x5u`) are never used. The payload is a JSON object:
//!
//! | member | is |
//! | --- | --- |
//! | `sub` | the domain whose stub it is, as it stands in addresses, with its port if it has one |
//! | `names` | the names that it may be published under: the last segments of well-known URLs, `default` if it is that |
//! | `contract` | optional: the track of the contract that the component is for. A component for another one is not started |
//! | `iat`, `exp` | when it was signed and until when it counts, in seconds since 1970; at most 3660 days apart |
//! | `descriptor` | the whole descriptor but for `signatures`, and for `sourcePackage.sourceCode`, for which `sourcePackage.sha256` stands, and has to |
//!
//! So the version, the digest, the ports and the configuration with its hosts, and every other member, are signed. What is published has to be the same
//! value, member for member; what is used is what was signed, to the letter.
//!
//! # Keys
//!
//! Trusted are the keys that the operator gives for the domain ([`DomainTrust::keys`]); or, if there are none, those that the domain publishes at
//! `https://<domain>/.well-known/protostub-jwks.json` as a JSON Web Key Set (RFC 7517); and those that may sign for any domain ([`TrustPolicy::keys`]).
//! Keys are Ed25519 (`OKP`) or P-256 (`EC`). A set may have 64 of them, so a new key is published first, then signed with, and the old one is taken
//! out when nothing is signed with it any more; during that time a descriptor may have signatures of both. A key with an unknown id makes the
//! set be asked for anew. A set is kept as long as its `Cache-Control: max-age` says, a day at most, and used for as long as descriptors are while the domain
//! cannot be reached ([`max_offline_age`](crate::CatalogueConfig::max_offline_age)).
//!
//! Who can publish a domain's key set can sign for it, as far as runtimes are concerned that were given no key: a web server that is taken over entirely
//! speaks for the domain. Where that is not good enough, the operator gives the keys.
//!
//! # What is asked
//!
//! | [`Signatures`] | no signature | no key can be had | a good one | none is good |
//! | --- | --- | --- | --- | --- |
//! | `off` | used | used | used | used |
//! | `verify-if-present` | used | used, with a warning | used | refused |
//! | `require` | refused | refused | used | refused |
//!
//! *No key can be had*: the operator gave none, and the domain publishes none, or cannot be reached
//! and was not asked before. (Keys that are kept and cannot be read, or were confirmed by a clock
//! ahead of this one while the domain cannot be reached, refuse the stub in any mode but `off`.)
//! Whoever could keep the key set
//! away could take the signature off as well, so nothing is lost by it. A revoked component ([`TrustPolicy::revoked_components`]) is refused in any mode. All
//! of it is asked of copies too, each time that one is used: what has run out, or is revoked, does not run because its domain is offline.
//!
//! # Downgrades
//!
//! A stub that was live with a good signature is remembered
//! ([`AcceptedRelease::signed`](crate::AcceptedRelease)), and is not deployed without one
//! afterwards, nor in an older version, unless the operator allows that for the domain. So in
//! `verify-if-present` an attacker cannot take the signature off a stub that the runtime has seen
//! before.

mod error;
mod jws;
mod key;
mod policy;
mod published;

use std::time::SystemTime;

use protostub_types::{Descriptor, Domain, SafeText};

use self::jws::{Jws, Wanted};
pub(crate) use self::published::{KeySet, MAX_SET_BYTES, Published, url};
pub use self::{
    error::SignatureError,
    jws::{MAX_LIFETIME, SignError, Signed, Statement, sign},
    key::{KeyError, PublicKey, SigningAlgorithm, SigningKey},
    policy::{DomainTrust, Signatures, SignaturesError, TrustPolicy},
};

/// What the signatures of a descriptor came to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Authenticity {
    /// They were not looked at: [`Signatures::Off`].
    NotChecked,
    /// There are none, and none are required.
    Unsigned,
    /// There are some, and no key could be had to judge them by; none are required.
    Unverified {
        /// Why there is no key.
        reason: SafeText,
    },
    /// One is good.
    Verified(Box<Signed>),
}

impl Authenticity {
    /// What was signed, if it was found good.
    #[must_use]
    pub fn signed(&self) -> Option<&Signed> {
        match self {
            Self::Verified(signed) => Some(signed),
            _ => None,
        }
    }
}

impl TrustPolicy {
    /// Judges a descriptor that stands in a file: whether one of its signatures is good for this domain, and, if one is given, this name. `own` are the keys
    /// that the domain publishes, which count if the operator has given none for it.
    ///
    /// # Errors
    /// If it has no signature, or none that is good.
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

    /// The first signature that is good; or what is wrong with one by a trusted key; or that there is none by such a key.
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
        // Two keys may have one id, if two sets have them.
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

/// What a catalogue finds a descriptor's signatures to be, with keys that may have to be asked for.
pub(crate) struct Judgement<'a> {
    pub(crate) policy: &'a TrustPolicy,
    pub(crate) domain: &'a Domain,
    pub(crate) name: &'a str,
    pub(crate) json: &'a [u8],
    pub(crate) signatures: &'a [String],
}

impl Judgement<'_> {
    /// The keys of the operator, and whether those that the domain publishes count beside them.
    pub(crate) fn operators_keys(&self) -> (Vec<PublicKey>, bool) {
        self.policy.keys_of(self.domain)
    }

    pub(crate) fn by(&self, keys: &[PublicKey]) -> Result<(Signed, Descriptor), SignatureError> {
        let wanted = Wanted { domain: self.domain, name: Some(self.name), json: self.json, now: SystemTime::now() };
        self.policy.judge(self.signatures, keys, wanted)
    }
}
