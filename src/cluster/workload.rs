//! Workloads: scaled, and judged ready.

use serde_json::{Value, json};

use super::write::{Answer, ClusterWriter, Target, WriteError};

/// An annotation that is set by the same request that scales, or taken away by it.
#[derive(Debug, Clone, Copy)]
pub struct ReplicasAnnotation<'a> {
    pub key: &'a str,
    /// `None` removes it.
    pub value: Option<&'a str>,
}

impl ClusterWriter {
    /// Sets a workload's replicas and an annotation in one request.
    ///
    /// With `resource_version` the request is a `Conflict` where the workload changed since it was read, so that the
    /// number in the annotation is the one that was replaced.
    pub async fn scale(
        &self,
        target: &Target<'_>,
        replicas: u32,
        annotation: Option<ReplicasAnnotation<'_>>,
        resource_version: Option<&str>,
    ) -> Result<Answer, WriteError> {
        self.merge_patch(target, &scale_patch(replicas, annotation, resource_version)).await
    }
}

fn scale_patch(replicas: u32, annotation: Option<ReplicasAnnotation<'_>>, resource_version: Option<&str>) -> Value {
    let mut patch = json!({"spec": {"replicas": replicas}});
    if let Some(ReplicasAnnotation { key, value }) = annotation {
        patch["metadata"]["annotations"][key] = json!(value);
    }
    if let Some(resource_version) = resource_version {
        patch["metadata"]["resourceVersion"] = resource_version.into();
    }
    patch
}

/// The pods of a workload as a selector for a list, from its `spec.selector`.
///
/// `None` where the selector is missing or empty, which would mean all pods, or says something that is not known.
pub fn selector_text(workload: &Value) -> Option<String> {
    let selector = workload.pointer("/spec/selector")?;
    let mut terms = Vec::new();
    if let Some(labels) = selector.get("matchLabels").and_then(Value::as_object) {
        for (key, value) in labels {
            terms.push(format!("{key}={}", value.as_str()?));
        }
    }
    for expression in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
        terms.push(expression_text(expression)?);
    }
    (!terms.is_empty()).then(|| terms.join(","))
}

fn expression_text(expression: &Value) -> Option<String> {
    let key = expression.get("key")?.as_str()?;
    let values = || {
        let values = expression.get("values")?.as_array()?;
        Some(values.iter().map(Value::as_str).collect::<Option<Vec<_>>>()?.join(","))
    };
    Some(match expression.get("operator")?.as_str()? {
        "In" => format!("{key} in ({})", values()?),
        "NotIn" => format!("{key} notin ({})", values()?),
        "Exists" => key.to_owned(),
        "DoesNotExist" => format!("!{key}"),
        _ => return None,
    })
}

/// Whether a Deployment, StatefulSet or DaemonSet runs what its spec says: seen by its controller, all pods updated and
/// available, none left over.
pub fn rollout_is_ready(workload: &Value) -> bool {
    let number = |pointer: &str| workload.pointer(pointer).and_then(Value::as_i64);
    let status = |field: &str| number(&format!("/status/{field}")).unwrap_or(0);
    if status("observedGeneration") < number("/metadata/generation").unwrap_or(0) {
        return false;
    }
    if workload.pointer("/status/desiredNumberScheduled").is_some() {
        let desired = status("desiredNumberScheduled");
        return status("updatedNumberScheduled") == desired && status("numberAvailable") == desired;
    }
    let wanted = number("/spec/replicas").unwrap_or(1);
    status("replicas") == wanted
        && status("updatedReplicas") == wanted
        && status("readyReplicas") == wanted
        && status("availableReplicas") == wanted
}

/// Whether a CustomResourceDefinition serves its resource (condition `Established`) and is not going away.
pub fn crd_is_established(crd: &Value) -> bool {
    let conditions = crd.pointer("/status/conditions").and_then(Value::as_array);
    let established = conditions.into_iter().flatten().any(|c| c["type"] == "Established" && c["status"] == "True");
    established && crd.pointer("/metadata/deletionTimestamp").is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scaling_and_remembering_are_one_patch() {
        let annotation = ReplicasAnnotation { key: "reinback.io/replicas", value: Some("3") };
        assert_eq!(
            scale_patch(0, Some(annotation), Some("7")),
            json!({"spec": {"replicas": 0}, "metadata": {"resourceVersion": "7", "annotations": {"reinback.io/replicas": "3"}}})
        );
        let forget = ReplicasAnnotation { key: "reinback.io/replicas", value: None };
        assert_eq!(
            scale_patch(3, Some(forget), None)["metadata"]["annotations"],
            json!({"reinback.io/replicas": null})
        );
    }

    #[test]
    fn a_selector_is_told_as_a_list_wants_it_and_an_empty_one_is_not_all_pods() {
        let workload = json!({"spec": {"selector": {"matchLabels": {"app": "rancher"}, "matchExpressions": [
            {"key": "tier", "operator": "In", "values": ["a", "b"]}, {"key": "old", "operator": "DoesNotExist"}]}}});
        assert_eq!(selector_text(&workload).unwrap(), "app=rancher,tier in (a,b),!old");
        assert_eq!(selector_text(&json!({"spec": {"selector": {}}})), None);
        let unknown = json!({"spec": {"selector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}}});
        assert_eq!(selector_text(&unknown), None);
    }

    #[test]
    fn a_rollout_is_ready_when_all_its_pods_are_new_and_available_and_no_other_is_left() {
        let status = json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 3, "readyReplicas": 3, "availableReplicas": 3});
        let ready = json!({"metadata": {"generation": 2}, "spec": {"replicas": 3}, "status": status});
        assert!(rollout_is_ready(&ready));
        for (field, value) in
            [("observedGeneration", 1), ("replicas", 4), ("updatedReplicas", 2), ("availableReplicas", 2)]
        {
            let mut other = ready.clone();
            other["status"][field] = value.into();
            assert!(!rollout_is_ready(&other), "{field}");
        }
        assert!(rollout_is_ready(
            &json!({"metadata": {"generation": 1}, "spec": {"replicas": 0}, "status": {"observedGeneration": 1}})
        ));
    }
}
