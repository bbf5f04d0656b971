use std::{cmp::Ordering, fmt};

use serde::Serialize;

/// How long a version may be, in bytes.
const MAX_VERSION_BYTES: usize = 128;

/// The version of a stub, as its domain wrote it: `12.70`, `0.3.1-rc2`, `20261122104500`.
///
/// Versions compare by their numbers and words, not as texts: `0.9` is before `0.10`, `1.0-rc1` before `1.0`, and `1.0` is the same
/// version as `1.0.0`. Numbers may be of any size. Words compare without regard to case; what stands between is a separator.
#[derive(Clone, Serialize)]
#[serde(transparent)]
pub struct Version(String);

/// Why a text is no [`Version`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a version has 1 to {MAX_VERSION_BYTES} bytes, without control characters, and at least one letter or digit")]
pub struct VersionError;

impl Version {
    /// Reads a version; blanks around it are dropped.
    ///
    /// # Errors
    /// If it is longer than 128 bytes, has no letter or digit, or has control characters.
    pub fn parse(text: &str) -> Result<Self, VersionError> {
        let text = text.trim();
        if text.len() > MAX_VERSION_BYTES || text.contains(char::is_control) || !text.contains(|c: char| c.is_ascii_alphanumeric()) {
            return Err(VersionError);
        }
        Ok(Self(text.to_owned()))
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn parts(&self) -> Parts<'_> {
        // `v1.2` and `1.2` are one version.
        let text = match self.0.as_bytes() {
            [b'v' | b'V', digit, ..] if digit.is_ascii_digit() => &self.0[1..],
            _ => &self.0,
        };
        Parts(text)
    }
}

/// A run of digits without leading zeros, or a run of letters.
enum Part<'a> {
    Number(&'a str),
    Word(&'a str),
}

struct Parts<'a>(&'a str);

impl<'a> Iterator for Parts<'a> {
    type Item = Part<'a>;

    fn next(&mut self) -> Option<Part<'a>> {
        let rest = self.0.trim_start_matches(|c: char| !c.is_alphanumeric());
        let is_number = rest.starts_with(|c: char| c.is_ascii_digit());
        let end = rest.find(|c: char| !c.is_alphanumeric() || c.is_ascii_digit() != is_number).unwrap_or(rest.len());
        let (part, rest) = rest.split_at(end);
        self.0 = rest;
        match part {
            "" => None,
            _ if is_number => Some(Part::Number(part.trim_start_matches('0'))),
            _ => Some(Part::Word(part)),
        }
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        let (mut left, mut right) = (self.parts(), other.parts());
        loop {
            let order = match (left.next(), right.next()) {
                (None, None) => return Ordering::Equal,
                // What is missing counts as zero; a word marks something before the version proper.
                (Some(Part::Number(a)), None) => a.len().cmp(&0),
                (None, Some(Part::Number(b))) => 0.cmp(&b.len()),
                (Some(Part::Number(_)), Some(Part::Word(_))) | (None, Some(Part::Word(_))) => Ordering::Greater,
                (Some(Part::Word(_)), Some(Part::Number(_)) | None) => Ordering::Less,
                (Some(Part::Number(a)), Some(Part::Number(b))) => a.len().cmp(&b.len()).then_with(|| a.cmp(b)),
                (Some(Part::Word(a)), Some(Part::Word(b))) => a.to_lowercase().cmp(&b.to_lowercase()),
            };
            if order != Ordering::Equal {
                return order;
            }
        }
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Version {}

impl std::str::FromStr for Version {
    type Err = VersionError;
    fn from_str(text: &str) -> Result<Self, VersionError> {
        Self::parse(text)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Version({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_versions() {
        let ascending = [
            "alpha",
            "0.0.1",
            "0.9",
            "0.10",
            "1.0-alpha",
            "1.0-rc1",
            "1.0-RC2",
            "1.0-rc10",
            "1.0",
            "1.0.1",
            "2-beta",
            "2",
            "12.7",
            "12.70",
            "20261122",
            "20261122104500",
            "99999999999999999999999999",
            "100000000000000000000000000",
        ];
        let versions: Vec<_> = ascending.iter().map(|text| Version::parse(text).unwrap()).collect();
        for (i, left) in versions.iter().enumerate() {
            for (j, right) in versions.iter().enumerate() {
                assert_eq!(left.cmp(right), i.cmp(&j), "{left} and {right}");
            }
        }
        let same = |a: &str, b: &str| assert_eq!(Version::parse(a), Version::parse(b), "{a} and {b}");
        same("1.0", "1.0.0");
        same("1", "v1");
        same("1.02", "1.2");
        same("1.0-rc1", "1.0.0-RC.1");
        same(" 1.0 ", "1-0");
    }

    #[test]
    fn what_is_no_version_is_refused() {
        for text in ["", "  ", "...", "1\n2", &"1".repeat(129)] {
            assert_eq!(Version::parse(text), Err(VersionError), "{text}");
        }
    }
}
