//! Resource usage of a stub, compared with its limits.

use protostub_sandbox::{Ended, Limits};

use super::{StubSuiteContext, fixture::StubFixture, pressure::mib};
use crate::{
    Case, Verdict,
    case::{CaseResult, Script, expect},
};

/// Number of requests in an ordinary life.
const REQUESTS: u64 = 200;

pub(super) const CASES: &[Script<StubSuiteContext>] = &[
    Script {
        case: Case::new(
            "stub/resources/memory",
            "Each linear memory of the instance has a limit of 64 MiB. An ordinary life needs at most half of it.",
            "protostub_sandbox::Limits",
        ),
        run: |context| Box::pin(memory(context)),
    },
    Script {
        case: Case::new(
            "stub/resources/cpu",
            "A call that exceeds its CPU budget (1 s by default) ends the instance. An ordinary life needs at most a fifth of the budget per call.",
            "wit/0.1/stub.wit",
        ),
        run: |context| Box::pin(cpu(context)),
    },
    Script {
        case: Case::new(
            "stub/resources/log",
            "The host keeps at most 100 log lines a second, and drops and counts further lines. A stub stays below.",
            "wit/0.1/log.wit",
        ),
        run: |context| Box::pin(log(context)),
    },
];

/// Runs an ordinary life: connects, answers and ends.
async fn life(fixture: &StubFixture) -> CaseResult<Ended> {
    let mut instance = fixture.live().await?;
    fixture.require_answer(&mut instance).await?;
    for number in 1..=REQUESTS {
        let answer = instance.meanwhile("an answer", fixture.timeouts.answer, fixture.ask(fixture.request(number))).await?;
        if answer.is_err() {
            return Err(Verdict::not_applicable("not every request is answered: see stub/messages/one-response"));
        }
    }
    instance.stop().await
}

async fn memory(context: &StubSuiteContext) -> CaseResult {
    let fixture = StubFixture::ready(context).await?;
    let used = life(&fixture).await?.usage.memory_bytes;
    let limit = Limits::default().memory_bytes;
    let shown = format!("{} of {}", mib(used), mib(limit));
    expect(used <= limit / 2, "at most half of the memory limit", || shown.clone())?;
    Ok(Some(shown))
}

async fn cpu(context: &StubSuiteContext) -> CaseResult {
    let fixture = StubFixture::ready(context).await?;
    let used = life(&fixture).await?.usage.longest_call;
    let limit = Limits::default().cpu_per_call;
    let shown = format!("{} ms of {} ms in the longest call", used.as_millis(), limit.as_millis());
    expect(used <= limit / 5, "at most a fifth of the CPU budget of a call", || shown.clone())?;
    Ok(Some(shown))
}

async fn log(context: &StubSuiteContext) -> CaseResult {
    let fixture = StubFixture::ready(context).await?;
    life(&fixture).await?;
    let dropped = fixture.log.lines().into_iter().find(|line| line.contains("log lines of the stub were dropped"));
    expect(dropped.is_none(), "at most 100 lines a second", || dropped.unwrap_or_default())?;
    Ok(None)
}
