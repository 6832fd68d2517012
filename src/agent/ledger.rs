//! The ledger: what ran, by the cluster's `Run` objects and the status files of Git together.

use std::collections::BTreeMap;

use serde_json::Value;

use super::PassError;
use crate::cluster::{ClusterError, ClusterReader, ListOptions};
use crate::config::Config;
use crate::desired::{FIRST_LOOK, LOCAL, Ledger, LedgerEntry, RunKey};
use crate::execute::runs;
use crate::journal::Journal;
use crate::manifest::{Digest, Kind};
use crate::observed::LedgerFacts;
use crate::publish::{Publisher, is_further};
use crate::run::{NAMESPACE, Phase, Run, RunStatus};
use crate::status;

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
    /// Runs that another cluster, by the branch's UID, has begun and not ended: they are not gone on with here.
    pub foreign: BTreeMap<RunKey, Run>,
    /// Runs of which the cluster says more than Git: what a process that ended could not push any more.
    pub owed: Vec<Run>,
}

impl Books {
    /// Reads both halves.
    ///
    /// # Errors
    ///
    /// `Status` when Git, `Runs` when the cluster does not answer.
    pub async fn read(reader: &ClusterReader, publisher: &Publisher, config: &Config) -> Result<Self, PassError> {
        let mut books = Self::of_cluster(reader, config).await?;
        let branch = publisher.load().await.map_err(PassError::Status)?;
        books.facts.branch_exists = branch.exists && !branch.was_lost;
        books.facts.branch_cluster_uid = branch.cluster_uid;
        books.unreadable = branch.unreadable.into_iter().map(|(path, _)| path).collect();
        books.owed = owed(&books.runs, &branch.runs);
        let is_foreign = books.facts.branch_cluster_uid.as_ref().is_some_and(|uid| *uid != books.cluster_uid);
        for run in branch.runs {
            books.enter_from_git(run, is_foreign);
        }
        books.ledger = ledger(&books.runs);
        Ok(books)
    }

    fn enter_from_git(&mut self, run: Run, is_foreign: bool) {
        let Ok(key) = run.spec.key.parse::<RunKey>() else { return };
        match is_foreign && !status_of(&run).phase.is_terminal() && !self.runs.contains_key(&key) {
            true => drop(self.foreign.insert(key, run)),
            false => self.enter(run),
        }
    }

    /// The UID that the dashboard is to show: what the branch says stays until a person accepts another.
    pub fn branch_uid(&self) -> Option<String> {
        let settled = self.first_look() || (self.facts.branch_exists && self.facts.branch_cluster_uid.is_none());
        if settled { Some(self.cluster_uid.clone()) } else { self.facts.branch_cluster_uid.clone() }
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
        match Self::read(reader, publisher, config).await {
            Err(PassError::NoCrd) => {
                let uid = reader.cluster_uid().await.map_err(PassError::Runs)?;
                Ok(Self { cluster_uid: uid.unwrap_or_default(), ..Self::default() })
            }
            read => read,
        }
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
        for run in known.into_iter().filter(|run| run.spec.cluster == config.cluster) {
            books.enter(run);
        }
        books.ledger = ledger(&books.runs);
        Ok(books)
    }

    /// There is no status branch, and no run but those that a first look recorded before it was broken off: what lies
    /// in Git is older than reinback here.
    pub fn first_look(&self) -> bool {
        !self.facts.branch_exists && self.runs.values().all(is_of_first_look)
    }

    /// What the plan of one manifest needs to know: who brought the same content, and who is as new.
    pub fn facts_of(&self, already_run: Option<RunKey>, as_new: Vec<String>) -> LedgerFacts {
        let name = already_run.and_then(|key| self.runs.get(&key)).map(|run| run.spec.manifest.name.clone());
        LedgerFacts { same_content_ran_as: name, as_new, ..self.facts.clone() }
    }

    pub fn has_running(&self) -> bool {
        self.ledger.entries.values().any(|entry| entry.phase == Phase::Running)
    }

    fn enter(&mut self, run: Run) {
        let Ok(key) = run.spec.key.parse::<RunKey>() else { return };
        match self.runs.get(&key) {
            // The cluster is written before Git, so it was entered first and stays.
            Some(known) if !is_further(&run, known) => {}
            _ => drop(self.runs.insert(key, run)),
        }
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

fn is_of_first_look(run: &Run) -> bool {
    run.status.as_ref().is_none_or(|status| status.phase == Phase::Pending || status.reason == FIRST_LOOK)
}

/// What the cluster knows and Git does not yet.
fn owed(in_cluster: &BTreeMap<RunKey, Run>, in_git: &[Run]) -> Vec<Run> {
    let mut known: BTreeMap<&str, &Run> = BTreeMap::new();
    for run in in_git {
        let further = known.get(run.spec.key.as_str()).is_none_or(|known| is_further(run, known));
        if further {
            known.insert(&run.spec.key, run);
        }
    }
    let is_owed = |run: &&Run| {
        let status = status_of(run);
        let Some(known) = known.get(run.spec.key.as_str()) else { return status.phase != Phase::Pending };
        let held = status.phase == Phase::Held && !is_further(known, run);
        is_further(run, known) || (held && status.gates != status_of(known).gates)
    };
    in_cluster.values().filter(is_owed).cloned().collect()
}

fn ledger(runs: &BTreeMap<RunKey, Run>) -> Ledger {
    Ledger { entries: runs.iter().filter_map(|(key, run)| Some((*key, entry(run)?))).collect() }
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
