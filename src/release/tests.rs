use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;

use super::*;

fn gzipped(json: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(json).unwrap();
    gzip.finish().unwrap()
}

fn in_secret(name: &str, data: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"release": data}})
}

fn secret_of(json: &[u8]) -> Value {
    in_secret("sh.helm.release.v1.rancher.v2", &BASE64.encode(BASE64.encode(gzipped(json))))
}

/// A release of Rancher as JSON. `more` goes over it.
fn release(number: u64, version: &str, status: &str, more: &Value) -> Value {
    let mut value = json!({
        "name": "rancher", "namespace": "cattle-system", "version": number,
        "info": {"status": status, "description": "Upgrade complete", "notes": "x"},
        "chart": {"metadata": {"name": "rancher", "version": version, "appVersion": format!("v{version}"), "kubeVersion": "< 1.37.0-0"}},
        "manifest": "",
    });
    for (field, value_of_it) in more.as_object().unwrap() {
        value[field] = value_of_it.clone();
    }
    value
}

fn secret(number: u64, version: &str, status: &str, more: &Value) -> Value {
    secret_of(release(number, version, status, more).to_string().as_bytes())
}

fn revision_of(number: u64, manifest: &str) -> Revision {
    read(&secret(number, "2.9.3", "deployed", &json!({"manifest": manifest}))).unwrap()
}

const MANIFEST: &str = r#"---
# Source: rancher/templates/serviceaccount.yaml
kind: ServiceAccount
apiVersion: v1
metadata: {name: rancher, labels: {app: rancher, app: twice}}
---
# Source: rancher/templates/nothing.yaml
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: rancher
  annotations: {"helm.sh/resource-policy": " KEEP "}
spec:
  replicas: 3
  template:
    spec:
      containers:
      - image: rancher/rancher:v2.9.3
        name: rancher
      - image: rancher/mirrored-bci-micro:15
        name: audit
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: ConfigMap, metadata: {name: one, namespace: elsewhere}}
- {apiVersion: apps/v1, kind: Deployment, metadata: {name: rancher, namespace: elsewhere}, spec: {replicas: 9}}
"#;

#[test]
fn a_revision_is_read_in_every_encoding() {
    let json = release(7, "2.9.3", "superseded", &json!({"apply_method": "ssa", "config": {"replicas": 3}}));
    let json = json.to_string().into_bytes();
    let zipped = BASE64.encode(gzipped(&json));
    let plain = BASE64.encode(&json);
    let expected = read(&secret_of(&json)).unwrap();
    assert_eq!((expected.number, expected.status, expected.was_deployed), (7, Status::Superseded, true));
    assert_eq!(expected.chart_version, "2.9.3");
    assert_eq!(expected.version(), Some(Version::new(2, 9, 3)));
    assert_eq!(expected.kube_version.as_deref(), Some("< 1.37.0-0"));
    assert!(expected.server_side);
    assert_eq!(expected.values.as_ref().map(Values::expose), Some(r#"{"replicas":3}"#));
    for data in [zipped.clone(), plain.clone(), BASE64.encode(zipped), BASE64.encode(plain)] {
        assert_eq!(read(&in_secret("x", &data)).as_ref(), Ok(&expected));
    }
}

#[test]
fn a_manifest_says_which_objects_there_are_and_what_its_deployments_look_like() {
    let revision = revision_of(1, MANIFEST);
    let objects: Vec<_> = revision
        .objects
        .iter()
        .map(|object| (object.kind.as_str(), object.namespace.as_deref(), object.name.as_str(), object.keep))
        .collect();
    assert_eq!(
        objects,
        [
            ("ServiceAccount", None, "rancher", false),
            ("Deployment", None, "rancher", true),
            ("ConfigMap", Some("elsewhere"), "one", false),
            ("Deployment", Some("elsewhere"), "rancher", false),
        ]
    );
    assert_eq!(revision.replicas("rancher"), Some(3));
    assert_eq!(revision.image("rancher"), Some("rancher/rancher:v2.9.3"));
    assert_eq!(revision.replicas("other"), None);
}

#[test]
fn values_and_descriptions_are_not_printed() {
    let failed = json!({"status": "failed", "description": "Upgrade \"rancher\" failed: hunter2"});
    let revision =
        read(&secret(3, "2.9.3", "failed", &json!({"info": failed, "config": {"password": "hunter3"}}))).unwrap();
    let shown = format!("{revision:?}");
    assert!(!shown.contains("hunter"), "{shown}");
    assert!(revision.values.is_some());
}

#[test]
fn what_helm_did_not_write_is_unread_and_said_without_its_content() {
    let told = |secret: &Value| read(secret).unwrap_err().to_string();
    insta::assert_snapshot!(told(&json!({})), @" is not a Helm release that can be read: it has no `data.release`");
    insta::assert_snapshot!(told(&in_secret("a.v3", "%%")), @"a.v3 is not a Helm release that can be read: it is not base64");
    insta::assert_snapshot!(told(&in_secret("a", "aGk=")), @"a is not a Helm release that can be read: what it holds is neither base64, gzip nor JSON");
    insta::assert_snapshot!(told(&secret_of(b"[]")), @"sh.helm.release.v1.rancher.v2 is not a Helm release that can be read: its JSON is not that of a release");
    insta::assert_snapshot!(told(&secret_of(b"{}")), @"sh.helm.release.v1.rancher.v2 is not a Helm release that can be read: it has no name or no number");
    let cut = BASE64.encode(&gzipped(b"{}")[..12]);
    insta::assert_snapshot!(told(&in_secret("a", &cut)), @"a is not a Helm release that can be read: its gzip is broken");
    for manifest in ["a: [", "kind: ConfigMap", "- a", "\tx"] {
        let unread = read(&secret(2, "2.9.3", "deployed", &json!({"manifest": manifest})));
        assert!(unread.is_err(), "{manifest:?}");
    }
    assert_eq!(read(&in_secret("sh.helm.release.v1.rancher.v12", "%%")).unwrap_err().number, Some(12));
}

#[test]
fn a_release_that_unpacks_to_more_than_it_may_is_not_read() {
    let mut huge = release(1, "2.9.3", "deployed", &json!({})).to_string().into_bytes();
    huge.pop();
    huge.extend_from_slice(b",\"x\":\"");
    huge.resize(huge.len() + 33 * (1 << 20), b'a');
    huge.extend_from_slice(b"\"}");
    insta::assert_snapshot!(read(&secret_of(&huge)).unwrap_err(), @"sh.helm.release.v1.rancher.v2 is not a Helm release that can be read: it unpacks to more than 32 MiB");
    let many = "kind: A\napiVersion: v1\nmetadata: {name: a}\n---\n".repeat(4097);
    assert!(read(&secret(1, "2.9.3", "deployed", &json!({"manifest": many}))).is_err());
    let listed = format!("kind: List\nitems:\n{}", "- {kind: A, apiVersion: v1, metadata: {name: a}}\n".repeat(8193));
    assert!(read(&secret(1, "2.9.3", "deployed", &json!({"manifest": listed}))).is_err());
}

#[test]
fn the_newest_revision_says_the_version_by_number_and_not_by_letters() {
    let all = [secret(9, "2.9.2", "deployed", &json!({})), secret(10, "2.9.3", "deployed", &json!({}))];
    assert_eq!(History::read(&all).newest().map(|revision| revision.app_version.as_str()), Some("v2.9.3"));
}

fn info(status: &str, description: &str) -> Value {
    json!({"info": {"status": status, "description": description}})
}

#[test]
fn only_what_was_once_deployed_is_gone_back_to() {
    let history = History::read(&[
        secret(8, "2.9.3", "failed", &json!({})),
        secret(1, "2.9.3", "superseded", &json!({})),
        secret(2, "2.10.1", "superseded", &json!({"config": {"a": 1}})),
        // A rollback that failed after it has called it superseded.
        secret(3, "2.9.3", "superseded", &info("superseded", "Preparing upgrade")),
        secret(4, "2.9.3", "superseded", &info("superseded", "Upgrade \"rancher\" failed: no")),
        secret(5, "2.9.3", "superseded", &info("superseded", "Rollback \"rancher\" failed: no")),
        secret(6, "2.9.3", "failed", &json!({"config": {"a": 2}})),
        secret(7, "2.9.3", "unheard-of", &json!({})),
        in_secret("sh.helm.release.v1.rancher.v9", "%%"),
    ]);
    let number = |revision: Option<&Revision>| revision.map(|revision| revision.number);
    assert_eq!(number(history.newest_of(&Version::new(2, 9, 3))), Some(1));
    assert_eq!(number(history.newest_of(&Version::new(2, 9, 2))), None);
    assert_eq!(number(history.deployed()), Some(2));
    assert_eq!(number(history.newest()), Some(8));
    assert_eq!(number(history.newest_with_values()), Some(2));
    assert_eq!(history.get(7).map(|revision| revision.status), Some(Status::Unknown));
    assert_eq!(history.unread.iter().map(|unread| unread.number).collect::<Vec<_>>(), [Some(9)]);
}

#[test]
fn a_pending_revision_counts_where_it_is_the_newest_and_says_what_it_goes_back_to() {
    let pending = info("pending-rollback", "Rollback to 1");
    let mut all = vec![secret(2, "2.10.1", "deployed", &json!({})), secret(3, "2.9.3", "", &pending)];
    let history = History::read(&all);
    assert_eq!(history.pending().map(|revision| (revision.number, revision.rollback_to)), Some((3, Some(1))));
    all.push(secret(4, "2.9.3", "deployed", &info("deployed", "Rollback to 1")));
    assert_eq!(History::read(&all).pending(), None);
    let by_field = json!({"info": {"status": "pending-rollback", "description": "mine", "rollback_revision": 5}});
    assert_eq!(read(&secret(7, "2.9.3", "", &by_field)).unwrap().rollback_to, Some(5));
}

fn config_maps(names: &[&str]) -> String {
    let each = |name: &&str| format!("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\n");
    names.iter().map(each).collect()
}

#[test]
fn leftovers_are_what_any_newer_revision_has_and_the_target_has_not() {
    let secrets = [
        secret(1, "2.9.3", "superseded", &json!({"manifest": config_maps(&["both", "older"])})),
        secret(2, "2.10.1", "superseded", &json!({"manifest": config_maps(&["both", "newer", "kept-later"])})),
        secret(
            3,
            "2.10.2",
            "superseded",
            &json!({"manifest": concat!(
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: kept-later, annotations: {helm.sh/resource-policy: keep}}\n---\n",
                "apiVersion: v2\nkind: ConfigMap\nmetadata: {name: both, namespace: cattle-system}\n---\n",
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: both, namespace: other}\n",
            )}),
        ),
        // Tried and failed: it has what its target has.
        secret(4, "2.9.3", "failed", &json!({"manifest": config_maps(&["both", "older"])})),
    ];
    let history = History::read(&secrets);
    let target = history.get(1).unwrap();
    let names = |objects: Vec<ReleaseObject>| {
        objects
            .into_iter()
            .map(|object| format!("{}/{}", object.namespace.unwrap_or_default(), object.name))
            .collect::<Vec<_>>()
    };
    assert_eq!(names(history.leftovers(2, target)), ["other/both", "/newer"]);
    assert_eq!(names(leftovers(history.get(2).unwrap(), target)), ["/newer", "/kept-later"]);
    assert_eq!(names(leftovers(history.get(4).unwrap(), target)), [""; 0]);
}

#[test]
fn a_range_takes_the_versions_that_helm_takes() {
    // `tests/it/helm.rs` asks real helm the same.
    let table = include_str!("../../tests/fixtures/kube_versions.txt");
    let (versions, table) = table.split_once("\n* ").and_then(|(_, table)| table.split_once('\n')).unwrap();
    for (range, takes) in table.lines().map(|line| line.split_once('\t').unwrap()) {
        let ours = range.parse::<Constraint>();
        let ours = versions.split(' ').filter(|version| ours.as_ref().is_ok_and(|range| range.takes(version)));
        assert_eq!(ours.collect::<Vec<_>>().join(" "), takes, "{range:?}");
    }
    let long = "1".repeat(513);
    let groups = ["1"; 33].join("||");
    for text in
        [long.as_str(), groups.as_str(), "", "||", "1 ||", "a", ">", "1,", "1,,2", ">=1<2", "1.2.3.4", "1 - ", "1x"]
    {
        assert_eq!(text.parse::<Constraint>(), Err(NotAConstraint), "{text:?}");
    }
}
