//! What opens the entries of a backup: the Secret that its manifest names.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use secrecy::zeroize::Zeroizing;
use serde_json::Value;

use super::{ObserveError, is_forbidden};
use crate::backup::{CONFIGURATION_KEY, Encryption};
use crate::cluster::{ClusterReader, Target};
use crate::object::Resource;

/// How encrypted entries are opened.
#[derive(Debug, Clone, Default)]
pub enum Opening {
    /// The manifest names no Secret: entries lie open.
    #[default]
    None,
    /// By the configuration in `secret`, which is `namespace/name`.
    With { secret: String, encryption: Arc<Encryption> },
    /// The Secret that the manifest names is not as it must be; no key material is in `problem`.
    Broken { secret: String, problem: String },
}

impl Opening {
    /// What opens entries, when there is something.
    pub fn encryption(&self) -> Option<&Arc<Encryption>> {
        match self {
            Self::With { secret: _, encryption } => Some(encryption),
            Self::None | Self::Broken { .. } => None,
        }
    }

    /// Reads the Secret.
    ///
    /// # Errors
    ///
    /// `Cluster` when the API server does not answer, or not for certain: another try may do.
    pub async fn read(reader: &ClusterReader, namespace: &str, name: &str) -> Result<Self, ObserveError> {
        let secret = format!("{namespace}/{name}");
        let secrets = Resource::new("", "v1", "secrets");
        let parsed = match reader.get(&Target::new(&secrets, Some(namespace), name)).await {
            Ok(Some(answer)) => parse(&answer.value().unwrap_or(Value::Null)),
            Ok(None) => Err("it is not there".to_owned()),
            Err(error) if is_forbidden(&error) => Err("reinback may not get it".to_owned()),
            Err(error) => return Err(error.into()),
        };
        Ok(match parsed {
            Ok(encryption) => Self::With { secret, encryption: Arc::new(encryption) },
            Err(problem) => Self::Broken { secret, problem },
        })
    }
}

fn parse(secret: &Value) -> Result<Encryption, String> {
    let text =
        secret["data"][CONFIGURATION_KEY].as_str().ok_or_else(|| format!("it has no key `{CONFIGURATION_KEY}`"))?;
    let content =
        BASE64.decode(text).map(Zeroizing::new).map_err(|_| format!("its key `{CONFIGURATION_KEY}` is not base64"))?;
    Encryption::parse(&content).map_err(|error| format!("in `{CONFIGURATION_KEY}`, {error}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_secret_that_is_not_as_it_must_be_says_so() {
        let secret = |text: &str| json!({"data": {CONFIGURATION_KEY: BASE64.encode(text)}});
        let said =
            [json!({}), json!({"data": {"other": ""}}), json!({"data": {CONFIGURATION_KEY: "!"}}), secret("a: b")]
                .map(|secret| parse(&secret).unwrap_err());
        insta::assert_snapshot!(said.join("\n"), @"
        it has no key `encryption-provider-config.yaml`
        it has no key `encryption-provider-config.yaml`
        its key `encryption-provider-config.yaml` is not base64
        in `encryption-provider-config.yaml`, the configuration (line 1) has the unknown field `a`
        ");
    }
}
