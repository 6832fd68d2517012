//! A bare repository that may be deleted or half written at any time.
//!
//! ```text
//! <dir>/lock          held by flock while a process uses the cache; never deleted, so that two holders meet on one file
//! <dir>/repo.git/     the repository; its one ref is TIP
//! <dir>/repo.git/reinback-source   whose copy it is; written last when it is made, so a half-made one has none
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use git2::{Oid, Repository, RepositoryInitOptions, RepositoryOpenFlags};
use tracing::{info, warn};

use super::auth::Scrubber;
use super::error::{Fault, GitError};
use super::process;

/// The remote branch's tip as last fetched.
pub(super) const TIP: &str = "refs/reinback/tip";
const SOURCE: &str = "reinback-source";
/// Packs after which the clone is made anew, instead of packing it (libgit2 cannot): as Git's `gc.autoPackLimit`.
const MAX_PACKS: usize = 50;
/// Loose objects in one of 256 folders after which the clone is made anew: Git's `gc.auto` (6,700) over 256.
const MAX_LOOSE: usize = 27;
/// A lock that was just given back lives on for a moment in a child process between fork and exec.
const LOCK_TRIES: u32 = 50;
const LOCK_WAIT: Duration = Duration::from_millis(20);

/// A clone of one branch of one remote, held by this process alone.
pub(super) struct Cache {
    dir: PathBuf,
    /// Whose copy it is: URL and branch.
    source: String,
    lock: File,
    repository: Repository,
    /// How many commits the last fetch asked for; `i32::MAX` for all there are. Unknown after a start, and then 1.
    pub(super) depth: i32,
    /// Set when an object cannot be read; the next [`Cache::heal`] starts anew.
    damaged: AtomicBool,
}

impl Cache {
    /// Takes the folder for this process and sweeps what a killed one left.
    ///
    /// # Errors
    ///
    /// [`GitError::Busy`] when another process, or another part of this one, holds the folder.
    pub(super) fn open(dir: &Path, source: String) -> Result<Self, GitError> {
        process::started()?;
        let lock = take_lock(dir)?;
        let repository = match open_repository(dir, &source) {
            Some(repository) => repository,
            None => create(dir, &source)?,
        };
        Ok(Self { dir: dir.to_owned(), source, lock, repository, depth: 1, damaged: AtomicBool::new(false) })
    }

    pub(super) fn repository(&self) -> &Repository {
        &self.repository
    }

    /// Opens the repository again: libgit2 caches commits with the parents that a shallower clone gave them.
    pub(super) fn reopen(&mut self) -> Result<(), Fault> {
        self.repository = open_git(&self.dir.join("repo.git"))?;
        Ok(())
    }

    /// The tip as last fetched; `None` in a fresh cache, or when what it names is not there whole.
    pub(super) fn tip(&self) -> Option<Oid> {
        let tip = self.repository.refname_to_id(TIP).ok()?;
        let tree = self.repository.find_commit(tip).and_then(|commit| commit.tree());
        tree.is_ok().then_some(tip)
    }

    pub(super) fn set_tip(&self, tip: Oid) -> Result<(), Fault> {
        // The tree is looked up first: the ref is the promise that the fetch was whole.
        self.repository.find_commit(tip)?.tree()?;
        self.repository.reference(TIP, tip, true, "fetched")?;
        Ok(())
    }

    pub(super) fn forget_tip(&self) {
        if let Ok(mut reference) = self.repository.find_reference(TIP) {
            // A ref that cannot be deleted is written over by the next fetch.
            reference.delete().ok();
        }
    }

    /// Runs `work`; when the cache is at fault, deletes it and runs `work` once more on an empty one.
    pub(super) fn heal<T>(&mut self, work: impl Fn(&mut Self) -> Result<T, Fault>) -> Result<T, GitError> {
        self.check()?;
        let fault = match work(self) {
            Ok(value) => return Ok(value),
            Err(Fault::Told(error)) => return Err(error),
            Err(Fault::Local(error)) => self.damage(&error),
        };
        warn!(git.cache = %self.dir.display(), "{fault}");
        self.reset()?;
        work(self).map_err(|fault| self.told(fault))
    }

    /// Marks the cache for the next [`Cache::heal`], and says so.
    pub(super) fn told(&self, fault: Fault) -> GitError {
        match fault {
            Fault::Told(error) => error,
            Fault::Local(error) => self.damage(&error),
        }
    }

    fn damage(&self, error: &git2::Error) -> GitError {
        self.damaged.store(true, Ordering::Relaxed);
        GitError::Cache { dir: self.dir.clone(), detail: Scrubber::default().clean(error.message()) }
    }

    /// Makes sure that the folder is still there and still ours, and not grown beyond use.
    fn check(&mut self) -> Result<(), GitError> {
        if !same_file(&self.lock, &self.dir.join("lock")) {
            self.lock = take_lock(&self.dir)?;
        }
        let git = self.dir.join("repo.git");
        let grown =
            entries(&git.join("objects/pack"), ".pack") > MAX_PACKS || entries(&git.join("objects/17"), "") > MAX_LOOSE;
        if grown {
            info!(git.cache = %self.dir.display(), "cloning anew: the cache holds many small packs");
        }
        if grown || self.damaged.load(Ordering::Relaxed) || !belongs(&git, &self.source) {
            self.reset()
        } else {
            Ok(())
        }
    }

    fn reset(&mut self) -> Result<(), GitError> {
        self.repository = create(&self.dir, &self.source)?;
        self.damaged.store(false, Ordering::Relaxed);
        Ok(())
    }
}

fn take_lock(dir: &Path) -> Result<File, GitError> {
    let path = dir.join("lock");
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|source| GitError::Io {
        action: "make the folder",
        path: dir.to_owned(),
        source,
    })?;
    let open = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let lock = open.map_err(|source| GitError::Io { action: "open", path: path.clone(), source })?;
    for _ in 0..LOCK_TRIES {
        match lock.try_lock() {
            Ok(()) if same_file(&lock, &path) => return Ok(lock),
            Ok(()) => break,
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_WAIT),
            Err(TryLockError::Error(source)) => return Err(GitError::Io { action: "lock", path, source }),
        }
    }
    Err(GitError::Busy { dir: dir.to_owned() })
}

fn same_file(held: &File, path: &Path) -> bool {
    match (held.metadata(), fs::metadata(path)) {
        (Ok(held), Ok(now)) => held.dev() == now.dev() && held.ino() == now.ino(),
        (Err(_), _) | (_, Err(_)) => false,
    }
}

fn belongs(git: &Path, source: &str) -> bool {
    fs::read_to_string(git.join(SOURCE)).is_ok_and(|text| text == source)
}

/// Opens what is there if it is whole and a copy of `source`.
fn open_repository(dir: &Path, source: &str) -> Option<Repository> {
    let git = dir.join("repo.git");
    if !belongs(&git, source) {
        return None;
    }
    sweep(&git).ok()?;
    let repository = open_git(&git).ok()?;
    repository.odb().ok()?;
    Some(repository)
}

/// Not `open_bare`: that one does not read where a shallow clone ends, and walks of libgit2 then fail at missing parents.
fn open_git(git: &Path) -> Result<Repository, git2::Error> {
    let flags = RepositoryOpenFlags::NO_SEARCH | RepositoryOpenFlags::BARE | RepositoryOpenFlags::NO_DOTGIT;
    Repository::open_ext(git, flags, std::iter::empty::<&Path>())
}

fn create(dir: &Path, source: &str) -> Result<Repository, GitError> {
    let git = dir.join("repo.git");
    let io = |action, path: &Path| {
        let path = path.to_owned();
        move |source| GitError::Io { action, path, source }
    };
    match fs::symlink_metadata(&git) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(&git).map_err(io("delete", &git))?,
        Ok(_) => fs::remove_file(&git).map_err(io("delete", &git))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(GitError::Io { action: "read", path: git, source }),
    }
    let mut options = RepositoryInitOptions::new();
    options.bare(true).external_template(false).initial_head("reinback");
    let made = Repository::init_opts(&git, &options).and_then(|_| open_git(&git));
    let repository = made.map_err(|error| GitError::Io {
        action: "make the cache",
        path: git.clone(),
        source: io::Error::other(error.message().to_owned()),
    })?;
    let marker = git.join(SOURCE);
    fs::write(&marker, source).map_err(io("write", &marker))?;
    Ok(repository)
}

/// Removes the lock files and unfinished packs of a process that was killed; ours is the only one here now.
fn sweep(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if entry.file_type()?.is_dir() {
            sweep(&entry.path())?;
        } else if name.ends_with(".lock") || name.starts_with("tmp_") || name.contains("_git2_") {
            info!("removing {} of a Git process that was killed", entry.path().display());
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn entries(folder: &Path, suffix: &str) -> usize {
    let Ok(found) = fs::read_dir(folder) else { return 0 };
    found.filter_map(Result::ok).filter(|entry| entry.file_name().to_string_lossy().ends_with(suffix)).count()
}
