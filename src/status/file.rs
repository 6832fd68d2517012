//! The file of one run on the status branch: the whole `Run` as YAML.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use kube::api::ObjectMeta;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::derive;
use crate::health::Check;
use crate::journal::Event;
use crate::plan::gate::Gate;
use crate::run::{Condition, NAMESPACE, Phase, Progress, Run, RunSpec};

/// Largest status file that is written or read, in bytes. Messages and lists of a `Run` are cut to fit.
pub const FILE_MAX_BYTES: usize = 1024 * 1024;

/// Of a run that is about to begin: errors, warnings and take-overs, each cut at a kibibyte and at some hundred, still fit
/// beside it, so that the file can always say how the run ended.
pub const START_MAX_BYTES: usize = 300 * 1024;

/// Longest name of a `Run`: with `.yaml` it must fit the 255 bytes of a file name, and as an object's name 253.
const NAME_MAX_BYTES: usize = 250;

const HEADER: &str = "\
# One run of reinback: what was to be done, by whom, how far it came and how it ended.
# reinback reads this file to know what has run already. Do not edit or delete it.
";

#[derive(Debug, thiserror::Error)]
pub enum StatusFileError {
    #[error("the file has {bytes} bytes; a status file has at most {FILE_MAX_BYTES}")]
    TooLarge { bytes: usize },
    #[error(
        "the file has {bytes} bytes before the run begins, and at most {START_MAX_BYTES} leave room for how it ends; \
         make the manifest smaller"
    )]
    NoRoom { bytes: usize },
    #[error("not YAML")]
    Yaml(#[source] serde_yaml::Error),
    #[error("not a Run of reinback.io, but {kind:?} of {api_version:?}")]
    NotARun { api_version: String, kind: String },
    #[error("the run's key {key:?} is not 64 hexadecimal digits")]
    Key { key: String },
    #[error("the run cannot be read; a newer reinback may have written it")]
    Content(#[source] serde_json::Error),
}

/// The name of a `Run`, and of its file: `<UTC date>-<manifest's name>-<first 8 of the key>`.
///
/// `created` is when the run was first seen; the name keeps it, so that the file of a run never moves. Whatever the
/// arguments are, the name is one that Kubernetes takes and a single component of a path.
pub fn run_object_name(created: Timestamp, name: &str, key: &str) -> String {
    let date = created.to_zoned(TimeZone::UTC).date();
    let key = subdomain(key, 8);
    let room = NAME_MAX_BYTES - "YYYY-MM-DD".len() - key.len() - 2;
    format!("{date}-{}-{key}", subdomain(name, room))
}

/// Where the file of `run` lies on the status branch.
pub fn status_file_path(run: &Run) -> String {
    format!("runs/{}.yaml", subdomain(run.metadata.name.as_deref().unwrap_or_default(), NAME_MAX_BYTES))
}

/// `text` as RFC 1123 wants a subdomain, of at most `max_bytes`; `x` when nothing of it is left.
fn subdomain(text: &str, max_bytes: usize) -> String {
    let plain: String = text
        .chars()
        .map(|c| c.to_ascii_lowercase())
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' { c } else { '-' })
        .collect();
    let labels: Vec<&str> = plain.split('.').map(|label| label.trim_matches('-')).filter(|l| !l.is_empty()).collect();
    let mut joined = labels.join(".");
    joined.truncate(max_bytes);
    let kept = joined.trim_end_matches(['-', '.']);
    if kept.is_empty() { "x".to_owned() } else { kept.to_owned() }
}

/// The bytes of the file of `run`. What only the API server knows of the object (uid, resourceVersion) is left out, and what
/// nobody can read (the planned deletions).
///
/// # Errors
///
/// `TooLarge` when the manifest itself does not fit.
pub fn status_file(run: &Run) -> Result<String, StatusFileError> {
    let mut told = Run {
        metadata: ObjectMeta {
            name: run.metadata.name.clone(),
            namespace: Some(NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        spec: run.spec.clone(),
        status: run.status.clone(),
    };
    if let Some(status) = &mut told.status {
        super::bound(status);
        derive(status);
        status.planned_deletions = None;
    }
    let yaml = serde_yaml::to_string(&told).map_err(StatusFileError::Yaml)?;
    let file = format!("{HEADER}{yaml}");
    if file.len() > FILE_MAX_BYTES { Err(StatusFileError::TooLarge { bytes: file.len() }) } else { Ok(file) }
}

/// Whether the file of `run`, which is about to begin, will always have room for what becomes of it.
///
/// # Errors
///
/// `NoRoom`, and as [`status_file`].
pub fn check_room(run: &Run) -> Result<(), StatusFileError> {
    let bytes = status_file(run)?.len();
    if bytes > START_MAX_BYTES { Err(StatusFileError::NoRoom { bytes }) } else { Ok(()) }
}

/// Reads a status file that this, an older or a newer reinback wrote.
///
/// # Errors
///
/// When the key, the phase or what a restart would go by cannot be read. The run must then count as one that may
/// have happened: taking it for missing would run it again.
pub fn parse_status_file(bytes: &[u8]) -> Result<Run, StatusFileError> {
    if bytes.len() > FILE_MAX_BYTES {
        return Err(StatusFileError::TooLarge { bytes: bytes.len() });
    }
    run_from_value(serde_yaml::from_slice(bytes).map_err(StatusFileError::Yaml)?)
}

/// Reads a `Run` as the API server or a status file gives it: fields, gates and conditions that this version does not
/// know are passed over; journal entries only when the run has ended, as a run is continued by its journal.
///
/// # Errors
///
/// As [`parse_status_file`].
pub fn run_from_value(mut value: Value) -> Result<Run, StatusFileError> {
    let text = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    if kind != "Run" || api_version.split_once('/').is_none_or(|(group, _)| group != "reinback.io") {
        return Err(StatusFileError::NotARun { api_version, kind });
    }
    drop_unknown(&mut value);
    let mut run: Run = serde_json::from_value(value).map_err(StatusFileError::Content)?;
    let RunSpec { key, .. } = &run.spec;
    if key.len() != 64 || !key.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(StatusFileError::Key { key: crate::run::cut_message(key) });
    }
    if let Some(status) = &mut run.status {
        derive(status);
    }
    Ok(run)
}

fn drop_unknown(value: &mut Value) {
    let Some(status) = value.get_mut("status").and_then(Value::as_object_mut) else { return };
    keep_readable::<Gate>(status.get_mut("gates"));
    keep_readable::<Condition>(status.get_mut("conditions"));
    keep_readable::<Check>(status.get_mut("checks"));
    let ended = status.get("phase").is_some_and(|phase| reads_as::<Phase>(phase, |phase| phase.is_terminal()));
    if ended {
        keep_readable::<Event>(status.get_mut("journal"));
    }
    if status.get("progress").is_some_and(|progress| !reads_as::<Progress>(progress, |_| true)) {
        status.remove("progress");
    }
    // Read off the journal again.
    status.remove("steps");
    status.remove("replicas");
    status.remove("safetyBackup");
}

fn keep_readable<T: DeserializeOwned>(list: Option<&mut Value>) {
    if let Some(Value::Array(items)) = list {
        items.retain(|item| reads_as::<T>(item, |_| true));
    }
}

fn reads_as<T: DeserializeOwned>(value: &Value, and: impl Fn(&T) -> bool) -> bool {
    T::deserialize(value).is_ok_and(|read| and(&read))
}
