//! CustomResourceDefinitions: a live version that holds objects cannot be taken away, so it is kept beside the
//! versions of the backup.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{Digest, normal};
use crate::webhook::ConversionWebhook;

/// What of a CRD is compared version by version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrdSummary {
    /// `spec.group` and `spec.names.plural`.
    pub group: String,
    pub plural: String,
    pub kind: String,
    pub namespaced: bool,
    pub versions: BTreeMap<String, CrdVersion>,
    /// `status.storedVersions`: versions at which objects may lie in etcd.
    pub stored: Vec<String>,
    /// The `Established` condition of the status.
    pub established: bool,
    /// Who converts its objects between versions.
    pub conversion: Option<ConversionWebhook>,
    /// `spec.conversion.strategy` is `Webhook`; otherwise an object of one version is only relabelled as another.
    pub converts: bool,
}

/// One version of a CRD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrdVersion {
    pub digest: Digest,
    pub served: bool,
    pub storage: bool,
    /// It declares the status subresource.
    pub status: bool,
}

impl CrdSummary {
    /// Reads a CRD, as it would be written, and takes `spec.versions` out of it, so that the rest can be compared as a
    /// whole.
    pub fn take(object: &mut Map<String, Value>, status: Option<&Value>) -> Self {
        open_schemas_of_preserving(object);
        let conversion = ConversionWebhook::read(object)
            .map(|conversion| ConversionWebhook { stored: stored_versions(status), ..conversion });
        let mut spec = object.get_mut("spec").and_then(Value::as_object_mut);
        let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
        let of_spec = |field: &str| spec.as_deref().and_then(|spec| spec.get(field));
        let of_names = |field: &str| of_spec("names").and_then(|names| names.get(field));
        let (group, scope) = (text(of_spec("group")), text(of_spec("scope")));
        let (plural, kind) = (text(of_names("plural")), text(of_names("kind")));
        let strategy = of_spec("conversion").and_then(|conversion| conversion.get("strategy"));
        let converts = strategy.and_then(Value::as_str) == Some("Webhook");
        let versions = spec.as_mut().and_then(|spec| spec.remove("versions"));
        Self {
            group,
            plural,
            kind,
            namespaced: scope != "Cluster",
            versions: read_versions(versions),
            stored: stored_versions(status),
            established: is_established(status),
            conversion,
            converts,
        }
    }

    /// Every version of this (the backup's) is in the live one as it is here, and what the live one has beyond them
    /// is there because objects are stored at it.
    pub fn is_kept_by(&self, live: &Self) -> bool {
        let same = |(name, version): (&String, &CrdVersion)| {
            live.versions.get(name).is_some_and(|live| live.digest == version.digest)
        };
        let extra_holds_objects = live
            .versions
            .keys()
            .filter(|name| !self.versions.contains_key(*name))
            .all(|name| live.stored.contains(name));
        self.versions.iter().all(same) && extra_holds_objects
    }

    /// The version at which new objects are stored.
    pub fn storage_version(&self) -> Option<&str> {
        let stores = |(_, version): &(&String, &CrdVersion)| version.storage;
        self.versions.iter().find(stores).map(|(name, _)| name.as_str())
    }

    /// Why the API server takes no such definition, however the live one is.
    pub fn defect(&self) -> Option<&'static str> {
        match self.versions.values().filter(|version| version.storage).count() {
            1 => None,
            0 => Some("it has no version for storage"),
            _ => Some("it has more than one version for storage"),
        }
    }

    /// Live versions that the backup does not have and that must stay, since objects are stored at them.
    pub fn versions_to_keep<'a>(&'a self, live: &'a Self) -> impl Iterator<Item = &'a str> {
        live.stored
            .iter()
            .map(String::as_str)
            .filter(|name| !self.versions.contains_key(*name) && live.versions.contains_key(*name))
    }
}

fn read_versions(versions: Option<Value>) -> BTreeMap<String, CrdVersion> {
    let Some(Value::Array(versions)) = versions else { return BTreeMap::new() };
    versions.into_iter().filter_map(read_version).collect()
}

fn read_version(mut version: Value) -> Option<(String, CrdVersion)> {
    normal::strip_nulls(&mut version);
    let flag = |name: &str| version.get(name).and_then(Value::as_bool).unwrap_or_default();
    let name = version.get("name")?.as_str()?.to_owned();
    let (served, storage) = (flag("served"), flag("storage"));
    let status = version.pointer("/subresources/status").is_some();
    Some((name, CrdVersion { digest: Digest::of(&version), served, storage, status }))
}

fn stored_versions(status: Option<&Value>) -> Vec<String> {
    let stored = status.and_then(|status| status.get("storedVersions")).and_then(Value::as_array);
    stored.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Whether the `Established` condition of a CRD's status is true.
pub fn is_established(status: Option<&Value>) -> bool {
    let conditions = status.and_then(|status| status.get("conditions")).and_then(Value::as_array);
    conditions.into_iter().flatten().any(|condition| {
        condition.get("type").and_then(Value::as_str) == Some("Established")
            && condition.get("status").and_then(Value::as_str) == Some("True")
    })
}

/// Puts the live versions that hold objects beside those of the backup, no longer as the storage version.
pub fn keep_stored_versions(backup: &mut Value, live: &Value) {
    let stored = stored_versions(live.get("status"));
    // Its versions need no schemas of their own; the backup's, without the field, do.
    let open = live.pointer("/spec/preserveUnknownFields") == Some(&Value::Bool(true));
    let has = |versions: &[Value], name: &str| versions.iter().any(|version| version["name"] == name);
    let Some(live_versions) = live.pointer("/spec/versions").and_then(Value::as_array) else { return };
    let Some(versions) = backup.pointer_mut("/spec/versions").and_then(Value::as_array_mut) else { return };
    for version in live_versions {
        let Some(name) = version["name"].as_str() else { continue };
        if stored.iter().any(|stored| stored == name) && !has(versions, name) {
            let mut kept = version.clone();
            kept["storage"] = Value::Bool(false);
            if open && let Some(kept) = kept.as_object_mut() {
                open_schema(kept);
            }
            versions.push(kept);
        }
    }
}

/// What upstream does to a CRD that still has `spec.preserveUnknownFields` (rancher-backup e90504c3, `restore/crd.go`): the field goes, and the
/// schemas give way to one that keeps everything, since `apiextensions.k8s.io/v1` refuses the old combination.
pub fn open_schemas_of_preserving(crd: &mut Map<String, Value>) {
    let Some(spec) = crd.get_mut("spec").and_then(Value::as_object_mut) else { return };
    if spec.remove("preserveUnknownFields").and_then(|value| value.as_bool()) != Some(true) {
        return;
    }
    let Some(versions) = spec.get_mut("versions").and_then(Value::as_array_mut) else { return };
    versions.iter_mut().filter_map(Value::as_object_mut).for_each(open_schema);
}

fn open_schema(version: &mut Map<String, Value>) {
    let open = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    version.insert("schema".to_owned(), json!({ "openAPIV3Schema": open }));
}
