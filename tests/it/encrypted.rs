//! Encrypted backups of the operator, restored.

use std::time::Duration;

use anyhow::ensure;
use serde_json::Value;

use crate::gates::encryption;
use crate::harness::eventually;
use crate::harness::rancher::{self, Disturbance};
use crate::killed::SLOWLY;
use crate::process::{Process, forget_holder, message, run_of};
use crate::world::World;

const DISTURBED: Disturbance = Disturbance { changed_percent: 29, deleted_percent: 9, added: 20, seed: 13 };
const SPEC: &str = "  prune: true\n  encryptionConfigSecretName: key\n";
const ACCEPT: (&str, &str) = ("accept", "VersionMismatch, PruneShare");

fn ends(name: &str, phase: &str, reason: &str) -> (String, String, String) {
    (name.to_owned(), phase.to_owned(), reason.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_backup_comes_back_whole_and_a_run_whose_key_goes_away_meanwhile_ends_and_says_so() {
    let world = World::start().await;
    world.settle().await;
    let backup = encryption::store(&world, encryption::SECRETBOX);
    let configuration = encryption::configuration("secretbox");
    encryption::install(&world, "key", encryption::KEY, &configuration);
    let disturbed = rancher::disturb(&world.client, &world.items, DISTURBED).await.expect("disturbed");
    world.commit_restore_of(&backup, "back", &[ACCEPT], SPEC);
    let said = world.once().await;
    assert_eq!(said.code, Some(0), "{}\n{:?}", said.stderr, world.runs().await);
    assert_eq!(world.differences().await, Vec::<String>::new());
    for place in &disturbed.added {
        assert_eq!(rancher::get(&world.client, place).await.expect("the cluster answers"), None, "{place:?}");
    }
    assert_eq!(world.replicas("cattle-system", "rancher").await.expect("it is there"), (3, 3));

    rancher::disturb(&world.client, &world.items, DISTURBED).await.expect("disturbed");
    world.commit_restore_of(&backup, "again", &[ACCEPT, ("requested-at", "2026-11-24T09:00:00Z")], SPEC);
    let agent = Process::start(&world, SLOWLY);
    eventually(Duration::from_secs(60), || async {
        let run = run_of(&world, "again").await?;
        let journal = run.pointer("/status/journal").and_then(Value::as_array).cloned().unwrap_or_default();
        ensure!(
            journal.iter().any(|entry| entry["event"] == "started" && entry["step"] == "Namespaced"),
            "{journal:?}"
        );
        Ok(())
    })
    .await;
    agent.kill();
    forget_holder(&world).await;
    let secret = ["delete", "secret", "-n", "cattle-resources-system", "key"];
    world.cluster.kubectl(&secret, "").expect("it goes");
    let said = world.once().await;
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    let (back, again) = (ends("back", "Succeeded", "Succeeded"), ends("again", "Failed", "DecryptionFailed"));
    assert_eq!(world.runs().await, [again, back]);
    let run = run_of(&world, "again").await.expect("a run");
    let told = message(&run);
    assert!(told.contains("in the Secret cattle-resources-system/key cannot be used: it is not there"), "{told}");
    assert!(told.contains("Rancher stays at 0"), "{told}");
    assert_eq!(world.replicas("cattle-system", "rancher").await.expect("it is there").0, 0);

    encryption::install(&world, "key", encryption::KEY, &configuration);
    world.commit_restore_of(&backup, "again", &[ACCEPT, ("requested-at", "2026-11-24T10:00:00Z")], SPEC);
    let said = world.once().await;
    assert_eq!(said.code, Some(0), "{}\n{:?}", said.stderr, world.runs().await);
    assert_eq!(world.differences().await, Vec::<String>::new());
    assert_eq!(world.replicas("cattle-system", "rancher").await.expect("it is there"), (3, 3));
}
