//! What is different where the rancher-backup operator writes the objects.
//!
//! The plan of a backup that we can read as well is the native one: what is to be made, changed and deleted. Beside it stands
//! what the operator does otherwise: it writes every object and passes over nothing that is protected, and prunes all that its
//! selectors match. Of a backup that we cannot read nothing of that is known, and the plan says so.

use std::collections::BTreeMap;

use super::gates::listed;
use super::{Change, Plan, Request, split_workloads};
use crate::backup::BackupName;
use crate::journal::Step;
use crate::object::owner::Owner;
use crate::object::protect::Protection;
use crate::object::{self, ObjectKey};
use crate::observed::{Backup, BackupObject, BackupSeen, LiveObject, Observed};
use crate::operator::restore_name;

/// Names of the engines in a plan.
pub const NATIVE: &str = "native";
pub const OPERATOR: &str = "operator";

/// Who writes the objects: what the manifest says, and where it leaves that open, the operator where we cannot read the backup.
pub fn engine(request: &Request, observed: &Observed) -> &'static str {
    let unreadable = matches!(observed.backup, BackupSeen::Unreadable { .. });
    match request.engine.as_str() {
        _ if matches!(observed.backup, BackupSeen::NotNamed) => NATIVE,
        OPERATOR => OPERATOR,
        "auto" if unreadable => OPERATOR,
        _ => NATIVE,
    }
}

/// What the operator is handed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Handover {
    /// Name of its Restore.
    pub restore: String,
    /// The Restore says `prune: true`.
    pub prune: bool,
    /// We prune after it, since it would delete what is protected.
    pub native_prune: bool,
    /// What it did not bring back is mended by us.
    pub repair: bool,
    /// Why we cannot read the backup.
    pub unreadable: Option<String>,
    /// Protected live objects that are not as the backup has them, and that it would write.
    pub overwrites: Vec<(ObjectKey, Protection)>,
    /// Objects that it would try to write for ever, and why.
    pub stuck: Vec<(ObjectKey, &'static str)>,
}

impl Handover {
    /// The steps of the run, in their order.
    pub fn steps(&self, prunes: bool) -> Vec<Step> {
        let mut steps = vec![Step::Preflight, Step::Announce, Step::Quiesce, Step::SafetyBackup, Step::Operator];
        if self.repair {
            steps.extend([Step::Crds, Step::ClusterScoped, Step::Namespaced]);
        }
        if self.native_prune || self.repair && prunes {
            steps.push(Step::Prune);
        }
        steps.extend([Step::Resume, Step::Verify]);
        steps
    }
}

/// Adds what the operator does otherwise to the plan of a backup that we can read.
pub fn outline(plan: &mut Plan, backup: &Backup, observed: &Observed) {
    let mut handover = named(plan);
    handover.repair = plan.request.repair;
    handover.native_prune = plan.prunes && (plan.spared.iter().any(|(_, why)| deletes(*why)) || has_filters(backup));
    handover.prune = plan.prunes && !handover.native_prune;
    let ignores_errors = plan.request.operator_spec["ignoreErrors"] == true;
    let mut left: BTreeMap<Protection, usize> = BTreeMap::new();
    for item in &plan.items {
        let object = &backup.objects[item.backup as usize];
        let live = item.live.map(|index| &observed.live.objects[index as usize]);
        match item.change {
            Change::Protected(why) if overwrites(why, object, live) => {
                handover.overwrites.push((object.key.clone(), why));
            }
            Change::Protected(why) if written(&object.key, why) && !is_equal(object, live) => {
                *left.entry(why).or_default() += 1;
            }
            Change::Recreate if !ignores_errors => {
                handover.stuck.push((object.key.clone(), "a field that never changes differs"));
            }
            Change::NotServed if !ignores_errors => handover.stuck.push((object.key.clone(), "its type is not served")),
            Change::Protected(_)
            | Change::Create
            | Change::Update(_)
            | Change::Recreate
            | Change::Skip
            | Change::NotServed => {}
        }
    }
    for (why, number) in left {
        plan.warnings.push(format!("the operator writes {number} objects that the native engine leaves: {why}"));
    }
    if handover.native_prune {
        let kept = plan.spared.iter().filter(|(_, why)| deletes(*why)).map(|(key, _)| key);
        plan.warnings.push(format!(
            "reinback prunes, and not the operator, which would delete what is protected: {}",
            listed(kept)
        ));
    }
    plan.handover = Some(handover);
    warn(plan, observed);
}

/// The plan of a backup that only the operator can read.
pub fn outline_unread(plan: &mut Plan, reason: &str, observed: &Observed) {
    split_workloads(plan, observed);
    plan.other_cluster = !is_same_by_name(&plan.request.backup_name, &observed.cluster.uid);
    plan.prunes = plan.request.prunes_as_begun.unwrap_or(plan.request.prune && !plan.other_cluster);
    let handover = named(plan);
    plan.handover = Some(Handover { prune: plan.prunes, unreadable: Some(reason.to_owned()), ..handover });
    plan.warnings.push(
        "the backup is not read: what is made, changed and deleted, whether it is whole, of which Rancher it is, and \
         whether protected objects are overwritten is not known; afterwards nothing is compared"
            .to_owned(),
    );
    if plan.request.repair {
        plan.warnings.push("policy.repair mends nothing: the backup cannot be read".to_owned());
    }
    warn(plan, observed);
}

fn named(plan: &Plan) -> Handover {
    Handover { restore: restore_name(&plan.request.name, &plan.request.key), ..Handover::default() }
}

fn warn(plan: &mut Plan, observed: &Observed) {
    if plan.stays_up.iter().any(|workload| crate::rancher::is_cluster_api(&workload.reference)) {
        plan.warnings.push(
            "clusters of Cluster API are paused before, and the operator writes them as the backup has them: their \
             controller may act on what is half restored"
                .to_owned(),
        );
    }
    if !plan.silences.is_empty() {
        plan.warnings.push(
            "silenced webhooks that the backup holds are in force again from when the operator has written them"
                .to_owned(),
        );
    }
    let operator = observed.cluster.operator.as_ref();
    if let Some(scheduled) = operator.map(|operator| &operator.scheduled).filter(|scheduled| !scheduled.is_empty()) {
        plan.warnings.push(format!(
            "the operator stays up, and may back up what is half restored by its schedule: Backup {}",
            listed(scheduled)
        ));
    }
}

/// The operator passes over these itself: built-in roles when it reads the backup, what Fleet makes for each registration, and
/// Deployments of Rancher and rancher-webhook by their names.
fn written(key: &ObjectKey, why: Protection) -> bool {
    let is_passed_over = key.resource.is("apps", "deployments")
        && key.namespace.as_deref() == Some("cattle-system")
        && (key.name.ends_with("rancher") || key.name.ends_with("rancher-webhook"));
    !matches!(why, Protection::Builtin | Protection::ClusterRegistration) && !is_passed_over
}

/// A write by the operator would change a live object that nothing may (invariant 6).
pub fn overwrites(why: Protection, object: &BackupObject, live: Option<&LiveObject>) -> bool {
    written(&object.key, why) && is_forbidden(&object.key, why, live) && !is_equal(object, live)
}

/// The operator writes what is there, references to owners included.
fn is_equal(object: &BackupObject, live: Option<&LiveObject>) -> bool {
    let drops = |owner: &Owner| matches!(&*owner.kind, "GlobalRole" | "RoleTemplate");
    live.is_some_and(|live| {
        object::spec_equal(&object.summary, &live.summary, object::StatusPlace::Subresource)
            && object.summary.owners.len() == live.summary.owners.len()
            && !object.summary.owners.iter().any(drops)
    })
}

/// Invariant 6: what is never overwritten. The rest of what the native engine leaves is the cluster's to put right again.
fn is_forbidden(key: &ObjectKey, why: Protection, live: Option<&LiveObject>) -> bool {
    match why {
        Protection::Own
        | Protection::OwnCredential
        | Protection::OperatorSecret
        | Protection::HelmRelease
        | Protection::SystemRbac
        | Protection::KubeNamespace
        | Protection::RancherDeployment => true,
        // A Backup or a Restore that it makes of the backup is one that it carries out.
        Protection::Operator => live.is_some() || matches!(key.resource.plural.as_str(), "backups" | "restores"),
        Protection::StaysUp
        | Protection::Serving
        | Protection::Builtin
        | Protection::ClusterRegistration
        | Protection::OldLocalCluster
        | Protection::NoService
        | Protection::ClusterCa
        | Protection::Terminating
        | Protection::NoAccount
        | Protection::Needed
        | Protection::ComesWithNamespace => false,
    }
}

/// The operator's prune would delete it for good: Kubernetes makes the rest again at once.
fn deletes(why: Protection) -> bool {
    !matches!(why, Protection::ComesWithNamespace | Protection::ClusterCa)
}

/// The operator does not read an entry with this in its path, and prunes the live object since it is not in the backup.
fn has_filters(backup: &Backup) -> bool {
    backup.objects.iter().any(|object| is_unread(&object.key))
}

/// The operator takes the object for its filters.
pub fn is_unread(key: &ObjectKey) -> bool {
    key.to_string().contains("filters")
}

/// By the kube-system UID in the name of a backup that is not read; unknown counts as different.
pub fn is_same_by_name(name: &str, uid: &str) -> bool {
    let name = BackupName::new(name).ok();
    name.as_ref().and_then(BackupName::parts).is_some_and(|parts| *parts.cluster_uid == *uid)
}
