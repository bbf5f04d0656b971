//! The runtime's own listeners on the bus: the Registry's (`<stub>/status`, `<runtime>/status`, `<runtime>/registry`) and the Runtime UA's
//! (`<runtime>/ua`). The Identity Module's is in [`identity`](crate::identity).

use std::{future::Future, sync::Arc};

use protostub_bus::{Inbox, Origin};
use protostub_types::{Address, Message, MessageType};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;

use crate::{
    context::{RuntimeContext, SHUTTING_DOWN},
    deploy::load_stub,
    error::in_full,
    registry::StubRecord,
    runtime::key_of,
};

/// How many requests of a listener that take their time are waited for at once. More wait in its inbox.
const CONCURRENT_REQUESTS: usize = 64;

/// Listens for the Registry.
///
/// | message | to | from | answer |
/// | --- | --- | --- | --- |
/// | `update` | `<stub>/status` | the host, for the stub | none; `<runtime>/status` re-publishes it (step 22) |
/// | `subscribe`, `unsubscribe` | `<stub>/status` | a hyperty, or the stub itself | 200; the current status follows at once |
/// | `subscribe`, `unsubscribe` | `<runtime>/status` | a hyperty | 200; the status of every stub follows at once |
/// | `read` | `<runtime>/registry` | a hyperty | 200 with the stubs and sandboxes |
///
/// Anybody else is answered 403, anything else 405. It listens until the last stub has ended: those that say good-bye publish their last statuses.
pub(crate) async fn registry(context: Arc<RuntimeContext>, mut inbox: Inbox) {
    loop {
        // Looked at first: what the last of them has said is there by then.
        let has_heard_all = context.stubs_ended.is_cancelled();
        let message = tokio::select! {
            biased;
            message = inbox.recv() => message,
            () = context.stubs_ended.cancelled(), if !has_heard_all => continue,
            () = std::future::ready(()), if has_heard_all => None,
        };
        let Some(message) = message else { return };
        match &message.kind {
            MessageType::Update => on_status(&context, &message),
            MessageType::Subscribe | MessageType::Unsubscribe | MessageType::Read => {
                let answer = on_request(&context, &message);
                answer_with(&context, &message, &answer);
            }
            _ => answer_with(
                &context,
                &message,
                &Answer::Refused(405, "the Registry knows subscribe, unsubscribe and read".to_owned()),
            ),
        }
    }
}

pub(crate) enum Answer {
    Ok(Option<Value>),
    Refused(u16, String),
}

fn answer_with(context: &RuntimeContext, request: &Message, answer: &Answer) {
    if !request.expects_response() {
        return;
    }
    let response = match answer {
        Answer::Ok(value) => request.response(200, value.clone()),
        Answer::Refused(code, reason) => request.error_response(*code, reason),
    };
    if let Err(error) = context.bus.post(&Origin::Host, response) {
        tracing::debug!(target: "protostub", %error, "an answer of the runtime could not be delivered");
    }
}

/// Step 22. What the stub said is told on, not what holds by now: the last status of a stub is heard of when its record is gone. Only what its presence
/// published counts; what came through a stub is somebody's claim.
fn on_status(context: &RuntimeContext, message: &Message) {
    let is_own = message.from.join("status").is_ok_and(|topic| topic == message.to);
    if !message.via.is_empty() || !is_own {
        tracing::debug!(target: "protostub", from = %message.from, to = %message.to, "a status that is not its publisher's is ignored");
        return;
    }
    let Some(mut body) = message.body.as_ref().and_then(|body| body.parse::<Map<String, Value>>().ok()) else { return };
    if let Some(record) = context.registry.record_of(&message.from) {
        let value = body.get("value").and_then(Value::as_str).unwrap_or_default();
        record.steps.mark(22, &value.to_ascii_lowercase());
    }
    body.insert("resource".to_owned(), Value::from(message.from.as_str()));
    context.publish_status(Value::Object(body));
}

fn on_request(context: &RuntimeContext, message: &Message) -> Answer {
    // What came through a stub is the stub's, whoever it says it is from: stubs speak for all addresses of their domain.
    let hyperty = message.via.is_empty() && context.registry.is_hyperty(&message.from);
    let stub = (message.to != context.status_url).then(|| status_of(context, &message.to)).flatten();
    let own = stub.as_ref().is_some_and(|record| record.url.get() == Some(&message.from));
    if !hyperty && !own {
        return Answer::Refused(403, format!("{} is neither a hyperty of this runtime nor the stub itself", message.from));
    }
    match (&message.kind, &stub) {
        (MessageType::Read, _) if message.to != context.status_url && stub.is_none() => Answer::Ok(Some(listing(context))),
        (MessageType::Unsubscribe, _) => {
            context.bus.unsubscribe(&message.to, &message.from);
            Answer::Ok(None)
        }
        (MessageType::Subscribe, Some(record)) => {
            context.bus.subscribe(&message.to, &message.from);
            tell_current(context, record, message);
            Answer::Ok(None)
        }
        (MessageType::Subscribe, None) if message.to == context.status_url => {
            context.bus.subscribe(&message.to, &message.from);
            for record in context.registry.records() {
                tell_current(context, &record, message);
            }
            Answer::Ok(None)
        }
        _ => Answer::Refused(405, format!("{} cannot be asked for a {}", message.to, message.kind)),
    }
}

/// The record of the stub whose status `topic` is.
fn status_of(context: &RuntimeContext, topic: &Address) -> Option<Arc<StubRecord>> {
    let stub = Address::parse(topic.as_str().strip_suffix("/status")?).ok()?;
    context.registry.record_of(&stub)
}

/// A late subscriber learns what holds, and nobody else hears it again.
fn tell_current(context: &RuntimeContext, record: &StubRecord, subscription: &Message) {
    let Some(stub) = record.url.get() else { return };
    let report = record.status.current();
    let of_runtime = subscription.to == context.status_url;
    let mut message = Message::update(subscription.from.clone())
        .with_body(context.config.status_form.body(&report, of_runtime.then_some(stub)));
    message.from = if of_runtime { context.runtime_url.clone() } else { stub.clone() };
    message.id = protostub_types::MessageId::Text(report.sequence.to_string().into());
    context.bus.publish_to(&subscription.from, &subscription.to, message);
}

fn listing(context: &RuntimeContext) -> Value {
    let stubs: Vec<_> = context.registry.records().iter().map(|record| describe(record)).collect();
    let sandboxes: Vec<_> = context
        .registry
        .sandboxes()
        .into_iter()
        .map(|(url, key)| json!({ "url": url.as_str(), "domain": key.domain().as_str() }))
        .collect();
    json!({ "stubs": stubs, "sandboxes": sandboxes })
}

/// What the Registry tells of a stub.
pub(crate) fn describe(record: &StubRecord) -> Value {
    json!({
        "url": record.url.get().map(Address::as_str),
        "status": record.status.current().status.as_str(),
        "descriptorURL": record.published().map(|published| String::from(published.descriptor_url)),
    })
}

/// What `execute` to `<runtime>/ua` carries: `{"method": "loadStub", "params": ["sp1.example"]}`; a single text stands for a list of one.
#[derive(Deserialize)]
struct LoadStubRequest {
    method: String,
    #[serde(default)]
    params: Value,
}

/// Listens for the Runtime UA: `execute` of `loadStub` with a domain or an address, by a hyperty or by a stub that is granted it, is step 1. The answer comes when the stub is
/// deployed: `{"url", "status", "descriptorURL"}`.
pub(crate) async fn runtime_ua(context: Arc<RuntimeContext>, inbox: Inbox) {
    serve(context, inbox, |context, message| async move { execute(&context, &message).await }).await;
}

/// Answers one request after the other, many at a time, until the runtime shuts down.
pub(crate) async fn serve<F>(
    context: Arc<RuntimeContext>,
    mut inbox: Inbox,
    answer: impl Fn(Arc<RuntimeContext>, Arc<Message>) -> F,
) where
    F: Future<Output = Answer> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(CONCURRENT_REQUESTS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let message = tokio::select! {
            biased;
            () = context.stop.cancelled() => return,
            message = inbox.recv() => match message { Some(message) => Arc::new(message), None => return },
        };
        let (serving, answering) = (Arc::clone(&context), answer(Arc::clone(&context), Arc::clone(&message)));
        context.spawn(async move {
            let answer = tokio::select! {
                biased;
                () = serving.stop.cancelled() => Answer::Refused(503, SHUTTING_DOWN.to_owned()),
                answer = answering => answer,
            };
            answer_with(&serving, &message, &answer);
            drop(place);
        });
    }
}

async fn execute(context: &Arc<RuntimeContext>, message: &Message) -> Answer {
    // What came through a stub has the stub in `via`: it is the stub that asks, whoever it says it is.
    let origin = match message.via.last() {
        Some(stub) => Origin::Stub(stub.clone()),
        None if context.registry.is_hyperty(&message.from) => Origin::Hyperty(message.from.clone()),
        None => {
            let reason = format!("{} is neither a hyperty nor a stub of this runtime", message.from);
            return Answer::Refused(403, reason);
        }
    };
    let call = match (&message.kind, message.body.as_ref().map(protostub_types::Body::parse::<LoadStubRequest>)) {
        (MessageType::Execute, Some(Ok(call))) if call.method == "loadStub" => call,
        _ => {
            let expected = r#"an execute with the body {"method": "loadStub", "params": ["<domain or address>"]}"#;
            return Answer::Refused(400, format!("the Runtime UA understands {expected}"));
        }
    };
    let target = match &call.params {
        Value::String(target) => Some(target.as_str()),
        Value::Array(params) => params.first().and_then(Value::as_str),
        Value::Object(params) => params.get("domain").or_else(|| params.get("url")).and_then(Value::as_str),
        _ => None,
    };
    let Some(target) = target else {
        return Answer::Refused(400, "`params` has to begin with a domain or an address".to_owned());
    };
    let loaded = async {
        let key = key_of(target, &context.home).map_err(|error| (400, in_full(&error).to_string()))?;
        let record = load_stub(context, &key, &origin, !matches!(origin, Origin::Stub(_)))
            .map_err(|error| (error.kind.code(), in_full(&error).to_string()))?;
        record.until_deployed().await.map_err(|error| (503, in_full(&error).to_string()))?;
        Ok::<_, (u16, String)>(record)
    };
    match loaded.await {
        Ok(record) => Answer::Ok(Some(describe(&record))),
        Err((code, reason)) => Answer::Refused(code, reason),
    }
}
