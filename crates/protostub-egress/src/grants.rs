//! Grants: rules by name and port, and the treatment of addresses that are not public.

use std::{fmt, net::IpAddr};

use protostub_types::{Domain, SafeText};

use crate::{
    addresses::{Judged, Scope, judge},
    host::Host,
    protection::Protection,
    rule::{Fit, Ports, Rule, RuleError},
};

/// Ports of the same-domain default. All belong to protocols that begin with TLS: HTTPS and
/// WebSocket, MQTT, XMPP.
const SAME_DOMAIN_PORTS: [u16; 3] = [443, 8883, 5223];

/// The hosts and ports that a party may connect to. The default grants nothing.
///
/// A connection needs a [`Rule`] for the requested name or address, and then an address that may be
/// dialled. Public addresses may always be dialled. [`Grants::allow_loopback`] and
/// [`Grants::allow_private`] admit those two kinds for the hosts that the rules name. They admit no
/// host by themselves. Addresses of all other special blocks are never dialled. [`judge`]
/// classifies an address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grants {
    rules: Vec<(Rule, GrantedBy)>,
    loopback: bool,
    private: bool,
}

/// The source of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GrantedBy {
    /// The policy that a stub may connect to its own domain.
    SameDomain,
    /// The operator's configuration, or the program that embeds the library.
    Operator,
}

impl Grants {
    /// Grants nothing.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// The default grants of a stub: its domain and all names below it, over TLS. The ports are
    /// 443, 8883, 5223, the domain's own port, and those of `ports` above 1023. Ports of `ports` up
    /// to 1023 are ignored: a descriptor must not open another party's SSH or SMTP server.
    ///
    /// An address or a public suffix (`github.io`) has no names below it. Such a domain grants the
    /// exact host only.
    #[must_use]
    pub fn same_domain(domain: &Domain, ports: &[u16]) -> Self {
        let stated = ports.iter().copied().filter(|&port| port > 1023);
        let mut ports: Vec<u16> = SAME_DOMAIN_PORTS.into_iter().chain(domain.port()).chain(stated).collect();
        ports.sort_unstable();
        ports.dedup();
        let ports = Ports::from(&ports[..]);
        let host = Host::of_domain(domain);
        let below = (domain.ip().is_none() && !domain.is_public_suffix()).then(|| Rule::below(host.clone(), ports.clone()));
        let rules = std::iter::once(Rule::exactly(host, ports)).chain(below);
        Self { rules: rules.map(|rule| (rule, GrantedBy::SameDomain)).collect(), ..Self::none() }
    }

    /// Adds a rule.
    #[must_use]
    pub fn allow(mut self, rule: Rule) -> Self {
        self.rules.push((rule, GrantedBy::Operator));
        self
    }

    /// Grants hosts (`mqtt.sp1.example`, `*.sp1.example`, `*`, or an address) on ports, over TLS
    /// only. [`Protection::Plain`] also grants connections without TLS.
    ///
    /// # Errors
    /// If the hosts cannot be parsed.
    pub fn allow_host(self, hosts: &str, ports: impl Into<Ports>, protection: Protection) -> Result<Self, RuleError> {
        Ok(self.allow(Rule::new(hosts, ports)?.plain(protection == Protection::Plain)))
    }

    /// Allows or forbids granted hosts to be this host itself. If allowed, `localhost`, names below
    /// it and loopback addresses need no TLS, since loopback has no eavesdroppers.
    #[must_use]
    pub fn allow_loopback(self, loopback: bool) -> Self {
        Self { loopback, ..self }
    }

    /// Allows or forbids granted hosts in a private network (RFC 1918, RFC 4193).
    #[must_use]
    pub fn allow_private(self, private: bool) -> Self {
        Self { private, ..self }
    }

    /// The rules, in the order in which they were added.
    pub fn rules(&self) -> impl Iterator<Item = (&Rule, GrantedBy)> {
        self.rules.iter().map(|(rule, by)| (rule, *by))
    }

    /// Checks a connection to a host (a name, or an address with or without brackets) on a port, as
    /// far as the name shows. The addresses of a name are judged when a connection is opened.
    ///
    /// # Errors
    /// If no rule allows the connection, or the host is an address (or `localhost`) that may not be
    /// dialled.
    pub fn check(&self, host: &str, port: u16, protection: Protection) -> Result<(), Refused> {
        let refused = |problem| Refused::new(SafeText::quote(host).to_string(), port, protection, Reason::Unreadable(problem));
        let host = Host::parse(host).map_err(refused)?;
        self.check_host(&host, port, protection)
    }

    /// Explains the result of [`check`](Self::check), rule by rule.
    #[must_use]
    pub fn explain(&self, host: &str, port: u16, protection: Protection) -> Explanation {
        let parsed = Host::parse(host).ok();
        let fit = |rule: &Rule| parsed.as_ref().map_or(Fit::OtherHosts, |host| rule.fit(host, port, protection));
        Explanation {
            asked: Asked {
                host: parsed.as_ref().map_or_else(|| SafeText::quote(host).to_string(), Host::to_string),
                port,
                protection,
            },
            rules: self.rules.iter().map(|(rule, by)| (rule.clone(), *by, fit(rule))).collect(),
            addresses: Vec::new(),
            remark: None,
            verdict: self.check(host, port, protection),
        }
    }

    /// Returns `true` if an address with this judgement may be dialled for a granted host.
    fn admits(&self, judged: Judged) -> bool {
        match judged.scope() {
            Scope::Public => true,
            Scope::Loopback => self.loopback,
            Scope::Private => self.private,
            Scope::Special => false,
        }
    }

    pub(crate) fn check_host(&self, host: &Host, port: u16, protection: Protection) -> Result<(), Refused> {
        let refused = |reason| Refused::new(host.to_string(), port, protection, reason);
        if port == 0 {
            return Err(refused(Reason::Unreadable("0 is not a port".into())));
        }
        let nearest = self.rules.iter().map(|(rule, _)| (rule, rule.fit(host, port, protection))).max_by_key(|&(_, fit)| fit);
        match nearest {
            Some((_, Fit::Allows)) => match host.known_addresses() {
                Some(addresses) => self.admit(host, port, protection, addresses).map(drop),
                None => Ok(()),
            },
            None | Some((_, Fit::OtherHosts)) => Err(refused(Reason::NoRule)),
            Some((rule, Fit::OtherPorts)) => Err(refused(Reason::OtherPorts(rule.clone()))),
            Some((rule, Fit::TlsOnly)) => Err(refused(Reason::TlsOnly(rule.clone()))),
        }
    }

    /// Returns the addresses of a host that may be dialled, in their order.
    ///
    /// # Errors
    /// If none of the addresses may be dialled. An empty list is not an error.
    pub(crate) fn admit(
        &self,
        host: &Host,
        port: u16,
        protection: Protection,
        addresses: Vec<IpAddr>,
    ) -> Result<Vec<IpAddr>, Refused> {
        let (admitted, refused): (Vec<_>, Vec<_>) =
            addresses.into_iter().map(|address| (address, judge(address))).partition(|&(_, judged)| self.admits(judged));
        if admitted.is_empty() && !refused.is_empty() {
            return Err(Refused::new(host.to_string(), port, protection, Reason::Addresses(refused)));
        }
        if !refused.is_empty() {
            tracing::debug!(%host, ?refused, "some addresses of the host may not be dialled; using the others");
        }
        Ok(admitted.into_iter().map(|(address, _)| address).collect())
    }
}

/// A connection that policy refuses: the request, the reason, and the missing grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    asked: Asked,
    reason: Reason,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Asked {
    host: String,
    port: u16,
    protection: Protection,
}

/// The reason for a refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The host or port is invalid. The text has the reason.
    Unreadable(String),
    /// No rule names the host.
    NoRule,
    /// This rule names the host, but other ports.
    OtherPorts(Rule),
    /// This rule allows the host and port, over TLS only.
    TlsOnly(Rule),
    /// The host is, or resolves to, addresses of which none may be dialled.
    Addresses(Vec<(IpAddr, Judged)>),
}

/// The grant that would allow a refused connection.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Missing {
    /// This rule.
    Rule(Rule),
    /// [`Grants::allow_loopback`].
    Loopback,
    /// [`Grants::allow_private`].
    Private,
    /// No grant can allow the connection.
    Nothing,
}

impl Refused {
    fn new(host: String, port: u16, protection: Protection, reason: Reason) -> Self {
        Self { asked: Asked { host, port, protection }, reason }
    }

    /// The requested host, in the form that URLs use.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.asked.host
    }

    /// The requested port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.asked.port
    }

    /// The reason for the refusal.
    #[must_use]
    pub fn reason(&self) -> &Reason {
        &self.reason
    }

    /// The missing grant. A host that is then granted may still resolve to addresses that are
    /// refused.
    #[must_use]
    pub fn missing(&self) -> Missing {
        match &self.reason {
            Reason::Unreadable(_) => Missing::Nothing,
            Reason::NoRule | Reason::OtherPorts(_) | Reason::TlsOnly(_) => {
                self.missing_rule().map_or(Missing::Nothing, Missing::Rule)
            }
            Reason::Addresses(addresses) => {
                let one_is = |scope| addresses.iter().any(|(_, judged)| judged.scope() == scope);
                if one_is(Scope::Loopback) {
                    Missing::Loopback
                } else if one_is(Scope::Private) {
                    Missing::Private
                } else {
                    Missing::Nothing
                }
            }
        }
    }

    fn missing_rule(&self) -> Option<Rule> {
        // A rule allows plain connections to loopback anyway.
        let host = Host::parse(&self.asked.host).ok()?;
        let plain = self.asked.protection == Protection::Plain && !host.is_loopback();
        Some(Rule::exactly(host, self.asked.port.into()).plain(plain))
    }
}

impl std::error::Error for Refused {}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is refused: ", self.asked)?;
        match &self.reason {
            Reason::Unreadable(problem) => return f.write_str(problem),
            Reason::NoRule => f.write_str("no rule names this host")?,
            Reason::OtherPorts(rule) => write!(f, "rule `{rule}` names this host on other ports")?,
            Reason::TlsOnly(rule) => write!(f, "rule `{rule}` asks for TLS")?,
            Reason::Addresses(addresses) => {
                for (n, (address, judged)) in addresses.iter().enumerate() {
                    let start = if n == 0 { "its address " } else { "; " };
                    write!(f, "{start}{address} is {judged}")?;
                }
            }
        }
        write!(f, "; {}", self.missing())
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, protection } = self;
        let without_tls = if *protection == Protection::Plain { " without TLS" } else { "" };
        match port {
            // Port 0 stands for a resolver's request, which has a name only.
            0 => write!(f, "`{host}`{without_tls}"),
            port => write!(f, "`{host}:{port}`{without_tls}"),
        }
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(rule) => write!(f, "grant `{rule}` to allow it"),
            Self::Loopback => f.write_str("grant loopback (`allow-loopback` for the domain) to allow it"),
            Self::Private => f.write_str("grant private networks (`allow-private` for the domain) to allow it"),
            Self::Nothing => f.write_str("no grant allows it"),
        }
    }
}

impl fmt::Display for GrantedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SameDomain => "same domain",
            Self::Operator => "operator",
        })
    }
}

/// The explanation of an allowed or refused connection: the verdict, every rule, and every resolved
/// address. Its text has a line for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    asked: Asked,
    rules: Vec<(Rule, GrantedBy, Fit)>,
    addresses: Vec<(IpAddr, Judged, bool)>,
    remark: Option<String>,
    verdict: Result<(), Refused>,
}

impl Explanation {
    /// The rules, their sources, and how they fit.
    pub fn rules(&self) -> impl Iterator<Item = (&Rule, GrantedBy, Fit)> {
        self.rules.iter().map(|(rule, by, fit)| (rule, *by, *fit))
    }

    /// The addresses of the host, their judgements, and `true` for those that may be dialled. Empty
    /// if the name was not resolved: see [`Egress::explain`](crate::Egress::explain).
    pub fn addresses(&self) -> impl Iterator<Item = (IpAddr, Judged, bool)> {
        self.addresses.iter().copied()
    }

    /// The reason that no addresses were resolved or found.
    #[must_use]
    pub fn remark(&self) -> Option<&str> {
        self.remark.as_deref()
    }

    /// The verdict.
    ///
    /// # Errors
    /// If the connection is refused.
    pub fn verdict(&self) -> Result<(), &Refused> {
        self.verdict.as_ref().copied()
    }

    /// Adds the addresses of the host.
    pub(crate) fn with_addresses(mut self, grants: &Grants, host: &Host, addresses: Vec<IpAddr>) -> Self {
        let judged = |address| (address, judge(address), grants.admits(judge(address)));
        self.addresses = addresses.iter().copied().map(judged).collect();
        self.verdict = grants.admit(host, self.asked.port, self.asked.protection, addresses).map(drop);
        self
    }

    /// Adds the reason that there are no addresses.
    pub(crate) fn with_remark(self, remark: String) -> Self {
        Self { remark: Some(remark), ..self }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.verdict {
            Ok(()) => write!(f, "{} is allowed", self.asked)?,
            Err(refused) => write!(f, "{refused}")?,
        }
        for (rule, by, fit) in &self.rules {
            write!(f, "\n  rule `{rule}` ({by}): {fit}")?;
        }
        for (address, judged, admitted) in &self.addresses {
            write!(f, "\n  address {address} ({judged}): {}", if *admitted { "may be dialled" } else { "is left out" })?;
        }
        if let Some(remark) = &self.remark {
            write!(f, "\n  {remark}")?;
        }
        Ok(())
    }
}
