use std::{borrow::Borrow, fmt, hash, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{Domain, SafeText, domain};

/// Maximum length of an address in bytes. Real addresses take about a hundred bytes; this is the
/// length that URL libraries and proxies support.
pub const MAX_ADDRESS_BYTES: usize = 2048;

/// An address of the message bus: `hyperty://sp1.example/alice`, `domain://registry.sp1.example`,
/// `mn:/session`.
///
/// Scheme and host are kept in lower case and A-labels, everything else as it was written. The port
/// 443 is dropped, as in a [`Domain`]. Cloning is cheap. Two addresses are equal exactly if their
/// texts are equal.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    text: Arc<str>,
    /// End of the scheme; 0 if the address has no scheme.
    scheme: u16,
    /// Begin and end of the host, with its port; two equal positions if the address has no host.
    host: (u16, u16),
}

/// The reason why a text is not an [`Address`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an address: {problem}")]
pub struct AddressError {
    text: SafeText,
    problem: String,
}

impl AddressError {
    /// Creates the error for a well-formed address without the domain that the caller needs.
    #[must_use]
    pub fn without_domain(address: &Address) -> Self {
        Self { text: SafeText::quote(address.as_str()), problem: "the text names no domain".to_owned() }
    }
}

impl From<std::convert::Infallible> for AddressError {
    /// Lets functions that accept any form of address accept an [`Address`] too.
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

impl Address {
    /// Reads `scheme://authority/path`, `scheme:/path`, `user@host`, or a bare host.
    ///
    /// # Errors
    /// If the text is empty, longer than [`MAX_ADDRESS_BYTES`], has blanks, control or invisible
    /// characters, or its authority is not a domain.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let fail = |problem: &str| AddressError { text: SafeText::quote(text), problem: problem.into() };
        if text.is_empty() {
            return Err(fail("the text is empty"));
        }
        if text.len() > MAX_ADDRESS_BYTES {
            return Err(fail(&format!("the text is longer than {MAX_ADDRESS_BYTES} bytes")));
        }
        if has_blanks(text) {
            return Err(fail("the text has blanks, control or invisible characters"));
        }
        let scheme_end = text.find(':').filter(|&end| text[end + 1..].starts_with('/')).unwrap_or(0);
        let scheme = &text[..scheme_end];
        if scheme_end > 0
            && !(scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)))
        {
            return Err(fail("the part before `:` is not a scheme"));
        }
        let rest = &text[scheme_end..];
        let authority_start = match rest.strip_prefix("://") {
            Some(_) => scheme_end + 3,
            None if scheme_end == 0 && !text.starts_with('/') => 0,
            None => {
                // `mn:/session`: no authority.
                let mut owned = text.to_owned();
                owned[..scheme_end].make_ascii_lowercase();
                return Ok(Self { text: owned.into(), scheme: index(scheme_end), host: (0, 0) });
            }
        };
        let authority_end = text[authority_start..].find(['/', '?', '#']).map_or(text.len(), |length| authority_start + length);
        let authority = &text[authority_start..authority_end];
        let user_end = authority.rfind('@').map_or(0, |at| at + 1);
        if authority[user_end..].is_empty() {
            if authority_start > 0 && user_end == 0 {
                // `scheme:///path`
                let mut owned = text.to_owned();
                owned[..scheme_end].make_ascii_lowercase();
                return Ok(Self { text: owned.into(), scheme: index(scheme_end), host: (0, 0) });
            }
            return Err(fail("the text names no host"));
        }
        let host = domain::normalise(&authority[user_end..]).map_err(fail)?;
        let host_start = authority_start + user_end;
        let host_end = host_start + host.len();
        let text: Arc<str> = if host == authority[user_end..] && !scheme.bytes().any(|b| b.is_ascii_uppercase()) {
            text.into()
        } else {
            let mut owned = String::with_capacity(text.len() + host.len());
            owned.push_str(&text[..host_start]);
            owned[..scheme_end].make_ascii_lowercase();
            owned.push_str(&host);
            owned.push_str(&text[authority_end..]);
            if owned.len() > MAX_ADDRESS_BYTES {
                return Err(fail(&format!("the text is longer than {MAX_ADDRESS_BYTES} bytes in A-labels")));
            }
            owned.into()
        };
        Ok(Self { text, scheme: index(scheme_end), host: (index(host_start), index(host_end)) })
    }

    /// Returns the sender of a message that was not posted yet.
    #[must_use]
    pub fn unset() -> Self {
        static UNSET: std::sync::LazyLock<Arc<str>> = std::sync::LazyLock::new(|| "unset:/".into());
        Self { text: Arc::clone(&UNSET), scheme: 5, host: (0, 0) }
    }

    /// Returns `true` if this is the sender of a message that was not posted yet. The poster
    /// replaces it by its own address.
    #[must_use]
    pub fn is_unset(&self) -> bool {
        self.scheme() == "unset"
    }

    /// Returns the whole address.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the whole address, shared.
    #[must_use]
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.text)
    }

    /// Returns the scheme, such as `hyperty`; empty for a bare host, `smtp` for `user@host`.
    #[must_use]
    pub fn scheme(&self) -> &str {
        match self.scheme {
            0 if self.host.0 > 0 => "smtp",
            end => &self.text[..usize::from(end)],
        }
    }

    /// Returns the host with its port, in lower case and without the port 443; empty if there is no
    /// authority.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.text[usize::from(self.host.0)..usize::from(self.host.1)]
    }

    /// Returns the host with its port as a domain, or `None` for addresses without an authority.
    #[must_use]
    pub fn domain(&self) -> Option<Domain> {
        Domain::parse(self.host()).ok()
    }

    /// Returns the part after the authority, with its slash; may be empty.
    #[must_use]
    pub fn path(&self) -> &str {
        match self.host {
            (0, 0) if self.scheme > 0 => self.text[usize::from(self.scheme) + 1..].trim_start_matches("//"),
            (_, end) => &self.text[usize::from(end)..],
        }
    }

    /// Returns the address below this one: `hyperty://sp1.example/alice` joined with `status` is
    /// `hyperty://sp1.example/alice/status`.
    ///
    /// # Errors
    /// If the result is not an address: it is too long, or `segment` has blanks.
    pub fn join(&self, segment: &str) -> Result<Self, AddressError> {
        let text = format!("{}/{segment}", self.text.trim_end_matches('/'));
        // A segment after a scheme and a host cannot change either of them.
        if self.scheme > 0 && self.host.1 > 0 && text.len() <= MAX_ADDRESS_BYTES && !has_blanks(segment) {
            return Ok(Self { text: text.into(), scheme: self.scheme, host: self.host });
        }
        Self::parse(&text)
    }

    /// Returns `true` if this address is `other`, or below it.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        self.text.strip_prefix(&*other.text).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// Returns `true` if a text has blanks, control characters or invisible characters.
fn has_blanks(text: &str) -> bool {
    if text.is_ascii() {
        return text.bytes().any(|byte| byte <= b' ' || byte == 0x7f);
    }
    text.chars().any(|c| c.is_whitespace() || !SafeText::is_shown(c))
}

/// Converts a position in an address. Every position fits, since addresses have at most
/// [`MAX_ADDRESS_BYTES`] bytes.
fn index(position: usize) -> u16 {
    u16::try_from(position).unwrap_or(u16::MAX)
}

impl PartialEq for Address {
    fn eq(&self, other: &Self) -> bool {
        // Most equal addresses are clones of one another.
        Arc::ptr_eq(&self.text, &other.text) || self.text == other.text
    }
}

impl Eq for Address {}

impl hash::Hash for Address {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl PartialOrd for Address {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Address {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.text.cmp(&other.text)
    }
}

impl Borrow<str> for Address {
    fn borrow(&self) -> &str {
        &self.text
    }
}

impl FromStr for Address {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse(text)
    }
}

impl TryFrom<&str> for Address {
    type Error = AddressError;
    fn try_from(text: &str) -> Result<Self, AddressError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;
    fn try_from(text: String) -> Result<Self, AddressError> {
        Self::parse(&text)
    }
}

impl From<Address> for Arc<str> {
    fn from(address: Address) -> Self {
        address.text
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.text.as_ref().to_owned()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({})", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_split_into_scheme_host_and_path() {
        let check = |text: &str, scheme: &str, host: &str, path: &str| {
            let address = Address::parse(text).unwrap();
            assert_eq!((address.scheme(), address.host(), address.path()), (scheme, host, path), "{text}");
        };
        check("runtime://sp.sp/8456/sm", "runtime", "sp.sp", "/8456/sm");
        check("hyperty://localhost:9090/test", "hyperty", "localhost:9090", "/test");
        check("runtime://sp1.sp", "runtime", "sp1.sp", "");
        check("sp1.sp", "", "sp1.sp", "");
        check("slack://user@slack.com", "slack", "slack.com", "");
        check("user@gmail.com", "smtp", "gmail.com", "");
        check("global://registry/", "global", "registry", "/");
        check("hyperty://[::1]/x", "hyperty", "[::1]", "/x");
        check("mn:/session", "mn", "", "/session");
        check("localhost:9090/test", "", "localhost:9090", "/test");
        check("Hyperty://SP1.Example./Alice?Q", "hyperty", "sp1.example", "/Alice?Q");
        check("hyperty://sp1.example:443/alice", "hyperty", "sp1.example", "/alice");
        check("sp1.example:443", "", "sp1.example", "");
        check("slack://user@slack.com:443", "slack", "slack.com", "");
        check("hyperty://[::1]:443/x", "hyperty", "[::1]", "/x");
        check("hyperty://sp1.example:80/alice", "hyperty", "sp1.example:80", "/alice");
    }

    #[test]
    fn malformed_address_is_rejected() {
        let long = format!("hyperty://sp1.example/{}", "x".repeat(MAX_ADDRESS_BYTES));
        for text in [
            "",
            "hyperty://a b",
            "hyperty://sp1.example/\u{7}",
            "1x://sp1",
            "hyperty://user@/x",
            &long,
            "ä://x",
            "hyperty://sp1.example/\u{202e}ecila",
        ] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_with_and_without_port_443_are_equal() {
        let spelt = |text: &str| Address::parse(text).unwrap();
        assert_eq!(spelt("hyperty://sp1.example:443/alice"), spelt("hyperty://sp1.example/alice"));
        assert_eq!(spelt("domain://registry.sp1.example:443").as_str(), "domain://registry.sp1.example");
        assert_ne!(spelt("hyperty://sp1.example:80/alice"), spelt("hyperty://sp1.example/alice"));
        // Only the authority has a port.
        assert_eq!(spelt("hyperty://sp1.example/:443").as_str(), "hyperty://sp1.example/:443");
    }

    #[test]
    fn is_within_matches_whole_segments() {
        let stub = Address::parse("hyperty-runtime://sp1.example/protostub/1").unwrap();
        assert_eq!(stub.join("status").unwrap().as_str(), "hyperty-runtime://sp1.example/protostub/1/status");
        assert!(stub.join("status").unwrap().is_within(&stub));
        assert!(!Address::parse("hyperty-runtime://sp1.example/protostub/12").unwrap().is_within(&stub));
    }

    #[test]
    fn joined_address_equals_the_parsed_one() {
        let long = "x".repeat(MAX_ADDRESS_BYTES - 20);
        for base in [
            "hyperty://sp1.example",
            "hyperty://sp1.example/",
            "slack://user@sp1.example:80/a?b#c",
            "sp1.example",
            "mn:/",
            "x:///",
            "unset:/",
        ] {
            for segment in
                ["", "a", "a/b", "/a", "?a", "@a", ":80", "a:/b", "é", "a b", "a\u{a0}", "\u{7f}", "\u{85}", "\n", &long]
            {
                let base = Address::parse(base).unwrap();
                let parts = |address: Address| (address.text, address.scheme, address.host);
                let text = format!("{}/{segment}", base.as_str().trim_end_matches('/'));
                let (joined, read) = (base.join(segment).map(parts), Address::parse(&text).map(parts));
                assert_eq!(joined.map_err(|error| error.to_string()), read.map_err(|error| error.to_string()), "{text}");
            }
        }
    }
}
