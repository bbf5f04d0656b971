//! The compiler of `inspect` and `sign`: a compile worker with limits, unless the operator's
//! settings disable it.

use std::time::Duration;

use anyhow::Context as _;
use protostub_sandbox::{CompiledStub, Engine, EngineConfig};
use protostub_types::Sha256Digest;
use tokio::time::timeout;

use crate::settings::Settings;

/// An engine that only compiles, and runs nothing.
pub(crate) struct Compiler {
    engine: Engine,
    timeout: Duration,
}

impl Compiler {
    /// # Errors
    /// Fails if the engine cannot run on this machine, or the cache folder of the settings is
    /// unusable.
    pub(crate) fn new(settings: &Settings) -> anyhow::Result<Self> {
        let mut config = EngineConfig::default();
        config.cache_dir = settings.runtime.cache.compiled_code_dir();
        config.cache_key = settings.runtime.cache.key.clone();
        config.allow_other_writers = settings.runtime.cache.allow_other_writers;
        config.max_sandboxes = 1;
        config.compile_worker = settings.compile_worker()?;
        let engine = Engine::new(&config).context("failed to prepare the WebAssembly engine")?;
        Ok(Self { engine, timeout: settings.compile_timeout() })
    }

    /// Compiles a component within the limits of a deployment.
    ///
    /// # Errors
    /// Fails if the component is not a stub, or exceeds a limit.
    pub(crate) async fn compile(&self, code: Vec<u8>, digest: Sha256Digest) -> anyhow::Result<CompiledStub> {
        let compiled = timeout(self.timeout, self.engine.compile(code, digest)).await;
        let too_long = || {
            let seconds = self.timeout.as_secs();
            format!(
                "the component was not compiled within {seconds} s; raise `compile-timeout-seconds` if its size is legitimate"
            )
        };
        Ok(compiled.with_context(too_long)??)
    }
}
