//! `reinback status`: runs, from the cluster and from Git.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use serde_json::json;

use super::{Exit, Output, reach};
use crate::agent::ledger::{Books, list_runs};
use crate::clock::Clock;
use crate::config::{Config, ConfigArgs};
use crate::publish::Publisher;
use crate::run::Run;
use crate::status::{newest_first, render_one, render_table};

/// Show runs, newest first, or one run whole
///
/// With a configuration, runs that only Git knows are shown, too. Exits 0, or 1 on an error.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Name of a run, or of a manifest: its newest run
    name: Option<String>,
    /// Text for people, or JSON for programs
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// Show again whenever something changes
    #[arg(short, long)]
    watch: bool,
    /// Context of the kubeconfig
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

const WATCH_EVERY: Duration = Duration::from_secs(2);

/// # Errors
///
/// When neither cluster nor Git can be read, or there is no run of that name.
pub async fn status(args: StatusArgs) -> anyhow::Result<Exit> {
    let StatusArgs { config, name, output, watch, context } = args;
    let configured = config.file.is_some() || !config.overrides.is_empty();
    let config = configured.then(|| Config::load(&config)).transpose()?;
    let cluster = reach(context.as_deref(), config.as_ref()).await?;
    let folder = tempfile::Builder::new().prefix("reinback-status-").tempdir().context("cannot make a folder")?;
    let books = match config {
        Some(mut config) => {
            folder.path().clone_into(&mut config.data_dir);
            let publisher = Publisher::start(Box::new(crate::agent::status_branch(&config)?), Clock::system());
            Some((config, publisher))
        }
        None => None,
    };
    let mut shown = String::new();
    loop {
        let runs = match &books {
            Some((config, publisher)) => {
                Books::read_or_new(&cluster.reader(), publisher, config).await?.runs.into_values().collect()
            }
            None => list_runs(&cluster.reader()).await?,
        };
        let text = render(&runs, name.as_deref(), output)?;
        if text != shown {
            std::io::stdout().lock().write_all(text.as_bytes())?;
            shown = text;
        }
        if !watch {
            return Ok(Exit::Done);
        }
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

fn render(runs: &[Run], name: Option<&str>, output: Output) -> anyhow::Result<String> {
    let runs = newest_first(runs);
    let chosen: Vec<Run> = match name {
        None => runs.into_iter().cloned().collect(),
        Some(name) => vec![find(&runs, name).with_context(|| no_run(name))?.clone()],
    };
    Ok(match (output, name) {
        (Output::Json, _) => format!("{:#}\n", json!({ "runs": chosen })),
        (Output::Text, Some(_)) => chosen.iter().map(|run| render_one(run, Timestamp::now())).collect(),
        (Output::Text, None) => render_table(&chosen, Timestamp::now(), width()),
    })
}

/// A run by its own name, else the newest of a manifest.
pub(super) fn find<'a>(newest_first: &[&'a Run], name: &str) -> Option<&'a Run> {
    let own = newest_first.iter().find(|run| run.metadata.name.as_deref() == Some(name));
    own.or_else(|| newest_first.iter().find(|run| run.spec.manifest.name == name)).copied()
}

/// What there is none of, and where the names are.
pub(super) fn no_run(name: &str) -> String {
    format!(
        "there is no run or manifest {name:?}; `reinback status` lists what there is, with --config also what only Git knows"
    )
}

fn width() -> usize {
    match std::io::stdout().is_terminal() {
        true => 120,
        false => 200,
    }
}
