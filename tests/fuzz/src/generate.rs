// Generates valid components with any content.

use std::{path::Path, sync::LazyLock};

use arbitrary::Unstructured;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// Number of random bytes that are made of a seed.
const SEED_BYTES: usize = 2048;

/// Generates a stub whose second core module is made of these bytes and of the random bytes of the
/// seed. Returns `None` if the stub is longer than `max` bytes.
#[must_use]
pub fn stub(bytes: &[u8], seed: u32, max: usize) -> Option<Vec<u8>> {
    let module = module(&[bytes, &random(seed)].concat())?;
    Some(with_module(QUIET.clone(), &module)).filter(|component| component.len() <= max)
}

/// Generates random bytes with SplitMix64.
fn random(seed: u32) -> Vec<u8> {
    let mut state = u64::from(seed);
    let numbers = std::iter::from_fn(|| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Some(mixed ^ (mixed >> 31))
    });
    numbers.flat_map(u64::to_le_bytes).take(SEED_BYTES).collect()
}

/// Generates a valid core module without imports.
fn module(bytes: &[u8]) -> Option<Vec<u8>> {
    let config = wasm_smith::Config { max_imports: 0, ..wasm_smith::Config::default() };
    let module = wasm_smith::Module::new(config, &mut Unstructured::new(bytes)).ok()?;
    Some(module.to_bytes())
}

/// A valid stub that does nothing.
static QUIET: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut module = wat::parse_str(
        r#"(module
            (memory (export "memory") 2)
            (global $top (mut i32) (i32.const 4096))
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                (global.set $top (i32.and (i32.add (global.get $top) (i32.const 15)) (i32.const -16)))
                (global.get $top)
                (global.set $top (i32.add (global.get $top) (local.get 3))))
            (func (export "rethink:protostub/stub@0.1.0#start") (param i32 i32) (result i32) (i32.const 16))
            (func (export "rethink:protostub/stub@0.1.0#handle") (param i32 i32)))"#,
    )
    .expect("a core module");
    let contract =
        Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|folder| folder.join("wit/0.1")).find(|folder| folder.is_dir());
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(contract.expect("the contract is in the repository")).expect("the contract");
    let world = resolve.select_world(&[package], Some("protostub")).expect("its world");
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).expect("metadata");
    ComponentEncoder::default().module(&module).expect("a module").encode().expect("a component")
});

/// Adds a core module and an instance of it to a component.
fn with_module(mut component: Vec<u8>, module: &[u8]) -> Vec<u8> {
    const CORE_MODULE: u8 = 1;
    const CORE_INSTANCE: u8 = 2;
    let index = sections(&component).filter(|section| *section == CORE_MODULE).count();
    section(&mut component, CORE_MODULE, module);
    // One instance of that module, with no arguments.
    let instance = [&[1, 0][..], &leb128(index), &[0]].concat();
    section(&mut component, CORE_INSTANCE, &instance);
    component
}

/// Returns the kinds of a component's sections.
fn sections(component: &[u8]) -> impl Iterator<Item = u8> {
    let mut rest = component.get(8..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (kind, mut after) = rest.split_first()?;
        let mut length = 0;
        for shift in (0..).step_by(7) {
            let (byte, next) = after.split_first()?;
            after = next;
            length |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        rest = after.get(length..)?;
        Some(*kind)
    })
}

fn section(component: &mut Vec<u8>, kind: u8, content: &[u8]) {
    component.push(kind);
    component.extend(leb128(content.len()));
    component.extend(content);
}

fn leb128(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let byte = (number & 0x7f) as u8;
        number >>= 7;
        if number == 0 {
            bytes.push(byte);
            return bytes;
        }
        bytes.push(byte | 0x80);
    }
}
