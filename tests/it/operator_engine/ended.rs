//! An operator that does not come to an end, and how the run ends all the same.

use anyhow::ensure;
use serde_json::json;

use super::{NAMESPACE, Operated, PATIENCE, assert_held_at_zero, end, outcome};
use crate::harness::eventually;
use crate::process::{Process, assert_rancher_is_back, message, until_ended, until_run};
use crate::stand_in::{Phase, Then};

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_fails_for_ever_fails_the_run_after_five_times_the_same() {
    let operated = Operated::start().await;
    let Operated { world, .. } = &operated;
    let why = "error restoring namespaced resources, check logs for exact error";
    operated.script().fail(Phase::Namespaced, why, None);
    operated.merge("held", &[], "  prune: false\n");
    let (said, run) = operated.once("held").await;
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    assert_eq!(end(&run), outcome("Failed", "OperatorFailed"), "{}", run["status"]);
    assert!(message(&run).contains("namespaced resources"), "{}", message(&run));
    operated.no_restore().await;
    assert_held_at_zero(world).await;
    assert_eq!(operated.operator_replicas().await, (1, json!(null)));

    let resume = [("on-failure", "Resume"), ("requested-at", "2026-11-23T10:00:00Z")];
    operated.merge("resumed", &resume, "  prune: false\n");
    let (said, run) = operated.once("resumed").await;
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    assert_eq!(end(&run), outcome("Failed", "OperatorFailed"), "{}", run["status"]);
    operated.no_restore().await;
    assert_rancher_is_back(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_fails_twice_and_then_not_is_waited_for() {
    let operated = Operated::start().await;
    operated.script().fail(Phase::ClusterScoped, "no", Some(2));
    operated.merge("late", &[], "  prune: false\n");
    let (said, run) = operated.once("late").await;
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert_eq!(end(&run), outcome("Succeeded", "Succeeded"), "{}", run["status"]);
    assert_rancher_is_back(&operated.world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_hangs_is_stopped_when_time_is_up_and_writes_nothing_after_rancher_is_back() {
    let operated = Operated::start().await;
    let Operated { world, .. } = &operated;
    operated.script().hang(Phase::ScaleUp);
    operated.merge("hangs", &[("timeout", "1m"), ("on-failure", "Resume")], "  prune: false\n");
    world.step_aside();
    let (said, run) = operated.once("hangs").await;
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    assert_eq!(end(&run), outcome("Failed", "Timeout"), "{}", run["status"]);
    operated.no_restore().await;
    operated.script().clear();
    assert_rancher_is_back(world).await;
    super::available(world);
    assert_eq!(operated.operator_replicas().await, (1, json!(null)));
}

/// A try does not hear of the deletion of its Restore, and ends with the 0 that it remembers.
#[tokio::test(flavor = "multi_thread")]
async fn a_zero_that_the_operator_writes_after_its_restore_was_deleted_does_not_stay() {
    let operated = Operated::start().await;
    let Operated { world, .. } = &operated;
    let gate = operated.script().hold(Phase::ScaleUp);
    operated.merge("late-zero", &[("timeout", "1m"), ("on-failure", "Resume")], "  prune: false\n");
    let _agent = Process::start(world, &[]);
    gate.reached().await;
    world.step_aside();
    eventually(PATIENCE, || async {
        ensure!(operated.restores().await?.is_empty(), "the Restore is not deleted yet");
        Ok(())
    })
    .await;
    gate.open();
    let run = until_ended(world, "late-zero").await;
    assert_eq!(end(&run), outcome("Failed", "Timeout"), "{}", run["status"]);
    assert_rancher_is_back(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_a_person_deletes_half_way_ends_the_run() {
    let operated = Operated::start().await;
    let Operated { world, .. } = &operated;
    let gate = operated.script().hold(Phase::Namespaced);
    operated.merge("deleted", &[("on-failure", "Resume")], "  prune: false\n");
    let _agent = Process::start(world, &[]);
    gate.reached().await;
    world.cluster.kubectl(&["delete", "restores.resources.cattle.io", "--all"], "").expect("it goes");
    until_run(world, "deleted", "sees that", |run| run["status"].to_string().contains("RestoreDeleted")).await;
    gate.open();
    let run = until_ended(world, "deleted").await;
    assert_eq!(end(&run), outcome("Failed", "RestoreDeleted"), "{}", run["status"]);
    assert_rancher_is_back(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_dies_for_good_is_not_waited_for_for_ever() {
    let operated = Operated::start().await;
    let Operated { world, .. } = &operated;
    operated.script().die(Phase::ClusterScoped, Then::Never);
    operated.merge("dead", &[("timeout", "1m"), ("on-failure", "Resume")], "  prune: false\n");
    world.step_aside();
    let (said, run) = operated.once("dead").await;
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    assert_eq!(end(&run), outcome("Failed", "Timeout"), "{}", run["status"]);
    operated.no_restore().await;
    assert_rancher_is_back(world).await;
    // Its Lease stays behind, and holds the next one until the operator is started again.
    operated.merge("next", &[], "  prune: false\n");
    let (said, run) = operated.once("next").await;
    if said.code == Some(3) {
        assert_eq!(super::holding(&run), ["RunInProgress"], "{}", run["status"]);
        let restart = ["rollout", "restart", "-n", NAMESPACE, "deployment/rancher-backup"];
        world.cluster.kubectl(&restart, "").expect("it is started again");
        let status = ["rollout", "status", "-n", NAMESPACE, "deployment/rancher-backup", "--timeout=120s"];
        world.cluster.kubectl(&status, "").expect("it is started again");
        eventually(PATIENCE, || async {
            let (said, run) = operated.once("next").await;
            ensure!(end(&run) == outcome("Succeeded", "Succeeded"), "{}: {}", said.stderr, run["status"]);
            Ok(())
        })
        .await;
    }
    assert_rancher_is_back(world).await;
}
