//! Watches that no Rancher runs while objects are written.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::warn;

use super::{Executor, StepError, Work};
use crate::cluster::{ClusterReader, Watched};
use crate::object::Resource;

/// Far longer than any run.
const FOR_EVER: Duration = Duration::from_secs(7 * 24 * 3600);
/// Between tries while the API server does not answer; the writes do not come through then either.
const PAUSE: Duration = Duration::from_millis(500);

/// What is known of Rancher's pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pods {
    /// Not looked yet.
    Unknown,
    Gone,
    There,
}

/// Knows whether a pod of Rancher exists. The watch ends when this is dropped.
pub struct Quiet {
    pods: watch::Receiver<Pods>,
    task: JoinHandle<()>,
}

impl Drop for Quiet {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Quiet {
    /// Starts watching the pods that `selector` chooses in `namespace`; an empty one chooses none, where it would
    /// choose all of the namespace in a request.
    pub fn watch(reader: ClusterReader, namespace: String, selector: String) -> Self {
        let (sender, pods) = watch::channel(if selector.is_empty() { Pods::Gone } else { Pods::Unknown });
        let task = tokio::spawn(async move {
            match selector.is_empty() {
                // The sender stays, so that who waits waits.
                true => sender.closed().await,
                false => follow(&reader, &namespace, &selector, &sender).await,
            }
        });
        Self { pods, task }
    }

    /// Waits while a pod of Rancher exists, or none has been looked for yet.
    pub async fn wait(&self) {
        // The sender lives as long as the task, which lives as long as this.
        let _ = self.pods.clone().wait_for(|pods| *pods == Pods::Gone).await;
    }

    /// No pod of Rancher exists.
    pub fn is_quiet(&self) -> bool {
        *self.pods.borrow() == Pods::Gone
    }

    /// A pod of Rancher exists.
    pub fn is_disturbed(&self) -> bool {
        *self.pods.borrow() == Pods::There
    }
}

async fn follow(reader: &ClusterReader, namespace: &str, selector: &str, sender: &watch::Sender<Pods>) {
    let resource = Resource::new("", "v1", "pods");
    let watched =
        Watched { resource: &resource, namespace: Some(namespace), label_selector: selector, field_selector: "" };
    loop {
        let until = Instant::now() + FOR_EVER;
        let looked = reader
            .wait_until(&watched, until, |pods| {
                let now = if pods.is_empty() { Pods::Gone } else { Pods::There };
                if sender.send_replace(now) != Pods::There && now == Pods::There {
                    warn!("a pod of Rancher exists: nothing is written until it is gone");
                }
                false
            })
            .await;
        if looked.is_err() {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

impl Executor {
    /// Somebody scaled Rancher up in the middle: it goes down again, and keeps the annotation of what it had.
    pub(super) async fn silence(&self, quiet: &Quiet, work: &mut Work) -> Result<(), StepError> {
        if !quiet.is_disturbed() {
            return Ok(());
        }
        let rancher = self.rancher();
        let Some(seen) = self.look_at(&rancher).await? else { return Ok(()) };
        if seen.replicas == 0 {
            return Ok(());
        }
        warn!("{rancher} was scaled to {} while objects are written: scaling it to 0 again", seen.replicas);
        work.recorder.warn(&format!(
            "{rancher} was scaled up while objects were written: it was scaled to 0 again, and nothing was written \
             while its pods were there"
        ));
        self.scale_down(&rancher, work).await?;
        Ok(work.recorder.update(&self.writer, |_| {}).await?)
    }
}

/// Shared by the writers.
pub type SharedQuiet = Arc<Quiet>;
