//! Webhooks that the writes of a plan pass and that nobody answers.

use super::{View, count, listed};
use crate::plan::gate::{Gate, GateCode};
use crate::plan::printable;
use crate::plan::silence::{DeadAdmission, DeadConversion, Unanswered, unanswered};

/// A run that is under way has judged it; what it took down itself is down.
pub(super) fn webhook_unavailable(view: &View<'_>) -> Option<Gate> {
    if view.resuming() {
        return None;
    }
    let Unanswered { admission, conversion } = unanswered(view.plan, view.backup?, view.observed);
    let lost: Vec<&str> = conversion.iter().filter(|dead| !dead.needless).map(|dead| dead.name.as_str()).collect();
    let can_be_silenced = !admission.is_empty() || conversion.iter().any(|dead| dead.needless);
    let parts = [
        (!admission.is_empty())
            .then(|| format!("writes are refused, since nobody answers {}", listed(admission.iter().map(told)))),
        (!conversion.is_empty()).then(|| {
            let types = listed(conversion.iter().map(told_conversion));
            format!("objects can be neither read nor written, since nobody converts {types}")
        }),
        (!lost.is_empty()).then(|| {
            format!(
                "accepting does not help with {}: not all objects are written in the one version in which they are \
                 stored, so that they have to be converted",
                listed(&lost)
            )
        }),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    let effect = match (can_be_silenced, lost.is_empty()) {
        (true, true) => SILENCES.to_owned(),
        (true, false) => format!("{SILENCES}; {FAILS}"),
        (false, _) => FAILS.to_owned(),
    };
    (!parts.is_empty()).then(|| {
        let other_way = "bring up what answers them, or remove the configurations of what is gone";
        view.acceptable(GateCode::WebhookUnavailable, parts.join("; "), other_way, &effect)
    })
}

const SILENCES: &str = "silences them while it writes, with `failurePolicy: Ignore` or the conversion `None`; what they \
                        had is journaled and comes back when the run ends";
const FAILS: &str = "objects that have to be converted are tried all the same, and fail by name";

fn told(dead: &DeadAdmission) -> String {
    let DeadAdmission { webhook, why, asked } = dead;
    format!("{} ({why}; asked about {})", printable(&webhook.to_string()), count(*asked, "write"))
}

fn told_conversion(dead: &DeadConversion) -> String {
    let DeadConversion { name, why, writes, needless: _ } = dead;
    match why {
        Some(why) => format!("{name} ({why}; {})", count(*writes, "write")),
        None => format!("{name} (they could not be listed)"),
    }
}
