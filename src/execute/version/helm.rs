//! Set version by Helm: how far it is, what it is asked for, and what it leaves behind.

use std::path::Path;
use std::time::Duration;

use futures::future::BoxFuture;
use tracing::{info, warn};

use super::FAILED;
use crate::execute::{Chart, ExecuteError, Executor, OTHER_ARCHIVE, StepError, Work, broken_off, stopped};
use crate::helm::leftovers::{self, Leftover};
use crate::helm::mend::{MendError, mark_failed};
use crate::helm::{self, Access, HelmError, RefusalKind};
use crate::object::protect::Guarded;
use crate::observe;
use crate::plan::version::{VersionChange, Way, is_same};
use crate::release::{History, Revision, Status, Values};
use crate::store::Sha256;

/// What helm failed at is tried again: what stood in its way may be gone.
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

    /// Sets a release, of which `from` is the newest revision, to a packaged chart with these values alone. It is ended as
    /// [`Helm::rollback`].
    fn upgrade<'h>(
        &'h self,
        from: &'h Revision,
        chart: &'h [u8],
        values: Option<&'h Values>,
        within: Duration,
        stop: BoxFuture<'h, ()>,
    ) -> BoxFuture<'h, Result<(), HelmError>>;

    /// As [`Helm::upgrade`], and changes nothing.
    fn try_upgrade<'h>(
        &'h self,
        from: &'h Revision,
        chart: &'h [u8],
        values: Option<&'h Values>,
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

    fn upgrade<'h>(
        &'h self,
        from: &'h Revision,
        chart: &'h [u8],
        values: Option<&'h Values>,
        within: Duration,
        stop: BoxFuture<'h, ()>,
    ) -> BoxFuture<'h, Result<(), HelmError>> {
        Box::pin(async move { self.find().await?.upgrade(from, chart, values, within, stop).await })
    }

    fn try_upgrade<'h>(
        &'h self,
        from: &'h Revision,
        chart: &'h [u8],
        values: Option<&'h Values>,
        within: Duration,
        stop: BoxFuture<'h, ()>,
    ) -> BoxFuture<'h, Result<(), HelmError>> {
        Box::pin(async move { self.find().await?.try_upgrade(from, chart, values, within, stop).await })
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

    fn upgrade<'h>(
        &'h self,
        _: &'h Revision,
        _: &'h [u8],
        _: Option<&'h Values>,
        _: Duration,
        _: BoxFuture<'h, ()>,
    ) -> BoxFuture<'h, Result<(), HelmError>> {
        Box::pin(std::future::ready(Err(Self::missing())))
    }

    fn try_upgrade<'h>(
        &'h self,
        _: &'h Revision,
        _: &'h [u8],
        _: Option<&'h Values>,
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

/// What helm is asked for, as the plan says it.
struct Goal<'c> {
    release: &'c str,
    namespace: &'c str,
    /// The version of Rancher.
    to: &'c str,
    /// The newest revision when the plan was made: those above it came since.
    newest: u64,
    by: By<'c>,
}

enum By<'c> {
    /// This revision is gone back to.
    Revision(u64),
    /// A packaged chart is installed, with the values of a revision.
    Chart { path: &'c str, version: &'c str, sha256: &'c str, values: Option<u64> },
}

impl<'c> Goal<'c> {
    /// `None` where the version is not set by Helm.
    fn of(change: &'c VersionChange) -> Option<Self> {
        let (release, namespace, newest, by) = match &change.way {
            Way::Helm { release, namespace, revision, newest } => (release, namespace, newest, By::Revision(*revision)),
            Way::Chart {
                release,
                namespace,
                chart: path,
                chart_version: version,
                sha256,
                commit: _,
                values,
                newest,
            } => (release, namespace, newest, By::Chart { path, version, sha256, values: *values }),
            Way::Keep | Way::Image { .. } => return None,
        };
        Some(Self { release, namespace, to: &change.to, newest: *newest, by })
    }

    /// A revision that was made since the plan is one that we asked for. A rollback is told by the revision that it goes back to,
    /// another one by what it installs.
    fn is_ours(&self, made: &Revision) -> bool {
        let Revision { app_version, chart_version, rollback_to, .. } = made;
        let is_of_version = is_same(app_version, self.to);
        match self.by {
            // Once it is done, Helm may no longer say where it went back to.
            By::Revision(target) => *rollback_to == Some(target) || rollback_to.is_none() && is_of_version,
            By::Chart { version, .. } => {
                // Who goes back to a try of ours does what we do.
                let goes_elsewhere = rollback_to.is_some_and(|target| target <= self.newest);
                is_of_version && chart_version == version && !goes_elsewhere
            }
        }
    }

    /// From which revision on there may be objects that the one that is set now does not have.
    fn since(&self, history: &History) -> u64 {
        match self.by {
            By::Revision(target) => target + 1,
            By::Chart { .. } => {
                let stood = |revision: &&Revision| revision.number <= self.newest && revision.was_deployed;
                history.revisions().iter().rev().find(stood).map_or(self.newest, |revision| revision.number)
            }
        }
    }

    /// What the chart is installed with.
    fn given<'a>(&self, history: &'a History, work: &'a Work) -> Result<Given<'a>, StepError> {
        let By::Chart { path, version: _, sha256, values } = &self.by else {
            return Err(StepError::failed(FAILED, "the run installs no chart"));
        };
        let archive = at_hand(work.chart.as_ref(), path, sha256)?;
        let from = history.newest().ok_or_else(|| self.is_gone("every revision"))?;
        let values = match values {
            Some(revision) => {
                let gone = || self.is_gone(&format!("revision {revision}, whose values the chart is given,"));
                history.get(*revision).ok_or_else(gone)?.values.as_ref()
            }
            None => None,
        };
        Ok(Given { from, archive, values })
    }

    fn is_gone(&self, what: &str) -> StepError {
        StepError::failed(FAILED, format!("{what} of the Helm release {}/{} is gone", self.namespace, self.release))
    }
}

/// A chart, the values that it is given, and the newest revision of the release.
struct Given<'a> {
    from: &'a Revision,
    archive: &'a [u8],
    values: Option<&'a Values>,
}

/// Helm has looked at the chart, and would refuse it again.
fn is_of_the_chart(problem: &HelmError) -> bool {
    let Some(refusal) = problem.refusal() else { return false };
    match refusal.kind {
        RefusalKind::Chart | RefusalKind::Kubernetes | RefusalKind::Forbidden | RefusalKind::NeverDeployed => true,
        // Such as a type that this Kubernetes does not serve any more. Without a word that is known, nothing is known.
        RefusalKind::Other => !refusal.told.is_empty(),
        RefusalKind::ReleaseNotFound
        | RefusalKind::RevisionNotFound
        | RefusalKind::Pending
        | RefusalKind::Conflict
        | RefusalKind::Hook
        | RefusalKind::TimedOut
        | RefusalKind::Unreachable => false,
    }
}

fn progress(history: &History, goal: &Goal<'_>) -> Progress {
    let Some(newest) = history.newest() else { return Progress::Changed("it is gone".to_owned()) };
    let Revision { number, status, app_version, .. } = newest;
    if *number <= goal.newest {
        return Progress::Begin;
    }
    match status {
        _ if !goal.is_ours(newest) => Progress::Changed(format!("revision {number} of {app_version} is {status}")),
        Status::Deployed => Progress::Done,
        status if status.is_pending() => Progress::Pending,
        _ => Progress::Begin,
    }
}

impl Executor {
    pub(super) async fn set_by_helm(&self, change: &VersionChange, work: &mut Work) -> Result<(), StepError> {
        let Some(goal) = Goal::of(change) else { return Ok(()) };
        let mut tries = 0;
        loop {
            let history = self.releases().await?;
            match progress(&history, &goal) {
                Progress::Done => return self.take_leftovers(&history, goal.since(&history), work).await,
                Progress::Changed(how) => {
                    let Goal { release, namespace, .. } = goal;
                    let message = format!("somebody changed the Helm release {namespace}/{release} meanwhile: {how}");
                    return Err(StepError::failed(FAILED, message));
                }
                Progress::Pending if tries == 0 && self.settles(&goal).await? => continue,
                Progress::Pending => self.give_up_pending(&history).await?,
                Progress::Begin => {}
            }
            tries += 1;
            match self.ask_helm(&goal, &history, work).await? {
                Ok(()) => {}
                Err(HelmError::Stopped { .. }) => return Err(StepError::Stopped),
                Err(problem) if tries < TRIES && problem.is_passing() => {
                    warn!("helm is asked again in {} s: {problem}", PAUSE.as_secs());
                    self.pause_for(PAUSE).await?;
                }
                Err(problem) => {
                    let history = self.releases().await?;
                    if progress(&history, &goal) == Progress::Pending {
                        self.give_up_pending(&history).await?;
                    }
                    return Err(StepError::failed(FAILED, problem.to_string()));
                }
            }
        }
    }

    /// Asks once.
    async fn ask_helm(
        &self,
        goal: &Goal<'_>,
        history: &History,
        work: &Work,
    ) -> Result<Result<(), HelmError>, StepError> {
        let Goal { release, namespace, to: _, newest: _, by } = goal;
        let within = HELM_WITHIN.min(self.time_left(work));
        let stop = Box::pin(stopped(self.stop.clone()));
        match by {
            By::Revision(revision) => {
                let target = history.get(*revision).ok_or_else(|| goal.is_gone(&format!("revision {revision}")))?;
                info!("helm rollback of {namespace}/{release} to revision {revision}");
                Ok(self.helm.rollback(target, within, stop).await)
            }
            By::Chart { path, .. } => {
                let Given { from, archive, values } = goal.given(history, work)?;
                info!("helm upgrade of {namespace}/{release} to the chart {path}");
                Ok(self.helm.upgrade(from, archive, values, within, stop).await)
            }
        }
    }

    /// Lets helm try the chart, before anything is touched: one that cannot be rendered with these values, or has objects that
    /// this cluster does not take, would be found out when the data is back and Rancher is down.
    pub(in crate::execute) async fn try_chart(&self, work: &Work) -> Result<(), StepError> {
        let change = work.recorder.status().plan.and_then(|plan| plan.version);
        let Some(goal) = change.as_ref().and_then(Goal::of).filter(|goal| matches!(goal.by, By::Chart { .. })) else {
            return Ok(());
        };
        let history = self.releases().await?;
        let Given { from, archive, values } = goal.given(&history, work)?;
        let within = HELM_WITHIN.min(self.time_left(work));
        match self.helm.try_upgrade(from, archive, values, within, Box::pin(stopped(self.stop.clone()))).await {
            Ok(()) => Ok(()),
            Err(HelmError::Stopped { .. }) => Err(StepError::Stopped),
            Err(problem) if is_of_the_chart(&problem) => Err(StepError::failed(FAILED, problem.to_string())),
            Err(problem) => {
                warn!("whether helm can install the chart is not known: {problem}");
                Ok(())
            }
        }
    }

    async fn releases(&self) -> Result<History, StepError> {
        observe::releases(&self.reader, &self.settings.places).await.map_err(broken_off)
    }

    /// Whether a pending revision gets to an end by itself: our helm may have outlived us.
    async fn settles(&self, goal: &Goal<'_>) -> Result<bool, StepError> {
        let end = tokio::time::Instant::now() + SETTLES_WITHIN;
        while tokio::time::Instant::now() < end {
            self.pause_for(LOOK_EVERY).await?;
            if progress(&self.releases().await?, goal) != Progress::Pending {
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

    /// What a try that was done again has left: objects of revisions from `since` on that the newest does not have.
    async fn take_leftovers(&self, history: &History, since: u64, work: &mut Work) -> Result<(), StepError> {
        let Some(now) = history.newest() else { return Ok(()) };
        let places = &self.settings.places;
        let guarded = Guarded {
            rancher_namespace: places.rancher_namespace.clone(),
            rancher_deployment: places.rancher_deployment.clone(),
            operator_namespace: places.operator_namespace.clone(),
            identity: self.reader.whoami().await?,
            ..Guarded::default()
        };
        let objects = history.leftovers(since, now);
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

/// The archive that was planned.
fn at_hand<'w>(chart: Option<&'w Chart>, path: &str, sha256: &str) -> Result<&'w [u8], StepError> {
    let gone = |why: &str| StepError::failed(FAILED, format!("the chart {path} cannot be installed: {why}"));
    match chart {
        Some(Chart::AtHand(archive)) if Sha256::of(archive).to_string() == sha256 => Ok(archive),
        Some(Chart::AtHand(_)) => Err(gone(OTHER_ARCHIVE)),
        Some(Chart::Gone(why)) => Err(gone(why)),
        Some(Chart::Away(why)) => Err(StepError::BrokenOff(ExecuteError::Chart(why.clone()))),
        None => Err(gone("it was not read")),
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
        progress(&History::read(&revisions), &GOAL)
    }

    const GOAL: Goal<'_> =
        Goal { release: "rancher", namespace: "cattle-system", to: "v2.9.3", newest: 3, by: By::Revision(2) };

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
        assert_eq!(progress(&History::default(), &GOAL), Progress::Changed("it is gone".to_owned()));
    }

    const BY_CHART: Goal<'_> =
        Goal { by: By::Chart { path: "rancher.tgz", version: "2.9.3", sha256: "", values: Some(3) }, ..GOAL };

    /// As it stands where Helm has revision 3, of v2.10.1, and what came since.
    fn by_chart(more: &[Value]) -> Progress {
        let mut revisions = vec![stored(3, "superseded", "v2.10.1", &json!({}))];
        revisions.extend(more.iter().cloned());
        progress(&History::read(&revisions), &BY_CHART)
    }

    #[test]
    fn what_helm_left_of_a_chart_says_how_far_it_is() {
        let begun = json!({"info": {"description": "Preparing upgrade"}});
        assert_eq!(by_chart(&[]), Progress::Begin);
        assert_eq!(by_chart(&[stored(4, "pending-upgrade", "v2.9.3", &begun)]), Progress::Pending);
        assert_eq!(by_chart(&[stored(4, "failed", "v2.9.3", &begun)]), Progress::Begin);
        let tried = stored(4, "failed", "v2.9.3", &begun);
        assert_eq!(by_chart(&[tried.clone(), stored(5, "deployed", "v2.9.3", &json!({}))]), Progress::Done);
        // A person has gone back to the try.
        let to_the_try = json!({"info": {"description": "Rollback to 4"}});
        assert_eq!(by_chart(&[tried, stored(5, "deployed", "v2.9.3", &to_the_try)]), Progress::Done);
    }

    #[test]
    fn what_is_not_of_the_chart_is_not_taken_for_ours() {
        let changed = |revision: Value| match by_chart(&[revision]) {
            Progress::Changed(how) => how,
            other => panic!("{other:?}"),
        };
        let (theirs, back) = (json!({}), json!({"info": {"description": "Rollback to 2"}}));
        insta::assert_snapshot!(changed(stored(4, "deployed", "v2.11.0", &theirs)), @"revision 4 of v2.11.0 is deployed");
        insta::assert_snapshot!(changed(stored(4, "pending-upgrade", "v2.11.0", &theirs)), @"revision 4 of v2.11.0 is pending-upgrade");
        insta::assert_snapshot!(changed(stored(4, "deployed", "v2.9.3", &back)), @"revision 4 of v2.9.3 is deployed");
        let another = json!({"chart": {"metadata": {"version": "2.9.3-1"}}});
        insta::assert_snapshot!(changed(stored(4, "deployed", "v2.9.3", &another)), @"revision 4 of v2.9.3 is deployed");
    }

    #[test]
    fn leftovers_are_looked_for_from_the_release_that_was_deployed_before() {
        let history = |revisions: &[Value]| History::read(revisions);
        let (failed, installed) = (json!({"info": {"description": "Upgrade \"rancher\" failed: x"}}), json!({}));
        let deployed = stored(3, "superseded", "v2.10.1", &installed);
        let ours = stored(5, "deployed", "v2.9.3", &installed);
        let between = stored(4, "failed", "v2.10.2", &failed);
        let goal = Goal { newest: 4, ..BY_CHART };
        assert_eq!(goal.since(&history(&[deployed, between, ours])), 3);
        assert_eq!(GOAL.since(&History::default()), 3);
    }

    #[test]
    fn only_the_archive_that_was_planned_is_installed() {
        let archive = || Chart::AtHand(b"packaged"[..].into());
        let planned = Sha256::of(b"packaged").to_string();
        assert_eq!(at_hand(Some(&archive()), "rancher.tgz", &planned).expect("it is that one"), b"packaged");
        let refused = |chart: Option<Chart>, sha256: &str| match at_hand(chart.as_ref(), "rancher.tgz", sha256) {
            Err(StepError::Failed(failure)) => failure.message,
            other => panic!("{other:?}"),
        };
        insta::assert_snapshot!(refused(Some(archive()), "sha256:00"), @"the chart rancher.tgz cannot be installed: it is not the archive that was planned");
        insta::assert_snapshot!(refused(Some(Chart::Gone("the commit is gone".to_owned())), &planned), @"the chart rancher.tgz cannot be installed: the commit is gone");
        insta::assert_snapshot!(refused(None, &planned), @"the chart rancher.tgz cannot be installed: it was not read");
        let away = Chart::Away("git.example.org cannot be reached".to_owned());
        let broken_off = at_hand(Some(&away), "rancher.tgz", &planned);
        assert!(matches!(broken_off, Err(StepError::BrokenOff(ExecuteError::Chart(_)))), "{broken_off:?}");
    }
}
