use protostub_types::{Domain, SafeText, Sha256Digest};

/// Why a signature is not good, or a descriptor not signed by whom it should be. Texts say who has to do what.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// There is none, and the operator requires one.
    #[error(
        "it has no signature ($.signatures), and one is required of {domain}: the domain has to sign it (`protostub sign`), or the operator to \
         set `signatures` to `verify-if-present` for the domain"
    )]
    Missing {
        /// Whose stub it is.
        domain: Domain,
    },
    /// It is no JWS in the compact form, or its payload is not what is signed of a stub.
    #[error("the signature cannot be read: {problem}; `protostub sign` makes one that can")]
    Malformed {
        /// What is wrong with it.
        problem: SafeText,
    },
    /// There are keys, and not the one that it names.
    #[error(
        "it is signed with the key `{key}`, which is not among the {known} that are trusted for {domain}: the domain has to sign with one of \
         its present keys, or the operator to add this one to `trusted-keys`"
    )]
    UnknownKey {
        /// The id that the signature names.
        key: SafeText,
        /// How many keys are trusted.
        known: usize,
        /// Whose stub it is.
        domain: Domain,
    },
    /// No key could be had to judge it by.
    #[error(
        "there is no key to verify it with: {reason}; the domain has to publish its keys at {url}, or the operator to set `trusted-keys`"
    )]
    NoKeys {
        /// What came in place of keys.
        reason: SafeText,
        /// Where they should be.
        url: SafeText,
    },
    /// The operator has revoked the key.
    #[error("it is signed with the key `{key}`, which the operator has revoked: the domain has to sign it with another one")]
    RevokedKey {
        /// Its id.
        key: SafeText,
    },
    /// The operator has revoked the component.
    #[error("the component {digest} is revoked by the operator: the domain has to publish another version")]
    RevokedComponent {
        /// Its digest.
        digest: Sha256Digest,
    },
    /// It names an algorithm that is not its key's.
    #[error("it is signed with {stated}, and the key `{key}` is one for {expected}: the domain has to sign it anew")]
    Algorithm {
        /// What the signature says.
        stated: SafeText,
        /// The id of the key.
        key: SafeText,
        /// What the key is for.
        expected: SafeText,
    },
    /// It is not this key's signature over this payload.
    #[error("the signature is not one of the key `{key}`: it was made with another key, or changed since")]
    Wrong {
        /// The id of the key.
        key: SafeText,
    },
    /// It is of another domain's stub.
    #[error("it was signed for the stub of `{signed}`, not for {domain}: a descriptor of another domain was published here")]
    OtherDomain {
        /// What was signed.
        signed: SafeText,
        /// Whose stub it should be.
        domain: Domain,
    },
    /// It is of another stub of the domain.
    #[error("it was signed for the stub {signed}, not for `{name}`: if that is meant, sign it with `--name {name}` too")]
    OtherStub {
        /// The names that were signed.
        signed: SafeText,
        /// The name that was asked for.
        name: SafeText,
    },
    /// It has run out.
    #[error("the signature ran out on {expired}: the domain has to sign the stub anew, or this machine's clock is wrong")]
    Expired {
        /// When, in UTC.
        expired: SafeText,
    },
    /// It would count for longer than [`MAX_LIFETIME`](crate::trust::MAX_LIFETIME).
    #[error(
        "the signature is of {issued} and would count until {expires}, which is longer than the {days} days that a signature may count: the \
         domain has to sign the stub anew"
    )]
    TooLong {
        /// When it was signed, in UTC.
        issued: SafeText,
        /// Until when it would count, in UTC.
        expires: SafeText,
        /// The longest lifetime, in days.
        days: u64,
    },
    /// It is of the future.
    #[error("it was signed on {issued}, which is not yet: the signer's clock is wrong, or this machine's")]
    NotYet {
        /// When, in UTC.
        issued: SafeText,
    },
    /// The descriptor is not what was signed.
    #[error(
        "`{member}` of the descriptor is not what was signed: it was changed since; sign the descriptor after the last change"
    )]
    Changed {
        /// The first member that differs.
        member: SafeText,
    },
    /// What was signed does not bind the code.
    #[error("what was signed states no digest of the component ($.sourcePackage.sha256): sign it with `--component`")]
    NoDigest,
}
