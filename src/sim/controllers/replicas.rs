//! ReplicaSets, StatefulSets and DaemonSets: as many pods as they ask for, and how many there are.

use std::sync::Arc;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::pods::is_ready;
use super::{create, delete};
use crate::sim::meta::{self, at, inside, number, text};
use crate::sim::store::Key;
use crate::sim::world::World;

/// Tells the pods of one template from those of another.
const REVISION: &str = "controller-revision-hash";

/// The pods of a workload that are not on their way out.
struct Pods {
    active: Vec<(Key, Arc<Value>)>,
    /// Their names, and those of the ones on their way out.
    names: Vec<String>,
}

pub fn tend(world: &mut World, key: &Key) {
    let Some(workload) = world.store.get(key).cloned() else { return };
    if meta::is_deleting(&workload) {
        return;
    }
    let pods = pods(world, key, meta::uid(&workload));
    let revision = revision(&workload);
    for surplus in surplus(key, &workload, &pods, &revision) {
        delete(world, &surplus, None);
    }
    for name in missing(key, &workload, &pods) {
        let pod = pod(world, key, &workload, name, &revision);
        create(world, ("", "pods"), key.namespace(), pod);
    }
    let pods = self::pods(world, key, meta::uid(&workload));
    world.modify(key, |workload| tell(key, workload, &pods, &revision));
}

fn pods(world: &World, owner: &Key, uid: &str) -> Pods {
    let Some(kind) = world.kinds.find("", "pods") else { return Pods { active: Vec::new(), names: Vec::new() } };
    let within = world.store.within(&kind.stored, owner.namespace().unwrap_or_default());
    let is_own = |pod: &Value| meta::controller(pod).is_some_and(|reference| text(reference, "/uid") == uid);
    let own: Vec<_> = within.filter(|(_, pod)| is_own(pod)).collect();
    let names = own.iter().map(|(_, pod)| meta::name(pod).to_owned()).collect();
    let active = own.into_iter().filter(|(_, pod)| !meta::is_deleting(pod));
    Pods {
        active: active.map(|(path, pod)| (Key { of: kind.stored.clone(), path: path.clone() }, pod.clone())).collect(),
        names,
    }
}

fn wanted(key: &Key, workload: &Value) -> usize {
    if key.is("daemonsets.apps") { 1 } else { usize::try_from(number(workload, "/spec/replicas")).unwrap_or(0) }
}

/// A short digest of the template.
pub fn revision(workload: &Value) -> String {
    let digest = Sha256::digest(workload["spec"]["template"].to_string());
    digest.iter().take(5).map(|byte| format!("{byte:02x}")).collect()
}

/// Pods that must go: those of an old template, of a StatefulSet or DaemonSet, and those too many.
fn surplus(key: &Key, workload: &Value, pods: &Pods, revision: &str) -> Vec<Key> {
    let wanted = wanted(key, workload);
    let keeps_old = key.is("replicasets.apps");
    let is_old =
        |pod: &Value| !keeps_old && pod.pointer("/metadata/labels").is_none_or(|labels| labels[REVISION] != revision);
    let is_beyond = |pod: &Value| key.is("statefulsets.apps") && ordinal(pod).is_none_or(|n| n >= wanted);
    let (gone, kept): (Vec<_>, Vec<_>) = pods.active.iter().partition(|(_, pod)| is_old(pod) || is_beyond(pod));
    // The ones that are not Ready first, as the ReplicaSet controller does.
    let mut kept: Vec<_> = kept.into_iter().collect();
    kept.sort_by_key(|(_, pod)| !is_ready(pod));
    gone.into_iter().chain(kept.into_iter().skip(wanted).collect::<Vec<_>>()).map(|(key, _)| key.clone()).collect()
}

fn ordinal(pod: &Value) -> Option<usize> {
    meta::name(pod).rsplit_once('-')?.1.parse().ok()
}

/// The pods to be made: with the name that they must have, or `None` for any.
fn missing(key: &Key, workload: &Value, pods: &Pods) -> Vec<Option<String>> {
    let wanted = wanted(key, workload);
    if key.is("statefulsets.apps") {
        let names = (0..wanted).map(|n| format!("{}-{n}", key.name()));
        return names.filter(|name| !pods.names.contains(name)).map(Some).collect();
    }
    vec![None; wanted.saturating_sub(pods.active.len())]
}

fn pod(world: &mut World, key: &Key, workload: &Value, name: Option<String>, revision: &str) -> Value {
    let name = name.unwrap_or_else(|| world.new_name(&format!("{}-", key.name())));
    let template = &workload["spec"]["template"];
    let mut pod = json!({"metadata": template["metadata"], "spec": template["spec"]});
    if !key.is("replicasets.apps") {
        *at(&mut pod, &["metadata", "labels", REVISION]) = revision.into();
    }
    *at(&mut pod, &["metadata", "name"]) = name.into();
    let kind = world.kind_of(key).map(|kind| kind.kind.clone()).unwrap_or_default();
    *at(&mut pod, &["metadata", "ownerReferences"]) = json!([owner("apps/v1", &kind, workload)]);
    pod
}

/// A reference to what controls an object.
pub fn owner(api_version: &str, kind: &str, owner: &Value) -> Value {
    json!({
        "apiVersion": api_version, "kind": kind, "name": meta::name(owner), "uid": meta::uid(owner),
        "controller": true, "blockOwnerDeletion": true,
    })
}

fn tell(key: &Key, workload: &mut Value, pods: &Pods, revision: &str) {
    let count = pods.active.len();
    let ready = pods.active.iter().filter(|(_, pod)| is_ready(pod)).count();
    let generation = number(workload, "/metadata/generation");
    let status = inside(workload, &["status"]);
    // What is 0 is left out, but for the fields that are always there.
    let mut set = |field: &str, value: usize| meta::assign(status, &[field], (value > 0).then(|| json!(value)));
    match &*key.of {
        "daemonsets.apps" => {
            set("updatedNumberScheduled", count);
            set("numberAvailable", ready);
            set("numberUnavailable", 1_usize.saturating_sub(ready));
            for (field, value) in [
                ("currentNumberScheduled", count),
                ("numberMisscheduled", 0),
                ("desiredNumberScheduled", 1),
                ("numberReady", ready),
            ] {
                status[field] = json!(value);
            }
        }
        "statefulsets.apps" => {
            set("readyReplicas", ready);
            set("currentReplicas", count);
            set("updatedReplicas", count);
            status["replicas"] = json!(count);
            status["availableReplicas"] = json!(ready);
            status["collisionCount"] = json!(0);
            let name = format!("{}-{revision}", key.name());
            status["currentRevision"] = name.as_str().into();
            status["updateRevision"] = name.into();
        }
        _ => {
            set("fullyLabeledReplicas", count);
            set("readyReplicas", ready);
            set("availableReplicas", ready);
            status["replicas"] = json!(count);
        }
    }
    status["observedGeneration"] = json!(generation);
}
