//! Whether Rancher is well after its version was set: one line a check, judged from what was asked of it.
//!
//! Pure: raw answers come in, verdicts go out. A check that could not be asked is neither passed nor failed, and says
//! so. Nothing secret is told: of settings their names, of conditions their reasons, of answers a version.

mod charts;
mod clusters;
mod rollout;
mod serving;
mod settings;
mod web;

use std::collections::BTreeSet;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use charts::system_charts;
pub use clusters::{ClusterNow, clusters};
pub use rollout::rollout;
pub use serving::{Serving, api_services, webhook};
pub use settings::{Setting, settings};
pub use web::{Reply, health, version};

use crate::rancher::Version;
use crate::run::{cut, steers};

/// What is looked at; the words of `policy.verify.required`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum CheckName {
    /// All pods of Rancher are new, Ready and of the right image, and no old one is left.
    Rollout,
    /// `/healthz` and `/ping`.
    Health,
    /// `/rancherversion`.
    Version,
    /// Settings whose value does not come from the environment are as the backup has them.
    Settings,
    /// rancher-webhook is Ready, and somebody answers the webhook configurations of Rancher.
    Webhook,
    /// What Rancher serves in the API server is available.
    ApiServices,
    /// Charts that Rancher installs by itself are at the versions that its settings name.
    SystemCharts,
    /// Downstream clusters that were connected before the run are so again.
    Clusters,
}

impl CheckName {
    /// In the order in which they are told.
    pub const ALL: [Self; 8] = [
        Self::Rollout,
        Self::Health,
        Self::Version,
        Self::Settings,
        Self::Webhook,
        Self::ApiServices,
        Self::SystemCharts,
        Self::Clusters,
    ];

    /// The stable word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rollout => "rollout",
            Self::Health => "health",
            Self::Version => "version",
            Self::Settings => "settings",
            Self::Webhook => "webhook",
            Self::ApiServices => "apiServices",
            Self::SystemCharts => "systemCharts",
            Self::Clusters => "clusters",
        }
    }
}

impl fmt::Display for CheckName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Outcome {
    Passed,
    Failed,
    /// Nobody could be asked: it is not known.
    NotAsked,
}

impl Outcome {
    /// As people read it.
    pub fn words(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::NotAsked => "not asked",
        }
    }
}

/// One check of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    pub name: CheckName,
    /// The run is only `Succeeded` when it passes, or, where it is required by default, cannot be asked.
    pub required: bool,
    pub outcome: Outcome,
    /// A sentence for a person.
    pub message: String,
    /// A line each for what is looked at one by one, such as clusters, what is wrong first; at most [`LINES_KEPT`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<String>,
}

/// Lines kept of one check; the last says how many more there were.
pub const LINES_KEPT: usize = 50;
/// Longest line that is kept, in bytes: nearly all names that people give are shorter by far.
const LINE_MAX_BYTES: usize = 200;
/// Longest message that is kept, in bytes. Eight checks of fifty lines are 85 KiB of a status file at most.
const MESSAGE_MAX_BYTES: usize = 512;

impl Check {
    pub fn new(name: CheckName, required: bool, Judged { outcome, message, lines }: Judged) -> Self {
        let mut check = Self { name, required, outcome, message, lines };
        check.bound();
        check
    }

    /// Cuts message and lines to what a `Run` may hold.
    pub fn bound(&mut self) {
        let Self { name: _, required: _, outcome: _, message, lines } = self;
        *message = cut(message, MESSAGE_MAX_BYTES);
        if lines.len() > LINES_KEPT {
            let more = lines.len() - (LINES_KEPT - 1);
            lines.truncate(LINES_KEPT - 1);
            lines.push(format!("and {more} more"));
        }
        lines.iter_mut().for_each(|line| *line = cut(line, LINE_MAX_BYTES));
    }
}

/// What was found out of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    pub outcome: Outcome,
    pub message: String,
    pub lines: Vec<String>,
}

impl Judged {
    pub fn passed(message: impl Into<String>) -> Self {
        Self { outcome: Outcome::Passed, message: message.into(), lines: Vec::new() }
    }

    pub fn failed(message: impl Into<String>) -> Self {
        Self { outcome: Outcome::Failed, message: message.into(), lines: Vec::new() }
    }

    pub fn not_asked(message: impl Into<String>) -> Self {
        Self { outcome: Outcome::NotAsked, message: message.into(), lines: Vec::new() }
    }

    fn with(self, lines: Vec<String>) -> Self {
        Self { lines, ..self }
    }

    pub fn is_passed(&self) -> bool {
        self.outcome == Outcome::Passed
    }
}

/// Which checks a run must pass.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Requirements {
    /// Those that say that Rancher runs and which one it is. One that cannot be asked is told, and fails nothing: the
    /// network may not let us ask.
    #[default]
    Usual,
    /// Those that somebody listed. One of them that cannot be asked fails the run: it was asked for by name.
    Listed(BTreeSet<CheckName>),
}

impl Requirements {
    const USUAL: [CheckName; 3] = [CheckName::Rollout, CheckName::Health, CheckName::Version];

    pub fn require(&self, name: CheckName) -> bool {
        match self {
            Self::Usual => Self::USUAL.contains(&name),
            Self::Listed(listed) => listed.contains(&name),
        }
    }

    /// The check keeps the run from succeeding.
    fn fail(&self, check: &Check) -> bool {
        match (self.require(check.name), check.outcome) {
            (false, _) | (true, Outcome::Passed) => false,
            (true, Outcome::Failed) => true,
            (true, Outcome::NotAsked) => matches!(self, Self::Listed(_)),
        }
    }
}

/// What the checks of a run mean for it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdict {
    /// Why the run does not succeed; `None` when it does.
    pub failure: Option<String>,
    /// What did not pass and keeps nothing from succeeding.
    pub warnings: Vec<String>,
}

/// Judges all checks together.
pub fn verdict(checks: &[Check], requirements: &Requirements) -> Verdict {
    let (failing, rest): (Vec<&Check>, Vec<&Check>) = checks.iter().partition(|check| requirements.fail(check));
    let told = |check: &Check| {
        let Check { name, required: _, outcome, message, lines: _ } = check;
        match outcome {
            Outcome::NotAsked => format!("{name} could not be asked: {message}"),
            Outcome::Failed | Outcome::Passed => format!("{name}: {message}"),
        }
    };
    let failure = failing.iter().map(|check| told(check)).collect::<Vec<_>>().join("; ");
    let warnings = rest.into_iter().filter(|check| check.outcome != Outcome::Passed).map(|check| {
        let required = if requirements.require(check.name) { ", which is required where it can be," } else { "" };
        match check.outcome {
            Outcome::NotAsked => format!("the check {}{required} could not be asked: {}", check.name, check.message),
            Outcome::Failed | Outcome::Passed => format!("the check {} did not pass: {}", check.name, check.message),
        }
    });
    Verdict { warnings: warnings.collect(), failure: (!failing.is_empty()).then_some(failure) }
}

/// Two names of one version: `v2.9.3` and `2.9.3`. What is no version is compared as text.
fn is_version(said: &str, wanted: &str) -> bool {
    match (said.parse::<Version>(), wanted.parse::<Version>()) {
        (Ok(said), Ok(wanted)) => said == wanted,
        _ => said == wanted,
    }
}

/// A word of somebody else's, short and on one line.
fn word(text: &str) -> String {
    const MOST: usize = 64;
    let cut = if text.chars().nth(MOST).is_some() { "…" } else { "" };
    let kept: String = text.chars().take(MOST).map(|c| if steers(c) { ' ' } else { c }).collect();
    format!("{kept}{cut}")
}

#[cfg(test)]
mod tests;
