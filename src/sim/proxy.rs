//! The proxy of a Service, behind which Rancher's pods answer as far as they are asked whether Rancher is well.

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use super::controllers::pods::is_ready;
use super::failure::Failure;
use super::http::Answer;
use super::world::World;
use crate::rancher::image_tag;

/// What a Ready pod with the label `app` of that name says of `path`; `service` is as in a URL, `http:rancher:80`.
pub fn answer(world: &World, namespace: &str, service: &str, path: &[&str]) -> Result<Answer, Failure> {
    let name = service.split(':').nth(1).unwrap_or(service);
    let is_of_it = |pod: &Value| pod["metadata"]["labels"]["app"] == name && is_ready(pod);
    let pods: Vec<&Value> = world.store.within("pods", namespace).map(|(_, pod)| pod.as_ref()).collect();
    let pod = pods.into_iter().find(|pod| is_of_it(pod)).ok_or_else(Failure::unavailable)?;
    let image = pod["spec"]["containers"][0]["image"].as_str().unwrap_or_default();
    let text = |code, text: String| Answer { code, content_type: "text/plain; charset=utf-8", body: Bytes::from(text) };
    Ok(match path {
        ["healthz"] => text(StatusCode::OK, "ok".to_owned()),
        ["ping"] => text(StatusCode::OK, "pong".to_owned()),
        ["rancherversion"] => {
            let version =
                json!({"Version": image_tag(image).unwrap_or_default(), "GitCommit": "", "RancherPrime": "false"});
            text(StatusCode::OK, version.to_string())
        }
        _ => text(StatusCode::NOT_FOUND, "404 page not found\n".to_owned()),
    })
}
