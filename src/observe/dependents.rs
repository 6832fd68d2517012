//! What goes along with deletions: found by names, owners and namespaces of everything else in the cluster.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};
use serde::Deserialize;

use super::ObserveError;
use crate::cluster::{ApiResource, Catalog, ClusterError, ClusterReader, JsonFault, ListOptions};
use crate::object::{ObjectKey, Resource};
use crate::observed::{Dependent, LiveObject, Observed};
use crate::plan::Plan;

const IN_FLIGHT: usize = 4;

/// What the deletions of a plan would reach, by owner references, namespaces and definitions.
///
/// Without deletions nothing is listed. With them every type is, names and owners only.
pub async fn of_deletions(
    reader: &ClusterReader,
    catalog: &Catalog,
    plan: &Plan,
    observed: &Observed,
) -> Result<Vec<Dependent>, ObserveError> {
    if plan.deletions.is_empty() {
        return Ok(Vec::new());
    }
    let deleted: Vec<&LiveObject> =
        plan.deletions.iter().map(|deletion| &observed.live.objects[deletion.live as usize]).collect();
    let scope = Arc::new(Scope::new(&deleted));
    let found: Vec<Vec<Dependent>> = stream::iter(listable(catalog).into_iter().map(|found| {
        let (reader, scope) = (reader.clone(), Arc::clone(&scope));
        async move { list(&reader, found, &scope).await }
    }))
    .buffer_unordered(IN_FLIGHT)
    .try_collect()
    .await?;
    let roots = deleted.iter().map(|object| object.facts.uid.clone()).collect();
    let mut reached = reached(found.into_iter().flatten().collect(), &scope, roots);
    reached.sort();
    Ok(reached)
}

/// Namespaces that hold Pods or PersistentVolumeClaims, and how many.
pub fn occupied(dependents: &[Dependent]) -> BTreeMap<String, u64> {
    let mut occupied = BTreeMap::new();
    for dependent in dependents {
        let resource = dependent.key.resource.as_ref();
        if let (true, Some(namespace)) =
            (resource.is("", "pods") || resource.is("", "persistentvolumeclaims"), &dependent.key.namespace)
        {
            *occupied.entry(namespace.to_string()).or_default() += 1;
        }
    }
    occupied
}

/// Events come and go and nobody misses them.
fn is_event(resource: &Resource) -> bool {
    resource.plural == "events" && matches!(resource.group.as_str(), "" | "events.k8s.io")
}

/// Every type once, at the version that the server prefers.
fn listable(catalog: &Catalog) -> Vec<Arc<Resource>> {
    let mut seen = HashSet::new();
    let wanted = |found: &&ApiResource| found.can("list") && found.can("delete") && !is_event(&found.resource);
    let first = |found: &&ApiResource| seen.insert((found.resource.group.clone(), found.resource.plural.clone()));
    catalog.resources.iter().filter(wanted).filter(first).map(|found| Arc::clone(&found.resource)).collect()
}

/// Where deletions reach at once.
struct Scope {
    namespaces: HashSet<Arc<str>>,
    types: HashSet<(String, String)>,
}

impl Scope {
    fn new(deleted: &[&LiveObject]) -> Self {
        let namespaces = deleted.iter().filter(|object| object.key.resource.is_namespace());
        let crds = deleted.iter().filter_map(|object| object.summary.crd.as_deref());
        Self {
            namespaces: namespaces.map(|object| Arc::clone(&object.key.name)).collect(),
            types: crds.map(|crd| (crd.group.clone(), crd.plural.clone())).collect(),
        }
    }

    fn holds(&self, key: &ObjectKey) -> bool {
        key.namespace.as_ref().is_some_and(|namespace| self.namespaces.contains(namespace))
            || self.types.contains(&(key.resource.group.clone(), key.resource.plural.clone()))
    }
}

#[derive(Deserialize)]
struct Item {
    metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Metadata {
    name: String,
    namespace: Option<String>,
    uid: String,
    owner_references: Vec<Reference>,
}

#[derive(Deserialize)]
struct Reference {
    uid: Box<str>,
}

async fn list(reader: &ClusterReader, resource: Arc<Resource>, scope: &Scope) -> Result<Vec<Dependent>, ObserveError> {
    let options = ListOptions { metadata_only: true, ..ListOptions::default() };
    let listed = reader
        .list(&resource, options, |raw| {
            let Item { metadata } = serde_json::from_str(raw.get()).map_err(JsonFault::from)?;
            let key = ObjectKey::new(&resource, metadata.namespace.as_deref(), &metadata.name);
            let matters = scope.holds(&key) || !metadata.owner_references.is_empty();
            let owners = metadata.owner_references.into_iter().map(|owner| owner.uid).collect();
            Ok(matters.then(|| Dependent { key, uid: metadata.uid.into(), owners }))
        })
        .await;
    match listed {
        Ok(listed) => Ok(listed.items),
        // What is not served or not ours to see cannot be shown; the gates of prune go by what is.
        Err(ClusterError::NotServed { .. } | ClusterError::Api { .. }) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// Drops what no deletion reaches, however many owners lie between.
fn reached(mut all: Vec<Dependent>, scope: &Scope, mut uids: HashSet<Box<str>>) -> Vec<Dependent> {
    let mut reached = Vec::new();
    loop {
        let hit = |dependent: &Dependent| {
            scope.holds(&dependent.key) || dependent.owners.iter().any(|owner| uids.contains(owner))
        };
        let (next, rest): (Vec<_>, Vec<_>) = all.into_iter().partition(hit);
        if next.is_empty() {
            return reached;
        }
        uids.extend(next.iter().map(|dependent| dependent.uid.clone()));
        reached.extend(next);
        all = rest;
    }
}
