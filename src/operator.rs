//! The rancher-backup operator's contract, as data: what it is handed, what it says, and what of that may be told on.
//!
//! From rancher-backup e90504c3, `pkg/controllers/restore`. A `Restore` has no end but success: it fails by a condition, is
//! tried again for ever, and a try that runs does not hear of its deletion. While it is at one, its Lease names it.

mod told;

use serde_json::{Value, json};

use crate::desired::StoreDefault;
use crate::manifest::{ClientConfig, RestoreSpec, S3Location};
use crate::object::Resource;
use crate::object::protect::OPERATOR_GROUP;
pub use told::{log_lines, told};

/// The Lease, in the operator's namespace, that is held for a Restore while the operator is at it.
pub const LEASE: &str = "restore-controller";
/// Label of the objects that reinback makes for the operator, and annotation with the run's whole name.
pub const RUN: &str = "reinback.io/run";
/// Annotation: the run's key.
pub const RUN_KEY: &str = "reinback.io/run-key";
/// ResourceSets that the operator's chart installs, the fuller first.
pub const DEFAULT_RESOURCE_SETS: [&str; 2] = ["rancher-resource-set-full", "rancher-resource-set"];

const COMMIT: &str = "reinback.io/commit";
const FILE: &str = "reinback.io/manifest";
/// Longest name and label value of Kubernetes, in bytes, where a name is a DNS label.
const LABEL_MAX_BYTES: usize = 63;
/// Digits of the key in a name.
const KEY_DIGITS: usize = 8;

/// The type of a Restore.
pub fn restores() -> Resource {
    Resource::new(OPERATOR_GROUP, "v1", "restores")
}

/// Name of the Restore of a run: it follows from the manifest's name and the run's key, so that making it twice makes one.
pub fn restore_name(manifest: &str, key: &str) -> String {
    let key: String = key.chars().take(KEY_DIGITS).collect();
    let plain = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' };
    let name: String = manifest.chars().map(|c| plain(c.to_ascii_lowercase())).collect();
    let room = LABEL_MAX_BYTES - KEY_DIGITS - 1;
    let name = name.trim_matches('-');
    let name = name.get(..room).unwrap_or(name).trim_end_matches('-');
    if name.is_empty() { format!("restore-{key}") } else { format!("{name}-{key}") }
}

/// What the operator is asked for, but for prune, which the plan decides.
///
/// It looks where we look, as far as it can: in the manifest's bucket, else in ours, else where it is told to by default. What it
/// reads otherwise than we do is written as it wants it: the namespace of the credentials is said, the endpoint is without a
/// scheme, and the folder without slashes at its ends.
pub fn spec(restore: &RestoreSpec, default: Option<&StoreDefault>, operator_namespace: &str) -> Value {
    let RestoreSpec {
        backup_filename,
        storage_location,
        prune: _,
        delete_timeout_seconds,
        ignore_errors,
        encryption_config_secret_name,
    } = restore;
    let mut spec = json!({ "backupFilename": backup_filename });
    let s3 = match (storage_location, default) {
        (Some(s3), _) => Some(s3),
        (None, Some(StoreDefault::S3(s3))) => Some(s3.as_ref()),
        (None, Some(StoreDefault::Directory(_)) | None) => None,
    };
    if let Some(s3) = s3 {
        spec["storageLocation"] = json!({ "s3": location(s3, operator_namespace) });
    }
    if *delete_timeout_seconds > 0 {
        spec["deleteTimeoutSeconds"] = json!(delete_timeout_seconds);
    }
    if *ignore_errors {
        spec["ignoreErrors"] = json!(true);
    }
    if let Some(name) = encryption_config_secret_name {
        spec["encryptionConfigSecretName"] = json!(name);
    }
    spec
}

fn location(s3: &S3Location, operator_namespace: &str) -> Value {
    let mut s3 = s3.clone();
    if s3.credential_secret_name.is_some() && s3.credential_secret_namespace.is_none() {
        s3.credential_secret_namespace = Some(operator_namespace.to_owned());
    }
    let bare = |text: &String| text.trim().trim_start_matches("https://").trim_end_matches('/').to_owned();
    s3.endpoint = s3.endpoint.as_ref().map(bare);
    s3.folder = s3.folder.map(|folder| folder.trim_matches('/').to_owned());
    let mut value = json!(s3);
    if let Some(fields) = value.as_object_mut() {
        if s3.client_config == ClientConfig::default() {
            fields.remove("clientConfig");
        }
        // What says nothing is left out, as a person would.
        fields.retain(|_, field| !field.is_null() && *field != json!(false) && *field != json!(""));
    }
    value
}

/// Where a Restore comes from.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// Name of the `Run`.
    pub run: &'a str,
    pub key: &'a str,
    pub commit: &'a str,
    /// Path of the manifest.
    pub file: &'a str,
}

/// The Restore of a run. It has no owner: a cluster-scoped object that a namespaced one owns is deleted at once.
pub fn restore(name: &str, spec: &Value, prune: bool, origin: Origin<'_>) -> Value {
    let Origin { run, key, commit, file } = origin;
    // A label that is too long would be refused; the annotation has all of it.
    let label = if run.len() <= LABEL_MAX_BYTES { run.to_owned() } else { key.chars().take(KEY_DIGITS).collect() };
    let mut spec = spec.clone();
    spec["prune"] = json!(prune);
    json!({
        "apiVersion": restores().api_version(),
        "kind": "Restore",
        "metadata": {
            "name": name,
            "labels": { "app.kubernetes.io/managed-by": "reinback", RUN: label },
            "annotations": { RUN: run, RUN_KEY: key, COMMIT: commit, FILE: file },
        },
        "spec": spec,
    })
}

/// The run key that a Restore carries.
pub fn key_of(restore: &Value) -> Option<&str> {
    restore.pointer("/metadata/annotations")?.get(RUN_KEY)?.as_str()
}

/// How far the operator is with a Restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It says nothing yet.
    Running,
    /// The last try failed, with this message as the operator wrote it: nothing to be told on as it is ([`told`]).
    Failing(String),
    Done,
}

impl State {
    pub fn is_failing(&self) -> bool {
        matches!(self, Self::Failing(_))
    }
}

/// Reads the status of a Restore. There is no other sign of a failure than the reason of that condition, whose status is `False`
/// then, and none of its end.
pub fn state(restore: &Value) -> State {
    let text = |pointer: &str| restore.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    if !text("/status/restoreCompletionTs").is_empty() {
        return State::Done;
    }
    let conditions = restore.pointer("/status/conditions").and_then(Value::as_array);
    let mut conditions = conditions.into_iter().flatten();
    let failing = conditions.find(|condition| condition["type"] == "Reconciling" && condition["reason"] == "Error");
    match failing {
        Some(condition) => State::Failing(condition["message"].as_str().unwrap_or_default().to_owned()),
        None => State::Running,
    }
}

/// What its Lease says of a Restore that it is held for.
pub fn holder(lease: &Value) -> Option<&str> {
    lease.pointer("/spec/holderIdentity").and_then(Value::as_str).filter(|holder| !holder.is_empty())
}

/// As a Lease names a Restore.
pub fn holder_of(name: &str, uid: &str) -> String {
    format!("{name}:{uid}")
}

/// Counts failures that say the same. The operator does not write such a status again, but every try takes its Lease and gives it
/// back: so many were given back while the message stayed, or while there was none, since it dies of what it restores.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failures {
    /// `None` before the first message.
    words: Option<Vec<String>>,
    /// Tries that had ended when it was first seen.
    before: u64,
}

impl Failures {
    /// How often the same has failed, of so many `tries` that have ended. The words count and not their order: what prune could
    /// not delete is told in another order by each try.
    pub fn note(&mut self, state: &State, tries: u64) -> u64 {
        let words = match state {
            State::Done => return 0,
            State::Running => None,
            State::Failing(message) => {
                let mut words: Vec<String> = message.split_whitespace().map(str::to_owned).collect();
                words.sort();
                Some(words)
            }
        };
        // The status is written before the Lease of that try is given back, and may be heard of after.
        let told = u64::from(words.is_some());
        if self.words != words {
            *self = Self { words, before: tries };
        }
        (tries - self.before).max(told)
    }
}

#[cfg(test)]
mod tests;
