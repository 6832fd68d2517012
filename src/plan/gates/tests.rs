//! Each gate is raised by a world, and taken away by its own remedy.

use insta::assert_snapshot;
use serde_json::json;

use super::*;
use crate::backup::{BackupName, Unopened};
use crate::object::Resource;
use crate::observed::{Access, BackupSeen, Closed, OpenEntries, UpstreamRestore};
use crate::plan::testing::{World, crd, key, owner, uid_of, workload};

mod backup;
mod operator;
mod prune;
mod version;
mod webhooks;

/// What a person reads of the one gate that holds this world.
fn held(world: &World) -> String {
    let plan = world.plan();
    let holding: Vec<&Gate> = plan.holding().collect();
    let [gate] = holding[..] else { panic!("one gate holds, not {holding:?}") };
    format!("{}: {}\n-> {}", gate.code, gate.message, gate.remedy)
}

/// The gate of this code is still reported, and holds nothing.
fn is_accepted(world: &World, code: GateCode) -> bool {
    world.holding().is_empty() && world.plan().gates.iter().any(|gate| gate.code == code && gate.accepted)
}

fn is_free(world: &World) -> bool {
    world.plan().gates.is_empty()
}

fn world(change: impl FnOnce(&mut World)) -> World {
    let mut world = World::quiet();
    change(&mut world);
    world
}

#[test]
fn a_quiet_world_raises_nothing() {
    assert!(is_free(&World::quiet()));
}

#[test]
fn what_is_not_built_is_said() {
    let mut asked = world(|world| world.request.not_supported.push("the method `image` is not built yet".to_owned()));
    assert_snapshot!(held(&asked), @r"
    NotSupported: the method `image` is not built yet
    -> take it out of the manifest, or install a version of reinback that can do it
    ");
    asked.request.not_supported.clear();
    assert!(is_free(&asked));
}

#[test]
fn a_backup_of_another_cluster_is_not_pruned_by() {
    let mut world = world(|world| {
        uninstall_rancher(world);
        world.cluster.uid = "0000".to_owned();
        world.ledger.branch_cluster_uid = None;
        world.live("secrets.#v1/cattle-system/later", json!({}));
    });
    assert_snapshot!(held(&world), @r"
    DifferentCluster: the backup is of the cluster whose kube-system has the UID 6e9ee6a6-d4f2-46c2-bd99-75269cf041dc; here it is 0000; prune is off
    -> name a backup of this cluster; or add to the manifest's annotations: `reinback.io/accept: DifferentCluster` (restores it here, without prune whatever the manifest says)
    ");
    assert!(is_accepted(world.accept(GateCode::DifferentCluster), GateCode::DifferentCluster));
    assert!(!world.plan().prunes && world.plan().deletions.is_empty());
}

#[test]
fn a_backup_without_a_cluster_in_its_name_goes_by_install_uuid() {
    let mut world = world(|world| {
        uninstall_rancher(world);
        world.backup.name = BackupName::new("renamed.tar.gz").unwrap();
    });
    assert_snapshot!(held(&world), @r"
    DifferentCluster: the backup's name does not say of which cluster it is; the install-uuid of its Rancher is b3c0a1f2; here it is unknown; prune is off
    -> name a backup of this cluster; or add to the manifest's annotations: `reinback.io/accept: DifferentCluster` (restores it here, without prune whatever the manifest says)
    ");
    world.cluster.install_uuid = Some("b3c0a1f2".to_owned());
    assert!(is_free(&world));
}

/// Nothing is left of it, as on a new cluster.
fn uninstall_rancher(world: &mut World) {
    world.cluster.workloads.clear();
    world.cluster.server_version = None;
    world.cluster.server_url = None;
}

#[test]
fn a_migration_to_where_rancher_was_installed_is_warned_of() {
    let mut world = world(|world| {
        world.cluster.uid = "0000".to_owned();
        world.ledger.branch_cluster_uid = None;
        world.cluster.install_uuid = Some("another".to_owned());
        world.cluster.rancher_webhooks = vec!["validatingwebhookconfigurations/rancher.cattle.io".to_owned()];
        world.accept(GateCode::DifferentCluster);
    });
    let warned =
        |world: &World| world.plan().warnings.into_iter().find(|warning| warning.contains("installed on this"));
    assert_snapshot!(warned(&world).expect("a warning"), @"the backup is of another cluster, and a Rancher has been installed on this one (Deployment cattle-system/rancher, validatingwebhookconfigurations/rancher.cattle.io, an install-uuid of its own): what it made stays and mixes with the backup; to be rid of it, uninstall it and clear away what it made (rancher-cleanup), and install Rancher after the restore");
    assert!(world.holding().is_empty());
    uninstall_rancher(&mut world);
    world.cluster.rancher_webhooks.clear();
    assert!(warned(&world).is_some(), "it has left its install-uuid");
    world.cluster.install_uuid = Some("b3c0a1f2".to_owned());
    assert_eq!(warned(&world), None, "an earlier try brought the backup's own");
}

#[test]
fn definitions_of_an_old_form_are_refused() {
    let definitions = "customresourcedefinitions.apiextensions.k8s.io#v1beta1";
    let mut world = world(|world| {
        world.backed_up(&format!("{definitions}/foos.example.org"), crd("foos", "example.org", "v1", false));
        world.accept(GateCode::ResourceNotServed);
    });
    assert_snapshot!(held(&world), @r"
    UnsupportedVersion: 1 definition of the backup are at apiextensions.k8s.io/v1beta1, which this Kubernetes does not serve (v1beta1 ended with 1.22): customresourcedefinitions.apiextensions.k8s.io#v1beta1/foos.example.org
    -> upgrade the Kubernetes of the old cluster to 1.16 or later, and back it up again by a ResourceSet that asks for apiextensions.k8s.io/v1
    ");
    world.serve(definitions, false, false);
    assert!(!world.holding().contains(&GateCode::UnsupportedVersion));
}

#[test]
fn another_server_url_is_held() {
    let mut world =
        world(|world| world.cluster.server_url = Some("https://user:pass@other.example.org:8443/x".to_owned()));
    assert_snapshot!(held(&world), @r"
    DifferentServerUrl: the backup's server-url is https://rancher.example.org; here it is https://other.example.org:8443
    -> name a backup of this Rancher; or add to the manifest's annotations: `reinback.io/accept: DifferentServerUrl` (the setting becomes the backup's, so its host must lead here, or agents of other clusters do not find Rancher)
    ");
    assert!(is_accepted(world.accept(GateCode::DifferentServerUrl), GateCode::DifferentServerUrl));
    world.cluster.server_url = Some("HTTPS://Rancher.example.org:443/".to_owned());
    assert!(is_free(&world));
}

#[test]
fn another_version_is_held_by_what_runs() {
    let mut world = world(|world| {
        world.rancher().image = Some("reg.example.org:5000/rancher/rancher:v2.10.1@sha256:00".to_owned());
    });
    assert_snapshot!(held(&world), @r"
    VersionMismatch: the backup is of Rancher v2.9.3; here runs v2.10.1 (by the tag of its image)
    -> name a backup of the version that runs, or bring Rancher to the backup's version first; or add to the manifest's annotations: `reinback.io/accept: VersionMismatch` (Rancher starts on data of another version and may change it for good)
    ");
    assert!(is_accepted(world.accept(GateCode::VersionMismatch), GateCode::VersionMismatch));
    world.rancher().image = Some("reg.example.org:5000/rancher/rancher:v2.9.3".to_owned());
    assert!(is_free(&world));
}

#[test]
fn what_runs_is_said_by_the_tag_else_the_release_else_the_setting() {
    let by = |image: Option<&str>, release: Option<&str>, setting: Option<&str>| {
        let world = world(|world| {
            world.rancher().image = image.map(str::to_owned);
            world.cluster.release_version = release.map(str::to_owned);
            world.cluster.server_version = setting.map(str::to_owned);
        });
        world.plan().gates.first().map(|gate| gate.message.clone()).unwrap_or_default()
    };
    let tag = |tag: &str| format!("rancher/rancher:{tag}");
    let lines = [
        by(Some(&tag("our-build")), Some("v2.9.2"), Some("v2.9.1")),
        by(Some("rancher/rancher@sha256:00"), None, Some("v2.9.1")),
        by(Some(&tag("head")), None, None),
        by(Some(&tag("v2.9.3")), Some("v2.9.2"), Some("v2.9.1")),
        by(None, None, None),
    ];
    assert_snapshot!(lines.join("\n"), @r"
    the backup is of Rancher v2.9.3; here runs v2.9.2 (by its Helm release)
    the backup is of Rancher v2.9.3; here runs v2.9.1 (by the setting server-version)
    the backup is of Rancher v2.9.3; here runs head (by the tag of its image)
    ");
}

#[test]
fn a_backup_of_an_unknown_version_is_held_where_a_rancher_runs() {
    let mut world = world(|world| world.backup.facts.rancher_version = None);
    assert_snapshot!(held(&world), @r"
    VersionMismatch: the backup is of Rancher of an unknown version; here runs v2.9.3 (by the tag of its image)
    -> name a backup of the version that runs, or bring Rancher to the backup's version first; or add to the manifest's annotations: `reinback.io/accept: VersionMismatch` (Rancher starts on data of another version and may change it for good)
    ");
    world.cluster.workloads.clear();
    world.cluster.server_version = None;
    assert!(is_free(&world));
}

#[test]
fn a_boundary_between_the_versions_is_held() {
    let mut world = world(|world| {
        world.rancher().image = Some("rancher/rancher:v2.14.1".to_owned());
        world.backup.facts.rancher_version = Some("v2.13.4".to_owned());
        world.accept(GateCode::VersionMismatch);
    });
    assert_snapshot!(held(&world), @r"
    VersionBoundary: from Rancher v2.14.1 to data of v2.13.4 lies a boundary at v2.14.0: Cluster API went from v1beta1 to v1beta2, which its definitions cannot give up while objects exist
    -> restore into a cluster that was cleaned of Rancher (rancher-cleanup), as for a migration; or add to the manifest's annotations: `reinback.io/accept: VersionMismatch, VersionBoundary` (tries it in place, where objects of the newer form may be refused or mangled)
    ");
    assert!(is_accepted(world.accept(GateCode::VersionBoundary), GateCode::VersionBoundary));
}

#[test]
fn two_manifests_of_one_commit_are_held() {
    let mut world = world(|world| world.ledger.as_new.push("Restore other (restore/b.yaml)".to_owned()));
    assert_snapshot!(held(&world), @r"
    Ambiguous: one commit brings several manifests that may run; beside this one: Restore other (restore/b.yaml)
    -> remove all but one of them, or change the one that shall run in a commit of its own
    ");
    world.ledger.as_new.clear();
    assert!(is_free(&world));
}

#[test]
fn the_content_of_a_run_under_another_name_is_held() {
    let mut world = world(|world| world.ledger.same_content_ran_as = Some("first-try".to_owned()));
    assert_snapshot!(held(&world), @r"
    AlreadyRun: the same content ran before, under the name first-try
    -> if it shall run again, set `reinback.io/requested-at` to the time of now; if not, remove the manifest; or add to the manifest's annotations: `reinback.io/accept: AlreadyRun` (runs it once more, under this name)
    ");
    assert!(is_accepted(world.accept(GateCode::AlreadyRun), GateCode::AlreadyRun));
}

#[test]
fn a_status_branch_of_another_cluster_is_held() {
    let mut world = world(|world| world.ledger.branch_cluster_uid = Some("0000".to_owned()));
    assert_snapshot!(held(&world), @r"
    LedgerMismatch: the status branch was written by the cluster whose kube-system has the UID 0000; here it is 6e9ee6a6-d4f2-46c2-bd99-75269cf041dc
    -> give this cluster another name (`cluster`) or another branch (`status.branch`) in the configuration; or add to the manifest's annotations: `reinback.io/accept: LedgerMismatch` (goes on with the branch as it is; what is recorded in it or in the cluster still never runs twice)
    ");
    assert!(is_accepted(world.accept(GateCode::LedgerMismatch), GateCode::LedgerMismatch));
    world.ledger.branch_cluster_uid = Some(world.cluster.uid.clone());
    assert!(is_free(&world));
}

#[test]
fn a_status_branch_that_is_gone_is_held() {
    let mut world = world(|world| {
        world.ledger.branch_cluster_uid = None;
        world.ledger.branch_exists = false;
    });
    assert!(is_free(&world), "nothing ever ran here");
    world.ledger.runs_in_cluster = 3;
    assert_snapshot!(held(&world), @r"
    LedgerMismatch: the status branch is gone, and the cluster knows 3 runs
    -> push the status branch again from a clone that has it; or add to the manifest's annotations: `reinback.io/accept: LedgerMismatch` (goes on with the branch as it is; what is recorded in it or in the cluster still never runs twice)
    ");
    assert!(is_accepted(world.accept(GateCode::LedgerMismatch), GateCode::LedgerMismatch));
    world.ledger.branch_exists = true;
    assert!(is_free(&world));
}

#[test]
fn missing_rights_are_named_up_to_ten() {
    let access = |verb, group: &str, resource: &str, namespace: Option<&str>| Access {
        verb,
        group: group.to_owned(),
        resource: resource.to_owned(),
        namespace: namespace.map(str::to_owned),
        name: None,
    };
    let mut world = world(|world| {
        world.denied.push(access("escalate", "rbac.authorization.k8s.io", "clusterroles", None));
        world.denied.push(access("update", "provisioning.cattle.io", "clusters/status", None));
        world.denied.push(access("create", "", "secrets", Some("cattle-system")));
    });
    assert_snapshot!(held(&world), @r"
    PermissionDenied: 3 rights are missing: escalate clusterroles.rbac.authorization.k8s.io, update clusters.provisioning.cattle.io/status, create secrets in cattle-system
    -> grant them to the account that reinback uses, by a ClusterRole bound to it
    ");
    let named = Access { name: Some("system:masters".to_owned()), ..access("impersonate", "", "groups", None) };
    world.denied = vec![named];
    assert!(held(&world).contains("1 right is missing: impersonate groups system:masters\n"));
    world.denied = vec![access("create", "", "secrets", Some("cattle-system"))];
    world.denied.extend((0..11).map(|number| access("delete", "", &format!("things{number}"), None)));
    assert!(held(&world).contains("things8 and 2 more"));
    world.denied.clear();
    assert!(is_free(&world));
}

#[test]
fn access_through_rancher_is_refused() {
    let mut world = world(|world| {
        world.cluster.api_url = "https://other.example.org/k8s/clusters/local".to_owned();
    });
    assert_snapshot!(held(&world), @r"
    AccessThroughRancher: the API server is reached through Rancher (other.example.org:443), which a restore scales to 0
    -> give reinback a kubeconfig whose server is the cluster's own API server, or run it in the cluster
    ");
    for (api, free) in [
        ("https://RANCHER.example.org", false),
        ("https://rancher.example.org:443/", false),
        ("https://configured.example.org:8443", false),
        ("https://rancher.example.org:6443", true),
        ("https://10.43.0.1:443", true),
    ] {
        world.cluster.api_url = api.to_owned();
        world.request.rancher_url = Some("https://configured.example.org:8443/".to_owned());
        assert_eq!(is_free(&world), free, "{api}");
    }
}

fn restore(name: &str, ours: bool, finished: bool) -> UpstreamRestore {
    UpstreamRestore { name: name.to_owned(), ours, key: None, finished }
}

#[test]
fn a_restore_that_something_else_applied_is_refused() {
    let mut world = world(|world| world.cluster.restores.push(restore("back-to-monday", false, true)));
    assert_snapshot!(held(&world), @r"
    AppliedElsewhere: the cluster has a Restore back-to-monday that reinback did not make: something else applies the manifest
    -> keep the watched path out of Flux, Argo CD and Fleet; once the operator is done with it, `kubectl delete restores.resources.cattle.io back-to-monday`
    ");
    world.cluster.restores = vec![restore("back-to-monday", true, true), restore("other", false, true)];
    assert!(is_free(&world));
}

#[test]
fn a_rancher_at_zero_is_held_unless_something_says_what_it_had() {
    let mut world = world(|world| world.rancher().replicas = 0);
    assert_snapshot!(held(&world), @r"
    RancherAtZero: Rancher (cattle-system/rancher) is at 0 replicas, and nothing says how many it had
    -> scale it up again, or say how many it shall get after the restore: `kubectl -n cattle-system annotate deployments rancher reinback.io/replicas=3`; or add to the manifest's annotations: `reinback.io/accept: RancherAtZero` (Rancher stays at 0 after the restore)
    ");
    assert!(is_accepted(world.accept(GateCode::RancherAtZero), GateCode::RancherAtZero));
    world.rancher().recorded = Some(3);
    assert!(is_free(&world));
    world.rancher().recorded = Some(0);
    assert!(!is_free(&world), "an annotation that says nothing");
    world.request.resuming = true;
    assert!(is_free(&world));
}

#[test]
fn a_workload_that_a_tool_keeps_is_held() {
    let mut world = world(|world| {
        world.rancher().managers.push("Argo CD (application rancher)".to_owned());
        let mut fleet = workload("cattle-fleet-system", "fleet-controller");
        fleet.managers = vec!["Helm chart (fleet)".to_owned(), "KEDA (fleet)".to_owned()];
        let mut webhook = workload("cattle-system", "rancher-webhook");
        webhook.managers.push("not asked, for it stays up".to_owned());
        webhook.answers = vec![crate::plan::testing::service("cattle-system/rancher-webhook")];
        world.cluster.workloads.extend([fleet, webhook]);
    });
    assert_snapshot!(held(&world), @r"
    ManagedElsewhere: something else keeps the replicas of what is scaled to 0: cattle-system/rancher (Argo CD (application rancher)), cattle-fleet-system/fleet-controller (Helm chart (fleet), KEDA (fleet))
    -> suspend it for these workloads; or add to the manifest's annotations: `reinback.io/accept: ManagedElsewhere` (scales them all the same; writing stops while a pod of Rancher is back)
    ");
    assert!(is_accepted(world.accept(GateCode::ManagedElsewhere), GateCode::ManagedElsewhere));
    world.cluster.workloads.iter_mut().for_each(|workload| workload.managers.clear());
    assert!(is_free(&world));
}

#[test]
fn other_runs_are_waited_for() {
    let mut world = world(|world| {
        world.cluster.unfinished_runs.push("before-abc".to_owned());
        world.cluster.restores.push(restore("by-hand", false, false));
    });
    assert_snapshot!(held(&world), @r"
    RunInProgress: 2 have not ended: run before-abc, Restore by-hand of the operator
    -> it begins when they have ended; the operator tries a failing Restore for ever, until it is deleted
    ");
    world.request.resuming = true;
    assert!(held(&world).contains("1 has not ended: Restore by-hand"), "the operator writes what we write");
    world.cluster.restores[0].finished = true;
    assert!(is_free(&world));
    world.request.resuming = false;
    world.cluster.unfinished_runs.clear();
    assert!(is_free(&world));
}

#[test]
fn a_rollout_of_rancher_is_waited_for() {
    let mut world = world(|world| {
        world.rancher().rolling = true;
        world.rancher().ready = 1;
    });
    assert_snapshot!(held(&world), @r"
    RancherUpdating: Rancher (cattle-system/rancher) is being rolled out: 1 of 3 replicas ready
    -> it begins when the rollout is done or has given up
    ");
    world.request.resuming = true;
    assert!(is_free(&world));
    world.request.resuming = false;
    world.rancher().rolling = false;
    assert!(is_free(&world));
}

#[test]
fn namespaces_on_the_way_out_are_waited_for() {
    let mut world = world(|world| {
        world.backed_up("secrets.#v1/p-1/a", json!({}));
        world.backed_up("namespaces.#v1/p-2", json!({}));
        world.both("secrets.#v1/p-3/equal", json!({}));
        world.cluster.terminating_namespaces = ["p-1", "p-2", "p-3", "p-4"].map(str::to_owned).into();
    });
    assert_snapshot!(held(&world), @r"
    NamespaceTerminating: the backup writes into 2 namespaces on the way out: p-1, p-2
    -> it begins when they are gone; `kubectl get namespace NAME -o yaml` says what they wait for
    ");
    world.cluster.terminating_namespaces.clear();
    assert!(is_free(&world));
}

#[test]
fn types_that_are_not_served_are_counted() {
    let mut world = world(|world| {
        world.backed_up("foos.example.org#v1beta1/a", json!({})).backed_up("foos.example.org#v1beta1/b", json!({}));
        world.backed_up("podsecuritypolicies.policy#v1beta1/x", json!({}));
    });
    assert_snapshot!(held(&world), @r"
    ResourceNotServed: the cluster does not serve the types of 3 objects of the backup: foos.example.org v1beta1 (2), podsecuritypolicies.policy v1beta1 (1)
    -> install what serves it, at the version that the backup has; or add to the manifest's annotations: `reinback.io/accept: ResourceNotServed` (skips these objects)
    ");
    assert!(is_accepted(world.accept(GateCode::ResourceNotServed), GateCode::ResourceNotServed));
    world.request.accept.clear();
    world.serve("foos.example.org#v1beta1", true, false);
    world.backed_up(
        "customresourcedefinitions.apiextensions.k8s.io#v1/podsecuritypolicies.policy",
        crd("podsecuritypolicies", "policy", "v1beta1", false),
    );
    assert!(is_free(&world), "served, or brought by the backup itself");
}

#[test]
fn owners_that_are_nowhere_are_held() {
    let mut world = world(|world| {
        let owners =
            json!({ "metadata": { "ownerReferences": [owner("users.management.cattle.io#v3/u-gone", "old")] } });
        world.backed_up("secrets.#v1/cattle-system/a", owners);
    });
    assert_snapshot!(held(&world), @r"
    OwnerMissing: 1 reference leads to an owner that is neither in the backup nor in the cluster: secrets.#v1/cattle-system/a (owner User u-gone)
    -> name a backup that has the owners; or add to the manifest's annotations: `reinback.io/accept: OwnerMissing` (drops the dead references, so that these objects outlive what made them)
    ");
    assert!(is_accepted(world.accept(GateCode::OwnerMissing), GateCode::OwnerMissing));
    world.request.accept.clear();
    world.backed_up("users.management.cattle.io#v3/u-gone", json!({}));
    assert!(is_free(&world));
}

const FOOS: &str = "customresourcedefinitions.apiextensions.k8s.io#v1/foos.example.org";

/// A definition with these versions, of which the last is the one for storage.
fn foos(versions: &[&str], stored: &[&str]) -> serde_json::Value {
    let version = |(number, name): (usize, &&str)| json!({ "name": name, "served": true, "storage": number + 1 == versions.len(), "schema": { "openAPIV3Schema": { "type": "object" } } });
    let mut foos = crd("foos", "example.org", "v1", false);
    foos["spec"]["versions"] = versions.iter().enumerate().map(version).collect();
    foos["status"]["storedVersions"] = json!(stored);
    foos
}

#[test]
fn live_versions_that_hold_objects_are_said() {
    let mut world = world(|world| {
        world.backed_up(FOOS, foos(&["v1"], &["v1"])).live(FOOS, foos(&["v1", "v2"], &["v1", "v2"]));
    });
    assert_snapshot!(held(&world), @r"
    CrdVersionsKept: 1 live definition keeps versions that the backup does not have, since objects are stored at them: foos.example.org (v2, stored as v1 again, without conversion: fields that only one version knows are lost in the others)
    -> store their objects at a version of the backup, and take the others out of `status.storedVersions`; or add to the manifest's annotations: `reinback.io/accept: CrdVersionsKept` (writes the backup's definitions with those versions beside them, not used for storage)
    ");
    assert!(is_accepted(world.accept(GateCode::CrdVersionsKept), GateCode::CrdVersionsKept));
    world.request.accept.clear();
    world.live.clear();
    world.live(FOOS, foos(&["v1", "v2"], &["v1"]));
    assert!(is_free(&world), "v2 holds nothing, and goes");
}

#[test]
fn a_definition_that_is_kept_as_it_is_says_so_only_when_objects_are_written_by_it() {
    let mut kept = foos(&["v1", "v2"], &["v1", "v2"]);
    kept["spec"]["versions"][0]["storage"] = json!(true);
    kept["spec"]["versions"][1]["storage"] = json!(false);
    let mut world = world(|world| {
        world.backed_up(FOOS, foos(&["v1"], &["v1"])).live(FOOS, kept);
    });
    assert!(is_free(&world), "what a restore left behind");
    world.backed_up("foos.example.org#v1/a", json!({}));
    assert_eq!(world.holding(), [GateCode::CrdVersionsKept]);
}

#[test]
fn what_the_api_server_would_not_take_is_refused() {
    let deployment = "deployments.apps#v1/cattle-system/x";
    let of = |app: &str| json!({ "spec": { "selector": { "matchLabels": { "app": app } } } });
    let mut world = world(|world| {
        world.backed_up(deployment, of("then")).live(deployment, of("now"));
        let mut scoped = foos(&["v1"], &["v1"]);
        scoped["spec"]["scope"] = json!("Namespaced");
        world.backed_up(FOOS, scoped).live(FOOS, foos(&["v1"], &["v1"]));
    });
    assert_snapshot!(held(&world), @r"
    NotSupported: the API server would not take 2 objects: deployments.apps#v1/cattle-system/x (spec.selector differs, and never changes), customresourcedefinitions.apiextensions.k8s.io#v1/foos.example.org (spec.scope differs, and never changes)
    -> delete these live objects where nothing hangs on them, so that they are made anew, or name another backup
    ");
    world.live.clear();
    assert!(is_free(&world));
    let mut two = foos(&["v1", "v2"], &["v1"]);
    two["spec"]["versions"][0]["storage"] = json!(true);
    world.backed_up("customresourcedefinitions.apiextensions.k8s.io#v1/twos.example.org", two);
    assert!(held(&world).contains("it has more than one version for storage"), "{}", held(&world));
}

#[test]
fn objects_that_must_be_made_anew_are_held() {
    let binding = "clusterrolebindings.rbac.authorization.k8s.io#v1/crb-1";
    let role = |name: &str| json!({ "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name } });
    let mut world = world(|world| {
        world.backed_up(binding, role("then")).live(binding, role("now"));
    });
    assert_snapshot!(held(&world), @r"
    Recreates: 1 live object differs in a field that never changes: clusterrolebindings.rbac.authorization.k8s.io#v1/crb-1
    -> delete them by hand before the restore; or add to the manifest's annotations: `reinback.io/accept: Recreates` (deletes each and makes it anew at once)
    ");
    assert!(is_accepted(world.accept(GateCode::Recreates), GateCode::Recreates));
    world.request.accept.clear();
    world.live.clear();
    assert!(is_free(&world), "deleted by hand");
}

#[test]
fn live_objects_on_the_way_out_are_held() {
    let path = "users.management.cattle.io#v3/u-1";
    let mut world = world(|world| {
        world.backed_up(path, json!({ "enabled": true }));
        world.live(path, json!({ "metadata": { "deletionTimestamp": "2026-11-23T08:00:00Z", "finalizers": ["x"] } }));
    });
    assert_snapshot!(held(&world), @"
    ObjectTerminating: 1 live object of the backup on the way out: users.management.cattle.io#v3/u-1
    -> wait until their finalizers are done, so that they are made anew; or add to the manifest's annotations: `reinback.io/accept: ObjectTerminating` (leaves them as they are; they vanish when their finalizers are done, and are not made again)
    ");
    assert!(is_accepted(world.accept(GateCode::ObjectTerminating), GateCode::ObjectTerminating));
    world.request.accept.clear();
    world.request.resuming = true;
    assert!(is_free(&world));
    world.request.resuming = false;
    world.live.clear();
    assert!(is_free(&world));
}

#[test]
fn an_approval_is_asked_for_and_taken() {
    let mut world = world(|world| world.request.approval_required = true);
    assert_snapshot!(held(&world), @r"
    ApprovalMissing: plans such as this one must be approved in Git
    -> add to the manifest's annotations: `reinback.io/approved-plan: sha256:4582e1a2a99a5cf2cd62defb2d28332afdce0a2184f174ec7aeb7a9540ae87d9`
    ");
    world.request.approved_plan = Some(world.plan().digest);
    assert!(is_free(&world));
    world.request.approved_plan = None;
    world.request.resuming = true;
    assert!(is_free(&world), "judged when the run began");
    world.request.resuming = false;
    world.seen = Some(BackupSeen::Missing { place: "/backups".to_owned() });
    assert_eq!(world.holding(), [GateCode::BackupNotFound], "what would be approved is not known");
}

#[test]
fn an_approval_of_another_plan_is_refused() {
    let mut world = world(|world| world.request.approved_plan = Some("sha256:old".to_owned()));
    assert_snapshot!(held(&world), @r"
    ApprovalMismatch: the manifest approves the plan sha256:old, and this one is sha256:4582e1a2a99a5cf2cd62defb2d28332afdce0a2184f174ec7aeb7a9540ae87d9
    -> read the plan as it is now, and add to the manifest's annotations: `reinback.io/approved-plan: sha256:4582e1a2a99a5cf2cd62defb2d28332afdce0a2184f174ec7aeb7a9540ae87d9`
    ");
    world.request.approved_plan = None;
    assert!(is_free(&world));
}

#[test]
fn acceptance_comes_before_approval() {
    let mut world = world(|world| {
        world.request.approval_required = true;
        world.rancher().replicas = 0;
    });
    let plan = world.plan();
    let missing = plan.gates.last().unwrap();
    assert_snapshot!(missing.remedy, @"settle RancherAtZero first, for what is accepted is part of what is approved; as it is now, the line would be `reinback.io/approved-plan: sha256:4582e1a2a99a5cf2cd62defb2d28332afdce0a2184f174ec7aeb7a9540ae87d9`");
    world.accept(GateCode::RancherAtZero);
    world.request.approved_plan = Some(plan.digest);
    assert_eq!(world.holding(), [GateCode::ApprovalMismatch], "what is accepted is part of what is approved");
    world.request.approved_plan = Some(world.plan().digest);
    assert!(world.holding().is_empty());
}

#[test]
fn a_status_branch_that_takes_no_push_is_waited_for() {
    let gate = status_not_pushed("the remote refused the push (protected branch)");
    assert!(gate.holds() && gate.class == GateClass::Wait);
    assert_snapshot!(format!("{}\n-> {}", gate.message, gate.remedy), @r"
    the status branch does not take the announcement of this run: the remote refused the push (protected branch)
    -> the push is tried again by itself; if it stays so, check the credentials and the rules of the status branch
    ");
}

#[test]
fn a_store_that_takes_no_safety_backup_is_refused_and_not_to_be_accepted() {
    let gate = store_not_writable("bucket `backups` does not let us write: AccessDenied");
    assert!(gate.holds() && gate.class == GateClass::Refuse && !gate.accepted);
    assert_snapshot!(format!("{}\n-> {}", gate.message, gate.remedy), @r"
    the safety backup of this run could not be stored: bucket `backups` does not let us write: AccessDenied
    -> let reinback write where the backup lies (a writable volume with room, or `s3:PutObject`), or do without safety backups: `policy.safetyBackup: false`
    ");
    // Planning writes nothing, and so cannot find it.
    assert!(is_free(&World::quiet()));
}

#[test]
fn gates_come_sorted_and_keep_what_the_author_accepts_already() {
    let world = world(|world| {
        world.rancher().replicas = 0;
        world.rancher().rolling = true;
        world.ledger.as_new.push("Restore other".to_owned());
        world.ledger.same_content_ran_as = Some("x".to_owned());
        world.accept(GateCode::AlreadyRun).accept(GateCode::PruneShare);
    });
    let plan = world.plan();
    let said: Vec<String> = plan.gates.iter().map(|gate| format!("{} {}", gate.code, gate.accepted)).collect();
    assert_snapshot!(said.join("\n"), @r"
    Ambiguous false
    AlreadyRun true
    RancherAtZero false
    RancherUpdating false
    ");
    let at_zero = plan.gates.iter().find(|gate| gate.code == GateCode::RancherAtZero).unwrap();
    assert!(
        at_zero.remedy.contains("`reinback.io/accept: AlreadyRun, RancherAtZero, PruneShare`"),
        "{}",
        at_zero.remedy
    );
}

#[test]
fn names_are_cut_at_five() {
    assert_eq!(listed(1..=5), "1, 2, 3, 4, 5");
    assert_eq!(listed(1..=7), "1, 2, 3, 4, 5 and 2 more");
    assert_eq!(uid_of("x"), "uid of x");
    assert_eq!(key("secrets.#v1/a/b").to_string(), "secrets.#v1/a/b");
}
