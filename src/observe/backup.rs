//! Reading the spooled backup: a pass over its names, one that checks and indexes it, and later ones that bring objects.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinHandle;

use super::{ObserveError, Opening};
use crate::backup::{
    self, BackupError, BackupName, Encryption, Entry, Facts, Limits, ReadError, ResourceSet, Selectors, Unopened,
};
use crate::git::blocking;
use crate::journal::WorkloadRef;
use crate::object::{self, Interner, ObjectKey};
use crate::observed::{Backup, BackupObject, BackupSeen, Closed, OpenEntries};
use crate::store::Spool;

/// Names of entries that are kept for a message.
const NAMES_KEPT: usize = 5;

/// A backup that is being read: what it names comes first, and the rest while lists of that are under way.
pub struct Underway {
    /// `None` where it is not as a backup must be, which the index says.
    pub names: oneshot::Receiver<Option<Names>>,
    pub index: JoinHandle<Result<BackupSeen, ObserveError>>,
}

/// What a backup asks for.
#[derive(Debug, Clone)]
pub struct Names {
    /// In the order of the archive.
    pub keys: Arc<[ObjectKey]>,
    pub selectors: Option<Selectors>,
    /// Workloads that the backup's ResourceSet asks to scale down.
    pub controllers: Vec<WorkloadRef>,
}

/// Begins to read a backup.
pub fn begin(spool: &Spool, name: &BackupName, opening: &Opening) -> Underway {
    let (sender, names) = oneshot::channel();
    let (again, size) = (spool.reader(), spool.size());
    let index = index_of(spool, name, opening);
    let index = tokio::spawn(blocking(move || {
        let found = backup::names(again, size, &Limits::default()).ok().and_then(Names::of);
        let keys = found.as_ref().map(|names| Arc::clone(&names.keys)).unwrap_or_default();
        // Nobody waits where the look was given up.
        let _given_up = sender.send(found);
        index(keys)
    }));
    Underway { names, index }
}

impl Names {
    fn of(names: backup::Names) -> Option<Self> {
        let backup::Names { keys, filters } = names;
        let controllers = controllers(filters.as_ref());
        let selectors = filters.map(|filters| filters.compile()).transpose().ok()?;
        Some(Self { keys: keys.into(), selectors, controllers })
    }
}

/// Checks a backup whole and indexes it.
///
/// # Errors
///
/// `Spool` when the spooled backup cannot be read; one that is not whole is data.
pub async fn index(spool: &Spool, name: &BackupName, opening: &Opening) -> Result<BackupSeen, ObserveError> {
    let index = index_of(spool, name, opening);
    blocking(move || index(Arc::default())).await
}

/// The pass that checks and indexes; it is given the keys that are known before, which it shares.
fn index_of(
    spool: &Spool,
    name: &BackupName,
    opening: &Opening,
) -> impl FnOnce(Arc<[ObjectKey]>) -> Result<BackupSeen, ObserveError> + Send + 'static {
    let (reader, size, sha256) = (spool.reader(), spool.size(), spool.sha256().to_string());
    let (name, opening) = (name.clone(), opening.clone());
    move |known| {
        let encryption = opening.encryption().cloned();
        let mut indexer = Indexer { encryption: encryption.clone(), known, ..Indexer::default() };
        let read = backup::read(reader, size, &Limits::default(), encryption.as_deref(), |entry| indexer.take(entry));
        Ok(match read {
            Ok(_) => indexer.into_backup(name, sha256, size, &opening),
            Err(ReadError::Corrupt(error)) => corrupt(&error),
            Err(ReadError::Visit(Unfit { object, problem })) => {
                BackupSeen::Corrupt { message: format!("entry {object}: {problem}") }
            }
            Err(ReadError::Source(error)) => return Err(ObserveError::Spool(error)),
        })
    }
}

fn controllers(filters: Option<&ResourceSet>) -> Vec<WorkloadRef> {
    let controllers = filters.into_iter().flat_map(|filters| &filters.controller_references);
    let controllers = controllers.map(|reference| WorkloadRef {
        api_version: reference.api_version.clone(),
        resource: reference.resource.clone(),
        namespace: reference.namespace.clone(),
        name: reference.name.clone(),
    });
    controllers.collect()
}

fn corrupt(error: &BackupError) -> BackupSeen {
    BackupSeen::Corrupt { message: error.to_string() }
}

/// An object whose metadata is not as Kubernetes has it.
#[derive(Debug)]
struct Unfit {
    object: String,
    problem: object::ObjectError,
}

#[derive(Default)]
struct Indexer {
    interner: Interner,
    objects: Vec<BackupObject>,
    /// Keys that a pass over the names has found, to be shared.
    known: Arc<[ObjectKey]>,
    /// Objects so far, opened or not.
    seen: usize,
    facts: Facts,
    filters: Option<ResourceSet>,
    encryption: Option<Arc<Encryption>>,
    open: OpenEntries,
    /// Entries that no key has opened.
    closed: u64,
    /// The first of them: its path, its provider, and why.
    first_closed: Option<(String, String, Unopened)>,
}

impl Indexer {
    fn take(&mut self, entry: Entry) -> Result<(), Unfit> {
        match entry {
            Entry::Object { key, value, encrypted } => {
                self.seen += 1;
                if !encrypted {
                    self.lies_open(&key);
                }
                self.object(key, value)?;
            }
            Entry::Filters(filters) => self.filters = Some(filters),
            Entry::Encrypted { key, provider, problem } => {
                self.seen += 1;
                self.closed += 1;
                self.first_closed.get_or_insert_with(|| (format!("{key}.json"), provider, problem));
            }
        }
        Ok(())
    }

    /// One that its configuration would have encrypted was put there by somebody else, or before there was one.
    fn lies_open(&mut self, key: &ObjectKey) {
        if self.encryption.as_ref().is_some_and(|encryption| encryption.encrypts(&key.resource)) {
            self.open.count += 1;
            if self.open.first.len() < NAMES_KEPT {
                self.open.first.push(key.to_string());
            }
        }
    }

    fn object(&mut self, key: ObjectKey, value: Value) -> Result<(), Unfit> {
        self.facts.note(&key, &value);
        let summary = object::summarise(&key.resource, value, &mut self.interner)
            .map_err(|problem| Unfit { object: key.to_string(), problem })?;
        let known = self.seen.checked_sub(1).and_then(|place| self.known.get(place));
        let key = match known.filter(|known| **known == key) {
            Some(known) => known.clone(),
            None => ObjectKey {
                resource: key.resource,
                namespace: key.namespace.map(|namespace| self.interner.text(&namespace)),
                name: key.name,
            },
        };
        self.objects.push(BackupObject { key, summary });
        Ok(())
    }

    fn into_backup(mut self, name: BackupName, sha256: String, size_bytes: u64, opening: &Opening) -> BackupSeen {
        let secret = match opening {
            Opening::None => None,
            Opening::With { secret, encryption: _ } => Some(secret.clone()),
            Opening::Broken { secret, problem } => {
                let (secret, problem) = (secret.clone(), problem.clone());
                return BackupSeen::Encrypted(Closed::Configuration { secret, problem });
            }
        };
        if let Some((first, provider, problem)) = self.first_closed {
            let (closed, of) = (self.closed, self.closed + self.objects.len() as u64);
            return BackupSeen::Encrypted(Closed::Entries { first, provider, problem, closed, of, secret });
        }
        let controllers = controllers(self.filters.as_ref());
        let unknown = self.filters.iter().flat_map(|filters| &filters.resource_selectors);
        let unknown: BTreeSet<&String> = unknown.flat_map(|selector| &selector.unknown_fields).collect();
        let unknown_fields = unknown.into_iter().cloned().collect();
        let filters = self.filters.as_ref().map(|filters| Arc::clone(&filters.whole));
        let selectors = match self.filters.map(|filters| filters.compile()).transpose() {
            Ok(selectors) => selectors,
            Err(error) => return BackupSeen::Corrupt { message: format!("entry filters/filters.json: {error}") },
        };
        // Up to half of it is room for more.
        self.objects.shrink_to_fit();
        BackupSeen::Whole(Box::new(Backup {
            name,
            sha256,
            size_bytes,
            facts: self.facts,
            objects: self.objects,
            selectors,
            filters,
            controllers,
            unserved_selectors: Vec::new(),
            unlistable: Vec::new(),
            unknown_fields,
            open_entries: self.open,
        }))
    }
}

/// A further pass over a backup that was checked whole before.
///
/// Objects come in the order of the archive, which is that of [`Backup::objects`].
pub type ObjectPass = tokio::sync::mpsc::Receiver<Brought>;

/// One object that a pass brings.
pub struct Brought {
    /// Its place in [`Backup::objects`].
    pub index: u32,
    pub key: ObjectKey,
    pub value: Value,
    /// Given back by whoever is done with the object, so that the next may be read.
    pub room: OwnedSemaphorePermit,
}

/// How many objects are read ahead of those that are taken.
const AHEAD: usize = 16;
/// How much of the archive is in memory at once, from its being read to its being written: an object takes some five times
/// its entry then, as JSON, as what is sent and as what is answered. One that is larger goes alone.
const ROOM_BYTES: u64 = 4 << 20;
/// Room is given out in KiB, so that a permit counts what a semaphore can.
const ROOM_UNIT: u64 = 1 << 10;

fn room_of(entry_bytes: u64) -> u32 {
    let units = entry_bytes.min(ROOM_BYTES).div_ceil(ROOM_UNIT).max(1);
    u32::try_from(units).unwrap_or(u32::MAX)
}

/// The receiver was dropped.
struct GivenUp;

/// Starts a pass that brings the objects at these places, given in rising order.
///
/// The pass ends after the last of them, or when the receiver is dropped. A spool is not written after it was checked,
/// so a failure is one of the disk; the handle returns it.
pub fn pass(
    spool: &Spool,
    encryption: Option<Arc<Encryption>>,
    wanted: Vec<u32>,
) -> (ObjectPass, JoinHandle<Result<(), ObserveError>>) {
    let (sender, receiver) = tokio::sync::mpsc::channel(AHEAD);
    let (reader, size) = (spool.reader(), spool.size());
    let (room, runtime) = (Arc::new(Semaphore::new((ROOM_BYTES / ROOM_UNIT) as usize)), Handle::current());
    let handle = tokio::task::spawn_blocking(move || {
        let mut wanted = wanted.into_iter().peekable();
        let is_next = |place| match wanted.peek() {
            None => ControlFlow::Break(()),
            Some(_) => ControlFlow::Continue(wanted.next_if_eq(&place).is_some()),
        };
        let read = backup::reread(
            reader,
            size,
            &Limits::default(),
            encryption.as_deref(),
            is_next,
            |index, key, value, bytes| {
                let room = runtime.block_on(Arc::clone(&room).acquire_many_owned(room_of(bytes)));
                // Nobody closes it.
                let room = room.map_err(|_| GivenUp)?;
                sender.blocking_send(Brought { index, key, value, room }).map_err(|_| GivenUp)
            },
        );
        match read {
            Ok(()) | Err(ReadError::Visit(GivenUp)) => Ok(()),
            Err(ReadError::Source(error)) => Err(ObserveError::Spool(error)),
            Err(ReadError::Corrupt(error)) => Err(ObserveError::Spool(std::io::Error::other(error.to_string()))),
        }
    });
    (receiver, handle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_object_goes_alone_and_a_small_one_takes_little() {
        let all = u32::try_from(ROOM_BYTES / ROOM_UNIT).expect("it counts in a semaphore");
        assert_eq!([0, 1, 1 << 10, (1 << 10) + 1].map(room_of), [1, 1, 1, 2]);
        assert_eq!([ROOM_BYTES - 1, ROOM_BYTES, ROOM_BYTES + 1, u64::MAX].map(room_of), [all; 4]);
        // Secrets of the largest size that etcd takes: more than one at once all the same.
        assert!(all / room_of(1_500_000) >= 2);
    }

    #[tokio::test]
    async fn no_more_is_read_than_there_is_room_for_until_somebody_is_done() {
        const MANY: u32 = 8;
        let folder = tempfile::tempdir().expect("a folder");
        let draft = crate::store::SpoolDraft::create(folder.path()).expect("a spool");
        let mut writer = backup::BackupWriter::new(draft, jiff::Timestamp::UNIX_EPOCH);
        let secrets = Arc::new(object::Resource::new("", "v1", "secrets"));
        for index in 0..MANY {
            let name = format!("s-{index}");
            let secret = serde_json::json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "a"},
                "data": {"text": "x".repeat((ROOM_BYTES / 2) as usize)},
            });
            writer.object(&ObjectKey::new(&secrets, Some("a"), &name), &secret).expect("written");
        }
        let spool = writer.finish().expect("written").finish().expect("a spool");
        let (mut objects, reader) = pass(&spool, None, (0..MANY).collect());
        let mut held = Vec::new();
        while let Ok(Some(brought)) = tokio::time::timeout(std::time::Duration::from_millis(500), objects.recv()).await
        {
            held.push(brought);
        }
        assert_eq!(held.len(), 1, "a second one is more than half");
        held.clear();
        let mut seen = 1;
        while let Some(Brought { index, .. }) = objects.recv().await {
            assert_eq!(index, seen);
            seen += 1;
        }
        assert_eq!(seen, MANY);
        reader.await.expect("it ends").expect("read to the end");
    }
}
