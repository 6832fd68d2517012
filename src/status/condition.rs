//! Conditions in Flux's shape, so that `kubectl wait`, kstatus and Flux's own tools understand a `Run`.

use jiff::Timestamp;

use crate::plan::gate::GateClass;
use crate::run::{Condition, Phase, RunStatus, cut_message};

/// `Ready` always; `Reconciling` while it works or waits by itself, `Stalled` when nothing more comes without a person.
///
/// `Ready` is `Unknown` until it is known. The time of a condition moves with its status alone, which is read from
/// the conditions that `status` has so far.
pub fn conditions(status: &RunStatus, generation: i64, now: Timestamp) -> Vec<Condition> {
    let Verdict { ready, abnormal } = verdict(status);
    let condition = |(kind, state, reason): (&str, &str, String)| Condition {
        kind: kind.to_owned(),
        status: state.to_owned(),
        reason,
        message: message(status),
        observed_generation: generation,
        last_transition_time: status
            .conditions
            .iter()
            .find(|previous| previous.kind == kind && previous.status == state)
            .map_or(now, |previous| previous.last_transition_time),
    };
    let (state, reason) = ready;
    let ready = ("Ready", state, reason);
    let abnormal = abnormal.map(|(kind, reason)| (kind, "True", reason));
    [ready].into_iter().chain(abnormal).map(condition).collect()
}

struct Verdict {
    /// Status and reason of `Ready`.
    ready: (&'static str, String),
    /// `Reconciling` or `Stalled`, and its reason.
    abnormal: Option<(&'static str, String)>,
}

fn verdict(status: &RunStatus) -> Verdict {
    let held = |class| status.gates.iter().find(|gate| gate.holds() && gate.class == class);
    let progressing = || "Progressing".to_owned();
    let (ready, abnormal) = match status.phase {
        Phase::Pending | Phase::Running => (("Unknown", progressing()), Some(("Reconciling", progressing()))),
        Phase::Held => {
            let person = held(GateClass::Refuse).or_else(|| held(GateClass::Accept));
            let abnormal = match person {
                Some(gate) => ("Stalled", gate.code.to_string()),
                None => ("Reconciling", "ProgressingWithRetry".to_owned()),
            };
            (("False", "DependencyNotReady".to_owned()), Some(abnormal))
        }
        Phase::Succeeded => (("True", "Succeeded".to_owned()), None),
        Phase::Failed => (("False", "Failed".to_owned()), Some(("Stalled", word(&status.reason, "Failed")))),
        Phase::Superseded => {
            (("False", "Superseded".to_owned()), Some(("Stalled", word(&status.reason, "Superseded"))))
        }
        Phase::Cancelled => (("False", "Cancelled".to_owned()), Some(("Stalled", word(&status.reason, "Cancelled")))),
    };
    Verdict { ready, abnormal }
}

/// `reason` where it is one that the API server's schema of a condition takes (one word, 1,024 characters).
pub(super) fn word(reason: &str, otherwise: &str) -> String {
    let fits = reason.starts_with(|c: char| c.is_ascii_alphabetic())
        && reason.len() <= 1024
        && reason.chars().all(|c| c.is_ascii_alphanumeric());
    if fits { reason.to_owned() } else { otherwise.to_owned() }
}

fn message(status: &RunStatus) -> String {
    if !status.message.is_empty() {
        return cut_message(&status.message);
    }
    match status.phase {
        Phase::Pending => "not started".to_owned(),
        Phase::Held => "held by a gate".to_owned(),
        Phase::Running => "running".to_owned(),
        Phase::Succeeded => "restored".to_owned(),
        Phase::Failed => "failed".to_owned(),
        Phase::Superseded => "a newer manifest rules".to_owned(),
        Phase::Cancelled => "cancelled".to_owned(),
    }
}
