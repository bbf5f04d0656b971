//! `disconnect`.

use std::time::Duration;

use protostub_sandbox::DisconnectReason;
use protostub_types::StubStatus;

use super::{StubSuiteContext, fixture::StubFixture, instance::Instance, link::LinkMode};
use crate::{
    Case,
    case::{CaseResult, Script, expect},
};

/// Time limit for closing a connection after `disconnected`: the time that the host gives a
/// WebSocket.
const CLOSING: Duration = Duration::from_secs(3);
/// Time during which the stub must stay disconnected: longer than the first pause of a usual
/// back-off.
const WHILE: Duration = Duration::from_millis(2500);

pub(super) const CASES: &[Script<StubSuiteContext>] = &[
    Script {
        case: Case::new(
            "stub/disconnect/in-time",
            "At `disconnect`, the stub closes its connection and publishes `disconnected` within the grace time (5 s by default).",
            "wit/0.1/types.wit",
        ),
        run: |context| Box::pin(in_time(context)),
    },
    Script {
        case: Case::new(
            "stub/disconnect/closes",
            "A stub that publishes `disconnected` has no connection to its server any more.",
            "wit/0.1/presence.wit",
        ),
        run: |context| Box::pin(closes(context)),
    },
    Script {
        case: Case::new(
            "stub/disconnect/stays",
            "After `disconnect` on request, the stub stays disconnected until `connect`.",
            "wit/0.1/types.wit, wit/0.1/stub.wit",
        ),
        run: |context| Box::pin(stays(context)),
    },
    Script {
        case: Case::new(
            "stub/disconnect/again",
            "After disconnect(), connect() leads to in-progress and live.",
            "tests/CASES.md: C3",
        ),
        run: |context| Box::pin(again(context)),
    },
    Script {
        case: Case::new(
            "stub/disconnect/while-connecting",
            "At `disconnect`, the stub closes its connection and publishes `disconnected` within the grace time (5 s by default).",
            "wit/0.1/types.wit",
        ),
        run: |context| Box::pin(while_connecting(context)),
    },
];

async fn disconnect(instance: &mut Instance, reason: DisconnectReason) -> CaseResult<()> {
    let (handle, grace) = (instance.handle.clone(), instance.timeouts.grace);
    let expected = format!("`disconnected` after `disconnect({reason:?})`").to_lowercase();
    let handled = instance.meanwhile(&expected, grace, async move { handle.disconnect(reason).await }).await?;
    if handled.is_err() {
        instance.meanwhile(&expected, grace, std::future::pending::<()>()).await?;
    }
    instance.status(StubStatus::Disconnected, grace).await?;
    Ok(())
}

/// Starts, connects and disconnects an instance. If that fails, the case does not apply, because
/// `stub/disconnect/in-time` checks it.
async fn disconnected(fixture: &StubFixture) -> CaseResult<Instance> {
    let mut instance = fixture.live().await?;
    match disconnect(&mut instance, DisconnectReason::Request).await {
        Ok(()) => Ok(instance),
        Err(_) => Err(crate::Verdict::not_applicable(format!(
            "the stub does not disconnect ({}): see stub/disconnect/in-time",
            instance.history()
        ))),
    }
}

async fn in_time(context: &StubSuiteContext) -> CaseResult {
    let fixture = StubFixture::ready(context).await?;
    for reason in [DisconnectReason::Request, DisconnectReason::Idle, DisconnectReason::Update, DisconnectReason::Shutdown] {
        let mut instance = fixture.live().await?;
        disconnect(&mut instance, reason).await?;
        instance.stop().await?;
    }
    Ok(None)
}

async fn closes(context: &StubSuiteContext) -> CaseResult {
    let fixture = StubFixture::ready(context).await?;
    let link = fixture.link()?;
    let mut instance = disconnected(&fixture).await?;
    instance.meanwhile("no connection to the server any more", CLOSING, link.all_closed()).await?;
    Ok(None)
}

async fn stays(context: &StubSuiteContext) -> CaseResult {
    let fixture = StubFixture::ready(context).await?;
    let mut instance = disconnected(&fixture).await?;
    let before = fixture.link.as_ref().map_or(0, super::link::Link::accepted);
    tokio::time::sleep(WHILE).await;
    instance.still_runs().await?;
    let expected = "the stub stays disconnected until `connect`";
    expect(instance.current() == Some(StubStatus::Disconnected), expected, || instance.history())?;
    let after = fixture.link.as_ref().map_or(0, super::link::Link::accepted);
    expect(before == after, expected, || format!("{} more connections", after - before))?;
    Ok(None)
}

async fn again(context: &StubSuiteContext) -> CaseResult {
    let fixture = StubFixture::ready(context).await?;
    let mut instance = fixture.live().await?;
    fixture.require_answer(&mut instance).await?;
    instance.stop().await?;
    let mut instance = disconnected(&fixture).await?;
    instance.connect(None).await?;
    instance.status(StubStatus::Live, fixture.timeouts.live).await?;
    fixture.expect_answer(&mut instance, "an answer after the second `connect`").await?;
    Ok(None)
}

async fn while_connecting(context: &StubSuiteContext) -> CaseResult {
    let fixture = StubFixture::ready(context).await?;
    let link = fixture.link()?;
    drop(disconnected(&fixture).await?);
    link.set(LinkMode::Stall);
    let mut instance = fixture.started().await?;
    instance.connect(None).await?;
    disconnect(&mut instance, DisconnectReason::Request).await?;
    Ok(None)
}
