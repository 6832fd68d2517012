//! Gates about a backup that goes to another cluster.

use super::{View, listed};
use crate::plan::gate::{Gate, GateCode};

/// What a Rancher makes when it starts (users, roles, settings, its `local` cluster) is not the old one's, prune is off, and
/// its webhook denies to give objects another creator (rancher-backup issues 172, 428 and 598).
pub(super) fn rancher_installed(view: &View<'_>) -> Option<Gate> {
    let backup = view.backup.filter(|_| view.plan.other_cluster && !view.resuming())?;
    let cluster = &view.observed.cluster;
    let rancher = cluster.workloads.iter().find(|workload| workload.rancher);
    let deployment =
        rancher.map(|rancher| format!("Deployment {}/{}", rancher.reference.namespace, rancher.reference.name));
    // An earlier try of this restore brought the backup's own.
    let uuid = cluster.install_uuid.as_ref().filter(|uuid| backup.facts.install_uuid.as_ref() != Some(*uuid));
    let setting = uuid.map(|_| "an install-uuid of its own".to_owned());
    let traces: Vec<String> =
        deployment.into_iter().chain(cluster.rancher_webhooks.iter().cloned()).chain(setting).collect();
    (!traces.is_empty()).then(|| {
        view.acceptable(
            GateCode::RancherInstalled,
            format!(
                "the backup is of another cluster, and a Rancher has been installed on this one: {}",
                listed(traces)
            ),
            "uninstall it and clear away what it made (rancher-cleanup), and install Rancher after the restore",
            "mixes the backup with what this Rancher made, of which nothing is pruned",
        )
    })
}
