//! Definitions of custom resources, and aggregated APIs.

use serde_json::{Value, json};

use super::{Work, delete, soon};
use crate::sim::delete::Propagation;
use crate::sim::discovery::Registered;
use crate::sim::meta::{self, at, text};
use crate::sim::store::Key;
use crate::sim::strategy::CLEANUP;
use crate::sim::world::World;

/// A custom resource changed: when it is gone, its definition may be waiting for that.
pub fn react(world: &mut World, of: &str, after: Option<&Value>) {
    if after.is_some() || !of.contains('.') {
        return;
    }
    let Some(definitions) = world.kinds.find("apiextensions.k8s.io", "customresourcedefinitions") else { return };
    let key = Key::new(&definitions.stored, None, of);
    if world.store.get(&key).is_some_and(|definition| meta::is_deleting(definition)) {
        soon(world, Work::Definition(key));
    }
}

pub fn tend(world: &mut World, key: &Key) {
    let time = world.time();
    let Some(definition) = world.store.get(key).cloned() else { return };
    if !meta::is_deleting(&definition) {
        if let Some(established) = world.modify(key, |definition| establish(definition, &time)) {
            world.kinds.define(&established);
        }
        return soon(world, Work::Announce(key.clone()));
    }
    if !meta::finalizers(&definition).iter().any(|finalizer| finalizer == CLEANUP) {
        return;
    }
    world.modify(key, |definition| {
        let message = "CustomResource deletion is in progress";
        meta::set_condition(definition, "Terminating", true, "InstanceDeletionInProgress", message, &time);
    });
    let left = |world: &World| -> Vec<Key> {
        let found = world.store.types().find(|of| ***of == *key.name()).cloned();
        let objects = found.into_iter().flat_map(|of| {
            world.store.all(&of).map(|(path, _)| Key { of: of.clone(), path: path.clone() }).collect::<Vec<_>>()
        });
        objects.collect()
    };
    for object in left(world) {
        if world.store.get(&object).is_some_and(|object| !meta::is_deleting(object)) {
            delete(world, &object, Some(Propagation::Background));
        }
    }
    if left(world).is_empty() {
        world.modify(key, |definition| {
            let mut finalizers = meta::finalizers(definition);
            finalizers.retain(|finalizer| finalizer != CLEANUP);
            meta::set_finalizers(definition, &finalizers);
        });
    }
}

/// Accepts a definition's names. Whether another one has them is not asked: their names would be the same.
pub fn establish(definition: &mut Value, time: &str) {
    let names = definition.pointer("/spec/names").cloned().unwrap_or_default();
    *at(definition, &["status", "acceptedNames"]) = names;
    let message = "no conflicts found";
    meta::set_condition(definition, "NamesAccepted", true, "NoConflicts", message, time);
    let message = "the initial names have been accepted";
    meta::set_condition(definition, "Established", true, "InitialNamesAccepted", message, time);
}

/// What a definition defines is served first, and then told by discovery; of one that is gone neither.
pub fn announce(world: &mut World, key: &Key) {
    match world.store.get(key) {
        None => world.kinds.undefine(key.name()),
        Some(_) => world.kinds.announce(key.name()),
    }
}

/// Aggregated APIs with a server of their own do not answer: there is no such server here.
pub fn judge_services(world: &mut World) {
    let Some(kind) = world.kinds.find("apiregistration.k8s.io", "apiservices").cloned() else { return };
    let with_server = |service: &Value| service.pointer("/spec/service").is_some_and(Value::is_object);
    let services = world.store.all(&kind.stored).filter(|(_, service)| with_server(service));
    let services: Vec<_> = services.map(|(path, service)| (path.clone(), service.clone())).collect();
    let registered = |service: &Value| Registered {
        group: text(service, "/spec/group").to_owned(),
        version: text(service, "/spec/version").to_owned(),
    };
    world.failing = services.iter().map(|(_, service)| registered(service)).collect();
    let time = world.time();
    for (path, service) in services {
        let (namespace, name) = (text(&service, "/spec/service/namespace"), text(&service, "/spec/service/name"));
        let message = format!("service/{name} in {} is not present", json!(namespace));
        world.modify(&Key { of: kind.stored.clone(), path }, |service| {
            meta::set_condition(service, "Available", false, "ServiceNotFound", &message, &time);
        });
    }
}
