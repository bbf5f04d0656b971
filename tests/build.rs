//! Builds the components that the tests deploy: the sample stubs, and the programs of `tests/programs`.

#[path = "../crates/xtask/src/guests.rs"]
mod guests;

use std::path::Path;

use anyhow::{Context as _, Result};

/// What the components are made of, from the repository's root.
const SOURCES: [&str; 4] = ["crates/protostub-sdk", "stubs", "tests/programs", "wit"];

fn main() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the tests are in the repository")?;
    for source in SOURCES {
        println!("cargo::rerun-if-changed={}", root.join(source).display());
    }
    println!("cargo::rerun-if-changed=../crates/xtask/src/guests.rs");
    println!("cargo::rerun-if-env-changed=CI");
    let guests = [guests::build(root, "stubs")?, guests::build(root, "tests/programs")?].concat();
    let folder = guests.first().and_then(|guest| guest.component.parent()).context("there are no components")?;
    println!("cargo::rustc-env=PROTOSTUB_COMPONENTS={}", folder.display());
    Ok(())
}
