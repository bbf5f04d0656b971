//! Zeros and huge numbers of all settings: a settings file is refused, or a stub answers.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use protostub_cli::builder_from_settings;
use protostub_runtime::{
    BuildError, DomainSettings, LimitOverrides, Limits, Message, RestartPolicy, RuntimeBuilder, Settings, TotalSettings,
};
use serde_json::Value;
use tokio::time::timeout;

use crate::support::{builder, code_dir, component, domain, source};

const EXAMPLE: &str = include_str!("../../crates/protostub-cli/protostub.example.toml");
/// Time limit of one start with a deployment and an answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Number of runtimes at a time.
const AT_A_TIME: usize = 4;

/// Returns each key of the example whose value is a number, also of commented lines, with its
/// table. Leaves out the settings of single domains.
fn numbers() -> Vec<(String, String)> {
    let mut table = String::new();
    let mut numbers = Vec::new();
    for line in EXAMPLE.lines() {
        let line = line.strip_prefix("# ").unwrap_or(line);
        if let Some(header) = line.strip_prefix('[') {
            table = header.trim_end_matches(']').to_owned();
        } else if let Some((key, _)) = line.split_once(" = ").filter(|(_, value)| value.parse::<i64>().is_ok()) {
            numbers.push((table.clone(), key.to_owned()));
        }
    }
    numbers
}

/// Starts a runtime, deploys a stub and waits for an answer. Returns `false` if the settings were
/// refused.
async fn works(table: &str, key: &str, value: &str) -> bool {
    let dotted = if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") };
    let text = format!("home = 'home.example'\nlifecycle.compile-in-process = true\n{dotted} = {value}\n");
    let builder = match builder_from_settings(&text) {
        Ok(builder) => builder.code_dir(code_dir()).source(source(&["sp1.example"], &component("echo"), &Value::Null)),
        Err(error) => {
            assert!(error.starts_with("protostub.toml:3:") && error.contains(&format!("`{key}`")), "{text}: {error}");
            return false;
        }
    };
    let answer = async {
        let runtime = builder.build().await.unwrap_or_else(|error| panic!("{dotted} = {value}: {error}"));
        let live = runtime.deploy_protostub("sp1.example").await;
        live.unwrap_or_else(|error| panic!("{dotted} = {value}: {error}: {}", error.kind()));
        let app = runtime.register_hyperty("hyperty://home.example/app").await.expect("a hyperty");
        let answer = app.request(Message::read("hyperty://sp1.example/alice".parse().expect("an address"))).await;
        let code = answer.unwrap_or_else(|error| panic!("{dotted} = {value}: {error}")).code();
        assert_eq!(code, Some(200), "{dotted} = {value}");
    };
    timeout(PATIENCE, answer).await.unwrap_or_else(|_| panic!("{dotted} = {value}: no answer"));
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_at_their_ends_work_or_are_refused() {
    let numbers = numbers();
    assert!(numbers.len() > 45, "{numbers:?}");
    let ends = numbers.iter().flat_map(|key| ["0", "4294967295", "9223372036854775807"].map(|value| (key, value)));
    let outcomes: Vec<_> =
        stream::iter(ends).map(|((table, key), value)| works(table, key, value)).buffer_unordered(AT_A_TIME).collect().await;
    let working = outcomes.iter().filter(|works| **works).count();
    assert!(working > 30 && outcomes.len() - working > 30, "{working} of {} work", outcomes.len());
}

#[tokio::test]
async fn builder_refuses_settings_that_cannot_work() {
    let check = async |builder: RuntimeBuilder, expected: &str| {
        let Err(BuildError::Settings(error)) = builder.build().await else { panic!("{expected}: the runtime starts") };
        assert_eq!(error.path.join("."), expected, "{error}");
    };
    let mut settings = Settings::new(domain("home.example"));
    settings.lifecycle.max_stubs = 0;
    check(builder().settings(settings), "lifecycle.max-stubs").await;
    check(builder().request_timeout(Duration::ZERO), "request-timeout-seconds").await;
    check(builder().request_timeout(Duration::from_secs(601)), "request-timeout-seconds").await;
    check(builder().worker_threads(0), "worker-threads").await;
    check(builder().worker_threads(1 << 20), "worker-threads").await;
    check(builder().connect_timeout(Duration::ZERO), "lifecycle.connect-timeout-seconds").await;
    check(builder().compile_memory_bytes(1), "lifecycle.compile-memory-bytes").await;
    check(builder().max_sockets(7), "network.max-sockets").await;
    check(builder().max_sockets(usize::MAX), "network.max-sockets").await;
    check(builder().proxy("ftp://proxy.example".parse().expect("a URL")), "network.proxy").await;
    check(builder().cache_dir(""), "cache.dir").await;
    let mut limits = Limits::default();
    limits.posts_per_second = 0;
    check(builder().limits(limits), "limits.posts-per-second").await;
    let mut limits = Limits::default();
    limits.component_bytes = 1 << 30;
    check(builder().limits(limits.clone()), "limits.component-bytes").await;
    let mut totals = TotalSettings::default();
    totals.max_download_memory_bytes = 1 << 30;
    check(builder().limits(limits).totals(totals), "totals.max-download-memory-bytes").await;
    let mut totals = TotalSettings::default();
    totals.max_memory_bytes = Some(1 << 20);
    check(builder().totals(totals), "totals.max-memory-bytes").await;
    let mut restart = RestartPolicy::default();
    restart.within = Duration::ZERO;
    check(builder().restart(restart), "restart.within-seconds").await;
    let mut limits = LimitOverrides::default();
    limits.memory_bytes = Some(2 << 30);
    let of_domain = DomainSettings::new().limits(limits);
    check(builder().domain(domain("sp1.example"), of_domain), "domains.sp1.example.limits.memory-bytes").await;
    let of_domain = DomainSettings::new().configure("text", "x".repeat(70_000));
    check(builder().domain(domain("sp1.example"), of_domain), "domains.sp1.example.configuration").await;
}
