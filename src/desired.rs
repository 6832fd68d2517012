//! Which manifest rules the cluster now, and which runs end without having run.
//!
//! Pure: the manifests of the tip, the commits that last changed them and the ledger come in; a decision goes out.

mod attribution;
mod key;

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;

use crate::journal::CANCELLED;
use crate::manifest::{Digest, Kind, Manifest, ManifestId};
use crate::run::Phase;

pub use attribution::{Attribution, Change};
pub use key::{ContentKey, NotAKey, RunKey, StoreDefault, content_key, run_key};

/// What is known of one key, from Git and from the cluster together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerEntry {
    pub kind: Kind,
    pub name: String,
    /// It was handed over on the command line: Git never had it, so Git does not take it away.
    pub local: bool,
    pub content: ContentKey,
    /// What the document said; `None` where the record does not tell. With it, another default store in the agent's
    /// configuration, which makes another key, runs nothing.
    pub document: Option<Digest>,
    pub phase: Phase,
    /// At least one object was written, or nobody can tell any more: what is unknown must not be taken for harmless.
    pub first_write: bool,
    /// When quiesce began.
    pub started: Option<Timestamp>,
}

impl LedgerEntry {
    fn is_of(&self, id: &ManifestId) -> bool {
        self.kind == id.kind && self.name == id.name
    }

    /// The content reached the cluster, at least in part.
    fn has_written(&self) -> bool {
        match self.phase {
            Phase::Succeeded | Phase::Running => true,
            Phase::Failed => self.first_write,
            Phase::Pending | Phase::Held | Phase::Superseded | Phase::Cancelled => false,
        }
    }
}

/// Stands for the commit of what was handed over on the command line.
pub const LOCAL: &str = "local";

/// Reason of a run that was in Git before the agent.
pub const FIRST_LOOK: &str = "FirstLook";

/// Every key that was ever seen, by Git or by the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    pub entries: BTreeMap<RunKey, LedgerEntry>,
    /// Git could not be read: what is not here may have run, so that only what is under way goes on.
    pub is_half: bool,
}

/// The commit that last changed a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitPlace {
    /// In hexadecimal; [`LOCAL`] for a file that was handed over on the command line.
    pub id: String,
    /// Along the first parents: smaller is newer. Only the order counts; dates do not.
    pub position: usize,
    pub author: String,
    pub time: Timestamp,
}

/// A manifest with its key and its place in history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    pub manifest: Manifest,
    pub key: RunKey,
    pub content: ContentKey,
    pub commit: CommitPlace,
    /// It goes back to what was before a run that failed, and was made of that run.
    pub undoes: bool,
}

impl Placed {
    /// `store` is the agent's own, for manifests that name none.
    pub fn new(manifest: Manifest, store: Option<&StoreDefault>, commit: CommitPlace) -> Self {
        Self { key: run_key(&manifest, store), content: content_key(&manifest, store), manifest, commit, undoes: false }
    }

    /// The same, made of a run that it undoes.
    #[must_use]
    pub fn undoing(self) -> Self {
        Self { undoes: true, ..self }
    }
}

/// How the manifests came to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// There is no status branch yet: what lies in Git is older than reinback here, and never runs by itself.
    pub first: bool,
    /// `Tree::is_whole`. If not, a manifest that is missing may be in what could not be read, and nothing is cancelled
    /// for it.
    pub whole: bool,
}

/// Why a run ends `Superseded`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SupersededBy {
    /// It was there before the agent.
    FirstLook,
    Newer {
        id: ManifestId,
        key: RunKey,
    },
}

impl SupersededBy {
    /// The stable word for status.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::FirstLook => FIRST_LOOK,
            Self::Newer { .. } => "NewerManifest",
        }
    }
}

impl CancelReason {
    /// The stable word for status.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Removed => "ManifestRemoved",
            Self::Edited { .. } => "ManifestEdited",
            Self::Asked { .. } => CANCELLED,
        }
    }
}

impl fmt::Display for SupersededBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FirstLook => f.write_str(
                "it was in Git before reinback looked for the first time; to run it, change `reinback.io/requested-at`",
            ),
            Self::Newer { id, key } => write!(f, "{id} ({}) is newer", key.short()),
        }
    }
}

/// Why a run ends `Cancelled`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CancelReason {
    /// The manifest is no longer in Git.
    Removed,
    /// The manifest now asks for something else, under another key.
    Edited { by: RunKey },
    /// A person asked for it.
    Asked { by: String },
}

/// The manifest that may run, or wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub placed: Placed,
    /// The run of another name that brought the same content to this cluster: gate `AlreadyRun`.
    pub already_run: Option<RunKey>,
}

/// What is to be done, at most one run of it. Every manifest is in exactly one of `runnable`, `waiting`, `ambiguous`,
/// `superseded` and `done`, or is the one that is continued or cancelled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// May be planned now.
    pub runnable: Option<Candidate>,
    /// May be planned when what runs has ended: gate `RunInProgress`.
    pub waiting: Option<Candidate>,
    /// Started and not ended: goes on as pinned, whatever Git says now.
    pub continue_run: Option<RunKey>,
    /// Changed by one and the same newest commit: gate `Ambiguous` holds each.
    pub ambiguous: Vec<Placed>,
    pub superseded: Vec<(Placed, SupersededBy)>,
    pub cancelled: Vec<(RunKey, CancelReason)>,
    /// Has ended, and why it does not run again.
    pub done: Vec<(Placed, Phase)>,
    /// What declares the state of the cluster: the newest manifest, unless it was superseded or cancelled.
    pub rules: Option<RunKey>,
}

/// Where a manifest stands by the ledger.
enum Standing {
    Ended(Phase),
    Running,
    Open,
}

/// Decides which manifest may run. The order of `placed` does not matter.
pub fn decide(mut placed: Vec<Placed>, ledger: &Ledger, look: Look) -> Desired {
    placed.sort_by(|a, b| (a.commit.position, &a.manifest.id).cmp(&(b.commit.position, &b.manifest.id)));
    let cancelled = cancelled(&placed, ledger, look);
    let running = running(ledger);
    let mut desired = Desired { rules: rules(&placed, ledger, look), ..Desired::default() };
    let newest = placed.first().map(|newest| newest.commit.position);
    let by = placed.first().map(|newest| (newest.manifest.id.clone(), newest.key));
    let mut open = Vec::new();
    for placed in placed {
        match (standing(&placed, ledger), &by) {
            (Standing::Ended(phase), _) => desired.done.push((placed, phase)),
            (Standing::Running, _) => {}
            (Standing::Open, _) if look.first => desired.superseded.push((placed, SupersededBy::FirstLook)),
            (Standing::Open, Some((id, key))) if newest != Some(placed.commit.position) => {
                desired.superseded.push((placed, SupersededBy::Newer { id: id.clone(), key: *key }));
            }
            (Standing::Open, _) => open.push(placed),
        }
    }
    match <[Placed; 1]>::try_from(open) {
        Ok([placed]) => {
            let candidate = Candidate { already_run: already_run(&placed, ledger), placed };
            if running.is_empty() { desired.runnable = Some(candidate) } else { desired.waiting = Some(candidate) }
        }
        Err(none_or_several) => desired.ambiguous = none_or_several,
    }
    // A run that is being cancelled gives the replicas back first: nothing starts beside it.
    desired.continue_run = running.iter().copied().find(|key| !cancelled.iter().any(|(other, _)| other == key));
    desired.cancelled = cancelled;
    if ledger.is_half {
        desired.cancelled.retain(|(key, _)| running.contains(key));
        return Desired { continue_run: desired.continue_run, cancelled: desired.cancelled, ..Desired::default() };
    }
    desired
}

fn standing(placed: &Placed, ledger: &Ledger) -> Standing {
    let of_phase = |phase: Phase| match phase {
        Phase::Running => Standing::Running,
        Phase::Pending | Phase::Held => Standing::Open,
        Phase::Succeeded | Phase::Failed | Phase::Superseded | Phase::Cancelled => Standing::Ended(phase),
    };
    if let Some(entry) = ledger.entries.get(&placed.key) {
        return of_phase(entry.phase);
    }
    // The same document under another key: the agent's default store was changed. That is no one's wish to restore.
    let same = |entry: &&LedgerEntry| {
        entry.is_of(&placed.manifest.id) && entry.document == Some(placed.manifest.document_digest)
    };
    let phases = ledger.entries.values().filter(same).map(|entry| entry.phase);
    phases.filter(|phase| phase.is_terminal() || *phase == Phase::Running).min().map_or(Standing::Open, of_phase)
}

/// Runs whose manifest went away, or says something else, before their first write.
fn cancelled(placed: &[Placed], ledger: &Ledger, look: Look) -> Vec<(RunKey, CancelReason)> {
    let reason = |key: &RunKey, entry: &LedgerEntry| {
        let stoppable = match entry.phase {
            Phase::Pending | Phase::Held => true,
            Phase::Running => !entry.first_write && !entry.local,
            Phase::Succeeded | Phase::Failed | Phase::Superseded | Phase::Cancelled => false,
        };
        if !stoppable || placed.iter().any(|placed| placed.key == *key) {
            return None;
        }
        match placed.iter().find(|placed| entry.is_of(&placed.manifest.id)) {
            Some(same) if entry.phase == Phase::Running && entry.document == Some(same.manifest.document_digest) => {
                None
            }
            Some(edited) => Some(CancelReason::Edited { by: edited.key }),
            None => look.whole.then_some(CancelReason::Removed),
        }
    };
    ledger.entries.iter().filter_map(|(key, entry)| Some((*key, reason(key, entry)?))).collect()
}

/// Runs that have started and not ended, the first started first. One Lease allows one; after a rebuilt cluster or a
/// lost branch there may be more, and they end one after the other.
fn running(ledger: &Ledger) -> Vec<RunKey> {
    let mut running: Vec<_> = ledger.entries.iter().filter(|(_, entry)| entry.phase == Phase::Running).collect();
    running.sort_by_key(|(key, entry)| (entry.started.is_none(), entry.started, **key));
    running.into_iter().map(|(key, _)| *key).collect()
}

/// Of several that were changed together, one that may still run comes before those that have ended; two of a sort
/// contradict each other, and neither rules.
fn rules(placed: &[Placed], ledger: &Ledger, look: Look) -> Option<RunKey> {
    let newest = placed.first()?.commit.position;
    let (mut open, mut ended) = (Vec::new(), Vec::new());
    for placed in placed.iter().take_while(|placed| placed.commit.position == newest) {
        match standing(placed, ledger) {
            Standing::Ended(Phase::Superseded | Phase::Cancelled) => {}
            Standing::Ended(_) => ended.push(placed.key),
            Standing::Running => open.push(placed.key),
            Standing::Open if look.first => {}
            Standing::Open => open.push(placed.key),
        }
    }
    match (open.as_slice(), ended.as_slice()) {
        ([only], _) | ([], [only]) => Some(*only),
        _ => None,
    }
}

fn already_run(placed: &Placed, ledger: &Ledger) -> Option<RunKey> {
    let same = |(_, entry): &(&RunKey, &LedgerEntry)| {
        entry.content == placed.content && !entry.is_of(&placed.manifest.id) && entry.has_written()
    };
    ledger.entries.iter().find(same).map(|(key, _)| *key)
}

#[cfg(test)]
mod tests;
