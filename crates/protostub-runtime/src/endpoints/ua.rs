use std::sync::Arc;

use protostub_bus::{Inbox, Origin};
use protostub_types::{Message, MessageType};
use serde::Deserialize;
use serde_json::Value;

use super::{Answer, describe, serve};
use crate::{
    context::RuntimeContext,
    error::in_full,
    launch::{key_of, load_stub},
    registry::Retry,
};

/// The body of an `execute` to `<runtime>/ua`: `{"method": "loadStub", "params": ["sp1.example"]}`.
/// `params` may also be a single text.
#[derive(Deserialize)]
struct LoadStubRequest {
    method: String,
    #[serde(default)]
    params: Value,
}

/// Listens for the Runtime UA. Step 1 is an `execute` of `loadStub` with a domain or an address, by
/// a hyperty or by a stub with the grant. The answer comes when the stub is deployed:
/// `{"url", "status", "descriptorURL"}`.
pub(crate) async fn listen(context: Arc<RuntimeContext>, inbox: Inbox) {
    serve(context, inbox, |context, message| async move { execute(&context, &message).await }).await;
}

async fn execute(context: &Arc<RuntimeContext>, message: &Message) -> Answer {
    // A message that came through a stub has the stub in `via`: the stub asks, even if the message
    // claims another sender.
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
            return Answer::Refused(400, format!("the Runtime UA takes only {expected}"));
        }
    };
    let target = match &call.params {
        Value::String(target) => Some(target.as_str()),
        Value::Array(params) => params.first().and_then(Value::as_str),
        Value::Object(params) => params.get("domain").or_else(|| params.get("url")).and_then(Value::as_str),
        _ => None,
    };
    let Some(target) = target else {
        return Answer::Refused(400, "`params` does not begin with a domain or an address".to_owned());
    };
    let loaded = async {
        let key = key_of(target, &context.home).map_err(|error| (400, in_full(&error).to_string()))?;
        let retry = if matches!(origin, Origin::Stub(_)) { Retry::AfterPause } else { Retry::Now };
        let record =
            load_stub(context, &key, &origin, retry).map_err(|error| (error.kind.code(), in_full(&error).to_string()))?;
        record.until_deployed().await.map_err(|error| (503, in_full(&error).to_string()))?;
        Ok::<_, (u16, String)>(record)
    };
    match loaded.await {
        Ok(record) => Answer::Ok(Some(describe(&record))),
        Err((code, reason)) => Answer::Refused(code, reason),
    }
}
