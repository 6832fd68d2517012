//! A run that is killed, stopped, frozen or cut off at any moment goes on to the same end.

use std::time::Duration;

use serde_json::Value;

use crate::git_server::git;
use crate::harness::rancher::{self, Disturbance, Disturbed};
use crate::process::{
    Process, assert_quiet_while_writing, assert_rancher_is_back, delete_runs_of, forget_holder, has, lease_holder,
    object_writes, phase, run_of, runs_of, until_ended, until_run,
};
use crate::world::World;

const DISTURBED: Disturbance = Disturbance { changed_percent: 29, deleted_percent: 9, added: 20, seed: 11 };
const ACCEPT: (&str, &str) = ("accept", "VersionMismatch, PruneShare");
/// Slow enough that every moment lasts.
const SLOWLY: &[&str] = &["--limits-qps", "60"];

/// When to interfere.
enum Moment {
    /// No later than the gates.
    Planned,
    /// The journal holds an event of a step.
    Journal(&'static str, &'static str),
    /// Rancher is at 0 and says what it had.
    Scaled,
    /// That many objects were written in this round.
    Written(usize),
}

struct Round<'a> {
    world: &'a World,
    manifest: &'static str,
    mark: usize,
    disturbed: Disturbed,
}

impl<'a> Round<'a> {
    /// Disturbs the cluster and merges a restore.
    async fn begin(world: &'a World, manifest: &'static str, seed: u64) -> Self {
        let disturbance = Disturbance { seed, ..DISTURBED };
        let disturbed = rancher::disturb(&world.client, &world.items, disturbance).await.expect("disturbed");
        assert!(!world.differences().await.is_empty());
        let mark = world.cluster.audit_mark();
        let requested = ("requested-at", ["2026-11-23T09:00:00Z", "2026-11-23T10:00:00Z"][(seed % 2) as usize]);
        world.commit_restore(manifest, &[ACCEPT, requested], "  prune: true\n  deleteTimeoutSeconds: 10\n");
        Self { world, manifest, mark, disturbed }
    }

    async fn reach(&self, moment: &Moment) {
        let Self { world, manifest, mark, .. } = self;
        match moment {
            Moment::Planned => {
                crate::harness::eventually(Duration::from_secs(60), || async {
                    anyhow::ensure!(!runs_of(world, manifest).await?.is_empty(), "there is no run yet");
                    Ok(())
                })
                .await;
            }
            Moment::Journal(event, step) => {
                let what = format!("has {event} {step}");
                until_run(world, manifest, &what, |run| has(run, event, step)).await;
            }
            Moment::Scaled => {
                crate::harness::eventually(Duration::from_secs(60), || async {
                    let scaled = world.replicas("cattle-system", "rancher").await?.0 == 0;
                    anyhow::ensure!(scaled, "Rancher is not at 0");
                    Ok(())
                })
                .await;
            }
            Moment::Written(count) => {
                crate::harness::eventually(Duration::from_secs(60), || async {
                    let written = object_writes(&world.cluster.audit_since(*mark)).len();
                    anyhow::ensure!(written >= *count, "{written} of {count} objects are written");
                    Ok(())
                })
                .await;
            }
        }
    }

    /// Waits for the end, and judges it.
    async fn judge(&self) -> Value {
        let Self { world, manifest, mark, disturbed } = self;
        let run = until_ended(world, manifest).await;
        assert_eq!(phase(&run), "Succeeded", "{}", run["status"]);
        assert_eq!(world.differences().await, Vec::<String>::new());
        for place in &disturbed.added {
            assert_eq!(rancher::get(&world.client, place).await.expect("the cluster answers"), None, "{place}");
        }
        assert_rancher_is_back(world).await;
        let ran: Vec<_> = world.runs().await.into_iter().filter(|(name, ..)| name == manifest).collect();
        assert_eq!(ran.len(), 1, "{ran:?}");
        assert_quiet_while_writing(&world.cluster.audit_since(*mark));
        run
    }

    /// What the status branch says in the end: every run once, as the cluster has it.
    async fn judge_status_branch(&self) {
        let Self { world, manifest, .. } = self;
        crate::harness::eventually(Duration::from_secs(30), || async {
            let names = git(&world.remote(), &["ls-tree", "--name-only", "reinback/test", "runs/"]);
            let files: Vec<&str> = names.lines().filter(|name| name.contains(manifest)).collect();
            anyhow::ensure!(files.len() == 1, "files of {manifest}: {files:?}");
            let file = git(&world.remote(), &["show", &format!("reinback/test:{}", files[0])]);
            anyhow::ensure!(file.contains("phase: Succeeded"), "{file}");
            Ok(())
        })
        .await;
        let ends = world.status_log().into_iter().filter(|subject| subject.contains(&format!("{manifest}: succeeded")));
        assert_eq!(ends.count(), 1, "{:?}", world.status_log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_ten_moments_and_robbed_of_its_run_in_two_a_restore_comes_to_the_same_end() {
    let world = World::start().await;
    world.settle().await;
    let rounds: [(&'static str, u64, [(Moment, bool); 5]); 2] = [
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
        round.judge().await;
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
    round.judge().await;
    round.judge_status_branch().await;
}
