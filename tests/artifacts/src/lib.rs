//! The built guests of the repository, which tests and benchmarks deploy.
//!
//! The build script builds the sample stubs of `stubs` and the programs of `tests/programs`,
//! whenever they, the SDK or the contract change. [`component`] and [`path`] find a guest by the
//! name of its package, `message-node` for example. [`for_each_guest!`] lists all guests:
//! `tests/it/guests.rs` uses the list to refuse a guest without a test.

use std::{fs, path::Path};

include!(concat!(env!("OUT_DIR"), "/guests.rs"));

/// Returns the component of a guest.
///
/// # Panics
/// If no guest has this name.
#[must_use]
pub fn component(name: &str) -> Vec<u8> {
    read(path(name))
}

/// Returns the file with the component of a guest.
///
/// # Panics
/// If no guest has this name.
#[must_use]
pub fn path(name: &str) -> &'static Path {
    let guest = GUESTS.iter().find(|(guest, _)| *guest == name);
    let (_, path) = guest.unwrap_or_else(|| panic!("no guest is called `{name}`: the guests are {:?}", names()));
    Path::new(path)
}

/// Returns the component of a stub in another language than Rust: `echo-python`, for example.
///
/// Cargo does not build these stubs. The README of each stub says how to build it.
///
/// # Panics
/// If the component is not built.
#[must_use]
pub fn component_in_other_language(name: &str) -> Vec<u8> {
    let folder = path("echo").ancestors().nth(3).expect("guests are built below `target/stubs`");
    read(&folder.join(name).with_extension("wasm"))
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("reading {}: {error}", path.display()))
}

fn names() -> Vec<&'static str> {
    GUESTS.iter().map(|(name, _)| *name).collect()
}
