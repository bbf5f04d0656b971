//! Each key of the example settings with wrong values: a start works, or its error names the line
//! and the key.

use std::{collections::BTreeMap, fs, path::Path};

use toml::{Table, Value};

use super::Settings;

const EXAMPLE: &str = include_str!("../../protostub.example.toml");

/// Values of all types, and the ends of their ranges.
const VALUES: [&str; 20] = [
    "-1",
    "0",
    "9223372036854775807",
    "18446744073709551615",
    "18446744073709551616",
    "99999999999999999999999999999999999999999999",
    "1e3",
    "1e999",
    "nan",
    "\"\"",
    "\"x\"",
    "\"\\u0000\"",
    "\"\\u202e\"",
    "true",
    "[]",
    "[1]",
    "[\"\"]",
    "{}",
    "{ a = 1 }",
    "2026-01-01",
];

/// Parts of errors that operators cannot understand: names of Rust's and of serde's types.
const JARGON: [&str; 12] = [
    "usize",
    "u64",
    "u32",
    "i64",
    "i128",
    "u128",
    "struct ",
    "path string",
    "invalid type",
    "invalid value",
    "newtype",
    "__toml",
];

/// A key, with the tables around it.
type Keys = Vec<String>;

/// Returns all keys of the example, also of its commented lines and of its inline tables, with the
/// example's values.
fn keys() -> BTreeMap<Keys, Value> {
    let mut keys = BTreeMap::new();
    let mut table = Vec::new();
    for line in EXAMPLE.lines() {
        let line = line.strip_prefix("# ").unwrap_or(line);
        let Ok(read) = line.parse::<Table>() else { continue };
        if line.starts_with('[') {
            table = innermost(&read);
            keys.insert(table.clone(), Value::Table(Table::new()));
        } else {
            add(&mut keys, &table, &read);
        }
    }
    keys
}

/// Returns the keys of a table's only inner table, and of that table's.
fn innermost(table: &Table) -> Keys {
    let mut keys = Vec::new();
    let mut table = Some(table);
    while let Some((key, value)) = table.and_then(|table| table.iter().next()) {
        keys.push(key.clone());
        table = value.as_table();
    }
    keys
}

fn add(keys: &mut BTreeMap<Keys, Value>, outer: &[String], table: &Table) {
    for (key, value) in table {
        let path = [outer, std::slice::from_ref(key)].concat();
        if let Value::Table(table) = value {
            add(keys, &path, table);
        }
        keys.insert(path, value.clone());
    }
}

/// Returns `true` if the operator can choose the key and its value.
fn is_free(path: &[String]) -> bool {
    path.iter().rev().skip(1).any(|key| key == "configuration")
}

fn dotted(keys: &[String]) -> String {
    keys.iter().map(|key| format!("'{key}'")).collect::<Vec<_>>().join(".")
}

/// Returns a file in which this line is the only questionable one, and the number of the line.
fn file(path: &[String], line: &str) -> (String, usize) {
    let mut before = String::new();
    let home = ["home".to_owned()];
    if path != home {
        before += "home = 'home.example'\n";
    }
    let domain = path.iter().take(2).cloned().collect::<Vec<_>>();
    let needed: &[(&[&str], &str)] = match path.get(2).map(String::as_str) {
        Some("credential") => &[(&["credential", "kind"], "'bearer'")],
        Some("oauth2") => &[
            (&["oauth2", "token-endpoint"], "'https://login.sp1.example/token'"),
            (&["oauth2", "client-id"], "'protostub'"),
            (&["oauth2", "client-secret", "env"], "'SECRET'"),
        ],
        _ => &[],
    };
    for (keys, value) in needed {
        let needed = [domain.as_slice(), &keys.iter().map(ToString::to_string).collect::<Vec<_>>()].concat();
        // A key can be set once, and `file` replaces `env`.
        let is_other = !needed.starts_with(path) && (path.len() < needed.len() || path[..4] != needed[..4]);
        if is_other {
            before += &format!("{} = {value}\n", dotted(&needed));
        }
    }
    (format!("{before}{line}\n"), before.lines().count() + 1)
}

/// Starts a runtime with these settings, as `protostub run` does. Paths are relative to `folder`.
async fn start(folder: &Path, text: &str) -> Result<(), String> {
    let path = folder.join("protostub.toml");
    fs::write(&path, text).expect("written");
    let settings = Settings::read(&path).map_err(|error| error.to_string())?;
    let builder = settings.builder().map_err(|error| error.to_string())?;
    builder.build().await.map(drop).map_err(|error| settings.explain(error).to_string())
}

/// Checks that an error begins with the place and names the key, in words for operators. `set` is
/// the line with the key.
fn check_error(folder: &Path, error: &str, line: usize, path: &[String], set: &str) {
    let place = format!("{}:{line}:", folder.join("protostub.toml").display());
    assert!(error.starts_with(&place), "no line {line} in the error of {set}: {error}");
    let key = path.last().expect("a key");
    // The key in an inline table is nearer.
    let is_named = error.contains(&format!("`{key}`")) || (set.ends_with("{ a = 1 }") && error.contains("`a`"));
    assert!(is_named, "no key `{key}` in the error of {set}: {error}");
    let jargon = JARGON.into_iter().find(|word| error.contains(word));
    assert_eq!(jargon, None, "{set}: {error}");
    assert!(!error.contains('\n') && !error.contains('\u{202e}'), "{set}: {error:?}");
}

#[test]
fn example_has_a_known_key_of_each_kind() {
    let keys = keys();
    assert!(keys.len() > 90, "{}", keys.len());
    for known in [
        &["home"] as &[&str],
        &["worker-threads"],
        &["network", "max-sockets"],
        &["limits", "timers"],
        &["domains", "sp1.example", "credential", "env"],
        &["domains", "sp1.example", "limits", "memory-bytes"],
        &["domains", "sp1.example", "oauth2", "client-secret", "file"],
    ] {
        assert!(keys.contains_key(&known.iter().map(ToString::to_string).collect::<Keys>()), "{known:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_key_with_wrong_values_starts_or_names_line_and_key() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut accepted, mut refused) = (0, 0);
    for path in keys().keys() {
        for value in VALUES {
            let set = format!("{} = {value}", dotted(path));
            let (text, line) = file(path, &set);
            match start(folder.path(), &text).await {
                Ok(()) => accepted += 1,
                Err(error) => {
                    refused += 1;
                    check_error(folder.path(), &error, line, path, &set);
                }
            }
        }
    }
    assert!(accepted > 100 && refused > 1000, "{accepted} accepted, {refused} refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_key_of_another_type_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    for (path, example) in keys() {
        for other in ["'x'", "1", "1.5", "true", "[1]", "{}"] {
            let is_same = format!("x = {other}").parse::<Table>().expect("TOML")["x"].same_type(&example);
            let is_time = path.ends_with(&["retire-after-seconds".to_owned()]) && other == "1";
            if is_same || is_free(&path) || is_time {
                continue;
            }
            let set = format!("{} = {other}", dotted(&path));
            let (text, line) = file(&path, &set);
            let error = start(folder.path(), &text).await.expect_err(&set);
            check_error(folder.path(), &error, line, &path, &set);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_key_set_twice_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    for (path, value) in keys() {
        let set = format!("{} = {value}", dotted(&path));
        let (text, line) = file(&path, &format!("{set}\n{set}"));
        let error = start(folder.path(), &text).await.expect_err("one key has two values");
        check_error(folder.path(), &error, line + 1, &path, &set);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zeros_that_can_never_work_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    // Zero is a value with a meaning for these keys: the example and SECURITY.md have it.
    let meaningful = [
        "max-offline-seconds",
        "retire-after-seconds",
        "deployments-per-minute",
        "grace-seconds",
        "times",
        "first-pause-milliseconds",
        "longest-pause-milliseconds",
        "resource-handles",
        "random-bytes",
        "batch-bytes",
        "log-lines-per-second",
        "log-line-bytes",
        "log-bytes-per-day",
        "crash-reports-per-hour",
        "max-log-bytes-per-day",
        "max-crash-reports-per-hour",
        "max-kept-crash-reports",
        "timers",
        "identity-requests",
        "connections",
    ];
    let mut refused = Vec::new();
    for (path, value) in keys() {
        if !value.is_integer() && !path.ends_with(&["retire-after-seconds".to_owned()]) {
            continue;
        }
        let key = path.last().expect("a key").clone();
        let (text, _) = file(&path, &format!("{} = 0", dotted(&path)));
        let is_accepted = start(folder.path(), &text).await.is_ok();
        assert_eq!(is_accepted, is_free(&path) || meaningful.contains(&key.as_str()), "{path:?}");
        if !is_accepted {
            refused.push(key);
        }
    }
    for key in ["request-timeout-seconds", "connect-timeout-seconds", "max-stubs", "body-bytes", "posts-per-second"] {
        assert!(refused.iter().any(|refused| refused == key), "{key}: {refused:?}");
    }
}
