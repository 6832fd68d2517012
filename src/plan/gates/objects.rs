//! Gates about the objects that are written or deleted.

use std::collections::{BTreeMap, BTreeSet};

use super::{View, count, listed, operator};
use crate::object::crd::CrdSummary;
use crate::object::protect::Protection;
use crate::object::{ObjectKey, Resource};
use crate::observed::{BackupObject, LiveObject};
use crate::plan::gate::{Gate, GateCode};
use crate::plan::{Change, Deletion, Item, printable};
use crate::rancher::CLUSTER_TYPES;

impl<'a> View<'a> {
    pub(super) fn items(&self) -> impl Iterator<Item = (&'a Item, &'a BackupObject)> {
        let objects = self.backup.map_or(&[][..], |backup| backup.objects.as_slice());
        self.plan.items.iter().filter_map(move |item| Some((item, objects.get(item.backup as usize)?)))
    }

    pub(super) fn deletions(&self) -> impl Iterator<Item = (&'a Deletion, &'a LiveObject)> {
        let objects = &self.observed.live.objects;
        self.plan.deletions.iter().filter_map(move |deletion| Some((deletion, objects.get(deletion.live as usize)?)))
    }

    /// All that goes: what is deleted, and what is taken along.
    fn going(&self) -> impl Iterator<Item = &'a ObjectKey> {
        self.deletions().flat_map(|(deletion, object)| [&object.key].into_iter().chain(&deletion.takes_along))
    }
}

pub(super) fn namespace_terminating(view: &View<'_>) -> Option<Gate> {
    let terminating = &view.observed.cluster.terminating_namespaces;
    let needed: BTreeSet<&str> = view
        .items()
        .filter(|(item, _)| item.writes())
        .filter_map(|(_, object)| match object.key.resource.is_namespace() {
            true => Some(object.key.name.as_ref()),
            false => object.key.namespace.as_deref(),
        })
        .filter(|namespace| terminating.contains(*namespace))
        .collect();
    (!needed.is_empty()).then(|| {
        let names = needed.len();
        Gate::new(
            GateCode::NamespaceTerminating,
            format!("the backup writes into {} on the way out: {}", count(names, "namespace"), listed(needed)),
            "it begins when they are gone; `kubectl get namespace NAME -o yaml` says what they wait for",
        )
    })
}

pub(super) fn resource_not_served(view: &View<'_>) -> Option<Gate> {
    let mut types: BTreeMap<&Resource, usize> = BTreeMap::new();
    for (item, object) in view.items() {
        if item.change == Change::NotServed {
            *types.entry(&object.key.resource).or_default() += 1;
        }
    }
    (!types.is_empty()).then(|| {
        let total = types.values().sum();
        let counted = types
            .iter()
            .map(|(resource, number)| format!("{} {} ({number})", resource.group_resource(), resource.version));
        let message = format!(
            "the cluster does not serve the types of {} of the backup: {}",
            count(total, "object"),
            listed(counted)
        );
        view.acceptable(
            GateCode::ResourceNotServed,
            message,
            "install what serves it, at the version that the backup has",
            "skips these objects",
        )
    })
}

/// Of definitions that are written, or that objects are written by.
pub(super) fn crd_versions_kept(view: &View<'_>) -> Option<Gate> {
    let written: BTreeSet<(&str, &str)> = view
        .items()
        .filter(|(item, _)| item.writes())
        .map(|(_, object)| (object.key.resource.group.as_str(), object.key.resource.plural.as_str()))
        .collect();
    let kept: Vec<String> = view
        .items()
        .filter(|(item, _)| item.writes() || item.change == Change::Skip)
        .filter_map(|(item, object)| {
            let live = view.observed.live.objects.get(item.live? as usize)?.summary.particulars().crd.as_deref()?;
            let backup = object.summary.particulars().crd.as_deref()?;
            let matters = item.writes() || written.contains(&(backup.group.as_str(), backup.plural.as_str()));
            matters.then(|| said_of_kept(&object.key, backup, live)).flatten()
        })
        .collect();
    (!kept.is_empty()).then(|| {
        view.acceptable(
            GateCode::CrdVersionsKept,
            format!(
                "{} versions that the backup does not have, since objects are stored at them: {}",
                match kept.len() {
                    1 => "1 live definition keeps".to_owned(),
                    more => format!("{more} live definitions keep"),
                },
                listed(&kept)
            ),
            "store their objects at a version of the backup, and take the others out of `status.storedVersions`",
            "writes the backup's definitions with those versions beside them, not used for storage",
        )
    })
}

/// `clusters.cluster.x-k8s.io (v1beta2, …)`; `None` when nothing is kept.
fn said_of_kept(key: &ObjectKey, backup: &CrdSummary, live: &CrdSummary) -> Option<String> {
    let kept: Vec<&str> = backup.versions_to_keep(live).collect();
    if kept.is_empty() {
        return None;
    }
    let stored = match (backup.storage_version(), live.storage_version()) {
        (Some(backup), Some(live)) if backup != live => format!(", stored as {backup} again"),
        _ => String::new(),
    };
    let relabelled = match backup.converts {
        true => "",
        false => ", without conversion: fields that only one version knows are lost in the others",
    };
    Some(format!("{} ({}{stored}{relabelled})", key.name, kept.join(", ")))
}

pub(super) fn owner_missing(view: &View<'_>) -> Option<Gate> {
    let missing = &view.plan.missing_owners;
    (!missing.is_empty()).then(|| {
        let named = missing.iter().map(|(key, owner)| format!("{key} (owner {owner})"));
        view.acceptable(
            GateCode::OwnerMissing,
            format!(
                "{} to an owner that is neither in the backup nor in the cluster: {}",
                match missing.len() {
                    1 => "1 reference leads".to_owned(),
                    more => format!("{more} references lead"),
                },
                listed(named)
            ),
            "name a backup that has the owners",
            "drops the dead references, so that these objects outlive what made them",
        )
    })
}

pub(super) fn recreates(view: &View<'_>) -> Option<Gate> {
    let keys: Vec<&ObjectKey> =
        view.items().filter(|(item, _)| item.change == Change::Recreate).map(|(_, object)| &object.key).collect();
    (!keys.is_empty()).then(|| {
        view.acceptable(
            GateCode::Recreates,
            format!("{} in a field that never changes: {}", differ(keys.len()), listed(&keys)),
            "delete them by hand before the restore",
            "deletes each and makes it anew at once",
        )
    })
}

fn differ(number: usize) -> String {
    match number {
        1 => "1 live object differs".to_owned(),
        more => format!("{more} live objects differ"),
    }
}

pub(super) fn object_terminating(view: &View<'_>) -> Option<Gate> {
    if view.resuming() {
        return None;
    }
    let terminating = Change::Protected(Protection::Terminating);
    let keys: Vec<&ObjectKey> =
        view.items().filter(|(item, _)| item.change == terminating).map(|(_, object)| &object.key).collect();
    (!keys.is_empty()).then(|| {
        view.acceptable(
            GateCode::ObjectTerminating,
            format!("{} of the backup on the way out: {}", count(keys.len(), "live object"), listed(&keys)),
            "wait until their finalizers are done, so that they are made anew",
            "leaves them as they are; they vanish when their finalizers are done, and are not made again",
        )
    })
}

pub(super) fn prune_deletes_clusters(view: &View<'_>) -> Option<Gate> {
    let keys: BTreeSet<&ObjectKey> = view.going().filter(|key| is_cluster(&key.resource)).collect();
    (!keys.is_empty()).then(|| {
        view.acceptable(
            GateCode::PruneDeletesClusters,
            format!(
                "prune would delete {} of clusters or of their machines: {}",
                count(keys.len(), "object"),
                listed(&keys)
            ),
            "set `prune: false`, or delete these clusters in Rancher first, so that it cleans up after them",
            "deletes them; what they stand for (virtual machines, volumes, load balancers) may be left behind",
        )
    })
}

/// Objects whose deletion destroys a cluster, or cuts it off.
fn is_cluster(resource: &Resource) -> bool {
    let is = |(group, plurals): &(&str, &[&str])| {
        resource.group == *group && (plurals.is_empty() || plurals.contains(&resource.plural.as_str()))
    };
    CLUSTER_TYPES.iter().any(is)
}

pub(super) fn prune_deletes_namespaces(view: &View<'_>) -> Option<Gate> {
    let namespaces = view.going().filter(|key| key.resource.is_namespace());
    let mut holding: BTreeMap<&str, usize> = namespaces.map(|key| (key.name.as_ref(), 0)).collect();
    // Whichever deletion reaches an object first: an owner of it may go beside the namespace that it lies in.
    for key in view.deletions().flat_map(|(deletion, _)| &deletion.takes_along) {
        let held = key.namespace.as_deref().and_then(|namespace| holding.get_mut(namespace));
        if let Some(held) = held.filter(|_| !comes_with_namespace(key)) {
            *held += 1;
        }
    }
    for (name, held) in &mut holding {
        let pods = view.observed.cluster.occupied_namespaces.get(*name).copied().unwrap_or_default();
        *held = (*held).max(usize::try_from(pods).unwrap_or(usize::MAX));
    }
    holding.retain(|_, held| *held > 0);
    (!holding.is_empty()).then(|| {
        let named = holding.iter().map(|(name, held)| format!("{name} ({})", count(*held, "object")));
        view.acceptable(
            GateCode::PruneDeletesNamespaces,
            format!(
                "prune would delete {} with objects that no backup of this kind holds: {}",
                count(holding.len(), "namespace"),
                listed(named)
            ),
            "set `prune: false`, or move what is in them",
            "deletes these namespaces with all that is in them",
        )
    })
}

/// Kubernetes puts these into every namespace.
fn comes_with_namespace(key: &ObjectKey) -> bool {
    match (key.resource.group.as_str(), key.resource.plural.as_str()) {
        ("", "configmaps") => key.name.as_ref() == "kube-root-ca.crt",
        ("", "serviceaccounts") => key.name.as_ref() == "default",
        ("" | "events.k8s.io", "events") => true,
        _ => false,
    }
}

pub(super) fn prune_deletes_crds(view: &View<'_>) -> Option<Gate> {
    let mut by_type: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for key in view.deletions().flat_map(|(deletion, _)| &deletion.takes_along) {
        *by_type.entry((&key.resource.plural, &key.resource.group)).or_default() += 1;
    }
    let crds = view.deletions().filter(|(_, object)| object.key.resource.is_crd());
    let held = crds.map(|(deletion, object)| {
        let name = &object.key.name;
        // Its objects may go along with an owner before they go with it, and what they own goes along with them.
        let own = name.split_once('.').and_then(|name| by_type.get(&name).copied()).unwrap_or_default();
        (name, own.max(deletion.takes_along.len()))
    });
    let holding: Vec<String> =
        held.filter(|(_, held)| *held > 0).map(|(name, held)| format!("{name} ({})", count(held, "object"))).collect();
    (!holding.is_empty()).then(|| {
        view.acceptable(
            GateCode::PruneDeletesCrds,
            format!(
                "prune would delete {} with objects that no selector of the backup matches: {}",
                count(holding.len(), "CustomResourceDefinition"),
                listed(holding)
            ),
            "set `prune: false`, or remove what brought these definitions",
            "deletes these definitions with all objects of their types",
        )
    })
}

pub(super) fn prune_share(view: &View<'_>) -> Option<Gate> {
    let limit = view.plan.request.max_prune_share_percent;
    let deleted = view.plan.deletions.len();
    let selected = view.observed.live.objects.iter().filter(|object| object.selected).count();
    let exceeds = deleted.saturating_mul(100) > selected.saturating_mul(usize::from(limit));
    exceeds.then(|| {
        view.acceptable(
            GateCode::PruneShare,
            format!(
                "prune would delete {deleted} of the {} that the backup's selectors match: more than {limit} %",
                count(selected, "object")
            ),
            "set `prune: false`, name a newer backup, or raise `policy.maxPruneShare`",
            "deletes them all",
        )
    })
}

pub(super) fn plan_incomplete(view: &View<'_>) -> Option<Gate> {
    let unlisted = &view.observed.live.unlisted;
    // Without prune a selector decides nothing.
    let unread = view.backup.filter(|_| view.plan.prunes).map_or(&[][..], |backup| &backup.unknown_fields);
    let types = (!unlisted.is_empty()).then(|| {
        let names = listed(unlisted.iter().map(|(resource, _)| resource));
        format!("{} could not be listed: {names}", count(unlisted.len(), "type"))
    });
    let fields = (!unread.is_empty()).then(|| {
        let names = listed(unread.iter().map(|field| printable(field)));
        format!("selectors of the backup have fields that this version does not know and that may narrow them: {names}")
    });
    let parts = [
        types.map(|message| {
            let remedy = "repair what serves them (`kubectl get apiservices`), so that the plan knows what is there";
            let effect = "plans as if there were no such objects: they are written without a comparison, and none of them is pruned";
            (message, remedy, effect)
        }),
        fields.map(|message| {
            let remedy = "set `prune: false`, or install a version of reinback that knows them";
            (message, remedy, "passes over the fields, so that more may be pruned than was backed up")
        }),
        operator::prunes_unread(view),
    ];
    let parts: Vec<(String, &str, &str)> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| {
        let message: Vec<&str> = parts.iter().map(|(message, ..)| message.as_str()).collect();
        let remedy: Vec<&str> = parts.iter().map(|(_, remedy, _)| *remedy).collect();
        let effect: Vec<&str> = parts.iter().map(|(.., effect)| *effect).collect();
        view.acceptable(GateCode::PlanIncomplete, message.join("; "), &remedy.join("; "), &effect.join("; "))
    })
}
