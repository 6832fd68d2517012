//! Objects put in as they are.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::store::Key;
use super::world::World;
use super::{meta, strategy};

/// An object of a kind that is not served.
#[derive(Debug, thiserror::Error)]
#[error("cannot put {name} into the simulated cluster: kind {kind} of {api_version} is not served")]
pub struct Unserved {
    pub api_version: String,
    pub kind: String,
    pub name: String,
}

impl World {
    /// See [`super::Sim::seed`].
    pub fn seed(&mut self, mut objects: Vec<Value>) -> Result<usize, Unserved> {
        objects.sort_by_key(stage);
        let uids: HashMap<String, String> = objects
            .iter()
            .map(|object| meta::uid(object).to_owned())
            .filter(|uid| !uid.is_empty())
            .map(|uid| (uid, self.new_uid()))
            .collect();
        for object in &mut objects {
            follow(object, &uids);
            let namespace = meta::text(object, "/metadata/namespace").to_owned();
            self.ensure_namespace(&namespace)?;
            self.install(object)?;
        }
        Ok(objects.len())
    }

    fn ensure_namespace(&mut self, name: &str) -> Result<(), Unserved> {
        let Some(namespaces) = self.kinds.find("", "namespaces") else { return Ok(()) };
        if name.is_empty() || self.store.get(&Key::new(&namespaces.stored, None, name)).is_some() {
            return Ok(());
        }
        self.install(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})).map(drop)
    }

    /// Puts one object in, and serves what it defines.
    pub fn install(&mut self, object: &Value) -> Result<Key, Unserved> {
        let (api_version, kind) = (meta::text(object, "/apiVersion"), meta::text(object, "/kind"));
        let name = meta::name(object);
        let Some((kind, version)) = self.kinds.of_object(api_version, kind).map(|(k, v)| (k.clone(), v)) else {
            let owned = str::to_owned;
            return Err(Unserved { api_version: owned(api_version), kind: owned(kind), name: owned(name) });
        };
        let namespace = Some(meta::text(object, "/metadata/namespace")).filter(|_| kind.namespaced);
        let key = Key::new(&kind.stored, namespace, name);
        let mut new = strategy::stored(&kind, object.clone());
        let status = new.get("status").cloned();
        strategy::prepare_create(&kind, version, &mut new, &self.time());
        if let Some(status) = status {
            new["status"] = status;
        }
        let live = self.store.get(&key).map(|live| meta::uid(live).to_owned());
        let stated = Some(meta::uid(&new).to_owned()).filter(|uid| !uid.is_empty());
        let uid = live.or(stated).unwrap_or_else(|| self.new_uid());
        *meta::at(&mut new, &["metadata", "uid"]) = uid.into();
        let time = self.time();
        meta::default(&mut new, &["metadata", "creationTimestamp"], time.into());
        if kind.rules.counts {
            meta::default(&mut new, &["metadata", "generation"], json!(1));
        }
        if is_definition(object) {
            super::controllers::establish(&mut new, &self.time());
            self.kinds.define(&new);
            self.kinds.announce(name);
        }
        self.store.put(key.clone(), new);
        Ok(key)
    }
}

/// Definitions first, then namespaces.
fn stage(object: &Value) -> u8 {
    match meta::text(object, "/kind") {
        _ if is_definition(object) => 0,
        "Namespace" => 1,
        _ => 2,
    }
}

fn is_definition(object: &Value) -> bool {
    meta::text(object, "/kind") == "CustomResourceDefinition"
}

/// Gives an object and its references to owners the new UIDs.
fn follow(object: &mut Value, uids: &HashMap<String, String>) {
    let owners = object.pointer_mut("/metadata/ownerReferences").and_then(Value::as_array_mut);
    for reference in owners.into_iter().flatten() {
        renew(reference, uids);
    }
    if let Some(metadata) = object.get_mut("metadata") {
        renew(metadata, uids);
    }
}

fn renew(place: &mut Value, uids: &HashMap<String, String>) {
    if let Some(uid) = uids.get(meta::text(place, "/uid")) {
        place["uid"] = uid.as_str().into();
    }
}
