//! What prune deletes, and what goes along with it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use super::{DeleteWave, Deletion};
use crate::object::ObjectKey;
use crate::object::protect::{Protection, protection};
use crate::observed::{Backup, Dependent, LiveObject, Observed};

/// Deletions in their order, and what protection spared.
#[derive(Debug, Default)]
pub struct Pruned {
    pub deletions: Vec<Deletion>,
    pub spared: Vec<(ObjectKey, Protection)>,
}

/// Every live object that a selector of the backup matches and the backup does not have.
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
    take_along(&mut deletions, observed);
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
    let kept: HashSet<&ObjectKey> = backup.objects.iter().map(|object| &object.key).collect();
    let mut candidates = Vec::new();
    let mut spared = Vec::new();
    for (index, object) in (0..).zip(&observed.live.objects) {
        if !object.selected || kept.contains(&object.key) {
            continue;
        }
        match protection(&object.key, &object.summary, true, &observed.guarded) {
            Some(protection) => spared.push((object.key.clone(), protection)),
            None => candidates.push(index),
        }
    }
    (candidates, spared)
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
fn take_along(deletions: &mut [Deletion], observed: &Observed) {
    let objects = &observed.live.objects;
    let deleted: HashSet<ObjectKey> =
        deletions.iter().map(|deletion| objects[deletion.live as usize].key.clone()).collect();
    let reach = Reach::new(&observed.live.dependents);
    let mut seen: HashSet<&ObjectKey> = HashSet::new();
    for deletion in deletions {
        let object = &objects[deletion.live as usize];
        for dependent in reach.from(object) {
            if !deleted.contains(&dependent.key) && seen.insert(&dependent.key) {
                deletion.takes_along.push(dependent.key.clone());
            }
        }
        deletion.takes_along.sort();
    }
}

/// Finds what a deletion reaches: by owner, by namespace, by definition.
struct Reach<'a> {
    by_owner: HashMap<&'a str, Vec<&'a Dependent>>,
    by_namespace: HashMap<&'a str, Vec<&'a Dependent>>,
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

    fn from(&self, object: &LiveObject) -> Vec<&'a Dependent> {
        let mut found: Vec<&Dependent> = Vec::new();
        let mut next: VecDeque<&Dependent> = self.directly(object).into();
        let mut seen: HashSet<&ObjectKey> = HashSet::new();
        while let Some(dependent) = next.pop_front() {
            if seen.insert(&dependent.key) {
                found.push(dependent);
                next.extend(self.by_owner.get(dependent.uid.as_ref()).into_iter().flatten());
            }
        }
        found
    }

    fn directly(&self, object: &LiveObject) -> Vec<&'a Dependent> {
        let owned = self.by_owner.get(object.facts.uid.as_ref()).into_iter().flatten();
        let mut found: Vec<&Dependent> = owned.copied().collect();
        if object.key.resource.is_namespace() {
            found.extend(self.by_namespace.get(object.key.name.as_ref()).into_iter().flatten());
        }
        if let Some(crd) = &object.summary.crd {
            found.extend(self.by_type.get(&(crd.group.as_str(), crd.plural.as_str())).into_iter().flatten());
        }
        found
    }
}
