use std::collections::BTreeMap;

use super::{circles, source::Crate};

/// Parses a crate of these files.
fn parsed(files: &[(&str, &str)]) -> Crate {
    let files: BTreeMap<_, _> = files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    Crate::parse(&files).expect("a crate")
}

/// Lists the uses among these files, as `from -> to: names`.
fn uses(files: &[(&str, &str)]) -> Vec<String> {
    let line = |((from, to), names): (&(String, String), &std::collections::BTreeSet<String>)| {
        format!("{from} -> {to}: {}", names.iter().map(String::as_str).collect::<Vec<_>>().join(" "))
    };
    parsed(files).uses().iter().map(line).collect()
}

#[test]
fn import_of_a_reexport_leads_to_its_definition() {
    let files = [
        ("lib.rs", "mod a; mod b; mod c; pub use a::One; pub use b::*;"),
        ("a.rs", "pub struct One;"),
        ("b/mod.rs", "mod deep; pub use deep::Two as Renamed; pub fn three() {}"),
        ("b/deep.rs", "pub enum Two { A }"),
        ("c.rs", "use crate::{One, b::{self, Renamed}, three};"),
    ];
    assert_eq!(uses(&files), ["c.rs -> a.rs: One", "c.rs -> b/deep.rs: Renamed", "c.rs -> b/mod.rs: b three"]);
}

#[test]
fn relative_paths_lead_to_files() {
    let files = [
        ("lib.rs", "mod a; mod b;"),
        ("a.rs", "mod inner; mod sibling; pub fn f() {}"),
        ("a/inner.rs", "use super::{f, sibling::Kind::X}; use super::super::b; mod nested { use super::super::f as g; }"),
        ("a/sibling.rs", "pub enum Kind { X } fn h() { self::Kind::X; }"),
        ("b.rs", "use std::fmt; use other::a::f;"),
    ];
    assert_eq!(uses(&files), ["a/inner.rs -> a.rs: f", "a/inner.rs -> a/sibling.rs: X", "a/inner.rs -> b.rs: b"]);
}

#[test]
fn paths_in_code_and_in_macros_count() {
    let files = [
        ("lib.rs", "mod a; mod b; mod c;"),
        ("a.rs", "fn f() -> crate::b::B { vec![(1, crate::c::make())]; todo!() }"),
        ("b.rs", "pub struct B; impl B { fn g() { use crate::c::make; } }"),
        ("c.rs", "pub fn make() {} // crate::a::f"),
    ];
    assert_eq!(uses(&files), ["a.rs -> b.rs: B", "a.rs -> c.rs: make", "b.rs -> c.rs: make"]);
}

#[test]
fn tests_and_the_root_do_not_count() {
    let files = [
        ("lib.rs", "mod a; mod b; use crate::a::f;"),
        ("a.rs", "pub fn f() {} #[cfg(test)] mod tests { use crate::b::g; } #[cfg(all(test, unix))] use crate::b::g;"),
        ("b.rs", "#[cfg(any(test, unix))] use crate::a::f; pub fn g() {} #[test] fn t() { crate::a::f() }"),
    ];
    assert_eq!(uses(&files), ["b.rs -> a.rs: f"]);
}

#[test]
fn items_made_by_macros_belong_to_their_caller() {
    let files =
        [("lib.rs", "mod a; mod b;"), ("a.rs", "generate!();"), ("b.rs", "use crate::a::Made; use crate::a::deep::Made2;")];
    assert_eq!(uses(&files), ["b.rs -> a.rs: Made Made2"]);
}

#[test]
fn circle_is_found_with_its_edges() {
    let files = [
        ("lib.rs", "mod a; mod b; mod c; mod d; mod e;"),
        ("a.rs", "use crate::b::B; pub struct A;"),
        ("b.rs", "use crate::c::C; pub struct B;"),
        ("c.rs", "use crate::{a::A, e::E}; pub struct C;"),
        ("d.rs", "use crate::a::A; pub struct D;"),
        ("e.rs", "pub struct E;"),
    ];
    let uses = parsed(&files).uses();
    let found = circles::circles(&uses);
    assert_eq!(found, [["a.rs", "b.rs", "c.rs"]]);
    let edges: Vec<_> = circles::edges(&uses, &found[0]).collect();
    assert_eq!(edges, ["a.rs uses B of b.rs", "b.rs uses C of c.rs", "c.rs uses A of a.rs"]);
}

#[test]
fn two_circles_are_two() {
    let files = [
        ("lib.rs", "mod a; mod b; mod c; mod d;"),
        ("a.rs", "use crate::{b::B, c::C}; pub struct A;"),
        ("b.rs", "use crate::a::A; pub struct B;"),
        ("c.rs", "use crate::d::D; pub struct C;"),
        ("d.rs", "use crate::c::C; pub struct D;"),
    ];
    assert_eq!(circles::circles(&parsed(&files).uses()), [["a.rs", "b.rs"], ["c.rs", "d.rs"]]);
}

#[test]
fn types_of_one_name_are_listed_by_file() {
    let files = [
        ("lib.rs", "mod a; mod b; pub struct Same;"),
        ("a.rs", "enum Same {} struct Other; mod inner { trait Other {} }"),
        ("b.rs", "fn f() { struct Same; } #[cfg(test)] struct Same; impl X for Y { type Same = u8; }"),
    ];
    let types = parsed(&files).types;
    assert_eq!(types["Same"], ["a.rs", "lib.rs"]);
    assert_eq!(types["Other"], ["a.rs", "a.rs"]);
}

#[test]
fn missing_file_of_a_module_is_an_error() {
    let files = BTreeMap::from([("lib.rs".to_owned(), "mod a;".to_owned())]);
    let error = Crate::parse(&files).expect_err("no `a.rs`").to_string();
    assert_eq!(error, "module `a` of `lib.rs` has no file: neither `a.rs` nor `a/mod.rs`");
}
