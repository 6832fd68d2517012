//! The normal form in which objects are compared.

use serde_json::{Map, Value};

use super::{Digest, Resource, defaults};

/// Replicas that a workload had before it was quiesced; written by the same patch that sets 0.
pub const REPLICAS_ANNOTATION: &str = "reinback.io/replicas";
/// What `spec.paused` of a Cluster API cluster was before it was paused; written by the same patch.
pub const PAUSED_ANNOTATION: &str = "reinback.io/paused";
/// Cluster API. Its versions v1alpha4 to v1beta2 all have `spec.paused` in a Cluster.
pub const CAPI_GROUP: &str = "cluster.x-k8s.io";
/// Asks Rancher to deploy the agents of a cluster anew (rancher-backup e90504c3, `restore/controller.go`).
pub const FORCE_DEPLOY_ANNOTATION: &str = "io.cattle.agent.force.deploy";
/// Set on a token Secret by the token controller.
pub const SERVICE_ACCOUNT_UID_ANNOTATION: &str = "kubernetes.io/service-account.uid";
/// Counted up by the Deployment controller.
const REVISION_ANNOTATION: &str = "deployment.kubernetes.io/revision";
/// Type of a token Secret, whose data the token controller owns.
pub const TOKEN_SECRET_TYPE: &str = "kubernetes.io/service-account-token";
/// Data keys of a token Secret that the token controller writes.
pub const TOKEN_DATA: [&str; 3] = ["token", "ca.crt", "namespace"];

/// In a status, and in each of its conditions.
pub const OBSERVED_GENERATION: &str = "observedGeneration";

/// The ServiceAccount that a token Secret is for.
const SERVICE_ACCOUNT_NAME_ANNOTATION: &str = "kubernetes.io/service-account.name";
/// Put on every namespace by the API server, since Kubernetes 1.21.
const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";
/// Put on a token Secret by the API server, with the day on which the token was used.
const TOKEN_USE_LABELS: [&str; 1] = ["kubernetes.io/legacy-token-last-used"];

/// Set by the API server, never by who writes an object.
const SERVER_METADATA: [&str; 8] = [
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "managedFields",
    "selfLink",
];

type Object = Map<String, Value>;

/// Removes what the server sets from the metadata.
pub fn strip_server_metadata(metadata: &mut Object) {
    for field in SERVER_METADATA {
        metadata.remove(field);
    }
}

/// Brings an object (its status taken out) to the normal form, in place.
pub fn normalise(resource: &Resource, object: &mut Object) {
    normalise_type(resource, object);
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        normalise_metadata(resource, metadata);
    }
    object.values_mut().for_each(strip_nulls);
    defaults::strip(resource, object);
    // A list of a built-in type names neither on its items; the path says both.
    object.remove("apiVersion");
    object.remove("kind");
    object.retain(|_, value| !is_empty(value));
}

fn normalise_metadata(resource: &Resource, metadata: &mut Object) {
    strip_server_metadata(metadata);
    super::chart::strip_marks(resource, metadata);
    if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.remove(REPLICAS_ANNOTATION);
        annotations.remove(PAUSED_ANNOTATION);
        if resource.group == "apps" {
            annotations.remove(REVISION_ANNOTATION);
        }
        if resource.is("management.cattle.io", "clusters") {
            annotations.remove(FORCE_DEPLOY_ANNOTATION);
        }
        if resource.is("", "secrets") {
            annotations.remove(SERVICE_ACCOUNT_UID_ANNOTATION);
        }
    }
    if let Some(labels) = metadata.get_mut("labels").and_then(Value::as_object_mut) {
        match resource.is_namespace() {
            true => drop_keys(labels, &[NAMESPACE_NAME_LABEL]),
            false if resource.is("", "secrets") => drop_keys(labels, &TOKEN_USE_LABELS),
            false => {}
        }
    }
    // Compared by owner::lead_home.
    metadata.remove("ownerReferences");
    if let Some(finalizers) = metadata.get_mut("finalizers").and_then(Value::as_array_mut) {
        finalizers.sort_by_cached_key(Value::to_string);
    }
    metadata.retain(|_, value| !is_empty(value));
}

/// What is particular to a type; each line has its reason in rancher-backup (e90504c3, `restore/controller.go`, `crd.go`) or in the API's own rules.
fn normalise_type(resource: &Resource, object: &mut Object) {
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "serviceaccounts") => drop_keys(object, &["secrets"]),
        ("", "namespaces") => drop_keys(object, &["spec"]),
        ("", "secrets") => normalise_token_secret(object),
        ("apps", "deployments" | "statefulsets") => recorded_replicas(object),
        (CAPI_GROUP, "clusters") => recorded_pause(object),
        ("rbac.authorization.k8s.io", "clusterroles") if is_aggregated(object) => drop_keys(object, &["rules"]),
        ("apiextensions.k8s.io", "customresourcedefinitions") => normalise_crd(object),
        _ => {
            if let (Some(key), Some(spec)) =
                (redeploy_key(resource), object.get_mut("spec").and_then(Value::as_object_mut))
            {
                spec.remove(key);
            }
        }
    }
}

/// The field of `spec` that makes Rancher deploy a cluster's agents anew when it grows (rancher-backup e90504c3, `restore/controller.go`).
pub fn redeploy_key(resource: &Resource) -> Option<&'static str> {
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("fleet.cattle.io", "clusters") => Some("redeployAgentGeneration"),
        ("provisioning.cattle.io", "clusters") => Some("redeploySystemAgentGeneration"),
        _ => None,
    }
}

/// Whether the agents of a live cluster were not asked to deploy anew since the backup.
pub fn wants_redeploy(resource: &Resource, backup: &super::Traits, live: &super::Traits) -> bool {
    match redeploy_key(resource) {
        Some(_) => live.redeploy_generation.unwrap_or_default() <= backup.redeploy_generation.unwrap_or_default(),
        None => resource.is("management.cattle.io", "clusters") && !live.forced_deploy,
    }
}

fn drop_keys(object: &mut Object, keys: &[&str]) {
    for key in keys {
        object.remove(*key);
    }
}

/// Rules of an aggregated ClusterRole are the controller's.
pub fn is_aggregated(object: &Object) -> bool {
    object.get("aggregationRule").is_some_and(|rule| !is_empty(rule))
}

fn normalise_token_secret(object: &mut Object) {
    if object.get("type").and_then(Value::as_str) != Some(TOKEN_SECRET_TYPE) {
        return;
    }
    if let Some(data) = object.get_mut("data").and_then(Value::as_object_mut) {
        for key in TOKEN_DATA {
            data.remove(key);
        }
    }
}

/// A quiesced workload counts with the replicas that it had.
fn recorded_replicas(object: &mut Object) {
    let recorded = object
        .get("metadata")
        .and_then(|metadata| metadata.get("annotations"))
        .and_then(|annotations| annotations.get(REPLICAS_ANNOTATION))
        .and_then(Value::as_str)
        .and_then(|text| text.parse::<i32>().ok());
    if let (Some(replicas), Some(spec)) = (recorded, object.get_mut("spec").and_then(Value::as_object_mut)) {
        spec.insert("replicas".to_owned(), Value::from(replicas));
    }
}

/// Whether a Cluster API cluster is paused, but for what a run did to it. `None` for other objects.
pub fn true_pause(resource: &Resource, object: &Object) -> Option<bool> {
    if !resource.is(CAPI_GROUP, "clusters") {
        return None;
    }
    let annotations = object.get("metadata").and_then(|metadata| metadata.get("annotations"));
    let recorded = annotations.and_then(|all| all.get(PAUSED_ANNOTATION)).and_then(Value::as_str);
    let recorded = recorded.and_then(|text| text.parse().ok());
    let own = || object.get("spec").and_then(|spec| spec.get("paused")) == Some(&Value::Bool(true));
    Some(recorded.unwrap_or_else(own))
}

/// A paused cluster counts with what it had. Not paused and not said is the same.
fn recorded_pause(object: &mut Object) {
    let resource = Resource::new(CAPI_GROUP, "", "clusters");
    let paused = true_pause(&resource, object).unwrap_or_default();
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    match paused {
        true => drop(spec.insert("paused".to_owned(), Value::Bool(true))),
        false => drop(spec.remove("paused")),
    }
}

/// Defaults that the API server fills in; `spec.versions` is compared apart ([`crd::CrdSummary`]).
fn normalise_crd(object: &mut Object) {
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    if spec.get("conversion").and_then(|conversion| conversion.get("strategy")).and_then(Value::as_str) == Some("None")
    {
        spec.remove("conversion");
    }
    if let Some(config) =
        spec.get_mut("conversion").and_then(|conversion| conversion.pointer_mut("/webhook/clientConfig"))
        && let Some(config) = config.as_object_mut()
    {
        defaults::client_config(config);
    }
    let Some(names) = spec.get_mut("names").and_then(Value::as_object_mut) else { return };
    let kind = names.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    let defaults = [("singular", kind.to_lowercase()), ("listKind", format!("{kind}List"))];
    for (key, default) in defaults {
        if names.get(key).and_then(Value::as_str) == Some(&default) {
            names.remove(key);
        }
    }
}

/// Removes members that are null, at every depth: the API server drops them, and Go writes some that mean nothing.
pub fn strip_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(strip_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Takes out of a status which generation of the object a controller saw: the server counts anew in a new object.
pub fn strip_observed_generation(status: &mut Value) {
    let Some(status) = status.as_object_mut() else { return };
    status.remove(OBSERVED_GENERATION);
    let conditions = status.get_mut("conditions").and_then(Value::as_array_mut);
    conditions.into_iter().flatten().filter_map(Value::as_object_mut).for_each(|condition| {
        condition.remove(OBSERVED_GENERATION);
    });
}

/// Null, or a map or list with nothing in it: at the top of an object and in its metadata the same as absent.
pub fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(members) => members.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// What decides whether the token in a token Secret still works.
pub fn token(resource: &Resource, object: &Object) -> Option<Box<super::Token>> {
    if !resource.is("", "secrets") || object.get("type").and_then(Value::as_str) != Some(TOKEN_SECRET_TYPE) {
        return None;
    }
    let annotations = object.get("metadata")?.get("annotations")?;
    let text = |name: &str| annotations.get(name).and_then(Value::as_str).map(Box::from);
    let token = object.get("data").and_then(|data| data.get("token"));
    Some(Box::new(super::Token {
        account: text(SERVICE_ACCOUNT_NAME_ANNOTATION)?,
        uid: text(SERVICE_ACCOUNT_UID_ANNOTATION),
        data: token.map(Digest::of),
    }))
}

/// The Services that a webhook configuration asks, by namespace and name.
pub fn webhook_services(resource: &Resource, object: &Object) -> Box<[(Box<str>, Box<str>)]> {
    if !resource.is_webhook_configuration() {
        return Box::default();
    }
    let webhooks = object.get("webhooks").and_then(Value::as_array);
    let service = |webhook: &Value| {
        let service = webhook.pointer("/clientConfig/service")?;
        Some((service.get("namespace")?.as_str()?.into(), service.get("name")?.as_str()?.into()))
    };
    webhooks.into_iter().flatten().filter_map(service).collect()
}

/// Reads what protection and ordering need to know.
pub fn traits(resource: &Resource, object: &Object) -> super::Traits {
    let secret_type = || match resource.is("", "secrets") {
        true => object.get("type").and_then(Value::as_str).unwrap_or_default(),
        false => "",
    };
    let label = |name: &str| {
        let labels = object.get("metadata").and_then(|metadata| metadata.get("labels"));
        labels.and_then(|labels| labels.get(name)).and_then(Value::as_str)
    };
    let annotation = |name: &str| {
        let annotations = object.get("metadata").and_then(|metadata| metadata.get("annotations"));
        annotations.and_then(|all| all.get(name)).and_then(Value::as_str)
    };
    super::Traits {
        builtin: is_builtin(resource, object),
        helm_release: secret_type() == "helm.sh/release.v1",
        service_account_token: secret_type() == TOKEN_SECRET_TYPE,
        cluster_registration: secret_type() == "fleet.cattle.io/cluster-registration-values",
        bootstrapping: label("kubernetes.io/bootstrapping") == Some("rbac-defaults"),
        redeploy_generation: redeploy_key(resource)
            .and_then(|key| object.get("spec").and_then(|spec| spec.get(key)))
            .and_then(Value::as_i64),
        paused: true_pause(resource, object),
        forced_deploy: resource.is("management.cattle.io", "clusters") && annotation(FORCE_DEPLOY_ANNOTATION).is_some(),
        replicas: is_workload(resource).then(|| {
            let replicas = object.get("spec").and_then(|spec| spec.get("replicas")).and_then(Value::as_i64);
            replicas.and_then(|replicas| i32::try_from(replicas).ok()).unwrap_or(1)
        }),
    }
}

fn is_workload(resource: &Resource) -> bool {
    resource.group == "apps" && matches!(resource.plural.as_str(), "deployments" | "statefulsets")
}

/// Upstream takes both spellings, and goes by the plural alone (e90504c3, `restore/download.go`).
fn is_builtin(resource: &Resource, object: &Object) -> bool {
    matches!(resource.plural.as_str(), "globalroles" | "roletemplates")
        && object.get("builtin").is_some_and(|value| value == &Value::Bool(true) || value == "true")
}
