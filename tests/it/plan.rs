//! What `plan` says, against what a run then does: nothing is left to do after a success, on a cluster of its own and on
//! an empty one.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::harness::AuditEvent;
use crate::harness::rancher::{self, Disturbance, Item, Place};
use crate::migration::HELMS_MARKS;
use crate::world::World;

const DISTURBED: Disturbance = Disturbance { changed_percent: 29, deleted_percent: 9, added: 20, seed: 11 };

/// The one plan of the manifest that is open, and the exit code.
async fn planned(world: &World, args: &[&str]) -> (Option<i32>, Value) {
    let said = world.reinback(&[&["plan", "-o", "json"], args].concat()).await;
    let value: Value = serde_json::from_str(&said.stdout).unwrap_or_else(|_| panic!("{said:?}"));
    let plans = value["plans"].as_array().cloned().unwrap_or_default();
    assert_eq!(plans.len(), 1, "{said:?}");
    (said.code, plans[0].clone())
}

/// Everything of a plan that asks for a write, for a message.
fn changes(plan: &Value) -> Vec<String> {
    let objects = plan["objects"].as_array().into_iter().flatten();
    let asks = |object: &&Value| ["create", "update", "recreate"].iter().any(|word| object["change"] == *word);
    let deletions = plan["deletions"].as_array().into_iter().flatten();
    objects.filter(asks).chain(deletions).map(ToString::to_string).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restore_nothing_is_left_to_do_and_each_object_was_written_once_and_never_read() {
    let world = World::start().await;
    world.settle().await;
    rancher::disturb(&world.client, &world.items, DISTURBED).await.expect("disturbed");
    world.commit_restore("back", &[("accept", "PruneShare, DownstreamReverts")], "  prune: true\n");
    let mark = world.cluster.audit_mark();
    let (code, plan) = planned(&world, &[]).await;
    assert_eq!(code, Some(2), "{plan:#}");
    assert!(plan["deletions"].as_array().is_some_and(|deletions| !deletions.is_empty()), "{plan:#}");
    // What deletions take along is known by then.
    assert_eq!(listed_again(&world.cluster.audit_since(mark)), OF_THE_FACTS);
    let mark = world.cluster.audit_mark();
    let said = world.once().await;
    assert_eq!(said.code, Some(0), "{}\n{:?}", said.stderr, world.runs().await);
    let run = Requests::of(&world, mark);
    run.assert_sparing();
    assert_eq!(
        run.written(),
        plan["counts"]["created"].as_u64().unwrap_or(0) + plan["counts"]["updated"].as_u64().unwrap_or(0)
    );

    world.commit_restore("back", &[("requested-at", "2026-11-23T09:00:00Z")], "  prune: true\n");
    let (code, plan) = planned(&world, &[]).await;
    assert_eq!((code, changes(&plan)), (Some(0), Vec::new()));
    assert_eq!(plan["empty"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_another_cluster_makes_everything_in_an_empty_one_and_deletes_nothing() {
    let world = World::empty().await;
    world.settle().await;
    let foreign = "plain-6e9ee6a6-d4f2-46c2-bd99-75269cf041dc-2026-11-23T05-58-54Z.tar.gz";
    std::fs::rename(world.store().join(&world.backup), world.store().join(foreign)).expect("the store is ours");
    let extra = Place::new(("", "v1", "namespaces"), None, "cattle-extra");
    world.cluster.kubectl(&["create", "namespace", "cattle-extra"], "").expect("it is made");
    let commit = |annotations: &str| {
        let text = format!(
            "apiVersion: resources.cattle.io/v1\nkind: Restore\nmetadata: {{name: move, annotations: {{{annotations}}}}}\nspec: {{backupFilename: {foreign}, prune: true}}\n"
        );
        world.work.write("clusters/test/move.yaml", &text).commit("Move");
        world.work.push(&["origin", "HEAD:main"]);
    };
    commit("");
    let (code, plan) = planned(&world, &[]).await;
    assert_eq!(code, Some(3));
    assert_eq!(plan["gates"].as_array().map(Vec::len), Some(1), "{:#}", plan["gates"]);
    insta::assert_snapshot!(plan["gates"][0]["code"].as_str().unwrap_or_default(), @"DifferentCluster");
    assert_eq!(plan["prunes"], false);

    commit("reinback.io/accept: DifferentCluster");
    let said = world.once().await;
    assert_eq!(said.code, Some(0), "{}\n{:?}", said.stderr, world.runs().await);
    // Built-in roles are among them: no Rancher has made them here yet.
    let differences = rancher::differences(&world.client, &world.items).await.expect("the cluster answers");
    assert_eq!(differences, HELMS_MARKS);
    assert!(rancher::get(&world.client, &extra).await.expect("the cluster answers").is_some());
    assert!(world.items.iter().any(is_builtin));

    commit("reinback.io/accept: DifferentCluster, reinback.io/requested-at: '2026-11-23T09:00:00Z'");
    let (code, plan) = planned(&world, &[]).await;
    assert_eq!((code, changes(&plan)), (Some(0), Vec::new()));
}

fn is_builtin(item: &Item) -> bool {
    item.object["builtin"] == true
}

/// Types that are also listed for what is known of the cluster: who scales Rancher, and which webhooks are asked about what.
const OF_THE_FACTS: [&str; 4] = [
    "horizontalpodautoscalers.autoscaling",
    "mutatingwebhookconfigurations.admissionregistration.k8s.io",
    "namespaces.",
    "validatingwebhookconfigurations.admissionregistration.k8s.io",
];

/// The types of which we asked for the first page of all objects more than once.
fn listed_again(events: &[AuditEvent]) -> Vec<String> {
    let first_pages = events.iter().filter(|event| {
        let uri = event.request_uri.as_str();
        event.user_agent.starts_with("reinback/")
            && event.verb == "list"
            && !uri.contains("continue=")
            && !uri.contains("Selector=")
            && event.object_ref.namespace.is_empty()
    });
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for event in first_pages {
        *counts.entry(format!("{}.{}", event.object_ref.resource, event.object_ref.api_group)).or_default() += 1;
    }
    counts.into_iter().filter(|(_, count)| *count > 1).map(|(name, _)| name).collect()
}

/// What reinback asked of the API server, by object.
struct Requests {
    /// Of the object itself.
    writes: BTreeMap<String, u64>,
    /// Of its status.
    statuses: BTreeMap<String, u64>,
    /// Types of which single objects were read.
    gets: BTreeSet<String>,
}

impl Requests {
    fn of(world: &World, mark: usize) -> Self {
        let mut requests = Self { writes: BTreeMap::new(), statuses: BTreeMap::new(), gets: BTreeSet::new() };
        for event in world.cluster.audit_since(mark) {
            let of = &event.object_ref;
            if !event.user_agent.starts_with("reinback") || event.response_status.code >= 400 {
                continue;
            }
            let object = format!("{}.{} {}/{}", of.resource, of.api_group, of.namespace, of.name);
            match (event.verb.as_str(), of.subresource.as_str()) {
                ("create" | "update", "") => *requests.writes.entry(object).or_default() += 1,
                ("create" | "update", "status") => *requests.statuses.entry(object).or_default() += 1,
                ("get", _) if !of.name.is_empty() => {
                    requests.gets.insert(format!("{}.{}", of.resource, of.api_group));
                }
                _ => {}
            }
        }
        let ours = |object: &String| {
            object.contains("reinback") || object.starts_with("selfsubject") || object.starts_with("events.")
        };
        requests.writes.retain(|object, _| !ours(object));
        requests.statuses.retain(|object, _| !ours(object));
        requests
    }

    fn written(&self) -> u64 {
        self.writes.len() as u64
    }

    fn assert_sparing(&self) {
        for (object, number) in self.writes.iter().chain(&self.statuses) {
            assert_eq!(*number, 1, "{object} was written {number} times");
        }
        let gets: Vec<&str> = self.gets.iter().map(String::as_str).collect();
        // Our own objects, the workloads that are scaled, the settings and Services that gates ask for.
        insta::assert_snapshot!(gets.join("\n"), @"
        customresourcedefinitions.apiextensions.k8s.io
        deployments.apps
        leases.coordination.k8s.io
        namespaces.
        runs.reinback.io
        settings.management.cattle.io
        ");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_for_machines_keeps_its_shape() {
    let world = World::start().await;
    world.cluster.kubectl(&["delete", "settings.management.cattle.io", "telemetry-opt"], "").ok();
    rancher::disturb(&world.client, &world.items, DISTURBED).await.expect("disturbed");
    world.commit_restore("back", &[("accept", "DownstreamReverts")], "  prune: true\n");
    let (code, brief) = planned(&world, &[]).await;
    let (_, whole) = planned(&world, &["-v"]).await;
    assert_eq!(code, Some(2), "{:#}", brief["gates"]);
    insta::assert_snapshot!(shape(&brief).into_iter().collect::<Vec<_>>().join("\n"), @"
    .at text
    .backup.clusterUid text
    .backup.name text
    .backup.rancherVersion text
    .backup.sameCluster bool
    .backup.sha256 text
    .backup.sizeBytes number
    .backup.takenAt text
    .cluster.rancherVersion text
    .cluster.uid text
    .counts.created number
    .counts.deleted number
    .counts.failed number
    .counts.protected number
    .counts.recreated number
    .counts.skipped number
    .counts.updated number
    .deletions[].object text
    .deletions[].wave text
    .digest text
    .empty bool
    .engine text
    .held bool
    .manifest.key text
    .manifest.kind text
    .manifest.name text
    .objects[].change text
    .objects[].object text
    .objects[].why[] text
    .operator null
    .prunes bool
    .quiesce[].recorded null
    .quiesce[].replicas number
    .quiesce[].workload text
    .resources[].create number
    .resources[].delete number
    .resources[].equal number
    .resources[].notServed number
    .resources[].protected number
    .resources[].recreate number
    .resources[].resource text
    .resources[].update number
    .spared[].object text
    .spared[].reason text
    .version null
    ");
    assert_eq!(shape(&brief), shape(&whole));
    let number = |plan: &Value| plan["objects"].as_array().map_or(0, Vec::len);
    assert!(number(&brief) < number(&whole));
    assert_eq!(number(&whole), world.items.len());
}

/// Every path of a JSON value, with the type that stands there.
fn shape(value: &Value) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    walk(value, String::new(), &mut paths);
    paths
}

fn walk(value: &Value, path: String, paths: &mut BTreeSet<String>) {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "text",
        Value::Array(items) => return items.iter().for_each(|item| walk(item, format!("{path}[]"), paths)),
        Value::Object(members) => {
            return members.iter().for_each(|(name, member)| walk(member, format!("{path}.{name}"), paths));
        }
    };
    paths.insert(format!("{path} {kind}"));
}
