//! After a version was set: Rancher is looked at until it is as it must be, or the time for it is over.
//!
//! What Rancher needs to come up is waited for first; clusters and system charts, which it brings back by itself, last. Each
//! check is in the `Run` as soon as it is known, so that who watches sees what is waited for.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tracing::info;

use super::{Executor, StepError, Work, broken_off, stopped};
use crate::cluster::{Catalog, ClusterError};
use crate::health::{Check, CheckName, Judged, Outcome, Setting, verdict};
use crate::observe::{self, Doctor, ObserveError};

/// Rancher's own probes give it 5 minutes before it is restarted; twice that is an end.
const READY_WITHIN: Duration = Duration::from_secs(600);
/// What a Rancher that is Ready says of itself; behind a load balancer some seconds later.
const SAYS_WITHIN: Duration = Duration::from_secs(120);
/// Who cannot be asked does not come by itself, but for endpoints and proxies that have not seen the new pods yet.
const REACHED_WITHIN: Duration = Duration::from_secs(15);
/// Settings, webhook and APIServices: Rancher registers them within its first minutes.
const SERVING_WITHIN: Duration = Duration::from_secs(180);
/// From Rancher being Ready until it has looked at all clusters at least once: its leader is elected, and looks every 15 s.
const LOOKED_AFTER: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What a run that sets a version is checked by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected<'a> {
    /// `v2.9.3`
    pub version: &'a str,
    /// The run brings data back.
    pub with_data: bool,
    /// Clusters that were connected before the run; `None` where that is not known.
    pub connected: Option<&'a [String]>,
}

/// The checks that are looked at together, and until when.
#[derive(Clone, Copy)]
struct Round {
    names: &'static [CheckName],
    end: Instant,
    /// A check that cannot be asked is not asked for longer than this.
    unasked_end: Instant,
}

impl Executor {
    /// Fails where a required check did not pass in time.
    pub(super) async fn check_health(&self, expected: Expected<'_>, work: &mut Work) -> Result<(), StepError> {
        let doctor = Doctor {
            reader: &self.reader,
            places: &self.settings.places,
            url: self.settings.rancher_url.as_ref(),
            version: expected.version,
        };
        work.recorder.run_mut().status.get_or_insert_default().checks.clear();
        let round = self.round(&[CheckName::Rollout], READY_WITHIN, REACHED_WITHIN, work);
        self.until_passed(round, work, async || Ok(vec![doctor.rollout().await?])).await?;
        let (ready, since) = (Instant::now(), self.now());
        let round = self.round(&[CheckName::Health, CheckName::Version], SAYS_WITHIN, REACHED_WITHIN, work);
        let look = async || {
            let (health, version) = doctor.of_itself().await?;
            Ok(vec![health, version])
        };
        self.until_passed(round, work, look).await?;
        self.until_served(&doctor, expected, work).await?;
        self.until_back(&doctor, expected, (ready, since), work).await?;
        self.conclude(work)
    }

    /// Where Rancher does not run as it must, what depends on it is looked at once, and not waited for.
    fn round(&self, names: &'static [CheckName], within: Duration, unasked: Duration, work: &Work) -> Round {
        let rancher = [CheckName::Rollout, CheckName::Health, CheckName::Version];
        let is_ill = |check: &Check| check.outcome == Outcome::Failed && rancher.contains(&check.name);
        let is_well = !work.recorder.status().checks.iter().any(is_ill);
        let within = if is_well { within.min(self.time_left(work)) } else { Duration::ZERO };
        let now = Instant::now();
        Round { names, end: now + within, unasked_end: now + unasked.min(within) }
    }

    async fn until_served(
        &self,
        doctor: &Doctor<'_>,
        expected: Expected<'_>,
        work: &mut Work,
    ) -> Result<(), StepError> {
        let round = self.round(&[CheckName::Webhook, CheckName::ApiServices], SERVING_WITHIN, Duration::ZERO, work);
        if expected.with_data {
            let backup = settings_of_backup(work).await?;
            let look = async || {
                Ok(vec![match &backup {
                    Ok(settings) => doctor.settings(settings).await?,
                    Err(why) => Judged::not_asked(why),
                }])
            };
            self.until_passed(Round { names: &[CheckName::Settings], ..round }, work, look).await?;
        }
        self.until_passed(round, work, async || {
            let catalog = self.reader.discover().await?;
            Ok(vec![doctor.webhook(&catalog).await?, doctor.api_services().await?])
        })
        .await
    }

    /// System charts are Rancher's to bring back: they are waited for and told, and nothing is done about them.
    async fn until_back(
        &self,
        doctor: &Doctor<'_>,
        expected: Expected<'_>,
        (ready, since): (Instant, Timestamp),
        work: &mut Work,
    ) -> Result<(), StepError> {
        let within = self.settings.verify.cluster_timeout;
        let round = self.round(&[CheckName::SystemCharts, CheckName::Clusters], within, Duration::ZERO, work);
        self.until_passed(round, work, async || {
            let catalog: Catalog = self.reader.discover().await?;
            let settled = ready.elapsed() >= LOOKED_AFTER;
            let charts = doctor.system_charts(&catalog).await?;
            Ok(vec![charts, doctor.clusters(expected.connected, since, settled).await?])
        })
        .await
    }

    /// Looks until all have passed or cannot be asked, or the time is over; keeps what was found last.
    async fn until_passed(
        &self,
        round: Round,
        work: &mut Work,
        look: impl AsyncFn() -> Result<Vec<Judged>, ObserveError>,
    ) -> Result<(), StepError> {
        let Round { names, end, unasked_end } = round;
        let mut told: Vec<Judged> = Vec::new();
        loop {
            let judged = tokio::select! {
                judged = look() => judged_or_not(judged, names.len())?,
                () = stopped(self.stop.clone()) => return Err(StepError::Stopped),
            };
            let now = Instant::now();
            let is_done = judged.iter().all(|one| match one.outcome {
                Outcome::Passed => true,
                Outcome::Failed => now >= end,
                Outcome::NotAsked => now >= unasked_end || now >= end,
            });
            if judged != told {
                self.keep(names, &judged, is_done, work).await?;
                told = judged;
            }
            if is_done {
                return Ok(());
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY.min(end.saturating_duration_since(now))) => {}
                () = stopped(self.stop.clone()) => return Err(StepError::Stopped),
            }
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
            Some(failure) => Err(StepError::failed("ChecksFailed", failure)),
        }
    }
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

/// As far as the backup is still at hand.
async fn settings_of_backup(work: &Work) -> Result<Result<Vec<Setting>, String>, StepError> {
    let laid_out = work.laid_out.as_ref().and_then(|laid_out| laid_out.observed.backup.whole());
    let backup = laid_out.or_else(|| work.backup.as_ref().and_then(|backup| backup.whole()));
    let (Some(spool), Some(backup)) = (&work.spool, backup) else {
        return Ok(Err("the backup is not at hand any more".to_owned()));
    };
    let settings = observe::settings_of_backup(spool, &work.known.opening, backup).await;
    settings.map(Ok).map_err(broken_off)
}
