//! Downstream clusters that a restore would take back.
//!
//! Rancher carries out what its objects say as soon as it is up again. A cluster is told of when it is live and something
//! of it would change: its version of Kubernetes, the size of a pool, a machine, or the plan of one. Values come from the
//! allow-list of [`crate::object::downstream`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::{View, count, listed};
use crate::object::downstream::{Downstream, Part};
use crate::object::{ObjectKey, Summary};
use crate::plan::gate::{Gate, GateCode};
use crate::plan::{Change, printable};

/// Namespace, and name.
type ClusterId<'a> = (Option<&'a str>, &'a str);

/// What would become of one cluster.
#[derive(Default)]
struct Reverts<'a> {
    /// From and to, `None` where one does not say.
    versions: BTreeSet<(Option<&'a str>, Option<&'a str>)>,
    pools: BTreeMap<&'a str, (Option<i64>, Option<i64>)>,
    machines: Tally,
    plans: Tally,
}

/// How many objects come, go or change.
#[derive(Default)]
struct Tally {
    back: usize,
    gone: usize,
    changed: usize,
}

pub(super) fn downstream_reverts(view: &View<'_>) -> Option<Gate> {
    if view.resuming() {
        return None;
    }
    let live = live_clusters(view);
    let mut clusters: BTreeMap<ClusterId<'_>, Reverts<'_>> = BTreeMap::new();
    for (item, object) in view.items() {
        let Some(after) = object.summary.particulars().downstream.as_deref() else { continue };
        let before = item.live.and_then(|index| view.observed.live.objects.get(index as usize));
        let before = before.map(|live| &live.summary);
        let reverts = || id(&object.key, after);
        match item.change {
            Change::Create => clusters.entry(reverts()).or_default().comes(after),
            Change::Update(_) | Change::Recreate => {
                let Some(before) = before else { continue };
                clusters.entry(reverts()).or_default().changes(before, &object.summary);
            }
            Change::Skip | Change::Protected(_) | Change::NotServed => {}
        }
    }
    for (_, object) in view.deletions() {
        let Some(before) = object.summary.particulars().downstream.as_deref() else { continue };
        clusters.entry(id(&object.key, before)).or_default().goes(before);
    }
    let told = clusters.iter().filter(|(id, _)| live.contains(*id)).filter_map(|(id, reverts)| reverts.told(*id));
    let told: Vec<String> = told.collect();
    (!told.is_empty()).then(|| {
        view.acceptable(
            GateCode::DownstreamReverts,
            format!("Rancher would take back {}: {}", count(told.len(), "downstream cluster"), listed(told)),
            "name a newer backup, if they must stay as they are",
            "restores them as they are in the backup, and Rancher carries that out when it is up again",
        )
    })
}

fn id<'a>(key: &'a ObjectKey, downstream: &'a Downstream) -> ClusterId<'a> {
    (key.namespace.as_deref(), &downstream.cluster)
}

/// Of one that is not there nothing is taken back.
fn live_clusters<'a>(view: &View<'a>) -> BTreeSet<ClusterId<'a>> {
    let objects = view.observed.live.objects.iter();
    let clusters = objects.filter_map(|object| {
        let downstream = object.summary.particulars().downstream.as_deref()?;
        (downstream.part == Part::Cluster).then(|| id(&object.key, downstream))
    });
    clusters.collect()
}

impl<'a> Reverts<'a> {
    /// It was deleted since the backup.
    fn comes(&mut self, after: &'a Downstream) {
        match after.part {
            Part::Cluster => {}
            Part::Pool => self.pools.extend(after.pools.iter().map(|(name, size)| (&**name, (None, *size)))),
            Part::Machine => self.machines.back += 1,
            Part::Plan => self.plans.back += 1,
        }
    }

    /// It was made since the backup, and is pruned.
    fn goes(&mut self, before: &'a Downstream) {
        match before.part {
            Part::Cluster => {}
            Part::Pool => self.pools.extend(before.pools.iter().map(|(name, size)| (&**name, (*size, None)))),
            Part::Machine => self.machines.gone += 1,
            Part::Plan => self.plans.gone += 1,
        }
    }

    fn changes(&mut self, before: &'a Summary, after: &'a Summary) {
        let (Some(old), Some(new)) =
            (before.particulars().downstream.as_deref(), after.particulars().downstream.as_deref())
        else {
            return;
        };
        if old.kubernetes != new.kubernetes {
            self.versions.insert((old.kubernetes.as_deref(), new.kubernetes.as_deref()));
        }
        for name in old.pools.keys().chain(new.pools.keys()) {
            let sizes = (old.pools.get(name).copied().flatten(), new.pools.get(name).copied().flatten());
            if old.pools.get(name) != new.pools.get(name) {
                self.pools.insert(name, sizes);
            }
        }
        // What it says is nobody's to read: that it differs is all that is told.
        if new.part == Part::Plan && before.spec != after.spec {
            self.plans.changed += 1;
        }
    }

    /// `None` where nothing of it changes.
    fn told(&self, (namespace, name): ClusterId<'_>) -> Option<String> {
        let Self { versions, pools, machines, plans } = self;
        let or_none = |text: Option<&str>| text.map_or_else(|| "none".to_owned(), printable);
        let size = |size: &Option<i64>| size.map_or_else(|| "none".to_owned(), |size| size.to_string());
        let versions = versions.iter().map(|(old, new)| format!("Kubernetes {} -> {}", or_none(*old), or_none(*new)));
        let pools =
            pools.iter().map(|(name, (old, new))| format!("pool {}: {} -> {}", printable(name), size(old), size(new)));
        let tallies = [machines.told("machine"), plans.told("machine plan")].into_iter().flatten();
        let parts: Vec<String> = versions.chain(pools).chain(tallies).collect();
        let place = namespace.map(|namespace| format!("{namespace}/")).unwrap_or_default();
        (!parts.is_empty()).then(|| format!("cluster {place}{} ({})", printable(name), parts.join("; ")))
    }
}

impl Tally {
    fn told(&self, what: &str) -> Option<String> {
        let Self { back, gone, changed } = *self;
        let mut told = String::new();
        for (number, happens) in [(back, "back"), (gone, "gone"), (changed, "changed")] {
            if number > 0 {
                let separator = if told.is_empty() { "" } else { ", " };
                // Writing to a String cannot fail.
                let _ = write!(told, "{separator}{} {happens}", count(number, what));
            }
        }
        (!told.is_empty()).then_some(told)
    }
}
