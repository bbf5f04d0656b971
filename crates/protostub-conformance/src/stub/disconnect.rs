//! `disconnect`.

use std::time::Duration;

use protostub_sandbox::DisconnectReason;
use protostub_types::StubStatus;

use super::{
    Bench,
    link::Manner,
    stage::{Play, Stage},
};
use crate::{
    Case,
    case::{Course, Script, expect},
};

/// How long the closing of a connection may take after the good-bye: what the host gives a WebSocket.
const CLOSING: Duration = Duration::from_secs(3);
/// How long a stub has to show that it stays disconnected: longer than the first pause of a usual back-off.
const WHILE: Duration = Duration::from_millis(2500);

pub(super) const CASES: &[Script<Bench>] = &[
    Script {
        case: Case::new(
            "stub/disconnect/in-time",
            "Say good-bye to the back-end and publish `disconnected`, within the grace time (5 s by default).",
            "wit/0.1/types.wit",
        ),
        run: |bench| Box::pin(in_time(bench)),
    },
    Script {
        case: Case::new("stub/disconnect/closes", "`disconnected`: no longer connected.", "wit/0.1/presence.wit"),
        run: |bench| Box::pin(closes(bench)),
    },
    Script {
        case: Case::new(
            "stub/disconnect/stays",
            "`disconnect`: the host program or a hyperty asked for it. `connect` follows when the connection is wanted.",
            "wit/0.1/types.wit, wit/0.1/stub.wit",
        ),
        run: |bench| Box::pin(stays(bench)),
    },
    Script {
        case: Case::new("stub/disconnect/again", "connect() after disconnect(): in-progress, live.", "conformance case C3"),
        run: |bench| Box::pin(again(bench)),
    },
    Script {
        case: Case::new(
            "stub/disconnect/while-connecting",
            "Say good-bye to the back-end and publish `disconnected`, within the grace time (5 s by default).",
            "wit/0.1/types.wit",
        ),
        run: |bench| Box::pin(while_connecting(bench)),
    },
];

async fn disconnect(play: &mut Play, reason: DisconnectReason) -> Course<()> {
    let (handle, grace) = (play.handle.clone(), play.patience.grace);
    let expected = format!("`disconnected` after `disconnect({reason:?})`").to_lowercase();
    let handled = play.meanwhile(&expected, grace, async move { handle.disconnect(reason).await }).await?;
    if handled.is_err() {
        play.meanwhile(&expected, grace, std::future::pending::<()>()).await?;
    }
    play.status(StubStatus::Disconnected, grace).await?;
    Ok(())
}

/// The same, where it is another case's business.
async fn disconnected(stage: &Stage) -> Course<Play> {
    let mut play = stage.live().await?;
    match disconnect(&mut play, DisconnectReason::Request).await {
        Ok(()) => Ok(play),
        Err(_) => Err(crate::Verdict::not_applicable(format!(
            "the stub does not disconnect ({}): see stub/disconnect/in-time",
            play.history()
        ))),
    }
}

async fn in_time(bench: &Bench) -> Course {
    let stage = Stage::ready(bench).await?;
    for reason in [DisconnectReason::Request, DisconnectReason::Idle, DisconnectReason::Update, DisconnectReason::Shutdown] {
        let mut play = stage.live().await?;
        disconnect(&mut play, reason).await?;
        play.stop().await?;
    }
    Ok(None)
}

async fn closes(bench: &Bench) -> Course {
    let stage = Stage::ready(bench).await?;
    let link = stage.link()?;
    let mut play = disconnected(&stage).await?;
    play.meanwhile("no connection to the server any more", CLOSING, link.all_closed()).await?;
    Ok(None)
}

async fn stays(bench: &Bench) -> Course {
    let stage = Stage::ready(bench).await?;
    let mut play = disconnected(&stage).await?;
    let before = stage.link.as_ref().map_or(0, super::link::Link::accepted);
    tokio::time::sleep(WHILE).await;
    play.still_runs().await?;
    let expected = "it stays disconnected until it is told to connect";
    expect(play.current() == Some(StubStatus::Disconnected), expected, || play.history())?;
    let after = stage.link.as_ref().map_or(0, super::link::Link::accepted);
    expect(before == after, expected, || format!("{} more connections", after - before))?;
    Ok(None)
}

async fn again(bench: &Bench) -> Course {
    let stage = Stage::ready(bench).await?;
    let mut play = stage.live().await?;
    stage.answers(&mut play).await?;
    play.stop().await?;
    let mut play = disconnected(&stage).await?;
    play.connect(None).await?;
    play.status(StubStatus::Live, stage.patience.live).await?;
    stage.must_answer(&mut play, "an answer after it has connected again").await?;
    Ok(None)
}

async fn while_connecting(bench: &Bench) -> Course {
    let stage = Stage::ready(bench).await?;
    let link = stage.link()?;
    drop(disconnected(&stage).await?);
    link.set(Manner::Stall);
    let mut play = stage.started().await?;
    play.connect(None).await?;
    disconnect(&mut play, DisconnectReason::Request).await?;
    Ok(None)
}
