//! Gates about encrypted entries: real backups of the operator, and copies that somebody changed.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use reinback::backup::{BackupWriter, Encryption};
use reinback::object::{ObjectKey, Resource};
use serde_json::Value;

use super::{Asked, apply, kubectl};
use crate::harness::fixture;
use crate::harness::rancher::{self, Item, Place};
use crate::world::World;

pub const SECRETBOX: &str = "secretbox-6e9ee6a6-d4f2-46c2-bd99-75269cf041dc-2026-11-23T05-58-54Z.tar.gz.enc";
pub const CBC: &str = "aescbc-6e9ee6a6-d4f2-46c2-bd99-75269cf041dc-2026-11-23T05-58-55Z.tar.gz.enc";
pub const GCM: &str = "aesgcm-6e9ee6a6-d4f2-46c2-bd99-75269cf041dc-2026-11-23T05-58-56Z.tar.gz.enc";
/// Of the Secret.
pub const KEY: &str = "encryption-provider-config.yaml";

/// The configuration that a backup of the fixtures was written with.
pub fn configuration(provider: &str) -> String {
    std::fs::read_to_string(fixture(&format!("enc-{provider}.yaml"))).expect("the fixture is there")
}

/// Puts a Secret with this configuration where the operator looks for it.
pub fn install(world: &World, name: &str, key: &str, configuration: &str) {
    // The backup has it; an empty cluster has not.
    let _ = world.cluster.kubectl(&["create", "namespace", "cattle-resources-system"], "");
    let data = BASE64_STANDARD.encode(configuration);
    apply(
        world,
        &format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: cattle-resources-system}}\ndata: {{{key}: {data}}}\n"
        ),
    );
}

/// Copies an encrypted backup of the fixtures into the store, under a name of this cluster.
pub fn store(world: &World, backup: &str) -> String {
    rancher::backup_as_own(world.cluster.uid(), &fixture(backup), &world.store()).expect("the store is ours")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_backup_is_refused_until_its_configuration_is_there_and_right() {
    let world = World::start().await;
    let backups = [SECRETBOX, CBC, GCM].map(|backup| store(&world, backup));
    let ask = Asked::of(&world).backup(&backups[0]);
    let unnamed = ask.plan().await;
    unnamed.assert_held_by(&["DecryptionFailed"]);
    insta::assert_snapshot!(unnamed.message("DecryptionFailed"), @"464 of 464 entries cannot be decrypted, first apps.catalog.cattle.io#v1/cattle-system/fleet-crd.json: it is encrypted by secretbox, and the manifest names no encryption configuration");

    let ask = ask.spec("encryptionConfigSecretName: key");
    let mut said = Vec::new();
    ask.plan().await.assert_held_by(&["DecryptionFailed"]);
    for (key, configuration) in [
        ("", String::new()),
        ("other.yaml", configuration("secretbox")),
        (KEY, "kind: EncryptionConfiguration\n".to_owned()),
        (KEY, configuration("aescbc")),
        (KEY, configuration("secretbox").replace("name: key1", "name: key2")),
        (KEY, configuration("aescbc").replace("aescbc:", "secretbox:")),
    ] {
        if !key.is_empty() {
            kubectl(&world, &["delete", "secret", "-n", "cattle-resources-system", "key", "--ignore-not-found"]);
            install(&world, "key", key, &configuration);
        }
        let refused = ask.plan().await;
        refused.assert_held_by(&["DecryptionFailed"]);
        said.push(refused.message("DecryptionFailed"));
    }
    insta::assert_snapshot!(said.join("\n"), @r"
    the encryption configuration in the Secret cattle-resources-system/key cannot be used: it is not there
    the encryption configuration in the Secret cattle-resources-system/key cannot be used: it has no key `encryption-provider-config.yaml`
    the encryption configuration in the Secret cattle-resources-system/key cannot be used: in `encryption-provider-config.yaml`, the configuration (line 1) has no `apiVersion`
    464 of 464 entries cannot be decrypted, first apps.catalog.cattle.io#v1/cattle-system/fleet-crd.json: it is encrypted by secretbox, and the configuration has no such provider for `apps.catalog.cattle.io` (Secret cattle-resources-system/key)
    464 of 464 entries cannot be decrypted, first apps.catalog.cattle.io#v1/cattle-system/fleet-crd.json: it is encrypted by secretbox, and the configuration has no key named `key1` for it (Secret cattle-resources-system/key)
    464 of 464 entries cannot be decrypted, first apps.catalog.cattle.io#v1/cattle-system/fleet-crd.json: it is encrypted by secretbox, and the key `key1` does not open it: it was written with another key of that name, or changed since, or put under another name (Secret cattle-resources-system/key)
    ");

    for (backup, provider) in backups.iter().zip(["secretbox", "aescbc", "aesgcm"]) {
        install(&world, provider, KEY, &configuration(provider));
        let ask = Asked::of(&world).backup(backup).spec(&format!("encryptionConfigSecretName: {provider}"));
        let planned = ask.plan().await;
        planned.assert_held_by(&[]);
        assert_eq!(planned.count("skipped") + planned.count("protected"), 464, "{:#}", planned.plan["counts"]);
    }
    types_that_the_configuration_leaves_open_may_lie_open(&world).await;
}

async fn types_that_the_configuration_leaves_open_may_lie_open(world: &World) {
    let configuration = configuration("secretbox").replace("\"*.*\"", "secrets, tokens.management.cattle.io");
    install(world, "partly", KEY, &configuration);
    let encryption = Arc::new(Encryption::parse(configuration.as_bytes()).expect("it is one"));
    let name = format!("partly-{}-2026-11-23T05-58-54Z.tar.gz.enc", world.cluster.uid());
    let file = std::fs::File::create(world.store().join(&name)).expect("the store is ours");
    let mut writer = BackupWriter::new(file, Timestamp::UNIX_EPOCH).encrypted_by(encryption);
    for Item { place, object } in &world.items {
        writer.object(&key_of(place), object).expect("written");
    }
    writer.filters(&Value::Object(serde_json::Map::new())).expect("written");
    writer.finish().expect("written");
    let planned = Asked::of(world).backup(&name).spec("encryptionConfigSecretName: partly").plan().await;
    planned.assert_held_by(&[]);
    assert_eq!(planned.count("skipped") + planned.count("protected"), 464, "{:#}", planned.plan["counts"]);
}

fn key_of(place: &Place) -> ObjectKey {
    let resource = Arc::new(Resource::new(&place.group, &place.version, &place.plural));
    ObjectKey::new(&resource, place.namespace.as_deref(), &place.name)
}

/// A copy of the plain backup, encrypted anew; `change` is given the entries with their content as it is written.
fn seal(world: &World, prefix: &str, provider: &str, change: impl FnOnce(&mut Vec<(String, Vec<u8>)>)) -> String {
    let encryption = Encryption::parse(configuration(provider).as_bytes()).expect("the fixture is one");
    let mut entries: Vec<(String, Vec<u8>)> = Vec::new();
    for Item { place, object } in &world.items {
        let key = key_of(place);
        let content = encryption.encrypt(&key, object.to_string().into_bytes()).expect("there are random bytes");
        entries.push((format!("{key}.json"), content));
    }
    change(&mut entries);
    let name = format!("{prefix}-{}-2026-11-23T05-58-54Z.tar.gz.enc", world.cluster.uid());
    world.archive(&name, &entries);
    name
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_that_somebody_swapped_changed_or_put_in_are_noticed() {
    let world = World::start().await;
    for provider in ["secretbox", "aesgcm"] {
        install(&world, provider, KEY, &configuration(provider));
    }
    let ask = |backup: &str, provider: &str| {
        Asked::of(&world).backup(backup).spec(&format!("encryptionConfigSecretName: {provider}"))
    };
    let swap = |entries: &mut Vec<(String, Vec<u8>)>| {
        let secrets: Vec<usize> =
            (0..entries.len()).filter(|at| entries[*at].0.starts_with("secrets.#v1/")).take(2).collect();
        let content = entries[secrets[0]].1.clone();
        entries[secrets[0]].1 = std::mem::replace(&mut entries[secrets[1]].1, content);
    };
    let whole = seal(&world, "whole", "aesgcm", |_| {});
    ask(&whole, "aesgcm").plan().await.assert_held_by(&[]);
    let swapped = ask(&seal(&world, "gcm", "aesgcm", swap), "aesgcm").plan().await;
    swapped.assert_held_by(&["DecryptionFailed"]);
    insta::assert_snapshot!(swapped.message("DecryptionFailed"), @"2 of 464 entries cannot be decrypted, first secrets.#v1/cattle-global-data/c-m-g24lp-agent.json: it is encrypted by aesgcm, and the key `key1` does not open it: it was written with another key of that name, or changed since, or put under another name (Secret cattle-resources-system/aesgcm)");
    let swapped = ask(&seal(&world, "box", "secretbox", swap), "secretbox").plan().await;
    swapped.assert_held_by(&["BackupCorrupt"]);

    let binding = r#"{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRoleBinding","metadata":{"name":"mine"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"cluster-admin"},"subjects":[{"kind":"User","apiGroup":"rbac.authorization.k8s.io","name":"eve"}]}"#;
    let injected = seal(&world, "injected", "secretbox", |entries| {
        let path = "clusterrolebindings.rbac.authorization.k8s.io#v1/mine.json";
        entries.push((path.to_owned(), binding.as_bytes().to_vec()));
    });
    let accepted = ask(&injected, "secretbox").is_accepted("NotEncrypted").await;
    insta::assert_snapshot!(accepted.message("NotEncrypted"), @"the encryption configuration of the manifest encrypts every object of their types, and these lie open: clusterrolebindings.rbac.authorization.k8s.io#v1/mine; whoever can write to the store can have put them there");
    assert_eq!(accepted.count("created"), 1);
}
