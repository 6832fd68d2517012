//! Gates about the way to the cluster, and about what runs in it.

use url::Url;

use super::{View, count, cut, listed, operator};
use crate::observed::{Access, UpstreamRestore, Workload};
use crate::plan::gate::{Gate, GateCode};
use crate::plan::printable;

/// Missing rights named in a message: enough to see what kind of role is missing.
const RIGHTS_SHOWN: usize = 10;

pub(super) fn permission_denied(view: &View<'_>) -> Option<Gate> {
    let denied = &view.observed.denied;
    (!denied.is_empty()).then(|| {
        Gate::new(
            GateCode::PermissionDenied,
            format!(
                "{} missing: {}",
                match denied.len() {
                    1 => "1 right is".to_owned(),
                    more => format!("{more} rights are"),
                },
                cut(denied.iter().map(right), RIGHTS_SHOWN)
            ),
            "grant them to the account that reinback uses, by a ClusterRole bound to it",
        )
    })
}

/// As `kubectl auth can-i` takes it.
fn right(access: &Access) -> String {
    let Access { verb, group, resource, namespace, name } = access;
    let (plural, subresource) = match resource.split_once('/') {
        Some((plural, subresource)) => (plural, format!("/{subresource}")),
        None => (resource.as_str(), String::new()),
    };
    let resource = match group.is_empty() {
        true => format!("{plural}{subresource}"),
        false => format!("{plural}.{group}{subresource}"),
    };
    let name = name.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
    match namespace {
        Some(namespace) => format!("{verb} {resource}{name} in {namespace}"),
        None => format!("{verb} {resource}{name}"),
    }
}

pub(super) fn access_through_rancher(view: &View<'_>) -> Option<Gate> {
    let api = Url::parse(&view.observed.cluster.api_url).ok()?;
    let host = authority(&api)?;
    let rancher = [view.observed.cluster.server_url.as_ref(), view.plan.request.rancher_url.as_ref()];
    let is_rancher = rancher
        .into_iter()
        .flatten()
        .any(|url| Url::parse(url).ok().and_then(|url| authority(&url)).as_deref() == Some(host.as_str()));
    (is_rancher || is_proxied(api.path())).then(|| {
        Gate::new(
            GateCode::AccessThroughRancher,
            format!("the API server is reached through Rancher ({host}), which a restore scales to 0"),
            "give reinback a kubeconfig whose server is the cluster's own API server, or run it in the cluster",
        )
    })
}

/// Rancher hands on to API servers under this path.
fn is_proxied(path: &str) -> bool {
    path.contains("/k8s/clusters/") || path.ends_with("/k8s/clusters")
}

/// Host and port, without user and password.
fn authority(url: &Url) -> Option<String> {
    let host = url.host_str()?.trim_end_matches('.');
    Some(format!("{host}:{}", url.port_or_known_default()?))
}

pub(super) fn applied_elsewhere(view: &View<'_>) -> Option<Gate> {
    let name = &view.plan.request.name;
    let applied = view.observed.cluster.restores.iter().any(|restore| restore.name == *name && !restore.ours);
    if let Some(taken) = operator::name_taken(view) {
        return Some(taken);
    }
    (view.plan.request.kind == "Restore" && applied).then(|| {
        Gate::new(
            GateCode::AppliedElsewhere,
            format!("the cluster has a Restore {name} that reinback did not make: something else applies the manifest"),
            format!(
                "keep the watched path out of Flux, Argo CD and Fleet; once the operator is done with it, \
                 `kubectl delete restores.resources.cattle.io {name}`"
            ),
        )
    })
}

fn rancher<'a>(view: &View<'a>) -> Option<&'a Workload> {
    view.observed.cluster.workloads.iter().find(|workload| workload.rancher)
}

pub(super) fn rancher_at_zero(view: &View<'_>) -> Option<Gate> {
    let rancher = rancher(view)?;
    if view.resuming() || rancher.replicas != 0 || rancher.recorded.is_some_and(|recorded| recorded > 0) {
        return None;
    }
    let reference = &rancher.reference;
    Some(view.acceptable(
        GateCode::RancherAtZero,
        format!(
            "Rancher ({}/{}) is at 0 replicas, and nothing says how many it had",
            reference.namespace, reference.name
        ),
        &format!(
            "scale it up again, or say how many it shall get after the restore: \
             `kubectl -n {} annotate {} {} reinback.io/replicas=3`",
            reference.namespace, reference.resource, reference.name
        ),
        "Rancher stays at 0 after the restore",
    ))
}

pub(super) fn managed_elsewhere(view: &View<'_>) -> Option<Gate> {
    let managed: Vec<String> = view
        .plan
        .quiesce
        .iter()
        .filter(|workload| !workload.managers.is_empty())
        .map(|Workload { reference, managers, .. }| {
            format!("{}/{} ({})", reference.namespace, reference.name, printable(&managers.join(", ")))
        })
        .collect();
    (!managed.is_empty()).then(|| {
        view.acceptable(
            GateCode::ManagedElsewhere,
            format!("something else keeps the replicas of what is scaled to 0: {}", listed(managed)),
            "suspend it for these workloads",
            "scales them all the same; writing stops while a pod of Rancher is back",
        )
    })
}

pub(super) fn run_in_progress(view: &View<'_>) -> Option<Gate> {
    let cluster = &view.observed.cluster;
    // A resumed run holds the Lease already, and waiting for others would leave Rancher at 0.
    let runs = cluster.unfinished_runs.iter().filter(|_| !view.resuming()).map(|name| format!("run {name}"));
    // One of this very run is gone on with.
    let is_own = |restore: &UpstreamRestore| restore.key.as_ref() == Some(&view.plan.request.key);
    let restores = cluster.restores.iter().filter(|restore| !is_own(restore) && !restore.finished);
    let busy: Vec<String> =
        runs.chain(restores.map(|restore| format!("Restore {} of the operator", restore.name))).collect();
    if busy.is_empty() {
        return operator::held_lease(view);
    }
    Some(Gate::new(
        GateCode::RunInProgress,
        format!("{} not ended: {}", verb(busy.len(), "has", "have"), listed(busy)),
        "it begins when they have ended; the operator tries a failing Restore for ever, until it is deleted",
    ))
}

fn verb(number: usize, one: &str, more: &str) -> String {
    match number {
        1 => format!("1 {one}"),
        _ => format!("{number} {more}"),
    }
}

pub(super) fn rancher_updating(view: &View<'_>) -> Option<Gate> {
    let rancher = rancher(view)?;
    // A version that never comes up is what an undo takes away.
    let waits = !view.resuming() && !view.plan.request.undoes;
    (rancher.rolling && waits).then(|| {
        Gate::new(
            GateCode::RancherUpdating,
            format!(
                "Rancher ({}/{}) is being rolled out: {} of {} ready",
                rancher.reference.namespace,
                rancher.reference.name,
                rancher.ready,
                count(usize::try_from(rancher.replicas).unwrap_or_default(), "replica")
            ),
            "it begins when the rollout is done or has given up",
        )
    })
}
