//! Tests of each scenario in which the original JavaScript runtime failed (or passed), with the
//! required outcome, through the public API.
//!
//! | probe | scenario | required |
//! | --- | --- | --- |
//! | A | one message, to an unserved domain | one descriptor, sandbox and deployment; delivered |
//! | B | five messages at once, to one domain | one deployment; delivered in order |
//! | V | twenty messages during a deployment, and after it | delivered in order |
//! | T | addresses of a domain's functions and schemes | one deployment |
//! | U | `global://registry/` | the home domain's stub |
//! | C | two `loadStub`s at once | one deployment |
//! | D | `loadStub` of a stub that is created, in progress or disconnected | the same stub |
//! | E | a message while the stub is in progress | the message waits, and is delivered |
//! | F | a message after the stub failed | an error at once; deployed again on request |
//! | G | the catalogue fails once | an error at once, `deployment-failed`; deployed again later |
//! | H | the stub's constructor fails | the same, and no state is left |
//! | I, K | a stub that never says `created`, or says `live` at first | works |
//! | J | a stub that publishes all statuses in one call | works |
//! | L | a stub posts as another domain's stub | refused |
//! | N | `evilfoo.com`, then `foo.com` | two stubs, two sandboxes |
//! | O | a component that needs an import that no sandbox has | refused without a trial |
//! | R | two stubs of one domain, each for another peer | two live stubs, kept apart by peer |
//! | S | an unserved address of the runtime itself | 404 |
//! | W | undeployment, then a message | the old stub leaves no state; a new stub |
//!
//! Two scenarios concern parts of the original that have another form here. O asked whether a
//! sandbox that meets some of a descriptor's `constraints` counts as one that meets all. Here the
//! needs of a component are its imports. R asked whether stubs between runtimes without a server
//! are listed by their peer. Here a domain's stubs have names.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use protostub_runtime::{
    Document, Fault, Hyperty, MemorySource, Message, MessageType, Protostub, Runtime, Source, SourceRequest, StubStatus, Subject,
};
use serde_json::{Value, json};

use crate::support::{TestRuntime, builder, component, descriptor, domain, order};

const DOMAIN: &str = "foo.com";
const ALICE: &str = "hyperty://foo.com/alice";

/// The domains' catalogues. They count requests, and can be out of order.
#[derive(Debug, Clone, Default)]
struct Catalogue(Arc<Books>);

#[derive(Debug, Default)]
struct Books {
    stubs: MemorySource,
    descriptors: AtomicUsize,
    out_of_order: AtomicBool,
}

impl Catalogue {
    /// Makes a catalogue in which the actor is the stub of these domains, with this configuration.
    fn of(domains: &[&str], configuration: &Value) -> Self {
        let catalogue = Self::default();
        for name in domains {
            catalogue.publish(name, configuration);
        }
        catalogue
    }

    fn publish(&self, name: &str, configuration: &Value) {
        let actor = component("actor");
        let descriptor = descriptor(&actor, configuration.clone()).to_json();
        self.0.stubs.insert(&domain(name), "default", descriptor, actor);
    }

    /// Returns the number of requested descriptors.
    fn descriptors(&self) -> usize {
        self.0.descriptors.load(Ordering::SeqCst)
    }

    fn out_of_order(&self, is: bool) {
        self.0.out_of_order.store(is, Ordering::SeqCst);
    }
}

#[async_trait]
impl Source for Catalogue {
    async fn open(&self, request: &SourceRequest<'_>) -> Result<Document, Fault> {
        if request.subject == Subject::Descriptor {
            self.0.descriptors.fetch_add(1, Ordering::SeqCst);
        }
        if self.0.out_of_order.load(Ordering::SeqCst) {
            return Err(Fault::Refused { reason: "the catalogue is out of order".into() });
        }
        self.0.stubs.open(request).await
    }
}

/// A runtime, one hyperty of it, and the catalogues.
struct Stage {
    runtime: Runtime,
    app: Hyperty,
    catalogue: Catalogue,
}

impl Stage {
    async fn new(domains: &[&str], configuration: Value) -> Self {
        let catalogue = Catalogue::of(domains, &configuration);
        let TestRuntime { runtime, app } = TestRuntime::start(builder().source(catalogue.clone())).await;
        Self { runtime, app, catalogue }
    }

    /// Returns the numbers of stubs and sandboxes in the Registry.
    async fn registered(&self) -> (usize, usize) {
        let registry = self.runtime.url().join("registry").expect("an address");
        let listing = value(&self.app.request(Message::read(registry)).await.expect("an answer"));
        let count = |what: &str| listing[what].as_array().expect("a list").len();
        (count("stubs"), count("sandboxes"))
    }

    /// Sends this order to the stub of a domain as a request.
    async fn order(&self, order: Value) -> Value {
        value(&self.app.request(Message::read(ALICE.parse().unwrap()).with_body(order)).await.expect("a reply"))
    }

    /// Checks that there was exactly one deployment, with one descriptor, stub and sandbox.
    async fn deployed_once(&self) {
        assert_eq!((self.catalogue.descriptors(), self.registered().await), (1, (1, 1)));
    }

    /// Returns the numbers of the messages that the stub received, in its order.
    async fn received(&self) -> Vec<u64> {
        let calls = self.order(json!({ "do": "calls" })).await;
        calls
            .as_array()
            .expect("calls")
            .iter()
            .flat_map(|call| call.as_array().expect("events"))
            .filter_map(Value::as_u64)
            .collect()
    }
}

fn ping(to: &str, n: u64) -> Message {
    Message::new(MessageType::Other("ping".into()), to.parse().unwrap()).with_body(json!({ "n": n }))
}

fn value(response: &Message) -> Value {
    let body: Value = response.body.as_ref().expect("a body").parse().expect("JSON");
    assert_eq!(response.code(), Some(200), "{body}");
    body["value"].clone()
}

async fn until(stub: &Protostub, status: StubStatus) {
    let report = stub.watch().until(|report| report.status == status).await;
    assert_eq!(report.status, status, "{report:?}");
}

#[tokio::test]
async fn probe_a_message_to_an_unserved_domain_deploys_once() {
    let stage = Stage::new(&[DOMAIN], json!({})).await;
    stage.app.post(ping(ALICE, 1)).expect("accepted");
    assert_eq!(stage.received().await, [1]);
    stage.deployed_once().await;
}

#[tokio::test]
async fn probe_b_five_messages_are_delivered_in_order_by_one_stub() {
    let stage = Stage::new(&[DOMAIN], json!({})).await;
    for n in 0..5 {
        stage.app.post(ping(ALICE, n)).expect("accepted");
    }
    assert_eq!(stage.received().await, (0..5).collect::<Vec<_>>());
    stage.deployed_once().await;
}

#[tokio::test]
async fn probe_v_messages_around_a_deployment_keep_their_order() {
    let stage = Stage::new(&[DOMAIN], json!({})).await;
    for n in 0..10 {
        stage.app.post(ping(ALICE, n)).expect("accepted");
    }
    stage.runtime.load_stub(DOMAIN).await.expect("a stub");
    for n in 10..20 {
        stage.app.post(ping(ALICE, n)).expect("accepted");
    }
    assert_eq!(stage.received().await, (0..20).collect::<Vec<_>>());
    stage.deployed_once().await;
}

#[tokio::test]
async fn probe_t_functions_and_schemes_of_a_domain_share_one_stub() {
    let stage = Stage::new(&[DOMAIN], json!({})).await;
    let ask = |to: &'static str| stage.app.request(Message::read(to.parse().unwrap()));
    let replies = tokio::join!(
        ask("domain://msg-node.foo.com/sm"),
        ask("domain://registry.foo.com"),
        ask("hyperty://foo.com/1"),
        ask("comm://foo.com/2"),
        ask("runtime://foo.com/3"),
    );
    for reply in <[_; 5]>::from(replies) {
        assert_eq!(reply.expect("a reply").code(), Some(200));
    }
    stage.deployed_once().await;
}

#[tokio::test]
async fn probe_u_global_registry_is_served_by_the_home_domain() {
    let stage = Stage::new(&["home.example"], json!({})).await;
    let reply = stage.app.request(Message::read("global://registry/".parse().unwrap())).await.expect("a reply");
    assert_eq!(reply.code(), Some(200));
    stage.deployed_once().await;
    assert_eq!(stage.runtime.protostubs()[0].domain().as_str(), "home.example");
}

#[tokio::test]
async fn probe_c_concurrent_load_stubs_share_one_deployment() {
    let stage = Stage::new(&[DOMAIN], json!({})).await;
    let (one, two) = tokio::join!(stage.runtime.load_stub(DOMAIN), stage.runtime.load_stub(DOMAIN));
    assert_eq!(one.expect("a stub").url(), two.expect("a stub").url());
    stage.deployed_once().await;
}

#[tokio::test]
async fn probe_d_stub_that_is_not_live_is_not_deployed_again() {
    for status in ["created", "in-progress", "disconnected"] {
        let stage = Stage::new(&[DOMAIN], json!({ "connect": { "do": "publish", "status": status } })).await;
        let first = stage.runtime.load_stub(DOMAIN).await.expect("a stub");
        until(&first, status.parse().expect("a status")).await;
        let second = stage.runtime.load_stub(DOMAIN).await.expect("a stub");
        assert_eq!(first.url(), second.url(), "{status}");
        stage.deployed_once().await;
    }
}

#[tokio::test]
async fn probe_e_message_waits_until_its_stub_is_live() {
    let connect = json!([{ "do": "publish", "status": "in-progress" }, { "do": "timer", "ms": 1000 }]);
    let stage = Stage::new(&[DOMAIN], json!({ "connect": connect, "timer": { "do": "publish", "status": "live" } })).await;
    let stub = stage.runtime.load_stub(DOMAIN).await.expect("a stub");
    until(&stub, StubStatus::InProgress).await;
    stage.app.post(ping(ALICE, 1)).expect("accepted");
    assert_eq!(stage.received().await, [1]);
    assert_eq!(stub.status().status, StubStatus::Live);
    stage.deployed_once().await;
}

#[tokio::test]
async fn probe_f_failed_stub_is_reported_at_once_and_deployed_again() {
    let failing = json!({ "connect": { "do": "publish", "status": "failed", "reason": "wrong password" } });
    let stage = Stage::new(&[DOMAIN], failing).await;
    let error = stage.app.request(Message::read(ALICE.parse().unwrap())).await.expect_err("no stub");
    assert_eq!(error.code, 503);
    assert!(error.reason.contains("wrong password"), "{error}");
    let fast = tokio::time::timeout(Duration::from_secs(10), stage.app.request(Message::read(ALICE.parse().unwrap())))
        .await
        .expect("at once");
    assert!(fast.is_err_and(|error| error.code == 503 && error.reason.contains("wrong password")));
    stage.catalogue.publish(DOMAIN, &json!({}));
    stage.runtime.deploy_protostub(DOMAIN).await.expect("a stub");
    assert_eq!(stage.order(json!({ "do": "echo", "n": 1 })).await["n"], 1);
    assert_eq!(stage.registered().await, (1, 1));
}

#[tokio::test]
async fn probe_g_failed_catalogue_is_reported_and_asked_again_later() {
    let mut stage = Stage::new(&[DOMAIN], json!({})).await;
    stage.app.subscribe(stage.runtime.url().join("status").expect("an address")).await.expect("an answer");
    stage.catalogue.out_of_order(true);
    let (mut statuses, mut errors) = (Vec::new(), Vec::new());
    // The deployment may fail before the message is in its queue.
    if let Err(refused) = stage.app.post(ping(ALICE, 1)) {
        errors.push((Some(refused.code), Value::from(refused.reason.as_str())));
    }
    while errors.is_empty() || !statuses.contains(&json!("DEPLOYMENT-FAILED")) {
        let message = stage.app.recv().await.expect("a message");
        let mut body: Value = message.body.as_ref().expect("a body").parse().expect("JSON");
        match message.kind {
            MessageType::Response => errors.push((message.code(), body["desc"].take())),
            _ => statuses.push(body["value"].take()),
        }
    }
    assert_eq!(statuses, ["DEPLOYING", "DEPLOYMENT-FAILED"]);
    let [(Some(503), reason)] = &*errors else { panic!("{errors:?}") };
    assert!(reason.as_str().is_some_and(|reason| reason.contains("out of order")), "{reason}");

    stage.catalogue.out_of_order(false);
    // A failure is remembered for a second. A message after that deploys the stub.
    let mut moments = tokio::time::interval(Duration::from_millis(50));
    let recovered = async {
        loop {
            moments.tick().await;
            match stage.app.request(Message::read(ALICE.parse().unwrap())).await {
                Ok(reply) => break reply,
                Err(error) => assert!(error.code == 503 && error.reason.contains("a moment ago"), "{error}"),
            }
        }
    };
    let reply = tokio::time::timeout(Duration::from_secs(10), recovered).await.expect("it is tried again");
    assert_eq!(reply.code(), Some(200));
    assert_eq!(stage.registered().await, (1, 1));
}

#[tokio::test]
async fn probe_h_stub_that_cannot_start_leaves_no_state() {
    for start in [json!({ "do": "fail", "reason": "no `url`" }), json!({ "do": "panic", "reason": "no `url`" })] {
        let stage = Stage::new(&[DOMAIN], json!({ "start": start })).await;
        let error = stage.runtime.load_stub(DOMAIN).await.expect_err("no stub");
        assert_eq!(error.phase, protostub_runtime::Phase::Starting);
        assert_eq!(stage.registered().await, (0, 0));
        let fast = tokio::time::timeout(Duration::from_secs(10), stage.app.request(Message::read(ALICE.parse().unwrap())))
            .await
            .expect("at once");
        assert!(fast.is_err_and(|error| error.code == 503));
        assert_eq!(stage.runtime.counts().open, 0);
        stage.catalogue.publish(DOMAIN, &json!({}));
        stage.runtime.deploy_protostub(DOMAIN).await.expect("a stub");
        assert_eq!(stage.registered().await, (1, 1));
    }
}

#[tokio::test]
async fn probe_i_k_stub_with_missing_statuses_gets_its_first_message() {
    // `start` may not publish a status. The host publishes `created` after its return.
    let stage = Stage::new(&[DOMAIN], json!({ "connect": { "do": "publish", "status": "live" } })).await;
    stage.app.post(ping(ALICE, 1)).expect("accepted");
    assert_eq!(stage.received().await, [1]);
    stage.deployed_once().await;
}

#[tokio::test]
async fn probe_j_stub_with_all_statuses_in_one_call_gets_its_message() {
    let all = ["created", "in-progress", "live"].map(|status| json!({ "do": "publish", "status": status }));
    let stage = Stage::new(&[DOMAIN], json!({ "connect": all })).await;
    stage.app.post(ping(ALICE, 1)).expect("accepted");
    assert_eq!(stage.received().await, [1]);
    stage.deployed_once().await;
}

#[tokio::test]
async fn probe_l_stub_cannot_post_as_the_stub_of_another_domain() {
    let mut stage = Stage::new(&[DOMAIN, "bar.com"], json!({})).await;
    let other = stage.runtime.deploy_protostub("bar.com").await.expect("a stub");
    let forged = json!({ "do": "post", "from": other.url().expect("a URL").as_str(), "to": stage.app.address().as_str() });
    let outcome = stage.order(forged).await;
    assert!(outcome[0].as_str().is_some_and(|told| told.starts_with("denied: ")), "{outcome}");
    // A permitted message arrives, and is the first to arrive.
    stage.order(json!({ "do": "post", "from": ALICE, "to": stage.app.address().as_str() })).await;
    assert_eq!(stage.app.recv().await.expect("a message").from.as_str(), ALICE);
}

#[tokio::test]
async fn probe_n_domains_with_a_common_suffix_share_no_stub() {
    let stage = Stage::new(&["evilfoo.com", DOMAIN], json!({})).await;
    let evil = stage.runtime.deploy_protostub("evilfoo.com").await.expect("a stub");
    let good = stage.runtime.deploy_protostub(DOMAIN).await.expect("a stub");
    assert!(evil.url() != good.url() && evil.sandbox_url() != good.sandbox_url());
    assert_eq!(stage.registered().await, (2, 2));
}

#[tokio::test]
async fn probe_o_component_with_unmet_imports_is_refused() {
    let stage = Stage::new(&[], json!({})).await;
    let needs = component("key-value");
    stage.catalogue.0.stubs.insert(&domain(DOMAIN), "default", descriptor(&needs, json!({})).to_json(), needs);
    let error = stage.runtime.deploy_protostub(DOMAIN).await.expect_err("nobody has a store");
    assert!(error.kind.to_string().contains("imports that no stub may have: acme:store/kv@1.0.0"), "{}", error.kind);
    assert_eq!(stage.registered().await, (0, 0));
}

#[tokio::test]
async fn probe_r_stubs_of_one_domain_for_two_peers_are_both_live() {
    let stage = Stage::new(&[], json!({})).await;
    let actor = component("actor");
    let mut stubs = Vec::new();
    for peer in ["alice", "bob"] {
        stage.catalogue.0.stubs.insert(
            &domain(DOMAIN),
            peer,
            descriptor(&actor, json!({ "peer": peer })).to_json(),
            actor.clone(),
        );
        let url = format!("https://{DOMAIN}/.well-known/protostub/{peer}");
        let stub = stage.runtime.deploy_protostub(&url).await.expect("live");
        let own = stub.url().expect("an address").clone();
        let configuration =
            value(&stage.app.request(order(own.as_str(), json!({ "do": "configuration" }))).await.expect("a reply"));
        assert_eq!(configuration["peer"], peer);
        stubs.push(stub);
    }
    assert_ne!(stubs[0].url(), stubs[1].url());
    assert!(stubs.iter().all(|stub| stub.status().status == StubStatus::Live));
    assert_eq!(stage.registered().await, (2, 2));
}

#[tokio::test]
async fn probe_s_unserved_address_of_the_runtime_is_not_found() {
    let stage = Stage::new(&["home.example"], json!({})).await;
    let nowhere = stage.runtime.url().join("nowhere").expect("an address");
    let error = stage.app.request(Message::read(nowhere.clone())).await.expect_err("nobody there");
    assert_eq!(error.code, 404);
    assert_eq!(stage.app.post(ping(nowhere.as_str(), 1)).expect_err("nobody there").code, 404);
    assert_eq!(stage.catalogue.descriptors(), 0);
}

#[tokio::test]
async fn probe_w_undeploy_leaves_no_state_and_next_message_deploys() {
    let mut stage = Stage::new(&[DOMAIN], json!({ "observer": "hyperty://home.example/app" })).await;
    let first = stage.runtime.deploy_protostub(DOMAIN).await.expect("a stub");
    let url = first.url().expect("a URL").clone();
    first.undeploy().await.expect("undeployed");
    let goodbye = stage.app.recv().await.expect("its good-bye");
    assert_eq!(goodbye.body.expect("a body").parse::<Value>().expect("JSON"), json!({ "disconnect": "request" }));
    assert_eq!((stage.registered().await, stage.runtime.protostubs().len()), ((0, 0), 0));
    assert_eq!(first.status().status, StubStatus::Dead);
    assert!(first.connect().await.is_err());

    assert_eq!(stage.order(json!({ "do": "echo", "n": 1 })).await["n"], 1);
    let second = stage.runtime.protostubs().remove(0);
    assert_ne!(second.url(), Some(&url));
    assert_eq!((stage.catalogue.descriptors(), stage.registered().await), (2, (1, 1)));
    // The old stub's URL has no receiver any more. A message to it goes to its domain, like any
    // other address.
    let reply = stage.app.request(Message::read(url).with_body(json!({ "do": "url" }))).await.expect("a reply");
    assert_eq!(value(&reply), second.url().expect("a URL").as_str());
}
