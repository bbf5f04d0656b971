//! Runs and their statistics. The machine may be busy, so sides take many short turns, and the
//! median counts.

use std::{future::Future, time::Duration};

use anyhow::Result;

/// Values of one thing, one per run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// Returns the range from the first to the third quartile, as a fraction of the median.
    pub(crate) fn spread(&self) -> f64 {
        let median = self.median();
        if median == 0.0 { 0.0 } else { ((self.quantile(0.75) - self.quantile(0.25)) / median).abs() }
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "an index")]
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let at = part * sorted.len().saturating_sub(1) as f64;
        let (below, above) = (at.floor() as usize, at.ceil() as usize);
        match (sorted.get(below), sorted.get(above)) {
            (Some(low), Some(high)) => low + (high - low) * at.fract(),
            _ => f64::NAN,
        }
    }

    /// Divides these values by the others, run by run. A disturbance of both sides of a run affects
    /// their ratio least.
    pub(crate) fn over(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(one, other)| one / other).collect())
    }

    pub(crate) fn minus(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(one, other)| one - other).collect())
    }

    pub(crate) fn plus(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(one, other)| one + other).collect())
    }

    pub(crate) fn times(&self, factor: f64) -> Self {
        Self(self.0.iter().map(|value| value * factor).collect())
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

/// The amount of measuring.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// Number of turns of each side.
    pub(crate) rounds: usize,
    /// Approximate time of one turn.
    pub(crate) turn: Duration,
    /// Number of stubs in a crowd.
    pub(crate) crowd: usize,
    /// Time for which idle processes are observed.
    pub(crate) idle: Duration,
    /// Number of turns of slow operations, such as a compilation.
    pub(crate) slow_rounds: usize,
}

impl Effort {
    pub(crate) const FULL: Self =
        Self { rounds: 101, turn: Duration::from_millis(10), crowd: 10_000, idle: Duration::from_secs(20), slow_rounds: 15 };
    pub(crate) const QUICK: Self =
        Self { rounds: 41, turn: Duration::from_millis(5), crowd: 10_000, idle: Duration::from_secs(5), slow_rounds: 7 };
    /// Shows that the harness works, and nothing else.
    pub(crate) const SMOKE: Self =
        Self { rounds: 1, turn: Duration::ZERO, crowd: 20, idle: Duration::from_millis(50), slow_rounds: 1 };

    /// Returns the number of operations that take about one turn, estimated from a trial.
    pub(crate) async fn count<F: Future<Output = Result<Duration>>>(&self, mut run: impl FnMut(u32) -> F) -> Result<u32> {
        const TRIED: u32 = 64;
        if self.turn.is_zero() {
            return Ok(2);
        }
        // The first ones warm up.
        run(TRIED).await?;
        let each = run(TRIED).await?.max(Duration::from_nanos(1)) / TRIED;
        let count = self.turn.as_nanos() / each.as_nanos().max(1);
        Ok(u32::try_from(count).unwrap_or(u32::MAX).clamp(8, 1_000_000))
    }
}

/// Returns the nanoseconds of each of `count` operations.
pub(crate) fn each(took: Duration, count: u32) -> f64 {
    took.as_secs_f64() * 1e9 / f64::from(count.max(1))
}
