//! Two backups, object by object, in memory that grows by an index entry an object.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::ops::ControlFlow;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use serde::Serialize;
use serde_json::Value;

use crate::backup::{self, Encryption, Entry, Limits, ReadError};
use crate::object::fields::{Field, comparable, differing};
use crate::object::{Digest, ObjectKey};
use crate::store::Spool;

/// Changed objects whose contents are in memory at once.
const AT_ONCE: usize = 256;

/// In what a second backup differs from a first.
#[derive(Debug, Default)]
pub(super) struct Compared {
    pub added: Vec<ObjectKey>,
    pub removed: Vec<ObjectKey>,
    pub changed: Vec<Changed>,
    pub equal: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Changed {
    pub object: String,
    pub fields: Vec<Field>,
}

impl Changed {
    /// Only what controllers say of it differs.
    pub fn only_status(&self) -> bool {
        self.fields.iter().all(|field| field.path == "status" || field.path.starts_with("status."))
    }
}

impl Compared {
    pub fn is_equal(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

/// An object, whatever the version at which it was saved.
type Identity = (String, Option<Arc<str>>, Arc<str>);

fn identity(key: &ObjectKey) -> Identity {
    (key.resource.group_resource(), key.namespace.clone(), Arc::clone(&key.name))
}

struct Indexed {
    key: ObjectKey,
    place: u32,
    digest: Digest,
}

/// Compares two whole backups. Blocks.
///
/// # Errors
///
/// When one of them is not whole, or encrypted and not opened.
pub(super) fn compare(one: &Spool, other: &Spool, encryption: Option<&Encryption>) -> anyhow::Result<Compared> {
    let mut before: HashMap<Identity, Indexed> = HashMap::new();
    for_each(one, encryption, |indexed| drop(before.insert(identity(&indexed.key), indexed)))?;
    let mut compared = Compared::default();
    let mut changed: Vec<(u32, u32)> = Vec::new();
    for_each(other, encryption, |after| match before.remove(&identity(&after.key)) {
        Some(before) if before.digest == after.digest => compared.equal += 1,
        Some(before) => changed.push((before.place, after.place)),
        None => compared.added.push(after.key),
    })?;
    compared.removed = before.into_values().map(|indexed| indexed.key).collect();
    compared.removed.sort();
    compared.added.sort();
    for some in changed.chunks(AT_ONCE) {
        compared.changed.extend(fields(one, other, encryption, some)?);
    }
    compared.changed.sort_by(|one, other| one.object.cmp(&other.object));
    Ok(compared)
}

/// The objects of a backup, in the order of the archive.
fn for_each(spool: &Spool, encryption: Option<&Encryption>, mut visit: impl FnMut(Indexed)) -> anyhow::Result<()> {
    let mut place = 0;
    let mut closed = None;
    let read = backup::read(spool.reader(), spool.size(), &Limits::default(), encryption, |entry| {
        match entry {
            Entry::Object { key, value, .. } => {
                let digest = Digest::of(&comparable(&key.resource, value));
                visit(Indexed { key, place, digest });
                place += 1;
            }
            Entry::Encrypted { key, provider, problem } => {
                closed.get_or_insert((key, provider, problem));
            }
            Entry::Filters(_) => {}
        }
        Ok::<(), Infallible>(())
    });
    match (read, closed) {
        (Ok(_), None) => Ok(()),
        (Ok(_), Some((key, by, problem))) => {
            bail!("{key} is encrypted by {by} and cannot be compared: {problem}; see --encryption-config")
        }
        (Err(ReadError::Corrupt(error)), _) => Err(error.into()),
        (Err(ReadError::Source(error)), _) => Err(error).context("cannot read the fetched backup again"),
        (Err(ReadError::Visit(never)), _) => match never {},
    }
}

/// In which fields objects differ that are known to: pairs of places, in rising order of the second.
fn fields(
    one: &Spool,
    other: &Spool,
    encryption: Option<&Encryption>,
    pairs: &[(u32, u32)],
) -> anyhow::Result<Vec<Changed>> {
    let mut before: BTreeMap<u32, Value> = BTreeMap::new();
    at_places(one, encryption, pairs.iter().map(|(place, _)| *place).collect(), |place, key, value| {
        before.insert(place, comparable(&key.resource, value));
    })?;
    let first: HashMap<u32, u32> = pairs.iter().map(|(one, other)| (*other, *one)).collect();
    let mut changed = Vec::new();
    at_places(other, encryption, pairs.iter().map(|(_, place)| *place).collect(), |place, key, value| {
        let before = first.get(&place).and_then(|place| before.remove(place)).unwrap_or(Value::Null);
        let fields = differing(&before, &comparable(&key.resource, value));
        changed.push(Changed { object: key.to_string(), fields });
    })?;
    Ok(changed)
}

fn at_places(
    spool: &Spool,
    encryption: Option<&Encryption>,
    places: BTreeSet<u32>,
    mut visit: impl FnMut(u32, ObjectKey, Value),
) -> anyhow::Result<()> {
    let last = places.last().copied().unwrap_or_default();
    let wanted = |place| match place > last {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(places.contains(&place)),
    };
    let read =
        backup::reread(spool.reader(), spool.size(), &Limits::default(), encryption, wanted, |place, key, value, _| {
            visit(place, key, value);
            Ok::<(), Infallible>(())
        });
    match read {
        Ok(()) => Ok(()),
        Err(ReadError::Corrupt(error)) => Err(error.into()),
        Err(ReadError::Source(error)) => Err(error).context("cannot read the fetched backup again"),
        Err(ReadError::Visit(never)) => match never {},
    }
}
