//! Interfaces of the host program's own.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex},
};

use protostub_artifacts::component;
use protostub_sandbox::{
    CompileError, CompiledStub, Engine, EngineConfig, EngineError, HostImport, Import, StubInfo, StubState,
    wasmtime::{self, StoreContextMut, component::Linker},
};
use protostub_types::{Message, Sha256Digest};
use serde_json::{Value, json};

use crate::support::{Fixture, RunningActor, domain};

/// A store whose instances write to their own domain's keys, in a map that the test sees.
#[derive(Default, Clone)]
struct Store(Arc<Mutex<HashMap<(String, String), String>>>);

struct Access {
    store: Store,
    domain: String,
}

impl HostImport for Store {
    const INTERFACE: &'static str = "acme:store/kv@1.0.0";
    type Data = Access;

    fn data(&self, stub: &StubInfo) -> Access {
        Access { store: self.clone(), domain: stub.domain.to_string() }
    }

    fn add_to_linker(&self, linker: &mut Linker<StubState>, data: fn(&mut StubState) -> &mut Access) -> wasmtime::Result<()> {
        let mut interface = linker.instance(Self::INTERFACE)?;
        interface.func_wrap("get", move |mut store: StoreContextMut<'_, StubState>, (key,): (String,)| {
            let Access { store, domain } = data(store.data_mut());
            Ok((store.0.lock().unwrap().get(&(domain.clone(), key)).cloned(),))
        })?;
        interface.func_wrap("set", move |mut store: StoreContextMut<'_, StubState>, (key, value): (String, String)| {
            if key == "trap" {
                wasmtime::bail!("the store is on fire");
            }
            let Access { store, domain } = data(store.data_mut());
            store.0.lock().unwrap().insert((domain.clone(), key), value);
            Ok((Ok::<(), String>(()),))
        })
    }
}

fn engine(imports: Vec<Import>) -> Result<Engine, EngineError> {
    let mut config = EngineConfig::default();
    config.max_sandboxes = 10;
    config.imports = imports;
    Engine::new(&config)
}

async fn compile(engine: &Engine, granted: &[&str]) -> Result<CompiledStub, CompileError> {
    let bytes = component("key-value");
    let digest = Sha256Digest::of(&bytes);
    let granted: BTreeSet<String> = granted.iter().map(|name| (*name).to_owned()).collect();
    engine.compile_with_imports(bytes, digest, &granted).await
}

async fn live(name: &str, program: &CompiledStub) -> RunningActor {
    let mut fixture = Fixture::new(json!({}));
    fixture.domain = domain(name);
    fixture.url = crate::support::address(&format!("hyperty-runtime://{name}/protostub/1"));
    fixture.program = Some(program.clone());
    fixture.live().await
}

async fn answer(actor: &RunningActor, message: Message) -> Value {
    let answer = actor.bus.request(&protostub_bus::Origin::Host, message, None).await.expect("an answer");
    answer.body.expect("a body").parse().expect("JSON")
}

async fn set(actor: &RunningActor, key: &str, value: &str) -> Value {
    let message = Message::create(format!("hyperty://{}/store", actor.domain).parse().unwrap());
    answer(actor, message.with_body(json!({ "key": key, "value": value }))).await
}

async fn get(actor: &RunningActor, key: &str) -> Value {
    answer(actor, Message::read(format!("hyperty://{}/store", actor.domain).parse().unwrap()).with_body(json!(key))).await["value"].take()
}

#[tokio::test]
async fn granted_interface_knows_the_calling_stub() {
    let store = Store::default();
    let engine = engine(vec![Import::new(store.clone())]).unwrap();
    let program = compile(&engine, &[Store::INTERFACE]).await.unwrap();
    assert!(program.imports().contains(&Store::INTERFACE.into()), "{:?}", program.imports());
    let (one, two) = (live("sp1.example", &program).await, live("sp2.example", &program).await);
    set(&one, "colour", "blue").await;
    set(&two, "colour", "green").await;
    assert_eq!((get(&one, "colour").await, get(&two, "colour").await), (json!("blue"), json!("green")));
    assert_eq!(store.0.lock().unwrap().len(), 2);
    assert_eq!(get(&one, "shape").await, json!(null));
}

#[tokio::test]
async fn interface_is_refused_to_a_domain_without_a_grant() {
    let engine = engine(vec![Import::new(Store::default())]).unwrap();
    let granted = compile(&engine, &[Store::INTERFACE]).await.unwrap();
    let error = compile(&engine, &[]).await.expect_err("it is not granted");
    let CompileError::WrongWorld(mismatch) = &error else { panic!("{error}") };
    assert_eq!(mismatch.not_granted, [Store::INTERFACE]);
    assert!(mismatch.unknown_imports.is_empty());
    assert!(error.to_string().ends_with("imports that are not granted to its domain: acme:store/kv@1.0.0"), "{error}");
    // A refusal for one domain does not affect others, and the code is there once.
    let again = compile(&engine, &[Store::INTERFACE]).await.unwrap();
    assert_eq!(again.digest(), granted.digest());
    set(&live("sp1.example", &again).await, "colour", "blue").await;
}

#[tokio::test]
async fn interface_without_an_offer_is_an_unknown_import() {
    let error = compile(&engine(Vec::new()).unwrap(), &[Store::INTERFACE]).await.expect_err("no engine offers it");
    assert!(error.to_string().ends_with("imports that no stub may have: acme:store/kv@1.0.0"), "{error}");
}

#[tokio::test]
async fn failing_host_function_ends_the_stub() {
    let engine = engine(vec![Import::new(Store::default())]).unwrap();
    let actor = live("sp1.example", &compile(&engine, &[Store::INTERFACE]).await.unwrap()).await;
    let message =
        Message::create("hyperty://sp1.example/store".parse().unwrap()).with_body(json!({ "key": "trap", "value": "" }));
    let failed = actor.bus.request(&protostub_bus::Origin::Host, message, None).await;
    assert_eq!(failed.map_or_else(|error| error.code, |response| response.code().unwrap_or_default()), 502);
    assert_eq!(actor.outcome().await.to_string(), "the stub crashed: the store is on fire");
}

/// The same interface, by another type, with other functions.
struct Other;

impl HostImport for Other {
    const INTERFACE: &'static str = Store::INTERFACE;
    type Data = ();

    fn data(&self, _: &StubInfo) {}

    fn add_to_linker(&self, linker: &mut Linker<StubState>, _: fn(&mut StubState) -> &mut ()) -> wasmtime::Result<()> {
        let mut interface = linker.instance(Self::INTERFACE)?;
        interface.func_wrap("get", |_: StoreContextMut<'_, StubState>, (_key,): (u32,)| Ok((0_u32,)))
    }
}

#[tokio::test]
async fn missing_and_mistyped_functions_are_named() {
    let error =
        compile(&engine(vec![Import::new(Other)]).unwrap(), &[Other::INTERFACE]).await.expect_err("it is another interface");
    let CompileError::WrongWorld(mismatch) = &error else { panic!("{error}") };
    assert_eq!(mismatch.unknown_imports, ["acme:store/kv@1.0.0#set"]);
    assert!(mismatch.mismatches[0].starts_with("`acme:store/kv@1.0.0#get`: "), "{error}");
}

/// Tries to replace a function of the contract.
struct Thief;

impl HostImport for Thief {
    const INTERFACE: &'static str = "rethink:protostub/bus@0.1.0";
    type Data = ();

    fn data(&self, _: &StubInfo) {}

    fn add_to_linker(&self, linker: &mut Linker<StubState>, _: fn(&mut StubState) -> &mut ()) -> wasmtime::Result<()> {
        linker.instance(Self::INTERFACE)?.func_wrap("pause", |_: StoreContextMut<'_, StubState>, (): ()| Ok(()))
    }
}

#[tokio::test]
async fn interface_offered_twice_is_refused() {
    let check = |imports: Vec<Import>, interface: &str, expected: &str| {
        let error = engine(imports).expect_err("it is there already");
        let cause = std::error::Error::source(&error).expect("a cause").to_string();
        assert_eq!(error.to_string(), format!("the interface `{interface}` of the host program cannot be offered to stubs"));
        assert!(cause.contains(expected), "{cause}");
    };
    check(vec![Import::new(Store::default()), Import::new(Other)], Store::INTERFACE, "was added before");
    check(vec![Import::new(Thief)], Thief::INTERFACE, "pause");
}
