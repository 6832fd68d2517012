//! What a run tells while it is under way: conditions, Events, status files, commits and the dashboard.

use std::process::Command;
use std::time::Duration;

use anyhow::ensure;
use jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams, PostParams};
use reinback::run::{ERRORS_KEPT, NAMESPACE, Run};
use reinback::status;
use serde_json::{Value, json};

use crate::binary::Reinback;
use crate::git_server::{Work, git, make_bare};
use crate::harness::rancher::{self, Disturbance, Place};
use crate::harness::{Cluster, Options, eventually, temp_dir};
use crate::world::World;

const DISTURBED: Disturbance = Disturbance { changed_percent: 29, deleted_percent: 9, added: 20, seed: 7 };
const ACCEPT: (&str, &str) = ("accept", "VersionMismatch, PruneShare, DownstreamReverts");
const BRANCH: &str = "reinback/test";

/// Refuses every change of Rancher's own objects.
const REFUSING_POLICY: &str = r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: refusing}
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
    - {apiGroups: [management.cattle.io], apiVersions: ["*"], operations: [CREATE, UPDATE], resources: ["*"], scope: "*"}
  validations: [{expression: "false", message: "not today"}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: refusing}
spec: {policyName: refusing, validationActions: [Deny]}
"#;

/// An agent that asks before it prunes more than a hundredth.
fn careful(world: &World) -> Reinback {
    let config = format!(
        "cluster: test\nsource: {{url: \"file://{}\", branch: main, path: clusters/test}}\nstore: {{directory: {}}}\n\
         dataDir: {}\npolicy: {{maxPruneShare: 1}}\n",
        world.remote().display(),
        world.folder().join("backups").display(),
        world.folder().join("data").display(),
    );
    Reinback::new(world.folder(), world.cluster.kubeconfig(), &config)
}

fn kubectl(world: &World, args: &[&str]) -> String {
    world.cluster.kubectl(args, "").expect("kubectl answers")
}

fn run_of(world: &World) -> Value {
    let text = kubectl(world, &["get", "runs.reinback.io", "-n", NAMESPACE, "-o", "json"]);
    let list: Value = serde_json::from_str(&text).expect("JSON");
    let runs = list["items"].as_array().expect("a list");
    assert_eq!(runs.len(), 1, "{text}");
    runs[0].clone()
}

fn name_of(run: &Value) -> String {
    run["metadata"]["name"].as_str().expect("a name").to_owned()
}

/// `Normal Progressing Quiesce: restore back: quiesce`, oldest first.
fn events_of(world: &World) -> Vec<String> {
    let text = kubectl(world, &["get", "events.events.k8s.io", "-n", NAMESPACE, "-o", "json"]);
    let list: Value = serde_json::from_str(&text).expect("JSON");
    let mut events: Vec<&Value> = list["items"].as_array().into_iter().flatten().collect();
    events.retain(|event| event["regarding"]["kind"] == "Run" && event["reportingController"] == "reinback");
    events.sort_by_key(|event| event["eventTime"].as_str().map(str::to_owned));
    let word = |event: &Value, field: &str| event[field].as_str().unwrap_or_default().to_owned();
    let line = |event: &&Value| {
        let [kind, reason, action, note] = ["type", "reason", "action", "note"].map(|field| word(event, field));
        format!("{kind} {reason} {action}: {note}")
    };
    events.iter().map(line).collect()
}

fn condition(run: &Value, kind: &str) -> Option<(String, String)> {
    let conditions = run["status"]["conditions"].as_array().expect("conditions");
    let found = conditions.iter().find(|condition| condition["type"] == kind)?;
    assert_eq!(found["observedGeneration"], run["metadata"]["generation"], "{found}");
    Some((found["status"].as_str()?.to_owned(), found["reason"].as_str()?.to_owned()))
}

fn pair(one: &str, other: &str) -> Option<(String, String)> {
    Some((one.to_owned(), other.to_owned()))
}

fn on_branch(world: &World, path: &str) -> String {
    git(&world.remote(), &["show", &format!("{BRANCH}:{path}")])
}

/// Each of `expected` is there, in this order; others may be between.
fn assert_order(lines: &[String], expected: &[&str]) {
    let mut rest = lines.iter();
    for wanted in expected {
        assert!(rest.any(|line| line.contains(wanted)), "{wanted:?} is not, or not in its place, in {lines:#?}");
    }
}

async fn policy_in_force(world: &World) {
    world.cluster.kubectl(&["apply", "-f", "-"], REFUSING_POLICY).expect("the policy is taken");
    let setting =
        ["annotate", "settings.management.cattle.io", "install-uuid", "probe=1", "--overwrite", "--dry-run=server"];
    eventually(Duration::from_secs(30), || async {
        let refused = world.cluster.kubectl(&setting, "").err().map(|error| error.to_string()).unwrap_or_default();
        ensure!(refused.contains("not today"), "not yet in force: {refused}");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_told_from_its_hold_to_its_end_in_conditions_events_commits_and_the_dashboard() {
    let world = World::start().await;
    let reinback = careful(&world);
    assert_eq!(reinback.once().await.code, Some(0));
    rancher::disturb(&world.client, &world.items, DISTURBED).await.expect("disturbed");
    world.commit_restore("back", &[], "  prune: true\n");
    assert_eq!(reinback.once().await.code, Some(3));

    let held = run_of(&world);
    let name = name_of(&held);
    let resource = format!("runs.reinback.io/{name}");
    let wait = |condition: &str| kubectl(&world, &["wait", "-n", NAMESPACE, condition, &resource, "--timeout=60s"]);
    wait("--for=condition=Ready=false");
    wait("--for=condition=Stalled=true");
    assert_eq!(condition(&held, "Ready"), pair("False", "DependencyNotReady"));
    assert_eq!(held["status"]["observedGeneration"], held["metadata"]["generation"]);
    let described = kubectl(&world, &["describe", "-n", NAMESPACE, &resource]);
    assert!(described.contains("Warning  PruneShare"), "{described}");
    let path = format!("runs/{name}.yaml");
    let file = status::parse_status_file(on_branch(&world, &path).as_bytes()).expect("a status file");
    let told = file.status.expect("a status");
    assert_eq!(serde_json::to_value(&told.gates).expect("JSON"), held["status"]["gates"]);
    assert!(told.gates.iter().any(|gate| gate.remedy.contains("`reinback.io/accept: PruneShare`")), "{told:?}");
    let dashboard = on_branch(&world, "README.md");
    assert!(dashboard.contains("## Held") && dashboard.contains("reinback.io/accept: "), "{dashboard}");

    world.commit_restore("back", &[ACCEPT], "  prune: true\n");
    let mut agent = reinback.command(&["agent", "--once"]).spawn().expect("it starts");
    wait("--for=condition=Reconciling=true");
    wait("--for=condition=Ready=true");
    assert!(agent.wait().expect("it ends").success());
    let ended = run_of(&world);
    assert_eq!(name_of(&ended), name);
    assert_eq!(condition(&ended, "Ready"), pair("True", "Succeeded"));
    assert_eq!((condition(&ended, "Reconciling"), condition(&ended, "Stalled")), (None, None));
    let steps = ended["status"]["steps"].as_array().expect("steps");
    assert!(steps.len() == 10 && steps.iter().all(|step| step["finished"].is_string()), "{steps:?}");
    assert!(ended["status"]["counts"]["updated"].as_u64() > Some(50), "{}", ended["status"]["counts"]);
    assert_eq!(ended["status"].get("progress"), None);

    let events = events_of(&world);
    assert_order(
        &events,
        &[
            "Hold: restore back: held by",
            "Normal Progressing Announce: restore back: started",
            "Normal Progressing Quiesce: restore back: quiesce",
            "Normal Progressing SafetyBackup: restore back: safety-backup",
            "Normal Progressing WriteCrds: restore back: crds",
            "Normal Progressing WriteClusterScoped: restore back: cluster-scoped",
            "Normal Progressing WriteNamespaced: restore back: namespaced",
            "Normal Progressing Prune: restore back: prune",
            "Normal Progressing Resume: restore back: resume",
            "Normal Progressing Verify: restore back: verify",
            "Normal Succeeded End: restore back: succeeded",
        ],
    );
    let described = kubectl(&world, &["describe", "-n", NAMESPACE, &resource]);
    assert!(described.contains("Succeeded") && described.contains("restore back: quiesce"), "{described}");
    let mut subjects = world.status_log();
    subjects.reverse();
    assert_order(&subjects, &["restore back: held by", "restore back: started", "restore back: succeeded in"]);
    let trailers = git(&world.remote(), &["log", "-1", "--format=%(trailers)", BRANCH]);
    for trailer in [format!("Reinback-Run: {name}"), "Reinback-Source-Commit: ".into(), "Reinback-Plan: sha256:".into()]
    {
        assert!(trailers.contains(&trailer), "{trailers}");
    }
    let dashboard = on_branch(&world, "README.md");
    assert!(!dashboard.contains("## Held") && dashboard.contains("| Succeeded |"), "{dashboard}");
    assert!(dashboard.contains("- Runs now: nothing"), "{dashboard}");

    // A person deletes the file: the cluster still knows, and Git is told again.
    let commits = world.status_log().len();
    world.work.git(&["fetch", "--quiet", "origin", BRANCH]);
    world.work.git(&["checkout", "--quiet", "--detach", "FETCH_HEAD"]);
    world.work.git(&["rm", "--quiet", &path]);
    world.work.commit("Tidy up");
    world.work.push(&["origin", &format!("HEAD:{BRANCH}")]);
    assert_eq!(reinback.once().await.code, Some(0));
    assert!(on_branch(&world, &path).contains("phase: Succeeded"));
    assert_eq!(world.status_log().len(), commits + 2, "{:?}", world.status_log());
    assert_eq!(run_of(&world)["status"]["startedAt"], ended["status"]["startedAt"]);
    assert_eq!(events_of(&world), events, "what is told again to Git is no news");
    assert_eq!(reinback.once().await.code, Some(0));
    assert_eq!(world.status_log().len(), commits + 2, "nothing is owed twice: {:?}", world.status_log());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_objects_that_are_refused_a_hundred_are_named_and_all_counted() {
    let world = World::start().await;
    world.settle().await;
    let many = Disturbance { changed_percent: 100, deleted_percent: 0, added: 0, seed: 3 };
    rancher::disturb(&world.client, &world.items, many).await.expect("disturbed");
    policy_in_force(&world).await;
    world.commit_restore("back", &[ACCEPT], "");
    let said = world.once().await;
    assert_eq!(said.code, Some(1), "{said:?}");

    let run = run_of(&world);
    let status = &run["status"];
    assert_eq!((&status["phase"], &status["reason"]), (&json!("Failed"), &json!("ObjectsFailed")), "{status}");
    assert_eq!(condition(&run, "Ready"), pair("False", "Failed"));
    assert_eq!(condition(&run, "Stalled"), pair("True", "ObjectsFailed"));
    let errors = status["errors"].as_array().expect("errors");
    let total = status["errorsTotal"].as_u64().expect("a number");
    assert!(errors.len() == ERRORS_KEPT && total >= 150, "{} of {total}", errors.len());
    assert_eq!(status["counts"]["failed"], total);
    for error in errors {
        let text = error["message"].as_str().expect("a text");
        assert!(text.contains("the API server refused it") && !text.contains("not today"), "{error}");
    }
    let events = events_of(&world);
    assert!(
        events.last().is_some_and(|event| event.starts_with("Warning Failed End: restore back: failed in ")),
        "{events:?}"
    );
    let body = git(&world.remote(), &["log", "-1", "--format=%B", BRANCH]);
    assert!(body.contains(&format!("Objects that failed ({total}):")), "{body}");
    assert!(body.contains("Replicas were not given back:"), "{body}");
    let dashboard = on_branch(&world, "README.md");
    assert!(dashboard.contains("## Left at 0"), "{dashboard}");
    assert_eq!(world.replicas("cattle-system", "rancher").await.expect("it is there"), (0, 0));
    let deployment = Place::new(("apps", "v1", "deployments"), Some("cattle-system"), "rancher");
    let live = rancher::get(&world.client, &deployment).await.expect("the cluster answers").expect("it is there");
    assert_eq!(live["metadata"]["annotations"]["reinback.io/replicas"], "3");
}

/// A run that ended, the `index`th of many.
fn ended_run(index: usize) -> Run {
    let start = Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_hours(480_000 + index as i64);
    let key = format!("{index:064x}");
    let name = status::run_object_name(start, &format!("monday-{index}"), &key);
    let at = |seconds: i64| (start + jiff::SignedDuration::from_secs(seconds)).to_string();
    let steps =
        ["Preflight", "Announce", "Quiesce", "Crds", "ClusterScoped", "Namespaced", "Prune", "Resume", "Verify"];
    let journal: Vec<Value> = steps
        .iter()
        .enumerate()
        .flat_map(|(n, step)| {
            let entry = |event: &str| json!({"at": at(n as i64), "event": event, "step": step});
            [entry("started"), entry("finished")]
        })
        .collect();
    let value = json!({
        "apiVersion": "reinback.io/v1alpha1", "kind": "Run", "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "cluster": "test", "key": key, "contentKey": key, "documentDigest": key,
            "manifest": {"kind": "Restore", "name": format!("monday-{index}"), "file": "clusters/test/a.yaml", "blob": "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"},
            "source": {"commit": "3ebb95c6a2f0b7d8c9e0f1a2b3c4d5e6f7a8b9c0", "author": "Ada <ada@example.org>"},
            "document": {"apiVersion": "resources.cattle.io/v1", "kind": "Restore", "metadata": {"name": format!("monday-{index}")}, "spec": {"backupFilename": "a.tar.gz"}},
        },
        "status": {
            "phase": "Succeeded", "reason": "Succeeded", "message": "every step finished", "startedAt": at(0), "endedAt": at(42),
            "journal": journal, "warnings": vec!["left in place, since the plan did not have it: secrets.#v1/a/b"; 20],
            "counts": {"created": 10, "updated": 20}, "errorsTotal": 0,
        },
    });
    let mut run = status::run_from_value(value).expect("a run");
    status::refresh(run.status.get_or_insert_default(), 1, start);
    run
}

/// Seconds of a processor that a command takes, which other tests beside it do not change much.
async fn seconds_of(command: &Command) -> f64 {
    let mut timed = Command::new("bash");
    timed.args(["-c", r#""$@" && times"#, "timed"]).arg(command.get_program()).args(command.get_args());
    timed.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let output = tokio::task::spawn_blocking(move || timed.output()).await.expect("it ends").expect("bash is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let of_children = text.lines().last().expect("the times of the shell, and of its children");
    let seconds = |time: &str| {
        let (minutes, seconds) = time.trim_end_matches('s').split_once('m').expect("0m0.000s");
        minutes.parse::<f64>().expect("a number") * 60.0 + seconds.parse::<f64>().expect("a number")
    };
    of_children.split_whitespace().map(seconds).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_runs_are_looked_through_in_seconds_and_shown() {
    const RUNS: usize = 500;
    let (cluster, folder, work, reinback) = bare_world();
    let bare = folder.path().join("remote.git");
    let said = reinback.once().await;
    assert_eq!(said.code, Some(0), "{said:?}");

    let runs: Vec<Run> = (0..RUNS).map(ended_run).collect();
    let api: Api<Run> = Api::namespaced(cluster.client().await, NAMESPACE);
    let make = |run: Run| {
        let api = api.clone();
        async move {
            let name = run.metadata.name.clone().expect("a name");
            api.create(&PostParams::default(), &run).await.expect("the run is taken");
            let status = json!({ "status": run.status });
            api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&status)).await.expect("its status, too");
        }
    };
    futures::StreamExt::for_each_concurrent(futures::stream::iter(runs.clone()), 16, make).await;
    work.git(&["fetch", "--quiet", "origin", BRANCH]);
    work.git(&["checkout", "--quiet", "--detach", "FETCH_HEAD"]);
    for run in &runs {
        work.write(&status::status_file_path(run), &status::status_file(run).expect("a file"));
    }
    work.commit("Runs of a long time");
    work.push(&["origin", &format!("HEAD:{BRANCH}")]);

    let seconds = seconds_of(&reinback.command(&["agent", "--once"])).await;
    eprintln!("a pass over {RUNS} runs took {seconds} s of a processor");
    assert!(seconds < 3.0, "{seconds} s of a processor");
    let dashboard = git(&bare, &["show", &format!("{BRANCH}:README.md")]);
    assert!(dashboard.contains("480 older runs are in [runs](runs)."), "{dashboard}");
    let subjects = git(&bare, &["log", "--format=%s", BRANCH]);
    assert!(subjects.starts_with("dashboard: "), "{subjects}");
}

/// A cluster that knows nothing of Rancher, and a repository with a manifest.
fn bare_world() -> (Cluster, tempfile::TempDir, Work, Reinback) {
    let cluster = Cluster::start(Options { controllers: false, audit: false, ..Options::default() });
    let folder = temp_dir();
    let bare = folder.path().join("remote.git");
    make_bare(&bare);
    let work = Work::clone(&bare);
    work.write("README.md", "manifests\n").commit("Begin");
    work.push(&["origin", "HEAD:main"]);
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::create_dir_all(path("backups")).expect("a folder");
    let config = format!(
        "cluster: test\nsource: {{url: \"file://{}\", branch: main, path: clusters/test}}\nstore: {{directory: {}}}\ndataDir: {}\n",
        bare.display(),
        path("backups"),
        path("data"),
    );
    let reinback = Reinback::new(folder.path(), cluster.kubeconfig(), &config);
    (cluster, folder, work, reinback)
}

fn commit_restore(work: &Work, name: &str) {
    let text = format!(
        "apiVersion: resources.cattle.io/v1\nkind: Restore\nmetadata: {{name: {name}}}\nspec: {{backupFilename: a.tar.gz}}\n"
    );
    work.git(&["checkout", "--quiet", "main"]);
    work.write(&format!("clusters/test/{name}.yaml"), &text).commit(&format!("Restore {name}"));
    work.push(&["origin", "HEAD:main"]);
}

fn phases(cluster: &Cluster) -> Vec<String> {
    let columns = "custom-columns=N:.spec.manifest.name,P:.status.phase,R:.status.reason";
    let args = ["get", "runs.reinback.io", "-n", NAMESPACE, "--no-headers", "-o", columns];
    let text = cluster.kubectl(&args, "").expect("kubectl answers");
    let mut lines: Vec<String> =
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    lines.sort();
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_look_that_is_broken_off_is_still_the_first() {
    let (cluster, _folder, work, reinback) = bare_world();
    commit_restore(&work, "older");
    commit_restore(&work, "newer");
    // Somebody else holds the lease: the look comes to nothing, and must not be taken for one that was made.
    cluster.kubectl(&["create", "namespace", NAMESPACE], "").expect("it is made");
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "reinback", "namespace": NAMESPACE},
        "spec": {"holderIdentity": "another", "leaseDurationSeconds": 600, "renewTime": "2126-11-23T09:00:00.000000Z"},
    });
    cluster.kubectl(&["create", "-f", "-"], &lease.to_string()).expect("it is taken");
    let said = reinback.once().await;
    assert_eq!(said.code, Some(3), "{said:?}");
    assert_eq!(phases(&cluster), Vec::<String>::new());
    cluster.kubectl(&["delete", "lease", "-n", NAMESPACE, "reinback"], "").expect("it goes");
    let said = reinback.once().await;
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(phases(&cluster), ["newer Superseded FirstLook", "older Superseded FirstLook"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whose_branch_it_is_stays_in_doubt_until_somebody_accepts_it() {
    let (cluster, _folder, work, reinback) = bare_world();
    let said = reinback.once().await;
    assert_eq!(said.code, Some(0), "{said:?}");
    let uid = "00000000-1111-2222-3333-444444444444";
    work.git(&["fetch", "--quiet", "origin", BRANCH]);
    work.git(&["checkout", "--quiet", "--detach", "FETCH_HEAD"]);
    let dashboard = std::fs::read_to_string(work.path().join("README.md")).expect("the dashboard");
    work.write("README.md", &dashboard.replace(cluster.uid(), uid)).commit("Written by another cluster");
    work.push(&["origin", &format!("HEAD:{BRANCH}")]);
    commit_restore(&work, "back");
    for _ in 0..3 {
        let said = reinback.once().await;
        assert_eq!(said.code, Some(3), "{said:?}");
        work.git(&["fetch", "--quiet", "origin", BRANCH]);
        let dashboard = work.git(&["show", "FETCH_HEAD:README.md"]);
        assert!(dashboard.contains(uid) && dashboard.contains("## Held"), "{dashboard}");
        assert!(dashboard.contains("LedgerMismatch"), "{dashboard}");
    }
}
