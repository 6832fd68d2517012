//! The operator's step: its Restore is made, and followed to its end.
//!
//! The operator scales down what the backup names and remembers how many replicas it had. They are at 0 already, so that 0 is what
//! it "restores", and Rancher stays down until resume. What it starts again by writing a Deployment of the backup is scaled to 0
//! again, with the backup's number in the annotation, which resume gives back.

mod follow;

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::Value;
use tokio::time::Instant;
use tracing::{info, warn};

use super::quiesce::is_conflict;
use super::{Executor, StepError, Work};
use crate::cluster::{ClusterReader, FailureKind, ListOptions, ReplicasAnnotation, Target, WriteError};
use crate::journal::{self, Entry, NOT_HANDED_OVER, Step, WorkloadRef};
use crate::object::Resource;
use crate::object::normal::REPLICAS_ANNOTATION;
use crate::operator::{self, Failures, Origin, State, key_of, log_lines, restore_name, restores, told};
use crate::rancher::BACKUP_OPERATOR;
use crate::run::{OperatorRecord, Run};
use crate::status::humane_count;
use follow::{Followed, Look};

/// Failures in the same way after which nothing else is to be expected.
const EQUAL_FAILURES: u64 = 5;
/// The first tries follow one another within a second: a store that is away for a moment is not the end.
const FAILING_FOR: Duration = Duration::from_secs(10);
/// How often it is looked whether something was started again.
const KEEP_DOWN_EVERY: Duration = Duration::from_secs(2);
/// How often a step asks whether it may go on.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const CONFLICT_TRIES: usize = 5;
/// One that an earlier run of ours left at 0.
const STARTED_WITHIN: Duration = Duration::from_secs(60);
/// Of the operator's log, when it is asked for what it did.
const LOG_LINES: u32 = 1000;
/// A log is a help and no more: it is not waited for.
const LOG_WITHIN: Duration = Duration::from_secs(5);

const FAILED: &str = "OperatorFailed";
const DELETED: &str = "RestoreDeleted";

/// The Restore that the operator was handed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Handed {
    pub name: String,
    pub uid: String,
}

impl Executor {
    pub(super) async fn operate(&self, work: &mut Work) -> Result<(), StepError> {
        self.start_operator(work).await?;
        let handed = self.hand(work).await?;
        let followed = self.follow(&handed, work).await;
        if !matches!(followed, Err(StepError::Stopped | StepError::BrokenOff(_))) {
            self.tell_log(work).await;
        }
        followed?;
        info!("the operator has done Restore {}", handed.name);
        let record = OperatorRecord { restore: handed.name.clone(), message: "done".to_owned() };
        work.recorder.run_mut().status.get_or_insert_default().operator = Some(record);
        work.operator_changed = Some(self.is_newer_than(&handed).await?);
        self.keep_down(work).await?;
        self.tell_what_is_not_back(work).await
    }

    /// The operator's own Deployment.
    pub(super) fn own_operator(&self) -> WorkloadRef {
        WorkloadRef {
            api_version: "apps/v1".to_owned(),
            resource: "deployments".to_owned(),
            namespace: self.settings.places.operator_namespace.clone(),
            name: BACKUP_OPERATOR.to_owned(),
        }
    }

    /// It is the operator that carries this run out.
    pub(super) fn is_own_operator(&self, workload: &WorkloadRef, work: &Work) -> bool {
        *workload == self.own_operator() && journal::has_operator(&work.recorder.status().journal)
    }

    /// An earlier run that was not brought to its end may have left it at 0.
    async fn start_operator(&self, work: &mut Work) -> Result<(), StepError> {
        let operator = self.own_operator();
        let Some(seen) = self.look_at(&operator).await? else { return Ok(()) };
        match seen.recorded {
            Some(had) if seen.replicas == 0 => {
                self.give_back(&operator, had, work).await?;
                // So that it is older than what it is handed; whether it comes up is seen by what it does.
                self.until_ready(&operator, Instant::now() + STARTED_WITHIN.min(self.time_left(work))).await.map(drop)
            }
            _ => Ok(()),
        }
    }

    /// A pod of the operator was made after its Restore, by the API server's clock: the operator was upgraded or replaced meanwhile.
    pub(super) async fn is_newer_than(&self, handed: &Handed) -> Result<bool, StepError> {
        let created = |object: &Value| {
            let text = object.pointer("/metadata/creationTimestamp").and_then(Value::as_str);
            text.and_then(|text| text.parse::<Timestamp>().ok())
        };
        let Some(restore) = self.look_at_restore(handed).await?.as_ref().and_then(created) else { return Ok(false) };
        let Some(pods) = self.operator_pods(&self.reader).await? else { return Ok(false) };
        Ok(pods.iter().filter_map(created).any(|pod| pod > restore))
    }

    /// With their metadata alone; `None` where it is not known which are its.
    pub(super) async fn operator_pods(&self, reader: &ClusterReader) -> Result<Option<Vec<Value>>, StepError> {
        let operator = self.own_operator();
        let selector = self.look_at(&operator).await?.map(|seen| seen.selector).unwrap_or_default();
        if selector.is_empty() {
            return Ok(None);
        }
        let pods = Resource::new("", "v1", "pods");
        let options = ListOptions {
            namespace: Some(&operator.namespace),
            label_selector: &selector,
            metadata_only: true,
            ..ListOptions::default()
        };
        let listed = reader.list(&pods, options, |raw| Ok(Some(serde_json::from_str::<Value>(raw.get())?))).await?;
        Ok(Some(listed.items))
    }

    /// Makes the Restore, or finds the one that this run made before.
    async fn hand(&self, work: &mut Work) -> Result<Handed, StepError> {
        if let Some(handed) = handed(work) {
            return match self.look_at_restore(&handed).await? {
                Some(_) => Ok(handed),
                None => Err(deleted(&handed)),
            };
        }
        let name = restore_name(&work.request.name, &work.request.key);
        let body = self.body(&name, work);
        let resource = restores();
        let target = Target::new(&resource, None, &name);
        let uid = match self.writer.create(&target, Bytes::from(body)).await {
            Ok(answer) => answer.identity().unwrap_or_default().uid.unwrap_or_default(),
            Err(error) if is_perhaps_there(&error) => match self.reader.get(&target).await? {
                Some(answer) => {
                    let live = answer.value().unwrap_or_default();
                    if key_of(&live) != Some(work.request.key.as_str()) {
                        let message = format!("there is a Restore {name} already, and it is not of this run");
                        return Err(StepError::failed(NOT_HANDED_OVER, message));
                    }
                    live["metadata"]["uid"].as_str().unwrap_or_default().to_owned()
                }
                None => return Err(error.into()),
            },
            Err(error) => {
                return Err(match StepError::from(error) {
                    StepError::Failed(failure) => StepError::failed(NOT_HANDED_OVER, failure.message),
                    other => other,
                });
            }
        };
        work.recorder.append(&self.writer, Entry::Handed { restore: name.clone(), uid: uid.clone() }).await?;
        info!("handed to the operator as Restore {name}");
        Ok(Handed { name, uid })
    }

    fn body(&self, name: &str, work: &Work) -> Vec<u8> {
        let run = work.recorder.run();
        let status = work.recorder.status();
        let prunes = status.plan.is_some_and(|plan| plan.prunes);
        // Where prune is a step of ours, it is none of the operator's.
        let prune = prunes && !journal::steps(&status.journal).contains(&Step::Prune);
        let run_name = work.recorder.name();
        let origin = Origin {
            run: &run_name,
            key: &run.spec.key,
            commit: &run.spec.source.commit,
            file: &run.spec.manifest.file,
        };
        operator::restore(name, &work.request.operator_spec, prune, origin).to_string().into_bytes()
    }

    /// The Restore while it is the one that was handed over; `None` when it is gone, whatever has its name now.
    pub(super) async fn look_at_restore(&self, handed: &Handed) -> Result<Option<Value>, StepError> {
        let resource = restores();
        let Some(answer) = self.reader.get(&Target::new(&resource, None, &handed.name)).await? else {
            return Ok(None);
        };
        let live = answer.value().unwrap_or_default();
        Ok((live["metadata"]["uid"] == handed.uid.as_str()).then_some(live))
    }

    /// To its end, or to the failure that ends it: the operator itself tries for ever.
    async fn follow(&self, handed: &Handed, work: &mut Work) -> Result<(), StepError> {
        let mut followed = Followed::start(&self.reader, handed, &self.settings.places.operator_namespace);
        let quiet = self.quiet(work).await?;
        let mut failures = Failures::default();
        // The last that it said, and since when it fails or does not.
        let mut last: Option<(Instant, State)> = None;
        let mut kept_down = Instant::now();
        loop {
            if let Some(why) = self.halt(Step::Operator, work) {
                return Err(why);
            }
            self.silence(&quiet, work).await?;
            if kept_down.elapsed() >= KEEP_DOWN_EVERY {
                self.keep_down(work).await?;
                kept_down = Instant::now();
            }
            if let Some(other) = followed.other_holder() {
                work.recorder.warn(&format!(
                    "the operator was at Restore {other}, which is not of this run: ours waited for it"
                ));
            }
            let state = match followed.restore() {
                Look::Unknown => None,
                // The watch may have been told of another one first.
                Look::Gone => match self.look_at_restore(handed).await? {
                    Some(live) => Some(operator::state(&live)),
                    None => return Err(deleted(handed)),
                },
                Look::Seen(state) => Some(state),
            };
            let equal = state.as_ref().map_or(0, |state| failures.note(state, followed.tries()));
            match state {
                None => {}
                Some(State::Done) => return Ok(()),
                Some(state) => {
                    if last.as_ref().is_none_or(|(_, known)| *known != state) {
                        if let State::Failing(message) = &state {
                            self.tell_failing(handed, message, work).await?;
                        }
                        let since = last.as_ref().filter(|(_, known)| known.is_failing() == state.is_failing());
                        last = Some((since.map_or_else(Instant::now, |(since, _)| *since), state.clone()));
                    }
                    let lasts = last.as_ref().is_some_and(|(since, _)| since.elapsed() >= FAILING_FOR);
                    if equal >= EQUAL_FAILURES && lasts && self.is_still(handed, &state).await? {
                        return Err(self.given_up(handed, equal, &state));
                    }
                }
            }
            tokio::select! {
                () = followed.changed() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// The end of a Restore comes by another watch than the end of its tries, and perhaps later.
    async fn is_still(&self, handed: &Handed, state: &State) -> Result<bool, StepError> {
        let live = self.look_at_restore(handed).await?;
        Ok(live.is_some_and(|live| operator::state(&live) == *state))
    }

    fn given_up(&self, Handed { name, .. }: &Handed, times: u64, state: &State) -> StepError {
        let times = humane_count(times);
        let message = match state {
            State::Failing(message) => {
                let why = self.in_our_words(message);
                format!("the operator failed {times} times in the same way at Restore {name}: {why}")
            }
            State::Running | State::Done => {
                let namespace = &self.settings.places.operator_namespace;
                format!(
                    "the operator gave up Restore {name} {times} times without a word, as when it dies of it; `kubectl -n \
                     {namespace} logs deployment/{BACKUP_OPERATOR} --previous` may say why"
                )
            }
        };
        StepError::failed(FAILED, message)
    }

    /// What of the operator's message names objects; the rest may hold anything (invariant 7).
    fn in_our_words(&self, message: &str) -> String {
        told(message).unwrap_or_else(|| {
            let namespace = &self.settings.places.operator_namespace;
            format!(
                "its message names no object; `kubectl -n {namespace} logs deployment/{BACKUP_OPERATOR}` has it whole"
            )
        })
    }

    async fn tell_failing(&self, handed: &Handed, message: &str, work: &mut Work) -> Result<(), StepError> {
        let message = self.in_our_words(message);
        warn!("the operator fails at Restore {}, and tries again: {message}", handed.name);
        let record = OperatorRecord { restore: handed.name.clone(), message };
        let tell = |run: &mut Run| run.status.get_or_insert_default().operator = Some(record.clone());
        work.recorder.update(&self.writer, tell).await?;
        self.publisher.submit(work.recorder.run());
        Ok(())
    }

    /// Scales to 0 again what was started in the middle. The operator writes a Deployment as the backup has it, without our
    /// annotation: its number there is the backup's, and what resume gives back.
    pub(super) async fn keep_down(&self, work: &mut Work) -> Result<(), StepError> {
        for (workload, had) in work.recorder.replicas() {
            if self.is_own_operator(&workload, work) {
                continue;
            }
            if self.scale_down_again(&workload, had).await? {
                warn!("{workload} was started while the operator restored: scaled to 0 again");
                work.recorder.warn(&format!(
                    "{workload} was started while the operator restored: it was scaled to 0 again until resume"
                ));
                work.recorder.update(&self.writer, |_| {}).await?;
            }
        }
        Ok(())
    }

    async fn scale_down_again(&self, workload: &WorkloadRef, journaled: i32) -> Result<bool, StepError> {
        for _ in 0..CONFLICT_TRIES {
            let Some(seen) = self.look_at(workload).await? else { return Ok(false) };
            if seen.replicas == 0 {
                return Ok(false);
            }
            // Rancher's own Deployment is no object of the operator's: who scaled it did so by hand.
            let written = if *workload == self.rancher() { journaled } else { seen.replicas };
            let text = seen.recorded.unwrap_or(written).to_string();
            let resource = workload.resource_type();
            let target = Target::new(&resource, Some(&workload.namespace), &workload.name);
            let annotation = ReplicasAnnotation { key: REPLICAS_ANNOTATION, value: Some(&text) };
            match self.writer.scale(&target, 0, Some(annotation), Some(&seen.resource_version)).await {
                Ok(_) => return Ok(true),
                Err(error) if is_conflict(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(StepError::failed("QuiesceFailed", format!("{workload} changes faster than it can be scaled down")))
    }

    /// What the operator's log says of objects, best effort: as warnings of the run, durable with the next write.
    async fn tell_log(&self, work: &mut Work) {
        for line in self.read_log().await.unwrap_or_default() {
            work.recorder.warn(&format!("the operator's log: {line}"));
        }
    }

    /// `None` when it cannot be had.
    async fn read_log(&self) -> Option<Vec<String>> {
        let reader = self.reader.patient(LOG_WITHIN, LOG_WITHIN);
        let namespace = &self.settings.places.operator_namespace;
        let mut lines = Vec::new();
        for pod in self.operator_pods(&reader).await.ok()?? {
            let name = pod.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
            let log = reader.log(namespace, name, LOG_LINES).await.ok().flatten();
            lines.extend(log_lines(&log.unwrap_or_default()));
        }
        Some(lines)
    }
}

/// What the journal says that the operator was handed.
pub(super) fn handed(work: &Work) -> Option<Handed> {
    let status = work.recorder.status();
    journal::handed(&status.journal).map(|(name, uid)| Handed { name: name.to_owned(), uid: uid.to_owned() })
}

fn deleted(Handed { name, .. }: &Handed) -> StepError {
    StepError::failed(
        DELETED,
        format!("Restore {name} was deleted before the operator said that it is done: what it wrote is not known"),
    )
}

fn is_perhaps_there(error: &WriteError) -> bool {
    error.kind() == Some(FailureKind::AlreadyExists) || matches!(error, WriteError::Unknown { .. })
}
