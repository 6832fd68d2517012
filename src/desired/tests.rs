use std::path::Path;

use insta::assert_snapshot;

use super::*;
use crate::manifest::{Body, Document, Limits, parse};

fn documents(content: &str) -> Vec<Document> {
    let parsed = parse("a.yaml", content.as_bytes(), &Limits::default());
    assert_eq!(parsed.problems, [], "{content}");
    parsed.documents
}

fn manifest(content: &str) -> Manifest {
    documents(content).into_iter().find_map(|document| document.manifest).expect("a valid manifest")
}

fn restore(name: &str, spec: &str) -> Manifest {
    let spec = if spec.is_empty() { String::new() } else { format!(", {spec}") };
    manifest(&format!(
        "apiVersion: resources.cattle.io/v1\nkind: Restore\nmetadata: {{name: {name}}}\nspec: {{backupFilename: b.tar.gz{spec}}}\n"
    ))
}

fn annotated(annotation: &str) -> Manifest {
    manifest(&format!(
        "apiVersion: resources.cattle.io/v1\nkind: Restore\nmetadata: {{name: monday, annotations: {{reinback.io/{annotation}}}}}\nspec: {{backupFilename: b.tar.gz}}\n"
    ))
}

fn rollback(name: &str, spec: &str) -> Manifest {
    manifest(&format!(
        "apiVersion: reinback.io/v1alpha1\nkind: Rollback\nmetadata: {{name: {name}}}\nspec: {{toVersion: v2.9.3{spec}}}\n"
    ))
}

fn s3(lines: &str) -> Manifest {
    restore("monday", &format!("storageLocation: {{s3: {{bucketName: abc{lines}}}}}"))
}

fn folder(path: &str) -> StoreDefault {
    StoreDefault::Directory(path.into())
}

fn commit(position: usize) -> CommitPlace {
    CommitPlace { id: format!("{position:040}"), position, author: "Ada".to_owned(), time: Timestamp::UNIX_EPOCH }
}

fn placed(name: &str, position: usize) -> Placed {
    Placed::new(restore(name, ""), None, commit(position))
}

fn entry(placed: &Placed, phase: Phase) -> LedgerEntry {
    let ManifestId { kind, name } = placed.manifest.id.clone();
    let document = Some(placed.manifest.document_digest);
    LedgerEntry {
        kind,
        name,
        local: false,
        content: placed.content,
        document,
        phase,
        first_write: false,
        started: None,
    }
}

fn ledger(entries: &[(&Placed, Phase)]) -> Ledger {
    let entries = entries.iter().map(|(placed, phase)| (placed.key, entry(placed, *phase))).collect();
    Ledger { entries, is_half: false }
}

const USUAL: Look = Look { first: false, whole: true };

/// A decision as a person would tell it.
fn told(desired: &Desired, names: &[&Placed]) -> String {
    let name = |key: &RunKey| names.iter().find(|p| p.key == *key).map_or("?", |p| p.manifest.id.name.as_str());
    let Desired { runnable, waiting, continue_run, ambiguous, superseded, cancelled, done, rules } = desired;
    let mut lines = Vec::new();
    lines.extend(runnable.iter().map(|c| format!("run {}", name(&c.placed.key))));
    lines.extend(waiting.iter().map(|c| format!("wait {}", name(&c.placed.key))));
    lines.extend(continue_run.iter().map(|key| format!("continue {}", name(key))));
    lines.extend(ambiguous.iter().map(|p| format!("ambiguous {}", name(&p.key))));
    lines.extend(superseded.iter().map(|(p, by)| format!("superseded {}: {by}", name(&p.key))));
    lines.extend(cancelled.iter().map(|(key, reason)| match reason {
        CancelReason::Removed => format!("cancelled {}: removed", name(key)),
        CancelReason::Edited { .. } => format!("cancelled {}: edited", name(key)),
        CancelReason::Asked { by } => format!("cancelled {}: by {by}", name(key)),
    }));
    lines.extend(done.iter().map(|(p, phase)| format!("done {}: {phase:?}", name(&p.key))));
    lines.extend(rules.iter().map(|key| format!("rules {}", name(key))));
    lines.join("\n")
}

// Keys are kept in Git for ever. When one of these changes, what has run would run again.
#[test]
fn keys_never_change() {
    let plain = restore("monday", "");
    assert_snapshot!(run_key(&plain, None), @"80c93f333f2e902bb15206fddf53e8fd23ec46c619827472154cd9e2886a6e27");
    assert_snapshot!(content_key(&plain, None), @"9f174ab6dd3cf820534628e8cbae55b5ddfce25c9706cd97060e7e22dd6b43c2");
    assert_snapshot!(run_key(&plain, Some(&folder("/var/lib/backups"))), @"f09e3dc41f6c939db19fb7a1aaa313a4c2adb38d54025378f888abde704a8a3e");
    let whole = manifest(
        "apiVersion: resources.cattle.io/v1\nkind: Restore\nmetadata:\n  name: monday\n  annotations: {reinback.io/requested-at: \"2026-11-23T10:00:00.5+01:00\"}\n\
         spec:\n  backupFilename: b.tar.gz\n  prune: false\n  encryptionConfigSecretName: enc\n  storageLocation: {s3: {bucketName: abc, endpoint: minio.example.org:9000, region: eu-west-1, folder: a/b}}\n",
    );
    assert_snapshot!(run_key(&whole, None), @"eb67206231fa8286344b16199d91f9efa923911166b388c9b189d1e6c14413ad");
    assert_snapshot!(run_key(&rollback("back", ""), None), @"77476735e1856428e9ea5d58a3e10f674e0f216663603fbe16774c5980ba4e75");
    assert_snapshot!(run_key(&rollback("back", ", restore: {backupFilename: b.tar.gz}"), None), @"62bc554bad44af45ee278df8e5edf577f6ee0282949750dc353ebaf4b4396fe0");
    assert_snapshot!(run_key(&plain, None).short(), @"80c93f33");
}

#[test]
fn how_a_run_is_carried_out_is_not_in_its_key() {
    let key = run_key(&restore("monday", ""), None);
    for spec in ["prune: true", "ignoreErrors: true", "deleteTimeoutSeconds: 5"] {
        assert_eq!(run_key(&restore("monday", spec), None), key, "{spec}");
    }
    let digest = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    let pins = [format!("backup-digest: '{digest}'"), format!("approved-plan: '{digest}'")];
    for annotation in ["timeout: 50m", "engine: native", "accept: AlreadyRun", "on-failure: Undo"]
        .into_iter()
        .chain(pins.iter().map(String::as_str))
    {
        assert_eq!(run_key(&annotated(annotation), None), key, "{annotation}");
    }
    let key = run_key(&rollback("back", ""), None);
    assert_eq!(run_key(&rollback("back", ", versionMethod: image"), None), key);
}

#[test]
fn what_is_written_and_when_it_was_asked_for_is_in_the_key() {
    let mut keys: Vec<_> =
        ["", "prune: false", "encryptionConfigSecretName: enc", "storageLocation: {s3: {bucketName: abc}}"]
            .map(|spec| run_key(&restore("monday", spec), None))
            .into();
    keys.push(run_key(&restore("tuesday", ""), None));
    keys.push(run_key(&restore("monday", ""), Some(&folder("/var/lib/backups"))));
    keys.extend(
        ["2026-11-23T09:00:00Z", "2026-11-23T09:00:01Z"]
            .map(|at| run_key(&annotated(&format!("requested-at: {at}")), None)),
    );
    keys.extend([", folder: a", ", region: eu-west-1", ", endpoint: minio"].map(|lines| run_key(&s3(lines), None)));
    keys.extend(["", ", restore: {backupFilename: b.tar.gz}"].map(|spec| run_key(&rollback("monday", spec), None)));
    let unique: std::collections::BTreeSet<_> = keys.iter().collect();
    assert_eq!(unique.len(), keys.len());
}

#[test]
fn two_ways_to_write_one_place_or_instant_are_one_key() {
    let same = |ways: &[Manifest]| {
        for way in ways {
            assert_eq!(run_key(way, None), run_key(&ways[0], None), "{:?}", way.body);
        }
    };
    same(&[
        s3(", folder: a/b"),
        s3(", folder: /a//b/"),
        s3(", folder: a/b/, credentialSecretName: x, insecureTLSSkipVerify: true"),
    ]);
    same(&[
        s3(""),
        s3(", region: us-east-1"),
        s3(", endpoint: s3.amazonaws.com"),
        s3(", endpoint: 'https://s3.us-east-1.amazonaws.com/'"),
        s3(", folder: /"),
    ]);
    same(&[s3(", endpoint: minio.example.org"), s3(", endpoint: 'https://MINIO.example.org:443/'")]);
    same(
        &["2026-11-23T09:00:00Z", "2026-11-23T10:00:00+01:00", "2026-11-23T09:00:00.000Z"]
            .map(|at| annotated(&format!("requested-at: '{at}'"))),
    );
    let named = s3(", folder: a");
    let Body::Restore(spec) = &named.body else { unreachable!("it is a restore") };
    let default = StoreDefault::S3(Box::new(spec.storage_location.clone().expect("it has one")));
    assert_eq!(run_key(&restore("monday", ""), Some(&default)), run_key(&named, None));
    let plain = restore("monday", "");
    assert_eq!(run_key(&plain, Some(&folder("/a/b"))), run_key(&plain, Some(&folder("/a/./b//"))));
    assert_ne!(run_key(&plain, Some(&StoreDefault::Directory(Path::new("/a").into()))), run_key(&plain, None));
}

#[test]
fn a_key_is_read_back_from_its_text() {
    let key = run_key(&restore("monday", ""), None);
    assert_eq!(key.to_string().parse(), Ok(key));
    assert_eq!(key.to_string().len(), 64);
    for text in ["", "abc", &"g".repeat(64), &"a".repeat(65), &"é".repeat(32)] {
        assert_eq!(text.parse::<RunKey>(), Err(NotAKey(text.to_owned())));
    }
}

#[test]
fn the_newest_runs_and_older_ones_are_superseded_whatever_their_dates_say() {
    let (old, mut new) = (placed("monday", 3), placed("tuesday", 1));
    new.commit.time = Timestamp::MIN;
    let desired = decide(vec![old.clone(), new.clone()], &Ledger::default(), USUAL);
    assert_snapshot!(told(&desired, &[&old, &new]), @"
    run tuesday
    superseded monday: Restore tuesday (6bab6b50) is newer
    rules tuesday
    ");
    let held = ledger(&[(&old, Phase::Held), (&new, Phase::Held)]);
    assert_snapshot!(told(&decide(vec![old.clone(), new.clone()], &held, USUAL), &[&old, &new]), @"
    run tuesday
    superseded monday: Restore tuesday (6bab6b50) is newer
    rules tuesday
    ");
}

#[test]
fn nothing_runs_when_the_newest_has_ended() {
    let (old, new) = (placed("monday", 3), placed("tuesday", 1));
    for phase in [Phase::Succeeded, Phase::Failed, Phase::Superseded, Phase::Cancelled] {
        let desired = decide(vec![old.clone(), new.clone()], &ledger(&[(&new, phase)]), USUAL);
        assert_eq!((&desired.runnable, desired.superseded.len(), desired.done.len()), (&None, 1, 1), "{phase:?}");
    }
    let superseded = ledger(&[(&new, Phase::Superseded)]);
    assert_snapshot!(told(&decide(vec![old.clone(), new.clone()], &superseded, USUAL), &[&old, &new]), @"
    superseded monday: Restore tuesday (6bab6b50) is newer
    done tuesday: Superseded
    ");
}

#[test]
fn two_of_one_commit_are_held_and_one_of_them_alone_may_run() {
    let (a, b, old) = (placed("a", 1), placed("b", 1), placed("old", 2));
    let all = vec![a.clone(), old.clone(), b.clone()];
    assert_snapshot!(told(&decide(all.clone(), &Ledger::default(), USUAL), &[&a, &b, &old]), @"
    ambiguous a
    ambiguous b
    superseded old: Restore a (45e7ada2) is newer
    ");
    let one_ended = ledger(&[(&a, Phase::Succeeded)]);
    assert_snapshot!(told(&decide(all, &one_ended, USUAL), &[&a, &b, &old]), @"
    run b
    superseded old: Restore a (45e7ada2) is newer
    done a: Succeeded
    rules b
    ");
    let one_removed = ledger(&[(&a, Phase::Held), (&b, Phase::Held)]);
    assert_snapshot!(told(&decide(vec![b.clone()], &one_removed, USUAL), &[&a, &b]), @"
    run b
    cancelled a: removed
    rules b
    ");
}

#[test]
fn the_first_look_runs_nothing() {
    let (a, b) = (placed("a", 0), placed("b", 1));
    let look = Look { first: true, ..USUAL };
    assert_snapshot!(told(&decide(vec![a.clone(), b.clone()], &Ledger::default(), look), &[&a, &b]), @"
    superseded a: it was in Git before reinback looked for the first time; to run it, change `reinback.io/requested-at`
    superseded b: it was in Git before reinback looked for the first time; to run it, change `reinback.io/requested-at`
    ");
}

#[test]
fn what_has_started_goes_on_and_newer_ones_wait() {
    let (old, new) = (placed("monday", 3), placed("tuesday", 1));
    let running = ledger(&[(&old, Phase::Running)]);
    assert_snapshot!(told(&decide(vec![old.clone(), new.clone()], &running, USUAL), &[&old, &new]), @"
    wait tuesday
    continue monday
    rules tuesday
    ");
}

#[test]
fn a_manifest_that_is_removed_or_edited_is_cancelled_before_its_first_write_only() {
    let (gone, new) = (placed("monday", 3), placed("tuesday", 1));
    let mut started = ledger(&[(&gone, Phase::Running)]);
    assert_snapshot!(told(&decide(vec![new.clone()], &started, USUAL), &[&gone, &new]), @"
    wait tuesday
    cancelled monday: removed
    rules tuesday
    ");
    for entry in started.entries.values_mut() {
        entry.first_write = true;
    }
    assert_snapshot!(told(&decide(vec![new.clone()], &started, USUAL), &[&gone, &new]), @"
    wait tuesday
    continue monday
    rules tuesday
    ");
    let edited = Placed::new(restore("monday", "prune: false"), None, commit(0));
    let held = ledger(&[(&gone, Phase::Held)]);
    assert_snapshot!(told(&decide(vec![edited.clone()], &held, USUAL), &[&gone, &edited]), @"
    run monday
    cancelled monday: edited
    rules monday
    ");
}

#[test]
fn by_half_a_ledger_only_what_is_under_way_goes_on() {
    let (old, gone, new) = (placed("monday", 3), placed("sunday", 5), placed("tuesday", 1));
    let half = |entries: &[(&Placed, Phase)]| Ledger { is_half: true, ..ledger(entries) };
    // It may have run: Git would say so.
    assert_eq!(decide(vec![old.clone(), new.clone()], &half(&[]), USUAL), Desired::default());
    let running = half(&[(&old, Phase::Running), (&gone, Phase::Held)]);
    let desired = decide(vec![old.clone(), new.clone()], &running, USUAL);
    assert_eq!(desired, Desired { continue_run: Some(old.key), ..Desired::default() });
    let desired = decide(vec![new.clone()], &running, USUAL);
    assert_eq!(desired.cancelled, [(old.key, CancelReason::Removed)]);
}

#[test]
fn nothing_is_cancelled_for_a_file_that_could_not_be_read() {
    let gone = placed("monday", 3);
    let desired = decide(Vec::new(), &ledger(&[(&gone, Phase::Held)]), Look { whole: false, ..USUAL });
    assert_eq!(desired, Desired::default());
}

#[test]
fn another_default_store_runs_nothing_again() {
    let manifest = restore("monday", "");
    let before = Placed::new(manifest.clone(), Some(&folder("/old")), commit(1));
    let after = Placed::new(manifest, Some(&folder("/new")), commit(1));
    assert_ne!(before.key, after.key);
    let desired = decide(vec![after.clone()], &ledger(&[(&before, Phase::Succeeded)]), USUAL);
    assert_snapshot!(told(&desired, &[&before, &after]), @"
    done monday: Succeeded
    rules monday
    ");
    let desired = decide(vec![after.clone()], &ledger(&[(&before, Phase::Running)]), USUAL);
    assert_eq!((desired.continue_run, desired.runnable, desired.cancelled), (Some(before.key), None, vec![]));
}

#[test]
fn the_same_content_under_another_name_is_told() {
    let (ran, again) = (placed("monday", 3), placed("monday-again", 1));
    for (phase, first_write, flagged) in [
        (Phase::Succeeded, true, true),
        (Phase::Failed, true, true),
        (Phase::Failed, false, false),
        (Phase::Superseded, false, false),
        (Phase::Cancelled, false, false),
    ] {
        let mut ledger = ledger(&[(&ran, phase)]);
        ledger.entries.values_mut().for_each(|entry| entry.first_write = first_write);
        let candidate = decide(vec![again.clone()], &ledger, USUAL).runnable.expect("it may run");
        assert_eq!(candidate.already_run, flagged.then_some(ran.key), "{phase:?}");
    }
}

/// Every mixture of three manifests in two commits with a fourth that left Git.
#[test]
fn in_every_mixture_at_most_one_runs_and_what_has_ended_never_does() {
    const PHASES: [Option<Phase>; 8] = [
        None,
        Some(Phase::Pending),
        Some(Phase::Held),
        Some(Phase::Running),
        Some(Phase::Succeeded),
        Some(Phase::Failed),
        Some(Phase::Superseded),
        Some(Phase::Cancelled),
    ];
    let gone = placed("gone", 9);
    let base = ["a", "b", "c"].map(|name| placed(name, 0));
    for mixture in 0..8 * 512 * 4 * 3_usize {
        let (positions, rest) = (mixture % 8, mixture / 8);
        let (phases, rest) = (rest % 512, rest / 512);
        let (look, gone_phase) = (rest % 4, [None, Some(Phase::Held), Some(Phase::Running)][rest / 4]);
        let look = Look { first: look & 1 == 1, whole: look & 2 == 2 };
        let mut all = base.clone();
        let mut ledger = Ledger::default();
        for (index, placed) in all.iter_mut().enumerate() {
            placed.commit.position = positions >> index & 1;
            let phase = PHASES[phases >> (3 * index) & 7];
            ledger.entries.extend(phase.map(|phase| (placed.key, entry(placed, phase))));
        }
        ledger.entries.extend(gone_phase.map(|phase| (gone.key, entry(&gone, phase))));
        let desired = decide(all.to_vec(), &ledger, look);
        check(&all, &ledger, look, &desired);
        let [a, b, c] = all;
        assert_eq!(decide(vec![c, a, b], &ledger, look), desired, "the order of files decides nothing");
    }
}

fn check(all: &[Placed], ledger: &Ledger, look: Look, desired: &Desired) {
    let Desired { runnable, waiting, continue_run, ambiguous, superseded, cancelled, done, rules: _ } = desired;
    let phase = |placed: &Placed| ledger.entries.get(&placed.key).map(|entry| entry.phase);
    let candidates: Vec<_> = runnable.iter().chain(waiting).map(|candidate| &candidate.placed).collect();
    let newest = all.iter().map(|placed| placed.commit.position).min();
    let any_running = ledger.entries.values().any(|entry| entry.phase == Phase::Running);

    assert!(candidates.len() <= 1 && (candidates.is_empty() || ambiguous.is_empty()) && ambiguous.len() != 1);
    assert!(runnable.is_none() || !any_running);
    assert!(waiting.is_none() || any_running);
    assert!(!look.first || (candidates.is_empty() && ambiguous.is_empty()));
    for placed in candidates.iter().copied().chain(ambiguous) {
        assert_eq!(Some(placed.commit.position), newest, "only the newest may run");
    }
    for placed in candidates.iter().copied().chain(ambiguous).chain(superseded.iter().map(|(placed, _)| placed)) {
        assert!(matches!(phase(placed), None | Some(Phase::Pending | Phase::Held)), "it has not started");
    }
    assert!(done.iter().all(|(placed, ended)| ended.is_terminal() && phase(placed) == Some(*ended)));
    let running = all.iter().filter(|placed| phase(placed) == Some(Phase::Running)).count();
    assert_eq!(
        candidates.len() + ambiguous.len() + superseded.len() + done.len() + running,
        all.len(),
        "each is told once"
    );
    assert!(continue_run.is_none_or(
        |key| ledger.entries[&key].phase == Phase::Running && cancelled.iter().all(|(other, _)| *other != key)
    ));
    assert!(continue_run.is_some() || !any_running || !cancelled.is_empty(), "what has started goes on");
    assert!(look.whole || cancelled.iter().all(|(_, reason)| *reason != CancelReason::Removed));
}

fn change<'a>(commit: &'a CommitPlace, before: &'a [Document], after: &'a [Document]) -> Change<'a> {
    Change { commit, before, after }
}

fn text(name: &str, backup: &str) -> String {
    format!(
        "---\napiVersion: resources.cattle.io/v1\nkind: Restore\nmetadata: {{name: {name}}}\nspec: {{backupFilename: {backup}}}\n"
    )
}

#[test]
fn a_manifest_belongs_to_the_last_commit_that_changed_what_it_says() {
    let current = documents(&(text("a", "2.tgz") + &text("b", "1.tgz")));
    let manifests: Vec<_> = current.iter().filter_map(|document| document.manifest.clone()).collect();
    let mut attribution = Attribution::new(&manifests);
    let commits: Vec<_> = (0..5).map(commit).collect();
    let reformatted = documents(&format!("# moved\n{}", text("b", "'1.tgz'")));
    let old_a = documents(&text("a", "1.tgz"));
    let only_b = documents(&text("b", "1.tgz"));
    let twice = documents(&(text("a", "1.tgz") + &text("a", "1.tgz")));
    assert!(!attribution.feed(change(&commits[0], &only_b, &reformatted)), "moved and reformatted is not changed");
    assert!(!attribution.feed(change(&commits[1], &[], &[])), "somebody else's files");
    assert!(!attribution.feed(change(&commits[2], &old_a, &current[..1])));
    assert!(!attribution.feed(change(&commits[3], &twice, &old_a)), "older changes of a found one do not count");
    assert!(!attribution.clone().is_complete());
    assert_eq!(attribution.clone().finish()[&manifests[1].id], None, "history ended first");
    assert!(attribution.feed(change(&commits[4], &[], &only_b)));
    let found: Vec<_> = attribution.finish().into_values().map(|place| place.map(|place| place.position)).collect();
    assert_eq!(found, [Some(2), Some(4)]);
}
