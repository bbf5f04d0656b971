//! Statuses after `connect`.

use protostub_types::StubStatus;

use super::{StubSuiteContext, fixture::StubFixture};
use crate::{
    Case,
    case::{CaseResult, Script, expect},
};

pub(super) const CASES: &[Script<StubSuiteContext>] = &[
    Script {
        case: Case::new(
            "stub/status/live",
            "After `connect`, the stub publishes `in-progress`, and `live` once messages can flow, within the connect timeout (30 s by default).",
            "wit/0.1/types.wit",
        ),
        run: |context| Box::pin(live(context)),
    },
    Script {
        case: Case::new(
            "stub/status/order",
            "The statuses are `created` (started), `in-progress` (connecting) and `live` (messages can flow), in this order.",
            "wit/0.1/presence.wit",
        ),
        run: |context| Box::pin(order(context)),
    },
];

async fn live(context: &StubSuiteContext) -> CaseResult {
    context.compiled()?;
    context.prerequisites().await.lives.clone()
}

async fn order(context: &StubSuiteContext) -> CaseResult {
    let fixture = StubFixture::ready(context).await?;
    let instance = fixture.live().await?;
    let statuses: Vec<_> = instance.statuses.borrow().iter().map(|(status, _)| *status).collect();
    let expected = [StubStatus::Created, StubStatus::InProgress, StubStatus::Live];
    expect(statuses == expected, "created, in-progress, live", || instance.history())?;
    Ok(None)
}
