//! What is told of a run as an Event of the API, in Flux's words.

use super::condition::word;
use super::{status_of, subject};
use crate::drift::DRIFT_DETECTED;
use crate::journal::{Step, step_times};
use crate::plan::gate::GateClass;
use crate::run::{Phase, Run, RunStatus};

/// Reason, action and note of an Event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventText {
    /// One word: one of Flux's, or the code of the gate that holds the run.
    pub reason: String,
    /// One word for what was being done.
    pub action: &'static str,
    /// The subject of the commit that tells the same.
    pub note: String,
    /// Somebody should look.
    pub is_warning: bool,
}

/// What the state of `run` is told as; `None` while there is nothing to tell.
pub fn event(run: &Run) -> Option<EventText> {
    let status = status_of(run);
    let told = |reason: String, action, is_warning| Some(EventText { reason, action, note: subject(run), is_warning });
    match status.phase {
        Phase::Pending => None,
        Phase::Held => told(held_by(&status), "Hold", needs_a_person(&status)),
        Phase::Running => {
            let times = step_times(&status.journal);
            let action = times.last().map_or("Start", |time| action(time.step));
            match failed_step(&status) {
                Some(step) => told(failure(step).to_owned(), action, true),
                None => told("Progressing".to_owned(), action, false),
            }
        }
        Phase::Succeeded if status.drift.is_some() => told(DRIFT_DETECTED.to_owned(), "Watch", true),
        Phase::Succeeded => told("Succeeded".to_owned(), "End", false),
        Phase::Failed => told(failed_step(&status).map_or("Failed", failure).to_owned(), "End", true),
        Phase::Superseded => told("Superseded".to_owned(), "End", false),
        Phase::Cancelled => told("Cancelled".to_owned(), "End", false),
    }
}

fn held_by(status: &RunStatus) -> String {
    let code = status.gates.iter().find(|gate| gate.holds()).map(|gate| gate.code.to_string());
    code.unwrap_or_else(|| word(&status.reason, "Held"))
}

/// Without a gate it is the store, whose Secret or server somebody has to mend.
fn needs_a_person(status: &RunStatus) -> bool {
    let mut holding = status.gates.iter().filter(|gate| gate.holds()).peekable();
    holding.peek().is_none() || holding.any(|gate| gate.class != GateClass::Wait)
}

fn failed_step(status: &RunStatus) -> Option<Step> {
    step_times(&status.journal).into_iter().find(|time| time.failed.is_some()).map(|time| time.step)
}

fn failure(step: Step) -> &'static str {
    match step {
        Step::Verify => "HealthCheckFailed",
        Step::Prune => "PruneFailed",
        // What Flux says of a Helm release that could not be rolled back.
        Step::SetVersion => "RollbackFailed",
        Step::Preflight
        | Step::Announce
        | Step::Quiesce
        | Step::SafetyBackup
        | Step::Operator
        | Step::Crds
        | Step::ClusterScoped
        | Step::Namespaced
        | Step::Resume => "Failed",
    }
}

fn action(step: Step) -> &'static str {
    match step {
        Step::Preflight => "Preflight",
        Step::Announce => "Announce",
        Step::Quiesce => "Quiesce",
        Step::SafetyBackup => "SafetyBackup",
        Step::Operator => "FollowOperator",
        Step::Crds => "WriteCrds",
        Step::ClusterScoped => "WriteClusterScoped",
        Step::Namespaced => "WriteNamespaced",
        Step::Prune => "Prune",
        Step::SetVersion => "SetVersion",
        Step::Resume => "Resume",
        Step::Verify => "Verify",
    }
}
