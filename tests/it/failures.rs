//! What goes wrong on the way, and what a person does meanwhile: a run ends, says so, and leaves Rancher as promised.

use std::time::Duration;

use serde_json::{Value, json};

use crate::git_server::git;
use crate::harness::eventually;
use crate::harness::rancher;
use crate::process::{
    Moment, Process, Round, assert_rancher_is_back, delete_runs_of, message, object_writes, phase, run_of, until_ended,
};
use crate::world::World;

/// Stands for a value that a policy or webhook puts into its message.
const PRIVATE: &str = "hunter2-4711";

fn reason(run: &Value) -> &str {
    run.pointer("/status/reason").and_then(Value::as_str).unwrap_or_default()
}

/// The API server refuses writes of one setting from now on.
pub async fn refuse(world: &World, setting: &str) {
    let policy = json!({
        "apiVersion": "v1", "kind": "List", "items": [
            {
                "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
                "metadata": {"name": "refuse"},
                "spec": {
                    "matchConstraints": {"resourceRules": [{
                        "apiGroups": ["management.cattle.io"], "apiVersions": ["*"], "resources": ["settings"],
                        "operations": ["CREATE", "UPDATE"], "resourceNames": [setting],
                    }]},
                    "validations": [{"expression": "false", "message": format!("not with {PRIVATE}")}],
                },
            },
            {
                "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
                "metadata": {"name": "refuse"}, "spec": {"policyName": "refuse", "validationActions": ["Deny"]},
            },
        ],
    });
    world.cluster.kubectl(&["apply", "-f", "-"], &policy.to_string()).expect("applied");
    // It takes effect a moment later.
    eventually(Duration::from_secs(60), || async {
        let label = ["label", "settings.management.cattle.io", setting, "try=it", "--overwrite", "--dry-run=server"];
        anyhow::ensure!(world.cluster.kubectl(&label, "").is_err(), "it is not refused yet");
        Ok(())
    })
    .await;
}

/// Makes at once a pod that Rancher's selector chooses, and no Deployment has made.
async fn pod_by_hand(world: &World, name: &str) {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "cattle-system", "labels": {"app": "rancher"}},
        "spec": {"containers": [{"name": "rancher", "image": "rancher/rancher:v2.9.3"}]},
    });
    let request =
        http::Request::post("/api/v1/namespaces/cattle-system/pods").header("content-type", "application/json");
    let request = request.body(pod.to_string().into_bytes()).expect("a request");
    world.client.request_text(request).await.expect("made");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_refused_fails_the_run_and_rancher_is_left_as_the_manifest_says() {
    let world = World::start().await;
    world.settle().await;
    let round = Round::begin(&world, "hold", 21).await;
    let refused = round.disturbed.changed.iter().find(|place| place.is("management.cattle.io", "settings"));
    let refused = refused.expect("a setting is disturbed").clone();
    refuse(&world, &refused.name).await;
    let said = world.once().await;
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    let run = run_of(&world, "hold").await.expect("a run");
    assert_eq!((phase(&run), reason(&run)), ("Failed", "ObjectsFailed"), "{}", run["status"]);
    for told in
        [refused.name.as_str(), "Rancher stays at 0", "deployments/cattle-system/rancher (had 3)", "requested-at"]
    {
        assert!(message(&run).contains(told), "{told}: {}", message(&run));
    }
    assert_eq!(run.pointer("/status/errors/0/object"), Some(&json!(refused.to_string())), "{}", run["status"]);
    assert_eq!(world.replicas("cattle-system", "rancher").await.expect("it is there").0, 0);
    let told = git(&world.remote(), &["log", "-p", "reinback/test"]);
    for place in [&run.to_string(), &told, &said.stderr] {
        assert!(!place.contains(PRIVATE), "{place}");
    }
    // All of the wave was tried.
    let settings: Vec<_> = world.differences().await.into_iter().filter(|line| line.starts_with("settings.")).collect();
    assert!(settings.iter().all(|line| line.contains(&refused.name)), "{settings:?}");

    let disturbed = round.disturbed;
    let round = Round::merge(&world, "resume", 22, &[("on-failure", "Resume")], "", disturbed).await;
    let said = world.once().await;
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    let run = run_of(&world, "resume").await.expect("a run");
    assert_eq!((phase(&run), reason(&run)), ("Failed", "ObjectsFailed"), "{}", run["status"]);
    assert_rancher_is_back(&world).await;

    let round = Round::merge(&world, "despite", 23, &[], "  ignoreErrors: true\n", round.disturbed).await;
    let said = world.once().await;
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    let run = run_of(&world, "despite").await.expect("a run");
    assert_eq!((phase(&run), reason(&run)), ("Failed", "ObjectsFailed"), "{}", run["status"]);
    assert_eq!(run.pointer("/status/counts/failed"), Some(&json!(1)), "{}", run["status"]);
    assert_rancher_is_back(&world).await;
    let left: Vec<_> = world.differences().await;
    assert!(left.iter().all(|line| line.contains(&refused.name)) && !left.is_empty(), "{left:?}");
    for place in &round.disturbed.added {
        assert_eq!(rancher::get(&world.client, place).await.expect("the cluster answers"), None, "{place}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_do_not_go_fail_the_run_before_its_first_write_and_replicas_are_given_back() {
    let world = World::start().await;
    world.settle().await;
    let pods = world.cluster.kubectl(&["get", "pods", "-n", "cattle-system", "-l", "app=rancher", "-o", "name"], "");
    let pod = pods.expect("pods").lines().next().expect("Rancher runs").to_owned();
    let keep = r#"{"metadata":{"finalizers":["example.org/stays"]}}"#;
    world.cluster.kubectl(&["patch", "-n", "cattle-system", &pod, "--type=merge", "-p", keep], "").expect("patched");
    let round = Round::begin_with(&world, "stuck", 24, &[("timeout", "1m")], "").await;
    let _agent = Process::start(&world, &[]);
    world.step_aside();
    let run = until_ended(&world, "stuck").await;
    assert_eq!((phase(&run), reason(&run)), ("Failed", "QuiesceFailed"), "{}", run["status"]);
    assert!(message(&run).contains(pod.trim_start_matches("pod/")), "{}", message(&run));
    assert_eq!(object_writes(&world.cluster.audit_since(round.mark)).len(), 0);
    assert_rancher_is_back(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_of_rancher_that_stays_stops_the_writing_until_the_run_is_out_of_time() {
    let world = World::start().await;
    world.settle().await;
    let round = Round::begin_with(&world, "late", 25, &[("timeout", "1m")], "").await;
    let _agent = Process::start(&world, &["--limits-qps", "60"]);
    round.reach(&Moment::Written(10)).await;
    pod_by_hand(&world, "rancher-by-hand").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let written = object_writes(&world.cluster.audit_since(round.mark)).len();
    world.step_aside();
    let run = until_ended(&world, "late").await;
    assert_eq!((phase(&run), reason(&run)), ("Failed", "Timeout"), "{}", run["status"]);
    assert!(message(&run).contains("within 60 s"), "{}", message(&run));
    assert_eq!(object_writes(&world.cluster.audit_since(round.mark)).len(), written);
    assert_eq!(world.replicas("cattle-system", "rancher").await.expect("it is there").0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_beside_rancher_that_never_gets_ready_costs_a_warning_and_not_the_run() {
    let world = World::start().await;
    world.settle().await;
    // Its name comes before Rancher's. A run gives back the replica that it had, and no node takes the pod.
    let labels = json!({"app": "aks-config-operator"});
    let template = json!({
        "metadata": {"labels": labels},
        "spec": {"nodeSelector": {"no": "node"}, "containers": [{"name": "operator", "image": "rancher/aks-operator:v1"}]},
    });
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "aks-config-operator", "namespace": "cattle-system"},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": template},
    });
    world.cluster.kubectl(&["apply", "-f", "-"], &deployment.to_string()).expect("applied");
    let round = Round::begin_with(&world, "beside", 27, &[("timeout", "5m")], "").await;
    let _agent = Process::start(&world, &[]);
    let run = round.judge(Duration::ZERO).await;
    let warnings = run.pointer("/status/warnings").map(Value::to_string).unwrap_or_default();
    assert_eq!(warnings, r#"["deployments/cattle-system/aks-config-operator is not Ready yet"]"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_who_interferes_is_worked_around_and_told_of() {
    let world = World::start().await;
    world.settle().await;
    let pods = world.cluster.kubectl(&["get", "pods", "-n", "cattle-system", "-l", "app=rancher", "-o", "name"], "");
    let pod = pods.expect("pods").lines().next().expect("Rancher runs").to_owned();
    let finalizers = |list: Value| {
        let patch = json!({"metadata": {"finalizers": list}}).to_string();
        let args = ["patch", "-n", "cattle-system", &pod, "--type=merge", "-p", &patch];
        world.cluster.kubectl(&args, "").expect("patched");
    };
    finalizers(json!(["example.org/slow"]));
    let round = Round::begin(&world, "meddled", 26).await;
    let agent = Process::start(&world, &["--limits-qps", "60"]);
    round.reach(&Moment::Scaled).await;
    // Made after the plan and before the look that follows quiesce: prune leaves it.
    world.cluster.kubectl(&["create", "clusterrole", "c-late", "--verb=get", "--resource=pods"], "").expect("made");
    finalizers(Value::Null);
    round.reach(&Moment::Journal("finished", "Quiesce")).await;
    // A pod of Rancher stops the writing for as long as the person takes, who changes what is written last.
    pod_by_hand(&world, "rancher-by-hand").await;
    round.reach(&Moment::Journal("started", "Crds")).await;
    for place in round.disturbed.changed.iter().filter(|place| place.is("", "secrets")) {
        let mut args = vec!["annotate", "secret", &place.name, "meddled=with", "--overwrite"];
        args.extend(place.namespace.as_deref().map(|_| "-n").into_iter().chain(place.namespace.as_deref()));
        world.cluster.kubectl(&args, "").expect("changed");
    }
    let scale = ["scale", "deployment", "-n", "cattle-system", "rancher", "--replicas=2"];
    world.cluster.kubectl(&scale, "").expect("scaled");
    round.reach(&Moment::Scaled).await;
    let delete = ["delete", "pod", "-n", "cattle-system", "rancher-by-hand", "--wait=false"];
    world.cluster.kubectl(&delete, "").expect("deleted");
    round.reach(&Moment::Written(10)).await;
    delete_runs_of(&world, "meddled").await;
    // What was on its way when the pods came is written; at 60 requests a second that may take half a second.
    let run = round.judge(Duration::from_secs(1)).await;
    let warnings = run.pointer("/status/warnings").map(Value::to_string).unwrap_or_default();
    assert!(warnings.contains("was scaled up while objects were written"), "{warnings}");
    assert!(warnings.contains("left in place, since the plan did not have it: clusterroles."), "{warnings}");
    round.judge_status_branch().await;
    assert!(world.cluster.kubectl(&["get", "clusterrole", "c-late"], "").is_ok());
    agent.kill();

    // Once more, without prune (the account `default` of a namespace is always made again): there is nothing to do, and
    // Rancher is left running.
    crate::process::forget_holder(&world).await;
    world.cluster.kubectl(&["delete", "clusterrole", "c-late"], "").expect("deleted");
    let mark = world.cluster.audit_mark();
    let again =
        [("accept", "VersionMismatch, PruneShare, DownstreamReverts"), ("requested-at", "2026-11-23T10:00:00Z")];
    world.commit_restore("meddled", &again, "  prune: false\n");
    let planned = world.reinback(&["plan", "-v"]).await;
    let said = world.once().await;
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let runs = world.runs().await;
    assert!(runs.iter().any(|(_, _, reason)| reason == "NothingToDo"), "{runs:?}\n{}", planned.stdout);
    let events = world.cluster.audit_since(mark);
    let scaled = events.iter().filter(|event| event.user_agent.starts_with("reinback/") && event.writes());
    assert_eq!(scaled.filter(|event| event.object_ref.resource == "deployments").count(), 0);
}
