//! Rancher's Deployment and its pods.

use serde_json::Value;

use super::{Judged, is_version, word};
use crate::cluster::rollout_is_ready;
use crate::rancher::image_tag;

/// Judges the Deployment, `None` where it is not there, and the pods that its selector finds, `None` where they may not
/// be seen.
///
/// Pods that have ended (evicted ones stay for a while) are no old pods; one that is going is, until it is gone.
pub fn rollout(deployment: Option<&Value>, pods: Option<&[Value]>, wanted: &str) -> Judged {
    let Some(deployment) = deployment else { return Judged::failed("the Deployment of Rancher is not there") };
    let image = first_image(deployment.pointer("/spec/template/spec"));
    let Some(tag) = image.and_then(image_tag) else {
        return Judged::not_asked(format!("the image {} has no tag to tell the version by", shown(image)));
    };
    if !is_version(tag, wanted) {
        return Judged::failed(format!("the image is {}, and not of {wanted}", shown(image)));
    }
    let replicas = deployment.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
    if !rollout_is_ready(deployment) {
        let number = |field: &str| deployment["status"][field].as_i64().unwrap_or(0);
        let (updated, ready) = (number("updatedReplicas"), number("readyReplicas"));
        return Judged::failed(format!("of {replicas} replicas {updated} are updated and {ready} are Ready"));
    }
    let Some(pods) = pods else { return Judged::not_asked("its pods may not be listed") };
    let old: Vec<String> = pods.iter().filter(|pod| !has_ended(pod)).filter_map(|pod| why_old(pod, wanted)).collect();
    match old.len() {
        0 => Judged::passed(format!("{replicas} of {replicas} replicas run {}, and no old pod is left", shown(image))),
        count => Judged::failed(format!("{count} old pods are still there")).with(old),
    }
}

fn first_image(pod_spec: Option<&Value>) -> Option<&str> {
    pod_spec?.pointer("/containers/0/image")?.as_str()
}

fn shown(image: Option<&str>) -> String {
    image.map_or_else(|| "that it does not name".to_owned(), |image| super::cut(image, 200))
}

fn has_ended(pod: &Value) -> bool {
    matches!(pod.pointer("/status/phase").and_then(Value::as_str), Some("Succeeded" | "Failed"))
}

fn why_old(pod: &Value, wanted: &str) -> Option<String> {
    let name = word(pod.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default());
    let image = first_image(pod.get("spec"));
    let is_right = image.and_then(image_tag).is_some_and(|tag| is_version(tag, wanted));
    let is_going = pod.pointer("/metadata/deletionTimestamp").is_some();
    match (is_right, is_going) {
        (true, false) => None,
        (true, true) => Some(format!("pod {name}: it is still ending")),
        (false, _) => Some(format!("pod {name}: its image is {}", shown(image))),
    }
}
