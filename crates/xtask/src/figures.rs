//! Every figure in the bullets of `README.md` is the one that `BENCHMARKS.md` records.
//!
//! A figure is a link whose title names its source:
//!
//! ```text
//! [0.70 ms](BENCHMARKS.md#last-recorded-run "deploy_warm_ms")
//! [4.5 µs](BENCHMARKS.md#last-recorded-run "trip_vs_bare: trip, 100 B")
//! ```
//!
//! The first title names a row of the recorded table, and means the row's value. The second title
//! means the part `trip, 100 B` in the row's last column. The README has the recorded number in a
//! unit of its choice, rounded to as many digits as it shows.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result, bail, ensure};

use crate::root;

/// Part of a figure's link between the text and the title.
const LINK: &str = "](BENCHMARKS.md#last-recorded-run \"";

/// Figure in the README: `1.7 times`, with the title of its link.
#[derive(Debug, PartialEq, Eq)]
struct Figure<'a> {
    text: &'a str,
    source: &'a str,
}

/// Returns the figures in a Markdown text whose lines have been joined.
fn figures(markdown: &str) -> Vec<Figure<'_>> {
    let links = markdown.match_indices(LINK).filter_map(|(at, link)| {
        let (_, text) = markdown.get(..at)?.rsplit_once('[')?;
        let (source, _) = markdown.get(at + link.len()..)?.split_once("\")")?;
        Some(Figure { text, source })
    });
    links.collect()
}

/// Returns the bullets of the README's first screen, each on one line.
fn bullets(readme: &str) -> Vec<String> {
    let first_screen = readme.split("\n## ").next().unwrap_or_default();
    let list = first_screen.split("\n\n").filter(|paragraph| paragraph.starts_with("- "));
    let items = list.flat_map(|list| list.split("\n- "));
    items.map(|item| item.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

/// Recorded values by their source: a row's name, or a row's name and a part of its last column.
fn recorded(benchmarks: &str) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    let (_, table) = benchmarks.split_once("<!-- the last run -->").unwrap_or_default();
    let (table, _) = table.split_once("<!-- end -->").unwrap_or_default();
    for row in table.lines().filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |")) {
        let Some((name, cells)) = row.split_once("` | ") else { continue };
        let cells: Vec<_> = cells.split(" | ").collect();
        let [value, _target, _met, parts] = cells[..] else { continue };
        let (value, _spread) = value.split_once(" ± ").unwrap_or((value, ""));
        values.insert(name.to_owned(), value.to_owned());
        for (part, value) in parts.split("; ").filter_map(|part| part.rsplit_once(": ")) {
            values.insert(format!("{name}: {part}"), value.to_owned());
        }
    }
    values
}

/// Splits `4.5 µs` into the digits and the unit: its dimension and its factor.
fn quantity(text: &str) -> Result<(&str, &'static str, f64)> {
    let (digits, unit) = text.split_once(' ').unwrap_or((text, ""));
    let (dimension, factor) = match unit {
        "ns" => ("time", 1e-9),
        "µs" => ("time", 1e-6),
        "ms" => ("time", 1e-3),
        "KiB" => ("memory", 1.0),
        "MiB" => ("memory", 1024.0),
        "cores" => ("cores", 1.0),
        "messages/s" => ("rate", 1.0),
        "" | "times" => ("ratio", 1.0),
        "%" => ("ratio", 0.01),
        unknown => bail!("{text:?} has an unknown unit: {unknown:?}"),
    };
    Ok((digits, dimension, factor))
}

/// Compares a figure with its recorded value, rounded to the figure's digits.
fn check(figure: &Figure<'_>, recorded: &BTreeMap<String, String>) -> Result<()> {
    let Figure { text, source } = figure;
    let value = recorded.get(*source).with_context(|| format!("BENCHMARKS.md records no {source:?}"))?;
    let (shown, dimension, factor) = quantity(text)?;
    let (digits, recorded_dimension, recorded_factor) = quantity(value)?;
    ensure!(dimension == recorded_dimension, "README.md has {text:?} for {source:?}, which is recorded as {value:?}");
    let number: f64 = digits.parse().with_context(|| format!("{source:?} is recorded as {value:?}"))?;
    let decimals = shown.split_once('.').map_or(0, |(_, decimals)| decimals.len());
    let rounded = format!("{:.decimals$}", number * recorded_factor / factor);
    ensure!(rounded == shown, "README.md has {text:?} for {source:?}, which is recorded as {value:?}: {rounded}");
    Ok(())
}

#[test]
fn readme_figures_equal_the_recorded_benchmark() {
    let read = |file: &str| fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    let recorded = recorded(&read("BENCHMARKS.md"));
    let bullets = bullets(&read("README.md"));
    assert_eq!(bullets.len(), 5, "{bullets:#?}");
    for bullet in bullets {
        let figures = figures(&bullet);
        assert!(!figures.is_empty(), "a bullet of README.md has no figure: {bullet}");
        for figure in figures {
            check(&figure, &recorded).unwrap_or_else(|error| panic!("{error:#}"));
        }
    }
}

#[test]
fn figure_that_differs_from_the_record_is_found() {
    let table =
        "<!-- the last run -->\n| `trip` | 1.72 ± 8 % | <= 2.0 | yes | trip, 100 B: 4473 ns; bare: 2.5 µs |\n<!-- end -->\n";
    let recorded = recorded(table);
    for (text, source, agrees) in [
        ("1.7 times", "trip", true),
        ("1.72 times", "trip", true),
        ("172 %", "trip", true),
        ("1.8 times", "trip", false),
        ("1.7 ms", "trip", false),
        ("4.5 µs", "trip: trip, 100 B", true),
        ("4.4 µs", "trip: trip, 100 B", false),
        ("2500 ns", "trip: bare", true),
        ("1.7 times", "fall", false),
    ] {
        assert_eq!(check(&Figure { text, source }, &recorded).is_ok(), agrees, "{text} for {source}");
    }
    let link = "It takes [1.7 times](BENCHMARKS.md#last-recorded-run \"trip\") as long.";
    assert_eq!(figures(link), [Figure { text: "1.7 times", source: "trip" }]);
}
