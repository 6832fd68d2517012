//! The keys of the configuration: one table for the file, the flags and the variables.

use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};

use crate::manifest::yaml::{Entry, Node, Place, Value};

/// How the text of a flag or variable is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    Text,
    /// A number, or true or false.
    Word,
    /// Words with commas between them.
    List,
}

/// One key.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// In the file: `source.secretDir`.
    pub path: &'static str,
    /// Without the dashes: `source-secret-dir`.
    pub long: &'static str,
    pub env: &'static str,
    pub reads: Reads,
    pub help: &'static str,
}

impl Key {
    /// `--source-url`
    pub fn flag(&self) -> String {
        format!("--{}", self.long)
    }
}

macro_rules! keys {
    ($($path:literal $long:literal $env:literal $reads:ident $help:literal;)+) => {
        /// Every key, in the order of the documentation.
        pub const KEYS: &[Key] = &[
            $(Key { path: $path, long: $long, env: concat!("REINBACK_", $env), reads: Reads::$reads, help: $help },)+
        ];
    };
}

keys! {
    "cluster" "cluster" "CLUSTER" Text "Name of the cluster, in the status branch and the runs";
    "source.url" "source-url" "SOURCE_URL" Text "Git repository to watch: https, http or file (ssh is not built yet)";
    "source.branch" "source-branch" "SOURCE_BRANCH" Text "Branch to watch [default: main]";
    "source.path" "source-path" "SOURCE_PATH" Text "Folder of the repository to watch [default: all of it]";
    "source.interval" "source-interval" "SOURCE_INTERVAL" Text "Time between two looks, such as 60s [default: 60s]";
    "source.secretDir" "source-secret-dir" "SOURCE_SECRET_DIR" Text "Folder with the repository's credentials";
    "status.url" "status-url" "STATUS_URL" Text "Git repository for status [default: the source's]";
    "status.secretDir" "status-secret-dir" "STATUS_SECRET_DIR" Text "Folder with its credentials [default: the source's]";
    "status.branch" "status-branch" "STATUS_BRANCH" Text "Branch for status [default: reinback/<cluster>]";
    "status.authorName" "status-author-name" "STATUS_AUTHOR_NAME" Text "Author of status commits [default: reinback]";
    "status.authorEmail" "status-author-email" "STATUS_AUTHOR_EMAIL" Text "Address of that author [default: reinback@localhost]";
    "store.directory" "store-directory" "STORE_DIRECTORY" Text "Folder of backups, for manifests without storageLocation";
    "store.s3.bucketName" "store-s3-bucket-name" "STORE_S3_BUCKET_NAME" Text "Bucket of backups, instead of a folder";
    "store.s3.credentialSecretName" "store-s3-credential-secret-name" "STORE_S3_CREDENTIAL_SECRET_NAME" Text "Secret with accessKey and secretKey";
    "store.s3.credentialSecretNamespace" "store-s3-credential-secret-namespace" "STORE_S3_CREDENTIAL_SECRET_NAMESPACE" Text "Namespace of that Secret";
    "store.s3.endpoint" "store-s3-endpoint" "STORE_S3_ENDPOINT" Text "S3 server [default: Amazon's]";
    "store.s3.endpointCA" "store-s3-endpoint-ca" "STORE_S3_ENDPOINT_CA" Text "CA of that server, PEM or base64 of it";
    "store.s3.insecureTLSSkipVerify" "store-s3-insecure-tls-skip-verify" "STORE_S3_INSECURE_TLS_SKIP_VERIFY" Word "Trust any certificate of that server";
    "store.s3.region" "store-s3-region" "STORE_S3_REGION" Text "Region of the bucket";
    "store.s3.folder" "store-s3-folder" "STORE_S3_FOLDER" Text "Folder in the bucket";
    "store.s3.clientConfig.aws.dualStack" "store-s3-client-config-aws-dual-stack" "STORE_S3_CLIENT_CONFIG_AWS_DUAL_STACK" Word "Use Amazon's dual-stack endpoints";
    "store.s3.clientConfig.bucketLookup" "store-s3-client-config-bucket-lookup" "STORE_S3_CLIENT_CONFIG_BUCKET_LOOKUP" Text "Bucket in path or host name: auto, dns or path [default: auto]";
    "rancher.namespace" "rancher-namespace" "RANCHER_NAMESPACE" Text "Namespace of Rancher [default: cattle-system]";
    "rancher.deployment" "rancher-deployment" "RANCHER_DEPLOYMENT" Text "Deployment of Rancher [default: rancher]";
    "rancher.url" "rancher-url" "RANCHER_URL" Text "URL of Rancher, to check its health by and where the setting server-url is empty";
    "operator.namespace" "operator-namespace" "OPERATOR_NAMESPACE" Text "Namespace of rancher-backup [default: cattle-resources-system]";
    "policy.timeout" "policy-timeout" "POLICY_TIMEOUT" Text "Longest run [default: 45m]";
    "policy.maxHold" "policy-max-hold" "POLICY_MAX_HOLD" Text "Longest wait of a held run before it fails [default: 24h]";
    "policy.maxPruneShare" "policy-max-prune-share" "POLICY_MAX_PRUNE_SHARE" Word "Percent of objects that a run may delete unasked [default: 20]";
    "policy.onFailure" "policy-on-failure" "POLICY_ON_FAILURE" Text "After a failure: Hold, Resume or Undo [default: Hold]";
    "policy.safetyBackup" "policy-safety-backup" "POLICY_SAFETY_BACKUP" Word "Back up what a run may change, before its first change [default: true]";
    "policy.safetyBackups.count" "policy-safety-backups-count" "POLICY_SAFETY_BACKUPS_COUNT" Word "Safety backups to keep, whatever their age [default: 5]";
    "policy.safetyBackups.days" "policy-safety-backups-days" "POLICY_SAFETY_BACKUPS_DAYS" Word "Days to keep safety backups, however many [default: 30]";
    "policy.repair" "policy-repair" "POLICY_REPAIR" Word "Mend what the operator did not bring back [default: false]";
    "policy.requireApproval" "policy-require-approval" "POLICY_REQUIRE_APPROVAL" List "Plans to approve in Git: Restore, Rollback, Prune";
    "policy.verify.required" "policy-verify-required" "POLICY_VERIFY_REQUIRED" List "Checks that a run with a version must pass [default: rollout, health, version]";
    "policy.verify.clusterTimeout" "policy-verify-cluster-timeout" "POLICY_VERIFY_CLUSTER_TIMEOUT" Text "Longest wait for clusters to connect and charts to come [default: 10m]";
    "policy.windows" "policy-windows" "POLICY_WINDOWS" List "Times in which runs may start (not built yet: refused)";
    "limits.qps" "limits-qps" "LIMITS_QPS" Word "Calls a second to the API server, 0 leaves it to the server [default: 0]";
    "limits.concurrency" "limits-concurrency" "LIMITS_CONCURRENCY" Word "Writes at a time, 0 finds its own [default: 0]";
    "dataDir" "data-dir" "DATA_DIR" Text "Folder for caches [default: the user's cache, or /var/lib/reinback]";
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    Flag,
    Environment,
}

/// A key that a flag or a variable sets.
#[derive(Debug, Clone)]
pub struct Override {
    pub key: &'static Key,
    pub origin: Origin,
    pub text: String,
}

impl Override {
    /// The flag or the variable, for messages.
    pub fn name(&self) -> String {
        match self.origin {
            Origin::Flag => self.key.flag(),
            Origin::Environment => self.key.env.to_owned(),
        }
    }

    fn value(&self, at: Place) -> Value {
        match self.key.reads {
            Reads::Text => Value::Text(self.text.clone()),
            Reads::Word => Value::of_word(&self.text),
            Reads::List => {
                let words = self.text.split(',').map(str::trim).filter(|word| !word.is_empty());
                Value::List(words.map(|word| Node { at, value: Value::Text(word.to_owned()) }).collect())
            }
        }
    }
}

/// The flags of every command that needs the configuration; one for each key.
#[derive(Debug, Clone, Default)]
pub struct ConfigArgs {
    /// `--config` or `REINBACK_CONFIG`; none when flags and variables say all.
    pub file: Option<PathBuf>,
    /// At most one a key: clap lets the flag win.
    pub overrides: Vec<Override>,
}

const CONFIG: &str = "config";
const HEADING: &str = "Configuration, over the file's";

impl clap::Args for ConfigArgs {
    fn augment_args(command: Command) -> Command {
        augment(command, KEYS.iter())
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for ConfigArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(read(matches, KEYS.iter()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The flags of commands that look at a store alone: those of [`ConfigArgs`] that say where it is and how it is reached.
#[derive(Debug, Clone, Default)]
pub struct StoreArgs(pub ConfigArgs);

fn of_store() -> impl Iterator<Item = &'static Key> {
    let is_of_store = |path: &str| path.starts_with("store.") || matches!(path, "operator.namespace" | "limits.qps");
    KEYS.iter().filter(move |key| is_of_store(key.path))
}

impl clap::Args for StoreArgs {
    fn augment_args(command: Command) -> Command {
        augment(command, of_store())
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for StoreArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self(read(matches, of_store())))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn augment(command: Command, keys: impl Iterator<Item = &'static Key>) -> Command {
    let file = Arg::new(CONFIG)
        .long(CONFIG)
        .env("REINBACK_CONFIG")
        .value_name("FILE")
        .value_parser(clap::value_parser!(PathBuf))
        .help("Configuration, such as reinback.yaml");
    let keys = keys.map(|key| {
        let arg = Arg::new(key.path).long(key.long).env(key.env).value_name("VALUE").help(key.help);
        // Forty flags would drown the command's own in `-h`.
        arg.help_heading(HEADING).hide_short_help(true).hide_env_values(true)
    });
    command.arg(file).args(keys)
}

fn read(matches: &ArgMatches, keys: impl Iterator<Item = &'static Key>) -> ConfigArgs {
    let overrides = keys.filter_map(|key| {
        let text = matches.get_one::<String>(key.path)?.clone();
        let origin = match matches.value_source(key.path) {
            Some(ValueSource::EnvVariable) => Origin::Environment,
            _ => Origin::Flag,
        };
        // An empty variable is how a shell says that there is none.
        (origin == Origin::Flag || !text.is_empty()).then_some(Override { key, origin, text })
    });
    ConfigArgs { file: matches.get_one::<PathBuf>(CONFIG).cloned(), overrides: overrides.collect() }
}

/// Puts the overrides into the tree of the file, at line 0 and the column of their index.
pub(super) fn lay_over(root: &mut Node, overrides: &[Override]) {
    for (index, one) in overrides.iter().enumerate() {
        let at = Place { line: 0, column: index };
        // A store is one or the other; what beats the file's key beats its neighbour, too.
        let excluded = match one.key.path {
            "store.directory" => Some("s3"),
            path if path.starts_with("store.s3.") => Some("directory"),
            _ => None,
        };
        if let Some(excluded) = excluded {
            remove_from_file(root, "store", excluded);
        }
        let parts: Vec<_> = one.key.path.split('.').collect();
        put(root, &parts, Node { at, value: one.value(at) });
    }
}

fn remove_from_file(root: &mut Node, section: &str, name: &str) {
    let Value::Map(entries) = &mut root.value else { return };
    for entry in entries.iter_mut().filter(|entry| entry.key == section) {
        if let Value::Map(inner) = &mut entry.value.value {
            inner.retain(|entry| entry.key != name || entry.at.line == 0);
        }
    }
}

/// Where the file has something else than a mapping on the way, the reader will say so.
fn put(node: &mut Node, path: &[&str], value: Node) {
    let Some((first, rest)) = path.split_first() else {
        *node = value;
        return;
    };
    if node.is_null() {
        node.value = Value::Map(Vec::new());
    }
    let Value::Map(entries) = &mut node.value else { return };
    let index = entries.iter().position(|entry| entry.key == *first).unwrap_or_else(|| {
        let fresh = Node { at: value.at, value: Value::Null };
        entries.push(Entry { key: (*first).to_owned(), at: value.at, value: fresh });
        entries.len() - 1
    });
    put(&mut entries[index].value, rest, value);
}
