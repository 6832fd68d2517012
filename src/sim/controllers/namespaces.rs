//! Namespaces: what every one has, and how one goes.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{accounts, create, delete, kind_key};
use crate::sim::delete::Propagation;
use crate::sim::meta::{self, at, list};
use crate::sim::store::Key;
use crate::sim::world::World;

pub fn tend(world: &mut World, name: &str) {
    let Some(key) = kind_key(world, "", "namespaces", None, name) else { return };
    let Some(namespace) = world.store.get(&key).cloned() else { return };
    if !meta::is_deleting(&namespace) {
        return furnish(world, name);
    }
    if list(&namespace, "/spec/finalizers").iter().any(|finalizer| finalizer == "kubernetes") {
        empty(world, &key, name);
    }
}

fn furnish(world: &mut World, name: &str) {
    let object = |name: &str| json!({"metadata": {"name": name}});
    // What exists is left as it is.
    create(world, ("", "serviceaccounts"), Some(name), object("default"));
    let mut authority = object("kube-root-ca.crt");
    authority["data"] = json!({"ca.crt": accounts::AUTHORITY});
    *at(&mut authority, &["metadata", "annotations", "kubernetes.io/description"]) = "Simulated.".into();
    create(world, ("", "configmaps"), Some(name), authority);
}

/// Deletes all that a namespace holds, and lets it go when nothing is left.
fn empty(world: &mut World, key: &Key, name: &str) {
    for held in held(world, name) {
        if world.store.get(&held).is_some_and(|object| !meta::is_deleting(object)) {
            delete(world, &held, Some(Propagation::Background));
        }
    }
    let left = held(world, name);
    let time = world.time();
    if left.is_empty() {
        world.modify(key, |namespace| {
            let mut left = list(namespace, "/spec/finalizers").to_vec();
            left.retain(|finalizer| finalizer != "kubernetes");
            meta::assign(namespace, &["spec", "finalizers"], (!left.is_empty()).then(|| json!(left)));
        });
        return;
    }
    let waiting: Vec<String> =
        left.iter().filter_map(|key| world.store.get(key)).flat_map(|o| meta::finalizers(o)).collect();
    world.modify(key, |namespace| tell(namespace, left.len(), &waiting, &time));
}

/// All that lies in a namespace.
fn held(world: &World, namespace: &str) -> Vec<Key> {
    let mut held = Vec::new();
    for of in world.store.types() {
        let within = world.store.within(of, namespace);
        held.extend(within.map(|(path, _)| Key { of: Arc::clone(of), path: path.clone() }));
    }
    held
}

fn tell(namespace: &mut Value, left: usize, waiting: &[String], time: &str) {
    let content = format!("Some resources are remaining: {left} resource instances");
    meta::set_condition(namespace, "NamespaceContentRemaining", true, "SomeResourcesRemain", &content, time);
    let is_waiting = !waiting.is_empty();
    let finalizers = match is_waiting {
        true => format!("Some content in the namespace has finalizers remaining: {}", waiting.join(", ")),
        false => "All content-preserving finalizers finished".to_owned(),
    };
    let reason = if is_waiting { "SomeFinalizersRemain" } else { "ContentHasNoFinalizers" };
    meta::set_condition(namespace, "NamespaceFinalizersRemaining", is_waiting, reason, &finalizers, time);
}
