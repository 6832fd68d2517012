//! The lists that a backup and its selectors ask for, one for each resource type.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use futures::stream::{self, StreamExt};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::task::JoinSet;

use super::backup::Names;
use super::{ObserveError, is_forbidden, is_unconverted, to_list, visible};
use crate::backup::{SelectorQuery, Selectors};
use crate::cluster::{ApiResource, Catalog, ClusterError, ClusterReader, ListOptions};
use crate::object::binding::Identity;
use crate::object::owner::{WantedOwners, group_of};
use crate::object::protect::goes_by_content;
use crate::object::{self, Interner, ObjectKey, Resource, Summary, unmanaged};
use crate::observed::{
    Access, Backup, BackupObject, BackupSeen, Dependent, Live, LiveObject, Served, ServedType, Unserved,
};
use crate::plan::diff::wanted;
use crate::webhook::{ConversionWebhook, silence};

/// Lists under way at once; more gain nothing, since the API server's CPU is the limit.
const IN_FLIGHT: usize = 4;

/// What the list of all CRDs says.
#[derive(Debug, Default)]
pub struct Crds {
    objects: Vec<LiveObject>,
    /// Group and plural of every type that a CRD defines.
    pub types: HashSet<(String, String)>,
    /// Who converts the objects of definitions.
    pub conversion: Vec<ConversionWebhook>,
}

fn crd_resource() -> Arc<Resource> {
    Arc::new(Resource::new("apiextensions.k8s.io", "v1", "customresourcedefinitions"))
}

/// Lists every CRD: which types are custom is asked of them all.
pub async fn crds(reader: &ClusterReader) -> Result<Crds, ObserveError> {
    let resource = crd_resource();
    let mut interner = Interner::default();
    let mut conversion = Vec::new();
    let listed = reader
        .list(&resource, ListOptions::default(), |raw| {
            let mut value = unmanaged::parse(raw.get())?;
            silence::reveal(&resource, &mut value);
            conversion.extend(value.as_object().and_then(ConversionWebhook::read));
            Ok(live_object(&resource, value, &mut interner, "CustomResourceDefinition"))
        })
        .await;
    let objects = visible(listed.map(|listed| listed.items))?;
    let types = objects.iter().filter_map(|object| object.summary.particulars().crd.as_deref());
    let types = types.map(|crd| (crd.group.clone(), crd.plural.clone())).collect();
    Ok(Crds { objects, types, conversion })
}

/// Discovery in the words of a plan.
pub fn served(catalog: &Catalog, custom: &HashSet<(String, String)>) -> Served {
    let types = catalog.resources.iter().map(|found| {
        let Resource { group, version: _, plural } = found.resource.as_ref();
        let kind = ServedType {
            kind: Arc::from(found.kind.as_str()),
            namespaced: found.namespaced,
            listable: found.can("list"),
            status: found.has_status,
            custom: custom.contains(&(group.clone(), plural.clone())),
        };
        (found.resource.as_ref().clone(), kind)
    });
    Served { types: types.collect(), failing: catalog.failing.iter().map(ToString::to_string).collect() }
}

/// What selectors of the backup ask for at a group and version at which nobody serves it.
pub fn unserved_selectors(backup: &Backup, catalog: &Catalog) -> Vec<Unserved> {
    let Some(selectors) = &backup.selectors else { return Vec::new() };
    let all = || catalog.resources.iter().map(|found| (found, found.resource.api_version()));
    let served: BTreeSet<String> = all().map(|(_, version)| version).collect();
    let is_named = |found: &ApiResource, kind: &str| found.kind == kind || found.resource.plural == kind;
    let whole = selectors.unserved(|version| served.contains(version)).into_iter().map(|version| {
        let group = group_of(version);
        let elsewhere: BTreeSet<String> =
            all().filter(|(found, _)| found.resource.group == group).map(|(_, version)| version).collect();
        Unserved { what: version.to_owned(), elsewhere: elsewhere.into_iter().collect() }
    });
    // A version may be served with some of its types moved on.
    let kinds = selectors.listed_kinds().into_iter().filter(|(version, _)| served.contains(*version));
    let moved = kinds.filter_map(|(version, kind)| {
        let named = || all().filter(|(found, _)| found.resource.group == group_of(version) && is_named(found, kind));
        let elsewhere: BTreeSet<String> = named().map(|(_, version)| version).collect();
        (!elsewhere.is_empty() && !elsewhere.contains(version))
            .then(|| Unserved { what: format!("{kind} of {version}"), elsewhere: elsewhere.into_iter().collect() })
    });
    let unserved: BTreeSet<Unserved> = whole.chain(moved).collect();
    unserved.into_iter().collect()
}

/// Types that are selected or in the backup, and that the API server gives by name but not as a list.
pub fn unlistable(backup: &Backup, catalog: &Catalog) -> Vec<String> {
    let in_backup: HashSet<&Resource> = backup.objects.iter().map(|object| object.key.resource.as_ref()).collect();
    let listed: HashSet<String> = catalog
        .resources
        .iter()
        .filter(|found| found.can("list"))
        .map(|found| found.resource.group_resource())
        .collect();
    let found = catalog.resources.iter().filter(|found| found.can("get"));
    let wanted = found
        .filter(|found| {
            in_backup.contains(found.resource.as_ref())
                || !selector_queries(backup.selectors.as_ref(), found).is_empty()
        })
        .map(|found| found.resource.group_resource())
        .filter(|name| !listed.contains(name));
    wanted.collect::<BTreeSet<String>>().into_iter().collect()
}

/// One list: a type, and what its objects are wanted for.
struct Wish {
    resource: Arc<Resource>,
    kind: String,
    /// How many objects of the type the backup has; where there are any, content is compared.
    compared: usize,
    selectors: Vec<SelectorQuery>,
}

/// What decides whether a listed object is kept.
struct Keep {
    /// In the order of the archive; empty where the backup was read before.
    names: Arc<[ObjectKey]>,
    /// Places of the backup's objects, in the order of their keys.
    by_key: Vec<u32>,
    selectors: Option<Selectors>,
    identity: Identity,
    /// Known once the backup is read.
    backup: OnceLock<Indexed>,
}

struct Indexed {
    /// Of the backup, whose they are again once all lists are made.
    objects: Vec<BackupObject>,
    owners: WantedOwners,
}

impl Indexed {
    fn of(backup: &mut Backup) -> Self {
        let owners = wanted(backup);
        Self { objects: std::mem::take(&mut backup.objects), owners }
    }
}

/// What a backup asks for, before or after it was read.
pub enum Asking<R> {
    /// Its names; the rest comes meanwhile.
    Names(Names, R),
    Whole(Box<Backup>),
}

/// Why a look at backup and cluster ends before its time.
pub enum Ended {
    Failed(ObserveError),
    /// The backup is not whole, so that its lists are for nothing.
    NotWhole(BackupSeen),
}

impl From<ObserveError> for Ended {
    fn from(error: ObserveError) -> Self {
        Self::Failed(error)
    }
}

/// What was listed and does not matter by itself, so that nothing is listed twice for what deletions take along.
#[derive(Debug, Default)]
pub struct Bystanders {
    pub objects: Vec<Dependent>,
    /// Group and plural of every type that was listed.
    pub types: HashSet<(String, String)>,
    /// Objects that a selector matches and the backup does not have: what prune may delete.
    pub surplus: Vec<ObjectKey>,
}

impl Keep {
    fn new(names: Arc<[ObjectKey]>, selectors: Option<Selectors>, identity: Identity, backup: Option<Indexed>) -> Self {
        let backup = backup.map(OnceLock::from).unwrap_or_default();
        let count = backup.get().map_or(names.len(), |backup| backup.objects.len());
        let mut keep = Self { names, by_key: Vec::new(), selectors, identity, backup };
        let mut by_key: Vec<u32> = (0..).take(count).collect();
        by_key.sort_unstable_by(|a, b| keep.key(*a).cmp(&keep.key(*b)));
        keep.by_key = by_key;
        keep
    }

    /// The key at this place of the backup.
    fn key(&self, place: u32) -> Option<&ObjectKey> {
        let place = place as usize;
        match self.backup.get() {
            Some(backup) => backup.objects.get(place).map(|object| &object.key),
            None => self.names.get(place),
        }
    }

    fn keys(&self) -> impl Iterator<Item = &ObjectKey> {
        (0..).map_while(|place| self.key(place))
    }

    /// The place of an object in the backup.
    fn place(&self, key: &ObjectKey) -> Option<u32> {
        let found = self.by_key.binary_search_by(|place| self.key(*place).cmp(&Some(key))).ok()?;
        Some(self.by_key[found])
    }

    /// What a listed object is wanted for.
    fn judge(&self, mut object: LiveObject) -> Matter {
        let place = self.place(&object.key);
        if let Some(key) = place.and_then(|place| self.key(place)) {
            // What both say alike is kept once: there may be 100,000.
            object.key.clone_from(key);
        }
        match self.backup.get() {
            Some(backup) => self.judge_beside(object, place, backup),
            None => Matter::Early(object, place),
        }
    }

    fn judge_beside(&self, mut object: LiveObject, place: Option<u32>, backup: &Indexed) -> Matter {
        let in_backup = place.and_then(|place| backup.objects.get(place as usize));
        let matters = object.selected
            || in_backup.is_some()
            || backup.owners.contains(&object.key, &object.summary.kind)
            // Ours, whose roles are left as they are.
            || object.summary.particulars().binding.as_deref().is_some_and(|binding| binding.binds(&self.identity));
        if !matters {
            let LiveObject { key, summary, facts, selected: _ } = object;
            return Matter::Bystander(Dependent { key, uid: facts.uid, owners: owner_uids(&summary) });
        }
        if let Some(BackupObject { key: _, summary }) = in_backup {
            object.summary.share(summary);
        }
        Matter::Object { object, in_backup: in_backup.is_some() }
    }
}

/// What was listed so far.
#[derive(Default)]
struct Gathered {
    objects: Vec<LiveObject>,
    /// Listed before the backup was read, each with its place in it.
    early: Vec<(LiveObject, Option<u32>)>,
    bystanders: Bystanders,
    denied: Vec<Access>,
    unlisted: Vec<(Resource, String)>,
    unconverted: BTreeSet<Resource>,
    /// Group and plural of every type that a list was tried of.
    tried: HashSet<(String, String)>,
    /// The list of all definitions, which was made before.
    crds: Option<Vec<LiveObject>>,
}

impl Gathered {
    /// A list of the type was tried.
    fn has(&self, resource: &Resource) -> bool {
        let Resource { group, version: _, plural } = resource;
        self.tried.contains(&(group.clone(), plural.clone()))
    }

    /// Makes lists, a few at once.
    async fn list(&mut self, reader: &ClusterReader, mut wishes: Vec<Wish>, keep: &Arc<Keep>) -> Result<(), Ended> {
        // The longest list first: pages of one list come one after the other, and at the end nothing would run beside it.
        wishes.sort_by_key(|wish| std::cmp::Reverse(wish.compared));
        let wishes = wishes.into_iter().map(|wish| {
            let crds = wish.resource.is_crd().then(|| self.crds.take()).flatten();
            self.tried.insert((wish.resource.group.clone(), wish.resource.plural.clone()));
            (wish, crds)
        });
        let wishes: Vec<(Wish, Option<Vec<LiveObject>>)> = wishes.collect();
        let mut lists = stream::iter(wishes.into_iter().map(|(wish, crds)| {
            let (reader, keep) = (reader.clone(), Arc::clone(keep));
            async move { spawned(reader, wish, keep, crds).await }
        }))
        .buffer_unordered(IN_FLIGHT);
        while let Some(outcome) = lists.next().await {
            match outcome? {
                Outcome::Listed(resource, found) => {
                    self.bystanders.types.insert((resource.group.clone(), resource.plural.clone()));
                    found.into_iter().for_each(|matter| self.add(matter));
                }
                Outcome::Refused(resource, message) => self.unlisted.push((resource, message)),
                Outcome::Unconverted(resource) => drop(self.unconverted.insert(resource)),
                Outcome::Denied(access) => self.denied.push(access),
            }
        }
        Ok(())
    }

    fn add(&mut self, matter: Matter) {
        match matter {
            Matter::Object { object, in_backup } => {
                if object.selected && !in_backup {
                    self.bystanders.surplus.push(object.key.clone());
                }
                self.objects.push(object);
            }
            Matter::Bystander(dependent) => self.bystanders.objects.push(dependent),
            Matter::Early(object, place) => self.early.push((object, place)),
        }
    }

    /// Judges what was listed before the backup was read.
    fn settle(&mut self, keep: &Keep) {
        let Some(backup) = keep.backup.get() else { return };
        for (object, place) in std::mem::take(&mut self.early) {
            let matter = keep.judge_beside(object, place, backup);
            self.add(matter);
        }
    }
}

/// Lists what the backup and its selectors ask for and keeps what matters of it; beside it, lists that we may not make, and the
/// rest of what was listed.
pub async fn live(
    reader: &ClusterReader,
    catalog: &Catalog,
    asking: Asking<impl Future<Output = Result<Box<Backup>, Ended>>>,
    crds: Crds,
    identity: &Identity,
) -> Result<(Box<Backup>, Live, Vec<Access>, Bystanders), Ended> {
    let served = served(catalog, &crds.types);
    let mut gathered = Gathered { crds: Some(crds.objects), ..Gathered::default() };
    let identity = identity.clone();
    let (keep, mut backup) = match asking {
        Asking::Whole(mut backup) => {
            let (selectors, indexed) = (backup.selectors.clone(), Indexed::of(&mut backup));
            let keep = Arc::new(Keep::new(Arc::default(), selectors, identity, Some(indexed)));
            (keep, backup)
        }
        Asking::Names(names, read) => {
            let Names { keys, selectors, controllers: _ } = names;
            let keep = Arc::new(Keep::new(keys, selectors, identity, None));
            let wishes = wishes(catalog, &keep);
            let read = async {
                let mut backup = read.await?;
                let _is_new = keep.backup.set(Indexed::of(&mut backup));
                Ok(backup)
            };
            let ((), backup) = tokio::try_join!(gathered.list(reader, wishes, &keep), read)?;
            (keep, backup)
        }
    };
    gathered.settle(&keep);
    // All, or those that only owners are asked of.
    let mut wishes = wishes(catalog, &keep);
    wishes.retain(|wish| !gathered.has(&wish.resource));
    gathered.list(reader, wishes, &keep).await?;
    let Gathered { mut objects, bystanders, denied, mut unlisted, unconverted, .. } = gathered;
    // Every list has ended, and nobody else has it.
    let keep = Arc::into_inner(keep).and_then(|keep| keep.backup.into_inner());
    backup.objects = keep.ok_or(ObserveError::Interrupted)?.objects;
    objects.shrink_to_fit();
    unlisted.sort();
    let mut live = Live::new(objects, served);
    live.unlisted = unlisted;
    live.unconverted = unconverted;
    Ok((backup, live, denied, bystanders))
}

/// Which lists are made. A type is listed once, at the version of the backup where that is served.
fn wishes(catalog: &Catalog, keep: &Keep) -> Vec<Wish> {
    let in_backup = types(keep.keys());
    let owners = keep.backup.get().map(|backup| &backup.owners);
    let owner_kinds: HashSet<(&str, &str)> =
        owners.into_iter().flat_map(WantedOwners::iter).map(|id| (id.group.as_ref(), id.kind.as_ref())).collect();
    let mut wishes: BTreeMap<(String, String), Wish> = BTreeMap::new();
    for found in catalog.resources.iter().filter(|found| found.can("list")) {
        let resource = found.resource.as_ref();
        let compared = in_backup.get(resource);
        let selectors = selector_queries(keep.selectors.as_ref(), found);
        let owns = owner_kinds.contains(&(resource.group.as_str(), found.kind.as_str()));
        if compared.is_none() && selectors.is_empty() && !owns {
            continue;
        }
        let key = (resource.group.clone(), resource.plural.clone());
        let wish = wishes.entry(key).or_insert_with(|| Wish {
            resource: Arc::clone(&found.resource),
            kind: found.kind.clone(),
            compared: 0,
            selectors: Vec::new(),
        });
        if let Some((shared, count)) = compared {
            wish.resource = Arc::clone(shared);
            wish.compared = *count;
        }
        wish.selectors.extend(selectors);
    }
    wishes.into_values().collect()
}

/// The types of the backup's objects, each as all objects of it share it, and how many they are.
fn types<'k>(keys: impl Iterator<Item = &'k ObjectKey>) -> HashMap<&'k Resource, (Arc<Resource>, usize)> {
    let mut types: HashMap<&Resource, (Arc<Resource>, usize)> = HashMap::new();
    for ObjectKey { resource, .. } in keys {
        types.entry(resource.as_ref()).or_insert_with(|| (Arc::clone(resource), 0)).1 += 1;
    }
    types
}

fn selector_queries(selectors: Option<&Selectors>, found: &ApiResource) -> Vec<SelectorQuery> {
    let resource = found.resource.as_ref();
    let queries = |all: &Selectors| all.wants_resource(&resource.api_version(), &found.kind, &resource.plural);
    selectors.map(queries).unwrap_or_default()
}

/// A listed object, as far as it is kept.
enum Matter {
    Object {
        object: LiveObject,
        in_backup: bool,
    },
    Bystander(Dependent),
    /// Not known yet, for the backup is still being read.
    Early(LiveObject, Option<u32>),
}

enum Outcome {
    Listed(Arc<Resource>, Vec<Matter>),
    Refused(Resource, String),
    /// The webhook that converts its objects does not answer.
    Unconverted(Resource),
    Denied(Access),
}

/// On a task of its own, so that several lists are taken apart on several cores; one that nobody waits for any more ends.
async fn spawned(
    reader: ClusterReader,
    wish: Wish,
    keep: Arc<Keep>,
    crds: Option<Vec<LiveObject>>,
) -> Result<Outcome, ObserveError> {
    let mut task = JoinSet::new();
    task.spawn(async move {
        let outcome = outcome(&wish, list_one(&reader, &wish, &keep, crds).await)?;
        // At another version than the backup's objects of it cannot be compared; names are the same at each.
        match outcome {
            Outcome::Unconverted(_) if wish.compared == 0 => match reader.as_stored(&wish.resource).await? {
                Some(stored) => {
                    let wish = Wish { resource: Arc::new(stored), ..wish };
                    self::outcome(&wish, list_one(&reader, &wish, &keep, None).await)
                }
                None => Ok(outcome),
            },
            outcome => Ok(outcome),
        }
    });
    task.join_next().await.and_then(Result::ok).ok_or(ObserveError::Interrupted)?
}

fn outcome(wish: &Wish, listed: Result<Vec<Matter>, ClusterError>) -> Result<Outcome, ObserveError> {
    match listed {
        Ok(found) => Ok(Outcome::Listed(Arc::clone(&wish.resource), found)),
        // A type that went away holds nothing; one that we may not list leaves the plan incomplete.
        Err(ClusterError::NotServed { .. }) => Ok(Outcome::Listed(Arc::clone(&wish.resource), Vec::new())),
        Err(error) if is_forbidden(&error) => Ok(Outcome::Denied(to_list(&wish.resource))),
        Err(error) if is_unconverted(&error) => Ok(Outcome::Unconverted(wish.resource.as_ref().clone())),
        Err(error @ ClusterError::Api { .. }) => {
            Ok(Outcome::Refused(wish.resource.as_ref().clone(), error.to_string()))
        }
        Err(error) => Err(ObserveError::from(error)),
    }
}

async fn list_one(
    reader: &ClusterReader,
    wish: &Wish,
    keep: &Keep,
    crds: Option<Vec<LiveObject>>,
) -> Result<Vec<Matter>, ClusterError> {
    let mut chosen: HashMap<usize, HashSet<(String, String)>> = HashMap::new();
    for query in wish.selectors.iter().filter(|query| query.needs_own_list) {
        chosen.insert(query.index, names_selected(reader, &wish.resource, query).await?);
    }
    if let Some(crds) = crds {
        // Labels were not kept of the list of all CRDs; a selector that asks for them needs them read once more.
        let labelled = wish.selectors.iter().any(|query| query.label_selector.is_some());
        if !labelled {
            return Ok(crds.into_iter().map(|object| kept(object, &Value::Null, wish, keep, &chosen)).collect());
        }
    }
    // What is only selected is deleted or not, which goes by names and labels for most types.
    let metadata_only = wish.compared == 0 && !goes_by_content(&wish.resource);
    let options = ListOptions { metadata_only, ..ListOptions::default() };
    let mut interner = Interner::default();
    let listed = reader
        .list(&wish.resource, options, |raw: &RawValue| {
            let value = unmanaged::parse(raw.get())?;
            let labels = value.pointer("/metadata/labels").cloned().unwrap_or(Value::Null);
            let object = live_object(&wish.resource, value, &mut interner, &wish.kind);
            Ok(object.map(|object| kept(object, &labels, wish, keep, &chosen)))
        })
        .await?;
    Ok(listed.items)
}

/// Objects that only the API server can select (by fields).
async fn names_selected(
    reader: &ClusterReader,
    resource: &Resource,
    query: &SelectorQuery,
) -> Result<HashSet<(String, String)>, ClusterError> {
    let options = ListOptions {
        metadata_only: true,
        label_selector: query.label_selector.as_deref().unwrap_or_default(),
        field_selector: query.field_selector.as_deref().unwrap_or_default(),
        ..ListOptions::default()
    };
    let listed = reader
        .list(resource, options, |raw| {
            let value: Value = serde_json::from_str(raw.get())?;
            let text = |field: &str| value["metadata"][field].as_str().unwrap_or_default().to_owned();
            Ok(Some((text("namespace"), text("name"))))
        })
        .await?;
    Ok(listed.items.into_iter().collect())
}

/// Makes of a listed item what is kept; `None` for one without the metadata that every Kubernetes sets.
fn live_object(resource: &Arc<Resource>, mut value: Value, interner: &mut Interner, kind: &str) -> Option<LiveObject> {
    let facts = object::live_facts(&value).ok()?;
    let metadata = value.get("metadata")?;
    let namespace = metadata.get("namespace").and_then(Value::as_str).map(|text| interner.text(text));
    let name = Arc::from(metadata.get("name")?.as_str()?);
    let key = ObjectKey { resource: Arc::clone(resource), namespace, name };
    value.as_object_mut()?.insert("kind".to_owned(), Value::from(kind));
    let summary = object::summarise(resource, value, interner).ok()?;
    Some(LiveObject { key, summary, facts, selected: false })
}

fn kept(
    mut object: LiveObject,
    labels: &Value,
    wish: &Wish,
    keep: &Keep,
    chosen: &HashMap<usize, HashSet<(String, String)>>,
) -> Matter {
    object.selected = is_selected(&object.key, labels, wish, keep, chosen);
    keep.judge(object)
}

pub fn owner_uids(summary: &Summary) -> Vec<Box<str>> {
    summary.owners.iter().map(|owner| Box::from(&*owner.uid)).collect()
}

fn is_selected(
    key: &ObjectKey,
    labels: &Value,
    wish: &Wish,
    keep: &Keep,
    chosen: &HashMap<usize, HashSet<(String, String)>>,
) -> bool {
    let Some(selectors) = &keep.selectors else { return false };
    let namespace = key.namespace.as_deref();
    wish.selectors.iter().any(|query| {
        let by_fields = chosen
            .get(&query.index)
            .is_none_or(|names| names.contains(&(namespace.unwrap_or_default().to_owned(), key.name.to_string())));
        by_fields
            && selectors.matches(query.index, namespace, &key.name, |label| labels.get(label).and_then(Value::as_str))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::clock::Clock;
    use crate::cluster::{Cluster, Limits};
    use crate::plan::testing::{World, key, object};

    const CLUSTERS: &str = "clusters.management.cattle.io#v3";

    fn listed(path: &str, selected: bool) -> LiveObject {
        let metadata = json!({"uid": path, "resourceVersion": "1", "creationTimestamp": "2026-11-01T00:00:00Z"});
        let value = object(path, json!({"metadata": metadata}));
        let listed = live_object(&key(path).resource, value, &mut Interner::default(), "Cluster");
        let object = listed.expect("it has metadata");
        LiveObject { selected, ..object }
    }

    fn names(gathered: &Gathered) -> [Vec<String>; 3] {
        let sorted = |names: Vec<String>| BTreeSet::from_iter(names).into_iter().collect::<Vec<String>>();
        let Gathered { objects, bystanders, .. } = gathered;
        [
            sorted(objects.iter().map(|object| object.key.name.to_string()).collect()),
            sorted(bystanders.objects.iter().map(|other| other.key.name.to_string()).collect()),
            sorted(bystanders.surplus.iter().map(|key| key.name.to_string()).collect()),
        ]
    }

    #[tokio::test]
    async fn a_list_that_nobody_waits_for_any_more_is_not_gone_on_with() {
        let (asked, mut requests) = tokio::sync::mpsc::unbounded_channel();
        let service = tower::service_fn(move |_: http::Request<kube::client::Body>| {
            // Dropped with the request.
            let (here, there) = tokio::sync::oneshot::channel::<()>();
            let _test_has_ended = asked.send(there);
            async move {
                let _here = here;
                std::future::pending::<Result<http::Response<kube::client::Body>, tower::BoxError>>().await
            }
        });
        let client = kube::Client::new(service, "default");
        let cluster = Cluster::over(client, "https://sim".to_owned(), Limits::default(), Clock::system());
        let keep = Keep::new(Arc::default(), None, Identity::default(), None);
        let wish = Wish {
            resource: Arc::clone(&key(&format!("{CLUSTERS}/a")).resource),
            kind: "Cluster".to_owned(),
            compared: 1,
            selectors: Vec::new(),
        };
        let mut listing = Box::pin(spawned(cluster.reader(), wish, Arc::new(keep), None));
        let request = tokio::select! {
            _ = &mut listing => panic!("nobody answers"),
            request = requests.recv() => request.expect("it is asked"),
        };
        drop(listing);
        let ended = tokio::time::timeout(std::time::Duration::from_secs(10), request).await;
        assert!(ended.expect("the request is given up").is_err());
    }

    #[test]
    fn what_is_listed_before_the_backup_is_read_is_judged_as_what_is_listed_after_it() {
        let path = |name: &str| format!("{CLUSTERS}/{name}");
        let mut world = World::quiet();
        world.serve(CLUSTERS, true, false);
        world.backed_up(&path("both"), json!({}));
        // Owned by one that the backup does not have.
        let owner = json!({"apiVersion": "management.cattle.io/v3", "kind": "Cluster", "name": "owner", "uid": "u"});
        world.backed_up(&path("owned"), json!({"metadata": {"ownerReferences": [owner]}}));
        let all = [("both", true), ("owned", false), ("owner", false), ("new", true), ("other", false)];
        let backup = || match world.observed().backup {
            BackupSeen::Whole(backup) => backup,
            other => panic!("{other:?}"),
        };
        let keys: Arc<[ObjectKey]> = backup().objects.iter().map(|object| object.key.clone()).collect();
        let seen = |read_after: usize| {
            let keep = Keep::new(Arc::clone(&keys), None, Identity::default(), None);
            let mut gathered = Gathered::default();
            for (place, (name, selected)) in all.into_iter().enumerate() {
                if place == read_after {
                    assert!(keep.backup.set(Indexed::of(&mut backup())).is_ok());
                }
                gathered.add(keep.judge(listed(&path(name), selected)));
            }
            let _read_before = keep.backup.set(Indexed::of(&mut backup()));
            gathered.settle(&keep);
            names(&gathered)
        };
        let at_once = seen(0);
        assert_eq!(at_once, [vec!["both", "new", "owned", "owner"], vec!["other"], vec!["new"]]);
        for read_after in 1..=all.len() {
            assert_eq!(seen(read_after), at_once, "read after {read_after} objects");
        }
    }
}
