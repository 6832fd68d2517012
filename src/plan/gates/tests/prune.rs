//! What prune deletes, and what goes along.

use super::*;

#[test]
fn clusters_made_since_are_not_deleted_unasked() {
    let mut world = world(|world| {
        for number in 1..=4 {
            world.live(&format!("clusters.management.cattle.io#v3/c-{number}"), json!({}));
        }
        let project = "projects.management.cattle.io#v3/local/p-1";
        world.live(project, json!({})).dependent("clusters.fleet.cattle.io#v1alpha1/fleet-default/f", &[project]);
        world.dependent("amazonec2machines.rke-machine.cattle.io#v1/fleet-default/vm-1", &[project]);
    });
    assert_snapshot!(held(&world), @r"
    PruneDeletesClusters: prune would delete 6 objects of clusters or of their machines: clusters.fleet.cattle.io#v1alpha1/fleet-default/f, clusters.management.cattle.io#v3/c-1, clusters.management.cattle.io#v3/c-2, clusters.management.cattle.io#v3/c-3, clusters.management.cattle.io#v3/c-4 and 1 more
    -> set `prune: false`, or delete these clusters in Rancher first, so that it cleans up after them; or add to the manifest's annotations: `reinback.io/accept: PruneDeletesClusters` (deletes them; what they stand for (virtual machines, volumes, load balancers) may be left behind)
    ");
    assert!(is_accepted(world.accept(GateCode::PruneDeletesClusters), GateCode::PruneDeletesClusters));
    world.request.accept.clear();
    world.request.prune = false;
    assert!(is_free(&world));
}

#[test]
fn namespaces_with_others_objects_are_not_deleted_unasked() {
    let mut world = world(|world| {
        for name in ["p-busy", "p-kept", "p-empty"] {
            world.live(&format!("namespaces.#v1/{name}"), json!({}));
            world.dependent(&format!("configmaps.#v1/{name}/kube-root-ca.crt"), &[]);
            world.dependent(&format!("serviceaccounts.#v1/{name}/default"), &[]);
        }
        world.dependent("configmaps.#v1/p-kept/notes", &[]);
        world.cluster.occupied_namespaces.insert("p-busy".to_owned(), 12);
        world.cluster.occupied_namespaces.insert("elsewhere".to_owned(), 12);
    });
    assert_snapshot!(held(&world), @r"
    PruneDeletesNamespaces: prune would delete 2 namespaces with objects that no backup of this kind holds: p-busy (12 objects), p-kept (1 object)
    -> set `prune: false`, or move what is in them; or add to the manifest's annotations: `reinback.io/accept: PruneDeletesNamespaces` (deletes these namespaces with all that is in them)
    ");
    assert!(is_accepted(world.accept(GateCode::PruneDeletesNamespaces), GateCode::PruneDeletesNamespaces));
    world.request.accept.clear();
    world.request.prune = false;
    assert!(is_free(&world));
}

#[test]
fn a_namespace_that_is_taken_along_counts_too() {
    let world = world(|world| {
        let project = "projects.management.cattle.io#v3/local/p-1";
        world.live(project, json!({})).dependent("namespaces.#v1/p-1", &[project]);
        world.dependent("configmaps.#v1/p-1/notes", &[]);
    });
    assert_eq!(world.holding(), [GateCode::PruneDeletesNamespaces]);
}

#[test]
fn an_object_counts_in_its_namespace_and_for_its_definition_whichever_deletion_reaches_it_first() {
    let owner = "projects.management.cattle.io#v3/local/p-1";
    let world = world(|world| {
        world.live(owner, json!({})).live("namespaces.#v1/p-own", json!({}));
        world.dependent("configmaps.#v1/p-own/notes", &[owner]);
        let definition = "customresourcedefinitions.apiextensions.k8s.io#v1/foos.example.org";
        world.live(definition, crd("foos", "example.org", "v1", false));
        world.dependent("foos.example.org#v1/a", &[owner]);
    });
    assert_eq!(world.holding(), [GateCode::PruneDeletesNamespaces, GateCode::PruneDeletesCrds]);
}

#[test]
fn definitions_with_objects_are_not_deleted_unasked() {
    let mut world = world(|world| {
        let path = "customresourcedefinitions.apiextensions.k8s.io#v1";
        world.live(&format!("{path}/foos.example.org"), crd("foos", "example.org", "v1", false));
        world.live(&format!("{path}/bars.example.org"), crd("bars", "example.org", "v1", false));
        world.dependent("foos.example.org#v1/a", &[]).dependent("foos.example.org#v1/b", &[]);
    });
    assert_snapshot!(held(&world), @r"
    PruneDeletesCrds: prune would delete 1 CustomResourceDefinition with objects that no selector of the backup matches: foos.example.org (2 objects)
    -> set `prune: false`, or remove what brought these definitions; or add to the manifest's annotations: `reinback.io/accept: PruneDeletesCrds` (deletes these definitions with all objects of their types)
    ");
    assert!(is_accepted(world.accept(GateCode::PruneDeletesCrds), GateCode::PruneDeletesCrds));
    world.request.accept.clear();
    world.dependents.clear();
    assert!(is_free(&world));
}

#[test]
fn a_large_share_is_not_deleted_unasked() {
    let mut world = world(|world| {
        world.request.max_prune_share_percent = 20;
        for number in 0..8 {
            world.both(&format!("users.management.cattle.io#v3/u-{number}"), json!({}));
        }
        world.live("users.management.cattle.io#v3/u-8", json!({})).live("users.management.cattle.io#v3/u-9", json!({}));
    });
    assert!(is_free(&world), "20 of 100 is not more than 20 %");
    world.live("users.management.cattle.io#v3/u-10", json!({}));
    assert_snapshot!(held(&world), @r"
    PruneShare: prune would delete 3 of the 11 objects that the backup's selectors match: more than 20 %
    -> set `prune: false`, name a newer backup, or raise `policy.maxPruneShare`; or add to the manifest's annotations: `reinback.io/accept: PruneShare` (deletes them all)
    ");
    assert!(is_accepted(world.accept(GateCode::PruneShare), GateCode::PruneShare));
    world.request.accept.clear();
    world.request.max_prune_share_percent = 28;
    assert!(is_free(&world));
}

#[test]
fn types_that_could_not_be_listed_are_held() {
    let unlisted = (Resource::new("ext.cattle.io", "v1", "tokens"), "secret of the server".to_owned());
    let mut world = world(|world| world.unlisted.push(unlisted));
    let text = held(&world);
    assert!(!text.contains("secret"));
    assert_snapshot!(text, @"
    PlanIncomplete: 1 type could not be listed: tokens.ext.cattle.io#v1
    -> repair what serves them (`kubectl get apiservices`), so that the plan knows what is there; or add to the manifest's annotations: `reinback.io/accept: PlanIncomplete` (plans as if there were no such objects: they are written without a comparison, and none of them is pruned)
    ");
    assert!(is_accepted(world.accept(GateCode::PlanIncomplete), GateCode::PlanIncomplete));
    world.request.accept.clear();
    world.unlisted.clear();
    assert!(is_free(&world));
}
