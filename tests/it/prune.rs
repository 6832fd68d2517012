//! Prune on the real API server: finalizers get their time and no more, everything is waited for by watching, and what the
//! plan did not list keeps its finalizers.

use std::time::{Duration, Instant};

use anyhow::ensure;
use kube::Client;
use serde_json::{Value, json};

use crate::gates::{apply, define};
use crate::harness::rancher::{Place, get};
use crate::harness::{AuditEvent, eventually};
use crate::once::ended;
use crate::process::{message, run_of};
use crate::world::World;

const GROUP: &str = "late.management.cattle.io";
/// Custom resources that a selector of the backup matches, by whether somebody finalizes them.
const HELD: usize = 120;
const FREE: usize = 120;

fn widget(name: &str) -> Place {
    Place::new(("management.cattle.io", "v3", "widgets"), None, name)
}

fn object(name: &str, finalizers: &[&str]) -> Value {
    json!({
        "apiVersion": "management.cattle.io/v3", "kind": "Widget",
        "metadata": {"name": name, "finalizers": finalizers},
    })
}

fn list(items: Vec<Value>) -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

/// A controller that answers late: `then` runs once the object is marked as deleted.
fn controller(
    client: Client,
    place: Place,
    delay: Duration,
    then: impl FnOnce() + Send + 'static,
) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            match get(&client, &place).await {
                Ok(Some(live)) if live.pointer("/metadata/deletionTimestamp").is_none() => {}
                Ok(_) => break,
                Err(_) => {}
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::time::sleep(delay).await;
        tokio::task::spawn_blocking(then).await.expect("it ends");
    })
}

fn of_widgets(events: &[AuditEvent]) -> impl Iterator<Item = &AuditEvent> {
    events.iter().filter(|event| event.user_agent.starts_with("reinback/") && event.object_ref.resource == "widgets")
}

#[tokio::test(flavor = "multi_thread")]
async fn finalizers_have_their_time_once_for_all_and_nothing_is_read_one_by_one() {
    let world = World::start().await;
    world.settle().await;
    define(&world, "management.cattle.io", "v3", "widgets", "Widget", "Cluster");
    let held = (0..HELD).map(|number| object(&format!("held-{number}"), &["example.org/nobody"]));
    let free = (0..FREE).map(|number| object(&format!("free-{number}"), &[]));
    let late = object("late", &["example.org/late"]);
    world.cluster.kubectl(&["create", "-f", "-"], &list(held.chain(free).chain([late]).collect())).expect("made");
    let kubeconfig = world.cluster.kubeconfig().to_owned();
    let kubectl = crate::harness::binaries().expect("built").join("kubectl");
    let done = controller(world.client.clone(), widget("late"), Duration::from_secs(1), move || {
        let patch = r#"{"metadata":{"finalizers":null}}"#;
        let status = std::process::Command::new(kubectl)
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args(["patch", "widgets.management.cattle.io", "late", "--type=merge", "-p", patch])
            .status();
        assert!(status.expect("kubectl starts").success());
    });

    let mark = world.cluster.audit_mark();
    let annotations = [("accept", "PruneShare")];
    world.commit_restore("back", &annotations, "  prune: true\n  deleteTimeoutSeconds: 4\n");
    let begun = Instant::now();
    ended(&world.once().await, 0);
    let took = begun.elapsed();
    done.await.expect("the controller ends");
    let run = run_of(&world, "back").await.expect("a run");
    assert_eq!(run["status"]["counts"]["deleted"], HELD + FREE + 2, "{}", run["status"]);
    assert!(world.cluster.kubectl(&["get", "crd", "widgets.management.cattle.io"], "").is_err(), "it is newer, too");
    // One after the other, or a few at a time, it would take minutes.
    assert!(took < Duration::from_secs(60), "{took:?}");

    let events = world.cluster.audit_since(mark);
    let count = |verb: &str| of_widgets(&events).filter(|event| event.verb == verb).count();
    assert_eq!(count("get"), 0, "no object is read alone");
    assert_eq!(count("delete"), HELD + FREE + 1);
    assert!(count("watch") <= 4, "{} watches", count("watch"));
    let patched: Vec<&str> =
        of_widgets(&events).filter(|event| event.verb == "patch").map(|event| event.object_ref.name.as_str()).collect();
    assert_eq!(patched.len(), HELD, "{patched:?}");
    assert!(!patched.contains(&"late"), "its controller was in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_made_again_when_its_finalizers_are_gone_fails_the_run_and_its_definition_stays() {
    let world = World::start().await;
    world.settle().await;
    define(&world, "management.cattle.io", "v3", "widgets", "Widget", "Cluster");
    world.cluster.kubectl(&["create", "-f", "-"], &object("back", &["example.org/nobody"]).to_string()).expect("made");
    let first = get(&world.client, &widget("back")).await.expect("an answer").expect("it is there");
    let (client, uid) = (world.client.clone(), first["metadata"]["uid"].clone());
    // A controller that is still running makes it again as soon as it is gone.
    let again = tokio::spawn(async move {
        loop {
            if let Ok(None) = get(&client, &widget("back")).await {
                let body = object("back", &[]).to_string().into_bytes();
                let request =
                    http::Request::post(widget("back").collection()).header("content-type", "application/json");
                let made: Result<Value, _> = client.request(request.body(body).expect("a request")).await;
                return made.is_ok();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    world.commit_restore("back", &[], "  prune: true\n");
    ended(&world.once().await, 1);
    assert!(again.await.expect("it ends"), "it was not made again");
    let run = run_of(&world, "back").await.expect("a run");
    insta::assert_snapshot!(message(&run).split("; ").next().unwrap_or_default(), @"1 objects could not be deleted in prune, first widgets.management.cattle.io#v3/back: its finalizers were removed, and it was made again: something that makes it is still running and must be stopped");
    // The definition would have taken the new one along.
    let live = get(&world.client, &widget("back")).await.expect("an answer").expect("it is there");
    assert_ne!(live["metadata"]["uid"], uid, "the new one is left alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_whose_objects_wait_for_finalizers_that_the_plan_did_not_list_fails_and_says_so() {
    let world = World::start().await;
    world.settle().await;
    // The definition is matched by its name, and its objects by nothing.
    define(&world, GROUP, "v1", "gadgets", "Gadget", "Cluster");
    apply(
        &world,
        &format!("{{apiVersion: {GROUP}/v1, kind: Gadget, metadata: {{name: one, finalizers: [example.org/nobody]}}}}"),
    );
    world.commit_restore("back", &[("accept", "PruneDeletesCrds"), ("timeout", "1m")], "  prune: true\n");
    ended(&world.once().await, 1);
    let run = run_of(&world, "back").await.expect("a run");
    let said = run["status"].to_string();
    assert!(said.contains("objects of its type wait for finalizers of theirs"), "{said}");
    let one =
        world.cluster.kubectl(&["get", &format!("gadgets.{GROUP}"), "one", "-o", "json"], "").expect("it is there");
    let one: Value = serde_json::from_str(&one).expect("JSON");
    assert_eq!(one["metadata"]["finalizers"], json!(["example.org/nobody"]), "it was not listed by the plan");
    eventually(Duration::from_secs(10), async || {
        ensure!(world.cluster.kubectl(&["get", "crd", &format!("gadgets.{GROUP}")], "").is_ok(), "it is gone");
        Ok(())
    })
    .await;
}
