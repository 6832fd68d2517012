//! Drift: after a Rollback had succeeded, somebody brought another version of Rancher than it declares.
//!
//! It is told and not corrected: an older Rancher on data that a newer one has migrated does harm.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::plan::version::is_same;
use crate::rancher::{Version, image_tag};
use crate::run::cut_message;

/// The word for it in status, Git and Events.
pub const DRIFT_DETECTED: &str = "DriftDetected";

/// What runs instead of what is declared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Drift {
    /// The version declared.
    pub declared: String,
    /// The tag of Rancher's image.
    pub running: String,
    /// The field manager that set the image, such as `helm` or `kubectl-set`, where the API server knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// When that wrote last.
    #[schemars(with = "Option<String>")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
}

impl Drift {
    /// What happened, by whom and when as far as known, and what to do about it.
    pub fn told(&self) -> String {
        let Self { declared, running, by, at } = self;
        let by = by.as_ref().map(|by| format!(", set by {by}")).unwrap_or_default();
        let at = at.map(|at| format!(" at {at}")).unwrap_or_default();
        format!(
            "{DRIFT_DETECTED}: {running} runs{by}{at}, and {declared} is declared; nothing is corrected by itself: commit a new \
             Rollback that brings data and version back, or remove the manifest if that version is to stay"
        )
    }

    /// Cut to what a `Run` may hold.
    pub fn bound(&mut self) {
        let Self { declared, running, by, at: _ } = self;
        [declared, running].into_iter().chain(by).for_each(|text| *text = cut_message(text));
    }
}

/// How far Rancher's Deployment is from the declared version. An image whose tag is no version says nothing.
pub fn drift(deployment: &Value, declared: &str) -> Option<Drift> {
    let container = deployment.pointer("/spec/template/spec/containers/0")?;
    let running = image_tag(container.get("image")?.as_str()?)?;
    running.parse::<Version>().ok()?;
    if is_same(running, declared) {
        return None;
    }
    let name = container.get("name").and_then(Value::as_str).unwrap_or_default();
    let (by, at) = who(deployment, name).unzip();
    Some(Drift { declared: declared.to_owned(), running: running.to_owned(), by, at: at.flatten() })
}

/// Of those that set the image of a container, the last that wrote.
fn who(deployment: &Value, container: &str) -> Option<(String, Option<Timestamp>)> {
    let key = serde_json::json!({ "name": container });
    let sets = |entry: &&Value| {
        let containers = entry.pointer("/fieldsV1/f:spec/f:template/f:spec/f:containers");
        containers.and_then(|all| all.get(format!("k:{key}"))?.get("f:image")).is_some()
    };
    let entries = deployment.pointer("/metadata/managedFields")?.as_array()?;
    let setters = entries.iter().filter(sets).filter_map(|entry| {
        let time = entry.get("time").and_then(Value::as_str).and_then(|time| time.parse::<Timestamp>().ok());
        Some((time, entry.get("manager")?.as_str()?.to_owned()))
    });
    setters.max().map(|(time, manager)| (manager, time))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment(image: &str) -> Value {
        let sets = json!({"f:spec": {"f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"rancher\"}": {"f:image": {}}}}}}});
        let entry =
            |manager: &str, time: &str, fields: &Value| json!({"manager": manager, "time": time, "fieldsV1": fields});
        json!({
            "metadata": {"managedFields": [
                entry("helm", "2026-11-23T09:00:00Z", &sets),
                entry("kubectl-set", "2026-11-24T10:00:00Z", &sets),
                entry("kube-controller-manager", "2026-11-25T10:00:00Z", &json!({"f:status": {}})),
            ]},
            "spec": {"template": {"spec": {"containers": [{"name": "rancher", "image": image}]}}},
        })
    }

    #[test]
    fn another_version_is_told_with_who_set_it_and_when() {
        let drift = drift(&deployment("rancher/rancher:v2.10.1"), "v2.9.3").expect("another version");
        insta::assert_snapshot!(drift.told(), @"DriftDetected: v2.10.1 runs, set by kubectl-set at 2026-11-24T10:00:00Z, and v2.9.3 is declared; nothing is corrected by itself: commit a new Rollback that brings data and version back, or remove the manifest if that version is to stay");
    }

    #[test]
    fn the_declared_version_and_what_is_no_version_are_no_drift() {
        for image in
            ["rancher/rancher:v2.9.3", "rancher/rancher:2.9.3@sha256:aa", "rancher/rancher:head", "rancher/rancher"]
        {
            assert_eq!(drift(&deployment(image), "v2.9.3"), None, "{image}");
        }
        assert_eq!(drift(&Value::Null, "v2.9.3"), None);
    }

    #[test]
    fn who_set_it_may_not_be_known() {
        let mut unowned = deployment("rancher/rancher:v2.10.1");
        unowned["metadata"] = json!({});
        let drift = drift(&unowned, "v2.9.3").expect("another version");
        assert_eq!((drift.by, drift.at), (None, None));
    }
}
