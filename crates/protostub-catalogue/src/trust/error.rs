use protostub_types::{Domain, SafeText, Sha256Digest};

/// A signature that is not valid, or a missing one. Each text names the party that
/// has to act.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// The descriptor has no signature, and the operator requires one.
    #[error(
        "the descriptor has no signature ($.signatures), and {domain} needs one: the domain has to sign the stub (`protostub sign`), or the operator to \
         set `signatures` to `verify-if-present` for the domain"
    )]
    Missing {
        /// The domain of the stub.
        domain: Domain,
    },
    /// The signature is not a JWS in the compact form, or its payload is not the signed form of a
    /// stub.
    #[error("the signature cannot be read: {problem}; `protostub sign` makes one that can")]
    Malformed {
        /// The fault in the signature.
        problem: SafeText,
    },
    /// The key that the signature names is not among the trusted ones.
    #[error(
        "the descriptor is signed with the key `{key}`, which is not among the {known} trusted keys of {domain}: the domain has to sign with one of \
         its present keys, or the operator to add this one to `trusted-keys`"
    )]
    UnknownKey {
        /// The id of the key in the signature.
        key: SafeText,
        /// Number of trusted keys.
        known: usize,
        /// The domain of the stub.
        domain: Domain,
    },
    /// There is no key to verify the signature.
    #[error(
        "there is no key to verify the signature: {reason}; the domain has to publish its keys at {url}, or the operator to set `trusted-keys`"
    )]
    NoKeys {
        /// The fault at the URL of the keys.
        reason: SafeText,
        /// The URL at which the domain should publish its keys.
        url: SafeText,
    },
    /// The operator has revoked the key.
    #[error(
        "the descriptor is signed with the key `{key}`, which the operator has revoked: the domain has to sign the stub with another key"
    )]
    RevokedKey {
        /// The id of the key.
        key: SafeText,
    },
    /// The operator has revoked the component.
    #[error("the component {digest} is revoked by the operator: the domain has to publish another version")]
    RevokedComponent {
        /// The digest of the component.
        digest: Sha256Digest,
    },
    /// The signature names an algorithm that is not its key's.
    #[error(
        "the descriptor is signed with {stated}, and the key `{key}` is for {expected}: the domain has to sign the stub again"
    )]
    Algorithm {
        /// The algorithm in the signature.
        stated: SafeText,
        /// The id of the key.
        key: SafeText,
        /// The algorithm of the key.
        expected: SafeText,
    },
    /// The signature is not this key's signature over this payload.
    #[error("the signature is not one of the key `{key}`: the signature was made with another key, or changed since")]
    Wrong {
        /// The id of the key.
        key: SafeText,
    },
    /// The signature is for another domain's stub.
    #[error(
        "the descriptor was signed for the stub of `{signed}`, not for {domain}: a descriptor of another domain was published here"
    )]
    OtherDomain {
        /// The domain in the signature.
        signed: SafeText,
        /// The domain of the stub that was asked for.
        domain: Domain,
    },
    /// The signature is for another stub of the domain.
    #[error(
        "the descriptor was signed for the stub {signed}, not for `{name}`: if both are meant, sign it with `--name {name}` too"
    )]
    OtherStub {
        /// The names in the signature.
        signed: SafeText,
        /// The name that was asked for.
        name: SafeText,
    },
    /// The signature has expired.
    #[error("the signature expired on {expired}: the domain has to sign the stub again, or this machine's clock is wrong")]
    Expired {
        /// The time of expiry, in UTC.
        expired: SafeText,
    },
    /// The lifetime of the signature is longer than [`MAX_LIFETIME`](crate::trust::MAX_LIFETIME).
    #[error(
        "the signature was made on {issued} and would count until {expires}, which is longer than the {days} days that a signature may last: the \
         domain has to sign the stub again"
    )]
    TooLong {
        /// The time of signing, in UTC.
        issued: SafeText,
        /// The time of expiry, in UTC.
        expires: SafeText,
        /// The longest lifetime, in days.
        days: u64,
    },
    /// The signature was made in the future.
    #[error("the descriptor was signed on {issued}, which is in the future: the signer's clock is wrong, or this machine's")]
    NotYet {
        /// The time of signing, in UTC.
        issued: SafeText,
    },
    /// The descriptor differs from the signed one.
    #[error(
        "`{member}` of the descriptor is not what was signed: the descriptor was changed since; sign the descriptor after the last change"
    )]
    Changed {
        /// The first member that differs.
        member: SafeText,
    },
    /// The signed descriptor does not bind the code.
    #[error("the signed descriptor states no digest of the component ($.sourcePackage.sha256): sign the stub with `--component`")]
    NoDigest,
}
