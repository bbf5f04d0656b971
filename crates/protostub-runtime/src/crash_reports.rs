//! The limits of crash reports: those that are kept, and those that the host program gets.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use protostub_sandbox::CrashReport;
use protostub_types::Allowances;

use crate::{observer::Observer, record::StubRecord, settings::TotalSettings};

const HOUR: Duration = Duration::from_secs(60 * 60);

/// The crash reports of all stubs.
#[derive(Debug)]
pub(crate) struct CrashReports {
    observer: Observer<CrashReport>,
    /// Reports that the observer gets.
    observed: Arc<Allowances>,
    max_kept: usize,
    /// The stubs whose last reports are kept, oldest report first.
    kept: Mutex<VecDeque<Weak<StubRecord>>>,
    /// Events about forgotten reports: one in an hour.
    forgotten: Arc<Allowances>,
}

impl CrashReports {
    pub(crate) fn new(observer: Observer<CrashReport>, totals: &TotalSettings) -> Self {
        Self {
            observer,
            observed: Allowances::new(totals.max_crash_reports_per_hour, HOUR),
            max_kept: totals.max_kept_crash_reports,
            kept: Mutex::default(),
            forgotten: Allowances::new(1, HOUR),
        }
    }

    /// Keeps a report as the stub's last one, and passes it on, if the stub has reports left in
    /// this hour. A report that is not passed on counts as a limit that the stub has reached.
    pub(crate) fn report(&self, record: &Arc<StubRecord>, crash: Arc<CrashReport>, limit: u64) {
        record.set_last_crash(Some(Arc::clone(&crash)));
        self.keep(record);
        match self.observed.of(&record.key.to_string(), limit).charge(1) {
            Ok(()) => self.observer.notify(&record.key, &crash),
            Err(overdrawn) => {
                let (counter, setting) = match overdrawn.is_total {
                    true => ("max_crash_reports_per_hour", "max-crash-reports-per-hour"),
                    false => ("crash_reports_per_hour", "crash-reports-per-hour"),
                };
                record.limit_counters.count(counter);
                if overdrawn.is_first {
                    tracing::warn!(
                        target: "protostub::limits", domain = %record.key, limit = overdrawn.limit,
                        "the stub has its share of the crash reports of an hour (`{setting}`); further ones of this hour are counted, and not passed on"
                    );
                }
            }
        }
    }

    /// Makes the stub the one with the latest report. The stubs with the oldest reports lose
    /// theirs.
    fn keep(&self, record: &Arc<StubRecord>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let this = Arc::downgrade(record);
        kept.retain(|other| other.strong_count() > 0 && !other.ptr_eq(&this));
        kept.push_back(this);
        let excess = kept.len().saturating_sub(self.max_kept);
        let forgotten: Vec<_> = kept.drain(..excess).collect();
        drop(kept);
        for record in forgotten.iter().filter_map(Weak::upgrade) {
            record.set_last_crash(None);
            record.limit_counters.count("max_kept_crash_reports");
            if self.forgotten.of("all", 1).charge(1).is_ok() {
                tracing::warn!(
                    target: "protostub::limits", domain = %record.key, limit = self.max_kept,
                    "the stub's crash report was forgotten, since further stubs crashed (`max-kept-crash-reports`); further ones of this hour are counted"
                );
            }
        }
    }
}
