//! The operator, or reinback, ends in the middle, and another goes on.

use std::time::Duration;

use anyhow::ensure;
use serde_json::json;

use super::{NAMESPACE, Operated, PATIENCE, end, outcome, warnings};
use crate::harness::eventually;
use crate::process::{Process, assert_rancher_is_back, forget_holder, has, until_ended, until_run};
use crate::stand_in::{Phase, Then};

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_dies_and_comes_back_forgets_what_rancher_had_and_reinback_does_not() {
    let operated = Operated::start().await;
    let Operated { world, .. } = &operated;
    for phase in [Phase::Definitions, Phase::Namespaced, Phase::ScaleUp, Phase::Report] {
        operated.script().die(phase, Then::Restarts(Duration::from_secs(2)));
    }
    operated.merge("restarted", &[], "  prune: false\n");
    let (said, run) = operated.once("restarted").await;
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert_eq!(end(&run), outcome("Succeeded", "Succeeded"), "{}", run["status"]);
    assert_rancher_is_back(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_is_upgraded_half_way_runs_twice_and_the_run_ends_well() {
    let operated = Operated::start().await;
    let Operated { world, .. } = &operated;
    let gate = operated.script().hold(Phase::Namespaced);
    operated.merge("upgraded", &[], "  prune: false\n");
    let _agent = Process::start(world, &[]);
    gate.reached().await;
    let image = "rancher-backup=rancher/backup-restore-operator:v11.0.3";
    world
        .cluster
        .kubectl(&["set", "image", "-n", NAMESPACE, "deployment/rancher-backup", image], "")
        .expect("it is set");
    let status = ["rollout", "status", "-n", NAMESPACE, "deployment/rancher-backup", "--timeout=120s"];
    world.cluster.kubectl(&status, "").expect("it is upgraded");
    gate.open();
    let run = until_ended(world, "upgraded").await;
    assert_eq!(end(&run), outcome("Succeeded", "Succeeded"), "{}", run["status"]);
    // Two of them held the Lease under one name: none is left at work when Rancher comes back.
    assert!(warnings(&run).contains("started anew while it restored"), "{}", warnings(&run));
    assert_rancher_is_back(world).await;
    super::available(world);
    assert_eq!(operated.operator_replicas().await, (1, json!(null)));
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_the_operator_works_reinback_goes_on_with_the_same_restore() {
    let operated = Operated::start().await;
    let Operated { world, .. } = &operated;
    let gates = [Phase::Lock, Phase::Load, Phase::ClusterScoped, Phase::ScaleUp, Phase::Report];
    let gates = gates.map(|phase| operated.script().hold(phase));
    operated.merge("killed", &[], "  prune: false\n");
    let mut uids = Vec::new();
    for gate in &gates {
        let agent = Process::start(world, &[]);
        gate.reached().await;
        uids.push(operated.restore().await["metadata"]["uid"].clone());
        agent.kill();
        gate.open();
        forget_holder(world).await;
    }
    let _agent = Process::start(world, &[]);
    let run = until_ended(world, "killed").await;
    assert_eq!(end(&run), outcome("Succeeded", "Succeeded"), "{}", run["status"]);
    uids.dedup();
    assert_eq!(uids.len(), 1, "one Restore for a run: {uids:?}");
    assert_rancher_is_back(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn asked_to_stop_while_the_operator_works_reinback_ends_soon_and_goes_on_later() {
    let operated = Operated::start().await;
    let Operated { world, .. } = &operated;
    let gate = operated.script().hold(Phase::ClusterScoped);
    operated.merge("stopped", &[], "  prune: false\n");
    let agent = Process::start(world, &[]);
    gate.reached().await;
    until_run(world, "stopped", "has handed it over", |run| has(run, "started", "Operator")).await;
    agent.signal("TERM");
    agent.ended(Duration::from_secs(30)).await;
    gate.open();
    let _agent = Process::start(world, &[]);
    let run = until_ended(world, "stopped").await;
    assert_eq!(end(&run), outcome("Succeeded", "Succeeded"), "{}", run["status"]);
    assert_rancher_is_back(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_that_the_operator_starts_in_the_middle_is_scaled_down_again() {
    let operated = Operated::start().await;
    let Operated { world, .. } = &operated;
    let gate = operated.script().hold(Phase::ScaleUp);
    operated.merge("started", &[], "  prune: false\n");
    let _agent = Process::start(world, &[]);
    gate.reached().await;
    eventually(PATIENCE, || async {
        let (wanted, _) = world.replicas("cattle-fleet-system", "fleet-controller").await?;
        ensure!(wanted == 0, "fleet-controller is to have {wanted}");
        Ok(())
    })
    .await;
    gate.open();
    let run = until_ended(world, "started").await;
    assert_eq!(end(&run), outcome("Succeeded", "Succeeded"), "{}", run["status"]);
    let (wanted, _) = world.replicas("cattle-fleet-system", "fleet-controller").await.expect("it is there");
    assert_eq!(wanted, 1);
    assert_eq!(operated.operator_replicas().await, (1, json!(null)));
}
