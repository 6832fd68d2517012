//! The operator that is to restore: there, free, alone, with what it needs, and harmless.

use super::*;
use crate::object::protect::SecretRef;
use crate::observed::{OperatorDeployment, OperatorFacts};

/// An operator that is well.
fn ready() -> OperatorFacts {
    OperatorFacts {
        served: true,
        deployment: Some(OperatorDeployment { available: true, ..OperatorDeployment::default() }),
        has_default_store: true,
        ..OperatorFacts::default()
    }
}

fn operated(change: impl FnOnce(&mut World)) -> World {
    world(|world| {
        world.request.engine = "operator".to_owned();
        world.cluster.operator = Some(ready());
        change(world);
    })
}

/// Only the operator can read the backup.
fn unread(change: impl FnOnce(&mut World)) -> World {
    operated(|world| {
        world.seen = Some(BackupSeen::Unreadable { reason: "there is no Secret ops/keys".to_owned() });
        world.request.prune = false;
        change(world);
    })
}

fn operator(world: &mut World) -> &mut OperatorFacts {
    world.cluster.operator.get_or_insert_default()
}

fn secret(name: &str) -> SecretRef {
    SecretRef { namespace: "cattle-resources-system".to_owned(), name: name.to_owned() }
}

#[test]
fn an_operator_that_is_well_and_free_holds_nothing() {
    assert!(is_free(&operated(|_| {})));
    assert!(is_free(&unread(|_| {})));
}

#[test]
fn an_operator_that_is_missing_down_or_two_is_refused() {
    let of = |deployment: OperatorDeployment| operated(|world| operator(world).deployment = Some(deployment));
    let available = OperatorDeployment { available: true, ..OperatorDeployment::default() };
    let held = [
        operated(|world| operator(world).served = false),
        operated(|world| operator(world).deployment = None),
        of(OperatorDeployment::default()),
        of(OperatorDeployment { rolling: true, ..available.clone() }),
    ]
    .map(|world| held(&world));
    assert_snapshot!(held.join("\n"), @r"
    OperatorMissing: the cluster does not serve restores.resources.cattle.io: the rancher-backup operator is not installed
    -> install it (charts rancher-backup-crd and rancher-backup), or set `reinback.io/engine: native`
    OperatorMissing: there is no Deployment cattle-resources-system/rancher-backup: the rancher-backup operator does not run
    -> install it, say where it is (`operator.namespace` in the configuration), or set `reinback.io/engine: native`
    OperatorMissing: cattle-resources-system/rancher-backup is not Available: the rancher-backup operator does not run
    -> bring it up (`kubectl -n cattle-resources-system describe deployment rancher-backup`), or set `reinback.io/engine: native`
    OperatorMissing: cattle-resources-system/rancher-backup is being rolled out: operators of two versions would restore at once
    -> wait until the rollout is done, then ask again
    ");
    assert!(
        is_free(&of(OperatorDeployment { stopped_by_us: true, ..OperatorDeployment::default() })),
        "it is started first"
    );
}

#[test]
fn an_operator_that_would_find_no_backup_is_refused() {
    let s3 = json!({"storageLocation": {"s3": {"credentialSecretName": "keys"}}, "encryptionConfigSecretName": "key"});
    let mut nowhere = operated(|world| operator(world).has_default_store = false);
    let mut keyless = unread(|world| {
        world.request.operator_spec = s3.clone();
        operator(world).missing_secrets = vec![secret("keys")];
    });
    let mut closed = unread(|world| {
        world.request.operator_spec = s3.clone();
        operator(world).missing_secrets = vec![secret("key")];
    });
    assert_snapshot!([&nowhere, &keyless, &closed].map(held).join("\n"), @r"
    BackupNotFound: the manifest does not say where the backup lies, and the operator has no default location
    -> add `storageLocation` to the manifest, or give the operator's chart a bucket or a volume
    BackupNotFound: the operator is to read the backup with what is not there: Secret cattle-resources-system/keys
    -> make the Secret with the keys `accessKey` and `secretKey`, or correct `credentialSecretName` and `credentialSecretNamespace`
    DecryptionFailed: the encryption configuration that the manifest names is not there: Secret cattle-resources-system/key
    -> the operator looks for it in its own namespace: make it there, with the configuration that the backup was written with
    ");
    nowhere.request.operator_spec = s3;
    operator(&mut keyless).missing_secrets.clear();
    operator(&mut closed).missing_secrets.clear();
    assert!([&nowhere, &keyless, &closed].into_iter().all(is_free));
}

#[test]
fn a_restore_by_hand_and_a_lease_that_is_held_are_waited_for() {
    let by_hand = operated(|world| world.cluster.restores.push(restore("by-hand", false, false)));
    let of_another_run = operated(|world| {
        let key = Some("0ther".to_owned());
        world.cluster.restores.push(UpstreamRestore { key, ..restore("other-0ther", true, false) });
    });
    let leased = operated(|world| operator(world).holder = Some("gone:1".to_owned()));
    assert_snapshot!([by_hand, of_another_run, leased].map(|world| held(&world)).join("\n"), @r"
    RunInProgress: 1 has not ended: Restore by-hand of the operator
    -> it begins when they have ended; the operator tries a failing Restore for ever, until it is deleted
    RunInProgress: 1 has not ended: Restore other-0ther of the operator
    -> it begins when they have ended; the operator tries a failing Restore for ever, until it is deleted
    RunInProgress: the operator's Lease is held for a Restore that is gone or has ended: gone:1
    -> it begins when the Lease is given back; where the operator is at nothing any more, start it again: `kubectl -n cattle-resources-system rollout restart deployment rancher-backup`
    ");
    let own = operated(|world| {
        let key = Some("5eed".to_owned());
        world.cluster.restores.push(UpstreamRestore { key, ..restore("back-to-monday-5eed", true, false) });
        operator(world).holder = Some("back-to-monday-5eed:1".to_owned());
    });
    assert!(is_free(&own), "one of this run, which was lost, is taken up again");
}

#[test]
fn a_restore_of_the_name_that_ours_will_have_is_refused() {
    let mut taken = operated(|world| world.cluster.restores.push(restore("back-to-monday-5eed", true, true)));
    assert_snapshot!(held(&taken), @r"
    AppliedElsewhere: the cluster has a Restore back-to-monday-5eed already, and it is not of this run
    -> once the operator is done with it, `kubectl delete restores.resources.cattle.io back-to-monday-5eed`
    ");
    taken.request.engine = "native".to_owned();
    assert!(is_free(&taken));
}

#[test]
fn what_is_not_read_is_neither_pruned_nor_pinned_nor_of_this_cluster_without_a_word() {
    let mut prunes = unread(|world| world.request.prune = true);
    assert_snapshot!(held(&prunes), @r"
    PlanIncomplete: what is pruned is not known, since the backup cannot be read: there is no Secret ops/keys
    -> set `prune: false`, or let reinback read the backup; or add to the manifest's annotations: `reinback.io/accept: PlanIncomplete` (lets the operator delete all that the backup's selectors match and the backup does not hold)
    ");
    let pinned = unread(|world| world.request.backup_digest = Some("sha256:00".to_owned()));
    let mut unnamed = unread(|world| {
        world.request.backup_name = "monday.tar.gz".to_owned();
        world.request.prune = true;
    });
    assert_snapshot!([&pinned, &unnamed].map(held).join("\n"), @r"
    DigestMismatch: the manifest pins sha256:00, and the digest of the file is not known: there is no Secret ops/keys
    -> let reinback read the backup, or remove `reinback.io/backup-digest`
    DifferentCluster: the name of the backup does not say that it is of this cluster, whose kube-system has the UID 6e9ee6a6-d4f2-46c2-bd99-75269cf041dc, and the backup cannot be read; prune is off
    -> name a backup of this cluster, as the operator called it; or add to the manifest's annotations: `reinback.io/accept: DifferentCluster` (restores it here, without prune whatever the manifest says)
    ");
    assert!(is_accepted(prunes.accept(GateCode::PlanIncomplete), GateCode::PlanIncomplete));
    assert!(prunes.plan().handover.is_some_and(|handover| handover.prune));
    assert!(is_accepted(unnamed.accept(GateCode::DifferentCluster), GateCode::DifferentCluster));
    assert!(unnamed.plan().handover.is_some_and(|handover| !handover.prune));
}

#[test]
fn what_nothing_may_overwrite_is_not_handed_to_who_overwrites_all() {
    let set = "resourcesets.resources.cattle.io#v1/set";
    let mut overwritten = operated(|world| {
        world.serve("resourcesets.resources.cattle.io#v1", true, false);
        world.backed_up(set, json!({"resourceSelectors": [1]})).live(set, json!({"resourceSelectors": [2]}));
    });
    assert_snapshot!(held(&overwritten), @r"
    NotSupported: the operator would overwrite 1 object that nothing may: resourcesets.resources.cattle.io#v1/set (belongs to the rancher-backup operator)
    -> set `reinback.io/engine: native`, or name a backup of a ResourceSet that does not hold them
    ");
    overwritten.request.engine = "native".to_owned();
    assert!(is_free(&overwritten));
    let equal = operated(|world| {
        world.serve("resourcesets.resources.cattle.io#v1", true, false);
        world.both(set, json!({"resourceSelectors": [1]}));
    });
    assert!(is_free(&equal), "writing what is there changes nothing");
    let owned = operated(|world| {
        world.serve("globalroles.management.cattle.io#v3", true, false);
        let owner = "globalroles.management.cattle.io#v3/g";
        let of = json!({"kind": "ClusterRole", "metadata": {"ownerReferences": [{
            "apiVersion": "management.cattle.io/v3", "kind": "GlobalRole", "name": "g", "uid": crate::plan::testing::uid_of(owner),
        }]}});
        world.both(owner, json!({"kind": "GlobalRole"}));
        world.both("clusterroles.rbac.authorization.k8s.io#v1/system:x", of);
    });
    assert_eq!(owned.holding(), [GateCode::NotSupported], "it would take the owner away");
}

#[test]
fn what_the_operator_would_try_for_ever_is_not_handed_to_it() {
    let binding = "rolebindings.rbac.authorization.k8s.io#v1/cattle-system/b";
    let role = |name: &str| json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}});
    let mut stuck = operated(|world| {
        world.backed_up(binding, role("a")).live(binding, role("b"));
        world.accept(GateCode::Recreates);
    });
    assert_snapshot!(held(&stuck), @r"
    NotSupported: the operator cannot write 1 object, and would try for ever: rolebindings.rbac.authorization.k8s.io#v1/cattle-system/b (a field that never changes differs)
    -> set `reinback.io/engine: native`, or `ignoreErrors: true` together with `policy.repair`
    ");
    stuck.request.operator_spec = json!({"ignoreErrors": true});
    assert!(is_accepted(&stuck, GateCode::Recreates));
}
