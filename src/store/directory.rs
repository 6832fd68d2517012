//! A directory of backups, such as a mounted volume.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use jiff::Timestamp;
use rustix::fs::OFlags;
use tokio::sync::mpsc;

use super::spool::{SpoolWriter, blocking};
use super::{MAX_ENTRIES, Spool, SpoolLimits, Stat, StoreError, is_backup};

/// Bytes of one read: few system calls, and little memory in the queues.
const CHUNK_BYTES: usize = 256 * 1024;

#[derive(Debug)]
pub(super) struct Directory {
    /// As configured: a volume that is mounted anew under the same name is followed.
    path: PathBuf,
}

impl Directory {
    pub(super) async fn open(path: &Path) -> Result<Self, StoreError> {
        let path = path.to_owned();
        blocking(move || root(&path).map(|_| Self { path })).await?
    }

    pub(super) fn describe(&self) -> String {
        describe(&self.path)
    }

    pub(super) async fn stat(&self, name: &str) -> Result<Option<Stat>, StoreError> {
        let (path, name) = (self.path.clone(), name.to_owned());
        let found = blocking(move || open_file(&path, &name).map(|found| found.metadata)).await?;
        match found {
            Ok(metadata) => Ok(Some(stat(&metadata))),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn list(&self) -> Result<Vec<(String, Stat)>, StoreError> {
        let path = self.path.clone();
        blocking(move || list(&path)).await?
    }

    pub(super) async fn spool(
        &self,
        name: &str,
        spool_dir: &Path,
        limits: SpoolLimits,
        progress: &(dyn Fn(u64, u64) + Send + Sync),
    ) -> Result<Spool, StoreError> {
        let (path, of) = (self.path.clone(), name.to_owned());
        let found = blocking(move || open_file(&path, &of)).await??;
        let size = found.metadata.len();
        limits.admit(name, size)?;
        let mut writer = SpoolWriter::create(spool_dir, size).await?;
        let (chunks, mut queue) = mpsc::channel(1);
        let (path, of) = (self.path.clone(), name.to_owned());
        let reading = tokio::task::spawn_blocking(move || found.read(&path, &of, &chunks));
        let mut read = 0;
        while let Some(chunk) = queue.recv().await {
            read += Bytes::len(&chunk) as u64;
            writer.write(chunk).await?;
            progress(read, size);
        }
        super::spool::joined(reading.await)??;
        writer.finish().await
    }
}

fn describe(path: &Path) -> String {
    format!("directory {}", path.display())
}

/// A backup's file, open, and what was known of it then.
struct Found {
    file: File,
    path: PathBuf,
    metadata: Metadata,
}

impl Found {
    /// Sends the file's bytes, and makes sure that they are of one file that nobody wrote meanwhile.
    fn read(mut self, root: &Path, name: &str, chunks: &mpsc::Sender<Bytes>) -> Result<(), StoreError> {
        let changed = || StoreError::Changed { place: describe(root), name: name.to_owned() };
        let size = self.metadata.len();
        let mut left = size;
        while left > 0 {
            let mut chunk = Vec::with_capacity(CHUNK_BYTES);
            let wanted = left.min(CHUNK_BYTES as u64);
            let read = Read::by_ref(&mut self.file).take(wanted).read_to_end(&mut chunk);
            match read.map_err(|error| directory_error(&self.path, error))? as u64 {
                0 => return Err(changed()),
                read => left -= read,
            }
            if chunks.blocking_send(chunk.into()).is_err() {
                return Ok(()); // the reader was dropped: nobody asks any more
            }
        }
        let now = self.file.metadata().map_err(|error| directory_error(&self.path, error))?;
        let there = open_file(root, name).map(|found| found.metadata);
        if same(&self.metadata, &now) && there.is_ok_and(|there| same(&self.metadata, &there)) {
            return Ok(());
        }
        Err(changed())
    }
}

/// Whether nothing was written between two looks at what may be two files.
fn same(one: &Metadata, other: &Metadata) -> bool {
    let facts = |m: &Metadata| (m.dev(), m.ino(), m.len(), m.mtime(), m.mtime_nsec());
    facts(one) == facts(other)
}

fn stat(metadata: &Metadata) -> Stat {
    let modified = Timestamp::new(metadata.mtime(), i32::try_from(metadata.mtime_nsec()).unwrap_or(0)).ok();
    Stat { size: metadata.len(), modified, etag: None }
}

fn directory_error(path: &Path, source: io::Error) -> StoreError {
    StoreError::Directory { path: path.to_owned(), source }
}

/// The directory itself, behind any links.
fn root(path: &Path) -> Result<PathBuf, StoreError> {
    let real = path.canonicalize().map_err(|error| directory_error(path, error))?;
    if real.is_dir() { Ok(real) } else { Err(directory_error(path, io::ErrorKind::NotADirectory.into())) }
}

/// Opens a regular file within the directory. Links are followed as long as they stay in it, as they do in volumes of
/// Kubernetes; a pipe or a device is never opened.
fn open_file(dir: &Path, name: &str) -> Result<Found, StoreError> {
    let root = root(dir)?;
    let asked = root.join(name);
    let path = asked.canonicalize().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => StoreError::NotFound { place: describe(dir), name: name.to_owned() },
        _ => directory_error(&asked, error),
    })?;
    let no_file = || StoreError::NoFile { path: asked.clone() };
    if !path.starts_with(&root) {
        return Err(no_file());
    }
    // The path is canonical: a link at its end was put there since. Without waiting, for it may be a pipe by now.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(&path);
    let opened = file.and_then(|file| Ok((file.metadata()?, file)));
    let (metadata, file) = opened.map_err(|error| directory_error(&path, error))?;
    if metadata.is_file() { Ok(Found { file, path, metadata }) } else { Err(no_file()) }
}

fn list(dir: &Path) -> Result<Vec<(String, Stat)>, StoreError> {
    let root = root(dir)?;
    let mut backups = Vec::new();
    let entries = root.read_dir().map_err(|error| directory_error(dir, error))?;
    for (n, entry) in entries.enumerate() {
        if n == MAX_ENTRIES {
            return Err(StoreError::TooManyEntries { place: describe(dir), limit: MAX_ENTRIES });
        }
        let entry = entry.map_err(|error| directory_error(dir, error))?;
        let name = entry.file_name().into_string().ok().filter(|name| is_backup(name));
        if let Some((name, metadata)) = name.and_then(|name| regular(&root, name)) {
            backups.push((name, stat(&metadata)));
        }
    }
    Ok(backups)
}

/// What is gone again, leads out or is no file is not listed.
fn regular(root: &Path, name: String) -> Option<(String, Metadata)> {
    let path = root.join(&name).canonicalize().ok().filter(|path| path.starts_with(root))?;
    let metadata = path.symlink_metadata().ok().filter(Metadata::is_file)?;
    Some((name, metadata))
}
