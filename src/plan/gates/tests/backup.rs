//! The backup itself: there, whole, opened, the one that was meant.

use super::*;

#[test]
fn a_backup_that_is_not_there_is_refused() {
    let mut world = world(|world| {
        world.seen = Some(BackupSeen::Missing { place: "bucket `backups`, folder `rancher/`".to_owned() })
    });
    assert_snapshot!(held(&world), @r"
    BackupNotFound: there is no backup `daily-6e9ee6a6-d4f2-46c2-bd99-75269cf041dc-2026-11-22T09-00-00Z.tar.gz` in bucket `backups`, folder `rancher/`
    -> put the file there, or correct `backupFilename` or `storageLocation` in the manifest
    ");
    world.seen = None;
    assert!(is_free(&world));
}

#[test]
fn a_corrupt_backup_is_refused() {
    let message = "entry `users.management.cattle.io#v3/u-1.json` ends early".to_owned();
    let mut world = world(|world| world.seen = Some(BackupSeen::Corrupt { message }));
    assert_snapshot!(held(&world), @r"
    BackupCorrupt: the backup `daily-6e9ee6a6-d4f2-46c2-bd99-75269cf041dc-2026-11-22T09-00-00Z.tar.gz` is corrupt: entry `users.management.cattle.io#v3/u-1.json` ends early
    -> name another backup in the manifest, or put an undamaged copy of this one in its place
    ");
    world.seen = None;
    assert!(is_free(&world));
}

#[test]
fn a_backup_with_another_digest_is_refused_also_at_resume() {
    let mut world = world(|world| world.request.backup_digest = Some(format!("sha256:{}", "2".repeat(64))));
    assert_snapshot!(held(&world), @r"
    DigestMismatch: the backup `daily-6e9ee6a6-d4f2-46c2-bd99-75269cf041dc-2026-11-22T09-00-00Z.tar.gz` is sha256:1111111111111111111111111111111111111111111111111111111111111111, and the manifest pins sha256:2222222222222222222222222222222222222222222222222222222222222222
    -> find out who changed the file; if it is the right one, write `reinback.io/backup-digest: sha256:1111111111111111111111111111111111111111111111111111111111111111`
    ");
    world.request.resuming = true;
    assert_eq!(world.holding(), [GateCode::DigestMismatch]);
    world.request.backup_digest = Some(world.backup.sha256.to_uppercase().replace("SHA", "sha"));
    assert!(is_free(&world));
}

#[test]
fn an_encrypted_backup_is_refused_until_the_right_configuration_is_named() {
    let entries = |secret: Option<&str>, problem, closed| Closed::Entries {
        first: "secrets.#v1/a/b.json".to_owned(),
        provider: "aescbc".to_owned(),
        problem,
        closed,
        of: 464,
        secret: secret.map(str::to_owned),
    };
    let secret = Some("cattle-resources-system/key");
    let configuration = Closed::Configuration {
        secret: "cattle-resources-system/key".to_owned(),
        problem: "it is not there".to_owned(),
    };
    let wrong = Unopened::WrongKey { key: "key1".to_owned() };
    let mut said = Vec::new();
    for closed in [
        entries(None, Unopened::NoConfiguration, 464),
        configuration,
        entries(secret, Unopened::NoKey { key: "key1".to_owned() }, 464),
        entries(secret, wrong, 1),
    ] {
        let mut world = world(|world| world.seen = Some(BackupSeen::Encrypted(closed)));
        said.push(held(&world));
        world.request.accept.extend(GateCode::ALL.iter().copied());
        assert_eq!(world.holding(), [GateCode::DecryptionFailed], "nobody can take it");
        world.seen = None;
        assert!(is_free(&world));
    }
    assert_snapshot!(said.join("\n"), @r"
    DecryptionFailed: 464 of 464 entries cannot be decrypted, first secrets.#v1/a/b.json: it is encrypted by aescbc, and the manifest names no encryption configuration
    -> name in `encryptionConfigSecretName` the Secret in the namespace cattle-resources-system whose key `encryption-provider-config.yaml` holds the configuration that the backup was written with
    DecryptionFailed: the encryption configuration in the Secret cattle-resources-system/key cannot be used: it is not there
    -> put the configuration that the backup was written with into the key `encryption-provider-config.yaml` of that Secret
    DecryptionFailed: 464 of 464 entries cannot be decrypted, first secrets.#v1/a/b.json: it is encrypted by aescbc, and the configuration has no key named `key1` for it (Secret cattle-resources-system/key)
    -> give the Secret the configuration that the backup was written with, former keys included
    DecryptionFailed: 1 of 464 entries cannot be decrypted, first secrets.#v1/a/b.json: it is encrypted by aescbc, and the key `key1` does not open it: it was written with another key of that name, or changed since, or put under another name (Secret cattle-resources-system/key)
    -> give the Secret the configuration that the backup was written with, former keys included; if it has that, somebody changed those entries: take another copy of the backup
    ");
}

#[test]
fn entries_that_lie_open_beside_encrypted_ones_are_held_until_accepted() {
    let first = ["a", "b"].map(|name| format!("secrets.#v1/ns/{name}")).to_vec();
    let mut world = world(|world| world.backup.open_entries = OpenEntries { count: 9, first });
    assert_snapshot!(held(&world), @r"
    NotEncrypted: the encryption configuration of the manifest encrypts every object of their types, and these lie open: secrets.#v1/ns/a, secrets.#v1/ns/b and 7 more; whoever can write to the store can have put them there
    -> name a backup that was encrypted whole; or add to the manifest's annotations: `reinback.io/accept: NotEncrypted` (takes them as they are)
    ");
    world.accept(GateCode::NotEncrypted);
    assert!(is_accepted(&world, GateCode::NotEncrypted));
}

#[test]
fn a_backup_older_than_the_operator_is_refused() {
    let mut world = world(|world| {
        world.backup.facts.rancher_version = Some("v2.4.18".to_owned());
        world.accept(GateCode::VersionMismatch).accept(GateCode::VersionBoundary);
    });
    assert_snapshot!(held(&world), @r"
    UnsupportedVersion: the backup says it is of Rancher v2.4.18, and rancher-backup exists since v2.5.0
    -> name a backup that rancher-backup made of Rancher v2.5.0 or newer
    ");
    world.backup.facts.rancher_version = Some("v2.5.0".to_owned());
    assert!(!world.holding().contains(&GateCode::UnsupportedVersion));
}
