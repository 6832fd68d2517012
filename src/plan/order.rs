//! The order of writes: CRDs, cluster-scoped, namespaced; in each, owners that get a UID by it before what they own. An
//! owner that is live keeps its UID, so that nothing waits for it. Webhook configurations come last of all.

use std::collections::HashMap;

use super::Item;
use crate::object::ObjectKey;
use crate::object::owner::OwnerId;
use crate::observed::Backup;

/// Ordered items, and those that come before an owner.
#[derive(Debug, Default)]
pub struct Ordered {
    pub items: Vec<Item>,
    pub cycles: Vec<ObjectKey>,
}

/// Gives each item its depth and sorts by step, depth and the order of the backup; webhook configurations come last. Where
/// owners wait for one another, the reference that closes the circle counts for nothing: its object goes ahead.
///
/// `items` are all of the backup's, in its order, as [`super::diff::diff`] makes them.
pub fn order(backup: &Backup, mut items: Vec<Item>) -> Ordered {
    let mut parents = parents(backup, &items);
    let ahead = open_circles(&mut parents);
    let depths = depths(&parents);
    let last = depths.iter().max().copied().unwrap_or_default();
    let mut cycles = Vec::new();
    for ((item, depth), ahead) in items.iter_mut().zip(depths).zip(ahead) {
        item.depth = depth;
        item.ahead = ahead;
        if ahead {
            cycles.push(backup.objects[item.backup as usize].key.clone());
        }
        if backup.objects[item.backup as usize].key.resource.is_webhook_configuration() {
            item.depth = last.saturating_add(1);
        }
    }
    items.sort_by_key(|item| (item.step, item.depth, item.backup));
    Ordered { items, cycles }
}

/// Takes out the parents that close a circle, and says whose they were.
fn open_circles(parents: &mut [Vec<u32>]) -> Vec<bool> {
    #[derive(Clone, Copy, PartialEq)]
    enum Seen {
        Not,
        /// Somewhere above the one that is looked at.
        Above,
        Done,
    }
    let mut seen = vec![Seen::Not; parents.len()];
    let mut ahead = vec![false; parents.len()];
    // A chain of owners may be as long as the backup has objects, so that no function calls itself for it.
    let mut path: Vec<(usize, usize)> = Vec::new();
    for start in 0..parents.len() {
        if seen[start] == Seen::Not {
            seen[start] = Seen::Above;
            path.push((start, 0));
        }
        while let Some((child, next)) = path.last_mut() {
            let Some(parent) = parents[*child].get(*next).map(|parent| *parent as usize) else {
                seen[*child] = Seen::Done;
                path.pop();
                continue;
            };
            match seen[parent] {
                Seen::Above => {
                    parents[*child].remove(*next);
                    ahead[*child] = true;
                }
                Seen::Done => *next += 1,
                Seen::Not => {
                    *next += 1;
                    seen[parent] = Seen::Above;
                    path.push((parent, 0));
                }
            }
        }
    }
    ahead
}

/// For each item the items that must be written before it, in the same step; earlier steps are over by then. A token Secret
/// made before its ServiceAccount is deleted by the token controller.
fn parents(backup: &Backup, items: &[Item]) -> Vec<Vec<u32>> {
    let by_owner: HashMap<OwnerId, u32> = {
        let wanted = super::diff::wanted(backup);
        let named = |item: &Item| {
            let object = &backup.objects[item.backup as usize];
            Some((wanted.find(&object.key, &object.summary.kind)?, item.backup))
        };
        items.iter().filter_map(named).collect()
    };
    let accounts = service_accounts(backup);
    items
        .iter()
        .map(|item| {
            let object = &backup.objects[item.backup as usize];
            let owners = object.summary.owners.iter().filter_map(|owner| {
                owner.candidates(object.key.namespace.as_ref()).find_map(|id| by_owner.get(&id).copied())
            });
            let token = object.summary.particulars().token.as_deref().map(|token| &*token.account);
            let named = object.key.namespace.as_deref().zip(token);
            let account = named.and_then(|named| accounts.get(&named).copied());
            let parents = owners.chain(account).filter(|parent| {
                let parent = &items[*parent as usize];
                parent.step == item.step && parent.change.gives_uid()
            });
            parents.collect()
        })
        .collect()
}

/// By namespace and name.
fn service_accounts(backup: &Backup) -> HashMap<(&str, &str), u32> {
    let accounts = (0..).zip(&backup.objects).filter(|(_, object)| object.key.resource.is("", "serviceaccounts"));
    accounts
        .filter_map(|(index, object)| Some(((object.key.namespace.as_deref()?, &*object.key.name), index)))
        .collect()
}

/// The length of the longest chain of parents above each item; there is no circle any more.
fn depths(parents: &[Vec<u32>]) -> Vec<u16> {
    // Few have any.
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    let mut waiting: Vec<usize> = parents.iter().map(Vec::len).collect();
    for (child, parents) in (0..).zip(parents) {
        for parent in parents {
            children.entry(*parent).or_default().push(child);
        }
    }
    let mut depths: Vec<u16> = vec![0; parents.len()];
    // Whoever has no parents and no children stays at 0.
    let mut ready: Vec<u32> = children.keys().copied().filter(|parent| waiting[*parent as usize] == 0).collect();
    while let Some(parent) = ready.pop() {
        let depth = depths[parent as usize].saturating_add(1);
        for child in children.get(&parent).into_iter().flatten() {
            let index = *child as usize;
            depths[index] = depths[index].max(depth);
            waiting[index] -= 1;
            if waiting[index] == 0 {
                ready.push(*child);
            }
        }
    }
    depths
}
