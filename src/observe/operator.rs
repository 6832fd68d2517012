//! The rancher-backup operator: whether it is there, free, and finds what it is to restore by.

use serde_json::{Value, json};

use super::facts::{DEFAULT_STORE, all, get, secrets_named};
use super::{ObserveError, Places};
use crate::cluster::{Catalog, ClusterReader};
use crate::object::Resource;
use crate::object::normal::REPLICAS_ANNOTATION;
use crate::object::protect::OPERATOR_GROUP;
use crate::observed::{OperatorDeployment, OperatorFacts};
use crate::operator::{DEFAULT_RESOURCE_SETS, LEASE, holder, restores};
use crate::plan::Request;
use crate::rancher::BACKUP_OPERATOR;

/// Variables by which its chart gives it a volume, and a developer a folder (rancher-backup e90504c3, `cmd/operator/main.go`).
const OTHER_STORES: [&str; 2] = ["DEFAULT_PERSISTENCE_ENABLED", "CATTLE_DEV_MODE"];

/// Looks at the operator, as far as the restore of this manifest depends on it.
pub async fn facts(
    reader: &ClusterReader,
    catalog: &Catalog,
    places: &Places,
    request: &Request,
) -> Result<OperatorFacts, ObserveError> {
    let namespace = places.operator_namespace.as_str();
    let leases = Resource::new("coordination.k8s.io", "v1", "leases");
    let lease = get(reader, &leases, Some(namespace), LEASE).await?;
    let deployment = deployment(reader, namespace).await?;
    let secrets = Resource::new("", "v1", "secrets");
    let mut missing_secrets = Vec::new();
    for secret in secrets_named(&json!({ "spec": request.operator_spec }), namespace) {
        if get(reader, &secrets, Some(&secret.namespace), &secret.name).await?.is_none() {
            missing_secrets.push(secret);
        }
    }
    let sets = all(reader, catalog, OPERATOR_GROUP, "resourcesets").await?;
    let is_there = |name: &&str| sets.iter().any(|set| set.pointer("/metadata/name").is_some_and(|of| of == name));
    let backups = all(reader, catalog, OPERATOR_GROUP, "backups").await?;
    let is_scheduled = |backup: &&Value| {
        backup.pointer("/spec/schedule").and_then(Value::as_str).is_some_and(|schedule| !schedule.is_empty())
    };
    let scheduled = backups.iter().filter(is_scheduled);
    Ok(OperatorFacts {
        served: catalog.find(&restores()).is_some(),
        deployment: deployment.as_ref().map(read),
        holder: lease.as_ref().and_then(holder).map(str::to_owned),
        has_default_store: deployment.as_ref().is_some_and(has_default_store),
        missing_secrets,
        scheduled: scheduled.filter_map(|of| Some(of.pointer("/metadata/name")?.as_str()?.to_owned())).collect(),
        resource_set: DEFAULT_RESOURCE_SETS.into_iter().find(is_there).map(str::to_owned),
    })
}

/// The operator is there, whether or not it is well.
///
/// # Errors
///
/// When the API server does not answer.
pub async fn is_installed(reader: &ClusterReader, places: &Places) -> Result<bool, ObserveError> {
    let catalog = reader.discover().await?;
    Ok(catalog.find(&restores()).is_some() && deployment(reader, &places.operator_namespace).await?.is_some())
}

async fn deployment(reader: &ClusterReader, namespace: &str) -> Result<Option<Value>, ObserveError> {
    let deployments = Resource::new("apps", "v1", "deployments");
    get(reader, &deployments, Some(namespace), BACKUP_OPERATOR).await
}

fn read(deployment: &Value) -> OperatorDeployment {
    let number = |pointer: &str| deployment.pointer(pointer).and_then(Value::as_i64);
    let conditions = deployment.pointer("/status/conditions").and_then(Value::as_array);
    let is_available = |condition: &Value| condition["type"] == "Available" && condition["status"] == "True";
    let replicas = number("/spec/replicas").unwrap_or(1);
    let pods = number("/status/replicas").unwrap_or(0);
    let is_outdated = number("/status/observedGeneration") < number("/metadata/generation");
    let annotation = deployment.pointer("/metadata/annotations").and_then(|all| all.get(REPLICAS_ANNOTATION));
    let had = annotation.and_then(Value::as_str).and_then(|text| text.parse::<i64>().ok());
    OperatorDeployment {
        available: replicas > 0 && conditions.into_iter().flatten().any(is_available),
        rolling: replicas > 0 && (is_outdated || number("/status/updatedReplicas").unwrap_or(0) < pods),
        stopped_by_us: replicas == 0 && had.is_some_and(|had| had > 0),
    }
}

fn has_default_store(deployment: &Value) -> bool {
    let containers = deployment.pointer("/spec/template/spec/containers").and_then(Value::as_array);
    let variables = containers.into_iter().flatten().filter_map(|container| container["env"].as_array()).flatten();
    variables.into_iter().any(|variable| {
        let is_set =
            variable["value"].as_str().is_some_and(|value| !value.is_empty()) || !variable["valueFrom"].is_null();
        let name = variable["name"].as_str().unwrap_or_default();
        is_set && (name == DEFAULT_STORE || OTHER_STORES.contains(&name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(spec: Value, status: Value) -> Value {
        json!({"metadata": {"generation": 2, "annotations": {REPLICAS_ANNOTATION: "1"}}, "spec": spec, "status": status})
    }

    #[test]
    fn an_operator_is_there_alone_and_available_or_it_is_none() {
        let available = json!([{"type": "Available", "status": "True"}]);
        let status = |pods: i64, updated: i64, seen: i64| json!({"replicas": pods, "updatedReplicas": updated, "observedGeneration": seen, "conditions": available});
        let of = |replicas: i64, status: Value| read(&deployment(json!({"replicas": replicas}), status));
        let told = |OperatorDeployment { available, rolling, stopped_by_us }| (available, rolling, stopped_by_us);
        assert_eq!(told(of(1, status(1, 1, 2))), (true, false, false));
        assert_eq!(told(of(1, status(2, 1, 2))), (true, true, false), "two versions at once");
        assert_eq!(told(of(1, status(1, 1, 1))), (true, true, false), "about to be rolled out");
        assert_eq!(told(of(1, json!({"observedGeneration": 2}))), (false, false, false));
        assert_eq!(told(of(0, status(0, 0, 2))), (false, false, true), "what it had is known");
    }

    #[test]
    fn a_default_location_is_a_bucket_a_volume_or_a_folder_of_a_developer() {
        let with =
            |env: Value| has_default_store(&json!({"spec": {"template": {"spec": {"containers": [{"env": env}]}}}}));
        assert!(!with(json!([{"name": "CHART_NAMESPACE", "value": "x"}])));
        assert!(!with(json!([{"name": DEFAULT_STORE, "value": ""}])));
        for name in [DEFAULT_STORE, OTHER_STORES[0], OTHER_STORES[1]] {
            assert!(with(json!([{"name": name, "value": "x"}])), "{name}");
        }
    }
}
