//! What was found of Rancher after its version was set, wherever a run is told.

use super::*;
use crate::health::{Judged, LINES_KEPT, Outcome};

fn checked() -> Run {
    with(succeeded("back-to-2-9-3"), |status| {
        let judged = |outcome, message: &str, lines: &[&str]| Judged {
            outcome,
            message: message.to_owned(),
            lines: lines.iter().map(|line| (*line).to_owned()).collect(),
        };
        let back = judged(Outcome::Passed, "3 of 3 replicas run rancher/rancher:v2.9.3, and no old pod is left", &[]);
        let unasked = judged(Outcome::NotAsked, "the Service cattle-system/rancher:80 is not there", &[]);
        let lines = ["c-m-2 (<b>prod</b>): not connected, and was before", "c-m-1 (test): connected"];
        let clusters = judged(Outcome::Failed, "1 of 2 clusters that were connected before are not; 1 are", &lines);
        status.checks = vec![
            Check::new(CheckName::Rollout, true, back),
            Check::new(CheckName::Version, true, unasked),
            Check::new(
                CheckName::Settings,
                false,
                judged(Outcome::Passed, "106 settings are as the backup has them", &["x"]),
            ),
            Check::new(CheckName::Clusters, false, clusters),
        ];
    })
}

#[test]
fn each_check_is_a_line_in_the_status_of_a_run_and_on_the_dashboard() {
    let run = checked();
    let told = render_one(&run, after(20));
    let section = told.split("\n\n").find(|part| part.starts_with("Checks")).expect("they are told");
    insta::assert_snapshot!(section, @"
    Checks of Rancher:
      rollout (passed, required): 3 of 3 replicas run rancher/rancher:v2.9.3, and no old pod is left
      version (not asked, required): the Service cattle-system/rancher:80 is not there
      settings (passed): 106 settings are as the backup has them
        x
      clusters (failed): 1 of 2 clusters that were connected before are not; 1 are
        c-m-2 (<b>prod</b>): not connected, and was before
        c-m-1 (test): connected
    ");
    let input = Dashboard { cluster: "prod", cluster_uid: "uid", rules: None, runs: &[&run], problems: &[] };
    let page = dashboard(&input);
    let section = page.split("\n## ").find(|part| part.starts_with("Rancher after")).expect("they are told");
    insta::assert_snapshot!(section, @r"
    Rancher after its version was set

    Restore `back-to-2-9-3` (`clusters/prod/restore.yaml`, commit `3ebb95c6a2f0` by Ada Lovelace &lt;ada\@example.org&gt;)

    - **rollout** (passed, required): 3 of 3 replicas run rancher/rancher:v2.9.3, and no old pod is left
    - **version** (not asked, required): the Service cattle-system/rancher:80 is not there
    - **settings** (passed): 106 settings are as the backup has them
    - **clusters** (failed): 1 of 2 clusters that were connected before are not; 1 are
      - c-m-2 (&lt;b&gt;prod&lt;/b&gt;): not connected, and was before
      - c-m-1 (test): connected
    ");
}

#[test]
fn checks_are_read_back_and_those_of_a_newer_reinback_are_passed_over() {
    let run = checked();
    let file = status_file(&run).expect("it fits");
    let read = parse_status_file(file.as_bytes()).expect("it is one").status.expect("it has one");
    assert_eq!(Some(read.checks), run.status.map(|status| status.checks));
    let newer = file.replace("name: settings", "name: astrology");
    let read = parse_status_file(newer.as_bytes()).expect("it is one").status.expect("it has one");
    assert_eq!(read.checks.len(), 3);
    assert!(read.checks.iter().all(|check| check.lines.len() <= LINES_KEPT));
}
