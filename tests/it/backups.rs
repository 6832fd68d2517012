//! `reinback backups`, through the binary.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};

use flate2::read::GzDecoder;
use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::harness::rancher;
use crate::harness::{REINBACK, fixture, temp_dir};
use crate::world::{PLAIN, Said, World};

const LARGE: &str = "large-56488071-5e68-44dd-b5a1-2f0f8091f490-2026-11-23T05-59-47Z.tar.gz";

/// The binary on a folder of backups, without a cluster.
fn says(store: &Path, args: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(REINBACK);
    command.arg("backups").args(args).arg("--store-directory").arg(store).env_clear().stdin(Stdio::null());
    let output = command.output().expect("it starts");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("it is text");
    let errors: String = text(&output.stderr).lines().map(|line| format!("! {line}\n")).collect();
    let said = format!("{}{errors}", text(&output.stdout)).replace(&store.display().to_string(), "<store>");
    (output.status.code(), said)
}

/// Lines but those that tell how long ago something was.
fn without_ages(text: &str) -> String {
    text.lines().filter(|line| !line.starts_with("Taken")).map(|line| format!("{line}\n")).collect()
}

#[test]
fn backups_are_listed_shown_and_verified_without_a_cluster() {
    let store = temp_dir();
    for name in [PLAIN, LARGE] {
        std::fs::copy(fixture(name), store.path().join(name)).expect("a copy");
    }
    let whole = std::fs::read(fixture(PLAIN)).expect("the fixture");
    std::fs::write(store.path().join("cut.tar.gz"), &whole[..whole.len() / 2]).expect("it is ours");
    let (code, listed) = says(store.path(), &["ls", "-o", "json"]);
    assert_eq!(code, Some(0));
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    let names: BTreeSet<&str> =
        listed["backups"].as_array().expect("a list").iter().filter_map(|one| one["name"].as_str()).collect();
    assert_eq!(names, BTreeSet::from([PLAIN, LARGE, "cut.tar.gz"]));
    let (code, long) = says(store.path(), &["ls", "--long"]);
    assert_eq!(code, Some(1), "{long}");
    assert!(long.lines().any(|line| line.contains("464      v2.9.3   no         plain-")), "{long}");
    assert!(long.lines().any(|line| line.contains("broken") && line.ends_with("cut.tar.gz")), "{long}");

    let (code, shown) = says(store.path(), &["show", PLAIN]);
    assert_eq!(code, Some(0));
    assert_snapshot!(without_ages(&shown), @r"
    Backup:    plain-6e9ee6a6-d4f2-46c2-bd99-75269cf041dc-2026-11-23T05-58-54Z.tar.gz
    Size:      42.1 KiB, 861.0 KiB unpacked
    Digest:    sha256:d29963c6a89716d46e8df4b10aade9277c4f5748753b6eeff9be17a61f797144
    Cluster:   6e9ee6a6-d4f2-46c2-bd99-75269cf041dc (UID of kube-system)
    Rancher:   v2.9.3 at https://rancher.example.org
    Encrypted: no
    Objects:   464
      apps.catalog.cattle.io#v1                                  4
      clusterrepos.catalog.cattle.io#v1                          3
      clusterrolebindings.rbac.authorization.k8s.io#v1          12
      clusterroles.rbac.authorization.k8s.io#v1                 52
      clusterroletemplatebindings.management.cattle.io#v3       12
      clusters.fleet.cattle.io#v1alpha1                          2
      clusters.management.cattle.io#v3                           2
      clusters.provisioning.cattle.io#v1                         2
      customresourcedefinitions.apiextensions.k8s.io#v1         20
      deployments.apps#v1                                        3
      features.management.cattle.io#v3                          20
      globalrolebindings.management.cattle.io#v3                12
      globalroles.management.cattle.io#v3                        8
      machines.cluster.x-k8s.io#v1beta2                         10
      namespaces.#v1                                            28
      nodes.management.cattle.io#v3                             10
      preferences.management.cattle.io#v3                       12
      projectroletemplatebindings.management.cattle.io#v3       20
      projects.management.cattle.io#v3                           4
      rolebindings.rbac.authorization.k8s.io#v1                 32
      roletemplates.management.cattle.io#v3                     30
      secrets.#v1                                               23
      serviceaccounts.#v1                                        1
      settings.management.cattle.io#v3                         106
      tokens.management.cattle.io#v3                            12
      userattributes.management.cattle.io#v3                    12
      users.management.cattle.io#v3                             12

    Selectors of the ResourceSet rancherlike:
      apiextensions.k8s.io/v1; kinds matching .; names matching (management|provisioning|fleet|catalog)\.cattle\.io$|cluster\.x-k8s\.io$
      v1; kinds namespaces; names matching ^cattle-|^c-|^p-|^u-|^user-|^fleet-|^local$
      v1; kinds matching ^secrets$; names not matching ^bootstrap-secret$; in namespaces matching ^cattle-|^c-|^p-|^u-|^user-|^fleet-|^local$; with labels as selected
      v1; kinds matching ^serviceaccounts$; in cattle-system
      management.cattle.io/v3; kinds matching .; but not tokens
      management.cattle.io/v3; kinds matching ^tokens$; names not matching ^provisioning
      provisioning.cattle.io/v1; kinds matching .
      fleet.cattle.io/v1alpha1; kinds matching .
      catalog.cattle.io/v1; kinds matching ^clusterrepos$|^apps$
      cluster.x-k8s.io/v1beta2; kinds matching .
      rbac.authorization.k8s.io/v1; kinds matching ^roles$|^rolebindings$; in namespaces matching ^cattle-|^c-|^p-|^fleet-
      rbac.authorization.k8s.io/v1; kinds matching ^clusterrolebindings$; names matching ^cattle-|^globaladmin-|^crb-
      rbac.authorization.k8s.io/v1; kinds matching ^clusterroles$; names matching ^cattle-|^c-|^p-|^rt-|^local-
      apps/v1; kinds matching ^deployments$; named rancher-webhook, fleet-controller, gitjob; in cattle-system, cattle-fleet-system
    Scaled down while it is restored: deployments/cattle-system/rancher
    ");
    let (code, verified) = says(store.path(), &["verify", "--all"]);
    assert_eq!(code, Some(1));
    assert_snapshot!(verified, @r"
    cut.tar.gz: cannot be restored
      problem: the backup ends early, after 432128 unpacked bytes
    large-56488071-5e68-44dd-b5a1-2f0f8091f490-2026-11-23T05-59-47Z.tar.gz: whole, 8,686 objects
    plain-6e9ee6a6-d4f2-46c2-bd99-75269cf041dc-2026-11-23T05-58-54Z.tar.gz: whole, 464 objects
    ");
    let (code, missing) = says(store.path(), &["show", "nothing.tar.gz"]);
    assert_eq!(code, Some(1));
    assert_snapshot!(missing, @"! reinback: backup nothing.tar.gz is not in directory <store>: see backupFilename and the storage location");
}

#[test]
fn a_store_is_asked_for_when_none_is_said() {
    let output =
        Command::new(REINBACK).args(["backups", "ls"]).env_clear().stdin(Stdio::null()).output().expect("it starts");
    assert_eq!(output.status.code(), Some(1));
    assert_snapshot!(String::from_utf8_lossy(&output.stderr), @"reinback: configuration: `store` is missing: give `--config` with a `store`, or `--store-directory`, or `--store-s3-bucket-name` and what it needs");
}

/// A copy of the plain fixture in `store`, its entries changed.
fn repacked(store: &Path, name: &str, change: impl FnOnce(&mut BTreeMap<String, Value>)) {
    let mut entries = BTreeMap::new();
    for (path, content) in entries_of(&fixture(PLAIN)) {
        entries.insert(path, serde_json::from_slice(&content).expect("JSON"));
    }
    change(&mut entries);
    let file = std::fs::File::create(store.join(name)).expect("it is ours");
    let mut writer = reinback::backup::BackupWriter::new(file, jiff::Timestamp::UNIX_EPOCH);
    for (path, value) in entries {
        writer.entry(&path, value.to_string().as_bytes()).expect("written");
    }
    writer.finish().expect("written");
}

/// Path and content of the files of a backup, in order.
fn entries_of(path: &Path) -> Vec<(String, Vec<u8>)> {
    let file = std::fs::File::open(path).expect("it is there");
    let mut entries = Vec::new();
    for entry in tar::Archive::new(GzDecoder::new(file)).entries().expect("an archive") {
        let mut entry = entry.expect("an entry");
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("it can be read");
        if entry.header().entry_type().is_file() {
            entries.push((entry.path().expect("a path").to_string_lossy().into_owned(), content));
        }
    }
    entries
}

const SETTING: &str = "settings.management.cattle.io#v3/server-url.json";

#[test]
fn two_backups_are_compared_by_paths_and_an_object_is_followed_through_all() {
    let store = temp_dir();
    std::fs::copy(fixture(PLAIN), store.path().join(PLAIN)).expect("a copy");
    let later = "later-6e9ee6a6-d4f2-46c2-bd99-75269cf041dc-2026-11-24T05-58-54Z.tar.gz";
    let secret = "secrets.#v1/cattle-system/hidden.json";
    let hidden = |word: &str| {
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hidden", "namespace": "cattle-system"},
            "data": {"same": "c2FtZQ==", word: "aHVudGVyMg==", "password": word}})
    };
    let before = "before-6e9ee6a6-d4f2-46c2-bd99-75269cf041dc-2026-11-22T05-58-54Z.tar.gz";
    repacked(store.path(), before, |entries| drop(entries.insert(secret.to_owned(), hidden("b25l"))));
    repacked(store.path(), later, |entries| {
        entries.insert(secret.to_owned(), hidden("dHdv"));
        entries.get_mut(SETTING).expect("the fixture has it")["value"] = json!("https://other.example.org");
        entries.remove("settings.management.cattle.io#v3/install-uuid.json");
    });
    let (code, same) = says(store.path(), &["diff", PLAIN, PLAIN]);
    assert_eq!(code, Some(0), "{same}");
    let (code, differs) = says(store.path(), &["diff", before, later]);
    assert_eq!(code, Some(2));
    assert_snapshot!(differs, @r"
    before-6e9ee6a6-d4f2-46c2-bd99-75269cf041dc-2026-11-22T05-58-54Z.tar.gz -> later-6e9ee6a6-d4f2-46c2-bd99-75269cf041dc-2026-11-24T05-58-54Z.tar.gz

    removed (1):
      settings.management.cattle.io#v3/install-uuid

    changed (2):
      secrets.#v1/cattle-system/hidden
        data.b25l: removed
        data.password: changed
        data.dHdv: added
      settings.management.cattle.io#v3/server-url
        value: changed

    462 are equal
    ");
    let (_, json) = says(store.path(), &["diff", before, later, "-o", "json"]);
    for word in ["aHVudGVyMg", "\"b25l\"", "other.example.org", "sha256"] {
        assert!(!json.contains(word), "{word} in {json}");
    }
    let (code, found) = says(store.path(), &["find", "settings.management.cattle.io/server-ur?"]);
    assert_eq!(code, Some(0));
    assert_snapshot!(found, @r"
    settings.management.cattle.io/server-url
      2026-11-22 05:58:54  there      before-6e9ee6a6-d4f2-46c2-bd99-75269cf041dc-2026-11-22T05-58-54Z.tar.gz
      2026-11-23 05:58:54  same       plain-6e9ee6a6-d4f2-46c2-bd99-75269cf041dc-2026-11-23T05-58-54Z.tar.gz
      2026-11-24 05:58:54  changed    later-6e9ee6a6-d4f2-46c2-bd99-75269cf041dc-2026-11-24T05-58-54Z.tar.gz
    ");
    let (_, gone) = says(store.path(), &["find", "settings.management.cattle.io/install-uuid", "-o", "json"]);
    let gone: Value = serde_json::from_str(&gone).expect("JSON");
    let states: Vec<&Value> =
        gone["objects"][0]["backups"].as_array().expect("a list").iter().map(|one| &one["state"]).collect();
    assert_eq!(states, ["first", "same", "gone"]);
    let (code, none) = says(store.path(), &["find", "secrets/nowhere/*"]);
    assert_eq!(
        (code, none.as_str()),
        (Some(1), "! reinback: no backup in directory <store> holds secrets/nowhere/*\n")
    );
}

/// What may differ between what the operator saved of another cluster and we of this one: what the server sets, the UIDs of owners, and the
/// status of Kubernetes' own types, which its controllers say anew.
fn comparable(path: &str, mut object: Value) -> Value {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        for field in ["managedFields", "generation"] {
            metadata.remove(field);
        }
        for owner in metadata.get_mut("ownerReferences").and_then(Value::as_array_mut).into_iter().flatten() {
            owner["uid"] = Value::Null;
        }
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove("deployment.kubernetes.io/revision");
        }
    }
    let is_own =
        ["customresourcedefinitions.", "deployments.apps#", "namespaces.#"].iter().any(|of| path.starts_with(of));
    if let (true, Some(object)) = (is_own, object.as_object_mut()) {
        object.remove("status");
    }
    object
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_cluster_is_backed_up_as_the_operator_did_entry_by_entry() {
    let world = World::start().await;
    let theirs = entries_of(&fixture(PLAIN));
    let (_, filters) = theirs.iter().find(|(path, _)| path == "filters/filters.json").expect("the fixture has filters");
    let set = world.folder().join("set.json");
    std::fs::write(&set, filters).expect("the folder is ours");
    let set = set.display().to_string();
    let said: Said =
        world.reinback(&["backups", "create", "--resource-set", &set, "--prefix", "ours", "-o", "json"]).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    let told: Value = serde_json::from_str(&said.stdout).expect("JSON");
    assert_eq!(told["notes"], json!([]), "one state for all lists");
    let name = told["name"].as_str().expect("a name");
    assert!(name.starts_with(&format!("ours-{}-", world.cluster.uid())), "{name}");
    let path = world.store().join(name);
    let ours = entries_of(&path);
    let paths = |entries: &[(String, Vec<u8>)]| entries.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>();
    let (our_paths, their_paths): (BTreeSet<_>, BTreeSet<_>) =
        (paths(&ours).into_iter().collect(), paths(&theirs).into_iter().collect());
    let missing: Vec<_> = their_paths.difference(&our_paths).collect();
    let more: Vec<_> = our_paths.difference(&their_paths).collect();
    assert_eq!(missing, Vec::<&String>::new());
    // The controller manager of this cluster makes what the operator's had none for.
    assert_eq!(more, ["serviceaccounts.#v1/cattle-system/default.json"]);
    let ours: Vec<_> = ours.into_iter().filter(|(path, _)| their_paths.contains(path)).collect();
    assert_eq!(paths(&ours), paths(&theirs), "the same order");
    let theirs: BTreeMap<_, _> = theirs.into_iter().collect();
    let mut equal = 0;
    for (path, content) in &ours {
        let value = |content: &[u8]| serde_json::from_slice::<Value>(content).expect("JSON");
        let (our, their) = (value(content), value(&theirs[path]));
        assert_eq!(comparable(path, our), comparable(path, their), "{path}");
        equal += usize::from(*content == theirs[path]);
    }
    println!("{equal} of {} entries are the same bytes", ours.len());
    let unchanged = world.reinback(&["backups", "diff", name, "--cluster"]).await;
    assert_eq!(unchanged.code, Some(0), "{unchanged:?}");
    let items = rancher::read(&path).expect("a backup");
    assert_eq!(items.len(), world.items.len() + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_compared_with_the_cluster() {
    let world = World::start().await;
    let args = [
        "patch",
        "settings.management.cattle.io",
        "server-url",
        "--type=merge",
        "-p",
        r#"{"value":"https://new.example.org"}"#,
    ];
    world.cluster.kubectl(&args, "").expect("patched");
    world.cluster.kubectl(&["create", "namespace", "cattle-new"], "").expect("created");
    let said = world.reinback(&["backups", "diff", &world.backup, "--cluster", "-o", "json"]).await;
    assert_eq!(said.code, Some(2), "{said:?}");
    let told: Value = serde_json::from_str(&said.stdout).expect("JSON");
    let changed = told["changed"].as_array().expect("a list");
    let is_only_status = |one: &&Value| {
        let mut fields = one["fields"].as_array().expect("a list").iter();
        fields.all(|field| field["path"].as_str().is_some_and(|path| path == "status" || path.starts_with("status.")))
    };
    let changed: Vec<&Value> = changed.iter().filter(|one| !is_only_status(one)).collect();
    let setting = json!({
        "object": "settings.management.cattle.io#v3/server-url", "fields": [{"path": "value", "how": "changed"}],
    });
    assert_eq!(changed, [&setting]);
    assert!(told["added"].as_array().expect("a list").contains(&json!("namespaces.#v1/cattle-new")), "{told:#}");
}
