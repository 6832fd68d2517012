//! What a restore must leave alone (invariant 6), and all of it in its way: in the backup and changed since, deleted since,
//! or made since where a selector of the backup matches it.

use std::collections::BTreeMap;
use std::sync::Arc;

use reinback::demo::scene::{self, Step};
use serde_json::{Value, json};

/// As the configuration of the stage says.
const OPERATOR_NAMESPACE: &str = "rancher-backup";
const OWN_NAMESPACE: &str = "reinback-system";
/// What reinback itself writes while it runs.
const WRITTEN_BY_ITSELF: [&str; 5] = [
    "leases.coordination.k8s.io",
    "runs.reinback.io",
    "events",
    "events.events.k8s.io",
    // Handed to the operator, and told of by it.
    "restores.resources.cattle.io",
];

/// In the cluster when the backup is taken, and in the backup.
pub fn before() -> Vec<Value> {
    let mut objects = versioned("old");
    objects.push(operators_backup("weekly", "old"));
    objects
}

/// What somebody does after the backup.
pub fn since() -> Vec<Step> {
    let weekly = operators_backup("weekly", "old");
    let mut steps: Vec<Step> = versioned("new").into_iter().map(Step::Put).collect();
    steps.push(Step::Delete(json!({
        "apiVersion": weekly["apiVersion"], "kind": weekly["kind"], "metadata": {"name": "weekly"},
    })));
    let made = [
        object("v1", "Secret", Some(OWN_NAMESPACE), "made-since", "new"),
        object("v1", "ConfigMap", Some("kube-system"), "made-since", "new"),
        object("rbac.authorization.k8s.io/v1", "ClusterRole", None, "system:made-since", "new"),
        helm_release("rancher.v2", "new"),
        own_binding("cattle-reinback-made-since", "new"),
        operators_backup("made-since", "new"),
    ];
    steps.extend(made.map(Step::Put));
    steps
}

/// The same where nothing of it is in the backup: all of it was made since, and binds no role that is.
pub fn made_since() -> Vec<Step> {
    let made = since().into_iter().filter_map(|step| match step {
        Step::Put(object) => Some(object),
        Step::Delete(_) => None,
    });
    made.map(|mut object| {
        if object["kind"] == "ClusterRoleBinding" {
            object["roleRef"]["name"] = json!("view");
        }
        Step::Put(object)
    })
    .collect()
}

/// The ResourceSet of the scene, which asks for all of this, too.
pub fn resource_set() -> Value {
    let mut set = scene::resource_set();
    let more = json!([
        {"apiVersion": "v1", "kindsRegexp": "^namespaces$", "resourceNameRegexp": "^reinback-|^kube-"},
        {"apiVersion": "v1", "kindsRegexp": "^secrets$|^configmaps$", "namespaceRegexp": "^reinback-|^kube-|^rancher-backup$"},
        {"apiVersion": "coordination.k8s.io/v1", "kindsRegexp": "^leases$", "namespaceRegexp": "^reinback-"},
        {"apiVersion": "apiextensions.k8s.io/v1", "kindsRegexp": ".", "resourceNameRegexp": "(reinback|resources\\.cattle)\\.io$"},
        {"apiVersion": "reinback.io/v1alpha1", "kindsRegexp": "."},
        {"apiVersion": "resources.cattle.io/v1", "kindsRegexp": "."},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kindsRegexp": "^clusterroles$", "resourceNameRegexp": "^system:"},
    ]);
    if let (Some(selectors), Value::Array(more)) = (set["resourceSelectors"].as_array_mut(), more) {
        selectors.extend(more);
    }
    set
}

/// Each protected object that is there, by its place in the cluster, with its UID and version.
pub fn versions(objects: &BTreeMap<String, Arc<Value>>) -> BTreeMap<String, (String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let protected = objects.iter().filter(|(place, object)| is_protected(place, object));
    let version = |object: &Value| (text(&object["metadata"]["uid"]), text(&object["metadata"]["resourceVersion"]));
    protected.map(|(place, object)| (place.clone(), version(object))).collect()
}

fn is_protected(place: &str, object: &Value) -> bool {
    let (of, path) = place.split_once('/').unwrap_or((place, ""));
    let (namespace, name) = path.split_once('/').unwrap_or(("", path));
    let is_namespace = of == "namespaces";
    let is_system = |name: &str| name == OWN_NAMESPACE || name.starts_with("kube-");
    let is_rbac = of.ends_with(".rbac.authorization.k8s.io");
    let is_own = |subject: &Value| subject["namespace"] == OWN_NAMESPACE;
    let subjects = object["subjects"].as_array().map(Vec::as_slice).unwrap_or_default();
    if WRITTEN_BY_ITSELF.contains(&of) {
        return false;
    }
    is_system(namespace)
        || (is_namespace && is_system(name))
        || of.ends_with(".resources.cattle.io")
        || (of.starts_with("customresourcedefinitions.")
            && [".resources.cattle.io", ".reinback.io"].iter().any(|group| name.ends_with(group)))
        || (of == "secrets" && (object["type"] == "helm.sh/release.v1" || namespace == OPERATOR_NAMESPACE))
        || (is_rbac && (name.starts_with("system:") || subjects.iter().any(is_own)))
}

/// What is in the backup, as it was then or is now.
fn versioned(version: &str) -> Vec<Value> {
    vec![
        definition(version),
        object("v1", "Namespace", None, OWN_NAMESPACE, version),
        object("v1", "Secret", Some(OWN_NAMESPACE), "git", version),
        object("v1", "Secret", Some(OPERATOR_NAMESPACE), "s3", version),
        object("v1", "ConfigMap", Some("kube-system"), "cluster-values", version),
        object("rbac.authorization.k8s.io/v1", "ClusterRole", None, "system:values", version),
        helm_release("rancher.v1", version),
        own_binding("cattle-reinback", version),
        operators_backup("nightly", version),
    ]
}

fn object(api_version: &str, kind: &str, namespace: Option<&str>, name: &str, version: &str) -> Value {
    let mut object = json!({
        "apiVersion": api_version, "kind": kind, "metadata": {"name": name, "labels": {"version": version}},
    });
    if let Some(namespace) = namespace {
        object["metadata"]["namespace"] = json!(namespace);
    }
    object
}

fn helm_release(name: &str, version: &str) -> Value {
    let name = format!("sh.helm.release.v1.{name}");
    let mut secret = object("v1", "Secret", Some("cattle-system"), &name, version);
    secret["type"] = json!("helm.sh/release.v1");
    secret
}

fn own_binding(name: &str, version: &str) -> Value {
    let mut binding = object("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", None, name, version);
    let role =
        json!({"kind": "ClusterRole", "apiGroup": "rbac.authorization.k8s.io", "name": "cattle-globalrole-admin"});
    binding["roleRef"] = role;
    binding["subjects"] = json!([{"kind": "ServiceAccount", "namespace": OWN_NAMESPACE, "name": "reinback"}]);
    binding
}

fn operators_backup(name: &str, version: &str) -> Value {
    let mut backup = object("resources.cattle.io/v1", "Backup", None, name, version);
    backup["spec"] = json!({"storageLocation": {"s3": {"credentialSecretName": "s3", "bucketName": version}}});
    backup
}

fn definition(version: &str) -> Value {
    let mut definition =
        object("apiextensions.k8s.io/v1", "CustomResourceDefinition", None, "backups.resources.cattle.io", version);
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    definition["spec"] = json!({
        "group": "resources.cattle.io",
        "scope": "Cluster",
        "names": {"plural": "backups", "singular": "backup", "kind": "Backup", "listKind": "BackupList"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}],
        "conversion": {"strategy": "None"},
    });
    definition
}
