//! What a run tells: its status in the cluster, its file and commit in Git, the dashboard, and text for a terminal.
//!
//! All of it is a function of the `Run`: the same input gives the same bytes, so that writing what has not changed
//! commits nothing. Whatever came from outside is bounded, cleaned of control characters and escaped here.

use jiff::{SignedDuration, Timestamp};

use crate::drift::Drift;
use crate::health::{Check, CheckName};
use crate::journal::{self, Entry, Step};
use crate::plan::gate::{Gate, GateClass, GateCode};
use crate::rancher::BACKUP_OPERATOR;
use crate::run::{
    ERRORS_KEPT, ObjectError, OperatorRecord, Phase, ReplicaRecord, Run, RunStatus, WARNINGS_KEPT, cut_message,
};

mod commit;
mod condition;
mod dashboard;
mod event;
mod file;
mod table;
mod text;

pub use commit::{commit_message, commit_message_of_many, subject};
pub use condition::conditions;
pub use dashboard::{Dashboard, Problem, Rules, dashboard, dashboard_cluster_uid, is_dashboard};
pub use event::{EventText, event};
pub use file::{
    FILE_MAX_BYTES, START_MAX_BYTES, StatusFileError, check_room, parse_status_file, run_from_value, run_object_name,
    status_file, status_file_path,
};
pub use table::{render_one, render_table};
pub use text::{humane_bytes, humane_count, humane_duration};

/// Annotation of a manifest that names the gates its author takes.
const ACCEPT: &str = "reinback.io/accept";

/// Brings everything that follows from the rest of a status up to date; call it before every write of a `Run`.
///
/// Steps and replicas are read off the journal, conditions off the phase, and messages and lists are cut to what a
/// `Run` may hold.
pub fn refresh(status: &mut RunStatus, generation: i64, now: Timestamp) {
    derive(status);
    bound(status);
    if status.phase != Phase::Running {
        status.planned_deletions = None;
    }
    status.observed_generation = generation;
    status.conditions = conditions(status, generation, now);
}

fn derive(status: &mut RunStatus) {
    status.steps = journal::step_times(&status.journal);
    status.safety_backup = journal::safety_backup(&status.journal).cloned();
    if let Some((restore, _)) = journal::handed(&status.journal) {
        status.operator.get_or_insert_default().restore = restore.to_owned();
    }
    status.replicas = journal::replicas(&status.journal)
        .into_iter()
        .map(|(workload, replicas)| ReplicaRecord { workload: workload.to_string(), replicas })
        .collect();
}

fn bound(status: &mut RunStatus) {
    status.reason = cut_message(&status.reason);
    status.message = cut_message(&status.message);
    if let Some(OperatorRecord { restore, message }) = &mut status.operator {
        *restore = cut_message(restore);
        *message = cut_message(message);
    }
    status.drift.iter_mut().for_each(Drift::bound);
    status.errors.truncate(ERRORS_KEPT);
    status.warnings.truncate(WARNINGS_KEPT);
    if status.gates.len() > WARNINGS_KEPT {
        // Those that hold the run are the ones that somebody has to read.
        status.gates.sort_by_key(|gate| !gate.holds());
        status.gates.truncate(WARNINGS_KEPT);
    }
    for ObjectError { object, message } in &mut status.errors {
        *object = cut_message(object);
        *message = cut_message(message);
    }
    status.checks.truncate(CheckName::ALL.len());
    status.checks.iter_mut().for_each(Check::bound);
    for warning in &mut status.warnings {
        *warning = cut_message(warning);
    }
    for Gate { code: _, class: _, message, remedy, accepted: _ } in &mut status.gates {
        *message = cut_message(message);
        *remedy = cut_message(remedy);
    }
}

/// Counts `error`, and keeps it while there is room.
pub fn add_error(status: &mut RunStatus, error: ObjectError) {
    status.errors_total = status.errors_total.saturating_add(1);
    if status.errors.len() < ERRORS_KEPT {
        let ObjectError { object, message } = error;
        status.errors.push(ObjectError { object: cut_message(&object), message: cut_message(&message) });
    }
}

/// Keeps `warning` unless it was given before; the last place says that there were more.
pub fn add_warning(status: &mut RunStatus, warning: &str) {
    let warning = cut_message(warning);
    if status.warnings.contains(&warning) {
        return;
    }
    match (status.warnings.len() + 1).cmp(&WARNINGS_KEPT) {
        std::cmp::Ordering::Less => status.warnings.push(warning),
        std::cmp::Ordering::Equal => status.warnings.push("there were more warnings; the log has them".to_owned()),
        std::cmp::Ordering::Greater => {}
    }
}

/// `restore` or `rollback`.
fn kind_word(run: &Run) -> String {
    text::clean(&run.spec.manifest.kind).to_lowercase()
}

fn run_name(run: &Run) -> &str {
    run.metadata.name.as_deref().unwrap_or_default()
}

fn status_of(run: &Run) -> std::borrow::Cow<'_, RunStatus> {
    match &run.status {
        Some(status) => std::borrow::Cow::Borrowed(status),
        None => std::borrow::Cow::Owned(RunStatus::default()),
    }
}

/// How long it ran, or has been running at `now`.
fn took(status: &RunStatus, now: Option<Timestamp>) -> Option<SignedDuration> {
    Some(status.ended_at.or(now)?.duration_since(status.started_at?))
}

/// When it started, else when it was held, else when it ended: by this runs are ordered.
fn moment(run: &Run) -> Option<Timestamp> {
    let status = run.status.as_ref()?;
    status.started_at.or(status.held_since).or(status.ended_at)
}

/// Newest first; what has no time yet is newest.
pub fn newest_first<'a>(runs: impl IntoIterator<Item = &'a Run>) -> Vec<&'a Run> {
    let mut sorted: Vec<&Run> = runs.into_iter().collect();
    sorted.sort_by_key(|run| std::cmp::Reverse((moment(run).unwrap_or(Timestamp::MAX), run_name(run))));
    sorted
}

/// The line that takes all accept gates which hold the run, with what the manifest accepts already; `None` when no
/// gate of that class holds it.
fn accept_line(run: &Run) -> Option<String> {
    let status = run.status.as_ref()?;
    let holding = |code: &GateCode| {
        status.gates.iter().any(|gate| gate.code == *code && gate.holds() && gate.class == GateClass::Accept)
    };
    if !GateCode::ALL.iter().any(&holding) {
        return None;
    }
    let annotations = &run.spec.document["metadata"]["annotations"];
    let accepted: Vec<GateCode> = annotations[ACCEPT]
        .as_str()
        .unwrap_or_default()
        .split(',')
        .filter_map(|word| word.trim().parse().ok())
        .collect();
    let codes: Vec<&str> = GateCode::ALL
        .iter()
        .filter(|code| accepted.contains(code) || holding(code))
        .map(|code| code.as_str())
        .collect();
    Some(format!("{ACCEPT}: {}", codes.join(", ")))
}

/// What must happen for the run to go on, as one sentence.
fn way_on(status: &RunStatus) -> &'static str {
    let holds = |class| status.gates.iter().any(|gate| gate.holds() && gate.class == class);
    match (holds(GateClass::Refuse), holds(GateClass::Accept)) {
        (true, true) => "Accepting is not enough: what is refused has to change first. The line for the rest would be:",
        (true, false) => "The manifest has to change, or what it meets.",
        (false, true) => {
            "Read what acceptance does in docs/gates.md, then add this line to the manifest's annotations:"
        }
        (false, false) => "It goes on by itself when this has passed.",
    }
}

/// What an ended run did not give back, and the ways on; `None` when nothing is left at 0.
fn left_at_zero(status: &RunStatus) -> Option<String> {
    let given_back = status.journal.iter().any(|event| event.entry == Entry::Finished { step: Step::Resume });
    let mut replicas = journal::replicas(&status.journal);
    // A run that it carries out gives it back itself, also where all others stay at 0.
    replicas.retain(|workload, _| workload.name != BACKUP_OPERATOR || !journal::has_operator(&status.journal));
    if !status.phase.is_terminal() || given_back || replicas.is_empty() {
        return None;
    }
    let had: Vec<String> = replicas.iter().map(|(workload, replicas)| format!("{workload} had {replicas}")).collect();
    let ways = match &status.undone_by {
        Some(name) => format!("{} undoes the run, and gives them back.", text::clean(name)),
        None => "Two ways on: take the cause away and set a new reinback.io/requested-at in the manifest, which restores \
                 again and gives them back; or, when the data is known to be good, scale them by hand, such as `kubectl \
                 -n NAMESPACE scale RESOURCE/NAME --replicas=N`."
            .to_owned(),
    };
    Some(format!("Replicas were not given back: {}. {ways}", had.join(", ")))
}

#[cfg(test)]
mod tests;
