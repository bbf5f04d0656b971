//! The settings that a runtime reads while it runs.

use std::{sync::LazyLock, time::Duration};

use protostub_bus::InboxLimits;
use protostub_sandbox::Limits;
use protostub_types::{Domain, UniqueMap};

use crate::{
    domain_settings::DomainSettings,
    observer::{Observer, Progress},
    restart::RestartPolicy,
    settings::LifecycleSettings,
    status::StatusForm,
};

/// The groups of [`Settings`](crate::Settings) that are read after the start, with the program's
/// callbacks.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) allow_loopback: bool,
    pub(crate) limits: Limits,
    pub(crate) lifecycle: LifecycleSettings,
    pub(crate) restart: RestartPolicy,
    pub(crate) domains: UniqueMap<Domain, DomainSettings>,
    pub(crate) status_form: StatusForm,
    pub(crate) progress: Observer<Progress>,
}

/// Returns the limits of the inbox of a hyperty, or of a part of the runtime. Bodies have no limit
/// of their own.
pub(crate) fn hyperty_inbox(limits: &Limits) -> InboxLimits {
    InboxLimits::new(limits.inbox_messages, limits.inbox_bytes)
}

static NO_SETTINGS: LazyLock<DomainSettings> = LazyLock::new(DomainSettings::default);

impl Config {
    pub(crate) fn settings(&self, domain: &Domain) -> &DomainSettings {
        self.domains.get(domain).unwrap_or(&NO_SETTINGS)
    }

    /// Returns `true` if a domain's stub may connect to this machine, and its descriptor and
    /// component may come from this machine.
    pub(crate) fn reaches_loopback(&self, domain: &Domain) -> bool {
        self.settings(domain).allow_loopback || (self.allow_loopback && domain.is_loopback())
    }

    /// Returns the limits of a domain's stub.
    pub(crate) fn limits_of(&self, domain: &Domain) -> Limits {
        self.settings(domain).limits.over(&self.limits)
    }

    /// Returns the limits of the inbox of a domain's stub.
    pub(crate) fn inbox_of(&self, domain: &Domain) -> InboxLimits {
        let mut limits = self.limits_of(domain).inbox();
        limits.suspicion = self.restart_of(domain).within;
        limits
    }

    /// Returns the restart policy of a domain's stub.
    pub(crate) fn restart_of(&self, domain: &Domain) -> RestartPolicy {
        self.settings(domain).restart.over(&self.restart)
    }

    /// Returns the time after which a domain's idle stub is retired, or `None` for never.
    pub(crate) fn retire_after(&self, domain: &Domain) -> Option<Duration> {
        self.settings(domain).retire_after.unwrap_or(self.lifecycle.retire_after).time()
    }

    /// Returns `true` if a domain's idle stub gives up its sandbox to stubs that need one.
    pub(crate) fn gives_way(&self, domain: &Domain) -> bool {
        self.settings(domain).retire_after.is_none_or(|retire| retire.time().is_some())
    }
}
