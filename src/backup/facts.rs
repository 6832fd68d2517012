use serde_json::Value;

use crate::object::ObjectKey;

/// What Rancher's settings in a backup say about where it comes from. `None`: not in the backup, or empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Setting `server-version`, such as `v2.9.3`.
    pub rancher_version: Option<String>,
    /// Setting `server-url`.
    pub server_url: Option<String>,
    /// Setting `install-uuid`: made by Rancher at its first start, so another one is another installation.
    pub install_uuid: Option<String>,
}

impl Facts {
    /// Takes what `value` says, if it is one of the settings. Other objects are passed over.
    pub fn note(&mut self, key: &ObjectKey, value: &Value) {
        let ObjectKey { resource, namespace, name } = key;
        let is_setting =
            resource.group == "management.cattle.io" && resource.plural == "settings" && namespace.is_none();
        if !is_setting {
            return;
        }
        let fact = match &**name {
            "server-version" => &mut self.rancher_version,
            "server-url" => &mut self.server_url,
            "install-uuid" => &mut self.install_uuid,
            _ => return,
        };
        *fact = setting(value);
    }
}

/// A setting that nobody set has its default.
fn setting(value: &Value) -> Option<String> {
    let field = |name| value.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    field("value").or_else(|| field("default")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::object::Resource;

    fn note(facts: &mut Facts, group: &str, name: &str, value: Value) {
        let resource = Arc::new(Resource::new(group, "v3", "settings"));
        facts.note(&ObjectKey { resource, namespace: None, name: name.into() }, &value);
    }

    #[test]
    fn settings_say_version_url_and_installation() {
        let mut facts = Facts::default();
        note(&mut facts, "management.cattle.io", "server-version", json!({"value": "v2.9.3", "default": "dev"}));
        note(
            &mut facts,
            "management.cattle.io",
            "server-url",
            json!({"value": "", "default": "https://rancher.example.org"}),
        );
        note(&mut facts, "management.cattle.io", "install-uuid", json!({"value": "", "default": ""}));
        note(&mut facts, "management.cattle.io", "other", json!({"value": "x"}));
        note(&mut facts, "elsewhere.io", "server-version", json!({"value": "v1"}));
        assert_eq!(
            facts,
            Facts {
                rancher_version: Some("v2.9.3".to_owned()),
                server_url: Some("https://rancher.example.org".to_owned()),
                install_uuid: None,
            }
        );
    }
}
