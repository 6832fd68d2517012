//! Restores that pass webhooks: as whom, and what stays of them.

use serde_json::{Value, json};

use crate::gates::{apply, define};
use crate::harness::WebhookServer;
use crate::world::World;

const SUDO: &str = "system:serviceaccount:cattle-system:rancher-webhook-sudo";

/// As rancher-webhook does: its sudo identity passes, whoever else asks is denied.
fn only_sudo(request: &Value) -> Value {
    let user = &request["userInfo"];
    let is_master =
        user["groups"].as_array().is_some_and(|groups| groups.iter().any(|group| group == "system:masters"));
    match user["username"] == SUDO && is_master {
        true => json!({"allowed": true}),
        false => json!({"allowed": false, "status": {"code": 403, "message": "hunter2 must not change"}}),
    }
}

/// rancher-webhook's Service leads to this server, and its configuration asks it about settings.
fn install(world: &World, server: &WebhookServer) {
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "rancher-webhook", "namespace": "cattle-system"},
        "spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": server.port}]},
    });
    let client = json!({
        "service": {"namespace": "cattle-system", "name": "rancher-webhook", "port": server.port, "path": "/v1/webhook/validation/settings"},
        "caBundle": server.ca_bundle,
    });
    let webhook = json!({
        "name": "rancher.cattle.io.settings", "clientConfig": client, "failurePolicy": "Fail", "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "rules": [{"operations": ["CREATE", "UPDATE", "DELETE"], "apiGroups": ["management.cattle.io"],
            "apiVersions": ["v3"], "resources": ["settings"], "scope": "Cluster"}],
    });
    let configuration = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "rancher.cattle.io"}, "webhooks": [webhook],
    });
    apply(world, &format!("{service}\n---\n{configuration}"));
}

fn touch_more(world: &World) {
    world.touch();
    let delete = ["delete", "settings.management.cattle.io", "fleet-version"];
    world.cluster.kubectl(&delete, "").expect("the fixture has it");
    let label = ["label", "users.management.cattle.io", "--all", "touched=yes"];
    world.cluster.kubectl(&label, "").expect("labelled");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ranchers_webhook_denies_is_written_as_its_sudo_identity_and_fails_by_name_without_that() {
    let world = World::start().await;
    world.settle().await;
    touch_more(&world);
    let server = WebhookServer::start("rancher-webhook.cattle-system.svc", only_sudo).await;
    install(&world, &server);
    let mark = world.cluster.audit_mark();
    world.commit_restore("back", &[("accept", "VersionMismatch")], "  prune: false\n");
    let said = world.once().await;
    assert_eq!(said.code, Some(1), "{}\n{:?}", said.stderr, world.runs().await);
    let told = world.reinback(&["status", "back"]).await;
    assert!(told.stdout.contains("webhook rancher.cattle.io.settings denied it"), "{}", told.stdout);
    assert!(!told.stdout.contains("hunter2") && !said.stderr.contains("hunter2"), "{}", told.stdout);
    assert!(server.take_asked().iter().all(|request| request["userInfo"]["username"] == "admin"));

    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": "rancher-webhook-sudo", "namespace": "cattle-system"}});
    apply(&world, &account.to_string());
    let again = [("accept", "VersionMismatch"), ("requested-at", "2026-11-23T10:00:00Z")];
    world.commit_restore("back", &again, "  prune: false\n");
    let said = world.once().await;
    assert_eq!(said.code, Some(0), "{}\n{:?}", said.stderr, world.runs().await);
    assert_eq!(world.differences().await, Vec::<String>::new());
    assert_eq!(world.replicas("cattle-system", "rancher").await.expect("it is there"), (3, 3));
    let asked = server.take_asked();
    assert!(!asked.is_empty() && asked.iter().all(|request| request["userInfo"]["username"] == SUDO), "{asked:?}");
    // Everything else is written as ourselves.
    let events = world.cluster.audit_since(mark);
    let ours = events.iter().filter(|event| event.writes() && event.user_agent.starts_with("reinback/"));
    let (as_sudo, as_own): (Vec<_>, Vec<_>) = ours.partition(|event| event.impersonated_user.is_some());
    assert!(as_sudo.iter().all(|event| event.object_ref.resource == "settings"), "{as_sudo:?}");
    assert!(!as_sudo.is_empty() && as_own.iter().any(|event| event.object_ref.resource == "users"));
}

/// Cluster API as Rancher installs it, with a certificate in a Secret and two clusters, one of them in the backup.
fn install_cluster_api(world: &World) {
    let labels = json!({"app": "capi-controller-manager"});
    let pod = json!({
        "containers": [{"name": "manager", "image": "rancher/cluster-api-controller:v1.10.6"}],
        "volumes": [{"name": "cert", "secret": {"secretName": "capi-webhook-service-cert"}}],
    });
    let named = |kind: &str, api_version: &str, name: &str, more: Value| {
        let metadata = json!({"name": name, "namespace": "cattle-capi-system"});
        let mut object = json!({"apiVersion": api_version, "kind": kind, "metadata": metadata});
        more.as_object().into_iter().flatten().for_each(|(field, value)| object[field] = value.clone());
        object
    };
    let spec = json!({"replicas": 1, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}});
    let ports = json!({"selector": labels, "ports": [{"port": 443}]});
    let objects = [
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "cattle-capi-system"}}),
        certificate("bmV3"),
        named("Deployment", "apps/v1", "capi-controller-manager", json!({"spec": spec})),
        named("Service", "v1", "capi-webhook-service", json!({"spec": ports})),
        configuration(&bundle("newer")),
        cluster("prod", 2),
        cluster("newer", 1),
    ];
    apply(world, &objects.map(|object| object.to_string()).join("\n---\n"));
    let wait = [
        "wait",
        "-n",
        "cattle-capi-system",
        "--for=condition=Available",
        "--timeout=60s",
        "deployment/capi-controller-manager",
    ];
    world.cluster.kubectl(&wait, "").expect("it comes up");
}

fn certificate(data: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "data": {"tls.crt": data},
        "metadata": {"name": "capi-webhook-service-cert", "namespace": "cattle-capi-system"}})
}

const CONFIGURATION: &[&str] = &["validatingwebhookconfiguration", "capi-validating-webhook-configuration"];

/// What the API server takes for one: base64 of anything.
fn bundle(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// It asks about a type that nobody writes: no pod answers in truth.
fn configuration(ca_bundle: &str) -> Value {
    let service = json!({"namespace": "cattle-capi-system", "name": "capi-webhook-service"});
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "capi-validating-webhook-configuration"},
        "webhooks": [{"name": "validation.machinepool.cluster.x-k8s.io", "failurePolicy": "Fail", "sideEffects": "None",
            "admissionReviewVersions": ["v1"], "clientConfig": {"service": service, "caBundle": ca_bundle},
            "rules": [{"operations": ["*"], "apiGroups": ["cluster.x-k8s.io"], "apiVersions": ["*"], "resources": ["machinepools"]}]}]})
}

fn cluster(name: &str, port: u16) -> Value {
    json!({"apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Cluster",
        "metadata": {"name": name, "namespace": "fleet-default"}, "spec": {"clusterNetwork": {"apiServerPort": port}}})
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_api_is_paused_while_objects_are_written_and_what_it_serves_with_stays() {
    let world = World::start().await;
    world.settle().await;
    define(&world, "cluster.x-k8s.io", "v1beta2", "clusters", "Cluster", "Namespaced");
    install_cluster_api(&world);
    world.touch();
    let get = |args: &[&str]| -> Value {
        let text = world.cluster.kubectl(&[&["get", "-o", "json"], args].concat(), "").expect("it is there");
        serde_json::from_str(&text).expect("kubectl prints JSON")
    };
    // As a backup would have it: with what the server sets by default.
    let mut older = get(CONFIGURATION);
    older["webhooks"][0]["clientConfig"]["caBundle"] = json!(bundle("older"));
    older["metadata"] = json!({"name": older["metadata"]["name"], "labels": {"of": "backup"}});
    let backup = world.repack("capi", |entries| {
        entries.push(("clusters.cluster.x-k8s.io#v1beta2/fleet-default/prod".to_owned(), cluster("prod", 1)));
        entries.push(("secrets.#v1/cattle-capi-system/capi-webhook-service-cert".to_owned(), certificate("b2xk")));
        let place =
            "validatingwebhookconfigurations.admissionregistration.k8s.io#v1/capi-validating-webhook-configuration";
        entries.push((place.to_owned(), older));
    });
    let mark = world.cluster.audit_mark();
    world.commit_restore_of(&backup, "back", &[("accept", "VersionMismatch")], "  prune: false\n");
    let said = world.once().await;
    assert_eq!(said.code, Some(0), "{}\n{:?}", said.stderr, world.runs().await);
    for (name, port) in [("prod", 1), ("newer", 1)] {
        let live = get(&["-n", "fleet-default", "clusters.cluster.x-k8s.io", name]);
        assert_eq!(live["spec"], json!({"clusterNetwork": {"apiServerPort": port}}), "{name}");
        assert_eq!(live["metadata"]["annotations"]["reinback.io/paused"], Value::Null);
    }
    let secret = get(&["-n", "cattle-capi-system", "secret", "capi-webhook-service-cert"]);
    assert_eq!(secret["data"]["tls.crt"], "bmV3");
    let live = get(CONFIGURATION);
    assert_eq!(live["webhooks"][0]["clientConfig"]["caBundle"], json!(bundle("newer")));
    assert_eq!(live["metadata"]["labels"], json!({"of": "backup"}));
    assert_paused_before_writes(&world, mark);
    // What is kept is no difference.
    world.commit_restore_of(&backup, "back", &[("requested-at", "2026-11-23T10:00:00Z")], "  prune: false\n");
    let said = world.reinback(&["plan", "-v"]).await;
    assert_eq!(said.code, Some(0), "{}{}", said.stdout, said.stderr);
}

fn assert_paused_before_writes(world: &World, mark: usize) {
    let events = world.cluster.audit_since(mark);
    let ours = events.iter().filter(|event| event.writes() && event.user_agent.starts_with("reinback/"));
    let ours: Vec<_> =
        ours.filter(|event| !["leases", "runs", "events"].contains(&event.object_ref.resource.as_str())).collect();
    let is_cluster = |event: &&&crate::harness::AuditEvent| {
        event.object_ref.api_group == "cluster.x-k8s.io" && event.verb == "patch"
    };
    let patches: Vec<usize> = (0..ours.len()).filter(|at| is_cluster(&&ours[*at])).collect();
    let first_write =
        ours.iter().position(|event| event.object_ref.resource == "settings").expect("a setting is written");
    assert_eq!(patches.len(), 4, "two are paused and given back: {patches:?}");
    assert!(patches[1] < first_write && patches[2] > first_write, "{patches:?}, first write {first_write}");
}
