use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io::{self, Write as _};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use jiff::{Timestamp, tz::TimeZone};
use regex::Regex;
use serde::Serialize;
use serde_json::json;

use super::show::printable;
use super::{Common, named};
use crate::agent::begin::chain;
use crate::backup::{self, BackupName, Encryption, Entry, Limits};
use crate::cli::{Exit, Output};
use crate::object::fields::comparable;
use crate::object::{Digest, ObjectKey};
use crate::store::Spool;

/// Find which backups hold an object, and in which it changed
///
/// Every backup of the store is read. Whether an object changed goes by all of it but what the API server sets.
#[derive(Debug, clap::Args)]
pub struct FindArgs {
    #[command(flatten)]
    common: Common,
    /// TYPE/NAME or TYPE/NAMESPACE/NAME, such as clusters.management.cattle.io/c-abc or 'secrets/cattle-*/*'
    object: String,
}

/// Most objects that are followed; a pattern that matches more is too wide to be read.
const MAX_OBJECTS: usize = 1000;

/// How an object is in one backup, beside the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum State {
    First,
    Same,
    Changed,
    /// It was there in the backup before.
    Gone,
    /// In it, and closed to us.
    Encrypted,
}

/// An object through all backups, oldest first: the number of the backup, and what is known of its content.
type Sightings = Vec<(usize, Option<Digest>)>;

pub async fn find(args: FindArgs) -> anyhow::Result<Exit> {
    let FindArgs { common, object } = args;
    let pattern = pattern(&object)?;
    let opened = common.open().await?;
    let mut backups: Vec<(Option<Timestamp>, String)> =
        opened.store.list().await?.into_iter().map(|(name, stat)| (taken_at(&name).or(stat.modified), name)).collect();
    backups.sort();
    let mut found: BTreeMap<String, Sightings> = BTreeMap::new();
    let mut broken = BTreeSet::new();
    for (number, (_, name)) in backups.iter().enumerate() {
        let seen = async { look(opened.fetch(&named(name)?).await?, pattern.clone(), opened.encryption.clone()).await };
        match seen.await {
            Ok(seen) => seen.into_iter().for_each(|(key, digest)| found.entry(key).or_default().push((number, digest))),
            Err(error) => {
                writeln!(io::stderr(), "{name} is passed over: {}", printable(&chain(error.as_ref())))?;
                broken.insert(number);
            }
        }
        if found.len() > MAX_OBJECTS {
            bail!("{object} matches more than {MAX_OBJECTS} objects: ask for fewer");
        }
    }
    let told: Vec<(&String, Vec<(usize, State)>)> =
        found.iter().map(|(key, seen)| (key, states(seen, backups.len(), &broken))).collect();
    tell(common.output, &backups, &told)?;
    match (broken.is_empty(), told.is_empty()) {
        (false, _) => Ok(Exit::Failed),
        (true, true) => bail!("no backup in {} holds {object}", opened.store.describe()),
        (true, false) => Ok(Exit::Done),
    }
}

fn taken_at(name: &str) -> Option<Timestamp> {
    Some(BackupName::new(name).ok()?.parts()?.taken_at)
}

/// `*` stands for any part of a namespace or a name, `?` for a character.
fn pattern(object: &str) -> anyhow::Result<Regex> {
    let (resource, rest) = object.split_once('/').context("an object is TYPE/NAME or TYPE/NAMESPACE/NAME")?;
    anyhow::ensure!(
        !resource.is_empty() && !rest.is_empty() && rest.matches('/').count() <= 1,
        "{object} names no object"
    );
    let globbed = |text: &str| regex::escape(text).replace(r"\*", "[^/]*").replace(r"\?", "[^/]");
    Ok(Regex::new(&format!("^{}/{}$", globbed(resource), globbed(rest)))?)
}

/// `secrets/cattle-system/tls`, as it is asked for.
fn place(key: &ObjectKey) -> String {
    let resource = key.resource.group_resource();
    match &key.namespace {
        Some(namespace) => format!("{resource}/{namespace}/{}", key.name),
        None => format!("{resource}/{}", key.name),
    }
}

async fn look(
    spool: Spool,
    pattern: Regex,
    encryption: Option<Arc<Encryption>>,
) -> anyhow::Result<Vec<(String, Option<Digest>)>> {
    crate::git::blocking(move || {
        let mut seen = Vec::new();
        let read = backup::read(spool.reader(), spool.size(), &Limits::default(), encryption.as_deref(), |entry| {
            let (key, digest) = match entry {
                Entry::Filters(_) => return Ok::<(), Infallible>(()),
                Entry::Encrypted { key, .. } if pattern.is_match(&place(&key)) => (key, None),
                Entry::Object { key, value, .. } if pattern.is_match(&place(&key)) => {
                    let digest = Digest::of(&comparable(&key.resource, value));
                    (key, Some(digest))
                }
                Entry::Encrypted { .. } | Entry::Object { .. } => return Ok(()),
            };
            seen.push((place(&key), digest));
            Ok(())
        });
        read.map(|_| seen).context("it is not whole")
    })
    .await
}

/// What became of an object from each backup to the next; backups that could not be read say nothing.
fn states(seen: &Sightings, backups: usize, broken: &BTreeSet<usize>) -> Vec<(usize, State)> {
    let mut states = Vec::new();
    // What is known of the object by the last backup that could be read.
    let mut last: Option<Option<Digest>> = None;
    let by_number: BTreeMap<usize, Option<Digest>> = seen.iter().copied().collect();
    for number in (0..backups).filter(|number| !broken.contains(number)) {
        let state = match (by_number.get(&number), last) {
            (None, None) => continue,
            (None, Some(_)) => State::Gone,
            (Some(None), _) => State::Encrypted,
            (Some(Some(_)), None | Some(None)) => State::First,
            (Some(Some(now)), Some(Some(before))) if *now == before => State::Same,
            (Some(Some(_)), Some(Some(_))) => State::Changed,
        };
        last = by_number.get(&number).copied();
        states.push((number, state));
    }
    states
}

fn tell(
    output: Output,
    backups: &[(Option<Timestamp>, String)],
    told: &[(&String, Vec<(usize, State)>)],
) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if let Output::Json = output {
        let objects: Vec<_> = told
            .iter()
            .map(|(object, states)| {
                let of = |(number, state): &(usize, State)| json!({ "backup": backups[*number].1, "state": state });
                json!({ "object": object, "backups": states.iter().map(of).collect::<Vec<_>>() })
            })
            .collect();
        return writeln!(out, "{:#}", json!({ "objects": objects }));
    }
    for (object, states) in told {
        writeln!(out, "{object}")?;
        for (number, state) in states {
            let (taken, name) = &backups[*number];
            let utc = |time: &Timestamp| time.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S").to_string();
            let word = match state {
                State::First => "there",
                State::Same => "same",
                State::Changed => "changed",
                State::Gone => "not there",
                State::Encrypted => "encrypted",
            };
            writeln!(out, "  {:<19}  {word:<9}  {name}", taken.as_ref().map(utc).unwrap_or_default())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pattern_reaches_no_further_than_its_part() {
        let fits = |of: &str, place: &str| pattern(of).unwrap().is_match(place);
        assert!(fits("clusters.management.cattle.io/c-*", "clusters.management.cattle.io/c-abc"));
        assert!(!fits("clusters.management.cattle.io/*", "clusters.management.cattle.io/ns/c-abc"));
        assert!(fits("secrets/cattle-*/tls.?", "secrets/cattle-system/tls.x"));
        assert!(!fits("secrets/*/tls.x", "secrets/a/tlsyx"));
        for none in ["secrets", "/x", "secrets/", "a/b/c/d"] {
            assert!(pattern(none).is_err(), "{none}");
        }
    }

    #[test]
    fn an_object_is_followed_from_backup_to_backup() {
        let digest = |n: u8| Some(Digest::of(&json!(n)));
        let seen = vec![(1, digest(1)), (2, digest(1)), (3, digest(2)), (5, digest(2)), (7, digest(3)), (8, None)];
        let states: Vec<_> = states(&seen, 9, &BTreeSet::from([6])).into_iter().collect();
        use State::*;
        assert_eq!(states, [(1, First), (2, Same), (3, Changed), (4, Gone), (5, First), (7, Changed), (8, Encrypted)]);
    }
}
