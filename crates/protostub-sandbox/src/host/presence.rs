use std::sync::Arc;

use protostub_types::{SafeText, StubStatus};

use super::rate::RateLimit;
use crate::{
    contract::{
        presence::{self, Status as Published},
        types::Error,
    },
    recorder::Entry,
    state::StubState,
};

/// The last status that the instance published.
#[derive(Debug)]
pub(crate) struct Status {
    /// `None` until `start` has returned.
    current: Option<(StubStatus, Option<SafeText>)>,
    /// The status is `live`, and the runtime holds it back.
    is_held: bool,
    rate: RateLimit,
}

impl Status {
    pub(crate) fn new(per_second: u32) -> Self {
        Self { current: None, is_held: false, rate: RateLimit::new(per_second) }
    }

    /// Returns `true` if the guest may get messages.
    pub(crate) fn is_live(&self) -> bool {
        matches!(self.current, Some((StubStatus::Live, _))) && !self.is_held
    }

    /// Records that `live` is published.
    pub(crate) fn admit(&mut self) {
        self.is_held = false;
    }
}

impl StubState {
    /// Publishes `created` when the instance begins to run. Before that, the guest cannot publish a
    /// status.
    pub(crate) fn publish_created(&mut self) {
        if let Err(problem) = self.services.presence.publish(StubStatus::Created, None) {
            tracing::warn!(stub = %self.config.url, problem, "the status `created` was not taken");
        }
        self.status.current = Some((StubStatus::Created, None));
    }
}

impl StubState {
    async fn publish_status(&mut self, status: StubStatus, reason: Option<String>) -> Result<(), Error> {
        let Some(reason) = self.check_status(status, reason)? else { return Ok(()) };
        let presence = Arc::clone(&self.services.presence);
        let publish = move || (presence.publish(status, reason.clone()), reason);
        let (published, reason) = self.cpu.run_off_stack(publish).await;
        published.map_err(Error::Invalid)?;
        self.status.is_held = status == StubStatus::Live && self.services.presence.holds_back();
        self.status.current = Some((status, reason));
        Ok(())
    }

    /// Checks a status. Returns its reason, or `None` if the status does not change.
    // Not inlined, so that its locals have left the guest's stack when the host publishes
    // (`idle_stub_kib`).
    #[inline(never)]
    fn check_status(&mut self, status: StubStatus, reason: Option<String>) -> Result<Option<Option<SafeText>>, Error> {
        let reason = reason.map(|reason| self.secrets.shown(&reason));
        let Some((current, current_reason)) = &self.status.current else {
            return Err(Error::Invalid(format!("`{status}` cannot be published before `start` has returned")));
        };
        if (*current, current_reason) == (status, &reason) {
            return Ok(None);
        }
        // An instance begins with `created`, which the host publishes.
        if status == StubStatus::Created {
            return Err(Error::Invalid(format!("`{status}` cannot follow `{current}`")));
        }
        if *current == StubStatus::Failed {
            return Err(Error::Invalid(format!("`{status}` cannot follow `failed`: `failed` is final for an instance")));
        }
        if !self.status.rate.admit() {
            self.count_limit("publications_per_second");
            return Err(Error::Limit(self.status.rate.exceeded("statuses")));
        }
        Ok(Some(reason))
    }
}

impl presence::Host for StubState {
    async fn publish(&mut self, status: Published, reason: Option<String>) -> Result<(), Error> {
        let status = match status {
            Published::Created => StubStatus::Created,
            Published::InProgress => StubStatus::InProgress,
            Published::Live => StubStatus::Live,
            Published::Disconnected => StubStatus::Disconnected,
            Published::Failed => StubStatus::Failed,
        };
        let published = self.publish_status(status, reason).await;
        self.record(&Entry::call("presence.publish").detail(status.as_str()).result(&published));
        published
    }
}
