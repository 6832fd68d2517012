//! A backup as it is stored, in an unlinked temporary file: written once, read as often as a run has passes.

use std::fmt;
use std::fs::{File, Permissions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::StoreError;

/// Chunks that may wait for the disk. A chunk is what one read gave, so this bounds memory at a few MiB.
const CHUNKS_IN_FLIGHT: usize = 16;

/// A SHA-256, written as `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256([u8; 32]);

impl Sha256 {
    /// The digest of `data`.
    pub fn of(data: &[u8]) -> Self {
        Self(sha2::Sha256::digest(data).into())
    }

    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 digits without `sha256:`.
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that was taken for a [`Sha256`] and is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a digest is `sha256:` followed by 64 lower-case hexadecimal digits")]
pub struct NotADigest;

impl FromStr for Sha256 {
    type Err = NotADigest;

    /// Takes the one way of writing a digest, so that equal digests are equal texts.
    fn from_str(text: &str) -> Result<Self, NotADigest> {
        let digits = text.strip_prefix("sha256:").ok_or(NotADigest)?.as_bytes();
        let (pairs, []) = digits.as_chunks::<2>() else { return Err(NotADigest) };
        let bytes = pairs.iter().map(|[high, low]| Some(nibble(*high)? << 4 | nibble(*low)?));
        let bytes: Vec<u8> = bytes.collect::<Option<_>>().ok_or(NotADigest)?;
        bytes.try_into().map(Self).map_err(|_| NotADigest)
    }
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl Serialize for Sha256 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sha256 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What a spool may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpoolLimits {
    /// Largest backup, in bytes as stored, that is fetched at all.
    pub max_bytes: u64,
}

impl SpoolLimits {
    pub(super) fn admit(&self, name: &str, size: u64) -> Result<(), StoreError> {
        let Self { max_bytes } = *self;
        if size <= max_bytes {
            return Ok(());
        }
        Err(StoreError::TooLarge { name: name.to_owned(), size, limit: max_bytes })
    }
}

/// One backup as stored, with its digest, in a file of mode 0600 that has no name.
///
/// The kernel frees the space when the last clone and the last reader are gone, however the process ends.
#[derive(Debug, Clone)]
pub struct Spool {
    file: Arc<File>,
    size: u64,
    sha256: Sha256,
}

impl Spool {
    /// Bytes, as stored.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Digest of the bytes as stored.
    pub fn sha256(&self) -> &Sha256 {
        &self.sha256
    }

    /// A reader at the start. Readers keep positions of their own: passes do not disturb one another.
    pub fn reader(&self) -> SpoolReader {
        SpoolReader { file: Arc::clone(&self.file), position: 0 }
    }
}

/// Reads a [`Spool`] from its start to its end; unbuffered, and blocking.
#[derive(Debug, Clone)]
pub struct SpoolReader {
    file: Arc<File>,
    position: u64,
}

impl Read for SpoolReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}

/// A [`Spool`] that is written by whoever makes its bytes, on a thread that may block.
///
/// Dropped early it leaves nothing behind.
pub struct SpoolDraft {
    dir: PathBuf,
    file: BufWriter<File>,
    written: u64,
    digest: sha2::Sha256,
}

impl SpoolDraft {
    /// An unlinked file of mode 0600 in `dir`.
    ///
    /// # Errors
    ///
    /// `Full` or `Spool`.
    pub fn create(dir: &Path) -> Result<Self, StoreError> {
        let file = unlinked(dir).map_err(|error| unwritten(dir, error))?;
        Ok(Self { dir: dir.to_owned(), file: BufWriter::new(file), written: 0, digest: sha2::Sha256::new() })
    }

    /// # Errors
    ///
    /// `Full` or `Spool`.
    pub fn finish(self) -> Result<Spool, StoreError> {
        let Self { dir, file, written, digest } = self;
        let file = file.into_inner().map_err(|error| unwritten(&dir, error.into_error()))?;
        Ok(Spool { file: Arc::new(file), size: written, sha256: Sha256(digest.finalize().into()) })
    }
}

impl Write for SpoolDraft {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.file.write(buffer)?;
        self.digest.update(&buffer[..written]);
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A file of mode 0600 without a name.
pub(crate) fn unlinked(dir: &Path) -> io::Result<File> {
    let file = tempfile::tempfile_in(dir)?;
    // A file that never had a name is made with the mode of the umask.
    file.set_permissions(Permissions::from_mode(0o600))?;
    Ok(file)
}

/// Why a temporary file in `dir` did not take what was written.
pub(crate) fn unwritten(dir: &Path, source: io::Error) -> StoreError {
    match is_full(&source) {
        true => StoreError::Full { place: format!("directory {}", dir.display()) },
        false => StoreError::Spool { dir: dir.to_owned(), source },
    }
}

pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Takes a backup's bytes, in order, and becomes its [`Spool`]. Disk and digest are worked on a blocking thread.
///
/// Dropped early it leaves nothing behind.
pub(super) struct SpoolWriter {
    chunks: mpsc::Sender<Bytes>,
    task: JoinHandle<Result<Spool, StoreError>>,
}

impl SpoolWriter {
    /// Opens an unlinked file in `dir` for `size` bytes.
    ///
    /// # Errors
    ///
    /// `NoSpace` when the file system of `dir` has less left than `size`, `Spool` when `dir` cannot be written.
    pub(super) async fn create(dir: &Path, size: u64) -> Result<Self, StoreError> {
        let dir = dir.to_owned();
        let draft = blocking(move || Draft::create(dir, size)).await??;
        let (chunks, queue) = mpsc::channel(CHUNKS_IN_FLIGHT);
        Ok(Self { chunks, task: tokio::task::spawn_blocking(move || draft.fill(queue)) })
    }

    pub(super) async fn write(&mut self, chunk: Bytes) -> Result<(), StoreError> {
        match self.chunks.send(chunk).await {
            Ok(()) => Ok(()),
            // The thread ends before its queue only when it cannot go on.
            Err(_) => match joined((&mut self.task).await)? {
                Ok(_) => Err(StoreError::Stopped),
                Err(error) => Err(error),
            },
        }
    }

    pub(super) async fn finish(self) -> Result<Spool, StoreError> {
        let Self { chunks, task } = self;
        drop(chunks);
        joined(task.await)?
    }
}

struct Draft {
    dir: PathBuf,
    file: File,
    size: u64,
    written: u64,
    digest: sha2::Sha256,
}

impl Draft {
    fn create(dir: PathBuf, size: u64) -> Result<Self, StoreError> {
        let opened = unlinked(&dir).and_then(|file| Ok((available(&file)?, file)));
        let (available, file) = opened.map_err(|error| spool_error(&dir, size, error))?;
        if available < size {
            return Err(StoreError::NoSpace { dir, needed: size, available: Some(available) });
        }
        Ok(Self { dir, file, size, written: 0, digest: sha2::Sha256::new() })
    }

    fn fill(mut self, mut queue: mpsc::Receiver<Bytes>) -> Result<Spool, StoreError> {
        while let Some(chunk) = queue.blocking_recv() {
            self.file.write_all(&chunk).map_err(|error| spool_error(&self.dir, self.size, error))?;
            self.digest.update(&chunk);
            self.written += chunk.len() as u64;
        }
        let Self { dir: _, file, size: _, written, digest } = self;
        Ok(Spool { file: Arc::new(file), size: written, sha256: Sha256(digest.finalize().into()) })
    }
}

/// Bytes that this process may still write to the file system of `file`.
fn available(file: &File) -> io::Result<u64> {
    let fs = rustix::fs::fstatvfs(file)?;
    Ok(fs.f_bavail.saturating_mul(fs.f_frsize))
}

fn spool_error(dir: &Path, size: u64, error: io::Error) -> StoreError {
    let dir = dir.to_owned();
    match is_full(&error) {
        true => StoreError::NoSpace { dir, needed: size, available: None },
        false => StoreError::Spool { dir, source: error },
    }
}

/// Runs `work` on a blocking thread, in the span of its caller.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, StoreError> {
    let span = tracing::Span::current();
    joined(tokio::task::spawn_blocking(move || span.in_scope(work)).await)
}

/// A blocking thread is cut off only when the runtime shuts down, or by a panic, which goes on here.
pub(super) fn joined<T>(result: Result<T, tokio::task::JoinError>) -> Result<T, StoreError> {
    result.map_err(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => StoreError::Stopped,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_read_as_it_is_written_and_no_other_way() {
        let digest = Sha256::of(b"abc");
        let text = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest.to_string(), text);
        assert_eq!(text.parse(), Ok(digest));
        for wrong in ["", "sha256:", &text[7..], &text[..70], &text.to_uppercase(), &format!("{text}0"), "sha256:é"] {
            assert_eq!(wrong.parse::<Sha256>(), Err(NotADigest), "{wrong}");
        }
        let upper = format!("sha256:{}", text[7..].to_uppercase());
        assert_eq!(upper.parse::<Sha256>(), Err(NotADigest));
    }

    #[tokio::test]
    async fn readers_of_a_spool_keep_their_own_positions() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = SpoolWriter::create(dir.path(), 6).await.unwrap();
        writer.write(Bytes::from_static(b"abc")).await.unwrap();
        writer.write(Bytes::from_static(b"def")).await.unwrap();
        let spool = writer.finish().await.unwrap();
        let (mut first, mut second) = (spool.reader(), spool.reader());
        let mut start = [0; 2];
        first.read_exact(&mut start).unwrap();
        let (mut rest, mut whole) = (String::new(), String::new());
        second.read_to_string(&mut whole).unwrap();
        first.read_to_string(&mut rest).unwrap();
        assert_eq!((&start, rest.as_str(), whole.as_str()), (b"ab", "cdef", "abcdef"));
        assert_eq!((spool.size(), *spool.sha256()), (6, Sha256::of(b"abcdef")));
    }

    #[tokio::test]
    async fn a_spool_has_mode_0600_and_no_name() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let spool = SpoolWriter::create(dir.path(), 0).await.unwrap().finish().await.unwrap();
        let meta = spool.file.metadata().unwrap();
        assert_eq!((meta.mode() & 0o777, meta.nlink()), (0o600, 0));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_spool_that_cannot_fit_is_refused_before_a_byte_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let refused = SpoolWriter::create(dir.path(), u64::MAX).await.err();
        assert!(
            matches!(refused, Some(StoreError::NoSpace { needed: u64::MAX, available: Some(_), .. })),
            "{refused:?}"
        );
    }
}
