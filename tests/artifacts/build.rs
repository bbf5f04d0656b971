//! Builds the guests: the sample stubs of `stubs`, and the programs of `tests/programs`.

#[path = "../../crates/xtask/src/guests.rs"]
mod guests;

use std::{env, fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result};

/// Sources of the guests, from the repository's root.
const SOURCES: [&str; 4] = ["crates/protostub-sdk", "stubs", "tests/programs", "wit"];

fn main() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).context("the package is in the repository")?;
    for source in SOURCES {
        println!("cargo::rerun-if-changed={}", root.join(source).display());
    }
    println!("cargo::rerun-if-changed=../../crates/xtask/src/guests.rs");
    println!("cargo::rerun-if-env-changed=CI");
    let guests = [guests::build(root, "stubs")?, guests::build(root, "tests/programs")?].concat();
    let names: String = guests.iter().map(|guest| format!("{}, ", guest.name.replace('-', "_"))).collect();
    let mut table = String::new();
    for guest in &guests {
        writeln!(table, "    ({:?}, {:?}),", guest.name, guest.component)?;
    }
    let code = format!(
        "const GUESTS: &[(&str, &str)] = &[\n{table}];\n\n\
         /// Calls a macro with the names of all guests, with `_` for `-`.\n\
         #[macro_export]\n\
         macro_rules! for_each_guest {{\n    ($each:ident) => {{ $each! {{ {names}}} }};\n}}\n"
    );
    let file = Path::new(&env::var_os("OUT_DIR").context("cargo sets no `OUT_DIR`")?).join("guests.rs");
    fs::write(&file, code).with_context(|| format!("writing {}", file.display()))
}
