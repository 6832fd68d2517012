//! What comes back is whole: definitions with the versions that hold objects, owners with their dependents, accounts
//! with tokens that work; and a namespace that prune deletes is gone, with nothing else.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::gates::{apply, define};
use crate::harness::rancher::Item;
use crate::harness::{AuditEvent, eventually};
use crate::once::ended;
use crate::process::{Process, has, phase, run_of, until_run};
use crate::world::World;

mod defaults;
mod owners;
mod protected;

const GROUP: &str = "example.org";
/// Of the type that only the backup has.
const GIZMOS: usize = 30;

/// A cluster-scoped definition of `GROUP` with these versions, of which the last is the one that is stored.
fn definition(plural: &str, kind: &str, versions: &[&str]) -> Value {
    let version = |(number, name): (usize, &&str)| {
        json!({
            "name": name, "served": true, "storage": number + 1 == versions.len(),
            "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
            "subresources": {"status": {}},
        })
    };
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{GROUP}")},
        "spec": {
            "group": GROUP, "scope": "Cluster", "conversion": {"strategy": "None"},
            "names": {"plural": plural, "singular": kind.to_lowercase(), "kind": kind, "listKind": format!("{kind}List")},
            "versions": versions.iter().enumerate().map(version).collect::<Vec<_>>(),
        },
    })
}

fn object(kind: &str, version: &str, name: &str, size: usize) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/{version}"), "kind": kind, "metadata": {"name": name}, "spec": {"size": size},
    })
}

/// What an API path answers.
fn get(world: &World, path: &str) -> anyhow::Result<Value> {
    Ok(serde_json::from_str(&world.cluster.kubectl(&["get", "--raw", path], "")?)?)
}

/// A field of each object of a list, in the list's order.
fn each<'v>(list: &'v Value, pointer: &str) -> Vec<&'v Value> {
    list["items"].as_array().into_iter().flatten().filter_map(|item| item.pointer(pointer)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_keeps_newer_versions_that_hold_objects_and_a_missing_one_is_served_before_its_objects_come() {
    let world = World::start().await;
    world.settle().await;
    apply(&world, &definition("widgets", "Widget", &["v1"]).to_string());
    world.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "crd/widgets.example.org"]);
    apply(&world, &object("Widget", "v1", "one", 1).to_string());
    apply(&world, &definition("widgets", "Widget", &["v1", "v2"]).to_string());
    let two = object("Widget", "v2", "two", 2).to_string();
    // The new version is served a moment later.
    let apply_two = ["apply", "--validate=false", "-f", "-"];
    eventually(Duration::from_secs(60), async || world.cluster.kubectl(&apply_two, &two)).await;

    let backup = world.repack("definitions", |entries| {
        let crd = |plural: &str| format!("customresourcedefinitions.apiextensions.k8s.io#v1/{plural}.{GROUP}");
        entries.push((crd("widgets"), definition("widgets", "Widget", &["v1"])));
        entries.push((format!("widgets.{GROUP}#v1/one"), object("Widget", "v1", "one", 10)));
        entries.push((crd("gizmos"), definition("gizmos", "Gizmo", &["v1"])));
        for number in 0..GIZMOS {
            let name = format!("gizmo-{number:02}");
            let mut gizmo = object("Gizmo", "v1", &name, number);
            gizmo["status"] = json!({"seen": number});
            entries.push((format!("gizmos.{GROUP}#v1/{name}"), gizmo));
        }
    });
    let mark = world.cluster.audit_mark();
    let commit = |at: &str| {
        let annotations = [("accept", "CrdVersionsKept"), ("requested-at", at)];
        world.commit_restore_of(&backup, "definitions", &annotations, "  prune: false\n");
    };
    commit("2026-11-23T09:00:00Z");
    ended(&world.once().await, 0);
    assert_eq!(world.told(&[]).await, ["definitions Succeeded Succeeded"]);

    let crd =
        get(&world, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.example.org").expect("it is");
    let versions = crd["spec"]["versions"].as_array().cloned().unwrap_or_default();
    let versions: Vec<_> = versions.iter().map(|one| (&one["name"], &one["served"], &one["storage"])).collect();
    let (yes, no) = (json!(true), json!(false));
    assert_eq!(versions, [(&json!("v1"), &yes, &yes), (&json!("v2"), &yes, &no)]);
    assert_eq!(crd["status"]["storedVersions"], json!(["v1", "v2"]));
    for version in ["v1", "v2"] {
        let list = get(&world, &format!("/apis/{GROUP}/{version}/widgets")).expect("both versions are served");
        assert_eq!(each(&list, "/metadata/name"), [&json!("one"), &json!("two")]);
        assert_eq!(each(&list, "/spec/size"), [&json!(10), &json!(2)]);
    }

    let gizmos = get(&world, &format!("/apis/{GROUP}/v1/gizmos")).expect("they are served");
    let numbers: Vec<Value> = (0..GIZMOS).map(Value::from).collect();
    assert_eq!(each(&gizmos, "/spec/size"), numbers.iter().collect::<Vec<_>>());
    assert_eq!(each(&gizmos, "/status/seen"), numbers.iter().collect::<Vec<_>>());
    let events = world.cluster.audit_since(mark);
    let ours = events.iter().filter(|event| event.user_agent.starts_with("reinback/") && event.writes());
    let answers: Vec<(&str, u16)> = ours
        .filter(|event| event.object_ref.resource == "gizmos" && event.object_ref.subresource.is_empty())
        .map(|event| (event.verb.as_str(), event.response_status.code))
        .collect();
    assert_eq!(answers, [("create", 201); GIZMOS], "each was written once, when its type was there");

    // Between definition and objects somebody looked whether it is Established: a type is often served before that.
    let crds = |event: &&AuditEvent| {
        event.user_agent.starts_with("reinback/") && event.object_ref.resource == "customresourcedefinitions"
    };
    let made = events.iter().filter(crds).find(|event| event.verb == "create" && event.response_status.code == 201);
    let made = made.expect("the definition was made").stage_timestamp;
    let used = events.iter().find(|event| event.object_ref.resource == "gizmos" && event.verb == "create");
    let used = used.expect("objects were made").request_received_timestamp;
    let mut looks =
        events.iter().filter(crds).filter(|event| !event.writes()).map(|event| event.request_received_timestamp);
    assert!(looks.any(|at| made <= at && at <= used), "made at {made}, used at {used}");

    // What is kept beside the backup's is no difference.
    commit("2026-11-23T10:00:00Z");
    ended(&world.reinback(&["plan"]).await, 0);
}

/// One owner of each kind that objects of the backup name, with those objects.
fn owners(items: &[Item]) -> Vec<(&Item, Vec<&Item>)> {
    let owns = |owner: &Item, item: &Item| {
        let references = item.object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
        let named = |reference: &Value| {
            ["apiVersion", "kind"].iter().all(|field| reference[field] == owner.object[field])
                && reference["name"] == owner.object["metadata"]["name"]
        };
        let reachable = owner.place.namespace.is_none() || owner.place.namespace == item.place.namespace;
        reachable && references.into_iter().any(named)
    };
    let mut found: Vec<(&Item, Vec<&Item>)> = Vec::new();
    for owner in items {
        let dependents: Vec<&Item> = items.iter().filter(|item| owns(owner, item)).collect();
        let is_new = found
            .iter()
            .all(|(other, _)| (&other.place.group, &other.place.plural) != (&owner.place.group, &owner.place.plural));
        if !dependents.is_empty() && is_new {
            found.push((owner, dependents));
        }
    }
    found
}

fn uid(world: &World, url: &str) -> Value {
    get(world, url).expect("it is there")["metadata"]["uid"].clone()
}

/// Returns when the garbage collector has gone through what was there before.
async fn until_garbage_is_collected(world: &World) {
    apply(world, "{apiVersion: v1, kind: ConfigMap, metadata: {name: canary, namespace: default}}");
    let owner = uid(world, "/api/v1/namespaces/default/configmaps/canary");
    let reference = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "canary", "uid": owner}]);
    let metadata = json!({"name": "canary-dependent", "namespace": "default", "ownerReferences": reference});
    apply(world, &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}).to_string());
    world.kubectl(&["delete", "configmap", "-n", "default", "canary"]);
    eventually(Duration::from_secs(60), async || {
        let dependent = get(world, "/api/v1/namespaces/default/configmaps/canary-dependent");
        ensure!(dependent.is_err(), "the canary's dependent is still there");
        Ok(())
    })
    .await;
}

const TOKEN: &str = "/api/v1/namespaces/cattle-system/secrets/rancher-token";
const ACCOUNT: &str = "/api/v1/namespaces/cattle-system/serviceaccounts/rancher";

/// The Secret of a service account's token, with `data` and the account's UID as a backup has them.
fn token_secret(uid: Option<&str>, data: Value) -> Value {
    let mut annotations = json!({"kubernetes.io/service-account.name": "rancher"});
    if let Some(uid) = uid {
        annotations["kubernetes.io/service-account.uid"] = json!(uid);
    }
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token", "data": data,
        "metadata": {"name": "rancher-token", "namespace": "cattle-system", "annotations": annotations},
    })
}

/// The live token, once the controller has written one.
async fn live_token(world: &World) -> String {
    eventually(Duration::from_secs(60), async || {
        let secret = get(world, TOKEN)?;
        let token = secret["data"]["token"].as_str().context("there is no token yet")?;
        Ok(String::from_utf8(BASE64_STANDARD.decode(token)?)?)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_that_come_back_own_their_dependents_again_and_an_account_gets_a_token_that_works() {
    let world = World::start().await;
    world.settle().await;
    apply(&world, &token_secret(None, json!({})).to_string());
    let (first_token, first_account) = (live_token(&world).await, uid(&world, ACCOUNT));

    let owners = owners(&world.items);
    assert!(owners.len() >= 5, "owners of {} kinds", owners.len());
    let before: Vec<Value> = owners.iter().map(|(owner, _)| uid(&world, &owner.place.url())).collect();
    for (Item { place, .. }, _) in &owners {
        let resource = format!("{}.{}", place.plural, place.group);
        let namespace = place.namespace.iter().flat_map(|namespace| ["-n", namespace]);
        let args = ["delete", &resource, &place.name, "--cascade=orphan"].into_iter().chain(namespace);
        world.kubectl(&args.collect::<Vec<_>>());
    }
    world.kubectl(&["delete", "serviceaccount", "-n", "cattle-system", "rancher"]);
    eventually(Duration::from_secs(60), async || {
        ensure!(get(&world, TOKEN).is_err(), "the token outlives its account");
        Ok(())
    })
    .await;

    let backup = world.repack("owners", |entries| {
        let stale = BASE64_STANDARD.encode("stale");
        let data = json!({"token": stale, "ca.crt": stale, "namespace": BASE64_STANDARD.encode("cattle-system")});
        let secret = token_secret(Some("11111111-2222-3333-4444-555555555555"), data);
        entries.push(("secrets.#v1/cattle-system/rancher-token".to_owned(), secret));
    });
    world.commit_restore_of(&backup, "owners", &[], "  prune: true\n");
    ended(&world.once().await, 0);
    assert_eq!(world.told(&[]).await, ["owners Succeeded Succeeded"]);

    // Differences include references that do not lead to the live owner.
    assert_eq!(world.differences().await, Vec::<String>::new());
    let dependents: Vec<&Item> = owners.iter().flat_map(|(_, dependents)| dependents.iter().copied()).collect();
    let uids = || -> Vec<Value> { dependents.iter().map(|item| uid(&world, &item.place.url())).collect() };
    let restored = uids();
    for ((owner, dependents), before) in owners.iter().zip(&before) {
        let now = uid(&world, &owner.place.url());
        assert_ne!(now, *before, "{} was made anew", owner.place);
        for dependent in dependents {
            let live = get(&world, &dependent.place.url()).expect("it is there");
            let references = live["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
            assert!(references.iter().any(|reference| reference["uid"] == now), "{}: {references:?}", dependent.place);
        }
    }
    until_garbage_is_collected(&world).await;
    assert_eq!(uids(), restored, "nothing was collected");
    assert_eq!(world.differences().await, Vec::<String>::new());

    let account = uid(&world, ACCOUNT);
    assert_ne!(account, first_account);
    let token = live_token(&world).await;
    assert!(token != first_token && token != "stale", "the token is a new one");
    let secret = get(&world, TOKEN).expect("it is there");
    assert_eq!(secret["metadata"]["annotations"]["kubernetes.io/service-account.uid"], account);
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let answer = world.cluster.kubectl(&["create", "-f", "-", "-o", "json"], &review.to_string()).expect("an answer");
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    assert_eq!(
        answer["status"]["user"]["username"], "system:serviceaccount:cattle-system:rancher",
        "{}",
        answer["status"]
    );
}

/// Live objects that the backup's selectors match and that no restore may take: of the operator, Helm, Kubernetes and us.
const PROTECTED: &str = "
{apiVersion: resources.cattle.io/v1, kind: Backup, metadata: {name: nightly}, spec: {encryptionConfigSecretName: key}}
---
{apiVersion: v1, kind: Secret, metadata: {name: key, namespace: cattle-resources-system}}
---
{apiVersion: v1, kind: Secret, metadata: {name: sh.helm.release.v1.other.v1, namespace: cattle-system}, type: helm.sh/release.v1}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: c-bootstrap, labels: {kubernetes.io/bootstrapping: rbac-defaults}}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: crb-own}, subjects: [{kind: ServiceAccount, namespace: reinback-system, name: reinback}], roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}}
";

const PROTECTED_URLS: [&str; 6] = [
    "/apis/resources.cattle.io/v1/backups/nightly",
    "/api/v1/namespaces/cattle-resources-system/secrets/key",
    "/api/v1/namespaces/cattle-system/secrets/sh.helm.release.v1.other.v1",
    "/apis/rbac.authorization.k8s.io/v1/clusterroles/c-bootstrap",
    "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/crb-own",
    "/api/v1/namespaces/reinback-system",
];

const EXT_API: &str = "
{apiVersion: apiregistration.k8s.io/v1, kind: APIService, metadata: {name: v1.ext.cattle.io}, spec: {group: ext.cattle.io, version: v1, groupPriorityMinimum: 100, versionPriority: 100, insecureSkipTLSVerify: true, service: {namespace: cattle-system, name: imperative-api-extension}}}
";

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_prune_deletes_is_waited_for_and_nothing_that_is_protected_goes() {
    let world = World::start().await;
    world.settle().await;
    define(&world, "resources.cattle.io", "v1", "backups", "Backup", "Cluster");
    apply(&world, PROTECTED);
    let protected: Vec<Value> = PROTECTED_URLS.iter().map(|url| uid(&world, url)).collect();
    world.kubectl(&["create", "namespace", "p-newer"]);
    world.kubectl(&["create", "secret", "generic", "-n", "p-newer", "one"]);
    apply(
        &world,
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: slow, namespace: p-newer, finalizers: [example.org/slow]}}",
    );

    // Rancher's own API, which nobody serves while Rancher is at 0: discovery fails for it, and namespaces hang.
    apply(&world, EXT_API);

    let accept = [("accept", "PruneDeletesNamespaces")];
    world.commit_restore("newer", &accept, "  prune: true\n");
    let agent = Process::start(&world, &["--once"]);
    until_run(&world, "newer", "verifies", |run| has(run, "started", "Verify")).await;
    eventually(Duration::from_secs(60), async || {
        ensure!(world.replicas("cattle-system", "rancher").await? == (3, 3), "Rancher is not back");
        Ok(())
    })
    .await;
    // Rancher is Ready, and the namespace is what is waited for.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let namespace = get(&world, "/api/v1/namespaces/p-newer").expect("a finalizer keeps it");
    assert_eq!(namespace["status"]["phase"], "Terminating");
    assert_eq!(phase(&run_of(&world, "newer").await.expect("a run")), "Running");
    let done = r#"{"metadata":{"finalizers":null}}"#;
    world.kubectl(&["patch", "configmap", "-n", "p-newer", "slow", "--type=merge", "-p", done]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(get(&world, "/api/v1/namespaces/p-newer").is_ok(), "an API that fails keeps it");
    world.kubectl(&["delete", "apiservice", "v1.ext.cattle.io"]);
    assert_eq!(agent.ended(Duration::from_secs(60)).await.code(), Some(0));

    assert!(get(&world, "/api/v1/namespaces/p-newer").is_err(), "the run ended before the namespace was gone");
    let run = run_of(&world, "newer").await.expect("a run");
    assert_eq!((phase(&run), &run["status"]["warnings"]), ("Succeeded", &Value::Null), "{}", run["status"]);
    let after: Vec<Value> = PROTECTED_URLS.iter().map(|url| uid(&world, url)).collect();
    assert_eq!(after, protected);
    assert_eq!(world.differences().await, Vec::<String>::new());
}
