use insta::assert_snapshot;
use jiff::Timestamp;
use kube::api::ObjectMeta;
use serde_json::json;

use super::*;
use crate::journal::{Entry, Event, SafetyBackup, Step};
use crate::run::{ManifestRef, Phase, PlanRecord, RunSpec, SourceRef};

/// A Rollback by Helm that failed when it verified.
pub fn failed() -> Run {
    let document = json!({
        "apiVersion": "reinback.io/v1alpha1", "kind": "Rollback",
        "metadata": {"name": "back", "annotations": {
            "reinback.io/accept": "PruneShare", "reinback.io/on-failure": "Undo", "reinback.io/timeout": "30m",
        }},
        "spec": {"toVersion": "v2.9.3", "restore": {
            "backupFilename": "monday.tar.gz", "prune": false, "encryptionConfigSecretName": "key",
            "storageLocation": {"s3": {"bucketName": "backups", "endpoint": "s3.example.org", "folder": "rancher"}},
        }},
    });
    let spec = RunSpec {
        cluster: "prod".to_owned(),
        key: "0".repeat(64),
        content_key: "1".repeat(64),
        manifest: ManifestRef {
            kind: "Rollback".to_owned(),
            name: "back".to_owned(),
            file: "back.yaml".to_owned(),
            blob: String::new(),
        },
        source: SourceRef { commit: "c".repeat(40), author: "Ada".to_owned() },
        document_digest: String::new(),
        document,
    };
    let mut status = RunStatus { phase: Phase::Failed, ..RunStatus::default() };
    let way =
        Way::Helm { release: "rancher".to_owned(), namespace: "cattle-system".to_owned(), revision: 2, newest: 3 };
    let change = VersionChange {
        from: Some("v2.10.1".to_owned()),
        to: "v2.9.3".to_owned(),
        way,
        removes: Vec::new(),
        makes: Vec::new(),
    };
    status.plan = Some(PlanRecord { version: Some(change), ..PlanRecord::default() });
    let safety = SafetyBackup {
        name: "reinback-safety-x.tar.gz".to_owned(),
        sha256: format!("sha256:{}", "a".repeat(64)),
        objects: 7,
    };
    let had = VersionHad { image: Some("rancher/rancher:v2.10.1".to_owned()), revision: Some(3), removed: Vec::new() };
    let entries = [
        Entry::Started { step: Step::SafetyBackup },
        Entry::SafetyBackup { backup: safety },
        Entry::Started { step: Step::Crds },
        Entry::Started { step: Step::SetVersion },
        Entry::VersionHad { had },
    ];
    status.journal = entries.map(|entry| Event { at: Timestamp::UNIX_EPOCH, entry }).into();
    let metadata = ObjectMeta { name: Some("2026-11-23-back-00000000".to_owned()), ..ObjectMeta::default() };
    Run { metadata, spec, status: Some(status) }
}

fn status(run: &mut Run) -> &mut RunStatus {
    run.status.as_mut().expect("a status")
}

#[test]
fn an_undo_brings_the_data_of_the_safety_backup_and_the_revision_that_was_there_back() {
    let manifest = manifest(&failed(), Asked::ByHand).expect("there is a way back");
    assert_snapshot!(text(&manifest).expect("YAML"), @r"
    apiVersion: reinback.io/v1alpha1
    kind: Rollback
    metadata:
      annotations:
        reinback.io/accept: PruneShare
        reinback.io/backup-digest: sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
        reinback.io/engine: native
        reinback.io/on-failure: Hold
        reinback.io/timeout: 30m
      name: undo-back
    spec:
      restore:
        backupFilename: reinback-safety-x.tar.gz
        deleteTimeoutSeconds: 0
        encryptionConfigSecretName: key
        ignoreErrors: false
        prune: true
        storageLocation:
          s3:
            bucketName: backups
            clientConfig:
              aws:
                dualStack: false
              bucketLookup: auto
            endpoint: s3.example.org
            folder: rancher
            insecureTLSSkipVerify: false
      revision: 3
      toVersion: v2.10.1
      versionMethod: helm
    ");
}

#[test]
fn a_chart_that_was_installed_is_undone_by_the_revision_that_was_there() {
    let mut run = failed();
    let plan = status(&mut run).plan.as_mut().expect("a plan");
    plan.version.as_mut().expect("a version").way = Way::Chart {
        release: "rancher".to_owned(),
        namespace: "cattle-system".to_owned(),
        chart: "charts/rancher-2.9.3.tgz".to_owned(),
        chart_version: "2.9.3".to_owned(),
        sha256: String::new(),
        commit: String::new(),
        values: Some(3),
        newest: 3,
    };
    let Body::Rollback(rollback) = manifest(&run, Asked::ByHand).expect("a way").body else { panic!("a Rollback") };
    assert_eq!((rollback.version_method, rollback.revision, rollback.chart), (VersionMethod::Helm, Some(3), None));
    assert_eq!(rollback.to_version, "v2.10.1");
}

#[test]
fn what_is_undone_by_policy_takes_every_gate_that_the_run_itself_may_have_raised() {
    let by_policy = manifest(&failed(), Asked::ByPolicy).expect("a way").options.accept;
    assert!(by_policy.contains(&GateCode::PruneDeletesNamespaces) && by_policy.contains(&GateCode::VersionBoundary));
    assert!(!by_policy.contains(&GateCode::DifferentCluster));
    let by_hand = manifest(&failed(), Asked::ByHand).expect("a way").options.accept;
    assert_eq!(by_hand, BTreeSet::from([GateCode::PruneShare]));
}

#[test]
fn a_restore_is_undone_by_a_restore_and_a_version_alone_by_a_version() {
    let mut restore = failed();
    restore.spec.document = json!({
        "apiVersion": "resources.cattle.io/v1", "kind": "Restore", "metadata": {"name": "back"},
        "spec": {"backupFilename": "monday.tar.gz"},
    });
    status(&mut restore).plan = None;
    let undone = manifest(&restore, Asked::ByHand).expect("a way");
    assert_eq!(undone.id.to_string(), "Restore undo-back");
    let mut alone = failed();
    alone.spec.document["spec"] = json!({"toVersion": "v2.9.3"});
    status(&mut alone).journal.retain(|event| !matches!(event.entry, Entry::SafetyBackup { .. }));
    let undone = manifest(&alone, Asked::ByHand).expect("a way");
    let Body::Rollback(rollback) = undone.body else { panic!("{:?}", undone.body) };
    assert_eq!((rollback.to_version.as_str(), rollback.restore), ("v2.10.1", None));
}

#[test]
fn where_there_is_no_way_back_it_is_said_why() {
    let told = |change: &dyn Fn(&mut Run)| {
        let mut run = failed();
        change(&mut run);
        manifest(&run, Asked::ByHand).expect_err("no way back").to_string()
    };
    assert_snapshot!(told(&|run| status(run).phase = Phase::Running), @"2026-11-23-back-00000000 has not ended: `reinback cancel` stops one that has not written anything yet");
    assert_snapshot!(told(&|run| status(run).journal.clear()), @"2026-11-23-back-00000000 has changed nothing: there is nothing to undo");
    assert_snapshot!(told(&|run| status(run).journal.retain(|event| !matches!(event.entry, Entry::SafetyBackup { .. }))), @"2026-11-23-back-00000000 has no safety backup to go back by: policy.safetyBackup is off, or the cluster had nothing that the run could change");
    assert_snapshot!(told(&|run| {
        let plan = status(run).plan.as_mut().expect("a plan");
        plan.version.as_mut().expect("a version").from = None;
    }), @"2026-11-23-back-00000000 does not say which version of Rancher ran before it: commit a Rollback that names it");
    assert_snapshot!(told(&|run| run.spec.document = json!({})), @"2026-11-23-back-00000000 holds a manifest that cannot be read: it holds no manifest");
}

#[test]
fn a_name_that_is_too_long_is_cut() {
    assert_eq!(undo_name(&"a".repeat(253)).len(), 253);
    assert_eq!(undo_name("back"), "undo-back");
}
