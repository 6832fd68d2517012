//! Objects made, replaced and patched, with the rules that hold for every kind.

use std::sync::Arc;

use serde_json::{Value, json};

use super::failure::{Cause, Failure};
use super::kinds::Kind;
use super::store::Key;
use super::world::World;
use super::{meta, strategy, validate};

/// Largest object, in bytes of JSON: what etcd takes by default.
const MAX_OBJECT_BYTES: usize = 3 << 19;
const VERSION: &str = "/metadata/resourceVersion";

/// What a request writes to.
pub struct Place<'a> {
    pub kind: &'a Kind,
    pub version: &'a str,
    pub namespace: Option<&'a str>,
    /// Who writes, in `managedFields`.
    pub manager: &'a str,
}

impl Place<'_> {
    pub fn key(&self, name: &str) -> Key {
        Key::new(&self.kind.stored, self.namespace, name)
    }
}

/// Which part of an object an update is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Whole,
    Status,
}

/// An object as it is after a write.
#[derive(Debug)]
pub struct Written {
    pub object: Arc<Value>,
    pub made: bool,
}

impl World {
    pub fn create(&mut self, place: &Place<'_>, mut object: Value) -> Result<Written, Failure> {
        let Place { kind, version, namespace, manager } = *place;
        let stated = meta::name(&object).to_owned();
        self.admit(kind, namespace, &stated)?;
        let stem = meta::text(&object, "/metadata/generateName");
        if stated.is_empty() && !stem.is_empty() {
            let name = self.new_name(stem);
            *meta::at(&mut object, &["metadata", "name"]) = name.into();
        }
        let name = meta::name(&object).to_owned();
        self.set_system_fields(kind, namespace, &mut object);
        let has_version = !meta::text(&object, VERSION).is_empty();
        strategy::prepare_create(kind, version, &mut object, &self.time());
        let causes = validate::created(kind, &object);
        if !causes.is_empty() {
            return Err(Failure::invalid(kind, &name, &causes));
        }
        if has_version {
            return Err(Failure::unclassified("resourceVersion should not be set on objects to be created"));
        }
        let key = place.key(&name);
        if self.store.get(&key).is_some() {
            return Err(Failure::already_exists(kind, &name));
        }
        let time = self.time();
        manage(&mut object, place, Part::Whole, manager, &time);
        small_enough(&object)?;
        Ok(Written { object: self.store.put(key, object), made: true })
    }

    /// What the server sets on a new object, whatever was sent.
    fn set_system_fields(&mut self, kind: &Kind, namespace: Option<&str>, object: &mut Value) {
        let metadata = meta::inside(object, &["metadata"]);
        for field in ["selfLink", "deletionTimestamp", "deletionGracePeriodSeconds", "managedFields", "namespace"] {
            meta::remove(metadata, &[field]);
        }
        metadata["uid"] = self.new_uid().into();
        metadata["creationTimestamp"] = self.time().into();
        if kind.rules.counts {
            metadata["generation"] = 1.into();
        }
        if let Some(namespace) = namespace {
            metadata["namespace"] = namespace.into();
        }
    }

    /// Whether an object may be made in its namespace.
    fn admit(&self, kind: &Kind, namespace: Option<&str>, name: &str) -> Result<(), Failure> {
        let Some(namespace) = namespace else { return Ok(()) };
        let Some(namespaces) = self.kinds.find("", "namespaces") else { return Ok(()) };
        match self.store.get(&Key::new(&namespaces.stored, None, namespace)) {
            None => Err(Failure::not_found(namespaces, namespace)),
            Some(found) if meta::is_deleting(found) => Err(Failure::namespace_terminating(kind, name, namespace)),
            Some(_) => Ok(()),
        }
    }

    /// Replaces an object, or makes one where its kind can be made by a PUT.
    pub fn update(&mut self, place: &Place<'_>, name: &str, part: Part, new: Value) -> Result<Written, Failure> {
        let kind = place.kind;
        let key = place.key(name);
        let Some(old) = self.store.get(&key).cloned() else {
            if part == Part::Whole && kind.rules.made_by_put {
                let (uid, version) = (meta::uid(&new), meta::text(&new, VERSION));
                if !uid.is_empty() || !version.is_empty() {
                    return Err(Failure::conflict(kind, name, &other_uid(kind, &key, uid, "")));
                }
                return self.create(place, new);
            }
            return Err(Failure::not_found(kind, name));
        };
        let stated = meta::uid(&new);
        if !stated.is_empty() && stated != meta::uid(&old) {
            return Err(Failure::conflict(kind, name, &other_uid(kind, &key, stated, meta::uid(&old))));
        }
        check_version(kind, name, meta::text(&new, VERSION), meta::text(&old, VERSION))?;
        self.replace(place, &key, &old, part, new)
    }

    /// Merges a patch (RFC 7396) into an object.
    pub fn merge_patch(
        &mut self,
        place: &Place<'_>,
        name: &str,
        part: Part,
        patch: &Value,
    ) -> Result<Written, Failure> {
        let Some(old) = self.store.get(&place.key(name)).cloned() else {
            return Err(Failure::not_found(place.kind, name));
        };
        let mut new = strategy::shown(place.kind, &old).into_owned();
        meta::merge(&mut new, patch);
        super::body::check_name(&mut new, name, place.namespace)?;
        self.update(place, name, part, strategy::stored(place.kind, new))
    }

    fn replace(
        &mut self,
        place: &Place<'_>,
        key: &Key,
        old: &Arc<Value>,
        part: Part,
        mut new: Value,
    ) -> Result<Written, Failure> {
        let Place { kind, version, namespace: _, manager } = *place;
        strategy::prepare_update(kind, version, part, &mut new, old);
        for field in ["uid", "creationTimestamp", "deletionTimestamp", "namespace", "managedFields", "generation"] {
            let live = old.pointer(&format!("/metadata/{field}")).cloned();
            meta::assign(&mut new, &["metadata", field], live);
        }
        if let Some(grace) = old.pointer("/metadata/deletionGracePeriodSeconds") {
            *meta::at(&mut new, &["metadata", "deletionGracePeriodSeconds"]) = grace.clone();
        }
        meta::assign(&mut new, &["metadata", "resourceVersion"], old.pointer(VERSION).cloned());
        let causes = validate::updated(kind, &new, old);
        if !causes.is_empty() {
            return Err(Failure::invalid(kind, key.name(), &causes));
        }
        if new == **old {
            return Ok(Written { object: Arc::clone(old), made: false });
        }
        count_generation(kind, old, &mut new);
        let time = self.time();
        manage(&mut new, place, part, manager, &time);
        small_enough(&new)?;
        Ok(Written { object: self.keep_or_remove(key, new), made: false })
    }
}

/// Counts a change of what the kind counts.
pub fn count_generation(kind: &Kind, old: &Value, new: &mut Value) {
    if kind.rules.counts && strategy::counts(kind, old, new) {
        let generation = meta::number(old, "/metadata/generation") + 1;
        *meta::at(new, &["metadata", "generation"]) = generation.into();
    }
}

fn small_enough(object: &Value) -> Result<(), Failure> {
    if object.to_string().len() > MAX_OBJECT_BYTES {
        return Err(Failure::unclassified("etcdserver: request is too large"));
    }
    Ok(())
}

/// Notes who wrote last and when. Which fields they wrote is not kept: nobody here applies by server.
fn manage(object: &mut Value, place: &Place<'_>, part: Part, manager: &str, time: &str) {
    let mut entry = json!({
        "manager": manager, "operation": "Update", "apiVersion": place.kind.api_version(place.version), "time": time,
        "fieldsType": "FieldsV1", "fieldsV1": {},
    });
    if part == Part::Status {
        entry["subresource"] = "status".into();
    }
    let entries = meta::at(object, &["metadata", "managedFields"]);
    if !entries.is_array() {
        *entries = json!([]);
    }
    let Some(entries) = entries.as_array_mut() else { return };
    entries.retain(|old| old["manager"] != entry["manager"] || old["subresource"] != entry["subresource"]);
    entries.push(entry);
}

/// Whether an update is based on the object as it is.
fn check_version(kind: &Kind, name: &str, stated: &str, live: &str) -> Result<(), Failure> {
    if matches!(stated, "" | "0") {
        if !kind.rules.needs_version {
            return Ok(());
        }
        // Named by the resource where the kind would stand.
        let named = Kind { kind: kind.plural.clone(), ..kind.clone() };
        let cause = Cause::invalid("metadata.resourceVersion", &json!(0), "must be specified for an update");
        return Err(Failure::invalid(&named, name, &[cause]));
    }
    if stated == live { Ok(()) } else { Err(Failure::modified(kind, name)) }
}

fn other_uid(kind: &Kind, key: &Key, stated: &str, live: &str) -> String {
    let Kind { group, plural, .. } = kind;
    let has_prefix = kind.rules.custom || matches!(group.as_str(), "apiextensions.k8s.io" | "apiregistration.k8s.io");
    let of = if has_prefix { format!("{group}/{plural}") } else { plural.clone() };
    format!(
        "StorageError: invalid object, Code: 4, Key: /registry/{}/{}, ResourceVersion: 0, AdditionalErrorMsg: \
         Precondition failed: UID in precondition: {stated}, UID in object meta: {live}",
        of, key.path
    )
}
