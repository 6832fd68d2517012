//! The operator's definitions, as far as anything here asks: of a Restore all that its chart says, of the others that they are.

use serde_json::{Value, json};

/// CustomResourceDefinitions of a Restore, a Backup and a ResourceSet.
pub fn definitions() -> Vec<Value> {
    let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    vec![
        definition("restores", "Restore", restore()),
        definition("backups", "Backup", open.clone()),
        definition("resourcesets", "ResourceSet", open),
    ]
}

fn definition(plural: &str, kind: &str, schema: Value) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.resources.cattle.io")},
        "spec": {
            "group": "resources.cattle.io", "scope": "Cluster",
            "names": {"plural": plural, "singular": kind.to_lowercase(), "kind": kind, "listKind": format!("{kind}List")},
            "versions": [{
                "name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
                "subresources": {"status": {}},
            }],
        },
    })
}

fn restore() -> Value {
    let text = json!({"type": "string"});
    let yes_or_no = json!({"type": "boolean"});
    let texts =
        |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), text.clone())).collect::<serde_json::Map<_, _>>();
    let mut s3 = texts(&[
        "endpoint",
        "endpointCA",
        "bucketName",
        "region",
        "folder",
        "credentialSecretName",
        "credentialSecretNamespace",
    ]);
    s3.insert("insecureTLSSkipVerify".to_owned(), yes_or_no.clone());
    s3.insert(
        "clientConfig".to_owned(),
        json!({"type": "object", "nullable": true, "x-kubernetes-preserve-unknown-fields": true}),
    );
    let s3 = json!({"type": "object", "nullable": true, "properties": s3, "required": ["bucketName", "endpoint"]});
    let condition = texts(&["type", "status", "reason", "message", "lastUpdateTime", "lastTransitionTime"]);
    let conditions = json!({
        "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
        "items": {"type": "object", "properties": condition, "required": ["status", "type"]},
    });
    json!({
        "type": "object", "required": ["spec"],
        "properties": {
            "apiVersion": text, "kind": text, "metadata": {"type": "object"},
            "spec": {
                "type": "object", "required": ["backupFilename"],
                "properties": {
                    "backupFilename": text, "encryptionConfigSecretName": text, "ignoreErrors": yes_or_no,
                    "deleteTimeoutSeconds": {"type": "integer", "maximum": 10},
                    "prune": {"type": "boolean", "nullable": true, "default": true},
                    "storageLocation": {"type": "object", "nullable": true, "properties": {"s3": s3}},
                },
            },
            "status": {
                "type": "object",
                "properties": {
                    "backupSource": text, "restoreCompletionTs": text, "summary": text, "conditions": conditions,
                    "observedGeneration": {"type": "integer", "format": "int64"},
                },
            },
        },
    })
}
