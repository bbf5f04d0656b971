//! Registration at a domain's own Registry (`domain://registry.<domain>`): that Registry then knows where a hyperty, or a stub, is to be found.
//!
//! | message | when | body |
//! | --- | --- | --- |
//! | `create` | at first, after each new connection, and when half of `expires` is over | `{"value": {"url", "status": "live", "expires", "runtime", …}}` |
//! | `delete` | when the hyperty is dropped, before the stub is undeployed, and at shutdown | `{"resource": <url>, "value": {"url"}}` |
//!
//! Both are requests over the bus like any other. What goes wrong is told and tried again; it fails nothing else.

use std::{sync::Arc, time::Duration};

use protostub_bus::Origin;
use protostub_types::{Address, AddressError, Backoff, Domain, Message, MessageType, SafeText, StubKey, StubStatus};
use serde_json::{Map, Value, json};
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::{
    core::Core,
    deploy::load_stub,
    error::{DeployError, in_full},
    registry::Record,
};

/// How long a Registry may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the Registry may take to answer a removal.
const FAREWELL: Duration = Duration::from_secs(2);
/// The pauses between attempts.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What a hyperty says of itself when it is registered: [`Runtime::register_hyperty_with`](crate::Runtime::register_hyperty_with).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct HypertyDescriptor {
    /// The domain whose stub the hyperty speaks through, and whose Registry it is registered at. Default: that of its address.
    pub domain: Option<Domain>,
    /// Whether the domain's Registry is told where the hyperty is, for as long as it is there. Default: yes.
    pub register: bool,
    /// How long a registration holds that is not refreshed. It is, when half of that is over. Default: one hour.
    pub expires: Duration,
    /// Where the hyperty is described: `descriptor` of the registration.
    pub descriptor_url: Option<Url>,
    /// Whose it is: `user` of the registration.
    pub user: Option<Address>,
    /// What it can be used for (`chat`, `voice`): `resources` of the registration.
    pub resources: Vec<String>,
    /// The schemes of the data objects that it understands (`comm`, `connection`): `dataSchemes` of the registration.
    pub data_schemes: Vec<String>,
}

impl Default for HypertyDescriptor {
    fn default() -> Self {
        Self {
            domain: None,
            register: true,
            expires: Duration::from_secs(3600),
            descriptor_url: None,
            user: None,
            resources: Vec::new(),
            data_schemes: Vec::new(),
        }
    }
}

/// What has become of a registration at a domain's Registry.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Registration {
    /// It was not answered yet; or the domain's stub is gone, and whoever deploys it next brings it back.
    Pending,
    /// The Registry has it.
    Registered,
    /// The Registry refused it, or could not be reached. It is tried again.
    Failed {
        /// In the Registry's words, or the host's.
        reason: SafeText,
    },
    /// It is over.
    Removed,
}

/// Something that is to be registered: where, and what the Registry is told.
#[derive(Debug)]
pub(crate) struct Entry {
    key: StubKey,
    registry: Address,
    url: Address,
    /// Who triggers a deployment with it.
    origin: Origin,
    expires: Duration,
    value: Map<String, Value>,
}

impl Entry {
    pub(crate) fn of_hyperty(core: &Core, url: &Address, descriptor: &HypertyDescriptor) -> Result<Self, AddressError> {
        let domain = descriptor.domain.clone().or_else(|| url.domain()).ok_or_else(|| AddressError::without_domain(url))?;
        let key = StubKey::of(&registry_of(&domain)?, &core.home).unwrap_or(StubKey::Domain(domain));
        let mut entry = Self::new(core, key, url, Origin::Hyperty(url.clone()), descriptor.expires)?;
        let mut add = |name: &str, value: Option<Value>| value.map(|value| entry.value.insert(name.to_owned(), value));
        add("descriptor", descriptor.descriptor_url.as_ref().map(|url| Value::from(url.as_str())));
        add("user", descriptor.user.as_ref().map(|user| Value::from(user.as_str())));
        add("resources", Some(Value::from(descriptor.resources.clone())));
        add("dataSchemes", Some(Value::from(descriptor.data_schemes.clone())));
        Ok(entry)
    }

    pub(crate) fn of_stub(core: &Core, record: &Record, url: &Address) -> Result<Self, AddressError> {
        let expires = HypertyDescriptor::default().expires;
        let mut entry = Self::new(core, record.key.clone(), url, Origin::Host, expires)?;
        if let Some(published) = record.published() {
            entry.value.insert("descriptor".to_owned(), Value::from(published.descriptor_url.as_str()));
        }
        Ok(entry)
    }

    fn new(core: &Core, key: StubKey, url: &Address, origin: Origin, expires: Duration) -> Result<Self, AddressError> {
        let registry = registry_of(key.domain())?;
        let value = json!({
            "url": url.as_str(), "status": "live", "expires": expires.as_secs().max(1), "runtime": core.runtime_url.as_str(),
        });
        let value = match value {
            Value::Object(value) => value,
            _ => Map::new(),
        };
        Ok(Self { key, registry, url: url.clone(), origin, expires, value })
    }

    /// Has the domain's stub deployed, if it is not there: the trigger of a hyperty whose domain has no stub.
    pub(crate) fn deploy(&self, core: &Arc<Core>) -> Result<Arc<Record>, DeployError> {
        load_stub(core, &self.key, &self.origin, false)
    }

    async fn create(&self, core: &Core) -> Result<(), SafeText> {
        self.tell(core, Message::create(self.registry.clone()).with_body(json!({ "value": self.value })), PATIENCE).await
    }

    async fn delete(&self, core: &Core) -> Result<(), SafeText> {
        let body = json!({ "resource": self.url.as_str(), "value": { "url": self.url.as_str() } });
        self.tell(core, Message::new(MessageType::Delete, self.registry.clone()).with_body(body), FAREWELL).await
    }

    async fn tell(&self, core: &Core, mut message: Message, within: Duration) -> Result<(), SafeText> {
        message.from = self.url.clone();
        let reply = core.bus.request(&Origin::Host, message, Some(within)).await.map_err(|error| in_full(&error))?;
        match reply.code() {
            Some(200..300) => Ok(()),
            code => {
                let body = reply.body.as_ref().and_then(|body| body.parse::<Value>().ok()).unwrap_or_default();
                let reason = ["desc", "description"].iter().find_map(|name| body[*name].as_str());
                let (code, reason) = (code.unwrap_or_default(), reason.unwrap_or("no reason given"));
                Err(SafeText::display(format_args!("{} answers with code {code}: {reason}", self.registry)))
            }
        }
    }
}

fn registry_of(domain: &Domain) -> Result<Address, AddressError> {
    Address::parse(&format!("domain://registry.{domain}"))
}

/// A registration that is kept up until this is dropped.
#[derive(Debug)]
pub(crate) struct Kept {
    status: watch::Receiver<Registration>,
    over: CancellationToken,
}

impl Kept {
    /// Registers, and goes on registering for as long as it takes.
    pub(crate) fn keep(core: &Arc<Core>, entry: Entry) -> Self {
        let (status, seen) = watch::channel(Registration::Pending);
        let over = CancellationToken::new();
        let keeper = Keeper { core: Arc::clone(core), entry, status, over: over.clone() };
        core.spawn(keeper.run());
        Self { status: seen, over }
    }

    pub(crate) fn status(&self) -> Registration {
        self.status.borrow().clone()
    }

    /// It is no longer wanted.
    pub(crate) fn end(&self) {
        self.over.cancel();
    }

    /// What came of it, once there was an answer.
    pub(crate) async fn settled(&self) -> Registration {
        let mut status = self.status.clone();
        match status.wait_for(|status| *status != Registration::Pending).await {
            Ok(status) => status.clone(),
            Err(_) => Registration::Removed,
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.end();
    }
}

struct Keeper {
    core: Arc<Core>,
    entry: Entry,
    status: watch::Sender<Registration>,
    over: CancellationToken,
}

/// Why a registration is not kept up any longer with a stub.
enum Leave {
    /// It is no longer wanted.
    Over,
    /// The stub is about to go, or has gone.
    StubGoes,
}

impl Keeper {
    async fn run(self) {
        while let Some(record) = self.stub().await {
            // The stub's end waits for what is dropped with this.
            let leaving = record.registrations.token();
            let mut may_be_registered = false;
            let leave = self.keep_with(&record, &mut may_be_registered).await;
            if may_be_registered
                && record.status.current().status == StubStatus::Live
                && let Err(reason) = self.entry.delete(&self.core).await
            {
                tracing::debug!(target: "protostub", url = %self.entry.url, reason = reason.as_str(), "a registration could not be removed");
            }
            drop(leaving);
            if matches!(leave, Leave::Over) {
                break;
            }
            self.status.send_replace(Registration::Pending);
            record.until_over().await;
        }
        self.status.send_replace(Registration::Removed);
    }

    /// The domain's stub, once it is deployed, by whomever; none if it is all over.
    async fn stub(&self) -> Option<Arc<Record>> {
        let mut deployments = self.core.registry.deployments();
        loop {
            if let Some(record) = self.core.registry.record(&self.entry.key) {
                return Some(record);
            }
            tokio::select! {
                biased;
                () = self.core.stop.cancelled() => return None,
                () = self.over.cancelled() => return None,
                changed = deployments.changed() => changed.ok()?,
            }
        }
    }

    /// Registers again and again. It may be registered from the request on, also if its answer is not waited for.
    async fn keep_with(&self, record: &Record, may_be_registered: &mut bool) -> Leave {
        let mut pauses = pauses();
        loop {
            let create = async {
                *may_be_registered = true;
                self.entry.create(&self.core).await
            };
            let created = tokio::select! {
                biased;
                () = self.over.cancelled() => return Leave::Over,
                () = record.leaving.cancelled() => return Leave::StubGoes,
                _ = record.until_over() => return Leave::StubGoes,
                created = create => created,
            };
            let pause = match created {
                Ok(()) => {
                    self.status.send_replace(Registration::Registered);
                    pauses = self::pauses();
                    self.entry.expires / 2
                }
                Err(reason) => {
                    *may_be_registered = false;
                    tracing::warn!(target: "protostub", url = %self.entry.url, reason = reason.as_str(), "a registration failed, and is tried again");
                    self.status.send_replace(Registration::Failed { reason });
                    pauses.next_pause()
                }
            };
            tokio::select! {
                biased;
                () = self.over.cancelled() => return Leave::Over,
                () = record.leaving.cancelled() => return Leave::StubGoes,
                _ = record.until_over() => return Leave::StubGoes,
                () = liveness_changed(record) => {}
                () = sleep(pause) => {}
            }
        }
    }
}

/// Waits until a stub that is live is not, or the other way round.
async fn liveness_changed(record: &Record) {
    let mut status = record.status.watch();
    let was_live = status.current().status == StubStatus::Live;
    status.until(|report| (report.status == StubStatus::Live) != was_live).await;
}

fn pauses() -> Backoff {
    Backoff::new(FIRST_PAUSE, LONGEST_PAUSE)
}
