//! What backup, cluster and ledger said, as plain data with a time.
//!
//! What a gate judges (a missing backup, a workload that somebody else manages) is data here and never an error.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;

use crate::backup::{BackupName, Facts, Selectors, Unopened};
use crate::journal::WorkloadRef;
use crate::object::owner::OwnerId;
use crate::object::protect::{Guarded, SecretRef};
use crate::object::{LiveFacts, ObjectKey, Resource, Summary};
use crate::plan::version::Brought;
use crate::release::{ChartArchive, History};
use crate::webhook::{ServiceRef, Webhooks};

/// Everything that a plan is made from, as it stood at one time.
#[derive(Debug)]
pub struct Observed {
    pub at: Timestamp,
    pub backup: BackupSeen,
    /// The packaged chart that a Rollback names; `None` where it names none, and where nobody looked.
    pub chart: Option<ChartSeen>,
    pub cluster: ClusterFacts,
    pub live: Live,
    pub ledger: LedgerFacts,
    /// What the API server says we may not do.
    pub denied: Vec<Access>,
    pub guarded: Guarded,
}

/// What became of looking for the backup.
#[derive(Debug)]
pub enum BackupSeen {
    /// The manifest names none: the version of Rancher is set alone.
    NotNamed,
    /// No such file; `place` says where it was looked for.
    Missing { place: String },
    /// Found, and not whole. The message names the entry.
    Corrupt { message: String },
    /// Found, and not opened.
    Encrypted(Closed),
    /// Not looked at, since we have no place or no right to look: the operator may. No credential is in the reason.
    Unreadable { reason: String },
    /// Found and whole.
    Whole(Box<Backup>),
}

impl BackupSeen {
    /// The backup, where it is whole.
    pub fn whole(&self) -> Option<&Backup> {
        match self {
            Self::Whole(backup) => Some(backup),
            Self::NotNamed
            | Self::Missing { .. }
            | Self::Corrupt { .. }
            | Self::Encrypted(_)
            | Self::Unreadable { .. } => None,
        }
    }
}

/// Why a backup was not opened. No key material is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Closed {
    /// The Secret that the manifest names (`namespace/name`) is not as it must be.
    Configuration { secret: String, problem: String },
    /// Entries that no key has opened: `closed` of `of`.
    Entries {
        /// Path of the first.
        first: String,
        provider: String,
        problem: Unopened,
        closed: u64,
        of: u64,
        /// The Secret with the configuration; `None` when the manifest names none.
        secret: Option<String>,
    },
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configuration { secret, problem } => {
                write!(f, "the encryption configuration in the Secret {secret} cannot be used: {problem}")
            }
            Self::Entries { first, provider, problem, closed, of, secret } => {
                write!(
                    f,
                    "{closed} of {of} entries cannot be decrypted, first {first}: it is encrypted by {provider}, and "
                )?;
                match secret {
                    None => f.write_str("the manifest names no encryption configuration"),
                    Some(secret) => write!(f, "{problem} (Secret {secret})"),
                }
            }
        }
    }
}

/// What became of looking for the packaged chart that a Rollback names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChartSeen {
    Packaged(ChartFacts),
    /// It is not there, or no packaged chart: why, as a clause.
    Unusable(String),
}

/// A packaged chart in the source repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChartFacts {
    pub about: ChartArchive,
    /// `sha256:…` of the archive.
    pub sha256: String,
    /// Commit at which it was read, 40 digits.
    pub commit: String,
}

/// Objects that lie open although the encryption configuration of the manifest encrypts their types.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenEntries {
    pub count: u64,
    /// The first few.
    pub first: Vec<String>,
}

/// A whole backup, indexed.
#[derive(Debug)]
pub struct Backup {
    pub name: BackupName,
    /// `sha256:…` of the file as stored.
    pub sha256: String,
    pub size_bytes: u64,
    pub facts: Facts,
    /// In the order of the archive.
    pub objects: Vec<BackupObject>,
    /// `None` when there is no `filters/filters.json`: nothing can be pruned then.
    pub selectors: Option<Selectors>,
    /// The ResourceSet as it stands in the backup.
    pub filters: Option<Arc<serde_json::Value>>,
    /// Workloads that the backup's ResourceSet asks to scale down.
    pub controllers: Vec<WorkloadRef>,
    /// What selectors of the backup ask for and the cluster does not serve so.
    pub unserved_selectors: Vec<Unserved>,
    /// Types, as `plural.group`, of which the backup or its selectors have objects, and which can be read but not listed.
    pub unlistable: Vec<String>,
    /// Fields of the backup's selectors that we do not know, by name.
    pub unknown_fields: Vec<String>,
    /// Empty where nothing is to be encrypted.
    pub open_entries: OpenEntries,
}

/// A group and version, or a type of it, that a selector of a backup asks for and nobody serves.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unserved {
    /// `example.org/v1`, or `widgets of example.org/v1`.
    pub what: String,
    /// The `apiVersion`s at which the cluster serves it instead.
    pub elsewhere: Vec<String>,
}

/// One object of the backup.
#[derive(Debug)]
pub struct BackupObject {
    pub key: ObjectKey,
    pub summary: Summary,
}

/// One live object that matters: it is in the backup, a selector of the backup matches it, or it owns one that is.
#[derive(Debug, Clone)]
pub struct LiveObject {
    pub key: ObjectKey,
    pub summary: Summary,
    pub facts: LiveFacts,
    /// A selector of the backup matches it: prune deletes it when the backup does not have it.
    pub selected: bool,
}

/// The live objects, found by key.
#[derive(Debug, Default)]
pub struct Live {
    /// Sorted by key: a map beside them would cost a third of their memory.
    pub objects: Vec<LiveObject>,
    /// Resource types of the cluster.
    pub served: Served,
    /// What lies in namespaces or depends on objects that prune would delete.
    pub dependents: Vec<Dependent>,
    /// Every list ended; a type that could not be listed is named.
    pub unlisted: Vec<(Resource, String)>,
    /// Types that could not be listed since the webhook that converts their objects does not answer.
    pub unconverted: BTreeSet<Resource>,
}

impl Live {
    pub fn new(mut objects: Vec<LiveObject>, served: Served) -> Self {
        objects.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Self { objects, served, dependents: Vec::new(), unlisted: Vec::new(), unconverted: BTreeSet::new() }
    }

    pub fn get(&self, key: &ObjectKey) -> Option<&LiveObject> {
        self.index(key).map(|index| &self.objects[index as usize])
    }

    /// Where an object stands in `objects`.
    pub fn index(&self, key: &ObjectKey) -> Option<u32> {
        let found = self.objects.binary_search_by(|object| object.key.cmp(key)).ok()?;
        u32::try_from(found).ok()
    }
}

/// Resource types that the API server serves, or that a CRD of the backup will make it serve.
#[derive(Debug, Clone, Default)]
pub struct Served {
    pub types: BTreeMap<Resource, ServedType>,
    /// Groups whose discovery failed, such as `v1.ext.cattle.io` while Rancher is down.
    pub failing: BTreeSet<String>,
}

/// What discovery says of one resource type at one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedType {
    pub kind: Arc<str>,
    pub namespaced: bool,
    pub listable: bool,
    /// It has the status subresource.
    pub status: bool,
    /// A custom resource: its status is data, and is restored.
    pub custom: bool,
}

/// An object that goes when another is deleted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dependent {
    pub key: ObjectKey,
    pub uid: Box<str>,
    /// UIDs of its owners.
    pub owners: Vec<Box<str>>,
}

/// What the cluster says of itself and of Rancher.
#[derive(Debug, Clone, Default)]
pub struct ClusterFacts {
    /// UID of the namespace `kube-system`.
    pub uid: String,
    pub api_url: String,
    pub install_uuid: Option<String>,
    /// Setting `server-url`.
    pub server_url: Option<String>,
    /// Setting `server-version`; written when a Rancher starts, so it may lag.
    pub server_version: Option<String>,
    /// `appVersion` of the newest deployed Helm release of Rancher.
    pub release_version: Option<String>,
    /// Revisions of Rancher's Helm release; only looked at where a version is to be set.
    pub releases: History,
    /// Version of the helm program, such as `v3.22.0`, or why there is none that runs; only asked where a version is to be set.
    pub helm: Option<Result<String, String>>,
    /// Types of what its revisions consist of, by group and kind, as far as they are served; only looked at where a version is to be set.
    pub release_types: BTreeMap<(String, String), ReleaseType>,
    /// What a newer Rancher makes when it runs and an older one does not serve; only looked at where a version is to be set.
    pub brought: Vec<Brought>,
    /// What a run before removed of that and is missing since; only looked at where a version is to be set.
    pub removed: Vec<Brought>,
    /// Downstream clusters that are connected, by name; only looked at where a version is to be set, and `None` where they may not
    /// be seen or are too many to record.
    pub connected_clusters: Option<Vec<String>>,
    /// Rancher's own Deployment and the controllers that write beside it, Rancher first.
    pub workloads: Vec<Workload>,
    pub webhooks: Webhooks,
    /// Live `Restore` objects of the rancher-backup operator.
    pub restores: Vec<UpstreamRestore>,
    /// The operator itself; only looked at where it is to write the objects.
    pub operator: Option<OperatorFacts>,
    /// Secrets that the operator, or a live Backup or Restore of it, names.
    pub operator_secrets: BTreeSet<SecretRef>,
    pub terminating_namespaces: BTreeSet<String>,
    /// Namespaces that hold Pods or PersistentVolumeClaims.
    pub occupied_namespaces: BTreeMap<String, u64>,
    /// Services that webhook configurations of the backup name and that are there, by namespace and name.
    pub services: BTreeSet<(String, String)>,
    /// Webhook configurations of Rancher that are there, as `plural/name`.
    pub rancher_webhooks: Vec<String>,
    /// What Kubernetes says it is, such as `v1.36.2+k3s1`; only asked where the backup is of another cluster, or a version is
    /// to be set.
    pub kubernetes_version: Option<String>,
    /// Run that another agent or an earlier start of ours has not ended, by name.
    pub unfinished_runs: Vec<String>,
}

/// The type of an object of a Helm release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseType {
    pub resource: Resource,
    pub namespaced: bool,
}

/// A workload that a run scales to 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    pub reference: WorkloadRef,
    /// It is Rancher itself.
    pub rancher: bool,
    pub uid: String,
    pub replicas: i32,
    pub ready: i32,
    /// What the annotation `reinback.io/replicas` says it had.
    pub recorded: Option<i32>,
    /// A rollout is under way and has not given up.
    pub rolling: bool,
    /// Image of the first container.
    pub image: Option<String>,
    /// Selector of its pods, as a label query.
    pub selector: String,
    /// Tools that would set the replicas back, such as `Argo CD (application rancher)`.
    pub managers: Vec<String>,
    /// Services of admission and conversion webhooks that lead to its pods: where there is one, it stays up.
    pub answers: Vec<ServiceRef>,
    /// Secrets of its namespace that its pods mount.
    pub mounts: Vec<String>,
}

/// A `Restore` of the rancher-backup operator in the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamRestore {
    pub name: String,
    /// It carries our label.
    pub ours: bool,
    /// The run key in its annotation.
    pub key: Option<String>,
    /// `status.restoreCompletionTs` is set.
    pub finished: bool,
}

/// The rancher-backup operator, as far as a Restore depends on it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OperatorFacts {
    /// The type `restores.resources.cattle.io` is served.
    pub served: bool,
    /// Its Deployment, where there is one.
    pub deployment: Option<OperatorDeployment>,
    /// `<name>:<uid>` of the Restore that its Lease is held for.
    pub holder: Option<String>,
    /// It says where backups lie for a Restore that names no place: a bucket, its own volume, or a folder of a developer.
    pub has_default_store: bool,
    /// Secrets that it is to read for this restore, and that are not there.
    pub missing_secrets: Vec<SecretRef>,
    /// Backups that it makes by a schedule, by name.
    pub scheduled: Vec<String>,
    /// A ResourceSet that its chart installs, for a safety backup where the backup's own filters are not known.
    pub resource_set: Option<String>,
}

/// The Deployment of the operator.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OperatorDeployment {
    pub available: bool,
    /// Pods of two versions are there at once.
    pub rolling: bool,
    /// It is at 0, and its annotation says what it had: an earlier run of ours did not give that back.
    pub stopped_by_us: bool,
}

/// What the status branch says.
#[derive(Debug, Clone, Default)]
pub struct LedgerFacts {
    /// UID of the cluster that wrote the status branch.
    pub branch_cluster_uid: Option<String>,
    /// The status branch is on the remote.
    pub branch_exists: bool,
    /// Runs that the cluster knows.
    pub runs_in_cluster: usize,
    /// The key of a run of another name has the same content; its name.
    pub same_content_ran_as: Option<String>,
    /// Other manifests that are as new as this one.
    pub as_new: Vec<String>,
}

/// A right that is asked of the API server.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Access {
    pub verb: &'static str,
    pub group: String,
    /// Plural, with `/status` for the subresource.
    pub resource: String,
    pub namespace: Option<String>,
    /// `None` for all.
    pub name: Option<String>,
}

/// UIDs of live owners, by what their dependents call them.
pub type OwnerUids = HashMap<OwnerId, Box<str>>;
