//! What an instance leaves to the one after it.

use protostub_sandbox::DisconnectReason;
use protostub_types::StubStatus;

use super::{StubSuiteContext, fixture::StubFixture, instance::Instance};
use crate::{
    Case,
    case::{CaseResult, Script},
};

pub(super) const CASES: &[Script<StubSuiteContext>] = &[
    Script {
        case: Case::new(
            "stub/session/update",
            "A small memory that outlives a restart and an update of the stub: a session token to resume with, say.",
            "wit/0.1/session.wit",
        ),
        run: |context| Box::pin(update(context)),
    },
    Script {
        case: Case::new(
            "stub/session/crash",
            "A call that traps ends this instance; the host starts another one.",
            "wit/0.1/stub.wit",
        ),
        run: |context| Box::pin(crash(context)),
    },
    Script {
        case: Case::new(
            "stub/session/nonsense",
            "What was saved last; none: nothing was, or the host dropped it because instances that started from it kept crashing.",
            "wit/0.1/session.wit",
        ),
        run: |context| Box::pin(nonsense(context)),
    },
    Script {
        case: Case::new("stub/session/forgotten", "Re-open refused: the stub must fall back to open.", "tests/CASES.md: C13"),
        run: |context| Box::pin(forgotten(context)),
    },
];

async fn update(context: &StubSuiteContext) -> CaseResult {
    let fixture = StubFixture::ready(context).await?;
    let instance = fixture.live().await?;
    leave(&fixture, instance, DisconnectReason::Update).await?;
    successor(&fixture).await
}

/// It is told to disconnect, and ends.
async fn leave(fixture: &StubFixture, mut instance: Instance, reason: DisconnectReason) -> CaseResult<()> {
    fixture.require_answer(&mut instance).await?;
    let handle = instance.handle.clone();
    // Whether it manages to say good-bye is another case's business.
    let goodbye = async move { handle.disconnect(reason).await };
    let _ = tokio::time::timeout(fixture.timeouts.grace, goodbye).await;
    let _ = instance.status(StubStatus::Disconnected, fixture.timeouts.grace).await;
    let _ = instance.stop().await;
    Ok(())
}

async fn crash(context: &StubSuiteContext) -> CaseResult {
    let fixture = StubFixture::ready(context).await?;
    let mut instance = fixture.live().await?;
    fixture.require_answer(&mut instance).await?;
    instance.stop().await?;
    successor(&fixture).await
}

/// The next instance works, with what the one before it has saved.
async fn successor(fixture: &StubFixture) -> CaseResult {
    let saved = fixture.session.load().map(|saved| saved.len());
    let mut instance =
        fixture.start().await?.map_err(|error| crate::Verdict::fail("another instance starts", error.to_string()))?;
    instance.connect(None).await?;
    instance.status(StubStatus::Live, fixture.timeouts.live).await?;
    fixture.expect_answer(&mut instance, "an answer of the next instance").await?;
    Ok(Some(saved.map_or_else(|| "nothing is saved".to_owned(), |bytes| format!("{bytes} bytes are saved"))))
}

async fn nonsense(context: &StubSuiteContext) -> CaseResult {
    let fixture = StubFixture::ready(context).await?;
    let mut instance = fixture.live().await?;
    fixture.require_answer(&mut instance).await?;
    instance.stop().await?;
    let cut_off = fixture.session.load().map(|saved| saved[..saved.len() / 2].to_vec()).unwrap_or_default();
    let whole = [0xa5; 64 << 10];
    for saved in [b"\xff\x00 no session".as_slice(), b"{}", b"[1,2", b"null", &cut_off, &whole] {
        fixture.session.save(saved).map_err(super::fixture::setup_failed)?;
        let expected = "an instance that does without what it cannot read";
        let mut instance = fixture.start().await?.map_err(|error| crate::Verdict::fail(expected, error.to_string()))?;
        instance.connect(None).await?;
        instance.status(StubStatus::Live, fixture.timeouts.live).await?;
        fixture.expect_answer(&mut instance, "an answer of an instance that was left nonsense").await?;
        instance.stop().await?;
    }
    Ok(None)
}

async fn forgotten(context: &StubSuiteContext) -> CaseResult {
    let fixture = StubFixture::ready(context).await?;
    let (server, _) = fixture.node()?;
    let instance = fixture.live().await?;
    leave(&fixture, instance, DisconnectReason::Idle).await?;
    // All but the stub's own session would do; whoever answers has lost its address, too.
    server.node().forget();
    let mut instance =
        fixture.start().await?.map_err(|error| crate::Verdict::fail("another instance starts", error.to_string()))?;
    instance.connect(None).await?;
    instance.status(StubStatus::Live, fixture.timeouts.live).await?;
    Ok(None)
}
