//! Restores of one cluster, round after round, each killed wherever chance has it; and etcd lost in the middle.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::harness::rancher::{self, Disturbance};
use crate::killed::SLOWLY;
use crate::process::{DISTURBED, Moment, Process, Round, forget_holder, phase, run_of};
use crate::world::World;

/// Slow enough that most kills hit a run, fast enough for many rounds.
const BRISKLY: &[&str] = &["--limits-qps", "120"];
const ROUNDS: u64 = 5;
/// One round a second of the minute that `requested-at` counts.
const LONG_ROUNDS: u64 = 50;
const MOST_KILLS: u32 = 3;
/// A restore at that pace, with its start, takes some 6 s.
const LONGEST_LIFE_MS: u64 = 3_000;

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_random_moments_every_round_comes_to_the_same_end() {
    let seed = seed();
    println!("to play it again: REINBACK_SEED={seed} cargo test --test it rounds::killed -- --nocapture");
    let mut rng = StdRng::seed_from_u64(seed);
    let world = World::start().await;
    world.settle().await;
    let rounds = if std::env::var_os("REINBACK_LONG").is_some() { LONG_ROUNDS } else { ROUNDS };
    let mut hits = 0;
    for number in 0..rounds {
        let disturbance = Disturbance { seed: rng.random(), ..DISTURBED };
        let disturbed = rancher::disturb(&world.client, &world.items, disturbance).await.expect("disturbed");
        let manifest = format!("round-{number:02}");
        let round = Round::merge(&world, &manifest, 10 + number, &[], "", disturbed).await;
        for _ in 0..rng.random_range(1..=MOST_KILLS) {
            let agent = Process::start(&world, BRISKLY);
            // A slow machine needs seconds until there is a run at all: half of the lives count from then.
            if rng.random() {
                round.reach(&Moment::Planned).await;
            }
            let life = Duration::from_millis(rng.random_range(100..LONGEST_LIFE_MS));
            tokio::time::sleep(life).await;
            agent.kill();
            forget_holder(&world).await;
            let found = run_of(&world, &manifest).await.map(|run| phase(&run).to_owned()).unwrap_or_default();
            println!("{manifest}: killed after {life:?}, the run was {found:?}");
            hits += u32::from(found == "Running");
        }
        let agent = Process::start(&world, &[]);
        round.judge(Duration::ZERO).await;
        round.judge_status_branch().await;
        agent.kill();
        forget_holder(&world).await;
    }
    assert!(hits > 0, "no kill hit a run");
}

/// `REINBACK_SEED`, or another one each time.
fn seed() -> u64 {
    match std::env::var("REINBACK_SEED") {
        Ok(text) => text.parse().expect("REINBACK_SEED is a number"),
        Err(_unset) => u64::from(rand::random::<u32>()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_dies_in_the_middle_is_outlived() {
    let world = World::start().await;
    world.settle().await;
    let round = Round::begin(&world, "etcd", 15).await;
    let once = Process::start(&world, &[SLOWLY, &["--once"]].concat());
    round.reach(&Moment::Written(30)).await;
    world.cluster.kill_etcd();
    // kube-apiserver lives on, and fails requests instead of refusing connections: at once, when its etcd client has given up
    // after some 3 s, or when the 30 s are over that a write gives it. The agent loses its lease after 10 s and goes on with
    // the run when it has it again.
    let is_failed_write = |event: &crate::harness::AuditEvent| {
        event.user_agent.starts_with("reinback/") && event.writes() && event.response_status.code >= 500
    };
    let met = async || {
        while !world.cluster.audit_of_ours(round.mark).iter().any(is_failed_write) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), met()).await.expect("a write meets the loss");
    tokio::task::block_in_place(|| world.cluster.restart_etcd());
    assert_eq!(once.ended(Duration::from_secs(180)).await.code(), Some(0));
    round.judge(Duration::ZERO).await;
    round.judge_status_branch().await;
}
