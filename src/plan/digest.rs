//! The digest of a plan: what an approval in Git covers (invariant 9).

use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::{Change, Handover, Plan};
use crate::object::Resource;
use crate::observed::{BackupSeen, Observed};

/// `sha256:…` over key, backup, engine, deletions, CRD changes, accepted gates, silenced webhooks and how the version is set.
///
/// Of what a deletion takes along, short-lived objects (Pods, events) are left out.
/// Which writes can be skipped is not in it: a running Rancher changes that by the minute.
pub fn of(plan: &Plan, observed: &Observed) -> String {
    let deletion = |deletion: &super::Deletion| {
        let object = &observed.live.objects[deletion.live as usize];
        let along = deletion.takes_along.iter().filter(|key| !is_volatile(&key.resource));
        let along: Vec<String> = along.map(ToString::to_string).collect();
        json!([object.key.to_string(), along])
    };
    let mut covered = json!({
        "version": "reinback plan v1",
        "key": plan.request.key,
        "backup": plan.backup.as_ref().map(|backup| &backup.sha256),
        "engine": plan.engine,
        "deletions": plan.deletions.iter().map(deletion).collect::<Vec<_>>(),
        "crds": crd_changes(plan, observed),
        "accepted": plan.gates.iter().filter(|gate| gate.accepted).map(|gate| gate.code.as_str()).collect::<Vec<_>>(),
    });
    // Left out where there is none, so that plans that were approved before there was such a thing stay approved.
    if !plan.silences.is_empty() {
        covered["silences"] = json!(plan.silences);
    }
    if let Some(version) = &plan.version {
        let mut way = json!(version.way);
        // A manifest that is given an approval gets another commit by that.
        if let Some(way) = way.as_object_mut() {
            way.remove("commit");
        }
        covered["setsVersion"] = json!({ "to": version.to, "way": way, "removes": version.removes });
        if !version.makes.is_empty() {
            covered["setsVersion"]["makes"] = json!(version.makes);
        }
    }
    if let Some(Handover { restore: _, prune, native_prune: _, repair, unreadable, overwrites: _, stuck: _ }) =
        &plan.handover
    {
        covered["handover"] = json!({ "prune": prune, "repair": repair, "unread": unreadable.is_some() });
    }
    let hash = Sha256::digest(covered.to_string().as_bytes());
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// Controllers make these anew all the time, under other names: an approval that named them would not hold for a minute.
fn is_volatile(resource: &Resource) -> bool {
    matches!(
        (resource.group.as_str(), resource.plural.as_str()),
        ("", "pods" | "events" | "endpoints")
            | ("events.k8s.io", "events")
            | ("apps", "replicasets" | "controllerrevisions")
            | ("batch", "jobs")
            | ("discovery.k8s.io", "endpointslices")
            | ("coordination.k8s.io", "leases")
    )
}

fn crd_changes(plan: &Plan, observed: &Observed) -> Vec<String> {
    let BackupSeen::Whole(backup) = &observed.backup else { return Vec::new() };
    let changed = plan.items.iter().filter(|item| item.writes()).filter_map(|item| {
        let key = &backup.objects[item.backup as usize].key;
        let word = match item.change {
            Change::Create => "create",
            Change::Update(_) => "update",
            Change::Recreate => "recreate",
            Change::Skip | Change::Protected(_) | Change::NotServed => return None,
        };
        key.resource.is_crd().then(|| format!("{word} {}", key.name))
    });
    changed.collect()
}
