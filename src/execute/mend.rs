//! After the operator: the cluster is compared with the backup, and what did not come back is told.

use std::collections::BTreeMap;

use super::{Executor, LaidOut, StepError, Work};
use crate::journal::{self, Step};
use crate::observed::{Backup, BackupSeen};
use crate::plan::operator::{is_unread, overwrites};
use crate::plan::{Change, Differs, Item};
use crate::run::Counts;

/// Kinds of objects that are told, each with a few names; the rest is counted.
const KINDS_TOLD: usize = 20;
const NAMES_TOLD: usize = 3;

impl Executor {
    /// Nothing is compared where only the operator can read the backup. What follows, where something does, goes by what is laid
    /// out here.
    pub(super) async fn tell_what_is_not_back(&self, work: &mut Work) -> Result<(), StepError> {
        work.laid_out = None;
        if work.spool.is_none() {
            return Ok(());
        }
        let laid_out = self.lay_out(Step::Operator, work).await?;
        let mends = journal::steps(&work.recorder.status().journal).contains(&Step::Namespaced);
        let told = not_back(&laid_out, mends);
        told.iter().for_each(|line| work.recorder.warn(line));
        if !mends {
            work.counts = done(work, &laid_out);
        }
        Ok(())
    }
}

/// What was planned, without what remains.
fn done(work: &Work, laid_out: &LaidOut) -> Counts {
    let planned = work.recorder.status().plan.map(|plan| plan.counts).unwrap_or_default();
    let left = laid_out.plan.counts();
    // Where we prune, that is still to come.
    let prunes = journal::steps(&work.recorder.status().journal).contains(&Step::Prune);
    Counts {
        created: planned.created.saturating_sub(left.created),
        updated: planned.updated.saturating_sub(left.updated),
        recreated: planned.recreated.saturating_sub(left.recreated),
        deleted: if prunes { 0 } else { planned.deleted.saturating_sub(left.deleted) },
        skipped: planned.skipped,
        protected: planned.protected,
        failed: 0,
    }
}

/// A line for each type and reason.
fn not_back(laid_out: &LaidOut, mends: bool) -> Vec<String> {
    let BackupSeen::Whole(backup) = &laid_out.observed.backup else { return Vec::new() };
    let mut kinds: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for item in laid_out.plan.items.iter().filter(|item| is_not_back(item)) {
        let key = &backup.objects[item.backup as usize].key;
        let why = if is_unread(key) { "the operator takes it for its filters".to_owned() } else { reason(item.change) };
        kinds.entry((key.resource.group_resource(), why)).or_default().push(key.to_string());
    }
    let changed = protected_that_differ(laid_out, backup);
    let rest: usize = kinds.values().skip(KINDS_TOLD).map(Vec::len).sum();
    let mend = if mends { "; mended now" } else { "" };
    let mut lines: Vec<String> = kinds
        .iter()
        .take(KINDS_TOLD)
        .map(|((kind, why), names)| {
            let first = names.iter().take(NAMES_TOLD).cloned().collect::<Vec<_>>().join(", ");
            let more = names.len().saturating_sub(NAMES_TOLD);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("the operator did not bring back {} of {kind} ({why}): {first}{more}{mend}", names.len())
        })
        .collect();
    if !changed.is_empty() {
        let first = changed.iter().take(NAMES_TOLD).cloned().collect::<Vec<_>>().join(", ");
        lines.push(format!(
            "{} protected objects are not as the backup has them, or the operator took their owners away, and are left: {first}",
            changed.len()
        ));
    }
    if rest > 0 {
        lines.push(format!(
            "the operator did not bring back {rest} more objects of {} types{mend}",
            kinds.len() - KINDS_TOLD
        ));
    }
    lines
}

/// What nothing may change was as the backup has it when the run began, or the run had been refused.
fn protected_that_differ(laid_out: &LaidOut, backup: &Backup) -> Vec<String> {
    let differs = |item: &&Item| {
        let object = &backup.objects[item.backup as usize];
        let live = item.live.map(|index| &laid_out.observed.live.objects[index as usize]);
        matches!(item.change, Change::Protected(why) if overwrites(why, object, live))
    };
    let items = laid_out.plan.items.iter().filter(differs);
    items.map(|item| backup.objects[item.backup as usize].key.to_string()).collect()
}

/// Redeploy markers are asked for by each restore, and nothing that is missing.
fn is_not_back(item: &Item) -> bool {
    match item.change {
        Change::Create | Change::Recreate => true,
        Change::Update(Differs { spec, status, owners, redeploy: _ }) => spec || status || owners,
        Change::Skip | Change::Protected(_) | Change::NotServed => false,
    }
}

fn reason(change: Change) -> String {
    match change {
        Change::Create => "missing".to_owned(),
        Change::Update(Differs { spec, status, owners, redeploy: _ }) => {
            let parts = [(spec, "spec"), (status, "status"), (owners, "owner references")];
            let parts: Vec<&str> = parts.into_iter().filter_map(|(differs, part)| differs.then_some(part)).collect();
            format!("{} not as in the backup", parts.join(" and "))
        }
        Change::Recreate => "a field that never changes differs".to_owned(),
        Change::Skip | Change::Protected(_) | Change::NotServed => String::new(),
    }
}
