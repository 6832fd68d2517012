//! Watches: the changes of a kind, as they come.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use serde_json::{Value, json};

use super::failure::Failure;
use super::kinds::Kind;
use super::selector::Selector;
use super::store::{Change, Revision};
use super::world::World;
use super::{list, meta};
use crate::object::Resource;

/// How often a watch that asked for them gets a bookmark (apiserver, `defaultBookmarkFrequency`).
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// How long before its end a watch gets its last one.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);

/// A watch that was asked for, and how far it has got.
pub struct Watch {
    pub kind: Arc<Kind>,
    pub version: String,
    pub namespace: Option<String>,
    pub selector: Selector,
    pub metadata_only: bool,
    /// Since the start of the world.
    pub end: Duration,
    pub next_bookmark: Option<Duration>,
    /// The last revision whose changes were told; `None` when what is there is told first.
    pub position: Option<Revision>,
}

/// What a watch has to say now.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// Events, a line each.
    Lines(Bytes),
    /// Nothing until something changes, or until then.
    Nothing { until: Duration },
    /// Events, and then no more.
    Last(Bytes),
}

impl Watch {
    /// The first bookmark of a watch that begins now and ends then.
    pub fn first_bookmark(now: Duration, end: Duration) -> Duration {
        (now + BOOKMARK_EVERY).min(end.saturating_sub(LAST_BOOKMARK).max(now))
    }

    pub fn say(&mut self, world: &World) -> Said {
        let Kind { group, plural, .. } = &*self.kind;
        let resource = Resource::new(group, &self.version, plural);
        let now = world.elapsed();
        if world.kinds.served(&resource).is_none() {
            return Said::Last(Bytes::new());
        }
        let mut lines = BytesMut::new();
        match self.position {
            None => self.tell_present(world, &mut lines),
            Some(position) => match world.store.since(position) {
                Ok(changes) => changes.for_each(|change| self.tell(change, &mut lines)),
                Err(_forgotten) => {
                    let oldest = world.store.forgotten();
                    let why = format!("too old resource version: {position} ({oldest})");
                    event(
                        &mut lines,
                        "ERROR",
                        &serde_json::to_vec(&Failure::expired(&why).into_value()).unwrap_or_default(),
                    );
                    return Said::Last(lines.freeze());
                }
            },
        }
        self.position = Some(world.store.revision());
        if self.next_bookmark.is_some_and(|at| at <= now) {
            self.bookmark(world.store.revision(), &mut lines);
            self.next_bookmark = Some(now + BOOKMARK_EVERY);
        }
        if self.end <= now {
            return Said::Last(lines.freeze());
        }
        if !lines.is_empty() {
            return Said::Lines(lines.freeze());
        }
        Said::Nothing { until: self.next_bookmark.map_or(self.end, |bookmark| bookmark.min(self.end)) }
    }

    fn tell_present(&self, world: &World, lines: &mut BytesMut) {
        let prefix = self.namespace.as_deref().map(|namespace| format!("{namespace}/")).unwrap_or_default();
        let all = world.store.all(&self.kind.stored).filter(|(path, _)| path.starts_with(&prefix));
        for (_, object) in all.filter(|(_, object)| self.selector.matches(object)) {
            event(lines, "ADDED", &self.shown(object));
        }
    }

    fn shown(&self, object: &Value) -> Bytes {
        match self.metadata_only {
            true => list::metadata_of(object),
            false => list::one(&self.kind, &self.version, object),
        }
    }

    fn tell(&self, change: &Change, lines: &mut BytesMut) {
        let Change { revision, key, before, after } = change;
        if key.of != self.kind.stored || self.namespace.is_some() && self.namespace.as_deref() != key.namespace() {
            return;
        }
        let chosen = |object: &Option<Arc<Value>>| object.clone().filter(|object| self.selector.matches(object));
        let (kind, object) = match (chosen(before), chosen(after)) {
            (None, None) => return,
            (None, Some(after)) => ("ADDED", after),
            (Some(_), Some(after)) => ("MODIFIED", after),
            // Also one that is there and no longer chosen: as it was, at the revision of its end.
            (Some(before), None) => {
                let mut last = (*before).clone();
                *meta::at(&mut last, &["metadata", "resourceVersion"]) = revision.to_string().into();
                ("DELETED", Arc::new(last))
            }
        };
        event(lines, kind, &self.shown(&object));
    }

    fn bookmark(&self, revision: Revision, lines: &mut BytesMut) {
        let (kind, api_version) = match self.metadata_only {
            true => ("PartialObjectMetadata", "meta.k8s.io/v1".to_owned()),
            false => (self.kind.kind.as_str(), self.kind.api_version(&self.version)),
        };
        let object = json!({
            "kind": kind, "apiVersion": api_version,
            "metadata": {"resourceVersion": revision.to_string()},
        });
        event(lines, "BOOKMARK", object.to_string().as_bytes());
    }
}

fn event(lines: &mut BytesMut, kind: &str, object: &[u8]) {
    lines.put_slice(format!(r#"{{"type":"{kind}","object":"#).as_bytes());
    lines.put_slice(object);
    lines.put_slice(b"}\n");
}
