//! From which version of Rancher to which, and how it is set.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::gates::source::running;
use super::{Plan, printable};
use crate::journal::Step;
use crate::manifest::VersionMethod;
use crate::object::Resource;
use crate::observed::{BackupSeen, Observed};
use crate::rancher::{self, Version};
use crate::release::{History, Revision};

/// The version that a manifest declares, and what it says of how to get there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VersionRequest {
    /// With a leading `v`, such as `v2.9.3`.
    pub to: String,
    pub method: VersionMethod,
    /// The Helm revision that the manifest names.
    pub revision: Option<u64>,
    /// The packaged chart in the source repository that the manifest names.
    pub chart: Option<String>,
}

/// How the version of Rancher is set: kept in the `Run`, and what a run that is gone on with goes by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VersionChange {
    /// What ran when the plan was made; `None` where nothing says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// With a leading `v`.
    pub to: String,
    #[serde(flatten)]
    pub way: Way,
    /// What only the newer Rancher brought, and is deleted before the older one starts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removes: Vec<ObjectRef>,
}

/// An object, as a `Run` names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRef {
    /// `v1`, `apiregistration.k8s.io/v1`.
    pub api_version: String,
    /// Plural.
    pub resource: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    pub name: String,
}

impl ObjectRef {
    pub fn resource_type(&self) -> Resource {
        Resource::at(&self.api_version, &self.resource)
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { api_version: _, resource, namespace, name } = self;
        match namespace {
            Some(namespace) => write!(f, "{resource}/{namespace}/{name}"),
            None => write!(f, "{resource}/{name}"),
        }
    }
}

/// By what the version is set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "method", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Way {
    /// It runs already, as whoever installed it has it: nothing is set.
    Keep,
    /// `helm rollback`.
    Helm {
        release: String,
        namespace: String,
        /// The revision to go back to.
        revision: u64,
        /// The newest revision when the plan was made.
        newest: u64,
    },
    /// The tag of the Deployment's image. Helm does not learn of it.
    Image {
        /// The image to be.
        image: String,
        /// The image that the Deployment had when the plan was made.
        had: String,
    },
}

impl VersionChange {
    /// Something is written for it.
    pub fn sets(&self) -> bool {
        self.way != Way::Keep
    }

    /// Helm makes it.
    pub fn by_helm(&self) -> bool {
        matches!(self.way, Way::Helm { .. })
    }
}

impl fmt::Display for VersionChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = self.from.as_deref().map_or("an unknown version".to_owned(), printable);
        match &self.way {
            Way::Keep => write!(f, "{} runs already, and stays", self.to),
            Way::Helm { release, namespace, revision, newest } => write!(
                f,
                "from {from} to {} by helm rollback of release {namespace}/{release} to revision {revision} (now at {newest})",
                self.to
            ),
            Way::Image { image, had } => {
                write!(f, "from {from} to {} by image {}, now {}", self.to, printable(image), printable(had))
            }
        }
    }
}

/// Why a declared version cannot be set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoWay {
    /// There is no release of Rancher, or no revision of it that fits.
    Release { problem: String, remedy: String },
    /// The Deployment says nothing that an image could be made from.
    Image { problem: String },
}

/// By what the version that a manifest declares is set; `Err` says what keeps it from being set.
pub fn decide(request: &VersionRequest, observed: &Observed) -> Result<VersionChange, NoWay> {
    let cluster = &observed.cluster;
    let from = running(cluster).map(|running| running.text.to_owned());
    let is_there = from.as_deref().is_some_and(|from| is_same(from, &request.to));
    let by_helm = match request.method {
        VersionMethod::Auto => cluster.releases.newest().is_some(),
        VersionMethod::Helm => true,
        VersionMethod::Image => false,
    };
    let way = match by_helm {
        true => by_release(request, &cluster.releases, is_there)?,
        false => by_image(request, observed)?,
    };
    let removes = match way {
        Way::Keep => Vec::new(),
        Way::Helm { .. } | Way::Image { .. } => removes(&request.to, observed),
    };
    Ok(VersionChange { from, to: request.to.clone(), way, removes })
}

fn by_release(request: &VersionRequest, releases: &History, is_there: bool) -> Result<Way, NoWay> {
    let no_way = |problem: String, remedy: &str| NoWay::Release { problem, remedy: remedy.to_owned() };
    let Some(newest) = releases.newest() else {
        return Err(no_way(
            "there is no Helm release of Rancher in its namespace".to_owned(),
            "write `versionMethod: image`, or install Rancher by Helm",
        ));
    };
    let target = match request.revision {
        Some(number) => named(number, request, releases)?,
        None => match request.to.parse().ok().and_then(|to| releases.newest_of(&to)) {
            Some(target) => target,
            None => {
                return Err(no_way(
                    format!(
                        "no revision of the Helm release {} that was deployed is of {}; it has {}",
                        newest.name,
                        request.to,
                        listed(releases)
                    ),
                    "write `versionMethod: image`, or bring Rancher to that version by Helm yourself and commit a Restore",
                ));
            }
        },
    };
    let stands = releases.deployed().is_some_and(|deployed| is_same(&deployed.app_version, &request.to));
    if is_there && stands && request.revision.is_none_or(|number| number == newest.number) {
        return Ok(Way::Keep);
    }
    Ok(Way::Helm {
        release: newest.name.clone(),
        namespace: newest.namespace.clone(),
        revision: target.number,
        newest: newest.number,
    })
}

/// The revision that the manifest names.
fn named<'r>(number: u64, request: &VersionRequest, releases: &'r History) -> Result<&'r Revision, NoWay> {
    let Some(target) = releases.get(number) else {
        return Err(NoWay::Release {
            problem: format!("the Helm release has no revision {number}; it has {}", listed(releases)),
            remedy: "name a revision that is there, or none".to_owned(),
        });
    };
    match is_same(&target.app_version, &request.to) {
        true => Ok(target),
        false => Err(NoWay::Release {
            problem: format!(
                "revision {number} of the Helm release is of {}, and the manifest declares {}",
                printable(&target.app_version),
                request.to
            ),
            remedy: "name a revision of the declared version, or none; or declare the version of that revision"
                .to_owned(),
        }),
    }
}

/// Revisions in a sentence; of very many the newest.
fn listed(releases: &History) -> String {
    const SHOWN: usize = 10;
    let all = releases.revisions();
    let shown = all
        .iter()
        .rev()
        .take(SHOWN)
        .map(|revision| format!("{} ({}, {})", revision.number, printable(&revision.app_version), revision.status));
    let shown: Vec<String> = shown.collect();
    match all.len() > SHOWN {
        true => format!("{} and {} older", shown.join(", "), all.len() - SHOWN),
        false => shown.join(", "),
    }
}

fn by_image(request: &VersionRequest, observed: &Observed) -> Result<Way, NoWay> {
    let rancher = observed.cluster.workloads.iter().find(|workload| workload.rancher);
    let Some(had) = rancher.and_then(|rancher| rancher.image.as_deref()) else {
        return Err(NoWay::Image {
            problem: "there is no Deployment of Rancher with an image whose tag could be set".to_owned(),
        });
    };
    let image = rancher::with_tag(had, &request.to);
    match image == had {
        true => Ok(Way::Keep),
        false => Ok(Way::Image { image, had: had.to_owned() }),
    }
}

/// Two texts name the same version.
pub fn is_same(one: &str, other: &str) -> bool {
    match (one.parse::<Version>(), other.parse::<Version>()) {
        (Ok(one), Ok(other)) => one == other,
        _ => one == other,
    }
}

/// Of what newer versions bring, that which is there and which the target does not know.
fn removes(to: &str, observed: &Observed) -> Vec<ObjectRef> {
    let Ok(to) = to.parse::<Version>() else { return Vec::new() };
    let unknown = observed.cluster.brought.iter().filter(|brought| to.numbers() < brought.since);
    unknown.map(|brought| brought.object.clone()).collect()
}

/// What a Rancher since some version makes when it runs, as found in the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Brought {
    pub object: ObjectRef,
    pub since: (u64, u64, u64),
}

/// The steps of a run that sets a version, from those that its data takes.
pub fn steps(plan: &Plan, of_data: Vec<Step>) -> Vec<Step> {
    let sets = plan.version.as_ref().is_some_and(VersionChange::sets);
    let mut steps = of_data;
    if sets && let Some(resume) = steps.iter().position(|step| *step == Step::Resume) {
        steps.insert(resume, Step::SetVersion);
    }
    steps
}

/// The steps of data where a manifest names no backup.
pub fn without_data() -> Vec<Step> {
    vec![Step::Preflight, Step::Announce, Step::Quiesce, Step::SafetyBackup, Step::Resume, Step::Verify]
}

/// Sentences for the reader that hold nothing up.
pub fn warnings(change: &VersionChange, request: &VersionRequest, observed: &Observed) -> Vec<String> {
    let mut warnings = Vec::new();
    let version = |text: &str| text.parse::<Version>().ok();
    if let (Some(from), Some(to)) = (change.from.as_deref().and_then(version), version(&change.to)) {
        if from.major == to.major && from.minor > to.minor.saturating_add(1) {
            warnings.push(format!(
                "from {from} to {to} are {} minor versions: Rancher is only tested over one",
                from.minor - to.minor
            ));
        }
        if from < to {
            warnings.push(format!("{to} is newer than {from}, which runs: this is an upgrade, not a rollback"));
        }
    }
    if let Way::Image { image: _, had } = &change.way {
        if let Some(newest) = observed.cluster.releases.newest() {
            warnings.push(format!(
                "Helm will not know: its release {} stays at revision {} of {}, and the next `helm upgrade` brings that back",
                newest.name,
                newest.number,
                printable(&newest.app_version)
            ));
        }
        if had.contains('@') {
            warnings.push(format!(
                "the image is pinned by a digest, which is dropped, since it is that of another version: {}",
                printable(had)
            ));
        }
    }
    if matches!(observed.backup, BackupSeen::NotNamed) && change.sets() {
        warnings.push(
            "data stays as the newer Rancher has left it: an older one may not know what to do with it".to_owned(),
        );
    }
    if request.chart.is_some() && change.by_helm() {
        warnings.push("`chart` is not needed: a revision of the release fits".to_owned());
    }
    if !change.removes.is_empty() {
        warnings.push(format!(
            "deleted before the older Rancher starts, since only the newer one serves them: {}",
            super::gates::listed(&change.removes)
        ));
    }
    warnings
}

#[cfg(test)]
pub(crate) mod tests;
