//! The report of the figures, as a file and as text.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::{machine::Machine, samples::Samples};

/// All figures: id, unit, target, and a description with the comparison.
pub(crate) const FIGURES: [Goal; 23] = [
    Goal::ratio("trip_vs_bare", "<= 2.0", "a message through the bus, a stub and back, against the bare call"),
    Goal::ratio("trip_loaded_vs_bare", "<= 1.5", "the same under load, for each message, against the bare call batched alike"),
    Goal::ratio("trip_vs_extism", ">= 5", "Extism's time for the same, divided by ours"),
    Goal::ratio("instantiate_vs_extism", ">= 8", "Extism's time for an instance, divided by ours"),
    Goal::ratio("idle_vs_extism", ">= 5", "Extism's memory for an idle instance, divided by ours"),
    Goal::ratio("trip_vs_node", ">= 10", "a Node.js worker's time for the same, divided by ours"),
    Goal::of("crossing_us", "µs", "reported", "an embedder's request from its own runtime, above the trip itself"),
    Goal::ratio("gateway_100b", ">= 0.60", "messages a second through the message node's stub against a native gateway, 100 B"),
    Goal::ratio("gateway_4k", ">= 0.85", "the same, 4 KiB"),
    Goal::of("deploy_warm_ms", "ms", "<= 2", "all 22 steps to `live`, component cached, catalogue on loopback"),
    Goal::ratio("deploy_warm_vs_parts", "<= 1.5", "the same against its parts, each measured alone"),
    Goal::ratio("deploy_cold_vs_compile", "<= 1.2", "all 22 steps with nothing cached against `Component::new` alone"),
    Goal::ratio("instantiate_vs_bare", "<= 1.2", "a sandbox with a started instance against the same of bare wasmtime"),
    Goal::of("idle_stub_kib", "KiB", "<= 64", "resident memory of a live, idle stub among 10 000"),
    Goal::ratio("idle_stub_vs_bare", "<= 1.5", "the same against a bare store"),
    Goal::ratio("p99_10000_vs_100", "<= 2", "p99 of a round trip, 100 stubs busy among 10 000, against 100 among 100"),
    Goal::of("idle_cpu_10000", "cores", "< 0.01", "what a process with 10 000 live, idle stubs computes"),
    Goal::ratio("bus_vs_mpsc", ">= 0.50", "messages a second over the bus alone against a `tokio::sync::mpsc` channel"),
    Goal::ratio("message_growth", "<= 1.2", "time for a message with 10 000 addresses on the bus, against 1"),
    Goal::ratio("subscribe_growth", "<= 1.5", "time for a subscription among 50 000 of one topic, against 500"),
    Goal::ratio("queued_vs_limit", "<= 1.0", "memory of 60 flooded stubs that read nothing, against `max-queued-bytes`"),
    Goal::ratio("deploy_growth", "<= 1.2", "time for a deployment among 10 000 stubs, against the first ones"),
    Goal::of("herd_p90_ms", "ms", "<= 5", "p90 of a request to a stub while 2 000 other stubs are deployed at once"),
];

/// The target of a figure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Goal {
    pub(crate) id: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) target: &'static str,
    pub(crate) what: &'static str,
}

impl Goal {
    const fn of(id: &'static str, unit: &'static str, target: &'static str, what: &'static str) -> Self {
        Self { id, unit, target, what }
    }

    const fn ratio(id: &'static str, target: &'static str, what: &'static str) -> Self {
        Self::of(id, "ratio", target, what)
    }

    /// Returns `true` if a value meets the target.
    fn is_met(&self, value: f64) -> bool {
        let mut words = self.target.split(' ');
        match (words.next(), words.next().and_then(|bound| bound.parse::<f64>().ok())) {
            (Some("<="), Some(most)) => value <= most,
            (Some("<"), Some(most)) => value < most,
            (Some(">="), Some(least)) => value >= least,
            _ => true,
        }
    }
}

/// One figure of the report.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    /// The median. `None` if the figure could not be measured.
    pub(crate) value: Option<f64>,
    pub(crate) unit: &'static str,
    pub(crate) target: &'static str,
    pub(crate) met: bool,
    pub(crate) what: &'static str,
    /// The components of the figure: both sides of a ratio, and other values measured with it.
    pub(crate) sides: Vec<Side>,
    pub(crate) runs: usize,
    /// From the first to the third quartile, as a fraction of the median.
    pub(crate) spread: f64,
    /// The reason for a missing value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<String>,
}

/// The median of one measured thing.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Side {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    pub(crate) runs: usize,
    pub(crate) spread: f64,
}

impl Side {
    pub(crate) fn new(name: impl Into<String>, unit: &'static str, samples: &Samples) -> Self {
        Self { name: name.into(), value: samples.median(), unit, runs: samples.len(), spread: samples.spread() }
    }
}

/// The content of `report.json`.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) figures: BTreeMap<&'static str, Figure>,
}

impl Report {
    pub(crate) fn new(machine: Machine) -> Self {
        Self { machine, figures: BTreeMap::new() }
    }

    /// Records a figure.
    pub(crate) fn add(&mut self, id: &'static str, samples: &Samples, sides: Vec<Side>) {
        let Some(goal) = FIGURES.iter().find(|goal| goal.id == id) else { return };
        let value = samples.median();
        let figure = Figure {
            value: Some(value),
            met: goal.is_met(value),
            runs: samples.len(),
            spread: samples.spread(),
            sides,
            ..Figure::missing(goal)
        };
        self.figures.insert(id, figure);
    }

    /// Records that a figure could not be measured, and the reason.
    pub(crate) fn without(&mut self, id: &'static str, why: &str) {
        if let Some(goal) = FIGURES.iter().find(|goal| goal.id == id) {
            self.figures.insert(id, Figure { note: Some(why.to_owned()), ..Figure::missing(goal) });
        }
    }

    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        for (name, text) in [("report.json", serde_json::to_string_pretty(self)? + "\n"), ("table.md", self.table())] {
            let file = folder.join(name);
            fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
        }
        Ok(())
    }

    /// Returns the numbers of figures that meet and miss their targets.
    pub(crate) fn verdict(&self) -> (usize, usize) {
        let met = self.figures.values().filter(|figure| figure.met).count();
        (met, self.figures.len() - met)
    }

    /// Returns the figures as a Markdown table, in the order of [`FIGURES`].
    pub(crate) fn table(&self) -> String {
        let mut table =
            String::from("| figure | value | to reach | met | what it is made of |\n| --- | ---: | --- | --- | --- |\n");
        for goal in FIGURES {
            let Some(figure) = self.figures.get(goal.id) else { continue };
            let value = match figure.value {
                Some(value) => format!("{} ± {:.0} %", shown(value, figure.unit), figure.spread * 50.0),
                None => "—".to_owned(),
            };
            let mut parts: Vec<_> =
                figure.sides.iter().map(|side| format!("{}: {}", side.name, shown(side.value, side.unit))).collect();
            parts.extend(figure.note.clone());
            let (id, target, met) = (goal.id, goal.target, if figure.met { "yes" } else { "no" });
            table += &format!("| `{id}` | {value} | {target} | {met} | {} |\n", parts.join("; "));
        }
        table
    }
}

impl Figure {
    fn missing(goal: &Goal) -> Self {
        let Goal { unit, target, what, .. } = *goal;
        Self { value: None, unit, target, met: false, what, sides: Vec::new(), runs: 0, spread: 0.0, note: None }
    }
}

/// Formats a number for people.
pub(crate) fn shown(value: f64, unit: &str) -> String {
    let number = match value.abs() {
        large if large >= 1_000.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        small if small >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    };
    if unit == "ratio" { number } else { format!("{number} {unit}") }
}
