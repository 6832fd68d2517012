//! A Rollback of which the operator brings the data, and reinback the version.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use super::restored::{is_known_loss, operator_writes};
use super::{ACCEPT, NAMESPACE, OPERATOR, Operated, assert_held_at_zero, end, outcome, warnings};
use crate::harness::rancher::Item;
use crate::harness::{AuditEvent, Bar};
use crate::process::{Process, assert_rancher_is_back, message, run_of, until_ended};
use crate::rollback::killed::{killed_before, recorded, sets_image};
use crate::rollback::{
    assert_helm_started_it_after, assert_no_rancher_ran_in_between, by_helm_with, image, revisions, upgraded_with,
};
use crate::stand_in::Phase;
use crate::undo::NO_SUCH_IMAGE;
use crate::world::World;

/// By what the version is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    Image,
    /// Of this program.
    Helm(&'static str),
}

impl By {
    fn method(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Helm(_) => "helm",
        }
    }

    /// What ran before.
    fn newer(self) -> &'static str {
        match self {
            Self::Image => "rancher/rancher:v2.12.1",
            Self::Helm(_) => "rancher/rancher:v2.10.1",
        }
    }
}

/// What of the backup is not the operator's own, which nothing of ours disturbs.
fn others(world: &World) -> Vec<Item> {
    let others = world.items.iter().filter(|item| item.place.namespace.as_deref() != Some(NAMESPACE));
    others.cloned().collect()
}

/// An upgrade after a backup of v2.9.3, whose name is given.
pub async fn upgrade(world: &mut World, by: By) -> String {
    let items = others(world);
    match by {
        By::Image => upgraded_with(world, &items).await,
        By::Helm(program) => by_helm_with(world, program, "replicas=3", &items).await,
    }
}

/// Merges the Rollback.
pub fn merge(world: &World, by: By, backup: &str, annotations: &[(&str, &str)]) {
    let spec = format!(
        "  toVersion: v2.9.3\n  versionMethod: {}\n  restore: {{backupFilename: {backup}, prune: true}}\n",
        by.method()
    );
    let annotations = [&[("accept", ACCEPT), ("engine", "operator")], annotations].concat();
    world.commit_rollback("back", &annotations, &spec);
}

/// The operator has done its Restore, is at nothing any more, and runs as before.
pub async fn assert_let_go(operated: &Operated) {
    let restores = operated.restores().await.expect("the cluster answers");
    let [restore] = &restores[..] else { panic!("{restores:#?}") };
    assert!(restore["status"]["restoreCompletionTs"].as_str().is_some_and(|time| !time.is_empty()), "{restore}");
    let lease = ["get", "lease", "-n", NAMESPACE, "restore-controller", "-o", "jsonpath={.spec.holderIdentity}"];
    assert_eq!(operated.world.cluster.kubectl(&lease, "").expect("it stays"), "");
    assert_eq!(operated.operator_replicas().await, (1, json!(null)));
}

/// The version is as declared, Rancher runs as before, and all but what the operator loses is as in the backup.
pub async fn assert_rolled_back(operated: &Operated, by: By) {
    let world = &operated.world;
    assert_eq!(image(world), "rancher/rancher:v2.9.3");
    assert_rancher_is_back(world).await;
    let left = world.differences().await;
    // The version that the setting says is the backup's, and not the fixture's; and Helm marks what is its release's.
    let others = ["settings.management.cattle.io#v3/server-version: ", "serviceaccounts.#v1/cattle-system/rancher: "];
    let is_other = |line: &String| others.iter().any(|other| line.starts_with(other));
    let left: Vec<&String> = left.iter().filter(|line| !is_known_loss(line) && !is_other(line)).collect();
    assert_eq!(left, Vec::<&String>::new());
    if let By::Helm(program) = by {
        let last = revisions(world, program).pop().expect("it has some");
        assert_eq!((last.1.as_str(), last.2.as_str()), ("v2.9.3", "deployed"));
    }
    assert_let_go(operated).await;
}

/// No Rancher ran from the scale-down to the version, and by then the operator had written its last.
pub fn assert_quiet(world: &World, mark: usize, by: By) {
    let is_of_the_data = |event: &AuditEvent| !operator_writes(std::slice::from_ref(event)).is_empty();
    match by {
        By::Image => assert_no_rancher_ran_in_between(world, mark),
        By::Helm(_) => assert_helm_started_it_after(world, mark, is_of_the_data),
    }
    let events = world.cluster.audit_since(mark);
    let is_rancher = |event: &&AuditEvent| {
        let object = &event.object_ref;
        object.resource == "deployments" && object.name == "rancher" && event.writes()
    };
    let by_operator = events.iter().filter(is_rancher).filter(|event| event.user.username == OPERATOR);
    assert!(by_operator.count() >= 2, "the operator scales Rancher, too, and up in the end");
}

async fn comes_back(by: By) {
    let mut operated = Operated::start().await;
    let backup = upgrade(&mut operated.world, by).await;
    let mark = operated.world.cluster.audit_mark();
    merge(&operated.world, by, &backup, &[]);
    let (said, run) = operated.once("back").await;
    assert_eq!(said.code, Some(0), "{}\n{}", said.stderr, run["status"]);
    assert_eq!(end(&run), outcome("Succeeded", "Succeeded"), "{}", run["status"]);
    let steps = run["status"]["steps"].as_array().expect("steps").iter().filter_map(|step| step["step"].as_str());
    let steps: Vec<&str> = steps.skip_while(|step| *step != "Operator").filter(|step| *step != "Prune").collect();
    assert_eq!(steps, ["Operator", "SetVersion", "Resume", "Verify"]);
    assert_rolled_back(&operated, by).await;
    assert_quiet(&operated.world, mark, by);
    // It remembers the 0 that it found.
    let log = operated.script().log();
    assert!(log.iter().any(|line| line.ends_with("Scaling up controllerRef rancher to 0")), "{log:#?}");
    // It has ended for good.
    let again = operated.world.once().await;
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    assert_let_go(&operated).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_brings_the_data_and_the_image_brings_the_version() {
    comes_back(By::Image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_brings_the_data_and_helm_3_brings_the_version() {
    comes_back(By::Helm("helm")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_brings_the_data_and_helm_4_brings_the_version() {
    comes_back(By::Helm("helm4")).await;
}

async fn killed(by: By) {
    let mut operated = Operated::start().await;
    let backup = upgrade(&mut operated.world, by).await;
    let bar = Bar::install(&operated.world.cluster).await;
    let mark = operated.world.cluster.audit_mark();
    merge(&operated.world, by, &backup, &[]);
    let writes = [
        ("the end of the operator's step", recorded("finished", "Operator")),
        ("the step that sets the version", recorded("started", "SetVersion")),
        ("the journal of what is set back", recorded("versionHad", "")),
        ("the version", sets_image("rancher/rancher:v2.9.3")),
        ("the end of the step that sets the version", recorded("finished", "SetVersion")),
    ];
    for (what, write) in writes {
        killed_before(&operated.world, &bar, "back", what, write).await;
    }
    let _agent = Process::start(&operated.world, &[]);
    let run = until_ended(&operated.world, "back").await;
    assert_eq!(end(&run), outcome("Succeeded", "Succeeded"), "{}", run["status"]);
    assert_rolled_back(&operated, by).await;
    assert_quiet(&operated.world, mark, by);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_the_operators_end_and_the_image_a_rollback_comes_to_the_same_end() {
    killed(By::Image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_the_operators_end_and_helms_a_rollback_comes_to_the_same_end() {
    killed(By::Helm("helm")).await;
}

/// Two of them run from the middle on; the second comes to the end, and the first is still at it.
async fn started_anew(dies: bool) {
    let by = By::Helm("helm");
    let mut operated = Operated::start().await;
    let backup = upgrade(&mut operated.world, by).await;
    let Operated { world, .. } = &operated;
    let bar = Bar::install(&world.cluster).await;
    let gate = operated.script().hold(Phase::Namespaced);
    let mark = world.cluster.audit_mark();
    merge(world, by, &backup, &[]);
    let stop = dies.then(|| bar.before(recorded("started", "SetVersion")));
    let agent = Process::start(world, &[]);
    gate.reached().await;
    // Times are whole seconds: it is newer than the Restore.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let scale = |count: &str| {
        let args = ["scale", "deployment", "-n", NAMESPACE, "rancher-backup", count];
        world.cluster.kubectl(&args, "").expect("it is scaled");
    };
    scale("--replicas=2");
    let agent = match stop {
        None => agent,
        Some(stop) => {
            assert!(stop.reached().await, "the step never begins");
            agent.kill();
            stop.drop_it();
            crate::process::forget_holder(world).await;
            Process::start(world, &[])
        }
    };
    let run = until_ended(world, "back").await;
    agent.kill();
    gate.open();
    assert_eq!(end(&run), outcome("Succeeded", "Succeeded"), "{}", run["status"]);
    assert!(warnings(&run).contains("started anew while it restored"), "{}", warnings(&run));
    assert_eq!(operated.operator_replicas().await, (2, json!(null)));
    assert_rancher_is_back(world).await;
    let events = world.cluster.audit_since(mark);
    let of = |name: &'static str, event: &AuditEvent| {
        event.object_ref.resource == "deployments" && event.object_ref.name == name && event.writes()
    };
    let started = events.iter().position(|event| of("rancher", event) && event.user_agent.contains("elm"));
    let is_ours = |event: &AuditEvent| event.user_agent.starts_with("reinback/");
    let stopped = events.iter().position(|event| of("rancher-backup", event) && is_ours(event));
    assert!(stopped.expect("it was stopped") < started.expect("helm started Rancher"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_was_started_anew_is_stopped_before_helm_starts_rancher() {
    started_anew(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_goes_on_with_a_rollback_sees_that_the_operator_was_started_anew() {
    started_anew(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_cannot_be_set_after_the_operator_leaves_rancher_at_zero_and_is_undone_by_hand() {
    let mut operated = Operated::start().await;
    let backup = upgrade(&mut operated.world, By::Image).await;
    let Operated { world, .. } = &operated;
    let before: BTreeSet<String> = world.differences().await.into_iter().collect();
    let gate = operated.script().hold(Phase::Namespaced);
    merge(world, By::Image, &backup, &[]);
    let agent = Process::start(world, &[]);
    gate.reached().await;
    // Somebody upgrades meanwhile.
    let args = ["set", "image", "-n", "cattle-system", "deployment/rancher", "rancher=rancher/rancher:v2.12.5"];
    world.cluster.kubectl(&args, "").expect("it is set");
    gate.open();
    let run = until_ended(world, "back").await;
    agent.kill();
    crate::process::forget_holder(world).await;
    assert_eq!(end(&run), outcome("Failed", "SetVersionFailed"), "{}", run["status"]);
    assert!(message(&run).contains("`reinback undo back` goes back"), "{}", message(&run));
    assert_held_at_zero(world).await;
    assert_let_go(&operated).await;

    let said = world.reinback(&["undo", "back", "--yes"]).await;
    assert_eq!(said.code, Some(0), "{}{}", said.stdout, said.stderr);
    assert_undone(&operated, By::Image, &before).await;
}

/// All is as before the run, of which `before` says what differed.
async fn assert_undone(operated: &Operated, by: By, before: &BTreeSet<String>) {
    let world = &operated.world;
    assert_eq!(image(world), by.newer());
    assert_rancher_is_back(world).await;
    let now: BTreeSet<String> = world.differences().await.into_iter().collect();
    assert_eq!(now.symmetric_difference(before).collect::<Vec<_>>(), Vec::<&String>::new());
    assert_eq!(operated.operator_replicas().await, (1, json!(null)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_fails_for_ever_is_taken_back_and_the_rollback_undone_where_the_manifest_asks_for_it() {
    let by = By::Helm("helm");
    let mut operated = Operated::start().await;
    let backup = upgrade(&mut operated.world, by).await;
    let Operated { world, .. } = &operated;
    let before: BTreeSet<String> = world.differences().await.into_iter().collect();
    operated.script().fail(Phase::Namespaced, "no", None);
    merge(world, by, &backup, &[("on-failure", "Undo")]);
    let said = world.once().await;
    assert_eq!(said.code, Some(1), "{}\n{:?}", said.stderr, world.runs().await);
    assert_eq!(
        world.runs().await,
        [ended("back", "Failed", "OperatorFailed"), ended("undo-back", "Succeeded", "Succeeded")]
    );
    operated.no_restore().await;
    assert_undone(&operated, by, &before).await;
}

fn ended(name: &str, phase: &str, reason: &str) -> (String, String, String) {
    (name.to_owned(), phase.to_owned(), reason.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_does_not_come_up_after_the_operator_is_undone_where_the_manifest_asks_for_it() {
    let mut operated = Operated::start().await;
    let backup = upgrade(&mut operated.world, By::Image).await;
    let Operated { world, .. } = &operated;
    let before: BTreeSet<String> = world.differences().await.into_iter().collect();
    world.cluster.kubectl(&["apply", "-f", "-"], NO_SUCH_IMAGE).expect("the policy is taken");
    merge(world, By::Image, &backup, &[("on-failure", "Undo"), ("timeout", "90s")]);
    let said = world.once().await;
    assert_eq!(said.code, Some(1), "{}\n{:?}", said.stderr, world.runs().await);
    assert_eq!(
        world.runs().await,
        [ended("back", "Failed", "RancherNotReady"), ended("undo-back", "Succeeded", "Succeeded")]
    );
    assert_undone(&operated, By::Image, &before).await;
    let run = run_of(world, "back").await.expect("a run");
    assert_eq!(run["status"]["undoneBy"], Value::from("undo-back"), "{}", message(&run));
}
