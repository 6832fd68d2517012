//! Who answers what the API server asks: admission webhooks, and APIs that it only hands on.

use serde_json::Value;

use super::{Judged, word};
use crate::cluster::rollout_is_ready;
use crate::rancher::{WEBHOOK_DEPLOYMENT, WEBHOOK_SERVICE};
use crate::webhook::{Answered, ServiceRef};

/// A webhook configuration, and one of the Services that answer it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Serving {
    /// `mutatingwebhookconfigurations/rancher.cattle.io`
    pub configuration: String,
    pub service: ServiceRef,
    pub answered: Answered,
}

impl Serving {
    fn is_ranchers(&self) -> bool {
        is_ranchers(&self.service.namespace)
    }

    /// Why nobody answers; `None` where somebody does, or it cannot be told.
    fn problem(&self) -> Option<&'static str> {
        match self.answered {
            Answered::Ready | Answered::Unknown => None,
            Answered::NoEndpoint => Some("has no endpoint that is ready"),
            Answered::Missing => Some("is not there"),
        }
    }
}

/// Namespaces that Rancher and what it installs live in.
fn is_ranchers(namespace: &str) -> bool {
    namespace.starts_with("cattle-")
}

/// Judges rancher-webhook's Deployment, and whether somebody answers each webhook configuration that leads to a Service of
/// Rancher's. Those of others are told, where nobody answers them.
pub fn webhook(deployment: Option<&Value>, served: &[Serving]) -> Judged {
    let (namespace, name) = WEBHOOK_SERVICE;
    let own = served.iter().any(|one| one.service.namespace == namespace && one.service.name == name);
    let (ours, others): (Vec<&Serving>, Vec<&Serving>) = served.iter().partition(|one| one.is_ranchers());
    let told = |one: &&Serving| {
        let Serving { configuration, service, answered: _ } = one;
        one.problem().map(|problem| format!("{configuration}: its Service {service} {problem}"))
    };
    let mut unserved: Vec<String> = ours.iter().filter_map(told).collect();
    let unanswered = unserved.len();
    unserved.extend(others.iter().filter_map(told));
    let judged = match deployment {
        None if own => Judged::failed(format!("{WEBHOOK_DEPLOYMENT} is not there, and its webhook configurations are")),
        None if unanswered > 0 => nobody(unanswered),
        None => Judged::passed(format!(
            "{WEBHOOK_DEPLOYMENT} is not installed, and no webhook configuration of it is there"
        )),
        Some(deployment) if !rollout_is_ready(deployment) => {
            Judged::failed(format!("{WEBHOOK_DEPLOYMENT} is not Ready"))
        }
        Some(_) if unanswered > 0 => nobody(unanswered),
        Some(_) => Judged::passed(format!(
            "{WEBHOOK_DEPLOYMENT} is Ready, and somebody answers {} webhook configurations of Rancher",
            ours.len()
        )),
    };
    judged.with(unserved)
}

fn nobody(unanswered: usize) -> Judged {
    Judged::failed(format!("nobody answers {unanswered} webhook configurations of Rancher"))
}

/// Judges the APIServices that a Service answers: Rancher's must be available, those of others are told where they are not.
pub fn api_services(all: &[Value]) -> Judged {
    let (mut ranchers, mut down, mut others) = (0_usize, Vec::new(), Vec::new());
    for service in all.iter().filter(|service| service.pointer("/spec/service").is_some_and(Value::is_object)) {
        let text = |pointer: &str| service.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let is_ours = is_ranchers(text("/spec/service/namespace")) || text("/spec/group").ends_with("cattle.io");
        ranchers += usize::from(is_ours);
        let Some(reason) = unavailable(service) else { continue };
        let line = format!("{}: {}", word(text("/metadata/name")), word(&reason));
        if is_ours { down.push(line) } else { others.push(format!("{line} (not Rancher's)")) }
    }
    let judged = match down.len() {
        0 => Judged::passed(format!("{ranchers} APIServices of Rancher are available")),
        count => Judged::failed(format!("{count} of {ranchers} APIServices of Rancher are not available")),
    };
    down.extend(others);
    judged.with(down)
}

/// The reason of its condition `Available`; `None` where that is true.
fn unavailable(service: &Value) -> Option<String> {
    let conditions = service.pointer("/status/conditions").and_then(Value::as_array);
    match conditions.into_iter().flatten().find(|condition| condition["type"] == "Available") {
        Some(condition) if condition["status"] == "True" => None,
        Some(condition) => Some(condition["reason"].as_str().unwrap_or("not available").to_owned()),
        None => Some("it does not say whether it is available".to_owned()),
    }
}
