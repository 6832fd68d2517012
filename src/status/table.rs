//! Runs as text for a terminal.

use std::fmt::Write;

use jiff::Timestamp;

use super::commit::counts_text;
use super::text::{clean, cut_width, utc, wrap};
use super::{
    accept_line, humane_count, humane_duration, kind_word, left_at_zero, moment, newest_first, run_name, status_of,
    took, way_on,
};
use crate::health::Check;
use crate::journal::{self, SafetyBackup, StepTime};
use crate::plan::gate::Gate;
use crate::run::{OperatorRecord, Phase, PlanRecord, Progress, Run, RunStatus};

/// Narrowest table, in characters: below this columns are cut beyond reading.
const MIN_WIDTH: usize = 60;

/// Width of the lines of [`render_one`], in characters.
const LINE_WIDTH: usize = 100;

/// A line a run, newest first, in lines of at most `width` characters: the name gives way first.
pub fn render_table(runs: &[Run], now: Timestamp, width: usize) -> String {
    if runs.is_empty() {
        return "No runs yet.\n".to_owned();
    }
    let header = ["NAME", "PHASE", "REASON", "WHEN", "TOOK", "OBJECTS"].map(str::to_owned);
    let mut rows = vec![header];
    rows.extend(newest_first(runs).into_iter().map(|run| row(run, now)));
    fit(&mut rows, width.max(MIN_WIDTH));
    let widths: Vec<usize> = (0..6).map(|column| column_width(&rows, column)).collect();
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

fn row(run: &Run, now: Timestamp) -> [String; 6] {
    let status = status_of(run);
    let ago = |time: Timestamp| format!("{} ago", humane_duration(now.duration_since(time)));
    let running = status.phase == Phase::Running;
    [
        clean(run_name(run)),
        format!("{:?}", status.phase),
        if running { step_word(&status) } else { or_dash(clean(&status.reason)) },
        moment(run).map_or_else(|| "-".to_owned(), ago),
        took(&status, running.then_some(now)).map_or_else(|| "-".to_owned(), humane_duration),
        match (&status.progress, &status.counts) {
            (Some(progress), _) if running => progress_text(progress),
            (_, Some(counts)) => counts_text(counts),
            (_, None) => "-".to_owned(),
        },
    ]
}

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

fn step_word(status: &RunStatus) -> String {
    status.steps.last().map_or_else(|| "starting".to_owned(), |time| time.step.to_string())
}

fn progress_text(progress: &Progress) -> String {
    let Progress { step: _, done, total, objects_per_second, seconds_left } = progress;
    let pace = objects_per_second.map_or_else(String::new, |pace| format!(", {} a second", humane_count(pace)));
    let left = seconds_left.and_then(|seconds| i64::try_from(seconds).ok()).map_or_else(String::new, |seconds| {
        format!(", about {} left", humane_duration(jiff::SignedDuration::from_secs(seconds)))
    });
    format!("{} of {}{left}{pace}", humane_count(*done), humane_count(*total))
}

fn column_width(rows: &[[String; 6]], column: usize) -> usize {
    rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
}

/// Cuts the name, then the objects, then the name and the reason further, until a line fits.
fn fit(rows: &mut [[String; 6]], width: usize) {
    for (column, least) in [(0, 32), (5, 20), (0, 16), (2, 8), (5, 7)] {
        let total: usize = (0..6).map(|column| column_width(rows, column)).sum::<usize>() + 2 * 5;
        let excess = total.saturating_sub(width);
        let room = column_width(rows, column).saturating_sub(excess).max(least);
        rows.iter_mut().for_each(|row| row[column] = cut_width(&row[column], room));
    }
}

/// Everything about one run that a person asks for.
pub fn render_one(run: &Run, now: Timestamp) -> String {
    let status = status_of(run);
    let mut text = String::new();
    // Writing to a String cannot fail.
    let mut field = |name: &str, value: &str| {
        let name = if name.is_empty() { String::new() } else { format!("{name}:") };
        let _ = writeln!(text, "{name:<10} {}", clean(value));
    };
    field("Run", run_name(run));
    field("Manifest", &format!("{} {} in {}", kind_word(run), run.spec.manifest.name, run.spec.manifest.file));
    field("Commit", &format!("{} by {}", run.spec.source.commit, run.spec.source.author));
    field("Key", &run.spec.key);
    field("Phase", &phase_text(&status));
    if let Some(time) = status.held_since {
        field("Held", &format!("since {} UTC", utc(time)));
    }
    if let Some(time) = status.started_at {
        field("Started", &format!("{} UTC", utc(time)));
    }
    if let Some(duration) = took(&status, (status.phase == Phase::Running).then_some(now)) {
        field("Took", &humane_duration(duration));
    }
    if let Some(plan) = &status.plan {
        plan_fields(plan, &mut field);
    }
    if let Some(SafetyBackup { name, sha256: _, objects }) = &status.safety_backup {
        field("Safety", &format!("{name}, {} objects", humane_count(*objects)));
    }
    if let Some(OperatorRecord { restore, message }) = &status.operator {
        let said = if message.is_empty() { String::new() } else { format!(", said last: {}", clean(message)) };
        field("Operator", &format!("Restore {}{said}", clean(restore)));
    }
    if let (Some(progress), Phase::Running) = (&status.progress, status.phase) {
        field("Progress", &format!("{}: {}", progress.step, progress_text(progress)));
    }
    if let Some(counts) = &status.counts {
        field("Objects", &counts_text(counts));
    }
    if !status.message.is_empty() {
        text += &format!("\n{}\n", wrap(&status.message, LINE_WIDTH, ""));
    }
    if let Some(drift) = &status.drift {
        text += &format!("\n{}\n", wrap(&drift.told(), LINE_WIDTH, ""));
    }
    if let Some(left) = left_at_zero(&status) {
        text += &format!("\n{}\n", wrap(&left, LINE_WIDTH, ""));
    }
    text + &gates(run, &status) + &steps(&status, now) + &checks(&status) + &lists(&status)
}

fn plan_fields(plan: &PlanRecord, field: &mut impl FnMut(&str, &str)) {
    let PlanRecord {
        digest,
        engine,
        backup,
        counts: _,
        prunes: _,
        other_cluster: _,
        quiesce: _,
        silences: _,
        version,
        connected_clusters: _,
        accepted,
    } = plan;
    field("Plan", &format!("{digest}, engine {engine}"));
    if let Some(version) = version {
        field("Version", &clean(&version.to_string()));
    }
    let version = backup.rancher_version.as_ref().map_or_else(String::new, |version| format!(", Rancher {version}"));
    if !backup.name.is_empty() {
        field("Backup", &format!("{}{version}", backup.name));
        field("", &backup.sha256);
    }
    if !accepted.is_empty() {
        field("Accepted", &accepted.join(", "));
    }
}

fn phase_text(status: &RunStatus) -> String {
    let phase = format!("{:?}", status.phase);
    if status.reason.is_empty() || status.reason == phase { phase } else { format!("{phase}, {}", status.reason) }
}

fn gates(run: &Run, status: &RunStatus) -> String {
    if status.gates.is_empty() {
        return String::new();
    }
    let mut text = "\nGates:\n".to_owned();
    for Gate { code, class: _, message, remedy, accepted } in &status.gates {
        let mark = if *accepted { " (accepted)" } else { "" };
        text += &format!("{}\n", wrap(&format!("{code}{mark}: {message}"), LINE_WIDTH, "  "));
        if !accepted && !remedy.is_empty() {
            text += &format!("{}\n", wrap(remedy, LINE_WIDTH, "    "));
        }
    }
    if status.phase == Phase::Held {
        text += &format!("\n{}\n", wrap(way_on(status), LINE_WIDTH, ""));
        text += &accept_line(run).map_or_else(String::new, |line| format!("\n    {line}\n"));
    }
    text
}

fn steps(status: &RunStatus, now: Timestamp) -> String {
    if status.steps.is_empty() {
        return String::new();
    }
    let mut text = "\nSteps:\n".to_owned();
    for StepTime { step, started, finished, failed } in &status.steps {
        let (word, end) = match (failed, finished) {
            (Some(end), _) => ("failed after", *end),
            (None, Some(end)) => ("took", *end),
            (None, None) if status.phase == Phase::Running => ("running for", now),
            (None, None) => ("not ended", *started),
        };
        let duration = humane_duration(end.duration_since(*started));
        let told = if word == "not ended" { word.to_owned() } else { format!("{word} {duration}") };
        text += &format!("  {:<15} {} UTC  {told}\n", step.as_str(), utc(*started));
    }
    text
}

fn checks(status: &RunStatus) -> String {
    if status.checks.is_empty() {
        return String::new();
    }
    let mut text = "\nChecks of Rancher:\n".to_owned();
    for check in &status.checks {
        let Check { name, required, outcome, message, lines } = check;
        let required = if *required { ", required" } else { "" };
        let told = format!("{name} ({}{required}): {message}", outcome.words());
        text += &format!("{}\n", wrap(&told, LINE_WIDTH, "  "));
        for line in lines {
            text += &format!("    {}\n", clean(line));
        }
    }
    text
}

fn lists(status: &RunStatus) -> String {
    let mut text = String::new();
    if !status.replicas.is_empty() {
        text += "\nReplicas before the run:\n";
        for record in &status.replicas {
            text += &format!("  {}: {}\n", clean(&record.workload), record.replicas);
        }
    }
    let silenced = journal::silenced(&status.journal);
    if !silenced.is_empty() {
        text += match journal::is_silencing(&status.journal) {
            true => "\nWebhooks silenced while it writes, for nobody answers:\n",
            false => "\nWebhooks that were silenced, and were given back what they had:\n",
        };
        for webhook in silenced.keys() {
            text += &format!("  {}\n", clean(&webhook.to_string()));
        }
    }
    if status.errors_total > 0 {
        text += &format!("\nObjects that failed ({} of {}):\n", status.errors.len(), humane_count(status.errors_total));
        for error in &status.errors {
            text += &format!("  {}: {}\n", clean(&error.object), clean(&error.message));
        }
    }
    if !status.warnings.is_empty() {
        text += "\nWarnings:\n";
        for warning in &status.warnings {
            text += &format!("{}\n", wrap(warning, LINE_WIDTH, "  "));
        }
    }
    text
}
