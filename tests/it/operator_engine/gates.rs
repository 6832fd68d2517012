//! What holds a Restore for the operator before it begins.

use serde_json::{Value, json};

use super::{NAMESPACE, Operated, PATIENCE, end, holding, outcome};
use crate::harness::eventually;
use crate::process::assert_rancher_is_back;
use crate::stand_in::Phase;

fn kubectl(operated: &Operated, args: &[&str]) {
    operated.world.cluster.kubectl(args, "").expect("kubectl does it");
}

/// A Restore that somebody creates by hand, and the operator does not come to an end with.
fn by_hand(operated: &Operated, name: &str, spec: Value) {
    let restore =
        json!({"apiVersion": "resources.cattle.io/v1", "kind": "Restore", "metadata": {"name": name}, "spec": spec});
    operated.world.cluster.kubectl(&["create", "-f", "-"], &restore.to_string()).expect("it is taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_by_hand_is_shown_and_holds_ours_until_it_has_ended() {
    let operated = Operated::start().await;
    let Operated { world, .. } = &operated;
    let gate = operated.script().hold(Phase::Load);
    by_hand(&operated, "by-hand", json!({"backupFilename": world.backup, "prune": false}));
    gate.reached().await;
    operated.merge("waits", &[], "  prune: false\n");
    let (said, run) = operated.once("waits").await;
    assert_eq!(said.code, Some(3), "{}", said.stderr);
    assert_eq!(holding(&run), ["RunInProgress"], "{}", run["status"]);
    assert!(run["status"]["gates"].to_string().contains("by-hand"), "{}", run["status"]["gates"]);
    assert_eq!(world.replicas("cattle-system", "rancher").await.expect("it is there").0, 3);
    gate.open();
    let said = eventually(PATIENCE, || async {
        let (said, run) = operated.once("waits").await;
        anyhow::ensure!(end(&run) == outcome("Succeeded", "Succeeded"), "{}", run["status"]);
        Ok(said)
    })
    .await;
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert_rancher_is_back(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_operator_that_works_nothing_is_handed_over() {
    let operated = Operated::start().await;
    let Operated { world, .. } = &operated;
    let hold = async |second: usize, code: &str| {
        let at = format!("2026-11-23T10:00:{second:02}Z");
        operated.merge("gated", &[("requested-at", &at)], "  prune: false\n");
        let said = world.once().await;
        assert_eq!(said.code, Some(3), "{code}: {}", said.stderr);
        let runs = crate::process::runs_of(world, "gated").await.expect("the cluster answers");
        let held: Vec<Vec<&str>> = runs.iter().filter(|run| end(run).0 == "Held").map(holding).collect();
        assert_eq!(held, [[code]], "{said:?}");
        operated.no_restore().await;
    };
    kubectl(&operated, &["scale", "deployment", "-n", NAMESPACE, "rancher-backup", "--replicas=0"]);
    hold(1, "OperatorMissing").await;
    kubectl(&operated, &["scale", "deployment", "-n", NAMESPACE, "rancher-backup", "--replicas=1"]);
    super::available(world);
    // Left behind by one that died.
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "restore-controller", "namespace": NAMESPACE}, "spec": {"holderIdentity": "gone:1-2-3"}});
    world
        .cluster
        .kubectl(&["apply", "--server-side", "--force-conflicts", "-f", "-"], &lease.to_string())
        .expect("it is taken");
    hold(2, "RunInProgress").await;
    kubectl(&operated, &["delete", "lease", "-n", NAMESPACE, "restore-controller"]);
    // The operator would not find the key.
    let at = ("requested-at", "2026-11-23T10:00:03Z");
    operated.merge("gated", &[at], "  prune: false\n  encryptionConfigSecretName: nobody\n");
    let said = world.once().await;
    assert_eq!(said.code, Some(3), "{}", said.stderr);
    kubectl(&operated, &["delete", "deployment", "-n", NAMESPACE, "rancher-backup"]);
    hold(4, "OperatorMissing").await;
    assert_eq!(world.replicas("cattle-system", "rancher").await.expect("it is there").0, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn restores_of_the_same_name_that_ended_before_are_no_obstacle_unless_they_are_another_s() {
    let operated = Operated::start().await;
    let Operated { world, .. } = &operated;
    operated.merge("again", &[], "  prune: false\n");
    let (said, run) = operated.once("again").await;
    assert_eq!(said.code, Some(0), "{}\n{}", said.stderr, run["status"]);
    // Asked for once more: another key, and so another Restore beside the one that has ended.
    operated.merge("again", &[("requested-at", "2026-11-23T10:00:00Z")], "  prune: false\n");
    let said = world.once().await;
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let restores = operated.restores().await.expect("the cluster answers");
    assert_eq!(restores.len(), 2, "{restores:#?}");
    assert_rancher_is_back(world).await;

    // Somebody applied the manifest itself, and the operator has done it already.
    by_hand(&operated, "applied", json!({"backupFilename": world.backup, "prune": false}));
    kubectl(
        &operated,
        &[
            "wait",
            "--for=jsonpath={.status.restoreCompletionTs}",
            "--timeout=60s",
            "restores.resources.cattle.io/applied",
        ],
    );
    operated.merge("applied", &[("requested-at", "2026-11-23T10:00:01Z")], "  prune: false\n");
    let (said, run) = operated.once("applied").await;
    assert_eq!(said.code, Some(3), "{}", said.stderr);
    assert_eq!(holding(&run), ["AppliedElsewhere"], "{}", run["status"]);
}
