//! Events of the API: told best effort and in order, by a task of their own. Nothing waits for them or fails by them.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, warn};

use super::lease::holder_identity;
use super::write::{ClusterWriter, Target, WriteError, json_body};
use super::{FailureKind, Lost};
use crate::object::Resource;

/// Who tells, in `reportingController`.
const CONTROLLER: &str = "reinback";
/// Events that wait; a run has about a dozen. What does not fit is not told.
const QUEUE: usize = 256;
/// For one request, and for one Event with its repetitions.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(15));
/// Longest name of an object, less what follows the regarded object's name (apimachinery, `DNS1123SubdomainMaxLength`).
const NAME_BYTES: usize = 253 - 17;
/// Longest note and longest instance that the API server takes (`pkg/apis/core/validation/events.go`), in bytes.
const NOTE_BYTES: usize = 1024;
const INSTANCE_BYTES: usize = 128;

/// The object that an Event is about; the Event lies in its namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Regarding {
    pub api_version: String,
    pub kind: String,
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

/// What is told of one object at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub regarding: Regarding,
    /// One word.
    pub reason: String,
    /// One word.
    pub action: &'static str,
    /// A sentence; no secret is in it.
    pub note: String,
    pub is_warning: bool,
    pub at: Timestamp,
}

enum Message {
    Tell(Box<Event>),
    Settle(oneshot::Sender<()>),
}

/// Hands Events to the task that sends them. Cloning it is cheap.
#[derive(Clone)]
pub struct Events {
    queue: mpsc::Sender<Message>,
}

impl Events {
    /// Starts the task; it ends with the last clone. Must be called on a tokio runtime.
    pub fn start(writer: &ClusterWriter) -> Self {
        let (queue, messages) = mpsc::channel(QUEUE);
        let writer = writer.patient(PATIENCE.0, PATIENCE.1);
        tokio::spawn(send_all(writer, messages));
        Self { queue }
    }

    /// Hands one over. The same reason, action and note of the same object are told once, also by several processes.
    pub fn tell(&self, event: Event) {
        if self.queue.try_send(Message::Tell(Box::new(event))).is_err() {
            debug!("an Event was not told: {QUEUE} wait already");
        }
    }

    /// Waits until all that was handed over so far was sent or given up, for at most `limit`.
    pub async fn settle(&self, limit: Duration) {
        let (done, settled) = oneshot::channel();
        let all = async {
            if self.queue.send(Message::Settle(done)).await.is_ok() {
                let _ = settled.await;
            }
        };
        let _ = tokio::time::timeout(limit, all).await;
    }
}

async fn send_all(writer: ClusterWriter, mut messages: mpsc::Receiver<Message>) {
    let instance = cut(&holder_identity(), INSTANCE_BYTES).to_owned();
    let resource = Resource::new("events.k8s.io", "v1", "events");
    let mut complained = false;
    while let Some(message) = messages.recv().await {
        let event = match message {
            Message::Settle(done) => {
                let _ = done.send(());
                continue;
            }
            Message::Tell(event) => event,
        };
        let name = name(&event);
        let target = Target::new(&resource, Some(&event.regarding.namespace), &name);
        match writer.create(&target, json_body(&body(&event, &name, &instance))).await {
            Ok(_) => complained = false,
            Err(error) if is_told(&error) => {}
            Err(error) if complained => debug!(error = &error as &dyn std::error::Error, "an Event was not told"),
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "Events are not told; runs go on without them");
                complained = true;
            }
        }
    }
}

/// It is there: told before a restart, or by a try whose answer was lost.
fn is_told(error: &WriteError) -> bool {
    let lost = matches!(error, WriteError::Unknown { source: None | Some(Lost::Broken { .. }), .. });
    lost || error.kind() == Some(FailureKind::AlreadyExists)
}

/// The same for the same words about the same object, so that a resumed run does not tell twice.
fn name(event: &Event) -> String {
    let Event { regarding, reason, action, note, is_warning: _, at: _ } = event;
    let mut digest = Sha256::new();
    for part in [regarding.uid.as_str(), reason, action, note] {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    let digits: String = digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let stem = cut(&regarding.name, NAME_BYTES).trim_end_matches(['-', '.']);
    format!("{stem}.{digits}")
}

fn body(event: &Event, name: &str, instance: &str) -> Value {
    let Event { regarding, reason, action, note, is_warning, at } = event;
    let Regarding { api_version, kind, namespace, name: object, uid } = regarding;
    json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"namespace": namespace, "name": name},
        "eventTime": at.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string(),
        "reportingController": CONTROLLER,
        "reportingInstance": instance,
        "regarding": {
            "apiVersion": api_version, "kind": kind, "namespace": namespace, "name": object, "uid": uid,
        },
        "reason": reason,
        "action": action,
        "note": cut(note, NOTE_BYTES),
        "type": if *is_warning { "Warning" } else { "Normal" },
    })
}

/// The beginning of `text`, of at most `bytes`.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        let text = str::to_owned;
        Event {
            regarding: Regarding {
                api_version: text("reinback.io/v1alpha1"),
                kind: text("Run"),
                namespace: text("reinback-system"),
                name: text("2026-11-23-back-01234567"),
                uid: text("u"),
            },
            reason: text("Progressing"),
            action: "Quiesce",
            note: text("restore back: quiesce"),
            is_warning: false,
            at: "2026-11-23T09:00:00.0000015Z".parse().expect("a time"),
        }
    }

    #[test]
    fn the_same_words_of_the_same_object_have_one_name() {
        let first = name(&event());
        assert!(first.starts_with("2026-11-23-back-01234567."), "{first}");
        let later = Event { at: Timestamp::UNIX_EPOCH, ..event() };
        assert_eq!(name(&later), first);
        assert_ne!(name(&Event { note: "restore back: crds".to_owned(), ..event() }), first);
        let regarding = Regarding { uid: "v".to_owned(), ..event().regarding };
        assert_ne!(name(&Event { regarding, ..event() }), first);
    }

    #[test]
    fn whatever_is_told_fits_what_the_api_server_takes() {
        let regarding = Regarding { name: format!("{}-x", "a".repeat(NAME_BYTES - 1)), ..event().regarding };
        let long = Event { regarding, note: "é".repeat(2000), ..event() };
        let name = name(&long);
        assert!(name.len() <= 253 && !name.contains("-."), "{name}");
        let body = body(&long, &name, "host");
        assert!(body["note"].as_str().expect("a text").len() <= NOTE_BYTES);
        assert_eq!(body["eventTime"], "2026-11-23T09:00:00.000001Z");
    }
}
