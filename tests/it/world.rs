//! A small world: a cluster with Rancher on it, a Git repository, a folder of backups, and the agent's binary.

use std::io::{Read as _, Write as _};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use kube::Client;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::{OnceCell, Semaphore, SemaphorePermit};

use crate::git_server::{Work, git, make_bare};
use crate::harness::rancher::{self, Item};
use crate::harness::{Cluster, Image, Options, REINBACK, binaries, fixture, temp_dir};

/// The plain fixture: 464 objects.
pub const PLAIN: &str = "plain-6e9ee6a6-d4f2-46c2-bd99-75269cf041dc-2026-11-23T05-58-54Z.tar.gz";

/// Most worlds that work at a time; a cluster takes up to 1 GiB.
const ROOM_MOST: usize = 8;
static ROOM: Semaphore = Semaphore::const_new(ROOM_MOST);
/// Worlds that work whatever the machine has to do. Mostly two cores are busy with them; where they wait more than they work,
/// others begin beside them.
const ALWAYS: usize = 4;
/// Where so much of the processors' time was idle over [`LOOK`], in percent, one more may begin.
const IDLE_ENOUGH: u64 = 25;
const LOOK: Duration = Duration::from_secs(2);

/// Clusters whose tests are done, to be set back to what they held at first.
static DONE: Mutex<Vec<Done>> = Mutex::new(Vec::new());
/// No more than are wanted at once, for their memory.
const DONE_KEPT: usize = 4;
/// A test that ends still ends what it started: until then nobody else takes its cluster.
const AFTER_A_TEST: Duration = Duration::from_millis(500);

struct Done {
    cluster: Cluster,
    since: Instant,
}

/// A cluster that goes to another test when this one is done with it.
pub struct Lent(Option<Cluster>);

impl Deref for Lent {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        self.0.as_ref().expect("it is there until it is dropped")
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(cluster) = self.0.take() else { return };
        // One that cannot be set back, or that a failure left behind, ends here.
        if std::thread::panicking() || cluster.rest().is_err() {
            return;
        }
        let mut done = DONE.lock().unwrap_or_else(PoisonError::into_inner);
        if done.len() < DONE_KEPT {
            done.push(Done { cluster, since: Instant::now() });
        }
    }
}

pub struct World {
    pub cluster: Lent,
    pub client: Client,
    /// File name of the backup in the store.
    pub backup: String,
    /// What the backup holds.
    pub items: Vec<Item>,
    pub work: Work,
    /// The agent is told where backups lie.
    pub has_store: bool,
    /// Fields of `policy`, in one line.
    pub policy: String,
    /// Where the agent asks Rancher itself; else it asks through the API server.
    pub rancher_url: Option<String>,
    /// Set in the environment of reinback.
    pub env: Vec<(&'static str, &'static str)>,
    /// Which of the helm programs reinback finds on its `PATH`, as `helm` or `helm4`.
    pub helm: Option<&'static str>,
    folder: TempDir,
    room: Mutex<Option<SemaphorePermit<'static>>>,
}

/// What a cluster holds when it is handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filled {
    /// All of the backup, and Rancher.
    Restored,
    /// Rancher, and nothing of the backup.
    #[allow(dead_code, reason = "made by the measurements alone, which share this file")]
    RancherOnly,
    /// Nothing.
    Empty,
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl World {
    /// A cluster restored from the plain fixture, Rancher at its 3 replicas, the agent not yet started.
    pub async fn start() -> Self {
        Self::of(Options::default(), PLAIN, Filled::Restored).await
    }

    /// A cluster with nothing in it.
    pub async fn empty() -> Self {
        Self::of(Options::default(), PLAIN, Filled::Empty).await
    }

    /// A cluster as `options` say, with this backup of the fixtures in the store.
    pub async fn of(options: Options, backup_name: &str, filled: Filled) -> Self {
        let room = room().await;
        let folder = temp_dir();
        let cluster = match (backup_name, filled) {
            (PLAIN, Filled::Restored) => restored(options).await,
            _ => tokio::task::spawn_blocking(|| Cluster::start(options)).await.expect("it starts"),
        };
        let cluster = Lent(Some(cluster));
        let client = cluster.client().await;
        let store = folder.path().join("backups");
        std::fs::create_dir_all(&store).expect("a folder");
        let source = fixture(backup_name);
        let backup = rancher::backup_as_own(cluster.uid(), &source, &store).expect("a copy");
        let items = rancher::read(&source).expect("a backup");
        match filled {
            Filled::Restored if backup_name == PLAIN => {}
            Filled::Restored => {
                rancher::seed(&client, &source).await.expect("the backup is put into the cluster");
            }
            Filled::RancherOnly => rancher::start_alone(&client).await.expect("Rancher starts"),
            Filled::Empty => {}
        }
        let bare = folder.path().join("remote.git");
        make_bare(&bare);
        let work = Work::clone(&bare);
        work.write("README.md", "manifests\n").commit("Begin");
        work.push(&["-u", "origin", "HEAD:main"]);
        // No Rancher runs that would bring clusters and charts back.
        let policy = "verify: {clusterTimeout: 0s}".to_owned();
        let (has_store, rancher_url, env, helm) = (true, None, Vec::new(), None);
        Self {
            cluster,
            client,
            backup,
            items,
            work,
            has_store,
            policy,
            rancher_url,
            env,
            helm,
            folder,
            room: Mutex::new(Some(room)),
        }
    }

    /// From now on this world mostly sits out a time that the product takes, such as that of a run: another one may work
    /// beside it.
    pub fn step_aside(&self) {
        self.room.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn remote(&self) -> PathBuf {
        self.folder.path().join("remote.git")
    }

    /// Writes the configuration and gives its path.
    pub fn config(&self) -> PathBuf {
        let path = self.folder.path().join("reinback.yaml");
        let store =
            if self.has_store { format!("store: {{directory: {}}}\n", self.store().display()) } else { String::new() };
        let rancher = self.rancher_url.as_ref().map(|url| format!("rancher: {{url: \"{url}\"}}\n")).unwrap_or_default();
        let text = format!(
            "cluster: test\nsource: {{url: \"file://{}\", branch: main, path: clusters/test, interval: 5s}}\n{store}{rancher}policy: {{{}}}\ndataDir: {}\n",
            self.remote().display(),
            self.policy,
            self.folder.path().join("data").display(),
        );
        std::fs::write(&path, text).expect("the folder is writable");
        path
    }

    /// The folder in which backups lie.
    pub fn store(&self) -> PathBuf {
        self.folder.path().join("backups")
    }

    /// A copy of the plain fixture in the store, under a name of this cluster, with entries changed by `change`: path
    /// without `.json`, and content.
    pub fn repack(&self, prefix: &str, change: impl FnOnce(&mut Vec<(String, Value)>)) -> String {
        let mut entries = Vec::new();
        let file = std::fs::File::open(fixture(PLAIN)).expect("the fixture is there");
        for entry in tar::Archive::new(GzDecoder::new(file)).entries().expect("an archive") {
            let mut entry = entry.expect("an entry");
            let path = entry.path().expect("a path").to_string_lossy().into_owned();
            let mut text = String::new();
            if entry.header().entry_type().is_file() {
                entry.read_to_string(&mut text).expect("JSON is text");
                let path = path.strip_suffix(".json").expect("every entry is JSON").to_owned();
                entries.push((path, serde_json::from_str(&text).expect("JSON")));
            }
        }
        change(&mut entries);
        let name = format!("{prefix}-{}-2026-11-23T05-58-54Z.tar.gz", self.cluster.uid());
        let entries: Vec<_> =
            entries.into_iter().map(|(path, value)| (format!("{path}.json"), value.to_string().into_bytes())).collect();
        self.archive(&name, &entries);
        name
    }

    /// Packs entries, by path and content, into the store.
    pub fn archive(&self, name: &str, entries: &[(String, Vec<u8>)]) {
        let file = std::fs::File::create(self.store().join(name)).expect("the store is ours");
        let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::fast()));
        for (path, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o600);
            archive.append_data(&mut header, path, content.as_slice()).expect("written");
        }
        archive.into_inner().and_then(GzEncoder::finish).and_then(|mut file| file.flush()).expect("written");
    }

    pub fn command(&self, args: &[&str]) -> Command {
        self.command_as(self.cluster.kubeconfig(), args)
    }

    fn command_as(&self, kubeconfig: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(REINBACK);
        command.args(args).arg("--config").arg(self.config()).env("KUBECONFIG", kubeconfig);
        command.env_remove("RUST_LOG").stdin(Stdio::null());
        command.env("PATH", self.path()).envs(self.env.iter().copied());
        command
    }

    /// The tests' own, with one helm in front, or with none.
    pub fn path(&self) -> std::ffi::OsString {
        let folder = self.folder.path().join("bin");
        let helm = folder.join("helm");
        if let (Some(program), false) = (self.helm, helm.exists()) {
            std::fs::create_dir_all(&folder).expect("the folder is ours");
            std::os::unix::fs::symlink(binaries().expect("they are built").join(program), &helm).expect("a link");
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let has_none = |folder: &PathBuf| !folder.join("helm").exists();
        let folders = std::env::split_paths(&path).filter(has_none);
        std::env::join_paths(self.helm.map(|_| folder).into_iter().chain(folders)).expect("folders of a PATH")
    }

    /// Runs a command to its end.
    pub async fn reinback(&self, args: &[&str]) -> Said {
        self.reinback_as(self.cluster.kubeconfig(), args).await
    }

    /// Runs a command to its end as somebody else.
    pub async fn reinback_as(&self, kubeconfig: &Path, args: &[&str]) -> Said {
        let mut command = self.command_as(kubeconfig, args);
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("it ends").expect("it starts");
        Said::of(&output)
    }

    /// One pass of the agent.
    pub async fn once(&self) -> Said {
        self.reinback(&["agent", "--once", "--install-crd"]).await
    }

    /// An agent in the background; kill it when done.
    pub fn agent(&self, args: &[&str]) -> Child {
        let all: Vec<&str> = ["agent", "--install-crd"].into_iter().chain(args.iter().copied()).collect();
        let log = std::fs::File::create(self.folder.path().join("agent.log")).expect("a log");
        self.command(&all).stdout(Stdio::null()).stderr(log).spawn().expect("the agent starts")
    }

    /// Changes an object of the backup, so that a restore has something to do.
    pub fn touch(&self) {
        let object = "settings.management.cattle.io/server-url";
        self.cluster.kubectl(&["annotate", "--overwrite", object, "touched=yes"], "").expect("it is annotated");
    }

    /// Commits a `Restore` that has something to do, and pushes it.
    pub fn commit_change(&self, name: &str, annotations: &[(&str, &str)], spec: &str) -> String {
        self.touch();
        self.commit_restore(name, annotations, spec)
    }

    /// Commits a `Restore` of the backup and pushes it.
    pub fn commit_restore(&self, name: &str, annotations: &[(&str, &str)], spec: &str) -> String {
        self.commit_restore_of(&self.backup, name, annotations, spec)
    }

    /// Commits a `Restore` of another backup in the store and pushes it.
    pub fn commit_restore_of(&self, backup: &str, name: &str, annotations: &[(&str, &str)], spec: &str) -> String {
        let annotations: String =
            annotations.iter().map(|(key, value)| format!("    reinback.io/{key}: \"{value}\"\n")).collect();
        let annotations = if annotations.is_empty() { String::new() } else { format!("  annotations:\n{annotations}") };
        let text = format!(
            "apiVersion: resources.cattle.io/v1\nkind: Restore\nmetadata:\n  name: {name}\n{annotations}spec:\n  backupFilename: {backup}\n{spec}"
        );
        self.work.write(&format!("clusters/test/{name}.yaml"), &text);
        let commit = self.work.commit(&format!("Restore {name}"));
        self.work.push(&["origin", "HEAD:main"]);
        commit
    }

    /// Commits a `Rollback` and pushes it; `spec` is indented by two.
    pub fn commit_rollback(&self, name: &str, annotations: &[(&str, &str)], spec: &str) -> String {
        let annotations: String =
            annotations.iter().map(|(key, value)| format!("    reinback.io/{key}: \"{value}\"\n")).collect();
        let annotations = if annotations.is_empty() { String::new() } else { format!("  annotations:\n{annotations}") };
        let text = format!(
            "apiVersion: reinback.io/v1alpha1\nkind: Rollback\nmetadata:\n  name: {name}\n{annotations}spec:\n{spec}"
        );
        self.work.write(&format!("clusters/test/{name}.yaml"), &text);
        let commit = self.work.commit(&format!("Rollback {name}"));
        self.work.push(&["origin", "HEAD:main"]);
        commit
    }

    /// The first look is over: what is committed from now on runs.
    pub async fn settle(&self) {
        let said = self.once().await;
        assert_eq!(said.code, Some(0), "{said:?}");
    }

    /// Runs of the cluster by manifest, with phase and reason.
    pub async fn runs(&self) -> Vec<(String, String, String)> {
        let said = self.reinback(&["status", "-o", "json"]).await;
        let value: Value = serde_json::from_str(&said.stdout).unwrap_or_else(|_| panic!("{said:?}"));
        let text = |run: &Value, pointer: &str| run.pointer(pointer).and_then(Value::as_str).unwrap_or("").to_owned();
        let runs = value["runs"].as_array().cloned().unwrap_or_default();
        let mut runs: Vec<_> = runs
            .iter()
            .map(|run| (text(run, "/spec/manifest/name"), text(run, "/status/phase"), text(run, "/status/reason")))
            .collect();
        runs.sort();
        runs
    }

    /// Differences between the backup and the cluster; empty when all of it is back.
    pub async fn differences(&self) -> Vec<String> {
        self.differences_from(&self.items).await
    }

    /// Differences between the objects of another backup and the cluster.
    pub async fn differences_from(&self, items: &[Item]) -> Vec<String> {
        // Built-in roles are Rancher's own to keep, what trusts this API server is the controller manager's, and the
        // operator's objects are the operator's.
        let is_others = |item: &&Item| {
            let Item { place, object } = item;
            object["builtin"] == true
                || place.is("", "configmaps") && place.name == "kube-root-ca.crt"
                || place.group == "resources.cattle.io"
                || place.is_crd() && place.name.ends_with(".resources.cattle.io")
        };
        let ours: Vec<Item> = items.iter().filter(|item| !is_others(item)).cloned().collect();
        rancher::differences(&self.client, &ours).await.expect("the cluster answers")
    }

    /// Subjects of the status branch, newest first.
    pub fn status_log(&self) -> Vec<String> {
        let text = git(&self.remote(), &["log", "--format=%s", "reinback/test"]);
        text.lines().map(str::to_owned).collect()
    }

    /// Waits until every pod of Rancher is as its Deployment says. Blocks.
    pub fn until_rolled_out(&self) {
        let status = ["rollout", "status", "-n", "cattle-system", "deployment/rancher", "--timeout=180s"];
        let Err(error) = self.cluster.kubectl(&status, "") else { return };
        let seen = |args: &[&str]| self.cluster.kubectl(args, "").unwrap_or_else(|error| format!("{error:?}"));
        let objects = seen(&["get", "nodes,deployments,replicasets,pods", "-n", "cattle-system", "-o", "wide"]);
        let events = seen(&["get", "events", "-n", "cattle-system"]);
        panic!("{error}\n{objects}\n{events}");
    }

    /// Replicas wanted and ready of a Deployment.
    pub async fn replicas(&self, namespace: &str, name: &str) -> Result<(i64, i64)> {
        let text = self.cluster.kubectl(&["get", "deployment", "-n", namespace, name, "-o", "json"], "")?;
        let value: Value = serde_json::from_str(&text)?;
        let number = |pointer: &str| value.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
        Ok((number("/spec/replicas"), number("/status/readyReplicas")))
    }
}

/// Waits until the machine can do with one more world.
async fn room() -> SemaphorePermit<'static> {
    static NEXT: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    // One after the other: each is seen at work before the next one begins.
    let _turn = NEXT.lock().await;
    let room = ROOM.acquire().await.expect("the semaphore is never closed");
    while ROOM.available_permits() < ROOM_MOST - ALWAYS {
        let before = processor_times();
        tokio::time::sleep(LOOK).await;
        let after = processor_times();
        // They may go back a little (proc(5)).
        let (idle, all) = (after.0.saturating_sub(before.0), after.1.saturating_sub(before.1));
        if idle * 100 >= all * IDLE_ENOUGH {
            break;
        }
    }
    room
}

/// Time that the processors were idle, and all their time, in ticks since the machine was started (proc(5), `/proc/stat`).
fn processor_times() -> (u64, u64) {
    let stat = std::fs::read_to_string("/proc/stat").expect("this is Linux");
    let times: Vec<u64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .filter_map(|time| time.parse().ok())
        .collect();
    (times.get(3).copied().unwrap_or_default(), times.iter().take(8).sum())
}

/// A cluster restored from the plain fixture. The first one is filled, all others begin with what that one held, or are set
/// back to it.
async fn restored(options: Options) -> Cluster {
    static IMAGE: OnceCell<Image> = OnceCell::const_new();
    let (mut first, its_options) = (None, options.clone());
    let fill = async || {
        let cluster = tokio::task::spawn_blocking(|| Cluster::start(its_options)).await.expect("it starts");
        let client = cluster.client().await;
        rancher::seed(&client, &fixture(PLAIN)).await.expect("the backup is put into the cluster");
        let image = cluster.image().expect("it is copied");
        first = Some(cluster);
        image
    };
    let image = IMAGE.get_or_init(fill).await;
    if let Some(used) = used(&options) {
        let set_back = tokio::task::spawn_blocking(|| set_back(used, image)).await.expect("it does not panic");
        match set_back {
            Ok(cluster) => return cluster,
            Err(error) => eprintln!("a cluster cannot be set back, so another is started: {error:?}"),
        }
    }
    match first {
        Some(cluster) => cluster,
        None => tokio::task::spawn_blocking(|| Cluster::start_from(image, options)).await.expect("it starts"),
    }
}

fn used(options: &Options) -> Option<Done> {
    let mut done = DONE.lock().unwrap_or_else(PoisonError::into_inner);
    let place = done.iter().position(|done| done.cluster.options() == options)?;
    Some(done.remove(place))
}

fn set_back(done: Done, image: &Image) -> Result<Cluster> {
    let Done { mut cluster, since } = done;
    std::thread::sleep(AFTER_A_TEST.saturating_sub(since.elapsed()));
    let begun = Instant::now();
    cluster.set_back(image)?;
    eprintln!("the cluster of a test before was set back in {:?}", begun.elapsed());
    Ok(cluster)
}

impl Said {
    fn of(output: &Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}
