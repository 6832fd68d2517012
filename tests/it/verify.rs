//! Whether Rancher is well after its version was set: what a run waits for, what fails it, and what follows.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::harness::{Asked, Page, WebServer, eventually};
use crate::process::{
    Process, assert_rancher_is_back, has, lease_holder, message, phase, run_of, until_ended, until_run,
};
use crate::rollback::{ACCEPT, image, upgraded};
use crate::world::World;

const OLD: &str = "v2.9.3";
const NEW: &str = "v2.12.1";
const CLUSTERS: [&str; 2] = ["c-m-g24lp", "c-m-hb92j"];

/// A world in which Rancher answers at `rancher.url`, says this version of itself, and is as well as the page of `/healthz` says.
struct Answering {
    world: World,
    server: WebServer,
    healthz: Arc<Mutex<Page>>,
}

impl Answering {
    async fn start(version: &'static str) -> Self {
        let mut world = World::start().await;
        let healthz = Arc::new(Mutex::new(Page::ok("ok")));
        let of_it = Arc::clone(&healthz);
        let pages = move |asked: &Asked| match asked.path.as_str() {
            "/healthz" => of_it.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            "/ping" => Page::ok("pong"),
            "/rancherversion" => Page::ok(&json!({"Version": version}).to_string()),
            other => Page::Say(404, format!("no {other}")),
        };
        let server = WebServer::start(IpAddr::V4(Ipv4Addr::LOCALHOST), pages).await;
        world.rancher_url = Some(format!("http://127.0.0.1:{}", server.port));
        world.settle().await;
        Self { world, server, healthz }
    }

    fn healthz(&self, page: Page) {
        *self.healthz.lock().unwrap_or_else(PoisonError::into_inner) = page;
    }
}

/// Rancher at the newer version, its data as it was.
fn newer(world: &World) {
    let image = format!("rancher=rancher/rancher:{NEW}");
    world.kubectl(&["set", "image", "-n", "cattle-system", "deployment/rancher", &image]);
    world.until_rolled_out();
}

/// Commits a Rollback of the version alone.
fn merge_version(world: &World, name: &str, annotations: &[(&str, &str)]) {
    let spec = format!("  toVersion: {OLD}\n  versionMethod: image\n");
    world.commit_rollback(name, &[annotations, &[("accept", "VersionMismatch")]].concat(), &spec);
}

/// Checks of a run by name, with how they came out.
fn checks(run: &Value) -> Vec<(&str, &str)> {
    let checks = run.pointer("/status/checks").and_then(Value::as_array).into_iter().flatten();
    checks.filter_map(|check| Some((check["name"].as_str()?, check["outcome"].as_str()?))).collect()
}

fn check<'a>(run: &'a Value, name: &str) -> &'a Value {
    let checks = run.pointer("/status/checks").and_then(Value::as_array).into_iter().flatten();
    checks.into_iter().find(|check| check["name"] == name).unwrap_or(&Value::Null)
}

/// Warnings that speak of checks.
fn warned(run: &Value) -> Vec<&str> {
    let warnings = run.pointer("/status/warnings").and_then(Value::as_array).into_iter().flatten();
    warnings.filter_map(Value::as_str).filter(|warning| warning.starts_with("the check ")).collect()
}

fn ended(name: &str, phase: &str, reason: &str) -> (String, String, String) {
    (name.to_owned(), phase.to_owned(), reason.to_owned())
}

/// A Rollback after which Rancher says that it is the newer one still: asked at `rancher.url`, it may be another's.
async fn says_another_version(on_failure: &str) -> Answering {
    let answering = Answering::start(NEW).await;
    let Answering { world, .. } = &answering;
    let backup = upgraded(world).await;
    let spec =
        format!("  toVersion: {OLD}\n  versionMethod: image\n  restore: {{backupFilename: {backup}, prune: true}}\n");
    world.commit_rollback("back", &[ACCEPT, ("on-failure", on_failure), ("timeout", "1m")], &spec);
    world.step_aside();
    let said = world.once().await;
    assert_eq!(said.code, Some(1), "{}\n{:?}", said.stderr, world.runs().await);
    let run = run_of(world, "back").await.expect("a run");
    assert_eq!((phase(&run), &run["status"]["reason"]), ("Failed", &json!("ChecksFailed")), "{}", run["status"]);
    let why = "version: /rancherversion says v2.12.1, and not v2.9.3";
    assert!(message(&run).contains(why), "{}", message(&run));
    let outcomes = checks(&run);
    assert_eq!(outcomes[..3], [("rollout", "Passed"), ("health", "Passed"), ("version", "Failed")], "{outcomes:?}");
    answering
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rancher_that_says_another_version_fails_the_run_and_goes_on_running_until_a_person_goes_back() {
    let Answering { world, server: _server, .. } = &says_another_version("Hold").await;
    let run = run_of(world, "back").await.expect("a run");
    assert!(message(&run).contains("`reinback undo back` goes back to what was before it"), "{}", message(&run));
    assert_eq!(image(world), format!("rancher/rancher:{OLD}"));
    assert_rancher_is_back(world).await;
    let line = "version (failed, required): /rancherversion says v2.12.1, and not v2.9.3";
    let told = world.reinback(&["status", "back"]).await;
    assert!(told.stdout.contains(line), "{}", told.stdout);
    assert!(!told.stdout.contains("Replicas were not given back"), "{}", told.stdout);
    let line = "- **version** (failed, required): /rancherversion says v2.12.1, and not v2.9.3";
    assert!(world.dashboard().contains(line), "{}", world.dashboard());
    assert!(!world.dashboard().contains("## Left at 0"), "{}", world.dashboard());
    // Nothing is done about it by itself.
    assert_eq!(world.once().await.code, Some(0));
    assert_eq!(world.runs().await, [ended("back", "Failed", "ChecksFailed")]);

    let said = world.reinback(&["undo", "back", "--yes"]).await;
    assert_eq!(said.code, Some(0), "{}{}", said.stdout, said.stderr);
    assert_eq!(image(world), format!("rancher/rancher:{NEW}"));
    assert_rancher_is_back(world).await;
    assert_eq!(world.once().await.code, Some(0));
    let rules = "- Rules now: nothing: Rollback `back` failed (ChecksFailed) and was undone by `undo-back`";
    assert!(world.dashboard().contains(rules), "{}", world.dashboard());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rancher_that_says_another_version_is_undone_by_itself_where_the_manifest_asks_for_it() {
    let Answering { world, server: _server, .. } = &says_another_version("Undo").await;
    assert_eq!(
        world.runs().await,
        [ended("back", "Failed", "ChecksFailed"), ended("undo-back", "Succeeded", "Succeeded")]
    );
    let run = run_of(world, "back").await.expect("a run");
    assert!(message(&run).contains("undo-back follows, and undoes it"), "{}", message(&run));
    assert_eq!(image(world), format!("rancher/rancher:{NEW}"));
    assert_rancher_is_back(world).await;
    let undo = run_of(world, "undo-back").await.expect("a run");
    assert_eq!(check(&undo, "version")["message"], "/rancherversion says v2.12.1", "{}", undo["status"]["checks"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn asked_to_stop_while_rancher_is_looked_at_the_agent_ends_soon_and_looks_again_later() {
    let answering = Answering::start(OLD).await;
    let Answering { world, server, .. } = &answering;
    newer(world);
    let mark = world.cluster.audit_mark();
    merge_version(world, "back", &[]);
    // It is asked and does not answer; then it says that it is not well yet.
    for page in [Page::Hang, Page::Say(503, "starting".to_owned())] {
        answering.healthz(page.clone());
        server.take_asked();
        let agent = Process::start(world, &[]);
        match page {
            Page::Hang => {
                eventually(Duration::from_secs(120), async || {
                    ensure!(!server.take_asked().is_empty(), "Rancher is not asked yet");
                    Ok(())
                })
                .await;
            }
            _ => {
                let failed = |run: &Value| check(run, "health")["message"] == "/healthz answers 503";
                until_run(world, "back", "says that Rancher is not well", failed).await;
            }
        }
        agent.signal("TERM");
        assert_eq!(agent.ended(Duration::from_secs(10)).await.code(), Some(0));
        assert_eq!(lease_holder(world).await.expect("a lease"), "");
        let run = run_of(world, "back").await.expect("a run");
        assert!(phase(&run) == "Running" && has(&run, "started", "Verify"), "{}", run["status"]);
    }
    answering.healthz(Page::ok("ok"));
    let _agent = Process::start(world, &[]);
    let run = until_ended(world, "back").await;
    assert_eq!(phase(&run), "Succeeded", "{}", run["status"]);
    let outcomes = checks(&run);
    assert_eq!(outcomes[..3], [("rollout", "Passed"), ("health", "Passed"), ("version", "Passed")], "{outcomes:?}");
    assert_rancher_is_back(world).await;
    // What was done is not done again: down, image and up.
    let events = world.cluster.audit_of_ours(mark);
    let of_rancher = |object: &crate::harness::ObjectRef| object.resource == "deployments" && object.name == "rancher";
    let writes = events.iter().filter(|event| event.writes() && of_rancher(&event.object_ref));
    assert_eq!(writes.count(), 3);
}

impl Answering {
    /// What Rancher writes of a cluster that connects, or does not.
    async fn connect(&self, cluster: &str, connected: bool) -> Result<()> {
        let status = if connected { "True" } else { "False" };
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let conditions = json!([
            {"type": "Ready", "status": status, "lastUpdateTime": now},
            {"type": "Connected", "status": status, "lastUpdateTime": now},
        ]);
        self.patch(
            &format!("management.cattle.io/v3/clusters/{cluster}"),
            &json!({"status": {"conditions": conditions}}),
        )
        .await
    }

    /// What Rancher does with its system charts.
    async fn upgrade_charts(&self) -> Result<()> {
        for (chart, version) in
            [("rancher-webhook", "104.0.3+up0.5.3"), ("fleet", "104.1.1+up0.10.4"), ("fleet-crd", "104.1.1+up0.10.4")]
        {
            let path = format!("catalog.cattle.io/v1/namespaces/cattle-system/apps/{chart}");
            self.patch(&path, &json!({"spec": {"chart": {"metadata": {"version": version}}}})).await?;
        }
        Ok(())
    }

    async fn patch(&self, path: &str, patch: &Value) -> Result<()> {
        let request =
            http::Request::patch(format!("/apis/{path}")).header("content-type", "application/merge-patch+json");
        self.world.client.request_text(request.body(patch.to_string().into_bytes())?).await?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clusters_that_were_connected_are_waited_for_and_one_that_does_not_come_is_told_by_its_name() {
    let mut answering = Answering::start(OLD).await;
    answering.world.policy = "verify: {clusterTimeout: 2m}".to_owned();
    let [first, second] = CLUSTERS;
    newer(&answering.world);
    merge_version(&answering.world, "waits", &[]);
    let agent = Process::start(&answering.world, &[]);
    until_run(&answering.world, "waits", "is verified", |run| has(run, "started", "Verify")).await;
    for cluster in CLUSTERS {
        answering.connect(cluster, false).await.expect("Rancher writes");
    }
    let none = "2 of 2 clusters that were connected before are not; 0 are";
    let run = until_run(&answering.world, "waits", "waits", |run| check(run, "clusters")["message"] == none).await;
    assert_eq!(check(&run, "clusters")["lines"][0], "c-m-g24lp (prod-000): not connected, and was before");
    assert_eq!(check(&run, "systemCharts")["outcome"], "Failed", "{}", run["status"]["checks"]);
    // A condition has whole seconds, and counts from when Rancher was Ready.
    tokio::time::sleep(Duration::from_secs(1)).await;
    answering.connect(first, true).await.expect("Rancher writes");
    let one = "1 of 2 clusters that were connected before are not; 1 are";
    until_run(&answering.world, "waits", "sees the first", |run| check(run, "clusters")["message"] == one).await;
    answering.connect(second, true).await.expect("Rancher writes");
    answering.upgrade_charts().await.expect("Rancher writes");
    let run = until_ended(&answering.world, "waits").await;
    assert_eq!(phase(&run), "Succeeded", "{}", run["status"]);
    let all = "all 2 clusters that were connected before are so again";
    assert_eq!(check(&run, "clusters")["message"], all, "{}", run["status"]["checks"]);
    assert!(checks(&run).iter().all(|(_, outcome)| *outcome == "Passed"), "{}", run["status"]["checks"]);
    assert_eq!(warned(&run), Vec::<&str>::new());
    agent.kill();
    crate::process::forget_holder(&answering.world).await;

    // Somebody upgrades again, and one cluster does not find back.
    answering.world.policy = "verify: {clusterTimeout: 8s}".to_owned();
    newer(&answering.world);
    merge_version(&answering.world, "misses", &[("requested-at", "2026-11-23T10:00:00Z")]);
    let agent = Process::start(&answering.world, &[]);
    until_run(&answering.world, "misses", "is verified", |run| has(run, "started", "Verify")).await;
    answering.connect(second, false).await.expect("Rancher writes");
    until_run(&answering.world, "misses", "waits", |run| check(run, "clusters").is_object()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    answering.connect(first, true).await.expect("Rancher writes");
    let run = until_ended(&answering.world, "misses").await;
    assert_eq!(phase(&run), "Succeeded", "{}", run["status"]);
    assert_eq!(warned(&run), [format!("the check clusters did not pass: {one}")]);
    let told = answering.world.reinback(&["status", "misses"]).await;
    let lines = "clusters (failed): 1 of 2 clusters that were connected before are not; 1 are\n    \
                 c-m-hb92j (prod-001): not connected, and was before\n    c-m-g24lp (prod-000): connected\n";
    assert!(told.stdout.contains(lines), "{}", told.stdout);
    eventually(Duration::from_secs(30), async || {
        let dashboard = answering.world.dashboard();
        let line = "  - c-m-hb92j (prod-001): not connected, and was before\n";
        ensure!(dashboard.contains(line), "{dashboard}");
        Ok(())
    })
    .await;
    agent.kill();
}
