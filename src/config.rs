//! The configuration: `reinback.yaml`, the environment and flags, which beat each other in this order.
//!
//! Every key of the file is a flag and a variable, too: `source.url`, `--source-url`, `REINBACK_SOURCE_URL`. One table
//! makes all three; flags and variables are laid over the file's tree, so there is one reader and one set of messages.

mod check;
mod keys;

use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;

use crate::desired::StoreDefault;
use crate::health::{CheckName, Requirements};
use crate::journal::OnFailure;
use crate::manifest::yaml::{self, Bounds, Node, Place, Value};
use crate::manifest::{
    Fields, Limits, ON_FAILURE_WORDS, Problem, Report, S3_FIELDS, TIMEOUT, duration, one_of, s3_location,
};

pub use keys::{ConfigArgs, KEYS, Key, Origin, Override, Reads, StoreArgs};

/// What the agent is told. Every value has passed its check.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Names the status branch and the runs: a label of RFC 1123.
    pub cluster: String,
    pub source: Source,
    pub status: StatusTarget,
    /// For manifests without `storageLocation`.
    pub store: Option<StoreDefault>,
    pub rancher: Rancher,
    /// The namespace of the rancher-backup operator, where encryption Secrets lie.
    pub operator_namespace: String,
    pub policy: Policy,
    pub rates: Rates,
    /// For clones that may be deleted at any time.
    pub data_dir: PathBuf,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// Without credentials; https, http, ssh or file.
    pub url: Url,
    pub branch: String,
    /// From the root, without slashes at its ends; empty for the whole repository.
    pub path: String,
    pub interval: Duration,
    pub secret_dir: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct StatusTarget {
    pub url: Url,
    pub secret_dir: Option<PathBuf>,
    pub branch: String,
    pub author_name: String,
    pub author_email: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Rancher {
    pub namespace: String,
    pub deployment: String,
    /// For checks after a run; `None`: through the API server.
    pub url: Option<Url>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// How long a run may take.
    pub timeout: Duration,
    /// How long a run may be held before it fails with `HoldExpired`.
    pub max_hold: Duration,
    /// Percent of the live objects under the backup's selectors; beyond it the gate `PruneShare` is raised.
    pub max_prune_share: u8,
    pub on_failure: OnFailure,
    pub safety_backup: bool,
    pub safety_backups: SafetyBackups,
    pub repair: bool,
    /// What needs `reinback.io/approved-plan` before it runs.
    pub require_approval: Vec<ApprovalFor>,
    pub verify: Verify,
}

/// How Rancher is looked at after its version was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verify {
    /// What must hold for the run to succeed.
    pub required: Requirements,
    /// How long clusters may take to connect again, and Rancher to bring its system charts where they belong.
    pub cluster_timeout: Duration,
}

impl Default for Verify {
    fn default() -> Self {
        Self { required: Requirements::Usual, cluster_timeout: Duration::from_secs(10 * 60) }
    }
}

/// Which safety backups are kept: those that either number keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SafetyBackups {
    pub count: u32,
    pub days: u32,
}

/// A plan that somebody has to approve in Git.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApprovalFor {
    Restore,
    Rollback,
    /// Any plan that deletes.
    Prune,
}

/// Bounds on calls to the API server; 0 finds its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// Calls a second.
    pub qps: u32,
    /// Calls at the same time.
    pub concurrency: u32,
}

/// What a command that looks at backups alone is told. Neither source nor cluster are asked for, and may be there.
#[derive(Debug, Clone, PartialEq)]
pub struct StoreConfig {
    pub store: StoreDefault,
    /// Where Secrets lie that are named without a namespace.
    pub operator_namespace: String,
    pub rates: Rates,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration {}", .path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{0}")]
    Invalid(Problems),
}

/// At least one problem, a line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.0.iter().map(Problem::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl StoreConfig {
    /// Reads what it needs of the file that `args` name, the environment and the flags.
    ///
    /// # Errors
    ///
    /// As [`Config::load`], for these keys; and when there is no store.
    pub fn load(StoreArgs(args): &StoreArgs) -> Result<Self, ConfigError> {
        let content = read_file(args)?;
        let file = content.as_ref().map(|(path, content)| (path.as_str(), content.as_slice()));
        Self::parse(file, &args.overrides).map_err(|problems| ConfigError::Invalid(Problems(problems)))
    }

    /// The pure part of `load`.
    pub fn parse(file: Option<(&str, &[u8])>, overrides: &[Override]) -> Result<Self, Vec<Problem>> {
        parse_with(file, overrides, |root, report| {
            let root = Fields::open(root, "", ROOT, report)?;
            let store = store(&root);
            if root.get("store").is_none() {
                let remedy = "give `--config` with a `store`, or `--store-directory`, or `--store-s3-bucket-name` and what it needs";
                root.missing("store", remedy);
            }
            Some(Self { store: store?, operator_namespace: operator_namespace(&root), rates: rates(&root) })
        })
    }
}

impl Config {
    /// Reads the file that `args` name, and lays the environment and the flags over it.
    ///
    /// # Errors
    ///
    /// `Read` when the file cannot be read, `Invalid` with every problem of file, environment and flags.
    pub fn load(args: &ConfigArgs) -> Result<Self, ConfigError> {
        let content = read_file(args)?;
        let file = content.as_ref().map(|(path, content)| (path.as_str(), content.as_slice()));
        let cache = default_data_dir(|name| std::env::var_os(name).map(PathBuf::from));
        Self::parse(file, &args.overrides, &cache).map_err(|problems| ConfigError::Invalid(Problems(problems)))
    }

    /// The pure part of `load`: the file as path and content, what is laid over it, and the default of `dataDir`.
    pub fn parse(file: Option<(&str, &[u8])>, overrides: &[Override], data_dir: &Path) -> Result<Self, Vec<Problem>> {
        parse_with(file, overrides, |root, report| read(root, data_dir, report))
    }
}

/// Lays the overrides over the file, and gives what `read` makes of it where it reports no problem.
fn parse_with<T>(
    file: Option<(&str, &[u8])>,
    overrides: &[Override],
    read: impl FnOnce(&Node, &Report<'_>) -> Option<T>,
) -> Result<T, Vec<Problem>> {
    let name = file.map_or("configuration", |(path, _)| path);
    let mut root = match file {
        None => Node { at: NOWHERE, value: Value::Map(Vec::new()) },
        Some((path, content)) => tree(path, content)?,
    };
    keys::lay_over(&mut root, overrides);
    let report = Report::new(name);
    let config = read(&root, &report);
    let problems: Vec<_> = report.into_problems().into_iter().map(|problem| place(problem, overrides)).collect();
    config.filter(|_| problems.is_empty()).ok_or(problems)
}

/// The file that is named, with its path.
fn read_file(args: &ConfigArgs) -> Result<Option<(String, Vec<u8>)>, ConfigError> {
    let Some(path) = &args.file else { return Ok(None) };
    let content = read_some(path).map_err(|source| ConfigError::Read { path: path.clone(), source })?;
    Ok(Some((path.display().to_string(), content)))
}

/// One byte more than is taken at most, so that `tree` tells of it.
fn read_some(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::new();
    std::fs::File::open(path)?.take(Limits::default().file_bytes as u64 + 1).read_to_end(&mut content)?;
    Ok(content)
}

/// The place of what no file holds.
const NOWHERE: Place = Place { line: 0, column: usize::MAX };

/// Names the flag or variable that a problem came from; their values stand at line 0, column their index.
fn place(problem: Problem, overrides: &[Override]) -> Problem {
    match problem.at {
        Some(Place { line: 0, column }) => {
            let file = overrides.get(column).map_or(problem.file, Override::name);
            Problem { file, at: None, ..problem }
        }
        Some(_) | None => problem,
    }
}

fn tree(path: &str, content: &[u8]) -> Result<Node, Vec<Problem>> {
    let limits = Limits::default();
    let problem = |at: Option<Place>, message: String| vec![Problem::error(path, at, message)];
    if content.len() > limits.file_bytes {
        return Err(problem(None, format!("more than {} bytes: not a configuration", limits.file_bytes)));
    }
    let text =
        std::str::from_utf8(content).map_err(|_| problem(None, "not UTF-8: save the file as UTF-8".to_owned()))?;
    let bounds = Bounds { documents: 2, depth: limits.depth, alias_bytes: limits.alias_bytes };
    let mut trees = yaml::read(text, &bounds).map_err(|broken| problem(Some(broken.at), broken.message))?;
    if let [_, second, ..] = trees.as_slice() {
        return Err(problem(Some(second.root.at), "a second document: a configuration is one".to_owned()));
    }
    let Some(tree) = trees.pop() else {
        return Ok(Node { at: Place { line: 1, column: 1 }, value: Value::Map(Vec::new()) });
    };
    if !tree.defects.is_empty() {
        return Err(tree.defects.into_iter().flat_map(|defect| problem(Some(defect.at), defect.message)).collect());
    }
    Ok(match tree.root.value {
        Value::Null => Node { value: Value::Map(Vec::new()), ..tree.root },
        Value::Text(_) | Value::Bare(_) | Value::List(_) | Value::Map(_) => tree.root,
    })
}

/// `$XDG_CACHE_HOME/reinback`, else `~/.cache/reinback`; a container without a home gets `/var/lib/reinback`.
fn default_data_dir(variable: impl Fn(&str) -> Option<PathBuf>) -> PathBuf {
    let absolute = |name: &str| variable(name).filter(|path| path.is_absolute());
    let home = || absolute("HOME").filter(|home| home != Path::new("/") && !home.starts_with("/nonexistent"));
    let cache = absolute("XDG_CACHE_HOME").or_else(|| home().map(|home| home.join(".cache")));
    cache.map_or_else(|| PathBuf::from("/var/lib/reinback"), |cache| cache.join("reinback"))
}

const ROOT: &[&str] = &["cluster", "source", "status", "store", "rancher", "operator", "policy", "limits", "dataDir"];
const SOURCE: &[&str] = &["url", "branch", "path", "interval", "secretDir"];
const STATUS: &[&str] = &["url", "secretDir", "branch", "authorName", "authorEmail"];
const POLICY: &[&str] = &[
    "timeout",
    "maxHold",
    "maxPruneShare",
    "onFailure",
    "safetyBackup",
    "safetyBackups",
    "repair",
    "requireApproval",
    "verify",
    "windows",
];

/// Reads every section before it gives up, so that all problems are told at once.
fn read(root: &Node, data_dir: &Path, report: &Report<'_>) -> Option<Config> {
    let root = Fields::open(root, "", ROOT, report)?;
    if root.get("cluster").is_none() {
        missing(&root, "cluster");
    }
    let cluster = root.parsed("cluster", check::cluster);
    let source = source(&root);
    let status = status(&root, cluster.as_deref(), source.as_ref());
    let store = store(&root);
    let rancher = rancher(&root);
    let operator_namespace = operator_namespace(&root);
    let policy = policy(&root);
    let rates = rates(&root);
    let data_dir = root.parsed("dataDir", check::absolute).unwrap_or_else(|| data_dir.to_owned());
    Some(Config {
        cluster: cluster?,
        source: source?,
        status: status?,
        store,
        rancher,
        operator_namespace,
        policy,
        rates,
        data_dir,
    })
}

fn operator_namespace(root: &Fields<'_>) -> String {
    let operator = root.open_field("operator", &["namespace"]);
    let namespace = operator.and_then(|operator| operator.parsed("namespace", check::label));
    namespace.unwrap_or_else(|| "cattle-resources-system".to_owned())
}

fn rates(root: &Fields<'_>) -> Rates {
    let limits = root.open_field("limits", &["qps", "concurrency"]);
    let rate = |name: &str, most: u64| {
        let number = limits.as_ref().and_then(|limits| limits.integer(name, 0..=most));
        number.and_then(|number| u32::try_from(number).ok()).unwrap_or(0)
    };
    Rates { qps: rate("qps", 100_000), concurrency: rate("concurrency", 1_024) }
}

/// `name` may go on into a section that is not there.
fn missing(fields: &Fields<'_>, name: &str) {
    let path = fields.path(name);
    if let Some(key) = KEYS.iter().find(|key| key.path == path) {
        fields.missing(name, &format!("write it into the file, or give `{}` or `{}`", key.flag(), key.env));
    }
}

fn source(root: &Fields<'_>) -> Option<Source> {
    let Some(source) = root.open_field("source", SOURCE) else {
        if root.get("source").is_none() {
            missing(root, "source.url");
        }
        return None;
    };
    if source.get("url").is_none() {
        missing(&source, "url");
    }
    let url = source.parsed("url", check::git_url);
    let branch = source.parsed("branch", check::branch);
    let path = source.parsed("path", check::tree_path);
    let interval = source.parsed("interval", |text| duration(text, INTERVAL));
    let secret_dir = source.parsed("secretDir", check::directory);
    Some(Source {
        url: url?,
        branch: branch.unwrap_or_else(|| "main".to_owned()),
        path: path.unwrap_or_default(),
        interval: interval.unwrap_or(Duration::from_secs(60)),
        secret_dir,
    })
}

/// Often enough to feel prompt, seldom enough for a Git server that many agents ask.
const INTERVAL: std::ops::RangeInclusive<Duration> = Duration::from_secs(5)..=Duration::from_secs(24 * 3600);

fn status(root: &Fields<'_>, cluster: Option<&str>, source: Option<&Source>) -> Option<StatusTarget> {
    let section = root.open_field("status", STATUS);
    let field =
        |name: &str, parse: fn(&str) -> Result<String, String>| section.as_ref().and_then(|s| s.parsed(name, parse));
    let branch = field("branch", check::branch);
    let author_name = field("authorName", check::author).unwrap_or_else(|| "reinback".to_owned());
    let author_email = field("authorEmail", check::email).unwrap_or_else(|| "reinback@localhost".to_owned());
    let url = section.as_ref().and_then(|section| section.parsed("url", check::git_url));
    let secret_dir = section.as_ref().and_then(|section| section.parsed("secretDir", check::directory));
    let source = source?;
    // The source's credentials are for the source's host: another URL does not get them unasked.
    let inherited = || source.secret_dir.clone().filter(|_| url.as_ref().is_none_or(|url| same_host(url, &source.url)));
    Some(StatusTarget {
        secret_dir: secret_dir.or_else(inherited),
        url: url.clone().unwrap_or_else(|| source.url.clone()),
        branch: branch.map_or_else(|| Some(format!("reinback/{}", cluster?)), Some)?,
        author_name,
        author_email,
    })
}

fn same_host(a: &Url, b: &Url) -> bool {
    (a.scheme(), a.host_str(), a.port_or_known_default()) == (b.scheme(), b.host_str(), b.port_or_known_default())
}

fn store(root: &Fields<'_>) -> Option<StoreDefault> {
    let store = root.open_field("store", &["directory", "s3"])?;
    if let (Some(_), Some(s3)) = (store.get("directory"), store.get("s3")) {
        root.report().error(s3.at, "`store` has both `directory` and `s3`: keep one");
    }
    let directory = store.parsed("directory", check::absolute).map(StoreDefault::Directory);
    let s3 = store.open_field("s3", S3_FIELDS).and_then(|s3| s3_location(&s3));
    directory.or(s3.map(|s3| StoreDefault::S3(Box::new(s3))))
}

fn rancher(root: &Fields<'_>) -> Rancher {
    let section = root.open_field("rancher", &["namespace", "deployment", "url"]);
    let label = |name: &str| section.as_ref().and_then(|section| section.parsed(name, check::label));
    Rancher {
        namespace: label("namespace").unwrap_or_else(|| "cattle-system".to_owned()),
        deployment: label("deployment").unwrap_or_else(|| "rancher".to_owned()),
        url: section.as_ref().and_then(|section| section.parsed("url", check::web_url)),
    }
}

fn policy(root: &Fields<'_>) -> Policy {
    let empty = Node { at: NOWHERE, value: Value::Map(Vec::new()) };
    let section = root.open_field("policy", POLICY);
    let fallback = || Fields::open(&empty, "policy", POLICY, root.report());
    let Some(policy) = section.or_else(fallback) else { return Policy::default() };
    let default = Policy::default();
    let length = |name: &str, range| policy.parsed(name, |text| duration(text, range));
    let backups = policy.open_field("safetyBackups", &["count", "days"]);
    let kept = |name: &str, most: u64, default: u32| {
        let number = backups.as_ref().and_then(|backups| backups.integer(name, 1..=most));
        number.and_then(|number| u32::try_from(number).ok()).unwrap_or(default)
    };
    if policy.words("windows").is_some_and(|windows| !windows.is_empty()) {
        let at = policy.get("windows").map_or(NOWHERE, |node| node.at);
        // To read windows and to run outside them would be worse than to refuse them.
        root.report().error(at, "`policy.windows` is not built yet: remove it");
    }
    Policy {
        timeout: length("timeout", TIMEOUT).unwrap_or(default.timeout),
        max_hold: length("maxHold", MAX_HOLD).unwrap_or(default.max_hold),
        max_prune_share: policy
            .integer("maxPruneShare", 0..=100)
            .and_then(|share| u8::try_from(share).ok())
            .unwrap_or(default.max_prune_share),
        on_failure: policy.parsed("onFailure", |text| one_of(text, ON_FAILURE_WORDS)).unwrap_or_default(),
        safety_backup: policy.boolean("safetyBackup").unwrap_or(default.safety_backup),
        safety_backups: SafetyBackups {
            count: kept("count", 1_000, default.safety_backups.count),
            days: kept("days", 3_650, default.safety_backups.days),
        },
        repair: policy.boolean("repair").unwrap_or(default.repair),
        require_approval: require_approval(&policy),
        verify: verify(&policy),
    }
}

/// No time at all is a look. Agents try again within minutes; a day is no time-out any more.
const CLUSTER_TIMEOUT: std::ops::RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(24 * 3600);

fn verify(policy: &Fields<'_>) -> Verify {
    let Some(section) = policy.open_field("verify", &["required", "clusterTimeout"]) else { return Verify::default() };
    let default = Verify::default();
    let words = CheckName::ALL.map(|name| (name.as_str(), name));
    let read = |(word, at): (&str, Place)| {
        one_of(word, &words)
            .map_err(|message| section.report().error(at, format!("an entry of `policy.verify.required` {message}")))
            .ok()
    };
    let listed = section.words("required").map(|listed| listed.into_iter().filter_map(read).collect());
    Verify {
        required: listed.map_or(default.required, Requirements::Listed),
        cluster_timeout: section
            .parsed("clusterTimeout", |text| duration(text, CLUSTER_TIMEOUT))
            .unwrap_or(default.cluster_timeout),
    }
}

/// From a minute to thirty days: a manifest that waits longer surprises whoever wrote it.
const MAX_HOLD: std::ops::RangeInclusive<Duration> = Duration::from_secs(60)..=Duration::from_secs(720 * 3600);

fn require_approval(policy: &Fields<'_>) -> Vec<ApprovalFor> {
    const WORDS: &[(&str, ApprovalFor)] =
        &[("Restore", ApprovalFor::Restore), ("Rollback", ApprovalFor::Rollback), ("Prune", ApprovalFor::Prune)];
    let words = policy.words("requireApproval").unwrap_or_default();
    let read = |(word, at): (&str, Place)| {
        one_of(word, WORDS)
            .map_err(|message| policy.report().error(at, format!("an entry of `policy.requireApproval` {message}")))
            .ok()
    };
    words.into_iter().filter_map(read).collect()
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(45 * 60),
            max_hold: Duration::from_secs(24 * 3600),
            max_prune_share: 20,
            on_failure: OnFailure::Hold,
            safety_backup: true,
            safety_backups: SafetyBackups { count: 5, days: 30 },
            repair: false,
            require_approval: Vec::new(),
            verify: Verify::default(),
        }
    }
}

#[cfg(test)]
mod tests;
