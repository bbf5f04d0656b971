//! One guest call within its limits, and what became of it.

use std::{future::Future, time::Duration};

use wasmtime::{Store, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use crate::{CompiledStub, Exceeded, Trap, engine::WASM_STACK_BYTES, state::State};

/// How many frames of a crash are told.
const MAX_FRAMES: usize = 20;

/// How wasmtime's error begins when a call of an import carried too much; the error has no type of its own.
const HOSTCALL_FUEL: &str = "too much data is being copied between the host and the guest";

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

/// To be called before each guest call: it has its whole budget, and what is said of a crash is of this call.
pub(crate) fn begin(store: &mut Store<State>) {
    let state = store.data_mut();
    state.cpu.begin_call();
    state.memory.begin_call();
    state.log.forget_last_words();
    store.set_epoch_deadline(1);
}

/// Waits for a guest call, while its computing time is counted and its time is limited.
pub(crate) async fn bounded<T>(
    compiled: &CompiledStub,
    limit: Duration,
    call: impl Future<Output = wasmtime::Result<T>>,
) -> Result<T, Failure> {
    let _running = compiled.engine().running();
    match tokio::time::timeout(limit, call).await {
        Ok(result) => result.map_err(Failure::Guest),
        Err(_) => Err(Failure::TimedOut),
    }
}

/// What a failed call tells about its guest. The store is of no use afterwards.
pub(crate) fn diagnose(store: &mut Store<State>, failure: Failure) -> Crash {
    let state = store.data_mut();
    let limits = &state.config.limits;
    let error = match failure {
        Failure::TimedOut => return Crash::Exceeded(Exceeded::Time { limit: limits.time_per_call }),
        Failure::Guest(error) => error,
    };
    if error.downcast_ref::<CpuExceeded>().is_some() {
        return Crash::Exceeded(Exceeded::Cpu { limit: limits.cpu_per_call });
    }
    let trap = error.downcast_ref::<wasmtime::Trap>().copied();
    if trap == Some(wasmtime::Trap::StackOverflow) {
        return Crash::Exceeded(Exceeded::Stack { limit: WASM_STACK_BYTES });
    }
    if let Some(denied) = state.memory.take_denied() {
        return Crash::Exceeded(denied);
    }
    let reason = match (error.downcast_ref::<I32Exit>(), trap) {
        (Some(exit), _) => format!("it ended itself with code {}", exit.0),
        (None, Some(trap)) => trap.to_string().trim_start_matches("wasm trap: ").to_owned(),
        (None, None) => error.root_cause().to_string(),
    };
    if reason.starts_with(HOSTCALL_FUEL) {
        return Crash::Exceeded(Exceeded::Hostcall { limit: limits.hostcall_bytes });
    }
    let backtrace = error.downcast_ref::<WasmBacktrace>().map(frames).unwrap_or_default();
    // A line that has no end yet is a last word, too.
    state.log.finish();
    Crash::Trapped(Trap { reason, message: state.log.take_last_words(), backtrace })
}

/// Whether an instantiation failed before any of the guest's code ran: there is no room in the pool, say.
pub(crate) fn is_hosts_fault(error: &wasmtime::Error) -> bool {
    !error.is::<CpuExceeded>() && !error.is::<wasmtime::Trap>() && !error.is::<I32Exit>() && !error.is::<WasmBacktrace>()
}

fn frames(backtrace: &WasmBacktrace) -> Vec<String> {
    backtrace
        .to_string()
        .lines()
        .filter_map(|line| line.trim().split_once(": ").map(|(_, frame)| frame.to_owned()))
        .take(MAX_FRAMES)
        .collect()
}
