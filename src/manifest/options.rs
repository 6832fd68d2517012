//! Our annotations: how a manifest is carried out, beside what it asks for.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use jiff::Timestamp;

use super::digest::{Digest, NotADigest};
use super::report::{self, Report, not_text, one_of};
use super::text::{quoted, suggestion};
use super::yaml::{Node, Value};
use crate::journal::OnFailure;
use crate::plan::gate::{GateClass, GateCode};

pub(super) const ANNOTATION_PREFIX: &str = "reinback.io/";

/// How long a run may take, from its first change to its end.
pub const TIMEOUT: RangeInclusive<Duration> = Duration::from_secs(60)..=Duration::from_secs(24 * 3600);

/// What the annotations of a manifest say; what they leave out, the agent's policy says.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Options {
    pub engine: Engine,
    /// The sha256 of the tarball as it lies in the store.
    pub backup_digest: Option<Digest>,
    /// Part of the run's key: another time is another run.
    pub requested_at: Option<Timestamp>,
    /// Gates that the author knows of and takes; all of class `Accept`.
    pub accept: BTreeSet<GateCode>,
    pub approved_plan: Option<Digest>,
    pub on_failure: Option<OnFailure>,
    #[serde(serialize_with = "as_written")]
    pub timeout: Option<Duration>,
}

fn as_written<S: serde::Serializer>(timeout: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    serde::Serialize::serialize(&timeout.map(report::humane), serializer)
}

/// Who writes the objects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// Native where reinback can read the backup itself, else the operator.
    #[default]
    Auto,
    Native,
    Operator,
}

/// The words of `on-failure`.
pub(crate) const ON_FAILURE_WORDS: &[(&str, OnFailure)] =
    &[("Hold", OnFailure::Hold), ("Resume", OnFailure::Resume), ("Undo", OnFailure::Undo)];

const KNOWN: &[&str] = &["engine", "backup-digest", "requested-at", "accept", "approved-plan", "on-failure", "timeout"];

/// Reads the annotations that are ours; others are anybody's. `None` when one of ours is wrong, which is reported.
pub(super) fn read(annotations: &Node, report: &Report<'_>) -> Option<Options> {
    let mut options = Options::default();
    let mut whole = true;
    for entry in annotations.entries() {
        let Some(name) = entry.key.strip_prefix(ANNOTATION_PREFIX) else {
            whole &= foreign(&entry.key).map_err(|message| report.error(entry.at, message)).is_ok();
            continue;
        };
        let outcome = match &entry.value.value {
            _ if !KNOWN.contains(&name) => {
                report.error(entry.at, unknown(&entry.key, name));
                whole = false;
                continue;
            }
            Value::Null => continue,
            Value::Text(text) => set(&mut options, name, text.trim()),
            value @ Value::Bare(word) => set(&mut options, name, word).and_then(|()| Err(not_text(value))),
            value @ (Value::List(_) | Value::Map(_)) => Err(not_text(value)),
        };
        if let Err(message) = outcome {
            report.error(entry.value.at, format!("`{}` {message}", entry.key));
            whole = false;
        }
    }
    whole.then_some(options)
}

fn unknown(key: &str, name: &str) -> String {
    // Ours to write on the cluster, and no one's in Git.
    if name == "replicas" {
        return format!("{} is written by reinback on the cluster: remove it", quoted(key));
    }
    format!("unknown annotation {}{}", quoted(key), annotation_suggestion(name))
}

fn annotation_suggestion(name: &str) -> String {
    suggestion(name, KNOWN.iter().copied()).replacen('`', &format!("`{ANNOTATION_PREFIX}"), 1)
}

/// `reinback/engine` and `engine` mean ours, and would be passed over in silence.
fn foreign(key: &str) -> Result<(), String> {
    let (prefix, name) = key.rsplit_once('/').unwrap_or(("", key));
    if super::text::nearest(prefix, ["reinback.io"]).is_some() && KNOWN.contains(&name) || KNOWN.contains(&key) {
        return Err(format!("unknown annotation {}, did you mean `{ANNOTATION_PREFIX}{name}`?", quoted(key)));
    }
    Ok(())
}

fn set(options: &mut Options, name: &str, text: &str) -> Result<(), String> {
    let digest = |text: &str| text.parse().map(Some).map_err(|error: NotADigest| error.to_string());
    match name {
        "engine" => {
            let words = [("auto", Engine::Auto), ("native", Engine::Native), ("operator", Engine::Operator)];
            options.engine = one_of(text, &words)?;
        }
        "backup-digest" => options.backup_digest = digest(text)?,
        "requested-at" => options.requested_at = Some(timestamp(text)?),
        "accept" => options.accept = accept(text)?,
        "approved-plan" => options.approved_plan = digest(text)?,
        "on-failure" => options.on_failure = Some(one_of(text, ON_FAILURE_WORDS)?),
        "timeout" => options.timeout = Some(report::duration(text, TIMEOUT)?),
        _ => return Err("is not read".to_owned()),
    }
    Ok(())
}

/// An instant: `09:00:00Z` and `10:00:00+01:00` are the same.
fn timestamp(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| format!("is not a time of RFC 3339: {}; write it like 2026-11-23T09:00:00Z", quoted(text)))
}

fn accept(text: &str) -> Result<BTreeSet<GateCode>, String> {
    let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
    let (codes, errors): (Vec<_>, Vec<_>) = words.map(acceptable).partition(Result::is_ok);
    let errors: Vec<_> = errors.into_iter().filter_map(Result::err).collect();
    if errors.is_empty() { Ok(codes.into_iter().flatten().collect()) } else { Err(errors.join("; and ")) }
}

fn acceptable(word: &str) -> Result<GateCode, String> {
    let codes = || GateCode::ALL.iter().filter(|code| code.class() == GateClass::Accept).map(|code| code.as_str());
    let code: GateCode =
        word.parse().map_err(|_| format!("names {}, which is no gate{}", quoted(word), suggestion(word, codes())))?;
    match code.class() {
        GateClass::Accept => Ok(code),
        GateClass::Refuse => {
            Err(format!("cannot take `{code}`: nothing takes it away but a changed manifest or a changed world"))
        }
        GateClass::Wait => Err(format!("cannot take `{code}`: nothing takes it away but time")),
    }
}
