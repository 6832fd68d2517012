use serde_json::json;

use super::*;
use crate::run::MESSAGE_MAX_BYTES;

#[test]
fn the_name_follows_from_manifest_and_key_and_is_one_that_kubernetes_takes() {
    let key = "0123456789abcdef".repeat(4);
    let names = ["back-to-monday", "Back.To_Monday", &"long-".repeat(30), "", "--", "größe"];
    insta::assert_snapshot!(names.map(|name| restore_name(name, &key)).join("\n"), @r"
    back-to-monday-01234567
    back-to-monday-01234567
    long-long-long-long-long-long-long-long-long-long-long-01234567
    restore-01234567
    restore-01234567
    gr--e-01234567
    ");
    assert!(names.iter().all(|name| restore_name(name, &key).len() <= 63));
}

fn manifest(spec: &str) -> RestoreSpec {
    let text = format!(
        "{{apiVersion: resources.cattle.io/v1, kind: Restore, metadata: {{name: back}}, spec: {{backupFilename: a.tar.gz{spec}}}}}"
    );
    let document = serde_yaml::from_str(&text).expect("YAML");
    let manifest = crate::manifest::unpin(&document, "back.yaml", "").expect("a manifest");
    manifest.body.restore().expect("a restore").clone()
}

#[test]
fn the_operator_is_asked_for_what_the_manifest_says_in_its_own_words() {
    let plain = spec(&manifest(""), None, "ops");
    assert_eq!(plain, json!({"backupFilename": "a.tar.gz"}));
    let all = manifest(
        ", deleteTimeoutSeconds: 3, ignoreErrors: true, encryptionConfigSecretName: key, storageLocation: {s3: {\
         bucketName: backups, credentialSecretName: keys, endpoint: \"https://s3.example.org/\", folder: /rancher/}}",
    );
    insta::assert_snapshot!(spec(&all, None, "ops"), @r#"{"backupFilename":"a.tar.gz","deleteTimeoutSeconds":3,"encryptionConfigSecretName":"key","ignoreErrors":true,"storageLocation":{"s3":{"bucketName":"backups","credentialSecretName":"keys","credentialSecretNamespace":"ops","endpoint":"s3.example.org","folder":"rancher"}}}"#);
    let ours = StoreDefault::S3(Box::new(S3Location { bucket_name: "ours".to_owned(), ..S3Location::default() }));
    assert_eq!(spec(&manifest(""), Some(&ours), "ops")["storageLocation"], json!({"s3": {"bucketName": "ours"}}));
    let folder = StoreDefault::Directory("/backups".into());
    assert_eq!(spec(&manifest(""), Some(&folder), "ops"), plain, "it has a place of its own");
}

#[test]
fn a_restore_leads_back_to_its_run_and_has_no_owner() {
    let key = "ab".repeat(32);
    let run = format!("2026-11-23-{}-abababab", "long".repeat(20));
    let origin = Origin { run: &run, key: &key, commit: "c0ffee", file: "prod/back.yaml" };
    let made = restore("back-abababab", &json!({"backupFilename": "a.tar.gz"}), false, origin);
    assert_eq!(made["metadata"]["labels"][RUN], "abababab", "a label holds no more");
    assert_eq!((key_of(&made), &made["metadata"]["annotations"][RUN]), (Some(key.as_str()), &json!(run)));
    assert_eq!((&made["spec"]["prune"], &made["metadata"]["ownerReferences"]), (&json!(false), &Value::Null));
}

#[test]
fn a_status_is_running_failing_or_done_and_nothing_else() {
    let conditions = |list: Value| json!({"status": {"conditions": list}});
    let error = json!([{"type": "Reconciling", "status": "False", "reason": "Error", "message": "why"}]);
    let cases = [
        (json!({}), State::Running),
        (conditions(json!([{"type": "Ready", "status": "True"}])), State::Running),
        (conditions(json!([{"type": "Reconciling", "status": "True"}])), State::Running),
        (conditions(error.clone()), State::Failing("why".to_owned())),
        (json!({"status": {"restoreCompletionTs": "2026-11-23T09:00:00Z", "conditions": error}}), State::Done),
        (json!({"status": {"conditions": "what somebody wrote"}}), State::Running),
    ];
    for (restore, wanted) in cases {
        assert_eq!(state(&restore), wanted, "{restore}");
    }
}

#[test]
fn failures_are_equal_while_the_message_stays_and_tries_go_on() {
    let failing = |text: &str| State::Failing(text.to_owned());
    let mut failures = Failures::default();
    let counted: Vec<u64> = [0, 1, 1, 2, 5].map(|tries| failures.note(&failing("a b"), tries)).to_vec();
    assert_eq!(counted, [1, 1, 1, 2, 5]);
    assert_eq!(failures.note(&failing("b a"), 6), 6, "the order of words is chance");
    assert_eq!(failures.note(&failing("another"), 7), 1);
    assert_eq!(failures.note(&State::Done, 8), 0);
    let mut mute = Failures::default();
    let counted: Vec<u64> = [0, 1, 5].map(|tries| mute.note(&State::Running, tries)).to_vec();
    assert_eq!(counted, [0, 1, 5], "tries that end without a word");
    assert_eq!(mute.note(&failing("at last"), 5), 1);
    assert_eq!(mute.note(&State::Running, 7), 0, "counted anew");
}

#[test]
fn what_names_objects_is_told_on_and_no_value() {
    let said = [
        r#"secrets "s3-keys" not found"#,
        "error restoring namespaced resources, check logs for exact error",
        r#"error pruning during restore: [Operation cannot be fulfilled on users.management.cattle.io "u-1": the object has been modified]"#,
        r#"error restoring tls of type /v1, Resource=secrets: restoreResource: err updating resource Secret "tls" is invalid: data: Invalid value: "aHVudGVyMg==": field is immutable"#,
        r#"admission webhook "rancher.cattle.io.users" denied the request: password hunter2 is too short"#,
        "Access Denied. key=AKIAEXAMPLE secret=hunter2",
        r#"error decoding encryption provider configuration "hunter2": strict decoding error"#,
        "hunter2",
        "open /var/lib/backups/a-1.tar.gz: no such file or directory",
        r#"Get "https://user:hunter2@s3.example.org/b": dial tcp: lookup s3.example.org: no such host"#,
    ];
    let told: Vec<String> = said.iter().map(|text| told(text).unwrap_or_else(|| "-".to_owned())).collect();
    assert!(told.iter().all(|text| !text.contains("hunter2") && !text.contains("aHVudGVy") && !text.contains("AKIA")));
    insta::assert_snapshot!(told.join("\n"), @r#"
    secrets "s3-keys" not found
    error restoring namespaced resources, check logs for exact error
    error pruning during restore, Operation cannot be fulfilled on users.management.cattle.io "u-1"
    error restoring tls of type /v1, Resource=secrets, Secret "tls" is invalid: data: Invalid value
    admission webhook "rancher.cattle.io.users" denied the request
    Access Denied
    -
    -
    open /var/lib/backups/a-1.tar.gz: no such file or directory
    no such host
    "#);
    let flood = r#"secrets "a" not found, "#.repeat(9)
        + &(0..999).map(|n| format!(r#"secrets "s-{n}" not found "#)).collect::<String>();
    assert!(super::told(&flood).is_some_and(|text| text.len() <= MESSAGE_MAX_BYTES));
}

#[test]
fn of_a_log_the_last_errors_are_told_that_name_objects() {
    let log = r#"
time="2026-11-23T09:00:00Z" level=info msg="restoreResource: Restoring a of type /v1, Resource=secrets"
time="2026-11-23T09:00:01Z" level=error msg="Error restoring resource tls of type /v1, Resource=secrets: hunter2"
time="2026-11-23T09:00:01Z" level=error msg="error restoring tls of type /v1, Resource=secrets: Secret \"tls\" is invalid: type: Invalid value: \"hunter2\""
ERRO[0012] Error restoring namespaced resources error restoring roles of type rbac.authorization.k8s.io/v1, Resource=roles: hunter2
WARN[0013] restoreResource: skipping setting server-url due to webhook admission restriction: hunter2
time="2026-11-23T09:00:01Z" level=error msg="something with hunter2"
WARN[0013] restoreResource: skipping setting server-url due to webhook admission restriction: hunter2
"#;
    insta::assert_snapshot!(log_lines(log).join("\n"), @r#"
    error restoring tls of type /v1, Resource=secrets, Secret "tls" is invalid: type: Invalid value
    restoring namespaced resources, error restoring roles of type rbac.authorization.k8s.io/v1, Resource=roles
    skipping setting server-url due to webhook admission restriction
    "#);
    let many: String = (0..99).map(|n| format!("ERRO[1] secrets \"s-{n}\" not found\n")).collect();
    assert_eq!(log_lines(&many).len(), 10);
    assert_eq!(log_lines(&many).last().map(String::as_str), Some("secrets \"s-98\" not found"));
}
