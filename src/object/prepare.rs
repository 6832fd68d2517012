//! From an object of the backup to what is written for it.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::owner::{self, Owner};
use super::{Interner, ObjectKey, Resource, StatusPlace, crd, defaults, normal};
use crate::webhook::bundle::{self, Bundles};
use crate::webhook::silence;

/// What a write needs to know beside the object of the backup.
pub struct Context<'a> {
    pub key: &'a ObjectKey,
    /// resourceVersion of the live object that is replaced; `None` when one is made.
    pub resource_version: Option<&'a str>,
    /// The live object, where its content matters: CRDs that keep versions, token Secrets.
    pub live: Option<&'a Value>,
    /// Redeploy generation of the live object.
    pub redeploy_generation: Option<i64>,
    /// Of a token Secret: the UID that its ServiceAccount has now.
    pub account_uid: Option<&'a str>,
    /// Where the status of the type is written.
    pub status: StatusPlace,
    /// What stays trusted, whatever the backup says.
    pub bundles: &'a Bundles,
    /// The workload stays at 0, and this annotation says what it gets back at resume.
    pub held_replicas: bool,
    /// Clusters of Cluster API are written paused, and this annotation says what they get back at resume.
    pub pausing: bool,
    /// Finds the UID that an owner has now.
    pub owner_uid: &'a FindUid<'a>,
}

/// Takes a reference and the namespace of its dependent.
pub type FindUid<'a> = dyn Fn(&Owner, Option<&Arc<str>>) -> Option<Box<str>> + 'a;

/// What is sent: the object, and its status by the subresource.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepared {
    pub body: Value,
    /// What goes to the subresource after the object; `None` when nothing does.
    pub status: Option<Value>,
    /// `metadata.generation` of the backup: what [`fit_observed_generation`] measures by.
    pub generation: Option<i64>,
    /// References left out because their owner is not there.
    pub dropped_owners: Vec<Owner>,
}

/// Makes the body of a create or a replace from an object of the backup.
///
/// The object must have passed [`super::summarise`] before: what has another type than Kubernetes gives it is left
/// as it is, and the API server says so.
pub fn prepare(mut object: Value, context: &Context<'_>) -> Prepared {
    // A backup that was taken in the middle of a run says so itself.
    silence::reveal(&context.key.resource, &mut object);
    let status = take_status(&mut object, context.status);
    let generation = object.pointer("/metadata/generation").and_then(Value::as_i64);
    if let (StatusPlace::Body, None, Some(status)) =
        (context.status, context.resource_version, object.get_mut("status"))
    {
        fit_observed_generation(status, generation, FIRST_GENERATION);
    }
    let mut dropped_owners = Vec::new();
    if let Some(map) = object.as_object_mut() {
        prepare_type(map, context);
        bundle::put(&context.key.resource, map, context.bundles);
        if let Some(metadata) = map.get_mut("metadata").and_then(Value::as_object_mut) {
            normal::strip_server_metadata(metadata);
            dropped_owners = point_to_live_owners(metadata, context);
            if let Some(version) = context.resource_version {
                metadata.insert("resourceVersion".to_owned(), Value::from(version));
            }
        }
    }
    if let (true, Some(live)) = (context.key.resource.is_crd(), context.live) {
        crd::keep_stored_versions(&mut object, live);
    }
    Prepared { body: object, status, generation, dropped_owners }
}

/// What the API server gives a new object.
const FIRST_GENERATION: i64 = 1;

/// Makes a status true of an object that the server counts anew: whoever had seen the newest generation of the backup's
/// (`saw`) has seen the one that is there `now`, and who had not has work to do.
///
/// Left as it is where the server counts on from the backup's: what is seen then lies behind, and is looked at again.
pub fn fit_observed_generation(status: &mut Value, saw: Option<i64>, now: i64) {
    // Unknown is as good as not seen.
    let newest = saw.unwrap_or(i64::MAX);
    if now >= newest {
        return;
    }
    let fit = |holder: &mut Value| {
        let Some(observed) = holder.get_mut(normal::OBSERVED_GENERATION) else { return };
        if let Some(number) = observed.as_i64() {
            *observed = json!(if number >= newest { now } else { number.min(now - 1) });
        }
    };
    fit(status);
    status.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten().for_each(fit);
}

fn take_status(object: &mut Value, place: StatusPlace) -> Option<Value> {
    match place {
        StatusPlace::Body => None,
        StatusPlace::Subresource => object.as_object_mut()?.remove("status").filter(|status| !normal::is_empty(status)),
        StatusPlace::Nowhere => {
            object.as_object_mut()?.remove("status");
            None
        }
    }
}

fn prepare_type(object: &mut Map<String, Value>, context: &Context<'_>) {
    let resource = context.key.resource.as_ref();
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "serviceaccounts") => drop(object.remove("secrets")),
        ("", "namespaces") => drop(object.remove("spec")),
        ("", "secrets") => fit_token(object, context),
        ("", "services") => drop_addresses(object),
        ("batch", "jobs") => defaults::drop_generated_selector(object),
        ("management.cattle.io", "clusters") => annotate(object, normal::FORCE_DEPLOY_ANNOTATION, "true"),
        ("apiextensions.k8s.io", "customresourcedefinitions") => crd::open_schemas_of_preserving(object),
        ("apps", "deployments" | "statefulsets") if context.held_replicas => hold_replicas(object),
        (normal::CAPI_GROUP, "clusters") => pause(resource, object, context.pausing),
        _ => redeploy(object, context),
    }
}

/// A token names the UID of its account, and works while that is there. With another account the live token stays where
/// there is one, else the token controller makes one that fits.
fn fit_token(object: &mut Map<String, Value>, context: &Context<'_>) {
    let Some(token) = normal::token(&context.key.resource, object) else { return };
    if token.uid.is_some() && token.uid.as_deref() == context.account_uid {
        return;
    }
    let live = context.live.filter(|live| {
        let annotations = live.pointer("/metadata/annotations");
        let uid = annotations.and_then(|all| all.get(normal::SERVICE_ACCOUNT_UID_ANNOTATION)).and_then(Value::as_str);
        uid.is_some() && uid == context.account_uid
    });
    let kept = live.and_then(|live| live.get("data")).and_then(Value::as_object);
    let data = object.entry("data").or_insert_with(|| json!({}));
    if let Some(data) = data.as_object_mut() {
        data.retain(|key, _| !normal::TOKEN_DATA.contains(&key.as_str()));
        let kept = kept.into_iter().flatten().filter(|(key, _)| normal::TOKEN_DATA.contains(&key.as_str()));
        data.extend(kept.map(|(key, value)| (key.clone(), value.clone())));
    }
    match context.account_uid {
        Some(uid) => annotate(object, normal::SERVICE_ACCOUNT_UID_ANNOTATION, uid),
        None => {
            let annotations = object.get_mut("metadata").and_then(|metadata| metadata.get_mut("annotations"));
            if let Some(annotations) = annotations.and_then(Value::as_object_mut) {
                annotations.remove(normal::SERVICE_ACCOUNT_UID_ANNOTATION);
            }
        }
    }
}

fn drop_addresses(object: &mut Map<String, Value>) {
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        defaults::drop_addresses(spec);
    }
}

/// Written with 0 and the backup's number beside it: it starts at resume, not in the middle.
fn hold_replicas(object: &mut Map<String, Value>) {
    let replicas = object.get("spec").and_then(|spec| spec.get("replicas")).and_then(Value::as_i64).unwrap_or(1);
    annotate(object, normal::REPLICAS_ANNOTATION, &replicas.to_string());
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        spec.insert("replicas".to_owned(), json!(0));
    }
}

/// A backup that was taken in the middle of a run says in the annotation what a cluster had.
fn pause(resource: &Resource, object: &mut Map<String, Value>, pausing: bool) {
    let had = normal::true_pause(resource, object).unwrap_or_default();
    if pausing {
        annotate(object, normal::PAUSED_ANNOTATION, if had { "true" } else { "false" });
    } else if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut)
        && let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut)
    {
        annotations.remove(normal::PAUSED_ANNOTATION);
    }
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    match pausing || had {
        true => drop(spec.insert("paused".to_owned(), json!(true))),
        false => drop(spec.remove("paused")),
    }
}

/// One more than either has: counting from the backup's number alone may name the generation that is there already.
fn redeploy(object: &mut Map<String, Value>, context: &Context<'_>) {
    let Some(key) = normal::redeploy_key(&context.key.resource) else { return };
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let backup = spec.get(key).and_then(Value::as_i64).unwrap_or_default();
    let next = backup.max(context.redeploy_generation.unwrap_or_default()).saturating_add(1);
    spec.insert(key.to_owned(), json!(next));
}

fn annotate(object: &mut Map<String, Value>, name: &str, value: &str) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
    if annotations.is_null() {
        *annotations = json!({});
    }
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.insert(name.to_owned(), Value::from(value));
    }
}

/// Gives each owner reference the UID that its owner has now; leaves out those whose owner is not there, and gives them.
fn point_to_live_owners(metadata: &mut Map<String, Value>, context: &Context<'_>) -> Vec<Owner> {
    let Some(references) = metadata.get_mut("ownerReferences").and_then(Value::as_array_mut) else { return Vec::new() };
    let mut dropped = Vec::new();
    let mut interner = Interner::default();
    references.retain_mut(|reference| {
        let wrapped = json!({ "ownerReferences": [reference.clone()] });
        let owners = owner::read(Some(&wrapped), &mut interner).unwrap_or_default();
        let Some(owner) = owners.first() else { return true };
        match (context.owner_uid)(owner, context.key.namespace.as_ref()) {
            Some(uid) => {
                reference["uid"] = Value::from(uid.as_ref());
                true
            }
            None => {
                dropped.push(owner.clone());
                false
            }
        }
    });
    if references.is_empty() {
        metadata.remove("ownerReferences");
    }
    dropped
}
