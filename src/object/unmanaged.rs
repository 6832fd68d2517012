//! Reading a live object without its `managedFields`, which nobody here compares or writes: half of what the API server sends
//! for a small object, and as a tree of maps dearer than all the rest.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

/// Parses an object, and reads past `metadata.managedFields`.
///
/// # Errors
///
/// When the text is not one JSON object whose metadata, where it has any, is an object.
pub fn parse(text: &str) -> Result<Value, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let object = Members::OfObject.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(object)
}

#[derive(Clone, Copy)]
enum Members {
    OfObject,
    OfMetadata,
}

impl<'de> DeserializeSeed<'de> for Members {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Members {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OfObject => "a Kubernetes object",
            Self::OfMetadata => "the metadata of an object",
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = match (self, key.as_str()) {
                (Self::OfObject, "metadata") => map.next_value_seed(Self::OfMetadata)?,
                (Self::OfMetadata, "managedFields") => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
                _ => map.next_value()?,
            };
            members.insert(key, value);
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn all_but_the_managed_fields_is_read() {
        let object = json!({
            "kind": "ConfigMap",
            "metadata": {"name": "a", "managedFields": [{"manager": "m", "fieldsV1": {"f:data": {}}}], "labels": {"managedFields": "x"}},
            "data": {"metadata": "m", "managedFields": "n"},
            "spec": {"template": {"metadata": {"managedFields": 1}}, "many": [1, -2, 0.5, null, true, "s"]},
        });
        let mut wanted = object.clone();
        wanted["metadata"].as_object_mut().unwrap().remove("managedFields");
        assert_eq!(parse(&object.to_string()).unwrap(), wanted);
        assert_eq!(parse(r#"{"kind":"List"}"#).unwrap(), json!({"kind": "List"}));
    }

    #[test]
    fn what_is_no_object_is_an_error() {
        for broken in
            ["[]", "1", r#"{"metadata":[]}"#, r#"{"metadata":{}"#, "{} {}", r#"{"metadata":{"managedFields":[}}"#]
        {
            assert!(parse(broken).is_err(), "{broken}");
        }
    }
}
