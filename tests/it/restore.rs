//! The loop on real parts: what is merged comes back, once, with Rancher down meanwhile.

use crate::harness::{AuditEvent, Options};
use crate::harness::rancher::{self, Disturbance};
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
    world.commit_restore("back", &[("accept", "VersionMismatch, PruneShare")], "  prune: true\n");
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
}

/// Of the workloads that write beside a restore, by who asked the API server for what, and when.
fn assert_no_pod_came_up_before_resume(world: &World, mark: usize) {
    let events = world.cluster.audit_since(mark);
    let at = |of: &dyn Fn(&AuditEvent) -> bool| events.iter().position(|event| of(event));
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
