//! Writes a backup in the operator's layout.

use std::io::{self, Write};
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use serde_json::Value;
use tar::{Builder, Header};

use super::Encryption;
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
    encryption: Option<Arc<Encryption>>,
}

impl<W: Write> BackupWriter<W> {
    /// A backup whose entries say that they were written `now`.
    pub fn new(into: W, now: Timestamp) -> Self {
        let modified = u64::try_from(now.as_second()).unwrap_or_default();
        Self { archive: Builder::new(GzEncoder::new(into, Compression::default())), modified, encryption: None }
    }

    /// Encrypts the objects from here on, where `encryption` says so for their type. The filters stay in the open.
    #[must_use]
    pub fn encrypted_by(self, encryption: Arc<Encryption>) -> Self {
        Self { encryption: Some(encryption), ..self }
    }

    /// Adds an object as it is.
    ///
    /// # Errors
    ///
    /// Of the writer behind, and where the object cannot be encrypted.
    pub fn object(&mut self, key: &ObjectKey, object: &Value) -> io::Result<()> {
        let mut content = serde_json::to_vec(object)?;
        if let Some(encryption) = &self.encryption {
            content = encryption.encrypt(key, content).map_err(io::Error::other)?;
        }
        self.entry(&format!("{key}.json"), &content)
    }

    /// Adds the ResourceSet that chose the objects.
    ///
    /// # Errors
    ///
    /// Of the writer behind.
    pub fn filters(&mut self, resource_set: &Value) -> io::Result<()> {
        self.entry(FILTERS, &serde_json::to_vec(resource_set)?)
    }

    fn entry(&mut self, path: &str, content: &[u8]) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(MODE);
        header.set_mtime(self.modified);
        self.archive.append_data(&mut header, path, content)
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
        read(backup.as_slice(), size, &Limits::default(), None, |entry| {
            told.push(match entry {
                Entry::Object { key, value, encrypted: _ } => format!("{key} {value}"),
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
