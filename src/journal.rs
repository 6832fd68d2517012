//! The journal: the intent log of a run, and what it says is next.
//!
//! An entry is durable (in the `Run`) before the effect that it announces. It holds what looking at the cluster
//! cannot tell: how many replicas a workload had, what was planned and accepted, how far the run came.

mod fold;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::object::{ObjectKey, Resource};

use crate::run::{Phase, cut_message};
use crate::webhook::silence::{SilencedWebhook, WebhookRef};
pub use fold::{
    handed, has_operator, is_silencing, paused, replicas, safety_backup, silenced, step_times, steps, version_had,
};

/// A part of a run, in the order in which they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Step {
    /// Backup checked, cluster compared, gates passed.
    Preflight,
    /// The `started` commit is on the remote.
    Announce,
    /// Writers recorded, scaled to 0, their pods gone.
    Quiesce,
    /// What the run may change is in the store, as it was: with the last writes of those that are quiet now.
    SafetyBackup,
    /// The rancher-backup operator's Restore is made and followed to its end. In no native run.
    Operator,
    /// The first step of a native run that writes objects of the backup.
    Crds,
    ClusterScoped,
    Namespaced,
    Prune,
    /// Rancher's version is set back: by Helm, whose stored manifest starts it, or by its image. In runs of a Rollback only.
    SetVersion,
    /// Replicas given back.
    Resume,
    Verify,
}

impl Step {
    /// Those of a run whose journal does not name its own ([`Entry::Steps`]).
    pub const NATIVE: &[Step] = &[
        Step::Preflight,
        Step::Announce,
        Step::Quiesce,
        Step::SafetyBackup,
        Step::Crds,
        Step::ClusterScoped,
        Step::Namespaced,
        Step::Prune,
        Step::Resume,
        Step::Verify,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Preflight => "preflight",
            Self::Announce => "announce",
            Self::Quiesce => "quiesce",
            Self::SafetyBackup => "safety-backup",
            Self::Operator => "operator",
            Self::Crds => "crds",
            Self::ClusterScoped => "cluster-scoped",
            Self::Namespaced => "namespaced",
            Self::Prune => "prune",
            Self::SetVersion => "set-version",
            Self::Resume => "resume",
            Self::Verify => "verify",
        }
    }

    /// Data or version change in this step: what was is not there any more.
    pub fn writes_objects(self) -> bool {
        match self {
            Self::Operator | Self::Crds | Self::ClusterScoped | Self::Namespaced | Self::Prune | Self::SetVersion => {
                true
            }
            Self::Preflight | Self::Announce | Self::Quiesce | Self::SafetyBackup | Self::Resume | Self::Verify => {
                false
            }
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A workload that a run scales.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadRef {
    /// `apps/v1`.
    pub api_version: String,
    /// `deployments` or `statefulsets`.
    pub resource: String,
    pub namespace: String,
    pub name: String,
}

impl WorkloadRef {
    pub fn resource_type(&self) -> Resource {
        Resource::at(&self.api_version, &self.resource)
    }

    /// This is the workload that `key` names.
    pub fn names(&self, key: &ObjectKey) -> bool {
        let Self { api_version, resource, namespace, name } = self;
        *name == *key.name
            && key.namespace.as_deref() == Some(namespace.as_str())
            && key.resource.plural == *resource
            && key.resource.api_version() == *api_version
    }
}

impl fmt::Display for WorkloadRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.resource, self.namespace, self.name)
    }
}

/// A `clusters.cluster.x-k8s.io` that a run pauses, and whether it was paused before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PausedCluster {
    pub namespace: String,
    pub name: String,
    pub paused: bool,
}

/// What Rancher's version is set back from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VersionHad {
    /// Image of Rancher's container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The newest revision of its Helm release: one that is newer was made by this run, and none of an older one is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// What only the newer Rancher brought and is deleted, as it was but for what the API server sets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<serde_json::Value>,
}

/// Whether clusters were paused before a run, by namespace and name.
pub type Paused = BTreeMap<(String, String), bool>;

/// One entry of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    pub at: Timestamp,
    #[serde(flatten)]
    pub entry: Entry,
}

/// What an entry says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Entry {
    /// The steps of this run, in their order, where they are not those of the native engine; before anything else.
    Steps { steps: Vec<Step> },
    /// The step's effects may have begun.
    Started { step: Step },
    /// The workload's replicas before it is scaled down; written before the scale-down.
    Replicas { workload: WorkloadRef, replicas: i32 },
    /// What clusters of Cluster API had before they are paused, and that this run pauses them; written before the first.
    Paused { clusters: Vec<PausedCluster> },
    /// What paused clusters get back where they say another thing than that: what the backup has; written before the first
    /// gets it.
    Unpaused { clusters: Vec<PausedCluster> },
    /// What webhooks had before they are silenced; written before the first.
    Silenced { webhooks: Vec<SilencedWebhook> },
    /// What silenced webhooks get back: what they had, or what the backup has; written before the first gets it.
    Unsilenced { webhooks: Vec<SilencedWebhook> },
    /// The safety backup is in the store, read back whole. Its name follows from the run, so that it needs no announcement.
    SafetyBackup { backup: SafetyBackup },
    /// The operator's Restore is in the cluster. Its name follows from the run, so that it needs no announcement; by its UID one
    /// that somebody makes anew under that name is told apart.
    Handed { restore: String, uid: String },
    /// What Rancher's version is set back from; written before its first change.
    VersionHad { had: VersionHad },
    /// The step's effects are complete.
    Finished { step: Step },
    /// The step gave up; what follows is decided by [`next`].
    Failed { step: Step, reason: String, message: String },
    /// Another process took the run over.
    TakenOver { holder: String },
    /// The `Run` was gone, and is made again from what Git knew: what it had recorded after that is lost, so that anything
    /// may have begun.
    Recovered,
}

/// What an undo goes back by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SafetyBackup {
    /// File name in the store of the backup that is restored.
    pub name: String,
    /// `sha256:…` of the file as stored.
    pub sha256: String,
    pub objects: u64,
}

/// Reason of a failure that a person asked for; before the first object write such a run ends `Cancelled`.
pub const CANCELLED: &str = "Cancelled";

/// Reason of a failure of [`Step::Operator`] before the operator had got anything: nothing is written then.
pub const NOT_HANDED_OVER: &str = "NotHandedOver";

/// Take-overs kept as entries of their own; later ones replace the last, so that a crash loop cannot fill the `Run`.
const TAKEOVERS_KEPT: usize = 100;

/// What a run does when it fails after its first object write (`reinback.io/on-failure`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
pub enum OnFailure {
    /// Rancher stays at 0 until a person decides.
    #[default]
    Hold,
    /// Replicas are given back on whatever was written.
    Resume,
    /// Goes back by the safety backup.
    Undo,
}

impl OnFailure {
    pub const ALL: &[OnFailure] = &[OnFailure::Hold, OnFailure::Resume, OnFailure::Undo];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hold => "Hold",
            Self::Resume => "Resume",
            Self::Undo => "Undo",
        }
    }
}

impl fmt::Display for OnFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is not an [`OnFailure`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not Hold, Resume or Undo")]
pub struct UnknownOnFailure(pub String);

impl FromStr for OnFailure {
    type Err = UnknownOnFailure;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.iter().copied().find(|word| word.as_str() == text).ok_or_else(|| UnknownOnFailure(text.to_owned()))
    }
}

/// What follows from a journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// The step has not begun.
    Run(Step),
    /// The step began and did not end: the process died in it. Look, and do it again; every step is idempotent.
    Again(Step),
    /// It failed before the first object write: [`Step::Resume`] gives the replicas back, then the run has failed.
    GiveBack { reason: String, message: String },
    /// It failed after the first object write and `on-failure` says so: [`Step::Resume`], then the run has failed.
    Resume { reason: String, message: String },
    /// It failed after the first object write: Rancher stays at 0 and the run ends `Failed`.
    Hold { step: Step, reason: String, message: String },
    /// Nothing is left to do.
    End { phase: Phase, reason: String, message: String },
}

impl Next {
    /// The step to run now; `None` when the run is over.
    pub fn step(&self) -> Option<Step> {
        match self {
            Self::Run(step) | Self::Again(step) => Some(*step),
            Self::GiveBack { .. } | Self::Resume { .. } => Some(Step::Resume),
            Self::Hold { .. } | Self::End { .. } => None,
        }
    }
}

/// An entry that cannot follow what the journal holds: two processes append, or the executor has a bug.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the journal does not take `{entry}`: {why}")]
pub struct IllegalTransition {
    pub entry: String,
    pub why: String,
}

/// When a step ran. A step that was taken up again after a crash keeps its first start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StepTime {
    pub step: Step,
    pub started: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<Timestamp>,
}

/// The entries of one run, oldest first; everything else is a fold over them.
///
/// What was read from a `Run` is taken as it is: [`next`] is total, also over a journal that somebody edited.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Journal(Vec<Event>);

impl From<Vec<Event>> for Journal {
    fn from(events: Vec<Event>) -> Self {
        Self(events)
    }
}

impl From<Journal> for Vec<Event> {
    fn from(journal: Journal) -> Self {
        journal.0
    }
}

impl Journal {
    pub fn events(&self) -> &[Event] {
        &self.0
    }

    /// Adds `entry`, cut to what a `Run` may hold.
    ///
    /// An entry that says nothing new (a step started again after a crash, a workload recorded before) is taken and
    /// not stored, so that the journal stays small however often the process dies.
    ///
    /// # Errors
    ///
    /// When the entry cannot follow; the journal is then as it was.
    pub fn append(&mut self, at: Timestamp, entry: Entry) -> Result<(), IllegalTransition> {
        let state = State::fold(&self.0);
        state.permits(&entry).map_err(|why| IllegalTransition { entry: entry.to_string(), why })?;
        if state.says_already(&entry) {
            return Ok(());
        }
        if matches!(entry, Entry::TakenOver { .. }) && state.takeovers >= TAKEOVERS_KEPT {
            self.0.pop_if(|last| matches!(last.entry, Entry::TakenOver { .. }));
        }
        self.0.push(Event { at, entry: entry.bounded() });
        Ok(())
    }

    /// What [`next`] says of it.
    pub fn next(&self, on_failure: OnFailure) -> Next {
        next(&self.0, on_failure)
    }

    /// Replicas that the workloads had before the run. The first number wins: a later one was read after a crash,
    /// from a workload that this run had scaled to 0 already.
    pub fn replicas(&self) -> BTreeMap<WorkloadRef, i32> {
        replicas(&self.0)
    }

    /// Objects of the backup may have been written or deleted.
    pub fn first_write_begun(&self) -> bool {
        State::fold(&self.0).first_write_begun()
    }

    /// The steps that started, in the order in which they did.
    pub fn step_times(&self) -> Vec<StepTime> {
        step_times(&self.0)
    }
}

/// Says what is next, at a start as after a crash, from the journal alone.
///
/// Replicas are given back in every path but `Hold`. A step that failed is never tried again here: how often it was
/// tried before it failed is the executor's.
pub fn next(events: &[Event], on_failure: OnFailure) -> Next {
    let state = State::fold(events);
    match &state.failure {
        Some(failure) => state.after_failure(failure, on_failure),
        None => match state.steps().iter().copied().find(|step| !state.finished.contains(step)) {
            Some(step) if state.started.contains(&step) => Next::Again(step),
            Some(step) => Next::Run(step),
            None => Next::End {
                phase: Phase::Succeeded,
                reason: "Succeeded".to_owned(),
                message: "every step finished".to_owned(),
            },
        },
    }
}

impl Entry {
    fn bounded(self) -> Self {
        match self {
            Self::Failed { step, reason, message } => {
                Self::Failed { step, reason: cut_message(&reason), message: cut_message(&message) }
            }
            Self::TakenOver { holder } => Self::TakenOver { holder: cut_message(&holder) },
            entry @ (Self::Steps { .. }
            | Self::Started { .. }
            | Self::Replicas { .. }
            | Self::Paused { .. }
            | Self::Unpaused { .. }
            | Self::Silenced { .. }
            | Self::Unsilenced { .. }
            | Self::SafetyBackup { .. }
            | Self::Handed { .. }
            | Self::VersionHad { .. }
            | Self::Finished { .. }
            | Self::Recovered) => entry,
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Steps { steps } => {
                let names: Vec<&str> = steps.iter().map(|step| step.as_str()).collect();
                write!(f, "steps {}", names.join(", "))
            }
            Self::Started { step } => write!(f, "{step} started"),
            Self::Replicas { workload, replicas } => write!(f, "{workload} has {replicas} replicas"),
            Self::Paused { clusters } => write!(f, "{} clusters are paused", clusters.len()),
            Self::Unpaused { clusters } => write!(f, "{} clusters get back what the backup has", clusters.len()),
            Self::Silenced { webhooks } => write!(f, "{} webhooks are silenced", webhooks.len()),
            Self::Unsilenced { webhooks } => write!(f, "{} webhooks are given back", webhooks.len()),
            Self::SafetyBackup { backup } => write!(f, "safety backup {} is stored", backup.name),
            Self::Handed { restore, uid: _ } => write!(f, "handed to the operator as Restore {restore}"),
            Self::VersionHad { had } => {
                write!(f, "Rancher's image is {}", had.image.as_deref().unwrap_or("not known"))?;
                had.revision.map_or(Ok(()), |revision| write!(f, ", of Helm revision {revision}"))
            }
            Self::Finished { step } => write!(f, "{step} finished"),
            Self::Failed { step, reason, message: _ } => write!(f, "{step} failed: {reason}"),
            Self::TakenOver { holder } => write!(f, "taken over by {holder}"),
            Self::Recovered => f.write_str("recovered from Git"),
        }
    }
}

#[derive(Debug, Clone)]
struct Failure {
    step: Step,
    reason: String,
    message: String,
}

/// What the entries come to.
#[derive(Debug, Default)]
struct State {
    /// Empty for those of the native engine.
    own_steps: Vec<Step>,
    started: BTreeSet<Step>,
    finished: BTreeSet<Step>,
    recorded: BTreeSet<WorkloadRef>,
    /// `None` before the first entry of them.
    paused: Option<BTreeSet<(String, String)>>,
    unpaused: BTreeSet<(String, String)>,
    silenced: BTreeSet<WebhookRef>,
    unsilenced: BTreeSet<WebhookRef>,
    has_safety_backup: bool,
    handed: bool,
    has_version: bool,
    takeovers: usize,
    recovered: bool,
    /// The first failure, which is the run's.
    failure: Option<Failure>,
    /// A failure to give replicas back, after another.
    resume_failure: Option<Failure>,
}

impl State {
    fn fold(events: &[Event]) -> Self {
        let mut state = Self::default();
        events.iter().for_each(|event| state.take(&event.entry));
        state
    }

    fn take(&mut self, entry: &Entry) {
        match entry {
            Entry::Steps { steps } => self.own_steps.clone_from(steps),
            Entry::Started { step } => {
                // Of a run that was begun when there was no such step: it goes on without.
                if *step > Step::SafetyBackup && !self.started.contains(&Step::SafetyBackup) {
                    self.finished.insert(Step::SafetyBackup);
                }
                self.started.insert(*step);
            }
            Entry::Finished { step } => {
                self.finished.insert(*step);
            }
            Entry::Replicas { workload, replicas: _ } => {
                self.recorded.insert(workload.clone());
            }
            Entry::Paused { clusters } => {
                let names = clusters.iter().map(|cluster| (cluster.namespace.clone(), cluster.name.clone()));
                self.paused.get_or_insert_default().extend(names);
            }
            Entry::Unpaused { clusters } => {
                self.unpaused.extend(clusters.iter().map(|of| (of.namespace.clone(), of.name.clone())));
            }
            Entry::Silenced { webhooks } => self.silenced.extend(webhooks.iter().map(|had| had.webhook.clone())),
            Entry::Unsilenced { webhooks } => self.unsilenced.extend(webhooks.iter().map(|had| had.webhook.clone())),
            Entry::SafetyBackup { backup: _ } => self.has_safety_backup = true,
            Entry::Handed { .. } => self.handed = true,
            Entry::VersionHad { had: _ } => self.has_version = true,
            Entry::TakenOver { holder: _ } => self.takeovers += 1,
            Entry::Recovered => self.recovered = true,
            Entry::Failed { step, reason, message } => {
                let failure = Failure { step: *step, reason: reason.clone(), message: message.clone() };
                match &self.failure {
                    None => self.failure = Some(failure),
                    Some(_) if *step == Step::Resume => self.resume_failure = Some(failure),
                    Some(_) => {}
                }
            }
        }
    }

    fn steps(&self) -> &[Step] {
        if self.own_steps.is_empty() { Step::NATIVE } else { &self.own_steps }
    }

    /// The operator may be at work for this run.
    fn may_be_handed(&self) -> bool {
        self.steps().contains(&Step::Operator) && (self.recovered || self.started.contains(&Step::Operator))
    }

    fn first_write_begun(&self) -> bool {
        let is_refused = |step: Step| {
            let of_step = |failure: &Failure| failure.step == step && failure.reason == NOT_HANDED_OVER;
            let not_handed = step == Step::Operator && !self.handed && self.failure.as_ref().is_some_and(of_step);
            let not_begun = step == Step::SetVersion && !self.has_version;
            not_handed || not_begun && self.failure.as_ref().is_some_and(|failure| failure.step == step)
        };
        self.recovered || self.started.iter().any(|step| step.writes_objects() && !is_refused(*step))
    }

    /// The step whose effects may be half done.
    fn open(&self) -> Option<Step> {
        let failed = |step| {
            [&self.failure, &self.resume_failure].into_iter().flatten().any(|failure: &Failure| failure.step == step)
        };
        self.started.iter().copied().find(|step| !self.finished.contains(step) && !failed(*step))
    }

    /// No policy leaves anything to do.
    fn ended(&self) -> bool {
        match &self.failure {
            None => self.steps().iter().all(|step| self.finished.contains(step)),
            Some(failure) => {
                failure.step >= Step::Resume
                    || !(self.recovered || self.started.contains(&Step::Quiesce))
                    || self.finished.contains(&Step::Resume)
                    || self.resume_failure.is_some()
            }
        }
    }

    fn permits(&self, entry: &Entry) -> Result<(), String> {
        // Who died between the last entry and the end is taken over like any other.
        if self.ended() && !matches!(entry, Entry::TakenOver { .. } | Entry::Recovered) {
            return Err("the run has ended".to_owned());
        }
        match entry {
            Entry::Steps { .. } if !self.started.is_empty() => {
                Err("steps are named before the first of them".to_owned())
            }
            Entry::Started { step } => self.permits_start(*step),
            Entry::Finished { step } | Entry::Failed { step, .. } if self.open() == Some(*step) => Ok(()),
            // A person's word may come between two steps: the next one is not begun then.
            Entry::Failed { step, reason, .. }
                if reason == CANCELLED && self.failure.is_none() && self.permits_start(*step).is_ok() =>
            {
                Ok(())
            }
            Entry::Finished { step } | Entry::Failed { step, .. } => Err(format!("{step} is not running")),
            // That of the operator itself is scaled down where it does not let go of what it was handed.
            Entry::Replicas { .. } if self.open() != Some(Step::Quiesce) && !self.may_be_handed() => {
                Err("replicas are recorded in quiesce only".to_owned())
            }
            Entry::Paused { .. } if self.open() != Some(Step::Quiesce) => {
                Err("clusters are paused in quiesce only".to_owned())
            }
            Entry::Unpaused { .. } if !(self.recovered || self.started.contains(&Step::Quiesce)) => {
                Err("nothing is paused yet".to_owned())
            }
            Entry::Silenced { .. } if self.open() != Some(Step::Quiesce) => {
                Err("webhooks are silenced in quiesce only".to_owned())
            }
            Entry::Unsilenced { .. } if !(self.recovered || self.started.contains(&Step::Quiesce)) => {
                Err("nothing is silenced yet".to_owned())
            }
            Entry::SafetyBackup { .. } if self.open() != Some(Step::SafetyBackup) => {
                Err("a safety backup is recorded in its step only".to_owned())
            }
            Entry::Handed { .. } if self.open() != Some(Step::Operator) => {
                Err("nothing is handed to the operator but in its step".to_owned())
            }
            Entry::VersionHad { .. } if self.open() != Some(Step::SetVersion) => {
                Err("a version is recorded in its step only".to_owned())
            }
            Entry::Replicas { replicas, .. } if *replicas < 0 => Err("replicas are never negative".to_owned()),
            Entry::Steps { .. }
            | Entry::Replicas { .. }
            | Entry::Paused { .. }
            | Entry::Unpaused { .. }
            | Entry::Silenced { .. }
            | Entry::Unsilenced { .. }
            | Entry::SafetyBackup { .. }
            | Entry::Handed { .. }
            | Entry::VersionHad { .. }
            | Entry::TakenOver { .. }
            | Entry::Recovered => Ok(()),
        }
    }

    fn permits_start(&self, step: Step) -> Result<(), String> {
        if let Some(open) = self.open() {
            return if open == step { Ok(()) } else { Err(format!("{open} is still running")) };
        }
        match &self.failure {
            Some(_) if step == Step::Resume => Ok(()),
            Some(failure) => Err(format!("{} failed; only resume may follow", failure.step)),
            None if self.finished.contains(&step) => Err(format!("{step} has finished")),
            None if !self.steps().contains(&step) => Err(format!("{step} is no step of this run")),
            None => match self.steps().iter().find(|earlier| **earlier < step && !self.finished.contains(earlier)) {
                Some(earlier) => Err(format!("{earlier} comes first")),
                None => Ok(()),
            },
        }
    }

    fn says_already(&self, entry: &Entry) -> bool {
        match entry {
            Entry::Steps { steps } => self.own_steps == *steps,
            Entry::Started { step } => self.started.contains(step),
            Entry::Replicas { workload, replicas: _ } => self.recorded.contains(workload),
            Entry::Paused { clusters } => self.paused.as_ref().is_some_and(|known| {
                clusters.iter().all(|cluster| known.contains(&(cluster.namespace.clone(), cluster.name.clone())))
            }),
            Entry::Unpaused { clusters } => {
                clusters.iter().all(|of| self.unpaused.contains(&(of.namespace.clone(), of.name.clone())))
            }
            Entry::Silenced { webhooks } => webhooks.iter().all(|had| self.silenced.contains(&had.webhook)),
            Entry::Unsilenced { webhooks } => webhooks.iter().all(|had| self.unsilenced.contains(&had.webhook)),
            Entry::SafetyBackup { backup: _ } => self.has_safety_backup,
            Entry::Handed { .. } => self.handed,
            Entry::VersionHad { had: _ } => self.has_version,
            Entry::Recovered => self.recovered,
            Entry::Finished { .. } | Entry::Failed { .. } | Entry::TakenOver { .. } => false,
        }
    }

    fn after_failure(&self, failure: &Failure, on_failure: OnFailure) -> Next {
        let Failure { step, reason, message } = failure.clone();
        if let Some(resume) = &self.resume_failure {
            let message = format!("{message}; then the replicas could not be given back: {}", resume.message);
            return Next::End { phase: Phase::Failed, reason, message: cut_message(&message) };
        }
        if self.ended() {
            let cancelled = reason == CANCELLED && !self.first_write_begun();
            return Next::End { phase: if cancelled { Phase::Cancelled } else { Phase::Failed }, reason, message };
        }
        if !self.first_write_begun() {
            return Next::GiveBack { reason, message };
        }
        match on_failure {
            // Whoever started to resume did so for good: half of the replicas is no state to stop in.
            OnFailure::Hold | OnFailure::Undo if self.started.contains(&Step::Resume) => {
                Next::Resume { reason, message }
            }
            // An undo is a run of its own, and takes Rancher as this one leaves it.
            OnFailure::Hold | OnFailure::Undo => Next::Hold { step, reason, message },
            OnFailure::Resume => Next::Resume { reason, message },
        }
    }
}

#[cfg(test)]
mod tests;
