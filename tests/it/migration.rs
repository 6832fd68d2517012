//! From a backup of another cluster to a running Rancher: restored into a cluster without one, then installed by Helm.

use std::path::Path;

use serde_json::{Value, json};

use crate::harness::rancher::{Place, get};
use crate::once::ended;
use crate::process::run_of;
use crate::world::World;

/// As much of Rancher's chart as a backup holds objects of.
fn chart(folder: &Path) -> String {
    let files = [
        ("Chart.yaml", "apiVersion: v2\nname: rancher\nversion: 2.9.3\nappVersion: v2.9.3\n"),
        (
            "templates/all.yaml",
            "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: rancher}\n---\n\
             apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {name: rancher}\n\
             roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}\n\
             subjects: [{kind: ServiceAccount, name: rancher, namespace: cattle-system}]\n---\n\
             apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: rancher}\nspec:\n  replicas: 1\n\
             \x20 selector: {matchLabels: {app: rancher}}\n  template:\n    metadata: {labels: {app: rancher}}\n\
             \x20   spec: {serviceAccountName: rancher, containers: [{name: rancher, image: 'rancher/rancher:v2.9.3'}]}\n",
        ),
    ];
    let chart = folder.join("rancher-chart");
    std::fs::create_dir_all(chart.join("templates")).expect("a folder");
    for (name, content) in files {
        std::fs::write(chart.join(name), content).expect("the folder is ours");
    }
    chart.display().to_string()
}

/// All that differs from the backup, where Rancher is installed next.
pub const HELMS_MARKS: [&str; 3] = [
    "serviceaccounts.#v1/cattle-system/rancher: metadata: annotations: meta.helm.sh/release-name was added",
    "serviceaccounts.#v1/cattle-system/rancher: metadata: annotations: meta.helm.sh/release-namespace was added",
    "serviceaccounts.#v1/cattle-system/rancher: metadata: labels: app.kubernetes.io/managed-by was added",
];

const WEBHOOKS: &str = "validatingwebhookconfigurations.admissionregistration.k8s.io#v1/rancher.cattle.io";
const OLD_NODE: &str = "nodes.management.cattle.io#v3/local/machine-old";
const OLD_KUBECONFIG: &str = "secrets.#v1/fleet-local/local-kubeconfig";
const BINDING: &str = "clusterrolebindings.rbac.authorization.k8s.io#v1/rancher";

/// The fixture under the name of another cluster, with what a real Rancher has beside it.
fn foreign_backup(world: &World) -> String {
    let own = world.repack("move", |entries| {
        let asks = json!({
            "name": "rancher.cattle.io.all", "failurePolicy": "Fail", "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "clientConfig": {"service": {"namespace": "cattle-system", "name": "rancher-webhook"}},
            "rules": [{
                "apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"],
                "resources": ["serviceaccounts", "deployments"],
            }],
        });
        let objects = [
            (
                WEBHOOKS,
                json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
                    "metadata": {"name": "rancher.cattle.io"}, "webhooks": [asks]}),
            ),
            (
                OLD_NODE,
                json!({"apiVersion": "management.cattle.io/v3", "kind": "Node",
                    "metadata": {"name": "machine-old", "namespace": "local"}}),
            ),
            (
                OLD_KUBECONFIG,
                json!({"apiVersion": "v1", "kind": "Secret",
                    "metadata": {"name": "local-kubeconfig", "namespace": "fleet-local"}}),
            ),
            (
                BINDING,
                json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
                    "metadata": {"name": "rancher"},
                    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
                    "subjects": [{"kind": "ServiceAccount", "name": "rancher", "namespace": "cattle-system"}]}),
            ),
        ];
        entries.extend(objects.map(|(path, object)| (path.to_owned(), object)));
    });
    let foreign = own.replace(world.cluster.uid(), "6e9ee6a6-d4f2-46c2-bd99-75269cf041dc");
    std::fs::rename(world.store().join(own), world.store().join(&foreign)).expect("the store is ours");
    foreign
}

async fn exists(world: &World, place: &Place) -> bool {
    get(&world.client, place).await.expect("the cluster answers").is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_moves_to_an_empty_cluster_and_helm_installs_rancher_over_what_came_with_it() {
    let world = World::empty().await;
    world.settle().await;
    let foreign = foreign_backup(&world);
    world.commit_restore_of(&foreign, "move", &[("accept", "DifferentCluster")], "  prune: true\n");
    ended(&world.once().await, 0);
    assert_eq!(world.told(&[]).await, ["move Succeeded Succeeded"]);
    assert_eq!(world.differences().await, HELMS_MARKS);

    let run = run_of(&world, "move").await.expect("a run");
    let warnings = run["status"]["warnings"].to_string();
    assert!(warnings.contains("must be at 0 replicas for good"), "{warnings}");
    assert!(warnings.contains("install Rancher v2.9.3 with Helm, for https://rancher.example.org"), "{warnings}");
    assert!(warnings.contains("is made for Kubernetes before 1.31"), "{warnings}");

    let webhooks = Place::new(
        ("admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations"),
        None,
        "rancher.cattle.io",
    );
    let node = Place::new(("management.cattle.io", "v3", "nodes"), Some("local"), "machine-old");
    let kubeconfig = Place::new(("", "v1", "secrets"), Some("fleet-local"), "local-kubeconfig");
    for left_behind in [&webhooks, &node, &kubeconfig] {
        assert!(!exists(&world, left_behind).await, "{left_behind}");
    }
    // It answers webhooks, and was made at 0 all the same: nothing asks it before Rancher is there.
    let (wanted, _) = world.replicas("cattle-system", "rancher-webhook").await.expect("it is there");
    assert!(wanted > 0, "it has its replicas back");

    let chart = chart(world.folder());
    let installed = world.cluster.helm(&["install", "rancher", &chart, "-n", "cattle-system"]);
    installed.unwrap_or_else(|error| panic!("{error:?}"));
    let account = Place::new(("", "v1", "serviceaccounts"), Some("cattle-system"), "rancher");
    let account = get(&world.client, &account).await.expect("an answer").expect("it is there");
    assert_eq!(account["metadata"]["annotations"]["meta.helm.sh/release-name"], "rancher");

    // The backup is still another cluster's, and all of it is there.
    let again = [("accept", "DifferentCluster"), ("requested-at", "2026-11-23T09:00:00Z")];
    world.commit_restore_of(&foreign, "move", &again, "  prune: true\n");
    let said = world.reinback(&["plan", "-o", "json"]).await;
    let plan: Value = serde_json::from_str(&said.stdout).unwrap_or_else(|_| panic!("{said:?}"));
    let gates = plan["plans"][0]["gates"].as_array().cloned().unwrap_or_default();
    let held: Vec<&Value> = gates.iter().filter(|gate| gate["accepted"] == false).map(|gate| &gate["code"]).collect();
    assert!(held.is_empty(), "{held:?}");
    assert_eq!(plan["plans"][0]["counts"]["created"], 0, "{:#}", plan["plans"][0]["objects"]);
}
