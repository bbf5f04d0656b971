use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use protostub_runtime::{Address, AttachError, Body, Hyperty, Message, Protostub, RegisterError, Runtime, StubKey, Updated};

use super::protocol::{Accepted, Outcome, Reloaded, SendRequest, Sent, Stub, Update};
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

/// Returns the accepted version of a stub, and forgets it with `reset`. A deployed stub would bring
/// its version back.
pub(crate) async fn accepted(runtime: &Runtime, target: &str, reset: bool) -> anyhow::Result<Accepted> {
    let key = key_of(runtime, target)?;
    if reset && runtime.protostub(&key).is_some() {
        let problem = format!("failed to forget the accepted version: the stub of {key} is deployed; undeploy the stub first");
        return Err(Failure::failed(problem).into());
    }
    let release = match reset {
        true => runtime.forget_accepted_release(&key).await?,
        false => runtime.accepted_release(&key).await?,
    };
    Ok(Accepted { key: key.to_string(), accepted: release.map(Into::into), reset })
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
    let sender = match request.from {
        Some(from) if from.is_within(runtime.url()) => {
            let problem =
                format!("failed to send from {from}: the address belongs to the runtime itself; set another with `--from`");
            return Err(Failure::failed(problem).into());
        }
        Some(from) => runtime.register_hyperty(from).await?,
        None => default_sender(runtime).await?,
    };
    let from = sender.address().clone();
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

/// Registers the first address of the runtime that no other `send` uses now:
/// `hyperty://<home domain>/<runtime id>/<number>`. A domain remembers the addresses that it gets
/// messages from, so a new address for each message would fill its memory.
async fn default_sender(runtime: &Runtime) -> anyhow::Result<Hyperty> {
    let mut number = 1_u64;
    loop {
        let address = Address::parse(&format!("hyperty://{}{}/{number}", runtime.home_domain(), runtime.url().path()))?;
        match runtime.register_hyperty(address).await {
            Err(RegisterError::Bus { source: AttachError::AddressTaken { .. }, .. }) => number += 1,
            registered => return Ok(registered?),
        }
    }
}
