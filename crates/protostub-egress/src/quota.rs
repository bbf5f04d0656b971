//! The sockets of the process, and each party's share of them and of connection attempts.
//!
//! ```text
//!   Egress ── Budget: the sockets of the process, with a reserve for the host's own
//!                │
//!   Quota ───────┤  one party's account: sockets held, attempts per second, look-ups at a time
//!                ▼
//!   Socket owns a Permit ── returned to both when the socket is really closed
//! ```

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};

use crate::{
    error::EgressError,
    limit_reached::{LimitKind, LimitReached},
};

/// Descriptors of one look-up: a socket for IPv4 addresses and one for IPv6 addresses.
const LOOKUP_SOCKETS: usize = 2;
/// Size of a burst, in seconds' worth of attempts.
const BURST_SECONDS: u32 = 2;
/// Maximum number of concurrent look-ups of the host itself. Further look-ups wait.
const OWN_LOOKUPS: usize = 16;

/// Maximum use of the network by one party.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the creator of a quota has to decide on all of it")]
pub struct QuotaLimits {
    /// Maximum number of open sockets: connecting, in use, idle and closing.
    pub sockets: usize,
    /// Maximum number of connection attempts per second. A burst may have twice as many. One
    /// attempt is a look-up together with the first address, each further address, or each later
    /// start of TLS.
    pub attempts_per_second: u32,
    /// Maximum number of concurrent name look-ups. Further look-ups wait.
    pub lookups: usize,
}

impl Default for QuotaLimits {
    fn default() -> Self {
        Self { sockets: 32, attempts_per_second: 20, lookups: 8 }
    }
}

/// The account of one party: a stub with all its instances, or the host itself. Clones share the
/// account.
///
/// [`Egress::quota`](crate::Egress::quota) opens an account. [`Egress::own`](crate::Egress::own) is
/// the host's. A socket stays charged until it is closed, even if its owner has ended.
#[derive(Clone)]
pub struct Quota(Arc<Account>);

/// The identity of an account among the parties that take turns. Only an account in use has an
/// identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Party(usize);

struct Account {
    budget: Arc<Budget>,
    /// `None` for the host's own account, which only the budget limits.
    limits: Option<QuotaLimits>,
    lookups: Semaphore,
    attempts: Mutex<AttemptBucket>,
    /// Sockets of connections.
    sockets: AtomicUsize,
    /// All descriptors, including those of look-ups. Changes only under the budget's lock.
    held: AtomicUsize,
    refusals: [AtomicU64; LimitKind::ALL.len()],
}

/// Token bucket in the form of the next free time (GCRA, ITU-T I.371).
#[derive(Debug)]
struct AttemptBucket {
    /// The time at which the bucket is full again.
    full_at: Instant,
}

impl AttemptBucket {
    /// Returns the time until the next attempt is possible. `None` if an attempt is possible now.
    fn wait(&self, per_second: u32, now: Instant) -> Option<Duration> {
        let capacity = Duration::from_secs(BURST_SECONDS.into());
        let debt = (self.full_at + interval(per_second)).saturating_duration_since(now);
        debt.checked_sub(capacity).filter(|wait| !wait.is_zero())
    }

    fn take(&mut self, per_second: u32, now: Instant) {
        self.full_at = self.full_at.max(now) + interval(per_second);
    }
}

fn interval(per_second: u32) -> Duration {
    Duration::from_secs(1) / per_second.max(1)
}

impl Quota {
    /// Opens an account with these limits.
    pub(crate) fn new(budget: &Arc<Budget>, limits: QuotaLimits) -> Self {
        Self::open(budget, Some(limits), limits.lookups)
    }

    /// Opens the host's own account. Only the budget limits it, and it may use the budget's
    /// reserve.
    pub(crate) fn own(budget: &Arc<Budget>) -> Self {
        Self::open(budget, None, OWN_LOOKUPS)
    }

    fn open(budget: &Arc<Budget>, limits: Option<QuotaLimits>, lookups: usize) -> Self {
        Self(Arc::new(Account {
            budget: Arc::clone(budget),
            limits,
            lookups: Semaphore::new(lookups.clamp(1, Semaphore::MAX_PERMITS)),
            attempts: Mutex::new(AttemptBucket { full_at: Instant::now() }),
            sockets: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            refusals: Default::default(),
        }))
    }

    /// Returns the identity of the account.
    pub(crate) fn party(&self) -> Party {
        Party(Arc::as_ptr(&self.0) as usize)
    }

    /// Number of open sockets.
    #[must_use]
    pub fn sockets(&self) -> usize {
        self.0.sockets.load(Ordering::Relaxed)
    }

    /// Checks for room for one more connection, without opening one. For callers that can refuse
    /// early, or can close an idle connection first. A refusal is not counted.
    ///
    /// # Errors
    /// The limit that would refuse a connection now.
    pub fn check(&self) -> Result<(), LimitReached> {
        self.0.check_attempt(Instant::now())?;
        self.0.check_socket(&self.0.budget.held())
    }

    /// Counts a refusal that a caller decided on after [`check`](Self::check).
    pub fn note(&self, limit: LimitReached) {
        self.0.note(limit.kind);
    }

    /// Returns the settings of all limits, each with the number of its refusals since the last
    /// call.
    pub fn take_refusals(&self) -> [(&'static str, u64); 3] {
        LimitKind::ALL.map(|kind| {
            let refusals = &self.0.refusals[kind as usize];
            // Loads before swapping: the sandbox calls this after every call of a stub, and the
            // count is mostly zero.
            let times = if refusals.load(Ordering::Relaxed) == 0 { 0 } else { refusals.swap(0, Ordering::Relaxed) };
            (kind.setting(), times)
        })
    }

    /// Charges a connection attempt.
    pub(crate) fn attempt(&self) -> Result<(), LimitReached> {
        let now = Instant::now();
        let Some(limits) = self.0.limits else { return Ok(()) };
        let mut attempts = self.0.attempts();
        if attempts.wait(limits.attempts_per_second, now).is_some() {
            drop(attempts);
            return Err(self.0.note(LimitKind::Attempts));
        }
        attempts.take(limits.attempts_per_second, now);
        Ok(())
    }

    /// Charges a socket for the lifetime of the permit.
    pub(crate) fn socket(&self) -> Result<Permit, LimitReached> {
        let mut held = self.0.budget.held();
        if let Err(limit) = self.0.check_socket(&held) {
            drop(held);
            return Err(self.0.note(limit.kind));
        }
        held.take(&self.0, 1);
        self.0.sockets.fetch_add(1, Ordering::Relaxed);
        Ok(Permit { account: Arc::clone(&self.0), descriptors: 1, is_connection: true })
    }

    /// Waits for the party's turn to resolve a name, and charges the look-up's sockets.
    pub(crate) async fn lookup(&self) -> Result<Lookup<'_>, LimitReached> {
        // The semaphore is never closed.
        let turn = self.0.lookups.acquire().await.ok();
        let mut held = self.0.budget.held();
        // Limits do not apply to the host's own look-ups: they are few, and a limit would count as
        // the failure of their domain.
        if self.0.limits.is_some() && !self.0.has_share(&held, LOOKUP_SOCKETS) {
            drop(held);
            return Err(self.0.note(LimitKind::Sockets));
        }
        held.take(&self.0, LOOKUP_SOCKETS);
        let sockets = Permit { account: Arc::clone(&self.0), descriptors: LOOKUP_SOCKETS, is_connection: false };
        Ok(Lookup { _sockets: sockets, _turn: turn })
    }
}

impl Account {
    fn attempts(&self) -> MutexGuard<'_, AttemptBucket> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_attempt(&self, now: Instant) -> Result<(), LimitReached> {
        match self.limits {
            Some(limits) if self.attempts().wait(limits.attempts_per_second, now).is_some() => {
                Err(self.reached(LimitKind::Attempts))
            }
            _ => Ok(()),
        }
    }

    fn check_socket(&self, held: &Held) -> Result<(), LimitReached> {
        if self.limits.is_some_and(|limits| self.sockets.load(Ordering::Relaxed) >= limits.sockets) {
            return Err(self.reached(LimitKind::Connections));
        }
        if self.has_share(held, 1) { Ok(()) } else { Err(self.reached(LimitKind::Sockets)) }
    }

    /// Returns `true` if the party's share has room: a party may hold as many sockets as are left
    /// for all. So one party gets at most half of them, two parties get a third each, and a party
    /// without sockets always finds some.
    fn has_share(&self, held: &Held, more: usize) -> bool {
        let budget = &self.budget;
        match self.limits {
            None => held.all + more <= budget.total,
            Some(_) => {
                let left = budget.for_stubs().saturating_sub(held.by_stubs).min(budget.total.saturating_sub(held.all));
                more <= left && self.held.load(Ordering::Relaxed) < left
            }
        }
    }

    fn reached(&self, kind: LimitKind) -> LimitReached {
        let limit = match (kind, self.limits) {
            (LimitKind::Sockets, _) | (_, None) => self.budget.for_stubs(),
            (LimitKind::Connections, Some(limits)) => limits.sockets,
            (LimitKind::Attempts, Some(limits)) => limits.attempts_per_second.try_into().unwrap_or(usize::MAX),
        };
        LimitReached { kind, limit }
    }

    fn note(&self, kind: LimitKind) -> LimitReached {
        self.refusals[kind as usize].fetch_add(1, Ordering::Relaxed);
        self.reached(kind)
    }
}

/// Omits the budget.
impl fmt::Debug for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quota").field("limits", &self.0.limits).field("sockets", &self.sockets()).finish_non_exhaustive()
    }
}

/// A charge for descriptors. Dropping it returns them.
pub(crate) struct Permit {
    account: Arc<Account>,
    descriptors: usize,
    is_connection: bool,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut held = self.account.budget.held();
        held.give_back(&self.account, self.descriptors);
        drop(held);
        if self.is_connection {
            self.account.sockets.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("descriptors", &self.descriptors).finish_non_exhaustive()
    }
}

/// A party's turn to resolve a name. Dropping it ends the turn.
#[derive(Debug)]
pub(crate) struct Lookup<'a> {
    _sockets: Permit,
    _turn: Option<SemaphorePermit<'a>>,
}

/// The sockets of all parties together.
#[derive(Debug)]
pub(crate) struct Budget {
    total: usize,
    /// Part of `total` that only the host's own account may use.
    reserve: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    all: usize,
    by_stubs: usize,
}

impl Held {
    fn take(&mut self, account: &Account, descriptors: usize) {
        self.all += descriptors;
        self.by_stubs += if account.limits.is_some() { descriptors } else { 0 };
        account.held.fetch_add(descriptors, Ordering::Relaxed);
    }

    fn give_back(&mut self, account: &Account, descriptors: usize) {
        self.all -= descriptors;
        self.by_stubs -= if account.limits.is_some() { descriptors } else { 0 };
        account.held.fetch_sub(descriptors, Ordering::Relaxed);
    }
}

impl Budget {
    /// Creates a budget of `max_sockets`. An eighth of them is reserved for the host.
    pub(crate) fn new(max_sockets: usize) -> Arc<Self> {
        let total = max_sockets.max(MIN_SOCKETS);
        Arc::new(Self { total, reserve: (total / 8).min(MAX_RESERVE), held: Mutex::default() })
    }

    /// The number of sockets that stubs share.
    fn for_stubs(&self) -> usize {
        self.total - self.reserve
    }

    pub(crate) fn total(&self) -> usize {
        self.total
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // A panic cannot leave the numbers inconsistent: they are complete after every statement.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The smallest budget with which a stub works.
const MIN_SOCKETS: usize = 8;
/// Maximum reserve. The catalogue and token endpoints never need more.
const MAX_RESERVE: usize = 128;
/// The default for systems without a limit on descriptors.
const UNLIMITED_SOCKETS: usize = 64 << 10;

/// Returns the configured number of sockets, or the default from the soft limit on descriptors.
pub(crate) fn max_sockets(asked: Option<usize>) -> Result<usize, EgressError> {
    #[cfg(unix)]
    let soft_limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    #[cfg(not(unix))]
    let soft_limit: Option<u64> = None;
    let asked_of_limit = asked.zip(soft_limit.and_then(|limit| usize::try_from(limit).ok()));
    if let Some(sockets) = asked.filter(|sockets| *sockets < MIN_SOCKETS) {
        let problem = format!("`max-sockets` is {sockets}, but a stub needs {MIN_SOCKETS}; set at least {MIN_SOCKETS}");
        return Err(EgressError::Config(problem));
    }
    match asked_of_limit {
        Some((sockets, limit)) if sockets > limit => Err(EgressError::Config(format!(
            "`max-sockets` is {sockets}, but the process is limited to {limit} descriptors; raise that limit (`ulimit -n`)"
        ))),
        _ => Ok(asked.unwrap_or_else(|| sockets_of(soft_limit))),
    }
}

/// Returns the soft limit, less a quarter of it (64 to 1024) for files, the control socket and the
/// host program. `None` means unlimited.
fn sockets_of(soft_limit: Option<u64>) -> usize {
    let limit = soft_limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(UNLIMITED_SOCKETS).min(UNLIMITED_SOCKETS);
    limit.saturating_sub((limit / 4).clamp(64, 1024)).max(limit / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(sockets: usize) -> QuotaLimits {
        QuotaLimits { sockets, ..QuotaLimits::default() }
    }

    /// Takes all permits that the quota grants.
    fn hoard(quota: &Quota) -> Vec<Permit> {
        (0..1_000).map_while(|_| quota.socket().ok()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_replenish_over_time() {
        let quota = Quota::new(&Budget::new(100), limits(16));
        let attempts = || (0..1_000).map_while(|_| quota.attempt().ok()).count();
        assert_eq!(attempts(), 40, "two seconds' worth at once");
        let refused = quota.attempt().unwrap_err();
        assert_eq!(refused.setting(), "connect_attempts_per_second");
        assert!(refused.to_string().contains("20 connection attempts per second (`connect-attempts-per-second`)"), "{refused}");
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(attempts(), 10);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(attempts(), 40, "no more is saved up");
        let refusals = quota.take_refusals();
        assert_eq!(refusals[1], ("connect_attempts_per_second", 4));
        assert_eq!(quota.take_refusals().map(|(_, times)| times), [0; 3]);
    }

    #[test]
    fn closed_sockets_return_to_the_quota() {
        let quota = Quota::new(&Budget::new(1_000), limits(16));
        let mut held = hoard(&quota);
        assert_eq!((held.len(), quota.sockets()), (16, 16));
        assert_eq!(quota.check().unwrap_err().setting(), "connections");
        held.pop();
        assert_eq!(quota.check(), Ok(()));
        drop(held);
        assert_eq!(quota.sockets(), 0);
        assert_eq!(quota.take_refusals()[0], ("connections", 1));
    }

    #[test]
    fn hoarders_leave_sockets_for_a_newcomer() {
        let budget = Budget::new(80);
        assert_eq!(budget.for_stubs(), 70);
        let hoarders: Vec<_> = (0..4).map(|_| Quota::new(&budget, limits(1_000))).collect();
        let hoards: Vec<_> = hoarders.iter().map(hoard).collect();
        assert_eq!(hoards[0].len(), 35, "the first has half");
        assert_eq!(hoarders[0].check().unwrap_err().setting(), "max_sockets");
        let newcomer = Quota::new(&budget, limits(1_000));
        let first = newcomer.socket();
        assert!(first.is_ok(), "{first:?}");
        // The host always has its reserve.
        let own = hoard(&Quota::own(&budget));
        assert!(own.len() >= 10, "{}", own.len());
        drop((hoards, first, own));
        let held = budget.held();
        assert_eq!((held.all, held.by_stubs), (0, 0));
    }

    #[tokio::test]
    async fn lookups_over_the_share_wait_for_their_turn() {
        let quota = Quota::new(&Budget::new(1_000), QuotaLimits { lookups: 2, ..QuotaLimits::default() });
        let (first, _second) = (quota.lookup().await.unwrap(), quota.lookup().await.unwrap());
        let mut third = std::pin::pin!(quota.lookup());
        assert!(futures_util::poll!(&mut third).is_pending());
        drop(first);
        assert!(third.await.is_ok());
    }

    #[test]
    fn default_leaves_descriptors_for_files() {
        let of = |limit| sockets_of(Some(limit));
        assert_eq!([of(64), of(256), of(1_024), of(65_536)], [16, 192, 768, 64_512]);
        assert_eq!(sockets_of(None), 64_512);
        let error = max_sockets(Some(usize::MAX)).unwrap_err().to_string();
        assert!(error.contains("raise that limit (`ulimit -n`)"), "{error}");
    }
}
