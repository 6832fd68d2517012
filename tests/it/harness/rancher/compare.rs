//! The judge of a restore: written without the library's comparison, so that it can judge it.

use std::collections::HashMap;

use anyhow::{Context as _, Result};
use kube::Client;
use serde_json::{Map, Value};

use super::{Item, OwnerKey, Place, owner_keys, text, with_status};

/// In what the live objects differ from a backup, a line a difference: an object that is missing, a path with another
/// value, an owner reference whose uid is not the live owner's.
///
/// Left out: metadata that the server sets, the status of built-in kinds, the revision that a controller writes on
/// Deployments, and what a restore changes to make agents deploy again.
pub async fn differences(client: &Client, items: &[Item]) -> Result<Vec<String>> {
    let live = list_all(client, items).await?;
    let uids: HashMap<OwnerKey, &Value> =
        live.iter().map(|(place, object)| (key(place, object), uid(object))).collect();
    let statuses = with_status(items);
    let mut found = Vec::new();
    for Item { place, object } in items {
        let Some(live) = live.get(place) else {
            found.push(format!("{place}: missing"));
            continue;
        };
        let resource = (place.plural.clone(), place.group.clone(), place.version.clone());
        let normal = |object: &Value| normalized(place, object, statuses.contains(&resource));
        compare(&place.to_string(), &normal(object), &normal(live), &mut found);
        for reference in live["metadata"]["ownerReferences"].as_array().into_iter().flatten() {
            let owner = owner_keys(place, reference).into_iter().find_map(|key| uids.get(&key).copied());
            if owner != Some(&reference["uid"]) {
                found.push(format!("{place}: owner {} {} is not live", reference["kind"], reference["name"]));
            }
        }
    }
    Ok(found)
}

fn key(place: &Place, object: &Value) -> OwnerKey {
    (place.group.clone(), text(&object["kind"]), place.namespace.clone(), place.name.clone())
}

fn uid(object: &Value) -> &Value {
    &object["metadata"]["uid"]
}

/// Every live object of the resources that the backup has.
async fn list_all(client: &Client, items: &[Item]) -> Result<HashMap<Place, Value>> {
    // A resource by its list, with the kind, which a list says once and not for each object.
    let kinds: HashMap<String, (&Place, &Value)> =
        items.iter().map(|item| (item.place.everywhere(), (&item.place, &item.object["kind"]))).collect();
    let mut live = HashMap::new();
    for (url, (sample, kind)) in kinds {
        let mut next = String::new();
        loop {
            let page = format!("{url}?limit=500&continue={next}");
            let request = http::Request::get(&page).body(Vec::new())?;
            let mut list: Value = client.request(request).await.with_context(|| format!("cannot list {url}"))?;
            for mut object in list["items"].as_array_mut().map(std::mem::take).unwrap_or_default() {
                object["kind"] = kind.clone();
                live.insert(place_of(sample, &object), object);
            }
            next = text(&list["metadata"]["continue"]);
            if next.is_empty() {
                break;
            }
        }
    }
    Ok(live)
}

fn place_of(sample: &Place, object: &Value) -> Place {
    let metadata = &object["metadata"];
    let resource = (sample.group.as_str(), sample.version.as_str(), sample.plural.as_str());
    Place::new(resource, metadata["namespace"].as_str(), &text(&metadata["name"]))
}

fn normalized(place: &Place, object: &Value, with_status: bool) -> Map<String, Value> {
    let mut object = object.as_object().cloned().unwrap_or_default();
    object.remove("apiVersion");
    if !with_status {
        object.remove("status");
    }
    if place.is("", "serviceaccounts") {
        object.remove("secrets");
    }
    if place.is("fleet.cattle.io", "clusters") || place.is("provisioning.cattle.io", "clusters") {
        remove(&mut object, "spec", &["redeployAgentGeneration", "redeploySystemAgentGeneration"]);
    }
    let server_set = ["uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "selfLink"];
    remove(&mut object, "metadata", &server_set);
    if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
        remove(metadata, "annotations", &["io.cattle.agent.force.deploy", "deployment.kubernetes.io/revision"]);
        for reference in metadata.get_mut("ownerReferences").and_then(Value::as_array_mut).into_iter().flatten() {
            reference["uid"].take();
        }
    }
    object
}

/// Removes fields of a field, and the field when nothing is left of it.
fn remove(object: &mut Map<String, Value>, field: &str, names: &[&str]) {
    let Some(Value::Object(inner)) = object.get_mut(field) else { return };
    inner.retain(|name, _| !names.contains(&name.as_str()));
    if inner.is_empty() {
        object.remove(field);
    }
}

fn compare(path: &str, backup: &Map<String, Value>, live: &Map<String, Value>, found: &mut Vec<String>) {
    for (field, value) in backup {
        let path = format!("{path}: {field}");
        match (value, live.get(field)) {
            (Value::Object(value), Some(Value::Object(live))) => compare(&path, value, live, found),
            (value, Some(live)) if value == live => {}
            (_, Some(_)) => found.push(format!("{path} differs")),
            (_, None) => found.push(format!("{path} is missing")),
        }
    }
    for field in live.keys().filter(|field| !backup.contains_key(*field)) {
        found.push(format!("{path}: {field} was added"));
    }
}
