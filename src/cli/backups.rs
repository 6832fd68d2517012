//! `reinback backups`: what lies in the store, and what is in it.

mod compare;
mod contents;
mod create;
mod diff;
mod find;
mod ls;
mod show;
mod verify;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use secrecy::zeroize::Zeroizing;
use tempfile::TempDir;

use super::{Exit, Output, reach};
use crate::agent::look;
use crate::backup::{BackupName, Encryption};
use crate::cluster::Cluster;
use crate::config::{StoreArgs, StoreConfig};
use crate::desired::StoreDefault;
use crate::store::{Location, Spool, SpoolLimits, Store};

/// Look at backups, compare them and make one
///
/// The store is that of the configuration, or of --store-directory and the other flags for stores.
/// Exits 0, or 1 on an error; `diff` exits 2 when something differs.
#[derive(Debug, clap::Args)]
pub struct BackupsArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Ls(ls::LsArgs),
    Show(show::ShowArgs),
    Verify(verify::VerifyArgs),
    Diff(diff::DiffArgs),
    Find(find::FindArgs),
    Create(create::CreateArgs),
}

/// Flags of all of them.
#[derive(Debug, clap::Args)]
struct Common {
    #[command(flatten)]
    config: StoreArgs,
    /// Text for people, or JSON for programs
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// File with the EncryptionConfiguration that opens and closes entries
    #[arg(long, value_name = "FILE")]
    encryption_config: Option<PathBuf>,
    /// Context of the kubeconfig, for stores whose credentials lie in a cluster
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

/// # Errors
///
/// When store or cluster cannot be used, or a backup is not there or not whole.
pub async fn backups(args: BackupsArgs) -> anyhow::Result<Exit> {
    match args.command {
        Command::Ls(args) => ls::ls(args).await,
        Command::Show(args) => show::show(args).await,
        Command::Verify(args) => verify::verify(args).await,
        Command::Diff(args) => diff::diff(args).await,
        Command::Find(args) => find::find(args).await,
        Command::Create(args) => create::create(args).await,
    }
}

/// Largest backup that is fetched, as for a restore.
const MAX_BACKUP_BYTES: u64 = 8 << 30;

/// The store of a command, opened for reading, and a folder for what is fetched.
struct Opened {
    store: Store,
    config: StoreConfig,
    spool_dir: TempDir,
    encryption: Option<Arc<Encryption>>,
    context: Option<String>,
}

impl Common {
    async fn open(&self) -> anyhow::Result<Opened> {
        let config = StoreConfig::load(&self.config)?;
        let location = match &config.store {
            StoreDefault::Directory(directory) => Location::Directory(directory.clone()),
            StoreDefault::S3(s3) => {
                let credentials = match s3.credential_secret_name {
                    Some(_) => {
                        let reader = reach(self.context.as_deref(), None).await?.reader();
                        look::credentials(&config.operator_namespace, &reader, s3).await?
                    }
                    None => None,
                };
                Location::S3 { location: s3.as_ref().clone(), credentials }
            }
        };
        let store = Store::open(&location).await?;
        let spool_dir =
            tempfile::Builder::new().prefix("reinback-backups-").tempdir().context("cannot make a folder")?;
        let encryption = self.encryption_config.as_deref().map(encryption).transpose()?;
        Ok(Opened { store, config, spool_dir, encryption, context: self.context.clone() })
    }
}

impl Opened {
    /// Fetches a backup.
    async fn fetch(&self, name: &BackupName) -> anyhow::Result<Spool> {
        let limits = SpoolLimits { max_bytes: MAX_BACKUP_BYTES };
        Ok(self.store.spool(name.as_str(), self.spool_dir.path(), limits, &|_, _| {}).await?)
    }

    /// The cluster of the kubeconfig, at the pace of the configuration.
    async fn cluster(&self) -> anyhow::Result<Cluster> {
        super::reach_at(self.context.as_deref(), self.config.rates.qps).await
    }
}

/// Largest file with keys; the Secret that it comes from holds 1 MiB.
const MAX_KEYS_BYTES: u64 = 1 << 20;

/// The keys of a file, as they are in the operator's Secret under `encryption-provider-config.yaml`.
fn encryption(path: &Path) -> anyhow::Result<Arc<Encryption>> {
    let mut content = Zeroizing::new(Vec::new());
    let file = std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    file.take(MAX_KEYS_BYTES + 1)
        .read_to_end(&mut content)
        .with_context(|| format!("cannot read {}", path.display()))?;
    anyhow::ensure!(content.len() as u64 <= MAX_KEYS_BYTES, "{} is too large for a configuration", path.display());
    Ok(Arc::new(Encryption::parse(&content).with_context(|| format!("{} cannot be used", path.display()))?))
}

fn named(name: &str) -> anyhow::Result<BackupName> {
    Ok(BackupName::new(name)?)
}
