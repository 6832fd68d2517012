//! A cluster after an upgrade that went wrong, a backup from before it, and a repository: what a restore is merged into.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use reinback::agent::source::Source;
use reinback::agent::{Agent, Options, Parts, PassError, Passed};
use reinback::backup::{CONFIGURATION_KEY, Encryption};
use reinback::cluster::{Cluster, LeaseTimes, Limits, Preconditions, Target};
use reinback::config::Config;
use reinback::demo::{past, scene};
use reinback::execute::NoHelm;
use reinback::git::FileEdit;
use reinback::helm::Access;
use reinback::object::Resource;
use reinback::sim::{API_URL, Sim, SimOptions};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::cluster_api;
use crate::dead_webhook;
use crate::memory_git::{Git, SOURCE};
use crate::process::{MortalBranch, MortalStores, Process};
use crate::protected;
use crate::stand_in::definitions;

/// As the configuration says.
pub const OPERATOR_NAMESPACE: &str = "rancher-backup";
/// 3 a.m.
const START: &str = "2026-11-23T03:00:00Z";
const CONFIG: &str = "
cluster: sim
source: {url: \"file:///nowhere\", branch: main, path: clusters/sim, interval: 30s}
status: {branch: reinback/sim}
policy: {maxHold: 40m, verify: {clusterTimeout: 30s}}
store: {directory: /backups}
operator: {namespace: rancher-backup}
";
/// What encrypts the backup of every fourth seed.
const ENCRYPTION: &str = "
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- {resources: [secrets], providers: [{aesgcm: {keys: [{name: a, secret: QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=}]}}]}
- {resources: ['*.*'], providers: [{secretbox: {keys: [{name: b, secret: QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI=}]}}]}
";
/// Longer than what any run may take.
pub const BOUND: Duration = Duration::from_secs(6 * 3600);

/// What is in the cluster, by its place, as [`Sim::objects`] gives it.
pub type Objects = BTreeMap<String, Arc<Value>>;

pub struct Stage {
    pub sim: Sim,
    pub git: Git,
    pub backup: String,
    /// What is in the backup, as [`Stage::picture`] shows it.
    pub saved: BTreeMap<String, Value>,
    /// What is merged is a `Rollback`, which brings data and version back, instead of a `Restore`.
    pub rolls_back: bool,
    folder: TempDir,
    play: Play,
    encryption: Option<Arc<Encryption>>,
    config: Config,
    /// Nobody asks agents to stop.
    stop: watch::Sender<bool>,
}

/// How an agent's process ended.
#[derive(Debug)]
pub enum Ended {
    Passed(Passed),
    Broken(#[expect(dead_code, reason = "shown by Debug")] PassError),
    Died,
}

/// A time-out of the simulation, not of reinback: nothing may take this long.
#[derive(Debug)]
pub struct Stuck;

/// What is on the stage beside the scene, and in the backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Play {
    /// All that a native restore may meet.
    Native,
    /// A cluster with the rancher-backup operator. What must be left alone was all made after the backup: with anything of it in the
    /// backup a restore by the operator is refused.
    Operated,
}

impl Play {
    /// In the cluster when the backup is taken, and in the backup.
    fn before(self) -> Vec<Value> {
        match self {
            Self::Native => [scene::before(), cluster_api::saved(), protected::before()].concat(),
            Self::Operated => scene::before(),
        }
    }

    /// In the cluster then, and not in the backup.
    fn unsaved(self) -> Vec<Value> {
        match self {
            Self::Native => [cluster_api::unsaved(), dead_webhook::unsaved()].concat(),
            Self::Operated => {
                let namespace =
                    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OPERATOR_NAMESPACE}});
                [definitions(), vec![namespace]].concat()
            }
        }
    }

    /// What happens after it.
    fn since(self) -> [Vec<scene::Step>; 2] {
        let upgrade = [scene::upgrade(), held_back()].concat();
        match self {
            Self::Native => [[upgrade, cluster_api::upgrade()].concat(), protected::since()],
            Self::Operated => [upgrade, protected::made_since()],
        }
    }

    /// A line of the annotations of what is merged.
    fn engine(self) -> &'static str {
        match self {
            Self::Native => "",
            Self::Operated => "    reinback.io/engine: operator\n",
        }
    }

    fn config(self) -> String {
        match self {
            Self::Native => CONFIG.to_owned(),
            Self::Operated => CONFIG.replace("policy: {", "policy: {repair: true, "),
        }
    }
}

impl Stage {
    /// Everything up to the merge: the first look is over.
    pub async fn new(seed: u64) -> Self {
        Self::of(seed, Play::Native).await
    }

    /// [`Stage::new`], and what is merged is a `Rollback`.
    pub async fn rolling_back(seed: u64) -> Self {
        Self { rolls_back: true, ..Self::new(seed).await }
    }

    /// With all that the rancher-backup operator needs, and without it: it carries out what is merged.
    pub async fn operated(seed: u64) -> Self {
        Self::of(seed, Play::Operated).await
    }

    /// [`Stage::operated`], and what is merged is a `Rollback`.
    pub async fn operated_rolling_back(seed: u64) -> Self {
        Self { rolls_back: true, ..Self::operated(seed).await }
    }

    async fn of(seed: u64, play: Play) -> Self {
        fastrand::seed(seed);
        let start: Timestamp = START.parse().expect("a time");
        let sim = Sim::new(SimOptions { seed, start, ..SimOptions::default() });
        sim.seed([play.before(), play.unsaved()].concat()).expect("every kind of the scene is served");
        // Until Rancher is up.
        tokio::time::sleep(Duration::from_secs(30)).await;
        let folder = tempfile::tempdir().expect("a folder");
        let encryption = seed.is_multiple_of(4).then(|| encryption(&sim));
        let backup = save(&sim, folder.path(), play, encryption.clone());
        let saved = picture(&sim).into_iter().filter(|(key, _)| is_saved(key)).collect();
        let settle = Duration::from_secs(1);
        for steps in play.since() {
            past::upgrade(&sim, steps, settle).await.expect("the cluster takes what happens");
        }
        tokio::spawn(answer_late(sim.clone()));
        tokio::time::sleep(Duration::from_secs(30)).await;
        let data = folder.path().join("data");
        let config =
            Config::parse(Some(("reinback.yaml", play.config().as_bytes())), &[], &data).expect("a configuration");
        let git = Git::default();
        let stop = watch::Sender::new(false);
        let stage = Self { sim, git, backup, saved, rolls_back: false, folder, play, encryption, config, stop };
        stage.push("README.md", Some("manifests\n"));
        let ended = stage.once(&Process::calm(None)).await.expect("the first look ends");
        assert!(matches!(ended, Ended::Passed(_)), "{ended:?}");
        // Until controllers have done with what it made.
        tokio::time::sleep(Duration::from_secs(1)).await;
        stage
    }

    pub fn now(&self) -> Timestamp {
        self.sim.clock().now()
    }

    pub fn push(&self, path: &str, content: Option<&str>) {
        let edit = FileEdit { path: path.to_owned(), content: content.map(|text| text.as_bytes().to_vec()) };
        self.git.commit(SOURCE, "ada", &format!("Change {path}"), self.now(), &[edit]);
    }

    /// A manifest of the backup, merged, whose author accepts the gates that it raises.
    pub fn merge(&self, name: &str, annotations: &str) {
        self.merge_accepting(name, "VersionMismatch, PruneShare, DownstreamReverts, WebhookUnavailable", annotations);
    }

    pub fn merge_accepting(&self, name: &str, accepted: &str, annotations: &str) {
        let (api_version, kind) = match self.rolls_back {
            true => ("reinback.io/v1alpha1", "Rollback"),
            false => ("resources.cattle.io/v1", "Restore"),
        };
        let mut text = format!(
            "apiVersion: {api_version}\nkind: {kind}\nmetadata:\n  name: {name}\n  annotations:\n    \
             reinback.io/accept: \"{accepted}\"\n{}{annotations}spec:\n",
            self.play.engine(),
        );
        let indent = match self.rolls_back {
            true => {
                text.push_str(&format!("  toVersion: {}\n  versionMethod: image\n  restore:\n", scene::BEFORE));
                "    "
            }
            false => "  ",
        };
        text.push_str(&format!(
            "{indent}backupFilename: {}\n{indent}prune: true\n{indent}deleteTimeoutSeconds: 5\n",
            self.backup
        ));
        if self.encryption.is_some() {
            text.push_str(&format!("{indent}encryptionConfigSecretName: key\n"));
        }
        self.push(&format!("clusters/sim/{name}.yaml"), Some(&text));
    }

    /// An agent of this process.
    pub fn agent(&self, process: &Process) -> Agent {
        let client = kube::Client::new(process.around(self.sim.service()), "default");
        let cluster = Cluster::over(client, API_URL.to_owned(), Limits::default(), self.sim.clock());
        let parts = Parts {
            source: Source::over(MortalBranch { process: process.clone(), branch: self.git.reader() }),
            status: Box::new(MortalBranch { process: process.clone(), branch: self.git.writer() }),
            stores: Arc::new(MortalStores { process: process.clone(), folder: self.folder.path().to_owned() }),
            helm: Arc::new(NoHelm),
        };
        let options = Options { install_crd: true, helm: Access::default(), lease: LeaseTimes::default() };
        Agent::over(self.config.clone(), cluster, parts, options, self.stop.subscribe())
    }

    /// One pass of an agent, to its end or its process's.
    pub async fn once(&self, process: &Process) -> Result<Ended, Stuck> {
        let mut agent = self.agent(process);
        let ended = async {
            tokio::select! {
                biased;
                () = process.until_dead() => Ended::Died,
                passed = agent.once() => match passed {
                    Ok(passed) => Ended::Passed(passed),
                    Err(error) => Ended::Broken(error),
                },
            }
        };
        let ended = tokio::time::timeout(BOUND, ended).await.map_err(|_elapsed| Stuck)?;
        // What is left of its tasks does nothing any more.
        process.kill();
        Ok(ended)
    }

    /// Where the backups lie.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// The `Run` objects, by name.
    pub fn runs(&self) -> Vec<Value> {
        let objects = self.sim.objects();
        objects.iter().filter(|(key, _)| key.starts_with("runs.reinback.io/")).map(|(_, run)| (**run).clone()).collect()
    }

    /// How each run stands, for a message.
    pub fn told(&self) -> String {
        let tell = |run: &Value| {
            let status = &run["status"];
            let gates: Vec<String> = status["gates"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|gate| gate["accepted"] != true)
                .map(|gate| format!("{}: {}", text(&gate["code"]), text(&gate["message"])))
                .collect();
            format!(
                "{} {} {}: {} {gates:?} {:?}",
                text(&run["spec"]["manifest"]["name"]),
                text(&status["phase"]),
                text(&status["reason"]),
                text(&status["message"]),
                status["errors"],
            )
        };
        self.runs().iter().map(tell).collect::<Vec<_>>().join("\n")
    }

    /// Somebody deletes every `Run`.
    pub async fn delete_runs(&self) {
        let resource = Resource::new("reinback.io", "v1alpha1", "runs");
        for run in self.runs() {
            let name = text(&run["metadata"]["name"]);
            self.delete(&Target::new(&resource, Some("reinback-system"), &name)).await;
        }
    }

    pub async fn delete_lease(&self) {
        let resource = Resource::new("coordination.k8s.io", "v1", "leases");
        self.delete(&Target::new(&resource, Some("reinback-system"), "reinback")).await;
    }

    /// Somebody deletes an object, in whatever state it is.
    pub async fn delete(&self, target: &Target<'_>) {
        // What is gone already is as good.
        let _ = self.sim.cluster(Limits::default()).writer().delete(target, Preconditions::default(), None, None).await;
    }

    /// Somebody makes an object that prune deletes.
    pub async fn put_setting(&self, name: &str) {
        let setting = json!({
            "apiVersion": "management.cattle.io/v3", "kind": "Setting", "metadata": {"name": name}, "value": "new",
        });
        self.put(setting).await;
    }

    /// Somebody makes or replaces an object.
    pub async fn put(&self, object: Value) {
        let steps = vec![scene::Step::Put(object)];
        past::upgrade(&self.sim, steps, Duration::ZERO).await.expect("the cluster takes it");
    }

    /// Somebody who cannot wait scales Rancher to what it had.
    pub async fn scale_rancher_up(&self) {
        let resource = Resource::new("apps", "v1", "deployments");
        let target = Target::new(&resource, Some("cattle-system"), "rancher");
        let patch = json!({"spec": {"replicas": 3}});
        let _ = self.sim.cluster(Limits::default()).writer().merge_patch(&target, &patch).await;
    }

    /// Pods of the older version do not come up: somebody takes each away before it is Ready.
    pub async fn refuse_older_pods(sim: Sim) {
        let pods = Resource::new("", "v1", "pods");
        let writer = sim.cluster(Limits::default()).writer();
        let older = format!("rancher/rancher:{}", scene::BEFORE);
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            for (key, pod) in sim.objects() {
                let is_older = pod["spec"]["containers"][0]["image"] == older.as_str();
                if key.starts_with("pods/cattle-system/rancher-") && is_older {
                    let name = text(&pod["metadata"]["name"]);
                    let target = Target::new(&pods, Some("cattle-system"), &name);
                    // What is gone already is as good.
                    let _ = writer.delete(&target, Preconditions::default(), None, Some(0)).await;
                }
            }
        }
    }

    /// What its Deployment says now.
    pub fn rancher_image(&self) -> String {
        let rancher = self.sim.object("deployments.apps", Some("cattle-system"), "rancher").expect("it is there");
        text(&rancher["spec"]["template"]["spec"]["containers"][0]["image"])
    }

    /// Another backup is put under the name of the one that is asked for.
    pub fn replace_backup(&self) {
        save(&self.sim, self.folder.path(), self.play, self.encryption.clone());
    }

    /// Everything that a restore is about, without what the server sets and what goes by itself.
    pub fn picture(&self) -> BTreeMap<String, Value> {
        picture(&self.sim)
    }
}

/// What only the newer version has and prune finds held back: by finalizers that nobody answers for, and by one whose
/// controller is late.
pub const HELD_BACK: [&str; 3] = [
    "settings.management.cattle.io/held-by-nobody",
    "namespaces/c-m-held-by-nobody",
    "settings.management.cattle.io/answered-late",
];

fn held_back() -> Vec<scene::Step> {
    let held = |api_version: &str, kind: &str, name: &str, finalizer: &str| {
        scene::Step::Put(json!({
            "apiVersion": api_version, "kind": kind, "metadata": {"name": name, "finalizers": [finalizer]},
        }))
    };
    vec![
        held("management.cattle.io/v3", "Setting", "held-by-nobody", "example.org/nobody"),
        held("v1", "Namespace", "c-m-held-by-nobody", "example.org/nobody"),
        held("management.cattle.io/v3", "Setting", "answered-late", "example.org/late"),
    ]
}

/// The controller of one object: some seconds after the deletion it takes its finalizer off.
async fn answer_late(sim: Sim) {
    let resource = Resource::new("management.cattle.io", "v3", "settings");
    let target = Target::new(&resource, None, "answered-late");
    while let Some(live) = sim.object("settings.management.cattle.io", None, "answered-late") {
        tokio::time::sleep(Duration::from_secs(2)).await;
        if live["metadata"].get("deletionTimestamp").is_some() {
            let patch = json!({"metadata": {"finalizers": null}});
            // What is gone already is as good.
            let _ = sim.cluster(Limits::default()).writer().merge_patch(&target, &patch).await;
        }
    }
}

/// Puts the Secret with the configuration into the cluster.
fn encryption(sim: &Sim) -> Arc<Encryption> {
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "key", "namespace": "rancher-backup"},
        "data": {CONFIGURATION_KEY: STANDARD.encode(ENCRYPTION)},
    });
    sim.seed([secret]).expect("Secrets are served");
    Arc::new(Encryption::parse(ENCRYPTION.as_bytes()).expect("it is one"))
}

/// Whether the end of a restore has it as the backup had it.
fn is_saved(key: &str) -> bool {
    static OF_THE_SCENE: LazyLock<BTreeSet<String>> =
        LazyLock::new(|| scene::before().iter().filter(|object| scene::is_saved(object)).map(past::place).collect());
    OF_THE_SCENE.contains(key) || cluster_api::is_saved(key)
}

fn picture(sim: &Sim) -> BTreeMap<String, Value> {
    let objects = sim.objects();
    let uids: BTreeMap<String, String> =
        objects.iter().map(|(key, object)| (text(&object["metadata"]["uid"]), key.clone())).collect();
    objects
        .iter()
        .filter(|(key, _)| !PASSING.iter().any(|prefix| key.starts_with(prefix)))
        .map(|(key, object)| (key.clone(), plain(key, object, &uids)))
        .collect()
}

/// What comes and goes while agents and controllers work.
const PASSING: [&str; 9] = [
    "events.events.k8s.io/",
    "events/",
    "leases.coordination.k8s.io/",
    "runs.reinback.io/",
    // Says when it ended.
    "restores.resources.cattle.io/",
    "pods/",
    "replicasets.apps/",
    "nodes/",
    "endpoints",
];

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// An owner is told by what its UID names now, so that a reference to nothing shows.
fn plain(key: &str, object: &Value, uids: &BTreeMap<String, String>) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        for field in ["uid", "resourceVersion", "generation", "creationTimestamp", "managedFields"] {
            metadata.remove(field);
        }
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove("deployment.kubernetes.io/revision");
        }
        if metadata.get("annotations").is_some_and(|annotations| *annotations == json!({})) {
            metadata.remove("annotations");
        }
        for owner in metadata.get_mut("ownerReferences").and_then(Value::as_array_mut).into_iter().flatten() {
            owner["uid"] = json!(uids.get(&text(&owner["uid"])).map_or("nothing that is there", String::as_str));
        }
    }
    if key.starts_with("deployments.apps/") || key.starts_with("customresourcedefinitions.") {
        // Times, and generations that count how often it was scaled.
        object["status"].take();
    }
    if key.starts_with("clusters.management.cattle.io/") {
        object["metadata"]["annotations"].take();
    }
    object
}

/// A backup of the scene as it is in the cluster; gives its file name.
fn save(sim: &Sim, folder: &std::path::Path, play: Play, encryption: Option<Arc<Encryption>>) -> String {
    let now = START.parse().expect("a time");
    let saved = past::save(sim, folder, &play.before(), &protected::resource_set(), encryption, now);
    let (name, _) = saved.expect("the folder is ours");
    name
}
