//! The lists that a backup is made of.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use futures::stream::{self, StreamExt as _};
use serde_json::Value;
use serde_json::value::RawValue;

use super::stage::{Entry, Stage};
use super::{Choice, CollectError};
use crate::backup::{self, SelectorQuery, Selectors};
use crate::cluster::{ApiResource, Catalog, ClusterError, ClusterReader, FailureKind, ListOptions, Target};
use crate::object::{ObjectKey, Resource, unmanaged};
use crate::store::StoreError;
use crate::webhook::silence;

/// Lists under way at once; more gain nothing, since the API server's CPU is the limit.
const IN_FLIGHT: usize = 4;
/// Types that a note names; the rest is counted.
const NAMES_SHOWN: usize = 5;

/// Namespace, empty for none, and name.
type Place = (String, String);

/// One type, and what of it is saved.
struct Wish {
    resource: Arc<Resource>,
    kind: String,
    listable: bool,
    /// Selectors that want the type, at whatever version each names.
    queries: Vec<SelectorQuery>,
    named: HashSet<Place>,
}

pub(super) struct Listed {
    pub entries: Vec<Entry>,
    pub notes: Vec<String>,
}

/// Lists every type of which something is chosen, and puts what is chosen on the stage.
pub(super) async fn all(reader: &ClusterReader, choice: &Choice, stage: &Stage) -> Result<Listed, CollectError> {
    let catalog = reader.discover().await?;
    let state = state(reader).await?;
    let mut notes = unserved(&choice.selectors, &catalog);
    let (mut entries, mut later) = (Vec::new(), Vec::new());
    let tasks = wishes(&catalog, choice).into_iter().map(|wish| {
        let list = List { reader, wish, selectors: &choice.selectors, state: &state, stage };
        async move { list.take().await }
    });
    let mut lists = stream::iter(tasks).buffer_unordered(IN_FLIGHT);
    while let Some(taken) = lists.next().await {
        let Taken { found, other_state } = taken?;
        entries.extend(found);
        later.extend(other_state);
    }
    drop(lists);
    later.sort();
    if !later.is_empty() {
        let shown = later.iter().take(NAMES_SHOWN).cloned().collect::<Vec<_>>().join(", ");
        notes.push(format!(
            "not of the same moment as the rest, since the server does not give that state: {} types: {shown}",
            later.len()
        ));
    }
    Ok(Listed { entries, notes })
}

/// The state of the cluster that all lists ask for.
async fn state(reader: &ClusterReader) -> Result<String, CollectError> {
    let namespaces = Resource::new("", "v1", "namespaces");
    let options = ListOptions { metadata_only: true, ..ListOptions::default() };
    let listed = reader.list(&namespaces, options, |_| Ok(None::<()>)).await;
    match listed {
        Ok(listed) => Ok(listed.resource_version),
        Err(error) => Err(told(error, &namespaces)),
    }
}

fn unserved(selectors: &Selectors, catalog: &Catalog) -> Vec<String> {
    let served: BTreeSet<String> = catalog.resources.iter().map(|found| found.resource.api_version()).collect();
    let told =
        |version: &str| format!("nothing is saved of {version}, which a selector names and the cluster does not serve");
    selectors.unserved(|version| served.contains(version)).into_iter().map(told).collect()
}

/// What is named of one type.
#[derive(Default)]
struct Named<'k> {
    /// At which it is named.
    versions: BTreeSet<&'k Resource>,
    places: HashSet<Place>,
}

/// A type once, at the version that the backup of the named objects has, else at the first that is preferred and selected.
fn wishes(catalog: &Catalog, choice: &Choice) -> Vec<Wish> {
    let mut named: HashMap<(&str, &str), Named<'_>> = HashMap::new();
    for key in &choice.named {
        let of = named.entry((&key.resource.group, &key.resource.plural)).or_default();
        of.versions.insert(&key.resource);
        of.places.insert((key.namespace.as_deref().unwrap_or_default().to_owned(), key.name.to_string()));
    }
    let mut wishes: BTreeMap<(String, String), Wish> = BTreeMap::new();
    for found in &catalog.resources {
        let ApiResource { resource, kind, .. } = found;
        let of = named.get(&(resource.group.as_str(), resource.plural.as_str()));
        let queries = choice.selectors.wants_resource(&resource.api_version(), kind, &resource.plural);
        if of.is_none() && queries.is_empty() || !(found.can("list") || found.can("get")) {
            continue;
        }
        let key = (resource.group.clone(), resource.plural.clone());
        let wish = wishes.entry(key).or_insert_with(|| Wish {
            resource: Arc::clone(resource),
            kind: kind.clone(),
            listable: found.can("list"),
            queries: Vec::new(),
            named: of.map(|of| of.places.clone()).unwrap_or_default(),
        });
        // A type that is named by no backup is there at the first version that a selector wants.
        let is_better = of
            .is_some_and(|of| of.versions.contains(resource.as_ref()) && !of.versions.contains(wish.resource.as_ref()));
        if is_better {
            wish.resource = Arc::clone(resource);
            wish.kind.clone_from(kind);
            wish.listable = found.can("list");
        }
        wish.queries.extend(queries);
    }
    wishes.into_values().collect()
}

struct Taken {
    found: Vec<Entry>,
    /// The type, when it could not be listed at the state that was asked for.
    other_state: Option<String>,
}

struct List<'a> {
    reader: &'a ClusterReader,
    wish: Wish,
    selectors: &'a Selectors,
    state: &'a str,
    stage: &'a Stage,
}

impl List<'_> {
    /// Objects that nobody converts can be read at the version at which all are stored. What a backup names is taken at its own.
    async fn take(mut self) -> Result<Taken, CollectError> {
        let unread = match self.taken().await {
            Err(error) if self.wish.named.is_empty() && is_unconverted(&error) => error,
            taken => return taken,
        };
        match self.reader.as_stored(&self.wish.resource).await? {
            Some(stored) => {
                self.wish.resource = Arc::new(stored);
                self.taken().await
            }
            None => Err(unread),
        }
    }

    async fn taken(&self) -> Result<Taken, CollectError> {
        let nothing = Taken { found: Vec::new(), other_state: None };
        if !self.wish.listable {
            return Ok(Taken { found: self.one_by_one().await?, ..nothing });
        }
        let (found, other_state) = match self.listed(Some(self.state)).await {
            Err(Failed::List(ClusterError::Api { failure, .. })) if failure.kind != FailureKind::Forbidden => {
                (self.listed(None).await, Some(self.wish.resource.to_string()))
            }
            listed => (listed, None),
        };
        match found {
            Ok(found) => Ok(Taken { other_state: other_state.filter(|_| !found.is_empty()), found }),
            // A type that went away meanwhile has no objects.
            Err(Failed::List(ClusterError::NotServed { .. })) => Ok(nothing),
            Err(Failed::List(error)) => Err(told(error, &self.wish.resource)),
            Err(Failed::Stage(error)) => Err(error.into()),
        }
    }

    /// All that is chosen of the type, at one state or at the newest.
    async fn listed(&self, state: Option<&str>) -> Result<Vec<Entry>, Failed> {
        let at = ListOptions {
            resource_version: state.unwrap_or_default(),
            exactly: state.is_some(),
            ..ListOptions::default()
        };
        let mut by_fields: HashMap<usize, HashSet<Place>> = HashMap::new();
        for query in self.wish.queries.iter().filter(|query| query.needs_own_list) {
            by_fields.insert(query.index, self.names_selected(query, at).await?);
        }
        let mut broken = None;
        let listed = self
            .reader
            .list(&self.wish.resource, at, |raw: &RawValue| {
                if broken.is_some() {
                    return Ok(None);
                }
                let object = unmanaged::parse(raw.get())?;
                if !self.is_chosen(&object, &by_fields) {
                    return Ok(None);
                }
                match self.staged(object) {
                    Ok(entry) => Ok(entry),
                    Err(error) => {
                        broken = Some(error);
                        Ok(None)
                    }
                }
            })
            .await?;
        match broken {
            None => Ok(listed.items),
            Some(error) => Err(Failed::Stage(error)),
        }
    }

    /// Objects that only the API server can select (by fields).
    async fn names_selected(&self, query: &SelectorQuery, at: ListOptions<'_>) -> Result<HashSet<Place>, ClusterError> {
        let options = ListOptions {
            metadata_only: true,
            label_selector: query.label_selector.as_deref().unwrap_or_default(),
            field_selector: query.field_selector.as_deref().unwrap_or_default(),
            ..at
        };
        let place = |raw: &RawValue| Ok(Some(place(&serde_json::from_str(raw.get())?)));
        Ok(self.reader.list(&self.wish.resource, options, place).await?.items.into_iter().collect())
    }

    fn is_chosen(&self, object: &Value, by_fields: &HashMap<usize, HashSet<Place>>) -> bool {
        let place = place(object);
        if self.wish.named.contains(&place) {
            return true;
        }
        let namespace = Some(place.0.as_str()).filter(|namespace| !namespace.is_empty());
        let labels = object.pointer("/metadata/labels");
        let label = |label: &str| labels.and_then(|labels| labels.get(label)).and_then(Value::as_str);
        self.wish.queries.iter().any(|query| {
            by_fields.get(&query.index).is_none_or(|names| names.contains(&place))
                && self.selectors.matches(query.index, namespace, &place.1, label)
        })
    }

    /// The object as an entry; `None` for one that a backup leaves out.
    fn staged(&self, mut object: Value) -> Result<Option<Entry>, StoreError> {
        let Wish { resource, kind, .. } = &self.wish;
        // What a run did to it does not outlive the run.
        silence::reveal(resource, &mut object);
        // Items of built-in types carry neither.
        if let Some(fields) = object.as_object_mut() {
            fields.insert("apiVersion".to_owned(), resource.api_version().into());
            fields.insert("kind".to_owned(), kind.as_str().into());
        }
        let (namespace, name) = place(&object);
        if name.is_empty() || !backup::saved(&mut object) {
            return Ok(None);
        }
        let key = ObjectKey::new(resource, Some(namespace.as_str()).filter(|namespace| !namespace.is_empty()), &name);
        let content = backup::content(&object).map_err(|source| StoreError::Unread { source })?;
        self.stage.add(key, &content).map(Some)
    }

    /// What is named of a type that can be read and not listed. One that is not there is not saved.
    async fn one_by_one(&self) -> Result<Vec<Entry>, CollectError> {
        let resource = &self.wish.resource;
        let named = self.wish.queries.iter().flat_map(|query| self.selectors.by_name(query.index));
        let named = named.map(|(namespace, name)| (namespace.unwrap_or_default().to_owned(), name.to_owned()));
        let places: BTreeSet<Place> = named.chain(self.wish.named.iter().cloned()).collect();
        let mut found = Vec::new();
        for (namespace, name) in places {
            let namespace = Some(namespace.as_str()).filter(|namespace| !namespace.is_empty());
            let answer = self.reader.get(&Target::new(resource, namespace, &name)).await;
            let answer = answer.map_err(|error| told(error, resource))?;
            if let Some(object) = answer.and_then(|answer| answer.value().ok()) {
                found.extend(self.staged(object)?);
            }
        }
        Ok(found)
    }
}

fn is_unconverted(error: &CollectError) -> bool {
    let CollectError::Cluster(ClusterError::Api { failure, .. }) = error else { return false };
    failure.kind == FailureKind::WebhookUnavailable
}

/// Whether a list failed or the disk did.
enum Failed {
    List(ClusterError),
    Stage(StoreError),
}

impl From<ClusterError> for Failed {
    fn from(error: ClusterError) -> Self {
        Self::List(error)
    }
}

fn place(object: &Value) -> Place {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    (text("namespace"), text("name"))
}

fn told(error: ClusterError, resource: &Resource) -> CollectError {
    match error {
        ClusterError::Api { failure, .. } if failure.kind == FailureKind::Forbidden => {
            CollectError::Forbidden(resource.group_resource())
        }
        other => CollectError::Cluster(other),
    }
}
