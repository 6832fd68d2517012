//! The limit: what the same API server does in the same minute for a plain loop.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use http::Method;
use kube::Client;
use reinback::run::Counts;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::harness::rancher::{Disturbed, Item, Place};
use crate::world::World;

/// Objects that the plain loop writes at each level.
const SAMPLE: usize = 1_500;
const LEVELS: [usize; 2] = [16, 64];
/// Lists at once, and objects a page: past both nothing is gained.
const LISTS_AT_ONCE: usize = 4;
const PAGE: usize = 500;

/// How fast the API server is by itself.
#[derive(Debug, Clone)]
pub struct Limit {
    /// Every type of the backup listed once, in pages.
    pub lists: Duration,
    pub list_bytes: usize,
    pub rates: Vec<Rates>,
}

/// Writes a second of a plain loop over objects like those that are restored.
#[derive(Debug, Clone, Copy)]
pub struct Rates {
    pub in_flight: usize,
    pub creates: f64,
    pub replaces: f64,
    pub deletes: f64,
}

impl Limit {
    /// Writes copies of what was disturbed, or of all, under names of their own, and removes them.
    pub async fn measure(world: &World, disturbed: &Disturbed) -> Result<Self> {
        let began = Instant::now();
        let list_bytes = lists(world).await?;
        let lists = began.elapsed();
        let copies = Arc::new(copies(&world.items, disturbed));
        let mut rates = Vec::new();
        for in_flight in LEVELS {
            let started = Instant::now();
            let versions = each(world, &copies, in_flight, Write::Create).await?;
            let creates = per_second(versions.len(), started);
            let replaced: Vec<(Place, Value)> = copies.iter().zip(versions).map(changed).collect();
            let replaced = Arc::new(replaced);
            let started = Instant::now();
            each(world, &replaced, in_flight, Write::Replace).await?;
            let replaces = per_second(replaced.len(), started);
            let started = Instant::now();
            each(world, &copies, in_flight, Write::Delete).await?;
            let deletes = per_second(copies.len(), started);
            rates.push(Rates { in_flight, creates, replaces, deletes });
        }
        Ok(Self { lists, list_bytes, rates })
    }

    /// One LIST of everything, and so many writes at the best rate.
    pub fn of(&self, counts: Counts) -> Duration {
        let Counts { created, updated, recreated, deleted, skipped: _, protected: _, failed: _ } = counts;
        let best = |rate: fn(&Rates) -> f64| self.rates.iter().map(rate).fold(f64::MIN_POSITIVE, f64::max);
        let writes = (created + recreated) as f64 / best(|rates| rates.creates)
            + updated as f64 / best(|rates| rates.replaces)
            + (deleted + recreated) as f64 / best(|rates| rates.deletes);
        self.lists + Duration::from_secs_f64(writes)
    }
}

fn per_second(count: usize, since: Instant) -> f64 {
    count as f64 / since.elapsed().as_secs_f64()
}

/// Every type of the backup, page by page; gives the bytes.
async fn lists(world: &World) -> Result<usize> {
    #[derive(Deserialize)]
    struct Page {
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    struct Metadata {
        #[serde(rename = "continue", default)]
        next: String,
    }
    let urls: BTreeSet<String> = world.items.iter().map(|item| item.place.everywhere()).collect();
    let urls: Arc<Vec<String>> = Arc::new(urls.into_iter().collect());
    let sizes = at_once(LISTS_AT_ONCE, urls.len(), {
        let client = world.client.clone();
        move |index| {
            let (client, url) = (client.clone(), urls[index].clone());
            async move {
                let (mut bytes, mut next) = (0, String::new());
                loop {
                    let request = http::Request::get(format!("{url}?limit={PAGE}&continue={next}")).body(Vec::new())?;
                    let text = client.request_text(request).await?;
                    bytes += text.len();
                    next = serde_json::from_str::<Page>(&text)?.metadata.next;
                    if next.is_empty() {
                        return Ok(bytes);
                    }
                }
            }
        }
    });
    Ok(sizes.await?.into_iter().sum())
}

#[derive(Debug, Clone, Copy)]
enum Write {
    Create,
    Replace,
    Delete,
}

/// Writes each object once; gives the resourceVersions.
async fn each(
    world: &World,
    objects: &Arc<Vec<(Place, Value)>>,
    in_flight: usize,
    write: Write,
) -> Result<Vec<String>> {
    let (client, objects) = (world.client.clone(), Arc::clone(objects));
    let count = objects.len();
    at_once(in_flight, count, move |index| {
        let (client, objects) = (client.clone(), Arc::clone(&objects));
        async move { send(&client, &objects[index], write).await }
    })
    .await
}

async fn send(client: &Client, (place, object): &(Place, Value), write: Write) -> Result<String> {
    #[derive(Deserialize)]
    struct Written {
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Metadata {
        resource_version: String,
    }
    let (method, url, body) = match write {
        Write::Create => (Method::POST, place.collection(), serde_json::to_vec(object)?),
        Write::Replace => (Method::PUT, place.url(), serde_json::to_vec(object)?),
        Write::Delete => (Method::DELETE, place.url(), Vec::new()),
    };
    let request = http::Request::builder().method(method).uri(url).header("content-type", "application/json");
    let text = client.request_text(request.body(body)?).await?;
    match write {
        Write::Create | Write::Replace => Ok(serde_json::from_str::<Written>(&text)?.metadata.resource_version),
        Write::Delete => Ok(String::new()),
    }
}

/// Does `count` things, so many at once, each on a task of its own; answers in order.
async fn at_once<T, F>(
    in_flight: usize,
    count: usize,
    work: impl Fn(usize) -> F + Clone + Send + 'static,
) -> Result<Vec<T>>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send,
{
    let next = Arc::new(AtomicUsize::new(0));
    let mut workers: JoinSet<Result<Vec<(usize, T)>>> = JoinSet::new();
    for _ in 0..in_flight {
        let (next, work) = (Arc::clone(&next), work.clone());
        workers.spawn(async move {
            let mut done = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    return Ok(done);
                }
                done.push((index, work(index).await?));
            }
        });
    }
    let mut done = Vec::with_capacity(count);
    while let Some(worker) = workers.join_next().await {
        done.extend(worker??);
    }
    done.sort_by_key(|(index, _)| *index);
    Ok(done.into_iter().map(|(_, answer)| answer).collect())
}

/// Objects like those that were disturbed, evenly chosen, that no controller looks after.
fn copies(items: &[Item], disturbed: &Disturbed) -> Vec<(Place, Value)> {
    let touched: BTreeSet<&Place> = disturbed.changed.iter().chain(&disturbed.deleted).collect();
    let alike = |item: &&Item| (touched.is_empty() || touched.contains(&item.place)) && is_alone(item);
    let alike: Vec<&Item> = items.iter().filter(alike).collect();
    let step = (alike.len() / SAMPLE).max(1);
    alike.iter().step_by(step).take(SAMPLE).enumerate().map(|(number, item)| copy(item, number)).collect()
}

fn is_alone(Item { place, object }: &&Item) -> bool {
    let is_token = object["type"] == "kubernetes.io/service-account-token";
    !is_token && !place.is_crd() && !place.is_namespace() && !place.is("", "serviceaccounts") && place.group != "apps"
}

fn copy(Item { place, object }: &Item, number: usize) -> (Place, Value) {
    let place = Place { name: format!("raw-{number:05}"), ..place.clone() };
    let mut object = object.clone();
    let metadata = &object["metadata"];
    let annotations = metadata["annotations"].clone();
    object["metadata"] = json!({
        "name": place.name, "namespace": place.namespace, "labels": metadata["labels"], "annotations": annotations,
    });
    (place, object)
}

fn changed(((place, object), version): (&(Place, Value), String)) -> (Place, Value) {
    let mut object = object.clone();
    object["metadata"]["resourceVersion"] = json!(version);
    if object["metadata"]["annotations"].is_null() {
        object["metadata"]["annotations"] = json!({});
    }
    object["metadata"]["annotations"]["changed"] = json!("yes");
    (place.clone(), object)
}
