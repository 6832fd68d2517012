//! The status branch: commits built in the object store on the fetched tip, pushed without force.

use std::cell::RefCell;
use std::path::Path;
use std::time::Duration;

use git2::build::TreeUpdateBuilder;
use git2::{ErrorClass, ErrorCode, FileMode, Oid, PushOptions, RemoteCallbacks, Repository, Signature, Time, Tree};
use jiff::Timestamp;
use tracing::{debug, info, instrument};

use super::auth::Scrubber;
use super::cache::Cache;
use super::error::{Fault, GitError};
use super::fetch::{Depth, Link, note};
use super::id::CommitId;
use super::remote::{Location, Remote};
use super::tree::{self, Found, Kind, RepoPath, TreeLimits, entry_kind};

mod local;

/// Pushes tried in one [`StatusBranch::publish`]; with the waits below they take 7.5 s, and each loser waits for another time.
const TRIES: u32 = 10;
/// Wait after the first lost race; each next is half as long again, and each is between half of that and all of it.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// Who commits are by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Author {
    pub name: String,
    pub email: String,
}

/// A change of one file of the status branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEdit {
    /// From the repository's root, with `/`.
    pub path: String,
    /// `None` removes the file; removing one that is not there is fine.
    pub content: Option<Vec<u8>>,
}

/// How a publication ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// The remote holds this commit now.
    Pushed { commit: CommitId, tries: u32 },
    /// The tip, as last fetched or pushed, already says all of it; `None` when there is no branch and nothing to write.
    Unchanged { tip: Option<CommitId> },
}

/// The branch that status goes to, with its cache.
pub struct StatusBranch {
    link: Link,
    cache: Cache,
    author: Author,
    /// Where the branch was when it was last fetched or pushed; `None` when it did not exist.
    tip: Option<Oid>,
    /// `tip` is where the branch is, as far as can be known: it was fetched, and no push has failed since.
    certain: bool,
}

/// How one attempt to publish ended.
enum Attempt {
    Pushed(CommitId),
    Unchanged(Option<CommitId>),
    Lost(String),
}

/// The files of the branch's tip, as `edit` sees them.
pub struct StatusTree<'a> {
    repository: &'a Repository,
    tree: Option<Tree<'a>>,
    cache: &'a Cache,
}

/// Why a push changed nothing.
enum Refused {
    /// The branch is not where it was, or somebody else is about to move it.
    Lost(String),
    /// The server said no; the tip tells whether that was for a race.
    Rejected(String),
}

impl StatusBranch {
    /// Takes `dir` for this process; no connection is made yet.
    ///
    /// # Errors
    ///
    /// An address, branch or author that cannot be used, a folder that another process holds or that cannot be written.
    pub fn open(dir: &Path, remote: Remote, branch: &str, author: Author) -> Result<Self, GitError> {
        let link = Link::new(remote, branch)?;
        signature(&author, Timestamp::UNIX_EPOCH)?;
        let cache = Cache::open(dir, link.source())?;
        Ok(Self { link, tip: cache.tip(), cache, author, certain: false })
    }

    /// Fetches the branch; `None` when the remote does not have it.
    ///
    /// # Errors
    ///
    /// What the remote or its network did. The cache stays usable.
    #[instrument(skip_all, fields(git.url = %self.link.url(), git.branch = %self.link.branch))]
    pub fn fetch(&mut self) -> Result<Option<CommitId>, GitError> {
        self.certain = false;
        let Self { link, cache, .. } = self;
        let tip = cache.heal(|cache| link.pull(cache, Depth::New))?;
        (self.tip, self.certain) = (tip, true);
        Ok(tip.map(CommitId))
    }

    /// Reads the files under `prefix` (`""` for all) at the tip as last fetched or pushed, ordered as Git orders a tree.
    ///
    /// Links, submodules and files that are too large are left out.
    ///
    /// # Errors
    ///
    /// [`GitError::TooLarge`], [`GitError::Path`] when `prefix` is no folder, [`GitError::Cache`] when objects are missing.
    pub fn read(&self, prefix: &str, limits: &TreeLimits) -> Result<Vec<(String, Vec<u8>)>, GitError> {
        let path = RepoPath::folder(prefix)?;
        let Some(tip) = self.tip else { return Ok(Vec::new()) };
        let repository = self.cache.repository();
        let read = || {
            let root = repository.find_commit(tip)?.tree()?;
            tree::snapshot(repository, root, &path, limits, |_| true)
        };
        let snapshot = read().map_err(|fault| self.cache.told(fault))?;
        Ok(snapshot.files.into_iter().map(|file| (file.path, file.content)).collect())
    }

    /// Reads one file at the tip as last fetched or pushed; `None` when there is none.
    ///
    /// # Errors
    ///
    /// As [`StatusTree::get`].
    pub fn read_file(&self, path: &str, limit: usize) -> Result<Option<Vec<u8>>, GitError> {
        let Some(tip) = self.tip else { return Ok(None) };
        let repository = self.cache.repository();
        let root = || Ok(repository.find_commit(tip)?.tree()?);
        let tree = root().map_err(|fault| self.cache.told(fault))?;
        StatusTree { repository, tree: Some(tree), cache: &self.cache }.get(path, limit)
    }

    /// Commits what `edit` asks for on top of the tip, and pushes it. When somebody else was faster, `edit` is asked again with
    /// their tip, at most 10 times. Files that `edit` does not name stay.
    ///
    /// After an error the remote may hold the commit all the same (its answer was lost); publishing again is right in both cases.
    ///
    /// # Errors
    ///
    /// What `edit` returns; [`GitError::Rejected`] with the server's words; [`GitError::Contended`] after 10 lost races; and what
    /// the remote or its network did.
    #[instrument(skip_all, fields(git.url = %self.link.url(), git.branch = %self.link.branch))]
    pub fn publish(
        &mut self,
        message: &str,
        now: Timestamp,
        edit: &mut dyn FnMut(&StatusTree<'_>) -> Result<Vec<FileEdit>, GitError>,
    ) -> Result<Published, GitError> {
        let mut wait = FIRST_WAIT;
        let mut last = String::new();
        for tries in 1..=TRIES {
            last = match self.attempt(message, now, edit) {
                Ok(Attempt::Pushed(commit)) => {
                    info!(git.commit = %commit, "pushed status in commit {commit:.12}");
                    return Ok(Published::Pushed { commit, tries });
                }
                Ok(Attempt::Unchanged(tip)) => return Ok(Published::Unchanged { tip }),
                Ok(Attempt::Lost(detail)) => detail,
                // Deleted or damaged since the last fetch: the next attempt fetches, which makes it whole.
                Err(GitError::Cache { detail, .. }) if tries == 1 => detail,
                Err(error) => return Err(error),
            };
            debug!(git.tries = tries, "publishing once more: {last}");
            if tries < TRIES {
                std::thread::sleep(wait.mul_f64(0.5 + fastrand::f64() / 2.0));
                wait = wait.mul_f64(1.5);
            }
        }
        Err(GitError::Contended { url: self.link.url(), branch: self.link.branch.clone(), tries: TRIES, detail: last })
    }

    fn attempt(
        &mut self,
        message: &str,
        now: Timestamp,
        edit: &mut dyn FnMut(&StatusTree<'_>) -> Result<Vec<FileEdit>, GitError>,
    ) -> Result<Attempt, GitError> {
        if !self.certain {
            self.fetch()?;
        }
        let parent = self.tip;
        // Until the end of a push is known, so is not where the branch is.
        self.certain = false;
        let Some(commit) = self.commit(parent, message, now, edit)? else {
            self.certain = true;
            return Ok(Attempt::Unchanged(parent.map(CommitId)));
        };
        match self.push(parent, commit)? {
            Ok(()) => {
                self.cache.set_tip(commit).map_err(|fault| self.cache.told(fault))?;
                (self.tip, self.certain) = (Some(commit), true);
                Ok(Attempt::Pushed(CommitId(commit)))
            }
            Err(Refused::Lost(detail)) => Ok(Attempt::Lost(detail)),
            Err(Refused::Rejected(detail)) => {
                self.fetch()?;
                if self.tip == parent { Err(self.rejected(detail)) } else { Ok(Attempt::Lost(detail)) }
            }
        }
    }

    fn rejected(&self, detail: String) -> GitError {
        GitError::Rejected { url: self.link.url(), branch: self.link.branch.clone(), detail }
    }

    /// Makes the commit in the cache; `None` when its tree would be the parent's.
    fn commit(
        &self,
        parent: Option<Oid>,
        message: &str,
        now: Timestamp,
        edit: &mut dyn FnMut(&StatusTree<'_>) -> Result<Vec<FileEdit>, GitError>,
    ) -> Result<Option<Oid>, GitError> {
        let mut made = || -> Result<Option<Oid>, Fault> {
            let repository = self.cache.repository();
            let parent = parent.map(|parent| repository.find_commit(parent)).transpose()?;
            let before = parent.as_ref().map(git2::Commit::tree).transpose()?;
            let edits = edit(&StatusTree { repository, tree: before.clone(), cache: &self.cache })?;
            let tree = edited(repository, before.as_ref(), &edits)?;
            let unchanged = match &before {
                Some(before) => before.id() == tree.id(),
                None => tree.is_empty(),
            };
            if unchanged {
                return Ok(None);
            }
            let signature = signature(&self.author, now)?;
            let parents: Vec<_> = parent.iter().collect();
            Ok(Some(repository.commit(None, &signature, &signature, message, &tree, &parents)?))
        };
        made().map_err(|fault| self.cache.told(fault))
    }

    fn push(&self, parent: Option<Oid>, commit: Oid) -> Result<Result<(), Refused>, GitError> {
        let pushed = match &self.link.location {
            Location::Http(_) => self.push_http(parent, commit),
            Location::File(path) => local::push(self.cache.repository(), path, &self.link, parent, commit),
        };
        pushed.map_err(|fault| self.cache.told(fault))
    }

    fn push_http(&self, parent: Option<Oid>, commit: Oid) -> Result<Result<(), Refused>, Fault> {
        let report = RefCell::new(None);
        let said = RefCell::new(String::new());
        let moved = RefCell::new(false);
        let reference = self.link.reference();
        let repository = self.cache.repository();
        let mut remote = repository.remote_anonymous(&self.link.address())?;
        // Without a plus: neither libgit2 nor the server may move the branch anywhere but forward.
        let refspec = format!("{commit}:{reference}");
        self.link.connected(|scrubber| {
            let mut callbacks = RemoteCallbacks::new();
            callbacks.sideband_progress(|text| {
                note(&said, text);
                true
            });
            callbacks.push_update_reference(|_, status| {
                *report.borrow_mut() = Some(status.map(str::to_owned));
                Ok(())
            });
            callbacks.push_negotiation(|updates| {
                let expected = parent.unwrap_or(Oid::ZERO_SHA1);
                let unmoved = updates.iter().all(|update| update.src() == expected && update.dst() == commit);
                *moved.borrow_mut() = !unmoved;
                if unmoved { Ok(()) } else { Err(git2::Error::from_str("the branch is not at the parent")) }
            });
            let mut options = PushOptions::new();
            options.remote_callbacks(callbacks).packbuilder_parallelism(1);
            let pushed = remote.push(&[&refspec], Some(&mut options));
            drop(options);
            judge(pushed, moved.take(), report.take(), &said.take(), scrubber)
        })
    }
}

/// Sorts what a push came to. An error stays one when nothing says that the server refused.
fn judge(
    pushed: Result<(), git2::Error>,
    moved: bool,
    report: Option<Option<String>>,
    said: &str,
    scrubber: &Scrubber,
) -> Result<Result<(), Refused>, git2::Error> {
    if moved {
        return Ok(Err(Refused::Lost("the branch has moved".to_owned())));
    }
    let status = match (pushed, report) {
        (Ok(()), Some(None)) => return Ok(Ok(())),
        (Ok(()) | Err(_), Some(Some(status))) => status,
        (Ok(()), None) => "the server did not say what became of the branch".to_owned(),
        (Err(error), _) if error.code() == ErrorCode::NotFastForward => {
            return Ok(Err(Refused::Lost(scrubber.clean(error.message()))));
        }
        // `unpack` failed on the server: its disk, its quota, or what it checks.
        (Err(error), _) if error.class() == ErrorClass::Net && !said.is_empty() => error.message().to_owned(),
        (Err(error), _) => return Err(error),
    };
    let detail = scrubber.clean(&if said.trim().is_empty() { status.clone() } else { format!("{status}: {said}") });
    Ok(Err(if is_race(&status) { Refused::Lost(detail) } else { Refused::Rejected(detail) }))
}

/// What servers call a push that came second: Git's `send-pack` and `receive-pack`, old and new, and those built on them.
fn is_race(status: &str) -> bool {
    const WORDS: [&str; 10] = [
        "non-fast-forward",
        "fetch first",
        "stale info",
        "cannot lock ref",
        "failed to lock",
        "unable to lock",
        "failed to update ref",
        "incorrect old value",
        "reference already exists",
        "reference does not exist",
    ];
    WORDS.iter().any(|word| status.contains(word))
}

fn signature(author: &Author, now: Timestamp) -> Result<Signature<'static>, GitError> {
    let Author { name, email } = author;
    let invalid = || GitError::Author { name: name.clone(), email: email.clone() };
    if [name, email].iter().any(|text| text.trim().is_empty() || text.contains(['<', '>', '\n', '\r', '\0'])) {
        return Err(invalid());
    }
    Signature::new(name, email, &Time::new(now.as_second(), 0)).map_err(|_| invalid())
}

/// The tree with `edits` made; the other files stay as they are.
fn edited<'a>(repository: &'a Repository, before: Option<&Tree<'a>>, edits: &[FileEdit]) -> Result<Tree<'a>, Fault> {
    let empty = repository.find_tree(repository.treebuilder(None)?.write()?)?;
    let base = before.unwrap_or(&empty);
    let mut builder = TreeUpdateBuilder::new();
    let mut seen = std::collections::BTreeSet::new();
    for FileEdit { path, content } in edits {
        let path = RepoPath::file(path)?.join();
        if !seen.insert(path.clone()) {
            return Err(GitError::Path { path, problem: "is edited twice in one commit".to_owned() }.into());
        }
        let exists = is_file(repository, base, &path)?;
        match content {
            Some(content) => builder.upsert(&path, repository.blob(content)?, FileMode::Blob),
            None if exists => builder.remove(&path),
            None => &mut builder,
        };
    }
    Ok(repository.find_tree(builder.create_updated(repository, base)?)?)
}

/// Whether there is a file at `path`; an error when a file cannot be there, for something else is in its place or on its way.
fn is_file(repository: &Repository, base: &Tree<'_>, path: &str) -> Result<bool, Fault> {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let blocked = |path: &str, problem: &str| GitError::Path {
        path: path.to_owned(),
        problem: format!("{problem} on the status branch"),
    };
    match tree::folder_at(repository, base.clone(), &RepoPath::folder(folder)?)? {
        Found::Missing => Ok(false),
        Found::Other(path, _) => Err(blocked(&path, "is not a folder").into()),
        Found::Folder(tree) => match tree.get_name(name).map(|entry| entry_kind(&entry)) {
            None => Ok(false),
            Some(Kind::File) => Ok(true),
            Some(Kind::Folder | Kind::Symlink | Kind::Submodule) => Err(blocked(path, "is not a file").into()),
        },
    }
}

impl StatusTree<'_> {
    /// Reads one file; `None` when there is none, or something else of that name.
    ///
    /// # Errors
    ///
    /// [`GitError::TooLarge`] beyond `limit` bytes, [`GitError::Path`], [`GitError::Cache`].
    pub fn get(&self, path: &str, limit: usize) -> Result<Option<Vec<u8>>, GitError> {
        let path = RepoPath::file(path)?.join();
        let Some(tree) = &self.tree else { return Ok(None) };
        let entry = match tree.get_path(Path::new(&path)) {
            Ok(entry) if entry_kind(&entry) == Kind::File => entry,
            Ok(_) => return Ok(None),
            Err(error) if error.code() == ErrorCode::NotFound => return Ok(None),
            Err(error) => return Err(self.cache.told(error.into())),
        };
        match tree::read_blob(self.repository, entry.id(), limit).map_err(|fault| self.cache.told(fault))? {
            Ok(content) => Ok(Some(content)),
            Err(bytes) => {
                Err(GitError::TooLarge { what: format!("{path} ({bytes} bytes)"), limit: format!("{limit} bytes") })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_race_is_told_from_a_refusal() {
        for race in [
            "non-fast-forward",
            "failed to update ref",
            "cannot lock ref 'refs/heads/x': is at a but expected b",
            "incorrect old value provided",
        ] {
            assert!(is_race(race), "{race}");
        }
        for refusal in [
            "hook declined",
            "pre-receive hook declined",
            "protected branch hook declined",
            "deny updating a hidden ref",
        ] {
            assert!(!is_race(refusal), "{refusal}");
        }
    }

    #[test]
    fn an_author_is_one_name_and_one_address() {
        let author = |name: &str, email: &str| Author { name: name.to_owned(), email: email.to_owned() };
        assert!(signature(&author("reinback", "reinback@localhost"), Timestamp::UNIX_EPOCH).is_ok());
        for (name, email) in [("", "a@b"), ("a", ""), ("a\nb", "a@b"), ("a", "<a@b>")] {
            assert!(signature(&author(name, email), Timestamp::UNIX_EPOCH).is_err(), "{name} {email}");
        }
    }
}
