//! Namespaces: what they have, and how they go; and the accounts in them.

use serde_json::{Value, json};

use super::api::Api;
use super::objects::map;

pub async fn a_namespace_has_a_name_a_phase_and_a_finalizer(api: &Api) {
    api.get(&format!("/api/v1/namespaces/{}", api.ns)).await;
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        let found = api.ask("GET", &format!("/api/v1/namespaces/{name}"), &Value::Null).await;
        api.note(&format!("{name} {} {}", found.code, found.text("/status/phase")));
    }
}

pub async fn a_namespace_gets_an_account_and_an_authority(api: &Api) {
    let account = api.until_there(&format!("{}/default", api.core("serviceaccounts"))).await;
    api.note_value("account", &account.body);
    let authority = api.until_there(&format!("{}/kube-root-ca.crt", api.core("configmaps"))).await;
    api.note(&format!("{}", authority.text("/data/ca.crt").starts_with("-----BEGIN CERTIFICATE-----")));
}

pub async fn the_default_account_comes_back(api: &Api) {
    let path = format!("{}/default", api.core("serviceaccounts"));
    let first = api.until_there(&path).await;
    api.ask("DELETE", &path, &Value::Null).await;
    let uid = first.text("/metadata/uid").to_owned();
    api.until(&path, |answer| answer.code == 200 && answer.text("/metadata/uid") != uid).await;
}

pub async fn a_namespace_goes_with_what_it_holds(api: &Api) {
    let one = format!("/api/v1/namespaces/{}", api.ns);
    api.ask("POST", &api.core("configmaps"), &map("a", "1")).await;
    api.ask("POST", &api.core("secrets"), &json!({"metadata": {"name": "b"}})).await;
    let answer = api.ask("DELETE", &one, &Value::Null).await;
    api.note(&format!("{} {} {}", answer.code, answer.text("/kind"), answer.text("/status/phase")));
    api.until_gone(&one).await;
    api.get(&format!("{}/a", api.core("configmaps"))).await;
    api.post(&api.core("configmaps"), &map("a", "1")).await;
}

pub async fn a_namespace_that_is_missing_takes_nothing(api: &Api) {
    api.post("/api/v1/namespaces/contract-nowhere/configmaps", &map("a", "1")).await;
    api.get("/api/v1/namespaces/contract-nowhere/configmaps").await;
    let lease = json!({"metadata": {"name": "a"}});
    api.put("/apis/coordination.k8s.io/v1/namespaces/contract-nowhere/leases/a", &lease).await;
}

pub async fn a_namespace_on_its_way_out_takes_nothing_new(api: &Api) {
    let one = format!("/api/v1/namespaces/{}", api.ns);
    let mut held = map("held", "1");
    held["metadata"]["finalizers"] = json!(["example.org/held"]);
    api.ask("POST", &api.core("configmaps"), &held).await;
    api.ask("DELETE", &one, &Value::Null).await;
    api.post(&api.core("configmaps"), &map("a", "1")).await;
    api.post(&api.apis("apps", "deployments"), &json!({"metadata": {"name": "x"}, "spec": {
        "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})).await;
    let held = format!("{}/held", api.core("configmaps"));
    api.until(&held, |held| !held.text("/metadata/deletionTimestamp").is_empty()).await;
    api.patch(&held, &json!({"data": {"value": "2"}})).await;
    let told = api.until(&one, |namespace| {
        let conditions = namespace.body["status"]["conditions"].as_array();
        conditions.into_iter().flatten().any(|c| c["type"] == "NamespaceFinalizersRemaining" && c["status"] == "True")
    });
    api.note(told.await.text("/status/phase"));
    api.ask("PATCH", &held, &json!({"metadata": {"finalizers": null}})).await;
    api.until_gone(&one).await;
}

pub async fn a_namespace_can_be_held_by_a_finalizer_of_its_own(api: &Api) {
    let one = format!("/api/v1/namespaces/{}", api.ns);
    api.ask("PATCH", &one, &json!({"metadata": {"finalizers": ["example.org/held"]}})).await;
    api.ask("DELETE", &one, &Value::Null).await;
    let emptied = |namespace: &super::api::Answer| namespace.body["spec"].get("finalizers").is_none_or(|f| f == &json!([]));
    let waiting = api.until(&one, emptied).await;
    api.note_value("spec", &waiting.body["spec"]);
    api.note_value("finalizers", &waiting.body["metadata"]["finalizers"]);
    api.post(&api.core("configmaps"), &map("a", "1")).await;
    api.ask("PATCH", &one, &json!({"metadata": {"finalizers": null}})).await;
    api.until_gone(&one).await;
}

pub async fn some_namespaces_cannot_be_deleted(api: &Api) {
    for name in ["default", "kube-system", "kube-public"] {
        api.delete(&format!("/api/v1/namespaces/{name}"), &Value::Null).await;
    }
}

pub async fn a_namespace_keeps_its_status_and_finalizers_from_a_put(api: &Api) {
    let one = format!("/api/v1/namespaces/{}", api.ns);
    let patch = json!({"spec": {"finalizers": []}, "status": {"phase": "Terminating"}, "metadata": {"labels": {"x": "1"}}});
    api.patch(&one, &patch).await;
    api.patch(&one, &json!({"metadata": {"labels": {"kubernetes.io/metadata.name": null}}})).await;
}

pub async fn a_token_of_an_account_is_filled_and_goes_with_it(api: &Api) {
    api.ask("POST", &api.core("serviceaccounts"), &json!({"metadata": {"name": "robot"}})).await;
    let secret = json!({"metadata": {"name": "token", "annotations": {"kubernetes.io/service-account.name": "robot"}},
        "type": "kubernetes.io/service-account-token"});
    api.post(&api.core("secrets"), &secret).await;
    let path = format!("{}/token", api.core("secrets"));
    let filled = api.until(&path, |secret| !secret.text("/data/token").is_empty()).await;
    let fields: Vec<_> = filled.body["data"].as_object().expect("data").keys().cloned().collect();
    api.note(&format!("{fields:?} {}", filled.text("/data/namespace").len()));
    let robot = api.ask("GET", &format!("{}/robot", api.core("serviceaccounts")), &Value::Null).await;
    let stated = &filled.body["metadata"]["annotations"]["kubernetes.io/service-account.uid"];
    api.note(&format!("{}", stated == robot.text("/metadata/uid")));
    api.ask("DELETE", &format!("{}/robot", api.core("serviceaccounts")), &Value::Null).await;
    api.until_gone(&path).await;
}

pub async fn a_token_without_an_account_goes(api: &Api) {
    let secret = json!({"metadata": {"name": "token", "annotations": {"kubernetes.io/service-account.name": "nobody"}},
        "type": "kubernetes.io/service-account-token"});
    api.ask("POST", &api.core("secrets"), &secret).await;
    api.until_gone(&format!("{}/token", api.core("secrets"))).await;
}
