//! From which version of Rancher to which, and how it is set.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::gates::source::running;
use super::{Plan, printable};
use crate::journal::Step;
use crate::manifest::VersionMethod;
use crate::object::Resource;
use crate::observed::{BackupSeen, ChartFacts, ChartSeen, Observed};
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

impl VersionRequest {
    /// The packaged chart that may be installed, if no revision fits.
    pub fn chart(&self) -> Option<&str> {
        match self.method {
            VersionMethod::Auto | VersionMethod::Helm => self.chart.as_deref(),
            VersionMethod::Image => None,
        }
    }
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
    /// What a run before removed and is missing since: the declared version makes it when it runs, and it is made again before that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub makes: Vec<ObjectRef>,
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
    /// `helm upgrade` to a packaged chart of the source repository, where Helm has no revision to go back to.
    Chart {
        release: String,
        namespace: String,
        /// Path of the archive in the source repository.
        chart: String,
        chart_version: String,
        /// `sha256:…` of the archive.
        sha256: String,
        /// Commit at which the archive was read, and is read again. No part of what an approval covers: that would change it.
        commit: String,
        /// The revision whose values the chart is given; `None` where no revision has any.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        values: Option<u64>,
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
        self.way != Way::Keep || !self.makes.is_empty()
    }

    /// Helm makes it.
    pub fn by_helm(&self) -> bool {
        match self.way {
            Way::Helm { .. } | Way::Chart { .. } => true,
            Way::Keep | Way::Image { .. } => false,
        }
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
            Way::Chart { release, namespace, chart, chart_version, values, newest, sha256: _, commit: _ } => {
                write!(
                    f,
                    "from {from} to {} by helm upgrade of release {namespace}/{release} (now at {newest}) to the chart {} \
                     ({}) of the source, ",
                    self.to,
                    printable(chart),
                    printable(chart_version)
                )?;
                match values {
                    Some(revision) => write!(f, "with the values of revision {revision}"),
                    None => f.write_str("with its own values alone"),
                }
            }
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
        true => by_release(request, observed, is_there)?,
        false => by_image(request, observed)?,
    };
    let removes = match way {
        Way::Keep => Vec::new(),
        Way::Helm { .. } | Way::Chart { .. } | Way::Image { .. } => removes(&request.to, observed),
    };
    Ok(VersionChange { from, to: request.to.clone(), way, removes, makes: Vec::new() })
}

/// What of what a run before removed is made again. Where the version stays, an undo alone asks for it: whatever else runs at its version
/// makes its own, or was told not to.
pub fn makes(change: &VersionChange, undoes: bool, observed: &Observed) -> Vec<ObjectRef> {
    let Ok(to) = change.to.parse::<Version>() else { return Vec::new() };
    if change.way == Way::Keep && !undoes {
        return Vec::new();
    }
    let fits = observed.cluster.removed.iter().filter(|removed| to.numbers() >= removed.since);
    fits.map(|removed| removed.object.clone()).collect()
}

fn by_release(request: &VersionRequest, observed: &Observed, is_there: bool) -> Result<Way, NoWay> {
    let releases = &observed.cluster.releases;
    let Some(newest) = releases.newest() else {
        return Err(NoWay::Release {
            problem: "there is no Helm release of Rancher in its namespace".to_owned(),
            remedy: "write `versionMethod: image`, or install Rancher by Helm".to_owned(),
        });
    };
    let target = match request.revision {
        Some(number) => named(number, request, releases)?,
        None => match request.to.parse().ok().and_then(|to| releases.newest_of(&to)) {
            Some(target) => target,
            None => return by_chart(request, observed, newest),
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

/// No revision fits.
fn by_chart(request: &VersionRequest, observed: &Observed, newest: &Revision) -> Result<Way, NoWay> {
    let releases = &observed.cluster.releases;
    let problem = format!(
        "no revision of the Helm release {} that was deployed is of {}; it has {}",
        newest.name,
        request.to,
        listed(releases)
    );
    let Some(path) = request.chart() else {
        return Err(NoWay::Release {
            problem,
            remedy: "name in `chart` a packaged chart of that version in the source repository, write `versionMethod: image`, or \
                     bring Rancher to that version by Helm yourself and commit a Restore"
                .to_owned(),
        });
    };
    let facts = usable(request, observed, newest).map_err(|why| NoWay::Release {
        problem: format!("{problem}; and the chart {} cannot be installed: {why}", printable(path)),
        remedy: format!(
            "commit there the packaged chart of {} together with a change of the manifest, since it is read at the commit that \
             changed the manifest last; or write `versionMethod: image`",
            request.to
        ),
    })?;
    Ok(Way::Chart {
        release: newest.name.clone(),
        namespace: newest.namespace.clone(),
        chart: path.to_owned(),
        chart_version: facts.about.version.clone(),
        sha256: facts.sha256.clone(),
        commit: facts.commit.clone(),
        values: releases.newest_with_values().map(|revision| revision.number),
        newest: newest.number,
    })
}

/// What is known of the chart; `Err` says in a clause why it is not the one that is wanted.
fn usable<'o>(request: &VersionRequest, observed: &'o Observed, newest: &Revision) -> Result<&'o ChartFacts, String> {
    let facts = match &observed.chart {
        Some(ChartSeen::Packaged(facts)) => facts,
        Some(ChartSeen::Unusable(why)) => return Err(why.clone()),
        None => return Err("it was not looked for".to_owned()),
    };
    let about = &facts.about;
    if about.name != newest.chart_name {
        return Err(format!(
            "it is the chart {}, and the release is of {}",
            printable(&about.name),
            printable(&newest.chart_name)
        ));
    }
    if !is_same(&about.app_version, &request.to) {
        let version = match about.app_version.as_str() {
            "" => "no version".to_owned(),
            version => printable(version),
        };
        return Err(format!("its appVersion says {version}, and the manifest declares {}", request.to));
    }
    // Helm takes no Kubernetes for one that fits a range that it cannot read.
    match about.constraint() {
        Ok(_) => Ok(facts),
        Err(_) => Err(format!(
            "Helm cannot read its kubeVersion: {}",
            printable(about.kube_version.as_deref().unwrap_or_default())
        )),
    }
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
    match &change.way {
        Way::Helm { .. } if request.chart.is_some() => {
            warnings.push("`chart` is not needed: a revision of the release fits".to_owned());
        }
        Way::Image { .. } if request.chart().is_some() => {
            warnings.push("`chart` is not used: there is no Helm release of Rancher, and the image is set".to_owned());
        }
        Way::Chart { values, newest, .. } => warnings.push(of_values(*values, *newest)),
        Way::Keep | Way::Helm { .. } | Way::Image { .. } => {}
    }
    if !change.removes.is_empty() {
        warnings.push(format!(
            "deleted before the older Rancher starts, since only the newer one serves them: {}",
            super::gates::listed(&change.removes)
        ));
    }
    if !change.makes.is_empty() {
        warnings.push(format!(
            "made again before {} starts, since a run before deleted them: {}",
            change.to,
            super::gates::listed(&change.makes)
        ));
    }
    warnings
}

/// A stored revision is exactly what ran; a chart is that only with the values that it had.
fn of_values(values: Option<u64>, newest: u64) -> String {
    let given = match values {
        Some(revision) if revision == newest => format!("the chart is given the values of revision {revision}"),
        Some(revision) => {
            format!("the chart is given the values of revision {revision}, the newest that was made with any")
        }
        None => "no revision has values to give to the chart".to_owned(),
    };
    format!(
        "{given}; all else is as the chart has it by default, which may differ from what the Rancher of that version had here"
    )
}

#[cfg(test)]
pub(crate) mod tests;
