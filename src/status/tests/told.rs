use super::*;

#[test]
fn the_subject_says_what_happened() {
    let giving_back = with(failed_in_crds("monday"), |status| {
        status.phase = Phase::Running;
        status.record(after(71), Entry::Started { step: Step::Resume }).expect("legal");
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
        runs: &runs.iter().collect::<Vec<_>>(),
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

/// A Rollback that failed, and the run that undid it, which came a minute later.
fn undone() -> [Run; 2] {
    let mut failed = failed_in_crds("back-to-2-9-3");
    failed.spec.manifest.kind = "Rollback".to_owned();
    failed.status.as_mut().expect("a status").undone_by = Some("undo-back-to-2-9-3".to_owned());
    let mut undo = with(succeeded("undo-back-to-2-9-3"), |status| {
        status.started_at = Some(after(100));
        status.ended_at = Some(after(160));
    });
    undo.spec.manifest.kind = "Rollback".to_owned();
    undo.spec.manifest.file = format!("undo of run {}", failed.metadata.name.as_deref().expect("a name"));
    [failed, undo]
}

/// What the dashboard says that rules, where this manifest does.
fn rules_of(runs: &[Run], rules: Option<&Run>) -> String {
    let page = dashboard(&Dashboard {
        cluster: "prod",
        cluster_uid: "6e9ee6a6-d4f2-46c2-bd99-75269cf041dc",
        rules: rules.map(|run| Rules { manifest: &run.spec.manifest, source: &run.spec.source }),
        runs: &runs.iter().collect::<Vec<_>>(),
        problems: &[],
    });
    let rules = page.lines().find_map(|line| line.strip_prefix("- Rules now: "));
    rules.expect("a line").to_owned()
}

#[test]
fn after_an_undo_the_dashboard_says_that_nothing_rules_and_why() {
    let [failed, mut undo] = undone();
    let runs = |undo: &Run| [undo.clone(), failed.clone()];
    let told = rules_of(&runs(&undo), None);
    assert_eq!(
        told,
        "nothing: Rollback `back-to-2-9-3` failed (Timeout) and was undone by `undo-back-to-2-9-3`; what was before it is back"
    );
    // By hand, it stands nowhere in Git.
    assert_eq!(rules_of(&runs(&undo), Some(&failed)), told);
    // What was merged after both rules.
    let newer = with(pending("newer"), |_| {});
    assert!(
        rules_of(&[runs(&undo).as_slice(), std::slice::from_ref(&newer)].concat(), Some(&newer)).contains("`newer` (")
    );
    let status = undo.status.as_mut().expect("a status");
    (status.phase, status.reason) = (Phase::Failed, "ObjectsFailed".to_owned());
    assert_eq!(
        rules_of(&runs(&undo), None),
        "nothing: Rollback `back-to-2-9-3` failed (Timeout), and `undo-back-to-2-9-3`, which was to undo it, failed (ObjectsFailed)"
    );
    let status = undo.status.as_mut().expect("a status");
    (status.phase, status.reason, status.ended_at) = (Phase::Running, String::new(), None);
    assert_eq!(
        rules_of(&runs(&undo), Some(&failed)),
        "nothing: Rollback `back-to-2-9-3` failed (Timeout) and is being undone by `undo-back-to-2-9-3`"
    );
    assert!(
        rules_of(&runs(&undo), Some(&undo)).contains("`undo-back-to-2-9-3` (`undo of run "),
        "while it runs, it rules"
    );
}

#[test]
fn where_nothing_rules_the_dashboard_says_what_was_last() {
    let cancelled = with(pending("monday"), |status| {
        (status.phase, status.ended_at) = (Phase::Cancelled, Some(after(5)));
    });
    assert_eq!(rules_of(&[cancelled], None), "nothing; last, Restore `monday` was cancelled");
    let first = rules_of(&[superseded("first"), superseded("second")], None);
    assert_eq!(first, "no manifest yet; what was in Git at the first look does not run");
}

#[test]
fn a_run_that_is_undone_leaves_the_replicas_to_its_undo() {
    let [failed, undo] = undone();
    let told = render_one(&failed, after(200));
    assert!(told.contains("undo-back-to-2-9-3 undoes the\nrun, and gives them back."), "{told}");
    assert!(!told.contains("Two ways on"), "{told}");
    assert!(!dashboard_of(&[failed, undo], &[]).contains("## Left at 0"));
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
    2026-11-23-monday-0a1b2c3d         Running    namespaced  20 s ago        20 s        1,200 of 4,000, about 12 s left, 1,100 a second
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
    Progress:  namespaced: 1,200 of 4,000, about 12 s left, 1,100 a second

    Steps:
      preflight       2026-11-23 09:00:00 UTC  took 1 s
      announce        2026-11-23 09:00:02 UTC  took 1 s
      quiesce         2026-11-23 09:00:04 UTC  took 2 s
      safety-backup   2026-11-23 09:00:07 UTC  took 1 s
      crds            2026-11-23 09:00:09 UTC  took 1 s
      cluster-scoped  2026-11-23 09:00:11 UTC  took 1 s
      namespaced      2026-11-23 09:00:13 UTC  running for 7 s

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
      safety-backup   2026-11-23 09:00:07 UTC  took 1 s
      crds            2026-11-23 09:00:09 UTC  failed after 1 min 1 s

    Replicas before the run:
      deployments/cattle-system/rancher: 3

    Objects that failed (1 of 1):
      customresourcedefinitions.apiextensions.k8s.io#v1/clusters.management.cattle.io: 422 Invalid: spec.versions
    ");
    let hostile = render_one(&hostile(), after(20));
    assert!(!hostile.contains('\x1b') && !hostile.contains("\nReinback-Plan"), "{hostile}");
}

#[test]
fn news_of_several_runs_in_one_commit_name_each_and_carry_all_trailers() {
    let (held, failed) = (held("monday", &[GateCode::DifferentCluster]), failed_in_crds("tuesday"));
    insta::assert_snapshot!(commit_message_of_many(&[&held, &failed]), @"
    status of 2 runs

    - restore monday: held by DifferentCluster
    - restore tuesday: failed in crds: Timeout

    Reinback-Run: 2026-11-23-monday-0a1b2c3d
    Reinback-Source-Commit: 3ebb95c6a2f0b7d8c9e0f1a2b3c4d5e6f7a8b9c0
    Reinback-Run: 2026-11-23-tuesday-0a1b2c3d
    Reinback-Source-Commit: 3ebb95c6a2f0b7d8c9e0f1a2b3c4d5e6f7a8b9c0
    Reinback-Plan: sha256:dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd
    ");
    let message = commit_message_of_many(&vec![&held; 150]);
    assert!(message.starts_with("status of 150 runs\n") && message.contains("\n- and 50 more\n"), "{message}");
}

#[test]
fn every_state_of_a_run_is_told_as_an_event_in_words_of_flux() {
    let mut ended = pending("friday");
    let told = |run: &Run| {
        let EventText { reason, action, note, is_warning } = event(run)?;
        Some(format!("{} {reason} {action}: {note}", if is_warning { "Warning" } else { "Normal" }))
    };
    assert_eq!(told(&ended), None);
    let mut lines = vec![told(&held("monday", &[GateCode::DifferentCluster])), told(&failed_in_crds("tuesday"))];
    lines.push(told(&held("sunday", &[GateCode::RunInProgress])));
    for phase in [Phase::Running, Phase::Succeeded, Phase::Superseded, Phase::Cancelled, Phase::Failed] {
        ended.status.get_or_insert_default().phase = phase;
        lines.push(told(&ended));
    }
    let lines: Vec<String> = lines.into_iter().flatten().collect();
    insta::assert_snapshot!(lines.join("\n"), @"
    Warning DifferentCluster Hold: restore monday: held by DifferentCluster
    Warning Failed End: restore tuesday: failed in crds: Timeout
    Normal RunInProgress Hold: restore sunday: held by RunInProgress
    Normal Progressing Start: restore friday: started
    Normal Succeeded End: restore friday: succeeded
    Normal Superseded End: restore friday: superseded
    Normal Cancelled End: restore friday: cancelled
    Warning Failed End: restore friday: failed
    ");
}

#[test]
fn silenced_webhooks_are_told_while_they_are_and_when_they_were() {
    use crate::webhook::silence::{SilencedWebhook, WebhookRef};
    let webhooks =
        || ["a", "b"].map(|name| SilencedWebhook { webhook: WebhookRef::conversion(name), had: json!({}) }).to_vec();
    let told = |step: Step, given_back: bool| {
        let run = with(running("monday", Step::Quiesce), |status| {
            status.record(after(50), Entry::Silenced { webhooks: webhooks() }).expect("legal");
            for step in Step::NATIVE.iter().copied().filter(|of| *of > Step::Quiesce && *of <= step) {
                let before = Step::NATIVE.iter().copied().rfind(|of| *of < step).expect("there is one");
                status.record(after(51), Entry::Finished { step: before }).expect("legal");
                status.record(after(51), Entry::Started { step }).expect("legal");
            }
            if given_back {
                status.record(after(52), Entry::Unsilenced { webhooks: webhooks() }).expect("legal");
            }
        });
        let text = render_one(&run, after(60));
        let lines: Vec<&str> = text.lines().skip_while(|line| !line.starts_with("Webhooks")).take(3).collect();
        format!("{}\n{}", event(&run).expect("it is told").note, lines.join("\n"))
    };
    insta::assert_snapshot!([told(Step::Crds, false), told(Step::Resume, true)].join("\n"), @"
    restore monday: crds, 2 webhooks silenced
    Webhooks silenced while it writes, for nobody answers:
      conversion of CustomResourceDefinition a
      conversion of CustomResourceDefinition b
    restore monday: resume
    Webhooks that were silenced, and were given back what they had:
      conversion of CustomResourceDefinition a
      conversion of CustomResourceDefinition b
    ");
}
