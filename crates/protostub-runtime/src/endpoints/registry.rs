use std::sync::Arc;

use protostub_bus::Inbox;
use protostub_types::{Address, Message, MessageType};
use serde_json::{Map, Value, json};

use super::{Answer, answer_with, describe};
use crate::{context::RuntimeContext, record::StubRecord, steps::Step};

/// Listens for the Registry.
///
/// | message | to | from | answer |
/// | --- | --- | --- | --- |
/// | `update` | `<stub>/status` | the host, for the stub | no answer |
/// | `subscribe`, `unsubscribe` | `<stub>/status` | a hyperty, or the stub itself | 200 |
/// | `subscribe`, `unsubscribe` | `<runtime>/status` | a hyperty | 200 |
/// | `read` | `<runtime>/registry` | a hyperty | 200 with the stubs and sandboxes |
///
/// The Registry publishes each `update` again to `<runtime>/status` (step 22). A subscriber gets
/// the current status of the stub, or of every stub, at once.
///
/// Other senders get 403, other messages 405. The Registry listens until the last stub has ended,
/// because stubs publish their last statuses when they disconnect.
pub(crate) async fn listen(context: Arc<RuntimeContext>, mut inbox: Inbox) {
    loop {
        // This check comes before the inbox, which then has the last status of the last stub.
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
                &Answer::Refused(405, "the Registry takes only subscribe, unsubscribe and read".to_owned()),
            ),
        }
    }
}

/// Performs step 22. Publishes the status of the message, not the current one: the last status of a
/// stub comes after its record is removed. Only the status of the stub's own presence counts. A
/// status that came through a stub is only a claim.
fn on_status(context: &RuntimeContext, message: &Message) {
    let is_own = message.from.join("status").is_ok_and(|topic| topic == message.to);
    if !message.via.is_empty() || !is_own {
        tracing::debug!(target: "protostub", from = %message.from, to = %message.to, "ignored a status that its sender may not publish");
        return;
    }
    let Some(mut body) = message.body.as_ref().and_then(|body| body.parse::<Map<String, Value>>().ok()) else { return };
    if let Some(record) = context.registry.record_of(&message.from) {
        let value = body.get("value").and_then(Value::as_str).unwrap_or_default();
        record.steps.mark(Step::StatusEvent, &value.to_ascii_lowercase());
    }
    body.insert("resource".to_owned(), Value::from(message.from.as_str()));
    context.publish_status(Value::Object(body), message.from.as_str());
}

fn on_request(context: &RuntimeContext, message: &Message) -> Answer {
    // A message that came through a stub counts as the stub's, which speaks for all addresses of
    // its domain.
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
            send_current(context, record, message);
            Answer::Ok(None)
        }
        (MessageType::Subscribe, None) if message.to == context.status_url => {
            context.bus.subscribe(&message.to, &message.from);
            for record in context.registry.records() {
                send_current(context, &record, message);
            }
            Answer::Ok(None)
        }
        _ => Answer::Refused(405, format!("{} does not take the message type {}", message.to, message.kind)),
    }
}

/// Returns the record of the stub whose status topic is `topic`.
fn status_of(context: &RuntimeContext, topic: &Address) -> Option<Arc<StubRecord>> {
    let stub = Address::parse(topic.as_str().strip_suffix("/status")?).ok()?;
    context.registry.record_of(&stub)
}

/// Sends the current status to a late subscriber alone.
fn send_current(context: &RuntimeContext, record: &StubRecord, subscription: &Message) {
    let Some(stub) = record.url.get() else { return };
    let report = record.status.current();
    let of_runtime = subscription.to == context.status_url;
    let mut message = Message::update(subscription.from.clone())
        .with_body(context.config.status_form.body(&report, of_runtime.then_some(stub)));
    message.from = if of_runtime { context.runtime_url.clone() } else { stub.clone() };
    message.id = protostub_types::MessageId::Text(report.sequence.to_string().into());
    let about = if of_runtime { stub.as_str() } else { "" };
    context.bus.publish_to(&subscription.from, &subscription.to, message, about);
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
