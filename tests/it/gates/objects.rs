//! Gates about the objects that are written.

use std::time::Duration;

use anyhow::ensure;
use serde_json::json;

use super::{Asked, apply, define, kubectl};
use crate::harness::eventually;
use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn an_object_without_its_type_or_its_owner_is_held_until_that_is_there_or_taken() {
    let world = World::start().await;
    let ask = Asked::of(&world);

    let unserved = world.repack("widgets", |entries| {
        let widget = json!({"apiVersion": "example.org/v1", "kind": "Widget", "metadata": {"name": "one"}});
        entries.push(("widgets.example.org#v1/one".to_owned(), widget));
    });
    let unserved = ask.backup(&unserved);
    let accepted = unserved.is_accepted("ResourceNotServed").await;
    insta::assert_snapshot!(accepted.message("ResourceNotServed"), @"the cluster does not serve the types of 1 object of the backup: widgets.example.org v1 (1)");
    assert_eq!(accepted.count("created"), 0);
    define(&world, "example.org", "v1", "widgets", "Widget", "Cluster");
    let served = unserved.plan().await;
    served.assert_held_by(&[]);
    assert_eq!(served.count("created"), 1);

    let orphan = world.repack("orphan", |entries| {
        let owner = json!({"apiVersion": "v1", "kind": "ServiceAccount", "name": "gone", "uid": "11111111-2222-3333-4444-555555555555"});
        let metadata = json!({"name": "orphan", "namespace": "cattle-global-data", "ownerReferences": [owner]});
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque"});
        entries.push(("secrets.#v1/cattle-global-data/orphan".to_owned(), secret));
    });
    let orphan = ask.backup(&orphan);
    let accepted = orphan.is_accepted("OwnerMissing").await;
    insta::assert_snapshot!(accepted.message("OwnerMissing"), @"1 reference leads to an owner that is neither in the backup nor in the cluster: secrets.#v1/cattle-global-data/orphan (owner ServiceAccount gone)");
    kubectl(&world, &["create", "serviceaccount", "-n", "cattle-global-data", "gone"]);
    orphan.plan().await.assert_held_by(&[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_cannot_be_changed_or_is_on_its_way_out_is_held() {
    let world = World::start().await;
    let ask = Asked::of(&world);
    let item = |plural: &str, namespaced: bool| {
        let is_it =
            |place: &crate::harness::rancher::Place| place.plural == plural && place.namespace.is_some() == namespaced;
        world.items.iter().find(|item| is_it(&item.place)).expect("the fixture has one")
    };

    let binding = item("clusterrolebindings", false);
    kubectl(&world, &["delete", "clusterrolebinding", &binding.place.name]);
    kubectl(&world, &["create", "clusterrolebinding", &binding.place.name, "--clusterrole=view", "--user=somebody"]);
    let accepted = ask.is_accepted("Recreates").await;
    assert_eq!(accepted.count("recreated"), 1);
    kubectl(&world, &["delete", "clusterrolebinding", &binding.place.name]);
    ask.plan().await.assert_held_by(&[]);

    let secret = &world
        .items
        .iter()
        .find(|item| item.place.plural == "secrets" && item.object["type"] == "Opaque")
        .expect("one")
        .place;
    let namespace = secret.namespace.as_deref().expect("a namespace");
    kubectl(&world, &["delete", "secret", "-n", namespace, &secret.name]);
    apply(
        &world,
        &format!(
            "{{apiVersion: v1, kind: Secret, metadata: {{name: {}, namespace: {namespace}}}, type: example.org/other}}",
            secret.name
        ),
    );
    let changed = ask.plan().await;
    changed.assert_held_by(&["Recreates"]);
    kubectl(&world, &["delete", "secret", "-n", namespace, &secret.name]);
    ask.plan().await.assert_held_by(&[]);

    let user = item("users", false);
    let name = format!("users.management.cattle.io/{}", user.place.name);
    kubectl(&world, &["patch", &name, "--type=merge", "-p", r#"{"metadata":{"finalizers":["example.org/hold"]}}"#]);
    kubectl(&world, &["delete", "--wait=false", &name]);
    let accepted = ask.is_accepted("ObjectTerminating").await;
    insta::assert_snapshot!(accepted.remedy("ObjectTerminating"), @"wait until their finalizers are done, so that they are made anew; or add to the manifest's annotations: `reinback.io/accept: ObjectTerminating` (leaves them as they are; they vanish when their finalizers are done, and are not made again)");
    assert_eq!(accepted.count("protected"), 1 + builtin(&world));
    kubectl(&world, &["patch", &name, "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#]);
    let gone = ask.plan().await;
    gone.assert_held_by(&[]);

    // A finalizer of the namespace itself keeps it on its way.
    let namespace = "cattle-global-nt";
    kubectl(
        &world,
        &["patch", "namespace", namespace, "--type=merge", "-p", r#"{"metadata":{"finalizers":["example.org/hold"]}}"#],
    );
    kubectl(&world, &["delete", "--wait=false", "namespace", namespace]);
    let held = ask.plan().await;
    held.assert_held_by(&["NamespaceTerminating"]);
    insta::assert_snapshot!(held.message("NamespaceTerminating"), @"the backup writes into 1 namespace on the way out: cattle-global-nt");
    kubectl(&world, &["patch", "namespace", namespace, "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#]);
    eventually(Duration::from_secs(60), async || {
        let plan = ask.plan().await;
        ensure!(plan.gates().next().is_none(), "{:#}", plan.plan["gates"]);
        Ok(())
    })
    .await;
}

/// Built-in roles of the fixture, which stay as they are.
fn builtin(world: &World) -> u64 {
    world.items.iter().filter(|item| item.object["builtin"] == true).count() as u64
}
