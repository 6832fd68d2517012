use insta::assert_snapshot;
use serde_json::json;

use super::*;
use crate::observed::BackupSeen;
use crate::plan::gate::GateCode;
use crate::plan::testing::{World, owner, workload};

/// A bit of everything.
fn world() -> World {
    let mut world = World::quiet();
    let user = "users.management.cattle.io#v3";
    world.both(&format!("{user}/u-equal"), json!({ "enabled": true }));
    world.backed_up(&format!("{user}/u-new"), json!({}));
    world.backed_up(&format!("{user}/u-changed"), json!({ "enabled": true }));
    world.live(&format!("{user}/u-changed"), json!({ "enabled": false }));
    world.live("secrets.#v1/cattle-system/later", json!({}));
    world.live("namespaces.#v1/p-later", json!({})).dependent("configmaps.#v1/p-later/notes", &[]);
    world.live("secrets.#v1/cattle-system/sh.helm.release.v1.rancher.v1", json!({ "type": "helm.sh/release.v1" }));
    world.both("clusterroles.rbac.authorization.k8s.io#v1/system:x", json!({}));
    world.backed_up("foos.example.org#v1/a", json!({}));
    let owners = json!({ "metadata": { "ownerReferences": [owner("users.management.cattle.io#v3/u-gone", "x")] } });
    world.backed_up("secrets.#v1/cattle-system/owned", owners);
    world.cluster.workloads.push(workload("cattle-fleet-system", "fleet-controller"));
    let mut webhook = workload("cattle-system", "rancher-webhook");
    webhook.answers = vec![crate::plan::testing::service("cattle-system/rancher-webhook")];
    world.cluster.workloads.push(webhook);
    world.accept(GateCode::ResourceNotServed);
    world
}

#[test]
fn a_person_reads_what_would_happen() {
    let world = world();
    assert_snapshot!(text(&world.plan(), &world.observed(), Verbosity::Summary), @r"
    Restore back-to-monday: 2 to create, 1 to update, 2 to delete, and 1 with them; held by 2 gates

      backup       daily-6e9ee6a6-d4f2-46c2-bd99-75269cf041dc-2026-11-22T09-00-00Z.tar.gz (7.0 MiB)
      sha256       sha256:1111111111111111111111111111111111111111111111111111111111111111
      taken        2026-11-22T09:00:00Z, 24 hours old
      Rancher      v2.9.3
      cluster      this cluster (6e9ee6a6-d4f2-46c2-bd99-75269cf041dc)
      server-url   https://rancher.example.org
      install-uuid unknown here -> b3c0a1f2 in the backup
      engine       native; prune on

    held by
      OwnerMissing (can be accepted)
        1 reference leads to an owner that is neither in the backup nor in the cluster: secrets.#v1/cattle-system/owned (owner User u-gone)
        -> name a backup that has the owners; or add to the manifest's annotations: `reinback.io/accept: ResourceNotServed, OwnerMissing` (drops the dead references, so that these objects outlive what made them)
      PruneDeletesNamespaces (can be accepted)
        prune would delete 1 namespace with objects that no backup of this kind holds: p-later (1 object)
        -> set `prune: false`, or move what is in them; or add to the manifest's annotations: `reinback.io/accept: ResourceNotServed, PruneDeletesNamespaces` (deletes these namespaces with all that is in them)

    accepted by the manifest
      ResourceNotServed
        the cluster does not serve the types of 1 object of the backup: foos.example.org v1 (1)

                                              create  update  delete  equal  protected  not served
      clusterroles.rbac.authorization.k8s.io       .       .       .      .          1           .
      configmaps                                   .       .       1      .          .           .
      foos.example.org                             .       .       .      .          .           1
      namespaces                                   .       .       1      .          .           .
      secrets                                      1       .       1      .          1           .
      users.management.cattle.io                   1       1       .      1          .           .
      all                                          2       1       3      1          2           1

    deletes
      secrets.#v1/cattle-system/later
      namespaces.#v1/p-later
        with it configmaps.#v1/p-later/notes

    left as they are
      1: is Helm's record of a release
      1: is RBAC of Kubernetes itself

    scales to 0 first
      deployments/cattle-system/rancher (3 replicas)
      deployments/cattle-fleet-system/fleet-controller (3 replicas)

    stays up, for it answers webhooks
      deployments/cattle-system/rancher-webhook

    mind
      secrets.#v1/cattle-system/owned: its owner User u-gone is nowhere

    plan sha256:5bc404a075adb173bacc71be5be017e66f3756e5004d35a47fc4d0c852a89ee4
    ");
}

#[test]
fn every_object_is_named_when_asked() {
    let world = world();
    let text = text(&world.plan(), &world.observed(), Verbosity::Objects);
    assert_snapshot!(text.split_once("objects, in").unwrap().1, @r"
     the order of writing
      users.management.cattle.io#v3/u-equal  equal
      users.management.cattle.io#v3/u-new  create
      users.management.cattle.io#v3/u-changed  update: spec
      clusterroles.rbac.authorization.k8s.io#v1/system:x  protected: is RBAC of Kubernetes itself
      foos.example.org#v1/a  not served
      secrets.#v1/cattle-system/owned  create

    plan sha256:5bc404a075adb173bacc71be5be017e66f3756e5004d35a47fc4d0c852a89ee4
    ");
}

#[test]
fn an_empty_plan_says_so() {
    let mut world = World::quiet();
    world.both("users.management.cattle.io#v3/u-equal", json!({}));
    assert_snapshot!(text(&world.plan(), &world.observed(), Verbosity::Summary), @r"
    Restore back-to-monday: nothing to do: the cluster has what the backup has

      backup       daily-6e9ee6a6-d4f2-46c2-bd99-75269cf041dc-2026-11-22T09-00-00Z.tar.gz (7.0 MiB)
      sha256       sha256:1111111111111111111111111111111111111111111111111111111111111111
      taken        2026-11-22T09:00:00Z, 24 hours old
      Rancher      v2.9.3
      cluster      this cluster (6e9ee6a6-d4f2-46c2-bd99-75269cf041dc)
      server-url   https://rancher.example.org
      install-uuid unknown here -> b3c0a1f2 in the backup
      engine       native; prune on

                                  equal
      users.management.cattle.io      1

    scales to 0 first
      deployments/cattle-system/rancher (3 replicas)

    plan sha256:4582e1a2a99a5cf2cd62defb2d28332afdce0a2184f174ec7aeb7a9540ae87d9
    ");
}

#[test]
fn a_plan_without_a_backup_shows_its_gate() {
    let mut world = World::quiet();
    world.seen = Some(BackupSeen::Missing { place: "/var/lib/backups".to_owned() });
    let plan = world.plan();
    assert_snapshot!(text(&plan, &world.observed(), Verbosity::Summary), @r"
    Restore back-to-monday: nothing can be planned without a whole backup; held by 1 gate

      engine       native; prune off

    held by
      BackupNotFound (refused)
        there is no backup `daily-6e9ee6a6-d4f2-46c2-bd99-75269cf041dc-2026-11-22T09-00-00Z.tar.gz` in /var/lib/backups
        -> put the file there, or correct `backupFilename` or `storageLocation` in the manifest

    plan sha256:731c4d71899dc5ef8eae8043bac04e2db1d7ae0c0cd8e57dd40e1dc95261b4ca
    ");
    assert_eq!(json(&plan, &world.observed(), Verbosity::Summary)["backup"], json!(null));
}

#[test]
fn another_cluster_and_version_stand_in_the_header() {
    let mut world = World::quiet();
    world.cluster.uid = "0000".to_owned();
    world.cluster.server_url = None;
    world.rancher().image = Some("rancher/rancher:v2.10.0".to_owned());
    world.rancher().replicas = 0;
    world.rancher().recorded = Some(3);
    world.backup.facts.install_uuid = None;
    let text = text(&world.plan(), &world.observed(), Verbosity::Summary);
    assert_snapshot!(text.split_once("\nheld by").unwrap().0, @r"
    Restore back-to-monday: nothing to do: the cluster has what the backup has; held by 3 gates

      backup       daily-6e9ee6a6-d4f2-46c2-bd99-75269cf041dc-2026-11-22T09-00-00Z.tar.gz (7.0 MiB)
      sha256       sha256:1111111111111111111111111111111111111111111111111111111111111111
      taken        2026-11-22T09:00:00Z, 24 hours old
      Rancher      v2.10.0 here -> v2.9.3 in the backup
      cluster      ANOTHER cluster (6e9ee6a6-d4f2-46c2-bd99-75269cf041dc)
      server-url   unknown here -> https://rancher.example.org in the backup
      install-uuid not in the backup
      engine       native; prune off
    ");
}

#[test]
fn a_page_for_the_pull_request() {
    let world = world();
    assert_snapshot!(markdown(&world.plan(), &world.observed(), Verbosity::Objects), @r"
    ### Restore back-to-monday

    2 to create, 1 to update, 2 to delete, and 1 with them; held by 2 gates

    | | |
    |---|---|
    | backup | `daily-6e9ee6a6-d4f2-46c2-bd99-75269cf041dc-2026-11-22T09-00-00Z.tar.gz (7.0 MiB)` |
    | sha256 | `sha256:1111111111111111111111111111111111111111111111111111111111111111` |
    | taken | `2026-11-22T09:00:00Z, 24 hours old` |
    | Rancher | `v2.9.3` |
    | cluster | `this cluster (6e9ee6a6-d4f2-46c2-bd99-75269cf041dc)` |
    | server-url | `https://rancher.example.org` |
    | install-uuid | `unknown here -> b3c0a1f2 in the backup` |
    | engine | `native; prune on` |

    #### Held by

    - **OwnerMissing** (can be accepted): 1 reference leads to an owner that is neither in the backup nor in the cluster: secrets.\#v1/cattle-system/owned (owner User u-gone)
      - name a backup that has the owners; or add to the manifest's annotations: `reinback.io/accept: ResourceNotServed, OwnerMissing` (drops the dead references, so that these objects outlive what made them)
    - **PruneDeletesNamespaces** (can be accepted): prune would delete 1 namespace with objects that no backup of this kind holds: p-later (1 object)
      - set `prune: false`, or move what is in them; or add to the manifest's annotations: `reinback.io/accept: ResourceNotServed, PruneDeletesNamespaces` (deletes these namespaces with all that is in them)

    #### Accepted by the manifest

    - **ResourceNotServed**: the cluster does not serve the types of 1 object of the backup: foos.example.org v1 (1)

    | type | create | update | recreate | delete | equal | protected | not served |
    |---|--:|--:|--:|--:|--:|--:|--:|
    | clusterroles.rbac.authorization.k8s.io |  |  |  |  |  | 1 |  |
    | configmaps |  |  |  | 1 |  |  |  |
    | foos.example.org |  |  |  |  |  |  | 1 |
    | namespaces |  |  |  | 1 |  |  |  |
    | secrets | 1 |  |  | 1 |  | 1 |  |
    | users.management.cattle.io | 1 | 1 |  |  | 1 |  |  |
    | all | 2 | 1 |  | 3 | 1 | 2 | 1 |

    #### Deletes

    - `secrets.#v1/cattle-system/later`
    - `namespaces.#v1/p-later`
    - with it `configmaps.#v1/p-later/notes`

    #### Left as they are

    - 1: is Helm's record of a release
    - 1: is RBAC of Kubernetes itself

    #### Scales to 0 first

    - `deployments/cattle-system/rancher (3 replicas)`
    - `deployments/cattle-fleet-system/fleet-controller (3 replicas)`

    #### Stays up, for it answers webhooks

    - `deployments/cattle-system/rancher-webhook`

    #### Mind

    - secrets.\#v1/cattle-system/owned: its owner User u-gone is nowhere

    <details><summary>6 objects, in the order of writing</summary>

    - `users.management.cattle.io#v3/u-equal` equal
    - `users.management.cattle.io#v3/u-new` create
    - `users.management.cattle.io#v3/u-changed` update: spec
    - `clusterroles.rbac.authorization.k8s.io#v1/system:x` protected: is RBAC of Kubernetes itself
    - `foos.example.org#v1/a` not served
    - `secrets.#v1/cattle-system/owned` create

    </details>

    Plan `sha256:5bc404a075adb173bacc71be5be017e66f3756e5004d35a47fc4d0c852a89ee4`
    ");
}

#[test]
fn long_lists_of_deletions_are_cut_in_text_and_whole_in_json() {
    let mut world = World::quiet();
    for number in 0..300 {
        world.live(&format!("configmaps.#v1/cattle-system/m-{number}"), json!({}));
    }
    let plan = world.plan();
    let text = text(&plan, &world.observed(), Verbosity::Summary);
    assert!(text.contains("… and 100 more, 300 in all"), "{text}");
    let json = json(&plan, &world.observed(), Verbosity::Summary);
    assert_eq!(json["deletions"].as_array().unwrap().len(), 300);
}

#[test]
fn machines_get_a_stable_shape() {
    let world = world();
    let mut json = json(&world.plan(), &world.observed(), Verbosity::Summary);
    json["gates"] = json!(json["gates"].as_array().unwrap().len());
    json["digest"] = json!("sha256:…");
    assert_snapshot!(serde_json::to_string_pretty(&json).unwrap(), @r#"
    {
      "at": "2026-11-23T09:00:00Z",
      "backup": {
        "clusterUid": "6e9ee6a6-d4f2-46c2-bd99-75269cf041dc",
        "name": "daily-6e9ee6a6-d4f2-46c2-bd99-75269cf041dc-2026-11-22T09-00-00Z.tar.gz",
        "rancherVersion": "v2.9.3",
        "sameCluster": true,
        "sha256": "sha256:1111111111111111111111111111111111111111111111111111111111111111",
        "sizeBytes": 7340032,
        "takenAt": "2026-11-22T09:00:00Z"
      },
      "cluster": {
        "rancherVersion": "v2.9.3",
        "uid": "6e9ee6a6-d4f2-46c2-bd99-75269cf041dc"
      },
      "counts": {
        "created": 2,
        "deleted": 2,
        "failed": 0,
        "protected": 2,
        "recreated": 0,
        "skipped": 1,
        "updated": 1
      },
      "cycles": [],
      "deletions": [
        {
          "object": "secrets.#v1/cattle-system/later",
          "takesAlong": [],
          "wave": "namespaced"
        },
        {
          "object": "namespaces.#v1/p-later",
          "takesAlong": [
            "configmaps.#v1/p-later/notes"
          ],
          "wave": "namespaces"
        }
      ],
      "digest": "sha256:…",
      "empty": false,
      "engine": "native",
      "gates": 3,
      "held": true,
      "manifest": {
        "key": "5eed",
        "kind": "Restore",
        "name": "back-to-monday"
      },
      "missingOwners": [
        {
          "object": "secrets.#v1/cattle-system/owned",
          "owner": "User u-gone"
        }
      ],
      "objects": [
        {
          "change": "create",
          "object": "users.management.cattle.io#v3/u-new",
          "why": []
        },
        {
          "change": "update",
          "object": "users.management.cattle.io#v3/u-changed",
          "why": [
            "spec"
          ]
        },
        {
          "change": "protected",
          "object": "clusterroles.rbac.authorization.k8s.io#v1/system:x",
          "why": [
            "is RBAC of Kubernetes itself"
          ]
        },
        {
          "change": "notServed",
          "object": "foos.example.org#v1/a",
          "why": []
        },
        {
          "change": "create",
          "object": "secrets.#v1/cattle-system/owned",
          "why": []
        }
      ],
      "operator": null,
      "prunes": true,
      "quiesce": [
        {
          "recorded": null,
          "replicas": 3,
          "workload": "deployments/cattle-system/rancher"
        },
        {
          "recorded": null,
          "replicas": 3,
          "workload": "deployments/cattle-fleet-system/fleet-controller"
        }
      ],
      "refused": [],
      "resources": [
        {
          "create": 0,
          "delete": 0,
          "equal": 0,
          "notServed": 0,
          "protected": 1,
          "recreate": 0,
          "resource": "clusterroles.rbac.authorization.k8s.io",
          "update": 0
        },
        {
          "create": 0,
          "delete": 1,
          "equal": 0,
          "notServed": 0,
          "protected": 0,
          "recreate": 0,
          "resource": "configmaps",
          "update": 0
        },
        {
          "create": 0,
          "delete": 0,
          "equal": 0,
          "notServed": 1,
          "protected": 0,
          "recreate": 0,
          "resource": "foos.example.org",
          "update": 0
        },
        {
          "create": 0,
          "delete": 1,
          "equal": 0,
          "notServed": 0,
          "protected": 0,
          "recreate": 0,
          "resource": "namespaces",
          "update": 0
        },
        {
          "create": 1,
          "delete": 1,
          "equal": 0,
          "notServed": 0,
          "protected": 1,
          "recreate": 0,
          "resource": "secrets",
          "update": 0
        },
        {
          "create": 1,
          "delete": 0,
          "equal": 1,
          "notServed": 0,
          "protected": 0,
          "recreate": 0,
          "resource": "users.management.cattle.io",
          "update": 1
        },
        {
          "create": 2,
          "delete": 3,
          "equal": 1,
          "notServed": 1,
          "protected": 2,
          "recreate": 0,
          "resource": "all",
          "update": 1
        }
      ],
      "silences": [],
      "spared": [
        {
          "object": "secrets.#v1/cattle-system/sh.helm.release.v1.rancher.v1",
          "reason": "is Helm's record of a release"
        }
      ],
      "staysUp": [
        "deployments/cattle-system/rancher-webhook"
      ],
      "version": null,
      "warnings": []
    }
    "#);
}

#[test]
fn what_others_wrote_draws_nothing() {
    let mut world = World::quiet();
    world.backup.facts.rancher_version = Some("\u{1b}[31mv1`|<img src=x>\n# big".to_owned());
    let plan = world.plan();
    let terminal = text(&plan, &world.observed(), Verbosity::Summary);
    assert!(!terminal.contains('\u{1b}') && !terminal.contains("\n# big"), "{terminal}");
    let page = markdown(&plan, &world.observed(), Verbosity::Summary);
    assert!(!page.contains("\n# big"), "{page}");
}

#[test]
fn sizes_and_ages_are_round() {
    let said: Vec<String> = [0, 1023, 1024, 7_340_032, 1 << 40, u64::MAX].map(size).into();
    assert_snapshot!(said.join(", "), @"0 B, 1023 B, 1.0 KiB, 7.0 MiB, 1.0 TiB, 16777215.9 TiB");
    let now: Timestamp = "2026-11-23T09:00:00Z".parse().unwrap();
    let ago = |taken: &str| age(taken.parse().unwrap(), now);
    let said = [
        "2026-11-23T10:00:00Z",
        "2026-11-23T08:59:30Z",
        "2026-11-23T07:01:00Z",
        "2026-11-23T05:00:00Z",
        "2026-11-22T09:00:00Z",
        "2026-11-01T00:00:00Z",
    ];
    assert_snapshot!(said.map(ago).join(", "), @"later than now, 0 minutes old, 119 minutes old, 4 hours old, 24 hours old, 22 days old");
}

#[test]
fn where_the_operator_writes_the_plan_says_what_it_is_handed_and_what_is_not_known() {
    let mut world = World::quiet();
    world.request.engine = "operator".to_owned();
    world.live("secrets.#v1/cattle-system/later", json!({}));
    let read = text(&world.plan(), &world.observed(), Verbosity::Summary);
    assert_snapshot!(read, @"
    Restore back-to-monday: 1 to delete

      backup       daily-6e9ee6a6-d4f2-46c2-bd99-75269cf041dc-2026-11-22T09-00-00Z.tar.gz (7.0 MiB)
      sha256       sha256:1111111111111111111111111111111111111111111111111111111111111111
      taken        2026-11-22T09:00:00Z, 24 hours old
      Rancher      v2.9.3
      cluster      this cluster (6e9ee6a6-d4f2-46c2-bd99-75269cf041dc)
      server-url   https://rancher.example.org
      install-uuid unknown here -> b3c0a1f2 in the backup
      engine       operator; prune on
      hands over   Restore back-to-monday-5eed, prune true

               delete
      secrets       1

    deletes
      secrets.#v1/cattle-system/later

    scales to 0 first
      deployments/cattle-system/rancher (3 replicas)

    plan sha256:052e4b02bb8c065c00f985a05671ee1dde2648861a0a6b9fff90956a4491d635
    ");
    world.seen = Some(BackupSeen::Unreadable { reason: "there is no Secret ops/`keys`".to_owned() });
    world.request.engine = "auto".to_owned();
    let (plan, observed) = (world.plan(), world.observed());
    assert_snapshot!(text(&plan, &observed, Verbosity::Summary), @"
    Restore back-to-monday: the operator restores it; what that changes is not known; held by 1 gate

      backup       daily-6e9ee6a6-d4f2-46c2-bd99-75269cf041dc-2026-11-22T09-00-00Z.tar.gz (not read)
      why          there is no Secret ops/`keys`
      Rancher      v2.9.3 here; in the backup unknown
      cluster      this cluster, by its name
      engine       operator; prune on
      hands over   Restore back-to-monday-5eed, prune true

    held by
      PlanIncomplete (can be accepted)
        what is pruned is not known, since the backup cannot be read: there is no Secret ops/`keys`
        -> set `prune: false`, or let reinback read the backup; or add to the manifest's annotations: `reinback.io/accept: PlanIncomplete` (lets the operator delete all that the backup's selectors match and the backup does not hold)

    scales to 0 first
      deployments/cattle-system/rancher (3 replicas)

    mind
      the backup is not read: what is made, changed and deleted, whether it is whole, of which Rancher it is, and whether protected objects are overwritten is not known; afterwards nothing is compared

    plan sha256:2760438dc7f08f3a524750e18383382a6c1f4707df4518d3d41bc27a9cca8eff
    ");
    assert!(markdown(&plan, &observed, Verbosity::Summary).contains("not known"));
    assert_snapshot!(json(&plan, &observed, Verbosity::Summary)["operator"], @r#"{"nativePrune":false,"overwrites":[],"prune":true,"repair":false,"restore":"back-to-monday-5eed","stuck":[],"unreadable":"there is no Secret ops/`keys`"}"#);
}
