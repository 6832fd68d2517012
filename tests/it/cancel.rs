//! A run that a person stops.

use std::time::Duration;

use crate::killed::SLOWLY;
use crate::process::{Moment, Process, Round, phase, run_of};
use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_held_run_is_cancelled_and_its_manifest_never_runs() {
    let world = World::start().await;
    world.settle().await;
    let other = format!("sha256:{}", "0".repeat(64));
    world.commit_change("held", &[("backup-digest", &other)], "  prune: true\n");
    assert_eq!(world.once().await.code, Some(3));

    let said = world.reinback(&["cancel", "held"]).await;

    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.stdout.contains("is cancelled"), "{said:?}");
    assert_eq!(world.runs().await, [("held".to_owned(), "Cancelled".to_owned(), "Cancelled".to_owned())]);
    assert_eq!(world.once().await.code, Some(0), "nothing is left to do");
    assert!(world.status_log().iter().any(|subject| subject == "restore held: cancelled"), "{:?}", world.status_log());
    let again = world.reinback(&["cancel", "held"]).await;
    assert_eq!(again.code, Some(0), "{again:?}");
    let nobody = world.reinback(&["cancel", "nobody"]).await;
    assert_eq!((nobody.code, nobody.stderr.contains("there is no run or manifest \"nobody\"")), (Some(1), true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_an_agent_is_at_gives_replicas_back_and_one_that_writes_goes_on_to_its_end() {
    let world = World::start().await;
    world.settle().await;
    let early = Round::begin(&world, "early", 21).await;
    // A pod of Rancher that takes its time to go.
    let pods = ["get", "pods", "-n", "cattle-system", "-l", "app=rancher", "-o", "name"];
    let pods = world.cluster.kubectl(&pods, "").expect("pods");
    let pod = pods.lines().next().expect("Rancher runs").to_owned();
    let hold = |finalizers: &str| {
        let patch = format!(r#"{{"metadata":{{"finalizers":{finalizers}}}}}"#);
        let args = ["patch", "-n", "cattle-system", &pod, "--type=merge", "-p", &patch];
        world.cluster.kubectl(&args, "").expect("patched");
    };
    hold(r#"["example.org/slow"]"#);
    let agent = Process::start(&world, SLOWLY);
    early.reach(&Moment::Scaled).await;
    // It waits for the pod, and need not.
    let said = world.reinback(&["cancel", "early"]).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    hold("null");
    assert_eq!(phase(&run_of(&world, "early").await.expect("a run")), "Cancelled");
    let (replicas, _) = world.replicas("cattle-system", "rancher").await.expect("it is there");
    assert_eq!(replicas, 3);

    let late = Round::merge(&world, "late", 22, &[], "", early.disturbed.clone()).await;
    late.reach(&Moment::Written(20)).await;
    let said = world.reinback(&["cancel", "late"]).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains("`reinback undo late` goes back"), "{said:?}");
    late.judge(Duration::ZERO).await;
    agent.kill();
}
