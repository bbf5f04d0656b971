//! Components that no compiler would make: core modules by hand, made into stubs.

use std::time::Duration;

use protostub_sandbox::{CompiledStub, Exceeded, Limits, Outcome, StartErrorKind};
use protostub_types::{Body, Sha256Digest};
use serde_json::json;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use crate::support::{Fixture, Listener, engine};

/// The parts of a stub's core module. Absent parts do nothing, correctly.
#[derive(Default)]
struct Parts {
    /// Imports of the contract's functions, in their core form.
    imports: &'static str,
    memory: Option<&'static str>,
    realloc: Option<&'static str>,
    /// Returns the address of the result: zeros are `ok`.
    start: Option<&'static str>,
    handle: Option<&'static str>,
    rest: &'static str,
    /// The encoding of its texts, if not UTF-8.
    encoding: Option<StringEncoding>,
}

impl Parts {
    async fn compile(&self) -> CompiledStub {
        let text = format!(
            r#"(module
                {imports}
                {memory}
                (global $top (mut i32) (i32.const 4096))
                (func $realloc (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) {realloc})
                (func (export "rethink:protostub/stub@0.1.0#start") (param i32 i32) (result i32) {start})
                (func (export "rethink:protostub/stub@0.1.0#handle") (param i32 i32) {handle})
                {rest})"#,
            imports = self.imports,
            memory = self.memory.unwrap_or(r#"(memory (export "memory") 2)"#),
            realloc = self.realloc.unwrap_or(
                "(global.set $top (i32.and (i32.add (global.get $top) (i32.const 15)) (i32.const -16)))
                 (global.get $top)
                 (global.set $top (i32.add (global.get $top) (local.get 3)))",
            ),
            start = self.start.unwrap_or("(i32.const 16)"),
            handle = self.handle.unwrap_or(""),
            rest = self.rest,
        );
        let mut module = wat::parse_str(text).expect("a core module");
        let mut resolve = Resolve::default();
        let (package, _) = resolve.push_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../../wit/0.1")).expect("the contract");
        let world = resolve.select_world(&[package], Some("protostub")).expect("its world");
        let encoding = self.encoding.unwrap_or(StringEncoding::UTF8);
        embed_component_metadata(&mut module, &resolve, world, encoding).expect("metadata");
        let bytes = ComponentEncoder::default().module(&module).expect("a module").encode().expect("a component");
        let digest = Sha256Digest::of(&bytes);
        engine().compile(bytes, digest).await.expect("a stub")
    }

    async fn fixture(&self) -> Fixture {
        let mut fixture = Fixture::new(json!({}));
        fixture.limits.cpu_per_call = Duration::from_millis(50);
        fixture.program = Some(self.compile().await);
        fixture
    }

    /// Returns why the stub does not start.
    async fn refused(self) -> StartErrorKind {
        let fixture = self.fixture().await;
        let started = tokio::time::timeout(Duration::from_secs(20), fixture.start()).await.expect("it has an end");
        started.err().expect("it does not start")
    }

    /// Returns how the stub ends when it gets `connect`.
    async fn ended(self) -> Outcome {
        let actor = self.fixture().await.start().await.expect("it starts");
        actor.handle.connect(None).await.expect_err("it ends meanwhile");
        actor.outcome().await
    }
}

const SPIN: &str = "(loop $again (br $again)) (unreachable)";

#[tokio::test]
async fn hand_made_stub_runs() {
    let actor = Parts::default().fixture().await.start().await.unwrap();
    actor.handle.connect(None).await.unwrap();
    actor.handle.stop();
    assert!(actor.outcome().await.is_orderly());
}

#[tokio::test]
async fn code_that_spins_before_start_is_ended() {
    for parts in [
        Parts { rest: "(func $spin (loop $again (br $again))) (start $spin)", ..Parts::default() },
        Parts { realloc: Some(SPIN), ..Parts::default() },
    ] {
        let kind = parts.refused().await;
        assert!(matches!(kind, StartErrorKind::Exceeded(Exceeded::Cpu { .. })), "{kind}");
    }
}

#[tokio::test]
async fn trap_before_start_is_reported_as_a_crash() {
    let kind = Parts { rest: "(func $trap (unreachable)) (start $trap)", ..Parts::default() }.refused().await;
    assert!(matches!(&kind, StartErrorKind::Trapped(trap) if trap.reason.contains("unreachable")), "{kind}");
}

#[tokio::test]
async fn invalid_pointers_end_only_the_instance() {
    let check = async |parts: Parts, expected: &str| {
        let kind = parts.refused().await;
        assert!(matches!(kind, StartErrorKind::Trapped(_)), "{kind:?}");
        assert!(kind.to_string().contains(expected), "{kind}");
    };
    check(Parts { realloc: Some("(i32.const -16)"), ..Parts::default() }, "beyond end of memory").await;
    check(Parts { start: Some("(i32.const -16)"), ..Parts::default() }, "pointer out of bounds").await;
    check(Parts { start: Some("(i32.const 17)"), ..Parts::default() }, "aligned").await;
    // An error whose text is beyond the memory, and one whose text is not UTF-8.
    let lies = "(i32.store (i32.const 16) (i32.const 1)) (i32.store (i32.const 20) (i32.const 64)) (i32.store (i32.const 24) (i32.const -1)) (i32.const 16)";
    check(Parts { start: Some(lies), ..Parts::default() }, "out of bounds").await;
    let noise = "(i32.store (i32.const 16) (i32.const 1)) (i32.store (i32.const 20) (i32.const 64)) (i32.store (i32.const 24) (i32.const 4))
        (i32.store (i32.const 64) (i32.const -1)) (i32.const 16)";
    check(Parts { start: Some(noise), ..Parts::default() }, "utf-8").await;
    // A result that is neither `ok` nor `err`.
    check(Parts { start: Some("(i32.store (i32.const 16) (i32.const 7)) (i32.const 16)"), ..Parts::default() }, "discriminant")
        .await;
}

const POST: &str = r#"(import "rethink:protostub/bus@0.1.0" "post" (func $post (param i32 i32 i32)))"#;
const LOG: &str = r#"(import "rethink:protostub/log@0.1.0" "write" (func $write (param i32 i32 i32)))"#;
const SAVE: &str = r#"(import "rethink:protostub/session@0.1.0" "save" (func $save (param i32 i32 i32)))"#;

#[tokio::test]
async fn invalid_arguments_end_only_the_instance() {
    let check = async |imports: &'static str, handle: &'static str| {
        let outcome = Parts { imports, handle: Some(handle), ..Parts::default() }.ended().await;
        assert!(matches!(outcome, Outcome::Trapped(_) | Outcome::Exceeded(Exceeded::Hostcall { .. })), "{outcome}");
    };
    check(POST, "(call $post (i32.const 0) (i32.const -1) (i32.const 16))").await;
    check(POST, "(call $post (i32.const -8) (i32.const 1) (i32.const 16))").await;
    check(POST, "(call $post (i32.const 4) (i32.const 1) (i32.const 16))").await;
    check(LOG, "(call $write (i32.const 99) (i32.const 0) (i32.const 0))").await;
    check(LOG, "(call $write (i32.const 1) (i32.const 0) (i32.const -1))").await;
    check(LOG, "(i32.store (i32.const 0) (i32.const -1)) (call $write (i32.const 1) (i32.const 0) (i32.const 4))").await;
    check(SAVE, "(call $save (i32.const 0) (i32.const -1) (i32.const 16))").await;
    check(SAVE, "(call $save (i32.const 0) (i32.const 0) (i32.const -1))").await;
}

/// Makes a stub that posts one message when it gets `connect`. `body` is the message's body in
/// memory, and `length` its claimed length, in units of the encoding.
fn posts(encoding: StringEncoding, body: &[u8], length: u32) -> Parts {
    let [(from, from_length), (to, to_length)] =
        ["hyperty://sp1.example/a", Listener::ADDRESS].map(|address| written(encoding, address));
    let data = |at: u32, bytes: &[u8]| {
        let escaped: String = bytes.iter().map(|byte| format!("\\{byte:02x}")).collect();
        format!("(data (i32.const {at}) \"{escaped}\")")
    };
    let stores: String = [(28, 1024), (32, from_length), (36, 1280), (40, to_length), (60, 1), (68, 2048), (72, length)]
        .map(|(member, value)| format!("(i32.store (i32.const {}) (i32.const {value}))", 256 + member))
        .concat();
    Parts {
        imports: POST,
        handle: Some(format!("{stores} (call $post (i32.const 256) (i32.const 1) (i32.const 16))").leak()),
        rest: [data(1024, &from), data(1280, &to), data(2048, body)].concat().leak(),
        encoding: Some(encoding),
        ..Parts::default()
    }
}

/// Encodes a text for a memory. Returns its length in units, of one byte or two. Where both are
/// possible, the highest bit tells which.
fn written(encoding: StringEncoding, text: &str) -> (Vec<u8>, u32) {
    let length = |length: usize| u32::try_from(length).unwrap();
    let words = || (text.encode_utf16().flat_map(u16::to_le_bytes).collect(), length(text.encode_utf16().count()));
    match encoding {
        StringEncoding::UTF8 => (text.into(), length(text.len())),
        StringEncoding::UTF16 => words(),
        StringEncoding::CompactUTF16 => match text.chars().map(u8::try_from).collect::<Result<Vec<_>, _>>() {
            Ok(bytes) => (bytes, length(text.chars().count())),
            Err(_) => (words().0, words().1 | 1 << 31),
        },
    }
}

#[tokio::test]
async fn bodies_are_the_same_text_in_every_encoding() {
    let long = "grüße, 𝄞 and ガ".repeat(20);
    for encoding in [StringEncoding::UTF8, StringEncoding::UTF16, StringEncoding::CompactUTF16] {
        for body in ["", "[1]", "\"grüße\"", "\"ガ𝄞\"", &long, &"x".repeat(300)] {
            let (bytes, length) = written(encoding, body);
            let fixture = posts(encoding, &bytes, length).fixture().await;
            let mut listener = Listener::new(&fixture.bus);
            let actor = fixture.start().await.unwrap();
            actor.handle.connect(None).await.unwrap();
            assert_eq!(listener.message().await.body, Some(Body::Json(body.into())), "{encoding}");
        }
    }
}

#[tokio::test]
async fn body_with_invalid_text_ends_only_the_instance() {
    let check = async |encoding: StringEncoding, body: &[u8], length: u32, expected: &str| {
        let fixture = posts(encoding, body, length).fixture().await;
        let listener = Listener::new(&fixture.bus);
        let actor = fixture.start().await.unwrap();
        actor.handle.connect(None).await.unwrap_err();
        let outcome = actor.outcome().await;
        assert!(matches!(&outcome, Outcome::Trapped(trap) if trap.reason.contains(expected)), "{outcome}: {body:02x?}");
        assert!(listener.is_quiet());
    };
    // Alone, and across the boundaries at which many bytes are checked together.
    for before in [0, 1, 29, 61, 62, 63, 64, 126, 127, 128] {
        for wrong in [&b"\xff"[..], b"\x80", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"] {
            let body = [&b"x".repeat(before), wrong].concat();
            check(StringEncoding::UTF8, &body, u32::try_from(body.len()).unwrap(), "utf-8").await;
        }
    }
    check(StringEncoding::UTF16, b"\x00\xd8", 1, "surrogate").await;
    // The body begins in the memory, of two pages, and ends behind it or beyond all memories.
    for length in [(2 << 16) - 2048 + 1, u32::MAX] {
        check(StringEncoding::UTF8, b"x", length, "out of bounds").await;
    }
}

#[tokio::test]
async fn list_as_large_as_the_memory_exceeds_hostcall_bytes() {
    // 30 MiB of zeros are some 400 000 empty messages. wasmtime itself would refuse them at a host
    // size of 128 MiB.
    let memory = Some(r#"(memory (export "memory") 1000)"#);
    let handle = Some("(call $post (i32.const 65536) (i32.const 400000) (i32.const 16))");
    let outcome = Parts { imports: POST, memory, handle, ..Parts::default() }.ended().await;
    assert!(matches!(outcome, Outcome::Exceeded(Exceeded::Hostcall { .. })), "{outcome}");
}

#[tokio::test]
async fn initial_memory_counts_against_the_limit() {
    let memory = Some(r#"(memory (export "memory") 1025)"#);
    let kind = Parts { memory, ..Parts::default() }.refused().await;
    let StartErrorKind::Exceeded(Exceeded::Memory { wanted, limit }) = kind else { panic!("{kind}") };
    assert_eq!((wanted, limit), (1025 << 16, 64 << 20));
}

#[tokio::test]
async fn tables_are_bounded() {
    let handle = Some("(if (i32.eq (table.grow $t (ref.null func) (i32.const 1000000)) (i32.const -1)) (then (unreachable)))");
    let outcome = Parts { handle, rest: "(table $t 1 funcref)", ..Parts::default() }.ended().await;
    assert!(matches!(outcome, Outcome::Exceeded(Exceeded::Table { wanted: 1_000_001, limit: 20_000 })), "{outcome}");
}

/// Starts a stub with exactly the limit that it needs, and with one less.
#[tokio::test]
async fn memories_tables_and_instances_are_counted() {
    let starts = async |change: &dyn Fn(&mut Limits)| {
        let parts = Parts { rest: "(table 1 funcref)", ..Parts::default() };
        let mut fixture = parts.fixture().await;
        change(&mut fixture.limits);
        fixture.start().await.is_ok()
    };
    for (tables, expected) in [(1, true), (0, false)] {
        assert_eq!(starts(&|limits| limits.tables = tables).await, expected, "{tables} tables");
    }
    for (memories, expected) in [(1, true), (0, false)] {
        assert_eq!(starts(&|limits| limits.memories = memories).await, expected, "{memories} memories");
    }
    for (instances, expected) in [(1, true), (0, false)] {
        assert_eq!(starts(&|limits| limits.instances = instances).await, expected, "{instances} instances");
    }
}

/// A core module with two memories. Both count, and both together have the limit of bytes.
#[tokio::test]
async fn memories_of_one_module_share_the_limits() {
    let start = async |rest: &'static str, change: &dyn Fn(&mut Limits)| {
        let mut fixture = Parts { rest, ..Parts::default() }.fixture().await;
        change(&mut fixture.limits);
        fixture.start().await.map(drop).map_err(|kind| kind.to_string())
    };
    assert_eq!(start("(memory 1)", &|limits| limits.memories = 2).await, Ok(()));
    let refused = start("(memory 1)", &|limits| limits.memories = 1).await.expect_err("two memories");
    assert!(refused.contains("memory count too high"), "{refused}");
    // The two pages of the first memory, and 62 of the second one, are the whole limit.
    let limit = |limits: &mut Limits| limits.memory_bytes = 64 << 16;
    assert_eq!(start("(memory 62)", &limit).await, Ok(()));
    let refused = start("(memory 63)", &limit).await.expect_err("a page too much");
    assert!(refused.contains("a memory was to grow to 4259840 bytes; limit: 4194304 (`memory-bytes`)"), "{refused}");
}

#[tokio::test]
async fn endless_recursion_runs_out_of_stack() {
    let outcome =
        Parts { handle: Some("(call $deep)"), rest: "(func $deep (call $deep) (call $deep))", ..Parts::default() }.ended().await;
    assert!(matches!(outcome, Outcome::Exceeded(Exceeded::Stack { .. })), "{outcome}");
}
