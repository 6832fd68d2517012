//! Cluster API on the stage: its controller answers a webhook, and so stays up while a restore writes.

use reinback::demo::past;
use reinback::demo::scene::Step;
use serde_json::{Value, json};

use crate::stage::Objects;

const NAMESPACE: &str = "cattle-capi-system";
/// With which the controller serves: changed after the backup, and in use.
const CERTIFICATE: &str = "secrets/cattle-capi-system/capi-webhook-service-cert";
/// Paused by a person, long before.
const BY_HAND: &str = "clusters.cluster.x-k8s.io/fleet-default/by-hand";
/// Paused by a person when the backup was made, and not since.
const WOKEN: &str = "clusters.cluster.x-k8s.io/fleet-default/woken";

/// What a backup holds of it.
pub fn saved() -> Vec<Value> {
    vec![
        definition(),
        namespace(),
        controller(),
        certificate("old"),
        cluster("prod", 1),
        gone(),
        webhook_that_comes_back(),
        paused("by-hand", 1),
        paused("woken", 1),
    ]
}

/// What it does not hold.
pub fn unsaved() -> Vec<Value> {
    let service = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "capi-webhook-service", "namespace": NAMESPACE},
        "spec": {"selector": {"app": "capi-controller-manager"}, "ports": [{"port": 443}]}});
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "capi-webhook-service-1", "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": "capi-webhook-service"}},
        "endpoints": [{"addresses": ["10.1.2.3"], "conditions": {"ready": true}}]});
    vec![service, slice, configuration("capi-validating-webhook-configuration")]
}

fn configuration(name: &str) -> Value {
    let webhook = json!({"name": "validation.cluster.cluster.x-k8s.io", "failurePolicy": "Fail",
        "clientConfig": {"service": {"namespace": NAMESPACE, "name": "capi-webhook-service"}, "caBundle": "bmV3"},
        "rules": [{"operations": ["*"], "apiGroups": ["cluster.x-k8s.io"], "apiVersions": ["*"], "resources": ["clusters"]}]});
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": name}, "webhooks": [webhook]})
}

/// Of the backup alone: until it is there nothing that is written passes it.
pub const COMES_BACK: &str = "capi-comes-back";

fn webhook_that_comes_back() -> Value {
    configuration(COMES_BACK)
}

/// Of the backup alone, and with a status, which is a write of its own.
fn gone() -> Value {
    let mut cluster = cluster("gone", 1);
    cluster["status"] = json!({"phase": "Provisioned"});
    cluster
}

/// What happens to it after the backup.
pub fn upgrade() -> Vec<Step> {
    let named = |of: Value| {
        let mut metadata = of["metadata"].clone();
        metadata.as_object_mut().expect("an object").retain(|field, _| field == "name" || field == "namespace");
        Step::Delete(json!({"apiVersion": of["apiVersion"], "kind": of["kind"], "metadata": metadata}))
    };
    vec![
        Step::Put(certificate("new")),
        Step::Put(cluster("prod", 2)),
        Step::Put(paused("by-hand", 2)),
        Step::Put(cluster("woken", 2)),
        named(gone()),
        named(webhook_that_comes_back()),
        Step::Put(cluster("newer", 1)),
    ]
}

/// The live Secret stays, whatever the backup says.
pub fn is_kept(key: &str) -> bool {
    key == CERTIFICATE
}

/// At any moment: what each cluster had is never lost.
pub fn check(objects: &Objects) -> Vec<String> {
    let states = clusters(objects);
    let wrong = states.iter().filter(|(key, paused, recorded)| match (key.as_str(), paused, recorded.as_deref()) {
        (BY_HAND, true, None | Some("true")) => false,
        (BY_HAND, ..) => true,
        // By the backup, before or after it is given back.
        (WOKEN, true, None | Some("true")) => false,
        (_, false, None) | (_, true, Some("false")) => false,
        _ => true,
    });
    wrong.map(|(key, paused, recorded)| format!("{key}: paused {paused}, and {recorded:?} is recorded")).collect()
}

/// While objects are written.
pub fn check_quiet(objects: &Objects) -> Option<String> {
    let awake = clusters(objects).into_iter().find(|(_, paused, _)| !paused);
    awake.map(|(key, ..)| format!("{key} is not paused"))
}

/// Clusters that a run has not given back.
pub fn held(objects: &Objects) -> Vec<String> {
    clusters(objects).into_iter().filter(|(.., recorded)| recorded.is_some()).map(|(key, ..)| key).collect()
}

fn clusters(objects: &Objects) -> Vec<(String, bool, Option<String>)> {
    let clusters = objects.iter().filter(|(key, _)| key.starts_with("clusters.cluster.x-k8s.io/"));
    let state = |(key, object): (&String, &std::sync::Arc<Value>)| {
        let recorded = object["metadata"]["annotations"]["reinback.io/paused"].as_str().map(str::to_owned);
        (key.clone(), object["spec"]["paused"] == true, recorded)
    };
    clusters.map(state).collect()
}

pub fn is_saved(key: &str) -> bool {
    saved().iter().any(|object| past::place(object) == key) && !is_kept(key)
}

fn definition() -> Value {
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "clusters.cluster.x-k8s.io"},
        "spec": {"group": "cluster.x-k8s.io", "scope": "Namespaced",
            "names": {"plural": "clusters", "singular": "cluster", "kind": "Cluster", "listKind": "ClusterList"},
            "versions": [{"name": "v1beta1", "served": true, "storage": true, "schema": schema, "subresources": {"status": {}}}],
            "conversion": {"strategy": "None"}}})
}

fn namespace() -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
}

fn controller() -> Value {
    let labels = json!({"app": "capi-controller-manager"});
    let spec = json!({
        "containers": [{"name": "manager", "image": "rancher/cluster-api-controller:v1.10.6"}],
        "volumes": [{"name": "cert", "secret": {"secretName": "capi-webhook-service-cert"}}],
    });
    json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "capi-controller-manager", "namespace": NAMESPACE, "labels": labels},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": spec}}})
}

fn certificate(version: &str) -> Value {
    use base64::Engine as _;
    let data = base64::engine::general_purpose::STANDARD.encode(format!("certificate {version}"));
    json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "data": {"tls.crt": data},
        "metadata": {"name": "capi-webhook-service-cert", "namespace": NAMESPACE}})
}

fn cluster(name: &str, network: i64) -> Value {
    json!({"apiVersion": "cluster.x-k8s.io/v1beta1", "kind": "Cluster",
        "metadata": {"name": name, "namespace": "fleet-default"},
        "spec": {"clusterNetwork": {"apiServerPort": network}}})
}

fn paused(name: &str, network: i64) -> Value {
    let mut cluster = cluster(name, network);
    cluster["spec"]["paused"] = json!(true);
    cluster
}
