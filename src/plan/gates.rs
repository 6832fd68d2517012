//! Which gates a plan raises.
//!
//! Each rule is a function from what was seen to one gate or none, so that a code is raised at most once and names all
//! of its objects. A run that is resumed raises nothing for what its own first part did (Rancher at 0, objects on their
//! way out), and its approval was judged when it began.

mod cluster;
mod downstream;
mod objects;
mod operator;
pub(super) mod source;
mod version;
mod webhooks;

use super::Plan;
use super::gate::{Gate, GateClass, GateCode};
use crate::observed::{Backup, Observed};

/// Names in a message; the rest is counted.
const NAMES_SHOWN: usize = 5;

/// What the rules look at.
struct View<'a> {
    plan: &'a Plan,
    observed: &'a Observed,
    /// The backup, when it is whole.
    backup: Option<&'a Backup>,
}

type Rule = fn(&View<'_>) -> Option<Gate>;

/// All rules but those of the approval, which need the digest.
const RULES: &[Rule] = &[
    source::backup_not_found,
    source::backup_corrupt,
    source::digest_mismatch,
    source::decryption_failed,
    source::not_encrypted,
    source::not_supported,
    source::unsupported_version,
    source::different_cluster,
    source::different_server_url,
    source::version_mismatch,
    source::version_boundary,
    version::release_not_found,
    version::release_pending,
    version::helm_missing,
    version::kubernetes_too_new,
    source::ambiguous,
    source::already_run,
    source::ledger_mismatch,
    operator::operator_missing,
    cluster::permission_denied,
    cluster::access_through_rancher,
    cluster::applied_elsewhere,
    cluster::rancher_at_zero,
    cluster::managed_elsewhere,
    cluster::run_in_progress,
    cluster::rancher_updating,
    objects::namespace_terminating,
    objects::resource_not_served,
    objects::crd_versions_kept,
    objects::owner_missing,
    objects::recreates,
    objects::object_terminating,
    webhooks::webhook_unavailable,
    downstream::downstream_reverts,
    objects::prune_deletes_clusters,
    objects::prune_deletes_namespaces,
    objects::prune_deletes_crds,
    objects::prune_share,
    objects::plan_incomplete,
];

/// Raises the gates of a plan whose objects, deletions and workloads are known; sorted by class, then by code.
///
/// The approval is judged apart ([`judge_approval`]), for the digest covers the gates that were accepted.
pub fn evaluate(plan: &Plan, observed: &Observed) -> Vec<Gate> {
    let view = View { plan, observed, backup: observed.backup.whole() };
    let mut gates: Vec<Gate> = RULES.iter().filter_map(|rule| rule(&view)).collect();
    for gate in &mut gates {
        gate.accepted = gate.class == GateClass::Accept && plan.request.accept.contains(&gate.code);
    }
    sort(&mut gates);
    gates
}

/// Compares the approval in the manifest with the plan's digest, and asks for one where the configuration does.
///
/// Nothing is judged for a run that is under way, or without a whole backup that somebody is to restore: what would be
/// approved is not known then.
pub fn judge_approval(plan: &mut Plan) {
    let unknown = !plan.request.backup_name.is_empty() && plan.backup.is_none() && plan.unreadable().is_none();
    if plan.request.resuming || unknown {
        return;
    }
    let raised = match &plan.request.approved_plan {
        Some(approved) if *approved != plan.digest => Some(approval_mismatch(plan, approved)),
        None if plan.request.approval_required => Some(approval_missing(plan)),
        Some(_) | None => None,
    };
    plan.gates.extend(raised);
    sort(&mut plan.gates);
}

/// The status branch could not be pushed, so the run must not begin (invariant 8). `reason` is a short word or sentence
/// without credentials.
pub fn status_not_pushed(reason: &str) -> Gate {
    Gate::new(
        GateCode::StatusNotPushed,
        format!("the status branch does not take the announcement of this run: {reason}"),
        "the push is tried again by itself; if it stays so, check the credentials and the rules of the status branch",
    )
}

/// The safety backup of this run could not be stored. What probes is a write, so it is made by who begins the run, with all other
/// gates passed, and not by what plans: `reinback plan` does not raise this.
pub fn store_not_writable(reason: &str) -> Gate {
    Gate::new(
        GateCode::StoreNotWritable,
        format!("the safety backup of this run could not be stored: {reason}"),
        "let reinback write where the backup lies (a writable volume with room, or `s3:PutObject`), or do without safety \
         backups: `policy.safetyBackup: false`",
    )
}

fn approval_mismatch(plan: &Plan, approved: &str) -> Gate {
    Gate::new(
        GateCode::ApprovalMismatch,
        format!("the manifest approves the plan {approved}, and this one is {}", plan.digest),
        format!("read the plan as it is now, and {}", approve(plan)),
    )
}

fn approval_missing(plan: &Plan) -> Gate {
    Gate::new(GateCode::ApprovalMissing, "plans such as this one must be approved in Git", approve(plan))
}

/// What is accepted is part of the digest, so that is settled first.
fn approve(plan: &Plan) -> String {
    let open: Vec<&str> = plan
        .gates
        .iter()
        .filter(|gate| gate.class == GateClass::Accept && gate.holds())
        .map(|gate| gate.code.as_str())
        .collect();
    let line = format!("reinback.io/approved-plan: {}", plan.digest);
    match open.is_empty() {
        true => format!("add to the manifest's annotations: `{line}`"),
        false => format!(
            "settle {} first, for what is accepted is part of what is approved; as it is now, the line would be `{line}`",
            open.join(", ")
        ),
    }
}

fn sort(gates: &mut [Gate]) {
    gates.sort_by_key(|gate| (gate.class, gate.code));
}

impl View<'_> {
    /// A gate that the author may take; `effect` says what happens then.
    fn acceptable(&self, code: GateCode, message: String, other_way: &str, effect: &str) -> Gate {
        let mut accepted = self.plan.request.accept.clone();
        accepted.insert(code);
        let codes: Vec<&str> = accepted.iter().map(|code| code.as_str()).collect();
        let line = format!("reinback.io/accept: {}", codes.join(", "));
        let remedy = format!("{other_way}; or add to the manifest's annotations: `{line}` ({effect})");
        Gate::new(code, message, remedy)
    }

    fn resuming(&self) -> bool {
        self.plan.request.resuming
    }
}

/// `a, b, c, d, e and 3 more`.
pub(super) fn listed<T: ToString>(names: impl IntoIterator<Item = T>) -> String {
    cut(names, NAMES_SHOWN)
}

fn cut<T: ToString>(names: impl IntoIterator<Item = T>, shown: usize) -> String {
    let mut names = names.into_iter();
    let first: Vec<String> = names.by_ref().take(shown).map(|name| name.to_string()).collect();
    match names.count() {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

/// `1 object`, `2 objects`.
fn count(number: usize, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        _ => format!("{number} {noun}s"),
    }
}

#[cfg(test)]
mod tests;
