//! What a restore costs, beside its limit: the LISTs of the same cluster and the same writes by a plain loop.
//!
//! `cargo bench --bench restore` starts a real API server on an etcd that waits for its disk, and runs the real binary:
//! over a disturbed cluster, over one that is as the backup, and over an empty one. It asserts that each restore did what it
//! should, and no time. Settings, by environment:
//!
//! - `REINBACK_BENCH_ROUNDS` (1): disturbed and unchanged runs in turn; medians are printed.
//! - `REINBACK_BENCH_EMPTY` (1): runs into an empty cluster, each on one of its own.
//! - `REINBACK_BENCH_MEMORY` (0): runs of 100,000 objects, and of 300 Secrets of 700 KiB, for their peak memory; some 5 minutes.
//! - `REINBACK_BENCH_WRAP`: a command that the binary is run by, such as `perf record -g -o /tmp/perf.data`.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;

#[path = "../tests/it"]
#[expect(dead_code, unused_imports, reason = "the tests use what a measurement does not")]
mod parts {
    pub mod git_server;
    pub mod harness;
    pub mod world;
}
#[path = "restore/measured.rs"]
mod measured;
#[path = "restore/memory.rs"]
mod memory;
#[path = "restore/raw.rs"]
mod raw;
#[path = "restore/report.rs"]
mod report;

use harness::Options;
use harness::rancher::{self, Disturbance};
use measured::Measured;
use parts::{git_server, harness, world};
use raw::Limit;
use report::Part;
use world::{Filled, World};

/// 8,687 objects: 40 clusters, 320 projects, 300 users.
const LARGE: &str = "large-56488071-5e68-44dd-b5a1-2f0f8091f490-2026-11-23T05-59-47Z.tar.gz";
/// As the measurement of the rancher-backup operator, of 8,631 objects: 2,471 changed, 757 deleted, 200 to prune.
const DISTURBED: Disturbance = Disturbance { changed_percent: 29, deleted_percent: 9, added: 200, seed: 7 };
const ACCEPT: (&str, &str) = ("accept", "AlreadyRun, VersionMismatch, PruneShare, DownstreamReverts");

fn main() -> Result<()> {
    if !std::env::args().any(|arg| arg == "--bench") {
        println!("a measurement: cargo bench --bench restore");
        return Ok(());
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(measure())
}

async fn measure() -> Result<()> {
    let (rounds, empty) = (setting("REINBACK_BENCH_ROUNDS", 1)?, setting("REINBACK_BENCH_EMPTY", 1)?);
    println!("{}", report::machine());
    if rounds > 0 {
        existing(rounds).await?;
    }
    let (mut filled, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..empty {
        filled.push(into_empty().await?);
        plain.push(plainly_into_empty().await?);
    }
    report::scenario("into an empty cluster, first to last write beside creates", &filled, Part::Writing);
    report::beside_a_plain_loop(&filled, &plain);
    for _ in 0..setting("REINBACK_BENCH_MEMORY", 0)? {
        memory::measure().await?;
    }
    Ok(())
}

/// Disturbed and unchanged in turn, on one cluster.
async fn existing(rounds: u64) -> Result<()> {
    let world = World::of(options(), LARGE, Filled::Restored).await;
    world.settle().await;
    let (mut plans, mut disturbed, mut unchanged) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let disturbance = Disturbance { seed: DISTURBED.seed + round, ..DISTURBED };
        let done = rancher::disturb(&world.client, &world.items, disturbance).await?;
        world.commit_restore(&format!("disturbed-{round}"), &[ACCEPT], "  prune: true\n");
        let plan = measured::plan(&world).await?;
        let measured = Measured::run(&world, &format!("disturbed-{round}"), "Succeeded").await?;
        let limit = Limit::measure(&world, &done).await?;
        println!("  {}", report::plan_line(plan, &limit));
        plans.push((plan, limit.clone()));
        let differences = world.differences().await;
        ensure!(differences.is_empty(), "not restored: {:?}", &differences[..differences.len().min(5)]);
        println!("  {}", report::line(&measured, &limit));
        disturbed.push((measured, limit.clone()));

        world.commit_restore(&format!("unchanged-{round}"), &[ACCEPT], "  prune: true\n");
        let measured = Measured::run(&world, &format!("unchanged-{round}"), "NothingToDo").await?;
        ensure!(measured.requests.writes == 0, "an unchanged cluster was written to: {:?}", measured.first_writes);
        println!("  {}", report::line(&measured, &limit));
        unchanged.push((measured, limit));
    }
    report::plans(&plans);
    report::scenario("40 % disturbed, first to last write beside LISTs and writes", &disturbed, Part::Writing);
    report::scenario("unchanged, whole run beside LISTs", &unchanged, Part::Whole);
    Ok(())
}

/// Everything is made: as after a disaster, or on a new cluster.
async fn into_empty() -> Result<(Measured, Limit)> {
    let world = World::of(options(), LARGE, Filled::RancherOnly).await;
    world.settle().await;
    world.commit_restore("empty", &[ACCEPT], "  prune: false\n");
    let measured = Measured::run(&world, "empty", "Succeeded").await?;
    let differences = world.differences().await;
    ensure!(differences.is_empty(), "not restored: {:?}", &differences[..differences.len().min(5)]);
    let limit = Limit::measure(&world, &rancher::Disturbed::default()).await?;
    println!("  {}", report::line(&measured, &limit));
    Ok((measured, limit))
}

/// A plain loop that makes the same objects in an empty cluster: what creates cost on a server that has just learned all
/// definitions, and whose controllers see every namespace and account for the first time.
async fn plainly_into_empty() -> Result<Duration> {
    let world = World::of(options(), LARGE, Filled::RancherOnly).await;
    world.settle().await;
    let began = Instant::now();
    rancher::seed_objects(&world.client, &world.items).await?;
    let took = began.elapsed();
    println!("  a plain loop: {:.2} s for {} objects", took.as_secs_f64(), world.items.len());
    Ok(took)
}

/// As a cluster that is not a test's: etcd waits for the disk, controllers watch.
fn options() -> Options {
    Options { fsync: true, ..Options::default() }
}

fn setting(name: &str, default: u64) -> Result<u64> {
    Ok(std::env::var(name).map_or(Ok(default), |text| text.parse())?)
}

/// The run of this manifest, as the cluster has it.
async fn run_of(world: &World, manifest: &str) -> Result<Value> {
    let request = http::Request::get("/apis/reinback.io/v1alpha1/namespaces/reinback-system/runs").body(Vec::new())?;
    let runs: Value = world.client.request(request).await?;
    let found = runs["items"].as_array().into_iter().flatten().find(|run| run["spec"]["manifest"]["name"] == manifest);
    found.cloned().ok_or_else(|| anyhow::anyhow!("there is no run of {manifest}"))
}
