//! The same with the real operator, where `RANCHER_BACKUP_OPERATOR` names its binary: what it can be brought to from outside.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures::FutureExt as _;
use serde_json::Value;

use super::rolled_back::{self, By};
use super::{NAMESPACE, Operated, PATIENCE, assert_held_at_zero, bound, end, outcome, served};
use crate::harness::eventually;
use crate::harness::rancher::{self, Place};
use crate::operator::Checkout;
use crate::process::{Process, assert_rancher_is_back, until_ended};
use crate::stand_in::{Settings, StandIn, Start};
use crate::world::World;

/// The operator's process in a pod, started again where it ends; its number is in a file, so that a test can kill it.
fn container(checkout: Checkout, kubeconfig: PathBuf, folder: PathBuf) -> Start {
    let checkout = Arc::new(checkout);
    Arc::new(move || {
        let (checkout, kubeconfig, folder) = (Arc::clone(&checkout), kubeconfig.clone(), folder.clone());
        async move {
            loop {
                let mut command = tokio::process::Command::from(checkout.command(&kubeconfig, &folder));
                let mut child = command.kill_on_drop(true).spawn().expect("the operator starts");
                let number = child.id().unwrap_or_default().to_string();
                std::fs::write(number_file(&folder), number).expect("the folder is writable");
                let _ = child.wait().await;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        .boxed()
    })
}

fn number_file(folder: &Path) -> PathBuf {
    folder.join("operator.pid")
}

/// SIGKILL to the process in the pod, which is started again.
fn kill(world: &World) {
    let number = std::fs::read_to_string(number_file(world.folder())).expect("it was started");
    let killed = std::process::Command::new("kill").args(["-KILL", &number]).status();
    assert!(killed.expect("kill starts").success(), "the operator is gone already");
}

async fn install(checkout: Checkout) -> Operated {
    let world = World::start().await;
    let files = checkout.file("charts/rancher-backup-crd/templates").display().to_string();
    world.cluster.kubectl(&["apply", "--server-side", "-f", &files], "").expect("they are taken");
    served(&world);
    let user = bound(&world);
    let settings = Settings::new(world.store());
    let client = user.client().await;
    StandIn::prepare(client.clone(), &settings).await;
    let start = container(checkout, user.kubeconfig, world.folder().to_owned());
    let stand_in = StandIn::running(client, &settings, start);
    super::available(&world);
    world.settle().await;
    Operated { world, stand_in }
}

async fn rolled_back(by: By) {
    let Some(checkout) = Checkout::or_skip("operator_engine: a Rollback by the real operator") else { return };
    let mut operated = install(checkout).await;
    let backup = rolled_back::upgrade(&mut operated.world, by).await;
    let mark = operated.world.cluster.audit_mark();
    rolled_back::merge(&operated.world, by, &backup, &[]);
    let (said, run) = operated.once("back").await;
    assert_eq!(said.code, Some(0), "{}\n{}", said.stderr, run["status"]);
    assert_eq!(end(&run), outcome("Succeeded", "Succeeded"), "{}", run["status"]);
    rolled_back::assert_rolled_back(&operated, by).await;
    rolled_back::assert_quiet(&operated.world, mark, by);
    println!("{by:?}: {}", run["status"]["message"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_operator_brings_the_data_and_the_image_brings_the_version() {
    rolled_back(By::Image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_operator_brings_the_data_and_helm_brings_the_version() {
    rolled_back(By::Helm("helm")).await;
}

/// Waits until the operator is in the middle of a Restore: it has it, and some of it is written.
async fn half_way(operated: &Operated) -> Value {
    let restore = operated.restore().await;
    let name = restore["metadata"]["name"].as_str().expect("a name").to_owned();
    let lease = Place::new(("coordination.k8s.io", "v1", "leases"), Some(NAMESPACE), "restore-controller");
    eventually(PATIENCE, || async {
        let lease = rancher::get(&operated.world.client, &lease).await?.context("there is no Lease")?;
        let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned();
        ensure!(holder.starts_with(&name), "{holder:?} holds the Lease");
        Ok(())
    })
    .await;
    // Definitions alone take it ten seconds.
    tokio::time::sleep(Duration::from_secs(2)).await;
    restore
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_operator_restores_and_is_killed_robbed_and_refused_and_each_run_ends_as_with_the_stand_in() {
    let Some(checkout) = Checkout::or_skip("operator_engine: the real operator") else { return };
    let operated = install(checkout).await;
    let Operated { world, .. } = &operated;
    let delete = || world.cluster.kubectl(&["delete", "restores.resources.cattle.io", "--all"], "").expect("they go");
    let is_lost = |line: &String| line.starts_with("clusterroles.") && line.ends_with("ownerReferences is missing");

    operated.disturb(51).await;
    operated.merge("whole", &[], "  prune: true\n");
    let (said, run) = operated.once("whole").await;
    assert_eq!(said.code, Some(0), "{}\n{}", said.stderr, run["status"]);
    assert_eq!(end(&run), outcome("Succeeded", "Succeeded"), "{}", run["status"]);
    let left = world.differences().await;
    assert!(left.iter().all(is_lost), "{left:#?}");
    assert_rancher_is_back(world).await;
    println!("whole: {}", run["status"]["message"]);
    delete();

    operated.merge("killed", &[], "  prune: false\n");
    let agent = Process::start(world, &[]);
    half_way(&operated).await;
    kill(world);
    let run = until_ended(world, "killed").await;
    assert_eq!(end(&run), outcome("Succeeded", "Succeeded"), "{}", run["status"]);
    assert_rancher_is_back(world).await;
    println!("killed: {}", run["status"]["message"]);
    delete();

    operated.merge("robbed", &[("on-failure", "Resume")], "  prune: false\n");
    half_way(&operated).await;
    delete();
    let run = until_ended(world, "robbed").await;
    assert_eq!(end(&run), outcome("Failed", "RestoreDeleted"), "{}", run["status"]);
    assert_rancher_is_back(world).await;
    println!("robbed: {}", run["status"]["message"]);
    agent.kill();
    crate::process::forget_holder(world).await;

    operated.merge("refused", &[], "  prune: false\n");
    crate::failures::refuse(world, "server-url").await;
    let (said, run) = operated.once("refused").await;
    assert_eq!(said.code, Some(1), "{}\n{}", said.stderr, run["status"]);
    assert_eq!(end(&run), outcome("Failed", "OperatorFailed"), "{}", run["status"]);
    println!("refused: {}", run["status"]["message"]);
    operated.no_restore().await;
    assert_held_at_zero(world).await;
    // Nobody writes any more: what it had remains to be given back.
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_held_at_zero(world).await;
}
