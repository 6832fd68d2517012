//! The status branch, written beside everything else: what is owed to Git is pushed as soon as Git takes it.
//!
//! A run hands its state over and goes on. Only before quiesce does it wait for the push ([`Publisher::flush`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::git::{FileEdit, GitError, StatusBranch, TreeLimits, blocking};
use crate::run::{ManifestRef, Run, SourceRef};
use crate::status::{self, Dashboard, Problem, Rules, StatusFileError};

/// Pauses between tries to push: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
const README: &str = "README.md";
const RUNS_FOLDER: &str = "runs";
/// Read of a dashboard that somebody edited.
const README_LIMIT: usize = 4 << 20;

/// What the status branch holds.
#[derive(Debug, Default)]
pub struct BranchState {
    /// The branch is on the remote.
    pub exists: bool,
    /// UID of the cluster that wrote the dashboard.
    pub cluster_uid: Option<String>,
    pub runs: Vec<Run>,
    /// Files that are no status files: path, and why.
    pub unreadable: Vec<(String, StatusFileError)>,
}

/// Why what is owed is not on the remote.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the status branch cannot be pushed to: {0}")]
pub struct NotPushed(String);

/// What is shown beside the runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    pub cluster: String,
    pub cluster_uid: String,
    pub rules: Option<(ManifestRef, SourceRef)>,
    pub problems: Vec<Problem>,
}

#[derive(Debug, Default)]
struct Board {
    runs: BTreeMap<String, Run>,
    dirty: BTreeSet<String>,
    /// The dashboard changed though no run did.
    stale: bool,
    surroundings: Surroundings,
}

/// Hands runs to the task that pushes. Cloning it is cheap.
#[derive(Clone)]
pub struct Publisher {
    branch: Arc<Mutex<StatusBranch>>,
    board: Arc<Mutex<Board>>,
    /// Counts up with each change of the board.
    owed: Arc<watch::Sender<u64>>,
    /// The count up to which the remote has it, or why it has not.
    pushed: Arc<watch::Sender<(u64, Option<NotPushed>)>>,
}

impl Publisher {
    /// Starts the task that pushes; it ends with the process.
    pub fn start(branch: StatusBranch) -> Self {
        let publisher = Self {
            branch: Arc::new(Mutex::new(branch)),
            board: Arc::default(),
            owed: Arc::new(watch::Sender::new(0)),
            pushed: Arc::new(watch::Sender::new((0, None))),
        };
        tokio::spawn(publisher.clone().push_for_ever());
        publisher
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what the branch holds, so that the dashboard shows it, too.
    ///
    /// # Errors
    ///
    /// What the remote or its network did.
    pub async fn load(&self) -> Result<BranchState, GitError> {
        let branch = Arc::clone(&self.branch);
        let state = blocking(move || read(&mut branch.lock().unwrap_or_else(PoisonError::into_inner))).await?;
        let mut board = self.board();
        for run in &state.runs {
            let path = status::status_file_path(run);
            if !board.dirty.contains(&path) {
                board.runs.insert(path, run.clone());
            }
        }
        Ok(state)
    }

    /// Hands a run over to be pushed. A run that has not changed causes no commit.
    pub fn submit(&self, run: &Run) {
        let path = status::status_file_path(run);
        let mut board = self.board();
        board.runs.insert(path.clone(), run.clone());
        board.dirty.insert(path);
        drop(board);
        self.owe();
    }

    /// Says what the dashboard shows beside the runs.
    pub fn surround(&self, surroundings: Surroundings) {
        let mut board = self.board();
        if board.surroundings == surroundings {
            return;
        }
        board.surroundings = surroundings;
        board.stale = true;
        drop(board);
        self.owe();
    }

    fn owe(&self) {
        self.owed.send_modify(|owed| *owed += 1);
    }

    /// Waits until the remote has all that was handed over so far.
    ///
    /// # Errors
    ///
    /// When it does not within `limit`, with what the remote said last.
    pub async fn flush(&self, limit: Duration) -> Result<(), NotPushed> {
        let wanted = *self.owed.borrow();
        let mut pushed = self.pushed.subscribe();
        let waited = tokio::time::timeout(limit, pushed.wait_for(|(done, _)| *done >= wanted)).await;
        match waited {
            Ok(Ok(_)) => Ok(()),
            _ => Err(self.pushed.borrow().1.clone().unwrap_or_else(|| NotPushed("it does not answer".to_owned()))),
        }
    }

    async fn push_for_ever(self) {
        let mut owed = self.owed.subscribe();
        let mut done = 0;
        let mut pause = PAUSES.0;
        loop {
            if owed.wait_for(|owed| *owed > done).await.is_err() {
                return;
            }
            let wanted = *owed.borrow_and_update();
            match self.push_once().await {
                Ok(()) => {
                    done = wanted;
                    pause = PAUSES.0;
                    self.pushed.send_replace((done, None));
                }
                Err(error) => {
                    warn!(error = &error as &dyn std::error::Error, "the status branch is not pushed yet");
                    self.pushed.send_modify(|pushed| pushed.1 = Some(NotPushed(error.to_string())));
                    tokio::time::sleep_until(Instant::now() + pause).await;
                    pause = (pause * 2).min(PAUSES.1);
                }
            }
        }
    }

    async fn push_once(&self) -> Result<(), GitError> {
        let load = Load::take(&mut self.board());
        let branch = Arc::clone(&self.branch);
        let (load, outcome) = blocking(move || {
            let outcome = load.push(&mut branch.lock().unwrap_or_else(PoisonError::into_inner));
            (load, outcome)
        })
        .await;
        if outcome.is_err() {
            load.put_back(&mut self.board());
        }
        outcome
    }
}

/// What one push carries.
struct Load {
    dirty: BTreeSet<String>,
    runs: BTreeMap<String, Run>,
    surroundings: Surroundings,
    stale: bool,
}

impl Load {
    fn take(board: &mut Board) -> Self {
        Self {
            dirty: std::mem::take(&mut board.dirty),
            runs: board.runs.clone(),
            surroundings: board.surroundings.clone(),
            stale: std::mem::take(&mut board.stale),
        }
    }

    fn put_back(self, board: &mut Board) {
        board.dirty.extend(self.dirty);
        board.stale |= self.stale;
    }

    fn push(&self, branch: &mut StatusBranch) -> Result<(), GitError> {
        let edits = self.edits();
        let published = branch.publish(&self.message(), Timestamp::now(), &mut |_| Ok(edits.clone()))?;
        debug!("status: {published:?}");
        Ok(())
    }

    fn edits(&self) -> Vec<FileEdit> {
        let mut edits = Vec::new();
        for (path, run) in self.runs.iter().filter(|(path, _)| self.dirty.contains(*path)) {
            match status::status_file(run) {
                Ok(text) => edits.push(FileEdit { path: path.clone(), content: Some(text.into_bytes()) }),
                Err(error) => warn!(error = &error as &dyn std::error::Error, "no status file for {path}"),
            }
        }
        edits.push(FileEdit { path: README.to_owned(), content: Some(self.dashboard().into_bytes()) });
        edits
    }

    fn dashboard(&self) -> String {
        let Surroundings { cluster, cluster_uid, rules, problems } = &self.surroundings;
        let runs: Vec<Run> = self.runs.values().cloned().collect();
        let rules = rules.as_ref().map(|(manifest, source)| Rules { manifest, source });
        status::dashboard(&Dashboard { cluster, cluster_uid, rules, runs: &runs, problems })
    }

    fn message(&self) -> String {
        let changed: Vec<&Run> = self.dirty.iter().filter_map(|path| self.runs.get(path)).collect();
        match changed.as_slice() {
            [] => "dashboard: manifests or their problems changed\n".to_owned(),
            [run] => status::commit_message(run),
            many => {
                let lines: Vec<String> = many.iter().map(|run| format!("- {}", status::subject(run))).collect();
                format!("status of {} runs\n\n{}\n", many.len(), lines.join("\n"))
            }
        }
    }
}

fn read(branch: &mut StatusBranch) -> Result<BranchState, GitError> {
    let Some(_) = branch.fetch()? else { return Ok(BranchState::default()) };
    let limits = TreeLimits { file_bytes: README_LIMIT, files: 100_000, ..TreeLimits::default() };
    let mut state = BranchState { exists: true, ..BranchState::default() };
    for (path, content) in branch.read(RUNS_FOLDER, &limits)? {
        match status::parse_status_file(&content) {
            Ok(run) => state.runs.push(run),
            Err(error) => state.unreadable.push((path, error)),
        }
    }
    state.cluster_uid = dashboard_uid(branch, &limits)?;
    Ok(state)
}

fn dashboard_uid(branch: &StatusBranch, limits: &TreeLimits) -> Result<Option<String>, GitError> {
    let readme = branch.read_file(README, limits.file_bytes)?;
    let text = readme.map(|content| String::from_utf8_lossy(&content).into_owned());
    Ok(text.as_deref().and_then(status::dashboard_cluster_uid).map(str::to_owned))
}
