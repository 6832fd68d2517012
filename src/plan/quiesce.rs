//! Who is scaled down, and who stays up.

use crate::observed::Workload;

/// Splits the workloads that write beside a restore: those to scale to 0, Rancher first, and those that stay up
/// because the API server asks them about the very writes of the restore.
pub fn split(workloads: &[Workload]) -> (Vec<Workload>, Vec<Workload>) {
    let (stays_up, mut quiesce): (Vec<_>, Vec<_>) =
        workloads.iter().cloned().partition(|workload| workload.serves_webhook && !workload.rancher);
    quiesce.sort_by_key(|workload| !workload.rancher);
    (quiesce, stays_up)
}
