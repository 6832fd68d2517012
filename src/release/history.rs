//! The revisions of one release.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{ReleaseObject, Revision, Unread, read};
use crate::rancher::Version;

/// Most revisions of a release that are read. Helm keeps ten where it is not told otherwise.
const MAX_REVISIONS: usize = 512;

/// The revisions of one release, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    revisions: Vec<Revision>,
    /// Those that are there and could not be read, oldest first.
    pub unread: Vec<Unread>,
}

impl History {
    /// Reads the revisions of one release from its Secrets. Of more than 512, the newest.
    pub fn read(secrets: &[Value]) -> Self {
        let mut history = Self::default();
        for secret in secrets {
            match read(secret) {
                Ok(revision) => history.revisions.push(revision),
                Err(unread) => history.unread.push(unread),
            }
        }
        history.revisions.sort_by_key(|revision| revision.number);
        history.unread.sort_by_key(|unread| unread.number);
        let surplus = history.revisions.len().saturating_sub(MAX_REVISIONS);
        history.revisions.drain(..surplus);
        history
    }

    pub fn is_empty(&self) -> bool {
        self.revisions.is_empty()
    }

    /// Oldest first.
    pub fn revisions(&self) -> &[Revision] {
        &self.revisions
    }

    /// The one that Helm made last, in whichever state.
    pub fn newest(&self) -> Option<&Revision> {
        self.revisions.last()
    }

    /// The newest that was once deployed: what Helm changed from last, even where a rollback failed after it and none is
    /// called `deployed` any more.
    pub fn deployed(&self) -> Option<&Revision> {
        self.newest_that(|revision| revision.was_deployed)
    }

    pub fn get(&self, number: u64) -> Option<&Revision> {
        self.newest_that(|revision| revision.number == number)
    }

    /// The newest that was once deployed and whose chart is of this version.
    pub fn newest_of(&self, version: &Version) -> Option<&Revision> {
        self.newest_that(|revision| revision.was_deployed && revision.version().as_ref() == Some(version))
    }

    /// The newest revision, where somebody is at it or was killed over it. Older ones bind nobody.
    pub fn pending(&self) -> Option<&Revision> {
        self.newest().filter(|revision| revision.status.is_pending())
    }

    /// The newest that was made with values beside the chart's own; one that was deployed before one that was not.
    pub fn newest_with_values(&self) -> Option<&Revision> {
        self.newest_that(|revision| revision.was_deployed && revision.values.is_some())
            .or_else(|| self.newest_that(|revision| revision.values.is_some()))
    }

    /// What the revisions from number `since` on have and `to` has not, each once; the newest that has it says whether it
    /// is kept.
    ///
    /// A rollback that is tried again compares with the one that failed or was interrupted, which has what its target has,
    /// and so leaves behind what only the release before it had. `since` is the first revision after the target, or the
    /// one that was deployed before a target that is new.
    pub fn leftovers(&self, since: u64, to: &Revision) -> Vec<ReleaseObject> {
        of_those(self.revisions.iter().rev().take_while(|revision| revision.number >= since), to)
    }

    fn newest_that(&self, fits: impl Fn(&&Revision) -> bool) -> Option<&Revision> {
        self.revisions.iter().rev().find(fits)
    }
}

/// What `from` has and `to` has not, without what its chart says to keep.
pub fn leftovers(from: &Revision, to: &Revision) -> Vec<ReleaseObject> {
    of_those([from].into_iter(), to)
}

/// What some revisions have, the first that has it deciding, and `to` has not.
fn of_those<'a>(revisions: impl Iterator<Item = &'a Revision>, to: &Revision) -> Vec<ReleaseObject> {
    let mut known: BTreeSet<Identity<'_>> = to.objects.iter().map(|object| identity(object, to)).collect();
    let mut left = Vec::new();
    for revision in revisions {
        for object in &revision.objects {
            if known.insert(identity(object, revision)) && !object.keep {
                left.push(object.clone());
            }
        }
    }
    left
}

/// Kind, namespace and name. The version says nothing, and the group is not looked at either: types have moved from one
/// group to another with all their objects (Ingress), and what is spared by mistake harms less than what is deleted.
type Identity<'a> = (&'a str, &'a str, &'a str);

fn identity<'a>(object: &'a ReleaseObject, of: &'a Revision) -> Identity<'a> {
    (&object.kind, object.namespace.as_deref().unwrap_or(&of.namespace), &object.name)
}
