//! A host program that offers its stubs an interface of its own, `acme:store/kv`: a store in which
//! each domain has its own keys. Three domains have the same stub. Two of them are granted the
//! interface.
//!
//! ```text
//! (cd tests/programs && cargo build --release)
//! cargo run --example key_value -- target/stubs/wasm32-wasip2/release/key_value.wasm
//! ```
#![expect(clippy::print_stdout, reason = "a program for people at a terminal")]

use std::{
    collections::HashMap,
    env,
    error::Error,
    fs,
    sync::{Arc, Mutex, PoisonError},
};

use protostub_runtime::{
    Descriptor, Domain, DomainSettings, Hyperty, MemorySource, Message, Runtime, Version,
    imports::{
        HostImport, StubInfo, StubState,
        wasmtime::{
            self,
            component::{HasSelf, Linker},
        },
    },
};
use serde_json::{Value, json};

mod bindings {
    use protostub_runtime::imports::wasmtime;

    wasmtime::component::bindgen!({
        path: "../../tests/programs/key-value/wit",
        wasmtime_crate: protostub_runtime::imports::wasmtime,
    });
}
use bindings::acme::store::kv;

/// Maximum number of keys of a domain.
const MAX_KEYS: usize = 100;
/// Maximum size of a key and its value together, in bytes.
const MAX_BYTES: usize = 4096;

/// The store of all domains. The implementer of an interface has to limit its use by stubs.
#[derive(Default)]
struct Store {
    domains: Mutex<HashMap<Domain, Shelf>>,
}

/// One domain's keys. They outlive the instances of its stub.
type Shelf = Arc<Mutex<HashMap<String, String>>>;

/// The access of one instance of a stub.
struct Access(Shelf);

impl HostImport for Store {
    const INTERFACE: &'static str = "acme:store/kv@1.0.0";
    type Data = Access;

    fn data(&self, stub: &StubInfo) -> Access {
        let mut domains = self.domains.lock().unwrap_or_else(PoisonError::into_inner);
        Access(Arc::clone(domains.entry(stub.domain.clone()).or_default()))
    }

    fn add_to_linker(&self, linker: &mut Linker<StubState>, data: fn(&mut StubState) -> &mut Access) -> wasmtime::Result<()> {
        kv::add_to_linker::<_, HasSelf<Access>>(linker, data)
    }
}

impl kv::Host for Access {
    fn get(&mut self, key: String) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned()
    }

    fn set(&mut self, key: String, value: String) -> Result<(), String> {
        let mut shelf = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if key.len() + value.len() > MAX_BYTES {
            return Err(format!("the key and its value have more than {MAX_BYTES} bytes"));
        }
        if shelf.len() >= MAX_KEYS && !shelf.contains_key(&key) {
            return Err(format!("the store already has {MAX_KEYS} keys, the limit"));
        }
        shelf.insert(key, value);
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let component = fs::read(env::args().nth(1).ok_or("usage: key_value <component>")?)?;
    let mut descriptor = Descriptor::new("default", Version::parse("1.0")?);
    descriptor.refer("component.wasm", &component);
    let source = MemorySource::new();
    for domain in ["sp1.example", "sp2.example", "sp3.example"] {
        source.insert(&Domain::parse(domain)?, "default", descriptor.to_json(), component.clone());
    }

    let mut granted = DomainSettings::default();
    granted.imports.insert(Store::INTERFACE.to_owned());
    let runtime = Runtime::builder()
        .home_domain("home.example")
        .source(source)
        .host_import(Store::default())
        .domain(Domain::parse("sp1.example")?, granted.clone())
        .domain(Domain::parse("sp2.example")?, granted)
        .build()
        .await?;
    let app = runtime.register_hyperty("hyperty://home.example/app").await?;

    keep(&app, "sp1.example", "colour", "blue").await?;
    keep(&app, "sp2.example", "colour", "green").await?;
    println!("sp1.example has {}", kept(&app, "sp1.example", "colour").await?);
    println!("sp2.example has {}", kept(&app, "sp2.example", "colour").await?);

    runtime.deploy_protostub("sp1.example").await?.undeploy().await?;
    println!("sp1.example, deployed again, has {}", kept(&app, "sp1.example", "colour").await?);

    if let Err(error) = runtime.deploy_protostub("sp3.example").await {
        let cause = error.source().map(ToString::to_string).unwrap_or_default();
        println!("sp3.example: {error}: {cause}");
    }
    Ok(())
}

async fn keep(app: &Hyperty, domain: &str, key: &str, value: &str) -> Result<(), Box<dyn Error>> {
    let message = Message::create(format!("hyperty://{domain}/store").parse()?);
    app.request(message.with_body(json!({ "key": key, "value": value }))).await?;
    Ok(())
}

async fn kept(app: &Hyperty, domain: &str, key: &str) -> Result<Value, Box<dyn Error>> {
    let response = app.request(Message::read(format!("hyperty://{domain}/store").parse()?).with_body(json!(key))).await?;
    let body: Value = response.body.ok_or("no answer")?.parse()?;
    Ok(body["value"].clone())
}
