//! What a restore neither overwrites nor prunes (invariant 6), each on the real API server.

use serde_json::{Value, json};

use super::get;
use crate::gates::define;
use crate::once::ended;
use crate::world::World;

/// Live objects that the backup's selectors match, that the backup does not have, and that prune must spare.
const SPARED: &str = "
{apiVersion: resources.cattle.io/v1, kind: Backup, metadata: {name: nightly}, spec: {encryptionConfigSecretName: key, storageLocation: {s3: {credentialSecretName: s3, credentialSecretNamespace: cattle-elsewhere}}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: cattle-resources-system}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: cattle-elsewhere}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: cattle-tools}}
---
{apiVersion: v1, kind: Secret, metadata: {name: key, namespace: cattle-resources-system}}
---
{apiVersion: v1, kind: Secret, metadata: {name: default-store, namespace: cattle-resources-system}, stringData: {credentialSecretName: of-default}}
---
{apiVersion: v1, kind: Secret, metadata: {name: of-default, namespace: cattle-resources-system}}
---
{apiVersion: v1, kind: Secret, metadata: {name: s3, namespace: cattle-elsewhere}}
---
{apiVersion: v1, kind: Secret, metadata: {name: sh.helm.release.v1.other.v1, namespace: cattle-system}, type: helm.sh/release.v1}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: restorer, namespace: cattle-tools}}
---
{apiVersion: v1, kind: Secret, metadata: {name: restorer-token, namespace: cattle-tools, annotations: {kubernetes.io/service-account.name: restorer}}, type: kubernetes.io/service-account-token}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: cattle-restorer}, rules: [{apiGroups: ['*'], resources: ['*'], verbs: ['*']}, {nonResourceURLs: ['*'], verbs: ['*']}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: cattle-restorer}, subjects: [{kind: ServiceAccount, namespace: cattle-tools, name: restorer}], roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cattle-restorer}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: c-bootstrap, labels: {kubernetes.io/bootstrapping: rbac-defaults}}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: crb-own}, subjects: [{kind: ServiceAccount, namespace: reinback-system, name: reinback}], roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: rancher-backup, namespace: cattle-resources-system}, spec: {replicas: 0, selector: {matchLabels: {app: b}}, template: {metadata: {labels: {app: b}}, spec: {containers: [{name: b, image: 'x:v1', env: [{name: DEFAULT_S3_BACKUP_STORAGE_LOCATION, value: default-store}]}]}}}}
";

/// What each of those is spared for, by its path in a backup.
const REASONS: [(&str, &str); 12] = [
    ("namespaces.#v1/cattle-elsewhere", "is in use by the rancher-backup operator or by this restore"),
    ("namespaces.#v1/cattle-tools", "is what reinback itself acts by"),
    ("secrets.#v1/cattle-resources-system/key", "is in use by the rancher-backup operator or by this restore"),
    (
        "secrets.#v1/cattle-resources-system/default-store",
        "is in use by the rancher-backup operator or by this restore",
    ),
    ("secrets.#v1/cattle-resources-system/of-default", "is in use by the rancher-backup operator or by this restore"),
    ("secrets.#v1/cattle-elsewhere/s3", "is in use by the rancher-backup operator or by this restore"),
    ("secrets.#v1/cattle-tools/restorer-token", "is what reinback itself acts by"),
    ("clusterroles.rbac.authorization.k8s.io#v1/cattle-restorer", "is what reinback itself acts by"),
    ("clusterrolebindings.rbac.authorization.k8s.io#v1/cattle-restorer", "is what reinback itself acts by"),
    ("clusterroles.rbac.authorization.k8s.io#v1/c-bootstrap", "is RBAC of Kubernetes itself"),
    ("clusterrolebindings.rbac.authorization.k8s.io#v1/crb-own", "is what reinback itself acts by"),
    ("secrets.#v1/cattle-system/sh.helm.release.v1.other.v1", "is Helm's record of a release"),
];

/// Objects of a backup that are live and stay as they are, by their path, with the kind and what would be written.
fn overwritten() -> Vec<(&'static str, &'static str, Value)> {
    let stolen = json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}});
    vec![
        ("secrets.#v1/cattle-resources-system/key", "Secret", json!({"data": {"a": "eA=="}})),
        ("secrets.#v1/cattle-elsewhere/s3", "Secret", json!({"data": {"a": "eA=="}})),
        ("serviceaccounts.#v1/cattle-tools/restorer", "ServiceAccount", json!({"imagePullSecrets": [{"name": "x"}]})),
        ("clusterroles.rbac.authorization.k8s.io#v1/cattle-restorer", "ClusterRole", json!({"rules": []})),
        ("clusterrolebindings.rbac.authorization.k8s.io#v1/cattle-restorer", "ClusterRoleBinding", stolen.clone()),
        ("clusterrolebindings.rbac.authorization.k8s.io#v1/crb-own", "ClusterRoleBinding", stolen),
        ("clusterroles.rbac.authorization.k8s.io#v1/system:node", "ClusterRole", json!({"rules": []})),
        ("clusterroles.rbac.authorization.k8s.io#v1/cluster-admin", "ClusterRole", json!({"rules": []})),
        ("configmaps.#v1/kube-system/extension-apiserver-authentication", "ConfigMap", json!({"data": {}})),
        ("configmaps.#v1/cattle-system/kube-root-ca.crt", "ConfigMap", json!({"data": {"ca.crt": "old"}})),
        ("backups.resources.cattle.io#v1/nightly", "Backup", json!({"spec": {}})),
        ("namespaces.#v1/reinback-system", "Namespace", json!({})),
        ("deployments.apps#v1/cattle-system/rancher", "Deployment", json!({"spec": {}})),
        ("secrets.#v1/cattle-system/sh.helm.release.v1.other.v1", "Secret", json!({"type": "helm.sh/release.v1"})),
    ]
}

fn entry(path: &str, kind: &str, more: &Value) -> (String, Value) {
    let mut parts = path.split('/');
    let (plural_and_group, version) = parts.next().and_then(|resource| resource.split_once('#')).expect("a resource");
    let (_, group) = plural_and_group.split_once('.').expect("a group");
    let mut names: Vec<&str> = parts.collect();
    let name = names.pop().expect("a name");
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let mut object =
        json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name, "labels": {"of": "backup"}}});
    if let Some(namespace) = names.pop() {
        object["metadata"]["namespace"] = json!(namespace);
    }
    for (field, value) in more.as_object().into_iter().flatten() {
        object[field] = value.clone();
    }
    (path.to_owned(), object)
}

/// The API path of an object of a backup.
fn url(path: &str) -> String {
    let (resource, names) = path.split_once('/').expect("a name");
    let (plural_and_group, version) = resource.split_once('#').expect("a version");
    let (plural, group) = plural_and_group.split_once('.').expect("a group");
    let root = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    match names.split_once('/') {
        Some((namespace, name)) => format!("{root}/namespaces/{namespace}/{plural}/{name}"),
        None => format!("{root}/{plural}/{names}"),
    }
}

/// A kubeconfig of the account cattle-tools/restorer.
fn kubeconfig_of_the_account(world: &World) -> std::path::PathBuf {
    let token = ["create", "token", "-n", "cattle-tools", "restorer", "--duration=2h"];
    let token = world.cluster.kubectl(&token, "").expect("a token");
    let text = std::fs::read_to_string(world.cluster.kubeconfig()).expect("it is there");
    let mut config: Value = serde_yaml::from_str(&text).expect("YAML");
    let name = config["users"][0]["name"].clone();
    config["users"] = json!([{"name": name, "user": {"token": token.trim()}}]);
    let path = world.folder().join("restorer.kubeconfig");
    std::fs::write(&path, config.to_string()).expect("the folder is writable");
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_protected_is_overwritten_or_pruned() {
    let world = World::start().await;
    world.settle().await;
    define(&world, "resources.cattle.io", "v1", "backups", "Backup", "Cluster");
    for document in SPARED.split("---") {
        // The definition may be served a moment later.
        crate::harness::eventually(std::time::Duration::from_secs(30), async || {
            world.cluster.kubectl(&["apply", "-f", "-"], document)
        })
        .await;
    }
    let kubeconfig = kubeconfig_of_the_account(&world);
    let plan = |at: &str, backup: &str, prune: bool| {
        let annotations = [("requested-at", at), ("accept", "PruneDeletesNamespaces, PruneShare, OwnerMissing")];
        world.commit_restore_of(backup, "protected", &annotations, &format!("  prune: {prune}\n"));
    };

    // Prune.
    plan("2026-11-23T09:00:00Z", &world.backup, true);
    let said = world.reinback_as(&kubeconfig, &["plan", "-o", "json"]).await;
    let planned: Value = serde_json::from_str(&said.stdout).unwrap_or_else(|_| panic!("{said:?}"));
    let planned = planned.pointer("/plans/0").unwrap_or(&planned).clone();
    let told = planned["spared"].to_string();
    for (path, reason) in REASONS {
        assert!(told.contains(&json!({"object": path, "reason": reason}).to_string()), "{path}: {reason}\n{told}");
    }

    // Overwrite.
    let backup = world.repack("overwrite", |entries| {
        for (path, kind, more) in overwritten() {
            entries.retain(|(at, _)| at != path);
            entries.push(entry(path, kind, &more));
        }
    });
    let paths: Vec<&str> = overwritten().iter().map(|(path, ..)| *path).chain(REASONS.map(|(path, _)| path)).collect();
    let look = || -> Vec<Value> {
        let fields = |object: Value| {
            json!([object["metadata"]["uid"], object["metadata"]["labels"], object["data"], object["rules"]])
        };
        paths
            .iter()
            .map(|path| fields(get(&world, &url(path)).unwrap_or_else(|error| panic!("{path}: {error}"))))
            .collect()
    };
    let before = look();
    plan("2026-11-23T10:00:00Z", &backup, true);
    let said = world.reinback_as(&kubeconfig, &["agent", "--once", "--install-crd"]).await;
    ended(&said, 0);
    assert!(world.told(&[]).await.iter().any(|line| line.starts_with("protected Succeeded")), "{}", said.stderr);
    let after = look();
    for ((path, before), after) in paths.iter().zip(before).zip(after) {
        assert_eq!(before, after, "{path}");
    }
}
