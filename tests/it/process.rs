//! The agent as a process that can be killed, stopped and frozen, and what its runs look like from outside.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::TryStreamExt as _;
use jiff::Timestamp;
use kube::core::WatchEvent;
use serde_json::{Value, json};

use crate::git_server::git;
use crate::harness::rancher::{self, Disturbance, Disturbed};
use crate::harness::{AuditEvent, REINBACK, eventually};
use crate::world::World;

/// How much of the cluster a round disturbs.
pub const DISTURBED: Disturbance = Disturbance { changed_percent: 29, deleted_percent: 9, added: 20, seed: 0 };
const ACCEPT: (&str, &str) = ("accept", "VersionMismatch, PruneShare, DownstreamReverts");
const RUNS: &str = "/apis/reinback.io/v1alpha1/namespaces/reinback-system/runs";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/reinback-system/leases/reinback";

/// An agent that watches; it is killed when this is dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", log_end(&self.log));
        }
    }
}

impl Process {
    /// Starts the agent of a world, its log appended to `agent.log`.
    pub fn start(world: &World, args: &[&str]) -> Self {
        Self::start_as(world, world.cluster.kubeconfig(), &[&["--install-crd"], args].concat())
    }

    /// Starts it as another user of the cluster.
    pub fn start_as(world: &World, kubeconfig: &Path, args: &[&str]) -> Self {
        let path = world.folder().join("agent.log");
        let log = std::fs::File::options().create(true).append(true).open(&path);
        let mut command = Command::new(REINBACK);
        command.args(["agent", "--source-interval", "5s"]).args(args).arg("--config").arg(world.config());
        command.env("KUBECONFIG", kubeconfig).env("PATH", world.path()).env_remove("RUST_LOG");
        command.envs(world.env.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.expect("the folder is writable"));
        Self { child: command.spawn().expect("the agent starts"), log: path }
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
fn log_end(log: &Path) -> String {
    let log = std::fs::read_to_string(log).unwrap_or_default();
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
    Ok(runs.into_iter().filter(|run| is_of(run, manifest)).collect())
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

/// Waits until the run of a manifest is as wanted, be it for a moment.
///
/// # Panics
/// When it is not in time, with what the run and the agent said last.
pub async fn until_run(world: &World, manifest: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(150);
    let mut last = Value::Null;
    while tokio::time::Instant::now() < deadline {
        let seen = watch_run(world, manifest, &mut last, &wanted);
        match tokio::time::timeout_at(deadline, seen).await {
            Ok(Ok(run)) => return run,
            // No definition of runs yet, or no API server.
            Ok(Err(_)) => tokio::time::sleep(Duration::from_millis(100)).await,
            Err(_elapsed) => break,
        }
    }
    let there = world.cluster.kubectl(&["get", "deployments,replicasets,pods", "-A"], "");
    panic!("{manifest} never {what}: {}\n{}", last["status"], there.unwrap_or_default());
}

/// Follows the runs until there is one of the manifest, and it is as wanted; an error when the watch ends before.
async fn watch_run(world: &World, manifest: &str, last: &mut Value, wanted: &impl Fn(&Value) -> bool) -> Result<Value> {
    let list = get(world, RUNS).await?;
    let name = |run: &Value| run.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let runs = list["items"].as_array().cloned().unwrap_or_default();
    let mut runs: BTreeMap<String, Value> =
        runs.into_iter().filter(|run| is_of(run, manifest)).map(|run| (name(&run), run)).collect();
    let version = list.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or_default();
    let request = http::Request::get(format!("{RUNS}?watch=true&resourceVersion={version}")).body(Vec::new())?;
    let mut events = std::pin::pin!(world.client.request_events::<Value>(request).await?);
    loop {
        if let (1, Some(run)) = (runs.len(), runs.values().next()) {
            last.clone_from(run);
            if wanted(run) {
                return Ok(run.clone());
            }
        }
        match events.try_next().await?.context("the watch has ended")? {
            WatchEvent::Added(run) | WatchEvent::Modified(run) if is_of(&run, manifest) => {
                runs.insert(name(&run), run);
            }
            WatchEvent::Deleted(run) => drop(runs.remove(&name(&run))),
            WatchEvent::Added(_) | WatchEvent::Modified(_) | WatchEvent::Bookmark(_) => {}
            WatchEvent::Error(error) => bail!("{error}"),
        }
    }
}

fn is_of(run: &Value, manifest: &str) -> bool {
    run.pointer("/spec/manifest/name").is_some_and(|name| name == manifest)
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
        // Silenced, and given back: of objects of the backup, but no write of it.
        let is_silencing = (object.resource.ends_with("webhookconfigurations")
            || object.resource == "customresourcedefinitions")
            && event.verb == "patch";
        let is_own_crd = object.name == "runs.reinback.io" || object.api_group == "reinback.io";
        let is_question = matches!(object.api_group.as_str(), "authorization.k8s.io" | "authentication.k8s.io");
        let is_own = object.namespace == "reinback-system" || object.name == "reinback-system" || is_own_crd;
        !is_own && !is_scaling && !is_silencing && !is_question && event.response_status.code < 300
    };
    events.iter().filter(is_ours).filter(is_an_object).collect()
}

/// Names of Rancher's pods.
pub async fn rancher_pods(world: &World) -> Result<Vec<String>> {
    let list = get(world, "/api/v1/namespaces/cattle-system/pods?labelSelector=app%3Drancher").await?;
    let names = list["items"].as_array().into_iter().flatten().filter_map(|pod| pod["metadata"]["name"].as_str());
    Ok(names.map(str::to_owned).collect())
}

/// Panics where an object was written while a pod of Rancher existed for longer than `grace`, by the API server's own
/// clock. `before` names the pods that existed before the first event.
pub fn assert_quiet_while_writing(events: &[AuditEvent], before: &[String], grace: Duration) {
    assert_quiet_during(&object_writes(events), events, before, grace);
}

/// The same for other writes among the events.
pub fn assert_quiet_during(writes: &[&AuditEvent], events: &[AuditEvent], before: &[String], grace: Duration) {
    assert!(!writes.is_empty(), "nothing was written");
    // `rancher-HASH-SUFFIX`; a creation does not say its name yet, and the scheduler's binding follows at once.
    let is_rancher = |event: &&AuditEvent| {
        let object = &event.object_ref;
        let named = object.name.starts_with("rancher-") && object.name.split('-').count() == 3;
        named && object.resource == "pods" && object.namespace == "cattle-system" && event.response_status.code < 300
    };
    let mut lives: BTreeMap<&str, (Timestamp, Timestamp)> = BTreeMap::new();
    for event in events.iter().filter(is_rancher) {
        let known = before.contains(&event.object_ref.name);
        let born = if known { Timestamp::MIN } else { event.request_received_timestamp + grace };
        let life = lives.entry(&event.object_ref.name).or_insert((born, Timestamp::MAX));
        // The last deletion is the one that ends it: the first one only asks it to.
        if event.verb == "delete" {
            life.1 = event.request_received_timestamp;
        }
    }
    let gone = before.iter().filter(|name| lives.get(name.as_str()).is_some_and(|(_, end)| *end < Timestamp::MAX));
    assert_eq!(gone.count(), before.len(), "Rancher was never down: {before:?}");
    for write in writes {
        let AuditEvent { verb, request_uri, request_received_timestamp, stage_timestamp, .. } = write;
        for (name, (born, end)) in &lives {
            let apart = stage_timestamp < born || request_received_timestamp > end;
            assert!(apart, "pod {name} lived from {born} to {end}, and {verb} {request_uri} came at {stage_timestamp}");
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

/// When to interfere.
pub enum Moment {
    /// No later than the gates.
    Planned,
    /// The journal holds an event of a step.
    Journal(&'static str, &'static str),
    /// Rancher is at 0 and says what it had.
    Scaled,
    /// That many objects were written in this round.
    Written(usize),
}

pub struct Round<'a> {
    pub world: &'a World,
    pub manifest: &'a str,
    /// Where the audit log stood at its begin.
    pub mark: usize,
    pub disturbed: Disturbed,
    /// Rancher's pods before it.
    pods: Vec<String>,
}

impl<'a> Round<'a> {
    /// Disturbs the cluster and merges a restore.
    pub async fn begin(world: &'a World, manifest: &'a str, seed: u64) -> Self {
        Self::begin_with(world, manifest, seed, &[], "").await
    }

    /// With further annotations and further lines of the spec.
    pub async fn begin_with(
        world: &'a World,
        manifest: &'a str,
        seed: u64,
        annotations: &[(&str, &str)],
        spec: &str,
    ) -> Self {
        let disturbance = Disturbance { seed, ..DISTURBED };
        let disturbed = rancher::disturb(&world.client, &world.items, disturbance).await.expect("disturbed");
        Self::merge(world, manifest, seed, annotations, spec, disturbed).await
    }

    /// Merges a restore of a cluster that is disturbed already.
    pub async fn merge(
        world: &'a World,
        manifest: &'a str,
        seed: u64,
        annotations: &[(&str, &str)],
        spec: &str,
        disturbed: Disturbed,
    ) -> Self {
        assert!(!world.differences().await.is_empty());
        let mark = world.cluster.audit_mark();
        let pods = rancher_pods(world).await.expect("the cluster answers");
        let requested = format!("2026-11-23T09:00:{seed}Z");
        // An annotation stands in a manifest once.
        let accept = if annotations.iter().any(|(name, _)| *name == ACCEPT.0) { &[][..] } else { &[ACCEPT] };
        let annotations = [accept, &[("requested-at", &requested)], annotations].concat();
        world.commit_restore(manifest, &annotations, &format!("  prune: true\n  deleteTimeoutSeconds: 10\n{spec}"));
        Self { world, manifest, mark, disturbed, pods }
    }

    pub async fn reach(&self, moment: &Moment) {
        let Self { world, manifest, mark, .. } = self;
        match moment {
            Moment::Planned => {
                eventually(Duration::from_secs(60), || async {
                    anyhow::ensure!(!runs_of(world, manifest).await?.is_empty(), "there is no run yet");
                    Ok(())
                })
                .await;
            }
            Moment::Journal(event, step) => {
                let what = format!("has {event} {step}");
                until_run(world, manifest, &what, |run| has(run, event, step)).await;
            }
            Moment::Scaled => {
                eventually(Duration::from_secs(60), || async {
                    let scaled = world.replicas("cattle-system", "rancher").await?.0 == 0;
                    anyhow::ensure!(scaled, "Rancher is not at 0");
                    Ok(())
                })
                .await;
            }
            Moment::Written(count) => {
                eventually(Duration::from_secs(60), || async {
                    let written = object_writes(&world.cluster.audit_of_ours(*mark)).len();
                    anyhow::ensure!(written >= *count, "{written} of {count} objects are written");
                    Ok(())
                })
                .await;
            }
        }
    }

    /// Waits for the end, and judges it.
    pub async fn judge(&self, grace: Duration) -> Value {
        let Self { world, manifest, mark, disturbed, pods } = self;
        let run = until_ended(world, manifest).await;
        assert_eq!(phase(&run), "Succeeded", "{}", run["status"]);
        assert_eq!(world.differences().await, Vec::<String>::new());
        for place in &disturbed.added {
            assert_eq!(rancher::get(&world.client, place).await.expect("the cluster answers"), None, "{place}");
        }
        assert_rancher_is_back(world).await;
        let ran: Vec<_> = world.runs().await.into_iter().filter(|(name, ..)| name == manifest).collect();
        assert_eq!(ran.len(), 1, "{ran:?}");
        assert_quiet_while_writing(&world.cluster.audit_since(*mark), pods, grace);
        run
    }

    /// What the status branch says in the end: every run once, as the cluster has it.
    pub async fn judge_status_branch(&self) {
        let Self { world, manifest, .. } = self;
        // Longer than the lock of a push that was killed counts as held, and than a push is tried again after that.
        eventually(Duration::from_secs(90), || async {
            let names = git(&world.remote(), &["ls-tree", "--name-only", "reinback/test", "runs/"]);
            let files: Vec<&str> = names.lines().filter(|name| name.contains(manifest)).collect();
            anyhow::ensure!(files.len() == 1, "files of {manifest}: {files:?}");
            let file = git(&world.remote(), &["show", &format!("reinback/test:{}", files[0])]);
            anyhow::ensure!(file.contains("phase: Succeeded"), "{file}");
            Ok(())
        })
        .await;
        let ends = world.status_log().into_iter().filter(|subject| subject.contains(&format!("{manifest}: succeeded")));
        assert_eq!(ends.count(), 1, "{:?}", world.status_log());
    }
}
