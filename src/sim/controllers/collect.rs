//! Garbage collection: what an owner's end means for what it owns.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Work, delete, soon};
use crate::sim::delete::{FOREGROUND, ORPHAN, Propagation};
use crate::sim::meta::{self, text};
use crate::sim::store::Key;
use crate::sim::world::World;

/// Queues what follows from a change of owner or owned.
pub fn react(world: &mut World, key: &Key, before: Option<&Value>, after: Option<&Value>) {
    let owners_before = before.map(meta::owners).unwrap_or_default();
    if let Some(after) = after {
        if !meta::owners(after).is_empty() && meta::owners(after) != owners_before {
            soon(world, Work::Collect(key.clone()));
        }
        if waits(after, ORPHAN) || waits(after, FOREGROUND) {
            soon(world, Work::Release(key.clone()));
        }
        return;
    }
    if let Some(before) = before {
        dependents(world, meta::uid(before)).into_iter().for_each(|owned| soon(world, Work::Collect(owned)));
    }
    for owner in owners_before {
        if let Some(Owner::There(owner)) = owner_of(world, key, owner) {
            soon(world, Work::Release(owner));
        }
    }
}

fn waits(object: &Value, finalizer: &str) -> bool {
    meta::is_deleting(object) && meta::finalizers(object).iter().any(|have| have == finalizer)
}

fn dependents(world: &World, uid: &str) -> Vec<Key> {
    world.dependents.get(uid).into_iter().flatten().cloned().collect()
}

enum Owner {
    There(Key),
    Gone,
}

/// What became of an owner; `None` where its kind is not known.
fn owner_of(world: &World, owned: &Key, reference: &Value) -> Option<Owner> {
    let (kind, _) = world.kinds.of_object(text(reference, "/apiVersion"), text(reference, "/kind"))?;
    let namespace = if kind.namespaced { Some(owned.namespace()?) } else { None };
    let key = Key::new(&kind.stored, namespace, text(reference, "/name"));
    let is_same = |object: &Arc<Value>| meta::uid(object) == text(reference, "/uid");
    Some(if world.store.get(&key).is_some_and(is_same) { Owner::There(key) } else { Owner::Gone })
}

/// Deletes an object all of whose owners are gone; of one that has others, only the references go.
pub fn collect(world: &mut World, key: &Key) {
    let Some(object) = world.store.get(key).cloned() else { return };
    if meta::is_deleting(&object) || meta::owners(&object).is_empty() {
        return;
    }
    let (mut solid, mut waiting, mut lost) = (false, false, Vec::new());
    for reference in meta::owners(&object) {
        match owner_of(world, key, reference) {
            // An owner that cannot be looked up may be there.
            None => return,
            Some(Owner::Gone) => lost.push(text(reference, "/uid").to_owned()),
            Some(Owner::There(owner)) => {
                let is_waiting = world.store.get(&owner).is_some_and(|owner| waits(owner, FOREGROUND));
                if is_waiting {
                    waiting = true;
                    lost.push(text(reference, "/uid").to_owned());
                } else {
                    solid = true;
                }
            }
        }
    }
    if solid {
        if !lost.is_empty() {
            world.modify(key, |object| forget(object, &lost));
        }
        return;
    }
    let has_own = !dependents(world, meta::uid(&object)).is_empty();
    let has = |finalizer: &str| meta::finalizers(&object).iter().any(|have| have == finalizer);
    let propagation = match () {
        () if waiting && has_own => Propagation::Foreground,
        () if has(ORPHAN) => Propagation::Orphan,
        () if has(FOREGROUND) => Propagation::Foreground,
        () => Propagation::Background,
    };
    delete(world, key, Some(propagation));
}

/// Takes the references to these owners away.
fn forget(object: &mut Value, uids: &[String]) {
    let left: Vec<Value> = meta::owners(object)
        .iter()
        .filter(|owner| !uids.iter().any(|uid| uid == text(owner, "/uid")))
        .cloned()
        .collect();
    meta::assign(object, &["metadata", "ownerReferences"], (!left.is_empty()).then(|| json!(left)));
}

/// Takes the collector's finalizers from an owner that is deleted, when nothing of its kind is left to do.
pub fn release(world: &mut World, key: &Key) {
    let Some(owner) = world.store.get(key).cloned() else { return };
    let uid = meta::uid(&owner).to_owned();
    if waits(&owner, ORPHAN) {
        for owned in dependents(world, &uid) {
            world.modify(&owned, |object| forget(object, std::slice::from_ref(&uid)));
        }
        world.modify(key, |owner| without(owner, ORPHAN));
    }
    if waits(&owner, FOREGROUND) {
        let owned = dependents(world, &uid);
        let blocks = |object: &Arc<Value>| {
            meta::owners(object).iter().any(|owner| text(owner, "/uid") == uid && owner["blockOwnerDeletion"] == true)
        };
        if owned.iter().filter_map(|key| world.store.get(key)).any(blocks) {
            owned.into_iter().for_each(|owned| soon(world, Work::Collect(owned)));
        } else {
            world.modify(key, |owner| without(owner, FOREGROUND));
        }
    }
}

fn without(object: &mut Value, finalizer: &str) {
    let mut finalizers = meta::finalizers(object);
    finalizers.retain(|have| have != finalizer);
    meta::set_finalizers(object, &finalizers);
}
