//! The check of a stub's limits, before any stub gets them.

use std::fmt;

use crate::{
    EngineConfig, Limits,
    engine::{POOL_INSTANCES, POOL_MEMORIES, POOL_TABLE_ELEMENTS},
};

/// Size of a page of a linear memory. A smaller limit admits no memory at all.
const WASM_PAGE_BYTES: usize = 64 << 10;

/// A limit with which no stub could work.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvalidLimit {
    /// The key of the limit in a settings file.
    pub setting: &'static str,
    /// The problem, with the remedy. The text continues the name of the setting.
    pub problem: String,
}

impl fmt::Display for InvalidLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {}", self.setting, self.problem)
    }
}

impl std::error::Error for InvalidLimit {}

impl Limits {
    /// Checks that a stub can work within these limits, in an engine with this configuration.
    ///
    /// `base` has the limits that these override: those of the runtime, or the defaults. If two
    /// limits contradict each other, the error names the one that differs from `base`.
    ///
    /// # Errors
    /// If a limit is zero and no stub could work then, or larger than the engine allows.
    pub fn check(&self, base: &Self, engine: &EngineConfig) -> Result<(), InvalidLimit> {
        self.check_for_engine(base, engine)?;
        let never = [
            ("memory-bytes", self.memory_bytes == 0, "a stub needs a linear memory; set at least 65536"),
            ("memories", self.memories == 0, "a stub needs a linear memory; set at least 1"),
            ("tables", self.tables == 0, "a stub's imports need a table; set at least 1"),
            ("table-elements", self.table_elements == 0, "a stub's imports need a table; set at least 1"),
            ("instances", self.instances == 0, "a component has at least one core instance; set at least 1"),
            ("cpu-per-call-milliseconds", self.cpu_per_call.is_zero(), "every call would end the stub; set at least 1"),
            ("time-per-call-milliseconds", self.time_per_call.is_zero(), "every call would end the stub; set at least 1"),
            ("hostcall-bytes", self.hostcall_bytes == 0, "every post would end the stub; set at least 1"),
            ("inbox-messages", self.inbox_messages == 0, "no message could wait for the stub; set at least 1"),
            ("inbox-bytes", self.inbox_bytes == 0, "no message could wait for the stub; set at least 1"),
            ("body-bytes", self.body_bytes == 0, "the stub could not post any body; set at least 1"),
            ("posts-per-second", self.posts_per_second == 0, "the stub could never answer; set at least 1"),
            ("publications-per-second", self.publications_per_second == 0, "the stub could never be live; set at least 1"),
            ("connect-attempts-per-second", self.connect_attempts_per_second == 0, NO_CONNECTIONS),
            ("frame-bytes", self.frame_bytes == 0, NO_CONNECTIONS),
            ("bytes-in-per-second", self.bytes_in_per_second == 0, NO_CONNECTIONS),
            ("bytes-out-per-second", self.bytes_out_per_second == 0, NO_CONNECTIONS),
            ("descriptor-bytes", self.descriptor_bytes == 0, "every descriptor is larger; set at least 1"),
            ("component-bytes", self.component_bytes == 0, "every component is larger; set at least 1"),
            ("downloads-per-hour", self.downloads_per_hour == 0, "no descriptor could come; set at least 1"),
            ("download-bytes-per-hour", self.download_bytes_per_hour == 0, "no descriptor could come; set at least 1"),
        ];
        if let Some((setting, _, problem)) = never.into_iter().find(|(_, is_zero, _)| *is_zero) {
            return Err(InvalidLimit { setting, problem: format!("is 0, but {problem}") });
        }
        if self.memory_bytes < WASM_PAGE_BYTES {
            let problem =
                format!("is {}, less than one page of a linear memory; set at least {WASM_PAGE_BYTES}", self.memory_bytes);
            return Err(InvalidLimit { setting: "memory-bytes", problem });
        }
        let pool_instances = usize::try_from(POOL_INSTANCES).unwrap_or(usize::MAX);
        let largest = [
            ("memories", self.memories, usize::try_from(POOL_MEMORIES).unwrap_or(usize::MAX)),
            ("tables", self.tables, pool_instances),
            ("table-elements", self.table_elements, POOL_TABLE_ELEMENTS),
            ("instances", self.instances, pool_instances),
        ];
        match largest.into_iter().find(|(_, value, most)| value > most) {
            None => Ok(()),
            Some((setting, value, most)) => {
                let problem = format!("is {value}, but a sandbox has room for {most}; set at most {most}");
                Err(InvalidLimit { setting, problem })
            }
        }
    }

    /// Checks the limits that a sandbox relies on.
    pub(crate) fn check_for_engine(&self, base: &Self, engine: &EngineConfig) -> Result<(), InvalidLimit> {
        let fail = |setting, problem| Err(InvalidLimit { setting, problem });
        if self.memory_bytes > engine.max_memory_bytes {
            let most = engine.max_memory_bytes;
            let problem = format!("is {}, more than the largest memory of a sandbox; set at most {most}", self.memory_bytes);
            return fail("memory-bytes", problem);
        }
        if self.cpu_per_second.is_zero() {
            return fail("cpu-per-second-milliseconds", "is 0, but the stub could never compute; set at least 1".to_owned());
        }
        if self.batch_events == 0 {
            return fail("batch-events", "is 0, but the stub could never get an event; set at least 1".to_owned());
        }
        let hostcall = self.hostcall_bytes;
        let (part, bytes) = match self.frame_bytes > self.body_bytes {
            true => ("frame-bytes", self.frame_bytes),
            false => ("body-bytes", self.body_bytes),
        };
        if hostcall >= bytes {
            return Ok(());
        }
        match hostcall < base.hostcall_bytes {
            true => {
                let problem = format!("is {hostcall}, less than `{part}`; set at least {bytes}");
                fail("hostcall-bytes", format!("{problem}: a permitted frame or body would end the stub"))
            }
            false => {
                let problem = format!("is {bytes}, more than `hostcall-bytes`; set at most {hostcall}, or raise that too");
                fail(part, format!("{problem}: a permitted frame or body would end the stub"))
            }
        }
    }
}

/// The problem of a zero with which connections never work.
const NO_CONNECTIONS: &str = "no connection could work; set at least 1, or `connections` to 0 to forbid connections";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LimitOverrides;

    fn check(change: impl FnOnce(&mut Limits), expected: &str) {
        let mut limits = Limits::default();
        change(&mut limits);
        let error = limits.check(&Limits::default(), &EngineConfig::default()).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }

    #[test]
    fn default_limits_pass_their_check() {
        assert_eq!(Limits::default().check(&Limits::default(), &EngineConfig::default()), Ok(()));
    }

    #[test]
    fn limits_beyond_the_pool_are_refused() {
        check(|limits| limits.memories = 5, "`memories` is 5, but a sandbox has room for 4");
        check(|limits| limits.tables = 65, "`tables` is 65, but a sandbox has room for 64");
        check(|limits| limits.table_elements = 20_001, "`table-elements` is 20001, but");
        check(|limits| limits.instances = 65, "`instances` is 65, but a sandbox has room for 64");
        check(|limits| limits.memory_bytes = (1 << 30) + 1, "`memory-bytes` is 1073741825, more than");
        check(|limits| limits.memory_bytes = 65_535, "`memory-bytes` is 65535, less than one page");
    }

    #[test]
    fn contradiction_names_the_limit_that_was_set() {
        check(|limits| limits.hostcall_bytes = 9, "`hostcall-bytes` is 9, less than");
        check(|limits| limits.frame_bytes = 5 << 20, "`frame-bytes` is 5242880, more than `hostcall-bytes`");
        check(|limits| limits.body_bytes = 5 << 20, "`body-bytes` is 5242880, more than `hostcall-bytes`");

        let base = Limits { hostcall_bytes: 8 << 20, frame_bytes: 8 << 20, ..Limits::default() };
        let overrides = LimitOverrides { body_bytes: Some(9 << 20), ..LimitOverrides::default() };
        let error = overrides.over(&base).check(&base, &EngineConfig::default()).unwrap_err();
        assert_eq!(error.setting, "body-bytes");
        let overrides = LimitOverrides { hostcall_bytes: Some(4 << 20), ..LimitOverrides::default() };
        let error = overrides.over(&base).check(&base, &EngineConfig::default()).unwrap_err();
        assert_eq!(error.setting, "hostcall-bytes");
    }
}
