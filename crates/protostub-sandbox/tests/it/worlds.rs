use protostub_sandbox::{CompileError, Engine, EngineConfig, WorldMismatch};
use protostub_types::Sha256Digest;

use crate::support::engine;

async fn compile(engine: &Engine, bytes: Vec<u8>) -> CompileError {
    let digest = Sha256Digest::of(&bytes);
    engine.compile(bytes, digest).await.unwrap_err()
}

/// Returns how a component, in WebAssembly's text format, differs from a stub.
async fn mismatch(text: &str) -> WorldMismatch {
    match compile(engine(), wat::parse_str(text).expect("a component")).await {
        CompileError::WrongWorld(mismatch) => *mismatch,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn bytes_without_a_component_get_a_specific_error() {
    assert!(matches!(compile(engine(), b"<html>".to_vec()).await, CompileError::NotWasm));
    assert!(matches!(compile(engine(), wat::parse_str("(module)").unwrap()).await, CompileError::CoreModule));
    let mut config = EngineConfig::default();
    config.max_component_bytes = 10;
    let small = Engine::new(&config).unwrap();
    assert!(matches!(compile(&small, vec![0; 11]).await, CompileError::TooLarge { bytes: 11, limit: 10 }));
    let mut broken = protostub_artifacts::component("actor");
    broken.truncate(broken.len() / 2);
    assert!(matches!(compile(engine(), broken).await, CompileError::Invalid(_)));
}

#[tokio::test]
async fn native_code_is_refused() {
    let wasm = wasmtime::Engine::default();
    let native = wasm.precompile_component(&wat::parse_str("(component)").unwrap()).unwrap();
    assert!(matches!(compile(engine(), native).await, CompileError::Precompiled));
}

#[tokio::test]
async fn a_component_that_exports_no_stub_is_refused() {
    let found = mismatch("(component)").await;
    assert_eq!(found.missing_exports, ["`rethink:protostub/stub@0.1.0`"]);
    assert_eq!(found.to_string(), "missing exports: `rethink:protostub/stub@0.1.0`");

    let found = mismatch(
        r#"(component
            (component $c)
            (instance $i (instantiate $c))
            (export "rethink:protostub/stub@0.2.0" (instance $i)))"#,
    )
    .await;
    assert_eq!(found.missing_exports, ["`rethink:protostub/stub@0.1.0` (but `rethink:protostub/stub@0.2.0`)"]);

    let found = mismatch(
        r#"(component
            (component $c)
            (instance $i (instantiate $c))
            (export "rethink:protostub/stub@0.1.0" (instance $i)))"#,
    )
    .await;
    assert_eq!(found.missing_exports, ["rethink:protostub/stub@0.1.0#start", "rethink:protostub/stub@0.1.0#handle"]);
}

#[tokio::test]
async fn a_component_that_exports_other_types_is_refused() {
    let component = |exports: &str| {
        format!(
            r#"(component
                (core module $code
                    (memory (export "memory") 1)
                    (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 0)
                    (func (export "start") (param i32 i32) (result i32) i32.const 0)
                    (func (export "nothing")))
                (core instance $code (instantiate $code))
                (func $start (param "url" string) (result (result (error string)))
                    (canon lift (core func $code "start") (memory (core memory $code "memory")) (realloc (core func $code "realloc"))))
                (func $nothing (canon lift (core func $code "nothing")))
                (instance $stub {exports})
                (export "rethink:protostub/stub@0.1.0" (instance $stub)))"#
        )
    };
    let found = mismatch(&component(r#"(export "start" (func $start)) (export "handle" (func $nothing))"#)).await;
    assert_eq!((found.mismatches.len(), found.missing_exports.len()), (1, 0), "{found}");
    assert!(found.mismatches[0].starts_with("`rethink:protostub/stub@0.1.0#handle`: "), "{found}");

    let found = mismatch(&component(r#"(export "start" (func $nothing)) (export "handle" (func $start))"#)).await;
    assert_eq!(found.mismatches.len(), 2, "{found}");
}

#[tokio::test]
async fn forbidden_imports_are_all_named() {
    let found = mismatch(
        r#"(component
            (import "wasi:http/outgoing-handler@0.2.0" (instance (export "handle" (func))))
            (import "rethink:protostub/bus@0.1.0" (instance
                (export "flood" (func))
                (export "pause" (func (param "x" u32)))
                (export "resume" (func))))
            (import "wasi:clocks/wall-clock@0.2.0" (instance (export "stop" (func))))
            (import "rethink:protostub/files@0.1.0" (instance (export "read" (func)) (export "write" (func))))
            (import "plain" (func)))"#,
    )
    .await;
    assert_eq!(
        found.unknown_imports,
        [
            "wasi:http/outgoing-handler@0.2.0",
            "rethink:protostub/bus@0.1.0#flood",
            "wasi:clocks/wall-clock@0.2.0#stop",
            "rethink:protostub/files@0.1.0",
            "plain",
        ]
    );
    assert_eq!(found.mismatches.len(), 1, "{:?}", found.mismatches);
    assert!(found.mismatches[0].starts_with("`rethink:protostub/bus@0.1.0#pause`: "), "{:?}", found.mismatches);
    let text = found.to_string();
    assert!(text.contains("imports that no stub may have: wasi:http/outgoing-handler@0.2.0, rethink:"), "{text}");
}

/// A component that consists of two components with a memory each. The text goes from one memory
/// to the other.
const COMPOSITION: &str = r#"(component
    (component $callee
        (core module $code
            (memory (export "memory") 1)
            (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 0)
            (func (export "call") (param i32 i32)))
        (core instance $code (instantiate $code))
        (func (export "call") (param "text" string)
            (canon lift (core func $code "call") (memory (core memory $code "memory")) (realloc (core func $code "realloc")))))
    (component $caller
        (import "call" (func $call (param "text" string)))
        (core module $memory (memory (export "memory") 1))
        (core instance $memory (instantiate $memory))
        (core func $lowered (canon lower (func $call) (memory (core memory $memory "memory"))))
        (core module $code (import "" "call" (func (param i32 i32))))
        (core instance (instantiate $code (with "" (instance (export "call" (func $lowered)))))))
    (instance $callee (instantiate $callee))
    (instance (instantiate $caller (with "call" (func $callee "call")))))"#;

#[tokio::test]
async fn composition_of_components_is_compiled() {
    let found = mismatch(COMPOSITION).await;
    assert_eq!(found.to_string(), "missing exports: `rethink:protostub/stub@0.1.0`");
}

/// The number of memories has the same limit in one module as in several modules.
#[tokio::test]
async fn memories_over_the_pool_are_refused_by_name() {
    let module = |memories: usize| format!("(core module $m {})", "(memory 1)".repeat(memories));
    let composed = |memories: usize, modules: usize| {
        format!("(component {} {})", module(memories), "(core instance (instantiate $m))".repeat(modules))
    };
    for (memories, modules) in [(4, 1), (2, 2), (1, 4)] {
        mismatch(&composed(memories, modules)).await;
    }
    for (memories, modules) in [(5, 1), (3, 2), (1, 5)] {
        let bytes = wat::parse_str(composed(memories, modules)).expect("a component");
        let error = compile(engine(), bytes).await;
        assert!(matches!(&error, CompileError::TooComplex(reason) if reason.contains("memories")), "{error}");
    }
}

#[tokio::test]
async fn later_versions_of_a_track_are_the_same_track() {
    let found = mismatch(
        r#"(component
            (import "rethink:protostub/bus@0.1.7" (instance (export "resume" (func))))
            (import "wasi:clocks/monotonic-clock@0.2.3" (instance (export "now" (func (result u64))))))"#,
    )
    .await;
    assert!(found.unknown_imports.is_empty() && found.mismatches.is_empty(), "{found}");
}
