//! The real rancher-backup operator: it restores what we wrote, and writes what we write.
//!
//! It is not to be had from a registry: `RANCHER_BACKUP_OPERATOR` names its binary, built from its repository by
//! `go build ./cmd/operator`.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use crate::harness::rancher::{self, Disturbance};
use crate::harness::{eventually, fixture, skip};
use crate::world::{PLAIN, World};

const DISTURBED: Disturbance = Disturbance { changed_percent: 20, deleted_percent: 10, added: 5, seed: 11 };
const PATIENCE: Duration = Duration::from_secs(300);

fn binary() -> Option<PathBuf> {
    std::env::var_os("RANCHER_BACKUP_OPERATOR").map(PathBuf::from)
}

/// The operator on the cluster of a world, with its folder of backups; killed when dropped.
struct Operator(Child);

impl Operator {
    /// In its development mode it stores backups in `backups` below where it is started, as a world does.
    fn start(binary: &PathBuf, world: &World) -> Self {
        let log = std::fs::File::create(world.folder().join("operator.log")).expect("a log");
        let mut command = Command::new(binary);
        command.arg("--kubeconfig").arg(world.cluster.kubeconfig()).current_dir(world.folder());
        command.env("CATTLE_DEV_MODE", "true").env("CHART_NAMESPACE", "cattle-resources-system");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Self(command.spawn().expect("the operator starts"))
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The field of an object of the operator, once it is there.
async fn said(world: &World, of: &str, pointer: &str) -> String {
    eventually(PATIENCE, || async {
        let object: Value = serde_json::from_str(&world.cluster.kubectl(&["get", of, "-o", "json"], "")?)?;
        let text = object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        ensure!(!text.is_empty(), "{of} says {}", object["status"]);
        Ok(text.to_owned())
    })
    .await
}

/// The ResourceSet of the fixture as one of the cluster, and its name.
fn resource_set(world: &World) -> String {
    let file = std::fs::File::open(fixture(PLAIN)).expect("the fixture");
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    let filters = archive.entries().expect("an archive").map(|entry| entry.expect("an entry"));
    let mut filters = filters.filter(|entry| entry.path().is_ok_and(|path| path.ends_with("filters/filters.json")));
    let mut set: Value = serde_json::from_reader(filters.next().expect("the fixture has filters")).expect("JSON");
    set["metadata"] = json!({"name": "as-the-fixture"});
    world.cluster.kubectl(&["apply", "--server-side", "-f", "-"], &set.to_string()).expect("the ResourceSet is taken");
    "as-the-fixture".to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_restores_what_we_wrote_and_writes_what_we_write() {
    let Some(binary) = binary() else {
        return skip("operator: our backups and its own", "set RANCHER_BACKUP_OPERATOR to its binary");
    };
    let world = World::start().await;
    let set = resource_set(&world);
    let ours = world.reinback(&["backups", "create", "--resource-set", &set, "--prefix", "ours", "-o", "json"]).await;
    let ours: Value = serde_json::from_str(&ours.stdout).unwrap_or_else(|_| panic!("{ours:?}"));
    let ours = ours["name"].as_str().expect("a name").to_owned();
    let operator = Operator::start(&binary, &world);

    let theirs = json!({
        "apiVersion": "resources.cattle.io/v1", "kind": "Backup", "metadata": {"name": "theirs"},
        "spec": {"resourceSetName": set},
    });
    world.cluster.kubectl(&["apply", "-f", "-"], &theirs.to_string()).expect("the Backup is taken");
    let theirs = said(&world, "backups.resources.cattle.io/theirs", "/status/filename").await;
    let compared = world.reinback(&["backups", "diff", &ours, &theirs]).await;
    assert_eq!(compared.code, Some(0), "{compared:?}");

    rancher::disturb(&world.client, &world.items, DISTURBED).await.expect("disturbed");
    assert!(!world.differences().await.is_empty());
    let restore = json!({
        "apiVersion": "resources.cattle.io/v1", "kind": "Restore", "metadata": {"name": "ours"},
        "spec": {"backupFilename": ours, "prune": true},
    });
    world.cluster.kubectl(&["apply", "-f", "-"], &restore.to_string()).expect("the Restore is taken");
    said(&world, "restores.resources.cattle.io/ours", "/status/restoreCompletionTs").await;
    let log = std::fs::read_to_string(world.folder().join("operator.log")).context("its log").expect("a log");
    assert_eq!(world.differences().await, Vec::<String>::new(), "{log}");
    drop(operator);
}
