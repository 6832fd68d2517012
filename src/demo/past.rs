//! What happened before anybody writes a manifest: a backup was taken, and an upgrade went wrong.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use serde_json::Value;

use super::scene::{self, Step};
use crate::backup::{BackupWriter, Encryption};
use crate::cluster::{ClusterWriter, Limits, Preconditions, Target};
use crate::object::{ObjectKey, Resource};
use crate::sim::Sim;

/// What the server sets, and rancher-backup leaves out.
const OF_THE_SERVER: [&str; 4] = ["uid", "resourceVersion", "creationTimestamp", "managedFields"];

/// Writes a backup of those of `objects` that are in the cluster, as they are there, into `folder`, by this ResourceSet and
/// encrypted by `encryption` if there is one. Gives its file name and how many there were.
///
/// # Errors
///
/// When the folder cannot be written.
pub fn save(
    sim: &Sim,
    folder: &Path,
    objects: &[Value],
    resource_set: &Value,
    encryption: Option<Arc<Encryption>>,
    now: Timestamp,
) -> anyhow::Result<(String, usize)> {
    let system = sim.object("namespaces", None, "kube-system").context("there is no kube-system")?;
    let name = format!("nightly-{}-2026-11-23T02-00-00Z.tar.gz", text(&system["metadata"]["uid"]));
    let file = File::create(folder.join(&name)).context("cannot write the backup")?;
    let mut writer = BackupWriter::new(file, now);
    if let Some(encryption) = encryption {
        writer = writer.encrypted_by(encryption);
    }
    let stored = sim.objects();
    let mut count = 0;
    for object in objects.iter().filter(|object| scene::is_saved(object)) {
        let Some(live) = stored.get(&place(object)) else { continue };
        writer.object(&key_of(object), &saved(live, object)).context("cannot write the backup")?;
        count += 1;
    }
    writer.filters(resource_set).context("cannot write the backup")?;
    writer.finish().context("cannot write the backup")?;
    Ok((name, count))
}

/// The live object as a backup holds it. What is stored has no type of its own: it comes from `of`.
fn saved(live: &Value, of: &Value) -> Value {
    let mut object = live.clone();
    for field in ["apiVersion", "kind"] {
        object[field] = of[field].clone();
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        OF_THE_SERVER.iter().for_each(|field| drop(metadata.remove(*field)));
    }
    object
}

/// Carries the steps of an upgrade out as its Rancher and Helm would: by requests, one after the other.
///
/// After each deletion it waits for `settle`, in which what depended on the object goes, too.
///
/// # Errors
///
/// At the first request that is refused.
pub async fn upgrade(sim: &Sim, steps: Vec<Step>, settle: Duration) -> anyhow::Result<()> {
    let writer = sim.cluster(Limits::default()).writer();
    for step in steps {
        let deletes = matches!(step, Step::Delete(_));
        take(sim, &writer, step).await?;
        if deletes {
            tokio::time::sleep(settle).await;
        }
    }
    Ok(())
}

/// As [`upgrade`], for steps that do not depend on one another: several at a time.
///
/// # Errors
///
/// As [`upgrade`].
pub async fn upgrade_at_once(sim: &Sim, steps: Vec<Step>) -> anyhow::Result<()> {
    const AT_A_TIME: usize = 16;
    let writer = sim.cluster(Limits::default()).writer();
    let taken = stream::iter(steps).map(|step| take(sim, &writer, step)).buffer_unordered(AT_A_TIME);
    taken.try_collect().await
}

async fn take(sim: &Sim, writer: &ClusterWriter, step: Step) -> anyhow::Result<()> {
    match step {
        Step::Put(object) => put(sim, writer, object).await,
        Step::Delete(object) => {
            let key = key_of(&object);
            let deleted = writer.delete(&target_of(&key), Preconditions::default(), None, None).await;
            deleted.map(drop).with_context(|| format!("cannot delete {key}"))
        }
    }
}

async fn put(sim: &Sim, writer: &ClusterWriter, object: Value) -> anyhow::Result<()> {
    let key = key_of(&object);
    let target = target_of(&key);
    let mut body = object.clone();
    let written = match sim.objects().get(&place(&object)) {
        Some(live) => {
            body["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"].clone();
            writer.replace(&target, body.to_string().into()).await
        }
        None => writer.create(&target, body.to_string().into()).await,
    };
    let mut answer = written.with_context(|| format!("cannot write {key}"))?.value().context("no JSON came back")?;
    if let Some(status) = object.get("status").filter(|status| answer["status"] != **status) {
        answer["status"] = status.clone();
        // Where the type has no status of its own, it was written with the rest.
        let _ = writer.replace_status(&target, answer.to_string().into()).await;
    }
    Ok(())
}

fn key_of(object: &Value) -> ObjectKey {
    let api_version = text(&object["apiVersion"]);
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    let plural = format!("{}s", text(&object["kind"]).to_lowercase());
    let resource = Arc::new(Resource::new(group, version, &plural));
    ObjectKey::new(&resource, object["metadata"]["namespace"].as_str(), &text(&object["metadata"]["name"]))
}

fn target_of(key: &ObjectKey) -> Target<'_> {
    Target::new(&key.resource, key.namespace.as_deref(), &key.name)
}

/// The place of an object of the scene in [`Sim::objects`].
pub fn place(object: &Value) -> String {
    stored_as(&key_of(object))
}

/// The place of a key in [`Sim::objects`].
pub(super) fn stored_as(key: &ObjectKey) -> String {
    let of = key.resource.group_resource();
    match &key.namespace {
        Some(namespace) => format!("{of}/{namespace}/{}", key.name),
        None => format!("{of}/{}", key.name),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
