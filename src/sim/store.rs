//! Objects, the revision that each was written at, and what changed since: etcd and the watch cache in one, and pure.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use serde_json::Value;

use super::meta;

/// Counts writes; the `resourceVersion` of an object is the revision of its last one.
pub type Revision = u64;

/// Where an object lies: the type under which it is stored, such as `deployments.apps`, and `namespace/name` or `name`.
///
/// Ordered as etcd orders: by the whole path, so that `a-b/x` comes before `a/x`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub of: Arc<str>,
    pub path: String,
}

impl Key {
    pub fn new(of: &Arc<str>, namespace: Option<&str>, name: &str) -> Self {
        let path = match namespace {
            Some(namespace) => format!("{namespace}/{name}"),
            None => name.to_owned(),
        };
        Self { of: Arc::clone(of), path }
    }

    pub fn namespace(&self) -> Option<&str> {
        self.path.split_once('/').map(|(namespace, _)| namespace)
    }

    pub fn name(&self) -> &str {
        self.path.rsplit_once('/').map_or(&self.path, |(_, name)| name)
    }

    pub fn is(&self, of: &str) -> bool {
        *self.of == *of
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.of, self.path)
    }
}

/// One write. `before` is missing for an object that is new, `after` for one that is gone.
#[derive(Debug, Clone)]
pub struct Change {
    pub revision: Revision,
    pub key: Key,
    pub before: Option<Arc<Value>>,
    pub after: Option<Arc<Value>>,
}

/// The revision asked for is forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forgotten;

type Objects = BTreeMap<String, Arc<Value>>;

#[derive(Default)]
pub struct Store {
    revision: Revision,
    types: BTreeMap<Arc<str>, Objects>,
    history: VecDeque<Change>,
    /// Changes up to this one are forgotten.
    forgotten: Revision,
}

impl Store {
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The last revision that is forgotten.
    pub fn forgotten(&self) -> Revision {
        self.forgotten
    }

    pub fn get(&self, key: &Key) -> Option<&Arc<Value>> {
        self.types.get(&key.of)?.get(&key.path)
    }

    /// The objects of a type, in order.
    pub fn all(&self, of: &str) -> impl Iterator<Item = (&String, &Arc<Value>)> {
        self.types.get(of).into_iter().flatten()
    }

    /// The objects of a type in a namespace, in order.
    pub fn within(&self, of: &str, namespace: &str) -> impl Iterator<Item = (&String, &Arc<Value>)> {
        let (first, end) = (format!("{namespace}/"), format!("{namespace}0"));
        let range = (Bound::Included(first), Bound::Excluded(end));
        self.types.get(of).into_iter().flat_map(move |objects| objects.range(range.clone()))
    }

    /// The types of which there are objects.
    pub fn types(&self) -> impl Iterator<Item = &Arc<str>> {
        self.types.iter().filter(|(_, objects)| !objects.is_empty()).map(|(of, _)| of)
    }

    /// The objects of a type as they were at a revision.
    pub fn at(&self, of: &str, revision: Revision) -> Result<Cow<'_, Objects>, Forgotten> {
        let mut later = self.since(revision)?.rev().filter(|change| change.key.is(of)).peekable();
        let objects = self.types.get(of).map_or_else(|| Cow::Owned(Objects::default()), Cow::Borrowed);
        if later.peek().is_none() {
            return Ok(objects);
        }
        let mut objects = objects.into_owned();
        for change in later {
            match &change.before {
                Some(before) => objects.insert(change.key.path.clone(), Arc::clone(before)),
                None => objects.remove(&change.key.path),
            };
        }
        Ok(Cow::Owned(objects))
    }

    /// The changes after a revision, in order.
    pub fn since(&self, revision: Revision) -> Result<impl DoubleEndedIterator<Item = &Change>, Forgotten> {
        if revision < self.forgotten {
            return Err(Forgotten);
        }
        let first = self.history.partition_point(|change| change.revision <= revision);
        Ok(self.history.range(first..))
    }

    /// Writes an object, with the new revision in it.
    pub fn put(&mut self, key: Key, mut object: Value) -> Arc<Value> {
        self.revision += 1;
        *meta::at(&mut object, &["metadata", "resourceVersion"]) = self.revision.to_string().into();
        let object = Arc::new(object);
        let objects = self.types.entry(Arc::clone(&key.of)).or_default();
        let before = objects.insert(key.path.clone(), Arc::clone(&object));
        let after = Some(Arc::clone(&object));
        self.history.push_back(Change { revision: self.revision, key, before, after });
        object
    }

    /// Removes an object, and gives what it was.
    pub fn remove(&mut self, key: &Key) -> Option<Arc<Value>> {
        let before = self.types.get_mut(&key.of)?.remove(&key.path)?;
        self.revision += 1;
        let gone = Some(Arc::clone(&before));
        self.history.push_back(Change { revision: self.revision, key: key.clone(), before: gone, after: None });
        Some(before)
    }

    /// Forgets the changes up to a revision, as etcd compacts.
    pub fn forget(&mut self, up_to: Revision) {
        let kept = self.history.partition_point(|change| change.revision <= up_to);
        self.history.drain(..kept);
        self.forgotten = self.forgotten.max(up_to.min(self.revision));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(path: &str) -> Key {
        Key { of: Arc::from("configmaps"), path: path.to_owned() }
    }

    fn paths(objects: &Objects) -> Vec<&str> {
        objects.keys().map(String::as_str).collect()
    }

    #[test]
    fn objects_are_seen_as_they_were_at_a_revision() {
        let mut store = Store::default();
        store.put(key("a/x"), json!({"data": 1}));
        store.put(key("a/y"), json!({"data": 1}));
        store.put(key("a/x"), json!({"data": 2}));
        store.remove(&key("a/y"));
        store.put(key("a/z"), json!({"data": 1}));
        assert_eq!(paths(&store.at("configmaps", 5).unwrap()), ["a/x", "a/z"]);
        let earlier = store.at("configmaps", 2).unwrap();
        assert_eq!(paths(&earlier), ["a/x", "a/y"]);
        assert_eq!((&earlier["a/x"]["data"], &earlier["a/x"]["metadata"]["resourceVersion"]), (&json!(1), &json!("1")));
        assert_eq!(paths(&store.at("configmaps", 0).unwrap()), [""; 0]);
    }

    #[test]
    fn what_is_forgotten_cannot_be_asked_for_and_the_rest_can() {
        let mut store = Store::default();
        for n in 0..5 {
            store.put(key("a/x"), json!({"data": n}));
        }
        store.forget(3);
        assert_eq!(store.at("configmaps", 2).err(), Some(Forgotten));
        assert_eq!(store.since(3).unwrap().map(|change| change.revision).collect::<Vec<_>>(), [4, 5]);
        assert_eq!(store.at("configmaps", 3).unwrap()["a/x"]["data"], 2);
        store.forget(9);
        assert_eq!(store.forgotten(), 5);
    }

    #[test]
    fn a_namespace_holds_its_own_and_order_is_that_of_paths() {
        let mut store = Store::default();
        for path in ["a/x", "a-b/x", "a/y", "a0/x"] {
            store.put(key(path), json!({}));
        }
        assert_eq!(store.within("configmaps", "a").map(|(path, _)| path.as_str()).collect::<Vec<_>>(), ["a/x", "a/y"]);
        let all: Vec<_> = store.all("configmaps").map(|(path, _)| path.as_str()).collect();
        assert_eq!(all, ["a-b/x", "a/x", "a/y", "a0/x"]);
        assert_eq!((key("a/x").namespace(), key("a/x").name(), key("x").namespace()), (Some("a"), "x", None));
    }
}
