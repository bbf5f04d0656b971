//! The catalogue of all domains, and a runtime with what is asked of it again and again.

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
    Address, Descriptor, Document, Domain, Fault, MemorySource, Message, MessageType, Source, SourceRequest, Subject as Asked,
    Version,
};
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use super::{Bench, Loaded, Refusal, Subject};
use crate::{
    Verdict,
    case::{Course, expect},
};

pub(super) const DOMAIN: &str = "foo.com";
pub(super) const ALICE: &str = "hyperty://foo.com/alice";
/// How long what should happen may take.
const SOON: Duration = Duration::from_secs(20);

/// The domains' catalogues: they count what they are asked, and may be out of order.
#[derive(Clone, Default)]
pub struct Catalogue(Arc<Books>);

#[derive(Default)]
struct Books {
    stubs: MemorySource,
    descriptors: AtomicUsize,
    components: AtomicUsize,
    out_of_order: AtomicBool,
}

impl Catalogue {
    pub(super) fn publish(&self, domain: &str, component: &[u8], configuration: &Value) -> Course<()> {
        self.publish_as(domain, "default", "1.0", component, configuration)
    }

    fn publish_as(&self, domain: &str, name: &str, version: &str, component: &[u8], configuration: &Value) -> Course<()> {
        let mut descriptor = Descriptor::new(name, Version::parse(version).map_err(unprepared)?);
        descriptor.refer("component.wasm", component);
        descriptor.configuration = configuration.as_object().cloned().unwrap_or_else(Map::new);
        let domain = Domain::parse(domain).map_err(unprepared)?;
        self.0.stubs.insert(&domain, name, descriptor.to_json(), component.to_vec());
        Ok(())
    }

    /// Publishes whatever this is as the descriptor.
    pub(super) fn insert(&self, domain: &str, descriptor: String, component: &[u8]) -> Course<()> {
        let domain = Domain::parse(domain).map_err(unprepared)?;
        self.0.stubs.insert(&domain, "default", descriptor, component.to_vec());
        Ok(())
    }

    /// How many descriptors, and how many components, were asked for.
    pub(super) fn asked(&self) -> (usize, usize) {
        (self.0.descriptors.load(Ordering::SeqCst), self.0.components.load(Ordering::SeqCst))
    }

    pub(super) fn out_of_order(&self, is: bool) {
        self.0.out_of_order.store(is, Ordering::SeqCst);
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
        let count = if request.subject == Asked::Descriptor { &self.0.descriptors } else { &self.0.components };
        count.fetch_add(1, Ordering::SeqCst);
        if self.0.out_of_order.load(Ordering::SeqCst) {
            return Err(Fault::Refused { reason: "the catalogue is out of order".into() });
        }
        self.0.stubs.open(request).await
    }
}

fn unprepared(error: impl fmt::Display) -> Verdict {
    Verdict::not_applicable(format!("the case could not be prepared: {error}"))
}

/// Reads the address of a message of a case.
pub(super) fn address(text: &str) -> Course<Address> {
    Address::parse(text).map_err(unprepared)
}

/// A runtime, and the catalogues.
pub(super) struct Stage {
    pub(super) subject: Box<dyn Subject>,
    pub(super) catalogue: Catalogue,
    actor: Arc<[u8]>,
}

impl Stage {
    /// The actor is the stub of these domains, with this configuration.
    pub(super) async fn new(bench: &Bench, domains: &[&str], configuration: Value) -> Course<Self> {
        let catalogue = Catalogue::default();
        for domain in domains {
            catalogue.publish(domain, &bench.actor, &configuration)?;
        }
        let subject = bench.runtimes.start(catalogue.clone()).await;
        let subject = subject.map_err(|error| Verdict::fail("a runtime that starts", error))?;
        Ok(Self { subject, catalogue, actor: Arc::clone(&bench.actor) })
    }

    pub(super) fn publish(&self, domain: &str, configuration: &Value) -> Course<()> {
        self.catalogue.publish(domain, &self.actor, configuration)
    }

    /// The same, under another name or as another version.
    pub(super) fn publish_as(&self, domain: &str, name: &str, version: &str, configuration: &Value) -> Course<()> {
        self.catalogue.publish_as(domain, name, version, &self.actor, configuration)
    }

    /// The version that runs when the stub of the domain was brought up to date.
    pub(super) async fn updated(&self, domain: &str) -> Course<Result<String, Refusal>> {
        soon("an update, or an error", self.subject.update(domain)).await
    }

    pub(super) async fn load(&self, target: &str, live: bool) -> Course<Loaded> {
        let loaded = soon("a stub", self.subject.load_stub(target, live)).await?;
        loaded.map_err(|error| Verdict::fail(format!("the stub of {target}"), error.to_string()))
    }

    pub(super) fn post(&self, to: &str, n: u64) -> Course<()> {
        let ping = Message::new(MessageType::Other("ping".into()), address(to)?).with_body(json!({ "n": n }));
        self.subject.post(ping).map_err(|error| Verdict::fail("a message that is accepted", error.to_string()))
    }

    pub(super) async fn ask(&self, message: Message) -> Course<Result<Message, Refusal>> {
        soon("an answer", self.subject.request(message)).await
    }

    /// The stub of a domain follows this order, and answers with what came of it.
    pub(super) async fn order(&self, to: &str, order: Value) -> Course<Value> {
        let expected = format!("code 200 for {order}");
        let answer = self.ask(Message::read(address(to)?).with_body(order)).await?;
        let answer = answer.map_err(|error| Verdict::fail(&expected, error.to_string()))?;
        let body: Value = answer.body.as_ref().and_then(|body| body.parse().ok()).unwrap_or_default();
        expect(answer.code() == Some(200), &expected, || body.to_string())?;
        Ok(body["value"].clone())
    }

    /// The numbers of the messages that the stub was given, in its order.
    pub(super) async fn received(&self, expected: &[u64]) -> Course<()> {
        let calls = self.order(ALICE, json!({ "do": "calls" })).await?;
        let events = calls.as_array().into_iter().flatten().filter_map(Value::as_array).flatten();
        let numbers: Vec<u64> = events.filter_map(Value::as_u64).collect();
        expect(numbers == expected, &format!("the messages {expected:?}"), || format!("{numbers:?}"))
    }

    /// What the Registry knows: stubs and sandboxes.
    pub(super) async fn registered(&self, stubs: usize, sandboxes: usize) -> Course<()> {
        let listing = self.order(&format!("{}/registry", self.subject.url()), Value::Null).await?;
        let count = |what: &str| listing[what].as_array().map_or(0, Vec::len);
        let expected = format!("{stubs} stubs and {sandboxes} sandboxes");
        expect((count("stubs"), count("sandboxes")) == (stubs, sandboxes), &expected, || listing.to_string())
    }

    /// One deployment, with all that belongs to it, has happened.
    pub(super) async fn deployed_once(&self) -> Course<()> {
        let (descriptors, _) = self.catalogue.asked();
        expect(descriptors == 1, "one descriptor fetched", || descriptors.to_string())?;
        self.registered(1, 1).await
    }

    /// It is refused, at once, with this code.
    pub(super) async fn refused(&self, to: &str, code: u16, reason: &str) -> Course<()> {
        let expected = format!("code {code} at once: {reason}");
        let answer = timeout(Duration::from_secs(5), self.subject.request(Message::read(address(to)?))).await;
        let answer = answer.map_err(|_| Verdict::fail(&expected, "nothing in 5 s"))?;
        match answer {
            Err(error) => expect(error.code == code && error.reason.contains(reason), &expected, || error.to_string()),
            Ok(answer) => Err(Verdict::fail(expected, answer.to_json().unwrap_or_default())),
        }
    }

    /// The next message of the listener.
    pub(super) async fn next(&self, expected: &str) -> Course<Message> {
        soon(expected, self.subject.next()).await?.ok_or_else(|| Verdict::fail(expected, "the end"))
    }
}

pub(super) async fn soon<T>(expected: &str, happens: impl Future<Output = T>) -> Course<T> {
    timeout(SOON, happens).await.map_err(|_| Verdict::fail(expected, format!("nothing in {} s", SOON.as_secs())))
}
