//! Allocation and release of addresses of hyperties and objects: single ones, blocks, and blocks
//! with a key.

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

const ALLOCATED: &str = "`create` to `…/address-allocation` is answered with code 200 and the requested number of addresses of the domain and scheme.";
const RELEASED: &str = "`delete` of the addresses is answered with code 200.";
const HYPERTIES: &str = "tests/CASES.md: C4, hyperty-allocation.spec";
const OBJECTS: &str = "tests/CASES.md: C5, object-allocation.spec";
const RELEASES: &str = "tests/CASES.md: C6, hyperty-allocation.spec, object-allocation.spec";

/// Naming of the addresses when they are released.
#[derive(Clone, Copy)]
enum Naming {
    /// Each address by itself.
    ByAddress,
    /// All addresses by the key of their block.
    ByKey,
}

pub(super) const CASES: &[Script<Node>] = &[
    Script {
        case: Case::new("node/allocation/hyperty-single", ALLOCATED, HYPERTIES),
        run: |node| Box::pin(allocates(node, "hyperty", 1, Naming::ByAddress)),
    },
    Script {
        case: Case::new("node/allocation/hyperty-block", ALLOCATED, HYPERTIES),
        run: |node| Box::pin(allocates(node, "hyperty", 3, Naming::ByAddress)),
    },
    Script {
        case: Case::new("node/allocation/hyperty-key", ALLOCATED, HYPERTIES),
        run: |node| Box::pin(allocates(node, "hyperty", 3, Naming::ByKey)),
    },
    Script {
        case: Case::new("node/allocation/object-single", ALLOCATED, OBJECTS),
        run: |node| Box::pin(allocates(node, "fake", 1, Naming::ByAddress)),
    },
    Script {
        case: Case::new("node/allocation/object-block", ALLOCATED, OBJECTS),
        run: |node| Box::pin(allocates(node, "fake", 3, Naming::ByAddress)),
    },
    Script {
        case: Case::new("node/allocation/object-key", ALLOCATED, OBJECTS),
        run: |node| Box::pin(allocates(node, "fake", 3, Naming::ByKey)),
    },
    Script {
        case: Case::new("node/release/hyperty-single", RELEASED, RELEASES),
        run: |node| Box::pin(releases(node, "hyperty", 1, Naming::ByAddress)),
    },
    Script {
        case: Case::new("node/release/hyperty-block", RELEASED, RELEASES),
        run: |node| Box::pin(releases(node, "hyperty", 3, Naming::ByAddress)),
    },
    Script {
        case: Case::new("node/release/hyperty-key", RELEASED, RELEASES),
        run: |node| Box::pin(releases(node, "hyperty", 3, Naming::ByKey)),
    },
    Script {
        case: Case::new("node/release/object-single", RELEASED, RELEASES),
        run: |node| Box::pin(releases(node, "fake", 1, Naming::ByAddress)),
    },
    Script {
        case: Case::new("node/release/object-block", RELEASED, RELEASES),
        run: |node| Box::pin(releases(node, "fake", 3, Naming::ByAddress)),
    },
    Script {
        case: Case::new("node/release/object-key", RELEASED, RELEASES),
        run: |node| Box::pin(releases(node, "fake", 3, Naming::ByKey)),
    },
];

/// Requests addresses. Returns the answer, and the key of the block.
async fn ask(client: &mut Client<'_>, scheme: &str, number: usize, naming: Naming) -> CaseResult<(Value, Option<String>)> {
    let key = matches!(naming, Naming::ByKey).then(|| Uuid::new_v4().to_string());
    let mut value = json!({ "number": number });
    if let Some(key) = &key {
        value["allocationKey"] = key.as_str().into();
    }
    let answer = client.ask_node("create", "address-allocation", json!({ "scheme": scheme, "value": value })).await?;
    Ok((answer, key))
}

fn addresses(answer: &Value) -> Vec<&str> {
    answer["value"]["allocated"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

async fn allocates(node: &Node, scheme: &str, number: usize, naming: Naming) -> CaseResult {
    let mut client = Client::open(node).await?;
    let (answer, _) = ask(&mut client, scheme, number, naming).await?;
    let beginning = format!("{scheme}://{}/", node.domain);
    let expected = format!("code 200 and {number} addresses that begin with {beginning}");
    is_ok(&answer, &expected)?;
    let mut all = addresses(&answer);
    let fit = all.iter().all(|address| address.starts_with(&beginning) && address.len() > beginning.len());
    expect(fit && all.len() == number, &expected, || answer.to_string())?;
    all.sort_unstable();
    all.dedup();
    expect(all.len() == number, "different addresses", || answer.to_string())?;
    Ok(None)
}

async fn releases(node: &Node, scheme: &str, number: usize, naming: Naming) -> CaseResult {
    let (mut client, mut other) = (Client::open(node).await?, Client::open(node).await?);
    let (answer, key) = ask(&mut client, scheme, number, naming).await?;
    let all = addresses(&answer);
    if all.len() != number {
        return Err(Verdict::not_applicable(format!("no addresses are allocated ({answer}): see node/allocation")));
    }
    let body = match &key {
        Some(key) => json!({ "resource": key }),
        None if number == 1 => json!({ "resource": all[0] }),
        None => json!({ "childrenResources": all }),
    };
    let released = client.ask_node("delete", "address-allocation", body).await?;
    is_ok(&released, "code 200")?;
    for address in &all {
        other.send(json!({ "id": "late", "type": "ping", "from": other.runtime, "to": address })).await?;
    }
    // The node may answer the sender. The former owner of the addresses must receive nothing.
    other.session("re-open", &other.runtime.clone()).await?;
    client.expect_silence("no message to a released address arrives").await?;
    Ok(None)
}
