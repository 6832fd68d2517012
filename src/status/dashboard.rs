//! The README of the status branch.

use std::fmt::Write;

use super::commit::counts_text;
use super::text::{code, markdown, utc};
use super::{
    accept_line, humane_count, humane_duration, left_at_zero, moment, newest_first, run_name, status_file_path,
    status_of, took, way_on,
};
use crate::health::{Check, Outcome};
use crate::journal::SafetyBackup;
use crate::plan::gate::{Gate, GateClass};
use crate::run::{ManifestRef, OperatorRecord, Phase, Run, RunStatus, SourceRef};
use crate::undo::undone_run;

/// Runs in the table, and held runs told in full; the folder has all.
const RUNS_SHOWN: usize = 20;

/// Problems shown; a folder with more has one cause.
const PROBLEMS_SHOWN: usize = 100;

const TITLE: &str = "# reinback on ";
const UID_LINE: &str = "- kube-system UID: `";

/// What the dashboard is made of.
#[derive(Debug, Clone, Copy)]
pub struct Dashboard<'a> {
    /// Name of the cluster in the configuration.
    pub cluster: &'a str,
    /// UID of its namespace kube-system: which cluster wrote this branch.
    pub cluster_uid: &'a str,
    pub rules: Option<Rules<'a>>,
    /// In any order.
    pub runs: &'a [&'a Run],
    pub problems: &'a [Problem],
}

/// The manifest that rules the cluster now.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    pub manifest: &'a ManifestRef,
    pub source: &'a SourceRef,
}

/// Something wrong in a manifest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    pub file: String,
    /// From 1.
    pub line: Option<u64>,
    pub text: String,
}

/// The dashboard as Markdown. It has no time of its own: what has not changed gives the same bytes.
pub fn dashboard(input: &Dashboard<'_>) -> String {
    let Dashboard { cluster, cluster_uid, rules, runs, problems } = *input;
    let runs = newest_first(runs.iter().copied());
    let sections = [
        Some(head(cluster, cluster_uid, rules, &runs)),
        left_section(&runs),
        check_section(&runs),
        held_section(&runs),
        problem_section(problems),
        Some(runs_section(&runs)),
    ];
    sections.into_iter().flatten().collect::<Vec<_>>().join("\n")
}

/// The UID that [`dashboard`] wrote; `None` when there is none, or the line was edited into something else.
pub fn dashboard_cluster_uid(dashboard: &str) -> Option<&str> {
    let uid = dashboard.lines().find_map(|line| line.strip_prefix(UID_LINE))?.trim_end().strip_suffix('`')?;
    let plausible = (1..=64).contains(&uid.len()) && uid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    plausible.then_some(uid)
}

/// Whether this text is a dashboard, and no README of somebody else.
pub fn is_dashboard(text: &str) -> bool {
    text.starts_with(TITLE) || dashboard_cluster_uid(text).is_some()
}

fn head(cluster: &str, cluster_uid: &str, rules: Option<Rules<'_>>, runs: &[&Run]) -> String {
    let drift = drift_line(rules, runs).unwrap_or_default();
    let rules = told_rules(rules, runs);
    let running: Vec<String> =
        runs.iter().filter(|run| status_of(run).phase == Phase::Running).map(|run| running_line(run)).collect();
    let running = if running.is_empty() { "nothing".to_owned() } else { running.join("; ") };
    format!(
        "{TITLE}{}\n\nWritten by reinback. Edits are overwritten; nothing here is read as a command.\n\n\
         - Cluster: {}\n{UID_LINE}{}`\n- Rules now: {rules}\n{drift}- Runs now: {running}\n{}",
        markdown(cluster),
        code(cluster),
        code(cluster_uid).trim_matches(['`', ' ']),
        safety_line(runs).unwrap_or_default(),
    )
}

fn told_rules(rules: Option<Rules<'_>>, runs: &[&Run]) -> String {
    match (told_undo(rules, runs), rules, runs.iter().find(|run| moment(run).is_some())) {
        (Some(undo), _, _) => undo,
        (None, Some(Rules { manifest, source }), _) => told_manifest(manifest, source),
        (None, None, None) => "no manifest yet".to_owned(),
        (None, None, Some(_)) if runs.iter().all(|run| status_of(run).phase == Phase::Superseded) => {
            "no manifest yet; what was in Git at the first look does not run".to_owned()
        }
        (None, None, Some(last)) => format!("nothing; last, {}", told_run(last)),
    }
}

/// What failed and what went back from it stand in one place, and have both ended: nothing rules, since the cluster is as it
/// was before. A manifest that was merged after them rules.
fn told_undo(rules: Option<Rules<'_>>, runs: &[&Run]) -> Option<String> {
    let undo = runs.iter().find(|run| status_of(run).started_at.is_some())?;
    let undone = undone_run(&undo.spec.manifest.file)?;
    let undone = runs.iter().find(|run| run_name(run) == undone)?;
    if rules.is_some_and(|rules| *rules.manifest != undone.spec.manifest) {
        return None;
    }
    let (undone, by) = (told_run(undone), code(&undo.spec.manifest.name));
    Some(match status_of(undo).phase {
        Phase::Pending | Phase::Held | Phase::Running => format!("nothing: {undone} and is being undone by {by}"),
        Phase::Succeeded => format!("nothing: {undone} and was undone by {by}; what was before it is back"),
        Phase::Failed | Phase::Superseded | Phase::Cancelled => {
            format!("nothing: {undone}, and {by}, which was to undo it, {}", told_end(&status_of(undo)))
        }
    })
}

/// ``Rollback `back-to-2-9-3` failed (ChecksFailed)``.
fn told_run(run: &Run) -> String {
    let ManifestRef { kind, name, file: _, blob: _ } = &run.spec.manifest;
    format!("{} {} {}", markdown(kind), code(name), told_end(&status_of(run)))
}

fn told_end(status: &RunStatus) -> String {
    let reason = |word: &str| match status.reason.as_str() {
        "" => word.to_owned(),
        reason => format!("{word} ({})", markdown(reason)),
    };
    match status.phase {
        Phase::Pending => "has not begun".to_owned(),
        Phase::Held => "is held".to_owned(),
        Phase::Running => "runs".to_owned(),
        Phase::Succeeded => "succeeded".to_owned(),
        Phase::Failed => reason("failed"),
        Phase::Superseded => "was superseded".to_owned(),
        Phase::Cancelled => "was cancelled".to_owned(),
    }
}

/// Of the run of the manifest that rules.
fn drift_line(rules: Option<Rules<'_>>, runs: &[&Run]) -> Option<String> {
    let ruling = runs.iter().find(|run| rules.is_some_and(|rules| run.spec.manifest == *rules.manifest))?;
    let drift = ruling.status.as_ref()?.drift.as_ref()?;
    Some(format!("- {}\n", markdown(&drift.told())))
}

fn told_manifest(manifest: &ManifestRef, source: &SourceRef) -> String {
    let ManifestRef { kind, name, file, blob: _ } = manifest;
    let SourceRef { commit, author } = source;
    let short: String = commit.chars().take(12).collect();
    format!("{} {} ({}, commit {} by {})", markdown(kind), code(name), code(file), code(&short), markdown(author))
}

/// Without progress: that changes by the second, and is in the `Run`.
fn running_line(run: &Run) -> String {
    let step = status_of(run).steps.last().map_or("starting".to_owned(), |time| time.step.to_string());
    let status = status_of(run);
    let operator = status.operator.as_ref().map(|OperatorRecord { restore, message }| {
        let said = if message.is_empty() { String::new() } else { format!(", which said last: {}", markdown(message)) };
        format!(" (the operator's Restore {}{said})", code(restore))
    });
    format!("{}, {step}{}", told_manifest(&run.spec.manifest, &run.spec.source), operator.unwrap_or_default())
}

/// Of the newest run that has one.
fn safety_line(runs: &[&Run]) -> Option<String> {
    let (run, backup) = runs.iter().find_map(|run| Some((run, run.status.as_ref()?.safety_backup.as_ref()?)))?;
    let SafetyBackup { name, sha256: _, objects } = backup;
    let objects = humane_count(*objects);
    Some(format!("- Safety backup: {}, {objects} objects as they were before {}\n", code(name), code(run_name(run))))
}

/// Of the newest run that scaled anything: an older one's replicas are that one's to give back.
fn left_section(runs: &[&Run]) -> Option<String> {
    let newest = runs.iter().find(|run| !status_of(run).replicas.is_empty())?;
    let left = left_at_zero(&status_of(newest))?;
    let manifest = told_manifest(&newest.spec.manifest, &newest.spec.source);
    Some(format!("## Left at 0\n\n{manifest}\n\n{}\n", markdown(&left)))
}

/// Of the newest run that set a version: what was found of Rancher then. Lines of what passed are in the run's file.
fn check_section(runs: &[&Run]) -> Option<String> {
    let newest = runs.iter().find(|run| run.status.as_ref().is_some_and(|status| !status.checks.is_empty()))?;
    let manifest = told_manifest(&newest.spec.manifest, &newest.spec.source);
    let mut text = format!("## Rancher after its version was set\n\n{manifest}\n\n");
    for Check { name, required, outcome, message, lines } in &status_of(newest).checks {
        let required = if *required { ", required" } else { "" };
        text += &format!("- **{name}** ({}{required}): {}\n", outcome.words(), markdown(message));
        let told = if *outcome == Outcome::Passed { &[][..] } else { lines.as_slice() };
        for line in told {
            text += &format!("  - {}\n", markdown(line));
        }
    }
    Some(text)
}

fn held_section(runs: &[&Run]) -> Option<String> {
    let held: Vec<&&Run> = runs.iter().filter(|run| status_of(run).phase == Phase::Held).take(RUNS_SHOWN).collect();
    let mut text = "## Held\n".to_owned();
    for run in &held {
        text += "\n";
        text += &held_run(run);
    }
    (!held.is_empty()).then_some(text)
}

fn held_run(run: &Run) -> String {
    let status = status_of(run);
    let ManifestRef { kind, name, file, blob: _ } = &run.spec.manifest;
    let since = status.held_since.map_or(String::new(), |time| format!(", since {} UTC", utc(time)));
    let mut text = format!("### {} {}\n\n{}{since}\n\n", markdown(kind), code(name), code(file));
    if !status.message.is_empty() {
        text += &format!("{}\n\n", markdown(&status.message));
    }
    for Gate { code, class, message, remedy, accepted: _ } in status.gates.iter().filter(|gate| gate.holds()) {
        let class = match class {
            GateClass::Refuse => "refused",
            GateClass::Accept => "to be accepted",
            GateClass::Wait => "waits",
        };
        text += &format!("- **{code}** ({class}): {}", markdown(message));
        text += &if remedy.is_empty() { "\n".to_owned() } else { format!("\n  {}\n", markdown(remedy)) };
    }
    text += &format!("\n{}\n", way_on(&status));
    if let Some(line) = accept_line(run) {
        text += &format!("\n```yaml\nmetadata:\n  annotations:\n    {line}\n```\n");
    }
    text
}

fn problem_section(problems: &[Problem]) -> Option<String> {
    let mut sorted: Vec<&Problem> = problems.iter().collect();
    sorted.sort();
    sorted.dedup();
    let mut text = "## Manifests that cannot be read\n\n".to_owned();
    for Problem { file, line, text: problem } in sorted.iter().take(PROBLEMS_SHOWN) {
        let place = line.map_or(file.clone(), |line| format!("{file}:{line}"));
        text += &format!("- {}: {}\n", code(&place), markdown(problem));
    }
    if sorted.len() > PROBLEMS_SHOWN {
        text += &format!("- and {} more\n", humane_count((sorted.len() - PROBLEMS_SHOWN) as u64));
    }
    (!sorted.is_empty()).then_some(text)
}

fn runs_section(runs: &[&Run]) -> String {
    if runs.is_empty() {
        return "## Last runs\n\nNone yet.\n".to_owned();
    }
    let mut text = "## Last runs\n\n| when (UTC) | manifest | result | took | objects | file |\n\
                    |---|---|---|---|---|---|\n"
        .to_owned();
    for run in runs.iter().take(RUNS_SHOWN) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}", run_row(run));
    }
    if runs.len() > RUNS_SHOWN {
        text += &format!("\n{} older runs are in [runs](runs).\n", humane_count((runs.len() - RUNS_SHOWN) as u64));
    }
    text
}

fn run_row(run: &Run) -> String {
    let status = status_of(run);
    let phase = format!("{:?}", status.phase);
    let result = if status.reason.is_empty() || status.reason == phase {
        phase
    } else {
        format!("{phase}: {}", markdown(&status.reason))
    };
    format!(
        "| {} | {} {} | {result} | {} | {} | [{}]({}) |",
        moment(run).map_or_else(String::new, utc),
        markdown(&run.spec.manifest.kind),
        code(&run.spec.manifest.name),
        took(&status, None).map_or_else(String::new, humane_duration),
        status.counts.as_ref().map_or_else(String::new, counts_text),
        code(run_name(run)),
        status_file_path(run),
    )
}
