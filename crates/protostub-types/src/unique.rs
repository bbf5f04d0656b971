//! Maps whose keys have several spellings.

use std::{collections::BTreeMap, fmt, marker::PhantomData, str::FromStr};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error as _, MapAccess, Visitor},
};

use crate::SafeText;

/// A map that takes each key once. A key is compared in its normalised form (`localhost:8001`), and
/// kept with the spelling that it came in (`LocalHost:8001`).
///
/// The first of two entries stays. The second one is an error: of [`Self::insert`], of the
/// deserializer at the place of the second key, or of [`Self::check`] after [`Self::add`].
///
/// ```
/// use protostub_types::{Domain, UniqueMap};
///
/// let text = r#"{ "SP1.example": 1, "sp1.example": 2 }"#;
/// let read = serde_json::from_str::<UniqueMap<Domain, u32>>(text);
/// let error = read.unwrap_err().to_string();
/// let expected = "`sp1.example` and `SP1.example` are two spellings of `sp1.example`";
/// assert!(error.starts_with(expected));
/// ```
#[derive(Debug, Clone)]
pub struct UniqueMap<K, V> {
    entries: BTreeMap<K, (String, V)>,
    repeated: Option<RepeatedKey>,
}

/// A key that was given twice, with both spellings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepeatedKey {
    key: String,
    first: String,
    second: String,
}

impl<K: Ord + fmt::Display, V> UniqueMap<K, V> {
    /// Creates an empty map.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Inserts an entry whose key was written as `spelling`.
    ///
    /// # Errors
    /// If the map has the key already, in any spelling.
    pub fn insert(&mut self, spelling: impl Into<String>, key: K, value: V) -> Result<(), RepeatedKey> {
        let spelling = spelling.into();
        self.check_key(&spelling, &key)?;
        self.entries.insert(key, (spelling, value));
        Ok(())
    }

    /// Inserts an entry for a builder, whose setters have no error: [`Self::check`] reports a
    /// repeated key when everything is built.
    pub fn add(&mut self, key: K, value: V) {
        let inserted = self.insert(key.to_string(), key, value);
        self.repeated = self.repeated.take().or(inserted.err());
    }

    /// Reports the first key that was [added](Self::add) twice.
    ///
    /// # Errors
    /// If there is one.
    pub fn check(&self) -> Result<(), RepeatedKey> {
        self.repeated.clone().map_or(Ok(()), Err)
    }

    /// Returns the value of a key, and inserts a default value if the map has none.
    pub fn or_default(&mut self, key: K) -> &mut V
    where
        V: Default,
    {
        let spelling = key.to_string();
        &mut self.entries.entry(key).or_insert_with(|| (spelling, V::default())).1
    }

    fn check_key(&self, spelling: &str, key: &K) -> Result<(), RepeatedKey> {
        match self.entries.get(key) {
            None => Ok(()),
            Some((first, _)) => Err(RepeatedKey { key: key.to_string(), first: first.clone(), second: spelling.to_owned() }),
        }
    }
}

impl<K: Ord, V> UniqueMap<K, V> {
    /// Returns the value of a key.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(_, value)| value)
    }

    /// Removes a key and returns its value.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.entries.remove(key).map(|(_, value)| value)
    }

    /// Returns the number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns `true` if the map has no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Visits the entries in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter().map(|(key, (_, value))| (key, value))
    }

    /// Visits the values in the order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.entries.values().map(|(_, value)| value)
    }

    /// Visits the values in the order of their keys, to change them.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.entries.values_mut().map(|(_, value)| value)
    }
}

impl<K, V> Default for UniqueMap<K, V> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), repeated: None }
    }
}

impl<'de, K, V> Deserialize<'de> for UniqueMap<K, V>
where
    K: FromStr<Err: fmt::Display> + Ord + fmt::Display,
    V: Deserialize<'de>,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Entries(PhantomData))
    }
}

struct Entries<K, V>(PhantomData<(K, V)>);

impl<'de, K, V> Visitor<'de> for Entries<K, V>
where
    K: FromStr<Err: fmt::Display> + Ord + fmt::Display,
    V: Deserialize<'de>,
{
    type Value = UniqueMap<K, V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut map = UniqueMap::default();
        while let Some((spelling, key)) = access.next_key_seed(NewKey(&map))? {
            let value = access.next_value()?;
            map.insert(spelling, key, value).map_err(A::Error::custom)?;
        }
        Ok(map)
    }
}

/// Reads a key that the map does not have yet. The error is made here, since a deserializer adds
/// its place.
struct NewKey<'a, K, V>(&'a UniqueMap<K, V>);

impl<'de, K, V> DeserializeSeed<'de> for NewKey<'_, K, V>
where
    K: FromStr<Err: fmt::Display> + Ord + fmt::Display,
{
    type Value = (String, K);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        let spelling = String::deserialize(deserializer)?;
        let key = spelling.parse().map_err(D::Error::custom)?;
        self.0.check_key(&spelling, &key).map_err(D::Error::custom)?;
        Ok((spelling, key))
    }
}

impl fmt::Display for RepeatedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, first, second } = self;
        let (first, second) = (SafeText::quote(first), SafeText::quote(second));
        match first == second {
            true => write!(f, "`{first}` is given twice: keep one of the two"),
            false => write!(f, "`{second}` and `{first}` are two spellings of `{key}`: keep one of the two"),
        }
    }
}

impl std::error::Error for RepeatedKey {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Domain;

    #[test]
    fn second_spelling_of_a_domain_is_refused() {
        let check = |first: &str, second: &str, expected: &str| {
            let mut map = UniqueMap::new();
            map.insert(first, Domain::parse(first).unwrap(), 1).unwrap();
            let error = map.insert(second, Domain::parse(second).unwrap(), 2).unwrap_err();
            assert_eq!(error.to_string(), expected);
            assert_eq!(map.values().collect::<Vec<_>>(), [&1], "the first one stays");
        };
        let two = |first: &str, second: &str, key: &str| {
            let expected = format!("`{second}` and `{first}` are two spellings of `{key}`: keep one of the two");
            check(first, second, &expected);
        };
        two("LocalHost:8001", "localhost:8001", "localhost:8001");
        two("sp1.example", "SP1.example.", "sp1.example");
        two("xn--bcher-kva.example", "bücher.example", "xn--bcher-kva.example");
        two("[::1]", "[0:0::1]", "[::1]");
        two("[::1]:9", "[::0001]:0009", "[::1]:9");
        two("sp1.example", "user@sp1.example", "sp1.example");
        two("sp1.example", "sp1.example:443", "sp1.example");
        check("sp1.example", "sp1.example", "`sp1.example` is given twice: keep one of the two");
    }

    #[test]
    fn key_added_twice_is_reported_by_check() {
        let mut map = UniqueMap::new();
        for (key, value) in [("a.example", 1), ("b.example", 2)] {
            map.add(Domain::parse(key).unwrap(), value);
        }
        assert_eq!(map.check(), Ok(()));
        map.add(Domain::parse("A.example").unwrap(), 3);
        assert_eq!(map.check().unwrap_err().to_string(), "`a.example` is given twice: keep one of the two");
        assert_eq!(map.get(&Domain::parse("a.example").unwrap()), Some(&1));
    }
}
