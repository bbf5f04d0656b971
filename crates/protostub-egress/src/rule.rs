//! Rules: hosts, ports, and whether TLS is required. Operators write rules as text, and errors
//! propose them in the same form.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{host::Host, protection::Protection};

/// One grant: hosts, ports, and whether a connection may do without TLS.
///
/// The text form is `hosts:ports`, followed by ` plain` if connections without TLS are allowed:
///
/// * hosts: `mqtt.sp1.example` (that name only), `*.sp1.example` (every name below it, not itself),
///   `*` (every name, no addresses), `192.0.43.8` and `[2606:4700::1]` (that address only)
/// * ports: one (`443`), several (`443,8883`), a range (`5000-5999`) or all (`*`)
///
/// ```
/// use protostub_egress::Rule;
/// let rule: Rule = "*.SP1.example:1883,8883 plain".parse()?;
/// assert_eq!(rule.to_string(), "*.sp1.example:1883,8883 plain");
/// # Ok::<(), protostub_egress::RuleError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rule {
    hosts: Hosts,
    ports: Ports,
    plain: bool,
}

/// The error of a text that is not a [`Rule`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a rule: {problem}; write `host:port`, `*.host:port` or `host:port plain`")]
pub struct RuleError {
    text: String,
    problem: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Hosts {
    /// Every name, but no address.
    AnyName,
    Exactly(Host),
    Below(Host),
}

/// The ports of a [`Rule`]. Port 0 is invalid.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Ports(Vec<(u16, u16)>);

impl Rule {
    /// Grants hosts (`mqtt.sp1.example`, `*.sp1.example`, `*`, or an address) on ports, over TLS.
    ///
    /// # Errors
    /// If the hosts cannot be parsed.
    pub fn new(hosts: &str, ports: impl Into<Ports>) -> Result<Self, RuleError> {
        let hosts = Hosts::parse(hosts).map_err(|problem| RuleError { text: hosts.to_owned(), problem })?;
        Ok(Self { hosts, ports: ports.into(), plain: false })
    }

    /// Allows or forbids connections without TLS.
    #[must_use]
    pub fn plain(self, plain: bool) -> Self {
        Self { plain, ..self }
    }

    /// Creates a rule for exactly this host.
    pub(crate) fn exactly(host: Host, ports: Ports) -> Self {
        Self { hosts: Hosts::Exactly(host), ports, plain: false }
    }

    /// Creates a rule for every name below this one.
    pub(crate) fn below(name: Host, ports: Ports) -> Self {
        Self { hosts: Hosts::Below(name), ports, plain: false }
    }

    /// Compares the rule with a connection.
    pub(crate) fn fit(&self, host: &Host, port: u16, protection: Protection) -> Fit {
        if !self.hosts.contain(host) {
            Fit::OtherHosts
        } else if !self.ports.contain(port) {
            Fit::OtherPorts
        } else if protection == Protection::Plain && !(self.plain || host.is_loopback()) {
            Fit::TlsOnly
        } else {
            Fit::Allows
        }
    }
}

/// The fit between a rule and a connection, in ascending order of closeness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Fit {
    /// The rule names other hosts.
    OtherHosts,
    /// The rule names this host, but other ports.
    OtherPorts,
    /// The rule names this host and port, but requires TLS.
    TlsOnly,
    /// The rule allows the connection.
    Allows,
}

impl fmt::Display for Fit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OtherHosts => "other hosts",
            Self::OtherPorts => "other ports",
            Self::TlsOnly => "over TLS only",
            Self::Allows => "allows it",
        })
    }
}

impl Hosts {
    fn parse(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::AnyName);
        }
        let Some(parent) = text.strip_prefix("*.") else { return Host::parse(text).map(Self::Exactly) };
        match Host::parse(parent)? {
            name @ Host::Name(_) => Ok(Self::Below(name)),
            Host::Address(_) => Err("an address has no names below it".into()),
        }
    }

    fn contain(&self, host: &Host) -> bool {
        match (self, host) {
            (Self::AnyName, host) => matches!(host, Host::Name(_)),
            (Self::Exactly(granted), host) => granted == host,
            (Self::Below(Host::Name(parent)), Host::Name(name)) => {
                name.host().strip_suffix(parent.host()).is_some_and(|rest| rest.ends_with('.'))
            }
            (Self::Below(_), _) => false,
        }
    }
}

impl Ports {
    /// Every port.
    #[must_use]
    pub fn all() -> Self {
        Self(vec![(1, u16::MAX)])
    }

    fn parse(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::all());
        }
        let port = |text: &str| match text.parse::<u16>() {
            Ok(port @ 1..) if !text.starts_with('+') => Ok(port),
            _ => Err(format!("`{text}` is not a port from 1 to 65535")),
        };
        let range = |text: &str| match text.split_once('-') {
            None => port(text).map(|port| (port, port)),
            Some((first, last)) => match (port(first)?, port(last)?) {
                (first, last) if first <= last => Ok((first, last)),
                _ => Err(format!("the range `{text}` is empty")),
            },
        };
        text.split(',').map(|text| range(text.trim())).collect::<Result<_, _>>().map(Self)
    }

    fn contain(&self, port: u16) -> bool {
        port != 0 && self.0.iter().any(|&(first, last)| (first..=last).contains(&port))
    }
}

impl From<u16> for Ports {
    fn from(port: u16) -> Self {
        Self(vec![(port, port)])
    }
}

impl From<&[u16]> for Ports {
    fn from(ports: &[u16]) -> Self {
        Self(ports.iter().map(|&port| (port, port)).collect())
    }
}

impl<const N: usize> From<[u16; N]> for Ports {
    fn from(ports: [u16; N]) -> Self {
        Self::from(&ports[..])
    }
}

impl From<std::ops::RangeInclusive<u16>> for Ports {
    fn from(ports: std::ops::RangeInclusive<u16>) -> Self {
        Self(vec![ports.into_inner()])
    }
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (what, plain) = match text.trim().split_once(char::is_whitespace) {
                None => (text.trim(), false),
                Some((what, rest)) if rest.trim() == "plain" => (what, true),
                Some((_, rest)) => return Err(format!("only `plain` may follow the ports, not `{}`", rest.trim())),
            };
            let (hosts, ports) = what.rsplit_once(':').ok_or("the port is missing")?;
            Ok(Self { hosts: Hosts::parse(hosts)?, ports: Ports::parse(ports)?, plain })
        };
        parse().map_err(|problem| RuleError { text: text.to_owned(), problem })
    }
}

impl TryFrom<String> for Rule {
    type Error = RuleError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Rule> for String {
    fn from(rule: Rule) -> Self {
        rule.to_string()
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.hosts {
            Hosts::AnyName => f.write_str("*")?,
            Hosts::Exactly(host) => write!(f, "{host}")?,
            Hosts::Below(host) => write!(f, "*.{host}")?,
        }
        write!(f, ":{}{}", self.ports, if self.plain { " plain" } else { "" })
    }
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rule({self})")
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, &(first, last)) in self.0.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            match (first, last) {
                (1, u16::MAX) => write!(f, "{comma}*")?,
                (first, last) if first == last => write!(f, "{comma}{first}")?,
                (first, last) => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_round_trips_through_text() {
        let check = |text: &str, expected: &str| assert_eq!(text.parse::<Rule>().unwrap().to_string(), expected, "{text}");
        check("sp1.example:443", "sp1.example:443");
        check(" SP1.example.:443,8883 ", "sp1.example:443,8883");
        check("*.sp1.example:5000-5999", "*.sp1.example:5000-5999");
        check("*:443", "*:443");
        check("[::1]:*", "[::1]:*");
        check("::ffff:10.0.0.1:80   plain", "10.0.0.1:80 plain");
    }

    #[test]
    fn invalid_rule_is_refused_with_its_fault() {
        let check = |text: &str, problem: &str| {
            let error = text.parse::<Rule>().unwrap_err().to_string();
            assert!(error.contains(problem), "{text}: {error}");
        };
        check("", "the port is missing");
        check("sp1.example", "the port is missing");
        check("sp1.example:0", "`0` is not a port");
        check("sp1.example:+1", "`+1` is not a port");
        check("sp1.example:", "`` is not a port");
        check("sp1.example:9-8", "the range `9-8` is empty");
        check("sp1.example:443 open", "only `plain` may follow");
        check("*.10.0.0.1:443", "an address has no names below it");
        check("a.*.example:443", "is not a domain");
        check("127.1:443", "ends in a number");
    }
}
