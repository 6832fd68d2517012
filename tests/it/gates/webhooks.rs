//! Gates about webhooks that nobody answers, and about clusters that Rancher would take back.

use anyhow::ensure;
use serde_json::json;
use std::time::Duration;

use super::{Asked, apply, kubectl};
use crate::harness::eventually;
use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_without_anybody_to_answer_holds_until_somebody_does() {
    let world = World::start().await;
    world.touch();
    let ask = Asked::of(&world);
    let webhook = json!({
        "name": "settings.example.org", "failurePolicy": "Fail", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"service": {"namespace": "cattle-system", "name": "asked"}},
        "rules": [{"operations": ["UPDATE"], "apiGroups": ["management.cattle.io"], "apiVersions": ["*"], "resources": ["settings"]}],
    });
    let configuration = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "asked"}, "webhooks": [webhook],
    });
    apply(&world, &configuration.to_string());
    let accepted = ask.is_accepted("WebhookUnavailable").await;
    insta::assert_snapshot!(accepted.message("WebhookUnavailable"), @"writes are refused, since nobody answers settings.example.org of MutatingWebhookConfiguration asked (Service cattle-system/asked is missing; asked about 1 write)");
    // Without a selector nobody but us says which endpoints it has.
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "asked", "namespace": "cattle-system"},
        "spec": {"ports": [{"port": 443}]}});
    let slice = |ready: bool| {
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "asked-1", "namespace": "cattle-system", "labels": {"kubernetes.io/service-name": "asked"}},
            "endpoints": [{"addresses": ["10.1.2.3"], "conditions": {"ready": ready}}], "ports": [{"port": 443}]})
    };
    apply(&world, &format!("{service}\n---\n{}", slice(false)));
    let held = ask.plan().await;
    held.assert_held_by(&["WebhookUnavailable"]);
    assert!(held.message("WebhookUnavailable").contains("Service cattle-system/asked has no ready endpoint"));
    apply(&world, &slice(true).to_string());
    ask.plan().await.assert_held_by(&[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_type_whose_conversion_nobody_answers_is_named_as_that() {
    let world = World::start().await;
    let ask = Asked::of(&world);
    // Objects at a version that only a conversion webhook can read, and none answers.
    super::define(&world, "provisioning.cattle.io", "v1", "widgets", "Widget", "Cluster");
    apply(&world, "{apiVersion: provisioning.cattle.io/v1, kind: Widget, metadata: {name: one}}");
    let version = |name: &str, storage: bool| {
        json!({"name": name, "served": true, "storage": storage,
               "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}})
    };
    let conversion = json!({"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"],
        "clientConfig": {"url": "https://127.0.0.1:1/convert"}}});
    let patch = json!({"spec": {"versions": [version("v1", false), version("v2", true)], "conversion": conversion}});
    let crd = "crd/widgets.provisioning.cattle.io";
    kubectl(&world, &["patch", crd, "--type=merge", "-p", &patch.to_string()]);
    eventually(Duration::from_secs(60), async || {
        // The new storage version is in force a moment later.
        world.cluster.kubectl(
            &["apply", "--validate=false", "-f", "-"],
            "{apiVersion: provisioning.cattle.io/v2, kind: Widget, metadata: {name: two}}",
        )
    })
    .await;
    let accepted = ask
        .spec("prune: true")
        .annotated("reinback.io/accept", "PruneDeletesCrds")
        .is_accepted("WebhookUnavailable")
        .await;
    insta::assert_snapshot!(accepted.message("WebhookUnavailable"), @"objects can be neither read nor written, since nobody converts widgets.provisioning.cattle.io (they could not be listed); accepting does not help with widgets.provisioning.cattle.io: not all objects are written in the one version in which they are stored, so that they have to be converted");
    kubectl(
        &world,
        &["patch", crd, "--type=merge", "-p", r#"{"spec":{"conversion":{"strategy":"None","webhook":null}}}"#],
    );
    eventually(Duration::from_secs(60), async || {
        let plan = ask.plan().await;
        ensure!(plan.gates().next().is_none(), "{:#}", plan.plan["gates"]);
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_was_upgraded_since_the_backup_holds_with_from_and_to() {
    let world = World::start().await;
    let ask = Asked::of(&world);
    let upgrade = r#"{"spec":{"kubernetesVersion":"v1.31.2+rke2r1","rkeConfig":{"machinePools":[{"name":"workers","quantity":5}]}}}"#;
    let cluster = ["-n", "fleet-default", "clusters.provisioning.cattle.io", "prod-000"];
    kubectl(&world, &[&["patch"], &cluster[..], &["--type=merge", "-p", upgrade]].concat());
    kubectl(&world, &["delete", "-n", "fleet-default", "machines.cluster.x-k8s.io", "prod-000-0"]);
    kubectl(&world, &["annotate", "-n", "fleet-default", "clusters.provisioning.cattle.io", "prod-001", "touched=yes"]);
    let accepted = ask.is_accepted("DownstreamReverts").await;
    insta::assert_snapshot!(accepted.message("DownstreamReverts"), @"Rancher would take back 1 downstream cluster: cluster fleet-default/prod-000 (Kubernetes v1.31.2+rke2r1 -> v1.30.6+rke2r1; pool workers: 5 -> none; 1 machine back)");
}
