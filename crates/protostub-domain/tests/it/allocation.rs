//! Conformance cases C4 to C6, and the upstream suites for hyperty and object allocation.

use serde_json::{Value, json};

use crate::client::{Client, open, server};

async fn allocated(client: &mut Client, function: &str, body: Value) -> Vec<String> {
    let answer = client.ask_node("create", function, body).await;
    assert_eq!(answer["code"], 200, "{answer}");
    serde_json::from_value(answer["value"]["allocated"].clone()).unwrap()
}

/// Returns `true` if the client owns the address: a message to it comes back to its owner, who is
/// the sender.
async fn is_allocated(client: &mut Client, address: &str) -> bool {
    client.send(json!({ "id": 99, "type": "ping", "from": client.runtime, "to": address })).await;
    match client.next().await["type"].as_str() {
        Some("ping") => true,
        Some("response") => false,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn addresses_are_allocated_and_released_in_any_number() {
    let server = server().await;
    let (mut client, _) = open(&server, "1").await;
    for function in ["address-allocation", "hyperty-address-allocation"] {
        let single = allocated(&mut client, function, json!({ "value": { "number": 1 } })).await;
        let block = allocated(&mut client, function, json!({ "scheme": "hyperty", "value": { "number": 3 } })).await;
        assert_eq!((single.len(), block.len()), (1, 3));
        let prefix = format!("hyperty://{}/", server.domain());
        assert!(single.iter().chain(&block).all(|address| address.starts_with(&prefix)), "{block:?}");
        let answer = client.ask_node("delete", function, json!({ "resource": single[0] })).await;
        assert_eq!(answer, json!({ "code": 200 }));
        let answer = client.ask_node("delete", function, json!({ "childrenResources": block[..2] })).await;
        assert_eq!(answer, json!({ "code": 200 }));
        assert!(!is_allocated(&mut client, &single[0]).await);
        assert!(!is_allocated(&mut client, &block[1]).await);
        assert!(is_allocated(&mut client, &block[2]).await);
    }
}

#[tokio::test]
async fn block_is_allocated_and_released_by_its_key() {
    let server = server().await;
    let (mut client, _) = open(&server, "1").await;
    let wanted = json!({ "value": { "number": 3, "allocationKey": "all of mine" } });
    let block = allocated(&mut client, "address-allocation", wanted.clone()).await;
    let (first, again) = (block.clone(), allocated(&mut client, "address-allocation", wanted).await);
    assert_eq!(again.len(), 3);
    assert!(again.iter().all(|address| first.contains(address)), "the second request returns the same block");
    let other = allocated(&mut client, "address-allocation", json!({ "value": { "number": 1, "allocationKey": "other" } })).await;
    let answer = client.ask_node("delete", "address-allocation", json!({ "resource": "all of mine" })).await;
    assert_eq!(answer["code"], 200);
    assert!(!is_allocated(&mut client, &block[0]).await);
    assert!(!is_allocated(&mut client, &block[2]).await);
    assert!(is_allocated(&mut client, &other[0]).await);
}

#[tokio::test]
async fn objects_get_addresses_of_their_scheme() {
    let server = server().await;
    let (mut client, _) = open(&server, "1").await;
    for scheme in ["fake", "comm", "connection"] {
        let body = json!({ "scheme": scheme, "value": { "number": 2 } });
        let addresses = allocated(&mut client, "object-address-allocation", body).await;
        assert!(
            addresses.iter().all(|address| address.starts_with(&format!("{scheme}://{}/", server.domain()))),
            "{addresses:?}"
        );
    }
    assert_eq!(allocated(&mut client, "address-allocation", json!({})).await.len(), 5, "the default number of addresses");
}

#[tokio::test]
async fn invalid_allocation_or_release_is_answered() {
    let server = server().await;
    let (mut client, _) = open(&server, "1").await;
    let mut check = async |kind: &str, body: Value, code: u16| {
        let answer = client.ask_node(kind, "address-allocation", body).await;
        assert_eq!(answer["code"], code, "{answer}");
    };
    check("create", json!({ "value": { "number": 0 } }), 500).await;
    check("create", json!({ "value": { "number": -1 } }), 500).await;
    check("create", json!({ "value": { "number": "many" } }), 500).await;
    check("create", json!({ "value": { "number": 101 } }), 429).await;
    check("create", json!({ "value": { "number": u64::MAX } }), 429).await;
    check("create", json!({ "scheme": "not a scheme" }), 500).await;
    check("create", json!({ "scheme": "" }), 500).await;
    check("create", json!({ "scheme": "HYPERTY" }), 500).await;
    check("create", json!({ "scheme": "domain" }), 500).await;
    check("delete", json!({}), 500).await;
    check("update", json!({}), 500).await;
    let (mut other, _) = open(&server, "2").await;
    let address = client.allocate().await;
    let answer = other.ask_node("delete", "address-allocation", json!({ "resource": address })).await;
    assert_eq!(answer["code"], 200);
    assert!(is_allocated(&mut client, &address).await, "an address of another session stays");
}
