use std::collections::BTreeSet;

use super::*;
use crate::health::{Judged, Outcome};

#[test]
fn the_status_file_is_for_people_and_reads_back() {
    let run = succeeded("monday");
    let file = status_file(&run).expect("it fits");
    assert_eq!(file, include_str!("../../../tests/fixtures/status/v0.2.0.yaml"));
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
    let current = include_str!("../../../tests/fixtures/status/v0.2.0.yaml");
    let run = parse_status_file(current.as_bytes()).expect("this version's file");
    assert_eq!(run, succeeded("monday"));

    // There was no step for a safety backup.
    let older = include_str!("../../../tests/fixtures/status/v0.1.0.yaml");
    let run = parse_status_file(older.as_bytes()).expect("an older version's file");
    let journal = crate::journal::Journal::from(run.status.expect("a status").journal);
    let next = journal.next(crate::journal::OnFailure::Hold);
    assert!(matches!(next, crate::journal::Next::End { phase: Phase::Succeeded, .. }), "{next:?}");

    let newer = include_str!("../../../tests/fixtures/status/newer.yaml");
    let run = parse_status_file(newer.as_bytes()).expect("a newer version's file");
    let status = run.status.expect("a status");
    assert_eq!((run.spec.key.as_str(), status.phase), (KEY, Phase::Succeeded));
    assert_eq!(status.gates.len(), 1, "the gate that is known");
    assert_eq!(status.journal.len(), 2, "the entries that are known");
}

#[test]
fn a_running_journal_that_cannot_be_read_is_an_error_as_nobody_could_continue_it() {
    let newer = include_str!("../../../tests/fixtures/status/newer.yaml").replace("phase: Succeeded", "phase: Running");
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
fn a_run_whose_end_would_not_fit_has_no_room_to_begin() {
    let run = |bytes: usize| {
        let mut run = pending("large");
        run.spec.document = serde_json::Value::from("x".repeat(bytes));
        run
    };
    assert!(check_room(&run(START_MAX_BYTES - 4096)).is_ok());
    let error = check_room(&run(START_MAX_BYTES)).expect_err("it is too large");
    assert!(matches!(error, StatusFileError::NoRoom { .. }), "{error}");
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
        let judged = || Judged { outcome: Outcome::Failed, message: long.clone(), lines: vec![long.clone(); 5_000] };
        status.checks = CheckName::ALL.map(|name| Check::new(name, true, judged())).into();
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
    assert!(json.len() < FILE_MAX_BYTES - START_MAX_BYTES, "room for the manifest: {} bytes", json.len());
    let file = status_file(&run).expect("it fits");
    assert!(file.len() < FILE_MAX_BYTES - START_MAX_BYTES, "room for the manifest: {} bytes", file.len());
}
