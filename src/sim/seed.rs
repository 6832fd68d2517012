//! Objects put in as they are.

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
        let mut keys = Vec::new();
        let all_in = objects.iter().try_for_each(|object| {
            self.ensure_namespace(meta::text(object, "/metadata/namespace"))?;
            keys.push(self.install(object)?);
            Ok(())
        });
        // Before the collector looks at what came in.
        keys.iter().for_each(|key| self.find_owners(key));
        all_in.map(|()| keys.len())
    }

    /// Points an object's references at the owners that are there, and drops those to others.
    fn find_owners(&mut self, key: &Key) {
        let Some(object) = self.store.get(key).cloned() else { return };
        if meta::owners(&object).is_empty() {
            return;
        }
        let found = meta::owners(&object).iter().filter_map(|owner| {
            let (kind, _) = self.kinds.of_object(meta::text(owner, "/apiVersion"), meta::text(owner, "/kind"))?;
            let namespace = key.namespace().filter(|_| kind.namespaced);
            let live = self.store.get(&Key::new(&kind.stored, namespace, meta::text(owner, "/name")))?;
            let mut owner = owner.clone();
            owner["uid"] = meta::uid(live).into();
            Some(owner)
        });
        let found: Vec<Value> = found.collect();
        let mut object = (*object).clone();
        meta::assign(&mut object, &["metadata", "ownerReferences"], (!found.is_empty()).then(|| json!(found)));
        self.store.put(key.clone(), object);
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
        let uid = live.unwrap_or_else(|| self.new_uid());
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
