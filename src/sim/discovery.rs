//! What is served, as documents: all groups in one, and group by group.

use std::cmp::Reverse;

use serde_json::{Value, json};

use super::kinds::{Kind, Kinds, Version, version_order};

const STATUS_VERBS: &[&str] = &["get", "patch", "update"];

/// An aggregated API: registered, and without the server behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    pub group: String,
    pub version: String,
}

/// What is known of one group: its versions, and those whose server does not answer.
struct Group<'a> {
    name: &'a str,
    versions: Vec<&'a str>,
    stale: Vec<&'a str>,
}

/// Priorities of `APIService`s (Kubernetes, `pkg/controlplane/apiserver/aggregator.go` and `cmd/kube-apiserver`).
fn priority(group: &str) -> u32 {
    match group {
        "" => 18_000,
        "apiregistration.k8s.io" => 20_000,
        "apps" => 17_800,
        "events.k8s.io" => 17_750,
        "authentication.k8s.io" => 17_700,
        "authorization.k8s.io" => 17_600,
        "autoscaling" => 17_500,
        "batch" => 17_400,
        "networking.k8s.io" => 17_200,
        "policy" => 17_100,
        "rbac.authorization.k8s.io" => 17_000,
        "apiextensions.k8s.io" | "admissionregistration.k8s.io" => 16_700,
        "coordination.k8s.io" => 16_500,
        "discovery.k8s.io" => 16_200,
        _ => 1_000,
    }
}

/// The groups with a name, in order of preference.
fn groups<'a>(kinds: &'a Kinds, failing: &'a [Registered]) -> Vec<Group<'a>> {
    let mut names: Vec<&str> = kinds.groups();
    names.extend(failing.iter().map(|registered| registered.group.as_str()));
    names.retain(|name| !name.is_empty());
    names.sort_by_key(|name| (Reverse(priority(name)), *name));
    names.dedup();
    names.into_iter().map(|name| group(kinds, failing, name)).collect()
}

fn group<'a>(kinds: &'a Kinds, failing: &'a [Registered], name: &'a str) -> Group<'a> {
    let of_group = kinds.told().filter(|kind| kind.group == name);
    let mut versions: Vec<&str> = of_group.flat_map(|kind| kind.versions.iter().map(|v| v.name.as_str())).collect();
    let of_group = failing.iter().filter(|registered| registered.group == name);
    let stale: Vec<&str> = of_group.map(|registered| registered.version.as_str()).collect();
    versions.extend(&stale);
    versions.sort_by(|a, b| version_order(a, b));
    versions.dedup();
    Group { name, versions, stale }
}

fn served<'a>(kinds: &'a Kinds, group: &str, version: &str) -> impl Iterator<Item = (&'a Kind, &'a Version)> {
    let of_group = kinds.told().filter(move |kind| kind.group == group);
    of_group.filter_map(move |kind| Some((&**kind, kind.version(version)?)))
}

/// `/api` or `/apis` with everything in it.
pub fn aggregated(kinds: &Kinds, failing: &[Registered], core: bool) -> Value {
    let groups = if core { vec![group(kinds, &[], "")] } else { groups(kinds, failing) };
    let items: Vec<Value> = groups.iter().map(|group| aggregated_group(kinds, group)).collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregated_group(kinds: &Kinds, group: &Group<'_>) -> Value {
    let Group { name, versions, stale } = group;
    let versions = versions.iter().map(|version| {
        let resources: Vec<Value> =
            served(kinds, name, version).map(|(kind, at)| aggregated_resource(kind, at)).collect();
        if stale.contains(version) {
            return json!({"version": version, "freshness": "Stale"});
        }
        json!({"version": version, "resources": resources, "freshness": "Current"})
    });
    let metadata = if name.is_empty() { json!({}) } else { json!({"name": name}) };
    json!({"metadata": metadata, "versions": versions.collect::<Vec<_>>()})
}

fn aggregated_resource(kind: &Kind, at: &Version) -> Value {
    // The built-in ones leave out what the document says above them.
    let of = |text: &str| if kind.rules.custom { text.to_owned() } else { String::new() };
    let response = json!({"group": of(&kind.group), "version": of(&at.name), "kind": kind.kind});
    let mut resource = json!({
        "resource": kind.plural,
        "responseKind": response,
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular,
        "verbs": kind.verbs,
    });
    if at.status {
        resource["subresources"] = json!([{
            "subresource": "status", "responseKind": response, "verbs": STATUS_VERBS,
        }]);
    }
    more(&mut resource, kind);
    resource
}

fn more(resource: &mut Value, kind: &Kind) {
    if !kind.short_names.is_empty() {
        resource["shortNames"] = kind.short_names.clone().into();
    }
    if !kind.categories.is_empty() {
        resource["categories"] = kind.categories.clone().into();
    }
}

/// `/api` in the older way.
pub fn core_versions() -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
}

/// `/apis` in the older way.
pub fn group_list(kinds: &Kinds, failing: &[Registered]) -> Value {
    let groups: Vec<Value> = groups(kinds, failing).iter().map(legacy_group).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/GROUP`; `None` where nobody serves it.
pub fn one_group(kinds: &Kinds, failing: &[Registered], name: &str) -> Option<Value> {
    let mut told = legacy_group(groups(kinds, failing).iter().find(|group| group.name == name)?);
    told["kind"] = "APIGroup".into();
    told["apiVersion"] = "v1".into();
    Some(told)
}

fn legacy_group(group: &Group<'_>) -> Value {
    let Group { name, versions, stale: _ } = group;
    let version = |version: &&str| json!({"groupVersion": format!("{name}/{version}"), "version": version});
    json!({
        "name": name,
        "versions": versions.iter().map(version).collect::<Vec<_>>(),
        "preferredVersion": versions.first().map(version),
    })
}

/// `/api/v1` or `/apis/GROUP/VERSION`; `None` where nobody serves it.
pub fn resource_list(kinds: &Kinds, group: &str, version: &str) -> Option<Value> {
    let mut resources = Vec::new();
    for (kind, at) in served(kinds, group, version) {
        let mut resource = json!({
            "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced, "kind": kind.kind,
            "verbs": kind.verbs,
        });
        more(&mut resource, kind);
        resources.push(resource);
        if at.status {
            resources.push(json!({
                "name": format!("{}/status", kind.plural), "singularName": "", "namespaced": kind.namespaced,
                "kind": kind.kind, "verbs": STATUS_VERBS,
            }));
        }
    }
    let group_version = crate::object::Resource::new(group, version, "").api_version();
    (!resources.is_empty()).then(|| {
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources})
    })
}
