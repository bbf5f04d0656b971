//! The catalogue of all domains, and a runtime with the requests that many cases make.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use protostub_runtime::{
    Address, Descriptor, Document, Domain, Fault, MemorySource, Message, MessageType, Source, SourceRequest, Subject, Version,
};
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use super::{LoadGoal, LoadedStub, Refusal, RuntimeSubject, RuntimeSuiteContext};
use crate::{
    Verdict,
    case::{CaseResult, expect},
};

pub(super) const DOMAIN: &str = "foo.com";
pub(super) const ALICE: &str = "hyperty://foo.com/alice";
/// Time limit for an expected event.
const SOON: Duration = Duration::from_secs(20);

/// State of the catalogues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Availability {
    /// The catalogues answer.
    Available,
    /// The catalogues refuse every request.
    OutOfOrder,
}

/// The domains' catalogues. They count requests, and may be out of order.
#[derive(Clone, Default)]
pub struct Catalogue(Arc<CatalogueState>);

#[derive(Default)]
struct CatalogueState {
    stubs: MemorySource,
    descriptors: AtomicUsize,
    components: AtomicUsize,
    out_of_order: AtomicBool,
}

impl Catalogue {
    pub(super) fn publish(&self, domain: &str, component: &[u8], configuration: &Value) -> CaseResult<()> {
        self.publish_as(domain, "default", "1.0", component, configuration)
    }

    fn publish_as(&self, domain: &str, name: &str, version: &str, component: &[u8], configuration: &Value) -> CaseResult<()> {
        let mut descriptor = Descriptor::new(name, Version::parse(version).map_err(setup_failed)?);
        descriptor.refer("component.wasm", component);
        descriptor.configuration = configuration.as_object().cloned().unwrap_or_else(Map::new);
        let domain = Domain::parse(domain).map_err(setup_failed)?;
        self.0.stubs.insert(&domain, name, descriptor.to_json(), component.to_vec());
        Ok(())
    }

    /// Publishes any text as the descriptor.
    pub(super) fn insert(&self, domain: &str, descriptor: String, component: &[u8]) -> CaseResult<()> {
        let domain = Domain::parse(domain).map_err(setup_failed)?;
        self.0.stubs.insert(&domain, "default", descriptor, component.to_vec());
        Ok(())
    }

    /// Returns the numbers of requests for descriptors and for components.
    pub(super) fn asked(&self) -> (usize, usize) {
        (self.0.descriptors.load(Ordering::SeqCst), self.0.components.load(Ordering::SeqCst))
    }

    pub(super) fn set_availability(&self, availability: Availability) {
        self.0.out_of_order.store(availability == Availability::OutOfOrder, Ordering::SeqCst);
    }
}

impl fmt::Debug for Catalogue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Catalogue").finish_non_exhaustive()
    }
}

#[async_trait]
impl Source for Catalogue {
    async fn open(&self, request: &SourceRequest<'_>) -> Result<Document, Fault> {
        let count = if request.subject == Subject::Descriptor { &self.0.descriptors } else { &self.0.components };
        count.fetch_add(1, Ordering::SeqCst);
        if self.0.out_of_order.load(Ordering::SeqCst) {
            return Err(Fault::Refused { reason: "the catalogue is out of order".into() });
        }
        self.0.stubs.open(request).await
    }
}

fn setup_failed(error: impl fmt::Display) -> Verdict {
    Verdict::not_applicable(format!("the case could not be prepared: {error}"))
}

/// Reads the address of a message of a case.
pub(super) fn address(text: &str) -> CaseResult<Address> {
    Address::parse(text).map_err(setup_failed)
}

/// A runtime and the catalogues.
pub(super) struct RuntimeFixture {
    pub(super) subject: Box<dyn RuntimeSubject>,
    pub(super) catalogue: Catalogue,
    actor: Arc<[u8]>,
}

impl RuntimeFixture {
    /// Starts a runtime. The actor is the stub of `domains`, with this configuration.
    pub(super) async fn new(context: &RuntimeSuiteContext, domains: &[&str], configuration: Value) -> CaseResult<Self> {
        let catalogue = Catalogue::default();
        for domain in domains {
            catalogue.publish(domain, &context.actor, &configuration)?;
        }
        let subject = context.runtimes.start(catalogue.clone()).await;
        let subject = subject.map_err(|error| Verdict::fail("a runtime that starts", error))?;
        Ok(Self { subject, catalogue, actor: Arc::clone(&context.actor) })
    }

    pub(super) fn publish(&self, domain: &str, configuration: &Value) -> CaseResult<()> {
        self.catalogue.publish(domain, &self.actor, configuration)
    }

    /// Publishes the actor under another name or as another version.
    pub(super) fn publish_as(&self, domain: &str, name: &str, version: &str, configuration: &Value) -> CaseResult<()> {
        self.catalogue.publish_as(domain, name, version, &self.actor, configuration)
    }

    /// Updates the stub of the domain, and returns the version that runs then.
    pub(super) async fn updated(&self, domain: &str) -> CaseResult<Result<String, Refusal>> {
        with_time_limit("an update, or an error", self.subject.update(domain)).await
    }

    pub(super) async fn load(&self, target: &str, goal: LoadGoal) -> CaseResult<LoadedStub> {
        let loaded = with_time_limit("a stub", self.subject.load_stub(target, goal)).await?;
        loaded.map_err(|error| Verdict::fail(format!("the stub of {target}"), error.to_string()))
    }

    pub(super) fn post(&self, to: &str, n: u64) -> CaseResult<()> {
        let ping = Message::new(MessageType::Other("ping".into()), address(to)?).with_body(json!({ "n": n }));
        self.subject.post(ping).map_err(|error| Verdict::fail("a message that is accepted", error.to_string()))
    }

    pub(super) async fn ask(&self, message: Message) -> CaseResult<Result<Message, Refusal>> {
        with_time_limit("an answer", self.subject.request(message)).await
    }

    /// Sends an order to the stub of a domain, and returns the result from its answer.
    pub(super) async fn order(&self, to: &str, order: Value) -> CaseResult<Value> {
        let expected = format!("code 200 for {order}");
        let answer = self.ask(Message::read(address(to)?).with_body(order)).await?;
        let answer = answer.map_err(|error| Verdict::fail(&expected, error.to_string()))?;
        let body: Value = answer.body.as_ref().and_then(|body| body.parse().ok()).unwrap_or_default();
        expect(answer.code() == Some(200), &expected, || body.to_string())?;
        Ok(body["value"].clone())
    }

    /// Fails unless the stub received the messages with these numbers, in this order.
    pub(super) async fn received(&self, expected: &[u64]) -> CaseResult<()> {
        let calls = self.order(ALICE, json!({ "do": "calls" })).await?;
        let events = calls.as_array().into_iter().flatten().filter_map(Value::as_array).flatten();
        let numbers: Vec<u64> = events.filter_map(Value::as_u64).collect();
        expect(numbers == expected, &format!("the messages {expected:?}"), || format!("{numbers:?}"))
    }

    /// Fails unless the Registry has these numbers of stubs and sandboxes.
    pub(super) async fn registered(&self, stubs: usize, sandboxes: usize) -> CaseResult<()> {
        let listing = self.order(&format!("{}/registry", self.subject.url()), Value::Null).await?;
        let count = |what: &str| listing[what].as_array().map_or(0, Vec::len);
        let expected = format!("{stubs} stubs and {sandboxes} sandboxes");
        expect((count("stubs"), count("sandboxes")) == (stubs, sandboxes), &expected, || listing.to_string())
    }

    /// Fails unless exactly one deployment happened: one descriptor, one stub and one sandbox.
    pub(super) async fn deployed_once(&self) -> CaseResult<()> {
        let (descriptors, _) = self.catalogue.asked();
        expect(descriptors == 1, "one descriptor fetched", || descriptors.to_string())?;
        self.registered(1, 1).await
    }

    /// Fails unless a request is refused at once, with this code.
    pub(super) async fn refused(&self, to: &str, code: u16, reason: &str) -> CaseResult<()> {
        let expected = format!("code {code} at once: {reason}");
        let answer = timeout(Duration::from_secs(5), self.subject.request(Message::read(address(to)?))).await;
        let answer = answer.map_err(|_| Verdict::fail(&expected, "no answer in 5 s"))?;
        match answer {
            Err(error) => expect(error.code == code && error.reason.contains(reason), &expected, || error.to_string()),
            Ok(answer) => Err(Verdict::fail(expected, answer.to_json().unwrap_or_default())),
        }
    }

    /// Waits for the next message of the listener.
    pub(super) async fn next(&self, expected: &str) -> CaseResult<Message> {
        with_time_limit(expected, self.subject.next()).await?.ok_or_else(|| Verdict::fail(expected, "the end"))
    }
}

pub(super) async fn with_time_limit<T>(expected: &str, happens: impl Future<Output = T>) -> CaseResult<T> {
    timeout(SOON, happens).await.map_err(|_| Verdict::fail(expected, format!("no event in {} s", SOON.as_secs())))
}
