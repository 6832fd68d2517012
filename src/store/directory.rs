//! A directory of backups, such as a mounted volume.

use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use rustix::fs::OFlags;
use tempfile::NamedTempFile;
use tokio::sync::mpsc;

use super::spool::{SpoolWriter, blocking, is_full};
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

/// Begins the names of files that are being written; no listing shows them.
const PART_PREFIX: &str = ".reinback-";
const PART_SUFFIX: &str = ".part";
/// Whoever dies while it writes leaves such a file; after this long it is swept away.
const PART_OF_THE_DEAD: Duration = Duration::from_secs(24 * 3600);
/// For its owner, and for the group that a volume of Kubernetes is mounted for: the operator may run as somebody else.
const MODE: u32 = 0o640;

impl Directory {
    pub(super) async fn probe(&self) -> Result<(), StoreError> {
        let path = self.path.clone();
        blocking(move || {
            let root = root(&path)?;
            sweep(&root);
            let written = part(&root).and_then(|mut file| {
                file.write_all(b"reinback looks whether this store takes backups")?;
                file.as_file().sync_all()
            });
            written.map_err(|error| write_error(&path, error))
        })
        .await?
    }

    pub(super) async fn put(&self, name: &str, backup: &Spool) -> Result<(), StoreError> {
        let (path, name, mut bytes) = (self.path.clone(), name.to_owned(), backup.reader());
        blocking(move || {
            let root = root(&path)?;
            let exists = || StoreError::Exists { place: describe(&path), name: name.clone() };
            if root.join(&name).symlink_metadata().is_ok() {
                return Err(exists());
            }
            let written = part(&root).and_then(|mut file| {
                io::copy(&mut bytes, file.as_file_mut())?;
                file.as_file().set_permissions(Permissions::from_mode(MODE))?;
                file.as_file().sync_all()?;
                Ok(file)
            });
            let file = written.map_err(|error| write_error(&path, error))?;
            file.persist_noclobber(root.join(&name)).map_err(|error| match error.error.kind() {
                io::ErrorKind::AlreadyExists => exists(),
                _ => write_error(&path, error.error),
            })?;
            // The name is durable once its directory is.
            File::open(&root).and_then(|root| root.sync_all()).map_err(|error| write_error(&path, error))
        })
        .await?
    }

    pub(super) async fn delete(&self, name: &str) -> Result<(), StoreError> {
        let (path, name) = (self.path.clone(), name.to_owned());
        blocking(move || match std::fs::remove_file(root(&path)?.join(&name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(write_error(&path, error)),
            Ok(()) | Err(_) => Ok(()),
        })
        .await?
    }
}

/// A file beside the backups that goes when it is dropped.
fn part(root: &Path) -> io::Result<NamedTempFile> {
    tempfile::Builder::new().prefix(PART_PREFIX).suffix(PART_SUFFIX).tempfile_in(root)
}

/// Removes what writers that died have left; what cannot be removed is in nobody's way.
fn sweep(root: &Path) {
    for entry in root.read_dir().into_iter().flatten().take(MAX_ENTRIES).flatten() {
        let name = entry.file_name();
        let is_part = name.to_str().is_some_and(|name| name.starts_with(PART_PREFIX) && name.ends_with(PART_SUFFIX));
        let age = || entry.metadata().ok()?.modified().ok()?.elapsed().ok();
        if is_part && age().is_some_and(|age| age > PART_OF_THE_DEAD) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

fn write_error(path: &Path, source: io::Error) -> StoreError {
    let place = describe(path);
    match source.kind() {
        _ if is_full(&source) => StoreError::Full { place },
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => StoreError::ReadOnly { place, source },
        _ => directory_error(path, source),
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
