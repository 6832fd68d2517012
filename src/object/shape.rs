//! What a definition's structural schema makes of an object: unknown fields go, and defaults come in.
//!
//! A backup holds objects as its own server showed them, so that its own definitions change nothing. A difference comes from
//! a definition that the backup does not hold, from a version that a conversion only relabels, and from objects that were
//! written by hand. Rules: Kubernetes, "Extend the Kubernetes API with CustomResourceDefinitions", field pruning, defaulting
//! and nullable.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// The part of a schema that pruning and defaulting go by; no longer than the names and defaults in it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Shape {
    properties: BTreeMap<Box<str>, Shape>,
    items: Option<Box<Shape>>,
    /// Of fields that `properties` does not name.
    additional: Option<Box<Shape>>,
    default: Option<Box<Value>>,
    nullable: bool,
    keeps_unknown: bool,
    /// It has `apiVersion`, `kind` and `metadata` of its own.
    embedded: bool,
}

/// Known whatever a schema says.
const OF_EVERY_OBJECT: [&str; 3] = ["apiVersion", "kind", "metadata"];

impl Shape {
    /// Of one version of a definition; `None` where it has no such version.
    pub fn of_version(definition: &Value, version: &str) -> Option<Self> {
        let versions = definition.pointer("/spec/versions")?.as_array()?;
        let version = versions.iter().find(|one| one["name"] == version)?;
        let preserves = definition.pointer("/spec/preserveUnknownFields") == Some(&Value::Bool(true));
        let schema = version.pointer("/schema/openAPIV3Schema").filter(|_| !preserves);
        Some(schema.map_or_else(|| Self { keeps_unknown: true, ..Self::default() }, Self::of))
    }

    fn of(schema: &Value) -> Self {
        let flag = |name: &str| schema.get(name) == Some(&Value::Bool(true));
        let properties = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
        let additional = schema.get("additionalProperties");
        Self {
            properties: properties.map(|(name, schema)| (name.as_str().into(), Self::of(schema))).collect(),
            items: schema.get("items").map(|items| Box::new(Self::of(items))),
            additional: additional.filter(|schema| schema.is_object()).map(|schema| Box::new(Self::of(schema))),
            default: schema.get("default").cloned().map(Box::new),
            nullable: flag("nullable"),
            keeps_unknown: flag("x-kubernetes-preserve-unknown-fields") || flag("additionalProperties"),
            embedded: flag("x-kubernetes-embedded-resource"),
        }
    }

    /// Brings an object to what the API server stores and shows of it.
    pub fn apply(&self, object: &mut Value) {
        if let Some(fields) = object.as_object_mut() {
            self.apply_to_fields(fields, true);
        }
    }

    fn apply_to(&self, value: &mut Value) {
        match value {
            Value::Object(fields) => self.apply_to_fields(fields, self.embedded),
            Value::Array(items) => {
                if let Some(shape) = &self.items {
                    items.iter_mut().for_each(|item| shape.apply_to(item));
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    fn apply_to_fields(&self, fields: &mut Map<String, Value>, is_object: bool) {
        for (name, shape) in &self.properties {
            let is_null = fields.get(&**name).is_some_and(Value::is_null);
            let is_missing = !fields.contains_key(&**name) || is_null && !shape.nullable;
            if let Some(default) = shape.default.as_deref().filter(|_| is_missing) {
                fields.insert(name.to_string(), default.clone());
            }
        }
        fields.retain(|name, value| {
            if is_object && OF_EVERY_OBJECT.contains(&name.as_str()) {
                return true;
            }
            match self.properties.get(name.as_str()).or(self.additional.as_deref()) {
                Some(shape) => {
                    shape.apply_to(value);
                    true
                }
                None => self.keeps_unknown,
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn unknown_fields_go_and_defaults_come_as_deep_as_the_schema_says() {
        let schema = json!({ "type": "object", "properties": { "spec": { "type": "object", "properties": {
            "mode": { "type": "string", "default": "fast" },
            "list": { "type": "array", "items": { "type": "object", "properties": { "a": { "default": 1 } } } },
            "map": { "type": "object", "additionalProperties": { "type": "object", "properties": { "a": {} } } },
            "open": { "type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": { "in": { "type": "object" } } },
            "filled": { "type": "object", "default": {}, "properties": { "deep": { "default": 2 } } },
            "pod": { "x-kubernetes-embedded-resource": true, "type": "object", "properties": { "spec": { "type": "object" } } },
            "nothing": { "nullable": true, "default": 3 },
        } } } });
        let crd = json!({ "spec": { "versions": [{ "name": "v1", "schema": { "openAPIV3Schema": schema } }] } });
        let mut object = json!({
            "apiVersion": "a/v1", "kind": "K", "metadata": { "name": "n", "labels": { "x": "y" } }, "unknown": 1,
            "spec": {
                "mode": null, "list": [{ "b": 1 }], "map": { "k": { "a": 1, "b": 2 } }, "open": { "x": 1, "in": { "y": 1 } },
                "pod": { "kind": "Pod", "x": 1, "spec": {} }, "nothing": null,
            },
        });
        Shape::of_version(&crd, "v1").unwrap().apply(&mut object);
        assert_eq!(
            object,
            json!({
                "apiVersion": "a/v1", "kind": "K", "metadata": { "name": "n", "labels": { "x": "y" } },
                "spec": {
                    "mode": "fast", "list": [{ "a": 1 }], "map": { "k": { "a": 1 } }, "open": { "x": 1, "in": {} },
                    "filled": { "deep": 2 }, "pod": { "kind": "Pod", "spec": {} }, "nothing": null,
                },
            })
        );
        assert_eq!(Shape::of_version(&crd, "v2"), None);
    }

    #[test]
    fn a_definition_that_preserves_unknown_fields_changes_nothing() {
        let crd = json!({ "spec": { "preserveUnknownFields": true, "versions": [{ "name": "v1", "schema": { "openAPIV3Schema": { "type": "object" } } }] } });
        let mut object = json!({ "spec": { "a": { "b": 1 } } });
        Shape::of_version(&crd, "v1").unwrap().apply(&mut object);
        assert_eq!(object, json!({ "spec": { "a": { "b": 1 } } }));
    }
}
