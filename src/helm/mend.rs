//! A revision of ours that stayed pending because helm was killed, or because a hook failed.
//!
//! Helm's `rollback` does not mind it, its `upgrade` refuses to work until it is gone, and neither ever ends it. So it is marked
//! as what it is, failed, in the form in which Helm writes that itself.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::cluster::{ClusterError, ClusterReader, ClusterWriter, FailureKind, Target, WriteError};
use crate::object::Resource;
use crate::release::{self, Revision, Unread};

/// Why a pending revision stays as it is.
#[derive(Debug, thiserror::Error)]
pub enum MendError {
    #[error(transparent)]
    Read(#[from] ClusterError),
    #[error(transparent)]
    Unread(#[from] Unread),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("{secret} was changed meanwhile: another helm is at it")]
    Changed { secret: String },
}

/// Marks `revision` as failed where it is pending still; true when that was so.
///
/// Only the caller knows that it is ours (it was asked for after a number that is in the journal), and that no helm is at it.
///
/// # Errors
///
/// `Changed` when somebody wrote it in between.
pub async fn mark_failed(
    reader: &ClusterReader,
    writer: &ClusterWriter,
    revision: &Revision,
) -> Result<bool, MendError> {
    let secrets = Resource::new("", "v1", "secrets");
    let name = release::secret_name(&revision.name, revision.number);
    let target = Target::new(&secrets, Some(&revision.namespace), &name);
    let Some(live) = reader.get(&target).await? else { return Ok(false) };
    let Some(patch) = patch(&live.value().unwrap_or_default())? else { return Ok(false) };
    match writer.merge_patch(&target, &patch).await {
        Ok(_) => Ok(true),
        Err(error) => match error.kind() {
            Some(FailureKind::Conflict) => Err(MendError::Changed { secret: target.to_string() }),
            Some(FailureKind::NotFound) => Ok(false),
            _ => Err(error.into()),
        },
    }
}

/// What makes a pending revision a failed one, bound to the state that was read.
fn patch(secret: &Value) -> Result<Option<Value>, Unread> {
    let revision = release::read(secret)?;
    if !revision.status.is_pending() {
        return Ok(None);
    }
    let mut body = release::body(secret)?;
    let what = match revision.status {
        release::Status::PendingRollback => "Rollback",
        release::Status::PendingUpgrade => "Upgrade",
        _ => "Release",
    };
    body["info"]["status"] = json!("failed");
    body["info"]["description"] = json!(format!("{what} {:?} failed: interrupted", revision.name));
    let data = BASE64.encode(BASE64.encode(gzip(&body)));
    let version = secret.pointer("/metadata/resourceVersion");
    Ok(Some(json!({
        "metadata": {"resourceVersion": version, "labels": {"status": "failed"}},
        "data": {"release": data},
    })))
}

fn gzip(body: &Value) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    let written = gzip.write_all(body.to_string().as_bytes()).and_then(|()| gzip.finish());
    written.expect("memory takes what is written")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(status: &str, more: &Value) -> Value {
        let mut body = json!({"name": "rancher", "namespace": "cattle-system", "version": 3, "manifest": "", "big": 1e21,
            "info": {"status": status, "description": "Rollback to 1", "notes": "kept"}, "config": more});
        body["int"] = json!(u64::MAX);
        json!({"metadata": {"resourceVersion": "7"}, "data": {"release": BASE64.encode(BASE64.encode(gzip(&body)))}})
    }

    #[test]
    fn a_pending_revision_becomes_a_failed_one_and_nothing_else_of_it_changes() {
        let before = secret("pending-rollback", &json!({"a": {"b": [1, "x", null]}}));
        let patch = patch(&before).unwrap().unwrap();
        assert_eq!(patch["metadata"], json!({"resourceVersion": "7", "labels": {"status": "failed"}}));
        let after = release::body(&patch).unwrap();
        let mut expected = release::body(&before).unwrap();
        expected["info"]["status"] = json!("failed");
        expected["info"]["description"] = json!(r#"Rollback "rancher" failed: interrupted"#);
        assert_eq!(after, expected);
        assert!(!release::read(&patch).unwrap().was_deployed);
    }

    #[test]
    fn what_is_not_pending_is_left_alone() {
        for status in ["deployed", "superseded", "failed", "unknown"] {
            assert_eq!(patch(&secret(status, &json!({}))).unwrap(), None);
        }
    }
}
