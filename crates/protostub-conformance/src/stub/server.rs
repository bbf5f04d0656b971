//! Faults of the server.

use std::time::Duration;

use protostub_domain::Faults;
use protostub_types::StubStatus::{self, Disconnected, Failed, InProgress, Live};

use super::{StubSuiteContext, fixture::StubFixture, instance::Instance, link::LinkMode};
use crate::{
    Case, Verdict,
    case::{CaseResult, Script, expect},
};

/// Time for a stub to react to nonsense.
const WHILE: Duration = Duration::from_millis(500);

const STATUSES_ARE_TRUE: &str =
    "Statuses are true: `live` means that messages flow, `disconnected` says why, `failed` is for what only people can mend.";
const NO_PANIC: &str = "No input from a server makes the stub panic. The stub logs and skips unreadable input.";

pub(super) const CASES: &[Script<StubSuiteContext>] = &[
    Script {
        case: Case::new("stub/server/refuses", STATUSES_ARE_TRUE, "stubs/README.md"),
        run: |context| Box::pin(refuses(context)),
    },
    Script {
        case: Case::new(
            "stub/server/comes-up",
            "A stub whose server was unreachable becomes `live` once the server is reachable, by itself or at the next `connect`.",
            "wit/0.1/presence.wit",
        ),
        run: |context| Box::pin(comes_up(context)),
    },
    Script {
        case: Case::new("stub/server/drops", STATUSES_ARE_TRUE, "stubs/README.md"),
        run: |context| Box::pin(drops(context)),
    },
    Script {
        case: Case::new(
            "stub/server/comes-back",
            "After the server drops the socket, the stub is disconnected. At connect() it becomes in-progress and live.",
            "tests/CASES.md: C3",
        ),
        run: |context| Box::pin(comes_back(context)),
    },
    Script {
        case: Case::new(
            "stub/server/silent",
            "Without a session reply in 3 s, the stub is disconnected. It is `live` only once messages can flow.",
            "tests/CASES.md: C11; wit/0.1/types.wit",
        ),
        run: |context| Box::pin(silent(context)),
    },
    Script { case: Case::new("stub/server/nonsense", NO_PANIC, "stubs/README.md"), run: |context| Box::pin(nonsense(context)) },
    Script {
        case: Case::new("stub/server/nonsense-while-live", NO_PANIC, "stubs/README.md"),
        run: |context| Box::pin(nonsense_while_live(context)),
    },
    Script {
        case: Case::new("stub/server/nonsense-messages", NO_PANIC, "stubs/README.md"),
        run: |context| Box::pin(nonsense_messages(context)),
    },
    Script {
        case: Case::new(
            "stub/server/refuses-session",
            "If the server answers `open` with code 500, the stub is failed, with the server's reason.",
            "tests/CASES.md: C12",
        ),
        run: |context| Box::pin(refuses_session(context)),
    },
];

/// Fails unless the stub publishes one of these statuses with a reason, and never `live`.
async fn not_live(instance: &mut Instance, wanted: &[StubStatus]) -> CaseResult<()> {
    let (status, reason) = instance.status_of(wanted, instance.timeouts.outage).await?;
    let was_live = instance.statuses.borrow().iter().any(|(status, _)| *status == Live);
    expect(!was_live, "never `live`", || instance.history())?;
    let has_reason = reason.is_some_and(|reason| reason.chars().any(char::is_alphabetic));
    expect(has_reason, &format!("a reason for `{status}`, for people"), || instance.history())
}

/// Returns a fixture in which the stub has worked.
async fn working_fixture(context: &StubSuiteContext) -> CaseResult<StubFixture> {
    let fixture = StubFixture::ready(context).await?;
    fixture.link()?;
    let mut instance = fixture.live().await?;
    fixture.require_answer(&mut instance).await?;
    instance.stop().await?;
    Ok(fixture)
}

async fn refuses(context: &StubSuiteContext) -> CaseResult {
    let fixture = StubFixture::new(context).await?;
    fixture.link()?;
    let mut instance = fixture.started().await?;
    instance.connect(None).await?;
    not_live(&mut instance, &[Disconnected, Failed]).await?;
    expect(instance.current() == Some(Disconnected), "`disconnected`, because a later attempt may succeed", || {
        instance.history()
    })?;
    Ok(None)
}

async fn comes_up(context: &StubSuiteContext) -> CaseResult {
    drop(working_fixture(context).await?);
    let fixture = StubFixture::new(context).await?;
    let link = fixture.link()?;
    let mut instance = fixture.started().await?;
    instance.connect(None).await?;
    if let Err(verdict) = instance.status(Disconnected, fixture.timeouts.outage).await {
        return Err(Verdict::not_applicable(format!(
            "the stub does not publish `disconnected`: see stub/server/refuses ({verdict:?})"
        )));
    }
    link.open().await.map_err(super::fixture::setup_failed)?;
    again(&fixture, &mut instance).await
}

/// Waits until the stub works again, by itself or after `connect`.
async fn again(fixture: &StubFixture, instance: &mut Instance) -> CaseResult {
    if instance.current() != Some(Live) {
        instance.connect(None).await?;
    }
    instance.status(Live, fixture.timeouts.live).await?;
    fixture.expect_answer(instance, "an answer once the server is reachable again").await?;
    Ok(None)
}

async fn drops(context: &StubSuiteContext) -> CaseResult {
    let fixture = working_fixture(context).await?;
    let mut instance = fixture.live().await?;
    fixture.link()?.cut();
    let (status, reason) = instance.status_of(&[Disconnected, InProgress, Failed], fixture.timeouts.grace).await?;
    expect(status != Failed, "`disconnected`, because a later attempt may succeed", || instance.history())?;
    let has_reason = status == InProgress || reason.is_some_and(|reason| !reason.trim().is_empty());
    expect(has_reason, "a reason for `disconnected`, for people", || instance.history())?;
    Ok(None)
}

async fn comes_back(context: &StubSuiteContext) -> CaseResult {
    let fixture = working_fixture(context).await?;
    let mut instance = fixture.live().await?;
    fixture.link()?.cut();
    let told = instance.status_of(&[Disconnected, InProgress], fixture.timeouts.grace).await;
    if told.is_err() {
        return Err(Verdict::not_applicable("the stub does not publish `disconnected`: see stub/server/drops"));
    }
    again(&fixture, &mut instance).await
}

async fn silent(context: &StubSuiteContext) -> CaseResult {
    let fixture = working_fixture(context).await?;
    fixture.link()?.set(LinkMode::Stall);
    let mut instance = fixture.started().await?;
    instance.connect(None).await?;
    not_live(&mut instance, &[Disconnected, Failed]).await?;
    Ok(None)
}

async fn nonsense(context: &StubSuiteContext) -> CaseResult {
    let fixture = working_fixture(context).await?;
    let link = fixture.link()?;
    let noise: &'static [u8] = NOISE.as_slice();
    let welcome = b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 13\r\n\r\n<html></html>";
    for said in [noise, welcome, b"\0", b"\r\n\r\n\r\n"] {
        link.set(LinkMode::Say(said));
        let mut instance = fixture.started().await?;
        instance.connect(None).await?;
        not_live(&mut instance, &[Disconnected, Failed]).await?;
        instance.still_runs().await?;
        instance.stop().await?;
    }
    Ok(None)
}

async fn nonsense_while_live(context: &StubSuiteContext) -> CaseResult {
    let fixture = working_fixture(context).await?;
    let mut instance = fixture.live().await?;
    fixture.link()?.inject(NOISE.clone());
    tokio::time::sleep(WHILE).await;
    instance.still_runs().await?;
    again(&fixture, &mut instance).await
}

async fn nonsense_messages(context: &StubSuiteContext) -> CaseResult {
    let fixture = working_fixture(context).await?;
    fixture.node()?;
    let link = fixture.link()?;
    let mut instance = fixture.live().await?;
    fixture.require_answer(&mut instance).await?;
    for text in NO_MESSAGES {
        link.inject(frame(text));
        fixture.expect_answer(&mut instance, &format!("an answer after the text `{text}`")).await?;
    }
    // A binary frame: a header of two bytes, and bytes that are not UTF-8.
    link.inject(b"\x82\x04\xff\xfe\x00\x80".to_vec());
    fixture.expect_answer(&mut instance, "an answer after a binary frame").await?;
    expect(instance.current() == Some(Live), "the stub stays `live`", || instance.history())?;
    Ok(None)
}

async fn refuses_session(context: &StubSuiteContext) -> CaseResult {
    let fixture = working_fixture(context).await?;
    let (server, _) = fixture.node()?;
    if fixture.session.load().is_none() {
        return Err(Verdict::not_applicable("the stub has no session at the message node to refuse"));
    }
    let reason = "closed for the weekend";
    server.node().set_faults(Faults::refusing_open(reason));
    let mut instance = fixture.started().await?;
    instance.connect(None).await?;
    not_live(&mut instance, &[Failed, Disconnected]).await?;
    let told = instance.history();
    expect(
        instance.current() == Some(Failed) && told.contains(reason),
        &format!("`failed`, with the reason `{reason}`"),
        || told.clone(),
    )?;
    Ok(None)
}

/// Bytes without a meaning, the same in each run. They end with a line break, so the next line of a
/// line protocol is intact.
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

/// Texts that are not messages, or not messages that the stub can use.
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

/// Returns a frame of a WebSocket server (RFC 6455 section 5.2) with a short text.
fn frame(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
    debug_assert!(length < 126, "a longer text needs another header");
    [&[0x81, length], text.as_bytes()].concat()
}
