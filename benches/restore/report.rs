//! The figures, in lines that can be copied into `docs/performance.md`.

use std::time::Duration;

use crate::measured::{Measured, Requests};
use crate::raw::{Limit, Rates};

const MIB: f64 = 1024.0 * 1024.0;

/// On what it was measured.
pub fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let model = model.map_or("an unknown processor", |(_, name)| name.trim());
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().next().unwrap_or("?");
    format!("{cores} cores of {model}, load {load} at the start; etcd with fsync, kube-apiserver with an audit log")
}

/// The medians of all runs of one scenario.
pub fn scenario(name: &str, runs: &[(Measured, Limit)]) {
    let Some((first, _)) = runs.first() else { return };
    println!("\n{name}: {:?}", first.counts);
    let median = |of: &dyn Fn(&Measured, &Limit) -> f64| median(runs.iter().map(|(run, limit)| of(run, limit)));
    println!(
        "  median: {:.2} s, {:.2}× the limit, {:.1} MiB, {:.2} s CPU",
        median(&|run, _| run.wall.as_secs_f64()),
        median(&ratio),
        median(&|run, _| run.peak_bytes as f64 / MIB),
        median(&|run, _| run.cpu.as_secs_f64()),
    );
    println!("  time line, medians:");
    for (step, _) in &first.time_line {
        let seconds = median(&|run, _| step_seconds(run, step));
        println!("    {seconds:6.2} s  {step}");
    }
}

/// One run.
pub fn line(measured: &Measured, limit: &Limit) -> String {
    let Measured { wall, cpu, peak_bytes, objects, counts, writing, requests, first_writes: _, time_line: _ } =
        measured;
    let Limit { lists, list_bytes, rates } = limit;
    let Requests { writes, lists: pages, gets, reviews, journal } = requests;
    let rates: Vec<String> = rates.iter().map(raw).collect();
    format!(
        "{:.2} s whole, {:.0} objects a second; first to last write {:.2} s for {writes} writes ({:.0} a second); \
         limit {:.2} s (LISTs {:.2} s for {:.1} MiB; {}), ratio {:.2}; peak {:.1} MiB, CPU {:.2} s; \
         {pages} LIST pages, {gets} GETs, {reviews} access reviews, {journal} writes of the Run",
        wall.as_secs_f64(),
        *objects as f64 / wall.as_secs_f64(),
        writing.as_secs_f64(),
        *writes as f64 / writing.as_secs_f64().max(0.001),
        limit.of(*counts).as_secs_f64(),
        lists.as_secs_f64(),
        *list_bytes as f64 / MIB,
        rates.join("; "),
        ratio(measured, limit),
        *peak_bytes as f64 / MIB,
        cpu.as_secs_f64(),
    )
}

fn raw(rates: &Rates) -> String {
    let Rates { in_flight, creates, replaces, deletes } = rates;
    format!("{in_flight} in flight: {creates:.0} POST, {replaces:.0} PUT, {deletes:.0} DELETE a second")
}

fn ratio(measured: &Measured, limit: &Limit) -> f64 {
    measured.wall.as_secs_f64() / limit.of(measured.counts).as_secs_f64().max(f64::MIN_POSITIVE)
}

fn step_seconds(measured: &Measured, name: &str) -> f64 {
    measured.time_line.iter().find(|(step, _)| step == name).map_or(0.0, |(_, took)| Duration::as_secs_f64(took))
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
