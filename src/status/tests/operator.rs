//! A run that the operator carries out: its Restore, and what it says, wherever a run is told.

use super::*;
use crate::run::OperatorRecord;

fn workload(name: &str) -> WorkloadRef {
    WorkloadRef { namespace: "cattle-resources-system".to_owned(), name: name.to_owned(), ..rancher() }
}

/// Handed over, and failing.
fn operated() -> Run {
    with(pending("monday"), |status| {
        let steps = vec![Step::Preflight, Step::Quiesce, Step::Operator, Step::Resume, Step::Verify];
        status.phase = Phase::Running;
        status.started_at = Some(start());
        let mut append = |entry| status.record(start(), entry).expect("legal");
        append(Entry::Steps { steps });
        append(Entry::Started { step: Step::Preflight });
        append(Entry::Finished { step: Step::Preflight });
        append(Entry::Started { step: Step::Quiesce });
        append(Entry::Replicas { workload: rancher(), replicas: 3 });
        append(Entry::Finished { step: Step::Quiesce });
        append(Entry::Started { step: Step::Operator });
        append(Entry::Handed { restore: "monday-0a1b2c3d".to_owned(), uid: "u-1".to_owned() });
        append(Entry::Replicas { workload: workload("rancher-backup"), replicas: 1 });
        status.operator =
            Some(OperatorRecord { restore: String::new(), message: r#"secrets "s3-*keys*" not found"#.to_owned() });
    })
}

#[test]
fn the_restore_and_what_the_operator_said_last_are_told() {
    let run = operated();
    let told = render_one(&run, after(20));
    let line = told.lines().find(|line| line.starts_with("Operator")).expect("it is told");
    insta::assert_snapshot!(line, @r#"Operator:  Restore monday-0a1b2c3d, said last: secrets "s3-*keys*" not found"#);
    let input = Dashboard { cluster: "prod", cluster_uid: "uid", rules: None, runs: &[&run], problems: &[] };
    let page = dashboard(&input);
    let line = page.lines().find(|line| line.starts_with("- Runs now")).expect("it is told");
    insta::assert_snapshot!(line, @r#"- Runs now: Restore `monday` (`clusters/prod/restore.yaml`, commit `3ebb95c6a2f0` by Ada Lovelace &lt;ada\@example.org&gt;), operator (the operator's Restore `monday-0a1b2c3d`, which said last: secrets "s3-\*keys\*" not found)"#);
    let file = status_file(&run).expect("it fits");
    assert!(file.contains("restore: monday-0a1b2c3d"), "{file}");
    let read = parse_status_file(file.as_bytes()).expect("it is one");
    assert_eq!(read.status.and_then(|status| status.operator), run.status.and_then(|status| status.operator));
}

#[test]
fn what_a_held_run_left_at_zero_is_not_the_operator() {
    let held = with(operated(), |status| {
        let failed =
            Entry::Failed { step: Step::Operator, reason: "OperatorFailed".to_owned(), message: String::new() };
        status.record(after(9), failed).expect("legal");
        status.phase = Phase::Failed;
        status.ended_at = Some(after(9));
    });
    let left = left_at_zero(held.status.as_ref().expect("it has one")).expect("Rancher is at 0");
    assert!(left.contains("cattle-system/rancher had 3") && !left.contains("rancher-backup"), "{left}");
}
