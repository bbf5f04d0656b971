//! A server that is not well.

use std::time::Duration;

use protostub_domain::Faults;
use protostub_types::StubStatus::{self, Disconnected, Failed, InProgress, Live};

use super::{
    Bench,
    link::Manner,
    stage::{Play, Stage},
};
use crate::{
    Case, Verdict,
    case::{Course, Script, expect},
};

/// How long a stub has to react to nonsense.
const WHILE: Duration = Duration::from_millis(500);

const STATUSES_ARE_TRUE: &str =
    "Statuses are true: `live` means that messages flow, `disconnected` says why, `failed` is for what only people can mend.";
const NO_PANIC: &str = "Nothing that a server sends makes it panic. What cannot be read is logged, and skipped.";

pub(super) const CASES: &[Script<Bench>] = &[
    Script {
        case: Case::new("stub/server/refuses", STATUSES_ARE_TRUE, "stubs/README.md"),
        run: |bench| Box::pin(refuses(bench)),
    },
    Script {
        case: Case::new(
            "stub/server/comes-up",
            "A stub that lost its network may go `in-progress` and `live` again by itself.",
            "wit/0.1/presence.wit",
        ),
        run: |bench| Box::pin(comes_up(bench)),
    },
    Script { case: Case::new("stub/server/drops", STATUSES_ARE_TRUE, "stubs/README.md"), run: |bench| Box::pin(drops(bench)) },
    Script {
        case: Case::new(
            "stub/server/comes-back",
            "The server drops the socket: disconnected; connect(): in-progress, live.",
            "conformance case C3",
        ),
        run: |bench| Box::pin(comes_back(bench)),
    },
    Script {
        case: Case::new(
            "stub/server/silent",
            "No session reply in 3 s: disconnected. `live` once messages can flow.",
            "conformance case C11, wit/0.1/types.wit",
        ),
        run: |bench| Box::pin(silent(bench)),
    },
    Script { case: Case::new("stub/server/nonsense", NO_PANIC, "stubs/README.md"), run: |bench| Box::pin(nonsense(bench)) },
    Script {
        case: Case::new("stub/server/nonsense-while-live", NO_PANIC, "stubs/README.md"),
        run: |bench| Box::pin(nonsense_while_live(bench)),
    },
    Script {
        case: Case::new("stub/server/nonsense-messages", NO_PANIC, "stubs/README.md"),
        run: |bench| Box::pin(nonsense_messages(bench)),
    },
    Script {
        case: Case::new("stub/server/refuses-session", "Open answered 500: failed, with its reason.", "conformance case C12"),
        run: |bench| Box::pin(refuses_session(bench)),
    },
];

/// It says that it is not connected, and why, and has never said that it is.
async fn not_live(play: &mut Play, wanted: &[StubStatus]) -> Course<()> {
    let (status, reason) = play.status_of(wanted, play.patience.news).await?;
    let was_live = play.statuses.borrow().iter().any(|(status, _)| *status == Live);
    expect(!was_live, "never `live`", || play.history())?;
    let has_reason = reason.is_some_and(|reason| reason.chars().any(char::is_alphabetic));
    expect(has_reason, &format!("a reason for `{status}`, for people"), || play.history())
}

/// A stage on which the stub would work.
async fn stage(bench: &Bench) -> Course<Stage> {
    let stage = Stage::ready(bench).await?;
    stage.link()?;
    let mut play = stage.live().await?;
    stage.answers(&mut play).await?;
    play.stop().await?;
    Ok(stage)
}

async fn refuses(bench: &Bench) -> Course {
    let stage = Stage::new(bench).await?;
    stage.link()?;
    let mut play = stage.started().await?;
    play.connect(None).await?;
    not_live(&mut play, &[Disconnected, Failed]).await?;
    expect(play.current() == Some(Disconnected), "`disconnected`: it may go better later", || play.history())?;
    Ok(None)
}

async fn comes_up(bench: &Bench) -> Course {
    drop(self::stage(bench).await?);
    let stage = Stage::new(bench).await?;
    let link = stage.link()?;
    let mut play = stage.started().await?;
    play.connect(None).await?;
    if let Err(verdict) = play.status(Disconnected, stage.patience.news).await {
        return Err(Verdict::not_applicable(format!(
            "it does not say that it is not connected: see stub/server/refuses ({verdict:?})"
        )));
    }
    link.open().await.map_err(super::stage::unprepared)?;
    again(&stage, &mut play).await
}

/// It works again: by itself, or when it is told to connect.
async fn again(stage: &Stage, play: &mut Play) -> Course {
    if play.current() != Some(Live) {
        play.connect(None).await?;
    }
    play.status(Live, stage.patience.live).await?;
    stage.must_answer(play, "an answer once the server is there again").await?;
    Ok(None)
}

async fn drops(bench: &Bench) -> Course {
    let stage = stage(bench).await?;
    let mut play = stage.live().await?;
    stage.link()?.cut();
    let (status, reason) = play.status_of(&[Disconnected, InProgress, Failed], stage.patience.grace).await?;
    expect(status != Failed, "`disconnected`: it may go better later", || play.history())?;
    let has_reason = status == InProgress || reason.is_some_and(|reason| !reason.trim().is_empty());
    expect(has_reason, "a reason for `disconnected`, for people", || play.history())?;
    Ok(None)
}

async fn comes_back(bench: &Bench) -> Course {
    let stage = stage(bench).await?;
    let mut play = stage.live().await?;
    stage.link()?.cut();
    let told = play.status_of(&[Disconnected, InProgress], stage.patience.grace).await;
    if told.is_err() {
        return Err(Verdict::not_applicable("it does not say that it is not connected: see stub/server/drops"));
    }
    again(&stage, &mut play).await
}

async fn silent(bench: &Bench) -> Course {
    let stage = stage(bench).await?;
    stage.link()?.set(Manner::Stall);
    let mut play = stage.started().await?;
    play.connect(None).await?;
    not_live(&mut play, &[Disconnected, Failed]).await?;
    Ok(None)
}

async fn nonsense(bench: &Bench) -> Course {
    let stage = stage(bench).await?;
    let link = stage.link()?;
    let noise: &'static [u8] = NOISE.as_slice();
    let welcome = b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 13\r\n\r\n<html></html>";
    for said in [noise, welcome, b"\0", b"\r\n\r\n\r\n"] {
        link.set(Manner::Say(said));
        let mut play = stage.started().await?;
        play.connect(None).await?;
        not_live(&mut play, &[Disconnected, Failed]).await?;
        play.still_runs().await?;
        play.stop().await?;
    }
    Ok(None)
}

async fn nonsense_while_live(bench: &Bench) -> Course {
    let stage = stage(bench).await?;
    let mut play = stage.live().await?;
    stage.link()?.slip_in(NOISE.clone());
    tokio::time::sleep(WHILE).await;
    play.still_runs().await?;
    again(&stage, &mut play).await
}

async fn nonsense_messages(bench: &Bench) -> Course {
    let stage = stage(bench).await?;
    stage.node()?;
    let link = stage.link()?;
    let mut play = stage.live().await?;
    stage.answers(&mut play).await?;
    for text in NO_MESSAGES {
        link.slip_in(frame(text));
        stage.must_answer(&mut play, &format!("it goes on after the text `{text}`")).await?;
    }
    // One that is no text: a header of two bytes, and bytes that are no UTF-8.
    link.slip_in(b"\x82\x04\xff\xfe\x00\x80".to_vec());
    stage.must_answer(&mut play, "it goes on after a binary frame").await?;
    expect(play.current() == Some(Live), "it stays `live`", || play.history())?;
    Ok(None)
}

async fn refuses_session(bench: &Bench) -> Course {
    let stage = stage(bench).await?;
    let (server, _) = stage.node()?;
    if stage.session.load().is_none() {
        return Err(Verdict::not_applicable("the stub has no session at the message node that could be refused"));
    }
    let reason = "closed for the weekend";
    server.node().set_faults(Faults::refusing_open(reason));
    let mut play = stage.started().await?;
    play.connect(None).await?;
    not_live(&mut play, &[Failed, Disconnected]).await?;
    let told = play.history();
    expect(play.current() == Some(Failed) && told.contains(reason), &format!("`failed`, with the reason `{reason}`"), || {
        told.clone()
    })?;
    Ok(None)
}

/// Bytes without a meaning: the same ones every time. At their end there is one of a line, so that where there are lines the next one is itself.
static NOISE: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
    let mut state = 0x9e37_79b9_u32;
    let mut next = move || {
        // Xorshift.
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()
    };
    (0..4096).flat_map(|_| next()).chain(*b"\r\n").collect()
});

/// What no message is, or none that the stub could do anything with.
const NO_MESSAGES: [&str; 9] = [
    "<html>",
    "{}",
    "[]",
    "",
    r#"{"id":{},"type":7,"from":[],"to":null,"body":"body"}"#,
    r#"{"id":1,"type":"response","from":"mn:/session","to":"a.example"}"#,
    r#"{"id":1,"type":"read","from":"no address","to":"","a":1}"#,
    r#"{"id":1,"type":"read","from":"hyperty://a.example/1","to":"hyperty://nobody.example/1"}"#,
    "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
];

/// A frame of a WebSocket server (RFC 6455 section 5.2) with a short text in it.
fn frame(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
    debug_assert!(length < 126, "a longer text needs another header");
    [&[0x81, length], text.as_bytes()].concat()
}
