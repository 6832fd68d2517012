//! The rights that a plan takes.

use std::collections::{BTreeMap, BTreeSet};

use super::version::{VersionChange, Way};
use super::{Change, Plan};
use crate::object::normal::CAPI_GROUP;
use crate::object::protect::OPERATOR_GROUP;
use crate::object::{ObjectKey, Resource, StatusPlace, owner};
use crate::observed::{Access, BackupObject, Observed, ReleaseType};
use crate::rancher::{SUDO_ACCOUNT, SUDO_GROUP, is_cluster_api};
use crate::run::NAMESPACE;
use crate::webhook::{Operation, Write};

const RBAC: &str = "rbac.authorization.k8s.io";

/// What the executor must be allowed to do, in every namespace, from what the plan would do.
pub fn accesses(plan: &Plan, observed: &Observed) -> BTreeSet<Access> {
    let objects = observed.backup.whole().map_or(&[][..], |backup| backup.objects.as_slice());
    let version = plan.version.as_ref().filter(|change| change.sets());
    if objects.is_empty() && plan.handover.is_none() && version.is_none() {
        return BTreeSet::new();
    }
    let mut wanted = Wanted::default();
    let (writes, deletes) = match &plan.handover {
        None => (true, true),
        Some(handover) => (handover.repair, handover.native_prune || handover.repair),
    };
    for item in plan.items.iter().filter(|_| writes) {
        let resource = &objects[item.backup as usize].key.resource;
        let verbs: &[&str] = match item.change {
            // What somebody else makes at the same time is read, and replaced.
            Change::Create => &["create", "get", "update"],
            Change::Update(_) => &["get", "update"],
            Change::Recreate => &["create", "delete", "get", "update"],
            Change::Skip | Change::Protected(_) | Change::NotServed => continue,
        };
        wanted.add(resource, verbs);
        if item.status == StatusPlace::Subresource {
            wanted.verbs(&resource.group, format!("{}/status", resource.plural), &["update"]);
        }
        wanted.grants(resource);
    }
    for deletion in plan.deletions.iter().filter(|_| deletes) {
        // What does not go at once is watched, and its finalizers are taken away.
        let verbs = &["delete", "list", "patch", "watch"];
        wanted.add(&observed.live.objects[deletion.live as usize].key.resource, verbs);
    }
    for workload in &plan.quiesce {
        let group = owner::group_of(&workload.reference.api_version);
        wanted.verbs(group, workload.reference.resource.clone(), &["patch"]);
    }
    if plan.stays_up.iter().any(|workload| is_cluster_api(&workload.reference)) {
        // Paused, and given back.
        wanted.verbs(CAPI_GROUP, "clusters".to_owned(), &["get", "list", "patch"]);
    }
    for webhook in &plan.silences {
        // Silenced, and given back.
        wanted.add(&webhook.kind.resource(), &["get", "patch"]);
    }
    for (group, resource, verbs) in READS {
        wanted.verbs(group, (*resource).to_owned(), verbs);
    }
    let mut accesses = wanted.accesses();
    for (group, resource, verbs) in OWN {
        let own = |verb: &&'static str| Access {
            verb,
            group: (*group).to_owned(),
            resource: (*resource).to_owned(),
            namespace: Some(NAMESPACE.to_owned()),
            name: None,
        };
        accesses.extend(verbs.iter().map(own));
    }
    if plan.handover.is_some() {
        let namespace = &observed.guarded.operator_namespace;
        for (group, resource, verbs) in OPERATOR {
            let right = |verb: &&'static str| Access {
                verb,
                group: (*group).to_owned(),
                resource: (*resource).to_owned(),
                namespace: (*group != OPERATOR_GROUP).then(|| namespace.clone()),
                name: None,
            };
            accesses.extend(verbs.iter().map(right));
        }
    }
    accesses.extend(version.into_iter().flat_map(of_version));
    accesses.extend(version.into_iter().flat_map(|change| of_charts(change, observed)));
    if (writes || deletes) && takes_sudo(plan, objects, observed) {
        accesses.extend(impersonation());
    }
    accesses
}

/// What setting the version takes beside the Deployment, which is patched anyway, and beside what the release consists of.
fn of_version(change: &VersionChange) -> Vec<Access> {
    let right = |verb, resource: Resource, namespace: Option<&str>| Access {
        verb,
        group: resource.group,
        resource: resource.plural,
        namespace: namespace.map(str::to_owned),
        name: None,
    };
    let removes = change.removes.iter().flat_map(|object| {
        ["delete", "get"].map(|verb| right(verb, object.resource_type(), object.namespace.as_deref()))
    });
    let makes = change.makes.iter().map(|object| right("create", object.resource_type(), object.namespace.as_deref()));
    let mut rights: Vec<Access> = removes.chain(makes).collect();
    if let Way::Helm { namespace, .. } | Way::Chart { namespace, .. } = &change.way {
        let revisions = Resource::new("", "v1", "secrets");
        rights.extend(
            ["create", "get", "list", "patch", "update"].map(|verb| right(verb, revisions.clone(), Some(namespace))),
        );
    }
    rights
}

/// What helm takes to write the objects of the revision that it goes back to, and to delete what only newer ones have: it acts as we do. Of
/// a type that is not served there is nothing to ask.
fn of_charts(change: &VersionChange, observed: &Observed) -> BTreeSet<Access> {
    let Way::Helm { namespace, revision, .. } = &change.way else { return BTreeSet::new() };
    let releases = &observed.cluster.releases;
    let Some(target) = releases.get(*revision) else { return BTreeSet::new() };
    let left = releases.leftovers(*revision + 1, target);
    let written = target.objects.iter().map(|object| (object, &["create", "get", "patch"][..]));
    let deleted = left.iter().map(|object| (object, &["delete", "get"][..]));
    let mut rights = BTreeSet::new();
    for (object, verbs) in written.chain(deleted) {
        let kind = (object.group().to_owned(), object.kind.clone());
        let Some(ReleaseType { resource, namespaced }) = observed.cluster.release_types.get(&kind) else { continue };
        let within = namespaced.then(|| object.namespace.clone().unwrap_or_else(|| namespace.clone()));
        let mut wanted = Wanted::default();
        wanted.add(resource, verbs);
        if verbs.contains(&"create") {
            wanted.grants(resource);
        }
        rights.extend(wanted.accesses().into_iter().map(|right| Access { namespace: within.clone(), ..right }));
    }
    rights
}

/// Some write goes as rancher-webhook's sudo identity.
fn takes_sudo(plan: &Plan, objects: &[BackupObject], observed: &Observed) -> bool {
    let takes = |key: &ObjectKey, operations: &[Operation], status: bool| {
        let write = |operation, status| Write {
            resource: &key.resource,
            operation,
            status,
            namespace: key.namespace.as_deref(),
            name: &key.name,
        };
        let webhooks = &observed.cluster.webhooks;
        operations.iter().any(|operation| webhooks.takes_sudo(&write(*operation, false)))
            || status && webhooks.takes_sudo(&write(Operation::Update, true))
    };
    // An object that somebody else makes at the same time is replaced.
    let written = plan.items.iter().filter(|item| item.writes()).any(|item| {
        let operations = [Operation::Create, Operation::Update, Operation::Delete];
        let operations = if item.change == Change::Recreate { &operations[..] } else { &operations[..2] };
        takes(&objects[item.backup as usize].key, operations, item.status == StatusPlace::Subresource)
    });
    written
        || plan.deletions.iter().any(|deletion| {
            let key = &observed.live.objects[deletion.live as usize].key;
            takes(key, &[Operation::Delete, Operation::Update], false)
        })
}

fn impersonation() -> [Access; 2] {
    let (namespace, account) = SUDO_ACCOUNT;
    let right = |resource: &str, namespace: Option<&str>, name: &str| Access {
        verb: "impersonate",
        group: String::new(),
        resource: resource.to_owned(),
        namespace: namespace.map(str::to_owned),
        name: Some(name.to_owned()),
    };
    [right("serviceaccounts", Some(namespace), account), right("groups", None, SUDO_GROUP)]
}

/// Group, plural and verbs.
type Rights = [(&'static str, &'static str, &'static [&'static str])];

/// What is looked at whatever the backup holds: facts of Rancher, the Secrets of the manifest, who manages Rancher, which webhooks the writes pass, pods
/// while they go.
const READS: &Rights = &[
    ("", "namespaces", &["get", "list"]),
    ("", "pods", &["list", "watch"]),
    ("", "secrets", &["get", "list"]),
    ("", "serviceaccounts", &["get"]),
    ("", "services", &["get"]),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations", &["get", "list"]),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations", &["get", "list"]),
    ("apiextensions.k8s.io", "customresourcedefinitions", &["get", "list", "watch"]),
    ("apps", "deployments", &["get", "list", "watch"]),
    ("apps", "statefulsets", &["get", "list", "watch"]),
    ("discovery.k8s.io", "endpointslices", &["list"]),
    ("autoscaling", "horizontalpodautoscalers", &["list"]),
    ("helm.cattle.io", "helmcharts", &["list"]),
    ("keda.sh", "scaledobjects", &["list"]),
    ("management.cattle.io", "settings", &["get"]),
    ("resources.cattle.io", "backups", &["list"]),
    ("resources.cattle.io", "restores", &["list"]),
];

/// The lease and the record of runs, in our own namespace.
const OWN: &Rights = &[
    ("coordination.k8s.io", "leases", &["create", "get", "update"]),
    ("reinback.io", "runs", &["create", "get", "list"]),
    ("reinback.io", "runs/status", &["update"]),
];

/// What is handed to the operator, and how it is followed and stopped; in its namespace, but for Restores, which have none.
const OPERATOR: &Rights = &[
    (OPERATOR_GROUP, "restores", &["create", "delete", "get", "list", "watch"]),
    ("coordination.k8s.io", "leases", &["get", "list", "watch"]),
    ("", "pods/log", &["get"]),
    ("apps", "deployments", &["patch"]),
];

/// Verbs by group and resource: many objects, few rights.
#[derive(Default)]
struct Wanted(BTreeMap<(String, String), BTreeSet<&'static str>>);

impl Wanted {
    fn add(&mut self, resource: &Resource, verbs: &[&'static str]) {
        self.verbs(&resource.group, resource.plural.clone(), verbs);
    }

    fn verbs(&mut self, group: &str, resource: String, verbs: &[&'static str]) {
        self.0.entry((group.to_owned(), resource)).or_default().extend(verbs);
    }

    /// Who writes a role with rights that he does not have needs `escalate` on it; who binds such a role, `bind`.
    fn grants(&mut self, resource: &Resource) {
        if resource.group != RBAC {
            return;
        }
        match resource.plural.as_str() {
            "roles" | "clusterroles" => self.add(resource, &["escalate"]),
            "clusterrolebindings" => self.verbs(RBAC, "clusterroles".to_owned(), &["bind"]),
            "rolebindings" => {
                self.verbs(RBAC, "clusterroles".to_owned(), &["bind"]);
                self.verbs(RBAC, "roles".to_owned(), &["bind"]);
            }
            _ => {}
        }
    }

    fn accesses(self) -> BTreeSet<Access> {
        let each = |((group, resource), verbs): ((String, String), BTreeSet<&'static str>)| {
            verbs.into_iter().map(move |verb| Access {
                verb,
                group: group.clone(),
                resource: resource.clone(),
                namespace: None,
                name: None,
            })
        };
        self.0.into_iter().flat_map(each).collect()
    }
}
