//! Set version by Helm: how far it is, what it is asked for, and what it leaves behind.

use std::path::Path;
use std::time::Duration;

use futures::future::BoxFuture;
use tracing::{info, warn};

use super::FAILED;
use crate::execute::{Executor, StepError, Work, broken_off, stopped};
use crate::helm::leftovers::{self, Leftover};
use crate::helm::mend::{MendError, mark_failed};
use crate::helm::{self, Access, HelmError};
use crate::object::protect::Guarded;
use crate::observe;
use crate::plan::version::{VersionChange, Way, is_same};
use crate::release::{History, Revision, Status};

/// A rollback that failed is tried again: what stood in its way may be gone.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(5);
/// Helm's own time-out. Without waiting for pods it is done in seconds, and for a hook of the chart in minutes.
const HELM_WITHIN: Duration = Duration::from_secs(300);
/// How long a helm of another agent may still be at work before what it left counts as given up: it ends with the Lease of that
/// agent, and so before we begin; a request that it has sent may be carried out a little later.
const SETTLES_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The helm program, or what stands in for it.
pub trait Helm: Send + Sync {
    /// Goes back to a revision of a release. It is ended when `stop` comes or the future is dropped.
    fn rollback<'h>(
        &'h self,
        to: &'h Revision,
        within: Duration,
        stop: BoxFuture<'h, ()>,
    ) -> BoxFuture<'h, Result<(), HelmError>>;

    /// Version of the program; an error where there is none that runs.
    fn version(&self) -> BoxFuture<'_, Result<String, HelmError>>;
}

/// The program on the `PATH`, looked for each time: it may be installed while an agent watches.
#[derive(Debug, Clone, Default)]
pub struct Program(pub Access);

impl Program {
    async fn find(&self) -> Result<helm::Helm, HelmError> {
        helm::Helm::find(Path::new(helm::PROGRAM), self.0.clone()).await
    }
}

impl Helm for Program {
    fn rollback<'h>(
        &'h self,
        to: &'h Revision,
        within: Duration,
        stop: BoxFuture<'h, ()>,
    ) -> BoxFuture<'h, Result<(), HelmError>> {
        Box::pin(async move { self.find().await?.rollback(to, within, stop).await })
    }

    fn version(&self) -> BoxFuture<'_, Result<String, HelmError>> {
        Box::pin(async { Ok(self.find().await?.version().to_owned()) })
    }
}

/// There is no helm program, as in a simulation.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoHelm;

impl NoHelm {
    fn missing() -> HelmError {
        HelmError::Missing { program: helm::PROGRAM.to_owned() }
    }
}

impl Helm for NoHelm {
    fn rollback<'h>(
        &'h self,
        _: &'h Revision,
        _: Duration,
        _: BoxFuture<'h, ()>,
    ) -> BoxFuture<'h, Result<(), HelmError>> {
        Box::pin(std::future::ready(Err(Self::missing())))
    }

    fn version(&self) -> BoxFuture<'_, Result<String, HelmError>> {
        Box::pin(std::future::ready(Err(Self::missing())))
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

/// What we asked for is told by its number, which is above that of the plan, and by the revision that it goes back to.
fn progress(history: &History, target: u64, planned_newest: u64, to: &str) -> Progress {
    let Some(newest) = history.newest() else { return Progress::Changed("it is gone".to_owned()) };
    let Revision { number, status, app_version, rollback_to, .. } = newest;
    if *number <= planned_newest {
        return Progress::Begin;
    }
    // Once it is done, Helm no longer says where it went back to.
    let is_ours = *rollback_to == Some(target) || rollback_to.is_none() && is_same(app_version, to);
    match status {
        _ if !is_ours => Progress::Changed(format!("revision {number} of {app_version} is {status}")),
        Status::Deployed => Progress::Done,
        status if status.is_pending() => Progress::Pending,
        _ => Progress::Begin,
    }
}

impl Executor {
    pub(super) async fn set_by_helm(&self, change: &VersionChange, work: &mut Work) -> Result<(), StepError> {
        let Way::Helm { release, namespace, revision, newest } = &change.way else { return Ok(()) };
        let mut tries = 0;
        loop {
            let history = self.releases().await?;
            match progress(&history, *revision, *newest, &change.to) {
                Progress::Done => return self.take_leftovers(&history, *revision, work).await,
                Progress::Changed(how) => {
                    let message = format!("somebody changed the Helm release {namespace}/{release} meanwhile: {how}");
                    return Err(StepError::failed(FAILED, message));
                }
                Progress::Pending if tries == 0 && self.settles(*revision, *newest, &change.to).await? => continue,
                Progress::Pending => self.give_up_pending(&history).await?,
                Progress::Begin => {}
            }
            let Some(target) = history.get(*revision) else {
                let message = format!("revision {revision} of the Helm release {namespace}/{release} is gone");
                return Err(StepError::failed(FAILED, message));
            };
            tries += 1;
            info!("helm rollback of {namespace}/{release} to revision {revision}");
            let within = HELM_WITHIN.min(self.time_left(work));
            match self.helm.rollback(target, within, Box::pin(stopped(self.stop.clone()))).await {
                Ok(()) => {}
                Err(HelmError::Stopped { .. }) => return Err(StepError::Stopped),
                Err(problem) if tries < TRIES && problem.is_passing() => {
                    warn!("helm is asked again in {} s: {problem}", PAUSE.as_secs());
                    self.pause_for(PAUSE).await?;
                }
                Err(problem) => {
                    let history = self.releases().await?;
                    if progress(&history, *revision, *newest, &change.to) == Progress::Pending {
                        self.give_up_pending(&history).await?;
                    }
                    return Err(StepError::failed(FAILED, problem.to_string()));
                }
            }
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
            if progress(&self.releases().await?, revision, newest, to) != Progress::Pending {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Says of the newest revision, which is ours and which no helm is at any more, that it failed: `helm upgrade` works again.
    async fn give_up_pending(&self, history: &History) -> Result<(), StepError> {
        let Some(pending) = history.pending() else { return Ok(()) };
        match mark_failed(&self.reader, &self.writer, pending).await {
            Ok(_) => Ok(()),
            // Whoever wrote it says more at the next look.
            Err(MendError::Changed { .. }) => Ok(()),
            Err(MendError::Read(error)) => Err(error.into()),
            Err(MendError::Write(error)) => Err(error.into()),
            Err(error @ MendError::Unread(_)) => Err(StepError::failed(FAILED, error.to_string())),
        }
    }

    /// What a rollback that was tried again has left: objects of the newer revisions that the target does not have.
    async fn take_leftovers(&self, history: &History, target: u64, work: &mut Work) -> Result<(), StepError> {
        let Some(now) = history.newest() else { return Ok(()) };
        let places = &self.settings.places;
        let guarded = Guarded {
            rancher_namespace: places.rancher_namespace.clone(),
            rancher_deployment: places.rancher_deployment.clone(),
            operator_namespace: places.operator_namespace.clone(),
            identity: self.reader.whoami().await?,
            ..Guarded::default()
        };
        let objects = history.leftovers(target + 1, now);
        if objects.is_empty() {
            return Ok(());
        }
        let catalog = self.reader.discover().await?;
        let found = leftovers::find(&self.reader, &catalog, &guarded, now, &objects).await?;
        for Leftover { key, fate } in &found {
            match fate {
                Ok(_) => info!("deleting {key}, which only the newer release has"),
                Err(why) => work.recorder.warn(&format!("{key} is only of the newer release, and stays: it {why}")),
            }
        }
        leftovers::delete(&found, |_| &self.writer).await?;
        Ok(())
    }

    async fn pause_for(&self, pause: Duration) -> Result<(), StepError> {
        match tokio::time::timeout(pause, stopped(self.stop.clone())).await {
            Ok(()) => Err(StepError::Stopped),
            Err(_elapsed) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plan::version::tests::stored;

    /// As it stands after what helm did: revision 2 is of v2.9.3, and 3 was the newest when the run was planned.
    fn at(more: &[Value]) -> Progress {
        let mut revisions =
            vec![stored(2, "superseded", "v2.9.3", &json!({})), stored(3, "superseded", "v2.10.1", &json!({}))];
        revisions.extend(more.iter().cloned());
        progress(&History::read(&revisions), 2, 3, "v2.9.3")
    }

    #[test]
    fn what_helm_left_says_how_far_it_is() {
        let ours = json!({"info": {"description": "Rollback to 2"}});
        assert_eq!(at(&[]), Progress::Begin);
        assert_eq!(at(&[stored(4, "pending-rollback", "v2.9.3", &ours)]), Progress::Pending);
        assert_eq!(at(&[stored(4, "failed", "v2.9.3", &ours)]), Progress::Begin);
        assert_eq!(at(&[stored(4, "deployed", "v2.9.3", &ours)]), Progress::Done);
        assert_eq!(at(&[stored(4, "failed", "v2.9.3", &ours), stored(5, "deployed", "v2.9.3", &ours)]), Progress::Done);
    }

    #[test]
    fn what_somebody_else_did_is_not_taken_for_ours() {
        let theirs = stored(4, "deployed", "v2.11.0", &json!({}));
        assert_eq!(at(&[theirs]), Progress::Changed("revision 4 of v2.11.0 is deployed".to_owned()));
        let back_elsewhere = json!({"info": {"description": "Rollback to 1"}});
        let pending = stored(4, "pending-rollback", "v2.8.0", &back_elsewhere);
        assert_eq!(at(&[pending]), Progress::Changed("revision 4 of v2.8.0 is pending-rollback".to_owned()));
        assert_eq!(progress(&History::default(), 2, 3, "v2.9.3"), Progress::Changed("it is gone".to_owned()));
    }
}
