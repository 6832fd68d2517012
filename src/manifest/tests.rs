use insta::assert_snapshot;

use super::*;
use crate::plan::gate::GateCode;

fn read(content: &str) -> Parsed {
    parse("a.yaml", content.as_bytes(), &Limits::default())
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}

fn problems(content: &str) -> String {
    lines(&read(content).problems)
}

/// A valid manifest, but for the line that is put under `spec`.
fn spec(line: &str) -> String {
    let name = if line.contains("backupFilename") { "" } else { "  backupFilename: b.tar.gz\n" };
    let mut text =
        format!("apiVersion: resources.cattle.io/v1\nkind: Restore\nmetadata:\n  name: monday\nspec:\n{name}");
    line.lines().for_each(|line| text += &format!("  {line}\n"));
    text
}

fn annotated(line: &str) -> String {
    format!(
        "apiVersion: resources.cattle.io/v1\nkind: Restore\nmetadata:\n  name: monday\n  annotations:\n    {line}\nspec: {{backupFilename: b.tar.gz}}\n"
    )
}

fn rollback(lines: &str) -> String {
    format!("apiVersion: reinback.io/v1alpha1\nkind: Rollback\nmetadata: {{name: back}}\nspec:\n{lines}\n")
}

/// Each message on a line, for inputs that differ in one value.
fn each(values: &[&str], wrap: impl Fn(&str) -> String) -> String {
    values.iter().map(|value| problems(&wrap(value))).collect::<Vec<_>>().join("\n")
}

fn only(content: &str) -> Manifest {
    let parsed = read(content);
    assert_eq!(lines(&parsed.problems), "");
    let [document] = <[Document; 1]>::try_from(parsed.documents).expect("one document");
    document.manifest.expect("it is valid")
}

fn yaml(value: &impl serde::Serialize) -> String {
    serde_yaml::to_string(value).expect("it is YAML")
}

#[test]
fn every_field_and_annotation_of_a_restore_is_read() {
    let manifest = only(
        r#"
# a comment
apiVersion: resources.cattle.io/v1
kind: Restore
metadata:
  name: restore-migration
  labels: {team: platform}
  annotations:
    kubernetes.io/description: anybody's
    reinback.io/engine: native
    reinback.io/backup-digest: sha256:2CF24DBA5FB0A30E26E83B2AC5B9E29E1B161E5C1FA7425E73043362938B9824
    reinback.io/requested-at: "2026-11-23T10:00:00+01:00"
    reinback.io/accept: DifferentCluster, CrdVersionsKept
    reinback.io/approved-plan: sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824
    reinback.io/on-failure: Undo
    reinback.io/timeout: 1h30m
spec:
  backupFilename: nightly.tar.gz.enc
  prune: false
  deleteTimeoutSeconds: 10
  ignoreErrors: true
  encryptionConfigSecretName: enc
  storageLocation:
    s3:
      bucketName: backups
      credentialSecretName: creds
      credentialSecretNamespace: default
      endpoint: https://s3.example.org:9000
      endpointCA: LS0tLS1CRUdJTg==
      insecureTLSSkipVerify: true
      region: eu-west-1
      folder: /prod/
      clientConfig: {aws: {dualStack: true}, bucketLookup: path}
"#,
    );
    assert_eq!((manifest.id.to_string().as_str(), manifest.line), ("Restore restore-migration", 3));
    assert_snapshot!(yaml(&manifest.body), @"
    !restore
    backupFilename: nightly.tar.gz.enc
    storageLocation:
      bucketName: backups
      credentialSecretName: creds
      credentialSecretNamespace: default
      endpoint: https://s3.example.org:9000
      endpointCA: LS0tLS1CRUdJTg==
      insecureTLSSkipVerify: true
      region: eu-west-1
      folder: /prod/
      clientConfig:
        aws:
          dualStack: true
        bucketLookup: path
    prune: false
    deleteTimeoutSeconds: 10
    ignoreErrors: true
    encryptionConfigSecretName: enc
    ");
    assert_snapshot!(yaml(&manifest.options), @"
    engine: native
    backupDigest: sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824
    requestedAt: 2026-11-23T09:00:00Z
    accept:
    - DifferentCluster
    - CrdVersionsKept
    approvedPlan: sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824
    onFailure: Undo
    timeout: 1h30m
    ");
}

#[test]
fn what_is_left_out_has_upstreams_defaults() {
    let manifest = only(&spec("ignoreErrors: null"));
    let restore = manifest.body.restore().expect("it is a restore");
    assert!(restore.prune && !restore.ignore_errors && restore.storage_location.is_none());
    assert_eq!((restore.delete_timeout_seconds, &manifest.options), (0, &Options::default()));
}

#[test]
fn every_field_of_a_rollback_is_read_and_the_version_gets_its_v() {
    let manifest = only(&rollback(
        "  toVersion: 2.9.3-rc1\n  versionMethod: helm\n  revision: 12\n  chart: charts/rancher-2.9.3.tgz\n  restore: {backupFilename: b.tar.gz, prune: false}",
    ));
    assert_snapshot!(yaml(&manifest.body), @"
    !rollback
    toVersion: v2.9.3-rc1
    restore:
      backupFilename: b.tar.gz
      storageLocation: null
      prune: false
      deleteTimeoutSeconds: 0
      ignoreErrors: false
      encryptionConfigSecretName: null
    versionMethod: helm
    revision: 12
    chart: charts/rancher-2.9.3.tgz
    ");
    assert_eq!(only(&rollback("  toVersion: v2.9.3")).body.restore(), None);
}

#[test]
fn documents_of_others_are_left_alone_whatever_is_in_them() {
    let parsed = read(
        "# only a comment\n---\n---\njust text\n---\n[a, list]\n---\nkind: Restore\napiVersion: velero.io/v1\nspec: {a: 1, a: 2}\n---\n\
         apiVersion: v1\nkind: ConfigMap\ndata: {a: !Ref b, <<: *gone}\n---\nkey: [1, 2]\n---\napiVersion: resources.cattle.io/v1\nkind: Backup\n---\n\
         kind: [Restore]\n",
    );
    assert_eq!(parsed, Parsed::default());
}

#[test]
fn what_kubectl_adds_to_an_object_is_passed_over() {
    let exported = "apiVersion: resources.cattle.io/v1\nkind: Restore\nmetadata:\n  name: monday\n  uid: 1\n  resourceVersion: \"5\"\n  generation: 1\n  \
         creationTimestamp: 2026-11-23T09:00:00Z\n  managedFields: [{a: b}]\nspec: {backupFilename: b.tar.gz}\nstatus: {restoreCompletionTs: x}\n";
    let plain = "apiVersion: resources.cattle.io/v1\nkind: Restore\nmetadata: {name: monday}\nspec: {backupFilename: b.tar.gz}\n";
    assert_eq!(only(exported).document_digest, only(plain).document_digest);
}

#[test]
fn unknown_fields_are_named_with_what_was_probably_meant() {
    assert_snapshot!(problems(&spec("backupFileName: b.tar.gz\nschedule: daily\nstorage_location: {}")), @"
    a.yaml:7: unknown field `backupFileName` in `spec`, did you mean `backupFilename`?
    a.yaml:8: unknown field `schedule` in `spec`
    a.yaml:9: unknown field `storage_location` in `spec`, did you mean `storageLocation`?
    ");
    assert_snapshot!(problems(&spec("storageLocation: {s3: {bucketName: abc, endpointCa: x, clientConfig: {bucketLookUp: path}}}")), @"
    a.yaml:7: unknown field `endpointCa` in `spec.storageLocation.s3`, did you mean `endpointCA`?
    a.yaml:7: unknown field `bucketLookUp` in `spec.storageLocation.s3.clientConfig`, did you mean `bucketLookup`?
    ");
    assert_snapshot!(problems("apiVersion: resources.cattle.io/v1\nkind: Restore\nmetadta: {name: a}\nspec: {backupFilename: b.tar.gz}"), @"a.yaml:3: unknown field `metadta`, did you mean `metadata`?");
    assert_snapshot!(problems(&rollback("  version: v2.9.3\n  restore: {backupFilename: b.tar.gz, purge: true}")), @"
    a.yaml:5: unknown field `version` in `spec`, did you mean `toVersion`?
    a.yaml:6: unknown field `purge` in `spec.restore`
    ");
}

#[test]
fn wrong_types_are_named_with_what_is_there() {
    assert_snapshot!(each(
        &["prune: \"true\"", "prune: 1", "prune: [true]", "deleteTimeoutSeconds: soon", "deleteTimeoutSeconds: \"5\"",
          "deleteTimeoutSeconds: 1.5", "backupFilename: 20261123", "backupFilename: {name: b}", "storageLocation: s3",
          "storageLocation: {s3: [a]}", "encryptionConfigSecretName: true"],
        spec,
    ), @r#"
    a.yaml:7: `spec.prune` must be a boolean, not the text `true`: write true or false
    a.yaml:7: `spec.prune` must be a boolean, not `1`: write true or false
    a.yaml:7: `spec.prune` must be a boolean, not a list: write true or false
    a.yaml:7: `spec.deleteTimeoutSeconds` must be a whole number from 0 to 10, not the text `soon`
    a.yaml:7: `spec.deleteTimeoutSeconds` must be a whole number from 0 to 10, not the text `5`
    a.yaml:7: `spec.deleteTimeoutSeconds` must be a whole number from 0 to 10, not the number `1.5`
    a.yaml:6: `spec.backupFilename` must be text, not the number `20261123`: write it in quotes, "20261123"
    a.yaml:6: `spec.backupFilename` must be text, not a mapping
    a.yaml:7: `spec.storageLocation` must be a mapping, not the text `s3`
    a.yaml:7: `spec.storageLocation.s3` must be a mapping, not a list
    a.yaml:7: `spec.encryptionConfigSecretName` must be text, not the boolean `true`: write it in quotes, "true"
    "#);
    assert_snapshot!(problems("apiVersion: resources.cattle.io/v1\nkind: Restore\nmetadata: monday\nspec: b.tar.gz"), @"
    a.yaml:3: `metadata` must be a mapping, not the text `monday`
    a.yaml:4: `spec` must be a mapping, not the text `b.tar.gz`
    ");
}

#[test]
fn words_that_yaml_versions_read_differently_are_never_guessed() {
    assert_snapshot!(each(&["prune: no", "prune: Off", "prune: y", "prune: True", "prune: \"no\""], spec), @"
    a.yaml:7: `spec.prune` must be a boolean, not `no`: write true or false
    a.yaml:7: `spec.prune` must be a boolean, not `Off`: write true or false
    a.yaml:7: `spec.prune` must be a boolean, not `y`: write true or false
    a.yaml:7: `spec.prune` must be a boolean, not `True`: write true or false
    a.yaml:7: `spec.prune` must be a boolean, not the text `no`: write true or false
    ");
    assert_snapshot!(each(&["storageLocation: {s3: {bucketName: abc, region: no}}", "storageLocation: {s3: {bucketName: abc, folder: 0x10}}"], spec), @r#"
    a.yaml:7: `spec.storageLocation.s3.region` must be text, not the boolean `no`: write it in quotes, "no"
    a.yaml:7: `spec.storageLocation.s3.folder` must be text, not the number `0x10`: write it in quotes, "0x10"
    "#);
}

#[test]
fn bad_values_are_named_with_the_remedy() {
    assert_snapshot!(each(
        &["backupFilename: prod/b.tar.gz", "backupFilename: ../b.tar.gz", "backupFilename: a..tar.gz", "backupFilename: \"\"",
          "backupFilename: \" b.tar.gz\"", "deleteTimeoutSeconds: 11", "deleteTimeoutSeconds: -1",
          "encryptionConfigSecretName: My_Secret"],
        spec,
    ), @"
    a.yaml:6: `spec.backupFilename` must be a file name, not a path: `prod/b.tar.gz`; the folder belongs to `storageLocation.s3.folder`
    a.yaml:6: `spec.backupFilename` must be a file name, not a path: `../b.tar.gz`; the folder belongs to `storageLocation.s3.folder`
    a.yaml:6: `spec.backupFilename` must not contain `..`: `a..tar.gz`
    a.yaml:6: `spec.backupFilename` is empty: name the file of the backup
    a.yaml:6: `spec.backupFilename` is not a file name: ` b.tar.gz`
    a.yaml:7: `spec.deleteTimeoutSeconds` must be a whole number from 0 to 10, not the number `11`
    a.yaml:7: `spec.deleteTimeoutSeconds` must be a whole number from 0 to 10, not the number `-1`
    a.yaml:7: `spec.encryptionConfigSecretName` is not the name of a Secret: write lower-case letters, digits, `-` and `.`, and keep the keys themselves in that Secret
    ");
    let s3 = |line: &str| spec(&format!("storageLocation: {{s3: {{bucketName: abc, {line}}}}}"));
    assert_snapshot!(each(
        &["endpoint: \"https://key:secret@s3.example.org\"", "endpoint: \"ftp://s3.example.org\"", "endpoint: \"\"", "region: \"\"",
          "folder: a/../b", "credentialSecretNamespace: default", "clientConfig: {bucketLookup: paths}"],
        s3,
    ), @"
    a.yaml:7: `spec.storageLocation.s3.endpoint` must not hold credentials: they belong into the Secret of `credentialSecretName`
    a.yaml:7: `spec.storageLocation.s3.endpoint` is not an endpoint: `ftp://s3.example.org`; write `s3.example.org`, with `https://` or a port where needed
    a.yaml:7: `spec.storageLocation.s3.endpoint` is not an endpoint: ``; write `s3.example.org`, with `https://` or a port where needed
    a.yaml:7: `spec.storageLocation.s3.region` is empty: write a value or remove it
    a.yaml:7: `spec.storageLocation.s3.folder` must not contain `.` or `..` as a part: `a/../b`
    a.yaml:7: `spec.storageLocation.s3.credentialSecretName` is missing: a namespace alone names no Secret
    a.yaml:7: `spec.storageLocation.s3.clientConfig.bucketLookup` must be `auto`, `dns` or `path`, not `paths`, did you mean `path`?
    ");
    assert_snapshot!(each(&["storageLocation: {}", "storageLocation: {s3: {}}", "storageLocation: {s3: {bucketName: \"a/b\"}}"], spec), @"
    a.yaml:7: `spec.storageLocation.s3` is missing: a manifest names an S3 location, or none for the agent's own store
    a.yaml:7: `spec.storageLocation.s3.bucketName` is missing: name the bucket
    a.yaml:7: `spec.storageLocation.s3.bucketName` is not a name of a bucket: `a/b`
    ");
}

#[test]
fn bad_annotations_are_named_with_the_remedy() {
    assert_snapshot!(each(
        &["reinback.io/engin: auto", "reinback.io/colour: red", "reinback.io/replicas: \"3\"", "reinback/engine: auto", "on-failure: Hold",
          "reinback.io/engine: Native", "reinback.io/backup-digest: 2cf24dba", "reinback.io/backup-digest: sha256:xyz",
          "reinback.io/requested-at: yesterday", "reinback.io/requested-at: 2026-11-23T09:00:00", "reinback.io/requested-at: 2026",
          "reinback.io/on-failure: hold", "reinback.io/timeout: 45", "reinback.io/timeout: 45 parsecs", "reinback.io/timeout: 30s",
          "reinback.io/timeout: 25h", "reinback.io/timeout: -5m", "reinback.io/approved-plan: yes", "reinback.io/accept: [AlreadyRun]"],
        annotated,
    ), @"
    a.yaml:6: unknown annotation `reinback.io/engin`, did you mean `reinback.io/engine`?
    a.yaml:6: unknown annotation `reinback.io/colour`
    a.yaml:6: `reinback.io/replicas` is written by reinback on the cluster: remove it
    a.yaml:6: unknown annotation `reinback/engine`, did you mean `reinback.io/engine`?
    a.yaml:6: unknown annotation `on-failure`, did you mean `reinback.io/on-failure`?
    a.yaml:6: `reinback.io/engine` must be `auto`, `native` or `operator`, not `Native`, did you mean `native`?
    a.yaml:6: `reinback.io/backup-digest` is not a digest: `2cf24dba`; write `sha256:` and the 64 hexadecimal digits that `sha256sum` prints
    a.yaml:6: `reinback.io/backup-digest` is not a digest: `sha256:xyz`; write `sha256:` and the 64 hexadecimal digits that `sha256sum` prints
    a.yaml:6: `reinback.io/requested-at` is not a time of RFC 3339: `yesterday`; write it like 2026-11-23T09:00:00Z
    a.yaml:6: `reinback.io/requested-at` is not a time of RFC 3339: `2026-11-23T09:00:00`; write it like 2026-11-23T09:00:00Z
    a.yaml:6: `reinback.io/requested-at` is not a time of RFC 3339: `2026`; write it like 2026-11-23T09:00:00Z
    a.yaml:6: `reinback.io/on-failure` must be `Hold`, `Resume` or `Undo`, not `hold`, did you mean `Hold`?
    a.yaml:6: `reinback.io/timeout` is not a duration: `45`; write it like 90s, 45m or 1h30m
    a.yaml:6: `reinback.io/timeout` is not a duration: `45 parsecs`; write it like 90s, 45m or 1h30m
    a.yaml:6: `reinback.io/timeout` must be from 1m to 24h, not `30s`
    a.yaml:6: `reinback.io/timeout` must be from 1m to 24h, not `25h`
    a.yaml:6: `reinback.io/timeout` is not a duration: `-5m`; write it like 90s, 45m or 1h30m
    a.yaml:6: `reinback.io/approved-plan` is not a digest: `yes`; write `sha256:` and the 64 hexadecimal digits that `sha256sum` prints
    a.yaml:6: `reinback.io/accept` must be text, not a list
    ");
    assert_snapshot!(each(
        &["reinback.io/accept: DiferentCluster", "reinback.io/accept: AlreadyRun, BackupCorrupt, RunInProgress, Foo"],
        annotated,
    ), @"
    a.yaml:6: `reinback.io/accept` names `DiferentCluster`, which is no gate, did you mean `DifferentCluster`?
    a.yaml:6: `reinback.io/accept` cannot take `BackupCorrupt`: nothing takes it away but a changed manifest or a changed world; and cannot take `RunInProgress`: nothing takes it away but time; and names `Foo`, which is no gate
    ");
    assert_eq!(
        only(&annotated("reinback.io/accept: ' AlreadyRun ,, AlreadyRun,'")).options.accept,
        [GateCode::AlreadyRun].into()
    );
}

#[test]
fn bad_rollbacks_are_named_with_the_remedy() {
    assert_snapshot!(each(
        &["  toVersion: 2.9", "  toVersion: \"2.9\"", "  toVersion: v2.9.x", "  toVersion: v02.9.3", "  versionMethod: helm", "  toVersion: v2.9.3\n  revision: 0",
          "  toVersion: v2.9.3\n  versionMethod: Helm", "  toVersion: v2.9.3\n  versionMethod: image\n  revision: 3",
          "  toVersion: v2.9.3\n  chart: ../c.tgz", "  toVersion: v2.9.3\n  chart: /c.tgz", "  toVersion: v2.9.3\n  chart: https://x.org/c.tgz",
          "  toVersion: v2.9.3\n  chart: charts/rancher", "  toVersion: v2.9.3\n  restore: {}", "  toVersion: v2.9.3\nstatus: {}"],
        rollback,
    ), @"
    a.yaml:5: `spec.toVersion` is not a version: `2.9`; write all three numbers, such as v2.9.3
    a.yaml:5: `spec.toVersion` is not a version: `2.9`; write all three numbers, such as v2.9.3
    a.yaml:5: `spec.toVersion` is not a version: `v2.9.x`; write all three numbers, such as v2.9.3
    a.yaml:5: `spec.toVersion` is not a version: `v02.9.3`; write all three numbers, such as v2.9.3
    a.yaml:5: `spec.toVersion` is missing: name the version of Rancher to go back to, such as v2.9.3
    a.yaml:6: `spec.revision` must be a whole number of 1 or more, not the number `0`
    a.yaml:6: `spec.versionMethod` must be `auto`, `helm` or `image`, not `Helm`, did you mean `helm`?
    a.yaml:7: `spec.revision` means nothing with `versionMethod: image`: remove one
    a.yaml:6: `spec.chart` must be a path from the root of the source repository, without `.`, `..` or a leading `/`: `../c.tgz`
    a.yaml:6: `spec.chart` must be a path from the root of the source repository, without `.`, `..` or a leading `/`: `/c.tgz`
    a.yaml:6: `spec.chart` is a path in the source repository, not a URL: `https://x.org/c.tgz`
    a.yaml:6: `spec.chart` must be a packaged chart that ends in `.tgz`: `charts/rancher`; `helm package` makes one
    a.yaml:6: `spec.restore.backupFilename` is missing: name the file of the backup
    a.yaml:6: unknown field `status`
    ");
    assert_snapshot!(problems("apiVersion: reinback.io/v1alpha1\nkind: Rollback\nmetadata: {name: back}\n"), @"a.yaml:1: `spec` is missing: write at least `toVersion`");
}

#[test]
fn near_misses_of_kind_and_version_are_errors_and_not_ignored() {
    let head = |head: &str| format!("{head}\nmetadata: {{name: a}}\nspec: {{backupFilename: b.tar.gz}}\n");
    assert_snapshot!(each(
        &["apiVersion: resources.cattle.io/v2\nkind: Restore", "apiVersion: resource.cattle.io/v1\nkind: Restore", "kind: Restore",
          "apiVersion: resources.cattle.io/v1\nkind: restore", "apiVersion: reinback.io/v1\nkind: Rollback", "kind: Rollback",
          "apiVersion: reinback.io/v1alpha1\nkind: Rolback", "apiVersion: reinback.io/v1alpha1\nkind: Run",
          "apiVersion: reinback.io/v1alpha1", "apiVersion: reinback.io/v1alpha1\nkind: Restore", "apiVersion: resources.cattle.io/v1\nkind: Rollback"],
        head,
    ), @"
    a.yaml:1: `resources.cattle.io/v2` of kind `Restore` is not known: write `apiVersion: resources.cattle.io/v1`
    a.yaml:1: `resource.cattle.io/v1` of kind `Restore` is not known: write `apiVersion: resources.cattle.io/v1`
    a.yaml:1: `apiVersion` is missing: write `apiVersion: resources.cattle.io/v1`
    a.yaml:2: unknown kind `restore`, did you mean `Restore`?
    a.yaml:1: `reinback.io/v1` of kind `Rollback` is not known: write `apiVersion: reinback.io/v1alpha1`
    a.yaml:1: `apiVersion` is missing: write `apiVersion: reinback.io/v1alpha1`
    a.yaml:2: unknown kind `Rolback` of reinback.io, did you mean `Rollback`?
    a.yaml:2: a `Run` is written by reinback and not read from Git: remove it
    a.yaml:1: `kind` is missing: write `kind: Rollback`
    a.yaml:1: `reinback.io/v1alpha1` of kind `Restore` is not known: write `apiVersion: resources.cattle.io/v1`
    a.yaml:1: `resources.cattle.io/v1` of kind `Rollback` is not known: write `apiVersion: reinback.io/v1alpha1`
    ");
    assert_snapshot!(problems("apiVersion: v1\nkind: List\nitems:\n- kind: Pod\n- apiVersion: resources.cattle.io/v1\n  kind: Restore\n"), @"a.yaml:5: a `Restore` inside a `List` is not read: make it a document of its own, after `---`");
}

#[test]
fn names_are_those_of_kubernetes() {
    let named = |metadata: &str| {
        format!(
            "apiVersion: resources.cattle.io/v1\nkind: Restore\nmetadata: {metadata}\nspec: {{backupFilename: b.tar.gz}}\n"
        )
    };
    assert_snapshot!(each(
        &["{name: Monday}", "{name: a/b}", "{name: -a}", "{name: a..b}", "{name: \"\"}", "{name: 5}", "{generateName: a-}", "{}", "", "{name: a, labels: {reinback.io/engine: auto}}", "{name: a, annotations: [a]}"],
        named,
    ), @r#"
    a.yaml:3: `metadata.name` is not a name of Kubernetes: `Monday`; write lower-case letters, digits, `-` and `.`, at most 253, beginning and ending with a letter or digit
    a.yaml:3: `metadata.name` is not a name of Kubernetes: `a/b`; write lower-case letters, digits, `-` and `.`, at most 253, beginning and ending with a letter or digit
    a.yaml:3: `metadata.name` is not a name of Kubernetes: `-a`; write lower-case letters, digits, `-` and `.`, at most 253, beginning and ending with a letter or digit
    a.yaml:3: `metadata.name` is not a name of Kubernetes: `a..b`; write lower-case letters, digits, `-` and `.`, at most 253, beginning and ending with a letter or digit
    a.yaml:3: `metadata.name` is not a name of Kubernetes: ``; write lower-case letters, digits, `-` and `.`, at most 253, beginning and ending with a letter or digit
    a.yaml:3: `metadata.name` must be text, not the number `5`: write it in quotes, "5"
    a.yaml:3: `metadata.name` is missing: `generateName` would be a new run at every look; write a name
    a.yaml:3: `metadata.name` is missing: it names the run in status and Git
    a.yaml:1: `metadata` is missing: write `metadata: {name: …}`
    a.yaml:3: `reinback.io/engine` is read from `metadata.annotations` only: move it there
    a.yaml:3: `metadata.annotations` must be a mapping, not a list
    "#);
    assert_snapshot!(problems(&named(&format!("{{name: {}}}", "a".repeat(254)))), @"a.yaml:3: `metadata.name` is not a name of Kubernetes: `aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…`; write lower-case letters, digits, `-` and `.`, at most 253, beginning and ending with a letter or digit");
    let parsed = read(&named("{name: a, namespace: default}"));
    assert_snapshot!(lines(&parsed.problems), @"a.yaml:3: warning: `metadata.namespace` is ignored: a `Restore` belongs to the whole cluster");
    assert!(parsed.documents[0].manifest.is_some(), "a warning does not take the manifest away");
}

#[test]
fn all_problems_of_a_document_are_told_and_its_neighbours_count() {
    let parsed = read(&format!(
        "{}---\n{}",
        spec("prune: no\nprune: yes\nregion: a\ndeleteTimeoutSeconds: 99"),
        spec("").replace("monday", "tuesday")
    ));
    assert_snapshot!(lines(&parsed.problems), @"
    a.yaml:7: `spec.prune` must be a boolean, not `no`: write true or false
    a.yaml:8: duplicate key `prune`: remove one
    a.yaml:9: unknown field `region` in `spec`
    a.yaml:10: `spec.deleteTimeoutSeconds` must be a whole number from 0 to 10, not the number `99`
    ");
    let states: Vec<_> =
        parsed.documents.iter().map(|d| (d.id.name.as_str(), d.at.line, d.manifest.is_some())).collect();
    assert_eq!(states, [("monday", 1, false), ("tuesday", 12, true)]);
}

#[test]
fn a_broken_stream_makes_the_whole_file_not_count() {
    let parsed = read(&format!("{}---\na: [1\nb: }}\n", spec("")));
    assert_eq!(parsed.documents, []);
    assert_snapshot!(lines(&parsed.problems), @"a.yaml:9: not YAML: illegal placement of ':' indicator");
    assert_snapshot!(each(&["a: b: c", "\t- a", "{{ .Values.restore }}: x\n  - y", "a: 'open", "%YAML 3.0\n--- {a"], str::to_owned), @"
    a.yaml:1: not YAML: mapping values are not allowed in this context


    a.yaml:1: not YAML: unclosed quote
    a.yaml:1: not YAML: unsupported YAML major version
    ");
    let parsed = parse("latin.yaml", b"a: b\nc: \xe9\n", &Limits::default());
    assert_snapshot!(lines(&parsed.problems), @"latin.yaml:2: not UTF-8: save the file as UTF-8");
}

#[test]
fn only_what_may_be_a_manifest_makes_the_tree_less_than_whole() {
    let whole = |content: &str| {
        let file = SourceFile { path: "a.yaml", blob: "", content: content.as_bytes() };
        Tree::read([file], &Limits::default()).is_whole()
    };
    assert!(whole(&spec("")) && whole("{{- if .Values.a }}\na: [\n") && whole("kind: Pod\napiVersion: v1\n"));
    assert!(whole(&spec("").replace("name: monday", "name: monday\n  namespace: warned")));
    assert!(!whole(&spec("prune: no")) && !whole(&format!("{}---\na: [", spec(""))) && !whole("kind: Restore\n"));
    assert!(!whole(&format!("{}---\n{}", spec(""), spec(""))));
}

#[test]
fn files_from_windows_are_read_and_their_lines_counted() {
    let windows = format!("\u{feff}{}", spec("prune: false").replace('\n', "\r\n"));
    assert_eq!(only(&windows).document_digest, only(&spec("prune: false")).document_digest);
    assert_snapshot!(problems(&windows.replace("false", "maybe")), @"a.yaml:7: `spec.prune` must be a boolean, not the text `maybe`: write true or false");
}

#[test]
fn a_file_name_cannot_forge_a_line_of_a_report() {
    let parsed = parse("a\n\x1b[31mb.yaml", b"{", &Limits::default());
    assert_snapshot!(lines(&parsed.problems), @r"a\n\u{1b}[31mb.yaml:1: not YAML: unclosed bracket '{'");
}

#[test]
fn every_limit_says_which_it_is() {
    let limits = Limits { file_bytes: 400, documents: 2, depth: 8, alias_bytes: 200, files: 2 };
    let told = |content: &str| lines(&parse("a.yaml", content.as_bytes(), &limits).problems);
    assert_snapshot!(told(&"a".repeat(401)), @"a.yaml: more than the 400 bytes that are read of one file: split it, or keep it out of the watched path");
    assert_snapshot!(told("a: 1\n---\nb: 1\n---\nc: 1\n"), @"a.yaml:4: more than 2 documents in one file: split the file");
    assert_snapshot!(told(&spec(&format!("prune: {}true{}", "[".repeat(9), "]".repeat(9)))), @"
    a.yaml:7: `spec.prune` must be a boolean, not a list: write true or false
    a.yaml:7: nested more than 8 levels deep
    ");
    assert_snapshot!(told(&spec("x: &a [lol, lol, lol]\ny: &b [*a, *a, *a]\nz: [*b, *b, *b]")), @"
    a.yaml:7: unknown field `x` in `spec`
    a.yaml:8: unknown field `y` in `spec`
    a.yaml:8: aliases repeat more than 200 bytes: write less
    a.yaml:8: aliases repeat more than 200 bytes: write less
    a.yaml:9: unknown field `z` in `spec`
    a.yaml:9: aliases repeat more than 200 bytes: write less
    a.yaml:9: aliases repeat more than 200 bytes: write less
    a.yaml:9: aliases repeat more than 200 bytes: write less
    ");
    assert_snapshot!(told(&spec("x: &a [[[[1]]]]\ny: [[[*a]]]")), @"
    a.yaml:7: unknown field `x` in `spec`
    a.yaml:8: unknown field `y` in `spec`
    a.yaml:8: nested more than 8 levels deep
    ");
    let nested = format!("{}1{}", "[".repeat(300), "]".repeat(300));
    assert_snapshot!(lines(&parse("a.yaml", nested.as_bytes(), &Limits::default()).problems), @"a.yaml:1: nested more than 255 levels deep");
    let file = |path| SourceFile { path, blob: "", content: b"{}" };
    let tree = Tree::read([file("a"), file("b"), file("c")], &limits);
    assert_snapshot!(lines(&tree.problems), @"c: more than 2 YAML files under the watched path: watch a narrower one");
    assert!(!tree.is_whole());
}

#[test]
fn a_flood_of_problems_is_cut() {
    let unknown: String = (0..500).map(|n| format!("field{n}: 1\n")).collect();
    let many: String =
        (0..60).map(|n| format!("---\n{}", spec(&unknown).replace("monday", &format!("n{n}")))).collect();
    let parsed = read(&many);
    assert_eq!((parsed.problems.len(), parsed.documents.len()), (MAX_PROBLEMS + 1, 60));
    assert!(parsed.documents.iter().all(|document| document.manifest.is_none()), "not shown is not forgiven");
    assert_snapshot!(parsed.problems[MAX_PROBLEMS], @"a.yaml: 5900 more problems are not shown: mend these first");
}

#[test]
fn aliases_are_read_where_they_stand_and_odd_yaml_is_refused_clearly() {
    let manifest = only(&spec("storageLocation: {s3: &s3 {bucketName: &name abc, folder: *name}}"));
    let location = manifest.body.restore().and_then(|restore| restore.storage_location.as_ref()).expect("it has one");
    assert_eq!(location.folder.as_deref(), Some("abc"));
    assert_snapshot!(each(
        &["prune: *gone", "storageLocation: &a {s3: *a}", "<<: {prune: false}", "prune: !!bool true", "backupFilename: !secret b.tar.gz", "[a, b]: c", "? {a: b}\n: c", "prune: &x nope\nignoreErrors: *x"],
        spec,
    ), @"
    a.yaml:7: the alias `*gone` has no anchor before it
    a.yaml:7: `spec.storageLocation.s3` is missing: a manifest names an S3 location, or none for the agent's own store
    a.yaml:7: an alias inside the value that it repeats
    a.yaml:7: merge keys (`<<`) are not read: write the fields out
    a.yaml:7: YAML tags (`!…`) are not read: remove the tag
    a.yaml:7: `spec.prune` must be a boolean, not the text `true`: write true or false
    a.yaml:6: YAML tags (`!…`) are not read: remove the tag
    a.yaml:7: a key must be a word
    a.yaml:7: a key must be a word
    a.yaml:7: `spec.prune` must be a boolean, not the text `nope`: write true or false
    a.yaml:8: `spec.ignoreErrors` must be a boolean, not the text `nope`: write true or false
    ");
    assert_eq!(only(&spec("backupFilename: !!str b.tar.gz")).body, only(&spec("")).body);
}

#[test]
fn a_name_that_stands_twice_counts_nowhere() {
    let first = spec("");
    let second = format!("---\n{}", spec("prune: false"));
    let third = spec("").replace("monday", "tuesday");
    let file = |path, content: &'static str| SourceFile { path, blob: "abc", content: content.as_bytes() };
    let leak = |text: String| -> &'static str { text.leak() };
    let tree = Tree::read(
        [file("a.yaml", leak(first)), file("b/c.yaml", leak(second)), file("d.yaml", leak(third))],
        &Limits::default(),
    );
    assert_snapshot!(lines(&tree.problems), @"b/c.yaml:2: Restore monday stands twice, here and at a.yaml:1: neither counts; rename or remove one");
    let left: Vec<_> = tree.manifests().map(|manifest| (manifest.id.name.as_str(), manifest.blob.as_str())).collect();
    assert_eq!(left, [("tuesday", "abc")]);
}

#[test]
fn the_digest_of_a_document_is_over_what_it_says() {
    let digest = |content: &str| only(content).document_digest;
    let plain = digest(&spec("prune: false"));
    let reordered = "# comment\nkind: \"Restore\"\nspec: {prune: false, 'backupFilename': b.tar.gz}\nmetadata:\n    name: monday\napiVersion: resources.cattle.io/v1\n";
    assert_eq!(plain, digest(reordered));
    assert_ne!(plain, digest(&spec("")));
    assert_ne!(plain, digest(&spec("prune: true")));
    assert_snapshot!(plain, @"sha256:0c7787ecf3f5e5639db0515a15a713119c33625175a4eef33274fbdf15d18f3c");
}

/// Parsing must end, and without a panic, on anything: pieces of YAML thrown together, and manifests with damage.
#[test]
fn no_input_makes_the_reader_panic() {
    let pieces = [
        "---\n",
        "...\n",
        "kind: Restore\n",
        "apiVersion: resources.cattle.io/v1\n",
        "metadata: ",
        "spec:\n",
        "  a: ",
        "- ",
        "[",
        "]",
        "{",
        "}",
        "&a ",
        "*a",
        "<<: ",
        "!!str ",
        "!x ",
        "\"",
        "'",
        "|\n",
        ">\n  ",
        ": ",
        "? ",
        ", ",
        "\t",
        "\n",
        "#",
        "%YAML 1.2\n",
        "\u{feff}",
        "\0",
        "é",
        "~",
        "no",
        "0x",
        "  ",
        "@",
        "`",
    ];
    let whole = spec("storageLocation: {s3: &s3 {bucketName: abc, folder: \"x\"}}");
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).expect("it is below a usize")
    };
    for _ in 0..4_000 {
        let random: String = (0..next(30)).map(|_| pieces[next(pieces.len())]).collect();
        let mut damaged = whole.clone().into_bytes();
        for _ in 0..=next(4) {
            let at = next(damaged.len());
            let piece = pieces[next(pieces.len())].bytes();
            damaged.splice(at..at + next(3).min(damaged.len() - at), piece);
        }
        for content in [random.as_bytes(), &damaged] {
            for problem in parse("a.yaml", content, &Limits::default()).problems {
                assert!(problem.at.is_none_or(|at| at.line > 0 && at.column > 0), "{problem:?}");
            }
        }
    }
}

/// What is hard for parsers must not keep the agent from its work. A quarter of the largest file takes half a second
/// at most, unoptimised; a reader that is quadratic takes many minutes.
#[test]
fn large_hostile_files_are_read_in_time() {
    let pieces = [
        "[",
        "{",
        "- ",
        "? ",
        "a: ",
        "&a ",
        "*a ",
        "!x ",
        "\"",
        "'",
        "|\n",
        "a: b\n",
        "- a\n",
        "---\n",
        "[],",
        "{a: b}, ",
        "a\n",
        "#\n",
        "a: &a [*a]\n",
        " ",
        "\n",
        "x",
        "\t",
        "%a\n",
        "[a,",
    ];
    let limits = Limits::default();
    for piece in pieces {
        for start in [
            "apiVersion: resources.cattle.io/v1\nkind: Restore\nspec: [",
            "kind: Restore\napiVersion: resources.cattle.io/v1\n",
        ] {
            let content = start.to_owned() + &piece.repeat(limits.file_bytes / 4 / piece.len());
            let begun = std::time::Instant::now();
            parse("a.yaml", content.as_bytes(), &limits);
            let taken = begun.elapsed();
            assert!(taken < std::time::Duration::from_secs(60), "{piece:?} after {start:?} took {taken:?}");
        }
    }
}
