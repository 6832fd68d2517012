//! What of the operator's words reaches status, Git and the log.

use serde_json::Value;

use super::{Operated, end, outcome};
use crate::git_server::git;
use crate::process::message;
use crate::stand_in::Phase;

/// In a message as an API server writes it.
const SECRET: &str = "aHVudGVyMi1vZi10aGUtdGVzdA==";

#[tokio::test(flavor = "multi_thread")]
async fn of_a_message_that_quotes_a_secret_the_name_of_the_object_is_told_and_nothing_else() {
    let operated = Operated::start().await;
    let Operated { world, .. } = &operated;
    let why = format!(r#"Secret "tls-rancher" is invalid: data: Invalid value: "{SECRET}""#);
    operated.script().fail(Phase::Load, &why, None);
    operated.merge("quoted", &[("on-failure", "Resume")], "  prune: false\n");
    let (said, run) = operated.once("quoted").await;
    assert_eq!(end(&run), outcome("Failed", "OperatorFailed"), "{}", run["status"]);
    let live = operated.restores().await.expect("the cluster answers");
    assert_eq!(live, Vec::<Value>::new());
    let told = r#"Secret "tls-rancher" is invalid: data: Invalid value"#;
    assert!(message(&run).contains(told), "{}", message(&run));
    assert_eq!(run["status"]["operator"]["message"].as_str().map(|text| text.contains(told)), Some(true));
    let shown = world.reinback(&["status", "quoted"]).await;
    assert!(shown.stdout.contains("Operator:") && shown.stdout.contains("tls-rancher"), "{}", shown.stdout);
    let branch = git(&world.remote(), &["log", "-p", "reinback/test"]);
    assert!(branch.contains("tls-rancher"));
    for text in [&said.stderr, &said.stdout, &shown.stdout, &branch, &run.to_string()] {
        assert!(!text.contains(SECRET), "{text}");
    }
}
