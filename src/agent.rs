//! The loop: fetch, decide, plan, run, report.
//!
//! A pass looks at Git and at the ledger, and does what [`crate::desired::decide`] says. What it may not do yet is
//! looked at again in the next pass. Nothing is kept in memory that a new process would miss.

pub mod begin;
pub mod ledger;
pub mod look;
pub mod source;

use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use crate::cluster::{
    Acquired, Candidate as LeaseCandidate, Cluster, ClusterError, LeaseError, LeaseGuard, LeaseName, LeaseTimes,
    holder_identity,
};
use crate::config::Config;
use crate::desired::{Desired, Look, Placed, decide};
use crate::execute::{ExecuteError, RecordError};
use crate::git::{Author, GitError, Remote, StatusBranch};
use crate::manifest::Severity;
use crate::observe::ObserveError;
use crate::publish::{NotPushed, Publisher, Surroundings};
use crate::run::{NAMESPACE, Phase, Run};
use crate::status::Problem;
use begin::Begun;
use ledger::Books;
use source::{Source, View};

/// Pauses after an error: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// How long a pass waits for another agent's lease before it gives way until the next.
const LEASE_PATIENCE: Duration = Duration::from_secs(1);
/// How long the end of a pass waits for the status to be on the remote.
const FLUSH_WITHIN: Duration = Duration::from_secs(30);

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
    pub lease: LeaseTimes,
}

/// Watches one source for one cluster.
pub struct Agent {
    pub(crate) config: Config,
    pub(crate) cluster: Cluster,
    pub(crate) publisher: Publisher,
    pub(crate) stop: watch::Receiver<bool>,
    source: Source,
    lease: LeaseCandidate,
    options: Options,
    /// Namespace and CRD are there.
    ready: bool,
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
        let source = Source::open(&config)?;
        let publisher = Publisher::start(status_branch(&config)?);
        let name = LeaseName { namespace: NAMESPACE.to_owned(), name: "reinback".to_owned() };
        let lease = LeaseCandidate::new(cluster.reader(), cluster.writer(), name, options.lease, holder_identity());
        Ok(Self { config, cluster, publisher, stop, source, lease, options, ready: false })
    }

    /// Passes until asked to stop.
    pub async fn watch(&mut self) {
        let mut pause = PAUSES.0;
        while !*self.stop.borrow() {
            let wait = match self.pass().await {
                Ok(passed) if passed.again => continue,
                Ok(passed) => {
                    pause = PAUSES.0;
                    debug!("pass ended: {passed:?}");
                    self.config.source.interval
                }
                Err(problem) => {
                    error!(error = &problem as &dyn std::error::Error, "this pass came to no end");
                    let wait = pause;
                    pause = (pause * 2).min(PAUSES.1);
                    wait
                }
            };
            let mut stop = self.stop.clone();
            let _ = tokio::time::timeout(wait, stop.wait_for(|stop| *stop)).await;
        }
    }

    /// Passes until nothing is left that may run.
    ///
    /// # Errors
    ///
    /// Of the first pass that came to no end, once the run that it was at is out of time.
    pub async fn once(&mut self) -> Result<Passed, PassError> {
        let mut failed = 0;
        loop {
            let passed = self.pass().await?;
            failed += passed.failed;
            if !passed.again || *self.stop.borrow() {
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
        self.make_ready().await?;
        let view = self.source.look(&self.config).await;
        let books = Books::read(&self.cluster.reader(), &self.publisher, &self.config).await;
        let (view, books) = self.despite_git(view, books).await?;
        let look = Look { first: books.first_look(), whole: view.is_whole };
        let desired = decide(view.placed.clone(), &books.ledger, look);
        let invalid = view.problems.len();
        let is_settled = is_settled(&desired) && books.owed.is_empty();
        // A branch that is there ends the first look, so it is made when all that was found is recorded.
        if is_settled || !look.first {
            self.publisher.surround(self.surroundings(&view, &books, &desired));
        }
        if is_settled {
            return Ok(Passed { invalid, ..Passed::default() });
        }
        let acted = self.act_alone(&view, look).await?;
        Ok(Passed { invalid, ..acted })
    }

    /// Acts while holding the lease; `busy` when another agent holds it.
    async fn act_alone(&mut self, view: &View, look: Look) -> Result<Passed, PassError> {
        let Some(guard) = self.take_lease().await? else {
            return Ok(Passed { busy: true, ..Passed::default() });
        };
        let acted = self.act(&guard, view, look).await;
        if let Err(problem) = guard.release().await {
            warn!(error = &problem as &dyn std::error::Error, "the lease was not given back; it runs out by itself");
        }
        acted
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
        self.make_ready().await?;
        let mut view = self.source.look(&self.config).await.map_err(PassError::Source)?;
        view.placed.retain(|other| other.key != placed.key);
        for other in &mut view.placed {
            other.commit.position = other.commit.position.saturating_add(1);
        }
        view.placed.push(placed);
        let mut failed = 0;
        // A run that somebody else left unfinished comes first.
        loop {
            let passed = self.act_alone(&view, Look { first: false, whole: false }).await?;
            failed += passed.failed;
            if !passed.again || *self.stop.borrow() {
                self.publisher.flush(FLUSH_WITHIN).await?;
                return Ok(Passed { failed, ..passed });
            }
        }
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

    /// With the lease held, the ledger is read once more: another agent may have been at work until a moment ago.
    async fn act(&mut self, guard: &LeaseGuard, view: &View, look: Look) -> Result<Passed, PassError> {
        let mut books = Books::read(&self.cluster.reader(), &self.publisher, &self.config).await;
        if let Err(PassError::Status(_)) = books {
            books = Books::of_cluster(&self.cluster.reader(), &self.config).await;
        }
        let books = books?;
        let desired = decide(view.placed.clone(), &books.ledger, look);
        let writer = self.cluster.writer().fenced(guard);
        let mut passed = Passed::default();
        let mut recorded = if look.first { Vec::new() } else { books.owed.clone() };
        for (placed, by) in &desired.superseded {
            recorded.push(self.record_superseded(&writer, &books, placed, by).await?);
        }
        let surroundings = self.surroundings(view, &books, &desired);
        self.publisher.hand_over(&recorded, Some(surroundings));
        for (key, reason) in &desired.cancelled {
            passed.again |= self.cancel(&writer, &books, *key, reason).await?;
        }
        if let Some(key) = desired.continue_run {
            let ended = self.go_on(&writer, &books, key).await?;
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
            passed.count(self.begin(&writer, &books, candidate).await?);
        }
        Ok(passed)
    }

    async fn take_lease(&mut self) -> Result<Option<LeaseGuard>, PassError> {
        match self.lease.acquire(LEASE_PATIENCE).await? {
            Acquired::Held(guard) => Ok(Some(guard)),
            Acquired::Busy { holder, at_most } => {
                info!("{holder} holds the lease, for at most {} s more", at_most.as_secs());
                Ok(None)
            }
        }
    }

    fn surroundings(&self, view: &View, books: &Books, desired: &Desired) -> Surroundings {
        let ruling = desired.rules.and_then(|key| view.placed.iter().find(|placed| placed.key == key));
        Surroundings {
            cluster: self.config.cluster.clone(),
            cluster_uid: books.branch_uid(),
            rules: ruling.map(|placed| (begin::manifest_ref(placed), begin::source_ref(placed))),
            problems: view.problems.clone(),
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
