use std::collections::BTreeSet;

use kube::api::ObjectMeta;
use serde_json::json;

use super::*;
use crate::journal::{Journal, WorkloadRef};
use crate::run::{
    BackupRecord, Condition, Counts, ManifestRef, NAMESPACE, Phase, PlanRecord, Progress, RunSpec, SourceRef,
};

const KEY: &str = "0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f9";

fn at(text: &str) -> Timestamp {
    text.parse().expect("a valid time")
}

fn start() -> Timestamp {
    at("2026-11-23T09:00:00Z")
}

fn after(seconds: i64) -> Timestamp {
    start() + SignedDuration::from_secs(seconds)
}

fn pending(name: &str) -> Run {
    Run {
        metadata: ObjectMeta {
            name: Some(run_object_name(start(), name, KEY)),
            namespace: Some(NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        spec: RunSpec {
            cluster: "prod".to_owned(),
            key: KEY.to_owned(),
            content_key: "f".repeat(64),
            manifest: ManifestRef {
                kind: "Restore".to_owned(),
                name: name.to_owned(),
                file: "clusters/prod/restore.yaml".to_owned(),
                blob: "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391".to_owned(),
            },
            source: SourceRef {
                commit: "3ebb95c6a2f0b7d8c9e0f1a2b3c4d5e6f7a8b9c0".to_owned(),
                author: "Ada Lovelace <ada@example.org>".to_owned(),
            },
            document: json!({
                "apiVersion": "resources.cattle.io/v1",
                "kind": "Restore",
                "metadata": {"name": name, "annotations": {"reinback.io/accept": "CrdVersionsKept"}},
                "spec": {"backupFilename": "nightly.tar.gz", "prune": true},
            }),
        },
        status: Some(RunStatus::default()),
    }
}

fn with(mut run: Run, change: impl FnOnce(&mut RunStatus)) -> Run {
    let status = run.status.get_or_insert_default();
    change(status);
    let now = status.ended_at.or(status.started_at).or(status.held_since).unwrap_or_else(start);
    refresh(status, 1, now);
    run
}

fn rancher() -> WorkloadRef {
    WorkloadRef {
        api_version: "apps/v1".to_owned(),
        resource: "deployments".to_owned(),
        namespace: "cattle-system".to_owned(),
        name: "rancher".to_owned(),
    }
}

/// A journal in which every step before `last` took three seconds, and `last` has started.
fn journal_until(last: Step) -> Journal {
    let mut journal = Journal::default();
    let mut second = 0;
    let mut append = |entry| {
        journal.append(after(second), entry).expect("legal");
        second += 1;
    };
    for step in Step::ALL.iter().copied().filter(|step| *step <= last) {
        append(Entry::Started { step });
        if step == Step::Quiesce {
            append(Entry::Replicas { workload: rancher(), replicas: 3 });
        }
        if step < last {
            append(Entry::Finished { step });
        }
    }
    journal
}

fn running(name: &str, step: Step) -> Run {
    with(pending(name), |status| {
        status.phase = Phase::Running;
        status.started_at = Some(start());
        status.journal = journal_until(step).into();
        status.plan = Some(plan());
        status.progress = Some(Progress { step, done: 1_200, total: 4_000, seconds_left: Some(12) });
    })
}

fn plan() -> PlanRecord {
    PlanRecord {
        digest: format!("sha256:{}", "d".repeat(64)),
        engine: "native".to_owned(),
        backup: BackupRecord {
            name: "nightly.tar.gz".to_owned(),
            sha256: format!("sha256:{}", "b".repeat(64)),
            size_bytes: 750_176,
            rancher_version: Some("v2.13.1".to_owned()),
            cluster_uid: None,
            taken_at: Some(at("2026-11-22T02:00:00Z")),
        },
        counts: counts(),
        accepted: vec!["CrdVersionsKept".to_owned()],
    }
}

fn counts() -> Counts {
    Counts { created: 757, updated: 2_471, recreated: 0, deleted: 200, skipped: 5_403, protected: 0, failed: 0 }
}

fn succeeded(name: &str) -> Run {
    with(running(name, Step::Verify), |status| {
        let mut journal = Journal::from(std::mem::take(&mut status.journal));
        journal.append(after(42), Entry::Finished { step: Step::Verify }).expect("legal");
        status.journal = journal.into();
        status.phase = Phase::Succeeded;
        status.reason = "Succeeded".to_owned();
        status.ended_at = Some(after(42));
        status.progress = None;
        status.counts = Some(counts());
    })
}

fn failed_in_crds(name: &str) -> Run {
    with(running(name, Step::Crds), |status| {
        let mut journal = Journal::from(std::mem::take(&mut status.journal));
        let message = "clusters.management.cattle.io was not established within 60 s".to_owned();
        let entry = Entry::Failed { step: Step::Crds, reason: "Timeout".to_owned(), message: message.clone() };
        journal.append(after(70), entry).expect("legal");
        status.journal = journal.into();
        status.phase = Phase::Failed;
        status.reason = "Timeout".to_owned();
        status.message = message;
        status.ended_at = Some(after(71));
        add_error(
            status,
            ObjectError {
                object: "customresourcedefinitions.apiextensions.k8s.io#v1/clusters.management.cattle.io".to_owned(),
                message: "422 Invalid: spec.versions".to_owned(),
            },
        );
    })
}

fn held(name: &str, codes: &[GateCode]) -> Run {
    with(pending(name), |status| {
        status.phase = Phase::Held;
        status.reason = "Gates".to_owned();
        status.held_since = Some(start());
        status.gates = codes
            .iter()
            .map(|code| Gate::new(*code, format!("what {code} found"), format!("what to do about {code}")))
            .collect();
        status.gates.push(Gate { accepted: true, ..Gate::new(GateCode::CrdVersionsKept, "kept", "nothing") });
    })
}

fn superseded(name: &str) -> Run {
    with(pending(name), |status| {
        status.phase = Phase::Superseded;
        status.reason = "FirstLook".to_owned();
        status.ended_at = Some(start());
    })
}

const HOSTILE: &str =
    "x\n\nReinback-Plan: forged\x1b[2J <script>alert(1)</script> [a](javascript:b) | `c` https://evil.example";

fn hostile() -> Run {
    let mut run = with(held("x", &[GateCode::PruneShare]), |status| {
        status.gates[0].message = HOSTILE.to_owned();
        status.gates[0].remedy = HOSTILE.to_owned();
        status.reason = HOSTILE.to_owned();
        status.message = HOSTILE.to_owned();
    });
    run.metadata.name = Some(format!("../../{HOSTILE}"));
    run.spec.manifest.name = HOSTILE.to_owned();
    run.spec.manifest.kind = HOSTILE.to_owned();
    run.spec.manifest.file = HOSTILE.to_owned();
    run.spec.source.author = HOSTILE.to_owned();
    run.spec.source.commit = HOSTILE.to_owned();
    run
}

#[test]
fn the_subject_says_what_happened() {
    let giving_back = with(failed_in_crds("monday"), |status| {
        status.phase = Phase::Running;
        let mut journal = Journal::from(std::mem::take(&mut status.journal));
        journal.append(after(71), Entry::Started { step: Step::Resume }).expect("legal");
        status.journal = journal.into();
    });
    let unchanged = with(succeeded("monday"), |status| {
        status.counts = Some(Counts { skipped: 8_631, ..Counts::default() });
    });
    let expired = with(held("monday", &[GateCode::PruneShare]), |status| {
        status.phase = Phase::Failed;
        status.reason = "HoldExpired".to_owned();
    });
    let many =
        [GateCode::DifferentCluster, GateCode::PruneShare, GateCode::PruneDeletesNamespaces, GateCode::AlreadyRun];
    let runs = [
        pending("monday"),
        held("x", &[GateCode::DifferentCluster, GateCode::PruneShare, GateCode::PruneShare]),
        held("monday", &many),
        running("monday", Step::Preflight),
        running("monday", Step::Announce),
        running("monday", Step::Quiesce),
        running("monday", Step::ClusterScoped),
        giving_back,
        succeeded("back-to-monday"),
        unchanged,
        failed_in_crds("monday"),
        expired,
        superseded("monday"),
        succeeded(&"n".repeat(253)),
        hostile(),
    ];
    insta::assert_snapshot!(runs.map(|run| subject(&run)).join("\n"), @r"
    restore monday: pending
    restore x: held by DifferentCluster, PruneShare
    restore monday: held by DifferentCluster, PruneShare and 2 more
    restore monday: started
    restore monday: started
    restore monday: quiesce
    restore monday: cluster-scoped
    restore monday: crds failed, giving replicas back
    restore back-to-monday: succeeded in 42 s (8,631 objects: 2,471 updated, 757 created, 200 deleted)
    restore monday: succeeded in 42 s (8,631 objects, nothing to change)
    restore monday: failed in crds: Timeout
    restore monday: failed: HoldExpired
    restore monday: superseded: FirstLook
    restore nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn…: succeeded in 42 s (8,631 objects: 2,471 updated, 757 created, 200 deleted)
    x  reinback-pla… x  Reinback-Plan: forged [2J <script>al…: held by PruneShare
    ");
}

#[test]
fn a_held_run_says_in_its_commit_what_to_do() {
    insta::assert_snapshot!(commit_message(&held("monday", &[GateCode::DifferentCluster, GateCode::PruneShare])), @r"
    restore monday: held by DifferentCluster, PruneShare

    DifferentCluster: what DifferentCluster found
      what to do about DifferentCluster

    PruneShare: what PruneShare found
      what to do about PruneShare

    Read what acceptance does in docs/gates.md, then add this line to the
    manifest's annotations:

        reinback.io/accept: DifferentCluster, CrdVersionsKept, PruneShare

    Reinback-Run: 2026-11-23-monday-0a1b2c3d
    Reinback-Source-Commit: 3ebb95c6a2f0b7d8c9e0f1a2b3c4d5e6f7a8b9c0
    ");
}

#[test]
fn a_failed_run_says_in_its_commit_what_was_left_at_zero() {
    insta::assert_snapshot!(commit_message(&failed_in_crds("monday")), @r"
    restore monday: failed in crds: Timeout

    clusters.management.cattle.io was not established within 60 s

    Replicas were not given back: deployments/cattle-system/rancher had 3.
    Two ways on: take the cause away and set a new reinback.io/requested-at
    in the manifest, which restores again and gives them back; or, when the
    data is known to be good, scale them by hand, such as `kubectl -n
    NAMESPACE scale RESOURCE/NAME --replicas=N`.

    Objects that failed (1):
    - customresourcedefinitions.apiextensions.k8s.io#v1/clusters.management.cattle.io: 422 Invalid: spec.versions

    Reinback-Run: 2026-11-23-monday-0a1b2c3d
    Reinback-Source-Commit: 3ebb95c6a2f0b7d8c9e0f1a2b3c4d5e6f7a8b9c0
    Reinback-Plan: sha256:dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd
    ");
}

#[test]
fn nothing_from_outside_forges_a_trailer() {
    let message = commit_message(&hostile());
    let trailers: Vec<&str> = message.lines().filter(|line| line.starts_with("Reinback-")).collect();
    assert_eq!(trailers.len(), 2, "{message}");
    assert!(!message.contains('\x1b'));
}

fn dashboard_of(runs: &[Run], problems: &[Problem]) -> String {
    let rules = pending("monday").spec;
    dashboard(&Dashboard {
        cluster: "prod",
        cluster_uid: "6e9ee6a6-d4f2-46c2-bd99-75269cf041dc",
        rules: Some(Rules { manifest: &rules.manifest, source: &rules.source }),
        runs,
        problems,
    })
}

#[test]
fn the_dashboard_tells_what_rules_runs_waits_and_ran() {
    let runs = [
        superseded("first"),
        succeeded("monday"),
        running("tuesday", Step::Namespaced),
        held("migration", &[GateCode::DifferentCluster, GateCode::PruneShare]),
        held("broken", &[GateCode::BackupCorrupt, GateCode::PruneShare]),
        held("waiting", &[GateCode::RunInProgress]),
    ];
    let problems = [
        Problem { file: "clusters/prod/b.yaml".to_owned(), line: None, text: "not UTF-8".to_owned() },
        Problem {
            file: "clusters/prod/a.yaml".to_owned(),
            line: Some(7),
            text: "unknown field `backupFileName`, did you mean `backupFilename`?".to_owned(),
        },
    ];
    insta::assert_snapshot!(dashboard_of(&runs, &problems), @r"
    # reinback on prod

    Written by reinback. Edits are overwritten; nothing here is read as a command.

    - Cluster: `prod`
    - kube-system UID: `6e9ee6a6-d4f2-46c2-bd99-75269cf041dc`
    - Rules now: Restore `monday` (`clusters/prod/restore.yaml`, commit `3ebb95c6a2f0` by Ada Lovelace &lt;ada\@example.org&gt;)
    - Runs now: Restore `tuesday` (`clusters/prod/restore.yaml`, commit `3ebb95c6a2f0` by Ada Lovelace &lt;ada\@example.org&gt;), namespaced

    ## Held

    ### Restore `waiting`

    `clusters/prod/restore.yaml`, since 2026-11-23 09:00:00 UTC

    - **RunInProgress** (waits): what RunInProgress found
      what to do about RunInProgress

    It goes on by itself when this has passed.

    ### Restore `migration`

    `clusters/prod/restore.yaml`, since 2026-11-23 09:00:00 UTC

    - **DifferentCluster** (to be accepted): what DifferentCluster found
      what to do about DifferentCluster
    - **PruneShare** (to be accepted): what PruneShare found
      what to do about PruneShare

    Read what acceptance does in docs/gates.md, then add this line to the manifest's annotations:

    ```yaml
    metadata:
      annotations:
        reinback.io/accept: DifferentCluster, CrdVersionsKept, PruneShare
    ```

    ### Restore `broken`

    `clusters/prod/restore.yaml`, since 2026-11-23 09:00:00 UTC

    - **BackupCorrupt** (refused): what BackupCorrupt found
      what to do about BackupCorrupt
    - **PruneShare** (to be accepted): what PruneShare found
      what to do about PruneShare

    Accepting is not enough: what is refused has to change first. The line for the rest would be:

    ```yaml
    metadata:
      annotations:
        reinback.io/accept: CrdVersionsKept, PruneShare
    ```

    ## Manifests that cannot be read

    - `clusters/prod/a.yaml:7`: unknown field \`backupFileName\`, did you mean \`backupFilename\`?
    - `clusters/prod/b.yaml`: not UTF-8

    ## Last runs

    | when (UTC) | manifest | result | took | objects | file |
    |---|---|---|---|---|---|
    | 2026-11-23 09:00:00 | Restore `waiting` | Held: Gates |  |  | [`2026-11-23-waiting-0a1b2c3d`](runs/2026-11-23-waiting-0a1b2c3d.yaml) |
    | 2026-11-23 09:00:00 | Restore `tuesday` | Running |  |  | [`2026-11-23-tuesday-0a1b2c3d`](runs/2026-11-23-tuesday-0a1b2c3d.yaml) |
    | 2026-11-23 09:00:00 | Restore `monday` | Succeeded | 42 s | 8,631 objects: 2,471 updated, 757 created, 200 deleted | [`2026-11-23-monday-0a1b2c3d`](runs/2026-11-23-monday-0a1b2c3d.yaml) |
    | 2026-11-23 09:00:00 | Restore `migration` | Held: Gates |  |  | [`2026-11-23-migration-0a1b2c3d`](runs/2026-11-23-migration-0a1b2c3d.yaml) |
    | 2026-11-23 09:00:00 | Restore `first` | Superseded: FirstLook |  |  | [`2026-11-23-first-0a1b2c3d`](runs/2026-11-23-first-0a1b2c3d.yaml) |
    | 2026-11-23 09:00:00 | Restore `broken` | Held: Gates |  |  | [`2026-11-23-broken-0a1b2c3d`](runs/2026-11-23-broken-0a1b2c3d.yaml) |
    ");
}

#[test]
fn an_empty_dashboard_is_one_too() {
    let input = Dashboard { cluster: "prod", cluster_uid: "", rules: None, runs: &[], problems: &[] };
    insta::assert_snapshot!(dashboard(&input), @r"
    # reinback on prod

    Written by reinback. Edits are overwritten; nothing here is read as a command.

    - Cluster: `prod`
    - kube-system UID: ``
    - Rules now: no manifest yet
    - Runs now: nothing

    ## Last runs

    None yet.
    ");
    assert_eq!(dashboard_cluster_uid(&dashboard(&input)), None);
}

#[test]
fn the_dashboard_says_what_the_last_run_left_at_zero_until_a_newer_one_gives_it_back() {
    let failed = failed_in_crds("monday");
    assert!(dashboard_of(std::slice::from_ref(&failed), &[]).contains("## Left at 0"));
    let mut newer = succeeded("tuesday");
    newer.status.as_mut().expect("a status").started_at = Some(after(1_000));
    assert!(!dashboard_of(&[newer, failed], &[]).contains("## Left at 0"));
}

#[test]
fn the_dashboard_has_the_same_bytes_whatever_the_order() {
    let mut runs: Vec<Run> = (0..30).map(|n| succeeded(&format!("run-{n:02}"))).collect();
    let one = dashboard_of(&runs, &[]);
    runs.reverse();
    assert_eq!(dashboard_of(&runs, &[]), one);
    assert_eq!(one.matches("](runs/").count(), 20, "the last twenty");
    assert!(one.contains("10 older runs are in [runs](runs)."));
}

#[test]
fn the_cluster_that_wrote_the_dashboard_can_be_read_back() {
    let uid = "6e9ee6a6-d4f2-46c2-bd99-75269cf041dc";
    assert_eq!(dashboard_cluster_uid(&dashboard_of(&[hostile()], &[])), Some(uid));
    assert_eq!(dashboard_cluster_uid("# a page\n- kube-system UID: `rm -rf /`\n"), None);
    assert_eq!(dashboard_cluster_uid(""), None);
}

#[test]
fn the_dashboard_shows_hostile_text_as_text() {
    let problem = Problem { file: HOSTILE.to_owned(), line: Some(1), text: HOSTILE.to_owned() };
    let page = dashboard_of(&[hostile()], &[problem]);
    for line in page.lines() {
        let outside_code: String = line.replace("\\`", "").replace("\\]", "").split('`').step_by(2).collect();
        assert!(!outside_code.contains("<s"), "{line}");
        assert!(!outside_code.contains("](j"), "{line}");
        assert!(!outside_code.contains("https://"), "{line}");
    }
    assert!(!page.contains('\x1b'));
    assert!(page.contains("](runs/") && !page.contains("](runs/.."), "{page}");
}

#[test]
fn the_table_is_aligned_and_newest_first() {
    let mut older = succeeded("sunday");
    older.status.as_mut().expect("a status").started_at = Some(after(-86_400 * 3));
    older.status.as_mut().expect("a status").ended_at = Some(after(-86_400 * 3 + 185));
    let runs = [
        older,
        running("monday", Step::Namespaced),
        with(held("tuesday", &[GateCode::PruneShare]), |status| status.held_since = Some(after(15))),
        with(failed_in_crds(&"long-".repeat(20)), |status| status.started_at = Some(after(-60))),
        pending("next"),
    ];
    insta::assert_snapshot!(render_table(&runs, after(20), 140), @r"
    NAME                               PHASE      REASON      WHEN            TOOK        OBJECTS
    2026-11-23-next-0a1b2c3d           Pending    -           -               -           -
    2026-11-23-tuesday-0a1b2c3d        Held       Gates       5 s ago         -           -
    2026-11-23-monday-0a1b2c3d         Running    namespaced  20 s ago        20 s        1,200 of 4,000, about 12 s left
    2026-11-23-long-long-long-long-l…  Failed     Timeout     1 min 20 s ago  2 min 11 s  -
    2026-11-23-sunday-0a1b2c3d         Succeeded  Succeeded   3 d ago         3 min 5 s   8,631 objects: 2,471 updated, 757 created, 200 deleted
    ");
    let narrow = render_table(&runs, after(20), 100);
    assert!(narrow.lines().all(|line| line.chars().count() <= 100), "{narrow}");
    assert_eq!(render_table(&[], start(), 80), "No runs yet.\n");
    assert!(!render_table(&[hostile()], start(), 200).contains('\x1b'));
}

#[test]
fn one_run_is_told_whole() {
    insta::assert_snapshot!(render_one(&running("monday", Step::Namespaced), after(20)), @r"
    Run:       2026-11-23-monday-0a1b2c3d
    Manifest:  restore monday in clusters/prod/restore.yaml
    Commit:    3ebb95c6a2f0b7d8c9e0f1a2b3c4d5e6f7a8b9c0 by Ada Lovelace <ada@example.org>
    Key:       0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f9
    Phase:     Running
    Started:   2026-11-23 09:00:00 UTC
    Took:      20 s
    Plan:      sha256:dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd, engine native
    Backup:    nightly.tar.gz, Rancher v2.13.1
               sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb
    Accepted:  CrdVersionsKept
    Progress:  namespaced: 1,200 of 4,000, about 12 s left

    Steps:
      preflight       2026-11-23 09:00:00 UTC  took 1 s
      announce        2026-11-23 09:00:02 UTC  took 1 s
      quiesce         2026-11-23 09:00:04 UTC  took 2 s
      crds            2026-11-23 09:00:07 UTC  took 1 s
      cluster-scoped  2026-11-23 09:00:09 UTC  took 1 s
      namespaced      2026-11-23 09:00:11 UTC  running for 9 s

    Replicas before the run:
      deployments/cattle-system/rancher: 3
    ");
    insta::assert_snapshot!(render_one(&held("monday", &[GateCode::PruneShare]), after(20)), @r"
    Run:       2026-11-23-monday-0a1b2c3d
    Manifest:  restore monday in clusters/prod/restore.yaml
    Commit:    3ebb95c6a2f0b7d8c9e0f1a2b3c4d5e6f7a8b9c0 by Ada Lovelace <ada@example.org>
    Key:       0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f9
    Phase:     Held, Gates
    Held:      since 2026-11-23 09:00:00 UTC

    Gates:
      PruneShare: what PruneShare found
        what to do about PruneShare
      CrdVersionsKept (accepted): kept

    Read what acceptance does in docs/gates.md, then add this line to the manifest's annotations:

        reinback.io/accept: CrdVersionsKept, PruneShare
    ");
    insta::assert_snapshot!(render_one(&failed_in_crds("monday"), after(20)), @r"
    Run:       2026-11-23-monday-0a1b2c3d
    Manifest:  restore monday in clusters/prod/restore.yaml
    Commit:    3ebb95c6a2f0b7d8c9e0f1a2b3c4d5e6f7a8b9c0 by Ada Lovelace <ada@example.org>
    Key:       0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f9
    Phase:     Failed, Timeout
    Started:   2026-11-23 09:00:00 UTC
    Took:      1 min 11 s
    Plan:      sha256:dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd, engine native
    Backup:    nightly.tar.gz, Rancher v2.13.1
               sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb
    Accepted:  CrdVersionsKept

    clusters.management.cattle.io was not established within 60 s

    Replicas were not given back: deployments/cattle-system/rancher had 3. Two ways on: take the cause
    away and set a new reinback.io/requested-at in the manifest, which restores again and gives them
    back; or, when the data is known to be good, scale them by hand, such as `kubectl -n NAMESPACE scale
    RESOURCE/NAME --replicas=N`.

    Steps:
      preflight       2026-11-23 09:00:00 UTC  took 1 s
      announce        2026-11-23 09:00:02 UTC  took 1 s
      quiesce         2026-11-23 09:00:04 UTC  took 2 s
      crds            2026-11-23 09:00:07 UTC  failed after 1 min 3 s

    Replicas before the run:
      deployments/cattle-system/rancher: 3

    Objects that failed (1 of 1):
      customresourcedefinitions.apiextensions.k8s.io#v1/clusters.management.cattle.io: 422 Invalid: spec.versions
    ");
    let hostile = render_one(&hostile(), after(20));
    assert!(!hostile.contains('\x1b') && !hostile.contains("\nReinback-Plan"), "{hostile}");
}

#[test]
fn the_status_file_is_for_people_and_reads_back() {
    let run = succeeded("monday");
    let file = status_file(&run).expect("it fits");
    insta::assert_snapshot!(file, @r"
    # One run of reinback: what was to be done, by whom, how far it came and how it ended.
    # reinback reads this file to know what has run already. Do not edit or delete it.
    apiVersion: reinback.io/v1alpha1
    kind: Run
    metadata:
      name: 2026-11-23-monday-0a1b2c3d
      namespace: reinback-system
    spec:
      cluster: prod
      key: 0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f9
      contentKey: ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff
      manifest:
        kind: Restore
        name: monday
        file: clusters/prod/restore.yaml
        blob: e69de29bb2d1d6434b8b29ae775ad8c2e48c5391
      source:
        commit: 3ebb95c6a2f0b7d8c9e0f1a2b3c4d5e6f7a8b9c0
        author: Ada Lovelace <ada@example.org>
      document:
        apiVersion: resources.cattle.io/v1
        kind: Restore
        metadata:
          annotations:
            reinback.io/accept: CrdVersionsKept
          name: monday
        spec:
          backupFilename: nightly.tar.gz
          prune: true
    status:
      observedGeneration: 1
      phase: Succeeded
      reason: Succeeded
      message: ''
      conditions:
      - type: Ready
        status: 'True'
        reason: Succeeded
        message: restored
        observedGeneration: 1
        lastTransitionTime: 2026-11-23T09:00:42Z
      startedAt: 2026-11-23T09:00:00Z
      endedAt: 2026-11-23T09:00:42Z
      plan:
        digest: sha256:dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd
        engine: native
        backup:
          name: nightly.tar.gz
          sha256: sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb
          sizeBytes: 750176
          rancherVersion: v2.13.1
          takenAt: 2026-11-22T02:00:00Z
        counts:
          created: 757
          updated: 2471
          recreated: 0
          deleted: 200
          skipped: 5403
          protected: 0
          failed: 0
        accepted:
        - CrdVersionsKept
      counts:
        created: 757
        updated: 2471
        recreated: 0
        deleted: 200
        skipped: 5403
        protected: 0
        failed: 0
      errorsTotal: 0
      steps:
      - step: Preflight
        started: 2026-11-23T09:00:00Z
        finished: 2026-11-23T09:00:01Z
      - step: Announce
        started: 2026-11-23T09:00:02Z
        finished: 2026-11-23T09:00:03Z
      - step: Quiesce
        started: 2026-11-23T09:00:04Z
        finished: 2026-11-23T09:00:06Z
      - step: Crds
        started: 2026-11-23T09:00:07Z
        finished: 2026-11-23T09:00:08Z
      - step: ClusterScoped
        started: 2026-11-23T09:00:09Z
        finished: 2026-11-23T09:00:10Z
      - step: Namespaced
        started: 2026-11-23T09:00:11Z
        finished: 2026-11-23T09:00:12Z
      - step: Prune
        started: 2026-11-23T09:00:13Z
        finished: 2026-11-23T09:00:14Z
      - step: Resume
        started: 2026-11-23T09:00:15Z
        finished: 2026-11-23T09:00:16Z
      - step: Verify
        started: 2026-11-23T09:00:17Z
        finished: 2026-11-23T09:00:42Z
      replicas:
      - workload: deployments/cattle-system/rancher
        replicas: 3
      journal:
      - at: 2026-11-23T09:00:00Z
        event: started
        step: Preflight
      - at: 2026-11-23T09:00:01Z
        event: finished
        step: Preflight
      - at: 2026-11-23T09:00:02Z
        event: started
        step: Announce
      - at: 2026-11-23T09:00:03Z
        event: finished
        step: Announce
      - at: 2026-11-23T09:00:04Z
        event: started
        step: Quiesce
      - at: 2026-11-23T09:00:05Z
        event: replicas
        workload:
          apiVersion: apps/v1
          resource: deployments
          namespace: cattle-system
          name: rancher
        replicas: 3
      - at: 2026-11-23T09:00:06Z
        event: finished
        step: Quiesce
      - at: 2026-11-23T09:00:07Z
        event: started
        step: Crds
      - at: 2026-11-23T09:00:08Z
        event: finished
        step: Crds
      - at: 2026-11-23T09:00:09Z
        event: started
        step: ClusterScoped
      - at: 2026-11-23T09:00:10Z
        event: finished
        step: ClusterScoped
      - at: 2026-11-23T09:00:11Z
        event: started
        step: Namespaced
      - at: 2026-11-23T09:00:12Z
        event: finished
        step: Namespaced
      - at: 2026-11-23T09:00:13Z
        event: started
        step: Prune
      - at: 2026-11-23T09:00:14Z
        event: finished
        step: Prune
      - at: 2026-11-23T09:00:15Z
        event: started
        step: Resume
      - at: 2026-11-23T09:00:16Z
        event: finished
        step: Resume
      - at: 2026-11-23T09:00:17Z
        event: started
        step: Verify
      - at: 2026-11-23T09:00:42Z
        event: finished
        step: Verify
    ");
    assert_eq!(parse_status_file(file.as_bytes()).expect("it reads"), run);
    assert_eq!(status_file(&run).expect("it fits"), file, "the same bytes again");
    for run in [pending("a"), held("b", &[GateCode::Ambiguous]), failed_in_crds("c"), running("d", Step::Prune)] {
        let read = parse_status_file(status_file(&run).expect("it fits").as_bytes()).expect("it reads");
        assert_eq!(read, run);
    }
}

#[test]
fn what_the_api_server_adds_does_not_change_the_file() {
    let run = succeeded("monday");
    let mut stored = run.clone();
    stored.metadata.uid = Some("0d3c".to_owned());
    stored.metadata.resource_version = Some("12".to_owned());
    assert_eq!(status_file(&stored).expect("it fits"), status_file(&run).expect("it fits"));
}

/// One file for each shape that was ever released; a file here is never edited.
#[test]
fn files_of_other_versions_are_read() {
    let current = include_str!("../../tests/fixtures/status/v0.1.0.yaml");
    let run = parse_status_file(current.as_bytes()).expect("this version's file");
    assert_eq!(run, succeeded("monday"));

    let newer = include_str!("../../tests/fixtures/status/newer.yaml");
    let run = parse_status_file(newer.as_bytes()).expect("a newer version's file");
    let status = run.status.expect("a status");
    assert_eq!((run.spec.key.as_str(), status.phase), (KEY, Phase::Succeeded));
    assert_eq!(status.gates.len(), 1, "the gate that is known");
    assert_eq!(status.journal.len(), 2, "the entries that are known");
}

#[test]
fn a_running_journal_that_cannot_be_read_is_an_error_as_nobody_could_continue_it() {
    let newer = include_str!("../../tests/fixtures/status/newer.yaml").replace("phase: Succeeded", "phase: Running");
    let error = parse_status_file(newer.as_bytes()).expect_err("an entry is unknown");
    insta::assert_snapshot!(error, @"the run cannot be read; a newer reinback may have written it");
}

#[test]
fn a_file_that_is_no_run_says_why() {
    let file = status_file(&succeeded("monday")).expect("it fits");
    let cases = [
        "".to_owned(),
        "a: [".to_owned(),
        "apiVersion: v1\nkind: Secret\n".to_owned(),
        file.replace("reinback.io/v1alpha1", "reinback.io.evil/v1"),
        file.replace(KEY, "../.."),
        file.replace("phase: Succeeded", "phase: Sublimated"),
        format!("{file}---\n{file}"),
        format!("a: {}1{}", "[".repeat(5_000), "]".repeat(5_000)),
        " ".repeat(FILE_MAX_BYTES + 1),
    ];
    let errors = cases.map(|case| parse_status_file(case.as_bytes()).expect_err("no run").to_string());
    insta::assert_snapshot!(errors.join("\n"), @r#"
    not a Run of reinback.io, but "" of ""
    not YAML
    not a Run of reinback.io, but "Secret" of "v1"
    not a Run of reinback.io, but "Run" of "reinback.io.evil/v1"
    the run's key "../.." is not 64 hexadecimal digits
    the run cannot be read; a newer reinback may have written it
    not YAML
    not YAML
    the file has 1048577 bytes; a status file has at most 1048576
    "#);
    assert!(parse_status_file(&[0xff, 0xfe, 0x00]).is_err());
}

#[test]
fn the_name_of_a_run_is_valid_whatever_the_manifest_is_called() {
    let names = ["monday", "Ünïcode", "a.b-.c", "../../etc/passwd", "", "-", "UPPER_case"];
    insta::assert_snapshot!(names.map(|name| run_object_name(start(), name, KEY)).join("\n"), @r"
    2026-11-23-monday-0a1b2c3d
    2026-11-23-n-code-0a1b2c3d
    2026-11-23-a.b.c-0a1b2c3d
    2026-11-23-etc-passwd-0a1b2c3d
    2026-11-23-x-0a1b2c3d
    2026-11-23-x-0a1b2c3d
    2026-11-23-upper-case-0a1b2c3d
    ");
    let mut seen = BTreeSet::new();
    for length in 1..=253 {
        let dotted: String = "ab.".chars().cycle().take(length).collect();
        for name in ["n".repeat(length), dotted] {
            let name = run_object_name(start(), &name, KEY);
            assert!(name.len() <= 250 && name.ends_with("-0a1b2c3d"), "{name}");
            let label = |label: &str| !label.is_empty() && !label.starts_with('-') && !label.ends_with('-');
            assert!(name.split('.').all(label), "{name}");
            seen.insert(name);
        }
    }
    assert!(seen.len() > 300);
    let late = run_object_name(at("2026-11-23T23:30:00-05:00"), "a", KEY);
    assert_eq!(late, "2026-11-24-a-0a1b2c3d", "the date is that of UTC");
}

#[test]
fn the_path_of_a_file_never_leaves_its_folder() {
    assert_eq!(status_file_path(&pending("monday")), "runs/2026-11-23-monday-0a1b2c3d.yaml");
    let path = status_file_path(&hostile());
    assert!(path.matches('/').count() == 1 && !path.contains(".."), "{path}");
    let longest = status_file_path(&pending(&"n".repeat(253)));
    assert_eq!(longest.len(), "runs/".len() + 255);
}

#[test]
fn the_largest_run_still_fits() {
    let long = "\"\\".repeat(4_000);
    let run = with(pending(&"n".repeat(253)), |status| {
        status.phase = Phase::Failed;
        status.ended_at = Some(start());
        for n in 0..10_000 {
            add_error(status, ObjectError { object: format!("{n}{long}"), message: long.clone() });
            add_warning(status, &format!("{n}{long}"));
            status.gates.push(Gate::new(GateCode::PruneShare, long.clone(), long.clone()));
        }
        status.message = long.clone();
        let mut journal = journal_until(Step::Quiesce);
        for n in 0..1_000 {
            journal.append(start(), Entry::TakenOver { holder: format!("{n}{long}") }).expect("legal");
        }
        status.journal = journal.into();
    });
    let status = run.status.as_ref().expect("a status");
    assert_eq!((status.errors.len(), status.errors_total), (ERRORS_KEPT, 10_000));
    assert_eq!(status.warnings.len(), WARNINGS_KEPT);
    assert_eq!(status.warnings.last().map(String::as_str), Some("there were more warnings; the log has them"));
    let json = serde_json::to_vec(&run).expect("JSON");
    assert!(json.len() < FILE_MAX_BYTES - 300 * 1024, "room for the manifest: {} bytes", json.len());
    let file = status_file(&run).expect("it fits");
    assert!(file.len() < FILE_MAX_BYTES - 300 * 1024, "room for the manifest: {} bytes", file.len());
}

fn told(conditions: &[Condition]) -> String {
    let line =
        |c: &Condition| format!("{}={} {} at {}: {}", c.kind, c.status, c.reason, c.last_transition_time, c.message);
    conditions.iter().map(line).collect::<Vec<_>>().join("; ")
}

#[test]
fn conditions_have_the_shape_of_flux() {
    let runs = [
        with(pending("a"), |_| {}),
        running("a", Step::Crds),
        held("a", &[GateCode::RunInProgress]),
        held("a", &[GateCode::RunInProgress, GateCode::PruneShare]),
        held("a", &[GateCode::PruneShare, GateCode::BackupCorrupt]),
        succeeded("a"),
        failed_in_crds("a"),
        superseded("a"),
        with(pending("a"), |status| status.phase = Phase::Cancelled),
        hostile(),
    ];
    let lines = runs.map(|run| {
        let status = run.status.expect("a status");
        format!("{:?}: {}", status.phase, told(&status.conditions))
    });
    insta::assert_snapshot!(lines.join("\n"), @r"
    Pending: Ready=Unknown Progressing at 2026-11-23T09:00:00Z: not started; Reconciling=True Progressing at 2026-11-23T09:00:00Z: not started
    Running: Ready=Unknown Progressing at 2026-11-23T09:00:00Z: running; Reconciling=True Progressing at 2026-11-23T09:00:00Z: running
    Held: Ready=False DependencyNotReady at 2026-11-23T09:00:00Z: held by a gate; Reconciling=True ProgressingWithRetry at 2026-11-23T09:00:00Z: held by a gate
    Held: Ready=False DependencyNotReady at 2026-11-23T09:00:00Z: held by a gate; Stalled=True PruneShare at 2026-11-23T09:00:00Z: held by a gate
    Held: Ready=False DependencyNotReady at 2026-11-23T09:00:00Z: held by a gate; Stalled=True BackupCorrupt at 2026-11-23T09:00:00Z: held by a gate
    Succeeded: Ready=True Succeeded at 2026-11-23T09:00:42Z: restored
    Failed: Ready=False Failed at 2026-11-23T09:01:11Z: clusters.management.cattle.io was not established within 60 s; Stalled=True Timeout at 2026-11-23T09:01:11Z: clusters.management.cattle.io was not established within 60 s
    Superseded: Ready=False Superseded at 2026-11-23T09:00:00Z: a newer manifest rules; Stalled=True FirstLook at 2026-11-23T09:00:00Z: a newer manifest rules
    Cancelled: Ready=False Cancelled at 2026-11-23T09:00:00Z: cancelled; Stalled=True Cancelled at 2026-11-23T09:00:00Z: cancelled
    Held: Ready=False DependencyNotReady at 2026-11-23T09:00:00Z: x  Reinback-Plan: forged [2J <script>alert(1)</script> [a](javascript:b) | `c` https://evil.example; Stalled=True PruneShare at 2026-11-23T09:00:00Z: x  Reinback-Plan: forged [2J <script>alert(1)</script> [a](javascript:b) | `c` https://evil.example
    ");
}

#[test]
fn the_time_of_a_condition_moves_only_with_its_status() {
    let mut status = running("a", Step::Crds).status.expect("a status");
    status.message = "another message".to_owned();
    refresh(&mut status, 1, after(500));
    assert!(status.conditions.iter().all(|c| c.last_transition_time == start() && c.message == "another message"));
    status.phase = Phase::Succeeded;
    refresh(&mut status, 1, after(600));
    assert_eq!(told(&status.conditions), "Ready=True Succeeded at 2026-11-23T09:10:00Z: another message");
}

#[test]
fn each_gate_code_has_its_section_and_each_section_its_code() {
    let page = include_str!("../../docs/gates.md");
    let sections: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("## `")?.strip_suffix('`')).collect();
    let codes: Vec<&str> = GateCode::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(sections.iter().collect::<BTreeSet<_>>(), codes.iter().collect::<BTreeSet<_>>());
    assert_eq!(sections.len(), codes.len(), "one section a code");
}

#[test]
fn each_section_tells_class_cause_remedy_and_what_acceptance_does() {
    let page = include_str!("../../docs/gates.md");
    for section in page.split("\n## `").skip(1) {
        let (code, text) = section.split_once("`\n").expect("a heading ends");
        let code: GateCode = code.parse().expect("a code");
        let class = match code.class() {
            GateClass::Refuse => "*refuse*",
            GateClass::Accept => "*accept*",
            GateClass::Wait => "*wait*",
        };
        assert!(text.trim_start().starts_with(class), "{code} begins with its class");
        assert!(text.contains("Raised when"), "{code} says when it is raised");
        assert!(text.contains("**What to do.**"), "{code} says what to do");
        let accepts = text.contains("**Accepting it**");
        assert_eq!(accepts, code.class() == GateClass::Accept, "{code}: what acceptance does");
    }
}
