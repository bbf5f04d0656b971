use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use protostub_types::{Descriptor, Domain, SafeText, Sha256Digest, WASM_COMPONENT, file_name};
use serde_json::{Map, Value};

/// Maximum length of a descriptor, in bytes.
const MAX_DESCRIPTOR_BYTES: u64 = 1024 * 1024;
/// Maximum length of a component, in bytes. A Python stub has 18 MiB.
const MAX_COMPONENT_BYTES: u64 = 128 * 1024 * 1024;
/// Maximum number of stubs in a folder.
const MAX_STUBS: usize = 1000;

/// The well-known type of components.
pub(crate) const PACKAGE_TYPE: &str = "sourcepackage";

/// Name of the file with the keys that the domain signs with.
pub(crate) const KEYS_FILE: &str = "protostub-jwks.json";
/// Maximum length of that file, in bytes.
const MAX_KEYS_BYTES: u64 = 64 * 1024;

const DESCRIPTOR_FILE: &str = "descriptor.json";
const COMPONENT_FILE: &str = "component.wasm";

/// The protocol stubs in a folder, as the well-known catalogue serves them.
///
/// ```text
/// <folder>/<name>/descriptor.json     what is told of the stub; see below for what may be left out
/// <folder>/<name>/component.wasm      its code
/// ```
///
/// The files are read on each request, so a stub can be replaced while the server runs. In the
/// descriptor
/// * a missing `objectName` becomes the folder's name, and a missing `language` `WASM_COMPONENT`;
/// * a missing `sourcePackageURL` becomes `/.well-known/sourcepackage/<name>`, and a missing
///   `sourcePackage.sha256` the component's digest;
/// * a `sourcePackageURL` of `/sourcePackage` without `sourcePackage.sourceCode` gets the component
///   inline, in base64;
/// * the texts of `configuration` get the values of [`Place`] for their placeholders.
///
/// A descriptor with `signatures` is served unchanged, since a change would invalidate them.
/// `<folder>/protostub-jwks.json` is the domain's key set.
#[derive(Debug)]
pub(crate) struct Catalogue {
    folder: PathBuf,
    default: Option<String>,
    /// The digests of the components. They are valid while the files are unchanged.
    digests: Mutex<HashMap<String, (SystemTime, u64, Sha256Digest)>>,
}

/// The address under which a client reached the server. It gives the values of the placeholders in
/// a descriptor's configuration.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// `${authority}`: host and port.
    pub(crate) authority: String,
    /// `${domain}`: the domain of the message node's addresses.
    pub(crate) domain: Domain,
}

/// A stub in the folder that a runtime could not deploy.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StubProblem {
    /// The stub's name, which is its folder's name.
    pub name: String,
    /// The fault.
    pub problem: String,
}

/// Failure of the catalogue to answer a request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CatalogueError {
    #[error("there is no protocol stub `{name}` here; {}", listed(.names))]
    NotFound { name: String, names: Vec<String> },
    #[error("there is no default protocol stub here; {}", listed(.names))]
    NoDefault { names: Vec<String> },
    #[error("the protocol stub `{name}` has no file {file}")]
    NoFile { name: String, file: &'static str },
    #[error("this domain publishes no keys: its folder has no {KEYS_FILE}")]
    NoKeys,
    #[error("failed to read {file} of the protocol stub `{name}`: {source}")]
    Io { name: String, file: &'static str, source: io::Error },
    #[error("the descriptor of the protocol stub `{name}` is not a JSON object: {problem}")]
    Descriptor { name: String, problem: String },
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "the folder is empty".to_owned() } else { format!("the folder has: {}", names.join(", ")) }
}

impl Place {
    fn fill_in(&self, text: &str) -> String {
        let mut filled = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            filled.push_str(before);
            let (value, length) = after
                .split_once('}')
                .and_then(|(name, _)| Some((self.value(name)?, name.len() + 1)))
                // The text is not one of the placeholders, so it stays.
                .unwrap_or(("${".to_owned(), 0));
            filled.push_str(&value);
            rest = &after[length..];
        }
        filled + rest
    }

    fn value(&self, name: &str) -> Option<String> {
        let Self { authority, domain } = self;
        Some(match name {
            "authority" => authority.clone(),
            "domain" => domain.to_string(),
            "http-url" => format!("http://{authority}"),
            "ws-url" => format!("ws://{authority}/ws"),
            "nomatrix-url" => format!("ws://{authority}/stub/connect"),
            _ => return None,
        })
    }

    fn fill_in_all(&self, value: &mut Value) {
        match value {
            Value::String(text) if text.contains("${") => *text = self.fill_in(text),
            Value::Array(values) => values.iter_mut().for_each(|value| self.fill_in_all(value)),
            Value::Object(members) => members.values_mut().for_each(|value| self.fill_in_all(value)),
            _ => {}
        }
    }
}

impl Catalogue {
    pub(crate) fn new(folder: PathBuf, default: Option<String>) -> Self {
        Self { folder, default, digests: Mutex::default() }
    }

    /// Returns the folder of the stubs.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the names of the stubs, sorted.
    pub(crate) async fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        let mut entries = tokio::fs::read_dir(&self.folder).await?;
        while let Some(entry) = entries.next_entry().await? {
            if let Ok(name) = entry.file_name().into_string()
                && is_name(&name)
                && names.len() < MAX_STUBS
                && tokio::fs::try_exists(entry.path().join(DESCRIPTOR_FILE)).await.unwrap_or(false)
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Returns the name of the default stub: the configured one, a stub of that name, or the only
    /// one.
    pub(crate) async fn default_name(&self) -> Result<String, CatalogueError> {
        if let Some(default) = &self.default {
            return Ok(default.clone());
        }
        let names = self.names().await.unwrap_or_default();
        match names.as_slice() {
            [name] => Ok(name.clone()),
            names if names.iter().any(|name| name == "default") => Ok("default".to_owned()),
            _ => Err(CatalogueError::NoDefault { names }),
        }
    }

    /// Returns the descriptor of a stub, completed for a place.
    pub(crate) async fn descriptor(&self, name: &str, place: &Place) -> Result<Map<String, Value>, CatalogueError> {
        let name = self.resolve(name).await?;
        let text = self.read(&name, DESCRIPTOR_FILE, MAX_DESCRIPTOR_BYTES).await?;
        let mut descriptor: Map<String, Value> = serde_json::from_slice(&text)
            .map_err(|error| CatalogueError::Descriptor { name: name.clone(), problem: error.to_string() })?;
        if descriptor.contains_key("signatures") {
            return Ok(descriptor);
        }
        descriptor.entry("objectName").or_insert_with(|| name.clone().into());
        descriptor.entry("language").or_insert_with(|| WASM_COMPONENT.into());
        if let Some(configuration) = descriptor.get_mut("configuration") {
            place.fill_in_all(configuration);
        }
        self.complete_source(&name, &mut descriptor).await?;
        Ok(descriptor)
    }

    async fn complete_source(&self, name: &str, descriptor: &mut Map<String, Value>) -> Result<(), CatalogueError> {
        let own_url = format!("/.well-known/{PACKAGE_TYPE}/{name}");
        let url = descriptor.entry("sourcePackageURL").or_insert_with(|| own_url.clone().into()).as_str().unwrap_or_default();
        let (is_own, is_inline) = (url == own_url, url == "/sourcePackage");
        let is_stated = descriptor.contains_key("sha256");
        let package = descriptor.entry("sourcePackage").or_insert(Value::Null);
        if package.is_null() {
            *package = Value::Object(Map::new());
        }
        let Some(package) = package.as_object_mut() else { return Ok(()) };
        let digest = if is_inline && !package.contains_key("sourceCode") {
            let (code, digest) = self.component(name).await?;
            package.insert("sourceCode".into(), BASE64.encode(code).into());
            package.insert("encoding".into(), "base64".into());
            Some(digest)
        } else if is_own {
            Some(self.digest(name).await?)
        } else {
            None
        };
        if let Some(digest) = digest
            && !is_stated
        {
            package.entry("sha256").or_insert_with(|| digest.to_string().into());
        }
        Ok(())
    }

    /// Returns the domain's key set.
    pub(crate) async fn keys(&self) -> Result<Vec<u8>, CatalogueError> {
        self.read("", KEYS_FILE, MAX_KEYS_BYTES).await.map_err(|error| match error {
            CatalogueError::NoFile { .. } => CatalogueError::NoKeys,
            other => other,
        })
    }

    /// Returns the faults that would keep a runtime from deploying the stubs, judged by their
    /// descriptors and the presence of their code.
    pub(crate) async fn problems(&self, place: &Place) -> Vec<StubProblem> {
        let mut problems = Vec::new();
        for name in self.names().await.unwrap_or_default() {
            if let Err(problem) = self.check(&name, place).await {
                problems.push(StubProblem { name, problem });
            }
        }
        problems
    }

    async fn check(&self, name: &str, place: &Place) -> Result<(), String> {
        let descriptor = self.descriptor(name, place).await.map_err(|error| error.to_string())?;
        let descriptor =
            Descriptor::parse(Value::Object(descriptor).to_string().as_bytes()).map_err(|error| error.to_string())?;
        descriptor.check_deployable().map_err(|error| error.to_string())?;
        let is_own = descriptor.source_package_url.is_some_and(|url| url == format!("/.well-known/{PACKAGE_TYPE}/{name}"));
        let stated = descriptor.source_package.as_ref().and_then(|package| package.sha256).or(descriptor.sha256);
        if is_own && let Some(stated) = stated {
            let digest = self.digest(name).await.map_err(|error| error.to_string())?;
            if digest != stated {
                return Err(format!("the descriptor states the digest {stated}, and {COMPONENT_FILE} has {digest}"));
            }
        }
        Ok(())
    }

    /// Returns the code of a stub, and its digest.
    pub(crate) async fn component(&self, name: &str) -> Result<(Vec<u8>, Sha256Digest), CatalogueError> {
        let name = self.resolve(name).await?;
        let path = self.folder.join(&name).join(COMPONENT_FILE);
        let stamp = tokio::fs::metadata(path).await.ok().and_then(|file| Some((file.modified().ok()?, file.len())));
        let code = self.read(&name, COMPONENT_FILE, MAX_COMPONENT_BYTES).await?;
        if let Some((modified, length)) = stamp
            && let Some(digest) = self.known_digest(&name, modified, length)
        {
            return Ok((code, digest));
        }
        let hashed = tokio::task::spawn_blocking(move || (Sha256Digest::of(&code), code)).await;
        let (digest, code) = hashed.map_err(|error| CatalogueError::Io {
            name: name.clone(),
            file: COMPONENT_FILE,
            source: io::Error::other(error),
        })?;
        if let Some((modified, length)) = stamp.filter(|(_, length)| *length == code.len() as u64) {
            self.digests.lock().unwrap_or_else(PoisonError::into_inner).insert(name, (modified, length, digest));
        }
        Ok((code, digest))
    }

    async fn digest(&self, name: &str) -> Result<Sha256Digest, CatalogueError> {
        if let Ok(file) = tokio::fs::metadata(self.folder.join(name).join(COMPONENT_FILE)).await
            && let Ok(modified) = file.modified()
            && let Some(digest) = self.known_digest(name, modified, file.len())
        {
            return Ok(digest);
        }
        self.component(name).await.map(|(_, digest)| digest)
    }

    fn known_digest(&self, name: &str, modified: SystemTime, length: u64) -> Option<Sha256Digest> {
        let digests = self.digests.lock().unwrap_or_else(PoisonError::into_inner);
        digests.get(name).filter(|known| (known.0, known.1) == (modified, length)).map(|known| known.2)
    }

    /// Returns the name of an existing stub.
    async fn resolve(&self, name: &str) -> Result<String, CatalogueError> {
        let is_here = async |name: &str| is_name(name) && tokio::fs::try_exists(self.folder.join(name)).await.unwrap_or(false);
        let name = match name {
            "default" if !is_here("default").await || self.default.is_some() => &self.default_name().await?,
            name => name,
        };
        if is_here(name).await {
            return Ok(name.to_owned());
        }
        Err(CatalogueError::NotFound { name: shown(name), names: self.names().await.unwrap_or_default() })
    }

    async fn read(&self, name: &str, file: &'static str, max_bytes: u64) -> Result<Vec<u8>, CatalogueError> {
        use tokio::io::AsyncReadExt as _;
        let fail = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => CatalogueError::NoFile { name: name.to_owned(), file },
            _ => CatalogueError::Io { name: name.to_owned(), file, source },
        };
        let opened = tokio::fs::File::open(self.folder.join(name).join(file)).await.map_err(fail)?;
        let mut bytes = Vec::new();
        opened.take(max_bytes + 1).read_to_end(&mut bytes).await.map_err(fail)?;
        if bytes.len() as u64 > max_bytes {
            return Err(fail(io::Error::other(format!("the file is longer than {max_bytes} bytes"))));
        }
        Ok(bytes)
    }
}

/// Returns `true` if a text can be the name of a stub: a file name that needs no encoding in a URL.
fn is_name(text: &str) -> bool {
    file_name(text).is_some()
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// Returns the beginning of a name, for error messages. The name may have any length.
fn shown(name: &str) -> String {
    SafeText::quote(name).to_string()
}
