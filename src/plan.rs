//! The plan: everything that one manifest would do to one cluster, decided before anything is done.
//!
//! [`plan`] is a pure function of what is asked ([`Request`]) and what was seen ([`Observed`]). It leaves no choice
//! to the execution. The stages: [`diff`] says what each object of the backup needs, [`order`] by how many owners
//! each waits, [`prune`] what is deleted and what goes along, [`quiesce`] who is scaled down, [`silence`] which webhooks
//! nobody answers, [`access`] which rights that takes, [`gates`] what stands in the way.

pub mod access;
pub mod diff;
pub mod digest;
pub mod gate;
pub mod gates;
mod migration;
pub mod operator;
pub mod order;
pub mod prune;
pub mod quiesce;
pub mod render;
pub mod silence;
#[cfg(test)]
pub mod testing;
pub mod version;

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::journal::{Step, WorkloadRef};
use crate::object::protect::Protection;
use crate::object::{ObjectKey, StatusPlace};
use crate::observed::{Backup, BackupSeen, ClusterFacts, Live, Observed, Unserved, Workload};
use crate::rancher::BACKUP_OPERATOR;
use crate::run::{BackupRecord, Counts, PlanRecord};
use crate::webhook::silence::WebhookRef;
pub use access::accesses;
use gate::{Gate, GateCode};
pub use operator::Handover;
use version::{VersionChange, VersionRequest};

/// What one manifest asks for, after the configuration's defaults.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Request {
    /// `Restore` or `Rollback`.
    pub kind: String,
    pub name: String,
    /// The run key.
    pub key: String,
    /// `auto`, `native` or `operator`, as written.
    pub engine: String,
    /// The manifest asks for prune; [`Plan::prunes`] says whether it happens.
    pub prune: bool,
    /// Digest that the author pinned the backup to.
    pub backup_digest: Option<String>,
    pub accept: BTreeSet<GateCode>,
    /// Digest that the author approved.
    pub approved_plan: Option<String>,
    /// The configuration asks for an approval of plans such as this one.
    pub approval_required: bool,
    /// Share of the selected live objects that prune may delete without being asked, in percent.
    pub max_prune_share_percent: u8,
    /// It undoes a run: that Rancher does not come up is why.
    pub undoes: bool,
    /// Of a Rollback: the version that it declares.
    pub version: Option<VersionRequest>,
    /// `rancher.url` of the configuration.
    pub rancher_url: Option<String>,
    /// Things that the manifest asks for and this version cannot do, as sentences.
    pub not_supported: Vec<String>,
    /// Our own run of this key is under way: what it did itself holds nothing up.
    pub resuming: bool,
    /// The backup of the manifest, as written, for sentences.
    pub backup_name: String,
    /// What the operator would be asked for ([`crate::operator::spec`]).
    pub operator_spec: serde_json::Value,
    /// `policy.repair`: what the operator did not bring back is mended.
    pub repair: bool,
    /// At a resume: whether the plan that the run began with pruned. The run may have restored the `install-uuid` by
    /// which clusters are told apart, so that this is not asked anew.
    pub prunes_as_begun: Option<bool>,
}

/// What happens to one object of the backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Change {
    Create,
    Update(Differs),
    /// A field that never changes differs: the live object is deleted by its UID and made anew.
    Recreate,
    /// Equal already.
    Skip,
    Protected(Protection),
    /// Its type is served neither now nor after the backup's CRDs are there.
    NotServed,
}

impl Change {
    /// Who names the object as its owner learns its UID only when it is written.
    pub fn gives_uid(self) -> bool {
        matches!(self, Self::Create | Self::Recreate)
    }

    /// After the run the object is as the backup has it.
    pub fn is_of_the_backup(self) -> bool {
        !matches!(self, Self::Protected(_) | Self::NotServed)
    }
}

/// In what a live object differs from the backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Differs {
    pub spec: bool,
    pub status: bool,
    /// An owner reference points to a UID that its owner does not have, or will not have.
    pub owners: bool,
    /// The agents of a cluster are to be deployed anew, since the cluster that they speak to is another.
    pub redeploy: bool,
}

/// One object of the backup in the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// Index in [`Backup::objects`].
    pub backup: u32,
    /// Index in [`crate::observed::Live::objects`].
    pub live: Option<u32>,
    pub change: Change,
    /// Where the status of its type is written.
    pub status: StatusPlace,
    /// [`Step::Crds`], [`Step::ClusterScoped`] or [`Step::Namespaced`]; webhook configurations are written in the last one.
    pub step: Step,
    /// How many owners, one above the other, get a UID before it is written.
    pub depth: u16,
    /// Its owner waits for it, in a circle: it is written before, without that reference, and once more when all are there.
    pub ahead: bool,
}

impl Item {
    /// The object is sent to the API server.
    pub fn writes(&self) -> bool {
        match self.change {
            Change::Create | Change::Update(_) | Change::Recreate => true,
            Change::Skip | Change::Protected(_) | Change::NotServed => false,
        }
    }
}

/// The order in which live objects are deleted: what depends on the most comes last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeleteWave {
    CustomResources,
    Namespaced,
    ClusterScoped,
    Namespaces,
    Crds,
}

impl DeleteWave {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CustomResources => "customResources",
            Self::Namespaced => "namespaced",
            Self::ClusterScoped => "clusterScoped",
            Self::Namespaces => "namespaces",
            Self::Crds => "crds",
        }
    }
}

/// A live object that the backup does not have and that prune deletes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deletion {
    /// Index in [`crate::observed::Live::objects`].
    pub live: u32,
    pub wave: DeleteWave,
    /// What the API server deletes along with it: dependents, and what lies in a namespace or belongs to a CRD.
    pub takes_along: Vec<ObjectKey>,
}

/// Everything that one manifest would do to one cluster.
#[derive(Debug)]
pub struct Plan {
    pub request: Request,
    pub at: Timestamp,
    pub engine: &'static str,
    pub backup: Option<BackupRecord>,
    /// One for each object of the backup, in the order in which they are written.
    pub items: Vec<Item>,
    /// In the order in which they are deleted.
    pub deletions: Vec<Deletion>,
    /// Live objects that a selector matches and prune would delete, were they not protected.
    pub spared: Vec<(ObjectKey, Protection)>,
    /// Prune happens: the manifest asks for it and the cluster is the backup's own.
    pub prunes: bool,
    /// Where the operator writes the objects: what it is handed.
    pub handover: Option<Handover>,
    /// How Rancher's version is set; `None` of a Restore, and where there is no way, which a gate says.
    pub version: Option<VersionChange>,
    /// The backup is of another cluster: a migration.
    pub other_cluster: bool,
    /// Workloads to scale to 0, Rancher first; those that stay up are not in it.
    pub quiesce: Vec<Workload>,
    pub stays_up: Vec<Workload>,
    /// Webhooks that nobody answers, and that the run silences while it writes: the author has accepted that. Empty of a run that is
    /// under way, which goes by what it recorded.
    pub silences: Vec<WebhookRef>,
    /// Owner references whose owner is nowhere: object, and the owner as `Kind name`.
    pub missing_owners: Vec<(ObjectKey, String)>,
    /// Objects that are written before an owner of theirs, since owners wait for one another, in a circle.
    pub cycles: Vec<ObjectKey>,
    /// Objects that the API server would not take whatever is accepted, and why.
    pub refused: Vec<(ObjectKey, String)>,
    pub gates: Vec<Gate>,
    /// Sentences for the reader that hold nothing up.
    pub warnings: Vec<String>,
    pub digest: String,
}

impl Plan {
    /// Lets go of the live objects that are as they are to be: most of them, as a rule, and nothing that is still to be done asks
    /// for one. Definitions stay, since one that is written once more is merged with the live one.
    pub fn forget_equal(&mut self, live: &mut Live) {
        let mut matters = vec![false; live.objects.len()];
        let of_items = self.items.iter().filter(|item| item.change != Change::Skip).filter_map(|item| item.live);
        for place in of_items.chain(self.deletions.iter().map(|deletion| deletion.live)) {
            matters[place as usize] = true;
        }
        let left = matters.iter().filter(|matters| **matters).count();
        let all = std::mem::replace(&mut live.objects, Vec::with_capacity(left));
        let mut places = Vec::with_capacity(all.len());
        for (object, matters) in all.into_iter().zip(matters) {
            let stays = matters || object.key.resource.is_crd();
            places.push(stays.then_some(live.objects.len() as u32));
            if stays {
                live.objects.push(object);
            }
        }
        for item in &mut self.items {
            item.live = item.live.and_then(|place| places[place as usize]);
        }
        for deletion in &mut self.deletions {
            deletion.live = places[deletion.live as usize].unwrap_or(deletion.live);
        }
    }

    pub fn counts(&self) -> Counts {
        let mut counts = Counts { deleted: self.deletions.len() as u64, ..Counts::default() };
        for item in &self.items {
            let count = match item.change {
                Change::Create => &mut counts.created,
                Change::Update(_) => &mut counts.updated,
                Change::Recreate => &mut counts.recreated,
                Change::Skip => &mut counts.skipped,
                Change::Protected(_) | Change::NotServed => &mut counts.protected,
            };
            *count += 1;
        }
        counts
    }

    /// Gates that keep it from running.
    pub fn holding(&self) -> impl Iterator<Item = &Gate> {
        self.gates.iter().filter(|gate| gate.holds())
    }

    /// Nothing would be written, deleted or set. What is not known is not nothing.
    pub fn is_empty(&self) -> bool {
        let sets = self.version.as_ref().is_some_and(VersionChange::sets);
        self.unreadable().is_none() && self.counts().changes() == 0 && !sets
    }

    /// Why the backup is not read by us, where the operator reads it.
    pub fn unreadable(&self) -> Option<&str> {
        self.handover.as_ref()?.unreadable.as_deref()
    }

    /// The steps of its run, where they are not those of the native engine.
    pub fn own_steps(&self) -> Option<Vec<Step>> {
        let of_data = match (&self.handover, &self.backup) {
            (Some(handover), _) => handover.steps(self.prunes),
            (None, Some(_)) => Step::NATIVE.to_vec(),
            (None, None) => version::without_data(),
        };
        let steps = version::steps(self, of_data);
        (steps != Step::NATIVE).then_some(steps)
    }

    /// Nothing would be written or deleted, and no run before it left a workload at 0: there is no reason to stop Rancher.
    pub fn touches_nothing(&self) -> bool {
        self.is_empty() && self.quiesce.iter().all(|workload| workload.recorded.is_none())
    }

    /// What is kept of it in the `Run`.
    pub fn record(&self) -> PlanRecord {
        PlanRecord {
            digest: self.digest.clone(),
            engine: self.engine.to_owned(),
            backup: self.backup.clone().unwrap_or_default(),
            counts: self.counts(),
            prunes: self.prunes,
            other_cluster: self.other_cluster,
            quiesce: self.quiesce.iter().map(|workload| workload.reference.clone()).collect(),
            silences: self.silences.clone(),
            version: self.version.clone(),
            // What was seen, and no part of the plan.
            connected_clusters: None,
            accepted: self.gates.iter().filter(|gate| gate.accepted).map(|gate| gate.code.to_string()).collect(),
        }
    }
}

/// Makes the plan of one manifest from what was seen.
pub fn plan(request: &Request, observed: &Observed) -> Plan {
    judge(outline(request, observed), observed)
}

/// Makes the plan of its outline, once it was also looked at what the outline itself asks for: what its deletions take along, and
/// which rights it takes.
pub fn judge(mut plan: Plan, observed: &Observed) -> Plan {
    prune::take_along(&mut plan.deletions, observed);
    if let BackupSeen::Whole(backup) = &observed.backup {
        add_silences_and_warnings(&mut plan, backup, observed);
        add_version(&mut plan, observed);
    }
    plan.gates = gates::evaluate(&plan, observed);
    plan.digest = digest::of(&plan, observed);
    gates::judge_approval(&mut plan);
    plan
}

/// All of the plan but its gates, its digest, and what its deletions take along.
pub fn outline(request: &Request, observed: &Observed) -> Plan {
    let mut plan = Plan {
        request: request.clone(),
        at: observed.at,
        engine: operator::engine(request, observed),
        backup: None,
        items: Vec::new(),
        deletions: Vec::new(),
        spared: Vec::new(),
        prunes: false,
        handover: None,
        version: None,
        other_cluster: observed.guarded.other_cluster,
        quiesce: Vec::new(),
        stays_up: Vec::new(),
        silences: Vec::new(),
        missing_owners: Vec::new(),
        cycles: Vec::new(),
        refused: Vec::new(),
        gates: Vec::new(),
        warnings: Vec::new(),
        digest: String::new(),
    };
    match &observed.backup {
        BackupSeen::Whole(backup) => outline_backup(&mut plan, backup, observed),
        BackupSeen::Unreadable { reason } if plan.engine == operator::OPERATOR => {
            operator::outline_unread(&mut plan, reason, observed);
        }
        BackupSeen::NotNamed => split_workloads(&mut plan, observed),
        BackupSeen::Missing { .. }
        | BackupSeen::Corrupt { .. }
        | BackupSeen::Encrypted(_)
        | BackupSeen::Unreadable { .. } => {}
    }
    add_version(&mut plan, observed);
    plan
}

/// A run that is under way goes by what it recorded.
fn add_version(plan: &mut Plan, observed: &Observed) {
    let Some(request) = plan.request.version.as_ref().filter(|_| !plan.request.resuming) else { return };
    if let Ok(mut change) = version::decide(request, observed) {
        change.makes = version::makes(&change, plan.request.undoes, observed);
        plan.warnings.extend(version::warnings(&change, request, observed));
        plan.version = Some(change);
    }
}

fn outline_backup(plan: &mut Plan, backup: &Backup, observed: &Observed) {
    plan.backup = Some(backup_record(backup));
    plan.prunes = plan.request.prunes_as_begun.unwrap_or_else(|| is_same_cluster(backup, &observed.cluster))
        && plan.request.prune;
    let differences = diff::diff(backup, observed);
    plan.missing_owners = differences.missing_owners;
    plan.refused = differences.refused;
    let ordered = order::order(backup, differences.items);
    plan.items = ordered.items;
    plan.cycles = ordered.cycles;
    let pruned = prune::prune(backup, observed);
    if plan.prunes {
        plan.deletions = pruned.deletions;
        plan.spared = pruned.spared;
    }
    split_workloads(plan, observed);
    add_silences_and_warnings(plan, backup, observed);
}

/// What a list that could not be made, on whichever look, changes.
fn add_silences_and_warnings(plan: &mut Plan, backup: &Backup, observed: &Observed) {
    if !plan.request.resuming && plan.request.accept.contains(&GateCode::WebhookUnavailable) {
        plan.silences = silence::unanswered(plan, backup, observed).silences();
    }
    plan.warnings = warnings(plan, backup, observed);
    if plan.engine == operator::OPERATOR {
        operator::outline(plan, backup, observed);
    }
}

/// Who is scaled down. The operator stays up where it does the work.
fn split_workloads(plan: &mut Plan, observed: &Observed) {
    let (mut quiesce, stays_up) = quiesce::split(&observed.cluster.workloads);
    if plan.engine == operator::OPERATOR {
        let namespace = &observed.guarded.operator_namespace;
        quiesce.retain(|workload| !is_operator(&workload.reference, namespace));
    }
    plan.quiesce = quiesce;
    plan.stays_up = stays_up;
}

/// This is the rancher-backup operator's own Deployment.
pub fn is_operator(workload: &WorkloadRef, operator_namespace: &str) -> bool {
    workload.resource == "deployments" && workload.namespace == operator_namespace && workload.name == BACKUP_OPERATOR
}

fn backup_record(backup: &Backup) -> BackupRecord {
    let parts = backup.name.parts();
    BackupRecord {
        name: backup.name.to_string(),
        sha256: backup.sha256.clone(),
        size_bytes: backup.size_bytes,
        rancher_version: backup.facts.rancher_version.clone(),
        cluster_uid: parts.as_ref().map(|parts| parts.cluster_uid.to_string()),
        taken_at: parts.map(|parts| parts.taken_at),
    }
}

/// By the kube-system UID in the file's name, else by `install-uuid`; unknown counts as different.
pub fn is_same_cluster(backup: &Backup, cluster: &ClusterFacts) -> bool {
    match backup.name.parts() {
        Some(parts) => *parts.cluster_uid == *cluster.uid,
        None => match (&backup.facts.install_uuid, &cluster.install_uuid) {
            (Some(backup), Some(live)) => !backup.is_empty() && backup == live,
            _ => false,
        },
    }
}

/// Longest text of somebody else's in a sentence of ours, in characters.
const SHOWN_CHARS: usize = 200;

/// What a backup or a cluster says, fit for a terminal and a page: no control characters, and cut.
fn printable(text: &str) -> String {
    let shown = text.chars().map(|char| if char.is_control() { '\u{fffd}' } else { char });
    match text.chars().nth(SHOWN_CHARS) {
        Some(_) => shown.take(SHOWN_CHARS).chain(['…']).collect(),
        None => shown.collect(),
    }
}

fn warnings(plan: &Plan, backup: &Backup, observed: &Observed) -> Vec<String> {
    let mut warnings = Vec::new();
    if backup.selectors.is_none() {
        warnings.push("the backup has no filters/filters.json: nothing can be pruned".to_owned());
    }
    if plan.other_cluster {
        warnings.extend(migration::warnings(backup, observed));
    }
    if plan.request.prune && !plan.prunes {
        warnings.push("prune is off: the backup is of another cluster".to_owned());
    }
    for Unserved { what, elsewhere } in &backup.unserved_selectors {
        let served = match elsewhere.is_empty() {
            true => String::new(),
            false => format!(" (it serves {})", elsewhere.join(", ")),
        };
        warnings.push(printable(&format!(
            "the backup's selectors ask for {what}, which the cluster does not serve{served}: what they would choose there \
             is not pruned"
        )));
    }
    for resource in &backup.unlistable {
        warnings.push(format!(
            "{resource} can be read but not listed: objects of it are written without a comparison, and none is pruned"
        ));
    }
    for (resource, message) in &observed.live.unlisted {
        warnings.push(format!("cannot list {resource}: {message}"));
    }
    if !plan.cycles.is_empty() {
        warnings.push(format!(
            "owners of {} objects wait for them, in a circle: these are written first, and once more with the reference",
            plan.cycles.len()
        ));
    }
    warnings
}

#[cfg(test)]
mod tests;
