//! What a restore neither overwrites nor prunes, and why (invariant 6).

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use super::binding::{Identity, Role};
use super::{ObjectKey, Resource, Summary};
use crate::journal::WorkloadRef;
use crate::rancher::migration::OLD_LOCAL;
use crate::run::NAMESPACE;

/// Our own API group.
pub const GROUP: &str = "reinback.io";
/// The group of the rancher-backup operator.
pub const OPERATOR_GROUP: &str = "resources.cattle.io";

/// Why an object is left as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protection {
    Own,
    OwnCredential,
    Operator,
    OperatorSecret,
    HelmRelease,
    SystemRbac,
    KubeNamespace,
    RancherDeployment,
    StaysUp,
    /// A Secret with which a webhook that stays up serves.
    Serving,
    Builtin,
    ClusterRegistration,
    /// Of a backup of another cluster: what Rancher and Fleet say of the cluster that they run in.
    OldLocalCluster,
    /// Only in the plan of a backup's object: a webhook configuration that would be made, and whose Service is nowhere.
    NoService,
    /// The cluster's own CA, which the controller manager publishes in every namespace.
    ClusterCa,
    /// Live, deleted, and waiting for its finalizers. Only in the plan of a backup's object.
    Terminating,
    /// A token Secret whose ServiceAccount is nowhere. Only in the plan of a backup's object.
    NoAccount,
    /// Only spared by prune.
    Needed,
    /// Only spared by prune: Kubernetes would make it again at once.
    ComesWithNamespace,
}

impl Protection {
    pub fn reason(self) -> &'static str {
        match self {
            Self::Own => "belongs to reinback",
            Self::OwnCredential => "is what reinback itself acts by",
            Self::Operator => "belongs to the rancher-backup operator",
            Self::OperatorSecret => "is in use by the rancher-backup operator or by this restore",
            Self::HelmRelease => "is Helm's record of a release",
            Self::SystemRbac => "is RBAC of Kubernetes itself",
            Self::KubeNamespace => "lies in a namespace of Kubernetes itself",
            Self::RancherDeployment => "is the Deployment of Rancher, whose version a Restore does not change",
            Self::StaysUp => "answers webhooks that the writes pass through, and so stays as it is",
            Self::Serving => "is in use by who answers webhooks that the writes pass through, and so stays as it is",
            Self::Builtin => "is built in and kept by Rancher",
            Self::ClusterRegistration => "is made anew by Fleet for each registration",
            Self::OldLocalCluster => {
                "describes the cluster that the backup's Rancher ran in, and Rancher makes it anew for this one"
            }
            Self::NoService => {
                "is a webhook whose Service is neither here nor in the backup: with it, what it is asked about could not be \
                 written; what serves it makes it again"
            }
            Self::ClusterCa => "is the CA of this cluster, which Kubernetes writes into every namespace",
            Self::Terminating => "is on its way out, and waits for its finalizers",
            Self::NoAccount => "is a token of a ServiceAccount that is nowhere, and would be deleted at once",
            Self::Needed => "holds, defines or owns objects of the backup",
            Self::ComesWithNamespace => "is made by Kubernetes in every namespace",
        }
    }
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

/// What must be known of the installation to say what is protected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guarded {
    pub rancher_namespace: String,
    pub rancher_deployment: String,
    pub operator_namespace: String,
    /// Secrets that the operator, one of its Backups and Restores, this manifest or our configuration names.
    pub operator_secrets: BTreeSet<SecretRef>,
    /// Whom the API server takes us for.
    pub identity: Identity,
    /// What the bindings of that identity give.
    pub own_roles: BTreeSet<Role>,
    /// Controllers that are not quiesced, since the API server asks them about the writes.
    pub stays_up: BTreeSet<WorkloadRef>,
    /// The backup is of another cluster.
    pub other_cluster: bool,
    /// Secrets with which those serve, by namespace and name.
    pub serving: BTreeSet<(String, String)>,
}

/// Namespace and name of a Secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretRef {
    pub namespace: String,
    pub name: String,
}

/// Says why an object is left as it is, whether it stands in the backup or only in the cluster.
///
/// `exists` tells whether it is live: what is missing may be made, for that overwrites nothing.
pub fn protection(key: &ObjectKey, summary: &Summary, exists: bool, guarded: &Guarded) -> Option<Protection> {
    let resource = key.resource.as_ref();
    let name = key.name.as_ref();
    let traits = summary.particulars().traits;
    if is_own(resource, key) {
        return Some(Protection::Own);
    }
    if resource.group == OPERATOR_GROUP || (resource.is_crd() && name.ends_with(".resources.cattle.io")) {
        return Some(Protection::Operator);
    }
    let in_rancher_namespace = key.namespace.as_deref() == Some(&guarded.rancher_namespace);
    if resource.is("apps", "deployments") && in_rancher_namespace && name == guarded.rancher_deployment {
        return Some(Protection::RancherDeployment);
    }
    if guarded.stays_up.iter().any(|workload| workload.names(key)) {
        return Some(Protection::StaysUp);
    }
    if traits.cluster_registration {
        return Some(Protection::ClusterRegistration);
    }
    if traits.helm_release || is_named_as_helm_release(key) {
        return Some(Protection::HelmRelease);
    }
    if is_cluster_ca(key) {
        return Some(Protection::ClusterCa);
    }
    if guarded.other_cluster && OLD_LOCAL.iter().any(|local| local.is(key)) {
        return Some(Protection::OldLocalCluster);
    }
    // What follows guards what is there: an object that is missing may be made.
    if !exists {
        return None;
    }
    guards_live(key, summary, guarded)
}

fn guards_live(key: &ObjectKey, summary: &Summary, guarded: &Guarded) -> Option<Protection> {
    let name = key.name.as_ref();
    let traits = summary.particulars().traits;
    if traits.builtin {
        return Some(Protection::Builtin);
    }
    if is_own_credential(key, summary, guarded) {
        return Some(Protection::OwnCredential);
    }
    if key.resource.is("", "secrets") && is_in_use(key, traits.service_account_token, guarded) {
        return Some(Protection::OperatorSecret);
    }
    if key.resource.is("", "secrets") && is_serving(key, guarded) {
        return Some(Protection::Serving);
    }
    if is_rbac(&key.resource) && (name.starts_with("system:") || traits.bootstrapping || name == "cluster-admin") {
        return Some(Protection::SystemRbac);
    }
    is_kube_namespace(key).then_some(Protection::KubeNamespace)
}

fn is_serving(key: &ObjectKey, guarded: &Guarded) -> bool {
    let namespace = key.namespace.as_deref().unwrap_or_default().to_owned();
    guarded.serving.contains(&(namespace, key.name.to_string()))
}

/// The account that we are, its tokens, what binds it, and the roles that it is bound to.
fn is_own_credential(key: &ObjectKey, summary: &Summary, guarded: &Guarded) -> bool {
    let Guarded { identity, own_roles, .. } = guarded;
    let namespace = key.namespace.as_deref();
    let is_account = |name: &str| identity.account().is_some_and(|account| account == (namespace.unwrap_or(""), name));
    let is_role = || {
        let plural = key.resource.plural.as_str();
        let role = Role { namespace: key.namespace.clone(), name: Arc::clone(&key.name) };
        matches!(plural, "roles" | "clusterroles") && is_rbac(&key.resource) && own_roles.contains(&role)
    };
    key.resource.is("", "serviceaccounts") && is_account(&key.name)
        || summary.particulars().token.as_deref().is_some_and(|token| is_account(&token.account))
        || summary.particulars().binding.as_deref().is_some_and(|binding| binding.binds(identity))
        || is_role()
}

fn is_in_use(key: &ObjectKey, is_token: bool, guarded: &Guarded) -> bool {
    let namespace = key.namespace.as_deref().unwrap_or_default();
    let secret = SecretRef { namespace: namespace.to_owned(), name: key.name.to_string() };
    guarded.operator_secrets.contains(&secret) || (is_token && namespace == guarded.operator_namespace)
}

/// Why a namespace is not deleted, though it might be written: what lies in it would go along.
pub fn sheltered(key: &ObjectKey, guarded: &Guarded) -> Option<Protection> {
    if !key.resource.is_namespace() {
        return None;
    }
    let name = key.name.as_ref();
    let Guarded { rancher_namespace, rancher_deployment: _, operator_namespace, operator_secrets, identity, .. } =
        guarded;
    if identity.account().is_some_and(|(namespace, _)| namespace == name) {
        return Some(Protection::OwnCredential);
    }
    if name == operator_namespace {
        return Some(Protection::Operator);
    }
    if name == rancher_namespace {
        return Some(Protection::RancherDeployment);
    }
    operator_secrets.iter().any(|secret| secret.namespace == name).then_some(Protection::OperatorSecret)
}

/// Helm keeps its releases in ConfigMaps where it is told to (`HELM_DRIVER`).
fn is_named_as_helm_release(key: &ObjectKey) -> bool {
    let keeps = key.resource.is("", "secrets") || key.resource.is("", "configmaps");
    keeps && key.name.starts_with("sh.helm.release.v1.")
}

fn is_own(resource: &Resource, key: &ObjectKey) -> bool {
    resource.group == GROUP
        || key.namespace.as_deref() == Some(NAMESPACE)
        || (resource.is_namespace() && key.name.as_ref() == NAMESPACE)
        || (resource.is_crd() && key.name.ends_with(".reinback.io"))
}

/// Of another cluster, or of a CA that was renewed since, it would cut every pod of the namespace off the API server.
fn is_cluster_ca(key: &ObjectKey) -> bool {
    key.resource.is("", "configmaps") && key.name.as_ref() == "kube-root-ca.crt"
}

/// Whether protection and recreation of a type go by more than an object's name and labels.
pub fn goes_by_content(resource: &Resource) -> bool {
    is_rbac(resource)
        || resource.is_crd()
        || resource.is("", "secrets")
        || matches!(resource.plural.as_str(), "globalroles" | "roletemplates")
}

fn is_kube_namespace(key: &ObjectKey) -> bool {
    let namespace = match key.resource.is_namespace() {
        true => Some(&key.name),
        false => key.namespace.as_ref(),
    };
    namespace.is_some_and(|namespace| namespace.starts_with("kube-"))
}

pub(super) fn is_rbac(resource: &Resource) -> bool {
    resource.group == "rbac.authorization.k8s.io"
}
