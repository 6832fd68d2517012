use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use super::Common;
use crate::backup::{BackupName, Encryption, ResourceSet};
use crate::cli::{Exit, Output};
use crate::cluster::{ClusterReader, Target};
use crate::collect::{self, Choice, Made};
use crate::object::Resource;
use crate::observe::Opening;
use crate::status::{humane_bytes, humane_count};
use crate::store;

/// Largest file with a ResourceSet; what a cluster holds is smaller.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Make a backup of the cluster, in the operator's format
///
/// What is chosen is read at one moment where the API server can, checked, stored whole, and read back.
#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    #[command(flatten)]
    common: Common,
    /// ResourceSet that says what is saved: its name in the cluster, or a file
    #[arg(long, value_name = "NAME|FILE", default_value = "rancher-resource-set-full")]
    resource_set: String,
    /// Secret in the operator's namespace with the EncryptionConfiguration that closes entries, instead of a file
    #[arg(long, value_name = "NAME", conflicts_with = "encryption_config")]
    encryption_config_secret: Option<String>,
    /// Beginning of the file name; the UID of the cluster and the time follow
    #[arg(long, value_name = "NAME", default_value = "reinback")]
    prefix: String,
}

pub async fn create(args: CreateArgs) -> anyhow::Result<Exit> {
    let CreateArgs { common, resource_set, encryption_config_secret, prefix } = args;
    let opened = common.open().await?;
    let reader = opened.cluster().await?.reader();
    let encryption = match &encryption_config_secret {
        Some(name) => Some(secret(&reader, &opened.config.operator_namespace, name).await?),
        None => opened.encryption.clone(),
    };
    let filters = filters(&reader, &resource_set).await?;
    let set = ResourceSet::from_value(filters.clone()).with_context(|| format!("{resource_set} cannot be used"))?;
    if let Some(field) = set.resource_selectors.iter().flat_map(|selector| &selector.unknown_fields).next() {
        bail!(
            "{resource_set} has a selector with the field `{field}`, which is not known: more would be saved than is meant"
        );
    }
    let uid = reader.cluster_uid().await?.context("the cluster has no namespace kube-system to be known by")?;
    let now = reader.clock().now();
    let name = BackupName::new(&collect::file_name(&prefix, &uid, now, encryption.is_some()))?;
    // Told before the cluster is read.
    opened.store.probe().await?;
    let choice = Choice { filters, selectors: set.compile()?, named: Vec::new() };
    let made = collect::make(&reader, &choice, encryption, opened.spool_dir.path(), now).await?;
    store::put_verified(&opened.store, name.as_str(), &made.spool, opened.spool_dir.path()).await?;
    tell(common.output, &name, &made)
}

fn tell(output: Output, name: &BackupName, made: &Made) -> anyhow::Result<Exit> {
    let Made { spool, counts, notes } = made;
    let mut out = io::stdout().lock();
    match output {
        Output::Json => {
            let told = json!({
                "name": name.as_str(), "sizeBytes": spool.size(), "sha256": spool.sha256().to_string(),
                "objects": made.objects(), "resources": counts, "notes": notes,
            });
            writeln!(out, "{told:#}")?;
        }
        Output::Text => {
            let (objects, size) = (humane_count(made.objects()), humane_bytes(spool.size()));
            writeln!(out, "{name}\n  {objects} objects of {} types, {size}, {}", counts.len(), spool.sha256())?;
            notes.iter().try_for_each(|note| writeln!(io::stderr(), "note: {note}"))?;
        }
    }
    Ok(Exit::Done)
}

/// The keys of a Secret, as a manifest names it.
async fn secret(reader: &ClusterReader, namespace: &str, name: &str) -> anyhow::Result<Arc<Encryption>> {
    match Opening::read(reader, namespace, name).await? {
        Opening::With { secret: _, encryption } => Ok(encryption),
        Opening::Broken { secret, problem } => bail!("the Secret {secret} cannot be used: {problem}"),
        Opening::None => bail!("there is no Secret {namespace}/{name}"),
    }
}

/// A file, when there is one, else a ResourceSet of the cluster.
async fn filters(reader: &ClusterReader, of: &str) -> anyhow::Result<Value> {
    let path = PathBuf::from(of);
    if path.is_file() {
        let size = std::fs::metadata(&path)?.len();
        anyhow::ensure!(size <= MAX_FILE_BYTES, "{of} has {size} bytes, and is no ResourceSet");
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {of}"))?;
        let value: Value = serde_yaml::from_str(&text).with_context(|| format!("{of} is not YAML"))?;
        anyhow::ensure!(value["kind"] == "ResourceSet", "{of} is no ResourceSet of resources.cattle.io");
        return Ok(value);
    }
    let resource = Resource::new("resources.cattle.io", "v1", "resourcesets");
    let answer = reader.get(&Target::new(&resource, None, of)).await?;
    let answer =
        answer.with_context(|| format!("there is no ResourceSet {of} in the cluster, and no file of that name"))?;
    Ok(answer.value()?)
}
