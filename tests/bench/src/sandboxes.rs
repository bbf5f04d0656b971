//! Sandboxes without the runtime around them: the time to make an instance.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use async_trait::async_trait;
use bytes::Bytes;
use protostub_artifacts::component;
use protostub_bus::{Bus, BusConfig, InboxLimits};
use protostub_egress::{Egress, EgressConfig, Grants, QuotaLimits};
use protostub_sandbox::{
    CompiledStub, Credential, CredentialError, CredentialSource, Engine, EngineConfig, Import, Presence, Sandbox, SandboxConfig,
    SandboxServices, Session, wasmtime,
};
use protostub_types::{Address, Allowances, Domain, SafeText, Sha256Digest, StubStatus};

use crate::live::{Probe, limits};

/// A compiled stub, and the requirements of its sandboxes.
pub(crate) struct Stage {
    /// The wasmtime engine inside the product's engine. The bare side uses it too.
    pub(crate) engine: wasmtime::Engine,
    product: Engine,
    component: Bytes,
    compiled: CompiledStub,
    services: SandboxServices,
    config: SandboxConfig,
}

impl Stage {
    /// Compiles the stub. Keeps compiled code in a directory, if one is given.
    pub(crate) async fn new(component: Vec<u8>, cache_dir: Option<&Path>) -> Result<Self> {
        let mut config = EngineConfig::default();
        config.cache_dir = cache_dir.map(Path::to_owned);
        Self::of(component, config).await
    }

    /// Compiles the echo, with room for few sandboxes: tools that watch a process have little room
    /// for the memory that it reserves.
    pub(crate) async fn small() -> Result<Self> {
        let mut config = EngineConfig::default();
        config.max_sandboxes = 2;
        Self::of(component("batched-echo"), config).await
    }

    async fn of(component: Vec<u8>, mut config: EngineConfig) -> Result<Self> {
        let probe = Probe::default();
        let component = Bytes::from(component);
        config.imports = vec![Import::new(probe.clone())];
        let engine = Engine::new(&config)?;
        let compiled = engine.compile(component.clone(), Sha256Digest::of(&component)).await?;
        let home = Domain::parse("home.example")?;
        let egress = Egress::new(EgressConfig::default())?;
        let services = SandboxServices {
            bus: Bus::new(BusConfig::new(home, Address::parse("runtime://home.example/1")?)),
            quota: egress.quota(QuotaLimits::default()),
            log_allowance: Allowances::new(u64::MAX, Duration::from_secs(1)).of("sp1.example", u64::MAX),
            egress,
            presence: Arc::new(Anything),
            credentials: Arc::new(Anything),
            session: Session::new(),
        };
        let domain = Domain::parse("sp1.example")?;
        let config = SandboxConfig {
            url: Address::parse("hyperty-runtime://sp1.example/protostub/1")?,
            grants: Grants::same_domain(&domain, &[]),
            domain,
            configuration: r#"{"runtimeURL":"runtime://home.example/1"}"#.into(),
            limits: limits(),
            relays: Vec::new(),
            credential_origins: Vec::new(),
        };
        Ok(Self { engine: probe.engine()?, product: engine, component, compiled, services, config })
    }

    /// Measures the time to make `count` sandboxes, each with a started instance. Their end is not
    /// counted.
    pub(crate) async fn instances(&self, count: u32) -> Result<Duration> {
        let mut took = Duration::ZERO;
        for _ in 0..count {
            let inbox = self.services.bus.inbox(InboxLimits::default());
            let begun = Instant::now();
            let sandbox = Sandbox::new(&self.compiled, self.services.clone(), self.config.clone())?;
            let deployed = sandbox.deploy_component(inbox).await.map_err(|error| anyhow!("{}", error.kind))?;
            took += begun.elapsed();
            drop(deployed);
        }
        Ok(took)
    }
}

impl Stage {
    /// Measures the time to load the compiled code from memory, where recently used code stays.
    pub(crate) async fn load(mut self) -> Result<(Self, Duration)> {
        let digest = self.compiled.digest();
        drop(self.compiled);
        let begun = Instant::now();
        self.compiled = self.product.compile(self.component.clone(), digest).await?;
        Ok((self, begun.elapsed()))
    }

    /// Measures the time until an instance is connected.
    pub(crate) async fn connected(&self) -> Result<Duration> {
        let inbox = self.services.bus.inbox(InboxLimits::default());
        let begun = Instant::now();
        let sandbox = Sandbox::new(&self.compiled, self.services.clone(), self.config.clone())?;
        let (handle, task) = sandbox.deploy_component(inbox).await.map_err(|error| anyhow!("{}", error.kind))?;
        let running = tokio::spawn(task.run());
        handle.connect(None).await?;
        let took = begun.elapsed();
        handle.stop();
        running.await?;
        Ok(took)
    }
}

/// Services that drop every report and have no credentials.
struct Anything;

impl Presence for Anything {
    fn publish(&self, _: StubStatus, _: Option<SafeText>) -> Result<(), String> {
        Ok(())
    }
}

#[async_trait]
impl CredentialSource for Anything {
    async fn credential(&self, _: &Domain, _: Option<&str>) -> Result<Option<Credential>, CredentialError> {
        Ok(None)
    }
}
