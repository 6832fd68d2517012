//! The command line: a file a command; exit codes in one place.

pub mod agent;
pub mod backups;
pub mod cancel;
pub mod check;
pub mod crd;
pub mod demo;
pub mod plan;
pub mod run;
pub mod status;
pub mod undo;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};
use tokio::sync::watch;

use crate::agent::begin::chain;
use crate::cluster::{self, Cluster, ClusterError, Limits};
use crate::config::Config;
use crate::telemetry::{self, LogFormat, LogOptions};

/// GitOps for Rancher restores and rollbacks
///
/// A person merges a pull request that adds a Restore; the agent plans it, guards it, carries it out on the cluster
/// and commits what happened back to Git.
#[derive(Debug, Parser)]
#[command(name = "reinback", version, propagate_version = true, max_term_width = 120)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    log: LogArgs,
}

/// Flags of every command.
#[derive(Debug, Clone, clap::Args)]
struct LogArgs {
    /// How much is logged, on stderr: error, warn, info, debug, trace, or directives such as info,reinback::git=debug
    #[arg(long, global = true, value_name = "LEVEL", env = "RUST_LOG")]
    log_level: Option<String>,
    /// How a line of the log looks
    #[arg(long, global = true, value_enum, default_value_t)]
    log_format: LogFormat,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::DemoArgs),
    Agent(agent::AgentArgs),
    Plan(plan::PlanArgs),
    Check(check::CheckArgs),
    Run(run::RunArgs),
    Cancel(cancel::CancelArgs),
    Undo(undo::UndoArgs),
    Status(status::StatusArgs),
    Backups(backups::BackupsArgs),
    Crd(crd::CrdArgs),
    /// Print a completion script for a shell
    Completion {
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print the manual page of reinback, or of one of its commands
    Man {
        /// Command, such as agent
        command: Option<String>,
    },
}

/// How a command came out; the only place with numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// Nothing is left to do.
    Done,
    /// `plan`: something would change; `backups diff`: something differs.
    Changes,
    /// A gate holds something.
    Held,
    /// An error, or a run failed.
    Failed,
}

impl Exit {
    fn code(self) -> ExitCode {
        ExitCode::from(match self {
            Self::Done => 0,
            Self::Changes => 2,
            Self::Held => 3,
            Self::Failed => 1,
        })
    }
}

/// Parses the command line, runs the command and says how it came out.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors; a usage error is 1, as every other.
            let code = if error.use_stderr() { Exit::Failed } else { Exit::Done };
            let _ = error.print();
            return code.code();
        }
    };
    match run(cli) {
        Ok(exit) => exit.code(),
        Err(error) if is_broken_pipe(&error) => Exit::Done.code(),
        Err(error) => {
            let _ = writeln!(io::stderr(), "reinback: {}", chain(error.as_ref()));
            Exit::Failed.code()
        }
    }
}

/// Whoever read our output has read enough.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    };
    error.chain().any(broken)
}

fn run(cli: Cli) -> anyhow::Result<Exit> {
    let Cli { command, log: LogArgs { log_level, log_format } } = cli;
    // The log of an agent would stand between the lines of its story.
    let level = log_level.or_else(|| matches!(command, Command::Demo(_)).then(|| "error".to_owned()));
    telemetry::init(&LogOptions { level, format: log_format })?;
    match command {
        Command::Demo(args) => with_runtime(demo::demo(args)),
        Command::Agent(args) => with_runtime(agent::agent(args)),
        Command::Plan(args) => with_runtime(plan::plan(args)),
        Command::Run(args) => with_runtime(run::run(args)),
        Command::Cancel(args) => with_runtime(cancel::cancel(args)),
        Command::Status(args) => with_runtime(status::status(args)),
        Command::Undo(args) => with_runtime(undo::undo(args)),
        Command::Backups(args) => with_runtime(backups::backups(args)),
        Command::Check(args) => {
            let checked = check::run(&args, &mut io::stdin(), &mut io::stdout(), &mut io::stderr())?;
            Ok(match checked {
                check::Checked::Valid => Exit::Done,
                check::Checked::Invalid => Exit::Failed,
            })
        }
        Command::Crd(args) => crd::crd(&args).map(|()| Exit::Done),
        Command::Completion { shell } => {
            // Made in memory first: the generator panics when its output is closed.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "reinback", &mut script);
            io::stdout().lock().write_all(&script)?;
            Ok(Exit::Done)
        }
        Command::Man { command } => {
            let page = manual(command.as_deref())?;
            clap_mangen::Man::new(page).render(&mut io::stdout().lock())?;
            Ok(Exit::Done)
        }
    }
}

/// What the manual page of reinback, or of one of its commands, is made of.
fn manual(command: Option<&str>) -> anyhow::Result<clap::Command> {
    // `help` needs no page of its own, and none is to be referred to.
    let mut all = Cli::command().disable_help_subcommand(true);
    all.build();
    let Some(name) = command else { return Ok(all) };
    let found = all.find_subcommand(name).cloned();
    found.with_context(|| format!("there is no command {name:?}; `reinback help` lists all"))
}

/// How long a thread for blocking work waits for more: its stack and what the allocator keeps for it go with it.
const KEEP_ALIVE: Duration = Duration::from_millis(500);

/// libgit2 is told its options before a second thread exists.
///
/// The command runs as a task, on a thread that also writes and reads: beside them, on the first thread, each object would wake it.
fn with_runtime(command: impl Future<Output = anyhow::Result<Exit>> + Send + 'static) -> anyhow::Result<Exit> {
    crate::git::init_process()?;
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.enable_all().thread_keep_alive(KEEP_ALIVE).build().context("cannot start threads")?;
    let exit = match runtime.block_on(runtime.spawn(command)) {
        Ok(exit) => exit,
        Err(ended) => std::panic::resume_unwind(ended.into_panic()),
    };
    // Blocking work that hangs (a Git server that does not answer) is not waited for.
    runtime.shutdown_timeout(Duration::from_millis(500));
    exit
}

/// Connects to the cluster of `KUBECONFIG`, of `--context`, or of the pod. Nothing is sent yet.
async fn connect(context: Option<&str>, config: Option<&Config>) -> anyhow::Result<Cluster> {
    let limits = Limits { qps: config.map_or(0, |config| config.rates.qps), ..Limits::default() };
    Ok(cluster::connect(context, limits).await?)
}

/// As [`reach`], with these calls a second; 0 for no limit.
async fn reach_at(context: Option<&str>, qps: u32) -> anyhow::Result<Cluster> {
    let cluster = cluster::connect(context, Limits { qps, ..Limits::default() }).await?;
    answering(cluster).await
}

/// As [`connect`], for a person who waits: a cluster that does not answer is told after seconds, where an agent
/// would go on trying.
async fn reach(context: Option<&str>, config: Option<&Config>) -> anyhow::Result<Cluster> {
    answering(connect(context, config).await?).await
}

async fn answering(cluster: Cluster) -> anyhow::Result<Cluster> {
    let probe = cluster.reader().patient(PROBE.0, PROBE.1);
    match probe.cluster_uid().await {
        Err(ClusterError::Unreachable { what: _, url, source }) => {
            Err(ClusterError::Unreachable { what: "reach the cluster".to_owned(), url, source }.into())
        }
        // Whoever may not read that namespace is told by what comes next, if it matters there.
        Ok(_) | Err(_) => Ok(cluster),
    }
}

/// How long a person waits for one answer, and for a cluster that is coming up.
const PROBE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(3));

/// True once SIGTERM or Ctrl-C came; a second one ends the process at once.
fn stop_signal() -> anyhow::Result<watch::Receiver<bool>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (sender, receiver) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for Ctrl-C")?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if sender.send_replace(true) {
                std::process::exit(130);
            }
            tracing::info!("stopping at the next safe place; once more to stop at once");
        }
    });
    Ok(receiver)
}

/// Output for people or for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Output {
    #[default]
    Text,
    Json,
}
