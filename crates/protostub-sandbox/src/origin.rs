use std::{fmt, str::FromStr};

use protostub_types::SafeText;
use serde::Deserialize;
use url::{Host, Origin, Url};

/// An origin that may get a credential by reference: exactly this scheme, host and port. The stub
/// does not see the credential.
///
/// For example `https://api.sp1.example` or `wss://sp1.example:8443`. Without TLS (`http`, `ws`),
/// only loopback is possible: there is no eavesdropper on the way. The default port is the
/// scheme's. There are no patterns.
///
/// ```
/// use protostub_sandbox::CredentialOrigin;
/// let origin: CredentialOrigin = "https://API.sp1.example:443/".parse()?;
/// assert_eq!(origin.to_string(), "https://api.sp1.example");
/// # Ok::<(), protostub_sandbox::CredentialOriginError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct CredentialOrigin(Origin);

/// Reason why a text is not a [`CredentialOrigin`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an origin for a credential: {problem}; write `https://host` or `wss://host:port`")]
pub struct CredentialOriginError {
    text: SafeText,
    problem: &'static str,
}

impl CredentialOrigin {
    /// Returns `true` if a URL is of this origin.
    pub(crate) fn is_of(&self, url: &Url) -> bool {
        url.origin() == self.0
    }
}

impl FromStr for CredentialOrigin {
    type Err = CredentialOriginError;

    fn from_str(text: &str) -> Result<Self, CredentialOriginError> {
        let wrong = |problem| CredentialOriginError { text: SafeText::quote(text), problem };
        let url = Url::parse(text).map_err(|_| wrong("the text is not a URL"))?;
        let is_loopback = match url.host() {
            Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.to_canonical().is_loopback(),
            None => return Err(wrong("the URL has no host")),
        };
        match url.scheme() {
            "https" | "wss" => {}
            "http" | "ws" if is_loopback => {}
            "http" | "ws" => return Err(wrong("without TLS, only loopback is possible, since others could read the credential")),
            _ => return Err(wrong("credentials go in headers of `https` and `wss` only")),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong("the URL has a user or a password"));
        }
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err(wrong("the URL has more than a scheme, a host and a port"));
        }
        Ok(Self(url.origin()))
    }
}

impl TryFrom<String> for CredentialOrigin {
    type Error = CredentialOriginError;

    fn try_from(text: String) -> Result<Self, CredentialOriginError> {
        text.parse()
    }
}

impl fmt::Display for CredentialOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.ascii_serialization())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_a_scheme_a_host_and_a_port() {
        let check = |text: &str, expected: Result<&str, &str>| match (text.parse::<CredentialOrigin>(), expected) {
            (Ok(origin), Ok(expected)) => assert_eq!(origin.to_string(), expected),
            (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
            (was, _) => panic!("{text}: {was:?}"),
        };
        check("https://sp1.example", Ok("https://sp1.example"));
        check("WSS://SP1.example:8443/", Ok("wss://sp1.example:8443"));
        check("http://127.0.0.1:8080", Ok("http://127.0.0.1:8080"));
        check("ws://[::1]:8080", Ok("ws://[::1]:8080"));
        check("http://sp1.example", Err("only loopback"));
        check("tcp://sp1.example", Err("headers of `https` and `wss` only"));
        check("https://*.sp1.example/x", Err("more than a scheme"));
        check("https://a@sp1.example", Err("a user"));
        check("sp1.example", Err("the text is not a URL"));
        let origin: CredentialOrigin = "https://sp1.example".parse().unwrap();
        for (url, expected) in [
            ("https://sp1.example:443/x?y", true),
            ("https://sp1.example:444/", false),
            ("http://sp1.example:443/", false),
            ("wss://sp1.example/", false),
            ("https://sp1.example./", false),
            ("https://a.sp1.example/", false),
            ("https://sp1.example.evil.example/", false),
            ("https://sp1.example@evil.example/", false),
        ] {
            assert_eq!(origin.is_of(&Url::parse(url).unwrap()), expected, "{url}");
        }
    }
}
