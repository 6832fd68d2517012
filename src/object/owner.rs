//! Owner references: an owner is found again by group, kind and name, since its UID is another after a restore.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::Value;

use super::{Interner, ObjectError, ObjectKey};

/// One owner reference. Whether the owner is namespaced is not in it: it lies beside its dependent, or in no namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// API group; the version is left out, for an owner stored at another version is the same owner.
    pub group: Arc<str>,
    pub kind: Arc<str>,
    pub name: Arc<str>,
    pub uid: Arc<str>,
    /// The owner is the one that manages the object.
    pub controller: bool,
    /// The owner's deletion in the foreground waits for the object.
    pub blocks_deletion: bool,
}

/// Names an owner as its dependents see it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OwnerId {
    pub group: Arc<str>,
    pub kind: Arc<str>,
    /// The namespace of the owner, `None` when it is cluster-scoped.
    pub namespace: Option<Arc<str>>,
    pub name: Arc<str>,
}

impl OwnerId {
    /// Names an object as its dependents would.
    pub fn of(key: &ObjectKey, kind: &Arc<str>) -> Self {
        Self {
            group: Arc::from(key.resource.group.as_str()),
            kind: Arc::clone(kind),
            namespace: key.namespace.clone(),
            name: Arc::clone(&key.name),
        }
    }
}

impl Owner {
    /// The same reference, whatever UID it was written with.
    fn is(&self, other: &Self) -> bool {
        let Self { group, kind, name, uid: _, controller, blocks_deletion } = self;
        (group, kind, name, controller, blocks_deletion)
            == (&other.group, &other.kind, &other.name, &other.controller, &other.blocks_deletion)
    }

    /// The owner in the dependent's namespace, and the cluster-scoped one of that name.
    pub fn candidates(&self, namespace: Option<&Arc<str>>) -> impl Iterator<Item = OwnerId> {
        let id = |namespace| OwnerId {
            group: Arc::clone(&self.group),
            kind: Arc::clone(&self.kind),
            namespace,
            name: Arc::clone(&self.name),
        };
        namespace.map(|namespace| id(Some(Arc::clone(namespace)))).into_iter().chain([id(None)])
    }
}

/// Owners that are looked for. Most objects are of a kind that is none's owner, and are passed over by it.
#[derive(Debug, Clone, Default)]
pub struct WantedOwners {
    ids: HashSet<OwnerId>,
    kinds: HashSet<Arc<str>>,
}

impl FromIterator<OwnerId> for WantedOwners {
    fn from_iter<I: IntoIterator<Item = OwnerId>>(all: I) -> Self {
        let ids: HashSet<OwnerId> = all.into_iter().collect();
        let kinds = ids.iter().map(|id| Arc::clone(&id.kind)).collect();
        Self { ids, kinds }
    }
}

impl WantedOwners {
    pub fn iter(&self) -> impl Iterator<Item = &OwnerId> {
        self.ids.iter()
    }

    pub fn has(&self, id: &OwnerId) -> bool {
        self.ids.contains(id)
    }

    /// What an object is called as an owner, where it is wanted as one.
    pub fn find(&self, key: &ObjectKey, kind: &Arc<str>) -> Option<OwnerId> {
        if !self.kinds.contains(kind) {
            return None;
        }
        Some(OwnerId::of(key, kind)).filter(|id| self.ids.contains(id))
    }

    pub fn contains(&self, key: &ObjectKey, kind: &Arc<str>) -> bool {
        self.find(key, kind).is_some()
    }
}

/// Whether the live references are those of the backup, each with the UID that its owner has now.
///
/// `uid` says `None` of an owner that is nowhere: its reference is dropped by the write, so it must not be live.
pub fn lead_home<'u>(backup: &[Owner], live: &[Owner], uid: impl Fn(&Owner) -> Option<&'u str>) -> bool {
    let mut wanted = 0;
    for owner in backup {
        let Some(uid) = uid(owner) else { continue };
        wanted += 1;
        if !live.iter().any(|live| live.is(owner) && *live.uid == *uid) {
            return false;
        }
    }
    wanted == live.len()
}

/// Reads `metadata.ownerReferences`.
///
/// # Errors
///
/// When they are not a list of references with apiVersion, kind, name and uid.
pub fn read(metadata: Option<&Value>, interner: &mut Interner) -> Result<Arc<[Owner]>, ObjectError> {
    let Some(references) = metadata.and_then(|metadata| metadata.get("ownerReferences")) else {
        return Ok(Arc::default());
    };
    if references.is_null() {
        return Ok(Arc::default());
    }
    let malformed = ObjectError::Malformed { field: "metadata.ownerReferences", expected: "a list of references" };
    let references = references.as_array().ok_or_else(|| malformed.clone())?;
    references.iter().map(|reference| read_one(reference, interner).ok_or_else(|| malformed.clone())).collect()
}

fn read_one(reference: &Value, interner: &mut Interner) -> Option<Owner> {
    let text = |field: &str| reference.get(field).and_then(Value::as_str);
    let flag = |field: &str| reference.get(field).and_then(Value::as_bool).unwrap_or_default();
    Some(Owner {
        controller: flag("controller"),
        blocks_deletion: flag("blockOwnerDeletion"),
        group: interner.text(group_of(text("apiVersion")?)),
        kind: interner.text(text("kind")?),
        name: interner.text(text("name")?),
        uid: interner.text(text("uid")?),
    })
}

/// The group of an `apiVersion`; empty for the core group.
pub fn group_of(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}
