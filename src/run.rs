//! The `Run`: one execution of one manifest, as an object in the cluster.
//!
//! It carries the key, the pinned manifest, the journal and the result. Its status is written by one process at a
//! time, and every write names the resourceVersion it was based on, so that two processes can never both append.

mod planned;

use jiff::Timestamp;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::drift::Drift;
use crate::health::Check;
use crate::journal::{Entry, Event, IllegalTransition, Journal, SafetyBackup, Step, StepTime, WorkloadRef};
use crate::plan::gate::Gate;
use crate::plan::version::VersionChange;
use crate::webhook::silence::WebhookRef;
pub use planned::PlannedDeletions;

/// Namespace of everything that reinback owns in a cluster; outside every pattern of the ResourceSets (invariant 6).
pub const NAMESPACE: &str = "reinback-system";

/// Annotation of a `Run` by which a person asks whoever carries it out to stop before its first write; its value says who.
pub const CANCEL_ANNOTATION: &str = "reinback.io/cancel";

/// The state of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    #[default]
    Pending,
    /// A gate keeps it from running.
    Held,
    Running,
    Succeeded,
    Failed,
    Superseded,
    Cancelled,
}

impl Phase {
    /// The run has ended and its key never runs again.
    pub fn is_terminal(self) -> bool {
        match self {
            Self::Pending | Self::Held | Self::Running => false,
            Self::Succeeded | Self::Failed | Self::Superseded | Self::Cancelled => true,
        }
    }
}

/// What is pinned when the run starts; nothing in it changes afterwards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, CustomResource, JsonSchema)]
#[kube(
    group = "reinback.io",
    version = "v1alpha1",
    kind = "Run",
    namespaced,
    status = "RunStatus",
    category = "reinback",
    doc = "One execution of one Restore or Rollback manifest",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Manifest","type":"string","jsonPath":".spec.manifest.name"}"#,
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.reason"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct RunSpec {
    /// Name of the cluster in the configuration.
    pub cluster: String,
    /// The run key, 64 hexadecimal digits.
    pub key: String,
    /// The key without the manifest's name, for telling the same content under another name.
    pub content_key: String,
    pub manifest: ManifestRef,
    pub source: SourceRef,
    /// Digest of the document as written, 64 hexadecimal digits; empty where it is not known.
    #[serde(default)]
    pub document_digest: String,
    /// The manifest's document, as JSON: the run goes by this even when the file is gone.
    #[schemars(schema_with = "any_object")]
    pub document: serde_json::Value,
}

fn any_object(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

fn any_value(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "x-kubernetes-preserve-unknown-fields": true })
}

/// The API server knows `int64` alone, and warns of `uint64` at every `kubectl apply`; `minimum: 0` stays.
fn as_int64(schema: &mut schemars::Schema) {
    let properties = schema.get_mut("properties").and_then(serde_json::Value::as_object_mut);
    for format in properties.into_iter().flatten().filter_map(|(_, property)| property.get_mut("format")) {
        if format == "uint64" {
            *format = "int64".into();
        }
    }
}

fn any_list(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "array", "items": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } })
}

/// Which manifest, and where it stood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ManifestRef {
    /// `Restore` or `Rollback`.
    pub kind: String,
    pub name: String,
    /// Path in the source, or the file given on the command line.
    pub file: String,
    /// Git blob id of the file.
    pub blob: String,
}

/// Who merged what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SourceRef {
    /// The commit that last changed the document, or `local`.
    pub commit: String,
    /// `Name <email>` of its author, or the user on the command line.
    pub author: String,
}

/// What the run is at and how it ended.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = as_int64)]
pub struct RunStatus {
    pub observed_generation: i64,
    pub phase: Phase,
    /// One word for why the phase is what it is, such as `FirstLook`, `Gates`, `HoldExpired`.
    pub reason: String,
    /// A sentence for a person; no secret value is in it.
    pub message: String,
    #[schemars(schema_with = "any_list")]
    pub conditions: Vec<Condition>,
    #[schemars(with = "Option<String>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_since: Option<Timestamp>,
    #[schemars(with = "Option<String>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    #[schemars(with = "Option<String>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    #[schemars(schema_with = "any_value")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanRecord>,
    /// What the plan would delete, for who goes on with the run ([`PlannedDeletions`]); in the cluster alone, and while it
    /// runs. Without it a run that is gone on with deletes what was there before it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub planned_deletions: Option<String>,
    #[schemars(schema_with = "any_list")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<Gate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counts: Option<Counts>,
    /// At most [`ERRORS_KEPT`]; `errors_total` counts all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<ObjectError>,
    pub errors_total: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Whether Rancher was well after its version was set, a check each.
    #[schemars(schema_with = "any_list")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Check>,
    /// When each step ran, read off the journal for people; `crate::status::refresh` writes it.
    #[schemars(schema_with = "any_list")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepTime>,
    /// What each workload had before the run, read off the journal for people; `crate::status::refresh` writes it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub replicas: Vec<ReplicaRecord>,
    /// What an undo goes back by, read off the journal for people; `crate::status::refresh` writes it.
    #[schemars(schema_with = "any_value")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub safety_backup: Option<SafetyBackup>,
    /// Name of the manifest that undoes this run, where the failure asks for that (`on-failure: Undo`): it is begun by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub undone_by: Option<String>,
    /// Of a Rollback that rules: another version runs than it declares.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drift: Option<Drift>,
    /// Where the operator writes the objects: its Restore, and what it said last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator: Option<OperatorRecord>,
    /// The intent log (`crate::journal`).
    #[schemars(schema_with = "any_list")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub journal: Vec<Event>,
}

impl RunStatus {
    /// [`Journal::append`] on the journal of this status.
    ///
    /// # Errors
    ///
    /// When the entry cannot follow; the journal is then as it was.
    pub fn record(&mut self, at: Timestamp, entry: Entry) -> Result<(), IllegalTransition> {
        let mut journal = Journal::from(std::mem::take(&mut self.journal));
        let appended = journal.append(at, entry);
        self.journal = journal.into();
        appended
    }
}

/// Object errors kept in a status; more would make the object too large to store.
pub const ERRORS_KEPT: usize = 100;

/// Warnings, and gates, kept in a status, for the same reason.
pub const WARNINGS_KEPT: usize = 100;

/// Longest message kept in a `Run`, in bytes. A hundred errors, warnings and gates of this length, and the manifest,
/// stay below the 1 MiB that a status file may have and the 1.5 MiB that etcd takes in one request.
pub const MESSAGE_MAX_BYTES: usize = 1024;

/// `text` on one line and within [`MESSAGE_MAX_BYTES`], as JSON would write it: what is cut ends in `…`.
///
/// Characters that could forge a line of a commit, steer a terminal or turn the reading direction become spaces.
pub fn cut_message(text: &str) -> String {
    cut(text, MESSAGE_MAX_BYTES)
}

/// Control characters, line separators and the marks that override the direction of text.
pub(crate) fn steers(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// As [`cut_message`], within `max_bytes`.
pub(crate) fn cut(text: &str, max_bytes: usize) -> String {
    let mut kept = String::with_capacity(text.len().min(max_bytes));
    let (mut written, mut end) = (0, 0);
    for character in text.chars().map(|c| if steers(c) { ' ' } else { c }) {
        written += if matches!(character, '"' | '\\') { 2 } else { character.len_utf8() };
        if written > max_bytes {
            kept.truncate(end);
            kept.push('…');
            return kept;
        }
        kept.push(character);
        if written + '…'.len_utf8() <= max_bytes {
            end = kept.len();
        }
    }
    kept
}

/// A condition in Flux's shape: `Ready` always, `Reconciling` and `Stalled` only while true.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    pub reason: String,
    pub message: String,
    pub observed_generation: i64,
    pub last_transition_time: Timestamp,
}

/// What a run was planned to do, as kept after the plan itself is gone.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PlanRecord {
    /// `sha256:…` over what an approval covers.
    pub digest: String,
    pub engine: String,
    pub backup: BackupRecord,
    pub counts: Counts,
    /// Prune was on: asked for, and the cluster was the backup's own.
    pub prunes: bool,
    /// The backup was of another cluster; a run that is gone on with goes by this.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub other_cluster: bool,
    /// Workloads to scale to 0; a run that is gone on with goes by them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub quiesce: Vec<WorkloadRef>,
    /// Webhooks to silence while objects are written; a run that is gone on with goes by them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub silences: Vec<WebhookRef>,
    /// Of a Rollback: how the version is set; a run that is gone on with goes by it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<VersionChange>,
    /// Downstream clusters that were connected when the plan was made, by name; after a version was set they are to be so
    /// again. `None` where it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connected_clusters: Option<Vec<String>>,
    pub accepted: Vec<String>,
}

/// The backup that a run restores.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BackupRecord {
    pub name: String,
    /// `sha256:…` of the file as stored.
    pub sha256: String,
    pub size_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rancher_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_uid: Option<String>,
    #[schemars(with = "Option<String>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub taken_at: Option<Timestamp>,
}

/// How many objects met which fate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = as_int64)]
pub struct Counts {
    pub created: u64,
    pub updated: u64,
    pub recreated: u64,
    pub deleted: u64,
    /// Equal already.
    pub skipped: u64,
    pub protected: u64,
    pub failed: u64,
}

impl Counts {
    /// Objects that are written or deleted.
    pub fn changes(&self) -> u64 {
        let Self { created, updated, recreated, deleted, skipped: _, protected: _, failed: _ } = *self;
        created + updated + recreated + deleted
    }
}

/// How far a running step is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = as_int64)]
pub struct Progress {
    pub step: Step,
    pub done: u64,
    pub total: u64,
    /// Objects a second, of the step so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub objects_per_second: Option<u64>,
    /// Estimate from that pace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds_left: Option<u64>,
}

/// How many replicas a workload had before the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaRecord {
    /// `deployments/cattle-system/rancher`.
    pub workload: String,
    pub replicas: i32,
}

/// What the operator was handed, and what it says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct OperatorRecord {
    /// Name of its Restore.
    pub restore: String,
    /// What of its last message names objects; empty while it has said nothing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// An object that could not be brought to what the plan says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectError {
    /// Path of the object in the backup, `secrets.#v1/cattle-system/tls-rancher`.
    pub object: String,
    /// What may be told of the API server's message: code, reason, field (invariant 7).
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_and_bounded_as_json_writes_it() {
        assert_eq!(cut_message("two\nlines\x1b[31m"), "two lines [31m");
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("abcdefg", 6), "abc…");
        for text in ["é".repeat(2000), "\"\\".repeat(2000), "\u{7}".repeat(2000), "🦀".repeat(2000)] {
            let cut = cut_message(&text);
            let json = serde_json::to_string(&cut).expect("a string is JSON");
            assert!(json.len() <= MESSAGE_MAX_BYTES + 2, "{} bytes", json.len());
            assert!(cut.ends_with('…'));
        }
    }
}
