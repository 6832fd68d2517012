//! Safety backups: made before the first change, whole, and dropped when nobody needs them.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use flate2::read::GzDecoder;
use serde_json::{Value, json};

use crate::gates::encryption;
use crate::harness::rancher;
use crate::process::run_of;
use crate::s3_server::S3Server;
use crate::world::World;

fn safety_files(world: &World) -> Vec<String> {
    let entries = std::fs::read_dir(world.store()).expect("the store is there");
    let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name.starts_with("reinback-safety-")).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_restore_changes_is_in_the_store_as_it_was_before_the_first_change() {
    let world = World::start().await;
    world.settle().await;
    let url = |url: &str| {
        let patch = json!({ "value": url }).to_string();
        world
            .cluster
            .kubectl(&["patch", "settings.management.cattle.io", "server-url", "--type=merge", "-p", &patch], "")
    };
    url("https://before.example.org").expect("patched");
    world.cluster.kubectl(&["create", "namespace", "cattle-newer"], "").expect("created");
    world.commit_restore("back", &[("accept", "VersionMismatch, DifferentServerUrl, PruneShare")], "  prune: true\n");
    let said = world.once().await;
    assert_eq!(said.code, Some(0), "{said:?}");
    let run = run_of(&world, "back").await.expect("a run");
    let files = safety_files(&world);
    let told = &run["status"]["safetyBackup"];
    assert_eq!(json!(files), json!([told["name"]]), "{}", run["status"]);
    let prefix =
        format!("reinback-safety-{}-{}-", run["metadata"]["name"].as_str().expect("a name"), world.cluster.uid());
    assert!(files[0].starts_with(&prefix), "{files:?}");
    let items = rancher::read(&world.store().join(&files[0])).expect("a whole backup");
    assert_eq!(told["objects"], items.len());
    let of =
        |plural: &str, name: &str| items.iter().find(|item| item.place.plural == plural && item.place.name == name);
    assert_eq!(of("settings", "server-url").expect("it is named").object["value"], "https://before.example.org");
    assert!(of("namespaces", "cattle-newer").is_some(), "what the prune deleted");
    let steps: Vec<&Value> =
        run["status"]["steps"].as_array().expect("steps").iter().map(|step| &step["step"]).collect();
    assert_eq!(steps[2..5], ["Quiesce", "SafetyBackup", "Crds"]);
    assert!(world.dashboard().contains(&files[0]), "{}", world.dashboard());
    // It is a backup as any other.
    let verified = world.reinback(&["backups", "verify", &files[0]]).await;
    assert_eq!(verified.code, Some(0), "{verified:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_takes_nothing_holds_a_run_unless_safety_backups_are_off() {
    let server = S3Server::plain();
    let world = World::start().await;
    world.settle().await;
    let location = server.bucket("safety");
    let reader = server.reader("safety").await;
    server.place("safety", &world.backup, &std::fs::read(world.store().join(&world.backup)).expect("the backup"));
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "reader", "namespace": "cattle-resources-system"},
        "stringData": {
            "accessKey": secrecy::ExposeSecret::expose_secret(&reader.access_key),
            "secretKey": secrecy::ExposeSecret::expose_secret(&reader.secret_key),
        },
    });
    world.cluster.kubectl(&["apply", "-f", "-"], &secret.to_string()).expect("the Secret is taken");
    let spec = format!(
        "  storageLocation: {{s3: {{endpoint: \"{}\", bucketName: safety, credentialSecretName: reader}}}}\n",
        location.endpoint.expect("an endpoint")
    );
    let scalings = world.scalings();
    world.commit_change("back", &[("accept", "VersionMismatch")], &spec);
    let said = world.once().await;
    assert_eq!(said.code, Some(3), "{said:?}");
    let run = run_of(&world, "back").await.expect("a run");
    assert_eq!(run["status"]["gates"][0]["code"], "StoreNotWritable", "{}", run["status"]);
    assert_eq!(world.scalings(), scalings);
    let said = world.reinback(&["agent", "--once", "--policy-safety-backup", "false"]).await;
    assert_eq!(said.code, Some(0), "{said:?} {:?}", world.runs().await);
    assert_eq!(run_of(&world, "back").await.expect("a run")["status"]["safetyBackup"], Value::Null);
}

/// Content by path of the files in an archive, but the filters.
fn entries(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let file = std::fs::File::open(path).expect("it is there");
    let mut entries = BTreeMap::new();
    for entry in tar::Archive::new(GzDecoder::new(file)).entries().expect("an archive") {
        let mut entry = entry.expect("an entry");
        let path = entry.path().expect("a path").to_string_lossy().into_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("it can be read");
        if entry.header().entry_type().is_file() && path != reinback::backup::FILTERS {
            entries.insert(path, content);
        }
    }
    entries
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_encrypted_restore_changes_is_saved_encrypted_by_the_same_key() {
    let world = World::start().await;
    world.settle().await;
    let backup = encryption::store(&world, encryption::GCM);
    encryption::install(&world, "key", encryption::KEY, &encryption::configuration("aesgcm"));
    let (secret, word) = ("secrets.#v1/cattle-system/of-before", "hunter2-before");
    let args =
        ["create", "secret", "generic", "-n", "cattle-system", "of-before", &format!("--from-literal=word={word}")];
    world.cluster.kubectl(&args, "").expect("created");
    let accept = ("accept", "VersionMismatch, PruneShare");
    world.commit_restore_of(&backup, "back", &[accept], "  prune: true\n  encryptionConfigSecretName: key\n");
    let said = world.once().await;
    assert_eq!(said.code, Some(0), "{}\n{:?}", said.stderr, world.runs().await);
    let [file] = &safety_files(&world)[..] else { panic!("{:?}", safety_files(&world)) };
    assert!(file.ends_with(".tar.gz.enc"), "{file}");
    let told = &run_of(&world, "back").await.expect("a run")["status"]["safetyBackup"];
    let entries = entries(&world.store().join(file));
    assert_eq!((&told["name"], &told["objects"]), (&json!(file), &json!(entries.len())));
    let open: Vec<&String> = entries.iter().filter(|(_, content)| content[0] != b'"').map(|(path, _)| path).collect();
    assert_eq!(open, [] as [&String; 0]);

    // It is what is asked of an encrypted backup, and undoes what the restore did: the Secret was pruned.
    assert!(entries.contains_key(&format!("{secret}.json")), "the prune took it");
    let key = world.folder().join("key.yaml");
    std::fs::write(&key, encryption::configuration("aesgcm")).expect("the folder is ours");
    let key = key.display().to_string();
    let verified = world.reinback(&["backups", "verify", file, "--encryption-config", &key]).await;
    assert_eq!(verified.code, Some(0), "{verified:?}");
    let get =
        ["get", "secret", "-n", "cattle-system", "of-before", "-o", "jsonpath={.data.word}", "--ignore-not-found"];
    assert_eq!(world.cluster.kubectl(&get, "").expect("answered"), "");
    world.commit_restore_of(file, "undo", &[accept], "  prune: true\n  encryptionConfigSecretName: key\n");
    let said = world.once().await;
    assert_eq!(said.code, Some(0), "{}\n{:?}", said.stderr, world.runs().await);
    let back = world.cluster.kubectl(&get, "").expect("answered");
    assert_eq!(back, base64::Engine::encode(&base64::prelude::BASE64_STANDARD, word));
}
