use std::{borrow::Cow, fmt, str::FromStr, sync::Arc};

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};
use url::Url;

use crate::{SafeText, Sha256Digest, Version};

/// The [`Descriptor::language`] of stubs that are WebAssembly components.
pub const WASM_COMPONENT: &str = "WASM_COMPONENT";

/// Default maximum size of a descriptor in bytes: 256 KiB.
pub const DEFAULT_DESCRIPTOR_BYTES: usize = 256 << 10;

/// Default maximum size of a component in bytes: 64 MiB.
pub const DEFAULT_COMPONENT_BYTES: usize = 64 << 20;

/// The `sourcePackageURL` that means "in this descriptor".
const INLINE: &str = "/sourcePackage";
/// Maximum number of ports that a descriptor may declare.
const MAX_PORTS: usize = 16;
/// Maximum number of signatures of a descriptor: those of the keys before and after a rotation,
/// with room to spare.
const MAX_SIGNATURES: usize = 8;
/// Base64 that is read with or without padding.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));

/// A domain's description of one of its protocol stubs: the `ProtoStubDescriptor` of the reTHINK
/// data model.
///
/// Reading is liberal ([`Self::parse`]), since existing descriptors differ; writing is strict
/// ([`Self::to_json`]). Members without a meaning here are kept. Five members are extensions of
/// Protostub: `sha256` and `size`, which bind the code to the descriptor, `ports`, `overlap` and
/// `signatures`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Descriptor {
    /// The catalogue's own id of the object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cguid: Option<String>,
    /// The kind of object: `ProtoStubs`, `IDPProxys`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The name of the stub: the last segment of its well-known URL, or the name behind `default`.
    pub object_name: String,
    /// The version of the stub. A greater version is an update.
    pub version: Version,
    /// A description for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The language of the stub: [`WASM_COMPONENT`], or a language that is not deployed here
    /// ([`Self::check_deployable`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// URL of the code, as it was written; [`Self::source_location`] resolves it. `None` means
    /// `/sourcePackage`: in this descriptor.
    #[serde(rename = "sourcePackageURL", skip_serializing_if = "Option::is_none")]
    pub source_package_url: Option<String>,
    /// The code itself, or facts about code elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_package: Option<SourcePackage>,
    /// The digest of the code, unless [`Self::source_package`] has it; see [`Self::digest`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Sha256Digest>,
    /// The values that the stub's `configuration` import returns, before the operator's overrides.
    pub configuration: Map<String, Value>,
    /// The stub's requirements of its runtime (`RuntimeCapabilities`), without those that a
    /// component declares by its imports.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub constraints: Map<String, Value>,
    /// URLs of the schemas of the stub's messages.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub message_schemas: Vec<String>,
    /// TLS ports above 1023 that the stub connects to within its domain, in addition to the usual
    /// ones; at most 16.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<u16>,
    /// `true` if, in an update, the new instance may be connected while the old one still is.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub overlap: bool,
    /// A signature over the object, in any form that a catalogue of reTHINK has given it. It is
    /// never verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// The domain's signatures of its stub, each a JWS in the compact form (RFC 7515 section 7.1);
    /// at most 8. They are not verified here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub signatures: Vec<String>,
    /// All other members.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// The code of a stub, or facts about it: `SourcePackage` of the reTHINK data model.
#[derive(Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct SourcePackage {
    /// The encoding of [`Self::source_code`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoding: Option<Encoding>,
    /// The code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_code: Option<Arc<str>>,
    /// The name of the export of a JavaScript stub.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_code_classname: Option<String>,
    /// The digest of the decoded code, in this package or elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Sha256Digest>,
    /// Length of the decoded code in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// A signature over the code; not verified here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// All other members.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// The encoding of [`SourcePackage::source_code`]. Read in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub enum Encoding {
    /// RFC 4648, section 4. Padding may be missing, and line breaks are allowed.
    #[serde(rename = "base64")]
    Base64,
    /// The text as it is.
    #[serde(rename = "utf-8")]
    Utf8,
}

/// The location of a stub's code.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a descriptor carries the code or says where it is")]
pub enum SourceLocation {
    /// In the descriptor: [`SourcePackage::decode`].
    Inline,
    /// At this URL, by `https` or the scheme that the descriptor itself was fetched by.
    Url(Url),
}

/// The reason why a text is not a [`Descriptor`], or not one that can be deployed: the problem and
/// its place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct DescriptorError {
    path: SafeText,
    problem: SafeText,
}

impl DescriptorError {
    fn new(path: impl Into<SafeText>, problem: impl Into<SafeText>) -> Self {
        Self { path: path.into(), problem: problem.into() }
    }

    /// Returns the place of the fault, from the root `$`: `$.sourcePackage.sha256`, `$.ports[1]`.
    /// It is `$` alone if the text is not a JSON object.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl Descriptor {
    /// Creates the descriptor of a WebAssembly component. The caller still has to add its code
    /// ([`Self::embed`], [`Self::refer`]).
    #[must_use]
    pub fn new(object_name: &str, version: Version) -> Self {
        Self {
            cguid: None,
            kind: Some("ProtoStubs".to_owned()),
            object_name: object_name.to_owned(),
            version,
            description: None,
            language: Some(WASM_COMPONENT.to_owned()),
            source_package_url: None,
            source_package: None,
            sha256: None,
            configuration: Map::new(),
            constraints: Map::new(),
            message_schemas: Vec::new(),
            ports: Vec::new(),
            overlap: false,
            signature: None,
            signatures: Vec::new(),
            other: Map::new(),
        }
    }

    /// Puts a component into the descriptor, with its digest.
    pub fn embed(&mut self, component: &[u8]) {
        self.source_package_url = Some(INLINE.to_owned());
        self.sha256 = None;
        self.source_package = Some(SourcePackage {
            encoding: Some(Encoding::Base64),
            source_code: Some(BASE64.encode(component).into()),
            ..SourcePackage::stating(component)
        });
    }

    /// Records the URL of a component, absolute or relative to the descriptor's URL, and its
    /// digest.
    pub fn refer(&mut self, url: &str, component: &[u8]) {
        self.source_package_url = Some(url.to_owned());
        self.sha256 = None;
        self.source_package = Some(SourcePackage::stating(component));
    }

    /// Reads a descriptor, as liberally as possible without guessing. It accepts a number for a
    /// text, `""`, `[]` or null for an absent member, and JSON in a text for an object. Unknown
    /// members are kept in [`Self::other`].
    ///
    /// # Errors
    /// If the text is not a JSON object, a required member (`objectName`, `version`) is missing, or
    /// a member is invalid. JSON that is nested more than 128 levels deep is refused.
    pub fn parse(json: &[u8]) -> Result<Self, DescriptorError> {
        let json = json.strip_prefix(b"\xef\xbb\xbf").unwrap_or(json);
        let mut members = Members::parse(json)?;
        let version = members.required("version", |value, path| {
            let text = match (&value, serde_json::from_slice::<RawVersion<'_>>(json)) {
                // Keeps the digits as written: 12.70 is not 12.7.
                (Value::Number(_), Ok(RawVersion { version })) => version.get().to_owned(),
                _ => text(value, path)?,
            };
            Version::parse(&text)
                .map_err(|error| DescriptorError::new(path, format!("`{}` is not a version: {error}", SafeText::quote(&text))))
        })?;
        let mut message_schemas = members.optional("messageSchemas", texts)?.unwrap_or_default();
        message_schemas.extend(members.optional("messageSchema", texts)?.unwrap_or_default());
        let descriptor = Self {
            cguid: members.text("cguid")?,
            kind: members.text("type")?,
            object_name: members.required("objectName", text)?,
            version,
            description: members.text("description")?,
            language: members.text("language")?,
            source_package_url: members.text("sourcePackageURL")?,
            source_package: members.optional("sourcePackage", |value, path| SourcePackage::read(Members::of(value, path)?))?,
            sha256: members.optional("sha256", digest)?,
            configuration: members.optional("configuration", object)?.unwrap_or_default(),
            constraints: members.optional("constraints", object)?.unwrap_or_default(),
            message_schemas,
            ports: members.optional("ports", ports)?.unwrap_or_default(),
            overlap: members.optional("overlap", boolean)?.unwrap_or_default(),
            signature: members.text("signature")?,
            signatures: members.optional("signatures", signatures)?.unwrap_or_default(),
            other: members.others(),
        };
        let stated = descriptor.source_package.as_ref().and_then(|package| package.sha256);
        match (descriptor.sha256, stated) {
            (Some(outer), Some(inner)) if outer != inner => {
                Err(DescriptorError::new("$.sha256", format!("is {outer}, and $.sourcePackage.sha256 is {inner}")))
            }
            _ => Ok(descriptor),
        }
    }

    /// Returns the JSON text, indented.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// Checks that a runtime of this project can deploy the stub. The stub must be a WebAssembly
    /// component, and the descriptor must have its code or the code's URL.
    ///
    /// # Errors
    /// If the stub is written in another language, or the descriptor has no code.
    pub fn check_deployable(&self) -> Result<(), DescriptorError> {
        match self.language.as_deref() {
            Some(language) if language.eq_ignore_ascii_case(WASM_COMPONENT) => {}
            Some(language) => {
                return Err(DescriptorError::new(
                    "$.language",
                    format!("is `{}`; only stubs in {WASM_COMPONENT} can be deployed", SafeText::quote(language)),
                ));
            }
            None => {
                return Err(DescriptorError::new(
                    "$.language",
                    format!("is missing; only stubs in {WASM_COMPONENT} can be deployed"),
                ));
            }
        }
        if self.is_inline() && self.source_package.as_ref().is_none_or(|package| package.source_code.is_none()) {
            let problem = match &self.source_package_url {
                Some(_) => "is missing, and $.sourcePackageURL says that the code is there",
                None => "is missing, and so is $.sourcePackageURL; the descriptor has no code",
            };
            return Err(DescriptorError::new("$.sourcePackage.sourceCode", problem));
        }
        Ok(())
    }

    /// Returns the location of the code, for a descriptor that was found at `base`. The scheme
    /// `hyperty-catalogue` means `https`, or `http` if the descriptor itself was fetched from the
    /// same host by `http`.
    ///
    /// # Errors
    /// If `sourcePackageURL` is neither absolute nor relative to `base`, or has a scheme other than
    /// `https` and `http`.
    pub fn source_location(&self, base: &Url) -> Result<SourceLocation, DescriptorError> {
        const PATH: &str = "$.sourcePackageURL";
        let Some(written) = self.source_package_url.as_deref().filter(|_| !self.is_inline()) else {
            return Ok(SourceLocation::Inline);
        };
        let parse = |text: &str| {
            base.join(text)
                .map_err(|error| DescriptorError::new(PATH, format!("`{}` is not a URL: {error}", SafeText::quote(text))))
        };
        let scheme_end = "hyperty-catalogue".len();
        let url = match written.split_at_checked(scheme_end) {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("hyperty-catalogue") && rest.starts_with("://") => {
                let secure = parse(&format!("https{rest}"))?;
                let plain = parse(&format!("http{rest}"))?;
                if base.scheme() == "http" && base.origin() == plain.origin() { plain } else { secure }
            }
            _ => parse(written)?,
        };
        match url.scheme() {
            "https" | "http" if !url.username().is_empty() || url.password().is_some() => {
                Err(DescriptorError::new(PATH, "has a user name or a password; a stub's code is public"))
            }
            "https" | "http" if url.has_host() => Ok(SourceLocation::Url(url)),
            scheme => Err(DescriptorError::new(PATH, format!("has the scheme `{}`; use https", SafeText::quote(scheme)))),
        }
    }

    /// Returns the digest that the code must have, from either place in the descriptor. Returns
    /// `None` if the descriptor has none.
    #[must_use]
    pub fn digest(&self) -> Option<Sha256Digest> {
        self.source_package.as_ref().and_then(|package| package.sha256).or(self.sha256)
    }

    /// Returns the length in bytes that the code must have, if the descriptor has one.
    #[must_use]
    pub fn size(&self) -> Option<u64> {
        self.source_package.as_ref().and_then(|package| package.size)
    }

    fn is_inline(&self) -> bool {
        self.source_package_url.as_deref().is_none_or(|url| url == INLINE)
    }
}

impl SourcePackage {
    /// Creates a package with the facts about a component, without its code.
    fn stating(component: &[u8]) -> Self {
        Self {
            encoding: None,
            source_code: None,
            source_code_classname: None,
            sha256: Some(Sha256Digest::of(component)),
            size: u64::try_from(component.len()).ok(),
            signature: None,
            other: Map::new(),
        }
    }

    /// Reads a separate package, as reTHINK catalogues serve it at
    /// `/.well-known/sourcepackage/<name>`.
    ///
    /// # Errors
    /// If the text is not a JSON object, or a member is invalid. Paths in the error begin at the
    /// package.
    pub fn parse(json: &[u8]) -> Result<Self, DescriptorError> {
        Self::read(Members::parse(json)?)
    }

    fn read(mut members: Members) -> Result<Self, DescriptorError> {
        Ok(Self {
            encoding: members.optional("encoding", encoding)?,
            source_code: members.optional("sourceCode", text)?.map(Arc::from),
            source_code_classname: members.text("sourceCodeClassname")?,
            sha256: members.optional("sha256", digest)?,
            size: members.optional("size", size)?,
            signature: members.text("signature")?,
            other: members.others(),
        })
    }

    /// Returns the decoded code. Code without an `encoding` is taken as it is. Takes at most as
    /// much memory as the descriptor itself.
    ///
    /// # Errors
    /// If the package has no code, or the code is not base64 although `encoding` says so.
    pub fn decode(&self) -> Result<Vec<u8>, DescriptorError> {
        const PATH: &str = "$.sourcePackage.sourceCode";
        let Some(code) = &self.source_code else { return Err(DescriptorError::new(PATH, "is missing")) };
        match self.encoding {
            Some(Encoding::Base64) => {
                let digits: Cow<'_, [u8]> = if code.bytes().any(|b| b.is_ascii_whitespace()) {
                    code.bytes().filter(|b| !b.is_ascii_whitespace()).collect()
                } else {
                    code.as_bytes().into()
                };
                BASE64.decode(&*digits).map_err(|error| DescriptorError::new(PATH, format!("is not base64: {error}")))
            }
            Some(Encoding::Utf8) | None => Ok(code.as_bytes().to_vec()),
        }
    }
}

impl fmt::Debug for SourcePackage {
    /// Shows the length of the code instead of the code, which is long and meaningless to people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourcePackage")
            .field("encoding", &self.encoding)
            .field("source_code_bytes", &self.source_code.as_ref().map(|code| code.len()))
            .field("source_code_classname", &self.source_code_classname)
            .field("sha256", &self.sha256)
            .field("size", &self.size)
            .field("signature", &self.signature)
            .field("other", &self.other)
            .finish()
    }
}

impl FromStr for Descriptor {
    type Err = DescriptorError;
    fn from_str(json: &str) -> Result<Self, DescriptorError> {
        Self::parse(json.as_bytes())
    }
}

/// The version as written in the text; a parsed number would lose its form.
#[derive(Deserialize)]
struct RawVersion<'a> {
    #[serde(borrow)]
    version: &'a RawValue,
}

/// The members of a JSON object, which are taken out one by one.
struct Members {
    path: String,
    rest: Map<String, Value>,
}

impl Members {
    fn parse(json: &[u8]) -> Result<Self, DescriptorError> {
        let value = serde_json::from_slice(json).map_err(|error| DescriptorError::new("$", format!("is not JSON: {error}")))?;
        Self::of(value, "$")
    }

    fn of(value: Value, path: &str) -> Result<Self, DescriptorError> {
        match value {
            Value::Object(rest) => Ok(Self { path: path.to_owned(), rest }),
            other => Err(wrong(path, &other, "an object")),
        }
    }

    /// Returns the remaining members in a new map. The old map would keep the room of the members
    /// that were taken out for as long as the stub exists.
    fn others(self) -> Map<String, Value> {
        self.rest.into_iter().collect()
    }

    /// Takes out a member. Null, an empty text and an empty array mean the same as an absent
    /// member.
    fn optional<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(Value, &str) -> Result<T, DescriptorError>,
    ) -> Result<Option<T>, DescriptorError> {
        match self.rest.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.trim().is_empty() => Ok(None),
            Some(Value::Array(items)) if items.is_empty() => Ok(None),
            Some(value) => read(value, &format!("{}.{name}", self.path)).map(Some),
        }
    }

    fn required<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(Value, &str) -> Result<T, DescriptorError>,
    ) -> Result<T, DescriptorError> {
        self.optional(name, read)?.ok_or_else(|| DescriptorError::new(format!("{}.{name}", self.path), "is missing or empty"))
    }

    fn text(&mut self, name: &str) -> Result<Option<String>, DescriptorError> {
        self.optional(name, text)
    }
}

/// Reads a text; a number counts as a text.
fn text(value: Value, path: &str) -> Result<String, DescriptorError> {
    match value {
        Value::String(text) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        other => Err(wrong(path, &other, "a text")),
    }
}

/// Reads a text, or an array of texts.
fn texts(value: Value, path: &str) -> Result<Vec<String>, DescriptorError> {
    match value {
        Value::Array(items) => items.into_iter().enumerate().map(|(at, item)| text(item, &format!("{path}[{at}]"))).collect(),
        single => Ok(vec![text(single, path)?]),
    }
}

/// Reads an object, or a text that holds an object as JSON.
fn object(value: Value, path: &str) -> Result<Map<String, Value>, DescriptorError> {
    let held = match value {
        Value::Object(members) => return Ok(members),
        Value::String(text) => serde_json::from_str(&text)
            .map_err(|error| DescriptorError::new(path, format!("is a text that does not hold JSON: {error}")))?,
        other => return Err(wrong(path, &other, "an object")),
    };
    match held {
        Value::Object(members) => Ok(members),
        Value::Null => Ok(Map::new()),
        Value::Array(items) if items.is_empty() => Ok(Map::new()),
        other => Err(DescriptorError::new(path, format!("is a text that holds {}; it has to hold an object", kind(&other)))),
    }
}

fn boolean(value: Value, path: &str) -> Result<bool, DescriptorError> {
    match value {
        Value::Bool(flag) => Ok(flag),
        Value::String(text) if text.eq_ignore_ascii_case("true") => Ok(true),
        Value::String(text) if text.eq_ignore_ascii_case("false") => Ok(false),
        other => Err(wrong(path, &other, "true or false")),
    }
}

fn digest(value: Value, path: &str) -> Result<Sha256Digest, DescriptorError> {
    let text = text(value, path)?;
    text.parse().map_err(|error| DescriptorError::new(path, format!("`{}`: {error}", SafeText::quote(&text))))
}

fn size(value: Value, path: &str) -> Result<u64, DescriptorError> {
    let text = text(value, path)?;
    text.parse().map_err(|_| DescriptorError::new(path, format!("`{}` is not a number of bytes", SafeText::quote(&text))))
}

fn encoding(value: Value, path: &str) -> Result<Encoding, DescriptorError> {
    let text = text(value, path)?;
    match text.to_ascii_lowercase().as_str() {
        "base64" => Ok(Encoding::Base64),
        "utf-8" | "utf8" => Ok(Encoding::Utf8),
        _ => Err(DescriptorError::new(path, format!("is `{}`; use base64 or utf-8", SafeText::quote(&text)))),
    }
}

fn signatures(value: Value, path: &str) -> Result<Vec<String>, DescriptorError> {
    let texts = texts(value, path)?;
    if texts.len() > MAX_SIGNATURES {
        return Err(DescriptorError::new(path, format!("has {} signatures; the limit is {MAX_SIGNATURES}", texts.len())));
    }
    Ok(texts)
}

fn ports(value: Value, path: &str) -> Result<Vec<u16>, DescriptorError> {
    let Value::Array(items) = value else { return Err(wrong(path, &value, "an array")) };
    if items.len() > MAX_PORTS {
        return Err(DescriptorError::new(path, format!("has {} ports; the limit is {MAX_PORTS}", items.len())));
    }
    let port = |(at, item): (usize, Value)| match item.as_u64().and_then(|number| u16::try_from(number).ok()) {
        Some(port @ 1024..) => Ok(port),
        _ => {
            let item = SafeText::quote(&item.to_string());
            Err(DescriptorError::new(format!("{path}[{at}]"), format!("is {item}; use a port from 1024 to 65535")))
        }
    };
    items.into_iter().enumerate().map(port).collect()
}

fn wrong(path: &str, value: &Value, wanted: &str) -> DescriptorError {
    DescriptorError::new(path, format!("is {}; it has to be {wanted}", kind(value)))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
