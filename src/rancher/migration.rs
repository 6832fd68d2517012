//! What holds when a backup goes to another cluster, as data: which objects describe the cluster that Rancher ran in, which
//! ones Helm must find its marks on, and which Kubernetes a Rancher can be installed on.

use super::Version;
use crate::object::ObjectKey;

/// An object of a backup that describes the cluster that Rancher ran in, the one that it calls `local`.
///
/// Rancher and Fleet make each of them anew where it is missing, for the cluster that they find themselves in. Brought from
/// another cluster it names nodes that do not exist, or an API server, a CA and a token of the old one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalObject {
    pub group: &'static str,
    pub plural: &'static str,
    pub namespace: &'static str,
    /// `None`: all of that type in the namespace.
    pub name: Option<&'static str>,
    /// What makes it anew, and where that was read.
    pub source: &'static str,
}

/// Read in rancher/rancher at 59bd052e (2026-08) and in rancher/fleet of that month.
///
/// The management Cluster `local` itself, the Fleet Cluster `fleet-local/local` and the projects of `local` are no part of
/// it: Rancher keeps what it finds of them (`pkg/data/dashboard/cluster_data.go`), and bindings and projects hang on them.
pub const OLD_LOCAL: &[LocalObject] = &[
    LocalObject {
        group: "management.cattle.io",
        plural: "nodes",
        namespace: "local",
        name: None,
        source: "rancher pkg/controllers/managementuser/nodesyncer: one is made for each node, those without a node go",
    },
    LocalObject {
        group: "",
        plural: "secrets",
        namespace: "fleet-local",
        name: Some("local-kubeconfig"),
        source: "rancher pkg/provisioningv2/kubeconfig/manager.go makes it, fleetcluster.go writes API server and CA",
    },
    LocalObject {
        group: "",
        plural: "secrets",
        namespace: "cattle-fleet-local-system",
        name: Some("fleet-agent"),
        source: "fleet internal/cmd/agent/register: registers where it is missing",
    },
    LocalObject {
        group: "",
        plural: "secrets",
        namespace: "cattle-fleet-local-system",
        name: Some("fleet-agent-bootstrap"),
        source: "fleet internal/cmd/agent/register: written by the controller, used once",
    },
];

impl LocalObject {
    pub fn is(&self, key: &ObjectKey) -> bool {
        key.resource.is(self.group, self.plural)
            && key.namespace.as_deref() == Some(self.namespace)
            && self.name.is_none_or(|name| name == key.name.as_ref())
    }
}

/// Where an object of Rancher's Helm chart stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChartObject {
    pub group: &'static str,
    pub plural: &'static str,
    /// In Rancher's namespace.
    pub namespaced: bool,
    /// `None`: the release's.
    pub name: Option<&'static str>,
}

/// What Rancher's chart makes and a backup may hold (`chart/templates` of rancher/rancher, 2.7 to 2.15). The Deployment is
/// no part of it, for it is never restored, nor is the Secret `bootstrap-secret`, which no backup holds.
pub const CHART_OBJECTS: &[ChartObject] = &[
    of_chart("", "serviceaccounts", true, None),
    of_chart("", "services", true, None),
    of_chart("", "configmaps", true, Some("rancher-config")),
    of_chart("networking.k8s.io", "ingresses", true, None),
    of_chart("rbac.authorization.k8s.io", "clusterroles", false, None),
    of_chart("rbac.authorization.k8s.io", "clusterrolebindings", false, None),
    of_chart("scheduling.k8s.io", "priorityclasses", false, Some("rancher-critical")),
];

const fn of_chart(
    group: &'static str,
    plural: &'static str,
    namespaced: bool,
    name: Option<&'static str>,
) -> ChartObject {
    ChartObject { group, plural, namespaced, name }
}

/// `kubeVersion` of Rancher's chart, by the first release that had it: that Rancher and those after it are installed on a
/// Kubernetes older than this minor version (`chart/Chart.yaml` at the tags of rancher/rancher; read 2026-08).
const KUBERNETES_BELOW: &[((u64, u64, u64), u64)] = &[
    ((2, 6, 0), 22),
    ((2, 6, 3), 23),
    ((2, 6, 4), 24),
    ((2, 6, 7), 25),
    ((2, 7, 2), 26),
    ((2, 7, 5), 27),
    ((2, 7, 11), 28),
    ((2, 8, 3), 29),
    ((2, 9, 0), 31),
    ((2, 10, 0), 32),
    ((2, 11, 0), 33),
    ((2, 12, 0), 34),
    ((2, 13, 0), 35),
    ((2, 14, 0), 36),
    ((2, 15, 0), 37),
];

/// The first minor version of Kubernetes 1 that the chart of this Rancher refuses; `None` where it is not known.
pub fn kubernetes_below(rancher: &Version) -> Option<u64> {
    let numbers = rancher.numbers();
    let &(newest, _) = KUBERNETES_BELOW.last()?;
    // What came after was not read.
    if (numbers.0, numbers.1) > (newest.0, newest.1) {
        return None;
    }
    KUBERNETES_BELOW.iter().rev().find(|(first, _)| numbers >= *first).map(|(_, below)| *below)
}

/// The minor version of a Kubernetes 1, such as 36 of `v1.36.2+k3s1`.
pub fn kubernetes_minor(git_version: &str) -> Option<u64> {
    let version = git_version.strip_prefix('v').unwrap_or(git_version);
    let (minor, _) = version.strip_prefix("1.")?.split_once('.')?;
    minor.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chart_of_a_rancher_says_which_kubernetes_is_too_new_for_it() {
        let below = |text: &str| kubernetes_below(&text.parse().expect("a version"));
        assert_eq!(below("v2.9.3"), Some(31));
        assert_eq!(below("v2.8.2"), Some(28));
        assert_eq!(below("v2.8.3"), Some(29));
        assert_eq!(below("v2.15.4"), Some(37));
        assert_eq!((below("v2.16.0"), below("v2.5.9")), (None, None));
        assert_eq!(kubernetes_minor("v1.36.2+k3s1"), Some(36));
        assert_eq!((kubernetes_minor("v2.1.0"), kubernetes_minor("1.36")), (None, None));
    }
}
