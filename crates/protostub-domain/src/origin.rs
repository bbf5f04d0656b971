use std::{fmt, str::FromStr};

use protostub_types::{Domain, SafeText};

/// The origin of web pages, as browsers send it with each WebSocket (RFC 6454): a scheme, a host,
/// and a port if that is not the scheme's default one. Examples are `https://app.example` and
/// `http://localhost:3000`.
#[derive(Debug, Clone)]
pub struct WebOrigin {
    scheme: Scheme,
    domain: Domain,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
}

impl Scheme {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// The reason why a text is not a [`WebOrigin`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to read the origin `{text}`: {problem}; write a scheme and a host, such as `https://app.example`")]
pub struct WebOriginError {
    text: SafeText,
    problem: &'static str,
}

impl WebOrigin {
    /// Returns `true` if both have the same scheme, host and port.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.scheme == other.scheme && self.is_of(&other.domain)
    }

    /// Returns `true` if `domain` has pages of this origin. A domain without a port has those of
    /// both default ports.
    pub(crate) fn is_of(&self, domain: &Domain) -> bool {
        let default = self.scheme.default_port();
        self.domain.host() == domain.host() && self.domain.port().unwrap_or(default) == domain.port().unwrap_or(default)
    }
}

impl FromStr for WebOrigin {
    type Err = WebOriginError;

    fn from_str(text: &str) -> Result<Self, WebOriginError> {
        let fail = |problem| WebOriginError { text: SafeText::quote(text), problem };
        let (scheme, host) = text.split_once("://").ok_or_else(|| fail("no scheme"))?;
        let scheme = [Scheme::Http, Scheme::Https].into_iter().find(|known| known.as_str().eq_ignore_ascii_case(scheme));
        let scheme = scheme.ok_or_else(|| fail("the scheme is neither `http` nor `https`"))?;
        if host.contains(['/', '?', '#', '@']) {
            return Err(fail("more than a scheme, a host and a port"));
        }
        let domain = Domain::parse(host).map_err(|_| fail("no host, or an invalid port"))?;
        Ok(Self { scheme, domain })
    }
}

impl fmt::Display for WebOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.domain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> WebOrigin {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn origin_is_of_the_domain_with_its_host_and_port() {
        let check = |text: &str, domain: &str, expected: bool| {
            assert_eq!(origin(text).is_of(&Domain::parse(domain).unwrap()), expected, "{text} and {domain}");
        };
        check("http://127.0.0.1:8080", "127.0.0.1:8080", true);
        check("http://127.0.0.1:8081", "127.0.0.1:8080", false);
        check("http://127.0.0.1", "127.0.0.1:80", true);
        check("https://127.0.0.1", "127.0.0.1:80", false);
        check("HTTPS://SP1.example", "sp1.example", true);
        check("http://sp1.example", "sp1.example", true);
        check("http://sp1.example:8080", "sp1.example", false);
        check("https://a.sp1.example", "sp1.example", false);
        check("http://[::1]:8080", "[::1]:8080", true);
    }

    #[test]
    fn text_that_is_no_origin_is_refused() {
        for text in
            ["null", "", "app.example", "file://", "https://", "https://a.example/", "https://u@a.example", "ws://a.example"]
        {
            let error = text.parse::<WebOrigin>().expect_err(text).to_string();
            assert!(error.starts_with("failed to read the origin `"), "{error}");
        }
    }
}
