//! Prune: what the plan deletes, wave by wave; finalizers are given their time, then removed.
//!
//! All of a wave is deleted before the first object is waited for: ten thousand objects that nobody finalizes cost the time
//! that the manifest gives finalizers (`deleteTimeoutSeconds`) once, and not once each. What the API server did not delete
//! at once is watched, by one watch of each type; no object is read alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::warn;

use super::objects::{LOOK_EVERY, Pace, interrupted};
use super::quiet::SharedQuiet;
use super::write::Unwritten;
use super::writers::Writers;
use super::{Executor, HALT_WITHIN, LaidOut, StepError, Work};
use crate::cluster::{
    Answer, Awaited, ClusterError, ClusterReader, FailureKind, JsonFault, ListOptions, Preconditions, Present,
    Propagation, Target, Waited,
};
use crate::journal::Step;
use crate::object::{ObjectKey, Resource};
use crate::plan::DeleteWave;
use crate::webhook::Operation;

/// An object without finalizers is gone at once, but for the API server's own work and the grace of a pod.
const GONE_WITHIN: Duration = Duration::from_secs(60);
/// The objects of a definition are deleted one by one.
const CRD_GONE_WITHIN: Duration = Duration::from_secs(180);
/// A controller that makes an object again does so about as soon as it hears of its end.
const BACK_WITHIN: Duration = Duration::from_secs(1);
/// Between two tries to remove the finalizers of an object that somebody else writes at the same time.
const PAUSE: Duration = Duration::from_millis(100);
/// By it a definition waits until its objects are gone. Without it they would stay in etcd, and be back with the
/// definition.
const CRD_CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// True when it deleted the object, false when that was gone already or another one has its name.
type Outcome = (ObjectKey, Result<bool, Unwritten>);

/// A live object that goes.
#[derive(Debug, Clone)]
struct Doomed {
    key: ObjectKey,
    uid: Box<str>,
}

/// Namespace (empty for a cluster-scoped object) and name.
type Name = (String, String);

/// What the API server said to a deletion.
enum Struck {
    Done(Outcome),
    /// Marked as deleted; it waits for finalizers, or for what is in it.
    Waits(Doomed),
}

/// The writer's half of a deletion.
#[derive(Clone)]
struct Deleter {
    reader: ClusterReader,
    writers: Writers,
    quiet: SharedQuiet,
    /// How long finalizers may take.
    patience: Duration,
    concurrency: usize,
    wave: DeleteWave,
    /// When to say what does not go, before the run's own time-out says less.
    latest: Instant,
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
        let quiet = self.quiet(work).await?;
        for wave in waves {
            let deleter = Deleter {
                reader: self.reader.clone(),
                writers: self.writers(&laid_out)?,
                quiet: Arc::clone(&quiet),
                patience: self.settings.delete_timeout,
                concurrency: work.level.get(),
                wave,
                latest: Instant::now() + self.time_left(work).saturating_sub(HALT_WITHIN),
            };
            let waiting = self.delete_all(&deleter, doomed(&laid_out, wave), &mut pace, work).await?;
            self.see_off(&deleter, waiting, &mut pace, work).await?;
            // A definition would take along what could not be deleted alone.
            self.judge(&pace, "deleted")?;
        }
        Ok(())
    }

    /// Deletes every object, and gives those that did not go at once.
    async fn delete_all(
        &self,
        deleter: &Deleter,
        objects: Vec<Doomed>,
        pace: &mut Pace,
        work: &mut Work,
    ) -> Result<Vec<Doomed>, StepError> {
        let mut tasks: JoinSet<Struck> = JoinSet::new();
        let mut next = objects.into_iter();
        let mut waiting = Vec::new();
        loop {
            if let Some(why) = self.halt(Step::Prune, work) {
                let end = Instant::now() + HALT_WITHIN;
                while let Ok(Some(done)) = tokio::time::timeout_at(end, tasks.join_next()).await {
                    self.struck(done, &mut waiting, pace, work).await?;
                }
                return Err(why);
            }
            self.silence(&deleter.quiet, work).await?;
            while tasks.len() < work.level.get() && deleter.quiet.is_quiet() {
                let Some(object) = next.next() else { break };
                let deleter = deleter.clone();
                tasks.spawn(async move { deleter.delete(object).await });
            }
            if tasks.is_empty() && next.as_slice().is_empty() {
                return Ok(waiting);
            }
            tokio::select! {
                Some(done) = tasks.join_next() => {
                    let full = tasks.len() + 1 >= work.level.get();
                    work.level.answered(Instant::now(), full, self.writer.throttled());
                    self.struck(done, &mut waiting, pace, work).await?;
                }
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    async fn struck(
        &self,
        done: Result<Struck, tokio::task::JoinError>,
        waiting: &mut Vec<Doomed>,
        pace: &mut Pace,
        work: &mut Work,
    ) -> Result<(), StepError> {
        match done.map_err(|_| interrupted())? {
            Struck::Waits(object) => waiting.push(object),
            Struck::Done(outcome) => self.tally_deleted(outcome, pace, work).await?,
        }
        Ok(())
    }

    /// Waits until what was deleted is gone; a task for each type.
    async fn see_off(
        &self,
        deleter: &Deleter,
        waiting: Vec<Doomed>,
        pace: &mut Pace,
        work: &mut Work,
    ) -> Result<(), StepError> {
        let mut by_type: BTreeMap<Arc<Resource>, Vec<Doomed>> = BTreeMap::new();
        for object in waiting {
            by_type.entry(Arc::clone(&object.key.resource)).or_default().push(object);
        }
        let mut tasks: JoinSet<Vec<Outcome>> = JoinSet::new();
        for (resource, objects) in by_type {
            let deleter = deleter.clone();
            tasks.spawn(async move { deleter.see_off(&resource, objects).await });
        }
        while !tasks.is_empty() {
            if let Some(why) = self.halt(Step::Prune, work) {
                return Err(why);
            }
            self.silence(&deleter.quiet, work).await?;
            tokio::select! {
                Some(done) = tasks.join_next() => {
                    for outcome in done.map_err(|_| interrupted())? {
                        self.tally_deleted(outcome, pace, work).await?;
                    }
                }
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
        Ok(())
    }

    async fn tally_deleted(&self, outcome: Outcome, pace: &mut Pace, work: &mut Work) -> Result<(), StepError> {
        let (key, outcome) = outcome;
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

fn doomed(laid_out: &LaidOut, wave: DeleteWave) -> Vec<Doomed> {
    let deletions = laid_out.plan.deletions.iter().filter(|deletion| deletion.wave == wave);
    let objects = deletions.map(|deletion| &laid_out.observed.live.objects[deletion.live as usize]);
    objects.map(|object| Doomed { key: object.key.clone(), uid: object.facts.uid.clone() }).collect()
}

impl Deleter {
    /// Deletes one object, and nothing that has its name by now.
    async fn delete(&self, object: Doomed) -> Struck {
        self.quiet.wait().await;
        let Doomed { key, uid } = &object;
        let target = Target::new(&key.resource, key.namespace.as_deref(), &key.name);
        let preconditions = Preconditions { uid: Some(uid), resource_version: None };
        let writer = self.writers.to(&target, Operation::Delete);
        let outcome = match writer.delete(&target, preconditions, Some(Propagation::Background), None).await {
            Ok(answer) if is_gone(&answer) => Ok(true),
            Ok(_) => return Struck::Waits(object),
            Err(error) => match error.kind() {
                Some(FailureKind::NotFound | FailureKind::Conflict) => Ok(false),
                _ => Err(error.into()),
            },
        };
        Struck::Done((object.key, outcome))
    }

    /// Waits for objects of one type, and removes the finalizers of those that are too slow.
    async fn see_off(&self, resource: &Resource, objects: Vec<Doomed>) -> Vec<Outcome> {
        let awaited: Awaited = objects.iter().map(|object| (name_of(&object.key), object.uid.clone())).collect();
        let kept = match self.outlive(resource, &awaited).await {
            Ok(kept) => kept,
            Err(Unwritten::BrokenOff(error)) => {
                let key = objects.into_iter().next().map(|object| object.key);
                return key.map(|key| (key, Err(Unwritten::BrokenOff(error)))).into_iter().collect();
            }
            Err(Unwritten::Refused(why)) => awaited.keys().map(|name| (name.clone(), why.clone())).collect(),
        };
        let outcome = |object: Doomed| match kept.get(&name_of(&object.key)) {
            None => (object.key, Ok(true)),
            Some(why) => (object.key, Err(Unwritten::Refused(why.clone()))),
        };
        objects.into_iter().map(outcome).collect()
    }

    /// Gives the objects that do not go, and why.
    async fn outlive(&self, resource: &Resource, awaited: &Awaited) -> Result<BTreeMap<Name, String>, Unwritten> {
        let patient = (Instant::now() + self.patience).min(self.latest);
        let mut left = self.left(resource, awaited, patient, |_| false).await?;
        let end = (Instant::now().max(patient) + self.gone_within()).min(self.latest);
        let mut stripped = BTreeSet::new();
        let mut refused: BTreeMap<Name, String> = BTreeMap::new();
        while Instant::now() < end && left.values().any(|live| self.is_in_the_way(live)) {
            let held = left.iter().filter(|(name, live)| has_removable(live) && !refused.contains_key(*name));
            let held: Vec<(Name, Value)> = held.map(|(name, live)| (name.clone(), live.clone())).collect();
            stripped.extend(held.iter().map(|(name, _)| name.clone()));
            refused.extend(self.strip_all(resource, held).await?);
            // Again where somebody wrote an object at the same time.
            let again = |(name, live): (&Name, &Value)| has_removable(live) && !refused.contains_key(name);
            tokio::time::sleep(PAUSE).await;
            left = self.left(resource, awaited, end, |present| present.iter().any(again)).await?;
        }
        let kept = left.into_iter().filter(|(_, live)| self.is_in_the_way(live));
        let mut kept: BTreeMap<Name, String> = kept.map(|(name, live)| (name, why_it_stays(&live))).collect();
        for (name, why) in &mut kept {
            if let Some(refusal) = refused.remove(name) {
                *why = format!("{why}, and its finalizers cannot be removed: {refusal}");
            }
        }
        kept.extend(self.back_again(resource, awaited, &stripped).await?);
        Ok(kept)
    }

    /// Those of the objects that are there when none is in the way any more, when `enough` says so, or at the deadline.
    async fn left(
        &self,
        resource: &Resource,
        awaited: &Awaited,
        deadline: Instant,
        enough: impl Fn(&Present) -> bool,
    ) -> Result<Present, Unwritten> {
        let done = |present: &Present| !present.values().any(|live| self.is_in_the_way(live)) || enough(present);
        match self.reader.wait_until_of(resource, awaited, deadline, done).await {
            Ok(Waited::Met(present) | Waited::Late(present)) => Ok(present),
            // With its definition each object of a type is gone.
            Err(ClusterError::NotServed { .. }) => Ok(Present::new()),
            Err(error) => Err(error.into()),
        }
    }

    fn gone_within(&self) -> Duration {
        match self.wave {
            DeleteWave::Crds => CRD_GONE_WITHIN,
            DeleteWave::CustomResources
            | DeleteWave::Namespaced
            | DeleteWave::ClusterScoped
            | DeleteWave::Namespaces => GONE_WITHIN,
        }
    }

    /// A namespace goes when all in it has gone, which may take until Rancher answers again; `verify` looks. Only
    /// finalizers of its own are waited for here.
    fn is_in_the_way(&self, live: &Value) -> bool {
        self.wave != DeleteWave::Namespaces || has_removable(live)
    }

    /// As upstream does after the same time; only objects that the plan listed come here. Gives those whose finalizers the
    /// API server does not let go.
    async fn strip_all(
        &self,
        resource: &Resource,
        held: Vec<(Name, Value)>,
    ) -> Result<BTreeMap<Name, String>, Unwritten> {
        let tries = stream::iter(held).map(|(name, live)| async move {
            self.quiet.wait().await;
            let outcome = self.strip(resource, &name, &live).await;
            (name, outcome)
        });
        let mut tried = tries.buffer_unordered(self.concurrency.max(1));
        let mut refused = BTreeMap::new();
        while let Some((name, outcome)) = tried.next().await {
            match outcome {
                Ok(()) => {}
                Err(Unwritten::Refused(why)) => drop(refused.insert(name, why)),
                Err(broken_off @ Unwritten::BrokenOff(_)) => return Err(broken_off),
            }
        }
        Ok(refused)
    }

    async fn strip(&self, resource: &Resource, name: &Name, live: &Value) -> Result<(), Unwritten> {
        let (namespace, name) = name;
        let target = Target::new(resource, Some(namespace.as_str()).filter(|text| !text.is_empty()), name);
        let kept: Vec<&str> = finalizers(live).filter(|finalizer| *finalizer == CRD_CLEANUP).collect();
        let patch = json!({ "metadata": {
            "finalizers": (!kept.is_empty()).then_some(kept),
            "uid": live["metadata"]["uid"],
            "resourceVersion": live["metadata"]["resourceVersion"],
        }});
        match self.writers.to(&target, Operation::Update).merge_patch(&target, &patch).await {
            Ok(_) => Ok(()),
            Err(error) => match error.kind() {
                Some(FailureKind::NotFound | FailureKind::Conflict) => Ok(()),
                _ => Err(error.into()),
            },
        }
    }

    /// Of the objects whose finalizers were removed, those of whose name there is another one: something that runs made it
    /// again, and what the finalizer stood for may not have been done.
    async fn back_again(
        &self,
        resource: &Resource,
        awaited: &Awaited,
        stripped: &BTreeSet<Name>,
    ) -> Result<BTreeMap<Name, String>, Unwritten> {
        if stripped.is_empty() {
            return Ok(BTreeMap::new());
        }
        tokio::time::sleep(BACK_WITHIN).await;
        let options = ListOptions { metadata_only: true, ..ListOptions::default() };
        let listed = self.reader.list(resource, options, |raw| {
            let live: Value = serde_json::from_str(raw.get()).map_err(JsonFault::from)?;
            let text = |field: &str| live["metadata"][field].as_str().unwrap_or_default().to_owned();
            let name = (text("namespace"), text("name"));
            let is_new = stripped.contains(&name) && awaited.get(&name).is_some_and(|uid| **uid != *text("uid"));
            Ok(is_new.then_some(name))
        });
        let names = match listed.await {
            Ok(listed) => listed.items,
            Err(ClusterError::NotServed { .. }) => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        Ok(names.into_iter().map(|name| (name, MADE_AGAIN.to_owned())).collect())
    }
}

const MADE_AGAIN: &str =
    "its finalizers were removed, and it was made again: something that makes it is still running and must be stopped";

fn name_of(key: &ObjectKey) -> Name {
    (key.namespace.as_deref().unwrap_or_default().to_owned(), key.name.to_string())
}

/// The API server answers a deletion with a `Status` once the object is gone, and with the object while it waits.
fn is_gone(answer: &Answer) -> bool {
    let value = answer.value().unwrap_or(Value::Null);
    value["kind"] == "Status" && value["status"] == "Success"
}

fn finalizers(live: &Value) -> impl Iterator<Item = &str> {
    let all = live.pointer("/metadata/finalizers").and_then(Value::as_array);
    all.into_iter().flatten().filter_map(Value::as_str)
}

fn has_removable(live: &Value) -> bool {
    finalizers(live).any(|finalizer| finalizer != CRD_CLEANUP)
}

fn why_it_stays(live: &Value) -> String {
    let waits_for: Vec<&str> = finalizers(live).collect();
    match waits_for.as_slice() {
        [] => "it is deleted and does not go away".to_owned(),
        [CRD_CLEANUP] => {
            "it is deleted and does not go away: objects of its type wait for finalizers of theirs".to_owned()
        }
        several => format!("it is deleted and does not go away: it waits for {}", several.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_finalizer_that_clears_away_the_objects_of_a_definition_is_never_removed() {
        let live = |finalizers: Value| json!({"metadata": {"finalizers": finalizers}});
        assert!(!has_removable(&live(json!([CRD_CLEANUP]))));
        assert!(has_removable(&live(json!([CRD_CLEANUP, "example.org/slow"]))));
        assert!(!has_removable(&live(Value::Null)));
        let said = [json!([]), json!([CRD_CLEANUP]), json!(["example.org/slow", "example.org/b"])];
        insta::assert_snapshot!(said.map(|all| why_it_stays(&live(all))).join("\n"), @r"
        it is deleted and does not go away
        it is deleted and does not go away: objects of its type wait for finalizers of theirs
        it is deleted and does not go away: it waits for example.org/slow, example.org/b
        ");
    }
}
