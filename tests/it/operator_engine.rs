//! The engine `operator`, from the merge to the end: a Restore that the rancher-backup operator carries out, and whatever that does.
//!
//! The operator is the stand-in, which `operator_contract` holds to the real one: it can be told to fail, hang and die.

mod ended;
mod gates;
mod interrupted;
mod real;
mod restored;
mod rolled_back;
mod told;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::harness::rancher::{self, Disturbance, Disturbed, Place};
use crate::harness::{User, eventually};
use crate::process::{DISTURBED, run_of};
use crate::stand_in::{Script, Settings, StandIn, definitions};
use crate::world::{Said, World};

const PATIENCE: Duration = Duration::from_secs(120);
pub const NAMESPACE: &str = "cattle-resources-system";
/// As whom the stand-in works.
pub const OPERATOR: &str = "stand-in";
pub const ACCEPT: &str = "VersionMismatch, PruneShare, DownstreamReverts, AlreadyRun, PlanIncomplete";

/// A world with an operator in it, which reads the folder of the backups.
struct Operated {
    world: World,
    stand_in: StandIn,
}

impl Operated {
    /// The agent reads the backups, too.
    async fn start() -> Self {
        Self::of(|_| {}).await
    }

    /// With the agent's configuration changed.
    async fn of(configure: impl FnOnce(&mut World)) -> Self {
        let mut world = World::start().await;
        configure(&mut world);
        define(&world);
        let user = bound(&world);
        let stand_in = StandIn::install(user.client().await, Settings::new(world.store())).await;
        available(&world);
        world.settle().await;
        Self { world, stand_in }
    }

    fn script(&self) -> &Script {
        self.stand_in.script()
    }

    /// Disturbs a part of what the backup has.
    async fn disturb(&self, seed: u64) -> Disturbed {
        let disturbance = Disturbance { seed, ..DISTURBED };
        let others = self.world.items.iter().filter(|item| item.place.namespace.as_deref() != Some(NAMESPACE));
        let items: Vec<_> = others.cloned().collect();
        rancher::disturb(&self.world.client, &items, disturbance).await.expect("disturbed")
    }

    /// Merges a restore by the operator that has something to do and accepts what it raises.
    fn merge(&self, name: &str, annotations: &[(&str, &str)], spec: &str) {
        let accept = annotations.iter().any(|(name, _)| *name == "accept");
        let accept = if accept { &[][..] } else { &[("accept", ACCEPT)] };
        let engine = annotations.iter().any(|(name, _)| *name == "engine");
        let engine = if engine { &[][..] } else { &[("engine", "operator")] };
        self.world.commit_change(name, &[accept, engine, annotations].concat(), spec);
    }

    /// One pass of the agent, and how the run of this manifest stands then.
    async fn once(&self, name: &str) -> (Said, Value) {
        let said = self.world.once().await;
        let run = run_of(&self.world, name).await.unwrap_or_else(|error| panic!("{error}: {said:?}"));
        (said, run)
    }

    /// Restores that are there.
    async fn restores(&self) -> Result<Vec<Value>> {
        let request = http::Request::get("/apis/resources.cattle.io/v1/restores").body(Vec::new())?;
        let mut list: Value = self.world.client.request(request).await?;
        Ok(list["items"].as_array_mut().map(std::mem::take).unwrap_or_default())
    }

    /// The one Restore that is there, once it is.
    async fn restore(&self) -> Value {
        eventually(PATIENCE, || async {
            let mut restores = self.restores().await?;
            ensure!(restores.len() == 1, "{} Restores", restores.len());
            Ok(restores.remove(0))
        })
        .await
    }

    async fn no_restore(&self) {
        let restores = self.restores().await.expect("the cluster answers");
        assert_eq!(restores, Vec::<Value>::new());
    }

    /// What the operator's Deployment wants, and what our annotation says of it.
    async fn operator_replicas(&self) -> (i64, Value) {
        let live = deployment(&self.world, NAMESPACE, "rancher-backup").await.expect("it is there");
        (
            live["spec"]["replicas"].as_i64().unwrap_or_default(),
            live["metadata"]["annotations"]["reinback.io/replicas"].clone(),
        )
    }
}

/// As whom the operator works, with the rights that its chart gives it.
fn bound(world: &World) -> User {
    let bind = ["create", "clusterrolebinding", OPERATOR, "--clusterrole=cluster-admin", "--user", OPERATOR];
    world.cluster.kubectl(&bind, "").expect("it is bound");
    world.cluster.user(OPERATOR)
}

async fn deployment(world: &World, namespace: &str, name: &str) -> Result<Value> {
    let place = Place::new(("apps", "v1", "deployments"), Some(namespace), name);
    rancher::get(&world.client, &place).await?.context("the Deployment is gone")
}

/// The operator's definitions, served.
fn define(world: &World) {
    for definition in definitions() {
        let args = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        world.cluster.kubectl(&args, &definition.to_string()).expect("it is taken");
    }
    served(world);
}

/// Waits until its definitions are.
fn served(world: &World) {
    for plural in ["restores", "backups", "resourcesets"] {
        let name = format!("crd/{plural}.resources.cattle.io");
        let args = ["wait", "--for=condition=Established", "--timeout=60s", &name];
        world.cluster.kubectl(&args, "").expect("it is served");
    }
}

/// Waits until the operator is.
fn available(world: &World) {
    let args = ["wait", "--for=condition=Available", "--timeout=120s", "-n", NAMESPACE, "deployment/rancher-backup"];
    world.cluster.kubectl(&args, "").expect("the operator runs");
}

/// Phase and reason.
fn end(run: &Value) -> (String, String) {
    let text = |field: &str| run["status"][field].as_str().unwrap_or_default().to_owned();
    (text("phase"), text("reason"))
}

fn outcome(phase: &str, reason: &str) -> (String, String) {
    (phase.to_owned(), reason.to_owned())
}

fn warnings(run: &Value) -> String {
    run.pointer("/status/warnings").map(Value::to_string).unwrap_or_default()
}

/// Rancher is held at 0, and its annotation says what it had.
async fn assert_held_at_zero(world: &World) {
    let live = deployment(world, "cattle-system", "rancher").await.expect("it is there");
    assert_eq!(live["spec"]["replicas"], 0);
    assert_eq!(live["metadata"]["annotations"]["reinback.io/replicas"], json!("3"));
}

/// Codes of the gates that hold.
fn holding(run: &Value) -> Vec<&str> {
    let gates = run.pointer("/status/gates").and_then(Value::as_array).into_iter().flatten();
    gates.filter(|gate| gate["accepted"] != true).filter_map(|gate| gate["code"].as_str()).collect()
}
