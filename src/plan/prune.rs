//! What prune deletes, and what goes along with it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{DeleteWave, Deletion, diff};
use crate::object::ObjectKey;
use crate::object::owner::WantedOwners;
use crate::object::protect::{Protection, protection, sheltered};
use crate::observed::{Backup, Dependent, LiveObject, Observed};

/// Deletions in their order, and what protection spared.
#[derive(Debug, Default)]
pub struct Pruned {
    pub deletions: Vec<Deletion>,
    pub spared: Vec<(ObjectKey, Protection)>,
}

/// Every live object that a selector of the backup matches and the backup does not have. What a deletion takes along is
/// another look away ([`take_along`]).
pub fn prune(backup: &Backup, observed: &Observed) -> Pruned {
    let (candidates, spared) = candidates(backup, observed);
    let mut deletions: Vec<Deletion> = candidates
        .into_iter()
        .map(|live| Deletion {
            live,
            wave: wave(&observed.live.objects[live as usize], observed),
            takes_along: Vec::new(),
        })
        .collect();
    // So that the order of the lists changes neither plan nor digest.
    deletions.sort_by(|a, b| {
        let key = |deletion: &Deletion| &observed.live.objects[deletion.live as usize].key;
        (a.wave, key(a)).cmp(&(b.wave, key(b)))
    });
    Pruned { deletions, spared }
}

/// Indexes of the live objects to delete, and the protected ones.
fn candidates(backup: &Backup, observed: &Observed) -> (Vec<u32>, Vec<(ObjectKey, Protection)>) {
    if backup.selectors.is_none() {
        return (Vec::new(), Vec::new());
    }
    let kept: HashSet<Identity<'_>> = backup.objects.iter().map(|object| identity(&object.key)).collect();
    let needed = Needed::new(backup);
    let mut seen = HashSet::new();
    let mut candidates = Vec::new();
    let mut spared = Vec::new();
    for (index, object) in (0..).zip(&observed.live.objects) {
        let identity = identity(&object.key);
        // Two selectors may list one object at two versions.
        if !object.selected || kept.contains(&identity) || !seen.insert(identity) {
            continue;
        }
        let protection = protection(&object.key, &object.summary, true, &observed.guarded)
            .or_else(|| sheltered(&object.key, &observed.guarded))
            .or_else(|| needed.holds(object).then_some(Protection::Needed))
            .or_else(|| is_default_account(&object.key).then_some(Protection::ComesWithNamespace));
        match protection {
            Some(protection) => spared.push((object.key.clone(), protection)),
            None => candidates.push(index),
        }
    }
    (candidates, spared)
}

fn is_default_account(key: &ObjectKey) -> bool {
    key.resource.is("", "serviceaccounts") && key.name.as_ref() == "default"
}

/// Group, plural, namespace and name: an object is the same one at another version.
type Identity<'a> = (&'a str, &'a str, Option<&'a str>, &'a str);

fn identity(key: &ObjectKey) -> Identity<'_> {
    (&key.resource.group, &key.resource.plural, key.namespace.as_deref(), &key.name)
}

/// What objects of the backup cannot be without: a deletion of it would take along what was just written.
struct Needed<'a> {
    namespaces: HashSet<&'a str>,
    types: HashSet<(&'a str, &'a str)>,
    owners: WantedOwners,
}

impl<'a> Needed<'a> {
    fn new(backup: &'a Backup) -> Self {
        let keys = || backup.objects.iter().map(|object| &object.key);
        Self {
            namespaces: keys().filter_map(|key| key.namespace.as_deref()).collect(),
            types: keys().map(|key| (key.resource.group.as_str(), key.resource.plural.as_str())).collect(),
            owners: diff::wanted(backup),
        }
    }

    fn holds(&self, object: &LiveObject) -> bool {
        let crd = object.summary.particulars().crd.as_deref();
        object.key.resource.is_namespace() && self.namespaces.contains(object.key.name.as_ref())
            || crd.is_some_and(|crd| self.types.contains(&(crd.group.as_str(), crd.plural.as_str())))
            || self.owners.contains(&object.key, &object.summary.kind)
    }
}

fn wave(object: &LiveObject, observed: &Observed) -> DeleteWave {
    let resource = object.key.resource.as_ref();
    if resource.is_crd() {
        return DeleteWave::Crds;
    }
    if resource.is_namespace() {
        return DeleteWave::Namespaces;
    }
    let custom = observed.live.served.types.get(resource).is_some_and(|kind| kind.custom);
    match (custom, &object.key.namespace) {
        (true, _) => DeleteWave::CustomResources,
        (false, Some(_)) => DeleteWave::Namespaced,
        (false, None) => DeleteWave::ClusterScoped,
    }
}

/// Fills in what each deletion takes along, each object counted once, with the first deletion that reaches it.
///
/// An object with several owners is counted as soon as one of them goes: rather too much is said than too little.
pub fn take_along(deletions: &mut [Deletion], observed: &Observed) {
    let objects = &observed.live.objects;
    // Dependents are listed at the version that the server prefers, which need not be the backup's.
    let deleted: HashSet<Identity<'_>> =
        deletions.iter().map(|deletion| identity(&objects[deletion.live as usize].key)).collect();
    let reach = Reach::new(&observed.live.dependents);
    let mut seen: HashSet<&ObjectKey> = HashSet::new();
    for deletion in deletions {
        let object = &objects[deletion.live as usize];
        let mut along = reach.from(object, &mut seen);
        along.retain(|key| !deleted.contains(&identity(key)));
        along.sort();
        deletion.takes_along = along;
    }
}

/// Finds what a deletion reaches: by owner, by namespace, by definition.
struct Reach<'a> {
    by_owner: HashMap<&'a str, Vec<&'a Dependent>>,
    by_namespace: HashMap<&'a str, Vec<&'a Dependent>>,
    /// By group and plural.
    by_type: HashMap<(&'a str, &'a str), Vec<&'a Dependent>>,
}

impl<'a> Reach<'a> {
    fn new(dependents: &'a [Dependent]) -> Self {
        let mut reach = Self { by_owner: HashMap::new(), by_namespace: HashMap::new(), by_type: HashMap::new() };
        for dependent in dependents {
            for owner in &dependent.owners {
                reach.by_owner.entry(owner).or_default().push(dependent);
            }
            if let Some(namespace) = &dependent.key.namespace {
                reach.by_namespace.entry(namespace).or_default().push(dependent);
            }
            let resource: &Arc<_> = &dependent.key.resource;
            reach.by_type.entry((&resource.group, &resource.plural)).or_default().push(dependent);
        }
        reach
    }

    /// What is not in `seen` yet, which grows by it.
    fn from(&self, object: &LiveObject, seen: &mut HashSet<&'a ObjectKey>) -> Vec<ObjectKey> {
        let mut found = Vec::new();
        let mut next = self.directly(&object.key, &object.facts.uid);
        while let Some(dependent) = next.pop() {
            if seen.insert(&dependent.key) {
                found.push(dependent.key.clone());
                next.extend(self.directly(&dependent.key, &dependent.uid));
            }
        }
        found
    }

    fn directly(&self, key: &ObjectKey, uid: &str) -> Vec<&'a Dependent> {
        let of_namespace = key.resource.is_namespace().then(|| self.by_namespace.get(key.name.as_ref())).flatten();
        // A definition's name is `<plural>.<group>`; the API server sees to it.
        let defined = key.name.split_once('.').filter(|_| key.resource.is_crd());
        let of_type = defined.and_then(|(plural, group)| self.by_type.get(&(group, plural)));
        let found = [self.by_owner.get(uid), of_namespace, of_type];
        found.into_iter().flatten().flatten().copied().collect()
    }
}
