//! Webhooks that the writes of a plan pass and that nobody answers.

use std::collections::BTreeMap;

use super::{View, count, listed};
use crate::object::crd::CrdSummary;
use crate::object::{Resource, StatusPlace};
use crate::observed::BackupObject;
use crate::plan::gate::{Gate, GateCode};
use crate::plan::{Change, Item, printable};
use crate::webhook::{AdmissionWebhook, Answered, Operation, ServiceRef, Write};

/// A run that is under way has judged it; what it took down itself is down.
pub(super) fn webhook_unavailable(view: &View<'_>) -> Option<Gate> {
    if view.resuming() {
        return None;
    }
    let admission = admission(view);
    let conversion = conversion(view);
    let parts = [
        (!admission.is_empty()).then(|| format!("writes are refused, since nobody answers {}", listed(&admission))),
        (!conversion.is_empty())
            .then(|| format!("objects can be neither read nor written, since nobody converts {}", listed(&conversion))),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| {
        view.acceptable(
            GateCode::WebhookUnavailable,
            parts.join("; "),
            "bring up what answers them, or remove the configurations of what is gone",
            "tries all the same; objects that the API server refuses fail by name",
        )
    })
}

/// Webhooks that refuse when nobody answers, and how many writes each would.
fn admission(view: &View<'_>) -> Vec<String> {
    let webhooks = &view.observed.cluster.webhooks;
    let closed = webhooks.admission.iter().filter(|webhook| webhook.fails_closed);
    let dead = closed.filter_map(|webhook| Some((webhook, silence(view, webhook.service.as_ref()?)?)));
    let told = dead.filter_map(|(webhook, why)| {
        let asked = asked_about(view, webhook);
        let AdmissionWebhook { admission, configuration, name, .. } = webhook;
        let of = format!("{} of {} {}", printable(name), admission.kind(), printable(configuration));
        (asked > 0).then(|| format!("{of} ({why}; asked about {})", count(asked, "write")))
    });
    told.collect()
}

/// Objects that are written or deleted, and workloads that are scaled.
fn asked_about(view: &View<'_>, webhook: &AdmissionWebhook) -> usize {
    let namespaces = &view.observed.cluster.webhooks.namespaces;
    let items = view.items().filter(|(item, object)| {
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
    let deletions = view.deletions().filter(|(_, live)| {
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
    let scaled = view.plan.quiesce.iter().filter(|workload| {
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

fn operations(item: &Item) -> &'static [Operation] {
    match item.change {
        Change::Create => &[Operation::Create],
        Change::Update(_) => &[Operation::Update],
        Change::Recreate => &[Operation::Delete, Operation::Create],
        Change::Skip | Change::Protected(_) | Change::NotServed => &[],
    }
}

/// Why nobody answers at this Service while objects are written.
fn silence(view: &View<'_>, service: &ServiceRef) -> Option<String> {
    let shown = printable(&service.to_string());
    match view.observed.cluster.webhooks.services.get(service)? {
        Answered::Missing => Some(format!("Service {shown} is missing")),
        Answered::NoEndpoint => Some(format!("Service {shown} has no ready endpoint")),
        Answered::Ready => {
            let answers = |workload: &&crate::observed::Workload| workload.answers.contains(service);
            let stopped = view.plan.quiesce.iter().find(answers)?;
            let stays = view.plan.stays_up.iter().any(|workload| answers(&workload));
            (!stays).then(|| format!("Service {shown} leads to {}, which is scaled to 0", stopped.reference))
        }
        Answered::Unknown => None,
    }
}

/// Types whose objects need a webhook to be read or written, and nobody answers it.
fn conversion(view: &View<'_>) -> Vec<String> {
    let mut types: BTreeMap<String, String> = BTreeMap::new();
    for resource in &view.observed.live.unconverted {
        types.insert(resource.group_resource(), "they could not be listed".to_owned());
    }
    for (name, (why, number)) in unconvertible(view) {
        types.insert(name, format!("{why}; {}", count(number, "write")));
    }
    types.into_iter().map(|(name, why)| format!("{name} ({why})")).collect()
}

/// By type, why nobody answers and how many writes that concerns.
fn unconvertible(view: &View<'_>) -> BTreeMap<String, (String, usize)> {
    let mut found: BTreeMap<String, (String, usize)> = BTreeMap::new();
    let definitions = Definitions::of(view);
    for (item, object) in view.items().filter(|(item, _)| item.writes()) {
        let resource = &object.key.resource;
        let Some(why) = definitions.silence(view, resource) else { continue };
        if definitions.converts(resource, item) {
            found.entry(resource.group_resource()).or_insert((why, 0)).1 += 1;
        }
    }
    found
}

/// The definitions that are in force while objects are written: those of the backup, else the live ones.
struct Definitions<'a> {
    by_type: BTreeMap<(&'a str, &'a str), &'a CrdSummary>,
}

impl<'a> Definitions<'a> {
    fn of(view: &View<'a>) -> Self {
        let live = view.observed.live.objects.iter().filter_map(|object| object.summary.crd.as_deref());
        let written = view.items().filter(|(item, _)| !matches!(item.change, Change::Protected(_)));
        let backup = written.filter_map(|(_, object): (_, &'a BackupObject)| object.summary.crd.as_deref());
        let by_type = live.chain(backup).map(|crd| ((crd.group.as_str(), crd.plural.as_str()), crd)).collect();
        Self { by_type }
    }

    fn get(&self, resource: &Resource) -> Option<&'a CrdSummary> {
        self.by_type.get(&(resource.group.as_str(), resource.plural.as_str())).copied()
    }

    /// Why nobody answers who converts the objects of this type.
    fn silence(&self, view: &View<'_>, resource: &Resource) -> Option<String> {
        let conversion = match self.get(resource) {
            Some(crd) => crd.conversion.as_ref(),
            None => view.observed.cluster.webhooks.conversion.iter().find(|webhook| webhook.converts(resource)),
        };
        silence(view, conversion?.service.as_ref()?)
    }

    /// An object that is made at the version in which it is stored is the only one that needs nobody: of a live one,
    /// also the records of who set which field are converted.
    fn converts(&self, resource: &Resource, item: &Item) -> bool {
        let Some(crd) = self.get(resource) else { return true };
        let is_stored = crd.versions.get(&resource.version).is_some_and(|version| version.storage);
        !(is_stored && item.change == Change::Create) && crd.versions.len() > 1
    }
}
