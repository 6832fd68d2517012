//! The spec of a `Rollback`: data and version in one manifest.

use super::report::{Fields, one_of};
use super::restore::{self, RestoreSpec};
use super::text::quoted;

/// What to go back to.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RollbackSpec {
    /// With a leading `v`, such as `v2.9.3`.
    pub to_version: String,
    /// `None`: the version only.
    pub restore: Option<RestoreSpec>,
    pub version_method: VersionMethod,
    /// The Helm revision to go back to; `None`: the newest that fits.
    pub revision: Option<u32>,
    /// A chart archive in the source repository, relative to its root.
    pub chart: Option<String>,
}

/// How the version is changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VersionMethod {
    /// Helm where there is a release, else the image.
    #[default]
    Auto,
    Helm,
    Image,
}

const ROLLBACK_FIELDS: &[&str] = &["toVersion", "restore", "versionMethod", "revision", "chart"];

pub(super) fn read_field(root: &Fields<'_>, field: &str) -> Option<RollbackSpec> {
    if root.get(field).is_none() {
        root.missing(field, "write at least `toVersion`");
        return None;
    }
    let spec = root.open_field(field, ROLLBACK_FIELDS)?;
    if spec.get("toVersion").is_none() {
        spec.missing("toVersion", "name the version of Rancher to go back to, such as v2.9.3");
    }
    let to_version = spec.parsed("toVersion", version);
    let restore = spec.get("restore").and_then(|_| restore::read_field(&spec, "restore"));
    let version_method = spec.parsed("versionMethod", |text| {
        one_of(text, &[("auto", VersionMethod::Auto), ("helm", VersionMethod::Helm), ("image", VersionMethod::Image)])
    });
    let revision = spec.integer("revision", 1..=u64::from(u32::MAX));
    let chart = spec.parsed("chart", chart);
    if version_method == Some(VersionMethod::Image) {
        for name in ["revision", "chart"] {
            if let Some(node) = spec.get(name) {
                let message = format!("`{}` means nothing with `versionMethod: image`: remove one", spec.path(name));
                root.report().error(node.at, message);
            }
        }
    }
    Some(RollbackSpec {
        to_version: to_version?,
        restore,
        version_method: version_method.unwrap_or_default(),
        revision: revision.and_then(|revision| u32::try_from(revision).ok()),
        chart,
    })
}

/// Three numbers, a pre-release such as `-rc1`, and build metadata, as Rancher tags its images.
fn version(text: &str) -> Result<String, String> {
    let plain = text.strip_prefix('v').unwrap_or(text);
    let (rest, build) = plain.split_once('+').map_or((plain, None), |(rest, build)| (rest, Some(build)));
    let (core, pre) = rest.split_once('-').map_or((rest, None), |(core, pre)| (core, Some(pre)));
    let number = |part: &str| {
        (1..=6).contains(&part.len())
            && part.chars().all(|c| c.is_ascii_digit())
            && (part == "0" || !part.starts_with('0'))
    };
    let word = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    let words = |text: Option<&str>| text.is_none_or(|text| text.split('.').all(word));
    let numbers: Vec<_> = core.split('.').collect();
    let valid = numbers.len() == 3 && numbers.into_iter().all(number) && words(pre) && words(build);
    if valid && text.len() <= 64 {
        return Ok(format!("v{plain}"));
    }
    Err(format!("is not a version: {}; write all three numbers, such as v2.9.3", quoted(text)))
}

fn chart(text: &str) -> Result<String, String> {
    let unsafe_part = |part: &str| matches!(part, "" | "." | ".." | ".git");
    if text.contains("://") {
        return Err(format!("is a path in the source repository, not a URL: {}", quoted(text)));
    }
    if text.len() > 1024
        || text.contains('\\')
        || text.chars().any(char::is_control)
        || text.split('/').any(unsafe_part)
    {
        return Err(format!(
            "must be a path from the root of the source repository, without `.`, `..` or a leading `/`: {}",
            quoted(text)
        ));
    }
    if !text.ends_with(".tgz") {
        return Err(format!(
            "must be a packaged chart that ends in `.tgz`: {}; `helm package` makes one",
            quoted(text)
        ));
    }
    Ok(text.to_owned())
}
