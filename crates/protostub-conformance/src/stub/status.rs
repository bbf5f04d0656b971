//! `connect`, and what is said of it.

use protostub_types::StubStatus;

use super::{Bench, stage::Stage};
use crate::{
    Case,
    case::{Course, Script, expect},
};

pub(super) const CASES: &[Script<Bench>] = &[
    Script {
        case: Case::new(
            "stub/status/live",
            "Publish `in-progress`, and `live` once messages can flow, within the connect time-out (30 s by default): else the deployment fails.",
            "wit/0.1/types.wit",
        ),
        run: |bench| Box::pin(live(bench)),
    },
    Script {
        case: Case::new(
            "stub/status/order",
            "`created`: started. `in-progress`: connecting. `live`: connected, messages can flow.",
            "wit/0.1/presence.wit",
        ),
        run: |bench| Box::pin(order(bench)),
    },
];

async fn live(bench: &Bench) -> Course {
    bench.compiled()?;
    bench.foundations().await.lives.clone()
}

async fn order(bench: &Bench) -> Course {
    let stage = Stage::ready(bench).await?;
    let play = stage.live().await?;
    let statuses: Vec<_> = play.statuses.borrow().iter().map(|(status, _)| *status).collect();
    let expected = [StubStatus::Created, StubStatus::InProgress, StubStatus::Live];
    expect(statuses == expected, "created, in-progress, live", || play.history())?;
    Ok(None)
}
