//! Helm releases, read: their revisions, what each consists of, and which of them a version is in.
//!
//! Helm keeps a revision as JSON, gzipped, in base64, in the field `release` of a Secret, which is base64 once more
//! (Helm 3 and 4, `pkg/storage/driver`); with `HELM_DRIVER=configmap` in a ConfigMap, which is not. Releases of before
//! Helm compressed them are plain JSON inside. What is read here is never written back by us: that is Helm's.

mod archive;
mod constraint;
mod history;
mod objects;

use std::fmt;
use std::io::Read as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::read::GzDecoder;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

pub use archive::{ChartArchive, MAX_ARCHIVE_BYTES, NotAChart};
pub use constraint::{Constraint, NotAConstraint};
pub use history::{History, leftovers};
pub use objects::{DeploymentShape, ReleaseObject, says_keep};

use crate::rancher::Version;

/// Longest release that is read, in bytes of JSON. A Secret holds at most 1 MiB, which gzip may have made of far more.
const MAX_RELEASE_BYTES: u64 = 32 << 20;
/// What a gzip stream begins with, with the only method that there is (RFC 1952, 2.3.1); Helm asks for these three.
const GZIP: &[u8] = &[0x1f, 0x8b, 0x08];

const NOT_A_RELEASE: &str = "its JSON is not that of a release";

/// One revision of a release, without what is large in it (templates, files) and what may be secret.
///
/// Its description is not here: that of a failed revision quotes what the API server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    pub name: String,
    pub namespace: String,
    pub number: u64,
    pub status: Status,
    /// It was deployed once: it is, or it was until a newer one superseded it. Helm also calls those superseded that
    /// failed or were interrupted before a rollback that failed (`pkg/action/rollback.go`).
    pub was_deployed: bool,
    /// Of a rollback, the revision that it goes back to, in whichever state.
    pub rollback_to: Option<u64>,
    pub chart_name: String,
    pub chart_version: String,
    /// As the chart says it; empty where it says none.
    pub app_version: String,
    /// Which versions of Kubernetes the chart takes; see [`Constraint`].
    pub kube_version: Option<String>,
    /// What was given beside the chart's own values; `None` where that is nothing.
    pub values: Option<Values>,
    /// What its manifest holds, hooks and the chart's `crds/` apart.
    pub objects: Vec<ReleaseObject>,
    /// What its manifest says of its Deployments.
    pub deployments: Vec<DeploymentShape>,
    /// Helm 4 applied it on the server, and so stops at a conflict with another field manager.
    pub server_side: bool,
}

impl Revision {
    /// Which version of Rancher it is, where it is a chart of Rancher's.
    pub fn version(&self) -> Option<Version> {
        self.app_version.parse().ok()
    }

    /// What its manifest says of a Deployment in the namespace of the release.
    pub fn deployment(&self, name: &str) -> Option<&DeploymentShape> {
        let here = |shape: &&DeploymentShape| shape.namespace.as_ref().is_none_or(|other| *other == self.namespace);
        self.deployments.iter().filter(here).find(|shape| shape.name == name)
    }

    /// Which replicas its manifest gives a Deployment; `None` where it has no such Deployment, or leaves them to others.
    pub fn replicas(&self, deployment: &str) -> Option<i64> {
        self.deployment(deployment)?.replicas
    }

    /// The image of the first container of a Deployment.
    pub fn image(&self, deployment: &str) -> Option<&str> {
        self.deployment(deployment)?.image.as_deref()
    }

    /// Which versions of Kubernetes its chart takes; an error where it says so in a way that Helm does not read either.
    pub fn constraint(&self) -> Result<Option<Constraint>, NotAConstraint> {
        self.kube_version.as_deref().map(str::parse).transpose()
    }
}

/// What state Helm says that a revision is in (`pkg/release/common/status.go` of Helm 4, the same as in Helm 3).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    Deployed,
    Superseded,
    Failed,
    Uninstalled,
    Uninstalling,
    PendingInstall,
    PendingUpgrade,
    PendingRollback,
    /// `unknown`, or a word that neither has.
    #[default]
    #[serde(other)]
    Unknown,
}

impl Status {
    /// Somebody is at it, or was killed over it.
    pub fn is_pending(self) -> bool {
        match self {
            Self::PendingInstall | Self::PendingUpgrade | Self::PendingRollback => true,
            Self::Unknown
            | Self::Deployed
            | Self::Superseded
            | Self::Failed
            | Self::Uninstalled
            | Self::Uninstalling => false,
        }
    }
}

/// The word that `helm history` has for it.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown",
            Self::Deployed => "deployed",
            Self::Superseded => "superseded",
            Self::Failed => "failed",
            Self::Uninstalled => "uninstalled",
            Self::Uninstalling => "uninstalling",
            Self::PendingInstall => "pending-install",
            Self::PendingUpgrade => "pending-upgrade",
            Self::PendingRollback => "pending-rollback",
        })
    }
}

/// The values that a revision was made with, as JSON. They hold passwords and keys, and so are not printed.
#[derive(Clone)]
pub struct Values(SecretString);

impl Values {
    /// The JSON, which `helm --values` reads as it is, for JSON is YAML.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Values([not shown])")
    }
}

impl PartialEq for Values {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for Values {}

/// A Secret that is not a revision as Helm writes it. Nothing of its content is kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{secret} is not a Helm release that can be read: {problem}")]
pub struct Unread {
    /// Name of the Secret, or of the ConfigMap.
    pub secret: String,
    /// The number in its name, where it ends like one of Helm's (`….v12`).
    pub number: Option<u64>,
    problem: &'static str,
}

/// Reads a release Secret, or such a ConfigMap.
///
/// # Errors
///
/// `Unread` for one that is not as Helm writes it, is larger than any that fits into a Secret would sensibly be, or whose
/// manifest is not YAML.
pub fn read(secret: &Value) -> Result<Revision, Unread> {
    let of = |problem| unread(secret, problem);
    let release: Release =
        serde_json::from_slice(&unpack(secret).map_err(of)?).map_err(|_may_quote_a_secret| of(NOT_A_RELEASE))?;
    revision(release).map_err(of)
}

/// The name of the Secret, or of the ConfigMap, that holds a revision (`pkg/storage/storage.go`).
pub fn secret_name(release: &str, number: u64) -> String {
    format!("sh.helm.release.v1.{release}.v{number}")
}

/// The JSON of a release as it is. It holds values, and so what may be secret.
pub(crate) fn body(secret: &Value) -> Result<Value, Unread> {
    let of = |problem| unread(secret, problem);
    serde_json::from_slice(&unpack(secret).map_err(of)?).map_err(|_may_quote_a_secret| of(NOT_A_RELEASE))
}

fn unread(secret: &Value, problem: &'static str) -> Unread {
    let name = secret.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let number = name.rsplit_once(".v").and_then(|(_, number)| number.parse().ok());
    Unread { secret: name.to_owned(), number, problem }
}

/// The JSON of a release.
fn unpack(secret: &Value) -> Result<Vec<u8>, &'static str> {
    let text = secret.pointer("/data/release").and_then(Value::as_str).ok_or("it has no `data.release`")?;
    let mut bytes = BASE64.decode(text).map_err(|_| "it is not base64")?;
    // A Secret's data is base64 by itself, a ConfigMap's is not; neither gzip nor JSON begins like base64.
    if !is_release(&bytes) {
        bytes = BASE64.decode(&bytes).map_err(|_| "what it holds is neither base64, gzip nor JSON")?;
    }
    if !bytes.starts_with(GZIP) {
        return Ok(bytes);
    }
    let mut json = Vec::new();
    let read = GzDecoder::new(bytes.as_slice()).take(MAX_RELEASE_BYTES + 1).read_to_end(&mut json);
    read.map_err(|_| "its gzip is broken")?;
    match json.len() as u64 > MAX_RELEASE_BYTES {
        true => Err("it unpacks to more than 32 MiB"),
        false => Ok(json),
    }
}

fn is_release(bytes: &[u8]) -> bool {
    bytes.starts_with(GZIP) || bytes.first() == Some(&b'{')
}

fn revision(release: Release) -> Result<Revision, &'static str> {
    let Release { name, namespace, version, info, chart, config, manifest, apply_method } = release;
    let Info { status, description, rollback_revision } = info.unwrap_or_default();
    let ChartMetadata { name: chart_name, version: chart_version, app_version, kube_version } =
        chart.and_then(|chart| chart.metadata).unwrap_or_default();
    if name.is_empty() || version == 0 {
        return Err("it has no name or no number");
    }
    let objects::Manifest { objects, deployments } = objects::read(&manifest)?;
    let was_deployed = match status {
        Status::Deployed => true,
        Status::Superseded => !is_of_unfinished(&description),
        _ => false,
    };
    Ok(Revision {
        name,
        namespace,
        number: version,
        status,
        was_deployed,
        rollback_to: rollback_revision.filter(|revision| *revision > 0).or_else(|| rolled_back(&description)),
        chart_name,
        chart_version,
        app_version,
        kube_version: Some(kube_version).filter(|range| !range.is_empty()),
        values: config.filter(|config| !matches!(config.get(), "null" | "{}")).map(values),
        objects,
        deployments,
        server_side: apply_method == "ssa",
    })
}

fn values(config: Box<RawValue>) -> Values {
    Values(SecretString::from(Box::<str>::from(config)))
}

/// What Helm 3 and 4 write of a revision that has not come to its end (`pkg/action/{install,upgrade,rollback}.go`), and
/// leave there when they call it superseded later. A rollback has the same words before and after.
fn is_of_unfinished(description: &str) -> bool {
    let failed = ["Upgrade \"", "Rollback \"", "Release \""].iter().any(|start| description.starts_with(start));
    matches!(description, "Preparing upgrade" | "Initial install underway")
        || failed && description.contains("\" failed: ")
        || description.starts_with("failed to render resource: ")
}

/// Helm 3 says only in words what a rollback goes back to.
fn rolled_back(description: &str) -> Option<u64> {
    description.strip_prefix("Rollback to ")?.parse().ok()
}

#[derive(Deserialize)]
struct Release {
    #[serde(default)]
    name: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    version: u64,
    info: Option<Info>,
    chart: Option<Chart>,
    config: Option<Box<RawValue>>,
    #[serde(default)]
    manifest: String,
    #[serde(default)]
    apply_method: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Info {
    status: Status,
    description: String,
    rollback_revision: Option<u64>,
}

#[derive(Deserialize)]
struct Chart {
    metadata: Option<ChartMetadata>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct ChartMetadata {
    name: String,
    version: String,
    app_version: String,
    kube_version: String,
}

#[cfg(test)]
mod tests;
