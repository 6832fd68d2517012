//! A manifest as the document that is pinned in a `Run`: what was merged is what runs, whatever Git says later.

use serde_json::{Map, Value, json};

use super::{Body, Engine, Limits, Manifest, Options, RESTORE_API_VERSION, ROLLBACK_API_VERSION, parse};

/// The document, which [`unpin`] reads back to the same manifest.
pub fn pin(manifest: &Manifest) -> Value {
    let (api_version, spec) = match &manifest.body {
        Body::Restore(restore) => (RESTORE_API_VERSION, restore_fields(restore)),
        Body::Rollback(rollback) => {
            let mut spec = compact(rollback);
            if let Some(restore) = &rollback.restore {
                spec["restore"] = restore_fields(restore);
            }
            (ROLLBACK_API_VERSION, spec)
        }
    };
    let mut metadata = json!({ "name": manifest.id.name });
    let annotations = annotations(&manifest.options);
    if !annotations.is_empty() {
        metadata["annotations"] = Value::Object(annotations);
    }
    json!({ "apiVersion": api_version, "kind": manifest.id.kind.as_str(), "metadata": metadata, "spec": spec })
}

fn restore_fields(restore: &super::RestoreSpec) -> Value {
    let mut spec = compact(restore);
    if let Some(s3) = &restore.storage_location {
        spec["storageLocation"] = json!({ "s3": compact(s3) });
    }
    spec
}

/// As JSON, without what is absent.
fn compact(value: &impl serde::Serialize) -> Value {
    let mut value = serde_json::to_value(value).unwrap_or_default();
    crate::object::normal::strip_nulls(&mut value);
    value
}

fn annotations(options: &Options) -> Map<String, Value> {
    let Options { engine, backup_digest, requested_at, accept, approved_plan, on_failure, timeout } = options;
    let engine = match engine {
        Engine::Auto => None,
        Engine::Native => Some("native".to_owned()),
        Engine::Operator => Some("operator".to_owned()),
    };
    let accept: Vec<&str> = accept.iter().map(|code| code.as_str()).collect();
    let values = [
        ("engine", engine),
        ("backup-digest", backup_digest.as_ref().map(ToString::to_string)),
        ("requested-at", requested_at.map(|at| at.to_string())),
        ("accept", (!accept.is_empty()).then(|| accept.join(", "))),
        ("approved-plan", approved_plan.as_ref().map(ToString::to_string)),
        ("on-failure", on_failure.map(|word| format!("{word:?}"))),
        ("timeout", timeout.map(super::humane)),
    ];
    let named =
        values.into_iter().filter_map(|(name, value)| Some((format!("reinback.io/{name}"), Value::from(value?))));
    named.collect()
}

/// Reads a pinned document.
///
/// # Errors
///
/// A sentence, when it is not a manifest that this version takes.
pub fn unpin(document: &Value, file: &str, blob: &str) -> Result<Manifest, String> {
    let text = document.to_string();
    let parsed = parse(file, text.as_bytes(), &Limits::default());
    let problem = parsed.problems.first().map(|problem| problem.message.clone());
    let manifest = parsed.documents.into_iter().find_map(|document| document.manifest);
    let mut manifest = manifest.ok_or_else(|| problem.unwrap_or_else(|| "it holds no manifest".to_owned()))?;
    manifest.blob = blob.to_owned();
    Ok(manifest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_manifest_is_read_back_as_it_was() {
        let yaml = "
apiVersion: resources.cattle.io/v1
kind: Restore
metadata:
  name: back-to-monday
  annotations:
    reinback.io/engine: native
    reinback.io/backup-digest: sha256:0000000000000000000000000000000000000000000000000000000000000001
    reinback.io/requested-at: 2026-11-23T09:00:00Z
    reinback.io/accept: DifferentCluster, PruneShare
    reinback.io/on-failure: Resume
    reinback.io/timeout: 1h30m
spec:
  backupFilename: monday.tar.gz
  prune: false
  deleteTimeoutSeconds: 7
  ignoreErrors: true
  encryptionConfigSecretName: key
  storageLocation:
    s3:
      bucketName: backups
      endpoint: http://minio:9000
      endpointCA: Zm9v
      insecureTLSSkipVerify: true
      region: eu-central-1
      folder: /rancher/
      credentialSecretName: s3
      credentialSecretNamespace: default
      clientConfig: {bucketLookup: path, aws: {dualStack: true}}
---
apiVersion: reinback.io/v1alpha1
kind: Rollback
metadata: {name: back}
spec: {toVersion: v2.9.3, versionMethod: helm, revision: 12, restore: {backupFilename: monday.tar.gz}}
";
        let parsed = parse("a.yaml", yaml.as_bytes(), &Limits::default());
        assert_eq!(parsed.problems, Vec::new());
        for manifest in parsed.documents.into_iter().filter_map(|document| document.manifest) {
            let back = unpin(&pin(&manifest), "a.yaml", "").expect("it is read back");
            let placeless =
                |manifest: &Manifest| (manifest.id.clone(), manifest.body.clone(), manifest.options.clone());
            assert_eq!(placeless(&back), placeless(&manifest));
        }
    }
}
