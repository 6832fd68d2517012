//! Pushing into a repository on this machine.
//!
//! libgit2's own local push reads the branch, and writes it later by force: who pushed in between is lost. Here the branch is
//! compared and swapped under its lock file, which Git's own processes honour. Hooks do not run; a `file://` remote has no server.
//!
//! Nor does it have a server that outlives whoever pushes: killed in that moment, a process leaves the lock file, and nobody could
//! push any more. One that is old is taken away.

use std::path::Path;
use std::time::{Duration, SystemTime};

use git2::{ErrorCode, Oid, Repository};
use tracing::warn;

use super::Refused;
use crate::git::auth::Scrubber;
use crate::git::error::{Fault, GitError};
use crate::git::fetch::Link;

pub(super) fn push(
    cache: &Repository,
    path: &Path,
    link: &Link,
    parent: Option<Oid>,
    commit: Oid,
) -> Result<Result<(), Refused>, Fault> {
    let failed = |error: &git2::Error| GitError::Unreachable {
        url: link.url(),
        detail: Scrubber::default().clean(error.message()),
    };
    let remote = Repository::open(path)
        .map_err(|error| GitError::NotFound { url: link.url(), detail: Scrubber::default().clean(error.message()) })?;
    let reference = link.reference();
    if checked_out(&remote, &reference) {
        return Ok(Err(Refused::Rejected("the branch is checked out there; push to a bare repository".to_owned())));
    }
    send_objects(cache, &remote, parent, commit, &failed)?;
    let expected = parent.unwrap_or(Oid::ZERO_SHA1);
    let swap = || remote.reference_matching(&reference, commit, true, expected, "reinback: status").map(drop);
    let swapped = match swap() {
        Err(error) if error.code() == ErrorCode::Locked && remove_stale_lock(&remote, &reference) => swap(),
        other => other,
    };
    match swapped {
        Ok(()) => Ok(Ok(())),
        Err(error) => match error.code() {
            ErrorCode::Modified | ErrorCode::Exists | ErrorCode::Locked | ErrorCode::NotFound => {
                Ok(Err(Refused::Lost(Scrubber::default().clean(error.message()))))
            }
            _ => Err(failed(&error).into()),
        },
    }
}

/// Git holds the lock of a branch while it writes one line, and while the hook `reference-transaction` runs.
const LOCK_IS_STALE_AFTER: Duration = Duration::from_secs(10);

/// True when the lock was one that nobody holds, and is gone.
fn remove_stale_lock(remote: &Repository, reference: &str) -> bool {
    let path = remote.commondir().join(format!("{reference}.lock"));
    let modified = std::fs::metadata(&path).and_then(|file| file.modified());
    if !modified.is_ok_and(|modified| is_stale(modified, SystemTime::now())) {
        return false;
    }
    warn!("removing {} of a Git process that was killed", path.display());
    std::fs::remove_file(&path).is_ok()
}

/// Of one from the future, by a clock that was set back, nobody knows how old it is.
fn is_stale(modified: SystemTime, now: SystemTime) -> bool {
    now.duration_since(modified).is_ok_and(|age| age >= LOCK_IS_STALE_AFTER)
}

fn checked_out(remote: &Repository, reference: &str) -> bool {
    let head = remote.find_reference("HEAD");
    let target = head.as_ref().ok().and_then(|head| head.symbolic_target().ok().flatten());
    !remote.is_bare() && target == Some(reference)
}

/// Copies what the remote lacks: the commit and what its parent does not reach.
fn send_objects(
    cache: &Repository,
    remote: &Repository,
    parent: Option<Oid>,
    commit: Oid,
    failed: &dyn Fn(&git2::Error) -> GitError,
) -> Result<(), Fault> {
    let mut walk = cache.revwalk()?;
    walk.push(commit)?;
    if let Some(parent) = parent {
        walk.hide(parent)?;
    }
    let mut builder = cache.packbuilder()?;
    builder.insert_walk(&mut walk)?;
    let mut pack = git2::Buf::new();
    builder.write_buf(&mut pack)?;
    let store = || -> Result<(), git2::Error> {
        let odb = remote.odb()?;
        let mut writer = odb.packwriter()?;
        std::io::Write::write_all(&mut writer, &pack).map_err(|error| git2::Error::from_str(&error.to_string()))?;
        writer.commit()?;
        Ok(())
    };
    store().map_err(|error| failed(&error).into())
}
