//! What the path of an entry says.

use std::sync::Arc;

use crate::object::{ObjectKey, Resource};

const FILTERS: &str = "filters/filters.json";
/// Written by operators before 2.0, which restored status by it. Says nothing that the CRDs in the backup do not say.
const FORMER_STATUS_LIST: &str = "filters/statussubresource.json";

/// Longest name of an object, a group or a namespace's object, in bytes (RFC 1123 subdomain, Kubernetes "Object Names and IDs").
const MAX_NAME_BYTES: usize = 253;
/// Longest DNS label: namespaces, plurals, versions.
const MAX_LABEL_BYTES: usize = 63;

/// A path that a backup may have.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum EntryPath<'a> {
    Filters,
    /// Written by former operators, and of no use.
    Obsolete,
    Object(ObjectPath<'a>),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct ObjectPath<'a> {
    pub plural: &'a str,
    pub group: &'a str,
    pub version: &'a str,
    pub namespace: Option<&'a str>,
    pub name: &'a str,
}

impl<'a> EntryPath<'a> {
    /// # Errors
    ///
    /// What is wrong with the path, to be read after its name.
    pub fn parse(path: &'a [u8]) -> Result<Self, &'static str> {
        let path = safe(path)?;
        let path = path.strip_prefix("./").unwrap_or(path);
        match path {
            FILTERS => Ok(Self::Filters),
            FORMER_STATUS_LIST => Ok(Self::Obsolete),
            _ => ObjectPath::parse(path).map(Self::Object),
        }
    }
}

impl<'a> ObjectPath<'a> {
    fn parse(path: &'a str) -> Result<Self, &'static str> {
        let path = path.strip_suffix(".json").ok_or("is not an object: its name does not end in `.json`")?;
        let (resource, namespace, name) = match *path.split('/').collect::<Vec<_>>() {
            [resource, name] => (resource, None, name),
            [resource, namespace, name] => (resource, Some(namespace), name),
            [_] => return Err("is not an object: it lies in no folder"),
            _ => return Err("is not an object: its path has more than three parts"),
        };
        let (plural, group, version) = resource_parts(resource)?;
        if namespace.is_some_and(|namespace| !is_label(namespace)) {
            return Err("is not an object: its path has a namespace that none can have");
        }
        if !is_object_name(name) {
            return Err("is not an object: its path has a name that none can have");
        }
        Ok(Self { plural, group, version, namespace, name })
    }

    pub fn resource(&self) -> Resource {
        Resource::new(self.group, self.version, self.plural)
    }

    pub fn key(&self, resource: Arc<Resource>) -> ObjectKey {
        ObjectKey { resource, namespace: self.namespace.map(Arc::from), name: Arc::from(self.name) }
    }
}

/// Checks the path of a directory, which is otherwise passed over: the folders of a backup say nothing.
pub(super) fn directory(path: &[u8]) -> Result<(), &'static str> {
    let path = path.strip_suffix(b"/").unwrap_or(path);
    if path == b"." {
        return Ok(()); // `tar -C folder .` writes the folder itself
    }
    safe(path).map(drop)
}

/// `plural.group#version`; the group is empty for the core one.
fn resource_parts(folder: &str) -> Result<(&str, &str, &str), &'static str> {
    let (resource, version) =
        folder.split_once('#').ok_or("is not an object: its folder has no `#` before a version")?;
    let (plural, group) = resource.split_once('.').ok_or("is not an object: its folder has no `.` before a group")?;
    if version.contains('#') {
        return Err("is not an object: its folder has more than one `#`");
    }
    let group_is_one = group.is_empty() || (group.len() <= MAX_NAME_BYTES && group.split('.').all(is_label));
    if is_label(plural) && is_label(version) && group_is_one {
        return Ok((plural, group, version));
    }
    Err("is not an object: its folder is not `<plural>.<group>#<version>`")
}

/// A path that leads nowhere else, on no system, and does nothing to a terminal.
fn safe(path: &[u8]) -> Result<&str, &'static str> {
    let path = std::str::from_utf8(path).map_err(|_| "has a path that is not UTF-8")?;
    if path.chars().any(char::is_control) {
        return Err("has control characters in its path");
    }
    if path.contains('\\') {
        return Err("has a backslash in its path");
    }
    if path.starts_with('/') {
        return Err("has an absolute path");
    }
    let relative = path.strip_prefix("./").unwrap_or(path);
    match relative.split('/').find(|part| matches!(*part, "" | "." | "..")) {
        Some("") => Err("has an empty part in its path"),
        Some(_) => Err("has `.` or `..` in its path"),
        None => Ok(path),
    }
}

/// Names of RBAC objects are any path segment, `system:node` say; other types are stricter, as the API server knows.
fn is_object_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_NAME_BYTES && !name.contains('%')
}

fn is_label(label: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    label.len() <= MAX_LABEL_BYTES
        && label.bytes().all(inner)
        && !label.is_empty()
        && !label.starts_with('-')
        && !label.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(path: &str) -> ObjectPath<'_> {
        match EntryPath::parse(path.as_bytes()) {
            Ok(EntryPath::Object(object)) => object,
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn a_path_names_its_object() {
        let secret = object("secrets.#v1/cattle-system/tls-rancher.json");
        assert_eq!((secret.plural, secret.group, secret.version), ("secrets", "", "v1"));
        assert_eq!((secret.namespace, secret.name), (Some("cattle-system"), "tls-rancher"));
        let crd = object("./customresourcedefinitions.apiextensions.k8s.io#v1/clusters.management.cattle.io.json");
        assert_eq!((crd.plural, crd.group, crd.version), ("customresourcedefinitions", "apiextensions.k8s.io", "v1"));
        assert_eq!((crd.namespace, crd.name), (None, "clusters.management.cattle.io"));
        let key = crd.key(Arc::new(crd.resource()));
        assert_eq!(key.to_string(), "customresourcedefinitions.apiextensions.k8s.io#v1/clusters.management.cattle.io");
    }

    #[test]
    fn rbac_names_may_hold_what_other_names_may_not() {
        assert_eq!(object("clusterroles.rbac.authorization.k8s.io#v1/system:node.json").name, "system:node");
        assert_eq!(object("clusterroles.rbac.authorization.k8s.io#v1/a..b #é.json.json").name, "a..b #é.json");
    }

    #[test]
    fn only_the_exact_path_is_the_filters() {
        assert_eq!(EntryPath::parse(b"filters/filters.json"), Ok(EntryPath::Filters));
        assert_eq!(EntryPath::parse(b"./filters/filters.json"), Ok(EntryPath::Filters));
        assert_eq!(EntryPath::parse(b"filters/statussubresource.json"), Ok(EntryPath::Obsolete));
        assert_eq!(object("secrets.#v1/cattle-system/my-filters.json").name, "my-filters");
        assert_eq!(object("secrets.#v1/filters/filters.json").name, "filters");
        assert_eq!(object("envoyfilters.networking.istio.io#v1/filters.json").plural, "envoyfilters");
    }

    #[test]
    fn what_names_no_object_is_refused_with_a_reason() {
        let long = format!("secrets.#v1/ns/{}.json", "x".repeat(254));
        let paths: [&[u8]; 26] = [
            b"readme.json",
            b"secrets.#v1/ns/x",
            b"secrets.#v1/ns/x.yaml",
            b"secrets.v1/ns/x.json",
            b"secrets.#v1#v2/ns/x.json",
            b"secrets#v1/ns/x.json",
            b".#v1/ns/x.json",
            b"secrets.#/ns/x.json",
            b"Secrets.#v1/ns/x.json",
            b"secrets.a..b#v1/ns/x.json",
            b"secrets.#v1/ns/deeper/x.json",
            b"secrets.#v1/Ns/x.json",
            b"secrets.#v1/ns/.json",
            b"secrets.#v1/ns/a%2fb.json",
            long.as_bytes(),
            b"secrets.#v1//x.json",
            b"././secrets.#v1/ns/x.json",
            b"secrets.#v1/../x.json",
            b"../secrets.#v1/x.json",
            b"/secrets.#v1/ns/x.json",
            b"secrets.#v1\\ns\\x.json",
            b"secrets.#v1/ns/x\n.json",
            b"secrets.#v1/ns/\xff.json",
            b"filters/other.json",
            b"filters.json",
            b"",
        ];
        let said: Vec<String> = paths
            .iter()
            .map(|path| {
                format!("{} {}", path[..path.len().min(32)].escape_ascii(), EntryPath::parse(path).unwrap_err())
            })
            .collect();
        insta::assert_snapshot!(said.join("\n"), @r"
        readme.json is not an object: it lies in no folder
        secrets.#v1/ns/x is not an object: its name does not end in `.json`
        secrets.#v1/ns/x.yaml is not an object: its name does not end in `.json`
        secrets.v1/ns/x.json is not an object: its folder has no `#` before a version
        secrets.#v1#v2/ns/x.json is not an object: its folder has more than one `#`
        secrets#v1/ns/x.json is not an object: its folder has no `.` before a group
        .#v1/ns/x.json is not an object: its folder is not `<plural>.<group>#<version>`
        secrets.#/ns/x.json is not an object: its folder is not `<plural>.<group>#<version>`
        Secrets.#v1/ns/x.json is not an object: its folder is not `<plural>.<group>#<version>`
        secrets.a..b#v1/ns/x.json is not an object: its folder is not `<plural>.<group>#<version>`
        secrets.#v1/ns/deeper/x.json is not an object: its path has more than three parts
        secrets.#v1/Ns/x.json is not an object: its path has a namespace that none can have
        secrets.#v1/ns/.json is not an object: its path has a name that none can have
        secrets.#v1/ns/a%2fb.json is not an object: its path has a name that none can have
        secrets.#v1/ns/xxxxxxxxxxxxxxxxx is not an object: its path has a name that none can have
        secrets.#v1//x.json has an empty part in its path
        ././secrets.#v1/ns/x.json has `.` or `..` in its path
        secrets.#v1/../x.json has `.` or `..` in its path
        ../secrets.#v1/x.json has `.` or `..` in its path
        /secrets.#v1/ns/x.json has an absolute path
        secrets.#v1\\ns\\x.json has a backslash in its path
        secrets.#v1/ns/x\n.json has control characters in its path
        secrets.#v1/ns/\xff.json has a path that is not UTF-8
        filters/other.json is not an object: its folder has no `#` before a version
        filters.json is not an object: it lies in no folder
         has an empty part in its path
        ");
    }

    #[test]
    fn folders_may_be_written_in_any_way_that_stays_inside() {
        for path in ["secrets.#v1", "secrets.#v1/", "./secrets.#v1/ns/", "./", "."] {
            assert_eq!(directory(path.as_bytes()), Ok(()), "{path}");
        }
        for path in ["", "/", "..", "a/../b", "/etc", "a//b", "a\u{1b}"] {
            assert!(directory(path.as_bytes()).is_err(), "{path}");
        }
    }
}
