//! What changed when: first parents, compared by tree.

use std::collections::BTreeMap;

use git2::{ErrorCode, ObjectType, Oid, Repository, Tree};
use jiff::Timestamp;

use super::error::{Fault, GitError};
use super::id::{BlobId, CommitId};
use super::tree::{Found, Kind, RepoPath, TreeLimits, entry_kind, folder_at, is_manifest, joined, read_blob};

/// Longest subject and author that are kept, in characters.
const TEXT_CHARS: usize = 200;

/// A commit that changed manifests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub commit: CommitInfo,
    /// Ordered by path.
    pub files: Vec<FileChange>,
    /// More files changed than [`TreeLimits::files`]; `files` holds the first of them.
    pub cut: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitInfo {
    pub id: CommitId,
    pub author_name: String,
    pub author_email: String,
    /// When it was committed, by the committer's clock: for people, never for order.
    pub time: Timestamp,
    /// The first line of its message.
    pub subject: String,
    /// 0 at the tip, one more with each first parent: smaller is newer.
    pub position: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileChange {
    /// From the repository's root.
    pub path: String,
    /// `None`: added. What is no regular file (a link) counts as absent.
    pub before: Option<FileVersion>,
    /// `None`: removed.
    pub after: Option<FileVersion>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileVersion {
    pub blob: BlobId,
    /// `None` beyond [`TreeLimits::file_bytes`], or when the commit's files together are beyond [`TreeLimits::total_bytes`].
    pub content: Option<Vec<u8>>,
}

/// How a walk over the history ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completeness {
    /// The visitor had seen enough.
    Stopped,
    /// The first commit was reached.
    Whole,
}

/// The first parent by the commit's own words; libgit2 hides it at a shallow clone's end.
pub(super) fn first_parent(repository: &Repository, id: Oid) -> Result<Option<Oid>, Fault> {
    let odb = repository.odb()?;
    let object = odb.read(id)?;
    if object.kind() != ObjectType::Commit {
        return Err(git2::Error::from_str("not a commit").into());
    }
    let header = object.data().split(|byte| *byte == b'\n').take_while(|line| !line.is_empty());
    let parent = header.filter_map(|line| line.strip_prefix(b"parent ")).next();
    let parent = parent.map(|hex| Oid::from_str(&String::from_utf8_lossy(hex))).transpose()?;
    Ok(parent)
}

pub(super) fn has_commit(repository: &Repository, id: Oid) -> bool {
    repository.find_commit(id).is_ok()
}

pub(super) fn is_ancestor(repository: &Repository, old: Oid, new: Oid) -> Result<bool, Fault> {
    if old == new {
        return Ok(true);
    }
    if !has_commit(repository, old) {
        return Ok(false);
    }
    match repository.graph_descendant_of(new, old) {
        Ok(descends) => Ok(descends),
        Err(error) if error.code() == ErrorCode::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// What `id` changed under `path` against `parent`; `None` when no manifest differs.
pub(super) fn change(
    repository: &Repository,
    id: Oid,
    parent: Option<Oid>,
    position: usize,
    path: &RepoPath,
    limits: &TreeLimits,
) -> Result<Option<Change>, Fault> {
    let before = parent.map(|parent| folder(repository, parent, path)).transpose()?.flatten();
    let after = folder(repository, id, path)?;
    let mut differ = Differ { repository, limits, found: BTreeMap::new(), entries: 0, cut: false };
    differ.folders(before.as_ref(), after.as_ref(), &path.join(), 1)?;
    let Differ { found, cut, .. } = differ;
    if found.is_empty() && !cut {
        return Ok(None);
    }
    let mut reader = Contents { repository, limits, bytes: 0 };
    let mut files = Vec::with_capacity(found.len());
    for (path, (before, after)) in found {
        files.push(FileChange { path, before: reader.version(before)?, after: reader.version(after)? });
    }
    Ok(Some(Change { commit: info(repository, id, position)?, files, cut }))
}

fn folder<'a>(repository: &'a Repository, commit: Oid, path: &RepoPath) -> Result<Option<Tree<'a>>, Fault> {
    let root = repository.find_commit(commit)?.tree()?;
    match folder_at(repository, root, path)? {
        Found::Folder(tree) => Ok(Some(tree)),
        Found::Missing | Found::Other(..) => Ok(None),
    }
}

fn info(repository: &Repository, id: Oid, position: usize) -> Result<CommitInfo, Fault> {
    let commit = repository.find_commit(id)?;
    let author = commit.author();
    let text = |bytes: &[u8]| -> String {
        String::from_utf8_lossy(bytes).chars().filter(|c| !c.is_control()).take(TEXT_CHARS).collect()
    };
    let subject = commit.message_bytes().split(|byte| *byte == b'\n').find(|line| !line.is_empty()).unwrap_or_default();
    Ok(CommitInfo {
        id: CommitId(id),
        author_name: text(author.name_bytes()),
        author_email: text(author.email_bytes()),
        // A date beyond what calendars hold is a lie like any other.
        time: Timestamp::from_second(commit.time().seconds()).unwrap_or(Timestamp::UNIX_EPOCH),
        subject: text(subject),
        position,
    })
}

/// The blobs of a file before and after.
type Sides = (Option<Oid>, Option<Oid>);

/// Collects differing manifests; equal folders are passed over by their ids.
struct Differ<'a> {
    repository: &'a Repository,
    limits: &'a TreeLimits,
    found: BTreeMap<String, Sides>,
    entries: usize,
    cut: bool,
}

impl<'a> Differ<'a> {
    fn folders(
        &mut self,
        before: Option<&Tree<'_>>,
        after: Option<&Tree<'_>>,
        path: &str,
        depth: usize,
    ) -> Result<(), Fault> {
        if before.map(Tree::id) == after.map(Tree::id) || self.cut {
            return Ok(());
        }
        if depth > self.limits.depth {
            return Err(GitError::TooLarge {
                what: format!("the depth of folders at {path}"),
                limit: self.limits.depth.to_string(),
            }
            .into());
        }
        let (before, after) = (listed(before), listed(after));
        for name in before.keys().chain(after.keys().filter(|name| !before.contains_key(*name))) {
            self.entries += 1;
            if self.entries > self.limits.entries || self.found.len() >= self.limits.files {
                self.cut = true;
                return Ok(());
            }
            self.entry(before.get(name).copied(), after.get(name).copied(), joined(path, name), depth)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        before: Option<(Kind, Oid)>,
        after: Option<(Kind, Oid)>,
        path: String,
        depth: usize,
    ) -> Result<(), Fault> {
        if before == after {
            return Ok(());
        }
        let (old, new) = (self.tree(before)?, self.tree(after)?);
        self.folders(old.as_ref(), new.as_ref(), &path, depth + 1)?;
        let file = |entry: Option<(Kind, Oid)>| entry.filter(|(kind, _)| *kind == Kind::File).map(|(_, id)| id);
        let sides = (file(before), file(after));
        if is_manifest(&path) && sides.0 != sides.1 {
            self.found.insert(path, sides);
        }
        Ok(())
    }

    fn tree(&self, entry: Option<(Kind, Oid)>) -> Result<Option<Tree<'a>>, Fault> {
        match entry {
            Some((Kind::Folder, id)) => Ok(Some(self.repository.find_tree(id)?)),
            Some((Kind::File | Kind::Symlink | Kind::Submodule, _)) | None => Ok(None),
        }
    }
}

/// Entries with names in UTF-8; the others are no manifests of ours.
fn listed(tree: Option<&Tree<'_>>) -> BTreeMap<String, (Kind, Oid)> {
    let entries = tree.into_iter().flat_map(Tree::iter);
    entries.filter_map(|entry| Some((entry.name().ok()?.to_owned(), (entry_kind(&entry), entry.id())))).collect()
}

struct Contents<'a> {
    repository: &'a Repository,
    limits: &'a TreeLimits,
    bytes: usize,
}

impl Contents<'_> {
    fn version(&mut self, id: Option<Oid>) -> Result<Option<FileVersion>, Fault> {
        let Some(id) = id else { return Ok(None) };
        let left = self.limits.total_bytes.saturating_sub(self.bytes);
        let content = read_blob(self.repository, id, self.limits.file_bytes.min(left))?.ok();
        self.bytes += content.as_ref().map_or(0, Vec::len);
        Ok(Some(FileVersion { blob: BlobId(id), content }))
    }
}
