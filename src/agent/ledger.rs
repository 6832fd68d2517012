//! The ledger: what ran, by the cluster's `Run` objects and the status files of Git together.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use super::PassError;
use crate::cluster::{ClusterError, ClusterReader, ListOptions};
use crate::config::Config;
use crate::desired::{FIRST_LOOK, LOCAL, Ledger, LedgerEntry, RunKey};
use crate::execute::runs;
use crate::journal::Journal;
use crate::manifest::{Digest, Kind};
use crate::observed::LedgerFacts;
use crate::publish::{BranchState, Publisher};
use crate::run::{NAMESPACE, Phase, Run, RunStatus};
use crate::status;

/// Stands for the UID of the cluster in a branch that we made anew because it was gone.
const NOBODY: &str = "unknown";

/// Everything that is known of runs.
#[derive(Debug, Default)]
pub struct Books {
    /// By key; where cluster and Git know one, the further of the two.
    pub runs: BTreeMap<RunKey, Run>,
    pub ledger: Ledger,
    pub facts: LedgerFacts,
    /// UID of this cluster's namespace kube-system.
    pub cluster_uid: String,
    /// Status files that cannot be read: what they stand for may have run.
    pub unreadable: Vec<String>,
    /// The branch could be read; if not, nothing is known of it.
    pub knows_git: bool,
    /// Runs of which Git does not say what the cluster says: the last push was not made, or a person changed a file.
    pub owed: Vec<RunKey>,
    /// Under way by Git, and not known to the cluster, or less: their objects were deleted, and with them what Git was not
    /// told yet.
    pub lost: BTreeSet<RunKey>,
    /// Runs under way that an agent with another `cluster` in its configuration makes in this cluster.
    pub others_running: Vec<String>,
    /// Runs that another cluster, by the branch's UID, has begun and not ended: they are not gone on with here.
    pub foreign: BTreeMap<RunKey, Run>,
}

impl Books {
    /// Reads both halves, at once.
    ///
    /// # Errors
    ///
    /// `Status` when Git, `Runs` when the cluster does not answer.
    pub async fn read(reader: &ClusterReader, publisher: &Publisher, config: &Config) -> Result<Self, PassError> {
        Self::beside_git(Self::of_cluster(reader, config), publisher).await
    }

    /// Reads both halves of a cluster that may not know runs yet.
    ///
    /// # Errors
    ///
    /// As [`Books::read`].
    pub async fn read_or_new(
        reader: &ClusterReader,
        publisher: &Publisher,
        config: &Config,
    ) -> Result<Self, PassError> {
        let of_cluster = async {
            match Self::of_cluster(reader, config).await {
                Err(PassError::NoCrd) => {
                    let uid = reader.cluster_uid().await.map_err(PassError::Runs)?;
                    Ok(Self { cluster_uid: uid.unwrap_or_default(), ..Self::default() })
                }
                read => read,
            }
        };
        Self::beside_git(of_cluster, publisher).await
    }

    async fn beside_git(
        of_cluster: impl Future<Output = Result<Self, PassError>>,
        publisher: &Publisher,
    ) -> Result<Self, PassError> {
        let (books, branch) = tokio::join!(of_cluster, publisher.load());
        Ok(books?.with_branch(branch.map_err(PassError::Status)?))
    }

    fn with_branch(mut self, branch: BranchState) -> Self {
        self.knows_git = true;
        self.facts.branch_exists = branch.exists;
        self.facts.branch_cluster_uid = branch.cluster_uid;
        self.unreadable = branch.unreadable.into_iter().map(|(path, _)| path).collect();
        self.owed = self.owed_to(&branch.runs);
        let owner = self.facts.branch_cluster_uid.clone();
        let is_foreign = owner.is_some_and(|uid| uid != self.cluster_uid && uid != NOBODY);
        for run in branch.runs {
            self.enter_from_git(Arc::unwrap_or_clone(run), is_foreign);
        }
        self.ledger = ledger(&self.runs, &self.lost);
        self
    }

    fn enter_from_git(&mut self, run: Run, is_foreign: bool) {
        let Ok(key) = run.spec.key.parse::<RunKey>() else { return };
        match is_foreign && !status_of(&run).phase.is_terminal() && !self.runs.contains_key(&key) {
            true => drop(self.foreign.insert(key, run)),
            false => {
                let is_under_way = status_of(&run).phase == Phase::Running;
                if self.enter(run) && is_under_way {
                    self.lost.insert(key);
                }
            }
        }
    }

    /// What the plan of one manifest needs to know: who brought the same content, and who is as new.
    pub fn facts_of(&self, already_run: Option<RunKey>, as_new: Vec<String>) -> LedgerFacts {
        let name = already_run.and_then(|key| self.runs.get(&key)).map(|run| run.spec.manifest.name.clone());
        LedgerFacts { same_content_ran_as: name, as_new, ..self.facts.clone() }
    }

    /// Reads the cluster's half alone, for when Git does not answer.
    ///
    /// # Errors
    ///
    /// `Runs`.
    pub async fn of_cluster(reader: &ClusterReader, config: &Config) -> Result<Self, PassError> {
        let uid = reader.cluster_uid().await.map_err(PassError::Runs)?;
        let mut books = Self { cluster_uid: uid.unwrap_or_default(), ..Self::default() };
        let known = list_runs(reader).await?;
        books.facts.runs_in_cluster = known.len();
        for run in known {
            match run.spec.cluster == config.cluster {
                true => drop(books.enter(run)),
                false if status_of(&run).phase == Phase::Running => {
                    books.others_running.extend(run.metadata.name);
                }
                false => {}
            }
        }
        books.ledger = Ledger { is_half: true, ..ledger(&books.runs, &books.lost) };
        Ok(books)
    }

    /// There is no status branch and no run but of a first look: what lies in Git is older than reinback here.
    ///
    /// A first look that was broken off goes on: what it recorded does not end it.
    pub fn first_look(&self) -> bool {
        let of_first_look = |run: &Run| {
            // One without a status was made a moment before that process ended.
            run.status.as_ref().is_none_or(|status| status.phase == Phase::Pending || status.reason == FIRST_LOOK)
        };
        !self.facts.branch_exists && self.runs.values().all(of_first_look)
    }

    /// What the dashboard says of whose branch it is. Until somebody accepts `LedgerMismatch` that stays as it is, or
    /// the gate would go away by our own writing.
    pub fn branch_of(&self) -> &str {
        match &self.facts.branch_cluster_uid {
            Some(uid) => uid,
            None if !self.facts.branch_exists && self.facts.runs_in_cluster > 0 && !self.first_look() => NOBODY,
            None => &self.cluster_uid,
        }
    }

    /// Of the cluster's runs those that do not go on and of which `files` says something else. Another cluster's branch
    /// is owed nothing.
    fn owed_to(&self, files: &[Arc<Run>]) -> Vec<RunKey> {
        if self.facts.branch_cluster_uid.as_deref() != Some(self.cluster_uid.as_str()) {
            return Vec::new();
        }
        let told: BTreeMap<&str, &Arc<Run>> = files.iter().map(|run| (run.spec.key.as_str(), run)).collect();
        let rests = |run: &Run| {
            let phase = status_of(run).phase;
            phase.is_terminal() || phase == Phase::Held
        };
        let owed = |run: &Run| match told.get(run.spec.key.as_str()) {
            Some(file) => (&file.spec, &file.status) != (&run.spec, &run.status) && !is_further(file, run),
            None => true,
        };
        self.runs.iter().filter(|(_, run)| rests(run) && owed(run)).map(|(key, _)| *key).collect()
    }

    pub fn has_running(&self) -> bool {
        self.ledger.entries.values().any(|entry| entry.phase == Phase::Running)
    }

    /// True when it says more than what was known.
    fn enter(&mut self, run: Run) -> bool {
        let Ok(key) = run.spec.key.parse::<RunKey>() else { return false };
        let is_news = self.runs.get(&key).is_none_or(|known| is_further(&run, known));
        if is_news {
            self.runs.insert(key, run);
        }
        is_news
    }
}

/// All `Run` objects; one that cannot be read is passed over with its name.
///
/// # Errors
///
/// `NoCrd`, and `Runs` when the API server does not answer.
pub async fn list_runs(reader: &ClusterReader) -> Result<Vec<Run>, PassError> {
    let options = ListOptions { namespace: Some(NAMESPACE), ..ListOptions::default() };
    let listed = reader
        .list(&runs(), options, |raw| {
            let value: Value = serde_json::from_str(raw.get())?;
            let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            match status::run_from_value(value) {
                Ok(run) => Ok(Some(run)),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "run {name} cannot be read");
                    Ok(None)
                }
            }
        })
        .await;
    match listed {
        Ok(listed) => Ok(listed.items),
        Err(ClusterError::NotServed { .. }) => Err(PassError::NoCrd),
        Err(error) => Err(PassError::Runs(error)),
    }
}

fn status_of(run: &Run) -> RunStatus {
    run.status.clone().unwrap_or_default()
}

/// An end beats everything, then the longer journal; the cluster is written before Git, so it was entered first and stays.
fn is_further(run: &Run, known: &Run) -> bool {
    let rank = |run: &Run| {
        let status = status_of(run);
        (status.phase.is_terminal(), status.journal.len(), status.phase != Phase::Pending)
    };
    rank(run) > rank(known)
}

fn ledger(runs: &BTreeMap<RunKey, Run>, lost: &BTreeSet<RunKey>) -> Ledger {
    let entries = runs.iter().filter_map(|(key, run)| {
        let entry = entry(run)?;
        let first_write = entry.first_write || lost.contains(key);
        Some((*key, LedgerEntry { first_write, ..entry }))
    });
    Ledger { entries: entries.collect(), is_half: false }
}

fn entry(run: &Run) -> Option<LedgerEntry> {
    let status = status_of(run);
    let kind = match run.spec.manifest.kind.as_str() {
        "Restore" => Kind::Restore,
        "Rollback" => Kind::Rollback,
        _ => return None,
    };
    let started = status.started_at;
    Some(LedgerEntry {
        kind,
        name: run.spec.manifest.name.clone(),
        local: run.spec.source.commit == LOCAL,
        content: run.spec.content_key.parse().ok()?,
        document: Digest::from_hex(&run.spec.document_digest),
        phase: status.phase,
        first_write: Journal::from(status.journal).first_write_begun(),
        started,
    })
}
