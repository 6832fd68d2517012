//! The test control plane keeps its word: what the other suites stand on.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use aws_sdk_s3::config::Credentials;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret};
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use serde_json::json;

use crate::harness::{AuditEvent, Cluster, Options, REINBACK, S3Server, eventually, fixture, rancher, skip, temp_dir};

const PLAIN: &str = "plain-6e9ee6a6-d4f2-46c2-bd99-75269cf041dc-2026-11-23T05-58-54Z.tar.gz";
const LARGE: &str = "large-56488071-5e68-44dd-b5a1-2f0f8091f490-2026-11-23T05-59-47Z.tar.gz";
const POD_TIMEOUT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_deployment_gets_ready_pods_and_loses_them_at_zero() {
    let (cluster, client) = (Cluster::shared(), Cluster::shared().client().await);
    cluster.kubectl(&["create", "deployment", "web", "--image=web:1", "--replicas=3"], "").unwrap();
    let deployments = Api::<Deployment>::namespaced(client.clone(), "default");
    eventually(POD_TIMEOUT, || async {
        let status = deployments.get("web").await?.status.context("no status yet")?;
        ensure!(status.ready_replicas == Some(3), "{status:?}");
        Ok(())
    })
    .await;

    cluster.kubectl(&["scale", "deployment", "web", "--replicas=0"], "").unwrap();

    let pods = Api::<Pod>::namespaced(client, "default");
    eventually(POD_TIMEOUT, || async {
        let left = pods.list(&ListParams::default().labels("app=web")).await?.items.len();
        ensure!(left == 0, "{left} pods are left");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_deleted_namespace_goes_with_what_it_holds() {
    let (cluster, client) = (Cluster::shared(), Cluster::shared().client().await);
    cluster.kubectl(&["create", "namespace", "doomed"], "").unwrap();
    cluster.kubectl(&["create", "configmap", "inside", "--namespace=doomed"], "").unwrap();
    let namespaces = Api::<Namespace>::all(client);

    namespaces.delete("doomed", &DeleteParams::default()).await.unwrap();

    eventually(POD_TIMEOUT, || async {
        ensure!(namespaces.get_opt("doomed").await?.is_none(), "the namespace is still there");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn deleting_an_owner_collects_its_dependent() {
    let maps = Api::<ConfigMap>::namespaced(Cluster::shared().client().await, "default");
    let config_map = |value| serde_json::from_value::<ConfigMap>(value).unwrap();
    let owner = config_map(json!({"metadata": {"name": "owner"}}));
    let uid = maps.create(&PostParams::default(), &owner).await.unwrap().metadata.uid;
    let reference = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid});
    let dependent = config_map(json!({"metadata": {"name": "dependent", "ownerReferences": [reference]}}));
    maps.create(&PostParams::default(), &dependent).await.unwrap();

    maps.delete("owner", &DeleteParams::background()).await.unwrap();

    eventually(POD_TIMEOUT, || async {
        ensure!(maps.get_opt("dependent").await?.is_none(), "the dependent is still there");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn the_audit_log_shows_who_asked_for_what() {
    let cluster = Cluster::shared();
    let mark = cluster.audit_mark();
    let user = cluster.user("auditee");
    let secrets = Api::<Secret>::namespaced(user.client().await, "default");
    let refused = secrets.create(&PostParams::default(), &Secret::default()).await.unwrap_err();
    assert!(matches!(refused, kube::Error::Api(status) if status.code == 403));

    let event = eventually(POD_TIMEOUT, || async {
        let events = cluster.audit_since(mark);
        events.into_iter().find(|event| event.user.username == user.name).context("no request of the user")
    })
    .await;

    assert!(event.writes());
    assert_eq!((event.verb.as_str(), event.object_ref.resource.as_str()), ("create", "secrets"));
    assert_eq!((event.object_ref.namespace.as_str(), event.object_ref.name.as_str()), ("default", ""));
    assert_eq!(event.response_status.code, 403);
    assert!(event.request_uri.starts_with("/api/v1/namespaces/default/secrets"), "{}", event.request_uri);
    assert!(event.request_received_timestamp <= event.stage_timestamp);
}

#[tokio::test]
async fn other_programs_come_in_by_the_kubeconfig() {
    let cluster = Cluster::shared();
    let kubeconfig = cluster.kubeconfig().to_str().unwrap();
    let whoami = ["--kubeconfig", kubeconfig, "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"];
    assert_eq!(cluster.kubectl(&whoami, "").unwrap(), "admin");
    assert!(Path::new(REINBACK).is_file());

    let is_ours = |event: &AuditEvent| {
        event.user_agent.starts_with("kubectl/") && event.object_ref.resource == "selfsubjectreviews"
    };
    eventually(POD_TIMEOUT, || async { cluster.audit().into_iter().find(is_ours).context("no request of kubectl") })
        .await;
}

#[tokio::test]
async fn a_user_has_no_rights_until_some_are_bound() {
    let cluster = Cluster::shared();
    let user = cluster.user("reader");
    let maps = Api::<ConfigMap>::namespaced(user.client().await, "kube-system");
    let refused = maps.list(&ListParams::default()).await.unwrap_err();
    assert!(matches!(refused, kube::Error::Api(status) if status.code == 403));

    let role = ["create", "clusterrolebinding", "reader", "--clusterrole=view", "--user=reader"];
    cluster.kubectl(&role, "").unwrap();

    eventually(POD_TIMEOUT, || async { Ok(maps.list(&ListParams::default()).await?) }).await;
}

#[tokio::test]
async fn an_api_server_that_was_killed_starts_again_on_its_port_and_data() {
    let cluster = Cluster::start(Options { controllers: false, audit: false, ..Options::default() });
    let maps = Api::<ConfigMap>::namespaced(cluster.client().await, "default");
    let map = serde_json::from_value(json!({"metadata": {"name": "kept"}})).unwrap();
    maps.create(&PostParams::default(), &map).await.unwrap();

    cluster.kill_api_server();
    assert!(maps.get("kept").await.is_err());
    cluster.restart_api_server();

    maps.get("kept").await.unwrap();
    cluster.pause_api_server();
    assert!(tokio::time::timeout(Duration::from_secs(1), maps.get("kept")).await.is_err());
    cluster.resume_api_server();
    maps.get("kept").await.unwrap();
}

#[test]
fn nothing_survives_sigkill_of_the_test_process() {
    if let Some(file) = std::env::var_os("REINBACK_TEST_VICTIM") {
        return start_a_cluster_and_wait_to_be_killed(file.as_ref());
    }
    let folder = temp_dir();
    let file = folder.path().join("cluster");
    let mut victim = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "control_plane::nothing_survives_sigkill_of_the_test_process"])
        .env("REINBACK_TEST_VICTIM", &file)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while !file.exists() {
        assert!(
            victim.try_wait().unwrap().is_none() && start.elapsed() < Duration::from_secs(180),
            "no cluster came up"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    let cluster = std::fs::read_to_string(file).unwrap();
    let names = BTreeSet::from_iter(processes_of(&cluster));
    assert_eq!(names, BTreeSet::from(["bash", "etcd", "kube-apiserver"].map(String::from)));

    victim.kill().unwrap();
    victim.wait().unwrap();

    let start = Instant::now();
    while !processes_of(&cluster).is_empty() || Path::new(&cluster).exists() {
        assert!(start.elapsed() < Duration::from_secs(15), "still there: {:?}", processes_of(&cluster));
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What the same test does in the process that it kills: the name of the file is told by the environment.
fn start_a_cluster_and_wait_to_be_killed(file: &Path) {
    let cluster = Cluster::start(Options { controllers: false, ..Options::default() });
    let partial = file.with_extension("new");
    std::fs::write(&partial, cluster.folder().to_str().unwrap()).unwrap();
    std::fs::rename(partial, file).unwrap();
    std::thread::sleep(Duration::from_secs(300));
}

/// The names of the processes with `text` in their command line.
fn processes_of(text: &str) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|process| {
            let command = std::fs::read(process.path().join("cmdline")).ok()?;
            let command = String::from_utf8_lossy(&command).into_owned();
            let program = command.split('\0').next()?.rsplit('/').next()?.to_owned();
            command.contains(text).then_some(program)
        })
        .collect()
}

#[tokio::test]
async fn a_seeded_cluster_holds_the_backup_and_a_disturbed_one_does_not() {
    let cluster = Cluster::start(Options::default());
    let client = cluster.client().await;
    let backup = fixture(PLAIN);
    let items = rancher::read(&backup).unwrap();

    let start = Instant::now();
    assert_eq!(rancher::seed(&client, &backup).await.unwrap(), items.len());
    eprintln!("{} objects seeded in {:?}", items.len(), start.elapsed());

    assert_eq!(rancher::differences(&client, &items).await.unwrap(), Vec::<String>::new());
    let deployments = Api::<Deployment>::namespaced(client.clone(), "cattle-system");
    let status = deployments.get("rancher").await.unwrap().status.unwrap();
    assert_eq!((status.replicas, status.ready_replicas), (Some(3), Some(3)));

    let disturbance = rancher::Disturbance { changed_percent: 29, deleted_percent: 9, added: 20, seed: 7 };
    let disturbed: rancher::Disturbed = rancher::disturb(&client, &items, disturbance).await.unwrap();
    let differences = rancher::differences(&client, &items).await.unwrap();
    for place in disturbed.changed.iter().chain(&disturbed.deleted) {
        assert!(differences.iter().any(|line| line.starts_with(&format!("{place}:"))), "{place} does not differ");
    }
    for place in &disturbed.added {
        assert!(rancher::get(&client, place).await.unwrap().is_some(), "{place} is not there");
    }
    let places = BTreeSet::from_iter(differences.iter().filter_map(|line| line.split(": ").next()));
    assert_eq!(places.len(), disturbed.changed.len() + disturbed.deleted.len());

    rancher::seed_objects(&client, &items).await.unwrap();
    assert_eq!(rancher::differences(&client, &items).await.unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_a_test_has_used_is_set_back_to_what_its_image_holds() {
    let items = rancher::read(&fixture(PLAIN)).unwrap();
    let image = {
        let first = Cluster::start(Options::default());
        rancher::seed(&first.client().await, &fixture(PLAIN)).await.unwrap();
        first.image().unwrap()
    };
    let mut cluster = Cluster::start_from(&image, Options::default());
    let client = cluster.client().await;
    let kubectl = |cluster: &Cluster, args: &[&str]| cluster.kubectl(args, "");
    let uids =
        ["get", "namespaces,crds,deployments,pods,clusterroles", "-A", "-o", "jsonpath={.items[*].metadata.uid}"];
    let before = kubectl(&cluster, &uids).unwrap();
    assert_eq!(rancher::differences(&client, &items).await.unwrap(), Vec::<String>::new());

    let disturbance = rancher::Disturbance { changed_percent: 29, deleted_percent: 9, added: 20, seed: 7 };
    rancher::disturb(&client, &items, disturbance).await.unwrap();
    assert!(!rancher::differences(&client, &items).await.unwrap().is_empty());
    // Served no more, and not yet; and what the garbage collector and the namespace controller do by themselves.
    let custom = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "widgets.test.io"},
        "spec": {
            "group": "test.io", "scope": "Cluster", "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}],
        },
    });
    cluster.kubectl(&["apply", "-f", "-"], &custom.to_string()).unwrap();
    kubectl(&cluster, &["wait", "--for=condition=Established", "crd/widgets.test.io"]).unwrap();
    kubectl(&cluster, &["delete", "crd", "settings.management.cattle.io"]).unwrap();
    kubectl(&cluster, &["create", "namespace", "left"]).unwrap();
    kubectl(&cluster, &["delete", "namespace", "cattle-fleet-system", "--wait=false"]).unwrap();
    kubectl(&cluster, &["delete", "deployment", "-n", "cattle-system", "rancher"]).unwrap();
    kubectl(&cluster, &["label", "node", "--all", "used=yes"]).unwrap();

    cluster.rest().unwrap();
    cluster.set_back(&image).unwrap();

    assert_eq!(cluster.audit().iter().filter(|event| event.user_agent.starts_with("kubectl")).count(), 0);
    // The collector has had its time to take what it thinks nobody owns.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(rancher::differences(&client, &items).await.unwrap(), Vec::<String>::new());
    assert_eq!(kubectl(&cluster, &uids).unwrap(), before);
    assert!(kubectl(&cluster, &["get", "widgets"]).is_err());
    assert_eq!(kubectl(&cluster, &["get", "nodes", "-l", "used=yes", "-o", "name"]).unwrap(), "");
    // Controllers work.
    kubectl(&cluster, &["scale", "-n", "cattle-system", "deployment/rancher", "--replicas=4"]).unwrap();
    kubectl(&cluster, &["rollout", "status", "-n", "cattle-system", "deployment/rancher", "--timeout=60s"]).unwrap();

    // Stopped once, it is not trusted again.
    cluster.pause_api_server();
    cluster.resume_api_server();
    assert!(cluster.rest().is_err());
}

#[tokio::test]
async fn the_large_backup_is_seeded_in_a_minute() {
    if std::env::var_os("REINBACK_LONG").is_none() {
        return skip("the_large_backup_is_seeded_in_a_minute", "it takes a minute; run with --long");
    }
    let cluster = Cluster::start(Options { audit: false, ..Options::default() });
    let client = cluster.client().await;
    let items = rancher::read(&fixture(LARGE)).unwrap();

    let start = Instant::now();
    rancher::seed_objects(&client, &items).await.unwrap();
    let took = start.elapsed();
    rancher::start_rancher(&client).await.unwrap();
    eprintln!("{} objects seeded in {took:?}, Rancher Ready after {:?}", items.len(), start.elapsed());

    assert!(took < Duration::from_secs(60), "{took:?}");
    assert_eq!(rancher::differences(&client, &items).await.unwrap(), Vec::<String>::new());
}

#[test]
fn a_backup_of_the_own_cluster_bears_its_uid() {
    let (cluster, folder) = (Cluster::shared(), temp_dir());
    let uid = cluster.kubectl(&["get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}"], "").unwrap();
    let backup = fixture(PLAIN);
    let name = rancher::backup_as_own(cluster.uid(), &backup, folder.path()).unwrap();
    assert_eq!(name, format!("plain-{uid}-2026-11-23T05-58-54Z.tar.gz"));
    assert_eq!(std::fs::read(folder.path().join(name)).unwrap(), std::fs::read(backup).unwrap());
}

#[tokio::test]
async fn the_s3_server_keeps_objects_over_http_and_https() {
    for server in [S3Server::http(), S3Server::https()] {
        server.bucket("backups").await;
        server.put("backups", "rancher/one.tar.gz", b"content").await;
        server.kill();
        server.restart();
        let object = server.client().get_object().bucket("backups").key("rancher/one.tar.gz").send().await.unwrap();
        // A resumed download compares it.
        assert_eq!(object.e_tag().unwrap(), "\"9a0364b9e99bb480dd25e1f0284c8555\"");
        assert_eq!(object.body.collect().await.unwrap().into_bytes().as_ref(), b"content");
        let keys = server.client().list_objects_v2().bucket("backups").prefix("rancher/").send().await.unwrap();
        assert_eq!(keys.key_count(), Some(1));
        let keys = Credentials::new("reinback-test", "wrong", None, None, "test");
        let wrong = server.client().config().to_builder().credentials_provider(keys).build();
        let wrong = aws_sdk_s3::Client::from_conf(wrong);
        assert!(wrong.get_object().bucket("backups").key("rancher/one.tar.gz").send().await.is_err());
    }
}

#[test]
fn helm_installs_a_chart_into_the_cluster() {
    let (cluster, folder) = (Cluster::shared(), temp_dir());
    let chart = folder.path().join("greeting");
    std::fs::create_dir_all(chart.join("templates")).unwrap();
    // The API server says which version it is, or a chart with a range of versions would refuse it.
    let about = "apiVersion: v2\nname: greeting\nversion: 1.0.0\nkubeVersion: '>= 1.30.0'\n";
    std::fs::write(chart.join("Chart.yaml"), about).unwrap();
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: greeting}\ndata: {release: '{{ .Release.Name }}'}\n";
    std::fs::write(chart.join("templates/map.yaml"), map).unwrap();

    cluster.helm(&["install", "hello", chart.to_str().unwrap(), "--namespace=default"]).unwrap();

    let release = cluster.kubectl(&["get", "configmap", "greeting", "-o", "jsonpath={.data.release}"], "").unwrap();
    assert_eq!(release, "hello");
}
