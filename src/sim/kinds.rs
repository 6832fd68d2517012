//! What is served: the built-in resources, and those that definitions add.

mod built_in;
mod custom;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use crate::object::Resource;

pub use custom::{Schema, version_order};

/// Of what can be stored.
pub const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// A kind of object, at all versions at which it is served.
#[derive(Debug, Clone)]
pub struct Kind {
    /// Empty for the core group.
    pub group: String,
    pub plural: String,
    pub singular: String,
    pub kind: String,
    pub list_kind: String,
    pub namespaced: bool,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    /// The preferred one first.
    pub versions: Vec<Version>,
    pub verbs: &'static [&'static str],
    /// The type under which its objects are stored: `deployments.apps`.
    pub stored: Arc<str>,
    pub rules: Rules,
}

/// In what kinds differ.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rules {
    /// Whether a definition made it: then its items in lists say what they are.
    pub custom: bool,
    /// Whether `metadata.generation` counts changes.
    pub counts: bool,
    /// Whether a PUT makes an object that is not there.
    pub made_by_put: bool,
    /// Whether an update must carry a resourceVersion.
    pub needs_version: bool,
    /// Whether a deletion answers with the object, and not with a `Status`.
    pub returned: bool,
    /// How names are checked.
    pub names: Names,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Names {
    #[default]
    Subdomain,
    Label,
    /// What can stand in a path, as in RBAC.
    Segment,
}

#[derive(Debug, Clone)]
pub struct Version {
    pub name: String,
    /// Whether it has the subresource `status`, the only one that is served.
    pub status: bool,
    /// Of custom resources.
    pub schema: Option<Arc<Schema>>,
}

impl Kind {
    /// `secrets` or `clusters.management.cattle.io`, as messages name it.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// Whether its objects are kept, and not only answered as reviews are.
    pub fn is_stored(&self) -> bool {
        self.verbs.contains(&"get")
    }

    pub fn version(&self, name: &str) -> Option<&Version> {
        self.versions.iter().find(|version| version.name == name)
    }

    pub fn api_version(&self, version: &str) -> String {
        Resource::new(&self.group, version, "").api_version()
    }
}

/// All kinds that are served, by group and plural.
pub struct Kinds {
    kinds: BTreeMap<(String, String), Arc<Kind>>,
    /// Kinds that are served, and not yet told by discovery.
    untold: BTreeSet<(String, String)>,
}

impl Kinds {
    pub fn built_in() -> Self {
        let kinds = built_in::kinds().map(|kind| ((kind.group.clone(), kind.plural.clone()), Arc::new(kind)));
        Self { kinds: kinds.collect(), untold: BTreeSet::new() }
    }

    pub fn all(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.kinds.values()
    }

    /// The kinds that discovery tells.
    pub fn told(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.kinds.iter().filter(|(key, _)| !self.untold.contains(*key)).map(|(_, kind)| kind)
    }

    pub fn find(&self, group: &str, plural: &str) -> Option<&Arc<Kind>> {
        self.kinds.get(&(group.to_owned(), plural.to_owned()))
    }

    /// The kind that is served at this very group and version.
    pub fn served(&self, resource: &Resource) -> Option<&Arc<Kind>> {
        let kind = self.find(&resource.group, &resource.plural)?;
        kind.version(&resource.version).is_some().then_some(kind)
    }

    /// The kind that an object says it is of, and its version.
    pub fn of_object<'a>(&self, api_version: &'a str, kind: &str) -> Option<(&Arc<Kind>, &'a str)> {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        let storable = |found: &&Arc<Kind>| found.is_stored();
        let found = self.all().filter(storable).find(|found| found.group == group && found.kind == kind)?;
        found.version(version).is_some().then_some((found, version))
    }

    /// The kind whose objects are stored under a type.
    pub fn of_stored(&self, stored: &str) -> Option<&Arc<Kind>> {
        self.all().find(|kind| *kind.stored == *stored)
    }

    /// The groups that discovery tells.
    pub fn groups(&self) -> Vec<&str> {
        let mut groups: Vec<&str> = self.told().map(|kind| kind.group.as_str()).collect();
        groups.dedup();
        groups
    }

    /// Serves what a definition defines, as it is now. Discovery tells of what is new when it is [announced](Self::announce).
    pub fn define(&mut self, definition: &Value) {
        if let Some(kind) = custom::kind(definition) {
            let key = (kind.group.clone(), kind.plural.clone());
            if self.kinds.insert(key.clone(), Arc::new(kind)).is_none() {
                self.untold.insert(key);
            }
        }
    }

    /// Lets discovery tell of what a definition of this name (`plural.group`) defined.
    pub fn announce(&mut self, name: &str) {
        if let Some((plural, group)) = name.split_once('.') {
            self.untold.remove(&(group.to_owned(), plural.to_owned()));
        }
    }

    /// No longer serves what a definition of this name (`plural.group`) defined.
    pub fn undefine(&mut self, name: &str) {
        if let Some((plural, group)) = name.split_once('.') {
            let key = (group.to_owned(), plural.to_owned());
            if self.kinds.get(&key).is_some_and(|kind| kind.rules.custom) {
                self.kinds.remove(&key);
                self.untold.remove(&key);
            }
        }
    }
}
