//! Subscriptions at the session manager, `domain://msg-node.<domain>/sm`.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    Node,
    client::{Client, is_ok},
};
use crate::{
    Case, Verdict,
    case::{CaseResult, Script, expect},
};

const SPEC: &str = "tests/CASES.md: C8, subscription.spec";

/// The member `source` of a subscription's body.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SourceMember {
    Absent,
    Present,
}

pub(super) const CASES: &[Script<Node>] = &[
    Script {
        case: Case::new("node/subscription/subscribe", "`subscribe` of `resources` is answered with code 200.", SPEC),
        run: |node| Box::pin(subscribe(node, SourceMember::Absent)),
    },
    Script {
        case: Case::new(
            "node/subscription/source",
            "`subscribe` of `resources` with a `source` in the body is answered with code 200.",
            SPEC,
        ),
        run: |node| Box::pin(subscribe(node, SourceMember::Present)),
    },
    Script {
        case: Case::new("node/subscription/fan-out", "An `update` reaches all subscribers unchanged.", SPEC),
        run: |node| Box::pin(fan_out(node)),
    },
    Script {
        case: Case::new("node/subscription/subscriber-only", "A ping to a subscribed URL reaches the subscriber only.", SPEC),
        run: |node| Box::pin(subscriber_only(node)),
    },
    Script {
        case: Case::new("node/subscription/unsubscribe", "`unsubscribe` is answered with code 200.", SPEC),
        run: |node| Box::pin(unsubscribe(node)),
    },
    Script {
        case: Case::new("node/subscription/no-more", "After `unsubscribe`, the subscriber receives nothing.", SPEC),
        run: |node| Box::pin(no_more(node)),
    },
];

/// Subscribes. If that fails, the case does not apply, because `node/subscription/subscribe` checks
/// it.
async fn subscribed(client: &mut Client<'_>, topic: &str) -> CaseResult<()> {
    let answer = client.ask_node("subscribe", "sm", json!({ "resources": [topic] })).await?;
    is_ok(&answer, "")
        .map_err(|_| Verdict::not_applicable(format!("no subscription ({answer}): see node/subscription/subscribe")))
}

async fn subscribe(node: &Node, source: SourceMember) -> CaseResult {
    let mut client = Client::open(node).await?;
    let mut body = json!({ "resources": [format!("hyperty://{}/{}/changes", node.domain, Uuid::new_v4())] });
    if source == SourceMember::Present {
        body["source"] = format!("hyperty://{}/{}", node.domain, Uuid::new_v4()).into();
    }
    is_ok(&client.ask_node("subscribe", "sm", body).await?, "code 200")?;
    Ok(None)
}

fn update(object: &str, topic: &str) -> Value {
    json!({ "id": 4711, "type": "update", "from": object, "to": topic, "body": { "value": { "b": 1.5, "a": null } } })
}

async fn fan_out(node: &Node) -> CaseResult {
    let (mut reporter, mut first, mut second) = (Client::open(node).await?, Client::open(node).await?, Client::open(node).await?);
    let object = reporter.allocate().await?;
    let topic = format!("{object}/changes");
    subscribed(&mut first, &topic).await?;
    subscribed(&mut second, &topic).await?;
    let update = update(&object, &topic);
    reporter.send(update.clone()).await?;
    for subscriber in [&mut first, &mut second] {
        let came = subscriber.next("the update").await?;
        expect(came == update, &update.to_string(), || came.to_string())?;
    }
    reporter.expect_silence("no update for the reporter itself").await?;
    Ok(None)
}

async fn subscriber_only(node: &Node) -> CaseResult {
    let (mut subscriber, mut sender, mut other) =
        (Client::open(node).await?, Client::open(node).await?, Client::open(node).await?);
    let topic = format!("hyperty://{}/{}", node.domain, Uuid::new_v4());
    subscribed(&mut subscriber, &topic).await?;
    let ping = json!({ "id": 5, "type": "ping", "from": sender.runtime, "to": topic, "body": {} });
    sender.send(ping.clone()).await?;
    let came = subscriber.next("a ping to the subscribed URL").await?;
    expect(came == ping, &ping.to_string(), || came.to_string())?;
    other.expect_silence("no ping at another client").await?;
    Ok(None)
}

async fn unsubscribe(node: &Node) -> CaseResult {
    let mut client = Client::open(node).await?;
    let topic = format!("hyperty://{}/{}/changes", node.domain, Uuid::new_v4());
    subscribed(&mut client, &topic).await?;
    is_ok(&client.ask_node("unsubscribe", "sm", json!({ "resources": [topic] })).await?, "code 200")?;
    Ok(None)
}

async fn no_more(node: &Node) -> CaseResult {
    let (mut reporter, mut subscriber) = (Client::open(node).await?, Client::open(node).await?);
    let object = reporter.allocate().await?;
    let topic = format!("{object}/changes");
    subscribed(&mut subscriber, &topic).await?;
    let answer = subscriber.ask_node("unsubscribe", "sm", json!({ "resources": [topic] })).await?;
    is_ok(&answer, "").map_err(|_| {
        Verdict::not_applicable(format!("the subscription does not end ({answer}): see node/subscription/unsubscribe"))
    })?;
    reporter.send(update(&object, &topic)).await?;
    // The node has handled the update when it answers this.
    reporter.session("re-open", &reporter.runtime.clone()).await?;
    subscriber.expect_silence("no update after `unsubscribe`").await?;
    Ok(None)
}
