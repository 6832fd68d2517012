//! The `Run` object while it is worked on: every write names the resourceVersion that it is based on.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;

use super::Replicas;
use crate::cluster::{ClusterError, ClusterReader, ClusterWriter, FailureKind, Target, WriteError};
use crate::journal::{Entry, Event, IllegalTransition, Journal, Paused, paused, replicas, silenced};
use crate::object::Resource;
use crate::run::{NAMESPACE, Run, RunSpec, RunStatus};
use crate::status::{self, StatusFileError};
use crate::webhook::silence::{Silenced, WebhookRef};

/// Tries to write a status that somebody else changed meanwhile.
const CONFLICT_TRIES: usize = 5;

/// Why a `Run` could not be written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("another reinback holds the lease now")]
    LeaseLost,
    #[error("another process has written the journal of run {run}")]
    Overtaken { run: String },
    #[error("cannot write run {run}")]
    Write { run: String, source: WriteError },
    #[error("cannot read run {run}")]
    Read { run: String, source: ClusterError },
    #[error("run {run} in the cluster is not one")]
    Unreadable { run: String, source: StatusFileError },
    #[error(transparent)]
    Illegal(#[from] IllegalTransition),
    #[error("run {run} cannot be put into JSON")]
    Unwritable { run: String, source: serde_json::Error },
}

/// Our resource type.
pub fn runs() -> Resource {
    Resource::new("reinback.io", "v1alpha1", "runs")
}

/// One `Run` and what of it is durable.
pub struct Recorder {
    reader: ClusterReader,
    run: Run,
}

impl Recorder {
    /// Takes a run up: makes the object where the cluster does not have it.
    ///
    /// # Errors
    ///
    /// When the API server does not take it, or holds something else under its name.
    pub async fn take_up(reader: ClusterReader, writer: &ClusterWriter, run: Run) -> Result<Self, RecordError> {
        let mut recorder = Self { reader, run };
        match recorder.fetch().await? {
            Some(live) if is_behind(&live, &recorder.run) => {
                recorder.run.metadata = live.metadata;
                recorder.note_recovered()?;
            }
            Some(live) => recorder.run = live,
            None => {
                recorder.note_recovered()?;
                recorder.create(writer).await?;
            }
        }
        Ok(recorder)
    }

    /// What of the journal Git did not know is lost with the object. Durable with the next write.
    fn note_recovered(&mut self) -> Result<(), RecordError> {
        if journal_of(&self.run).is_empty() {
            return Ok(());
        }
        self.note(Entry::Recovered)
    }

    fn note(&mut self, entry: Entry) -> Result<(), RecordError> {
        let status = self.run.status.get_or_insert_default();
        let mut journal = Journal::from(std::mem::take(&mut status.journal));
        let appended = journal.append(self.reader.clock().now(), entry);
        status.journal = journal.events().to_vec();
        Ok(appended?)
    }

    pub fn run(&self) -> &Run {
        &self.run
    }

    pub(super) fn run_mut(&mut self) -> &mut Run {
        &mut self.run
    }

    pub fn name(&self) -> String {
        self.run.metadata.name.clone().unwrap_or_default()
    }

    pub fn status(&self) -> RunStatus {
        self.run.status.clone().unwrap_or_default()
    }

    /// When the run began: the object's creation, by the clock of every other object in the cluster, or its start by
    /// our own where that is earlier. A run whose object was deleted gets a new one, and did not begin anew by that.
    pub fn created(&self) -> Timestamp {
        let created = self.run.metadata.creation_timestamp.as_ref().map_or(Timestamp::MIN, |time| time.0);
        let started = self.run.status.as_ref().and_then(|status| status.started_at);
        started.map_or(created, |started| created.min(started))
    }

    /// Replicas as the journal holds them.
    pub fn replicas(&self) -> Replicas {
        self.run.status.as_ref().map(|status| replicas(&status.journal)).unwrap_or_default()
    }

    /// What clusters of Cluster API had before they were paused; `None` where the run pauses none.
    pub fn paused(&self) -> Option<Paused> {
        self.run.status.as_ref().and_then(|status| paused(&status.journal))
    }

    /// Whether one was paused before the run.
    pub fn had_paused(&self, namespace: &str, name: &str) -> Option<bool> {
        self.paused()?.get(&(namespace.to_owned(), name.to_owned())).copied()
    }

    /// What webhooks that the run silenced get back.
    pub fn silenced(&self) -> Silenced {
        self.run.status.as_ref().map(|status| silenced(&status.journal)).unwrap_or_default()
    }

    /// Every webhook that the run silences or may have silenced: those of the plan, and those of the journal.
    pub fn to_silence(&self) -> BTreeSet<WebhookRef> {
        let planned = self.run.status.as_ref().and_then(|status| status.plan.as_ref());
        let planned = planned.map(|plan| plan.silences.clone()).unwrap_or_default();
        planned.into_iter().chain(self.silenced().into_keys()).collect()
    }

    /// Keeps a sentence for the reader; durable with the next write.
    pub fn warn(&mut self, warning: &str) {
        status::add_warning(self.run.status.get_or_insert_default(), warning);
    }

    /// Adds an entry to the journal; it is durable when this returns.
    ///
    /// # Errors
    ///
    /// `Overtaken` when the journal in the cluster is not the one that this process knows.
    pub async fn append(&mut self, writer: &ClusterWriter, entry: Entry) -> Result<(), RecordError> {
        self.note(entry)?;
        self.update(writer, |_| {}).await
    }

    /// Pins another state of the manifest; only a run that has not started may change its mind.
    ///
    /// # Errors
    ///
    /// As [`Recorder::update`].
    pub async fn pin(&mut self, writer: &ClusterWriter, spec: RunSpec) -> Result<(), RecordError> {
        self.run.spec = spec;
        let name = self.name();
        let body = self.body()?;
        let target = runs();
        let answer = writer.replace(&Target::new(&target, Some(NAMESPACE), &name), body).await;
        self.take(answer)
    }

    /// Changes the status; it is durable when this returns.
    ///
    /// # Errors
    ///
    /// As [`Recorder::append`].
    pub async fn update(&mut self, writer: &ClusterWriter, change: impl Fn(&mut Run)) -> Result<(), RecordError> {
        change(&mut self.run);
        for _ in 0..CONFLICT_TRIES {
            match self.put_status(writer).await {
                Ok(()) => return Ok(()),
                Err(RecordError::Write { source, run }) => match source.kind() {
                    Some(FailureKind::Conflict) => self.rebase().await?,
                    Some(FailureKind::NotFound) => self.create(writer).await?,
                    _ if matches!(source, WriteError::Unknown { .. }) => self.rebase().await?,
                    _ => return Err(RecordError::Write { source, run }),
                },
                Err(other) => return Err(other),
            }
        }
        Err(RecordError::Overtaken { run: self.name() })
    }

    async fn put_status(&mut self, writer: &ClusterWriter) -> Result<(), RecordError> {
        let generation = self.run.metadata.generation.unwrap_or_default();
        let now = self.reader.clock().now();
        status::refresh(self.run.status.get_or_insert_default(), generation, now);
        let name = self.name();
        let body = self.body()?;
        let target = runs();
        let answer = writer.replace_status(&Target::new(&target, Some(NAMESPACE), &name), body).await;
        self.take(answer)
    }

    /// Makes the object, and writes the status that this process knows: a person may have deleted it in the middle.
    async fn create(&mut self, writer: &ClusterWriter) -> Result<(), RecordError> {
        let kept = self.run.status.clone();
        self.run.metadata.resource_version = None;
        self.run.metadata.uid = None;
        self.run.metadata.namespace = Some(NAMESPACE.to_owned());
        let name = self.name();
        let body = self.body()?;
        let target = runs();
        match writer.create(&Target::new(&target, Some(NAMESPACE), &name), body).await {
            Err(error) if error.kind() == Some(FailureKind::AlreadyExists) || is_unknown(&error) => {
                self.rebase().await?;
            }
            answer => self.take(answer)?,
        }
        self.run.status = kept;
        match self.run.status.is_some() {
            true => self.put_status(writer).await,
            false => Ok(()),
        }
    }

    fn take(&mut self, answer: Result<crate::cluster::Answer, WriteError>) -> Result<(), RecordError> {
        let answer = match answer {
            Ok(answer) => answer,
            Err(WriteError::LeaseLost { .. }) => return Err(RecordError::LeaseLost),
            Err(source) => return Err(RecordError::Write { run: self.name(), source }),
        };
        let identity = answer.identity().unwrap_or_default();
        self.run.metadata.resource_version = identity.resource_version;
        self.run.metadata.uid = identity.uid;
        self.run.metadata.generation = Some(identity.generation);
        if self.run.metadata.creation_timestamp.is_none()
            && let Ok(value) = answer.value()
            && let Ok(live) = status::run_from_value(value)
        {
            self.run.metadata.creation_timestamp = live.metadata.creation_timestamp;
        }
        Ok(())
    }

    /// Takes the newer resourceVersion when nothing that counts has changed: a person may have set a label.
    async fn rebase(&mut self) -> Result<(), RecordError> {
        let Some(live) = self.fetch().await? else { return Ok(()) };
        let ours = journal_of(&self.run);
        let theirs = journal_of(&live);
        if !ours.starts_with(theirs) {
            return Err(RecordError::Overtaken { run: self.name() });
        }
        self.run.metadata = live.metadata;
        Ok(())
    }

    async fn fetch(&self) -> Result<Option<Run>, RecordError> {
        let name = self.name();
        let read = |source| RecordError::Read { run: name.clone(), source };
        let target = runs();
        let Some(answer) = self.reader.get(&Target::new(&target, Some(NAMESPACE), &name)).await.map_err(read)? else {
            return Ok(None);
        };
        let value = answer.value().unwrap_or(Value::Null);
        status::run_from_value(value).map(Some).map_err(|source| RecordError::Unreadable { run: name.clone(), source })
    }

    fn body(&self) -> Result<bytes::Bytes, RecordError> {
        let body = serde_json::to_vec(&self.run);
        body.map(bytes::Bytes::from).map_err(|source| RecordError::Unwritable { run: self.name(), source })
    }
}

/// The cluster's copy misses what this process knows: whoever made it anew died before its status was written.
fn is_behind(live: &Run, known: &Run) -> bool {
    let (live, known) = (journal_of(live), journal_of(known));
    live.len() < known.len() && known.starts_with(live)
}

fn is_unknown(error: &WriteError) -> bool {
    matches!(error, WriteError::Unknown { .. })
}

fn journal_of(run: &Run) -> &[Event] {
    run.status.as_ref().map(|status| status.journal.as_slice()).unwrap_or_default()
}
