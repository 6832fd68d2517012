//! The manifest that goes back to what was before a run: by its safety backup, and to the version that ran.
//!
//! An undo is a run like any other, planned, guarded and journaled. What it goes by stands in the `Run` that it undoes, so
//! that it can be asked for by whoever finds that run, however much later.

mod removed;

use std::collections::BTreeSet;

use crate::journal::{Journal, OnFailure, VersionHad, safety_backup, version_had};
use crate::manifest::{
    Body, Engine, Kind, Manifest, ManifestId, Options, RestoreSpec, RollbackSpec, VersionMethod, pin, unpin,
};
use crate::plan::gate::{GateClass, GateCode};
use crate::plan::version::{VersionChange, Way};
use crate::run::{Run, RunStatus};
pub use removed::{Removed, removed};

/// In the place of its file, an undo names the run that it goes back from.
const FILE: &str = "undo of run ";
/// Longest name of an object, in bytes (RFC 1123 subdomain).
const MAX_NAME_BYTES: usize = 253;

/// Why a run cannot be undone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoUndo {
    #[error("{run} has not ended: `reinback cancel` stops one that has not written anything yet")]
    NotEnded { run: String },
    #[error("{run} has changed nothing: there is nothing to undo")]
    NothingChanged { run: String },
    #[error("{run} has no safety backup to go back by: {}", .why)]
    NoSafetyBackup { run: String, why: &'static str },
    #[error("{run} does not say which version of Rancher ran before it: commit a Rollback that names it")]
    UnknownVersion { run: String },
    #[error("{run} holds a manifest that cannot be read: {problem}")]
    Unreadable { run: String, problem: String },
}

/// Who asks for it, which decides what it may take without being asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// The manifest or the configuration, for the moment of the failure (`on-failure: Undo`): whatever the run did goes back.
    ByPolicy,
    /// A person, perhaps long after: what came meanwhile would go too, so that its gates hold.
    ByHand,
}

/// Name of the run that a manifest from this file undoes; `None` where it is another manifest, or an undo that somebody
/// committed.
pub fn undone_run(file: &str) -> Option<&str> {
    file.strip_prefix(FILE)
}

/// The manifest that undoes a run.
///
/// # Errors
///
/// When there is nothing to undo, or nothing to do it by.
pub fn manifest(run: &Run, asked: Asked) -> Result<Manifest, NoUndo> {
    let name = run.metadata.name.clone().unwrap_or_default();
    let status = run.status.clone().unwrap_or_default();
    if !status.phase.is_terminal() {
        return Err(NoUndo::NotEnded { run: name });
    }
    made(run, &status, asked)
}

/// As [`manifest`], of a run that is about to end.
///
/// # Errors
///
/// As [`manifest`].
pub fn made(run: &Run, status: &RunStatus, asked: Asked) -> Result<Manifest, NoUndo> {
    let name = run.metadata.name.clone().unwrap_or_default();
    if !Journal::from(status.journal.clone()).first_write_begun() {
        return Err(NoUndo::NothingChanged { run: name });
    }
    let unreadable = |problem| NoUndo::Unreadable { run: name.clone(), problem };
    let undone = unpin(&run.spec.document, &run.spec.manifest.file, &run.spec.manifest.blob).map_err(unreadable)?;
    let restore = match (undone.body.restore(), safety_backup(&status.journal)) {
        (Some(restore), Some(safety)) => Some(data(restore, &safety.name)),
        // Nothing of it was there before, or the configuration makes none.
        (Some(_), None) => {
            let why = "policy.safetyBackup is off, or the cluster had nothing that the run could change";
            return Err(NoUndo::NoSafetyBackup { run: name, why });
        }
        (None, Some(safety)) => Some(data(&RestoreSpec::default(), &safety.name)),
        (None, None) => None,
    };
    let change = status.plan.as_ref().and_then(|plan| plan.version.as_ref());
    let body = match (change, restore) {
        (None, Some(restore)) => Body::Restore(restore),
        (None, None) => return Err(NoUndo::NothingChanged { run: name }),
        (Some(change), restore) => {
            let had = version_had(&status.journal);
            Body::Rollback(version(change, had, restore).ok_or(NoUndo::UnknownVersion { run: name.clone() })?)
        }
    };
    let kind = match body {
        Body::Restore(_) => Kind::Restore,
        Body::Rollback(_) => Kind::Rollback,
    };
    let id = ManifestId { kind, name: undo_name(&undone.id.name) };
    let digest = safety_backup(&status.journal).and_then(|safety| safety.sha256.parse().ok());
    let options = Options {
        engine: Engine::Native,
        backup_digest: digest,
        requested_at: None,
        accept: accepted(&undone.options.accept, change, asked),
        approved_plan: None,
        // An undo of an undo would go round in circles.
        on_failure: Some(OnFailure::Hold),
        timeout: undone.options.timeout,
    };
    let file = format!("{FILE}{name}");
    let manifest = Manifest { id, file: file.clone(), body, options, ..undone };
    // Read anew, so that its digest is that of its own document.
    unpin(&pin(&manifest), &file, "").map_err(unreadable)
}

/// The document as a person commits it.
///
/// # Errors
///
/// Never, for what was read from a document.
pub fn text(manifest: &Manifest) -> Result<String, serde_yaml::Error> {
    serde_yaml::to_string(&pin(manifest))
}

fn data(restore: &RestoreSpec, safety: &str) -> RestoreSpec {
    RestoreSpec {
        backup_filename: safety.to_owned(),
        // What the run made was not there before.
        prune: true,
        ignore_errors: false,
        ..restore.clone()
    }
}

/// `None` where nothing says what ran.
fn version(change: &VersionChange, had: Option<&VersionHad>, restore: Option<RestoreSpec>) -> Option<RollbackSpec> {
    let (version_method, revision) = match &change.way {
        Way::Helm { newest, .. } | Way::Chart { newest, .. } => {
            (VersionMethod::Helm, had.and_then(|had| had.revision).or(Some(*newest)))
        }
        Way::Image { .. } => (VersionMethod::Image, None),
        Way::Keep => (VersionMethod::Auto, None),
    };
    Some(RollbackSpec {
        to_version: change.from.as_deref().map(with_v)?,
        restore,
        version_method,
        revision: revision.and_then(|revision| u32::try_from(revision).ok()),
        chart: None,
    })
}

fn with_v(version: &str) -> String {
    if version.starts_with('v') { version.to_owned() } else { format!("v{version}") }
}

/// `undo-back-to-monday`; of a long name, its beginning.
fn undo_name(name: &str) -> String {
    let mut name = format!("undo-{name}");
    name.truncate(MAX_NAME_BYTES);
    name.trim_end_matches(['-', '.']).to_owned()
}

fn accepted(before: &BTreeSet<GateCode>, change: Option<&VersionChange>, asked: Asked) -> BTreeSet<GateCode> {
    let mut accepted = before.clone();
    match asked {
        Asked::ByPolicy => {
            // Those do not speak of what the run did.
            let others = [GateCode::DifferentCluster, GateCode::LedgerMismatch, GateCode::WebhookUnavailable];
            let codes = GateCode::ALL.iter().filter(|code| code.class() == GateClass::Accept);
            accepted.extend(codes.filter(|code| !others.contains(code)));
        }
        Asked::ByHand => {
            // It lay there on the way to where the run went, which the author has taken.
            if change.is_some() && before.contains(&GateCode::VersionMismatch) {
                accepted.insert(GateCode::VersionBoundary);
            }
        }
    }
    accepted
}

#[cfg(test)]
pub(crate) mod tests;
