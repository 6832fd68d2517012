//! A whole restore whose source, status branch and backup lie behind connections that break, by seed.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;

use crate::git_server::{self, GitServer, git, try_git};
use crate::harness::rancher::{self, Disturbance};
use crate::process::{DISTURBED, Process, Round, forget_holder};
use crate::proxy::{Fault, Proxy};
use crate::s3_server::{ACCESS_KEY, S3Server, SECRET_KEY};
use crate::world::World;

const SEEDS: u64 = 3;
const LONG_SEEDS: u64 = 30;
/// Connections that a fault may hit; those after them are left alone, so that each seed comes to an end.
const WEATHER: usize = 24;
const BUCKET: &str = "sockets";

/// Faults for the next connections, on which come answers of about `answer` bytes to requests of about `request`: the
/// first one breaks, and of the others two in five.
fn weather(rng: &mut StdRng, answer: u64, request: u64) -> Vec<Fault> {
    let fault = |number: usize| match if number == 0 { 0 } else { rng.random_range(0..10) } {
        0 => Fault::CutAfter(rng.random_range(1..answer)),
        1 => Fault::CutRequestAfter(rng.random_range(1..request)),
        2 => Fault::Refuse,
        3 => Fault::Delay(Duration::from_millis(rng.random_range(10..400))),
        _ => Fault::None,
    };
    (0..WEATHER).map(fault).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_over_connections_that_break_brings_everything_back_and_tells_it_once() {
    let world = World::start().await;
    world.settle().await;
    git(&world.remote(), &["config", "core.logAllRefUpdates", "always"]);
    let git_server = GitServer::start(git_server::Options::default());
    git_server.serve("remote.git", &world.remote());
    let git_proxy = Proxy::start(git_server.address(), [], Fault::None);
    let s3_server = S3Server::plain();
    s3_server.bucket(BUCKET);
    let backup = std::fs::read(world.store().join(&world.backup)).expect("the backup");
    s3_server.place(BUCKET, &world.backup, &backup);
    let s3_proxy = Proxy::start(s3_server.address, [], Fault::None);
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys", "namespace": "default"},
        "stringData": {"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY},
    });
    world.cluster.kubectl(&["apply", "-f", "-"], &secret.to_string()).expect("the Secret is taken");
    let url = format!("http://localhost:{}/remote.git", git_proxy.address.port());
    let location = format!(
        "  storageLocation:\n    s3: {{endpoint: \"http://{}\", bucketName: {BUCKET}, region: us-east-1, \
         credentialSecretName: keys, credentialSecretNamespace: default, clientConfig: {{bucketLookup: path}}}}\n",
        s3_proxy.address
    );
    let seeds = if std::env::var_os("REINBACK_LONG").is_some() { LONG_SEEDS } else { SEEDS };
    for seed in 0..seeds {
        let mut rng = StdRng::seed_from_u64(seed);
        let (of_git, of_s3) = (weather(&mut rng, 3_000, 3_000), weather(&mut rng, backup.len() as u64, 600));
        println!("seed {seed}: Git {of_git:?}, S3 {of_s3:?}");
        let disturbance = Disturbance { seed, ..DISTURBED };
        let disturbed = rancher::disturb(&world.client, &world.items, disturbance).await.expect("disturbed");
        let manifest = format!("broken-{seed:02}");
        let round = Round::merge(&world, &manifest, 10 + seed, &[], &location, disturbed).await;
        let before = [&git_proxy, &s3_proxy].map(Proxy::disturbed);
        git_proxy.set(of_git, Fault::None);
        s3_proxy.set(of_s3, Fault::None);
        let agent = Process::start(&world, &["--source-url", &url]);
        round.judge(Duration::ZERO).await;
        round.judge_status_branch().await;
        agent.kill();
        forget_holder(&world).await;
        let hits = [git_proxy.disturbed() - before[0], s3_proxy.disturbed() - before[1]];
        println!("seed {seed}: {hits:?} connections were disturbed");
        assert!(hits.iter().all(|hits| *hits > 0), "seed {seed} disturbed {hits:?} connections to Git and S3");
    }
    assert_nothing_forced(&world);
}

/// Panics where the status branch ever moved to a commit that does not stand on the one before.
fn assert_nothing_forced(world: &World) {
    let moves = git(&world.remote(), &["reflog", "show", "--format=%H", "refs/heads/reinback/test"]);
    let tips: Vec<&str> = moves.lines().collect();
    assert!(tips.len() > 3, "the branch has a log: {tips:?}");
    for pair in tips.windows(2) {
        let (stands, _) = try_git(&world.remote(), &["merge-base", "--is-ancestor", pair[1], pair[0]]);
        assert!(stands, "{} was pushed over {}", pair[0], pair[1]);
    }
}
