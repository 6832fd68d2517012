//! A Rollback to a version that does not come up, and that is undone by itself: killed at any effect of the undo, all comes
//! to the same end.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use crate::invariants::{Watchdog, assert_status_is_truthful, outcome};
use crate::process::{Death, Moment, Process};
use crate::simulated;
use crate::stage::{Ended, Stage};

const SEED: u64 = 3;
/// What the run is told beside its backup.
const ANNOTATIONS: &str = "    reinback.io/on-failure: Undo\n    reinback.io/timeout: 1m\n";

struct End {
    /// Before the merge, and at the end.
    before: BTreeMap<String, Value>,
    picture: BTreeMap<String, Value>,
    image: String,
    effects: Vec<String>,
}

fn story(death: Option<Death>) -> End {
    simulated(async {
        let stage = Stage::rolling_back(SEED).await;
        let watchdog = Watchdog::new(&stage);
        let before = stage.picture();
        tokio::spawn(Stage::refuse_older_pods(stage.sim.clone()));
        stage.merge("back", ANNOTATIONS);
        let first = watchdog.mortal(death);
        let ended = stage.once(&first).await.expect("it ends");
        assert_eq!(matches!(ended, Ended::Died), death.is_some(), "{ended:?}");
        if death.is_some() {
            let ended = stage.once(&watchdog.mortal(None)).await.expect("it ends");
            assert!(matches!(ended, Ended::Passed(passed) if passed.held == 0), "{ended:?} {}", stage.told());
        }
        assert_undone(&stage);
        assert_is_over(&stage, &watchdog).await;
        let image = stage.rancher_image();
        End { before, picture: stage.picture(), image, effects: first.effects() }
    })
}

fn assert_undone(stage: &Stage) {
    let mut runs: Vec<_> = stage.runs().iter().map(outcome).collect();
    runs.sort();
    let ended = |phase: &str, reason: &str| (phase.to_owned(), reason.to_owned());
    assert_eq!(runs, [ended("Failed", "RancherNotReady"), ended("Succeeded", "Succeeded")], "{}", stage.told());
}

/// Another look does nothing more.
async fn assert_is_over(stage: &Stage, watchdog: &Watchdog) {
    let ended = stage.once(&Process::calm(None)).await.expect("it ends");
    assert!(matches!(ended, Ended::Passed(passed) if passed.failed == 0 && passed.held == 0), "{ended:?}");
    assert_eq!(stage.runs().len(), 2, "{}", stage.told());
    assert_status_is_truthful(stage);
    watchdog.check("the end");
    watchdog.assert_ended_well(&[]);
}

/// From the version on, which does not come up: the checks of it, the end of the run, and all of its undo.
#[test]
fn killed_after_any_effect_of_a_failure_and_its_undo_all_is_as_it_was_before_the_run() {
    let undisturbed = story(None);
    assert_eq!(undisturbed.image, "rancher/rancher:v2.10.1");
    for (key, object) in &undisturbed.before {
        assert_eq!(undisturbed.picture.get(key), Some(object), "{key}");
    }
    let effects = &undisturbed.effects;
    let failed = effects.iter().position(|effect| effect.contains("failed in"));
    let failed = failed.unwrap_or_else(|| panic!("the failure is pushed: {effects:#?}"));
    assert!(effects.len() > failed + 40, "{effects:#?}");
    let is_patch = |at: &usize| effects[*at] == "PATCH /apis/apps/v1/namespaces/cattle-system/deployments/rancher";
    let patches: Vec<usize> = (0..failed).filter(is_patch).collect();
    // Given back once more where a controller wrote in between.
    let [_, image, _, ..] = patches[..] else { panic!("scaled, set and given back: {patches:?} of {effects:#?}") };
    // Before an effect is after the one before it; renewals of the Lease are as any other moment beside them.
    let at = (image..effects.len()).filter(|at| !effects[*at].contains("/leases/"));
    let deaths: Vec<Death> = at.map(|at| Death { at, moment: Moment::After }).collect();
    println!("{} deaths: {:#?}", deaths.len(), &effects[image..]);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..crate::threads() {
            scope.spawn(|| {
                while let Some(death) = deaths.get(next.fetch_add(1, Ordering::Relaxed)) {
                    println!("{death:?}: {}", undisturbed.effects[death.at]);
                    let end = story(Some(*death));
                    assert_eq!(end.image, undisturbed.image);
                    for (key, object) in &undisturbed.picture {
                        assert_eq!(end.picture.get(key), Some(object), "{key}");
                    }
                }
            });
        }
    });
}
