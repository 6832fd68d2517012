//! A run that is killed, stopped, frozen or cut off at any moment goes on to the same end.

use std::time::Duration;

use crate::harness::eventually;
use crate::process::{
    Moment, Process, Round, delete_runs_of, forget_holder, lease_holder, object_writes, phase, run_of,
};
use crate::process::{assert_rancher_is_back, until_ended};
use crate::world::World;

/// Slow enough that every moment lasts.
const SLOWLY: &[&str] = &["--limits-qps", "60"];

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_ten_moments_and_robbed_of_its_run_in_two_a_restore_comes_to_the_same_end() {
    let world = World::start().await;
    world.settle().await;
    let rounds = [
        (
            "first",
            11,
            [
                (Moment::Planned, false),
                (Moment::Journal("replicas", ""), false),
                (Moment::Journal("finished", "Quiesce"), true),
                (Moment::Written(60), false),
                (Moment::Journal("started", "Verify"), false),
            ],
        ),
        (
            "second",
            12,
            [
                (Moment::Journal("started", "Announce"), false),
                (Moment::Scaled, false),
                (Moment::Written(20), true),
                (Moment::Journal("started", "Prune"), false),
                (Moment::Journal("started", "Resume"), false),
            ],
        ),
    ];
    for (manifest, seed, moments) in rounds {
        let round = Round::begin(&world, manifest, seed).await;
        for (moment, delete_run) in moments {
            let agent = Process::start(&world, SLOWLY);
            round.reach(&moment).await;
            agent.kill();
            if delete_run {
                delete_runs_of(&world, manifest).await;
            }
            forget_holder(&world).await;
        }
        let agent = Process::start(&world, &[]);
        round.judge(Duration::ZERO).await;
        round.judge_status_branch().await;
        agent.kill();
        forget_holder(&world).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn asked_to_stop_in_any_step_the_agent_ends_soon_gives_the_lease_back_and_goes_on_later() {
    let world = World::start().await;
    world.settle().await;
    let round = Round::begin(&world, "stopped", 13).await;
    // Pods that take their time to go, an object that prune has to wait for, and pods that are Ready late.
    let hold = r#"{"metadata":{"finalizers":["example.org/slow"]}}"#;
    let pods = world.cluster.kubectl(&["get", "pods", "-n", "cattle-system", "-l", "app=rancher", "-o", "name"], "");
    let pods = pods.expect("pods");
    let pod = pods.lines().next().expect("Rancher runs").to_owned();
    let patch = |name: &str, patch: &str| {
        let args = ["patch", "-n", "cattle-system", name, "--type=merge", "-p", patch];
        world.cluster.kubectl(&args, "").expect("patched");
    };
    patch(&pod, hold);
    patch("deployment/rancher", r#"{"spec":{"minReadySeconds":4}}"#);
    world.cluster.kubectl(&["patch", "clusterrole", "c-extra-00002", "--type=merge", "-p", hold], "").expect("patched");
    let moments = [
        (Moment::Planned, "TERM"),
        (Moment::Scaled, "INT"),
        (Moment::Written(40), "TERM"),
        (Moment::Journal("started", "Prune"), "INT"),
        (Moment::Journal("started", "Verify"), "TERM"),
    ];
    for (moment, signal) in moments {
        let agent = Process::start(&world, SLOWLY);
        round.reach(&moment).await;
        agent.signal(signal);
        let status = agent.ended(Duration::from_secs(10)).await;
        assert_eq!(status.code(), Some(0));
        assert_eq!(lease_holder(&world).await.expect("a lease"), "");
        assert_eq!(phase(&run_of(&world, "stopped").await.expect("a run")).replace("Running", ""), "");
        if let Moment::Scaled = moment {
            patch(&pod, r#"{"metadata":{"finalizers":null}}"#);
        }
    }
    let _agent = Process::start(&world, &[]);
    round.judge(Duration::ZERO).await;
    round.judge_status_branch().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_holder_writes_nothing_more_once_another_agent_has_taken_over() {
    let world = World::start().await;
    world.settle().await;
    let second = world.cluster.user("second");
    let bind = ["create", "clusterrolebinding", "second", "--clusterrole=cluster-admin", "--user=second"];
    world.cluster.kubectl(&bind, "").expect("bound");
    let round = Round::begin(&world, "frozen", 14).await;
    let lease = ["--lease-duration", "4", "--lease-renew", "2"];
    let first = Process::start(&world, &[SLOWLY, &lease].concat());
    round.reach(&Moment::Written(30)).await;
    first.signal("STOP");
    let holder = lease_holder(&world).await.expect("a lease");
    let data = world.folder().join("second").display().to_string();
    let _second = Process::start_as(&world, &second.kubeconfig, &[&lease[..], &["--data-dir", &data]].concat());
    eventually(Duration::from_secs(60), || async {
        anyhow::ensure!(lease_holder(&world).await? != holder, "the first still holds the lease");
        Ok(())
    })
    .await;
    let taken = world.cluster.audit_mark();
    first.signal("CONT");
    round.judge(Duration::ZERO).await;
    let events = world.cluster.audit_since(taken);
    let of_the_first: Vec<_> = events
        .iter()
        .filter(|event| event.user.username == "admin" && event.user_agent.starts_with("reinback/") && event.writes())
        .filter(|event| event.response_status.code < 300)
        .map(|event| (&event.verb, &event.request_uri))
        .collect();
    assert!(of_the_first.is_empty(), "{of_the_first:?}");
    assert!(events.iter().any(|event| event.user.username == "second" && event.writes()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_dies_and_git_that_goes_in_the_middle_are_outlived() {
    let world = World::start().await;
    world.settle().await;
    let round = Round::begin(&world, "outlived", 15).await;
    let once = Process::start(&world, &[SLOWLY, &["--once"]].concat());
    round.reach(&Moment::Written(30)).await;
    world.cluster.kill_api_server();
    tokio::task::block_in_place(|| world.cluster.restart_api_server());
    assert_eq!(once.ended(Duration::from_secs(120)).await.code(), Some(0));
    round.judge(Duration::ZERO).await;
    round.judge_status_branch().await;

    let round = Round::begin(&world, "owed", 17).await;
    let _agent = Process::start(&world, SLOWLY);
    round.reach(&Moment::Scaled).await;
    let away = world.folder().join("away.git");
    std::fs::rename(world.remote(), &away).expect("Git goes");
    until_ended(&world, "owed").await;
    std::fs::rename(&away, world.remote()).expect("Git comes back");
    round.judge(Duration::ZERO).await;
    round.judge_status_branch().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_cannot_be_announced_is_held_and_touches_nothing() {
    let world = World::start().await;
    world.settle().await;
    let round = Round::begin(&world, "unheard", 16).await;
    let lock = world.remote().join("refs/heads/reinback/test.lock");
    std::fs::write(&lock, "").expect("the branch is locked");
    let _agent = Process::start(&world, &[]);
    let run = crate::process::until_run(&world, "unheard", "was held", |run| phase(run) == "Held").await;
    assert_eq!(run.pointer("/status/reason").and_then(|reason| reason.as_str()), Some("StatusNotPushed"), "{run}");
    let events = world.cluster.audit_since(round.mark);
    assert_eq!(object_writes(&events).len(), 0);
    assert_rancher_is_back(&world).await;
    std::fs::remove_file(&lock).expect("the branch is free");
    round.judge(Duration::ZERO).await;
    round.judge_status_branch().await;
}
