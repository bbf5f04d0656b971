//! The session that an instance saves for its successor.

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
            "The saved session, such as a token to resume with, survives an update. The next instance works with it.",
            "wit/0.1/session.wit",
        ),
        run: |context| Box::pin(update(context)),
    },
    Script {
        case: Case::new(
            "stub/session/crash",
            "After a crash, the host starts another instance, which works with the saved session.",
            "wit/0.1/stub.wit",
        ),
        run: |context| Box::pin(crash(context)),
    },
    Script {
        case: Case::new(
            "stub/session/nonsense",
            "A stub starts with any saved session, also with none and with one that it cannot read.",
            "wit/0.1/session.wit",
        ),
        run: |context| Box::pin(nonsense(context)),
    },
    Script {
        case: Case::new(
            "stub/session/forgotten",
            "If the server refuses `re-open`, the stub falls back to `open`.",
            "tests/CASES.md: C13",
        ),
        run: |context| Box::pin(forgotten(context)),
    },
];

async fn update(context: &StubSuiteContext) -> CaseResult {
    let fixture = StubFixture::ready(context).await?;
    let instance = fixture.live().await?;
    leave(&fixture, instance, DisconnectReason::Update).await?;
    successor(&fixture).await
}

/// Disconnects and stops the instance.
async fn leave(fixture: &StubFixture, mut instance: Instance, reason: DisconnectReason) -> CaseResult<()> {
    fixture.require_answer(&mut instance).await?;
    let handle = instance.handle.clone();
    // `stub/disconnect/in-time` checks the result.
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

/// Checks that the next instance works with the saved session.
async fn successor(fixture: &StubFixture) -> CaseResult {
    let saved = fixture.session.load().map(|saved| saved.len());
    let mut instance =
        fixture.start().await?.map_err(|error| crate::Verdict::fail("the next instance starts", error.to_string()))?;
    instance.connect(None).await?;
    instance.status(StubStatus::Live, fixture.timeouts.live).await?;
    fixture.expect_answer(&mut instance, "an answer of the next instance").await?;
    Ok(Some(saved.map_or_else(|| "no session is saved".to_owned(), |bytes| format!("{bytes} bytes are saved"))))
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
        let expected = "an instance that ignores a session that it cannot read";
        let mut instance = fixture.start().await?.map_err(|error| crate::Verdict::fail(expected, error.to_string()))?;
        instance.connect(None).await?;
        instance.status(StubStatus::Live, fixture.timeouts.live).await?;
        fixture.expect_answer(&mut instance, "an answer of an instance with an unreadable session").await?;
        instance.stop().await?;
    }
    Ok(None)
}

async fn forgotten(context: &StubSuiteContext) -> CaseResult {
    let fixture = StubFixture::ready(context).await?;
    let (server, _) = fixture.node()?;
    let instance = fixture.live().await?;
    leave(&fixture, instance, DisconnectReason::Idle).await?;
    // The node forgets all sessions, not only the stub's. The peer that answers loses its address,
    // too.
    server.node().forget();
    let mut instance =
        fixture.start().await?.map_err(|error| crate::Verdict::fail("the next instance starts", error.to_string()))?;
    instance.connect(None).await?;
    instance.status(StubStatus::Live, fixture.timeouts.live).await?;
    Ok(None)
}
