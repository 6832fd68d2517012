//! Deployments: a ReplicaSet for each template, the newest at the replicas that are asked for.

use std::sync::Arc;

use serde_json::{Value, json};

use super::create;
use super::replicas::{owner, revision};
use crate::sim::meta::{self, at, inside, number, text};
use crate::sim::store::Key;
use crate::sim::world::World;

/// Tells the ReplicaSets of one Deployment, and their pods, apart.
const TEMPLATE_HASH: &str = "pod-template-hash";

pub fn tend(world: &mut World, key: &Key) {
    let Some(deployment) = world.store.get(key).cloned() else { return };
    if meta::is_deleting(&deployment) {
        return;
    }
    let hash = revision(&deployment);
    let wanted = number(&deployment, "/spec/replicas");
    match sets(world, key, &deployment).into_iter().find(|(_, set)| is_of(set, &hash)) {
        None => {
            create(world, ("apps", "replicasets"), key.namespace(), set(key, &deployment, &hash));
        }
        Some((newest, _)) => scale(world, &newest, wanted),
    }
    let sets_now = sets(world, key, &deployment);
    let is_up = sets_now.iter().any(|(_, set)| is_of(set, &hash) && number(set, "/status/availableReplicas") >= wanted);
    if is_up {
        // Rolling out: the old pods go when the new ones are there.
        for (old, _) in sets_now.iter().filter(|(_, set)| !is_of(set, &hash)) {
            scale(world, old, 0);
        }
    }
    let sets_now = sets(world, key, &deployment);
    let time = world.time();
    world.modify(key, |deployment| tell(deployment, &sets_now, &hash, &time));
}

type Sets = Vec<(Key, Arc<Value>)>;

/// The ReplicaSets of a Deployment.
fn sets(world: &World, key: &Key, deployment: &Value) -> Sets {
    let Some(kind) = world.kinds.find("apps", "replicasets") else { return Vec::new() };
    let within = world.store.within(&kind.stored, key.namespace().unwrap_or_default());
    let uid = meta::uid(deployment);
    let own = within.filter(|(_, set)| meta::controller(set).is_some_and(|owner| text(owner, "/uid") == uid));
    own.map(|(path, set)| (Key { of: kind.stored.clone(), path: path.clone() }, set.clone())).collect()
}

fn is_of(set: &Value, hash: &str) -> bool {
    set.pointer("/metadata/labels").is_some_and(|labels| labels[TEMPLATE_HASH] == hash)
}

fn set(key: &Key, deployment: &Value, hash: &str) -> Value {
    let mut template = deployment["spec"]["template"].clone();
    *at(&mut template, &["metadata", "labels", TEMPLATE_HASH]) = hash.into();
    let mut selector = deployment["spec"]["selector"].clone();
    *at(&mut selector, &["matchLabels", TEMPLATE_HASH]) = hash.into();
    json!({
        "metadata": {
            "name": format!("{}-{hash}", key.name()), "labels": template["metadata"]["labels"],
            "ownerReferences": [owner("apps/v1", "Deployment", deployment)],
        },
        "spec": {"replicas": number(deployment, "/spec/replicas"), "selector": selector, "template": template},
    })
}

fn scale(world: &mut World, set: &Key, replicas: i64) {
    world.modify(set, |set| *at(set, &["spec", "replicas"]) = replicas.into());
}

fn tell(deployment: &mut Value, sets: &Sets, hash: &str, time: &str) {
    let sum = |field: &str, of_newest: bool| -> i64 {
        let counted = sets.iter().filter(|(_, set)| !of_newest || is_of(set, hash));
        counted.map(|(_, set)| number(set, &format!("/status/{field}"))).sum()
    };
    let wanted = number(deployment, "/spec/replicas");
    let available = sum("availableReplicas", false);
    let generation = number(deployment, "/metadata/generation");
    let status = inside(deployment, &["status"]);
    for (field, value) in [
        ("replicas", sum("replicas", false)),
        ("updatedReplicas", sum("replicas", true)),
        ("readyReplicas", sum("readyReplicas", false)),
        ("availableReplicas", available),
        ("unavailableReplicas", (wanted - available).max(0)),
    ] {
        meta::assign(status, &[field], (value > 0).then(|| json!(value)));
    }
    status["observedGeneration"] = json!(generation);
    let is_available = available >= wanted;
    let (reason, message) = match is_available {
        true => ("MinimumReplicasAvailable", "Deployment has minimum availability."),
        false => ("MinimumReplicasUnavailable", "Deployment does not have minimum availability."),
    };
    meta::set_condition(deployment, "Available", is_available, reason, message, time);
    let reason = if is_available { "NewReplicaSetAvailable" } else { "ReplicaSetUpdated" };
    let message = format!("ReplicaSet \"{}-{hash}\" is progressing.", meta::name(deployment));
    meta::set_condition(deployment, "Progressing", true, reason, &message, time);
}

/// A pod or ReplicaSet changed: so does the status of what controls it.
pub fn owner_work(world: &World, key: &Key, object: &Value) -> Option<super::Work> {
    let reference = meta::controller(object)?;
    let (kind, _) = world.kinds.of_object(text(reference, "/apiVersion"), text(reference, "/kind"))?;
    let owner = Key::new(&kind.stored, key.namespace(), text(reference, "/name"));
    match &*owner.of {
        "deployments.apps" => Some(super::Work::Deployment(owner)),
        "replicasets.apps" | "statefulsets.apps" | "daemonsets.apps" => Some(super::Work::Replicas(owner)),
        _ => None,
    }
}
