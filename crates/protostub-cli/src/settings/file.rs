//! A settings file: [`Settings`] of the library, with keys of the command in the same tables.
//!
//! The command removes its own keys from each table and leaves the rest to the library. So each key
//! has one definition, and every error keeps its place in the file.

use std::path::PathBuf;

use protostub_runtime::{
    CacheSettings, DomainSettings, LifecycleSettings, NetworkSettings, Settings, TotalSettings, trust::TrustPolicy,
};
use protostub_types::{Address, Domain};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _, Visitor},
    forward_to_deserialize_any,
};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::places::{Fault, Places, Problem};
use crate::credentials::{Credential, OAuth2};

/// Minimum similarity of two keys, from 0 to 1, to suggest one for the other. clap uses the same
/// value for flags.
const NEAR: f64 = 0.7;

/// Keys that older files have outside of groups: the key, its group, and its name in the group.
const MOVED: [(&str, &str, &str); 21] = [
    ("allow-loopback", "network", "allow-loopback"),
    ("allow-http", "network", "allow-http"),
    ("trust-roots", "network", "trust-roots"),
    ("proxy", "network", "proxy"),
    ("max-sockets", "network", "max-sockets"),
    ("cache-dir", "cache", "dir"),
    ("cache-key", "cache", "key"),
    ("max-offline-seconds", "cache", "max-offline-seconds"),
    ("max-accepted-versions", "cache", "max-accepted-versions"),
    ("max-accepted-versions-per-domain", "cache", "max-accepted-versions-per-domain"),
    ("max-key-sets", "cache", "max-key-sets"),
    ("max-key-sets-per-domain", "cache", "max-key-sets-per-domain"),
    ("max-stubs", "lifecycle", "max-stubs"),
    ("max-sandboxes", "lifecycle", "max-sandboxes"),
    ("retire-after-seconds", "lifecycle", "retire-after-seconds"),
    ("deployments-per-minute", "lifecycle", "deployments-per-minute"),
    ("compile-timeout-seconds", "lifecycle", "compile-timeout-seconds"),
    ("compile-memory-bytes", "lifecycle", "compile-memory-bytes"),
    ("compile-in-process", "lifecycle", "compile-in-process"),
    ("connect-timeout-seconds", "lifecycle", "connect-timeout-seconds"),
    ("grace-seconds", "lifecycle", "grace-seconds"),
];

/// The command's keys outside of groups.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(super) struct CommandKeys {
    pub(super) socket: Option<PathBuf>,
    pub(super) hyperties: Vec<Address>,
    pub(super) deploy: Vec<String>,
    pub(super) policy: Option<PathBuf>,
    pub(super) credentials: Vec<PathBuf>,
}

/// The command's keys in `[network]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(super) struct NetworkKeys {
    pub(super) trust_roots: Vec<PathBuf>,
}

/// The command's keys in `[lifecycle]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(super) struct LifecycleKeys {
    pub(super) compile_in_process: bool,
}

/// The command's keys in `[trust]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(super) struct TrustKeys {
    pub(super) trusted_keys: Vec<PathBuf>,
}

/// The command's keys in the table of a domain.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(super) struct DomainKeys {
    pub(super) trusted_keys: Vec<PathBuf>,
    pub(super) credential: Option<Credential>,
    pub(super) oauth2: Option<OAuth2>,
}

/// No keys of the command.
#[derive(Debug, Default, Deserialize)]
struct NoKeys {}

/// The content of a settings file.
#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) library: Settings,
    pub(super) command: CommandKeys,
    pub(super) network: NetworkKeys,
    pub(super) lifecycle: LifecycleKeys,
    pub(super) trust: TrustKeys,
    pub(super) domains: Vec<(Domain, DomainKeys)>,
    pub(super) places: Places,
}

impl File {
    /// Reads the text of a file. The error begins with its place, `line:column`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut root = DeTable::parse(text).map_err(|error| Places::unknown(text).describe(&not_toml(text, &error)))?;
        move_keys(root.get_mut()).map_err(|fault| Places::unknown(text).describe(&fault))?;
        let places = Places::new(text, root.get_ref());
        match Self::read(root) {
            Ok(file) => Ok(Self { places, ..file }),
            Err(fault) => Err(places.describe(&fault)),
        }
    }

    fn read(mut root: Spanned<DeTable<'_>>) -> Result<Self, Fault> {
        let tables = root.get_mut();
        check_tables(tables)?;
        let command = take::<_, Settings>(tables, &MOVED)?;
        let network = take_in::<_, NetworkSettings>(tables, "network")?;
        let lifecycle = take_in::<_, LifecycleSettings>(tables, "lifecycle")?;
        let trust = take_in::<_, TrustPolicy>(tables, "trust")?;
        let NoKeys {} = take_in::<_, CacheSettings>(tables, "cache")?;
        let NoKeys {} = take_in::<_, TotalSettings>(tables, "totals")?;
        let mut domains = Vec::new();
        if let Some(DeValue::Table(table)) = tables.get_mut("domains").map(Spanned::get_mut) {
            for spelling in table.keys().map(|key| key.get_ref().to_string()).collect::<Vec<_>>() {
                if let Some(DeValue::Table(settings)) = table.get(spelling.as_str()).map(Spanned::get_ref)
                    && let Some(configuration) = settings.get("configuration")
                {
                    check_json(configuration)?;
                }
                let keys = take_in::<_, DomainSettings>(table, &spelling)?;
                domains.push((spelling, keys));
            }
        }
        let library = Settings::deserialize(toml::Deserializer::from(root))?;
        // The library has already refused spellings that are not domains.
        let domains = domains.into_iter().filter_map(|(spelling, keys)| Some((spelling.parse().ok()?, keys))).collect();
        Ok(Self { library, command, network, lifecycle, trust, domains, places: Places::default() })
    }
}

/// Moves the keys of older files into their groups.
fn move_keys(root: &mut DeTable<'_>) -> Result<(), Fault> {
    for (old, group, new) in MOVED {
        let Some((key, value)) = root.remove_entry(old) else { continue };
        let place = key.span();
        let empty = || Spanned::new(place.clone(), DeValue::Table(DeTable::new()));
        let table = root.entry(Spanned::new(place.clone(), group.into())).or_insert_with(empty);
        // The library refuses a group that is not a table.
        let DeValue::Table(table) = table.get_mut() else { continue };
        if table.contains_key(new) {
            let problem = format!("`{old}` is set twice: here, and as `{new}` in [{group}]; remove one of them");
            return Err(Fault::at(&place, Problem::Whole(problem)));
        }
        table.insert(Spanned::new(place, new.into()), value);
    }
    Ok(())
}

/// As [`take`], from a table inside this one. Leaves a value that is not a table to the library.
fn take_in<Own: DeserializeOwned + Default, Library: DeserializeOwned>(table: &mut DeTable<'_>, key: &str) -> Result<Own, Fault> {
    match table.get_mut(key).map(Spanned::get_mut) {
        Some(DeValue::Table(table)) => take::<Own, Library>(table, &[]),
        _ => Ok(Own::default()),
    }
}

/// Removes the command's keys from a table, and leaves those of the library.
///
/// # Errors
/// Fails if a key belongs to neither, or a key of the command has a wrong value.
fn take<Own: DeserializeOwned, Library: DeserializeOwned>(
    table: &mut DeTable<'_>,
    moved: &[(&str, &str, &str)],
) -> Result<Own, Fault> {
    let (own, library) = (keys_of::<Own>(), keys_of::<Library>());
    let is_known = |key: &str| own.iter().chain(library).any(|known| *known == key);
    if let Some(key) = table.keys().find(|key| !is_known(key.get_ref())) {
        let problem = unknown_key(key.get_ref(), &[library, own].concat(), moved);
        return Err(Fault::at(&key.span(), Problem::Whole(problem)));
    }
    let mut taken = DeTable::new();
    for key in own {
        taken.extend(table.remove_entry(*key));
    }
    Ok(Own::deserialize(toml::Deserializer::from(Spanned::new(0..0, taken)))?)
}

/// Describes an unknown key, and suggests the most similar known key.
fn unknown_key(key: &str, known: &[&str], moved: &[(&str, &str, &str)]) -> String {
    let likeness = |known: &str| strsim::jaro_winkler(known, key);
    let here = known.iter().map(|known| (likeness(known), format!("`{known}`")));
    let there = moved.iter().map(|(old, group, new)| (likeness(old), format!("`{new}` in [{group}]")));
    match here.chain(there).max_by(|(one, _), (other, _)| one.total_cmp(other)).filter(|(likeness, _)| *likeness >= NEAR) {
        Some((_, nearest)) => format!("unknown key `{key}`; did you mean {nearest}?"),
        None => format!("unknown key `{key}`; the keys here are {}", known.join(", ")),
    }
}

/// Refuses lists and dates in place of tables. serde would take the items of a list for the values
/// of the keys, in the order of their definition, and a date for a table with a key of the TOML
/// library.
fn check_tables(root: &DeTable<'_>) -> Result<(), Fault> {
    let check = |table: &DeTable<'_>, keys: &[&str]| {
        keys.iter().filter_map(|key| table.get(*key)).try_for_each(|value| {
            let found = match value.get_ref() {
                DeValue::Array(_) => "a list",
                DeValue::Datetime(_) => "a date",
                _ => return Ok(()),
            };
            let problem = Problem::Type { found: found.to_owned(), expected: "a table".to_owned() };
            Err(Fault::at(&value.span(), problem))
        })
    };
    check(root, &["network", "cache", "lifecycle", "trust", "restart", "limits", "totals", "domains"])?;
    let Some(DeValue::Table(domains)) = root.get("domains").map(Spanned::get_ref) else { return Ok(()) };
    let spellings: Vec<&str> = domains.keys().map(|key| key.get_ref().as_ref()).collect();
    check(domains, &spellings)?;
    for domain in domains.values() {
        let DeValue::Table(domain) = domain.get_ref() else { continue };
        check(domain, &["restart", "limits", "credential", "oauth2"])?;
        if let Some(DeValue::Table(oauth2)) = domain.get("oauth2").map(Spanned::get_ref) {
            check(oauth2, &["client-secret", "refresh-token"])?;
        }
    }
    Ok(())
}

/// Refuses values that JSON does not have. Without this check, a stub would get a date as an object
/// with a private key of the TOML library, and `nan` as `null`.
fn check_json(value: &Spanned<DeValue<'_>>) -> Result<(), Fault> {
    let foreign = match value.get_ref() {
        DeValue::Table(table) => return table.iter().try_for_each(|(_, value)| check_json(value)),
        DeValue::Array(values) => return values.iter().try_for_each(check_json),
        DeValue::Datetime(_) => "is a date, which JSON does not have; write a string",
        DeValue::Float(number) if number.as_str().ends_with(['n', 'f']) => {
            "is not finite, which JSON does not have; write a number or a string"
        }
        _ => return Ok(()),
    };
    Err(Fault::at(&value.span(), Problem::OfKey(foreign.to_owned())))
}

/// Returns the fault of a text that is not TOML.
fn not_toml(text: &str, error: &toml::de::Error) -> Fault {
    let place = error.span();
    let key = place.clone().and_then(|place| text.get(place)).unwrap_or_default().trim_matches(['"', '\'']);
    let problem = match error.message() {
        "duplicate key" => Problem::Whole(format!("`{key}` is set twice; remove one of them")),
        message => Problem::Whole(message.trim_end().replace('\n', " ")),
    };
    Fault { start: place.map(|place| place.start), problem }
}

impl From<toml::de::Error> for Fault {
    fn from(error: toml::de::Error) -> Self {
        let message = error.message().trim_end().replace('\n', " ");
        let unknown = || unknown_field(&message).map(Problem::Whole);
        let problem = unknown().or_else(|| wrong_type(&message)).or_else(|| missing_field(&message));
        Self { start: error.span().map(|span| span.start), problem: problem.unwrap_or(Problem::Whole(message)) }
    }
}

/// Describes an unknown key in a table without keys of the command. serde's message names the key
/// and all known keys.
fn unknown_field(message: &str) -> Option<String> {
    let (key, known) = message.strip_prefix("unknown field `")?.split_once('`')?;
    let known: Vec<_> = known.split('`').skip(1).step_by(2).collect();
    Some(unknown_key(key, &known, &[]))
}

/// Describes a missing key of a table. serde's message names the key.
fn missing_field(message: &str) -> Option<Problem> {
    let (key, _) = message.strip_prefix("missing field `")?.split_once('`')?;
    Some(Problem::OfKey(format!("has no `{key}`; add the key")))
}

/// Describes a value of a wrong type without a string's text, which can be a secret. serde's
/// message is `invalid type: <value>, expected <type>`, with names of Rust's types.
fn wrong_type(message: &str) -> Option<Problem> {
    if message.ends_with("number overflowed") {
        return Some(Problem::OfKey("is too large a number; write a smaller one".to_owned()));
    }
    let wrong = message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "))?;
    let (found, expected) = wrong.rsplit_once(", expected ")?;
    if wrong.starts_with("string ") && message.starts_with("invalid value") {
        // A URL, whose error replaces the type.
        return Some(Problem::OfKey(format!("cannot be used: {expected}")));
    }
    let quoted = || found.split('`').nth(1).unwrap_or_default();
    let found = match found.split([' ', '`']).next().unwrap_or_default() {
        "string" => "a string".to_owned(),
        "sequence" => "a list".to_owned(),
        "map" => "a table".to_owned(),
        "boolean" | "integer" => format!("`{}`", quoted()),
        "floating" => format!("the fraction `{}`", quoted()),
        _ => found.to_owned(),
    };
    let whole_number = |most: String| format!("a whole number from 0 to {most}");
    let expected = match expected {
        "u32" => whole_number(u32::MAX.to_string()),
        "u64" => whole_number(u64::MAX.to_string()),
        "usize" => whole_number(usize::MAX.to_string()),
        "a boolean" => "`true` or `false`".to_owned(),
        "a sequence" => "a list".to_owned(),
        "path string" => "a path".to_owned(),
        "a string representing an URL" => "a URL".to_owned(),
        "a map" => "a table".to_owned(),
        expected if expected.starts_with("struct ") => "a table".to_owned(),
        expected => expected.to_owned(),
    };
    Some(Problem::Type { found, expected })
}

/// Returns the keys that a type reads, as its `Deserialize` declares them.
pub(super) fn keys_of<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut keys: &[&str] = &[];
    // The read fails, because there is no value.
    let _ = T::deserialize(StatedKeys(&mut keys));
    keys
}

/// A deserializer without a value, which records the keys of a struct.
struct StatedKeys<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for StatedKeys<'_> {
    type Error = serde::de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(Self::Error::custom("there is no value"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = fields;
        self.deserialize_any(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
