//! Kinds that a definition adds, and what their schemas keep.

use std::cmp::{Ordering, Reverse};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::{Kind, Names, Rules, VERBS, Version};
use crate::sim::meta::{list, text};

const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";

/// The kind that a definition defines; `None` where it serves no version.
pub fn kind(definition: &Value) -> Option<Kind> {
    let names = definition.pointer("/spec/names")?;
    let strings = |pointer| list(names, pointer).iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let served = list(definition, "/spec/versions").iter().filter(|version| version["served"] == true);
    let mut versions: Vec<Version> = served.map(version).collect();
    versions.sort_by(|a, b| version_order(&a.name, &b.name));
    let (group, plural, kind) = (text(definition, "/spec/group"), text(names, "/plural"), text(names, "/kind"));
    (!versions.is_empty()).then(|| Kind {
        group: group.to_owned(),
        plural: plural.to_owned(),
        singular: text(names, "/singular").to_owned(),
        kind: kind.to_owned(),
        list_kind: text(names, "/listKind").to_owned(),
        namespaced: text(definition, "/spec/scope") == "Namespaced",
        short_names: strings("/shortNames"),
        categories: strings("/categories"),
        versions,
        verbs: VERBS,
        stored: Arc::from(format!("{plural}.{group}")),
        rules: Rules { custom: true, counts: true, needs_version: true, names: Names::Subdomain, ..Rules::default() },
    })
}

fn version(version: &Value) -> Version {
    let schema = version.pointer("/schema/openAPIV3Schema").cloned().unwrap_or_default();
    Version {
        name: text(version, "/name").to_owned(),
        status: version.pointer("/subresources/status").is_some_and(Value::is_object),
        schema: Some(Arc::new(Schema(schema))),
    }
}

/// As Kubernetes orders versions: `v2` before `v1`, before `v2beta1`, before `v1alpha1`, before anything else by name.
pub fn version_order(a: &str, b: &str) -> Ordering {
    match (rank(a), rank(b)) {
        (Some(a), Some(b)) => Reverse(a).cmp(&Reverse(b)),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => a.cmp(b),
    }
}

/// Maturity, major and minor of a version that is named as Kubernetes names them.
fn rank(version: &str) -> Option<(u8, u32, u32)> {
    let rest = version.strip_prefix('v')?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let major = rest[..end].parse().ok()?;
    match &rest[end..] {
        "" => Some((2, major, 0)),
        minor => {
            let (maturity, minor) = minor
                .strip_prefix("beta")
                .map(|minor| (1, minor))
                .or_else(|| minor.strip_prefix("alpha").map(|minor| (0, minor)))?;
            Some((maturity, major, minor.parse().ok()?))
        }
    }
}

/// A structural schema. It prunes and sets defaults; it does not validate.
#[derive(Debug)]
pub struct Schema(Value);

impl Schema {
    /// Takes away what the schema does not know, and adds what it sets by default.
    pub fn apply(&self, object: &mut Value) {
        let Some(fields) = object.as_object_mut() else { return };
        // These three are known whatever the schema says.
        let kept: Vec<_> = ["apiVersion", "kind", "metadata"].into_iter().map(|f| (f, fields.remove(f))).collect();
        shape(object, &self.0);
        for (field, value) in kept {
            if let Some(value) = value {
                object[field] = value;
            }
        }
    }
}

fn shape(value: &mut Value, schema: &Value) {
    match value {
        Value::Object(fields) => shape_object(fields, schema),
        Value::Array(items) => items.iter_mut().for_each(|item| shape(item, &schema["items"])),
        _ => {}
    }
}

fn shape_object(fields: &mut Map<String, Value>, schema: &Value) {
    // An embedded object brings fields of its own; a missing schema knows nothing of what it holds.
    let keeps_unknown = schema[PRESERVE] == true || schema["x-kubernetes-embedded-resource"] == true;
    let properties = schema["properties"].as_object();
    for (name, property) in properties.into_iter().flatten() {
        if let (None, Some(default)) = (fields.get(name), property.get("default")) {
            fields.insert(name.clone(), default.clone());
        }
    }
    let additional = &schema["additionalProperties"];
    fields.retain(|name, value| match properties.and_then(|properties| properties.get(name)) {
        Some(property) => {
            shape(value, property);
            true
        }
        None if additional.is_object() => {
            shape(value, additional);
            true
        }
        None => keeps_unknown || additional == true,
    });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn versions_are_ordered_by_maturity_and_number() {
        let mut versions = ["foo", "v1alpha1", "v1", "v2beta1", "v11", "v2", "v1beta2", "bar"];
        versions.sort_by(|a, b| version_order(a, b));
        assert_eq!(versions, ["v11", "v2", "v1", "v2beta1", "v1beta2", "v1alpha1", "bar", "foo"]);
    }

    #[test]
    fn unknown_fields_go_where_the_schema_does_not_keep_them_and_defaults_come() {
        let schema = Schema(json!({"type": "object", "properties": {
            "spec": {"type": "object", "properties": {
                "known": {"type": "string", "default": "x"},
                "list": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string"}}}},
                "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"a": {}}}},
                "open": {"type": "object", PRESERVE: true}}}}}));
        let mut object = json!({"kind": "K", "metadata": {"name": "n"}, "other": 1, "spec": {
            "unknown": 1, "list": [{"a": "1", "b": "2"}], "map": {"k": {"a": 1, "b": 2}}, "open": {"b": {"c": 1}}}});
        schema.apply(&mut object);
        let expected = json!({"kind": "K", "metadata": {"name": "n"}, "spec": {
            "known": "x", "list": [{"a": "1"}], "map": {"k": {"a": 1}}, "open": {"b": {"c": 1}}}});
        assert_eq!(object, expected);
    }
}
