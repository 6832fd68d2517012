//! The order of writes: CRDs, cluster-scoped, namespaced; in each, owners before what they own.

use std::collections::HashMap;

use super::Item;
use super::diff::owner_id;
use crate::object::ObjectKey;
use crate::object::owner::OwnerId;
use crate::observed::Backup;

/// Ordered items, and those whose owners wait for one another.
#[derive(Debug, Default)]
pub struct Ordered {
    pub items: Vec<Item>,
    pub cycles: Vec<ObjectKey>,
}

/// Gives each item its depth and sorts by step, depth and the order of the backup.
pub fn order(backup: &Backup, mut items: Vec<Item>) -> Ordered {
    let parents = parents(backup, &items);
    let depths = depths(&parents);
    let mut cycles = Vec::new();
    for (item, depth) in items.iter_mut().zip(depths) {
        match depth {
            Some(depth) => item.depth = depth,
            None => cycles.push(backup.objects[item.backup as usize].key.clone()),
        }
    }
    items.sort_by_key(|item| (item.step, item.depth, item.backup));
    Ordered { items, cycles }
}

/// For each item the items that must be written before it, in the same step; earlier steps are over by then.
fn parents(backup: &Backup, items: &[Item]) -> Vec<Vec<u32>> {
    let by_owner: HashMap<OwnerId, u32> = {
        let wanted = super::diff::wanted(backup);
        let named = |item: &Item| {
            let object = &backup.objects[item.backup as usize];
            let id = owner_id(&object.key, &object.summary.kind);
            wanted.contains(&id).then_some((id, item.backup))
        };
        items.iter().filter_map(named).collect()
    };
    let accounts = service_accounts(backup, items);
    items
        .iter()
        .map(|item| {
            let object = &backup.objects[item.backup as usize];
            let owners = object.summary.owners.iter().filter_map(|owner| {
                owner.candidates(object.key.namespace.as_ref()).find_map(|id| by_owner.get(&id).copied())
            });
            let account = object.summary.traits.service_account_token.then(|| accounts.iter().copied());
            owners
                .chain(account.into_iter().flatten())
                .filter(|parent| items[*parent as usize].step == item.step && *parent != item.backup)
                .collect()
        })
        .collect()
}

/// A token Secret made before its ServiceAccount is deleted by the token controller.
fn service_accounts(backup: &Backup, items: &[Item]) -> Vec<u32> {
    let is_account = |item: &&Item| backup.objects[item.backup as usize].key.resource.is("", "serviceaccounts");
    items.iter().filter(is_account).map(|item| item.backup).collect()
}

/// The length of the longest chain of parents above each item; `None` for those on a circle or below one.
fn depths(parents: &[Vec<u32>]) -> Vec<Option<u16>> {
    let mut children: Vec<Vec<u32>> = vec![Vec::new(); parents.len()];
    let mut waiting: Vec<usize> = parents.iter().map(Vec::len).collect();
    for (child, parents) in (0..).zip(parents) {
        for parent in parents {
            children[*parent as usize].push(child);
        }
    }
    let mut depths: Vec<u16> = vec![0; parents.len()];
    let mut ready: Vec<usize> = (0..parents.len()).filter(|index| waiting[*index] == 0).collect();
    while let Some(parent) = ready.pop() {
        for child in children[parent].iter().map(|child| *child as usize) {
            depths[child] = depths[child].max(depths[parent].saturating_add(1));
            waiting[child] -= 1;
            if waiting[child] == 0 {
                ready.push(child);
            }
        }
    }
    depths.into_iter().zip(waiting).map(|(depth, waiting)| (waiting == 0).then_some(depth)).collect()
}
