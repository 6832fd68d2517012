//! Version brought back by a packaged chart of the source, where Helm has no revision of it any more.

use std::time::Duration;

use anyhow::ensure;
use serde_json::Value;

use crate::harness::chart::{packaged, path};
use crate::harness::{eventually, temp_dir};
use crate::process::{Process, forget_holder, phase, run_of};
use crate::rollback::{ACCEPT, assert_helm_started_it, by_helm, image, revisions};
use crate::world::World;

const CHART: &str = "charts/rancher-2.9.3.tgz";

/// Rancher by Helm, upgraded from v2.9.3, of which Helm has nothing any more. The packaged chart of v2.9.3 lies in the person's
/// clone, and is not committed yet. Gives the name of the backup.
async fn trimmed(world: &mut World, program: &'static str, values: &str) -> String {
    let backup = by_helm(world, program, values).await;
    let oldest = ["delete", "secret", "-n", "cattle-system", "sh.helm.release.v1.rancher.v1"];
    world.cluster.kubectl(&oldest, "").expect("it is there");
    let old = packaged(&world.cluster, world.folder(), "2.9.3");
    lay(world, CHART, &std::fs::read(old).expect("it was just made"));
    backup
}

/// Lays a file into the person's clone.
fn lay(world: &World, name: &str, content: &[u8]) {
    let file = world.work.path().join(name);
    std::fs::create_dir_all(file.parent().expect("a folder")).expect("the clone is ours");
    std::fs::write(file, content).expect("the clone is ours");
}

fn spec(backup: &str) -> String {
    format!("  toVersion: v2.9.3\n  chart: {CHART}\n  restore: {{backupFilename: {backup}, prune: true}}\n")
}

fn helm(world: &World, program: &str, args: &[&str]) -> String {
    let args: Vec<&str> = args.iter().copied().chain(["-n", "cattle-system"]).collect();
    world.cluster.helm_of(program, &args).unwrap_or_else(|error| panic!("{error:?}"))
}

fn state(number: u64, version: &str, state: &str) -> (u64, String, String) {
    (number, version.to_owned(), state.to_owned())
}

/// Whether ConfigMaps are there that only the newer chart has: one that goes, and one that is to be kept.
fn of_the_newer(world: &World) -> (bool, bool) {
    let is_there = |name: &str| {
        let args = ["get", "configmap", "-n", "cattle-system", name, "--ignore-not-found", "-o", "name"];
        !world.cluster.kubectl(&args, "").expect("kubectl answers").is_empty()
    };
    (is_there("rancher-newer"), is_there("rancher-kept"))
}

async fn comes_back_by(program: &'static str) {
    let mut world = World::start().await;
    world.settle().await;
    let backup = trimmed(&mut world, program, "bootstrapPassword=hunter2").await;
    let mark = world.cluster.audit_mark();
    let commit = world.commit_rollback("back", &[ACCEPT], &spec(&backup));
    let planned = world.reinback(&["plan"]).await;
    assert_eq!(planned.code, Some(2), "{}{}", planned.stdout, planned.stderr);
    let sentence = "from v2.10.1 to v2.9.3 by helm upgrade of release cattle-system/rancher (now at 2) to the chart \
                    charts/rancher-2.9.3.tgz (2.9.3) of the source, with the values of revision 2";
    assert!(planned.stdout.contains(sentence), "{}", planned.stdout);

    let said = world.once().await;

    assert_eq!(said.code, Some(0), "{}\n{:?}", said.stderr, world.runs().await);
    assert_eq!(image(&world), "rancher/rancher:v2.9.3");
    assert_eq!(world.replicas("cattle-system", "rancher").await.expect("it is there"), (3, 3));
    assert_eq!(revisions(&world, program), [state(2, "v2.10.1", "superseded"), state(3, "v2.9.3", "deployed")]);
    assert_eq!(of_the_newer(&world), (false, true));
    assert_helm_started_it(&world, mark);
    let values: Value =
        serde_json::from_str(&helm(&world, program, &["get", "values", "rancher", "-o", "json"])).expect("JSON");
    assert_eq!(values, serde_json::json!({"bootstrapPassword": "hunter2"}));
    let run = run_of(&world, "back").await.expect("a run");
    let version = &run["status"]["plan"]["version"];
    assert_eq!((&version["method"], &version["commit"]), (&Value::from("chart"), &Value::from(commit)), "{version}");
    let told = world.reinback(&["status", "back"]).await;
    assert!(told.stdout.contains(sentence), "{}", told.stdout);
    assert!(![said.stderr, planned.stdout, run.to_string()].iter().any(|said| said.contains("hunter2")));

    // Helm goes on from what we leave.
    let stands: Value =
        serde_json::from_str(&helm(&world, program, &["status", "rancher", "-o", "json"])).expect("JSON");
    assert_eq!(stands["info"]["status"], "deployed");
    let new = packaged(&world.cluster, world.folder(), "2.10.1");
    helm(&world, program, &["upgrade", "rancher", path(&new), "--reuse-values"]);
    assert_eq!((image(&world).as_str(), of_the_newer(&world)), ("rancher/rancher:v2.10.1", (true, true)));
    helm(&world, program, &["rollback", "rancher", "3"]);
    assert_eq!((image(&world).as_str(), of_the_newer(&world)), ("rancher/rancher:v2.9.3", (false, true)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_of_helm_3_comes_back_by_its_chart_with_its_values() {
    comes_back_by("helm").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_of_helm_4_comes_back_by_its_chart_with_its_values() {
    comes_back_by("helm4").await;
}

/// What becomes of Git between two processes of the agent.
enum Meanwhile {
    /// The remote is away until the run has ended.
    RemoteAway,
    /// The agent's clone is lost.
    CloneLost,
}

/// Helm waits for a hook of the chart when both are killed.
async fn killed_in_a_hook(program: &'static str, hook: &str, meanwhile: Meanwhile) {
    let mut world = World::start().await;
    world.settle().await;
    let backup = trimmed(&mut world, program, &format!("hookJob={hook}")).await;
    world.commit_rollback("back", &[ACCEPT], &spec(&backup));
    let agent = Process::start(&world, &[]);
    eventually(Duration::from_secs(120), async || {
        let revisions = revisions(&world, program);
        ensure!(revisions.last().is_some_and(|(_, _, state)| state == "pending-upgrade"), "{revisions:?}");
        Ok(())
    })
    .await;
    agent.kill();
    forget_holder(&world).await;
    let (remote, away) = (world.remote(), world.remote().with_extension("away"));
    match meanwhile {
        Meanwhile::RemoteAway => std::fs::rename(&remote, &away).expect("it is there"),
        // Newer commits are on the branch by then, so that the first fetch does not bring the run's own.
        Meanwhile::CloneLost => {
            world.work.write("README.md", "later\n").git(&["rm", "-q", CHART]);
            world.work.commit("Take the chart away");
            world.work.push(&["origin", "HEAD:main"]);
            std::fs::remove_dir_all(world.folder().join("data/source")).expect("it is there");
        }
    }
    // The hook may run from now on.
    world.cluster.kubectl(&["label", "nodes", "--all", "cattle-system/hook=yes"], "").expect("labelled");

    let agent = Process::start(&world, &[]);
    eventually(Duration::from_secs(240), async || {
        let run = run_of(&world, "back").await?;
        ensure!(phase(&run) != "Running", "{:?}", revisions(&world, program));
        Ok(())
    })
    .await;
    agent.kill();

    if away.exists() {
        std::fs::rename(&away, &remote).expect("it is there");
    }
    let ended = |phase: &str| ("back".to_owned(), phase.to_owned(), phase.to_owned());
    assert_eq!(world.runs().await, [ended("Succeeded")]);
    assert_eq!(
        revisions(&world, program),
        [state(2, "v2.10.1", "superseded"), state(3, "v2.9.3", "failed"), state(4, "v2.9.3", "deployed")]
    );
    assert_eq!(image(&world), "rancher/rancher:v2.9.3");
    assert_eq!(world.replicas("cattle-system", "rancher").await.expect("it is there"), (3, 3));
    assert_eq!(of_the_newer(&world), (false, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_with_helm_3_in_a_hook_the_chart_is_installed_without_git() {
    killed_in_a_hook("helm", "post-upgrade", Meanwhile::RemoteAway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_with_helm_4_in_a_hook_the_chart_is_read_again_from_the_commit_of_the_run() {
    killed_in_a_hook("helm4", "pre-upgrade", Meanwhile::CloneLost).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_is_run_by_hand_installs_the_chart_of_the_tip_and_is_undone_by_the_revision_before() {
    let mut world = World::start().await;
    world.settle().await;
    let backup = trimmed(&mut world, "helm", "replicas=3").await;
    let tip = world.work.commit("The chart alone");
    world.work.push(&["origin", "HEAD:main"]);
    let file = world.folder().join("back.yaml");
    let (name, codes) = ACCEPT;
    let manifest = format!(
        "apiVersion: reinback.io/v1alpha1\nkind: Rollback\nmetadata:\n  name: back\n  annotations:\n    reinback.io/{name}: \
         \"{codes}\"\nspec:\n{}",
        spec(&backup)
    );
    std::fs::write(&file, manifest).expect("the folder is ours");

    let said = world.reinback(&["run", "--yes", path(&file)]).await;

    assert_eq!(said.code, Some(0), "{}{}", said.stdout, said.stderr);
    assert_eq!(image(&world), "rancher/rancher:v2.9.3");
    let run = run_of(&world, "back").await.expect("a run");
    assert_eq!(run["status"]["plan"]["version"]["commit"], Value::from(tip));

    let said = world.reinback(&["undo", "back", "--yes"]).await;

    assert_eq!(said.code, Some(0), "{}{}", said.stdout, said.stderr);
    assert_eq!(image(&world), "rancher/rancher:v2.10.1");
    assert_eq!(world.replicas("cattle-system", "rancher").await.expect("it is there"), (3, 3));
    assert_eq!(
        revisions(&world, "helm"),
        [state(2, "v2.10.1", "superseded"), state(3, "v2.9.3", "superseded"), state(4, "v2.10.1", "deployed")]
    );
    assert_eq!(of_the_newer(&world), (true, true));
}

/// A packaged chart of one template, which says this of itself.
fn small_chart(world: &World, about: &str, template: &str) -> Vec<u8> {
    let folder = temp_dir();
    let chart = folder.path().join("chart");
    std::fs::create_dir_all(chart.join("templates")).expect("the folder is ours");
    std::fs::write(chart.join("templates/all.yaml"), template).expect("the folder is ours");
    std::fs::write(chart.join("Chart.yaml"), format!("apiVersion: v2\n{about}")).expect("the folder is ours");
    let packages = folder.path().join("packages");
    world.cluster.helm(&["package", path(&chart), "-d", path(&packages)]).expect("it is a chart");
    let package = std::fs::read_dir(packages).expect("a folder").next().expect("a file").expect("a file");
    std::fs::read(package.path()).expect("a file")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chart_that_helm_cannot_install_fails_the_run_before_anything_is_touched() {
    let mut world = World::start().await;
    world.settle().await;
    let backup = trimmed(&mut world, "helm", "bootstrapPassword=hunter2").await;
    let about = "name: rancher\nversion: 2.9.3\nappVersion: v2.9.3\n";
    let failing = "{{ fail .Values.bootstrapPassword }}";
    let unserved = "apiVersion: policy/v1beta1\nkind: PodSecurityPolicy\nmetadata: {name: rancher}\n";
    let cases = [
        ("failing", failing, "execution error at (rancher/templates/all.yaml"),
        ("unserved", unserved, "no matches for kind \"PodSecurityPolicy\" in version \"policy/v1beta1\""),
    ];
    for (name, template, words) in cases {
        lay(&world, CHART, &small_chart(&world, about, template));
        let mark = world.cluster.audit_mark();
        world.commit_rollback(name, &[ACCEPT], &spec(&backup));

        let said = world.once().await;

        assert_eq!(said.code, Some(1), "{}\n{:?}", said.stderr, world.runs().await);
        let run = run_of(&world, name).await.expect("a run");
        let message = run["status"]["message"].as_str().unwrap_or_default();
        assert!(message.contains(words), "{message}");
        assert!(!run.to_string().contains("hunter2") && !said.stderr.contains("hunter2"));
        let events = world.cluster.audit_since(mark);
        let writes = events.iter().filter(|event| event.writes() && event.object_ref.namespace == "cattle-system");
        assert_eq!(writes.filter(|event| event.user_agent.starts_with("reinback/")).count(), 0);
        assert_eq!(revisions(&world, "helm"), [state(2, "v2.10.1", "deployed")]);
        assert_eq!(world.replicas("cattle-system", "rancher").await.expect("it is there"), (3, 3));
    }
}

/// Gates that hold each manifest, by its name: code and message.
fn holding(stdout: &str) -> Vec<(String, String, String)> {
    let plans: Value = serde_json::from_str(stdout).expect("JSON");
    let plans = plans["plans"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let of = |plan: &Value| {
        let name = text(&plan["manifest"]["name"]);
        let gates = plan["gates"].as_array().cloned().unwrap_or_default();
        let gates = gates.into_iter().filter(|gate| gate["accepted"] == false && gate["code"] != "Ambiguous");
        gates.map(move |gate| (name.clone(), text(&gate["code"]), text(&gate["message"]))).collect::<Vec<_>>()
    };
    plans.iter().flat_map(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_the_packaged_chart_of_the_version_is_refused_by_the_plan_with_the_reason() {
    let mut world = World::start().await;
    world.settle().await;
    let backup = trimmed(&mut world, "helm", "replicas=3").await;
    lay(&world, "charts/folder.tgz/README.md", b"a folder");
    lay(&world, "charts/pointer.tgz", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n");
    lay(&world, "charts/plain.tgz", b"hunter2");
    lay(&world, "charts/large.tgz", &vec![0; (16 << 20) + 1]);
    std::os::unix::fs::symlink("rancher-2.9.3.tgz", world.work.path().join("charts/link.tgz")).expect("a link");
    let newer = std::fs::read(packaged(&world.cluster, world.folder(), "2.9.4")).expect("a chart");
    lay(&world, "charts/newer.tgz", &newer);
    let other = small_chart(&world, "name: other\nversion: 2.9.3\nappVersion: v2.9.3\n", "");
    lay(&world, "charts/other.tgz", &other);
    let strict =
        small_chart(&world, "name: rancher\nversion: 2.9.3\nappVersion: v2.9.3\nkubeVersion: '< 1.20.0-0'\n", "");
    lay(&world, "charts/strict.tgz", &strict);
    let cases = [
        ("missing", "ReleaseNotFound", "there is no such file at commit "),
        ("folder", "ReleaseNotFound", "charts/folder.tgz is a folder"),
        ("link", "ReleaseNotFound", "charts/link.tgz is a symbolic link"),
        ("pointer", "ReleaseNotFound", "it is a pointer of Git LFS"),
        ("plain", "ReleaseNotFound", "it is not a packaged chart"),
        ("large", "ReleaseNotFound", "it has 16777217 bytes"),
        ("newer", "ReleaseNotFound", "its appVersion says v2.9.4, and the manifest declares v2.9.3"),
        ("other", "ReleaseNotFound", "it is the chart other, and the release is of rancher"),
        ("strict", "KubernetesTooNew", "(kubeVersion of the chart charts/strict.tgz)"),
    ];
    for (name, ..) in cases {
        let spec = spec(&backup).replace(CHART, &format!("charts/{name}.tgz"));
        let manifest = format!(
            "apiVersion: reinback.io/v1alpha1\nkind: Rollback\nmetadata:\n  name: {name}\n  annotations: \
             {{reinback.io/accept: \"PruneShare, DownstreamReverts\"}}\nspec:\n{spec}"
        );
        world.work.write(&format!("clusters/test/{name}.yaml"), &manifest);
    }
    world.work.commit("Charts that are none");
    world.work.push(&["origin", "HEAD:main"]);

    let said = world.reinback(&["plan", "-o", "json"]).await;

    assert_eq!(said.code, Some(3), "{}", said.stderr);
    let held = holding(&said.stdout);
    assert_eq!(held.len(), cases.len(), "{held:#?}");
    for (name, code, words) in cases {
        let found = held.iter().find(|(of, ..)| of == name).unwrap_or_else(|| panic!("{name}: {held:#?}"));
        assert!(found.1 == code && found.2.contains(words), "{found:?} does not say {words}");
    }
    assert!(!said.stdout.contains("hunter2"));

    // One that comes after the manifest is none of what was merged with it.
    std::fs::remove_dir_all(world.work.path().join("clusters")).expect("it is there");
    std::fs::remove_file(world.work.path().join(CHART)).expect("it is there");
    let commit = world.commit_rollback("back", &[ACCEPT], &spec(&backup));
    lay(&world, CHART, &std::fs::read(world.folder().join("rancher-2.9.3.tgz")).expect("it was made"));
    world.work.commit("The chart, too late");
    world.work.push(&["origin", "HEAD:main"]);
    let said = world.reinback(&["plan", "-o", "json"]).await;
    let words = format!("there is no such file at commit {}", &commit[..12]);
    let held = holding(&said.stdout);
    assert!(matches!(&held[..], [(_, code, told)] if code == "ReleaseNotFound" && told.contains(&words)), "{held:?}");
    world.commit_rollback("back", &[ACCEPT, ("requested-at", "2026-11-23T09:00:00Z")], &spec(&backup));
    let said = world.reinback(&["plan", "-o", "json"]).await;
    assert_eq!((said.code, holding(&said.stdout)), (Some(2), vec![]), "{}", said.stderr);
}
