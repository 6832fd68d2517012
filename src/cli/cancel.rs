//! `reinback cancel`: stops a run that has not written anything yet.

use std::io::{self, Write};
use std::time::Duration;

use anyhow::Context;

use super::Exit;
use super::agent::LeaseArgs;
use super::run::{Here, HereArgs, user};
use super::status::{find, no_run};
use crate::config::ConfigArgs;
use crate::journal::Journal;
use crate::run::{Phase, Run};
use crate::status::newest_first;

/// Stop a run before its first write, and give replicas back
///
/// A run that an agent carries out hears of it at its next step; one that is held, or that nobody is at, is ended here. After the
/// first write a run goes on to its end: half of it is no state to stop in.
/// Exits 0 when it is cancelled, 1 when it cannot be any more or on an error.
#[derive(Debug, clap::Args)]
pub struct CancelArgs {
    /// Name of a run, or of a manifest: its newest run
    name: String,
    #[command(flatten)]
    config: ConfigArgs,
    /// Context of the kubeconfig
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    #[command(flatten)]
    lease: LeaseArgs,
}

/// How long a run may take to hear of it. The longest step before the first write waits for pods, which may take six minutes.
const WITHIN: Duration = Duration::from_secs(420);
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// # Errors
///
/// When there is no such run, it cannot be cancelled any more, or Git or the cluster cannot be used.
pub async fn cancel(args: CancelArgs) -> anyhow::Result<Exit> {
    let CancelArgs { name, config, context, lease } = args;
    let mut here = Here::open(HereArgs { config, yes: true, context, install_crd: false, lease }).await?;
    let by = user();
    let end = tokio::time::Instant::now() + WITHIN;
    loop {
        let books = here.books().await?;
        let runs: Vec<Run> = books.runs.values().cloned().collect();
        let run = find(&newest_first(&runs), &name).with_context(|| no_run(&name))?;
        let own_name = run.metadata.name.as_deref().unwrap_or_default();
        match standing(run) {
            Standing::Cancelled => {
                writeln!(io::stdout(), "{own_name} is cancelled")?;
                return Ok(Exit::Done);
            }
            Standing::Ended { phase, wrote: true } => anyhow::bail!(
                "{own_name} has ended {phase:?}: there is nothing to cancel; `reinback undo {name}` goes back to what was before it"
            ),
            Standing::Ended { phase, wrote: false } => {
                anyhow::bail!("{own_name} has ended {phase:?}, and has changed nothing: there is nothing to cancel")
            }
            Standing::Written => anyhow::bail!(
                "{own_name} has begun to write, and goes on to its end, since half of it is no state to stop in; `reinback undo \
                 {name}` goes back to what was before it, once it has ended"
            ),
            Standing::Open => here.cancel(run, &by).await?,
        }
        anyhow::ensure!(
            tokio::time::Instant::now() < end,
            "{own_name} has not heard of it within {} s; it is asked to stop before its first write",
            WITHIN.as_secs()
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

enum Standing {
    Open,
    /// Something was changed.
    Written,
    Cancelled,
    Ended {
        phase: Phase,
        /// Something was changed.
        wrote: bool,
    },
}

fn standing(run: &Run) -> Standing {
    let status = run.status.clone().unwrap_or_default();
    let wrote = Journal::from(status.journal).first_write_begun();
    match status.phase {
        Phase::Cancelled => Standing::Cancelled,
        phase if phase.is_terminal() => Standing::Ended { phase, wrote },
        _ if wrote => Standing::Written,
        _ => Standing::Open,
    }
}
