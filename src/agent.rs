//! The loop: fetch, decide, plan, run, report.
//!
//! A pass looks at Git and at the ledger, and does what [`crate::desired::decide`] says. What it may not do yet is
//! looked at again in the next pass. Nothing is kept in memory that a new process would miss.

pub mod begin;
mod chart;
mod drift;
pub mod hold;
pub mod ledger;
pub mod look;
mod retain;
mod setup;
pub mod source;
mod undo;
mod wake;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use crate::cluster::{
    Acquired, Candidate as LeaseCandidate, Cluster, ClusterError, Events, FailureKind, LeaseError, LeaseGuard,
    LeaseName, LeaseTimes, Sighting, Target, holder_identity,
};
use crate::config::Config;
use crate::desired::{CancelReason, Desired, Look, Placed, decide};
use crate::execute::{ExecuteError, Helm, Program, RecordError, runs, stopped};
use crate::git::{Author, GitError, Remote, StatusBranch, WriteBranch};
use crate::helm::Access;
use crate::manifest::Severity;
use crate::observe::ObserveError;
use crate::publish::{NotPushed, Publisher, Surroundings};
use crate::run::{CANCEL_ANNOTATION, NAMESPACE, Phase, Run};
use crate::status::Problem;
use crate::store::{KeepingStores, OpenStore, Stores};
use begin::Begun;
use ledger::Books;
use source::{Source, View};
use wake::Wake;

/// Pauses after an error: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// How long a pass waits for another agent's lease before it gives way until the next.
const LEASE_PATIENCE: Duration = Duration::from_secs(1);
/// How long what is under way may take to come to a safe place when the process is asked to stop.
const SAFE_PLACE_WITHIN: Duration = Duration::from_secs(5);
/// How long a stopping agent waits for the status to be on the remote.
const LAST_FLUSH_WITHIN: Duration = Duration::from_secs(1);
/// How long giving the lease back may take. Both together stay below the 10 s that stopping may take.
const RELEASE_WITHIN: Duration = Duration::from_secs(3);
/// How long a command that passes once waits for the lease of an agent that was killed; the usual one runs out in 25 s.
const ORPHAN_LEASE_WITHIN: Duration = Duration::from_secs(60);
/// How long the end of a pass waits for the status to be on the remote.
const FLUSH_WITHIN: Duration = Duration::from_secs(30);
/// How long it waits for the last Events.
const EVENTS_WITHIN: Duration = Duration::from_secs(5);

/// Why a pass came to no end; the next one tries again.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    #[error("cannot read the source")]
    Source(#[source] GitError),
    #[error("cannot read the status branch")]
    Status(#[source] GitError),
    #[error("cannot read the runs of the cluster")]
    Runs(#[source] ClusterError),
    #[error("the cluster does not know runs; apply what `reinback crd` prints, or start the agent with --install-crd")]
    NoCrd,
    #[error("cannot take the lease")]
    Lease(#[from] LeaseError),
    #[error("cannot write to the cluster")]
    Setup(#[source] crate::cluster::WriteError),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Observe(#[from] ObserveError),
    #[error(transparent)]
    Execute(#[from] ExecuteError),
    #[error(transparent)]
    NotPushed(#[from] NotPushed),
    #[error("run {run} holds a manifest that cannot be read: {problem}")]
    Pinned { run: String, problem: String },
}

/// What a pass left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Passed {
    /// Runs that a gate holds.
    pub held: usize,
    /// Runs that failed in this pass.
    pub failed: usize,
    /// Manifests that could not be read.
    pub invalid: usize,
    /// Another agent holds the lease.
    pub busy: bool,
    /// Something ended: what waited for it may run now.
    pub again: bool,
}

impl Passed {
    fn count(&mut self, begun: Begun) {
        match begun {
            Begun::Held => self.held += 1,
            Begun::Ended(phase) => {
                self.failed += usize::from(phase == Phase::Failed);
                self.again = true;
            }
            Begun::Stopped => {}
        }
    }
}

/// How an agent is started.
#[derive(Debug, Clone)]
pub struct Options {
    pub install_crd: bool,
    /// Which cluster helm changes: the agent's own.
    pub helm: Access,
    pub lease: LeaseTimes,
}

/// What an agent reads from and reports to, beside the cluster.
pub struct Parts {
    pub source: Source,
    pub status: Box<dyn WriteBranch>,
    pub stores: Arc<dyn OpenStore>,
    pub helm: Arc<dyn Helm>,
}

impl Parts {
    /// The real ones of a configuration.
    ///
    /// # Errors
    ///
    /// When an address cannot be used, or a cache folder not be written or is in use.
    pub fn of(config: &Config, helm: Access) -> Result<Self, GitError> {
        let source = Source::open(config)?;
        let status = Box::new(status_branch(config)?);
        Ok(Self { source, status, stores: Arc::new(Stores), helm: Arc::new(Program(helm)) })
    }
}

/// Watches one source for one cluster.
pub struct Agent {
    pub(crate) config: Config,
    pub(crate) cluster: Cluster,
    pub(crate) publisher: Publisher,
    pub(crate) stop: watch::Receiver<bool>,
    source: Source,
    stores: Arc<KeepingStores>,
    helm: Arc<dyn Helm>,
    lease: LeaseCandidate,
    options: Options,
    /// Namespace and CRD are there.
    ready: bool,
    /// No pass follows that could do what this one has to leave.
    is_only_pass: bool,
    /// Until when the run that this process carries out has time.
    under_way: Mutex<Option<Timestamp>>,
}

impl Agent {
    /// Opens the caches; nothing is fetched yet. Must be called on a tokio runtime.
    ///
    /// # Errors
    ///
    /// When an address cannot be used, or a cache folder not be written or is in use.
    pub fn open(
        config: Config,
        cluster: Cluster,
        options: Options,
        stop: watch::Receiver<bool>,
    ) -> Result<Self, GitError> {
        let parts = Parts::of(&config, options.helm.clone())?;
        Ok(Self::over(config, cluster, parts, options, stop))
    }

    /// An agent of these parts.
    pub fn over(config: Config, cluster: Cluster, parts: Parts, options: Options, stop: watch::Receiver<bool>) -> Self {
        let Parts { source, status, stores, helm } = parts;
        let publisher = Publisher::start(status, cluster.clock()).telling(Events::start(&cluster.writer()));
        let name = LeaseName { namespace: NAMESPACE.to_owned(), name: "reinback".to_owned() };
        let lease = LeaseCandidate::new(cluster.reader(), cluster.writer(), name, options.lease, holder_identity());
        Self {
            config,
            cluster,
            publisher,
            stop,
            source,
            stores: Arc::new(KeepingStores::new(stores)),
            helm,
            lease,
            options,
            ready: false,
            is_only_pass: false,
            under_way: Mutex::default(),
        }
    }

    /// Passes until asked to stop.
    pub async fn watch(&mut self) {
        let mut pause = PAUSES.0;
        let wake = Wake::start(&self.config);
        while !*self.stop.borrow() {
            let wait = match self.pass().await {
                Ok(passed) if passed.again => continue,
                Ok(passed) => {
                    pause = PAUSES.0;
                    debug!("pass ended: {passed:?}");
                    if passed.held == 0 {
                        self.stores.forget();
                    }
                    self.config.source.interval
                }
                Err(problem) => {
                    error!(error = &problem as &dyn std::error::Error, "this pass came to no end");
                    let wait = pause;
                    pause = (pause * 2).min(PAUSES.1);
                    wait
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stopped(self.stop.clone()) => {}
                () = wake.woken() => debug!("looking at once: a file that is watched has changed"),
            }
        }
        // What does not get through now is owed by the next start.
        let _ = self.publisher.flush(LAST_FLUSH_WITHIN).await;
    }

    /// Passes until nothing is left that may run.
    ///
    /// # Errors
    ///
    /// Of the first pass that came to no end, once the run that it was at is out of time.
    pub async fn once(&mut self) -> Result<Passed, PassError> {
        self.is_only_pass = true;
        let mut failed = 0;
        let mut pause = PAUSES.0;
        loop {
            let passed = match self.pass().await {
                Ok(passed) => passed,
                Err(problem) if self.has_time_left() && !*self.stop.borrow() => {
                    say_again(&problem, pause);
                    let _ = tokio::time::timeout(pause, stopped(self.stop.clone())).await;
                    pause = (pause * 2).min(PAUSES.1);
                    continue;
                }
                Err(problem) => {
                    // What an earlier pass did is told all the same.
                    let _ = self.publisher.flush(FLUSH_WITHIN).await;
                    return Err(problem);
                }
            };
            failed += passed.failed;
            if !passed.again || *self.stop.borrow() {
                self.publisher.settle_events(EVENTS_WITHIN).await;
                self.publisher.flush(FLUSH_WITHIN).await?;
                return Ok(Passed { failed, ..passed });
            }
        }
    }

    /// One pass.
    ///
    /// # Errors
    ///
    /// When Git, cluster or store do not answer; nothing is lost by it.
    pub async fn pass(&mut self) -> Result<Passed, PassError> {
        let passed = self.try_pass().await;
        // Somebody may have deleted the namespace: it is looked for again.
        self.ready &= passed.is_ok();
        passed
    }

    async fn try_pass(&mut self) -> Result<Passed, PassError> {
        let stop = self.stop.clone();
        // Nothing is under way yet, so that nobody waits for what does not answer.
        let (view, books, free) = tokio::select! {
            seen = self.look_around() => seen?,
            () = stopped(stop) => return Ok(Passed::default()),
        };
        let look = Look { first: books.first_look(), whole: view.is_whole };
        let placed = self.with_undo(&view, &books, look);
        let desired = decide(placed, &books.ledger, look);
        let invalid = view.problems.len();
        if is_settled(&desired) && Box::pin(self.untold_drift(&books, &desired)).await?.is_none() {
            self.tell_git(&view, &books, &desired);
            self.publisher.show();
            return Ok(Passed { invalid, ..Passed::default() });
        }
        let read = free.filter(|_| books.knows_git).map(|free| (free, books));
        let acted = self.act_alone(&view, look, read).await;
        self.publisher.show();
        acted.map(|passed| Passed { invalid, ..passed })
    }

    /// What lies in Git, what ran, and the lease, if nobody held it before what ran was read.
    async fn look_around(&mut self) -> Result<(View, Books, Option<Sighting>), PassError> {
        self.make_ready().await?;
        let what_ran = async {
            let free = self.lease.sight().await;
            (free, Books::read(&self.cluster.reader(), &self.publisher, &self.config).await)
        };
        let (view, (free, books)) = tokio::join!(self.source.look(&self.config), what_ran);
        let (view, books) = self.despite_git(view, books).await?;
        Ok((view, books, free))
    }

    /// Where manifests are read.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// What is handed to Git.
    pub fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// Carries out one manifest that did not come from Git, to its end; it counts as newest.
    ///
    /// # Errors
    ///
    /// As [`Agent::pass`].
    pub async fn run_local(&mut self, placed: Placed) -> Result<Passed, PassError> {
        self.is_only_pass = true;
        self.make_ready().await?;
        let mut view = self.source.look(&self.config).await.map_err(PassError::Source)?;
        view.placed.retain(|other| other.key != placed.key);
        for other in &mut view.placed {
            other.commit.position = other.commit.position.saturating_add(1);
        }
        view.placed.push(placed);
        let mut passed = self.act_alone(&view, Look { first: false, whole: false }, None).await?;
        // What somebody else left unfinished came first.
        while passed.again && !*self.stop.borrow() {
            passed = self.act_alone(&view, Look { first: false, whole: false }, None).await?;
        }
        self.publisher.settle_events(EVENTS_WITHIN).await;
        self.publisher.flush(FLUSH_WITHIN).await?;
        Ok(passed)
    }

    /// Ends a run that has not written anything, or, where another reinback is at work, asks it to.
    ///
    /// # Errors
    ///
    /// As [`Agent::pass`].
    pub async fn cancel_local(&mut self, run: &Run, by: &str) -> Result<(), PassError> {
        self.make_ready().await?;
        let name = run.metadata.name.clone().unwrap_or_default();
        let (Some(guard), Ok(key)) = (self.take_lease().await?, run.spec.key.parse()) else {
            let resource = runs();
            let target = Target::new(&resource, Some(NAMESPACE), &name);
            let patch = serde_json::json!({"metadata": {"annotations": {CANCEL_ANNOTATION: by}}});
            return match self.cluster.writer().merge_patch(&target, &patch).await {
                Ok(_) => Ok(()),
                Err(error) if error.kind() == Some(FailureKind::NotFound) => Ok(()),
                Err(error) => Err(PassError::Setup(error)),
            };
        };
        let books = Books::read(&self.cluster.reader(), &self.publisher, &self.config).await?;
        let writer = self.cluster.writer().fenced(&guard);
        let reason = CancelReason::Asked { by: by.to_owned() };
        let is_open =
            books.ledger.entries.get(&key).is_some_and(|entry| !entry.phase.is_terminal() && !entry.first_write);
        if is_open {
            Box::pin(self.cancel(&writer, &books, key, &reason)).await?;
        }
        drop(writer);
        if let Err(problem) = guard.release().await {
            warn!("the lease was not given back, it runs out by itself: {problem}");
        }
        self.publisher.flush(FLUSH_WITHIN).await?;
        Ok(())
    }

    /// Git gone does not stop a run that is under way (invariant 8).
    async fn despite_git(
        &mut self,
        view: Result<View, GitError>,
        books: Result<Books, PassError>,
    ) -> Result<(View, Books), PassError> {
        match (view, books) {
            (Ok(view), Ok(books)) => Ok((view, books)),
            (view, books) => {
                let books = match books {
                    Ok(books) => books,
                    Err(PassError::Status(problem)) => {
                        let alone = Books::of_cluster(&self.cluster.reader(), &self.config).await?;
                        if !alone.has_running() {
                            return Err(PassError::Status(problem));
                        }
                        alone
                    }
                    Err(other) => return Err(other),
                };
                match view {
                    Ok(view) => Ok((view, books)),
                    Err(problem) if !books.has_running() => Err(PassError::Source(problem)),
                    Err(problem) => {
                        warn!(error = &problem as &dyn std::error::Error, "a run goes on without Git");
                        Ok((View::default(), books))
                    }
                }
            }
        }
    }

    /// Acts while holding the lease; `busy` when another agent holds it. `read` is what ran, read after the lease was seen free.
    async fn act_alone(
        &mut self,
        view: &View,
        look: Look,
        read: Option<(Sighting, Books)>,
    ) -> Result<Passed, PassError> {
        let stop = self.stop.clone();
        // A lease that is taken and not heard of runs out by itself.
        let taken = tokio::select! {
            taken = self.take_lease() => taken?,
            () = stopped(stop) => return Ok(Passed::default()),
        };
        match taken {
            Some(guard) => {
                let read = read.filter(|(free, _)| guard.follows(free)).map(|(_, books)| books);
                Box::pin(self.act_while_held(guard, view, look, read)).await
            }
            None => Ok(Passed { busy: true, ..Passed::default() }),
        }
    }

    /// Acts, and gives the lease back.
    ///
    /// Asked to stop, what is done comes to a safe place by itself, or is broken off where it stands: that is as good as
    /// being killed, which any moment bears, and the lease is still given back. So it is when the lease is lost.
    async fn act_while_held(
        &mut self,
        guard: LeaseGuard,
        view: &View,
        look: Look,
        read: Option<Books>,
    ) -> Result<Passed, PassError> {
        let fence = guard.fence();
        let stop = self.stop.clone();
        let patience = async move {
            stopped(stop).await;
            tokio::time::sleep(SAFE_PLACE_WITHIN).await;
        };
        let acted = tokio::select! {
            acted = self.act(&guard, view, look, read) => acted,
            () = patience => Ok(Passed::default()),
            () = fence.until_lost() => Err(PassError::Execute(ExecuteError::LeaseLost)),
        };
        let problem = match tokio::time::timeout(RELEASE_WITHIN, guard.release()).await {
            Ok(Ok(())) => return acted,
            Ok(Err(problem)) => problem.to_string(),
            Err(_elapsed) => "the API server does not answer".to_owned(),
        };
        warn!("the lease was not given back, it runs out by itself: {problem}");
        acted
    }

    /// Until when a run that is under way has time; `None` when it is over.
    pub(crate) fn under_way(&self, until: Option<Timestamp>) {
        *self.under_way.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.cluster.clock().now()
    }

    fn has_time_left(&self) -> bool {
        let until = *self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| self.now() < until)
    }

    /// With the lease held, the ledger is read once more, unless nobody else had the lease since it was: another agent may have
    /// been at work until a moment ago.
    async fn act(
        &mut self,
        guard: &LeaseGuard,
        view: &View,
        look: Look,
        read: Option<Books>,
    ) -> Result<Passed, PassError> {
        let (books, problem) = match read {
            Some(books) => (books, None),
            None => self.books_or_the_clusters_alone().await?,
        };
        if guard.is_new() && books.has_running() {
            let wait = guard.times().takeover_after(Duration::ZERO);
            warn!("a run is under way and its lease was gone: waiting {} s for who may still hold it", wait.as_secs());
            tokio::time::sleep(wait).await;
            // Whoever it was may have come to the end.
            return Ok(Passed { again: true, ..Passed::default() });
        }
        let desired = decide(self.with_undo(view, &books, look), &books.ledger, look);
        if let Some(problem) = problem.filter(|_| is_settled(&desired)) {
            return Err(PassError::Status(problem));
        }
        let writer = self.cluster.writer().fenced(guard);
        let mut passed = Passed::default();
        let mut superseded = Vec::new();
        for (placed, by) in &desired.superseded {
            superseded.push(self.record_superseded(&writer, &books, placed, by).await?);
        }
        // A branch stands for a first look that is over: nothing goes there before all of it is recorded, and then at once.
        self.tell_git(view, &books, &desired);
        self.publisher.submit_all(&superseded);
        if let Some(told) = Box::pin(self.untold_drift(&books, &desired)).await? {
            Box::pin(self.tell_drift(&writer, &books, told)).await?;
        }
        for (key, reason) in &desired.cancelled {
            passed.again |= Box::pin(self.cancel(&writer, &books, *key, reason)).await?;
        }
        if let Some(key) = desired.continue_run {
            let ended = Box::pin(self.go_on(&writer, &books, key)).await?;
            passed.failed += usize::from(ended == Some(Phase::Failed));
            passed.again = ended.is_some();
            return Ok(passed);
        }
        for placed in &desired.ambiguous {
            let others = desired.ambiguous.iter().filter(|other| other.key != placed.key);
            let others = others.map(|other| other.manifest.id.to_string()).collect();
            passed.count(self.hold_ambiguous(&writer, &books, placed, others).await?);
        }
        if let Some(candidate) = &desired.runnable {
            passed.count(Box::pin(self.begin(&writer, &books, candidate)).await?);
        }
        Ok(passed)
    }

    async fn books_or_the_clusters_alone(&self) -> Result<(Books, Option<GitError>), PassError> {
        match Books::read(&self.cluster.reader(), &self.publisher, &self.config).await {
            Err(PassError::Status(problem)) => {
                Ok((Books::of_cluster(&self.cluster.reader(), &self.config).await?, Some(problem)))
            }
            books => Ok((books?, None)),
        }
    }

    /// What lies in Git, and the undo that a failure asks for.
    fn with_undo(&self, view: &View, books: &Books, look: Look) -> Vec<Placed> {
        match look.first {
            true => view.placed.clone(),
            false => undo::with_undo(view.placed.clone(), books, self.config.store.as_ref()),
        }
    }

    async fn take_lease(&mut self) -> Result<Option<LeaseGuard>, PassError> {
        let mut acquired = self.lease.acquire(LEASE_PATIENCE).await?;
        if let Acquired::Busy { holder, at_most } = &acquired {
            info!("{holder} holds the lease, for at most {} s more", at_most.as_secs());
            if self.is_only_pass && *at_most < ORPHAN_LEASE_WITHIN {
                // A killed agent's lease runs out for whoever watches it; there is no next pass to go on watching.
                acquired = self.lease.acquire(*at_most + LEASE_PATIENCE).await?;
            }
        }
        match acquired {
            Acquired::Held(guard) => Ok(Some(guard)),
            Acquired::Busy { .. } => Ok(None),
        }
    }

    /// What Git is to say whatever becomes of this pass.
    fn tell_git(&self, view: &View, books: &Books, desired: &Desired) {
        if !books.knows_git {
            return;
        }
        let ruling = desired.rules.and_then(|key| view.placed.iter().find(|placed| placed.key == key));
        self.publisher.surround(Surroundings {
            cluster: self.config.cluster.clone(),
            cluster_uid: books.branch_of().to_owned(),
            rules: ruling.map(|placed| (begin::manifest_ref(placed), begin::source_ref(placed))),
            problems: view.problems.clone(),
        });
        for run in books.owed.iter().filter_map(|key| books.runs.get(key)) {
            self.publisher.make_up(run);
        }
    }
}

/// The status branch of a configuration.
///
/// # Errors
///
/// As [`StatusBranch::open`].
pub fn status_branch(config: &Config) -> Result<StatusBranch, GitError> {
    let remote = Remote::new(config.status.url.as_str(), config.status.secret_dir.clone());
    let author = Author { name: config.status.author_name.clone(), email: config.status.author_email.clone() };
    StatusBranch::open(&config.data_dir.join("status"), remote, &config.status.branch, author)
}

/// Of a pass that came to no end and is tried again.
fn say_again(problem: &PassError, pause: Duration) {
    let told = problem as &dyn std::error::Error;
    warn!(error = told, "a run is under way: going on with it in {} s", pause.as_secs());
}

/// Nothing is to be recorded, run or looked at again.
fn is_settled(desired: &Desired) -> bool {
    let Desired { runnable, waiting, continue_run, ambiguous, superseded, cancelled, done: _, rules: _ } = desired;
    runnable.is_none()
        && waiting.is_none()
        && continue_run.is_none()
        && ambiguous.is_empty()
        && superseded.is_empty()
        && cancelled.is_empty()
}

/// A problem of a manifest in the words of the dashboard.
pub(crate) fn shown(problem: &crate::manifest::Problem) -> Option<Problem> {
    (problem.severity == Severity::Error).then(|| Problem {
        file: problem.file.clone(),
        line: problem.at.map(|at| at.line as u64),
        text: problem.message.clone(),
    })
}

/// When a held run gives up.
pub(crate) fn hold_expires(run: &Run, max_hold: Duration) -> Option<Timestamp> {
    let held_since = run.status.as_ref()?.held_since?;
    held_since.checked_add(jiff::SignedDuration::try_from(max_hold).ok()?).ok()
}
