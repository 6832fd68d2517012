//! The journal: the intent log of a run, and what it says is next.
//!
//! An entry is durable (in the `Run`) before the effect that it announces. It holds what looking at the cluster
//! cannot tell: how many replicas a workload had, what was planned and accepted, how far the run came.

use std::fmt;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A part of a run, in the order in which they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Step {
    /// Backup checked, cluster compared, gates passed.
    Preflight,
    /// The `started` commit is on the remote.
    Announce,
    /// Writers recorded, scaled to 0, their pods gone.
    Quiesce,
    /// The first step that writes objects of the backup.
    Crds,
    ClusterScoped,
    Namespaced,
    Prune,
    /// Replicas given back.
    Resume,
    Verify,
}

impl Step {
    pub const ALL: &[Step] = &[
        Step::Preflight,
        Step::Announce,
        Step::Quiesce,
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
            Self::Crds => "crds",
            Self::ClusterScoped => "cluster-scoped",
            Self::Namespaced => "namespaced",
            Self::Prune => "prune",
            Self::Resume => "resume",
            Self::Verify => "verify",
        }
    }

    /// Objects of the backup are written or deleted in this step.
    pub fn writes_objects(self) -> bool {
        match self {
            Self::Crds | Self::ClusterScoped | Self::Namespaced | Self::Prune => true,
            Self::Preflight | Self::Announce | Self::Quiesce | Self::Resume | Self::Verify => false,
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

impl fmt::Display for WorkloadRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.resource, self.namespace, self.name)
    }
}

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
    /// The step's effects may have begun.
    Started { step: Step },
    /// The workload's replicas before it is scaled down; written before the scale-down.
    Replicas { workload: WorkloadRef, replicas: i32 },
    /// The step's effects are complete.
    Finished { step: Step },
    /// The step gave up; what follows is decided by [`next`].
    Failed { step: Step, reason: String, message: String },
    /// Another process took the run over.
    TakenOver { holder: String },
}
