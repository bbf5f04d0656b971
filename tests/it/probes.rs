//! Each scenario in which the original JavaScript runtime was found wanting (or right), with the outcome that is wanted, through the front door.
//!
//! | probe | scenario | wanted |
//! | --- | --- | --- |
//! | A | one message, to an unknown domain | one descriptor, one sandbox, one deployment; delivered |
//! | B | five messages at once, to one domain | one deployment; delivered in order |
//! | V | twenty messages during a deployment, and after it | delivered in order |
//! | T | addresses of a domain's functions and schemes | one deployment |
//! | U | `global://registry/` | the home domain's stub |
//! | C | two `loadStub`s at once | one deployment |
//! | D | `loadStub` of a stub that is created, in progress or disconnected | the same stub |
//! | E | a message while the stub is in progress | waits, and is delivered |
//! | F | a message after the stub failed | an error at once; deployed anew when it is asked for |
//! | G | the catalogue fails once | an error at once, `deployment-failed`; deployed anew later |
//! | H | the stub's constructor fails | the same, and nothing is left behind |
//! | I, K | a stub that never says `created`, or says `live` at first | works |
//! | J | a stub that says everything in one call | works |
//! | L | a stub posts as another domain's stub | refused |
//! | N | `evilfoo.com`, then `foo.com` | two stubs, two sandboxes |
//! | O | a component that needs what no sandbox has | refused, and not tried |
//! | R | two stubs of one domain, each for another peer | two stubs, told apart by what they are for; both live |
//! | S | an address of the runtime itself where nobody listens | 404 |
//! | W | undeployment, then a message | all of the old one is gone; a new one |
//!
//! Two of them are about parts of the original that have another form here. O asked whether a sandbox that meets some of a descriptor's `constraints`
//! is taken for one that meets all: here what a component needs is what it imports. R asked whether stubs between runtimes without a server are
//! listed by the peer that they are for: here a domain's stubs have names.

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

/// The domains' catalogues, which count what they are asked, and may be out of order.
#[derive(Debug, Clone, Default)]
struct Catalogue(Arc<Books>);

#[derive(Debug, Default)]
struct Books {
    stubs: MemorySource,
    descriptors: AtomicUsize,
    out_of_order: AtomicBool,
}

impl Catalogue {
    /// The actor is the stub of these domains, with this configuration.
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

    /// How many descriptors were asked for.
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

    /// What the Registry knows: stubs and sandboxes.
    async fn registered(&self) -> (usize, usize) {
        let registry = self.runtime.url().join("registry").expect("an address");
        let listing = value(&self.app.request(Message::read(registry)).await.expect("an answer"));
        let count = |what: &str| listing[what].as_array().expect("a list").len();
        (count("stubs"), count("sandboxes"))
    }

    /// The stub of a domain has this order as a request.
    async fn order(&self, order: Value) -> Value {
        value(&self.app.request(Message::read(ALICE.parse().unwrap()).with_body(order)).await.expect("a reply"))
    }

    /// One deployment, with all that belongs to it, has happened.
    async fn deployed_once(&self) {
        assert_eq!((self.catalogue.descriptors(), self.registered().await), (1, (1, 1)));
    }

    /// The numbers of the messages that the stub was given, in its order.
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
async fn probe_a_one_message_to_an_unknown_domain_deploys_its_stub_once_and_is_delivered() {
    let stage = Stage::new(&[DOMAIN], json!({})).await;
    stage.app.post(ping(ALICE, 1)).expect("accepted");
    assert_eq!(stage.received().await, [1]);
    stage.deployed_once().await;
}

#[tokio::test]
async fn probe_b_five_messages_at_once_are_delivered_in_order_by_one_stub() {
    let stage = Stage::new(&[DOMAIN], json!({})).await;
    for n in 0..5 {
        stage.app.post(ping(ALICE, n)).expect("accepted");
    }
    assert_eq!(stage.received().await, (0..5).collect::<Vec<_>>());
    stage.deployed_once().await;
}

#[tokio::test]
async fn probe_v_twenty_messages_before_and_after_the_deployment_keep_their_order() {
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
async fn probe_t_the_functions_and_schemes_of_a_domain_have_one_stub() {
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
async fn probe_u_the_global_registry_is_reached_through_the_home_domain() {
    let stage = Stage::new(&["home.example"], json!({})).await;
    let reply = stage.app.request(Message::read("global://registry/".parse().unwrap())).await.expect("a reply");
    assert_eq!(reply.code(), Some(200));
    stage.deployed_once().await;
    assert_eq!(stage.runtime.protostubs()[0].domain().as_str(), "home.example");
}

#[tokio::test]
async fn probe_c_two_at_once_who_load_a_stub_get_the_same_one() {
    let stage = Stage::new(&[DOMAIN], json!({})).await;
    let (one, two) = tokio::join!(stage.runtime.load_stub(DOMAIN), stage.runtime.load_stub(DOMAIN));
    assert_eq!(one.expect("a stub").url(), two.expect("a stub").url());
    stage.deployed_once().await;
}

#[tokio::test]
async fn probe_d_a_stub_that_is_not_live_yet_or_any_more_is_used_and_not_deployed_again() {
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
async fn probe_e_a_message_to_a_stub_in_progress_waits_until_it_is_live() {
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
async fn probe_f_a_stub_that_failed_is_told_of_at_once_and_deployed_anew() {
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
async fn probe_g_a_catalogue_that_failed_once_is_told_of_at_once_and_asked_again_later() {
    let mut stage = Stage::new(&[DOMAIN], json!({})).await;
    stage.app.subscribe(stage.runtime.url().join("status").expect("an address")).await.expect("an answer");
    stage.catalogue.out_of_order(true);
    let (mut statuses, mut errors) = (Vec::new(), Vec::new());
    // Its deployment may have failed before the message is in its queue.
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
    // A failure is remembered for a second; a message after that deploys the stub.
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
async fn probe_h_a_stub_that_cannot_start_leaves_nothing_behind() {
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
async fn probe_i_k_a_stub_that_leaves_statuses_out_gets_its_first_message() {
    // `start` may not publish anything: the host says `created` when it has returned.
    let stage = Stage::new(&[DOMAIN], json!({ "connect": { "do": "publish", "status": "live" } })).await;
    stage.app.post(ping(ALICE, 1)).expect("accepted");
    assert_eq!(stage.received().await, [1]);
    stage.deployed_once().await;
}

#[tokio::test]
async fn probe_j_a_stub_that_says_all_statuses_in_one_call_gets_its_first_message() {
    let all = ["created", "in-progress", "live"].map(|status| json!({ "do": "publish", "status": status }));
    let stage = Stage::new(&[DOMAIN], json!({ "connect": all })).await;
    stage.app.post(ping(ALICE, 1)).expect("accepted");
    assert_eq!(stage.received().await, [1]);
    stage.deployed_once().await;
}

#[tokio::test]
async fn probe_l_a_stub_cannot_post_as_the_stub_of_another_domain() {
    let mut stage = Stage::new(&[DOMAIN, "bar.com"], json!({})).await;
    let other = stage.runtime.deploy_protostub("bar.com").await.expect("a stub");
    let forged = json!({ "do": "post", "from": other.url().expect("a URL").as_str(), "to": stage.app.address().as_str() });
    let outcome = stage.order(forged).await;
    assert!(outcome[0].as_str().is_some_and(|told| told.starts_with("denied: ")), "{outcome}");
    // What it may say comes, and it is the first that does.
    stage.order(json!({ "do": "post", "from": ALICE, "to": stage.app.address().as_str() })).await;
    assert_eq!(stage.app.recv().await.expect("a message").from.as_str(), ALICE);
}

#[tokio::test]
async fn probe_n_a_domain_whose_name_ends_like_another_shares_nothing_with_it() {
    let stage = Stage::new(&["evilfoo.com", DOMAIN], json!({})).await;
    let evil = stage.runtime.deploy_protostub("evilfoo.com").await.expect("a stub");
    let good = stage.runtime.deploy_protostub(DOMAIN).await.expect("a stub");
    assert!(evil.url() != good.url() && evil.sandbox_url() != good.sandbox_url());
    assert_eq!(stage.registered().await, (2, 2));
}

#[tokio::test]
async fn probe_o_a_component_whose_needs_are_not_met_is_refused_and_not_tried() {
    let stage = Stage::new(&[], json!({})).await;
    let needs = component("key-value");
    stage.catalogue.0.stubs.insert(&domain(DOMAIN), "default", descriptor(&needs, json!({})).to_json(), needs);
    let error = stage.runtime.deploy_protostub(DOMAIN).await.expect_err("nobody has a store");
    assert!(error.kind.to_string().contains("imports that no stub may have: acme:store/kv@1.0.0"), "{}", error.kind);
    assert_eq!(stage.registered().await, (0, 0));
}

#[tokio::test]
async fn probe_r_stubs_of_one_domain_for_different_peers_are_told_apart_and_all_are_live() {
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
async fn probe_s_an_address_of_the_runtime_where_nobody_listens_is_not_found() {
    let stage = Stage::new(&["home.example"], json!({})).await;
    let nowhere = stage.runtime.url().join("nowhere").expect("an address");
    let error = stage.app.request(Message::read(nowhere.clone())).await.expect_err("nobody there");
    assert_eq!(error.code, 404);
    assert_eq!(stage.app.post(ping(nowhere.as_str(), 1)).expect_err("nobody there").code, 404);
    assert_eq!(stage.catalogue.descriptors(), 0);
}

#[tokio::test]
async fn probe_w_undeployment_leaves_nothing_behind_and_the_next_message_deploys_anew() {
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
    // Nobody listens at the old one's address any more: what goes there is its domain's, as any other address.
    let reply = stage.app.request(Message::read(url).with_body(json!({ "do": "url" }))).await.expect("a reply");
    assert_eq!(value(&reply), second.url().expect("a URL").as_str());
}
