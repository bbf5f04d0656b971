use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use protostub_types::within_share;

/// The linear memories of all sandboxes of an engine together.
#[derive(Debug)]
pub(crate) struct TotalMemory {
    limit: usize,
    used: AtomicUsize,
}

impl TotalMemory {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicUsize::new(0) })
    }

    /// Returns the maximum size, in bytes.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Takes `more` bytes for a sandbox that has `held` bytes. Returns `false` if that is not
    /// [within its share](within_share).
    pub(crate) fn grow(&self, held: usize, more: usize) -> bool {
        let grown = |used: usize| {
            let [held, more_bytes, left] = [held, more, self.limit.saturating_sub(used)].map(number);
            within_share(held, more_bytes, left).then(|| used + more)
        };
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).is_ok()
    }

    pub(crate) fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

fn number(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_hoarders_leave_a_share_for_a_newcomer() {
        let total = TotalMemory::new(1_000);
        let hoard = || (0..1_000).take_while(|held| total.grow(*held, 1)).count();
        assert_eq!([hoard(), hoard(), hoard()], [500, 250, 125]);
        assert!(!total.grow(0, 64) && total.grow(0, 63));
        total.give_back(938);
        assert_eq!(hoard(), 500);
    }
}
