//! How much of a plan is done, by the cluster itself: it holds across processes, and nobody has to tell it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::past::stored_as;
use crate::observed::Observed;
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
        let backup = observed.backup.whole().map_or(&[][..], |backup| backup.objects.as_slice());
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_or_gone_is_done_and_scaling_is_no_write() {
        let stored = |objects: &[(&str, Value)]| -> Objects {
            objects.iter().map(|(place, object)| ((*place).to_owned(), Arc::new(object.clone()))).collect()
        };
        let setting = |version: &str| json!({"metadata": {"resourceVersion": version}});
        let deployment =
            |version: &str, image: &str| json!({"metadata": {"resourceVersion": version}, "spec": {"template": image}});
        let changes = Changes {
            writes: vec![
                ("made".to_owned(), None),
                ("changed".to_owned(), Some(mark(&setting("1")))),
                ("scaled".to_owned(), Some(mark(&deployment("2", "new")))),
            ],
            deletions: vec!["newer".to_owned()],
        };
        let before = [("changed", setting("1")), ("scaled", deployment("2", "new")), ("newer", setting("3"))];
        assert_eq!((changes.done(&stored(&before)), changes.total()), (0, 4));
        let midway = [
            ("made", setting("5")),
            ("changed", setting("1")),
            ("scaled", deployment("4", "new")),
            ("newer", setting("3")),
        ];
        assert_eq!(changes.done(&stored(&midway)), 1);
        let after = [("made", setting("5")), ("changed", setting("6")), ("scaled", deployment("7", "old"))];
        assert_eq!(changes.done(&stored(&after)), 4);
    }
}
