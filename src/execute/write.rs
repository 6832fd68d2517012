//! One object: prepared, sent, looked at in the server's answer.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::time::Instant;

use super::writers::Writers;
use super::{ExecuteError, LaidOut};
use crate::cluster::{
    Answer, ClusterError, ClusterReader, FailureKind, Preconditions, Propagation, Target, WriteError,
};
use crate::object::chart::{self, Release};
use crate::object::owner::{self, Owner};
use crate::object::prepare::{Context, Prepared, prepare};
use crate::object::{self, Interner, ObjectKey, StatusPlace, Summary};
use crate::observed::{LiveObject, Observed};
use crate::plan::diff::owner_id;
use crate::plan::gate::GateCode;
use crate::plan::{Change, Differs, Item};
use crate::webhook::{Operation, bundle};

/// Writes of an object that somebody else changes at the same time.
const CONFLICT_TRIES: usize = 5;
/// A type may take a moment to be served after its CRD is Established.
const SERVED_WITHIN: Duration = Duration::from_secs(15);
/// An object that is made anew must be gone first.
const GONE_WITHIN: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(100);

/// What became of one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    Created,
    Updated,
    Recreated,
    /// By the time of the write it was equal already.
    Equal,
}

/// Why an object was not written.
#[derive(Debug)]
pub enum Unwritten {
    /// The API server does not take it.
    Refused(String),
    /// Nothing is known against it; the run is gone on with later.
    BrokenOff(ExecuteError),
}

impl From<WriteError> for Unwritten {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::LeaseLost { .. } => Self::BrokenOff(ExecuteError::LeaseLost),
            WriteError::Unreachable { .. } | WriteError::Unknown { .. } => {
                Self::BrokenOff(ExecuteError::Unreachable(Box::new(error)))
            }
            WriteError::Api { .. } | WriteError::BadName(_) => Self::Refused(error.to_string()),
        }
    }
}

impl From<ClusterError> for Unwritten {
    fn from(error: ClusterError) -> Self {
        match error {
            ClusterError::Unreachable { .. } => Self::BrokenOff(ExecuteError::Unreachable(Box::new(error))),
            other => Self::Refused(other.to_string()),
        }
    }
}

/// Writes the objects of one plan.
#[derive(Clone)]
pub struct ObjectWriter {
    pub reader: ClusterReader,
    pub writers: Writers,
    pub laid_out: Arc<LaidOut>,
}

/// One object on its way.
struct Job<'a> {
    key: &'a ObjectKey,
    value: Value,
    backup: &'a Summary,
    live: Option<&'a LiveObject>,
    /// Where the status is written.
    status: StatusPlace,
}

impl ObjectWriter {
    /// Brings one object to what the backup has.
    pub async fn write(&self, item: Item, key: &ObjectKey, value: Value) -> Result<Written, Unwritten> {
        let laid_out = Arc::clone(&self.laid_out);
        let crate::observed::BackupSeen::Whole(backup) = &laid_out.observed.backup else {
            return Err(Unwritten::Refused("the backup is gone".to_owned()));
        };
        let job = Job {
            key,
            value,
            backup: &backup.objects[item.backup as usize].summary,
            live: item.live.map(|index| &laid_out.observed.live.objects[index as usize]),
            status: item.status,
        };
        match item.change {
            Change::Create => self.create(job).await,
            Change::Update(differs) => self.update(job, differs).await,
            Change::Recreate => self.recreate(job).await,
            Change::Skip | Change::Protected(_) | Change::NotServed => Ok(Written::Equal),
        }
    }

    async fn create(&self, job: Job<'_>) -> Result<Written, Unwritten> {
        let prepared = self.prepare(&job, None, None, None)?;
        let target = target(job.key);
        let end = Instant::now() + SERVED_WITHIN;
        loop {
            match self.writers.to(&target, Operation::Create).create(&target, body(&prepared.body)?).await {
                Ok(answer) => {
                    self.settle(&job, prepared, &answer).await?;
                    return Ok(Written::Created);
                }
                Err(error) if is_there_already(&error) => return self.replace_live(job).await,
                Err(error) if error.kind() == Some(FailureKind::NotFound) && Instant::now() < end => {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn update(&self, job: Job<'_>, differs: Differs) -> Result<Written, Unwritten> {
        let Some(live) = job.live else { return self.create(job).await };
        let version = live.facts.resource_version.clone();
        let kept = self.versions_to_keep(&job).await?;
        let redeploy = live.summary.traits.redeploy_generation;
        let prepared = self.prepare(&job, Some(&version), kept.as_ref(), redeploy)?;
        let target = target(job.key);
        if !differs.spec && !differs.owners {
            return match self.put_status(&target, prepared.body, prepared.status).await {
                Ok(()) => Ok(Written::Updated),
                Err(error) if is_outdated(&error) => self.replace_live(job).await,
                Err(error) => Err(error.into()),
            };
        }
        match self.writers.to(&target, Operation::Update).replace(&target, body(&prepared.body)?).await {
            Ok(answer) => {
                // The replaced object keeps the status that it was listed with.
                let status = prepared.status.filter(|_| differs.status);
                self.settle(&job, Prepared { status, ..prepared }, &answer).await?;
                Ok(Written::Updated)
            }
            Err(error) if is_outdated(&error) => self.replace_live(job).await,
            Err(error) => Err(error.into()),
        }
    }

    /// The object is not as it was listed: looks again, and writes what differs now.
    async fn replace_live(&self, job: Job<'_>) -> Result<Written, Unwritten> {
        let target = target(job.key);
        for _ in 0..CONFLICT_TRIES {
            let Some(live) = self.read(&target).await? else {
                let prepared = self.prepare(&job, None, None, None)?;
                match self.writers.to(&target, Operation::Create).create(&target, body(&prepared.body)?).await {
                    Ok(answer) => {
                        self.settle(&job, prepared, &answer).await?;
                        return Ok(Written::Created);
                    }
                    Err(error) if is_there_already(&error) => continue,
                    Err(error) => return Err(error.into()),
                }
            };
            let (summary, version) = self.summary_of(job.key, live.clone())?;
            if self.is_settled(&job, &summary) {
                return Ok(Written::Equal);
            }
            let kept = job.key.resource.is_crd().then_some(&live);
            let redeploy = summary.traits.redeploy_generation;
            let prepared = self.prepare(&job, Some(&version), kept, redeploy)?;
            match self.writers.to(&target, Operation::Update).replace(&target, body(&prepared.body)?).await {
                Ok(answer) => {
                    self.settle(&job, prepared, &answer).await?;
                    return Ok(Written::Updated);
                }
                Err(error) if is_outdated(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Unwritten::Refused(format!("{} changes faster than it can be written", job.key)))
    }

    async fn recreate(&self, job: Job<'_>) -> Result<Written, Unwritten> {
        let target = target(job.key);
        if let Some(live) = job.live {
            let preconditions = Preconditions { uid: Some(&live.facts.uid), resource_version: None };
            match self
                .writers
                .to(&target, Operation::Delete)
                .delete(&target, preconditions, Some(Propagation::Background), None)
                .await
            {
                Ok(_) => {}
                Err(error) if is_outdated(&error) => return self.replace_live(job).await,
                Err(error) => return Err(error.into()),
            }
            self.until_gone(&target, &live.facts.uid).await?;
        }
        self.create(job).await.map(|_| Written::Recreated)
    }

    async fn until_gone(&self, target: &Target<'_>, uid: &str) -> Result<(), Unwritten> {
        let end = Instant::now() + GONE_WITHIN;
        while let Some(live) = self.read(target).await? {
            if live["metadata"]["uid"] != uid {
                return Ok(());
            }
            if Instant::now() >= end {
                return Err(Unwritten::Refused(format!("{target} is deleted and waits for its finalizers")));
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    async fn read(&self, target: &Target<'_>) -> Result<Option<Value>, Unwritten> {
        Ok(self.reader.get(target).await?.map(|answer| answer.value().unwrap_or(Value::Null)))
    }

    /// The live CRD, when it has versions that hold objects and that the backup does not have.
    async fn versions_to_keep(&self, job: &Job<'_>) -> Result<Option<Value>, Unwritten> {
        let live = job.live.and_then(|live| live.summary.crd.as_deref());
        let (Some(backup), Some(live)) = (job.backup.crd.as_deref(), live) else { return Ok(None) };
        if backup.versions_to_keep(live).next().is_none() {
            return Ok(None);
        }
        self.read(&target(job.key)).await
    }

    fn prepare(
        &self,
        job: &Job<'_>,
        resource_version: Option<&str>,
        live: Option<&Value>,
        redeploy_generation: Option<i64>,
    ) -> Result<Prepared, Unwritten> {
        let context = Context {
            key: job.key,
            resource_version,
            live,
            redeploy_generation,
            status: job.status,
            bundles: &self.laid_out.observed.cluster.webhooks.kept,
            held_replicas: self.laid_out.held.iter().any(|workload| workload.names(job.key)),
            pausing: self.laid_out.pausing,
            owner_uid: &|owner, namespace| self.laid_out.owner_uid(owner, namespace),
        };
        let mut prepared = prepare(job.value.clone(), &context);
        let Observed { cluster, guarded, .. } = &self.laid_out.observed;
        // Where there is no Rancher, Helm comes next.
        if !cluster.workloads.iter().any(|workload| workload.rancher) {
            let release = Release { name: &guarded.rancher_deployment, namespace: &guarded.rancher_namespace };
            chart::mark(job.key, &mut prepared.body, release);
        }
        let may_drop = self.laid_out.plan.request.accept.contains(&GateCode::OwnerMissing);
        match prepared.dropped_owners > 0 && !may_drop {
            true => Err(Unwritten::Refused(format!("{}: its owner is not there", job.key))),
            false => Ok(prepared),
        }
    }

    /// What follows a write: the UID for dependents, and the status.
    async fn settle(&self, job: &Job<'_>, prepared: Prepared, answer: &Answer) -> Result<(), Unwritten> {
        let id = owner_id(job.key, &job.backup.kind);
        if self.laid_out.owners.contains(&id)
            && let Some(uid) = answer.identity().unwrap_or_default().uid
        {
            let mut uids = self.laid_out.owner_uids.lock().unwrap_or_else(PoisonError::into_inner);
            uids.insert(id, uid.into());
        }
        if prepared.status.is_none() {
            return Ok(());
        }
        let mut value = answer.value().unwrap_or(Value::Null);
        let target = target(job.key);
        for _ in 0..CONFLICT_TRIES {
            match self.put_status(&target, value, prepared.status.clone()).await {
                Ok(()) => return Ok(()),
                Err(error) if is_outdated(&error) => {
                    let Some(live) = self.read(&target).await? else { return Ok(()) };
                    value = live;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(Unwritten::Refused(format!("the status of {} changes faster than it can be written", job.key)))
    }

    async fn put_status(
        &self,
        target: &Target<'_>,
        mut object: Value,
        status: Option<Value>,
    ) -> Result<(), WriteError> {
        let Some(status) = status else { return Ok(()) };
        object["status"] = status;
        let text = serde_json::to_vec(&object).unwrap_or_default();
        self.writers.to_status(target).replace_status(target, Bytes::from(text)).await.map(drop)
    }

    fn summary_of(&self, key: &ObjectKey, value: Value) -> Result<(Summary, String), Unwritten> {
        let version = value["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        let summary = object::summarise(&key.resource, value, &mut Interner::default());
        summary.map(|summary| (summary, version)).map_err(|error| Unwritten::Refused(format!("{key}: {error}")))
    }

    /// Equal, and its owner references lead to live owners.
    fn is_settled(&self, job: &Job<'_>, live: &Summary) -> bool {
        let uids = self.laid_out.owner_uids.lock().unwrap_or_else(PoisonError::into_inner);
        let namespace = job.key.namespace.as_ref();
        let uid = |owner: &Owner| owner.candidates(namespace).find_map(|id| uids.get(&id).map(AsRef::as_ref));
        let kept = &self.laid_out.observed.cluster.webhooks.kept;
        object::equal(job.backup, live, job.status)
            && bundle::equal(&job.backup.trusted, &live.trusted, kept)
            && owner::lead_home(&job.backup.owners, &live.owners, uid)
    }
}

fn target(key: &ObjectKey) -> Target<'_> {
    Target::new(&key.resource, key.namespace.as_deref(), &key.name)
}

fn body(value: &Value) -> Result<Bytes, Unwritten> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|error| Unwritten::Refused(error.to_string()))
}

fn is_there_already(error: &WriteError) -> bool {
    error.kind() == Some(FailureKind::AlreadyExists) || matches!(error, WriteError::Unknown { .. })
}

fn is_outdated(error: &WriteError) -> bool {
    matches!(error.kind(), Some(FailureKind::Conflict | FailureKind::NotFound))
        || matches!(error, WriteError::Unknown { .. })
}
