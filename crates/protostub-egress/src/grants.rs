//! Who may go where: rules by name and port, and what is to be done about addresses that are not public.

use std::{fmt, net::IpAddr};

use protostub_types::{Domain, SafeText};

use crate::{
    addresses::{Judged, Scope, judge},
    host::Host,
    protection::Protection,
    rule::{Fit, Ports, Rule, RuleError},
};

/// The ports of the same-domain default, all of protocols that begin with TLS: HTTPS and WebSocket, MQTT, XMPP.
const SAME_DOMAIN_PORTS: [u16; 3] = [443, 8883, 5223];

/// Where somebody may go. Nothing is granted at first.
///
/// A connection needs a [`Rule`] for the name (or address) as it was asked for, and then an address that may be dialled: public ones always
/// may; [`Grants::allow_loopback`] and [`Grants::allow_private`] admit those two kinds for the hosts that the rules name, and admit no
/// host by themselves. Addresses of every other special block are never dialled. [`judge`] tells what an address is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grants {
    rules: Vec<(Rule, GrantedBy)>,
    loopback: bool,
    private: bool,
}

/// Where a rule comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GrantedBy {
    /// From the policy that a stub may speak to its own domain.
    SameDomain,
    /// From the operator's configuration, or the program that embeds the library.
    Operator,
}

impl Grants {
    /// Nothing is granted.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// The default of a stub: its domain and everything below it, over TLS, on 443, 8883, 5223, the domain's own port, and those of `ports`
    /// that are above 1023 (the others are left out: a descriptor is no reason to speak to somebody's SSH or SMTP server).
    ///
    /// Nothing is below an address or a public suffix (`github.io`): such a domain is the exact host only.
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

    /// Grants what a rule says.
    #[must_use]
    pub fn allow(mut self, rule: Rule) -> Self {
        self.rules.push((rule, GrantedBy::Operator));
        self
    }

    /// Grants hosts (`mqtt.sp1.example`, `*.sp1.example`, `*`, or an address) on ports: over TLS alone, or with
    /// [`Protection::Plain`] also without it.
    ///
    /// # Errors
    /// If the hosts cannot be read.
    pub fn allow_host(self, hosts: &str, ports: impl Into<Ports>, protection: Protection) -> Result<Self, RuleError> {
        Ok(self.allow(Rule::new(hosts, ports)?.plain(protection == Protection::Plain)))
    }

    /// Whether hosts that a rule names may be this host itself. `localhost`, names below it and loopback addresses may then be spoken to
    /// without TLS, since nobody listens in between.
    #[must_use]
    pub fn allow_loopback(self, loopback: bool) -> Self {
        Self { loopback, ..self }
    }

    /// Whether hosts that a rule names may be in a private network (RFC 1918, RFC 4193).
    #[must_use]
    pub fn allow_private(self, private: bool) -> Self {
        Self { private, ..self }
    }

    /// The rules, in the order in which they were given.
    pub fn rules(&self) -> impl Iterator<Item = (&Rule, GrantedBy)> {
        self.rules.iter().map(|(rule, by)| (rule, *by))
    }

    /// Whether a host (a name, or an address with or without brackets) may be spoken to on a port, as far as its name tells. What a name
    /// resolves to is judged when it is connected to.
    ///
    /// # Errors
    /// If no rule allows it, or the host is an address (or `localhost`) that may not be dialled.
    pub fn check(&self, host: &str, port: u16, protection: Protection) -> Result<(), Refused> {
        let refused = |problem| Refused::new(SafeText::quote(host).to_string(), port, protection, Reason::Unreadable(problem));
        let host = Host::parse(host).map_err(refused)?;
        self.check_host(&host, port, protection)
    }

    /// Why [`check`](Self::check) says what it says, rule by rule.
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

    /// Whether an address that is judged so may be dialled for a host that a rule names.
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
            return Err(refused(Reason::Unreadable("0 is no port".into())));
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

    /// Those of the addresses of a host that may be dialled, in their order.
    ///
    /// # Errors
    /// If there are addresses, and none of them may be.
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
            tracing::debug!(%host, ?refused, "some addresses of a host are left out");
        }
        Ok(admitted.into_iter().map(|(address, _)| address).collect())
    }
}

/// A connection that is refused by policy: what was asked for, what speaks against it, and what would have to be granted.
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

/// What speaks against a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The host or port is none; the text says why.
    Unreadable(String),
    /// No rule is about the host.
    NoRule,
    /// This rule is about the host, on other ports.
    OtherPorts(Rule),
    /// This rule allows the host and port, over TLS only.
    TlsOnly(Rule),
    /// The host is, or resolves to, addresses of which none may be dialled.
    Addresses(Vec<(IpAddr, Judged)>),
}

/// What would have to be granted for a refused connection to be allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Missing {
    /// This rule.
    Rule(Rule),
    /// [`Grants::allow_loopback`].
    Loopback,
    /// [`Grants::allow_private`].
    Private,
    /// Nothing: no grant allows it.
    Nothing,
}

impl Refused {
    fn new(host: String, port: u16, protection: Protection, reason: Reason) -> Self {
        Self { asked: Asked { host, port, protection }, reason }
    }

    /// The host that was asked for, as it would stand in a URL.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.asked.host
    }

    /// The port that was asked for.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.asked.port
    }

    /// What speaks against it.
    #[must_use]
    pub fn reason(&self) -> &Reason {
        &self.reason
    }

    /// What would have to be granted. A host that is granted may still resolve to addresses that are refused.
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
        // To loopback, a rule allows plain connections anyway.
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
            // A resolver is asked for names only.
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

/// Why a connection is allowed or refused: the verdict, every rule, and every address if they were looked for. Its text has a line for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    asked: Asked,
    rules: Vec<(Rule, GrantedBy, Fit)>,
    addresses: Vec<(IpAddr, Judged, bool)>,
    remark: Option<String>,
    verdict: Result<(), Refused>,
}

impl Explanation {
    /// The rules, where they come from, and how they fit.
    pub fn rules(&self) -> impl Iterator<Item = (&Rule, GrantedBy, Fit)> {
        self.rules.iter().map(|(rule, by, fit)| (rule, *by, *fit))
    }

    /// What the host resolves to, what that is, and whether it may be dialled. None, if it was not looked for: see
    /// [`Egress::explain`](crate::Egress::explain).
    pub fn addresses(&self) -> impl Iterator<Item = (IpAddr, Judged, bool)> {
        self.addresses.iter().copied()
    }

    /// Why no addresses were looked for, or found.
    #[must_use]
    pub fn remark(&self) -> Option<&str> {
        self.remark.as_deref()
    }

    /// Whether it is allowed.
    ///
    /// # Errors
    /// If it is refused.
    pub fn verdict(&self) -> Result<(), &Refused> {
        self.verdict.as_ref().copied()
    }

    /// Adds what the host resolves to.
    pub(crate) fn with_addresses(mut self, grants: &Grants, host: &Host, addresses: Vec<IpAddr>) -> Self {
        let judged = |address| (address, judge(address), grants.admits(judge(address)));
        self.addresses = addresses.iter().copied().map(judged).collect();
        self.verdict = grants.admit(host, self.asked.port, self.asked.protection, addresses).map(drop);
        self
    }

    /// Adds why there are no addresses.
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
