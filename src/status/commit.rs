//! The commit that tells of a run: its subject is the audit trail.

use std::fmt::Write;

use super::text::{clean, cut_width, wrap};
use super::{accept_line, humane_count, humane_duration, kind_word, left_at_zero, run_name, status_of, took, way_on};
use crate::drift::DRIFT_DETECTED;
use crate::journal::{Step, is_silencing, silenced, step_times};
use crate::plan::gate::Gate;
use crate::run::{Counts, Phase, Run, RunStatus};

/// Width of a commit's subject and body by custom, in characters.
const WIDTH: usize = 72;

/// Longest kind in a subject, in characters; those that reinback knows are shorter.
const KIND_WIDTH: usize = 16;

/// Longest manifest name in a subject, in characters; the trailer has the whole.
const NAME_WIDTH: usize = 40;

/// Subject, body and trailers.
pub fn commit_message(run: &Run) -> String {
    let parts = [Some(subject(run)), body(run), Some(trailers(run))];
    let mut message = parts.into_iter().flatten().collect::<Vec<_>>().join("\n\n");
    message.push('\n');
    message
}

/// Runs named in one commit; the files that it changes name all.
const RUNS_NAMED: usize = 100;

/// The same for several runs whose news went into one commit, since the remote was slow to take them.
pub fn commit_message_of_many(runs: &[&Run]) -> String {
    let named = &runs[..runs.len().min(RUNS_NAMED)];
    let mut lines: Vec<String> = named.iter().map(|run| format!("- {}", subject(run))).collect();
    if runs.len() > named.len() {
        lines.push(format!("- and {} more", runs.len() - named.len()));
    }
    let trailers: Vec<String> = named.iter().map(|run| trailers(run)).collect();
    format!("status of {} runs\n\n{}\n\n{}\n", runs.len(), lines.join("\n"), trailers.join("\n"))
}

/// `restore back-to-monday: succeeded in 42 s (8,631 objects: 2,471 updated, 757 created, 200 deleted)`.
pub fn subject(run: &Run) -> String {
    let head =
        format!("{} {}: ", cut_width(&kind_word(run), KIND_WIDTH), cut_width(&run.spec.manifest.name, NAME_WIDTH));
    let room = WIDTH.saturating_sub(head.chars().count());
    let status = status_of(run);
    let reason = clean(&status.reason);
    let told = match status.phase {
        Phase::Pending => "pending".to_owned(),
        Phase::Held => held(&status, room),
        Phase::Running => running(&status),
        Phase::Succeeded => match &status.drift {
            Some(drift) => format!("{DRIFT_DETECTED}: {} runs", clean(&drift.running)),
            None => succeeded(&status),
        },
        Phase::Failed => failed(&status, &reason),
        Phase::Superseded => with_reason("superseded", &reason, "Superseded"),
        Phase::Cancelled => with_reason("cancelled", &reason, "Cancelled"),
    };
    head + &told
}

fn with_reason(word: &str, reason: &str, plain: &str) -> String {
    if reason.is_empty() || reason == plain { word.to_owned() } else { format!("{word}: {reason}") }
}

/// As many codes as fit.
fn held(status: &RunStatus, room: usize) -> String {
    let mut codes: Vec<&str> = Vec::new();
    for gate in status.gates.iter().filter(|gate| gate.holds()) {
        if !codes.contains(&gate.code.as_str()) {
            codes.push(gate.code.as_str());
        }
    }
    let sentence = |shown: usize| match codes.len() - shown {
        0 => format!("held by {}", codes.join(", ")),
        more => format!("held by {} and {more} more", codes[..shown].join(", ")),
    };
    if codes.is_empty() {
        return with_reason("held", &clean(&status.reason), "Held");
    }
    (1..=codes.len()).rev().map(sentence).find(|text| text.len() <= room).unwrap_or_else(|| sentence(1))
}

fn running(status: &RunStatus) -> String {
    let times = step_times(&status.journal);
    match (times.iter().find(|time| time.failed.is_some()), times.last()) {
        (Some(failed), Some(last)) if last.step == Step::Resume => {
            format!("{} failed, giving replicas back", failed.step)
        }
        (Some(failed), _) => format!("{} failed", failed.step),
        (None, Some(last)) if last.step > Step::Announce => {
            let silenced = match is_silencing(&status.journal) {
                true => silenced(&status.journal).len(),
                false => 0,
            };
            match silenced {
                0 => last.step.to_string(),
                1 => format!("{}, 1 webhook silenced", last.step),
                more => format!("{}, {more} webhooks silenced", last.step),
            }
        }
        (None, _) => "started".to_owned(),
    }
}

fn failed(status: &RunStatus, reason: &str) -> String {
    let step = step_times(&status.journal).into_iter().find(|time| time.failed.is_some());
    let word = step.map_or("failed".to_owned(), |time| format!("failed in {}", time.step));
    with_reason(&word, reason, "Failed")
}

fn succeeded(status: &RunStatus) -> String {
    let mut text = "succeeded".to_owned();
    if let Some(duration) = took(status, None) {
        text += &format!(" in {}", humane_duration(duration));
    }
    if let Some(counts) = &status.counts {
        text += &format!(" ({})", counts_text(counts));
    }
    text
}

/// `8,631 objects: 2,471 updated, 757 created, 200 deleted`: the objects of the backup, and what changed.
pub(super) fn counts_text(counts: &Counts) -> String {
    let Counts { created, updated, recreated, deleted, skipped, protected, failed } = *counts;
    let total = [created, updated, recreated, skipped, protected, failed].into_iter().fold(0, u64::saturating_add);
    let fates = [
        (updated, "updated"),
        (created, "created"),
        (recreated, "recreated"),
        (deleted, "deleted"),
        (failed, "failed"),
    ];
    let told: Vec<String> =
        fates.iter().filter(|(n, _)| *n > 0).map(|(n, fate)| format!("{} {fate}", humane_count(*n))).collect();
    let objects = format!("{} {}", humane_count(total), if total == 1 { "object" } else { "objects" });
    if told.is_empty() { format!("{objects}, nothing to change") } else { format!("{objects}: {}", told.join(", ")) }
}

fn body(run: &Run) -> Option<String> {
    let status = status_of(run);
    let mut paragraphs: Vec<String> = Vec::new();
    if !status.message.trim().is_empty() {
        paragraphs.push(wrap(&status.message, WIDTH, ""));
    }
    paragraphs.extend(status.drift.as_ref().map(|drift| wrap(&drift.told(), WIDTH, "")));
    paragraphs.extend(left_at_zero(&status).map(|text| wrap(&text, WIDTH, "")));
    if status.phase == Phase::Held {
        for Gate { code, class: _, message, remedy, accepted: _ } in status.gates.iter().filter(|gate| gate.holds()) {
            let parts = [wrap(&format!("{code}: {message}"), WIDTH, ""), wrap(remedy, WIDTH, "  ")];
            paragraphs.push(parts.join("\n").trim_end().to_owned());
        }
        paragraphs.push(wrap(way_on(&status), WIDTH, ""));
        paragraphs.extend(accept_line(run).map(|line| format!("    {line}")));
    }
    if status.errors_total > 0 {
        paragraphs.push(errors(&status));
    }
    paragraphs.retain(|paragraph| !paragraph.is_empty());
    (!paragraphs.is_empty()).then(|| paragraphs.join("\n\n"))
}

/// The first ten; the file has more.
fn errors(status: &RunStatus) -> String {
    let mut text = format!("Objects that failed ({}):", humane_count(status.errors_total));
    for error in status.errors.iter().take(10) {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n- {}: {}", clean(&error.object), clean(&error.message));
    }
    text
}

fn trailers(run: &Run) -> String {
    let mut lines = vec![
        format!("Reinback-Run: {}", clean(run_name(run))),
        format!("Reinback-Source-Commit: {}", clean(&run.spec.source.commit)),
    ];
    if let Some(plan) = run.status.as_ref().and_then(|status| status.plan.as_ref()) {
        lines.push(format!("Reinback-Plan: {}", clean(&plan.digest)));
    }
    lines.join("\n")
}
