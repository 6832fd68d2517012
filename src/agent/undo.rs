//! Undos that a failure asks for: each stands where the manifest stands that it undoes, and is begun like any other.

use super::ledger::Books;
use crate::config::Config;
use crate::desired::{CommitPlace, Placed};
use crate::run::{Phase, Run};
use crate::undo::{self, Asked};

/// `placed`, and the undo that is owed to the last run.
///
/// It takes the place of the manifest that failed, so that whatever was merged after that supersedes it.
pub fn with_undo(mut placed: Vec<Placed>, books: &Books, config: &Config) -> Vec<Placed> {
    let Some(undone) = owed(books) else { return placed };
    let Ok(manifest) = undo::manifest(undone, Asked::ByPolicy) else { return placed };
    let stands =
        placed.iter().find(|other| other.key.to_string() == undone.spec.key).map(|other| other.commit.position);
    let position = stands.unwrap_or_else(|| {
        // It was handed over on the command line, or is gone from Git: newer than all that was there then.
        placed.iter_mut().for_each(|other| other.commit.position = other.commit.position.saturating_add(1));
        0
    });
    let commit = CommitPlace {
        id: undone.spec.source.commit.clone(),
        position,
        author: undone.spec.source.author.clone(),
        time: undone.status.as_ref().and_then(|status| status.ended_at).unwrap_or_default(),
    };
    placed.push(Placed::new(manifest, config.store.as_ref(), commit).undoing());
    placed
}

/// The run that began last, where it asks to be undone; or the one before it, where the last is its undo.
fn owed(books: &Books) -> Option<&Run> {
    let began = |run: &&Run| run.status.as_ref().and_then(|status| status.started_at);
    let mut begun: Vec<&Run> = books.runs.values().filter(|run| began(run).is_some()).collect();
    begun.sort_by_key(|run| std::cmp::Reverse(began(run)));
    let undone = |run: &&Run| {
        run.status.as_ref().is_some_and(|status| status.phase == Phase::Failed && status.undone_by.is_some())
    };
    let last = *begun.first()?;
    if undone(&last) {
        return Some(last);
    }
    let before = *begun.get(1)?;
    let by = before.status.as_ref()?.undone_by.as_deref();
    (undone(&before) && by == Some(last.spec.manifest.name.as_str())).then_some(before)
}
