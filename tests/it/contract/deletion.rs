//! Deletion: preconditions, finalizers, owners and what they own.

use serde_json::{Value, json};

use super::api::Api;
use super::objects::map;

const NOBODY: &str = "6f1d0a4e-0000-4000-8000-000000000000";

async fn made(api: &Api, name: &str, metadata: Value) -> Value {
    let mut object = map(name, "1");
    for (field, value) in metadata.as_object().expect("fields") {
        object["metadata"][field] = value.clone();
    }
    let answer = api.ask("POST", &api.core("configmaps"), &object).await;
    assert_eq!(answer.code, 201, "{answer:?}");
    answer.body
}

fn one(api: &Api, name: &str) -> String {
    format!("{}/{name}", api.core("configmaps"))
}

fn owned_by(owner: &Value, blocks: bool) -> Value {
    let (name, uid) = (&owner["metadata"]["name"], &owner["metadata"]["uid"]);
    json!({"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid, "blockOwnerDeletion": blocks}]})
}

pub async fn a_deletion_has_preconditions(api: &Api) {
    let object = made(api, "a", json!({})).await;
    let one = one(api, "a");
    api.delete(&one, &json!({"preconditions": {"uid": NOBODY}})).await;
    api.delete(&one, &json!({"preconditions": {"resourceVersion": "1"}})).await;
    let (uid, version) = (&object["metadata"]["uid"], &object["metadata"]["resourceVersion"]);
    api.delete(&one, &json!({"preconditions": {"uid": uid, "resourceVersion": version}})).await;
}

pub async fn a_namespace_has_preconditions_of_its_own(api: &Api) {
    let one = format!("/api/v1/namespaces/{}", api.ns);
    api.delete(&one, &json!({"preconditions": {"uid": NOBODY}})).await;
    api.delete(&one, &json!({"preconditions": {"resourceVersion": "1"}})).await;
}

pub async fn a_group_is_named_in_a_precondition(api: &Api) {
    let path = api.apis("coordination.k8s.io", "leases");
    api.ask("POST", &path, &json!({"metadata": {"name": "a"}})).await;
    api.delete(&format!("{path}/a"), &json!({"preconditions": {"uid": NOBODY}})).await;
    api.delete(&format!("{path}/a"), &Value::Null).await;
}

pub async fn a_finalizer_holds_an_object(api: &Api) {
    made(api, "a", json!({"finalizers": ["example.org/held"]})).await;
    let one = one(api, "a");
    api.delete(&one, &Value::Null).await;
    let before = api.get(&one).await.body;
    let again = api.delete(&one, &Value::Null).await.body;
    api.note(&format!("{}", before["metadata"]["resourceVersion"] == again["metadata"]["resourceVersion"]));
    api.patch(&one, &json!({"metadata": {"finalizers": ["example.org/held", "example.org/more"]}})).await;
    api.patch(&one, &json!({"data": {"value": "2"}})).await;
    api.patch(&one, &json!({"metadata": {"finalizers": null}})).await;
    api.get(&one).await;
}

pub async fn a_deletion_mark_cannot_be_taken_away(api: &Api) {
    made(api, "a", json!({"finalizers": ["example.org/held"]})).await;
    let one = one(api, "a");
    let mut held = api.ask("DELETE", &one, &Value::Null).await.body;
    held["metadata"].as_object_mut().expect("it is one").remove("deletionTimestamp");
    api.put(&one, &held).await;
    api.ask("PATCH", &one, &json!({"metadata": {"finalizers": null}})).await;
}

pub async fn what_is_owned_goes_in_the_background(api: &Api) {
    let owner = made(api, "owner", json!({})).await;
    let child = made(api, "child", owned_by(&owner, true)).await;
    made(api, "grandchild", owned_by(&child, true)).await;
    made(api, "free", json!({})).await;
    api.delete(&one(api, "owner"), &json!({"propagationPolicy": "Background"})).await;
    api.until_gone(&one(api, "child")).await;
    api.until_gone(&one(api, "grandchild")).await;
    api.get(&one(api, "free")).await;
}

pub async fn background_is_the_default(api: &Api) {
    let owner = made(api, "owner", json!({})).await;
    made(api, "child", owned_by(&owner, true)).await;
    api.delete(&one(api, "owner"), &Value::Null).await;
    api.until_gone(&one(api, "child")).await;
}

pub async fn an_owner_waits_in_the_foreground(api: &Api) {
    let owner = made(api, "owner", json!({})).await;
    let mut metadata = owned_by(&owner, true);
    metadata["finalizers"] = json!(["example.org/held"]);
    made(api, "child", metadata).await;
    api.delete(&one(api, "owner"), &json!({"propagationPolicy": "Foreground"})).await;
    api.until(&one(api, "child"), |child| !child.text("/metadata/deletionTimestamp").is_empty()).await;
    api.get(&one(api, "owner")).await;
    api.get(&one(api, "child")).await;
    api.ask("PATCH", &one(api, "child"), &json!({"metadata": {"finalizers": null}})).await;
    api.until_gone(&one(api, "owner")).await;
    api.until_gone(&one(api, "child")).await;
}

pub async fn what_is_owned_is_orphaned(api: &Api) {
    let owner = made(api, "owner", json!({})).await;
    made(api, "child", owned_by(&owner, true)).await;
    api.delete(&one(api, "owner"), &json!({"propagationPolicy": "Orphan"})).await;
    api.until_gone(&one(api, "owner")).await;
    api.get(&one(api, "child")).await;
}

pub async fn an_owner_that_never_was_takes_what_it_owns(api: &Api) {
    let nobody = json!({"metadata": {"name": "nobody", "uid": NOBODY}});
    made(api, "child", owned_by(&nobody, false)).await;
    api.until_gone(&one(api, "child")).await;
}

pub async fn one_owner_is_enough_and_references_to_the_others_go(api: &Api) {
    let (first, second) = (made(api, "first", json!({})).await, made(api, "second", json!({})).await);
    let mut metadata = owned_by(&first, false);
    let more = owned_by(&second, false)["ownerReferences"][0].clone();
    metadata["ownerReferences"].as_array_mut().expect("it is one").push(more);
    made(api, "child", metadata).await;
    api.ask("DELETE", &one(api, "first"), &Value::Null).await;
    let left = |child: &super::api::Answer| child.body["metadata"]["ownerReferences"].as_array().is_some_and(|all| all.len() == 1);
    let child = api.until(&one(api, "child"), left).await;
    api.note_value("child", &child.body);
}

pub async fn an_owner_of_an_unknown_kind_is_left_alone(api: &Api) {
    let owners = json!([{"apiVersion": "nowhere.example.org/v1", "kind": "Thing", "name": "x", "uid": NOBODY}]);
    made(api, "child", json!({"ownerReferences": owners})).await;
    // Long enough for the collector to have looked.
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    api.get(&one(api, "child")).await;
}

pub async fn kinds_that_answer_with_the_object(api: &Api) {
    for (path, object) in [
        (api.core("serviceaccounts"), json!({"metadata": {"name": "a"}})),
        (api.core("secrets"), json!({"metadata": {"name": "a"}})),
        (api.apis("rbac.authorization.k8s.io", "roles"), json!({"metadata": {"name": "a"}, "rules": []})),
    ] {
        api.ask("POST", &path, &object).await;
        api.delete(&format!("{path}/a"), &Value::Null).await;
    }
}

pub async fn an_unknown_propagation_is_refused(api: &Api) {
    made(api, "a", json!({})).await;
    let refused = api.ask("DELETE", &one(api, "a"), &json!({"propagationPolicy": "Sideways"})).await;
    api.note(&format!("{} {}", refused.code >= 400, api.get(&one(api, "a")).await.code));
}
