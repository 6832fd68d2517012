//! How much of a plan is done, by the cluster itself: it holds across processes, and nobody has to tell it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::past::stored_as;
use crate::observed::{BackupSeen, Observed};
use crate::plan::{Change, Plan};

/// Everything that is stored, by its place; see [`crate::sim::Sim::objects`].
pub type Objects = BTreeMap<String, Arc<Value>>;

/// What a plan writes and deletes, with how each object was before.
pub struct Changes {
    writes: Vec<(String, Option<Value>)>,
    deletions: Vec<String>,
}

impl Changes {
    /// Of a plan that was made while the cluster was as `now`.
    pub fn of(plan: &Plan, observed: &Observed, now: &Objects) -> Self {
        let backup = match &observed.backup {
            BackupSeen::Whole(backup) => backup.objects.as_slice(),
            BackupSeen::Missing { .. } | BackupSeen::Corrupt { .. } | BackupSeen::Encrypted { .. } => &[],
        };
        let writes = plan.items.iter().filter_map(|item| match item.change {
            Change::Create | Change::Update(_) | Change::Recreate => {
                let place = stored_as(&backup.get(item.backup as usize)?.key);
                let mark = now.get(&place).map(|object| mark(object));
                Some((place, mark))
            }
            Change::Skip | Change::Protected(_) | Change::NotServed => None,
        });
        let live = &observed.live.objects;
        let deletions = plan.deletions.iter().map(|deletion| stored_as(&live[deletion.live as usize].key));
        Self { writes: writes.collect(), deletions: deletions.collect() }
    }

    pub fn total(&self) -> usize {
        self.writes.len() + self.deletions.len()
    }

    pub fn done(&self, now: &Objects) -> usize {
        let is_written = |(place, before): &&(String, Option<Value>)| {
            now.get(place).is_some_and(|object| before.as_ref() != Some(&mark(object)))
        };
        let written = self.writes.iter().filter(is_written).count();
        written + self.deletions.iter().filter(|place| !now.contains_key(*place)).count()
    }
}

/// What changes with a write of the object: of a workload its template, as it is scaled meanwhile.
fn mark(object: &Value) -> Value {
    match &object["spec"]["template"] {
        Value::Null => object["metadata"]["resourceVersion"].clone(),
        template => template.clone(),
    }
}
