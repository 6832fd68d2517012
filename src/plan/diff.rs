//! What each object of the backup needs.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{Change, Differs, Item};
use crate::journal::Step;
use crate::object::owner::{self, Owner, OwnerId, WantedOwners};
use crate::object::protect::{Protection, protection};
use crate::object::{self, ObjectKey, Resource, StatusPlace, Summary, fixed, normal};
use crate::observed::{Backup, LiveObject, Observed, Served};
use crate::webhook::bundle;

/// The items of a plan, not yet ordered, and what was found on the way.
#[derive(Debug, Default)]
pub struct Differences {
    pub items: Vec<Item>,
    /// Written objects with a reference to an owner that is nowhere, and the owner as `Kind name`.
    pub missing_owners: Vec<(ObjectKey, String)>,
    /// Written objects that the API server would not take, and why.
    pub refused: Vec<(ObjectKey, String)>,
}

/// Compares every object of the backup with the live one.
pub fn diff(backup: &Backup, observed: &Observed) -> Differences {
    let own = Owners::new(backup, observed);
    let types = Types::new(backup, &observed.live.served);
    let services = Services::new(backup, observed);
    // Objects of a type come one after the other.
    let mut last = None;
    let mut items: Vec<Item> = (0..)
        .zip(&backup.objects)
        .map(|(index, object)| {
            let live_index = observed.live.index(&object.key);
            let live = live_index.map(|index| &observed.live.objects[index as usize]);
            let resource = &object.key.resource;
            let status = match last {
                Some((of, status)) if Arc::ptr_eq(of, resource) => status,
                _ => types.status(resource),
            };
            last = Some((resource, status));
            let change = match change(&object.key, &object.summary, live, observed, status) {
                Change::Create if !services.answer(&object.summary) => Change::Protected(Protection::NoService),
                change => change,
            };
            let status = status.unwrap_or(StatusPlace::Nowhere);
            let step = step_of(&object.key);
            Item { backup: index, live: live_index, change, status, step, depth: 0, ahead: false }
        })
        .collect();
    judge_tokens(&mut items, backup, observed, &own);
    if observed.guarded.other_cluster {
        redeploy_all(&mut items, backup, observed);
    }
    repoint(&mut items, backup, observed, &own);
    let missing_owners = missing(&items, backup, &own);
    let refused = refused(&items, backup, observed);
    Differences { items, missing_owners, refused }
}

/// Webhooks come after all other objects: from then on what they are about passes through them, and who answers them may
/// have come with this very restore.
fn step_of(key: &ObjectKey) -> Step {
    if key.resource.is_webhook_configuration() {
        return Step::Namespaced;
    }
    match (key.resource.is_crd(), &key.namespace) {
        (true, _) => Step::Crds,
        (false, None) => Step::ClusterScoped,
        (false, Some(_)) => Step::Namespaced,
    }
}

/// `status` is `None` for a type that is not served.
fn change(
    key: &ObjectKey,
    backup: &Summary,
    live: Option<&LiveObject>,
    observed: &Observed,
    status: Option<StatusPlace>,
) -> Change {
    if let Some(protection) = protection(key, backup, live.is_some(), &observed.guarded) {
        return Change::Protected(protection);
    }
    let Some(status) = status else { return Change::NotServed };
    let Some(live) = live else { return Change::Create };
    if let Some(protection) = protection(key, &live.summary, true, &observed.guarded) {
        return Change::Protected(protection);
    }
    if fixed::is_made_anew(&key.resource) && conflict(backup, &live.summary).is_some() {
        return Change::Recreate;
    }
    // A write would take the finalizers off, behind the back of the controller that has to finish. Of a namespace the
    // gate NamespaceTerminating speaks.
    if live.facts.terminating && !key.resource.is_namespace() {
        return Change::Protected(Protection::Terminating);
    }
    let differs = Differs {
        spec: !object::spec_equal(backup, &live.summary, status)
            || !bundle::equal(
                &backup.particulars().trusted,
                &live.summary.particulars().trusted,
                &observed.cluster.webhooks.kept,
            ),
        status: !object::status_equal(backup, &live.summary, status),
        ..Differs::default()
    };
    match differs.spec || differs.status {
        true => Change::Update(differs),
        false => Change::Skip,
    }
}

/// Services that can be asked by a webhook: live ones, and those of the backup.
struct Services<'a>(HashSet<(&'a str, &'a str)>);

impl<'a> Services<'a> {
    fn new(backup: &'a Backup, observed: &'a Observed) -> Self {
        let of_backup = backup.objects.iter().filter(|object| object.key.resource.is("", "services"));
        let of_backup = of_backup.filter_map(|object| Some((object.key.namespace.as_deref()?, &*object.key.name)));
        let live = observed.cluster.services.iter().map(|(namespace, name)| (namespace.as_str(), name.as_str()));
        Self(of_backup.chain(live).collect())
    }

    /// Each Service that a webhook configuration asks is one of them. What asks none is answered.
    fn answer(&self, summary: &Summary) -> bool {
        summary.particulars().webhook_services.iter().all(|(namespace, name)| self.0.contains(&(&**namespace, &**name)))
    }
}

/// The first field in which the live object can never become the backup's.
fn conflict(backup: &Summary, live: &Summary) -> Option<&'static str> {
    match (&backup.particulars().fixed, &live.particulars().fixed) {
        (Some(backup), Some(live)) => backup.conflict(live),
        // Only data that is immutable is on one side alone, and only a live one stands in the way.
        (None, Some(live)) => fixed::Fixed::default().conflict(live),
        (_, None) => None,
    }
}

/// What the API server would refuse whatever is accepted.
fn refused(items: &[Item], backup: &Backup, observed: &Observed) -> Vec<(ObjectKey, String)> {
    let judge = |item: &Item| {
        let object = &backup.objects[item.backup as usize];
        let live = item.live.map(|index| &observed.live.objects[index as usize]);
        let defect = object.summary.particulars().crd.as_deref().and_then(|crd| crd.defect()).map(str::to_owned);
        let field = match item.change {
            Change::Update(Differs { spec: true, .. }) => {
                live.and_then(|live| conflict(&object.summary, &live.summary))
            }
            _ => None,
        };
        let why = defect.or_else(|| field.map(|field| format!("{field} differs, and never changes")));
        why.map(|why| (object.key.clone(), why))
    };
    items.iter().filter(|item| item.writes()).filter_map(judge).collect()
}

/// A token works while the account that it was made for is there; then it comes back, since agents may hold it. A token of
/// an account that is nowhere is not written: the token controller would delete it at once.
fn judge_tokens(items: &mut [Item], backup: &Backup, observed: &Observed, owners: &Owners<'_>) {
    let coming = Coming::new(items);
    for item in items {
        let object = &backup.objects[item.backup as usize];
        let Some(token) =
            object.summary.particulars().token.as_deref().filter(|_| !matches!(item.change, Change::Protected(_)))
        else {
            continue;
        };
        let account = account_id(&object.key, token);
        if owners.backup.get(&account).is_some_and(|index| coming.gets_uid(*index)) {
            continue;
        }
        let Some(account) = owners.live.get(&account) else {
            item.change = Change::Protected(Protection::NoAccount);
            continue;
        };
        let live =
            item.live.and_then(|index| observed.live.objects[index as usize].summary.particulars().token.as_deref());
        let Some(live) = live.filter(|_| token.uid.as_deref() == Some(&*account.facts.uid)) else { continue };
        if token.data.is_some() && token.data != live.data {
            item.change = match item.change {
                Change::Update(differs) => Change::Update(Differs { spec: true, ..differs }),
                Change::Skip => Change::Update(Differs { spec: true, ..Differs::default() }),
                other => other,
            };
        }
    }
}

/// The ServiceAccount of a token Secret, as one that owns it.
pub fn account_id(secret: &ObjectKey, token: &object::Token) -> OwnerId {
    OwnerId {
        group: Arc::from(""),
        kind: Arc::from("ServiceAccount"),
        namespace: secret.namespace.clone(),
        name: Arc::from(&*token.account),
    }
}

/// Agents of clusters speak to the Rancher that deployed them: on another cluster each is asked to be deployed anew, also
/// one whose object is equal.
fn redeploy_all(items: &mut [Item], backup: &Backup, observed: &Observed) {
    for item in items {
        let object = &backup.objects[item.backup as usize];
        let Some(live) = item.live.map(|index| &observed.live.objects[index as usize]) else { continue };
        if !normal::wants_redeploy(
            &object.key.resource,
            &object.summary.particulars().traits,
            &live.summary.particulars().traits,
        ) {
            continue;
        }
        item.change = match item.change {
            Change::Update(differs) => Change::Update(Differs { redeploy: true, ..differs }),
            Change::Skip => Change::Update(Differs { redeploy: true, ..Differs::default() }),
            other => other,
        };
    }
}

/// Whether a type is served, and whether its status is written.
pub struct Types<'a> {
    served: &'a Served,
    /// Types that CRDs of the backup bring, and whether they have the status subresource.
    brought: HashMap<Resource, bool>,
}

impl<'a> Types<'a> {
    pub fn new(backup: &Backup, served: &'a Served) -> Self {
        let crds = backup.objects.iter().filter_map(|object| object.summary.particulars().crd.as_deref());
        let brought = crds.flat_map(|crd| {
            let versions = crd.versions.iter().filter(|(_, version)| version.served);
            versions.map(|(name, version)| (Resource::new(&crd.group, name, &crd.plural), version.status))
        });
        Self { served, brought: brought.collect() }
    }

    /// Where the status of a type is written, `None` when nothing serves it. The backup's own CRD decides, since it is
    /// the one in force by then.
    pub fn status(&self, resource: &Resource) -> Option<StatusPlace> {
        let custom = |subresource| match subresource {
            true => StatusPlace::Subresource,
            false => StatusPlace::Body,
        };
        if let Some(subresource) = self.brought.get(resource) {
            return Some(custom(*subresource));
        }
        let kind = self.served.types.get(resource)?;
        Some(if kind.custom { custom(kind.status) } else { StatusPlace::Nowhere })
    }
}

/// Where owners are: in the backup, live, or nowhere.
struct Owners<'a> {
    backup: HashMap<OwnerId, u32>,
    live: HashMap<OwnerId, &'a LiveObject>,
}

impl<'a> Owners<'a> {
    fn new(backup: &Backup, observed: &'a Observed) -> Self {
        let wanted = wanted(backup);
        let in_backup = (0..)
            .zip(&backup.objects)
            .filter_map(|(index, object)| Some((wanted.find(&object.key, &object.summary.kind)?, index)));
        let live = observed.live.objects.iter();
        let live = live.filter_map(|object| Some((wanted.find(&object.key, &object.summary.kind)?, object)));
        Self { backup: in_backup.collect(), live: live.collect() }
    }

    fn in_backup(&self, owner: &Owner, namespace: Option<&Arc<str>>) -> Option<u32> {
        owner.candidates(namespace).find_map(|id| self.backup.get(&id).copied())
    }

    fn live(&self, owner: &Owner, namespace: Option<&Arc<str>>) -> Option<&'a LiveObject> {
        owner.candidates(namespace).find_map(|id| self.live.get(&id).copied())
    }
}

/// The owners that objects of the backup name, and the accounts that their tokens are for.
pub fn wanted(backup: &Backup) -> WantedOwners {
    backup.objects.iter().flat_map(owners_of).collect()
}

/// What an object needs the UIDs of: its owners, each by all that it may be, and the account of its token.
pub fn owners_of(object: &crate::observed::BackupObject) -> Vec<OwnerId> {
    let namespace = object.key.namespace.as_ref();
    let owners = object.summary.owners.iter().flat_map(|owner| owner.candidates(namespace));
    let account = object.summary.particulars().token.as_deref().map(|token| account_id(&object.key, token));
    owners.chain(account).collect()
}

/// An equal object whose owner has another UID, gets one in this run, or is nowhere, is written all the same.
fn repoint(items: &mut [Item], backup: &Backup, observed: &Observed, owners: &Owners<'_>) {
    let coming = Coming::new(items);
    for item in items {
        let object = &backup.objects[item.backup as usize];
        let Some(live) = item.live.map(|index| &observed.live.objects[index as usize]) else { continue };
        let differs = match item.change {
            Change::Update(differs) => differs,
            Change::Skip => Differs::default(),
            Change::Create | Change::Recreate | Change::Protected(_) | Change::NotServed => continue,
        };
        let namespace = object.key.namespace.as_ref();
        let uid = |owner: &Owner| match owners.in_backup(owner, namespace) {
            // No UID yet, so none that a live reference could have.
            Some(index) if coming.gets_uid(index) => Some(""),
            _ => owners.live(owner, namespace).map(|live| &*live.facts.uid),
        };
        if !owner::lead_home(&object.summary.owners, &live.summary.owners, uid) {
            item.change = Change::Update(Differs { owners: true, ..differs });
        }
    }
}

/// Which objects of the backup are made, and so have another UID afterwards.
struct Coming(Vec<bool>);

impl Coming {
    fn new(items: &[Item]) -> Self {
        Self(items.iter().map(|item| matches!(item.change, Change::Create | Change::Recreate)).collect())
    }

    fn gets_uid(&self, index: u32) -> bool {
        self.0[index as usize]
    }
}

/// An owner as [`super::Plan::missing_owners`] has it.
pub fn shown(owner: &Owner) -> String {
    super::printable(&format!("{} {}", owner.kind, owner.name))
}

fn missing(items: &[Item], backup: &Backup, owners: &Owners<'_>) -> Vec<(ObjectKey, String)> {
    let coming = Coming::new(items);
    let mut missing = Vec::new();
    for item in items.iter().filter(|item| item.writes()) {
        let object = &backup.objects[item.backup as usize];
        let namespace = object.key.namespace.as_ref();
        for owner in object.summary.owners.iter() {
            // A definition is written before any object that is none, so that such an owner comes too late.
            let in_time = |index: u32| coming.gets_uid(index) && items[index as usize].step <= item.step;
            let comes = owners.in_backup(owner, namespace).is_some_and(in_time);
            if !comes && owners.live(owner, namespace).is_none() {
                missing.push((object.key.clone(), shown(owner)));
            }
        }
    }
    missing
}
