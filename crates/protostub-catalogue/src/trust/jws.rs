use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use protostub_types::{Descriptor, Domain, SafeList, SafeText};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};

use super::{KeyError, PublicKey, SignatureError, SigningKey};

/// The required `typ` of the header. With it, no JWT that was made for another purpose passes for a
/// signed descriptor (RFC 8725 section 3.11).
const TYPE: &str = "protostub-descriptor+jwt";
/// Maximum length of a signature, in bytes.
const MAX_BYTES: usize = 512 * 1024;
/// Maximum number of names in a signature, and maximum length of each, in bytes.
const MAX_NAMES: usize = 32;
const MAX_NAME_BYTES: usize = 255;
/// The longest lifetime of a signature, from `iat` to `exp`: 3660 days, ten years with their leap
/// days. It limits the use of a stolen key, and of a release with a known fault.
pub const MAX_LIFETIME: Duration = Duration::from_secs(3660 * 24 * 60 * 60);
const DAY_SECONDS: u64 = 24 * 60 * 60;
/// Permitted difference between clocks.
const LEEWAY: Duration = Duration::from_secs(60);

/// The statement that a signer makes about a stub, next to its descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a signer has to state all of it")]
pub struct Statement {
    /// The domain of the stub, with its port if it has one.
    pub domain: Domain,
    /// The names that the stub may be published under: the last segments of its well-known URLs.
    pub names: Vec<String>,
    /// The contract's track of the component, such as `0.1`, if the signer has checked it.
    pub contract: Option<String>,
    /// Time of signing.
    pub issued: SystemTime,
    /// Time of expiry. Hosts refuse a lifetime of more than [`MAX_LIFETIME`].
    pub expires: SystemTime,
}

/// The used members of the protected header (RFC 7515 section 4.1). Keys, certificates and URLs in
/// it are ignored.
#[derive(Serialize, Deserialize)]
struct JwsHeader {
    alg: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    typ: Option<String>,
    /// Extensions that must be understood. The host supports no extension, so
    /// it refuses any value.
    #[serde(default, skip_serializing)]
    crit: Option<Value>,
    /// Present only in encrypted texts (RFC 7516).
    #[serde(default, skip_serializing)]
    enc: Option<Value>,
    #[serde(default, skip_serializing)]
    zip: Option<Value>,
}

/// The payload of a signature, as JSON.
#[derive(Serialize, Deserialize)]
struct Claims {
    /// [`Statement::domain`].
    sub: String,
    names: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    contract: Option<String>,
    iat: u64,
    exp: u64,
    /// The descriptor, without `signatures` and `sourcePackage.sourceCode`. The digest in it binds
    /// the code.
    descriptor: Box<RawValue>,
}

/// A verified signature: its key and its statement.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Signed {
    /// The key of the signature.
    pub key: PublicKey,
    /// The signed statement.
    pub statement: Statement,
}

/// Signs a descriptor, and adds the signature to its `signatures`. The signed content must not be
/// changed afterwards. Earlier signatures stay, and count only if they are of the same content.
///
/// # Errors
/// If the descriptor states no digest of its component, or the system has no randomness for
/// signing.
pub fn sign(descriptor: &mut Descriptor, statement: &Statement, key: &SigningKey) -> Result<(), SignError> {
    if descriptor.digest().is_none() {
        return Err(SignError::NoDigest);
    }
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let content = serde_json::to_value(&*descriptor).map_err(|error| SignError::Descriptor(error.to_string()))?;
    let claims = Claims {
        sub: statement.domain.to_string(),
        names: statement.names.clone(),
        contract: statement.contract.clone(),
        iat: seconds(statement.issued),
        exp: seconds(statement.expires),
        descriptor: serde_json::value::to_raw_value(&signed_part(content))
            .map_err(|error| SignError::Descriptor(error.to_string()))?,
    };
    let public = key.public();
    let (alg, kid) = (public.algorithm().name().to_owned(), Some(public.id().to_owned()));
    let header = JwsHeader { alg, kid, typ: Some(TYPE.to_owned()), crit: None, enc: None, zip: None };
    let encoded = |json: serde_json::Result<Vec<u8>>| {
        json.map(|json| URL_SAFE_NO_PAD.encode(json)).map_err(|error| SignError::Descriptor(error.to_string()))
    };
    let message = format!("{}.{}", encoded(serde_json::to_vec(&header))?, encoded(serde_json::to_vec(&claims))?);
    let signature = URL_SAFE_NO_PAD.encode(key.sign(message.as_bytes()).map_err(SignError::Key)?);
    descriptor.signatures.push(format!("{message}.{signature}"));
    Ok(())
}

/// Failure to sign a descriptor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// The descriptor states no digest, and a signature has to bind the code.
    #[error("the descriptor states no digest of its component ($.sourcePackage.sha256): name the component")]
    NoDigest,
    /// The key could not sign.
    #[error(transparent)]
    Key(KeyError),
    /// The descriptor could not be written as JSON.
    #[error("the descriptor cannot be written: {0}")]
    Descriptor(String),
}

/// A parsed signature, before verification. Its content is not trusted.
pub(super) struct Jws<'a> {
    header: JwsHeader,
    message: &'a str,
    payload: &'a str,
    signature: Vec<u8>,
}

fn malformed(problem: impl fmt::Display) -> SignatureError {
    SignatureError::Malformed { problem: SafeText::display(problem) }
}

impl<'a> Jws<'a> {
    pub(super) fn read(text: &'a str) -> Result<Self, SignatureError> {
        if text.len() > MAX_BYTES {
            return Err(malformed(format_args!("the signature has {} bytes; the limit is {MAX_BYTES}", text.len())));
        }
        let (message, signature) =
            text.rsplit_once('.').ok_or_else(|| malformed("the signature is not a JWS in the compact form"))?;
        let (header, payload) =
            message.split_once('.').ok_or_else(|| malformed("the signature is not a JWS in the compact form"))?;
        let header = URL_SAFE_NO_PAD.decode(header).map_err(|_| malformed("its header is not base64url"))?;
        let header: JwsHeader =
            serde_json::from_slice(&header).map_err(|error| malformed(format_args!("its header is invalid: {error}")))?;
        if header.typ.as_deref() != Some(TYPE) {
            return Err(malformed(format_args!("its `typ` is not `{TYPE}`")));
        }
        if header.crit.is_some() || header.enc.is_some() || header.zip.is_some() {
            return Err(malformed("its header needs an extension that is not supported"));
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| malformed("its last part is not base64url"))?;
        Ok(Self { header, message, payload, signature })
    }

    /// Returns the id of the key that the signature names.
    pub(super) fn key_id(&self) -> &str {
        self.header.kid.as_deref().unwrap_or_default()
    }

    /// Returns `true` if the signature names this key, or no key.
    pub(super) fn names(&self, key: &PublicKey) -> bool {
        self.header.kid.as_deref().is_none_or(|id| id == key.id())
    }

    /// Verifies the signature, and returns the payload, which is trusted as the key's from then on.
    pub(super) fn verify(&self, key: &PublicKey) -> Result<Payload, SignatureError> {
        let id = || SafeText::quote(key.id());
        if self.header.alg != key.algorithm().name() {
            let stated = SafeText::quote(&self.header.alg);
            return Err(SignatureError::Algorithm { stated, key: id(), expected: SafeText::display(key.algorithm()) });
        }
        if !key.verifies(self.message.as_bytes(), &self.signature) {
            return Err(SignatureError::Wrong { key: id() });
        }
        let payload = URL_SAFE_NO_PAD.decode(self.payload).map_err(|_| malformed("its payload is not base64url"))?;
        let claims: Claims = serde_json::from_slice(&payload)
            .map_err(|error| malformed(format_args!("its payload is not a signed stub: {error}")))?;
        if claims.names.len() > MAX_NAMES || claims.names.iter().any(|name| name.len() > MAX_NAME_BYTES) {
            return Err(malformed("its names are too many, or too long"));
        }
        Ok(Payload { key: key.clone(), claims })
    }
}

/// A verified payload, with its key.
pub(super) struct Payload {
    key: PublicKey,
    claims: Claims,
}

/// The required content of a signature.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) domain: &'a Domain,
    /// The name under which the descriptor was published. `None` for a descriptor from a file.
    pub(super) name: Option<&'a str>,
    /// The published JSON, verbatim.
    pub(super) json: &'a [u8],
    pub(super) now: SystemTime,
}

impl Payload {
    /// Checks that the payload is for the wanted stub. Returns the descriptor as it was signed,
    /// with the code of the published one.
    pub(super) fn check(self, wanted: Wanted<'_>) -> Result<(Signed, Descriptor), SignatureError> {
        let Claims { sub, names, contract, iat, exp, descriptor } = self.claims;
        let time = |seconds: u64| {
            UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).ok_or_else(|| malformed("its payload has a time out of range"))
        };
        let (issued, expires) = (time(iat)?, time(exp)?);
        let domain = Domain::parse(&sub).ok().filter(|signed| signed == wanted.domain);
        let Some(domain) = domain else {
            return Err(SignatureError::OtherDomain { signed: SafeText::quote(&sub), domain: wanted.domain.clone() });
        };
        if let Some(name) = wanted.name.filter(|name| !names.iter().any(|signed| signed == name)) {
            let signed: SafeList = names.iter().map(|name| format!("`{}`", SafeText::quote(name))).collect();
            return Err(SignatureError::OtherStub { signed: SafeText::display(signed), name: SafeText::quote(name) });
        }
        if expires <= wanted.now {
            return Err(SignatureError::Expired { expired: utc(exp).into() });
        }
        if issued.duration_since(wanted.now).is_ok_and(|ahead| ahead > LEEWAY) {
            return Err(SignatureError::NotYet { issued: utc(iat).into() });
        }
        if exp.saturating_sub(iat) > MAX_LIFETIME.as_secs() {
            return Err(SignatureError::TooLong {
                issued: utc(iat).into(),
                expires: utc(exp).into(),
                days: MAX_LIFETIME.as_secs() / DAY_SECONDS,
            });
        }
        let published: Value = serde_json::from_slice(wanted.json.strip_prefix(b"\xef\xbb\xbf").unwrap_or(wanted.json))
            .map_err(|error| malformed(format_args!("the published descriptor is not JSON: {error}")))?;
        let code = published.pointer("/sourcePackage/sourceCode").cloned();
        let signed: Value = serde_json::from_str(descriptor.get())
            .map_err(|error| malformed(format_args!("its descriptor is not JSON: {error}")))?;
        if let Some(member) = difference(&signed_part(published), &signed) {
            return Err(SignatureError::Changed { member });
        }
        // The signed text counts, verbatim: of `12.70` and `12.7`, one number, the signer wrote
        // only one.
        let mut text = Descriptor::parse(descriptor.get().as_bytes())
            .map_err(|error| malformed(format_args!("its descriptor is faulty: {error}")))?;
        if text.digest().is_none() {
            return Err(SignatureError::NoDigest);
        }
        if let (Some(package), Some(Value::String(code))) = (&mut text.source_package, code) {
            package.source_code = Some(code.into());
        }
        let statement = Statement { domain, names, contract, issued, expires };
        Ok((Signed { key: self.key, statement }, text))
    }
}

/// Returns the part of a descriptor that is signed.
fn signed_part(mut descriptor: Value) -> Value {
    if let Some(members) = descriptor.as_object_mut() {
        members.remove("signatures");
        if let Some(package) = members.get_mut("sourcePackage").and_then(Value::as_object_mut) {
            package.remove("sourceCode");
        }
    }
    descriptor
}

/// Returns the first member that differs.
fn difference(published: &Value, signed: &Value) -> Option<SafeText> {
    if published == signed {
        return None;
    }
    let none = Map::new();
    let (left, right) = (published.as_object().unwrap_or(&none), signed.as_object().unwrap_or(&none));
    let mut names: Vec<_> = left.keys().chain(right.keys()).collect();
    names.sort_unstable();
    let differs = names.into_iter().find(|name| left.get(*name) != right.get(*name));
    Some(differs.map_or_else(|| SafeText::new("the whole"), |name| SafeText::quote(name)))
}

/// Returns a time in seconds since the Unix epoch as a readable text.
fn utc(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| time::OffsetDateTime::from_unix_timestamp(seconds).ok());
    time.and_then(|time| time.format(&time::format_description::well_known::Rfc3339).ok())
        .unwrap_or_else(|| format!("{seconds} s after 1970"))
}
