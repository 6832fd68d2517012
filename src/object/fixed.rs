//! Fields that the API server never lets change.
//!
//! RBAC bindings and Secrets are deleted and made anew where such a field differs (gate `Recreates`). Of any other kind that
//! would take along what hangs on the object (the Pods of a Deployment, the volume of a claim, every object of a
//! definition), so that it is refused before the run. The list is of the kinds that a backup of Rancher can hold, from
//! the validation of Kubernetes 1.34 (`pkg/apis/*/validation`, `apiextensions-apiserver/pkg/apis/apiextensions/validation`);
//! what a custom resource's own rules or a webhook forbid is only known to those, and fails by name in the run.

use serde_json::{Map, Value, json};

use super::{Digest, Resource};

/// What of one object can never change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fixed {
    /// Path of the field, and what it says.
    fields: Box<[(&'static str, Digest)]>,
    /// Of a Secret or ConfigMap with `immutable: true`: its data, and that it stays so.
    sealed: Option<Digest>,
}

impl Fixed {
    /// The first field in which a live object can never become the one of the backup.
    pub fn conflict(&self, live: &Self) -> Option<&'static str> {
        let theirs = |field: &str| live.fields.iter().find(|(name, _)| *name == field).map(|(_, digest)| digest);
        let changed = self.fields.iter().find(|(name, digest)| theirs(name).is_some_and(|live| live != digest));
        match changed {
            Some((field, _)) => Some(field),
            // An open one may be sealed, a sealed one stays as it is.
            None => (live.sealed.is_some() && live.sealed != self.sealed).then_some("data, which is immutable"),
        }
    }
}

/// Whether an object of the type may be deleted and made anew for it.
pub fn is_made_anew(resource: &Resource) -> bool {
    matches!(
        (resource.group.as_str(), resource.plural.as_str()),
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") | ("", "secrets")
    )
}

/// Reads what can never change, from the normal form; `None` for a type that has no such fields, or none that we know.
pub fn read(resource: &Resource, object: &Map<String, Value>) -> Option<Box<Fixed>> {
    let fields = fields_of(resource, object);
    let holds_data = resource.is("", "secrets") || resource.is("", "configmaps");
    let sealed = (holds_data && object.get("immutable") == Some(&Value::Bool(true)))
        .then(|| Digest::of(&json!([object.get("data"), object.get("binaryData")])));
    (!fields.is_empty() || sealed.is_some()).then(|| Box::new(Fixed { fields: fields.into(), sealed }))
}

/// Each with what the server fills in where it is not said, which the normal form leaves out.
fn fields_of(resource: &Resource, object: &Map<String, Value>) -> Vec<(&'static str, Digest)> {
    let at = |path: &'static str, default: Value| {
        let mut names = path.split('.');
        let first = names.next().and_then(|name| object.get(name));
        let value = names.fold(first, |within, name| within?.get(name));
        (path, Digest::of(value.unwrap_or(&default)))
    };
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => vec![at("roleRef", Value::Null)],
        ("", "secrets") => vec![at("type", json!("Opaque"))],
        ("", "services") => headless(object).into_iter().collect(),
        ("apps", "deployments" | "daemonsets" | "replicasets") => vec![at("spec.selector", Value::Null)],
        ("apps", "statefulsets") => vec![
            at("spec.selector", Value::Null),
            at("spec.serviceName", json!("")),
            at("spec.podManagementPolicy", json!("OrderedReady")),
            at("spec.volumeClaimTemplates", json!([])),
        ],
        ("batch", "jobs") => vec![at("spec.template", Value::Null), at("spec.completionMode", json!("NonIndexed"))],
        ("scheduling.k8s.io", "priorityclasses") => {
            vec![at("value", json!(0)), at("preemptionPolicy", json!("PreemptLowerPriority"))]
        }
        ("storage.k8s.io", "storageclasses") => vec![
            at("provisioner", Value::Null),
            at("parameters", json!({})),
            at("reclaimPolicy", json!("Delete")),
            at("volumeBindingMode", json!("Immediate")),
        ],
        ("networking.k8s.io", "ingressclasses") => vec![at("spec.controller", json!(""))],
        ("node.k8s.io", "runtimeclasses") => vec![at("handler", json!(""))],
        ("apiextensions.k8s.io", "customresourcedefinitions") => {
            vec![at("spec.scope", Value::Null), at("spec.names.kind", Value::Null)]
        }
        _ => Vec::new(),
    }
}

/// A Service has an address or none for ever; which one is the cluster's to give ([`super::defaults`]). One that is a name
/// elsewhere may become any other, and the other way round.
fn headless(object: &Map<String, Value>) -> Option<(&'static str, Digest)> {
    let spec = |field: &str| object.get("spec").and_then(|spec| spec.get(field)).and_then(Value::as_str);
    let is_headless = spec("clusterIP") == Some("None");
    (spec("type") != Some("ExternalName")).then(|| ("spec.clusterIP", Digest::of(&json!(is_headless))))
}
