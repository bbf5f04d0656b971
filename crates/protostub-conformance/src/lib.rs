//! A conformance kit: it tells the author of a stub whether the stub is right, and everybody whether a message node and this runtime are.
//!
//! * [`Case`]: what has to hold, with a stable id, the sentence of the contract or the specification that says so, and where that stands
//! * [`Verdict`]: what became of a case: it passed, it failed (what was expected, what was seen), or it does not apply (why)
//! * [`Report`]: the verdicts of a suite about one subject, as text, JSON or JUnit's XML
//! * [`stub`]: the suite for a component. It has a sandbox and a bus of its own, and stands between the stub and its server
//! * [`node`]: the suite for a message node, at any URL
//! * [`runtime`]: the suite for a runtime: the one of this project, or another one behind an adapter
//!
//! A case never waits for longer than a fixed time, and one that cannot be decided since another one failed does not apply, so that a report names what
//! is wrong once.

mod case;
pub mod node;
mod report;
pub mod runtime;
pub mod stub;

pub use case::{Case, Outcome, Verdict};
pub use report::{Report, Tally};

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Case, node::NodeSuite, runtime::RuntimeSuite, stub::StubSuite};

    /// The catalogue of cases, which sources cite as `tests/CASES.md: C7, C15`.
    const CATALOGUE: &str = include_str!("../../../tests/CASES.md");

    /// Returns the rows of the catalogue that a source cites.
    fn cited(source: &str) -> impl Iterator<Item = &str> {
        source.split("; ").filter_map(|part| part.strip_prefix("tests/CASES.md: ")).flat_map(|rows| rows.split(", "))
    }

    #[test]
    fn catalogue_has_every_cited_case() {
        let mut rows = BTreeSet::new();
        for row in CATALOGUE.lines().filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |")) {
            let (id, rest) = row.split_once("` | ").expect("an id in the first column");
            assert_eq!(rest.split(" | ").filter(|cell| !cell.trim().is_empty()).count(), 2, "{id} has no sentence or no source");
            assert!(rows.insert(id), "{id} has two rows");
        }
        let cases: Vec<Case> = StubSuite::cases().chain(NodeSuite::cases()).chain(RuntimeSuite::cases()).collect();
        let missing: Vec<_> = cases.iter().flat_map(|case| cited(case.source)).filter(|id| !rows.contains(*id)).collect();
        assert!(missing.is_empty(), "tests/CASES.md has no rows for {missing:?}");
        assert!(cases.iter().filter(|case| cited(case.source).next().is_some()).count() > 80, "too few cases cite the catalogue");
    }
}
