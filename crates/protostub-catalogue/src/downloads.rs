//! Limits of all downloads: their number and bytes in an hour, those at a time, and the bytes that
//! they hold in memory.
//!
//! Each party is a registrable domain, whose owner alone makes names below it.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use protostub_types::{Allowances, Domain, Overdrawn, SafeText, within_share};
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};
use tracing::warn;

use crate::{CatalogueConfig, DownloadLimit, Fault};

const HOUR: Duration = Duration::from_secs(60 * 60);

/// The downloads of a catalogue from the network. Clones share their counts.
#[derive(Debug, Clone)]
pub(crate) struct Downloads(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: CatalogueConfig,
    number: Arc<Allowances>,
    bytes: Arc<Allowances>,
    places: Shares,
    memory: Shares,
    refusals: Refusals,
}

/// A download that has its place among those at a time.
#[derive(Debug)]
pub(crate) struct Downloading {
    downloads: Downloads,
    domain: Domain,
    _place: Share,
}

/// Memory for the bytes of a download. Dropping it gives the memory back.
#[derive(Debug)]
pub(crate) struct DownloadMemory(#[expect(dead_code, reason = "held until it is dropped")] Share);

impl Downloads {
    pub(crate) fn new(config: &CatalogueConfig) -> Self {
        let totals = config.downloads;
        Self(Arc::new(Inner {
            config: config.clone(),
            number: Allowances::new(totals.per_hour, HOUR),
            bytes: Allowances::new(totals.bytes_per_hour, HOUR),
            places: Shares::new(totals.concurrent),
            memory: Shares::new(totals.memory_bytes),
            refusals: Refusals::new(),
        }))
    }

    /// Begins a download from a domain, once it has a place among those at a time.
    pub(crate) async fn begin(&self, domain: &Domain) -> Result<Downloading, Fault> {
        let inner = &self.0;
        let party = domain.registrable();
        // The attempt itself times out after the idle timeout, without a word about this limit.
        let patience = Instant::now() + inner.config.idle_timeout / 2;
        let Ok(place) = timeout_at(patience, inner.places.take(&party, 1)).await else {
            return Err(inner.refuse(
                domain,
                DownloadLimit::Concurrent,
                inner.config.downloads.concurrent,
                "downloads at a time",
            ));
        };
        let own = inner.own_limit(domain, inner.config.downloads_per_hour(domain));
        if let Err(overdrawn) = inner.number.of(&party, own).charge(1) {
            let limits = [DownloadLimit::Number, DownloadLimit::TotalNumber];
            return Err(inner.overdrawn(domain, overdrawn, limits, "downloads of an hour"));
        }
        Ok(Downloading { downloads: self.clone(), domain: domain.clone(), _place: place })
    }
}

impl Downloading {
    /// Charges bytes that were received.
    pub(crate) fn charge(&self, bytes: u64) -> Result<(), Fault> {
        let inner = &self.downloads.0;
        let own = inner.own_limit(&self.domain, inner.config.download_bytes_per_hour(&self.domain));
        inner.bytes.of(&self.domain.registrable(), own).charge(bytes).map_err(|overdrawn| {
            let limits = [DownloadLimit::Bytes, DownloadLimit::TotalBytes];
            inner.overdrawn(&self.domain, overdrawn, limits, "downloaded bytes of an hour")
        })
    }

    /// Reserves memory for a document of this length, before its first byte is read. Waits until
    /// `end`.
    pub(crate) async fn reserve(&self, bytes: u64, end: Instant) -> Result<DownloadMemory, Fault> {
        let inner = &self.downloads.0;
        match timeout_at(end, inner.memory.take(&self.domain.registrable(), bytes)).await {
            Ok(share) => Ok(DownloadMemory(share)),
            Err(_) => {
                let total = inner.config.downloads.memory_bytes;
                Err(inner.refuse(&self.domain, DownloadLimit::Memory, total, "bytes of downloads in memory"))
            }
        }
    }
}

impl Inner {
    /// Returns the limit of a domain's own. The home domain is the operator's, and is asked in
    /// place of all domains without a stub.
    fn own_limit(&self, domain: &Domain, limit: u64) -> u64 {
        if *domain == self.config.home { u64::MAX } else { limit }
    }

    fn overdrawn(&self, domain: &Domain, overdrawn: Overdrawn, limits: [DownloadLimit; 2], what: &str) -> Fault {
        self.refuse(domain, limits[usize::from(overdrawn.is_total)], overdrawn.limit, what)
    }

    /// Counts a refusal, and reports the first one of a domain in an hour.
    fn refuse(&self, domain: &Domain, limit: DownloadLimit, most: u64, what: &str) -> Fault {
        let (refused, is_first) = self.refusals.add(domain, limit);
        if is_first {
            warn!(
                target: "protostub::limits", %domain, limit = most, refused,
                "no download from the domain, which has its share of the {what} (`{}`); further refusals of this hour are counted", limit.key()
            );
        }
        let party = domain.registrable();
        let reason = match limit {
            DownloadLimit::Number | DownloadLimit::Bytes => format!("{party} has used its {most} {what}"),
            _ => format!("all domains share {most} {what}, and {party} has its share of the rest"),
        };
        Fault::Downloads { reason: SafeText::from(reason), limit }
    }
}

/// The number of refused downloads, and the domains whose refusals were reported.
#[derive(Debug)]
struct Refusals {
    number: Mutex<u64>,
    reports: Arc<Allowances>,
}

impl Refusals {
    fn new() -> Self {
        Self { number: Mutex::default(), reports: Allowances::new(u64::MAX, HOUR) }
    }

    /// Counts a refusal. Returns the number of all, and `true` if this one is to be reported.
    fn add(&self, domain: &Domain, limit: DownloadLimit) -> (u64, bool) {
        let mut number = self.number.lock().unwrap_or_else(PoisonError::into_inner);
        *number += 1;
        (*number, self.reports.of(&format!("{} {}", domain.registrable(), limit.key()), 1).charge(1).is_ok())
    }
}

/// An amount that parties hold for a while, with a share for each.
#[derive(Debug, Clone)]
struct Shares(Arc<AllShares>);

#[derive(Debug)]
struct AllShares {
    total: u64,
    held: Mutex<InUse>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct InUse {
    all: u64,
    /// Only parties that hold something.
    parties: HashMap<String, u64>,
}

/// The part that one holder has.
#[derive(Debug)]
struct Share {
    shares: Shares,
    party: String,
    amount: u64,
}

impl Shares {
    fn new(total: u64) -> Self {
        Self(Arc::new(AllShares { total, held: Mutex::default(), freed: Notify::new() }))
    }

    /// Takes an amount for a party, once that is [within its share](within_share).
    async fn take(&self, party: &str, amount: u64) -> Share {
        loop {
            let mut freed = pin!(self.0.freed.notified());
            // Registered before the check, so that no return is missed in between.
            freed.as_mut().enable();
            if let Some(share) = self.try_take(party, amount) {
                return share;
            }
            freed.await;
        }
    }

    fn try_take(&self, party: &str, amount: u64) -> Option<Share> {
        let mut held = self.held();
        let left = self.0.total.saturating_sub(held.all);
        let of_party = held.parties.get(party).copied().unwrap_or_default();
        if !within_share(of_party, amount, left) {
            return None;
        }
        held.all += amount;
        *held.parties.entry(party.to_owned()).or_default() += amount;
        Some(Share { shares: self.clone(), party: party.to_owned(), amount })
    }

    fn held(&self) -> MutexGuard<'_, InUse> {
        // A panic cannot leave the numbers inconsistent: they are complete after every statement.
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.shares.held();
        held.all -= self.amount;
        if let Some(of_party) = held.parties.get_mut(&self.party) {
            *of_party -= self.amount;
            if *of_party == 0 {
                held.parties.remove(&self.party);
            }
        }
        drop(held);
        self.shares.0.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::poll;

    use super::*;

    #[tokio::test]
    async fn holders_leave_a_share_and_waiters_get_what_is_freed() {
        let shares = Shares::new(8);
        let hoard = |party: &'static str| (0..9).map_while(|_| shares.try_take(party, 1)).collect::<Vec<_>>();
        let (first, second) = (hoard("a"), hoard("b"));
        assert_eq!((first.len(), second.len(), hoard("c").len()), (4, 2, 1));
        let mut waiting = pin!(shares.take("c", 3));
        assert!(poll!(&mut waiting).is_pending());
        drop(first);
        drop(waiting.await);
        drop(second);
        assert!(shares.held().parties.is_empty());
        assert!(shares.try_take("c", 5).is_none() && shares.try_take("c", 4).is_some());
    }
}
