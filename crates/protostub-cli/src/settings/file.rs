//! A settings file: [`Settings`] of the library, with keys of the command in the same tables.
//!
//! The command removes its own keys from each table and leaves the rest to the library. So each key
//! has one definition, and every error keeps its place in the file.

use std::{ops::Range, path::PathBuf};

use protostub_runtime::{CacheSettings, DomainSettings, LifecycleSettings, NetworkSettings, Settings, trust::TrustPolicy};
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
}

/// An error in a settings file, and its place.
#[derive(Debug)]
struct Fault {
    start: usize,
    problem: String,
}

impl File {
    /// Reads the text of a file. The error begins with its place, `line:column`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        Self::read(text).map_err(|fault| fault.in_words(text))
    }

    fn read(text: &str) -> Result<Self, Fault> {
        let mut root = DeTable::parse(text)?;
        let tables = root.get_mut();
        move_keys(tables)?;
        let command = take::<_, Settings>(tables, &MOVED)?;
        let network = take_in::<_, NetworkSettings>(tables, "network")?;
        let lifecycle = take_in::<_, LifecycleSettings>(tables, "lifecycle")?;
        let trust = take_in::<_, TrustPolicy>(tables, "trust")?;
        let NoKeys {} = take_in::<_, CacheSettings>(tables, "cache")?;
        let mut domains = Vec::new();
        if let Some(DeValue::Table(table)) = tables.get_mut("domains").map(Spanned::get_mut) {
            for spelling in table.keys().map(|key| key.get_ref().to_string()).collect::<Vec<_>>() {
                let keys = take_in::<_, DomainSettings>(table, &spelling)?;
                domains.push((spelling, keys));
            }
        }
        let library = Settings::deserialize(toml::Deserializer::from(root))?;
        // The library has already refused spellings that are not domains.
        let domains = domains.into_iter().filter_map(|(spelling, keys)| Some((spelling.parse().ok()?, keys))).collect();
        Ok(Self { library, command, network, lifecycle, trust, domains })
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
            return Err(Fault::at(place, problem));
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
        return Err(Fault::at(key.span(), unknown_key(key.get_ref(), &[library, own].concat(), moved)));
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

impl Fault {
    fn at(place: Range<usize>, problem: String) -> Self {
        Self { start: place.start, problem }
    }

    /// Returns the problem with its place. The text shows no line of the file, because such files
    /// can contain secrets.
    fn in_words(&self, text: &str) -> String {
        let before = text.get(..self.start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |end| end + 1);
        let line = before.matches('\n').count() + 1;
        let column = before[line_start..].chars().count() + 1;
        format!("{line}:{column}: {}", self.problem)
    }
}

impl From<toml::de::Error> for Fault {
    fn from(error: toml::de::Error) -> Self {
        let problem = unknown_field(error.message()).unwrap_or_else(|| without_value(error.message()));
        Self { start: error.span().map_or(0, |span| span.start), problem }
    }
}

/// Describes an unknown key in a table without keys of the command. serde's message names the key
/// and all known keys.
fn unknown_field(message: &str) -> Option<String> {
    let (key, known) = message.strip_prefix("unknown field `")?.split_once('`')?;
    let known: Vec<_> = known.split('`').skip(1).step_by(2).collect();
    Some(unknown_key(key, &known, &[]))
}

/// Removes the string from `invalid type: string "…", expected …`.
fn without_value(message: &str) -> String {
    let message = message.trim_end().replace('\n', " ");
    match message.strip_prefix("invalid type: string \"").and_then(|rest| rest.rsplit_once("\", expected ")) {
        Some((_, expected)) => format!("invalid type: string, expected {expected}"),
        None => message,
    }
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
