//! Waiting by watch, and scaling.

use std::time::Duration;

use reinback::cluster::{
    self as api, ListOptions, Preconditions, ReplicasAnnotation, Target, Waited, Watched, crd_is_established,
    rollout_is_ready, selector_text,
};
use reinback::object::Resource;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{admin, body, config_map, config_maps, namespace};
use crate::harness::{Cluster, Options};

on_both! {
    a_workload_is_scaled_down_until_its_pods_are_gone_and_up_until_it_is_ready,
    a_definition_is_waited_for_until_established_and_until_gone,
    a_wait_ends_at_its_deadline_with_what_it_saw,
    everything_can_be_asked_from_tasks_of_their_own,
}

const LONG: Duration = Duration::from_secs(90);

fn met(waited: Waited) -> api::Present {
    match waited {
        Waited::Met(present) => present,
        Waited::Late(present) => panic!("late, with {} objects", present.len()),
    }
}

async fn a_workload_is_scaled_down_until_its_pods_are_gone_and_up_until_it_is_ready(ours: &api::Cluster) {
    namespace(ours, "wait-scale").await;
    let (reader, writer) = (ours.reader(), ours.writer());
    let deployments = Resource::new("apps", "v1", "deployments");
    let pods = Resource::new("", "v1", "pods");
    let target = Target::new(&deployments, Some("wait-scale"), "web");
    let labels = json!({"app": "web"});
    let object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
        "replicas": 2, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "web", "image": "web:1"}]}}}});
    writer.create(&target, body(&object)).await.unwrap();
    let watched =
        Watched { namespace: Some("wait-scale"), field_selector: "metadata.name=web", ..Watched::all(&deployments) };
    let ready = |present: &api::Present| present.values().all(rollout_is_ready) && !present.is_empty();
    let present = met(reader.wait_until(&watched, Instant::now() + LONG, ready).await.unwrap());
    let live = present.values().next().unwrap();

    let version = live["metadata"]["resourceVersion"].as_str().unwrap();
    let remember = ReplicasAnnotation { key: "reinback.io/replicas", value: Some("2") };
    writer.scale(&target, 0, Some(remember), Some(version)).await.unwrap();
    assert!(writer.scale(&target, 0, Some(remember), Some(version)).await.is_err(), "the version is an old one");
    let selector = selector_text(live).unwrap();
    let of_web = Watched { namespace: Some("wait-scale"), label_selector: &selector, ..Watched::all(&pods) };
    met(reader.wait_until(&of_web, Instant::now() + LONG, |present| present.is_empty()).await.unwrap());

    let forget = ReplicasAnnotation { key: "reinback.io/replicas", value: None };
    let scaled = writer.scale(&target, 2, Some(forget), None).await.unwrap().value().unwrap();
    assert_eq!(scaled["metadata"]["annotations"].get("reinback.io/replicas"), None);
    met(reader.wait_until(&watched, Instant::now() + LONG, ready).await.unwrap());
}

fn crd(plural: &str) -> Value {
    let group = "wait.example.org";
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {"group": group, "scope": "Namespaced", "names": {"plural": plural, "kind": "Waiter"}, "versions": [
            {"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
             "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}})
}

async fn a_definition_is_waited_for_until_established_and_until_gone(ours: &api::Cluster) {
    let resource = Resource::new("apiextensions.k8s.io", "v1", "customresourcedefinitions");
    let target = Target::new(&resource, None, "waiters.wait.example.org");
    ours.writer().create(&target, body(&crd("waiters"))).await.unwrap();
    let one = Watched { field_selector: "metadata.name=waiters.wait.example.org", ..Watched::all(&resource) };
    let established = |present: &api::Present| present.values().any(crd_is_established);
    met(ours.reader().wait_until(&one, Instant::now() + LONG, established).await.unwrap());
    // Its objects say what they are.
    let waiters = Resource::new("wait.example.org", "v1", "waiters");
    let object = json!({"apiVersion": "wait.example.org/v1", "kind": "Waiter", "metadata": {"name": "a"}});
    ours.writer().create(&Target::new(&waiters, Some("default"), "a"), body(&object)).await.unwrap();
    let whole = |item: &RawValue| Ok(Some(serde_json::from_str::<Value>(item.get())?));
    let listed = ours.reader().list(&waiters, ListOptions::default(), whole).await;
    assert_eq!(listed.unwrap().items[0]["kind"], "Waiter");
    let catalog = ours.reader().discover().await.unwrap();
    assert!(catalog.find(&waiters).is_none_or(|served| served.has_status && served.namespaced));

    ours.writer().delete(&target, Preconditions::default(), None, None).await.unwrap();
    met(ours.reader().wait_until(&one, Instant::now() + LONG, |present| present.is_empty()).await.unwrap());
}

async fn a_wait_ends_at_its_deadline_with_what_it_saw(ours: &api::Cluster) {
    namespace(ours, "wait-late").await;
    let resource = config_maps();
    let target = Target::new(&resource, Some("wait-late"), "stays");
    ours.writer().create(&target, body(&config_map("wait-late", "stays", "1"))).await.unwrap();
    let watched =
        Watched { namespace: Some("wait-late"), field_selector: "metadata.name=stays", ..Watched::all(&resource) };
    let started = Instant::now();
    let waited =
        ours.reader().wait_until(&watched, started + Duration::from_secs(1), |present| present.is_empty()).await;
    let Waited::Late(present) = waited.unwrap() else { panic!("it is not gone") };
    assert_eq!(present.keys().collect::<Vec<_>>(), [&("wait-late".to_owned(), "stays".to_owned())]);
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_goes_on_over_a_restart_of_the_api_server_and_over_compaction() {
    let api_flags = vec!["--etcd-compaction-interval=1s".to_owned()];
    let cluster = Cluster::start(Options { controllers: false, api_flags, ..Options::default() });
    let ours = admin(&cluster).await;
    let (reader, resource) = (ours.reader(), config_maps());
    let watched = Watched { namespace: Some("default"), ..Watched::all(&resource) };
    let mut largest = 0;
    let waited = reader.wait_until(&watched, Instant::now() + LONG, |present| {
        largest = largest.max(present.len());
        present.contains_key(&("default".to_owned(), "last".to_owned()))
    });
    let disturbed = async {
        for round in 0..2 {
            for n in 0..20 {
                let name = format!("map-{round}-{n}");
                let target = Target::new(&resource, Some("default"), &name);
                ours.writer().create(&target, body(&config_map("default", &name, "1"))).await.unwrap();
            }
            sleep(Duration::from_secs(2)).await;
            tokio::task::block_in_place(|| {
                cluster.kill_api_server();
                cluster.restart_api_server();
            });
        }
        let target = Target::new(&resource, Some("default"), "last");
        ours.writer().create(&target, body(&config_map("default", "last", "1"))).await.unwrap();
    };
    let (waited, ()) = tokio::join!(waited, disturbed);
    assert_eq!(met(waited.unwrap()).len(), 41);
}

async fn everything_can_be_asked_from_tasks_of_their_own(ours: &api::Cluster) {
    namespace(ours, "wait-tasks").await;
    let reader = ours.reader();
    let asked = tokio::spawn(async move {
        let (access, maps) = (api::Access::new("get", "", "pods"), config_maps());
        assert!(reader.allowed(std::slice::from_ref(&access)).await.unwrap()[0].1);
        assert!(reader.discover().await.unwrap().find(&maps).is_some());
        assert!(reader.discover_one_by_one().await.unwrap().find(&maps).is_some());
        let mut names = Vec::new();
        let whole = |item: &RawValue| Ok(Some(item.get().len()));
        reader.list(&maps, ListOptions::default(), whole).await.unwrap();
        let watched = Watched { namespace: Some("wait-tasks"), ..Watched::all(&maps) };
        let until = reader.wait_until(&watched, Instant::now() + LONG, |present| {
            names = present.keys().cloned().collect();
            !names.is_empty()
        });
        met(until.await.unwrap())
    });
    let writer = ours.writer();
    let written = tokio::spawn(async move {
        let maps = config_maps();
        let target = Target::new(&maps, Some("wait-tasks"), "a");
        writer.create(&target, body(&config_map("wait-tasks", "a", "1"))).await.map(drop)
    });
    written.await.unwrap().unwrap();
    assert!(!asked.await.unwrap().is_empty());
    let name = api::LeaseName { namespace: "wait-tasks".to_owned(), ..api::LeaseName::default() };
    let ours = ours.clone();
    let held = tokio::spawn(async move { api::acquire(&ours, name, api::LeaseTimes::default(), LONG).await });
    let api::Acquired::Held(guard) = held.await.unwrap().unwrap() else { panic!("nobody else wants it") };
    tokio::spawn(guard.release()).await.unwrap().unwrap();
}
