//! Tests of steps 1 to 22 through the public API.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use protostub_runtime::{
    BuildError, DomainSettings, Download, Limits, MemorySource, Message, MessageType, Progress, RestartPolicy, StaticCredentials,
    StubStatus, steps::Step,
};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::{
    steps,
    support::{builder, component, descriptor, domain, serve, source},
};

#[tokio::test]
async fn message_to_an_unserved_domain_takes_22_steps_in_order() {
    steps::record();
    let source = source(&["steps.example"], &component("echo"), &json!({}));
    let runtime = builder().source(source).build().await.expect("a runtime");
    let app = runtime.register_hyperty("hyperty://home.example/steps").await.expect("a hyperty");
    let reply = app
        .request(Message::read("hyperty://steps.example/alice".parse().unwrap()).with_body(json!("hello")))
        .await
        .expect("a reply");
    assert_eq!(reply.code(), Some(200));
    let stub = runtime.deploy_protostub("steps.example").await.expect("the same stub");
    let url = stub.url().expect("a URL").to_string();
    // The Registry's last notification comes before this answer in the inbox.
    app.subscribe(stub.url().expect("a URL").join("status").expect("an address")).await.expect("an answer");

    let recorded = steps::of("steps.example");
    let numbers: Vec<_> = recorded.iter().map(|step| step.number).collect();
    let call = |number| Step::with_number(u8::try_from(number).ok()?).map(Step::call);
    let (deployment, statuses) = numbers.split_at(20);
    let expected: Vec<_> = Step::ORDER.iter().map(|step| u64::from(step.number())).collect();
    assert_eq!(deployment, &expected[..20]);
    // `created`, `in-progress` and `live`: each is posted (step 21) and then received (step 22).
    for status in ["created", "in-progress", "live"] {
        let at = |number| recorded.iter().position(|step| step.number == number && step.detail == status);
        assert!(at(21) < at(22) && at(21).is_some(), "{status}: {recorded:#?}");
    }
    assert_eq!(statuses.len(), 6);
    assert!(recorded.iter().all(|step| step.domain == "steps.example" && Some(step.call.as_str()) == call(step.number)));
    let from_9 = recorded.iter().skip_while(|step| step.number != 9);
    assert!(from_9.clone().count() > 10 && from_9.clone().all(|step| step.stub == url), "{recorded:#?}");
}

#[tokio::test]
async fn concurrent_requests_share_one_deployment() {
    let source = source(&["sp1.example"], &component("echo"), &json!({}));
    let runtime = builder().source(source).build().await.expect("a runtime");
    let app = runtime.register_hyperty("hyperty://home.example/app").await.expect("a hyperty");
    let ask = |to: &'static str| app.request(Message::read(to.parse().unwrap()));
    let (a, b, c, d, e) = tokio::join!(
        ask("hyperty://sp1.example/alice"),
        ask("domain://msg-node.sp1.example/sm"),
        ask("domain://registry.sp1.example"),
        runtime.deploy_protostub("sp1.example"),
        runtime.load_stub("hyperty://SP1.example/bob"),
    );
    for reply in [a, b, c] {
        assert_eq!(reply.expect("a reply").code(), Some(200));
    }
    let (d, e) = (d.expect("a stub"), e.expect("a stub"));
    assert_eq!(d.url(), e.url());
    assert_eq!(runtime.protostubs().len(), 1);
    assert_eq!(d.status().status, StubStatus::Live);
}

#[tokio::test]
async fn runtime_ua_deploys_for_hyperties_only() {
    let source = source(&["sp1.example"], &component("echo"), &json!({}));
    let runtime = builder().source(source).build().await.expect("a runtime");
    let app = runtime.register_hyperty("hyperty://home.example/app").await.expect("a hyperty");
    let ua = runtime.url().join("ua").expect("an address");
    let load = || {
        Message::new(protostub_runtime::MessageType::Execute, ua.clone())
            .with_body(json!({ "method": "loadStub", "params": ["sp1.example"] }))
    };
    let refused = runtime.request(load()).await.expect("an answer");
    assert_eq!(refused.code(), Some(403), "{:?}", refused.body);
    let reply = app.request(load()).await.expect("an answer");
    let body: serde_json::Value = reply.body.as_ref().expect("a body").parse().expect("JSON");
    let stub = runtime.protostubs().remove(0);
    assert_eq!(body["value"]["url"], stub.url().expect("a URL").as_str());
    assert_eq!(body["value"]["descriptorURL"], stub.descriptor_url().expect("a URL").as_str());
    assert_eq!(body["value"].as_object().expect("an object").len(), 3);
}

#[tokio::test]
async fn message_after_undeploy_deploys_a_new_stub() {
    let source = source(&["sp1.example"], &component("echo"), &json!({}));
    let runtime = builder().source(source).build().await.expect("a runtime");
    let app = runtime.register_hyperty("hyperty://home.example/app").await.expect("a hyperty");
    let first = runtime.deploy_protostub("sp1.example").await.expect("a stub");
    let mut status = first.watch();
    first.undeploy().await.expect("undeployed");
    assert_eq!(status.until(|report| report.status == StubStatus::Dead).await.status, StubStatus::Dead);
    assert!(runtime.protostubs().is_empty());
    // A message to the old URL goes to the domain. Its new stub has another URL.
    let reply = app.request(Message::read(first.url().expect("a URL").clone())).await.expect("a reply of the new one");
    assert_eq!(reply.code(), Some(200));
    app.request(Message::read("hyperty://sp1.example/alice".parse().unwrap())).await.expect("a reply of the new one");
    assert_ne!(runtime.protostubs()[0].url(), first.url());
    let outcome = runtime.shutdown(Duration::from_secs(5)).await;
    assert_eq!((outcome.stopped.len(), outcome.abandoned.len()), (1, 0));
}

/// After several messages the bus has cached the receiver. The undeployed stub must not stay in
/// that cache.
#[tokio::test]
async fn message_on_a_cached_route_after_undeploy_deploys_a_stub() {
    let source = source(&["sp1.example"], &component("echo"), &json!({}));
    let runtime = builder().source(source).build().await.expect("a runtime");
    let mut app = runtime.register_hyperty("hyperty://home.example/app").await.expect("a hyperty");
    for _ in 0..2 {
        for _ in 0..4 {
            app.post(Message::update("hyperty://sp1.example/alice".parse().unwrap())).expect("there is room");
        }
        for _ in 0..4 {
            assert_eq!(app.recv().await.expect("the runtime is there").kind, MessageType::Update);
        }
        let [stub] = &runtime.protostubs()[..] else { panic!("one stub") };
        stub.undeploy().await.expect("undeployed");
    }
}

#[tokio::test]
async fn spawned_future_is_dropped_at_shutdown() {
    let runtime = builder().source(source(&[], &component("echo"), &json!({}))).build().await.expect("a runtime");
    let (begins, begun) = oneshot::channel();
    let (kept, dropped) = oneshot::channel::<()>();
    runtime.spawn_inside(async move {
        let _kept = kept;
        let _ = begins.send(());
        std::future::pending::<()>().await;
    });
    begun.await.expect("it runs");
    let outcome = runtime.shutdown(Duration::from_secs(60)).await;
    assert!(outcome.abandoned.is_empty());
    dropped.await.expect_err("it was never sent");
}

#[tokio::test]
async fn disconnected_stub_answers_503_until_connect() {
    let source = source(&["sp1.example"], &component("actor"), &json!({}));
    let runtime = builder().source(source).build().await.expect("a runtime");
    let app = runtime.register_hyperty("hyperty://home.example/app").await.expect("a hyperty");
    let stub = runtime.deploy_protostub("sp1.example").await.expect("a stub");
    stub.disconnect().await.expect("disconnected");
    assert_eq!(stub.status().status, StubStatus::Disconnected);
    let refused = app.request(Message::read("hyperty://sp1.example/alice".parse().unwrap())).await.expect_err("refused");
    assert_eq!(refused.code, 503);
    stub.connect().await.expect("connected");
    stub.until_live().await.expect("live");
    app.request(Message::read("hyperty://sp1.example/alice".parse().unwrap())).await.expect("a reply");
}

#[tokio::test]
async fn progress_callback_gets_each_stage_of_a_deployment() {
    let component = component("echo");
    let source = source(&["sp1.example"], &component, &json!({}));
    let told = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&told);
    let note = move |key: &protostub_runtime::StubKey, progress| notes.lock().expect("notes").push((key.to_string(), progress));
    let runtime = builder().source(source).progress(note).build().await.expect("a runtime");
    runtime.load_stub("sp1.example").await.expect("a stub");
    let bytes = u64::try_from(component.len()).expect("a length");
    let told = told.lock().expect("notes");
    assert!(told.iter().all(|(key, _)| key == "sp1.example"));
    let told: Vec<_> = told.iter().map(|(_, progress)| *progress).collect();
    let received = Progress::Download(Download::Received { bytes });
    assert_eq!(told[told.len() - 3..], [received, Progress::Compiling, Progress::CompilingEnded]);
    let beginning = Download::Receiving { bytes: 0, total: Some(bytes) };
    assert_eq!(told.first(), Some(&Progress::Download(beginning)));
}

#[tokio::test]
async fn named_stub_of_a_domain_is_deployed_by_its_url() {
    let echo = component("echo");
    let source = source(&["sp1.example"], &echo, &json!({}));
    source.insert(&domain("sp1.example"), "chat", descriptor(&echo, json!({})).to_json(), echo.clone());
    let runtime = builder().source(source).build().await.expect("a runtime");
    let default = runtime.deploy_protostub("sp1.example").await.expect("a stub");
    let at = async |url: &str| runtime.deploy_protostub(url).await.expect("a stub");
    let chat = at("https://sp1.example/.well-known/protostub/chat").await;
    assert_ne!(chat.url(), default.url());
    assert_eq!(at("hyperty-catalogue://sp1.example/.well-known/protocolstub/chat").await.url(), chat.url());
    assert_eq!(at("hyperty-catalogue://sp1.example/.well-known/protocolstub/default").await.url(), default.url());
    assert_eq!(runtime.protostubs().len(), 2);
    // Every holder of its address can send it messages.
    let app = runtime.register_hyperty("hyperty://home.example/app").await.expect("a hyperty");
    let reply = app.request(Message::read(chat.url().expect("a URL").clone())).await.expect("a reply");
    assert_eq!(reply.code(), Some(200));
}

#[tokio::test]
async fn stub_from_the_home_domain_connects_to_its_own_domain_only() {
    let foreign = serve(vec![]).await;
    let actor = component("actor");
    let source = MemorySource::new();
    let home = domain("home.example");
    source.insert(&home, foreign.as_str(), descriptor(&actor, json!({})).to_json(), actor);
    let runtime = builder().source(source).build().await.expect("a runtime");
    let app = runtime.register_hyperty("hyperty://home.example/app").await.expect("a hyperty");
    let order = async |url: String| {
        let order = Message::read(format!("hyperty://{foreign}/alice").parse().unwrap())
            .with_body(json!({ "do": "websocket", "url": url }));
        app.request(order).await.expect("a reply")
    };
    assert_eq!(order(format!("ws://{foreign}/ws")).await.code(), Some(200));
    let refused = order("wss://home.example/ws".to_owned()).await;
    assert_eq!(refused.code(), Some(400));
    let body: Value = refused.body.expect("a body").parse().expect("JSON");
    assert!(body["value"].as_str().is_some_and(|error| error.starts_with("denied: ")), "{body}");
}

/// A domain may state the digest of code that is compiled already. The code is not downloaded
/// again. A deployment still fails if the stated size is wrong, or over the domain's limit.
#[tokio::test]
async fn compiled_component_is_not_downloaded_again() {
    let (code, junk) = (component("actor"), b"no component at all".to_vec());
    let source = source(&["one.example"], &code, &json!({}));
    // The descriptors state the digest of the same code, but the domains publish other bytes.
    let state = |name: &str, size: usize| {
        let mut stated = descriptor(&code, Value::Null);
        stated.source_package.as_mut().expect("it refers to it").size = u64::try_from(size).ok();
        source.insert(&domain(name), "default", stated.to_json(), junk.clone());
    };
    for (name, size) in [("two.example", code.len()), ("three.example", 7), ("four.example", code.len())] {
        state(name, size);
    }
    let mut settings = DomainSettings::default();
    settings.limits.component_bytes = Some(code.len() - 1);
    let runtime = builder().domain(domain("four.example"), settings).source(source.clone()).build().await.expect("a runtime");
    let error = runtime.deploy_protostub("two.example").await.expect_err("nobody has it yet");
    assert!(format!("{error:?}").contains("WrongDigest"), "{error:?}");
    runtime.deploy_protostub("one.example").await.expect("a stub");
    runtime.deploy_protostub("two.example").await.expect("a stub of the same code");
    for refused in ["three.example", "four.example"] {
        runtime.deploy_protostub(refused).await.expect_err(refused);
    }
}

#[tokio::test]
async fn domain_given_twice_is_refused() {
    let settings = DomainSettings::default;
    let builder = builder().domain(domain("LocalHost:8001"), settings()).domain(domain("localhost:8001"), settings());
    let error = builder.build().await.expect_err("it is given twice");
    assert!(matches!(error, BuildError::Domains(_)), "{error}");
    let source = std::error::Error::source(&error).map(ToString::to_string);
    assert_eq!(source.as_deref(), Some("`localhost:8001` is given twice: keep one of the two"));
}

async fn within_a_minute<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.unwrap_or_else(|_| panic!("{what} takes too long"))
}

/// No clock reaches the end of these times: they mean "never".
#[tokio::test]
async fn longest_timeouts_do_not_panic() {
    let source = source(&["sp1.example"], &component("echo"), &json!({}));
    let mut limits = Limits::default();
    (limits.cpu_per_call, limits.cpu_per_second, limits.time_per_call) = (Duration::MAX, Duration::MAX, Duration::MAX);
    let mut restart = RestartPolicy::default();
    (restart.within, restart.first_pause, restart.longest_pause) = (Duration::MAX, Duration::MAX, Duration::MAX);
    let builder = builder().source(source).limits(limits).restart(restart).request_timeout(Duration::from_secs(600));
    let builder = builder.compile_timeout(Duration::MAX).connect_timeout(Duration::MAX).grace(Duration::MAX);
    let builder = builder.retire_after(Duration::MAX).max_offline_age(Duration::MAX).credentials(StaticCredentials::new());
    let runtime = builder.build().await.expect("a runtime");
    let app = runtime.register_hyperty("hyperty://home.example/app").await.expect("a hyperty");
    let request = app.request_within(Message::read("hyperty://sp1.example/alice".parse().unwrap()), Duration::MAX);
    let reply = within_a_minute("request", request).await.expect("a reply");
    assert_eq!(reply.code(), Some(200));
    let stub = within_a_minute("deploy", runtime.deploy_protostub("sp1.example")).await.expect("the same stub");
    within_a_minute("disconnect", stub.disconnect()).await.expect("disconnected");
    within_a_minute("connect", stub.connect()).await.expect("told");
    within_a_minute("live", stub.until_live()).await.expect("live again");
    within_a_minute("shutdown", runtime.shutdown(Duration::MAX)).await;
}
