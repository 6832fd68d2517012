use std::io::{self, Write as _};

use serde_json::json;

use super::contents::{self, Contents};
use super::show::printable;
use super::{Common, Opened, named};
use crate::agent::begin::chain;
use crate::cli::{Exit, Output};
use crate::status::humane_count;

/// Check backups as a plan does, without a cluster
///
/// Each is read to its last byte. What would stop a restore is a problem, and exits 1; what a restore would go by is told.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    common: Common,
    /// File names of backups
    #[arg(required_unless_present = "all", value_name = "NAME")]
    names: Vec<String>,
    /// All of the store
    #[arg(long, conflicts_with = "names")]
    all: bool,
}

/// What is to be said of one backup.
struct Verdict {
    name: String,
    objects: u64,
    problems: Vec<String>,
    notes: Vec<String>,
}

pub async fn verify(args: VerifyArgs) -> anyhow::Result<Exit> {
    let VerifyArgs { common, names, all } = args;
    let opened = common.open().await?;
    let names = match all {
        true => opened.store.list().await?.into_iter().map(|(name, _)| name).collect(),
        false => names,
    };
    let mut verdicts = Vec::new();
    for name in names {
        let verdict = judge(&opened, name).await;
        if let Output::Text = common.output {
            tell(&verdict)?;
        }
        verdicts.push(verdict);
    }
    if let Output::Json = common.output {
        let told: Vec<_> = verdicts
            .iter()
            .map(|Verdict { name, objects, problems, notes }| {
                json!({ "name": name, "whole": problems.is_empty(), "objects": objects, "problems": problems, "notes": notes })
            })
            .collect();
        writeln!(io::stdout().lock(), "{:#}", json!({ "backups": told }))?;
    }
    let broken = verdicts.iter().any(|verdict| !verdict.problems.is_empty());
    Ok(if broken { Exit::Failed } else { Exit::Done })
}

async fn judge(opened: &Opened, name: String) -> Verdict {
    let read = async { contents::read(opened.fetch(&named(&name)?).await?, opened.encryption.clone()).await };
    match read.await {
        Ok((contents, _)) => {
            let (objects, notes) = (contents.objects(), notes(&contents));
            // Without a key, that an entry is closed is no fault of the backup.
            let closed = contents.unopened.filter(|_| opened.encryption.is_some());
            let problems = closed.into_iter().chain(contents.unfit).collect();
            Verdict { name, objects, problems, notes }
        }
        Err(error) => Verdict { name, objects: 0, problems: vec![chain(error.as_ref())], notes: Vec::new() },
    }
}

/// Names in a note; the rest is counted.
const NAMES_SHOWN: usize = 3;

fn notes(contents: &Contents) -> Vec<String> {
    let Contents { filters, encrypted, missing_owners, undefined, .. } = contents;
    let mut notes = Vec::new();
    for (provider, count) in encrypted {
        let count = humane_count(*count);
        notes.push(format!(
            "{count} objects are encrypted by {provider}, and were not opened: only their names were checked"
        ));
    }
    match filters {
        None => notes.push("there is no filters/filters.json: nothing can be pruned by it".to_owned()),
        Some(filters) => {
            let fields = filters.resource_selectors.iter().flat_map(|selector| &selector.unknown_fields);
            notes.extend(listed("selectors have fields that are not known, and may select less than we think", fields));
        }
    }
    let owners = missing_owners.iter().map(|(owner, of)| format!("{owner}, of {of}"));
    notes.extend(listed(
        "owners that are not in the backup, and must be in the cluster, else the reference is dropped",
        owners,
    ));
    let types =
        "types of custom resources without a definition in the backup: they come back only where they are served";
    notes.extend(listed(types, undefined));
    notes
}

fn listed(what: &str, names: impl IntoIterator<Item = impl ToString>) -> Option<String> {
    let names: Vec<String> = names.into_iter().map(|name| name.to_string()).collect();
    let shown = names.iter().take(NAMES_SHOWN).map(|name| printable(name)).collect::<Vec<_>>().join("; ");
    let more = names.len().saturating_sub(NAMES_SHOWN);
    match (names.len(), more) {
        (0, _) => None,
        (_, 0) => Some(format!("{what}: {shown}")),
        (_, more) => Some(format!("{what}: {shown}; and {more} more")),
    }
}

fn tell(verdict: &Verdict) -> io::Result<()> {
    let Verdict { name, objects, problems, notes } = verdict;
    let mut out = io::stdout().lock();
    match problems.is_empty() {
        true => writeln!(out, "{name}: whole, {} objects", humane_count(*objects))?,
        false => writeln!(out, "{name}: cannot be restored")?,
    }
    problems.iter().try_for_each(|problem| writeln!(out, "  problem: {}", printable(problem)))?;
    notes.iter().try_for_each(|note| writeln!(out, "  note: {note}"))
}
