//! Safety backups: how they are called, and which of them may go.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use crate::backup::BackupName;
use crate::collect::file_name;
use crate::config::SafetyBackups;
use crate::journal::{Journal, safety_backup};
use crate::run::{Phase, Run, RunStatus};

/// Begins the name of every safety backup.
pub const PREFIX: &str = "reinback-safety-";

/// Longest part of a run's name in the name of a file, in bytes: with prefix, UID, time and endings below the 255 of file names.
const RUN_BYTES: usize = 160;
/// The end of a run's name, `-` and 8 digits of its key, which tells it from all others.
const KEY_BYTES: usize = 9;

/// The file of the safety backup of a run that began at `begun`: the operator's form, so that every tool that knows backups knows it.
/// Nothing in it depends on when it is made, so that a process that takes the run up looks for the same file.
pub fn name(run: &str, cluster_uid: &str, begun: Timestamp, encrypted: bool) -> String {
    file_name(&prefix(run), cluster_uid, begun, encrypted)
}

fn prefix(run: &str) -> String {
    match run.len() <= RUN_BYTES {
        true => format!("{PREFIX}{run}"),
        // Names of runs are ASCII.
        false => {
            let (head, key) = (run.get(..RUN_BYTES - KEY_BYTES), run.get(run.len() - KEY_BYTES..));
            format!("{PREFIX}{}{}", head.unwrap_or_default(), key.unwrap_or_default())
        }
    }
}

/// Which of the files of a store are safety backups of this cluster that nobody needs any more, oldest first.
///
/// The newest `count` stay, and those younger than `days`. Beyond both, those stay that an undo may need: of a run that has not
/// ended, of one that failed after its first write, and of the newest that succeeded. A store may serve several clusters, and hold what it likes
/// besides: what is not named as ours, with the UID of this cluster, is never among them.
pub fn superfluous<'r>(
    stored: impl IntoIterator<Item = String>,
    runs: impl IntoIterator<Item = &'r Run>,
    keep: SafetyBackups,
    cluster_uid: &str,
    now: Timestamp,
) -> Vec<String> {
    let SafetyBackups { count, days } = keep;
    let needed = needed(runs);
    let names = stored.into_iter().filter_map(|name| BackupName::new(&name).ok());
    let mut ours: Vec<(Timestamp, String, bool)> = names
        .filter_map(|name| {
            let parts =
                name.parts().filter(|parts| parts.prefix.starts_with(PREFIX) && parts.cluster_uid == cluster_uid)?;
            Some((parts.taken_at, name.to_string(), needed.contains(parts.prefix)))
        })
        .collect();
    ours.sort();
    let oldest_by_count = ours.len().saturating_sub(count as usize);
    let age = SignedDuration::from_hours(i64::from(days) * 24);
    let dropped = ours.into_iter().take(oldest_by_count);
    dropped
        .filter(|(taken_at, _, is_needed)| !is_needed && now.duration_since(*taken_at) > age)
        .map(|(_, name, _)| name)
        .collect()
}

/// Prefixes of the safety backups that an undo may need.
fn needed<'r>(runs: impl IntoIterator<Item = &'r Run>) -> BTreeSet<String> {
    let mut needed = BTreeSet::new();
    let mut newest: Option<(Timestamp, String)> = None;
    for run in runs {
        let (Some(status), Some(name)) = (&run.status, &run.metadata.name) else { continue };
        let RunStatus { phase, journal, started_at, .. } = status;
        let prefix = prefix(name);
        match phase {
            Phase::Pending | Phase::Held | Phase::Running => drop(needed.insert(prefix)),
            Phase::Failed | Phase::Cancelled | Phase::Superseded => {
                if Journal::from(journal.clone()).first_write_begun() {
                    needed.insert(prefix);
                }
            }
            // A run that wrote nothing has no safety backup, and changes nothing for the one before.
            Phase::Succeeded if safety_backup(journal).is_some() => {
                let ended = started_at.unwrap_or(Timestamp::MIN);
                if newest.as_ref().is_none_or(|(newest, _)| *newest < ended) {
                    newest = Some((ended, prefix));
                }
            }
            Phase::Succeeded => {}
        }
    }
    needed.extend(newest.map(|(_, prefix)| prefix));
    needed
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::status::run_from_value;

    const UID: &str = "6e9ee6a6-d4f2-46c2-bd99-75269cf041dc";

    fn time(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn day(day: u32) -> Timestamp {
        time(&format!("2026-11-{day:02}T03:00:00Z"))
    }

    fn file(run: &str, on: u32) -> String {
        name(run, UID, day(on), false)
    }

    fn run(name: &str, on: u32, phase: &str, journal: serde_json::Value) -> Run {
        run_from_value(json!({
            "apiVersion": "reinback.io/v1alpha1", "kind": "Run", "metadata": {"name": name},
            "spec": {
                "cluster": "c", "key": "a".repeat(64), "contentKey": "b", "document": {},
                "manifest": {"kind": "Restore", "name": "m", "file": "f", "blob": "b"},
                "source": {"commit": "c", "author": "a"},
            },
            "status": {"phase": phase, "startedAt": day(on).to_string(), "journal": journal},
        }))
        .expect("a run")
    }

    fn with_backup() -> serde_json::Value {
        let backup = json!({"name": "n", "sha256": "sha256:0", "objects": 1});
        json!([{"at": "2026-11-01T00:00:00Z", "event": "safetyBackup", "backup": backup}])
    }

    fn begun(step: &str) -> serde_json::Value {
        json!([{"at": "2026-11-01T00:00:00Z", "event": "started", "step": step}])
    }

    const NONE: SafetyBackups = SafetyBackups { count: 0, days: 0 };

    fn gone(stored: &[String], runs: &[Run], keep: SafetyBackups) -> Vec<String> {
        superfluous(stored.to_vec(), runs, keep, UID, day(28))
    }

    #[test]
    fn a_safety_backup_is_called_as_the_operator_calls_its_own() {
        let name = name("2026-11-23-back-12345678", UID, day(23), true);
        assert_eq!(
            name,
            "reinback-safety-2026-11-23-back-12345678-6e9ee6a6-d4f2-46c2-bd99-75269cf041dc-2026-11-23T03-00-00Z.tar.gz.enc"
        );
        let parsed = BackupName::new(&name).expect("a name");
        let parts = parsed.parts().expect("the operator's form");
        assert_eq!((parts.prefix, parts.cluster_uid), ("reinback-safety-2026-11-23-back-12345678", UID));
        let long = format!("2026-11-23-{}-12345678", "x".repeat(230));
        let name = super::name(&long, UID, day(23), true);
        assert!(name.len() <= 255 && name.contains("x-12345678-6e9e"), "{name}");
    }

    #[test]
    fn the_newest_and_the_young_stay() {
        let stored: Vec<String> = [1, 5, 20, 26, 27].map(|on| file(&format!("run-{on}"), on)).to_vec();
        assert_eq!(gone(&stored, &[], SafetyBackups { count: 2, days: 10 }), [file("run-1", 1), file("run-5", 5)]);
        assert_eq!(gone(&stored, &[], SafetyBackups { count: 5, days: 0 }), [] as [String; 0]);
        assert_eq!(gone(&stored, &[], SafetyBackups { count: 0, days: 30 }), [] as [String; 0]);
        assert_eq!(gone(&stored, &[], NONE).len(), 5);
    }

    #[test]
    fn what_an_undo_may_need_stays() {
        let runs = [
            run("running", 1, "Running", begun("Crds")),
            run("held", 2, "Held", json!([])),
            run("failed-late", 3, "Failed", begun("Crds")),
            run("failed-early", 4, "Failed", begun("SafetyBackup")),
            run("older", 5, "Succeeded", with_backup()),
            run("newest", 6, "Succeeded", with_backup()),
            run("nothing-to-do", 7, "Succeeded", json!([])),
        ];
        let stored: Vec<String> = runs
            .iter()
            .zip(1..)
            .map(|(run, on)| file(run.metadata.name.as_deref().unwrap_or_default(), on))
            .chain([file("of-nobody", 8)])
            .collect();
        let dropped = gone(&stored, &runs, NONE);
        assert_eq!(
            dropped,
            [file("failed-early", 4), file("older", 5), file("nothing-to-do", 7), file("of-nobody", 8)]
        );
    }

    #[test]
    fn nothing_but_our_own_of_this_cluster_goes() {
        let others = [
            file_name("nightly", UID, day(1), false),
            file_name("reinback", UID, day(1), false),
            name("run", "56488071-5e68-44dd-b5a1-2f0f8091f490", day(1), false),
            "reinback-safety-run.tar.gz".to_owned(),
            format!("{}.part", file("run", 1)),
        ];
        assert_eq!(gone(&others, &[], NONE), [] as [String; 0]);
    }
}
