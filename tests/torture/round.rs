use std::time::Duration;

use anyhow::Result;
use hostile::{Attack, Attacker, Contained, Escaped, Lateness, Load, Stage, Sum, percentile, resident};
use tokio::time::{Instant, sleep};

/// Number of concurrent attackers: one fewer than the guest threads that a runtime has at least.
const ATTACKERS: usize = 3;
/// Pause of an attacker between attacks.
const PAUSE: Duration = Duration::from_millis(20);
/// Time limit for memory to be given back.
const PATIENCE: Duration = Duration::from_secs(5);
/// Permitted growth of resident memory, in bytes. The allocator keeps some memory for reuse.
const TOLERANCE: u64 = 48 << 20;

/// One attack, again and again, next to stubs under load.
pub(crate) struct Round {
    /// How the attack was contained, with its longest time, or how it escaped.
    pub(crate) outcome: Result<Contained, Escaped>,
    /// Number of attacks.
    pub(crate) attacks: usize,
    pub(crate) before: Duration,
    pub(crate) during: Duration,
    /// p99 of the delays of the host program's timers.
    pub(crate) timers: Duration,
    pub(crate) sum: Sum,
    /// Damage to a neighbour.
    pub(crate) neighbours: Result<(), Escaped>,
    /// Lasting growth of resident memory, in bytes.
    pub(crate) kept_bytes: u64,
    pub(crate) gave_back: bool,
}

impl Round {
    pub(crate) async fn run(stage: &Stage, attack: &Attack, window: Duration) -> Result<Self> {
        let load = Load::begin(stage.runtime(), stage.neighbours()).await?;
        // The warm-up does not count as latency.
        sleep(window / 4).await;
        let quiet = Instant::now();
        sleep(window).await;
        let quiet = quiet..Instant::now();
        let memory = resident();
        let timers = Lateness::begin();
        let mut attackers = Vec::new();
        for _ in 0..ATTACKERS {
            attackers.push(stage.place(attack).await?);
        }
        let begin = Instant::now();
        let until = begin + window;
        let outcomes = futures_util::future::join_all(attackers.iter_mut().map(|attacker| provoke(stage, attacker, until))).await;
        let end = Instant::now();
        let mut timers = timers.end().await;
        let mut removed = Ok(());
        for attacker in attackers {
            removed = removed.and(stage.remove(attacker).await);
        }
        let sum = load.end().await;
        // A late answer counts for the period in which its request was due.
        let (mut before, mut during) = (sum.latencies(quiet), sum.latencies(begin..end));
        let neighbours = stage.neighbours().check();
        let (gave_back, kept_bytes) = given_back(memory.0).await;
        let attacks = outcomes.iter().map(|(attacks, _)| attacks).sum();
        let contained = outcomes.into_iter().map(|(_, outcome)| outcome);
        let outcome = contained.reduce(|one, other| {
            let (one, other) = (one?, other?);
            Ok(if one.after > other.after { one } else { other })
        });
        Ok(Self {
            outcome: removed.and(outcome.unwrap_or_else(|| Err(Escaped("no attacker ran".to_owned())))),
            attacks,
            before: percentile(&mut before, 99),
            during: percentile(&mut during, 99),
            timers: percentile(&mut timers, 99),
            sum,
            neighbours,
            kept_bytes,
            gave_back: gave_back || attack.lingers(),
        })
    }
}

/// Attacks until this time. Returns the number of attacks and the slowest containment.
async fn provoke(stage: &Stage, attacker: &mut Attacker, until: Instant) -> (usize, Result<Contained, Escaped>) {
    let mut attacks = 0;
    let mut slowest: Option<Contained> = None;
    loop {
        attacks += 1;
        match stage.provoke(attacker).await {
            Ok(contained) => {
                if slowest.as_ref().is_none_or(|slowest| slowest.after < contained.after) {
                    slowest = Some(contained);
                }
            }
            Err(escaped) => return (attacks, Err(escaped)),
        }
        attacker.drain();
        if Instant::now() >= until {
            return (attacks, slowest.ok_or_else(|| Escaped("the attacker did not attack".to_owned())));
        }
        sleep(PAUSE).await;
    }
}

/// Waits until memory is given back, for at most [`PATIENCE`]. Returns `true` if its growth is at
/// most [`TOLERANCE`], and the growth.
async fn given_back(before: u64) -> (bool, u64) {
    let begin = Instant::now();
    loop {
        let kept = resident().0.saturating_sub(before);
        if kept <= TOLERANCE || begin.elapsed() > PATIENCE {
            return (kept <= TOLERANCE, kept);
        }
        sleep(Duration::from_millis(50)).await;
    }
}
