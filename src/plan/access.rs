//! The rights that a plan takes.

use std::collections::{BTreeMap, BTreeSet};

use super::{Change, Plan};
use crate::object::{Resource, StatusPlace, owner};
use crate::observed::{Access, BackupSeen, Observed};

const RBAC: &str = "rbac.authorization.k8s.io";

/// What the executor must be allowed to do, in every namespace, from what the plan would do.
pub fn accesses(plan: &Plan, observed: &Observed) -> BTreeSet<Access> {
    let BackupSeen::Whole(backup) = &observed.backup else { return BTreeSet::new() };
    let mut wanted = Wanted::default();
    for item in &plan.items {
        let resource = &backup.objects[item.backup as usize].key.resource;
        let verbs: &[&str] = match item.change {
            Change::Create => &["create"],
            Change::Update(_) => &["update"],
            Change::Recreate => &["create", "delete"],
            Change::Skip | Change::Protected(_) | Change::NotServed => continue,
        };
        wanted.add(resource, verbs);
        if item.status == StatusPlace::Subresource {
            wanted.verbs(&resource.group, format!("{}/status", resource.plural), &["update"]);
        }
        wanted.grants(resource);
    }
    for deletion in &plan.deletions {
        // Finalizers of what does not go by itself are taken away.
        wanted.add(&observed.live.objects[deletion.live as usize].key.resource, &["delete", "patch"]);
    }
    for workload in &plan.quiesce {
        let group = owner::group_of(&workload.reference.api_version);
        wanted.verbs(group, workload.reference.resource.clone(), &["patch"]);
    }
    wanted.accesses()
}

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
            })
        };
        self.0.into_iter().flat_map(each).collect()
    }
}
