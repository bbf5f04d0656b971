//! The limit: a bare typed call of wasmtime to the same component, on the product's own
//! `wasmtime::Engine`, without a runtime around it. The imports exist and do as little as possible:
//! they drop a posted message.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use wasmtime::{
    Engine, Store,
    component::{Component, HasSelf, Linker, ResourceTable},
};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use self::contract::{
    Protostub, ProtostubPre,
    rethink::protostub::{
        bus, configuration, http, identity, log, presence, session, tcp, timers,
        types::{self, Error, Event, MessageId, MessageType},
        websocket,
    },
};
use crate::workload::{FROM, Text};

mod contract {
    wasmtime::component::bindgen!({ world: "protostub", path: "../../wit/0.1", exports: { default: async } });
}

/// Epoch deadline that no call reaches: these calls have no limit of computing time.
const NEVER: u64 = 1 << 60;

/// A compiled and linked component.
pub(crate) struct Bare {
    engine: Engine,
    pre: ProtostubPre<State>,
}

/// A store with a started instance.
pub(crate) struct Instance {
    store: Store<State>,
    guest: Protostub,
}

/// State of the imports.
struct State {
    wasi: WasiCtx,
    table: ResourceTable,
    posted: u64,
}

impl Bare {
    pub(crate) fn new(engine: &Engine, component: &[u8]) -> Result<Self> {
        let component = Component::from_binary(engine, component).map_err(plain)?;
        Ok(Self { engine: engine.clone(), pre: link(engine, &component).map_err(plain)? })
    }

    /// Makes an instance. Calls only the code that runs during instantiation.
    pub(crate) async fn instantiate(&self) -> Result<Instance> {
        let state = State { wasi: WasiCtx::builder().build(), table: ResourceTable::new(), posted: 0 };
        let mut store = Store::new(&self.engine, state);
        store.set_epoch_deadline(NEVER);
        let guest = self.pre.instantiate_async(&mut store).await.map_err(plain)?;
        Ok(Instance { store, guest })
    }

    /// Makes an instance and starts it.
    pub(crate) async fn started(&self) -> Result<Instance> {
        let mut instance = self.instantiate().await?;
        let Instance { store, guest } = &mut instance;
        let url = "hyperty-runtime://sp1.example/protostub/1".to_owned();
        let started = guest.rethink_protostub_stub().call_start(store, &url).await.map_err(plain)?;
        ensure!(started.is_ok(), "the stub does not start: {started:?}");
        Ok(instance)
    }

    /// Makes an instance that takes messages.
    pub(crate) async fn live(&self) -> Result<Instance> {
        let mut instance = self.started().await?;
        instance.handle(&[Event::Connect(None)]).await?;
        Ok(instance)
    }
}

impl Instance {
    async fn handle(&mut self, events: &[Event]) -> Result<()> {
        self.guest.rethink_protostub_stub().call_handle(&mut self.store, events).await.map_err(plain)
    }

    /// Measures the time of `calls` calls, each with `batch` messages.
    pub(crate) async fn calls(&mut self, text: impl Into<Text>, batch: usize, calls: u32) -> Result<Duration> {
        let events = vec![Event::Message(message(text.into())); batch];
        let before = self.store.data().posted;
        let begun = Instant::now();
        for _ in 0..calls {
            self.handle(&events).await?;
        }
        let took = begun.elapsed();
        let posted = self.store.data().posted - before;
        ensure!(posted == u64::from(calls) * u64::try_from(batch)?, "{posted} messages came back");
        Ok(took)
    }
}

fn link(engine: &Engine, component: &Component) -> wasmtime::Result<ProtostubPre<State>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    Protostub::add_to_linker::<_, HasSelf<State>>(&mut linker, |state| state)?;
    ProtostubPre::new(linker.instantiate_pre(component)?)
}

/// Converts an error of wasmtime, which does not implement `std::error::Error`.
pub(crate) fn plain(error: wasmtime::Error) -> anyhow::Error {
    anyhow::Error::from_boxed(error.into())
}

fn message(text: Text) -> types::Message {
    types::Message {
        id: MessageId::Number(7),
        type_: MessageType::Update,
        from: FROM.to_owned(),
        to: "hyperty://sp1.example/alice".to_owned(),
        via: Vec::new(),
        headers: Vec::new(),
        body: Some(types::Body::Json(text.0)),
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl types::Host for State {}

impl bus::Host for State {
    fn post(&mut self, messages: Vec<types::Message>) -> Vec<Result<(), Error>> {
        self.posted += messages.len() as u64;
        messages.into_iter().map(|_| Ok(())).collect()
    }
    fn pause(&mut self) {}
    fn resume(&mut self) {}
}

impl configuration::Host for State {
    fn get(&mut self) -> String {
        r#"{"runtimeURL":"runtime://home.example/1"}"#.to_owned()
    }
}

impl presence::Host for State {
    fn publish(&mut self, _: presence::Status, _: Option<String>) -> Result<(), Error> {
        Ok(())
    }
}

impl identity::Host for State {
    fn request(&mut self, _: Option<String>) -> Result<u32, Error> {
        Err(Error::Closed)
    }
    fn take(&mut self, _: u32) -> Result<types::Credential, Error> {
        Err(Error::Closed)
    }
}

impl session::Host for State {
    fn load(&mut self) -> Option<Vec<u8>> {
        None
    }
    fn save(&mut self, _: Vec<u8>) -> Result<(), Error> {
        Ok(())
    }
}

impl timers::Host for State {
    fn after(&mut self, _: u64) -> Result<u32, Error> {
        Ok(1)
    }
    fn cancel(&mut self, _: u32) {}
}

impl log::Host for State {
    fn write(&mut self, _: log::Level, _: String) {}
}

impl websocket::Host for State {
    fn open(&mut self, _: String, _: Vec<String>, _: Vec<(String, String)>) -> Result<u32, Error> {
        Err(Error::Closed)
    }
    fn poll(&mut self, _: u32) -> websocket::State {
        websocket::State::Connecting
    }
    fn receive(&mut self, _: u32, _: u32, _: u32) -> Result<Vec<websocket::Frame>, Error> {
        Err(Error::Closed)
    }
    fn send(&mut self, _: u32, _: Vec<websocket::Frame>) -> Result<u32, Error> {
        Err(Error::Closed)
    }
    fn close(&mut self, _: u32, _: u16, _: String) {}
}

impl http::Host for State {
    fn send(&mut self, _: http::Request) -> Result<u32, Error> {
        Err(Error::Closed)
    }
    fn poll(&mut self, _: u32) -> Result<Option<http::Head>, Error> {
        Err(Error::Closed)
    }
    fn receive(&mut self, _: u32, _: u32) -> Result<Option<Vec<u8>>, Error> {
        Err(Error::Closed)
    }
    fn cancel(&mut self, _: u32) {}
}

impl tcp::Host for State {
    fn open(&mut self, _: String, _: u16, _: bool) -> Result<u32, Error> {
        Err(Error::Closed)
    }
    fn start_tls(&mut self, _: u32, _: String) -> Result<(), Error> {
        Err(Error::Closed)
    }
    fn poll(&mut self, _: u32) -> tcp::State {
        tcp::State::Connecting
    }
    fn receive(&mut self, _: u32, _: u32) -> Result<Option<Vec<u8>>, Error> {
        Err(Error::Closed)
    }
    fn send(&mut self, _: u32, _: Vec<u8>) -> Result<u32, Error> {
        Err(Error::Closed)
    }
    fn close(&mut self, _: u32) {}
}
