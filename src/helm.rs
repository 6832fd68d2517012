//! The `helm` program: what sets a release back, or to another chart. What that does (hooks, three-way merge or apply on the
//! server, history) is Helm's to define; which revision it goes to is decided beforehand, from [`crate::release`].
//!
//! Whoever calls this holds the Lease and has recorded what comes, for a helm that is under way is fenced by nothing but its
//! end: it is killed with its process group when the caller's `stop` comes, when its time is over, and when the future is
//! dropped, and alone when we die. What it leaves then is a revision that is `pending-…` ([`mend`]) and, once it was tried again, objects that
//! the target does not have ([`leftovers`]). Its manifest carries the replicas of Rancher, so that it is the resume.
//!
//! Both calls may be repeated: each try makes a revision of its own, with the same objects.

pub mod leftovers;
pub mod mend;
mod process;
mod told;

use std::ffi::OsString;
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;
use tempfile::TempDir;
use tokio::process::Command;

use crate::release::{Revision, Values};
use process::{Broken, Ended};

/// Where the program is looked for when nothing else is said: on the `PATH`.
pub const PROGRAM: &str = "helm";
/// The versions whose releases, flags and words are known here.
const MAJORS: std::ops::RangeInclusive<u64> = 3..=4;
/// It asks nobody.
const VERSION_WITHIN: Duration = Duration::from_secs(30);
/// What Helm's time-out for one hook has less than the whole, so that it says itself what it waited for.
const HOOK_MARGIN: Duration = Duration::from_secs(5);

/// Which cluster helm changes, and as whom: the one that [`crate::cluster::connect`] finds, by the same rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// Instead of `KUBECONFIG`, `~/.kube/config` or the pod's service account.
    pub kubeconfig: Option<PathBuf>,
    pub context: Option<String>,
}

/// A helm that can be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Helm {
    program: PathBuf,
    access: Access,
    version: String,
    major: u64,
}

/// Why helm did not do what it was asked for. None of its own words are kept but those of a known form (invariant 7).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HelmError {
    #[error(
        "there is no program {program}: run reinback where Helm 3 or 4 is on the `PATH`, or set `versionMethod: image`"
    )]
    Missing { program: String },
    #[error("{program} cannot be run ({kind}): see that it is an executable file for this machine")]
    NotRun { program: String, kind: ErrorKind },
    #[error("{program} does not say that it is Helm 3 or 4 (`{program} version`): put one of them in its place")]
    NotHelm { program: String },
    #[error(
        "cannot {what}: helm was not done after {seconds} s and was ended; see `helm history`, and what its hooks wait for"
    )]
    TimedOut { what: String, seconds: u64 },
    #[error("cannot {what}: helm was stopped in the middle")]
    Stopped { what: String },
    #[error("cannot {what}: {refusal}")]
    Refused { what: String, refusal: Refusal },
    #[error(
        "cannot {what}: no private folder for helm can be made ({kind}): let `TMPDIR` name one that can be written"
    )]
    Folder { what: String, kind: ErrorKind },
}

/// What helm said, by what a person does about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub kind: RefusalKind,
    /// Those of its words that may be told on, on one line; empty where there are none.
    pub told: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalKind {
    ReleaseNotFound,
    /// The revision is gone from its history.
    RevisionNotFound,
    /// The newest revision is pending.
    Pending,
    /// Nothing was ever deployed, so that there is nothing to upgrade.
    NeverDeployed,
    /// The chart does not take this version of Kubernetes.
    Kubernetes,
    /// The archive is no chart that can be read or rendered.
    Chart,
    Forbidden,
    /// Another field manager owns a field that the release sets.
    Conflict,
    Hook,
    /// It waited for something longer than it might, as a rule for the Job of a hook.
    TimedOut,
    Unreachable,
    Other,
}

impl HelmError {
    /// Whether the same call may end otherwise soon.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::TimedOut { .. } | Self::Folder { .. } => true,
            Self::Refused { refusal, .. } => match refusal.kind {
                RefusalKind::Hook | RefusalKind::TimedOut | RefusalKind::Unreachable | RefusalKind::Other => true,
                RefusalKind::ReleaseNotFound
                | RefusalKind::RevisionNotFound
                | RefusalKind::Pending
                | RefusalKind::NeverDeployed
                | RefusalKind::Kubernetes
                | RefusalKind::Chart
                | RefusalKind::Forbidden
                | RefusalKind::Conflict => false,
            },
            Self::Missing { .. } | Self::NotRun { .. } | Self::NotHelm { .. } | Self::Stopped { .. } => false,
        }
    }

    pub fn refusal(&self) -> Option<&Refusal> {
        if let Self::Refused { refusal, .. } = self { Some(refusal) } else { None }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, told } = self;
        f.write_str(match kind {
            RefusalKind::ReleaseNotFound => "Helm has no such release: see `helm list --all-namespaces`",
            RefusalKind::RevisionNotFound => {
                "its history has no such revision: name one that `helm history` shows, or a `chart`"
            }
            RefusalKind::Pending => "another helm is at it, or was killed over it: see `helm history`",
            RefusalKind::NeverDeployed => "no revision of it was ever deployed: see `helm history`",
            RefusalKind::Kubernetes => "its chart does not take this version of Kubernetes: go to another one",
            RefusalKind::Chart => "the chart cannot be read or rendered: try `helm template` with it",
            RefusalKind::Forbidden => {
                "a right is missing that its objects need: docs/rbac.yaml has every one that reinback takes"
            }
            RefusalKind::Conflict => "somebody else owns a field that it sets: see `metadata.managedFields`",
            RefusalKind::Hook => "a hook of its chart failed: see its Job and pods",
            RefusalKind::TimedOut => "helm gave up waiting: see the Jobs of the chart's hooks, and their pods",
            RefusalKind::Unreachable => "helm does not reach the API server",
            RefusalKind::Other => "helm failed: see `helm history`",
        })?;
        match told.is_empty() {
            true => Ok(()),
            false => write!(f, " ({told})"),
        }
    }
}

impl Helm {
    /// Asks `program`, a path or a name on the `PATH`, for its version. Reaches no cluster.
    ///
    /// # Errors
    ///
    /// `Missing`, `NotRun`, and `NotHelm` for what is not Helm 3 or 4.
    pub async fn find(program: &Path, access: Access) -> Result<Self, HelmError> {
        let shown = program.display().to_string();
        let mut command = Command::new(program);
        command.args(["version", "--template", "{{.Version}}"]);
        clean(&mut command);
        let ended = process::run(command, None, VERSION_WITHIN, std::future::pending()).await;
        let not_helm = || HelmError::NotHelm { program: shown.clone() };
        let ended = match ended {
            Ok(ended) if ended.success => ended,
            Err(Broken::NotStarted(ErrorKind::NotFound)) => return Err(HelmError::Missing { program: shown }),
            Err(Broken::NotStarted(kind)) => return Err(HelmError::NotRun { program: shown, kind }),
            Ok(_) | Err(Broken::TimedOut | Broken::Stopped) => return Err(not_helm()),
        };
        let version = ended.stdout.trim().to_owned();
        let major = version.strip_prefix('v').and_then(|numbers| numbers.split('.').next()?.parse().ok());
        let major = major.filter(|major| MAJORS.contains(major)).ok_or_else(not_helm)?;
        Ok(Self { program: program.to_owned(), access, version, major })
    }

    /// As it says itself: `v4.3.1`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Sets the release back to `to`, one of its revisions: a new revision with the same objects.
    ///
    /// No revision goes from the history meanwhile: a rollback that is tried again needs its target.
    ///
    /// # Errors
    ///
    /// Any but `Missing`, `NotRun` and `NotHelm` after [`Self::find`], as long as the program stays; after `TimedOut`, `Stopped`
    /// and `Refused` the newest revision may be pending.
    pub async fn rollback(
        &self,
        to: &Revision,
        within: Duration,
        stop: impl Future<Output = ()>,
    ) -> Result<(), HelmError> {
        let what = format!("roll the Helm release {}/{} back to revision {}", to.namespace, to.name, to.number);
        let mut args: Vec<OsString> = vec!["rollback".into(), (&to.name).into(), to.number.to_string().into()];
        args.extend(self.force(to));
        self.change(what, args, &to.namespace, None, within, stop, None).await
    }

    /// Sets the release to another chart, a packaged one, with `values` and none of the values before.
    ///
    /// `from` is the newest revision of the release.
    ///
    /// # Errors
    ///
    /// As [`Self::rollback`].
    pub async fn upgrade(
        &self,
        from: &Revision,
        chart: &[u8],
        values: Option<&Values>,
        within: Duration,
        stop: impl Future<Output = ()>,
    ) -> Result<(), HelmError> {
        let what = format!("upgrade the Helm release {}/{} to the given chart", from.namespace, from.name);
        self.upgrade_with(what, &[], from, chart, values, within, stop).await
    }

    /// What [`Self::upgrade`] would do, without doing it: the chart is rendered with these values, and its objects are looked up
    /// in the cluster. Hooks are not run.
    ///
    /// # Errors
    ///
    /// As [`Self::upgrade`]; nothing is changed by any.
    pub async fn try_upgrade(
        &self,
        from: &Revision,
        chart: &[u8],
        values: Option<&Values>,
        within: Duration,
        stop: impl Future<Output = ()>,
    ) -> Result<(), HelmError> {
        let what = format!("try to upgrade the Helm release {}/{} to the given chart", from.namespace, from.name);
        self.upgrade_with(what, &["--dry-run=server"], from, chart, values, within, stop).await
    }

    #[expect(clippy::too_many_arguments, reason = "what the two calls differ in")]
    async fn upgrade_with(
        &self,
        what: String,
        flags: &[&str],
        from: &Revision,
        chart: &[u8],
        values: Option<&Values>,
        within: Duration,
        stop: impl Future<Output = ()>,
    ) -> Result<(), HelmError> {
        let mut args: Vec<OsString> = vec!["upgrade".into(), (&from.name).into()];
        args.extend(flags.iter().map(OsString::from));
        args.extend(["--reset-values".into()]);
        // By the standard input, for a file would stay behind when we are killed, and arguments are seen by all.
        args.extend(values.iter().map(|_| "--values=-".into()));
        args.extend(self.force(from));
        let values = values.map(|values| SecretString::from(values.expose()));
        self.change(what, args, &from.namespace, values, within, stop, Some(chart)).await
    }

    /// Helm 4 applies on the server what was applied there before, and stops where another field manager has set a field
    /// otherwise: we have, `spec.replicas` of Rancher. For other releases the flag is an error.
    fn force(&self, revision: &Revision) -> impl Iterator<Item = OsString> {
        let flags: &[&str] = match self.major >= 4 && revision.server_side {
            true => &["--server-side=true", "--force-conflicts"],
            false => &[],
        };
        flags.iter().map(OsString::from)
    }

    #[expect(clippy::too_many_arguments, reason = "what the calls differ in")]
    async fn change(
        &self,
        what: String,
        args: Vec<OsString>,
        namespace: &str,
        input: Option<SecretString>,
        within: Duration,
        stop: impl Future<Output = ()>,
        chart: Option<&[u8]>,
    ) -> Result<(), HelmError> {
        let folder = folder(chart).map_err(|error| HelmError::Folder { what: what.clone(), kind: error.kind() })?;
        let mut command = Command::new(&self.program);
        clean(&mut command);
        command.args(args);
        if chart.is_some() {
            command.arg(folder.path().join(CHART));
        }
        let hooks_within = within.saturating_sub(HOOK_MARGIN).max(Duration::from_secs(1));
        command.args(["--namespace", namespace, "--history-max=0"]);
        command.arg(format!("--timeout={}s", hooks_within.as_secs()));
        if let Some(context) = &self.access.context {
            command.arg(format!("--kube-context={context}"));
        }
        if let Some(kubeconfig) = &self.access.kubeconfig {
            command.env("KUBECONFIG", kubeconfig);
        }
        for name in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME", "KUBECACHEDIR"] {
            command.env(name, folder.path());
        }
        let ended = process::run(command, input, within, stop).await;
        let refused = |refusal| HelmError::Refused { what: what.clone(), refusal };
        match ended {
            Ok(Ended { success: true, .. }) => Ok(()),
            Ok(Ended { success: false, stderr, .. }) => Err(refused(told::refusal(&stderr))),
            Err(Broken::TimedOut) => Err(HelmError::TimedOut { what, seconds: within.as_secs() }),
            Err(Broken::Stopped) => Err(HelmError::Stopped { what }),
            Err(Broken::NotStarted(kind)) => {
                Err(HelmError::NotRun { program: self.program.display().to_string(), kind })
            }
        }
    }
}

/// Name of the chart's archive in the private folder.
const CHART: &str = "chart.tgz";

/// A folder that only we may enter, with the chart in it. `HOME` stays as it is: credential plugins look there.
fn folder(chart: Option<&[u8]>) -> std::io::Result<TempDir> {
    let folder = tempfile::Builder::new().prefix("reinback-helm-").tempdir()?;
    if let Some(chart) = chart {
        std::fs::write(folder.path().join(CHART), chart)?;
    }
    Ok(folder)
}

/// Nothing that the environment says of Helm holds: a namespace, a user, a token, plugins, another store of releases.
fn clean(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"HELM_") {
            command.env_remove(name);
        }
    }
}
