//! The loop on real parts: what is merged comes back, once, with Rancher down meanwhile.

use jiff::Timestamp;
use serde_json::Value;

use crate::harness::rancher::{self, Disturbance};
use crate::harness::{AuditEvent, Options, skip};
use crate::process::run_of;
use crate::world::{Filled, PLAIN, World};

const DISTURBED: Disturbance = Disturbance { changed_percent: 29, deleted_percent: 9, added: 20, seed: 7 };

#[tokio::test(flavor = "multi_thread")]
async fn a_merged_restore_brings_every_object_back_and_prunes_what_is_newer() {
    let world = World::start().await;
    world.settle().await;
    let disturbed = rancher::disturb(&world.client, &world.items, DISTURBED).await.expect("disturbed");
    // A writer that somebody deleted comes up with Rancher, not while objects are written.
    let writer = ["deployment", "-n", "cattle-fleet-system", "fleet-controller"];
    world.cluster.kubectl(&[&["delete", "--ignore-not-found"], &writer[..]].concat(), "").expect("deleted");
    let mark = world.cluster.audit_mark();
    assert!(!world.differences().await.is_empty());
    world.commit_restore("back", &[("accept", "VersionMismatch, PruneShare, DownstreamReverts")], "  prune: true\n");
    let said = world.once().await;
    assert_eq!(said.code, Some(0), "{}\n{:?}", said.stderr, world.runs().await);
    assert_eq!(world.runs().await, [("back".to_owned(), "Succeeded".to_owned(), "Succeeded".to_owned())]);
    assert_eq!(world.differences().await, Vec::<String>::new());
    for place in &disturbed.added {
        assert_eq!(rancher::get(&world.client, place).await.expect("the cluster answers"), None, "{place:?}");
    }
    assert_eq!(world.replicas("cattle-system", "rancher").await.expect("it is there"), (3, 3));
    let (wanted, _) = world.replicas("cattle-fleet-system", "fleet-controller").await.expect("it is there");
    assert_eq!(wanted, 1);
    assert_no_pod_came_up_before_resume(&world, mark);
    assert_recorded_before_scaled(&world, mark).await;
}

/// Of the workloads that write beside a restore, by who asked the API server for what, and when.
fn assert_no_pod_came_up_before_resume(world: &World, mark: usize) {
    let events = world.cluster.audit_since(mark);
    let at = |of: &dyn Fn(&AuditEvent) -> bool| events.iter().position(of);
    let is_ours = |event: &AuditEvent| event.user_agent.starts_with("reinback/");
    let is = |event: &AuditEvent, resource: &str, name: &str| {
        event.object_ref.resource == resource && event.object_ref.name.starts_with(name)
    };
    let made = at(&|event| is_ours(event) && event.verb == "create" && is(event, "deployments", "fleet-controller"));
    let raised = at(&|event| is_ours(event) && event.verb == "patch" && is(event, "deployments", "fleet-controller"));
    let pod = at(&|event| {
        event.verb == "create" && is(event, "pods", "") && event.object_ref.namespace == "cattle-fleet-system"
    });
    let (made, raised) = (made.expect("it is made"), raised.expect("it is given its replicas"));
    assert!(made < raised);
    assert!(pod.is_none_or(|pod| pod > raised), "a pod came up at {pod:?}, before {raised}");
}

/// What a workload had is in the journal before it is scaled for the first time.
async fn assert_recorded_before_scaled(world: &World, mark: usize) {
    let run = run_of(world, "back").await.expect("a run");
    let journal = run.pointer("/status/journal").and_then(Value::as_array).expect("a journal");
    let recorded: Vec<&Value> = journal.iter().filter(|entry| entry["event"] == "replicas").collect();
    assert!(recorded.len() >= 3, "{recorded:?}");
    let events = world.cluster.audit_since(mark);
    for entry in recorded {
        let at: Timestamp = entry["at"].as_str().expect("a text").parse().expect("a time");
        let scaled = events.iter().filter(|event| {
            let object = &event.object_ref;
            let is_it = entry["workload"]["name"] == object.name && entry["workload"]["namespace"] == object.namespace;
            event.user_agent.starts_with("reinback/") && event.verb == "patch" && is_it
        });
        let first = scaled.map(|event| event.request_received_timestamp).min().expect("it was scaled");
        assert!(at < first, "scaled at {first}: {entry}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_comes_back_into_a_cluster_that_holds_nothing_of_it() {
    let world = World::of(Options::default(), PLAIN, Filled::RancherOnly).await;
    world.settle().await;
    world.commit_restore("back", &[("accept", "VersionMismatch")], "  prune: false\n");
    let said = world.once().await;
    assert_eq!(said.code, Some(0), "{}\n{:?}", said.stderr, world.runs().await);
    assert_eq!(world.differences().await, Vec::<String>::new());
    assert_eq!(world.replicas("cattle-system", "rancher").await.expect("it is there"), (3, 3));
}

/// With the definitions that a real Rancher has, whose schemas the server prunes and defaults by.
#[tokio::test(flavor = "multi_thread")]
async fn other_backups_come_back_over_a_disturbed_and_an_empty_cluster_and_leave_nothing_to_do() {
    let Some(folder) = std::env::var_os("REINBACK_TEST_BACKUPS") else {
        return skip("other_backups", "set REINBACK_TEST_BACKUPS to a folder of backups that are not encrypted");
    };
    let mut backups: Vec<_> =
        std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    backups.retain(|path| path.extension().is_some_and(|end| end == "gz"));
    backups.sort();
    assert!(!backups.is_empty(), "no backup there");
    for backup in backups {
        let name = backup.to_str().expect("a name");
        for filled in [Filled::Restored, Filled::RancherOnly] {
            eprintln!("{name}, {filled:?}");
            let world = World::of(Options::default(), name, filled).await;
            world.settle().await;
            if filled == Filled::Restored {
                rancher::disturb(&world.client, &world.items, DISTURBED).await.expect("disturbed");
            }
            let accept = ("accept", "VersionMismatch, PruneShare, DownstreamReverts, AlreadyRun");
            world.commit_restore("back", &[accept], "  prune: true\n");
            let said = world.once().await;
            assert_eq!(said.code, Some(0), "{}\n{:?}", said.stderr, world.runs().await);
            assert_eq!(world.differences().await, Vec::<String>::new());
            world.commit_restore("back", &[accept, ("requested-at", "2026-11-23T09:00:00Z")], "  prune: true\n");
            let said = world.reinback(&["plan", "-v"]).await;
            assert_eq!(said.code, Some(0), "{}{}", said.stdout, said.stderr);
        }
    }
}
