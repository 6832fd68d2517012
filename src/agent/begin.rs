//! What a pass does with one manifest or one run.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kube::api::ObjectMeta;
use tracing::{info, warn};

use super::hold::held_unseen;
use super::ledger::Books;
use super::look::{self, Asked, Looked};
use super::{Agent, PassError, chart};
use crate::backup::BackupName;
use crate::cluster::ClusterWriter;
use crate::desired::{CancelReason, Candidate, CommitPlace, Placed, RunKey, SupersededBy};
use crate::execute::{Chart, Ended, Executor, Level, Recorder, Settings, Work};
use crate::journal::{self, Entry, Event, Next, OnFailure, Step};
use crate::manifest::{self, Manifest};
use crate::observe::ObserveError;
use crate::observed::BackupSeen;
use crate::plan::gate::{Gate, GateCode};
use crate::plan::gates::{status_not_pushed, store_not_writable};
use crate::plan::version::Way;
use crate::plan::{self, Plan};
use crate::run::{ManifestRef, NAMESPACE, Phase, PlanRecord, PlannedDeletions, Run, RunSpec, SourceRef};
use crate::status;
use crate::store::{Location, OpenStore, StoreError};

/// How beginning a run came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    Held,
    Ended(Phase),
    /// Asked to stop; the next start goes on.
    Stopped,
}

/// Which manifest, for a `Run`.
pub fn manifest_ref(placed: &Placed) -> ManifestRef {
    ManifestRef {
        kind: placed.manifest.id.kind.as_str().to_owned(),
        name: placed.manifest.id.name.clone(),
        file: placed.manifest.file.clone(),
        blob: placed.manifest.blob.clone(),
    }
}

/// Who merged it, for a `Run`.
pub fn source_ref(placed: &Placed) -> SourceRef {
    SourceRef { commit: placed.commit.id.clone(), author: placed.commit.author.clone() }
}

/// A run as it begins.
pub fn new_run(cluster: &str, placed: &Placed, now: Timestamp) -> Run {
    let name = status::run_object_name(now, &placed.manifest.id.name, &placed.key.to_string());
    let spec = RunSpec {
        cluster: cluster.to_owned(),
        key: placed.key.to_string(),
        content_key: placed.content.to_string(),
        manifest: manifest_ref(placed),
        source: source_ref(placed),
        document_digest: placed.manifest.document_digest.hex(),
        document: manifest::pin(&placed.manifest),
    };
    let metadata = ObjectMeta { name: Some(name), namespace: Some(NAMESPACE.to_owned()), ..ObjectMeta::default() };
    Run { metadata, spec, status: None }
}

/// The manifest that a run pins, in its place.
fn pinned(run: &Run, key: RunKey) -> Result<Placed, PassError> {
    let RunSpec { manifest, source, document, content_key, .. } = &run.spec;
    let name = || run.metadata.name.clone().unwrap_or_default();
    let bad = |problem: String| PassError::Pinned { run: name(), problem };
    let read = manifest::unpin(document, &manifest.file, &manifest.blob).map_err(bad)?;
    let content = content_key.parse().map_err(|_| bad("its content key is not one".to_owned()))?;
    let time = run.status.as_ref().and_then(|status| status.started_at).unwrap_or(Timestamp::UNIX_EPOCH);
    let commit = CommitPlace { id: source.commit.clone(), position: 0, author: source.author.clone(), time };
    // What it may take was judged when it began.
    Ok(Placed { manifest: read, key, content, commit, undoes: false })
}

impl Agent {
    /// The recorder of a run that the books know, or of a new one. Until it starts, it pins the manifest as it is now.
    pub(super) async fn recorder(
        &self,
        writer: &ClusterWriter,
        books: &Books,
        placed: &Placed,
    ) -> Result<Recorder, PassError> {
        let mut run = new_run(&self.config.cluster, placed, self.now());
        let spec = run.spec.clone();
        match (books.runs.get(&placed.key), books.foreign.get(&placed.key)) {
            (Some(known), _) => run = known.clone(),
            // Its file is to be written over, not to stay beside ours.
            (None, Some(foreign)) => run.metadata.name = foreign.metadata.name.clone(),
            (None, None) => {}
        }
        let mut recorder = Recorder::take_up(self.cluster.reader(), writer, run).await?;
        if matches!(recorder.status().phase, Phase::Pending | Phase::Held) && recorder.run().spec != spec {
            recorder.pin(writer, spec).await?;
        }
        Ok(recorder)
    }

    /// Gives the run as it ended, for Git.
    pub(super) async fn record_superseded(
        &self,
        writer: &ClusterWriter,
        books: &Books,
        placed: &Placed,
        by: &SupersededBy,
    ) -> Result<Run, PassError> {
        info!("{} is superseded: {by}", placed.manifest.id);
        let mut recorder = self.recorder(writer, books, placed).await?;
        let now = self.now();
        recorder.update(writer, |run| end(run, Phase::Superseded, by.reason(), &by.to_string(), now)).await?;
        Ok(recorder.run().clone())
    }

    /// A run whose manifest went away before its first write. True when it ended.
    pub(super) async fn cancel(
        &self,
        writer: &ClusterWriter,
        books: &Books,
        key: RunKey,
        reason: &CancelReason,
    ) -> Result<bool, PassError> {
        let Some(run) = books.runs.get(&key) else { return Ok(false) };
        let message = match reason {
            CancelReason::Removed => "the manifest was removed from Git before the first write".to_owned(),
            CancelReason::Edited { by } => format!("the manifest now asks for something else (run key {})", by.short()),
            CancelReason::Asked { by } => format!("{by} cancelled it before the first write"),
        };
        info!("run {} is cancelled: {message}", run.metadata.name.as_deref().unwrap_or_default());
        let reader = self.cluster.reader();
        let mut recorder = Recorder::take_up(reader, writer, run.clone()).await?;
        if recorder.status().phase != Phase::Running {
            let now = self.now();
            recorder.update(writer, |run| end(run, Phase::Cancelled, reason.reason(), &message, now)).await?;
            self.publisher.submit(recorder.run());
            return Ok(true);
        }
        // One that has failed by itself is on its way to give replicas back, which nothing may stop.
        if let Next::Run(step) | Next::Again(step) = journal::next(&recorder.status().journal, OnFailure::Hold) {
            let failed = Entry::Failed { step, reason: journal::CANCELLED.to_owned(), message };
            recorder.append(writer, failed).await?;
        }
        let placed = pinned(run, key)?;
        let ended = Box::pin(self.execute(writer, books, recorder, &placed, Prepared::default())).await?;
        Ok(matches!(ended, Begun::Ended(_)))
    }

    /// Plans the newest manifest, and runs it when nothing holds it.
    pub(super) async fn begin(
        &self,
        writer: &ClusterWriter,
        books: &Books,
        candidate: &Candidate,
    ) -> Result<Begun, PassError> {
        let placed = &candidate.placed;
        let mut recorder = self.recorder(writer, books, placed).await?;
        if let Some(gate) = held_unseen(placed, books) {
            return self.hold(writer, recorder, vec![gate], None).await;
        }
        let looked = match self.look_for(books, candidate).await {
            Ok(looked) => looked,
            Err(PassError::Observe(ObserveError::Store(problem))) => {
                return self.hold_for_store(writer, recorder, &problem).await;
            }
            Err(other) => return Err(other),
        };
        if looked.plan.holding().next().is_some() {
            let gates = looked.plan.gates.clone();
            return self.hold(writer, recorder, gates, Some(&looked)).await;
        }
        if looked.plan.gates.iter().any(|gate| gate.code == GateCode::LedgerMismatch) {
            self.adopt(books, placed.key);
        }
        let nothing = looked.plan.touches_nothing().then(|| nothing_to_do(&looked.plan));
        if let Some(location) = looked.location.as_ref().filter(|_| self.needs_probe(&looked.plan)) {
            match self.probe_store(location).await {
                Ok(None) => {}
                Ok(Some(gate)) => return self.hold(writer, recorder, vec![gate], Some(&looked)).await,
                Err(problem) => return self.hold_for_store(writer, recorder, &problem).await,
            }
        }
        self.record_start(writer, &mut recorder, &looked, nothing).await?;
        if nothing.is_some() {
            self.publisher.submit(recorder.run());
            return Ok(Begun::Ended(Phase::Succeeded));
        }
        Box::pin(self.execute(writer, books, recorder, placed, Prepared::of(looked))).await
    }

    /// Looks at backup and cluster for a manifest that is to begin.
    async fn look_for(&self, books: &Books, candidate: &Candidate) -> Result<Looked, PassError> {
        let placed = &candidate.placed;
        let ledger = books.facts_of(candidate.already_run, Vec::new());
        let reader = self.cluster.reader();
        let mut asked = look::ask(&self.config, &reader, placed, ledger).await?;
        asked.known.unfinished_runs = books.others_running.clone();
        asked.ask_helm(self.helm.as_ref()).await;
        asked.ask_chart(&self.source, &placed.commit.id).await.map_err(PassError::Source)?;
        Ok(asked.look(&reader, self.stores.as_ref(), &look::places(&self.config)).await?)
    }

    /// A safety backup is made. Where the backup cannot be read, it is made when it can be.
    fn needs_probe(&self, plan: &Plan) -> bool {
        self.config.policy.safety_backup && !plan.touches_nothing() && plan.unreadable().is_none()
    }

    /// Writes something small into the store and takes it away: the one gate that only a write can judge. An error is one that may
    /// go by itself.
    async fn probe_store(&self, location: &Location) -> Result<Option<Gate>, StoreError> {
        let probed = match self.stores.open_writer(location).await {
            Ok(store) => store.probe().await,
            Err(error) => Err(error),
        };
        match probed {
            Ok(()) => Ok(None),
            Err(error) if error.transient() => Err(error),
            Err(error) => Ok(Some(store_not_writable(&chain(&error)))),
        }
    }

    /// A person has accepted that the branch becomes this cluster's. What another cluster began goes on in that one, if
    /// anywhere; `beginning` is about to be written over.
    fn adopt(&self, books: &Books, beginning: RunKey) {
        let closed = books.foreign.iter().filter(|(key, _)| **key != beginning).map(|(_, run)| {
            let mut run = run.clone();
            let message = "the status branch was taken over by another cluster before this run had ended";
            end(&mut run, Phase::Cancelled, GateCode::LedgerMismatch.as_str(), message, self.now());
            run
        });
        self.publisher.claim(&books.cluster_uid);
        closed.for_each(|run| self.publisher.submit(&run));
    }

    /// From here on the run is under way: gates and digest are judged, and not again. One with `nothing` to do, and why, is
    /// over with the same write.
    async fn record_start(
        &self,
        writer: &ClusterWriter,
        recorder: &mut Recorder,
        looked: &Looked,
        nothing: Option<&str>,
    ) -> Result<(), PassError> {
        let connected_clusters = looked.observed.cluster.connected_clusters.clone();
        let record = PlanRecord { connected_clusters, ..looked.plan.record() };
        let gates = looked.plan.gates.clone();
        let warnings = looked.plan.warnings.clone();
        let deletions = planned_deletions(looked).text();
        let now = self.now();
        let own_steps = looked.plan.own_steps().map(|steps| Event { at: now, entry: Entry::Steps { steps } });
        recorder
            .update(writer, |run| {
                let status = run.status.get_or_insert_default();
                status.phase = Phase::Running;
                status.reason = "Progressing".to_owned();
                status.message = String::new();
                status.started_at = Some(now);
                status.held_since = None;
                status.plan = Some(record.clone());
                status.planned_deletions = deletions.clone();
                status.gates = gates.clone();
                status.journal = own_steps.iter().cloned().collect();
                for warning in &warnings {
                    status::add_warning(status, warning);
                }
                if let Some(message) = nothing {
                    end(run, Phase::Succeeded, "NothingToDo", message, now);
                }
            })
            .await?;
        Ok(())
    }

    /// Goes on with a run that an earlier process or another agent left. `None`: it is not at its end yet.
    pub(super) async fn go_on(
        &self,
        writer: &ClusterWriter,
        books: &Books,
        key: RunKey,
    ) -> Result<Option<Phase>, PassError> {
        let Some(run) = books.runs.get(&key) else { return Ok(None) };
        let placed = pinned(run, key)?;
        let mut recorder = Recorder::take_up(self.cluster.reader(), writer, run.clone()).await?;
        info!("going on with run {}", recorder.name());
        if !recorder.status().journal.is_empty() {
            let holder = crate::cluster::holder_identity();
            recorder.append(writer, Entry::TakenOver { holder }).await?;
        }
        let chart = self.chart_again(&mut recorder, writer).await?;
        let prepared = match self.needs_backup(&recorder) {
            true => self.prepare_again(&mut recorder, writer, books, &placed).await?.unwrap_or_default(),
            false => self.prepare_to_verify(&recorder, books, &placed).await,
        };
        let prepared = Prepared { chart, ..prepared };
        match Box::pin(self.execute(writer, books, recorder, &placed, prepared)).await? {
            Begun::Ended(phase) => Ok(Some(phase)),
            Begun::Held | Begun::Stopped => Ok(None),
        }
    }

    /// The chart of a run that installs one and has not done so. Where it is not what was planned, the run fails now and not when
    /// the data is back; Git that does not answer is waited for by the step that needs the chart.
    async fn chart_again(&self, recorder: &mut Recorder, writer: &ClusterWriter) -> Result<Option<Chart>, PassError> {
        let Some(Way::Chart { chart: path, sha256, commit, .. }) =
            recorder.status().plan.and_then(|plan| plan.version).map(|change| change.way)
        else {
            return Ok(None);
        };
        let step = match journal::next(&recorder.status().journal, OnFailure::Hold) {
            Next::Run(step) | Next::Again(step) if step <= Step::SetVersion => step,
            Next::Run(_) | Next::Again(_) => return Ok(None),
            Next::GiveBack { .. } | Next::Resume { .. } | Next::Hold { .. } | Next::End { .. } => return Ok(None),
        };
        let chart = chart::again(self.source.chart(&commit, &path).await, &sha256);
        match &chart {
            // The version may be set already: that step looks.
            Chart::Gone(why) if step < Step::SetVersion => {
                let message = format!("the chart {path} cannot be installed: {why}");
                self.fail(recorder, writer, GateCode::ReleaseNotFound.as_str(), &message).await?;
            }
            Chart::Away(why) => warn!("the chart {path} cannot be read now: {why}"),
            Chart::AtHand(_) | Chart::Gone(_) => {}
        }
        Ok(Some(chart))
    }

    /// What only the operator can read is not read.
    fn is_unread(recorder: &Recorder) -> bool {
        let plan = recorder.status().plan;
        plan.is_some_and(|plan| plan.engine == plan::operator::OPERATOR && plan.backup.sha256.is_empty())
    }

    fn needs_backup(&self, recorder: &Recorder) -> bool {
        match journal::next(&recorder.status().journal, OnFailure::Hold) {
            Next::Run(step) | Next::Again(step) => step < Step::SetVersion,
            Next::GiveBack { .. } | Next::Resume { .. } | Next::Hold { .. } | Next::End { .. } => false,
        }
    }

    /// Where the backup lies, so that Rancher's settings can be compared with it once more. Nothing waits for it: replicas are to
    /// be given back.
    async fn prepare_to_verify(&self, recorder: &Recorder, books: &Books, placed: &Placed) -> Prepared {
        let declares = recorder.status().plan.is_some_and(|plan| plan.version.is_some());
        if !declares || Self::is_unread(recorder) {
            return Prepared::default();
        }
        let asked = look::ask(&self.config, &self.cluster.reader(), placed, books.facts.clone()).await;
        Prepared { asked: asked.ok(), ..Prepared::default() }
    }

    /// The same tarball once more; another one under its name fails the run, since what was planned was the first.
    async fn prepare_again(
        &self,
        recorder: &mut Recorder,
        writer: &ClusterWriter,
        books: &Books,
        placed: &Placed,
    ) -> Result<Option<Prepared>, PassError> {
        let reader = self.cluster.reader();
        let found = match look::ask(&self.config, &reader, placed, books.facts.clone()).await {
            Ok(asked) if Self::is_unread(recorder) || asked.backup_name.is_none() => {
                return Ok(Some(Prepared { asked: Some(asked), ..Prepared::default() }));
            }
            Ok(mut asked) => {
                let found = asked.fetch(self.stores.as_ref(), &look::places(&self.config)).await;
                found.map(|found| (asked, found))
            }
            Err(problem) => Err(problem),
        };
        let (asked, found) = match found {
            Ok(found) => found,
            // The run's own time-out ends the waiting for a store, or for a Secret, that does not come back.
            Err(problem)
                if deadline_of(recorder, self.timeout(placed)).is_none_or(|deadline| self.now() <= deadline) =>
            {
                return Err(problem.into());
            }
            Err(problem) => {
                self.fail(recorder, writer, "Timeout", &problem.to_string()).await?;
                return Ok(None);
            }
        };
        let planned = recorder.status().plan.map(|plan| plan.backup.sha256).unwrap_or_default();
        let is_same = found.spool.as_ref().is_some_and(|spool| spool.sha256().to_string() == planned);
        if !is_same {
            let name = asked.backup_name.as_ref().map(ToString::to_string).unwrap_or_default();
            let message = format!("the backup {name} is gone, or is no longer the one that was planned");
            self.fail(recorder, writer, "DigestMismatch", &message).await?;
            return Ok(None);
        }
        // The Secret was read anew, and is not what it was.
        if let BackupSeen::Encrypted(closed) = &found.seen {
            self.fail(recorder, writer, GateCode::DecryptionFailed.as_str(), &closed.to_string()).await?;
            return Ok(None);
        }
        Ok(Some(Prepared { asked: Some(asked), found: Some(found), ..Prepared::default() }))
    }

    async fn fail(
        &self,
        recorder: &mut Recorder,
        writer: &ClusterWriter,
        reason: &str,
        message: &str,
    ) -> Result<(), PassError> {
        let next = journal::next(&recorder.status().journal, OnFailure::Hold);
        let (Next::Run(step) | Next::Again(step)) = next else { return Ok(()) };
        recorder.append(writer, Entry::Started { step }).await?;
        let failed = Entry::Failed { step, reason: reason.to_owned(), message: message.to_owned() };
        Ok(recorder.append(writer, failed).await?)
    }

    fn timeout(&self, placed: &Placed) -> std::time::Duration {
        placed.manifest.options.timeout.unwrap_or(self.config.policy.timeout)
    }

    fn settings(&self, placed: &Placed) -> Settings {
        let restore = placed.manifest.body.restore();
        let on_failure = placed.manifest.options.on_failure.unwrap_or(self.config.policy.on_failure);
        Settings {
            places: look::places(&self.config),
            on_failure,
            timeout: self.timeout(placed),
            delete_timeout: std::time::Duration::from_secs(
                restore.map(|restore| restore.delete_timeout_seconds).unwrap_or_default().into(),
            ),
            ignore_errors: restore.is_some_and(|restore| restore.ignore_errors),
            safety_backup: self.config.policy.safety_backup,
            rancher_url: self.config.rancher.url.clone(),
            verify: self.config.policy.verify.clone(),
        }
    }

    async fn execute(
        &self,
        writer: &ClusterWriter,
        books: &Books,
        recorder: Recorder,
        placed: &Placed,
        prepared: Prepared,
    ) -> Result<Begun, PassError> {
        let executor = Executor {
            reader: self.cluster.reader(),
            writer: writer.clone(),
            publisher: self.publisher.clone(),
            stores: std::sync::Arc::clone(&self.stores) as _,
            helm: std::sync::Arc::clone(&self.helm),
            settings: self.settings(placed),
            stop: self.stop.clone(),
        };
        let mut request = look::request(&self.config, placed);
        request.resuming = true;
        if let Some(plan) = recorder.status().plan {
            request.prunes_as_begun = Some(plan.prunes);
            request.engine = plan.engine;
        }
        self.under_way(deadline_of(&recorder, self.timeout(placed)));
        let mut work =
            prepared.into_work(recorder, request, placed, Level::new(self.config.rates.concurrency as usize));
        let ended = executor.run(&mut work).await?;
        self.under_way(None);
        match ended {
            Ended::Terminal(phase) => {
                if let (Phase::Succeeded, Some(location)) = (phase, &work.location) {
                    self.drop_old_safety_backups(books, work.recorder.run(), location).await;
                }
                Ok(Begun::Ended(phase))
            }
            Ended::Stopped => Ok(Begun::Stopped),
            Ended::NotAnnounced => {
                let gate = status_not_pushed(&work.not_announced);
                self.hold(writer, work.recorder, vec![gate], None).await
            }
        }
    }
}

fn nothing_to_do(plan: &Plan) -> &'static str {
    match (&plan.backup, &plan.version) {
        (Some(_), None) => "the cluster is as the backup has it: nothing was written, and Rancher was left running",
        (Some(_), Some(_)) => {
            "the cluster is as the backup has it, and the declared version runs: nothing was written, and Rancher was left \
             running"
        }
        (None, _) => "the declared version runs: nothing was written, and Rancher was left running",
    }
}

/// When the time of a run that has started is over.
fn deadline_of(recorder: &Recorder, timeout: std::time::Duration) -> Option<Timestamp> {
    let timeout = jiff::SignedDuration::try_from(timeout).unwrap_or(jiff::SignedDuration::MAX);
    recorder.status().started_at?.checked_add(timeout).ok()
}

pub(super) fn end(run: &mut Run, phase: Phase, reason: &str, message: &str, now: Timestamp) {
    let status = run.status.get_or_insert_default();
    status.phase = phase;
    status.reason = reason.to_owned();
    status.message = message.to_owned();
    status.ended_at = Some(now);
}

/// An error with its causes, on a line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// What this process knows already of a run that it carries out.
#[derive(Default)]
struct Prepared {
    looked: Option<Looked>,
    asked: Option<Asked>,
    found: Option<crate::observe::Found>,
    chart: Option<Chart>,
}

impl Prepared {
    fn of(looked: Looked) -> Self {
        Self { looked: Some(looked), ..Self::default() }
    }

    fn into_work(self, recorder: Recorder, request: crate::plan::Request, placed: &Placed, level: Level) -> Work {
        let backup_name = backup_name(&placed.manifest);
        let quiesce = recorder.status().plan.map(|plan| plan.quiesce).unwrap_or_default();
        // What an earlier process did counts.
        let counts = recorder.status().counts.unwrap_or_default();
        let planned = recorder.status().planned_deletions.as_deref().and_then(PlannedDeletions::read);
        let mut work = Work {
            recorder,
            request,
            known: crate::observe::Known::default(),
            spool: None,
            backup_name,
            location: None,
            laid_out: None,
            chart: self.chart,
            planned_deletions: planned,
            backup: None,
            counts,
            level,
            quiesce,
            quiet: None,
            given_back: BTreeMap::new(),
            is_withdrawn: false,
            operator_changed: None,
            not_announced: String::new(),
        };
        if let Some(Asked { request: _, backup_name: _, location, known }) = self.asked {
            work.location = location.ok();
            work.known = known;
        }
        if let Some(found) = self.found {
            work.spool = found.spool;
            work.backup = Some(found.seen);
        }
        let other_cluster_as_begun = work.recorder.status().plan.map(|plan| plan.other_cluster);
        if let Some(looked) = self.looked {
            work.planned_deletions = Some(planned_deletions(&looked));
            let Looked { plan, observed, spool, mut known, location } = looked;
            let installs = matches!(plan.version.map(|change| change.way), Some(Way::Chart { .. }));
            let archive = known.chart.take().and_then(|found| found.archive);
            work.chart = archive.filter(|_| installs).map(Chart::AtHand);
            work.known = known;
            work.location = location;
            work.spool = spool;
            work.backup = Some(observed.backup);
        }
        work.known.other_cluster_as_begun = other_cluster_as_begun;
        work
    }
}

fn planned_deletions(looked: &Looked) -> PlannedDeletions {
    let Looked { plan, observed, spool: _, known: _, location: _ } = looked;
    PlannedDeletions::of(
        plan.deletions.iter().map(|deletion| observed.live.objects[deletion.live as usize].facts.uid.as_ref()),
    )
}

/// The name was checked when the manifest was read.
fn backup_name(manifest: &Manifest) -> Option<BackupName> {
    BackupName::new(&manifest.body.restore()?.backup_filename).ok()
}
