//! Deletion, with the rules that hold for every kind: what must hold of the object, what it waits for, and when it goes.

use std::sync::Arc;

use serde_json::Value;

use super::failure::Failure;
use super::kinds::Kind;
use super::store::Key;
use super::world::World;
use super::{meta, strategy};

/// Namespaces that cannot be deleted.
const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];
/// Finalizers of the garbage collector.
pub const ORPHAN: &str = "orphan";
pub const FOREGROUND: &str = "foregroundDeletion";

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
