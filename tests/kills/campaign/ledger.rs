//! The numbered messages: each one's outcome at its sender, and its arrivals at its receiver.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::{sync::watch, time::timeout};

/// Time limit until each lane has an answer after a kill.
const RECOVERY: Duration = Duration::from_secs(120);

/// A way of messages through the runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// From a client of the control socket, through the message node, to a hyperty elsewhere.
    ToNode,
    /// From a hyperty elsewhere, through the message node, to a hyperty of the runtime.
    FromNode,
    /// From a client of the control socket to the MQTT broker.
    ToBroker,
}

impl Lane {
    pub(crate) const ALL: [Self; 3] = [Self::ToNode, Self::FromNode, Self::ToBroker];

    /// A broker may get a publication twice: the quality of service is "at least once".
    fn may_repeat(self) -> bool {
        self == Self::ToBroker
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ToNode => "to the message node",
            Self::FromNode => "from the message node",
            Self::ToBroker => "to the broker",
        })
    }
}

/// The end of a message for its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Answered,
    /// An error with this code. Zero stands for an error without a code.
    Refused(u16),
    /// The connection of the sender was closed.
    Closed,
}

#[derive(Debug)]
struct Entry {
    lane: Lane,
    /// The epoch in which the message was sent.
    epoch: u64,
    /// The sender has a reason to expect an error.
    is_disturbed: bool,
    outcome: Option<Outcome>,
    arrivals: u32,
}

#[derive(Debug, Default)]
struct State {
    entries: Vec<Entry>,
    /// Each kill and each restart begins another epoch.
    epoch: u64,
    /// A party is down, or has not answered on each lane since its restart.
    is_disturbed: bool,
    answered_twice: u64,
    faults: Vec<String>,
}

/// All messages of a campaign.
#[derive(Debug)]
pub(crate) struct Ledger {
    state: Mutex<State>,
    /// For each lane, the last epoch with an answer.
    answered: [watch::Sender<u64>; Lane::ALL.len()],
}

/// The counts of a lane.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) messages: u64,
    pub(crate) answered: u64,
    pub(crate) closed: u64,
    pub(crate) refused: BTreeMap<u16, u64>,
    /// Number of arrivals after the first one of a message.
    pub(crate) repeated: u64,
    pub(crate) without_outcome: u64,
}

impl Ledger {
    /// Begins disturbed: no party has answered yet.
    pub(crate) fn new() -> Self {
        let state = State { is_disturbed: true, ..State::default() };
        Self { state: Mutex::new(state), answered: Lane::ALL.map(|_| watch::Sender::new(0)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of the next message.
    pub(crate) fn send(&self, lane: Lane) -> usize {
        let mut state = self.state();
        let (epoch, is_disturbed) = (state.epoch, state.is_disturbed);
        state.entries.push(Entry { lane, epoch, is_disturbed, outcome: None, arrivals: 0 });
        state.entries.len() - 1
    }

    /// Notes the outcome of a message. Only a kill explains an error or a closed connection.
    pub(crate) fn end(&self, number: usize, outcome: Outcome) {
        let mut state = self.state();
        let (epoch, is_disturbed) = (state.epoch, state.is_disturbed);
        let Some(entry) = state.entries.get_mut(number) else { return };
        let lane = entry.lane;
        if entry.outcome.is_some() {
            state.answered_twice += 1;
            return;
        }
        entry.outcome = Some(outcome);
        let is_explained = entry.is_disturbed || is_disturbed || entry.epoch != epoch;
        let is_of_this_epoch = entry.epoch == epoch;
        if outcome == Outcome::Answered {
            if is_of_this_epoch {
                self.answered[lane as usize].send_replace(epoch);
            }
        } else if !is_explained {
            state.faults.push(format!("message {number} {lane} ended with {outcome:?}, although nothing was killed"));
        }
    }

    /// Notes the answer to another message than the last one of a client.
    pub(crate) fn wrong_answer(&self, number: usize, answer: &str) {
        let mut state = self.state();
        state.answered_twice += 1;
        state.faults.push(format!("the answer to message {number} is that of another one: {answer:.300}"));
    }

    /// Notes an arrival of a message at its receiver.
    pub(crate) fn arrived(&self, number: usize) {
        if let Some(entry) = self.state().entries.get_mut(number) {
            entry.arrivals += 1;
        }
    }

    pub(crate) fn fault(&self, fault: String) {
        self.state().faults.push(fault);
    }

    /// Begins an epoch in which errors have a reason: before a kill, and after a restart.
    pub(crate) fn disturb(&self) {
        let mut state = self.state();
        state.epoch += 1;
        state.is_disturbed = true;
    }

    /// Waits until a message of this epoch was answered on each lane. From then on, errors have no
    /// reason.
    pub(crate) async fn recovered(&self) -> Result<()> {
        let epoch = self.state().epoch;
        for (lane, answered) in Lane::ALL.into_iter().zip(&self.answered) {
            let mut answered = answered.subscribe();
            timeout(RECOVERY, answered.wait_for(|answered| *answered >= epoch))
                .await
                .with_context(|| format!("no message {lane} was answered within {RECOVERY:?} of a restart"))??;
        }
        self.state().is_disturbed = false;
        Ok(())
    }

    pub(crate) fn counts(&self, lane: Lane) -> Counts {
        let mut counts = Counts::default();
        for entry in self.state().entries.iter().filter(|entry| entry.lane == lane) {
            counts.messages += 1;
            counts.repeated += u64::from(entry.arrivals.saturating_sub(1));
            match entry.outcome {
                Some(Outcome::Answered) => counts.answered += 1,
                Some(Outcome::Refused(code)) => *counts.refused.entry(code).or_default() += 1,
                Some(Outcome::Closed) => counts.closed += 1,
                None => counts.without_outcome += 1,
            }
        }
        counts
    }

    pub(crate) fn answered_twice(&self) -> u64 {
        self.state().answered_twice
    }

    /// Compares both sides, and returns all faults.
    pub(crate) fn faults(&self) -> Vec<String> {
        let state = self.state();
        let mut faults = state.faults.clone();
        for (number, entry) in state.entries.iter().enumerate() {
            let Entry { lane, outcome, arrivals, .. } = *entry;
            if outcome == Some(Outcome::Answered) && arrivals == 0 && lane != Lane::FromNode {
                faults.push(format!("message {number} {lane} was answered, and never arrived"));
            }
            if arrivals > 1 && !lane.may_repeat() {
                faults.push(format!("message {number} {lane} arrived {arrivals} times"));
            }
            if outcome.is_none() {
                faults.push(format!("message {number} {lane} has no outcome"));
            }
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::{Lane, Ledger, Outcome};

    /// Sends a message on each lane, and answers it.
    fn answer_all(ledger: &Ledger) {
        for lane in Lane::ALL {
            let number = ledger.send(lane);
            ledger.arrived(number);
            ledger.end(number, Outcome::Answered);
        }
    }

    /// Returns a ledger in which no kill explains an error.
    async fn calm() -> Ledger {
        let ledger = Ledger::new();
        answer_all(&ledger);
        ledger.recovered().await.expect("an answer on each lane");
        assert_eq!(ledger.faults(), Vec::<String>::new());
        ledger
    }

    #[track_caller]
    fn check(ledger: &Ledger, fault: &str) {
        let faults = ledger.faults();
        assert!(faults.len() == 1 && faults[0].contains(fault), "{faults:?}");
    }

    #[tokio::test]
    async fn error_without_a_kill_is_a_fault() {
        for outcome in [Outcome::Refused(503), Outcome::Closed] {
            let ledger = calm().await;
            ledger.end(ledger.send(Lane::ToNode), outcome);
            check(&ledger, "although nothing was killed");
        }
    }

    #[tokio::test]
    async fn error_of_a_message_during_a_kill_is_no_fault() {
        let ledger = calm().await;
        let before = ledger.send(Lane::ToNode);
        ledger.disturb();
        let meanwhile = ledger.send(Lane::ToBroker);
        answer_all(&ledger);
        ledger.recovered().await.expect("an answer on each lane");
        ledger.end(before, Outcome::Closed);
        ledger.end(meanwhile, Outcome::Refused(408));
        assert_eq!(ledger.faults(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn answers_before_a_kill_do_not_show_recovery() {
        let ledger = calm().await;
        let before = ledger.send(Lane::ToNode);
        ledger.disturb();
        ledger.end(before, Outcome::Answered);
        assert!(*ledger.answered[Lane::ToNode as usize].borrow() < ledger.state().epoch);
    }

    #[tokio::test]
    async fn missing_or_repeated_outcomes_and_arrivals_are_faults() {
        let ledger = calm().await;
        ledger.send(Lane::FromNode);
        check(&ledger, "has no outcome");

        let ledger = calm().await;
        ledger.end(ledger.send(Lane::ToBroker), Outcome::Answered);
        check(&ledger, "was answered, and never arrived");

        let ledger = calm().await;
        let number = ledger.send(Lane::ToNode);
        ledger.arrived(number);
        ledger.arrived(number);
        ledger.end(number, Outcome::Answered);
        check(&ledger, "arrived 2 times");
        ledger.end(number, Outcome::Answered);
        assert_eq!(ledger.answered_twice(), 1);
    }
}
