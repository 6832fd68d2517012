//! What a cluster serves.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use futures::stream::{self, StreamExt};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::request::{Call, Reply, push_segment};
use super::{ClusterError, ClusterReader, FailureKind, JsonFault, Lost, Target};
use crate::object::Resource;

/// Asks for all groups in one document (Kubernetes 1.26 as v2beta1, 1.30 as v2), else for the list of groups.
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
    application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
/// Group versions asked at once where the cluster has no aggregated document.
const LEGACY_IN_FLIGHT: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupVersion {
    /// Empty for the core group.
    pub group: String,
    pub version: String,
}

impl fmt::Display for GroupVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { group, version } = self;
        if group.is_empty() { f.write_str(version) } else { write!(f, "{group}/{version}") }
    }
}

/// A resource at a version that is served. Subresources are not resources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiResource {
    pub resource: Arc<Resource>,
    pub kind: String,
    pub namespaced: bool,
    pub verbs: Vec<String>,
    /// Whether it has the subresource `status`.
    pub has_status: bool,
    /// Whether this is the version that the cluster prefers, of those that serve the resource.
    pub served_preferred: bool,
}

impl ApiResource {
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|have| have == verb)
    }
}

/// All resources of a cluster, in its order of preference.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    pub resources: Vec<ApiResource>,
    /// Group versions that are registered and do not answer: an APIService without its server. What they hold is unknown.
    pub failing: Vec<GroupVersion>,
    /// Places in `resources`, the preferred version first.
    by_plural: HashMap<(String, String), Vec<usize>>,
    by_kind: HashMap<(String, String), Vec<usize>>,
}

impl Catalog {
    /// `resources` in order of preference; `served_preferred` is set here.
    pub fn new(mut resources: Vec<ApiResource>, failing: Vec<GroupVersion>) -> Self {
        let mut by_plural: HashMap<_, Vec<usize>> = HashMap::new();
        let mut by_kind: HashMap<_, Vec<usize>> = HashMap::new();
        for (place, served) in resources.iter_mut().enumerate() {
            let group = &served.resource.group;
            let places = by_plural.entry((group.clone(), served.resource.plural.clone())).or_default();
            served.served_preferred = places.is_empty();
            places.push(place);
            by_kind.entry((group.clone(), served.kind.clone())).or_default().push(place);
        }
        Self { resources, failing, by_plural, by_kind }
    }

    /// The resource at this very version.
    pub fn find(&self, resource: &Resource) -> Option<&ApiResource> {
        let Resource { group, version, plural } = resource;
        self.versions(group, plural).find(|served| served.resource.version == *version)
    }

    /// The resource at whatever version is preferred.
    pub fn find_any_version(&self, group: &str, plural: &str) -> Option<&ApiResource> {
        self.versions(group, plural).next()
    }

    /// The resource of a kind, at whatever version is preferred.
    pub fn find_kind(&self, group: &str, kind: &str) -> Option<&ApiResource> {
        let places = self.by_kind.get(&(group.to_owned(), kind.to_owned()))?;
        places.first().map(|&place| &self.resources[place])
    }

    /// The versions that serve a resource, the preferred one first.
    pub fn versions(&self, group: &str, plural: &str) -> impl Iterator<Item = &ApiResource> {
        let places = self.by_plural.get(&(group.to_owned(), plural.to_owned()));
        places.into_iter().flatten().map(|&place| &self.resources[place])
    }
}

fn stored_elsewhere(definition: &Value, resource: &Resource) -> Option<Resource> {
    let versions = definition.pointer("/spec/versions").and_then(Value::as_array);
    let storage = versions?.iter().find(|version| version["storage"] == true && version["served"] == true)?;
    let version = storage["name"].as_str().filter(|version| *version != resource.version)?;
    Some(Resource { version: version.to_owned(), ..resource.clone() })
}

impl ClusterReader {
    /// A custom type at the version at which its objects are stored, where that is served and is another one than `resource` has: at
    /// it objects that are all stored so can be read although nobody converts them. `None` also where its definition cannot be read.
    ///
    /// # Errors
    ///
    /// `Unreachable`.
    pub async fn as_stored(&self, resource: &Resource) -> Result<Option<Resource>, ClusterError> {
        let definitions = Resource::new("apiextensions.k8s.io", "v1", "customresourcedefinitions");
        let definition = match self.get(&Target::new(&definitions, None, &resource.group_resource())).await {
            Ok(answer) => answer.and_then(|answer| answer.value().ok()),
            Err(error @ ClusterError::Unreachable { .. }) => return Err(error),
            Err(_) => None,
        };
        Ok(definition.and_then(|definition| stored_elsewhere(&definition, resource)))
    }

    /// Asks what is served: two requests, or one a group version on servers without the aggregated document.
    pub async fn discover(&self) -> Result<Catalog, ClusterError> {
        let core = self.document("/api", AGGREGATED).await?;
        let groups = self.document("/apis", AGGREGATED).await?;
        if !(is_aggregated(&core) && is_aggregated(&groups)) {
            return self.discover_one_by_one().await;
        }
        let mut found = Found::default();
        for reply in [&core, &groups] {
            found.add_aggregated(parsed(reply)?);
        }
        Ok(found.into_catalog())
    }

    /// Discovery as it was before Kubernetes 1.26.
    pub async fn discover_one_by_one(&self) -> Result<Catalog, ClusterError> {
        let core: CoreVersions = parsed(&self.document("/api", super::request::JSON).await?)?;
        let groups: GroupList = parsed(&self.document("/apis", super::request::JSON).await?)?;
        let core = core.versions.into_iter().map(|version| group_version("", &version));
        let named = groups.groups.into_iter().flat_map(Group::in_order);
        let asked: Vec<GroupVersion> = core.chain(named).collect();
        let mut answers = stream::iter(asked).map(|of| self.group_version(of)).buffered(LEGACY_IN_FLIGHT);
        let mut found = Found::default();
        while let Some(answer) = answers.next().await {
            match answer? {
                (of, Some(list)) => found.add_legacy(&of, list),
                (of, None) => found.failing.push(of),
            }
        }
        Ok(found.into_catalog())
    }

    /// The resources of one group version; `None` when it is registered and does not answer.
    async fn group_version(&self, of: GroupVersion) -> Result<(GroupVersion, Option<ResourceList>), ClusterError> {
        let mut path = if of.group.is_empty() { "/api".to_owned() } else { "/apis".to_owned() };
        if !of.group.is_empty() {
            push_segment(&mut path, "API group", &of.group)?;
        }
        push_segment(&mut path, "API version", &of.version)?;
        let deadline = tokio::time::Instant::now() + self.transport.limits().request_timeout;
        // Once: a dead APIService answers 503 for as long as it is dead, and must not hold up the rest.
        match self.transport.once(&Call::get(path), deadline, super::request::MAX_ANSWER_BYTES).await {
            Ok(Ok(reply)) => Ok((of, Some(parsed(&reply)?))),
            Ok(Err(failure)) if failure.code >= 500 || failure.kind == FailureKind::NotFound => Ok((of, None)),
            Ok(Err(failure)) => Err(ClusterError::Api { what: format!("discover {of}"), failure: Box::new(failure) }),
            Err(Lost::TimedOut { .. }) => Ok((of, None)),
            Err(lost) => Err(self.transport.lost(lost, format!("discover {of}"))),
        }
    }

    async fn document(&self, path: &str, accept: &'static str) -> Result<Reply, ClusterError> {
        let call = Call { accept, ..Call::get(path.to_owned()) };
        let what = || format!("discover {path}");
        let answer = self.transport.read(&call, what).await?;
        answer.map_err(|failure| ClusterError::Api { what: what(), failure: Box::new(failure) })
    }
}

fn group_version(group: &str, version: &str) -> GroupVersion {
    GroupVersion { group: group.to_owned(), version: version.to_owned() }
}

fn is_aggregated(reply: &Reply) -> bool {
    reply
        .content_type
        .as_ref()
        .and_then(|value| value.to_str().ok())
        .is_some_and(|t| t.contains("APIGroupDiscoveryList"))
}

fn parsed<T: DeserializeOwned>(reply: &Reply) -> Result<T, ClusterError> {
    serde_json::from_slice(&reply.body).map_err(|error| ClusterError::BadAnswer {
        what: "discover what the cluster serves".to_owned(),
        source: JsonFault::from(error),
    })
}

#[derive(Default)]
struct Found {
    resources: Vec<ApiResource>,
    failing: Vec<GroupVersion>,
}

impl Found {
    fn add_aggregated(&mut self, document: Aggregated) {
        for AggregatedGroup { metadata, versions } in document.items {
            for AggregatedVersion { version, freshness, resources } in versions {
                // What stands in a stale entry may be long gone.
                if freshness.as_deref() == Some("Stale") {
                    self.failing.push(group_version(&metadata.name, &version));
                    continue;
                }
                let served = resources.into_iter().filter_map(|r| r.into_resource(&metadata.name, &version));
                self.resources.extend(served);
            }
        }
    }

    fn add_legacy(&mut self, of: &GroupVersion, list: ResourceList) {
        let with_status: BTreeSet<String> =
            list.resources.iter().filter_map(|r| r.name.strip_suffix("/status")).map(str::to_owned).collect();
        let whole = list.resources.into_iter().filter(|r| !r.name.contains('/'));
        self.resources.extend(whole.map(|LegacyResource { name, kind, namespaced, verbs }| ApiResource {
            has_status: with_status.contains(&name),
            resource: Arc::new(Resource::new(&of.group, &of.version, &name)),
            kind,
            namespaced,
            verbs,
            served_preferred: false,
        }));
    }

    fn into_catalog(self) -> Catalog {
        Catalog::new(self.resources, self.failing)
    }
}

#[derive(Deserialize)]
struct Aggregated {
    #[serde(default)]
    items: Vec<AggregatedGroup>,
}

#[derive(Deserialize)]
struct AggregatedGroup {
    #[serde(default)]
    metadata: Named,
    #[serde(default)]
    versions: Vec<AggregatedVersion>,
}

/// The core group has no name.
#[derive(Deserialize, Default)]
struct Named {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct AggregatedVersion {
    version: String,
    freshness: Option<String>,
    #[serde(default)]
    resources: Vec<AggregatedResource>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AggregatedResource {
    resource: String,
    response_kind: Option<Kind>,
    #[serde(default)]
    scope: Cow<'static, str>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    subresources: Vec<Subresource>,
}

#[derive(Deserialize)]
struct Kind {
    #[serde(default)]
    kind: String,
}

#[derive(Deserialize)]
struct Subresource {
    subresource: String,
}

impl AggregatedResource {
    /// `None` where only subresources are served.
    fn into_resource(self, group: &str, version: &str) -> Option<ApiResource> {
        let Self { resource, response_kind, scope, verbs, subresources } = self;
        let kind = response_kind.map(|kind| kind.kind).filter(|kind| !kind.is_empty())?;
        Some(ApiResource {
            resource: Arc::new(Resource::new(group, version, &resource)),
            kind,
            namespaced: scope == "Namespaced",
            verbs,
            has_status: subresources.iter().any(|sub| sub.subresource == "status"),
            served_preferred: false,
        })
    }
}

#[derive(Deserialize)]
struct CoreVersions {
    #[serde(default)]
    versions: Vec<String>,
}

#[derive(Deserialize)]
struct GroupList {
    #[serde(default)]
    groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    name: String,
    #[serde(default)]
    versions: Vec<GroupsVersion>,
    preferred_version: Option<GroupsVersion>,
}

#[derive(Deserialize, PartialEq)]
struct GroupsVersion {
    version: String,
}

impl Group {
    /// Its versions, the preferred one first.
    fn in_order(self) -> Vec<GroupVersion> {
        let Self { name, mut versions, preferred_version } = self;
        versions.sort_by_key(|version| Some(version) != preferred_version.as_ref());
        versions.into_iter().map(|version| group_version(&name, &version.version)).collect()
    }
}

#[derive(Deserialize)]
struct ResourceList {
    #[serde(default)]
    resources: Vec<LegacyResource>,
}

#[derive(Deserialize)]
struct LegacyResource {
    name: String,
    kind: String,
    namespaced: bool,
    #[serde(default)]
    verbs: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog(document: &str) -> Catalog {
        let mut found = Found::default();
        found.add_aggregated(serde_json::from_str(document).unwrap());
        found.into_catalog()
    }

    const DOCUMENT: &str = r#"{"items":[
      {"metadata":{"name":"apps.example"},"versions":[
        {"version":"v2","freshness":"Current","resources":[
          {"resource":"things","responseKind":{"group":"","version":"","kind":"Thing"},"scope":"Namespaced","verbs":["list","get"],
           "subresources":[{"subresource":"status"}]},
          {"resource":"ghosts","scope":"Cluster","subresources":[{"subresource":"scale"}]}]},
        {"version":"v1","freshness":"Current","resources":[
          {"resource":"things","responseKind":{"kind":"Thing"},"scope":"Namespaced","verbs":["list"]},
          {"resource":"olds","responseKind":{"kind":"Old"},"scope":"Cluster","verbs":["list"]}]}]},
      {"metadata":{"name":"ext.cattle.io"},"versions":[{"version":"v1","freshness":"Stale","resources":[
          {"resource":"tokens","responseKind":{"kind":"Token"},"scope":"Cluster","verbs":["list"]}]}]}]}"#;

    #[test]
    fn a_stale_group_is_passed_over_and_reported() {
        let catalog = catalog(DOCUMENT);
        assert_eq!(catalog.failing, [group_version("ext.cattle.io", "v1")]);
        assert!(catalog.find_any_version("ext.cattle.io", "tokens").is_none());
    }

    #[test]
    fn the_preferred_version_is_the_first_that_serves_the_resource() {
        let catalog = catalog(DOCUMENT);
        let things = catalog.find_kind("apps.example", "Thing").unwrap();
        assert_eq!((things.resource.version.as_str(), things.has_status, things.namespaced), ("v2", true, true));
        let olds = catalog.find_any_version("apps.example", "olds").unwrap();
        assert_eq!((olds.resource.version.as_str(), olds.served_preferred), ("v1", true));
        let exact = catalog.find(&Resource::new("apps.example", "v1", "things")).unwrap();
        assert!(!exact.served_preferred && !exact.has_status && exact.can("list") && !exact.can("get"));
        assert!(catalog.find(&Resource::new("apps.example", "v3", "things")).is_none());
    }

    #[test]
    fn what_has_only_subresources_is_not_a_resource() {
        assert!(catalog(DOCUMENT).find_any_version("apps.example", "ghosts").is_none());
    }

    #[test]
    fn an_old_group_is_asked_at_its_preferred_version_first() {
        let group: Group = serde_json::from_str(
            r#"{"name":"g","versions":[{"version":"v1beta1"},{"version":"v1"}],"preferredVersion":{"version":"v1"}}"#,
        )
        .unwrap();
        assert_eq!(group.in_order(), [group_version("g", "v1"), group_version("g", "v1beta1")]);
    }
}
