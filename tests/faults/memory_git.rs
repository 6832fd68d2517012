//! A Git server in memory, with the two branches that an agent uses: one read, one written.
//!
//! It keeps commits and moves branches as Git does, so that a race, a rewritten history and a lost answer are what they
//! are on a real server. What libgit2 and real servers do besides is tested on them, in `tests/it/git`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use reinback::git::{
    BlobId, Change, CommitId, CommitInfo, Completeness, Edit, Fetched, FileAt, FileChange, FileEdit, FileVersion,
    GitError, Published, ReadBranch, Snapshot, SourceFile, TipFiles, TreeLimits, WriteBranch,
};
use sha2::{Digest as _, Sha256};

pub const SOURCE: &str = "main";
pub const STATUS: &str = "reinback/sim";
const URL: &str = "memory://git";
/// As often as the real one rebuilds on a tip that moved.
const TRIES: u32 = 10;

pub type Files = BTreeMap<String, Vec<u8>>;

#[derive(Debug, Clone)]
pub struct Commit {
    pub parent: Option<CommitId>,
    pub files: Files,
    pub author: String,
    pub message: String,
    pub time: Timestamp,
}

#[derive(Debug, Default)]
struct State {
    commits: BTreeMap<CommitId, Commit>,
    branches: BTreeMap<String, CommitId>,
}

/// The server. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Git(Arc<Mutex<State>>);

impl Git {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Commits on top of a branch's tip; `None` removes a file.
    pub fn commit(&self, branch: &str, author: &str, message: &str, time: Timestamp, edits: &[FileEdit]) -> CommitId {
        let mut state = self.state();
        let parent = state.branches.get(branch).copied();
        let mut files = parent.map(|parent| state.commits[&parent].files.clone()).unwrap_or_default();
        apply(&mut files, edits);
        let commit = Commit { parent, files, author: author.to_owned(), message: message.to_owned(), time };
        state.put(branch, commit)
    }

    /// Writes the tip anew with the same files and without its history, as `git push --force` after a squash.
    pub fn rewrite(&self, branch: &str, time: Timestamp) {
        let mut state = self.state();
        let Some(tip) = state.branches.get(branch).copied() else { return };
        let Commit { files, author, .. } = state.commits[&tip].clone();
        let commit = Commit { parent: None, files, author, message: "Squash".to_owned(), time };
        state.put(branch, commit);
    }

    /// Whether a commit is in the history of a branch.
    pub fn has(&self, branch: &str, commit: CommitId) -> bool {
        let state = self.state();
        state.branches.get(branch).is_some_and(|tip| state.is_ancestor(commit, *tip))
    }

    pub fn tip(&self, branch: &str) -> Option<CommitId> {
        self.state().branches.get(branch).copied()
    }

    /// Files of a branch's tip.
    pub fn files(&self, branch: &str) -> Files {
        let state = self.state();
        state.branches.get(branch).map(|tip| state.commits[tip].files.clone()).unwrap_or_default()
    }

    pub fn reader(&self) -> Reader {
        Reader { git: self.clone(), last: None }
    }

    pub fn writer(&self) -> Writer {
        Writer { git: self.clone(), tip: None }
    }
}

impl State {
    fn put(&mut self, branch: &str, commit: Commit) -> CommitId {
        let id = id_of(&commit);
        self.commits.insert(id, commit);
        self.branches.insert(branch.to_owned(), id);
        id
    }

    fn is_ancestor(&self, old: CommitId, new: CommitId) -> bool {
        let mut next = Some(new);
        while let Some(id) = next {
            if id == old {
                return true;
            }
            next = self.commits[&id].parent;
        }
        false
    }
}

fn apply(files: &mut Files, edits: &[FileEdit]) {
    for FileEdit { path, content } in edits {
        match content {
            Some(content) => files.insert(path.clone(), content.clone()),
            None => files.remove(path),
        };
    }
}

fn id_of(commit: &Commit) -> CommitId {
    let mut digest = Sha256::new();
    digest.update(format!("{:?} {} {} {}", commit.parent, commit.author, commit.message, commit.time));
    for (path, content) in &commit.files {
        digest.update(format!("{path} {}\n", content.len()));
        digest.update(content);
    }
    let hex: String = digest.finalize().iter().take(20).map(|byte| format!("{byte:02x}")).collect();
    hex.parse().expect("40 digits")
}

fn blob(content: &[u8]) -> BlobId {
    BlobId::of(content).expect("memory")
}

fn is_under(path: &str, folder: &str) -> bool {
    folder.is_empty() || path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}

fn is_manifest(path: &str) -> bool {
    path.ends_with(".yaml") || path.ends_with(".yml")
}

/// The source branch, as an agent has it.
pub struct Reader {
    git: Git,
    last: Option<CommitId>,
}

impl ReadBranch for Reader {
    fn blocks(&self) -> bool {
        false
    }

    fn fetch(&mut self) -> Result<Fetched, GitError> {
        let state = self.git.state();
        let missing = || GitError::BranchMissing { url: URL.to_owned(), branch: SOURCE.to_owned() };
        let tip = state.branches.get(SOURCE).copied().ok_or_else(missing)?;
        let rewritten = self.last.is_some_and(|last| !state.is_ancestor(last, tip));
        self.last = Some(tip);
        Ok(Fetched { tip, rewritten })
    }

    fn resolve(&mut self, revision: &str) -> Result<CommitId, GitError> {
        let unknown = |_| GitError::Revision { revision: revision.to_owned(), problem: "is no commit id" };
        revision.parse().map_err(unknown)
    }

    fn snapshot(&self, commit: &CommitId, path: &str, _limits: &TreeLimits) -> Result<Snapshot, GitError> {
        let state = self.git.state();
        let files = state.commits[commit].files.iter().filter(|(name, _)| is_under(name, path) && is_manifest(name));
        let files = files.map(|(name, content)| SourceFile {
            path: name.clone(),
            blob: blob(content),
            content: content.clone(),
        });
        Ok(Snapshot { tree: None, files: files.collect(), skipped: Vec::new() })
    }

    fn file(&mut self, commit: Option<&CommitId>, path: &str, limit: usize) -> Result<(CommitId, FileAt), GitError> {
        let commit = match commit.copied().or(self.last) {
            Some(commit) => commit,
            None => self.fetch()?.tip,
        };
        let state = self.git.state();
        let file = match state.commits.get(&commit).and_then(|commit| commit.files.get(path)) {
            Some(content) if content.len() > limit => FileAt::TooLarge { bytes: content.len() },
            Some(content) => FileAt::Content(content.clone()),
            None => FileAt::Missing,
        };
        Ok((commit, file))
    }

    fn changes(
        &mut self,
        tip: &CommitId,
        path: &str,
        _limits: &TreeLimits,
        visit: &mut dyn FnMut(Change) -> ControlFlow<()>,
    ) -> Result<Completeness, GitError> {
        let state = self.git.state();
        let (mut next, mut position) = (Some(*tip), 0);
        while let Some(id) = next {
            let commit = &state.commits[&id];
            let before = commit.parent.map(|parent| &state.commits[&parent].files);
            let files = changed(before, &commit.files, path);
            if !files.is_empty() && visit(Change { commit: info(id, commit, position), files, cut: false }).is_break() {
                return Ok(Completeness::Stopped);
            }
            (next, position) = (commit.parent, position + 1);
        }
        Ok(Completeness::Whole)
    }
}

fn changed(before: Option<&Files>, after: &Files, folder: &str) -> Vec<FileChange> {
    let none = Files::new();
    let before = before.unwrap_or(&none);
    let paths: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let paths = paths.into_iter().filter(|path| is_under(path, folder) && is_manifest(path));
    let version = |content: &Vec<u8>| FileVersion { blob: blob(content), content: Some(content.clone()) };
    paths
        .filter(|path| before.get(*path) != after.get(*path))
        .map(|path| FileChange {
            path: path.clone(),
            before: before.get(path).map(version),
            after: after.get(path).map(version),
        })
        .collect()
}

fn info(id: CommitId, commit: &Commit, position: usize) -> CommitInfo {
    CommitInfo {
        id,
        author_name: commit.author.clone(),
        author_email: format!("{}@example.org", commit.author),
        time: commit.time,
        subject: commit.message.lines().next().unwrap_or_default().to_owned(),
        position,
    }
}

/// The status branch, as an agent has it.
pub struct Writer {
    git: Git,
    /// Where it was when it was last looked at.
    tip: Option<CommitId>,
}

struct Tip<'a>(&'a Files);

impl TipFiles for Tip<'_> {
    fn get(&self, path: &str, _limit: usize) -> Result<Option<Vec<u8>>, GitError> {
        Ok(self.0.get(path).cloned())
    }
}

impl Writer {
    fn at_tip(&self) -> Files {
        let state = self.git.state();
        self.tip.map(|tip| state.commits[&tip].files.clone()).unwrap_or_default()
    }
}

impl WriteBranch for Writer {
    fn blocks(&self) -> bool {
        false
    }

    fn fetch(&mut self) -> Result<Option<CommitId>, GitError> {
        self.tip = self.git.tip(STATUS);
        Ok(self.tip)
    }

    fn read(&self, prefix: &str, _limits: &TreeLimits) -> Result<Vec<(String, Vec<u8>)>, GitError> {
        Ok(self.at_tip().into_iter().filter(|(path, _)| is_under(path, prefix)).collect())
    }

    fn read_file(&self, path: &str, _limit: usize) -> Result<Option<Vec<u8>>, GitError> {
        Ok(self.at_tip().remove(path))
    }

    /// A push names the tip that it was built on, and is refused when the branch is elsewhere.
    fn publish(&mut self, message: &str, now: Timestamp, edit: &mut Edit<'_>) -> Result<Published, GitError> {
        for tries in 1..=TRIES {
            let files = self.at_tip();
            let mut after = files.clone();
            apply(&mut after, &edit(&Tip(&files))?);
            if after == files {
                return Ok(Published::Unchanged { tip: self.tip });
            }
            let mut state = self.git.state();
            if state.branches.get(STATUS).copied() != self.tip {
                drop(state);
                self.fetch()?;
                continue;
            }
            let author = "reinback".to_owned();
            let commit = Commit { parent: self.tip, files: after, author, message: message.to_owned(), time: now };
            let commit = state.put(STATUS, commit);
            self.tip = Some(commit);
            return Ok(Published::Pushed { commit, tries });
        }
        let (url, branch) = (URL.to_owned(), STATUS.to_owned());
        Err(GitError::Contended { url, branch, tries: TRIES, detail: "it moves".to_owned() })
    }
}
