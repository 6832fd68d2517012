//! Charts that Rancher installs and sets back by itself.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Judged, word};
use crate::rancher::SYSTEM_CHARTS;

/// Judges the Apps (`apps.catalog.cattle.io`) by the versions that Rancher's settings name, given by name with their
/// effective values. A chart that is not installed, or of which no setting names a version, is told and not judged: which
/// of them there are is Rancher's affair.
pub fn system_charts(settings: &BTreeMap<String, String>, apps: &[Value]) -> Judged {
    let (mut right, mut wrong, mut rest) = (0_usize, Vec::new(), Vec::new());
    for (setting, chart) in SYSTEM_CHARTS {
        let wanted = settings.get(*setting).map(String::as_str).filter(|version| !version.is_empty());
        let Some(wanted) = wanted else { continue };
        let installed: Vec<&Value> = apps.iter().filter(|app| app_text(app, "name") == *chart).collect();
        if installed.is_empty() {
            rest.push(format!("{chart}: not installed"));
        }
        for app in installed {
            match problem(app, wanted) {
                None => right += 1,
                Some(problem) => wrong.push(format!("{chart}: {problem}")),
            }
        }
    }
    let judged = match wrong.len() {
        0 => Judged::passed(format!("{right} system charts are at the versions that Rancher's settings name")),
        count => Judged::failed(format!(
            "{count} of {} system charts are not yet as Rancher's settings name them; Rancher brings them there by itself, \
             within 6 hours or when its chart repository is refreshed",
            count + right
        )),
    };
    wrong.extend(rest);
    judged.with(wrong)
}

fn app_text<'a>(app: &'a Value, field: &str) -> &'a str {
    app["spec"]["chart"]["metadata"][field].as_str().unwrap_or_default()
}

fn problem(app: &Value, wanted: &str) -> Option<String> {
    let version = app_text(app, "version");
    if version != wanted {
        return Some(format!("at {}, to be at {}", word(version), word(wanted)));
    }
    let state = app.pointer("/status/summary/state").and_then(Value::as_str).unwrap_or("deployed");
    (state != "deployed").then(|| format!("at {}, in the state {}", word(version), word(state)))
}
