//! After a version was set: Rancher is looked at until it is as it must be, or the time for it is over.
//!
//! What Rancher needs to come up is waited for first; clusters and system charts, which it brings back by itself, last. Each
//! check is in the `Run` as soon as it is known, so that who watches sees what is waited for.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tracing::info;

use super::resume::READY_WITHIN;
use super::{Executor, StepError, Work, broken_off, stopped};
use crate::cluster::ClusterError;
use crate::health::{Check, CheckName, Judged, Outcome, Setting, verdict};
use crate::observe::{self, Doctor, Found, ObserveError};

/// What a Rancher that is Ready says of itself; behind a load balancer some seconds later.
const SAYS_WITHIN: Duration = Duration::from_secs(120);
/// Who cannot be asked does not come by itself, but for endpoints and proxies that have not seen the new pods yet.
const REACHED_WITHIN: Duration = Duration::from_secs(10);
/// Webhook and APIServices: Rancher registers them within its first minutes.
const SERVING_WITHIN: Duration = Duration::from_secs(180);
/// From Rancher being Ready until it has looked at all clusters at least once: its leader is elected, and looks every 15 s.
const LOOKED_AFTER: Duration = Duration::from_secs(60);
/// First and longest time between two looks: what takes minutes is not looked at every second.
const LOOK_EVERY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// Checks that are looked at together.
enum Look<'a> {
    Rollout,
    OfItself,
    Serving,
    /// What Rancher brings back by itself, which nobody forces.
    Back {
        connected_before: Option<&'a [String]>,
        /// When Rancher was Ready, by the clock of the cluster and by that of waits.
        since: Timestamp,
        ready: Instant,
    },
    Settings(Result<Vec<Setting>, String>),
}

impl Look<'_> {
    fn names(&self) -> &'static [CheckName] {
        match self {
            Self::Rollout => &[CheckName::Rollout],
            Self::OfItself => &[CheckName::Health, CheckName::Version],
            Self::Serving => &[CheckName::Webhook, CheckName::ApiServices],
            Self::Back { .. } => &[CheckName::SystemCharts, CheckName::Clusters],
            Self::Settings(_) => &[CheckName::Settings],
        }
    }

    /// One for each name.
    async fn at(&self, doctor: &Doctor<'_>) -> Result<Vec<Judged>, ObserveError> {
        Ok(match self {
            Self::Rollout => vec![doctor.rollout().await?],
            Self::OfItself => {
                let (health, version) = doctor.of_itself().await?;
                vec![health, version]
            }
            Self::Serving => {
                let catalog = doctor.reader.discover().await?;
                vec![doctor.webhook(&catalog).await?, doctor.api_services().await?]
            }
            Self::Back { connected_before, since, ready } => {
                let catalog = doctor.reader.discover().await?;
                let settled = ready.elapsed() >= LOOKED_AFTER;
                let charts = doctor.system_charts(&catalog).await?;
                vec![charts, doctor.clusters(*connected_before, *since, settled).await?]
            }
            Self::Settings(Ok(backup)) => vec![doctor.settings(backup).await?],
            Self::Settings(Err(why)) => vec![Judged::not_asked(why)],
        })
    }

    /// How long what is not right yet is looked at, and how long what cannot be asked.
    fn patience(&self, clusters: Duration) -> (Duration, Duration) {
        match self {
            Self::Rollout => (READY_WITHIN, REACHED_WITHIN),
            Self::OfItself => (SAYS_WITHIN, REACHED_WITHIN),
            Self::Serving => (SERVING_WITHIN, Duration::ZERO),
            Self::Back { .. } => (clusters, Duration::ZERO),
            // What Rancher wrote over when it started does not come back.
            Self::Settings(_) => (Duration::ZERO, Duration::ZERO),
        }
    }
}

impl Executor {
    /// The run declares a version of Rancher.
    pub(super) fn sets_version(work: &Work) -> bool {
        work.recorder.status().plan.is_some_and(|plan| plan.version.is_some())
    }

    /// Fails where a required check did not pass in time.
    pub(super) async fn check_health(&self, work: &mut Work) -> Result<(), StepError> {
        let plan = work.recorder.status().plan.unwrap_or_default();
        let doctor = Doctor {
            reader: &self.reader,
            places: &self.settings.places,
            url: self.settings.rancher_url.as_ref(),
            version: plan.version.as_ref().map(|change| change.to.as_str()).unwrap_or_default(),
        };
        work.recorder.run_mut().status.get_or_insert_default().checks.clear();
        self.until_passed(&Look::Rollout, &doctor, work).await?;
        let (ready, since) = (Instant::now(), self.now());
        self.until_passed(&Look::OfItself, &doctor, work).await?;
        self.until_passed(&Look::Serving, &doctor, work).await?;
        let connected_before = plan.connected_clusters.as_deref();
        self.until_passed(&Look::Back { connected_before, since, ready }, &doctor, work).await?;
        // A Rollback may bring no data back.
        if work.backup_name.is_some() {
            let settings = Look::Settings(self.settings_of_backup(work).await?);
            self.until_passed(&settings, &doctor, work).await?;
        }
        self.conclude(work)
    }

    /// Looks until all have passed or cannot be asked, or the time is over; keeps what was found last. Where Rancher does not
    /// run as it must, what depends on it is looked at once, and not waited for.
    async fn until_passed(&self, look: &Look<'_>, doctor: &Doctor<'_>, work: &mut Work) -> Result<(), StepError> {
        let (within, unasked) = look.patience(self.settings.verify.cluster_timeout);
        let within = if is_ill(&work.recorder.status().checks) { Duration::ZERO } else { within };
        let end = Instant::now() + within.min(self.time_left(work));
        let unasked_end = end.min(Instant::now() + unasked);
        let (mut told, mut pause) = (Vec::new(), LOOK_EVERY.0);
        loop {
            let judged = tokio::select! {
                judged = look.at(doctor) => judged_or_not(judged, look.names().len())?,
                () = stopped(self.stop.clone()) => return Err(StepError::Stopped),
            };
            let now = Instant::now();
            let is_done = judged.iter().all(|one| match one.outcome {
                Outcome::Passed => true,
                Outcome::Failed => now >= end,
                Outcome::NotAsked => now >= unasked_end,
            });
            if judged != told {
                self.keep(look.names(), &judged, is_done, work).await?;
                told = judged;
            }
            if is_done {
                return Ok(());
            }
            tokio::select! {
                () = tokio::time::sleep(pause.min(end.saturating_duration_since(now))) => {}
                () = stopped(self.stop.clone()) => return Err(StepError::Stopped),
            }
            pause = (pause * 2).min(LOOK_EVERY.1);
        }
    }

    /// Puts checks into the `Run`; those that are done are durable with what follows.
    async fn keep(
        &self,
        names: &[CheckName],
        judged: &[Judged],
        is_done: bool,
        work: &mut Work,
    ) -> Result<(), StepError> {
        let required = |name: CheckName| self.settings.verify.required.require(name);
        let checks = names.iter().zip(judged).map(|(name, judged)| Check::new(*name, required(*name), judged.clone()));
        let checks: Vec<Check> = checks.collect();
        for Check { name, required: _, outcome, message, lines: _ } in &checks {
            info!(check.name = name.as_str(), "check {name} {}: {message}", outcome.words());
        }
        let kept = &mut work.recorder.run_mut().status.get_or_insert_default().checks;
        kept.retain(|check| !names.contains(&check.name));
        kept.extend(checks);
        kept.sort_by_key(|check| check.name);
        match is_done {
            true => Ok(()),
            // Somebody watches, and this may be long.
            false => Ok(work.recorder.update(&self.writer, |_| {}).await?),
        }
    }

    fn conclude(&self, work: &mut Work) -> Result<(), StepError> {
        let checks = work.recorder.status().checks;
        let verdict = verdict(&checks, &self.settings.verify.required);
        verdict.warnings.iter().for_each(|warning| work.recorder.warn(warning));
        match verdict.failure {
            None => Ok(()),
            Some(failure) => Err(StepError::failed(reason(&checks), failure)),
        }
    }
}

/// A Rancher that does not come up is told as after a Restore.
fn reason(checks: &[Check]) -> &'static str {
    let is_down = |check: &Check| check.name == CheckName::Rollout && check.outcome == Outcome::Failed;
    if checks.iter().any(is_down) { "RancherNotReady" } else { "ChecksFailed" }
}

/// Rancher does not run as it must.
fn is_ill(checks: &[Check]) -> bool {
    let rancher = [CheckName::Rollout, CheckName::Health, CheckName::Version];
    checks.iter().any(|check| check.outcome == Outcome::Failed && rancher.contains(&check.name))
}

/// An API server that does not answer breaks the step off; what it refuses, or answers in a way that cannot be read, is
/// told as what could not be asked.
fn judged_or_not(judged: Result<Vec<Judged>, ObserveError>, checks: usize) -> Result<Vec<Judged>, StepError> {
    match judged {
        Ok(judged) => Ok(judged),
        Err(ObserveError::Cluster(error)) if !matches!(error, ClusterError::Unreachable { .. }) => {
            Ok(vec![Judged::not_asked(error.to_string()); checks])
        }
        Err(other) => Err(broken_off(other)),
    }
}

impl Executor {
    /// From the backup that was restored; a process that was started since fetches it once more. `Err` says why not.
    async fn settings_of_backup(&self, work: &Work) -> Result<Result<Vec<Setting>, String>, StepError> {
        let laid_out = work.laid_out.as_ref().and_then(|laid_out| laid_out.observed.backup.whole());
        let backup = laid_out.or_else(|| work.backup.as_ref().and_then(|backup| backup.whole()));
        let opening = &work.known.opening;
        let settings = match (&work.spool, backup) {
            (Some(spool), Some(backup)) => observe::settings_of_backup(spool, opening, backup).await,
            _ => {
                let found = match self.backup_again(work).await {
                    Ok(found) => found,
                    Err(why) => return Ok(Err(why)),
                };
                let (Some(spool), Some(backup)) = (&found.spool, found.seen.whole()) else {
                    return Ok(Err("the backup cannot be read any more".to_owned()));
                };
                observe::settings_of_backup(spool, opening, backup).await
            }
        };
        settings.map(Ok).map_err(broken_off)
    }

    async fn backup_again(&self, work: &Work) -> Result<Found, String> {
        let (Some(location), Some(name)) = (&work.location, &work.backup_name) else {
            return Err("the backup is not at hand any more".to_owned());
        };
        let store = self.stores.open(location).await.map_err(|error| error.to_string())?;
        let found = observe::fetch_backup(store.as_ref(), name, &work.known.opening, &self.settings.places).await;
        let found = found.map_err(|error| error.to_string())?;
        let planned = work.recorder.status().plan.map(|plan| plan.backup.sha256).unwrap_or_default();
        match found.spool.as_ref().is_some_and(|spool| spool.sha256().to_string() == planned) {
            true => Ok(found),
            false => Err(format!("the backup {name} is gone, or is no longer the one that was restored")),
        }
    }
}
