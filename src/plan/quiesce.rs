//! Who is scaled down, who stays up, and who comes up only at resume.

use super::{Change, Item};
use crate::journal::{PausedCluster, WorkloadRef};
use crate::object::ObjectKey;
use crate::observed::{Backup, Workload};
use crate::rancher::{WRITERS, Writer};

/// Splits the workloads that write beside a restore: those to scale to 0, Rancher first, and those that stay up
/// because the API server asks them about the very writes of the restore.
pub fn split(workloads: &[Workload]) -> (Vec<Workload>, Vec<Workload>) {
    let (stays_up, mut quiesce): (Vec<_>, Vec<_>) =
        workloads.iter().cloned().partition(|workload| !workload.answers.is_empty() && !workload.rancher);
    quiesce.sort_by_key(|workload| !workload.rancher);
    (quiesce, stays_up)
}

/// Writers that are not there and that the restore makes, with the replicas that the backup gives them: made at 0, they
/// come up at resume with the others, and not in the middle of the writes.
///
/// `with_webhooks`: also those that answer webhooks. Where Rancher is not installed nothing asks them yet, and
/// rancher-webhook would begin by making its webhooks itself.
pub fn arrivals(items: &[Item], backup: &Backup, with_webhooks: bool) -> Vec<(WorkloadRef, i32)> {
    let made = items.iter().filter(|item| matches!(item.change, Change::Create | Change::Recreate));
    let made = made.map(|item| &backup.objects[item.backup as usize]);
    made.filter_map(|object| {
        let replicas = object.summary.particulars().traits.replicas?;
        writes_beside(&object.key, &backup.controllers, with_webhooks).then(|| (reference(&object.key), replicas))
    })
    .collect()
}

/// Clusters of Cluster API that the restore makes, with what the backup says of them: made paused.
pub fn paused_arrivals(items: &[Item], backup: &Backup) -> Vec<PausedCluster> {
    let made = items.iter().filter(|item| matches!(item.change, Change::Create | Change::Recreate));
    let made = made.map(|item| &backup.objects[item.backup as usize]);
    made.filter_map(|object| {
        Some(PausedCluster {
            namespace: object.key.namespace.as_deref()?.to_owned(),
            name: object.key.name.to_string(),
            paused: object.summary.particulars().traits.paused?,
        })
    })
    .collect()
}

fn writes_beside(key: &ObjectKey, controllers: &[WorkloadRef], with_webhooks: bool) -> bool {
    let is = |writer: &&Writer| {
        key.namespace.as_deref() == Some(writer.namespace)
            && key.resource.is("apps", writer.resource)
            && writer.name.is_none_or(|name| name == &*key.name)
    };
    match WRITERS.iter().find(is) {
        Some(writer) => with_webhooks || !writer.serves_webhook,
        None => controllers.iter().any(|controller| controller.names(key)),
    }
}

fn reference(key: &ObjectKey) -> WorkloadRef {
    WorkloadRef {
        api_version: key.resource.api_version(),
        resource: key.resource.plural.clone(),
        namespace: key.namespace.as_deref().unwrap_or_default().to_owned(),
        name: key.name.to_string(),
    }
}
