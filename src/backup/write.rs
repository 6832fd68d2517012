//! Writes a backup in the operator's layout, byte for byte where bytes can be the same.
//!
//! Read in the operator's code (its collector and its uploader, and Go's `archive/tar`), and held to backups of the real one: folders
//! are members, too, without a slash at their end; a path that fits no USTAR header gets a PAX record; entries come as
//! `filepath.Walk` finds them ([`in_order`]), the filters among them. Whoever hands entries out of order gets a backup that is
//! as good, and not the same.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::io::{self, Write};
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use serde_json::Value;
use tar::{EntryType, Header};

use super::{Encryption, go_json};
use crate::object::ObjectKey;
use crate::object::normal::{PAUSED_ANNOTATION, REPLICAS_ANNOTATION};

/// Entry of the ResourceSet, as rancher-backup names it.
pub const FILTERS: &str = "filters/filters.json";
/// What `os.Create` and `os.WriteFile` of the operator come to. They hold for whoever unpacks the archive by hand; the mode of
/// the archive itself is the store's.
const FILE_MODE: u32 = 0o644;
const FOLDER_MODE: u32 = 0o755;
const FILTERS_MODE: u32 = 0o755;
const BLOCK_BYTES: usize = 512;
/// Longest name and longest prefix of a USTAR header, in bytes (POSIX.1-2017, pax, "ustar Interchange Format").
const USTAR_NAME: usize = 100;
const USTAR_PREFIX: usize = 155;
/// What the API server sets and the operator leaves out. Status, generation, managed fields and owners with their UIDs stay.
const LEFT_OUT: [&str; 6] =
    ["uid", "creationTimestamp", "deletionTimestamp", "selfLink", "resourceVersion", "deletionGracePeriodSeconds"];

/// Makes of a live object what a backup holds of it; false for one that is left out, as it is on its way out.
///
/// An object that is being deleted is saved while finalizers hold it, without the mark that it is: restoring it brings it back.
/// As in the operator, what counts is whether the field is there, and of a Namespace `spec.finalizers`.
pub fn saved(object: &mut Value) -> bool {
    let finalizers = match object.get("kind").and_then(Value::as_str) {
        Some("Namespace") => {
            object.pointer("/spec/finalizers").and_then(Value::as_array).is_some_and(|all| !all.is_empty())
        }
        _ => object.pointer("/metadata/finalizers").is_some(),
    };
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return false };
    if metadata.contains_key("deletionTimestamp") && !finalizers {
        return false;
    }
    LEFT_OUT.iter().for_each(|field| drop(metadata.remove(*field)));
    give_replicas_back(object);
    unpause(object);
    true
}

/// Nor is a cluster of Cluster API saved paused that a run has paused.
fn unpause(object: &mut Value) {
    let annotations = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut);
    let recorded = annotations.and_then(|annotations| annotations.remove(PAUSED_ANNOTATION));
    let had = recorded.as_ref().and_then(Value::as_str).and_then(|text| text.parse::<bool>().ok());
    if let (Some(false), Some(spec)) = (had, object.get_mut("spec").and_then(Value::as_object_mut)) {
        spec.remove("paused");
    }
}

/// A workload that a run has scaled to 0 is saved with the replicas that it had: whoever restores it gets one that runs.
fn give_replicas_back(object: &mut Value) {
    let annotations = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut);
    let recorded = annotations.and_then(|annotations| annotations.remove(REPLICAS_ANNOTATION));
    let had = recorded.as_ref().and_then(Value::as_str).and_then(|text| text.parse::<i32>().ok());
    if let (Some(had), Some(spec)) = (had, object.get_mut("spec").and_then(Value::as_object_mut)) {
        spec.insert("replicas".to_owned(), had.into());
    }
}

/// An object, or a ResourceSet, as an entry has it.
///
/// # Errors
///
/// Never, for a value that came from JSON.
pub fn content(value: &Value) -> io::Result<Vec<u8>> {
    go_json::to_vec(value)
}

/// The path of an object's entry.
pub fn entry_path(key: &ObjectKey) -> String {
    format!("{key}.json")
}

/// The order of `filepath.Walk`: folder by folder, names by their bytes.
pub fn in_order(one: &str, other: &str) -> Ordering {
    one.split('/').cmp(other.split('/'))
}

/// Takes the entries of a backup one after the other, each once.
pub struct BackupWriter<W: Write> {
    archive: GzEncoder<W>,
    /// Seconds since 1970.
    modified: u64,
    folders: HashSet<String>,
    encryption: Option<Arc<Encryption>>,
}

impl<W: Write> BackupWriter<W> {
    /// A backup whose entries say that they were written `now`.
    pub fn new(into: W, now: Timestamp) -> Self {
        let modified = u64::try_from(now.as_second()).unwrap_or_default();
        let archive = GzEncoder::new(into, Compression::default());
        Self { archive, modified, folders: HashSet::new(), encryption: None }
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
        self.object_content(key, content(object)?)
    }

    /// Adds an object by its [`content`].
    ///
    /// # Errors
    ///
    /// As [`BackupWriter::object`].
    pub fn object_content(&mut self, key: &ObjectKey, content: Vec<u8>) -> io::Result<()> {
        let content = match &self.encryption {
            Some(encryption) => encryption.encrypt(key, content).map_err(io::Error::other)?,
            None => content,
        };
        self.entry(&entry_path(key), &content)
    }

    /// Adds the ResourceSet that chose the objects.
    ///
    /// # Errors
    ///
    /// Of the writer behind.
    pub fn filters(&mut self, resource_set: &Value) -> io::Result<()> {
        self.entry(FILTERS, &content(resource_set)?)
    }

    /// Adds an entry, and the folders before it.
    ///
    /// # Errors
    ///
    /// Of the writer behind.
    pub fn entry(&mut self, path: &str, content: &[u8]) -> io::Result<()> {
        for (end, _) in path.match_indices('/') {
            let folder = &path[..end];
            if !self.folders.contains(folder) {
                self.folders.insert(folder.to_owned());
                self.member(EntryType::Directory, folder, FOLDER_MODE, &[])?;
            }
        }
        let mode = if path == FILTERS { FILTERS_MODE } else { FILE_MODE };
        self.member(EntryType::Regular, path, mode, content)
    }

    fn member(&mut self, kind: EntryType, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        let (name, prefix) = match ustar_name(path) {
            Some(parts) => parts,
            None => {
                self.pax_path(path)?;
                (path, "")
            }
        };
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(self.modified);
        header.set_username("root")?;
        header.set_groupname("root")?;
        header.set_device_major(0)?;
        header.set_device_minor(0)?;
        self.raw(header, name, prefix, content)
    }

    /// The record that says the path of the member after it.
    fn pax_path(&mut self, path: &str) -> io::Result<()> {
        let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
        let name =
            if folder.is_empty() { format!("PaxHeaders.0/{file}") } else { format!("{folder}/PaxHeaders.0/{file}") };
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        header.set_mode(0);
        header.set_mtime(0);
        self.raw(header, &name, "", pax_record("path", path).as_bytes())
    }

    /// A header completed and written, and the content behind it. A name that is too long for it is cut, and without letters beyond ASCII.
    fn raw(&mut self, mut header: Header, name: &str, prefix: &str, content: &[u8]) -> io::Result<()> {
        if let Some(ustar) = header.as_ustar_mut() {
            put(&mut ustar.name, name);
            put(&mut ustar.prefix, prefix);
        }
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(content.len() as u64);
        header.set_cksum();
        // Six digits, a zero and a space, where the crate writes seven digits and a zero.
        let sum = header.cksum()?;
        header.as_old_mut().cksum.copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.archive.write_all(header.as_bytes())?;
        self.archive.write_all(content)?;
        let padding = content.len().next_multiple_of(BLOCK_BYTES) - content.len();
        self.archive.write_all(&[0; BLOCK_BYTES][..padding])
    }

    /// Writes the end of the archive, without which a backup is not whole.
    ///
    /// # Errors
    ///
    /// Of the writer behind.
    pub fn finish(mut self) -> io::Result<W> {
        self.archive.write_all(&[0; 2 * BLOCK_BYTES])?;
        self.archive.finish()
    }
}

/// Name and prefix of a USTAR header; `None` when the path fits none, which is then PAX's.
fn ustar_name(path: &str) -> Option<(&str, &str)> {
    if !path.is_ascii() {
        return None;
    }
    if path.len() <= USTAR_NAME {
        return Some((path, ""));
    }
    let end = path.len().min(USTAR_PREFIX + 1);
    let (prefix, name) = path.split_at(path[..end].rfind('/').filter(|at| *at > 0)?);
    let name = &name[1..];
    ((1..=USTAR_NAME).contains(&name.len())).then_some((name, prefix))
}

/// As many letters of ASCII as there is room for.
fn put(field: &mut [u8], text: &str) {
    let ascii = text.bytes().filter(u8::is_ascii);
    field.iter_mut().zip(ascii).for_each(|(place, byte)| *place = byte);
}

/// `<length> <key>=<value>\n`, the length in bytes and counting itself.
fn pax_record(key: &str, value: &str) -> String {
    let rest = format!(" {key}={value}\n");
    let mut length = rest.len() + 1;
    while length != rest.len() + length.to_string().len() {
        length = rest.len() + length.to_string().len();
    }
    format!("{length}{rest}")
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::sync::Arc;

    use flate2::read::GzDecoder;
    use serde_json::json;

    use super::super::{Entry, Limits, read};
    use super::*;
    use crate::object::Resource;

    macro_rules! fixture {
        ($name:literal) => {
            include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/", $name)).as_slice()
        };
    }

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

    fn unzipped(backup: &[u8]) -> Vec<u8> {
        let mut archive = Vec::new();
        GzDecoder::new(backup).read_to_end(&mut archive).unwrap();
        archive
    }

    /// Every file of an archive in the order of [`in_order`], written anew by us; and the first archive. Both unzipped.
    fn written_again(backup: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let theirs = unzipped(backup);
        let mut files = Vec::new();
        let mut modified = 0;
        for entry in tar::Archive::new(theirs.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            modified = entry.header().mtime().unwrap();
            let path = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            if entry.header().entry_type().is_file() {
                files.push((path, content));
            }
        }
        files.reverse();
        files.sort_by(|(one, _), (other, _)| in_order(one, other));
        let now = Timestamp::from_second(modified.cast_signed()).unwrap();
        let mut writer = BackupWriter::new(Vec::new(), now);
        for (path, content) in &files {
            writer.entry(path, content).unwrap();
        }
        (unzipped(&writer.finish().unwrap()), theirs)
    }

    #[test]
    fn an_archive_of_the_operator_is_written_again_byte_by_byte() {
        let plain = fixture!("plain-6e9ee6a6-d4f2-46c2-bd99-75269cf041dc-2026-11-23T05-58-54Z.tar.gz");
        for backup in [plain, fixture!("names-by-go.tar.gz")] {
            let (ours, theirs) = written_again(backup);
            assert_eq!(ours.len(), theirs.len());
            let differs = ours.chunks(BLOCK_BYTES).zip(theirs.chunks(BLOCK_BYTES)).position(|(a, b)| a != b);
            assert_eq!(differs, None, "block of 512 bytes");
        }
        let zipped = BackupWriter::new(Vec::new(), Timestamp::UNIX_EPOCH).finish().unwrap();
        assert_eq!(zipped[..10], plain[..10], "the header of gzip");
    }

    #[test]
    fn every_object_of_the_operator_is_written_again_byte_by_byte() {
        let archive = unzipped(fixture!("plain-6e9ee6a6-d4f2-46c2-bd99-75269cf041dc-2026-11-23T05-58-54Z.tar.gz"));
        let mut count = 0;
        for entry in tar::Archive::new(archive.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().to_string_lossy().into_owned();
            let mut theirs = Vec::new();
            entry.read_to_end(&mut theirs).unwrap();
            // Go writes its own struct of filters in the order of its fields.
            if theirs.is_empty() || path == FILTERS {
                continue;
            }
            let value: Value = serde_json::from_slice(&theirs).unwrap();
            assert_eq!(content(&value).unwrap(), theirs, "{path}");
            count += 1;
        }
        assert_eq!(count, 464);
    }

    #[test]
    fn folders_are_walked_by_their_names_and_not_by_whole_paths() {
        let mut paths =
            ["r.#v1/a-b/x.json", "r.#v1/a/x.json", "r.#v1/a/x-y.json", "r.x#v1/a.json", "r-.#v1/z.json", FILTERS];
        paths.sort_by(|one, other| in_order(one, other));
        assert_eq!(
            paths,
            [FILTERS, "r-.#v1/z.json", "r.#v1/a/x-y.json", "r.#v1/a/x.json", "r.#v1/a-b/x.json", "r.x#v1/a.json"]
        );
    }

    #[test]
    fn what_the_server_sets_is_left_out_and_all_else_stays() {
        let mut object = json!({
            "apiVersion": "v1", "kind": "Secret", "status": {"x": 1},
            "metadata": {
                "name": "a", "uid": "u", "creationTimestamp": "t", "selfLink": "/", "resourceVersion": "1", "generation": 3,
                "managedFields": [], "finalizers": ["f"], "deletionTimestamp": "t", "deletionGracePeriodSeconds": 0,
                "ownerReferences": [{"uid": "old"}],
            },
        });
        assert!(saved(&mut object));
        assert_eq!(
            object,
            json!({
                "apiVersion": "v1", "kind": "Secret", "status": {"x": 1},
                "metadata": {
                    "name": "a", "generation": 3, "managedFields": [], "finalizers": ["f"], "ownerReferences": [{"uid": "old"}],
                },
            })
        );
    }

    #[test]
    fn a_workload_that_a_run_keeps_at_0_is_saved_with_the_replicas_that_it_had() {
        let mut object = json!({
            "kind": "Deployment", "spec": {"replicas": 0, "x": 1},
            "metadata": {"name": "a", "annotations": {REPLICAS_ANNOTATION: "3", "other": "kept"}},
        });
        assert!(saved(&mut object));
        assert_eq!(object["spec"], json!({"replicas": 3, "x": 1}));
        assert_eq!(object["metadata"]["annotations"], json!({"other": "kept"}));
    }

    #[test]
    fn a_cluster_that_a_run_keeps_paused_is_saved_as_it_was() {
        let saved_of = |had: &str| {
            let mut object = json!({
                "kind": "Cluster", "spec": {"paused": true, "x": 1},
                "metadata": {"name": "a", "annotations": {PAUSED_ANNOTATION: had}},
            });
            assert!(saved(&mut object));
            assert_eq!(object["metadata"]["annotations"], json!({}));
            object["spec"].take()
        };
        assert_eq!(saved_of("false"), json!({"x": 1}));
        assert_eq!(saved_of("true"), json!({"paused": true, "x": 1}));
    }

    #[test]
    fn what_is_on_its_way_out_is_saved_while_finalizers_hold_it() {
        let is_saved = |mut object: Value| saved(&mut object);
        let going = |kind: &str, finalizers: Value, spec: Value| {
            let mut object = json!({"kind": kind, "metadata": {"name": "a", "deletionTimestamp": "t"}, "spec": spec});
            if !finalizers.is_null() {
                object["metadata"]["finalizers"] = finalizers;
            }
            is_saved(object)
        };
        assert!(!going("Pod", Value::Null, json!({})));
        assert!(going("Pod", json!(["x"]), json!({})));
        assert!(going("Namespace", Value::Null, json!({"finalizers": ["kubernetes"]})));
        assert!(!going("Namespace", json!(["x"]), json!({"finalizers": []})));
        assert!(is_saved(json!({"kind": "Pod", "metadata": {"name": "a"}})));
    }
}
