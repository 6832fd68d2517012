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
use crate::run::{ManifestRef, Phase, Run, SourceRef};
use crate::status::{self, Dashboard, Problem, Rules, StatusFileError};

/// Pauses between tries to push: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// The dashboard, and where it goes when a README that is not ours is there: the branch may be somebody's own.
const DASHBOARDS: [&str; 2] = ["README.md", "REINBACK.md"];
const RUNS_FOLDER: &str = "runs";
/// Read of a dashboard that somebody edited.
const DASHBOARD_LIMIT: usize = 4 << 20;
/// Stands for the cluster's UID in a branch that was made anew although the cluster had runs: until a person accepts
/// that, the branch is not taken for the ledger it was.
const LOST: &str = "none-the-branch-was-gone";

/// What the status branch holds.
#[derive(Debug, Default)]
pub struct BranchState {
    /// The branch is on the remote and has been written by reinback.
    pub exists: bool,
    /// It was made anew in place of one that was gone, and nobody has accepted that yet.
    pub was_lost: bool,
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
    /// The cluster that the branch is the ledger of; `None` when that is not settled.
    pub cluster_uid: Option<String>,
    pub rules: Option<(ManifestRef, SourceRef)>,
    pub problems: Vec<Problem>,
}

#[derive(Debug, Default)]
struct Board {
    runs: BTreeMap<String, Run>,
    dirty: BTreeSet<String>,
    /// On its way: what the branch says of it meanwhile is older.
    in_flight: BTreeSet<String>,
    /// The dashboard changed though no run did.
    stale: bool,
    surroundings: Surroundings,
    /// The UID that this process has made the branch's, which reading an older state does not take back.
    adopted: Option<String>,
}

impl Board {
    /// Takes what the branch says, except of runs that this process has to say more of.
    fn take_over(&mut self, runs: &[Run]) {
        for run in runs {
            let path = status::status_file_path(run);
            if !self.dirty.contains(&path) && !self.in_flight.contains(&path) {
                self.runs.insert(path, run.clone());
            }
        }
    }
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
        locked(&self.board)
    }

    /// Takes over what the branch holds, so that the dashboard shows it, too.
    ///
    /// # Errors
    ///
    /// What the remote or its network did.
    pub async fn load(&self) -> Result<BranchState, GitError> {
        let (branch, board) = (Arc::clone(&self.branch), Arc::clone(&self.board));
        blocking(move || {
            let mut branch = locked(&branch);
            let state = read(&mut branch)?;
            // Before the branch is let go: a push in between would make this the older state.
            locked(&board).take_over(&state.runs);
            Ok(state)
        })
        .await
    }

    /// Hands a run over to be pushed. A run that has not changed causes no commit.
    pub fn submit(&self, run: &Run) {
        self.hand_over(std::slice::from_ref(run), None);
    }

    /// Says what the dashboard shows beside the runs.
    pub fn surround(&self, surroundings: Surroundings) {
        self.hand_over(&[], Some(surroundings));
    }

    /// Hands several runs over, and what is beside them, for one and the same commit.
    pub fn hand_over(&self, runs: &[Run], surroundings: Option<Surroundings>) {
        let mut board = self.board();
        for run in runs {
            let path = status::status_file_path(run);
            board.runs.insert(path.clone(), run.clone());
            board.dirty.insert(path);
        }
        if let Some(mut surroundings) = surroundings {
            surroundings.cluster_uid = board.adopted.clone().or(surroundings.cluster_uid);
            board.stale |= board.surroundings != surroundings;
            board.surroundings = surroundings;
        }
        let owes = board.stale || !runs.is_empty();
        drop(board);
        if owes {
            self.owe();
        }
    }

    /// From now on the branch is the ledger of this cluster, whatever it was before.
    pub fn adopt(&self, cluster_uid: &str) {
        let mut board = self.board();
        board.adopted = Some(cluster_uid.to_owned());
        board.surroundings.cluster_uid = Some(cluster_uid.to_owned());
        board.stale = true;
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
        let (branch, board) = (Arc::clone(&self.branch), Arc::clone(&self.board));
        blocking(move || {
            let mut branch = locked(&branch);
            let outcome = load.push(&mut branch);
            load.settle(&mut locked(&board), outcome.is_ok());
            outcome
        })
        .await
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
        board.in_flight = std::mem::take(&mut board.dirty);
        Self {
            dirty: board.in_flight.clone(),
            runs: board.runs.clone(),
            surroundings: board.surroundings.clone(),
            stale: std::mem::take(&mut board.stale),
        }
    }

    /// What was not pushed is owed again.
    fn settle(&self, board: &mut Board, pushed: bool) {
        let in_flight = std::mem::take(&mut board.in_flight);
        if !pushed {
            board.dirty.extend(in_flight);
            board.stale |= self.stale;
        }
    }

    fn push(&self, branch: &mut StatusBranch) -> Result<(), GitError> {
        let edits = self.edits();
        let dashboard = self.dashboard().into_bytes();
        let published = branch.publish(&self.message(), Timestamp::now(), &mut |tree| {
            let path = dashboard_path(|path| tree.get(path, DASHBOARD_LIMIT))?;
            let dashboard = FileEdit { path: path.to_owned(), content: Some(dashboard.clone()) };
            Ok(edits.iter().cloned().chain([dashboard]).collect())
        })?;
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
        edits
    }

    fn dashboard(&self) -> String {
        let Surroundings { cluster, cluster_uid, rules, problems } = &self.surroundings;
        let runs: Vec<Run> = self.runs.values().cloned().collect();
        let rules = rules.as_ref().map(|(manifest, source)| Rules { manifest, source });
        let cluster_uid = cluster_uid.as_deref().unwrap_or(LOST);
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
    let limits = TreeLimits { file_bytes: DASHBOARD_LIMIT, files: 100_000, ..TreeLimits::default() };
    let mut state = BranchState::default();
    for (path, content) in branch.read(RUNS_FOLDER, &limits)? {
        if !path.ends_with(".yaml") {
            continue;
        }
        match status::parse_status_file(&content) {
            Ok(run) => state.runs.push(run),
            Err(error) => state.unreadable.push((path, error)),
        }
    }
    let path = dashboard_path(|path| branch.read_file(path, DASHBOARD_LIMIT))?;
    let dashboard = branch.read_file(path, DASHBOARD_LIMIT)?.map(|text| String::from_utf8_lossy(&text).into_owned());
    state.exists = dashboard.is_some() || !state.runs.is_empty() || !state.unreadable.is_empty();
    let uid = dashboard.as_deref().and_then(status::dashboard_cluster_uid);
    state.was_lost = uid == Some(LOST);
    state.cluster_uid = uid.filter(|uid| *uid != LOST).map(str::to_owned);
    Ok(state)
}

/// Where the dashboard is, or goes: a README that is not ours stays as it is.
fn dashboard_path(
    get: impl Fn(&str) -> Result<Option<Vec<u8>>, GitError>,
) -> Result<&'static str, GitError> {
    let [usual, other] = DASHBOARDS;
    match get(usual) {
        Ok(None) => Ok(usual),
        Ok(Some(text)) if status::is_dashboard(&String::from_utf8_lossy(&text)) => Ok(usual),
        Ok(Some(_)) | Err(GitError::TooLarge { .. }) => Ok(other),
        Err(error) => Err(error),
    }
}

/// Whether `run` says more than `known` does of the same key: an end beats everything, then the longer journal.
pub fn is_further(run: &Run, known: &Run) -> bool {
    let rank = |run: &Run| {
        run.status.as_ref().map_or((false, 0, false), |status| {
            (status.phase.is_terminal(), status.journal.len(), status.phase != Phase::Pending)
        })
    };
    rank(run) > rank(known)
}
