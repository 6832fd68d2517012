//! The backup of a run that waits stays in the spool: each look at it would fetch it again.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::BoxFuture;

use super::{Backups, BackupsWriter, Location, OpenStore, Spool, SpoolLimits, Stat, StoreError};

/// Opens places as `stores` does, and keeps the last backup that came from a bucket for as long as its ETag stays.
///
/// A directory gives no ETag: it is near, and read again.
pub struct KeepingStores {
    stores: Arc<dyn OpenStore>,
    kept: Arc<Keeper>,
}

#[derive(Default)]
struct Keeper(Mutex<Option<Kept>>);

struct Kept {
    place: String,
    name: String,
    /// As it was before the backup was fetched: one that was replaced meanwhile has another by the next look.
    etag: String,
    spool: Spool,
}

impl Keeper {
    fn kept(&self) -> MutexGuard<'_, Option<Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, place: &str, name: &str, etag: &str) -> Option<Spool> {
        let kept = self.kept();
        let kept = kept.as_ref().filter(|kept| kept.place == place && kept.name == name && kept.etag == etag);
        kept.map(|kept| kept.spool.clone())
    }
}

impl KeepingStores {
    /// Keeps nothing yet.
    pub fn new(stores: Arc<dyn OpenStore>) -> Self {
        Self { stores, kept: Arc::default() }
    }

    /// Frees the disk, once whoever still reads the backup is done.
    pub fn forget(&self) {
        self.kept.kept().take();
    }
}

impl OpenStore for KeepingStores {
    fn open<'a>(&'a self, location: &'a Location) -> BoxFuture<'a, Result<Box<dyn Backups>, StoreError>> {
        Box::pin(async move {
            let backups = self.stores.open(location).await?;
            Ok(Box::new(KeepingBackups { backups, keeper: Arc::clone(&self.kept) }) as Box<dyn Backups>)
        })
    }

    fn open_writer<'a>(&'a self, location: &'a Location) -> BoxFuture<'a, Result<Box<dyn BackupsWriter>, StoreError>> {
        self.stores.open_writer(location)
    }
}

struct KeepingBackups {
    backups: Box<dyn Backups>,
    keeper: Arc<Keeper>,
}

impl KeepingBackups {
    async fn fetch(&self, name: &str, spool_dir: &Path, limits: SpoolLimits) -> Result<Spool, StoreError> {
        let place = self.backups.describe();
        let etag = self.backups.stat(name).await?.and_then(|stat| stat.etag);
        if let Some(spool) = etag.as_deref().and_then(|etag| self.keeper.find(&place, name, etag)) {
            return Ok(spool);
        }
        // Two do not lie on the disk at once.
        self.keeper.kept().take();
        let spool = self.backups.spool(name, spool_dir, limits).await?;
        if let Some(etag) = etag {
            *self.keeper.kept() = Some(Kept { place, name: name.to_owned(), etag, spool: spool.clone() });
        }
        Ok(spool)
    }
}

impl Backups for KeepingBackups {
    fn describe(&self) -> String {
        self.backups.describe()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<(String, Stat)>, StoreError>> {
        self.backups.list()
    }

    fn stat<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Stat>, StoreError>> {
        self.backups.stat(name)
    }

    fn spool<'a>(
        &'a self,
        name: &'a str,
        spool_dir: &'a Path,
        limits: SpoolLimits,
    ) -> BoxFuture<'a, Result<Spool, StoreError>> {
        Box::pin(self.fetch(name, spool_dir, limits))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::store::Stores;

    /// A folder that gives ETags, and counts what is fetched.
    #[derive(Clone, Default)]
    struct Bucket {
        etag: Arc<Mutex<Option<&'static str>>>,
        fetched: Arc<AtomicUsize>,
    }

    struct Opened(Bucket, Box<dyn Backups>);

    impl OpenStore for Bucket {
        fn open<'a>(&'a self, location: &'a Location) -> BoxFuture<'a, Result<Box<dyn Backups>, StoreError>> {
            Box::pin(
                async move { Ok(Box::new(Opened(self.clone(), Stores.open(location).await?)) as Box<dyn Backups>) },
            )
        }

        fn open_writer<'a>(
            &'a self,
            location: &'a Location,
        ) -> BoxFuture<'a, Result<Box<dyn BackupsWriter>, StoreError>> {
            Stores.open_writer(location)
        }
    }

    impl Backups for Opened {
        fn describe(&self) -> String {
            self.1.describe()
        }

        fn list(&self) -> BoxFuture<'_, Result<Vec<(String, Stat)>, StoreError>> {
            self.1.list()
        }

        fn stat<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Stat>, StoreError>> {
            Box::pin(async move {
                let etag = self.0.etag.lock().expect("no test panics here").map(str::to_owned);
                Ok(self.1.stat(name).await?.map(|stat| Stat { etag, ..stat }))
            })
        }

        fn spool<'a>(
            &'a self,
            name: &'a str,
            spool_dir: &'a Path,
            limits: SpoolLimits,
        ) -> BoxFuture<'a, Result<Spool, StoreError>> {
            self.0.fetched.fetch_add(1, Ordering::Relaxed);
            self.1.spool(name, spool_dir, limits)
        }
    }

    #[tokio::test]
    async fn a_backup_is_fetched_once_for_as_long_as_its_etag_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["a.tar.gz", "b.tar.gz"] {
            std::fs::write(folder.path().join(name), name).expect("written");
        }
        let bucket = Bucket::default();
        let stores = KeepingStores::new(Arc::new(bucket.clone()));
        let location = Location::Directory(folder.path().to_owned());
        let fetch = async |name: &str, etag: Option<&'static str>| {
            *bucket.etag.lock().expect("no test panics here") = etag;
            let opened = stores.open(&location).await.expect("opened");
            let spool = opened.spool(name, folder.path(), SpoolLimits { max_bytes: 100 }).await.expect("spooled");
            assert_eq!(spool.size(), name.len() as u64);
            bucket.fetched.load(Ordering::Relaxed)
        };
        assert_eq!(fetch("a.tar.gz", Some("1")).await, 1);
        assert_eq!(fetch("a.tar.gz", Some("1")).await, 1, "it is there");
        assert_eq!(fetch("a.tar.gz", Some("2")).await, 2, "it was replaced");
        assert_eq!(fetch("b.tar.gz", Some("2")).await, 3, "another");
        assert_eq!(fetch("a.tar.gz", Some("2")).await, 4, "one is kept");
        stores.forget();
        assert_eq!(fetch("a.tar.gz", Some("2")).await, 5);
        assert_eq!(fetch("a.tar.gz", None).await, 6, "nothing says that it is the same");
        assert_eq!(fetch("a.tar.gz", None).await, 7);
    }

    #[tokio::test]
    async fn what_is_gone_is_not_given_though_it_is_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.tar.gz");
        std::fs::write(&path, "a").expect("written");
        let bucket = Bucket { etag: Arc::new(Mutex::new(Some("1"))), ..Bucket::default() };
        let stores = KeepingStores::new(Arc::new(bucket));
        let location = Location::Directory(folder.path().to_owned());
        let opened = stores.open(&location).await.expect("opened");
        let limits = SpoolLimits { max_bytes: 100 };
        opened.spool("a.tar.gz", folder.path(), limits).await.expect("spooled");
        std::fs::remove_file(&path).expect("removed");
        let gone = opened.spool("a.tar.gz", folder.path(), limits).await;
        assert!(matches!(gone, Err(StoreError::NotFound { .. })), "{gone:?}");
    }
}
