//! A cluster of Rancher's shape: filled from a backup as rancher-backup's operator would fill it.
//!
//! - [`seed`] writes every object of a plain backup and starts Rancher, [`seed_objects`] the objects alone.
//! - [`disturb`] changes, deletes and adds objects, the same ones for the same seed.
//! - [`differences`] says in what a cluster differs from a backup: what a restore has to bring to nothing.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use http::Method;
use kube::Client;
use serde::Deserialize;
use serde_json::{Value, json};

mod archive;
mod compare;
mod disturb;

pub use archive::{Item, Place, read};
pub use compare::differences;
pub use disturb::{Disturbance, Disturbed, disturb};

/// Requests at a time: past the knee of an API server on 2 cores, which lies near 16.
const IN_FLIGHT: usize = 32;

/// Until a definition is served, and until Rancher's pods are Ready.
const READY_TIMEOUT: Duration = Duration::from_secs(120);

/// Fills an empty cluster with a plain backup, then starts Rancher at 3 replicas and waits until they are Ready. Gives the
/// number of the backup's objects.
pub async fn seed(client: &Client, backup: &Path) -> Result<usize> {
    let count = seed_objects(client, &read(backup)?).await?;
    start_rancher(client).await?;
    Ok(count)
}

/// Writes every object: definitions, namespaces, cluster-scoped and namespaced objects, owners before what they own, with
/// owner references to the live owners and the statuses of custom resources.
pub async fn seed_objects(client: &Client, items: &[Item]) -> Result<usize> {
    let seeding = Seeding { client, uids: Mutex::default(), with_status: with_status(items) };
    for ((stage, _), wave) in waves(items) {
        stream::iter(wave.iter().copied())
            .map(|item| seeding.write(item))
            .buffer_unordered(IN_FLIGHT)
            .try_collect::<()>()
            .await?;
        if stage == Stage::Definitions {
            for item in wave {
                served(client, item).await?;
            }
        }
    }
    Ok(items.len())
}

/// Makes the Deployment cattle-system/rancher, which a backup does not hold, and waits for its 3 pods.
pub async fn start_rancher(client: &Client) -> Result<()> {
    let place = Place::new(("apps", "v1", "deployments"), Some("cattle-system"), "rancher");
    let labels = json!({"app": "rancher"});
    let container = json!({"name": "rancher", "image": "rancher/rancher:v2.9.3", "imagePullPolicy": "IfNotPresent"});
    let deployment = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": place.name, "namespace": "cattle-system", "labels": labels},
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    });
    create_or_replace(client, &place, deployment).await?;
    let start = Instant::now();
    loop {
        let live = get(client, &place).await?.context("the Deployment of Rancher is gone")?;
        if live["status"]["readyReplicas"] == 3 {
            return Ok(());
        }
        ensure!(start.elapsed() < READY_TIMEOUT, "Rancher is not Ready after {READY_TIMEOUT:?}: {}", live["status"]);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Rancher at its 3 replicas in a cluster that holds nothing else of a backup.
pub async fn start_alone(client: &Client) -> Result<()> {
    let place = Place::new(("", "v1", "namespaces"), None, "cattle-system");
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": place.name}});
    create_or_replace(client, &place, namespace).await?;
    start_rancher(client).await
}

/// Copies a backup into `folder` under a name that says it is of the cluster with this uid, and gives the name.
pub fn backup_as_own(uid: &str, backup: &Path, folder: &Path) -> Result<String> {
    let name = backup.file_name().and_then(|name| name.to_str()).context("the backup has no name")?;
    let (prefix, _) = name.split_once('-').with_context(|| format!("{name} has no prefix"))?;
    let (_, suffix) = name.split_once(".tar.gz").with_context(|| format!("{name} is no backup"))?;
    let own = format!("{prefix}-{uid}-2026-11-23T05-58-54Z.tar.gz{suffix}");
    std::fs::copy(backup, folder.join(&own))?;
    Ok(own)
}

/// The live object, if there is one.
pub async fn get(client: &Client, place: &Place) -> Result<Option<Value>> {
    match client.request(http::Request::get(place.url()).body(Vec::new())?).await {
        Ok(object) => Ok(Some(object)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(error).with_context(|| place.to_string()),
    }
}

/// In which order objects are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Definitions,
    Namespaces,
    ClusterScoped,
    Namespaced,
}

/// Group, kind, namespace and name: how an owner reference finds its owner.
type OwnerKey = (String, String, Option<String>, String);

/// What a write answers, as far as it is used.
#[derive(Debug, Deserialize)]
struct Written {
    metadata: WrittenMetadata,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenMetadata {
    uid: String,
    resource_version: String,
}

struct Seeding<'a> {
    client: &'a Client,
    uids: Mutex<HashMap<OwnerKey, String>>,
    /// Plural, group and version of the custom resources whose status is a subresource.
    with_status: HashSet<(String, String, String)>,
}

impl Seeding<'_> {
    async fn write(&self, item: &Item) -> Result<()> {
        let Item { place, object } = item;
        let mut object = object.clone();
        self.remap_owners(place, &mut object);
        if place.is("", "serviceaccounts")
            && let Some(account) = object.as_object_mut()
        {
            account.remove("secrets");
        }
        let status = object.get("status").cloned();
        let written = create_or_replace(self.client, place, object.clone()).await?;
        let resource = (place.plural.clone(), place.group.clone(), place.version.clone());
        if status.is_some() && self.with_status.contains(&resource) {
            object["metadata"]["resourceVersion"] = json!(written.metadata.resource_version);
            let url = format!("{}/status", place.url());
            send(self.client, Method::PUT, &url, &object).await.with_context(|| format!("status of {place}"))?;
        }
        self.uids.lock().expect("no test panics here").insert(key_of(item), written.metadata.uid);
        Ok(())
    }

    /// Gives owner references the uids of the live owners; one whose owner was not written goes.
    fn remap_owners(&self, place: &Place, object: &mut Value) {
        let Some(references) = object["metadata"]["ownerReferences"].as_array_mut() else { return };
        let uids = self.uids.lock().expect("no test panics here");
        references.retain_mut(|reference| {
            let uid = owner_keys(place, reference).into_iter().find_map(|key| uids.get(&key));
            uid.is_some_and(|uid| {
                reference["uid"] = json!(uid);
                true
            })
        });
    }
}

/// The object's own key.
fn key_of(Item { place, object }: &Item) -> OwnerKey {
    (place.group.clone(), text(&object["kind"]), place.namespace.clone(), place.name.clone())
}

/// The keys under which the owner may be found: in the dependent's namespace, or without one.
fn owner_keys(dependent: &Place, reference: &Value) -> Vec<OwnerKey> {
    let api_version = text(&reference["apiVersion"]);
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    let key = |namespace| (group.to_owned(), text(&reference["kind"]), namespace, text(&reference["name"]));
    dependent.namespace.clone().map(|namespace| key(Some(namespace))).into_iter().chain([key(None)]).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The objects by stage and by the length of their chain of owners.
fn waves(items: &[Item]) -> BTreeMap<(Stage, usize), Vec<&Item>> {
    let by_key: HashMap<OwnerKey, &Item> = items.iter().map(|item| (key_of(item), item)).collect();
    let mut waves = BTreeMap::<_, Vec<&Item>>::new();
    for item in items {
        let stage = match &item.place {
            place if place.is_crd() => Stage::Definitions,
            place if place.is_namespace() => Stage::Namespaces,
            place if place.namespace.is_none() => Stage::ClusterScoped,
            _ => Stage::Namespaced,
        };
        waves.entry((stage, depth(item, &by_key, 0))).or_default().push(item);
    }
    waves
}

fn depth(item: &Item, by_key: &HashMap<OwnerKey, &Item>, below: usize) -> usize {
    assert!(below < 100, "{} owns itself", item.place);
    let references = item.object["metadata"]["ownerReferences"].as_array().map(Vec::as_slice).unwrap_or_default();
    let owners = references.iter().flat_map(|reference| owner_keys(&item.place, reference));
    let owners = owners.filter_map(|key| by_key.get(&key));
    owners.map(|owner| 1 + depth(owner, by_key, below + 1)).max().unwrap_or(0)
}

fn with_status(items: &[Item]) -> HashSet<(String, String, String)> {
    let mut found = HashSet::new();
    for Item { object, .. } in items.iter().filter(|item| item.place.is_crd()) {
        let (plural, group) = (text(&object["spec"]["names"]["plural"]), text(&object["spec"]["group"]));
        for version in object["spec"]["versions"].as_array().into_iter().flatten() {
            if version["subresources"]["status"].is_object() {
                found.insert((plural.clone(), group.clone(), text(&version["name"])));
            }
        }
    }
    found
}

/// Waits until a definition's resource can be listed: `Established` comes a moment before.
async fn served(client: &Client, Item { place, object }: &Item) -> Result<()> {
    let (group, plural) = (text(&object["spec"]["group"]), text(&object["spec"]["names"]["plural"]));
    let versions = object["spec"]["versions"].as_array().into_iter().flatten();
    let start = Instant::now();
    for version in versions.filter(|version| version["served"] == true) {
        let url = format!("/apis/{group}/{}/{plural}?limit=1", text(&version["name"]));
        while let Err(error) = client.request_text(http::Request::get(&url).body(Vec::new())?).await {
            ensure!(start.elapsed() < READY_TIMEOUT, "{place} is not served: {error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(())
}

/// Creates an object, or replaces the one that a controller was faster to make.
async fn create_or_replace(client: &Client, place: &Place, mut object: Value) -> Result<Written> {
    for _ in 0..10 {
        let refused = match send(client, Method::POST, &place.collection(), &object).await {
            Ok(written) => return Ok(written),
            Err(error) => error,
        };
        ensure!(is_conflict(&refused), "cannot create {place}: {refused}");
        let Some(live) = get(client, place).await? else { continue };
        object["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"].clone();
        match send(client, Method::PUT, &place.url(), &object).await {
            Ok(written) => return Ok(written),
            Err(error) => ensure!(is_conflict(&error), "cannot replace {place}: {error}"),
        }
        object["metadata"].as_object_mut().context("an object has metadata")?.remove("resourceVersion");
    }
    bail!("{place} changes all the time")
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

async fn send(client: &Client, method: Method, url: &str, body: &Value) -> kube::Result<Written> {
    let content_type = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
    let body = serde_json::to_vec(body).map_err(kube::Error::SerdeError)?;
    let request = http::Request::builder().method(method).uri(url).header("content-type", content_type).body(body);
    client.request(request.map_err(kube::Error::HttpError)?).await
}
