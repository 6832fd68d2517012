use std::sync::Arc;

use serde_json::{Value, json};

use crate::journal::WorkloadRef;

use super::binding::Role;
use super::owner::Owner;
use super::prepare::{Context, Prepared, prepare};
use super::protect::{Protection, SecretRef, protection};
use super::*;
use crate::plan::testing::{crd, guarded, key, merge, object, owner};
use crate::webhook::bundle::Bundles;

const USER: &str = "users.management.cattle.io#v3/u-1";
const CRD: &str = "customresourcedefinitions.apiextensions.k8s.io#v1/foos.example.org";

fn summary(path: &str, value: Value) -> Summary {
    summarise(&key(path).resource, value, &mut Interner::default()).expect("an object")
}

/// Whether a replace of the live object would change nothing.
fn same(path: &str, backup: Value, live: Value) -> bool {
    let (backup, live) = (summary(path, object(path, backup)), summary(path, object(path, live)));
    equal(&backup, &live, StatusPlace::Nowhere)
}

#[test]
fn what_the_server_sets_does_not_count() {
    let server = json!({ "metadata": {
        "uid": "1", "resourceVersion": "2", "creationTimestamp": "2026-01-01T00:00:00Z", "generation": 3, "managedFields": [{}],
        "selfLink": "/x", "deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 30,
    }});
    assert!(same(USER, json!({}), server));
    assert!(!same(USER, json!({}), json!({ "metadata": { "labels": { "a": "b" } } })));
    assert!(!same(USER, json!({ "enabled": true }), json!({ "enabled": false })));
}

#[test]
fn empty_and_null_are_absent_at_the_top_and_in_metadata_only() {
    let empty = json!({ "principalIds": null, "conditions": [], "metadata": { "labels": {}, "annotations": null, "finalizers": [] } });
    assert!(same(USER, json!({}), empty));
    assert!(same(USER, json!({ "spec": { "a": null } }), json!({ "spec": {} })), "the API server drops a null");
    assert!(!same(USER, json!({ "spec": { "a": {} } }), json!({ "spec": {} })), "an empty map may mean something");
}

#[test]
fn the_order_of_keys_and_finalizers_does_not_count() {
    let ordered: Value = serde_json::from_str(r#"{"spec":{"a":1,"b":2}}"#).unwrap();
    let other: Value = serde_json::from_str(r#"{"spec":{"b":2,"a":1}}"#).unwrap();
    assert!(same(USER, ordered, other));
    let finalizers = |all: [&str; 2]| json!({ "metadata": { "finalizers": all } });
    assert!(same(USER, finalizers(["a", "b"]), finalizers(["b", "a"])));
    assert!(!same(USER, json!({ "list": [1, 2] }), json!({ "list": [2, 1] })));
}

#[test]
fn numbers_count_with_all_their_digits() {
    let number = |text: &str| serde_json::from_str(&format!(r#"{{"spec":{{"n":{text}}}}}"#)).unwrap();
    assert!(!same(USER, number("9007199254740993"), number("9007199254740992")));
    assert!(same(USER, number("9007199254740993"), number("9007199254740993")));
}

#[test]
fn a_list_item_without_a_kind_is_the_same_object() {
    let whole = object("secrets.#v1/a/b", json!({ "type": "Opaque" }));
    let mut item = whole.clone();
    item.as_object_mut().unwrap().retain(|name, _| name != "kind" && name != "apiVersion");
    assert_eq!(summary("secrets.#v1/a/b", whole).spec, summary("secrets.#v1/a/b", item).spec);
}

#[test]
fn owner_references_do_not_count_in_the_digest() {
    let owned = |uid: &str| json!({ "metadata": { "ownerReferences": [owner(USER, uid)] } });
    assert!(same("secrets.#v1/a/b", owned("old"), owned("new")));
    assert!(same("secrets.#v1/a/b", owned("old"), json!({})), "asked by lead_home");
}

#[test]
fn what_controllers_keep_in_a_namespace_a_secret_or_an_account_does_not_count() {
    let namespace = "namespaces.#v1/p-1";
    let live = json!({ "spec": { "finalizers": ["kubernetes"] }, "metadata": { "labels": { "kubernetes.io/metadata.name": "p-1" } } });
    assert!(same(namespace, json!({}), live));
    assert!(same("serviceaccounts.#v1/a/b", json!({}), json!({ "secrets": [{ "name": "b-token-1" }] })));
    assert!(!same("serviceaccounts.#v1/a/b", json!({}), json!({ "imagePullSecrets": [{ "name": "x" }] })));
    let token = |more: Value| {
        let mut token = json!({ "type": "kubernetes.io/service-account-token" });
        merge(&mut token, more);
        token
    };
    let filled = token(json!({
        "data": { "token": "eA==", "ca.crt": "eA==", "namespace": "eA==" },
        "metadata": {
            "annotations": { "kubernetes.io/service-account.uid": "1" },
            "labels": { "kubernetes.io/legacy-token-last-used": "2026-11-23" },
        },
    }));
    assert!(same("secrets.#v1/a/b", token(json!({})), filled));
    assert!(!same("secrets.#v1/a/b", token(json!({})), token(json!({ "data": { "extra": "eA==" } }))));
    let opaque = |value: &str| json!({ "type": "Opaque", "data": { "token": value } });
    assert!(!same("secrets.#v1/a/b", opaque("eA=="), opaque("eB==")), "no token of the controller's");
}

#[test]
fn rules_of_an_aggregated_role_are_the_controllers() {
    let role = "clusterroles.rbac.authorization.k8s.io#v1/r";
    let aggregated = |rules: Value| json!({ "rules": rules, "aggregationRule": { "clusterRoleSelectors": [{ "matchLabels": { "a": "b" } }] } });
    assert!(same(role, aggregated(json!([])), aggregated(json!([{ "verbs": ["get"] }]))));
    assert!(!same(role, json!({ "rules": [] }), json!({ "rules": [{ "verbs": ["get"] }] })));
}

#[test]
fn a_quiesced_workload_counts_with_the_replicas_that_it_had() {
    let path = "deployments.apps#v1/cattle-fleet-system/gitjob";
    let live = json!({ "spec": { "replicas": 0 }, "metadata": { "annotations": {
        "reinback.io/replicas": "2", "deployment.kubernetes.io/revision": "4",
    }}});
    assert!(same(path, json!({ "spec": { "replicas": 2 } }), live.clone()));
    assert!(!same(path, json!({ "spec": { "replicas": 1 } }), live));
    assert!(!same(path, json!({ "spec": { "replicas": 2 } }), json!({ "spec": { "replicas": 0 } })));
}

#[test]
fn markers_of_a_redeploy_do_not_count() {
    let generation = |n: i64| json!({ "spec": { "redeployAgentGeneration": n } });
    assert!(same("clusters.fleet.cattle.io#v1alpha1/a/b", generation(1), generation(7)));
    let generation = |n: i64| json!({ "spec": { "redeploySystemAgentGeneration": n } });
    assert!(same("clusters.provisioning.cattle.io#v1/a/b", generation(1), generation(7)));
    let forced = json!({ "metadata": { "annotations": { "io.cattle.agent.force.deploy": "true" } } });
    assert!(same("clusters.management.cattle.io#v3/c-1", json!({}), forced.clone()));
    assert!(!same("projects.management.cattle.io#v3/c-1/p-1", json!({}), forced));
}

#[test]
fn a_status_counts_where_it_is_written() {
    let with = |status: Value| summary(USER, object(USER, json!({ "status": status })));
    let (one, two, none) = (with(json!({ "a": 1 })), with(json!({ "a": 2 })), with(json!({})));
    let equal_at = |backup, live| {
        [StatusPlace::Nowhere, StatusPlace::Subresource, StatusPlace::Body].map(|at| equal(backup, live, at))
    };
    assert_eq!(equal_at(&one, &two), [true, false, false]);
    assert_eq!(equal_at(&none, &two), [true, true, false], "a replace without the status would wipe it");
    assert_eq!(equal_at(&one, &one), [true, true, true]);
}

/// The field in which the live object can never become the backup's.
fn conflict(path: &str, backup: Value, live: Value) -> Option<&'static str> {
    let fixed =
        |more: Value| summary(path, object(path, more)).particulars().fixed.as_deref().cloned().unwrap_or_default();
    fixed(backup).conflict(&fixed(live))
}

#[test]
fn what_never_changes_is_known() {
    let binding = "rolebindings.rbac.authorization.k8s.io#v1/a/b";
    let role = |name: &str, more: Value| {
        let mut role = json!({ "roleRef": { "kind": "Role", "name": name }, "subjects": [] });
        merge(&mut role, more);
        role
    };
    assert_eq!(conflict(binding, role("a", json!({})), role("b", json!({}))), Some("roleRef"));
    let grouped = json!({ "roleRef": { "apiGroup": "rbac.authorization.k8s.io" } });
    assert_eq!(conflict(binding, role("a", json!({})), role("a", grouped)), None, "the API server fills it in");

    let secret = |backup: Value, live: Value| conflict("secrets.#v1/a/b", backup, live);
    let plain = json!({ "type": "Opaque", "data": { "a": "eA==" } });
    assert_eq!(secret(json!({}), plain.clone()), None);
    assert_eq!(secret(json!({}), json!({ "type": "kubernetes.io/tls" })), Some("type"));
    let sealed = |value: &str| json!({ "immutable": true, "data": { "a": value } });
    let data = Some("data, which is immutable");
    assert_eq!(secret(sealed("eA=="), sealed("eB==")), data, "a sealed Secret takes no other data");
    assert_eq!(secret(plain.clone(), sealed("eA==")), data, "and is never opened");
    assert_eq!(secret(sealed("eA=="), plain), None, "an open one is sealed by a write");
    assert_eq!(conflict("configmaps.#v1/a/b", json!({}), sealed("eA==")), data);
    assert_eq!(conflict(USER, json!({ "type": "x" }), json!({ "type": "y" })), None);
}

#[test]
fn what_never_changes_in_other_kinds_is_known() {
    let selector = |app: &str| json!({ "spec": { "selector": { "matchLabels": { "app": app } } } });
    let class = |reclaim: &str| json!({ "provisioner": "a", "reclaimPolicy": reclaim });
    let service = |spec: Value| json!({ "spec": spec });
    let kind = |kind: &str, scope: &str| json!({ "spec": { "names": { "kind": kind }, "scope": scope } });
    for (path, backup, live, expected) in [
        ("deployments.apps#v1/a/b", selector("a"), selector("b"), Some("spec.selector")),
        ("deployments.apps#v1/a/b", selector("a"), selector("a"), None),
        ("statefulsets.apps#v1/a/b", json!({ "spec": { "serviceName": "a" } }), json!({}), Some("spec.serviceName")),
        ("storageclasses.storage.k8s.io#v1/a", class("Retain"), class("Delete"), Some("reclaimPolicy")),
        ("storageclasses.storage.k8s.io#v1/a", class("Delete"), json!({ "provisioner": "a" }), None),
        ("priorityclasses.scheduling.k8s.io#v1/a", json!({ "value": 1 }), json!({ "value": 2 }), Some("value")),
        (
            "services.#v1/a/b",
            service(json!({ "clusterIP": "10.0.0.1" })),
            service(json!({ "clusterIP": "10.0.0.2" })),
            None,
        ),
        (
            "services.#v1/a/b",
            service(json!({ "clusterIP": "None" })),
            service(json!({ "clusterIP": "10.0.0.2" })),
            Some("spec.clusterIP"),
        ),
        ("services.#v1/a/b", service(json!({ "type": "ExternalName" })), service(json!({ "clusterIP": "None" })), None),
        (CRD, kind("Foo", "Cluster"), kind("Foo", "Namespaced"), Some("spec.scope")),
        (CRD, kind("Foo", "Cluster"), kind("Bar", "Cluster"), Some("spec.names.kind")),
    ] {
        assert_eq!(conflict(path, backup.clone(), live.clone()), expected, "{path} {backup} {live}");
    }
}

#[test]
fn what_the_api_server_fills_in_does_not_count() {
    let deployment = "deployments.apps#v1/a/b";
    let short = json!({ "spec": {
        "selector": { "matchLabels": { "app": "x" } },
        "template": { "metadata": { "labels": { "app": "x" } }, "spec": { "containers": [
            { "name": "x", "image": "host:5000/x:v1", "ports": [{ "containerPort": 80 }], "livenessProbe": { "httpGet": { "port": 80 } } },
        ], "volumes": [{ "name": "v", "secret": { "secretName": "s" } }, { "name": "w" }] } },
    }});
    let mut filled = short.clone();
    merge(
        &mut filled,
        json!({ "spec": {
            "replicas": 1, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600,
            "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": "25%", "maxUnavailable": "25%" } },
            "template": { "metadata": { "creationTimestamp": null }, "spec": {
                "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler",
                "terminationGracePeriodSeconds": 30, "securityContext": {},
                "containers": [{
                    "name": "x", "image": "host:5000/x:v1", "imagePullPolicy": "IfNotPresent", "resources": {},
                    "ports": [{ "containerPort": 80, "protocol": "TCP" }],
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                    "livenessProbe": {
                        "httpGet": { "port": 80, "scheme": "HTTP", "path": "/" },
                        "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3,
                    },
                }],
                "volumes": [{ "name": "v", "secret": { "secretName": "s", "defaultMode": 420 } }, { "name": "w", "emptyDir": {} }],
            } },
        }}),
    );
    assert!(same(deployment, short.clone(), filled.clone()));
    filled["spec"]["strategy"]["rollingUpdate"]["maxSurge"] = json!(1);
    assert!(!same(deployment, short, filled), "what somebody chose does");
}

#[test]
fn an_observed_generation_does_not_count_and_is_made_to_fit_where_the_server_counts_anew() {
    let of = |observed: i64| {
        json!({ "status": {
            "phase": "Ready", "observedGeneration": observed, "conditions": [{ "type": "Ready", "observedGeneration": observed }],
        }})
    };
    let (backup, live) = (summary(USER, object(USER, of(7))), summary(USER, object(USER, of(1))));
    assert!(equal(&backup, &live, StatusPlace::Subresource));
    let fitted = |observed: i64, saw: Option<i64>, now: i64| {
        let mut status = of(observed)["status"].take();
        super::prepare::fit_observed_generation(&mut status, saw, now);
        assert_eq!(status["observedGeneration"], status["conditions"][0]["observedGeneration"]);
        status["observedGeneration"].as_i64().unwrap()
    };
    assert_eq!(fitted(7, Some(7), 1), 1, "who had seen all has seen the new object");
    assert_eq!(fitted(6, Some(7), 1), 0, "who had not has it before him");
    assert_eq!(fitted(7, None, 1), 0);
    assert_eq!(fitted(7, Some(7), 9), 7, "a live object counts on, and is looked at again");
    assert_eq!(fitted(7, Some(7), 3), 3, "a live object that was made anew since");
}

#[test]
fn what_is_no_object_is_an_error_and_no_panic() {
    let read = |value: Value| summarise(&key(USER).resource, value, &mut Interner::default()).map(drop);
    assert_eq!(read(json!([])), Err(ObjectError::NotAnObject));
    for references in [json!("x"), json!([1]), json!([{ "kind": "User" }]), json!({})] {
        let error = read(json!({ "metadata": { "ownerReferences": references } })).unwrap_err();
        assert_eq!(error.to_string(), "its metadata.ownerReferences is not a list of references");
    }
    for strange in [
        json!({}),
        json!({ "metadata": 1 }),
        json!({ "metadata": { "labels": 1, "annotations": [], "finalizers": {} } }),
    ] {
        for path in [
            USER,
            CRD,
            "secrets.#v1/a/b",
            "deployments.apps#v1/a/b",
            "namespaces.#v1/a",
            "clusters.fleet.cattle.io#v1alpha1/a/b",
        ] {
            let mut value = strange.clone();
            for (name, odd) in
                [("spec", json!("x")), ("data", json!(1)), ("status", json!([])), ("subjects", json!({}))]
            {
                merge(&mut value, json!({ name: odd }));
                assert!(
                    summarise(&key(path).resource, value.clone(), &mut Interner::default()).is_ok(),
                    "{path} {value}"
                );
                prepared(path, value.clone(), |_| {});
            }
        }
    }
}

// Definitions.

fn versions(all: &[(&str, bool)], stored: &[&str]) -> Value {
    let versions: Vec<Value> = all
        .iter()
        .map(|(name, storage)| json!({ "name": name, "served": true, "storage": storage, "schema": { "openAPIV3Schema": { "type": "object" } } }))
        .collect();
    let mut crd = crd("foos", "example.org", "v1", false);
    crd["spec"]["versions"] = json!(versions);
    crd["status"]["storedVersions"] = json!(stored);
    crd
}

#[test]
fn defaults_of_a_definition_do_not_count() {
    let written = crd("foos", "example.org", "v1", true);
    let mut live = written.clone();
    merge(
        &mut live,
        json!({ "spec": { "conversion": { "strategy": "None" }, "names": { "singular": "foo", "listKind": "FooList" } } }),
    );
    assert!(same(CRD, written.clone(), live));
    assert!(!same(CRD, written.clone(), {
        let mut other = written;
        merge(&mut other, json!({ "spec": { "conversion": { "strategy": "Webhook" } } }));
        other
    }));
}

#[test]
fn a_live_version_that_holds_objects_is_kept_and_does_not_count() {
    let backup = versions(&[("v1", true)], &["v1"]);
    assert!(
        !same(CRD, backup.clone(), versions(&[("v1", true), ("v2", false)], &["v1"])),
        "v2 holds nothing and must go"
    );
    assert!(same(CRD, backup.clone(), versions(&[("v1", true), ("v2", false)], &["v1", "v2"])));
    let live = object(CRD, versions(&[("v1", false), ("v2", true)], &["v1", "v2"]));
    assert!(!same(CRD, backup.clone(), live.clone()), "the storage version differs");
    let kept = prepared(CRD, object(CRD, backup.clone()), |context| context.live = Some(&live));
    assert_eq!(kept.body["spec"]["versions"][1]["name"], "v2");
    assert_eq!(kept.body["spec"]["versions"][1]["storage"], false);
    let mut written = kept.body;
    written["status"] = live["status"].clone();
    assert!(same(CRD, backup, written));
}

#[test]
fn a_definition_that_preserves_unknown_fields_is_compared_as_it_is_written() {
    let mut old = crd("foos", "example.org", "v1", false);
    old["spec"]["preserveUnknownFields"] = json!(true);
    let written = prepared(CRD, object(CRD, old.clone()), |_| {}).body;
    assert_eq!(written["spec"].get("preserveUnknownFields"), None);
    assert_eq!(
        written["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["x-kubernetes-preserve-unknown-fields"],
        true
    );
    assert!(same(CRD, old.clone(), written));
    old["spec"]["preserveUnknownFields"] = json!(false);
    assert!(same(CRD, old, crd("foos", "example.org", "v1", false)));
}

// What is written.

fn prepared<'v>(path: &str, value: Value, change: impl FnOnce(&mut Context<'v>)) -> Prepared {
    let key: &'static ObjectKey = Box::leak(Box::new(key(path)));
    static NO_BUNDLES: Bundles = Bundles::new();
    let mut context = Context {
        key,
        resource_version: None,
        live: None,
        redeploy_generation: None,
        account_uid: None,
        status: StatusPlace::Nowhere,
        bundles: &NO_BUNDLES,
        held_replicas: false,
        pausing: false,
        owner_uid: &|_: &Owner, _: Option<&Arc<str>>| None,
    };
    change(&mut context);
    prepare(value, &context)
}

const CAPI: &str = "clusters.cluster.x-k8s.io#v1beta1/fleet-default/prod";

#[test]
fn a_cluster_of_cluster_api_is_written_paused_and_counts_with_what_it_had() {
    let plain = object(CAPI, json!({ "spec": { "a": 1 } }));
    let by_hand = object(CAPI, json!({ "spec": { "a": 1, "paused": true } }));
    let written = |value: &Value| prepared(CAPI, value.clone(), |context| context.pausing = true).body;
    for (value, had) in [(&plain, "false"), (&by_hand, "true")] {
        let paused = written(value);
        assert_eq!(
            (&paused["spec"]["paused"], &paused["metadata"]["annotations"][normal::PAUSED_ANNOTATION]),
            (&json!(true), &json!(had))
        );
        assert!(same(CAPI, value.clone(), paused.clone()), "what a run did to it is no difference");
        // A backup of that moment.
        assert_eq!(prepared(CAPI, paused, |_| {}).body["spec"], value["spec"]);
    }
    assert!(!same(CAPI, plain.clone(), by_hand));
    assert!(same(CAPI, plain, object(CAPI, json!({ "spec": { "a": 1, "paused": false } }))));
}

#[test]
fn who_stays_up_stays_trusted() {
    let path = "validatingwebhookconfigurations.admissionregistration.k8s.io#v1/a";
    let config = |bundle: &str| {
        let service = json!({ "namespace": "b", "name": "c" });
        object(
            path,
            json!({ "webhooks": [{ "name": "d", "clientConfig": { "service": service, "caBundle": bundle } }] }),
        )
    };
    let service = crate::plan::testing::service("b/c");
    let kept: &'static Bundles = Box::leak(Box::new(Bundles::from([(service, "live".to_owned())])));
    let written = prepared(path, config("old"), |context| context.bundles = kept);
    assert_eq!(written.body, config("live"));
    assert_eq!(prepared(path, config("old"), |_| {}).body, config("old"));
}

#[test]
fn a_write_leaves_out_what_the_server_sets_and_names_what_it_replaces() {
    let value = object(
        USER,
        json!({ "metadata": { "uid": "1", "resourceVersion": "2", "generation": 3, "managedFields": [] } }),
    );
    assert_eq!(prepared(USER, value.clone(), |_| {}).body, object(USER, json!({})));
    let replaced = prepared(USER, value, |context| context.resource_version = Some("9"));
    assert_eq!(replaced.body["metadata"]["resourceVersion"], "9");
}

#[test]
fn a_status_is_written_where_its_type_has_it() {
    let value = object(USER, json!({ "status": { "a": 1 } }));
    let at = |place| prepared(USER, value.clone(), |context| context.status = place);
    let nowhere = at(StatusPlace::Nowhere);
    assert_eq!((nowhere.body.get("status"), nowhere.status), (None, None));
    let subresource = at(StatusPlace::Subresource);
    assert_eq!((subresource.body.get("status"), subresource.status), (None, Some(json!({ "a": 1 }))));
    let body = at(StatusPlace::Body);
    assert_eq!((body.body.get("status"), body.status), (Some(&json!({ "a": 1 })), None));
}

#[test]
fn namespaces_and_accounts_are_left_to_their_controllers() {
    let namespace = object("namespaces.#v1/a", json!({ "spec": { "finalizers": ["kubernetes"] } }));
    assert_eq!(prepared("namespaces.#v1/a", namespace, |_| {}).body.get("spec"), None);
    let account = object("serviceaccounts.#v1/a/b", json!({ "secrets": [{ "name": "x" }] }));
    assert_eq!(prepared("serviceaccounts.#v1/a/b", account, |_| {}).body.get("secrets"), None);
}

fn token_secret(uid: Option<&str>, token: &str) -> Value {
    let path = "secrets.#v1/a/b";
    let mut secret = object(
        path,
        json!({
            "type": "kubernetes.io/service-account-token",
            "data": { "token": token, "ca.crt": token, "namespace": token, "extra": token },
            "metadata": { "annotations": { "kubernetes.io/service-account.name": "b" } },
        }),
    );
    if let Some(uid) = uid {
        secret["metadata"]["annotations"]["kubernetes.io/service-account.uid"] = json!(uid);
    }
    secret
}

#[test]
fn a_token_comes_back_to_the_account_that_it_was_made_for_and_to_no_other() {
    let uid = |body: &Value| body["metadata"]["annotations"].get("kubernetes.io/service-account.uid").cloned();
    let path = "secrets.#v1/a/b";
    let same = prepared(path, token_secret(Some("old"), "eA=="), |context| context.account_uid = Some("old"));
    assert_eq!((&same.body["data"]["token"], uid(&same.body)), (&json!("eA=="), Some(json!("old"))));

    let anew = prepared(path, token_secret(Some("old"), "eA=="), |context| context.account_uid = Some("new"));
    assert_eq!((&anew.body["data"], uid(&anew.body)), (&json!({ "extra": "eA==" }), Some(json!("new"))));
    let nobody = prepared(path, token_secret(Some("old"), "eA=="), |_| {});
    assert_eq!((&nobody.body["data"], uid(&nobody.body)), (&json!({ "extra": "eA==" }), None));

    // What is live and works is not taken away by a write of another field.
    let live = token_secret(Some("new"), "eB==");
    let kept = prepared(path, token_secret(Some("old"), "eA=="), |context| {
        (context.account_uid, context.live) = (Some("new"), Some(&live));
    });
    assert_eq!((&kept.body["data"]["token"], &kept.body["data"]["extra"]), (&json!("eB=="), &json!("eA==")));
}

#[test]
fn numbers_keep_all_their_digits() {
    let text = r#"{"metadata":{"name":"u-1"},"n":[9007199254740993,-9223372036854775808,18446744073709551615,0.1,1e21,3.0000000000000004]}"#;
    let value: Value = serde_json::from_str(text).unwrap();
    let body = prepared(USER, value.clone(), |_| {}).body;
    assert_eq!(serde_json::to_string(&body).unwrap(), serde_json::to_string(&value).unwrap());
    let again: Value = serde_json::from_str(&serde_json::to_string(&body).unwrap()).unwrap();
    assert_eq!(again, value);
}

#[test]
fn addresses_of_services_and_selectors_of_jobs_are_the_servers_to_give() {
    let path = "services.#v1/a/b";
    let of = |spec: Value| prepared(path, object(path, json!({ "spec": spec })), |_| {}).body["spec"].clone();
    let given = json!({ "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv4"], "ports": [{ "port": 1, "nodePort": 30001 }] });
    assert_eq!(of(given), json!({ "ports": [{ "port": 1, "nodePort": 30001 }] }));
    assert_eq!(of(json!({ "clusterIP": "None", "clusterIPs": ["None"] })), json!({ "clusterIP": "None" }));
    let path = "jobs.batch#v1/a/b";
    let labels = json!({ "controller-uid": "1", "batch.kubernetes.io/job-name": "b", "mine": "x" });
    let job = json!({ "spec": {
        "selector": { "matchLabels": { "batch.kubernetes.io/controller-uid": "1" } },
        "template": { "metadata": { "labels": labels } },
    }});
    let body = prepared(path, object(path, job.clone()), |_| {}).body;
    assert_eq!(body["spec"], json!({ "template": { "metadata": { "labels": { "mine": "x" } } } }));
    let mut manual = job;
    manual["spec"]["manualSelector"] = json!(true);
    assert_eq!(prepared(path, object(path, manual.clone()), |_| {}).body["spec"], manual["spec"]);
}

#[test]
fn a_quiesced_workload_is_written_with_zero() {
    let path = "deployments.apps#v1/a/b";
    let of = |spec: Value| {
        prepared(path, object(path, json!({ "spec": spec })), |context| context.held_replicas = true).body
    };
    let held = of(json!({ "replicas": 2 }));
    assert_eq!(
        (&held["spec"]["replicas"], &held["metadata"]["annotations"]["reinback.io/replicas"]),
        (&json!(0), &json!("2"))
    );
    assert_eq!(of(json!({}))["metadata"]["annotations"]["reinback.io/replicas"], "1", "the API server's default");
    let free = prepared(path, object(path, json!({ "spec": { "replicas": 2 } })), |_| {}).body;
    assert_eq!(free["spec"]["replicas"], 2);
}

#[test]
fn agents_of_clusters_are_deployed_anew() {
    let path = "clusters.provisioning.cattle.io#v1/a/b";
    let of = |live| {
        let value = object(path, json!({ "spec": { "redeploySystemAgentGeneration": 3 } }));
        prepared(path, value, |context| context.redeploy_generation = live).body["spec"]["redeploySystemAgentGeneration"].clone()
    };
    assert_eq!([of(None), of(Some(1)), of(Some(8))], [json!(4), json!(4), json!(9)]);
    let path = "clusters.management.cattle.io#v3/c-1";
    let null = object(path, json!({ "metadata": { "annotations": null } }));
    assert_eq!(prepared(path, null, |_| {}).body["metadata"]["annotations"]["io.cattle.agent.force.deploy"], "true");
}

#[test]
fn references_get_the_uid_that_their_owner_has_now_or_go() {
    let path = "secrets.#v1/a/b";
    let gone = owner("users.management.cattle.io#v3/u-gone", "old");
    let value = object(path, json!({ "metadata": { "ownerReferences": [owner(USER, "old"), gone.clone()] } }));
    let find = |owner: &Owner, namespace: Option<&Arc<str>>| {
        assert_eq!(namespace.map(|namespace| &**namespace), Some("a"));
        (&*owner.name == "u-1").then(|| "new".into())
    };
    let written = prepared(path, value, |context| context.owner_uid = &find);
    assert_eq!(written.body["metadata"]["ownerReferences"], json!([owner(USER, "new")]));
    assert_eq!(written.dropped_owners.len(), 1);
    let none = prepared(path, object(path, json!({ "metadata": { "ownerReferences": [gone] } })), |_| {});
    assert_eq!((none.body["metadata"].get("ownerReferences"), none.dropped_owners.len()), (None, 1));
}

#[test]
fn references_lead_home_when_each_has_its_owners_uid() {
    let owners = |all: &[(&str, &str)]| {
        let all: Vec<Value> =
            all.iter().map(|(name, uid)| owner(&format!("users.management.cattle.io#v3/{name}"), uid)).collect();
        summary(USER, object(USER, json!({ "metadata": { "ownerReferences": all } }))).owners
    };
    let uid = |owner: &Owner| (&*owner.name != "gone").then_some("new");
    let lead = |backup: &[(&str, &str)], live: &[(&str, &str)]| owner::lead_home(&owners(backup), &owners(live), uid);
    assert!(lead(&[("a", "old")], &[("a", "new")]));
    assert!(!lead(&[("a", "old")], &[("a", "old")]), "the owner was made anew");
    assert!(!lead(&[("a", "old")], &[]) && !lead(&[], &[("a", "new")]));
    assert!(lead(&[("a", "old"), ("gone", "old")], &[("a", "new")]), "a dead reference stays dropped");
    assert!(!lead(&[("gone", "old")], &[("gone", "old")]), "and one that is live must go");
    assert!(lead(&[("a", "1"), ("b", "2")], &[("b", "new"), ("a", "new")]));
}

// What is left as it is.

#[test]
fn what_must_not_be_overwritten_is_protected() {
    let said = |path: &str, more: Value, exists: bool| {
        let mut guarded = guarded();
        for namespace in ["cattle-resources-system", "cattle-elsewhere"] {
            guarded.operator_secrets.insert(SecretRef { namespace: namespace.to_owned(), name: "s3-key".to_owned() });
        }
        guarded.identity.user = "system:serviceaccount:cattle-tools:restorer".to_owned();
        guarded.identity.groups.extend(["ops", "system:authenticated"].map(str::to_owned));
        guarded.own_roles.insert(Role { namespace: None, name: Arc::from("restorer") });
        guarded.stays_up.insert(WorkloadRef {
            api_version: "apps/v1".to_owned(),
            resource: "deployments".to_owned(),
            namespace: "cattle-system".to_owned(),
            name: "rancher-webhook".to_owned(),
        });
        protection(&key(path), &summary(path, object(path, more)), exists, &guarded)
    };
    let role = "clusterroles.rbac.authorization.k8s.io#v1";
    let binding = "clusterrolebindings.rbac.authorization.k8s.io#v1/mine";
    let bound = |subject: Value| json!({ "subjects": [subject], "roleRef": { "kind": "ClusterRole", "name": "x" } });
    let own = Some(Protection::OwnCredential);
    let token = json!({
        "type": "kubernetes.io/service-account-token",
        "metadata": { "annotations": { "kubernetes.io/service-account.name": "restorer" } },
    });
    for (path, more, absent, live) in [
        ("runs.reinback.io#v1alpha1/x", json!({}), Some(Protection::Own), Some(Protection::Own)),
        ("secrets.#v1/reinback-system/x", json!({}), Some(Protection::Own), Some(Protection::Own)),
        ("namespaces.#v1/reinback-system", json!({}), Some(Protection::Own), Some(Protection::Own)),
        ("backups.resources.cattle.io#v1/x", json!({}), Some(Protection::Operator), Some(Protection::Operator)),
        (
            "deployments.apps#v1/cattle-system/rancher",
            json!({}),
            Some(Protection::RancherDeployment),
            Some(Protection::RancherDeployment),
        ),
        (
            "deployments.apps#v1/cattle-system/rancher-webhook",
            json!({}),
            Some(Protection::StaysUp),
            Some(Protection::StaysUp),
        ),
        ("deployments.apps#v1/cattle-system/my-rancher", json!({}), None, None),
        (
            "secrets.#v1/a/b",
            json!({ "type": "helm.sh/release.v1" }),
            Some(Protection::HelmRelease),
            Some(Protection::HelmRelease),
        ),
        ("globalroles.management.cattle.io#v3/x", json!({ "builtin": "true" }), None, Some(Protection::Builtin)),
        (&format!("{role}/system:x"), json!({}), None, Some(Protection::SystemRbac)),
        (&format!("{role}/cluster-admin"), json!({}), None, Some(Protection::SystemRbac)),
        (&format!("{role}/x"), json!({}), None, None),
        ("secrets.#v1/kube-system/x", json!({}), None, Some(Protection::KubeNamespace)),
        ("secrets.#v1/cattle-resources-system/s3-key", json!({}), None, Some(Protection::OperatorSecret)),
        ("secrets.#v1/cattle-resources-system/other", json!({}), None, None),
        ("secrets.#v1/cattle-elsewhere/s3-key", json!({}), None, Some(Protection::OperatorSecret)),
        (
            "configmaps.#v1/a/sh.helm.release.v1.x.v1",
            json!({}),
            Some(Protection::HelmRelease),
            Some(Protection::HelmRelease),
        ),
        (
            binding,
            bound(json!({ "kind": "ServiceAccount", "name": "agent", "namespace": "reinback-system" })),
            None,
            own,
        ),
        (
            binding,
            bound(json!({ "kind": "ServiceAccount", "name": "restorer", "namespace": "cattle-tools" })),
            None,
            own,
        ),
        (binding, bound(json!({ "kind": "User", "name": "system:serviceaccount:cattle-tools:restorer" })), None, own),
        (binding, bound(json!({ "kind": "Group", "name": "ops" })), None, own),
        (binding, bound(json!({ "kind": "Group", "name": "system:authenticated" })), None, None),
        (binding, bound(json!({ "kind": "User", "name": "ops" })), None, None),
        ("serviceaccounts.#v1/cattle-tools/restorer", json!({}), None, own),
        ("serviceaccounts.#v1/cattle-tools/other", json!({}), None, None),
        ("secrets.#v1/cattle-tools/token", token, None, own),
        (&format!("{role}/restorer"), json!({}), None, own),
        ("roles.rbac.authorization.k8s.io#v1/a/restorer", json!({}), None, None),
    ] {
        assert_eq!((said(path, more.clone(), false), said(path, more, true)), (absent, live), "{path}");
    }
}
