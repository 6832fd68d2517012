//! Watches: what they tell, from where, and how they end.

use serde_json::{Value, json};

use super::api::Api;
use super::objects::map;

async fn version(api: &Api) -> String {
    let list = api.ask("GET", &api.core("configmaps"), &Value::Null).await;
    list.text("/metadata/resourceVersion").to_owned()
}

async fn change(api: &Api) {
    let path = api.core("configmaps");
    api.ask("POST", &path, &map("a", "1")).await;
    api.ask("PATCH", &format!("{path}/a"), &json!({"data": {"value": "2"}})).await;
    api.ask("DELETE", &format!("{path}/a"), &Value::Null).await;
}

const NAMED: &str = "fieldSelector=metadata.name%3Da";

pub async fn a_watch_tells_changes_as_they_come(api: &Api) {
    let version = version(api).await;
    let path = format!("{}?watch=1&{NAMED}&resourceVersion={version}&timeoutSeconds=20", api.core("configmaps"));
    api.watch_while(&path, 3, change(api)).await;
}

pub async fn a_watch_tells_changes_that_were(api: &Api) {
    let version = version(api).await;
    change(api).await;
    let path = format!("{}?watch=true&{NAMED}&resourceVersion={version}&timeoutSeconds=20", api.core("configmaps"));
    api.watch_while(&path, 3, async {}).await;
}

pub async fn a_watch_without_a_version_tells_what_is_there(api: &Api) {
    api.ask("POST", &api.core("configmaps"), &map("a", "1")).await;
    api.watch(&format!("{}?watch=1&{NAMED}&timeoutSeconds=20", api.core("configmaps")), 1).await;
}

pub async fn a_watch_of_metadata_tells_no_more(api: &Api) {
    let version = version(api).await;
    change(api).await;
    let path = format!("{}?watch=1&{NAMED}&resourceVersion={version}&timeoutSeconds=20", api.core("configmaps"));
    let accept = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
    for event in api.watch_as(&path, accept, 3).await {
        api.note_value("event", &event);
    }
}

pub async fn a_watch_ends_at_its_time(api: &Api) {
    let version = version(api).await;
    let path = format!("{}?watch=1&resourceVersion={version}&timeoutSeconds=2&{NAMED}", api.core("configmaps"));
    let started = tokio::time::Instant::now();
    api.watch_while(&path, 9, async {}).await;
    api.note(&format!("{}", (1..=4).contains(&started.elapsed().as_secs())));
}

pub async fn a_label_that_comes_and_goes_adds_and_removes(api: &Api) {
    let version = version(api).await;
    let maps = api.core("configmaps");
    let path = format!("{maps}?watch=1&labelSelector=chosen&resourceVersion={version}&timeoutSeconds=20");
    let one = format!("{maps}/a");
    api.watch_while(&path, 3, async {
        api.ask("POST", &maps, &map("a", "1")).await;
        api.ask("PATCH", &one, &json!({"metadata": {"labels": {"chosen": "1"}}})).await;
        api.ask("PATCH", &one, &json!({"data": {"value": "2"}})).await;
        api.ask("PATCH", &one, &json!({"metadata": {"labels": null}})).await;
    })
    .await;
}

pub async fn bookmarks_move_the_version(api: &Api) {
    let version = version(api).await;
    let maps = api.core("configmaps");
    let path = format!("{maps}?watch=1&allowWatchBookmarks=true&resourceVersion={version}&timeoutSeconds=8&{NAMED}");
    let (events, ()) = tokio::join!(api.watch_all(&path), change(api));
    let last = events.last().expect("events");
    api.note(&format!("{} {} {}", last["type"], last["object"]["kind"], last["object"]["apiVersion"]));
    let version = |event: &Value| event["object"]["metadata"]["resourceVersion"].as_str()?.parse::<u64>().ok();
    let told: Vec<u64> = events.iter().filter_map(version).collect();
    api.note(&format!("{} {}", told.len() == events.len(), told.is_sorted()));
}

pub async fn a_version_that_is_forgotten_is_gone(api: &Api) {
    let version = version(api).await;
    change(api).await;
    api.forget_history().await;
    let path = format!("{}?watch=1&resourceVersion={version}&timeoutSeconds=5", api.core("configmaps"));
    let events = api.watch_events(&path, 1).await;
    // The message is another one with a watch cache and without.
    let event = &events[0];
    api.note(&format!("{} {} {}", event["type"], event["object"]["code"], event["object"]["reason"]));
}
