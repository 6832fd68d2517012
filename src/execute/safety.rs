//! The safety backup: what the run may change, as it is now that nobody else writes, into the store of the backup.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tracing::{info, warn};

use super::{ExecuteError, Executor, StepError, Work, is_unread};
use crate::agent::begin::chain;
use crate::backup::{self, Encryption, Limits, ReadError, ResourceSet};
use crate::cluster::{ClusterError, Target};
use crate::collect::{self, Choice, CollectError};
use crate::journal::{Entry, SafetyBackup, Step, safety_backup};
use crate::object::Resource;
use crate::object::protect::OPERATOR_GROUP;
use crate::observe::Opening;
use crate::observed::{Backup, BackupSeen};
use crate::operator::DEFAULT_RESOURCE_SETS;
use crate::safety;
use crate::store::{self, BackupsWriter, Spool, SpoolLimits, StoreError};

const FAILED: &str = "SafetyBackupFailed";

/// A store that is busy or away for a moment is asked again; one that stays so fails the run, which has changed nothing yet.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_secs(5);

impl Executor {
    /// Its name follows from the run. One that is there whole is kept: a process that died here has made it, or the journal was lost and
    /// objects may have been written since, so that a second one would save what an undo is to take away.
    pub(super) async fn back_up(&self, work: &mut Work) -> Result<(), StepError> {
        if !self.settings.safety_backup || safety_backup(&work.recorder.status().journal).is_some() {
            return Ok(());
        }
        if is_unread(work) {
            return self.back_up_unread(work).await;
        }
        let laid_out = self.lay_out(Step::SafetyBackup, work).await?;
        let BackupSeen::Whole(backup) = &laid_out.observed.backup else {
            return Err(StepError::failed("BackupNotFound", "the backup cannot be read any more"));
        };
        let cluster_uid = laid_out.observed.cluster.uid.as_str();
        self.store(&choice(backup)?, cluster_uid, work).await
    }

    /// What the run may change is not known where only the operator can read the backup, or where none is named: all that a ResourceSet of its chart chooses is
    /// saved, where there is one, and where we have a place for it. Nobody promised more, so that its absence stops nothing.
    async fn back_up_unread(&self, work: &mut Work) -> Result<(), StepError> {
        let why = match self.choice_of_the_cluster(work).await? {
            Ok((choice, cluster_uid)) => match self.store(&choice, &cluster_uid, work).await {
                Err(StepError::Failed(failure)) => failure.message,
                other => return other,
            },
            Err(why) => why.to_owned(),
        };
        work.recorder.warn(&format!("there is no safety backup of this run: {why}"));
        Ok(())
    }

    async fn choice_of_the_cluster(&self, work: &Work) -> Result<Result<(Choice, String), &'static str>, StepError> {
        if work.location.is_none() {
            return Ok(Err("neither the manifest nor the configuration says where reinback may store one"));
        }
        if matches!(work.known.opening, Opening::Broken { .. }) {
            return Ok(Err("it could not be encrypted as the backup is"));
        }
        let resource = Resource::new(OPERATOR_GROUP, "v1", "resourcesets");
        for name in DEFAULT_RESOURCE_SETS {
            let Some(answer) = self.reader.get(&Target::new(&resource, None, name)).await? else { continue };
            let filters = answer.value().unwrap_or_default();
            let Some(set) = ResourceSet::from_value(filters.clone()).ok().and_then(|set| set.compile().ok()) else {
                continue;
            };
            let uid = self.reader.cluster_uid().await?.unwrap_or_default();
            return Ok(Ok((Choice { filters, selectors: set, named: Vec::new() }, uid)));
        }
        Ok(Err("the cluster has no ResourceSet of the operator's chart that says what to save"))
    }

    async fn store(&self, choice: &Choice, cluster_uid: &str, work: &mut Work) -> Result<(), StepError> {
        let mut tries = 1;
        let stored = loop {
            match self.stored_or_made(choice, cluster_uid, work).await {
                Ok(Some(stored)) => break stored,
                Ok(None) => {
                    work.recorder.warn("nothing that this run may change is in the cluster: there is no safety backup");
                    return Ok(());
                }
                Err(Unmade::Step(error)) => return Err(error),
                Err(Unmade::Store(error)) if error.transient() && tries < TRIES => {
                    warn!("the safety backup is tried again in {} s: {}", PAUSE.as_secs(), chain(&error));
                    self.until_next_try().await?;
                    tries += 1;
                }
                Err(Unmade::Store(error)) => return Err(not_made(chain(&error))),
            }
        };
        info!("the safety backup {} holds {} objects", stored.name, stored.objects);
        Ok(work.recorder.append(&self.writer, Entry::SafetyBackup { backup: stored }).await?)
    }

    async fn until_next_try(&self) -> Result<(), StepError> {
        let mut stop = self.stop.clone();
        match tokio::time::timeout(PAUSE, stop.wait_for(|stop| *stop)).await {
            Ok(Ok(_)) => Err(StepError::Stopped),
            Ok(Err(_)) | Err(_) => Ok(()),
        }
    }

    async fn stored_or_made(
        &self,
        choice: &Choice,
        cluster_uid: &str,
        work: &mut Work,
    ) -> Result<Option<SafetyBackup>, Unmade> {
        let location = work.location.as_ref().ok_or_else(|| not_made("it is not known where the backup lies"))?;
        let store = self.stores.open_writer(location).await?;
        let now = self.now();
        let begun = work.recorder.run().status.as_ref().and_then(|status| status.started_at).unwrap_or(now);
        let encryption = work.known.opening.encryption().cloned();
        let name = safety::name(&work.recorder.name(), cluster_uid, begun, encryption.is_some());
        match self.stored(store.as_ref(), &name, encryption.clone()).await? {
            Some(stored) => Ok(Some(stored)),
            None => self.make(store.as_ref(), name, choice, encryption, work).await,
        }
    }

    /// `None` for a cluster that has nothing yet that the run may change.
    async fn make(
        &self,
        store: &dyn BackupsWriter,
        name: String,
        choice: &Choice,
        encryption: Option<Arc<Encryption>>,
        work: &mut Work,
    ) -> Result<Option<SafetyBackup>, Unmade> {
        let spool_dir = &self.settings.places.spool_dir;
        let made = match collect::make(&self.reader, choice, encryption, spool_dir, self.now()).await {
            Err(CollectError::Empty) => return Ok(None),
            made => made?,
        };
        store::put_verified(store, &name, &made.spool, spool_dir).await?;
        for note in &made.notes {
            work.recorder.warn(&format!("safety backup: {note}"));
        }
        Ok(Some(SafetyBackup { name, sha256: made.spool.sha256().to_string(), objects: made.objects() }))
    }

    /// The safety backup of this run, when it is in the store; it is read to its last byte.
    async fn stored(
        &self,
        store: &dyn BackupsWriter,
        name: &str,
        encryption: Option<Arc<Encryption>>,
    ) -> Result<Option<SafetyBackup>, Unmade> {
        let limits = SpoolLimits { max_bytes: u64::MAX };
        let spool = match store.spool(name, &self.settings.places.spool_dir, limits).await {
            Ok(spool) => spool,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let sha256 = spool.sha256().to_string();
        match crate::git::blocking(move || objects(&spool, encryption.as_deref())).await {
            Ok(objects) => Ok(Some(SafetyBackup { name: name.to_owned(), sha256, objects })),
            Err(problem) => {
                let place = store.describe();
                Err(not_made(format!("{name} is in {place} already, and is not whole: {problem}")).into())
            }
        }
    }
}

/// Why there is no safety backup yet.
enum Unmade {
    Step(StepError),
    /// Another try may do.
    Store(StoreError),
}

impl From<StepError> for Unmade {
    fn from(error: StepError) -> Self {
        Self::Step(error)
    }
}

impl From<StoreError> for Unmade {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<CollectError> for Unmade {
    fn from(error: CollectError) -> Self {
        match error {
            CollectError::Store(error) => Self::Store(error),
            CollectError::Cluster(error @ ClusterError::Unreachable { .. }) => {
                Self::Step(StepError::BrokenOff(ExecuteError::Unreachable(Box::new(error))))
            }
            other => Self::Step(not_made(chain(&other))),
        }
    }
}

/// How many objects a whole backup holds.
fn objects(spool: &Spool, encryption: Option<&Encryption>) -> Result<u64, String> {
    let read = backup::read(spool.reader(), spool.size(), &Limits::default(), encryption, |_| {
        Ok::<(), std::convert::Infallible>(())
    });
    match read {
        Ok(summary) => Ok(summary.objects + summary.encrypted),
        Err(ReadError::Visit(never)) => match never {},
        Err(error) => Err(chain(&error)),
    }
}

/// The filters of the backup that is restored, which say what it may delete, and every object that it may write.
fn choice(backup: &Backup) -> Result<Choice, StepError> {
    let named = backup.objects.iter().map(|object| object.key.clone()).collect();
    let filters = match &backup.filters {
        Some(filters) => filters.as_ref().clone(),
        // Without filters nothing is deleted; the operator would not scale Rancher down for such a backup.
        None => json!({
            "kind": "ResourceSet", "apiVersion": "resources.cattle.io/v1", "metadata": {"name": "reinback-safety"},
            "resourceSelectors": [], "controllerReferences": [],
        }),
    };
    let set = ResourceSet::from_value(filters.clone()).map_err(|error| not_made(chain(&error)))?;
    let selectors = set.compile().map_err(|error| not_made(chain(&error)))?;
    Ok(Choice { filters, selectors, named })
}

fn not_made(why: impl Into<String>) -> StepError {
    StepError::failed(FAILED, format!("the safety backup could not be made, and nothing was changed: {}", why.into()))
}
