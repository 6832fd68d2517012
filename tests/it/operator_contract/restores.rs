//! What a Restore that succeeds does to a cluster: all of it, compared between both operators.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use serde_json::{Value, json};

use super::{NAMESPACE, Operator, Which, conditions, holder, scale, wanted};
use crate::harness::rancher::{self, Disturbance, Item};
use crate::world::World;

/// What a cluster holds of the backup's resources.
type Picture = BTreeMap<String, Value>;

/// Objects that show what the operator does in its own way, beside those of the fixture.
fn odd(entries: &mut Vec<(String, Value)>) {
    let secret = |name: &str, more: Value| {
        let mut metadata = json!({"name": name, "namespace": "cattle-global-data"});
        metadata.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
        let object = json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": metadata, "data": {"a": "Yg=="}});
        (format!("secrets.#v1/cattle-global-data/{name}"), object)
    };
    let owner = |kind: &str, name: &str| json!([{"apiVersion": "v1", "kind": kind, "name": name, "uid": "0-0-0-0"}]);
    let role = |name: &str, kind: &str, owner: &str| {
        let owners = json!([{"apiVersion": "management.cattle.io/v3", "kind": kind, "name": owner, "uid": "0-0-0-0"}]);
        let object = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": name, "ownerReferences": owners}, "rules": [],
        });
        (format!("clusterroles.rbac.authorization.k8s.io#v1/{name}"), object)
    };
    let setting = json!({
        "apiVersion": "management.cattle.io/v3", "kind": "Setting", "metadata": {"name": "odd"}, "value": "x",
        "odd": {"exact": 9_007_199_254_740_991_i64, "beyond": 9_007_199_254_740_993_i64, "small": 1.5},
    });
    let global_role = json!({
        "apiVersion": "management.cattle.io/v3", "kind": "GlobalRole", "metadata": {"name": "odd-mine"}, "builtin": false,
    });
    entries.extend([
        secret("odd-filters-of-mine", json!({})),
        secret("odd-of-one-in-the-backup", json!({"ownerReferences": owner("Secret", "odd-owner")})),
        secret("odd-owner", json!({})),
        secret("odd-of-one-in-the-cluster", json!({"ownerReferences": owner("Secret", "odd-only-live")})),
        secret("odd-of-nobody", json!({"ownerReferences": owner("Secret", "odd-nobody")})),
        secret("odd-of-no-kind", json!({"ownerReferences": owner("Nothing", "odd-nobody")})),
        secret("odd-of-a-namespace", json!({"ownerReferences": owner("Namespace", "cattle-global-data")})),
        role("cattle-odd-of-a-role", "GlobalRole", "odd-mine"),
        role("cattle-odd-of-a-setting", "Setting", "odd"),
        ("settings.management.cattle.io#v3/odd".to_owned(), setting),
        ("globalroles.management.cattle.io#v3/odd-mine".to_owned(), global_role),
    ]);
}

/// Of every type of the backup, what is there: without what the server sets, an owner told by whether it is the live one.
async fn picture(world: &World, items: &[Item]) -> Result<Picture> {
    let lists: BTreeSet<String> = items.iter().map(|item| item.place.everywhere()).collect();
    let (mut all, mut uids) = (Vec::new(), BTreeSet::new());
    for list in lists {
        let request = http::Request::get(&list).body(Vec::new())?;
        let mut found: Value = world.client.request(request).await?;
        for object in found["items"].as_array_mut().into_iter().flatten().map(Value::take) {
            uids.insert(object["metadata"]["uid"].to_string());
            all.push((list.clone(), object));
        }
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut picture = Picture::new();
    for (list, mut object) in all {
        let name = format!("{list} {} {}", text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]));
        if is_others(&name, &object) {
            continue;
        }
        let metadata = object["metadata"].as_object_mut().expect("an object has metadata");
        metadata.retain(|field, _| {
            !["uid", "resourceVersion", "generation", "creationTimestamp", "managedFields"].contains(&field.as_str())
        });
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove("deployment.kubernetes.io/revision");
        }
        for owner in metadata.get_mut("ownerReferences").and_then(Value::as_array_mut).into_iter().flatten() {
            owner["uid"] = json!(uids.contains(&owner["uid"].to_string()));
        }
        if list.contains("/deployments") || list.contains("/customresourcedefinitions") || list.contains("/namespaces")
        {
            object["status"].take();
        }
        picture.insert(name, object);
    }
    Ok(picture)
}

/// Made by others, or not the same in two clusters: the store of the test and the cluster's own certificates and tokens.
fn is_others(name: &str, object: &Value) -> bool {
    object["type"] == "kubernetes.io/service-account-token"
        || name.contains("kube-root-ca.crt")
        || name.contains(".resources.cattle.io")
        || name.contains("runs.reinback.io")
}

/// A restore after a disturbance, and what came of it.
struct Story {
    before: Picture,
    after: Picture,
    restore: Value,
}

async fn story(which: &Which) -> Story {
    let world = which.world().await;
    let backup = world.repack("odd", odd);
    let items = rancher::read(&world.store().join(&backup)).expect("a backup");
    let operator = Operator::start(which, &world);
    let is_left = |item: &&Item| {
        let Item { place, object } = item;
        object["builtin"] == true || place.name.contains("odd") || place.namespace.as_deref() == Some(NAMESPACE)
    };
    let changed: Vec<Item> = items.iter().filter(|item| !is_left(item)).cloned().collect();
    let disturbance = Disturbance { changed_percent: 29, deleted_percent: 9, added: 20, seed: 7 };
    let fixture: Vec<Item> =
        changed.iter().filter(|item| world.items.iter().any(|known| known.place == item.place)).cloned().collect();
    rancher::disturb(&world.client, &fixture, disturbance).await.expect("disturbed");
    let kubectl = |args: &[&str]| world.cluster.kubectl(args, "").expect("kubectl does it");
    // By its label no selector chooses it.
    let only_live = ["create", "secret", "generic", "-n", "cattle-global-data", "odd-only-live"];
    kubectl(&only_live);
    kubectl(&["label", "secret", "-n", "cattle-global-data", "odd-only-live", "owner=helm"]);
    // The operator's own, newer than the backup.
    kubectl(&["create", "secret", "generic", "-n", NAMESPACE, "s3-credentials"]);
    let held = json!({"apiVersion": "management.cattle.io/v3", "kind": "Setting",
        "metadata": {"name": "held", "finalizers": ["example.org/hold"]}, "value": ""});
    world.cluster.kubectl(&["create", "-f", "-"], &held.to_string()).expect("it is taken");
    // What reinback has scaled down.
    scale(&world, "cattle-fleet-system", "fleet-controller", 0);
    let before = picture(&world, &items).await.expect("the cluster answers");

    operator.restore("whole", json!({"backupFilename": backup, "prune": true, "deleteTimeoutSeconds": 1}));
    let restore = operator.done("whole").await;
    assert_eq!(wanted(&world).await, 3, "{}", which.name());
    super::unlocked(&world).await;
    assert_eq!(conditions(&restore), [["Ready", "True", "", "Completed"]].map(|one| one.map(str::to_owned)));
    assert_eq!(restore["status"]["observedGeneration"], restore["metadata"]["generation"]);

    // Changed afterwards, it stays done; of another UID, it is begun anew.
    let patch = json!({"spec": {"deleteTimeoutSeconds": 2}}).to_string();
    kubectl(&["patch", "restores.resources.cattle.io", "whole", "--type=merge", "-p", &patch]);
    kubectl(&["annotate", "--overwrite", "settings.management.cattle.io/odd", "touched=yes"]);
    kubectl(&["delete", "restores.resources.cattle.io", "whole"]);
    assert_eq!(holder(&world).await.expect("there is one"), None);
    let after = picture(&world, &items).await.expect("the cluster answers");
    let touched = after.iter().find(|(name, _)| name.ends_with("/settings  odd")).expect("it is there").1;
    assert_eq!(
        touched["metadata"]["annotations"]["touched"],
        "yes",
        "{}: a Restore that was done was done again",
        which.name()
    );
    operator.restore("whole", json!({"backupFilename": backup, "prune": true, "deleteTimeoutSeconds": 1}));
    operator.done("whole").await;
    super::unlocked(&world).await;
    Story { before, after: picture(&world, &items).await.expect("the cluster answers"), restore }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_leaves_a_cluster_as_it_always_does() {
    let mut told: Vec<Story> = Vec::new();
    for which in Which::all("what a restore does") {
        println!("{}", which.name());
        let story = story(&which).await;
        assert_known(&story);
        if let Some(first) = told.first() {
            assert_same(&first.after, &story.after);
        }
        told.push(story);
    }
}

/// What reinback counts on.
fn assert_known(story: &Story) {
    let Story { before, after, restore } = story;
    let find =
        |of: &Picture, name: &str| of.iter().find(|(place, _)| place.ends_with(name)).map(|(_, object)| object.clone());
    let there = |name: &str| find(after, name);
    assert_eq!(restore["status"]["backupSource"], "PV");
    for gone in [
        "odd-filters-of-mine",
        "odd-of-one-in-the-cluster",
        "odd-of-nobody",
        &format!("{NAMESPACE} s3-credentials"),
        " held",
    ] {
        assert_eq!(there(gone), None, "{gone}");
    }
    assert!(find(before, &format!("{NAMESPACE} s3-credentials")).is_some());
    assert_eq!(there("odd-of-one-in-the-backup").expect("written")["metadata"]["ownerReferences"][0]["uid"], true);
    assert_eq!(there("odd-of-a-namespace").expect("written")["metadata"]["ownerReferences"][0]["uid"], true);
    assert_eq!(there("odd-of-no-kind").expect("written")["metadata"]["ownerReferences"], Value::Null);
    assert_eq!(there("cattle-odd-of-a-role").expect("written")["metadata"]["ownerReferences"], Value::Null);
    assert_eq!(there("cattle-odd-of-a-setting").expect("written")["metadata"]["ownerReferences"][0]["uid"], true);
    let odd = there("/settings  odd").expect("written")["odd"].clone();
    assert_eq!(odd, json!({"exact": 9_007_199_254_740_991_i64, "beyond": 9_007_199_254_740_992_i64, "small": 1.5}));
    let fleet = "cattle-fleet-system fleet-controller";
    assert_eq!(find(before, fleet).expect("it is there")["spec"]["replicas"], 0);
    assert_ne!(there(fleet).expect("it is there")["spec"]["replicas"], 0);
}

#[track_caller]
fn assert_same(one: &Picture, other: &Picture) {
    let names: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    let different: Vec<String> = names
        .into_iter()
        .filter(|name| one.get(*name) != other.get(*name))
        .map(|name| format!("{name}:\n  stand-in {:?}\n  real     {:?}", one.get(name), other.get(name)))
        .collect();
    assert!(different.is_empty(), "{} objects differ: {}", different.len(), different.join("\n"));
}
