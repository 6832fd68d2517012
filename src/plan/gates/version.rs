//! Gates of the version of Rancher that a manifest declares.

use super::View;
use crate::observed::{BackupSeen, ChartSeen};
use crate::plan::gate::{Gate, GateCode};
use crate::plan::printable;
use crate::plan::version::{NoWay, VersionChange, Way, decide};
use crate::rancher::{self, Version};
use crate::release::Revision;

pub(super) fn release_not_found(view: &View<'_>) -> Option<Gate> {
    match no_way(view)? {
        NoWay::Release { problem, remedy } => Some(Gate::new(GateCode::ReleaseNotFound, problem, remedy)),
        NoWay::Image { .. } => None,
    }
}

/// In words for [`GateCode::NotSupported`].
pub(super) fn not_supported(view: &View<'_>) -> Option<(String, &'static str)> {
    match no_way(view)? {
        NoWay::Release { .. } => None,
        NoWay::Image { problem } => Some((
            problem,
            "say in `rancher` of the configuration where Rancher's Deployment is, or install Rancher by Helm",
        )),
    }
}

/// What keeps the declared version from being set. Of a run that is under way that was judged when it began.
fn no_way(view: &View<'_>) -> Option<NoWay> {
    let request = view.plan.request.version.as_ref().filter(|_| !view.plan.request.resuming)?;
    decide(request, view.observed).err()
}

pub(super) fn release_pending(view: &View<'_>) -> Option<Gate> {
    let change = view.plan.version.as_ref()?;
    let newest = view.observed.cluster.releases.newest()?;
    (change.by_helm() && newest.status.is_pending()).then(|| {
        Gate::new(
            GateCode::ReleasePending,
            format!(
                "revision {} of the Helm release {}/{} is {}: Helm is at work, or was killed at it",
                newest.number, newest.namespace, newest.name, newest.status
            ),
            "wait for it; where no helm process is left, `helm rollback` to the last good revision ends that state",
        )
    })
}

pub(super) fn helm_missing(view: &View<'_>) -> Option<Gate> {
    let change = view.plan.version.as_ref()?;
    let why = match &view.observed.cluster.helm {
        // What began with it goes on with it, or fails by its words.
        _ if !change.by_helm() || view.resuming() => return None,
        Some(Ok(_)) => return None,
        Some(Err(why)) => why.as_str(),
        None => "it was not looked for",
    };
    Some(Gate::new(
        GateCode::HelmMissing,
        format!("{} is to be set by Helm: {why}", change.to),
        "put helm 3 or 4 on the PATH of reinback, or write `versionMethod: image`",
    ))
}

/// `helm rollback` does not look at the range of the chart; Rancher would come up on a Kubernetes that it does not know.
/// `helm upgrade` does, and would find it out when the data is back already.
pub(super) fn kubernetes_too_new(view: &View<'_>) -> Option<Gate> {
    let (of, range, constraint, place) = match &view.plan.version.as_ref()?.way {
        Way::Helm { revision, .. } => {
            let target: &Revision = view.observed.cluster.releases.get(*revision)?;
            let place = format!("the chart in revision {revision}");
            (&target.app_version, &target.kube_version, target.constraint(), place)
        }
        Way::Chart { chart, .. } => {
            let Some(ChartSeen::Packaged(facts)) = &view.observed.chart else { return None };
            let place = format!("the chart {}", printable(chart));
            (&facts.about.app_version, &facts.about.kube_version, facts.about.constraint(), place)
        }
        Way::Keep | Way::Image { .. } => return None,
    };
    let (range, there) = (range.as_deref()?, view.observed.cluster.kubernetes_version.as_deref()?);
    // One that Helm cannot read either keeps nobody from going back to a revision.
    let fits = constraint.ok()?.is_none_or(|constraint| constraint.takes(there));
    (!fits).then(|| {
        Gate::new(
            GateCode::KubernetesTooNew,
            format!(
                "Rancher {} runs on Kubernetes {} (kubeVersion of {place}), and here is {}",
                printable(of),
                printable(range),
                printable(there)
            ),
            "declare a version of Rancher that runs on this Kubernetes; Kubernetes itself cannot be taken back",
        )
    })
}

/// How versions before rancher-backup are gone back to, by the documentation of their time (Rancher docs v2.0-v2.4 and v2.5,
/// "Rollbacks"; read 2026-08), and what that loses.
const OLDER: &[((u64, u64, u64), &str)] = &[
    (
        (2, 2, 0),
        "to v2.0 and v2.1 the documented way is: record `status.serviceAccountToken` of every cluster whose condition \
         ServiceAccountMigrated is true, roll back, and patch the tokens back into the clusters; without tokens recorded before, \
         clusters that Rancher launched stay Unavailable. Rancher no longer supports it",
    ),
    (
        rancher::FIRST_WITH_BACKUPS,
        "to v2.2 to v2.4 the documented way is to restore a snapshot of etcd that RKE took before the upgrade (`rke etcd \
         snapshot-restore`), from a machine outside the cluster; all that changed in the cluster since is lost",
    ),
];

pub(super) fn unsupported_version(view: &View<'_>) -> Option<Gate> {
    let to: Version = view.plan.request.version.as_ref()?.to.parse().ok()?;
    let (_, way) = OLDER.iter().find(|(before, _)| to.numbers() < *before)?;
    Some(Gate::new(
        GateCode::UnsupportedVersion,
        format!("{to} is older than rancher-backup, which exists since v2.5.0: {way}"),
        "declare v2.5.0 or newer, or go that way by hand",
    ))
}

/// Data and the version that will run on it do not fit.
pub(super) fn version_mismatch(view: &View<'_>, to: &str) -> Option<Gate> {
    let (message, remedy) = match (&view.observed.backup, view.backup) {
        (BackupSeen::NotNamed, _) => {
            if !view.plan.version.as_ref().is_some_and(VersionChange::sets) {
                return None;
            }
            (
                format!(
                    "the manifest brings no data back: {to} would start on what the Rancher that runs now has left"
                ),
                "name in `restore` a backup of the declared version",
            )
        }
        (_, None) => return None,
        (_, Some(backup)) => {
            let there = backup.facts.rancher_version.as_deref();
            if there.is_some_and(|there| crate::plan::version::is_same(there, to)) {
                return None;
            }
            let there = there.map_or("an unknown version".to_owned(), printable);
            (
                format!("the backup is of Rancher {there}, and the manifest declares {to}"),
                "name a backup of the declared version, or declare the backup's version",
            )
        }
    };
    let effect = "the declared Rancher starts on data of another version and may change it for good";
    Some(view.acceptable(GateCode::VersionMismatch, message, remedy, effect))
}
