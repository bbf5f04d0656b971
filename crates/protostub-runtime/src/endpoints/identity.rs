use std::{error::Error, sync::Arc};

use protostub_bus::{Inbox, Origin};
use protostub_types::{Address, Body, Message, MessageType, StubKey};
use serde::Deserialize;

use super::{Answer, describe, serve};
use crate::{
    context::RuntimeContext,
    error::{DeployError, in_full},
    identity::{Credential, CredentialJson},
    launch::{key_of, load_stub},
    record::StubRecord,
    registry::Retry,
    stub::{Liveness, Protostub},
};

/// The body of an `execute` to `<runtime>/identity`. The crate's documentation shows it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", tag = "method", content = "params")]
enum LoginRequest {
    Login(LoginParameters),
    Logout(LogoutParameters),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LoginParameters {
    domain: String,
    #[serde(default)]
    credential: Option<CredentialJson>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogoutParameters {
    domain: String,
}

/// Listens for the Identity Module: `execute` of `login` and `logout`, by a hyperty.
pub(crate) async fn listen(context: Arc<RuntimeContext>, inbox: Inbox) {
    serve(context, inbox, |context, message| async move { execute(&context, &message).await }).await;
}

async fn execute(context: &Arc<RuntimeContext>, message: &Message) -> Answer {
    // A message that came through a stub has the stub in `via`, even if it claims another sender.
    if !message.via.is_empty() || !context.registry.is_hyperty(&message.from) {
        return Answer::Refused(403, format!("{} may not log in: it is not a hyperty of this runtime", message.from));
    }
    let call = match (&message.kind, message.body.as_ref().map(Body::parse)) {
        (MessageType::Execute, Some(Ok(call))) => call,
        // The error of serde may quote the secret.
        _ => {
            let reason =
                format!("the Identity Module takes only an execute with the body {LOGIN} (`credential` is optional) or {LOGOUT}");
            return Answer::Refused(400, reason);
        }
    };
    let target = match &call {
        LoginRequest::Login(LoginParameters { domain, .. }) | LoginRequest::Logout(LogoutParameters { domain }) => domain,
    };
    let key = match key_of(target, &context.home) {
        Ok(key) => key,
        Err(error) => return Answer::Refused(400, in_full(&error).to_string()),
    };
    let done = match call {
        LoginRequest::Login(LoginParameters { credential, .. }) => {
            log_in(context, &key, &message.from, credential.map(Credential::from)).await
        }
        LoginRequest::Logout(_) => log_out(context, &key).await,
    };
    match done {
        Ok(record) => Answer::Ok(Some(describe(&record))),
        Err((code, reason)) => Answer::Refused(code, reason),
    }
}

/// The accepted form of a login.
const LOGIN: &str =
    r#"{"method": "login", "params": {"domain": "<domain>", "credential": {"kind": "bearer", "value": "<secret>"}}}"#;
const LOGOUT: &str = r#"{"method": "logout", "params": {"domain": "<domain>"}}"#;

type Refusal = (u16, String);

/// Deploys the stub if needed, and waits until it is live with this credential, for the connect
/// timeout at most. Without a credential, the stub uses that of the providers.
async fn log_in(
    context: &Arc<RuntimeContext>,
    key: &StubKey,
    hyperty: &Address,
    credential: Option<Credential>,
) -> Result<Arc<StubRecord>, Refusal> {
    let unavailable = |error: DeployError| (error.kind.code(), in_full(&error).to_string());
    let record = load_stub(context, key, &Origin::Hyperty(hyperty.clone()), Retry::Now).map_err(unavailable)?;
    let stub = Protostub::new(context, Arc::clone(&record));
    match credential.clone() {
        Some(credential) => {
            // A stub that is still being deployed gets the credential for its first login.
            if record.url.get().is_none() {
                record.login.hold(credential.clone());
            }
            record.until_deployed().await.map_err(unavailable)?;
            stub.connect_with(credential).await.map_err(|error| gone(&error))?;
        }
        None => {
            record.until_deployed().await.map_err(unavailable)?;
            stub.connect().await.map_err(|error| gone(&error))?;
        }
    }
    let liveness = stub.live_in_time().await.map_err(|error| gone(&error))?;
    match credential {
        Some(credential) if liveness != Liveness::Live || record.login.credential().as_ref() != Some(&credential) => {
            record.login.forget_untrusted(&credential);
            Err((401, format!("the protocol stub of {key} could not connect with the credential")))
        }
        None if liveness != Liveness::Live => Err(unavailable(stub.not_live(liveness))),
        _ => Ok(record),
    }
}

/// Returns the refusal of a request to a stub that has ended.
fn gone(error: &(dyn Error + 'static)) -> Refusal {
    (503, in_full(error).to_string())
}

/// Forgets the stub's explicit credential, and disconnects the stub.
async fn log_out(context: &Arc<RuntimeContext>, key: &StubKey) -> Result<Arc<StubRecord>, Refusal> {
    let record = context.registry.record(key).ok_or_else(|| (404, format!("no stub of {key} is deployed")))?;
    record.until_deployed().await.map_err(|error| (503, in_full(&error).to_string()))?;
    record.login.forget();
    // A stub without a connection is disconnected too, so that it does not connect with the next
    // message.
    Protostub::new(context, Arc::clone(&record)).disconnect().await.map_err(|error| gone(&error))?;
    Ok(record)
}
