//! Killed before each write of the step that sets the version by Helm, which is after the one before, a rollback comes to the same end.

use std::time::Duration;

use serde_json::Value;

use super::{ACCEPT, EXTENSION, assert_helm_started_it, by_helm, image, revisions};
use crate::harness::Bar;
use crate::process::{Process, forget_holder, phase, run_of, until_ended};
use crate::world::World;

/// Says of a write whether it is the one.
pub type Write = Box<dyn Fn(&Value) -> bool + Send>;

/// A write of this object; an empty name is any.
pub fn write(operation: &'static str, resource: &'static str, name: &'static str) -> Write {
    Box::new(move |request| {
        let object = if operation == "DELETE" { &request["oldObject"] } else { &request["object"] };
        request["operation"] == operation
            && request["resource"]["resource"] == resource
            && (name.is_empty() || object["metadata"]["name"] == name)
    })
}

/// What records this event in the journal of a run; of a step where one is named.
pub fn recorded(event: &'static str, step: &'static str) -> Write {
    Box::new(move |request| {
        let has = |object: &Value| {
            let journal = object["status"]["journal"].as_array().into_iter().flatten();
            journal.filter(|entry| entry["event"] == event).any(|entry| step.is_empty() || entry["step"] == step)
        };
        request["resource"]["resource"] == "runs" && has(&request["object"]) && !has(&request["oldObject"])
    })
}

/// Rancher's Deployment gets this image.
pub fn sets_image(image: &'static str) -> Write {
    Box::new(move |request| {
        let has = |object: &Value| object["spec"]["template"]["spec"]["containers"][0]["image"] == image;
        request["resource"]["resource"] == "deployments"
            && request["object"]["metadata"]["name"] == "rancher"
            && has(&request["object"])
            && !has(&request["oldObject"])
    })
}

/// Helm says of a revision that it is deployed.
fn deployed() -> Write {
    Box::new(|request| {
        let is_deployed = |object: &Value| object["metadata"]["labels"]["status"] == "deployed";
        request["operation"] == "UPDATE"
            && request["resource"]["resource"] == "secrets"
            && is_deployed(&request["object"])
            && !is_deployed(&request["oldObject"])
    })
}

/// A process that is killed, with all that it has started, when it asks for this.
pub async fn killed_before(world: &World, bar: &Bar, manifest: &str, what: &str, write: Write) {
    let stop = bar.before(write);
    let agent = Process::start(world, &[]);
    if !stop.reached().await {
        let run = run_of(world, manifest).await;
        panic!("{what} is never asked for: {}", run.map(|run| run["status"].to_string()).unwrap_or_default());
    }
    agent.kill();
    // Helm is killed by the end of who started it, which is a moment later.
    tokio::time::sleep(Duration::from_millis(200)).await;
    stop.drop_it();
    forget_holder(world).await;
}

async fn killed_before_each_write(program: &'static str) {
    let mut world = World::start().await;
    world.settle().await;
    let backup = by_helm(&mut world, program, "replicas=3").await;
    world.cluster.kubectl(&["apply", "-f", "-"], EXTENSION).expect("it is taken");
    let bar = Bar::install(&world.cluster).await;
    let mark = world.cluster.audit_mark();
    let spec = format!("  toVersion: v2.9.3\n  restore: {{backupFilename: {backup}, prune: false}}\n");
    world.commit_rollback("back", &[ACCEPT], &spec);
    let writes = [
        ("the journal of what is set back", recorded("versionHad", "")),
        ("the removal of the APIService", write("DELETE", "apiservices", "v1.ext.cattle.io")),
        ("the removal of its Service", write("DELETE", "services", "api-extension")),
        ("helm's revision", write("CREATE", "secrets", "sh.helm.release.v1.rancher.v3")),
        ("helm's write of Rancher", sets_image("rancher/rancher:v2.9.3")),
        // Of the next try, which finds all written.
        ("helm's word that it is done", deployed()),
        ("the removal of what helm left", write("DELETE", "configmaps", "rancher-newer")),
        ("the end of the step", recorded("finished", "SetVersion")),
    ];
    for (what, write) in writes {
        killed_before(&world, &bar, "back", what, write).await;
    }
    let _agent = Process::start(&world, &[]);
    let run = until_ended(&world, "back").await;

    assert_eq!(phase(&run), "Succeeded", "{}", run["status"]);
    assert_eq!(image(&world), "rancher/rancher:v2.9.3");
    assert_eq!(world.replicas("cattle-system", "rancher").await.expect("it is there"), (3, 3));
    let state = |number, state: &str| (number, "v2.9.3".to_owned(), state.to_owned());
    assert_eq!(revisions(&world, program)[2..], [state(3, "failed"), state(4, "failed"), state(5, "deployed")]);
    let there = |what: &[&str]| {
        let args = [&["get", "--ignore-not-found", "-o", "name", "-n", "cattle-system"], what].concat();
        world.cluster.kubectl(&args, "").expect("kubectl answers").trim().to_owned()
    };
    assert_eq!(there(&["apiservice", "v1.ext.cattle.io"]), "");
    assert_eq!(there(&["service", "api-extension"]), "");
    assert_eq!(there(&["configmap", "rancher-newer"]), "");
    assert_eq!(there(&["configmap", "rancher-kept"]), "configmap/rancher-kept");
    let journal = run["status"]["journal"].as_array().expect("a journal");
    let had: Vec<&Value> = journal.iter().filter(|entry| entry["event"] == "versionHad").collect();
    let [had] = had[..] else { panic!("{had:?}") };
    assert_eq!((&had["had"]["image"], &had["had"]["revision"]), (&"rancher/rancher:v2.10.1".into(), &2.into()));
    assert_eq!(had["had"]["removed"].as_array().map(Vec::len), Some(2), "{had}");
    assert_helm_started_it(&world, mark);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_each_write_that_sets_the_version_by_helm_3_a_rollback_comes_to_the_same_end() {
    killed_before_each_write("helm").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_each_write_that_sets_the_version_by_helm_4_a_rollback_comes_to_the_same_end() {
    killed_before_each_write("helm4").await;
}
