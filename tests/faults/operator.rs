//! A restore by the rancher-backup operator: reinback killed at each of its effects, the operator at each of its phases, and the same
//! end.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

use crate::invariants::{Watchdog, assert_status_is_truthful, outcome};
use crate::process::{Death, Moment, Process};
use crate::simulated;
use crate::stage::{Ended, HELD_BACK, OPERATOR_NAMESPACE, Stage};
use crate::stand_in::{Defects, Phase, Settings, StandIn, Then};

const SEED: u64 = 1;
/// Pairs of a death of reinback and one of the operator.
const BOTH: usize = 40;
/// Of the effects of a run without an end, one in so many is its last.
const EVERY: usize = 4;

/// The operator on this stage, as this process, once it runs.
pub async fn install(stage: &Stage, process: &Process) -> StandIn {
    let client = kube::Client::new(process.around(stage.sim.service()), "default");
    let settings = Settings {
        namespace: OPERATOR_NAMESPACE.to_owned(),
        clock: stage.sim.clock(),
        // Rancher's have annotations, those of the scene have none.
        defects: Defects { dies_of_bare_clusters: false, ..Defects::default() },
        ..Settings::new(stage.folder().to_owned())
    };
    StandIn::prepare(stage.sim.client(), &settings).await;
    let stand_in = StandIn::over(client, settings);
    tokio::time::sleep(Duration::from_secs(10)).await;
    stand_in
}

/// Objects that are not as the backup has them.
fn lost(stage: &Stage) -> Vec<String> {
    let picture = stage.picture();
    stage.saved.iter().filter(|(key, object)| picture.get(*key) != Some(object)).map(|(key, _)| key.clone()).collect()
}

#[test]
fn by_itself_the_stand_in_restores_a_simulated_cluster_but_for_its_defects() {
    simulated(async {
        let stage = Stage::operated(SEED).await;
        let stand_in = install(&stage, &Process::calm(None)).await;
        assert!(lost(&stage).len() > 10, "{:?}", lost(&stage));
        stage
            .put(json!({
                "apiVersion": "resources.cattle.io/v1", "kind": "Restore", "metadata": {"name": "by-hand"},
                // A prune would take the Restore itself: a selector of the stage matches it.
                "spec": {"backupFilename": stage.backup, "prune": false},
            }))
            .await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        let restore = stage.sim.object("restores.resources.cattle.io", None, "by-hand").expect("it is there");
        assert_eq!(restore["status"]["conditions"][0]["message"], "Completed", "{:#?}", stand_in.script().log());
        let without_prune: Vec<Phase> =
            Phase::ALL.into_iter().filter(|phase| !matches!(phase, Phase::Prune | Phase::Strip)).collect();
        assert_eq!(stand_in.script().reached(), without_prune);
        let lease = stage.sim.object("leases.coordination.k8s.io", Some(OPERATOR_NAMESPACE), "restore-controller");
        assert_eq!(lease.expect("it stays")["spec"]["holderIdentity"], Value::Null);
        println!("{:#?}", lost(&stage));
    });
}

/// Where a story ended.
struct End {
    picture: BTreeMap<String, Value>,
    /// What the backup held.
    saved: BTreeMap<String, Value>,
    /// Of reinback's first process.
    effects: Vec<String>,
    /// To which the operator came.
    phases: Vec<Phase>,
}

/// What is merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Merged {
    Restore,
    Rollback,
}

/// A run by the operator, in which reinback dies at each of `deaths`, one process after the other, and the operator before each of
/// `phases`, to be started again after so long.
fn story(merged: Merged, deaths: &[Death], phases: &[(Phase, Duration)]) -> End {
    simulated(async {
        let stage = match merged {
            Merged::Restore => Stage::operated(SEED).await,
            Merged::Rollback => Stage::operated_rolling_back(SEED).await,
        };
        let watchdog = Watchdog::new(&stage);
        let stand_in = install(&stage, &watchdog.operator()).await;
        for (phase, after) in phases {
            stand_in.script().die(*phase, Then::Restarts(*after));
        }
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
        let is_well = matches!(ended, Ended::Passed(passed) if passed.failed == 0 && passed.held == 0);
        assert!(is_well, "{ended:?} {}", stage.told());
        let runs: Vec<_> = stage.runs().iter().map(outcome).collect();
        assert_eq!(runs, [("Succeeded".to_owned(), "Succeeded".to_owned())], "{}", stage.told());
        assert_status_is_truthful(&stage);
        watchdog.check("the end");
        watchdog.assert_ended_well(&[]);
        End {
            picture: stage.picture(),
            saved: stage.saved.clone(),
            effects: first.unwrap_or_else(|| last.effects()),
            phases: stand_in.script().reached(),
        }
    })
}

/// All of the backup is there as it was, and what only the newer version had is not.
#[track_caller]
fn assert_restored(end: &End) {
    assert!(end.saved.len() > 30, "{} objects in the backup", end.saved.len());
    for (key, object) in &end.saved {
        assert_eq!(end.picture.get(key), Some(object), "{key}");
    }
    let newer = ["settings.management.cattle.io/only-in-2-10", "settings.management.cattle.io/made-at-the-last-moment"];
    let left: Vec<&&str> = newer.iter().chain(&HELD_BACK).filter(|key| end.picture.contains_key(**key)).collect();
    assert_eq!(left, Vec::<&&str>::new());
    assert_eq!(end.picture["deployments.apps/cattle-system/rancher"]["spec"]["replicas"], 3);
    let operator = &end.picture["deployments.apps/rancher-backup/rancher-backup"];
    assert_eq!((&operator["spec"]["replicas"], &operator["metadata"]["annotations"]), (&json!(1), &Value::Null));
}

#[track_caller]
fn assert_same(end: &End, undisturbed: &End) {
    for (key, object) in &undisturbed.picture {
        assert_eq!(end.picture.get(key), Some(object), "{key}");
    }
    let more: Vec<&String> = end.picture.keys().filter(|key| !undisturbed.picture.contains_key(*key)).collect();
    assert_eq!(more, Vec::<&String>::new());
}

/// Who dies when.
type Deaths = (Vec<Death>, Vec<(Phase, Duration)>);

fn die_each(merged: Merged, undisturbed: &End, stories: &[Deaths]) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..crate::threads() {
            scope.spawn(|| {
                while let Some((deaths, phases)) = stories.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let at = deaths.first().map(|death| &undisturbed.effects[death.at]);
                    println!("{deaths:?} {at:?} {phases:?}");
                    assert_same(&story(merged, deaths, phases), undisturbed);
                }
            });
        }
    });
}

#[test]
fn killed_before_or_after_any_of_its_effects_reinback_comes_to_the_same_end() {
    let undisturbed = story(Merged::Restore, &[], &[]);
    let count = undisturbed.effects.len();
    println!("{:#?} {:?}", undisturbed.effects, undisturbed.phases);
    assert!(count > 30, "{count} effects");
    assert_restored(&undisturbed);
    let moments = (0..count).flat_map(|at| [Moment::Before, Moment::After].map(|moment| Death { at, moment }));
    let stories: Vec<Deaths> = moments.map(|death| (vec![death], Vec::new())).collect();
    die_each(Merged::Restore, &undisturbed, &stories);
}

/// From where it is another run than a restore: prune is its last step before.
#[test]
fn killed_before_or_after_any_effect_that_sets_the_version_after_the_operator_a_rollback_comes_to_the_same_end() {
    let undisturbed = story(Merged::Rollback, &[], &[]);
    let effects = &undisturbed.effects;
    assert_restored(&undisturbed);
    let rancher = &undisturbed.picture["deployments.apps/cattle-system/rancher"];
    assert_eq!(rancher["spec"]["template"]["spec"]["containers"][0]["image"], "rancher/rancher:v2.9.3");
    let is_patch = |at: &usize| effects[*at] == "PATCH /apis/apps/v1/namespaces/cattle-system/deployments/rancher";
    let patches: Vec<usize> = (0..effects.len()).filter(is_patch).collect();
    let [_, image, _] = patches[..] else { panic!("scaled, set and given back: {patches:?} of {effects:#?}") };
    let from = image - 6;
    let moments =
        (from..effects.len()).flat_map(|at| [Moment::Before, Moment::After].map(|moment| Death { at, moment }));
    let stories: Vec<Deaths> = moments.map(|death| (vec![death], Vec::new())).collect();
    die_each(Merged::Rollback, &undisturbed, &stories);
}

#[test]
fn killed_before_any_of_its_phases_once_and_twice_the_operator_costs_no_more_than_time() {
    let undisturbed = story(Merged::Restore, &[], &[]);
    let mut stories: Vec<Deaths> = Vec::new();
    for phase in undisturbed.phases.iter().copied() {
        for after in [Duration::ZERO, Duration::from_secs(90)] {
            stories.push((Vec::new(), vec![(phase, after)]));
        }
        stories.push((Vec::new(), vec![(phase, Duration::from_secs(1)); 2]));
    }
    die_each(Merged::Restore, &undisturbed, &stories);
}

#[test]
fn both_killed_they_come_to_the_same_end() {
    let undisturbed = story(Merged::Restore, &[], &[]);
    let mut rng = StdRng::seed_from_u64(SEED);
    let stories: Vec<Deaths> = (0..BOTH)
        .map(|_| {
            let moment = *[Moment::Before, Moment::After].choose(&mut rng).expect("there are two");
            let death = Death { at: rng.random_range(0..undisturbed.effects.len()), moment };
            let phase = *undisturbed.phases.choose(&mut rng).expect("there are some");
            (vec![death], vec![(phase, Duration::from_secs(rng.random_range(0..120)))])
        })
        .collect();
    die_each(Merged::Restore, &undisturbed, &stories);
}

/// An operator that does not come to an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Endless {
    /// It fails for ever, and says the same.
    Fails,
    /// It stops in the middle.
    Hangs,
    /// It stops for longer than the run has time, and then goes on: it does not hear that its Restore was deleted.
    IsLate,
}

impl Endless {
    fn tell(self, stand_in: &StandIn) {
        let script = stand_in.script();
        match self {
            Self::Fails => script.fail(Phase::Namespaced, "no", None),
            Self::Hangs => script.hang(Phase::ClusterScoped),
            Self::IsLate => script.delay(Phase::ScaleUp, Duration::from_secs(20 * 60)),
        }
    }
}

/// A restore by such an operator, in which reinback dies at each of `deaths`. Gives the effects of its first process.
fn endless_story(endless: Endless, on_failure: &str, deaths: &[Death]) -> Vec<String> {
    simulated(async {
        let stage = Stage::operated(SEED).await;
        let watchdog = Watchdog::new(&stage);
        let stand_in = install(&stage, &watchdog.operator()).await;
        endless.tell(&stand_in);
        let more = format!("    reinback.io/timeout: 10m\n    reinback.io/on-failure: {on_failure}\n");
        stage.merge("back", &more);
        let mut first = None;
        for death in deaths.iter().copied().map(Some).chain([None]) {
            let process = watchdog.mortal(death);
            stage.once(&process).await.expect("it ends");
            first.get_or_insert_with(|| process.effects());
        }
        let runs: Vec<_> = stage.runs().iter().map(outcome).collect();
        let [(phase, reason)] = runs.as_slice() else { panic!("{runs:?}") };
        assert_eq!(phase, "Failed", "{}", stage.told());
        let expected: &[&str] = match endless {
            Endless::Fails => &["OperatorFailed"],
            Endless::Hangs | Endless::IsLate => &["Timeout"],
        };
        assert!(expected.contains(&reason.as_str()), "{}", stage.told());
        assert_status_is_truthful(&stage);
        // Whoever is late is late by now.
        tokio::time::sleep(Duration::from_secs(30 * 60)).await;
        watchdog.check("the end");
        watchdog.assert_ended_well(&[]);
        let picture = stage.picture();
        let rancher = &picture["deployments.apps/cattle-system/rancher"];
        let recorded = &rancher["metadata"]["annotations"]["reinback.io/replicas"];
        match on_failure {
            "Resume" => assert_eq!((&rancher["spec"]["replicas"], recorded), (&json!(3), &Value::Null)),
            _ => assert_eq!((&rancher["spec"]["replicas"], recorded), (&json!(0), &json!("3"))),
        }
        let operator = &picture["deployments.apps/rancher-backup/rancher-backup"];
        assert_eq!((&operator["spec"]["replicas"], &operator["metadata"]["annotations"]), (&json!(1), &Value::Null));
        let left = stage.sim.objects().keys().filter(|key| key.starts_with("restores.resources.cattle.io/")).count();
        assert_eq!(left, 0, "the Restore is there still");
        first.unwrap_or_default()
    })
}

#[test]
fn an_operator_without_an_end_is_ended_wherever_reinback_is_killed_and_rancher_is_as_the_manifest_says() {
    let cases: Vec<(Endless, &str)> = [Endless::Fails, Endless::Hangs, Endless::IsLate]
        .into_iter()
        .flat_map(|endless| ["Resume", "Hold"].map(|on_failure| (endless, on_failure)))
        .collect();
    let mut stories = Vec::new();
    for (offset, (endless, on_failure)) in cases.iter().enumerate() {
        let effects = endless_story(*endless, on_failure, &[]);
        println!("{endless:?} {on_failure}: {effects:#?}");
        // Most of a long run is renewals of its Lease, and one is as the other.
        let places: Vec<usize> = (0..effects.len()).filter(|at| !effects[*at].contains("/leases/")).collect();
        for at in places.into_iter().skip(offset % EVERY).step_by(EVERY) {
            let moment = if at % 2 == 0 { Moment::Before } else { Moment::After };
            stories.push((*endless, *on_failure, Death { at, moment }, effects[at].clone()));
        }
    }
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..crate::threads() {
            scope.spawn(|| {
                while let Some((endless, on_failure, death, effect)) = stories.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    println!("{endless:?} {on_failure} {death:?} {effect}");
                    endless_story(*endless, on_failure, &[*death]);
                }
            });
        }
    });
}
