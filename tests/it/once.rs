//! Once, and newest wins: what is merged runs one time, whatever is deleted, restarted or merged beside it.

use std::process::Child;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::git_server::{Fault, GitServer, Options, git};
use crate::harness::{AuditEvent, Bar, eventually};
use crate::process::Process;
use crate::world::{Said, World};

/// A background agent that ends with the test.
pub struct Watching(Child);

impl Watching {
    pub fn start(world: &World, args: &[&str]) -> Self {
        Self(world.agent(args))
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.0.kill().expect("it runs");
        self.0.wait().expect("it ends");
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

const BACK: (&str, &str) = ("accept", "VersionMismatch, PruneShare, DownstreamReverts");

impl World {
    /// How often reinback has written Rancher's Deployment: a run does so to take it down and to bring it back.
    pub fn scalings(&self) -> usize {
        let events = self.cluster.audit();
        let ours = events.iter().filter(|event| {
            let object = &event.object_ref;
            let rancher = (object.resource.as_str(), object.namespace.as_str(), object.name.as_str());
            event.writes()
                && event.user_agent.starts_with("reinback")
                && rancher == ("deployments", "cattle-system", "rancher")
        });
        ours.count()
    }

    pub fn kubectl(&self, args: &[&str]) -> String {
        self.cluster.kubectl(args, "").expect("kubectl succeeds")
    }

    /// Runs as `name phase reason`, by name.
    pub async fn told(&self, args: &[&str]) -> Vec<String> {
        let said = self.reinback(&[&["status", "-o", "json"], args].concat()).await;
        let value: Value = serde_json::from_str(&said.stdout).unwrap_or_else(|_| panic!("{said:?}"));
        let text = |run: &Value, pointer: &str| run.pointer(pointer).and_then(Value::as_str).unwrap_or("-").to_owned();
        let line = |run: &Value| {
            ["/spec/manifest/name", "/status/phase", "/status/reason"].map(|pointer| text(run, pointer)).join(" ")
        };
        let mut told: Vec<_> = value["runs"].as_array().into_iter().flatten().map(line).collect();
        told.sort();
        told
    }

    /// The object of the one run of a manifest.
    pub fn run_of(&self, manifest: &str) -> anyhow::Result<Value> {
        let list = self.cluster.kubectl(&["get", "runs.reinback.io", "-n", "reinback-system", "-o", "json"], "")?;
        let list: Value = serde_json::from_str(&list)?;
        let runs = list["items"].as_array().cloned().unwrap_or_default();
        runs.into_iter().find(|run| run["spec"]["manifest"]["name"] == manifest).context("there is no such run")
    }

    /// Commits a `Restore` of a backup that is not there: it stays held.
    pub fn commit_held(&self, name: &str) -> String {
        self.write_held(name);
        let commit = self.work.commit(&format!("Restore {name}"));
        self.work.push(&["origin", "HEAD:main"]);
        commit
    }

    pub fn write_held(&self, name: &str) {
        self.work.write(&format!("clusters/test/{name}.yaml"), &restore(name, "not-there.tar.gz", "{}"));
    }

    pub fn dashboard(&self) -> String {
        git(&self.remote(), &["show", "reinback/test:README.md"])
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder().join("agent.log")).expect("the agent was started")
    }
}

pub fn restore(name: &str, backup: &str, annotations: &str) -> String {
    format!(
        "apiVersion: resources.cattle.io/v1\nkind: Restore\nmetadata:\n  name: {name}\n  annotations: {annotations}\n\
         spec:\n  backupFilename: {backup}\n"
    )
}

#[track_caller]
pub fn ended(said: &Said, code: i32) {
    assert_eq!(said.code, Some(code), "{}\n{}", said.stdout, said.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_runs_once_until_its_requested_at_is_changed() {
    let world = World::start().await;
    world.settle().await;
    assert_eq!(world.status_log().len(), 1, "the status branch is made even without a manifest");
    world.commit_change("back", &[BACK], "");
    ended(&world.once().await, 0);
    assert_eq!(world.told(&[]).await, ["back Succeeded Succeeded"]);
    let (scalings, commits) = (world.scalings(), world.status_log().len());
    assert!(scalings >= 2, "{scalings}");

    ended(&world.once().await, 0);
    world.commit_change("back", &[BACK, ("timeout", "50m")], "");
    ended(&world.once().await, 0);
    world.kubectl(&["delete", "runs.reinback.io", "-n", "reinback-system", "--all"]);
    ended(&world.once().await, 0);
    world.kubectl(&["delete", "namespace", "reinback-system"]);
    ended(&world.once().await, 0);
    std::fs::remove_dir_all(world.folder().join("data")).expect("the caches are a folder");
    ended(&world.once().await, 0);
    assert_eq!(world.told(&[]).await, ["back Succeeded Succeeded"]);
    assert_eq!(world.scalings(), scalings, "nothing ran twice");
    // The newer commit of the edited document, on the dashboard.
    assert!(world.status_log().len() <= commits + 1, "{:?}", world.status_log());

    world.commit_change("back", &[BACK, ("requested-at", "2026-11-24T09:00:00Z")], "");
    ended(&world.once().await, 0);
    assert_eq!(world.told(&[]).await, ["back Succeeded Succeeded"; 2]);
    assert_eq!(world.scalings(), 2 * scalings);

    // Another name with the same content is held until its author says that he knows.
    world.commit_change("again", &[BACK, ("requested-at", "2026-11-24T09:00:00Z")], "");
    assert_eq!(world.reinback(&["plan"]).await.code, Some(3));
    ended(&world.once().await, 3);
    assert_eq!(world.run_of("again").expect("a run")["status"]["reason"], "AlreadyRun");
    let accept = ("accept", "VersionMismatch, PruneShare, DownstreamReverts, AlreadyRun");
    let commit = world.commit_change("again", &[accept, ("requested-at", "2026-11-24T09:00:00Z")], "");
    ended(&world.once().await, 0);
    let run = world.run_of("again").expect("a run");
    assert_eq!(run["status"]["phase"], "Succeeded");
    assert_eq!(run["spec"]["source"]["commit"], commit.as_str(), "a run names the commit that let it run");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_there_at_the_first_look_never_runs_by_itself() {
    let world = World::start().await;
    for name in ["one", "two"] {
        world.work.write(&format!("clusters/test/{name}.yaml"), &restore(name, &world.backup, "{}"));
    }
    world.work.commit("Two at once");
    world.work.push(&["origin", "HEAD:main"]);

    // Another agent is at work: this one must not end the first look before it recorded what was there.
    world.kubectl(&["create", "namespace", "reinback-system"]);
    let now = jiff::Timestamp::now();
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": { "name": "reinback", "namespace": "reinback-system" },
        "spec": { "holderIdentity": "other", "leaseDurationSeconds": 600, "renewTime": format!("{now:.6}"), "acquireTime": format!("{now:.6}") },
    });
    world.cluster.kubectl(&["create", "-f", "-"], &lease.to_string()).expect("a lease");
    ended(&world.once().await, 3);
    assert_eq!(git(&world.remote(), &["branch", "--list", "reinback/*"]), "");
    world.kubectl(&["delete", "lease", "-n", "reinback-system", "reinback"]);

    let recorded = ["one Superseded FirstLook", "two Superseded FirstLook"];
    ended(&world.once().await, 0);
    assert_eq!(world.told(&[]).await, recorded);
    assert_eq!(world.status_log().len(), 1, "one commit, so that it is whole or not there: {:?}", world.status_log());

    // As a process leaves it that was killed after the first of the two.
    for left in ["one", "two"] {
        git(&world.remote(), &["update-ref", "-d", "refs/heads/reinback/test"]);
        let run = world.run_of(left).expect("a run");
        let name = run["metadata"]["name"].as_str().expect("a name");
        world.kubectl(&["delete", "runs.reinback.io", "-n", "reinback-system", name]);
        ended(&world.once().await, 0);
        assert_eq!(world.told(&[]).await, recorded);
    }
    assert_eq!(world.scalings(), 0);

    world.commit_change("merged", &[BACK], "");
    ended(&world.once().await, 0);
    assert_eq!(world.told(&[]).await, [&["merged Succeeded Succeeded"][..], &recorded].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_pending_the_newer_merge_runs_whatever_their_dates_say() {
    let world = World::start().await;
    let server = GitServer::start(Options::default());
    let bare = server.bare("remote.git");
    let url = ["--source-url", &server.url("remote.git")];
    let once = async || world.reinback(&[&["agent", "--once", "--install-crd"][..], &url].concat()).await;
    let work = &world.work;
    work.git(&["remote", "set-url", "origin", &bare.display().to_string()]);
    work.push(&["origin", "HEAD:main"]);
    ended(&once().await, 0);

    let dated = |date: &str, name: &str| {
        work.write(&format!("clusters/test/{name}.yaml"), &restore(name, &world.backup, "{}"));
        work.git(&["add", "--all"]);
        work.git(&["commit", "--quiet", "--date", date, "--message", name]);
        // `git commit` takes the committer's date from the environment alone.
        let text = work.git(&["cat-file", "commit", "HEAD"]);
        let seconds = date.parse::<jiff::Timestamp>().expect("a date").as_second();
        let committer = format!("committer Ada <ada@example.org> {seconds} +0000");
        let lines = text.lines().map(|line| if line.starts_with("committer ") { &committer } else { line });
        let object = lines.collect::<Vec<_>>().join("\n") + "\n";
        let file = world.folder().join("commit");
        std::fs::write(&file, object).expect("the folder is writable");
        let id = work.git(&["hash-object", "-t", "commit", "-w", &file.display().to_string()]);
        work.git(&["reset", "--quiet", "--hard", &id]);
    };
    work.git(&["checkout", "--quiet", "-b", "long-ago"]);
    dated("1999-01-01T00:00:00Z", "merged-last");
    work.git(&["checkout", "--quiet", "main"]);
    dated("2037-01-01T00:00:00Z", "from-the-future");
    work.git(&["merge", "--quiet", "--no-ff", "-m", "Merge what is old", "long-ago"]);
    let merge = work.git(&["rev-parse", "HEAD"]);
    for number in 0..12 {
        work.write("notes.md", &number.to_string()).commit("elsewhere");
    }
    work.push(&["origin", "HEAD:main"]);
    server.take_seen();
    world.touch();
    ended(&once().await, 0);
    let posts = server.take_seen().iter().filter(|seen| seen.path.ends_with("git-upload-pack")).count();
    assert!(posts >= 2, "the history was deepened: {posts}");
    let told = world.told(&url).await;
    assert_eq!(told, ["from-the-future Superseded NewerManifest", "merged-last Succeeded Succeeded"]);
    assert_eq!(world.run_of("merged-last").expect("a run")["spec"]["source"]["commit"], merge.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_manifest_ends_by_removal_by_a_newer_one_or_by_time() {
    let world = World::start().await;
    world.settle().await;
    // Two in one commit hold each other; without one of them the other goes its way.
    world.write_held("left");
    world.write_held("right");
    world.work.commit("Both at once");
    world.work.push(&["origin", "HEAD:main"]);
    assert_eq!(world.reinback(&["plan"]).await.code, Some(3));
    ended(&world.once().await, 3);
    assert_eq!(world.told(&[]).await, ["left Held Ambiguous", "right Held Ambiguous"]);
    world.work.git(&["rm", "--quiet", "clusters/test/left.yaml"]);
    world.work.commit("Only one");
    world.work.push(&["origin", "HEAD:main"]);
    ended(&world.once().await, 3);
    assert_eq!(world.told(&[]).await, ["left Cancelled ManifestRemoved", "right Held BackupNotFound"]);

    // Held for longer than policy.maxHold.
    let name = world.run_of("right").expect("a run")["metadata"]["name"].as_str().expect("a name").to_owned();
    let patch = r#"{"status":{"heldSince":"2026-01-01T00:00:00Z"}}"#;
    let run = ["runs.reinback.io", "-n", "reinback-system", &name];
    world.kubectl(&[&["patch"], &run[..], &["--subresource=status", "--type=merge", "-p", patch]].concat());
    ended(&world.once().await, 1);
    assert_eq!(world.told(&[]).await, ["left Cancelled ManifestRemoved", "right Failed HoldExpired"]);
    std::fs::copy(world.folder().join("backups").join(&world.backup), world.folder().join("backups/not-there.tar.gz"))
        .expect("a copy");
    ended(&world.once().await, 0);
    assert_eq!(world.scalings(), 0, "what expired does not run when its gate opens");
    std::fs::remove_file(world.folder().join("backups/not-there.tar.gz")).expect("it was copied");

    // A newer one supersedes a held one, also while it is held itself, and a Rollback does, too.
    world.commit_held("older");
    ended(&world.once().await, 3);
    world.commit_held("newer");
    ended(&world.once().await, 3);
    let rollback =
        "apiVersion: reinback.io/v1alpha1\nkind: Rollback\nmetadata: {name: version}\nspec: {toVersion: v2.8.9}\n";
    world.work.write("clusters/test/rollback.yaml", rollback).write("clusters/test/broken.yaml", BROKEN);
    world.work.commit("Back to 2.8.9, and something broken");
    world.work.push(&["origin", "HEAD:main"]);
    let plan = world.reinback(&["plan"]).await;
    ended(&plan, 1);
    assert!(plan.stdout.contains("Rollback version: Rancher to v2.8.9; held by 1 gate"), "{plan:?}");
    ended(&world.once().await, 1);
    let told = world.told(&[]).await;
    let expected = ["newer Superseded NewerManifest", "older Superseded NewerManifest", "version Held VersionMismatch"];
    assert_eq!(
        told[1..3].iter().chain(&told[4..]).collect::<Vec<_>>(),
        expected.iter().collect::<Vec<_>>(),
        "{told:?}"
    );
    let dashboard = world.dashboard();
    assert!(dashboard.contains("`clusters/test/broken.yaml:6`"), "{dashboard}");
    assert!(dashboard.contains("did you mean"), "{dashboard}");
    // What is removed while a file cannot be read may be in that file.
    world.work.git(&["rm", "--quiet", "clusters/test/rollback.yaml"]);
    world.work.commit("Away");
    world.work.push(&["origin", "HEAD:main"]);
    ended(&world.once().await, 1);
    assert!(world.told(&[]).await.contains(&"version Held VersionMismatch".to_owned()));
}

const BROKEN: &str =
    "apiVersion: resources.cattle.io/v1\nkind: Restore\nmetadata:\n  name: broken\nspec:\n  backupFileName: a.tar.gz\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_git_shows_as_started_is_gone_on_with_although_the_cluster_lost_it() {
    let world = World::start().await;
    world.settle().await;
    let lease = ["--lease-duration", "4", "--lease-renew", "1"];
    let agent = Watching::start(&world, &lease);
    world.commit_change("back", &[BACK], "");
    eventually(Duration::from_secs(60), async || {
        let run = world.run_of("back")?;
        let steps = run["status"]["steps"].as_array().cloned().unwrap_or_default();
        ensure!(steps.iter().any(|step| step["step"] == "Quiesce"), "{steps:?}");
        Ok(())
    })
    .await;
    agent.kill();
    world.kubectl(&["delete", "runs.reinback.io", "-n", "reinback-system", "--all"]);
    // The lease of the killed one runs out first.
    ended(&world.once().await, 0);
    assert_eq!(world.told(&[]).await, ["back Succeeded Succeeded"]);
    assert_eq!(world.replicas("cattle-system", "rancher").await.expect("it is there"), (3, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_run_by_hand_beside_an_agent_and_counts_as_newest() {
    let world = World::start().await;
    world.settle().await;
    let first = world.work.git(&["rev-parse", "--short=7", "HEAD"]);
    let mismatched = restore("by-hand", "not-there.tar.gz", "{}");
    let file = world.folder().join("by-hand.yaml");
    let path = file.display().to_string();
    std::fs::write(&file, &mismatched).expect("the folder is writable");
    let held = world.reinback(&["run", "--yes", &path]).await;
    ended(&held, 3);
    assert!(held.stdout.contains("BackupNotFound"), "{held:?}");
    assert_eq!(world.told(&[]).await, Vec::<String>::new(), "a plan that is held is not recorded");

    world.commit_held("pending");
    ended(&world.once().await, 3);
    ended(&world.reinback(&["plan"]).await, 3);
    ended(&world.reinback(&["plan", "main~1"]).await, 0);
    ended(&world.reinback(&["plan", &first, "-o", "json"]).await, 0);
    let unknown = world.reinback(&["plan", "feature"]).await;
    ended(&unknown, 1);
    insta::assert_snapshot!(unknown.stderr.trim_end().rsplit("reinback: ").next().unwrap_or_default(), @r#""feature" names no commit of the branch; give the branch, HEAD or a commit id of at least 7 digits, with ~n for commits further back, and another branch by --source-branch"#);

    let agent = Watching::start(&world, &[]);
    std::fs::write(&file, restore("by-hand", &world.backup, "{}")).expect("writable");
    world.touch();
    let asked = world.reinback(&["run", &path]).await;
    ended(&asked, 1);
    assert!(asked.stderr.ends_with("nobody is there to ask; give --yes\n"), "{asked:?}");
    // The agent looks at its held manifest now and then, and has the lease meanwhile.
    eventually(Duration::from_secs(60), async || {
        let said = world.reinback(&["run", "--yes", &path]).await;
        ensure!(said.code == Some(0), "{said:?}");
        Ok(())
    })
    .await;
    assert_eq!(world.told(&[]).await, ["by-hand Succeeded Succeeded", "pending Superseded NewerManifest"]);
    let run = world.run_of("by-hand").expect("a run");
    assert_eq!((&run["spec"]["source"]["commit"], &run["spec"]["manifest"]["file"]), (&json!("local"), &json!(path)));
    assert_eq!(run["spec"]["manifest"]["blob"], git(world.folder(), &["hash-object", &path]));
    let again = world.reinback(&["run", "--yes", &path]).await;
    ended(&again, 0);
    assert!(again.stderr.contains("has ended before"), "{again:?}");

    let table = world.reinback(&["status"]).await;
    ended(&table, 0);
    assert_eq!(table.stdout.lines().count(), 3, "{}", table.stdout);
    let one = world.reinback(&["status", "by-hand"]).await;
    ended(&one, 0);
    assert!(one.stdout.contains("local"), "{}", one.stdout);
    ended(&world.reinback(&["status", "nobody"]).await, 1);
    agent.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watching_agent_sees_commits_in_time_and_outlives_its_git_server() {
    let world = World::start().await;
    let server = GitServer::start(Options::default());
    let bare = server.bare("remote.git");
    let url = ["--source-url", &server.url("remote.git")];
    world.work.git(&["remote", "set-url", "origin", &bare.display().to_string()]);
    world.work.push(&["origin", "HEAD:main"]);
    let _agent = Watching::start(&world, &url);
    let held = |name: &'static str| {
        let world = &world;
        async move || {
            let run = world.run_of(name)?;
            ensure!(run["status"]["phase"] == "Held", "{run}");
            Ok(())
        }
    };
    eventually(Duration::from_secs(30), async || {
        ensure!(!git(&bare, &["branch", "--list", "reinback/*"]).is_empty(), "no status branch");
        Ok(())
    })
    .await;
    world.commit_held("first");
    eventually(Duration::from_secs(15), held("first")).await;

    server.fault(Fault::Status(503, "down for a moment".to_owned()));
    world.commit_held("second");
    eventually(Duration::from_secs(30), async || {
        let log = world.log();
        ensure!(log.matches("this pass came to no end").count() >= 2, "{log}");
        Ok(())
    })
    .await;
    let tries = server.take_seen().len();
    assert!(tries < 40, "{tries} requests to a server that is down");
    server.fault(Fault::None);
    eventually(Duration::from_secs(45), held("second")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ran_is_read_again_where_another_agent_had_the_lease_in_between() {
    let world = World::start().await;
    world.settle().await;
    world.touch();
    world.commit_change("back", &[BACK], "");
    let bar = Bar::install(&world.cluster).await;
    let lease =
        "{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: reinback, namespace: reinback-system}}";
    world.cluster.kubectl(&["create", "-f", "-"], lease).expect("it is made");
    // It has read what ran and that the lease is free, and is about to take it.
    let taking = bar.before(|request| request["resource"]["resource"] == "leases" && request["operation"] == "UPDATE");
    let agent = Process::start(&world, &["--once"]);
    assert!(taking.reached().await, "it never takes the lease");
    for holder in ["another", ""] {
        let patch = json!({"spec": {"holderIdentity": holder}}).to_string();
        world.kubectl(&["patch", "lease", "-n", "reinback-system", "reinback", "--type=merge", "-p", &patch]);
    }
    let mark = world.cluster.audit_mark();
    taking.pass_it();
    let status = agent.ended(Duration::from_secs(120)).await;

    let log = std::fs::read_to_string(world.folder().join("agent.log")).expect("it has a log");
    assert_eq!(status.code(), Some(0), "{log}");
    let events = world.cluster.audit_of_ours(mark);
    let first = |verb: &str, resource: &str, after: Timestamp| {
        let is = |event: &&AuditEvent| {
            event.verb == verb
                && event.object_ref.resource == resource
                && event.response_status.code < 300
                && event.request_received_timestamp > after
        };
        events.iter().filter(is).map(|event| event.request_received_timestamp).min()
    };
    let taken = first("update", "leases", Timestamp::MIN).expect("it takes the lease");
    let read = first("list", "runs", taken).expect("it reads what ran");
    let begun = first("create", "runs", taken).expect("it begins a run");
    assert!(read < begun, "it goes by what it read before: {read}, {begun}");
    assert_eq!(world.told(&[]).await, ["back Succeeded Succeeded"]);
}
