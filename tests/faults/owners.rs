//! Owners that somebody deletes while a restore writes: after it looked at the cluster, before it writes them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use reinback::cluster::Target;
use reinback::object::Resource;
use serde_json::{Value, json};

use crate::process::Process;
use crate::simulated;
use crate::stage::{Ended, Stage};
use crate::weather::Weather;

const SEED: u64 = 1;

/// Deletes the owner when the run has ended the step before it is written, and gives what was written then.
async fn deleted_at(
    stage: &Arc<Stage>,
    step: &'static str,
    of: Resource,
    namespace: Option<&'static str>,
    name: &'static str,
) -> Vec<String> {
    let (is_gone, seen) = (AtomicBool::new(false), Arc::clone(stage));
    let witness = move |effect: &str| {
        if effect.contains("/runs/") && has_ended(&seen, step) && !is_gone.swap(true, Ordering::Relaxed) {
            let (stage, of) = (Arc::clone(&seen), of.clone());
            tokio::spawn(async move { stage.delete(&Target::new(&of, namespace, name)).await });
        }
    };
    let process = Process::new(None, Weather::calm(), Box::new(witness));
    stage.merge("back", "");
    let ended = stage.once(&process).await.expect("it ends");
    assert!(matches!(ended, Ended::Passed(passed) if passed.failed == 0), "{ended:?} {}", stage.told());
    process.effects()
}

fn has_ended(stage: &Stage, step: &str) -> bool {
    let runs = stage.runs();
    let journal = runs.first().and_then(|run| run["status"]["journal"].as_array()?.last().cloned());
    journal.is_some_and(|entry| entry["event"] == "finished" && entry["step"] == step)
}

fn assert_as_saved(stage: &Stage, key: &str) {
    assert_eq!(stage.picture().get(key), stage.saved.get(key), "{key}");
    assert!(stage.saved.contains_key(key), "{key}");
}

#[test]
fn what_is_equal_and_goes_with_its_owner_comes_back_with_it() {
    simulated(async {
        let stage = Arc::new(Stage::new(SEED).await);
        stage.put(management("GlobalRoleBinding", "grb-alice", json!({"userName": "u-mallory"}))).await;
        let of = Resource::new("management.cattle.io", "v3", "globalrolebindings");
        let effects = deleted_at(&stage, "Crds", of, None, "grb-alice").await;
        let made = |effect: &String| effect == "POST /apis/management.cattle.io/v3/globalrolebindings grb-alice";
        assert!(effects.iter().any(made), "it was there when it was written: {effects:#?}");
        assert_as_saved(&stage, "globalrolebindings.management.cattle.io/grb-alice");
        assert_as_saved(&stage, "clusterrolebindings.rbac.authorization.k8s.io/cattle-globalrolebinding-grb-alice");
    });
}

#[test]
fn what_is_written_beside_an_owner_that_has_gone_names_the_new_one() {
    simulated(async {
        let stage = Arc::new(Stage::new(SEED).await);
        for name in ["cluster-registration", "cluster-values"] {
            let live = &stage.sim.objects()[&format!("configmaps/fleet-default/{name}")];
            let metadata = json!({
                "name": name, "namespace": "fleet-default", "ownerReferences": live["metadata"]["ownerReferences"],
            });
            let data = json!({"changed": "by the upgrade"});
            stage.put(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})).await;
        }
        let of = Resource::new("", "v1", "configmaps");
        let effects = deleted_at(&stage, "ClusterScoped", of, Some("fleet-default"), "cluster-registration").await;
        let made = |effect: &String| effect == "POST /api/v1/namespaces/fleet-default/configmaps cluster-registration";
        assert!(effects.iter().any(made), "it was there when it was written: {effects:#?}");
        assert_as_saved(&stage, "configmaps/fleet-default/cluster-registration");
        assert_as_saved(&stage, "configmaps/fleet-default/cluster-values");
    });
}

fn management(kind: &str, name: &str, more: Value) -> Value {
    let mut object = json!({"apiVersion": "management.cattle.io/v3", "kind": kind, "metadata": {"name": name}});
    for (field, value) in more.as_object().into_iter().flatten() {
        object[field] = value.clone();
    }
    object
}
