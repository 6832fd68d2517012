//! What the operator says of a Restore, by the conditions of its library (wrangler, `pkg/condition`).

use jiff::Timestamp;
use serde_json::{Value, json};

use super::api::{Api, Place, is_code, said, text};

/// How often a write of a status is tried again that met another's.
const TRIES: usize = 5;

pub fn place(name: &str) -> Place {
    Place::new(("resources.cattle.io", "v1", "restores"), None, name)
}

/// Reads a Restore, changes it and writes its status.
///
/// # Errors
///
/// What the operator would say; also when the Restore is gone.
pub async fn update(api: &Api, name: &Value, change: impl Fn(&mut Value)) -> Result<(), String> {
    let name = text(name);
    let place = place(&name);
    let mut tries = 0;
    loop {
        let live = api.get(&place).await.map_err(|error| said(&error))?;
        let mut restore = live.ok_or_else(|| format!("restores.resources.cattle.io \"{name}\" not found"))?;
        change(&mut restore);
        match api.replace_status(&place, &restore).await {
            Err(error) if is_code(&error, 409) && tries < TRIES => tries += 1,
            written => return written.map(drop).map_err(|error| said(&error)),
        }
    }
}

pub fn complete(restore: &mut Value, source: &str, now: Timestamp) {
    let generation = restore["metadata"]["generation"].clone();
    let ready = json!({"type": "Ready", "status": "True", "message": "Completed", "lastUpdateTime": time(now)});
    restore["status"] = json!({
        "conditions": [ready], "restoreCompletionTs": time(now), "observedGeneration": generation, "backupSource": source,
    });
}

/// Whether this failure has been told already.
pub fn tells(restore: &Value, message: &str) -> bool {
    let reconciling = condition(restore, "Reconciling");
    reconciling.is_some_and(|found| {
        found["status"] != "Unknown" && found["reason"] == "Error" && text(&found["message"]).contains(message)
    })
}

pub fn fail(restore: &mut Value, message: &str, now: Timestamp) {
    set(restore, "Reconciling", json!({"status": "False", "reason": "Error", "message": message}), now);
    set(restore, "Ready", json!({"message": "Retrying"}), now);
}

fn condition<'r>(restore: &'r Value, of: &str) -> Option<&'r Value> {
    restore["status"]["conditions"].as_array()?.iter().find(|found| found["type"] == of)
}

fn set(restore: &mut Value, of: &str, fields: Value, now: Timestamp) {
    if restore["status"]["conditions"].is_null() {
        restore["status"]["conditions"] = json!([]);
    }
    let Some(conditions) = restore["status"]["conditions"].as_array_mut() else { return };
    if conditions.iter().all(|found| found["type"] != of) {
        conditions.push(json!({"type": of, "status": "Unknown"}));
    }
    for found in conditions.iter_mut().filter(|found| found["type"] == of) {
        for (field, value) in fields.as_object().into_iter().flatten() {
            found[field] = value.clone();
        }
        found["lastUpdateTime"] = json!(time(now));
    }
}

fn time(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
