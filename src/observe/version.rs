//! What setting Rancher's version stands on: its Helm release, what only a newer Rancher serves, and which clusters are connected.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::facts::{get, release_name};
use super::health::connected_clusters;
use super::{ObserveError, Places, visible};
use crate::cluster::{Catalog, ClusterReader, ListOptions};
use crate::object::Resource;
use crate::observed::{ClusterFacts, ReleaseType};
use crate::plan::version::{Brought, ObjectRef};
use crate::rancher::API_SERVICES;
use crate::release::History;
use crate::run::NAMESPACE;
use crate::status;
use crate::undo::{self, Removed};

/// Adds it to what is known of the cluster.
///
/// # Errors
///
/// When the API server does not answer; what we may not see counts as not there.
pub async fn read(
    reader: &ClusterReader,
    catalog: &Catalog,
    places: &Places,
    cluster: &mut ClusterFacts,
) -> Result<(), ObserveError> {
    cluster.releases = releases(reader, places).await?;
    cluster.release_types = release_types(catalog, &cluster.releases);
    cluster.brought = brought(reader, catalog).await?;
    cluster.removed = missing(reader, catalog).await?;
    cluster.connected_clusters = connected_clusters(reader).await?;
    Ok(())
}

/// Every revision of Rancher's Helm release that Helm still has.
///
/// # Errors
///
/// When the API server does not answer; what we may not see counts as not there.
pub async fn releases(reader: &ClusterReader, places: &Places) -> Result<History, ObserveError> {
    let name = release_name(reader, places).await?;
    let secrets = Resource::new("", "v1", "secrets");
    let labels = format!("owner=helm,name={name}");
    let namespace = Some(places.rancher_namespace.as_str());
    let options = ListOptions { namespace, label_selector: &labels, ..ListOptions::default() };
    let listed = reader.list(&secrets, options, |raw| Ok(Some(serde_json::from_str::<Value>(raw.get())?))).await;
    Ok(History::read(&visible(listed.map(|listed| listed.items))?))
}

fn release_types(catalog: &Catalog, releases: &History) -> BTreeMap<(String, String), ReleaseType> {
    let objects = releases.revisions().iter().flat_map(|revision| &revision.objects);
    let kinds: BTreeSet<(&str, &str)> = objects.map(|object| (object.group(), object.kind.as_str())).collect();
    let served = kinds.into_iter().filter_map(|(group, kind)| {
        let served = catalog.find_kind(group, kind)?;
        let of_kind = ReleaseType { resource: served.resource.as_ref().clone(), namespaced: served.namespaced };
        Some(((group.to_owned(), kind.to_owned()), of_kind))
    });
    served.collect()
}

/// What the last run that deleted it knows of what only a newer Rancher serves.
///
/// # Errors
///
/// When the API server does not answer; a cluster without runs has none, and neither has one whose runs we may not see.
pub async fn removed(reader: &ClusterReader) -> Result<Vec<Removed>, ObserveError> {
    let options = ListOptions { namespace: Some(NAMESPACE), ..ListOptions::default() };
    let runs = Resource::new("reinback.io", "v1alpha1", "runs");
    // One that cannot be read is told of where the ledger is read.
    let listed =
        reader.list(&runs, options, |raw| Ok(status::run_from_value(serde_json::from_str(raw.get())?).ok())).await;
    Ok(undo::removed(&visible(listed.map(|listed| listed.items))?))
}

/// Of that, what nobody has made since.
async fn missing(reader: &ClusterReader, catalog: &Catalog) -> Result<Vec<Brought>, ObserveError> {
    let mut missing = Vec::new();
    for Removed { object, since, value: _ } in removed(reader).await? {
        let resource = object.resource_type();
        if catalog.find(&resource).is_some()
            && get(reader, &resource, object.namespace.as_deref(), &object.name).await?.is_none()
        {
            missing.push(Brought { object, since });
        }
    }
    Ok(missing)
}

async fn brought(reader: &ClusterReader, catalog: &Catalog) -> Result<Vec<Brought>, ObserveError> {
    let api_services = Resource::new("apiregistration.k8s.io", "v1", "apiservices");
    if catalog.find(&api_services).is_none() {
        return Ok(Vec::new());
    }
    let services = Resource::new("", "v1", "services");
    let mut found = Vec::new();
    for (name, since) in API_SERVICES {
        let Some(value) = get(reader, &api_services, None, name).await? else { continue };
        let part = |field: &str| value.pointer(&format!("/spec/service/{field}")).and_then(Value::as_str);
        let service = part("namespace").zip(part("name"));
        found.push(brought_by(*since, &api_services, None, name));
        if let Some((namespace, name)) = service
            && get(reader, &services, Some(namespace), name).await?.is_some()
        {
            found.push(brought_by(*since, &services, Some(namespace), name));
        }
    }
    Ok(found)
}

fn brought_by(since: (u64, u64, u64), resource: &Resource, namespace: Option<&str>, name: &str) -> Brought {
    let object = ObjectRef {
        api_version: resource.api_version(),
        resource: resource.plural.clone(),
        namespace: namespace.map(str::to_owned),
        name: name.to_owned(),
    };
    Brought { object, since }
}
