//! One guest call within its limits, and what became of it.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use protostub_types::SafeText;
use wasmtime::{Store, WasmBacktrace, component::ResourceTableError};
use wasmtime_wasi::I32Exit;

use crate::{
    CompiledStub, CrashKind, CrashReport, Exceeded, GuestCall, StackFrame, Trap, engine::WASM_STACK_BYTES, meter::Meter,
    state::StubState,
};

/// How long a function's or a module's name may be that is told of a crash, in bytes.
const MAX_NAME_BYTES: usize = 512;

/// How wasmtime's error begins when a call of an import carried too much; the error has no type of its own.
const HOSTCALL_FUEL: &str = "too much data is being copied between the host and the guest";
/// The same, when the instance held too many handles of the component model, beside those that the host's table counts.
const COMPONENT_HANDLES: &str = "cannot allocate another handle";
/// The same, when it asked for too many random bytes: `requested len 1073741824 exceeds limit 65536`.
const RANDOM_BYTES: &str = "requested len ";

/// The error by which a call that has used up its computing time is ended.
#[derive(Debug, thiserror::Error)]
#[error("the call has used up its computing time")]
pub(crate) struct CpuExceeded;

/// Why a call did not return.
pub(crate) enum Failure {
    Guest(wasmtime::Error),
    TimedOut,
}

/// The same, as it is told.
pub(crate) enum Crash {
    Trapped(Trap),
    Exceeded(Exceeded),
}

/// To be called before each guest call: it has its whole budget, and what is said of a crash is of this call. Tells when it begins.
pub(crate) fn begin(store: &mut Store<StubState>) -> Instant {
    let began = Instant::now();
    let state = store.data_mut();
    state.cpu.begin_call();
    state.memory.begin_call();
    state.log.clear_stderr_tail();
    state.recorder.begin_call(began);
    store.set_epoch_deadline(1);
    began
}

/// Waits for a guest call that has begun just now, while its computing time is counted and its time is limited. The call is pinned by the caller: every
/// future that it is handed through by value has room for it twice, and moves it.
pub(crate) async fn bounded<T>(
    compiled: &CompiledStub,
    meter: &mut Meter,
    (began, limit): (Instant, Duration),
    call: Pin<&mut impl Future<Output = wasmtime::Result<T>>>,
) -> Result<T, Failure> {
    let _running = compiled.engine().running();
    meter.run(began, limit, call).await
}

/// What a failed call tells about its guest. The store is of no use afterwards.
pub(crate) fn diagnose(
    compiled: &CompiledStub,
    store: &mut Store<StubState>,
    during: GuestCall,
    failure: Failure,
) -> (Crash, Arc<CrashReport>) {
    let state = store.data_mut();
    let (uptime, call) = state.recorder.ages();
    let backtrace = match &failure {
        Failure::Guest(error) => error.downcast_ref::<WasmBacktrace>().map(frames).unwrap_or_default(),
        Failure::TimedOut => Vec::new(),
    };
    // A line that has no end yet belongs to the tail, too.
    state.log.finish();
    let message = state.log.take_stderr_tail();
    let (crash, kind, limit, reason) = match cause(state, failure) {
        Cause::Limit(exceeded) => {
            state.count_limit(exceeded.setting());
            let reason = SafeText::display(&exceeded);
            (Crash::Exceeded(exceeded.clone()), CrashKind::Limit, Some(exceeded.setting()), reason)
        }
        Cause::Trap(reason) => {
            (Crash::Trapped(Trap { reason: reason.clone(), message: message.clone() }), CrashKind::Trap, None, reason)
        }
    };
    let (activities, lost_events, lost_calls) = state.recorder.take(uptime);
    let report = CrashReport {
        stub: state.config.url.clone(),
        domain: state.config.domain.clone(),
        component: compiled.digest(),
        time: SystemTime::now(),
        during,
        kind,
        limit,
        reason,
        message,
        backtrace,
        uptime,
        call,
        activities,
        lost_events,
        lost_calls,
    };
    (crash, Arc::new(report))
}

enum Cause {
    Trap(SafeText),
    Limit(Exceeded),
}

fn cause(state: &mut StubState, failure: Failure) -> Cause {
    let limits = &state.config.limits;
    let error = match failure {
        Failure::TimedOut => return Cause::Limit(Exceeded::Time { limit: limits.time_per_call }),
        Failure::Guest(error) => error,
    };
    if error.downcast_ref::<CpuExceeded>().is_some() {
        return Cause::Limit(Exceeded::Cpu { limit: limits.cpu_per_call });
    }
    let trap = error.downcast_ref::<wasmtime::Trap>().copied();
    if trap == Some(wasmtime::Trap::StackOverflow) {
        return Cause::Limit(Exceeded::Stack { limit: WASM_STACK_BYTES });
    }
    if let Some(denied) = state.memory.take_denied() {
        return Cause::Limit(denied);
    }
    let reason = match (error.downcast_ref::<I32Exit>(), trap) {
        (Some(exit), _) => format!("it ended itself with code {}", exit.0),
        (None, Some(trap)) => trap.to_string().trim_start_matches("wasm trap: ").to_owned(),
        (None, None) => error.root_cause().to_string(),
    };
    if reason.starts_with(HOSTCALL_FUEL) {
        return Cause::Limit(Exceeded::Hostcall { limit: limits.hostcall_bytes });
    }
    let no_room = matches!(error.downcast_ref::<ResourceTableError>(), Some(ResourceTableError::Full));
    if no_room || reason.starts_with(COMPONENT_HANDLES) {
        return Cause::Limit(Exceeded::Handles { limit: limits.resource_handles });
    }
    if reason.starts_with(RANDOM_BYTES) && reason.ends_with(&format!(" {}", limits.random_bytes)) {
        return Cause::Limit(Exceeded::Random { limit: limits.random_bytes });
    }
    Cause::Trap(state.secrets.shown(&reason))
}

/// Whether an instantiation failed before any of the guest's code ran: there is no room in the pool, say.
pub(crate) fn is_host_error(error: &wasmtime::Error) -> bool {
    !error.is::<CpuExceeded>() && !error.is::<wasmtime::Trap>() && !error.is::<I32Exit>() && !error.is::<WasmBacktrace>()
}

/// Names come from the component: anything may stand in them.
fn frames(backtrace: &WasmBacktrace) -> Vec<StackFrame> {
    let frame = |frame: &wasmtime::FrameInfo| StackFrame {
        function: match frame.func_name() {
            Some(name) => SafeText::display_cut(format_args!("{:#}", rustc_demangle::demangle(name)), MAX_NAME_BYTES),
            None => SafeText::display(format_args!("function {}", frame.func_index())),
        },
        module: frame.module().name().map(|name| SafeText::cut(name, MAX_NAME_BYTES)),
        offset: frame.module_offset(),
    };
    backtrace.frames().iter().map(frame).collect()
}
