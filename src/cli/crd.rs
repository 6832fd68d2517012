//! `reinback crd`: prints the definition of `Run`.

use std::io::{self, Write};

use anyhow::Context;
use kube::CustomResourceExt;

use crate::run::Run;

/// Print the CustomResourceDefinition of Run, for `kubectl apply -f -`
#[derive(Debug, Clone, clap::Args)]
pub struct CrdArgs {}

/// Prints the definition to stdout.
///
/// # Errors
///
/// When stdout does not take it.
pub fn crd(CrdArgs {}: &CrdArgs) -> anyhow::Result<()> {
    let yaml = run_crd_yaml().context("cannot write the definition of Run as YAML")?;
    io::stdout().lock().write_all(yaml.as_bytes()).context("cannot print the definition of Run")
}

/// The definition of `Run` as YAML, ending in a newline.
pub fn run_crd_yaml() -> Result<String, serde_yaml::Error> {
    serde_yaml::to_string(&Run::crd())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
    use serde_json::Value;

    use super::*;

    #[test]
    fn the_definition_reads_back_with_status_as_a_subresource() {
        let yaml = run_crd_yaml().expect("the definition is YAML");
        let crd: CustomResourceDefinition = serde_yaml::from_str(&yaml).expect("a definition");
        assert_eq!(crd, Run::crd());
        assert_eq!(crd.metadata.name.as_deref(), Some("runs.reinback.io"));
        assert_eq!(crd.spec.scope, "Namespaced");
        let [version] = &crd.spec.versions[..] else { panic!("one version") };
        assert_eq!((version.name.as_str(), version.served, version.storage), ("v1alpha1", true, true));
        let subresources = version.subresources.as_ref().expect("subresources");
        assert!(subresources.status.is_some() && subresources.scale.is_none());
    }

    /// What the API server asks of a structural schema, as far as this one could miss it.
    fn assert_structural(path: &str, schema: &Value) {
        let untyped = schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
        assert!(schema.get("type").is_some() || untyped, "{path} has no type");
        for word in ["$ref", "definitions", "const", "patternProperties", "if"] {
            assert!(schema.get(word).is_none(), "{path} has {word}");
        }
        let formats = [None, Some("int32"), Some("int64"), Some("date-time")];
        let format = schema.get("format").and_then(Value::as_str);
        assert!(formats.contains(&format), "{path} has the format {format:?}, of which the API server warns");
        for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            assert_structural(&format!("{path}.{name}"), property);
        }
        if schema.get("type") == Some(&Value::from("array")) {
            assert_structural(&format!("{path}[]"), schema.get("items").expect("an array has items"));
        }
    }

    #[test]
    fn the_schema_is_structural() {
        let crd = serde_json::to_value(Run::crd()).expect("JSON");
        assert_structural("", &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]);
    }
}
