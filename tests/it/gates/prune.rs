//! Gates about what prune would take away.

use super::{Asked, apply, define, kubectl};
use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn prune_asks_before_it_takes_clusters_full_namespaces_definitions_in_use_or_too_much() {
    let world = World::start().await;
    let ask = Asked::of(&world).spec("prune: true");
    ask.plan().await.assert_held_by(&[]);

    apply(&world, "{apiVersion: management.cattle.io/v3, kind: Cluster, metadata: {name: c-new}}");
    let accepted = ask.is_accepted("PruneDeletesClusters").await;
    insta::assert_snapshot!(accepted.message("PruneDeletesClusters"), @"prune would delete 1 object of clusters or of their machines: clusters.management.cattle.io#v3/c-new");
    insta::assert_snapshot!(accepted.remedy("PruneDeletesClusters"), @"set `prune: false`, or delete these clusters in Rancher first, so that it cleans up after them; or add to the manifest's annotations: `reinback.io/accept: PruneDeletesClusters` (deletes them; what they stand for (virtual machines, volumes, load balancers) may be left behind)");
    kubectl(&world, &["delete", "clusters.management.cattle.io", "c-new"]);

    kubectl(&world, &["create", "namespace", "p-newer"]);
    ask.plan().await.assert_held_by(&[]);
    kubectl(&world, &["create", "configmap", "-n", "p-newer", "wanted"]);
    let accepted = ask.is_accepted("PruneDeletesNamespaces").await;
    insta::assert_snapshot!(accepted.message("PruneDeletesNamespaces"), @"prune would delete 1 namespace with objects that no backup of this kind holds: p-newer (1 object)");
    kubectl(&world, &["delete", "namespace", "p-newer"]);

    // By the first letters of their names the selectors choose namespaces of others, too.
    kubectl(&world, &["create", "namespace", "c-level"]);
    kubectl(&world, &["run", "board", "--image=board", "-n", "c-level"]);
    kubectl(&world, &["create", "namespace", "p-own"]);
    apply(
        &world,
        "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: books, namespace: p-own}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}",
    );
    let accepted = ask.is_accepted("PruneDeletesNamespaces").await;
    insta::assert_snapshot!(accepted.message("PruneDeletesNamespaces"), @"prune would delete 2 namespaces with objects that no backup of this kind holds: c-level (1 object), p-own (1 object)");
    for taken in ["pods.#v1/c-level/board", "persistentvolumeclaims.#v1/p-own/books"] {
        assert!(accepted.plan["deletions"].to_string().contains(taken), "{:#}", accepted.plan["deletions"]);
    }
    kubectl(&world, &["delete", "namespace", "c-level", "p-own"]);

    define(&world, "extra.management.cattle.io", "v1", "widgets", "Widget", "Cluster");
    ask.plan().await.assert_held_by(&[]);
    apply(&world, "{apiVersion: extra.management.cattle.io/v1, kind: Widget, metadata: {name: one}}");
    let accepted = ask.is_accepted("PruneDeletesCrds").await;
    insta::assert_snapshot!(accepted.message("PruneDeletesCrds"), @"prune would delete 1 CustomResourceDefinition with objects that no selector of the backup matches: widgets.extra.management.cattle.io (1 object)");

    // A namespace that a custom resource owns goes with the definition, and so does what is in it.
    let uid = world
        .cluster
        .kubectl(&["get", "widgets.extra.management.cattle.io", "one", "-o", "jsonpath={.metadata.uid}"], "");
    let uid = uid.expect("it is there");
    apply(
        &world,
        &format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: owned, ownerReferences: [{{apiVersion: extra.management.cattle.io/v1, kind: Widget, name: one, uid: {uid}}}]}}}}\n---\n\
             {{apiVersion: v1, kind: ConfigMap, metadata: {{name: inside, namespace: owned}}}}\n"
        ),
    );
    let deep = ask.annotated("reinback.io/accept", "PruneDeletesCrds").is_accepted("PruneDeletesNamespaces").await;
    insta::assert_snapshot!(deep.message("PruneDeletesNamespaces"), @"prune would delete 1 namespace with objects that no backup of this kind holds: owned (1 object)");
    assert!(deep.plan["deletions"].to_string().contains("configmaps.#v1/owned/inside"), "{:#}", deep.plan["deletions"]);
    kubectl(&world, &["delete", "crd", "widgets.extra.management.cattle.io"]);

    ask.flag("--policy-max-prune-share=0").plan().await.assert_held_by(&[]);
    kubectl(&world, &["create", "namespace", "cattle-newer"]);
    let accepted = ask.flag("--policy-max-prune-share=0").is_accepted("PruneShare").await;
    insta::assert_snapshot!(accepted.remedy("PruneShare"), @"set `prune: false`, name a newer backup, or raise `policy.maxPruneShare`; or add to the manifest's annotations: `reinback.io/accept: PruneShare` (deletes them all)");
    ask.plan().await.assert_held_by(&[]);
    ask.flag("--policy-max-prune-share=0").spec("deleteTimeoutSeconds: 5").plan().await.assert_held_by(&["PruneShare"]);
    Asked::of(&world).flag("--policy-max-prune-share=0").spec("prune: false").plan().await.assert_held_by(&[]);
}
