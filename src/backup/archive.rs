use std::borrow::Cow;
use std::collections::HashSet;
use std::convert::Infallible;
use std::io::Read;
use std::ops::ControlFlow;
use std::sync::Arc;

use base64::Engine as _;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::encryption::{BASE64, Encryption, Form, Place, Unopened};
use super::error::{BackupError, EntryName, ReadError, shown};
use super::path::{EntryPath, ObjectPath};
use super::unpack::{Bounds, Failure, Member, Unpack, fault};
use super::{ResourceSet, json};
use crate::object::{Interner, ObjectKey, Resource};

/// How much a backup may hold. What is beyond is taken for an attack, not for a large cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest entry, in bytes. etcd takes 1.5 MiB for an object unless told otherwise; encryption and base64 add a third.
    pub max_entry_bytes: u64,
    /// Most entries: objects and filters.
    pub max_entries: u64,
    /// Most unpacked bytes.
    pub max_total_bytes: u64,
    /// Most unpacked bytes for one byte of the file, once 32 MiB are unpacked. JSON reaches 20, zeros a thousand.
    pub max_ratio: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_entry_bytes: 16 << 20, max_entries: 1_000_000, max_total_bytes: 16 << 30, max_ratio: 1000 }
    }
}

/// One entry of a backup, checked.
#[derive(Debug)]
pub enum Entry {
    /// An object. Its `apiVersion`, namespace and name are those of `key`, and it has a `kind`. `encrypted`: it was, and a key
    /// has opened it.
    Object { key: ObjectKey, value: Value, encrypted: bool },
    /// The ResourceSet that chose the objects: at any place among the entries, and at most once. Never encrypted.
    Filters(ResourceSet),
    /// An object that no key has opened; `provider` is `secretbox`, `aesgcm`, `aescbc` or another name.
    Encrypted { key: ObjectKey, provider: String, problem: Unopened },
}

/// What a whole backup held.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Objects in the open, or opened.
    pub objects: u64,
    /// Objects that are encrypted and were not opened.
    pub encrypted: u64,
    /// Without filters there is nothing to prune by, and no controller to stop.
    pub has_filters: bool,
    /// Size of the archive when unpacked, its padding included.
    pub unpacked_bytes: u64,
}

/// Passes once over a backup, from its first byte to the end of the last gzip member, and hands each entry to `visit` in the order of the archive.
///
/// Only after `Ok` is the backup known to be whole; what was visited before may belong to one that is not. `packed_bytes` is the
/// size of the file. Encrypted entries are recognised by their content, whatever the file is called, and opened by `encryption`;
/// what it does not open is handed out as that, and does not end the pass.
///
/// # Errors
///
/// `Corrupt` for everything that a backup of the operator never has, with the entry or the byte where it shows.
/// `Source` when `reader` fails, `Visit` when `visit` does; both end the pass.
pub fn read<E>(
    reader: impl Read,
    packed_bytes: u64,
    limits: &Limits,
    encryption: Option<&Encryption>,
    mut visit: impl FnMut(Entry) -> Result<(), E>,
) -> Result<Summary, ReadError<E>> {
    let mut pass = Pass::new(reader, packed_bytes, *limits, encryption);
    while let Some(entry) = pass.next_entry().map_err(widen)? {
        visit(entry).map_err(ReadError::Visit)?;
    }
    Ok(pass.summary()?)
}

/// What a backup says before the content of its objects is read.
#[derive(Debug, Default)]
pub struct Names {
    /// In the order of the archive.
    pub keys: Vec<ObjectKey>,
    pub filters: Option<ResourceSet>,
}

/// Passes over a backup for its names: unpacked, and not parsed, which takes a third of the time of [`read`].
///
/// Only [`read`] says whether the backup is whole and has these objects.
///
/// # Errors
///
/// As [`read`], for what shows so far.
pub fn names(reader: impl Read, packed_bytes: u64, limits: &Limits) -> Result<Names, ReadError<Infallible>> {
    let mut pass = Pass::new(reader, packed_bytes, *limits, None);
    let mut names = Names::default();
    let mut interner = Interner::default();
    while let Some(Member { path, size }) = pass.archive.next_file()? {
        pass.admit(&path, size)?;
        pass.archive.content(size, &mut pass.content)?;
        match EntryPath::parse(&path).map_err(|reason| fault(&path, reason))? {
            EntryPath::Obsolete => {}
            EntryPath::Filters => names.filters = Some(pass.filters(&path)?),
            EntryPath::Object(object) => {
                let namespace = object.namespace.map(|namespace| interner.text(namespace));
                let resource = pass.resource(&object);
                names.keys.push(ObjectKey { resource, namespace, name: Arc::from(object.name) });
            }
        }
    }
    Ok(names)
}

/// Passes once more over a backup that [`read`] found whole, with an `encryption` that opened all of it, and hands out the objects for which `wanted` says so.
///
/// `wanted` is asked for each object by its place among the objects, and says `Break` once none is wanted any more. What is not
/// wanted is unpacked and not parsed, which is most of what a pass costs. `visit` is told how many bytes the entry has.
///
/// # Errors
///
/// As [`read`].
pub fn reread<E>(
    reader: impl Read,
    packed_bytes: u64,
    limits: &Limits,
    encryption: Option<&Encryption>,
    mut wanted: impl FnMut(u32) -> ControlFlow<(), bool>,
    mut visit: impl FnMut(u32, ObjectKey, Value, u64) -> Result<(), E>,
) -> Result<(), ReadError<E>> {
    let mut pass = Pass::new(reader, packed_bytes, *limits, encryption);
    let mut place = 0;
    while let Some(Member { path, size }) = pass.archive.next_file().map_err(widen)? {
        pass.admit(&path, size).map_err(widen)?;
        pass.archive.content(size, &mut pass.content).map_err(widen)?;
        let entry = EntryPath::parse(&path).map_err(|reason| widen(fault(&path, reason)))?;
        let EntryPath::Object(object) = entry else { continue };
        match wanted(place) {
            ControlFlow::Break(()) => return Ok(()),
            ControlFlow::Continue(false) => {}
            ControlFlow::Continue(true) => {
                let value = match pass.content(&path, &object).map_err(widen)? {
                    Content::Object { value, encrypted: _ } => value,
                    Content::Closed { provider, problem } => {
                        return Err(widen(fault(&path, format!("is encrypted by {provider}, and {problem}"))));
                    }
                };
                visit(place, object.key(pass.resource(&object)), value, size).map_err(ReadError::Visit)?;
            }
        }
        place += 1;
    }
    Ok(())
}

fn widen<E>(failure: Failure) -> ReadError<E> {
    match failure {
        ReadError::Corrupt(error) => ReadError::Corrupt(error),
        ReadError::Source(error) => ReadError::Source(error),
        ReadError::Visit(never) => match never {},
    }
}

/// What an entry of an object holds.
enum Content {
    Object {
        value: Value,
        encrypted: bool,
    },
    /// No key has opened it.
    Closed {
        provider: String,
        problem: Unopened,
    },
}

/// A JSON string, borrowed where it has no escapes, as no base64 has.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

struct Pass<'e, R: Read> {
    archive: Unpack<R>,
    limits: Limits,
    encryption: Option<&'e Encryption>,
    summary: Summary,
    entries: u64,
    /// Content of the entry at hand; kept for its allocation.
    content: Vec<u8>,
    /// What its base64 holds, and then the object; kept as well.
    opened: Vec<u8>,
    /// First half of the SHA-256 of each object's identity: as good as the names, and a tenth of their size.
    seen: HashSet<u128>,
    /// The folder before: the operator writes one folder after the other, so that a type is allocated once.
    last_resource: Option<Arc<Resource>>,
}

impl<'e, R: Read> Pass<'e, R> {
    fn new(reader: R, packed_bytes: u64, limits: Limits, encryption: Option<&'e Encryption>) -> Self {
        let bounds = Bounds { max_unpacked_bytes: limits.max_total_bytes, packed_bytes, max_ratio: limits.max_ratio };
        Self {
            archive: Unpack::new(reader, bounds),
            limits,
            encryption,
            summary: Summary::default(),
            entries: 0,
            content: Vec::new(),
            opened: Vec::new(),
            seen: HashSet::new(),
            last_resource: None,
        }
    }

    fn next_entry(&mut self) -> Result<Option<Entry>, Failure> {
        while let Some(Member { path, size }) = self.archive.next_file()? {
            self.admit(&path, size)?;
            self.archive.content(size, &mut self.content)?;
            let entry = match EntryPath::parse(&path).map_err(|reason| fault(&path, reason))? {
                EntryPath::Obsolete => continue,
                EntryPath::Filters => Entry::Filters(self.filters(&path)?),
                EntryPath::Object(object) => self.object(&path, &object)?,
            };
            return Ok(Some(entry));
        }
        Ok(None)
    }

    /// Checks what can be known before the content is read.
    fn admit(&mut self, path: &[u8], size: u64) -> Result<(), Failure> {
        let Limits { max_entry_bytes, max_entries, .. } = self.limits;
        let too_large = |what| Err(BackupError::TooLarge { entry: Some(EntryName::new(path)), what }.into());
        self.entries += 1;
        if self.entries > max_entries {
            return too_large(format!("more than {max_entries} entries"));
        }
        if size > max_entry_bytes {
            return too_large(format!("{size} bytes in one entry, more than {max_entry_bytes}"));
        }
        if size == 0 {
            return Err(fault(path, "is an empty file"));
        }
        Ok(())
    }

    fn filters(&mut self, path: &[u8]) -> Result<ResourceSet, Failure> {
        if std::mem::replace(&mut self.summary.has_filters, true) {
            return Err(fault(path, "is there twice"));
        }
        let value = parsed(path, &self.content)?;
        let set = ResourceSet::from_value(value);
        Ok(set.map_err(|source| BackupError::Filters { entry: EntryName::new(path), source })?)
    }

    fn object(&mut self, path: &[u8], object: &ObjectPath<'_>) -> Result<Entry, Failure> {
        if !self.seen.insert(identity(object)) {
            return Err(fault(
                path,
                "is an object that came before, maybe at another version of its resource or by another spelling",
            ));
        }
        let content = self.content(path, object)?;
        let key = object.key(self.resource(object));
        match content {
            Content::Closed { provider, problem } => {
                self.summary.encrypted += 1;
                Ok(Entry::Encrypted { key, provider, problem })
            }
            Content::Object { value, encrypted } => {
                agrees(&value, object).map_err(|reason| fault(path, reason))?;
                self.summary.objects += 1;
                Ok(Entry::Object { key, value, encrypted })
            }
        }
    }

    /// Reads the content at hand: JSON, or a JSON string of base64.
    fn content(&mut self, path: &[u8], object: &ObjectPath<'_>) -> Result<Content, Failure> {
        if !self.content.trim_ascii_start().starts_with(b"\"") {
            return Ok(Content::Object { value: parsed(path, &self.content)?, encrypted: false });
        }
        let Text(text) = serde_json::from_slice(&self.content).map_err(|error| not_json(path, &error))?;
        let foreign = || fault(path, "is neither an object nor encrypted by a provider of Kubernetes");
        self.opened.clear();
        BASE64.decode_vec(&*text, &mut self.opened).map_err(|_| foreign())?;
        let Some(Form { provider }) = Form::of(&self.opened) else {
            // Former operators put base64 around what the provider `identity` leaves as it is.
            return match self.opened.first() {
                Some(b'{') => Ok(Content::Object { value: parsed(path, &self.opened)?, encrypted: false }),
                Some(_) | None => Err(foreign()),
            };
        };
        let ObjectPath { plural, group, version: _, namespace, name } = *object;
        let opened = match self.encryption {
            None => Err(Unopened::NoConfiguration),
            Some(encryption) => encryption.open(Place { plural, group, namespace, name }, &text, &mut self.opened),
        };
        let problem = match opened {
            Err(problem) => problem,
            Ok(opened) => match (parsed(path, &self.opened[opened.range.clone()]), opened.doubt()) {
                (Ok(value), _) => return Ok(Content::Object { value, encrypted: true }),
                (Err(failure), None) => return Err(failure),
                (Err(_), Some(doubt)) => doubt,
            },
        };
        Ok(Content::Closed { provider, problem })
    }

    fn resource(&mut self, object: &ObjectPath<'_>) -> Arc<Resource> {
        let same = |last: &&Arc<Resource>| {
            let Resource { group, version, plural } = &***last;
            group == object.group && version == object.version && plural == object.plural
        };
        if let Some(last) = self.last_resource.as_ref().filter(same) {
            return Arc::clone(last);
        }
        Arc::clone(self.last_resource.insert(Arc::new(object.resource())))
    }

    fn summary(self) -> Result<Summary, BackupError> {
        let Summary { objects, encrypted, has_filters, unpacked_bytes: _ } = self.summary;
        if objects + encrypted == 0 {
            return Err(BackupError::Empty);
        }
        Ok(Summary { objects, encrypted, has_filters, unpacked_bytes: self.archive.unpacked_bytes() })
    }
}

/// What makes an object one: the version of a resource is only the way it is written.
fn identity(object: &ObjectPath<'_>) -> u128 {
    let ObjectPath { plural, group, version: _, namespace, name } = object;
    let mut hasher = Sha256::new();
    for part in [plural, group, namespace.as_ref().unwrap_or(&""), name] {
        hasher.update(part);
        hasher.update([0]); // in no part, for paths have no control characters
    }
    let digest: [u8; 32] = hasher.finalize().into();
    digest.iter().take(16).fold(0, |number, byte| number << 8 | u128::from(*byte))
}

fn parsed(path: &[u8], content: &[u8]) -> Result<Value, Failure> {
    json::parse(content).map_err(|error| not_json(path, &error))
}

fn not_json(path: &[u8], error: &serde_json::Error) -> Failure {
    fault(path, format!("is not JSON: {}", shown(&error.to_string())))
}

/// Whether path and content say the same object.
fn agrees(value: &Value, object: &ObjectPath<'_>) -> Result<(), String> {
    let Value::Object(fields) = value else {
        return Err("is not an object: its JSON is no map".to_owned());
    };
    if text("kind", fields.get("kind"))?.is_empty() {
        return Err("has no kind".to_owned());
    }
    let version = text("apiVersion", fields.get("apiVersion"))?;
    let (group, version) = version.rsplit_once('/').unwrap_or(("", version));
    same("the group", group, object.group)?;
    same("the version", version, object.version)?;
    let metadata = |name| fields.get("metadata").and_then(|metadata| metadata.get(name));
    same("the name", text("metadata.name", metadata("name"))?, object.name)?;
    same("the namespace", text("metadata.namespace", metadata("namespace"))?, object.namespace.unwrap_or_default())
}

/// A field that is text; one that is not there is empty, as in Go.
fn text<'v>(field: &str, value: Option<&'v Value>) -> Result<&'v str, String> {
    match value {
        None | Some(Value::Null) => Ok(""),
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(format!("has something other than text as its {field}")),
    }
}

fn same(what: &str, content: &str, path: &str) -> Result<(), String> {
    if content == path {
        return Ok(());
    }
    Err(format!("says {what} `{}` where its path says `{}`", shown(content), shown(path)))
}

#[cfg(test)]
mod tests;
