//! Objects at the edges of what a backup holds: names, numbers, texts, owners, and deletions that wait.

use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};

use crate::harness::eventually;
use crate::harness::rancher::Item;
use crate::world::World;

/// Chosen by both ResourceSets.
const NAMESPACE: &str = "cattle-global-data";
/// Is being deleted, with what it holds, while the backups are made.
const HELD: &str = "p-held";

/// JSON as text, since no number and no letter of it may be read and written anew on its way to the API server.
const SETTING: &str = r#"{
    "apiVersion": "management.cattle.io/v3", "kind": "Setting", "metadata": {"name": "odd"}, "value": "",
    "odd": {
        "exact": [0, -1, 9007199254740991, -9007199254740991, 1.5, 0.1, 1e-6, 1e-7, 1e20, 1e21, 1.7976931348623157e308, 5e-324],
        "beyond": [9007199254740993, 9223372036854775807],
        "text": "<a href=\"x\">&amp;</a>  é🦀 \u0000\u0001\b\f\n\r\t\u001f\u007f / \\",
        "<key> & é": {"": [], "empty": {}, "null": null, "deep": [[[[{"a": [{}]}]]]]}
    }
}"#;

/// Puts them into the cluster. Returns when what is being deleted waits.
pub async fn add(world: &World) {
    let secret = |namespace: &str, name: &str| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}, "stringData": {"a": "b"}});
    // With `.json` as long as a name of a file can be, and longer than a header of an archive has room for.
    let long = secret(NAMESPACE, &"x".repeat(250));
    // The operator takes what has this word in its path for no object. With the word at the end of a name it takes the entry for the
    // filters, and cannot restore an encrypted backup at all.
    let filters = secret(NAMESPACE, "filters-of-mine");
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "cattle-odd:one"},
        "rules": [{"apiGroups": ["*"], "resources": ["pods/log"], "verbs": ["get"]}],
    });
    // By its label, neither ResourceSet chooses it.
    let mut owner = secret(NAMESPACE, "owner");
    owner["metadata"]["labels"] = json!({"owner": "helm"});
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": HELD}});
    for object in [long, filters, role, owner, namespace] {
        create(world, &object);
    }
    let get = ["get", "secret", "-n", NAMESPACE, "owner", "-o", "jsonpath={.metadata.uid}"];
    let uid = world.cluster.kubectl(&get, "").expect("it was made");
    let mut dependent = secret(NAMESPACE, "of-another");
    dependent["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "v1", "kind": "Secret", "name": "owner", "uid": uid}]);
    create(world, &dependent);
    for namespace in [NAMESPACE, HELD] {
        let mut held = secret(namespace, "held");
        held["metadata"]["finalizers"] = json!(["example.org/hold"]);
        create(world, &held);
    }
    let settings = "/apis/management.cattle.io/v3/settings";
    world.cluster.kubectl(&["create", "--raw", settings, "-f", "-"], SETTING).expect("the Setting is taken");
    let gone = ["delete", "--wait=false", "-n", NAMESPACE, "secret/held"];
    world.cluster.kubectl(&gone, "").expect("its deletion begins");
    world.cluster.kubectl(&["delete", "--wait=false", "namespace", HELD], "").expect("its deletion begins");
    eventually(Duration::from_secs(60), || async {
        let live = world.cluster.kubectl(&["get", "namespace", HELD, "-o", "json"], "")?;
        ensure!(live.contains("SomeFinalizersRemain"), "the namespace does not wait: {live}");
        Ok(())
    })
    .await;
}

/// Lets go what waits, and returns when it is gone: a restore brings it back.
pub fn release(world: &World) {
    let patch = json!({"metadata": {"finalizers": null}}).to_string();
    for namespace in [NAMESPACE, HELD] {
        let args = ["patch", "secret", "-n", namespace, "held", "--type=merge", "-p", &patch];
        world.cluster.kubectl(&args, "").expect("patched");
    }
    let gone = ["wait", "--for=delete", "--timeout=60s", &format!("namespace/{HELD}")];
    world.cluster.kubectl(&gone, "").expect("it goes");
}

/// Whether others are to leave it alone: what was being deleted is there only where a restore brought it back, and what [`touch`]
/// changes is to be there.
pub fn is_left(item: &Item) -> bool {
    ["held", HELD, "of-another"].contains(&item.place.name.as_str()) || item.place.namespace.as_deref() == Some(HELD)
}

/// Changes what the operator does not write, so that it shows.
pub fn touch(world: &World) {
    let args = ["annotate", "--overwrite", "-n", NAMESPACE, "secret/of-another", "touched=yes"];
    world.cluster.kubectl(&args, "").expect("it is annotated");
}

/// Why the operator does not bring one of them back.
pub fn known_loss(item: &Item, difference: &str) -> Option<&'static str> {
    match item.place.name.as_str() {
        "filters-of-mine" => Some("what has `filters` in its path is deleted"),
        "of-another" => Some("what has an owner that is not in the backup is not written"),
        "odd" if difference.contains(": odd: beyond ") => Some("integers beyond 2^53 are rounded"),
        _ => None,
    }
}

fn create(world: &World, object: &Value) {
    world.cluster.kubectl(&["create", "-f", "-"], &object.to_string()).expect("it is taken");
}
