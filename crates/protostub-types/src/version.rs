use std::{cmp::Ordering, fmt};

use serde::Serialize;

use crate::SafeText;

/// Maximum length of a version in bytes.
const MAX_VERSION_BYTES: usize = 128;

/// The version of a stub, as its domain wrote it: `12.70`, `0.3.1-rc2`, `20261122104500`.
///
/// Versions compare by their numbers and words, not as texts: `0.9` is before `0.10`, `1.0-rc1` is
/// before `1.0`, and `1.0` equals `1.0.0`. Numbers may be of any size. Words compare without regard
/// to case. All other characters are separators.
#[derive(Clone, Serialize)]
#[serde(transparent)]
pub struct Version(String);

/// The reason why a text is not a [`Version`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a version has 1 to {MAX_VERSION_BYTES} bytes, without control or invisible characters, and at least one letter or digit"
)]
#[non_exhaustive]
pub struct VersionError;

impl Version {
    /// Reads a version, without the blanks around it.
    ///
    /// # Errors
    /// If the text is longer than 128 bytes, has no letter or digit, or has control or invisible
    /// characters.
    pub fn parse(text: &str) -> Result<Self, VersionError> {
        let text = text.trim();
        if text.len() > MAX_VERSION_BYTES
            || !text.chars().all(SafeText::is_shown)
            || !text.contains(|c: char| c.is_ascii_alphanumeric())
        {
            return Err(VersionError);
        }
        Ok(Self(text.to_owned()))
    }

    /// Returns the version as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the numbers and words. Zeros before a word, or at the end, have no meaning and are
    /// left out.
    fn parts(&self) -> Vec<Part<'_>> {
        // `v1.2` and `1.2` are the same version.
        let mut rest = match self.0.as_bytes() {
            [b'v' | b'V', digit, ..] if digit.is_ascii_digit() => &self.0[1..],
            _ => &self.0,
        };
        let mut parts = Vec::new();
        loop {
            rest = rest.trim_start_matches(|c: char| !c.is_alphanumeric());
            let is_number = rest.starts_with(|c: char| c.is_ascii_digit());
            let end = rest.find(|c: char| !c.is_alphanumeric() || c.is_ascii_digit() != is_number).unwrap_or(rest.len());
            let (part, behind) = rest.split_at(end);
            if !is_number {
                while parts.pop_if(|last| *last == Part::Number("")).is_some() {}
            }
            match part {
                "" => return parts,
                _ if is_number => parts.push(Part::Number(part.trim_start_matches('0'))),
                _ => parts.push(Part::Word(part)),
            }
            rest = behind;
        }
    }
}

#[derive(PartialEq)]
enum Part<'a> {
    /// Digits without leading zeros: zero is empty.
    Number(&'a str),
    Word(&'a str),
}

impl Part<'_> {
    /// Compares two parts. A word marks a version before the proper one, a number marks one after
    /// it.
    fn compare(left: Option<&Self>, right: Option<&Self>) -> Ordering {
        use Part::{Number, Word};
        match (left, right) {
            (Some(Number(a)), Some(Number(b))) => a.len().cmp(&b.len()).then_with(|| a.cmp(b)),
            (Some(Word(a)), Some(Word(b))) => a.to_lowercase().cmp(&b.to_lowercase()),
            (None, None) => Ordering::Equal,
            (Some(Word(_)), _) | (None, Some(Number(_))) => Ordering::Less,
            (_, Some(Word(_))) | (Some(Number(_)), None) => Ordering::Greater,
        }
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        let (left, right) = (self.parts(), other.parts());
        (0..left.len().max(right.len()))
            .map(|at| Part::compare(left.get(at), right.get(at)))
            .find(|order| order.is_ne())
            .unwrap_or(Ordering::Equal)
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
    fn versions_compare_by_numbers_and_words() {
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
    fn malformed_version_is_rejected() {
        for text in ["", "  ", "...", "1\n2", "1.\u{202e}2", &"1".repeat(129)] {
            assert_eq!(Version::parse(text), Err(VersionError), "{text}");
        }
    }
}
