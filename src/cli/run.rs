//! `reinback run`: one manifest, now, in the foreground.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;

use super::agent::LeaseArgs;
use super::{Exit, reach, stop_signal};
use crate::agent::ledger::{Books, list_runs};
use crate::agent::source::Source;
use crate::agent::{Agent, Options, hold::held_unseen, look};
use crate::cluster::ClusterReader;
use crate::config::{Config, ConfigArgs};
use crate::desired::{CommitPlace, LOCAL, Look, Placed, decide};
use crate::execute::Program;
use crate::helm::Access;
use crate::manifest::{Limits, Manifest, SourceFile, Tree};
use crate::plan::gate::Gate;
use crate::plan::render::{self, Verbosity};
use crate::run::{Phase, Run};
use crate::status::{humane_duration, render_one};
use crate::store::Stores;

/// Carry out one manifest now, in the foreground
///
/// The plan, a question, then the run; the same ledger and the same status as the agent's. It counts as
/// newer than every commit.
/// Exits 0 when it succeeded or had ended before, 3 when it is held or was not confirmed, 1 when it failed or on an
/// error.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// File with one Restore or Rollback
    file: PathBuf,
    #[command(flatten)]
    here: HereArgs,
}

/// What a command is told that carries out a run in the foreground.
#[derive(Debug, clap::Args)]
pub struct HereArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Context of the kubeconfig
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// Install or update the definition of Run
    #[arg(long)]
    pub install_crd: bool,
    #[command(flatten)]
    pub lease: LeaseArgs,
}

/// # Errors
///
/// When the manifest, the configuration, Git, the store or the cluster cannot be used.
pub async fn run(args: RunArgs) -> anyhow::Result<Exit> {
    let RunArgs { file, here } = args;
    // What is wrong in the file is told before anybody else is asked.
    let placed = read(&file, &Config::load(&here.config)?)?;
    Here::open(here).await?.run(|_, _| Ok(placed)).await
}

/// A foreground in which one manifest is carried out.
pub struct Here {
    config: Config,
    reader: ClusterReader,
    agent: Agent,
    helm: Program,
    yes: bool,
    /// Removed at the end.
    _folder: tempfile::TempDir,
}

impl Here {
    /// # Errors
    ///
    /// When the configuration, Git or the cluster cannot be used.
    pub async fn open(args: HereArgs) -> anyhow::Result<Self> {
        let HereArgs { config, yes, context, install_crd, lease } = args;
        let mut config = Config::load(&config)?;
        let folder = tempfile::Builder::new().prefix("reinback-run-").tempdir().context("cannot make a folder")?;
        folder.path().clone_into(&mut config.data_dir);
        let helm = Access { kubeconfig: None, context: context.clone() };
        let options = Options { install_crd, helm: helm.clone(), lease: lease.times()? };
        let cluster = reach(context.as_deref(), Some(&config)).await?;
        let reader = cluster.reader();
        let agent = Agent::open(config.clone(), cluster, options, stop_signal()?)?;
        Ok(Self { config, reader, agent, helm: Program(helm), yes, _folder: folder })
    }

    /// What is known of runs.
    ///
    /// # Errors
    ///
    /// When cluster or Git do not answer.
    pub async fn books(&self) -> anyhow::Result<Books> {
        Ok(Books::read_or_new(&self.reader, self.agent.publisher(), &self.config).await?)
    }

    /// Ends a run that nobody is at, or asks whoever carries it out to.
    ///
    /// # Errors
    ///
    /// When Git or the cluster do not answer.
    pub async fn cancel(&mut self, run: &Run, by: &str) -> anyhow::Result<()> {
        Ok(self.agent.cancel_local(run, by).await?)
    }

    /// The plan of the manifest that `choose` gives, a question, and the run.
    ///
    /// # Errors
    ///
    /// Of `choose`, and when the store, Git or the cluster cannot be used.
    pub async fn run(self, choose: impl FnOnce(&Config, &Books) -> anyhow::Result<Placed>) -> anyhow::Result<Exit> {
        let books = self.books().await?;
        let placed = choose(&self.config, &books)?;
        carry_out(self, books, placed).await
    }
}

async fn carry_out(here: Here, books: Books, placed: Placed) -> anyhow::Result<Exit> {
    let Here { config, reader, mut agent, helm, yes, _folder } = here;
    if let Some(entry) = books.ledger.entries.get(&placed.key).filter(|entry| entry.phase.is_terminal()) {
        let way = match placed.undoes {
            true => "to do it once more, commit what --print prints, with a reinback.io/requested-at",
            false => "to run it, change reinback.io/requested-at",
        };
        let Placed { manifest, .. } = placed;
        writeln!(io::stderr(), "{} has ended before ({:?}) and never runs again; {way}", manifest.id, entry.phase)?;
        return Ok(Exit::Done);
    }
    if !show_plan(&config, &reader, &helm, agent.source(), &placed, &books).await? || !(yes || confirmed()?) {
        writeln!(io::stderr(), "nothing was done")?;
        return Ok(Exit::Held);
    }
    let key = placed.key;
    let bar = watch_progress(reader.clone());
    let passed = agent.run_local(placed).await;
    bar.abort();
    if passed?.busy {
        writeln!(io::stderr(), "another reinback holds the lease; nothing was done")?;
        return Ok(Exit::Held);
    }
    let ran = list_runs(&reader).await?.into_iter().find(|run| run.spec.key == key.to_string());
    tell_end(ran.as_ref())
}

/// How the run itself came out, whatever else was gone on with.
fn tell_end(run: Option<&Run>) -> anyhow::Result<Exit> {
    let Some(run) = run else {
        writeln!(io::stderr(), "stopped before the run began")?;
        return Ok(Exit::Failed);
    };
    write!(io::stdout(), "{}", render_one(run, Timestamp::now()))?;
    Ok(match run.status.as_ref().map(|status| status.phase).unwrap_or_default() {
        Phase::Succeeded => Exit::Done,
        Phase::Pending | Phase::Held => Exit::Held,
        Phase::Running | Phase::Failed | Phase::Superseded | Phase::Cancelled => Exit::Failed,
    })
}

/// The one manifest of a file, in a place that is newer than every commit.
fn read(file: &PathBuf, config: &Config) -> anyhow::Result<Placed> {
    let name = file.display().to_string();
    let content = std::fs::read(file).with_context(|| format!("cannot read {name}"))?;
    let blob = crate::git::BlobId::of(&content).map(|id| id.to_string()).unwrap_or_default();
    let source = SourceFile { path: &name, blob: &blob, content: &content };
    let tree = Tree::read([source], &Limits::default());
    if !tree.problems.is_empty() {
        let problems: Vec<String> = tree.problems.iter().map(ToString::to_string).collect();
        anyhow::bail!("{}", problems.join("\n"));
    }
    let mut manifests: Vec<_> = tree.manifests().cloned().collect();
    anyhow::ensure!(manifests.len() == 1, "{name} holds {} manifests; give a file with one", manifests.len());
    let manifest = manifests.remove(0);
    Ok(placed_here(manifest, config))
}

/// A manifest that is newer than every commit.
pub fn placed_here(manifest: Manifest, config: &Config) -> Placed {
    let commit = CommitPlace { id: LOCAL.to_owned(), position: 0, author: user(), time: Timestamp::now() };
    Placed::new(manifest, config.store.as_ref(), commit)
}

pub fn user() -> String {
    let name = std::env::var("SUDO_USER").or_else(|_| std::env::var("USER")).unwrap_or_else(|_| "unknown".to_owned());
    let host = std::fs::read_to_string("/etc/hostname").map(|host| host.trim().to_owned());
    host.map_or_else(|_| name.clone(), |host| format!("{name}@{host}"))
}

/// Prints the plan; false when a gate holds it.
async fn show_plan(
    config: &Config,
    reader: &ClusterReader,
    helm: &Program,
    source: &Source,
    placed: &Placed,
    books: &Books,
) -> anyhow::Result<bool> {
    if let Some(Gate { code, message, remedy, .. }) = held_unseen(placed, books) {
        writeln!(io::stdout(), "{}: held by {}: {message}\n  {remedy}", placed.manifest.id, code.as_str())?;
        return Ok(false);
    }
    let alone = decide(vec![placed.clone()], &books.ledger, Look { first: false, whole: false });
    let already_run = alone.runnable.or(alone.waiting).and_then(|candidate| candidate.already_run);
    let mut asked = look::ask(config, reader, placed, books.facts_of(already_run, Vec::new())).await?;
    asked.ask_helm(helm).await;
    asked.ask_chart(source, &placed.commit.id).await?;
    let looked = asked.look(reader, &Stores, &look::places(config)).await?;
    let text = render::text(&looked.plan, &looked.observed, Verbosity::Summary);
    writeln!(io::stdout(), "{}", text.trim_end())?;
    Ok(looked.plan.holding().next().is_none())
}

fn confirmed() -> anyhow::Result<bool> {
    anyhow::ensure!(io::stdin().is_terminal(), "nobody is there to ask; give --yes");
    write!(io::stderr(), "Run this plan? Only \"yes\" goes on: ")?;
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}

/// On a terminal, a bar that follows the run's own progress.
fn watch_progress(reader: ClusterReader) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        if !io::stderr().is_terminal() {
            return;
        }
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}") {
            bar.set_style(style);
        }
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let Ok(runs) = list_runs(&reader).await else { continue };
            let progress = runs.iter().filter_map(|run| run.status.as_ref()?.progress.clone()).next();
            if let Some(progress) = progress {
                bar.set_length(progress.total);
                bar.set_position(progress.done);
                let left = progress.seconds_left.and_then(|left| i64::try_from(left).ok());
                let left = left.map(|left| humane_duration(jiff::SignedDuration::from_secs(left)));
                let pace = progress.objects_per_second.map_or_else(String::new, |pace| format!(", {pace} a second"));
                let left = left.map_or_else(String::new, |left| format!(", {left} left"));
                bar.set_message(format!("{}{pace}{left}", progress.step));
            }
        }
    })
}
