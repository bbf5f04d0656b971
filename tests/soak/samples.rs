//! Resource use of the process, second by second, and its growth.

use std::fmt;

use hostile::{descriptors, resident, threads};
use protostub_runtime::Runtime;
use serde_json::{Value, json};
use tokio::{runtime::Handle, sync::oneshot};

/// Resource use at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    resident: f64,
    descriptors: f64,
    threads: f64,
    /// Tasks of the host program's async runtime and of the library's.
    tasks: f64,
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { resident, descriptors, threads, tasks } = self;
        write!(f, "{:.0} MiB, {descriptors} descriptors, {threads} threads, {tasks} tasks", resident / MEBIBYTE)
    }
}

const MEBIBYTE: f64 = 1_048_576.0;

/// A watched value, with the permitted growth of its mean from the first to the last third: as a
/// fraction, and as an amount. The larger of both counts.
type Watched = (&'static str, fn(&Sample) -> f64, f64, f64);

const WATCHED: [Watched; 4] = [
    ("residentBytes", |sample| sample.resident, 0.10, 16.0 * MEBIBYTE),
    ("descriptors", |sample| sample.descriptors, 0.10, 8.0),
    ("threads", |sample| sample.threads, 0.10, 4.0),
    ("tasks", |sample| sample.tasks, 0.10, 16.0),
];

/// All samples of a run.
#[derive(Debug, Default)]
pub(crate) struct Samples(Vec<Sample>);

/// The verdict on growth.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) growing: Vec<String>,
    pub(crate) text: String,
    pub(crate) json: Value,
}

impl Samples {
    pub(crate) async fn take(&mut self, runtime: &Runtime) -> Sample {
        let (count, counted) = oneshot::channel();
        runtime.spawn_inside(async move {
            let _ = count.send(Handle::current().metrics().num_alive_tasks());
        });
        let inside = counted.await.unwrap_or_default();
        let number = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        let sample = Sample {
            resident: number(usize::try_from(resident().0 >> 10).unwrap_or(usize::MAX)) * 1024.0,
            descriptors: number(descriptors()),
            threads: number(threads()),
            tasks: number(inside + Handle::current().metrics().num_alive_tasks()),
        };
        self.0.push(sample);
        sample
    }

    /// Compares the means of the first and the last third, after a warm-up of a sixth of the time.
    pub(crate) fn verdict(&self) -> Verdict {
        let steady = &self.0[self.0.len() / 6..];
        let third = steady.len() / 3;
        let (first, last) = (&steady[..third], &steady[steady.len() - third..]);
        let mut verdict = Verdict { growing: Vec::new(), text: String::new(), json: json!({ "samples": self.0.len() }) };
        for (name, of, part, at_least) in WATCHED {
            let mean = |samples: &[Sample]| {
                samples.iter().map(of).sum::<f64>() / f64::from(u32::try_from(samples.len().max(1)).unwrap_or(1))
            };
            let (before, after) = (mean(first), mean(last));
            let tolerance = (before * part).max(at_least);
            let (shown, unit) = if name == "residentBytes" { (MEBIBYTE, " MiB") } else { (1.0, "") };
            if after > before + tolerance {
                verdict.growing.push(format!("{name} grew from {:.1} to {:.1}{unit}", before / shown, after / shown));
            }
            let comma = if verdict.text.is_empty() { "" } else { ", " };
            verdict.text += &format!("{comma}{name} {:.1} → {:.1}{unit}", before / shown, after / shown);
            verdict.json[name] = json!({ "firstThird": before, "lastThird": after, "tolerance": tolerance });
        }
        verdict
    }
}
