//! The plan for machines.

use serde_json::{Value, json};

use super::{COLUMNS, Plan, Row, Verbosity, objects, reasons, rows, whole, word};
use crate::object::ObjectKey;
use crate::observed::{Observed, Workload};
use crate::plan::gates::source::running;
use crate::plan::{Change, Deletion, Handover, is_same_cluster, printable};

/// The plan as JSON. Members are added in later versions, never renamed; each of these is always there.
///
/// ```text
/// manifest    {kind, name, key}
/// at          time of the look at the cluster, RFC 3339
/// engine      native or operator
/// digest      sha256:…, what an approval covers
/// empty       nothing would be written or deleted
/// held        a gate keeps it from running
/// prunes      prune happens
/// operator    null, or {restore, prune, nativePrune, repair, unreadable: text or null, overwrites: [{object, reason}],
///             stuck: [{object, why}]}: what the operator is handed
/// version     null, or {from?, to, method: keep, helm, chart or image, release?, namespace?, revision?, newest?, image?, had?,
///             chart?, chartVersion?, sha256?, commit?, values?: revision, removes?, makes?}
/// backup      null, or {name, sha256, sizeBytes, rancherVersion?, clusterUid?, takenAt?, sameCluster}
/// cluster     {uid, rancherVersion: text or null}
/// gates       [{code, class, message, remedy, accepted}]
/// counts      {created, updated, recreated, deleted, skipped, protected, failed}
/// resources   [{resource, create, update, recreate, delete, equal, protected, notServed}], the last one `all` when there are two
/// objects     [{object, change, why: [text]}] in the order of writing; those that are equal only with `-v`
/// deletions   [{object, wave, takesAlong: [object]}] in the order of deletion, all of them
/// spared      [{object, reason}]
/// quiesce     [{workload, replicas, recorded: number or null}]
/// staysUp     [workload]
/// silences    [{kind, name, webhook}]: webhooks that nobody answers, silenced while it writes
/// missingOwners [{object, owner}]
/// cycles      [object]
/// refused     [{object, why}]: what the API server would not take
/// warnings    [text]
/// ```
/// An object is named by its path in a backup: `secrets.#v1/cattle-system/tls-rancher`.
pub fn json(plan: &Plan, observed: &Observed, verbosity: Verbosity) -> Value {
    let Plan {
        request,
        at,
        engine,
        backup,
        items: _, // objects() and rows()
        deletions,
        spared,
        prunes,
        handover,
        version,
        other_cluster: _, // `backup.sameCluster`
        quiesce,
        stays_up,
        silences,
        missing_owners,
        cycles,
        refused,
        gates,
        warnings,
        digest,
    } = plan;
    let mut backup = json!(backup);
    if let (Some(record), Some(whole)) = (backup.as_object_mut(), whole(observed)) {
        record.insert("sameCluster".to_owned(), json!(is_same_cluster(whole, &observed.cluster)));
    }
    let changes =
        objects(plan, observed).filter(|(_, change)| verbosity == Verbosity::Objects || *change != Change::Skip);
    json!({
        "manifest": { "kind": request.kind, "name": request.name, "key": request.key },
        "at": at,
        "engine": engine,
        "digest": digest,
        "empty": plan.is_empty(),
        "held": plan.holding().next().is_some(),
        "prunes": prunes,
        "operator": handover.as_ref().map(handed),
        "version": version,
        "backup": backup,
        "cluster": {
            "uid": observed.cluster.uid,
            "rancherVersion": running(&observed.cluster).map(|running| running.text),
        },
        "gates": gates,
        "counts": plan.counts(),
        "resources": rows(plan, observed).iter().map(row).collect::<Vec<_>>(),
        "objects": changes.map(|(key, change)| object(key, change)).collect::<Vec<_>>(),
        "deletions": deletions.iter().map(|each| deletion(each, observed)).collect::<Vec<_>>(),
        "spared": spared
            .iter()
            .map(|(key, protection)| json!({ "object": key.to_string(), "reason": protection.reason() }))
            .collect::<Vec<_>>(),
        "quiesce": quiesce.iter().map(workload).collect::<Vec<_>>(),
        "staysUp": stays_up.iter().map(|workload| workload.reference.to_string()).collect::<Vec<_>>(),
        "silences": silences,
        "missingOwners": missing_owners
            .iter()
            .map(|(key, owner)| json!({ "object": key.to_string(), "owner": owner }))
            .collect::<Vec<_>>(),
        "cycles": names(cycles),
        "refused": refused
            .iter()
            .map(|(key, why)| json!({ "object": key.to_string(), "why": why }))
            .collect::<Vec<_>>(),
        "warnings": warnings,
    })
}

fn handed(handover: &Handover) -> Value {
    let Handover { restore, prune, native_prune, repair, unreadable, overwrites, stuck } = handover;
    json!({
        "restore": restore,
        "prune": prune,
        "nativePrune": native_prune,
        "repair": repair,
        "unreadable": unreadable.as_deref().map(printable),
        "overwrites": overwrites
            .iter()
            .map(|(key, why)| json!({ "object": key.to_string(), "reason": why.reason() }))
            .collect::<Vec<_>>(),
        "stuck": stuck.iter().map(|(key, why)| json!({ "object": key.to_string(), "why": why })).collect::<Vec<_>>(),
    })
}

fn names(keys: &[ObjectKey]) -> Vec<String> {
    keys.iter().map(ToString::to_string).collect()
}

fn row(row: &Row) -> Value {
    let Row { resource, counts } = row;
    let mut value = json!({ "resource": resource });
    for (column, count) in COLUMNS.iter().zip(counts) {
        value[column.replace("not served", "notServed")] = json!(count);
    }
    value
}

fn object(key: &ObjectKey, change: Change) -> Value {
    json!({ "object": key.to_string(), "change": word(change).replace("not served", "notServed"), "why": reasons(change) })
}

fn deletion(deletion: &Deletion, observed: &Observed) -> Value {
    let Deletion { live, wave, takes_along } = deletion;
    json!({
        "object": observed.live.objects[*live as usize].key.to_string(),
        "wave": wave.as_str(),
        "takesAlong": names(takes_along),
    })
}

fn workload(workload: &Workload) -> Value {
    json!({
        "workload": workload.reference.to_string(),
        "replicas": workload.replicas,
        "recorded": workload.recorded,
    })
}
