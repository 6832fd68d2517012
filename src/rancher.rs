//! Facts of Rancher, as data: who writes beside it, how its versions are read, and which of them lie apart.

pub mod migration;

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use crate::journal::WorkloadRef;

/// The Deployment that answers Rancher's admission webhook, in Rancher's namespace.
pub const WEBHOOK_DEPLOYMENT: &str = "rancher-webhook";
/// Name of both of its webhook configurations, which it makes when it starts.
pub const RANCHER_WEBHOOKS: &str = "rancher.cattle.io";
/// Namespace and name of the Service that it answers at.
pub const WEBHOOK_SERVICE: (&str, &str) = ("cattle-system", "rancher-webhook");
/// Secrets of that namespace with the webhook's certificate and its authority, which it reads from the API server and
/// does not mount (rancher/webhook, `pkg/server/server.go`).
pub const WEBHOOK_SECRETS: [&str; 2] = ["cattle-webhook-tls", "cattle-webhook-ca"];
/// Namespace and name of the ServiceAccount that the webhook lets pass unseen, when it comes with [`SUDO_GROUP`]
/// (rancher/webhook, `pkg/admission/admission.go`). Its chart makes it, since webhook 0.4.
pub const SUDO_ACCOUNT: (&str, &str) = ("cattle-system", "rancher-webhook-sudo");
pub const SUDO_GROUP: &str = "system:masters";
/// The rancher-backup operator's Deployment, in the namespace that the configuration names.
pub const BACKUP_OPERATOR: &str = "rancher-backup";
/// The first Rancher that rancher-backup was made for; what an older one left behind is no tarball of its.
pub const FIRST_WITH_BACKUPS: (u64, u64, u64) = (2, 5, 0);

/// A workload that writes objects of a backup beside Rancher, and so is looked at before a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Writer {
    pub namespace: &'static str,
    /// `deployments` or `statefulsets`, of `apps/v1`.
    pub resource: &'static str,
    /// `None`: all of that type in the namespace.
    pub name: Option<&'static str>,
    /// It answers an admission or conversion webhook that the writes of a restore pass through.
    pub serves_webhook: bool,
}

/// The writers beside Rancher's own Deployment and the rancher-backup operator, whose places the configuration says.
///
/// From Rancher's `pkg/controllers/dashboard/{systemcharts,fleetcharts}` at 59bd052e (2026-08-21) and the charts they
/// install. A workload that is not there is passed over.
pub const WRITERS: &[Writer] = &[
    Writer {
        namespace: "cattle-system",
        resource: "deployments",
        name: Some(WEBHOOK_DEPLOYMENT),
        serves_webhook: true,
    },
    deployment("cattle-system", "remotedialer-proxy"),
    deployment("cattle-system", "system-upgrade-controller"),
    deployment("cattle-system", "aks-config-operator"),
    deployment("cattle-system", "eks-config-operator"),
    deployment("cattle-system", "gke-config-operator"),
    deployment("cattle-system", "ali-config-operator"),
    deployment("cattle-fleet-system", "fleet-controller"),
    deployment("cattle-fleet-system", "gitjob"),
    deployment("cattle-fleet-local-system", "fleet-agent"),
    // Some versions of Fleet run their agent as a StatefulSet.
    Writer {
        namespace: "cattle-fleet-local-system",
        resource: "statefulsets",
        name: Some("fleet-agent"),
        serves_webhook: false,
    },
    all_deployments("cattle-turtles-system"),
    Writer {
        namespace: "cattle-capi-system",
        resource: "deployments",
        name: Some("capi-controller-manager"),
        serves_webhook: true,
    },
    // Rancher 2.7.7 to 2.13.
    Writer {
        namespace: "cattle-provisioning-capi-system",
        resource: "deployments",
        name: Some("capi-controller-manager"),
        serves_webhook: true,
    },
    all_deployments("cattle-elemental-system"),
];

const fn deployment(namespace: &'static str, name: &'static str) -> Writer {
    Writer { namespace, resource: "deployments", name: Some(name), serves_webhook: false }
}

const fn all_deployments(namespace: &'static str) -> Writer {
    Writer { namespace, resource: "deployments", name: None, serves_webhook: false }
}

/// APIServices that a Rancher makes when it runs, by name, and the first version that does. An older one does not serve them, and
/// while nobody does, discovery of their group fails and namespaces cannot be deleted.
///
/// From Rancher's `pkg/ext/aggregation.go` at 59bd052e (2026-08-21) and its release notes of 2.11.
pub const API_SERVICES: &[(&str, (u64, u64, u64))] = &[("v1.ext.cattle.io", (2, 11, 0))];

/// Charts that Rancher installs at the version that a setting names, and sets back to it: setting and chart.
///
/// From Rancher's `pkg/controllers/dashboard/{systemcharts,fleetcharts}`, as [`WRITERS`]. Rancher looks when a setting or its
/// chart repository changes, which it refreshes every 6 hours.
pub const SYSTEM_CHARTS: &[(&str, &str)] = &[
    ("rancher-webhook-version", "rancher-webhook"),
    ("fleet-version", "fleet"),
    ("fleet-version", "fleet-crd"),
    ("rancher-provisioning-capi-version", "rancher-provisioning-capi"),
    ("rancher-turtles-version", "rancher-turtles"),
    ("system-upgrade-controller-chart-version", "system-upgrade-controller"),
    ("remotedialer-proxy-version", "remotedialer-proxy"),
];

/// Types whose deletion destroys a cluster or cuts it off, by group; an empty list names all of a group.
///
/// Their finalizers take virtual machines, node groups and registrations away while Rancher runs. Prune deletes with Rancher
/// at 0 and removes finalizers in the end, so that nobody does.
pub const CLUSTER_TYPES: &[(&str, &[&str])] = &[
    // Not `nodes`: every node of every cluster has one, which Rancher makes anew of what it finds there.
    ("management.cattle.io", &["clusters", "nodepools"]),
    ("provisioning.cattle.io", &["clusters"]),
    ("fleet.cattle.io", &["clusters"]),
    // Of RKE2 and K3s: the control plane of a cluster, and the machines that were not made by a driver.
    ("rke.cattle.io", &["rkeclusters", "rkecontrolplanes", "custommachines"]),
    ("cluster.x-k8s.io", &["clusters", "machines", "machinesets", "machinedeployments", "machinepools"]),
    // A virtual machine each, in a type for each provider.
    ("rke-machine.cattle.io", &[]),
    ("infrastructure.cluster.x-k8s.io", &[]),
    ("controlplane.cluster.x-k8s.io", &[]),
    // Hosted clusters: the operator of the cloud deletes the cluster with the object.
    ("aks.cattle.io", &["aksclusterconfigs"]),
    ("eks.cattle.io", &["eksclusterconfigs"]),
    ("gke.cattle.io", &["gkeclusterconfigs"]),
    ("ali.cattle.io", &["aliclusterconfigs"]),
];

/// Controllers of Cluster API, by namespace and name: each answers webhooks, and reconciles beside it.
pub const CLUSTER_API: &[(&str, &str)] = &[
    ("cattle-capi-system", "capi-controller-manager"),
    ("cattle-provisioning-capi-system", "capi-controller-manager"),
];

/// This is a controller of Cluster API.
pub fn is_cluster_api(workload: &WorkloadRef) -> bool {
    let WorkloadRef { api_version: _, resource, namespace, name } = workload;
    resource == "deployments" && CLUSTER_API.contains(&(namespace.as_str(), name.as_str()))
}

/// Longest text that is read as a version, in bytes: the longest tag that an image may have (OCI distribution spec).
const MAX_VERSION_BYTES: usize = 128;

/// A version of Rancher: `v2.9.3`, `2.9.3-rc1`. Build metadata (`+…`) says nothing and is not kept.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Version {
    pub major: u64,
    pub minor: u64,
    pub patch: u64,
    /// Of a pre-release, its letters and its numbers apart, so that `rc10` comes after `rc9`. Empty for a release.
    pre: Vec<PrePart>,
    /// The pre-release as written.
    pre_text: String,
}

/// Numbers come before words, as in semantic versions.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum PrePart {
    Number(u64),
    Word(String),
}

/// A text that is no version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is not a version such as v2.9.3")]
pub struct NotAVersion;

impl Version {
    pub fn new(major: u64, minor: u64, patch: u64) -> Self {
        Self { major, minor, patch, pre: Vec::new(), pre_text: String::new() }
    }

    /// Reads the tag of an image reference such as `registry.example.org:5000/rancher/rancher:v2.9.3@sha256:…`.
    pub fn of_image(image: &str) -> Option<Self> {
        image_tag(image)?.parse().ok()
    }

    /// Without the pre-release: `2.14.0-rc1` has the data of 2.14.0 already.
    pub fn numbers(&self) -> (u64, u64, u64) {
        (self.major, self.minor, self.patch)
    }
}

/// The tag of an image reference; neither the port of a registry nor a digest is one.
pub fn image_tag(image: &str) -> Option<&str> {
    let name = image.split_once('@').map_or(image, |(name, _)| name);
    let last = name.rsplit_once('/').map_or(name, |(_, last)| last);
    last.split_once(':').map(|(_, tag)| tag).filter(|tag| !tag.is_empty())
}

/// An image reference with another tag: registry and name stay, and a digest goes, since it names the image by itself.
pub fn with_tag(image: &str, tag: &str) -> String {
    let name = image.split_once('@').map_or(image, |(name, _)| name);
    let (path, last) = name.rsplit_once('/').map_or((None, name), |(path, last)| (Some(path), last));
    let last = last.split_once(':').map_or(last, |(last, _)| last);
    path.map_or_else(|| format!("{last}:{tag}"), |path| format!("{path}/{last}:{tag}"))
}

impl FromStr for Version {
    type Err = NotAVersion;

    fn from_str(text: &str) -> Result<Self, NotAVersion> {
        if text.len() > MAX_VERSION_BYTES {
            return Err(NotAVersion);
        }
        let text = text.strip_prefix('v').unwrap_or(text);
        let text = text.split_once('+').map_or(text, |(text, _)| text);
        let (numbers, pre) = match text.split_once('-') {
            Some((_, "")) => return Err(NotAVersion),
            Some((numbers, pre)) => (numbers, pre),
            None => (text, ""),
        };
        let [major, minor, patch] = *numbers.split('.').collect::<Vec<_>>() else { return Err(NotAVersion) };
        let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
            true => text.parse().map_err(|_| NotAVersion),
            false => Err(NotAVersion),
        };
        let [major, minor, patch] = [number(major)?, number(minor)?, number(patch)?];
        if !pre.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-')) {
            return Err(NotAVersion);
        }
        Ok(Self { major, minor, patch, pre: pre_parts(pre), pre_text: pre.to_owned() })
    }
}

fn pre_parts(text: &str) -> Vec<PrePart> {
    let mut parts = Vec::new();
    for identifier in text.split(['.', '-']).filter(|identifier| !identifier.is_empty()) {
        let mut rest = identifier;
        while let Some(first) = rest.bytes().next() {
            let digits = first.is_ascii_digit();
            let end = rest.bytes().position(|byte| byte.is_ascii_digit() != digits).unwrap_or(rest.len());
            let (part, after) = rest.split_at(end);
            // A number that no u64 holds is compared as a word.
            parts.push(match part.parse() {
                Ok(number) if digits => PrePart::Number(number),
                _ => PrePart::Word(part.to_owned()),
            });
            rest = after;
        }
    }
    parts
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_pre = match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            _ => (&self.pre, &self.pre_text).cmp(&(&other.pre, &other.pre_text)),
        };
        self.numbers().cmp(&other.numbers()).then(by_pre)
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { major, minor, patch, pre: _, pre_text } = self;
        write!(f, "v{major}.{minor}.{patch}")?;
        match pre_text.is_empty() {
            true => Ok(()),
            false => write!(f, "-{pre_text}"),
        }
    }
}

/// Versions on whose two sides Rancher's data has forms that do not fit: putting older data in place over it fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Boundary {
    /// The first version on the newer side.
    pub first_newer: (u64, u64, u64),
    /// What changed there, to be read after "at vX.Y.Z".
    pub what: &'static str,
    /// Where that is said.
    pub source: &'static str,
    /// The month in which the source was read.
    pub read: &'static str,
}

const ROLLBACKS_PAGE: &str = "rancher/rancher-docs, versioned_docs/version-2.13/getting-started/\
    installation-and-upgrade/install-upgrade-on-a-kubernetes-cluster/rollbacks.md";

/// The known boundaries, oldest first.
pub const BOUNDARIES: &[Boundary] = &[
    Boundary {
        first_newer: (2, 6, 4),
        what: "Cluster API went from v1alpha4 to v1beta1",
        source: ROLLBACKS_PAGE,
        read: "2026-08",
    },
    Boundary {
        first_newer: (2, 7, 7),
        what: "Cluster API moved into the chart rancher-provisioning-capi",
        source: ROLLBACKS_PAGE,
        read: "2026-08",
    },
    Boundary {
        first_newer: (2, 14, 0),
        what: "Cluster API went from v1beta1 to v1beta2, which its definitions cannot give up while objects exist",
        source: "rancher/rancher-docs, pull requests 2182 and 2268",
        read: "2026-08",
    },
];

/// The newest boundary between two versions, in either direction.
pub fn crosses_boundary(from: &Version, to: &Version) -> Option<&'static Boundary> {
    let is_newer = |version: &Version, boundary: &Boundary| version.numbers() >= boundary.first_newer;
    BOUNDARIES.iter().rev().find(|boundary| is_newer(from, boundary) != is_newer(to, boundary))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        text.parse().unwrap_or_else(|_| panic!("{text} is a version"))
    }

    #[test]
    fn versions_are_ordered_as_they_were_released() {
        let released = ["2.6.4", "v2.9.3-alpha1", "v2.9.3-rc1", "2.9.3-rc2", "v2.9.3-rc10", "v2.9.3", "v2.10.0"];
        for pair in released.windows(2) {
            assert!(version(pair[0]) < version(pair[1]), "{pair:?}");
        }
        assert_eq!(version("v2.9.3"), version("2.9.3+up1.2"));
        assert_eq!(version("2.9.3-rc.1+build").to_string(), "v2.9.3-rc.1");
    }

    #[test]
    fn what_is_no_version_is_not_guessed_at() {
        for text in ["", "v", "head", "v2.9-head", "2.9", "2.9.3.1", "2..3", "+2.9.3", "2.9.-3", "2.9.3-", "v2.9.x"] {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
        assert!("99999999999999999999.0.0".parse::<Version>().is_err());
        assert!(format!("2.9.3-{}", "a".repeat(200)).parse::<Version>().is_err());
        assert!("2.9.3-rc99999999999999999999".parse::<Version>().is_ok());
    }

    #[test]
    fn the_tag_of_an_image_is_neither_port_nor_digest() {
        assert_eq!(Version::of_image("rancher/rancher:v2.9.3"), Some(version("2.9.3")));
        assert_eq!(Version::of_image("reg.example.org:5000/rancher/rancher:v2.9.3"), Some(version("2.9.3")));
        assert_eq!(Version::of_image("reg:5000/rancher/rancher:v2.9.3@sha256:abc"), Some(version("2.9.3")));
        assert_eq!(image_tag("reg:5000/rancher/rancher@sha256:abc"), None);
        assert_eq!(image_tag("reg:5000/rancher/rancher"), None);
        assert_eq!(image_tag("rancher:head"), Some("head"));
    }

    #[test]
    fn a_boundary_is_crossed_in_both_directions_and_by_pre_releases() {
        let crossed =
            |from: &str, to: &str| crosses_boundary(&version(from), &version(to)).map(|boundary| boundary.first_newer);
        assert_eq!(crossed("v2.14.0", "v2.13.4"), Some((2, 14, 0)));
        assert_eq!(crossed("v2.13.4", "v2.14.1"), Some((2, 14, 0)));
        assert_eq!(crossed("v2.14.0-rc1", "v2.13.4"), Some((2, 14, 0)));
        assert_eq!(crossed("v2.14.0", "v2.14.0-rc1"), None);
        assert_eq!(crossed("v2.7.7", "v2.7.6"), Some((2, 7, 7)));
        assert_eq!(crossed("v2.9.3", "v2.6.3"), Some((2, 7, 7)));
        assert_eq!(crossed("v2.9.3", "v2.8.0"), None);
    }
}
