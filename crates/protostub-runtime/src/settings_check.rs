//! The check of all settings at the start, before a sender meets one that cannot work.

use std::{path::Path, time::Duration};

use protostub_bus::MAX_REQUEST_TIMEOUT;
use protostub_egress::{EgressConfig, EgressError};
use protostub_sandbox::{Engine, EngineConfig, InvalidLimit, Limits};
use protostub_types::Domain;
use serde_json::Value;

use crate::{
    domain_settings::{DomainSettings, MAX_CONFIGURATION_BYTES},
    error::InvalidSetting,
    restart::RestartPolicy,
    settings::{CacheSettings, LifecycleSettings, NetworkSettings, Settings, TotalSettings},
};

/// Maximum number of threads. More of them only wait for processors.
const MAX_THREADS: usize = 1024;
/// Minimum address space of a compile worker, in bytes. The program itself does not fit into less.
const MIN_COMPILE_MEMORY_BYTES: u64 = 64 << 20;
/// Minimum memory of all stubs together, in bytes. The smallest components of the common toolchains
/// begin with about one mebibyte.
const MIN_MEMORY_BYTES: usize = 2 << 20;

impl Settings {
    /// Checks that every setting can work: zeros that do not mean "never", values that are too
    /// large for this machine, and settings that contradict each other.
    ///
    /// [`RuntimeBuilder::build`](crate::RuntimeBuilder::build) does the same, with the settings
    /// from all sources.
    ///
    /// # Errors
    /// The first such setting, with its keys in a settings file.
    ///
    /// ```
    /// let mut settings = protostub_runtime::Settings::default();
    /// settings.lifecycle.max_stubs = 0;
    /// let error = settings.check().unwrap_err().to_string();
    /// assert!(error.starts_with("`lifecycle.max-stubs` is 0, but"), "{error}");
    /// ```
    pub fn check(&self) -> Result<(), InvalidSetting> {
        let root = Table(Vec::new());
        root.at_least_one("worker-threads", self.worker_threads, "a runtime needs a thread")?;
        root.at_most("worker-threads", self.worker_threads, MAX_THREADS)?;
        root.longer_than_zero("request-timeout-seconds", self.request_timeout, "no response would come in time")?;
        if self.request_timeout > MAX_REQUEST_TIMEOUT {
            let (seconds, most) = (self.request_timeout.as_secs(), MAX_REQUEST_TIMEOUT.as_secs());
            let problem = format!("is {seconds}, more than the longest timeout; set at most {most}");
            return Err(root.invalid("request-timeout-seconds", problem));
        }
        check_network(&root.inner("network"), &self.network)?;
        check_cache(&root.inner("cache"), &self.cache)?;
        check_limits(&root.inner("limits"), &self.limits, &Limits::default())?;
        check_totals(&root.inner("totals"), &self.totals)?;
        check_download(&root.inner("limits"), &self.limits, &self.totals)?;
        check_lifecycle(&root.inner("lifecycle"), &self.lifecycle)?;
        check_restart(&root.inner("restart"), &self.restart)?;
        let (bytes, least) = (self.max_queued_bytes, self.limits.body_bytes.saturating_mul(2));
        if bytes < least {
            let problem = format!("is {bytes}, but a body of `limits.body-bytes` needs more; set at least {least}");
            return Err(root.invalid("max-queued-bytes", problem));
        }
        let domains_table = root.inner("domains");
        self.domains.iter().try_for_each(|(domain, of_domain)| self.check_domain(&domains_table, domain, of_domain))
    }

    fn check_domain(&self, domains: &Table, domain: &Domain, settings: &DomainSettings) -> Result<(), InvalidSetting> {
        let table = domains.inner(domain.as_str());
        let limits = settings.limits.over(&self.limits);
        check_limits(&table.inner("limits"), &limits, &self.limits)?;
        check_download(&table.inner("limits"), &limits, &self.totals)?;
        check_restart(&table.inner("restart"), &settings.restart.over(&self.restart))?;
        let bytes = Value::from(settings.configuration.clone()).to_string().len();
        if bytes > MAX_CONFIGURATION_BYTES {
            let problem = format!("has {bytes} bytes as JSON, more than a stub accepts; shorten it to {MAX_CONFIGURATION_BYTES}");
            return Err(table.invalid("configuration", problem));
        }
        Ok(())
    }
}

fn check_network(table: &Table, network: &NetworkSettings) -> Result<(), InvalidSetting> {
    let mut egress = EgressConfig::default();
    egress.proxy.clone_from(&network.proxy);
    egress.max_sockets = network.max_sockets;
    let invalid = |key, error| match error {
        EgressError::Config(problem) => table.invalid(key, format!("cannot be used: {problem}")),
        error => table.invalid(key, format!("cannot be used: {error}")),
    };
    egress.check_proxy().map_err(|error| invalid("proxy", error))?;
    egress.check_max_sockets().map_err(|error| invalid("max-sockets", error))
}

fn check_cache(table: &Table, cache: &CacheSettings) -> Result<(), InvalidSetting> {
    table.path("dir", cache.dir.as_deref())?;
    table.path("code-dir", cache.code_dir.as_deref())?;
    table.path("key", cache.key.as_deref())?;
    let no_version = "no stub could be deployed";
    table.at_least_one("max-accepted-versions", cache.max_accepted_versions, no_version)?;
    table.at_least_one("max-accepted-versions-per-domain", cache.max_accepted_versions_per_domain, no_version)?;
    let no_key_set = "no stub that its domain has signed could be deployed";
    table.at_least_one("max-key-sets", cache.max_key_sets, no_key_set)?;
    table.at_least_one("max-key-sets-per-domain", cache.max_key_sets_per_domain, no_key_set)
}

fn check_limits(table: &Table, limits: &Limits, base: &Limits) -> Result<(), InvalidSetting> {
    let checked = limits.check(base, &EngineConfig::default());
    checked.map_err(|InvalidLimit { setting, problem, .. }| table.invalid(setting, problem))
}

fn check_totals(table: &Table, totals: &TotalSettings) -> Result<(), InvalidSetting> {
    if let Some(bytes) = totals.max_memory_bytes.filter(|bytes| *bytes < MIN_MEMORY_BYTES) {
        let problem = format!("is {bytes}, but a stub needs more; set at least {MIN_MEMORY_BYTES}");
        return Err(table.invalid("max-memory-bytes", problem));
    }
    let no_descriptor = "no descriptor could come";
    for (key, number) in [
        ("max-downloads-per-hour", totals.max_downloads_per_hour),
        ("max-download-bytes-per-hour", totals.max_download_bytes_per_hour),
        ("max-concurrent-downloads", totals.max_concurrent_downloads),
    ] {
        table.at_least_one(key, usize::try_from(number).unwrap_or(usize::MAX), no_descriptor)?;
    }
    Ok(())
}

/// Checks that a component has room among the downloads in memory, of which a domain has half at
/// most. The error names the setting that differs from its default.
fn check_download(table: &Table, limits: &Limits, totals: &TotalSettings) -> Result<(), InvalidSetting> {
    let (component, memory) = (limits.component_bytes, totals.max_download_memory_bytes);
    let least = component.saturating_mul(2);
    if usize::try_from(memory).map_or(true, |memory| memory >= least) {
        return Ok(());
    }
    if memory == TotalSettings::default().max_download_memory_bytes {
        let most = memory / 2;
        let problem =
            format!("is {component}, more than half of `max-download-memory-bytes`; set at most {most}, or raise that too");
        return Err(table.invalid("component-bytes", problem));
    }
    let problem = format!("is {memory}, less than twice `component-bytes`; set at least {least}");
    Err(Table(vec!["totals".to_owned()]).invalid("max-download-memory-bytes", problem))
}

fn check_lifecycle(table: &Table, lifecycle: &LifecycleSettings) -> Result<(), InvalidSetting> {
    table.at_least_one("max-stubs", lifecycle.max_stubs, "no stub could be deployed")?;
    if let Some(sandboxes) = lifecycle.max_sandboxes {
        table.at_least_one("max-sandboxes", sandboxes, "no stub could be deployed")?;
        if let Some(most) = Engine::most_sandboxes().filter(|most| sandboxes > *most) {
            let problem = format!(
                "is {sandboxes}, but this machine has room for {most}; set at most {most}, or raise the system's `vm.max_map_count`"
            );
            return Err(table.invalid("max-sandboxes", problem));
        }
    }
    table.longer_than_zero("compile-timeout-seconds", lifecycle.compile_timeout, "no component could be compiled")?;
    if lifecycle.compile_memory_bytes < MIN_COMPILE_MEMORY_BYTES {
        let bytes = lifecycle.compile_memory_bytes;
        let problem = format!("is {bytes}, but a compile process needs more; set at least {MIN_COMPILE_MEMORY_BYTES}");
        return Err(table.invalid("compile-memory-bytes", problem));
    }
    table.longer_than_zero("connect-timeout-seconds", lifecycle.connect_timeout, "no stub could be live in time")
}

fn check_restart(table: &Table, restart: &RestartPolicy) -> Result<(), InvalidSetting> {
    table.longer_than_zero("within-seconds", restart.within, "no restart would count")
}

/// The keys of a table in a settings file, from the outermost.
struct Table(Vec<String>);

impl Table {
    fn inner(&self, key: &str) -> Self {
        Self(self.0.iter().cloned().chain([key.to_owned()]).collect())
    }

    fn invalid(&self, key: &str, problem: String) -> InvalidSetting {
        InvalidSetting { path: self.inner(key).0, problem }
    }

    fn at_least_one(&self, key: &str, number: usize, otherwise: &str) -> Result<(), InvalidSetting> {
        match number {
            0 => Err(self.invalid(key, format!("is 0, but {otherwise}; set at least 1"))),
            _ => Ok(()),
        }
    }

    fn at_most(&self, key: &str, number: usize, most: usize) -> Result<(), InvalidSetting> {
        match number > most {
            true => Err(self.invalid(key, format!("is {number}, but the maximum is {most}; set at most {most}"))),
            false => Ok(()),
        }
    }

    fn longer_than_zero(&self, key: &str, time: Duration, otherwise: &str) -> Result<(), InvalidSetting> {
        match time.is_zero() {
            true => Err(self.invalid(key, format!("is 0, but {otherwise}; set at least 1"))),
            false => Ok(()),
        }
    }

    fn path(&self, key: &str, path: Option<&Path>) -> Result<(), InvalidSetting> {
        match path.map(|path| path.as_os_str().as_encoded_bytes()) {
            Some(b"") => Err(self.invalid(key, "is empty; name a path, or remove the key".to_owned())),
            Some(path) if path.contains(&0) => Err(self.invalid(key, "has a NUL byte; name a path without one".to_owned())),
            _ => Ok(()),
        }
    }
}
