//! One guest call within its limits, and the diagnosis of its failure.

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

/// Maximum length of a function's or a module's name in a crash report, in bytes.
const MAX_NAME_BYTES: usize = 512;

/// Beginning of wasmtime's error when a call of an import carried too much. The error has no type
/// of its own.
const HOSTCALL_FUEL: &str = "too much data is being copied between the host and the guest";
/// Beginning of the error when the instance held too many handles of the component model. The
/// host's table counts its own handles in addition.
const COMPONENT_HANDLES: &str = "cannot allocate another handle";
/// Beginning of the error when the instance asked for too many random bytes: `requested len
/// 1073741824 exceeds limit 65536`.
const RANDOM_BYTES: &str = "requested len ";

/// The error that ends a call without computing time left.
#[derive(Debug, thiserror::Error)]
#[error("the call has used up its computing time")]
pub(crate) struct CpuExceeded;

/// Reason why a call did not return.
pub(crate) enum Failure {
    Guest(wasmtime::Error),
    TimedOut,
}

/// Diagnosis of a failed call, for the caller.
pub(crate) enum Crash {
    Trapped(Trap),
    Exceeded(Exceeded),
}

/// Prepares a guest call: gives it its whole budget, and forgets the traces of earlier calls, so
/// that a crash report is about this call. Returns the time at which the call begins. Must run
/// before each guest call.
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

/// Waits for a guest call that has begun just now. Counts its computing time and limits its time.
///
/// The caller pins the call: a future that takes the call by value has room for it twice, and moves
/// it.
pub(crate) async fn bounded<T>(
    compiled: &CompiledStub,
    meter: &mut Meter,
    (began, limit): (Instant, Duration),
    call: Pin<&mut impl Future<Output = wasmtime::Result<T>>>,
) -> Result<T, Failure> {
    let _running = compiled.engine().running();
    meter.run(began, limit, call).await
}

/// Diagnoses a failed call. The store must not be used afterwards.
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
    // A line without an end belongs to the tail, too.
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
        (Some(exit), _) => format!("the stub exited with code {}", exit.0),
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

/// Returns `true` if an instantiation failed before any of the guest's code ran, for example
/// because the pool has no room.
pub(crate) fn is_host_error(error: &wasmtime::Error) -> bool {
    !error.is::<CpuExceeded>() && !error.is::<wasmtime::Trap>() && !error.is::<I32Exit>() && !error.is::<WasmBacktrace>()
}

/// Converts a backtrace. The names come from the component, and may hold any text.
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
