//! Prune: what the plan deletes, wave by wave; finalizers are given their time, then removed.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::warn;

use super::objects::{Pace, interrupted};
use super::write::Unwritten;
use super::{Executor, HALT_WITHIN, LaidOut, StepError, Work};
use crate::cluster::{Answer, ClusterReader, ClusterWriter, FailureKind, Preconditions, Propagation, Target};
use crate::journal::Step;
use crate::object::ObjectKey;
use crate::plan::{DeleteWave, Deletion};

/// Between looks at an object that waits for its finalizers.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// An object without finalizers is gone at once, but for the API server's own work.
const GONE_WITHIN: Duration = Duration::from_secs(15);

/// What one task brings back; true when it deleted the object.
type Outcome = (ObjectKey, Result<bool, Unwritten>);

/// The writer's half of a deletion.
#[derive(Clone)]
struct Deleter {
    reader: ClusterReader,
    writer: ClusterWriter,
    /// How long finalizers may take.
    patience: Duration,
}

impl Executor {
    pub(super) async fn prune(&self, work: &mut Work) -> Result<(), StepError> {
        let laid_out = self.lay_out(Step::Prune, work).await?;
        let waves = [
            DeleteWave::CustomResources,
            DeleteWave::Namespaced,
            DeleteWave::ClusterScoped,
            DeleteWave::Namespaces,
            DeleteWave::Crds,
        ];
        let mut pace = Pace::new(Step::Prune, laid_out.plan.deletions.len() as u64);
        for wave in waves {
            let deletions = laid_out.plan.deletions.iter().filter(|deletion| deletion.wave == wave);
            self.delete_all(&laid_out, deletions.collect(), &mut pace, work).await?;
        }
        self.judge(&pace, "deleted")
    }

    async fn delete_all(
        &self,
        laid_out: &Arc<LaidOut>,
        deletions: Vec<&Deletion>,
        pace: &mut Pace,
        work: &mut Work,
    ) -> Result<(), StepError> {
        let deleter = Deleter {
            reader: self.reader.clone(),
            writer: self.writer.clone(),
            patience: self.settings.delete_timeout,
        };
        let quiet = self.quiet(work).await?;
        let mut tasks: JoinSet<Outcome> = JoinSet::new();
        let mut waiting = deletions.into_iter();
        loop {
            if let Some(why) = self.halt(Step::Prune, work) {
                let end = Instant::now() + HALT_WITHIN;
                while let Ok(Some(done)) = tokio::time::timeout_at(end, tasks.join_next()).await {
                    self.tally_deleted(done, pace, work).await?;
                }
                return Err(why);
            }
            self.silence(&quiet, work).await?;
            while tasks.len() < self.settings.concurrency && quiet.is_quiet() {
                let Some(deletion) = waiting.next() else { break };
                let live = &laid_out.observed.live.objects[deletion.live as usize];
                let (deleter, quiet) = (deleter.clone(), Arc::clone(&quiet));
                let (key, uid, wave) = (live.key.clone(), live.facts.uid.clone(), deletion.wave);
                tasks.spawn(async move {
                    quiet.wait().await;
                    let outcome = deleter.delete(&key, &uid, wave).await;
                    (key, outcome)
                });
            }
            if tasks.is_empty() && waiting.as_slice().is_empty() {
                return Ok(());
            }
            tokio::select! {
                Some(done) = tasks.join_next() => self.tally_deleted(done, pace, work).await?,
                () = tokio::time::sleep(super::objects::LOOK_EVERY) => {}
            }
        }
    }

    async fn tally_deleted(
        &self,
        done: Result<Outcome, tokio::task::JoinError>,
        pace: &mut Pace,
        work: &mut Work,
    ) -> Result<(), StepError> {
        let (key, outcome) = done.map_err(|_| interrupted())?;
        match outcome {
            Ok(deleted) => {
                work.counts.deleted += u64::from(deleted);
                work.succeed(&key);
            }
            Err(Unwritten::BrokenOff(error)) => return Err(StepError::BrokenOff(error)),
            Err(Unwritten::Refused(message)) => {
                warn!(object = %key, "not deleted: {message}");
                work.fail(&key, message, pace);
            }
        }
        self.tell(pace, work).await
    }
}

impl Deleter {
    /// Deletes one object; false when it was gone already, or another one has its name.
    async fn delete(&self, key: &ObjectKey, uid: &str, wave: DeleteWave) -> Result<bool, Unwritten> {
        let target = Target::new(&key.resource, key.namespace.as_deref(), &key.name);
        let preconditions = Preconditions { uid: Some(uid), resource_version: None };
        match self.writer.delete(&target, preconditions, Some(Propagation::Background), None).await {
            Ok(answer) if is_gone(&answer) => return Ok(true),
            Ok(_) => {}
            Err(error) => match error.kind() {
                Some(FailureKind::NotFound | FailureKind::Conflict) => return Ok(false),
                _ => return Err(error.into()),
            },
        }
        // A namespace goes when all in it has gone, which may take until Rancher answers again; `verify` looks.
        if wave != DeleteWave::Namespaces {
            self.until_gone(&target, uid).await?;
        }
        Ok(true)
    }

    async fn until_gone(&self, target: &Target<'_>, uid: &str) -> Result<(), Unwritten> {
        let began = Instant::now();
        while let Some(live) = self.still_there(target, uid).await? {
            // Again where somebody wrote the object at the same time.
            if began.elapsed() >= self.patience && has_finalizers(&live) {
                self.remove_finalizers(target, &live).await?;
            }
            if began.elapsed() >= self.patience + GONE_WITHIN {
                return Err(Unwritten::Refused("it is deleted and does not go away".to_owned()));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    async fn still_there(&self, target: &Target<'_>, uid: &str) -> Result<Option<Value>, Unwritten> {
        let live = self.reader.get(target).await?.map(|answer| answer.value().unwrap_or(Value::Null));
        Ok(live.filter(|live| live["metadata"]["uid"] == uid))
    }

    /// As upstream does after the same time; only objects that the plan listed come here.
    async fn remove_finalizers(&self, target: &Target<'_>, live: &Value) -> Result<(), Unwritten> {
        let metadata = &live["metadata"];
        let patch = json!({ "metadata": {
            "finalizers": null,
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
        }});
        match self.writer.merge_patch(target, &patch).await {
            Ok(_) => Ok(()),
            Err(error) => match error.kind() {
                Some(FailureKind::NotFound | FailureKind::Conflict) => Ok(()),
                _ => Err(error.into()),
            },
        }
    }
}

/// The API server answers a deletion with a `Status` once the object is gone, and with the object while it waits.
fn is_gone(answer: &Answer) -> bool {
    let value = answer.value().unwrap_or(Value::Null);
    value["kind"] == "Status" && value["status"] == "Success"
}

fn has_finalizers(live: &Value) -> bool {
    live.pointer("/metadata/finalizers").and_then(Value::as_array).is_some_and(|finalizers| !finalizers.is_empty())
}
