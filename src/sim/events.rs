//! Events, which two groups show in two forms; stored as the core group's.

use serde_json::{Value, json};

use super::meta;

/// Fields of `events.k8s.io/v1`, and the core group's.
const NAMES: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

pub fn to_core(mut event: Value) -> Value {
    for (new, core) in NAMES {
        rename(&mut event, new, core);
    }
    meta::default(&mut event, &["source"], json!({}));
    meta::default(&mut event, &["reportingInstance"], json!(""));
    for moment in ["firstTimestamp", "lastTimestamp"] {
        // Said also where there is none.
        meta::default(&mut event, &[moment], Value::Null);
    }
    event
}

pub fn from_core(mut event: Value) -> Value {
    for (new, core) in NAMES {
        rename(&mut event, core, new);
    }
    event
}

fn rename(event: &mut Value, from: &str, to: &str) {
    if let Some(fields) = event.as_object_mut()
        && let Some(value) = fields.remove(from)
    {
        fields.insert(to.to_owned(), value);
    }
}
