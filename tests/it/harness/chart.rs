//! A chart of ours with the shape of Rancher's (`tests/fixtures/rancher-chart`), packaged at the versions that tests want.
//!
//! A Deployment `rancher` whose image has the chart's appVersion, and what stands beside it; from 2.10 on two ConfigMaps
//! more, one of which is to be kept; hooks before an upgrade and after a rollback; a definition. With the value `hookJob`
//! one hook is a Job that Helm waits for until a node has the label `NAMESPACE/hook: "yes"`.

use std::path::{Path, PathBuf};

use super::{Cluster, fixture};

/// Packages the chart at `version` into `folder`, and gives where it lies.
pub fn packaged(cluster: &Cluster, folder: &Path, version: &str) -> PathBuf {
    let chart = fixture("rancher-chart");
    let (version_flag, app_version) = (format!("--version={version}"), format!("--app-version=v{version}"));
    let folder_flag = format!("--destination={}", folder.display());
    let args = ["package", path(&chart), &version_flag, &app_version, &folder_flag];
    cluster.helm(&args).expect("the chart is whole");
    folder.join(format!("rancher-{version}.tgz"))
}

pub fn path(path: &Path) -> &str {
    path.to_str().expect("the paths of tests are plain")
}
