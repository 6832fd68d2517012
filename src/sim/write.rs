//! Writes, with the rules that hold for every kind: who may be named how, what an update may change, and when an object
//! that is deleted goes.

use std::sync::Arc;

use serde_json::{Value, json};

use super::failure::{Cause, Failure};
use super::kinds::Kind;
use super::store::Key;
use super::world::World;
use super::{meta, strategy, validate};

/// Largest object, in bytes of JSON: what etcd takes by default.
const MAX_OBJECT_BYTES: usize = 3 << 19;
/// Namespaces that cannot be deleted.
const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];
/// Finalizers of the garbage collector.
pub const ORPHAN: &str = "orphan";
pub const FOREGROUND: &str = "foregroundDeletion";

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

#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub propagation: Option<Propagation>,
    pub grace_seconds: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// What a deletion answers.
#[derive(Debug)]
pub enum Deleted {
    /// The object: it waits for something, or its kind is told so.
    Object(Arc<Value>),
    Gone(Arc<Value>),
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
        let metadata = meta::inside(&mut object, &["metadata"]);
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
        let has_version = !meta::text(&object, "/metadata/resourceVersion").is_empty();
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
                let (uid, version) = (meta::uid(&new), meta::text(&new, "/metadata/resourceVersion"));
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
        match (meta::text(&new, "/metadata/resourceVersion"), meta::text(&old, "/metadata/resourceVersion")) {
            ("" | "0", _) if !kind.rules.needs_version => {}
            ("" | "0", _) => {
                let cause = Cause::invalid("metadata.resourceVersion", &json!(0), "must be specified for an update");
                return Err(unversioned(kind, name, cause));
            }
            (stated, live) if stated != live => return Err(Failure::modified(kind, name)),
            _ => {}
        }
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
        meta::assign(&mut new, &["metadata", "resourceVersion"], old.pointer("/metadata/resourceVersion").cloned());
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

    pub fn delete(&mut self, kind: &Kind, key: &Key, options: &DeleteOptions) -> Result<Deleted, Failure> {
        let name = key.name();
        if key.is("namespaces") && IMMORTAL.contains(&name) {
            return Err(Failure::forbidden(kind, name, "this namespace may not be deleted"));
        }
        let Some(old) = self.store.get(key).cloned() else { return Err(Failure::not_found(kind, name)) };
        if is_emptied_first(key) {
            check_emptied(kind, key, &old, options)?;
            if !meta::is_deleting(&old) {
                return Ok(Deleted::Object(self.begin_emptying(key, &old, options)));
            }
            if key.is("namespaces") && !meta::list(&old, "/spec/finalizers").is_empty() {
                return Ok(Deleted::Object(old));
            }
        }
        preconditions(kind, &old, options)?;
        let mut new = (*old).clone();
        let waits = match grace(key, &old, options) {
            Grace::None => false,
            Grace::Pending => return Ok(Deleted::Object(old)),
            Grace::Seconds(seconds) => {
                self.mark_deleted(&mut new, seconds);
                seconds > 0
            }
        };
        meta::set_finalizers(&mut new, &finalizers(&old, options.propagation));
        if waits || !meta::finalizers(&new).is_empty() {
            if !meta::is_deleting(&new) {
                self.mark_deleted(&mut new, 0);
            }
            let object = if new == *old { old } else { self.store.put(key.clone(), new) };
            return Ok(Deleted::Object(object));
        }
        self.store.remove(key);
        Ok(if kind.rules.returned { Deleted::Object(old) } else { Deleted::Gone(old) })
    }

    /// Marks an object as deleted: it may stay for so long.
    fn mark_deleted(&self, object: &mut Value, grace_seconds: i64) {
        let generation = meta::number(object, "/metadata/generation");
        let was_marked = meta::is_deleting(object);
        let metadata = meta::inside(object, &["metadata"]);
        metadata["deletionTimestamp"] = self.time_after(grace_seconds).into();
        metadata["deletionGracePeriodSeconds"] = grace_seconds.into();
        if generation > 0 && !was_marked {
            metadata["generation"] = (generation + 1).into();
        }
    }

    /// Marks a namespace or definition; its controller clears away what it holds, and then lets it go.
    fn begin_emptying(&mut self, key: &Key, old: &Value, options: &DeleteOptions) -> Arc<Value> {
        let mut new = old.clone();
        let time = self.time();
        *meta::at(&mut new, &["metadata", "deletionTimestamp"]) = time.as_str().into();
        let mut finalizers = finalizers(old, options.propagation);
        if key.is("namespaces") {
            *meta::at(&mut new, &["status", "phase"]) = "Terminating".into();
        } else {
            if !finalizers.iter().any(|finalizer| finalizer == strategy::CLEANUP) {
                finalizers.push(strategy::CLEANUP.to_owned());
            }
            let message = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
            meta::set_condition(&mut new, "Terminating", true, "InstanceDeletionPending", message, &time);
        }
        meta::set_finalizers(&mut new, &finalizers);
        self.store.put(key.clone(), new)
    }
}

/// Whether a kind's objects hold others, which go first.
fn is_emptied_first(key: &Key) -> bool {
    key.is("namespaces") || key.is("customresourcedefinitions.apiextensions.k8s.io")
}

/// The preconditions of what is emptied first, which are told in other words than those of the rest.
fn check_emptied(kind: &Kind, key: &Key, old: &Value, options: &DeleteOptions) -> Result<(), Failure> {
    let stated = [
        ("UID", &options.uid, "/metadata/uid"),
        ("ResourceVersion", &options.resource_version, "/metadata/resourceVersion"),
    ];
    for (what, stated, pointer) in stated {
        let live = meta::text(old, pointer);
        if let Some(stated) = stated
            && stated != live
        {
            let why = format!("Precondition failed: {what} in precondition: {stated}, {what} in object meta: {live}");
            return Err(Failure::conflict(kind, key.name(), &why));
        }
    }
    Ok(())
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

/// As a PUT without the resourceVersion that its kind needs is refused: by the resource where the kind would stand.
fn unversioned(kind: &Kind, name: &str, cause: Cause) -> Failure {
    let named = Kind { kind: kind.plural.clone(), ..kind.clone() };
    Failure::invalid(&named, name, &[cause])
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

fn preconditions(kind: &Kind, old: &Value, options: &DeleteOptions) -> Result<(), Failure> {
    let name = meta::name(old);
    let live = meta::uid(old);
    if let Some(stated) = &options.uid
        && stated != live
    {
        let why = format!(
            "the UID in the precondition ({stated}) does not match the UID in record ({live}). The object might have \
             been deleted and then recreated"
        );
        return Err(Failure::precondition(kind, name, &why));
    }
    let live = meta::text(old, "/metadata/resourceVersion");
    if let Some(stated) = &options.resource_version
        && stated != live
    {
        let why = format!(
            "the ResourceVersion in the precondition ({stated}) does not match the ResourceVersion in record ({live}). \
             The object might have been modified"
        );
        return Err(Failure::precondition(kind, name, &why));
    }
    Ok(())
}

/// How long a deletion waits for the kubelet.
enum Grace {
    /// The kind is not deleted gracefully, or what it waited for is over.
    None,
    Seconds(i64),
    /// It waits already, and for no longer.
    Pending,
}

fn grace(key: &Key, old: &Value, options: &DeleteOptions) -> Grace {
    if !key.is("pods") {
        return Grace::None;
    }
    let asked = options.grace_seconds.map(|seconds| if seconds < 0 { 1 } else { seconds });
    if meta::is_deleting(old) {
        let waits = meta::number(old, "/metadata/deletionGracePeriodSeconds");
        return match asked {
            _ if waits == 0 => Grace::None,
            Some(seconds) if seconds < waits => Grace::Seconds(seconds),
            _ => Grace::Pending,
        };
    }
    let is_idle = meta::text(old, "/spec/nodeName").is_empty()
        || matches!(meta::text(old, "/status/phase"), "Succeeded" | "Failed");
    let stated = old.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64);
    Grace::Seconds(if is_idle { 0 } else { asked.or(stated).unwrap_or(30) })
}

/// The finalizers of an object that is deleted with this propagation. Without one, those of an earlier try stay.
fn finalizers(old: &Value, propagation: Option<Propagation>) -> Vec<String> {
    let before = meta::finalizers(old);
    let had = |finalizer: &str| before.iter().any(|have| have == finalizer);
    let (orphan, foreground) = match propagation {
        Some(Propagation::Orphan) => (true, false),
        Some(Propagation::Foreground) => (false, true),
        Some(Propagation::Background) => (false, false),
        None => (had(ORPHAN), had(FOREGROUND) && !had(ORPHAN)),
    };
    let others = before.iter().filter(|finalizer| *finalizer != ORPHAN && *finalizer != FOREGROUND).cloned();
    let ours = [(orphan, ORPHAN), (foreground, FOREGROUND)].into_iter().filter(|(wanted, _)| *wanted);
    others.chain(ours.map(|(_, finalizer)| finalizer.to_owned())).collect()
}
