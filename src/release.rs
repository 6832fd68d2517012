//! Helm release Secrets, read.
//!
//! Helm keeps a revision as JSON, gzipped, in base64, in the field `release` of a Secret, which is base64 once more
//! (Helm 3 and 4, `pkg/storage/driver`).

use std::io::Read as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::read::GzDecoder;
use serde::Deserialize;
use serde_json::Value;

/// Longest release that is read, in bytes of JSON. A Secret holds at most 1 MiB, which gzip may have made of far more.
const MAX_RELEASE_BYTES: u64 = 32 << 20;

/// Of several revisions, the one that Helm made last.
pub fn newest(releases: &[Value]) -> Option<&Value> {
    releases.iter().max_by_key(|release| revision(release))
}

fn revision(release: &Value) -> Option<u64> {
    release.pointer("/metadata/labels/version")?.as_str()?.parse().ok()
}

/// The `appVersion` of the chart of a release Secret; `None` for one that is not as Helm writes it.
pub fn app_version(secret: &Value) -> Option<String> {
    let outer = BASE64.decode(secret.pointer("/data/release")?.as_str()?).ok()?;
    let inner = BASE64.decode(outer).ok()?;
    let release: Release = serde_json::from_reader(GzDecoder::new(inner.as_slice()).take(MAX_RELEASE_BYTES)).ok()?;
    Some(release.chart.metadata.app_version).filter(|version| !version.is_empty())
}

#[derive(Deserialize)]
struct Release {
    chart: Chart,
}

#[derive(Deserialize)]
struct Chart {
    metadata: ChartMetadata,
}

#[derive(Deserialize)]
struct ChartMetadata {
    #[serde(rename = "appVersion", default)]
    app_version: String,
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use serde_json::json;

    use super::*;

    fn secret(revision: &str, json: &[u8]) -> Value {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(json).unwrap();
        let release = BASE64.encode(BASE64.encode(gzip.finish().unwrap()));
        json!({"metadata": {"labels": {"version": revision}}, "data": {"release": release}})
    }

    fn release(version: &str) -> Vec<u8> {
        json!({"info": {"status": "deployed"}, "chart": {"metadata": {"appVersion": version}}}).to_string().into_bytes()
    }

    #[test]
    fn the_newest_revision_says_the_version_by_number_and_not_by_letters() {
        let all = [secret("9", &release("v2.9.2")), secret("10", &release("v2.9.3"))];
        assert_eq!(newest(&all).and_then(app_version).as_deref(), Some("v2.9.3"));
    }

    #[test]
    fn what_helm_did_not_write_says_nothing() {
        assert_eq!(app_version(&json!({})), None);
        assert_eq!(app_version(&json!({"data": {"release": "%%"}})), None);
        assert_eq!(app_version(&secret("1", b"[]")), None);
        assert_eq!(app_version(&secret("1", &release(""))), None);
    }

    #[test]
    fn a_release_that_unpacks_to_more_than_it_may_is_not_read() {
        let mut huge = release("v2.9.3");
        huge.pop();
        huge.extend_from_slice(b",\"manifest\":\"");
        huge.resize(huge.len() + 33 * (1 << 20), b'a');
        huge.extend_from_slice(b"\"}");
        assert_eq!(app_version(&secret("1", &huge)), None);
    }
}
