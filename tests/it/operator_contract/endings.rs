//! What becomes of a Restore whose end is not its own: deleted in the middle, the operator killed, its Lease another's.

use anyhow::ensure;
use serde_json::json;

use super::{NAMESPACE, Operator, PATIENCE, Which, conditions, locked, restore, scale, unlocked, until_wanted, wanted};
use crate::harness::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn deleted_in_the_middle_it_goes_on_to_its_end_and_writes_the_replicas_that_it_remembers() {
    for which in Which::all("deleted in the middle") {
        println!("{}", which.name());
        let world = which.world().await;
        world.touch();
        let operator = Operator::start(&which, &world);
        // What reinback has done by then.
        scale(&world, "cattle-system", "rancher", 0);
        operator.restore("deleted", json!({"backupFilename": world.backup, "prune": false}));
        locked(&world, "deleted").await;
        world.cluster.kubectl(&["delete", "restores.resources.cattle.io", "deleted"], "").expect("it goes at once");
        // A person gives back what Rancher had, before the operator has come to its end.
        let held = super::holder(&world).await.expect("there is one");
        scale(&world, "cattle-system", "rancher", 3);
        assert!(held.is_some(), "{}: it ended too early to show anything", which.name());
        until_wanted(&world, 0).await;
        unlocked(&world).await;
        assert_eq!(wanted(&world).await, 0, "{}", which.name());
        let touched = world.differences().await.into_iter().find(|line| line.contains("server-url"));
        assert_eq!(touched, None, "{}: it did not go on to its end", which.name());
        assert!(restore(&world, "deleted").await.expect("the cluster answers").is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_middle_it_takes_zero_for_what_rancher_had() {
    for which in Which::all("killed in the middle") {
        println!("{}", which.name());
        let world = which.world().await;
        let operator = Operator::start(&which, &world);
        operator.restore("killed", json!({"backupFilename": world.backup, "prune": false}));
        locked(&world, "killed").await;
        until_wanted(&world, 0).await;
        drop(operator);
        // Its Lease stays behind, and the next one takes no notice of it.
        locked(&world, "killed").await;
        let operator = Operator::start(&which, &world);
        let live = operator.done("killed").await;
        assert_eq!(conditions(&live), [["Ready", "True", "", "Completed"]].map(|one| one.map(str::to_owned)));
        assert_eq!(wanted(&world).await, 0, "{}", which.name());
        unlocked(&world).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_restore_waits_for_whoever_holds_the_lease_and_says_nothing() {
    for which in Which::all("the Lease is another's") {
        println!("{}", which.name());
        let world = which.world().await;
        let operator = Operator::start(&which, &world);
        operator.restore("first", json!({"backupFilename": world.backup, "prune": false}));
        locked(&world, "first").await;
        operator.restore("second", json!({"backupFilename": world.backup, "prune": false}));
        operator.done("first").await;
        operator.done("second").await;
        until_wanted(&world, 3).await;
        unlocked(&world).await;

        let lease = json!({"spec": {"holderIdentity": "gone:00000000-0000-4000-8000-000000000000"}}).to_string();
        let args = ["patch", "lease", "-n", NAMESPACE, "restore-controller", "--type=merge", "-p", &lease];
        world.cluster.kubectl(&args, "").expect("it is taken");
        let mark = world.cluster.audit_mark();
        operator.restore("third", json!({"backupFilename": world.backup, "prune": false}));
        eventually(PATIENCE, || async {
            let events = world.cluster.audit_since(mark);
            let asked = events.iter().filter(|event| event.request_uri.contains("/leases/restore-controller")).count();
            ensure!(asked >= 5, "it looked {asked} times");
            Ok(())
        })
        .await;
        let waiting = restore(&world, "third").await.expect("the cluster answers").expect("it is there");
        assert_eq!(conditions(&waiting), Vec::<[String; 4]>::new(), "{}", which.name());
        drop(operator);
        let operator = Operator::start(&which, &world);
        operator.done("third").await;
        assert_eq!(wanted(&world).await, 3, "{}", which.name());
    }
}

/// By a nil map in its code. What started it starts it again, and it dies again, for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_without_annotations_ends_the_process_with_rancher_at_zero_and_the_lease_given_back() {
    for which in Which::all("a cluster without annotations") {
        println!("{}", which.name());
        let world = which.world().await;
        let backup = world.repack("odd", |entries| {
            let cluster = json!({"apiVersion": "management.cattle.io/v3", "kind": "Cluster", "metadata": {"name": "c-odd"}, "spec": {}});
            entries.push(("clusters.management.cattle.io#v3/c-odd".to_owned(), cluster));
        });
        let mut operator = Operator::start(&which, &world);
        operator.restore("dies", json!({"backupFilename": backup, "prune": false}));
        eventually(PATIENCE, || {
            let has_ended = operator.has_ended();
            async move {
                ensure!(has_ended, "it lives");
                Ok(())
            }
        })
        .await;
        assert_eq!(wanted(&world).await, 0, "{}", which.name());
        // A panic of Go does what was deferred.
        unlocked(&world).await;
        let live = restore(&world, "dies").await.expect("the cluster answers").expect("it is there");
        assert_eq!(conditions(&live), Vec::<[String; 4]>::new());
    }
}
