//! The loop on real parts: what is merged comes back, once, with Rancher down meanwhile.

use crate::harness::Options;
use crate::harness::rancher::{self, Disturbance};
use crate::world::{Filled, PLAIN, World};

const DISTURBED: Disturbance = Disturbance { changed_percent: 29, deleted_percent: 9, added: 20, seed: 7 };

#[tokio::test(flavor = "multi_thread")]
async fn a_merged_restore_brings_every_object_back_and_prunes_what_is_newer() {
    let world = World::start().await;
    world.settle().await;
    let disturbed = rancher::disturb(&world.client, &world.items, DISTURBED).await.expect("disturbed");
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
