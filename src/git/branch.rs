//! What reinback asks of a branch, whatever is behind it.

use std::ops::ControlFlow;

use jiff::Timestamp;

use super::{
    Change, CommitId, Completeness, Fetched, FileAt, FileEdit, GitError, Mirror, Published, Snapshot, StatusBranch,
    StatusTree, TreeLimits,
};

/// A branch that manifests are read from; [`Mirror`] is the real one.
pub trait ReadBranch: Send {
    /// Its calls wait for a disk or a network, so that async callers make them through [`super::blocking`].
    fn blocks(&self) -> bool {
        true
    }
    /// As [`Mirror::fetch`].
    fn fetch(&mut self) -> Result<Fetched, GitError>;
    /// As [`Mirror::resolve`].
    fn resolve(&mut self, revision: &str) -> Result<CommitId, GitError>;
    /// As [`Mirror::snapshot`].
    fn snapshot(&self, commit: &CommitId, path: &str, limits: &TreeLimits) -> Result<Snapshot, GitError>;
    /// As [`Mirror::file`].
    fn file(&mut self, commit: Option<&CommitId>, path: &str, limit: usize) -> Result<(CommitId, FileAt), GitError>;
    /// As [`Mirror::changes`].
    fn changes(
        &mut self,
        tip: &CommitId,
        path: &str,
        limits: &TreeLimits,
        visit: &mut dyn FnMut(Change) -> ControlFlow<()>,
    ) -> Result<Completeness, GitError>;
}

/// A branch that status goes to; [`StatusBranch`] is the real one.
pub trait WriteBranch: Send {
    /// As [`ReadBranch::blocks`].
    fn blocks(&self) -> bool {
        true
    }
    /// As [`StatusBranch::fetch`].
    fn fetch(&mut self) -> Result<Option<CommitId>, GitError>;
    /// As [`StatusBranch::read`].
    fn read(&self, prefix: &str, limits: &TreeLimits) -> Result<Vec<(String, Vec<u8>)>, GitError>;
    /// As [`StatusBranch::read_file`].
    fn read_file(&self, path: &str, limit: usize) -> Result<Option<Vec<u8>>, GitError>;
    /// As [`StatusBranch::publish`].
    fn publish(&mut self, message: &str, now: Timestamp, edit: &mut Edit<'_>) -> Result<Published, GitError>;
}

/// Says what is to be written on top of a tip; asked again when somebody else was faster.
pub type Edit<'a> = dyn FnMut(&dyn TipFiles) -> Result<Vec<FileEdit>, GitError> + 'a;

/// The files of a tip.
pub trait TipFiles {
    /// As [`StatusTree::get`].
    fn get(&self, path: &str, limit: usize) -> Result<Option<Vec<u8>>, GitError>;
}

impl TipFiles for StatusTree<'_> {
    fn get(&self, path: &str, limit: usize) -> Result<Option<Vec<u8>>, GitError> {
        StatusTree::get(self, path, limit)
    }
}

impl ReadBranch for Mirror {
    fn fetch(&mut self) -> Result<Fetched, GitError> {
        Mirror::fetch(self)
    }

    fn resolve(&mut self, revision: &str) -> Result<CommitId, GitError> {
        Mirror::resolve(self, revision)
    }

    fn snapshot(&self, commit: &CommitId, path: &str, limits: &TreeLimits) -> Result<Snapshot, GitError> {
        Mirror::snapshot(self, commit, path, limits)
    }

    fn file(&mut self, commit: Option<&CommitId>, path: &str, limit: usize) -> Result<(CommitId, FileAt), GitError> {
        Mirror::file(self, commit, path, limit)
    }

    fn changes(
        &mut self,
        tip: &CommitId,
        path: &str,
        limits: &TreeLimits,
        visit: &mut dyn FnMut(Change) -> ControlFlow<()>,
    ) -> Result<Completeness, GitError> {
        Mirror::changes(self, tip, path, limits, visit)
    }
}

impl WriteBranch for StatusBranch {
    fn fetch(&mut self) -> Result<Option<CommitId>, GitError> {
        StatusBranch::fetch(self)
    }

    fn read(&self, prefix: &str, limits: &TreeLimits) -> Result<Vec<(String, Vec<u8>)>, GitError> {
        StatusBranch::read(self, prefix, limits)
    }

    fn read_file(&self, path: &str, limit: usize) -> Result<Option<Vec<u8>>, GitError> {
        StatusBranch::read_file(self, path, limit)
    }

    fn publish(&mut self, message: &str, now: Timestamp, edit: &mut Edit<'_>) -> Result<Published, GitError> {
        StatusBranch::publish(self, message, now, &mut |tree| edit(tree))
    }
}
