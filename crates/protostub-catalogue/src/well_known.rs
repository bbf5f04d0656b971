use protostub_types::{Domain, StubKey};
use url::Url;

/// The resource types of stubs: that of the deployment specification, and that of reTHINK's catalogues.
pub(crate) const SPELLINGS: [&str; 2] = ["protostub", "protocolstub"];

/// How long the name of a stub may be, in bytes.
const MAX_NAME_BYTES: usize = 255;

/// Whether a stub may have this name: it becomes one segment of a path, and part of a file's name.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && !name.starts_with('.')
        && !name.contains(|c: char| c.is_control() || c.is_whitespace() || matches!(c, '/' | '\\' | '?' | '#' | '%'))
}

/// `<scheme>://<domain>/.well-known/<spelling>/<name>`. None if there is no such URL.
pub(crate) fn url(scheme: &str, domain: &Domain, spelling: &str, name: &str) -> Option<Url> {
    let mut url = Url::parse(&format!("{scheme}://{domain}/.well-known/")).ok()?;
    url.path_segments_mut().ok()?.pop_if_empty().push(spelling).push(name);
    Some(url)
}

/// What the home domain calls a stub that it offers for a domain that publishes none: by the domain's own name, or as its scheme and
/// host. A domain's named stubs are the domain's alone.
pub(crate) fn fallback_name(key: &StubKey) -> Option<String> {
    match key {
        StubKey::Domain(domain) => Some(domain.as_str().to_owned()),
        StubKey::Legacy { .. } => Some(key.descriptor_name()),
        _ => None,
    }
}
