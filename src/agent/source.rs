//! The watched path: read anew only when its manifests changed.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use tracing::info;

use super::{chart, shown};
use crate::config::Config;
use crate::desired::{Attribution, Change, CommitPlace, Placed, StoreDefault};
use crate::git::{
    self, CommitId, CommitInfo, FileVersion, GitError, Mirror, ReadBranch, Remote, Snapshot, TreeLimits, offload,
};
use crate::manifest::{Document, Limits, ManifestId, SourceFile, Tree, parse};
use crate::observe::ChartFound;
use crate::release::MAX_ARCHIVE_BYTES;
use crate::status::Problem;

/// Status files and the dashboard, when they share the branch with the manifests.
const OWN_FOLDER: &str = "runs/";

/// What the source says.
#[derive(Debug, Clone, Default)]
pub struct View {
    pub tip: Option<CommitId>,
    pub placed: Vec<Placed>,
    pub problems: Vec<Problem>,
    /// Every file could be read: a manifest that is not here is not in Git.
    pub is_whole: bool,
}

/// The files that a view was made of, by path and blob.
type Revision = Vec<(String, String)>;

/// One source and what was read of it last.
pub struct Source {
    mirror: Arc<Mutex<dyn ReadBranch>>,
    blocks: bool,
    last: Option<(CommitId, Revision, View)>,
}

/// What reading needs of the configuration.
#[derive(Clone)]
struct Reading {
    path: String,
    store: Option<StoreDefault>,
    /// The status branch is the source branch.
    shared: bool,
}

impl Reading {
    fn of(config: &Config) -> Self {
        let shared = config.status.url == config.source.url && config.status.branch == config.source.branch;
        Self { path: config.source.path.clone(), store: config.store.clone(), shared }
    }
}

impl Source {
    /// Takes the cache folder; nothing is fetched yet.
    ///
    /// # Errors
    ///
    /// As [`Mirror::open`].
    pub fn open(config: &Config) -> Result<Self, GitError> {
        let remote = Remote::new(config.source.url.as_str(), config.source.secret_dir.clone());
        let mirror = Mirror::open(&folder(config), remote, &config.source.branch)?;
        Ok(Self::over(mirror))
    }

    /// Reads a branch as it is.
    pub fn over(branch: impl ReadBranch + 'static) -> Self {
        Self { blocks: branch.blocks(), mirror: Arc::new(Mutex::new(branch)), last: None }
    }

    /// Fetches the branch and reads what is under the path, unless nothing there has changed.
    ///
    /// # Errors
    ///
    /// What the remote or its network did.
    pub async fn look(&mut self, config: &Config) -> Result<View, GitError> {
        let mirror = Arc::clone(&self.mirror);
        let last = self.last.take();
        let reading = Reading::of(config);
        let (last, outcome) = offload(self.blocks, move || {
            let mut mirror = mirror.lock().unwrap_or_else(PoisonError::into_inner);
            match look(&mut *mirror, last.as_ref(), &reading) {
                Ok(Some(fresh)) => (Some(fresh), Ok(())),
                Ok(None) => (last, Ok(())),
                Err(error) => (last, Err(error)),
            }
        })
        .await;
        self.last = last;
        outcome.map(|()| self.last.as_ref().map(|(_, _, view)| view.clone()).unwrap_or_default())
    }

    /// Reads the path at another commit of the branch, or at its tip.
    ///
    /// # Errors
    ///
    /// As [`Source::look`], and for a revision that names no commit of the branch.
    pub async fn at(&mut self, config: &Config, revision: Option<&str>) -> Result<View, GitError> {
        let Some(revision) = revision.map(str::to_owned) else { return self.look(config).await };
        let mirror = Arc::clone(&self.mirror);
        let reading = Reading::of(config);
        offload(self.blocks, move || {
            let mut mirror = mirror.lock().unwrap_or_else(PoisonError::into_inner);
            let commit = mirror.resolve(&revision)?;
            let snapshot = own_left_out(mirror.snapshot(&commit, &reading.path, &TreeLimits::default())?, &reading);
            read(&mut *mirror, &commit, snapshot, &reading)
        })
        .await
    }

    /// Reads a packaged chart at a commit of the branch; at its tip, as last fetched, where `commit` is no commit's id.
    /// The remote is asked for what an earlier look has not brought, and for nothing else.
    ///
    /// # Errors
    ///
    /// As [`Source::look`], and for a commit that the branch does not have. What is not there, or no chart, is data.
    pub async fn chart(&self, commit: &str, path: &str) -> Result<ChartFound, GitError> {
        let mirror = Arc::clone(&self.mirror);
        let commit: Option<CommitId> = commit.parse().ok();
        let path = path.to_owned();
        offload(self.blocks, move || {
            let mut mirror = mirror.lock().unwrap_or_else(PoisonError::into_inner);
            match mirror.file(commit.as_ref(), &path, MAX_ARCHIVE_BYTES) {
                Ok((commit, file)) => Ok(chart::found(&commit, file)),
                Err(GitError::Path { path: _, problem }) => Ok(chart::unusable(format!("it {problem}"))),
                Err(error) => Err(error),
            }
        })
        .await
    }
}

fn folder(config: &Config) -> PathBuf {
    config.data_dir.join("source")
}

/// `None` when no manifest has changed since `last`.
fn look(
    mirror: &mut dyn ReadBranch,
    last: Option<&(CommitId, Revision, View)>,
    reading: &Reading,
) -> Result<Option<(CommitId, Revision, View)>, GitError> {
    let git::Fetched { tip, rewritten } = mirror.fetch()?;
    if rewritten {
        info!(git.commit = %tip, "history was rewritten; the tip is now {tip:.12}");
    }
    if last.is_some_and(|(known, _, _)| *known == tip) {
        return Ok(None);
    }
    let snapshot = own_left_out(mirror.snapshot(&tip, &reading.path, &TreeLimits::default())?, reading);
    let revision: Revision = snapshot.files.iter().map(|file| (file.path.clone(), file.blob.to_string())).collect();
    if let Some((_, known, view)) = last
        && *known == revision
        && !rewritten
    {
        return Ok(Some((tip, revision, View { tip: Some(tip), ..view.clone() })));
    }
    info!(git.commit = %tip, "reading the manifests of commit {tip:.12}");
    let view = read(mirror, &tip, snapshot, reading)?;
    Ok(Some((tip, revision, view)))
}

fn own_left_out(mut snapshot: Snapshot, reading: &Reading) -> Snapshot {
    if reading.shared {
        snapshot.files.retain(|file| !file.path.starts_with(OWN_FOLDER));
    }
    snapshot
}

fn read(mirror: &mut dyn ReadBranch, tip: &CommitId, snapshot: Snapshot, reading: &Reading) -> Result<View, GitError> {
    let limits = Limits::default();
    let blobs: Vec<String> = snapshot.files.iter().map(|file| file.blob.to_string()).collect();
    let files = snapshot.files.iter().zip(&blobs);
    let files = files.map(|(file, blob)| SourceFile { path: &file.path, blob, content: &file.content });
    let tree = Tree::read(files, &limits);
    let mut problems: Vec<Problem> = tree.problems.iter().filter_map(shown).collect();
    problems.extend(snapshot.skipped.iter().map(|skipped| Problem {
        file: skipped.path.clone(),
        line: None,
        text: skipped.reason.to_string(),
    }));
    let places = attribute(mirror, tip, reading, &tree)?;
    let placed = tree.manifests().map(|manifest| {
        let place = places.get(&manifest.id).cloned().flatten().unwrap_or_else(oldest);
        Placed::new(manifest.clone(), reading.store.as_ref(), place)
    });
    Ok(View { tip: Some(*tip), placed: placed.collect(), problems, is_whole: tree.is_whole() })
}

/// A document that no commit of the history changed: it was always there.
fn oldest() -> CommitPlace {
    CommitPlace { id: String::new(), position: usize::MAX, author: String::new(), time: Timestamp::UNIX_EPOCH }
}

fn attribute(
    mirror: &mut dyn ReadBranch,
    tip: &CommitId,
    reading: &Reading,
    tree: &Tree,
) -> Result<BTreeMap<ManifestId, Option<CommitPlace>>, GitError> {
    let mut attribution = Attribution::new(tree.manifests());
    if attribution.is_complete() {
        return Ok(attribution.finish());
    }
    mirror.changes(tip, &reading.path, &TreeLimits::default(), &mut |change| {
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for file in &change.files {
            before.extend(documents(&file.path, file.before.as_ref()));
            after.extend(documents(&file.path, file.after.as_ref()));
        }
        let commit = place(change.commit);
        match attribution.feed(Change { commit: &commit, before: &before, after: &after }) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    })?;
    Ok(attribution.finish())
}

fn documents(path: &str, version: Option<&FileVersion>) -> Vec<Document> {
    let content = version.and_then(|version| version.content.as_deref());
    content.map(|content| parse(path, content, &Limits::default()).documents).unwrap_or_default()
}

fn place(commit: CommitInfo) -> CommitPlace {
    let CommitInfo { id, author_name, author_email, time, subject: _, position } = commit;
    CommitPlace { id: id.to_string(), position, author: format!("{author_name} <{author_email}>"), time }
}
