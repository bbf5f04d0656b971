use std::{
    error::Error,
    fmt,
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::FutureExt as _;
use protostub_artifacts::component;
use protostub_runtime::{
    Bounds, CrashKind, DeployError, Descriptor, Domain, DomainSettings, Hyperty, Limits, MemorySource, Message, OAuth2Client,
    OAuth2Credentials, Protostub, RestartPolicy, Runtime, RuntimeBuilder, Secret, StubStatus, TotalSettings,
};
use protostub_test_support::{descriptor, version};
use serde_json::{Map, Value};
use tokio::time::{sleep, timeout};

use crate::{
    Attack, Containment, Server,
    attack::Publishes,
    descriptors,
    names::{self, AttackersNames},
    servers,
};

/// Time limit for the containment of an attack, on any machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Observation time of a stub that does nothing but wait.
const WATCHED: Duration = Duration::from_millis(500);
/// Maximum number of descriptors that an attack leaves open. The servers' side counts too, and so
/// do other tests in the same process.
const SPARED_DESCRIPTORS: usize = 200;
/// Number of messages that wait for a stub that is not deployed.
const WAITING: usize = 4;
/// Maximum of a text about a stub, in bytes: last words have 24 lines of 8 KiB.
const MAX_SAID_BYTES: usize = 25 * (8 << 10);
/// Period of the checks for a counted limit.
const LOOK: Duration = Duration::from_millis(5);

/// Configuration of an attacked runtime. The rest has default values.
#[derive(Debug, Clone)]
pub struct StageConfig {
    /// The limits of every stub.
    pub limits: Limits,
    /// Number of well-behaved stubs.
    pub neighbours: usize,
    /// Folder of compiled code. `None` for memory alone.
    pub code_dir: Option<PathBuf>,
    /// Time limit of the compilation of a component.
    pub compile_timeout: Duration,
    /// Time limit for a stub to become live.
    pub connect_timeout: Duration,
    /// Maximum number of sockets of the runtime. `None` for the default.
    pub max_sockets: Option<usize>,
    /// Bounds of the remembered accepted versions.
    pub accepted_versions: Bounds,
}

impl Default for StageConfig {
    fn default() -> Self {
        let mut limits = Limits::default();
        // Even a busy machine reaches these limits with code that is not optimised. The limit of
        // bytes is reached with the first call or the first write.
        limits.posts_per_second = 1_000;
        limits.bytes_in_per_second = 512 << 10;
        limits.bytes_out_per_second = 512 << 10;
        // Attackers that open one connection after the other do not reach the default on a busy
        // machine.
        limits.connect_attempts_per_second = 100;
        limits.log_bytes_per_day = 256 << 10;
        // All servers are one party here, which is asked for hours.
        (limits.downloads_per_hour, limits.download_bytes_per_hour) = (u64::MAX, u64::MAX);
        Self {
            limits,
            neighbours: 1,
            code_dir: None,
            compile_timeout: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(30),
            max_sockets: None,
            accepted_versions: Bounds { total: 1024, per_domain: 8 },
        }
    }
}

/// A runtime under attack, with well-behaved stubs.
#[derive(Debug)]
pub struct Stage {
    runtime: Runtime,
    source: MemorySource,
    neighbours: Neighbours,
    attackers: AtomicUsize,
    /// Domains with operator settings that no attacker uses at the moment.
    free: Mutex<Vec<Domain>>,
    milliseconds: u64,
    _tokens: Server,
}

/// The well-behaved stubs of a runtime under attack.
#[derive(Debug)]
pub struct Neighbours(pub(crate) Vec<Protostub>);

/// An attacker that is in place.
#[derive(Debug)]
pub struct Attacker {
    attack: Attack,
    domain: Domain,
    app: Hyperty,
    _server: Option<Server>,
}

/// Description of a containment.
#[derive(Debug, Clone)]
pub struct Contained {
    /// The result, in one line.
    pub how: String,
    /// Time from the beginning of the attack to its containment.
    pub after: Duration,
}

/// Reason for which an attack was not contained as required.
#[derive(Debug)]
pub struct Escaped(pub String);

impl fmt::Display for Escaped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Escaped {}

impl From<anyhow::Error> for Escaped {
    fn from(error: anyhow::Error) -> Self {
        Self(format!("{error:#}"))
    }
}

/// Returns the descriptor of a stub that may connect to this port of its domain.
fn with_port(component: &[u8], configuration: Map<String, Value>, port: Option<u16>) -> Descriptor {
    let mut descriptor = descriptor(component, configuration.into());
    descriptor.ports.extend(port);
    descriptor
}

impl Stage {
    /// Builds the runtime, and deploys its well-behaved stubs.
    ///
    /// # Errors
    /// If the runtime does not start, or a stub is not deployed.
    pub async fn new(config: StageConfig) -> Result<Self> {
        let source = MemorySource::new();
        let mut restart = RestartPolicy::default();
        restart.restarts = u32::MAX;
        restart.first_pause = Duration::from_millis(10);
        restart.longest_pause = Duration::from_millis(10);
        // An attacker attacks many times, so its sender must not be refused after two crashes.
        restart.within = Duration::from_millis(1);
        let milliseconds = u64::try_from(config.limits.cpu_per_call.as_millis())? / 2;
        let mut limits = config.limits;
        limits.descriptor_bytes = 1 << 20;
        let mut totals = TotalSettings::default();
        (totals.max_downloads_per_hour, totals.max_download_bytes_per_hour) = (u64::MAX, u64::MAX);
        let mut builder = Runtime::builder().totals(totals);
        if let Some(dir) = config.code_dir {
            builder = builder.code_dir(dir);
        }
        if let Some(sockets) = config.max_sockets {
            builder = builder.max_sockets(sockets);
        }
        let builder = builder
            .home_domain("home.example")
            .allow_loopback(true)
            .resolver(AttackersNames::default())
            .source(source.clone())
            .limits(limits)
            .restart(restart)
            .compile_timeout(config.compile_timeout)
            .connect_timeout(config.connect_timeout)
            .accepted_versions(config.accepted_versions);
        let tokens = Server::start(servers::issues_tokens).await?;
        let (builder, free) = with_settings(builder, &tokens)?;
        let runtime = builder.build().await?;
        let mut neighbours = Vec::new();
        let echo = component("echo");
        for n in 0..config.neighbours {
            let domain = Domain::parse(&format!("n{n}.neighbour.example"))?;
            source.insert(&domain, "default", descriptor(&echo, Value::Null).to_json(), echo.clone());
            neighbours.push(runtime.deploy_protostub(domain.as_str()).await?);
        }
        Ok(Self {
            runtime,
            source,
            neighbours: Neighbours(neighbours),
            attackers: AtomicUsize::new(0),
            free: Mutex::new(free),
            milliseconds,
            _tokens: tokens,
        })
    }

    /// Keeps the code of most attackers in memory, by an attacker that never attacks.
    ///
    /// # Errors
    /// If that attacker cannot be deployed.
    pub async fn keep_code(&self) -> Result<()> {
        let attacker = self.place(&crate::attacks::traps_in_handle()).await?;
        self.runtime.deploy_protostub(attacker.domain.as_str()).await?;
        Ok(())
    }

    /// Returns the runtime under attack.
    #[must_use]
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Returns the well-behaved stubs.
    #[must_use]
    pub fn neighbours(&self) -> &Neighbours {
        &self.neighbours
    }

    /// Runs an attack once, next to the neighbours, and removes the attacker.
    ///
    /// # Errors
    /// If the attack is not contained as required, or a neighbour is affected.
    pub async fn attack(&self, attack: &Attack) -> Result<Contained, Escaped> {
        let attacker = self.place(attack).await?;
        let contained = self.provoke(&attacker).await;
        self.remove(attacker).await?;
        self.neighbours.check()?;
        contained
    }

    /// Puts an attacker into its own domain.
    ///
    /// # Errors
    /// If no port is free for its server.
    pub async fn place(&self, attack: &Attack) -> Result<Attacker> {
        let attack = attack.clone().computing(self.milliseconds);
        let server = match attack.server {
            Some(behaviour) => Some(Server::start(behaviour).await?),
            None => None,
        };
        let n = self.attackers.fetch_add(1, Ordering::Relaxed);
        let domain = match (&server, attack.below) {
            (_, Some(name)) if names::WITH_SETTINGS.contains(&name) => self.free_below(name)?,
            (_, Some(name)) => Domain::parse(&format!("a{n}.{name}"))?,
            (Some(server), None) => Domain::parse(&server.domain())?,
            (None, None) => Domain::parse(&format!("a{n}.{}.example", attack.name.replace('_', "-")))?,
        };
        if let Some(component) = attack.component() {
            let port = server.as_ref().filter(|_| attack.below.is_some()).map(Server::port);
            let server = port.map_or_else(|| domain.to_string(), |port| format!("{domain}:{port}"));
            let descriptor = with_port(&component, attack.configuration(&server), port);
            self.source.insert(&domain, "default", descriptor.to_json(), component);
        }
        let app = self.runtime.register_hyperty(format!("hyperty://home.example/attacked-{n}").as_str()).await?;
        Ok(Attacker { attack, domain, app, _server: server })
    }

    /// Takes a free domain below this name for an attacker.
    fn free_below(&self, name: &str) -> Result<Domain> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let index = free.iter().position(|domain| domain.host().ends_with(name));
        let index = index.with_context(|| format!("every domain below {name} has an attacker"))?;
        Ok(free.swap_remove(index))
    }

    /// Makes an attacker attack. This can be repeated.
    ///
    /// # Errors
    /// If the attack is not contained as required.
    pub async fn provoke(&self, attacker: &Attacker) -> Result<Contained, Escaped> {
        let begin = Instant::now();
        let contained = timeout(PATIENCE, self.contain(attacker)).await;
        let how = contained.with_context(|| format!("{} was not contained within {PATIENCE:?}", attacker.attack.name))??;
        Ok(Contained { how, after: begin.elapsed() })
    }

    async fn contain(&self, attacker: &Attacker) -> Result<String> {
        let Attacker { attack, domain, .. } = attacker;
        if let Containment::NotDeployed(reason) = attack.contained {
            let deployed = match attack.publishes {
                Publishes::Flood => self.roll_back_behind_flood(attacker).await?,
                _ => {
                    let deployed = self.runtime.deploy_protostub(domain.as_str());
                    let (deployed, refused) = tokio::join!(deployed, self.wait_for(attacker));
                    refused?;
                    deployed
                }
            };
            let Err(error) = deployed else { bail!("the attacker's stub was deployed") };
            let told = safe(chain(&error))?;
            ensure!(told.contains(reason), "the stub was not deployed, but the reason does not contain `{reason}`: {told}");
            return Ok(format!("not deployed: {reason}"));
        }
        let deployed = self.runtime.deploy_protostub(domain.as_str()).await;
        let stub = deployed.map_err(|error| anyhow::anyhow!("the stub was not deployed: {}", chain(&error)))?;
        let before = attack.or_ends.map(|limit| hits(&stub, limit));
        let contained = self.meet(attacker, &stub).await;
        match attack.or_ends {
            Some(limit) if contained.is_err() && Some(hits(&stub, limit)) > before => Ok(format!("ended: {limit}")),
            _ => contained,
        }
    }

    /// Posts several messages to a stub that is not deployed, and checks each sender's error.
    async fn wait_for(&self, Attacker { domain, app, .. }: &Attacker) -> Result<()> {
        let to = format!("hyperty://{domain}/attack");
        let waiting = (0..WAITING).map(|_| app.request_within(Message::read(to.parse().unwrap()), PATIENCE));
        for answer in futures_util::future::join_all(waiting).await {
            let Err(error) = answer else { bail!("the stub answered") };
            safe(error.to_string())?;
        }
        Ok(())
    }

    /// Floods the runtime with accepted versions of an attacker's subdomains. Returns the result of
    /// deploying a victim that then offers an older version.
    async fn roll_back_behind_flood(&self, Attacker { attack, domain, .. }: &Attacker) -> Result<Result<Protostub, DeployError>> {
        let component = attack.component().context("a component")?;
        let publish = |domain: &Domain, number: &str| {
            let descriptor = version(number, &component, Value::Null).to_json();
            self.source.insert(domain, "default", descriptor, component.clone());
            anyhow::Ok(())
        };
        let accept = async |domain: &Domain, number: &str| {
            publish(domain, number)?;
            self.runtime
                .deploy_protostub(domain.as_str())
                .await
                .with_context(|| format!("{number} of {domain}"))?
                .undeploy()
                .await?;
            anyhow::Ok(())
        };
        // Each attack has its own victim, because the accepted version of a victim stays.
        let name = domain.as_str().split('.').next().unwrap_or_default();
        let victim = Domain::parse(&format!("{name}.bank.example"))?;
        accept(&victim, "2.0").await?;
        for n in 0..attack.scale {
            let subdomain = Domain::parse(&format!("s{n}.{domain}"))?;
            accept(&subdomain, "1.0").await?;
            self.source.remove(&subdomain, "default");
        }
        publish(&victim, "1.0")?;
        let deployed = self.runtime.deploy_protostub(victim.as_str()).await;
        self.source.remove(&victim, "default");
        if let Ok(stub) = &deployed {
            stub.undeploy().await?;
        }
        Ok(deployed)
    }

    /// Makes a live stub attack.
    async fn meet(&self, Attacker { attack, domain, app, .. }: &Attacker, stub: &Protostub) -> Result<String> {
        let restarts = stub.restarts();
        let request = app.request_within(Message::read(format!("hyperty://{domain}/attack").parse().unwrap()), PATIENCE);
        match attack.contained {
            Containment::NotDeployed(_) => unreachable!("the stub was deployed"),
            Containment::Ends(setting) => {
                let before = hits(stub, setting);
                let error = request.await.err().context("the stub answered")?;
                ensure!(error.code == 502, "{error}");
                // The sender gets its error after the limit is counted.
                ensure!(hits(stub, setting) > before, "the instance did not reach `{setting}` but {:?}", stub.limits_hit());
                until(|| stub.last_crash().is_some_and(|crash| crash.limit == Some(setting))).await;
                Ok(format!("ended: {setting}"))
            }
            Containment::Traps(text) => {
                let error = request.await.err().context("the stub answered")?;
                ensure!(error.code == 502, "{error}");
                until(|| stub.last_crash().is_some()).await;
                let crash = stub.last_crash().context("the runtime has no crash report")?;
                ensure!(crash.kind == CrashKind::Trap, "{crash:?}");
                let told = safe(format!("{} {}", crash.reason, crash.message.as_deref().unwrap_or_default()))?;
                for frame in &crash.backtrace {
                    safe(frame.to_string())?;
                }
                safe(stub.status().reason.unwrap_or_default().to_string())?;
                ensure!(told.contains(text), "the report of the crash does not contain `{text}`: {told}");
                Ok("ended: the instance crashed".to_owned())
            }
            Containment::Held(setting) => {
                let before = hits(stub, setting);
                let counted = until(|| hits(stub, setting) > before);
                tokio::select! {
                    () = counted => {}
                    answer = request => {
                        let answer = answer.map_err(|error| anyhow::anyhow!("the stub did not stay live: {error}"))?;
                        if timeout(PATIENCE / 4, until(|| hits(stub, setting) > before)).await.is_err() {
                            bail!("the stub did not reach `{setting}` but {:?}: {answer:?}", stub.limits_hit());
                        }
                    }
                }
                alive(stub, restarts)?;
                Ok(format!("held: {setting}"))
            }
            Containment::Refused(text) => {
                let answer = request.await.map_err(|error| anyhow::anyhow!("the stub did not answer: {error}"))?;
                let body: Value = answer.body.as_ref().context("a body")?.parse()?;
                let value = body["value"].as_str().unwrap_or_default();
                ensure!(value.contains(text), "the answer does not contain `{text}`: {value}");
                alive(stub, restarts)?;
                Ok(format!("refused: {}", value.chars().take(60).collect::<String>()))
            }
            Containment::Spares(text) => {
                let before = descriptors();
                let answer = request.await.map_err(|error| anyhow::anyhow!("the stub did not answer: {error}"))?;
                let more = descriptors().saturating_sub(before);
                let body: Value = answer.body.as_ref().context("a body")?.parse()?;
                let value = body["value"].as_str().unwrap_or_default();
                ensure!(value.contains(text), "the answer does not contain `{text}`: {value}");
                ensure!(more <= SPARED_DESCRIPTORS, "the process has {more} descriptors more than before");
                self.deploy_neighbour().await.context("another stub cannot be deployed")?;
                alive(stub, restarts)?;
                Ok(format!("spares descriptors: {value}, {more} more than before"))
            }
            Containment::Waits => {
                if let Ok(answer) = timeout(WATCHED, request).await {
                    bail!("the stub's call did not wait: {answer:?}");
                }
                alive(stub, restarts)?;
                Ok("waits, and no other stub does".to_owned())
            }
        }
    }

    /// Deploys another well-behaved stub, and undeploys it.
    async fn deploy_neighbour(&self) -> Result<()> {
        let n = self.attackers.fetch_add(1, Ordering::Relaxed);
        let domain = Domain::parse(&format!("late{n}.neighbour.example"))?;
        let echo = component("echo");
        self.source.insert(&domain, "default", descriptor(&echo, Value::Null).to_json(), echo);
        let stub = self.runtime.deploy_protostub(domain.as_str()).await;
        self.source.remove(&domain, "default");
        stub?.undeploy().await?;
        Ok(())
    }

    /// Removes an attacker.
    ///
    /// # Errors
    /// If its stub cannot be undeployed.
    pub async fn remove(&self, attacker: Attacker) -> Result<(), Escaped> {
        let key = self.runtime.stub_key(attacker.domain.as_str()).context("the key of the stub")?;
        if let Some(stub) = self.runtime.protostub(&key) {
            // A stub that ended itself is gone already.
            let _gone = timeout(PATIENCE, stub.undeploy()).await.context("undeploying the stub failed")?;
        }
        self.source.remove(&attacker.domain, "default");
        if attacker.attack.below.is_some_and(|name| names::WITH_SETTINGS.contains(&name)) {
            self.free.lock().unwrap_or_else(PoisonError::into_inner).push(attacker.domain);
        }
        Ok(())
    }
}

/// Gives the domains of [`names::WITH_SETTINGS`] what an operator would give them: the grant to
/// connect to this machine, or a credential with one scope.
fn with_settings(mut builder: RuntimeBuilder, tokens: &Server) -> Result<(RuntimeBuilder, Vec<Domain>)> {
    let mut free = Vec::new();
    let mut settings = DomainSettings::default();
    settings.allow_loopback = true;
    for domain in names::below(names::CHANGING).chain(names::below(names::SILENT)) {
        let domain = Domain::parse(&domain)?;
        builder = builder.domain(domain.clone(), settings.clone());
        free.push(domain);
    }
    let mut credentials = OAuth2Credentials::new();
    for domain in names::below(names::GRANTED) {
        let domain = Domain::parse(&domain)?;
        let endpoint = format!("http://{}/token", tokens.domain()).parse()?;
        let client = OAuth2Client::client_credentials(endpoint, "runtime", Secret::text("open sesame"));
        credentials = credentials.with(domain.clone(), client.scopes(["chat"]));
        free.push(domain);
    }
    Ok((builder.credentials(credentials), free))
}

impl Attacker {
    /// Reads and drops the messages to the attacked hyperty.
    pub fn drain(&mut self) {
        while self.app.recv().now_or_never().flatten().is_some() {}
    }
}

impl Neighbours {
    /// Returns the stubs.
    #[must_use]
    pub fn stubs(&self) -> &[Protostub] {
        &self.0
    }

    /// Checks that each neighbour is live, in its first instance.
    ///
    /// # Errors
    /// The first neighbour that is not.
    pub fn check(&self) -> Result<(), Escaped> {
        for stub in &self.0 {
            alive(stub, 0).with_context(|| format!("the neighbour {}", stub.domain()))?;
            if let Some(crash) = stub.last_crash() {
                return Err(Escaped(format!("the neighbour {} has crashed: {}", stub.domain(), crash.reason)));
            }
        }
        Ok(())
    }
}

/// Returns a text for people, if it has no unsafe characters and at most [`MAX_SAID_BYTES`] bytes.
fn safe(text: String) -> Result<String> {
    ensure!(text.len() <= MAX_SAID_BYTES, "the text has {} bytes: {}…", text.len(), &text[..text.floor_char_boundary(200)]);
    match unsafe_character(&text) {
        Some(character) => bail!("the text has the unsafe character {character:?}: {text:?}"),
        None => Ok(text),
    }
}

/// Returns the first unsafe character of a text, which no log, status or error may have. Controls
/// are unsafe, line and paragraph separators, and characters that hide or change the display of
/// others.
#[must_use]
pub fn unsafe_character(text: &str) -> Option<char> {
    text.chars().find(|character| {
        character.is_control()
            || matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
            || matches!(character, '\u{feff}' | '\u{e0000}'..='\u{e007f}')
    })
}

/// Returns the number of times that a stub reached a limit.
fn hits(stub: &Protostub, setting: &str) -> u64 {
    stub.limits_hit().get(setting).copied().unwrap_or_default()
}

fn alive(stub: &Protostub, restarts: u64) -> Result<()> {
    ensure!(stub.restarts() == restarts, "the stub was restarted: {:?}", stub.last_crash());
    let report = stub.status();
    ensure!(report.status == StubStatus::Live, "the stub is not live: {report:?}");
    Ok(())
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        sleep(LOOK).await;
    }
}

/// Formats an error with all its causes.
fn chain(error: &dyn Error) -> String {
    let mut told = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        told += &format!(": {error}");
        cause = error.source();
    }
    told
}
