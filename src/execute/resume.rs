//! Resume: replicas given back, clusters no longer paused, and webhooks no longer silenced. Verify: what was given back is Ready, and what was to go is gone.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;
use tracing::info;

use super::quiesce::is_conflict;
use super::silence::Hooks;
use super::{Executor, StepError, StepFailure, Work, stopped};
use crate::cluster::{ReplicasAnnotation, Target, Waited, Watched, rollout_is_ready};
use crate::journal::{OnFailure, WorkloadRef};
use crate::object::Resource;
use crate::object::normal::REPLICAS_ANNOTATION;
use crate::plan::DeleteWave;
use crate::webhook::silence::WebhookRef;

const CONFLICT_TRIES: usize = 5;
/// Rancher's own probes give it 5 minutes before it is restarted; twice that is an end.
pub(super) const READY_WITHIN: Duration = Duration::from_secs(600);
/// Controllers beside Rancher, all together, once that is Ready; a warning, not a failure, past that.
const OTHERS_READY_WITHIN: Duration = Duration::from_secs(60);
/// Longer than a list takes.
const LOOK_WITHIN: Duration = Duration::from_secs(5);
/// Namespaces that prune deleted; a warning, not a failure, past that.
const NAMESPACES_GONE_WITHIN: Duration = Duration::from_secs(60);

/// The first failure of several things of which none may keep the next from being given back.
#[derive(Default)]
struct PutOff(Option<StepFailure>);

impl PutOff {
    /// What breaks the step off, to be gone on with, is not put off.
    fn take(&mut self, outcome: Result<(), StepError>) -> Result<(), StepError> {
        match outcome {
            Err(StepError::Failed(failure)) => {
                self.0.get_or_insert(failure);
                Ok(())
            }
            other => other,
        }
    }

    fn end(self) -> Result<(), StepError> {
        self.0.map_or(Ok(()), |failure| Err(StepError::Failed(failure)))
    }
}

impl Executor {
    pub(super) async fn resume(&self, work: &mut Work) -> Result<(), StepError> {
        work.quiet = None;
        // Before any of them: it would write 0 again, or objects under a Rancher that runs.
        self.withdraw(work).await?;
        let mut put_off = PutOff::default();
        let converts = work.recorder.to_silence().iter().any(WebhookRef::is_conversion);
        if converts {
            // Before Rancher is there, which would take a relabelled object for a converted one; and pauses end while
            // clusters can be written.
            put_off.take(self.unpause(work).await)?;
            put_off.take(self.unsilence(Hooks::Conversion, work).await)?;
        }
        put_off.take(self.give_all_back(work).await)?;
        if !converts {
            put_off.take(self.unpause(work).await)?;
        }
        // Last, since it judges the scale-ups.
        put_off.take(self.unsilence(Hooks::Admission, work).await)?;
        put_off.take(self.look_again_later(work).await)?;
        put_off.end()
    }

    async fn give_all_back(&self, work: &mut Work) -> Result<(), StepError> {
        let recorded = work.recorder.replicas();
        for (workload, replicas) in &recorded {
            self.give_back(workload, *replicas, work).await?;
        }
        // Of a run whose journal was lost, the annotation alone may know.
        for workload in work.quiesce.clone() {
            if !recorded.contains_key(&workload)
                && let Some(replicas) = self.look_at(&workload).await?.and_then(|seen| seen.recorded)
            {
                self.give_back(&workload, replicas, work).await?;
            }
        }
        Ok(())
    }

    /// The annotation beats the journal: a workload of the backup was written with the backup's number in it.
    pub(super) async fn give_back(
        &self,
        workload: &WorkloadRef,
        journaled: i32,
        work: &mut Work,
    ) -> Result<(), StepError> {
        for _ in 0..CONFLICT_TRIES {
            let Some(seen) = self.look_at(workload).await? else {
                work.recorder.warn(&format!("{workload} is gone: nothing to give {journaled} replicas back to"));
                return Ok(());
            };
            let replicas = match (seen.recorded, seen.replicas) {
                // Helm's stored manifest says how many of that version are to run, and has started them.
                (Some(_), live) if live > 0 && self.is_started_by_helm(workload, work) => live,
                (Some(recorded), _) => recorded,
                // Given back already, by this run before it was broken off or by a person.
                (None, live) if live > 0 => {
                    work.given_back.insert(workload.clone(), live);
                    return Ok(());
                }
                (None, _) => journaled,
            };
            if seen.recorded.is_none() && replicas == seen.replicas {
                return Ok(());
            }
            let resource = workload.resource_type();
            let target = Target::new(&resource, Some(&workload.namespace), &workload.name);
            let annotation = ReplicasAnnotation { key: REPLICAS_ANNOTATION, value: None };
            let wanted = u32::try_from(replicas).unwrap_or_default();
            match self.writer.scale(&target, wanted, Some(annotation), Some(&seen.resource_version)).await {
                Ok(_) => {
                    info!("gave {workload} its {replicas} replicas back");
                    work.given_back.insert(workload.clone(), replicas);
                    return Ok(());
                }
                Err(error) if is_conflict(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(StepError::failed("ResumeFailed", format!("{workload} changes faster than it can be scaled up")))
    }

    pub(super) async fn verify(&self, work: &mut Work) -> Result<(), StepError> {
        self.look_again(work).await?;
        let workloads = work.recorder.replicas().into_keys();
        let (rancher, others): (Vec<_>, Vec<_>) = workloads.partition(|workload| self.is_rancher(workload));
        let mut put_off = PutOff::default();
        if Self::sets_version(work) {
            // What else is to be told is told, too, where Rancher is not well.
            put_off.take(Box::pin(self.check_health(work)).await)?;
        } else {
            self.until_rancher_is_ready(&rancher, work).await?;
        }
        let end = Instant::now() + OTHERS_READY_WITHIN.min(self.time_left(work));
        for workload in others {
            // One that takes all of the time leaves the next ones a look.
            if !self.until_ready(&workload, end.max(Instant::now() + LOOK_WITHIN)).await? {
                work.recorder.warn(&format!("{workload} is not Ready yet"));
            }
        }
        self.namespaces_gone(work).await?;
        put_off.take(self.objects_are_restored(work))?;
        put_off.end()
    }

    async fn until_rancher_is_ready(&self, rancher: &[WorkloadRef], work: &Work) -> Result<(), StepError> {
        let end = Instant::now() + READY_WITHIN.min(self.time_left(work));
        for workload in rancher {
            if !self.until_ready(workload, end).await? {
                return Err(StepError::failed("RancherNotReady", format!("{workload} did not get Ready in time")));
            }
        }
        Ok(())
    }

    fn objects_are_restored(&self, work: &mut Work) -> Result<(), StepError> {
        match work.counts.failed {
            0 => Ok(()),
            // The author goes past failed objects, and wants Rancher up whatever was written: that is what was asked for.
            failed if self.settings.ignore_errors && self.settings.on_failure == OnFailure::Resume => {
                work.recorder.warn(&format!("{failed} objects could not be restored; their errors are listed"));
                Ok(())
            }
            failed => Err(StepError::failed("ObjectsFailed", format!("{failed} objects could not be restored"))),
        }
    }

    fn is_rancher(&self, workload: &WorkloadRef) -> bool {
        let places = &self.settings.places;
        workload.namespace == places.rancher_namespace && workload.name == places.rancher_deployment
    }

    pub(super) async fn until_ready(&self, workload: &WorkloadRef, deadline: Instant) -> Result<bool, StepError> {
        let resource = workload.resource_type();
        let field = format!("metadata.name={}", workload.name);
        let watched = Watched {
            resource: &resource,
            namespace: Some(&workload.namespace),
            label_selector: "",
            field_selector: &field,
        };
        let ready = |value: &Value| {
            value.pointer("/metadata/annotations").is_none_or(|all| all.get(REPLICAS_ANNOTATION).is_none())
                && rollout_is_ready(value)
        };
        let waited = tokio::select! {
            waited = self.reader.wait_until(&watched, deadline, |found| found.values().all(ready)) => waited?,
            () = stopped(self.stop.clone()) => return Err(StepError::Stopped),
        };
        Ok(matches!(waited, Waited::Met(_)))
    }

    async fn namespaces_gone(&self, work: &mut Work) -> Result<(), StepError> {
        let Some(laid_out) = work.laid_out.clone() else { return Ok(()) };
        let deleted = laid_out.plan.deletions.iter().filter(|deletion| deletion.wave == DeleteWave::Namespaces);
        let objects = deleted.map(|deletion| &laid_out.observed.live.objects[deletion.live as usize]);
        let gone: Vec<(String, String)> =
            objects.map(|object| (object.key.name.to_string(), object.facts.uid.to_string())).collect();
        if gone.is_empty() {
            return Ok(());
        }
        let resource = Resource::new("", "v1", "namespaces");
        let is_there = |present: &crate::cluster::Present, (name, uid): &(String, String)| {
            present.get(&(String::new(), name.clone())).is_some_and(|live| live["metadata"]["uid"] == uid.as_str())
        };
        let deadline = Instant::now() + NAMESPACES_GONE_WITHIN;
        let watched = Watched::all(&resource);
        let all_gone = |present: &crate::cluster::Present| !gone.iter().any(|namespace| is_there(present, namespace));
        let waited = tokio::select! {
            waited = self.reader.wait_until(&watched, deadline, all_gone) => waited?,
            () = stopped(self.stop.clone()) => return Err(StepError::Stopped),
        };
        if let Waited::Late(present) = waited {
            for namespace in gone.iter().filter(|namespace| is_there(&present, namespace)) {
                let why = present.get(&(String::new(), namespace.0.clone())).map(why_it_stays).unwrap_or_default();
                work.recorder.warn(&format!("namespace {} is still Terminating{why}", namespace.0));
            }
        }
        Ok(())
    }
}

/// Which conditions of a namespace keep it, such as `NamespaceFinalizersRemaining`. Their messages name what is in it, and
/// are not told (invariant 7).
fn why_it_stays(namespace: &Value) -> String {
    let conditions = namespace.pointer("/status/conditions").and_then(Value::as_array);
    let holding = conditions.into_iter().flatten().filter(|condition| condition["status"] == "True");
    let types: Vec<&str> = holding.filter_map(|condition| condition["type"].as_str()).collect();
    match types.is_empty() {
        true => String::new(),
        false => format!(": {}; `kubectl get namespace -o yaml` says more", types.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_keeps_a_namespace_is_told_by_its_conditions_alone() {
        let condition = |name: &str, status: &str| json!({"type": name, "status": status, "message": "secret/one"});
        let conditions = [
            condition("NamespaceDeletionDiscoveryFailure", "False"),
            condition("NamespaceFinalizersRemaining", "True"),
        ];
        assert_eq!(
            why_it_stays(&json!({"status": {"conditions": conditions}})),
            ": NamespaceFinalizersRemaining; `kubectl get namespace -o yaml` says more"
        );
        assert_eq!(why_it_stays(&Value::Null), "");
    }
}
