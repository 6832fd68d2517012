//! Pods: given a node, started, and stopped.

use serde_json::{Value, json};

use super::{NODE, Work, after, kind_key, soon};
use crate::sim::delete::DeleteOptions;
use crate::sim::meta::{self, at, inside, text};
use crate::sim::store::Key;
use crate::sim::world::World;

pub fn react(world: &mut World, key: &Key, pod: Option<&Value>) {
    let Some(pod) = pod else { return };
    if meta::is_deleting(pod) {
        let longest = world.options.pod_stop;
        after(world, longest, Work::Stop(key.clone()));
    } else if text(pod, "/spec/nodeName").is_empty() {
        soon(world, Work::Schedule(key.clone()));
    } else if !is_ready(pod) {
        let longest = world.options.pod_start;
        after(world, longest, Work::Start(key.clone()));
    }
}

pub fn is_ready(pod: &Value) -> bool {
    meta::list(pod, "/status/conditions")
        .iter()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

pub fn schedule(world: &mut World, key: &Key) {
    let node = kind_key(world, "", "nodes", None, NODE);
    if node.is_none_or(|node| world.store.get(&node).is_none()) {
        return;
    }
    let time = world.time();
    world.modify(key, |pod| {
        if text(pod, "/spec/nodeName").is_empty() && !meta::is_deleting(pod) {
            *at(pod, &["spec", "nodeName"]) = NODE.into();
            meta::set_condition(pod, "PodScheduled", true, "", "", &time);
        }
    });
}

pub fn start(world: &mut World, key: &Key) {
    let time = world.time();
    world.modify(key, |pod| {
        if meta::is_deleting(pod) || text(pod, "/spec/nodeName").is_empty() || is_ready(pod) {
            return;
        }
        let statuses: Vec<Value> =
            meta::list(pod, "/spec/containers").iter().map(|container| running(container, &time)).collect();
        let status = inside(pod, &["status"]);
        status["phase"] = "Running".into();
        status["startTime"] = time.as_str().into();
        status["containerStatuses"] = statuses.into();
        for condition in ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady"] {
            meta::set_condition(pod, condition, true, "", "", &time);
        }
    });
}

fn running(container: &Value, time: &str) -> Value {
    json!({
        "name": container["name"], "image": container["image"], "imageID": "", "ready": true, "started": true,
        "restartCount": 0, "state": {"running": {"startedAt": time}},
    })
}

/// The kubelet has stopped the containers, and deletes the pod without further grace.
pub fn stop(world: &mut World, key: &Key) {
    let Some(pod) = world.store.get(key).filter(|pod| meta::is_deleting(pod)) else { return };
    let options =
        DeleteOptions { uid: Some(meta::uid(pod).to_owned()), grace_seconds: Some(0), ..DeleteOptions::default() };
    let Some(kind) = world.kind_of(key) else { return };
    let _gone_already = world.delete(&kind, key, &options);
}
