//! Registration at a domain's own Registry (`domain://registry.<domain>`), which then knows where a
//! hyperty or a stub is. The runtime sends two messages:
//!
//! * `create`, at first, after each new connection, and when half of `expires` is over, with the
//!   body `{"value": {"url", "status": "live", "expires", "runtime", …}}`
//! * `delete`, when the hyperty is dropped, before the stub is undeployed, and at shutdown, with
//!   the body `{"resource": <url>, "value": {"url"}}`
//!
//! Both are ordinary requests over the bus. A failure is logged and retried, and has no other
//! effect.

use std::{sync::Arc, time::Duration};

use protostub_bus::Origin;
use protostub_types::{Address, AddressError, Backoff, Domain, Message, MessageType, SafeText, StubKey, StubStatus};
use serde_json::{Map, Value, json};
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{HypertyDescriptor, Registration, RegistrationHandle};
use crate::{context::RuntimeContext, error::in_full, record::StubRecord};

/// Timeout of the Registry's answer to a `create`.
const CREATE_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout of the Registry's answer to a `delete`.
const DELETE_TIMEOUT: Duration = Duration::from_secs(2);
/// First and longest pause between attempts.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A registration to send: its Registry, and the value for the Registry.
#[derive(Debug)]
pub(crate) struct RegistrationRequest {
    key: StubKey,
    registry: Address,
    url: Address,
    expires: Duration,
    value: Map<String, Value>,
}

impl RegistrationRequest {
    pub(crate) fn of_hyperty(
        context: &RuntimeContext,
        url: &Address,
        descriptor: &HypertyDescriptor,
    ) -> Result<Self, AddressError> {
        let domain = descriptor.domain.clone().or_else(|| url.domain()).ok_or_else(|| AddressError::without_domain(url))?;
        let key = StubKey::of(&registry_of(&domain)?, &context.home).unwrap_or(StubKey::Domain(domain));
        let mut request = Self::new(context, key, url, descriptor.expires)?;
        let mut add = |name: &str, value: Option<Value>| value.map(|value| request.value.insert(name.to_owned(), value));
        add("descriptor", descriptor.descriptor_url.as_ref().map(|url| Value::from(url.as_str())));
        add("user", descriptor.user.as_ref().map(|user| Value::from(user.as_str())));
        add("resources", Some(Value::from(descriptor.resources.clone())));
        add("dataSchemes", Some(Value::from(descriptor.data_schemes.clone())));
        Ok(request)
    }

    pub(crate) fn of_stub(context: &RuntimeContext, record: &StubRecord, url: &Address) -> Result<Self, AddressError> {
        let expires = HypertyDescriptor::default().expires;
        let mut request = Self::new(context, record.key.clone(), url, expires)?;
        if let Some(published) = record.published() {
            request.value.insert("descriptor".to_owned(), Value::from(published.descriptor_url.as_str()));
        }
        Ok(request)
    }

    fn new(context: &RuntimeContext, key: StubKey, url: &Address, expires: Duration) -> Result<Self, AddressError> {
        let registry = registry_of(key.domain())?;
        let value = json!({
            "url": url.as_str(), "status": "live", "expires": expires.as_secs().max(1), "runtime": context.runtime_url.as_str(),
        });
        let value = match value {
            Value::Object(value) => value,
            _ => Map::new(),
        };
        Ok(Self { key, registry, url: url.clone(), expires, value })
    }

    /// Returns the key of the stub that the registration goes through.
    pub(crate) fn key(&self) -> &StubKey {
        &self.key
    }

    async fn create(&self, context: &RuntimeContext) -> Result<(), SafeText> {
        self.send(context, Message::create(self.registry.clone()).with_body(json!({ "value": self.value })), CREATE_TIMEOUT).await
    }

    async fn delete(&self, context: &RuntimeContext) -> Result<(), SafeText> {
        let body = json!({ "resource": self.url.as_str(), "value": { "url": self.url.as_str() } });
        self.send(context, Message::new(MessageType::Delete, self.registry.clone()).with_body(body), DELETE_TIMEOUT).await
    }

    async fn send(&self, context: &RuntimeContext, mut message: Message, within: Duration) -> Result<(), SafeText> {
        message.from = self.url.clone();
        let reply = context.bus.request(&Origin::Host, message, Some(within)).await.map_err(|error| in_full(&error))?;
        match reply.code() {
            Some(200..300) => Ok(()),
            code => {
                let body = reply.body.as_ref().and_then(|body| body.parse::<Value>().ok()).unwrap_or_default();
                let reason = ["desc", "description"].iter().find_map(|name| body[*name].as_str());
                let (code, reason) = (code.unwrap_or_default(), reason.unwrap_or("no reason given"));
                Err(SafeText::display(format_args!("the Registry {} answers with code {code}: {reason}", self.registry)))
            }
        }
    }
}

fn registry_of(domain: &Domain) -> Result<Address, AddressError> {
    Address::parse(&format!("domain://registry.{domain}"))
}

impl RegistrationHandle {
    /// Starts a task that registers, and refreshes the registration until the returned handle is
    /// dropped.
    pub(crate) fn keep(context: &Arc<RuntimeContext>, request: RegistrationRequest) -> Self {
        let (status, seen) = watch::channel(Registration::Pending);
        let over = CancellationToken::new();
        let keeper = RegistrationTask { context: Arc::clone(context), request, status, over: over.clone() };
        context.spawn(keeper.run());
        Self::new(seen, over)
    }
}

struct RegistrationTask {
    context: Arc<RuntimeContext>,
    request: RegistrationRequest,
    status: watch::Sender<Registration>,
    over: CancellationToken,
}

/// The reason why a registration is not kept up any longer with a stub.
enum Interruption {
    /// The registration is no longer wanted.
    Over,
    /// The stub is about to end, or has ended.
    StubGoes,
}

impl RegistrationTask {
    async fn run(self) {
        while let Some(record) = self.stub().await {
            // The stub's end waits until this token is dropped.
            let leaving = record.registrations.token();
            let mut may_be_registered = false;
            let leave = self.keep_with(&record, &mut may_be_registered).await;
            if may_be_registered
                && record.status.current().status == StubStatus::Live
                && let Err(reason) = self.request.delete(&self.context).await
            {
                tracing::debug!(target: "protostub", url = %self.request.url, reason = reason.as_str(), "failed to remove a registration");
            }
            drop(leaving);
            if matches!(leave, Interruption::Over) {
                break;
            }
            self.status.send_replace(Registration::Pending);
            record.until_over().await;
        }
        self.status.send_replace(Registration::Removed);
    }

    /// Waits until the domain's stub is deployed, by any trigger, and returns its record. Returns
    /// `None` at shutdown, or if the registration is no longer wanted.
    async fn stub(&self) -> Option<Arc<StubRecord>> {
        let mut deployments = self.context.registry.deployments();
        loop {
            if let Some(record) = self.context.registry.record(&self.request.key) {
                return Some(record);
            }
            tokio::select! {
                biased;
                () = self.context.stop.cancelled() => return None,
                () = self.over.cancelled() => return None,
                changed = deployments.changed() => changed.ok()?,
            }
        }
    }

    /// Registers, and refreshes the registration. It may exist from the request on, even if the
    /// answer never comes.
    async fn keep_with(&self, record: &StubRecord, may_be_registered: &mut bool) -> Interruption {
        let mut pauses = pauses();
        loop {
            let create = async {
                *may_be_registered = true;
                self.request.create(&self.context).await
            };
            let created = tokio::select! {
                biased;
                () = self.over.cancelled() => return Interruption::Over,
                () = record.leaving.cancelled() => return Interruption::StubGoes,
                _ = record.until_over() => return Interruption::StubGoes,
                created = create => created,
            };
            let pause = match created {
                Ok(()) => {
                    self.status.send_replace(Registration::Registered);
                    pauses = self::pauses();
                    self.request.expires / 2
                }
                Err(reason) => {
                    *may_be_registered = false;
                    tracing::warn!(target: "protostub", url = %self.request.url, reason = reason.as_str(), "failed to register; the runtime retries");
                    self.status.send_replace(Registration::Failed { reason });
                    pauses.next_pause()
                }
            };
            tokio::select! {
                biased;
                () = self.over.cancelled() => return Interruption::Over,
                () = record.leaving.cancelled() => return Interruption::StubGoes,
                _ = record.until_over() => return Interruption::StubGoes,
                () = liveness_changed(record) => {}
                () = sleep(pause) => {}
            }
        }
    }
}

/// Waits until a stub that is live is not live any more, or the other way round.
async fn liveness_changed(record: &StubRecord) {
    let mut status = record.status.watch();
    let was_live = status.current().status == StubStatus::Live;
    status.until(|report| (report.status == StubStatus::Live) != was_live).await;
}

fn pauses() -> Backoff {
    Backoff::new(FIRST_PAUSE, LONGEST_PAUSE)
}
