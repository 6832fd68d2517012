//! Restores past webhooks that nobody answers: silenced while objects are written, and as before when the run ends.

use std::time::Duration;

use serde_json::{Value, json};

use crate::gates::apply;
use crate::harness::{AuditEvent, rancher};
use crate::killed::SLOWLY;
use crate::process::{
    DISTURBED, Moment, Process, Round, delete_runs_of, forget_holder, has, message, object_writes, phase, run_of,
};
use crate::world::World;

const ACCEPT: &str = "VersionMismatch, PruneShare, DownstreamReverts, WebhookUnavailable";

/// Settings and Secrets, and what is scaled: all that a webhook without anybody behind it closes.
fn admission(policy: &str) -> Value {
    let webhook = |name: &str, policy: &str, group: &str, resource: &str| {
        json!({"name": name, "failurePolicy": policy, "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"service": {"namespace": "cattle-system", "name": "gone"}},
            "rules": [{"operations": ["CREATE", "UPDATE", "DELETE"], "apiGroups": [group], "apiVersions": ["*"],
                "resources": [resource]}]})
    };
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
    "metadata": {"name": "dead"}, "webhooks": [
        webhook("settings.example.org", policy, "management.cattle.io", "settings"),
        webhook("secrets.example.org", policy, "", "secrets"),
        webhook("scaled.example.org", policy, "apps", "deployments"),
        // Nothing of the backup is one.
        webhook("unasked.example.org", "Fail", "example.org", "widgets"),
    ]})
}

async fn get(world: &World, args: &[&str]) -> Value {
    let text = world.cluster.kubectl(&[&["get", "-o", "json"], args].concat(), "").expect("it is there");
    serde_json::from_str(&text).expect("kubectl prints JSON")
}

async fn policies(world: &World) -> Vec<String> {
    let live = get(world, &["validatingwebhookconfiguration", "dead"]).await;
    let webhooks = live["webhooks"].as_array().expect("webhooks").iter();
    let policies: Vec<String> =
        webhooks.map(|webhook| webhook["failurePolicy"].as_str().unwrap_or_default().to_owned()).collect();
    let note = live["metadata"]["annotations"]["reinback.io/silenced"].as_str();
    policies.into_iter().chain(note.map(str::to_owned)).collect()
}

/// The first and the last patch of `resource` enclose all writes of objects.
fn assert_enclosed(events: &[AuditEvent], resource: &str) {
    let ours = |event: &&AuditEvent| event.user_agent.starts_with("reinback/") && event.response_status.code < 300;
    let of_it = |event: &&AuditEvent| event.verb == "patch" && event.object_ref.resource == resource;
    let patches: Vec<&AuditEvent> = events.iter().filter(ours).filter(of_it).collect();
    let writes = object_writes(events);
    let (first, last) = (writes.first().expect("written"), writes.last().expect("written"));
    assert_eq!(patches.len(), 2, "silenced and given back: {patches:?}");
    assert!(patches[0].stage_timestamp < first.request_received_timestamp, "{first:?}");
    assert!(patches[1].request_received_timestamp > last.stage_timestamp, "{last:?}");
}

fn journaled(run: &Value, event: &str) -> Vec<Value> {
    let journal = run["status"]["journal"].as_array().expect("a journal").iter();
    journal
        .filter(|entry| entry["event"] == event)
        .flat_map(|entry| entry["webhooks"].as_array().cloned())
        .flatten()
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_admission_webhook_is_silenced_while_objects_are_written_and_refuses_again_afterwards() {
    let world = World::start().await;
    world.settle().await;
    rancher::disturb(&world.client, &world.items, DISTURBED).await.expect("disturbed");
    apply(&world, &admission("Fail").to_string());
    world.commit_restore("back", &[("accept", "VersionMismatch, PruneShare, DownstreamReverts")], "  prune: true\n");
    let said = world.once().await;
    assert_eq!(world.told(&[]).await, ["back Held WebhookUnavailable"], "{}", said.stderr);
    world.commit_restore("back", &[("accept", ACCEPT)], "  prune: true\n");
    let planned = world.reinback(&["plan"]).await;
    let told =
        "silences while it writes, for nobody answers\n  scaled.example.org of ValidatingWebhookConfiguration dead\n";
    assert!(planned.stdout.contains(told) && !planned.stdout.contains("unasked"), "{}", planned.stdout);

    let mark = world.cluster.audit_mark();
    let said = world.once().await;
    let run = run_of(&world, "back").await.expect("a run");
    assert_eq!(said.code, Some(0), "{}\n{}", said.stderr, run["status"]);
    assert_eq!(world.differences().await, Vec::<String>::new());
    assert_eq!(policies(&world).await, ["Fail"; 4]);
    assert_enclosed(&world.cluster.audit_since(mark), "validatingwebhookconfigurations");
    let (silenced, back) = (journaled(&run, "silenced"), journaled(&run, "unsilenced"));
    assert_eq!(silenced.len(), 3, "{silenced:?}");
    assert_eq!(silenced, back);
    let webhook = json!({"kind": "ValidatingWebhookConfiguration", "name": "dead", "webhook": "secrets.example.org"});
    assert!(silenced.contains(&json!({"webhook": webhook, "had": "Fail"})), "{silenced:?}");
    let status = world.reinback(&["status", "back"]).await.stdout;
    assert!(status.contains("secrets.example.org of ValidatingWebhookConfiguration dead"), "{status}");
    // It is as dead as before.
    let label = ["label", "settings.management.cattle.io", "server-url", "a=b"];
    assert!(world.cluster.kubectl(&label, "").is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_with_webhooks_silenced_a_run_goes_on_and_gives_them_back() {
    let world = World::start().await;
    world.settle().await;
    let disturbed = rancher::disturb(&world.client, &world.items, DISTURBED).await.expect("disturbed");
    apply(&world, &admission("Fail").to_string());
    let round = Round::merge(&world, "killed", 21, &[("accept", ACCEPT)], "", disturbed).await;
    let moments = [
        (Moment::Journal("silenced", ""), false),
        (Moment::Written(10), false),
        // Git knows that it began, and not what it has done.
        (Moment::Written(20), true),
        (Moment::Journal("started", "Resume"), false),
    ];
    for (moment, delete_run) in moments {
        let agent = Process::start(&world, SLOWLY);
        round.reach(&moment).await;
        agent.kill();
        if delete_run {
            assert_eq!(policies(&world).await[..4], ["Ignore", "Ignore", "Ignore", "Fail"]);
            delete_runs_of(&world, "killed").await;
        }
        forget_holder(&world).await;
    }
    let _agent = Process::start(&world, &[]);
    round.judge(Duration::ZERO).await;
    assert_eq!(policies(&world).await, ["Fail"; 4]);
}

/// An object that no API server takes, in the step before the one that writes configurations of webhooks.
fn spoilt() -> (String, Value) {
    let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "spoilt"},
        "value": 2_000_000_000});
    ("priorityclasses.scheduling.k8s.io#v1/spoilt".to_owned(), class)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_fails_and_is_left_in_the_middle_gives_webhooks_back_with_the_backups_value_where_that_has_one() {
    let world = World::start().await;
    world.settle().await;
    world.touch();
    apply(&world, &admission("Fail").to_string());
    let older = get(&world, &["validatingwebhookconfiguration", "dead"]).await;
    let backup = world.repack("spoilt", |entries| {
        entries.push(spoilt());
        let mut older = older.clone();
        older["webhooks"][0]["failurePolicy"] = json!("Ignore");
        older["metadata"] = json!({"name": "dead", "labels": {"of": "backup"}});
        let service = json!({"apiVersion": "v1", "kind": "Service", "spec": {"ports": [{"port": 443}]},
            "metadata": {"name": "gone", "namespace": "cattle-system"}});
        entries.push(("services.#v1/cattle-system/gone".to_owned(), service));
        let place = "validatingwebhookconfigurations.admissionregistration.k8s.io#v1/dead";
        entries.push((place.to_owned(), older));
    });
    let accept = [("accept", "VersionMismatch, WebhookUnavailable")];
    world.commit_restore_of(&backup, "held", &accept, "  prune: false\n");
    let said = world.once().await;
    let run = run_of(&world, "held").await.expect("a run");
    assert_eq!((said.code, phase(&run)), (Some(1), "Failed"), "{}", said.stderr);
    assert!(message(&run).contains("Rancher stays at 0") && !has(&run, "started", "Resume"), "{}", run["status"]);
    assert_eq!(policies(&world).await, ["Fail"; 4]);
    assert_eq!(journaled(&run, "unsilenced").len(), 2, "{}", run["status"]["journal"]);

    let again = [&accept[..], &[("requested-at", "2026-11-23T10:00:00Z")]].concat();
    world.commit_restore_of(&backup, "held", &again, "  prune: false\n  ignoreErrors: true\n");
    world.once().await;
    assert_eq!(world.replicas("cattle-system", "rancher").await.expect("it is there").0, 3);
    assert_eq!(policies(&world).await, ["Ignore", "Fail", "Fail", "Fail"], "as the backup has it");
    let live = get(&world, &["validatingwebhookconfiguration", "dead"]).await;
    assert_eq!(live["metadata"]["labels"], json!({"of": "backup"}), "written while it was silenced");
}

const WIDGETS: &str = "widgets.provisioning.cattle.io";
/// Selected at v1 and stored at v2.
const GADGETS: &str = "gadgets.provisioning.cattle.io";

/// Served, and preferred, as v2; whom to ask for a conversion is gone.
fn definition(name: &str, kind: &str, storage: &str) -> Value {
    let version = |name: &str| {
        json!({"name": name, "served": true, "storage": name == storage,
            "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}})
    };
    let service = json!({"namespace": "cattle-system", "name": "gone", "path": "/convert", "port": 443});
    let singular = kind.to_lowercase();
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": name},
        "spec": {"group": "provisioning.cattle.io", "scope": "Cluster",
            "names": {"plural": format!("{singular}s"), "singular": singular, "kind": kind, "listKind": format!("{kind}List")},
            "versions": [version("v1"), version("v2")],
            "conversion": {"strategy": "Webhook",
                "webhook": {"conversionReviewVersions": ["v1"], "clientConfig": {"service": service}}}}})
}

/// Its definition is served when this returns, and comes as a backup has it.
async fn defined(world: &World, name: &str, kind: &str, storage: &str) -> (String, Value) {
    apply(world, &definition(name, kind, storage).to_string());
    world.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", &format!("crd/{name}")]);
    let mut saved = get(world, &["crd", name]).await;
    saved["metadata"] = json!({"name": name});
    (format!("customresourcedefinitions.apiextensions.k8s.io#v1/{name}"), saved)
}

fn widget(name: &str, size: u64) -> Value {
    json!({"apiVersion": "provisioning.cattle.io/v1", "kind": "Widget", "metadata": {"name": name}, "spec": {"size": size}})
}

/// The webhook of the definition, and whether it says what it had.
async fn conversion(world: &World) -> (Value, bool) {
    let live = get(world, &["crd", WIDGETS]).await;
    let noted = live["metadata"]["annotations"]["reinback.io/silenced"].is_string();
    (live["spec"]["conversion"].clone(), noted)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_conversion_is_silenced_where_no_object_needs_one_and_what_is_only_selected_is_read_as_it_is_stored() {
    let world = World::start().await;
    world.settle().await;
    let mut saved = defined(&world, WIDGETS, "Widget", "v1").await;
    let gadgets = defined(&world, GADGETS, "Gadget", "v2").await;
    apply(&world, "{apiVersion: provisioning.cattle.io/v2, kind: Gadget, metadata: {name: late}}");
    saved.1["metadata"]["labels"] = json!({"of": "backup"});
    let written = |name: &str, manager: &str, of: &Value| {
        let manager = format!("--field-manager={manager}");
        let apply = ["apply", "--server-side", "--force-conflicts", "--validate=false", &manager, "-f", "-"];
        world.cluster.kubectl(&apply, &of.to_string()).unwrap_or_else(|error| panic!("{name}: {error:?}"));
    };
    for name in ["one", "late"] {
        written(name, "first", &widget(name, 2));
    }
    // While somebody converted, another wrote a field as v2: a record that only he who converts can take to v1.
    let open = r#"{"spec":{"conversion":{"strategy":"None","webhook":null}}}"#;
    world.kubectl(&["patch", "crd", WIDGETS, "--type=merge", "-p", open]);
    let mut as_v2 = widget("one", 2);
    as_v2["apiVersion"] = json!("provisioning.cattle.io/v2");
    as_v2["metadata"]["labels"] = json!({"by": "second"});
    crate::harness::eventually(Duration::from_secs(60), async || {
        let apply =
            ["apply", "--server-side", "--force-conflicts", "--validate=false", "--field-manager=second", "-f", "-"];
        world.cluster.kubectl(&apply, &as_v2.to_string())
    })
    .await;
    let dead = json!({"spec": {"conversion": saved.1["spec"]["conversion"]}}).to_string();
    world.kubectl(&["patch", "crd", WIDGETS, "--type=merge", "-p", &dead]);
    let before = conversion(&world).await;
    let backup = world.repack("widgets", |entries| {
        entries.extend([saved, gadgets]);
        entries.push((format!("{WIDGETS}#v1/one"), widget("one", 1)));
        entries.push((format!("{WIDGETS}#v1/two"), widget("two", 1)));
    });
    let accept = [("accept", "VersionMismatch, PruneShare, WebhookUnavailable")];
    world.commit_restore_of(&backup, "converted", &accept, "  prune: true\n");
    let planned = world.reinback(&["plan"]).await;
    assert!(planned.stdout.contains("conversion of CustomResourceDefinition widgets"), "{}", planned.stdout);
    let said = world.once().await;
    let run = run_of(&world, "converted").await.expect("a run");
    assert_eq!(said.code, Some(0), "{}\n{}", said.stderr, run["status"]);
    assert_eq!(conversion(&world).await, before);
    assert_eq!(journaled(&run, "silenced"), journaled(&run, "unsilenced"));
    assert_eq!(journaled(&run, "silenced")[0]["had"], before.0);
    let live = get(&world, &["crd", WIDGETS]).await;
    assert_eq!(live["metadata"]["labels"], json!({"of": "backup"}), "written while it was silenced");
    let v1 = "widgets.v1.provisioning.cattle.io";
    for name in ["one", "two"] {
        assert_eq!(get(&world, &[v1, name]).await["spec"], json!({"size": 1}), "{name}");
    }
    for late in [v1, "gadgets.v2.provisioning.cattle.io"] {
        let gone = world.cluster.kubectl(&["get", late, "late"], "").expect_err("prune deletes it").to_string();
        assert!(gone.contains("NotFound"), "{gone}");
    }
}
