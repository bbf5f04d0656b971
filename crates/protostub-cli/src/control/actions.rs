use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use protostub_runtime::{Address, Body, Message, Protostub, Runtime, StubKey, Updated};
use uuid::Uuid;

use super::protocol::{Outcome, Reloaded, SendRequest, Sent, Stub, Update};
use crate::{failure::Failure, settings::read_policy};

/// The range of timeouts for a reply, in seconds.
pub(crate) const TIMEOUTS: std::ops::RangeInclusive<f64> = 0.001..=600.0;

/// Deploys a stub, or finds the deployed one, and waits until it is live.
pub(crate) async fn deploy(runtime: &Runtime, target: &str) -> anyhow::Result<Stub> {
    key_of(runtime, target)?;
    Ok(Stub::of(&runtime.deploy_protostub(target).await?))
}

/// Undeploys a stub.
pub(crate) async fn undeploy(runtime: &Runtime, target: &str) -> anyhow::Result<Stub> {
    let stub = find(runtime, target)?;
    stub.undeploy().await?;
    Ok(Stub::of(&stub))
}

/// Looks for an update of a stub, which keeps its version.
pub(crate) async fn check_for_update(runtime: &Runtime, target: &str) -> anyhow::Result<Update> {
    let stub = find(runtime, target)?;
    let (outcome, from, to) = match stub.check_for_update().await? {
        Some(update) => (Outcome::Available, update.running, update.version),
        None => {
            let runs = stub.version().context("the version of the stub is not known yet")?;
            (Outcome::UpToDate, runs.clone(), runs)
        }
    };
    Ok(Update { key: stub.key().to_string(), outcome, from: from.to_string(), to: to.to_string() })
}

/// Updates a stub to the version that its domain publishes.
pub(crate) async fn update(runtime: &Runtime, target: &str) -> anyhow::Result<Update> {
    let stub = find(runtime, target)?;
    let (outcome, from, to) = match stub.update().await? {
        Updated::UpToDate { version } => (Outcome::UpToDate, version.clone(), version),
        Updated::Updated { from, to } => (Outcome::Updated, from, to),
        other => bail!("the update ended with an outcome that this version of protostub does not know: {other:?}"),
    };
    Ok(Update { key: stub.key().to_string(), outcome, from: from.to_string(), to: to.to_string() })
}

/// Finds the deployed stub of a domain or an address. The error states the remedy.
pub(crate) fn find(runtime: &Runtime, target: &str) -> anyhow::Result<Protostub> {
    let key = key_of(runtime, target)?;
    let stub = runtime.protostub(&key);
    stub.ok_or_else(|| Failure::not_deployed(format!("no stub of {key} is deployed; `protostub list` shows the deployed stubs")))
}

fn key_of(runtime: &Runtime, target: &str) -> anyhow::Result<StubKey> {
    runtime.stub_key(target).map_err(Failure::usage)
}

/// Reloads the policies. If their file has an error, the previous policies stay in force.
pub(crate) fn reload(runtime: &Runtime, policy: Option<&Path>) -> anyhow::Result<Reloaded> {
    let file = policy.ok_or_else(|| {
        Failure::failed("the runtime has no policies; set `policy` in its settings file, and start the runtime with that file")
    })?;
    let policy =
        read_policy(file).map_err(|error| Failure::failed(format_args!("{error:#}; the previous policies stay in force")))?;
    runtime.set_policy(Some(Arc::new(policy)));
    Ok(Reloaded { policy: file.to_owned() })
}

/// Sends a message from the requested address, and waits for the reply.
pub(crate) async fn send(runtime: &Runtime, request: SendRequest) -> anyhow::Result<Sent> {
    if !TIMEOUTS.contains(&request.timeout) {
        return Err(Failure::usage("the timeout is out of range; set 0.001 to 600 seconds"));
    }
    if request.to.domain().is_none() {
        return Err(Failure::usage(format!("the receiver {} has no domain; name an address with a domain", request.to)));
    }
    let kind = request.r#type.parse().map_err(Failure::usage)?;
    let is_chosen_here = request.from.is_none();
    let from = match request.from {
        Some(from) => from,
        None => Address::parse(&format!("hyperty://{}/{}", runtime.home_domain(), Uuid::new_v4()))?,
    };
    if from.is_within(runtime.url()) {
        let problem = format!("failed to send from {from}: the address belongs to the runtime itself; set another with `--from`");
        return Err(Failure::failed(problem).into());
    }
    let sender = runtime.register_hyperty(from.clone()).await?;
    let mut message = Message::new(kind, request.to);
    if let Some(body) = request.body {
        message.body = Some(Body::Json(body.get().into()));
    }
    let sent = Instant::now();
    let reply = sender.request_within(message, Duration::from_secs_f64(request.timeout)).await.map_err(|error| {
        match is_chosen_here && error.to_string().contains(from.as_str()) {
            true => anyhow::Error::new(error)
                .context(format!("failed to send from {from}, an address for this one message; `--from` sets another")),
            false => error.into(),
        }
    })?;
    let milliseconds = u64::try_from(sent.elapsed().as_millis()).unwrap_or(u64::MAX);
    Sent::of(&reply, milliseconds)
}
