use std::fmt;

use percent_encoding::percent_decode_str;

use crate::{Address, Domain};

/// The key of the stub that serves an address. At most one stub is deployed for each key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum StubKey {
    /// The domain's default stub.
    Domain(Domain),
    /// The domain's stub for a protocol of its own, whose addresses have this scheme:
    /// `slack://user@slack.com`.
    Legacy {
        /// The scheme, in lower case.
        scheme: String,
        /// The domain of the addresses with that scheme.
        domain: Domain,
    },
    /// One of several stubs that the domain publishes, by its name in the catalogue.
    Named {
        /// The domain that publishes the stub.
        domain: Domain,
        /// The last segment of the stub's well-known URL.
        name: String,
    },
}

/// Schemes whose addresses the domain's default stub serves: those of the reTHINK address model,
/// and the empty text for "no scheme".
const OWN_SCHEMES: &[&str] = &[
    "",
    "broker",
    "comm",
    "connection",
    "context",
    "csp",
    "ctxt",
    "domain",
    "domain-idp",
    "global",
    "hyperty",
    "hyperty-catalogue",
    "hyperty-runtime",
    "object",
    "resource",
    "runtime",
    "user",
    "user-guid",
];

impl StubKey {
    /// Returns the key of an address, seen from a runtime whose home domain is `home`. Returns
    /// `None` for addresses without a domain (`mn:/session`). `msg-node.` and `registry.` are
    /// functions of a domain rather than domains, unless the rest is a public suffix.
    /// `global://registry` belongs to the home domain.
    #[must_use]
    pub fn of(address: &Address, home: &Domain) -> Option<Self> {
        if address.scheme() == "global" {
            return Some(Self::Domain(home.clone()));
        }
        let domain = function_stripped(address.domain()?);
        if OWN_SCHEMES.contains(&address.scheme()) {
            return Some(Self::Domain(domain));
        }
        Some(Self::Legacy { scheme: address.scheme().to_owned(), domain })
    }

    /// Returns the key of the stub that a catalogue publishes at this URL:
    /// `https://sp1.example/.well-known/protostub/<name>`, in either spelling (`protostub`,
    /// `protocolstub`), and also as `hyperty-catalogue://…`, which means the same. Returns `None`
    /// for any other text. An `http` URL with the port 443 is one of them: the text of a [`Domain`]
    /// has no such port.
    ///
    /// ```
    /// use protostub_types::{Domain, StubKey};
    /// let domain = Domain::parse("sp1.example")?;
    /// let url = "hyperty-catalogue://sp1.example/.well-known/protocolstub/chat";
    /// let key = StubKey::of_catalogue_url(url);
    /// assert_eq!(key, Some(StubKey::Named { domain, name: "chat".to_owned() }));
    /// # Ok::<(), protostub_types::DomainError>(())
    /// ```
    #[must_use]
    pub fn of_catalogue_url(text: &str) -> Option<Self> {
        let (scheme, rest) = text.trim().split_once("://")?;
        let (authority, path) = rest.split_once('/')?;
        let authority = match scheme.to_ascii_lowercase().as_str() {
            "https" | "hyperty-catalogue" => authority,
            "http" if authority.rsplit_once(':').is_some_and(|(_, port)| port.parse() == Ok(443_u16)) => return None,
            "http" => authority.strip_suffix(":80").unwrap_or(authority),
            _ => return None,
        };
        let (spelling, name) = path.strip_prefix(".well-known/")?.split_once('/')?;
        if !matches!(spelling, "protostub" | "protocolstub") || name.is_empty() || name.contains(['/', '?', '#']) {
            return None;
        }
        let domain = Domain::parse(authority).ok()?;
        match percent_decode_str(name).decode_utf8().ok()? {
            name if name == "default" => Some(Self::Domain(domain)),
            name => Some(Self::Named { domain, name: name.into_owned() }),
        }
    }

    /// Returns the domain that publishes the stub, and that the stub speaks for.
    #[must_use]
    pub fn domain(&self) -> &Domain {
        match self {
            Self::Domain(domain) | Self::Legacy { domain, .. } | Self::Named { domain, .. } => domain,
        }
    }

    /// Returns the last segment of the descriptor's well-known URL: `default`, a name, or
    /// `<scheme>.<host>` for a protocol of the domain's own.
    #[must_use]
    pub fn descriptor_name(&self) -> String {
        match self {
            Self::Domain(_) => "default".to_owned(),
            Self::Legacy { scheme, domain } => format!("{scheme}.{}", domain.host()),
            Self::Named { name, .. } => name.clone(),
        }
    }
}

/// Prefixes of a domain that denote one of its functions.
const FUNCTIONS: &[&str] = &["msg-node.", "registry."];

impl Address {
    /// Returns `true` if this is an address of exactly `domain`, or of one of its functions
    /// (`domain://msg-node.sp1.example`). Returns `false` for a subdomain, which may belong to
    /// another party. The stub of a domain may speak for these addresses.
    #[must_use]
    pub fn is_of(&self, domain: &Domain) -> bool {
        let host = self.host();
        host == domain.as_str()
            || FUNCTIONS.iter().any(|function| host.strip_prefix(function) == Some(domain.as_str()))
                && self.domain().is_some_and(|own| function_stripped(own) == *domain)
    }
}

fn function_stripped(domain: Domain) -> Domain {
    FUNCTIONS
        .iter()
        .find_map(|function| domain.as_str().strip_prefix(function))
        .and_then(|rest| Domain::parse(rest).ok())
        .filter(|rest| !rest.is_public_suffix() || rest.host() == "localhost")
        .unwrap_or(domain)
}

impl fmt::Display for StubKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Domain(domain) => domain.fmt(f),
            Self::Legacy { scheme, domain } => write!(f, "{domain} (scheme {scheme})"),
            Self::Named { domain, name } => write!(f, "{domain} (stub {name})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_domain_share_a_key() {
        let home = Domain::parse("home.example").unwrap();
        let check = |text: &str, expected: &str| {
            assert_eq!(StubKey::of(&Address::parse(text).unwrap(), &home).unwrap().to_string(), expected, "{text}");
        };
        check("hyperty://foo.com/alice", "foo.com");
        check("domain://msg-node.foo.com/sm", "foo.com");
        check("domain://registry.foo.com", "foo.com");
        check("comm://Foo.com./room", "foo.com");
        check("runtime://foo.com/1/2", "foo.com");
        check("domain://registry.co.uk", "registry.co.uk");
        check("global://registry/", "home.example");
        check("slack://user@slack.com", "slack.com (scheme slack)");
        check("hyperty://localhost:9090/x", "localhost:9090");
        check("hyperty://foo.com:443/alice", "foo.com");
        check("domain://registry.foo.com:443", "foo.com");
        check("slack://user@slack.com:443", "slack.com (scheme slack)");
        check("hyperty://foo.com:80/alice", "foo.com:80");
        assert_eq!(StubKey::of(&Address::parse("mn:/session").unwrap(), &home), None);
    }

    #[test]
    fn catalogue_url_gives_the_stub_key() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(StubKey::of_catalogue_url(text).map(|key| key.to_string()).as_deref(), expected, "{text}");
        };
        check("https://sp1.example/.well-known/protostub/default", Some("sp1.example"));
        check("HTTPS://SP1.example.:443/.well-known/protocolstub/default", Some("sp1.example"));
        check(
            "hyperty-catalogue://catalogue.sp1.example/.well-known/protocolstub/chat",
            Some("catalogue.sp1.example (stub chat)"),
        );
        check("hyperty-catalogue://sp1.example:8443/.well-known/protostub/chat", Some("sp1.example:8443 (stub chat)"));
        check("http://127.0.0.1:8080/.well-known/protostub/slack.slack.com", Some("127.0.0.1:8080 (stub slack.slack.com)"));
        check("https://sp1.example/.well-known/protostub/b%C3%BCcher", Some("sp1.example (stub bücher)"));
        for other in [
            "sp1.example",
            "hyperty://sp1.example/.well-known/protostub/default",
            "https://sp1.example/.well-known/hyperty/default",
            "https://sp1.example/.well-known/protostub/",
            "https://sp1.example/.well-known/protostub/a/version",
            "https://sp1.example/.well-known/protostub/a?b",
            "https://sp1.example/.well-known/protostub/%ff",
            "https:///.well-known/protostub/default",
            "http://127.0.0.1:443/.well-known/protostub/default",
            "https://sp1.example",
        ] {
            check(other, None);
        }
    }

    #[test]
    fn is_of_accepts_functions_and_rejects_subdomains() {
        let check = |text: &str, domain: &str, expected: bool| {
            assert_eq!(Address::parse(text).unwrap().is_of(&Domain::parse(domain).unwrap()), expected, "{text}");
        };
        check("hyperty://foo.com/alice", "foo.com", true);
        check("domain://msg-node.foo.com/sm", "foo.com", true);
        check("domain://registry.127.0.0.1:8080/x", "127.0.0.1:8080", true);
        check("hyperty://bar.foo.com/alice", "foo.com", false);
        check("domain://registry.co.uk", "co.uk", false);
        check("hyperty://foo.com:8080/alice", "foo.com", false);
        check("hyperty://foo.com:443/alice", "foo.com", true);
        check("mn:/session", "foo.com", false);
    }
}
