use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::*;
use crate::cluster::{Access, Event, Events, ListOptions, Regarding, Target, Watched};
use crate::object::Resource;

fn sim(seed: u64) -> Sim {
    Sim::new(SimOptions { seed, ..SimOptions::default() })
}

fn deployment(replicas: u32) -> Value {
    let labels = json!({"app": "web"});
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"namespace": "default", "name": "web"}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "web", "image": "web:1"}]}}}})
}

/// All pods with all that is in them, once the Deployment is up.
async fn pods(sim: &Sim) -> Vec<String> {
    let reader = sim.cluster(Limits::default()).reader();
    let deployments = Resource::new("apps", "v1", "deployments");
    let ready = |present: &crate::cluster::Present| present.values().any(crate::cluster::rollout_is_ready);
    let deadline = Instant::now() + Duration::from_secs(60);
    reader.wait_until(&Watched::all(&deployments), deadline, ready).await.unwrap();
    let pods = Resource::new("", "v1", "pods");
    reader.list(&pods, ListOptions::default(), |pod| Ok(Some(pod.get().to_owned()))).await.unwrap().items
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_run_and_another_one_another() {
    let mut runs = Vec::new();
    for seed in [1, 1, 2] {
        let sim = sim(seed);
        sim.seed([deployment(3)]).unwrap();
        runs.push(pods(&sim).await);
    }
    assert_eq!(runs[0].len(), 3);
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0], runs[2]);
}

#[tokio::test(start_paused = true)]
async fn time_passes_as_the_runtime_says_and_a_watch_wakes_for_what_is_due() {
    let sim = sim(0);
    let started = Instant::now();
    sim.seed([deployment(1)]).unwrap();
    let pods = pods(&sim).await;
    assert!(started.elapsed() > Duration::from_secs(1), "a pod takes its time: {:?}", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(10), "and no more: {:?}", started.elapsed());
    assert!(pods[0].contains("2026-01-01T00:00:0"), "{}", pods[0]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_with_the_cluster() {
    let sim = sim(0);
    let mut service = sim.service();
    let request =
        ::http::Request::get("/api/v1/configmaps?watch=1&resourceVersion=1").body(kube::client::Body::empty());
    let response = tower::Service::call(&mut service, request.unwrap()).await.unwrap();
    let read = tokio::spawn(http_body_util::BodyExt::collect(response.into_body()));
    sleep(Duration::from_secs(1)).await;
    assert!(!read.is_finished());
    drop((sim, service));
    read.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn objects_that_are_put_in_keep_statuses_and_owners_and_are_served() {
    let sim = sim(0);
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.example.org"},
        "spec": {"group": "example.org", "scope": "Namespaced", "names": {"plural": "things", "kind": "Thing"}, "versions": [
            {"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
             "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}});
    let thing = |name: &str, uid: &str| {
        json!({"apiVersion": "example.org/v1", "kind": "Thing", "status": {"phase": "Done"},
            "metadata": {"namespace": "made", "name": name, "uid": uid}})
    };
    let owner = thing("owner", "old");
    let mut owned = thing("owned", "other");
    owned["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "example.org/v1", "kind": "Thing", "name": "owner", "uid": "old"}]);
    assert_eq!(sim.seed([owned, owner, definition]).unwrap(), 3);
    let reader = sim.cluster(Limits::default()).reader();
    sleep(Duration::from_secs(60)).await;
    let things = Resource::new("example.org", "v1", "things");
    assert!(reader.discover().await.unwrap().find(&things).is_some());
    let get = async |name| {
        let answer = reader.get(&Target::new(&things, Some("made"), name)).await.unwrap();
        answer.expect("it was not collected").value().unwrap()
    };
    let (owner, owned) = (get("owner").await, get("owned").await);
    assert_eq!(owned["status"]["phase"], "Done");
    assert_ne!(owner["metadata"]["uid"], "old");
    assert_eq!(owned["metadata"]["ownerReferences"][0]["uid"], owner["metadata"]["uid"]);

    let unknown = json!({"apiVersion": "nowhere/v1", "kind": "Other", "metadata": {"name": "x"}});
    let error = sim.seed([unknown]).unwrap_err();
    insta::assert_snapshot!(error, @"cannot put x into the simulated cluster: kind Other of nowhere/v1 is not served");
}

#[tokio::test(start_paused = true)]
async fn a_right_that_is_taken_away_is_denied_and_refused() {
    let sim = sim(0);
    let reader = sim.cluster(Limits::default()).reader();
    let asked = [Access::new("list", "", "secrets"), Access::new("list", "", "configmaps")];
    let allowed =
        async || reader.allowed(&asked).await.unwrap().iter().map(|(_, allowed)| *allowed).collect::<Vec<_>>();
    assert_eq!(allowed().await, [true, true]);
    sim.deny(Access::new("list", "", "secrets"));
    assert_eq!(allowed().await, [false, true]);
    let secrets = Resource::new("", "v1", "secrets");
    let error = reader.list(&secrets, ListOptions::default(), |_| Ok(Some(()))).await.unwrap_err();
    insta::assert_snapshot!(error, @"cannot list secrets.#v1: the right to list secrets is missing; docs/rbac.yaml has every one that reinback takes (Forbidden, code 403)");
}

#[tokio::test(start_paused = true)]
async fn events_that_are_told_are_there_once() {
    let sim = sim(0);
    let cluster = sim.cluster(Limits::default());
    let events = Events::start(&cluster.writer());
    let text = str::to_owned;
    let event = Event {
        regarding: Regarding {
            api_version: text("v1"),
            kind: text("ConfigMap"),
            namespace: text("default"),
            name: text("a"),
            uid: text("u"),
        },
        reason: text("Tested"),
        action: "Test",
        note: text("a note"),
        is_warning: false,
        at: sim.clock().now(),
    };
    events.tell(event.clone());
    events.tell(event);
    events.settle(Duration::from_secs(30)).await;
    let resource = Resource::new("", "v1", "events");
    let whole = |event: &RawValue| Ok(Some(serde_json::from_str::<Value>(event.get())?));
    let listed = cluster.reader().list(&resource, ListOptions::default(), whole).await.unwrap().items;
    let told: Vec<_> = listed.iter().map(|event| (&event["message"], &event["involvedObject"]["name"])).collect();
    assert_eq!(told, [(&json!("a note"), &json!("a"))]);
}

#[tokio::test(start_paused = true)]
async fn history_is_forgotten_after_a_while() {
    let sim = sim(0);
    let reader = sim.cluster(Limits::default()).reader();
    let maps = Resource::new("", "v1", "configmaps");
    let first = reader.list(&maps, ListOptions::default(), |_| Ok(Some(()))).await.unwrap().resource_version;
    sleep(Duration::from_secs(11 * 60)).await;
    let path = format!("/api/v1/configmaps?watch=1&timeoutSeconds=1&resourceVersion={first}");
    let request = ::http::Request::get(path).body(Vec::new()).unwrap();
    let told = sim.client().request_text(request).await.unwrap();
    assert!(told.starts_with(r#"{"type":"ERROR""#) && told.contains("too old resource version"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn nothing_that_is_sent_makes_it_panic() {
    let sim = sim(0);
    let client = sim.client();
    let bodies = [
        "",
        "null",
        "[]",
        "7",
        "{",
        r#"{"metadata": 7}"#,
        r#"{"metadata": {"name": 7}}"#,
        r#"{"spec": "x", "status": []}"#,
        r#"{"metadata": {"name": "a", "labels": 7, "annotations": [], "finalizers": {}, "ownerReferences": "x"}, "spec": 1}"#,
        r#"{"metadata": {"name": "a", "resourceVersion": {}, "uid": []}, "data": [], "stringData": 7, "webhooks": [7]}"#,
        r#"{"metadata": {"name": "a"}, "spec": {"template": 7, "selector": [], "containers": {}, "versions": 1, "names": 2}}"#,
        r#"{"metadata": {"name": "a"}, "roleRef": 7, "subjects": [1], "rules": {}, "spec": {"template": {"spec": []}}}"#,
    ];
    for (path, api_version, kind) in &built_in() {
        for body in bodies {
            let stated = body.replacen('{', &format!(r#"{{"apiVersion": "{api_version}", "kind": "{kind}", "#), 1);
            for (method, path) in [("POST", path.clone()), ("PUT", format!("{path}/a")), ("PATCH", format!("{path}/a"))]
            {
                for body in [body, stated.as_str()] {
                    let request = ::http::Request::builder().method(method).uri(&path);
                    let request = request.header(
                        "content-type",
                        if method == "PATCH" { "application/merge-patch+json" } else { "application/json" },
                    );
                    let _refused = client.request_text(request.body(body.as_bytes().to_vec()).unwrap()).await;
                }
            }
        }
        // Controllers look at what came in.
        sleep(Duration::from_secs(20)).await;
        let request = ::http::Request::delete(format!("{path}/a")).body(b"{\"preconditions\": 7}".to_vec()).unwrap();
        let _gone = client.request_text(request).await;
        sleep(Duration::from_secs(20)).await;
    }
    assert!(client.request_text(::http::Request::get("/readyz").body(Vec::new()).unwrap()).await.is_ok());
}

/// Path of the collection, version and kind of everything that is built in.
fn built_in() -> Vec<(String, String, String)> {
    let kinds = super::kinds::Kinds::built_in();
    let described = kinds.all().map(|kind| {
        let api_version = kind.api_version("v1");
        let root = if kind.group.is_empty() { "/api" } else { "/apis" };
        let namespace = if kind.namespaced { "/namespaces/default" } else { "" };
        (format!("{root}/{api_version}{namespace}/{}", kind.plural), api_version, kind.kind.clone())
    });
    described.collect()
}
