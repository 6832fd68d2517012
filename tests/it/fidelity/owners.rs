//! Owners in a circle, owners that fail, statuses that name generations, tokens that agents hold: what a write alone does
//! not bring back.

use serde_json::{Value, json};

use super::{TOKEN, get, live_token, token_secret, uid};
use crate::gates::apply;
use crate::harness::rancher::Item;
use crate::once::ended;
use crate::process::run_of;
use crate::world::World;

const NAMESPACE: &str = "cattle-global-data";

fn config_map(name: &str, owner: &str) -> (String, Value) {
    let reference = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": owner, "uid": "11111111-2222-3333-4444-555555555555"}]);
    let metadata = json!({"name": name, "namespace": NAMESPACE, "ownerReferences": reference});
    (
        format!("configmaps.#v1/{NAMESPACE}/{name}"),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"a": name}}),
    )
}

fn map_url(name: &str) -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/configmaps/{name}")
}

fn owner_uid(world: &World, url: &str) -> Value {
    get(world, url).expect("it is there")["metadata"]["ownerReferences"][0]["uid"].clone()
}

/// One of the fixture's, of a type whose definition has the status subresource.
fn with_status(world: &World) -> Item {
    let is_it = |item: &&Item| item.place.plural == "clusters" && item.place.group == "provisioning.cattle.io";
    world.items.iter().find(is_it).expect("the fixture has one").clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_circle_of_owners_a_status_of_an_old_generation_and_a_token_that_agents_hold_come_back() {
    let world = World::start().await;
    world.settle().await;
    apply(&world, &token_secret(None, json!({})).to_string());
    let held = live_token(&world).await;
    let saved = get(&world, TOKEN).expect("it is there");
    let account = uid(&world, super::ACCOUNT);
    // Somebody makes the Secret anew with another token; agents still hold the first.
    world.kubectl(&["delete", "secret", "-n", "cattle-system", "rancher-token"]);
    let mut other = token_secret(account.as_str(), saved["data"].clone());
    other["data"]["token"] = json!("bm90IHRoZSBvbmU=");
    apply(&world, &other.to_string());

    let cluster = with_status(&world);
    let args = ["delete", "clusters.provisioning.cattle.io", &cluster.place.name, "--cascade=orphan", "-n"];
    let namespace = cluster.place.namespace.clone().expect("it is namespaced");
    world.kubectl(&[&args[..], &[&namespace]].concat());

    let backup = world.repack("circle", |entries| {
        entries.extend([
            config_map("ring-a", "ring-b"),
            config_map("ring-b", "ring-a"),
            config_map("itself", "itself"),
        ]);
        entries.push(("secrets.#v1/cattle-system/rancher-token".to_owned(), {
            let mut secret = token_secret(account.as_str(), saved["data"].clone());
            secret["metadata"]["labels"] = json!({"of": "backup"});
            secret
        }));
        let path = format!("clusters.provisioning.cattle.io#v1/{namespace}/{}", cluster.place.name);
        let (_, object) = entries.iter_mut().find(|(at, _)| *at == path).expect("it is in the backup");
        object["metadata"]["generation"] = json!(7);
        object["status"]["observedGeneration"] = json!(7);
    });
    world.commit_restore_of(&backup, "circle", &[("requested-at", "2026-11-23T09:00:00Z")], "  prune: false\n");
    let said = world.once().await;
    assert_eq!(world.told(&[]).await, ["circle Succeeded Succeeded"], "{}", said.stderr);

    for (dependent, owner) in [("ring-a", "ring-b"), ("ring-b", "ring-a"), ("itself", "itself")] {
        assert_eq!(owner_uid(&world, &map_url(dependent)), uid(&world, &map_url(owner)), "{dependent}");
    }
    let live = get(&world, &cluster.place.url()).expect("it is there");
    assert_eq!((&live["metadata"]["generation"], &live["status"]["observedGeneration"]), (&json!(1), &json!(1)));
    assert_eq!(live_token(&world).await, held, "what agents hold works again");

    world.commit_restore_of(&backup, "circle", &[("requested-at", "2026-11-23T10:00:00Z")], "  prune: false\n");
    let planned = world.reinback(&["plan", "-v"]).await;
    let written = planned.stdout.lines().filter(|line| line.contains("  update") || line.contains("  create"));
    assert_eq!(written.collect::<Vec<_>>(), Vec::<&str>::new());
    ended(&planned, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dependent_of_an_owner_that_fails_is_not_cut_loose_and_the_run_says_what_the_manifest_asks() {
    let world = World::start().await;
    world.settle().await;
    let backup = world.repack("fails", |entries| {
        let (path, mut owner) = config_map("bad-owner", "gone");
        // The API server takes no such key.
        owner["data"] = json!({"not a key": "x"});
        owner["metadata"]["ownerReferences"] = json!([]);
        entries.push((path, owner));
        entries.push(config_map("of-bad-owner", "bad-owner"));
    });
    let spec = "  prune: false\n  ignoreErrors: true\n";
    let taken = ("accept", "OwnerMissing");
    world.commit_restore_of(&backup, "fails", &[taken, ("requested-at", "2026-11-23T09:00:00Z")], spec);
    ended(&world.once().await, 1);
    let run = run_of(&world, "fails").await.expect("a run");
    assert_eq!(world.told(&[]).await, ["fails Failed ObjectsFailed"], "{}", run["status"]);
    let errors: Vec<String> = run["status"]["errors"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|error| format!("{}: {}", error["object"], error["message"]))
        .collect();
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(errors.iter().any(|error| error.contains("its owner ConfigMap bad-owner is not there")), "{errors:?}");
    assert!(get(&world, &map_url("of-bad-owner")).is_err(), "it would have come without its owner");
    assert_eq!(world.replicas("cattle-system", "rancher").await.expect("it is there"), (3, 3));

    let resume = ("on-failure", "Resume");
    world.commit_restore_of(&backup, "fails", &[taken, resume, ("requested-at", "2026-11-23T10:00:00Z")], spec);
    ended(&world.once().await, 0);
    assert!(world.told(&[]).await.contains(&"fails Succeeded Succeeded".to_owned()));
    assert_eq!(world.replicas("cattle-system", "rancher").await.expect("it is there"), (3, 3));
}
