//! Gates about the backup and what the manifest asks for.

use super::{Asked, set};
use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_missing_cut_short_or_another_than_pinned_is_refused_until_the_right_one_is_there() {
    let world = World::start().await;
    let ask = Asked::of(&world);
    ask.plan().await.assert_held_by(&[]);

    let missing = ask.backup("monday-0-2026-11-23T05-58-54Z.tar.gz").plan().await;
    missing.assert_held_by(&["BackupNotFound"]);
    let place = world.store().display().to_string();
    insta::assert_snapshot!(missing.message("BackupNotFound").replace(&place, "<store>"), @"there is no backup `monday-0-2026-11-23T05-58-54Z.tar.gz` in directory <store>");
    insta::assert_snapshot!(missing.remedy("BackupNotFound"), @"put the file there, or correct `backupFilename` or `storageLocation` in the manifest");

    let whole = std::fs::read(world.store().join(&world.backup)).expect("the backup is there");
    let short = "short-0-2026-11-23T05-58-54Z.tar.gz";
    std::fs::write(world.store().join(short), &whole[..whole.len() / 2]).expect("the store is ours");
    let corrupt = ask.backup(short).plan().await;
    corrupt.assert_held_by(&["BackupCorrupt"]);
    insta::assert_snapshot!(corrupt.message("BackupCorrupt"), @"the backup `short-0-2026-11-23T05-58-54Z.tar.gz` is corrupt: the backup ends early, after 432128 unpacked bytes");
    std::fs::remove_file(world.store().join(short)).expect("the store is ours");
    let mended = format!("short-{}-2026-11-23T05-58-54Z.tar.gz", world.cluster.uid());
    std::fs::write(world.store().join(&mended), &whole).expect("the store is ours");
    ask.backup(&mended).plan().await.assert_held_by(&[]);

    let wrong = ask.annotated("reinback.io/backup-digest", &format!("sha256:{}", "0".repeat(64)));
    let mismatch = wrong.plan().await;
    mismatch.assert_held_by(&["DigestMismatch"]);
    wrong.pasting(&mismatch, "DigestMismatch").plan().await.assert_held_by(&[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_another_cluster_url_or_version_is_held_until_its_author_takes_it() {
    let world = World::start().await;
    let ask = Asked::of(&world);
    let foreign = "plain-6e9ee6a6-d4f2-46c2-bd99-75269cf041dc-2026-11-23T05-58-54Z.tar.gz";
    std::fs::copy(world.store().join(&world.backup), world.store().join(foreign)).expect("the store is ours");
    super::kubectl(&world, &["create", "namespace", "cattle-newer"]);
    let pruned = ask.spec("prune: true").plan().await;
    assert_eq!((pruned.count("deleted"), &pruned.plan["prunes"]), (1, &true.into()));
    let moving = ask.backup(foreign).spec("prune: true");
    let accepted = moving.is_accepted("DifferentCluster").await;
    assert_eq!((accepted.count("deleted"), &accepted.plan["prunes"]), (0, &false.into()));

    let elsewhere = world.repack("url", |entries| set(entries, "server-url", "https://other.example.org"));
    let accepted = ask.backup(&elsewhere).is_accepted("DifferentServerUrl").await;
    insta::assert_snapshot!(accepted.message("DifferentServerUrl"), @"the backup's server-url is https://other.example.org; here it is https://rancher.example.org");

    let older = world.repack("older", |entries| set(entries, "server-version", "v2.9.2"));
    let accepted = ask.backup(&older).is_accepted("VersionMismatch").await;
    insta::assert_snapshot!(accepted.message("VersionMismatch"), @"the backup is of Rancher v2.9.2; here runs v2.9.3 (by the tag of its image)");
    insta::assert_snapshot!(accepted.remedy("VersionMismatch"), @"name a backup of the version that runs, or bring Rancher to the backup's version first; or add to the manifest's annotations: `reinback.io/accept: VersionMismatch` (Rancher starts on data of another version and may change it for good)");

    let beyond = world.repack("beyond", |entries| set(entries, "server-version", "v2.7.6"));
    let beyond = ask.backup(&beyond);
    beyond.plan().await.assert_held_by(&["VersionMismatch", "VersionBoundary"]);
    let accepted = beyond.annotated("reinback.io/accept", "VersionMismatch").is_accepted("VersionBoundary").await;
    insta::assert_snapshot!(accepted.message("VersionBoundary"), @"from Rancher v2.9.3 to data of v2.7.6 lies a boundary at v2.7.7: Cluster API moved into the chart rancher-provisioning-capi");

    let ancient = world.repack("ancient", |entries| set(entries, "server-version", "v2.4.9"));
    let ancient = ask.backup(&ancient).annotated("reinback.io/accept", "VersionMismatch, VersionBoundary").plan().await;
    ancient.assert_held_by(&["UnsupportedVersion"]);
    insta::assert_snapshot!(ancient.message("UnsupportedVersion"), @"the backup says it is of Rancher v2.4.9, and rancher-backup exists since v2.5.0");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_this_version_cannot_do_is_refused_by_name_and_a_selector_with_unknown_fields_prunes_only_when_accepted() {
    let world = World::start().await;
    let ask = Asked::of(&world);
    ask.annotated("reinback.io/on-failure", "Undo").plan().await.assert_held_by(&[]);
    let without = ask.annotated("reinback.io/on-failure", "Undo").flag("--policy-safety-backup=false");
    let refused = without.plan().await;
    refused.assert_held_by(&["NotSupported"]);
    insta::assert_snapshot!(refused.message("NotSupported"), @"on-failure Undo goes back by a safety backup, and policy.safetyBackup is off");
    insta::assert_snapshot!(refused.remedy("NotSupported"), @"take it out of the manifest, or install a version of reinback that can do it");
    ask.plan().await.assert_held_by(&[]);

    let narrower = world.repack("narrower", |entries| {
        let filters = entries.iter_mut().find(|(path, _)| path == "filters/filters").expect("the fixture has it");
        filters.1["resourceSelectors"][0]["excludeNamespaces"] = serde_json::json!(["cattle-system"]);
    });
    let ask = ask.backup(&narrower);
    ask.spec("prune: false").plan().await.assert_held_by(&[]);
    let accepted = ask.spec("prune: true").is_accepted("PlanIncomplete").await;
    insta::assert_snapshot!(accepted.message("PlanIncomplete"), @"selectors of the backup have fields that this version does not know and that may narrow them: excludeNamespaces");
}
