//! A running instance of the stub, with the statuses that it has published.

use std::time::Duration;

use protostub_bus::Route;
use protostub_sandbox::{Credential, Ended, StubHandle};
use protostub_types::StubStatus;
use tokio::{
    sync::watch,
    task::{JoinError, JoinHandle},
    time::timeout,
};

use super::Timeouts;
use crate::{Verdict, case::CaseResult};

/// A running instance.
pub(crate) struct Instance {
    pub(crate) handle: StubHandle,
    pub(crate) statuses: watch::Receiver<Vec<(StubStatus, Option<String>)>>,
    pub(crate) timeouts: Timeouts,
    pub(super) task: JoinHandle<Ended>,
    /// The end of the instance, once it was seen.
    pub(super) ended: Option<String>,
    pub(super) _routes: Vec<Route>,
}

impl Instance {
    /// Sends `connect` to the stub. The status shows when it is live.
    pub(crate) async fn connect(&mut self, credential: Option<Credential>) -> CaseResult<()> {
        let handle = self.handle.clone();
        let Timeouts { live, grace, .. } = self.timeouts;
        let handled = self.meanwhile("`connect` to be handled", live, async move { handle.connect(credential).await }).await?;
        // The task reports the end of the instance.
        if handled.is_err() { self.meanwhile("`connect` to be handled", grace, std::future::pending()).await } else { Ok(()) }
    }

    /// Waits for the first status. The host publishes `created` once the instance runs.
    pub(crate) async fn first_status(&mut self, within: Duration) -> CaseResult<()> {
        self.status_where("a status", within, |_| true).await.map(drop)
    }

    /// Waits for this status, and returns its reason.
    pub(crate) async fn status(&mut self, wanted: StubStatus, within: Duration) -> CaseResult<Option<String>> {
        self.status_of(&[wanted], within).await.map(|(_, reason)| reason)
    }

    /// Waits for one of these statuses.
    pub(crate) async fn status_of(
        &mut self,
        wanted: &[StubStatus],
        within: Duration,
    ) -> CaseResult<(StubStatus, Option<String>)> {
        let names: Vec<_> = wanted.iter().map(|status| format!("`{status}`")).collect();
        let expected = format!("the status {}", names.join(" or "));
        self.status_where(&expected, within, |status| wanted.contains(status)).await
    }

    async fn status_where(
        &mut self,
        expected: &str,
        within: Duration,
        is_it: impl Fn(&StubStatus) -> bool,
    ) -> CaseResult<(StubStatus, Option<String>)> {
        let mut statuses = self.statuses.clone();
        let reached = async move {
            let all = statuses.wait_for(|all| all.last().is_some_and(|(status, _)| is_it(status))).await;
            let status = all.ok().and_then(|all| all.last().cloned());
            match status {
                Some(status) => status,
                // The task reports the end of the instance.
                None => std::future::pending().await,
            }
        };
        self.meanwhile(expected, within, reached).await
    }

    /// Waits for an event that should happen while the instance runs.
    pub(crate) async fn meanwhile<T>(
        &mut self,
        expected: &str,
        within: Duration,
        happens: impl Future<Output = T>,
    ) -> CaseResult<T> {
        if let Some(ended) = &self.ended {
            return Err(Verdict::fail(expected, ended));
        }
        let seconds = within.as_secs_f64();
        let observed = tokio::select! {
            biased;
            happened = timeout(within, happens) => match happened {
                Ok(happened) => return Ok(happened),
                Err(_elapsed) => format!("not within {seconds} s; statuses: {}", self.history()),
            },
            ended = &mut self.task => self.ended.insert(describe(&ended)).clone(),
        };
        Err(Verdict::fail(expected, observed))
    }

    /// Fails if the instance has ended on its own.
    pub(crate) async fn still_runs(&mut self) -> CaseResult<()> {
        if self.task.is_finished() {
            return self.meanwhile("an instance that keeps running", self.timeouts.grace, std::future::pending()).await;
        }
        Ok(())
    }

    /// Returns the statuses until now.
    pub(crate) fn history(&self) -> String {
        let tell = |(status, reason): &(StubStatus, Option<String>)| match reason {
            Some(reason) => format!("{status} ({reason})"),
            None => status.to_string(),
        };
        let all = self.statuses.borrow();
        if all.is_empty() { "none".to_owned() } else { all.iter().map(tell).collect::<Vec<_>>().join(", ") }
    }

    pub(crate) fn current(&self) -> Option<StubStatus> {
        self.statuses.borrow().last().map(|(status, _)| *status)
    }

    /// Stops the instance without `disconnect`.
    pub(crate) async fn stop(self) -> CaseResult<Ended> {
        if let Some(ended) = self.ended {
            return Err(Verdict::fail("an instance that runs until it is stopped", ended));
        }
        self.handle.stop();
        self.task.await.map_err(|error| Verdict::not_applicable(format!("the host has a bug: {error}")))
    }
}

fn describe(ended: &Result<Ended, JoinError>) -> String {
    match ended {
        Ok(ended) => format!("the instance ended: {}", ended.outcome),
        Err(error) => format!("the instance ended: {error}"),
    }
}
