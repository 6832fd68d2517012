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

/// What of a run is held against its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// From the start of the process to its end.
    Whole,
    /// From the first write of an object to the last.
    Writing,
}

impl Part {
    fn seconds(self, measured: &Measured) -> f64 {
        match self {
            Self::Whole => measured.wall,
            Self::Writing => measured.writing,
        }
        .as_secs_f64()
    }

    fn ratio(self, measured: &Measured, limit: &Limit) -> f64 {
        self.seconds(measured) / limit.of(measured.counts).as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

/// One `plan`, beside the LISTs alone.
pub fn plan_line(took: Duration, limit: &Limit) -> String {
    let (took, lists) = (took.as_secs_f64(), limit.lists.as_secs_f64());
    format!("plan {took:.2} s, LISTs {lists:.2} s, ratio {:.2}", took / lists)
}

/// The medians of all plans.
pub fn plans(plans: &[(Duration, Limit)]) {
    let took = median(plans.iter().map(|(took, _)| took.as_secs_f64()));
    let ratio = median(plans.iter().map(|(took, limit)| took.as_secs_f64() / limit.lists.as_secs_f64()));
    println!("\nplan of 40 % disturbed\n  median: {took:.2} s, {ratio:.2}× the LISTs");
}

/// The medians of all runs of one scenario.
pub fn scenario(name: &str, runs: &[(Measured, Limit)], part: Part) {
    let Some((first, _)) = runs.first() else { return };
    println!("\n{name}: {:?}", first.counts);
    let median = |of: &dyn Fn(&Measured, &Limit) -> f64| median(runs.iter().map(|(run, limit)| of(run, limit)));
    println!(
        "  median: {:.2} s, {:.2}× the limit; whole run {:.2} s, {:.1} MiB, {:.2} s CPU",
        median(&|run, _| part.seconds(run)),
        median(&|run, limit| part.ratio(run, limit)),
        median(&|run, _| run.wall.as_secs_f64()),
        median(&|run, _| run.peak_bytes as f64 / MIB),
        median(&|run, _| run.cpu.as_secs_f64()),
    );
    println!("  time line, medians:");
    for (step, _) in &first.time_line {
        let seconds = median(&|run, _| step_seconds(run, step));
        println!("    {seconds:6.2} s  {step}");
    }
}

/// The medians of what a plain loop took for the same objects, in a cluster as new.
pub fn beside_a_plain_loop(runs: &[(Measured, Limit)], plain: &[Duration]) {
    if plain.is_empty() {
        return;
    }
    let writing = median(runs.iter().map(|(run, _)| run.writing.as_secs_f64()));
    let plain = median(plain.iter().map(Duration::as_secs_f64));
    println!("  a plain loop into an empty cluster: {plain:.2} s, ratio to it {:.2}", writing / plain);
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
         limit {:.2} s (LISTs {:.2} s for {:.1} MiB; {}), ratio {:.2} whole and {:.2} writing; peak {:.1} MiB, CPU {:.2} s; \
         {pages} LIST pages, {gets} GETs, {reviews} access reviews, {journal} writes of the Run",
        wall.as_secs_f64(),
        *objects as f64 / wall.as_secs_f64(),
        writing.as_secs_f64(),
        *writes as f64 / writing.as_secs_f64().max(0.001),
        limit.of(*counts).as_secs_f64(),
        lists.as_secs_f64(),
        *list_bytes as f64 / MIB,
        rates.join("; "),
        Part::Whole.ratio(measured, limit),
        Part::Writing.ratio(measured, limit),
        *peak_bytes as f64 / MIB,
        cpu.as_secs_f64(),
    )
}

fn raw(rates: &Rates) -> String {
    let Rates { in_flight, creates, replaces, deletes } = rates;
    format!("{in_flight} in flight: {creates:.0} POST, {replaces:.0} PUT, {deletes:.0} DELETE a second")
}

fn step_seconds(measured: &Measured, name: &str) -> f64 {
    measured.time_line.iter().find(|(step, _)| step == name).map_or(0.0, |(_, took)| Duration::as_secs_f64(took))
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
