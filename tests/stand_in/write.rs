//! How the operator writes one object: it is read, and made or replaced whole.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::Defects;
use super::api::{Api, Kinds, Place, is_code, said};
use super::backup::Item;
use super::graph::{Remapped, remap};
use super::script::Script;

pub struct Writer<'a> {
    pub api: &'a Api,
    pub kinds: &'a mut Kinds,
    pub script: &'a Script,
    pub defects: Defects,
    /// `<definition>/<version>` whose status is a subresource.
    pub with_status: &'a HashSet<String>,
}

/// Why the process ends.
pub struct Panic;

impl Writer<'_> {
    /// # Errors
    ///
    /// What the operator would say.
    pub async fn write(&mut self, item: &Item) -> Result<(), String> {
        let Item { place, object } = item;
        let mut object = object.clone();
        self.script.note("INFO", &format!("restoreResource: Restoring {place}"));
        if place.plural == "secrets" && object["type"] == "fleet.cattle.io/cluster-registration-values" {
            return Ok(());
        }
        if let Remapped::Dropped = remap(self.api, self.kinds, place, &mut object).await? {
            self.script.note("WARN", &format!("Could not find ownerRef for resource {}", place.name));
        }
        open_schemas(&mut object);
        object["metadata"].as_object_mut().map(|metadata| metadata.remove("deletionGracePeriodSeconds"));
        let live = self.api.get(place).await.map_err(|error| failed("getting", &error))?;
        let written = match live {
            None => self.api.create(place, &object).await.map_err(|error| ("creating", error)),
            Some(live) => {
                object["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"].clone();
                if !self.defects.starts_workloads && place.plural == "deployments" {
                    object["spec"]["replicas"] = live["spec"]["replicas"].clone();
                }
                self.api.replace(place, &object).await.map_err(|error| ("updating", error))
            }
        };
        let mut written = match written {
            Ok(written) => written,
            Err((_, error)) if is_denied_setting(place, &error) => return Ok(()),
            Err((what, error)) => return Err(failed(what, &error)),
        };
        let of = format!("{}.{}/{}", place.plural, place.group, place.version);
        if self.with_status.contains(&of) && !object["status"].is_null() {
            written["status"] = object["status"].take();
            let status = self.api.replace_status(place, &written).await;
            status.map_err(|error| failed("updating status", &error))?;
        }
        Ok(())
    }
}

fn failed(what: &str, error: &kube::Error) -> String {
    format!("restoreResource: err {what} resource {}", said(error))
}

fn is_denied_setting(place: &Place, error: &kube::Error) -> bool {
    let message = said(error);
    place.group == "management.cattle.io"
        && place.plural == "settings"
        && is_code(error, 403)
        && ["admission webhook", "rancher.cattle.io.settings", "denied the request"]
            .iter()
            .all(|part| message.contains(part))
}

/// What the operator changes in an object of the backup before anything is written.
///
/// # Errors
///
/// When the operator would end.
pub fn customize(object: &mut Value, defects: Defects) -> Result<(), Panic> {
    let of = (object["kind"].as_str().unwrap_or_default(), object["apiVersion"].as_str().unwrap_or_default());
    let count = |object: &mut Value, field: &str| {
        let number = object["spec"][field].as_f64().unwrap_or_default();
        if object["spec"].is_object() || object["spec"].is_null() {
            object["spec"][field] = json!(number as i64 + 1);
        }
    };
    match of {
        ("ServiceAccount", _) => {
            object.as_object_mut().map(|account| account.remove("secrets"));
        }
        ("Cluster", "fleet.cattle.io/v1alpha1") => count(object, "redeployAgentGeneration"),
        ("Cluster", "provisioning.cattle.io/v1") => count(object, "redeploySystemAgentGeneration"),
        ("Cluster", "management.cattle.io/v3") => {
            let annotations = &mut object["metadata"]["annotations"];
            if annotations.is_null() && defects.dies_of_bare_clusters {
                return Err(Panic);
            }
            annotations["io.cattle.agent.force.deploy"] = json!("true");
        }
        _ => {}
    }
    Ok(())
}

/// A definition that has `preserveUnknownFields` gets schemas that take anything.
fn open_schemas(object: &mut Value) {
    if object["apiVersion"] != "apiextensions.k8s.io/v1" || object["spec"].get("preserveUnknownFields").is_none() {
        return;
    }
    object["spec"]["preserveUnknownFields"] = json!(false);
    for version in object["spec"]["versions"].as_array_mut().into_iter().flatten() {
        version["schema"]["openAPIV3Schema"] = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    }
}

/// The versions whose status is a subresource, as `<definition>/<version>`.
pub fn with_status(definition: &Value) -> Vec<String> {
    let name = definition["metadata"]["name"].as_str().unwrap_or_default();
    let versions = definition["spec"]["versions"].as_array().into_iter().flatten();
    let has_status = |version: &&Value| version["subresources"].get("status").is_some();
    versions
        .filter(has_status)
        .map(|version| format!("{name}/{}", version["name"].as_str().unwrap_or_default()))
        .collect()
}

/// Adds the versions of the live definition that the backup's does not have, none of them for storage.
pub fn merge_versions(backup: &mut Value, live: &Value) {
    let Some(versions) = backup["spec"]["versions"].as_array_mut() else { return };
    for version in live["spec"]["versions"].as_array().into_iter().flatten() {
        if versions.iter().all(|known| known["name"] != version["name"]) {
            let mut version = version.clone();
            version["storage"] = json!(false);
            versions.push(version);
        }
    }
}
