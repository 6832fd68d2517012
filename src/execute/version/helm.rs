//! Set version by Helm: what it is asked for, how far it is, and what it leaves behind.

use std::time::Duration;

use futures::future::BoxFuture;
use tracing::{info, warn};

use super::FAILED;
use crate::execute::{Executor, StepError, broken_off, stopped};
use crate::observe;
use crate::plan::version::{VersionChange, Way, is_same};
use crate::release::{History, Revision, Status};

/// A rollback that failed is tried again: what stood in its way may be gone.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(5);
/// How long a helm that outlived us may still be at work. Without waiting for pods it is done in seconds.
const SETTLES_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The helm program, or what stands in for it where there is none.
pub trait Helm: Send + Sync {
    /// Goes back to a revision.
    fn rollback<'h>(&'h self, asked: &'h Rollback) -> BoxFuture<'h, Result<(), String>>;

    /// Version of the program; `None` where there is none that runs.
    fn version(&self) -> BoxFuture<'_, Option<String>>;
}

/// A rollback that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollback {
    pub release: String,
    pub namespace: String,
    pub revision: u64,
    /// The release is applied on the server, where fields have owners: what we scaled is ours.
    pub server_side: bool,
}

/// There is no helm program, as in a simulation.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoHelm;

impl Helm for NoHelm {
    fn rollback<'h>(&'h self, _: &'h Rollback) -> BoxFuture<'h, Result<(), String>> {
        Box::pin(std::future::ready(Err("there is no helm program".to_owned())))
    }

    fn version(&self) -> BoxFuture<'_, Option<String>> {
        Box::pin(std::future::ready(None))
    }
}

/// How far the release is on its way to the declared version.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    /// Nothing has happened, or a try of ours has failed.
    Begin,
    /// A revision of ours is pending: Helm is at it, or was killed at it.
    Pending,
    Done,
    /// Somebody else has changed the release since it was planned.
    Changed(String),
}

fn progress(history: &History, target: u64, planned_newest: u64, to: &str) -> Progress {
    let Some(newest) = history.newest() else { return Progress::Changed("it is gone".to_owned()) };
    let Revision { number, status, app_version, rollback_to, .. } = newest;
    if *number <= planned_newest {
        return Progress::Begin;
    }
    let is_ours = *rollback_to == Some(target) || rollback_to.is_none() && is_same(app_version, to);
    match status {
        _ if !is_ours => Progress::Changed(format!("revision {number} of {app_version} is {status}")),
        Status::Deployed => Progress::Done,
        status if status.is_pending() => Progress::Pending,
        _ => Progress::Begin,
    }
}

impl Executor {
    pub(super) async fn set_by_helm(&self, change: &VersionChange) -> Result<(), StepError> {
        let Way::Helm { release, namespace, revision, newest } = &change.way else { return Ok(()) };
        let mut tries = 0;
        loop {
            let history = self.releases().await?;
            match progress(&history, *revision, *newest, &change.to) {
                Progress::Done => return Ok(()),
                Progress::Changed(how) => {
                    let message = format!("somebody changed the Helm release {namespace}/{release} meanwhile: {how}");
                    return Err(StepError::failed(FAILED, message));
                }
                Progress::Pending if self.settles(*revision, *newest, &change.to).await? => continue,
                Progress::Begin | Progress::Pending => {}
            }
            let server_side = history.get(*revision).is_some_and(|target| target.server_side)
                || history.newest().is_some_and(|newest| newest.server_side);
            let asked =
                Rollback { release: release.clone(), namespace: namespace.clone(), revision: *revision, server_side };
            info!("helm rollback of {namespace}/{release} to revision {revision}");
            tries += 1;
            match self.roll_back(&asked).await? {
                Ok(()) => {}
                Err(problem) if tries < TRIES => {
                    warn!("helm is asked again in {} s: {problem}", PAUSE.as_secs());
                    self.pause_for(PAUSE).await?;
                }
                Err(problem) => return Err(StepError::failed(FAILED, problem)),
            }
        }
    }

    async fn roll_back(&self, asked: &Rollback) -> Result<Result<(), String>, StepError> {
        tokio::select! {
            outcome = self.helm.rollback(asked) => Ok(outcome),
            () = stopped(self.stop.clone()) => Err(StepError::Stopped),
        }
    }

    async fn releases(&self) -> Result<History, StepError> {
        observe::releases(&self.reader, &self.settings.places).await.map_err(broken_off)
    }

    /// Whether a pending revision gets to an end by itself: our helm may have outlived us.
    async fn settles(&self, revision: u64, newest: u64, to: &str) -> Result<bool, StepError> {
        let end = tokio::time::Instant::now() + SETTLES_WITHIN;
        while tokio::time::Instant::now() < end {
            self.pause_for(LOOK_EVERY).await?;
            let history = self.releases().await?;
            if progress(&history, revision, newest, to) != Progress::Pending {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn pause_for(&self, pause: Duration) -> Result<(), StepError> {
        match tokio::time::timeout(pause, stopped(self.stop.clone())).await {
            Ok(()) => Err(StepError::Stopped),
            Err(_elapsed) => Ok(()),
        }
    }
}
