//! Set version: what only the newer Rancher serves goes, and the older one is set, by Helm or by its image.
//!
//! Helm's stored manifest carries the replicas, so that Rancher starts by it: nothing may start it before.

mod helm;

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Value, json};
use tracing::info;

use super::quiesce::is_conflict;
use super::{ExecuteError, Executor, StepError, Work, broken_off};
use crate::cluster::{FailureKind, Preconditions, Target, WriteError};
use crate::journal::{Entry, Step, VersionHad, WorkloadRef, version_had};
use crate::observe;
use crate::plan::version::{ObjectRef, VersionChange, Way};
use crate::rancher;
pub use helm::{Helm, NoHelm, Program};

const CONFLICT_TRIES: usize = 5;
const FAILED: &str = "SetVersionFailed";

impl Executor {
    pub(super) async fn set_version(&self, work: &mut Work) -> Result<(), StepError> {
        // Rancher is to start in this step: nobody may be left who writes objects under it, or 0 to its Deployment.
        self.withdraw(work).await?;
        work.quiet = None;
        let change = work.recorder.status().plan.and_then(|plan| plan.version);
        let Some(change) = change else {
            return Err(StepError::failed(FAILED, "the run does not say which version is to be set"));
        };
        self.record_version(&change, work).await?;
        for object in &change.removes {
            self.remove(object).await?;
        }
        self.make_again(&change.makes, work).await?;
        match &change.way {
            Way::Keep => Ok(()),
            Way::Image { image, had } => self.set_image(image, had, work).await,
            Way::Helm { .. } | Way::Chart { .. } => self.set_by_helm(&change, work).await,
        }
    }

    /// Durable before the first change.
    async fn record_version(&self, change: &VersionChange, work: &mut Work) -> Result<(), StepError> {
        if version_had(&work.recorder.status().journal).is_some() {
            return Ok(());
        }
        let image = self.rancher_deployment().await?.as_ref().and_then(main_image).map(str::to_owned);
        let revision = match &change.way {
            Way::Helm { newest, .. } | Way::Chart { newest, .. } => Some(*newest),
            Way::Keep | Way::Image { .. } => None,
        };
        let mut removed = Vec::new();
        for object in &change.removes {
            let resource = object.resource_type();
            let target = Target::new(&resource, object.namespace.as_deref(), &object.name);
            let Some(answer) = self.reader.get(&target).await? else { continue };
            removed.extend(answer.value().ok().map(as_made));
        }
        let had = VersionHad { image, revision, removed };
        Ok(work.recorder.append(&self.writer, Entry::VersionHad { had }).await?)
    }

    async fn rancher_deployment(&self) -> Result<Option<Value>, StepError> {
        let rancher = self.rancher();
        let resource = rancher.resource_type();
        let answer = self.reader.get(&Target::new(&resource, Some(&rancher.namespace), &rancher.name)).await?;
        Ok(answer.and_then(|answer| answer.value().ok()))
    }

    /// By its UID: one that somebody makes anew meanwhile stays.
    async fn remove(&self, object: &ObjectRef) -> Result<(), StepError> {
        let resource = object.resource_type();
        let target = Target::new(&resource, object.namespace.as_deref(), &object.name);
        let Some(answer) = self.reader.get(&target).await? else { return Ok(()) };
        let value = answer.value().unwrap_or_default();
        let uid = value["metadata"]["uid"].as_str();
        let preconditions = Preconditions { uid, resource_version: None };
        match self.writer.delete(&target, preconditions, None, None).await {
            Ok(_) => {
                info!("deleted {object}, which only the newer Rancher serves");
                Ok(())
            }
            Err(error) if error.kind() == Some(FailureKind::NotFound) || is_conflict(&error) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// What a run before deleted, as it was then, and never over what is there. A Rancher that runs makes its own, so that what cannot be
    /// made is told, and stops nothing.
    async fn make_again(&self, objects: &[ObjectRef], work: &mut Work) -> Result<(), StepError> {
        if objects.is_empty() {
            return Ok(());
        }
        let removed = observe::removed(&self.reader).await.map_err(broken_off)?;
        for object in objects {
            let Some(known) = removed.iter().find(|known| known.object == *object) else {
                work.recorder.warn(&format!("{object} is not made again: the run that deleted it is gone"));
                continue;
            };
            let resource = object.resource_type();
            let target = Target::new(&resource, object.namespace.as_deref(), &object.name);
            match self.writer.create(&target, Bytes::from(known.value.to_string())).await {
                Ok(_) => info!("made {object} again, which a run before deleted"),
                Err(error) if error.kind() == Some(FailureKind::AlreadyExists) => {}
                Err(error @ (WriteError::Api { .. } | WriteError::BadName(_))) => {
                    work.recorder.warn(&format!("{object} is left to the Rancher that is started: {error}"));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Helm may have started Rancher by its stored manifest.
    pub(super) fn is_started_by_helm(&self, workload: &WorkloadRef, work: &Work) -> bool {
        let status = work.recorder.status();
        let by_helm = status.plan.and_then(|plan| plan.version).is_some_and(|change| change.by_helm());
        by_helm && version_had(&status.journal).is_some() && *workload == self.rancher()
    }

    /// Helm may have started Rancher before it failed: what is held is at 0.
    pub(super) async fn stop_for_good(&self, step: Step, work: &mut Work) -> Result<(), ExecuteError> {
        if step != Step::SetVersion {
            return Ok(());
        }
        match self.scale_down(&self.rancher(), work).await {
            Ok(()) => Ok(()),
            Err(StepError::BrokenOff(error)) => Err(error),
            Err(StepError::Failed(failure)) => {
                work.recorder.warn(&format!("Rancher could not be stopped again: {}", failure.message));
                Ok(())
            }
            Err(StepError::Stopped) => Ok(()),
        }
    }

    async fn set_image(&self, image: &str, had: &str, work: &mut Work) -> Result<(), StepError> {
        let rancher = self.rancher();
        let resource = rancher.resource_type();
        let target = Target::new(&resource, Some(&rancher.namespace), &rancher.name);
        for _ in 0..CONFLICT_TRIES {
            let Some(live) = self.rancher_deployment().await? else {
                return Err(StepError::failed(FAILED, format!("{rancher} is gone: there is no image to set")));
            };
            if main_image(&live) == Some(image) {
                return Ok(());
            }
            let moved = moved(&live, had, image);
            if moved.is_empty() {
                let message = format!("{rancher} has another image than when the run was planned: somebody changed it");
                return Err(StepError::failed(FAILED, message));
            }
            let version = &live["metadata"]["resourceVersion"];
            let patch = json!({"metadata": {"resourceVersion": version}, "spec": {"template": {"spec": moved}}});
            match self.writer.merge_patch(&target, &patch).await {
                Ok(_) => {
                    info!("set the image of {rancher} to {image}");
                    work.recorder.warn(&format!(
                        "the image of {rancher} was set to {image}, and Helm does not know: the next helm upgrade or rollback sets \
                         its own"
                    ));
                    return Ok(());
                }
                Err(error) if is_conflict(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(StepError::failed(FAILED, format!("{rancher} changes faster than its image can be set")))
    }
}

/// Image of the container that is Rancher: the first.
fn main_image(deployment: &Value) -> Option<&str> {
    deployment.pointer("/spec/template/spec/containers/0/image")?.as_str()
}

/// The lists of containers as they are to be: every one of the old image moves, sidecars and others stay. Empty where none has it.
fn moved(deployment: &Value, had: &str, image: &str) -> BTreeMap<&'static str, Value> {
    let lists = ["containers", "initContainers"].into_iter().filter_map(|field| {
        let mut list = deployment.pointer("/spec/template/spec")?.get(field)?.clone();
        let mut changed = false;
        for container in list.as_array_mut()? {
            if container["image"].as_str().is_some_and(|live| is_of(live, had)) {
                container["image"] = image.into();
                changed = true;
            }
        }
        changed.then_some((field, list))
    });
    lists.collect()
}

/// The same repository and tag, pinned by a digest or not.
fn is_of(live: &str, had: &str) -> bool {
    let plain = |image: &str| image.split_once('@').map_or(image, |(name, _)| name).to_owned();
    live == had || plain(live) == plain(had) && rancher::image_tag(live).is_some()
}

/// An object without what the API server sets, so that it can be made again.
fn as_made(mut object: Value) -> Value {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        for field in ["uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "selfLink"] {
            metadata.remove(field);
        }
    }
    if let Some(object) = object.as_object_mut() {
        object.remove("status");
    }
    if let Some(spec) = object["spec"].as_object_mut() {
        // Of a Service: given out anew, but for one that has none.
        if spec.get("clusterIP").is_some_and(|address| address != "None") {
            spec.remove("clusterIP");
            spec.remove("clusterIPs");
        }
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment() -> Value {
        json!({"spec": {"template": {"spec": {
            "containers": [
                {"name": "rancher", "image": "reg.example.org:5000/rancher/rancher:v2.10.1", "args": ["--no-cacerts"]},
                {"name": "audit", "image": "rancher/mirrored-bci-busybox:15.6"},
            ],
            "initContainers": [{"name": "first", "image": "reg.example.org:5000/rancher/rancher:v2.10.1@sha256:aa"}],
        }}}})
    }

    #[test]
    fn every_container_of_the_old_image_moves_and_others_stay() {
        let (had, image) =
            ("reg.example.org:5000/rancher/rancher:v2.10.1", "reg.example.org:5000/rancher/rancher:v2.9.3");
        let moved = moved(&deployment(), had, image);
        assert_eq!(moved["containers"][0], json!({"name": "rancher", "image": image, "args": ["--no-cacerts"]}));
        assert_eq!(moved["containers"][1]["image"], "rancher/mirrored-bci-busybox:15.6");
        assert_eq!(moved["initContainers"][0]["image"], image);
    }

    #[test]
    fn an_image_that_somebody_else_has_set_is_not_written_over() {
        assert!(moved(&deployment(), "rancher/rancher:v2.10.0", "rancher/rancher:v2.9.3").is_empty());
    }

    #[test]
    fn what_is_kept_of_a_removed_object_can_be_made_again() {
        let live = json!({"kind": "Service", "metadata": {"name": "api-extension", "uid": "u", "resourceVersion": "7"},
            "spec": {"clusterIP": "10.0.0.7", "ports": [{"port": 6666}]}, "status": {"loadBalancer": {}}});
        assert_eq!(
            as_made(live),
            json!({"kind": "Service", "metadata": {"name": "api-extension"}, "spec": {"ports": [{"port": 6666}]}})
        );
        let headless = json!({"metadata": {}, "spec": {"clusterIP": "None", "clusterIPs": ["None"]}});
        assert_eq!(as_made(headless.clone()), headless);
    }
}
