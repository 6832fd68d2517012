//! `reinback demo`: the whole story on a cluster that is not there.

use std::io::{self, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::{Exit, stop_signal};
use crate::demo::{self, Options, STATUS};
use crate::execute::stopped;

/// Show a rollback from the merge to the end, on a simulated cluster
///
/// Takes some ten seconds, and needs no cluster and no network: repository, backup and agent are real, and lie in a
/// temporary folder. Exits 0 when all came out as it should, else 1.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// Leave the folder, and say what to look at
    #[arg(long)]
    keep: bool,
    /// Wait for Enter between the acts
    #[arg(long)]
    pause: bool,
    /// From which names, UIDs and delays of the simulated cluster come
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

/// # Errors
///
/// When the story does not end as it should, or no folder can be made.
pub async fn demo(args: DemoArgs) -> anyhow::Result<Exit> {
    let DemoArgs { keep, pause, seed } = args;
    let stop = stop_signal()?;
    let folder = tempfile::Builder::new().prefix("reinback-demo-").tempdir().context("cannot make a folder")?;
    tokio::select! {
        played = demo::play(folder.path(), Options { seed, pause }) => played.context("the demo did not come to its end")?,
        () = stopped(stop) => {
            let folder = folder.keep();
            match remove(&folder).await {
                true => writeln!(io::stderr(), "stopped")?,
                false => writeln!(io::stderr(), "stopped; {} could not be removed", folder.display())?,
            }
            return Ok(Exit::Failed);
        }
    }
    if keep {
        tell_what_is_left(&folder.keep())?;
    }
    Ok(Exit::Done)
}

/// How long what was under way on other threads may go on writing into the folder.
const REMOVED_WITHIN: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(20);

/// Removes the folder while Git or a backup may still be written into it by a thread that nobody can stop. False when it stays.
async fn remove(folder: &Path) -> bool {
    let end = Instant::now() + REMOVED_WITHIN;
    let mut removed = false;
    while Instant::now() < end {
        let is_gone = match std::fs::remove_dir_all(folder) {
            Ok(()) => true,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        // Twice in a row: a folder may be made anew.
        if is_gone && removed {
            return true;
        }
        removed = is_gone;
        tokio::time::sleep(PAUSE).await;
    }
    false
}

fn tell_what_is_left(folder: &Path) -> io::Result<()> {
    let folder = folder.display();
    let git = format!("git -C {folder}/rancher.git");
    writeln!(
        io::stdout(),
        "\nThe folder stays. To look around in it:\n\
         \n    {git} log --stat {STATUS}\
         \n    {git} show {STATUS}:README.md\
         \n    {git} show main:clusters/prod/before-the-upgrade.yaml | reinback check -\
         \n    tar -tzf {folder}/backups/*.tar.gz\
         \n    rm -r {folder}"
    )
}
