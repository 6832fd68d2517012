//! Writes: what they do, what they say no with, and what becomes of them when the server is in trouble.

use std::time::{Duration, Instant};

use anyhow::ensure;
use futures::stream::{self, StreamExt as _};
use reinback::cluster::{self as api, FailureKind, Impersonate, Preconditions, Propagation, Target, WriteError};
use reinback::object::Resource;
use serde_json::{Value, json};

use super::{admin, body, config_map, config_maps, connect, limits, namespace};
use crate::harness::{Cluster, Options, WebhookServer, eventually};

on_both! {
    an_object_is_made_replaced_patched_and_deleted,
    status_is_written_by_its_subresource,
    a_namespace_that_is_missing_or_going_away_takes_no_object,
    a_name_that_would_leave_its_path_is_not_sent,
    an_object_that_is_too_large_is_refused_and_not_repeated,
}

const SOON: Duration = Duration::from_secs(30);

fn bare(api_flags: &[&str]) -> Cluster {
    let api_flags = api_flags.iter().map(ToString::to_string).collect();
    Cluster::start(Options { controllers: false, api_flags, ..Options::default() })
}

async fn an_object_is_made_replaced_patched_and_deleted(ours: &api::Cluster) {
    namespace(ours, "write-life").await;
    let (reader, writer, resource) = (ours.reader(), ours.writer(), config_maps());
    let target = Target::new(&resource, Some("write-life"), "a");
    let made = writer.create(&target, body(&config_map("write-life", "a", "1"))).await.unwrap();
    assert_eq!(made.code, 201);
    let again = writer.create(&target, body(&config_map("write-life", "a", "1"))).await.unwrap_err();
    assert_eq!(again.kind(), Some(FailureKind::AlreadyExists));
    insta::allow_duplicates! { insta::assert_snapshot!(again, @"cannot create configmaps.#v1/write-life/a: the API server refused it (AlreadyExists, code 409)"); }

    let mut object = made.value().unwrap();
    object["data"]["value"] = "2".into();
    let replaced = writer.replace(&target, body(&object)).await.unwrap();
    assert_eq!(replaced.identity().unwrap().uid, made.identity().unwrap().uid);
    let stale = writer.replace(&target, body(&object)).await.unwrap_err();
    assert_eq!(stale.kind(), Some(FailureKind::Conflict));

    let patch =
        json!({"metadata": {"resourceVersion": replaced.identity().unwrap().resource_version}, "data": {"more": "3"}});
    let patched = writer.merge_patch(&target, &patch).await.unwrap().value().unwrap();
    assert_eq!(patched["data"], json!({"value": "2", "more": "3"}));
    assert_eq!(writer.merge_patch(&target, &patch).await.unwrap_err().kind(), Some(FailureKind::Conflict));
    assert_eq!(patched["metadata"]["managedFields"][0]["manager"], "reinback");

    let other = Preconditions { uid: Some("6f1d0a4e-0000-4000-8000-000000000000"), resource_version: None };
    let refused = writer.delete(&target, other, None, None).await.unwrap_err();
    assert_eq!(refused.kind(), Some(FailureKind::Conflict));
    let uid = made.identity().unwrap().uid;
    let old = Preconditions { uid: uid.as_deref(), resource_version: Some("1") };
    assert_eq!(writer.delete(&target, old, None, None).await.unwrap_err().kind(), Some(FailureKind::Conflict));
    let this = Preconditions { uid: uid.as_deref(), resource_version: None };
    writer.delete(&target, this, Some(Propagation::Background), Some(0)).await.unwrap();
    assert!(reader.get(&target).await.unwrap().is_none());
    assert_eq!(writer.delete(&target, this, None, None).await.unwrap_err().kind(), Some(FailureKind::NotFound));
}

async fn status_is_written_by_its_subresource(ours: &api::Cluster) {
    namespace(ours, "write-status").await;
    let resource = Resource::new("policy", "v1", "poddisruptionbudgets");
    let target = Target::new(&resource, Some("write-status"), "a");
    let spec = json!({"minAvailable": 1, "selector": {"matchLabels": {"app": "none"}}});
    let object = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"namespace": "write-status", "name": "a"}, "spec": spec});
    ours.writer().create(&target, body(&object)).await.unwrap();
    // The controller writes it as well; whoever is slower tries again.
    eventually(SOON, || async {
        let mut object = ours.reader().get(&target).await?.expect("it exists").value()?;
        object["status"]["disruptionsAllowed"] = 8.into();
        let seen = ours.writer().replace_status(&target, body(&object)).await?.value()?;
        assert_eq!(seen["status"]["disruptionsAllowed"], 8);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_refusal_names_fields_and_never_the_value() {
    let ours = admin(Cluster::shared()).await;
    let resource = Resource::new("", "v1", "services");
    let target = Target::new(&resource, Some("default"), "refused");
    let object = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "refused"},
        "spec": {"clusterIP": "hunter2", "ports": [{"port": 80}], "sessionAffinity": "hunter2"}});
    let error = ours.writer().create(&target, body(&object)).await.unwrap_err();
    assert_eq!(error.kind(), Some(FailureKind::Invalid));
    assert!(!format!("{error:?} {error}").contains("hunter2"));
    insta::assert_snapshot!(error, @"cannot create services.#v1/default/refused: the API server refused it (Invalid, code 422): spec.clusterIPs[0] FieldValueInvalid");
}

async fn a_namespace_that_is_missing_or_going_away_takes_no_object(ours: &api::Cluster) {
    let (writer, resource) = (ours.writer(), config_maps());
    let target = Target::new(&resource, Some("write-nowhere"), "a");
    let error = writer.create(&target, body(&config_map("write-nowhere", "a", "1"))).await.unwrap_err();
    assert_eq!(error.kind(), Some(FailureKind::NotFound));

    namespace(ours, "write-leaving").await;
    let namespaces = Resource::new("", "v1", "namespaces");
    let leaving = Target::new(&namespaces, None, "write-leaving");
    writer.merge_patch(&leaving, &json!({"metadata": {"finalizers": ["example.org/held"]}})).await.unwrap();
    writer.delete(&leaving, Preconditions::default(), None, None).await.unwrap();
    let target = Target::new(&resource, Some("write-leaving"), "a");
    let error = writer.create(&target, body(&config_map("write-leaving", "a", "1"))).await.unwrap_err();
    assert_eq!(error.kind(), Some(FailureKind::NamespaceTerminating), "{error}");
    writer.merge_patch(&leaving, &json!({"metadata": {"finalizers": null}})).await.unwrap();
}

/// Asks a webhook about config maps with the label `asks: NAME`, and gives what the API server then said to one.
async fn asked(ours: &api::Cluster, name: &str, client_config: Value) -> WriteError {
    let resource = Resource::new("admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations");
    let object = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration", "metadata": {"name": name},
        "webhooks": [{
            "name": "rancher.example.org", "failurePolicy": "Fail", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": client_config, "objectSelector": {"matchLabels": {"asks": name}},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}],
        }],
    });
    ours.writer().create(&Target::new(&resource, None, name), body(&object)).await.unwrap();
    let resource = config_maps();
    eventually(SOON, || async {
        let map_name = format!("{name}-{:08x}", rand::random::<u32>());
        let mut map = config_map("default", &map_name, "1");
        map["metadata"]["labels"] = json!({"asks": name});
        let made = ours.writer().create(&Target::new(&resource, Some("default"), &map_name), body(&map)).await;
        made.err().ok_or_else(|| anyhow::anyhow!("the webhook is not asked yet"))
    })
    .await
}

#[tokio::test]
async fn a_webhook_that_does_not_answer_is_named() {
    let ours = admin(Cluster::shared()).await;
    let error = asked(&ours, "write-webhook-down", json!({"url": "https://127.0.0.1:1/validate"})).await;
    assert_eq!(error.kind(), Some(FailureKind::WebhookUnavailable));
    let failure = error.failure().unwrap();
    insta::assert_snapshot!(failure, @"webhook rancher.example.org could not be called (InternalError, code 500)");
}

#[tokio::test]
async fn a_webhook_that_denies_is_named_and_its_words_are_dropped() {
    let ours = admin(Cluster::shared()).await;
    let denial =
        json!({"allowed": false, "status": {"code": 422, "reason": "hunter2 is no name", "message": "hunter2"}});
    let (url, ca) = webhook(denial).await;
    let error = asked(&ours, "write-webhook-denies", json!({"url": url, "caBundle": ca})).await;
    assert_eq!(error.kind(), Some(FailureKind::WebhookDenied));
    assert!(!format!("{error:?} {error}").contains("hunter2"));
    insta::assert_snapshot!(error.failure().unwrap(), @"webhook rancher.example.org denied it (code 422)");
}

/// An admission webhook that answers every review with `response`; its URL and its CA in base64.
async fn webhook(response: Value) -> (String, String) {
    let server = WebhookServer::start("127.0.0.1", move |_| response.clone()).await;
    (format!("https://127.0.0.1:{}/", server.port), server.ca_bundle)
}

#[tokio::test]
async fn a_writer_may_act_as_someone_else() {
    let ours = admin(Cluster::shared()).await;
    let nobody = Impersonate { user: "nobody".into(), groups: vec!["some:group".into()] };
    let writer = ours.writer().impersonating(&nobody).unwrap();
    let resource = config_maps();
    let target = Target::new(&resource, Some("default"), "impersonated");
    let map = config_map("default", "impersonated", "1");
    assert_eq!(writer.create(&target, body(&map)).await.unwrap_err().kind(), Some(FailureKind::Forbidden));
    let master = Impersonate { user: "nobody".into(), groups: vec!["some:group".into(), "system:masters".into()] };
    ours.writer().impersonating(&master).unwrap().create(&target, body(&map)).await.unwrap();
    let hostile = Impersonate { user: "a\r\nX: y".into(), groups: vec![] };
    assert!(ours.writer().impersonating(&hostile).is_err());
}

async fn a_name_that_would_leave_its_path_is_not_sent(ours: &api::Cluster) {
    let resource = config_maps();
    for name in ["../../../api/v1/namespaces/default", "", ".", "a/b", "a%2fb"] {
        let target = Target::new(&resource, Some("default"), name);
        let deleted = ours.writer().delete(&target, Preconditions::default(), None, None).await;
        assert!(matches!(deleted, Err(WriteError::BadName(_))), "{name:?}");
        let made = ours.writer().create(&target, body(&json!({}))).await;
        assert!(matches!(made, Err(WriteError::BadName(_))), "{name:?}");
    }
}

#[tokio::test]
async fn what_the_server_turns_away_for_too_many_requests_is_written_later() {
    let flags = ["--enable-priority-and-fairness=false", "--max-mutating-requests-inflight=1"];
    let cluster = bare(&flags);
    // Members of system:masters are exempt.
    let user = cluster.user("busy");
    cluster
        .kubectl(&["create", "clusterrolebinding", "busy", "--clusterrole=cluster-admin", "--user=busy"], "")
        .unwrap();
    let writer = connect(&user.kubeconfig, limits()).await.writer();
    let resource = config_maps();
    let mark = cluster.audit_mark();
    let made = stream::iter(0..60).map(|n| {
        let (writer, resource, name) = (&writer, &resource, format!("busy-{n}"));
        async move {
            writer
                .create(&Target::new(resource, Some("default"), &name), body(&config_map("default", &name, "1")))
                .await
        }
    });
    let made: Vec<_> = made.buffer_unordered(60).collect().await;
    assert!(made.into_iter().all(|made| made.is_ok_and(|made| made.code == 201)));
    eventually(SOON, || async {
        let events = cluster.audit_since(mark);
        let made = events.iter().filter(|event| event.writes() && event.user.username == "busy");
        ensure!(made.filter(|event| event.response_status.code == 201).count() == 60, "not all are logged yet");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_lost_is_unknown_for_a_creation_and_repeated_for_a_replacement() {
    let cluster = bare(&[]);
    let ours = admin(&cluster).await;
    let (reader, writer, resource) = (ours.reader(), ours.writer(), config_maps());
    let target = Target::new(&resource, Some("default"), "lost");
    let object = writer.create(&target, body(&config_map("default", "lost", "1"))).await.unwrap().value().unwrap();

    tokio::task::block_in_place(|| cluster.pause_api_server());
    let second = Target::new(&resource, Some("default"), "lost-too");
    let started = Instant::now();
    let hasty = writer.patient(Duration::from_secs(1), Duration::from_secs(10));
    let error = hasty.create(&second, body(&config_map("default", "lost-too", "1"))).await.unwrap_err();
    assert!(matches!(error, WriteError::Unknown { .. }), "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    insta::assert_snapshot!(error, @"cannot tell whether it worked to create configmaps.#v1/default/lost-too: the answer was lost");

    let mut changed: Value = object;
    changed["data"]["value"] = "2".into();
    let resumed = async {
        tokio::time::sleep(Duration::from_millis(2500)).await;
        tokio::task::block_in_place(|| cluster.resume_api_server());
    };
    let (replaced, ()) = tokio::join!(hasty.replace(&target, body(&changed)), resumed);
    // Written by one of the tries: its own success then meets the next try as a conflict.
    if let Err(error) = replaced {
        assert_eq!(error.kind(), Some(FailureKind::Conflict), "{error:?}");
    }
    let now = reader.get(&target).await.unwrap().unwrap().value().unwrap();
    assert_eq!(now["data"]["value"], "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_under_way_survive_a_killed_api_server_or_say_that_they_do_not_know() {
    let cluster = bare(&[]);
    let ours = admin(&cluster).await;
    let (reader, writer, resource) = (ours.reader(), ours.writer(), config_maps());
    let writes = stream::iter(0..400).map(|n| {
        let (writer, resource, name) = (&writer, &resource, format!("survivor-{n}"));
        async move {
            let target = Target::new(resource, Some("default"), &name);
            writer.create(&target, body(&config_map("default", &name, "1"))).await
        }
    });
    let killed = async {
        tokio::time::sleep(Duration::from_millis(60)).await;
        tokio::task::block_in_place(|| {
            cluster.kill_api_server();
            cluster.restart_api_server();
        });
    };
    let (made, ()) = tokio::join!(writes.buffered(8).collect::<Vec<_>>(), killed);
    for (n, made) in made.into_iter().enumerate() {
        let name = format!("survivor-{n}");
        let target = Target::new(&resource, Some("default"), &name);
        match made {
            Ok(_) => assert!(reader.get(&target).await.unwrap().is_some(), "{name} was lost"),
            Err(WriteError::Unknown { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
}

async fn an_object_that_is_too_large_is_refused_and_not_repeated(ours: &api::Cluster) {
    let resource = config_maps();
    let target = Target::new(&resource, Some("default"), "huge");
    let error =
        ours.writer().create(&target, body(&config_map("default", "huge", &"x".repeat(4 << 20)))).await.unwrap_err();
    let kind = error.kind();
    assert!(matches!(kind, Some(FailureKind::TooLarge | FailureKind::Invalid)), "{error:?}");
}
