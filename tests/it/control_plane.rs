//! The test control plane keeps its word: what the other suites stand on.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::json;

use crate::harness::{Cluster, Options, REINBACK, S3Server, eventually, fixture, rancher, temp_dir};

const POD_TIMEOUT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_deployment_gets_ready_pods() {
    let cluster = Cluster::shared();
    cluster.kubectl(&["create", "deployment", "web", "--image=web:1", "--replicas=3"], "").unwrap();
    let deployments = Api::<Deployment>::namespaced(cluster.client().await, "default");
    eventually(POD_TIMEOUT, || async {
        let status = deployments.get("web").await?.status.context("no status yet")?;
        ensure!(status.ready_replicas == Some(3), "{status:?}");
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
async fn a_user_has_no_rights_until_some_are_bound() {
    let cluster = Cluster::shared();
    let user = cluster.user("reader");
    let maps = Api::<ConfigMap>::namespaced(user.client().await, "kube-system");
    let refused = maps.list(&Default::default()).await.unwrap_err();
    assert!(matches!(refused, kube::Error::Api(status) if status.code == 403));

    let role = ["create", "clusterrolebinding", "reader", "--clusterrole=view", "--user=reader"];
    cluster.kubectl(&role, "").unwrap();

    eventually(POD_TIMEOUT, || async { Ok(maps.list(&Default::default()).await?) }).await;
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

/// Run by [`nothing_survives_sigkill_of_the_test_process`] in a process of its own.
#[test]
#[ignore = "is the process that another test kills"]
fn starts_a_cluster_and_waits_to_be_killed() {
    let Ok(file) = std::env::var("REINBACK_TEST_VICTIM") else { return };
    let cluster = Cluster::start(Options { controllers: false, ..Options::default() });
    let partial = format!("{file}.new");
    std::fs::write(&partial, cluster.folder().to_str().unwrap()).unwrap();
    std::fs::rename(partial, file).unwrap();
    std::thread::sleep(Duration::from_secs(300));
}

#[test]
fn nothing_survives_sigkill_of_the_test_process() {
    let folder = temp_dir();
    let file = folder.path().join("cluster");
    let mut victim = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "control_plane::starts_a_cluster_and_waits_to_be_killed", "--ignored"])
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
    while !processes_of(&cluster).is_empty() || std::path::Path::new(&cluster).exists() {
        assert!(start.elapsed() < Duration::from_secs(15), "still there: {:?}", processes_of(&cluster));
        std::thread::sleep(Duration::from_millis(50));
    }
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
    let backup = fixture("plain-6e9ee6a6-d4f2-46c2-bd99-75269cf041dc-2026-11-23T05-58-54Z.tar.gz");
    let items = rancher::read(&backup).unwrap();

    let start = Instant::now();
    assert_eq!(rancher::seed(&client, &backup).await.unwrap(), items.len());
    eprintln!("{} objects seeded in {:?}", items.len(), start.elapsed());

    assert_eq!(rancher::differences(&client, &items).await.unwrap(), Vec::<String>::new());
    let deployments = Api::<Deployment>::namespaced(client.clone(), "cattle-system");
    let status = deployments.get("rancher").await.unwrap().status.unwrap();
    assert_eq!((status.replicas, status.ready_replicas), (Some(3), Some(3)));

    let disturbance = rancher::Disturbance { changed_percent: 29, deleted_percent: 9, added: 20, seed: 7 };
    let disturbed = rancher::disturb(&client, &items, disturbance).await.unwrap();
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

#[test]
fn a_backup_of_the_own_cluster_bears_its_uid() {
    let folder = temp_dir();
    let backup = fixture("plain-6e9ee6a6-d4f2-46c2-bd99-75269cf041dc-2026-11-23T05-58-54Z.tar.gz");
    let name = rancher::backup_as_own("11111111-2222-3333-4444-555555555555", &backup, folder.path()).unwrap();
    assert_eq!(name, "plain-11111111-2222-3333-4444-555555555555-2026-11-23T05-58-54Z.tar.gz");
    assert_eq!(std::fs::read(folder.path().join(name)).unwrap(), std::fs::read(backup).unwrap());
}
