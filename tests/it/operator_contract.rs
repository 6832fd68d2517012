//! What the rancher-backup operator does with a Restore: one suite for the stand-in, always, and for the real operator, where
//! `RANCHER_BACKUP_OPERATOR` names its binary.
//!
//! Everything that reinback's operator engine counts on is asked here, the operator's defects included. What holds of both is what the
//! engine's own tests, which run on the stand-in, may be believed for.

mod endings;
mod failures;
mod restores;

use std::process::Child;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tokio::task::AbortHandle;

use crate::harness::rancher::{self, Place};
use crate::harness::{Options, eventually, skip};
use crate::operator::Checkout;
use crate::stand_in::{Process, Script, Settings, definitions};
use crate::world::{Filled, PLAIN, World};

pub const NAMESPACE: &str = "cattle-resources-system";
const PATIENCE: Duration = Duration::from_secs(300);

/// Who is asked.
pub enum Which {
    StandIn,
    Real(Checkout),
}

impl Which {
    /// The stand-in, and the real operator where there is one.
    fn all(test: &str) -> Vec<Self> {
        let real = Checkout::found();
        if real.is_none() {
            skip(
                &format!("the operator's contract: {test}"),
                "asked of the stand-in alone: set RANCHER_BACKUP_OPERATOR",
            );
        }
        [Self::StandIn].into_iter().chain(real.map(Self::Real)).collect()
    }

    fn name(&self) -> &'static str {
        match self {
            Self::StandIn => "the stand-in",
            Self::Real(_) => "the real operator",
        }
    }

    /// A cluster at rest, filled from the plain fixture, with the definitions of this operator and its namespace.
    async fn world(&self) -> World {
        let world = World::of(Options::default(), PLAIN, Filled::Restored).await;
        let kubectl = |args: &[&str], stdin: &str| world.cluster.kubectl(args, stdin).expect("kubectl does it");
        match self {
            Self::StandIn => {
                for definition in definitions() {
                    kubectl(&["apply", "--server-side", "-f", "-"], &definition.to_string());
                }
            }
            Self::Real(checkout) => {
                let files = checkout.file("charts/rancher-backup-crd/templates").display().to_string();
                kubectl(&["apply", "--server-side", "-f", &files], "");
            }
        }
        for plural in ["backups", "restores", "resourcesets"] {
            let name = format!("crd/{plural}.resources.cattle.io");
            kubectl(&["wait", "--for=condition=Established", "--timeout=60s", &name], "");
        }
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
        kubectl(&["apply", "--server-side", "--force-conflicts", "-f", "-"], &namespace.to_string());
        kubectl(
            &["wait", "--for=condition=Available", "--timeout=120s", "deployments", "--all", "--all-namespaces"],
            "",
        );
        world
    }
}

/// A process of an operator, beside the cluster of a world. Dropped, it is killed.
pub struct Operator<'w> {
    world: &'w World,
    process: Running,
}

enum Running {
    StandIn { task: AbortHandle, script: Script },
    Real(Child),
}

impl<'w> Operator<'w> {
    fn start(which: &Which, world: &'w World) -> Self {
        let process = match which {
            Which::StandIn => {
                // Slower than it could be: a test has to be faster than this where it comes between.
                let settings = Settings { definition_poll: Duration::from_millis(200), ..Settings::new(world.store()) };
                let script = Script::default();
                let process = Process::new(world.client.clone(), settings, script.clone());
                Running::StandIn { task: tokio::spawn(process.run()).abort_handle(), script }
            }
            Which::Real(checkout) => Running::Real(checkout.start(world.cluster.kubeconfig(), world.folder())),
        };
        Self { world, process }
    }

    /// It has ended by itself.
    fn has_ended(&mut self) -> bool {
        match &mut self.process {
            Running::StandIn { task, script: _ } => task.is_finished(),
            Running::Real(child) => child.try_wait().expect("it is ours").is_some(),
        }
    }

    fn restore(&self, name: &str, spec: Value) {
        let restore = json!({"apiVersion": "resources.cattle.io/v1", "kind": "Restore", "metadata": {"name": name}, "spec": spec});
        self.world.cluster.kubectl(&["create", "-f", "-"], &restore.to_string()).expect("the Restore is taken");
    }

    /// The Restore, once it has ended.
    async fn done(&self, name: &str) -> Value {
        self.told(name, "/status/restoreCompletionTs").await
    }

    /// The Restore, once it fails.
    async fn failing(&self, name: &str) -> Value {
        self.told(name, "/status/conditions/0/message").await
    }

    async fn told(&self, name: &str, pointer: &str) -> Value {
        eventually(PATIENCE, || async {
            let live = restore(self.world, name).await?.with_context(|| format!("{name} is gone"))?;
            let text = live.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            ensure!(!text.is_empty(), "{name} says {}", live["status"]);
            Ok(live)
        })
        .await
    }
}

impl Drop for Operator<'_> {
    fn drop(&mut self) {
        let log = match &mut self.process {
            Running::StandIn { task, script } => {
                task.abort();
                script.log()
            }
            Running::Real(child) => {
                let _ = child.kill();
                let _ = child.wait();
                let log = std::fs::read_to_string(self.world.folder().join("operator.log")).unwrap_or_default();
                log.lines().map(str::to_owned).collect()
            }
        };
        if std::thread::panicking() {
            let is_bad = |line: &&String| ["ERRO", "FATA", "WARN", "panic"].iter().any(|word| line.contains(word));
            let bad: Vec<&String> = log.iter().filter(is_bad).collect();
            eprintln!("errors in the log of the operator: {bad:#?}");
        }
    }
}

async fn restore(world: &World, name: &str) -> Result<Option<Value>> {
    rancher::get(&world.client, &Place::new(("resources.cattle.io", "v1", "restores"), None, name)).await
}

/// An error when there is none.
async fn lease(world: &World) -> Result<Value> {
    let place = Place::new(("coordination.k8s.io", "v1", "leases"), Some(NAMESPACE), "restore-controller");
    rancher::get(&world.client, &place).await?.context("there is no Lease")
}

/// Who holds the Lease; an error when there is none.
async fn holder(world: &World) -> Result<Option<String>> {
    Ok(lease(world).await?["spec"]["holderIdentity"].as_str().map(str::to_owned))
}

/// Waits until the Lease is held by nobody, and is there all the same.
async fn unlocked(world: &World) {
    eventually(PATIENCE, || async {
        let holder = holder(world).await?;
        ensure!(holder.is_none(), "{holder:?} holds the Lease");
        Ok(())
    })
    .await;
}

/// Waits until this Restore holds the Lease, by its name and UID.
async fn locked(world: &World, name: &str) {
    eventually(PATIENCE, || async {
        let live = restore(world, name).await?.context("it is gone")?;
        let expected = format!("{name}:{}", live["metadata"]["uid"].as_str().unwrap_or_default());
        let holder = holder(world).await?;
        ensure!(holder.as_ref() == Some(&expected), "{holder:?} holds the Lease, not {expected}");
        Ok(())
    })
    .await;
}

/// Type, status, reason and message of each condition.
fn conditions(restore: &Value) -> Vec<[String; 4]> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let of = |found: &Value| ["type", "status", "reason", "message"].map(|field| text(&found[field]));
    let mut conditions: Vec<_> = restore["status"]["conditions"].as_array().into_iter().flatten().map(of).collect();
    conditions.sort();
    conditions
}

/// Replicas that Rancher is to have.
async fn wanted(world: &World) -> i64 {
    world.replicas("cattle-system", "rancher").await.expect("Rancher is there").0
}

fn scale(world: &World, namespace: &str, name: &str, replicas: i64) {
    let replicas = format!("--replicas={replicas}");
    let args = ["scale", "deployment", "-n", namespace, name, &replicas];
    world.cluster.kubectl(&args, "").expect("it is scaled");
}

async fn until_wanted(world: &World, replicas: i64) {
    eventually(PATIENCE, || async {
        let wanted = world.replicas("cattle-system", "rancher").await?.0;
        ensure!(wanted == replicas, "Rancher is to have {wanted} replicas");
        Ok(())
    })
    .await;
}
