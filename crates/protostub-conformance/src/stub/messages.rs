//! Messages, in both directions.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use protostub_bus::Inbox;
use protostub_types::{Body, Message, MessageId, MessageType};
use serde_json::{Value, json};

use super::{
    Server, StubSuiteContext,
    fixture::{APP, StubFixture, shown},
    instance::Instance,
};
use crate::{
    Case, Verdict,
    case::{CaseResult, Script, expect},
};

/// Number of messages in a check of their order.
const MANY: u64 = 100;
/// Number of messages that are sent one after the other.
const FEW: u64 = 10;
/// Time to wait for a response that should not arrive.
const WHILE: Duration = Duration::from_millis(300);

pub(super) const CASES: &[Script<StubSuiteContext>] = &[
    Script {
        case: Case::new(
            "stub/messages/answered",
            "A stub answers a request (`create`, `read`, `delete`, `subscribe`, `unsubscribe`, `execute`) with one final `response`.",
            "wit/0.1/types.wit",
        ),
        run: |context| Box::pin(answered(context)),
    },
    Script {
        case: Case::new(
            "stub/messages/one-response",
            "A request gets exactly one final `response`, and so does a message with the header `expects-response: true`.",
            "wit/0.1/types.wit",
        ),
        run: |context| Box::pin(single_response(context)),
    },
    Script {
        case: Case::new(
            "stub/messages/no-response",
            "A message that is no request, and lacks the header `expects-response: true`, gets no response.",
            "wit/0.1/types.wit",
        ),
        run: |context| Box::pin(no_response(context)),
    },
    Script {
        case: Case::new("stub/messages/order", "A stub passes messages on in the order of their events.", "wit/0.1/stub.wit"),
        run: |context| Box::pin(order(context)),
    },
    Script {
        case: Case::new(
            "stub/messages/any-body",
            "A body is JSON text, or bytes that JSON cannot hold, of at most 1 MiB. A request that the stub cannot pass on gets an error response.",
            "wit/0.1/types.wit, stubs/README.md",
        ),
        run: |context| Box::pin(any_body(context)),
    },
    Script {
        case: Case::new(
            "stub/messages/sender",
            "`from` is the stub's URL, a path below it, or an address of exactly the stub's domain; the host answers `denied` otherwise.",
            "wit/0.1/bus.wit",
        ),
        run: |context| Box::pin(sender(context)),
    },
    Script {
        case: Case::new(
            "stub/messages/incoming",
            "Messages from the domain's server reach their receiver in order, with their sender in `from`.",
            "tests/CASES.md: C7, C15",
        ),
        run: |context| Box::pin(incoming(context)),
    },
    Script {
        case: Case::new(
            "stub/messages/via",
            "A stub drops an outgoing message with the stub's URL in `body.via`, and delivers incoming messages with its URL there.",
            "tests/CASES.md: C14",
        ),
        run: |context| Box::pin(via(context)),
    },
];

async fn answered(context: &StubSuiteContext) -> CaseResult {
    context.compiled()?;
    context.prerequisites().await.answers.clone()
}

async fn single_response(context: &StubSuiteContext) -> CaseResult {
    let fixture = StubFixture::ready(context).await?;
    let mut instance = fixture.live().await?;
    fixture.require_answer(&mut instance).await?;
    for number in 1..=10 {
        let answer = instance.meanwhile("an answer", fixture.timeouts.answer, fixture.ask(fixture.request(number))).await?;
        expect(answer.is_ok(), "an answer to each of ten requests", || shown(&answer))?;
    }
    tokio::time::sleep(WHILE).await;
    let unawaited = fixture.bus.counts().unawaited;
    expect(unawaited == 0, "one response to each request", || format!("{unawaited} more than that"))?;
    Ok(None)
}

async fn no_response(context: &StubSuiteContext) -> CaseResult {
    let fixture = StubFixture::ready(context).await?;
    let mut instance = fixture.live().await?;
    fixture.require_answer(&mut instance).await?;
    // `stub/messages/one-response` checks for further responses to that request.
    tokio::time::sleep(WHILE).await;
    let before = fixture.bus.counts().unawaited;
    for kind in [MessageType::Update, MessageType::Forward, MessageType::Other("ping".into())] {
        let message = Message { kind: kind.clone(), headers: Vec::new(), ..fixture.request(1) };
        fixture.bus.post(&fixture.app, message).map_err(super::fixture::setup_failed)?;
    }
    tokio::time::sleep(WHILE).await;
    let unawaited = fixture.bus.counts().unawaited - before;
    expect(unawaited == 0, "no response to `update`, `forward` and `ping`", || format!("{unawaited} responses"))?;
    instance.still_runs().await?;
    Ok(None)
}

async fn order(context: &StubSuiteContext) -> CaseResult {
    let fixture = StubFixture::ready(context).await?;
    if matches!(context.server, Server::At(_)) {
        return Err(Verdict::not_applicable("the kit sees only in a message node what reaches the server"));
    }
    let mut instance = fixture.live().await?;
    fixture.require_answer(&mut instance).await?;
    let already = fixture.node.as_ref().map_or(0, |(_, peer)| peer.heard_so_far().len());
    for number in 0..MANY {
        fixture.bus.post(&fixture.app, fixture.request(number)).map_err(super::fixture::setup_failed)?;
    }
    let wanted: Vec<u64> = (0..MANY).collect();
    let came: Vec<u64> = if let Some((_, peer)) = &fixture.node {
        let all =
            instance.meanwhile("all messages at the server", fixture.timeouts.answer, peer.heard(already + wanted.len())).await?;
        all[already..].iter().filter_map(|message| message["body"]["n"].as_u64()).collect()
    } else {
        let mut inbox = fixture.answers.lock().await;
        let mut ids = Vec::new();
        let all = async {
            while ids.len() < wanted.len() {
                let Some(message) = inbox.recv().await else { break };
                if let (MessageType::Response, MessageId::Number(id)) = (&message.kind, &message.id.canonical()) {
                    ids.push(id - 1);
                }
            }
        };
        instance.meanwhile("an answer to each of a hundred requests", fixture.timeouts.answer, all).await?;
        ids
    };
    expect(came == wanted, "a hundred messages in their order", || {
        let first = came.iter().zip(&wanted).position(|(came, wanted)| came != wanted).unwrap_or(came.len());
        format!("{} messages; at place {first} there is {:?}", came.len(), came.get(first))
    })?;
    Ok(None)
}

async fn any_body(context: &StubSuiteContext) -> CaseResult {
    let fixture = StubFixture::ready(context).await?;
    let mut instance = fixture.live().await?;
    fixture.require_answer(&mut instance).await?;
    let text = |text: &str| Some(Body::Json(text.into()));
    let long = format!("\"{}\"", "x".repeat((1 << 20) - 2));
    let deep = format!("{}1{}", "[".repeat(5000), "]".repeat(5000));
    let bodies = [
        ("no body", None),
        ("a number", text("7")),
        ("a list", text("[1,{}]")),
        ("an object with a `code`", text(r#"{"code":"x","value":null}"#)),
        ("an empty text", text("")),
        ("a text that is not JSON", text("{\"a\":")),
        ("a list in five thousand others", text(&deep)),
        ("no bytes", Some(Body::Bytes(Arc::from([])))),
        ("bytes that are not text", Some(Body::Bytes(Arc::from([0xff, 0xfe, 0, 0x80])))),
        ("1 MiB of JSON", text(&long)),
    ];
    let mut codes = BTreeSet::new();
    for (number, (what, body)) in (1..).zip(bodies) {
        let request = Message { body, ..fixture.request(number) };
        let expected = format!("a response to a request with {what}");
        let answer = instance.meanwhile(&expected, fixture.timeouts.answer + WHILE, fixture.ask(request)).await?;
        expect(answer.is_ok(), &expected, || shown(&answer))?;
        codes.extend(answer.ok().and_then(|answer| answer.code()));
    }
    fixture.expect_answer(&mut instance, "an answer afterwards").await?;
    let codes: Vec<_> = codes.iter().map(u16::to_string).collect();
    Ok((!codes.is_empty()).then(|| format!("codes {}", codes.join(", "))))
}

async fn sender(context: &StubSuiteContext) -> CaseResult {
    let fixture = StubFixture::ready(context).await?;
    let mut instance = fixture.live().await?;
    fixture.require_answer(&mut instance).await?;
    let ping = Message { kind: MessageType::Other("ping".into()), headers: Vec::new(), ..fixture.request(1) };
    fixture.bus.post(&fixture.app, ping).map_err(super::fixture::setup_failed)?;
    if let Some((_, peer)) = &fixture.node {
        peer.send(1, "ping", APP, json!({ "n": 1 })).await;
    }
    fixture.require_answer(&mut instance).await?;
    let forged = fixture.log.lines().into_iter().find(|line| line.contains("forged a sender"));
    expect(forged.is_none(), "no message with a sender that is not the stub's", || forged.unwrap_or_default())?;
    Ok(None)
}

async fn incoming(context: &StubSuiteContext) -> CaseResult {
    let fixture = StubFixture::ready(context).await?;
    let (_, peer) = fixture.node()?;
    let mut instance = fixture.live().await?;
    fixture.require_answer(&mut instance).await?;
    let mut inbox = fixture.answers.lock().await;
    for number in 0..FEW {
        peer.send(number, "ping", APP, json!({ "n": number })).await;
        ping(&fixture, &mut instance, &mut inbox, number).await?;
    }
    Ok(None)
}

/// Waits for a message of the server. If none arrives, the case does not apply, because
/// `stub/messages/incoming` checks it.
pub(super) async fn incoming_one(fixture: &StubFixture, instance: &mut Instance) -> CaseResult<()> {
    let (_, peer) = fixture.node()?;
    peer.send(0, "ping", APP, json!({ "n": 0 })).await;
    let mut inbox = fixture.answers.lock().await;
    let arrived = ping(fixture, instance, &mut inbox, 0).await;
    arrived.map_err(|_| Verdict::not_applicable("no message of the server arrives as it should: see stub/messages/incoming"))
}

/// Waits for a hundred pings of the peer, in order.
pub(super) async fn pings(fixture: &StubFixture, instance: &mut Instance, sending: impl Future<Output = ()>) -> CaseResult<()> {
    sending.await;
    let mut inbox = fixture.answers.lock().await;
    for number in 0..MANY {
        ping(fixture, instance, &mut inbox, number).await?;
    }
    Ok(())
}

/// Waits for the ping with this number.
async fn ping(fixture: &StubFixture, instance: &mut Instance, inbox: &mut Inbox, number: u64) -> CaseResult<()> {
    let (_, peer) = fixture.node()?;
    let expected = format!("message {number} of {}", peer.address);
    let message = instance.meanwhile(&expected, fixture.timeouts.answer, inbox.recv()).await?;
    let Some(message) = message else { return Err(Verdict::fail(expected, "nothing")) };
    let body: Value = message.body.as_ref().and_then(|body| body.parse().ok()).unwrap_or_default();
    expect(message.from.as_str() == peer.address && body["n"] == number, &expected, || shown(&Ok(message.clone())))
}

async fn via(context: &StubSuiteContext) -> CaseResult {
    let fixture = StubFixture::ready(context).await?;
    let (_, peer) = fixture.node()?;
    let mut instance = fixture.live().await?;
    fixture.require_answer(&mut instance).await?;
    let already = peer.heard_so_far().len();
    let around = Message { kind: MessageType::Other("ping".into()), headers: Vec::new(), ..fixture.request(1) };
    let around = around.with_body(json!({ "n": 99, "via": fixture.url.as_str() }));
    fixture.bus.post(&fixture.app, around).map_err(super::fixture::setup_failed)?;
    fixture.require_answer(&mut instance).await?;
    let heard = peer.heard_so_far();
    let round = heard[already.min(heard.len())..].iter().find(|message| message["body"]["n"] == 99);
    expect(round.is_none(), "a message that came through the stub does not return to the server", || {
        round.map(Value::to_string).unwrap_or_default()
    })?;
    peer.send(1, "ping", APP, json!({ "n": 1 })).await;
    let mut inbox = fixture.answers.lock().await;
    let message = instance.meanwhile("a message of the server", fixture.timeouts.answer, inbox.recv()).await?;
    let via = message.as_ref().and_then(|message| message.body.as_ref()?.parse::<Value>().ok()).map(|body| body["via"].clone());
    expect(via == Some(json!(fixture.url.as_str())), "the stub's URL in `body.via` of a message from the server", || {
        format!("{via:?}")
    })?;
    Ok(None)
}
