//! Looking into objects, and changing them, whatever shape they came in.

use serde_json::{Map, Value, json};

/// The text at a JSON pointer; empty where there is none.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

pub fn number(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or_default()
}

/// The elements of a list at a JSON pointer.
pub fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The place at a path, made where it is missing; what stands in the way and is no object gives way to one.
pub fn at<'a>(object: &'a mut Value, path: &[&str]) -> &'a mut Value {
    path.iter().fold(object, |place, field| {
        if !place.is_object() {
            *place = Value::Object(Map::new());
        }
        &mut place[*field]
    })
}

/// The object at a path, made where there is none.
pub fn inside<'a>(object: &'a mut Value, path: &[&str]) -> &'a mut Value {
    let place = at(object, path);
    if !place.is_object() {
        *place = Value::Object(Map::new());
    }
    place
}

/// Sets what stands at a path, where nothing stands yet.
pub fn default(object: &mut Value, path: &[&str], value: Value) {
    let place = at(object, path);
    if place.is_null() {
        *place = value;
    }
}

/// Sets a field at a path, or removes it.
pub fn assign(object: &mut Value, path: &[&str], value: Option<Value>) {
    let Some((field, parents)) = path.split_last() else { return };
    let place = at(object, parents);
    match (value, place.as_object_mut()) {
        (Some(value), _) => *at(place, &[field]) = value,
        (None, Some(fields)) => drop(fields.remove(*field)),
        (None, None) => {}
    }
}

pub fn remove(object: &mut Value, path: &[&str]) {
    let Some((field, parents)) = path.split_last() else { return };
    let pointer: String = parents.iter().map(|parent| format!("/{parent}")).collect();
    if let Some(fields) = object.pointer_mut(&pointer).and_then(Value::as_object_mut) {
        fields.remove(*field);
    }
}

pub fn uid(object: &Value) -> &str {
    text(object, "/metadata/uid")
}

pub fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

pub fn is_deleting(object: &Value) -> bool {
    !text(object, "/metadata/deletionTimestamp").is_empty()
}

pub fn finalizers(object: &Value) -> Vec<String> {
    list(object, "/metadata/finalizers").iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

pub fn set_finalizers(object: &mut Value, finalizers: &[String]) {
    assign(object, &["metadata", "finalizers"], (!finalizers.is_empty()).then(|| json!(finalizers)));
}

pub fn owners(object: &Value) -> &[Value] {
    list(object, "/metadata/ownerReferences")
}

/// The reference to the owner that controls the object.
pub fn controller(object: &Value) -> Option<&Value> {
    owners(object).iter().find(|owner| owner["controller"] == true)
}

/// Sets a condition, and its moment where its status changes.
pub fn set_condition(object: &mut Value, kind: &str, status: bool, reason: &str, message: &str, now: &str) {
    let conditions = at(object, &["status", "conditions"]);
    if !conditions.is_array() {
        *conditions = Value::Array(Vec::new());
    }
    let Some(conditions) = conditions.as_array_mut() else { return };
    let status = if status { "True" } else { "False" };
    let mut made = json!({
        "type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": now,
    });
    match conditions.iter_mut().find(|condition| condition["type"] == kind) {
        Some(old) => {
            if old["status"] == status {
                made["lastTransitionTime"] = old["lastTransitionTime"].clone();
            }
            *old = made;
        }
        None => conditions.push(made),
    }
}

/// Merges a patch into a value (RFC 7396).
pub fn merge(value: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        value.clone_from(patch);
        return;
    };
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let Some(fields) = value.as_object_mut() else { return };
    for (field, change) in patch {
        if change.is_null() {
            fields.remove(field);
        } else {
            merge(fields.entry(field.clone()).or_insert(Value::Null), change);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merge_replaces_adds_and_removes() {
        let mut value = json!({"a": {"b": 1, "c": [1, 2]}, "d": "x"});
        merge(&mut value, &json!({"a": {"b": null, "c": [3], "e": {"f": 1, "g": null}}, "d": {"h": 1}}));
        assert_eq!(value, json!({"a": {"c": [3], "e": {"f": 1}}, "d": {"h": 1}}));
    }

    #[test]
    fn what_stands_in_the_way_gives_way() {
        let mut value = json!({"spec": "text"});
        *at(&mut value, &["spec", "replicas"]) = json!(1);
        assert_eq!(value, json!({"spec": {"replicas": 1}}));
    }
}
