//! Undos that a failure asks for: each stands where the manifest stands that it undoes, and is begun like any other.

use super::ledger::Books;
use crate::desired::{CommitPlace, Placed, StoreDefault};
use crate::run::{Phase, Run};
use crate::undo::{self, Asked};

/// `placed`, and the undo that is owed to the last run. `store` is the agent's own.
///
/// It takes the place of the manifest that failed, so that whatever was merged after that supersedes it.
pub fn with_undo(mut placed: Vec<Placed>, books: &Books, store: Option<&StoreDefault>) -> Vec<Placed> {
    let Some(undone) = owed(books) else { return placed };
    let Ok(manifest) = undo::manifest(undone, Asked::ByPolicy) else { return placed };
    let Some(position) = position(undone, &placed, books) else { return placed };
    let commit = CommitPlace {
        id: undone.spec.source.commit.clone(),
        position,
        author: undone.spec.source.author.clone(),
        time: undone.status.as_ref().and_then(|status| status.ended_at).unwrap_or_default(),
    };
    placed.push(Placed::new(manifest, store, commit).undoing());
    placed
}

/// `None` where somebody has asked for something else since.
fn position(undone: &Run, placed: &[Placed], books: &Books) -> Option<usize> {
    let stands = placed.iter().find(|other| other.key.to_string() == undone.spec.key);
    if let Some(stands) = stands {
        return Some(stands.commit.position);
    }
    // It was handed over on the command line, or is gone from Git: as new as the newest, which is older, or has not run yet.
    let newest = placed.iter().map(|other| other.commit.position).min().unwrap_or_default();
    let has_ended =
        |other: &Placed| books.ledger.entries.get(&other.key).is_some_and(|entry| entry.phase.is_terminal());
    let is_newer = placed.iter().any(|other| other.commit.position == newest && !has_ended(other));
    (!is_newer).then_some(newest)
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

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::desired::{LedgerEntry, RunKey};
    use crate::manifest::unpin;
    use crate::undo::tests::failed;

    const AT: &str = "2026-11-23T03:00:00Z";

    /// A run that failed and asks to be undone, at a minute past three.
    fn run(minute: i64) -> (Run, Placed) {
        let mut run = failed();
        let manifest = unpin(&run.spec.document, "back.yaml", "").expect("a manifest");
        let commit =
            CommitPlace { id: "c".repeat(40), position: 3, author: "Ada".to_owned(), time: Timestamp::UNIX_EPOCH };
        let placed = Placed::new(manifest, None, commit);
        run.spec.key = placed.key.to_string();
        let status = run.status.as_mut().expect("a status");
        let at: Timestamp = AT.parse().expect("a time");
        status.started_at = at.checked_add(jiff::SignedDuration::from_mins(minute)).ok();
        status.undone_by = Some("undo-back".to_owned());
        (run, placed)
    }

    fn books(runs: impl IntoIterator<Item = (RunKey, Run)>) -> Books {
        let mut books = Books::default();
        for (key, run) in runs {
            let status = run.status.clone().unwrap_or_default();
            let entry = LedgerEntry {
                kind: crate::manifest::Kind::Rollback,
                name: run.spec.manifest.name.clone(),
                local: false,
                content: run.spec.content_key.parse().expect("a key"),
                document: None,
                phase: status.phase,
                first_write: true,
                started: status.started_at,
            };
            books.ledger.entries.insert(key, entry);
            books.runs.insert(key, run);
        }
        books
    }

    fn another(position: usize) -> Placed {
        let (_, mut placed) = run(0);
        placed.manifest.options.requested_at = AT.parse().ok();
        Placed::new(placed.manifest, None, CommitPlace { position, ..placed.commit })
    }

    fn positions(placed: &[Placed]) -> Vec<(bool, usize)> {
        placed.iter().map(|placed| (placed.undoes, placed.commit.position)).collect()
    }

    #[test]
    fn an_undo_stands_where_the_manifest_stands_that_failed() {
        let (run, placed) = run(1);
        let books = books([(placed.key, run)]);
        let all = with_undo(vec![another(0), placed], &books, None);
        assert_eq!(positions(&all), [(false, 0), (false, 3), (true, 3)]);
        assert_eq!(all[2].manifest.id.to_string(), "Rollback undo-back");
    }

    #[test]
    fn who_asks_for_something_else_in_its_place_is_not_overtaken_by_it() {
        let (run, placed) = run(1);
        let books = books([(placed.key, run)]);
        assert_eq!(positions(&with_undo(vec![another(0)], &books, None)), [(false, 0)]);
        assert_eq!(positions(&with_undo(Vec::new(), &books, None)), [(true, 0)], "it is gone from Git");
    }

    #[test]
    fn what_ran_since_has_overtaken_it() {
        let ((first, placed), (mut later, _)) = (run(1), run(2));
        later.spec.manifest.name = "later".to_owned();
        let status = later.status.as_mut().expect("a status");
        (status.phase, status.undone_by) = (Phase::Succeeded, None);
        let books = books([(placed.key, first), (another(0).key, later)]);
        assert_eq!(positions(&with_undo(vec![placed], &books, None)), [(false, 3)]);
    }
}
