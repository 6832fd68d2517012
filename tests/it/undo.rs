//! Back from a run: by itself where the manifest asks for it, and by hand.

use std::collections::BTreeSet;
use std::process::Stdio;

use crate::harness::{AuditEvent, Bar, rancher};
use crate::process::{Process, forget_holder, phase, run_of, until_ended};
use crate::rollback::killed::{killed_before, recorded, sets_image, write};
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
    world.step_aside();
    let said = world.once().await;
    assert_eq!(said.code, Some(1), "{}\n{:?}", said.stderr, world.runs().await);
    differences
}

/// A field of what only the newer Rancher serves; empty where it is not there.
fn extension(world: &World, object: &str, field: &str) -> String {
    let field = format!("jsonpath={{{field}}}");
    let args = ["get", "-n", "cattle-system", object, "--ignore-not-found", "-o", &field];
    world.cluster.kubectl(&args, "").expect("kubectl answers")
}

async fn assert_undone(world: &World, differed: &BTreeSet<String>) {
    assert_eq!(image(world), "rancher/rancher:v2.12.1");
    assert_eq!(world.replicas("cattle-system", "rancher").await.expect("it is there"), (3, 3));
    let (fleet, _) = world.replicas("cattle-fleet-system", "fleet-controller").await.expect("it is there");
    assert_eq!(fleet, 1);
    // What the run deleted, since the older Rancher does not serve it, is there as it was.
    assert_eq!(extension(world, "apiservice/v1.ext.cattle.io", ".spec.service.name"), "api-extension");
    assert_eq!(extension(world, "service/api-extension", ".spec.ports[0].port"), "6666");
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
    let rules = "- Rules now: nothing: Rollback `back` failed (RancherNotReady) and was undone by `undo-back`; what was before it is back\n";
    assert!(world.dashboard().contains(rules), "{}", world.dashboard());
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

/// Somebody has made one of the two meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn killed_while_it_makes_again_what_the_run_deleted_an_undo_comes_to_the_same_end_and_writes_over_nothing() {
    let world = World::start().await;
    let differed = fails(&world, "Hold").await;
    assert_eq!(extension(&world, "apiservice/v1.ext.cattle.io", ".metadata.name"), "");
    let theirs = "{apiVersion: v1, kind: Service, metadata: {name: api-extension, namespace: cattle-system, \
                  labels: {by: hand}}, spec: {selector: {app: rancher}, ports: [{port: 6666}]}}";
    world.cluster.kubectl(&["create", "-f", "-"], theirs).expect("it is made");
    let planned = world.reinback(&["undo", "back"]).await;
    let told = "made again before v2.12.1 starts, since a run before deleted them: apiservices/v1.ext.cattle.io";
    assert!(planned.stdout.contains(told), "{planned:?}");
    let bar = Bar::install(&world.cluster).await;
    let mark = world.cluster.audit_mark();
    let stop = bar.before(write("CREATE", "apiservices", "v1.ext.cattle.io"));
    let mut undo = world.command(&["undo", "back", "--yes"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let undo = undo.as_mut().expect("it starts");
    assert!(stop.reached().await, "the APIService is never made: {:?}", world.runs().await);
    undo.kill().expect("it can be killed");
    undo.wait().expect("it ends");
    stop.drop_it();
    forget_holder(&world).await;
    let writes = [
        ("the version", sets_image("rancher/rancher:v2.12.1")),
        ("the end of the step", recorded("finished", "SetVersion")),
    ];
    for (what, write) in writes {
        killed_before(&world, &bar, "undo-back", what, write).await;
    }
    let _agent = Process::start(&world, &[]);
    let run = until_ended(&world, "undo-back").await;
    assert_eq!(phase(&run), "Succeeded", "{}", run["status"]);
    assert_undone(&world, &differed).await;
    assert_eq!(extension(&world, "service/api-extension", ".metadata.labels.by"), "hand");
    let events = world.cluster.audit_since(mark);
    let is_ours = |event: &&AuditEvent| event.user_agent.starts_with("reinback/") && event.response_status.code < 300;
    let made = events.iter().filter(is_ours).filter(|event| event.verb == "create");
    let made: Vec<_> = made.filter(|event| event.object_ref.resource == "apiservices").collect();
    let [made] = made[..] else { panic!("it is made once: {made:?}") };
    let is_rancher =
        |event: &&AuditEvent| event.object_ref.name == "rancher" && event.object_ref.resource == "deployments";
    let patches = events.iter().filter(is_ours).filter(is_rancher).map(|event| event.request_received_timestamp);
    assert!(patches.max().is_some_and(|last| made.request_received_timestamp < last), "before Rancher starts");
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
