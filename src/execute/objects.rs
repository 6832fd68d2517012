//! Waves of writes: a pass over the spooled backup, and many writers behind it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::warn;

use super::quiet::SharedQuiet;
use super::write::{ObjectWriter, Unwritten, Written};
use super::{ExecuteError, Executor, LaidOut, StepError, Work};
use crate::cluster::{Waited, Watched, crd_is_established};
use crate::journal::Step;
use crate::object::{ObjectKey, Resource};
use crate::observe;
use crate::plan::Item;
use crate::run::{ObjectError, Progress};
use crate::status;

/// How often the `Run` says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);
/// Upstream waits as long for each CRD; here it is for all of them together.
const ESTABLISHED_WITHIN: Duration = Duration::from_secs(60);

/// What one task brings back.
type Outcome = (ObjectKey, Result<Written, Unwritten>);

impl Executor {
    pub(super) async fn write_objects(&self, step: Step, work: &mut Work) -> Result<(), StepError> {
        let laid_out = self.lay_out(work).await?;
        let depths: BTreeSet<u16> = writes(&laid_out, step).map(|item| item.depth).collect();
        let total = writes(&laid_out, step).count() as u64;
        let mut pace = Pace::new(step, total);
        let failed_before = work.counts.failed;
        for depth in depths {
            let items = writes(&laid_out, step).filter(|item| item.depth == depth).map(|item| (item.backup, *item));
            self.wave(&laid_out, items.collect(), &mut pace, work).await?;
            self.judge(failed_before, step, work)?;
        }
        if step == Step::Crds && total > 0 {
            self.until_established(&laid_out, work).await?;
        }
        Ok(())
    }

    /// All of a wave is tried; then one failure fails the step, unless the manifest says otherwise.
    fn judge(&self, failed_before: u64, step: Step, work: &Work) -> Result<(), StepError> {
        let failed = work.counts.failed - failed_before;
        if failed == 0 || self.settings.ignore_errors {
            return Ok(());
        }
        let first = work.recorder.status().errors.first().map(|error| format!("{}: {}", error.object, error.message));
        let message = format!("{failed} objects could not be written in {step}; {}", first.unwrap_or_default());
        Err(StepError::failed("ObjectsFailed", message))
    }

    async fn wave(
        &self,
        laid_out: &Arc<LaidOut>,
        items: BTreeMap<u32, Item>,
        pace: &mut Pace,
        work: &mut Work,
    ) -> Result<(), StepError> {
        let writer =
            ObjectWriter { reader: self.reader.clone(), writer: self.writer.clone(), laid_out: Arc::clone(laid_out) };
        let quiet = self.quiet(work).await?;
        let (mut pass, handle) = observe::pass(super::spool(work)?, items.keys().copied().collect());
        let mut tasks: JoinSet<Outcome> = JoinSet::new();
        let mut open = true;
        while open || !tasks.is_empty() {
            if *self.stop.borrow() {
                open = false;
                pass.close();
            }
            let room = tasks.len() < self.settings.concurrency;
            tokio::select! {
                next = pass.recv(), if open && room => match next {
                    Some((index, key, value)) => {
                        let Some(item) = items.get(&index).copied() else { continue };
                        spawn(&mut tasks, &writer, &quiet, item, key, value);
                    }
                    None => open = false,
                },
                Some(done) = tasks.join_next() => self.tally(done, pace, work).await?,
            }
        }
        drop(pass);
        handle.await.map_err(|_| interrupted())?.map_err(|error| StepError::BrokenOff(ExecuteError::Observe(error)))?;
        match *self.stop.borrow() {
            true => Err(StepError::Stopped),
            false => Ok(()),
        }
    }

    async fn tally(
        &self,
        done: Result<Outcome, tokio::task::JoinError>,
        pace: &mut Pace,
        work: &mut Work,
    ) -> Result<(), StepError> {
        let (key, outcome) = done.map_err(|_| interrupted())?;
        match outcome {
            Ok(Written::Created) => work.counts.created += 1,
            Ok(Written::Updated) => work.counts.updated += 1,
            Ok(Written::Recreated) => work.counts.recreated += 1,
            Ok(Written::Equal) => work.counts.skipped += 1,
            Err(Unwritten::BrokenOff(error)) => return Err(StepError::BrokenOff(error)),
            Err(Unwritten::Refused(message)) => {
                warn!(object = %key, "not written: {message}");
                work.counts.failed += 1;
                work.recorder.add_error(ObjectError { object: key.to_string(), message });
            }
        }
        if let Some(progress) = pace.tick() {
            let counts = work.counts;
            let tell = |run: &mut crate::run::Run| {
                let status = run.status.get_or_insert_default();
                status.progress = Some(progress.clone());
                status.counts = Some(counts);
            };
            work.recorder.update(&self.writer, tell).await?;
        }
        Ok(())
    }

    async fn until_established(&self, laid_out: &Arc<LaidOut>, work: &Work) -> Result<(), StepError> {
        let names: BTreeSet<String> = writes(laid_out, Step::Crds).map(|item| laid_out.name(item)).collect();
        let resource = Resource::new("apiextensions.k8s.io", "v1", "customresourcedefinitions");
        let deadline = Instant::now() + ESTABLISHED_WITHIN.min(self.time_left(work));
        let missing = |present: &crate::cluster::Present| {
            let established =
                |name: &&String| present.get(&(String::new(), (*name).clone())).is_some_and(crd_is_established);
            names.iter().filter(|name| !established(name)).cloned().collect::<Vec<_>>()
        };
        let watched = Watched::all(&resource);
        let waited = self.reader.wait_until(&watched, deadline, |present| missing(present).is_empty());
        match waited.await? {
            Waited::Met(_) => Ok(()),
            Waited::Late(present) => {
                let missing = missing(&present);
                let message = format!("{} CRDs are not Established: {}", missing.len(), missing.join(", "));
                Err(StepError::failed("CrdsNotEstablished", message))
            }
        }
    }
}

fn spawn(
    tasks: &mut JoinSet<Outcome>,
    writer: &ObjectWriter,
    quiet: &SharedQuiet,
    item: Item,
    key: ObjectKey,
    value: serde_json::Value,
) {
    let (writer, quiet) = (writer.clone(), Arc::clone(quiet));
    tasks.spawn(async move {
        quiet.wait().await;
        let outcome = writer.write(item, &key, value).await;
        (key, outcome)
    });
}

fn writes(laid_out: &LaidOut, step: Step) -> impl Iterator<Item = &Item> {
    laid_out.plan.items.iter().filter(move |item| item.step == step && item.writes())
}

pub(super) fn interrupted() -> StepError {
    StepError::BrokenOff(ExecuteError::Observe(observe::ObserveError::Interrupted))
}

/// How fast a step goes.
pub(super) struct Pace {
    step: Step,
    total: u64,
    done: u64,
    began: Instant,
    told: Instant,
}

impl Pace {
    pub fn new(step: Step, total: u64) -> Self {
        let now = Instant::now();
        Self { step, total, done: 0, began: now, told: now }
    }

    /// Counts one more; from time to time it is worth telling.
    pub fn tick(&mut self) -> Option<Progress> {
        self.done += 1;
        if self.told.elapsed() < PROGRESS_EVERY {
            return None;
        }
        self.told = Instant::now();
        let left = self.total.saturating_sub(self.done);
        let seconds = self.began.elapsed().as_secs_f64() / self.done as f64 * left as f64;
        Some(Progress {
            step: self.step,
            done: self.done,
            total: self.total,
            seconds_left: Some(seconds.ceil() as u64),
        })
    }
}

impl super::Recorder {
    /// Keeps an error for the report; durable with the next write.
    pub fn add_error(&mut self, error: ObjectError) {
        status::add_error(self.run_mut().status.get_or_insert_default(), error);
    }
}
