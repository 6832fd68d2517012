use std::io::{self, Write as _};

use anyhow::Context as _;
use jiff::{Timestamp, tz::TimeZone};
use serde_json::{Value, json};

use super::contents::{self, Contents};
use super::{Common, named};
use crate::backup::{BackupName, ResourceSelector};
use crate::cli::{Exit, Output};
use crate::status::{humane_bytes, humane_count, humane_duration};
use crate::store::Spool;

/// Show what is in a backup
#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    #[command(flatten)]
    common: Common,
    /// File name of the backup
    name: String,
}

pub async fn show(args: ShowArgs) -> anyhow::Result<Exit> {
    let ShowArgs { common, name } = args;
    let name = named(&name)?;
    let opened = common.open().await?;
    let spool = opened.fetch(&name).await?;
    let (contents, spool) =
        contents::read(spool, opened.encryption.clone()).await.with_context(|| format!("{name} is not whole"))?;
    let mut out = io::stdout().lock();
    match common.output {
        Output::Json => writeln!(out, "{:#}", as_json(&name, &contents, &spool))?,
        Output::Text => out.write_all(text(&name, &contents, &spool, Timestamp::now()).as_bytes())?,
    }
    Ok(Exit::Done)
}

fn as_json(name: &BackupName, contents: &Contents, spool: &Spool) -> Value {
    let parts = name.parts();
    json!({
        "name": name.as_str(),
        "sizeBytes": spool.size(),
        "unpackedBytes": contents.summary.unpacked_bytes,
        "sha256": spool.sha256().to_string(),
        "takenAt": parts.as_ref().map(|parts| parts.taken_at),
        "clusterUid": parts.as_ref().map(|parts| parts.cluster_uid),
        "rancherVersion": contents.facts.rancher_version,
        "serverUrl": contents.facts.server_url,
        "installUuid": contents.facts.install_uuid,
        "encryptedBy": contents.encrypted,
        "objects": contents.objects(),
        "resources": contents.counts,
        "filters": contents.filters.as_ref().map(|filters| filters.whole.as_ref()),
    })
}

fn text(name: &BackupName, contents: &Contents, spool: &Spool, now: Timestamp) -> String {
    let Contents {
        facts,
        counts,
        encrypted,
        unopened: _,
        opened,
        filters,
        summary,
        missing_owners: _,
        undefined: _,
        unfit: _,
    } = contents;
    let mut text = String::new();
    let mut field = |of: &str, value: &str| text += &format!("{:<11}{value}\n", format!("{of}:"));
    let unknown = || "not said".to_owned();
    field("Backup", name.as_str());
    field("Size", &format!("{}, {} unpacked", humane_bytes(spool.size()), humane_bytes(summary.unpacked_bytes)));
    field("Digest", &spool.sha256().to_string());
    if let Some(parts) = name.parts() {
        let taken = parts.taken_at.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S");
        field("Taken", &format!("{taken} UTC, {} ago", humane_duration(now.duration_since(parts.taken_at))));
        field("Cluster", &format!("{} (UID of kube-system)", parts.cluster_uid));
    }
    // What is encrypted may hold them; it is not known.
    let said = |fact: &Option<String>| fact.as_deref().map_or_else(unknown, printable);
    field("Rancher", &format!("{} at {}", said(&facts.rancher_version), said(&facts.server_url)));
    let closed: Vec<String> =
        encrypted.iter().map(|(by, count)| format!("{} objects by {by}", humane_count(*count))).collect();
    let opened = (*opened > 0).then(|| format!("{} objects, opened by the key", humane_count(*opened)));
    let closed: Vec<String> = opened.into_iter().chain(closed).collect();
    field("Encrypted", &if closed.is_empty() { "no".to_owned() } else { closed.join(", ") });
    field("Objects", &humane_count(contents.objects()));
    let width = counts.keys().map(String::len).max().unwrap_or_default();
    for (resource, count) in counts {
        text += &format!("  {resource:<width$}  {:>7}\n", humane_count(*count));
    }
    match filters {
        None => text += "\nFilters: none, so that nothing can be pruned by it\n",
        Some(filters) => {
            let of = filters.whole.pointer("/metadata/name").and_then(Value::as_str).map(printable);
            let of = of.map(|name| format!(" of the ResourceSet {name}")).unwrap_or_default();
            text += &format!("\nSelectors{of}:\n");
            for selector in &filters.resource_selectors {
                text += &format!("  {}\n", selected(selector));
            }
            for controller in &filters.controller_references {
                let of = [&controller.resource, &controller.namespace, &controller.name].map(|text| printable(text));
                text += &format!("Scaled down while it is restored: {}\n", of.join("/"));
            }
        }
    }
    text
}

/// A selector on a line, in the words of its fields.
fn selected(selector: &ResourceSelector) -> String {
    let ResourceSelector {
        api_version,
        kinds,
        kinds_regexp,
        exclude_kinds,
        resource_names,
        resource_name_regexp,
        exclude_resource_name_regexp,
        namespaces,
        namespace_regexp,
        label_selectors,
        field_selectors,
        unknown_fields,
    } = selector;
    let mut parts = vec![printable(api_version)];
    let mut add = |word: &str, value: &str| {
        if !value.is_empty() {
            parts.push(format!("{word} {}", printable(value)));
        }
    };
    add("kinds", &kinds.join(", "));
    add("kinds matching", kinds_regexp);
    add("but not", &exclude_kinds.join(", "));
    add("named", &resource_names.join(", "));
    add("names matching", resource_name_regexp);
    add("names not matching", exclude_resource_name_regexp);
    add("in", &namespaces.join(", "));
    add("in namespaces matching", namespace_regexp);
    add("with labels", if label_selectors.is_some() { "as selected" } else { "" });
    add(
        "with fields",
        &field_selectors.iter().map(|(field, value)| format!("{field}={value}")).collect::<Vec<_>>().join(", "),
    );
    add("and fields that are not known:", &unknown_fields.join(", "));
    parts.join("; ")
}

/// What a backup says, fit for a terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if crate::run::steers(c) { '\u{fffd}' } else { c }).collect()
}
