//! Rancher's settings, live and as the backup has them.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::Judged;
use crate::rancher::Version;

/// One setting. Its value may be a secret: it is compared, and never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Setting {
    pub name: String,
    value: String,
    /// Rancher took it from a variable of its own environment when it started (`source: env`).
    from_environment: bool,
}

impl Setting {
    /// Reads an object of `settings.management.cattle.io`; `None` without a name.
    pub fn read(value: &Value) -> Option<Self> {
        let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let name = value.pointer("/metadata/name").and_then(Value::as_str)?.to_owned();
        Some(Self { name, value: text("/value").to_owned(), from_environment: text("/source") == "env" })
    }

    /// The value, where it is a version: then it is no secret.
    pub fn version(&self) -> Option<&str> {
        self.value.parse::<Version>().is_ok().then_some(self.value.as_str())
    }
}

impl fmt::Debug for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setting").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Judges the live settings by the backup's: the value of each that came from the environment in neither.
pub fn settings(backup: &[Setting], live: &[Setting]) -> Judged {
    let live: BTreeMap<&str, &Setting> = live.iter().map(|setting| (setting.name.as_str(), setting)).collect();
    let (mut compared, mut wrong) = (0_usize, Vec::new());
    for Setting { name, value, from_environment: _ } in backup.iter().filter(|setting| !setting.from_environment) {
        match live.get(name.as_str()) {
            Some(Setting { from_environment: true, .. }) => continue,
            Some(found) if found.value == *value => {}
            Some(_) => wrong.push(format!("{name}: its value is not the backup's")),
            None => wrong.push(format!("{name}: it is not there")),
        }
        compared += 1;
    }
    match wrong.len() {
        0 => Judged::passed(format!("{compared} settings are as the backup has them")),
        count => Judged::failed(format!("{count} of {compared} settings are not as the backup has them")).with(wrong),
    }
}
