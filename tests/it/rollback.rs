//! Data and version of Rancher brought back by one manifest.

use serde_json::Value;

use crate::harness::AuditEvent;
use crate::harness::rancher::{self, Disturbance};
use crate::process::run_of;
use crate::world::World;

const DISTURBED: Disturbance = Disturbance { changed_percent: 10, deleted_percent: 3, added: 10, seed: 11 };
pub const ACCEPT: (&str, &str) = ("accept", "PruneShare, DownstreamReverts");

/// What a Rancher since 2.11 makes when it runs.
const EXTENSION: &str = "\
{apiVersion: v1, kind: Service, metadata: {name: api-extension, namespace: cattle-system}, spec: {selector: {app: rancher}, ports: [{port: 6666}]}}
---
{apiVersion: apiregistration.k8s.io/v1, kind: APIService, metadata: {name: v1.ext.cattle.io}, spec: {group: ext.cattle.io, version: v1, groupPriorityMinimum: 100, versionPriority: 100, insecureSkipTLSVerify: true, service: {name: api-extension, namespace: cattle-system, port: 6666}}}
";

/// A Rancher that was upgraded to v2.12.1 after a backup of v2.9.3, whose name is given.
pub async fn upgraded(world: &World) -> String {
    let backup = world.repack("of-2-9-3", |entries| {
        let (_, version) = entries
            .iter_mut()
            .find(|(path, _)| path == "settings.management.cattle.io#v3/server-version")
            .expect("every Rancher has it");
        version["value"] = "v2.9.3".into();
    });
    rancher::disturb(&world.client, &world.items, DISTURBED).await.expect("disturbed");
    let kubectl = |args: &[&str], stdin: &str| world.cluster.kubectl(args, stdin).expect("kubectl does it");
    kubectl(
        &["patch", "settings.management.cattle.io", "server-version", "--type=merge", "-p", r#"{"value": "v2.12.1"}"#],
        "",
    );
    kubectl(&["set", "image", "-n", "cattle-system", "deployment/rancher", "rancher=rancher/rancher:v2.12.1"], "");
    kubectl(&["apply", "-f", "-"], EXTENSION);
    let rollout = ["rollout", "status", "-n", "cattle-system", "deployment/rancher", "--timeout=60s"];
    kubectl(&rollout, "");
    backup
}

pub fn image(world: &World) -> String {
    let path = "jsonpath={.spec.template.spec.containers[0].image}";
    world
        .cluster
        .kubectl(&["get", "deployment", "-n", "cattle-system", "rancher", "-o", path], "")
        .expect("it is there")
}

#[tokio::test(flavor = "multi_thread")]
async fn data_and_version_come_back_by_one_manifest_and_no_rancher_runs_in_between() {
    let world = World::start().await;
    world.settle().await;
    let backup = upgraded(&world).await;
    let mark = world.cluster.audit_mark();
    let spec =
        format!("  toVersion: v2.9.3\n  versionMethod: image\n  restore: {{backupFilename: {backup}, prune: true}}\n");
    world.commit_rollback("back-to-2-9-3", &[ACCEPT], &spec);
    let planned = world.reinback(&["plan"]).await;
    assert_eq!(planned.code, Some(2), "{}{}", planned.stdout, planned.stderr);
    let sentence = "from v2.12.1 to v2.9.3 by image rancher/rancher:v2.9.3, now rancher/rancher:v2.12.1";
    assert!(planned.stdout.contains(sentence), "{}", planned.stdout);

    let said = world.once().await;

    assert_eq!(said.code, Some(0), "{}\n{:?}", said.stderr, world.runs().await);
    assert_eq!(image(&world), "rancher/rancher:v2.9.3");
    assert_eq!(world.replicas("cattle-system", "rancher").await.expect("it is there"), (3, 3));
    let left = world.cluster.kubectl(&["get", "apiservice", "v1.ext.cattle.io", "--ignore-not-found"], "");
    assert_eq!(left.expect("kubectl answers"), "");
    let left =
        world.cluster.kubectl(&["get", "service", "-n", "cattle-system", "api-extension", "--ignore-not-found"], "");
    assert_eq!(left.expect("kubectl answers"), "");
    let run = run_of(&world, "back-to-2-9-3").await.expect("a run");
    let steps: Vec<&str> =
        run["status"]["steps"].as_array().expect("steps").iter().filter_map(|step| step["step"].as_str()).collect();
    assert_eq!(steps[steps.len() - 4..], ["Prune", "SetVersion", "Resume", "Verify"], "{steps:?}");
    let journal = run["status"]["journal"].as_array().expect("a journal");
    let had = journal.iter().find(|entry| entry["event"] == "versionHad").expect("what it was set back from");
    assert_eq!(had["had"]["image"], "rancher/rancher:v2.12.1");
    assert_eq!(had["had"]["removed"].as_array().map(Vec::len), Some(2), "{had}");
    assert_no_rancher_ran_in_between(&world, mark);
    // The manifest is done: asked again, it does nothing.
    let again = world.once().await;
    assert_eq!(again.code, Some(0), "{}", again.stderr);
}

/// From the scale-down to the patch that sets the image no pod of Rancher is made.
fn assert_no_rancher_ran_in_between(world: &World, mark: usize) {
    let events = world.cluster.audit_since(mark);
    let is_patch = |event: &&AuditEvent| {
        let object = &event.object_ref;
        event.user_agent.starts_with("reinback/")
            && event.verb == "patch"
            && object.resource == "deployments"
            && object.name == "rancher"
    };
    let patches: Vec<_> = events.iter().filter(is_patch).map(|event| event.request_received_timestamp).collect();
    let [down, image, up] = patches.as_slice() else { panic!("down, image and up: {patches:?}") };
    assert!(down < image && image < up);
    let pods = events.iter().filter(|event| {
        event.verb == "create"
            && event.object_ref.resource == "pods"
            && event.object_ref.namespace == "cattle-system"
            && event.request_received_timestamp > *down
            && event.request_received_timestamp < *image
    });
    assert_eq!(pods.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_alone_is_held_until_somebody_accepts_that_data_stays() {
    let world = World::start().await;
    world.settle().await;
    upgraded(&world).await;
    let differences = world.differences().await;
    let spec = "  toVersion: v2.9.3\n  versionMethod: image\n";
    world.commit_rollback("version-only", &[], spec);
    let said = world.once().await;
    assert_eq!(said.code, Some(3), "{}\n{:?}", said.stderr, world.runs().await);
    let run = run_of(&world, "version-only").await.expect("a run");
    let gates: Vec<&Value> =
        run["status"]["gates"].as_array().expect("gates").iter().map(|gate| &gate["code"]).collect();
    assert_eq!(gates, ["VersionMismatch"]);

    world.commit_rollback("version-only", &[("accept", "VersionMismatch")], spec);
    let said = world.once().await;

    assert_eq!(said.code, Some(0), "{}\n{:?}", said.stderr, world.runs().await);
    assert_eq!(image(&world), "rancher/rancher:v2.9.3");
    assert_eq!(world.replicas("cattle-system", "rancher").await.expect("it is there"), (3, 3));
    assert_eq!(world.differences().await, differences);
    let told = world.reinback(&["status", "version-only"]).await;
    assert!(told.stdout.contains("by image rancher/rancher:v2.9.3"), "{}", told.stdout);
}
