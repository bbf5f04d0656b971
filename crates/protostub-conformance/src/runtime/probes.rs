//! The scenarios in which the original runtime was measured, with the outcome that is wanted.

use std::time::Duration;

use futures_util::future::join_all;
use protostub_runtime::Message;
use serde_json::{Value, json};

use super::{
    Bench,
    stage::{ALICE, DOMAIN, Stage, address, soon},
};
use crate::{
    Case, Verdict,
    case::{Course, Script, expect},
};

const SOURCE: &str = "probes of the original runtime, v0.17.0";

/// A probe: what is wanted, and its script.
macro_rules! probe {
    ($id:literal, $wanted:literal, $run:expr) => {
        Script { case: Case::new(concat!("runtime/probe-", $id), $wanted, SOURCE), run: |bench| Box::pin($run(bench)) }
    };
}

pub(super) const CASES: &[Script<Bench>] = &[
    probe!("A", "A message to an unknown domain: one descriptor, one sandbox, one deployment; delivered.", a),
    probe!("B", "Five messages at once to one domain: one deployment; delivered in order.", b),
    probe!("V", "Twenty messages during a deployment and after it: delivered in order.", v),
    probe!("T", "Addresses of a domain's functions and schemes: one deployment.", t),
    probe!("U", "`global://registry/`: the home domain's stub.", u),
    probe!("C", "Two concurrent `loadStub`s of a domain: one deployment.", c),
    probe!("D", "`loadStub` of a stub that is created, in progress or disconnected: the same stub.", d),
    probe!("E", "A message while the stub is in progress: it waits, and is delivered.", e),
    probe!("F", "A message after the stub failed: an error at once; deployed anew when it is asked for.", f),
    probe!("G", "The catalogue fails once: an error at once, `deployment-failed`; deployed anew later.", g),
    probe!("H", "The stub's start fails: an error, and nothing is left behind.", h),
    probe!("I-K", "A stub that never says `created`, or says `live` at first: it gets its first message.", i_k),
    probe!("J", "created, in-progress and live in one call: the first message is delivered.", j),
    probe!("L", "A stub posts as another domain's stub: rejected.", l),
    probe!("N", "evilfoo.com, then foo.com: two stubs, two sandboxes.", n),
    probe!("S", "An address of the runtime itself without a listener: 404.", s),
    probe!("W", "Undeployment, and a new message: all of the old stub is gone, and there is a new one.", w),
];

async fn a(bench: &Bench) -> Course {
    let stage = Stage::new(bench, &[DOMAIN], json!({})).await?;
    stage.post(ALICE, 1)?;
    stage.received(&[1]).await?;
    stage.deployed_once().await?;
    Ok(None)
}

async fn b(bench: &Bench) -> Course {
    let stage = Stage::new(bench, &[DOMAIN], json!({})).await?;
    (0..5).try_for_each(|n| stage.post(ALICE, n))?;
    stage.received(&[0, 1, 2, 3, 4]).await?;
    stage.deployed_once().await?;
    Ok(None)
}

async fn v(bench: &Bench) -> Course {
    let stage = Stage::new(bench, &[DOMAIN], json!({})).await?;
    (0..10).try_for_each(|n| stage.post(ALICE, n))?;
    stage.load(DOMAIN, false).await?;
    (10..20).try_for_each(|n| stage.post(ALICE, n))?;
    stage.received(&(0..20).collect::<Vec<_>>()).await?;
    stage.deployed_once().await?;
    Ok(None)
}

async fn t(bench: &Bench) -> Course {
    let stage = Stage::new(bench, &[DOMAIN], json!({})).await?;
    let all = [
        "domain://msg-node.foo.com/sm",
        "domain://registry.foo.com",
        "hyperty://foo.com/1",
        "comm://foo.com/2",
        "runtime://foo.com/3",
    ];
    for answer in join_all(all.map(|to| stage.order(to, json!({ "n": 1 })))).await {
        answer?;
    }
    stage.deployed_once().await?;
    Ok(None)
}

async fn u(bench: &Bench) -> Course {
    let stage = Stage::new(bench, &["home.example"], json!({})).await?;
    stage.order("global://registry/", json!({ "n": 1 })).await?;
    stage.deployed_once().await?;
    expect(stage.subject.stub("home.example").is_some(), "the stub of home.example", || "none".to_owned())?;
    Ok(None)
}

async fn c(bench: &Bench) -> Course {
    let stage = Stage::new(bench, &[DOMAIN], json!({})).await?;
    let (one, two) = tokio::join!(stage.load(DOMAIN, false), stage.load(DOMAIN, false));
    let (one, two) = (one?, two?);
    expect(one.url == two.url, "one stub", || format!("{} and {}", one.url, two.url))?;
    stage.deployed_once().await?;
    Ok(None)
}

async fn d(bench: &Bench) -> Course {
    for status in ["created", "in-progress", "disconnected"] {
        let stage = Stage::new(bench, &[DOMAIN], json!({ "connect": { "do": "publish", "status": status } })).await?;
        let first = stage.load(DOMAIN, false).await?;
        soon(status, stage.subject.until(DOMAIN, status)).await?;
        let second = stage.load(DOMAIN, false).await?;
        expect(first.url == second.url, &format!("the same stub, which is {status}"), || {
            format!("{} and {}", first.url, second.url)
        })?;
        stage.deployed_once().await?;
    }
    Ok(None)
}

async fn e(bench: &Bench) -> Course {
    let connect = json!([{ "do": "publish", "status": "in-progress" }, { "do": "timer", "ms": 30 }]);
    let configuration = json!({ "connect": connect, "timer": { "do": "publish", "status": "live" } });
    let stage = Stage::new(bench, &[DOMAIN], configuration).await?;
    stage.load(DOMAIN, false).await?;
    stage.post(ALICE, 1)?;
    stage.received(&[1]).await?;
    stage.deployed_once().await?;
    Ok(None)
}

async fn f(bench: &Bench) -> Course {
    let failing = json!({ "connect": { "do": "publish", "status": "failed", "reason": "wrong password" } });
    let stage = Stage::new(bench, &[DOMAIN], failing).await?;
    stage.refused(ALICE, 503, "wrong password").await?;
    stage.refused(ALICE, 503, "wrong password").await?;
    stage.publish(DOMAIN, &json!({}))?;
    stage.load(DOMAIN, true).await?;
    stage.order(ALICE, json!({ "n": 1 })).await?;
    stage.registered(1, 1).await?;
    Ok(None)
}

async fn g(bench: &Bench) -> Course {
    let stage = Stage::new(bench, &[DOMAIN], json!({})).await?;
    stage.subject.subscribe(&format!("{}/status", stage.subject.url())).await;
    stage.catalogue.out_of_order(true);
    stage.refused(ALICE, 503, "out of order").await?;
    for wanted in ["DEPLOYING", "DEPLOYMENT-FAILED"] {
        let message = stage.next(wanted).await?;
        let body: Value = message.body.as_ref().and_then(|body| body.parse().ok()).unwrap_or_default();
        expect(body["value"] == wanted, wanted, || body.to_string())?;
    }
    stage.catalogue.out_of_order(false);
    // A failure is remembered for a moment; a message after that deploys the stub.
    let alice = address(ALICE)?;
    let recovered = async {
        loop {
            if let Ok(answer) = stage.subject.request(Message::read(alice.clone())).await {
                break answer;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    soon("the stub is deployed by a later message", recovered).await?;
    stage.registered(1, 1).await?;
    Ok(None)
}

async fn h(bench: &Bench) -> Course {
    for what in ["fail", "panic"] {
        let stage = Stage::new(bench, &[DOMAIN], json!({ "start": { "do": what, "reason": "no `url`" } })).await?;
        let loaded = soon("an error", stage.subject.load_stub(DOMAIN, false)).await?;
        if let Ok(stub) = loaded {
            return Err(Verdict::fail("an error of `loadStub`", stub.url));
        }
        stage.registered(0, 0).await?;
        stage.refused(ALICE, 503, "no `url`").await?;
        stage.publish(DOMAIN, &json!({}))?;
        stage.load(DOMAIN, true).await?;
        stage.registered(1, 1).await?;
    }
    Ok(None)
}

async fn i_k(bench: &Bench) -> Course {
    first_message(bench, json!({ "do": "publish", "status": "live" })).await
}

async fn j(bench: &Bench) -> Course {
    let all = ["created", "in-progress", "live"].map(|status| json!({ "do": "publish", "status": status }));
    first_message(bench, json!(all)).await
}

/// What a stub gets that says this when it connects.
async fn first_message(bench: &Bench, connect: Value) -> Course {
    let stage = Stage::new(bench, &[DOMAIN], json!({ "connect": connect })).await?;
    stage.post(ALICE, 1)?;
    stage.received(&[1]).await?;
    stage.deployed_once().await?;
    Ok(None)
}

async fn l(bench: &Bench) -> Course {
    let stage = Stage::new(bench, &[DOMAIN, "bar.com"], json!({})).await?;
    let other = stage.load("bar.com", true).await?;
    let forged = json!({ "do": "post", "from": other.url, "to": "hyperty://home.example/app" });
    let outcome = stage.order(ALICE, forged).await?;
    let is_denied = outcome[0].as_str().is_some_and(|told| told.starts_with("denied: "));
    expect(is_denied, "denied", || outcome.to_string())?;
    stage.order(ALICE, json!({ "do": "post", "from": ALICE, "to": "hyperty://home.example/app" })).await?;
    let first = stage.next("what it may say").await?;
    expect(first.from.as_str() == ALICE, ALICE, || first.from.to_string())?;
    Ok(None)
}

async fn n(bench: &Bench) -> Course {
    let stage = Stage::new(bench, &["evilfoo.com", DOMAIN], json!({})).await?;
    let (evil, good) = (stage.load("evilfoo.com", true).await?, stage.load(DOMAIN, true).await?);
    let differ = evil.url != good.url && evil.sandbox != good.sandbox;
    expect(differ, "two stubs in two sandboxes", || format!("{evil:?} and {good:?}"))?;
    stage.registered(2, 2).await?;
    Ok(None)
}

async fn s(bench: &Bench) -> Course {
    let stage = Stage::new(bench, &["home.example"], json!({})).await?;
    stage.refused(&format!("{}/nowhere", stage.subject.url()), 404, "").await?;
    expect(stage.catalogue.asked().0 == 0, "no deployment", || "a descriptor was fetched".to_owned())?;
    Ok(None)
}

async fn w(bench: &Bench) -> Course {
    let stage = Stage::new(bench, &[DOMAIN], json!({ "observer": "hyperty://home.example/app" })).await?;
    let first = stage.load(DOMAIN, true).await?;
    soon("undeployed", stage.subject.undeploy(DOMAIN)).await?;
    let goodbye = stage.next("its good-bye").await?;
    let body: Value = goodbye.body.as_ref().and_then(|body| body.parse().ok()).unwrap_or_default();
    expect(body == json!({ "disconnect": "request" }), "a `disconnect` event", || body.to_string())?;
    stage.registered(0, 0).await?;
    stage.order(ALICE, json!({ "n": 1 })).await?;
    let second = stage.subject.stub(DOMAIN);
    let is_new = second.as_ref().is_some_and(|second| second.url != first.url);
    expect(is_new, "a new stub", || format!("{second:?}"))?;
    stage.registered(1, 1).await?;
    Ok(None)
}
