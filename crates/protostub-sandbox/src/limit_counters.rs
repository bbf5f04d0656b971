//! Counts how often an instance ran into each of its limits, and reports it.

use std::collections::BTreeMap;

use crate::{contract::types::Error, state::StubState};

/// The number of times that the instance ran into each limit, by the setting's name.
#[derive(Debug, Default)]
pub(crate) struct LimitCounters {
    times: BTreeMap<&'static str, u64>,
}

impl LimitCounters {
    /// Counts one more time. Returns the number so far if it deserves a log line: the first time,
    /// the tenth, the hundredth, and so on.
    fn count(&mut self, setting: &'static str) -> Option<u64> {
        let times = self.times.entry(setting).or_default();
        *times += 1;
        is_power_of_ten(*times).then_some(*times)
    }
}

fn is_power_of_ten(mut number: u64) -> bool {
    while number >= 10 && number.is_multiple_of(10) {
        number /= 10;
    }
    number == 1
}

impl StubState {
    /// Counts that the instance ran into this limit, and reports it.
    pub(crate) fn count_limit(&mut self, setting: &'static str) {
        if let Some(times) = self.limit_counters.count(setting) {
            let (stub, domain) = (&self.config.url, &self.config.domain);
            tracing::warn!(target: "protostub::limits", %stub, %domain, limit = setting, times, "the stub ran into a limit");
        }
        self.services.presence.limited(setting);
    }

    /// Counts a connection that was refused because the limit of connections was reached.
    pub(crate) fn count_connection_limit<T>(&mut self, opened: &Result<T, Error>) {
        if matches!(opened, Err(Error::Limit(_))) && self.connections.is_full() {
            self.count_limit("connections");
        }
    }

    /// Counts the limits that only slowed the instance down, during a call or between two calls.
    pub(crate) fn count_throttled(&mut self, cpu_throttled: u64) {
        let (bytes_in, bytes_out) = self.connections.take_throttled();
        let logged = self.log.take_dropped();
        let refused_memories = self.memory.take_refused_by_total();
        let throttled = [
            ("cpu_per_second", cpu_throttled),
            ("bytes_in_per_second", bytes_in),
            ("bytes_out_per_second", bytes_out),
            ("log_lines_per_second", logged.over_rate),
            ("log_bytes_per_day", logged.over_day),
            ("max_log_bytes_per_day", logged.over_total),
            ("max_memory_bytes", refused_memories),
        ];
        let refused = self.connections.take_refused();
        for (setting, times) in throttled.into_iter().chain(refused) {
            for _ in 0..times {
                self.count_limit(setting);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_hits_are_logged_at_each_power_of_ten() {
        let mut counters = LimitCounters::default();
        let told: Vec<_> = (0..1_500).filter_map(|_| counters.count("posts_per_second")).collect();
        assert_eq!(told, [1, 10, 100, 1_000]);
        assert_eq!(counters.count("timers"), Some(1));
    }
}
