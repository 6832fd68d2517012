//! What comes with a request: an object, a patch, or options.

use serde_json::Value;

use super::delete::{DeleteOptions, Propagation};
use super::failure::Failure;
use super::kinds::Kind;
use super::meta::{self, text};
use super::strategy;

/// Largest body of a request (apiserver, `MaxRequestBodyBytes`).
pub const MAX_BODY_BYTES: usize = 3 << 20;

/// An object as it is to be stored, from the body of a POST or PUT to this kind, version and namespace.
pub fn object(kind: &Kind, version: &str, namespace: Option<&str>, bytes: &[u8]) -> Result<Value, Failure> {
    let mut object = json(bytes)?;
    let (stated_version, stated_kind) = (text(&object, "/apiVersion"), text(&object, "/kind"));
    let expected = kind.api_version(version);
    // What the path says need not be said again, but of custom resources.
    let may_be_missing = !kind.rules.custom;
    let is = |stated: &str, expected: &str| stated == expected || may_be_missing && stated.is_empty();
    if !is(stated_kind, &kind.kind) {
        return Err(Failure::bad_request(&format!("{stated_kind:?} cannot be handled as a {}", kind.kind)));
    }
    if !is(stated_version, &expected) {
        return Err(Failure::bad_request(&format!(
            "the API version in the data ({stated_version}) does not match the expected API version ({expected})"
        )));
    }
    check_namespace(&mut object, namespace)?;
    Ok(strategy::stored(kind, object))
}

/// JSON with an object's shape: `metadata` is an object where there is one.
fn json(bytes: &[u8]) -> Result<Value, Failure> {
    let parsed: Result<Value, _> = serde_json::from_slice(bytes);
    match parsed {
        Ok(value) if value.is_object() && value.get("metadata").is_none_or(|m| m.is_object() || m.is_null()) => {
            Ok(value)
        }
        Ok(_) => Err(Failure::bad_request("the object provided is unrecognized")),
        Err(error) => Err(Failure::bad_request(&format!("the object provided is unrecognized: {error}"))),
    }
}

/// Puts the namespace of the request into an object that names none.
fn check_namespace(object: &mut Value, namespace: Option<&str>) -> Result<(), Failure> {
    let stated = text(object, "/metadata/namespace");
    match namespace {
        Some(namespace) if stated.is_empty() => *meta::at(object, &["metadata", "namespace"]) = namespace.into(),
        Some(namespace) if stated != namespace => {
            let why = "the namespace of the provided object does not match the namespace sent on the request";
            return Err(Failure::bad_request(why));
        }
        // Of a cluster-scoped object it is dropped.
        None => meta::remove(object, &["metadata", "namespace"]),
        Some(_) => {}
    }
    Ok(())
}

/// Whether an object is the one that the request names.
pub fn check_name(object: &mut Value, name: &str, namespace: Option<&str>) -> Result<(), Failure> {
    check_namespace(object, namespace)?;
    let stated = text(object, "/metadata/name");
    if stated.is_empty() {
        let why = format!("the name of the object ({name} based on URL) was undeterminable: name must be provided");
        return Err(Failure::bad_request(&why));
    }
    if stated != name {
        let why = format!("the name of the object ({stated}) does not match the name on the URL ({name})");
        return Err(Failure::bad_request(&why));
    }
    Ok(())
}

/// A merge patch.
pub fn patch(bytes: &[u8]) -> Result<Value, Failure> {
    match serde_json::from_slice(bytes) {
        Ok(patch @ Value::Object(_)) => Ok(patch),
        Ok(_) => Err(Failure::bad_request("error decoding patch: a merge patch of an object is an object")),
        Err(error) => Err(Failure::bad_request(&format!("error decoding patch: {error}"))),
    }
}

/// Options of a deletion, from its body or its query.
pub fn delete_options(bytes: &[u8], query: impl Fn(&str) -> Option<String>) -> Result<DeleteOptions, Failure> {
    let body = if bytes.is_empty() { Value::Null } else { json(bytes)? };
    let stated = |pointer: &str| Some(text(&body, pointer)).filter(|text| !text.is_empty()).map(str::to_owned);
    let propagation = match stated("/propagationPolicy").or_else(|| query("propagationPolicy")).as_deref() {
        None => None,
        Some("Background") => Some(Propagation::Background),
        Some("Foreground") => Some(Propagation::Foreground),
        Some("Orphan") => Some(Propagation::Orphan),
        Some(other) => return Err(Failure::bad_request(&format!("unknown propagation policy {other:?}"))),
    };
    let grace = body.pointer("/gracePeriodSeconds").and_then(Value::as_i64);
    Ok(DeleteOptions {
        uid: stated("/preconditions/uid"),
        resource_version: stated("/preconditions/resourceVersion"),
        propagation,
        grace_seconds: grace.or_else(|| query("gracePeriodSeconds")?.parse().ok()),
    })
}
