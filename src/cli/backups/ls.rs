use std::io::{self, Write as _};

use jiff::{Timestamp, tz::TimeZone};
use serde_json::{Value, json};

use super::contents::{self, Contents};
use super::{Common, Opened, named};
use crate::agent::begin::chain;
use crate::backup::{BackupName, NameParts};
use crate::cli::{Exit, Output};
use crate::status::{humane_bytes, humane_count, humane_duration};
use crate::store::Stat;

/// List the backups of the store, newest first
///
/// What names, sizes and times tell is free; --long reads each backup to its end.
#[derive(Debug, clap::Args)]
pub struct LsArgs {
    #[command(flatten)]
    common: Common,
    /// Read each backup, for its objects, Rancher's version and its encryption
    #[arg(short, long)]
    long: bool,
}

/// One backup of a listing.
struct Line {
    name: String,
    stat: Stat,
    /// By the name, else by the store.
    taken_at: Option<Timestamp>,
    cluster_uid: Option<String>,
    /// With `--long`; an error says why the backup is none.
    contents: Option<Result<Contents, String>>,
}

pub async fn ls(args: LsArgs) -> anyhow::Result<Exit> {
    let LsArgs { common, long } = args;
    let opened = common.open().await?;
    let mut lines: Vec<Line> = opened.store.list().await?.into_iter().map(|(name, stat)| line(name, stat)).collect();
    lines.sort_by(|one, other| (other.taken_at, &one.name).cmp(&(one.taken_at, &other.name)));
    if long {
        for line in &mut lines {
            line.contents = Some(read(&opened, &line.name).await.map_err(|error| chain(error.as_ref())));
        }
    }
    let mut out = io::stdout().lock();
    match common.output {
        Output::Json => writeln!(out, "{:#}", json!({ "backups": lines.iter().map(as_json).collect::<Vec<_>>() }))?,
        Output::Text if lines.is_empty() => writeln!(io::stderr(), "no backups in {}", opened.store.describe())?,
        Output::Text => out.write_all(table(&lines, long, Timestamp::now()).as_bytes())?,
    }
    let broken = lines.iter().any(|line| matches!(line.contents, Some(Err(_))));
    Ok(if broken { Exit::Failed } else { Exit::Done })
}

async fn read(opened: &Opened, name: &str) -> anyhow::Result<Contents> {
    let spool = opened.fetch(&named(name)?).await?;
    Ok(contents::read(spool, opened.encryption.clone()).await?.0)
}

fn line(name: String, stat: Stat) -> Line {
    let parsed = BackupName::new(&name).ok();
    let parts = parsed.as_ref().and_then(BackupName::parts);
    let taken_at = parts.as_ref().map(|NameParts { taken_at, .. }| *taken_at).or(stat.modified);
    let cluster_uid = parts.map(|parts| parts.cluster_uid.to_owned());
    Line { name, stat, taken_at, cluster_uid, contents: None }
}

fn as_json(line: &Line) -> Value {
    let Line { name, stat, taken_at, cluster_uid, contents } = line;
    let mut told = json!({
        "name": name, "sizeBytes": stat.size, "takenAt": taken_at, "modified": stat.modified, "clusterUid": cluster_uid,
    });
    match contents {
        None => {}
        Some(Ok(contents)) => {
            told["objects"] = contents.objects().into();
            told["rancherVersion"] = contents.facts.rancher_version.clone().into();
            told["encryptedBy"] = contents.encrypted.keys().cloned().collect::<Vec<_>>().into();
        }
        Some(Err(problem)) => told["problem"] = problem.clone().into(),
    }
    told
}

/// Two spaces between columns; the name comes last and is never cut, for it is what is typed next.
fn table(lines: &[Line], long: bool, now: Timestamp) -> String {
    let mut rows =
        vec![["TAKEN (UTC)", "AGE", "SIZE", "CLUSTER", "OBJECTS", "RANCHER", "ENCRYPTED", "NAME"].map(str::to_owned)];
    rows.extend(lines.iter().map(|line| row(line, now)));
    let shown = |column: usize| long || !matches!(column, 4..=6);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().enumerate().filter(|(column, _)| shown(*column));
        let padded: Vec<String> = cells.map(|(column, cell)| format!("{cell:<0$}", width(column))).collect();
        text += padded.join("  ").trim_end();
        text.push('\n');
    }
    text
}

fn row(line: &Line, now: Timestamp) -> [String; 8] {
    let Line { name, stat, taken_at, cluster_uid, contents } = line;
    let none = || "-".to_owned();
    let utc = |time: Timestamp| time.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S").to_string();
    let (objects, rancher, encrypted) = match contents {
        None => (none(), none(), none()),
        Some(Err(_)) => ("broken".to_owned(), none(), none()),
        Some(Ok(contents)) => (
            humane_count(contents.objects()),
            contents.facts.rancher_version.clone().unwrap_or_else(none),
            contents.encryption(),
        ),
    };
    [
        taken_at.map_or_else(none, utc),
        taken_at.map_or_else(none, |time| humane_duration(now.duration_since(time))),
        humane_bytes(stat.size),
        cluster_uid.as_ref().map_or_else(none, |uid| uid.chars().take(8).collect()),
        objects,
        rancher,
        encrypted,
        name.clone(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_ends_in_names_and_says_what_they_say() {
        let stat = |size| Stat { size, modified: Some("2026-11-22T00:00:00Z".parse().unwrap()), etag: None };
        let lines = [
            line("nightly-6e9ee6a6-d4f2-46c2-bd99-75269cf041dc-2026-11-23T05-58-54Z.tar.gz".to_owned(), stat(43_154)),
            line("by-hand.tar.gz".to_owned(), stat(512)),
        ];
        let now = "2026-11-25T06:00:00Z".parse().unwrap();
        insta::assert_snapshot!(table(&lines, false, now), @r"
        TAKEN (UTC)          AGE      SIZE      CLUSTER   NAME
        2026-11-23 05:58:54  2 d      42.1 KiB  6e9ee6a6  nightly-6e9ee6a6-d4f2-46c2-bd99-75269cf041dc-2026-11-23T05-58-54Z.tar.gz
        2026-11-22 00:00:00  3 d 6 h  512 B     -         by-hand.tar.gz
        ");
    }
}
