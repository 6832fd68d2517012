//! What a rollback left behind: objects of a newer revision that its target does not have (`History::leftovers`), looked up
//! and deleted. Helm deletes them itself in a rollback that nothing disturbs; doing this again does nothing.

use serde_json::Value;

use crate::cluster::{
    Catalog, ClusterError, ClusterReader, ClusterWriter, FailureKind, Preconditions, Propagation, Target, WriteError,
};
use crate::object::protect::{Guarded, protection};
use crate::object::{Interner, ObjectKey, live_facts, summarise};
use crate::release::{ReleaseObject, Revision, says_keep};

/// Which release an object is of, as Helm marks it (`pkg/action/validate.go`).
const RELEASE_NAME: &str = "/metadata/annotations/meta.helm.sh~1release-name";
const RELEASE_NAMESPACE: &str = "/metadata/annotations/meta.helm.sh~1release-namespace";
const RESOURCE_POLICY: &str = "/metadata/annotations/helm.sh~1resource-policy";

/// An object that is still there, and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    pub key: ObjectKey,
    /// The UID by which it is deleted, or why it is left.
    pub fate: Result<Box<str>, String>,
}

/// Looks up which of `objects` are there still. `release` says the release, and in which namespace objects lie that name none.
///
/// Left, and told, are those that are not marked as this release's, that are to be kept by an annotation, that are protected
/// (`object/protect`), and definitions and namespaces, with which everything in them would go. What is on its way out is
/// passed over.
///
/// # Errors
///
/// When the API server does not answer, or lets us not see one of them.
pub async fn find(
    reader: &ClusterReader,
    catalog: &Catalog,
    guarded: &Guarded,
    release: &Revision,
    objects: &[ReleaseObject],
) -> Result<Vec<Leftover>, ClusterError> {
    let mut found = Vec::new();
    for object in objects {
        let Some(key) = key(catalog, release, object) else { continue };
        let Some(answer) = reader.get(&Target::from(&key)).await? else { continue };
        if let Some(fate) = fate(&key, answer.value().unwrap_or_default(), guarded, release) {
            found.push(Leftover { key, fate });
        }
    }
    Ok(found)
}

/// `None` for a type that is not served: then it holds nothing.
fn key(catalog: &Catalog, release: &Revision, object: &ReleaseObject) -> Option<ObjectKey> {
    let served = catalog.find_kind(object.group(), &object.kind)?;
    let namespace = object.namespace.as_deref().unwrap_or(&release.namespace);
    Some(ObjectKey::new(&served.resource, served.namespaced.then_some(namespace), &object.name))
}

/// What becomes of a live object; `None` for one that is on its way out.
fn fate(key: &ObjectKey, live: Value, guarded: &Guarded, release: &Revision) -> Option<Result<Box<str>, String>> {
    let text = |path: &str| live.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let facts = match live_facts(&live) {
        Ok(facts) if facts.terminating => return None,
        Ok(facts) => facts,
        Err(error) => return Some(Err(error.to_string())),
    };
    if text(RELEASE_NAME) != release.name || text(RELEASE_NAMESPACE) != release.namespace {
        return Some(Err("is not marked as this release's any more".to_owned()));
    }
    if says_keep(text(RESOURCE_POLICY)) {
        return Some(Err("is to be kept, by its annotation helm.sh/resource-policy".to_owned()));
    }
    if key.resource.is_crd() || key.resource.is_namespace() {
        return Some(Err("would take along everything in it".to_owned()));
    }
    let protection = match summarise(&key.resource, live, &mut Interner::default()) {
        Ok(summary) => protection(key, &summary, true, guarded),
        Err(error) => return Some(Err(error.to_string())),
    };
    Some(match protection {
        Some(protection) => Err(protection.reason().to_owned()),
        None => Ok(facts.uid),
    })
}

/// Deletes those that are to go, each by its UID, and gives how many went. `writer` says as whom one is deleted.
///
/// # Errors
///
/// At the first that cannot be deleted. Those before it are gone, and another call goes on.
pub async fn delete<'a>(
    found: &[Leftover],
    writer: impl Fn(&Target<'_>) -> &'a ClusterWriter,
) -> Result<u64, WriteError> {
    let mut deleted = 0;
    for Leftover { key, fate } in found {
        let Ok(uid) = fate else { continue };
        let target = Target::from(key);
        let preconditions = Preconditions { uid: Some(uid), resource_version: None };
        match writer(&target).delete(&target, preconditions, Some(Propagation::Background), None).await {
            Ok(_) => deleted += 1,
            // Gone, or another one by now.
            Err(error) if matches!(error.kind(), Some(FailureKind::NotFound | FailureKind::Conflict)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(deleted)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::object::Resource;
    use crate::release;

    fn release() -> Revision {
        let body = json!({"name": "rancher", "namespace": "cattle-system", "version": 1, "manifest": ""});
        let data = {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD.encode(body.to_string())
        };
        release::read(&json!({"data": {"release": data}})).unwrap()
    }

    fn fate_of(group: &str, plural: &str, name: &str, metadata: Value) -> Option<Result<Box<str>, String>> {
        let key = ObjectKey::new(&Arc::new(Resource::new(group, "v1", plural)), Some("cattle-system"), name);
        let guarded = Guarded {
            rancher_namespace: "cattle-system".into(),
            rancher_deployment: "rancher".into(),
            ..Guarded::default()
        };
        let mut live = json!({"kind": "X", "metadata": {"name": name, "uid": "u", "resourceVersion": "1",
            "creationTimestamp": "2026-11-23T09:00:00Z",
            "annotations": {"meta.helm.sh/release-name": "rancher", "meta.helm.sh/release-namespace": "cattle-system"}}});
        for (field, value) in metadata.as_object().unwrap() {
            live["metadata"][field] = value.clone();
        }
        fate(&key, live, &guarded, &release())
    }

    #[test]
    fn only_what_is_of_the_release_and_unprotected_goes() {
        let told = |fate: Option<Result<Box<str>, String>>| format!("{:?}", fate.unwrap());
        assert_eq!(fate_of("", "configmaps", "a", json!({})), Some(Ok("u".into())));
        assert_eq!(fate_of("", "configmaps", "a", json!({"deletionTimestamp": "2026-11-23T09:00:00Z"})), None);
        insta::assert_snapshot!(told(fate_of("", "configmaps", "a", json!({"annotations": {}}))), @r#"Err("is not marked as this release's any more")"#);
        let keep = json!({"annotations": {"meta.helm.sh/release-name": "rancher", "meta.helm.sh/release-namespace": "cattle-system", "helm.sh/resource-policy": "keep"}});
        insta::assert_snapshot!(told(fate_of("", "configmaps", "a", keep)), @r#"Err("is to be kept, by its annotation helm.sh/resource-policy")"#);
        insta::assert_snapshot!(told(fate_of("apps", "deployments", "rancher", json!({}))), @r#"Err("is the Deployment of Rancher, whose version a Restore does not change")"#);
        insta::assert_snapshot!(told(fate_of("apiextensions.k8s.io", "customresourcedefinitions", "a.b", json!({}))), @r#"Err("would take along everything in it")"#);
        insta::assert_snapshot!(told(fate_of("rbac.authorization.k8s.io", "clusterroles", "system:a", json!({}))), @r#"Err("is RBAC of Kubernetes itself")"#);
    }
}
