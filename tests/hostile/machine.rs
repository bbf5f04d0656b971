//! Resource use of the process, and delays of its timers.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    task::JoinHandle,
    time::{Instant, sleep_until},
};

/// Period of the measured timer.
const PERIOD: Duration = Duration::from_millis(5);

/// Resident memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Resident(pub u64);

impl Resident {
    /// Returns the size in mebibytes.
    #[must_use]
    pub fn mebibytes(self) -> u64 {
        self.0 >> 20
    }
}

/// Returns the resident memory of this process. Returns zero without `/proc`.
#[must_use]
pub fn resident() -> Resident {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kibibytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Resident(kibibytes.unwrap_or_default() << 10)
}

/// Returns the number of open file descriptors of this process. Returns zero without `/proc`.
#[must_use]
pub fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// Returns the number of threads of this process. Returns zero without `/proc`.
#[must_use]
pub fn threads() -> usize {
    fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

/// Returns the nearest-rank percentile, or zero without values.
#[must_use]
pub fn percentile(values: &mut [Duration], percent: usize) -> Duration {
    values.sort_unstable();
    let rank = (values.len() * percent).div_ceil(100);
    values.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// Measures the delays of timers of the async runtime in which it was begun: the host program's.
#[derive(Debug)]
pub struct Lateness {
    ended: Arc<AtomicBool>,
    task: JoinHandle<Vec<Duration>>,
}

impl Lateness {
    /// Begins to measure.
    #[must_use]
    pub fn begin() -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&ended);
        let task = tokio::spawn(async move {
            let mut late = Vec::new();
            let mut at = Instant::now();
            while !end.load(Ordering::Relaxed) {
                at += PERIOD;
                sleep_until(at).await;
                late.push(at.elapsed());
                at = at.max(Instant::now());
            }
            late
        });
        Self { ended, task }
    }

    /// Ends the measurement, and returns the delays.
    pub async fn end(self) -> Vec<Duration> {
        self.ended.store(true, Ordering::Relaxed);
        self.task.await.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::percentile;

    #[test]
    fn percentile_is_the_nearest_rank() {
        let check = |count: u64, percent, expected| {
            let mut values: Vec<_> = (1..=count).rev().map(Duration::from_millis).collect();
            assert_eq!(percentile(&mut values, percent), Duration::from_millis(expected), "{percent} of {count}");
        };
        check(0, 99, 0);
        check(1, 99, 1);
        check(50, 99, 50);
        check(100, 99, 99);
        check(101, 99, 100);
        check(800, 99, 792);
        check(4, 50, 2);
    }
}
