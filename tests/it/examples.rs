//! Every example can be copied: read as it is, and planned on a real cluster against the store that it names.

use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;

use crate::harness::chart::{packaged, path};
use crate::harness::{REINBACK, S3Server, fixture};
use crate::migration::HELMS_MARKS;
use crate::rollback::set_server_version;
use crate::stand_in::{Settings, StandIn, definitions};
use crate::world::{PLAIN, World};

fn example(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The value of the one line `key: value`.
fn value<'a>(text: &'a str, key: &str) -> &'a str {
    let mut found = text.lines().filter_map(|line| line.trim().strip_prefix(key)?.strip_prefix(": "));
    let value = found.next().unwrap_or_else(|| panic!("{key} is missing in {text}"));
    assert_eq!(found.next(), None, "{key} stands twice");
    value
}

/// Puts another text where the example can only stand for one. It has to be there.
fn replaced(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from} is missing in {text}");
    text.replace(from, to)
}

/// A configuration of the examples for this world: its repository, which takes no credentials.
fn configuration(world: &World, name: &str) -> String {
    let text = example(name);
    let remote = format!("file://{}", world.remote().display());
    let text = replaced(&text, value(&text, "url"), &remote);
    text.lines().filter(|line| !line.contains("secretDir: ")).map(|line| format!("{line}\n")).collect()
}

/// Commits `manifest` as the only one where `config` looks, and gives the plan with its exit code.
fn planned(world: &World, config: &str, manifest: &str) -> (Option<i32>, Value) {
    world.work.git(&["rm", "-rq", "--ignore-unmatch", "clusters"]);
    world.work.write(&format!("{}/restore.yaml", value(config, "path")), manifest).commit("Restore");
    world.work.push(&["origin", "HEAD:main"]);
    let file = world.folder().join("example.yaml");
    std::fs::write(&file, config).expect("the folder is writable");
    let mut command = Command::new(REINBACK);
    command.args(["plan", "-o", "json", "--config"]).arg(&file).env("KUBECONFIG", world.cluster.kubeconfig());
    command.env("PATH", world.path());
    let output = command.stdin(Stdio::null()).output().expect("it starts");
    let said: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{:?}: {}", output.status, String::from_utf8_lossy(&output.stderr)));
    assert_eq!(said["plans"].as_array().map(Vec::len), Some(1), "{said:#}");
    (output.status.code(), said["plans"][0].clone())
}

/// The codes of the gates, and whether they are accepted.
fn gates(plan: &Value) -> Vec<(&str, bool)> {
    let gates = plan["gates"].as_array().map(Vec::as_slice).unwrap_or_default();
    gates.iter().map(|gate| (gate["code"].as_str().unwrap_or_default(), gate["accepted"] == true)).collect()
}

/// A Secret with the server's keys, where the example says.
fn keep_keys(world: &World, manifest: &str, server: &S3Server) {
    let (name, namespace) = (value(manifest, "credentialSecretName"), value(manifest, "credentialSecretNamespace"));
    let objects = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}}}\n---\n\
         apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         stringData: {{accessKey: \"{}\", secretKey: \"{}\"}}\n",
        server.access_key, server.secret_key
    );
    world.cluster.kubectl(&["apply", "-f", "-"], &objects).expect("the Secret is made");
}

/// Puts the backup that the example names, or its copy under a name of this cluster, into the example's bucket.
async fn fill(server: &S3Server, manifest: &str, content: &[u8]) {
    let bucket = value(manifest, "bucketName");
    server.bucket(bucket).await;
    let key = format!("{}/{}", value(manifest, "folder"), value(manifest, "backupFilename"));
    server.put(bucket, &key, content).await;
}

/// The operator's stand-in, up and running.
async fn an_operator(world: &World) -> StandIn {
    for definition in definitions() {
        world.cluster.kubectl(&["apply", "--server-side", "-f", "-"], &definition.to_string()).expect("it is taken");
    }
    let operator = StandIn::install(world.client.clone(), Settings::new(world.store())).await;
    let available = ["wait", "--for=condition=Available", "--timeout=120s", "-n", "cattle-resources-system"];
    world.cluster.kubectl(&[&available[..], &["deployment/rancher-backup"]].concat(), "").expect("it runs");
    operator
}

/// The cluster of which the examples' backups are.
const THEIRS: &str = "6e9ee6a6-d4f2-46c2-bd99-75269cf041dc";

#[tokio::test(flavor = "multi_thread")]
async fn every_example_is_planned_against_the_store_that_it_names() {
    let world = World::start().await;
    let content = std::fs::read(fixture(PLAIN)).expect("the fixture");
    let preferences = ["delete", "preferences.management.cattle.io", "--all", "--all-namespaces"];
    world.cluster.kubectl(&preferences, "").expect("there are preferences");

    // A folder, as the agent's own store.
    let backups = world.folder().join("backups");
    let config = configuration(&world, "reinback-folder.yaml");
    let config = replaced(&config, "/var/lib/backups", &backups.display().to_string());
    let manifest = replaced(&example("restore-from-folder.yaml"), THEIRS, world.cluster.uid());
    std::fs::write(backups.join(value(&manifest, "backupFilename")), &content).expect("a backup");
    let (code, plan) = planned(&world, &config, &manifest);
    assert_eq!((code, gates(&plan)), (Some(2), vec![]), "{plan:#}");
    assert_eq!((&plan["prunes"], &plan["counts"]["created"]), (&Value::Bool(true), &Value::from(12)), "{plan:#}");

    // A bucket, with the keys in a Secret.
    let server = S3Server::http();
    let config = configuration(&world, "reinback-s3.yaml");
    let manifest = replaced(&example("restore-from-s3.yaml"), THEIRS, world.cluster.uid());
    let manifest = replaced(&manifest, value(&manifest, "endpoint"), &server.endpoint);
    let manifest = replaced(&manifest, value(&manifest, "region"), server.region);
    keep_keys(&world, &manifest, &server);
    fill(&server, &manifest, &content).await;
    let (code, plan) = planned(&world, &config, &manifest);
    assert_eq!((code, gates(&plan)), (Some(2), vec![]), "{plan:#}");
    assert_eq!(plan["counts"]["created"], 12, "{plan:#}");

    // The operator's own volume, which only the operator reads.
    let _operator = an_operator(&world).await;
    let manifest = replaced(&example("restore-by-operator.yaml"), THEIRS, world.cluster.uid());
    let (code, plan) = planned(&world, &config, &manifest);
    assert_eq!((code, gates(&plan)), (Some(2), vec![("PlanIncomplete", true)]), "{plan:#}");
    assert_eq!(
        (&plan["engine"], &plan["operator"]["prune"]),
        (&Value::from("operator"), &Value::Bool(true)),
        "{plan:#}"
    );

    drop(world);
    a_migration(&content).await;
}

/// Another cluster's backup, from a server with an authority of its own, into a cluster that holds nothing.
async fn a_migration(content: &[u8]) {
    let world = World::empty().await;
    let server = S3Server::https();
    let config = configuration(&world, "reinback-migration.yaml");
    let manifest = example("migration.yaml");
    let authority = BASE64.encode(&server.ca);
    let endpoint = format!("{}\n      endpointCA: {authority}", server.address);
    let manifest = replaced(&manifest, value(&manifest, "endpoint"), &endpoint);
    keep_keys(&world, &manifest, &server);
    fill(&server, &manifest, content).await;
    let (code, plan) = planned(&world, &config, &manifest);
    assert_eq!((code, gates(&plan)), (Some(2), vec![("DifferentCluster", true)]), "{plan:#}");
    assert_eq!((&plan["prunes"], &plan["counts"]["deleted"]), (&Value::Bool(false), &Value::from(0)), "{plan:#}");
    assert!(plan["counts"]["created"].as_u64() > Some(400), "{plan:#}");

    // And carried out as it stands.
    carried_out(&world, &manifest);
    assert_eq!(world.differences().await, HELMS_MARKS);
}

/// By the configuration that it was last planned with.
fn carried_out(world: &World, manifest: &str) {
    let crd = Command::new(REINBACK).arg("crd").output().expect("it starts");
    world.cluster.kubectl(&["apply", "-f", "-"], &String::from_utf8_lossy(&crd.stdout)).expect("it is a definition");
    let file = world.folder().join("manifest.yaml");
    std::fs::write(&file, manifest).expect("the folder is writable");
    // No Rancher runs that would bring clusters and charts back.
    let no_wait = ["--policy-verify-cluster-timeout", "0s"];
    says(world, &[&["run", "--yes", "--install-crd", &file.display().to_string()], &no_wait[..]].concat());
}

/// What a command prints that is given the configuration that was last planned with.
fn says(world: &World, args: &[&str]) -> String {
    let mut command = Command::new(REINBACK);
    command.args(args).arg("--config").arg(world.folder().join("example.yaml"));
    command.env("KUBECONFIG", world.cluster.kubeconfig()).env("PATH", world.path());
    let output = command.stdin(Stdio::null()).output().expect("it starts");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Rancher by Helm, installed at v2.9.3 and upgraded to v2.10.1, and its preferences gone; gives the name of a backup of before that.
pub fn upgraded_by_helm(world: &mut World) -> String {
    world.helm = Some("helm");
    let kubectl = |args: &[&str]| world.cluster.kubectl(args, "").expect("kubectl does it");
    kubectl(&["delete", "deployment", "-n", "cattle-system", "rancher"]);
    for (verb, version) in [("install", "2.9.3"), ("upgrade", "2.10.1")] {
        let chart = packaged(&world.cluster, world.folder(), version);
        let args = [verb, "rancher", path(&chart), "-n", "cattle-system", "--take-ownership"];
        world.cluster.helm_of("helm", &args).unwrap_or_else(|error| panic!("{error:?}"));
    }
    let version = r#"{"value": "v2.10.1"}"#;
    kubectl(&["patch", "settings.management.cattle.io", "server-version", "--type=merge", "-p", version]);
    let backup = world.repack("of-2-9-3", |entries| set_server_version(entries, "v2.9.3"));
    kubectl(&["delete", "preferences.management.cattle.io", "--all", "--all-namespaces"]);
    world.until_rolled_out();
    backup
}

/// By what the version is set, and to which.
fn way(plan: &Value) -> (&str, &str) {
    let text = |field: &str| plan["version"][field].as_str().unwrap_or_default();
    (text("method"), text("to"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rollback_is_planned_and_its_undo_is_what_undo_prints() {
    let mut world = World::start().await;
    let backup = upgraded_by_helm(&mut world);
    let content = std::fs::read(world.store().join(backup)).expect("it was just made");

    // By Helm, from a bucket.
    let server = S3Server::http();
    let config = configuration(&world, "reinback-s3.yaml");
    let manifest = replaced(&example("rollback-by-helm.yaml"), THEIRS, world.cluster.uid());
    let manifest = replaced(&manifest, value(&manifest, "endpoint"), &server.endpoint);
    let manifest = replaced(&manifest, value(&manifest, "region"), server.region);
    keep_keys(&world, &manifest, &server);
    fill(&server, &manifest, &content).await;
    let (code, plan) = planned(&world, &config, &manifest);
    assert_eq!((code, gates(&plan)), (Some(2), vec![]), "{plan:#}");
    assert_eq!((way(&plan), &plan["version"]["revision"]), (("helm", "v2.9.3"), &Value::from(1)), "{plan:#}");
    assert_eq!(plan["counts"]["created"], 12, "{plan:#}");

    // The data by the operator, from its volume.
    let operator = an_operator(&world).await;
    let manifest = replaced(&example("rollback-by-operator.yaml"), THEIRS, world.cluster.uid());
    let (code, plan) = planned(&world, &config, &manifest);
    assert_eq!((code, gates(&plan)), (Some(2), vec![("PlanIncomplete", true)]), "{plan:#}");
    assert_eq!((&plan["engine"], way(&plan)), (&Value::from("operator"), ("helm", "v2.9.3")), "{plan:#}");
    drop(operator);

    // By a chart, where Helm has no revision any more.
    let backups = world.folder().join("backups");
    let config = configuration(&world, "reinback-folder.yaml");
    let config = replaced(&config, "/var/lib/backups", &backups.display().to_string());
    let oldest = ["delete", "secret", "-n", "cattle-system", "sh.helm.release.v1.rancher.v1"];
    world.cluster.kubectl(&oldest, "").expect("it is there");
    let manifest = replaced(&example("rollback-by-chart.yaml"), THEIRS, world.cluster.uid());
    std::fs::write(backups.join(value(&manifest, "backupFilename")), &content).expect("a backup");
    let chart = packaged(&world.cluster, world.folder(), "2.9.3");
    std::fs::create_dir_all(world.work.path().join("charts")).expect("the clone is ours");
    std::fs::copy(chart, world.work.path().join(value(&manifest, "chart"))).expect("the clone is ours");
    let (code, plan) = planned(&world, &config, &manifest);
    assert_eq!((code, gates(&plan), way(&plan)), (Some(2), vec![], ("chart", "v2.9.3")), "{plan:#}");

    // By the image, from a folder; carried out, and undone.
    let manifest = replaced(&example("rollback-by-image.yaml"), THEIRS, world.cluster.uid());
    std::fs::write(backups.join(value(&manifest, "backupFilename")), &content).expect("a backup");
    let (code, plan) = planned(&world, &config, &manifest);
    assert_eq!((code, gates(&plan), way(&plan)), (Some(2), vec![], ("image", "v2.9.3")), "{plan:#}");
    carried_out(&world, &manifest);
    let printed = says(&world, &["undo", "back-by-image", "--print"]);
    let mut undo = example("undo.yaml");
    for key in ["backupFilename", "reinback.io/backup-digest"] {
        undo = replaced(&undo, value(&undo, key), value(&printed, key));
    }
    let read = |text: &str| serde_yaml::from_str::<Value>(text).expect("YAML");
    assert_eq!(read(&undo), read(&printed), "{printed}");
    let (code, plan) = planned(&world, &config, &undo);
    assert_eq!((code, gates(&plan), way(&plan)), (Some(2), vec![], ("image", "v2.10.1")), "{plan:#}");
}
