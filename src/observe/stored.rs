//! A second look at custom resources that differ: what the API server would store of them, by the definition in force.
//!
//! Only those that differ are looked at, so that it costs nothing where nothing is to do: two more passes over the spooled
//! backup, and a GET for each definition that the backup does not hold.

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;

use super::{Brought, ObserveError, Opening, pass, visible};
use crate::cluster::{ClusterReader, Target};
use crate::object::shape::Shape;
use crate::object::{self, Interner, Resource, StatusPlace};
use crate::observed::{Backup, BackupObject, Live};
use crate::plan::diff::Types;
use crate::store::Spool;

/// Replaces what was read of these objects by what the API server makes of them.
///
/// # Errors
///
/// When the API server does not answer, or the spooled backup cannot be read.
pub async fn as_stored(
    reader: &ClusterReader,
    spool: &Spool,
    opening: &Opening,
    backup: &mut Backup,
    live: &Live,
) -> Result<(), ObserveError> {
    let suspects = suspects(backup, live);
    if suspects.is_empty() {
        return Ok(());
    }
    let types: BTreeSet<&Resource> =
        suspects.iter().map(|index| backup.objects[*index as usize].key.resource.as_ref()).collect();
    let shapes = shapes(reader, spool, opening, backup, &types).await?;
    let (mut pass, handle) = pass(spool, opening.encryption().cloned(), suspects.into_iter().collect());
    let mut interner = Interner::default();
    while let Some(Brought { index, key, mut value, room: _room }) = pass.recv().await {
        let Some(shape) = shapes.get(key.resource.as_ref()) else { continue };
        shape.apply(&mut value);
        if let Ok(summary) = object::summarise(&key.resource, value, &mut interner) {
            let kept = &mut backup.objects[index as usize].summary;
            (kept.spec, kept.status) = (summary.spec, summary.status);
        }
    }
    handle.await.map_err(|_| ObserveError::Interrupted)?
}

/// Custom resources that are live and not as the backup has them.
fn suspects(backup: &Backup, live: &Live) -> BTreeSet<u32> {
    let types = Types::new(backup, &live.served);
    let differs = |object: &BackupObject| {
        let status = types.status(&object.key.resource).filter(|status| *status != StatusPlace::Nowhere);
        let there = live.get(&object.key).map(|live| &live.summary);
        status.zip(there).is_some_and(|(status, there)| !object::equal(&object.summary, there, status))
    };
    let objects = (0..).zip(&backup.objects);
    objects.filter(|(_, object)| differs(object)).map(|(index, _)| index).collect()
}

/// By the backup's own definitions, which are in force when objects are written, else by the live ones.
async fn shapes(
    reader: &ClusterReader,
    spool: &Spool,
    opening: &Opening,
    backup: &Backup,
    types: &BTreeSet<&Resource>,
) -> Result<HashMap<Resource, Shape>, ObserveError> {
    let mut shapes = HashMap::new();
    let take = |shapes: &mut HashMap<Resource, Shape>, definition: &Value| {
        let text = |pointer: &str| definition.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (group, plural) = (text("/spec/group"), text("/spec/names/plural"));
        for resource in types.iter().filter(|resource| resource.is(group, plural)) {
            if let Some(shape) = Shape::of_version(definition, &resource.version) {
                shapes.insert((**resource).clone(), shape);
            }
        }
    };
    let defines = |crd: &object::crd::CrdSummary| types.iter().any(|resource| resource.is(&crd.group, &crd.plural));
    let ours = (0..).zip(&backup.objects);
    let ours = ours
        .filter(|(_, object)| object.summary.particulars().crd.as_deref().is_some_and(defines))
        .map(|(index, _)| index);
    let (mut pass, handle) = pass(spool, opening.encryption().cloned(), ours.collect());
    while let Some(definition) = pass.recv().await {
        take(&mut shapes, &definition.value);
    }
    handle.await.map_err(|_| ObserveError::Interrupted)??;
    let definitions = Resource::new("apiextensions.k8s.io", "v1", "customresourcedefinitions");
    let missing: BTreeSet<String> = types
        .iter()
        .filter(|resource| !shapes.contains_key(**resource))
        .map(|resource| resource.group_resource())
        .collect();
    for name in missing {
        let answer = visible(reader.get(&Target::new(&definitions, None, &name)).await)?;
        if let Some(definition) = answer.and_then(|answer| answer.value().ok()) {
            take(&mut shapes, &definition);
        }
    }
    Ok(shapes)
}
