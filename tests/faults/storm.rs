//! The fault storm: a restore in the middle of everything that can go wrong, by seed.
//!
//! Whatever happens, what [`Watchdog`] checks after each effect holds at every moment, and the run ends within its bounds
//! in a terminal phase with a reason. A seed that fails is played again by the command that the failure prints.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use reinback::cluster::{Limits, Preconditions, Target};
use reinback::git::FileEdit;
use reinback::object::Resource;
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::invariants::{Watchdog, assert_status_is_truthful, outcome};
use crate::memory_git::{SOURCE, STATUS};
use crate::process::Process;
use crate::simulated;
use crate::stage::{BOUND, Ended, Stage};
use crate::stand_in::{Phase, StandIn, Then};
use crate::weather::{Climate, Weather};

/// Seeds of one run of the tests; `REINBACK_SEEDS` sets another number, or the seeds themselves as `from..to`.
const SEEDS: u64 = 300;
/// How long it storms; a restore of the stage takes some seconds where it is calm.
const STORM: Duration = Duration::from_secs(90);

#[test]
fn whatever_goes_wrong_invariants_hold_at_every_moment_and_each_run_ends() {
    let seeds = seeds();
    let next = AtomicU64::new(seeds.start);
    let failed = std::sync::Mutex::new(Vec::new());
    let told = std::sync::Mutex::new(std::collections::BTreeMap::<String, usize>::new());
    std::thread::scope(|scope| {
        for _ in 0..crate::threads() {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    match std::panic::catch_unwind(AssertUnwindSafe(|| simulated(story(seed)))) {
                        Ok(end) => *told.lock().expect("no test panics here").entry(end).or_default() += 1,
                        Err(_) => failed.lock().expect("no test panics here").push(seed),
                    }
                }
            });
        }
    });
    println!("{} seeds: {:?}", seeds.end - seeds.start, told.into_inner().expect("no test panics here"));
    let failed = failed.into_inner().expect("no test panics here");
    let again =
        |seed: &u64| format!("REINBACK_SEEDS={seed}..{} cargo test --test faults storm -- --nocapture", seed + 1);
    assert!(
        failed.is_empty(),
        "{} seeds failed; to play them again:\n{}",
        failed.len(),
        failed.iter().map(again).collect::<Vec<_>>().join("\n")
    );
}

fn seeds() -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("REINBACK_SEEDS") else { return 0..SEEDS };
    let number = |text: &str| text.parse::<u64>().unwrap_or_else(|error| panic!("REINBACK_SEEDS={text}: {error}"));
    match text.split_once("..") {
        Some((from, to)) => number(from)..number(to),
        None => 0..number(&text),
    }
}

/// What somebody or something does in the middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Incident {
    ClusterGone,
    GitGone,
    StoreGone,
    KillTheAgent,
    SecondAgent,
    ObjectChanged,
    ObjectDeleted,
    RunDeleted,
    LeaseDeleted,
    ManifestTimeoutEdited,
    ManifestChanged,
    ManifestReverted,
    NewerManifest,
    UnacceptedManifest,
    HistoryRewritten,
    StatusPushedByOthers,
    RancherScaledUp,
    BackupReplaced,
}

const INCIDENTS: [Incident; 18] = [
    Incident::ClusterGone,
    Incident::GitGone,
    Incident::StoreGone,
    Incident::KillTheAgent,
    Incident::SecondAgent,
    Incident::ObjectChanged,
    Incident::ObjectDeleted,
    Incident::RunDeleted,
    Incident::LeaseDeleted,
    Incident::ManifestTimeoutEdited,
    Incident::ManifestChanged,
    Incident::ManifestReverted,
    Incident::NewerManifest,
    Incident::UnacceptedManifest,
    Incident::HistoryRewritten,
    Incident::StatusPushedByOthers,
    Incident::RancherScaledUp,
    Incident::BackupReplaced,
];

/// Gives how it ended, in a word.
async fn story(seed: u64) -> String {
    let _told = std::env::var_os("REINBACK_TELL").map(|_| {
        let builder = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_ansi(false)
            .with_writer(std::io::stderr)
            .without_time();
        tracing::subscriber::set_default(builder.finish())
    });
    let mut rng = StdRng::seed_from_u64(seed);
    let stage = Arc::new(match seed % 6 {
        2 => Stage::rolling_back(seed).await,
        // The operator is another process, and the weather is not its.
        5 => Stage::operated_rolling_back(seed).await,
        _ => Stage::new(seed).await,
    });
    let climate = Climate {
        cluster: *[0, 5, 20, 60].choose(&mut rng).expect("there are some"),
        git: *[0, 50, 200].choose(&mut rng).expect("there are some"),
        store: *[0, 100, 400].choose(&mut rng).expect("there are some"),
        denials: *[0, 0, 0, 5, 100].choose(&mut rng).expect("there are some"),
    };
    let count = rng.random_range(0..5);
    let mut incidents: Vec<(Duration, Incident)> = (0..count)
        .map(|_| {
            (Duration::from_millis(rng.random_range(0..30_000)), *INCIDENTS.choose(&mut rng).expect("there are some"))
        })
        .collect();
    incidents.sort_by_key(|(at, _)| *at);
    println!("seed {seed}: {climate:?} {incidents:?}");
    let weather = Weather::of(seed, climate);
    let watchdog = Watchdog::new(&stage);
    let _operator = match seed % 6 {
        5 => Some(mortal_operator(&stage, &watchdog, seed).await),
        _ => None,
    };
    stage.merge("back", "");
    Storm { stage: Arc::clone(&stage), weather: weather.clone(), watchdog: watchdog.clone(), agents: Vec::new() }
        .rage(&incidents, &mut rng)
        .await;
    weather.calm_down();
    let ended = calm(&stage, &watchdog).await;
    watchdog.check("the end");
    assert_status_is_truthful(&stage);
    println!("seed {seed} ended: {}", stage.told());
    if stage.rolls_back && stage.runs().iter().any(|run| outcome(run).0 == "Succeeded") {
        assert_eq!(stage.rancher_image(), "rancher/rancher:v2.9.3");
    }
    watchdog.assert_ended_well(&incidents.iter().map(|(_, incident)| format!("{incident:?}")).collect::<Vec<_>>());
    ended
}

/// It runs, and dies at some of its phases, to be started again.
async fn mortal_operator(stage: &Stage, watchdog: &Watchdog, seed: u64) -> StandIn {
    // Of its own, so that what else befalls a seed is the same without it.
    let mut rng = StdRng::seed_from_u64(!seed);
    let operator = crate::operator::install(stage, &watchdog.operator()).await;
    for _ in 0..rng.random_range(0..3) {
        let phase = *Phase::ALL.choose(&mut rng).expect("there are some");
        let after = Duration::from_millis(rng.random_range(0..120_000));
        println!("seed {seed}: the operator dies before {phase:?} for {after:?}");
        operator.script().die(phase, Then::Restarts(after));
    }
    operator
}

#[test]
fn when_somebody_deletes_the_lease_no_two_agents_write() {
    for millis in (200..4000).step_by(400) {
        simulated(async {
            let stage = Arc::new(Stage::new(millis).await);
            let watchdog = Watchdog::new(&stage);
            stage.merge("back", "");
            let (weather, agents) = (Weather::calm(), Vec::new());
            let mut storm = Storm { stage: Arc::clone(&stage), weather, watchdog: watchdog.clone(), agents };
            storm.start_agent();
            sleep(Duration::from_millis(millis)).await;
            stage.delete_lease().await;
            storm.start_agent();
            sleep(STORM).await;
            storm.agents.iter().for_each(|(process, _)| process.kill());
            calm(&stage, &watchdog).await;
            watchdog.assert_ended_well(&[]);
        });
    }
}

struct Storm {
    stage: Arc<Stage>,
    weather: Weather,
    watchdog: Watchdog,
    agents: Vec<(Process, tokio::task::JoinHandle<()>)>,
}

impl Storm {
    async fn rage(mut self, incidents: &[(Duration, Incident)], rng: &mut StdRng) {
        let began = tokio::time::Instant::now();
        self.start_agent();
        for (at, incident) in incidents {
            tokio::time::sleep_until(began + *at).await;
            self.happen(*incident, rng).await;
        }
        tokio::time::sleep_until(began + STORM).await;
        for (process, task) in self.agents {
            process.kill();
            task.abort();
        }
    }

    fn start_agent(&mut self) {
        let process = self.watchdog.process(self.weather.clone());
        let mut agent = self.stage.agent(&process);
        let dying = process.clone();
        let task = tokio::spawn(async move {
            tokio::select! {
                biased;
                () = dying.until_dead() => {}
                () = agent.watch() => {}
            }
        });
        self.agents.push((process, task));
    }

    async fn happen(&mut self, incident: Incident, rng: &mut StdRng) {
        let stage = Arc::clone(&self.stage);
        let long = Duration::from_secs(rng.random_range(1..400));
        match incident {
            Incident::ClusterGone => self.weather.take_cluster_away(long),
            Incident::GitGone => self.weather.take_git_away(long),
            Incident::StoreGone => self.weather.take_store_away(long),
            Incident::KillTheAgent => {
                for (process, task) in self.agents.drain(..) {
                    process.kill();
                    task.abort();
                }
                sleep(Duration::from_millis(rng.random_range(0..20_000))).await;
                self.start_agent();
            }
            Incident::SecondAgent => self.start_agent(),
            Incident::ObjectChanged => {
                person(&stage, "settings", "agent-image", Some(json!({"value": "by hand"}))).await
            }
            Incident::ObjectDeleted => person(&stage, "settings", "install-uuid", None).await,
            Incident::RunDeleted => stage.delete_runs().await,
            Incident::LeaseDeleted => stage.delete_lease().await,
            Incident::ManifestTimeoutEdited => stage.merge("back", "    reinback.io/timeout: 45m\n"),
            Incident::ManifestChanged => {
                stage.merge("back", "    reinback.io/requested-at: \"2026-11-23T03:30:00Z\"\n")
            }
            Incident::ManifestReverted => stage.push("clusters/sim/back.yaml", None),
            Incident::NewerManifest => stage.merge("newer", "    reinback.io/requested-at: \"2026-11-23T03:31:00Z\"\n"),
            // Gates hold it until its time is over.
            Incident::UnacceptedManifest => stage.merge_accepting("unaccepted", "PruneShare", ""),
            Incident::HistoryRewritten => stage.git.rewrite(SOURCE, stage.now()),
            Incident::StatusPushedByOthers => {
                let edit = FileEdit { path: "notes.md".to_owned(), content: Some(b"kept\n".to_vec()) };
                stage.git.commit(STATUS, "grace", "Take a note", stage.now(), &[edit]);
            }
            Incident::RancherScaledUp => {
                self.watchdog.rancher_is_run_by_hand();
                stage.scale_rancher_up().await;
            }
            Incident::BackupReplaced => stage.replace_backup(),
        }
    }
}

/// A person changes or deletes one object of the backup.
async fn person(stage: &Stage, plural: &str, name: &str, change: Option<serde_json::Value>) {
    let writer = stage.sim.cluster(Limits::default()).writer();
    let resource = Resource::new("management.cattle.io", "v3", plural);
    let target = Target::new(&resource, None, name);
    let _ = match change {
        Some(change) => writer.merge_patch(&target, &change).await,
        None => writer.delete(&target, Preconditions::default(), None, None).await,
    };
}

/// Agents pass until nothing is left to be done, and nothing goes wrong any more.
async fn calm(stage: &Stage, watchdog: &Watchdog) -> String {
    let calm = async {
        loop {
            let process = watchdog.process(Weather::calm());
            let ended = stage.once(&process).await.unwrap_or_else(|stuck| panic!("{stuck:?}"));
            let open = stage
                .runs()
                .iter()
                .map(outcome)
                .any(|(phase, _)| matches!(phase.as_str(), "Running" | "Pending" | "Held"));
            match ended {
                Ended::Passed(passed) if !passed.busy && !open => return,
                Ended::Passed(_) | Ended::Broken(_) => sleep(Duration::from_secs(60)).await,
                Ended::Died => panic!("nobody killed it"),
            }
        }
    };
    timeout(BOUND, calm)
        .await
        .unwrap_or_else(|_| panic!("not ended: {:?}", stage.runs().iter().map(outcome).collect::<Vec<_>>()));
    let mut ends: Vec<String> =
        stage.runs().iter().map(outcome).map(|(phase, reason)| format!("{phase}/{reason}")).collect();
    ends.sort();
    ends.join(" ")
}
