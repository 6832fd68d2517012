//! The plan as a person reads and approves it: on a terminal, in a pull request, and for machines.
//!
//! Names come from the backup and the cluster that the plan was made from. Values of objects are never shown; why an
//! object is updated is said by its parts (`spec`, `status`, `owner references`).

mod json;
mod markdown;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jiff::Timestamp;

use super::gate::{Gate, GateClass};
use super::gates::source::{normal_url, running, shown_url};
use super::{Change, Differs, Handover, Plan, is_same_cluster, printable};
use crate::object::ObjectKey;
use crate::object::protect::Protection;
use crate::observed::{Backup, Observed, Workload};
use crate::rancher::is_cluster_api;

pub use json::json;
pub use markdown::markdown;

/// Lines of deletions in a text; all of them are in the JSON.
const DELETIONS_SHOWN: usize = 200;

/// How much of the plan is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verbosity {
    /// Counts by type, and every deletion.
    Summary,
    /// Every object, with what happens to it and why.
    Objects,
}

/// A plan in words, before it has a layout.
struct Report<'a> {
    title: String,
    /// One sentence: what it comes to.
    outcome: String,
    /// Label and text.
    facts: Vec<(&'static str, String)>,
    gates: &'a [Gate],
    rows: Vec<Row>,
    /// What is deleted, each followed by what it takes along, with `true`.
    deletions: Vec<(&'a ObjectKey, bool)>,
    /// Reasons why objects stay as they are, and of how many.
    protected: BTreeMap<Protection, usize>,
    quiesce: Vec<String>,
    stays_up: Vec<String>,
    silences: Vec<String>,
    warnings: Vec<String>,
    objects: Vec<(&'a ObjectKey, String)>,
    digest: &'a str,
}

/// What happens to the objects of one type.
#[derive(Debug, Default)]
struct Row {
    resource: String,
    counts: [usize; COLUMNS.len()],
}

/// Columns of the table of types.
const COLUMNS: [&str; 7] = ["create", "update", "recreate", "delete", "equal", "protected", "not served"];
const DELETE_COLUMN: usize = 3;
const PROTECTED_COLUMN: usize = 5;

/// The plan for a terminal.
pub fn text(plan: &Plan, observed: &Observed, verbosity: Verbosity) -> String {
    let report = Report::new(plan, observed, verbosity);
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_text(&mut out, &report);
    out
}

impl<'a> Report<'a> {
    fn new(plan: &'a Plan, observed: &'a Observed, verbosity: Verbosity) -> Self {
        // In full: what a plan has, a person must be shown.
        let Plan {
            request,
            at,
            engine,
            backup: _, // facts() reads the whole one
            items: _,  // rows() and objects()
            deletions,
            spared,
            prunes,
            handover,
            version,
            other_cluster: _, // the gate DifferentCluster says so
            quiesce,
            stays_up,
            silences,
            missing_owners,
            cycles,
            refused,
            gates,
            warnings,
            digest,
        } = plan;
        let backup = whole(observed);
        let live = &observed.live.objects;
        let mut protected: BTreeMap<Protection, usize> = BTreeMap::new();
        let kept = plan.items.iter().filter_map(|item| match item.change {
            Change::Protected(protection) => Some(protection),
            Change::Create | Change::Update(_) | Change::Recreate | Change::Skip | Change::NotServed => None,
        });
        kept.chain(spared.iter().map(|(_, protection)| *protection))
            .for_each(|protection| *protected.entry(protection).or_default() += 1);
        let mut facts = vec![("engine", format!("{engine}; prune {}", if *prunes { "on" } else { "off" }))];
        let about = backup.map(|backup| self::facts(backup, observed, *at));
        facts.splice(0..0, about.or_else(|| unread_facts(plan, observed)).unwrap_or_default());
        facts.extend(version.as_ref().map(|change| ("version", change.to_string())));
        facts.extend(handover.as_ref().map(|handover| ("hands over", handed(handover))));
        if stays_up.iter().any(|workload| is_cluster_api(&workload.reference)) {
            facts.push(("pauses", "every cluster of Cluster API, until Rancher is started again".to_owned()));
        }
        let mut warnings = warnings.clone();
        warnings.extend(missing_owners.iter().map(|(key, owner)| format!("{key}: its owner {owner} is nowhere")));
        warnings.extend(cycles.iter().map(|key| format!("{key}: its owner waits for it, in a circle")));
        warnings.extend(refused.iter().map(|(key, why)| format!("{key}: {why}")));
        Self {
            title: format!("{} {}", request.kind, request.name),
            outcome: outcome(plan),
            facts,
            gates,
            rows: rows(plan, observed),
            deletions: deletions
                .iter()
                .flat_map(|deletion| {
                    let along = deletion.takes_along.iter().map(|key| (key, true));
                    [(&live[deletion.live as usize].key, false)].into_iter().chain(along)
                })
                .collect(),
            protected,
            quiesce: quiesce.iter().map(scaled).collect(),
            stays_up: stays_up.iter().map(|workload| workload.reference.to_string()).collect(),
            silences: silences.iter().map(|webhook| printable(&webhook.to_string())).collect(),
            warnings,
            objects: match verbosity {
                Verbosity::Summary => Vec::new(),
                Verbosity::Objects => objects(plan, observed).map(|(key, change)| (key, why(change))).collect(),
            },
            digest,
        }
    }
}

fn whole(observed: &Observed) -> Option<&Backup> {
    observed.backup.whole()
}

/// Objects of the backup in the order in which they are written.
fn objects<'a>(plan: &'a Plan, observed: &'a Observed) -> impl Iterator<Item = (&'a ObjectKey, Change)> {
    let objects = whole(observed).map_or(&[][..], |backup| backup.objects.as_slice());
    plan.items.iter().filter_map(|item| Some((&objects.get(item.backup as usize)?.key, item.change)))
}

fn rows(plan: &Plan, observed: &Observed) -> Vec<Row> {
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    let mut add = |key: &ObjectKey, column: usize| {
        let resource = key.resource.group_resource();
        let row = rows.entry(resource).or_insert_with_key(|name| Row { resource: name.clone(), ..Row::default() });
        row.counts[column] += 1;
    };
    for (key, change) in objects(plan, observed) {
        add(key, column(change));
    }
    for deletion in &plan.deletions {
        add(&observed.live.objects[deletion.live as usize].key, DELETE_COLUMN);
        deletion.takes_along.iter().for_each(|key| add(key, DELETE_COLUMN));
    }
    plan.spared.iter().for_each(|(key, _)| add(key, PROTECTED_COLUMN));
    let mut rows: Vec<Row> = rows.into_values().collect();
    if rows.len() > 1 {
        let total = |column| rows.iter().map(|row| row.counts[column]).sum();
        rows.push(Row { resource: "all".to_owned(), counts: std::array::from_fn(total) });
    }
    rows
}

fn column(change: Change) -> usize {
    match change {
        Change::Create => 0,
        Change::Update(_) => 1,
        Change::Recreate => 2,
        Change::Skip => 4,
        Change::Protected(_) => PROTECTED_COLUMN,
        Change::NotServed => 6,
    }
}

/// One word for what happens.
fn word(change: Change) -> &'static str {
    match change {
        Change::Create => "create",
        Change::Update(_) => "update",
        Change::Recreate => "recreate",
        Change::Skip => "equal",
        Change::Protected(_) => "protected",
        Change::NotServed => "not served",
    }
}

/// Why, part by part.
fn reasons(change: Change) -> Vec<&'static str> {
    match change {
        Change::Create | Change::Skip | Change::NotServed => Vec::new(),
        Change::Update(Differs { spec, status, owners, redeploy }) => {
            let parts =
                [(spec, "spec"), (status, "status"), (owners, "owner references"), (redeploy, "agents deployed anew")];
            parts.into_iter().filter_map(|(differs, part)| differs.then_some(part)).collect()
        }
        Change::Recreate => vec!["a field that never changes"],
        Change::Protected(protection) => vec![protection.reason()],
    }
}

fn why(change: Change) -> String {
    let reasons = reasons(change);
    match reasons.is_empty() {
        true => word(change).to_owned(),
        false => format!("{}: {}", word(change), reasons.join(", ")),
    }
}

fn scaled(workload: &Workload) -> String {
    let Workload { reference, replicas, recorded, .. } = workload;
    match recorded {
        Some(recorded) if recorded != replicas => format!("{reference} ({replicas} replicas, {recorded} before)"),
        _ => format!("{reference} ({replicas} replicas)"),
    }
}

fn outcome(plan: &Plan) -> String {
    let held = match plan.holding().count() {
        0 => String::new(),
        1 => "; held by 1 gate".to_owned(),
        more => format!("; held by {more} gates"),
    };
    let sets = plan.version.as_ref().filter(|change| change.sets()).map(|change| format!("Rancher to {}", change.to));
    if plan.unreadable().is_some() {
        let sets = sets.map(|sets| format!(", then {sets}")).unwrap_or_default();
        return format!("the operator restores it; what that changes is not known{sets}{held}");
    }
    if plan.backup.is_none() {
        let is_named = !plan.request.backup_name.is_empty();
        return match sets {
            _ if is_named => format!("nothing can be planned without a whole backup{held}"),
            Some(sets) => format!("{sets}{held}"),
            None if plan.version.is_some() => format!("nothing to do: the declared version runs{held}"),
            None => format!("nothing can be planned without a way to set the version{held}"),
        };
    }
    if plan.is_empty() {
        return format!("nothing to do: the cluster has what the backup has{held}");
    }
    let counts = plan.counts();
    let along: usize = plan.deletions.iter().map(|deletion| deletion.takes_along.len()).sum();
    let parts = [
        (counts.created, "to create".to_owned()),
        (counts.updated, "to update".to_owned()),
        (counts.recreated, "to delete and make anew".to_owned()),
        (counts.deleted, if along == 0 { "to delete".to_owned() } else { format!("to delete, and {along} with them") }),
    ];
    let parts = parts.into_iter().filter(|(number, _)| *number > 0).map(|(number, what)| format!("{number} {what}"));
    let parts: Vec<String> = parts.chain(sets).collect();
    format!("{}{held}", parts.join(", "))
}

fn facts(backup: &Backup, observed: &Observed, at: Timestamp) -> Vec<(&'static str, String)> {
    let cluster = &observed.cluster;
    let said = &backup.facts;
    let unknown = || "unknown".to_owned();
    let version = said.rancher_version.as_deref().map_or_else(unknown, printable);
    let runs = running(cluster).map_or_else(unknown, |running| printable(running.text));
    let same = if is_same_cluster(backup, &observed.cluster) { "this cluster" } else { "ANOTHER cluster" };
    let parts = backup.name.parts();
    let uid = parts.as_ref().map_or_else(|| "kube-system UID unknown".to_owned(), |parts| parts.cluster_uid.to_owned());
    let mut facts = vec![
        ("backup", format!("{} ({})", backup.name, size(backup.size_bytes))),
        ("sha256", backup.sha256.clone()),
        ("taken", parts.map_or_else(unknown, |parts| format!("{}, {}", parts.taken_at, age(parts.taken_at, at)))),
        ("Rancher", if version == runs { version } else { format!("{runs} here -> {version} in the backup") }),
        ("cluster", format!("{same} ({uid})")),
    ];
    let pair = |live: Option<String>, there: Option<String>, same: bool| match (live, there) {
        (_, None) => "not in the backup".to_owned(),
        (Some(_), Some(there)) if same => there,
        (live, Some(there)) => format!("{} here -> {there} in the backup", live.unwrap_or_else(unknown)),
    };
    let urls = (cluster.server_url.as_deref(), said.server_url.as_deref());
    let same_url = urls.0.map(normal_url) == urls.1.map(normal_url);
    facts.push(("server-url", pair(urls.0.map(shown_url), urls.1.map(shown_url), same_url)));
    let ids = (cluster.install_uuid.as_deref().map(printable), said.install_uuid.as_deref().map(printable));
    let same_id = ids.0 == ids.1;
    facts.push(("install-uuid", pair(ids.0, ids.1, same_id)));
    facts
}

/// Of a backup that only the operator reads: what its name says.
fn unread_facts(plan: &Plan, observed: &Observed) -> Option<Vec<(&'static str, String)>> {
    let reason = plan.unreadable()?;
    let runs = running(&observed.cluster).map_or_else(|| "unknown".to_owned(), |running| printable(running.text));
    let same = if plan.other_cluster { "ANOTHER cluster, or unknown" } else { "this cluster, by its name" };
    Some(vec![
        ("backup", format!("{} (not read)", printable(&plan.request.backup_name))),
        ("why", printable(reason)),
        ("Rancher", format!("{runs} here; in the backup unknown")),
        ("cluster", same.to_owned()),
    ])
}

fn handed(handover: &Handover) -> String {
    let Handover { restore, prune, native_prune, repair, unreadable: _, overwrites: _, stuck: _ } = handover;
    let prune = match (prune, native_prune) {
        (true, _) => "prune true",
        (false, true) => "prune false, reinback prunes after it",
        (false, false) => "prune false",
    };
    let repair = if *repair { "; what it does not bring back is mended" } else { "" };
    format!("Restore {restore}, {prune}{repair}")
}

/// `7.0 MiB`.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut tenths = u128::from(bytes) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// `3 days old`, in the largest unit of which there are two, or in minutes.
fn age(taken: Timestamp, at: Timestamp) -> String {
    let minutes = at.duration_since(taken).as_mins();
    match minutes {
        ..0 => "later than now".to_owned(),
        0..120 => format!("{minutes} minutes old"),
        120..2880 => format!("{} hours old", minutes / 60),
        _ => format!("{} days old", minutes / 1440),
    }
}

fn class(class: GateClass) -> &'static str {
    match class {
        GateClass::Refuse => "refused",
        GateClass::Accept => "can be accepted",
        GateClass::Wait => "waits",
    }
}

fn write_text(out: &mut String, report: &Report<'_>) -> std::fmt::Result {
    let Report {
        title,
        outcome,
        facts,
        gates,
        rows,
        deletions,
        protected,
        quiesce,
        stays_up,
        silences,
        warnings,
        objects,
        digest,
    } = report;
    writeln!(out, "{title}: {outcome}\n")?;
    for (label, fact) in facts {
        writeln!(out, "  {label:<12} {fact}")?;
    }
    write_gates(out, gates)?;
    write_table(out, rows)?;
    if !deletions.is_empty() {
        writeln!(out, "\ndeletes")?;
        for (key, along) in deletions.iter().take(DELETIONS_SHOWN) {
            writeln!(out, "  {}{key}", if *along { "  with it " } else { "" })?;
        }
        if let more @ 1.. = deletions.len().saturating_sub(DELETIONS_SHOWN) {
            writeln!(out, "  … and {more} more, {} in all; `-o json` has all of them", deletions.len())?;
        }
    }
    let protected: Vec<String> = protected.iter().map(|(why, number)| format!("{number}: {why}")).collect();
    let sections = [
        ("left as they are", protected.as_slice()),
        ("scales to 0 first", quiesce),
        ("stays up, for it answers webhooks", stays_up),
        ("silences while it writes, for nobody answers", silences),
        ("mind", warnings),
    ];
    for (heading, lines) in sections.into_iter().filter(|(_, lines)| !lines.is_empty()) {
        writeln!(out, "\n{heading}")?;
        lines.iter().try_for_each(|line| writeln!(out, "  {line}"))?;
    }
    if !objects.is_empty() {
        writeln!(out, "\nobjects, in the order of writing")?;
        objects.iter().try_for_each(|(key, why)| writeln!(out, "  {key}  {why}"))?;
    }
    writeln!(out, "\nplan {digest}")
}

fn write_gates(out: &mut String, gates: &[Gate]) -> std::fmt::Result {
    if gates.iter().any(Gate::holds) {
        writeln!(out, "\nheld by")?;
    }
    for gate in gates.iter().filter(|gate| gate.holds()) {
        let Gate { code, class: kind, message, remedy, accepted: _ } = gate;
        writeln!(out, "  {code} ({})\n    {message}\n    -> {remedy}", class(*kind))?;
    }
    if gates.iter().any(|gate| gate.accepted) {
        writeln!(out, "\naccepted by the manifest")?;
    }
    for gate in gates.iter().filter(|gate| gate.accepted) {
        writeln!(out, "  {}\n    {}", gate.code, gate.message)?;
    }
    Ok(())
}

fn write_table(out: &mut String, rows: &[Row]) -> std::fmt::Result {
    if rows.is_empty() {
        return Ok(());
    }
    let width = rows.iter().map(|row| row.resource.len()).max().unwrap_or_default();
    let shown: Vec<usize> =
        (0..COLUMNS.len()).filter(|column| rows.iter().any(|row| row.counts[*column] > 0)).collect();
    write!(out, "\n  {:width$}", "")?;
    shown.iter().try_for_each(|column| write!(out, "  {}", COLUMNS[*column]))?;
    writeln!(out)?;
    for Row { resource, counts } in rows {
        write!(out, "  {resource:width$}")?;
        for column in &shown {
            let number = match counts[*column] {
                0 => ".".to_owned(),
                number => number.to_string(),
            };
            let width = COLUMNS[*column].len();
            write!(out, "  {number:>width$}")?;
        }
        writeln!(out)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
