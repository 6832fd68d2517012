//! The rights that a run takes: those of docs/rbac.yaml, no fewer.

use std::path::Path;

use serde::Deserialize as _;
use serde_json::{Value, json};

use super::{Asked, apply};
use crate::examples::upgraded_by_helm;
use crate::harness::rancher::{self, Disturbance};
use crate::rollback::{EXTENSION, image};
use crate::stand_in::{Settings, StandIn, definitions};
use crate::world::World;

const DISTURBED: Disturbance = Disturbance { changed_percent: 29, deleted_percent: 9, added: 20, seed: 5 };
const USER: &str = "limited";

/// So that the sudo identity is asked for: its account, and a webhook that judges settings and may be passed over; and one that
/// may not be, and is silenced.
const RANCHER_WEBHOOK: &str = r#"
apiVersion: v1
kind: ServiceAccount
metadata: {name: rancher-webhook-sudo, namespace: cattle-system}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: rancher.cattle.io}
webhooks:
  - name: rancher.cattle.io.settings
    clientConfig: {service: {namespace: cattle-system, name: rancher-webhook}}
    failurePolicy: Ignore
    sideEffects: None
    admissionReviewVersions: [v1]
    rules:
      - {operations: ["*"], apiGroups: [management.cattle.io], apiVersions: [v3], resources: [settings, users]}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: dead}
webhooks:
  - name: dead.example.org
    clientConfig: {service: {namespace: cattle-system, name: gone}}
    failurePolicy: Fail
    sideEffects: None
    admissionReviewVersions: [v1]
    rules:
      - {operations: ["*"], apiGroups: [management.cattle.io], apiVersions: [v3], resources: [users]}
"#;

/// The documents of docs/rbac.yaml, bound to the test's user in place of the service account.
fn documents() -> Vec<Value> {
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/rbac.yaml")).expect("it is there");
    let documents =
        serde_yaml::Deserializer::from_str(&text).map(|document| Value::deserialize(document).expect("YAML"));
    let mut documents: Vec<Value> = documents.collect();
    for document in &mut documents {
        if document["subjects"].is_array() {
            document["subjects"] = json!([{"kind": "User", "name": USER, "apiGroup": "rbac.authorization.k8s.io"}]);
        }
    }
    documents
}

fn grant(world: &World, documents: &[Value]) {
    apply(world, &documents.iter().map(Value::to_string).collect::<Vec<_>>().join("\n---\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_rights_carry_a_whole_run_and_without_any_of_them_the_plan_says_which_is_missing() {
    let world = World::start().await;
    let user = world.cluster.user(USER);
    super::kubectl(&world, &["create", "namespace", "reinback-system"]);
    let all = documents();
    grant(&world, &all);
    let said = world.reinback_as(&user.kubeconfig, &["agent", "--once", "--install-crd"]).await;
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    // So that every right is asked for: something of each kind to make, to change and to delete.
    rancher::disturb(&world.client, &world.items, DISTURBED).await.expect("disturbed");
    super::kubectl(&world, &["label", "crd", "clusters.management.cattle.io", "disturbed=yes"]);
    apply(&world, RANCHER_WEBHOOK);
    let ask =
        Asked::of(&world).spec("prune: true").annotated("reinback.io/accept", "DownstreamReverts, WebhookUnavailable");
    ask.plan_as(&user.kubeconfig).await.assert_held_by(&[]);

    for (number, document) in all.iter().enumerate().filter(|(_, document)| document["rules"].is_array()) {
        for rule in 0..document["rules"].as_array().map_or(0, Vec::len) {
            let mut fewer = document.clone();
            let dropped = fewer["rules"].as_array_mut().expect("rules").remove(rule);
            // A run that nobody can be told of by Events is a run all the same; this backup has no priority class; and nothing is
            // handed to the operator or to helm.
            let others =
                ["apiservices", "events", "ingresses", "persistentvolumeclaims", "priorityclasses", "restores"];
            if others.iter().any(|plural| dropped["resources"][0] == *plural) {
                continue;
            }
            grant(&world, std::slice::from_ref(&fewer));
            if rule == 0 && number == 0 {
                let said = world.reinback_as(&user.kubeconfig, &["plan"]).await;
                assert_eq!(said.code, Some(1), "{said:?}");
                assert!(
                    said.stderr.contains("the right to get namespaces is missing; docs/rbac.yaml"),
                    "{}",
                    said.stderr
                );
                continue;
            }
            let held = ask.plan_as(&user.kubeconfig).await;
            assert_eq!(held.code, Some(3), "without {dropped}");
            held.assert_held_by(&["PermissionDenied"]);
        }
        grant(&world, std::slice::from_ref(document));
    }
    ask.plan_as(&user.kubeconfig).await.assert_held_by(&[]);
    ask.commit();
    let said = world.reinback_as(&user.kubeconfig, &["agent", "--once"]).await;
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert_eq!(world.differences().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_rights_carry_a_run_of_the_operator_and_without_its_own_the_plan_says_which_is_missing() {
    let world = World::start().await;
    let user = world.cluster.user(USER);
    super::kubectl(&world, &["create", "namespace", "reinback-system"]);
    apply(&world, &definitions().iter().map(Value::to_string).collect::<Vec<_>>().join("\n---\n"));
    let _operator = StandIn::install(world.client.clone(), Settings::new(world.store())).await;
    let available = ["wait", "--for=condition=Available", "--timeout=120s", "-n", "cattle-resources-system"];
    super::kubectl(&world, &[&available[..], &["deployment/rancher-backup"]].concat());
    let all = documents();
    grant(&world, &all);
    let said = world.reinback_as(&user.kubeconfig, &["agent", "--once", "--install-crd"]).await;
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    rancher::disturb(&world.client, &world.items, DISTURBED).await.expect("disturbed");
    let accept = "DownstreamReverts, PruneShare, VersionMismatch";
    let ask = Asked::of(&world).spec("prune: true").annotated("reinback.io/engine", "operator");
    let ask = ask.annotated("reinback.io/accept", accept);
    ask.plan_as(&user.kubeconfig).await.assert_held_by(&[]);

    let mut fewer = all.clone();
    fewer[0]["rules"].as_array_mut().expect("rules").retain(|rule| rule["resources"][0] != "restores");
    grant(&world, &fewer[..1]);
    let held = ask.plan_as(&user.kubeconfig).await;
    held.assert_held_by(&["PermissionDenied"]);
    insta::assert_snapshot!(held.message("PermissionDenied"), @"2 rights are missing: create restores.resources.cattle.io, delete restores.resources.cattle.io");
    grant(&world, &all);
    ask.commit();
    let said = world.reinback_as(&user.kubeconfig, &["agent", "--once"]).await;
    assert_eq!(said.code, Some(0), "{}", said.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_rights_carry_a_rollback_by_helm_and_without_its_own_the_plan_says_which_is_missing() {
    let mut world = World::start().await;
    let user = world.cluster.user(USER);
    super::kubectl(&world, &["create", "namespace", "reinback-system"]);
    let all = documents();
    grant(&world, &all);
    let said = world.reinback_as(&user.kubeconfig, &["agent", "--once", "--install-crd"]).await;
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let backup = upgraded_by_helm(&mut world);
    apply(&world, EXTENSION);
    let spec = format!("  toVersion: v2.9.3\n  restore: {{backupFilename: {backup}, prune: true}}\n");
    world.commit_rollback("back", &[], &spec);

    let mut fewer = all.clone();
    fewer[0]["rules"].as_array_mut().expect("rules").retain(|rule| rule["resources"][0] != "apiservices");
    grant(&world, &fewer[..1]);
    let held = world.reinback_as(&user.kubeconfig, &["plan"]).await;
    assert_eq!(held.code, Some(3), "{held:?}");
    assert!(held.stdout.contains("missing: delete apiservices.apiregistration.k8s.io"), "{}", held.stdout);

    // What the release consists of is helm's to write and to delete, as reinback, also where no data takes that right.
    world.commit_rollback("alone", &[("accept", "VersionMismatch")], "  toVersion: v2.9.3\n");
    let mut fewer = all.clone();
    let rules = fewer[0]["rules"].as_array_mut().expect("rules");
    for rule in rules.iter_mut().filter(|rule| rule["resources"][0] == "configmaps") {
        rule["resources"] = json!(["namespaces", "secrets"]);
    }
    grant(&world, &fewer[..1]);
    let held = world.reinback_as(&user.kubeconfig, &["plan", "-o", "json"]).await;
    assert_eq!(held.code, Some(3), "{held:?}");
    let plans: Value = serde_json::from_str(&held.stdout).expect("JSON");
    let gates = plans["plans"][0]["gates"].as_array().or(plans[0]["gates"].as_array()).expect("gates");
    let denied = gates.iter().find(|gate| gate["code"] == "PermissionDenied").expect("it holds the plan");
    insta::assert_snapshot!(denied["message"].as_str().expect("a message"), @"8 rights are missing: create configmaps in cattle-system, create serviceaccounts in cattle-system, create services in cattle-system, delete configmaps in cattle-system, delete services in cattle-system, patch configmaps in cattle-system, patch serviceaccounts in cattle-system, patch services in cattle-system");
    world.work.git(&["rm", "-q", "clusters/test/alone.yaml"]);
    world.work.commit("Remove alone");
    world.work.push(&["origin", "HEAD:main"]);
    grant(&world, &all);
    let said = world.reinback_as(&user.kubeconfig, &["agent", "--once"]).await;
    assert_eq!(said.code, Some(0), "{}\n{:?}", said.stderr, world.runs().await);
    assert_eq!(image(&world), "rancher/rancher:v2.9.3");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_only_read_some_types_is_told_every_right_that_is_missing() {
    let world = World::start().await;
    rancher::disturb(&world.client, &world.items, DISTURBED).await.expect("disturbed");
    let user = world.cluster.user(USER);
    let rules = json!([
        {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get", "list"]},
        {"apiGroups": ["management.cattle.io"], "resources": ["*"], "verbs": ["*"]},
        {"apiGroups": ["reinback.io"], "resources": ["*"], "verbs": ["*"]},
    ]);
    let mut few = documents();
    few.retain(|document| document["kind"] != "Role" && document["kind"] != "RoleBinding");
    few[0]["rules"] = rules;
    grant(&world, &few);
    let held = Asked::of(&world).plan_as(&user.kubeconfig).await;
    let message = held.message("PermissionDenied");
    assert_eq!(held.code, Some(3));
    insta::assert_snapshot!(message, @"121 rights are missing: bind clusterroles.rbac.authorization.k8s.io, bind roles.rbac.authorization.k8s.io, create secrets, create serviceaccounts, create customresourcedefinitions.apiextensions.k8s.io, create deployments.apps, create apps.catalog.cattle.io, create clusterrepos.catalog.cattle.io, create machines.cluster.x-k8s.io, create leases.coordination.k8s.io in reinback-system and 111 more");
}

/// What is needed to know what ran, to be alone, and to record: by group and resource.
const LEDGER: [(&str, &str, &[&str]); 5] = [
    ("", "namespaces", &["get"]),
    ("apiextensions.k8s.io", "customresourcedefinitions", &["get"]),
    ("coordination.k8s.io", "leases", &["get", "create", "update"]),
    ("reinback.io", "runs", &["get", "list", "create"]),
    ("reinback.io", "runs/status", &["update"]),
];

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_read_or_write_the_ledger_is_told_which_right_is_missing_and_where_all_of_them_stand() {
    let world = World::start().await;
    world.settle().await;
    let user = world.cluster.user(USER);
    let ask = Asked::of(&world).backup("not-there-0-2026-11-23T05-58-54Z.tar.gz");
    ask.commit();
    let mut documents = documents();
    documents.retain(|document| document["kind"] == "ClusterRole" || document["kind"] == "ClusterRoleBinding");
    let rule = |(group, resource, verbs): (&str, &str, &[&str])| json!({"apiGroups": [group], "resources": [resource], "verbs": verbs});
    let once = async |rules: Vec<Value>| {
        let mut documents = documents.clone();
        for document in documents.iter_mut().filter(|document| document["rules"].is_array()) {
            document["rules"] = rules.clone().into();
        }
        grant(&world, &documents);
        // A lease that is there would be renewed, and never made.
        super::kubectl(&world, &["delete", "lease", "-n", "reinback-system", "--all"]);
        super::kubectl(&world, &["delete", "runs.reinback.io", "-n", "reinback-system", "--all"]);
        world.reinback_as(&user.kubeconfig, &["agent", "--once", "--install-crd"]).await
    };
    let said = once(LEDGER.map(rule).to_vec()).await;
    assert_eq!(said.code, Some(3), "these are enough to look and to hold: {}", said.stderr);
    for (number, (group, resource, verbs)) in LEDGER.iter().enumerate() {
        // To renew a lease that was just made takes longer than this pass, but it is given back.
        for verb in verbs.iter().filter(|verb| (**verb, *resource) != ("update", "leases")) {
            let fewer: Vec<&str> = verbs.iter().filter(|other| *other != verb).copied().collect();
            let mut rules = LEDGER.map(rule).to_vec();
            rules[number] = rule((*group, *resource, &fewer));
            // A rule without verbs is refused.
            rules.retain(|rule| rule["verbs"] != json!([]));
            let said = once(rules).await;
            assert_eq!(said.code, Some(1), "without {verb} {resource}: {}", said.stderr);
            let (plural, subresource) = resource.split_once('/').unwrap_or((resource, ""));
            let of_group = if group.is_empty() { String::new() } else { format!(".{group}") };
            let slash = if subresource.is_empty() { "" } else { "/" };
            let right =
                format!("the right to {verb} {plural}{of_group}{slash}{subresource} is missing; docs/rbac.yaml has");
            assert!(said.stderr.lines().last().unwrap_or_default().contains(&right), "{right}: {}", said.stderr);
        }
    }
}
