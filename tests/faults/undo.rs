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

#[test]
fn killed_at_every_second_effect_of_an_undo_all_is_as_it_was_before_the_run() {
    let undisturbed = story(None);
    assert_eq!(undisturbed.image, "rancher/rancher:v2.10.1");
    for (key, object) in &undisturbed.before {
        assert_eq!(undisturbed.picture.get(key), Some(object), "{key}");
    }
    let failed = undisturbed.effects.iter().position(|effect| effect.contains("failed in"));
    let from = failed.unwrap_or_else(|| panic!("the failure is pushed: {:#?}", undisturbed.effects));
    assert!(undisturbed.effects.len() > from + 40, "{:#?}", undisturbed.effects);
    // Each effect of a step has one like it beside it: every second one, before and after in turn, tells as much.
    let moments = [Moment::Before, Moment::After].into_iter().cycle();
    let at = (from - 2..undisturbed.effects.len()).step_by(2);
    let deaths: Vec<Death> = at.zip(moments).map(|(at, moment)| Death { at, moment }).collect();
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
