//! Everything that the demo needs, in one folder: a cluster in memory, a repository, backups, and an agent's configuration.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use serde_json::Value;

use super::process::Process;
use super::repository::Repository;
use super::{past, scene, staff};
use crate::agent::ledger::Books;
use crate::agent::look::{self, Looked};
use crate::agent::source::Source;
use crate::agent::{self, Options};
use crate::cluster::{LeaseTimes, Limits};
use crate::config::Config;
use crate::helm::Access;
use crate::journal::Step;
use crate::publish::Publisher;
use crate::run::{NAMESPACE, Run};
use crate::sim::{Sim, SimOptions};
use crate::status;
use crate::store::Stores;

/// When the story begins: on a Monday, before 3 a.m.
const START: &str = "2026-11-23T02:58:00Z";
/// The branch that status goes to.
pub const STATUS: &str = "reinback/prod";
/// Where manifests lie in the repository.
pub const PATH: &str = "clusters/prod";

/// So that it takes seconds what takes minutes, and can still be followed.
const LATENCY: Duration = Duration::from_millis(5);
const CONTROLLERS: Duration = Duration::from_millis(30);
const POD_START: Duration = Duration::from_millis(300);
const POD_STOP: Duration = Duration::from_millis(400);
/// What depends on a deleted object is gone after it.
const SETTLE: Duration = Duration::from_millis(90);
/// Between two looks at the repository; a push wakes the agent at once.
const INTERVAL: Duration = Duration::from_millis(400);
/// Taken over after 6 s: a second is the margin of every lease, and a machine that is very busy may need four for a renewal.
pub const LEASE: LeaseTimes = LeaseTimes {
    duration: Duration::from_secs(6),
    renew_every: Duration::from_millis(400),
    renew_deadline: Duration::from_millis(4_000),
    write_timeout: Duration::from_millis(800),
};

pub struct Stage {
    pub sim: Sim,
    pub repository: Repository,
    folder: PathBuf,
    seed: u64,
    agents: u64,
}

/// The backup that was taken.
pub struct Backup {
    /// File name in the store.
    pub name: String,
    pub objects: usize,
}

impl Stage {
    /// A cluster with Rancher on it, an empty repository and an empty store under `folder`.
    ///
    /// # Errors
    ///
    /// When the folder cannot be written.
    pub fn build(folder: &Path, seed: u64) -> anyhow::Result<Self> {
        fastrand::seed(seed);
        let options = SimOptions {
            seed,
            start: START.parse()?,
            latency: LATENCY,
            controller_delay: CONTROLLERS,
            pod_start: POD_START,
            pod_stop: POD_STOP,
        };
        let sim = Sim::new(options);
        sim.seed(objects())?;
        std::fs::create_dir(folder.join("backups")).context("cannot make a folder")?;
        let repository = Repository::make(folder)?;
        Ok(Self { sim, repository, folder: folder.to_owned(), seed, agents: 0 })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where backups lie.
    pub fn store(&self) -> PathBuf {
        self.folder.join("backups")
    }

    pub fn now(&self) -> Timestamp {
        self.sim.clock().now()
    }

    /// Takes the nightly backup.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn back_up(&self) -> anyhow::Result<Backup> {
        let (name, objects) =
            past::save(&self.sim, &self.store(), &objects(), &scene::resource_set(), None, self.now())?;
        Ok(Backup { name, objects })
    }

    /// The upgrade, and what its migration does to people.
    ///
    /// # Errors
    ///
    /// When a request is refused.
    pub async fn upgrade(&self) -> anyhow::Result<()> {
        past::upgrade_at_once(&self.sim, staff::upgrade()).await?;
        past::upgrade(&self.sim, scene::upgrade(), SETTLE).await
    }

    /// Starts an agent as it would start on another machine: with folders of its own. It dies when the run comes to the step
    /// `until`, which its journal then says it has begun.
    ///
    /// # Errors
    ///
    /// As [`Process::start`].
    pub fn start_agent(&mut self, until: Option<Step>) -> anyhow::Result<Process> {
        self.agents += 1;
        let config = self.config(&format!("agent-{}", self.agents))?;
        let options = Options { install_crd: true, helm: Access::default(), lease: LEASE };
        let sim = self.sim.clone();
        let fate = move || until.is_some_and(|until| step_of(&sim) == Some(until));
        Process::start(self.sim.clone(), config, options, self.seed.wrapping_add(self.agents), Arc::new(fate))
    }

    /// The configuration, with caches under this name.
    fn config(&self, caches: &str) -> anyhow::Result<Config> {
        let text = self.config_text()?;
        let parsed = Config::parse(Some(("reinback.yaml", text.as_bytes())), &[], &self.folder.join(caches));
        let mut config = parsed.map_err(|problems| anyhow::anyhow!("{}", crate::config::Problems(problems)))?;
        // Shorter than what a Git server should be asked for.
        config.source.interval = INTERVAL;
        Ok(config)
    }

    /// `reinback.yaml`.
    ///
    /// # Errors
    ///
    /// When the folder has no absolute path.
    pub fn config_text(&self) -> anyhow::Result<String> {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let (url, store) = (quoted(&self.repository.url()?), quoted(&self.store().display().to_string()));
        // One write after the other, so that they can be followed.
        Ok(format!(
            "cluster: prod\nsource:\n  url: {url}\n  path: {PATH}\nstore:\n  directory: {store}\n\
             limits:\n  concurrency: 1\n\
             # Its clusters are simulated, and so do not connect again.\npolicy:\n  verify:\n    clusterTimeout: 0s\n"
        ))
    }

    /// What the manifest would do now, as `reinback plan` says it.
    ///
    /// # Errors
    ///
    /// When repository, store or cluster cannot be read, or there is no manifest.
    pub async fn plan(&self) -> anyhow::Result<Looked> {
        let caches = tempfile::Builder::new().prefix("plan-").tempdir_in(&self.folder)?;
        let mut config = self.config("plan")?;
        caches.path().clone_into(&mut config.data_dir);
        let reader = self.sim.cluster(Limits::default()).reader();
        let view = Source::open(&config)?.look(&config).await?;
        let placed = view.placed.first().context("there is no manifest")?;
        let publisher = Publisher::start(Box::new(agent::status_branch(&config)?), reader.clock());
        let books = Books::read_or_new(&reader, &publisher, &config).await?;
        let asked = look::ask(&config, &reader, placed, books.facts_of(None, Vec::new())).await?;
        Ok(asked.look(&reader, &Stores, &look::places(&config)).await?)
    }

    /// The run, as the cluster has it.
    pub fn run(&self) -> Option<Run> {
        let mut object = (*stored_run(&self.sim)?).clone();
        // What is stored has no type of its own.
        object["apiVersion"] = "reinback.io/v1alpha1".into();
        object["kind"] = "Run".into();
        status::run_from_value(object).ok()
    }

    /// The run, as the status branch has it.
    ///
    /// # Errors
    ///
    /// When the repository cannot be read.
    pub fn told_run(&self) -> anyhow::Result<Option<Run>> {
        let Some(run) = self.run() else { return Ok(None) };
        let file = self.repository.file(STATUS, &status::status_file_path(&run))?;
        Ok(file.and_then(|text| status::parse_status_file(text.as_bytes()).ok()))
    }

    /// Who holds the lease.
    pub fn holder(&self) -> Option<String> {
        let lease = self.sim.object("leases.coordination.k8s.io", Some(NAMESPACE), "reinback")?;
        Some(lease["spec"]["holderIdentity"].as_str()?.to_owned())
    }

    /// How many users Rancher has.
    pub fn users(&self) -> usize {
        self.sim.objects().keys().filter(|place| place.starts_with("users.management.cattle.io/")).count()
    }

    /// What the downstream cluster says of itself.
    pub fn complaint(&self) -> String {
        let cluster = self.sim.object("clusters.management.cattle.io", None, "c-m-prod");
        let message = cluster.map(|cluster| cluster["status"]["conditions"][0]["message"].clone());
        message.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    /// Rancher's Deployment.
    pub fn rancher(&self) -> Rancher {
        let deployment = self.sim.object("deployments.apps", Some("cattle-system"), "rancher");
        let deployment = deployment.as_deref().unwrap_or(&Value::Null);
        let number = |value: &Value| value.as_i64().unwrap_or_default();
        let image = deployment["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap_or_default();
        let status = &deployment["status"];
        Rancher {
            replicas: number(&deployment["spec"]["replicas"]),
            is_settled: status["observedGeneration"] == deployment["metadata"]["generation"]
                && number(&status["updatedReplicas"]) == number(&deployment["spec"]["replicas"])
                && number(&status["replicas"]) == number(&deployment["spec"]["replicas"]),
            ready: number(&status["readyReplicas"]),
            version: image.rsplit(':').next().unwrap_or_default().to_owned(),
            had: deployment["metadata"]["annotations"][crate::object::normal::REPLICAS_ANNOTATION]
                .as_str()
                .map(str::to_owned),
        }
    }
}

/// What is asked of Rancher's Deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rancher {
    pub replicas: i64,
    pub ready: i64,
    /// No pod of another version is left, and none is to come.
    pub is_settled: bool,
    /// Tag of its image.
    pub version: String,
    /// Replicas that it had before it was scaled to 0, by its annotation.
    pub had: Option<String>,
}

fn objects() -> Vec<Value> {
    [scene::before(), staff::before()].concat()
}

fn stored_run(sim: &Sim) -> Option<Arc<Value>> {
    let objects = sim.objects();
    objects.into_iter().find(|(place, _)| place.starts_with("runs.reinback.io/")).map(|(_, run)| run)
}

/// The step that the run began last.
fn step_of(sim: &Sim) -> Option<Step> {
    let run = stored_run(sim)?;
    let last = run["status"]["steps"].as_array()?.last()?;
    serde_json::from_value(last["step"].clone()).ok()
}
