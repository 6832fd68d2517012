//! Run keys: what makes two runs the same. They are kept for ever, in Git, so their bytes must never change.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use serde::Serialize;

use crate::manifest::{Body, Digest, Kind, Manifest, RestoreSpec, S3Location};

/// Begins what is digested. A change of what counts needs a new one, and both looked up in old ledgers.
const VERSION: &str = "reinback run key v1";

/// Names one run for ever: kind, name, what would be written and when it was asked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunKey(Digest);

/// The same without the name: a second manifest for what already ran is recognised by it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentKey(Digest);

impl RunKey {
    /// The first 8 digits, for file names and people.
    pub fn short(&self) -> String {
        self.0.hex().chars().take(8).collect()
    }
}

/// Text that is not 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a key of 64 hexadecimal digits: {0:?}")]
pub struct NotAKey(pub String);

macro_rules! fmt_hex {
    () => {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(&self.0.hex())
        }
    };
}

macro_rules! hexadecimal {
    ($($key:ident)+) => {$(
        impl fmt::Display for $key {
            fmt_hex!();
        }

        impl fmt::Debug for $key {
            fmt_hex!();
        }

        impl FromStr for $key {
            type Err = NotAKey;

            fn from_str(text: &str) -> Result<Self, NotAKey> {
                Digest::from_hex(text).map(Self).ok_or_else(|| NotAKey(text.to_owned()))
            }
        }

        impl serde::Serialize for $key {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $key {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )+};
}

hexadecimal!(RunKey ContentKey);

/// The agent's own store, for manifests without `storageLocation`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreDefault {
    Directory(PathBuf),
    S3(Box<S3Location>),
}

pub fn run_key(manifest: &Manifest, store: Option<&StoreDefault>) -> RunKey {
    RunKey(digest(manifest, store, Some(&manifest.id.name)))
}

pub fn content_key(manifest: &Manifest, store: Option<&StoreDefault>) -> ContentKey {
    ContentKey(digest(manifest, store, None))
}

/// What is digested, as JSON. Fields are written in this order: moving one changes every key.
#[derive(Serialize)]
struct Input<'a> {
    version: &'static str,
    kind: Kind,
    name: Option<&'a str>,
    restore: Option<Restore<'a>>,
    to_version: Option<&'a str>,
    /// RFC 3339 in UTC.
    requested_at: Option<String>,
}

#[derive(Serialize)]
struct Restore<'a> {
    backup: &'a str,
    location: Location,
    prune: bool,
    encryption: Option<&'a str>,
}

#[derive(Serialize)]
enum Location {
    S3 {
        bucket: String,
        endpoint: String,
        region: String,
        folder: String,
    },
    Directory(String),
    /// Neither the manifest nor the agent names one.
    Nowhere,
}

fn digest(manifest: &Manifest, store: Option<&StoreDefault>, name: Option<&str>) -> Digest {
    let to_version = match &manifest.body {
        Body::Restore(_) => None,
        Body::Rollback(rollback) => Some(rollback.to_version.as_str()),
    };
    let input = Input {
        version: VERSION,
        kind: manifest.id.kind,
        name,
        restore: manifest.body.restore().map(|restore| written(restore, store)),
        to_version,
        requested_at: manifest.options.requested_at.map(|instant| instant.to_string()),
    };
    Digest::of(&serde_json::to_vec(&input).expect("text and booleans are always JSON"))
}

/// What counts and what does not is decided here, so every field is named.
fn written<'a>(restore: &'a RestoreSpec, store: Option<&StoreDefault>) -> Restore<'a> {
    let RestoreSpec {
        backup_filename,
        storage_location,
        prune,
        delete_timeout_seconds: _,
        ignore_errors: _,
        encryption_config_secret_name,
    } = restore;
    let location = match (storage_location, store) {
        (Some(s3), _) => s3_location(s3),
        (None, Some(StoreDefault::S3(s3))) => s3_location(s3),
        (None, Some(StoreDefault::Directory(path))) => Location::Directory(plain_path(path)),
        (None, None) => Location::Nowhere,
    };
    Restore { backup: backup_filename, location, prune: *prune, encryption: encryption_config_secret_name.as_deref() }
}

fn s3_location(s3: &S3Location) -> Location {
    let [bucket, endpoint, region, folder] = s3.identity();
    Location::S3 { bucket, endpoint, region, folder }
}

/// Without `.` parts and doubled or trailing slashes. Links are not followed: this is pure.
fn plain_path(path: &Path) -> String {
    let parts: PathBuf = path.components().filter(|part| *part != Component::CurDir).collect();
    parts.to_string_lossy().into_owned()
}
