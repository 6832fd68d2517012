//! How a Restore that cannot succeed is told, and how often it is tried.

use anyhow::ensure;
use serde_json::{Value, json};

use super::{NAMESPACE, Operator, PATIENCE, Which, conditions, lease, restore, unlocked, until_wanted, wanted};
use crate::gates::encryption;
use crate::harness::eventually;
use crate::world::World;

/// How a failure is told.
fn assert_failing(live: &Value, begins: &str) {
    let said = conditions(live);
    let [ready, reconciling] = said.as_slice() else { panic!("{said:?}") };
    assert_eq!(*ready, ["Ready", "Unknown", "", "Retrying"].map(str::to_owned));
    let [of, status, reason, message] = reconciling;
    assert_eq!([of, status, reason], ["Reconciling", "False", "Error"]);
    assert!(message.starts_with(begins), "{message}");
    assert_eq!(live["status"]["restoreCompletionTs"].as_str().unwrap_or_default(), "");
}

/// How often the Lease was taken since a mark of the audit log: once for each try, and once to give it back.
fn leases_written(world: &World, mark: usize) -> usize {
    let events = world.cluster.audit_since(mark);
    let is_write = |uri: &str, verb: &str| uri.contains("/leases") && uri.contains(NAMESPACE) && verb != "get";
    events.iter().filter(|event| is_write(&event.request_uri, &event.verb)).count()
}

/// Replicas that Rancher is to have while the operator does nothing.
async fn wanted_between_tries(world: &World) -> i64 {
    eventually(PATIENCE, || async {
        let before = lease(world).await?;
        ensure!(before["spec"]["holderIdentity"].is_null(), "the Lease is held");
        let wanted = wanted(world).await;
        ensure!(lease(world).await? == before, "the Lease changes");
        Ok(wanted)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_fails_and_is_tried_for_ever_without_touching_the_cluster() {
    for which in Which::all("what cannot be read") {
        println!("{}", which.name());
        let world = which.world().await;
        let encrypted = encryption::store(&world, encryption::SECRETBOX);
        encryption::install(&world, "right", encryption::KEY, &encryption::configuration("secretbox"));
        encryption::install(&world, "wrong", encryption::KEY, &encryption::configuration("aesgcm"));
        let operator = Operator::start(&which, &world);

        operator.restore("not-there", json!({"backupFilename": "not-there.tar.gz"}));
        let live = operator.failing("not-there").await;
        assert_failing(&live, "error opening tarball backup file open ");
        // It goes on trying, and does not say so.
        let mark = world.cluster.audit_mark();
        eventually(PATIENCE, || async {
            let tries = leases_written(&world, mark);
            ensure!(tries >= 6, "{tries} writes of the Lease");
            Ok(())
        })
        .await;
        let later = restore(&world, "not-there").await.expect("the cluster answers").expect("it is there");
        assert_eq!(later["metadata"]["resourceVersion"], live["metadata"]["resourceVersion"]);
        world.cluster.kubectl(&["delete", "restores.resources.cattle.io", "not-there"], "").expect("it goes");
        unlocked(&world).await;

        let secret = |name: &str| json!({"backupFilename": encrypted, "encryptionConfigSecretName": name});
        operator.restore("no-secret", secret("nobody"));
        assert_failing(&operator.failing("no-secret").await, "secrets \"nobody\" not found");
        operator.restore("wrong-key", secret("wrong"));
        assert_failing(&operator.failing("wrong-key").await, "error decrypting encrypted resource [");
        operator.restore("no-key", json!({"backupFilename": encrypted}));
        assert_failing(&operator.failing("no-key").await, "error decrypting encrypted resource [");

        assert_eq!(wanted(&world).await, 3, "{}", which.name());
        assert_eq!(world.differences().await, Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_written_fails_after_all_else_was_and_rancher_gets_what_it_had_each_time() {
    for which in Which::all("what cannot be written") {
        println!("{}", which.name());
        let world = which.world().await;
        // The type of a Secret cannot be changed.
        let backup = world.repack("odd", |entries| {
            let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "example.org/other",
                "metadata": {"name": "odd-type", "namespace": "cattle-global-data"}});
            entries.push(("secrets.#v1/cattle-global-data/odd-type".to_owned(), secret));
        });
        let kubectl = |args: &[&str]| world.cluster.kubectl(args, "").expect("kubectl does it");
        kubectl(&["create", "secret", "generic", "-n", "cattle-global-data", "odd-type"]);
        world.touch();
        let operator = Operator::start(&which, &world);
        let spec = json!({"backupFilename": backup, "prune": true});
        operator.restore("refused", spec.clone());
        let live = operator.failing("refused").await;
        assert_failing(&live, "error restoring namespaced resources, check logs for exact error");
        // All else is there, and nothing was pruned.
        assert_eq!(world.differences().await.iter().filter(|line| line.contains("server-url")).count(), 0);
        until_wanted(&world, 3).await;

        assert_eq!(wanted_between_tries(&world).await, 3, "{}", which.name());

        // Once the reason is gone it succeeds by itself: at its next try, or when the Restore changes.
        kubectl(&["delete", "secret", "-n", "cattle-global-data", "odd-type"]);
        kubectl(&["annotate", "restores.resources.cattle.io", "refused", "look=again"]);
        let live = operator.done("refused").await;
        assert_eq!(conditions(&live), [["Ready", "True", "", "Completed"]].map(|one| one.map(str::to_owned)));
        assert_eq!(wanted_between_tries(&world).await, 3, "{}", which.name());
    }
}
