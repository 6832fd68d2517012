mod let_go;
mod operator;
mod owners;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::testing::{SHA256, World, crd, guarded, key, merge, object, owner, uid_of, workload};
use super::*;
use crate::backup;
use crate::object::StatusPlace;
use crate::object::owner::{Owner, OwnerId};
use crate::object::prepare::{Context, prepare};
use crate::observed::Access;

const BINDING: &str = "clusterrolebindings.rbac.authorization.k8s.io#v1/crb";

fn user(name: &str) -> String {
    format!("users.management.cattle.io#v3/{name}")
}

fn secret(name: &str) -> String {
    format!("secrets.#v1/cattle-system/{name}")
}

fn owned_by(owners: &[&str]) -> Value {
    let owners: Vec<Value> = owners.iter().map(|path| owner(path, &uid_of(path))).collect();
    json!({ "metadata": { "ownerReferences": owners } })
}

/// What happens to each object of the backup, in the order of writing.
fn changes(world: &World) -> String {
    let observed = world.observed();
    let plan = plan(&world.request, &observed);
    render::text(&plan, &observed, render::Verbosity::Objects)
        .split_once("in the order of writing\n")
        .and_then(|(_, objects)| objects.split_once("\n\n"))
        .map(|(objects, _)| objects.lines().map(str::trim_start).collect::<Vec<_>>().join("\n"))
        .unwrap_or_default()
}

fn deletions(world: &World) -> String {
    let observed = world.observed();
    let plan = plan(&world.request, &observed);
    let line = |deletion: &Deletion| {
        let along: Vec<String> = deletion.takes_along.iter().map(ToString::to_string).collect();
        format!("{} [{}]", observed.live.objects[deletion.live as usize].key, along.join(", "))
    };
    plan.deletions.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn spared(world: &World) -> Vec<(String, Protection)> {
    world.plan().spared.iter().map(|(key, why)| (key.to_string(), *why)).collect()
}

// What each object needs.

#[test]
fn a_status_without_the_subresource_is_part_of_the_object() {
    let mut world = World::quiet();
    for path in ["projects.management.cattle.io#v3/c-1/p-1", "clusters.provisioning.cattle.io#v1/a/b"] {
        world.backed_up(path, json!({ "status": { "a": 1 } })).live(path, json!({ "status": { "a": 2 } }));
    }
    insta::assert_snapshot!(changes(&world), @r"
    projects.management.cattle.io#v3/c-1/p-1  update: spec
    clusters.provisioning.cattle.io#v1/a/b  update: status
    ");
    let places: Vec<StatusPlace> = world.plan().items.iter().map(|item| item.status).collect();
    assert_eq!(places, [StatusPlace::Body, StatusPlace::Subresource]);
}

#[test]
fn the_backups_definition_says_where_a_status_is() {
    let mut world = World::quiet();
    world.serve("foos.example.org#v1", true, true);
    let definition = "customresourcedefinitions.apiextensions.k8s.io#v1/foos.example.org";
    world.both(definition, crd("foos", "example.org", "v1", false)).both("foos.example.org#v1/a", json!({}));
    assert_eq!(world.plan().items[1].status, StatusPlace::Body);
}

// Order.

#[test]
fn on_another_cluster_all_agents_are_deployed_anew_and_once() {
    let fleet = "clusters.fleet.cattle.io#v1alpha1/fleet-default/c";
    let managed = "clusters.management.cattle.io#v3/c-1";
    let generation = |n: i64| json!({ "spec": { "redeployAgentGeneration": n } });
    let forced = json!({ "metadata": { "annotations": { "io.cattle.agent.force.deploy": "true" } } });
    let updates = |fleet_live: Value, managed_live: Value, uid: &str| {
        let mut world = World::quiet();
        world.serve("clusters.fleet.cattle.io#v1alpha1", true, true);
        world.backed_up(fleet, generation(3)).live(fleet, fleet_live);
        world.backed_up(managed, json!({})).live(managed, managed_live);
        world.cluster.uid = uid.to_owned();
        let redeploys = Change::Update(Differs { redeploy: true, ..Differs::default() });
        world.plan().items.iter().filter(|item| item.change == redeploys).count()
    };
    assert_eq!(updates(generation(3), json!({}), "another"), 2);
    assert_eq!(updates(generation(4), forced, "another"), 0, "they were asked already");
    assert_eq!(updates(generation(3), json!({}), super::testing::UID), 0, "at home what is equal is left alone");
}

#[test]
fn a_namespace_that_holds_what_is_in_use_is_not_pruned() {
    let mut world = World::quiet();
    for namespace in ["cattle-system", "cattle-resources-system", "cattle-gone"] {
        world.live(&format!("namespaces.#v1/{namespace}"), json!({}));
    }
    assert_eq!(deletions(&world), "namespaces.#v1/cattle-gone []");
    assert_eq!(
        spared(&world),
        [
            ("namespaces.#v1/cattle-resources-system".to_owned(), Protection::Operator),
            ("namespaces.#v1/cattle-system".to_owned(), Protection::RancherDeployment),
        ]
    );
}

#[test]
fn a_hundred_thousand_objects_are_planned_in_seconds() {
    let mut world = World::quiet();
    for number in 0..20_000 {
        let account = format!("serviceaccounts.#v1/ns/a-{number}");
        let annotations = json!({ "kubernetes.io/service-account.name": format!("a-{number}") });
        let token =
            json!({ "type": "kubernetes.io/service-account-token", "metadata": { "annotations": annotations } });
        world.backed_up(&account, json!({})).backed_up(&format!("secrets.#v1/ns/a-{number}"), token);
        let above = format!("configmaps.#v1/ns/c-{}", number + 1);
        world.backed_up(&format!("configmaps.#v1/ns/c-{number}"), owned_by(&[&above]));
        world.live(&format!("namespaces.#v1/p-{number}"), json!({}));
        world.dependent(
            &format!("configmaps.#v1/p-{number}/d"),
            &[&format!("configmaps.#v1/p-{}/d", (number + 1) % 20_000)],
        );
    }
    world.backed_up("configmaps.#v1/ns/c-20000", json!({}));
    let observed = world.observed();
    let begun = std::time::Instant::now();
    let plan = plan(&world.request, &observed);
    let took = begun.elapsed();
    assert_eq!((plan.items.len(), plan.deletions.len()), (60_001, 20_000));
    assert_eq!(plan.items.last().map(|item| item.depth), Some(20_000));
    assert!(took.as_secs() < 20, "{took:?}, in a build without optimisation");
}

// Prune.

#[test]
fn prune_deletes_what_selectors_match_and_the_backup_lacks() {
    let mut world = World::quiet();
    world.both(&secret("kept"), json!({})).live(&secret("later"), json!({}));
    world.live(&secret("of-nobody"), json!({}));
    world.live.last_mut().unwrap().selected = false;
    world.live("serviceaccounts.#v1/kube-system/x", json!({}));
    assert_eq!(deletions(&world), "secrets.#v1/cattle-system/later []");
    assert_eq!(spared(&world), [("serviceaccounts.#v1/kube-system/x".to_owned(), Protection::KubeNamespace)]);
    world.backup.selectors = None;
    assert_eq!(deletions(&world), "");
    assert!(world.plan().warnings[0].contains("nothing can be pruned"));
}

#[test]
fn an_object_at_another_version_is_the_same_one() {
    let mut world = World::quiet();
    world.backed_up("machines.cluster.x-k8s.io#v1beta1/a/m", json!({}));
    world.live("machines.cluster.x-k8s.io#v1beta2/a/m", json!({}));
    world.live("foos.example.org#v1/twice", json!({})).live("foos.example.org#v2/twice", json!({}));
    world.live(
        "customresourcedefinitions.apiextensions.k8s.io#v1/foos.example.org",
        crd("foos", "example.org", "v1", false),
    );
    world.dependent("foos.example.org#v2/twice", &[]);
    let definition = "customresourcedefinitions.apiextensions.k8s.io#v1/foos.example.org";
    assert_eq!(deletions(&world), format!("foos.example.org#v1/twice []\n{definition} []"));
}

#[test]
fn custom_resources_go_before_namespaces_and_definitions() {
    let mut world = World::quiet();
    world.live(
        "customresourcedefinitions.apiextensions.k8s.io#v1/foos.example.org",
        crd("foos", "example.org", "v1", false),
    );
    world.live("namespaces.#v1/p-1", json!({})).live("clusterroles.rbac.authorization.k8s.io#v1/r", json!({}));
    world.live("secrets.#v1/p-1/s", json!({})).live(&user("u-1"), json!({}));
    insta::assert_snapshot!(deletions(&world), @r"
    users.management.cattle.io#v3/u-1 []
    secrets.#v1/p-1/s []
    clusterroles.rbac.authorization.k8s.io#v1/r []
    namespaces.#v1/p-1 []
    customresourcedefinitions.apiextensions.k8s.io#v1/foos.example.org []
    ");
}

#[test]
fn what_goes_along_is_followed_through_owners_namespaces_and_definitions() {
    let mut world = World::quiet();
    let definition = "customresourcedefinitions.apiextensions.k8s.io#v1/foos.example.org";
    world.live(&user("u-1"), json!({})).live(&user("u-2"), json!({}));
    world.dependent("namespaces.#v1/u-1", &[&user("u-1")]).dependent("secrets.#v1/u-1/a", &[]);
    world.dependent("configmaps.#v1/other/b", &["secrets.#v1/u-1/a"]);
    world.dependent("configmaps.#v1/other/both", &[&user("u-2"), &user("u-1")]);
    world.dependent(definition, &[&user("u-2")]).dependent("foos.example.org#v1/f", &[]);
    world.dependent("configmaps.#v1/other/round", &["configmaps.#v1/other/about"]);
    world.dependent("configmaps.#v1/other/about", &["configmaps.#v1/other/round", &user("u-2")]);
    world.dependent("configmaps.#v1/other/apart", &["uid of nothing"]);
    insta::assert_snapshot!(deletions(&world), @r"
    users.management.cattle.io#v3/u-1 [configmaps.#v1/other/b, configmaps.#v1/other/both, namespaces.#v1/u-1, secrets.#v1/u-1/a]
    users.management.cattle.io#v3/u-2 [configmaps.#v1/other/about, configmaps.#v1/other/round, customresourcedefinitions.apiextensions.k8s.io#v1/foos.example.org, foos.example.org#v1/f]
    ");
    world.live.reverse();
    world.dependents.reverse();
    let reversed = deletions(&world);
    world.live.reverse();
    assert_eq!(deletions(&world), reversed, "whatever the order of the lists");
}

#[test]
fn what_objects_of_the_backup_need_is_not_pruned() {
    let mut world = World::quiet();
    world.live("namespaces.#v1/p-1", json!({})).backed_up("secrets.#v1/p-1/a", owned_by(&[&user("u-1")]));
    world.live(&user("u-1"), json!({}));
    world.live(
        "customresourcedefinitions.apiextensions.k8s.io#v1/foos.example.org",
        crd("foos", "example.org", "v1", false),
    );
    world.serve("foos.example.org#v1", true, false).backed_up("foos.example.org#v1/f", json!({}));
    assert_eq!(deletions(&world), "");
    assert!(spared(&world).iter().all(|(_, why)| *why == Protection::Needed) && spared(&world).len() == 3);
}

#[test]
fn a_resumed_run_prunes_as_it_began() {
    let mut world = World::quiet();
    world.backup.name = crate::backup::BackupName::new("renamed.tar.gz").unwrap();
    world.cluster.install_uuid.clone_from(&world.backup.facts.install_uuid);
    world.live(&secret("later"), json!({}));
    assert!(world.plan().prunes);
    world.request.resuming = true;
    world.request.prunes_as_begun = Some(false);
    assert!(!world.plan().prunes && world.plan().deletions.is_empty());
}

// Digest, rights, the whole.

#[test]
fn the_digest_covers_what_is_approved_and_nothing_more() {
    let mut world = World::quiet();
    world.live("namespaces.#v1/p-1", json!({})).dependent("configmaps.#v1/p-1/a", &[]);
    let digest = |world: &World| world.plan().digest;
    let first = digest(&world);
    insta::assert_snapshot!(first, @"sha256:7d5f4d30dea136ff5b76535ccb91e5d20e61e3c7214530a5c61f179033fd36bd");
    world.both(&user("skipped"), json!({})).backed_up(&user("made"), json!({}));
    world.dependent("pods.#v1/p-1/rancher-5d4f-x2x", &[]).dependent("events.events.k8s.io#v1/p-1/e", &[]);
    assert_eq!(digest(&world), first, "a running cluster changes these by the minute");
    let changed = |change: fn(&mut World)| {
        let mut world = World::quiet();
        world.live("namespaces.#v1/p-1", json!({})).dependent("configmaps.#v1/p-1/a", &[]);
        change(&mut world);
        digest(&world)
    };
    let others = [
        changed(|world| world.request.key.push('x')),
        changed(|world| world.backup.sha256 = SHA256.replace('1', "2")),
        changed(|world| _ = world.dependent("configmaps.#v1/p-1/b", &[])),
        changed(|world| _ = world.live(&secret("later"), json!({}))),
        changed(|world| _ = world.accept(GateCode::PruneDeletesNamespaces)),
        changed(|world| {
            let path = "customresourcedefinitions.apiextensions.k8s.io#v1/foos.example.org";
            world.backed_up(path, crd("foos", "example.org", "v1", false));
        }),
    ];
    let distinct: BTreeSet<&String> = others.iter().chain([&first]).collect();
    assert_eq!(distinct.len(), others.len() + 1);
}

#[test]
fn rights_are_asked_for_what_the_plan_does() {
    let mut world = World::quiet();
    let role = |name: &str| json!({ "roleRef": { "name": name } });
    world.backed_up(BINDING, role("a")).live(BINDING, role("b"));
    world.backed_up("roles.rbac.authorization.k8s.io#v1/ns/r", json!({ "rules": [{ "verbs": ["get"] }] }));
    world.backed_up("rolebindings.rbac.authorization.k8s.io#v1/ns/b", role("r"));
    let cluster = "clusters.provisioning.cattle.io#v1/a/b";
    world.backed_up(cluster, json!({ "status": { "a": 1 } })).live(cluster, json!({}));
    world.both(&user("equal"), json!({})).live(&secret("later"), json!({}));
    let mut webhook = workload("cattle-system", "rancher-webhook");
    webhook.answers = vec![crate::plan::testing::service("cattle-system/rancher-webhook")];
    world.cluster.workloads.push(webhook);
    let observed = world.observed();
    let rights = accesses(&plan(&world.request, &observed), &observed);
    let said: Vec<String> =
        rights.iter().map(|Access { verb, group, resource, .. }| format!("{verb} {resource}.{group}")).collect();
    insta::assert_snapshot!(said.join("\n"), @"
    bind clusterroles.rbac.authorization.k8s.io
    bind roles.rbac.authorization.k8s.io
    create leases.coordination.k8s.io
    create clusterrolebindings.rbac.authorization.k8s.io
    create rolebindings.rbac.authorization.k8s.io
    create roles.rbac.authorization.k8s.io
    create runs.reinback.io
    delete secrets.
    delete clusterrolebindings.rbac.authorization.k8s.io
    escalate roles.rbac.authorization.k8s.io
    get namespaces.
    get secrets.
    get serviceaccounts.
    get services.
    get mutatingwebhookconfigurations.admissionregistration.k8s.io
    get validatingwebhookconfigurations.admissionregistration.k8s.io
    get customresourcedefinitions.apiextensions.k8s.io
    get deployments.apps
    get statefulsets.apps
    get leases.coordination.k8s.io
    get settings.management.cattle.io
    get clusters.provisioning.cattle.io
    get clusterrolebindings.rbac.authorization.k8s.io
    get rolebindings.rbac.authorization.k8s.io
    get roles.rbac.authorization.k8s.io
    get runs.reinback.io
    list namespaces.
    list pods.
    list secrets.
    list mutatingwebhookconfigurations.admissionregistration.k8s.io
    list validatingwebhookconfigurations.admissionregistration.k8s.io
    list customresourcedefinitions.apiextensions.k8s.io
    list deployments.apps
    list statefulsets.apps
    list horizontalpodautoscalers.autoscaling
    list endpointslices.discovery.k8s.io
    list helmcharts.helm.cattle.io
    list scaledobjects.keda.sh
    list runs.reinback.io
    list backups.resources.cattle.io
    list restores.resources.cattle.io
    patch secrets.
    patch deployments.apps
    update leases.coordination.k8s.io
    update clusters.provisioning.cattle.io
    update clusters/status.provisioning.cattle.io
    update clusterrolebindings.rbac.authorization.k8s.io
    update rolebindings.rbac.authorization.k8s.io
    update roles.rbac.authorization.k8s.io
    update runs/status.reinback.io
    watch pods.
    watch secrets.
    watch customresourcedefinitions.apiextensions.k8s.io
    watch deployments.apps
    watch statefulsets.apps
    ");
}

#[test]
fn what_cannot_be_read_plans_nothing_and_asks_no_rights() {
    let mut world = World::quiet();
    world.both(&user("a"), json!({})).live(&user("b"), json!({}));
    world.seen = Some(BackupSeen::Corrupt { message: "x".to_owned() });
    let observed = world.observed();
    let plan = plan(&world.request, &observed);
    assert!(plan.is_empty() && plan.backup.is_none() && accesses(&plan, &observed).is_empty());
}

// After a restore there is nothing to do.

/// SplitMix64: the same numbers in every build.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % sides as u64).expect("less than sides")
    }

    fn flip(&mut self) -> bool {
        self.roll(2) == 0
    }
}

/// A backup and a cluster as whole objects, by path.
#[derive(Default)]
struct Objects {
    backup: Vec<(String, Value)>,
    live: BTreeMap<String, Value>,
    uids: u32,
}

const TYPES: &[&str] = &[
    "users.management.cattle.io#v3/",
    "projects.management.cattle.io#v3/ns/",
    "clusters.provisioning.cattle.io#v1/ns/",
    "clusters.management.cattle.io#v3/",
    "secrets.#v1/ns/",
    "configmaps.#v1/ns/",
    "serviceaccounts.#v1/ns/",
    "namespaces.#v1/",
    "deployments.apps#v1/ns/",
    "clusterrolebindings.rbac.authorization.k8s.io#v1/",
    "clusterroles.rbac.authorization.k8s.io#v1/",
    "customresourcedefinitions.apiextensions.k8s.io#v1/",
];

impl Objects {
    fn random(dice: &mut Dice) -> Self {
        let mut objects = Self::default();
        for number in 0..40 {
            let kind = TYPES[dice.roll(TYPES.len())];
            let path = match kind.starts_with("customresource") {
                true => format!("{kind}foo{number}s.example.org"),
                false => format!("{kind}o-{number}"),
            };
            let mut value = object(&path, content(&path, number, dice));
            let mut owners = objects.owners(dice);
            if path.starts_with("customresource") {
                owners.retain(|owner| owner["kind"] == "Customresourcedefinition");
            }
            if !owners.is_empty() {
                value["metadata"]["ownerReferences"] = json!(owners);
            }
            let at = dice.roll(objects.backup.len() + 1);
            objects.backup.insert(at, (path, value));
        }
        for (path, value) in objects.backup.clone() {
            objects.disturb(&path, value, dice);
        }
        for number in 0..5 {
            let path = format!("users.management.cattle.io#v3/later-{number}");
            let value = object(&path, json!({}));
            objects.store(&path, value);
        }
        objects
    }

    /// Of what is there already, so that there is no circle; and now and then of nothing.
    fn owners(&self, dice: &mut Dice) -> Vec<Value> {
        let mut owners = Vec::new();
        for _ in 0..dice.roll(3) {
            match self.backup.is_empty() || dice.roll(8) == 0 {
                true => owners.push(owner(&user("gone"), "gone")),
                false => owners.push(owner(&self.backup[dice.roll(self.backup.len())].0, "old")),
            }
        }
        owners.dedup_by_key(|owner| owner["name"].clone());
        owners
    }

    fn disturb(&mut self, path: &str, mut value: Value, dice: &mut Dice) {
        match dice.roll(6) {
            0 => return,
            1 => merge(&mut value, json!({ "metadata": { "annotations": { "changed": "x" } } })),
            2 => merge(&mut value, json!({ "status": { "changed": true } })),
            3 => merge(&mut value, json!({ "metadata": { "ownerReferences": [] } })),
            4 => merge(&mut value, json!({ "type": "kubernetes.io/tls", "roleRef": { "name": "other" } })),
            _ => {}
        }
        if path.starts_with("customresource") && dice.flip() {
            let mut newer = value["spec"]["versions"][0].clone();
            merge(&mut newer, json!({ "name": "v2", "storage": false }));
            value["spec"]["versions"].as_array_mut().unwrap().push(newer);
            value["status"]["storedVersions"] = json!(["v1", "v2"]);
        }
        self.store(path, value);
    }

    /// As the API server and its controllers would.
    fn store(&mut self, path: &str, mut value: Value) {
        self.uids += 1;
        let uid = self
            .live
            .get(path)
            .map_or_else(|| json!(format!("live-{}", self.uids)), |live| live["metadata"]["uid"].clone());
        merge(
            &mut value,
            json!({ "metadata": {
                "uid": uid, "resourceVersion": self.uids.to_string(), "creationTimestamp": "2026-11-23T00:00:00Z", "generation": 4, "managedFields": [{}],
            }}),
        );
        if path.starts_with("namespaces") {
            merge(
                &mut value,
                json!({ "spec": { "finalizers": ["kubernetes"] }, "metadata": { "labels": { "kubernetes.io/metadata.name": "x" } } }),
            );
        }
        if value["type"] == "kubernetes.io/service-account-token" {
            merge(
                &mut value,
                json!({ "data": { "token": uid }, "metadata": { "annotations": { "kubernetes.io/service-account.uid": uid } } }),
            );
        }
        if path.starts_with("customresource") {
            merge(&mut value, json!({ "spec": { "conversion": { "strategy": "None" } } }));
        }
        self.live.insert(path.to_owned(), value);
    }

    fn world(&self) -> World {
        let mut world = World::quiet();
        for (path, value) in &self.backup {
            world.backed_up(path, value.clone());
        }
        for (path, value) in &self.live {
            world.live(path, value.clone());
        }
        world
    }

    fn uid(&self, owner: &Owner, namespace: Option<&Arc<str>>) -> Option<Box<str>> {
        let id = |(path, value): (&String, &Value)| {
            let kind = Arc::from(value["kind"].as_str().unwrap_or_default());
            (
                crate::object::owner::OwnerId::of(&key(path), &kind),
                Box::from(value["metadata"]["uid"].as_str().unwrap_or_default()),
            )
        };
        let live: BTreeMap<OwnerId, Box<str>> = self.live.iter().map(id).collect();
        owner.candidates(namespace).find_map(|id| live.get(&id).cloned())
    }

    /// What an executor does, without its haste.
    fn apply(&mut self, plan: &Plan, observed: &Observed) {
        let BackupSeen::Whole(backup) = &observed.backup else { panic!("a whole backup") };
        for item in plan.items.iter().filter(|item| item.writes()) {
            let key = &backup.objects[item.backup as usize].key;
            let (path, value) = self.backup[item.backup as usize].clone();
            assert_eq!(path, key.to_string());
            if item.change == Change::Recreate {
                self.live.remove(&path);
            }
            let live = self.live.get(&path).cloned();
            let context = Context {
                key,
                resource_version: None,
                live: live.as_ref(),
                redeploy_generation: None,
                account_uid: None,
                status: item.status,
                held_replicas: false,
                bundles: &observed.cluster.webhooks.kept,
                pausing: false,
                owner_uid: &|owner, namespace| self.uid(owner, namespace),
            };
            let prepared = prepare(value, &context);
            let mut stored = prepared.body;
            if let Some(status) =
                prepared.status.or_else(|| live?.get("status").filter(|_| item.status != StatusPlace::Body).cloned())
            {
                stored["status"] = status;
            }
            self.store(&path, stored);
        }
        for deletion in &plan.deletions {
            self.live.remove(&observed.live.objects[deletion.live as usize].key.to_string());
        }
    }
}

fn content(path: &str, number: usize, dice: &mut Dice) -> Value {
    let mut content = match path.split_once('.').map(|(plural, _)| plural) {
        Some("secrets") if dice.flip() => {
            json!({ "type": "kubernetes.io/service-account-token", "data": { "token": "old" } })
        }
        Some("secrets") => json!({ "type": "Opaque", "data": { "a": number } }),
        Some("clusterrolebindings") => json!({ "roleRef": { "name": format!("r-{number}") } }),
        Some("clusterroles") if dice.flip() => json!({ "aggregationRule": { "x": 1 }, "rules": [{}] }),
        Some("deployments") => json!({ "spec": { "replicas": 2 } }),
        Some("customresourcedefinitions") => {
            let mut crd = crd(&format!("foo{number}s"), "example.org", "v1", dice.flip());
            if dice.flip() {
                crd["spec"]["preserveUnknownFields"] = json!(true);
            }
            crd
        }
        _ => json!({ "spec": { "n": number, "nothing": null } }),
    };
    if dice.flip() {
        merge(
            &mut content,
            json!({ "metadata": { "labels": {}, "annotations": { "a": "b" }, "finalizers": ["y", "x"] } }),
        );
    }
    if dice.flip() && !path.starts_with("customresource") {
        merge(&mut content, json!({ "status": { "ready": number } }));
    }
    content
}

#[test]
fn a_plan_right_after_a_restore_is_empty() {
    for seed in 0..100 {
        let mut objects = Objects::random(&mut Dice(seed));
        let observed = objects.world().observed();
        let first =
            plan(&Request { accept: GateCode::ALL.iter().copied().collect(), ..objects.world().request }, &observed);
        assert!(first.cycles.is_empty());
        objects.apply(&first, &observed);
        let world = objects.world();
        assert!(world.plan().is_empty(), "seed {seed}: {}", changes(&world));
        let lost = objects.backup.iter().filter(|(path, _)| !objects.live.contains_key(path)).count();
        assert_eq!(lost, 0, "seed {seed}");
    }
}

/// Every object of a backup of the real operator.
fn fixture(file: &str) -> Objects {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(file);
    let bytes = std::fs::read(path).unwrap();
    let mut objects = Objects::default();
    let read = backup::read(&bytes[..], bytes.len() as u64, &backup::Limits::default(), None, |entry| {
        if let backup::Entry::Object { key, value, encrypted: _ } = entry {
            objects.backup.push((key.to_string(), value));
        }
        Ok::<_, std::convert::Infallible>(())
    });
    read.unwrap();
    objects
}

#[test]
fn a_backup_of_the_real_operator_is_restored_over_nothing_and_over_itself() {
    let mut objects = fixture("plain-6e9ee6a6-d4f2-46c2-bd99-75269cf041dc-2026-11-23T05-58-54Z.tar.gz");
    let world = objects.world();
    let observed = world.observed();
    let first = world.plan();
    insta::assert_debug_snapshot!(first.counts(), @r"
    Counts {
        created: 464,
        updated: 0,
        recreated: 0,
        deleted: 0,
        skipped: 0,
        protected: 0,
        failed: 0,
    }
    ");
    insta::assert_snapshot!(first.gates.iter().map(|gate| format!("{}: {}", gate.code, gate.message)).collect::<Vec<_>>().join("\n"), @"");
    objects.apply(&first, &observed);
    let world = objects.world();
    assert!(world.plan().is_empty(), "{}", changes(&world));
    for (path, value) in objects.backup.clone() {
        objects.store(&path, value);
    }
    objects.world().plan();
}

#[test]
fn what_a_test_world_guards_is_rancher_itself() {
    assert_eq!(guarded().rancher_deployment, "rancher");
}

#[test]
fn a_writer_that_the_restore_makes_comes_up_at_resume_and_one_that_answers_webhooks_at_once() {
    let mut world = World::quiet();
    let deployment = |namespace: &str, name: &str| format!("deployments.apps#v1/{namespace}/{name}");
    world.backup.controllers.push(workload("cattle-x", "named-by-the-backup").reference);
    for (namespace, name) in [
        ("cattle-fleet-system", "fleet-controller"),
        ("cattle-system", "rancher-webhook"),
        ("cattle-x", "named-by-the-backup"),
        ("cattle-x", "another"),
    ] {
        world.backed_up(&deployment(namespace, name), json!({ "spec": { "replicas": 2 } }));
    }
    // It does not say how many, which is 1.
    world.backed_up(&deployment("cattle-fleet-system", "gitjob"), json!({ "spec": { "paused": true } }));
    // It is there already, and so scaled down like any other.
    world.both(&deployment("cattle-fleet-local-system", "fleet-agent"), json!({ "spec": { "replicas": 1 } }));
    let observed = world.observed();
    let plan = plan(&world.request, &observed);
    let BackupSeen::Whole(backup) = &observed.backup else { panic!("a whole backup") };
    let arrivals = |with_webhooks: bool| {
        let arrivals = quiesce::arrivals(&plan.items, backup, with_webhooks).into_iter();
        let mut arrivals: Vec<String> = arrivals.map(|(workload, replicas)| format!("{workload} {replicas}")).collect();
        arrivals.sort();
        arrivals
    };
    let beside = [
        "deployments/cattle-fleet-system/fleet-controller 2",
        "deployments/cattle-fleet-system/gitjob 1",
        "deployments/cattle-x/named-by-the-backup 2",
    ];
    assert_eq!(arrivals(false), beside);
    assert_eq!(arrivals(true), [&beside[..2], &["deployments/cattle-system/rancher-webhook 2"], &beside[2..]].concat());
}

// Migration.

/// On a cluster where there was no Rancher.
fn migrated() -> World {
    let mut world = World::quiet();
    world.cluster.uid = "0000".to_owned();
    world.cluster.workloads.clear();
    world.cluster.server_url = None;
    world.cluster.server_version = None;
    world
}

#[test]
fn what_describes_the_old_local_cluster_stays_behind_and_only_in_a_migration() {
    let left = ["nodes.management.cattle.io#v3/local/machine-1", "secrets.#v1/fleet-local/local-kubeconfig"];
    let kept = ["clusters.management.cattle.io#v3/local", "secrets.#v1/fleet-local/other"];
    let with_objects = |mut world: World| {
        world.serve("nodes.management.cattle.io#v3", true, false);
        for path in left.iter().chain(&kept) {
            world.backed_up(path, json!({}));
        }
        changes(&world)
    };
    insta::assert_snapshot!(with_objects(migrated()), @r"
    clusters.management.cattle.io#v3/local  create
    nodes.management.cattle.io#v3/local/machine-1  protected: describes the cluster that the backup's Rancher ran in, and Rancher makes it anew for this one
    secrets.#v1/fleet-local/local-kubeconfig  protected: describes the cluster that the backup's Rancher ran in, and Rancher makes it anew for this one
    secrets.#v1/fleet-local/other  create
    ");
    assert!(!with_objects(World::quiet()).contains("describes"));
}

#[test]
fn a_migration_says_what_nobody_can_see_and_what_comes_next() {
    let mut world = migrated();
    world.cluster.kubernetes_version = Some("v1.31.4+k3s1".to_owned());
    insta::assert_snapshot!(world.plan().warnings.join("\n"), @r"
    the backup is of another cluster: the Rancher there must be at 0 replicas for good before one starts here, and the host name of https://rancher.example.org must lead here, or two Ranchers drive the same clusters
    the chart of Rancher v2.9.3 is made for Kubernetes before 1.31, and here is v1.31.4+k3s1: Helm will not install it; use an older Kubernetes, or upgrade Rancher on the old cluster and back it up again
    there is no Rancher in cattle-system to stop or to start: when this has succeeded, install Rancher v2.9.3 with Helm, for https://rancher.example.org (docs/migration.md)
    prune is off: the backup is of another cluster
    ");
    world.cluster.kubernetes_version = Some("v1.30.9".to_owned());
    world.cluster.workloads = World::quiet().cluster.workloads;
    assert_eq!(world.plan().warnings.len(), 3, "of the Rancher elsewhere, of the one here, and of prune");
}

#[test]
fn webhooks_come_last_of_all_and_stay_away_where_nothing_would_answer_them() {
    let folder = "validatingwebhookconfigurations.admissionregistration.k8s.io#v1";
    let asking = |namespace: &str, name: &str| json!({"webhooks": [{"name": "w", "clientConfig": {"service": {"namespace": namespace, "name": name}}}]});
    let mut world = World::quiet();
    world.serve(folder, false, false).serve("services.#v1", false, true);
    world.backed_up(&format!("{folder}/dead"), asking("cattle-system", "nowhere"));
    world.backed_up(&format!("{folder}/live"), asking("cattle-system", "rancher-webhook"));
    world.backed_up(&format!("{folder}/comes"), asking("cattle-capi-system", "capi-webhook-service"));
    world.backed_up(
        &format!("{folder}/outside"),
        json!({"webhooks": [{"clientConfig": {"url": "https://w.example.org"}}]}),
    );
    world.both(&format!("{folder}/there"), asking("cattle-system", "nowhere"));
    world.backed_up("services.#v1/cattle-capi-system/capi-webhook-service", json!({}));
    world.backed_up(&secret("last"), json!({}));
    world.cluster.services.insert(("cattle-system".to_owned(), "rancher-webhook".to_owned()));
    insta::assert_snapshot!(changes(&world), @r"
    services.#v1/cattle-capi-system/capi-webhook-service  create
    secrets.#v1/cattle-system/last  create
    validatingwebhookconfigurations.admissionregistration.k8s.io#v1/dead  protected: is a webhook whose Service is neither here nor in the backup: with it, what it is asked about could not be written; what serves it makes it again
    validatingwebhookconfigurations.admissionregistration.k8s.io#v1/live  create
    validatingwebhookconfigurations.admissionregistration.k8s.io#v1/comes  create
    validatingwebhookconfigurations.admissionregistration.k8s.io#v1/outside  create
    validatingwebhookconfigurations.admissionregistration.k8s.io#v1/there  equal
    ");
}

#[test]
fn what_selectors_ask_for_and_is_not_served_so_is_said() {
    let mut world = World::quiet();
    let unserved = |what: &str, elsewhere: &[&str]| crate::observed::Unserved {
        what: what.to_owned(),
        elsewhere: elsewhere.iter().map(|version| (*version).to_owned()).collect(),
    };
    world.backup.unserved_selectors =
        vec![unserved("a.example.org/v1", &[]), unserved("cluster.x-k8s.io/v1beta1", &["cluster.x-k8s.io/v1beta2"])];
    world.backup.unlistable = vec!["reviews.example.org".to_owned()];
    insta::assert_snapshot!(world.plan().warnings.join("\n"), @r"
    the backup's selectors ask for a.example.org/v1, which the cluster does not serve: what they would choose there is not pruned
    the backup's selectors ask for cluster.x-k8s.io/v1beta1, which the cluster does not serve (it serves cluster.x-k8s.io/v1beta2): what they would choose there is not pruned
    reviews.example.org can be read but not listed: objects of it are written without a comparison, and none is pruned
    ");
}
