//! `reinback plan`: what each manifest would do now.

use std::io::Write;

use anyhow::Context;
use jiff::Timestamp;

use super::{Exit, reach};
use crate::agent::source::{Source, View};
use crate::agent::{ledger::Books, look};
use crate::config::{Config, ConfigArgs};
use crate::desired::{Look, Placed, decide};
use crate::git::CommitId;
use crate::observed::Observed;
use crate::plan::Plan;
use crate::plan::gate::{Gate, GateCode};
use crate::plan::render::{self, Verbosity};
use crate::publish::Publisher;

/// Show what each manifest would do now, without doing it
///
/// Exits 0 when nothing would change, 2 when something would, 3 when a gate holds it, 1 on an error.
#[derive(Debug, clap::Args)]
pub struct PlanArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Commit of the branch to plan for, all 40 digits of it [default: the tip]
    rev: Option<String>,
    /// Show every object
    #[arg(short, long)]
    verbose: bool,
    /// Text for people, JSON for programs, Markdown for a pull request
    #[arg(short, long, value_enum, default_value_t)]
    output: PlanOutput,
    /// Context of the kubeconfig
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum PlanOutput {
    #[default]
    Text,
    Json,
    Markdown,
}

/// # Errors
///
/// When Git, the store or the cluster cannot be used.
pub async fn plan(args: PlanArgs) -> anyhow::Result<Exit> {
    let PlanArgs { config, rev, verbose, output, context } = args;
    let mut config = Config::load(&config)?;
    // A cache of its own: an agent on this machine keeps the configured one for itself.
    let folder = tempfile::Builder::new().prefix("reinback-plan-").tempdir().context("cannot make a folder")?;
    folder.path().clone_into(&mut config.data_dir);
    let commit = rev.as_deref().map(commit_id).transpose()?;
    let cluster = reach(context.as_deref(), Some(&config)).await?;
    let mut source = Source::open(&config)?;
    let view = source.at(&config, commit).await?;
    let publisher = Publisher::start(crate::agent::status_branch(&config)?);
    let books = Books::read_or_new(&cluster.reader(), &publisher, &config).await?;
    let verbosity = if verbose { Verbosity::Objects } else { Verbosity::Summary };
    let printer = Printer { output, verbosity };
    let mut exit = if view.problems.is_empty() { Exit::Done } else { Exit::Failed };
    for problem in &view.problems {
        let line = problem.line.map(|line| format!(":{line}")).unwrap_or_default();
        writeln!(std::io::stderr(), "{}{line}: {}", problem.file, problem.text)?;
    }
    let mut told = Vec::new();
    let manifests = open_manifests(&view, &books);
    if manifests.is_empty() && view.problems.is_empty() {
        writeln!(std::io::stderr(), "nothing to do: there is no manifest, or each one has run or was superseded")?;
    }
    for (placed, holds) in manifests {
        let (plan, observed) = one(&config, &cluster.reader(), &placed, &books, holds).await?;
        exit = exit.max(exit_of(&plan));
        printer.tell(&plan, &observed, &mut told)?;
    }
    printer.end(told)?;
    Ok(exit)
}

/// The source is read without a clone, so names and short ids of commits are not known here.
fn commit_id(text: &str) -> anyhow::Result<CommitId> {
    let parsed = text.parse::<CommitId>().ok();
    parsed.with_context(|| format!("{text:?} is not a commit; give all 40 digits that `git rev-parse {text}` prints"))
}

/// Manifests whose key has not ended, newest first, with what holds them whatever the cluster says.
fn open_manifests(view: &View, books: &Books) -> Vec<(Placed, Option<Gate>)> {
    let desired = decide(view.placed.clone(), &books.ledger, Look { first: false, whole: view.is_whole });
    let newest = desired.runnable.into_iter().chain(desired.waiting).map(|candidate| (candidate.placed, None));
    let ambiguous = desired.ambiguous.into_iter().map(|placed| {
        let message = "another manifest was changed by the same commit";
        let gate = Gate::new(GateCode::Ambiguous, message, "change the one that shall run in a commit of its own");
        (placed, Some(gate))
    });
    newest.chain(ambiguous).collect()
}

async fn one(
    config: &Config,
    reader: &crate::cluster::ClusterReader,
    placed: &Placed,
    books: &Books,
    holds: Option<Gate>,
) -> anyhow::Result<(Plan, Observed)> {
    let asked = look::ask(config, reader, placed, books.facts.clone()).await?;
    let looked = asked.look(reader, &look::places(config), Timestamp::now()).await?;
    let mut plan = looked.plan;
    plan.gates.extend(holds);
    Ok((plan, looked.observed))
}

fn exit_of(plan: &Plan) -> Exit {
    match (plan.holding().next(), plan.is_empty()) {
        (Some(_), _) => Exit::Held,
        (None, false) => Exit::Changes,
        (None, true) => Exit::Done,
    }
}

struct Printer {
    output: PlanOutput,
    verbosity: Verbosity,
}

impl Printer {
    fn tell(&self, plan: &Plan, observed: &Observed, told: &mut Vec<serde_json::Value>) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        match self.output {
            PlanOutput::Text => writeln!(out, "{}", render::text(plan, observed, self.verbosity).trim_end()),
            PlanOutput::Markdown => writeln!(out, "{}", render::markdown(plan, observed, self.verbosity).trim_end()),
            PlanOutput::Json => {
                told.push(render::json(plan, observed, self.verbosity));
                Ok(())
            }
        }
    }

    fn end(&self, told: Vec<serde_json::Value>) -> anyhow::Result<()> {
        if self.output == PlanOutput::Json {
            serde_json::to_writer_pretty(std::io::stdout().lock(), &serde_json::json!({ "plans": told }))?;
            writeln!(std::io::stdout())?;
        }
        Ok(())
    }
}
