//! Connecting, discovery, lists and access reviews.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::ensure;
use futures::stream::{self, StreamExt as _};
use reinback::cluster::{self as api, Access, ClusterError, ListOptions, Target};
use reinback::object::Resource;
use serde_json::{Value, json, value::RawValue};

use super::{admin, body, config_map, config_maps, connect, limits, name_of, namespace, server};
use crate::harness::{Cluster, Options, eventually};

on_both! {
    a_list_of_many_pages_is_whole_in_order_and_selected,
    a_resource_that_is_not_served_is_an_error_of_its_own_and_its_objects_are_absent,
}

const SOON: Duration = Duration::from_secs(20);

fn whole(item: &RawValue) -> Result<Option<Value>, api::JsonFault> {
    Ok(serde_json::from_str(item.get())?)
}

#[tokio::test]
async fn a_cluster_says_where_it_is_and_who_it_is() {
    let cluster = Cluster::shared();
    let ours = admin(cluster).await;
    assert_eq!(ours.api_url(), server(cluster));
    assert_eq!(ours.reader().cluster_uid().await.unwrap().as_deref(), Some(cluster.uid()));
}

#[tokio::test]
async fn a_context_that_does_not_exist_is_an_error_and_never_another_cluster() {
    let error = api::connect(Some("no-such-context"), limits()).await.err().expect("there is no such context");
    assert!(matches!(error, ClusterError::Config { .. }), "{error:?}");
}

#[tokio::test]
async fn requests_carry_our_name_and_version() {
    let cluster = Cluster::shared();
    let user = cluster.user("agent-name");
    let ours = connect(&user.kubeconfig, limits()).await;
    let mark = cluster.audit_mark();
    let error = ours.reader().list(&config_maps(), ListOptions::default(), whole).await.unwrap_err();
    insta::assert_snapshot!(error, @"cannot list configmaps.#v1: the right to list configmaps is missing; docs/rbac.yaml has every one that reinback takes (Forbidden, code 403)");
    let agent = eventually(SOON, || async {
        let events = cluster.audit_since(mark);
        let event = events.into_iter().find(|event| event.user.username == user.name);
        event.map(|event| event.user_agent).ok_or_else(|| anyhow::anyhow!("not yet"))
    });
    assert_eq!(agent.await, format!("reinback/{}", env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn a_server_that_is_not_there_or_not_trusted_is_told_in_time() {
    let limits = api::Limits { retry_for: Duration::from_secs(1), ..limits() };
    let nobody = kube::Config::new("https://127.0.0.1:1".parse().unwrap());
    let stranger = kube::Config::new(server(Cluster::shared()).parse().unwrap());
    for config in [nobody, stranger] {
        let ours = api::Cluster::with_config(config, limits).await.unwrap();
        let started = Instant::now();
        let error = ours.reader().discover().await.unwrap_err();
        assert!(matches!(error, ClusterError::Unreachable { source: api::Lost::NotSent { .. }, .. }), "{error:?}");
        assert!(started.elapsed() < SOON);
        let target = config_maps();
        let error = ours.writer().create(&Target::new(&target, Some("a"), "b"), body(&json!({}))).await.unwrap_err();
        assert!(matches!(error, api::WriteError::Unreachable { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn discovery_is_two_requests_and_finds_what_the_older_way_finds() {
    let cluster = Cluster::shared();
    let user = cluster.user("discoverer");
    let reader = connect(&user.kubeconfig, limits()).await.reader();
    let mark = cluster.audit_mark();
    let catalog = reader.discover().await.unwrap();
    let paths = eventually(SOON, || async {
        let events = cluster.audit_since(mark).into_iter().filter(|event| event.user.username == user.name);
        let paths: Vec<String> = events.map(|event| event.request_uri).collect();
        ensure!(paths.len() >= 2, "{paths:?}");
        Ok(paths)
    });
    assert_eq!(paths.await, ["/api", "/apis"]);

    let older = reader.discover_one_by_one().await.unwrap();
    let stable = |catalog: &api::Catalog| -> BTreeSet<String> {
        // Other tests make resources of their own meanwhile.
        let built_in = |group: &str| group.is_empty() || !group.contains("example") && !group.contains("cattle.io");
        let served = catalog.resources.iter().filter(|served| built_in(&served.resource.group));
        served
            .map(|api::ApiResource { resource, kind, namespaced, verbs, has_status, served_preferred }| {
                let verbs: BTreeSet<_> = verbs.iter().collect();
                format!("{resource} {kind} {namespaced} {verbs:?} {has_status} {served_preferred}")
            })
            .collect()
    };
    assert_eq!(stable(&catalog), stable(&older));

    let secrets = catalog.find(&Resource::new("", "v1", "secrets")).unwrap();
    assert_eq!((secrets.kind.as_str(), secrets.namespaced, secrets.has_status), ("Secret", true, false));
    let deployments = catalog.find_kind("apps", "Deployment").unwrap();
    assert!(deployments.has_status && deployments.served_preferred && deployments.can("list"));
    assert!(catalog.resources.iter().all(|served| !served.resource.plural.contains('/')));
    assert_eq!(catalog.find_kind("apps", "Deployment").unwrap().resource.version, "v1");
}

#[tokio::test]
async fn an_api_service_without_its_server_is_failing_and_the_rest_is_found() {
    let cluster = Cluster::start(Options { controllers: false, ..Options::default() });
    let ours = admin(&cluster).await;
    let services = Resource::new("apiregistration.k8s.io", "v1", "apiservices");
    let object = json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": "v1.ext.cattle.io"},
        "spec": {"group": "ext.cattle.io", "version": "v1", "groupPriorityMinimum": 1000, "versionPriority": 15,
                 "insecureSkipTLSVerify": true, "service": {"namespace": "cattle-system", "name": "gone"}},
    });
    let target = Target::new(&services, None, "v1.ext.cattle.io");
    ours.writer().create(&target, body(&object)).await.unwrap();
    let reader = ours.reader();
    let catalog = eventually(SOON, || async {
        let catalog = reader.discover().await?;
        ensure!(!catalog.failing.is_empty(), "not seen as failing yet");
        Ok(catalog)
    })
    .await;
    let failing = |catalog: &api::Catalog| catalog.failing.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(failing(&catalog), ["ext.cattle.io/v1"]);
    assert!(catalog.find_any_version("", "secrets").is_some());
    let older = reader.discover_one_by_one().await.unwrap();
    assert_eq!(failing(&older), ["ext.cattle.io/v1"]);
    assert_eq!(older.resources.len(), catalog.resources.len());
}

async fn a_list_of_many_pages_is_whole_in_order_and_selected(ours: &api::Cluster) {
    namespace(ours, "list-pages").await;
    fill(ours, "list-pages", 2_600, "x").await;
    let (reader, resource) = (ours.reader(), config_maps());
    let options = ListOptions {
        namespace: Some("list-pages"),
        field_selector: "metadata.name!=kube-root-ca.crt",
        ..Default::default()
    };
    let listed = reader.list(&resource, options, whole).await.unwrap();
    let names: Vec<_> = listed.items.iter().map(name_of).collect();
    assert_eq!(names, (0..2_600).map(|n| format!("map-{n:05}")).collect::<Vec<_>>());
    // 250, then as many as weigh 2 MiB, at most 1,000.
    assert_eq!(listed.pages, 4);
    // Items of a built-in list do not say what they are.
    assert_eq!((&listed.items[0]["kind"], &listed.items[0]["apiVersion"]), (&Value::Null, &Value::Null));
    assert!(!listed.resource_version.is_empty());

    let options = ListOptions { label_selector: "parity=odd", metadata_only: true, ..options };
    let odd = reader.list(&resource, options, whole).await.unwrap().items;
    assert_eq!(odd.len(), 1_300);
    assert_eq!(odd[0].get("data"), None);
    let every_tenth =
        |item: &RawValue| Ok(whole(item)?.filter(|map| name_of(map).ends_with('0')).map(|map| name_of(&map)));
    assert_eq!(
        reader.list(&resource, ListOptions { label_selector: "", ..options }, every_tenth).await.unwrap().items.len(),
        260
    );
}

async fn fill(ours: &api::Cluster, namespace: &str, count: usize, value: &str) {
    let (writer, resource) = (ours.writer(), config_maps());
    let made = stream::iter(0..count).map(|n| {
        let name = format!("map-{n:05}");
        let mut map = config_map(namespace, &name, value);
        map["metadata"]["labels"] = json!({"parity": if n % 2 == 0 { "even" } else { "odd" }});
        let (writer, resource) = (&writer, &resource);
        async move { writer.create(&Target::new(resource, Some(namespace), &name), body(&map)).await.map(drop) }
    });
    let made: Vec<_> = made.buffer_unordered(16).collect().await;
    made.into_iter().collect::<Result<Vec<()>, _>>().unwrap();
}

#[tokio::test]
async fn large_objects_are_listed_in_small_pages_and_a_page_that_is_too_large_is_halved() {
    let cluster = Cluster::start(Options { controllers: false, audit: false, ..Options::default() });
    let ours = admin(&cluster).await;
    // 140 x 500 KiB: the first page would weigh 70 MiB, over the limit of 64.
    fill(&ours, "default", 140, &"x".repeat(500 << 10)).await;
    let options = ListOptions { namespace: Some("default"), ..Default::default() };
    let listed =
        ours.reader().list(&config_maps(), options, |item| Ok(whole(item)?.as_ref().map(name_of))).await.unwrap();
    assert_eq!(listed.items.len(), 140);
    // 125 after halving, then 10 at a time.
    assert_eq!(listed.pages, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_whose_token_expires_begins_again_and_drops_what_it_had() {
    // A watch cache would answer from what it remembers.
    let api_flags = ["--etcd-compaction-interval=1s", "--watch-cache=false"].map(str::to_owned).to_vec();
    let cluster = Cluster::start(Options { controllers: false, api_flags, ..Options::default() });
    let ours = admin(&cluster).await;
    fill(&ours, "default", 400, "x").await;
    let mark = cluster.audit_mark();
    let (reader, writer, resource) = (ours.reader(), ours.writer(), config_maps());
    let mut seen = 0;
    let options = ListOptions { namespace: Some("default"), ..Default::default() };
    let listed = reader.list(&resource, options, |item| {
        seen += 1;
        if seen == 250 {
            // Time enough for the state of the first page to be compacted away twice over.
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(churn(&writer, &resource)));
        }
        whole(item)
    });
    let names: BTreeSet<_> = listed.await.unwrap().items.iter().map(name_of).collect();
    assert_eq!(names.iter().filter(|name| name.starts_with("map-")).count(), 400);
    assert!(names.contains("churn-0"), "the list is of the newest state");
    let expired = || cluster.audit_since(mark).into_iter().any(|event| event.response_status.code == 410);
    eventually(SOON, || async {
        ensure!(expired(), "no request was answered 410");
        Ok(())
    })
    .await;
    assert!(seen >= 650, "{seen} items seen");
}

async fn churn(writer: &api::ClusterWriter, resource: &Resource) {
    for n in 0..8 {
        let name = format!("churn-{n}");
        let made = config_map("default", &name, "x");
        writer.create(&Target::new(resource, Some("default"), &name), body(&made)).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn a_resource_that_is_not_served_is_an_error_of_its_own_and_its_objects_are_absent(ours: &api::Cluster) {
    let reader = ours.reader();
    let resource = Resource::new("nowhere.io", "v1", "things");
    let error = reader.list(&resource, ListOptions::default(), whole).await.unwrap_err();
    insta::allow_duplicates! { insta::assert_snapshot!(error, @"cannot list things.nowhere.io#v1: the resource is not served by this cluster"); }
    assert!(reader.get(&Target::new(&resource, None, "x")).await.unwrap().is_none());
    let error = reader.get(&Target::new(&config_maps(), Some("default"), "../../secrets/x")).await.unwrap_err();
    assert!(matches!(error, ClusterError::BadName { .. }));
}

#[tokio::test]
async fn rights_are_answered_one_by_one_or_all_at_once() {
    let cluster = Cluster::shared();
    let user = cluster.user("asker");
    cluster.kubectl(&["create", "clusterrolebinding", "asker", "--clusterrole=view", "--user=asker"], "").unwrap();
    let asked = [
        Access::new("list", "", "configmaps"),
        Access::new("list", "", "secrets"),
        Access { subresource: "status".into(), ..Access::new("update", "apps", "deployments") },
        Access { namespace: "default".into(), name: "x".into(), ..Access::new("get", "", "configmaps") },
        Access::new("escalate", "rbac.authorization.k8s.io", "clusterroles"),
    ];
    let reader = connect(&user.kubeconfig, limits()).await.reader();
    let answers = eventually(SOON, || async {
        let answers = reader.allowed(&asked).await?;
        ensure!(answers[0].1, "the binding is not seen yet");
        Ok(answers)
    });
    let answers = answers.await;
    assert_eq!(answers.iter().map(|(_, allowed)| *allowed).collect::<Vec<_>>(), [true, false, false, true, false]);
    assert!(answers.iter().map(|(access, _)| access).eq(&asked));

    let all = admin(cluster).await.reader().allowed(&asked).await.unwrap();
    assert!(all.iter().all(|(_, allowed)| *allowed));
}

#[tokio::test]
async fn a_pace_is_kept() {
    let limits = api::Limits { qps: 20, ..limits() };
    let reader = connect(Cluster::shared().kubeconfig(), limits).await.reader();
    let started = Instant::now();
    for _ in 0..21 {
        reader.cluster_uid().await.unwrap();
    }
    assert!(started.elapsed() >= Duration::from_secs(1), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_go_on_over_a_restart_of_the_api_server() {
    let cluster = Cluster::start(Options { controllers: false, ..Options::default() });
    let reader = admin(&cluster).await.reader();
    reader.cluster_uid().await.unwrap();
    cluster.kill_api_server();
    let (uid, ()) =
        tokio::join!(reader.cluster_uid(), async { tokio::task::block_in_place(|| cluster.restart_api_server()) });
    assert_eq!(uid.unwrap().as_deref(), Some(cluster.uid()));
}
