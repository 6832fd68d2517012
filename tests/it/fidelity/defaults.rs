//! What the API server makes of an object is no difference: every built-in kind that a backup of Rancher may hold, as short
//! as an older server, or a person, may have written it.

use serde_json::{Value, json};

use crate::once::ended;
use crate::world::World;

const NAMESPACE: &str = "fidelity";

/// By type; `*` is namespaced. Each is what the API server takes, and no more.
fn minimal() -> Vec<(&'static str, &'static str, Value)> {
    let labels = json!({"app": "x"});
    let selector = json!({"matchLabels": labels});
    let pod = json!({
        "containers": [{
            "name": "x", "image": "registry.example.org:5000/x", "ports": [{"containerPort": 80}],
            "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "livenessProbe": {"httpGet": {"port": 80}}, "readinessProbe": {"grpc": {"port": 80}},
            "lifecycle": {"preStop": {"httpGet": {"port": 80}}}, "securityContext": {"privileged": false},
        }],
        "initContainers": [{"name": "init", "image": "x:v1"}],
        "serviceAccountName": "x",
        "volumes": [
            {"name": "a"}, {"name": "b", "secret": {"secretName": "x"}}, {"name": "c", "configMap": {"name": "x"}},
            {"name": "d", "hostPath": {"path": "/x"}},
            {"name": "e", "downwardAPI": {"items": [{"path": "x", "fieldRef": {"fieldPath": "metadata.name"}}]}},
            {"name": "f", "projected": {"sources": [{"serviceAccountToken": {"path": "x"}}, {"secret": {"name": "x"}}]}},
        ],
    });
    let template = json!({"metadata": {"labels": labels}, "spec": pod});
    let mut on_host = template.clone();
    on_host["spec"]["hostNetwork"] = json!(true);
    let mut once = template.clone();
    once["spec"]["restartPolicy"] = json!("Never");
    let claim = json!({"metadata": {"name": "x"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    let webhook = json!({
        "name": "x.example.org", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"service": {"namespace": NAMESPACE, "name": "x"}},
        "rules": [{"apiGroups": ["nothing.example.org"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*"]}],
    });
    let ports = json!([{"port": 80}]);
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "size": {"type": "integer"}, "mode": {"type": "string", "default": "fast"},
    }}}});
    vec![
        ("secrets.#v1*", "Secret", json!({"data": {"a": "eA=="}})),
        ("configmaps.#v1*", "ConfigMap", json!({"data": {"a": "x"}, "immutable": true})),
        ("serviceaccounts.#v1*", "ServiceAccount", json!({})),
        ("services.#v1*", "Service", json!({"spec": {"ports": ports, "selector": labels}})),
        ("services.#v1*headless", "Service", json!({"spec": {"ports": ports, "clusterIP": "None"}})),
        ("services.#v1*elsewhere", "Service", json!({"spec": {"type": "ExternalName", "externalName": "example.org"}})),
        (
            "services.#v1*node",
            "Service",
            json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}}),
        ),
        (
            "services.#v1*balanced",
            "Service",
            json!({"spec": {
                "type": "LoadBalancer", "ports": [{"port": 80, "nodePort": 30081}], "sessionAffinity": "ClientIP",
            }}),
        ),
        ("deployments.apps#v1*", "Deployment", json!({"spec": {"selector": selector, "template": template}})),
        ("daemonsets.apps#v1*", "DaemonSet", json!({"spec": {"selector": selector, "template": on_host}})),
        (
            "statefulsets.apps#v1*",
            "StatefulSet",
            json!({"spec": {
                "selector": selector, "template": template, "serviceName": "headless", "volumeClaimTemplates": [claim],
            }}),
        ),
        ("jobs.batch#v1*", "Job", json!({"spec": {"template": once}})),
        (
            "cronjobs.batch#v1*",
            "CronJob",
            json!({"spec": {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": {"template": once}}}}),
        ),
        ("roles.rbac.authorization.k8s.io#v1*", "Role", json!({})),
        (
            "rolebindings.rbac.authorization.k8s.io#v1*",
            "RoleBinding",
            json!({
                "roleRef": {"kind": "Role", "name": "x"},
                "subjects": [{"kind": "User", "name": "x"}, {"kind": "ServiceAccount", "name": "x", "namespace": NAMESPACE}],
            }),
        ),
        (
            "clusterroles.rbac.authorization.k8s.io#v1",
            "ClusterRole",
            json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]}),
        ),
        (
            "clusterroles.rbac.authorization.k8s.io#v1/aggregated",
            "ClusterRole",
            json!({
                "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}}]},
            }),
        ),
        (
            "clusterrolebindings.rbac.authorization.k8s.io#v1",
            "ClusterRoleBinding",
            json!({
                "roleRef": {"kind": "ClusterRole", "name": "x"}, "subjects": [{"kind": "Group", "name": "x"}],
            }),
        ),
        (
            "validatingwebhookconfigurations.admissionregistration.k8s.io#v1",
            "ValidatingWebhookConfiguration",
            json!({"webhooks": [webhook]}),
        ),
        (
            "mutatingwebhookconfigurations.admissionregistration.k8s.io#v1",
            "MutatingWebhookConfiguration",
            json!({"webhooks": [webhook]}),
        ),
        ("priorityclasses.scheduling.k8s.io#v1", "PriorityClass", json!({"value": 7})),
        ("storageclasses.storage.k8s.io#v1", "StorageClass", json!({"provisioner": "example.org/x"})),
        (
            "ingressclasses.networking.k8s.io#v1",
            "IngressClass",
            json!({"spec": {
                "controller": "example.org/x", "parameters": {"kind": "X", "apiGroup": "example.org", "name": "x"},
            }}),
        ),
        (
            "networkpolicies.networking.k8s.io#v1*",
            "NetworkPolicy",
            json!({"spec": {"podSelector": {}, "ingress": [{"ports": [{"port": 80}]}]}}),
        ),
        (
            "poddisruptionbudgets.policy#v1*",
            "PodDisruptionBudget",
            json!({"spec": {"selector": selector, "minAvailable": 1}}),
        ),
        (
            "apiservices.apiregistration.k8s.io#v1/v1.nothing.example.org",
            "APIService",
            json!({"spec": {
                "group": "nothing.example.org", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 15,
                "insecureSkipTLSVerify": true, "service": {"namespace": NAMESPACE, "name": "x"},
            }}),
        ),
        (
            "customresourcedefinitions.apiextensions.k8s.io#v1/shorts.example.org",
            "CustomResourceDefinition",
            json!({"spec": {
                "group": "example.org", "scope": "Namespaced", "names": {"plural": "shorts", "kind": "Short"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
            }}),
        ),
        ("shorts.example.org#v1*", "Short", json!({"spec": {"size": 1, "unknown": {"a": 1}}})),
    ]
}

/// The entry of a backup for one of [`minimal`].
fn entry(at: &str, kind: &str, more: Value) -> (String, Value) {
    let (resource, name) = at.split_once(['*', '/']).unwrap_or((at, ""));
    let name = if name.is_empty() { "x" } else { name };
    let (plural_and_group, version) = resource.split_once('#').expect("a version");
    let (_, group) = plural_and_group.split_once('.').expect("a group");
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let mut object = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}});
    let mut path = format!("{resource}/{name}");
    if at.contains('*') {
        object["metadata"]["namespace"] = json!(NAMESPACE);
        path = format!("{resource}/{NAMESPACE}/{name}");
    }
    for (field, value) in more.as_object().into_iter().flatten() {
        object[field] = value.clone();
    }
    (path, object)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_right_after_a_success_is_empty_for_every_built_in_kind_and_for_what_a_schema_fills_in_and_prunes() {
    let world = World::start().await;
    world.settle().await;
    let backup = world.repack("minimal", |entries| {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
        entries.push((format!("namespaces.#v1/{NAMESPACE}"), namespace));
        entries.extend(minimal().into_iter().map(|(at, kind, more)| entry(at, kind, more)));
    });
    let commit = |at: &str| {
        let annotations = [("requested-at", at), ("accept", "WebhookUnavailable")];
        world.commit_restore_of(&backup, "minimal", &annotations, "  prune: false\n");
    };
    commit("2026-11-23T09:00:00Z");
    let said = world.once().await;
    assert_eq!(world.told(&[]).await, ["minimal Succeeded Succeeded"], "{}", said.stderr);
    commit("2026-11-23T10:00:00Z");
    let planned = world.reinback(&["plan", "-v"]).await;
    let written = planned.stdout.lines().filter(|line| line.contains("  update") || line.contains("  create"));
    assert_eq!(written.collect::<Vec<_>>(), Vec::<&str>::new());
    ended(&planned, 0);
}
