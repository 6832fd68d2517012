//! A packaged chart, read as far as a plan needs it: what it is called, and which versions of what it is of.

use std::io::Read;

use flate2::read::GzDecoder;
use serde::Deserialize;
use tar::Archive;

use super::{Constraint, NotAConstraint};
use crate::rancher::Version;

/// Largest archive that is read, in bytes, and most that it may unpack to, as Helm has it (`pkg/chart/loader`).
pub const MAX_ARCHIVE_BYTES: usize = 16 << 20;
const MAX_UNPACKED_BYTES: u64 = 100 << 20;
const MAX_ENTRIES: usize = 20_000;
/// Longest `Chart.yaml`, in bytes.
const MAX_ABOUT_BYTES: u64 = 64 << 10;

/// What a packaged chart says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChartArchive {
    pub name: String,
    pub version: String,
    /// Empty where it says none.
    #[serde(default)]
    pub app_version: String,
    pub kube_version: Option<String>,
}

/// A file that is no packaged chart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not a packaged chart: {0}; `helm package` makes one")]
pub struct NotAChart(&'static str);

impl ChartArchive {
    /// Reads the `Chart.yaml` of an archive, and the archive to its end, so that one that is cut off is found before Helm
    /// is run with it.
    pub fn read(archive: &[u8]) -> Result<Self, NotAChart> {
        if archive.len() > MAX_ARCHIVE_BYTES {
            return Err(NotAChart("it has more than 16 MiB"));
        }
        // Only what is in the folder itself: below `charts/` there are others.
        let mut unpacked = GzDecoder::new(archive).take(MAX_UNPACKED_BYTES);
        let broken = |_| NotAChart("its gzip or tar is broken, or unpacks to more than 100 MiB");
        let mut about = None;
        for (number, entry) in Archive::new(&mut unpacked).entries().map_err(broken)?.enumerate() {
            let entry = entry.map_err(broken)?;
            if number == MAX_ENTRIES {
                return Err(NotAChart("it has more than 20,000 files"));
            }
            let path = entry.path_bytes();
            let is_about = matches!(path.split(|byte| *byte == b'/').collect::<Vec<_>>()[..], [_, b"Chart.yaml"]);
            if is_about && about.is_none() {
                let mut text = String::new();
                entry.take(MAX_ABOUT_BYTES).read_to_string(&mut text).map_err(broken)?;
                about = Some(text);
            }
        }
        // Behind the last file are zeros, and the checksum of all.
        std::io::copy(&mut unpacked, &mut std::io::sink()).map_err(broken)?;
        let about = about.ok_or(NotAChart("it has no folder with a Chart.yaml"))?;
        let about: Self =
            serde_yaml::from_str(&about).map_err(|_| NotAChart("its Chart.yaml is not that of a chart"))?;
        match about.name.is_empty() || about.version.is_empty() {
            true => Err(NotAChart("its Chart.yaml is not that of a chart")),
            false => Ok(about),
        }
    }

    /// Which version of Rancher it is, where it is a chart of Rancher's.
    pub fn rancher_version(&self) -> Option<Version> {
        self.app_version.parse().ok()
    }

    /// Which versions of Kubernetes it takes; an error where it says so in a way that Helm does not read either.
    pub fn constraint(&self) -> Result<Option<Constraint>, NotAConstraint> {
        self.kube_version.as_deref().filter(|range| !range.is_empty()).map(str::parse).transpose()
    }
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use tar::{Builder, Header};

    use super::*;

    fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut tar = Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        for (path, content) in files {
            let mut header = Header::new_gnu();
            header.set_size(content.len() as u64);
            tar.append_data(&mut header, path, *content).unwrap();
        }
        tar.into_inner().unwrap().finish().unwrap()
    }

    const ABOUT: &[u8] =
        b"apiVersion: v2\nname: rancher\nversion: 2.9.3\nappVersion: v2.9.3\nkubeVersion: '< 1.31.0-0'\nicon: x\n";

    #[test]
    fn a_chart_says_what_it_is_and_which_kubernetes_it_takes() {
        let sub = b"name: other\nversion: 1.0.0\n";
        let chart = archive(&[
            ("rancher/charts/other/Chart.yaml", sub),
            ("rancher/Chart.yaml", ABOUT),
            ("rancher/values.yaml", b"a: 1"),
        ]);
        let chart = ChartArchive::read(&chart).unwrap();
        assert_eq!((chart.name.as_str(), chart.rancher_version()), ("rancher", Some(Version::new(2, 9, 3))));
        let range = chart.constraint().unwrap().unwrap();
        assert!(range.takes("v1.30.9+k3s1") && !range.takes("v1.31.0"));
        let plain = ChartArchive::read(&archive(&[("a/Chart.yaml", b"name: a\nversion: 1.0.0\n")])).unwrap();
        assert_eq!((plain.rancher_version(), plain.constraint()), (None, Ok(None)));
    }

    #[test]
    fn what_is_no_chart_is_told_without_its_content() {
        let told = |archive: &[u8]| ChartArchive::read(archive).unwrap_err().to_string();
        insta::assert_snapshot!(told(b"hunter2"), @"it is not a packaged chart: its gzip or tar is broken, or unpacks to more than 100 MiB; `helm package` makes one");
        insta::assert_snapshot!(told(&archive(&[("Chart.yaml", ABOUT)])), @"it is not a packaged chart: it has no folder with a Chart.yaml; `helm package` makes one");
        insta::assert_snapshot!(told(&archive(&[("a/Chart.yaml", b"name: [hunter2]")])), @"it is not a packaged chart: its Chart.yaml is not that of a chart; `helm package` makes one");
        let whole = archive(&[("a/Chart.yaml", ABOUT), ("a/b", &[7; 1 << 16])]);
        insta::assert_snapshot!(told(&whole[..whole.len() - 40]), @"it is not a packaged chart: its gzip or tar is broken, or unpacks to more than 100 MiB; `helm package` makes one");
        insta::assert_snapshot!(told(&vec![0; MAX_ARCHIVE_BYTES + 1]), @"it is not a packaged chart: it has more than 16 MiB; `helm package` makes one");
        let bomb = vec![0; 101 << 20];
        insta::assert_snapshot!(told(&archive(&[("a/Chart.yaml", ABOUT), ("a/b", &bomb)])), @"it is not a packaged chart: its gzip or tar is broken, or unpacks to more than 100 MiB; `helm package` makes one");
    }
}
