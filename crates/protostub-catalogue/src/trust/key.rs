use std::fmt;

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use protostub_types::{SafeText, Sha256Digest};
use ring::{
    rand::{SecureRandom as _, SystemRandom},
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
        UnparsedPublicKey,
    },
};
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject as _};
use serde_json::{Map, Value, json};

/// Maximum number of keys of a set that are read: more than a domain needs to rotate.
const MAX_KEYS: usize = 64;
/// Maximum length of a key's id, in bytes.
const MAX_ID_BYTES: usize = 256;
/// Length of an Ed25519 seed, in bytes.
const SEED_BYTES: usize = 32;
/// Bytes of PKCS#8 that precede the seed of an Ed25519 key (RFC 8410 section 7). This is version 1,
/// without the public key. OpenSSL cannot read version 2 as `ring` writes it.
const ED25519_PREFIX: [u8; 16] = *b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";

/// The algorithm of a signature. The key alone determines it: the algorithm that a signature states
/// is only compared with the key's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SigningAlgorithm {
    /// Ed25519 (RFC 8037): keys of type `OKP`.
    EdDsa,
    /// ECDSA with P-256 and SHA-256 (RFC 7518 section 3.4): keys of type `EC`.
    Es256,
}

/// A key that verifies signatures: a JSON Web Key (RFC 7517).
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    id: String,
    thumbprint: String,
    algorithm: SigningAlgorithm,
    /// For Ed25519 the point's 32 bytes, for P-256 its uncompressed form.
    bytes: Vec<u8>,
}

/// A key that signs. Its `Debug` shows only the public half.
pub struct SigningKey {
    pair: Pair,
    public: PublicKey,
}

enum Pair {
    Ed25519(Box<Ed25519KeyPair>),
    P256(Box<EcdsaKeyPair>),
}

/// Failure to use a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KeyError(SafeText);

impl SigningAlgorithm {
    /// Returns the algorithm's name in JOSE headers and keys (RFC 7518, RFC 8037).
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
        }
    }
}

impl fmt::Display for SigningAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl PublicKey {
    /// Reads the keys of a JSON Web Key Set, or a single JSON Web Key, that can verify descriptors.
    /// Other keys are left out, as RFC 7517 section 5 asks: of other types, for encryption, or for
    /// another algorithm.
    ///
    /// # Errors
    /// If the text is not JSON, or neither a key nor a set of keys.
    pub fn read_set(json: &[u8]) -> Result<Vec<Self>, KeyError> {
        let none = |problem: &dyn fmt::Display| {
            let problem =
                format_args!("the document is neither a JSON Web Key Set (`{{\"keys\": […]}}`) nor a JSON Web Key: {problem}");
            KeyError(SafeText::display(problem))
        };
        let document: Map<String, Value> = serde_json::from_slice(json).map_err(|error| none(&error))?;
        let keys = match document.get("keys") {
            Some(Value::Array(keys)) => keys.clone(),
            Some(_) => return Err(none(&"`keys` is not an array")),
            None if document.contains_key("kty") => vec![Value::Object(document)],
            None => return Err(none(&"`keys` and `kty` are missing")),
        };
        Ok(keys.iter().filter_map(Self::of).take(MAX_KEYS).collect())
    }

    fn of(jwk: &Value) -> Option<Self> {
        let text = |member: &str| jwk.get(member).map(|value| value.as_str().ok_or(())).transpose().ok();
        let number = |member: &str| URL_SAFE_NO_PAD.decode(text(member)??).ok().filter(|bytes| bytes.len() == 32);
        let (algorithm, bytes) = match (text("kty")??, text("crv")??) {
            ("OKP", "Ed25519") => (SigningAlgorithm::EdDsa, number("x")?),
            ("EC", "P-256") => (SigningAlgorithm::Es256, [vec![4], number("x")?, number("y")?].concat()),
            _ => return None,
        };
        let is_to_sign = text("use")?.is_none_or(|purpose| purpose == "sig")
            && text("alg")?.is_none_or(|name| name == algorithm.name())
            && jwk.get("key_ops").is_none_or(|operations| {
                operations.as_array().is_some_and(|operations| operations.iter().any(|operation| operation == "verify"))
            });
        let id = text("kid")?.filter(|id| (1..=MAX_ID_BYTES).contains(&id.len()));
        is_to_sign.then(|| Self::new(algorithm, bytes, id.map(str::to_owned)))
    }

    fn new(algorithm: SigningAlgorithm, bytes: Vec<u8>, id: Option<String>) -> Self {
        let key = Self { id: String::new(), thumbprint: String::new(), algorithm, bytes };
        // RFC 7638 hashes only the required members, sorted and without blanks.
        let digest = Sha256Digest::of(Value::Object(key.members()).to_string().as_bytes());
        let thumbprint = URL_SAFE_NO_PAD.encode(digest.as_bytes());
        Self { id: id.unwrap_or_else(|| thumbprint.clone()), thumbprint, ..key }
    }

    /// Returns the key's id (`kid`), or else its thumbprint.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the SHA-256 digest of the key, as RFC 7638 defines it, in base64url.
    #[must_use]
    pub fn thumbprint(&self) -> &str {
        &self.thumbprint
    }

    /// Returns the key's algorithm.
    #[must_use]
    pub fn algorithm(&self) -> SigningAlgorithm {
        self.algorithm
    }

    /// Returns the JSON Web Key for a published set.
    #[must_use]
    pub fn to_jwk(&self) -> Value {
        let mut key = self.members();
        key.insert("kid".to_owned(), self.id.clone().into());
        key.insert("use".to_owned(), "sig".into());
        key.insert("alg".to_owned(), self.algorithm.to_string().into());
        Value::Object(key)
    }

    fn members(&self) -> Map<String, Value> {
        let encoded = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let key = match self.algorithm {
            SigningAlgorithm::EdDsa => json!({ "crv": "Ed25519", "kty": "OKP", "x": encoded(&self.bytes) }),
            SigningAlgorithm::Es256 => {
                let (x, y) = self.bytes[1..].split_at(32);
                json!({ "crv": "P-256", "kty": "EC", "x": encoded(x), "y": encoded(y) })
            }
        };
        match key {
            Value::Object(members) => members,
            _ => Map::new(),
        }
    }

    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match self.algorithm {
            SigningAlgorithm::EdDsa => UnparsedPublicKey::new(&ED25519, &self.bytes).verify(message, signature).is_ok(),
            SigningAlgorithm::Es256 => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.bytes).verify(message, signature).is_ok()
            }
        }
    }
}

impl SigningKey {
    /// Generates a key as PKCS#8 in PEM, which OpenSSL reads too. The result is secret: store it in
    /// a file that only the signer can read.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub fn generate(algorithm: SigningAlgorithm) -> Result<String, KeyError> {
        let random = SystemRandom::new();
        let pkcs8 = match algorithm {
            SigningAlgorithm::EdDsa => {
                let mut seed = [0; SEED_BYTES];
                random.fill(&mut seed).map(|()| [ED25519_PREFIX.as_slice(), &seed].concat())
            }
            SigningAlgorithm::Es256 => {
                EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).map(|pkcs8| pkcs8.as_ref().to_vec())
            }
        };
        let pkcs8 = pkcs8.map_err(|_| KeyError("the system has no random numbers".into()))?;
        let encoded = STANDARD.encode(pkcs8);
        let mut pem = "-----BEGIN PRIVATE KEY-----\n".to_owned();
        for line in encoded.as_bytes().chunks(64) {
            pem.extend(line.iter().copied().map(char::from));
            pem.push('\n');
        }
        Ok(pem + "-----END PRIVATE KEY-----\n")
    }

    /// Reads a key as PKCS#8 in PEM, of Ed25519 or P-256: from [`Self::generate`] or from
    /// `openssl genpkey`. `id` is the key's id. Without `id`, the thumbprint is used.
    ///
    /// # Errors
    /// If the text is not such a key, or `id` is empty or too long.
    pub fn from_pem(pem: &[u8], id: Option<String>) -> Result<Self, KeyError> {
        let none =
            || KeyError("the file is no Ed25519 or P-256 private key (PKCS#8 in PEM); `protostub keygen` makes one".into());
        if let Some(bytes) = id.as_ref().map(String::len).filter(|bytes| !(1..=MAX_ID_BYTES).contains(bytes)) {
            return Err(KeyError(format!("the id of the key has {bytes} bytes; use 1 to {MAX_ID_BYTES} bytes").into()));
        }
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|_| none())?;
        let der = der.secret_pkcs8_der();
        // Version 1 of PKCS#8 has no public key for Ed25519. Earlier releases wrote version 2.
        if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
            let public = PublicKey::new(SigningAlgorithm::EdDsa, pair.public_key().as_ref().to_vec(), id);
            return Ok(Self { pair: Pair::Ed25519(Box::new(pair)), public });
        }
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &SystemRandom::new()).map_err(|_| none())?;
        let public = PublicKey::new(SigningAlgorithm::Es256, pair.public_key().as_ref().to_vec(), id);
        Ok(Self { pair: Pair::P256(Box::new(pair)), public })
    }

    /// Returns the public half, which verifies signatures.
    #[must_use]
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        match &self.pair {
            Pair::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
            Pair::P256(pair) => pair
                .sign(&SystemRandom::new(), message)
                .map(|signature| signature.as_ref().to_vec())
                .map_err(|_| KeyError("the system has no random numbers".into())),
        }
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublicKey").field("id", &self.id).field("thumbprint", &self.thumbprint).finish_non_exhaustive()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("public", &self.public).finish_non_exhaustive()
    }
}
