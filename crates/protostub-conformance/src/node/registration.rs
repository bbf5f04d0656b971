//! The registry of the domain, `domain://registry.<domain>`.

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

const SPEC: &str = "tests/CASES.md: registration.spec";

pub(super) const CASES: &[Script<Node>] = &[
    Script {
        case: Case::new("node/registration/register", "`create` with a hyperty's entry is answered with code 200.", SPEC),
        run: |node| Box::pin(register(node)),
    },
    Script {
        case: Case::new("node/registration/by-user", "`read` with a user's URL finds the user's entries, by their URLs.", SPEC),
        run: |node| Box::pin(found(node, |entry| json!({ "resource": entry.user }))),
    },
    Script {
        case: Case::new(
            "node/registration/by-scheme",
            "`read` with a user's URL and `dataSchemes` finds entries that have all of them.",
            SPEC,
        ),
        run: |node| {
            Box::pin(found(node, |entry| json!({ "resource": entry.user, "criteria": { "dataSchemes": ["TestSchema"] } })))
        },
    },
    Script {
        case: Case::new(
            "node/registration/by-resources",
            "`read` with a user's URL and `resources` finds entries that have all of them.",
            SPEC,
        ),
        run: |node| {
            Box::pin(found(node, |entry| json!({ "resource": entry.user, "criteria": { "resources": ["testresource"] } })))
        },
    },
    Script {
        case: Case::new(
            "node/registration/by-both",
            "`read` with a user's URL, `dataSchemes` and `resources` finds entries that have all of them.",
            SPEC,
        ),
        run: |node| {
            Box::pin(found(
                node,
                |entry| json!({ "resource": entry.user, "criteria": { "resources": ["testresource"], "dataSchemes": ["TestSchema"] } }),
            ))
        },
    },
    Script {
        case: Case::new("node/registration/by-url", "`read` with an entry's URL finds the entry.", SPEC),
        run: |node| Box::pin(by_url(node)),
    },
    Script {
        case: Case::new("node/registration/missing", "`read` of a missing entry is answered with code 404.", SPEC),
        run: |node| Box::pin(missing(node)),
    },
    Script {
        case: Case::new("node/registration/keep-alive", "`update` with an entry's URL keeps it alive: code 200.", SPEC),
        run: |node| Box::pin(keep_alive(node)),
    },
    Script {
        case: Case::new(
            "node/registration/status",
            "A subscriber to `<url>/registration` receives the entry's new status.",
            SPEC,
        ),
        run: |node| Box::pin(status(node)),
    },
    Script {
        case: Case::new(
            "node/registration/unregister",
            "`delete` is answered with code 200, and `read` does not find the entry any more.",
            SPEC,
        ),
        run: |node| Box::pin(unregister(node)),
    },
];

/// An entry of a user.
struct Entry {
    url: String,
    user: String,
}

impl Entry {
    async fn new(client: &mut Client<'_>) -> CaseResult<(Self, Value)> {
        let entry = Self { url: client.allocate().await?, user: format!("user://google.com/{}", Uuid::new_v4()) };
        let value = json!({
            "url": entry.url, "descriptor": "http://home.example/Hyperty", "user": entry.user, "expires": 3600, "status": "live",
            "dataSchemes": ["TestSchema"], "resources": ["testresource"], "runtime": client.runtime,
        });
        let answer = client.ask_registry("create", json!({ "value": value, "policyURL": "policyURL" })).await?;
        Ok((entry, answer))
    }

    /// Registers an entry. If that fails, the case does not apply, because
    /// `node/registration/register` checks it.
    async fn registered(client: &mut Client<'_>) -> CaseResult<Self> {
        let (entry, answer) = Self::new(client).await?;
        is_ok(&answer, "").map_err(|_| {
            Verdict::not_applicable(format!("the node did not register the address ({answer}): see node/registration/register"))
        })?;
        Ok(entry)
    }
}

async fn register(node: &Node) -> CaseResult {
    let mut client = Client::open(node).await?;
    let (_, answer) = Entry::new(&mut client).await?;
    is_ok(&answer, "code 200")?;
    Ok(None)
}

async fn found(node: &Node, query: fn(&Entry) -> Value) -> CaseResult {
    let (mut client, mut other) = (Client::open(node).await?, Client::open(node).await?);
    let entry = Entry::registered(&mut client).await?;
    let answer = other.ask_registry("read", query(&entry)).await?;
    let expected = format!("code 200 and the entry {}", entry.url);
    is_ok(&answer, &expected)?;
    expect(answer["value"][&entry.url]["url"] == entry.url.as_str(), &expected, || answer.to_string())?;
    Ok(None)
}

async fn by_url(node: &Node) -> CaseResult {
    let (mut client, mut other) = (Client::open(node).await?, Client::open(node).await?);
    let entry = Entry::registered(&mut client).await?;
    let answer = other.ask_registry("read", json!({ "resource": entry.url })).await?;
    let expected = format!("code 200 and the entry of {}", entry.user);
    is_ok(&answer, &expected)?;
    expect(answer["value"]["user"] == entry.user.as_str(), &expected, || answer.to_string())?;
    Ok(None)
}

async fn missing(node: &Node) -> CaseResult {
    let mut client = Client::open(node).await?;
    let nothing = format!("schema://{}/non-existing-object", node.domain);
    for resource in [nothing, format!("user://google.com/{}", Uuid::new_v4())] {
        let answer = client.ask_registry("read", json!({ "resource": resource })).await?;
        expect(answer["code"] == 404, "code 404", || answer.to_string())?;
    }
    Ok(None)
}

async fn keep_alive(node: &Node) -> CaseResult {
    let mut client = Client::open(node).await?;
    let entry = Entry::registered(&mut client).await?;
    is_ok(&client.ask_registry("update", json!({ "resource": entry.url })).await?, "code 200")?;
    Ok(None)
}

async fn status(node: &Node) -> CaseResult {
    let (mut client, mut watcher) = (Client::open(node).await?, Client::open(node).await?);
    let entry = Entry::registered(&mut client).await?;
    let topic = format!("{}/registration", entry.url);
    let answer = watcher.ask_node("subscribe", "sm", json!({ "resources": [topic] })).await?;
    is_ok(&answer, "code 200 for the subscription")?;
    let gone = json!({ "resource": entry.url, "value": "disconnected", "attribute": "status" });
    is_ok(&client.ask_registry("update", gone).await?, "code 200 for the new status")?;
    let expected = format!("an update of {topic} to `disconnected`");
    let update = watcher.next(&expected).await?;
    let is_it = update["type"] == "update" && update["to"] == topic.as_str() && update["body"]["value"] == "disconnected";
    expect(is_it, &expected, || update.to_string())?;
    Ok(None)
}

async fn unregister(node: &Node) -> CaseResult {
    let (mut client, mut other) = (Client::open(node).await?, Client::open(node).await?);
    let entry = Entry::registered(&mut client).await?;
    is_ok(&client.ask_registry("delete", json!({ "resource": entry.url })).await?, "code 200")?;
    let answer = other.ask_registry("read", json!({ "resource": entry.url })).await?;
    expect(answer["code"] == 404, "code 404 for an unregistered entry", || answer.to_string())?;
    Ok(None)
}
