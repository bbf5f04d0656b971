//! The limits that an instance ran into: who is told, and how often.

use std::collections::BTreeMap;

use crate::{contract::types::Error, state::StubState};

/// How often the instance ran into each limit, by the setting's name.
#[derive(Debug, Default)]
pub(crate) struct Hits {
    times: BTreeMap<&'static str, u64>,
}

impl Hits {
    /// Counts one more; how often it was so far, if that is worth a line: the first time, the tenth, the hundredth …
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
    /// The instance ran into this limit.
    pub(crate) fn limited(&mut self, setting: &'static str) {
        if let Some(times) = self.hits.count(setting) {
            let (stub, domain) = (&self.config.url, &self.config.domain);
            tracing::warn!(target: "protostub::limits", %stub, %domain, limit = setting, times, "the stub ran into a limit");
        }
        self.services.presence.limited(setting);
    }

    /// Whether one more connection was one too many.
    pub(crate) fn note_connections<T>(&mut self, opened: &Result<T, Error>) {
        if matches!(opened, Err(Error::Limit(_))) && self.connections.is_full() {
            self.limited("connections");
        }
    }

    /// What was only slowed down during a call, or between two, counts too.
    pub(crate) fn note_limits(&mut self, cpu_throttled: u64) {
        let (bytes_in, bytes_out) = self.connections.take_throttled();
        let logged = self.log.take_dropped();
        let throttled = [
            ("cpu_per_second", cpu_throttled),
            ("bytes_in_per_second", bytes_in),
            ("bytes_out_per_second", bytes_out),
            ("log_lines_per_second", logged),
        ];
        let refused = self.connections.take_refused();
        for (setting, times) in throttled.into_iter().chain(refused) {
            for _ in 0..times {
                self.limited(setting);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_each_power_of_ten() {
        let mut hits = Hits::default();
        let told: Vec<_> = (0..1_500).filter_map(|_| hits.count("posts_per_second")).collect();
        assert_eq!(told, [1, 10, 100, 1_000]);
        assert_eq!(hits.count("timers"), Some(1));
    }
}
