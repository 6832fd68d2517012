//! Waiting for the cluster: a set of objects, kept as the cluster changes it, until it is as wanted.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use http_body_util::BodyExt;
use kube::client::Body;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::request::{Backoff, Call, collection_path, push_query};
use super::{ApiFailure, ClusterError, ClusterReader, FailureKind, JsonFault, ListOptions};
use crate::object::Resource;

/// How long one watch request is asked to last. A connection that died unseen is replaced after this.
const WATCH_SECONDS: u64 = 30;
/// What is waited for an event beyond that.
const WATCH_GRACE: Duration = Duration::from_secs(5);
/// Events with `metadata` alone. A server that cannot do so sends the objects whole.
const METADATA_ONLY: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
/// Largest event, in bytes; an object is at most about 3 MiB of JSON.
const MAX_EVENT_BYTES: usize = 16 << 20;

/// The objects that exist now, by namespace (empty for cluster-scoped ones) and name.
pub type Present = BTreeMap<(String, String), Value>;

/// What is watched.
#[derive(Debug, Clone, Copy)]
pub struct Watched<'a> {
    pub resource: &'a Resource,
    pub namespace: Option<&'a str>,
    pub label_selector: &'a str,
    /// `metadata.name=x` for one object.
    pub field_selector: &'a str,
}

impl<'a> Watched<'a> {
    /// All objects of a resource.
    pub fn all(resource: &'a Resource) -> Self {
        Self { resource, namespace: None, label_selector: "", field_selector: "" }
    }

    fn options(&self) -> ListOptions<'a> {
        let Self { resource: _, namespace, label_selector, field_selector } = *self;
        ListOptions { namespace, label_selector, field_selector, ..ListOptions::default() }
    }
}

/// How a wait ended, with the objects as they were then. `Debug` does not show them: they may be Secrets.
pub enum Waited {
    Met(Present),
    /// The deadline came first.
    Late(Present),
}

impl fmt::Debug for Waited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Met(present) => write!(f, "Met({} objects)", present.len()),
            Self::Late(present) => write!(f, "Late({} objects)", present.len()),
        }
    }
}

/// Objects, by namespace (empty for cluster-scoped ones) and name, with a UID each.
pub type Awaited = BTreeMap<(String, String), Box<str>>;

/// Which of the objects that are seen are kept, and how much of each.
#[derive(Clone, Copy, Default)]
struct Filter<'a> {
    /// These alone, and only with the UID that they have here; `None` for all.
    only: Option<&'a Awaited>,
    /// `metadata` without the rest (`PartialObjectMetadata`).
    metadata_only: bool,
}

/// What is kept of the metadata of objects that are only waited for.
const KEPT: [&str; 4] = ["uid", "resourceVersion", "finalizers", "deletionTimestamp"];

/// The objects, and the resourceVersion that they are of.
#[derive(Default)]
struct Seen<'a> {
    present: Present,
    version: String,
    filter: Filter<'a>,
}

/// Why one watch request ended.
enum Ended {
    Met,
    /// Go on from the last resourceVersion.
    Closed,
    /// That version is forgotten: list again.
    Expired,
}

impl ClusterReader {
    /// Waits until `wanted` holds of the objects that exist: asked once at the start, and after every change.
    ///
    /// Goes on over dropped connections and forgotten versions. With an empty set, `wanted` decides as well: that is how
    /// to wait for objects to be gone.
    ///
    /// # Errors
    ///
    /// `NotServed` and `Api` as for a list; connections that fail are tried again until `deadline`, which is `Ok(Late)`.
    pub async fn wait_until(
        &self,
        watched: &Watched<'_>,
        deadline: Instant,
        wanted: impl FnMut(&Present) -> bool,
    ) -> Result<Waited, ClusterError> {
        self.wait(watched, Filter::default(), deadline, wanted).await
    }

    /// As [`Self::wait_until`] for certain objects of a resource: others, and later ones of their names, are not seen.
    ///
    /// Of each object only `metadata` is asked for, and of that uid, resourceVersion, finalizers and deletionTimestamp are kept. They
    /// are looked at once even when `deadline` has passed.
    ///
    /// # Errors
    ///
    /// As [`Self::wait_until`], and `Unreachable` when they could not be looked at.
    pub async fn wait_until_of(
        &self,
        resource: &Resource,
        objects: &Awaited,
        deadline: Instant,
        wanted: impl FnMut(&Present) -> bool,
    ) -> Result<Waited, ClusterError> {
        let filter = Filter { only: Some(objects), metadata_only: true };
        self.wait(&Watched::all(resource), filter, deadline, wanted).await
    }

    async fn wait(
        &self,
        watched: &Watched<'_>,
        filter: Filter<'_>,
        deadline: Instant,
        mut wanted: impl FnMut(&Present) -> bool,
    ) -> Result<Waited, ClusterError> {
        let mut seen = Seen { filter, ..Seen::default() };
        let mut backoff = Backoff::until(deadline);
        loop {
            let look = self.see(watched, filter);
            let looked = match filter.only {
                // However late it is: what is not seen counts as gone.
                Some(_) => Ok(look.await),
                None => timeout_at(deadline, look).await,
            };
            seen = match looked {
                Err(_elapsed) => return Ok(Waited::Late(seen.present)),
                Ok(Err(ClusterError::Unreachable { what, url, source })) if source.is_passing() => {
                    if backoff.wait(None).await {
                        continue;
                    }
                    return match filter.only {
                        Some(_) => Err(ClusterError::Unreachable { what, url, source }),
                        None => Ok(Waited::Late(seen.present)),
                    };
                }
                Ok(listed) => listed?,
            };
            if wanted(&seen.present) {
                return Ok(Waited::Met(seen.present));
            }
            loop {
                match self.follow(watched, &mut seen, deadline, &mut wanted).await? {
                    Ended::Met => return Ok(Waited::Met(seen.present)),
                    _ if Instant::now() >= deadline => return Ok(Waited::Late(seen.present)),
                    Ended::Closed => {}
                    Ended::Expired => break,
                }
            }
        }
    }

    async fn see<'f>(&self, watched: &Watched<'_>, filter: Filter<'f>) -> Result<Seen<'f>, ClusterError> {
        let options = ListOptions { metadata_only: filter.metadata_only, ..watched.options() };
        let listed = self
            .list(watched.resource, options, |item| {
                let (key, object) = keyed(item)?;
                Ok(filter.keeps(&key, &object).then(|| (key, filter.shown(object))))
            })
            .await?;
        Ok(Seen { present: listed.items.into_iter().collect(), version: listed.resource_version, filter })
    }

    /// One watch request, to its end.
    async fn follow(
        &self,
        watched: &Watched<'_>,
        seen: &mut Seen<'_>,
        deadline: Instant,
        wanted: &mut impl FnMut(&Present) -> bool,
    ) -> Result<Ended, ClusterError> {
        let what = || format!("watch {}", watched.resource);
        let call = call(watched, &seen.version, seen.filter.metadata_only)?;
        let head_by = deadline.min(Instant::now() + self.transport.limits().request_timeout);
        let body = match self.transport.open(&call, head_by).await {
            Ok(Ok(response)) => response.into_body(),
            Ok(Err(failure)) => return ended_by(failure, head_by, what()).await,
            Err(lost) if lost.is_passing() => return Ok(pause(head_by).await),
            Err(lost) => return Err(self.transport.lost(lost, what())),
        };
        let opened = Instant::now();
        let end = deadline.min(opened + Duration::from_secs(WATCH_SECONDS) + WATCH_GRACE);
        let mut lines = Lines { body, buffer: BytesMut::new() };
        while let Some(line) = lines.next(end).await {
            let bad = |source| ClusterError::BadAnswer { what: what(), source };
            let event: Event<'_> = serde_json::from_slice(&line).map_err(|error| bad(error.into()))?;
            match seen.apply(event).map_err(bad)? {
                Applied::Changed if wanted(&seen.present) => return Ok(Ended::Met),
                Applied::Changed | Applied::Nothing => {}
                Applied::Failed(failure) => return ended_by(failure, end, what()).await,
            }
        }
        // What ends every watch at once would be asked without a pause.
        if opened.elapsed() < Duration::from_secs(1) { Ok(pause(deadline).await) } else { Ok(Ended::Closed) }
    }
}

/// What a refused or broken-off watch means.
async fn ended_by(failure: ApiFailure, deadline: Instant, what: String) -> Result<Ended, ClusterError> {
    match failure.kind {
        FailureKind::Gone => Ok(Ended::Expired),
        FailureKind::NotFound => Err(ClusterError::NotServed { what }),
        _ if failure.is_passing() => Ok(pause(deadline).await),
        _ => Err(ClusterError::Api { what, failure: Box::new(failure) }),
    }
}

/// A moment before the next request, so that a server that ends every watch at once is not hammered.
async fn pause(deadline: Instant) -> Ended {
    sleep_until(deadline.min(Instant::now() + Duration::from_secs(1))).await;
    Ended::Closed
}

fn call(watched: &Watched<'_>, version: &str, metadata_only: bool) -> Result<Call, ClusterError> {
    let Watched { resource, namespace, label_selector, field_selector } = *watched;
    let mut path = collection_path(resource, namespace)?;
    let pairs = [
        ("watch", "1"),
        ("allowWatchBookmarks", "true"),
        ("labelSelector", label_selector),
        ("fieldSelector", field_selector),
        ("resourceVersion", version),
        ("timeoutSeconds", &WATCH_SECONDS.to_string()),
    ];
    push_query(&mut path, &pairs);
    let whole = Call::get(path);
    Ok(if metadata_only { Call { accept: METADATA_ONLY, ..whole } } else { whole })
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: EventKind,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "UPPERCASE")]
enum EventKind {
    Added,
    Modified,
    Deleted,
    Bookmark,
    Error,
}

enum Applied {
    Changed,
    Nothing,
    Failed(ApiFailure),
}

impl Filter<'_> {
    fn keeps(&self, key: &(String, String), object: &Value) -> bool {
        self.only.is_none_or(|only| {
            let uid = object.pointer("/metadata/uid").and_then(Value::as_str);
            only.get(key).is_some_and(|wanted| uid == Some(wanted))
        })
    }

    /// Of thousands of objects that are waited for, who wrote which of their fields would be most of the memory.
    fn shown(&self, mut object: Value) -> Value {
        if self.metadata_only
            && let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut)
        {
            metadata.retain(|field, _| KEPT.contains(&field.as_str()));
        }
        object
    }
}

impl Seen<'_> {
    fn apply(&mut self, event: Event<'_>) -> Result<Applied, JsonFault> {
        if event.kind == EventKind::Error {
            return Ok(Applied::Failed(ApiFailure::read(200, None, event.object.get().as_bytes())));
        }
        let (key, object) = keyed(event.object)?;
        if let Some(version) = object.pointer("/metadata/resourceVersion").and_then(Value::as_str) {
            version.clone_into(&mut self.version);
        }
        match event.kind {
            EventKind::Bookmark | EventKind::Error => return Ok(Applied::Nothing),
            EventKind::Added | EventKind::Modified if self.filter.keeps(&key, &object) => {
                self.present.insert(key, self.filter.shown(object))
            }
            // Another object has the name: the one that was waited for is gone.
            EventKind::Added | EventKind::Modified => self.present.remove(&key),
            EventKind::Deleted => self.present.remove(&key),
        };
        Ok(Applied::Changed)
    }
}

/// An object under its namespace and name. A bookmark has neither.
fn keyed(item: &RawValue) -> Result<((String, String), Value), JsonFault> {
    let object: Value = serde_json::from_str(item.get())?;
    let text = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(((text("/metadata/namespace"), text("/metadata/name")), object))
}

/// The lines of a streamed body.
struct Lines {
    body: Body,
    buffer: BytesMut,
}

impl Lines {
    /// The next line without its end; `None` when the stream ends, breaks, is silent until `end`, or its line is too long.
    async fn next(&mut self, end: Instant) -> Option<BytesMut> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.buffer[searched..].iter().position(|&byte| byte == b'\n') {
                let line = self.buffer.split_to(searched + at);
                self.buffer.advance(1);
                return Some(line);
            }
            searched = self.buffer.len();
            if searched > MAX_EVENT_BYTES {
                return None;
            }
            let frame = timeout_at(end, self.body.frame()).await.ok()??.ok()?;
            if let Some(data) = frame.data_ref() {
                self.buffer.extend_from_slice(data);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(text: &str, seen: &mut Seen<'_>) -> Applied {
        seen.apply(serde_json::from_str(text).unwrap()).unwrap()
    }

    #[test]
    fn events_add_and_remove_objects_and_move_the_version() {
        let mut seen = Seen { version: "1".to_owned(), ..Seen::default() };
        let added = r#"{"type":"ADDED","object":{"metadata":{"namespace":"a","name":"b","resourceVersion":"2"}}}"#;
        assert!(matches!(event(added, &mut seen), Applied::Changed));
        assert_eq!((seen.present.len(), seen.version.as_str()), (1, "2"));
        let bookmark = r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"5"}}}"#;
        assert!(matches!(event(bookmark, &mut seen), Applied::Nothing));
        assert_eq!((seen.present.len(), seen.version.as_str()), (1, "5"));
        let deleted = r#"{"type":"DELETED","object":{"metadata":{"namespace":"a","name":"b","resourceVersion":"6"}}}"#;
        event(deleted, &mut seen);
        assert!(seen.present.is_empty());
    }

    #[test]
    fn an_object_that_is_waited_for_is_gone_when_another_has_its_name_and_others_are_not_kept() {
        let key = |name: &str| (String::new(), name.to_owned());
        let only = Awaited::from([(key("a"), "1".into())]);
        let filter = Filter { only: Some(&only), metadata_only: true };
        let mut seen = Seen { filter, ..Seen::default() };
        let object = |kind: &str, name: &str, uid: &str| {
            format!(r#"{{"type":"{kind}","object":{{"metadata":{{"name":"{name}","uid":"{uid}"}}}}}}"#)
        };
        event(&object("ADDED", "a", "1"), &mut seen);
        event(&object("ADDED", "b", "1"), &mut seen);
        assert_eq!(seen.present.keys().collect::<Vec<_>>(), [&key("a")]);
        event(&object("ADDED", "a", "2"), &mut seen);
        assert!(seen.present.is_empty());
    }

    #[test]
    fn an_error_event_is_known_by_the_code_in_it() {
        let text = r#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}"#;
        let Applied::Failed(failure) = event(text, &mut Seen::default()) else { panic!("not failed") };
        assert_eq!(failure.kind, FailureKind::Gone);
    }

    #[tokio::test]
    async fn lines_are_found_across_frames() {
        let mut lines = Lines { body: Body::from(b"a\nbc\nd".to_vec()), buffer: BytesMut::new() };
        let end = Instant::now() + Duration::from_secs(5);
        assert_eq!(lines.next(end).await.unwrap(), "a");
        assert_eq!(lines.next(end).await.unwrap(), "bc");
        assert!(lines.next(end).await.is_none());
    }
}
