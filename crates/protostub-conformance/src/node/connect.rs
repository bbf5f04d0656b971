//! Sessions.

use serde_json::json;
use uuid::Uuid;

use super::{
    Node,
    client::{Client, SESSION, is_ok},
};
use crate::{
    Case,
    case::{CaseResult, Script, expect},
};

pub(super) const CASES: &[Script<Node>] = &[
    Script {
        case: Case::new(
            "node/connect/open",
            "`open` to `mn:/session` is answered from there with code 200 and a token.",
            "tests/CASES.md: C1",
        ),
        run: |node| Box::pin(open(node)),
    },
    Script {
        case: Case::new(
            "node/connect/re-open",
            "After the server drops the socket, `re-open` with the token resumes the session with its addresses.",
            "tests/CASES.md: C3",
        ),
        run: |node| Box::pin(re_open(node)),
    },
    Script {
        case: Case::new("node/connect/wrong-token", "`re-open` with a wrong token is refused.", "tests/CASES.md: C13"),
        run: |node| Box::pin(wrong_token(node)),
    },
    Script {
        case: Case::new(
            "node/connect/close",
            "`close` ends the session, and closes the connection with code 1000: 'Normal closure'.",
            "tests/CASES.md: C2, C3",
        ),
        run: |node| Box::pin(close(node)),
    },
    Script {
        case: Case::new(
            "node/connect/ping",
            "A message from an unallocated address reaches its receiver, and the reply reaches the sender: the node learns addresses.",
            "tests/CASES.md: C7",
        ),
        run: |node| Box::pin(ping(node)),
    },
];

async fn open(node: &Node) -> CaseResult {
    let runtime = format!("runtime://home.example/{}", Uuid::new_v4());
    let mut client = Client::connect(node, &runtime).await?;
    let answer = client.session("open", &runtime).await?;
    let expected = "code 200 and a `runtimeToken`, from mn:/session";
    let has_token = answer["body"]["runtimeToken"].as_str().is_some_and(|token| !token.is_empty());
    expect(answer["body"]["code"] == 200 && has_token && answer["from"] == SESSION, expected, || answer.to_string())?;
    Ok(None)
}

async fn re_open(node: &Node) -> CaseResult {
    let mut client = Client::open(node).await?;
    let address = client.allocate().await?;
    let (runtime, token) = (client.runtime.clone(), client.token.clone());
    drop(client);
    let mut again = Client::connect(node, &runtime).await?;
    let answer = again.session("re-open", &format!("{runtime}/{token}")).await?;
    is_ok(&answer["body"], "code 200 for `re-open`")?;
    let mut other = Client::open(node).await?;
    other.send(json!({ "id": 9, "type": "ping", "from": other.runtime, "to": address })).await?;
    let ping = again.next("a message to an address of the session").await?;
    expect(ping["to"] == address.as_str(), "a message to an address of the session", || ping.to_string())?;
    Ok(None)
}

async fn wrong_token(node: &Node) -> CaseResult {
    let client = Client::open(node).await?;
    let mut thief = Client::connect(node, &client.runtime).await?;
    for token in ["", "0", &client.token[..client.token.len() / 2]] {
        let answer = thief.session("re-open", &format!("{}/{token}", client.runtime)).await?;
        let code = answer["body"]["code"].as_u64().unwrap_or_default();
        expect(code >= 400, "an error for a token that is not the session's", || answer.to_string())?;
    }
    Ok(None)
}

async fn close(node: &Node) -> CaseResult {
    let mut client = Client::open(node).await?;
    let session = format!("{}/{}", client.runtime, client.token);
    client.send(json!({ "id": 3, "type": "close", "from": session, "to": SESSION })).await?;
    let expected = "a close frame with code 1000";
    let frame = client.closed(expected).await?;
    expect(frame.as_ref().is_some_and(|frame| u16::from(frame.code) == 1000), expected, || format!("{frame:?}"))?;
    Ok(None)
}

async fn ping(node: &Node) -> CaseResult {
    let (mut first, mut second) = (Client::open(node).await?, Client::open(node).await?);
    let alice = first.allocate().await?;
    let unknown = format!("hyperty://unknown-url/{}", Uuid::new_v4());
    let ping = json!({ "id": 1, "type": "ping", "from": unknown, "to": alice, "body": { "text": "é\u{1F600}" } });
    second.send(ping.clone()).await?;
    let came = first.next("a ping from an unknown address").await?;
    expect(came == ping, &ping.to_string(), || came.to_string())?;
    let pong = json!({ "id": 1, "type": "response", "from": alice, "to": unknown, "body": { "code": 200 } });
    first.send(pong.clone()).await?;
    let came = second.next("the reply to a learned address").await?;
    expect(came == pong, &pong.to_string(), || came.to_string())?;
    Ok(None)
}
