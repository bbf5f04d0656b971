//! What an instance leaves to the one after it.

use protostub_sandbox::DisconnectReason;
use protostub_types::StubStatus;

use super::{
    Bench,
    stage::{Play, Stage},
};
use crate::{
    Case,
    case::{Course, Script},
};

pub(super) const CASES: &[Script<Bench>] = &[
    Script {
        case: Case::new(
            "stub/session/update",
            "A small memory that outlives a restart and an update of the stub: a session token to resume with, say.",
            "wit/0.1/session.wit",
        ),
        run: |bench| Box::pin(update(bench)),
    },
    Script {
        case: Case::new(
            "stub/session/crash",
            "A call that traps ends this instance; the host starts another one.",
            "wit/0.1/stub.wit",
        ),
        run: |bench| Box::pin(crash(bench)),
    },
    Script {
        case: Case::new(
            "stub/session/nonsense",
            "What was saved last; none: nothing was, or the host dropped it because instances that started from it kept crashing.",
            "wit/0.1/session.wit",
        ),
        run: |bench| Box::pin(nonsense(bench)),
    },
    Script {
        case: Case::new("stub/session/forgotten", "Re-open refused: the stub must fall back to open.", "conformance case C13"),
        run: |bench| Box::pin(forgotten(bench)),
    },
];

async fn update(bench: &Bench) -> Course {
    let stage = Stage::ready(bench).await?;
    let play = stage.live().await?;
    leave(&stage, play, DisconnectReason::Update).await?;
    successor(&stage).await
}

/// It is told to disconnect, and ends.
async fn leave(stage: &Stage, mut play: Play, reason: DisconnectReason) -> Course<()> {
    stage.answers(&mut play).await?;
    let handle = play.handle.clone();
    // Whether it manages to say good-bye is another case's business.
    let goodbye = async move { handle.disconnect(reason).await };
    let _ = tokio::time::timeout(stage.patience.grace, goodbye).await;
    let _ = play.status(StubStatus::Disconnected, stage.patience.grace).await;
    let _ = play.stop().await;
    Ok(())
}

async fn crash(bench: &Bench) -> Course {
    let stage = Stage::ready(bench).await?;
    let mut play = stage.live().await?;
    stage.answers(&mut play).await?;
    play.stop().await?;
    successor(&stage).await
}

/// The next instance works, with what the one before it has saved.
async fn successor(stage: &Stage) -> Course {
    let saved = stage.session.load().map(|saved| saved.len());
    let mut play = stage.start().await?.map_err(|error| crate::Verdict::fail("another instance starts", error.to_string()))?;
    play.connect(None).await?;
    play.status(StubStatus::Live, stage.patience.live).await?;
    stage.must_answer(&mut play, "an answer of the next instance").await?;
    Ok(Some(saved.map_or_else(|| "nothing is saved".to_owned(), |bytes| format!("{bytes} bytes are saved"))))
}

async fn nonsense(bench: &Bench) -> Course {
    let stage = Stage::ready(bench).await?;
    let mut play = stage.live().await?;
    stage.answers(&mut play).await?;
    play.stop().await?;
    let cut_off = stage.session.load().map(|saved| saved[..saved.len() / 2].to_vec()).unwrap_or_default();
    let whole = [0xa5; 64 << 10];
    for saved in [b"\xff\x00 no session".as_slice(), b"{}", b"[1,2", b"null", &cut_off, &whole] {
        stage.session.save(saved).map_err(super::stage::unprepared)?;
        let expected = "an instance that does without what it cannot read";
        let mut play = stage.start().await?.map_err(|error| crate::Verdict::fail(expected, error.to_string()))?;
        play.connect(None).await?;
        play.status(StubStatus::Live, stage.patience.live).await?;
        stage.must_answer(&mut play, "an answer of an instance that was left nonsense").await?;
        play.stop().await?;
    }
    Ok(None)
}

async fn forgotten(bench: &Bench) -> Course {
    let stage = Stage::ready(bench).await?;
    let (server, _) = stage.node()?;
    let play = stage.live().await?;
    leave(&stage, play, DisconnectReason::Idle).await?;
    // All but the stub's own session would do; whoever answers has lost its address, too.
    server.node().forget();
    let mut play = stage.start().await?.map_err(|error| crate::Verdict::fail("another instance starts", error.to_string()))?;
    play.connect(None).await?;
    play.status(StubStatus::Live, stage.patience.live).await?;
    Ok(None)
}
