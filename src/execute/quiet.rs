//! Watches that no Rancher runs while objects are written.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::warn;

use crate::cluster::{ClusterReader, Watched};
use crate::object::Resource;

/// Far longer than any run.
const FOR_EVER: Duration = Duration::from_secs(7 * 24 * 3600);
/// Between tries while the API server does not answer; the writes do not come through then either.
const PAUSE: Duration = Duration::from_millis(500);

/// True while no pod of Rancher exists. The watch ends when this is dropped.
pub struct Quiet {
    quiet: watch::Receiver<bool>,
    /// `None` where there is no Rancher to watch.
    task: Option<JoinHandle<()>>,
}

impl Drop for Quiet {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Quiet {
    /// Starts watching the pods that `selector` chooses in `namespace`.
    pub fn watch(reader: ClusterReader, namespace: String, selector: String) -> Self {
        let (sender, quiet) = watch::channel(true);
        let task = tokio::spawn(async move {
            let pods = Resource::new("", "v1", "pods");
            let watched =
                Watched { resource: &pods, namespace: Some(&namespace), label_selector: &selector, field_selector: "" };
            loop {
                let until = Instant::now() + FOR_EVER;
                let looked = reader
                    .wait_until(&watched, until, |pods| {
                        let empty = pods.is_empty();
                        if sender.send_replace(empty) && !empty {
                            warn!("a pod of Rancher appeared: writing stops until it is gone");
                        }
                        false
                    })
                    .await;
                if looked.is_err() {
                    tokio::time::sleep(PAUSE).await;
                }
            }
        });
        Self { quiet, task: Some(task) }
    }

    /// There is no Rancher, as in an empty cluster: no pod of it can appear, and all others may.
    pub fn without_rancher() -> Self {
        let (_, quiet) = watch::channel(true);
        Self { quiet, task: None }
    }

    /// Waits while a pod of Rancher exists.
    pub async fn wait(&self) {
        // The sender lives as long as the task, which lives as long as this; without a task it stays quiet.
        let _ = self.quiet.clone().wait_for(|quiet| *quiet).await;
    }

    pub fn is_quiet(&self) -> bool {
        *self.quiet.borrow()
    }
}

/// Shared by the writers.
pub type SharedQuiet = Arc<Quiet>;
