//! What a stub uses, compared with what it may.

use protostub_sandbox::{Ended, Limits};

use super::{StubSuiteContext, fixture::StubFixture, pressure::mib};
use crate::{
    Case, Verdict,
    case::{CaseResult, Script, expect},
};

/// How many requests an ordinary life has here.
const REQUESTS: u64 = 200;

pub(super) const CASES: &[Script<StubSuiteContext>] = &[
    Script {
        case: Case::new(
            "stub/resources/memory",
            "How large each linear memory of the instance may grow: 64 MiB. Half of it has to be enough for an ordinary life.",
            "protostub_sandbox::Limits",
        ),
        run: |context| Box::pin(memory(context)),
    },
    Script {
        case: Case::new(
            "stub/resources/cpu",
            "A call that computes for longer than its budget (1 s of CPU by default) ends this instance. A fifth of it has to be enough for an ordinary life.",
            "wit/0.1/stub.wit",
        ),
        run: |context| Box::pin(cpu(context)),
    },
    Script {
        case: Case::new(
            "stub/resources/log",
            "At most 100 lines a second; what is above is dropped and counted.",
            "wit/0.1/log.wit",
        ),
        run: |context| Box::pin(log(context)),
    },
];

/// Connects, answers, and ends.
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
    expect(used <= limit / 2, "at most half of the memory that it may have", || shown.clone())?;
    Ok(Some(shown))
}

async fn cpu(context: &StubSuiteContext) -> CaseResult {
    let fixture = StubFixture::ready(context).await?;
    let used = life(&fixture).await?.usage.longest_call;
    let limit = Limits::default().cpu_per_call;
    let shown = format!("{} ms of {} ms in the longest call", used.as_millis(), limit.as_millis());
    expect(used <= limit / 5, "at most a fifth of the time that a call may compute", || shown.clone())?;
    Ok(Some(shown))
}

async fn log(context: &StubSuiteContext) -> CaseResult {
    let fixture = StubFixture::ready(context).await?;
    life(&fixture).await?;
    let dropped = fixture.log.lines().into_iter().find(|line| line.contains("log lines of the stub were dropped"));
    expect(dropped.is_none(), "at most 100 lines a second", || dropped.unwrap_or_default())?;
    Ok(None)
}
