//! What a person must know who brings a backup to another cluster.

use super::gates::listed;
use super::gates::source::shown_url;
use super::printable;
use crate::observed::{Backup, Observed};
use crate::rancher::Version;
use crate::rancher::migration::{kubernetes_below, kubernetes_minor};

/// Sentences for a plan whose backup is of another cluster.
pub fn warnings(backup: &Backup, observed: &Observed) -> Vec<String> {
    let mut warnings = vec![two_ranchers(backup)];
    warnings.extend(rancher_installed(backup, observed));
    warnings.extend(kubernetes_too_new(backup, observed));
    if !observed.cluster.workloads.iter().any(|workload| workload.rancher) {
        warnings.push(what_is_next(backup, observed));
    }
    warnings
}

/// Nothing here can see whether the other one runs.
fn two_ranchers(backup: &Backup) -> String {
    let url = backup
        .facts
        .server_url
        .as_deref()
        .map_or("of its server-url".to_owned(), |url| format!("of {}", shown_url(url)));
    format!(
        "the backup is of another cluster: the Rancher there must be at 0 replicas for good before one starts here, and the \
         host name {url} must lead here, or two Ranchers drive the same clusters"
    )
}

/// What a Rancher makes when it starts (users, roles, settings, its `local` cluster) is not the old one's, prune is off, and
/// its webhook denies to give objects another creator (rancher-backup issues 172, 428 and 598).
fn rancher_installed(backup: &Backup, observed: &Observed) -> Option<String> {
    let cluster = &observed.cluster;
    let rancher = cluster.workloads.iter().find(|workload| workload.rancher);
    let deployment =
        rancher.map(|rancher| format!("Deployment {}/{}", rancher.reference.namespace, rancher.reference.name));
    // An earlier try of this restore brought the backup's own.
    let uuid = cluster.install_uuid.as_ref().filter(|uuid| backup.facts.install_uuid.as_ref() != Some(*uuid));
    let setting = uuid.map(|_| "an install-uuid of its own".to_owned());
    let traces: Vec<String> =
        deployment.into_iter().chain(cluster.rancher_webhooks.iter().cloned()).chain(setting).collect();
    (!traces.is_empty()).then(|| {
        format!(
            "the backup is of another cluster, and a Rancher has been installed on this one ({}): what it made stays and \
             mixes with the backup; to be rid of it, uninstall it and clear away what it made (rancher-cleanup), and install \
             Rancher after the restore",
            listed(traces)
        )
    })
}

/// Helm refuses the chart then, so that the restored data would have no Rancher to run on it.
fn kubernetes_too_new(backup: &Backup, observed: &Observed) -> Option<String> {
    let rancher: Version = backup.facts.rancher_version.as_deref()?.parse().ok()?;
    let kubernetes = observed.cluster.kubernetes_version.as_deref()?;
    let below = kubernetes_below(&rancher)?;
    (kubernetes_minor(kubernetes)? >= below).then(|| {
        format!(
            "the chart of Rancher {rancher} is made for Kubernetes before 1.{below}, and here is {}: Helm will not install \
             it; use an older Kubernetes, or upgrade Rancher on the old cluster and back it up again",
            printable(kubernetes)
        )
    })
}

fn what_is_next(backup: &Backup, observed: &Observed) -> String {
    let version = backup.facts.rancher_version.as_deref().map_or("the version of the backup".to_owned(), printable);
    let host =
        backup.facts.server_url.as_deref().map_or("the host name of the backup's server-url".to_owned(), shown_url);
    let namespace = &observed.guarded.rancher_namespace;
    format!(
        "there is no Rancher in {namespace} to stop or to start: when this has succeeded, install Rancher {version} with \
         Helm, for {host} (docs/migration.md)"
    )
}
