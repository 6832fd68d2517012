//! Objects of Rancher's Helm chart in a cluster where Rancher is not installed yet: Helm takes what is there into its release
//! only where it finds its own marks, and refuses to install otherwise (Helm 3.2 and later, `helm install`).

use serde_json::{Map, Value};

use super::{ObjectKey, Resource};
use crate::rancher::migration::CHART_OBJECTS;

const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
const RELEASE_NAME: &str = "meta.helm.sh/release-name";
const RELEASE_NAMESPACE: &str = "meta.helm.sh/release-namespace";

/// The release that Rancher will be installed as.
#[derive(Debug, Clone, Copy)]
pub struct Release<'a> {
    pub name: &'a str,
    pub namespace: &'a str,
}

/// Marks an object of the chart as Helm's, unless it has a mark of Helm's or of another tool.
pub fn mark(key: &ObjectKey, object: &mut Value, release: Release<'_>) {
    let Release { name, namespace } = release;
    let is = key.namespace.as_deref().is_none_or(|of| of == namespace)
        && is_of_chart(&key.resource, key.namespace.is_some(), &key.name, name);
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut).filter(|_| is) else { return };
    let has = |of: &str, mark: &str| metadata.get(of).and_then(|all| all.get(mark)).is_some();
    if has("labels", MANAGED_BY) || has("annotations", RELEASE_NAME) || has("annotations", RELEASE_NAMESPACE) {
        return;
    }
    set(metadata, "labels", MANAGED_BY, "Helm");
    set(metadata, "annotations", RELEASE_NAME, name);
    set(metadata, "annotations", RELEASE_NAMESPACE, namespace);
}

/// Takes Helm's marks off an object that may have got them by [`mark`], so that it equals the backup's.
pub fn strip_marks(resource: &Resource, metadata: &mut Map<String, Value>) {
    let text = |field: &str| metadata.get(field).and_then(Value::as_str).unwrap_or_default();
    let release = metadata.get("annotations").and_then(|all| all.get(RELEASE_NAME)).and_then(Value::as_str);
    let Some(release) = release else { return };
    if !is_of_chart(resource, !text("namespace").is_empty(), text("name"), release) {
        return;
    }
    for (of, mark) in [("labels", MANAGED_BY), ("annotations", RELEASE_NAME), ("annotations", RELEASE_NAMESPACE)] {
        if let Some(all) = metadata.get_mut(of).and_then(Value::as_object_mut) {
            all.remove(mark);
        }
    }
}

fn is_of_chart(resource: &Resource, namespaced: bool, name: &str, release: &str) -> bool {
    CHART_OBJECTS.iter().any(|object| {
        resource.is(object.group, object.plural)
            && object.namespaced == namespaced
            && object.name.unwrap_or(release) == name
    })
}

fn set(metadata: &mut Map<String, Value>, of: &str, mark: &str, value: &str) {
    let all = metadata.entry(of).or_insert(Value::Null);
    if all.is_null() {
        *all = Value::Object(Map::new());
    }
    if let Some(all) = all.as_object_mut() {
        all.insert(mark.to_owned(), Value::from(value));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::object::{Interner, summarise};
    use crate::plan::testing::{key, object};

    const RANCHER: Release<'_> = Release { name: "rancher", namespace: "cattle-system" };

    fn marked(path: &str, more: Value) -> Value {
        let mut marked = object(path, more);
        mark(&key(path), &mut marked, RANCHER);
        marked["metadata"].take()
    }

    #[test]
    fn objects_of_the_chart_get_the_marks_that_helm_looks_for_and_equal_the_backup_all_the_same() {
        let account = "serviceaccounts.#v1/cattle-system/rancher";
        let metadata = marked(account, json!({}));
        assert_eq!(metadata["labels"], json!({"app.kubernetes.io/managed-by": "Helm"}));
        let release = json!({
            "meta.helm.sh/release-name": "rancher", "meta.helm.sh/release-namespace": "cattle-system",
        });
        assert_eq!(metadata["annotations"], release);
        for path in [account, "clusterrolebindings.rbac.authorization.k8s.io#v1/rancher"] {
            let summary =
                |value: Value| summarise(&key(path).resource, value, &mut Interner::default()).expect("whole").spec;
            let mut live = object(path, json!({}));
            live["metadata"] = marked(path, json!({}));
            assert_eq!(summary(live), summary(object(path, json!({}))), "{path}");
        }
    }

    #[test]
    fn what_is_no_object_of_the_chart_or_has_marks_stays_as_it_is() {
        let others = [
            ("serviceaccounts.#v1/cattle-system/other", json!({})),
            ("serviceaccounts.#v1/fleet-default/rancher", json!({})),
            ("secrets.#v1/cattle-system/rancher", json!({})),
            ("services.#v1/cattle-system/rancher", json!({"metadata": {"labels": {MANAGED_BY: "Flux"}}})),
            (
                "services.#v1/cattle-system/rancher",
                json!({"metadata": {"annotations": {RELEASE_NAME: "rancher-stable"}}}),
            ),
        ];
        for (path, more) in others {
            let plain = object(path, more.clone());
            assert_eq!(marked(path, more), plain["metadata"], "{path}");
        }
    }
}
