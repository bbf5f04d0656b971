//! Tests of the settings file against its example, its documents and its errors.

use std::collections::BTreeMap;

use protostub_runtime::{
    CacheSettings, LifecycleSettings, LimitOverrides, Limits, NetworkSettings, RestartOverrides, RestartPolicy, Retire,
    TotalSettings,
};

use super::{
    file::{CommandKeys, LifecycleKeys, NetworkKeys, TrustKeys, keys_of},
    *,
};
use crate::credentials::Place;

#[test]
fn example_settings_state_the_defaults() {
    let settings = Settings::read(Path::new("protostub.example.toml")).unwrap();
    let runtime = &settings.runtime;
    assert_eq!((runtime.home.as_ref().map(Domain::as_str), runtime.domains.len()), (Some("home.example"), 1));
    // The values in the example are the defaults.
    let defaults = RuntimeSettings::default();
    assert_eq!((runtime.request_timeout, runtime.max_queued_bytes), (defaults.request_timeout, defaults.max_queued_bytes));
    assert_eq!((&runtime.limits, &runtime.totals), (&defaults.limits, &defaults.totals));
    assert_eq!(runtime.restart, defaults.restart);
    assert_eq!((&runtime.network, &runtime.lifecycle), (&defaults.network, &defaults.lifecycle));
    let mut cache = runtime.cache.clone();
    assert_eq!(cache.dir.take(), Some("cache".into()));
    assert_eq!(cache, defaults.cache);
    for settings in runtime.domains.values() {
        assert_eq!((&settings.limits, &settings.restart), (&LimitOverrides::default(), &RestartOverrides::default()));
    }
    let _builder = settings.builder().unwrap();
}

#[test]
fn credential_in_two_places_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("protostub.toml");
    fs::write(folder.path().join("secret"), "open sesame").unwrap();
    let check = |text: &str, expected: &str| {
        fs::write(&file, format!("home = 'home.example'\n[domains.'sp1.example']\n{text}")).unwrap();
        let error = Settings::read(&file).and_then(|settings| settings.builder()).err();
        let error = error.map_or_else(|| "fine".to_owned(), |error| error.to_string());
        assert!(error.contains(expected) && !error.contains("sesame"), "{text}: {error}");
    };
    check("credential = { kind = 'bearer', file = 'secret' }", "fine");
    check("credential = { kind = 'bearer', env = 'SP1_TOKEN' }", "fine");
    check("credential = { kind = 'bearer' }", "fine");
    check("credential = { kind = 'bearer', file = 'secret', env = 'SP1_TOKEN' }", "`credential` has both `file` and `env`");
    check("credential = { file = 'secret' }", "`credential` has no `kind`; add the key");
    let oauth2 = |rest: &str| format!("oauth2 = {{ token-endpoint = 'https://sp1.example/token', client-id = 'a'{rest} }}");
    check(&oauth2(", client-secret = { file = 'secret' }"), "fine");
    check(&oauth2(", refresh-token = { env = 'SP1_REFRESH' }, scopes = ['chat'], parameters = { audience = 'b' }"), "fine");
    check(&oauth2(""), "`oauth2` needs a `client-secret`, a `refresh-token`, or both");
    check(&oauth2(", client-secret = {}"), "`client-secret` needs `file` or `env`");
    check(
        &oauth2(", client-secret = 'open sesame'"),
        "`client-secret` is a string; write `{ file = \"…\" }` or `{ env = \"…\" }`",
    );
    check(&oauth2(", refresh-token = { file = 'none' }"), "none: No such file");
    let both = format!("credential = {{ kind = 'bearer' }}\n{}", oauth2(", client-secret = { file = 'secret' }"));
    check(&both, "has both `credential` and `oauth2`");
}

#[test]
fn every_settings_key_is_in_the_example() {
    let example = fs::read_to_string("protostub.example.toml").unwrap();
    let keys: Vec<_> = [
        keys_of::<RuntimeSettings>(),
        keys_of::<CommandKeys>(),
        keys_of::<NetworkSettings>(),
        keys_of::<NetworkKeys>(),
        keys_of::<CacheSettings>(),
        keys_of::<LifecycleSettings>(),
        keys_of::<LifecycleKeys>(),
        keys_of::<TrustPolicy>(),
        keys_of::<TrustKeys>(),
        keys_of::<DomainSettings>(),
        keys_of::<DomainKeys>(),
        keys_of::<Limits>(),
        keys_of::<TotalSettings>(),
        keys_of::<RestartPolicy>(),
        keys_of::<Credential>(),
        keys_of::<OAuth2>(),
        keys_of::<Place>(),
    ]
    .concat();
    assert!(keys.len() > 90, "{keys:?}");
    for key in keys {
        let stands = |line: &str| line.trim_start_matches("# ").starts_with(&format!("{key} ="));
        let in_line = [format!("[{key}]"), format!("[{key}."), format!(".{key}]"), format!("{{ {key} ="), format!(", {key} =")];
        assert!(example.lines().any(stands) || in_line.iter().any(|form| example.contains(form)), "{key}");
    }
}

/// The rows of the table in SECURITY.md, by the setting's key: `| \`timers\` | 256 | … |`.
#[test]
fn security_document_lists_every_limit_and_default() {
    let text = fs::read_to_string("../../SECURITY.md").unwrap();
    let rows: BTreeMap<_, _> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .filter_map(|(key, rest)| Some((key, rest.split_once(" | ")?.0)))
        .collect();
    let example: toml::Table = toml::from_str(&fs::read_to_string("protostub.example.toml").unwrap()).unwrap();
    let limits = example["limits"].as_table().unwrap();
    let documented = |key: &str| rows.get(key).map(|default| default.replace(' ', ""));
    for (key, default) in limits {
        assert_eq!(documented(key), Some(default.to_string()), "{key}");
    }
    let of_runtime = ["max-accepted-versions", "max-accepted-versions-per-domain", "max-key-sets", "max-key-sets-per-domain"];
    for key in of_runtime {
        assert_eq!(documented(key), Some(example["cache"][key].to_string()), "{key}");
    }
    for (key, default) in example["totals"].as_table().unwrap() {
        assert_eq!(documented(key), Some(default.to_string()), "{key}");
    }
    assert!(rows.contains_key("max-memory-bytes"));
}

#[test]
fn wrong_setting_error_states_its_place_without_secrets() {
    let check = |text: &str, expected: &str| {
        let error = Settings::parse(Path::new("protostub.toml"), text).unwrap_err();
        assert_eq!(error.to_string(), format!("protostub.toml:{expected}"));
    };
    check("hom = 'home.example'", "1:1: unknown key `hom`; did you mean `home`?");
    check("home = 'é'\n\n  max_stubs = 3", "3:3: unknown key `max_stubs`; did you mean `max-stubs` in [lifecycle]?");
    check(
        "[domains.'sp1.example']\npassword = 'hunter2'",
        "2:1: unknown key `password`; the keys here are configuration, grants, relays, may-deploy, imports, allow-private, allow-loopback, waive-digest, allow-older, register, signatures, retire-after-seconds, restart, limits, credential-origins, trusted-keys, credential, oauth2",
    );
    check(
        "[domains.'sp1.example']\ncredential = 'hunter2'",
        "2:14: `credential` is a string; write `{ kind = \"…\", file = \"…\" }`",
    );
    check(
        "[trust]\nsignatures = 'sometimes'",
        "2:14: `signatures`: `sometimes` is not a mode: write `off`, `verify-if-present` or `require`",
    );
    check("max-stubs = 'many'", "1:13: `max-stubs` is a string; write a whole number from 0 to 18446744073709551615");
    check(
        "[domains.'sp1.example']\ngrants = ['a.example:443', 'everything']",
        "2:10: `grants`: `everything` is not a rule: the port is missing; write `host:port`, `*.host:port` or `host:port plain`",
    );
    check(
        "[domains.'sp1.example']\nmay-deploy = ['*.com']",
        "2:14: `may-deploy`: `*.com` is not a domain pattern: the domains below `com` belong to different owners; write `sp1.example`, `*.sp1.example` or `*`",
    );
    check("[lifecycle]\nmax-stub = 3", "2:1: unknown key `max-stub`; did you mean `max-stubs`?");
    check("[limits]\ntimer = 3", "2:1: unknown key `timer`; did you mean `timers`?");
    check("[domains.'sp1.example']\nlimits = { timer = 3 }", "2:12: unknown key `timer`; did you mean `timers`?");
    check("network = 3", "1:11: `network` is `3`; write a table");
    check("proxy = 3\nnetwork = 3", "2:11: `network` is `3`; write a table");
    check(
        "max-stubs = 3\n[lifecycle]\nmax-stubs = 3",
        "1:1: `max-stubs` is set twice: here, and as `max-stubs` in [lifecycle]; remove one of them",
    );
    check("cache-dir = 'a'\ncache.dir = 'b'", "1:1: `cache-dir` is set twice: here, and as `dir` in [cache]; remove one of them");
    check(
        "[lifecycle]\nretire-after-seconds = 'soon'",
        "2:24: `retire-after-seconds` is a string; write a number of seconds or `\"never\"`",
    );
    check("retire-after-seconds = -1", "1:24: `retire-after-seconds` is `-1`; write a number of seconds or `\"never\"`");
    check("cache-dir = ''", "1:13: `cache-dir` is empty; name a path, or remove the key");
    check("cache.dir = ''", "1:13: `dir` is empty; name a path, or remove the key");
    check("max-stubs = 0", "1:13: `max-stubs` is 0, but no stub could be deployed; set at least 1");
    check(
        "[limits]\nframe-bytes = 5000000",
        "2:15: `frame-bytes` is 5000000, more than `hostcall-bytes`; set at most 4194304, or raise that too: a permitted frame or body would end the stub",
    );
    check(
        "[domains.'SP1.example']\nlimits = { body-bytes = 0 }",
        "2:25: `body-bytes` is 0, but the stub could not post any body; set at least 1",
    );
    check(
        "[domains.'sp1.example'.configuration]\nsince = 2026-01-01",
        "2:9: `since` is a date, which JSON does not have; write a string",
    );
    check("worker-threads = 1\nworker-threads = 2", "2:1: `worker-threads` is set twice; remove one of them");
    check("grace-seconds = -1", "1:17: `grace-seconds` is `-1`; write a whole number from 0 to 18446744073709551615");
}

#[test]
fn old_keys_equal_grouped_keys() {
    let old = "
        home = 'home.example'
        cache-dir = 'cache'
        cache-key = 'key'
        max-offline-seconds = 1
        max-accepted-versions = 2
        max-accepted-versions-per-domain = 3
        max-key-sets = 4
        max-key-sets-per-domain = 5
        allow-loopback = true
        allow-http = true
        trust-roots = ['root']
        proxy = 'http://proxy.example'
        max-sockets = 16
        max-stubs = 7
        max-sandboxes = 8
        retire-after-seconds = 9
        deployments-per-minute = 10
        compile-timeout-seconds = 11
        compile-memory-bytes = 120000000
        compile-in-process = true
        connect-timeout-seconds = 13
        grace-seconds = 14
    ";
    let new = "
        home = 'home.example'
        [cache]
        dir = 'cache'
        key = 'key'
        max-offline-seconds = 1
        max-accepted-versions = 2
        max-accepted-versions-per-domain = 3
        max-key-sets = 4
        max-key-sets-per-domain = 5
        [network]
        allow-loopback = true
        allow-http = true
        trust-roots = ['root']
        proxy = 'http://proxy.example'
        max-sockets = 16
        [lifecycle]
        max-stubs = 7
        max-sandboxes = 8
        retire-after-seconds = 9
        deployments-per-minute = 10
        compile-timeout-seconds = 11
        compile-memory-bytes = 120000000
        compile-in-process = true
        connect-timeout-seconds = 13
        grace-seconds = 14
    ";
    let [old, new] = [old, new].map(|text| Settings::parse(Path::new("protostub.toml"), text).unwrap());
    assert_eq!(format!("{old:?}"), format!("{new:?}"));
    let lifecycle = &new.runtime.lifecycle;
    assert_eq!((lifecycle.retire_after, lifecycle.grace), (Retire::After(Duration::from_secs(9)), Duration::from_secs(14)));
    assert_eq!((new.runtime.cache.dir, new.trust_roots), (Some("cache".into()), vec!["root".into()]));
}

#[test]
fn retire_never_is_distinct_from_inherit() {
    let check = |text: &str, expected: Option<Retire>| {
        let text = format!("[domains.'sp1.example']\n{text}");
        let settings = Settings::parse(Path::new("protostub.toml"), &text).unwrap();
        assert_eq!(settings.runtime.domains.values().next().unwrap().retire_after, expected, "{text}");
    };
    check("", None);
    check("retire-after-seconds = 'never'", Some(Retire::Never));
    check("retire-after-seconds = 0", Some(Retire::Never));
    check("retire-after-seconds = 5", Some(Retire::After(Duration::from_secs(5))));
}

#[test]
fn domain_limits_override_those_of_the_runtime() {
    let text = "
        [limits]
        timers = 1
        inbox-messages = 2
        [restart]
        times = 3
        [domains.'sp1.example']
        limits = { timers = 4, time-per-call-milliseconds = 5 }
        restart = { within-seconds = 6 }
    ";
    let settings = Settings::parse(Path::new("protostub.toml"), text).unwrap().runtime;
    let domain = settings.domains.values().next().unwrap();
    let mut limits = Limits::default();
    (limits.timers, limits.inbox_messages, limits.time_per_call) = (4, 2, Duration::from_millis(5));
    assert_eq!(domain.limits.over(&settings.limits), limits);
    let restart = domain.restart.over(&settings.restart);
    assert_eq!((restart.restarts, restart.within), (3, Duration::from_secs(6)));
}
