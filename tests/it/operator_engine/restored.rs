//! A Restore that the operator carries out to its end.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use super::{ACCEPT, NAMESPACE, OPERATOR, Operated, deployment, end, outcome, warnings};
use crate::harness::AuditEvent;
use crate::harness::rancher;
use crate::process::{assert_quiet_during, assert_rancher_is_back, rancher_pods};
use crate::stand_in::Phase;

/// What the operator does not bring back of the fixture, all of it for one reason: owners that are roles.
pub fn is_known_loss(difference: &str) -> bool {
    difference.starts_with("clusterroles.") && difference.ends_with(": metadata: ownerReferences is missing")
}

/// Writes of the backup's objects by the operator.
pub fn operator_writes(events: &[AuditEvent]) -> Vec<&AuditEvent> {
    let is_write = |event: &&AuditEvent| {
        let object = &event.object_ref;
        let is_own = object.resource == "leases" || object.api_group == "resources.cattle.io";
        let is_rancher = object.resource == "deployments" && object.name == "rancher";
        event.user.username == OPERATOR && event.writes() && !is_own && !is_rancher && event.response_status.code < 300
    };
    events.iter().filter(is_write).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_restores_while_rancher_is_down_and_rancher_gets_back_what_it_had() {
    let operated = Operated::start().await;
    let Operated { world, .. } = &operated;
    let disturbed = operated.disturb(41).await;
    // Newer than the backup, in the operator's own namespace and in use: a prune of the operator would take it.
    let secret = ["create", "secret", "generic", "-n", NAMESPACE, "s3-credentials"];
    world.cluster.kubectl(&secret, "").expect("it is made");
    let backup = json!({"apiVersion": "resources.cattle.io/v1", "kind": "Backup", "metadata": {"name": "nightly"},
        "spec": {"storageLocation": {"s3": {"credentialSecretName": "s3-credentials", "credentialSecretNamespace": NAMESPACE}}}});
    world.cluster.kubectl(&["create", "-f", "-"], &backup.to_string()).expect("it is made");
    let pods = rancher_pods(world).await.expect("the cluster answers");
    let mark = world.cluster.audit_mark();
    operated.merge("handed", &[], "  prune: true\n");
    let (said, run) = operated.once("handed").await;
    assert_eq!(said.code, Some(0), "{}\n{}", said.stderr, run["status"]);
    assert_eq!(end(&run), outcome("Succeeded", "Succeeded"), "{}", run["status"]);
    assert_rancher_is_back(world).await;

    let left = world.differences().await;
    assert!(left.iter().all(|line| is_known_loss(line)), "{left:#?}");
    assert!(!left.is_empty(), "the stand-in has lost its defects");
    for place in &disturbed.added {
        assert_eq!(rancher::get(&world.client, place).await.expect("the cluster answers"), None, "{place}");
    }
    world.cluster.kubectl(&["get", "secret", "-n", NAMESPACE, "s3-credentials"], "").expect("it was spared");
    // What was not brought back is told.
    let first = left[0].split(": ").next().expect("a place");
    let name = first.rsplit('/').next().expect("a name");
    assert!(run["status"].to_string().contains(name), "{name}: {}", run["status"]);

    let restore = operated.restore().await;
    assert_eq!(restore["spec"]["prune"], json!(false), "its prune would have taken a protected Secret");
    assert_eq!(restore["metadata"]["ownerReferences"], Value::Null);
    assert_eq!(restore["metadata"]["labels"]["app.kubernetes.io/managed-by"], "reinback");
    let annotations = &restore["metadata"]["annotations"];
    assert_eq!(annotations["reinback.io/run"], run["metadata"]["name"]);
    assert_eq!(annotations["reinback.io/run-key"], run["spec"]["key"]);

    // Rancher was down before the Restore was there, and until the operator had ended.
    let events = world.cluster.audit_since(mark);
    let at = |of: &dyn Fn(&AuditEvent) -> bool| events.iter().position(of);
    let is_ours = |event: &AuditEvent| event.user_agent.starts_with("reinback/");
    let scaled = at(&|event| is_ours(event) && event.verb == "patch" && event.object_ref.name == "rancher");
    let handed = at(&|event| is_ours(event) && event.verb == "create" && event.object_ref.resource == "restores");
    assert!(scaled.expect("it was scaled") < handed.expect("it was handed over"));
    let writes = operator_writes(&events);
    assert!(writes.len() > 300, "{} writes", writes.len());
    assert_quiet_during(&writes, &events, &pods, Duration::ZERO);
    // The operator starts it in the middle with what the backup says.
    let fleet = deployment(world, "cattle-fleet-system", "fleet-controller").await.expect("it is there");
    assert_eq!(fleet["spec"]["replicas"], 1);
    assert_eq!(fleet["metadata"]["annotations"].get("reinback.io/replicas"), None);
    assert!(warnings(&run).contains("fleet-controller"), "{}", warnings(&run));

    // It has ended for good: the same manifest does nothing any more.
    world.touch();
    let mark = world.cluster.audit_mark();
    assert_eq!(world.once().await.code, Some(0));
    assert_eq!(operator_writes(&world.cluster.audit_since(mark)).len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_operator_did_not_bring_back_is_mended_where_that_is_asked() {
    let operated = Operated::of(|world| world.policy = "repair: true".to_owned()).await;
    let Operated { world, .. } = &operated;
    operated.disturb(42).await;
    operated.merge("mended", &[], "  prune: true\n");
    let (said, run) = operated.once("mended").await;
    assert_eq!(said.code, Some(0), "{}\n{}", said.stderr, run["status"]);
    assert_eq!(end(&run), outcome("Succeeded", "Succeeded"), "{}", run["status"]);
    assert_eq!(world.differences().await, Vec::<String>::new());
    assert_rancher_is_back(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_only_the_operator_can_read_goes_to_the_operator_and_the_plan_says_what_it_cannot_know() {
    let operated = Operated::of(|world| world.has_store = false).await;
    let Operated { world, .. } = &operated;
    operated.disturb(43).await;
    let auto = [("engine", "auto"), ("accept", "VersionMismatch")];
    operated.merge("unread", &auto, "  prune: true\n");
    let (said, run) = operated.once("unread").await;
    assert_eq!(said.code, Some(3), "{}\n{}", said.stderr, run["status"]);
    assert_eq!(super::holding(&run), ["PlanIncomplete"], "{}", run["status"]);
    operated.no_restore().await;

    let accepted = [("engine", "auto"), ("accept", ACCEPT), ("requested-at", "2026-11-23T10:00:00Z")];
    operated.merge("unread", &accepted, "  prune: true\n");
    let said = world.once().await;
    assert_eq!(said.code, Some(0), "{}\n{:?}", said.stderr, world.runs().await);
    let left = world.differences().await;
    assert!(left.iter().all(|line| is_known_loss(line)), "{left:#?}");
    assert_rancher_is_back(world).await;
    let reached: BTreeSet<Phase> = operated.script().reached().into_iter().collect();
    assert_eq!(reached, Phase::ALL.into_iter().collect());
}
