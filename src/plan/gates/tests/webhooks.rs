//! Webhooks that nobody answers, and clusters that Rancher would take back.

use std::collections::BTreeMap;

use super::*;
use crate::plan::render::{self, Verbosity};
use crate::plan::testing::{merge, service};
use crate::webhook::{Admission, AdmissionWebhook, Answered};
use serde_json::Value;

const SETTING: &str = "settings.management.cattle.io#v3/server-url";

/// A webhook for settings, whose Service is in this state.
fn asked(world: &mut World, answered: Answered, more: Value) {
    let mut webhook = json!({
        "name": "rancher.cattle.io.settings",
        "clientConfig": {"service": {"namespace": "cattle-system", "name": "rancher-webhook"}},
        "rules": [{"operations": ["*"], "apiGroups": ["management.cattle.io"], "apiVersions": ["v3"], "resources": ["settings"]}],
    });
    merge(&mut webhook, more);
    let configuration = json!({"metadata": {"name": "rancher.cattle.io"}, "webhooks": [webhook]});
    let webhooks = &mut world.cluster.webhooks;
    webhooks.admission = AdmissionWebhook::read_all(Admission::Validating, &configuration);
    webhooks.services = BTreeMap::from([(service("cattle-system/rancher-webhook"), answered)]);
}

#[test]
fn a_webhook_that_nobody_answers_is_held_where_the_plan_writes_what_it_is_asked_about() {
    let mut world = world(|world| {
        world.backed_up(SETTING, json!({"value": "a"})).live(SETTING, json!({"value": "b"}));
        world.both("settings.management.cattle.io#v3/equal", json!({}));
        asked(world, Answered::NoEndpoint, json!({}));
    });
    assert_snapshot!(held(&world), @r"
    WebhookUnavailable: writes are refused, since nobody answers rancher.cattle.io.settings of ValidatingWebhookConfiguration rancher.cattle.io (Service cattle-system/rancher-webhook has no ready endpoint; asked about 1 write)
    -> bring up what answers them, or remove the configurations of what is gone; or add to the manifest's annotations: `reinback.io/accept: WebhookUnavailable` (silences them while it writes, with `failurePolicy: Ignore` or the conversion `None`; what they had is journaled and comes back when the run ends)
    ");
    assert!(world.plan().silences.is_empty() && !rights(&world).contains("patch validating"));
    assert!(is_accepted(world.accept(GateCode::WebhookUnavailable), GateCode::WebhookUnavailable));
    assert_eq!(silences(&world), ["rancher.cattle.io.settings of ValidatingWebhookConfiguration rancher.cattle.io"]);
    assert!(rights(&world).contains("patch validatingwebhookconfigurations"), "{}", rights(&world));
    assert!(!rights(&world).contains("patch mutating"), "{}", rights(&world));
    let (plan, observed) = (world.plan(), world.observed());
    let name = "rancher.cattle.io.settings of ValidatingWebhookConfiguration rancher.cattle.io";
    let text = render::text(&plan, &observed, Verbosity::Summary);
    assert!(text.contains(&format!("silences while it writes, for nobody answers\n  {name}\n")), "{text}");
    let page = render::markdown(&plan, &observed, Verbosity::Summary);
    assert!(page.contains(&format!("#### Silences while it writes, for nobody answers\n\n- `{name}`\n")), "{page}");
    let webhook = json!({"kind": "ValidatingWebhookConfiguration", "name": "rancher.cattle.io",
        "webhook": "rancher.cattle.io.settings"});
    assert_eq!(render::json(&plan, &observed, Verbosity::Summary)["silences"], json!([webhook]));
    assert_eq!(json!(plan.record())["silences"], json!([webhook]), "a run that is gone on with goes by it");
    let covered = plan.digest;
    asked(&mut world, Answered::NoEndpoint, json!({"name": "other.cattle.io"}));
    assert_ne!(world.plan().digest, covered, "an approval covers which");
    asked(&mut world, Answered::NoEndpoint, json!({}));
    world.request.resuming = true;
    assert!(silences(&world).is_empty(), "a run that is under way goes by what it recorded");
    world.request.resuming = false;
    world.request.accept.clear();
    asked(&mut world, Answered::Missing, json!({}));
    assert!(held(&world).contains("(Service cattle-system/rancher-webhook is missing; asked about 1 write)"));
    world.request.resuming = true;
    assert!(is_free(&world), "judged when the run began");
    world.request.resuming = false;
    for (answered, more) in [
        (Answered::Ready, json!({})),
        (Answered::Unknown, json!({})),
        (Answered::NoEndpoint, json!({"failurePolicy": "Ignore"})),
        (
            Answered::NoEndpoint,
            json!({"rules": [{"operations": ["DELETE"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"]}]}),
        ),
    ] {
        asked(&mut world, answered, more.clone());
        assert!(is_free(&world), "{answered:?} {more}");
    }
}

#[test]
fn a_webhook_that_this_run_takes_down_itself_is_held() {
    let mut world = world(|world| {
        world.backed_up(SETTING, json!({}));
        world.rancher().answers = vec![service("cattle-system/rancher-webhook")];
        asked(world, Answered::Ready, json!({}));
    });
    let why = "Service cattle-system/rancher-webhook leads to deployments/cattle-system/rancher, which is scaled to 0";
    assert!(held(&world).contains(why), "{}", held(&world));
    let mut other = workload("cattle-system", "rancher-webhook");
    other.answers = vec![service("cattle-system/rancher-webhook")];
    world.cluster.workloads.push(other);
    assert!(is_free(&world), "another one answers");
}

fn silences(world: &World) -> Vec<String> {
    world.plan().silences.iter().map(ToString::to_string).collect()
}

fn rights(world: &World) -> String {
    let wanted = crate::plan::accesses(&world.plan(), &world.observed());
    wanted.iter().map(|access| format!("{} {}\n", access.verb, access.resource)).collect()
}

/// A definition of two versions whose objects a webhook converts.
fn converted() -> Value {
    let mut definition = crd("widgets", "provisioning.cattle.io", "v2", false);
    let mut old = definition["spec"]["versions"][0].clone();
    merge(&mut old, json!({"name": "v1", "storage": false}));
    definition["spec"]["versions"].as_array_mut().expect("versions").push(old);
    let client = json!({"service": {"namespace": "cattle-system", "name": "widgets"}});
    merge(
        &mut definition,
        json!({"spec": {"conversion": {"strategy": "Webhook", "webhook": {"clientConfig": client}}}}),
    );
    definition
}

#[test]
fn a_conversion_that_nobody_carries_out_is_held_where_objects_need_it() {
    let name = "customresourcedefinitions.apiextensions.k8s.io#v1/widgets.provisioning.cattle.io";
    let mut world = world(|world| {
        world.serve("widgets.provisioning.cattle.io#v1", true, false);
        world.both(name, converted());
        world.backed_up("widgets.provisioning.cattle.io#v1/one", json!({}));
        world.cluster.webhooks.services = BTreeMap::from([(service("cattle-system/widgets"), Answered::Missing)]);
    });
    assert_snapshot!(held(&world), @r"
    WebhookUnavailable: objects can be neither read nor written, since nobody converts widgets.provisioning.cattle.io (Service cattle-system/widgets is missing; 1 write); accepting does not help with widgets.provisioning.cattle.io: not all objects are written in the one version in which they are stored, so that they have to be converted
    -> bring up what answers them, or remove the configurations of what is gone; or add to the manifest's annotations: `reinback.io/accept: WebhookUnavailable` (objects that have to be converted are tried all the same, and fail by name)
    ");
    world.backup.objects.pop();
    world.serve("widgets.provisioning.cattle.io#v2", true, false);
    world.backed_up("widgets.provisioning.cattle.io#v2/one", json!({}));
    assert!(is_free(&world), "it is made as it is stored");
    world.live("widgets.provisioning.cattle.io#v2/one", json!({"spec": 1}));
    assert_eq!(world.holding(), [GateCode::WebhookUnavailable]);
    world.cluster.webhooks.services = BTreeMap::from([(service("cattle-system/widgets"), Answered::Ready)]);
    assert!(is_free(&world));
    world.unconverted.insert(Resource::new("provisioning.cattle.io", "v1", "widgets"));
    assert!(held(&world).starts_with("WebhookUnavailable: objects can be neither read nor written, since nobody converts widgets.provisioning.cattle.io (they could not be listed); accepting does not help with widgets.provisioning.cattle.io: "));
}

#[test]
fn a_conversion_is_silenced_where_every_object_is_written_as_all_are_stored() {
    let name = "customresourcedefinitions.apiextensions.k8s.io#v1/widgets.provisioning.cattle.io";
    let one = "widgets.provisioning.cattle.io#v2/one";
    let with = |live: Value, backup: Value, version: &str| {
        world(|world| {
            world.serve(&format!("widgets.provisioning.cattle.io#{version}"), true, false);
            world.backed_up(name, backup).live(name, live);
            world.backed_up(&one.replace("v2", version), json!({"spec": 1}));
            world.live(&one.replace("v2", version), json!({"spec": 2}));
            world.cluster.webhooks.services =
                BTreeMap::from([(service("cattle-system/widgets"), Answered::NoEndpoint)]);
            world.accept(GateCode::WebhookUnavailable);
        })
    };
    let swapped = |storage: usize, stored: &[&str]| {
        let mut definition = converted();
        for version in 0..2 {
            definition["spec"]["versions"][version]["storage"] = json!(version == storage);
        }
        definition["status"]["storedVersions"] = json!(stored);
        definition
    };
    let as_stored = with(converted(), converted(), "v2");
    assert_eq!(silences(&as_stored), ["conversion of CustomResourceDefinition widgets.provisioning.cattle.io"]);
    assert!(rights(&as_stored).contains("patch customresourcedefinitions"), "{}", rights(&as_stored));
    let gates = as_stored.plan().gates;
    let gate = gates.iter().find(|gate| gate.code == GateCode::WebhookUnavailable).expect("it is raised");
    assert!(gate.accepted && !gate.message.contains("accepting does not help"), "{}", gate.message);
    for (live, backup, version, why) in [
        (converted(), converted(), "v1", "written at another version"),
        (swapped(0, &["v1", "v2"]), converted(), "v2", "some may be stored at another version"),
        (swapped(1, &["v1"]), converted(), "v2", "the backup's definition stores anew"),
        (swapped(0, &["v2"]), swapped(1, &[]), "v2", "written as they are stored, and then no more"),
    ] {
        let world = with(live, backup, version);
        assert!(silences(&world).is_empty(), "{why}");
        let gates = world.plan().gates;
        let gate = gates.iter().find(|gate| gate.code == GateCode::WebhookUnavailable).expect("it is raised");
        let told = "accepting does not help with widgets.provisioning.cattle.io";
        assert!(gate.message.contains(told) && gate.remedy.contains("fail by name"), "{why}: {}", gate.message);
    }
}

#[test]
fn the_conversion_of_a_definition_that_no_backup_holds_is_judged_by_the_live_one() {
    let mut definition = converted();
    merge(&mut definition, json!({"metadata": {"name": "widgets.provisioning.cattle.io"}}));
    let mut world = world(|world| {
        let one = "widgets.provisioning.cattle.io#v2/one";
        world.serve("widgets.provisioning.cattle.io#v2", true, false);
        world.backed_up(one, json!({"spec": 1})).live(one, json!({"spec": 2}));
        world.cluster.webhooks.services = BTreeMap::from([(service("cattle-system/widgets"), Answered::Missing)]);
        world.accept(GateCode::WebhookUnavailable);
    });
    let conversion = |definition: &Value| {
        let read = crate::webhook::ConversionWebhook::read(definition.as_object().expect("an object"));
        vec![read.expect("a webhook converts")]
    };
    world.cluster.webhooks.conversion = conversion(&definition);
    assert_eq!(silences(&world), ["conversion of CustomResourceDefinition widgets.provisioning.cattle.io"]);
    definition["status"]["storedVersions"] = json!(["v1", "v2"]);
    world.cluster.webhooks.conversion = conversion(&definition);
    assert!(silences(&world).is_empty());
}

const PROD: &str = "clusters.provisioning.cattle.io#v1/fleet-default/prod";

fn prod(version: &str, workers: i64) -> Value {
    json!({"spec": {"kubernetesVersion": version,
        "rkeConfig": {"machinePools": [{"name": "workers", "quantity": workers, "token": "hidden"}, {"name": "control", "quantity": 3}]}}})
}

#[test]
fn a_cluster_that_rancher_would_take_back_is_held_with_from_and_to() {
    let mut world = world(|world| {
        world.serve("machines.cluster.x-k8s.io#v1beta1", true, true);
        world.backed_up(PROD, prod("v1.28.9+rke2r1", 3)).live(PROD, prod("v1.30.4+rke2r1", 5));
        let machine = |name: &str| format!("machines.cluster.x-k8s.io#v1beta1/fleet-default/{name}");
        let of = |cluster: &str| json!({"spec": {"clusterName": cluster}});
        world.backed_up(&machine("old"), of("prod")).live(&machine("new"), of("prod"));
        world.backed_up(&machine("elsewhere"), of("gone"));
        let secret = "secrets.#v1/fleet-default/m-machine-plan";
        let plan = |data: &str| {
            json!({"type": "rke.cattle.io/machine-plan", "data": {"plan": data},
                "metadata": {"labels": {"rke.cattle.io/cluster-name": "prod"}}})
        };
        world.backed_up(secret, plan("aGlkZGVu")).live(secret, plan("aGlkZGVuCg=="));
        world.both("clusters.provisioning.cattle.io#v1/fleet-default/same", prod("v1.30.4+rke2r1", 1));
        world.accept(GateCode::PruneDeletesClusters);
    });
    let text = held(&world);
    assert!(!text.contains("hidden") && !text.contains("aGlkZGVu"), "{text}");
    assert_snapshot!(text, @r"
    DownstreamReverts: Rancher would take back 1 downstream cluster: cluster fleet-default/prod (Kubernetes v1.30.4+rke2r1 -> v1.28.9+rke2r1; pool workers: 5 -> 3; 1 machine back, 1 machine gone; 1 machine plan changed)
    -> name a newer backup, if they must stay as they are; or add to the manifest's annotations: `reinback.io/accept: DownstreamReverts, PruneDeletesClusters` (restores them as they are in the backup, and Rancher carries that out when it is up again)
    ");
    assert!(is_accepted(world.accept(GateCode::DownstreamReverts), GateCode::DownstreamReverts));
    world.request.accept.clear();
    world.request.resuming = true;
    assert!(!world.holding().contains(&GateCode::DownstreamReverts), "judged when the run began");
}

#[test]
fn a_cluster_that_is_not_there_or_differs_elsewhere_is_none_that_is_taken_back() {
    let mut world = world(|world| {
        world.backed_up(PROD, prod("v1.28.9+rke2r1", 3));
    });
    assert!(is_free(&world), "nothing of it is there");
    let mut annotated = prod("v1.28.9+rke2r1", 3);
    merge(&mut annotated, json!({"metadata": {"annotations": {"a": "b"}}}));
    world.live(PROD, annotated);
    assert!(is_free(&world) && !world.plan().is_empty());
}

#[test]
fn the_sudo_identity_and_the_pausing_of_clusters_are_rights_that_are_asked_for() {
    let mut world = world(|world| {
        world.backed_up(SETTING, json!({}));
        asked(world, Answered::Ready, json!({}));
        let mut capi = workload("cattle-capi-system", "capi-controller-manager");
        capi.answers = vec![service("cattle-capi-system/capi-webhook-service")];
        world.cluster.workloads.push(capi);
    });
    let rights = |world: &World| -> Vec<String> {
        let plan = world.plan();
        let wanted = crate::plan::accesses(&plan, &world.observed());
        let told = |access: &Access| format!("{} {} {:?}", access.verb, access.resource, access.name);
        wanted
            .iter()
            .map(told)
            .filter(|told| told.starts_with("impersonate") || told.starts_with("patch clusters"))
            .collect()
    };
    assert_eq!(rights(&world), ["patch clusters None"], "without the account nobody is impersonated");
    world.cluster.webhooks.sudo = true;
    assert_snapshot!(rights(&world).join("\n"), @r#"
    impersonate groups Some("system:masters")
    impersonate serviceaccounts Some("rancher-webhook-sudo")
    patch clusters None
    "#);
}
