//! Back from a run: by itself where the manifest asks for it, and by hand.

use std::collections::BTreeSet;

use crate::harness::rancher;
use crate::process::run_of;
use crate::rollback::{ACCEPT, image, upgraded};
use crate::world::World;

/// Pods of this image are not made, as where a registry does not have it.
pub const NO_SUCH_IMAGE: &str = "\
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: no-such-image}
spec:
  failurePolicy: Fail
  matchConstraints: {resourceRules: [{apiGroups: [\"\"], apiVersions: [v1], operations: [CREATE], resources: [pods]}]}
  validations: [{expression: \"!object.spec.containers.exists(c, c.image.endsWith(':v2.9.3'))\"}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: no-such-image}
spec: {policyName: no-such-image, validationActions: [Deny]}
";

/// A Rollback to a version that does not come up, merged; gives what differed from the backup before.
async fn fails(world: &World, on_failure: &str) -> BTreeSet<String> {
    world.settle().await;
    let backup = upgraded(world).await;
    world.cluster.kubectl(&["apply", "-f", "-"], NO_SUCH_IMAGE).expect("the policy is taken");
    let differences = world.differences().await.into_iter().collect();
    let spec =
        format!("  toVersion: v2.9.3\n  versionMethod: image\n  restore: {{backupFilename: {backup}, prune: true}}\n");
    let annotations = [ACCEPT, ("on-failure", on_failure), ("timeout", "1m")];
    world.commit_rollback("back", &annotations, &spec);
    let said = world.once().await;
    assert_eq!(said.code, Some(1), "{}\n{:?}", said.stderr, world.runs().await);
    differences
}

async fn assert_undone(world: &World, differed: &BTreeSet<String>) {
    assert_eq!(image(world), "rancher/rancher:v2.12.1");
    assert_eq!(world.replicas("cattle-system", "rancher").await.expect("it is there"), (3, 3));
    let (fleet, _) = world.replicas("cattle-fleet-system", "fleet-controller").await.expect("it is there");
    assert_eq!(fleet, 1);
    let differs: BTreeSet<String> = world.differences().await.into_iter().collect();
    assert_eq!(differs.symmetric_difference(differed).collect::<Vec<_>>(), Vec::<&String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_does_not_come_up_is_undone_by_itself_where_the_manifest_asks_for_it() {
    let world = World::start().await;

    let differed = fails(&world, "Undo").await;

    let ended = |name: &str, phase: &str, reason: &str| (name.to_owned(), phase.to_owned(), reason.to_owned());
    assert_eq!(
        world.runs().await,
        [ended("back", "Failed", "RancherNotReady"), ended("undo-back", "Succeeded", "Succeeded")]
    );
    assert_undone(&world, &differed).await;
    let failed = run_of(&world, "back").await.expect("a run");
    assert_eq!(failed["status"]["undoneBy"], "undo-back", "{}", failed["status"]["message"]);
    // It is not done again, nor is the manifest.
    let again = world.once().await;
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    assert_eq!(world.runs().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_failed_says_how_it_is_undone_and_a_person_does_it_by_one_command() {
    let world = World::start().await;
    let differed = fails(&world, "Hold").await;
    let failed = run_of(&world, "back").await.expect("a run");
    let message = failed["status"]["message"].as_str().expect("a sentence");
    assert!(message.contains("`reinback undo back` goes back to what was before it"), "{message}");

    let printed = world.reinback(&["undo", "back", "--print"]).await;
    assert_eq!(printed.code, Some(0), "{printed:?}");
    let file = world.folder().join("undo.yaml");
    std::fs::write(&file, &printed.stdout).expect("the folder is ours");
    let checked = std::process::Command::new(crate::harness::REINBACK).arg("check").arg(&file).output();
    assert!(checked.expect("it runs").status.success(), "{}", printed.stdout);
    for line in ["kind: Rollback", "name: undo-back", "toVersion: v2.12.1", "versionMethod: image", "prune: true"] {
        assert!(printed.stdout.contains(line), "{line}: {}", printed.stdout);
    }

    let said = world.reinback(&["undo", "back", "--yes"]).await;

    assert_eq!(said.code, Some(0), "{}{}", said.stdout, said.stderr);
    assert_undone(&world, &differed).await;
    // The safety backup of the undo is a way back from the way back.
    let undo = run_of(&world, "undo-back").await.expect("a run");
    let safety = undo["status"]["safetyBackup"]["name"].as_str().expect("a name");
    assert!(!rancher::read(&world.store().join(safety)).expect("a whole backup").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_undone_is_refused_by_its_name() {
    let world = World::start().await;
    world.settle().await;
    let said = world.reinback(&["undo", "nobody", "--yes"]).await;
    assert_eq!(
        (said.code, said.stderr.contains("there is no run or manifest \"nobody\"")),
        (Some(1), true),
        "{said:?}"
    );
    let other = format!("sha256:{}", "0".repeat(64));
    world.commit_change("held", &[("backup-digest", &other)], "  prune: true\n");
    let said = world.once().await;
    assert_eq!(said.code, Some(3), "{said:?}");
    let said = world.reinback(&["undo", "held", "--yes"]).await;
    assert_eq!((said.code, said.stderr.contains("has not ended")), (Some(1), true), "{said:?}");
    let said = world.reinback(&["undo", "held", "--accept", "BackupNotFound"]).await;
    assert_eq!((said.code, said.stderr.contains("nobody can accept BackupNotFound")), (Some(1), true), "{said:?}");
}
