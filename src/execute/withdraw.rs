//! Taking back what the operator was handed, so that it writes nothing more: before a version is set, before replicas return, and
//! before a run is held.
//!
//! A try that runs does not hear that its Restore is deleted: it goes on, and at its end writes the replicas that it remembers,
//! which is 0. So what counts is the Lease, which names the Restore while the operator is at it. Where it is not given back, the
//! operator is scaled to 0, and its pods have to be gone.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::operator::{Handed, handed};
use super::quiesce::PODS_GONE_WITHIN;
use super::{ExecuteError, Executor, StepError, Work, stopped};
use crate::cluster::{FailureKind, Preconditions, Target, Waited, Watched};
use crate::journal::{self, Entry};
use crate::object::Resource;
use crate::operator::{self, LEASE, State, holder, holder_of, key_of, restore_name, restores};

/// A try of the operator may take minutes, but what is left of it is of no use.
const LET_GO_WITHIN: Duration = Duration::from_secs(60);
/// The operator writes the replicas that it remembers some seconds after its Restore was deleted.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(15);

const STILL_WRITING: &str = "OperatorStillWriting";

impl Executor {
    /// Returns when the operator writes nothing more for this run.
    pub(super) async fn withdraw(&self, work: &mut Work) -> Result<(), StepError> {
        let Some(handed) = self.handed_or_made(work).await? else { return Ok(()) };
        match self.look_at_restore(&handed).await? {
            Some(live) if operator::state(&live) == State::Done => {}
            Some(_) => {
                work.is_withdrawn = true;
                self.delete_restore(&handed).await?;
                info!("deleted Restore {}, which the operator has not done", handed.name);
            }
            None => work.is_withdrawn = true,
        }
        if self.is_stopped(work).await? {
            return Ok(());
        }
        if !self.lets_go(&handed).await? {
            warn!("the operator does not let go of Restore {}: it is stopped", handed.name);
            work.recorder.warn(&format!(
                "the operator did not let go of Restore {} within {} s, and was stopped until the end of the run",
                handed.name,
                LET_GO_WITHIN.as_secs()
            ));
            return self.stop_operator(PODS_GONE_WITHIN, work).await;
        }
        let changed = match work.operator_changed {
            Some(changed) => changed,
            None => self.is_newer_than(&handed).await?,
        };
        work.operator_changed = Some(changed);
        if changed {
            // Two of them hold the Lease under one name, and the first to end gives it back for both.
            work.recorder.warn(
                "the operator was started anew while it restored: it was stopped until the end of the run, so that only \
                 what is done counts",
            );
            return match self.stop_operator(LET_GO_WITHIN, work).await {
                // Nothing says that it writes: the Lease is free.
                Err(StepError::Failed(failure)) => {
                    work.recorder.warn(&failure.message);
                    Ok(())
                }
                other => other,
            };
        }
        Ok(())
    }

    /// One that was made by a process that died before it could record it counts.
    async fn handed_or_made(&self, work: &Work) -> Result<Option<Handed>, StepError> {
        if !journal::has_operator(&work.recorder.status().journal) {
            return Ok(None);
        }
        if let Some(handed) = handed(work) {
            return Ok(Some(handed));
        }
        let name = restore_name(&work.request.name, &work.request.key);
        let resource = restores();
        let Some(answer) = self.reader.get(&Target::new(&resource, None, &name)).await? else { return Ok(None) };
        let live = answer.value().unwrap_or_default();
        let uid = live["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        Ok((key_of(&live) == Some(work.request.key.as_str())).then_some(Handed { name, uid }))
    }

    async fn delete_restore(&self, handed: &Handed) -> Result<(), StepError> {
        let resource = restores();
        let target = Target::new(&resource, None, &handed.name);
        let preconditions = Preconditions { uid: Some(&handed.uid), resource_version: None };
        match self.writer.delete(&target, preconditions, None, None).await {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.kind(), Some(FailureKind::NotFound | FailureKind::Conflict)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The Lease does not name it, or does not any more before time is over.
    async fn lets_go(&self, handed: &Handed) -> Result<bool, StepError> {
        let leases = Resource::new("coordination.k8s.io", "v1", "leases");
        let field = format!("metadata.name={LEASE}");
        let watched = Watched {
            resource: &leases,
            namespace: Some(&self.settings.places.operator_namespace),
            label_selector: "",
            field_selector: &field,
        };
        let ours = holder_of(&handed.name, &handed.uid);
        let is_free = |present: &crate::cluster::Present| present.values().all(|lease| holder(lease) != Some(&ours));
        let waited = tokio::select! {
            waited = self.reader.wait_until(&watched, Instant::now() + LET_GO_WITHIN, is_free) => waited?,
            () = stopped(self.stop.clone()) => return Err(StepError::Stopped),
        };
        Ok(matches!(waited, Waited::Met(_)))
    }

    /// It was stopped before, and none of its pods is left.
    async fn is_stopped(&self, work: &Work) -> Result<bool, StepError> {
        let operator = self.own_operator();
        if !work.recorder.replicas().contains_key(&operator) {
            return Ok(false);
        }
        let is_at_zero = self.look_at(&operator).await?.is_some_and(|seen| seen.replicas == 0);
        Ok(is_at_zero && self.operator_pods(&self.reader).await?.is_some_and(|pods| pods.is_empty()))
    }

    /// Its replicas are journaled and annotated as those of any other, and given back with them.
    async fn stop_operator(&self, patience: Duration, work: &mut Work) -> Result<(), StepError> {
        let operator = self.own_operator();
        let Some(seen) = self.look_at(&operator).await? else { return Ok(()) };
        let entry = Entry::Replicas { workload: operator.clone(), replicas: seen.recorded.unwrap_or(seen.replicas) };
        work.recorder.append(&self.writer, entry).await?;
        self.scale_down(&operator, work).await?;
        match self.until_pods_are_gone(&operator, patience).await {
            Err(StepError::Failed(failure)) => Err(StepError::failed(
                STILL_WRITING,
                format!("{}; replicas are not given back while the operator may write", failure.message),
            )),
            other => other,
        }
    }

    /// For a run that is held: the operator may work for others again, once nothing of this run can be written by it.
    pub(super) async fn withdraw_for_good(&self, work: &mut Work) -> Result<(), ExecuteError> {
        let outcome = match self.withdraw(work).await {
            Ok(()) => self.restart_operator(work).await,
            failed => failed,
        };
        match outcome {
            Ok(()) => Ok(()),
            Err(StepError::Failed(why)) => {
                warn!("{}", why.message);
                work.recorder.warn(&format!("the operator may still write for this run: {}", why.message));
                Ok(())
            }
            Err(StepError::BrokenOff(error)) => Err(error),
            // Held all the same; the next process does not come here again.
            Err(StepError::Stopped) => Ok(()),
        }
    }

    async fn restart_operator(&self, work: &mut Work) -> Result<(), StepError> {
        let operator = self.own_operator();
        match work.recorder.replicas().get(&operator).copied() {
            Some(had) => self.give_back(&operator, had, work).await,
            None => Ok(()),
        }
    }

    /// After what was taken back in the middle: what the operator remembered may still have come.
    pub(super) async fn look_again_later(&self, work: &mut Work) -> Result<(), StepError> {
        if !work.is_withdrawn {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_AGAIN_AFTER) => {}
            () = stopped(self.stop.clone()) => return Err(StepError::Stopped),
        }
        self.look_again(work).await
    }

    /// Gives replicas back once more where the operator has written 0 since.
    pub(super) async fn look_again(&self, work: &mut Work) -> Result<(), StepError> {
        if !journal::has_operator(&work.recorder.status().journal) {
            return Ok(());
        }
        for (workload, replicas) in std::mem::take(&mut work.given_back) {
            let Some(seen) = self.look_at(&workload).await? else { continue };
            if replicas > 0 && seen.replicas == 0 && seen.recorded.is_none() {
                work.recorder
                    .warn(&format!("{workload} was set to 0 after it had got its replicas back: given back again"));
                self.give_back(&workload, replicas, work).await?;
            }
        }
        Ok(())
    }
}
