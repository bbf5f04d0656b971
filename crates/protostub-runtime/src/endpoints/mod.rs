//! The runtime's own listeners on the bus: the Registry's (`<stub>/status`, `<runtime>/status`,
//! `<runtime>/registry`), the Runtime UA's (`<runtime>/ua`) and the Identity Module's
//! (`<runtime>/identity`).

pub(crate) mod identity;
pub(crate) mod registry;
pub(crate) mod ua;

use std::{future::Future, sync::Arc};

use protostub_bus::{Inbox, Origin};
use protostub_types::{Address, Message};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::{context::RuntimeContext, error::SHUTTING_DOWN, record::StubRecord};

/// Maximum number of slow requests that a listener serves at once. Further ones wait in its inbox.
const CONCURRENT_REQUESTS: usize = 64;

enum Answer {
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
        tracing::debug!(target: "protostub", %error, "failed to deliver an answer of the runtime");
    }
}

/// Answers requests, many at a time, until the runtime shuts down.
async fn serve<F>(context: Arc<RuntimeContext>, mut inbox: Inbox, answer: impl Fn(Arc<RuntimeContext>, Arc<Message>) -> F)
where
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

/// Returns the Registry's description of a stub.
fn describe(record: &StubRecord) -> Value {
    json!({
        "url": record.url.get().map(Address::as_str),
        "status": record.status.current().status.as_str(),
        "descriptorURL": record.published().map(|published| String::from(published.descriptor_url)),
    })
}
