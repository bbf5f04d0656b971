use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::SafeText;

/// The port of HTTPS. A domain is asked there unless its text has another port, so the text of a
/// domain never has this port.
const DEFAULT_PORT: &str = "443";

/// A domain that runs a protocol: a host name in lower-case A-labels (RFC 5890) without a trailing
/// dot, or an IP address. It has a port if that is not 443, the port of HTTPS: `sp1.example`,
/// `127.0.0.1:8080`, `[::1]:8080`, `xn--bcher-kva.example`. The port 80 stays.
///
/// Two domains are equal exactly if their texts are equal. `sp1.example:443` is `sp1.example`, with
/// the same stubs, settings, keys and accepted versions.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Domain(Arc<str>);

/// The reason why a text is not a [`Domain`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a domain: {problem}")]
pub struct DomainError {
    text: SafeText,
    problem: &'static str,
}

impl Domain {
    /// Reads `host` or `host:port`, in any case, in Unicode or A-labels, with or without a trailing
    /// dot. Drops user information (`user@`) and the port 443.
    ///
    /// # Errors
    /// If the text has no host, the host is not a host name or address, or the port is not a number
    /// from 1 to 65535.
    pub fn parse(text: &str) -> Result<Self, DomainError> {
        normalise(text).map(|text| Self(text.into())).map_err(|problem| DomainError { text: SafeText::quote(text), problem })
    }

    /// Returns the text: the host, and the port if there is one.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the host alone; an IPv6 address in its brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        split_port(&self.0).0
    }

    /// Returns the port, if the domain has one other than 443.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        split_port(&self.0).1.and_then(|port| port.parse().ok())
    }

    /// Returns the IP address, if the host is an IP address rather than a name.
    #[must_use]
    pub fn ip(&self) -> Option<std::net::IpAddr> {
        let host = self.host();
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).parse().ok()
    }

    /// Returns `true` if the text alone shows that this domain is the machine itself: `localhost`,
    /// a name below it (RFC 6761 section 6.3), or an address in 127/8 or `::1`. No name is
    /// resolved.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let host = self.host();
        self.ip().map_or_else(|| host == "localhost" || host.ends_with(".localhost"), |ip| ip.to_canonical().is_loopback())
    }

    /// Returns `true` if the host is a public suffix (`com`, `co.uk`, `github.io`). Names below it
    /// belong to different people.
    #[must_use]
    pub fn is_public_suffix(&self) -> bool {
        self.ip().is_none() && psl::domain_str(self.host()).is_none()
    }

    /// Returns the registrable domain: the public suffix with one label before it. All domains of
    /// one registrant share it.
    ///
    /// An IPv4 address, a public suffix and a name without one are their own registrable domain. An
    /// IPv6 address counts as its network of 64 bits, which has one user.
    #[must_use]
    pub fn registrable(&self) -> String {
        match self.ip() {
            Some(std::net::IpAddr::V6(address)) => {
                let [a, b, c, d, ..] = address.segments();
                std::net::Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).to_string()
            }
            Some(std::net::IpAddr::V4(address)) => address.to_string(),
            None => psl::domain_str(self.host()).unwrap_or(self.host()).to_owned(),
        }
    }

    /// Returns `true` if this is `other`, or a subdomain of it on any port. An address or a public
    /// suffix has no subdomains.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        if self.host() == other.host() {
            return true;
        }
        other.ip().is_none()
            && !other.is_public_suffix()
            && self.host().strip_suffix(other.host()).is_some_and(|rest| rest.ends_with('.'))
    }
}

/// Returns `authority` without user information, in lower case and A-labels, without the host's
/// trailing dot and without the port 443.
pub(crate) fn normalise(authority: &str) -> Result<String, &'static str> {
    let text = authority.rsplit_once('@').map_or(authority, |(_, rest)| rest);
    let (host, port) = split_port(text);
    if let Some(port) = port {
        match port.parse::<u16>() {
            Ok(1..) if !port.starts_with('+') => {}
            _ => return Err("the port must be a number from 1 to 65535"),
        }
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    let host = if let Some(address) = host.strip_prefix('[') {
        let address = address.strip_suffix(']').ok_or("the bracket of the IPv6 address is not closed")?;
        let address: std::net::Ipv6Addr = address.parse().map_err(|_| "the text in brackets is not an IPv6 address")?;
        format!("[{address}]")
    } else if is_plain_host(host) {
        host.to_owned()
    } else {
        let ascii = idna::domain_to_ascii_cow(host.as_bytes(), idna::AsciiDenyList::URL)
            .map_err(|_| "the host has characters that no host name has")?;
        if !is_plain_host(&ascii) {
            return Err("the host has characters that no host name has, an empty label, or is too long");
        }
        ascii.into_owned()
    };
    let port = port.map(|port| port.trim_start_matches('0')).filter(|port| *port != DEFAULT_PORT);
    Ok(match port {
        Some(port) => format!("{host}:{port}"),
        None => host,
    })
}

/// Returns `true` if a host is a name of lower-case labels already: the common case, which needs no
/// IDNA.
fn is_plain_host(host: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
    };
    host.len() <= 253 && host.split('.').all(label)
}

fn split_port(text: &str) -> (&str, Option<&str>) {
    let host_end = text.rfind(']').map_or(0, |end| end + 1);
    match text[host_end..].rfind(':') {
        Some(colon) => (&text[..host_end + colon], Some(&text[host_end + colon + 1..])),
        None => (text, None),
    }
}

impl FromStr for Domain {
    type Err = DomainError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Domain {
    type Error = DomainError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<Domain> for String {
    fn from(domain: Domain) -> Self {
        domain.0.as_ref().to_owned()
    }
}

impl Borrow<str> for Domain {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Domain({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domain_of_any_spelling_is_normalised() {
        let check = |text: &str, expected: &str| assert_eq!(Domain::parse(text).unwrap().as_str(), expected, "{text}");
        check("sp1.example", "sp1.example");
        check("SP1.Example.", "sp1.example");
        check("user@sp1.example:8443", "sp1.example:8443");
        check("bücher.example", "xn--bcher-kva.example");
        check("127.0.0.1:9", "127.0.0.1:9");
        check("[::1]:8080", "[::1]:8080");
        check("[0:0::1]", "[::1]");
        check("localhost", "localhost");
        check("sp1.example:443", "sp1.example");
        check("SP1.example.:00443", "sp1.example");
        check("127.0.0.1:443", "127.0.0.1");
        check("[::1]:443", "[::1]");
        check("sp1.example:80", "sp1.example:80");
        check("sp1.example:4430", "sp1.example:4430");
        for text in ["", ".", "a..b", "a b", "sp1.example:0", "sp1.example:65536", "sp1.example:", "[::1", "a/b", "%41.example"] {
            assert!(Domain::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn loopback_is_recognised_by_name() {
        let is_loopback = |text: &str| Domain::parse(text).unwrap().is_loopback();
        for text in ["localhost", "LocalHost:8001", "a.localhost.", "127.0.0.1:80", "127.9.9.9", "[::1]", "[::ffff:127.0.0.1]:1"]
        {
            assert!(is_loopback(text), "{text}");
        }
        for text in ["notlocalhost", "localhost.example", "sp1.example", "0.0.0.0", "10.0.0.1", "[::2]", "127.0.0.1.example"] {
            assert!(!is_loopback(text), "{text}");
        }
    }

    #[test]
    fn is_within_accepts_only_real_subdomains() {
        let within = |a: &str, b: &str| Domain::parse(a).unwrap().is_within(&Domain::parse(b).unwrap());
        assert!(within("sp1.example", "sp1.example"));
        assert!(within("a.b.sp1.example", "sp1.example"));
        assert!(within("sp1.example:8443", "sp1.example"));
        assert!(!within("evilsp1.example", "sp1.example"));
        assert!(!within("sp1.co.uk", "co.uk"), "a public suffix");
        assert!(!within("1.127.0.0.1", "127.0.0.1"));
    }
}
