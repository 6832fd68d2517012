//! What is refused: names, owners and finalizers of every kind, and the fields that a kind does not let change.

use serde_json::Value;

use super::failure::Cause;
use super::kinds::{Kind, Names};
use super::meta::{self, list, text};

/// Longest name of most kinds, and of those whose names are DNS labels.
const MAX_SUBDOMAIN_BYTES: usize = 253;
const MAX_LABEL_BYTES: usize = 63;
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', \
    and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
    start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
/// Most data in a ConfigMap or Secret (`MaxSecretSize`).
const MAX_DATA_BYTES: usize = 1 << 20;
const IMMUTABLE: &str = "field is immutable";

/// What is wrong with an object that is to be made.
pub fn created(kind: &Kind, object: &Value) -> Vec<Cause> {
    let name = meta::name(object);
    let mut causes = Vec::new();
    if name.is_empty() {
        causes.push(Cause::required("metadata.name", "name or generateName is required"));
    } else if let Some(why) = bad_name(kind.rules.names, name) {
        causes.push(Cause::invalid("metadata.name", &name.into(), &why));
    }
    causes.extend(bad_owners(object));
    causes.extend(too_large(kind, object));
    if kind.stored.starts_with("customresourcedefinitions.") {
        causes.extend(bad_definition(object));
    }
    causes
}

/// Maps and Secrets hold less than an object may.
fn too_large(kind: &Kind, object: &Value) -> Option<Cause> {
    let field = match &*kind.stored {
        "configmaps" => "[]",
        "secrets" => "data",
        _ => return None,
    };
    let values = ["data", "binaryData"].into_iter().filter_map(|field| object.get(field)?.as_object()).flatten();
    let bytes: usize = values.filter_map(|(_, value)| value.as_str()).map(str::len).sum();
    (bytes > MAX_DATA_BYTES).then(|| Cause::too_long(field, MAX_DATA_BYTES))
}

fn bad_name(names: Names, name: &str) -> Option<String> {
    let is_label = |label: &str| {
        let bytes = label.as_bytes();
        let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        bytes.iter().all(|b| inner(b) || *b == b'-')
            && bytes.first().is_some_and(inner)
            && bytes.last().is_some_and(inner)
    };
    let longest = match names {
        Names::Subdomain => MAX_SUBDOMAIN_BYTES,
        Names::Label => MAX_LABEL_BYTES,
        Names::Segment => usize::MAX,
    };
    if names == Names::Label && name.contains('.') {
        return Some("must not contain dots".to_owned());
    }
    if name.len() > longest {
        return Some(format!("must be no more than {longest} characters"));
    }
    match names {
        Names::Subdomain => (!name.split('.').all(is_label)).then(|| SUBDOMAIN.to_owned()),
        Names::Label => (!is_label(name)).then(|| LABEL.to_owned()),
        Names::Segment => (name == "." || name == "..").then(|| format!("may not be '{name}'")),
    }
}

fn bad_owners(object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    for owner in meta::owners(object) {
        for (field, why) in [
            ("apiVersion", "version must not be empty"),
            ("kind", "must not be empty"),
            ("name", "must not be empty"),
            ("uid", "must not be empty"),
        ] {
            if text(owner, &format!("/{field}")).is_empty() {
                causes.push(Cause::invalid(&format!("metadata.ownerReferences.{field}"), &"".into(), why));
            }
        }
    }
    let controllers = meta::owners(object).iter().filter(|owner| owner["controller"] == true).count();
    if controllers > 1 {
        let why = "Only one reference can have Controller set to true";
        causes.push(Cause::invalid("metadata.ownerReferences", &Value::from(meta::owners(object)), why));
    }
    causes
}

fn bad_definition(object: &Value) -> Vec<Cause> {
    let expected = format!("{}.{}", text(object, "/spec/names/plural"), text(object, "/spec/group"));
    let name = meta::name(object);
    let mut causes = Vec::new();
    if name != expected {
        causes.push(Cause::invalid("metadata.name", &name.into(), "must be spec.names.plural+\".\"+spec.group"));
    }
    let stored = list(object, "/spec/versions").iter().filter(|version| version["storage"] == true).count();
    if stored != 1 {
        let why = "must have exactly one version marked as storage version";
        causes.push(Cause::invalid(
            "spec.versions",
            &object.pointer("/spec/versions").cloned().unwrap_or_default(),
            why,
        ));
    }
    causes
}

/// What is wrong with the new state of an object that exists.
pub fn updated(kind: &Kind, new: &Value, old: &Value) -> Vec<Cause> {
    // Told twice: the rules of all kinds and those of each kind say so.
    let mut causes: Vec<Cause> =
        new_finalizers(new, old).into_iter().flat_map(|cause| [cause.clone(), cause]).collect();
    causes.extend(bad_owners(new));
    causes.extend(too_large(kind, new));
    let fixed = |field: &str| {
        let pointer: String = field.split('.').map(|part| format!("/{part}")).collect();
        let (now, before) = (new.pointer(&pointer), old.pointer(&pointer));
        (now != before).then(|| Cause::invalid(field, now.unwrap_or(&Value::Null), IMMUTABLE))
    };
    match &*kind.stored {
        "secrets" => {
            causes.extend(fixed("type"));
            causes.extend(immutable_data(new, old, &["data"]));
        }
        "configmaps" => causes.extend(immutable_data(new, old, &["data", "binaryData"])),
        "deployments.apps" | "daemonsets.apps" | "replicasets.apps" => causes.extend(fixed("spec.selector")),
        "statefulsets.apps" => causes.extend(stateful_set(new, old)),
        "rolebindings.rbac.authorization.k8s.io" | "clusterrolebindings.rbac.authorization.k8s.io" => {
            let changed = new.get("roleRef") != old.get("roleRef");
            causes.extend(changed.then(|| Cause::invalid("roleRef", &new["roleRef"], "cannot change roleRef")));
        }
        "customresourcedefinitions.apiextensions.k8s.io" => {
            causes.extend(["spec.group", "spec.scope", "spec.names.kind"].into_iter().filter_map(fixed));
            causes.extend(stored_versions(new));
        }
        _ => {}
    }
    causes
}

/// An object that is deleted takes no further finalizers.
fn new_finalizers(new: &Value, old: &Value) -> Option<Cause> {
    if !meta::is_deleting(old) {
        return None;
    }
    let before = meta::finalizers(old);
    let added: Vec<String> = meta::finalizers(new).into_iter().filter(|f| !before.contains(f)).collect();
    let told: Vec<String> = added.iter().map(|finalizer| format!("{finalizer:?}")).collect();
    let why = format!(
        "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
        told.join(", ")
    );
    (!added.is_empty()).then(|| Cause::forbidden("metadata.finalizers", &why))
}

fn immutable_data(new: &Value, old: &Value, fields: &[&str]) -> Vec<Cause> {
    if old["immutable"] != true {
        return Vec::new();
    }
    let why = "field is immutable when `immutable` is set";
    let flag = (new["immutable"] != true).then(|| Cause::forbidden("immutable", why));
    let changed = fields.iter().filter(|field| new.get(**field) != old.get(**field));
    flag.into_iter().chain(changed.map(|field| Cause::forbidden(field, why))).collect()
}

fn stateful_set(new: &Value, old: &Value) -> Option<Cause> {
    const FREE: &[&str] = &[
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ];
    let fixed = |object: &Value| {
        let mut spec = object["spec"].clone();
        FREE.iter().for_each(|field| meta::remove(&mut spec, &[field]));
        spec
    };
    let why = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', \
        'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
    (fixed(new) != fixed(old)).then(|| Cause::forbidden("spec", why))
}

/// A version in which objects may be stored cannot leave the definition.
fn stored_versions(new: &Value) -> Vec<Cause> {
    let versions = list(new, "/spec/versions");
    let stored = list(new, "/status/storedVersions").iter().enumerate();
    let missing = stored.filter(|(_, stored)| !versions.iter().any(|version| version["name"] == **stored));
    missing
        .map(|(n, stored)| {
            let why = "missing from spec.versions; ".to_owned()
                + &format!(
                    "{} was previously a storage version, and must remain in spec.versions until a storage ",
                    stored.as_str().unwrap_or_default()
                )
                + "migration ensures no data remains persisted in it and removes it from status.storedVersions";
            Cause::invalid(&format!("status.storedVersions[{n}]"), stored, &why)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_by_kind() {
        for good in ["a", "a-b.c", "1", "a.1-b"] {
            assert_eq!(bad_name(Names::Subdomain, good), None, "{good}");
        }
        for bad in ["A", "a_b", "-a", "a.", "a..b", "system:a", &"a".repeat(254)] {
            assert!(bad_name(Names::Subdomain, bad).is_some(), "{bad}");
        }
        assert!(bad_name(Names::Label, "a.b").is_some());
        assert_eq!(bad_name(Names::Segment, "system:node"), None);
    }
}
