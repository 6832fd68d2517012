//! One object: prepared, sent, looked at in the server's answer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::time::Instant;

use super::owners::Place;
use super::writers::Writers;
use super::{ExecuteError, LaidOut};
use crate::cluster::{
    Answer, ClusterError, ClusterReader, FailureKind, Preconditions, Propagation, Target, WriteError,
};
use crate::object::chart::{self, Release};
use crate::object::owner::{self, Owner, OwnerId};
use crate::object::prepare::{Context, Prepared, fit_observed_generation, prepare};
use crate::object::{self, Interner, ObjectKey, Resource, StatusPlace, Summary, normal};
use crate::observed::{LiveObject, Observed, OwnerUids};
use crate::plan::diff::{account_id, shown};
use crate::plan::gate::GateCode;
use crate::plan::{Change, Differs, Item};
use crate::webhook::{Operation, bundle, silence};

/// Writes of an object that somebody else changes at the same time.
const CONFLICT_TRIES: usize = 5;
/// A type may take a moment to be served after its CRD is Established: from the first object of it that finds it missing.
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
    /// Written before; now it has the references to the owners that waited for it.
    Again,
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

/// Since when a type is waited for, shared by all writers of a run: one that never comes is not waited for by each object.
pub type Unserved = Mutex<HashMap<Arc<Resource>, Instant>>;

/// One object on its way.
struct Job<'a> {
    key: &'a ObjectKey,
    value: Value,
    backup: &'a Summary,
    live: Option<&'a LiveObject>,
    /// Where the status is written.
    status: StatusPlace,
    /// Its owner waits for it: what is not there yet is left out.
    ahead: bool,
    /// The agents of the cluster are to be deployed anew, also where the object is equal.
    redeploy: bool,
}

/// What a live object adds to what is written for it.
#[derive(Default)]
struct Onto<'a> {
    resource_version: Option<&'a str>,
    /// Where its content matters.
    live: Option<&'a Value>,
    redeploy_generation: Option<i64>,
}

impl ObjectWriter {
    /// Brings one object to what the backup has.
    pub async fn write(&self, item: Item, key: &ObjectKey, value: Value) -> Result<Written, Unwritten> {
        let laid_out = Arc::clone(&self.laid_out);
        let job = job(&laid_out, item, key, value)?;
        let owners = &laid_out.owners;
        owners.until_settled(&laid_out.owners_of(&item), Place { step: item.step, depth: item.depth }).await;
        let id = OwnerId::of(key, &job.backup.kind);
        let written = match item.change {
            Change::Create => self.create(job).await,
            Change::Update(differs) => self.update(job, differs).await,
            Change::Recreate => self.recreate(job).await,
            Change::Skip | Change::Protected(_) | Change::NotServed => Ok(Written::Equal),
        };
        owners.settle(&id);
        written
    }

    /// Gives an object the references to owners that were not there, or not known to go, when it was written.
    pub async fn write_again(&self, item: Item, key: &ObjectKey, value: Value) -> Result<Written, Unwritten> {
        let laid_out = Arc::clone(&self.laid_out);
        let job = Job { ahead: false, redeploy: false, ..job(&laid_out, item, key, value)? };
        self.replace_live(job).await.map(|_| Written::Again)
    }

    async fn create(&self, job: Job<'_>) -> Result<Written, Unwritten> {
        let prepared = self.prepare(&job, &Onto::default())?;
        let target = target(job.key);
        loop {
            match self.writers.to(&target, Operation::Create).create(&target, body(&prepared.body)?).await {
                Ok(answer) => {
                    self.settle(&job, prepared, &answer).await?;
                    return Ok(Written::Created);
                }
                Err(error) if is_there_already(&error) => return self.replace_live(job).await,
                Err(error) if error.kind() == Some(FailureKind::NotFound) && self.may_come(job.key) => {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether a type that is not served is still worth waiting for.
    fn may_come(&self, key: &ObjectKey) -> bool {
        let mut unserved = self.laid_out.unserved.lock().unwrap_or_else(PoisonError::into_inner);
        let since = *unserved.entry(Arc::clone(&key.resource)).or_insert_with(Instant::now);
        since.elapsed() < SERVED_WITHIN
    }

    async fn update(&self, job: Job<'_>, differs: Differs) -> Result<Written, Unwritten> {
        let Some(live) = job.live else { return self.create(job).await };
        let content = self.content_that_matters(&job).await?;
        let onto = Onto {
            resource_version: Some(&live.facts.resource_version),
            live: content.as_ref(),
            redeploy_generation: live.summary.particulars().traits.redeploy_generation,
        };
        let prepared = self.prepare(&job, &onto)?;
        let target = target(job.key);
        let Differs { spec, status, owners, redeploy } = differs;
        if !spec && !owners && !redeploy {
            let Prepared { body, status, generation: saw, dropped_owners: _ } = prepared;
            return match self.put_status(&target, body, status, saw, live.facts.generation).await {
                Ok(()) => Ok(Written::Updated),
                Err(error) if is_outdated(&error) => self.replace_live(job).await,
                Err(error) => Err(error.into()),
            };
        }
        match self.writers.to(&target, Operation::Update).replace(&target, body(&prepared.body)?).await {
            Ok(answer) => {
                // The replaced object keeps the status that it was listed with.
                let status = prepared.status.filter(|_| status);
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
                let prepared = self.prepare(&job, &Onto::default())?;
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
            let is_whole = self.is_whole(&job, &summary);
            if is_whole && object::status_equal(job.backup, &summary, job.status) {
                return Ok(Written::Equal);
            }
            let onto = Onto {
                resource_version: Some(&version),
                live: Some(&live),
                redeploy_generation: summary.particulars().traits.redeploy_generation,
            };
            let prepared = self.prepare(&job, &onto)?;
            // A write whose answer was lost counted a redeploy already.
            let outcome = match is_whole {
                true => {
                    let generation = live["metadata"]["generation"].as_i64().unwrap_or_default();
                    self.put_status(&target, live, prepared.status, prepared.generation, generation)
                        .await
                        .map(|()| None)
                }
                false => {
                    let writer = self.writers.to(&target, Operation::Update);
                    writer.replace(&target, body(&prepared.body)?).await.map(|answer| Some((prepared, answer)))
                }
            };
            match outcome {
                Ok(written) => {
                    if let Some((prepared, answer)) = written {
                        self.settle(&job, prepared, &answer).await?;
                    }
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

    /// The live object where it gives something to what is written: a CRD whose versions hold objects that the backup's does
    /// not have, and a token Secret, whose token may fit the live account.
    async fn content_that_matters(&self, job: &Job<'_>) -> Result<Option<Value>, Unwritten> {
        let live = job.live.and_then(|live| live.summary.particulars().crd.as_deref());
        let keeps = match (job.backup.particulars().crd.as_deref(), live) {
            (Some(backup), Some(live)) => backup.versions_to_keep(live).next().is_some(),
            _ => false,
        };
        match keeps || job.backup.particulars().token.is_some() {
            true => self.read(&target(job.key)).await,
            false => Ok(None),
        }
    }

    fn prepare(&self, job: &Job<'_>, onto: &Onto<'_>) -> Result<Prepared, Unwritten> {
        let Onto { resource_version, live, redeploy_generation } = *onto;
        let laid_out = &self.laid_out;
        let account_uid = job
            .backup
            .particulars()
            .token
            .as_deref()
            .and_then(|token| laid_out.owners.uid(&account_id(job.key, token)));
        let context = Context {
            key: job.key,
            resource_version,
            live,
            redeploy_generation,
            account_uid: account_uid.as_deref(),
            status: job.status,
            bundles: &laid_out.observed.cluster.webhooks.kept,
            held_replicas: laid_out.held.iter().any(|workload| workload.names(job.key)),
            pausing: laid_out.pausing,
            owner_uid: &|owner, namespace| laid_out.owners.uid_of(owner, namespace),
        };
        let mut prepared = prepare(job.value.clone(), &context);
        let Observed { cluster, guarded, .. } = &laid_out.observed;
        // Where there is no Rancher, Helm comes next.
        if !cluster.workloads.iter().any(|workload| workload.rancher) {
            let release = Release { name: &guarded.rancher_deployment, namespace: &guarded.rancher_namespace };
            chart::mark(job.key, &mut prepared.body, release);
        }
        // Written as they are until resume, with the backup's value beside them.
        let names = silence::held_by(&laid_out.silenced, &job.key.resource, &job.key.name);
        silence::silence(&job.key.resource, &mut prepared.body, names, &silence::Had::new());
        match prepared.dropped_owners.iter().find(|owner| !job.ahead && !self.may_drop(job.key, owner)) {
            Some(owner) => Err(Unwritten::Refused(format!("its owner {} is not there", shown(owner)))),
            None => Ok(prepared),
        }
    }

    /// An owner that the plan knew to be nowhere, and whose absence was accepted; one that this run failed to write is
    /// another matter.
    fn may_drop(&self, key: &ObjectKey, owner: &Owner) -> bool {
        let plan = &self.laid_out.plan;
        let owner = shown(owner);
        plan.request.accept.contains(&GateCode::OwnerMissing)
            && plan.missing_owners.iter().any(|(dependent, missing)| dependent == key && *missing == owner)
    }

    /// What follows a write: the UID for dependents, and the status.
    async fn settle(&self, job: &Job<'_>, prepared: Prepared, answer: &Answer) -> Result<(), Unwritten> {
        let id = OwnerId::of(job.key, &job.backup.kind);
        let identity = answer.identity().unwrap_or_default();
        if let Some(uid) = identity.uid {
            self.laid_out.owners.learn(&id, &uid);
        }
        let Prepared { body: _, status, generation: saw, dropped_owners: _ } = prepared;
        if status.is_none() {
            return Ok(());
        }
        let mut value = answer.value().unwrap_or(Value::Null);
        let mut generation = identity.generation;
        let target = target(job.key);
        for _ in 0..CONFLICT_TRIES {
            match self.put_status(&target, value, status.clone(), saw, generation).await {
                Ok(()) => return Ok(()),
                Err(error) if is_outdated(&error) => {
                    let Some(live) = self.read(&target).await? else { return Ok(()) };
                    generation = live["metadata"]["generation"].as_i64().unwrap_or_default();
                    value = live;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(Unwritten::Refused(format!("the status of {} changes faster than it can be written", job.key)))
    }

    /// `saw` and `generation`: as the backup and the live object count.
    async fn put_status(
        &self,
        target: &Target<'_>,
        mut object: Value,
        status: Option<Value>,
        saw: Option<i64>,
        generation: i64,
    ) -> Result<(), WriteError> {
        let Some(mut status) = status else { return Ok(()) };
        fit_observed_generation(&mut status, saw, generation);
        object["status"] = status;
        let text = serde_json::to_vec(&object).unwrap_or_default();
        self.writers.to_status(target).replace_status(target, Bytes::from(text)).await.map(drop)
    }

    fn summary_of(&self, key: &ObjectKey, value: Value) -> Result<(Summary, String), Unwritten> {
        let version = value["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        let summary = object::summarise(&key.resource, value, &mut Interner::default());
        summary.map(|summary| (summary, version)).map_err(|error| Unwritten::Refused(format!("{key}: {error}")))
    }

    /// Equal but for the status, with a token that fits, and its owner references lead to live owners.
    fn is_whole(&self, job: &Job<'_>, live: &Summary) -> bool {
        self.laid_out.owners.with_uids(|uids| self.is_whole_by(job, live, uids))
    }

    fn is_whole_by(&self, job: &Job<'_>, live: &Summary, uids: &OwnerUids) -> bool {
        let namespace = job.key.namespace.as_ref();
        let uid = |owner: &Owner| owner.candidates(namespace).find_map(|id| uids.get(&id).map(AsRef::as_ref));
        let kept = &self.laid_out.observed.cluster.webhooks.kept;
        let wants = job.redeploy
            && normal::wants_redeploy(&job.key.resource, &job.backup.particulars().traits, &live.particulars().traits);
        let token_fits = job.backup.particulars().token.as_deref().is_none_or(|token| {
            let works = token.uid.is_some() && token.uid.as_ref() == uids.get(&account_id(job.key, token));
            !works
                || token.data.is_none()
                || live.particulars().token.as_deref().is_some_and(|live| live.data == token.data)
        });
        object::spec_equal(job.backup, live, job.status)
            && bundle::equal(&job.backup.particulars().trusted, &live.particulars().trusted, kept)
            && !wants
            && token_fits
            && owner::lead_home(&job.backup.owners, &live.owners, uid)
    }
}

fn job<'a>(laid_out: &'a LaidOut, item: Item, key: &'a ObjectKey, value: Value) -> Result<Job<'a>, Unwritten> {
    let crate::observed::BackupSeen::Whole(backup) = &laid_out.observed.backup else {
        return Err(Unwritten::Refused("the backup is gone".to_owned()));
    };
    Ok(Job {
        key,
        value,
        backup: &backup.objects[item.backup as usize].summary,
        live: item.live.map(|index| &laid_out.observed.live.objects[index as usize]),
        status: item.status,
        ahead: item.ahead,
        redeploy: matches!(item.change, Change::Update(Differs { redeploy: true, .. })),
    })
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
