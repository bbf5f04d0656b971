//! Components that are written as text, and generated ones that are hard on a compiler.

use std::sync::atomic::{AtomicU32, Ordering};

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// Makes a stub of text: of a component, or of a core module.
pub(crate) fn from_text(text: &str) -> Vec<u8> {
    let mut module = wat::parse_str(text).unwrap_or_else(|error| panic!("{error}"));
    if text.contains("(component") {
        return module;
    }
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../wit/0.1")).expect("the contract");
    let world = resolve.select_world(&[package], Some("protostub")).expect("its world");
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).expect("metadata");
    ComponentEncoder::default().module(&module).expect("a module").encode().expect("a component")
}

/// Number of branches of each function in the component that is slow to compile.
const BRANCHES: usize = 1_000;

/// Generates a component with `count` functions. 4 000 functions are 56 MB of code, which takes a
/// compiler many times the time limit of the attack. Each component differs from those before, so
/// that no run finds the code of another run.
pub(crate) fn slow(count: usize) -> Vec<u8> {
    static GENERATED: AtomicU32 = AtomicU32::new(0);
    // No locals. Each branch is `block, local.get 0, br_if 0, local.get 0, i32.const 3, i32.mul,
    // local.set 0, end`. All branches are in one loop.
    let branch = [0x02, 0x40, 0x20, 0x00, 0x0d, 0x00, 0x20, 0x00, 0x41, 0x03, 0x6c, 0x21, 0x00, 0x0b];
    let body = [&[0x00, 0x03, 0x40][..], &branch.repeat(BRANCHES), &[0x0b, 0x20, 0x00, 0x0b]].concat();
    let body = [size(body.len()), body].concat();
    let types = [1, 0x60, 1, 0x7f, 1, 0x7f];
    let functions = [size(count), vec![0; count]].concat();
    let code = [size(count), body.repeat(count)].concat();
    let module = [b"\0asm\x01\0\0\0".to_vec(), section(1, &types), section(3, &functions), section(10, &code)].concat();
    // A custom section with the name `n`.
    let number = [&[1, b'n'][..], &GENERATED.fetch_add(1, Ordering::Relaxed).to_le_bytes()].concat();
    [b"\0asm\x0d\0\x01\0".to_vec(), section(1, &module), section(0, &number)].concat()
}

/// Number of imports with long names.
const IMPORTS: usize = 600;
/// Length of the longest of these names, in bytes. The engine allows 100 000.
const ENDLESS_NAME_BYTES: usize = 90_000;
/// Total length of the names that a component may have, in bytes.
const LONG_NAME_BYTES: usize = 1_000;

/// Generates a component of 54 MB: no code, and 600 imports with endless names.
pub(crate) fn endless_import_names(_: usize) -> Vec<u8> {
    imports_of(ENDLESS_NAME_BYTES)
}

/// Generates a component of 600 KB: no code, and 600 imports with long names.
pub(crate) fn long_import_names(_: usize) -> Vec<u8> {
    imports_of(LONG_NAME_BYTES)
}

fn imports_of(name_bytes: usize) -> Vec<u8> {
    // An instance type with one function `f`.
    let types = [1, 0x42, 2, 0x01, 0x40, 0, 1, 0, 0x04, 0, 1, b'f', 1, 0];
    let mut imports = size(IMPORTS);
    for n in 0..IMPORTS {
        let name = format!("a:b/c{n}-{}", "x".repeat(name_bytes));
        imports.extend([&[0][..], &size(name.len()), name.as_bytes(), &[5, 0]].concat());
    }
    [b"\0asm\x0d\0\x01\0".to_vec(), section(7, &types), section(10, &imports)].concat()
}

fn section(id: u8, contents: &[u8]) -> Vec<u8> {
    [vec![id], size(contents.len()), contents.to_vec()].concat()
}

/// Encodes an unsigned number in LEB128.
fn size(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(number & 0x7f).expect("seven bits");
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}
