use std::collections::BTreeSet;

use kube::api::ObjectMeta;
use serde_json::json;

use super::*;
use crate::journal::{Journal, WorkloadRef};
use crate::run::{
    BackupRecord, Condition, Counts, ManifestRef, NAMESPACE, Phase, PlanRecord, Progress, RunSpec, SourceRef,
};

mod checks;
mod file;
mod operator;
mod told;

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
            document_digest: "5".repeat(64),
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
    for step in Step::NATIVE.iter().copied().filter(|step| *step <= last) {
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
        status.progress =
            Some(Progress { step, done: 1_200, total: 4_000, objects_per_second: Some(1_100), seconds_left: Some(12) });
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
        prunes: true,
        other_cluster: false,
        quiesce: Vec::new(),
        silences: Vec::new(),
        version: None,
        connected_clusters: None,
        accepted: vec!["CrdVersionsKept".to_owned()],
    }
}

fn counts() -> Counts {
    Counts { created: 757, updated: 2_471, recreated: 0, deleted: 200, skipped: 5_403, protected: 0, failed: 0 }
}

fn succeeded(name: &str) -> Run {
    with(running(name, Step::Verify), |status| {
        status.record(after(42), Entry::Finished { step: Step::Verify }).expect("legal");
        status.phase = Phase::Succeeded;
        status.reason = "Succeeded".to_owned();
        status.ended_at = Some(after(42));
        status.progress = None;
        status.counts = Some(counts());
    })
}

fn failed_in_crds(name: &str) -> Run {
    with(running(name, Step::Crds), |status| {
        let message = "clusters.management.cattle.io was not established within 60 s".to_owned();
        let entry = Entry::Failed { step: Step::Crds, reason: "Timeout".to_owned(), message: message.clone() };
        status.record(after(70), entry).expect("legal");
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
