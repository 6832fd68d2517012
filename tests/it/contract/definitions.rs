//! Definitions of custom resources, and the resources that they define.

use serde_json::{Value, json};

use super::api::{Answer, Api};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// What is particular to the case: no two define the same.
fn group(api: &Api) -> String {
    format!("{}.example.org", api.ns)
}

fn path(api: &Api, version: &str) -> String {
    format!("/apis/{}/{version}/namespaces/{}/things", group(api), api.ns)
}

fn version(name: &str, storage: bool, schema: &Value, status: bool) -> Value {
    let mut version = json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": schema}});
    if status {
        version["subresources"] = json!({"status": {}});
    }
    version
}

fn open() -> Value {
    json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

fn definition(api: &Api, versions: &Value) -> Value {
    let group = group(api);
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("things.{group}")},
        "spec": {"group": group, "scope": "Namespaced", "names": {"plural": "things", "kind": "Thing"}, "versions": versions}})
}

/// Makes the definition and waits until its objects can be listed and made.
async fn serve(api: &Api, versions: &Value) -> String {
    let made = api.ask("POST", DEFINITIONS, &definition(api, versions)).await;
    assert_eq!(made.code, 201, "{made:?}");
    for version in versions.as_array().expect("versions") {
        api.until_there(&path(api, version["name"].as_str().expect("a name"))).await;
    }
    format!("{DEFINITIONS}/things.{}", group(api))
}

fn thing(api: &Api, version: &str, name: &str) -> Value {
    json!({"apiVersion": format!("{}/{version}", group(api)), "kind": "Thing", "metadata": {"name": name}, "spec": {"a": 1}})
}

pub async fn a_definition_is_established_and_then_served(api: &Api) {
    let made = api.post(DEFINITIONS, &definition(api, &json!([version("v1", true, &open(), true)]))).await;
    let one = format!("{DEFINITIONS}/{}", made.text("/metadata/name"));
    let established = |answer: &Answer| reinback::cluster::crd_is_established(&answer.body);
    let established = api.until(&one, established).await;
    api.note_value("established", &established.body);
    api.until_there(&path(api, "v1")).await;
    api.get(&path(api, "v1")).await;
    api.post(DEFINITIONS, &definition(api, &json!([version("v1", true, &open(), true)]))).await;
}

pub async fn a_definition_must_be_named_as_it_defines(api: &Api) {
    let mut wrong = definition(api, &json!([version("v1", true, &open(), true)]));
    wrong["metadata"]["name"] = "other.example.org".into();
    api.post(DEFINITIONS, &wrong).await;
}

pub async fn custom_resources_say_what_they_are(api: &Api) {
    serve(api, &json!([version("v1", true, &open(), false)])).await;
    api.post(&path(api, "v1"), &thing(api, "v1", "a")).await;
    api.get(&path(api, "v1")).await;
    api.get(&format!("{}/a", path(api, "v1"))).await;
    api.delete(&format!("{}/a", path(api, "v1")), &Value::Null).await;
}

pub async fn a_custom_resource_needs_its_kind_and_a_version_for_updates(api: &Api) {
    serve(api, &json!([version("v1", true, &open(), false)])).await;
    let refused = api.ask("POST", &path(api, "v1"), &json!({"metadata": {"name": "a"}})).await;
    api.note(&format!("{} {}", refused.code, refused.text("/reason")));
    api.ask("POST", &path(api, "v1"), &thing(api, "v1", "a")).await;
    api.put(&format!("{}/a", path(api, "v1")), &thing(api, "v1", "a")).await;
    api.put(&format!("{}/b", path(api, "v1")), &thing(api, "v1", "b")).await;
    api.get(&format!("{}/c", path(api, "v1"))).await;
}

pub async fn a_status_is_written_by_its_subresource_alone(api: &Api) {
    serve(api, &json!([version("v1", true, &open(), true)])).await;
    let one = format!("{}/a", path(api, "v1"));
    let mut object = thing(api, "v1", "a");
    object["status"] = json!({"phase": "Set"});
    api.post(&path(api, "v1"), &object).await;
    api.patch(&one, &json!({"status": {"phase": "Set"}, "spec": {"a": 2}})).await;
    let mut live = api.patch(&format!("{one}/status"), &json!({"status": {"phase": "Done"}, "spec": {"a": 3}, "metadata": {"labels": {"x": "1"}}})).await.body;
    live["status"]["phase"] = "Again".into();
    live["spec"]["a"] = 4.into();
    api.put(&format!("{one}/status"), &live).await;
    api.put(&format!("{one}/status"), &live).await;
    api.get(&format!("{one}/status")).await;
    api.patch(&one, &json!({"metadata": {"labels": {"y": "2"}}})).await;
}

pub async fn without_the_subresource_a_status_is_a_field(api: &Api) {
    serve(api, &json!([version("v1", true, &open(), false)])).await;
    let mut object = thing(api, "v1", "a");
    object["status"] = json!({"phase": "Set"});
    api.post(&path(api, "v1"), &object).await;
    let one = format!("{}/a", path(api, "v1"));
    api.patch(&one, &json!({"status": {"phase": "Done"}})).await;
    let none = api.ask("PATCH", &format!("{one}/status"), &json!({"status": {"phase": "Done"}})).await;
    api.note(&format!("{}", none.code));
}

pub async fn a_generation_counts_what_is_not_metadata(api: &Api) {
    serve(api, &json!([version("v1", true, &open(), true)])).await;
    let one = format!("{}/a", path(api, "v1"));
    api.ask("POST", &path(api, "v1"), &thing(api, "v1", "a")).await;
    for patch in [
        json!({"spec": {"a": 2}}),
        json!({"metadata": {"annotations": {"x": "1"}}}),
        json!({"other": 1}),
        json!({"spec": {"a": 2}}),
        json!({"metadata": {"finalizers": ["example.org/held"]}}),
    ] {
        let answer = api.ask("PATCH", &one, &patch).await;
        api.note(&format!("{patch}: {}", answer.body["metadata"]["generation"]));
    }
    let held = api.ask("DELETE", &one, &Value::Null).await;
    api.note(&format!("{}", held.body["metadata"]["generation"]));
    api.ask("PATCH", &one, &json!({"metadata": {"finalizers": null}})).await;
}

pub async fn unknown_fields_are_pruned_and_defaults_set(api: &Api) {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "a": {"type": "integer"}, "b": {"type": "string", "default": "x"},
        "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "map": {"type": "object", "additionalProperties": {"type": "string"}},
        "list": {"type": "array", "items": {"type": "object", "properties": {"c": {"type": "string"}}}}}}}});
    serve(api, &json!([version("v1", true, &schema, false)])).await;
    let mut object = thing(api, "v1", "a");
    object["spec"] = json!({"a": 1, "unknown": 1, "open": {"x": {"y": 1}}, "map": {"k": "v"}, "list": [{"c": "1", "d": 2}]});
    object["other"] = json!({"x": 1});
    api.post(&path(api, "v1"), &object).await;
    api.patch(&format!("{}/a", path(api, "v1")), &json!({"spec": {"more": 1, "b": null}})).await;
}

pub async fn versions_are_of_one_object(api: &Api) {
    let versions = json!([version("v1beta1", false, &open(), true), version("v1", true, &open(), true)]);
    serve(api, &versions).await;
    api.post(&path(api, "v1beta1"), &thing(api, "v1beta1", "a")).await;
    api.get(&format!("{}/a", path(api, "v1"))).await;
    api.get(&path(api, "v1beta1")).await;
    let both = |group: &Answer| group.body["versions"].as_array().is_some_and(|versions| versions.len() == 2);
    let group = api.until(&format!("/apis/{}", group(api)), both).await;
    api.note_value("group", &group.body);
}

pub async fn a_version_more_is_served_and_noted_as_stored(api: &Api) {
    let one = serve(api, &json!([version("v1", true, &open(), true)])).await;
    api.ask("POST", &path(api, "v1"), &thing(api, "v1", "a")).await;
    let more = json!([version("v1", false, &open(), true), version("v2", true, &open(), true)]);
    let patched = api.ask("PATCH", &one, &json!({"spec": {"versions": more}})).await;
    api.note_value("stored", &patched.body["status"]["storedVersions"]);
    api.note(&format!("{}", patched.body["metadata"]["generation"]));
    api.until_there(&format!("{}/a", path(api, "v2"))).await;
    api.get(&format!("{}/a", path(api, "v2"))).await;
    let less = api.ask("PATCH", &one, &json!({"spec": {"versions": [version("v2", true, &open(), true)]}})).await;
    api.note(&format!("{} {} {}", less.code, less.text("/reason"), less.text("/details/causes/0/field")));
}

pub async fn a_definition_goes_with_its_objects(api: &Api) {
    let one = serve(api, &json!([version("v1", true, &open(), true)])).await;
    let mut held = thing(api, "v1", "held");
    held["metadata"]["finalizers"] = json!(["example.org/held"]);
    api.ask("POST", &path(api, "v1"), &held).await;
    api.ask("POST", &path(api, "v1"), &thing(api, "v1", "free")).await;
    let answer = api.ask("DELETE", &one, &Value::Null).await;
    api.note(&format!("{} {}", answer.code, answer.text("/kind")));
    let held = format!("{}/held", path(api, "v1"));
    api.until(&held, |held| !held.text("/metadata/deletionTimestamp").is_empty()).await;
    api.until_gone(&format!("{}/free", path(api, "v1"))).await;
    let waiting = api.until(&one, |waiting| waiting.body["status"]["conditions"].as_array().is_some_and(|all| all.iter().any(|c| c["type"] == "Terminating" && c["status"] == "True")));
    api.note_value("finalizers", &waiting.await.body["metadata"]["finalizers"]);
    api.ask("PATCH", &held, &json!({"metadata": {"finalizers": null}})).await;
    api.until_gone(&one).await;
    api.until(&path(api, "v1"), |answer| answer.code == 404).await;
}

pub async fn what_nobody_serves_is_not_found(api: &Api) {
    api.get("/apis/nowhere.example.org/v1/things").await;
    api.get("/apis/apps/v1/things").await;
    api.get("/apis/apps/v7/deployments").await;
    api.get("/api/v1/things").await;
    api.get("/nothing").await;
    api.get("/apis/nowhere.example.org").await;
}

pub async fn a_cluster_scoped_custom_resource_has_no_namespace(api: &Api) {
    let mut definition = definition(api, &json!([version("v1", true, &open(), true)]));
    definition["spec"]["scope"] = "Cluster".into();
    api.ask("POST", DEFINITIONS, &definition).await;
    let path = format!("/apis/{}/v1/things", group(api));
    api.until_there(&path).await;
    api.post(&path, &thing(api, "v1", "a")).await;
    api.delete(&format!("{path}/a"), &Value::Null).await;
    api.delete(&format!("{path}/a"), &Value::Null).await;
}
