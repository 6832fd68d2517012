//! In which fields two objects differ, for people: paths, and values only where they cannot be secret (invariant 7).

use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Resource, normal};

/// Most differences that are told of one object; a CRD can differ in thousands.
const MAX_FIELDS: usize = 50;
/// Longest key of a map in a path, in characters.
const MAX_KEY_CHARS: usize = 80;

/// Fields whose values are shown: counts, versions and images, by the end of their path. Everything else may hold a secret, in any type.
const SHOWN: [&str; 5] = [
    "spec.replicas",
    "spec.kubernetesVersion",
    "spec.rkeConfig.machinePools[].quantity",
    "spec.template.spec.containers[].image",
    "spec.template.spec.initContainers[].image",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum How {
    Added,
    Removed,
    Changed,
}

/// A field in which two objects differ.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Field {
    /// `spec.template.spec.containers[0].image`; `data.tls.key` of a Secret is the key `tls.key`.
    pub path: String,
    pub how: How,
    /// Before and after, of a field that cannot be secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub values: Option<(String, String)>,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, how, values } = self;
        let how = match how {
            How::Added => "added",
            How::Removed => "removed",
            How::Changed => "changed",
        };
        match values {
            Some((before, after)) => write!(f, "{path}: {before} -> {after}"),
            None => write!(f, "{path}: {how}"),
        }
    }
}

/// An object brought to the form in which objects of two backups are compared: as in a plan ([`normal`]), with the status, and with its owners without
/// their UIDs.
pub fn comparable(resource: &Resource, mut value: Value) -> Value {
    let Some(object) = value.as_object_mut() else { return value };
    let status = object.remove("status");
    let owners = object.get("metadata").map(owners).unwrap_or_default();
    normal::normalise(resource, object);
    if let Some(mut status) = status.filter(|status| !normal::is_empty(status)) {
        normal::strip_nulls(&mut status);
        object.insert("status".to_owned(), status);
    }
    if !owners.is_empty() {
        let metadata = object.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.insert("ownerReferences".to_owned(), Value::from(owners));
        }
    }
    value
}

fn owners(metadata: &Value) -> Vec<Value> {
    let references = metadata.get("ownerReferences").and_then(Value::as_array);
    let mut owners: Vec<Value> = references
        .into_iter()
        .flatten()
        .map(|owner| json!({"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["name"]}))
        .collect();
    owners.sort_by_cached_key(Value::to_string);
    owners
}

/// The fields in which two objects differ, at most 50 of them.
pub fn differing(before: &Value, after: &Value) -> Vec<Field> {
    let mut found = Vec::new();
    descend(&Path::default(), before, after, &mut found);
    found
}

/// Where in an object, in full and without the numbers of items.
#[derive(Debug, Clone, Default)]
struct Path {
    full: String,
    plain: String,
}

impl Path {
    fn key(&self, key: &str) -> Self {
        let dot = if self.full.is_empty() { "" } else { "." };
        // Such a name could steer a terminal.
        let key: String =
            key.chars().take(MAX_KEY_CHARS).map(|c| if crate::run::steers(c) { '\u{fffd}' } else { c }).collect();
        Self { full: format!("{}{dot}{key}", self.full), plain: format!("{}{dot}{key}", self.plain) }
    }

    fn item(&self, index: usize) -> Self {
        Self { full: format!("{}[{index}]", self.full), plain: format!("{}[]", self.plain) }
    }
}

fn descend(path: &Path, before: &Value, after: &Value, found: &mut Vec<Field>) {
    if before == after || found.len() >= MAX_FIELDS {
        return;
    }
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            let keys = before.keys().chain(after.keys().filter(|key| !before.contains_key(*key)));
            for key in keys {
                let path = path.key(key);
                match (before.get(key), after.get(key)) {
                    (Some(before), Some(after)) => descend(&path, before, after, found),
                    (Some(before), None) => add(&path, How::Removed, Some(before), None, found),
                    (None, after) => add(&path, How::Added, None, after, found),
                }
            }
        }
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            for (index, (before, after)) in before.iter().zip(after).enumerate() {
                descend(&path.item(index), before, after, found);
            }
        }
        _ => add(path, How::Changed, Some(before), Some(after), found),
    }
}

fn add(path: &Path, how: How, before: Option<&Value>, after: Option<&Value>, found: &mut Vec<Field>) {
    if found.len() >= MAX_FIELDS {
        return;
    }
    let is_shown = SHOWN.contains(&path.plain.as_str());
    let text = |value: Option<&Value>| match value {
        None => "none".to_owned(),
        Some(Value::String(text)) => text.chars().take(MAX_KEY_CHARS).filter(|c| !crate::run::steers(*c)).collect(),
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_)) => "something else".to_owned(),
    };
    let values = is_shown.then(|| (text(before), text(after)));
    found.push(Field { path: path.full.clone(), how, values });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(before: &Value, after: &Value) -> String {
        differing(before, after).iter().map(|field| format!("{field}\n")).collect()
    }

    #[test]
    fn differences_are_paths_and_values_only_where_they_cannot_be_secret() {
        let before = json!({
            "metadata": {"labels": {"a": "1", "b": "2"}},
            "spec": {
                "replicas": 3, "password": "hunter2", "list": [1, 2], "same": [{"x": 1}],
                "template": {"spec": {"containers": [{"image": "rancher/rancher:v2.9.3", "env": [{"value": "s3cr3t"}]}]}},
            },
        });
        let after = json!({
            "metadata": {"labels": {"b": "3", "c": "4"}},
            "spec": {
                "replicas": 0, "password": "hunter3", "list": [1, 2, 3], "same": [{"x": 1}],
                "template": {"spec": {"containers": [{"image": "rancher/rancher:v2.10.1", "env": [{"value": "other"}]}]}},
            },
        });
        insta::assert_snapshot!(told(&before, &after), @r"
        metadata.labels.a: removed
        metadata.labels.b: changed
        metadata.labels.c: added
        spec.list: changed
        spec.password: changed
        spec.replicas: 3 -> 0
        spec.template.spec.containers[0].env[0].value: changed
        spec.template.spec.containers[0].image: rancher/rancher:v2.9.3 -> rancher/rancher:v2.10.1
        ");
        assert_eq!(told(&before, &before), "");
    }

    #[test]
    fn a_secret_is_told_by_its_keys() {
        let secret = |data: Value| json!({"kind": "Secret", "type": "Opaque", "data": data});
        let (before, after) = (
            secret(json!({"tls.key": "YQ==", "same": "Yg==", "old": "Yw=="})),
            secret(json!({"tls.key": "eA==", "same": "Yg==", "new": "ZA=="})),
        );
        insta::assert_snapshot!(told(&before, &after), @r"
        data.old: removed
        data.tls.key: changed
        data.new: added
        ");
    }

    #[test]
    fn what_a_terminal_would_act_on_is_not_told_and_no_object_tells_without_end() {
        let escaped = told(&json!({"a\u{1b}[2J": 1}), &json!({}));
        assert_eq!(escaped, "a\u{fffd}[2J: removed\n");
        let many: Map<String, Value> = (0..1000).map(|n| (n.to_string(), json!(n))).collect();
        assert_eq!(differing(&json!(many), &json!({})).len(), MAX_FIELDS);
    }

    #[test]
    fn what_the_server_sets_is_no_difference_and_an_owner_is_one_by_name() {
        let resource = Resource::new("management.cattle.io", "v3", "projects");
        let object = |uid: &str, owner: &str, status: u8| {
            json!({
                "apiVersion": "management.cattle.io/v3", "kind": "Project", "status": {"n": status, "null": null},
                "metadata": {"name": "p", "uid": uid, "generation": 4, "managedFields": [uid], "ownerReferences": [
                    {"apiVersion": "v1", "kind": "Namespace", "name": owner, "uid": uid}
                ]},
            })
        };
        let form = |uid, owner, status| comparable(&resource, object(uid, owner, status));
        assert_eq!(form("1", "a", 1), form("2", "a", 1));
        assert_eq!(
            told(&form("1", "a", 1), &form("1", "b", 2)),
            "metadata.ownerReferences[0].name: changed\nstatus.n: changed\n"
        );
    }
}
