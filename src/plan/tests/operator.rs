//! What is different where the operator writes the objects.

use super::*;
use crate::observed::{OperatorDeployment, OperatorFacts};

fn operated() -> World {
    let mut world = World::quiet();
    world.request.engine = "operator".to_owned();
    world.cluster.operator = Some(OperatorFacts {
        served: true,
        deployment: Some(OperatorDeployment { available: true, ..OperatorDeployment::default() }),
        has_default_store: true,
        ..OperatorFacts::default()
    });
    world
}

fn unread(world: &mut World) {
    world.seen = Some(BackupSeen::Unreadable { reason: "there is no Secret ops/keys".to_owned() });
}

fn handover(world: &World) -> Handover {
    world.plan().handover.expect("it is handed over")
}

#[test]
fn auto_is_native_where_we_can_read_the_backup_and_the_operator_where_we_cannot() {
    let engine = |engine: &str, is_unread: bool| {
        let mut world = operated();
        world.request.engine = engine.to_owned();
        if is_unread {
            unread(&mut world);
        }
        world.plan().engine
    };
    let all = ["auto", "native", "operator"].map(|word| (engine(word, false), engine(word, true)));
    assert_eq!(all, [("native", "operator"), ("native", "native"), ("operator", "operator")]);
}

#[test]
fn the_operator_stays_up_where_it_does_the_work_and_nowhere_else() {
    let mut world = operated();
    world.cluster.workloads.push(workload("cattle-resources-system", "rancher-backup"));
    let names = |world: &World| -> Vec<String> {
        world.plan().quiesce.iter().map(|workload| workload.reference.name.clone()).collect()
    };
    assert_eq!(names(&world), ["rancher"]);
    world.request.engine = "native".to_owned();
    assert_eq!(names(&world), ["rancher", "rancher-backup"]);
    world.request.engine = "operator".to_owned();
    unread(&mut world);
    assert_eq!(names(&world), ["rancher"]);
}

#[test]
fn we_prune_where_the_operator_would_delete_what_is_protected() {
    let mut world = operated();
    world.live("secrets.#v1/cattle-system/later", json!({}));
    let plain = handover(&world);
    assert_eq!((plain.prune, plain.native_prune), (true, false));
    world.live("secrets.#v1/cattle-system/sh.helm.release.v1.rancher.v2", json!({"type": "helm.sh/release.v1"}));
    let guarded = handover(&world);
    assert_eq!((guarded.prune, guarded.native_prune), (false, true));
    assert!(world.plan().warnings.iter().any(|warning| warning.contains("sh.helm.release.v1.rancher.v2")));
    world.request.prune = false;
    let off = handover(&world);
    assert_eq!((off.prune, off.native_prune), (false, false));
    let mut filters = operated();
    filters.both("configmaps.#v1/cattle-system/my-filters", json!({}));
    assert!(handover(&filters).native_prune, "the operator does not know that it is in the backup");
}

#[test]
fn the_steps_are_those_that_there_is_work_for() {
    let steps = |repair, native_prune, prunes| {
        let handover = Handover { repair, native_prune, ..Handover::default() };
        handover.steps(prunes).iter().map(|step| step.as_str()).collect::<Vec<_>>().join(" ")
    };
    insta::assert_snapshot!([
        steps(false, false, true),
        steps(false, true, true),
        steps(true, false, false),
        steps(true, false, true),
    ].join("\n"), @"
    preflight announce quiesce safety-backup operator resume verify
    preflight announce quiesce safety-backup operator prune resume verify
    preflight announce quiesce safety-backup operator crds cluster-scoped namespaced resume verify
    preflight announce quiesce safety-backup operator crds cluster-scoped namespaced prune resume verify
    ");
    assert_eq!(World::quiet().plan().own_steps(), None, "a native run names none");
}

#[test]
fn what_is_not_known_is_not_nothing_and_the_digest_tells_it_apart() {
    let mut world = operated();
    assert!(world.plan().is_empty());
    let read = world.plan().digest;
    unread(&mut world);
    let plan = world.plan();
    assert!(!plan.is_empty() && !plan.touches_nothing());
    assert_ne!(plan.digest, read);
    world.request.engine = "native".to_owned();
    assert_ne!(world.plan().digest, plan.digest);
    world.request.engine = "operator".to_owned();
    world.request.approval_required = true;
    assert!(world.holding().contains(&GateCode::ApprovalMissing), "it can be approved all the same");
}

#[test]
fn objects_that_the_native_engine_leaves_and_that_come_right_by_themselves_are_told() {
    let mut world = operated();
    world.cluster.operator.as_mut().expect("there").scheduled = vec!["nightly".to_owned()];
    let ca = "configmaps.#v1/cattle-system/kube-root-ca.crt";
    world.backed_up(ca, json!({"data": {"ca.crt": "old"}})).live(ca, json!({"data": {"ca.crt": "new"}}));
    insta::assert_snapshot!(world.plan().warnings.join("\n"), @r"
    the operator writes 1 objects that the native engine leaves: is the CA of this cluster, which Kubernetes writes into every namespace
    the operator stays up, and may back up what is half restored by its schedule: Backup nightly
    ");
}

#[test]
fn the_rights_are_those_of_who_writes() {
    let mut world = operated();
    world.backed_up("users.management.cattle.io#v3/u-new", json!({}));
    let rights = |world: &World| {
        let observed = world.observed();
        accesses(&outline(&world.request, &observed), &observed)
    };
    let has = |world: &World, verb: &str, resource: &str| {
        rights(world).iter().any(|right| right.verb == verb && right.resource == resource)
    };
    assert!(has(&world, "create", "restores") && has(&world, "get", "pods/log") && !has(&world, "create", "users"));
    world.request.repair = true;
    assert!(has(&world, "create", "restores") && has(&world, "create", "users"));
    world.request.engine = "native".to_owned();
    assert!(!has(&world, "create", "restores") && has(&world, "create", "users"));
    world.request.engine = "operator".to_owned();
    unread(&mut world);
    assert!(
        has(&world, "create", "restores") && has(&world, "patch", "deployments") && !has(&world, "create", "users")
    );
}
