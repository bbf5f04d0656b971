use std::{fmt, pin::pin, sync::Arc};

use protostub_bus::Inbox;
use protostub_types::{SafeText, Step};
use tracing::Instrument as _;
use wasmtime::{Store, UpdateDeadline};

use crate::{
    CompiledStub, CrashReport, GuestCall, InvalidLimit, Limits, SandboxConfig, SandboxError, SandboxServices, StartError,
    StartErrorKind, StubHandle, StubInfo, StubTask,
    call::{self, CpuExceeded, Crash, Failure},
    contract::Protostub,
    engine::{EngineConfig, SandboxPermit},
    imports::ImportData,
    meter::{CallLink, CpuBudget, Meter},
    state::StubState,
};

/// Maximum size of the configuration, in bytes.
const MAX_CONFIGURATION_BYTES: usize = 64 << 10;

/// The store of one stub, with its limits and services. No code of the stub has run yet.
pub struct Sandbox {
    compiled: CompiledStub,
    store: Store<StubState>,
    meter: Meter,
    permit: SandboxPermit,
}

/// A running instance: the store, and the guest's functions. The permit is the last field: it is
/// given back after the store is dropped.
pub(crate) struct Instance {
    pub(crate) guest: Protostub,
    pub(crate) store: Store<StubState>,
    pub(crate) compiled: CompiledStub,
    pub(crate) meter: Meter,
    _permit: SandboxPermit,
}

impl Sandbox {
    /// Makes the sandbox of one stub (steps 12 and 13 of "Deploy Protocol Stub"), if the engine may
    /// have one more.
    ///
    /// # Errors
    /// If the engine has as many sandboxes as its limit, or the limits or the configuration are
    /// more than the engine or the contract allows.
    pub fn new(compiled: &CompiledStub, services: SandboxServices, config: SandboxConfig) -> Result<Self, SandboxError> {
        let permit = compiled.engine().try_acquire_permit()?;
        Self::with_permit(permit, compiled, services, config)
    }

    /// Makes the sandbox of one stub with a permit of the engine that the stub was compiled for:
    /// [`Engine::try_acquire_permit`](crate::Engine::try_acquire_permit).
    ///
    /// # Errors
    /// If the limits or the configuration are more than the engine or the contract allows.
    pub fn with_permit(
        permit: SandboxPermit,
        compiled: &CompiledStub,
        services: SandboxServices,
        config: SandboxConfig,
    ) -> Result<Self, SandboxError> {
        let engine = compiled.engine();
        check(&config, engine.config())?;
        let Limits { cpu_per_second, cpu_per_call, hostcall_bytes, resource_handles, .. } = config.limits;
        let stub = StubInfo { url: config.url.clone(), domain: config.domain.clone(), component: compiled.digest() };
        let import_data = ImportData::new(compiled.own_imports(), &stub)?;
        let (tick, link) = (engine.config().tick, Arc::<CallLink>::default());
        let meter = Meter::new(tick, cpu_per_second, Arc::clone(&link), Arc::clone(engine.long_calls()));
        let cpu = CpuBudget::new(tick, engine.ticks(cpu_per_call), link);
        let state = StubState::new(services, config, cpu, import_data, engine.memory());
        let mut store = Store::try_new(engine.wasm(), state).map_err(|error| SandboxError::Wasmtime(error.into()))?;
        store.limiter(|state| &mut state.memory);
        store.set_hostcall_fuel(hostcall_bytes);
        store.set_max_component_handles(resource_handles);
        store.epoch_deadline_callback(move |mut context| {
            match context.data_mut().cpu.tick() {
                // One more tick, after the call's turn.
                Some(turn) => Ok(UpdateDeadline::YieldCustom(1, turn)),
                None => Err(wasmtime::Error::new(CpuExceeded)),
            }
        });
        Ok(Self { compiled: compiled.clone(), store, meter, permit })
    }

    /// Instantiates the component and calls its `start` with the stub's URL, each within the limits
    /// of a call (steps 16 to 18). The stub may post messages from `start`, so its route has to be
    /// attached before.
    ///
    /// The caller spawns the task, which is the instance. The task publishes `created` first.
    ///
    /// # Errors
    /// If the stub refuses to start or crashes. The error gives the inbox back.
    pub async fn deploy_component(self, inbox: Inbox) -> Result<(StubHandle, StubTask), StartError> {
        // A message that came through the stub must not come back to it.
        inbox.mailbox().set_owner(&self.store.data().config.url);
        match self.start().await {
            Ok(instance) => {
                let (handle, commands) = StubHandle::new(instance.store.data().recorder.origin());
                Ok((handle, StubTask::new(instance, inbox, commands)))
            }
            Err(NotStarted { kind, crash }) => Err(StartError { kind, crash, inbox }),
        }
    }

    async fn start(self) -> Result<Instance, NotStarted> {
        let Self { compiled, mut store, mut meter, permit } = self;
        let limit = store.data().config.limits.time_per_call;
        let began = call::begin(&mut store);
        let (domain, stub) = (&store.data().config.domain, &store.data().config.url);
        let step = tracing::info_span!(target: "protostub", "step", step = Step::NewStub.number(), call = Step::NewStub.call(), %domain, %stub, detail = "");
        let instantiated = {
            let call = pin!(compiled.pre().instantiate_async(&mut store));
            call::bounded(&compiled, &mut meter, (began, limit), call).instrument(step).await
        };
        let guest = match instantiated {
            Ok(guest) => guest,
            // A guest may exceed a limit before any of its code runs, for example with its first
            // memory. That is not the host's error.
            Err(Failure::Guest(error)) if call::is_host_error(&error) && !store.data().memory.has_denied() => {
                return Err(StartErrorKind::Instantiate(SafeText::display(format_args!("{error:#}"))).into());
            }
            Err(failure) => return Err(call::diagnose(&compiled, &mut store, GuestCall::Instantiate, failure).into()),
        };
        let began = call::begin(&mut store);
        let url = store.data().config.url.shared();
        let started = {
            let call = pin!(guest.rethink_protostub_stub().call_start(&mut store, &url));
            call::bounded(&compiled, &mut meter, (began, limit), call).await
        };
        match started {
            Ok(Ok(())) => {}
            Ok(Err(reason)) => return Err(StartErrorKind::Refused(store.data().secrets.shown(&reason)).into()),
            Err(failure) => return Err(call::diagnose(&compiled, &mut store, GuestCall::Start, failure).into()),
        }
        Ok(Instance { guest, store, compiled, meter, _permit: permit })
    }
}

/// A [`StartError`] without the inbox.
struct NotStarted {
    kind: StartErrorKind,
    crash: Option<Arc<CrashReport>>,
}

impl From<StartErrorKind> for NotStarted {
    fn from(kind: StartErrorKind) -> Self {
        Self { kind, crash: None }
    }
}

impl From<(Crash, Arc<CrashReport>)> for NotStarted {
    fn from((crash, report): (Crash, Arc<CrashReport>)) -> Self {
        let kind = match crash {
            Crash::Trapped(trap) => StartErrorKind::Trapped(trap),
            Crash::Exceeded(exceeded) => StartErrorKind::Exceeded(exceeded),
        };
        Self { kind, crash: Some(report) }
    }
}

fn check(config: &SandboxConfig, engine: &EngineConfig) -> Result<(), SandboxError> {
    let limits = config.limits.check_for_engine(&Limits::default(), engine);
    limits.map_err(|InvalidLimit { setting, problem }| SandboxError::Setting { setting, problem })?;
    let bytes = config.configuration.len();
    if bytes > MAX_CONFIGURATION_BYTES {
        let problem = format!("has {bytes} bytes, and the contract's limit is {MAX_CONFIGURATION_BYTES}");
        return Err(SandboxError::Setting { setting: "configuration", problem });
    }
    Ok(())
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox").field("config", &self.store.data().config).finish_non_exhaustive()
    }
}
