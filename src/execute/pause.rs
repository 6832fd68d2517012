//! Cluster API: paused while objects are written, since its controller stays up for the webhooks that it answers.
//!
//! Every live `clusters.cluster.x-k8s.io` gets `spec.paused: true`, and by the same patch the annotation that says what it
//! had; before the first of them all are in the journal. Clusters of the backup are written paused, with the backup's value
//! in the annotation. Resume gives the true values back, the annotation's before the journal's, after the replicas: a
//! cluster that cannot be given back must not keep Rancher down.

use serde_json::{Value, json};
use tracing::{info, warn};

use super::quiesce::is_conflict;
use super::{Executor, StepError, Work};
use crate::cluster::{FailureKind, ListOptions, Target, WriteError};
use crate::journal::{self, Entry, Paused, PausedCluster, WorkloadRef};
use crate::object::Resource;
use crate::object::normal::{CAPI_GROUP, PAUSED_ANNOTATION};
use crate::rancher::CLUSTER_API;

const CONFLICT_TRIES: usize = 5;

/// A cluster as it is when it is looked at.
struct Seen {
    namespace: String,
    name: String,
    paused: bool,
    /// What the annotation says it had.
    recorded: Option<bool>,
    resource_version: String,
}

impl Executor {
    /// Nothing is done where no controller of Cluster API stays up.
    pub(super) async fn pause(&self, work: &mut Work) -> Result<(), StepError> {
        if !self.cluster_api_stays_up(work).await? && work.recorder.paused().is_none() {
            return Ok(());
        }
        let Some(resource) = self.clusters_of_cluster_api().await? else { return Ok(()) };
        let clusters = self.list_clusters(&resource).await?;
        let had = |seen: &Seen| PausedCluster {
            namespace: seen.namespace.clone(),
            name: seen.name.clone(),
            paused: seen.recorded.unwrap_or(seen.paused),
        };
        let entry = Entry::Paused { clusters: clusters.iter().map(had).collect() };
        work.recorder.append(&self.writer, entry).await?;
        for cluster in &clusters {
            let had = cluster.recorded.or_else(|| work.recorder.had_paused(&cluster.namespace, &cluster.name));
            let had = had.unwrap_or(cluster.paused);
            if !self.pause_one(&resource, cluster, had).await? {
                let message = "the webhook of Cluster API cannot be called, so that no cluster could be paused; its \
                               controller does not run either";
                work.recorder.warn(message);
                return Ok(());
            }
        }
        info!("paused {} clusters of Cluster API", clusters.len());
        Ok(())
    }

    async fn cluster_api_stays_up(&self, work: &Work) -> Result<bool, StepError> {
        let stopped = work.recorder.replicas();
        for (namespace, name) in CLUSTER_API {
            let workload = WorkloadRef {
                api_version: "apps/v1".to_owned(),
                resource: "deployments".to_owned(),
                namespace: (*namespace).to_owned(),
                name: (*name).to_owned(),
            };
            if !stopped.contains_key(&workload) && self.look_at(&workload).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// At whatever version is served: before and after the definitions are written it may be another.
    async fn clusters_of_cluster_api(&self) -> Result<Option<Resource>, StepError> {
        let catalog = self.reader.discover().await?;
        Ok(catalog.find_any_version(CAPI_GROUP, "clusters").map(|found| found.resource.as_ref().clone()))
    }

    async fn list_clusters(&self, resource: &Resource) -> Result<Vec<Seen>, StepError> {
        let seen = |raw: &serde_json::value::RawValue| Ok(Seen::read(&serde_json::from_str(raw.get())?));
        Ok(self.reader.list(resource, ListOptions::default(), seen).await?.items)
    }

    /// False where the webhook that judges it does not answer.
    async fn pause_one(&self, resource: &Resource, first: &Seen, had: bool) -> Result<bool, StepError> {
        let target = Target::new(resource, Some(&first.namespace), &first.name);
        let mut again = None;
        for _ in 0..CONFLICT_TRIES {
            let seen: &Seen = again.as_ref().unwrap_or(first);
            let had = seen.recorded.unwrap_or(had);
            if seen.paused && seen.recorded == Some(had) {
                return Ok(true);
            }
            let patch = json!({
                "metadata": {
                    "resourceVersion": seen.resource_version,
                    "annotations": {PAUSED_ANNOTATION: had.to_string()},
                },
                "spec": {"paused": true},
            });
            match self.writer.merge_patch(&target, &patch).await {
                Ok(_) => return Ok(true),
                Err(error) if is_unanswered(&error) => return Ok(false),
                Err(error) if error.kind() == Some(FailureKind::NotFound) => return Ok(true),
                Err(error) if is_conflict(&error) => match self.look_at_cluster(&target).await? {
                    Some(now) => again = Some(now),
                    None => return Ok(true),
                },
                Err(error) => return Err(error.into()),
            }
        }
        Err(StepError::failed("QuiesceFailed", format!("{target} changes faster than it can be paused")))
    }

    async fn look_at_cluster(&self, target: &Target<'_>) -> Result<Option<Seen>, StepError> {
        let Some(answer) = self.reader.get(target).await? else { return Ok(None) };
        Ok(Seen::read(&answer.value().unwrap_or(Value::Null)))
    }

    /// Gives every cluster what it had, or what the backup has.
    pub(super) async fn unpause(&self, work: &mut Work) -> Result<(), StepError> {
        if work.recorder.paused().is_none() && !self.cluster_api_stays_up(work).await? {
            return Ok(());
        }
        let Some(resource) = self.clusters_of_cluster_api().await? else { return Ok(()) };
        let clusters = self.list_clusters(&resource).await?;
        // The annotation goes with the value: who goes on after that must not take what a cluster had for it.
        let backups: Vec<PausedCluster> =
            clusters.iter().filter_map(|seen| seen.unjournaled(work.recorder.paused().as_ref())).collect();
        if !backups.is_empty() {
            work.recorder.append(&self.writer, Entry::Unpaused { clusters: backups }).await?;
        }
        for cluster in clusters {
            // The operator writes clusters as the backup has them, without our annotation: that is what they get then.
            let is_handed = journal::has_operator(&work.recorder.status().journal);
            let journaled = match is_handed {
                true => None,
                false => work.recorder.had_paused(&cluster.namespace, &cluster.name),
            };
            self.unpause_one(&resource, cluster, journaled).await?;
        }
        Ok(())
    }

    async fn unpause_one(&self, resource: &Resource, first: Seen, journaled: Option<bool>) -> Result<(), StepError> {
        let (namespace, name) = (first.namespace.clone(), first.name.clone());
        let target = Target::new(resource, Some(&namespace), &name);
        let mut seen = first;
        for _ in 0..CONFLICT_TRIES {
            let paused = match (seen.recorded, journaled) {
                (Some(recorded), _) => recorded,
                // Somebody took the annotation away, and left it paused.
                (None, Some(false)) if seen.paused => false,
                // Given back already, or none of ours.
                (None, _) => return Ok(()),
            };
            let patch = json!({
                "metadata": {
                    "resourceVersion": seen.resource_version,
                    "annotations": {PAUSED_ANNOTATION: null},
                },
                // Absent is what Cluster API has where nobody paused.
                "spec": {"paused": if paused { Value::Bool(true) } else { Value::Null }},
            });
            match self.writer.merge_patch(&target, &patch).await {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == Some(FailureKind::NotFound) => return Ok(()),
                Err(error) if is_conflict(&error) => match self.look_at_cluster(&target).await? {
                    Some(now) => seen = now,
                    None => return Ok(()),
                },
                Err(error) => {
                    warn!("{target} stays paused: {error}");
                    return Err(error.into());
                }
            }
        }
        Err(StepError::failed("ResumeFailed", format!("{target} changes faster than it can be given back")))
    }
}

impl Seen {
    /// What the annotation says, where the journal says another thing or none.
    fn unjournaled(&self, journaled: Option<&Paused>) -> Option<PausedCluster> {
        let place = (self.namespace.clone(), self.name.clone());
        let paused = self.recorded?;
        let is_known = journaled.and_then(|all| all.get(&place)) == Some(&paused);
        let (namespace, name) = place;
        (!is_known).then_some(PausedCluster { namespace, name, paused })
    }

    /// `None` for one without the metadata that every Kubernetes sets.
    fn read(value: &Value) -> Option<Self> {
        let metadata = value.get("metadata")?;
        let text = |field: &str| metadata.get(field).and_then(Value::as_str).map(str::to_owned);
        let recorded = metadata.get("annotations").and_then(|all| all.get(PAUSED_ANNOTATION)).and_then(Value::as_str);
        Some(Self {
            namespace: text("namespace")?,
            name: text("name")?,
            paused: value.pointer("/spec/paused") == Some(&Value::Bool(true)),
            recorded: recorded.and_then(|text| text.parse().ok()),
            resource_version: text("resourceVersion")?,
        })
    }
}

fn is_unanswered(error: &WriteError) -> bool {
    error.kind() == Some(FailureKind::WebhookUnavailable)
}
