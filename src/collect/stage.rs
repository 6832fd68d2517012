//! Objects on disk, on their way from the lists into the archive.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::object::ObjectKey;
use crate::store::{StoreError, unlinked, unwritten};

/// Where an object's bytes lie.
#[derive(Debug)]
pub(super) struct Entry {
    pub key: ObjectKey,
    /// Of its entry.
    pub path: String,
    at: u64,
    bytes: u32,
}

/// An unlinked file that objects are added to in any order, by several lists at once.
///
/// Writes go to the page cache, some KiB at a time, so that they are made where the objects are taken apart.
#[derive(Debug)]
pub(super) struct Stage {
    dir: PathBuf,
    file: File,
    end: Mutex<u64>,
}

impl Stage {
    pub fn new(dir: &Path) -> Result<Self, StoreError> {
        let file = unlinked(dir).map_err(|error| unwritten(dir, error))?;
        Ok(Self { dir: dir.to_owned(), file, end: Mutex::new(0) })
    }

    pub fn add(&self, key: ObjectKey, content: &[u8]) -> Result<Entry, StoreError> {
        let at = {
            let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
            let at = *end;
            *end += content.len() as u64;
            at
        };
        self.file.write_all_at(content, at).map_err(|error| unwritten(&self.dir, error))?;
        // An answer of the API server is far smaller than 4 GiB.
        let bytes = u32::try_from(content.len()).unwrap_or(u32::MAX);
        Ok(Entry { path: crate::backup::entry_path(&key), key, at, bytes })
    }

    pub fn read(&self, entry: &Entry) -> Result<Vec<u8>, StoreError> {
        let mut content = vec![0; entry.bytes as usize];
        self.file.read_exact_at(&mut content, entry.at).map_err(|source| StoreError::Unread { source })?;
        Ok(content)
    }
}
