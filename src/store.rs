//! Stores: where backups lie. Bytes in, bytes out; what is in a backup is not looked at.
//!
//! Reading and writing are different capabilities: [`Backups`] fetches and lists, [`BackupsWriter`] adds and removes besides, and is
//! opened apart, so that what plans cannot write. Fetching a backup takes `s3:GetObject` on it, and listing `s3:ListBucket`, which
//! nothing else needs; writing takes `s3:PutObject`, and dropping old ones `s3:DeleteObject`. Settings of one location (roots, skipped verification, credentials) hold for its [`Store`] alone.
//!
//! What the AWS SDK logs at `TRACE` holds access keys: telemetry lets pass only what
//! [`may_be_logged`].

mod directory;
mod error;
mod kept;
mod location;
mod s3;
mod spool;

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::Timestamp;

pub use crate::manifest::{AwsConfig, BucketLookup, ClientConfig, S3Location};
pub use error::{Cause, StoreError};
pub use kept::KeepingStores;
pub use location::{DEFAULT_REGION, S3Credentials};
pub use spool::{NotADigest, Sha256, Spool, SpoolDraft, SpoolLimits, SpoolReader};
pub(crate) use spool::{unlinked, unwritten};

/// Whether an event or a span may be logged, whatever level a user asks for: below `INFO` the SDK prints its credentials
/// (the access key in clear), requests, and answers, those of credential services included; what carries its requests
/// prints their bytes.
///
/// A `tracing_subscriber::filter::FilterFn` beside the `EnvFilter`, not more of its directives: among those a user's
/// longer target would win.
pub fn may_be_logged(metadata: &tracing::Metadata<'_>) -> bool {
    let target = metadata.target();
    *metadata.level() <= tracing::Level::INFO || !QUIET_TARGETS.iter().any(|quiet| target.starts_with(quiet))
}

/// Beginnings of the targets that [`may_be_logged`] quiets.
const QUIET_TARGETS: [&str; 4] = ["aws_", "h2", "hyper", "rustls"];

/// Most entries of a folder that a listing looks at, so that a bucket shared with millions of objects ends in an error
/// that says so. A backup an hour fills it in eleven years.
const MAX_ENTRIES: usize = 100_000;

/// Longest name of a file (Linux `NAME_MAX`) and so of a backup, in bytes.
const MAX_NAME_BYTES: usize = 255;

/// A place where backups lie.
#[derive(Debug, Clone)]
pub enum Location {
    Directory(PathBuf),
    S3 {
        location: S3Location,
        /// `None`: the SDK's default chain (environment, profile, web identity, instance).
        credentials: Option<S3Credentials>,
    },
}

/// How long to wait for an S3 server, and how often to ask again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For a connection, with name lookup and TLS handshake.
    pub connect: Duration,
    /// For the head of an answer, and for each next piece of its body.
    pub read: Duration,
    /// Tries of one request, and of a download in a row that bring no byte.
    pub tries: u32,
    /// Wait before the second try, doubled before each further one.
    pub backoff: Duration,
    /// Longest wait between two tries.
    pub max_backoff: Duration,
}

impl Default for Patience {
    /// A server that is restarted is waited for. A request that is never answered is given up after about two minutes,
    /// a download after four such requests in a row.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            read: Duration::from_secs(30),
            tries: 4,
            backoff: Duration::from_millis(500),
            max_backoff: Duration::from_secs(10),
        }
    }
}

/// What a store says of a backup without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// Bytes, as stored.
    pub size: u64,
    pub modified: Option<Timestamp>,
    /// S3's mark of this content, as the server writes it; a directory has none.
    pub etag: Option<String>,
}

/// An opened [`Location`].
#[derive(Debug)]
pub struct Store(Kind);

#[derive(Debug)]
enum Kind {
    Directory(directory::Directory),
    S3(Box<s3::Bucket>),
}

/// Opens the places that manifests name; [`Stores`] opens the real ones.
pub trait OpenStore: Send + Sync {
    /// As [`Store::open`].
    fn open<'a>(&'a self, location: &'a Location) -> BoxFuture<'a, Result<Box<dyn Backups>, StoreError>>;
    /// The same place, to be written to. Nothing is written by opening it.
    fn open_writer<'a>(&'a self, location: &'a Location) -> BoxFuture<'a, Result<Box<dyn BackupsWriter>, StoreError>>;
}

/// What reinback asks of a place where backups lie; [`Store`] is the real one.
pub trait Backups: Send + Sync {
    /// As [`Store::describe`].
    fn describe(&self) -> String;
    /// As [`Store::list`].
    fn list(&self) -> BoxFuture<'_, Result<Vec<(String, Stat)>, StoreError>>;
    /// As [`Store::stat`].
    fn stat<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Stat>, StoreError>>;
    /// As [`Store::spool`].
    fn spool<'a>(
        &'a self,
        name: &'a str,
        spool_dir: &'a Path,
        limits: SpoolLimits,
    ) -> BoxFuture<'a, Result<Spool, StoreError>>;
}

/// The half that changes a store. Only who carries out a run, or was told to make a backup, opens one.
pub trait BackupsWriter: Backups {
    /// As [`Store::probe`].
    fn probe(&self) -> BoxFuture<'_, Result<(), StoreError>>;
    /// As [`Store::put`].
    fn put<'a>(&'a self, name: &'a str, backup: &'a Spool) -> BoxFuture<'a, Result<(), StoreError>>;
    /// As [`Store::delete`].
    fn delete<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), StoreError>>;
}

/// Directories and buckets.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stores;

impl OpenStore for Stores {
    fn open<'a>(&'a self, location: &'a Location) -> BoxFuture<'a, Result<Box<dyn Backups>, StoreError>> {
        Box::pin(async move { Ok(Box::new(Store::open(location).await?) as Box<dyn Backups>) })
    }

    fn open_writer<'a>(&'a self, location: &'a Location) -> BoxFuture<'a, Result<Box<dyn BackupsWriter>, StoreError>> {
        Box::pin(async move { Ok(Box::new(Store::open(location).await?) as Box<dyn BackupsWriter>) })
    }
}

impl Backups for Store {
    fn describe(&self) -> String {
        Store::describe(self)
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<(String, Stat)>, StoreError>> {
        Box::pin(Store::list(self))
    }

    fn stat<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Stat>, StoreError>> {
        Box::pin(Store::stat(self, name))
    }

    fn spool<'a>(
        &'a self,
        name: &'a str,
        spool_dir: &'a Path,
        limits: SpoolLimits,
    ) -> BoxFuture<'a, Result<Spool, StoreError>> {
        Box::pin(Store::spool(self, name, spool_dir, limits, &|_, _| {}))
    }
}

impl BackupsWriter for Store {
    fn probe(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(Store::probe(self))
    }

    fn put<'a>(&'a self, name: &'a str, backup: &'a Spool) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(Store::put(self, name, backup))
    }

    fn delete<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(Store::delete(self, name))
    }
}

impl Store {
    /// Opens `location`. S3 is not asked yet; a directory must be there.
    ///
    /// # Errors
    ///
    /// `BadLocation`, `BadEndpoint`, `BadCertificate` or `Directory`.
    pub async fn open(location: &Location) -> Result<Self, StoreError> {
        Self::open_with(location, Patience::default()).await
    }

    /// [`Store::open`] with other time-outs.
    pub async fn open_with(location: &Location, patience: Patience) -> Result<Self, StoreError> {
        let kind = match location {
            Location::Directory(path) => Kind::Directory(directory::Directory::open(path).await?),
            Location::S3 { location, credentials } => {
                Kind::S3(Box::new(s3::Bucket::open(location, credentials.as_ref(), patience).await?))
            }
        };
        Ok(Self(kind))
    }

    /// Names the place for people; holds no secret.
    pub fn describe(&self) -> String {
        match &self.0 {
            Kind::Directory(directory) => directory.describe(),
            Kind::S3(bucket) => bucket.describe(),
        }
    }

    /// Looks at the backup `name`; `None` when it is not there.
    pub async fn stat(&self, name: &str) -> Result<Option<Stat>, StoreError> {
        check_name(name)?;
        match &self.0 {
            Kind::Directory(directory) => directory.stat(name).await,
            Kind::S3(bucket) => bucket.stat(name).await,
        }
    }

    /// All backups of the folder, by name: `*.tar.gz` and `*.tar.gz.enc` directly in it.
    ///
    /// # Errors
    ///
    /// `TooManyEntries` past 100,000 entries of any name; `AccessDenied` without `s3:ListBucket`.
    pub async fn list(&self) -> Result<Vec<(String, Stat)>, StoreError> {
        let mut backups = match &self.0 {
            Kind::Directory(directory) => directory.list().await?,
            Kind::S3(bucket) => bucket.list().await?,
        };
        backups.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(backups)
    }

    /// Copies the backup `name` into an unlinked file in `spool_dir`; `progress` hears of bytes done and bytes in all.
    ///
    /// A broken download goes on where it broke. Dropping the future leaves nothing behind.
    ///
    /// # Errors
    ///
    /// `NotFound`, `TooLarge` and `NoSpace` before a byte is read; `Changed` when the backup was replaced meanwhile.
    pub async fn spool(
        &self,
        name: &str,
        spool_dir: &Path,
        limits: SpoolLimits,
        progress: &(dyn Fn(u64, u64) + Send + Sync),
    ) -> Result<Spool, StoreError> {
        check_name(name)?;
        match &self.0 {
            Kind::Directory(directory) => directory.spool(name, spool_dir, limits, progress).await,
            Kind::S3(bucket) => bucket.spool(name, spool_dir, limits, progress).await,
        }
    }
}

impl Store {
    /// Writes something small that no listing shows, and takes it away.
    ///
    /// # Errors
    ///
    /// `ReadOnly`, `Full`, `AccessDenied` and others, as a backup would meet them. That it cannot be taken away is none.
    pub async fn probe(&self) -> Result<(), StoreError> {
        match &self.0 {
            Kind::Directory(directory) => directory.probe().await,
            Kind::S3(bucket) => bucket.probe().await,
        }
    }

    /// Stores `backup` under `name`, whole or not at all: a reader never sees a part of it, and of a store that fails or a process
    /// that dies nothing is left under the name.
    ///
    /// # Errors
    ///
    /// `Exists`: nothing is ever written over. `Full`, `ReadOnly`, and what [`Store::stat`] may say.
    pub async fn put(&self, name: &str, backup: &Spool) -> Result<(), StoreError> {
        check_name(name)?;
        match &self.0 {
            Kind::Directory(directory) => directory.put(name, backup).await,
            Kind::S3(bucket) => bucket.put(name, backup).await,
        }
    }

    /// Removes the backup `name`; one that is gone already is as good.
    pub async fn delete(&self, name: &str) -> Result<(), StoreError> {
        check_name(name)?;
        match &self.0 {
            Kind::Directory(directory) => directory.delete(name).await,
            Kind::S3(bucket) => bucket.delete(name).await,
        }
    }
}

/// Stores a backup and reads all of it back.
///
/// # Errors
///
/// As [`Store::put`] and [`Store::spool`]; `NotAsWritten` when other bytes come back.
pub async fn put_verified(
    store: &dyn BackupsWriter,
    name: &str,
    backup: &Spool,
    spool_dir: &Path,
) -> Result<(), StoreError> {
    store.put(name, backup).await?;
    let back = store.spool(name, spool_dir, SpoolLimits { max_bytes: backup.size() }).await?;
    if back.sha256() == backup.sha256() {
        return Ok(());
    }
    // It was not there before, so it is ours to remove; where that fails, it is no backup all the same.
    let _ = store.delete(name).await;
    Err(StoreError::NotAsWritten { place: store.describe(), name: name.to_owned() })
}

/// A name stays in its folder and on its line, whoever chose it.
fn check_name(name: &str) -> Result<(), StoreError> {
    let wrong = if name.is_empty() || name == "." {
        "it is empty"
    } else if name.len() > MAX_NAME_BYTES {
        "it is longer than 255 bytes"
    } else if name.contains('/') {
        "it holds a `/`; the folder is part of the storage location"
    } else if name.contains("..") {
        "it holds `..`"
    } else if name.chars().any(char::is_control) {
        "it holds a control character"
    } else {
        return Ok(());
    };
    Err(StoreError::BadName { name: name.escape_debug().take(MAX_NAME_BYTES).collect(), reason: wrong })
}

/// Whether a listing shows `name`. What cannot be named in a manifest is not shown.
fn is_backup(name: &str) -> bool {
    check_name(name).is_ok()
        && [".tar.gz", ".tar.gz.enc"].iter().any(|end| name.strip_suffix(end).is_some_and(|stem| !stem.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_leads_elsewhere_is_refused() {
        for name in
            ["", ".", "..", "../a.tar.gz", "a/b.tar.gz", "/etc/passwd", "a\0.tar.gz", "a\n.tar.gz", &"a".repeat(256)]
        {
            assert!(matches!(check_name(name), Err(StoreError::BadName { .. })), "{name:?}");
        }
        assert!(check_name("nightly-2026-11-23T09-00-00Z.tar.gz").is_ok());
        insta::assert_snapshot!(check_name("../a\u{7}").unwrap_err(), @r"`../a\u{7}` is no name of a backup: it holds a `/`; the folder is part of the storage location");
    }

    #[test]
    fn a_listing_shows_backups_only() {
        assert!(is_backup("a.tar.gz") && is_backup("a.tar.gz.enc"));
        for other in [".tar.gz", "a.tar", "a.tar.gz.sha256", "a.TAR.GZ", "a\n.tar.gz"] {
            assert!(!is_backup(other), "{other}");
        }
    }

    #[test]
    fn a_store_is_used_from_any_thread() {
        fn any_thread(_: &(impl Send + ?Sized)) {}
        let spool = |store: &'static Store| {
            any_thread(store);
            any_thread(&store.spool("a", Path::new("/"), SpoolLimits { max_bytes: 0 }, &|_, _| {}));
            any_thread(&store.list());
        };
        let _ = spool;
    }
}
