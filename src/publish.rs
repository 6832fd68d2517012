//! The status branch, written beside everything else: what is owed to Git is pushed as soon as Git takes it.
//!
//! A run hands its state over and goes on. Only before quiesce does it wait for the push ([`Publisher::announce`]).
//! Each state that is handed over is told as an Event of the API, too.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::clock::Clock;
use crate::cluster::{Event, Events, Regarding};
use crate::git::{FileEdit, GitError, TreeLimits, WriteBranch, offload};
use crate::run::{ManifestRef, NAMESPACE, Run, SourceRef};
use crate::status::{self, Dashboard, EventText, Problem, Rules, StatusFileError};
use crate::store::Sha256;

/// Pauses between tries to push: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// The dashboard, and where it goes when a README that is not ours is there: the branch may be somebody's own.
const DASHBOARDS: [&str; 2] = ["README.md", "REINBACK.md"];
const RUNS_FOLDER: &str = "runs";
/// Read of a dashboard that somebody edited.
const DASHBOARD_LIMIT: usize = 4 << 20;

/// What the status branch holds.
#[derive(Debug, Default)]
pub struct BranchState {
    /// The branch is on the remote, and reinback has written to it.
    pub exists: bool,
    /// UID of the cluster that wrote the dashboard.
    pub cluster_uid: Option<String>,
    pub runs: Vec<Arc<Run>>,
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
    /// By the path of the status file.
    runs: BTreeMap<String, Arc<Run>>,
    dirty: BTreeSet<String>,
    /// Taken from `dirty` by a push that has not ended.
    pushing: BTreeSet<String>,
    /// The dashboard changed though no run did.
    stale: bool,
    /// `None` until they are known: there is no dashboard without them.
    surroundings: Option<Surroundings>,
}

/// The branch, and what was read of it last.
struct Shelf {
    branch: Box<dyn WriteBranch>,
    /// By path, with the digest of the file that each was read from.
    read: BTreeMap<String, (Sha256, Arc<Run>)>,
}

/// Hands runs to the task that pushes. Cloning it is cheap.
#[derive(Clone)]
pub struct Publisher {
    shelf: Arc<Mutex<Shelf>>,
    board: Arc<Mutex<Board>>,
    /// Counts up with each change of the board.
    owed: Arc<watch::Sender<u64>>,
    /// The count up to which the remote has it, or why it has not.
    pushed: Arc<watch::Sender<(u64, Option<NotPushed>)>>,
    events: Option<Events>,
    clock: Clock,
    blocks: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Publisher {
    /// Starts the task that pushes; it ends with the process.
    pub fn start(branch: Box<dyn WriteBranch>, clock: Clock) -> Self {
        let blocks = branch.blocks();
        let publisher = Self {
            shelf: Arc::new(Mutex::new(Shelf { branch, read: BTreeMap::new() })),
            board: Arc::default(),
            owed: Arc::new(watch::Sender::new(0)),
            pushed: Arc::new(watch::Sender::new((0, None))),
            events: None,
            clock,
            blocks,
        };
        tokio::spawn(publisher.clone().push_for_ever());
        publisher
    }

    /// Tells what is handed over as Events, too.
    #[must_use]
    pub fn telling(self, events: Events) -> Self {
        Self { events: Some(events), ..self }
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        lock(&self.board)
    }

    /// Takes over what the branch holds, so that the dashboard shows it, too.
    ///
    /// # Errors
    ///
    /// What the remote or its network did.
    pub async fn load(&self) -> Result<BranchState, GitError> {
        let (shelf, board) = (Arc::clone(&self.shelf), Arc::clone(&self.board));
        offload(self.blocks, move || {
            let mut shelf = lock(&shelf);
            let state = read(&mut shelf)?;
            // With the branch still locked: a push that ends meanwhile would be newer than what was read.
            lock(&board).take_over(&state.runs);
            Ok(state)
        })
        .await
    }

    /// Hands a run over to be pushed. A run that has not changed causes no commit.
    pub fn submit(&self, run: &Run) {
        self.submit_all(std::slice::from_ref(run));
    }

    /// Hands several runs over for one and the same commit.
    pub fn submit_all(&self, runs: &[Run]) {
        if let Some(events) = &self.events {
            let now = self.clock.now();
            runs.iter().filter_map(|run| told(run, now)).for_each(|event| events.tell(event));
        }
        self.make_up_all(runs);
    }

    /// Hands over what was told before and did not reach the remote.
    pub fn make_up(&self, run: &Run) {
        self.make_up_all(std::slice::from_ref(run));
    }

    fn make_up_all(&self, runs: &[Run]) {
        let mut board = self.board();
        for run in runs {
            let path = status::status_file_path(run);
            board.runs.insert(path.clone(), Arc::new(run.clone()));
            board.dirty.insert(path);
        }
        drop(board);
        if !runs.is_empty() {
            self.owe();
        }
    }

    /// Hands a run over and waits until the remote has it.
    ///
    /// # Errors
    ///
    /// When there can be no status file of it: a run that Git does not know must not begin. Else as [`Publisher::flush`].
    pub async fn announce(&self, run: &Run, limit: Duration) -> Result<(), NotPushed> {
        status::check_room(run).map_err(|error| NotPushed(format!("the run has no status file: {error}")))?;
        self.submit(run);
        self.flush(limit).await
    }

    /// Waits until the Events that were handed over are sent or given up.
    pub async fn settle_events(&self, limit: Duration) {
        if let Some(events) = &self.events {
            events.settle(limit).await;
        }
    }

    /// Says what the dashboard shows beside the runs; it goes along with the next run, or with [`Publisher::show`].
    pub fn surround(&self, surroundings: Surroundings) {
        let mut board = self.board();
        if board.surroundings.as_ref() != Some(&surroundings) {
            board.surroundings = Some(surroundings);
            board.stale = true;
        }
    }

    /// Hands the dashboard over, when it changed though no run did.
    pub fn show(&self) {
        if self.board().stale {
            self.owe();
        }
    }

    /// Makes the branch this cluster's, which somebody accepted.
    pub fn claim(&self, cluster_uid: &str) {
        let surroundings = self.board().surroundings.clone();
        if let Some(surroundings) = surroundings {
            self.surround(Surroundings { cluster_uid: cluster_uid.to_owned(), ..surroundings });
        }
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
        let shelf = Arc::clone(&self.shelf);
        let now = self.clock.now();
        let (load, outcome) = offload(self.blocks, move || {
            let outcome = load.push(lock(&shelf).branch.as_mut(), now);
            (load, outcome)
        })
        .await;
        load.settle(&mut self.board(), outcome.is_ok());
        outcome
    }
}

impl Board {
    /// Runs of the branch, but where a newer state is on its way there.
    fn take_over(&mut self, runs: &[Arc<Run>]) {
        for run in runs {
            let path = status::status_file_path(run);
            if !self.dirty.contains(&path) && !self.pushing.contains(&path) {
                self.runs.insert(path, Arc::clone(run));
            }
        }
    }
}

/// What one push carries.
struct Load {
    dirty: BTreeSet<String>,
    runs: BTreeMap<String, Arc<Run>>,
    surroundings: Option<Surroundings>,
    stale: bool,
}

impl Load {
    fn take(board: &mut Board) -> Self {
        let dirty = std::mem::take(&mut board.dirty);
        board.pushing.clone_from(&dirty);
        Self {
            dirty,
            runs: board.runs.clone(),
            surroundings: board.surroundings.clone(),
            stale: std::mem::take(&mut board.stale),
        }
    }

    /// What did not get through is owed again.
    fn settle(self, board: &mut Board, pushed: bool) {
        board.pushing.clear();
        if !pushed {
            board.dirty.extend(self.dirty);
            board.stale |= self.stale;
        }
    }

    fn push(&self, branch: &mut dyn WriteBranch, now: Timestamp) -> Result<(), GitError> {
        let edits = self.edits();
        let dashboard = self.surroundings.as_ref().map(|surroundings| self.dashboard(surroundings).into_bytes());
        let published = branch.publish(&self.message(), now, &mut |tree| {
            let path = dashboard_path(|path| tree.get(path, DASHBOARD_LIMIT))?;
            let dashboard = dashboard.clone();
            let dashboard = dashboard.map(|text| FileEdit { path: path.to_owned(), content: Some(text) });
            Ok(edits.iter().cloned().chain(dashboard).collect())
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

    fn dashboard(&self, surroundings: &Surroundings) -> String {
        let Surroundings { cluster, cluster_uid, rules, problems } = surroundings;
        let runs: Vec<&Run> = self.runs.values().map(Arc::as_ref).collect();
        let rules = rules.as_ref().map(|(manifest, source)| Rules { manifest, source });
        status::dashboard(&Dashboard { cluster, cluster_uid, rules, runs: &runs, problems })
    }

    fn message(&self) -> String {
        let changed: Vec<&Run> = self.dirty.iter().filter_map(|path| self.runs.get(path)).map(Arc::as_ref).collect();
        match changed.as_slice() {
            [] => "dashboard: manifests or their problems changed\n".to_owned(),
            [run] => status::commit_message(run),
            many => status::commit_message_of_many(many),
        }
    }
}

fn told(run: &Run, at: Timestamp) -> Option<Event> {
    let EventText { reason, action, note, is_warning } = status::event(run)?;
    let regarding = Regarding {
        api_version: <Run as kube::Resource>::api_version(&()).into_owned(),
        kind: <Run as kube::Resource>::kind(&()).into_owned(),
        namespace: run.metadata.namespace.clone().unwrap_or_else(|| NAMESPACE.to_owned()),
        name: run.metadata.name.clone()?,
        uid: run.metadata.uid.clone()?,
    };
    Some(Event { regarding, reason, action, note, is_warning, at })
}

fn read(shelf: &mut Shelf) -> Result<BranchState, GitError> {
    let Shelf { branch, read } = shelf;
    let Some(_) = branch.fetch()? else { return Ok(BranchState::default()) };
    let limits = TreeLimits { file_bytes: DASHBOARD_LIMIT, files: 100_000, ..TreeLimits::default() };
    let mut state = BranchState::default();
    let mut before = std::mem::take(read);
    let files = branch.read(RUNS_FOLDER, &limits)?;
    for (path, content) in files.into_iter().filter(|(path, _)| path.ends_with(".yaml")) {
        let digest = Sha256::of(&content);
        let run = match before.remove(&path) {
            Some((known, run)) if known == digest => Ok(run),
            _ => status::parse_status_file(&content).map(Arc::new),
        };
        match run {
            Ok(run) => {
                state.runs.push(Arc::clone(&run));
                read.insert(path, (digest, run));
            }
            Err(error) => state.unreadable.push((path, error)),
        }
    }
    let path = dashboard_path(|path| branch.read_file(path, DASHBOARD_LIMIT))?;
    let dashboard = branch.read_file(path, DASHBOARD_LIMIT)?.map(|text| String::from_utf8_lossy(&text).into_owned());
    state.exists = dashboard.is_some() || !state.runs.is_empty() || !state.unreadable.is_empty();
    state.cluster_uid = dashboard.as_deref().and_then(status::dashboard_cluster_uid).map(str::to_owned);
    Ok(state)
}

/// Where the dashboard is, or goes: a README that is not ours stays as it is.
fn dashboard_path(get: impl Fn(&str) -> Result<Option<Vec<u8>>, GitError>) -> Result<&'static str, GitError> {
    let [usual, other] = DASHBOARDS;
    match get(usual) {
        Ok(None) => Ok(usual),
        Ok(Some(text)) if status::is_dashboard(&String::from_utf8_lossy(&text)) => Ok(usual),
        Ok(Some(_)) | Err(GitError::TooLarge { .. }) => Ok(other),
        Err(error) => Err(error),
    }
}
