//! Objects: made, read, replaced and patched.

use serde_json::{Value, json};

use super::api::Api;

const RBAC: &str = "rbac.authorization.k8s.io";

/// A ConfigMap with one value.
pub fn map(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"value": value}})
}

pub async fn an_object_is_made_read_replaced_and_deleted(api: &Api) {
    let path = api.core("configmaps");
    let one = format!("{path}/a");
    let mut object = api.post(&path, &map("a", "1")).await.body;
    api.get(&one).await;
    object["data"]["value"] = "2".into();
    api.put(&one, &object).await;
    api.delete(&one, &Value::Null).await;
    api.get(&one).await;
}

pub async fn an_object_that_is_there_is_not_made_again(api: &Api) {
    let path = api.core("configmaps");
    api.ask("POST", &path, &map("a", "1")).await;
    api.post(&path, &map("a", "2")).await;
    let roles = api.apis(RBAC, "roles");
    let role = json!({"metadata": {"name": "a:b"}, "rules": []});
    api.post(&roles, &role).await;
    api.post(&roles, &role).await;
}

pub async fn an_object_that_is_not_there_is_not_found(api: &Api) {
    let one = format!("{}/a", api.core("configmaps"));
    api.get(&one).await;
    api.put(&one, &map("a", "1")).await;
    api.patch(&one, &json!({"data": {"value": "1"}})).await;
    api.delete(&one, &Value::Null).await;
    let one = format!("{}/a", api.apis("apps", "deployments"));
    api.get(&one).await;
    api.delete(&one, &Value::Null).await;
}

pub async fn a_stale_version_is_a_conflict(api: &Api) {
    let path = api.core("configmaps");
    let one = format!("{path}/a");
    let object = api.ask("POST", &path, &map("a", "1")).await.body;
    api.ask("PATCH", &one, &json!({"data": {"value": "2"}})).await;
    api.put(&one, &object).await;
    let version = &object["metadata"]["resourceVersion"];
    api.patch(&one, &json!({"metadata": {"resourceVersion": version}, "data": {"value": "3"}})).await;
    api.get(&one).await;
}

pub async fn a_group_is_named_in_a_conflict(api: &Api) {
    let path = api.apis("coordination.k8s.io", "leases");
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "a"},
        "spec": {"holderIdentity": "me"}});
    let made = api.post(&path, &lease).await.body;
    let one = format!("{path}/a");
    api.ask("PATCH", &one, &json!({"spec": {"holderIdentity": "you"}})).await;
    api.put(&one, &made).await;
}

pub async fn without_a_version_a_put_overwrites(api: &Api) {
    let path = api.core("configmaps");
    api.ask("POST", &path, &map("a", "1")).await;
    api.put(&format!("{path}/a"), &map("a", "2")).await;
}

pub async fn a_kind_that_needs_a_version_says_so(api: &Api) {
    let path = api.apis("coordination.k8s.io", "leases");
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "a"}});
    api.ask("POST", &path, &lease).await;
    api.put(&format!("{path}/a"), &lease).await;
}

pub async fn some_kinds_are_made_by_put(api: &Api) {
    let path = api.apis("coordination.k8s.io", "leases");
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "a"},
        "spec": {"holderIdentity": "me"}});
    api.put(&format!("{path}/a"), &lease).await;
    let role = json!({"metadata": {"name": "a"}, "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]});
    api.put(&format!("{}/a", api.apis(RBAC, "roles")), &role).await;
}

pub async fn a_lease_that_went_is_not_replaced_by_its_old_version(api: &Api) {
    let path = api.apis("coordination.k8s.io", "leases");
    let one = format!("{path}/a");
    let lease = json!({"metadata": {"name": "a"}, "spec": {"holderIdentity": "me"}});
    let made = api.ask("POST", &path, &lease).await.body;
    api.ask("DELETE", &one, &Value::Null).await;
    api.put(&one, &made).await;
}

pub async fn a_write_that_changes_nothing_keeps_the_version(api: &Api) {
    let path = api.core("configmaps");
    let one = format!("{path}/a");
    let made = api.ask("POST", &path, &map("a", "1")).await.body;
    let put = api.ask("PUT", &one, &made).await.body;
    let patched = api.ask("PATCH", &one, &json!({"data": {"value": "1"}})).await.body;
    let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
    api.note(&format!("{} {}", version(&put) == version(&made), version(&patched) == version(&made)));
}

pub async fn another_uid_is_a_conflict(api: &Api) {
    let path = api.core("configmaps");
    let mut made = api.ask("POST", &path, &map("a", "1")).await.body;
    made["metadata"]["uid"] = "6f1d0a4e-0000-4000-8000-000000000000".into();
    api.put(&format!("{path}/a"), &made).await;
}

pub async fn what_the_server_sets_cannot_be_set(api: &Api) {
    let path = api.core("configmaps");
    let mut object = map("a", "1");
    object["metadata"]["uid"] = "6f1d0a4e-0000-4000-8000-000000000000".into();
    object["metadata"]["creationTimestamp"] = "2001-01-01T00:00:00Z".into();
    object["metadata"]["deletionTimestamp"] = "2001-01-01T00:00:00Z".into();
    object["metadata"]["generation"] = 7.into();
    let made = api.post(&path, &object).await.body;
    api.note(&format!("{}", made["metadata"]["uid"] != object["metadata"]["uid"]));
    api.note(&format!("{}", made["metadata"]["creationTimestamp"] != object["metadata"]["creationTimestamp"]));
    api.patch(&format!("{path}/a"), &json!({"metadata": {"creationTimestamp": "2001-01-01T00:00:00Z", "generation": 9}})).await;
}

pub async fn metadata_that_say_nothing_are_dropped(api: &Api) {
    let mut object = map("a", "1");
    for (field, nothing) in
        [("labels", json!({})), ("annotations", json!({})), ("ownerReferences", json!([])), ("finalizers", Value::Null)]
    {
        object["metadata"][field] = nothing;
    }
    api.post(&api.core("configmaps"), &object).await;
}

pub async fn a_version_on_a_new_object_is_refused(api: &Api) {
    let mut object = map("a", "1");
    object["metadata"]["resourceVersion"] = "12".into();
    api.post(&api.core("configmaps"), &object).await;
}

pub async fn names_and_namespaces_must_be_those_of_the_path(api: &Api) {
    let path = api.core("configmaps");
    api.ask("POST", &path, &map("a", "1")).await;
    api.put(&format!("{path}/a"), &map("b", "1")).await;
    let mut elsewhere = map("b", "1");
    elsewhere["metadata"]["namespace"] = "default".into();
    api.post(&path, &elsewhere).await;
    elsewhere["metadata"]["name"] = "a".into();
    api.put(&format!("{path}/a"), &elsewhere).await;
    api.patch(&format!("{path}/a"), &json!({"metadata": {"name": "b"}})).await;
    let nameless = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"value": "2"}});
    api.put(&format!("{path}/a"), &nameless).await;
}

pub async fn kinds_and_versions_must_be_those_of_the_path(api: &Api) {
    let path = api.core("configmaps");
    // The messages tell of Go types.
    for (version, kind) in [("v1", "Secret"), ("apps/v1", "ConfigMap"), ("v1", "Nothing")] {
        let object = json!({"apiVersion": version, "kind": kind, "metadata": {"name": "a"}});
        let refused = api.ask("POST", &path, &object).await;
        api.note(&format!("{version} {kind}: {} {}", refused.code, refused.text("/reason")));
    }
    api.post(&path, &json!({"metadata": {"name": "typeless"}})).await;
}

pub async fn bad_names_are_refused(api: &Api) {
    for name in ["Upper", "under_score", "-dash", ""] {
        api.post(&api.core("configmaps"), &map(name, "1")).await;
    }
    api.post("/api/v1/namespaces", &json!({"metadata": {"name": "dotted.name"}})).await;
    let service = json!({"metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}]}});
    let made = api.ask("POST", &api.core("services"), &service).await;
    api.note(&format!("{} {}", made.code, made.body["spec"]["type"]));
    let long = "a".repeat(254);
    let refused = api.ask("POST", &api.core("configmaps"), &map(&long, "1")).await;
    api.note(&format!("{} {}", refused.code, refused.text("/details/causes/0/message").replace(&long, "<long>")));
}

pub async fn names_are_generated(api: &Api) {
    let path = api.core("configmaps");
    let object = json!({"metadata": {"generateName": "some-"}, "data": {"value": "1"}});
    let made = api.ask("POST", &path, &object).await;
    let name = made.text("/metadata/name");
    api.note(&format!("{} {} {}", made.code, name.starts_with("some-"), name.len()));
}

pub async fn a_patch_merges(api: &Api) {
    let path = api.core("configmaps");
    let one = format!("{path}/a");
    api.ask("POST", &path, &map("a", "1")).await;
    api.patch(&one, &json!({"metadata": {"labels": {"x": "1"}, "annotations": {"y": "2"}}, "data": {"more": "3"}})).await;
    api.patch(&one, &json!({"metadata": {"labels": null}, "data": {"value": null}})).await;
}

pub async fn other_patches_and_bodies_are_refused_or_not_spoken_of(api: &Api) {
    let path = api.core("configmaps");
    api.ask("POST", &path, &map("a", "1")).await;
    let none = api.ask_raw("POST", &path, &[("content-type", "text/plain")], b"x".to_vec()).await;
    api.note(&format!("{} {}", none.code, none.text("/reason")));
    let broken = api.ask_raw("POST", &path, &[("content-type", "application/json")], b"{".to_vec()).await;
    api.note(&format!("{} {}", broken.code, broken.text("/reason")));
    let odd = api.ask_raw("GET", &path, &[("accept", "text/csv")], Vec::new()).await;
    api.note(&format!("{} {}", odd.code, odd.text("/reason")));
}

pub async fn secrets_take_texts_and_keep_their_type(api: &Api) {
    let path = api.core("secrets");
    let secret = json!({"metadata": {"name": "a"}, "stringData": {"password": "hunter2"}, "data": {"b": "YmI="}});
    api.post(&path, &secret).await;
    api.patch(&format!("{path}/a"), &json!({"type": "other/type"})).await;
}

pub async fn what_is_immutable_stays(api: &Api) {
    let path = api.core("configmaps");
    let mut object = map("a", "1");
    object["immutable"] = true.into();
    api.post(&path, &object).await;
    api.patch(&format!("{path}/a"), &json!({"data": {"value": "2"}})).await;
    api.patch(&format!("{path}/a"), &json!({"immutable": false})).await;
    api.patch(&format!("{path}/a"), &json!({"metadata": {"labels": {"x": "1"}}})).await;
}

pub async fn a_binding_keeps_its_role(api: &Api) {
    let path = api.apis(RBAC, "rolebindings");
    let binding = json!({"metadata": {"name": "a:b"}, "roleRef": {"kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "s", "namespace": "default"}]});
    api.post(&path, &binding).await;
    let refused = api.ask("PATCH", &format!("{path}/a:b"), &json!({"roleRef": {"name": "edit"}})).await;
    api.note(&format!("{} {} {}", refused.code, refused.text("/reason"), refused.text("/details/causes/0/field")));
}

pub async fn owners_must_be_named_whole(api: &Api) {
    let mut object = map("a", "1");
    object["metadata"]["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "", "uid": ""}]);
    api.post(&api.core("configmaps"), &object).await;
}

pub async fn an_object_can_be_too_large(api: &Api) {
    for megabytes in [2, 4] {
        let answer = api.ask("POST", &api.core("configmaps"), &map("a", &"x".repeat(megabytes << 20))).await;
        let shown: String = answer.text("/message").chars().take(60).collect();
        api.note(&format!("{} {} {shown}", answer.code, answer.text("/reason")));
    }
}

pub async fn events_are_made_and_shown_by_both_groups(api: &Api) {
    let events = api.apis("events.k8s.io", "events");
    let event = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "a.1"},
        "eventTime": "2026-11-23T09:00:00.000001Z", "reportingController": "reinback", "reportingInstance": "host",
        "regarding": {"apiVersion": "v1", "kind": "ConfigMap", "namespace": api.ns, "name": "a"},
        "reason": "Tested", "action": "Test", "note": "a note", "type": "Normal"});
    api.post(&events, &event).await;
    api.get(&format!("{events}/a.1")).await;
    api.get(&format!("{}/a.1", api.core("events"))).await;
    api.post(&events, &event).await;
}
