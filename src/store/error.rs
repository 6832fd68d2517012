//! What can go wrong at a store, as callers tell it apart.

use std::error::Error;
use std::path::PathBuf;

/// An error of a client library. Errors of the AWS SDK end up here only as far as they tell of the connection: what
/// tells of a request or an answer may quote either.
pub type Cause = Box<dyn Error + Send + Sync>;

/// Why a store did not do as asked. No text holds a credential; `place` is [`Store::describe`](super::Store::describe).
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("backup {name} is not in {place}: see backupFilename and the storage location")]
    NotFound { place: String, name: String },

    #[error("{place} denies access{}: {}", code_text(.code.as_deref()), denied(.code.as_deref()))]
    AccessDenied {
        place: String,
        /// S3's code, where the server gave one.
        code: Option<String>,
    },

    #[error("no credentials for {place}: set credentialSecretName, or give the agent's environment or identity some")]
    NoCredentials { place: String },

    #[error("there is no such bucket: {place}")]
    NoBucket { place: String },

    #[error("{place} is in another region{}", .region.as_deref().map(|r| format!(": set region to {r}")).unwrap_or_default())]
    WrongRegion { place: String, region: Option<String> },

    #[error("cannot reach {place}")]
    Unreachable { place: String, source: Cause },

    #[error("no trusted connection to {place}: see endpointCA and the scheme of endpoint")]
    Tls { place: String, source: Cause },

    #[error("{place} answered {status}{}", code_text(.code.as_deref()))]
    Refused { place: String, status: u16, code: Option<String> },

    #[error("{place} answered something that S3 does not: {reason}")]
    NotS3 { place: String, reason: &'static str },

    #[error("the download of {name} from {place} broke off for good after {received} of {size} bytes")]
    Interrupted { place: String, name: String, received: u64, size: u64, source: Cause },

    #[error("backup {name} in {place} was replaced while it was read")]
    Changed { place: String, name: String },

    #[error("backup {name} has {size} bytes, more than the limit of {limit}")]
    TooLarge { name: String, size: u64, limit: u64 },

    #[error("{place} has more than {limit} entries: give the backups a folder of their own")]
    TooManyEntries { place: String, limit: usize },

    #[error("not enough space in {} for {needed} bytes{}", .dir.display(), .available.map(|b| format!(": {b} are free")).unwrap_or_default())]
    NoSpace { dir: PathBuf, needed: u64, available: Option<u64> },

    #[error("no space is left in {place}")]
    Full { place: String },

    #[error("there is a {name} in {place} already, and a backup is never written over")]
    Exists { place: String, name: String },

    /// Nobody may write there: a file system that is read-only, or a directory of somebody else.
    #[error("{place} cannot be written to")]
    ReadOnly { place: String, source: std::io::Error },

    #[error("what {place} gives back as {name} is not what was written; it was removed")]
    NotAsWritten { place: String, name: String },

    #[error("cannot read the temporary file of a backup again")]
    Unread { source: std::io::Error },

    #[error("cannot write a temporary file in {}", .dir.display())]
    Spool { dir: PathBuf, source: std::io::Error },

    #[error("cannot read {}", .path.display())]
    Directory { path: PathBuf, source: std::io::Error },

    #[error("{} leads out of the store, or is no file", .path.display())]
    NoFile { path: PathBuf },

    #[error("`{name}` is no name of a backup: {reason}")]
    BadName { name: String, reason: &'static str },

    #[error("{field} of the S3 location: {reason}")]
    BadLocation { field: &'static str, reason: String },

    #[error("endpoint of the S3 location: {reason}")]
    BadEndpoint { reason: &'static str },

    #[error("endpointCA of the S3 location: {reason}")]
    BadCertificate { reason: &'static str },

    #[error("stopped: the process is ending")]
    Stopped,
}

impl StoreError {
    /// Whether the same call may succeed later without anybody changing a manifest, a Secret or the store.
    pub fn transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Interrupted { .. } | Self::Changed { .. } | Self::NoSpace { .. } => true,
            Self::Refused { status, .. } => *status >= 500 || matches!(status, 408 | 429),
            // The clock of either side may be set right, and roles of a cluster arrive late.
            Self::AccessDenied { code, .. } => matches!(code.as_deref(), Some("RequestTimeTooSkewed" | "ExpiredToken")),
            Self::NotFound { .. }
            | Self::Full { .. }
            | Self::Exists { .. }
            | Self::ReadOnly { .. }
            | Self::NotAsWritten { .. }
            | Self::Unread { .. }
            | Self::NoCredentials { .. }
            | Self::NoBucket { .. }
            | Self::WrongRegion { .. }
            | Self::Tls { .. }
            | Self::NotS3 { .. }
            | Self::TooLarge { .. }
            | Self::TooManyEntries { .. }
            | Self::Spool { .. }
            | Self::Directory { .. }
            | Self::NoFile { .. }
            | Self::BadName { .. }
            | Self::BadLocation { .. }
            | Self::BadEndpoint { .. }
            | Self::BadCertificate { .. }
            | Self::Stopped => false,
        }
    }
}

fn code_text(code: Option<&str>) -> String {
    code.map(|code| format!(" ({code})")).unwrap_or_default()
}

fn denied(code: Option<&str>) -> &'static str {
    match code {
        Some("InvalidAccessKeyId") => "it does not know the accessKey",
        Some("SignatureDoesNotMatch") => "the secretKey does not fit the accessKey, or region is wrong",
        Some("RequestTimeTooSkewed") => "the clocks of this machine and of the server differ by more than 15 minutes",
        Some("InvalidObjectState") => "the backup lies in an archive class: bring it back from there first",
        Some("ExpiredToken" | "InvalidToken") => "the session of the credentials has ended",
        _ => {
            "see the permissions of the credentials. \
             S3 also answers 403 for a missing object where s3:ListBucket is not granted"
        }
    }
}
