//! Many deployments at once.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures_util::future::try_join_all;
use protostub_catalogue::{Document, Fault, Request, Source};
use protostub_runtime::MemorySource;
use serde_json::Value;

use crate::support::{builder, component, soon, source};

const THREADS: usize = 4;
const STUBS: usize = 64;
/// Computing time of the source for each document.
const COMPUTES: Duration = Duration::from_millis(1);

/// A source that computes for each document, and counts the threads that do so at a time.
#[derive(Debug)]
struct Computing {
    source: MemorySource,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    now: AtomicUsize,
    most: AtomicUsize,
    all: AtomicUsize,
}

#[async_trait]
impl Source for Computing {
    async fn open(&self, request: &Request<'_>) -> Result<Document, Fault> {
        let Counts { now, most, all } = &*self.counts;
        most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
        let begin = Instant::now();
        while begin.elapsed() < COMPUTES {
            // Another thread gets the processor, also if there is only one.
            std::thread::yield_now();
        }
        now.fetch_sub(1, SeqCst);
        all.fetch_add(1, SeqCst);
        self.source.open(request).await
    }
}

/// A source that never answers for some domains.
#[derive(Debug)]
struct Silent {
    source: MemorySource,
    domains: HashSet<String>,
}

#[async_trait]
impl Source for Silent {
    async fn open(&self, request: &Request<'_>) -> Result<Document, Fault> {
        if self.domains.contains(request.domain.as_str()) {
            std::future::pending::<()>().await;
        }
        self.source.open(request).await
    }
}

fn names() -> Vec<String> {
    (0..STUBS).map(|number| format!("sp{number}.example")).collect()
}

fn echoes(names: &[String]) -> MemorySource {
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    source(&names, &component("echo"), &Value::Null)
}

#[tokio::test]
async fn half_of_the_threads_deploy_a_herd() {
    let (names, counts) = (names(), Arc::<Counts>::default());
    let source = Computing { source: echoes(&names), counts: Arc::clone(&counts) };
    let runtime = builder().worker_threads(THREADS).source(source).build().await.expect("a runtime");
    let deployed = soon(try_join_all(names.iter().map(|name| runtime.deploy_protostub(name)))).await.expect("all stubs");
    assert_eq!(deployed.len(), STUBS);
    let (most, all) = (counts.most.load(SeqCst), counts.all.load(SeqCst));
    assert!(most <= THREADS / 2 && all >= STUBS, "{most} threads computed deployments at a time, for {all} documents");
}

#[tokio::test]
async fn deployments_that_wait_delay_no_other() {
    let mut names = names();
    let last = names.pop().expect("a name");
    let all: Vec<_> = names.iter().cloned().chain([last.clone()]).collect();
    let source = Silent { source: echoes(&all), domains: names.iter().cloned().collect() };
    let runtime = builder().worker_threads(THREADS).source(source).build().await.expect("a runtime");
    let mut waiting = std::pin::pin!(try_join_all(names.iter().map(|name| runtime.deploy_protostub(name))));
    assert!(futures_util::poll!(&mut waiting).is_pending());
    soon(runtime.deploy_protostub(&last)).await.expect("a stub");
    assert!(futures_util::poll!(&mut waiting).is_pending());
}
