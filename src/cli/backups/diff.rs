use std::io::{self, Write as _};

use anyhow::Context as _;
use serde_json::json;

use super::compare::{Changed, Compared, compare};
use super::{Common, Opened, named};
use crate::backup::{self, Entry, Limits, ResourceSet};
use crate::cli::{Exit, Output};
use crate::collect::{self, Choice};
use crate::object::ObjectKey;
use crate::object::fields::Field;
use crate::status::humane_count;
use crate::store::Spool;

/// Compare two backups, or a backup and the cluster, object by object
///
/// Fields are told by their paths; values only where they cannot be secret. Exits 0 when all is equal, 2 when something differs.
#[derive(Debug, clap::Args)]
pub struct DiffArgs {
    #[command(flatten)]
    common: Common,
    /// File name of the first backup
    first: String,
    /// File name of the second
    #[arg(required_unless_present = "cluster")]
    second: Option<String>,
    /// Compare with what is in the cluster, of what the first backup has or selects
    #[arg(long, conflicts_with = "second")]
    cluster: bool,
    /// Show objects that differ in nothing but their status, too
    #[arg(short, long)]
    verbose: bool,
}

pub async fn diff(args: DiffArgs) -> anyhow::Result<Exit> {
    let DiffArgs { common, first, second, cluster: _, verbose } = args;
    let opened = common.open().await?;
    let one = opened.fetch(&named(&first)?).await?;
    let (name, other) = match &second {
        Some(second) => (second.as_str(), opened.fetch(&named(second)?).await?),
        None => ("the cluster", saved_now(&opened, &one).await.context("cannot look at the cluster")?),
    };
    let compared = {
        let encryption = opened.encryption.clone();
        crate::git::blocking(move || compare(&one, &other, encryption.as_deref())).await?
    };
    let mut out = io::stdout().lock();
    match common.output {
        Output::Json => {
            let keys = |keys: &[ObjectKey]| keys.iter().map(ToString::to_string).collect::<Vec<_>>();
            let Compared { added, removed, changed, equal } = &compared;
            let told = json!({
                "first": first, "second": second, "added": keys(added), "removed": keys(removed), "changed": changed, "equal": equal,
            });
            writeln!(out, "{told:#}")?;
        }
        Output::Text => out.write_all(text(&first, name, &compared, verbose).as_bytes())?,
    }
    Ok(if compared.is_equal() { Exit::Done } else { Exit::Changes })
}

/// A backup of the cluster as it is, in a temporary file: what the filters of `of` select, and what it holds.
async fn saved_now(opened: &Opened, of: &Spool) -> anyhow::Result<Spool> {
    let (reader, size) = (of.reader(), of.size());
    let (filters, named) = crate::git::blocking(move || {
        let (mut filters, mut named) = (ResourceSet::default(), Vec::new());
        let read = backup::read(reader, size, &Limits::default(), None, |entry| {
            match entry {
                Entry::Filters(set) => filters = set,
                Entry::Object { key, .. } | Entry::Encrypted { key, .. } => named.push(key),
            }
            Ok::<(), std::convert::Infallible>(())
        });
        read.map(|_| (filters, named)).context("the first backup is not whole")
    })
    .await?;
    let reader = opened.cluster().await?.reader();
    let choice = Choice { filters: filters.whole.as_ref().clone(), selectors: filters.compile()?, named };
    let now = reader.clock().now();
    let made = collect::make(&reader, &choice, None, opened.spool_dir.path(), now).await?;
    for note in &made.notes {
        writeln!(io::stderr(), "note: {note}")?;
    }
    Ok(made.spool)
}

fn text(first: &str, second: &str, compared: &Compared, verbose: bool) -> String {
    let Compared { added, removed, changed, equal } = compared;
    let mut text = format!("{first} -> {second}\n");
    let mut section = |word: &str, lines: Vec<String>, count: usize| {
        if count > 0 {
            text += &format!("\n{word} ({}):\n", humane_count(count as u64));
            lines.iter().for_each(|line| text += &format!("  {line}\n"));
        }
    };
    let names = |keys: &[ObjectKey]| keys.iter().map(ToString::to_string).collect::<Vec<_>>();
    section("added", names(added), added.len());
    section("removed", names(removed), removed.len());
    let (status, told): (Vec<&Changed>, Vec<&Changed>) =
        changed.iter().partition(|changed| !verbose && changed.only_status());
    let lines = told.iter().flat_map(|Changed { object, fields }| {
        std::iter::once(object.clone()).chain(fields.iter().map(|field: &Field| format!("  {field}")))
    });
    section("changed", lines.collect(), told.len());
    if !status.is_empty() {
        text += &format!("\n{} more differ in their status alone; -v shows them\n", humane_count(status.len() as u64));
    }
    text + &format!("\n{} are equal\n", humane_count(*equal))
}
