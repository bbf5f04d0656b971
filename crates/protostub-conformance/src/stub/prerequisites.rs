//! Prerequisites of nearly every case, checked once: the stub starts, connects and answers while
//! its server works.

use std::time::Instant;

use protostub_types::{MessageType, StubStatus};

use super::{
    StubSuiteContext,
    fixture::{StubFixture, shown},
};
use crate::{Verdict, case::CaseResult};

/// The verdicts of the cases about the prerequisites. If one of them fails, the other cases do not
/// apply.
#[derive(Clone)]
pub(crate) struct Prerequisites {
    /// `stub/start/accepts`
    pub(crate) starts: CaseResult,
    /// `stub/status/live`
    pub(crate) lives: CaseResult,
    /// `stub/messages/answered`
    pub(crate) answers: CaseResult,
}

impl Prerequisites {
    pub(crate) async fn of(context: &StubSuiteContext) -> Self {
        let fixture = match StubFixture::bare(context).await {
            Ok(fixture) => fixture,
            Err(verdict) => return Self { starts: Err(verdict.clone()), lives: Err(verdict.clone()), answers: Err(verdict) },
        };
        let mut instance = match fixture.start().await {
            Ok(Ok(instance)) => instance,
            Ok(Err(error)) => {
                let expected = "`start` accepts the configuration of the stub's own descriptor";
                return Self {
                    starts: Err(Verdict::fail(expected, error.to_string())),
                    lives: Err(no_start(&error.to_string())),
                    answers: Err(no_start(&error.to_string())),
                };
            }
            Err(verdict) => return Self { starts: Err(verdict.clone()), lives: Err(verdict.clone()), answers: Err(verdict) },
        };
        let began = Instant::now();
        let lives = async {
            instance.connect(None).await?;
            instance.status(StubStatus::Live, fixture.timeouts.live).await
        };
        if let Err(verdict) = lives.await {
            let answers = Err(not_live(&instance.history()));
            return Self { starts: Ok(None), lives: Err(verdict), answers };
        }
        let lives = Ok(Some(format!("after {} ms", began.elapsed().as_millis())));
        let request = fixture.request(7);
        let (from, to) = (request.to.clone(), request.from.clone());
        let expected = format!("a response from {from} with a code below 400");
        let within = fixture.timeouts.answer + fixture.timeouts.grace;
        let answers = instance.meanwhile(&expected, within, fixture.ask(request)).await.and_then(|answer| {
            let is_good = answer.as_ref().is_ok_and(|response| {
                let is_its = response.kind == MessageType::Response && response.from == from;
                is_its && response.code().is_none_or(|code| code < 400) && (to.is_unset() || response.to == to)
            });
            if is_good { Ok(None) } else { Err(Verdict::fail(expected, shown(&answer))) }
        });
        Self { starts: Ok(None), lives, answers }
    }

    /// Requires a stub that starts.
    pub(crate) fn require_start(&self) -> CaseResult<()> {
        self.starts.as_ref().map(drop).map_err(|verdict| no_start(observed(verdict)))
    }

    /// Requires a stub that becomes live.
    pub(crate) fn require_live(&self) -> CaseResult<()> {
        self.require_start()?;
        self.lives.as_ref().map(drop).map_err(|verdict| not_live(observed(verdict)))
    }

    /// Requires a stub that answers.
    pub(crate) fn require_answer(&self) -> CaseResult<()> {
        self.require_live()?;
        self.answers.as_ref().map(drop).map_err(|verdict| no_answer(observed(verdict)))
    }
}

fn observed(verdict: &Verdict) -> &str {
    match verdict {
        Verdict::Pass => "",
        Verdict::Fail { observed, .. } => observed,
        Verdict::NotApplicable { reason } => reason,
    }
}

pub(crate) fn no_start(why: &str) -> Verdict {
    Verdict::not_applicable(format!("the stub does not start ({why}): see stub/start/accepts"))
}

pub(crate) fn not_live(why: &str) -> Verdict {
    Verdict::not_applicable(format!("the stub does not become live ({why}): see stub/status/live"))
}

pub(crate) fn no_answer(why: &str) -> Verdict {
    Verdict::not_applicable(format!("a request is not answered as it should be ({why}): see stub/messages/answered"))
}
