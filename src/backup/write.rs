//! Writes a backup in the operator's layout.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use serde_json::Value;
use tar::{Builder, Header};

use crate::object::ObjectKey;

/// Entry of the ResourceSet, as rancher-backup names it.
const FILTERS: &str = "filters/filters.json";
/// The operator's files are for their owner alone: there are Secrets among them.
const MODE: u32 = 0o600;

/// Takes the objects of a backup one after the other, in any order, each once.
pub struct BackupWriter<W: Write> {
    archive: Builder<GzEncoder<W>>,
    /// Seconds since 1970.
    modified: u64,
}

impl<W: Write> BackupWriter<W> {
    /// A backup whose entries say that they were written `now`.
    pub fn new(into: W, now: Timestamp) -> Self {
        let modified = u64::try_from(now.as_second()).unwrap_or_default();
        Self { archive: Builder::new(GzEncoder::new(into, Compression::default())), modified }
    }

    /// Adds an object as it is.
    ///
    /// # Errors
    ///
    /// Of the writer behind.
    pub fn object(&mut self, key: &ObjectKey, object: &Value) -> io::Result<()> {
        self.entry(&format!("{key}.json"), object)
    }

    /// Adds the ResourceSet that chose the objects.
    ///
    /// # Errors
    ///
    /// Of the writer behind.
    pub fn filters(&mut self, resource_set: &Value) -> io::Result<()> {
        self.entry(FILTERS, resource_set)
    }

    fn entry(&mut self, path: &str, content: &Value) -> io::Result<()> {
        let content = serde_json::to_vec(content)?;
        let mut header = Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(MODE);
        header.set_mtime(self.modified);
        self.archive.append_data(&mut header, path, content.as_slice())
    }

    /// Writes the end of the archive, without which a backup is not whole.
    ///
    /// # Errors
    ///
    /// Of the writer behind.
    pub fn finish(self) -> io::Result<W> {
        self.archive.into_inner()?.finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::super::{Entry, Limits, read};
    use super::*;
    use crate::object::Resource;

    #[test]
    fn what_is_written_is_read() {
        let secrets = Arc::new(Resource::new("", "v1", "secrets"));
        let settings = Arc::new(Resource::new("management.cattle.io", "v3", "settings"));
        let secret =
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": "cattle-system", "name": "tls"}});
        let setting = json!({"apiVersion": "management.cattle.io/v3", "kind": "Setting", "metadata": {"name": "a"}, "value": 1.50});
        let mut writer = BackupWriter::new(Vec::new(), Timestamp::UNIX_EPOCH);
        writer.object(&ObjectKey::new(&secrets, Some("cattle-system"), "tls"), &secret).unwrap();
        writer.object(&ObjectKey::new(&settings, None, "a"), &setting).unwrap();
        writer.filters(&json!({"resourceSelectors": [{"apiVersion": "v1", "kindsRegexp": "^secrets$"}]})).unwrap();
        let backup = writer.finish().unwrap();
        let mut told = Vec::new();
        let size = backup.len() as u64;
        read(backup.as_slice(), size, &Limits::default(), |entry| {
            told.push(match entry {
                Entry::Object { key, value } => format!("{key} {value}"),
                Entry::Filters(filters) => format!("{} selectors", filters.resource_selectors.len()),
                Entry::Encrypted { key, .. } => format!("{key} is encrypted"),
            });
            Ok::<(), ()>(())
        })
        .unwrap();
        assert_eq!(
            told,
            [
                format!("secrets.#v1/cattle-system/tls {secret}"),
                format!("settings.management.cattle.io#v3/a {setting}"),
                "1 selectors".to_owned(),
            ]
        );
    }
}
