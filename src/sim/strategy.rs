//! What is particular to a kind: what it sets by default, what a write may not touch, and how it is shown.
//!
//! Of the defaults of the built-in kinds there are those that can be met in Rancher's workloads and definitions; a field
//! that nobody knows is kept, and not dropped as a typed decoder would.

use std::borrow::Cow;

use serde_json::{Value, json};

use super::events;
use super::kinds::Kind;
use super::meta::{self, at, default, list, text};
use super::write::Part;

/// An object as its kind stores it: without kind and version, which the type says, and without metadata that say nothing.
pub fn stored(kind: &Kind, mut object: Value) -> Value {
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
    metadata.into_iter().for_each(|fields| fields.retain(|_, value| !is_empty(value)));
    meta::remove(&mut object, &["apiVersion"]);
    meta::remove(&mut object, &["kind"]);
    if is_new_event(kind) { events::to_core(object) } else { object }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// An object as its kind shows it, without kind and version.
pub fn shown<'a>(kind: &Kind, object: &'a Value) -> Cow<'a, Value> {
    if is_new_event(kind) { Cow::Owned(events::from_core(object.clone())) } else { Cow::Borrowed(object) }
}

fn is_new_event(kind: &Kind) -> bool {
    kind.group == "events.k8s.io"
}

pub fn prepare_create(kind: &Kind, version: &str, object: &mut Value, now: &str) {
    if kind.version(version).is_some_and(|version| version.status) {
        meta::remove(object, &["status"]);
    }
    set_defaults(kind, version, object);
    match &*kind.stored {
        "namespaces" => {
            object["status"] = json!({"phase": "Active"});
            let name = meta::name(object).to_owned();
            *at(object, &["metadata", "labels", "kubernetes.io/metadata.name"]) = name.into();
            let finalizers = at(object, &["spec", "finalizers"]);
            let mut all: Vec<Value> = finalizers.as_array().cloned().unwrap_or_default();
            if !all.iter().any(|finalizer| finalizer == "kubernetes") {
                all.push("kubernetes".into());
            }
            *finalizers = all.into();
        }
        "customresourcedefinitions.apiextensions.k8s.io" => {
            let stored = list(object, "/spec/versions").iter().filter(|version| version["storage"] == true);
            let stored: Vec<Value> = stored.map(|version| version["name"].clone()).collect();
            object["status"] = json!({
                "conditions": null, "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": stored,
            });
        }
        "pods" => object["status"] = json!({"phase": "Pending", "qosClass": "BestEffort"}),
        "services" => object["status"] = json!({"loadBalancer": {}}),
        "apiservices.apiregistration.k8s.io" => object["status"] = local_service(object, now),
        "deployments.apps" => object["status"] = json!({}),
        "replicasets.apps" => object["status"] = json!({"replicas": 0}),
        "statefulsets.apps" => object["status"] = json!({"replicas": 0, "availableReplicas": 0}),
        "daemonsets.apps" => {
            object["status"] = json!({
                "currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0,
            });
        }
        "poddisruptionbudgets.policy" => {
            object["status"] = json!({
                "disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0,
            });
        }
        _ => {}
    }
}

/// Holds a definition back until its objects are gone.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// An `APIService` without a server of its own is always there.
fn local_service(object: &Value, now: &str) -> Value {
    if object.pointer("/spec/service").is_some_and(Value::is_object) {
        return json!({});
    }
    json!({"conditions": [{
        "type": "Available", "status": "True", "lastTransitionTime": now, "reason": "Local",
        "message": "Local APIServices are always available",
    }]})
}

pub fn prepare_update(kind: &Kind, version: &str, part: Part, new: &mut Value, old: &Value) {
    let has_status = kind.version(version).is_some_and(|version| version.status);
    match part {
        Part::Status => {
            let status = new.get("status").cloned();
            new.clone_from(old);
            meta::assign(new, &["status"], status);
        }
        Part::Whole => {
            if has_status {
                meta::assign(new, &["status"], old.get("status").cloned());
            }
            set_defaults(kind, version, new);
            if &*kind.stored == "customresourcedefinitions.apiextensions.k8s.io" {
                store_version(new);
            }
            if &*kind.stored == "namespaces" {
                meta::assign(new, &["spec", "finalizers"], old.pointer("/spec/finalizers").cloned());
                let name = meta::name(old).to_owned();
                *at(new, &["metadata", "labels", "kubernetes.io/metadata.name"]) = name.into();
            }
        }
    }
}

/// Notes the version in which objects are stored from now on.
fn store_version(definition: &mut Value) {
    let versions = list(definition, "/spec/versions");
    let stored = versions.iter().find(|version| version["storage"] == true).map(|version| version["name"].clone());
    let known = at(definition, &["status", "storedVersions"]);
    if let (Some(stored), Some(known)) = (stored, known.as_array_mut())
        && !known.contains(&stored)
    {
        known.push(stored);
    }
}

/// Whether what changed counts as a generation of the kind.
pub fn counts(kind: &Kind, old: &Value, new: &Value) -> bool {
    if kind.rules.custom {
        return without(old, &["metadata"]) != without(new, &["metadata"])
            && (without(old, &["metadata", "status"]) != without(new, &["metadata", "status"]) || !has_status(kind));
    }
    let annotations = |object: &Value| object.pointer("/metadata/annotations").cloned();
    let annotated = &*kind.stored == "deployments.apps" && annotations(old) != annotations(new);
    annotated || without(old, &["metadata", "status"]) != without(new, &["metadata", "status"])
}

fn has_status(kind: &Kind) -> bool {
    kind.versions.iter().any(|version| version.status)
}

fn without(object: &Value, fields: &[&str]) -> Vec<(String, Value)> {
    let all = object.as_object().into_iter().flatten();
    all.filter(|(field, _)| !fields.contains(&field.as_str())).map(|(f, v)| (f.clone(), v.clone())).collect()
}

fn set_defaults(kind: &Kind, version: &str, object: &mut Value) {
    if let Some(schema) = kind.version(version).and_then(|version| version.schema.as_ref()) {
        schema.apply(object);
        return;
    }
    match &*kind.stored {
        "secrets" => secret(object),
        "deployments.apps" => deployment(object),
        "statefulsets.apps" | "daemonsets.apps" | "replicasets.apps" => workload(&kind.kind, object),
        "pods" => pod_spec(at(object, &["spec"])),
        "customresourcedefinitions.apiextensions.k8s.io" => definition(object),
        "rolebindings.rbac.authorization.k8s.io" | "clusterrolebindings.rbac.authorization.k8s.io" => binding(object),
        "roles.rbac.authorization.k8s.io" | "clusterroles.rbac.authorization.k8s.io" => role(object),
        "validatingwebhookconfigurations.admissionregistration.k8s.io" => webhooks(object, false),
        "mutatingwebhookconfigurations.admissionregistration.k8s.io" => webhooks(object, true),
        "services" => service(object),
        _ => {}
    }
}

/// `stringData` is written as `data` and not kept.
fn secret(object: &mut Value) {
    use base64::Engine as _;
    let texts = object.get("stringData").and_then(Value::as_object).cloned().unwrap_or_default();
    for (key, text) in texts {
        let encoded = base64::engine::general_purpose::STANDARD.encode(text.as_str().unwrap_or_default());
        *at(object, &["data", &key]) = encoded.into();
    }
    meta::remove(object, &["stringData"]);
    default(object, &["type"], json!("Opaque"));
}

fn deployment(object: &mut Value) {
    default(object, &["spec", "replicas"], json!(1));
    default(object, &["spec", "revisionHistoryLimit"], json!(10));
    default(object, &["spec", "progressDeadlineSeconds"], json!(600));
    default(object, &["spec", "strategy", "type"], json!("RollingUpdate"));
    if text(object, "/spec/strategy/type") == "RollingUpdate" {
        default(object, &["spec", "strategy", "rollingUpdate", "maxUnavailable"], json!("25%"));
        default(object, &["spec", "strategy", "rollingUpdate", "maxSurge"], json!("25%"));
    }
    pod_spec(at(object, &["spec", "template", "spec"]));
}

fn workload(kind: &str, object: &mut Value) {
    if kind != "DaemonSet" {
        default(object, &["spec", "replicas"], json!(1));
    }
    if kind != "ReplicaSet" {
        default(object, &["spec", "revisionHistoryLimit"], json!(10));
        default(object, &["spec", "updateStrategy", "type"], json!("RollingUpdate"));
    }
    if kind == "StatefulSet" {
        default(object, &["spec", "podManagementPolicy"], json!("OrderedReady"));
        default(object, &["spec", "updateStrategy", "rollingUpdate", "partition"], json!(0));
        let keep = json!({"whenDeleted": "Retain", "whenScaled": "Retain"});
        default(object, &["spec", "persistentVolumeClaimRetentionPolicy"], keep);
    }
    if kind == "DaemonSet" {
        default(object, &["spec", "updateStrategy", "rollingUpdate", "maxUnavailable"], json!(1));
        default(object, &["spec", "updateStrategy", "rollingUpdate", "maxSurge"], json!(0));
    }
    pod_spec(at(object, &["spec", "template", "spec"]));
}

fn pod_spec(spec: &mut Value) {
    for (field, value) in [
        ("restartPolicy", json!("Always")),
        ("dnsPolicy", json!("ClusterFirst")),
        ("schedulerName", json!("default-scheduler")),
        ("terminationGracePeriodSeconds", json!(30)),
        ("securityContext", json!({})),
    ] {
        default(spec, &[field], value);
    }
    let containers = spec.get_mut("containers").and_then(Value::as_array_mut);
    for container in containers.into_iter().flatten() {
        let image = text(container, "/image");
        let tag = image.rsplit('/').next().and_then(|name| name.split_once(':')).map(|(_, tag)| tag);
        let pull = if tag.is_none_or(|tag| tag == "latest") { "Always" } else { "IfNotPresent" };
        default(container, &["imagePullPolicy"], json!(pull));
        default(container, &["terminationMessagePath"], json!("/dev/termination-log"));
        default(container, &["terminationMessagePolicy"], json!("File"));
        default(container, &["resources"], json!({}));
    }
}

fn definition(object: &mut Value) {
    let kind = text(object, "/spec/names/kind").to_owned();
    default(object, &["spec", "names", "singular"], json!(kind.to_lowercase()));
    default(object, &["spec", "names", "listKind"], json!(format!("{kind}List")));
    default(object, &["spec", "conversion", "strategy"], json!("None"));
}

/// A role without rules says so.
fn role(object: &mut Value) {
    if list(object, "/rules").is_empty() {
        *at(object, &["rules"]) = Value::Null;
    }
}

/// The group of roles, and of users where it is not said.
fn binding(object: &mut Value) {
    const RBAC: &str = "rbac.authorization.k8s.io";
    default(object, &["roleRef", "apiGroup"], json!(RBAC));
    let subjects = object.get_mut("subjects").and_then(Value::as_array_mut);
    for subject in subjects.into_iter().flatten() {
        if matches!(text(subject, "/kind"), "User" | "Group") {
            default(subject, &["apiGroup"], json!(RBAC));
        }
    }
}

fn webhooks(object: &mut Value, mutating: bool) {
    let webhooks = object.get_mut("webhooks").and_then(Value::as_array_mut);
    for webhook in webhooks.into_iter().flatten() {
        default(webhook, &["failurePolicy"], json!("Fail"));
        default(webhook, &["matchPolicy"], json!("Equivalent"));
        default(webhook, &["namespaceSelector"], json!({}));
        default(webhook, &["objectSelector"], json!({}));
        default(webhook, &["timeoutSeconds"], json!(10));
        if mutating {
            default(webhook, &["reinvocationPolicy"], json!("Never"));
        }
        if webhook.pointer("/clientConfig/service").is_some_and(Value::is_object) {
            default(webhook, &["clientConfig", "service", "port"], json!(443));
        }
        let rules = webhook.get_mut("rules").and_then(Value::as_array_mut);
        for rule in rules.into_iter().flatten() {
            default(rule, &["scope"], json!("*"));
        }
    }
}

/// Without an address: nobody connects to it.
fn service(object: &mut Value) {
    default(object, &["spec", "type"], json!("ClusterIP"));
    default(object, &["spec", "sessionAffinity"], json!("None"));
    default(object, &["spec", "internalTrafficPolicy"], json!("Cluster"));
    let ports = object.pointer_mut("/spec/ports").and_then(Value::as_array_mut);
    for port in ports.into_iter().flatten() {
        default(port, &["protocol"], json!("TCP"));
        let number = port["port"].clone();
        default(port, &["targetPort"], number);
    }
}
