//! `reinback agent`: watches until stopped.

use std::time::Duration;

use anyhow::Context;

use super::{Exit, connect, stop_signal};
use crate::agent::{Agent, Options, Passed};
use crate::cluster::LeaseTimes;
use crate::config::{Config, ConfigArgs};
use crate::helm::Access;

/// How long stopping may take; whatever it interrupts is gone on with by the next start.
const STOP_WITHIN: Duration = Duration::from_secs(9);

/// Watch the source, carry out what is merged, and report back to Git
///
/// Exits 0 when stopped. With --once: 0 when nothing is left to do, 3 when something is held, 1 when a run failed or on an error.
#[derive(Debug, clap::Args)]
pub struct AgentArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Make one pass: fetch, run to the end what may run, push the status
    #[arg(long)]
    once: bool,
    /// Context of the kubeconfig
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// Install or update the definition of Run
    #[arg(long)]
    install_crd: bool,
    #[command(flatten)]
    lease: LeaseArgs,
}

/// The times of the lease that keeps two agents apart.
#[derive(Debug, Clone, clap::Args)]
pub struct LeaseArgs {
    /// How long the lease holds without a renewal, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(3..=600))]
    lease_duration: u64,
    /// How often the lease is renewed, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=200))]
    lease_renew: u64,
}

impl LeaseArgs {
    /// # Errors
    ///
    /// When the lease would run out between two renewals.
    pub fn times(&self) -> anyhow::Result<LeaseTimes> {
        let Self { lease_duration, lease_renew } = *self;
        anyhow::ensure!(
            lease_renew * 2 <= lease_duration,
            "--lease-renew {lease_renew} is too seldom for --lease-duration {lease_duration}; give at most half of it"
        );
        let duration = Duration::from_secs(lease_duration);
        Ok(LeaseTimes {
            duration,
            renew_every: Duration::from_secs(lease_renew),
            renew_deadline: duration * 2 / 3,
            write_timeout: WRITE_TIMEOUT,
        })
    }
}

/// A write that was sent may be carried out as long as this later, and whoever takes the lease over waits for it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// # Errors
///
/// When the configuration, the caches or the cluster cannot be used; with `--once` also when the pass came to no end.
pub async fn agent(args: AgentArgs) -> anyhow::Result<Exit> {
    let AgentArgs { config, once, context, install_crd, lease } = args;
    let config = Config::load(&config)?;
    let helm = Access { kubeconfig: None, context: context.clone() };
    let options = Options { install_crd, helm, lease: lease.times()? };
    let stop = stop_signal()?;
    let cluster = connect(context.as_deref(), Some(&config)).await?;
    tracing::info!("watching {} for cluster {} at {}", config.source.url, config.cluster, cluster.api_url());
    let mut agent = Agent::open(config, cluster, options, stop.clone()).context("cannot open the caches")?;
    let mut asked = stop.clone();
    let patience = async move {
        let _ = asked.wait_for(|stop| *stop).await;
        tokio::time::sleep(STOP_WITHIN).await;
    };
    if once {
        return tokio::select! {
            passed = agent.once() => Ok(exit_of(passed?)),
            () = patience => Ok(Exit::Failed),
        };
    }
    tokio::select! {
        () = agent.watch() => {}
        () = patience => {}
    }
    Ok(Exit::Done)
}

/// Of several outcomes an error beats a hold.
fn exit_of(passed: Passed) -> Exit {
    let Passed { held, failed, invalid, busy, again: _ } = passed;
    if failed > 0 || invalid > 0 {
        return Exit::Failed;
    }
    if held > 0 || busy { Exit::Held } else { Exit::Done }
}
