//! Gates of a version that a manifest declares.

use serde_json::json;

use super::*;
use crate::manifest::VersionMethod;
use crate::observed::ChartSeen;
use crate::plan::version::tests::{packaged, stored, trimmed, upgraded};
use crate::release::History;

#[test]
fn a_rollback_to_the_version_of_its_backup_is_free() {
    assert!(is_free(&upgraded(&[])));
}

#[test]
fn no_revision_of_the_version_is_no_release() {
    let mut world = upgraded(&[]);
    world.cluster.releases = History::read(&[stored(3, "deployed", "v2.10.1", &json!({}))]);
    assert_snapshot!(held(&world), @"
    ReleaseNotFound: no revision of the Helm release rancher that was deployed is of v2.9.3; it has 3 (v2.10.1, deployed)
    -> name in `chart` a packaged chart of that version in the source repository, write `versionMethod: image`, or bring Rancher to that version by Helm yourself and commit a Restore
    ");
    world.request.version.as_mut().expect("a Rollback").method = VersionMethod::Image;
    assert!(is_free(&world));
}

#[test]
fn a_chart_takes_the_place_of_a_revision_that_helm_no_longer_has() {
    let mut world = trimmed(packaged("rancher", "v2.9.3", Some("< 1.37.0-0")));
    assert!(is_free(&world));
    world.chart = Some(ChartSeen::Unusable("there is no such file at commit 1f12ea5d1f12".to_owned()));
    assert_snapshot!(held(&world), @"
    ReleaseNotFound: no revision of the Helm release rancher that was deployed is of v2.9.3; it has 3 (v2.10.1, deployed); and the chart charts/rancher-2.9.3.tgz cannot be installed: there is no such file at commit 1f12ea5d1f12
    -> commit there the packaged chart of v2.9.3 together with a change of the manifest, since it is read at the commit that changed the manifest last; or write `versionMethod: image`
    ");
}

#[test]
fn a_chart_waits_for_helm_and_for_who_is_at_the_release_and_for_a_kubernetes_that_it_takes() {
    let mut world = trimmed(packaged("rancher", "v2.9.3", Some("< 1.31.0-0")));
    assert_snapshot!(held(&world), @"
    KubernetesTooNew: Rancher v2.9.3 runs on Kubernetes < 1.31.0-0 (kubeVersion of the chart charts/rancher-2.9.3.tgz), and here is v1.36.2+k3s1
    -> declare a version of Rancher that runs on this Kubernetes; Kubernetes itself cannot be taken back
    ");
    world.chart = Some(packaged("rancher", "v2.9.3", None));
    world.cluster.helm = Some(Err("there is no program helm".to_owned()));
    assert_eq!(world.holding(), [GateCode::HelmMissing]);
    world.cluster.helm = Some(Ok("v3.22.0".to_owned()));
    world.cluster.releases = History::read(&[
        stored(3, "deployed", "v2.10.1", &json!({})),
        stored(4, "pending-upgrade", "v2.11.0", &json!({})),
    ]);
    assert_eq!(world.holding(), [GateCode::ReleasePending]);
}

#[test]
fn a_release_that_somebody_is_at_is_waited_for() {
    let pending = stored(4, "pending-upgrade", "v2.11.0", &json!({}));
    let mut world = upgraded(&[pending]);
    assert_snapshot!(held(&world), @"
    ReleasePending: revision 4 of the Helm release cattle-system/rancher is pending-upgrade: Helm is at work, or was killed at it
    -> wait for it; where no helm process is left, `helm rollback` to the last good revision ends that state
    ");
    world.request.version.as_mut().expect("a Rollback").method = VersionMethod::Image;
    assert!(is_free(&world));
}

#[test]
fn helm_is_asked_for_only_where_it_is_needed() {
    let mut world = upgraded(&[]);
    world.cluster.helm = Some(Err("there is no program helm".to_owned()));
    assert_snapshot!(held(&world), @"
    HelmMissing: v2.9.3 is to be set by Helm: there is no program helm
    -> put helm 3 or 4 on the PATH of reinback, or write `versionMethod: image`
    ");
    world.request.version.as_mut().expect("a Rollback").method = VersionMethod::Image;
    assert!(is_free(&world));
}

#[test]
fn a_chart_that_does_not_take_this_kubernetes_is_refused() {
    let of = |range: &str| {
        let chart = json!({"chart": {"metadata": {"kubeVersion": range}}});
        let mut world = upgraded(&[]);
        world.cluster.releases =
            History::read(&[stored(2, "superseded", "v2.9.3", &chart), stored(3, "deployed", "v2.10.1", &json!({}))]);
        world
    };
    assert_snapshot!(held(&of("< 1.31.0-0")), @"
    KubernetesTooNew: Rancher v2.9.3 runs on Kubernetes < 1.31.0-0 (kubeVersion of the chart in revision 2), and here is v1.36.2+k3s1
    -> declare a version of Rancher that runs on this Kubernetes; Kubernetes itself cannot be taken back
    ");
    assert!(is_free(&of("< 1.37.0-0")));
}

#[test]
fn data_of_another_version_than_the_declared_one_is_taken_only_by_word() {
    let mut world = upgraded(&[]);
    world.backup.facts.rancher_version = Some("v2.9.2".to_owned());
    assert_snapshot!(held(&world), @"
    VersionMismatch: the backup is of Rancher v2.9.2, and the manifest declares v2.9.3
    -> name a backup of the declared version, or declare the backup's version; or add to the manifest's annotations: `reinback.io/accept: VersionMismatch` (the declared Rancher starts on data of another version and may change it for good)
    ");
    assert!(is_accepted(world.accept(GateCode::VersionMismatch), GateCode::VersionMismatch));
}

#[test]
fn a_version_without_data_is_taken_only_by_word() {
    let mut world = upgraded(&[]);
    world.seen = Some(BackupSeen::NotNamed);
    world.request.backup_name = String::new();
    assert_snapshot!(held(&world), @"
    VersionMismatch: the manifest brings no data back: v2.9.3 would start on what the Rancher that runs now has left
    -> name in `restore` a backup of the declared version; or add to the manifest's annotations: `reinback.io/accept: VersionMismatch` (the declared Rancher starts on data of another version and may change it for good)
    ");
    assert!(is_accepted(world.accept(GateCode::VersionMismatch), GateCode::VersionMismatch));
}

#[test]
fn a_boundary_between_what_runs_and_what_is_declared_is_crossed_only_by_word() {
    let mut world = upgraded(&[]);
    world.rancher().image = Some("rancher/rancher:v2.14.1".to_owned());
    assert_eq!(world.holding(), [GateCode::VersionBoundary]);
    world.seen = Some(BackupSeen::NotNamed);
    assert_eq!(world.holding(), [GateCode::VersionMismatch, GateCode::VersionBoundary]);
}

#[test]
fn versions_before_backups_are_refused_with_the_documented_way() {
    let to = |version: &str| {
        let mut world = upgraded(&[]);
        let asked = world.request.version.as_mut().expect("a Rollback");
        asked.to = version.to_owned();
        asked.method = VersionMethod::Image;
        world.accept(GateCode::VersionMismatch).accept(GateCode::VersionBoundary);
        world
    };
    assert_snapshot!(held(&to("v2.4.18")), @"
    UnsupportedVersion: v2.4.18 is older than rancher-backup, which exists since v2.5.0: to v2.2 to v2.4 the documented way is to restore a snapshot of etcd that RKE took before the upgrade (`rke etcd snapshot-restore`), from a machine outside the cluster; all that changed in the cluster since is lost
    -> declare v2.5.0 or newer, or go that way by hand
    ");
    assert_snapshot!(held(&to("v2.1.6")), @"
    UnsupportedVersion: v2.1.6 is older than rancher-backup, which exists since v2.5.0: to v2.0 and v2.1 the documented way is: record `status.serviceAccountToken` of every cluster whose condition ServiceAccountMigrated is true, roll back, and patch the tokens back into the clusters; without tokens recorded before, clusters that Rancher launched stay Unavailable. Rancher no longer supports it
    -> declare v2.5.0 or newer, or go that way by hand
    ");
    assert!(to("v2.5.0").holding().is_empty());
}
