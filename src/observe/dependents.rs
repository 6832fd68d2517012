//! What goes along with deletions: found by names, owners and namespaces of everything else in the cluster.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde::Deserialize;

use super::lists::{Bystanders, owner_uids};
use super::{ObserveError, is_forbidden, is_unconverted, to_list};
use crate::cluster::{ApiResource, Catalog, ClusterError, ClusterReader, JsonFault, ListOptions};
use crate::object::{ObjectKey, Resource};
use crate::observed::{Access, Dependent, LiveObject, Observed};
use crate::plan::Plan;

const IN_FLIGHT: usize = 4;

/// What deletions reach, and what could not be looked at for it.
#[derive(Debug, Default)]
pub struct Reached {
    pub dependents: Vec<Dependent>,
    pub unlisted: Vec<(Resource, String)>,
    pub unconverted: BTreeSet<Resource>,
    /// Lists that we may not make.
    pub denied: Vec<Access>,
}

/// What the deletions of a plan would reach, by owner references, namespaces and definitions.
///
/// Without deletions nothing is listed. With them every type is that was not for the backup, names and owners only, and once more
/// for each level of namespaces or definitions that others take along, since nobody knew before that their content matters.
pub async fn of_deletions(
    reader: &ClusterReader,
    catalog: &Catalog,
    plan: &Plan,
    observed: &Observed,
    bystanders: &Bystanders,
    mut ahead: Option<Ahead>,
) -> Result<Reached, ObserveError> {
    if plan.deletions.is_empty() {
        return Ok(Reached::default());
    }
    let deleted: Vec<&LiveObject> =
        plan.deletions.iter().map(|deletion| &observed.live.objects[deletion.live as usize]).collect();
    let uids: HashSet<Box<str>> = deleted.iter().map(|object| object.facts.uid.clone()).collect();
    let mut scope = Scope::default();
    scope.widen(deleted.iter().map(|object| &object.key));
    loop {
        let mut found = match ahead.take().filter(|ahead| ahead.scope.covers(&scope)) {
            Some(ahead) => ahead.found,
            None => list_others(reader, catalog, &scope, &bystanders.types).await?,
        };
        found.dependents.extend(listed_before(observed, bystanders, &scope));
        found.dependents = reached(found.dependents, &scope, uids.clone());
        if !scope.widen(found.dependents.iter().map(|dependent| &dependent.key)) {
            found.dependents.sort();
            return Ok(found);
        }
    }
}

/// What was listed before it was known for which deletions.
pub struct Ahead {
    scope: Scope,
    found: Reached,
}

/// Lists for [`of_deletions`] what it will ask for, should prune delete all that it may; nothing where that is nothing.
pub async fn ahead(
    reader: &ClusterReader,
    catalog: &Catalog,
    bystanders: &Bystanders,
) -> Result<Option<Ahead>, ObserveError> {
    if bystanders.surplus.is_empty() {
        return Ok(None);
    }
    let mut scope = Scope::default();
    scope.widen(bystanders.surplus.iter());
    let found = list_others(reader, catalog, &scope, &bystanders.types).await?;
    Ok(Some(Ahead { scope, found }))
}

/// Of what was listed for the backup, that which may be reached.
fn listed_before(observed: &Observed, bystanders: &Bystanders, scope: &Scope) -> Vec<Dependent> {
    let live = observed.live.objects.iter().filter(|object| matters(&object.key, &object.summary.owners, scope));
    let live = live.map(|LiveObject { key, summary, facts, selected: _ }| Dependent {
        key: key.clone(),
        uid: facts.uid.clone(),
        owners: owner_uids(summary),
    });
    let others = bystanders.objects.iter().filter(|other| matters(&other.key, &other.owners, scope));
    live.chain(others.cloned()).collect()
}

/// Whether some deletion may reach an object.
fn matters<T>(key: &ObjectKey, owners: &[T], scope: &Scope) -> bool {
    !owners.is_empty() || scope.holds(key)
}

/// Lists every type but `listed`.
async fn list_others(
    reader: &ClusterReader,
    catalog: &Catalog,
    scope: &Scope,
    listed: &HashSet<(String, String)>,
) -> Result<Reached, ObserveError> {
    let scope = Arc::new(scope.clone());
    let others =
        listable(catalog).into_iter().filter(|found| !listed.contains(&(found.group.clone(), found.plural.clone())));
    let mut lists = stream::iter(others.map(|found| {
        let (reader, scope) = (reader.clone(), Arc::clone(&scope));
        async move { list(&reader, found, &scope).await }
    }))
    .buffer_unordered(IN_FLIGHT);
    let mut all = Reached::default();
    while let Some(Reached { dependents, unlisted, unconverted, denied }) = lists.try_next().await? {
        all.dependents.extend(dependents);
        all.unlisted.extend(unlisted);
        all.unconverted.extend(unconverted);
        all.denied.extend(denied);
    }
    Ok(all)
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

/// Where deletions reach without an owner reference: the content of namespaces and of definitions.
#[derive(Debug, Clone, Default)]
struct Scope {
    namespaces: HashSet<Arc<str>>,
    /// Group and plural.
    types: HashSet<(String, String)>,
}

impl Scope {
    /// Takes in what these objects hold; true when that is more than before.
    fn widen<'k>(&mut self, deleted: impl Iterator<Item = &'k ObjectKey>) -> bool {
        let mut wider = false;
        for key in deleted {
            if key.resource.is_namespace() {
                wider |= self.namespaces.insert(Arc::clone(&key.name));
            }
            // A definition's name is `<plural>.<group>`; the API server sees to it.
            if let (true, Some((plural, group))) = (key.resource.is_crd(), key.name.split_once('.')) {
                wider |= self.types.insert((group.to_owned(), plural.to_owned()));
            }
        }
        wider
    }

    /// Holds all that the other holds.
    fn covers(&self, other: &Self) -> bool {
        self.namespaces.is_superset(&other.namespaces) && self.types.is_superset(&other.types)
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

async fn list(reader: &ClusterReader, resource: Arc<Resource>, scope: &Scope) -> Result<Reached, ObserveError> {
    let listed = match names(reader, &resource, scope).await {
        Err(error) if is_unconverted(&error) => match reader.as_stored(&resource).await? {
            Some(stored) => names(reader, &Arc::new(stored), scope).await,
            None => Err(error),
        },
        listed => listed,
    };
    match listed {
        Ok(dependents) => Ok(Reached { dependents, ..Reached::default() }),
        Err(ClusterError::NotServed { .. }) => Ok(Reached::default()),
        Err(error) if is_forbidden(&error) => Ok(Reached { denied: vec![to_list(&resource)], ..Reached::default() }),
        Err(error) if is_unconverted(&error) => {
            Ok(Reached { unconverted: BTreeSet::from([resource.as_ref().clone()]), ..Reached::default() })
        }
        Err(error @ ClusterError::Api { .. }) => {
            let unlisted = vec![(resource.as_ref().clone(), error.to_string())];
            Ok(Reached { unlisted, ..Reached::default() })
        }
        Err(error) => Err(error.into()),
    }
}

async fn names(
    reader: &ClusterReader,
    resource: &Arc<Resource>,
    scope: &Scope,
) -> Result<Vec<Dependent>, ClusterError> {
    let options = ListOptions { metadata_only: true, ..ListOptions::default() };
    let listed = reader
        .list(resource, options, |raw| {
            let Item { metadata } = serde_json::from_str(raw.get()).map_err(JsonFault::from)?;
            let key = ObjectKey::new(resource, metadata.namespace.as_deref(), &metadata.name);
            let matters = matters(&key, &metadata.owner_references, scope);
            let owners = metadata.owner_references.into_iter().map(|owner| owner.uid).collect();
            Ok(matters.then(|| Dependent { key, uid: metadata.uid.into(), owners }))
        })
        .await;
    Ok(listed?.items)
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
