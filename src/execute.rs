//! Carries out one run: what is next, record it, do it, record it.
//!
//! Nothing is decided here. The journal says which step is next ([`crate::journal::next`]), the plan says what each
//! step writes. Every step can be done again from its start: compare and skip what is equal, and doing it again is the
//! resume. What looking at the cluster cannot tell is in the journal before its effect.

mod level;
mod mend;
mod objects;
mod operator;
mod owners;
mod pause;
mod prune;
mod quiesce;
mod quiet;
mod record;
mod resume;
mod safety;
mod silence;
mod verify;
mod version;
mod withdraw;
mod write;
mod writers;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tracing::{info, instrument, warn};

use crate::backup::BackupName;
use crate::cluster::{ClusterError, ClusterReader, ClusterWriter, Target, WriteError};
use crate::journal::{CANCELLED, Entry, Event, Journal, Next, OnFailure, Step, WorkloadRef, has_operator, next};
use crate::object::owner::{OwnerId, WantedOwners};
use crate::observe::{self, Known, ObserveError, Places};
use crate::observed::{BackupSeen, Observed, OwnerUids};
use crate::plan::{self, Plan, Request};
use crate::publish::Publisher;
use crate::run::{CANCEL_ANNOTATION, Counts, NAMESPACE, Phase, PlannedDeletions, Run, cut_message};
use crate::store::{Location, OpenStore, Spool};
use crate::undo::{self, NoUndo};
use crate::webhook::silence::WebhookRef;
pub use level::Level;
use owners::{Owners, Place};
pub use record::{RecordError, Recorder, runs};
pub use version::{Helm, NoHelm, Program};

/// What a run is told beside its plan.
#[derive(Debug, Clone)]
pub struct Settings {
    pub places: Places,
    pub on_failure: OnFailure,
    /// From the start of the run to its end.
    pub timeout: Duration,
    /// How long an object that is deleted may wait for its finalizers.
    pub delete_timeout: Duration,
    pub ignore_errors: bool,
    /// `policy.safetyBackup`.
    pub safety_backup: bool,
    /// By which Rancher is asked after its version was set; `None`: through the API server.
    pub rancher_url: Option<url::Url>,
    pub verify: crate::config::Verify,
}

/// Everything a run is carried out with.
pub struct Executor {
    pub reader: ClusterReader,
    /// Fenced by the Lease.
    pub writer: ClusterWriter,
    pub publisher: Publisher,
    /// Where the safety backup goes.
    pub stores: Arc<dyn OpenStore>,
    /// Sets the version of a release.
    pub helm: Arc<dyn Helm>,
    pub settings: Settings,
    /// True once the process is asked to stop.
    pub stop: watch::Receiver<bool>,
}

/// How carrying out a run came to a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The run is in a terminal phase, recorded.
    Terminal(Phase),
    /// The status branch cannot be pushed to: nothing was touched, and the run is held.
    NotAnnounced,
    /// The process is asked to stop; the next start goes on.
    Stopped,
}

/// Why carrying out a run was broken off. The run stays as its journal says, and is gone on with.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError {
    #[error("another reinback holds the lease now")]
    LeaseLost,
    #[error("the API server does not answer")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error(transparent)]
    Record(RecordError),
    #[error("the plan cannot be made again")]
    Observe(#[source] ObserveError),
    #[error("the chart that is to be installed is not at hand, and cannot be read from Git: {0}")]
    Chart(String),
}

/// Why a step gave up; goes into the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepFailure {
    pub reason: &'static str,
    pub message: String,
}

/// A step fails, or is broken off to be gone on with.
#[derive(Debug)]
pub enum StepError {
    Failed(StepFailure),
    BrokenOff(ExecuteError),
    Stopped,
}

impl StepError {
    fn failed(reason: &'static str, message: impl Into<String>) -> Self {
        Self::Failed(StepFailure { reason, message: message.into() })
    }
}

impl From<RecordError> for StepError {
    fn from(error: RecordError) -> Self {
        Self::BrokenOff(match error {
            RecordError::LeaseLost => ExecuteError::LeaseLost,
            other => ExecuteError::Record(other),
        })
    }
}

impl From<WriteError> for StepError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::LeaseLost { .. } => Self::BrokenOff(ExecuteError::LeaseLost),
            WriteError::Unreachable { .. } | WriteError::Unknown { .. } => {
                Self::BrokenOff(ExecuteError::Unreachable(Box::new(error)))
            }
            WriteError::Api { .. } | WriteError::BadName(_) => Self::failed("WriteRefused", error.to_string()),
        }
    }
}

impl From<ClusterError> for StepError {
    fn from(error: ClusterError) -> Self {
        match error {
            ClusterError::Unreachable { .. } => Self::BrokenOff(ExecuteError::Unreachable(Box::new(error))),
            other => Self::failed("ReadRefused", other.to_string()),
        }
    }
}

/// The packaged chart that a run installs: read when it was planned, so that Git is not waited for while Rancher is at 0.
#[derive(Debug, Clone)]
pub enum Chart {
    AtHand(Arc<[u8]>),
    /// Read by an earlier process. Git, where it is to be read again, does not answer: why.
    Away(String),
    /// It is not where it was, or not the same: why, as a clause.
    Gone(String),
}

/// Why an archive is not installed whose digest is not that of the plan.
pub const OTHER_ARCHIVE: &str = "it is not the archive that was planned";

/// What the steps share while a run is carried out.
pub struct Work {
    pub recorder: Recorder,
    pub request: Request,
    pub known: Known,
    /// `None` where no step that is left needs the backup.
    pub spool: Option<Spool>,
    /// `None` for a manifest that names none.
    pub backup_name: Option<BackupName>,
    /// Where the backup lies; `None` where no step that is left needs it.
    pub location: Option<Location>,
    /// The plan that the writes go by; `None` until it is made, after quiesce.
    pub laid_out: Option<Arc<LaidOut>>,
    /// `None` where none is to be installed.
    pub chart: Option<Chart>,
    /// What the plan that passed the gates would delete; `None` of a run whose object was deleted, and of very many.
    pub planned_deletions: Option<PlannedDeletions>,
    /// The backup's index, until it is part of what is laid out.
    pub backup: Option<BackupSeen>,
    pub counts: Counts,
    /// How many writes are in flight, as found so far.
    pub level: Level,
    /// Workloads that the plan scales to 0.
    pub quiesce: Vec<WorkloadRef>,
    /// Watches Rancher's pods while objects are written.
    pub quiet: Option<quiet::SharedQuiet>,
    /// How many replicas workloads got back, by this process.
    pub given_back: Replicas,
    /// What the operator was handed was taken back from it, and not done.
    pub is_withdrawn: bool,
    /// The operator was started anew while it restored: another process of it may be at work. `None` in a process that did not
    /// see it.
    pub operator_changed: Option<bool>,
    /// Why the run could not be announced.
    pub not_announced: String,
}

impl Work {
    /// Puts the counts into the status; they are durable with the next write.
    fn record_counts(&mut self) {
        if self.counts != Counts::default() {
            let counts = self.counts;
            self.recorder.run_mut().status.get_or_insert_default().counts = Some(counts);
        }
    }
}

/// Plan and observation together, shared by the writers.
pub struct LaidOut {
    pub plan: Plan,
    pub observed: Observed,
    pub owners: Owners,
    /// Workloads that stay at 0 until resume.
    pub held: BTreeSet<WorkloadRef>,
    /// Clusters of Cluster API stay paused until resume.
    pub pausing: bool,
    /// Webhooks that stay silenced until resume.
    pub silenced: BTreeSet<WebhookRef>,
    unserved: write::Unserved,
}

impl LaidOut {
    /// Name of the object of an item.
    pub fn name(&self, item: &plan::Item) -> String {
        let backup = self.observed.backup.whole();
        backup.map(|backup| backup.objects[item.backup as usize].key.name.to_string()).unwrap_or_default()
    }

    fn is_webhook_configuration(&self, item: &plan::Item) -> bool {
        let BackupSeen::Whole(backup) = &self.observed.backup else { return false };
        backup.objects[item.backup as usize].key.resource.is_webhook_configuration()
    }

    /// What the object of an item needs the UIDs of: its owners, and the account of its token.
    fn owners_of(&self, item: &plan::Item) -> Vec<OwnerId> {
        let BackupSeen::Whole(backup) = &self.observed.backup else { return Vec::new() };
        plan::diff::owners_of(&backup.objects[item.backup as usize])
    }
}

impl Executor {
    /// Carries a run out to its end, from wherever its journal stands.
    ///
    /// # Errors
    ///
    /// When the run must be gone on with later, by this process or another: nothing is lost by it.
    #[instrument(skip_all, fields(run.name = %work.recorder.name()))]
    pub async fn run(&self, work: &mut Work) -> Result<Ended, ExecuteError> {
        loop {
            if *self.stop.borrow() {
                return Ok(Ended::Stopped);
            }
            let journal = work.recorder.status().journal.clone();
            let outcome = match next(&journal, self.settings.on_failure) {
                Next::Run(step) | Next::Again(step) => match Box::pin(self.cancelled_by(&journal, work)).await {
                    Ok(Some(by)) => self.cancel(step, &by, work).await,
                    Ok(None) => self.step(step, work).await,
                    Err(error) => Err(error),
                },
                Next::GiveBack { reason, message } | Next::Resume { reason, message } => {
                    warn!(run.reason = reason, "giving replicas back: {message}");
                    self.step(Step::Resume, work).await
                }
                Next::Hold { step, reason, message } => {
                    self.withdraw_for_good(work).await?;
                    self.stop_for_good(step, work).await?;
                    self.unsilence_for_good(work).await?;
                    let mut left = work.recorder.replicas();
                    left.retain(|workload, _| !self.is_own_operator(workload, work));
                    let way = self.way_back(work);
                    let message = held_message(step, &message, work.counts, &left, &way);
                    return self.end(work, Phase::Failed, &reason, &message, way.undone_by()).await;
                }
                Next::End { phase, reason, message } => {
                    let way = if phase == Phase::Failed { self.way_back(work) } else { WayBack::None };
                    let message = format!("{message}{}", way.told());
                    return self.end(work, phase, &reason, &message, way.undone_by()).await;
                }
            };
            match outcome {
                Ok(()) => {}
                Err(StepError::Stopped) => return Ok(Ended::Stopped),
                Err(StepError::BrokenOff(error)) => return Err(error),
                Err(StepError::Failed(failure)) if failure.reason == NOT_ANNOUNCED => return Ok(Ended::NotAnnounced),
                // Recorded by `step`; the journal says what follows.
                Err(StepError::Failed(_)) => {}
            }
        }
    }

    /// Who asks the run to stop; nobody is heard after the first write.
    async fn cancelled_by(&self, journal: &[Event], work: &Work) -> Result<Option<String>, StepError> {
        if Journal::from(journal.to_vec()).first_write_begun() {
            return Ok(None);
        }
        match self.asked_to_cancel(&work.recorder.name()).await {
            // Who may not look is asked nothing; the run's own writes say what is wrong.
            Err(StepError::Failed(_)) => Ok(None),
            looked => looked,
        }
    }

    /// Who the annotation of the run names.
    async fn asked_to_cancel(&self, run: &str) -> Result<Option<String>, StepError> {
        let resource = runs();
        let live = self.reader.get(&Target::new(&resource, Some(NAMESPACE), run)).await?;
        let live = live.and_then(|answer| answer.value().ok()).unwrap_or_default();
        let annotations = live.pointer("/metadata/annotations");
        let by = annotations.and_then(|all| all.get(CANCEL_ANNOTATION)).and_then(serde_json::Value::as_str);
        Ok(by.map(cut_message))
    }

    /// Who asks a run to stop while it waits: for pods to go, or for a store.
    async fn until_cancelled(&self, run: &str) -> String {
        loop {
            tokio::time::sleep(CANCEL_LOOK_EVERY).await;
            // What does not answer now is asked again before the next step.
            if let Ok(Some(by)) = self.asked_to_cancel(run).await {
                return by;
            }
        }
    }

    /// The step fails before it has done anything.
    async fn cancel(&self, step: Step, by: &str, work: &mut Work) -> Result<(), StepError> {
        info!(run.step = step.as_str(), "{by} cancels the run before step {step}");
        let message = cancelled_by(by);
        let failed = Entry::Failed { step, reason: CANCELLED.to_owned(), message: message.clone() };
        work.recorder.append(&self.writer, failed).await?;
        Err(StepError::failed(CANCELLED, message))
    }

    /// One step between its two entries.
    async fn step(&self, step: Step, work: &mut Work) -> Result<(), StepError> {
        info!(run.step = step.as_str(), "step {step} begins");
        work.recorder.append(&self.writer, Entry::Started { step }).await?;
        if step != Step::Preflight && step != Step::Announce {
            self.publisher.submit(work.recorder.run());
        }
        let name = work.recorder.name();
        let outcome = match self.overdue(step, work) {
            Some(failure) => Err(StepError::Failed(failure)),
            None if step < Step::Operator => tokio::select! {
                biased;
                outcome = Box::pin(self.effects_in_time(step, work)) => outcome,
                // As good as being killed here, which every step bears.
                by = Box::pin(self.until_cancelled(&name)) => Err(StepError::failed(CANCELLED, cancelled_by(&by))),
            },
            None => Box::pin(self.effects_in_time(step, work)).await,
        };
        work.record_counts();
        match outcome {
            Ok(()) => Ok(work.recorder.append(&self.writer, Entry::Finished { step }).await?),
            Err(StepError::Failed(failure)) if failure.reason == NOT_ANNOUNCED => Err(StepError::Failed(failure)),
            Err(StepError::Failed(failure)) => {
                let StepFailure { reason, message } = failure.clone();
                warn!(run.step = step.as_str(), run.reason = reason, "step {step} failed: {message}");
                work.recorder.append(&self.writer, Entry::Failed { step, reason: reason.to_owned(), message }).await?;
                Err(StepError::Failed(failure))
            }
            Err(other) => Err(other),
        }
    }

    /// Every wait within a step has a deadline of its own; this one is for those that would add up.
    async fn effects_in_time(&self, step: Step, work: &mut Work) -> Result<(), StepError> {
        if always_runs(step) {
            return self.effects(step, work).await;
        }
        let limit = self.time_left(work) + HALT_WITHIN;
        match tokio::time::timeout(limit, self.effects(step, work)).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => Err(StepError::Failed(self.timed_out())),
        }
    }

    /// Each step has its own place on the heap: together they would outgrow the stack of a thread.
    async fn effects(&self, step: Step, work: &mut Work) -> Result<(), StepError> {
        match step {
            // The plan passed its gates before the run was begun.
            Step::Preflight => Box::pin(self.try_chart(work)).await,
            Step::Announce => self.announce(work).await,
            Step::Quiesce => Box::pin(self.quiesce(work)).await,
            Step::SafetyBackup => Box::pin(self.back_up(work)).await,
            Step::Operator => Box::pin(self.operate(work)).await,
            Step::Crds | Step::ClusterScoped | Step::Namespaced => Box::pin(self.write_objects(step, work)).await,
            Step::Prune => Box::pin(self.prune(work)).await,
            Step::SetVersion => Box::pin(self.set_version(work)).await,
            Step::Resume => Box::pin(self.resume(work)).await,
            Step::Verify => Box::pin(self.verify(work)).await,
        }
    }

    fn now(&self) -> Timestamp {
        self.reader.clock().now()
    }

    /// The time that the run has is over. Giving replicas back is never refused for it.
    fn overdue(&self, step: Step, work: &Work) -> Option<StepFailure> {
        let deadline = self.deadline(work)?;
        let late = self.now() > deadline;
        (late && !always_runs(step)).then(|| self.timed_out())
    }

    fn timed_out(&self) -> StepFailure {
        let message = format!("the run did not end within {} s", self.settings.timeout.as_secs());
        StepFailure { reason: "Timeout", message }
    }

    /// Why no further write of a step may begin: the process is asked to stop, or the time is over.
    fn halt(&self, step: Step, work: &Work) -> Option<StepError> {
        match *self.stop.borrow() {
            true => Some(StepError::Stopped),
            false => self.overdue(step, work).map(StepError::Failed),
        }
    }

    fn deadline(&self, work: &Work) -> Option<Timestamp> {
        let started = work.recorder.run().status.as_ref()?.started_at?;
        let timeout = jiff::SignedDuration::try_from(self.settings.timeout).ok()?;
        started.checked_add(timeout).ok()
    }

    /// What is left of the run's time, at least a little so that a wait is a look.
    fn time_left(&self, work: &Work) -> Duration {
        let left = self.deadline(work).map(|deadline| deadline.duration_since(self.now()));
        let left = left.and_then(|left| Duration::try_from(left).ok());
        left.unwrap_or(Duration::ZERO).max(Duration::from_secs(5))
    }

    /// Waits until the status branch says on the remote that the run starts (invariant 8).
    async fn announce(&self, work: &mut Work) -> Result<(), StepError> {
        match self.publisher.announce(work.recorder.run(), ANNOUNCE_TIMEOUT).await {
            Ok(()) => Ok(()),
            Err(error) => {
                work.not_announced = error.to_string();
                Err(StepError::failed(NOT_ANNOUNCED, error.to_string()))
            }
        }
    }

    /// By what the run can be undone, once it has failed.
    fn way_back(&self, work: &Work) -> WayBack {
        let (run, status) = (work.recorder.run(), work.recorder.status());
        let asked = match self.settings.on_failure {
            OnFailure::Undo => undo::Asked::ByPolicy,
            OnFailure::Hold | OnFailure::Resume => undo::Asked::ByHand,
        };
        match undo::made(run, &status, asked) {
            Ok(manifest) if asked == undo::Asked::ByPolicy => WayBack::Follows(manifest.id.name),
            Ok(_) => WayBack::ByHand(run.spec.manifest.name.clone()),
            Err(NoUndo::NothingChanged { .. } | NoUndo::NotEnded { .. }) => WayBack::None,
            Err(why) if asked == undo::Asked::ByPolicy => WayBack::Barred(why.to_string()),
            Err(_) => WayBack::None,
        }
    }

    async fn end(
        &self,
        work: &mut Work,
        phase: Phase,
        reason: &str,
        message: &str,
        undone_by: Option<String>,
    ) -> Result<Ended, ExecuteError> {
        let (counts, now) = (work.counts, self.now());
        let finish = |run: &mut Run| {
            let status = run.status.get_or_insert_default();
            status.undone_by.clone_from(&undone_by);
            status.phase = phase;
            status.reason = reason.to_owned();
            status.message = message.to_owned();
            status.ended_at = Some(now);
            status.progress = None;
            if counts != Counts::default() {
                status.counts = Some(counts);
            }
        };
        work.recorder.update(&self.writer, finish).await.map_err(recorded)?;
        self.publisher.submit(work.recorder.run());
        info!(run.phase = ?phase, run.reason = reason, "run {} ended {phase:?}: {message}", work.recorder.name());
        Ok(Ended::Terminal(phase))
    }

    /// The Deployment of Rancher.
    fn rancher(&self) -> WorkloadRef {
        let places = &self.settings.places;
        WorkloadRef {
            api_version: "apps/v1".to_owned(),
            resource: "deployments".to_owned(),
            namespace: places.rancher_namespace.clone(),
            name: places.rancher_deployment.clone(),
        }
    }

    /// Rancher's pods are watched from the first write to resume.
    async fn quiet(&self, work: &mut Work) -> Result<quiet::SharedQuiet, StepError> {
        if let Some(quiet) = &work.quiet {
            return Ok(Arc::clone(quiet));
        }
        let rancher = self.rancher();
        let selector = self.look_at(&rancher).await?.map(|seen| seen.selector).unwrap_or_default();
        let quiet = Arc::new(quiet::Quiet::watch(self.reader.clone(), rancher.namespace, selector));
        work.quiet = Some(Arc::clone(&quiet));
        Ok(quiet)
    }

    /// Looks at the cluster once more, now that nobody else writes, and lays the writes out.
    async fn lay_out(&self, step: Step, work: &mut Work) -> Result<Arc<LaidOut>, StepError> {
        if let Some(laid_out) = &work.laid_out {
            return Ok(Arc::clone(laid_out));
        }
        let seen = match work.backup.take() {
            Some(seen) => seen,
            None => {
                let opening = &work.known.opening;
                observe::index(spool(work)?, backup_name(work)?, opening).await.map_err(broken_off)?
            }
        };
        unread(&seen).map_or(Ok(()), Err)?;
        let places = &self.settings.places;
        let known = work.known.clone();
        let observed = observe::observe_again(&self.reader, seen, spool(work)?, places, known, self.now()).await;
        let mut observed = observed.map_err(broken_off)?;
        let mut plan = plan::outline(&work.request, &observed);
        self.leave_unplanned(&mut plan, &observed, work);
        warn_of_unserved(&plan, &observed, work);
        if step == Step::Quiesce {
            self.record_arrivals(&plan, &observed, work).await?;
        }
        if let BackupSeen::Whole(backup) = &mut observed.backup {
            // What they choose is known now, and compiled they take as much as thousands of objects.
            backup.selectors = None;
        }
        let held = work.recorder.replicas().keys().cloned().collect();
        let named = named_owners(&observed);
        let (uids, coming) = (owner_uids(&plan, &observed, &named), coming(&plan, &observed, &named));
        let owners = Owners::new(named, uids, coming);
        plan.forget_equal(&mut observed.live);
        let (pausing, unserved) = (work.recorder.paused().is_some(), Mutex::default());
        let silenced = work.recorder.silenced().into_keys().collect();
        let laid_out = Arc::new(LaidOut { plan, observed, owners, held, pausing, silenced, unserved });
        work.laid_out = Some(Arc::clone(&laid_out));
        Ok(laid_out)
    }

    /// Durable before the first of them is made. One that is there at 0 with the annotation was made by this run, before
    /// its journal was lost.
    async fn record_arrivals(&self, plan: &Plan, observed: &Observed, work: &mut Work) -> Result<(), StepError> {
        let BackupSeen::Whole(backup) = &observed.backup else { return Ok(()) };
        let there = observed.cluster.workloads.iter();
        let there = there.filter_map(|workload| Some((workload.reference.clone(), workload.recorded?)));
        let with_webhooks = !observed.cluster.workloads.iter().any(|workload| workload.rancher);
        let arrivals = plan::quiesce::arrivals(&plan.items, backup, with_webhooks);
        for (workload, replicas) in arrivals.into_iter().chain(there) {
            if !work.recorder.replicas().contains_key(&workload) {
                work.recorder.append(&self.writer, Entry::Replicas { workload, replicas }).await?;
            }
        }
        let made = plan::quiesce::paused_arrivals(&plan.items, backup);
        if work.recorder.paused().is_some() && !made.is_empty() {
            work.recorder.append(&self.writer, Entry::Paused { clusters: made }).await?;
        }
        Ok(())
    }

    /// Deletions that the plan did not have are left and reported (invariant 9). Where it is not known any more, a resume
    /// goes by what was there when the run was made, in whole seconds (invariant 3).
    fn leave_unplanned(&self, plan: &mut Plan, observed: &Observed, work: &mut Work) {
        let created = work.recorder.created();
        let planned = work.planned_deletions.as_ref();
        let (kept, left): (Vec<_>, Vec<_>) = plan.deletions.drain(..).partition(|deletion| {
            let object = &observed.live.objects[deletion.live as usize];
            match planned {
                Some(planned) => planned.contains(&object.facts.uid),
                None => object.facts.created < created,
            }
        });
        plan.deletions = kept;
        for deletion in left {
            let key = &observed.live.objects[deletion.live as usize].key;
            work.recorder.warn(&format!("left in place, since the plan did not have it: {key}"));
        }
    }
}

/// A type may be served by what is scaled down, as `ext.cattle.io` is by Rancher: known when the plan was made, and not to be
/// written now.
fn warn_of_unserved(plan: &Plan, observed: &Observed, work: &mut Work) {
    let BackupSeen::Whole(backup) = &observed.backup else { return };
    let accepted = plan.request.accept.contains(&plan::gate::GateCode::ResourceNotServed);
    let unserved = plan.items.iter().filter(|item| !accepted && item.change == plan::Change::NotServed);
    for item in unserved {
        let key = &backup.objects[item.backup as usize].key;
        work.recorder.warn(&format!("not written, since nobody serves its type while Rancher is down: {key}"));
    }
}

/// Returns when the process is asked to stop; never where nobody is left who could ask.
pub(crate) async fn stopped(mut stop: watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn backup_name(work: &Work) -> Result<&BackupName, StepError> {
    work.backup_name.as_ref().ok_or_else(|| StepError::failed("BackupNotFound", "the manifest names no backup"))
}

/// Why a backup that was whole when the run began is not now. Nothing is written from it then.
fn unread(seen: &BackupSeen) -> Option<StepError> {
    match seen {
        BackupSeen::Whole(_) => None,
        BackupSeen::NotNamed => Some(StepError::failed("BackupNotFound", "the manifest names no backup")),
        BackupSeen::Missing { place } => Some(StepError::failed("BackupNotFound", format!("it is gone from {place}"))),
        BackupSeen::Corrupt { message } => Some(StepError::failed("BackupCorrupt", message)),
        BackupSeen::Encrypted(closed) => Some(StepError::failed("DecryptionFailed", closed.to_string())),
        BackupSeen::Unreadable { reason } => Some(StepError::failed("BackupNotFound", reason)),
    }
}

pub(crate) fn spool(work: &Work) -> Result<&Spool, StepError> {
    work.spool.as_ref().ok_or_else(|| StepError::failed("BackupNotFound", "the backup cannot be read any more"))
}

/// Nothing of a backup is read by us: only the operator can read it, or the manifest names none.
fn is_unread(work: &Work) -> bool {
    let journal = work.recorder.status().journal;
    work.spool.is_none() && (has_operator(&journal) || work.backup_name.is_none())
}

fn cancelled_by(by: &str) -> String {
    format!("{by} cancelled it before the first write")
}

/// How often a run that waits looks whether somebody has cancelled it.
const CANCEL_LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long the remote may take to have the `started` commit.
const ANNOUNCE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long writes in flight may take to end when no further one may begin.
const HALT_WITHIN: Duration = Duration::from_secs(3);
/// Reason of a run that could not be announced; becomes the gate `StatusNotPushed`.
const NOT_ANNOUNCED: &str = "StatusNotPushed";

/// Steps that run however late it is: giving replicas back is never refused.
fn always_runs(step: Step) -> bool {
    matches!(step, Step::Resume | Step::Verify)
}

/// How a run that failed is undone.
#[derive(Debug, Clone, PartialEq, Eq)]
enum WayBack {
    /// There is nothing to undo, or nothing to do it by.
    None,
    /// By the command, with the name of the manifest.
    ByHand(String),
    /// By itself: the manifest of this name.
    Follows(String),
    /// It is asked for, and cannot be.
    Barred(String),
}

impl WayBack {
    fn undone_by(&self) -> Option<String> {
        if let Self::Follows(name) = self { Some(name.clone()) } else { None }
    }

    /// What is added to the sentence of a run that ended.
    fn told(&self) -> String {
        match self {
            Self::None => String::new(),
            Self::ByHand(name) => format!("; `reinback undo {name}` goes back to what was before it"),
            Self::Follows(name) => format!("; {name} follows, and undoes it"),
            Self::Barred(why) => format!("; it is not undone: {why}"),
        }
    }
}

/// In which state a run that stops in the middle leaves all, and what a person can do.
fn held_message(step: Step, message: &str, counts: Counts, replicas: &Replicas, way: &WayBack) -> String {
    let Counts { created, updated, recreated, deleted, skipped: _, protected: _, failed } = counts;
    let at_zero: Vec<String> = replicas.iter().map(|(workload, had)| format!("{workload} (had {had})")).collect();
    let first = match way {
        WayBack::ByHand(name) => format!("`reinback undo {name}` goes back to what was before it, "),
        WayBack::None | WayBack::Follows(_) | WayBack::Barred(_) => String::new(),
    };
    let follows = match way {
        WayBack::Follows(_) | WayBack::Barred(_) => way.told(),
        WayBack::None | WayBack::ByHand(_) => String::new(),
    };
    format!(
        "{message}; {step} did not end: {created} objects were created, {updated} updated, {recreated} recreated, \
         {deleted} deleted, {failed} failed; Rancher stays at 0, so that it does not run on half of a backup; at 0: {}\
         {follows}; ways on: {first}change reinback.io/requested-at to run it again, commit a newer manifest, or scale up by hand to the \
         number in the annotation reinback.io/replicas",
        at_zero.join(", ")
    )
}

fn recorded(error: RecordError) -> ExecuteError {
    match error {
        RecordError::LeaseLost => ExecuteError::LeaseLost,
        other => ExecuteError::Record(other),
    }
}

fn broken_off(error: ObserveError) -> StepError {
    match error {
        ObserveError::Cluster(error) => StepError::from(error),
        other => StepError::BrokenOff(ExecuteError::Observe(other)),
    }
}

fn named_owners(observed: &Observed) -> WantedOwners {
    observed.backup.whole().map(plan::diff::wanted).unwrap_or_default()
}

/// UIDs of the live objects that others name as their owner, without those that are made anew: a dependent that is written
/// when that failed would go with the old one.
fn owner_uids(plan: &Plan, observed: &Observed, named: &WantedOwners) -> OwnerUids {
    let anew = plan.items.iter().filter(|item| item.change == plan::Change::Recreate).filter_map(|item| item.live);
    let anew: HashSet<u32> = anew.collect();
    let keeping = (0..).zip(&observed.live.objects).filter(|(index, _)| !anew.contains(index));
    let keeping = keeping.filter_map(|(_, object)| {
        let id = named.find(&object.key, &object.summary.kind)?;
        Some((id, object.facts.uid.clone()))
    });
    keeping.collect()
}

/// Where in the order each owner is written that gets a UID by it.
fn coming(plan: &Plan, observed: &Observed, named: &WantedOwners) -> HashMap<OwnerId, Place> {
    let BackupSeen::Whole(backup) = &observed.backup else { return HashMap::new() };
    let items = plan.items.iter().filter(|item| item.change.gives_uid());
    let place = |item: &plan::Item| {
        let object = &backup.objects[item.backup as usize];
        let id = named.find(&object.key, &object.summary.kind)?;
        Some((id, Place { step: item.step, depth: item.depth }))
    };
    items.filter_map(place).collect()
}

/// Replicas by workload, as a journal holds them.
pub type Replicas = BTreeMap<WorkloadRef, i32>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_stops_in_the_middle_says_in_which_state_all_is_and_the_ways_on() {
        let workload = |namespace: &str, name: &str| WorkloadRef {
            api_version: "apps/v1".to_owned(),
            resource: "deployments".to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        let replicas = Replicas::from([
            (workload("cattle-system", "rancher"), 3),
            (workload("cattle-fleet-system", "fleet-controller"), 1),
        ]);
        let counts = Counts { created: 4, updated: 12, failed: 1, ..Counts::default() };
        let failed = "1 objects could not be written in namespaced";
        let told = held_message(Step::Namespaced, failed, counts, &replicas, &WayBack::ByHand("back".to_owned()));
        insta::assert_snapshot!(told, @"1 objects could not be written in namespaced; namespaced did not end: 4 objects were created, 12 updated, 0 recreated, 0 deleted, 1 failed; Rancher stays at 0, so that it does not run on half of a backup; at 0: deployments/cattle-fleet-system/fleet-controller (had 1), deployments/cattle-system/rancher (had 3); ways on: `reinback undo back` goes back to what was before it, change reinback.io/requested-at to run it again, commit a newer manifest, or scale up by hand to the number in the annotation reinback.io/replicas");
    }
}
