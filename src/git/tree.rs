//! Files under a path of a commit, read from the object store within limits.

use git2::{ObjectType, Oid, Repository, Tree, TreeEntry};

use super::error::{Fault, GitError};
use super::id::{BlobId, TreeId};

/// What may be read from one tree. Whoever may push can make a tree that unfolds without end.
#[derive(Clone, Debug)]
pub struct TreeLimits {
    /// Largest file in bytes; a larger one is skipped and reported.
    pub file_bytes: usize,
    /// Most files that are read.
    pub files: usize,
    /// Most entries that are looked at, folders and other files included.
    pub entries: usize,
    /// Most folders inside one another.
    pub depth: usize,
    /// Most bytes of all files together.
    pub total_bytes: usize,
}

impl Default for TreeLimits {
    fn default() -> Self {
        Self { file_bytes: 1 << 20, files: 10_000, entries: 200_000, depth: 32, total_bytes: 64 << 20 }
    }
}

/// The manifests of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The tree under the watched path; `None` when the commit has no such path.
    pub tree: Option<TreeId>,
    /// `*.yaml` and `*.yml`, ordered as Git orders a tree.
    pub files: Vec<SourceFile>,
    pub skipped: Vec<Skipped>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// From the repository's root, with `/`.
    pub path: String,
    pub blob: BlobId,
    pub content: Vec<u8>,
}

/// Something under the path that was not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// From the repository's root, with `/`; bytes that are no UTF-8 are replaced.
    pub path: String,
    pub reason: SkippedReason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkippedReason {
    /// A symbolic link, to a file or to a folder: links are never followed.
    Symlink,
    /// Another repository; what is in it is not in this one.
    Submodule,
    /// Larger than [`TreeLimits::file_bytes`].
    TooLarge { bytes: usize, limit: usize },
    /// A name that is not UTF-8.
    Name,
}

impl std::fmt::Display for SkippedReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Symlink => f.write_str("it is a symbolic link, and links are not followed"),
            Self::Submodule => f.write_str("it is a submodule, and other repositories are not read"),
            Self::TooLarge { bytes, limit } => write!(f, "it has {bytes} bytes; the limit is {limit}"),
            Self::Name => f.write_str("its name is not UTF-8"),
        }
    }
}

/// What a commit has at the path of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileAt {
    Content(Vec<u8>),
    Missing,
    /// Something else, there or on the way there: its path, and what it is, as words that follow it.
    Other {
        path: String,
        problem: &'static str,
    },
    /// Larger than asked for.
    TooLarge {
        bytes: usize,
    },
}

/// A path inside a repository: relative, `/`-separated, without `.`, `..`, `.git` and empty parts; the root is the empty path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RepoPath(Vec<String>);

impl RepoPath {
    /// Reads a folder's path; `""`, `.` and `/` are the root, and slashes at the ends are taken off.
    pub(super) fn folder(path: &str) -> Result<Self, GitError> {
        let trimmed = path.trim_matches('/');
        if trimmed.is_empty() || trimmed == "." {
            return Ok(Self(Vec::new()));
        }
        let trimmed = trimmed.strip_prefix("./").unwrap_or(trimmed);
        let parts: Vec<String> = trimmed.split('/').map(str::to_owned).collect();
        let refused = |part: &String| {
            matches!(part.as_str(), "" | "." | "..") || part.eq_ignore_ascii_case(".git") || part.contains('\0')
        };
        if parts.iter().any(refused) {
            return Err(GitError::Path {
                path: path.to_owned(),
                problem: "is not a path inside a repository".to_owned(),
            });
        }
        Ok(Self(parts))
    }

    /// Reads a file's path.
    pub(super) fn file(path: &str) -> Result<Self, GitError> {
        let parsed = Self::folder(path)?;
        if parsed.0.is_empty() || path.starts_with('/') || path.ends_with('/') {
            return Err(GitError::Path {
                path: path.to_owned(),
                problem: "is not a file's path inside a repository".to_owned(),
            });
        }
        Ok(parsed)
    }

    pub(super) fn join(&self) -> String {
        self.0.join("/")
    }
}

/// What lies at a path.
pub(super) enum Found<'a> {
    Missing,
    Folder(Tree<'a>),
    /// Something else on the way or at the end: its path and what it is.
    Other(String, &'static str),
}

/// Goes down to a folder without following links.
pub(super) fn folder_at<'a>(repository: &'a Repository, root: Tree<'a>, path: &RepoPath) -> Result<Found<'a>, Fault> {
    let mut tree = root;
    for (depth, part) in path.0.iter().enumerate() {
        let Some(id) = tree.get_name(part).map(|entry| (entry.id(), entry_kind(&entry))) else {
            return Ok(Found::Missing);
        };
        tree = match id {
            (id, Kind::Folder) => repository.find_tree(id)?,
            (_, kind) => return Ok(Found::Other(path.0[..=depth].join("/"), kind.words())),
        };
    }
    Ok(Found::Folder(tree))
}

/// Reads one file of at most `limit` bytes, without following links.
pub(super) fn file_at(repository: &Repository, root: Tree<'_>, path: &RepoPath, limit: usize) -> Result<FileAt, Fault> {
    let Some((name, folders)) = path.0.split_last() else { return Ok(FileAt::Missing) };
    let folder = match folder_at(repository, root, &RepoPath(folders.to_vec()))? {
        Found::Missing => return Ok(FileAt::Missing),
        Found::Other(path, problem) => return Ok(FileAt::Other { path, problem }),
        Found::Folder(folder) => folder,
    };
    let Some((id, kind)) = folder.get_name(name).map(|entry| (entry.id(), entry_kind(&entry))) else {
        return Ok(FileAt::Missing);
    };
    match kind {
        Kind::File => Ok(match read_blob(repository, id, limit)? {
            Ok(content) => FileAt::Content(content),
            Err(bytes) => FileAt::TooLarge { bytes },
        }),
        Kind::Folder | Kind::Symlink | Kind::Submodule => {
            Ok(FileAt::Other { path: path.join(), problem: kind.words() })
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Folder,
    File,
    Symlink,
    Submodule,
}

impl Kind {
    fn words(self) -> &'static str {
        match self {
            Self::Folder => "is a folder",
            Self::File => "is a file, not a folder",
            Self::Symlink => "is a symbolic link, and links are not followed; write the path that it leads to",
            Self::Submodule => "is a submodule, and other repositories are not read",
        }
    }
}

/// Git's file modes: 120000 is a link, 160000 a submodule; the object alone does not tell a link from a file.
pub(super) fn entry_kind(entry: &TreeEntry<'_>) -> Kind {
    match (entry.kind(), entry.filemode()) {
        (Some(ObjectType::Tree), _) => Kind::Folder,
        (_, 0o120_000) => Kind::Symlink,
        (Some(ObjectType::Blob), _) => Kind::File,
        (_, _) => Kind::Submodule,
    }
}

pub(super) fn is_manifest(path: &str) -> bool {
    path.ends_with(".yaml") || path.ends_with(".yml")
}

/// Reads the files under `path` that `wanted` takes.
pub(super) fn snapshot(
    repository: &Repository,
    root: Tree<'_>,
    path: &RepoPath,
    limits: &TreeLimits,
    wanted: fn(&str) -> bool,
) -> Result<Snapshot, Fault> {
    let tree = match folder_at(repository, root, path)? {
        Found::Missing => return Ok(Snapshot { tree: None, files: Vec::new(), skipped: Vec::new() }),
        Found::Other(path, problem) => return Err(GitError::Path { path, problem: problem.to_owned() }.into()),
        Found::Folder(tree) => tree,
    };
    let id = TreeId(tree.id());
    let mut reader =
        Reader { repository, limits, wanted, files: Vec::new(), skipped: Vec::new(), entries: 0, bytes: 0 };
    reader.folder(&tree, &path.join(), 1)?;
    Ok(Snapshot { tree: Some(id), files: reader.files, skipped: reader.skipped })
}

struct Reader<'a> {
    repository: &'a Repository,
    limits: &'a TreeLimits,
    wanted: fn(&str) -> bool,
    files: Vec<SourceFile>,
    skipped: Vec<Skipped>,
    entries: usize,
    bytes: usize,
}

impl Reader<'_> {
    fn folder(&mut self, tree: &Tree<'_>, path: &str, depth: usize) -> Result<(), Fault> {
        let shown = if path.is_empty() { "the repository's root" } else { path };
        within(depth, self.limits.depth, || format!("the depth of folders at {shown}"))?;
        for entry in tree {
            self.entries += 1;
            within(self.entries, self.limits.entries, || format!("the number of entries up to {shown}"))?;
            let Ok(name) = entry.name() else {
                let path = joined(path, &String::from_utf8_lossy(entry.name_bytes()));
                self.skipped.push(Skipped { path, reason: SkippedReason::Name });
                continue;
            };
            let path = joined(path, name);
            match entry_kind(&entry) {
                Kind::Folder => self.folder(&self.repository.find_tree(entry.id())?, &path, depth + 1)?,
                Kind::File if (self.wanted)(&path) => self.file(path, entry.id())?,
                Kind::File => {}
                Kind::Symlink => self.skipped.push(Skipped { path, reason: SkippedReason::Symlink }),
                Kind::Submodule => self.skipped.push(Skipped { path, reason: SkippedReason::Submodule }),
            }
        }
        Ok(())
    }

    fn file(&mut self, path: String, id: Oid) -> Result<(), Fault> {
        within(self.files.len() + 1, self.limits.files, || format!("the number of files up to {path}"))?;
        let content = match read_blob(self.repository, id, self.limits.file_bytes)? {
            Ok(content) => content,
            Err(bytes) => {
                let reason = SkippedReason::TooLarge { bytes, limit: self.limits.file_bytes };
                self.skipped.push(Skipped { path, reason });
                return Ok(());
            }
        };
        self.bytes += content.len();
        within(self.bytes, self.limits.total_bytes, || format!("the size in bytes of all files up to {path}"))?;
        self.files.push(SourceFile { path, blob: BlobId(id), content });
        Ok(())
    }
}

/// Reads a blob, or says how large it is when that is beyond `limit` bytes.
pub(super) fn read_blob(repository: &Repository, id: Oid, limit: usize) -> Result<Result<Vec<u8>, usize>, Fault> {
    let odb = repository.odb()?;
    let (bytes, _) = odb.read_header(id)?;
    if bytes > limit {
        return Ok(Err(bytes));
    }
    Ok(Ok(repository.find_blob(id)?.content().to_vec()))
}

pub(super) fn joined(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

fn within(value: usize, limit: usize, what: impl FnOnce() -> String) -> Result<(), GitError> {
    if value <= limit { Ok(()) } else { Err(GitError::TooLarge { what: what(), limit: limit.to_string() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_inside_the_repository() {
        for (path, parsed) in [("", ""), (".", ""), ("/", ""), ("clusters/prod/", "clusters/prod"), ("./a", "a")] {
            assert_eq!(RepoPath::folder(path).unwrap().join(), parsed);
        }
        for path in ["..", "a/../b", "a//b", ".git", "a/.GIT/b", "a/./b", "a\0b"] {
            assert!(RepoPath::folder(path).is_err(), "{path}");
        }
        for path in ["", "/etc/passwd", "runs/", "../x"] {
            assert!(RepoPath::file(path).is_err(), "{path}");
        }
    }
}
