//! The case of every environment, from its first release to its last message.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use futures_util::FutureExt as _;
use protostub_artifacts::component;
use protostub_runtime::{BusCounts, Domain, Hyperty, MemorySource, Message, Runtime, RuntimeBuilder, StubStatus};
use protostub_test_support::publish;
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    Names,
    names::Silence,
    process::Child,
    releases::{FIRST, LAST, NEW, OLD, Publisher, Release, UNSIGNED},
};
use crate::{Load, Neighbours, percentile};

/// Deadline of a request, and the additional delay on a busy machine.
const DEADLINE: Duration = Duration::from_secs(5);
const SLACK: Duration = Duration::from_secs(5);
/// Number of requests to each domain with each release, and the time between them.
const REQUESTS: u32 = 4;
const PERIOD: Duration = Duration::from_millis(50);
/// Time before the failure in which the neighbours are measured.
const QUIET: Duration = Duration::from_millis(500);
/// Time limit for the recovery, and for a shutdown.
const RECOVERY: Duration = Duration::from_secs(60);
/// Number of lookups during the silence: more than the system resolver runs at a time.
const LOOKUPS: usize = 40;
/// A server for which the stub has no grant.
const ELSEWHERE: &str = "wss://elsewhere.example/";

/// The outcome of a request.
enum Ended {
    Answered(Release),
    /// Failed with this code.
    Told(u16),
    Nothing,
}

/// The counts and the escapes of a case.
#[derive(Default)]
struct Findings {
    asked: u64,
    answered: u64,
    told: BTreeMap<u16, u64>,
    without_outcome: u64,
    refused_releases: u64,
    escapes: Vec<String>,
}

/// The domains, and the highest accepted release of each.
struct Victims {
    source: MemorySource,
    publisher: Publisher,
    domains: Vec<Domain>,
    accepted: Vec<Option<Release>>,
    findings: Findings,
}

/// Runs the case and returns the verdict.
pub(super) async fn run(child: &Child) -> Result<Value> {
    let mut victims = Victims::new(child.scale.domains)?;
    let silence = Silence::default();
    if child.environment.names == Names::System {
        silence.serve().context("the name service of this network")?;
    }
    let builder = || -> RuntimeBuilder {
        let builder = Runtime::builder().home_domain("home.example").cache_dir(child.cache()).code_dir(&child.code_dir);
        let builder = builder.source(victims.source.clone()).trust(victims.publisher.trusted_by(&victims.domains));
        let builder = builder.deployments_per_minute(1_000_000).request_timeout(Duration::from_secs(15));
        if child.environment.names == Names::Own { builder.resolver(silence.clone()) } else { builder }
    };
    let (first, next, last) = (builder(), builder(), builder());
    let runtime = first.build().await.context("a runtime, while all is well")?;
    let neighbours = neighbours(&runtime, &victims.source, child.scale.neighbours).await?;
    let stranger = Stranger::new(&runtime, &victims.source).await?;
    let app = Arc::new(runtime.register_hyperty("hyperty://home.example/asker").await?);

    victims.offer(&runtime, &app, |_| FIRST).await?;
    let accepted = victims.accepted.iter().filter(|accepted| **accepted == Some(FIRST)).count();
    ensure!(accepted == victims.domains.len(), "while all is well, {accepted} of {} domains answered", victims.domains.len());

    let load = Load::begin(&runtime, &neighbours).await?;
    let quiet = Instant::now();
    sleep(QUIET).await;
    let recover = (child.environment.fail)(child, &silence).context("the failure")?;
    let failed = Instant::now();
    // A third of the domains each: an older version, one without a signature, and a new one.
    victims.offer(&runtime, &app, |n| [OLD, UNSIGNED, NEW][n % 3]).await?;
    stranger.reach(&app, &mut victims.findings).await;
    victims.offer(&runtime, &app, |_| FIRST).await?;
    if child.environment.names != Names::Unused {
        look_up(&app, LOOKUPS, "before", &mut victims.findings).await;
        ensure!(silence.unanswered() > 0, "the name service was not asked");
    }
    let mut restarted = "a new runtime is refused";
    if child.environment.records_remain {
        // The new runtime may refuse to start. Otherwise it knows the accepted releases.
        if let Ok(Ok(other)) = timeout(RECOVERY, next.build()).await {
            restarted = "a new runtime starts";
            let app = Arc::new(other.register_hyperty("hyperty://home.example/asker").await?);
            victims.offer(&other, &app, |n| [OLD, UNSIGNED, FIRST][n % 3]).await?;
            end(other, &mut victims.findings).await;
        }
    }
    let recovered = Instant::now();
    recover().context("the recovery")?;

    victims.recover(&runtime, &app).await?;
    if child.environment.names != Names::Unused {
        look_up_again(&app, &mut victims.findings).await;
    }
    let sum = load.end().await;
    if sum.lost > 0 {
        let fault = sum.fault.as_deref().unwrap_or_default();
        victims.escapes(format!("{} of {} requests to neighbours were lost: {fault}", sum.lost, sum.asked));
    }
    if let Err(harmed) = neighbours.check() {
        victims.escapes(harmed.to_string());
    }
    drop(app);
    stranger.end(&mut victims.findings);
    settle(&runtime, &mut victims.findings).await;
    drop(neighbours);
    end(runtime, &mut victims.findings).await;

    // The next process knows the last accepted release.
    let runtime = last.build().await.context("a runtime, after the recovery")?;
    let app = Arc::new(runtime.register_hyperty("hyperty://home.example/asker").await?);
    victims.offer(&runtime, &app, |n| [OLD, UNSIGNED, FIRST][n % 3]).await?;
    drop(app);
    end(runtime, &mut victims.findings).await;

    let (mut before, mut during) = (sum.latencies(quiet..failed), sum.latencies(failed..recovered));
    let findings = victims.findings;
    let milliseconds = |duration: Duration| duration.as_secs_f64() * 1e3;
    Ok(json!({
        "environment": child.environment.name,
        "contained": findings.escapes.is_empty(),
        "how": format!("{} releases refused; {restarted}", findings.refused_releases),
        "requests": findings.asked,
        "answered": findings.answered,
        "toldOtherwise": findings.told,
        "withoutOutcome": findings.without_outcome,
        "neighbours": {
            "p99BeforeMilliseconds": milliseconds(percentile(&mut before, 99)),
            "p99DuringMilliseconds": milliseconds(percentile(&mut during, 99)),
            "requests": sum.asked,
            "lost": sum.lost,
        },
        "escapes": findings.escapes,
    }))
}

/// Deploys the neighbours: stubs that only answer.
async fn neighbours(runtime: &Runtime, source: &MemorySource, count: usize) -> Result<Neighbours> {
    let echo = component("echo");
    let mut stubs = Vec::new();
    for n in 0..count {
        let domain = Domain::parse(&format!("n{n}.neighbour.example"))?;
        publish(source, domain.as_str(), "1.0", &echo, Value::Null);
        stubs.push(runtime.deploy_protostub(domain.as_str()).await?);
    }
    Ok(Neighbours(stubs))
}

/// Sends requests to domains whose names no service resolves. Each request needs its outcome.
async fn look_up(app: &Arc<Hyperty>, count: usize, when: &str, findings: &mut Findings) {
    let mut requests = JoinSet::new();
    for n in 0..count {
        let (app, to) = (Arc::clone(app), format!("hyperty://u{n}.{when}.unknown.example/x"));
        requests.spawn(async move { ask(&app, &to).await });
    }
    while let Some(Ok(ended)) = requests.join_next().await {
        if let Ended::Answered(_) = ended {
            findings.escapes.push("the stub of an unresolved name has answered".to_owned());
        }
        findings.count(&ended);
    }
}

/// Sends requests until one gets another outcome than a timeout: the name service answers again.
async fn look_up_again(app: &Hyperty, findings: &mut Findings) {
    let begin = Instant::now();
    let mut n = 0;
    while begin.elapsed() < RECOVERY {
        let ended = ask(app, &format!("hyperty://u{n}.after.unknown.example/x")).await;
        findings.count(&ended);
        if matches!(ended, Ended::Told(code) if code != 408) {
            return;
        }
        n += 1;
    }
    findings.escapes.push(format!("no name was resolved within {RECOVERY:?} after the name service recovered"));
}

async fn ask(app: &Hyperty, to: &str) -> Ended {
    let request = Message::read(to.parse().unwrap()).with_body(json!({ "do": "configuration" }));
    match timeout(DEADLINE + SLACK, app.request_within(request, DEADLINE)).await {
        Err(_) => Ended::Nothing,
        Ok(Err(error)) => Ended::Told(error.code),
        Ok(Ok(answer)) => match Release::of_answer(answer.body.as_ref()) {
            Some(release) => Ended::Answered(release),
            None => Ended::Told(answer.code().unwrap_or_default()),
        },
    }
}

/// Waits until each accepted message has exactly one outcome.
async fn settle(runtime: &Runtime, findings: &mut Findings) {
    let begin = Instant::now();
    loop {
        let counts = runtime.counts();
        let BusCounts { accepted, delivered, published, answered, failed, abandoned, open, unawaited, .. } = counts;
        let outcomes = delivered + published + answered + failed + abandoned;
        if open == 0 && accepted == outcomes && unawaited == 0 {
            return;
        }
        if begin.elapsed() > 2 * DEADLINE {
            findings.escapes.push(format!("messages have no outcome, or more than one: {counts:?}"));
            return;
        }
        sleep(PERIOD).await;
    }
}

async fn end(runtime: Runtime, findings: &mut Findings) {
    let ended = runtime.shutdown(RECOVERY).await;
    if !ended.abandoned.is_empty() {
        findings.escapes.push(format!("stubs did not end: {:?}", ended.abandoned));
    }
}

impl Findings {
    fn count(&mut self, ended: &Ended) {
        self.asked += 1;
        match ended {
            Ended::Answered(_) => self.answered += 1,
            Ended::Told(code) => *self.told.entry(*code).or_default() += 1,
            Ended::Nothing => {
                self.without_outcome += 1;
                self.escapes.push(format!("a request had no outcome within {DEADLINE:?}"));
            }
        }
    }
}

impl Victims {
    fn new(count: usize) -> Result<Self> {
        let domains: Result<Vec<_>, _> = (0..count).map(|n| Domain::parse(&format!("v{n}.victim{n}.example"))).collect();
        let (source, publisher) = (MemorySource::new(), Publisher::new()?);
        Ok(Self { source, publisher, domains: domains?, accepted: vec![None; count], findings: Findings::default() })
    }

    fn escapes(&mut self, problem: String) {
        self.findings.escapes.push(problem);
    }

    /// Publishes a release for each domain, and sends requests to its stub at fixed times. The
    /// first request deploys the stub. Undeploys all stubs at the end.
    async fn offer(&mut self, runtime: &Runtime, app: &Arc<Hyperty>, release: impl Fn(usize) -> Release) -> Result<()> {
        for (n, domain) in self.domains.iter().enumerate() {
            self.publisher.publish(&self.source, domain, release(n))?;
        }
        let begin = Instant::now();
        let mut requests = JoinSet::new();
        for (n, domain) in self.domains.iter().enumerate() {
            for k in 0..REQUESTS {
                let (app, to) = (Arc::clone(app), format!("hyperty://{domain}/x"));
                requests.spawn(async move {
                    sleep_until(begin + k * PERIOD).await;
                    (n, ask(&app, &to).await)
                });
            }
        }
        let mut answered = vec![false; self.domains.len()];
        while let Some(ended) = requests.join_next().await {
            let (n, ended) = ended?;
            self.findings.count(&ended);
            if let Ended::Answered(release) = ended {
                answered[n] = true;
                self.accept(n, release);
            }
        }
        for (n, answered) in answered.into_iter().enumerate() {
            let Some(stub) = runtime.protostub(&runtime.stub_key(self.domains[n].as_str())?) else {
                self.findings.refused_releases += u64::from(!answered);
                continue;
            };
            let version = stub.version().filter(|_| stub.status().status == StubStatus::Live);
            if let Some(release) = version.and_then(|version| Release::of_version(version.as_str())) {
                self.accept(n, release);
            }
            if timeout(RECOVERY, stub.undeploy()).await.is_err() {
                self.escapes(format!("the stub of {} cannot be undeployed", stub.domain()));
            }
        }
        Ok(())
    }

    /// Records that a release was live.
    fn accept(&mut self, n: usize, release: Release) {
        match self.accepted[n] {
            Some(before) if release.is_less_than(before) => {
                let escape = format!("{}: {release:?} was accepted after {before:?}", self.domains[n]);
                if !self.findings.escapes.contains(&escape) {
                    self.findings.escapes.push(escape);
                }
            }
            _ => self.accepted[n] = Some(release),
        }
    }

    /// Publishes the next release of each domain and waits until its stub answers.
    /// A refusal during the failure must not count against the domain.
    async fn recover(&mut self, runtime: &Runtime, app: &Arc<Hyperty>) -> Result<()> {
        for domain in &self.domains {
            self.publisher.publish(&self.source, domain, LAST)?;
        }
        let begin = Instant::now();
        let mut waiting: Vec<_> = (0..self.domains.len()).collect();
        while !waiting.is_empty() && begin.elapsed() < RECOVERY {
            let mut left = Vec::new();
            for n in waiting {
                let ended = ask(app, &format!("hyperty://{}/x", self.domains[n])).await;
                self.findings.count(&ended);
                match ended {
                    Ended::Answered(release) => self.accept(n, release),
                    _ => left.push(n),
                }
            }
            waiting = left;
            sleep(PERIOD).await;
        }
        if !waiting.is_empty() {
            self.escapes(format!("{} of {} domains are not served after the recovery", waiting.len(), self.domains.len()));
        }
        for domain in &self.domains {
            if let Some(stub) = runtime.protostub(&runtime.stub_key(domain.as_str())?) {
                let _gone = timeout(RECOVERY, stub.undeploy()).await.context("undeploying")?;
            }
        }
        Ok(())
    }
}

/// A stub that tries to exceed its rights.
struct Stranger {
    domain: Domain,
    /// The hyperty that must not get a message in a neighbour's name.
    told: Hyperty,
}

impl Stranger {
    async fn new(runtime: &Runtime, source: &MemorySource) -> Result<Self> {
        let (domain, actor) = (Domain::parse("stranger.example")?, component("actor"));
        publish(source, domain.as_str(), "1.0", &actor, Value::Null);
        runtime.deploy_protostub(domain.as_str()).await?;
        Ok(Self { domain, told: runtime.register_hyperty("hyperty://home.example/told").await? })
    }

    /// Tries, and expects a refusal for each attempt.
    async fn reach(&self, app: &Hyperty, findings: &mut Findings) {
        let post = json!({ "do": "post", "from": "hyperty://n0.neighbour.example/alice", "to": self.told.address() });
        for (order, expected) in [(post, "denied"), (json!({ "do": "websocket", "url": ELSEWHERE }), "denied")] {
            let message = Message::read(format!("hyperty://{}/x", self.domain).parse().unwrap()).with_body(order.clone());
            findings.asked += 1;
            match timeout(DEADLINE + SLACK, app.request_within(message, DEADLINE)).await {
                Ok(Ok(answer)) => {
                    findings.answered += 1;
                    let body: Option<Value> = answer.body.as_ref().and_then(|body| body.parse().ok());
                    let said = body.unwrap_or_default()["value"].to_string();
                    if !said.contains(expected) {
                        findings.escapes.push(format!("the order {order} was answered with {said}"));
                    }
                }
                other => findings.escapes.push(format!("a live stub did not answer: {other:?}")),
            }
        }
    }

    fn end(mut self, findings: &mut Findings) {
        if let Some(Some(message)) = self.told.recv().now_or_never() {
            findings.escapes.push(format!("a message with a forged sender arrived: {message:?}"));
        }
    }
}
