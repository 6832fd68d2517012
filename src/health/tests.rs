use std::collections::BTreeMap;

use insta::assert_snapshot;
use serde_json::{Value, json};

use super::*;
use crate::webhook::{Answered, ServiceRef};

/// Outcome, message and lines, as they are told.
fn told(judged: &Judged) -> String {
    let Judged { outcome, message, lines } = judged;
    let lines: String = lines.iter().map(|line| format!("\n  {line}")).collect();
    format!("{}: {message}{lines}", outcome.words())
}

fn all(judged: &[Judged]) -> String {
    judged.iter().map(told).collect::<Vec<_>>().join("\n")
}

fn deployment(image: &str, ready: i64) -> Value {
    json!({
        "metadata": {"generation": 2},
        "spec": {"replicas": 2, "template": {"spec": {"containers": [{"name": "rancher", "image": image}]}}},
        "status": {"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "readyReplicas": ready, "availableReplicas": ready},
    })
}

fn pod(name: &str, image: &str, phase: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"image": image}]}, "status": {"phase": phase}})
}

const OLD: &str = "rancher/rancher:v2.10.1";
const NEW: &str = "registry.example.org:5000/rancher/rancher:v2.9.3@sha256:abc";

#[test]
fn a_rollout_is_complete_with_the_right_image_and_without_an_old_pod() {
    let new = [pod("rancher-new-1", NEW, "Running"), pod("rancher-new-2", NEW, "Running")];
    let with = |extra: Value| [new.to_vec(), vec![extra]].concat();
    let mut ending = pod("rancher-new-0", NEW, "Running");
    ending["metadata"]["deletionTimestamp"] = json!("2026-11-23T09:00:00Z");
    let ready = deployment(NEW, 2);
    let mut stopped = ready.clone();
    stopped["spec"]["replicas"] = json!(0);
    stopped["status"] = json!({"observedGeneration": 2});
    assert_snapshot!(all(&[
        rollout(Some(&ready), Some(&new), "v2.9.3"),
        // An evicted pod stays for a while.
        rollout(Some(&ready), Some(&with(pod("rancher-old-1", OLD, "Failed"))), "2.9.3"),
        rollout(Some(&stopped), Some(&[]), "v2.9.3"),
        rollout(Some(&ready), Some(&with(pod("rancher-old-1", OLD, "Running"))), "v2.9.3"),
        rollout(Some(&ready), Some(&with(ending)), "v2.9.3"),
        rollout(Some(&deployment(NEW, 1)), Some(&new), "v2.9.3"),
        rollout(Some(&deployment(OLD, 2)), Some(&new), "v2.9.3"),
        rollout(None, Some(&new), "v2.9.3"),
        rollout(Some(&ready), None, "v2.9.3"),
        rollout(Some(&deployment("rancher/rancher@sha256:abc", 2)), Some(&new), "v2.9.3"),
        rollout(Some(&json!({})), Some(&[]), "v2.9.3"),
    ]), @"
    passed: 2 of 2 replicas run registry.example.org:5000/rancher/rancher:v2.9.3@sha256:abc, and no old pod is left
    passed: 2 of 2 replicas run registry.example.org:5000/rancher/rancher:v2.9.3@sha256:abc, and no old pod is left
    passed: 0 of 0 replicas run registry.example.org:5000/rancher/rancher:v2.9.3@sha256:abc, and no old pod is left
    failed: 1 old pods are still there
      pod rancher-old-1: its image is rancher/rancher:v2.10.1
    failed: 1 old pods are still there
      pod rancher-new-0: it is still ending
    failed: of 2 replicas 2 are updated and 1 are Ready
    failed: the image is rancher/rancher:v2.10.1, and not of v2.9.3
    failed: the Deployment of Rancher is not there
    not asked: its pods may not be listed
    not asked: the image rancher/rancher@sha256:abc has no tag to tell the version by
    not asked: the image that it does not name has no tag to tell the version by
    ");
}

fn answered(code: u16, body: &str) -> Reply {
    Reply::Answered { code, body: body.to_owned() }
}

#[test]
fn rancher_is_well_when_it_says_so_itself() {
    let hangs = Reply::Misbehaved("no answer within 10 s".to_owned());
    let closed = Reply::NotAsked("the API server may not be asked for services/proxy".to_owned());
    assert_snapshot!(all(&[
        health(&answered(200, "ok"), &answered(200, "pong")),
        health(&answered(500, ""), &answered(200, "pong")),
        health(&answered(200, "ok"), &answered(200, "<html>Welcome to nginx</html>")),
        health(&answered(200, "ok"), &hangs),
        health(&closed, &closed),
        health(&answered(403, "<html>"), &answered(403, "<html>")),
    ]), @"
    passed: /healthz answers 200 and /ping says pong
    failed: /healthz answers 500
    failed: /ping does not say pong: something else than Rancher answers
    failed: /ping: no answer within 10 s
    not asked: the API server may not be asked for services/proxy
    not asked: /healthz answers 403: somebody on the way does not let us ask
    ");
}

#[test]
fn the_version_is_the_one_that_rancher_says_and_not_the_one_of_the_setting() {
    let says = |version: &str| answered(200, &json!({"Version": version, "GitCommit": "abc"}).to_string());
    let long = "v".repeat(500);
    assert_snapshot!(all(&[
        version(&says("v2.9.3"), "v2.9.3", Some("v2.9.3")),
        version(&says("2.9.3"), "v2.9.3", Some("v2.10.1")),
        version(&says("v2.10.1"), "v2.9.3", Some("v2.9.3")),
        version(&says(&long), "v2.9.3", None),
        version(&answered(200, "<html>"), "v2.9.3", None),
        version(&answered(200, "{\"Version\": 2}"), "v2.9.3", None),
        version(&answered(503, ""), "v2.9.3", None),
        version(&Reply::NotAsked("rancher.example.org: no such host".to_owned()), "v2.9.3", None),
    ]), @"
    passed: /rancherversion says v2.9.3
    passed: /rancherversion says 2.9.3
      the setting server-version says v2.10.1
    failed: /rancherversion says v2.10.1, and not v2.9.3
    failed: /rancherversion says vvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvv…, and not v2.9.3
    failed: /rancherversion does not tell a version: something else than Rancher answers
    failed: /rancherversion does not tell a version: something else than Rancher answers
    failed: /rancherversion answers 503
    not asked: rancher.example.org: no such host
    ");
}

fn setting(name: &str, value: &str, source: &str) -> Setting {
    let object = json!({"metadata": {"name": name}, "value": value, "source": source, "default": "x"});
    Setting::read(&object).expect("it has a name")
}

#[test]
fn settings_are_compared_by_value_unless_the_environment_gave_it() {
    let backup = [
        setting("server-url", "https://rancher.example.org", ""),
        setting("telemetry-opt", "out", "db"),
        setting("server-version", "v2.9.3", "env"),
        setting("agent-image", "rancher/agent:v2.9.3", ""),
        setting("bootstrap-password", "hunter2", ""),
    ];
    let mut live = backup.to_vec();
    live.push(setting("new-in-2-10", "x", ""));
    let right = settings(&backup, &live);
    live[0] = setting("server-url", "https://elsewhere.example.org", "");
    live[2] = setting("server-version", "v2.10.1", "");
    live[3] = setting("agent-image", "mirror/agent:v2.9.3", "env");
    live.remove(4);
    let wrong = settings(&backup, &live);
    assert_snapshot!(all(&[right, wrong]), @"
    passed: 4 settings are as the backup has them
    failed: 2 of 3 settings are not as the backup has them
      server-url: its value is not the backup's
      bootstrap-password: it is not there
    ");
    let shown = format!("{:?}", backup);
    assert!(!shown.contains("hunter2"), "{shown}");
}

fn serving(configuration: &str, namespace: &str, name: &str, answered: Answered) -> Serving {
    let service = ServiceRef { namespace: namespace.to_owned(), name: name.to_owned() };
    Serving { configuration: format!("validatingwebhookconfigurations/{configuration}"), service, answered }
}

#[test]
fn a_webhook_is_well_when_it_is_ready_and_somebody_answers_its_configurations() {
    let own = |answered| serving("rancher.cattle.io", "cattle-system", "rancher-webhook", answered);
    let foreign = serving("kyverno", "kyverno", "kyverno-svc", Answered::NoEndpoint);
    let left = serving("capi-validating", "cattle-provisioning-capi-system", "capi-webhook-service", Answered::Missing);
    let (ready, unready) =
        (deployment("rancher/rancher-webhook:v0.5.3", 2), deployment("rancher/rancher-webhook:v0.5.3", 1));
    assert_snapshot!(all(&[
        webhook(Some(&ready), &[own(Answered::Ready), foreign.clone()]),
        webhook(None, &[foreign]),
        webhook(Some(&unready), &[own(Answered::Ready)]),
        webhook(Some(&ready), &[own(Answered::NoEndpoint)]),
        webhook(Some(&ready), &[own(Answered::Ready), left.clone()]),
        webhook(None, &[own(Answered::Missing)]),
        webhook(None, &[left]),
    ]), @"
    passed: rancher-webhook is Ready, and somebody answers 1 webhook configurations of Rancher
      validatingwebhookconfigurations/kyverno: its Service kyverno/kyverno-svc has no endpoint that is ready
    passed: rancher-webhook is not installed, and no webhook configuration of it is there
      validatingwebhookconfigurations/kyverno: its Service kyverno/kyverno-svc has no endpoint that is ready
    failed: rancher-webhook is not Ready
    failed: nobody answers 1 webhook configurations of Rancher
      validatingwebhookconfigurations/rancher.cattle.io: its Service cattle-system/rancher-webhook has no endpoint that is ready
    failed: nobody answers 1 webhook configurations of Rancher
      validatingwebhookconfigurations/capi-validating: its Service cattle-provisioning-capi-system/capi-webhook-service is not there
    failed: rancher-webhook is not there, and its webhook configurations are
      validatingwebhookconfigurations/rancher.cattle.io: its Service cattle-system/rancher-webhook is not there
    failed: nobody answers 1 webhook configurations of Rancher
      validatingwebhookconfigurations/capi-validating: its Service cattle-provisioning-capi-system/capi-webhook-service is not there
    ");
}

#[test]
fn ranchers_api_services_must_be_available_and_those_of_others_are_told() {
    let service = |name: &str, namespace: &str, available: Option<(&str, &str)>| {
        let conditions = available.map(|(status, reason)| {
            json!([{"type": "Available", "status": status, "reason": reason, "message": "dial tcp 10.1.2.3: secret"}])
        });
        let group = name.split_once('.').map_or("", |(_, group)| group);
        json!({
            "metadata": {"name": name},
            "spec": {"group": group, "service": {"namespace": namespace, "name": "x"}},
            "status": {"conditions": conditions},
        })
    };
    let local = json!({"metadata": {"name": "v1.apps"}, "spec": {"group": "apps"}, "status": {}});
    let ext = |available| service("v1.ext.cattle.io", "cattle-system", available);
    let metrics = service("v1beta1.metrics.k8s.io", "kube-system", Some(("False", "MissingEndpoints")));
    assert_snapshot!(all(&[
        api_services(&[local.clone(), ext(Some(("True", "Passed"))), metrics]),
        api_services(&[local.clone(), ext(Some(("False", "FailedDiscoveryCheck")))]),
        api_services(&[ext(None)]),
        api_services(&[local]),
    ]), @"
    passed: 1 APIServices of Rancher are available
      v1beta1.metrics.k8s.io: MissingEndpoints (not Rancher's)
    failed: 1 of 1 APIServices of Rancher are not available
      v1.ext.cattle.io: FailedDiscoveryCheck
    failed: 1 of 1 APIServices of Rancher are not available
      v1.ext.cattle.io: it does not say whether it is available
    passed: 0 APIServices of Rancher are available
    ");
}

#[test]
fn system_charts_are_judged_by_the_versions_that_the_settings_name() {
    let app = |chart: &str, version: &str, state: &str| json!({"spec": {"chart": {"metadata": {"name": chart, "version": version}}}, "status": {"summary": {"state": state}}});
    let names = [
        ("rancher-webhook-version", "104.0.3+up0.5.3"),
        ("fleet-version", "104.1.1+up0.10.4"),
        ("rancher-turtles-version", ""),
    ];
    let named: BTreeMap<String, String> = names.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let right = [
        app("rancher-webhook", "104.0.3+up0.5.3", "deployed"),
        app("fleet", "104.1.1+up0.10.4", "deployed"),
        app("fleet-crd", "104.1.1+up0.10.4", "deployed"),
        app("rancher-turtles", "1.0.0", "deployed"),
        app("monitoring", "1.0.0", "failed"),
    ];
    let wrong =
        [app("rancher-webhook", "105.0.0+up0.6.0", "deployed"), app("fleet", "104.1.1+up0.10.4", "pending-rollback")];
    assert_snapshot!(all(&[system_charts(&named, &right), system_charts(&named, &wrong), system_charts(&BTreeMap::new(), &right)]), @"
    passed: 3 system charts are at the versions that Rancher's settings name
    failed: 2 of 2 system charts are not yet as Rancher's settings name them; Rancher brings them there by itself, within 6 hours or when its chart repository is refreshed
      rancher-webhook: at 105.0.0+up0.6.0, to be at 104.0.3+up0.5.3
      fleet: at 104.1.1+up0.10.4, in the state pending-rollback
      fleet-crd: not installed
    passed: 0 system charts are at the versions that Rancher's settings name
    ");
}

fn cluster(name: &str, display: &str, conditions: Value) -> ClusterNow {
    let object =
        json!({"metadata": {"name": name}, "spec": {"displayName": display}, "status": {"conditions": conditions}});
    ClusterNow::read(&object).expect("it has a name")
}

fn connected(name: &str, status: &str, written: &str) -> ClusterNow {
    cluster(
        name,
        &format!("prod {name}"),
        json!([{"type": "Ready", "status": "True"}, {"type": "Connected", "status": status, "lastUpdateTime": written}]),
    )
}

#[test]
fn clusters_must_be_connected_as_they_were_before() {
    let since = "2026-11-23T09:00:00Z".parse().expect("a time");
    let (old, new) = ("2026-11-01T00:00:00Z", "2026-11-23T09:00:20Z");
    let before: Vec<String> = ["c-m-1", "c-m-2", "c-m-3", "local"].map(str::to_owned).into();
    // Rancher before 2.6 has no `Connected`.
    let local = cluster("local", "local", json!([{"type": "Ready", "status": "True"}]));
    let now = [
        connected("c-m-1", "True", old),
        connected("c-m-2", "False", new),
        local,
        connected("c-m-4", "True", new),
        connected("c-m-5", "False", old),
    ];
    let back = [connected("c-m-1", "True", new)];
    assert_snapshot!(all(&[
        clusters(Some(&before), &now, since, true),
        clusters(Some(&before[..1]), &back, since, false),
        // What the restore brought from the backup says nothing about now, until Rancher has looked.
        clusters(Some(&before[..1]), &now[..1], since, false),
        clusters(Some(&before[..1]), &now[..1], since, true),
        clusters(Some(&[]), &[], since, true),
        clusters(None, &now, since, true),
    ]), @"
    failed: 2 of 4 clusters that were connected before are not; 2 are
      c-m-2 (prod c-m-2): not connected, and was before
      c-m-3: gone, and was connected before
      c-m-1 (prod c-m-1): connected
      local (local): connected
      c-m-4 (prod c-m-4): connected, and was not before
      c-m-5 (prod c-m-5): not connected, as before
    passed: all 1 clusters that were connected before are so again
      c-m-1 (prod c-m-1): connected
    failed: 1 of 1 clusters that were connected before are not; 0 are
      c-m-1 (prod c-m-1): not connected, and was before
    passed: all 1 clusters that were connected before are so again
      c-m-1 (prod c-m-1): connected
    passed: no cluster was connected before
    not asked: which clusters were connected before the run was not recorded
    ");
}

fn check(name: CheckName, outcome: Outcome, requirements: &Requirements) -> Check {
    let judged = Judged { outcome, message: "so it is".to_owned(), lines: Vec::new() };
    Check::new(name, requirements.require(name), judged)
}

#[test]
fn a_run_succeeds_only_when_what_is_required_holds() {
    let usual = Requirements::Usual;
    let listed = Requirements::Listed([CheckName::Version, CheckName::Clusters].into());
    let of = |requirements: &Requirements, outcomes: [Outcome; 3]| {
        let names = [CheckName::Rollout, CheckName::Version, CheckName::Clusters];
        let checks: Vec<Check> =
            names.into_iter().zip(outcomes).map(|(name, outcome)| check(name, outcome, requirements)).collect();
        let Verdict { failure, warnings } = verdict(&checks, requirements);
        format!(
            "{}\n{}",
            failure.unwrap_or_else(|| "succeeds".to_owned()),
            warnings.iter().map(|warning| format!("  {warning}\n")).collect::<String>()
        )
    };
    use Outcome::{Failed, NotAsked, Passed};
    assert_snapshot!([
        of(&usual, [Passed, Passed, Passed]),
        of(&usual, [Passed, NotAsked, Failed]),
        of(&usual, [Failed, Failed, NotAsked]),
        of(&listed, [Failed, Passed, Passed]),
        of(&listed, [Passed, NotAsked, Failed]),
        of(&Requirements::Listed([].into()), [Failed, NotAsked, Failed]),
    ].concat(), @"
    succeeds
    succeeds
      the check version, which is required where it can be, could not be asked: so it is
      the check clusters did not pass: so it is
    rollout: so it is; version: so it is
      the check clusters could not be asked: so it is
    succeeds
      the check rollout did not pass: so it is
    version could not be asked: so it is; clusters: so it is
    succeeds
      the check rollout did not pass: so it is
      the check version could not be asked: so it is
      the check clusters did not pass: so it is
    ");
}

#[test]
fn a_check_has_so_many_lines_and_letters_and_no_more() {
    let lines = (0..5_000).map(|number| format!("{number}: {}\nforged", "x".repeat(1_000))).collect();
    let judged = Judged { outcome: Outcome::Failed, message: "m".repeat(5_000), lines };
    let check = Check::new(CheckName::Clusters, false, judged);
    assert_eq!(check.lines.len(), LINES_KEPT);
    assert_eq!(check.lines.last().map(String::as_str), Some("and 4951 more"));
    assert!(check.lines.iter().all(|line| line.len() <= LINE_MAX_BYTES && !line.contains('\n')));
    assert!(check.message.len() <= MESSAGE_MAX_BYTES);
    let mut again = check.clone();
    again.bound();
    assert_eq!(again, check);
}

#[test]
fn the_words_of_checks_are_those_of_the_configuration() {
    for name in CheckName::ALL {
        assert_eq!(serde_json::to_value(name).expect("a word"), name.as_str());
    }
}
