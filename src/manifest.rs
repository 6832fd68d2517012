//! Manifests as they are written: what `Restore` and `Rollback` documents under the watched path say, and every
//! mistake in them with its file, its line and a remedy.
//!
//! Pure. Documents of other kinds are left alone, whatever they contain. A document with a mistake does not count and
//! does not stop its neighbours; a stream that is not YAML makes its whole file not count.

mod digest;
mod document;
mod options;
mod pin;
mod report;
mod restore;
mod rollback;
mod text;
mod tree;
pub(crate) mod yaml;

use std::fmt;

pub use digest::{Digest, NotADigest};
pub use document::{Document, Parsed, parse};
pub(crate) use options::ON_FAILURE_WORDS;
pub use options::{Engine, Options, TIMEOUT};
pub use pin::{pin, unpin};
pub(crate) use report::{Fields, Report, one_of};
pub use report::{Problem, Severity, duration, humane};
pub(crate) use restore::S3_FIELDS;
pub(crate) use restore::s3_location;
pub use restore::{AwsConfig, BucketLookup, ClientConfig, MAX_DELETE_TIMEOUT_SECONDS, RestoreSpec, S3Location};
pub use rollback::{RollbackSpec, VersionMethod};
pub(crate) use text::{printable, quoted};
pub use tree::{SourceFile, Tree, TreeReader};
pub use yaml::Place;

/// `apiVersion` of a `Restore`: upstream's.
pub const RESTORE_API_VERSION: &str = "resources.cattle.io/v1";
/// `apiVersion` of a `Rollback`: ours.
pub const ROLLBACK_API_VERSION: &str = "reinback.io/v1alpha1";

/// The kinds that reinback carries out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub enum Kind {
    Restore,
    Rollback,
}

impl Kind {
    pub const ALL: [Self; 2] = [Self::Restore, Self::Rollback];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Restore => "Restore",
            Self::Rollback => "Rollback",
        }
    }

    pub fn api_version(self) -> &'static str {
        match self {
            Self::Restore => RESTORE_API_VERSION,
            Self::Rollback => ROLLBACK_API_VERSION,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What makes two documents the same manifest, in whatever file they lie.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct ManifestId {
    pub kind: Kind,
    pub name: String,
}

/// `Restore restore-migration`
impl fmt::Display for ManifestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// One valid document.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub id: ManifestId,
    pub file: String,
    /// Where the document begins, from 1.
    pub line: usize,
    /// The object id of the file in Git, in hexadecimal; empty until the caller knows it.
    pub blob: String,
    pub body: Body,
    pub options: Options,
    /// Over what the document says, not how: it finds the last commit that changed it.
    pub document_digest: Digest,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Body {
    Restore(RestoreSpec),
    Rollback(RollbackSpec),
}

impl Body {
    /// The data that is brought back; a `Rollback` may change the version only.
    pub fn restore(&self) -> Option<&RestoreSpec> {
        match self {
            Self::Restore(restore) => Some(restore),
            Self::Rollback(rollback) => rollback.restore.as_ref(),
        }
    }
}

/// How much is read; past a limit the file, or the tree, is refused with a message that names the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one file. A manifest takes one or two thousand; 1 MiB is what etcd takes of one object.
    pub file_bytes: usize,
    /// YAML files under the watched path.
    pub files: usize,
    /// Documents of one file, of whatever kind.
    pub documents: usize,
    /// Mappings and lists inside each other.
    pub depth: usize,
    /// Bytes that the aliases of one document may repeat.
    pub alias_bytes: usize,
}

/// Problems of one file that are told, one by one.
pub const MAX_PROBLEMS: usize = 100;

impl Default for Limits {
    fn default() -> Self {
        Self { file_bytes: 1024 * 1024, files: 10_000, documents: 1_000, depth: 64, alias_bytes: 64 * 1024 }
    }
}

#[cfg(test)]
mod tests;
