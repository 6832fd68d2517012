//! Whether the version that a Rollback declares still runs: looked at in every pass, and told once a change.

use tracing::{info, warn};

use super::ledger::Books;
use super::{Agent, PassError, look};
use crate::cluster::{ClusterError, ClusterWriter, Target};
use crate::desired::{Desired, RunKey};
use crate::drift::{Drift, drift};
use crate::execute::Recorder;
use crate::object::Resource;
use crate::observe::ObserveError;
use crate::run::Phase;

/// What is to be told of the run that rules.
pub struct Told {
    key: RunKey,
    drift: Option<Drift>,
}

impl Agent {
    /// What of drift the run that rules does not say yet; `None` where it says what is.
    ///
    /// # Errors
    ///
    /// When the API server does not answer. What we may not see says nothing.
    pub(super) async fn untold_drift(&self, books: &Books, desired: &Desired) -> Result<Option<Told>, PassError> {
        let Some((key, run)) = desired.rules.and_then(|key| Some((key, books.runs.get(&key)?))) else {
            return Ok(None);
        };
        let Some(status) = run.status.as_ref().filter(|status| status.phase == Phase::Succeeded) else {
            return Ok(None);
        };
        let Some(change) = status.plan.as_ref().and_then(|plan| plan.version.as_ref()) else { return Ok(None) };
        let places = look::places(&self.config);
        let deployments = Resource::new("apps", "v1", "deployments");
        let target = Target::new(&deployments, Some(&places.rancher_namespace), &places.rancher_deployment);
        let answer = match self.cluster.reader().get(&target).await {
            Ok(answer) => answer,
            Err(error @ ClusterError::Unreachable { .. }) => return Err(ObserveError::Cluster(error).into()),
            Err(_) => return Ok(None),
        };
        let mut found = answer.and_then(|answer| answer.value().ok()).and_then(|live| drift(&live, &change.to));
        found.iter_mut().for_each(Drift::bound);
        Ok((found != status.drift).then_some(Told { key, drift: found }))
    }

    /// Writes it into the run, and hands it to Git.
    ///
    /// # Errors
    ///
    /// When the API server does not take it.
    pub(super) async fn tell_drift(
        &self,
        writer: &ClusterWriter,
        books: &Books,
        Told { key, drift }: Told,
    ) -> Result<(), PassError> {
        let Some(run) = books.runs.get(&key) else { return Ok(()) };
        match &drift {
            Some(drift) => warn!("{}: {}", run.spec.manifest.name, drift.told()),
            None => info!("{}: the declared version runs again", run.spec.manifest.name),
        }
        let mut recorder = Recorder::take_up(self.cluster.reader(), writer, run.clone()).await?;
        recorder.update(writer, |run| run.status.get_or_insert_default().drift.clone_from(&drift)).await?;
        self.publisher.submit(recorder.run());
        Ok(())
    }
}
