use std::{fmt, str::FromStr};

use protostub_types::Domain;
use serde::Deserialize;

/// A set of domains: `sp1.example` (exactly this one, with its port if it has one), `*.sp1.example`
/// (all domains below it, without itself) or `*` (all domains).
///
/// ```
/// use protostub_runtime::{Domain, DomainPattern};
/// let pattern: DomainPattern = "*.SP1.example".parse()?;
/// assert!(pattern.contains(&Domain::parse("chat.sp1.example:8443")?));
/// assert!(!pattern.contains(&Domain::parse("sp1.example")?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct DomainPattern(Pattern);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Pattern {
    Any,
    Exactly(Domain),
    Below(Domain),
}

/// The error of a text that is not a [`DomainPattern`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a domain pattern: {problem}; write `sp1.example`, `*.sp1.example` or `*`")]
pub struct DomainPatternError {
    text: String,
    problem: String,
}

impl DomainPattern {
    /// Returns `true` if the pattern contains the domain.
    #[must_use]
    pub fn contains(&self, domain: &Domain) -> bool {
        match &self.0 {
            Pattern::Any => true,
            Pattern::Exactly(meant) => domain == meant,
            Pattern::Below(parent) => domain.is_within(parent) && domain.host() != parent.host(),
        }
    }
}

impl From<Domain> for DomainPattern {
    fn from(domain: Domain) -> Self {
        Self(Pattern::Exactly(domain))
    }
}

impl FromStr for DomainPattern {
    type Err = DomainPatternError;

    fn from_str(text: &str) -> Result<Self, DomainPatternError> {
        let fault = |problem: String| DomainPatternError { text: text.to_owned(), problem };
        let parse = |text: &str| Domain::parse(text).map_err(|error| fault(error.to_string()));
        if text == "*" {
            return Ok(Self(Pattern::Any));
        }
        let Some(parent) = text.strip_prefix("*.") else { return parse(text).map(Self::from) };
        let parent = parse(parent)?;
        if parent.ip().is_some() || parent.port().is_some() {
            return Err(fault("the part after `*.` has to be a name without a port".to_owned()));
        }
        if parent.is_public_suffix() {
            return Err(fault(format!("the domains below `{parent}` belong to different owners")));
        }
        Ok(Self(Pattern::Below(parent)))
    }
}

impl TryFrom<String> for DomainPattern {
    type Error = DomainPatternError;

    fn try_from(text: String) -> Result<Self, DomainPatternError> {
        text.parse()
    }
}

impl fmt::Display for DomainPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Pattern::Any => f.write_str("*"),
            Pattern::Exactly(domain) => domain.fmt(f),
            Pattern::Below(parent) => write!(f, "*.{parent}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pattern_contains_one_domain_or_those_below_or_all() {
        let contains = |pattern: &str, domain: &str, expected: bool| {
            let pattern: DomainPattern = pattern.parse().unwrap();
            assert_eq!(pattern.contains(&Domain::parse(domain).unwrap()), expected, "{pattern} {domain}");
        };
        contains("sp1.example", "SP1.example.", true);
        contains("sp1.example", "sp1.example:8443", false);
        contains("sp1.example:443", "sp1.example", true);
        contains("127.0.0.1:8080", "127.0.0.1:8080", true);
        contains("*.sp1.example", "chat.sp1.example", true);
        contains("*.sp1.example", "a.chat.sp1.example:8443", true);
        contains("*.sp1.example", "sp1.example", false);
        contains("*.sp1.example", "sp1.example:8443", false);
        contains("*.sp1.example", "evilsp1.example", false);
        contains("*", "127.0.0.1", true);
    }

    #[test]
    fn pattern_with_a_fault_is_refused_with_examples() {
        let check = |text: &str, problem: &str| {
            let error = text.parse::<DomainPattern>().unwrap_err().to_string();
            assert_eq!(
                error,
                format!("`{text}` is not a domain pattern: {problem}; write `sp1.example`, `*.sp1.example` or `*`")
            );
        };
        check("*.co.uk", "the domains below `co.uk` belong to different owners");
        check("*.127.0.0.1", "the part after `*.` has to be a name without a port");
        check("*.sp1.example:80", "the part after `*.` has to be a name without a port");
        assert!("a b".parse::<DomainPattern>().is_err());
    }
}
