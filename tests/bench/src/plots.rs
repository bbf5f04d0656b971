//! Plots of the growth of times and memory, which single figures do not show.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, anyhow};
use plotters::prelude::*;

/// The data of the plots.
#[derive(Debug, Default)]
pub(crate) struct Curves {
    /// Number of stubs, with the median and the p99 of a round trip, in nanoseconds.
    pub(crate) latency: Vec<(usize, f64, f64)>,
    /// Number of stubs, with the resident memory of the process, in bytes.
    pub(crate) memory: Vec<(usize, f64)>,
    /// For each size of bodies: number of messages in flight, with the messages per second that
    /// come back.
    pub(crate) throughput: Vec<(&'static str, Vec<(u32, f64)>)>,
}

/// A line of a plot.
struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

impl Curves {
    /// Draws the available curves.
    pub(crate) fn draw(&self, folder: &Path) -> Result<()> {
        let of = |name: &str, points: Vec<(f64, f64)>| Line { name: name.to_owned(), points };
        let stubs = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        let latency = [
            of("median", self.latency.iter().map(|(count, median, _)| (stubs(*count), median / 1e3)).collect()),
            of("99th percentile", self.latency.iter().map(|(count, _, p99)| (stubs(*count), p99 / 1e3)).collect()),
        ];
        let memory = [of("", self.memory.iter().map(|(count, bytes)| (stubs(*count), bytes / 1_048_576.0)).collect())];
        let throughput: Vec<_> = self
            .throughput
            .iter()
            .map(|(name, points)| of(name, points.iter().map(|(window, rate)| (f64::from(*window), *rate)).collect()))
            .collect();
        for (file, title, x, y, lines) in [
            ("latency-stubs.svg", "Round trip, one at a time", "live stubs", "µs", &latency[..]),
            ("memory-stubs.svg", "Resident memory of the process", "live stubs", "MiB", &memory[..]),
            ("throughput.svg", "Through the bus, a stub and back", "messages on their way", "messages a second", &throughput[..]),
        ] {
            if lines.iter().any(|line| line.points.len() > 1) {
                let text = svg(title, x, y, lines).map_err(|error| anyhow!("drawing {file}: {error}"))?;
                fs::write(folder.join(file), text).with_context(|| format!("writing {file}"))?;
            }
        }
        Ok(())
    }
}

/// Draws a plot with two logarithmic axes.
fn svg(title: &str, x: &str, y: &str, lines: &[Line]) -> Result<String, Box<dyn std::error::Error>> {
    const COLOURS: [RGBColor; 3] = [RGBColor(31, 119, 180), RGBColor(214, 39, 40), RGBColor(44, 160, 44)];
    let points = || lines.iter().flat_map(|line| &line.points);
    let range = |of: fn(&(f64, f64)) -> f64| {
        let values = || points().map(of);
        (values().fold(f64::INFINITY, f64::min) / 1.5)..(values().fold(0.0, f64::max) * 1.5)
    };
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, (720, 420)).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(title, ("sans-serif", 20))
            .margin(16)
            .x_label_area_size(44)
            .y_label_area_size(76)
            .build_cartesian_2d(range(|point| point.0).log_scale(), range(|point| point.1).log_scale())?;
        chart.configure_mesh().x_desc(x).y_desc(y).light_line_style(WHITE).draw()?;
        for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
            let drawn = chart.draw_series(LineSeries::new(line.points.iter().copied(), colour.stroke_width(2)).point_size(3))?;
            if !line.name.is_empty() {
                drawn
                    .label(line.name.as_str())
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
            }
        }
        if lines.iter().any(|line| !line.name.is_empty()) {
            chart.configure_series_labels().border_style(BLACK).background_style(WHITE).draw()?;
        }
        root.present()?;
    }
    Ok(text)
}
