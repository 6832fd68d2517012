//! Quiesce: replicas recorded, writers at 0, their pods gone, webhooks that nobody answers silenced, and Cluster API paused.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;
use tracing::info;

use super::silence::Hooks;
use super::{Executor, StepError, Work, is_unread, stopped};
use crate::cluster::{ReplicasAnnotation, Target, Waited, Watched, WriteError, selector_text};
use crate::journal::{Entry, Step, WorkloadRef};
use crate::object::Resource;
use crate::object::normal::REPLICAS_ANNOTATION;

/// Pods may take their whole grace period; Rancher's is 30 s, and a node that is gone keeps them for 5 minutes.
pub(super) const PODS_GONE_WITHIN: Duration = Duration::from_secs(360);
const CONFLICT_TRIES: usize = 5;

/// A workload as it is when it is looked at.
pub(super) struct Seen {
    pub replicas: i32,
    /// What the annotation says it had.
    pub recorded: Option<i32>,
    pub resource_version: String,
    pub selector: String,
}

impl Executor {
    pub(super) async fn quiesce(&self, work: &mut Work) -> Result<(), StepError> {
        let workloads = self.to_quiesce(work).await?;
        self.record_replicas(&workloads, work).await?;
        self.record_webhooks(work).await?;
        // Those that judge the scale-downs, too.
        self.silence_webhooks(Hooks::Admission, work).await?;
        for workload in &workloads {
            self.scale_down(workload, work).await?;
        }
        for workload in &workloads {
            let patience = PODS_GONE_WITHIN.min(self.time_left(work));
            self.until_pods_are_gone(workload, patience).await?;
        }
        // Not before nobody is there any more who would take a relabelled object for a converted one.
        self.silence_webhooks(Hooks::Conversion, work).await?;
        self.pause(work).await?;
        if is_unread(work) {
            return Ok(());
        }
        self.lay_out(Step::Quiesce, work).await.map(drop)
    }

    /// The plan's workloads, and those that an earlier try recorded.
    async fn to_quiesce(&self, work: &mut Work) -> Result<Vec<WorkloadRef>, StepError> {
        let mut workloads = work.quiesce.clone();
        for known in work.recorder.replicas().into_keys() {
            if !workloads.contains(&known) {
                workloads.push(known);
            }
        }
        Ok(workloads)
    }

    /// Durable before the first scale-down.
    async fn record_replicas(&self, workloads: &[WorkloadRef], work: &mut Work) -> Result<(), StepError> {
        for workload in workloads {
            if work.recorder.replicas().contains_key(workload) {
                continue;
            }
            let Some(seen) = self.look_at(workload).await? else { continue };
            let replicas = seen.recorded.unwrap_or(seen.replicas);
            let entry = Entry::Replicas { workload: workload.clone(), replicas };
            work.recorder.append(&self.writer, entry).await?;
        }
        Ok(())
    }

    pub(super) async fn look_at(&self, workload: &WorkloadRef) -> Result<Option<Seen>, StepError> {
        let resource = workload.resource_type();
        let target = Target::new(&resource, Some(&workload.namespace), &workload.name);
        let Some(answer) = self.reader.get(&target).await? else { return Ok(None) };
        let value = answer.value().unwrap_or(Value::Null);
        let number = |value: Option<&Value>| value.and_then(Value::as_i64).and_then(|n| i32::try_from(n).ok());
        let recorded = value.pointer("/metadata/annotations").and_then(|all| all.get(REPLICAS_ANNOTATION));
        Ok(Some(Seen {
            replicas: number(value.pointer("/spec/replicas")).unwrap_or(1),
            recorded: recorded.and_then(Value::as_str).and_then(|text| text.parse().ok()),
            resource_version: value["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned(),
            selector: selector_text(&value).unwrap_or_default(),
        }))
    }

    /// Sets 0, and by the same patch the annotation that says what it had.
    pub(super) async fn scale_down(&self, workload: &WorkloadRef, work: &Work) -> Result<(), StepError> {
        let journaled = work.recorder.replicas().get(workload).copied();
        for _ in 0..CONFLICT_TRIES {
            let Some(seen) = self.look_at(workload).await? else { return Ok(()) };
            let had = seen.recorded.or(journaled).unwrap_or(seen.replicas);
            if seen.replicas == 0 && seen.recorded == Some(had) {
                return Ok(());
            }
            let resource = workload.resource_type();
            let target = Target::new(&resource, Some(&workload.namespace), &workload.name);
            let text = had.to_string();
            let annotation = ReplicasAnnotation { key: REPLICAS_ANNOTATION, value: Some(&text) };
            match self.writer.scale(&target, 0, Some(annotation), Some(&seen.resource_version)).await {
                Ok(_) => {
                    info!("scaled {workload} from {} to 0", seen.replicas);
                    return Ok(());
                }
                Err(error) if is_conflict(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(StepError::failed("QuiesceFailed", format!("{workload} changes faster than it can be scaled down")))
    }

    pub(super) async fn until_pods_are_gone(
        &self,
        workload: &WorkloadRef,
        patience: Duration,
    ) -> Result<(), StepError> {
        let Some(seen) = self.look_at(workload).await? else { return Ok(()) };
        if seen.selector.is_empty() {
            return Ok(());
        }
        let pods = Resource::new("", "v1", "pods");
        let watched = Watched {
            resource: &pods,
            namespace: Some(&workload.namespace),
            label_selector: &seen.selector,
            field_selector: "",
        };
        let waited = tokio::select! {
            waited = self.reader.wait_until(&watched, Instant::now() + patience, |pods| pods.is_empty()) => waited?,
            () = stopped(self.stop.clone()) => return Err(StepError::Stopped),
        };
        match waited {
            Waited::Met(_) => Ok(()),
            Waited::Late(pods) => {
                let names: Vec<&str> = pods.keys().take(3).map(|(_, name)| name.as_str()).collect();
                let message = format!(
                    "{} pods of {workload} are still there after {} s: {}",
                    pods.len(),
                    patience.as_secs(),
                    names.join(", ")
                );
                Err(StepError::failed("QuiesceFailed", message))
            }
        }
    }
}

pub(super) fn is_conflict(error: &WriteError) -> bool {
    error.kind() == Some(crate::cluster::FailureKind::Conflict) || matches!(error, WriteError::Unknown { .. })
}
