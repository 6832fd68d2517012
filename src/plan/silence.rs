//! Webhooks that nobody answers while a plan writes, and which of them can be silenced meanwhile.
//!
//! An admission webhook always can. A conversion can where no object has to be converted: all that lie in etcd are stored at
//! the version at which they are written, before and after the backup's definition is there. Elsewhere the conversion
//! `None` would relabel an object of one version as one of another, so that such a type is never silenced.

use std::collections::{BTreeMap, BTreeSet};

use super::{Change, Deletion, Item, Plan, printable};
use crate::object::crd::CrdSummary;
use crate::object::{Resource, StatusPlace};
use crate::observed::{Backup, BackupObject, LiveObject, Observed};
use crate::webhook::silence::{HolderKind, WebhookRef};
use crate::webhook::{Admission, AdmissionWebhook, Answered, Operation, ServiceRef, Write};

/// An admission webhook that refuses when nobody answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadAdmission {
    pub webhook: WebhookRef,
    pub why: String,
    /// How many writes and deletions it is asked about.
    pub asked: usize,
}

/// A type whose objects nobody converts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadConversion {
    /// As `plural.group`, by which its definition is called.
    pub name: String,
    /// `None` where all that is known is that its objects could not be listed.
    pub why: Option<String>,
    pub writes: usize,
    /// No object has to be converted.
    pub needless: bool,
}

/// What nobody answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unanswered {
    pub admission: Vec<DeadAdmission>,
    pub conversion: Vec<DeadConversion>,
}

impl Unanswered {
    /// What a run silences while it writes.
    pub fn silences(&self) -> Vec<WebhookRef> {
        let admission = self.admission.iter().map(|dead| dead.webhook.clone());
        let needless = self.conversion.iter().filter(|dead| dead.needless);
        let all: BTreeSet<WebhookRef> =
            admission.chain(needless.map(|dead| WebhookRef::conversion(&dead.name))).collect();
        all.into_iter().collect()
    }
}

/// Finds what nobody answers, from the objects, deletions and workloads of a plan.
pub fn unanswered(plan: &Plan, backup: &Backup, observed: &Observed) -> Unanswered {
    let view = View { plan, backup, observed };
    Unanswered { admission: view.admission(), conversion: view.conversion() }
}

struct View<'a> {
    plan: &'a Plan,
    backup: &'a Backup,
    observed: &'a Observed,
}

impl<'a> View<'a> {
    fn items(&self) -> impl Iterator<Item = (&'a Item, &'a BackupObject)> {
        let objects = &self.backup.objects;
        self.plan.items.iter().map(move |item| (item, &objects[item.backup as usize]))
    }

    fn deletions(&self) -> impl Iterator<Item = (&'a Deletion, &'a LiveObject)> {
        let objects = &self.observed.live.objects;
        self.plan.deletions.iter().map(move |deletion| (deletion, &objects[deletion.live as usize]))
    }

    fn admission(&self) -> Vec<DeadAdmission> {
        let closed = self.observed.cluster.webhooks.admission.iter().filter(|webhook| webhook.fails_closed);
        let dead = closed.filter_map(|webhook| Some((webhook, self.nobody(webhook.service.as_ref()?)?)));
        let asked = dead.map(|(webhook, why)| DeadAdmission {
            webhook: reference(webhook),
            why,
            asked: self.asked_about(webhook),
        });
        asked.filter(|dead| dead.asked > 0).collect()
    }

    /// Objects that are written or deleted, and workloads that are scaled.
    fn asked_about(&self, webhook: &AdmissionWebhook) -> usize {
        let namespaces = &self.observed.cluster.webhooks.namespaces;
        let items = self.items().filter(|(item, object)| {
            let write = |operation, status| Write {
                resource: &object.key.resource,
                operation,
                status,
                namespace: object.key.namespace.as_deref(),
                name: &object.key.name,
            };
            operations(item).iter().any(|operation| webhook.is_asked(&write(*operation, false), namespaces))
                || item.writes()
                    && item.status == StatusPlace::Subresource
                    && webhook.is_asked(&write(Operation::Update, true), namespaces)
        });
        let deletions = self.deletions().filter(|(_, live)| {
            let write = |operation| Write {
                resource: &live.key.resource,
                operation,
                status: false,
                namespace: live.key.namespace.as_deref(),
                name: &live.key.name,
            };
            // Finalizers of what does not go by itself are taken away.
            [Operation::Delete, Operation::Update].iter().any(|of| webhook.is_asked(&write(*of), namespaces))
        });
        let scaled = self.plan.quiesce.iter().filter(|workload| {
            let reference = &workload.reference;
            let resource = reference.resource_type();
            let write = Write {
                resource: &resource,
                operation: Operation::Update,
                status: false,
                namespace: Some(&reference.namespace),
                name: &reference.name,
            };
            webhook.is_asked(&write, namespaces)
        });
        items.count() + deletions.count() + scaled.count()
    }

    /// Why nobody answers at this Service while objects are written.
    fn nobody(&self, service: &ServiceRef) -> Option<String> {
        let shown = printable(&service.to_string());
        match self.observed.cluster.webhooks.services.get(service)? {
            Answered::Missing => Some(format!("Service {shown} is missing")),
            Answered::NoEndpoint => Some(format!("Service {shown} has no ready endpoint")),
            Answered::Ready => {
                let answers = |workload: &&crate::observed::Workload| workload.answers.contains(service);
                let stopped = self.plan.quiesce.iter().find(answers)?;
                let stays = self.plan.stays_up.iter().any(|workload| answers(&workload));
                (!stays).then(|| format!("Service {shown} leads to {}, which is scaled to 0", stopped.reference))
            }
            Answered::Unknown => None,
        }
    }

    /// Types whose objects need a webhook to be read or written, and nobody answers it.
    fn conversion(&self) -> Vec<DeadConversion> {
        let mut types: BTreeMap<String, DeadConversion> = BTreeMap::new();
        for resource in &self.observed.live.unconverted {
            let name = resource.group_resource();
            types.insert(name.clone(), DeadConversion { name, why: None, writes: 0, needless: false });
        }
        let definitions = Definitions::of(self);
        for (item, object) in self.items().filter(|(item, _)| item.writes()) {
            let resource = &object.key.resource;
            let Some(why) = definitions.nobody(self, resource) else { continue };
            if !definitions.converts(resource, item) {
                continue;
            }
            let name = resource.group_resource();
            let dead = types.entry(name.clone()).or_insert_with(|| DeadConversion {
                name,
                why: None,
                writes: 0,
                needless: true,
            });
            dead.why.get_or_insert(why);
            dead.writes += 1;
            dead.needless &= definitions.stores_all_at(self, resource);
        }
        types.into_values().collect()
    }
}

fn reference(webhook: &AdmissionWebhook) -> WebhookRef {
    let kind = match webhook.admission {
        Admission::Mutating => HolderKind::MutatingWebhookConfiguration,
        Admission::Validating => HolderKind::ValidatingWebhookConfiguration,
    };
    WebhookRef { kind, name: webhook.configuration.clone(), webhook: webhook.name.clone() }
}

fn operations(item: &Item) -> &'static [Operation] {
    match item.change {
        Change::Create => &[Operation::Create],
        Change::Update(_) => &[Operation::Update],
        Change::Recreate => &[Operation::Delete, Operation::Create],
        Change::Skip | Change::Protected(_) | Change::NotServed => &[],
    }
}

/// The definitions that are in force while objects are written: those of the backup, else the live ones.
struct Definitions<'a> {
    by_type: BTreeMap<(&'a str, &'a str), &'a CrdSummary>,
    live: BTreeMap<(&'a str, &'a str), &'a CrdSummary>,
}

impl<'a> Definitions<'a> {
    fn of(view: &View<'a>) -> Self {
        let named = |crd: &'a CrdSummary| ((crd.group.as_str(), crd.plural.as_str()), crd);
        let live = view.observed.live.objects.iter().filter_map(|object| object.summary.particulars().crd.as_deref());
        let live: BTreeMap<_, _> = live.map(named).collect();
        let written = view.items().filter(|(item, _)| !matches!(item.change, Change::Protected(_)));
        let backup =
            written.filter_map(|(_, object): (_, &'a BackupObject)| object.summary.particulars().crd.as_deref());
        let mut by_type = live.clone();
        by_type.extend(backup.map(named));
        Self { by_type, live }
    }

    fn get(&self, resource: &Resource) -> Option<&'a CrdSummary> {
        self.by_type.get(&(resource.group.as_str(), resource.plural.as_str())).copied()
    }

    /// Why nobody answers who converts the objects of this type.
    fn nobody(&self, view: &View<'_>, resource: &Resource) -> Option<String> {
        let conversion = match self.get(resource) {
            Some(crd) => crd.conversion.as_ref(),
            None => view.observed.cluster.webhooks.conversion.iter().find(|webhook| webhook.converts(resource)),
        };
        view.nobody(conversion?.service.as_ref()?)
    }

    /// An object that is made at the version in which it is stored is the only one that needs nobody: of a live one,
    /// also the records of who set which field are converted.
    fn converts(&self, resource: &Resource, item: &Item) -> bool {
        let Some(crd) = self.get(resource) else { return true };
        !(self.is_stored(resource) && item.change == Change::Create) && crd.versions.len() > 1
    }

    /// Objects of this type are stored at this version. Of a definition that is not at hand [`Definitions::stores_all_at`] says so.
    fn is_stored(&self, resource: &Resource) -> bool {
        self.get(resource).is_none_or(|crd| crd.storage_version() == Some(&resource.version))
    }

    /// Every object of the type that is there lies in etcd at the version of `resource`, and will.
    fn stores_all_at(&self, view: &View<'_>, resource: &Resource) -> bool {
        let key = (resource.group.as_str(), resource.plural.as_str());
        let (storage, stored) = match self.live.get(&key) {
            Some(crd) => (crd.storage_version(), crd.stored.as_slice()),
            None => {
                let webhooks = &view.observed.cluster.webhooks.conversion;
                let Some(webhook) = webhooks.iter().find(|webhook| webhook.converts(resource)) else { return false };
                (webhook.storage.as_deref(), webhook.stored.as_slice())
            }
        };
        let [stored] = stored else { return false };
        storage == Some(stored) && *stored == resource.version && self.is_stored(resource)
    }
}
