use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::deadline;

/// Maximum number of parties that are counted apart in one window. All further parties share one
/// account, so that the parties themselves take bounded memory.
const MAX_PARTIES: usize = 16_384;

/// The allowances of all parties of one resource, for a window of time such as a day. The first use
/// begins a window. When it ends, all of it may be used again.
///
/// A party may use its own limit, and no more than is left for all. One party therefore uses at
/// most half of the total, and a party that has used nothing always finds some.
#[derive(Debug)]
pub struct Allowances {
    total: u64,
    period: Duration,
    window: Mutex<Window>,
}

#[derive(Debug)]
struct Window {
    end: Instant,
    used: u64,
    parties: HashMap<Arc<str>, PartyUse>,
}

#[derive(Debug, Default)]
struct PartyUse {
    amount: u64,
    is_refused: bool,
}

/// The allowance of one party. Clones, and allowances of the same party, share what was used.
#[derive(Clone)]
pub struct Allowance {
    of_all: Arc<Allowances>,
    party: Arc<str>,
    limit: u64,
}

/// A use that was refused, because nothing is left in this window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Overdrawn {
    /// `true` if the limit of all parties refuses, `false` if the party's own does.
    pub is_total: bool,
    /// That limit.
    pub limit: u64,
    /// `true` for the first refusal of this party in this window: the one to report.
    pub is_first: bool,
}

impl Allowances {
    /// Returns the allowances of parties that use at most `total` in each `period`, together.
    #[must_use]
    pub fn new(total: u64, period: Duration) -> Arc<Self> {
        let window = Window { end: Instant::now(), used: 0, parties: HashMap::new() };
        Arc::new(Self { total, period, window: Mutex::new(window) })
    }

    /// Returns the allowance of a party with this limit. The name tells parties apart.
    #[must_use]
    pub fn of(self: &Arc<Self>, party: &str, limit: u64) -> Allowance {
        Allowance { of_all: Arc::clone(self), party: party.into(), limit }
    }

    fn charge(&self, party: &Arc<str>, limit: u64, amount: u64, now: Instant) -> Result<(), Overdrawn> {
        // A panic cannot leave the numbers inconsistent: they are complete after every statement.
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if now >= window.end {
            *window = Window { end: deadline(now, self.period), used: 0, parties: HashMap::new() };
        }
        let left = self.total.saturating_sub(window.used);
        let is_new = !window.parties.contains_key(party);
        let party = if is_new && window.parties.len() >= MAX_PARTIES { Arc::from("") } else { Arc::clone(party) };
        let of_party = window.parties.entry(party).or_default();
        let wanted = of_party.amount.saturating_add(amount);
        if wanted > limit || !within_share(of_party.amount, amount, left) {
            let is_total = wanted <= limit;
            let is_first = !std::mem::replace(&mut of_party.is_refused, true);
            return Err(Overdrawn { is_total, limit: if is_total { self.total } else { limit }, is_first });
        }
        of_party.amount = wanted;
        window.used += amount;
        Ok(())
    }
}

impl Allowance {
    /// Uses this amount.
    ///
    /// # Errors
    /// If the party has used its limit or its share of the total. Then nothing is used.
    pub fn charge(&self, amount: u64) -> Result<(), Overdrawn> {
        self.of_all.charge(&self.party, self.limit, amount, Instant::now())
    }
}

impl fmt::Debug for Allowance {
    /// Leaves out the other parties.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Allowance").field("party", &self.party).field("limit", &self.limit).finish_non_exhaustive()
    }
}

/// Returns `true` if a party that has `held` may get `more`, and `left` is left for all: the party
/// then has at most as much as is left after that, and one more.
///
/// One party therefore gets at most half of a total, two parties a third each if they take turns,
/// and a party without anything always finds some.
#[must_use]
pub fn within_share(held: u64, more: u64, left: u64) -> bool {
    left.checked_sub(more).is_some_and(|left| held.saturating_add(more) <= left.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn allowance_ends_at_its_limit_and_begins_again() {
        let (all, party, now) = (Allowances::new(1_000, HOUR), Arc::from("a"), Instant::now());
        let at = |minutes: u64, amount| all.charge(&party, 100, amount, now + Duration::from_secs(60 * minutes));
        let overdrawn = |is_first| Err(Overdrawn { is_total: false, limit: 100, is_first });
        assert_eq!(at(0, 90), Ok(()));
        assert_eq!([at(1, 11), at(59, 11)], [overdrawn(true), overdrawn(false)]);
        assert_eq!(at(59, 10), Ok(()), "what was refused is not used");
        assert_eq!([at(60, 100), at(61, 1)], [Ok(()), overdrawn(true)]);
    }

    #[test]
    fn spenders_leave_a_share_for_a_newcomer() {
        let (all, now) = (Allowances::new(1_000, HOUR), Instant::now());
        let spend = |party: &str| {
            let party = Arc::from(party);
            (0..1_000).take_while(|_| all.charge(&party, u64::MAX, 1, now).is_ok()).count()
        };
        assert_eq!([spend("a"), spend("b"), spend("c")], [500, 250, 125]);
        let refused = all.charge(&Arc::from("a"), u64::MAX, 1, now);
        assert_eq!(refused, Err(Overdrawn { is_total: true, limit: 1_000, is_first: false }));
    }

    #[test]
    fn share_of_one_party_is_half_and_never_nothing() {
        assert_eq!([500, 501].map(|all_at_once| within_share(0, all_at_once, 1_000)), [true, false]);
        assert!(within_share(499, 1, 501) && !within_share(500, 1, 500));
        assert!(within_share(0, 1, 1) && !within_share(0, 1, 0) && !within_share(1, 1, 1));
    }

    #[test]
    fn parties_beyond_the_maximum_share_an_account() {
        let (all, now) = (Allowances::new(u64::MAX, HOUR), Instant::now());
        let use_up = |n: usize| all.charge(&Arc::from(n.to_string()), 1, 1, now);
        for n in 0..=MAX_PARTIES {
            assert_eq!(use_up(n), Ok(()), "{n}");
        }
        assert!(use_up(MAX_PARTIES + 1).is_err());
        assert!(all.window.lock().unwrap().parties.len() <= MAX_PARTIES + 1);
    }

    #[test]
    fn allowances_of_one_party_share_what_was_used() {
        let all = Allowances::new(u64::MAX, HOUR);
        all.of("a", 10).charge(10).unwrap();
        assert!(all.of("a", 10).charge(1).is_err());
        assert!(all.of("b", 10).charge(1).is_ok());
    }
}
