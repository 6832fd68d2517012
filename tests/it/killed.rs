//! A run that is killed, stopped, frozen or cut off at any moment goes on to the same end.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use anyhow::ensure;
use serde_json::Value;

use crate::harness::{AuditEvent, eventually};
use crate::once::ended;
use crate::process::{
    Moment, Process, Round, delete_runs_of, forget_holder, lease_holder, object_writes, phase, run_of,
};
use crate::process::{assert_rancher_is_back, until_ended};
use crate::world::World;

/// Slow enough that every moment lasts.
pub const SLOWLY: &[&str] = &["--limits-qps", "60"];

/// When to kill, and whether the `Run` is deleted then.
type Kills = [(Moment, bool); 5];

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_ten_moments_and_robbed_of_its_run_in_two_a_restore_comes_to_the_same_end() {
    let world = World::start().await;
    world.settle().await;
    let rounds: [(&str, u64, Kills); 2] = [
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
    let held = std::fs::File::create(&lock).expect("the branch is locked");
    // As by somebody who goes on holding it: an old one would be taken away.
    held.set_modified(SystemTime::now() + Duration::from_secs(3600)).expect("it is ours");
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

/// Objects that reinback has written, each once, however often and by which subresource.
fn objects_written(events: &[AuditEvent]) -> usize {
    let written = object_writes(events).into_iter().filter(|event| event.verb != "delete").map(|event| {
        let object = &event.object_ref;
        (&object.api_group, &object.resource, &object.namespace, &object.name)
    });
    written.collect::<BTreeSet<_>>().len()
}

fn count(run: &Value, of: &str, what: &[&str]) -> u64 {
    let counts = run.pointer(of).unwrap_or_else(|| panic!("no {of}: {run}"));
    what.iter().map(|what| counts[what].as_u64().unwrap_or_default()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_middle_of_a_step_a_run_counts_each_object_once_and_newer_manifests_wait_for_it() {
    let world = World::start().await;
    world.settle().await;
    let round = Round::begin(&world, "counted", 18).await;
    // Few in flight: at such a pace what the run says of itself would wait behind many.
    let agent = Process::start(&world, &["--limits-qps", "10", "--limits-concurrency", "2"]);
    round.reach(&Moment::Journal("started", "Quiesce")).await;
    let name = run_of(&world, "counted").await.expect("a run")["metadata"]["name"].as_str().expect("a name").to_owned();
    world.commit_restore("newer", &[("requested-at", "2026-11-23T10:00:00Z")], "  prune: false\n");
    let planned = world.reinback(&["plan"]).await;
    ended(&planned, 3);
    assert!(planned.stdout.contains("RunInProgress"), "{}", planned.stdout);
    assert!(planned.stdout.contains(&format!("1 has not ended: run {name}")), "{}", planned.stdout);

    // Who goes on deletes what the plan would, and leaves what came since.
    world.kubectl(&["create", "clusterrole", "c-late", "--verb=get", "--resource=pods"]);
    round.reach(&Moment::Journal("started", "Namespaced")).await;
    let before = object_writes(&world.cluster.audit_since(round.mark)).len();
    round.reach(&Moment::Written(before + 30)).await;
    agent.kill();
    // What was sent is answered, and logged.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let killed = run_of(&world, "counted").await.expect("a run");
    const WRITES: [&str; 3] = ["created", "updated", "recreated"];
    let written = objects_written(&world.cluster.audit_since(round.mark)) as u64;
    let planned = count(&killed, "/status/plan/counts", &WRITES);
    assert!(written > 0 && written < planned, "{written} of {planned} were written when it was killed");
    // Said every 2 s and at the end of a step, at 10 requests a second.
    let lost = written.saturating_sub(count(&killed, "/status/counts", &WRITES));
    assert!(lost <= 24, "{lost} of {written} written objects were not counted when it was killed");

    forget_holder(&world).await;
    let _agent = Process::start(&world, &[]);
    let run = round.judge(Duration::ZERO).await;
    let told = count(&run, "/status/counts", &WRITES);
    assert!(told <= planned && told + lost >= planned, "{told} told, {planned} planned, {lost} lost");
    let deleted = |of: &str| count(&run, of, &["deleted"]);
    assert_eq!(deleted("/status/counts"), deleted("/status/plan/counts"));
    assert_eq!(count(&run, "/status/counts", &["failed"]), 0);
    world.kubectl(&["get", "clusterrole", "c-late"]);
    round.judge_status_branch().await;
    let newer = until_ended(&world, "newer").await;
    let ends = [&run, &newer].map(|run| run["status"]["endedAt"].as_str().expect("it ended").to_owned());
    assert!(newer["status"]["startedAt"].as_str() >= Some(ends[0].as_str()), "{newer}");
    assert_eq!(newer["status"]["reason"], "NothingToDo");
}

#[tokio::test(flavor = "multi_thread")]
async fn asked_to_stop_while_the_api_server_does_not_answer_the_agent_ends_soon() {
    let world = World::start().await;
    world.settle().await;
    let agent = Process::start(&world, &["--log-level", "info,reinback::agent=debug"]);
    let passes = || world.log().matches("pass ended").count();
    eventually(Duration::from_secs(30), async || {
        ensure!(passes() >= 1, "no pass yet");
        Ok(())
    })
    .await;
    world.cluster.pause_api_server();
    // The next pass is at 5 s, and now asks in vain.
    tokio::time::sleep(Duration::from_secs(7)).await;
    agent.signal("TERM");
    let status = agent.ended(Duration::from_secs(10)).await;
    world.cluster.resume_api_server();
    assert_eq!(status.code(), Some(0));
}
