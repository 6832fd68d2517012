//! The spec of a `Restore`: upstream's fields, all of them.

use super::document::name;
use super::report::{Fields, one_of};
use super::text::quoted;

/// Upstream's schema allows no more.
pub const MAX_DELETE_TIMEOUT_SECONDS: u8 = 10;

/// What to bring back.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreSpec {
    /// The file in the store; no path.
    pub backup_filename: String,
    /// `None`: the store of the agent's configuration.
    pub storage_location: Option<S3Location>,
    /// Delete what the backup's selectors match and the backup does not hold.
    pub prune: bool,
    /// Passed on to the operator; the native engine awaits deletions instead.
    pub delete_timeout_seconds: u8,
    pub ignore_errors: bool,
    /// A Secret in the operator's namespace.
    pub encryption_config_secret_name: Option<String>,
}

/// `storageLocation.s3` of a manifest, and `store.s3` of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct S3Location {
    pub bucket_name: String,
    /// Secret with the keys `accessKey` and `secretKey`; absent means the SDK's default chain.
    pub credential_secret_name: Option<String>,
    pub credential_secret_namespace: Option<String>,
    /// Host, with or without scheme and port. Without a scheme it is `https`; absent means AWS.
    pub endpoint: Option<String>,
    /// Roots that are trusted *instead of* the system's: PEM, or base64 of PEM.
    #[serde(rename = "endpointCA")]
    pub endpoint_ca: Option<String>,
    #[serde(rename = "insecureTLSSkipVerify")]
    pub insecure_tls_skip_verify: bool,
    pub region: Option<String>,
    /// Prefix of the backups' keys; slashes at either end mean nothing.
    pub folder: Option<String>,
    pub client_config: ClientConfig,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ClientConfig {
    pub aws: AwsConfig,
    pub bucket_lookup: BucketLookup,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AwsConfig {
    /// AWS' endpoints that answer over IPv6, too. Endpoints of others are left as they are.
    pub dual_stack: bool,
}

/// Where a request names the bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BucketLookup {
    /// `dns` for AWS and for Alibaba Cloud, which knows nothing else; `path` for all others.
    #[default]
    Auto,
    /// `https://bucket.host/key`
    Dns,
    /// `https://host/bucket/key`
    Path,
}

const RESTORE_FIELDS: &[&str] = &[
    "backupFilename",
    "storageLocation",
    "prune",
    "deleteTimeoutSeconds",
    "ignoreErrors",
    "encryptionConfigSecretName",
];

pub(crate) const S3_FIELDS: &[&str] = &[
    "bucketName",
    "credentialSecretName",
    "credentialSecretNamespace",
    "endpoint",
    "endpointCA",
    "insecureTLSSkipVerify",
    "region",
    "folder",
    "clientConfig",
];
const S3_CLIENT_FIELDS: &[&str] = &["aws", "bucketLookup"];
const S3_AWS_FIELDS: &[&str] = &["dualStack"];

/// Reads the fields of a restore from the mapping called `field`; the mapping itself must be there.
pub(super) fn read_field(parent: &Fields<'_>, field: &str) -> Option<RestoreSpec> {
    if parent.get(field).is_none() {
        parent.missing(field, "write at least `backupFilename`");
        return None;
    }
    let spec = parent.open_field(field, RESTORE_FIELDS)?;
    if spec.get("backupFilename").is_none() {
        spec.missing("backupFilename", "name the file of the backup");
    }
    let backup_filename = spec.parsed("backupFilename", backup_filename);
    let storage_location = storage_location(&spec);
    let prune = spec.boolean("prune");
    let delete_timeout = spec.integer("deleteTimeoutSeconds", 0..=u64::from(MAX_DELETE_TIMEOUT_SECONDS));
    let ignore_errors = spec.boolean("ignoreErrors");
    let encryption_config_secret_name = spec.parsed("encryptionConfigSecretName", secret_name);
    Some(RestoreSpec {
        backup_filename: backup_filename?,
        storage_location,
        prune: prune.unwrap_or(true),
        delete_timeout_seconds: delete_timeout.and_then(|seconds| u8::try_from(seconds).ok()).unwrap_or(0),
        ignore_errors: ignore_errors.unwrap_or(false),
        encryption_config_secret_name,
    })
}

fn backup_filename(text: &str) -> Result<String, String> {
    let reason = if text.is_empty() {
        "is empty: name the file of the backup".to_owned()
    } else if text.contains(['/', '\\']) {
        format!("must be a file name, not a path: {}; the folder belongs to `storageLocation.s3.folder`", quoted(text))
    } else if text.contains("..") {
        format!("must not contain `..`: {}", quoted(text))
    } else if text.len() > 255 || text.trim() != text || text.chars().any(char::is_control) {
        format!("is not a file name: {}", quoted(text))
    } else {
        return Ok(text.to_owned());
    };
    Err(reason)
}

fn storage_location(spec: &Fields<'_>) -> Option<S3Location> {
    let location = spec.open_field("storageLocation", &["s3"])?;
    if location.get("s3").is_none() {
        location.missing("s3", "a manifest names an S3 location, or none for the agent's own store");
    }
    s3_location(&location.open_field("s3", S3_FIELDS)?)
}

/// Reads the fields of an S3 location; the configuration has the same.
pub(crate) fn s3_location(s3: &Fields<'_>) -> Option<S3Location> {
    if s3.get("bucketName").is_none() {
        s3.missing("bucketName", "name the bucket");
    }
    let bucket_name = s3.parsed("bucketName", bucket_name);
    if let (Some(_), None) = (s3.get("credentialSecretNamespace"), s3.get("credentialSecretName")) {
        s3.missing("credentialSecretName", "a namespace alone names no Secret");
    }
    let client = s3.open_field("clientConfig", S3_CLIENT_FIELDS);
    let aws = client.as_ref().and_then(|client| client.open_field("aws", S3_AWS_FIELDS));
    let location = S3Location {
        bucket_name: bucket_name.clone().unwrap_or_default(),
        credential_secret_name: s3.parsed("credentialSecretName", secret_name),
        credential_secret_namespace: s3.parsed("credentialSecretNamespace", name),
        endpoint: s3.parsed("endpoint", endpoint),
        endpoint_ca: s3.parsed("endpointCA", filled),
        insecure_tls_skip_verify: s3.boolean("insecureTLSSkipVerify").unwrap_or(false),
        region: s3.parsed("region", filled),
        folder: s3.parsed("folder", folder),
        client_config: ClientConfig {
            aws: AwsConfig { dual_stack: aws.and_then(|aws| aws.boolean("dualStack")).unwrap_or(false) },
            bucket_lookup: client.and_then(|client| client.parsed("bucketLookup", bucket_lookup)).unwrap_or_default(),
        },
    };
    bucket_name.map(|_| location)
}

fn bucket_lookup(text: &str) -> Result<BucketLookup, String> {
    one_of(text, &[("auto", BucketLookup::Auto), ("dns", BucketLookup::Dns), ("path", BucketLookup::Path)])
}

/// Loose, for servers that are not Amazon's: what could change the path of a request is refused.
fn bucket_name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if (3..=255).contains(&text.len()) && text.chars().all(plain) && !text.contains("..") {
        return Ok(text.to_owned());
    }
    Err(format!("is not a name of a bucket: {}", quoted(text)))
}

/// A key pasted in the place of a Secret's name must not travel on in a message.
fn secret_name(text: &str) -> Result<String, String> {
    name(text).map_err(|_| {
        "is not the name of a Secret: write lower-case letters, digits, `-` and `.`, and keep the keys themselves in that Secret".to_owned()
    })
}

fn endpoint(text: &str) -> Result<String, String> {
    let host = text.split_once("://").map_or(text, |(_, rest)| rest);
    if host.contains('@') {
        return Err("must not hold credentials: they belong into the Secret of `credentialSecretName`".to_owned());
    }
    let scheme = text.split_once("://").map(|(scheme, _)| scheme);
    let known = matches!(scheme, None | Some("http" | "https"));
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']' | '/');
    if known && !host.is_empty() && host.chars().all(plain) {
        return Ok(text.to_owned());
    }
    Err(format!("is not an endpoint: {}; write `s3.example.org`, with `https://` or a port where needed", quoted(text)))
}

fn folder(text: &str) -> Result<String, String> {
    if text.split('/').any(|part| matches!(part, "." | "..")) || text.chars().any(char::is_control) {
        return Err(format!("must not contain `.` or `..` as a part: {}", quoted(text)));
    }
    Ok(text.to_owned())
}

fn filled(text: &str) -> Result<String, String> {
    if text.trim().is_empty() { Err("is empty: write a value or remove it".to_owned()) } else { Ok(text.to_owned()) }
}

impl S3Location {
    /// What the location is, apart from how it is reached: bucket, endpoint, region and folder, with defaults filled
    /// in, so that two ways to write the same place are one.
    pub(crate) fn identity(&self) -> [String; 4] {
        let Self {
            bucket_name,
            credential_secret_name: _,
            credential_secret_namespace: _,
            endpoint,
            endpoint_ca: _,
            insecure_tls_skip_verify: _,
            region,
            folder,
            client_config: _,
        } = self;
        let region = region.clone().unwrap_or_else(|| DEFAULT_REGION.to_owned());
        let endpoint = endpoint.as_deref().unwrap_or_default().to_ascii_lowercase();
        let host = endpoint.strip_prefix("https://").unwrap_or(&endpoint).trim_end_matches('/');
        let amazon = host == "s3.amazonaws.com" || host == format!("s3.{region}.amazonaws.com");
        let folder: Vec<_> = folder.as_deref().unwrap_or_default().split('/').filter(|part| !part.is_empty()).collect();
        let host = if amazon { "" } else { host.strip_suffix(":443").unwrap_or(host) };
        [bucket_name.clone(), host.to_owned(), region, folder.join("/")]
    }
}

/// The region of a location without one, as the SDKs assume for S3.
const DEFAULT_REGION: &str = "us-east-1";
