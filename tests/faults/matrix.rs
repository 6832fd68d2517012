//! The crash matrix: killed just before and just after each of its effects, a restore comes to the same end.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;

use crate::cluster_api::COMES_BACK;
use crate::invariants::{Watchdog, assert_status_is_truthful, is_of_the_backup, outcome};
use crate::process::{Death, Moment, Process};
use crate::simulated;
use crate::stage::{Ended, HELD_BACK, Stage};

const SEED: u64 = 1;
/// Pairs of deaths.
const TWICE: usize = 60;

/// Where a story ended.
struct End {
    picture: BTreeMap<String, Value>,
    /// What the backup held.
    saved: BTreeMap<String, Value>,
    /// Of the first process.
    effects: Vec<String>,
}

/// What is merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Merged {
    Restore,
    Rollback,
}

/// A run that dies at each of `deaths`, one process after the other, and is gone on with.
fn story(merged: Merged, deaths: &[Death]) -> End {
    simulated(async {
        let stage = match merged {
            Merged::Restore => Stage::new(SEED).await,
            Merged::Rollback => Stage::rolling_back(SEED).await,
        };
        let watchdog = Watchdog::new(&stage);
        // In the second in which the run is made.
        stage.put_setting("made-at-the-last-moment").await;
        stage.merge("back", "");
        let mut first = None;
        for death in deaths {
            let process = watchdog.mortal(Some(*death));
            let ended = stage.once(&process).await.expect("it ends");
            first.get_or_insert_with(|| process.effects());
            assert!(matches!(ended, Ended::Died | Ended::Passed(_)), "{ended:?}");
        }
        let last = watchdog.mortal(None);
        let ended = stage.once(&last).await.expect("it ends");
        assert!(
            matches!(ended, Ended::Passed(passed) if passed.failed == 0 && passed.held == 0),
            "{ended:?} {}",
            stage.told()
        );
        let runs: Vec<_> = stage.runs().iter().map(outcome).collect();
        assert_eq!(runs, [("Succeeded".to_owned(), "Succeeded".to_owned())], "{}", stage.told());
        assert_status_is_truthful(&stage);
        watchdog.check("the end");
        watchdog.assert_ended_well(&[]);
        End { picture: stage.picture(), saved: stage.saved.clone(), effects: first.unwrap_or_else(|| last.effects()) }
    })
}

#[track_caller]
fn assert_same(end: &End, undisturbed: &End) {
    for (key, object) in &undisturbed.picture {
        assert_eq!(end.picture.get(key), Some(object), "{key}");
    }
    let more: Vec<&String> = end.picture.keys().filter(|key| !undisturbed.picture.contains_key(*key)).collect();
    assert_eq!(more, Vec::<&String>::new());
}

#[test]
fn killed_before_or_after_any_of_its_effects_a_restore_comes_to_the_same_end() {
    let undisturbed = story(Merged::Restore, &[]);
    let count = undisturbed.effects.len();
    assert!(count > 60, "{count} effects");
    assert_restored(&undisturbed);
    assert_webhooks_come_last(&undisturbed.effects);
    let deaths = (0..count).flat_map(|at| [Moment::Before, Moment::After].map(|moment| vec![Death { at, moment }]));
    die_each(Merged::Restore, &undisturbed, &deaths.collect::<Vec<_>>());
}

/// From where it is another run than a restore: prune is its last step before.
#[test]
fn killed_before_or_after_any_effect_that_sets_the_version_a_rollback_comes_to_the_same_end() {
    let undisturbed = story(Merged::Rollback, &[]);
    let effects = &undisturbed.effects;
    let is_image = |effect: &&String| *effect == "PATCH /apis/apps/v1/namespaces/cattle-system/deployments/rancher";
    let patches = (0..effects.len()).filter(|at| is_image(&&effects[*at])).collect::<Vec<_>>();
    let [_, image, _, ..] = patches[..] else { panic!("scaled, set and given back: {patches:?} of {effects:#?}") };
    assert_eq!(rancher_image(&undisturbed), "rancher/rancher:v2.9.3");
    assert_restored(&undisturbed);
    let from = image - 12;
    let deaths =
        (from..effects.len()).flat_map(|at| [Moment::Before, Moment::After].map(|moment| vec![Death { at, moment }]));
    die_each(Merged::Rollback, &undisturbed, &deaths.collect::<Vec<_>>());
}

fn rancher_image(end: &End) -> &str {
    let rancher = &end.picture["deployments.apps/cattle-system/rancher"];
    rancher["spec"]["template"]["spec"]["containers"][0]["image"].as_str().expect("an image")
}

#[test]
fn killed_twice_a_restore_comes_to_the_same_end() {
    let undisturbed = story(Merged::Restore, &[]);
    let mut rng = StdRng::seed_from_u64(SEED);
    let mut death = || {
        let moment = *[Moment::Before, Moment::After].choose(&mut rng).expect("there are two");
        Death { at: rng.random_range(0..undisturbed.effects.len()), moment }
    };
    let pairs: Vec<Vec<Death>> = (0..TWICE).map(|_| vec![death(), death()]).collect();
    die_each(Merged::Restore, &undisturbed, &pairs);
}

#[test]
fn robbed_of_its_run_and_reverted_while_nobody_looks_it_leaves_rancher_up() {
    // The story has some more: what somebody makes at the last moment.
    let effects = simulated(async {
        let stage = Stage::new(SEED).await;
        stage.merge("back", "");
        let process = Process::calm(None);
        stage.once(&process).await.expect("it ends");
        process.effects()
    });
    assert!(effects.len() > 60, "{effects:#?}");
    for at in (0..effects.len()).step_by(4) {
        println!("{at}: {}", effects[at]);
        simulated(async {
            let stage = Stage::new(SEED).await;
            stage.merge("back", "");
            let ended = stage.once(&Process::calm(Some(Death { at, moment: Moment::After }))).await.expect("it ends");
            // After the last of them it may be over before it dies.
            let is_over = at + 1 == effects.len() && matches!(ended, Ended::Passed(_));
            assert!(is_over || matches!(ended, Ended::Died), "{ended:?}");
            stage.delete_runs().await;
            stage.push("clusters/sim/back.yaml", None);
            let ended = stage.once(&Process::calm(None)).await.expect("it ends");
            assert!(matches!(ended, Ended::Passed(passed) if passed.failed == 0), "{ended:?} {}", stage.told());
            let rancher = &stage.picture()["deployments.apps/cattle-system/rancher"];
            assert_eq!(rancher["spec"]["replicas"], 3, "{}", stage.told());
            assert_eq!(rancher["metadata"]["annotations"], Value::Null, "{}", stage.told());
        });
    }
}

/// Nothing that is written after it passes a webhook of the backup.
fn assert_webhooks_come_last(effects: &[String]) {
    let made = format!("POST /apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations {COMES_BACK}");
    let after = effects.iter().skip_while(|effect| **effect != made).skip(1);
    let writes = |effect: &&String| is_of_the_backup(effect) && ["POST", "PUT"].iter().any(|of| effect.starts_with(of));
    assert!(effects.contains(&made), "{effects:#?}");
    assert_eq!(after.filter(writes).collect::<Vec<_>>(), Vec::<&String>::new());
}

/// All of the backup is there as it was, and what only the newer version had is not.
fn assert_restored(end: &End) {
    assert!(end.saved.len() > 40, "{} objects in the backup", end.saved.len());
    for (key, object) in &end.saved {
        assert_eq!(end.picture.get(key), Some(object), "{key}");
    }
    let newer = [
        "settings.management.cattle.io/only-in-2-10",
        "settings.management.cattle.io/made-at-the-last-moment",
        "secrets/cattle-system/migration-state",
    ];
    assert!(newer.iter().chain(&HELD_BACK).all(|key| !end.picture.contains_key(*key)));
    assert_eq!(end.picture["deployments.apps/cattle-system/rancher"]["spec"]["replicas"], 3);
    // In use by who stays up, and no cluster stays paused but the one that was.
    let certificate = &end.picture["secrets/cattle-capi-system/capi-webhook-service-cert"]["data"]["tls.crt"];
    assert_eq!(certificate, "Y2VydGlmaWNhdGUgbmV3");
    for (name, paused) in [("prod", false), ("gone", false), ("newer", false), ("by-hand", true), ("woken", true)] {
        let cluster = &end.picture[&format!("clusters.cluster.x-k8s.io/fleet-default/{name}")];
        assert_eq!(cluster["spec"]["paused"] == true, paused, "{cluster}");
        assert_eq!(cluster["metadata"]["annotations"], Value::Null, "{cluster}");
    }
}

fn die_each(merged: Merged, undisturbed: &End, stories: &[Vec<Death>]) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..crate::threads() {
            scope.spawn(|| {
                while let Some(deaths) = stories.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let first = deaths[0].at;
                    println!("{deaths:?}: {}", undisturbed.effects[first]);
                    let end = story(merged, deaths);
                    let same = end.effects[..=first] == undisturbed.effects[..=first];
                    assert!(same, "the same seed, another run: {:#?}", end.effects);
                    assert_same(&end, undisturbed);
                }
            });
        }
    });
}
