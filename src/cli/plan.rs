//! `reinback plan`: what each manifest would do now.

use std::io::Write;

use anyhow::Context;

use super::{Exit, reach};
use crate::agent::source::{Source, View};
use crate::agent::{hold::held_unseen, ledger::Books, look};
use crate::config::{Config, ConfigArgs};
use crate::desired::{Look, Placed, decide};
use crate::execute::Program;
use crate::helm::Access;
use crate::manifest::ManifestId;
use crate::observe;
use crate::observed::{LedgerFacts, Observed};
use crate::plan::Plan;
use crate::plan::gate::Gate;
use crate::plan::render::{self, Verbosity};
use crate::publish::Publisher;
use crate::run::Phase;
use crate::store::Stores;

/// Show what each manifest would do now, without doing it
///
/// Exits 0 when nothing would change, 2 when something would, 3 when a gate holds it, 1 on an error.
#[derive(Debug, clap::Args)]
pub struct PlanArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Commit of the branch to plan for: at least 7 digits of its id, or the branch or HEAD, with ~n for older ones [default: the tip]
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
    let cluster = reach(context.as_deref(), Some(&config)).await?;
    let mut source = Source::open(&config)?;
    let publisher = Publisher::start(Box::new(crate::agent::status_branch(&config)?), cluster.clock());
    let reader = cluster.reader();
    let (view, books, glance) = tokio::join!(
        source.at(&config, rev.as_deref()),
        Books::read_or_new(&reader, &publisher, &config),
        // Of the first manifest that has something to do, which there mostly is.
        observe::glance(&reader),
    );
    let (view, books, mut early) = (view?, books?, Some(glance));
    let helm = Program(Access { kubeconfig: None, context });
    let verbosity = if verbose { Verbosity::Objects } else { Verbosity::Summary };
    let printer = Printer { output, verbosity };
    let mut exit = if view.problems.is_empty() { Exit::Done } else { Exit::Failed };
    for problem in &view.problems {
        let line = problem.line.map(|line| format!(":{line}")).unwrap_or_default();
        writeln!(std::io::stderr(), "{}{line}: {}", problem.file, problem.text)?;
    }
    if books.first_look() && !view.placed.is_empty() {
        let note =
            "note: the agent has not looked yet; what it finds at its first look is recorded as FirstLook and not run";
        writeln!(std::io::stderr(), "{note}")?;
    }
    let mut told = Vec::new();
    let manifests = open_manifests(&view, &books);
    if manifests.is_empty() && view.problems.is_empty() {
        writeln!(std::io::stderr(), "nothing to do: there is no manifest, or each one has run or was superseded")?;
    }
    for (placed, facts) in manifests {
        if let Some(gate) = held_unseen(&placed, &books) {
            exit = exit.max(Exit::Held);
            printer.tell_unseen(&placed, &gate, &mut told)?;
            continue;
        }
        let mut asked = look::ask(&config, &reader, &placed, facts).await?;
        asked.known.unfinished_runs = unfinished(&books);
        asked.ask_helm(&helm).await;
        asked.ask_chart(&source, &placed.commit.id).await?;
        let glance = async {
            match early.take() {
                Some(glance) => glance,
                None => observe::glance(&reader).await,
            }
        };
        let looked = asked.look_from(glance, &reader, &Stores, &look::places(&config)).await?;
        exit = exit.max(exit_of(&looked.plan));
        printer.tell(&looked.plan, &looked.observed, &mut told)?;
    }
    printer.end(told)?;
    Ok(exit)
}

/// Manifests whose key has not ended, newest first, with what the ledger says of each.
fn open_manifests(view: &View, books: &Books) -> Vec<(Placed, LedgerFacts)> {
    let desired = decide(view.placed.clone(), &books.ledger, Look { first: false, whole: view.is_whole });
    let newest = desired.runnable.into_iter().chain(desired.waiting);
    let newest =
        newest.map(|candidate| (candidate.placed, books.facts_of(candidate.already_run, Vec::new()))).collect();
    let names = |but: &Placed| {
        let others = desired.ambiguous.iter().filter(|other| other.key != but.key);
        others.map(|other| other.manifest.id.to_string()).collect()
    };
    let ambiguous = desired.ambiguous.iter().map(|placed| (placed.clone(), books.facts_of(None, names(placed))));
    [newest, ambiguous.collect::<Vec<_>>()].concat()
}

/// Names of the runs that are under way.
fn unfinished(books: &Books) -> Vec<String> {
    let running = books.ledger.entries.iter().filter(|(_, entry)| entry.phase == Phase::Running);
    running.filter_map(|(key, _)| books.runs.get(key)?.metadata.name.clone()).collect()
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

    /// A manifest of which no plan is made.
    fn tell_unseen(&self, placed: &Placed, gate: &Gate, told: &mut Vec<serde_json::Value>) -> std::io::Result<()> {
        let Gate { code, class: _, message, remedy, accepted: _ } = gate;
        let (id, code) = (&placed.manifest.id, code.as_str());
        let mut out = std::io::stdout().lock();
        match self.output {
            PlanOutput::Text => writeln!(out, "{id}: held by {code}: {message}\n  {remedy}"),
            PlanOutput::Markdown => writeln!(out, "### {id}\n\n- **{code}**: {message}\n  {remedy}"),
            PlanOutput::Json => {
                let ManifestId { kind, name } = id;
                told.push(serde_json::json!({ "kind": kind.as_str(), "name": name, "gates": [gate] }));
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
