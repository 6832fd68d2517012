//! The agent as a process that can be killed, stopped and frozen, and what its runs look like from outside.

use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::harness::{AuditEvent, REINBACK, eventually};
use crate::world::World;

const RUNS: &str = "/apis/reinback.io/v1alpha1/namespaces/reinback-system/runs";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/reinback-system/leases/reinback";

/// An agent that watches; it is killed when this is dropped.
pub struct Process {
    child: Child,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    /// Starts the agent of a world, its log appended to `agent.log`.
    pub fn start(world: &World, args: &[&str]) -> Self {
        Self::start_as(world, world.cluster.kubeconfig(), &[&["--install-crd"], args].concat())
    }

    /// Starts it as another user of the cluster.
    pub fn start_as(world: &World, kubeconfig: &Path, args: &[&str]) -> Self {
        let log = std::fs::File::options().create(true).append(true).open(world.folder().join("agent.log"));
        let mut command = Command::new(REINBACK);
        command.args(["agent", "--source-interval", "1s"]).args(args).arg("--config").arg(world.config());
        command.env("KUBECONFIG", kubeconfig).env_remove("RUST_LOG");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.expect("the folder is writable"));
        Self { child: command.spawn().expect("the agent starts") }
    }

    /// Sends a signal by its name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(sent.expect("kill starts").success(), "the process is gone already");
    }

    /// SIGKILL; returns when it is gone.
    pub fn kill(mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it ends");
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn ended(mut self, within: Duration) -> ExitStatus {
        let child = &mut self.child;
        eventually(within, || {
            let ended = child.try_wait();
            async move { ended?.context("it runs") }
        })
        .await
    }
}

/// The end of the agents' log, for a failure's text.
pub fn log_end(world: &World) -> String {
    let log = std::fs::read_to_string(world.folder().join("agent.log")).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

async fn get(world: &World, url: &str) -> Result<Value> {
    Ok(world.client.request(http::Request::get(url).body(Vec::new())?).await?)
}

/// The runs of a manifest.
pub async fn runs_of(world: &World, manifest: &str) -> Result<Vec<Value>> {
    let list = get(world, RUNS).await?;
    let runs = list["items"].as_array().cloned().unwrap_or_default();
    Ok(runs.into_iter().filter(|run| run.pointer("/spec/manifest/name") == Some(&json!(manifest))).collect())
}

/// The one run of a manifest.
pub async fn run_of(world: &World, manifest: &str) -> Result<Value> {
    let mut runs = runs_of(world, manifest).await?;
    ensure!(runs.len() == 1, "{} runs of {manifest}", runs.len());
    Ok(runs.remove(0))
}

/// Deletes the runs of a manifest.
pub async fn delete_runs_of(world: &World, manifest: &str) {
    for run in runs_of(world, manifest).await.expect("the cluster answers") {
        let url = format!("{RUNS}/{}", run.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default());
        let request = http::Request::delete(url).body(Vec::new()).expect("a request");
        world.client.request_text(request).await.expect("it is deleted");
    }
}

/// Waits until the run of a manifest is as wanted, looking 50 times a second.
///
/// # Panics
/// When it is not in time, with what the run and the agent said last.
pub async fn until_run(world: &World, manifest: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(150);
    let mut last = Value::Null;
    while tokio::time::Instant::now() < deadline {
        if let Ok(run) = run_of(world, manifest).await {
            if wanted(&run) {
                return run;
            }
            last = run;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{manifest} never {what}: {}\n{}", last["status"], log_end(world));
}

/// Waits until the run of a manifest has ended.
pub async fn until_ended(world: &World, manifest: &str) -> Value {
    until_run(world, manifest, "ended", |run| ["Succeeded", "Failed", "Cancelled", "Superseded"].contains(&phase(run)))
        .await
}

pub fn phase(run: &Value) -> &str {
    run.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default()
}

pub fn message(run: &Value) -> &str {
    run.pointer("/status/message").and_then(Value::as_str).unwrap_or_default()
}

/// Whether the journal holds an event (`started`, `finished`, `failed`) of a step.
pub fn has(run: &Value, event: &str, step: &str) -> bool {
    let journal = run.pointer("/status/journal").and_then(Value::as_array).into_iter().flatten();
    journal.filter(|entry| entry["event"] == event).any(|entry| entry["step"] == step || step.is_empty())
}

/// Who holds the lease; empty when nobody does.
pub async fn lease_holder(world: &World) -> Result<String> {
    let lease = get(world, LEASE).await?;
    Ok(lease.pointer("/spec/holderIdentity").and_then(Value::as_str).unwrap_or_default().to_owned())
}

/// What a person does who knows that the holder is dead, instead of waiting until its lease runs out.
pub async fn forget_holder(world: &World) {
    let patch = r#"{"spec":{"holderIdentity":""}}"#;
    let patch = ["patch", "lease", "-n", "reinback-system", "reinback", "--type=merge", "-p", patch];
    let _ = world.cluster.kubectl(&patch, "");
}

/// Writes of the backup's objects by reinback that the API server let through.
pub fn object_writes(events: &[AuditEvent]) -> Vec<&AuditEvent> {
    let is_ours = |event: &&AuditEvent| event.user_agent.starts_with("reinback/") && event.writes();
    let is_an_object = |event: &&AuditEvent| {
        let object = &event.object_ref;
        let is_scaling = object.resource == "deployments" && event.verb == "patch";
        let is_own_crd = object.name == "runs.reinback.io" || object.api_group == "reinback.io";
        object.namespace != "reinback-system" && object.name != "reinback-system" && !is_own_crd && !is_scaling
    };
    events.iter().filter(is_ours).filter(is_an_object).collect()
}

/// Panics where an object was written while a pod of Rancher existed, by the API server's own clock.
pub fn assert_quiet_while_writing(events: &[AuditEvent]) {
    let writes = object_writes(events);
    assert!(!writes.is_empty(), "nothing was written");
    let is_pod = |event: &&AuditEvent| {
        event.object_ref.resource == "pods"
            && event.object_ref.subresource.is_empty()
            && event.object_ref.namespace == "cattle-system"
            && event.response_status.code < 300
    };
    // A pod is there from its creation to the last deletion: the first one only asks it to end.
    let created = events.iter().filter(is_pod).filter(|event| event.verb == "create");
    let deleted = |name: &str| -> Option<Timestamp> {
        let of_it =
            events.iter().filter(is_pod).filter(|event| event.verb == "delete" && event.object_ref.name == name);
        of_it.map(|event| event.request_received_timestamp).max()
    };
    let mut lives: Vec<(Timestamp, Option<Timestamp>, String)> = Vec::new();
    for event in created {
        lives.push((event.request_received_timestamp, None, event.object_ref.name.clone()));
    }
    let mut ends: Vec<Timestamp> = Vec::new();
    let names: std::collections::BTreeSet<&str> = events
        .iter()
        .filter(is_pod)
        .filter(|event| event.verb == "delete")
        .map(|event| event.object_ref.name.as_str())
        .collect();
    ends.extend(names.iter().filter_map(|name| deleted(name)));
    // Names of pods are made by the server, so that a creation does not say which: as many exist as were made and not deleted.
    let at = |time: Timestamp| {
        let made = lives.iter().filter(|(created, ..)| *created <= time).count();
        let gone = ends.iter().filter(|end| **end <= time).count();
        made.saturating_sub(gone)
    };
    for write in writes {
        for time in [write.request_received_timestamp, write.stage_timestamp] {
            assert_eq!(at(time), 0, "a pod of Rancher existed while {} {} was written", write.verb, write.request_uri);
        }
    }
}

/// Replicas of Rancher and how many are Ready, and that nothing of ours is left on it.
pub async fn assert_rancher_is_back(world: &World) {
    eventually(Duration::from_secs(60), || async {
        let text = world.cluster.kubectl(&["get", "deployment", "-n", "cattle-system", "rancher", "-o", "json"], "")?;
        let value: Value = serde_json::from_str(&text)?;
        let numbers = (&value["spec"]["replicas"], &value["status"]["readyReplicas"]);
        if numbers != (&json!(3), &json!(3)) {
            bail!("wanted and ready: {numbers:?}");
        }
        let annotations = &value["metadata"]["annotations"];
        ensure!(annotations.get("reinback.io/replicas").is_none(), "the annotation is still there: {annotations}");
        Ok(())
    })
    .await;
}
