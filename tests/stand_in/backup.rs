//! What the operator takes out of a backup.

use std::collections::HashSet;
use std::path::Path;

use reinback::backup::{CONFIGURATION_KEY, Encryption, Entry, Limits, ResourceSet, read};
use serde_json::Value;

use super::Defects;
use super::api::Place;

pub struct Item {
    pub place: Place,
    pub object: Value,
}

/// All of a backup, in memory.
#[derive(Default)]
pub struct Backup {
    pub definitions: Vec<Item>,
    pub cluster_scoped: Vec<Item>,
    pub namespaced: Vec<Item>,
    /// Paths of what is in it, restored or not: prune leaves it.
    pub paths: HashSet<String>,
    pub set: ResourceSet,
}

impl Backup {
    /// # Errors
    ///
    /// What the operator would say.
    pub fn load(path: &Path, encryption: Option<&Encryption>, defects: Defects) -> Result<Self, String> {
        let bytes = std::fs::read(path).map_err(|error| {
            let reason = match error.kind() {
                std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
                _ => error.to_string(),
            };
            format!("error opening tarball backup file open {}: {reason}", path.display())
        })?;
        let mut backup = Self::default();
        let size = bytes.len() as u64;
        let whole = read(bytes.as_slice(), size, &Limits::default(), encryption, |entry| backup.add(entry, defects));
        whole.map_err(|error| error.to_string())?;
        Ok(backup)
    }

    fn add(&mut self, entry: Entry, defects: Defects) -> Result<(), String> {
        let (key, mut value) = match entry {
            Entry::Filters(set) => {
                self.set = set;
                return Ok(());
            }
            Entry::Encrypted { key, provider: _, problem } => {
                return Err(format!(
                    "error decrypting encrypted resource [{}]: {problem}, provide same encryption config as used for backup",
                    key.resource.group_resource(),
                ));
            }
            Entry::Object { key, value, encrypted: _ } => (key, value),
        };
        let resource = &key.resource;
        let place =
            Place::new((&resource.group, &resource.version, &resource.plural), key.namespace.as_deref(), &key.name);
        let path = place.path();
        if defects.loses_filters && path.contains("filters") {
            return Ok(());
        }
        self.paths.insert(path);
        if is_built_in(&place, &value) {
            return Ok(());
        }
        if defects.rounds_integers {
            round(&mut value);
        }
        let into = match (resource.is_crd(), &place.namespace) {
            (true, _) => &mut self.definitions,
            (false, Some(_)) => &mut self.namespaced,
            (false, None) => &mut self.cluster_scoped,
        };
        into.push(Item { place, object: value });
        Ok(())
    }
}

/// Left to Rancher.
fn is_built_in(place: &Place, object: &Value) -> bool {
    ["globalroles", "roletemplates"].contains(&place.plural.as_str())
        && (object["builtin"] == true || object["builtin"] == "true")
}

/// Go reads every number of what has no type as a double.
fn round(value: &mut Value) {
    match value {
        Value::Number(number) => {
            let rounded = number.as_i64().map(|integer| integer as f64 as i64);
            if let Some(rounded) = rounded {
                *number = rounded.into();
            }
        }
        Value::Array(values) => values.iter_mut().for_each(round),
        Value::Object(fields) => fields.values_mut().for_each(round),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

/// The configuration in a Secret.
///
/// # Errors
///
/// What the operator would say.
pub fn encryption(secret: &Value) -> Result<Encryption, String> {
    use base64::Engine as _;
    let data = secret["data"][CONFIGURATION_KEY].as_str().ok_or("no encryptionConfig provided")?;
    let text = base64::engine::general_purpose::STANDARD.decode(data).map_err(|error| error.to_string())?;
    Encryption::parse(&text).map_err(|error| error.to_string())
}
