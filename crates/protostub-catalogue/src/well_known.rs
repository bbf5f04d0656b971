use protostub_types::{Domain, StubKey};
use url::Url;

/// The resource types of stubs: the one of the deployment specification, and the one of reTHINK's
/// catalogues.
pub(crate) const SPELLINGS: [&str; 2] = ["protostub", "protocolstub"];

/// Maximum length of a stub's name, in bytes.
const MAX_NAME_BYTES: usize = 255;

/// Returns `true` if a stub may have this name. The name becomes one segment of a path, and part of
/// a file's name.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && !name.starts_with('.')
        && !name.contains(|c: char| c.is_control() || c.is_whitespace() || matches!(c, '/' | '\\' | '?' | '#' | '%'))
}

/// Returns `<scheme>://<domain>/.well-known/<spelling>/<name>`, or `None` if there is no such URL.
pub(crate) fn url(scheme: &str, domain: &Domain, spelling: &str, name: &str) -> Option<Url> {
    let mut url = Url::parse(&format!("{scheme}://{domain}/.well-known/")).ok()?;
    url.path_segments_mut().ok()?.pop_if_empty().push(spelling).push(name);
    Some(url)
}

/// Returns the name under which the home domain may offer a stub for a domain that publishes none:
/// the domain's name, or its scheme and host. Returns `None` for a domain's named stubs, which only
/// the domain itself offers.
pub(crate) fn fallback_name(key: &StubKey) -> Option<String> {
    match key {
        StubKey::Domain(domain) => Some(domain.as_str().to_owned()),
        StubKey::Legacy { .. } => Some(key.descriptor_name()),
        _ => None,
    }
}
