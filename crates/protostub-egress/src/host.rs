//! A requested host: a name or an address, parsed once.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use protostub_types::Domain;

/// Maximum size of a host text. Every valid host is shorter: 253 bytes in A-labels, fewer
/// characters in Unicode. Longer texts are rejected without parsing.
const MAX_HOST_BYTES: usize = 1024;

/// A host without a port: a name in lower-case A-labels without a trailing dot, or an address in
/// its canonical form. An IPv4 address in IPv6 notation becomes the IPv4 address.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) enum Host {
    Name(Domain),
    Address(IpAddr),
}

impl Host {
    /// Parses a host as URLs write it (an IPv6 address in brackets) or as programs do (without
    /// brackets).
    ///
    /// Rejects names that end in a number: `127.1` and `0x7f000001` are addresses to some resolvers
    /// and names to others.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_HOST_BYTES {
            return Err("the host is too long".into());
        }
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(Self::Address(address.to_canonical()));
        }
        if let Some(strange) = text.chars().find(|c| matches!(c, ':' | '@' | '[' | ']')) {
            return Err(format!("a host name cannot contain `{strange}`"));
        }
        let name = Domain::parse(text).map_err(|error| error.to_string())?;
        let last = name.host().rsplit('.').next().unwrap_or_default();
        let hexadecimal = last.strip_prefix("0x").is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_hexdigit()));
        if hexadecimal || last.bytes().all(|b| b.is_ascii_digit()) {
            return Err("the host name ends in a number and is not an address in its usual form".into());
        }
        Ok(Self::Name(name))
    }

    pub(crate) fn of_domain(domain: &Domain) -> Self {
        match (domain.ip(), domain.port()) {
            (Some(address), _) => Self::Address(address.to_canonical()),
            (None, None) => Self::Name(domain.clone()),
            // The host part of a domain is itself a domain.
            (None, Some(_)) => Domain::parse(domain.host()).map_or_else(|_| Self::Name(domain.clone()), Self::Name),
        }
    }

    /// The addresses of a host that needs no resolver: an address, `localhost`, or a name below
    /// `localhost`. Such names always mean this host (RFC 6761 section 6.3), independent of a
    /// resolver's answer.
    pub(crate) fn known_addresses(&self) -> Option<Vec<IpAddr>> {
        match self {
            Self::Address(address) => Some(vec![*address]),
            Self::Name(name) if name.is_loopback() => Some(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]),
            Self::Name(_) => None,
        }
    }

    /// Returns `true` if the name or address alone shows that the host is this host.
    pub(crate) fn is_loopback(&self) -> bool {
        match self {
            Self::Address(address) => address.is_loopback(),
            Self::Name(_) => self.known_addresses().is_some(),
        }
    }

    /// The name or address as resolvers, certificates and SNI use it: without brackets.
    pub(crate) fn bare(&self) -> String {
        match self {
            Self::Name(name) => name.host().to_owned(),
            Self::Address(address) => address.to_string(),
        }
    }

    /// `host:port`.
    pub(crate) fn with_port(&self, port: u16) -> String {
        format!("{self}:{port}")
    }
}

/// The form in URLs: an IPv6 address is in brackets.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name.host()),
            Self::Address(IpAddr::V4(address)) => write!(f, "{address}"),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_spellings_have_one_canonical_form() {
        let check = |text: &str, expected: &str| assert_eq!(Host::parse(text).unwrap().to_string(), expected, "{text}");
        check("SP1.Example.", "sp1.example");
        check("bücher.example", "xn--bcher-kva.example");
        check("127.0.0.1", "127.0.0.1");
        check("::1", "[::1]");
        check("[0:0::1]", "[::1]");
        check("[::ffff:127.0.0.1]", "127.0.0.1");
        check("1.example", "1.example");
        for text in
            ["", "sp1.example:443", "user@sp1.example", "[sp1.example]", "[::1", "::1]", "[::1]:80", "fe80::1%eth0", "a b"]
        {
            assert!(Host::parse(text).is_err(), "{text}");
        }
        for text in ["127.1", "2130706433", "0x7f000001", "0x7f.1", "127.0.0.1.", "0177.0.0.1", "example.0x", "sp1.example.1"] {
            assert!(Host::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn long_host_is_rejected() {
        assert!(Host::parse(&"ü".repeat(100_000)).unwrap_err().contains("too long"));
        assert!(Host::parse(&"a.".repeat(200)).is_err());
    }

    #[test]
    fn localhost_needs_no_resolver() {
        for text in ["localhost", "sp1.localhost", "127.0.0.2", "[::1]", "::ffff:127.0.0.1"] {
            assert!(Host::parse(text).unwrap().is_loopback(), "{text}");
        }
        for text in ["notlocalhost", "localhost.example", "0.0.0.0", "10.0.0.1"] {
            assert!(!Host::parse(text).unwrap().is_loopback(), "{text}");
        }
    }
}
