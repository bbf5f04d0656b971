//! The machine on which the figures were measured.

use std::fs;

use serde::Serialize;

#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    cpu: String,
    cores: usize,
    memory_gib: u64,
    kernel: String,
    max_map_count: Option<u64>,
    /// Load averages before the run: over one minute, five, and fifteen.
    load: String,
    wasmtime: &'static str,
    node: Option<String>,
    extism: Option<String>,
    mode: &'static str,
}

impl Machine {
    pub(crate) fn here(mode: &'static str, node: Option<String>, extism: Option<String>) -> Self {
        let read = |file| fs::read_to_string(file).unwrap_or_default();
        let number = |text: &str| text.split_whitespace().find_map(|word| word.parse::<u64>().ok());
        let cpuinfo = read("/proc/cpuinfo");
        let cpu = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
        Self {
            cpu: cpu.trim_start_matches([' ', '\t', ':']).to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gib: number(&read("/proc/meminfo")).unwrap_or_default().div_ceil(1 << 20),
            kernel: read("/proc/sys/kernel/osrelease").trim().split('-').next().unwrap_or_default().to_owned(),
            max_map_count: number(&read("/proc/sys/vm/max_map_count")),
            load: read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" "),
            wasmtime: env!("PROTOSTUB_WASMTIME"),
            node,
            extism,
            mode,
        }
    }
}
