//! `reinback undo`: back to what was before a run, by its safety backup.

use std::collections::BTreeSet;
use std::io::{self, Write};

use anyhow::Context;

use super::Exit;
use super::run::{Here, HereArgs, placed_here};
use super::status::{find, no_run};
use crate::agent::ledger::Books;
use crate::manifest::Manifest;
use crate::plan::gate::{GateClass, GateCode};
use crate::status::newest_first;
use crate::undo::{self, Asked};

/// Go back to what was before a run, by its safety backup
///
/// The plan, a question, then the run, as with `reinback run`; a version that the run set is set back, too. It counts as
/// newer than every commit. What came into the cluster after the run goes as well, so that its gates hold until they are
/// accepted here.
/// Exits 0 when it succeeded or had ended before, 3 when it is held or was not confirmed, 1 when it failed or on an
/// error.
#[derive(Debug, clap::Args)]
pub struct UndoArgs {
    /// Name of a run, or of a manifest: its newest run
    name: String,
    /// Gates to accept beside those that the run's manifest accepts
    #[arg(long, value_name = "CODE", value_delimiter = ',')]
    accept: Vec<GateCode>,
    /// Print the manifest that undoes it, ready to be committed, and do nothing
    #[arg(long)]
    print: bool,
    #[command(flatten)]
    here: HereArgs,
}

/// # Errors
///
/// When there is no such run, or nothing to undo it by; when the configuration, Git, the store or the cluster cannot be used.
pub async fn undo(args: UndoArgs) -> anyhow::Result<Exit> {
    let UndoArgs { name, accept, print, here } = args;
    let accept = acceptable(accept)?;
    let here = Here::open(here).await?;
    if print {
        let manifest = undone(&here.books().await?, &name, &accept)?;
        let text = undo::text(&manifest).context("the manifest cannot be written as YAML")?;
        io::stdout().lock().write_all(text.as_bytes())?;
        return Ok(Exit::Done);
    }
    here.run(|config, books| Ok(placed_here(undone(books, &name, &accept)?, config).undoing())).await
}

fn acceptable(codes: Vec<GateCode>) -> anyhow::Result<BTreeSet<GateCode>> {
    let refused = codes.iter().find(|code| code.class() != GateClass::Accept);
    match refused {
        Some(code) => anyhow::bail!("--accept: nobody can accept {code}; docs/gates.md says what takes it away"),
        None => Ok(codes.into_iter().collect()),
    }
}

fn undone(books: &Books, name: &str, accept: &BTreeSet<GateCode>) -> anyhow::Result<Manifest> {
    let runs: Vec<_> = books.runs.values().cloned().collect();
    let run = find(&newest_first(&runs), name).with_context(|| no_run(name))?;
    let mut manifest = undo::manifest(run, Asked::ByHand)?;
    manifest.options.accept.extend(accept);
    Ok(manifest)
}
