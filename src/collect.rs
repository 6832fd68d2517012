//! Backups of our own: what selectors choose, and what is named, as the operator would write it.
//!
//! Reads only: a cluster is listed, and the archive is made in an unlinked file beside others; putting it into a store is a
//! [`BackupsWriter`](crate::store::BackupsWriter)'s. All lists ask for one state, which the first of them finds, so that the backup is of
//! one moment; a server that cannot (an aggregated one, or an etcd that has compacted it) is asked for its newest state, and the
//! backup says so in [`Made::notes`].
//!
//! Objects go to disk as they come, as the bytes of their entries; memory holds an index entry for each, by which they
//! are then written in the operator's order. The finished archive is read once from its first byte to its last before anybody gets it.
//! One type is saved at one version, where the operator saves it at each that is selected: restored, the last would win.

mod lists;
mod stage;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::backup::{self, BackupError, BackupWriter, Encryption, FILTERS, Limits, ReadError, Selectors, in_order};
use crate::cluster::{ClusterError, ClusterReader};
use crate::object::ObjectKey;
use crate::store::{Spool, SpoolDraft, StoreError, unwritten};
use stage::{Entry, Stage};

/// What a backup is made of.
#[derive(Debug, Clone)]
pub struct Choice {
    /// The ResourceSet, as it is to stand in the backup.
    pub filters: Value,
    pub selectors: Selectors,
    /// Objects that are saved whether or not a selector matches them, where they are there.
    pub named: Vec<ObjectKey>,
}

/// A finished backup, not yet stored.
#[derive(Debug)]
pub struct Made {
    pub spool: Spool,
    /// How many objects it holds, by `plural.group#version`.
    pub counts: BTreeMap<String, u64>,
    /// In what it is less than what was asked for, for people.
    pub notes: Vec<String>,
}

impl Made {
    pub fn objects(&self) -> u64 {
        self.counts.values().sum()
    }
}

/// Why there is no backup. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    #[error("cannot read the cluster")]
    Cluster(#[from] ClusterError),
    /// A backup without what may not be read would not be what was asked for.
    #[error("not allowed to list {0}: grant `list` on it, or take it out of the ResourceSet")]
    Forbidden(String),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("nothing of what is chosen is in the cluster")]
    Empty,
    #[error("what was written cannot be read again")]
    Corrupt(#[source] BackupError),
    #[error("what was written has {read} objects instead of {written}")]
    Miscounted { written: u64, read: u64 },
    #[error("making the backup was interrupted")]
    Interrupted,
}

/// Makes a backup of what is in the cluster now.
///
/// # Errors
///
/// `Empty` when the cluster has nothing of it; when anything that is chosen cannot be read, and when `spool_dir` has no room for the objects, as JSON, and the archive.
pub async fn make(
    reader: &ClusterReader,
    choice: &Choice,
    encryption: Option<Arc<Encryption>>,
    spool_dir: &Path,
    now: Timestamp,
) -> Result<Made, CollectError> {
    let stage = Stage::new(spool_dir)?;
    let listed = lists::all(reader, choice, &stage).await?;
    let filters = backup::content(&choice.filters).map_err(|error| unwritten(spool_dir, error))?;
    let archive = Archive { stage, entries: listed.entries, filters, encryption, dir: spool_dir.to_owned(), now };
    let (spool, counts) = crate::git::blocking(move || archive.write()).await?;
    Ok(Made { spool, counts, notes: listed.notes })
}

/// What becomes an archive.
struct Archive {
    stage: Stage,
    entries: Vec<Entry>,
    filters: Vec<u8>,
    encryption: Option<Arc<Encryption>>,
    dir: PathBuf,
    now: Timestamp,
}

impl Archive {
    fn write(mut self) -> Result<(Spool, BTreeMap<String, u64>), CollectError> {
        self.entries.sort_by(|one, other| in_order(&one.path, &other.path));
        self.entries.dedup_by(|one, other| one.path == other.path);
        if self.entries.is_empty() {
            return Err(CollectError::Empty);
        }
        let mut counts = BTreeMap::new();
        let mut writer = BackupWriter::new(SpoolDraft::create(&self.dir)?, self.now);
        if let Some(encryption) = &self.encryption {
            writer = writer.encrypted_by(Arc::clone(encryption));
        }
        let at = self.entries.partition_point(|entry| in_order(&entry.path, FILTERS).is_lt());
        let (before, behind) = self.entries.split_at(at);
        self.append(&mut writer, before, &mut counts)?;
        writer.entry(FILTERS, &self.filters).map_err(|error| unwritten(&self.dir, error))?;
        self.append(&mut writer, behind, &mut counts)?;
        let spool = writer.finish().map_err(|error| unwritten(&self.dir, error))?.finish()?;
        verify(&spool, self.encryption.as_deref(), counts.values().sum())?;
        Ok((spool, counts))
    }

    fn append(
        &self,
        writer: &mut BackupWriter<SpoolDraft>,
        entries: &[Entry],
        counts: &mut BTreeMap<String, u64>,
    ) -> Result<(), CollectError> {
        for entry in entries {
            let content = self.stage.read(entry)?;
            writer.object_content(&entry.key, content).map_err(|error| unwritten(&self.dir, error))?;
            *counts.entry(entry.key.resource.to_string()).or_default() += 1;
        }
        Ok(())
    }
}

/// Every byte, as whoever restores it will read it.
fn verify(spool: &Spool, encryption: Option<&Encryption>, written: u64) -> Result<(), CollectError> {
    let visit = |_| Ok::<(), std::convert::Infallible>(());
    match backup::read(spool.reader(), spool.size(), &Limits::default(), encryption, visit) {
        Ok(summary) if summary.objects == written => Ok(()),
        Ok(summary) => Err(CollectError::Miscounted { written, read: summary.objects }),
        Err(ReadError::Corrupt(error)) => Err(CollectError::Corrupt(error)),
        Err(ReadError::Source(source)) => Err(StoreError::Unread { source }.into()),
        Err(ReadError::Visit(never)) => match never {},
    }
}

/// The name that the operator would give: prefix, cluster, time.
pub fn file_name(prefix: &str, cluster_uid: &str, taken_at: Timestamp, encrypted: bool) -> String {
    let time = taken_at.strftime("%Y-%m-%dT%H-%M-%SZ");
    format!("{prefix}-{cluster_uid}-{time}.tar.gz{}", if encrypted { ".enc" } else { "" })
}

/// `1 object`, `2 objects`.
impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.objects() {
            1 => f.write_str("1 object"),
            objects => write!(f, "{objects} objects"),
        }
    }
}
