//! Data and version of Rancher brought back by one manifest.

pub mod killed;

use std::time::Duration;

use anyhow::ensure;
use serde_json::Value;

use crate::harness::chart::{packaged, path};
use crate::harness::rancher::{self, Disturbance, Item};
use crate::harness::{AuditEvent, eventually};
use crate::process::{Process, forget_holder, phase, run_of};
use crate::world::World;

const DISTURBED: Disturbance = Disturbance { changed_percent: 10, deleted_percent: 3, added: 10, seed: 11 };
pub const ACCEPT: (&str, &str) = ("accept", "PruneShare, DownstreamReverts");

/// What a Rancher since 2.11 makes when it runs.
pub const EXTENSION: &str = "\
{apiVersion: v1, kind: Service, metadata: {name: api-extension, namespace: cattle-system}, spec: {selector: {app: rancher}, ports: [{port: 6666}]}}
---
{apiVersion: apiregistration.k8s.io/v1, kind: APIService, metadata: {name: v1.ext.cattle.io}, spec: {group: ext.cattle.io, version: v1, groupPriorityMinimum: 100, versionPriority: 100, insecureSkipTLSVerify: true, service: {name: api-extension, namespace: cattle-system, port: 6666}}}
";

pub fn set_server_version(entries: &mut [(String, Value)], version: &str) {
    let of_it = |(path, _): &&mut (String, Value)| path == "settings.management.cattle.io#v3/server-version";
    let (_, setting) = entries.iter_mut().find(of_it).expect("every Rancher has it");
    setting["value"] = version.into();
}

/// A Rancher that was upgraded to v2.12.1 after a backup of v2.9.3, whose name is given.
pub async fn upgraded(world: &World) -> String {
    upgraded_with(world, &world.items).await
}

/// The same, and the upgrade changed a part of `items`.
pub async fn upgraded_with(world: &World, items: &[Item]) -> String {
    let backup = world.repack("of-2-9-3", |entries| set_server_version(entries, "v2.9.3"));
    rancher::disturb(&world.client, items, DISTURBED).await.expect("disturbed");
    let kubectl = |args: &[&str], stdin: &str| world.cluster.kubectl(args, stdin).expect("kubectl does it");
    kubectl(
        &["patch", "settings.management.cattle.io", "server-version", "--type=merge", "-p", r#"{"value": "v2.12.1"}"#],
        "",
    );
    kubectl(&["set", "image", "-n", "cattle-system", "deployment/rancher", "rancher=rancher/rancher:v2.12.1"], "");
    kubectl(&["apply", "-f", "-"], EXTENSION);
    world.until_rolled_out();
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
pub fn assert_no_rancher_ran_in_between(world: &World, mark: usize) {
    let events = world.cluster.audit_since(mark);
    let is_patch = |event: &&AuditEvent| {
        let object = &event.object_ref;
        event.user_agent.starts_with("reinback/")
            && event.verb == "patch"
            && object.resource == "deployments"
            && object.name == "rancher"
            && event.response_status.code < 300
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

/// Rancher by Helm: installed at v2.9.3, backed up, and upgraded to v2.10.1. Gives the name of the backup.
pub async fn by_helm(world: &mut World, program: &'static str, values: &str) -> String {
    let items = world.items.clone();
    by_helm_with(world, program, values, &items).await
}

/// The same, and the upgrade changed a part of `items`.
pub async fn by_helm_with(world: &mut World, program: &'static str, values: &str, items: &[Item]) -> String {
    world.helm = Some(program);
    let kubectl = |args: &[&str]| world.cluster.kubectl(args, "").expect("kubectl does it");
    kubectl(&["delete", "deployment", "-n", "cattle-system", "rancher"]);
    let helm = |args: &[&str]| {
        let args: Vec<&str> = args.iter().copied().chain(["-n", "cattle-system"]).collect();
        world.cluster.helm_of(program, &args).unwrap_or_else(|error| panic!("{error:?}"))
    };
    let old = packaged(&world.cluster, world.folder(), "2.9.3");
    helm(&["install", "rancher", path(&old), "--take-ownership", "--set", values]);
    let backup = world.repack("of-2-9-3", |entries| set_server_version(entries, "v2.9.3"));
    rancher::disturb(&world.client, items, DISTURBED).await.expect("disturbed");
    let new = packaged(&world.cluster, world.folder(), "2.10.1");
    // A hook that a test wants waited for is not waited for here.
    helm(&["upgrade", "rancher", path(&new), "--reuse-values", "--take-ownership", "--no-hooks"]);
    let version =
        ["patch", "settings.management.cattle.io", "server-version", "--type=merge", "-p", r#"{"value": "v2.10.1"}"#];
    kubectl(&version);
    world.until_rolled_out();
    backup
}

/// Revisions by number, with version and state.
pub fn revisions(world: &World, program: &str) -> Vec<(u64, String, String)> {
    let history = ["history", "rancher", "-n", "cattle-system", "-o", "json"];
    let history = world.cluster.helm_of(program, &history).expect("helm reads what we left");
    let history: Vec<Value> = serde_json::from_str(&history).expect("JSON");
    let text = |revision: &Value, field: &str| revision[field].as_str().unwrap_or_default().to_owned();
    let revision =
        |of: &Value| (of["revision"].as_u64().unwrap_or_default(), text(of, "app_version"), text(of, "status"));
    history.iter().map(revision).collect()
}

/// What a person may have in the environment: each would send helm elsewhere, or keep it from working.
const HELM_ELSEWHERE: [(&str, &str); 6] = [
    ("HELM_NAMESPACE", "elsewhere"),
    ("HELM_DRIVER", "configmap"),
    ("HELM_KUBETOKEN", "nobody's"),
    ("HELM_KUBEAPISERVER", "https://127.0.0.1:1"),
    ("HELM_KUBECONTEXT", "elsewhere"),
    ("HELM_MAX_HISTORY", "1"),
];

async fn comes_back_by(program: &'static str) {
    let mut world = World::start().await;
    world.env = HELM_ELSEWHERE.to_vec();
    world.settle().await;
    let backup = by_helm(&mut world, program, "bootstrapPassword=hunter2").await;
    let mark = world.cluster.audit_mark();
    let spec = format!("  toVersion: v2.9.3\n  restore: {{backupFilename: {backup}, prune: true}}\n");
    world.commit_rollback("back-to-2-9-3", &[ACCEPT], &spec);
    let planned = world.reinback(&["plan"]).await;
    assert_eq!(planned.code, Some(2), "{}{}", planned.stdout, planned.stderr);
    let sentence = "by helm rollback of release cattle-system/rancher to revision 1 (now at 2)";
    assert!(planned.stdout.contains(sentence), "{}", planned.stdout);

    let said = world.once().await;

    assert_eq!(said.code, Some(0), "{}\n{:?}", said.stderr, world.runs().await);
    assert_eq!(image(&world), "rancher/rancher:v2.9.3");
    assert_eq!(world.replicas("cattle-system", "rancher").await.expect("it is there"), (3, 3));
    let annotation = ["get", "deployment", "-n", "cattle-system", "rancher", "-o", "jsonpath={.metadata.annotations}"];
    let annotations = world.cluster.kubectl(&annotation, "").expect("it is there");
    assert!(!annotations.contains("reinback.io/replicas"), "{annotations}");
    let state = |number, version: &str, state: &str| (number, version.to_owned(), state.to_owned());
    assert_eq!(
        revisions(&world, program),
        [state(1, "v2.9.3", "superseded"), state(2, "v2.10.1", "superseded"), state(3, "v2.9.3", "deployed")]
    );
    let newer = ["get", "configmap", "-n", "cattle-system", "rancher-newer", "--ignore-not-found"];
    assert_eq!(world.cluster.kubectl(&newer, "").expect("kubectl answers"), "");
    assert_helm_started_it(&world, mark);
    assert!(!said.stderr.contains("hunter2"), "{}", said.stderr);
    // Helm goes on from what we leave.
    let new = packaged(&world.cluster, world.folder(), "2.10.1");
    let upgrade = ["upgrade", "rancher", path(&new), "--reuse-values", "-n", "cattle-system"];
    world.cluster.helm_of(program, &upgrade).unwrap_or_else(|error| panic!("{error:?}"));
}

/// Nobody but Helm sets Rancher's replicas above 0, and before the data is back nobody does.
pub fn assert_helm_started_it(world: &World, mark: usize) {
    let is_of_the_data = |event: &AuditEvent| event.object_ref.resource == "settings";
    let is_ours = |event: &AuditEvent| event.user_agent.starts_with("reinback/");
    assert_helm_started_it_after(world, mark, |event| is_ours(event) && is_of_the_data(event));
}

/// The same, and these writes bring the data.
pub fn assert_helm_started_it_after(world: &World, mark: usize, of_the_data: impl Fn(&AuditEvent) -> bool) {
    let events = world.cluster.audit_since(mark);
    let is_rancher = |event: &&AuditEvent| {
        let object = &event.object_ref;
        object.resource == "deployments"
            && object.name == "rancher"
            && object.namespace == "cattle-system"
            && event.writes()
    };
    let writes: Vec<_> = events.iter().filter(is_rancher).filter(|event| event.user_agent.contains("elm")).collect();
    assert!(!writes.is_empty(), "helm wrote it");
    let started = writes.iter().map(|event| event.request_received_timestamp).min().expect("one");
    let pods = events.iter().filter(|event| {
        event.verb == "create"
            && event.object_ref.resource == "pods"
            && event.object_ref.namespace == "cattle-system"
            && event.request_received_timestamp < started
    });
    assert_eq!(pods.count(), 0);
    let objects = events.iter().filter(|event| event.writes() && of_the_data(event));
    let last = objects.map(|event| event.request_received_timestamp).max().expect("data was disturbed");
    assert!(last < started, "{last} {started}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_of_helm_3_comes_back_with_its_data_whatever_helm_is_told_by_the_environment() {
    comes_back_by("helm").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_of_helm_4_comes_back_with_its_data_whatever_helm_is_told_by_the_environment() {
    comes_back_by("helm4").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_helm_would_have_to_set_back_waits_for_a_helm_and_for_who_is_at_it() {
    let mut world = World::start().await;
    world.settle().await;
    let backup = by_helm(&mut world, "helm", "replicas=3").await;
    let spec = format!("  toVersion: v2.9.3\n  restore: {{backupFilename: {backup}, prune: true}}\n");
    world.commit_rollback("back", &[ACCEPT], &spec);
    let gates = |stdout: &str| {
        let plan: Value = serde_json::from_str(stdout).expect("JSON");
        let gates = plan["plans"][0]["gates"].as_array().or(plan[0]["gates"].as_array()).cloned().expect("gates");
        let holding = gates.into_iter().filter(|gate| gate["accepted"] == false);
        holding.map(|gate| gate["code"].as_str().expect("a code").to_owned()).collect::<Vec<_>>()
    };
    world.helm = None;
    let said = world.reinback(&["plan", "-o", "json"]).await;
    assert_eq!(said.code, Some(3), "{said:?}");
    assert_eq!(gates(&said.stdout), ["HelmMissing"]);
    world.helm = Some("helm");
    // As helm leaves it when it is killed.
    let secret =
        ["get", "secret", "-n", "cattle-system", "sh.helm.release.v1.rancher.v2", "-o", "jsonpath={.data.release}"];
    let release = world.cluster.kubectl(&secret, "").expect("it is there");
    let pending = as_pending(&release);
    let patch =
        serde_json::json!({"data": {"release": pending}, "metadata": {"labels": {"status": "pending-upgrade"}}});
    let patch = patch.to_string();
    let args =
        ["patch", "secret", "-n", "cattle-system", "sh.helm.release.v1.rancher.v2", "--type=merge", "-p", &patch];
    world.cluster.kubectl(&args, "").expect("patched");
    let said = world.reinback(&["plan", "-o", "json"]).await;
    assert_eq!(gates(&said.stdout), ["ReleasePending"], "{}", said.stdout);
}

/// The same release, pending.
fn as_pending(data: &str) -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use std::io::{Read as _, Write as _};
    let inner = STANDARD.decode(STANDARD.decode(data).expect("base64")).expect("base64 in it");
    let mut json = String::new();
    flate2::read::GzDecoder::new(inner.as_slice()).read_to_string(&mut json).expect("gzip");
    let json = json.replacen("\"status\":\"deployed\"", "\"status\":\"pending-upgrade\"", 1);
    assert!(json.contains("pending-upgrade"));
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(json.as_bytes()).expect("written");
    STANDARD.encode(STANDARD.encode(gzip.finish().expect("finished")))
}

/// Helm waits for a hook of the chart when both are killed: what it left is a revision that is pending, and the next try would leave
/// behind what only the newer release had.
async fn killed_in_a_hook(program: &'static str) {
    let mut world = World::start().await;
    world.settle().await;
    let backup = by_helm(&mut world, program, "hookJob=post-rollback").await;
    let spec = format!("  toVersion: v2.9.3\n  restore: {{backupFilename: {backup}, prune: false}}\n");
    world.commit_rollback("back", &[ACCEPT], &spec);
    let agent = Process::start(&world, &[]);
    eventually(Duration::from_secs(120), async || {
        let revisions = revisions(&world, program);
        ensure!(revisions.last().is_some_and(|(_, _, state)| state == "pending-rollback"), "{revisions:?}");
        Ok(())
    })
    .await;
    agent.kill();
    forget_holder(&world).await;
    // The hook may run from now on.
    world.cluster.kubectl(&["label", "nodes", "--all", "cattle-system/hook=yes"], "").expect("labelled");

    let agent = Process::start(&world, &[]);
    eventually(Duration::from_secs(240), async || {
        let run = run_of(&world, "back").await?;
        ensure!(phase(&run) != "Running", "{:?}", revisions(&world, program));
        Ok(())
    })
    .await;
    agent.kill();

    let ended = |phase: &str| ("back".to_owned(), phase.to_owned(), phase.to_owned());
    assert_eq!(world.runs().await, [ended("Succeeded")]);
    let state = |number, version: &str, state: &str| (number, version.to_owned(), state.to_owned());
    assert_eq!(revisions(&world, program)[2..], [state(3, "v2.9.3", "failed"), state(4, "v2.9.3", "deployed")]);
    assert_eq!(world.replicas("cattle-system", "rancher").await.expect("it is there"), (3, 3));
    let of_the_newer = |name: &str| {
        let args = ["get", "configmap", "-n", "cattle-system", name, "--ignore-not-found", "-o", "name"];
        world.cluster.kubectl(&args, "").expect("kubectl answers")
    };
    assert_eq!(
        (of_the_newer("rancher-newer").as_str(), of_the_newer("rancher-kept").trim()),
        ("", "configmap/rancher-kept")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_with_helm_3_in_a_hook_a_rollback_comes_to_the_same_end() {
    killed_in_a_hook("helm").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_with_helm_4_in_a_hook_a_rollback_comes_to_the_same_end() {
    killed_in_a_hook("helm4").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_somebody_brings_after_it_is_told_once_and_not_corrected() {
    let world = World::start().await;
    world.settle().await;
    upgraded(&world).await;
    let spec = "  toVersion: v2.9.3\n  versionMethod: image\n";
    world.commit_rollback("declared", &[("accept", "VersionMismatch")], spec);
    assert_eq!(world.once().await.code, Some(0), "{:?}", world.runs().await);
    let by_hand = |image: &str| {
        let image = format!("rancher=rancher/rancher:{image}");
        let args = ["set", "image", "-n", "cattle-system", "deployment/rancher", &image];
        world.cluster.kubectl(&args, "").expect("kubectl does it");
    };

    by_hand("v2.12.2");
    let said = world.once().await;

    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let drift = run_of(&world, "declared").await.expect("a run")["status"]["drift"].clone();
    assert_eq!((&drift["running"], &drift["by"]), (&Value::from("v2.12.2"), &Value::from("kubectl-set")), "{drift}");
    assert_eq!(world.status_log()[0], "rollback declared: DriftDetected: v2.12.2 runs");
    assert!(world.dashboard().contains("DriftDetected"), "{}", world.dashboard());
    let told = world.reinback(&["status", "declared"]).await;
    assert!(told.stdout.contains("v2.12.2 runs, set by kubectl-set"), "{}", told.stdout);
    assert_eq!(image(&world), "rancher/rancher:v2.12.2", "nothing is corrected");
    let commits = world.status_log().len();
    assert_eq!(world.once().await.code, Some(0));
    assert_eq!(world.status_log().len(), commits, "it is told once");

    by_hand("v2.9.3");
    assert_eq!(world.once().await.code, Some(0));
    assert_eq!(run_of(&world, "declared").await.expect("a run")["status"]["drift"], Value::Null);
    assert!(!world.dashboard().contains("DriftDetected"), "{}", world.dashboard());
}
