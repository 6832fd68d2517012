//! The source: fetched into a cache, read from there.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::path::Path;

use git2::{AutotagOption, ErrorClass, FetchOptions, Oid, RemoteCallbacks};
use tracing::{debug, instrument, warn};
use url::Url;

use super::auth;
use super::cache::{Cache, TIP};
use super::error::{Fault, GitError};
use super::history::{self, Change, Completeness};
use super::http::{self, Client};
use super::id::{BlobId, CommitId};
use super::remote::{Location, Remote, checked_branch};
use super::revision;
use super::tree::{self, FileAt, RepoPath, Snapshot, TreeLimits};

/// Depth of the first fetch, in commits: what is to be done now. History is deepened when it is asked for.
const FIRST_DEPTH: i32 = 1;
/// Each deepening asks for this many times as many commits, so that long histories take few round trips.
const DEEPEN_FACTOR: i32 = 8;
/// Depth from which all is fetched instead.
const DEEPEN_MAX: i32 = 4096;
/// libgit2's `GIT_FETCH_DEPTH_UNSHALLOW`.
const WHOLE: i32 = i32::MAX;

/// One branch of a remote, over one connection at a time.
pub(super) struct Link {
    remote: Remote,
    pub(super) location: Location,
    pub(super) branch: String,
}

/// How much of the history a fetch brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// What is new since the last fetch; in an empty cache the tip alone, where the server can do that.
    New,
    /// This many commits from the tip.
    Commits(i32),
}

impl Link {
    pub(super) fn new(remote: Remote, branch: &str) -> Result<Self, GitError> {
        let location = remote.location()?;
        if remote.secret_dir.is_some() && matches!(&location, Location::Http(url) if url.scheme() == "http") {
            warn!(git.url = %location.shown(), "credentials for {} go over the network unencrypted; use https", location.shown());
        }
        Ok(Self { location, branch: checked_branch(branch)?, remote })
    }

    /// What names the cache's content.
    pub(super) fn source(&self) -> String {
        format!("{}\n{}\n", self.url(), self.branch)
    }

    pub(super) fn url(&self) -> String {
        self.location.shown()
    }

    pub(super) fn reference(&self) -> String {
        format!("refs/heads/{}", self.branch)
    }

    pub(super) fn address(&self) -> String {
        match &self.location {
            Location::Http(_) => http::ADDRESS.to_owned(),
            // As a URL: libgit2 takes a path with a colon for an ssh address.
            Location::File(path) => {
                Url::from_file_path(path).map_or_else(|()| path.display().to_string(), String::from)
            }
        }
    }

    /// Runs a libgit2 call against the remote, with credentials read now, and names what went wrong on the way.
    pub(super) fn connected<T>(
        &self,
        work: impl FnOnce(&auth::Scrubber) -> Result<T, git2::Error>,
    ) -> Result<T, Fault> {
        let Location::Http(url) = &self.location else {
            return work(&auth::Scrubber::default()).map_err(|error| self.local_fault(error));
        };
        let credentials = auth::read(self.remote.secret_dir.as_deref())?;
        let scrubber = credentials.scrubber.clone();
        let client = Client::new(url.clone(), credentials, self.remote.timeouts)?;
        let (result, failure) = client.serve(|| work(&scrubber));
        match (result, failure) {
            (Ok(value), _) => Ok(value),
            (Err(_), Some(failure)) => Err(failure.into()),
            (Err(error), None) => Err(self.protocol_fault(error, &scrubber)),
        }
    }

    /// What the server said in Git's own protocol, or a fault of the cache.
    fn protocol_fault(&self, error: git2::Error, scrubber: &auth::Scrubber) -> Fault {
        match error.class() {
            ErrorClass::Net | ErrorClass::Http | ErrorClass::Indexer | ErrorClass::Zlib => {
                Fault::Told(GitError::Unreachable { url: self.url(), detail: scrubber.clean(error.message()) })
            }
            _ => Fault::Local(error),
        }
    }

    /// A `file://` remote that is not a repository; everything else may be the cache's fault.
    fn local_fault(&self, error: git2::Error) -> Fault {
        let Location::File(path) = &self.location else { return Fault::Local(error) };
        match git2::Repository::open(path) {
            Ok(_) => Fault::Local(error),
            Err(open) => {
                let detail = auth::Scrubber::default().clean(open.message());
                Fault::Told(GitError::NotFound { url: self.url(), detail })
            }
        }
    }

    /// Brings the branch into the cache and returns its tip; `None` when the remote has no such branch.
    ///
    /// When the tip has not moved, the remote is asked for its refs and nothing else.
    pub(super) fn pull(&self, cache: &mut Cache, depth: Depth) -> Result<Option<Oid>, Fault> {
        let fresh = cache.tip().is_none();
        if fresh {
            cache.forget_tip();
        }
        let can_be_shallow = matches!(self.location, Location::Http(_));
        let commits = match depth {
            Depth::New if fresh && can_be_shallow => FIRST_DEPTH,
            Depth::New => 0,
            Depth::Commits(commits) => commits,
        };
        let tip = match self.download(cache, commits) {
            // An old server: everything, then.
            Err(Fault::Told(GitError::Unreachable { detail, .. }))
                if commits > 0 && detail.contains("doesn't support shallow") =>
            {
                self.download(cache, 0)?
            }
            other => other?,
        };
        if commits > 0 {
            cache.reopen()?;
            cache.depth = commits;
        }
        match tip {
            Some(tip) => cache.set_tip(tip)?,
            None => cache.forget_tip(),
        }
        Ok(tip)
    }

    fn download(&self, cache: &Cache, depth: i32) -> Result<Option<Oid>, Fault> {
        let reference = self.reference();
        let mut remote = cache.repository().remote_anonymous(&self.address())?;
        let said = RefCell::new(String::new());
        let heads = self.connected(|_| {
            let mut callbacks = RemoteCallbacks::new();
            callbacks.sideband_progress(|text| {
                note(&said, text);
                true
            });
            let mut options = FetchOptions::new();
            options.remote_callbacks(callbacks).download_tags(AutotagOption::None).depth(depth).update_fetchhead(false);
            remote.download(&[format!("+{reference}:{TIP}")], Some(&mut options))?;
            let head = remote.list()?.iter().find(|head| head.name() == reference).map(git2::RemoteHead::oid);
            Ok(head)
        });
        // Closing a connection that failed tells nothing new.
        remote.disconnect().ok();
        if heads.is_err() {
            debug!(git.url = %self.url(), "the server said {} bytes of progress before the failure", said.borrow().len());
        }
        heads
    }

    /// Brings more of the history, in the end all of it; `false` when there is no more to bring.
    ///
    /// # Errors
    ///
    /// [`GitError::BranchMissing`] when the branch was deleted meanwhile.
    fn deepen(&self, cache: &mut Cache) -> Result<bool, Fault> {
        if !cache.repository().is_shallow() || cache.depth == WHOLE {
            return Ok(false);
        }
        let depth = if cache.depth >= DEEPEN_MAX { WHOLE } else { cache.depth.saturating_mul(DEEPEN_FACTOR) };
        match self.pull(cache, Depth::Commits(depth))? {
            Some(_) => Ok(true),
            None => Err(self.branch_missing().into()),
        }
    }

    fn branch_missing(&self) -> GitError {
        GitError::BranchMissing { url: self.url(), branch: self.branch.clone() }
    }
}

/// Keeps the first 4 KiB of what a server says beside the protocol.
pub(super) fn note(said: &RefCell<String>, text: &[u8]) {
    let mut said = said.borrow_mut();
    if said.len() < 4096 {
        said.push_str(&String::from_utf8_lossy(text));
    }
}

/// A branch of the source, with its cache.
pub struct Mirror {
    link: Link,
    cache: Cache,
    tip: Option<Oid>,
}

/// What a fetch found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetched {
    pub tip: CommitId,
    /// The tip of the fetch before is not an ancestor of this one: somebody rewrote the history.
    pub rewritten: bool,
}

impl Mirror {
    /// Takes `dir` for this process; no connection is made yet.
    ///
    /// # Errors
    ///
    /// An address or branch that cannot be used, a folder that another process holds ([`GitError::Busy`]) or that cannot be written.
    pub fn open(dir: &Path, remote: Remote, branch: &str) -> Result<Self, GitError> {
        let link = Link::new(remote, branch)?;
        let cache = Cache::open(dir, link.source())?;
        Ok(Self { tip: cache.tip(), link, cache })
    }

    /// Fetches the branch. When it has not moved since, that is one question to the server.
    ///
    /// # Errors
    ///
    /// [`GitError::BranchMissing`], and what the remote or its network did. The cache stays usable.
    #[instrument(skip_all, fields(git.url = %self.link.url(), git.branch = %self.link.branch))]
    pub fn fetch(&mut self) -> Result<Fetched, GitError> {
        let Self { link, cache, .. } = self;
        let tip = cache.heal(|cache| link.pull(cache, Depth::New))?;
        let tip = tip.ok_or_else(|| link.branch_missing())?;
        let rewritten = match self.tip {
            Some(old) => !self.is_ancestor(&CommitId(old), &CommitId(tip))?,
            None => false,
        };
        self.tip = Some(tip);
        Ok(Fetched { tip: CommitId(tip), rewritten })
    }

    /// Whether `old` is `new` or in its history, which is deepened as far as that needs.
    ///
    /// # Errors
    ///
    /// What the remote or its network did.
    pub fn is_ancestor(&mut self, old: &CommitId, new: &CommitId) -> Result<bool, GitError> {
        loop {
            match history::is_ancestor(self.cache.repository(), old.0, new.0) {
                Ok(true) => return Ok(true),
                Ok(false) if !self.deepen()? => return Ok(false),
                Ok(false) => {}
                Err(fault) => return Err(self.cache.told(fault)),
            }
        }
    }

    /// Finds a commit of the branch as people name it: the branch or `HEAD`, a commit id of at least 7 digits, each with
    /// `~n` or `^` after it for first parents further back.
    ///
    /// # Errors
    ///
    /// [`GitError::Revision`] for what names no commit of this branch, and what the remote or its network did.
    pub fn resolve(&mut self, revision: &str) -> Result<CommitId, GitError> {
        let tip = self.fetch()?.tip;
        let unknown = |problem| GitError::Revision { revision: revision.to_owned(), problem };
        let (name, back) = revision::split(revision).ok_or_else(|| unknown(revision::EXPECTED))?;
        let mut found = if name == "HEAD" || name == self.link.branch || name == self.link.reference() {
            tip
        } else if revision::is_abbreviation(name) {
            self.abbreviated(name, &tip)?.map_err(unknown)?
        } else {
            return Err(unknown(revision::EXPECTED));
        };
        for _ in 0..back {
            let parent = self.first_parent(found.0)?;
            found = CommitId(parent.ok_or_else(|| unknown("goes back beyond the first commit"))?);
        }
        Ok(found)
    }

    /// The commit of the branch that `digits` begin; history is deepened until there is one.
    fn abbreviated(&mut self, digits: &str, tip: &CommitId) -> Result<Result<CommitId, &'static str>, GitError> {
        loop {
            let found = revision::beginning_with(self.cache.repository(), digits, tip.0);
            match found.map_err(|fault| self.cache.told(fault))?.as_slice() {
                [only] => return Ok(Ok(CommitId(*only))),
                [] if self.deepen()? => {}
                [] => return Ok(Err(revision::NOT_THERE)),
                [_, _, ..] => return Ok(Err("begins several commits; give more digits")),
            }
        }
    }

    /// Reads the manifests under `path` at `commit`.
    ///
    /// # Errors
    ///
    /// [`GitError::Path`] when `path` or a folder on its way is a symbolic link, a file or a submodule; [`GitError::TooLarge`];
    /// [`GitError::Cache`] when objects are missing: the next [`Mirror::fetch`] clones anew.
    pub fn snapshot(&self, commit: &CommitId, path: &str, limits: &TreeLimits) -> Result<Snapshot, GitError> {
        let path = RepoPath::folder(path)?;
        let repository = self.cache.repository();
        let read = || {
            let root = repository.find_commit(commit.0)?.tree()?;
            tree::snapshot(repository, root, &path, limits, tree::is_manifest)
        };
        read().map_err(|fault| self.cache.told(fault))
    }

    /// Reads one file of at most `limit` bytes at `commit`, or at the tip as last fetched, and says at which commit that is.
    ///
    /// Nobody is asked for what the cache has, so that a commit that was read before can be read while the remote is away.
    ///
    /// # Errors
    ///
    /// [`GitError::Path`] for what is no file's path in a repository; [`GitError::Revision`] when the branch does not have the
    /// commit, with all of its history; what the remote or its network did.
    pub fn file(
        &mut self,
        commit: Option<&CommitId>,
        path: &str,
        limit: usize,
    ) -> Result<(CommitId, FileAt), GitError> {
        let path = RepoPath::file(path)?;
        let commit = match (commit, self.tip) {
            (Some(commit), _) => self.reached(*commit)?,
            (None, Some(tip)) => CommitId(tip),
            (None, None) => self.fetch()?.tip,
        };
        let repository = self.cache.repository();
        let read = || {
            let root = repository.find_commit(commit.0)?.tree()?;
            tree::file_at(repository, root, &path, limit)
        };
        read().map(|file| (commit, file)).map_err(|fault| self.cache.told(fault))
    }

    /// The same commit, which is in the cache afterwards.
    fn reached(&mut self, commit: CommitId) -> Result<CommitId, GitError> {
        if history::has_commit(self.cache.repository(), commit.0) {
            return Ok(commit);
        }
        self.fetch()?;
        while !history::has_commit(self.cache.repository(), commit.0) {
            if !self.deepen()? {
                return Err(GitError::Revision { revision: commit.to_string(), problem: revision::NOT_THERE });
            }
        }
        Ok(commit)
    }

    /// Walks back from `tip` over first parents, and shows each commit that changed a manifest under `path`, newest first.
    ///
    /// A merge counts as one change, made by the merge. History is deepened in growing steps as far as `visit` wants to go.
    /// Files beyond `limits` are shown without their content.
    ///
    /// # Errors
    ///
    /// What the remote or its network did; [`GitError::Moved`] when the branch was rewritten meanwhile.
    pub fn changes(
        &mut self,
        tip: &CommitId,
        path: &str,
        limits: &TreeLimits,
        visit: &mut dyn FnMut(Change) -> ControlFlow<()>,
    ) -> Result<Completeness, GitError> {
        let path = RepoPath::folder(path)?;
        let mut next = Some(tip.0);
        let mut position = 0;
        while let Some(id) = next {
            let parent = self.first_parent(id)?;
            let change = history::change(self.cache.repository(), id, parent, position, &path, limits);
            let change = change.map_err(|fault| self.cache.told(fault))?;
            if let Some(change) = change
                && visit(change).is_break()
            {
                return Ok(Completeness::Stopped);
            }
            next = parent;
            position += 1;
        }
        Ok(Completeness::Whole)
    }

    /// The first parent, which is in the cache afterwards.
    fn first_parent(&mut self, id: Oid) -> Result<Option<Oid>, GitError> {
        loop {
            let repository = self.cache.repository();
            let parent = history::first_parent(repository, id).map_err(|fault| self.cache.told(fault))?;
            match parent {
                Some(parent) if !history::has_commit(repository, parent) => {}
                known => return Ok(known),
            }
            if !self.deepen()? {
                return Err(self.moved_or_damaged(id));
            }
        }
    }

    /// A parent is missing in a cache that should be whole: either nobody's branch leads to it any more, or a file was lost.
    fn moved_or_damaged(&self, id: Oid) -> GitError {
        match self.cache.tip().map(|tip| history::is_ancestor(self.cache.repository(), id, tip)) {
            Some(Ok(true)) | Some(Err(_)) => {
                self.cache.told(Fault::Local(git2::Error::from_str("a commit is missing")))
            }
            Some(Ok(false)) | None => GitError::Moved { url: self.link.url() },
        }
    }

    fn deepen(&mut self) -> Result<bool, GitError> {
        self.link.deepen(&mut self.cache).map_err(|fault| self.cache.told(fault))
    }

    /// Reads one file's content by its id.
    ///
    /// # Errors
    ///
    /// [`GitError::TooLarge`] beyond `limit` bytes, [`GitError::Cache`] when the blob is not there.
    pub fn read_blob(&self, id: &BlobId, limit: usize) -> Result<Vec<u8>, GitError> {
        match tree::read_blob(self.cache.repository(), id.0, limit) {
            Ok(Ok(content)) => Ok(content),
            Ok(Err(bytes)) => {
                Err(GitError::TooLarge { what: format!("blob {id} ({bytes} bytes)"), limit: format!("{limit} bytes") })
            }
            Err(fault) => Err(self.cache.told(fault)),
        }
    }
}
