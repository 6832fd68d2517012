//! Which commit last changed a manifest, found by walking the first parents from the tip.

use std::collections::BTreeMap;

use super::CommitPlace;
use crate::manifest::{Digest, Document, Manifest, ManifestId};

/// What one commit did to the watched path: the documents of the files that it touched, before and after it.
///
/// Files that it did not touch may be left out, on both sides alike.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    pub commit: &'a CommitPlace,
    /// By the first parent; empty for the first commit of a branch.
    pub before: &'a [Document],
    pub after: &'a [Document],
}

/// Takes the changes of a branch, newest first, until every manifest has its commit.
#[derive(Debug, Clone)]
pub struct Attribution {
    found: BTreeMap<ManifestId, Option<CommitPlace>>,
}

impl Attribution {
    pub fn new<'a>(current: impl IntoIterator<Item = &'a Manifest>) -> Self {
        Self { found: current.into_iter().map(|manifest| (manifest.id.clone(), None)).collect() }
    }

    /// Nothing is left to look for, and history need not be deepened.
    pub fn is_complete(&self) -> bool {
        self.found.values().all(Option::is_some)
    }

    /// Takes the next older change; true when no older one is needed.
    ///
    /// A document that was moved to another file, reformatted or given a comment is not changed by that.
    pub fn feed(&mut self, change: Change<'_>) -> bool {
        let Change { commit, before, after } = change;
        let (before, after) = (digests(before), digests(after));
        for (id, found) in &mut self.found {
            if found.is_none() && before.get(id) != after.get(id) {
                *found = Some(commit.clone());
            }
        }
        self.is_complete()
    }

    /// The commit of each manifest; `None` where history ended first, which a shallow clone's end does.
    pub fn finish(self) -> BTreeMap<ManifestId, Option<CommitPlace>> {
        self.found
    }
}

/// History may hold a name twice: then all of its documents count, in any order.
fn digests(documents: &[Document]) -> BTreeMap<&ManifestId, Vec<Digest>> {
    let mut digests: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for document in documents {
        digests.entry(&document.id).or_default().push(document.digest);
    }
    digests.values_mut().for_each(|all| all.sort());
    digests
}
